//! How a transaction begins, runs and is rolled back on a deferring connection.
//!
//! Diesel's own transaction manager of the wrapped connection does the work; this one moves the marks of the queue along
//! with it. After each step the depth that Diesel reports counts, not the result of the step: Diesel lowers it on some
//! failures and keeps it on others.
//!
//! Must not know: the macros, or what it takes to believe a COMMIT (`commit`).

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::connection::{
    Connection, InstrumentationEvent, TransactionDepthChange, TransactionManager, TransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};

use super::Deferrable;
use super::blocking::DeferredConnection;
use super::commit::is_gone;
use crate::error::CommitError;

/// Diesel's transaction manager for [`DeferredConnection`]: moves the hooks along with the transactions.
#[derive(Debug, Clone, Copy)]
pub struct DeferredTransactionManager;

impl<C: Deferrable> TransactionManager<DeferredConnection<C>> for DeferredTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    fn begin_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.begin(|inner, _| C::TransactionManager::begin_transaction(inner)).map(drop)
    }

    fn rollback_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.rollback()
    }

    fn commit_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        match conn.state() {
            Some(State { depth: 0, .. }) if conn.queue().depth() == 0 => Err(Error::NotInTransaction),
            state => conn.commit(state, Promise::AsDiesel),
        }
    }

    fn transaction_manager_status_mut(conn: &mut DeferredConnection<C>) -> &mut TransactionManagerStatus {
        conn.status()
    }

    fn transaction<F, R, E>(conn: &mut DeferredConnection<C>, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut DeferredConnection<C>) -> Result<R, E>,
        E: From<Error>,
    {
        conn.run_transaction(Promise::AsDiesel, |inner, _| C::TransactionManager::begin_transaction(inner), callback)
    }

    fn is_broken_transaction_manager(conn: &mut DeferredConnection<C>) -> bool {
        C::TransactionManager::is_broken_transaction_manager(&mut conn.inner)
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

/// What Diesel knows of the open transaction.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(super) depth: usize,
    /// 1 in a test transaction, whose own depth does not count.
    pub(super) base: usize,
    /// A statement failed, and only a rollback can follow.
    pub(super) aborted: bool,
}

impl State {
    /// Whether a transaction begun now would be a savepoint of the application's.
    pub(crate) fn is_nested(self) -> bool {
        self.depth > self.base
    }

    /// Whether BEGIN is what begins a transaction now.
    pub(crate) fn is_idle(self) -> bool {
        self.depth == 0
    }
}

impl<C: Deferrable> DeferredConnection<C> {
    /// Diesel's own bookkeeping.
    pub(super) fn status(&mut self) -> &mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(&mut self.inner)
    }

    /// The depth of open transactions, as Diesel knows it. A broken connection has none.
    pub(crate) fn depth(&mut self) -> usize {
        self.state().map_or(0, |state| state.depth)
    }

    /// The state, or `None` where the connection is broken.
    pub(super) fn state(&mut self) -> Option<State> {
        match self.status() {
            TransactionManagerStatus::InError => None,
            TransactionManagerStatus::Valid(status) => Some(match &status.in_transaction {
                None => State { depth: 0, base: 0, aborted: false },
                Some(open) => State {
                    depth: open.transaction_depth.get() as usize,
                    base: usize::from(open.test_transaction),
                    aborted: open.requires_rollback_maybe_up_to_top_level,
                },
            }),
        }
    }

    /// Whether a concurrent transaction was in the way of the last one, which may succeed when it is run again. Not where
    /// it may have been committed, nor on a broken connection.
    pub(crate) fn lost_to_another(&mut self) -> bool {
        self.watch.saw_conflict() && self.state().is_some()
    }

    /// Begins, runs the callback, and ends the transaction as the callback did.
    ///
    /// A panic in the callback rolls back to where the transaction began, and goes on.
    pub(crate) fn run_transaction<F, R, E>(
        &mut self,
        promise: Promise,
        begin: impl FnOnce(&mut C, State) -> QueryResult<()>,
        callback: F,
    ) -> Result<R, E>
    where
        F: FnOnce(&mut Self) -> Result<R, E>,
        E: From<Error>,
    {
        let entry = self.begin(begin)?;
        let level = entry + 1;
        self.blocks += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(self)));
        self.blocks -= 1;
        match outcome {
            Ok(Ok(value)) => match self.commit_at(level, promise) {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.unwind_to(entry);
                    Err(error.into())
                }
            },
            Ok(Err(user_error)) => {
                if self.expect_depth(level).is_err() {
                    return Err(user_error);
                }
                match self.rollback() {
                    // A transaction that is gone already, or a connection that is: the user's error is why.
                    Ok(()) | Err(Error::BrokenTransactionManager) => Err(user_error),
                    Err(rollback_error) => {
                        let gone = is_gone(&rollback_error);
                        let doom = self.doom;
                        self.unwind_to(entry);
                        match doom {
                            _ if gone && entry == 0 => Err(user_error),
                            Some(doom) => Err(Error::from(CommitError::from(doom)).into()),
                            None => Err(rollback_error.into()),
                        }
                    }
                }
            }
            Err(panic) => {
                let _ = self.expect_depth(level);
                self.unwind_to(entry);
                resume_unwind(panic)
            }
        }
    }

    /// Begins a transaction and returns the depth that it was begun at.
    fn begin(&mut self, begin: impl FnOnce(&mut C, State) -> QueryResult<()>) -> QueryResult<usize> {
        let Some(state) = self.state() else { return Err(Error::BrokenTransactionManager) };
        if !state.is_nested() {
            // A block whose transaction has ended early goes on telling of that.
            if self.running == 0 && self.blocks == 0 {
                self.report.clear();
            }
            self.watch.reset();
            self.doom = None;
        }
        self.abandon_leftovers(state.depth);
        self.watch.result(begin(&mut self.inner, state))?;
        self.queue.begin_up_to(state.depth + 1);
        Ok(state.depth)
    }

    /// Rolls the innermost transaction or savepoint back.
    pub(super) fn rollback(&mut self) -> QueryResult<()> {
        self.doom = self.doom.or_else(|| self.rollback_doom());
        let result = self.watch.result(C::TransactionManager::rollback_transaction(&mut self.inner));
        if result.as_ref().is_err_and(is_gone) {
            self.doom = Some(self.verdict());
        }
        let depth = self.depth();
        if depth > 0 && result.is_ok() {
            self.end_savepoint(depth);
        }
        self.drop_above(depth, self.doom);
        if depth == 0 {
            self.doom = None;
        }
        result
    }

    /// Rolls back what is open above `depth`, whatever it takes.
    #[cold]
    pub(super) fn unwind_to(&mut self, depth: usize) {
        loop {
            let Some(State { depth: open, .. }) = self.state() else {
                self.drop_broken();
                return;
            };
            if open <= depth {
                self.abandon_leftovers(open);
                return;
            }
            if self.rollback().is_err() && self.depth() >= open {
                self.status().set_in_error();
            }
        }
    }

    /// Refuses to go on where a callback returned at another depth than `level`, at which it was called.
    pub(super) fn expect_depth(&mut self, level: usize) -> QueryResult<()> {
        match self.state() {
            // On a broken connection what follows will find out, and say so.
            Some(State { depth, .. }) if depth != level => Err(self.unbalanced(depth, level)),
            _ => Ok(()),
        }
    }

    /// Rolls back what a callback began and did not end, together with its own level; gives up what it ended.
    #[cold]
    pub(super) fn unbalanced(&mut self, depth: usize, level: usize) -> Error {
        if depth > level {
            self.unwind_to(level - 1);
            CommitError::LeftOpen.into()
        } else {
            self.give_up(depth);
            CommitError::EndedEarly.into()
        }
    }

    /// The levels above `depth` ended behind our back.
    pub(super) fn give_up(&mut self, depth: usize) {
        self.abandon(depth);
        if depth == 0 {
            // Diesel's bookkeeping does not know a transaction that was begun by raw SQL, and the next one must not become
            // part of it. Where there is none this does nothing, or fails.
            let _ = self.inner.batch_execute("ROLLBACK");
        }
    }

    /// Rolls back what a hook left open; says whether there was something.
    pub(crate) fn close_above(&mut self, depth: usize) -> bool {
        let left_open = self.depth() > depth;
        if left_open {
            self.unwind_to(depth);
        }
        left_open
    }
}

/// Opens a transaction with `sql` where none is open, for any connection: Diesel's own function for this knows its own
/// connections only.
pub(crate) fn begin_with_sql<C: Connection>(conn: &mut C, sql: &str) -> QueryResult<()> {
    conn.instrumentation().on_connection_event(InstrumentationEvent::begin_transaction(NonZeroU32::MIN));
    conn.batch_execute(sql)?;
    match C::TransactionManager::transaction_manager_status_mut(conn) {
        TransactionManagerStatus::Valid(status) => {
            status.change_transaction_depth(TransactionDepthChange::IncreaseDepth)
        }
        TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
    }
}
