use diesel::prelude::*;
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn sign_up(pool: &mut Pool<Conn>) -> QueryResult<()> {
    atomic!(conn = pool, async { Ok(()) }).await
}

fn main() {}
