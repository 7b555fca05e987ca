//! How a transaction ends with COMMIT, or a savepoint with its RELEASE. What comes next at each
//! step, also where COMMIT fails, is said by [`next`].
//!
//! Must not know: what it takes to believe a COMMIT, or how hooks are run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::result::{Error, QueryResult};

use super::known::{known, level};
use super::rollback::{doom_of, expect_depth, give_up, recover, unwind_to};
use crate::connection::ending::{Ending, Failure, Known, Level, Next, Now, Order, Promise, Step, next};
use crate::connection::hooks::ended;
use crate::connection::keeper::{Interrupted, Keeper};
use crate::connection::notify::{is_to_notify, send_commit_and_notify};
use crate::connection::proof::read;
use crate::connection::send::{notice_its_end, send_order};
use crate::connection::store::{spill, store_all, tell_workers};
use crate::connection::wrapper::{State, Wrapper};
use crate::dispatch::{CannotRun, Missing, Stage};
use crate::error::CommitError;
use crate::hook::{Hook, Step as HookStep};
use crate::panics::caught;

/// The usual: the outermost transaction, at `depth`, needs no more than a plain COMMIT.
#[inline(always)]
pub(crate) fn ready_to_commit<W: Wrapper>(conn: &mut W, depth: usize, promise: Promise) -> Option<Stage> {
    let state = conn.state()?;
    let keeper = conn.keeper();
    let waiting = keeper.queue();
    let usual = waiting.depth() == depth
        && depth == state.base + 1
        && !waiting.has_calls()
        && !keeper.wakes_workers
        && keeper.tally.is_empty()
        && keeper.interrupted == Interrupted::No;
    let level = level(Some(state), depth);
    let plain = usual
        && matches!(
            next(Step::Commit, known::<W>(keeper, Some(state), depth, level, promise)),
            Next::Send(Order::Commit, _)
        );
    if plain { stage(keeper).ok() } else { None }
}

/// Commits the innermost transaction or savepoint.
pub(crate) async fn commit_innermost<W: Wrapper>(conn: &mut W, promise: Promise) -> QueryResult<()> {
    let depth = conn.depth().max(1);
    commit(conn, depth, promise).await
}

/// Commits the transaction or savepoint at `depth`, which must be the innermost.
pub(super) async fn commit<W: Wrapper>(conn: &mut W, depth: usize, promise: Promise) -> QueryResult<()> {
    let level = level(conn.state(), depth);
    let order = loop {
        match next(Step::Commit, about_to_commit(conn, depth, level, promise)) {
            Next::RunBeforeCommit => run_before_commit(conn, depth).await?,
            Next::Refuse(ending) => {
                unwind_to(conn, depth - 1).await;
                return Err(refusal(ending).into());
            }
            Next::Send(order, _) => break order,
            Next::End(ending) => {
                over_before(conn, depth, ending).await;
                return Err(refusal(ending).into());
            }
        }
    };
    let stage = match prepare(conn, order).await {
        Ok(stage) => stage,
        Err(error) => {
            unwind_to(conn, depth - 1).await;
            return Err(error);
        }
    };
    let sent = if is_to_notify(conn, order, level) {
        Box::pin(send_commit_and_notify(conn, order)).await
    } else {
        send_order(conn, order, depth).await
    };
    if let Err(error) = sent {
        return Err(commit_failed(conn, depth, level, error).await);
    }
    if order == Order::Release {
        // Its hooks belong to the transaction around it from now on.
        conn.keeper().queue.release();
        conn.keeper().tally.released(depth);
        return Ok(());
    }
    tell_workers(conn.keeper());
    let state = conn.state();
    if let Next::End(ending) = next(Step::Committed, known::<W>(conn.keeper(), state, depth, level, promise)) {
        // Its hooks may have transactions of their own.
        #[cfg(feature = "testing")]
        let stored = conn.keeper().take_stored();
        ended(conn, depth - 1, ending, stage).await;
        #[cfg(feature = "testing")]
        if let Some(drain) = conn.keeper().committed(stored, ending) {
            drain(conn).await;
        }
    }
    Ok(())
}

/// What is known before anything is sent. Hooks may have been registered at a level that ended
/// below the wrapper.
fn about_to_commit<W: Wrapper>(conn: &mut W, depth: usize, level: Level, promise: Promise) -> Known {
    let state = conn.state();
    let keeper = conn.keeper();
    let known = known::<W>(keeper, state, depth, level, promise);
    let ended_below = matches!(known.now, Now::Live | Now::Aborted) && keeper.queue.depth() > depth;
    if ended_below { Known { now: Now::Below, ..known } } else { known }
}

/// What has to be there, or stored, before that is sent.
async fn prepare<W: Wrapper>(conn: &mut W, order: Order) -> QueryResult<Stage> {
    if order == Order::Release {
        if conn.keeper().has_to_spill() {
            spill(conn).await?;
        }
        return Ok(Stage::none());
    }
    let stage = stage(conn.keeper())?;
    store_all(conn).await?;
    Ok(stage)
}

/// The level at `depth` was over before its end was asked for.
#[cold]
async fn over_before<W: Wrapper>(conn: &mut W, depth: usize, ending: Ending) {
    let Some(State { depth: open, base, .. }) = conn.state() else {
        ended(conn, 0, ending, Stage::none()).await;
        return;
    };
    give_up(conn, open).await;
    // Whoever asked is at this level, and leaves it.
    unwind_to(conn, open.min(base.max(depth - 1))).await;
}

/// The outermost COMMIT, of a transaction that was begun at depth `entry`, failed: leaves nothing
/// open above that.
#[cold]
pub(crate) async fn end_failed_commit<W: Wrapper>(conn: &mut W, entry: usize, error: Error) -> Error {
    let level = if entry == 0 { Level::Outermost } else { Level::InTest };
    let error = commit_failed(conn, entry + 1, level, error).await;
    unwind_to(conn, entry).await;
    error
}

/// Finds out what became of the level at `depth`, cleans up, and says so.
#[cold]
async fn commit_failed<W: Wrapper>(conn: &mut W, depth: usize, level: Level, error: Error) -> Error {
    conn.keeper().watch.error(&error);
    notice_its_end(conn, &error);
    let failure = read(W::PROOF, &error);
    let mut step = Step::CommitFailed { failure, healed: false };
    let ending = loop {
        let state = conn.state();
        match next(step, known::<W>(conn.keeper(), state, depth, level, Promise::Atomic)) {
            Next::Send(Order::Heal, _) => {
                let _ = send_order(conn, Order::Heal, depth).await;
                step = Step::CommitFailed { failure, healed: true };
            }
            Next::Send(order, doom) => {
                if send_order(conn, order, depth).await.is_err() {
                    conn.status().set_in_error();
                }
                step = Step::CleanedUp(doom);
            }
            // Before a COMMIT only.
            Next::RunBeforeCommit => break Ending::Unknown,
            Next::Refuse(ending) | Next::End(ending) => break ending,
        }
    };
    match level {
        Level::Savepoint => {
            if failure == Failure::Gone {
                // And the transaction with it.
                conn.keeper().doom = doom_of(ending);
            }
            if conn.state().is_some_and(|state| state.depth < depth) {
                ended(conn, depth - 1, ending, Stage::none()).await;
            }
            // Diesel keeps the depth on some failures: the level did not commit, so it is rolled
            // back.
            unwind_to(conn, depth - 1).await;
        }
        Level::Outermost | Level::InTest => {
            let depth = if ending == Ending::Unknown { 0 } else { depth - 1 };
            ended(conn, depth, ending, Stage::none()).await;
        }
    }
    match ending {
        Ending::RolledBack => error,
        Ending::Unknown => CommitError::Unknown { source: Box::new(error) }.into(),
        ending => refusal(ending).into(),
    }
}

/// What the caller is told of a transaction that ended so without an error of the database's own.
pub(super) fn refusal(ending: Ending) -> CommitError {
    match ending {
        Ending::EndedEarly => CommitError::EndedEarly,
        Ending::LeftOpen => CommitError::LeftOpen,
        Ending::Cancelled | Ending::CancelledInDoubt => CommitError::Cancelled,
        Ending::Committed | Ending::RolledBack | Ending::RolledBackByServer | Ending::Unknown => {
            CommitError::RolledBack
        }
    }
}

/// Finds what the tasks that wait take to run. One that could not run must not be committed.
#[inline(always)]
fn stage<W: Wrapper>(keeper: &mut Keeper<W>) -> Result<Stage, CommitError> {
    if keeper.running >= W::HOOK_DEPTH {
        refuse_deeper_hooks(keeper)?;
    }
    if !keeper.has_needs() {
        return Ok(Stage::none());
    }
    if keeper.holds() {
        return Ok(Stage::none());
    }
    #[cfg(feature = "testing")]
    if keeper.is_inline() {
        let needs: Vec<_> = keeper.queue.waiting_for_commit().filter_map(|hook| hook.needs()).collect();
        return keeper.stage(needs.into_iter()).map_err(CommitError::TaskCannotRun);
    }
    let needs = keeper.queue.waiting_for_commit().filter_map(|hook| hook.needs());
    keeper.route.stage(needs).map_err(CommitError::TaskCannotRun)
}

/// A hook that would run on this thread needs stack on top of all the hooks that are being run.
/// What is spawned does not.
#[cold]
fn refuse_deeper_hooks<W: Wrapper>(keeper: &mut Keeper<W>) -> Result<(), CommitError> {
    let runs_here = |hook: &&Hook<W>| !hook.needs().is_some_and(|needs| needs.dispatched);
    match keeper.queue().waiting_for_commit().find(runs_here) {
        Some(hook) => Err(CommitError::TaskCannotRun(CannotRun {
            task: hook.name(),
            call_site: hook.call_site(),
            missing: Missing::HookDepth(W::HOOK_DEPTH),
        })),
        None => Ok(()),
    }
}

/// Runs the hooks that run before COMMIT. The first that fails rolls everything back.
#[cold]
async fn run_before_commit<W: Wrapper>(conn: &mut W, depth: usize) -> QueryResult<()> {
    loop {
        let mut hooks = conn.keeper().queue().take_before_commit().into_iter();
        if hooks.len() == 0 {
            return Ok(());
        }
        while let Some(hook) = hooks.next() {
            let outcome = match catch_unwind(AssertUnwindSafe(|| (hook.run)(conn))) {
                Ok(HookStep::Done(result)) => Ok(result),
                Ok(HookStep::Later(future)) => caught(future).await,
                Err(panic) => Err(panic),
            };
            let balanced = match conn.keeper().interrupted {
                Interrupted::No => expect_depth(conn, depth).await,
                // A block of the hook's was dropped before it ended.
                _ => recover(conn).await.and(Err(CommitError::Cancelled.into())),
            };
            let failed = match outcome {
                Ok(result) => match result.and(balanced) {
                    Ok(()) => continue,
                    Err(error) => Ok(error),
                },
                Err(panic) => Err(panic),
            };
            conn.keeper().bury_before_commit(hooks);
            unwind_to(conn, depth - 1).await;
            match failed {
                Ok(error) => return Err(error),
                Err(panic) => resume_unwind(panic),
            }
        }
    }
}
