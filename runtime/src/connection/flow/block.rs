//! How a block ends: as its callback did, or because its future was dropped.
//!
//! Must not know: how a transaction begins, commits or is rolled back.

use diesel::result::{Error, QueryResult};

#[cfg(feature = "async")]
use super::begin::{Opening, begin};
use super::commit::{commit, refusal};
#[cfg(feature = "async")]
use super::rollback::cancelled;
use super::rollback::{expect_depth, recover, rollback, unwind_to};
use crate::connection::ending::{Failure, Promise};
use crate::connection::keeper::Interrupted;
use crate::connection::proof::read;
#[cfg(feature = "async")]
use crate::connection::wrapper::State;
use crate::connection::wrapper::Wrapper;
use crate::error::CommitError;
#[cfg(feature = "async")]
use crate::panics::Panic;
use crate::panics::contain;
use crate::report::emit;
#[cfg(feature = "async")]
use crate::spans::{Around, is_on};

/// Ends the transaction that was begun at depth `entry` as its callback did.
///
/// A panic in the callback rolls back to where the transaction began, and goes on.
#[cfg(feature = "async")]
async fn end<W: Wrapper, R, E: From<Error>>(
    conn: &mut W,
    entry: usize,
    promise: Promise,
    outcome: Result<Result<R, E>, Panic>,
) -> Result<R, E> {
    match outcome {
        Ok(Ok(value)) => {
            end_with_commit(conn, entry, promise).await?;
            Ok(value)
        }
        Ok(Err(user_error)) => {
            Box::pin(end_with_rollback(conn, entry)).await?;
            Err(user_error)
        }
        Err(panic) => {
            Box::pin(end_with_panic(conn, entry)).await;
            std::panic::resume_unwind(panic)
        }
    }
}

/// Ends a transaction whose callback wants it committed.
pub(crate) async fn end_with_commit<W: Wrapper>(conn: &mut W, entry: usize, promise: Promise) -> QueryResult<()> {
    if conn.keeper().interrupted != Interrupted::No {
        // A block in this one was dropped before it ended.
        end_around(conn, entry).await?;
        return Err(CommitError::Cancelled.into());
    }
    let committed = commit(conn, entry + 1, promise).await;
    if committed.is_err() {
        unwind_to(conn, entry).await;
    }
    committed
}

/// Ends a transaction whose callback wants it rolled back. `Ok` where there is nothing to say
/// beyond what the callback returned: a ROLLBACK that fails changes nothing about why it was sent.
///
/// # Errors
/// [`CommitError::EndedEarly`] or [`CommitError::RolledBack`] where the transaction had ended
/// behind our back, so that what the callback did may be committed.
pub(crate) async fn end_with_rollback<W: Wrapper>(conn: &mut W, entry: usize) -> QueryResult<()> {
    if conn.keeper().interrupted != Interrupted::No {
        let _ = end_around(conn, entry).await;
        return Ok(());
    }
    if expect_depth(conn, entry + 1).await.is_err() {
        return Ok(());
    }
    match rollback(conn).await {
        // A transaction that is gone already, or a connection that is: the user's error is why.
        Ok(()) | Err(Error::BrokenTransactionManager) => Ok(()),
        Err(rollback_error) => {
            let gone = read(W::PROOF, &rollback_error) == Failure::Gone;
            let doom = conn.keeper().doom;
            unwind_to(conn, entry).await;
            match doom {
                _ if gone && entry == 0 => Ok(()),
                Some(doom) => Err(refusal(doom.into()).into()),
                None => {
                    emit(|| tracing::warn!(error = %rollback_error, "the ROLLBACK of a failed block failed, too"));
                    Ok(())
                }
            }
        }
    }
}

/// Ends a transaction whose callback panicked.
#[cold]
pub(crate) async fn end_with_panic<W: Wrapper>(conn: &mut W, entry: usize) {
    if conn.keeper().interrupted != Interrupted::No {
        let _ = end_around(conn, entry).await;
        return;
    }
    let _ = expect_depth(conn, entry + 1).await;
    unwind_to(conn, entry).await;
}

/// Rolls back what a hook left open; says whether there was something.
pub(crate) async fn close_above<W: Wrapper>(conn: &mut W, depth: usize) -> bool {
    if conn.keeper().interrupted != Interrupted::No {
        // A block of the hook's was dropped before it ended.
        let _ = end_around(conn, depth).await;
        return true;
    }
    let left_open = conn.depth() > depth;
    if left_open {
        unwind_to(conn, depth).await;
    }
    left_open
}

/// What a block that was begun at depth `entry` does at its end, whichever that is, where one in it
/// was dropped. Only the outermost one rolls back: the code between the two goes on, and must not
/// go on outside of any transaction.
///
/// # Errors
/// [`CommitError::Cancelled`] where the connection still refuses all use.
#[cold]
async fn end_around<W: Wrapper>(conn: &mut W, entry: usize) -> QueryResult<()> {
    if matches!(conn.keeper().interrupted, Interrupted::InBlock { .. })
        && let Ok(Some(state)) = contain(|| conn.state())
        && entry > state.base
    {
        conn.keeper().interrupted = Interrupted::InBlock { entry, outermost: false };
        return Err(CommitError::Cancelled.into());
    }
    recover(conn).await
}

/// The same for a block that was opened by code that has never heard of us: it must be the
/// innermost around the dropped one.
#[cfg(feature = "async")]
pub(crate) async fn end_foreign_around<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    match conn.keeper().interrupted {
        Interrupted::InBlock { entry, .. } => end_around(conn, entry.saturating_sub(1)).await,
        _ => recover(conn).await,
    }
}

/// The connection goes back to a pool with a transaction open that nobody will end: the pool closes
/// the connection, which rolls back.
#[cfg(feature = "async")]
pub(crate) fn give_up_unguarded<W: Wrapper>(conn: &mut W) {
    if conn.keeper().unguarded().is_none() {
        return;
    }
    if conn.keeper().interrupted == Interrupted::No {
        conn.keeper().interrupted = Interrupted::InBlock { entry: 0, outermost: true };
    }
    cancelled(conn, 0);
}

#[cfg(feature = "async")]
/// An open block of an asynchronous connection. Dropped before it was ended, it is cancelled.
#[derive(Debug)]
pub(crate) struct OpenBlock<'c, W: Wrapper> {
    pub(crate) conn: &'c mut W,
    entry: usize,
    promise: Promise,
    ended: bool,
    /// What its span is in, where it has one.
    span: Around,
}

#[cfg(feature = "async")]
impl<'c, W: Wrapper> OpenBlock<'c, W> {
    /// Begins it.
    pub(crate) async fn begin(conn: &'c mut W, opening: Opening<'_>) -> QueryResult<Self> {
        // Where a statement is still under way, Diesel's own bookkeeping is out of reach.
        let outermost =
            is_on() && conn.keeper().interrupted == Interrupted::No && !conn.state().is_some_and(State::is_nested);
        let span = if outermost { conn.keeper().begin_span() } else { Around::nothing() };
        let entry = match begin(conn, opening).await {
            Ok(entry) => entry,
            Err(error) => {
                conn.keeper().end_span(span);
                return Err(error);
            }
        };
        conn.keeper().blocks += 1;
        conn.keeper().note_guard(true);
        Ok(Self { conn, entry, promise: opening.promise(), ended: false, span })
    }

    /// Ends it as its callback did.
    pub(crate) async fn end<R, E: From<Error>>(mut self, outcome: Result<Result<R, E>, Panic>) -> Result<R, E> {
        let result = end(self.conn, self.entry, self.promise, outcome).await;
        self.ended = true;
        result
    }
}

#[cfg(feature = "async")]
impl<W: Wrapper> Drop for OpenBlock<'_, W> {
    fn drop(&mut self) {
        self.conn.keeper().blocks -= 1;
        if !self.ended {
            cut(self.conn, self.entry);
        }
        let span = std::mem::replace(&mut self.span, Around::nothing());
        self.conn.keeper().end_span(span);
    }
}

#[cfg(feature = "async")]
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
    cancelled(conn, entry);
}
