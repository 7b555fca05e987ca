#![deny(unused_must_use)]

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnectionCore, RunQueryDsl};
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    diesel::sql_query("SELECT 1").execute(conn);
    atomic!(conn, async {
        diesel::sql_query("SELECT 1").execute(conn);
        AsyncConnectionCore::load(conn, diesel::sql_query("SELECT 1"));
        AsyncConnectionCore::load(conn, diesel::sql_query("SELECT 1")).await?;
        Ok(())
    })
    .await
}

fn main() {}
