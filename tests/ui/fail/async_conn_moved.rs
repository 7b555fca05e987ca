use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

use diesel_async::RunQueryDsl;

async fn close(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async {
        let other = conn;
        diesel::sql_query("SELECT 1").execute(other).await?;
        send(1);
        diesel::sql_query("SELECT 1").execute(conn).await?;
        Ok(())
    })
    .await
}

fn main() {}
