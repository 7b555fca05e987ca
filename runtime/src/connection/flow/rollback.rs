//! How a transaction or savepoint is rolled back: because its block failed, because it is in the
//! way, or because its future was dropped.
//!
//! A block whose future was dropped (by a timeout, or because nobody waits for its answer any more;
//! only on asynchronous connections) cannot await its ROLLBACK. Its hooks are dealt with at once,
//! for nothing of it will be committed by this connection, which refuses all use until it is rolled
//! back.
//!
//! Must not know: how a transaction begins or commits.

use diesel::result::{Error, QueryResult};

use super::known::{known, level};
use crate::connection::ending::{Doom, Ending, Level, Next, Order, Promise, Step, next};
use crate::connection::hooks::{abandon_leftovers, ended, ended_now};
use crate::connection::keeper::Interrupted;
use crate::connection::proof::read;
use crate::connection::send::{Statement, send, send_order};
use crate::connection::wrapper::{State, Wrapper};
use crate::dispatch::Stage;
use crate::error::CommitError;
use crate::panics::contain;

/// Rolls the innermost transaction or savepoint back.
pub(crate) async fn rollback<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    let state = conn.state();
    let depth = state.map_or(1, |state| state.depth.max(1));
    let level = level(state, depth);
    let mut step = Step::Rollback;
    let mut result = Ok(());
    let ending = loop {
        let state = conn.state();
        match next(step, known::<W>(conn.keeper(), state, depth, level, Promise::AsDiesel)) {
            Next::Send(Order::Proof, _) => {
                let held = send_order(conn, Order::Proof, depth).await.is_ok();
                step = Step::Proven { held };
            }
            Next::Send(order, doom) => {
                conn.keeper().doom = doom;
                let sent = send_order(conn, order, depth).await;
                result = conn.keeper().watch.result(sent);
                step = Step::RolledBack(result.as_ref().err().map(|error| read(W::PROOF, error)), doom);
            }
            // Before a COMMIT only.
            Next::RunBeforeCommit => break Ending::RolledBack,
            Next::Refuse(ending) | Next::End(ending) => break ending,
        }
    };
    let depth = conn.depth();
    conn.keeper().doom = doom_of(ending);
    ended(conn, depth, ending, Stage::none()).await;
    if depth == 0 {
        conn.keeper().doom = None;
    }
    result
}

/// What is known by that of the transaction around a level that ended so.
pub(super) fn doom_of(ending: Ending) -> Option<Doom> {
    match ending {
        Ending::RolledBackByServer => Some(Doom::RolledBack),
        Ending::EndedEarly => Some(Doom::EndedEarly),
        Ending::Committed
        | Ending::RolledBack
        | Ending::LeftOpen
        | Ending::Unknown
        | Ending::Cancelled
        | Ending::CancelledInDoubt => None,
    }
}

/// Rolls back what is open above `depth`, whatever it takes.
#[cold]
pub(super) async fn unwind_to<W: Wrapper>(conn: &mut W, depth: usize) {
    loop {
        let Some(State { depth: open, .. }) = conn.state() else {
            broken(conn).await;
            return;
        };
        if open <= depth {
            abandon_leftovers(conn, open);
            return;
        }
        if rollback(conn).await.is_err() && conn.depth() >= open {
            conn.status().set_in_error();
        }
    }
}

/// Refuses to go on where a callback returned at another depth than `level`, at which it was
/// called.
pub(super) async fn expect_depth<W: Wrapper>(conn: &mut W, level: usize) -> QueryResult<()> {
    match conn.state() {
        // On a broken connection what follows will find out, and say so.
        Some(State { depth, .. }) if depth != level => Err(unbalanced(conn, depth, level).await),
        _ => Ok(()),
    }
}

/// Rolls back what a callback began and did not end, together with its own level; gives up what it
/// ended.
#[cold]
async fn unbalanced<W: Wrapper>(conn: &mut W, depth: usize, level: usize) -> Error {
    if depth > level {
        unwind_to(conn, level - 1).await;
        CommitError::LeftOpen.into()
    } else {
        give_up(conn, depth).await;
        CommitError::EndedEarly.into()
    }
}

/// The levels above `depth` ended behind our back.
pub(super) async fn give_up<W: Wrapper>(conn: &mut W, depth: usize) {
    ended_now(conn, depth, Ending::EndedEarly);
    if depth == 0 {
        // Diesel's bookkeeping does not know a transaction that was begun by raw SQL, and the next
        // one must not become part of it. Where there is none this does nothing, or fails.
        let _ = send(conn, Statement::Sql("ROLLBACK")).await;
    }
}

/// How a transaction ended whose connection is broken, and what becomes of its hooks.
#[cold]
async fn broken<W: Wrapper>(conn: &mut W) {
    if let Next::End(ending) =
        next(Step::Broken, known::<W>(conn.keeper(), None, 1, Level::Outermost, Promise::AsDiesel))
    {
        ended(conn, 0, ending, Stage::none()).await;
    }
}

/// Rolls back what a dropped block left open, where the connection below can still be used.
///
/// # Errors
/// [`CommitError::Cancelled`] where it cannot.
#[cold]
pub(super) async fn recover<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    let in_block = matches!(conn.keeper().interrupted, Interrupted::InBlock { .. });
    // Diesel's own bookkeeping is out of reach for as long as a dropped statement runs on, and
    // panics then.
    if in_block
        && W::OUTLIVES_DROPPED_STATEMENTS
        && let Ok(state) = contain(|| conn.state())
    {
        conn.keeper().interrupted = Interrupted::No;
        unwind_to(conn, state.map_or(0, |state| state.base)).await;
        if conn.state().is_some() {
            return Ok(());
        }
    }
    // Of the blocks around it, which cannot be committed any more either.
    cancelled(conn, 0);
    Err(CommitError::Cancelled.into())
}

/// Deals with the hooks that were registered above `depth`, in a transaction that was cancelled
/// there. Nothing can be awaited.
pub(super) fn cancelled<W: Wrapper>(conn: &mut W, depth: usize) {
    let keeper = conn.keeper();
    let in_commit = keeper.interrupted == Interrupted::InCommit;
    // What Diesel reports may be out of reach, and does not matter.
    let known = known::<W>(keeper, None, depth + 1, Level::Outermost, Promise::Atomic);
    if let Next::End(ending) = next(Step::Dropped { in_commit }, known) {
        ended_now(conn, depth, ending);
    }
}
