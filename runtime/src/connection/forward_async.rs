//! Every trait of diesel-async that the wrapped connection has, forwarded, so that the wrapper is a
//! connection like any other; but for one in a cancelled transaction, where every statement is
//! refused.
//!
//! Must not know: hooks. What a statement tells goes to the [`Watch`](super::watch::Watch).

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use diesel::associations::{HasTable, Identifiable};
use diesel::connection::{CacheSize, Instrumentation};
use diesel::query_builder::{AsQuery, QueryFragment, QueryId};
use diesel::result::{ConnectionResult, Error, QueryResult};
use diesel_async::pooled_connection::{PoolableConnection, RecyclingMethod};
use diesel_async::{
    AsyncConnection, AsyncConnectionCore, SimpleAsyncConnection, TransactionManager, UpdateAndFetchResults,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use pin_project_lite::pin_project;

use super::async_deferrable::AsyncDeferrable;
use super::ending::Doubt;
use super::flow::give_up_unguarded;
use super::keeper::{Interrupted, Keeper};
use super::nonblocking::{AsyncDeferredConnection, AsyncDeferredTransactionManager};
use super::store::spill;
use super::watch::{Reading, Watch};
use crate::error::CommitError;

/// For what takes the connection below by shared reference, such as pipelining. Statements that run
/// there are not seen by the wrapper: the commit of the transaction around them is proven even
/// where nothing waits, and they are not refused where a cancelled transaction is open, whose
/// ROLLBACK takes them along.
impl<C> Deref for AsyncDeferredConnection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.keeper.watch.suspect(Doubt::Unseen);
        &self.inner
    }
}

impl<C: AsyncDeferrable> SimpleAsyncConnection for AsyncDeferredConnection<C> {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if self.is_interrupted() {
            return Err(CommitError::Cancelled.into());
        }
        // Other statements cannot wait: what they are made of need not be `Send`.
        if self.keeper.has_to_spill() {
            spill(self).await?;
        }
        self.keeper.watch.suspect(Doubt::RawSql);
        let mut watcher = Watcher::started::<C>(&mut self.keeper);
        let result = self.inner.batch_execute(query).await;
        watcher.saw(result.as_ref().err());
        watcher.end();
        result
    }
}

impl<C: AsyncDeferrable> AsyncConnectionCore for AsyncDeferredConnection<C> {
    type ExecuteFuture<'conn, 'query> = Watched<'conn, C::ExecuteFuture<'conn, 'query>>;
    type LoadFuture<'conn, 'query> = Loading<'conn, C::LoadFuture<'conn, 'query>>;
    type Stream<'conn, 'query> = Rows<C::Stream<'conn, 'query>>;
    type Row<'conn, 'query> = C::Row<'conn, 'query>;
    type Backend = C::Backend;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if self.is_interrupted() {
            return Loading::refused(Watcher::of::<C>(&mut self.keeper));
        }
        self.keeper.watch.query::<T::Query>();
        Loading::of(self.inner.load(source), Watcher::of::<C>(&mut self.keeper))
    }

    fn execute_returning_count<'conn, 'query, T>(&'conn mut self, source: T) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if self.is_interrupted() {
            return Watched::refused(Watcher::of::<C>(&mut self.keeper));
        }
        self.keeper.watch.query::<T>();
        Watched::of(self.inner.execute_returning_count(source), Watcher::of::<C>(&mut self.keeper))
    }
}

pin_project! {
    /// A statement whose error is seen. Without a future it is refused.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    #[allow(missing_debug_implementations, reason = "futures of diesel-async's have none")]
    pub struct Watched<'conn, F> {
        #[pin]
        future: Option<F>,
        watcher: Watcher<'conn>,
    }
}

impl<'conn, F> Watched<'conn, F> {
    pub(super) fn of(future: F, watcher: Watcher<'conn>) -> Self {
        Self { future: Some(future), watcher }
    }

    pub(super) fn refused(watcher: Watcher<'conn>) -> Self {
        Self { future: None, watcher }
    }
}

impl<F, T> Future for Watched<'_, F>
where
    F: Future<Output = QueryResult<T>>,
{
    type Output = QueryResult<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<QueryResult<T>> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Ready(this.watcher.refuse()) };
        this.watcher.started = true;
        let result = ready!(future.poll(context));
        this.watcher.saw(result.as_ref().err());
        this.watcher.end();
        Poll::Ready(result)
    }
}

pin_project! {
    /// A query on its way to its rows.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    #[allow(missing_debug_implementations, reason = "futures of diesel-async's have none")]
    pub struct Loading<'conn, F> {
        #[pin]
        future: Option<F>,
        watcher: Watcher<'conn>,
    }
}

impl<'conn, F> Loading<'conn, F> {
    pub(super) fn of(future: F, watcher: Watcher<'conn>) -> Self {
        Self { future: Some(future), watcher }
    }

    pub(super) fn refused(watcher: Watcher<'conn>) -> Self {
        Self { future: None, watcher }
    }
}

impl<F, S> Future for Loading<'_, F>
where
    F: Future<Output = QueryResult<S>>,
{
    type Output = QueryResult<Rows<S>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Ready(this.watcher.refuse()) };
        this.watcher.started = true;
        let result = ready!(future.poll(context));
        this.watcher.saw(result.as_ref().err());
        // Connections skip rows that nobody reads.
        let watch = this.watcher.watch.clone();
        this.watcher.end();
        Poll::Ready(result.map(|rows| Rows { rows, reading: watch.read() }))
    }
}

pin_project! {
    /// Rows whose errors are seen.
    #[must_use = "streams do nothing unless polled"]
    #[allow(missing_debug_implementations, reason = "streams of diesel-async's have none")]
    pub struct Rows<S> {
        #[pin]
        rows: S,
        reading: Reading,
    }
}

impl<S, T> Stream for Rows<S>
where
    S: Stream<Item = QueryResult<T>>,
{
    type Item = QueryResult<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let row = ready!(this.rows.poll_next(context));
        match &row {
            None => this.reading.end(),
            Some(row) => this.reading.saw(row.as_ref().err()),
        }
        Poll::Ready(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

/// Tells the connection's watch of errors. Dropped before its end, one may not have been seen; and
/// where its statement is under way, the answer to that would pass for the answer to the next one
/// on some connections.
pub(super) struct Watcher<'conn> {
    watch: Watch,
    /// Where to say that nothing else can be sent, and for how long.
    interrupted: Option<(&'conn mut Interrupted, Interrupted)>,
    started: bool,
    ended: bool,
}

impl<'conn> Watcher<'conn> {
    /// Of a statement by shared reference.
    #[cfg(feature = "async-postgres")]
    pub(super) fn shared(watch: &Watch) -> Self {
        Self { watch: watch.clone(), interrupted: None, started: false, ended: false }
    }

    /// Of a statement that is to be polled.
    fn of<C: AsyncDeferrable>(keeper: &'conn mut Keeper<AsyncDeferredConnection<C>>) -> Self {
        let mark = match keeper.unguarded() {
            _ if !C::OUTLIVES_DROPPED_STATEMENTS => Some(Interrupted::InStatement),
            // Most likely the transaction is dropped with it, which nobody would tell. If it is
            // not, it has to end first.
            Some(entry) => Some(Interrupted::InBlock { entry, outermost: false }),
            None => None,
        };
        let interrupted = mark.map(|mark| (&mut keeper.interrupted, mark));
        Self { watch: keeper.watch.clone(), interrupted, started: false, ended: false }
    }

    /// Of a statement that is being polled.
    fn started<C: AsyncDeferrable>(keeper: &'conn mut Keeper<AsyncDeferredConnection<C>>) -> Self {
        let mut watcher = Self::of(keeper);
        watcher.started = true;
        watcher
    }

    pub(super) fn saw(&self, error: Option<&Error>) {
        if let Some(error) = error {
            self.watch.error(error);
        }
    }

    /// The connection is in a transaction that was cancelled.
    fn refuse<T>(&mut self) -> QueryResult<T> {
        self.end();
        Err(CommitError::Cancelled.into())
    }

    /// There is nothing left to be seen.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.watch.suspect(Doubt::Unseen);
        if let (true, Some((interrupted, mark))) = (self.started, &mut self.interrupted)
            && **interrupted == Interrupted::No
        {
            **interrupted = *mark;
        }
    }
}

impl<C: AsyncDeferrable> AsyncConnection for AsyncDeferredConnection<C> {
    type TransactionManager = AsyncDeferredTransactionManager;

    async fn establish(database_url: &str) -> ConnectionResult<Self> {
        C::establish(database_url).await.map(Self::new)
    }

    async fn begin_test_transaction(&mut self) -> QueryResult<()> {
        if self.is_interrupted() {
            return Err(CommitError::Cancelled.into());
        }
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
    /// Fails on a connection that is broken: it is what a pool asks before it lends the connection
    /// out. diesel-async's manager for mobc asks nothing else (it takes a broken connection that
    /// comes back for a good one), and a test query would pass in a transaction that was left open.
    async fn ping(&mut self, config: &RecyclingMethod<Self>) -> QueryResult<()> {
        if is_broken(self) {
            return Err(CommitError::Cancelled.into());
        }
        match config {
            RecyclingMethod::Fast => Ok(()),
            // As a batch: what other queries need to compile here has changed between patches of
            // diesel-async.
            RecyclingMethod::Verified => self.batch_execute("SELECT 1").await,
            RecyclingMethod::CustomQuery(query) => self.batch_execute(query).await,
            RecyclingMethod::CustomFunction(check) => check(self).await,
        }
    }

    /// Asked when it is given back, or before it is lent again: it is given up then where a
    /// transaction is open.
    fn is_broken(&mut self) -> bool {
        let broken = is_broken(self);
        #[cfg(feature = "testing")]
        let broken = broken != self.keeper.seems_broken();
        broken
    }
}

fn is_broken<C: AsyncDeferrable + PoolableConnection>(conn: &mut AsyncDeferredConnection<C>) -> bool {
    let broken = conn.is_interrupted() || conn.inner.is_broken();
    if broken {
        give_up_unguarded(conn);
    }
    broken
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
            let mut watcher = Watcher::started::<C>(&mut self.keeper);
            let result = self.inner.update_and_fetch(changeset).await;
            watcher.saw(result.as_ref().err());
            watcher.end();
            result
        }
        .boxed()
    }
}

#[cfg(feature = "async-sqlite")]
mod blocking {
    use diesel::connection::Connection;
    use diesel::result::QueryResult;
    use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};

    use super::{AsyncDeferredConnection, CommitError, Doubt};

    impl<C, S> AsyncDeferredConnection<SyncConnectionWrapper<C, S>> {
        /// Runs `task` on the connection below, on a thread that may block. As diesel-async's.
        ///
        /// Statements that run there are not seen by the wrapper, so the commit of the transaction
        /// around them is proven even where nothing waits.
        ///
        /// # Errors
        /// What `task` returns; [`CommitError::Cancelled`] where a cancelled transaction is open.
        pub fn spawn_blocking<'conn, R>(
            &'conn mut self,
            task: impl FnOnce(&mut C) -> QueryResult<R> + Send + 'static,
        ) -> BoxFuture<'conn, QueryResult<R>>
        where
            C: Connection + 'static,
            R: Send + 'static,
            S: SpawnBlocking,
        {
            if self.is_interrupted() {
                return ready(Err(CommitError::Cancelled.into())).boxed();
            }
            self.keeper.watch.suspect(Doubt::Unseen);
            self.inner.spawn_blocking(task)
        }
    }
}
