use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

use diesel_async::RunQueryDsl;

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async {
        diesel::sql_query("SELECT 1").execute(conn).await?;
        send(1);
        Ok(())
    })
    .await?;
    Ok(())
}

fn main() {}
