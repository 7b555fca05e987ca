//! What a deferring connection keeps beside the connection below: the hooks that wait, and what is known of the transaction.
//!
//! Must not know: how a transaction begins and ends.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::result::QueryResult;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::run::{Ready, lose_strays};
use super::watch::{Doubt, Watch};
use super::wrapper::{State, Wrapper};
use crate::dispatch::Route;
use crate::durable::NewTask;
use crate::error::{CannotStore, CommitError};
use crate::hook::{BeforeCommit, Hook};
use crate::queue::Queue;
use crate::report::{HookKind, PendingHook, Report};

/// What waits on the deferring connection `W`.
pub(super) type Waiting<W> = Queue<Hook<W>, BeforeCommit<W>, NewCall>;

/// A durable call, or what is wrong with it, which its transaction fails with.
pub(crate) type NewCall = Result<NewTask, CannotStore>;

/// The state of the deferring connection `W`.
pub(crate) struct Keeper<W> {
    /// Up to date only behind a call of [`Self::queue`].
    pub(super) queue: Waiting<W>,
    staging: Staging<W>,
    /// A second handle to it for the next block: handing out one that exists costs no atomic operation.
    spare: Option<Staging<W>>,
    pub(super) watch: Watch,
    /// The depths of transactions that were opened by the transaction manager itself, so that nobody is told where the future
    /// that they belong to is dropped: by the method of a pooled connection's, or by hand.
    #[cfg(feature = "async")]
    unguarded: Vec<usize>,
    /// Why the open transaction must not be committed any more.
    pub(super) doom: Option<Doom>,
    pub(super) interrupted: Interrupted,
    pub(super) ready: Ready<W>,
    pub(super) report: Report,
    /// How many lists of hooks are being run, one in the other.
    pub(super) running: usize,
    /// How many blocks are open, one in the other, whatever became of their transactions.
    pub(super) blocks: usize,
    pub(super) stop_at_first_failure: bool,
    /// Where tasks go that do not run on this thread.
    pub(super) route: Route,
    /// Whether the open transaction has stored durable calls that are due when it has committed.
    pub(super) wakes_workers: bool,
    /// Whether it has stored some before its COMMIT, which may have ended it since.
    pub(super) has_spilled: bool,
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

/// Whether the future of something that this connection was doing was dropped before that was done. A statement is marked while
/// it is under way; where its future is dropped, the mark stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Interrupted {
    #[default]
    No,
    /// A block, between two statements of ours. `entry` is the depth of the innermost one around it that has not ended yet.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "nothing else is cancelled"))]
    InBlock { entry: usize, outermost: bool },
    /// A statement that begins, releases or rolls back.
    InStatement,
    /// The outermost COMMIT.
    InCommit,
}

impl<W> Keeper<W> {
    pub(super) fn new() -> Self {
        let watch = Watch::default();
        // Of a transaction that is open already nothing was seen.
        watch.suspect(Doubt::Unseen);
        Self {
            queue: Queue::new(),
            staging: Staging::new(),
            spare: None,
            watch,
            #[cfg(feature = "async")]
            unguarded: Vec::new(),
            doom: None,
            interrupted: Interrupted::No,
            ready: Ready::new(),
            report: Report::default(),
            running: 0,
            blocks: 0,
            stop_at_first_failure: false,
            route: Route::none(),
            wakes_workers: false,
            has_spilled: false,
        }
    }

    /// What waits, in the order of registration: commit hooks, then rollback hooks, then before-commit hooks.
    pub(super) fn pending(&self) -> Vec<PendingHook> {
        self.queue.view(|waiting| {
            let depth = self.queue.depth();
            let commit = waiting.commit_hooks().map(|(depth, hook)| hook.describe(HookKind::AfterCommit, depth));
            let rollback = waiting.rollback_hooks().map(|(depth, hook)| hook.describe(HookKind::AfterRollback, depth));
            let before = waiting.before_hooks().map(|(depth, hook)| hook.describe(depth));
            let calls = waiting.waiting_calls().map(|(depth, call)| describe(call, depth));
            let staged = self.staging.inspect(|hook| hook.describe(HookKind::AfterCommit, depth));
            let staged_calls = self.staging.inspect_calls(|call| describe(call, depth));
            commit.chain(staged).chain(rollback).chain(before).chain(calls).chain(staged_calls).collect()
        })
    }

    /// Where a block's statements register their tasks.
    pub(crate) fn lend_staging(&mut self) -> Staging<W> {
        self.spare.take().unwrap_or_else(|| self.staging.clone())
    }

    /// The block has ended.
    pub(crate) fn return_staging(&mut self, staging: Staging<W>) {
        if self.spare.is_none() {
            self.spare = Some(staging);
        }
    }

    /// The queue, up to date with what blocks have staged.
    #[inline]
    pub(super) fn queue(&mut self) -> &mut Waiting<W> {
        if self.staging.0.occupied.load(Ordering::Relaxed) {
            self.take_over_staged();
        }
        &mut self.queue
    }

    fn take_over_staged(&mut self) {
        let mut staged = self.staging.lock();
        let mut calls = self.staging.0.calls.lock();
        self.staging.0.occupied.store(false, Ordering::Relaxed);
        if self.queue.depth() > 0 {
            self.queue.append_after_commit(&mut staged);
            self.queue.append_calls(&mut calls);
            return;
        }
        let (strays, stray_calls) = (std::mem::take(&mut *staged), std::mem::take(&mut *calls));
        drop((staged, calls));
        lose_strays(self, strays, stray_calls);
    }

    /// A transaction was begun: whether anybody is told where its future is dropped.
    #[cfg(feature = "async")]
    pub(super) fn note_guard(&mut self, guarded: bool) {
        let depth = self.queue.depth();
        self.unguarded.retain(|of| *of < depth);
        if !guarded {
            self.unguarded.push(depth);
        }
    }

    /// The depth of the innermost transaction, where it is an unguarded one.
    #[cfg(feature = "async")]
    pub(super) fn unguarded(&self) -> Option<usize> {
        let depth = self.queue.depth();
        (depth > 0 && self.unguarded.last() == Some(&depth)).then_some(depth)
    }

    /// Whether any durable call is to be stored.
    #[cfg(feature = "durable")]
    #[inline]
    pub(super) fn has_calls(&mut self) -> bool {
        self.queue().has_calls()
    }

    /// Whether some task that was registered takes more than the connection to run.
    pub(super) fn has_needs(&self) -> bool {
        self.staging.0.needs.load(Ordering::Relaxed)
    }

    pub(super) fn note_needs(&self) {
        self.staging.0.needs.store(true, Ordering::Relaxed);
    }

    pub(super) fn forget_needs(&self) {
        self.staging.0.needs.store(false, Ordering::Relaxed);
    }
}

/// The queue, where a transaction is open, with a mark for each depth; `task` and `call_site` say what is to be
/// registered there.
///
/// # Errors
/// [`CommitError::NotInTransaction`] or [`CommitError::Cancelled`].
pub(super) fn open_queue<'c, W: Wrapper>(
    conn: &'c mut W,
    task: &'static str,
    call_site: &'static Location<'static>,
) -> QueryResult<&'c mut Waiting<W>> {
    if conn.keeper().interrupted != Interrupted::No {
        return Err(CommitError::Cancelled.into());
    }
    // What is registered directly in a test transaction would wait for ever: in production it is outside of any.
    let Some(State { depth, .. }) = conn.state().filter(|state| state.is_nested()) else {
        return Err(CommitError::NotInTransaction { task, call_site }.into());
    };
    let queue = conn.keeper().queue();
    // Transactions may have been opened below the wrapper, or before it.
    queue.begin_up_to(depth);
    Ok(queue)
}

impl<W> fmt::Debug for Keeper<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("queue", &self.queue)
            .field("staged", &self.staging)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// As it is shown to users.
pub(super) fn describe(call: &NewCall, depth: usize) -> PendingHook {
    match call {
        Ok(task) => task.describe(depth),
        Err(CannotStore { task, call_site, reason }) => {
            PendingHook { task, arguments: reason.clone(), call_site, depth, kind: HookKind::Durable }
        }
    }
}

/// Tasks on their way from the statements of a block into the connection's queue.
///
/// A block registers here and not on the connection itself, because a statement's value may still borrow the connection
/// when its task is registered. The connection takes over what is staged before it looks at its queue, so that the order
/// is kept and the queue itself needs no lock.
pub(crate) struct Staging<W>(Arc<StagingInner<W>>);

struct StagingInner<W> {
    /// Whether the list may hold anything: a transaction without tasks never takes the lock.
    occupied: AtomicBool,
    /// Whether any task takes a dispatcher.
    needs: AtomicBool,
    tasks: SpinMutex<Vec<Hook<W>>>,
    calls: SpinMutex<Vec<NewCall>>,
}

impl<W> Staging<W> {
    fn new() -> Self {
        Self(Arc::new(StagingInner {
            occupied: AtomicBool::new(false),
            needs: AtomicBool::new(false),
            tasks: SpinMutex::new(Vec::new()),
            calls: SpinMutex::new(Vec::new()),
        }))
    }

    /// Maps what is staged. Not under the lock: `f` runs code of a user's. One thread at a time, that which views the queue.
    fn inspect<T>(&self, f: impl FnMut(&Hook<W>) -> T) -> Vec<T> {
        let mut staged = std::mem::take(&mut *self.lock());
        let mapped = staged.iter().map(f).collect();
        let mut tasks = self.lock();
        staged.append(&mut tasks);
        *tasks = staged;
        mapped
    }

    /// Maps the durable calls that are staged. Under the lock: nothing of a user's runs.
    fn inspect_calls<T>(&self, f: impl FnMut(&NewCall) -> T) -> Vec<T> {
        self.0.calls.lock().iter().map(f).collect()
    }

    #[inline]
    fn lock(&self) -> SpinMutexGuard<'_, Vec<Hook<W>>> {
        self.0.tasks.lock()
    }

    // Always inlined: the hook is then built where it is stored, not copied there.
    #[inline(always)]
    pub(crate) fn push(&self, hook: Hook<W>, needs: bool) {
        let mut tasks = self.lock();
        tasks.push(hook);
        // Relaxed: whoever reads them has the connection by `&mut`, so was synchronised with by other means.
        self.0.occupied.store(true, Ordering::Relaxed);
        if needs {
            self.0.needs.store(true, Ordering::Relaxed);
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn push_call(&self, call: NewCall) {
        self.0.calls.lock().push(call);
        self.0.occupied.store(true, Ordering::Relaxed);
    }
}

impl<W> Clone for Staging<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W> fmt::Debug for Staging<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.lock(), f)
    }
}
