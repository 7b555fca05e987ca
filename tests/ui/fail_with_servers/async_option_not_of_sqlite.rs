use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn isolation(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, isolation = Serializable, async { Ok(()) }).await
}

async fn read_only(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, read_only, async { Ok(()) }).await
}

async fn deferrable(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, deferrable, async { Ok(()) }).await
}

fn main() {}
