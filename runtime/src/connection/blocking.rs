//! The synchronous wrapper: what users call on it, and its part of the flow of a transaction.
//!
//! Must not know: how a transaction begins and ends (that is `flow`), or what Diesel's traits want
//! (`forward`).

use std::any::type_name;
use std::fmt;
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

use diesel::connection::{InstrumentationEvent, TransactionManager, TransactionManagerStatus};
use diesel::result::{Error, QueryResult};

use super::Deferrable;
use super::both::on_both_kinds;
use super::ending::{CommitProof, Doubt, Promise};
use super::flow::{
    Opening, begin, close_above, commit_innermost, end_failed_commit, end_with_commit, end_with_panic,
    end_with_rollback, note_begun, ready_to_begin, ready_to_commit, rollback,
};
use super::hooks::run_committed_now;
use super::keeper::Keeper;
use super::register::{AfterCommit, open_queue};
use super::wrapper::{Deferring, State, Wrapper, now};
use crate::atomic::BeginOptions;
use crate::dispatch::Stage;
#[cfg(feature = "durable")]
use crate::durable::{NewTask, StoredCalls};
use crate::hook::{BeforeCommit, Body, Facts, Failed, Hook, Outcome, Step, outcome};
use crate::panics::contain;
use crate::report::{FailureCause, HookKind, PendingHook, Report};
use crate::sealed::Sealed;
use crate::spans::{Origin, is_on};
use crate::task::TaskOutput;

/// A Diesel connection that keeps tasks until the outermost transaction commits.
///
/// It wraps `C` and is a connection like it: queries, `transaction`, migrations, `save_changes`,
/// COPY, r2d2 pools of it and around it. Transactions that other code opens with
/// `conn.transaction(…)` count like [`atomic!`](crate::atomic) blocks. It derefs to `C` for
/// functions that take the connection below; nothing can be registered there, but transactions
/// opened there nest.
///
/// # Raw SQL that ends a transaction
/// A raw COMMIT or ROLLBACK in a block is found out and refused
/// ([`CommitError::EndedEarly`](crate::CommitError::EndedEarly)), unless another transaction has
/// begun by the time of the COMMIT, which then succeeds: hooks run although what came before is
/// lost. That is so
/// * behind a raw `ROLLBACK; BEGIN` (on PostgreSQL only where the two are one message) or
///   `ROLLBACK AND CHAIN`,
/// * on MySQL and MariaDB with `autocommit = 0`, where the next statement begins one,
/// * where the connection below is driven by hand ([`inner_mut`](Self::inner_mut) and Diesel's
///   transaction manager).
///
/// Raw `SAVEPOINT` and `ROLLBACK TO` are not seen either. Use a nested [`atomic!`](crate::atomic)
/// for a partial rollback.
///
/// # DDL on MySQL and MariaDB
/// It commits what ran before it. A block, and any transaction with hooks, is refused then
/// ([`CommitError::EndedEarly`](crate::CommitError::EndedEarly)); a plain `conn.transaction(…)`
/// without hooks is Diesel's, so that migrations, which run in one each, work as on the connection
/// below.
///
/// # Dropping and replacing
/// Hooks die with the connection that they wait on, and with the transaction: a connection that is
/// dropped, closed or replaced (`*conn.inner_mut() = …`) while a transaction is open never runs
/// them.
///
/// # Test transactions
/// After [`begin_test_transaction`](diesel::Connection::begin_test_transaction), and in
/// [`test_transaction`](diesel::Connection::test_transaction), the block *inside* counts as the
/// outermost: hooks run when it returns, at the same point and in the same order as in production.
/// Directly in the test transaction nothing can be registered, as outside of any transaction.
///
/// # Not available through the wrapper
/// What Diesel offers for concrete connection types only: pass `&mut **conn`. These are COPY TO,
/// and batch inserts with `RETURNING` on SQLite.
///
/// # Examples
/// ```
/// use diesel::prelude::*;
/// use diesel_deferred::{DeferredConnection, atomic};
///
/// # fn main() -> QueryResult<()> {
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
/// let (sender, receiver) = std::sync::mpsc::channel();
/// atomic!(conn, {
///     conn.after_commit(move |_| sender.send("committed"))?;
///     assert!(receiver.try_recv().is_err(), "not yet");
///     QueryResult::Ok(())
/// })?;
/// assert_eq!(receiver.recv(), Ok("committed"));
/// # Ok(())
/// # }
/// ```
pub struct DeferredConnection<C> {
    pub(crate) inner: C,
    pub(crate) keeper: Keeper<Self>,
}

on_both_kinds!(DeferredConnection where C: Deferrable);

impl<C: Deferrable> DeferredConnection<C> {
    #[doc = include_str!("docs/after_commit.md")]
    #[track_caller]
    pub fn after_commit<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> R + Send + 'static,
        R: TaskOutput,
    {
        let hook = self.keeper.traced(Hook::closure(Closure::new(Location::caller(), hook)));
        open_queue(self, type_name::<F>(), Location::caller())?.after_commit(hook);
        Ok(())
    }

    #[doc = include_str!("docs/after_rollback.md")]
    #[track_caller]
    pub fn after_rollback<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> R + Send + 'static,
        R: TaskOutput,
    {
        let hook = self.keeper.traced(Hook::closure(Closure::new(Location::caller(), hook)));
        open_queue(self, type_name::<F>(), Location::caller())?.after_rollback(hook);
        Ok(())
    }

    #[doc = include_str!("docs/before_commit.md")]
    #[track_caller]
    pub fn before_commit<F>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> QueryResult<()> + Send + 'static,
    {
        let hook = BeforeCommit {
            name: type_name::<F>(),
            call_site: Location::caller(),
            run: Box::new(|conn| Step::Done(hook(conn))),
        };
        open_queue(self, type_name::<F>(), Location::caller())?.before_commit(hook);
        Ok(())
    }

    /// Begins, runs the callback, and ends the transaction as the callback did.
    pub(crate) fn run_transaction<F, R, E>(&mut self, opening: Opening<'_>, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut Self) -> Result<R, E>,
        E: From<Error>,
    {
        let (mut callback, mut returned) = (Some(callback), None);
        self.run_erased(opening, &mut |conn| {
            returned = callback.take().map(|callback| callback(conn));
            matches!(returned, Some(Ok(_)))
        })?;
        // It is there: a transaction that ended without an error has run the callback.
        returned.unwrap_or_else(|| Err(Error::RollbackTransaction.into()))
    }

    /// [`Self::run_transaction`], of a callback that says whether to commit. Not generic, because
    /// it would be compiled for each block.
    fn run_erased(&mut self, opening: Opening<'_>, callback: &mut dyn FnMut(&mut Self) -> bool) -> QueryResult<()> {
        if is_on() && !self.state().is_some_and(State::is_nested) {
            return self.run_in_a_span(opening, callback);
        }
        self.run_block(opening, callback)
    }

    /// The outermost one, where somebody listens.
    #[inline(never)]
    fn run_in_a_span(&mut self, opening: Opening<'_>, callback: &mut dyn FnMut(&mut Self) -> bool) -> QueryResult<()> {
        let around = self.keeper.begin_span();
        let ended = catch_unwind(AssertUnwindSafe(|| self.run_block(opening, callback)));
        self.keeper.end_span(around);
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    #[inline(always)]
    fn run_block(&mut self, opening: Opening<'_>, callback: &mut dyn FnMut(&mut Self) -> bool) -> QueryResult<()> {
        let entry = self.begin_transaction(opening)?;
        self.keeper.blocks += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(self)));
        self.keeper.blocks -= 1;
        match outcome {
            Ok(true) => self.commit_transaction(entry, opening.promise()),
            Ok(false) => self.roll_transaction_back(entry),
            Err(panic) => {
                self.unwind_transaction(entry);
                resume_unwind(panic)
            }
        }
    }

    /// [`begin`], with a short cut for the usual: it costs a third of what the machinery of futures
    /// does.
    #[inline]
    fn begin_transaction(&mut self, opening: Opening<'_>) -> QueryResult<usize> {
        match ready_to_begin(self, opening) {
            Some(state) if opening.is_plain() => {
                let begun = C::TransactionManager::begin_transaction(&mut self.inner);
                note_begun(self, state, begun)
            }
            _ => self.begin_unusual(opening),
        }
    }

    /// [`end_with_commit`], with the same short cut.
    #[inline]
    fn commit_transaction(&mut self, entry: usize, promise: Promise) -> QueryResult<()> {
        let Some(stage) = ready_to_commit(self, entry + 1, promise) else {
            return self.commit_unusual(entry, promise);
        };
        match C::TransactionManager::commit_transaction(&mut self.inner) {
            Ok(()) => {
                run_committed_now(self, entry, stage);
                Ok(())
            }
            Err(error) => Err(self.fail_to_commit(entry, error)),
        }
    }

    // The rest is not inlined: the variables of its futures would be the short cut's, too, and all
    // of them would be on the stack of a block in a hook in a block.

    #[inline(never)]
    fn begin_unusual(&mut self, opening: Opening<'_>) -> QueryResult<usize> {
        now(begin(self, opening))
    }

    #[inline(never)]
    fn commit_unusual(&mut self, entry: usize, promise: Promise) -> QueryResult<()> {
        now(end_with_commit(self, entry, promise))
    }

    #[cold]
    fn fail_to_commit(&mut self, entry: usize, error: Error) -> Error {
        now(end_failed_commit(self, entry, error))
    }

    #[inline(never)]
    fn roll_transaction_back(&mut self, entry: usize) -> QueryResult<()> {
        now(end_with_rollback(self, entry))
    }

    #[cold]
    fn unwind_transaction(&mut self, entry: usize) {
        now(end_with_panic(self, entry));
    }
}

impl<C: Deferrable> AfterCommit for DeferredConnection<C> {
    type Wrapper = Self;

    fn deferring(&mut self) -> &mut Self {
        self
    }
}

impl<C: Deferrable> Wrapper for DeferredConnection<C> {
    const PROOF: CommitProof = C::PROOF;
    #[cfg(feature = "durable")]
    const IS_MYSQL: bool = C::IS_MYSQL;
    const OUTLIVES_DROPPED_STATEMENTS: bool = true;
    const ASYNC: bool = false;
    // Seen in debug builds: some 30 KB each on PostgreSQL and MariaDB, 10 KB on SQLite.
    const HOOK_DEPTH: usize = 32;

    #[inline(always)]
    fn keeper(&mut self) -> &mut Keeper<Self> {
        &mut self.keeper
    }

    #[inline(always)]
    fn status(&mut self) -> &mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(&mut self.inner)
    }

    fn tell(&mut self, event: InstrumentationEvent<'_>) {
        self.inner.instrumentation().on_connection_event(event);
    }

    fn begin_sql(options: &BeginOptions) -> String {
        C::begin_sql(options)
    }

    #[inline]
    fn send_begin(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        ready(C::TransactionManager::begin_transaction(&mut self.inner))
    }

    #[inline]
    fn send_commit(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        ready(C::TransactionManager::commit_transaction(&mut self.inner))
    }

    #[inline]
    fn send_rollback(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        ready(C::TransactionManager::rollback_transaction(&mut self.inner))
    }

    #[inline]
    fn send_sql(&mut self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send {
        ready(self.inner.batch_execute(sql))
    }

    #[cfg(feature = "durable")]
    fn send_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send {
        ready(self.inner.store_calls(calls))
    }

    #[cfg(feature = "durable")]
    fn make_room_now(&mut self) -> QueryResult<()> {
        self.make_room()
    }

    #[cfg(feature = "testing")]
    fn finish(task: super::aside::Task) -> super::aside::Finishing {
        Box::pin(ready(super::aside::finish(task)))
    }
}

/// Diesel's transaction manager for [`DeferredConnection`]: moves the hooks along with the
/// transactions.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DeferredTransactionManager;

impl<C: Deferrable> TransactionManager<DeferredConnection<C>> for DeferredTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    fn begin_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        now(begin(conn, Opening::AsDiesel)).map(drop)
    }

    fn rollback_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        now(rollback(conn))
    }

    fn commit_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        match conn.state() {
            Some(State { depth: 0, .. }) if conn.keeper.queue().depth() == 0 => Err(Error::NotInTransaction),
            _ => now(commit_innermost(conn, Promise::AsDiesel)),
        }
    }

    fn transaction_manager_status_mut(conn: &mut DeferredConnection<C>) -> &mut TransactionManagerStatus {
        conn.status()
    }

    fn transaction<F, R, E>(conn: &mut DeferredConnection<C>, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut DeferredConnection<C>) -> Result<R, E>,
        E: From<Error>,
    {
        conn.run_transaction(Opening::AsDiesel, callback)
    }

    fn is_broken_transaction_manager(conn: &mut DeferredConnection<C>) -> bool {
        C::TransactionManager::is_broken_transaction_manager(&mut conn.inner)
    }
}

/// A closure that is given the connection.
struct Closure<F> {
    call_site: &'static Location<'static>,
    closure: Option<F>,
    origin: Origin,
}

impl<F> Closure<F> {
    fn new(call_site: &'static Location<'static>, closure: F) -> Self {
        Self { call_site, closure: Some(closure), origin: Origin::none() }
    }
}

impl<C, F, R> Body<DeferredConnection<C>> for Closure<F>
where
    F: FnOnce(&mut DeferredConnection<C>) -> R + Send,
    R: TaskOutput,
    C: Deferrable,
{
    fn run<'a>(&'a mut self, conn: &'a mut DeferredConnection<C>, _: &'a Stage, _: HookKind) -> Step<'a, Outcome> {
        let Some(closure) = self.closure.take() else { return Step::Done(Ok(())) };
        let call_site = self.call_site;
        let depth = conn.depth();
        let result = outcome(call_site, contain(|| closure(conn).into_result()));
        // Only a closure is given the connection, so that only a closure can leave it in another
        // state.
        let left_open = now(close_above(conn, depth));
        Step::Done(match result {
            Ok(()) if left_open => Err(Box::new(Failed::new(call_site, FailureCause::LeftTransactionOpen))),
            result => result,
        })
    }

    fn facts(&self) -> Facts {
        Facts { name: type_name::<F>(), call_site: self.call_site, needs: None, wants_connection: true }
    }

    #[cfg(feature = "opentelemetry")]
    fn origin(&mut self) -> Option<&mut Origin> {
        Some(&mut self.origin)
    }
}
