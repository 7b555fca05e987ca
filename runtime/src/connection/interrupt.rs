//! What becomes of a transaction whose future was dropped before it ended: a block that was cancelled, by a timeout or because
//! nobody waits for its answer any more. Only on asynchronous connections.
//!
//! Its hooks are dealt with at once, for nothing of it will be committed by this connection. The ROLLBACK has to wait: dropping a
//! future is no place to await one. Until then the connection refuses all use.
//!
//! Must not know: how statements are refused.

use diesel::result::QueryResult;

use super::keeper::{Doom, Interrupted};
use super::run::{bury, bury_before_commit, lose, lose_calls, run_without_connection};
use super::transaction::unwind_to;
use super::wrapper::Wrapper;
use crate::error::CommitError;
use crate::panics::contain;
use crate::queue::Dropped;
use crate::report::HookKind;

#[cfg(feature = "async")]
pub(crate) use self::block::OpenBlock;

/// Rolls back what a dropped block left open, where the connection below can still be used.
///
/// # Errors
/// [`CommitError::Cancelled`] where it cannot.
#[cold]
pub(super) async fn recover<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    let in_block = matches!(conn.keeper().interrupted, Interrupted::InBlock { .. });
    // Diesel's own bookkeeping is out of reach for as long as a dropped statement runs on, and panics then.
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
    settle_hooks(conn, 0);
    Err(CommitError::Cancelled.into())
}

/// What a block that was begun at depth `entry` does at its end, whichever that is, where one in it was dropped. Only the outermost
/// one rolls back: the code between the two goes on, and must not go on outside of any transaction.
///
/// # Errors
/// [`CommitError::Cancelled`] where the connection still refuses all use.
#[cold]
pub(super) async fn end_around<W: Wrapper>(conn: &mut W, entry: usize) -> QueryResult<()> {
    if matches!(conn.keeper().interrupted, Interrupted::InBlock { .. })
        && let Ok(Some(state)) = contain(|| conn.state())
        && entry > state.base
    {
        conn.keeper().interrupted = Interrupted::InBlock { entry, outermost: false };
        return Err(CommitError::Cancelled.into());
    }
    recover(conn).await
}

/// The same for a block that was opened by code that has never heard of us: it must be the innermost around the dropped one.
#[cfg(feature = "async")]
pub(super) async fn end_foreign_around<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    match conn.keeper().interrupted {
        Interrupted::InBlock { entry, .. } => end_around(conn, entry.saturating_sub(1)).await,
        _ => recover(conn).await,
    }
}

/// The connection goes back to a pool with a transaction open that nobody will end: the pool closes the connection, which
/// rolls back.
#[cfg(feature = "async")]
pub(super) fn give_up_unguarded<W: Wrapper>(conn: &mut W) {
    if conn.keeper().unguarded().is_none() {
        return;
    }
    if conn.keeper().interrupted == Interrupted::No {
        conn.keeper().interrupted = Interrupted::InBlock { entry: 0, outermost: true };
    }
    settle_hooks(conn, 0);
}

/// Deals with the hooks that were registered above `depth`, in a transaction that was cancelled there. Nothing can be awaited.
fn settle_hooks<W: Wrapper>(conn: &mut W, depth: usize) {
    let keeper = conn.keeper();
    let ended_early = matches!(keeper.doom, Some(Doom::EndedEarly));
    let Dropped { commit, rollback, before, calls } = keeper.queue().rollback_to(depth);
    if ended_early || keeper.interrupted == Interrupted::InCommit {
        let why = "its transaction was cancelled, and may have been committed";
        lose(keeper, &commit, HookKind::AfterCommit, depth, why);
        lose(keeper, &rollback, HookKind::AfterRollback, depth, why);
        lose_calls(keeper, &calls, depth, why);
        bury(keeper, rollback, HookKind::AfterRollback);
    } else {
        run_without_connection(conn, rollback, HookKind::AfterRollback, depth);
    }
    let keeper = conn.keeper();
    bury(keeper, commit, HookKind::AfterCommit);
    bury_before_commit(keeper, before);
}

/// Blocks whose future may be dropped.
#[cfg(feature = "async")]
mod block {
    use diesel::result::{Error, QueryResult};

    use super::settle_hooks;
    use crate::connection::keeper::Interrupted;
    use crate::connection::transaction::{Opening, Promise, begin, end};
    use crate::connection::wrapper::Wrapper;
    use crate::panics::{Panic, contain};

    /// An open block of an asynchronous connection. Dropped before it was ended, it is cancelled.
    #[derive(Debug)]
    pub(crate) struct OpenBlock<'c, W: Wrapper> {
        pub(crate) conn: &'c mut W,
        entry: usize,
        promise: Promise,
        ended: bool,
    }

    impl<'c, W: Wrapper> OpenBlock<'c, W> {
        /// Begins it.
        pub(crate) async fn begin(conn: &'c mut W, opening: Opening<'_>) -> QueryResult<Self> {
            let entry = begin(conn, opening).await?;
            conn.keeper().blocks += 1;
            conn.keeper().note_guard(true);
            Ok(Self { conn, entry, promise: opening.promise(), ended: false })
        }

        /// Ends it as its callback did.
        pub(crate) async fn end<R, E: From<Error>>(mut self, outcome: Result<Result<R, E>, Panic>) -> Result<R, E> {
            let result = end(self.conn, self.entry, self.promise, outcome).await;
            self.ended = true;
            result
        }
    }

    impl<W: Wrapper> Drop for OpenBlock<'_, W> {
        fn drop(&mut self) {
            self.conn.keeper().blocks -= 1;
            if !self.ended {
                cut(self.conn, self.entry);
            }
        }
    }

    /// The future of a block that was begun at depth `entry` is being dropped.
    #[cold]
    fn cut<W: Wrapper>(conn: &mut W, entry: usize) {
        let interrupted = conn.keeper().interrupted;
        // Diesel's own bookkeeping may be out of reach where a statement still runs, and panics then.
        let state = contain(|| conn.state()).ok().flatten();
        if interrupted == Interrupted::No && state.is_some_and(|state| state.depth <= entry) {
            // It had ended: what was dropped was waiting for its hooks.
            return;
        }
        if matches!(interrupted, Interrupted::No | Interrupted::InBlock { .. }) {
            let outermost = state.is_none_or(|state| entry <= state.base);
            conn.keeper().interrupted = Interrupted::InBlock { entry, outermost };
        }
        settle_hooks(conn, entry);
    }
}
