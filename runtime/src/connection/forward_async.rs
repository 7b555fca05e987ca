//! Every trait of diesel-async that the wrapped connection has, forwarded, so that the wrapper is a connection like any other; but for
//! one in a cancelled transaction, where every statement is refused.
//!
//! Must not know: hooks. What a statement tells goes to the [`Watch`](super::watch::Watch).

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use diesel::associations::{HasTable, Identifiable};
use diesel::connection::{CacheSize, Instrumentation};
use diesel::dsl::{AsExprOf, select};
use diesel::expression::IntoSql;
use diesel::query_builder::{AsQuery, QueryFragment, QueryId, SqlQuery};
use diesel::result::{ConnectionResult, QueryResult};
use diesel::sql_query;
use diesel::sql_types::Integer;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use diesel_async::pooled_connection::{PoolableConnection, RecyclingMethod};
use diesel_async::{
    AsyncConnection, AsyncConnectionCore, SimpleAsyncConnection, TransactionManager, UpdateAndFetchResults,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use pin_project_lite::pin_project;

use super::async_deferrable::AsyncDeferrable;
use super::nonblocking::{AsyncDeferredConnection, AsyncDeferredTransactionManager, lend};
use super::watch::{Doubt, Watch};
use super::wrapper::Wrapper;
use crate::error::CommitError;

/// For what takes the connection below by shared reference, such as pipelining. Statements that run there are not seen by the wrapper,
/// so the commit of the transaction around them is proven even where nothing waits.
impl<C> Deref for AsyncDeferredConnection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        lend(self)
    }
}

impl<C: SimpleAsyncConnection + Send> SimpleAsyncConnection for AsyncDeferredConnection<C> {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if self.is_interrupted() {
            return Err(CommitError::Cancelled.into());
        }
        self.keeper.watch.suspect(Doubt::RawSql);
        let result = self.inner.batch_execute(query).await;
        self.keeper.watch.result(result)
    }
}

impl<C: AsyncDeferrable> AsyncConnectionCore for AsyncDeferredConnection<C> {
    type ExecuteFuture<'conn, 'query> = Watched<'conn, C::ExecuteFuture<'conn, 'query>>;
    type LoadFuture<'conn, 'query> = Loading<'conn, C::LoadFuture<'conn, 'query>>;
    type Stream<'conn, 'query> = Rows<'conn, C::Stream<'conn, 'query>>;
    type Row<'conn, 'query> = C::Row<'conn, 'query>;
    type Backend = C::Backend;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if self.is_interrupted() {
            return Loading { future: None, watch: Some(&mut self.keeper.watch) };
        }
        self.keeper.watch.query::<T::Query>();
        Loading { future: Some(self.inner.load(source)), watch: Some(&mut self.keeper.watch) }
    }

    fn execute_returning_count<'conn, 'query, T>(&'conn mut self, source: T) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if self.is_interrupted() {
            return Watched { future: None, watch: &mut self.keeper.watch };
        }
        self.keeper.watch.query::<T>();
        Watched { future: Some(self.inner.execute_returning_count(source)), watch: &mut self.keeper.watch }
    }
}

pin_project! {
    /// A statement whose error is seen. Without a future it is refused.
    #[allow(missing_debug_implementations, reason = "futures of diesel-async's have none")]
    pub struct Watched<'conn, F> {
        #[pin]
        future: Option<F>,
        watch: &'conn mut Watch,
    }
}

impl<F, T> Future for Watched<'_, F>
where
    F: Future<Output = QueryResult<T>>,
{
    type Output = QueryResult<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<QueryResult<T>> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Ready(Err(CommitError::Cancelled.into())) };
        let result = ready!(future.poll(context));
        Poll::Ready(this.watch.result(result))
    }
}

pin_project! {
    /// A query on its way to its rows.
    #[allow(missing_debug_implementations, reason = "futures of diesel-async's have none")]
    pub struct Loading<'conn, F> {
        #[pin]
        future: Option<F>,
        watch: Option<&'conn mut Watch>,
    }
}

impl<'conn, F, S> Future for Loading<'conn, F>
where
    F: Future<Output = QueryResult<S>>,
{
    type Output = QueryResult<Rows<'conn, S>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Ready(Err(CommitError::Cancelled.into())) };
        let result = ready!(future.poll(context));
        Poll::Ready(match (result, this.watch.take()) {
            (Ok(rows), Some(watch)) => Ok(Rows { rows, end: End(Some(watch)) }),
            // Polled again after it was ready.
            (Ok(_), None) => Err(CommitError::Cancelled.into()),
            (Err(error), watch) => {
                if let Some(watch) = watch {
                    watch.error(&error);
                }
                Err(error)
            }
        })
    }
}

pin_project! {
    /// Rows whose errors are seen. Where they are dropped before their end, the error of one may not have been.
    #[allow(missing_debug_implementations, reason = "streams of diesel-async's have none")]
    pub struct Rows<'conn, S> {
        #[pin]
        rows: S,
        end: End<'conn>,
    }
}

struct End<'conn>(Option<&'conn mut Watch>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if let Some(watch) = &mut self.0 {
            watch.suspect(Doubt::Unseen);
        }
    }
}

impl<S, T> Stream for Rows<'_, S>
where
    S: Stream<Item = QueryResult<T>>,
{
    type Item = QueryResult<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let row = ready!(this.rows.poll_next(context));
        match &row {
            None => this.end.0 = None,
            Some(Err(error)) => {
                if let Some(watch) = &mut this.end.0 {
                    watch.error(error);
                }
            }
            Some(Ok(_)) => {}
        }
        Poll::Ready(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl<C: AsyncDeferrable> AsyncConnection for AsyncDeferredConnection<C> {
    type TransactionManager = AsyncDeferredTransactionManager;

    async fn establish(database_url: &str) -> ConnectionResult<Self> {
        C::establish(database_url).await.map(Self::new)
    }

    async fn begin_test_transaction(&mut self) -> QueryResult<()> {
        self.inner.begin_test_transaction().await
    }

    fn transaction_state(
        &mut self,
    ) -> &mut <Self::TransactionManager as TransactionManager<Self>>::TransactionStateData {
        self.inner.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.inner.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.inner.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.inner.set_prepared_statement_cache_size(size);
    }
}

impl<C> PoolableConnection for AsyncDeferredConnection<C>
where
    C: AsyncDeferrable + PoolableConnection + 'static,
{
    /// Fails on a connection that is broken: what a pool asks before it hands the connection out, by whichever method. diesel-async's
    /// manager for mobc asks nothing else: it takes a broken connection for a good one when that comes back.
    async fn ping(&mut self, config: &RecyclingMethod<Self>) -> QueryResult<()>
    where
        for<'a> select<AsExprOf<i32, Integer>>: LoadQuery<'a, Self, i32>,
        SqlQuery: ExecuteDsl<Self>,
    {
        use diesel_async::RunQueryDsl;

        if self.is_broken() {
            return Err(CommitError::Cancelled.into());
        }
        match config {
            RecyclingMethod::Fast => Ok(()),
            RecyclingMethod::Verified => select(1_i32.into_sql::<Integer>()).get_result::<i32>(self).await.map(drop),
            RecyclingMethod::CustomQuery(query) => sql_query(query.as_ref()).execute(self).await.map(drop),
            RecyclingMethod::CustomFunction(check) => check(self).await,
        }
    }

    fn is_broken(&mut self) -> bool {
        self.is_interrupted() || self.inner.is_broken()
    }
}

impl<Changes, Output, C> UpdateAndFetchResults<Changes, Output> for AsyncDeferredConnection<C>
where
    C: AsyncDeferrable + UpdateAndFetchResults<Changes, Output>,
    Changes: Identifiable + HasTable + Send,
{
    fn update_and_fetch<'conn, 'changes>(
        &'conn mut self,
        changeset: Changes,
    ) -> BoxFuture<'changes, QueryResult<Output>>
    where
        Changes: 'changes,
        'conn: 'changes,
        Self: 'changes,
    {
        async move {
            if self.is_interrupted() {
                return Err(CommitError::Cancelled.into());
            }
            let result = self.inner.update_and_fetch(changeset).await;
            self.keeper().watch.result(result)
        }
        .boxed()
    }
}
