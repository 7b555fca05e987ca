//! How a transaction begins and ends on a deferring connection, and what that does to the hooks.
//!
//! Diesel's own transaction manager of the wrapped connection does the work; this one moves the marks of the queue along
//! with it, refuses a COMMIT that cannot be believed, and runs the hooks of one that can. After each step the depth that
//! Diesel reports counts, not the result of the step: Diesel lowers it on some failures and keeps it on others.
//!
//! Must not know: the macros.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::connection::{
    Connection, InstrumentationEvent, TransactionDepthChange, TransactionManager, TransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};

use super::blocking::{DeferredConnection, Doom};
use super::watch::Doubt;
use super::{CommitProof, Deferrable};
use crate::error::CommitError;
use crate::hook::Hook;
use crate::report::{FailureCause, HookFailure, HookKind};

/// Diesel's transaction manager for [`DeferredConnection`]: moves the hooks along with the transactions.
#[derive(Debug, Clone, Copy)]
pub struct DeferredTransactionManager;

/// The name is looked for in the server's message, so that it must not be found in any other.
const PROOF_SAVEPOINT: &str = "diesel_deferred_commit_proof";

/// Fails where there is no live transaction, and does nothing where there is one.
const PROOF: &str = "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof";

/// One message to the server: where there is no live transaction the savepoint cannot be released (MySQL, MariaDB,
/// SQLite) or not even set (PostgreSQL), and the COMMIT behind it is not executed.
const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

impl<C: Deferrable> TransactionManager<DeferredConnection<C>> for DeferredTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    fn begin_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.begin(C::TransactionManager::begin_transaction)
    }

    fn rollback_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.rollback()
    }

    fn commit_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.commit(Promise::AsDiesel)
    }

    fn transaction_manager_status_mut(conn: &mut DeferredConnection<C>) -> &mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(&mut conn.inner)
    }

    fn transaction<F, R, E>(conn: &mut DeferredConnection<C>, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut DeferredConnection<C>) -> Result<R, E>,
        E: From<Error>,
    {
        conn.run_transaction(Promise::AsDiesel, C::TransactionManager::begin_transaction, callback)
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
struct State {
    depth: usize,
    /// 1 in a test transaction, whose own depth does not count.
    base: usize,
    /// A statement failed, and only a rollback can follow.
    aborted: bool,
}

impl<C: Deferrable> DeferredConnection<C> {
    /// The state, or `None` where the connection is broken.
    fn state(&mut self) -> Option<State> {
        match C::TransactionManager::transaction_manager_status_mut(&mut self.inner) {
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

    /// Whether a transaction begun now would be a savepoint; in a test transaction the first one does not count as such.
    pub(crate) fn is_nested(&mut self) -> bool {
        self.state().is_some_and(|state| state.depth > state.base)
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
        begin: impl FnOnce(&mut C) -> QueryResult<()>,
        callback: F,
    ) -> Result<R, E>
    where
        F: FnOnce(&mut Self) -> Result<R, E>,
        E: From<Error>,
    {
        let entry = self.depth();
        self.begin(begin)?;
        let level = self.depth();
        match catch_unwind(AssertUnwindSafe(|| callback(self))) {
            Ok(Ok(value)) => match self.expect_depth(level).and_then(|()| self.commit(promise)) {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.unwind_to(entry);
                    Err(error.into())
                }
            },
            Ok(Err(user_error)) => {
                if self.depth() != level && self.expect_depth(level).is_err() {
                    return Err(user_error);
                }
                match self.rollback() {
                    Ok(()) => Err(user_error),
                    // A transaction that is gone already, or a connection that is: the user's error is why.
                    Err(Error::BrokenTransactionManager) => Err(user_error),
                    Err(rollback_error) if is_gone(&rollback_error) && entry == 0 => Err(user_error),
                    Err(rollback_error) => {
                        self.unwind_to(entry);
                        Err(rollback_error.into())
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

    /// Refuses to go on where a callback returned at another depth than `level`, at which it was called: rolls back what
    /// it began and did not end, together with its level; gives up what it ended.
    fn expect_depth(&mut self, level: usize) -> QueryResult<()> {
        let Some(State { depth, .. }) = self.state() else {
            // What follows will find out, and say so.
            return Ok(());
        };
        if depth > level {
            self.unwind_to(level.saturating_sub(1));
            return Err(CommitError::LeftOpen.into());
        }
        if depth < level {
            self.give_up(depth);
            return Err(CommitError::EndedEarly.into());
        }
        Ok(())
    }

    /// The levels above `depth` ended behind our back.
    fn give_up(&mut self, depth: usize) {
        self.abandon(depth);
        if depth == 0 {
            // Diesel's bookkeeping does not know a transaction that was begun by raw SQL, and the next one must not become
            // part of it. Where there is none this does nothing, or fails.
            let _ = self.inner.batch_execute("ROLLBACK");
        }
    }

    fn begin(&mut self, begin: impl FnOnce(&mut C) -> QueryResult<()>) -> QueryResult<()> {
        let state = self.state().ok_or(Error::BrokenTransactionManager)?;
        if state.depth == state.base {
            if self.running == 0 {
                self.report.clear();
            }
            self.watch.reset();
            self.doom = None;
        }
        if self.queue().depth() > state.depth {
            // What is left belongs to a transaction that ended behind our back.
            self.abandon(state.depth);
        }
        let began = begin(&mut self.inner);
        self.watch.result(began)?;
        let depth = self.depth();
        self.queue().begin_up_to(depth);
        Ok(())
    }

    fn rollback(&mut self) -> QueryResult<()> {
        if self.is_unproven_rollback() && self.inner.batch_execute(PROOF).is_err_and(|error| is_gone(&error)) {
            self.doom = Some(self.verdict());
        }
        let result = C::TransactionManager::rollback_transaction(&mut self.inner);
        if let Err(error) = &result {
            self.watch.error(error);
            if is_gone(error) {
                self.doom = Some(self.verdict());
            }
        }
        let depth = self.depth();
        self.drop_above(depth);
        if depth == 0 {
            self.doom = None;
        }
        result
    }

    /// Whether rollback hooks wait for a ROLLBACK that would succeed without a transaction: what ran may be committed.
    fn is_unproven_rollback(&mut self) -> bool {
        C::PROOF == CommitProof::Savepoint
            && self.watch.doubt() >= Doubt::RawSql
            && !self.watch.lost_transaction()
            && self.queue().has_rollback_hooks()
            && self.state().is_some_and(|state| state.depth == 1 && !state.aborted)
    }

    /// Rolls back what is open above `depth`, whatever it takes.
    fn unwind_to(&mut self, depth: usize) {
        loop {
            let open = self.depth();
            if open <= depth {
                // Also on a broken connection, which has no depth: nothing on it can be committed any more.
                self.drop_above(open);
                return;
            }
            if self.rollback().is_err() && self.depth() >= open {
                C::TransactionManager::transaction_manager_status_mut(&mut self.inner).set_in_error();
            }
        }
    }

    fn commit(&mut self, promise: Promise) -> QueryResult<()> {
        let Some(State { depth, base, .. }) = self.state() else {
            // COMMIT was never sent.
            self.discard(0);
            return Err(CommitError::RolledBack.into());
        };
        let waiting = self.queue().depth();
        if depth == 0 && waiting == 0 {
            return Err(Error::NotInTransaction);
        }
        if depth < waiting {
            // Hooks were registered at a level that ended below the wrapper.
            self.give_up(depth);
            if depth > base {
                self.unwind_to(depth - 1);
            }
            return Err(CommitError::EndedEarly.into());
        }
        if depth > base + 1 { self.release() } else { self.commit_outermost(promise) }
    }

    /// Ends a savepoint.
    fn release(&mut self) -> QueryResult<()> {
        self.refuse_if_lost()?;
        let entry = self.depth();
        match C::TransactionManager::commit_transaction(&mut self.inner) {
            Ok(()) => {
                self.queue().release();
                Ok(())
            }
            Err(error) => {
                self.watch.error(&error);
                if is_gone(&error) {
                    // The savepoint is gone, and the transaction with it.
                    self.doom = Some(self.verdict());
                }
                let doom = self.doom.or_else(|| self.aborted_release());
                // Diesel keeps the depth on some failures: the level did not commit, so it is rolled back.
                self.unwind_to(entry.saturating_sub(1));
                Err(doom.map_or(error, |doom| CommitError::from(doom).into()))
            }
        }
    }

    /// Why PostgreSQL refused to release a savepoint that is there: constraints wait for COMMIT, so that only an aborted
    /// transaction is left. Diesel has rolled it back to the savepoint by now.
    fn aborted_release(&mut self) -> Option<Doom> {
        (C::PROOF == CommitProof::Status && self.state().is_some()).then_some(Doom::RolledBack)
    }

    /// Ends the outermost transaction (of the application: in a test transaction that is a savepoint) and runs its hooks.
    fn commit_outermost(&mut self, promise: Promise) -> QueryResult<()> {
        self.run_before_commit()?;
        self.refuse_if_lost()?;
        self.send_commit(promise)?;
        self.run_committed();
        Ok(())
    }

    /// Rolls back and refuses where it is known already that the transaction can't commit.
    fn refuse_if_lost(&mut self) -> QueryResult<()> {
        let Some(State { depth, aborted, .. }) = self.state() else {
            self.discard(0);
            return Err(CommitError::RolledBack.into());
        };
        let doom = self.doom.or_else(|| (aborted || self.watch.lost_transaction()).then_some(Doom::RolledBack));
        let Some(doom) = doom else { return Ok(()) };
        self.unwind_to(depth.saturating_sub(1));
        Err(CommitError::from(doom).into())
    }

    /// COMMIT, or its equivalent in a test transaction, believed only when proven.
    fn send_commit(&mut self, promise: Promise) -> QueryResult<()> {
        let suspicious = match (C::PROOF, promise) {
            (CommitProof::Commit, _) => None,
            (CommitProof::Savepoint, Promise::Atomic) => Some(Doubt::RawSql),
            (CommitProof::Savepoint, Promise::AsDiesel) | (CommitProof::Status, _) => Some(Doubt::Unseen),
        };
        let prove = suspicious.is_some_and(|doubt| self.watch.doubt() >= doubt || self.queue().has_commit_hooks());
        // Above depth 1 the RELEASE of Diesel's own savepoint is the proof.
        let depth = self.depth();
        let sent = if prove && depth == 1 {
            self.send_proven_commit()
        } else {
            C::TransactionManager::commit_transaction(&mut self.inner)
        };
        let Err(error) = sent else { return Ok(()) };
        self.watch.error(&error);
        let state = self.state();
        let still_open = state.as_ref().is_some_and(|state| state.depth >= depth);
        let doom = if is_gone(&error) {
            Some(self.verdict())
        } else if still_open && state.is_some_and(|state| state.aborted) {
            // The proof failed, so that COMMIT was not executed.
            Some(Doom::RolledBack)
        } else if depth > 1 {
            self.aborted_release()
        } else {
            None
        };
        if still_open && C::TransactionManager::rollback_transaction(&mut self.inner).is_err() {
            C::TransactionManager::transaction_manager_status_mut(&mut self.inner).set_in_error();
        }
        if doom.is_none() && self.state().is_none() {
            // The connection broke in COMMIT, or COMMIT failed and ROLLBACK behind it.
            self.abandon(0);
            return Err(CommitError::Unknown { source: Box::new(error) }.into());
        }
        match doom {
            Some(Doom::EndedEarly) => self.abandon(depth - 1),
            Some(Doom::RolledBack) | None => self.discard(depth - 1),
        }
        Err(doom.map_or(error, |doom| CommitError::from(doom).into()))
    }

    /// COMMIT behind a proof, in one message, with the events and the bookkeeping that Diesel's own commit has.
    fn send_proven_commit(&mut self) -> QueryResult<()> {
        self.inner.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        self.inner.batch_execute(PROVEN_COMMIT)?;
        if let TransactionManagerStatus::Valid(status) =
            C::TransactionManager::transaction_manager_status_mut(&mut self.inner)
        {
            // PostgreSQL's connection has noticed already.
            if status.transaction_depth().is_some() {
                status.change_transaction_depth(TransactionDepthChange::DecreaseDepth)?;
            }
        }
        Ok(())
    }

    /// How a transaction ended that is found to be gone: after a deadlock it is the server that rolled it back.
    fn verdict(&self) -> Doom {
        if self.watch.lost_transaction() { Doom::RolledBack } else { Doom::EndedEarly }
    }

    fn run_before_commit(&mut self) -> QueryResult<()> {
        loop {
            let mut hooks = self.queue().take_before_commit().into_iter();
            if hooks.len() == 0 {
                return Ok(());
            }
            while let Some(hook) = hooks.next() {
                let level = self.depth();
                let outcome = catch_unwind(AssertUnwindSafe(|| hook.run(self)));
                let balanced = self.expect_depth(level);
                let failed = match outcome {
                    Ok(Ok(())) => match balanced {
                        Ok(()) => continue,
                        Err(error) => Ok(error.into()),
                    },
                    Ok(Err(error)) => Ok(error),
                    Err(panic) => Err(panic),
                };
                self.bury(hooks, HookKind::BeforeCommit);
                self.unwind_to(level.saturating_sub(1));
                match failed {
                    Ok(error) => {
                        return Err(error.downcast::<Error>().map_or_else(Error::QueryBuilderError, |error| *error));
                    }
                    Err(panic) => resume_unwind(panic),
                }
            }
        }
    }

    /// The outermost transaction has committed: runs what waited for that.
    fn run_committed(&mut self) {
        let depth = self.depth();
        let (hooks, spent) = self.queue().take_committed(depth);
        if !hooks.is_empty() {
            let buffer = self.run_hooks(hooks, HookKind::AfterCommit);
            self.queue().recycle(buffer);
        }
        self.bury(spent.into_iter().map(|(_, hook)| hook), HookKind::AfterRollback);
    }

    /// Runs hooks one after the other; gives the emptied buffer back.
    fn run_hooks(&mut self, mut hooks: Vec<Hook<C>>, kind: HookKind) -> Vec<Hook<C>> {
        let depth = self.depth();
        self.running += 1;
        let failures_before = self.report.failures.len();
        for hook in hooks.drain(..) {
            if self.stop_at_first_failure && self.report.failures.len() > failures_before {
                self.report.not_run.push(hook.describe(kind, depth + 1));
                self.bury([hook], kind);
                continue;
            }
            let (task, call_site) = (hook.name(), hook.call_site());
            let outcome = catch_unwind(AssertUnwindSafe(|| hook.run(self)));
            self.report.ran += 1;
            let left_open = self.depth() > depth;
            if left_open {
                self.unwind_to(depth);
            }
            let cause = match outcome {
                Ok(Ok(())) if !left_open => continue,
                Ok(Ok(())) => FailureCause::LeftTransactionOpen,
                Ok(Err(error)) => FailureCause::Error(error),
                Err(panic) => FailureCause::Panic(panic_message(&*panic)),
            };
            self.report.fail(HookFailure { task, call_site, kind, cause });
        }
        self.running -= 1;
        hooks
    }

    /// What was registered above `depth` is over: rolled back, unless it is known to have ended otherwise.
    fn drop_above(&mut self, depth: usize) {
        match self.doom {
            Some(Doom::EndedEarly) => self.abandon(depth),
            Some(Doom::RolledBack) | None => self.discard(depth),
        }
    }

    /// What was registered above `depth` was rolled back: commit hooks vanish, rollback hooks run.
    fn discard(&mut self, depth: usize) {
        let dropped = self.queue().rollback_to(depth);
        self.bury(dropped.commit, HookKind::AfterCommit);
        self.bury(dropped.before, HookKind::BeforeCommit);
        if !dropped.rollback.is_empty() {
            // A hook may open transactions of its own; whether this one is worth another attempt is not about those.
            let conflict = self.watch.saw_conflict();
            self.run_hooks(dropped.rollback, HookKind::AfterRollback);
            self.watch.set_conflict(conflict);
        }
    }

    /// Drops hooks that will not run. A captured value's `Drop` may panic: that must not stop anything here.
    fn bury(&mut self, hooks: impl IntoIterator<Item = Hook<C>>, kind: HookKind) {
        for hook in hooks {
            let (task, call_site) = (hook.name(), hook.call_site());
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(hook))) {
                let cause = FailureCause::Panic(panic_message(&*panic));
                self.report.fail(HookFailure { task, call_site, kind, cause });
            }
        }
    }

    /// What was registered above `depth` is gone, but nobody knows how that transaction ended: nothing runs, all is
    /// reported.
    fn abandon(&mut self, depth: usize) {
        // It may have been committed: it is not to be run again.
        self.watch.set_conflict(false);
        let dropped = self.queue().rollback_to(depth);
        let commit = dropped.commit.iter().map(|hook| hook.describe(HookKind::AfterCommit, depth + 1));
        let rollback = dropped.rollback.iter().map(|hook| hook.describe(HookKind::AfterRollback, depth + 1));
        self.report.lose(commit.chain(rollback));
        self.bury(dropped.commit, HookKind::AfterCommit);
        self.bury(dropped.before, HookKind::BeforeCommit);
        self.bury(dropped.rollback, HookKind::AfterRollback);
    }
}

/// Opens a transaction with `sql`, for any connection: Diesel's own function for this knows its own connections only.
pub(crate) fn begin_with_sql<C: Connection>(conn: &mut C, sql: &str) -> QueryResult<()> {
    if C::TransactionManager::transaction_manager_status_mut(conn).transaction_depth()?.is_some() {
        return Err(Error::AlreadyInTransaction);
    }
    conn.instrumentation().on_connection_event(InstrumentationEvent::begin_transaction(NonZeroU32::MIN));
    conn.batch_execute(sql)?;
    match C::TransactionManager::transaction_manager_status_mut(conn) {
        TransactionManagerStatus::Valid(status) => {
            status.change_transaction_depth(TransactionDepthChange::IncreaseDepth)
        }
        TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
    }
}

/// Whether the error says that there is no transaction, or that a savepoint is not in it: that it ended behind our back.
fn is_gone(error: &Error) -> bool {
    let message = message_of(error);
    matches!(error, Error::NotInTransaction)
        || [PROOF_SAVEPOINT, "diesel_savepoint_", "no transaction is active"].iter().any(|text| message.contains(text))
}

fn message_of(error: &Error) -> String {
    match error {
        Error::DatabaseError(_, information) => information.message().to_owned(),
        Error::RollbackErrorOnCommit { commit_error, .. } => message_of(commit_error),
        _ => String::new(),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not with a string".to_owned())
}
