//! How a transaction begins, runs and is rolled back on a deferring connection.
//!
//! Diesel's own transaction manager of the wrapped connection does the work; this one moves the marks of the queue along
//! with it. After each step the depth that Diesel reports counts, not the result of the step: Diesel lowers it on some
//! failures and keeps it on others.
//!
//! Must not know: the macros, what it takes to believe a COMMIT (`commit`), or whether the connection is asynchronous.

use std::num::NonZeroU32;

use diesel::connection::{
    InstrumentationEvent, TransactionDepthChange, TransactionManagerStatus, ValidTransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};

use super::commit::{DIESEL_SAVEPOINT, commit_at, is_gone, rollback_doom};
use super::interrupt::{end_around, recover};
use super::keeper::Interrupted;
use super::run::{abandon, abandon_leftovers, drop_above, drop_broken, run_ready};
use super::store::spill;
use super::watch::says;
use super::wrapper::{State, Wrapper};
use crate::atomic::BeginOptions;
use crate::error::CommitError;
#[cfg(feature = "async")]
use crate::panics::Panic;
use crate::report::emit;

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
    pub(super) fn is_plain(self) -> bool {
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

/// What whoever opened a transaction was promised of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// All or nothing: `atomic!` and the builder.
    Atomic,
    /// What Diesel promises: DDL on MySQL and MariaDB may end it early, which is how `diesel_migrations` runs each migration.
    /// Hooks are a promise of ours, so that there is none of these once one waits.
    AsDiesel,
}

/// A statement that moves transactions.
#[derive(Clone, Copy)]
pub(super) enum Statement<'a> {
    Begin,
    Commit,
    Rollback,
    Sql(&'a str),
}

/// Sends it. Where the future is dropped meanwhile, nobody knows what became of it, and `interrupted` tells.
pub(super) async fn send<W: Wrapper>(conn: &mut W, statement: Statement<'_>) -> QueryResult<()> {
    send_marked(conn, statement, Interrupted::InStatement).await
}

/// [`send`], of the outermost COMMIT where it says so.
#[inline]
pub(super) async fn send_marked<W: Wrapper>(
    conn: &mut W,
    statement: Statement<'_>,
    mark: Interrupted,
) -> QueryResult<()> {
    if conn.keeper().interrupted != Interrupted::No {
        return Err(CommitError::Cancelled.into());
    }
    conn.keeper().interrupted = mark;
    let result = match statement {
        Statement::Begin => conn.send_begin().await,
        Statement::Commit => conn.send_commit().await,
        Statement::Rollback => conn.send_rollback().await,
        Statement::Sql(sql) => conn.send_sql(sql).await,
    };
    conn.keeper().interrupted = Interrupted::No;
    result
}

/// Begins a transaction and returns the depth that it was begun at.
pub(super) async fn begin<W: Wrapper>(conn: &mut W, opening: Opening<'_>) -> QueryResult<usize> {
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
pub(super) fn note_begun<W: Wrapper>(conn: &mut W, state: State, begun: QueryResult<()>) -> QueryResult<usize> {
    let keeper = conn.keeper();
    keeper.watch.result(begun)?;
    keeper.queue.begin_up_to(state.depth + 1);
    Ok(state.depth)
}

/// The usual: nothing stands in the way of BEGIN, and nothing has to be awaited before it.
#[inline(always)]
pub(super) fn ready_to_begin<W: Wrapper>(conn: &mut W, opening: Opening<'_>) -> Option<State> {
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
        keeper.has_spilled = false;
        keeper.forget_needs();
    } else if keeper.has_to_spill() {
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
        // Before the savepoint, which they are not a part of.
        spill(conn).await?;
    } else {
        run_ready(conn).await;
        if conn.keeper().interrupted != Interrupted::No {
            // By a hook, which dropped a block of its own.
            return Err(CommitError::Cancelled.into());
        }
    }
    ready_to_begin(conn, opening).ok_or(Error::BrokenTransactionManager)
}

/// Opens a transaction with `sql` where none is open, for any connection: Diesel's own function for this knows its own
/// connections only.
async fn begin_with_sql<W: Wrapper>(conn: &mut W, sql: String) -> QueryResult<()> {
    conn.tell(InstrumentationEvent::begin_transaction(NonZeroU32::MIN));
    // Before it is sent: where the future is dropped meanwhile, a pool below must not take the connection for idle.
    change_depth(conn, TransactionDepthChange::IncreaseDepth)?;
    let begun = send(conn, Statement::Sql(&sql)).await;
    if begun.is_err() && conn.depth() > 0 {
        change_depth(conn, TransactionDepthChange::DecreaseDepth)?;
    }
    begun
}

pub(super) fn change_depth<W: Wrapper>(conn: &mut W, change: TransactionDepthChange) -> QueryResult<()> {
    match conn.status() {
        TransactionManagerStatus::Valid(status) => status.change_transaction_depth(change),
        TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
    }
}

/// Ends the transaction that was begun at depth `entry` as its callback did.
///
/// A panic in the callback rolls back to where the transaction began, and goes on.
#[cfg(feature = "async")]
pub(super) async fn end<W: Wrapper, R, E: From<Error>>(
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
pub(super) async fn end_with_commit<W: Wrapper>(conn: &mut W, entry: usize, promise: Promise) -> QueryResult<()> {
    if conn.keeper().interrupted != Interrupted::No {
        // A block in this one was dropped before it ended.
        end_around(conn, entry).await?;
        return Err(CommitError::Cancelled.into());
    }
    let committed = commit_at(conn, entry + 1, promise).await;
    if committed.is_err() {
        unwind_to(conn, entry).await;
    }
    committed
}

/// Ends a transaction whose callback wants it rolled back. `Ok` where there is nothing to say beyond
/// what the callback returned: a ROLLBACK that fails changes nothing about why it was sent.
///
/// # Errors
/// [`CommitError::EndedEarly`] or [`CommitError::RolledBack`] where the transaction had ended behind our
/// back, so that what the callback did may be committed.
pub(super) async fn end_with_rollback<W: Wrapper>(conn: &mut W, entry: usize) -> QueryResult<()> {
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
            let gone = is_gone::<W>(&rollback_error);
            let doom = conn.keeper().doom;
            unwind_to(conn, entry).await;
            match doom {
                _ if gone && entry == 0 => Ok(()),
                Some(doom) => Err(CommitError::from(doom).into()),
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
pub(super) async fn end_with_panic<W: Wrapper>(conn: &mut W, entry: usize) {
    if conn.keeper().interrupted != Interrupted::No {
        let _ = end_around(conn, entry).await;
        return;
    }
    let _ = expect_depth(conn, entry + 1).await;
    unwind_to(conn, entry).await;
}

/// Rolls the innermost transaction or savepoint back.
pub(super) async fn rollback<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    let doom = match conn.keeper().doom {
        None => rollback_doom(conn).await,
        doom => doom,
    };
    conn.keeper().doom = doom;
    let result = send_rollback(conn).await;
    let result = conn.keeper().watch.result(result);
    if result.as_ref().is_err_and(is_gone::<W>) {
        let keeper = conn.keeper();
        keeper.doom = Some(keeper.verdict());
    }
    let depth = conn.depth();
    let doom = conn.keeper().doom;
    drop_above(conn, depth, doom).await;
    if depth == 0 {
        conn.keeper().doom = None;
    }
    result
}

/// Sends what rolls the innermost transaction or savepoint back.
pub(super) async fn send_rollback<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    match conn.state() {
        Some(open) if open.depth > 1 => roll_back_savepoint(conn, open).await,
        _ => {
            let sent = send(conn, Statement::Rollback).await;
            if let Err(error) = &sent {
                notice_its_end(conn, error);
            }
            sent
        }
    }
}

/// Where SQLite has ended the transaction, Diesel before 2.3.14 does not see it, and takes the connection for broken.
#[cold]
pub(super) fn notice_its_end<W: Wrapper>(conn: &mut W, error: &Error) {
    if is_over(error) {
        *conn.status() = TransactionManagerStatus::Valid(ValidTransactionManagerStatus::default());
    }
}

/// Whether SQLite says that there is no transaction. No other database does.
fn is_over(error: &Error) -> bool {
    match error {
        Error::DatabaseError(_, about) => says(about.message(), &["no transaction is active"]),
        Error::RollbackErrorOnCommit { commit_error, .. } => is_over(commit_error),
        _ => false,
    }
}

/// Rolls back to the savepoint of the innermost level, and releases it, in one message.
///
/// Diesel does not release it. Left behind, a savepoint takes memory and locks of the server until
/// COMMIT, and a later one of the same name hides it: a raw `ROLLBACK TO SAVEPOINT` behind that one
/// would go unnoticed.
async fn roll_back_savepoint<W: Wrapper>(conn: &mut W, open: State) -> QueryResult<()> {
    if conn.keeper().interrupted != Interrupted::No {
        return Err(CommitError::Cancelled.into());
    }
    if let Some(depth) = u32::try_from(open.depth).ok().and_then(NonZeroU32::new) {
        conn.tell(InstrumentationEvent::rollback_transaction(depth));
    }
    let Err(error) = send(conn, Statement::Sql(&roll_back_and_release(open.depth - 1))).await else {
        return change_depth(conn, TransactionDepthChange::DecreaseDepth);
    };
    // As in Diesel's own rollback: the levels around this one can still be rolled back.
    match conn.status() {
        TransactionManagerStatus::Valid(status) => match &mut status.in_transaction {
            Some(level) if level.transaction_depth.get() > 1 => {
                level.requires_rollback_maybe_up_to_top_level = true;
                change_depth(conn, TransactionDepthChange::DecreaseDepth)?;
                // It was known that only the outermost rollback helps.
                if open.aborted { Ok(()) } else { Err(error) }
            }
            Some(_) => {
                conn.status().set_in_error();
                Err(error)
            }
            // The client library has noticed that the transaction is over.
            None => Err(error),
        },
        TransactionManagerStatus::InError => Err(error),
    }
}

/// The message that undoes what ran behind Diesel's savepoint of this number, and ends the savepoint.
pub(super) fn roll_back_and_release(number: usize) -> String {
    format!("ROLLBACK TO SAVEPOINT {DIESEL_SAVEPOINT}{number}; RELEASE SAVEPOINT {DIESEL_SAVEPOINT}{number}")
}

/// Rolls back what is open above `depth`, whatever it takes.
#[cold]
pub(super) async fn unwind_to<W: Wrapper>(conn: &mut W, depth: usize) {
    loop {
        let Some(State { depth: open, .. }) = conn.state() else {
            drop_broken(conn).await;
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

/// Refuses to go on where a callback returned at another depth than `level`, at which it was called.
pub(super) async fn expect_depth<W: Wrapper>(conn: &mut W, level: usize) -> QueryResult<()> {
    match conn.state() {
        // On a broken connection what follows will find out, and say so.
        Some(State { depth, .. }) if depth != level => Err(unbalanced(conn, depth, level).await),
        _ => Ok(()),
    }
}

/// Rolls back what a callback began and did not end, together with its own level; gives up what it ended.
#[cold]
pub(super) async fn unbalanced<W: Wrapper>(conn: &mut W, depth: usize, level: usize) -> Error {
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
    abandon(conn, depth);
    if depth == 0 {
        // Diesel's bookkeeping does not know a transaction that was begun by raw SQL, and the next one must not become
        // part of it. Where there is none this does nothing, or fails.
        let _ = send(conn, Statement::Sql("ROLLBACK")).await;
    }
}

/// Rolls back what a hook left open; says whether there was something.
pub(super) async fn close_above<W: Wrapper>(conn: &mut W, depth: usize) -> bool {
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
