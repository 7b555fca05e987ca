use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

async fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        diesel_async::RunQueryDsl::execute(diesel::sql_query("SELECT 1"), conn).await?;
        Ok(())
    })
}

fn main() {}
