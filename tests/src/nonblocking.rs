//! The asynchronous side of a database under test: the same scratch database, by diesel-async.

use std::future::Future;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferrable, AsyncDeferredConnection, WorkerConnection};

use crate::{Database, Scratch, witness};

/// SQLite by diesel-async.
pub type AsyncSqliteConnection = SyncConnectionWrapper<SqliteConnection>;

/// A kind of asynchronous connection under test.
pub trait AsyncDatabase: AsyncDeferrable + PoolableConnection + WorkerConnection + Sized + 'static {
    /// The synchronous connection to the same database: tests look through it.
    type Blocking: Database;

    /// Writes a witness. A second one of the same number fails.
    fn insert(conn: &mut AsyncDeferredConnection<Self>, id: i32) -> impl Future<Output = QueryResult<()>> + Send;

    /// Runs raw SQL as a prepared statement.
    fn execute_raw(conn: &mut AsyncDeferredConnection<Self>, sql: &str)
    -> impl Future<Output = QueryResult<()>> + Send;
}

macro_rules! async_database {
    ($conn:ty, $blocking:ty) => {
        impl AsyncDatabase for $conn {
            type Blocking = $blocking;

            async fn insert(conn: &mut AsyncDeferredConnection<Self>, id: i32) -> QueryResult<()> {
                diesel::insert_into(witness::table).values(witness::id.eq(id)).execute(conn).await.map(drop)
            }

            async fn execute_raw(conn: &mut AsyncDeferredConnection<Self>, sql: &str) -> QueryResult<()> {
                diesel::sql_query(sql).execute(conn).await.map(drop)
            }
        }
    };
}

async_database!(AsyncSqliteConnection, SqliteConnection);
#[cfg(feature = "postgres")]
async_database!(diesel_async::AsyncPgConnection, PgConnection);
#[cfg(feature = "mysql")]
async_database!(diesel_async::AsyncMysqlConnection, MysqlConnection);

impl<C: Database> Scratch<C> {
    /// An asynchronous deferring connection to it.
    pub async fn connect_async<A: AsyncDatabase<Blocking = C>>(&self) -> AsyncDeferredConnection<A> {
        let inner = A::establish(self.url()).await;
        AsyncDeferredConnection::new(inner.unwrap_or_else(|error| panic!("connect to {}: {error}", C::NAME)))
    }
}
