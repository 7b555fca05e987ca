use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
