use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

fn committed() {}

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async {
        conn.after_commit(|_conn| committed())?;
        Ok(())
    })
    .await
}

fn main() {}
