//! What becomes of hooks when their transaction has ended: they run, vanish, or are reported as lost.
//!
//! A captured value's `Drop` is code of a user's too: where hooks are dropped its panic is contained and reported, because
//! the transaction has ended by then and nothing can be refused any more.
//!
//! Must not know: how a transaction ends, or whether the connection is asynchronous.

use std::panic::Location;

use super::commit::may_be_committed;
use super::keeper::{Doom, Keeper, NewCall, describe};
use super::wrapper::Wrapper;
use crate::dispatch::Stage;
use crate::guarded::Guarded;
use crate::hook::{BeforeCommit, Failed, Hook, Outcome, Step};
use crate::panics::contain;
use crate::queue::Dropped;
use crate::report::{FailureCause, HookFailure, HookKind, PendingHook, not_run};

const TOO_DEEP: &str = "it belongs to hooks in hooks, too deep for the stack";

const UNKNOWN_END: &str = "how its transaction ended is not known";

/// The outermost transaction, the one above `depth`, has committed: runs what waited for that.
#[inline]
pub(super) async fn run_committed<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) {
    if conn.keeper().queue.close_if_empty(depth) {
        return;
    }
    let (mut run, spent) = start_committed(conn, depth, stage);
    run.run_all().await;
    finish_committed(run, spent);
}

/// The same on a connection where nothing waits, without the machinery of futures.
#[inline]
pub(super) fn run_committed_now<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) {
    if conn.keeper().queue.close_if_empty(depth) {
        return;
    }
    let (mut run, spent) = start_committed(conn, depth, stage);
    run.up_to_one_that_waits();
    finish_committed(run, spent);
}

/// Rollback hooks of a transaction that committed: they have lost their purpose.
type Spent<W> = Vec<(usize, Hook<W>)>;

#[inline]
fn start_committed<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) -> (Run<'_, W>, Spent<W>) {
    let queue = &mut conn.keeper().queue;
    let hooks = queue.take_committed(depth);
    // Closed before a hook runs, which may open transactions of its own.
    let spent = queue.close_committed(depth);
    (Run::new(conn, hooks, HookKind::AfterCommit, stage), spent)
}

#[inline]
fn finish_committed<W: Wrapper>(mut run: Run<'_, W>, spent: Spent<W>) {
    let buffer = run.end();
    let keeper = run.conn.keeper();
    keeper.queue.recycle(buffer);
    if !spent.is_empty() {
        bury(keeper, spent.into_iter().map(|(_, hook)| hook), HookKind::AfterRollback);
    }
}

/// Runs hooks one after the other.
async fn run_hooks<W: Wrapper>(conn: &mut W, hooks: Vec<Hook<W>>, kind: HookKind, stage: Stage) {
    let mut run = Run::new(conn, hooks, kind, stage);
    run.run_all().await;
    run.end();
}

/// Hooks that are being run. Where its future is dropped, what has not run yet must not be lost.
struct Run<'c, W: Wrapper> {
    conn: &'c mut W,
    hooks: Vec<Hook<W>>,
    /// How many were started.
    next: usize,
    kind: HookKind,
    stage: Stage,
}

impl<'c, W: Wrapper> Run<'c, W> {
    #[inline]
    fn new(conn: &'c mut W, hooks: Vec<Hook<W>>, kind: HookKind, stage: Stage) -> Self {
        conn.keeper().running += 1;
        Self { conn, hooks, next: 0, kind, stage }
    }

    /// Runs them all.
    async fn run_all(&mut self) {
        while self.up_to_one_that_waits() {
            let hook = &mut self.hooks[self.next];
            self.next += 1;
            self.conn.keeper().report.ran += 1;
            let outcome = match hook.run(self.conn, &self.stage, self.kind) {
                Step::Done(outcome) => outcome,
                Step::Later(future) => future.await,
            };
            if self.ended(outcome) {
                return;
            }
        }
    }

    /// Runs hooks up to one that has to be awaited; says whether there is one. Not a part of the future, because most of them don't
    /// have to be.
    #[inline]
    fn up_to_one_that_waits(&mut self) -> bool {
        while let Some(hook) = self.hooks.get_mut(self.next) {
            if W::ASYNC && hook.wants_connection() {
                return true;
            }
            self.next += 1;
            self.conn.keeper().report.ran += 1;
            let Step::Done(outcome) = hook.run(self.conn, &self.stage, self.kind) else { return false };
            if self.ended(outcome) {
                return false;
            }
        }
        false
    }

    /// Notes how the last one ended; says whether it is to be the last.
    #[inline]
    fn ended(&mut self, outcome: Outcome) -> bool {
        let Err(failed) = outcome else { return false };
        let keeper = self.conn.keeper();
        let task = self.hooks[self.next - 1].name();
        keeper.fail(task, self.kind, *failed);
        keeper.stop_at_first_failure
    }

    /// Reports what did not run. Gives the emptied buffer back.
    #[inline]
    fn end(&mut self) -> Vec<Hook<W>> {
        let mut hooks = std::mem::take(&mut self.hooks);
        if self.next < hooks.len() {
            let not_run = hooks.split_off(self.next);
            let depth = self.conn.depth();
            let keeper = self.conn.keeper();
            lose(keeper, &not_run, self.kind, depth, "one before it failed");
            bury(keeper, not_run, self.kind);
        }
        // What has run has nothing left to drop.
        hooks.clear();
        hooks
    }
}

impl<W: Wrapper> Drop for Run<'_, W> {
    fn drop(&mut self) {
        self.conn.keeper().running -= 1;
        if self.hooks.is_empty() {
            return;
        }
        self.cancelled();
    }
}

impl<W: Wrapper> Run<'_, W> {
    /// The future was dropped while a hook was awaited. What needs no connection runs here and now, the rest when the connection
    /// is used again.
    #[cold]
    fn cancelled(&mut self) {
        let rest = self.hooks.split_off(self.next);
        let (kind, keeper) = (self.kind, self.conn.keeper());
        if let Some(awaited) = self.hooks.pop() {
            let call_site = awaited.call_site();
            keeper.fail(awaited.name(), kind, Failed { call_site, cause: FailureCause::Cancelled });
        }
        for mut hook in rest {
            if hook.wants_connection() {
                self.conn.keeper().ready.0.get_mut().push((hook, kind));
            } else {
                run_one(self.conn, &mut hook, kind, &self.stage);
            }
        }
    }
}

/// Runs a hook that needs no connection.
fn run_one<W: Wrapper>(conn: &mut W, hook: &mut Hook<W>, kind: HookKind, stage: &Stage) {
    conn.keeper().report.ran += 1;
    let outcome: Outcome = match hook.run(conn, stage, kind) {
        Step::Done(outcome) => outcome,
        Step::Later(_) => Ok(()),
    };
    if let Err(failed) = outcome {
        conn.keeper().fail(hook.name(), kind, *failed);
    }
}

/// Runs those that need no connection, where nothing can be awaited; the others are reported.
pub(super) fn run_without_connection<W: Wrapper>(conn: &mut W, hooks: Vec<Hook<W>>, kind: HookKind, depth: usize) {
    let stage = stage_for(conn, &hooks);
    for mut hook in hooks {
        if hook.wants_connection() {
            let keeper = conn.keeper();
            lose(keeper, std::slice::from_ref(&hook), kind, depth, "its transaction was cancelled");
            bury(keeper, [hook], kind);
        } else {
            run_one(conn, &mut hook, kind, &stage);
        }
    }
}

/// Hooks that have to be given the connection, of a transaction that has ended; the future that ran them was dropped.
pub(super) struct Ready<W>(Guarded<Vec<(Hook<W>, HookKind)>>);

impl<W> Ready<W> {
    pub(super) const fn new() -> Self {
        Self(Guarded::new(Vec::new()))
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.0.get_mut().is_empty()
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

/// Runs what a dropped future left.
#[cold]
pub(super) async fn run_ready<W: Wrapper>(conn: &mut W) {
    for kind in [HookKind::AfterCommit, HookKind::AfterRollback] {
        let ready = conn.keeper().ready.0.get_mut();
        // The others stay where they are: this future may be dropped too.
        let (now, later) = std::mem::take(ready).into_iter().partition::<Vec<_>, _>(|(_, of)| *of == kind);
        *ready = later;
        if !now.is_empty() {
            run_hooks(conn, now.into_iter().map(|(hook, _)| hook).collect(), kind, Stage::none()).await;
        }
    }
}

/// Nothing on a broken connection can be committed any more; what was committed before, on a database that does not
/// tell, is not known.
#[cold]
pub(super) async fn drop_broken<W: Wrapper>(conn: &mut W) {
    if may_be_committed(conn) { abandon(conn, 0) } else { discard(conn, 0).await }
}

/// What was registered above `depth` is over: rolled back, unless it is known to have ended otherwise.
pub(super) async fn drop_above<W: Wrapper>(conn: &mut W, depth: usize, doom: Option<Doom>) {
    match doom {
        Some(Doom::EndedEarly) => abandon(conn, depth),
        Some(Doom::RolledBack) | None => discard(conn, depth).await,
    }
}

/// What was registered above `depth` was rolled back: commit hooks vanish, rollback hooks run.
async fn discard<W: Wrapper>(conn: &mut W, depth: usize) {
    let keeper = conn.keeper();
    // Calls of durable tasks hold nothing of a user's any more, whose `Drop` might panic.
    let Dropped { commit, rollback, before, calls: _ } = keeper.queue().rollback_to(depth);
    bury(keeper, commit, HookKind::AfterCommit);
    bury_before_commit(keeper, before);
    if keeper.running >= W::HOOK_DEPTH {
        // There is nothing left to refuse.
        lose(keeper, &rollback, HookKind::AfterRollback, depth, TOO_DEEP);
        bury(keeper, rollback, HookKind::AfterRollback);
    } else if !rollback.is_empty() {
        // A hook may open transactions of its own; whether this one is worth another attempt is not about those.
        let conflict = keeper.watch.saw_conflict();
        let stage = stage_for(conn, &rollback);
        run_hooks(conn, rollback, HookKind::AfterRollback, stage).await;
        conn.keeper().watch.set_conflict(conflict);
    }
}

/// What rollback hooks take. There is nothing left to refuse: where one of them cannot run, that is its failure.
fn stage_for<W: Wrapper>(conn: &mut W, hooks: &[Hook<W>]) -> Stage {
    conn.keeper().route.stage_what_there_is(hooks.iter().filter_map(Hook::needs))
}

/// What was registered above `depth` is gone, but nobody knows how that transaction ended: nothing runs, all is
/// reported.
pub(super) fn abandon<W: Wrapper>(conn: &mut W, depth: usize) {
    let keeper = conn.keeper();
    // It may have been committed: it is not to be run again.
    keeper.watch.set_conflict(false);
    let Dropped { commit, rollback, before, calls } = keeper.queue().rollback_to(depth);
    lose_calls(keeper, &calls, depth, UNKNOWN_END);
    lose(keeper, &commit, HookKind::AfterCommit, depth, UNKNOWN_END);
    lose(keeper, &rollback, HookKind::AfterRollback, depth, UNKNOWN_END);
    bury(keeper, commit, HookKind::AfterCommit);
    bury(keeper, rollback, HookKind::AfterRollback);
    bury_before_commit(keeper, before);
}

/// What is left above `depth` belongs to transactions that ended behind our back.
#[inline]
pub(super) fn abandon_leftovers<W: Wrapper>(conn: &mut W, depth: usize) {
    if conn.keeper().queue().depth() > depth {
        abandon(conn, depth);
    }
}

/// Tasks that a block registered after its transaction was ended by hand. They belong to nothing that can be committed,
/// and must not wait for the next transaction.
#[cold]
pub(super) fn lose_strays<W>(keeper: &mut Keeper<W>, strays: Vec<Hook<W>>, calls: Vec<NewCall>) {
    let why = "its transaction had ended before it was called";
    lose_calls(keeper, &calls, 0, why);
    lose(keeper, &strays, HookKind::AfterCommit, 0, why);
    bury(keeper, strays, HookKind::AfterCommit);
}

impl<W> Keeper<W> {
    /// Notes a hook that failed, and tells of it.
    #[cold]
    fn fail(&mut self, task: &'static str, kind: HookKind, failed: Failed) {
        let Failed { call_site, cause } = failed;
        let failure = HookFailure { task, call_site, kind, cause };
        self.route.tell(&failure);
        self.report.fail(failure);
    }
}

/// Notes hooks above `depth` that will not run although nothing is known to have rolled them back.
pub(super) fn lose<W>(keeper: &mut Keeper<W>, hooks: &[Hook<W>], kind: HookKind, depth: usize, why: &'static str) {
    let lost: Vec<PendingHook> = hooks.iter().map(|hook| hook.describe(kind, depth + 1)).collect();
    keeper.report.lose(lost, why);
}

/// Notes durable calls above `depth` that were not stored although nothing is known to have rolled their transaction back.
pub(super) fn lose_calls<W>(keeper: &mut Keeper<W>, calls: &[NewCall], depth: usize, why: &'static str) {
    keeper.report.lose(calls.iter().map(|call| describe(call, depth + 1)).collect(), why);
}

/// Drops hooks that will not run.
pub(super) fn bury<W>(keeper: &mut Keeper<W>, hooks: impl IntoIterator<Item = Hook<W>>, kind: HookKind) {
    for hook in hooks {
        bury_one(keeper, hook.name(), hook.call_site(), kind, hook);
    }
}

/// Drops before-commit hooks of a COMMIT that will not be.
pub(super) fn bury_before_commit<W>(keeper: &mut Keeper<W>, hooks: impl IntoIterator<Item = BeforeCommit<W>>) {
    for hook in hooks {
        bury_one(keeper, hook.name, hook.call_site, HookKind::BeforeCommit, hook);
    }
}

fn bury_one<W, H>(
    keeper: &mut Keeper<W>,
    task: &'static str,
    call_site: &'static Location<'static>,
    kind: HookKind,
    hook: H,
) {
    if let Err(message) = contain(|| drop(hook)) {
        keeper.fail(task, kind, Failed { call_site, cause: FailureCause::Panic(message) });
    }
}
