use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

use std::rc::Rc;

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async {
        conn.after_commit(async |_conn| {
            let shared = Rc::new(1);
            tokio::task::yield_now().await;
            drop(shared);
        })?;
        Ok(())
    })
    .await
}

fn main() {}
