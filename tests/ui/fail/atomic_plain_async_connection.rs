use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::atomic;

fn nothing(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
