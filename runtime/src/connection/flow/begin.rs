//! How a transaction or savepoint begins.
//!
//! Must not know: how it ends.

use diesel::result::{Error, QueryResult};

use super::rollback::recover;
use crate::atomic::BeginOptions;
use crate::connection::ending::Promise;
use crate::connection::hooks::{abandon_leftovers, run_ready};
use crate::connection::keeper::Interrupted;
use crate::connection::send::{Statement, begin_with_sql, send};
use crate::connection::store::spill;
use crate::connection::wrapper::{State, Wrapper};
use crate::error::CommitError;

/// How a transaction is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opening<'a> {
    /// By Diesel's own functions.
    AsDiesel,
    /// By `atomic!` or the builder.
    Block { begin: &'a BeginOptions, outermost: bool },
}

impl Opening<'_> {
    pub(crate) fn promise(self) -> Promise {
        match self {
            Self::AsDiesel => Promise::AsDiesel,
            Self::Block { .. } => Promise::Atomic,
        }
    }

    /// Whether it is Diesel's own BEGIN.
    pub(crate) fn is_plain(self) -> bool {
        match self {
            Self::AsDiesel => true,
            Self::Block { begin, .. } => begin.is_plain(),
        }
    }

    fn may_be_nested(self) -> bool {
        match self {
            Self::AsDiesel => true,
            Self::Block { begin, outermost } => !outermost && begin.is_plain(),
        }
    }
}

/// Begins a transaction and returns the depth that it was begun at.
pub(crate) async fn begin<W: Wrapper>(conn: &mut W, opening: Opening<'_>) -> QueryResult<usize> {
    let state = match ready_to_begin(conn, opening) {
        Some(state) => state,
        None => Box::pin(prepare_to_begin(conn, opening)).await?,
    };
    let begun = match opening {
        Opening::Block { begin, .. } if !begin.is_plain() && state.is_idle() => {
            Box::pin(begin_with_sql(conn, W::begin_sql(begin))).await
        }
        _ => send(conn, Statement::Begin).await,
    };
    note_begun(conn, state, begun)
}

/// BEGIN was sent, with this result.
#[inline(always)]
pub(crate) fn note_begun<W: Wrapper>(conn: &mut W, state: State, begun: QueryResult<()>) -> QueryResult<usize> {
    let keeper = conn.keeper();
    keeper.watch.result(begun)?;
    keeper.queue.begin_up_to(state.depth + 1);
    Ok(state.depth)
}

/// The usual: nothing stands in the way of BEGIN, and nothing has to be awaited before it.
#[inline(always)]
pub(crate) fn ready_to_begin<W: Wrapper>(conn: &mut W, opening: Opening<'_>) -> Option<State> {
    if conn.keeper().interrupted != Interrupted::No {
        return None;
    }
    let state = conn.state()?;
    if state.is_nested() && !opening.may_be_nested() {
        return None;
    }
    let keeper = conn.keeper();
    if !state.is_nested() {
        if !keeper.ready.is_empty() {
            return None;
        }
        // A block whose transaction has ended early goes on telling of that.
        if keeper.running == 0 && keeper.blocks == 0 {
            keeper.report.clear();
        }
        keeper.watch.reset();
        keeper.doom = None;
        keeper.wakes_workers = false;
        keeper.can_notify = false;
        keeper.has_spilled = false;
        keeper.forget_needs();
    } else if keeper.has_to_spill_before_nested() {
        return None;
    }
    abandon_leftovers(conn, state.depth);
    Some(state)
}

/// What else there may be.
#[cold]
async fn prepare_to_begin<W: Wrapper>(conn: &mut W, opening: Opening<'_>) -> QueryResult<State> {
    match conn.keeper().interrupted {
        Interrupted::No => {}
        Interrupted::InBlock { outermost: true, .. } => recover(conn).await?,
        // What is around it has to end first.
        _ => return Err(CommitError::Cancelled.into()),
    }
    if conn.state().is_some_and(State::is_nested) {
        if !opening.may_be_nested() {
            return Err(Error::AlreadyInTransaction);
        }
        if conn.keeper().has_to_spill_before_nested() {
            // Before the savepoint, which they are not a part of.
            spill(conn).await?;
        }
    } else {
        run_ready(conn).await;
        if conn.keeper().interrupted != Interrupted::No {
            // By a hook, which dropped a block of its own.
            return Err(CommitError::Cancelled.into());
        }
    }
    ready_to_begin(conn, opening).ok_or(Error::BrokenTransactionManager)
}
