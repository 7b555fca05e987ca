//! A worker's connection to PostgreSQL, and whose session that is. Behind a pooler that hands
//! sessions around each transaction may run in another one, and so may the two messages of a
//! prepared statement: there each statement has a transaction of its own, in which it is prepared,
//! and what it needs is set for that transaction only. So nothing stays behind for anybody.
//!
//! Must not know: the tables.

use std::error::Error as _;
use std::fmt;

use diesel::connection::CacheSize;
use diesel::result::{ConnectionError, ConnectionResult, Error, QueryResult};
use diesel::sql_types::Integer;
use diesel_async::methods::LoadQuery;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use tokio_postgres::NoTls;

use super::told::process_told_to;
use crate::durable::sql::Sql;

/// Opens one.
///
/// What diesel-async sets on a new connection it prepares, in two messages, between which a pooler
/// may change the session, and leave the statement behind in the first one: in a transaction it may
/// not. So a BEGIN goes before it, which nobody has to wait for.
pub(super) async fn establish(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(cannot_connect)?;
    let _ = client.batch_execute("BEGIN").now_or_never();
    let mut conn = AsyncPgConnection::try_from_client_and_connection(client, connection).await?;
    conn.batch_execute("COMMIT").await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// With what the server said, which is the source of the library's own error.
fn cannot_connect(error: tokio_postgres::Error) -> ConnectionError {
    let said = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
    ConnectionError::BadConnection(said)
}

/// A worker's connection.
pub struct Link {
    conn: AsyncPgConnection,
    /// What begins a transaction.
    begin: String,
    /// Whether the session is this connection's own.
    is_own: bool,
}

impl Link {
    /// Makes one of a new connection, with these settings: names and values. It finds out whether
    /// there is a pooler, unless it is told.
    pub(super) async fn new(
        mut conn: AsyncPgConnection,
        settings: &[(&str, &str)],
        pooler: Option<bool>,
    ) -> QueryResult<Self> {
        conn.set_prepared_statement_cache_size(CacheSize::Disabled);
        let is_own = match pooler {
            Some(pooler) => !pooler,
            None => has_own_session(&mut conn).await?,
        };
        let set =
            |how: &str| -> String { settings.iter().map(|(name, value)| format!("{how} {name} = {value};")).collect() };
        if is_own {
            conn.batch_execute(&set("SET")).await?;
            conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
            return Ok(Self { conn, begin: "BEGIN".to_owned(), is_own });
        }
        // The first statement is to see them.
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {}", set("SET LOCAL"));
        Ok(Self { conn, begin, is_own })
    }

    /// The connection itself, where the session is its own: what is set and prepared there stays.
    pub(super) fn own(&self) -> Option<&AsyncPgConnection> {
        self.is_own.then_some(&self.conn)
    }

    /// The same, for what arrives unasked.
    pub(super) fn own_mut(&mut self) -> Option<&mut AsyncPgConnection> {
        self.is_own.then_some(&mut self.conn)
    }

    /// Does something in a transaction.
    pub(super) async fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        self.conn.batch_execute(&self.begin).await?;
        let done = work(&mut self.conn).await;
        self.end(done).await
    }

    /// Ends a transaction in which this was done.
    async fn end<T>(&self, done: QueryResult<T>) -> QueryResult<T> {
        let mut conn = &self.conn;
        match done {
            Ok(value) => conn.batch_execute("COMMIT").await.map(|()| value),
            Err(error) => {
                // Where that fails the connection is lost, as whoever uses it next is told.
                let _ = conn.batch_execute("ROLLBACK").await;
                Err(error)
            }
        }
    }

    /// Runs a statement that has rows. They are read before the transaction ends: the library keeps a
    /// statement prepared for as long as there is a row of it.
    pub(super) fn rows<'link, R, U>(&'link self, sql: Sql<'link, R>) -> BoxFuture<'link, QueryResult<Vec<U>>>
    where
        Sql<'link, R>: LoadQuery<'link, &'link AsyncPgConnection, U>,
        R: 'link,
        U: Send + 'link,
    {
        let rows = async move {
            let mut conn = &self.conn;
            sql.load(&mut conn).await
        };
        self.within(rows).boxed()
    }

    /// The same of one that has one row.
    pub(super) fn row<'link, R, U>(&'link self, sql: Sql<'link, R>) -> BoxFuture<'link, QueryResult<U>>
    where
        Sql<'link, R>: LoadQuery<'link, &'link AsyncPgConnection, U>,
        R: 'link,
        U: Send + 'link,
    {
        self.rows(sql).map(|rows| rows?.into_iter().next().ok_or(Error::NotFound)).boxed()
    }

    /// Runs a statement without rows; says how many it changed.
    pub(super) async fn run<R>(&self, sql: Sql<'_, R>) -> QueryResult<usize> {
        let mut conn = &self.conn;
        self.within(sql.execute(&mut conn)).await
    }

    /// Runs one statement: in a transaction where the session is not its own. BEGIN is sent at once
    /// with it, and arrives first.
    async fn within<T>(&self, statement: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
        if self.is_own {
            return statement.await;
        }
        let mut conn = &self.conn;
        let (begun, done) = join(conn.batch_execute(&self.begin), statement).await;
        self.end(begun.and(done)).await
    }
}

/// Whether what is set in this session stays this connection's own. PostgreSQL tells each new
/// connection the number of its process, by which statements are cancelled, and any statement can
/// ask for the number of the process that runs it. A pooler has a number of its own for each of its
/// clients: their statements are cancelled by the pooler.
async fn has_own_session(conn: &mut AsyncPgConnection) -> QueryResult<bool> {
    conn.batch_execute("BEGIN").await?;
    let number = Sql::<Integer>::new("SELECT pg_backend_pid()").varying().get_result::<i32>(conn).await?;
    conn.batch_execute("COMMIT").await?;
    Ok(process_told_to(&conn.cancel_token()).await == Some(number))
}

impl SimpleAsyncConnection for Link {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        let mut conn = &self.conn;
        if self.is_own {
            return conn.batch_execute(query).await;
        }
        conn.batch_execute(&self.begin).await?;
        let done = conn.batch_execute(query).await;
        self.end(done).await
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_own", &self.is_own).finish_non_exhaustive()
    }
}
