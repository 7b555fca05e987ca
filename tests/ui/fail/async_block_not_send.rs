use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

use std::rc::Rc;

fn sign_up(mut conn: Conn) {
    tokio::spawn(async move {
        atomic!(conn, -> QueryResult<()>, async {
            let shared = Rc::new(1);
            tokio::task::yield_now().await;
            println!("{shared}");
            Ok(())
        })
        .await
    });
}

fn main() {}
