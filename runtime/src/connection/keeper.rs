//! What a deferring connection keeps beside the connection below: the hooks that wait, what is
//! known of the transaction, and what is told of hooks that failed or did not run.
//!
//! A captured value's `Drop` is code of a user's too: where hooks are dropped its panic is
//! contained and reported, because the transaction has ended by then and nothing can be refused any
//! more.
//!
//! Must not know: the connection below, or how a transaction begins and ends.

use std::fmt;
use std::panic::Location;

use super::ending::{Doom, Doubt};
#[cfg(feature = "testing")]
use super::held::Held;
use super::staging::{NewCall, Staging};
use super::watch::Watch;
use crate::dispatch::Route;
use crate::durable::NewTask;
use crate::error::CannotStore;
use crate::guarded::Guarded;
use crate::hook::{BeforeCommit, Failed, Hook};
use crate::metrics::Tally;
use crate::panics::contain;
use crate::queue::Queue;
use crate::report::{FailureCause, HookFailure, HookKind, PendingHook, Report, not_run};
use crate::spans::{Around, Origin, is_on};

/// What waits on the deferring connection `W`.
pub(super) type Waiting<W> = Queue<Hook<W>, BeforeCommit<W>, NewCall>;

/// The state of the deferring connection `W`.
pub(crate) struct Keeper<W> {
    /// Up to date only behind a call of [`Self::queue`].
    pub(super) queue: Waiting<W>,
    pub(super) staging: Staging<W>,
    /// A second handle to it for the next block: handing out one that exists costs no atomic
    /// operation.
    spare: Option<Staging<W>>,
    pub(super) watch: Watch,
    /// The depths of transactions that were opened by the transaction manager itself, so that
    /// nobody is told where the future that they belong to is dropped: by the method of a pooled
    /// connection's, or by hand.
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
    /// Whether its COMMIT can tell the workers of other processes of them.
    pub(super) can_notify: bool,
    /// Whether it has stored some before its COMMIT, which may have ended it since.
    pub(super) has_spilled: bool,
    /// How many calls it has stored.
    pub(super) tally: Tally,
    /// What a test has it hold back.
    #[cfg(feature = "testing")]
    pub(super) held: Guarded<Option<Box<Held<W>>>>,
}

/// Whether the future of something that this connection was doing was dropped before that was done.
/// A statement is marked while it is under way; where its future is dropped, the mark stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Interrupted {
    #[default]
    No,
    /// A block, between two statements of ours. `entry` is the depth of the innermost one around it
    /// that has not ended yet.
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
            can_notify: false,
            has_spilled: false,
            tally: Tally::default(),
            #[cfg(feature = "testing")]
            held: Guarded::new(None),
        }
    }

    /// What waits, in the order of registration: commit hooks, then rollback hooks, then
    /// before-commit hooks.
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
        if self.staging.is_occupied() {
            self.take_over_staged();
        }
        &mut self.queue
    }

    fn take_over_staged(&mut self) {
        let queue = &mut self.queue;
        if queue.depth() == 0 {
            self.tell_of_strays();
            return;
        }
        self.staging.take(|staged, calls| {
            queue.append_after_commit(staged);
            let bytes = calls.iter().flatten().map(NewTask::bytes).sum();
            queue.append_calls(calls, bytes);
        });
    }

    /// Their block registered them after its transaction was ended by hand. They belong to nothing
    /// that can be committed, and must not wait for the next transaction.
    #[cold]
    fn tell_of_strays(&mut self) {
        let (strays, calls) = self.staging.take(|staged, calls| (std::mem::take(staged), std::mem::take(calls)));
        let why = "its transaction had ended before it was called";
        self.lose_calls(&calls, 0, why);
        self.lose(&strays, HookKind::AfterCommit, 0, why);
        self.bury(strays, HookKind::AfterCommit);
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

    /// A hook that is registered now, which remembers what that is a part of.
    #[inline]
    pub(super) fn traced(&self, mut hook: Hook<W>) -> Hook<W> {
        if is_on() {
            hook.be_part_of(self.staging.origin());
        }
        hook
    }

    /// The same of a durable call.
    #[cfg(feature = "durable")]
    pub(super) fn trace(&self, call: &mut NewCall) {
        self.staging.trace(call);
    }

    /// The span of the open transaction.
    pub(super) fn origin(&self) -> Origin {
        if is_on() { self.staging.transaction() } else { Origin::none() }
    }

    /// Begins a span of a transaction.
    #[inline]
    pub(super) fn begin_span(&self) -> Around {
        self.staging.begin_span()
    }

    /// Ends it.
    #[inline]
    pub(super) fn end_span(&self, around: Around) {
        self.staging.end_span(around);
    }

    /// Whether some task that was registered takes more than the connection to run.
    pub(super) fn has_needs(&self) -> bool {
        self.staging.has_needs()
    }

    pub(super) fn note_needs(&self) {
        self.staging.set_needs(true);
    }

    pub(super) fn forget_needs(&self) {
        self.staging.set_needs(false);
    }
}

/// What is told of hooks.
impl<W> Keeper<W> {
    /// Notes a hook that failed, and tells of it.
    #[cold]
    pub(super) fn fail(&mut self, task: &'static str, kind: HookKind, failed: Failed) {
        let Failed { call_site, cause, span } = failed;
        let failure = HookFailure { task, call_site, kind, cause };
        span.run(|| {
            self.route.tell(&failure);
            self.report.fail(failure);
        });
    }

    /// Notes hooks above `depth` that will not run although nothing is known to have rolled them
    /// back.
    pub(super) fn lose(&mut self, hooks: &[Hook<W>], kind: HookKind, depth: usize, why: &'static str) {
        self.report.lose(hooks.iter().map(|hook| hook.describe(kind, depth + 1)).collect(), why);
    }

    /// Notes durable calls above `depth` that were not stored although nothing is known to have
    /// rolled their transaction back.
    pub(super) fn lose_calls(&mut self, calls: &[NewCall], depth: usize, why: &'static str) {
        self.report.lose(calls.iter().map(|call| describe(call, depth + 1)).collect(), why);
    }

    /// Drops hooks that will not run.
    pub(super) fn bury(&mut self, hooks: impl IntoIterator<Item = Hook<W>>, kind: HookKind) {
        for hook in hooks {
            self.bury_one(hook.name(), hook.call_site(), kind, hook);
        }
    }

    /// Drops before-commit hooks of a COMMIT that will not be.
    pub(super) fn bury_before_commit(&mut self, hooks: impl IntoIterator<Item = BeforeCommit<W>>) {
        for hook in hooks {
            self.bury_one(hook.name, hook.call_site, HookKind::BeforeCommit, hook);
        }
    }

    fn bury_one<H>(&mut self, task: &'static str, call_site: &'static Location<'static>, kind: HookKind, hook: H) {
        if let Err(message) = contain(|| drop(hook)) {
            self.fail(task, kind, Failed::new(call_site, FailureCause::Panic(message)));
        }
    }
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

/// Hooks that have to be given the connection, of a transaction that has ended; the future that ran
/// them was dropped.
pub(super) struct Ready<W>(Guarded<Vec<(Hook<W>, HookKind)>>);

impl<W> Ready<W> {
    pub(super) const fn new() -> Self {
        Self(Guarded::new(Vec::new()))
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.0.get_mut().is_empty()
    }

    pub(super) fn push(&mut self, hook: Hook<W>, kind: HookKind) {
        self.0.get_mut().push((hook, kind));
    }

    /// Those of that kind. The others stay where they are.
    pub(super) fn take(&mut self, kind: HookKind) -> Vec<Hook<W>> {
        let ready = self.0.get_mut();
        let (taken, others) = std::mem::take(ready).into_iter().partition::<Vec<_>, _>(|(_, of)| *of == kind);
        *ready = others;
        taken.into_iter().map(|(hook, _)| hook).collect()
    }
}

impl<W> Drop for Ready<W> {
    fn drop(&mut self) {
        for (hook, kind) in self.0.get_mut().drain(..) {
            not_run(&hook.describe(kind, 1), "the connection was dropped before it was used again");
            let _ = contain(|| drop(hook));
        }
    }
}
