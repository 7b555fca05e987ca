use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::atomic;

async fn nothing(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
