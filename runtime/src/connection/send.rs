//! One statement of ours, marked while it is under way: where its future is dropped, nobody knows
//! what became of it.
//!
//! Must not know: when it is sent, or what its failure means.

use std::num::NonZeroU32;

use diesel::connection::{
    InstrumentationEvent, TransactionDepthChange, TransactionManagerStatus, ValidTransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};

use super::ending::Order;
use super::keeper::Interrupted;
use super::proof::{PROOF, is_over, proven_commit, roll_back_and_release};
use super::wrapper::{State, Wrapper};
use crate::error::CommitError;

/// A statement that moves transactions.
#[derive(Clone, Copy)]
pub(super) enum Statement<'a> {
    Begin,
    Commit,
    Rollback,
    Sql(&'a str),
}

/// Sends it. Where the future is dropped meanwhile, nobody knows what became of it, and
/// `interrupted` tells.
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

/// Sends what the end of the level at `depth` takes.
pub(super) async fn send_order<W: Wrapper>(conn: &mut W, order: Order, depth: usize) -> QueryResult<()> {
    match order {
        Order::Commit => send_marked(conn, Statement::Commit, Interrupted::InCommit).await,
        Order::ProvenCommit => send_proven_commit(conn).await,
        Order::Release => send(conn, Statement::Commit).await,
        Order::Heal => send(conn, Statement::Sql(&roll_back_and_release(depth - 1))).await,
        Order::Forget => change_depth(conn, TransactionDepthChange::DecreaseDepth),
        Order::Rollback => send_rollback(conn).await,
        Order::PlainRollback => send(conn, Statement::Sql("ROLLBACK")).await,
        Order::Proof => send(conn, Statement::Sql(PROOF)).await,
    }
}

/// Opens a transaction with `sql` where none is open, for any connection: Diesel's own function for
/// this knows its own connections only.
pub(super) async fn begin_with_sql<W: Wrapper>(conn: &mut W, sql: String) -> QueryResult<()> {
    conn.tell(InstrumentationEvent::begin_transaction(NonZeroU32::MIN));
    // Before it is sent: where the future is dropped meanwhile, a pool below must not take the
    // connection for idle.
    change_depth(conn, TransactionDepthChange::IncreaseDepth)?;
    let begun = send(conn, Statement::Sql(&sql)).await;
    if begun.is_err() && conn.depth() > 0 {
        change_depth(conn, TransactionDepthChange::DecreaseDepth)?;
    }
    begun
}

fn change_depth<W: Wrapper>(conn: &mut W, change: TransactionDepthChange) -> QueryResult<()> {
    match conn.status() {
        TransactionManagerStatus::Valid(status) => status.change_transaction_depth(change),
        TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
    }
}

/// COMMIT behind a proof, in one message, with the events and the bookkeeping that Diesel's own
/// commit has.
async fn send_proven_commit<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    conn.tell(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
    send_marked(conn, Statement::Sql(proven_commit(W::PROOF)), Interrupted::InCommit).await?;
    note_commit(conn)
}

/// The outermost COMMIT was sent past Diesel, and succeeded.
pub(super) fn note_commit<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    if let TransactionManagerStatus::Valid(status) = conn.status() {
        // Diesel's PostgreSQL connection has noticed already.
        if status.transaction_depth().is_some() {
            status.change_transaction_depth(TransactionDepthChange::DecreaseDepth)?;
        }
    }
    Ok(())
}

/// Sends what rolls the innermost transaction or savepoint back.
async fn send_rollback<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
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

/// Where SQLite has ended the transaction, Diesel before 2.3.14 does not see it, and takes the
/// connection for broken.
#[cold]
pub(super) fn notice_its_end<W: Wrapper>(conn: &mut W, error: &Error) {
    if is_over(error) {
        *conn.status() = TransactionManagerStatus::Valid(ValidTransactionManagerStatus::default());
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
