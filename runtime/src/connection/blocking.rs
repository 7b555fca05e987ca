//! The synchronous wrapper: its state and what users call on it.
//!
//! Must not know: how a transaction begins and ends (that is `transaction`), or what Diesel's traits want (`forward`).

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::result::{Error, QueryResult};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::transaction::State;
use super::watch::{Doubt, Watch};
use super::{AfterCommit, Deferrable};
use crate::atomic::{HasImmediate, TransactionBuilder};
use crate::error::CommitError;
use crate::hook::{BeforeCommit, Hook};
use crate::queue::Queue;
use crate::report::{HookKind, PendingHook, Report};
use crate::task::{Task, TaskOutput};

/// A Diesel connection that keeps tasks until the outermost transaction commits.
///
/// It wraps `C` and is a connection like it: queries, `transaction`, migrations, `save_changes`, COPY, r2d2 pools of it
/// and around it. Transactions that other code opens with `conn.transaction(…)` count like [`atomic!`](crate::atomic)
/// blocks. It derefs to `C` for functions that take the connection below; nothing can be registered there, but
/// transactions opened there nest.
///
/// # Raw SQL that ends a transaction
/// A raw COMMIT or ROLLBACK in a block is found out and refused ([`CommitError::EndedEarly`]), unless another transaction
/// has begun by the time of the COMMIT, which then succeeds: hooks run although what came before is lost. That is so
/// * behind a raw `ROLLBACK; BEGIN` (on PostgreSQL only where the two are one message) or `ROLLBACK AND CHAIN`,
/// * on MySQL and MariaDB with `autocommit = 0`, where the next statement begins one,
/// * where the connection below is driven by hand ([`inner_mut`](Self::inner_mut) and Diesel's transaction manager).
///
/// Raw `SAVEPOINT` and `ROLLBACK TO` are not seen either. Use a nested [`atomic!`](crate::atomic) for a partial rollback.
///
/// # DDL on MySQL and MariaDB
/// It commits what ran before it. A block, and any transaction with hooks, is refused then
/// ([`CommitError::EndedEarly`]); a plain `conn.transaction(…)` without hooks is Diesel's, so that migrations, which run in
/// one each, work as on the connection below.
///
/// # Dropping and replacing
/// Hooks die with the connection that they wait on, and with the transaction: a connection that is dropped, closed or
/// replaced (`*conn.inner_mut() = …`) while a transaction is open never runs them.
///
/// # Test transactions
/// After [`begin_test_transaction`](diesel::Connection::begin_test_transaction), and in
/// [`test_transaction`](diesel::Connection::test_transaction), the block *inside* counts as the outermost: hooks run when it
/// returns, at the same point and in the same order as in production. Directly in the test transaction nothing can be
/// registered, as outside of any transaction.
///
/// # Not available through the wrapper
/// What Diesel offers for concrete connection types only: pass `&mut **conn`. These are COPY TO, and batch inserts with
/// `RETURNING` on SQLite.
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
    pub(super) inner: C,
    /// Up to date only behind a call of [`Self::queue`].
    pub(super) queue: Queue<Hook<C>, BeforeCommit<C>>,
    staging: Staging<C>,
    /// A second handle to it for the next block: handing out one that exists costs no atomic operation.
    spare: Option<Staging<C>>,
    pub(super) watch: Watch,
    /// Why the open transaction must not be committed any more.
    pub(super) doom: Option<Doom>,
    pub(super) report: Report,
    /// How many lists of hooks are being run, one in the other.
    pub(super) running: usize,
    /// How many blocks are open, one in the other, whatever became of their transactions.
    pub(super) blocks: usize,
    pub(super) stop_at_first_failure: bool,
}

/// A verdict on a transaction that came before its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doom {
    RolledBack,
    EndedEarly,
}

impl From<Doom> for CommitError {
    fn from(doom: Doom) -> Self {
        match doom {
            Doom::RolledBack => Self::RolledBack,
            Doom::EndedEarly => Self::EndedEarly,
        }
    }
}

/// Tasks on their way from the statements of a block into the connection's queue.
///
/// A block registers here and not on the connection itself, because a statement's value may still borrow the connection
/// when its task is registered. The connection takes over what is staged before it looks at its queue, so that the order
/// is kept and the queue itself needs no lock.
pub(crate) struct Staging<C>(Arc<StagingInner<C>>);

struct StagingInner<C> {
    /// Whether the list may hold anything: a transaction without tasks never takes the lock.
    occupied: AtomicBool,
    tasks: SpinMutex<Vec<Hook<C>>>,
}

impl<C> Staging<C> {
    fn new() -> Self {
        Self(Arc::new(StagingInner { occupied: AtomicBool::new(false), tasks: SpinMutex::new(Vec::new()) }))
    }

    /// Maps what is staged. Not under the lock: `f` runs code of a user's.
    fn inspect<T>(&self, f: impl FnMut(&Hook<C>) -> T) -> Vec<T> {
        let mut staged = std::mem::take(&mut *self.lock());
        let mapped = staged.iter().map(f).collect();
        let mut tasks = self.lock();
        staged.append(&mut tasks);
        *tasks = staged;
        mapped
    }

    #[inline]
    fn lock(&self) -> SpinMutexGuard<'_, Vec<Hook<C>>> {
        self.0.tasks.lock()
    }

    // Always inlined: the hook is then built where it is stored, not copied there.
    #[inline(always)]
    pub(crate) fn push(&self, hook: Hook<C>) {
        let mut tasks = self.lock();
        tasks.push(hook);
        // Relaxed: whoever reads it has the connection by `&mut`, so was synchronised with by other means.
        self.0.occupied.store(true, Ordering::Relaxed);
    }
}

impl<C> Clone for Staging<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for Staging<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.lock(), f)
    }
}

impl<C> DeferredConnection<C> {
    /// Wraps a connection.
    ///
    /// A transaction that is open on it already counts: hooks wait for its commit, if that goes through the wrapper.
    pub fn new(inner: C) -> Self {
        let mut watch = Watch::default();
        // Of a transaction that is open already nothing was seen.
        watch.suspect(Doubt::Unseen);
        Self {
            inner,
            queue: Queue::new(),
            staging: Staging::new(),
            spare: None,
            watch,
            doom: None,
            report: Report::default(),
            running: 0,
            blocks: 0,
            stop_at_first_failure: false,
        }
    }

    /// Gives the wrapped connection back. What waits is dropped and never runs.
    pub fn into_inner(self) -> C {
        self.inner
    }

    /// The wrapped connection.
    ///
    /// Statements that run there are not seen by the wrapper, so the commit of the transaction around them is proven even
    /// where nothing waits.
    pub fn inner_mut(&mut self) -> &mut C {
        self.watch.suspect(Doubt::Unseen);
        &mut self.inner
    }

    /// What became of the hooks of the last outermost transaction.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use diesel_deferred::{DeferredConnection, atomic};
    ///
    /// # fn main() -> QueryResult<()> {
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    /// atomic!(conn, {
    ///     conn.after_commit(|_| Err("the mail server is down"))?;
    ///     QueryResult::Ok(())
    /// })?; // committed: a failing hook changes nothing about that
    /// let [failure] = conn.last_report().failures() else { panic!("one failed") };
    /// assert_eq!(failure.cause.to_string(), "the mail server is down");
    /// # Ok(())
    /// # }
    /// ```
    pub fn last_report(&self) -> &Report {
        &self.report
    }

    /// Whether the hooks behind one that failed still run (`false`, the default) or are only
    /// [reported](Report::not_run) (`true`).
    pub fn stop_hooks_at_first_failure(&mut self, stop: bool) {
        self.stop_at_first_failure = stop;
    }

    /// What waits, in the order of registration: commit hooks, then rollback hooks, then before-commit hooks.
    pub fn pending(&self) -> Vec<PendingHook> {
        let queue = &self.queue;
        let commit = queue.commit_hooks().map(|(depth, hook)| hook.describe(HookKind::AfterCommit, depth));
        let rollback = queue.rollback_hooks().map(|(depth, hook)| hook.describe(HookKind::AfterRollback, depth));
        let before = queue.before_hooks().map(|(depth, hook)| hook.describe(depth));
        let staged = self.staging.inspect(|hook| hook.describe(HookKind::AfterCommit, queue.depth()));
        commit.chain(staged).chain(rollback).chain(before).collect()
    }

    /// Where a block's statements register their tasks.
    pub(crate) fn lend_staging(&mut self) -> Staging<C> {
        self.spare.take().unwrap_or_else(|| self.staging.clone())
    }

    /// The block has ended.
    pub(crate) fn return_staging(&mut self, staging: Staging<C>) {
        if self.spare.is_none() {
            self.spare = Some(staging);
        }
    }
}

impl<C: Deferrable> DeferredConnection<C> {
    /// Whether a transaction is open; a test transaction does not count. Sends no SQL.
    pub fn in_transaction(&mut self) -> bool {
        self.state().is_some_and(State::is_nested)
    }

    /// Runs `hook` after the outermost transaction committed, if what it belongs to was not rolled back.
    ///
    /// The hook is given the connection, which is outside of any transaction then. A transaction that it opens and leaves
    /// open is rolled back and reported; one that it opens by raw SQL is not seen.
    ///
    /// # Errors
    /// [`NotInTransaction`](Error::NotInTransaction) outside of a transaction: the hook is not kept, and not run.
    #[track_caller]
    pub fn after_commit<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> R + Send + 'static,
        R: TaskOutput,
    {
        let hook = Hook::closure(Location::caller(), hook);
        self.open_queue()?.after_commit(hook);
        Ok(())
    }

    /// Runs `hook` after the innermost open transaction or one around it was rolled back; never after a commit.
    ///
    /// The deepest run first, and within one depth the latest. After the rollback of a savepoint the transaction around
    /// it is still open while the hook runs. A transaction whose end is not known for sure
    /// ([`CommitError::Unknown`], [`CommitError::EndedEarly`]) runs neither kind of hook.
    ///
    /// # Errors
    /// [`NotInTransaction`](Error::NotInTransaction) outside of a transaction: the hook is not kept, and not run.
    #[track_caller]
    pub fn after_rollback<F, R>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> R + Send + 'static,
        R: TaskOutput,
    {
        let hook = Hook::closure(Location::caller(), hook);
        self.open_queue()?.after_rollback(hook);
        Ok(())
    }

    /// Runs `hook` in the transaction, just before the outermost COMMIT. Its error rolls everything back and is what the
    /// transaction returns.
    ///
    /// # Errors
    /// [`NotInTransaction`](Error::NotInTransaction) outside of a transaction: the hook is not kept, and not run.
    #[track_caller]
    pub fn before_commit<F>(&mut self, hook: F) -> QueryResult<()>
    where
        F: FnOnce(&mut Self) -> QueryResult<()> + Send + 'static,
    {
        let hook = BeforeCommit::new(Location::caller(), hook);
        self.open_queue()?.before_commit(hook);
        Ok(())
    }

    /// A transaction with options; [`atomic!`](crate::atomic) writes this for you.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use diesel_deferred::DeferredConnection;
    ///
    /// # fn main() -> QueryResult<()> {
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    /// conn.build_transaction().immediate().run(|conn| diesel::sql_query("SELECT 1").execute(conn))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_, C> {
        TransactionBuilder::new(self)
    }

    /// A transaction that takes SQLite's write lock at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the transaction returns.
    pub fn immediate_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        C: HasImmediate,
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.build_transaction().immediate().run(f)
    }

    /// A transaction that locks an SQLite database for everybody else at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the transaction returns.
    pub fn exclusive_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        C: HasImmediate,
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.build_transaction().exclusive().run(f)
    }

    /// The queue, up to date with what blocks have staged.
    #[inline]
    pub(super) fn queue(&mut self) -> &mut Queue<Hook<C>, BeforeCommit<C>> {
        if self.staging.0.occupied.load(Ordering::Relaxed) {
            self.take_over_staged();
        }
        &mut self.queue
    }

    fn take_over_staged(&mut self) {
        let mut staged = self.staging.lock();
        self.staging.0.occupied.store(false, Ordering::Relaxed);
        if self.queue.depth() > 0 {
            self.queue.append_after_commit(&mut staged);
            return;
        }
        let strays = std::mem::take(&mut *staged);
        drop(staged);
        self.lose_strays(strays);
    }

    /// The queue, where a transaction is open, with a mark for each depth.
    fn open_queue(&mut self) -> QueryResult<&mut Queue<Hook<C>, BeforeCommit<C>>> {
        // What is registered directly in a test transaction would wait for ever: in production it is outside of any.
        let Some(State { depth, .. }) = self.state().filter(|state| state.is_nested()) else {
            return Err(Error::NotInTransaction);
        };
        let queue = self.queue();
        // Transactions may have been opened below the wrapper, or before it.
        queue.begin_up_to(depth);
        Ok(queue)
    }
}

impl<C: Deferrable> AfterCommit for DeferredConnection<C> {
    fn in_transaction(&mut self) -> bool {
        self.in_transaction()
    }

    fn defer_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        self.open_queue()?.after_commit(Hook::task(task));
        Ok(())
    }

    fn compensate_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        self.open_queue()?.after_rollback(Hook::task(task));
        Ok(())
    }
}

impl<C> fmt::Debug for DeferredConnection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredConnection")
            .field("queue", &self.queue)
            .field("staged", &self.staging)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}
