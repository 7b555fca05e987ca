use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn take(conn: &mut Conn, names: Vec<i32>) -> QueryResult<usize> {
    atomic!(conn, retries = 3, async {
        let owned = names;
        Ok(owned.len())
    })
    .await
}

fn main() {}
