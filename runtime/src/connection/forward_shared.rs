//! What a deferring connection can do by shared reference: send statements behind one another
//! without waiting for answers, where the connection at the bottom can (PostgreSQL by
//! diesel-async). And what else only that connection offers.
//!
//! Must not know: hooks. What a statement tells goes to the [`Watch`](super::watch::Watch).

use diesel::pg::PgNotification;
use diesel::query_builder::{AsQuery, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel_async::{AsyncConnectionCore, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::Stream;

use super::ending::Doubt;
use super::forward_async::{Loading, Rows, Watched, Watcher};
use super::nonblocking::AsyncDeferredConnection;
use crate::error::CommitError;

/// Connections with diesel-async's for PostgreSQL at the bottom.
pub trait OverPostgres: Send + Sync {
    /// It.
    fn pg(&self) -> &AsyncPgConnection;
    /// It.
    fn pg_mut(&mut self) -> &mut AsyncPgConnection;
}

impl OverPostgres for AsyncPgConnection {
    fn pg(&self) -> &AsyncPgConnection {
        self
    }

    fn pg_mut(&mut self) -> &mut AsyncPgConnection {
        self
    }
}

/// What derefs to one.
macro_rules! like_its_target {
    ($($(#[$attribute:meta])* [$($generics:tt)*] $type:ty => $target:ty,)*) => {$(
        $(#[$attribute])*
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> OverPostgres for $type
        where
            Self: Send + Sync,
            $target: OverPostgres,
        {
            fn pg(&self) -> &AsyncPgConnection {
                (**self).pg()
            }

            fn pg_mut(&mut self) -> &mut AsyncPgConnection {
                (**self).pg_mut()
            }
        }
    )*};
}

like_its_target! {
    [C] &mut C => C,
    #[cfg(feature = "bb8")] [M: bb8::ManageConnection] bb8::PooledConnection<'_, M> => M::Connection,
    #[cfg(feature = "deadpool")] [M: deadpool::managed::Manager] deadpool::managed::Object<M> => M::Type,
    #[cfg(feature = "mobc")] [M: mobc::Manager] mobc::Connection<M> => M::Connection,
}

/// For pipelining, as with diesel-async's own connection: `conn.batch_execute(…)` on a
/// `mut conn: &AsyncDeferredConnection<…>`.
impl<C: OverPostgres> SimpleAsyncConnection for &AsyncDeferredConnection<C> {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if self.is_interrupted() {
            return Err(CommitError::Cancelled.into());
        }
        let watch = &self.keeper.watch;
        watch.suspect(Doubt::RawSql);
        let mut watcher = Watcher::shared(watch);
        let result = self.inner.pg().batch_execute(query).await;
        watcher.saw(result.as_ref().err());
        watcher.end();
        result
    }
}

/// For pipelining, as with diesel-async's own connection: `query.load(&mut conn)` with a
/// `mut conn: &AsyncDeferredConnection<…>`, several times before the first is awaited. Statements
/// are seen, and refused in a cancelled transaction, as those by `&mut`.
impl<'a, C: OverPostgres> AsyncConnectionCore for &'a AsyncDeferredConnection<C> {
    type ExecuteFuture<'conn, 'query> =
        Watched<'a, <&'a AsyncPgConnection as AsyncConnectionCore>::ExecuteFuture<'conn, 'query>>;
    type LoadFuture<'conn, 'query> =
        Loading<'a, <&'a AsyncPgConnection as AsyncConnectionCore>::LoadFuture<'conn, 'query>>;
    type Stream<'conn, 'query> = Rows<<&'a AsyncPgConnection as AsyncConnectionCore>::Stream<'conn, 'query>>;
    type Row<'conn, 'query> = <&'a AsyncPgConnection as AsyncConnectionCore>::Row<'conn, 'query>;
    type Backend = diesel::pg::Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let conn: &'a AsyncDeferredConnection<C> = self;
        let watcher = Watcher::shared(&conn.keeper.watch);
        if conn.is_interrupted() {
            return Loading::refused(watcher);
        }
        conn.keeper.watch.query::<T::Query>();
        let mut below = conn.inner.pg();
        Loading::of(AsyncConnectionCore::load(&mut below, source), watcher)
    }

    fn execute_returning_count<'conn, 'query, T>(&'conn mut self, source: T) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let conn: &'a AsyncDeferredConnection<C> = self;
        let watcher = Watcher::shared(&conn.keeper.watch);
        if conn.is_interrupted() {
            return Watched::refused(watcher);
        }
        conn.keeper.watch.query::<T>();
        let mut below = conn.inner.pg();
        Watched::of(AsyncConnectionCore::execute_returning_count(&mut below, source), watcher)
    }
}

impl<C: OverPostgres> AsyncDeferredConnection<C> {
    /// What other sessions tell by `NOTIFY`, on channels that this one has said `LISTEN` for. As
    /// [diesel-async's](AsyncPgConnection::notifications_stream).
    ///
    /// # Examples
    /// ```no_run
    /// use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
    /// use diesel_deferred::AsyncDeferredConnection;
    /// use futures_util::StreamExt;
    ///
    /// # async fn example(conn: &mut AsyncDeferredConnection<AsyncPgConnection>) -> diesel::QueryResult<()> {
    /// conn.batch_execute("LISTEN orders").await?;
    /// let mut notifications = std::pin::pin!(conn.notifications_stream());
    /// while let Some(notification) = notifications.next().await {
    ///     println!("{}", notification?.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn notifications_stream(&mut self) -> impl Stream<Item = QueryResult<PgNotification>> + '_ {
        self.inner.pg_mut().notifications_stream()
    }
}
