//! The asynchronous wrapper: what users call on it, and its part of the flow of a transaction.
//!
//! Must not know: how a transaction begins and ends (that is `flow`), or what diesel-async's traits
//! want (`forward_async`).

use std::any::type_name;
use std::fmt::{self, Debug};
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location};

use diesel::connection::{InstrumentationEvent, TransactionManagerStatus};
use diesel::result::{Error, QueryResult};
use diesel_async::TransactionManager;
use futures_util::FutureExt;

use super::async_deferrable::AsyncDeferrable;
use super::both::on_both_kinds;
use super::ending::{CommitProof, Doubt, Promise};
use super::flow::{OpenBlock, Opening, begin, close_above, commit_innermost, end_foreign_around, rollback};
use super::keeper::{Interrupted, Keeper};
use super::register::{AfterCommit, open_queue};
use super::wrapper::{Deferring, State, Wrapper};
use crate::atomic::BeginOptions;
use crate::dispatch::Stage;
#[cfg(feature = "durable")]
use crate::durable::{NewTask, StoredCalls};
use crate::error::CommitError;
use crate::hook::{BeforeCommit, Body, Facts, Failed, Hook, Outcome, Step, outcome};
use crate::panics::{contain, message};
use crate::report::{FailureCause, HookKind, PendingHook, Report};
use crate::sealed::Sealed;
use crate::spans::Origin;
use crate::task::TaskOutput;

/// A diesel-async connection that keeps tasks until the outermost transaction commits.
///
/// It wraps `C` and is a connection like it: queries, pipelining, `load_stream`, `transaction`,
/// `save_changes`, bb8, deadpool and mobc pools of it and around it. Transactions that other code
/// opens with `conn.transaction(…)` count like [`atomic!`](crate::atomic) blocks. Everything that
/// [`DeferredConnection`](crate::DeferredConnection) says of raw SQL, DDL, dropping and test
/// transactions holds here too.
///
/// # Cancellation
/// A future can be dropped at every `.await`: by a timeout, in a `select!`, or because a client
/// hung up. What that does to a block:
///
/// | dropped | the rows | commit hooks | rollback hooks | the connection |
/// |---|---|---|---|---|
/// | before COMMIT | not committed | never run | tasks run at once; closures don't, and are reported | refuses all use |
/// | during COMMIT | **not known** | don't run, and are reported | don't run, and are reported | refuses all use |
/// | after COMMIT, while a closure is awaited | committed | that closure is cancelled, and reported; tasks behind it run at once, closures when the next outermost block begins (what becomes of them goes to the failure handler and to `tracing`) | – | is clean |
///
/// *Refuses all use*: statements and registrations fail with [`CommitError::Cancelled`], and pools
/// throw the connection away (mobc only where it checks connections before it lends them, which is
/// its default). Nothing can become part of a dead transaction. On PostgreSQL and SQLite the next
/// outermost block first rolls back what was left, for which it has to wait until the server has
/// done with the dropped statement, and goes on; on MySQL and MariaDB, and where it was dropped
/// during BEGIN, COMMIT or ROLLBACK, the connection has to be closed.
///
/// The future of a single statement can be dropped too, in a block that goes on. On PostgreSQL and
/// SQLite nothing comes of that; on MySQL and MariaDB its answer would pass for the answer to the
/// next statement, so that the connection refuses all use from then on, outside of blocks too.
///
/// A COMMIT that was cancelled may have committed, and in-process tasks are lost then: what must
/// run if and only if the rows are there has to be a row itself. A block that must not be cancelled
/// is run in a task of its own: `tokio::spawn(async move { atomic!(conn, async { … }).await })`
/// goes on when nobody waits for it any more.
///
/// # A pooled connection's own `transaction`
/// With diesel-async's `AsyncConnection` in scope a pooled connection (of deadpool, bb8, mobc) has
/// a method `transaction` of its own, which Rust takes before
/// [the one of this type](Self::transaction). It commits and rolls back as it should. But nothing
/// of this crate is on its stack, so that nobody is told where its future is dropped:
///
/// | dropped | the connection |
/// |---|---|
/// | while a statement of it was under way | refuses all use until the pool gets it back |
/// | between two statements | **goes on in the transaction that was left open**, until the pool gets it back |
///
/// The pool throws it away then, and rollback tasks run. There is no way to do better here: the
/// pooled connection's type and the trait are not this crate's (E0117), and diesel-async implements
/// the trait for all that derefs to a connection (E0119). Write
/// `atomic!(pooled, async { … }).await`, or `(*pooled).transaction(…)`, which is the method of this
/// type.
///
/// Code that is generic over `AsyncConnection`, and is given a connection of this type, is no such
/// case. A transaction that is begun by hand, with the
/// [transaction manager](AsyncDeferredTransactionManager), is one.
///
/// # By shared reference
/// Where the connection below is diesel-async's for PostgreSQL, also in a pool's guard,
/// `&AsyncDeferredConnection<C>` is a connection too, for pipelining: `query.load(&mut conn)` with
/// a `mut conn: &AsyncDeferredConnection<_>`, several times before the first is awaited.
///
/// # Not available through the wrapper
/// It derefs to `C` by shared reference only, for functions that take a `&C`.
/// [`inner_mut`](Self::inner_mut) has the rest.
///
/// # Examples
/// ```
/// # #[cfg(feature = "async-sqlite")]
/// # mod example {
/// use diesel::prelude::*;
/// use diesel_async::RunQueryDsl;
/// use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
/// use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};
///
/// # diesel::table! { users { id -> Integer, email -> Text, } }
/// #[deferred_task]
/// async fn send_welcome(user_id: i32, email: &str) {
///     println!("welcome, user {user_id} <{email}>");
/// }
///
/// type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;
///
/// pub async fn sign_up(conn: &mut Conn, id: i32, email: &str) -> QueryResult<()> {
///     atomic!(conn, async {
///         diesel::insert_into(users::table).values((users::id.eq(id), users::email.eq(email))).execute(conn).await?;
///         send_welcome(id, email); // captured by value here, spawned after the outermost COMMIT
///         Ok(())
///     })
///     .await
/// }
/// # }
/// ```
pub struct AsyncDeferredConnection<C> {
    pub(crate) inner: C,
    pub(crate) keeper: Keeper<Self>,
}

/// The block of a transaction: an async closure that is given a `T`. Like `AsyncFnOnce`, which has
/// no stable name for its future yet.
#[doc(hidden)]
pub trait AsyncBlock<T, R>: AsyncFnOnce(T) -> R + FnOnce(T) -> <Self as AsyncBlock<T, R>>::Fut {
    /// Its future.
    type Fut: Future<Output = R>;
}

impl<F, T, Fut, R> AsyncBlock<T, R> for F
where
    F: AsyncFnOnce(T) -> R + FnOnce(T) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

on_both_kinds!(AsyncDeferredConnection where C: AsyncDeferrable);

impl<C> AsyncDeferredConnection<C> {
    /// Whether a cancelled transaction is still open, so that nothing else may be done.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.keeper.interrupted != Interrupted::No
    }
}

impl<C: AsyncDeferrable> AsyncDeferredConnection<C> {
    #[doc = include_str!("docs/after_commit.md")]
    #[track_caller]
    pub fn after_commit<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        for<'r> F: AsyncFnOnce(&'r mut Self) -> R + AsyncBlock<&'r mut Self, R, Fut: Send> + Send + 'static, // `async |conn| { … }`
        R: TaskOutput + 'static,
    {
        let hook = self.keeper.traced(Hook::closure(AsyncClosure::<F, R>::new(Location::caller(), hook)));
        open_queue(self, type_name::<F>(), Location::caller())?.after_commit(hook);
        Ok(())
    }

    #[doc = include_str!("docs/after_rollback.md")]
    #[track_caller]
    pub fn after_rollback<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        for<'r> F: AsyncFnOnce(&'r mut Self) -> R + AsyncBlock<&'r mut Self, R, Fut: Send> + Send + 'static, // `async |conn| { … }`
        R: TaskOutput + 'static,
    {
        let hook = self.keeper.traced(Hook::closure(AsyncClosure::<F, R>::new(Location::caller(), hook)));
        open_queue(self, type_name::<F>(), Location::caller())?.after_rollback(hook);
        Ok(())
    }

    #[doc = include_str!("docs/before_commit.md")]
    #[track_caller]
    pub fn before_commit<F>(&mut self, hook: F) -> QueryResult<()>
    where
        for<'r> F: AsyncFnOnce(&'r mut Self) -> QueryResult<()>
            + AsyncBlock<&'r mut Self, QueryResult<()>, Fut: Send>
            + Send
            + 'static,
    {
        let hook = BeforeCommit {
            name: type_name::<F>(),
            call_site: Location::caller(),
            run: Box::new(|conn| Step::Later(Box::pin(async move { hook(conn).await }))),
        };
        open_queue(self, type_name::<F>(), Location::caller())?.before_commit(hook);
        Ok(())
    }

    /// Runs `callback` in a transaction, or in a savepoint where one is open. In place of the
    /// method of [`AsyncConnection`](diesel_async::AsyncConnection), which does not see that its
    /// future is dropped.
    ///
    /// # Errors
    /// What `callback` returns, and what BEGIN or COMMIT return.
    pub async fn transaction<'a, R, E, F>(&mut self, callback: F) -> Result<R, E>
    where
        for<'r> F:
            AsyncFnOnce(&'r mut Self) -> Result<R, E> + AsyncBlock<&'r mut Self, Result<R, E>, Fut: Send> + Send + 'a,
        E: From<Error> + Send + 'a,
        R: Send + 'a,
    {
        self.run_transaction(Opening::AsDiesel, callback).await
    }

    /// Runs `callback` in a transaction that is never committed, for tests. Blocks in it are the
    /// outermost: their hooks run.
    ///
    /// # Panics
    /// Where `callback` returns an error, or the transaction cannot be begun.
    pub async fn test_transaction<'a, R, E, F>(&mut self, callback: F) -> R
    where
        for<'r> F:
            AsyncFnOnce(&'r mut Self) -> Result<R, E> + AsyncBlock<&'r mut Self, Result<R, E>, Fut: Send> + Send + 'a,
        E: Debug + Send + 'a,
        R: Send + 'a,
    {
        let mut result = None;
        let begun = OpenBlock::begin(self, Opening::AsDiesel).await;
        if let Ok(block) = begun {
            // Like one of `begin_test_transaction`: the block inside is the outermost. Nested it is
            // a savepoint as ever.
            if block.conn.depth() == 1 {
                block.conn.status().set_test_transaction_flag();
            }
            let outcome = AssertUnwindSafe(callback(&mut *block.conn)).catch_unwind().await;
            let rolled_back: QueryResult<()> = match outcome {
                Ok(returned) => {
                    result = Some(returned);
                    block.end(Ok(Err(Error::RollbackTransaction))).await
                }
                Err(panic) => block.end(Err(panic)).await,
            };
            drop(rolled_back);
        }
        match result {
            Some(Ok(value)) => value,
            // What Diesel's own does: this is for tests.
            Some(Err(error)) => panic!("Transaction did not succeed: {error:?}"),
            None => panic!("Transaction never executed"),
        }
    }

    pub(crate) async fn run_transaction<'a, R, E, F>(&mut self, opening: Opening<'_>, callback: F) -> Result<R, E>
    where
        for<'r> F:
            AsyncFnOnce(&'r mut Self) -> Result<R, E> + AsyncBlock<&'r mut Self, Result<R, E>, Fut: Send> + Send + 'a,
        E: From<Error>,
    {
        let block = OpenBlock::begin(self, opening).await?;
        let outcome = AssertUnwindSafe(callback(&mut *block.conn)).catch_unwind().await;
        block.end(outcome).await
    }
}

impl<C: AsyncDeferrable> AfterCommit for AsyncDeferredConnection<C> {
    type Wrapper = Self;

    fn deferring(&mut self) -> &mut Self {
        self
    }
}

impl<C: AsyncDeferrable> Wrapper for AsyncDeferredConnection<C> {
    const PROOF: CommitProof = C::PROOF;
    #[cfg(feature = "durable")]
    const IS_MYSQL: bool = C::IS_MYSQL;
    const OUTLIVES_DROPPED_STATEMENTS: bool = C::OUTLIVES_DROPPED_STATEMENTS;
    const ASYNC: bool = true;
    // Seen in debug builds: some 100 KB each on PostgreSQL, 50 KB on MariaDB, 40 KB on SQLite.
    const HOOK_DEPTH: usize = 8;

    fn keeper(&mut self) -> &mut Keeper<Self> {
        &mut self.keeper
    }

    fn status(&mut self) -> &mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(&mut self.inner)
    }

    fn tell(&mut self, event: InstrumentationEvent<'_>) {
        self.inner.instrumentation().on_connection_event(event);
    }

    fn begin_sql(options: &BeginOptions) -> String {
        C::begin_sql(options)
    }

    fn send_begin(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        C::TransactionManager::begin_transaction(&mut self.inner)
    }

    fn send_commit(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        C::TransactionManager::commit_transaction(&mut self.inner)
    }

    fn send_rollback(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        C::TransactionManager::rollback_transaction(&mut self.inner)
    }

    fn send_sql(&mut self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send {
        self.inner.batch_execute(sql)
    }

    #[cfg(feature = "durable")]
    fn send_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send {
        self.inner.store_calls(calls)
    }

    #[cfg(feature = "durable")]
    fn make_room_now(&mut self) -> QueryResult<()> {
        Ok(())
    }

    #[cfg(feature = "testing")]
    fn finish(task: super::aside::Task) -> super::aside::Finishing {
        Box::pin(async move { crate::panics::caught(task).await.map_err(crate::panics::message) })
    }
}

/// The transaction manager for [`AsyncDeferredConnection`]: moves the hooks along with the
/// transactions.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AsyncDeferredTransactionManager;

impl<C: AsyncDeferrable> TransactionManager<AsyncDeferredConnection<C>> for AsyncDeferredTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    async fn begin_transaction(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<()> {
        begin(conn, Opening::AsDiesel).await?;
        conn.keeper.note_guard(false);
        Ok(())
    }

    async fn rollback_transaction(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<()> {
        if conn.is_interrupted() { end_foreign_around(conn).await } else { rollback(conn).await }
    }

    async fn commit_transaction(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<()> {
        if conn.is_interrupted() {
            end_foreign_around(conn).await?;
            return Err(CommitError::Cancelled.into());
        }
        match conn.state() {
            Some(State { depth: 0, .. }) if conn.keeper.queue().depth() == 0 => Err(Error::NotInTransaction),
            _ => commit_innermost(conn, Promise::AsDiesel).await,
        }
    }

    /// As [`AsyncDeferredConnection::transaction`]: code that is generic over diesel-async's
    /// connections calls this one.
    #[expect(clippy::manual_async_fn, reason = "the future of an `async fn` would have to outlive `R` and `E`")]
    fn transaction<'a, 'conn, F, R, E>(
        conn: &'conn mut AsyncDeferredConnection<C>,
        callback: F,
    ) -> impl Future<Output = Result<R, E>> + Send + 'conn
    where
        for<'r> F: AsyncFnOnce(&'r mut AsyncDeferredConnection<C>) -> Result<R, E>
            + AsyncBlock<&'r mut AsyncDeferredConnection<C>, Result<R, E>, Fut: Send>
            + Send
            + 'a,
        E: From<Error> + Send,
        R: Send,
        'a: 'conn,
    {
        async move { conn.run_transaction(Opening::AsDiesel, callback).await }
    }

    fn transaction_manager_status_mut(conn: &mut AsyncDeferredConnection<C>) -> &mut TransactionManagerStatus {
        conn.status()
    }

    fn is_broken_transaction_manager(conn: &mut AsyncDeferredConnection<C>) -> bool {
        // First: where a statement is still under way, Diesel's own bookkeeping is out of reach.
        conn.is_interrupted() || C::TransactionManager::is_broken_transaction_manager(&mut conn.inner)
    }
}

/// A closure that is given the connection, and awaited.
struct AsyncClosure<F, R> {
    call_site: &'static Location<'static>,
    closure: Option<F>,
    origin: Origin,
    output: std::marker::PhantomData<fn() -> R>,
}

impl<F, R> AsyncClosure<F, R> {
    fn new(call_site: &'static Location<'static>, closure: F) -> Self {
        Self { call_site, closure: Some(closure), origin: Origin::none(), output: std::marker::PhantomData }
    }
}

impl<C, F, R> Body<AsyncDeferredConnection<C>> for AsyncClosure<F, R>
where
    for<'r> F: AsyncFnOnce(&'r mut AsyncDeferredConnection<C>) -> R
        + AsyncBlock<&'r mut AsyncDeferredConnection<C>, R, Fut: Send>
        + Send,
    R: TaskOutput,
    C: AsyncDeferrable,
{
    fn run<'a>(&'a mut self, conn: &'a mut AsyncDeferredConnection<C>, _: &'a Stage, _: HookKind) -> Step<'a, Outcome> {
        let Some(closure) = self.closure.take() else { return Step::Done(Ok(())) };
        let call_site = self.call_site;
        Step::Later(Box::pin(async move {
            let depth = conn.depth();
            let ended = AssertUnwindSafe(async { contain_result(closure(conn).await) }).catch_unwind().await;
            let result = outcome(call_site, ended.unwrap_or_else(|panic| Err(message(panic))));
            // Only a closure is given the connection, so that only a closure can leave it in
            // another state.
            let left_open = close_above(conn, depth).await;
            match result {
                Ok(()) if left_open => Err(Box::new(Failed::new(call_site, FailureCause::LeftTransactionOpen))),
                result => result,
            }
        }))
    }

    fn facts(&self) -> Facts {
        Facts { name: type_name::<F>(), call_site: self.call_site, needs: None, wants_connection: true }
    }

    #[cfg(feature = "opentelemetry")]
    fn origin(&mut self) -> Option<&mut Origin> {
        Some(&mut self.origin)
    }
}

/// What a hook returned, as what is reported.
fn contain_result<R: TaskOutput>(output: R) -> Result<Result<(), crate::error::BoxError>, String> {
    contain(|| output.into_result())
}
