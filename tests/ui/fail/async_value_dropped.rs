#![deny(unused_must_use)]

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

use diesel_async::RunQueryDsl;

async fn later() {}

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async {
        diesel::sql_query("SELECT 1").execute(conn).await;
        later();
        if conn.in_transaction() {
            Box::pin(later());
        }
        Ok(())
    })
    .await
}

fn main() {}
