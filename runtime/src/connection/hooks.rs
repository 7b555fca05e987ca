//! What becomes of hooks when their transaction has [ended](Ending), and by nothing else: they run,
//! are dropped, or are reported.
//!
//! Must not know: how a transaction ends, or whether the connection is asynchronous.

use super::ending::{Ending, Fate};
use super::wrapper::Wrapper;
use crate::dispatch::Stage;
use crate::durable::NewTask;
use crate::hook::{Failed, Hook, Outcome, Step};
use crate::metrics::{self, HookRuns};
use crate::queue::Dropped;
use crate::report::{FailureCause, HookKind};

const TOO_DEEP: &str = "it belongs to hooks in hooks, too deep for the stack";

const UNKNOWN_END: &str = "how its transaction ended is not known";

const CANCELLED_IN_DOUBT: &str = "its transaction was cancelled, and may have been committed";

/// The outermost transaction, the one above `depth`, has committed: runs what waited for that.
#[inline]
async fn run_committed<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) {
    conn.keeper().tally.committed(depth);
    if conn.keeper().queue.close_if_empty(depth) {
        return;
    }
    let (mut run, spent) = start_committed(conn, depth, stage);
    run.run_all().await;
    finish_committed(&mut run, spent);
}

/// The same on a connection where nothing waits, without the machinery of futures.
#[inline(always)]
pub(super) fn run_committed_now<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) {
    if !conn.keeper().queue.close_if_empty(depth) {
        run_waiting_now(conn, depth, stage);
    }
}

/// A function of its own, so that a transaction without hooks does not pay for its variables.
#[inline(never)]
fn run_waiting_now<W: Wrapper>(conn: &mut W, depth: usize, stage: Stage) {
    let (mut run, spent) = start_committed(conn, depth, stage);
    if run.up_to_one_that_waits() {
        run_inline_now(&mut run);
    }
    finish_committed(&mut run, spent);
}

/// On a connection where nothing waits a task does that runs to its end at once.
#[cold]
fn run_inline_now<W: Wrapper>(run: &mut Run<'_, W>) {
    super::wrapper::now(run.run_all());
}

/// Rollback hooks of a transaction that committed: they have lost their purpose.
type Spent<W> = Vec<(usize, Hook<W>)>;

// Always inlined, as what ends the run: it moves lists, each of them through memory otherwise.
#[inline(always)]
fn start_committed<W: Wrapper>(conn: &mut W, depth: usize, mut stage: Stage) -> (Run<'_, W>, Spent<W>) {
    // Closed before a hook runs, which may open transactions of its own.
    let (hooks, spent) = conn.keeper().queue.close_committed(depth);
    metrics::registered(hooks.iter().map(Hook::name));
    stage.committed();
    let hooks = conn.keeper().hold(hooks, HookKind::AfterCommit);
    (Run::new(conn, hooks, HookKind::AfterCommit, stage), spent)
}

#[inline(always)]
fn finish_committed<W: Wrapper>(run: &mut Run<'_, W>, spent: Spent<W>) {
    let buffer = run.end();
    let keeper = run.conn.keeper();
    keeper.queue.recycle(buffer);
    if !spent.is_empty() {
        keeper.bury(spent.into_iter().map(|(_, hook)| hook), HookKind::AfterRollback);
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
    times: HookRuns,
}

impl<'c, W: Wrapper> Run<'c, W> {
    #[inline]
    fn new(conn: &'c mut W, hooks: Vec<Hook<W>>, kind: HookKind, stage: Stage) -> Self {
        conn.keeper().running += 1;
        Self { conn, hooks, next: 0, kind, stage, times: HookRuns::begin() }
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
            let is_last = self.ended(outcome);
            #[cfg(feature = "testing")]
            self.finish_inline().await;
            if is_last {
                return;
            }
        }
    }

    /// Runs hooks up to one that has to be awaited; says whether there is one. Not a part of the
    /// future, because most of them don't have to be.
    #[inline]
    fn up_to_one_that_waits(&mut self) -> bool {
        while let Some(hook) = self.hooks.get_mut(self.next) {
            if W::ASYNC && hook.wants_connection() {
                return true;
            }
            #[cfg(feature = "testing")]
            if self.stage.is_inline() {
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

    /// Waits for the tasks that the last one has started, where they run to their end at once.
    #[cfg(feature = "testing")]
    fn finish_inline(&mut self) -> futures_util::future::BoxFuture<'_, ()> {
        let tasks = self.stage.take_inline();
        Box::pin(async move {
            for task in tasks {
                let (name, call_site) = (task.name, task.call_site);
                let outcome = crate::hook::outcome(call_site, W::finish(task.future).await);
                if let Err(failed) = outcome {
                    self.conn.keeper().fail(name, self.kind, *failed);
                }
            }
        })
    }

    /// Notes how the last one ended; says whether it is to be the last.
    #[inline]
    fn ended(&mut self, outcome: Outcome) -> bool {
        let hook = &self.hooks[self.next - 1];
        self.times.ended(|| (!hook.is_dispatched()).then(|| hook.name()));
        let Err(failed) = outcome else { return false };
        let keeper = self.conn.keeper();
        let task = self.hooks[self.next - 1].name();
        keeper.fail(task, self.kind, *failed);
        keeper.stop_at_first_failure
    }

    /// Reports what did not run. Gives the emptied buffer back.
    #[inline(always)]
    fn end(&mut self) -> Vec<Hook<W>> {
        if self.next < self.hooks.len() {
            self.stopped();
        }
        let mut hooks = std::mem::take(&mut self.hooks);
        // What has run has nothing left to drop.
        hooks.clear();
        hooks
    }

    /// The last one failed, and was to be the last.
    #[cold]
    fn stopped(&mut self) {
        let not_run = self.hooks.split_off(self.next);
        let depth = self.conn.depth();
        let keeper = self.conn.keeper();
        keeper.lose(&not_run, self.kind, depth, "one before it failed");
        keeper.bury(not_run, self.kind);
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
    /// The future was dropped while a hook was awaited. What needs no connection runs here and now,
    /// the rest when the connection is used again.
    #[cold]
    fn cancelled(&mut self) {
        let rest = self.hooks.split_off(self.next);
        let (kind, keeper) = (self.kind, self.conn.keeper());
        if let Some(awaited) = self.hooks.pop() {
            let call_site = awaited.call_site();
            self.times.ended(|| Some(awaited.name()));
            keeper.fail(awaited.name(), kind, Failed::new(call_site, FailureCause::Cancelled));
        }
        for mut hook in rest {
            if hook.wants_connection() {
                self.conn.keeper().ready.push(hook, kind);
            } else {
                run_one(self.conn, &mut hook, kind, &self.stage);
            }
        }
    }
}

/// Runs a hook that needs no connection.
fn run_one<W: Wrapper>(conn: &mut W, hook: &mut Hook<W>, kind: HookKind, stage: &Stage) {
    conn.keeper().report.ran += 1;
    let mut times = HookRuns::begin();
    let outcome: Outcome = match hook.run(conn, stage, kind) {
        Step::Done(outcome) => outcome,
        Step::Later(_) => Ok(()),
    };
    times.ended(|| (!hook.is_dispatched()).then(|| hook.name()));
    if let Err(failed) = outcome {
        conn.keeper().fail(hook.name(), kind, *failed);
    }
}

/// Runs those that need no connection, where nothing can be awaited; the others are reported.
fn run_without_connection<W: Wrapper>(conn: &mut W, hooks: Vec<Hook<W>>, kind: HookKind, depth: usize) {
    metrics::registered(hooks.iter().map(Hook::name));
    let stage = stage_for(conn, &hooks);
    for mut hook in hooks {
        if hook.wants_connection() {
            let keeper = conn.keeper();
            keeper.lose(std::slice::from_ref(&hook), kind, depth, "its transaction was cancelled");
            keeper.bury([hook], kind);
        } else {
            run_one(conn, &mut hook, kind, &stage);
        }
    }
}

/// Runs what a dropped future left.
#[cold]
pub(super) async fn run_ready<W: Wrapper>(conn: &mut W) {
    for kind in [HookKind::AfterCommit, HookKind::AfterRollback] {
        // The others stay where they are: this future may be dropped too.
        let now = conn.keeper().ready.take(kind);
        if !now.is_empty() {
            run_hooks(conn, now, kind, Stage::none()).await;
        }
    }
}

/// Runs hooks that a test had held back. What they take is found now.
///
/// # Errors
/// Why one of them cannot run; then none does.
#[cfg(feature = "testing")]
pub(crate) async fn run_held<W: Wrapper>(
    conn: &mut W,
    hooks: Vec<Hook<W>>,
    kind: HookKind,
) -> Result<(), crate::dispatch::CannotRun> {
    let stage = conn.keeper().stage(hooks.iter().filter_map(Hook::needs))?;
    run_hooks(conn, hooks, kind, stage).await;
    Ok(())
}

/// What was registered above `depth` belongs to a transaction that ended so; `stage` is what its
/// hooks take that run after a COMMIT.
pub(super) async fn ended<W: Wrapper>(conn: &mut W, depth: usize, ending: Ending, stage: Stage) {
    if ending.commit_hooks() == Fate::Run {
        run_committed(conn, depth, stage).await;
        return;
    }
    let rollback = settle(conn, depth, ending);
    let keeper = conn.keeper();
    if keeper.running >= W::HOOK_DEPTH {
        // There is nothing left to refuse.
        keeper.lose(&rollback, HookKind::AfterRollback, depth, TOO_DEEP);
        keeper.bury(rollback, HookKind::AfterRollback);
    } else if !rollback.is_empty() {
        // A hook may open transactions of its own; whether this one is worth another attempt is not
        // about those.
        let conflict = keeper.watch.saw_conflict();
        metrics::registered(rollback.iter().map(Hook::name));
        let stage = stage_for(conn, &rollback);
        run_hooks(conn, rollback, HookKind::AfterRollback, stage).await;
        conn.keeper().watch.set_conflict(conflict);
    }
}

/// The same of one that did not commit, where nothing can be awaited.
pub(super) fn ended_now<W: Wrapper>(conn: &mut W, depth: usize, ending: Ending) {
    let rollback = settle(conn, depth, ending);
    run_without_connection(conn, rollback, HookKind::AfterRollback, depth);
}

/// Drops and reports what does not run. Returns the rollback hooks that do.
fn settle<W: Wrapper>(conn: &mut W, depth: usize, ending: Ending) -> Vec<Hook<W>> {
    let keeper = conn.keeper();
    // Calls of durable tasks hold nothing of a user's any more, whose `Drop` might panic.
    let Dropped { commit, rollback, before, calls } = keeper.queue().rollback_to(depth);
    let why = if ending == Ending::CancelledInDoubt { CANCELLED_IN_DOUBT } else { UNKNOWN_END };
    let rolled_back = ending.commit_hooks() == Fate::Drop;
    metrics::dropped(commit.iter().map(Hook::name), rolled_back);
    keeper.tally.dropped(depth, calls.iter().flatten().map(NewTask::kind), rolled_back);
    if ending.commit_hooks() == Fate::Report {
        // It may have been committed: it is not to be run again.
        keeper.watch.set_conflict(false);
        keeper.lose_calls(&calls, depth, why);
        keeper.lose(&commit, HookKind::AfterCommit, depth, why);
    }
    let rollback = match ending.rollback_hooks() {
        Fate::Run | Fate::RunTasks => rollback,
        fate @ (Fate::Drop | Fate::Report) => {
            if fate == Fate::Report {
                keeper.lose(&rollback, HookKind::AfterRollback, depth, why);
            }
            keeper.bury(rollback, HookKind::AfterRollback);
            Vec::new()
        }
    };
    keeper.bury(commit, HookKind::AfterCommit);
    keeper.bury_before_commit(before);
    #[cfg(feature = "testing")]
    keeper.rolled_back();
    keeper.hold(rollback, HookKind::AfterRollback)
}

/// What rollback hooks take. There is nothing left to refuse: where one of them cannot run, that is
/// its failure.
fn stage_for<W: Wrapper>(conn: &mut W, hooks: &[Hook<W>]) -> Stage {
    #[cfg(feature = "testing")]
    if conn.keeper().is_inline()
        && let Ok(stage) = conn.keeper().stage(hooks.iter().filter_map(Hook::needs))
    {
        return stage;
    }
    conn.keeper().route.stage_what_there_is(hooks.iter().filter_map(Hook::needs))
}

/// What is left above `depth` belongs to transactions that ended behind our back.
#[inline]
pub(super) fn abandon_leftovers<W: Wrapper>(conn: &mut W, depth: usize) {
    if conn.keeper().queue().depth() > depth {
        ended_now(conn, depth, Ending::EndedEarly);
    }
}
