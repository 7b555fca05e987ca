//! What [`ending`](crate::connection::ending) is told of a connection.
//!
//! Must not know: what follows from it.

use crate::connection::ending::{CommitProof, Doubt, Known, Level, Now, Promise};
use crate::connection::keeper::Keeper;
use crate::connection::wrapper::{State, Wrapper};

/// Which level the one at `depth` is.
#[inline(always)]
pub(super) fn level(state: Option<State>, depth: usize) -> Level {
    match state {
        _ if depth <= 1 => Level::Outermost,
        Some(state) if depth <= state.base + 1 => Level::InTest,
        _ => Level::Savepoint,
    }
}

/// What the end of the level at `depth` depends on.
#[inline(always)]
pub(super) fn known<W: Wrapper>(
    keeper: &mut Keeper<W>,
    state: Option<State>,
    depth: usize,
    level: Level,
    promise: Promise,
) -> Known {
    let now = match state {
        None => Now::Broken,
        Some(state) if state.depth < depth => Now::Below,
        Some(state) if state.depth > depth => Now::Above,
        Some(state) if state.aborted => Now::Aborted,
        Some(_) => Now::Live,
    };
    // Where COMMIT itself tells, nothing depends on it.
    let doubt = if matches!(W::PROOF, CommitProof::Commit) { Doubt::None } else { keeper.watch.doubt() };
    let (lost, doom, spilled) = (keeper.watch.lost_transaction(), keeper.doom, keeper.has_spilled);
    let waiting = keeper.queue();
    Known {
        proof: W::PROOF,
        asynchronous: W::ASYNC,
        promise,
        level,
        now,
        doubt,
        lost,
        doom,
        spilled,
        commit_hooks: waiting.has_commit_hooks(),
        rollback_hooks: waiting.has_rollback_hooks(),
        before_commit: waiting.has_before_commit(),
    }
}
