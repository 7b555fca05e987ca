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
use crate::hook::{Failed, Hook};
use crate::report::{HookFailure, HookKind, PendingHook};

/// Diesel's transaction manager for [`DeferredConnection`]: moves the hooks along with the transactions.
#[derive(Debug, Clone, Copy)]
pub struct DeferredTransactionManager;

/// The name is looked for in the server's message, so that it must not be found in any other.
const PROOF_SAVEPOINT: &str = "diesel_deferred_commit_proof";

/// What Diesel's own savepoints are called.
const DIESEL_SAVEPOINT: &str = "diesel_savepoint_";

/// One message to the server: where there is no live transaction the savepoint cannot be released (MySQL, MariaDB,
/// SQLite) or not even set (PostgreSQL), and the COMMIT behind it is not executed.
const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

impl<C: Deferrable> TransactionManager<DeferredConnection<C>> for DeferredTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    fn begin_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.begin(|inner, _| C::TransactionManager::begin_transaction(inner)).map(drop)
    }

    fn rollback_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.rollback()
    }

    fn commit_transaction(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
        conn.commit()
    }

    fn transaction_manager_status_mut(conn: &mut DeferredConnection<C>) -> &mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(&mut conn.inner)
    }

    fn transaction<F, R, E>(conn: &mut DeferredConnection<C>, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut DeferredConnection<C>) -> Result<R, E>,
        E: From<Error>,
    {
        conn.run_transaction(|inner, _| C::TransactionManager::begin_transaction(inner), callback)
    }

    fn is_broken_transaction_manager(conn: &mut DeferredConnection<C>) -> bool {
        C::TransactionManager::is_broken_transaction_manager(&mut conn.inner)
    }
}

/// What Diesel knows of the open transaction.
#[derive(Clone, Copy)]
pub(crate) struct State {
    depth: usize,
    /// 1 in a test transaction, whose own depth does not count.
    base: usize,
    /// A statement failed, and only a rollback can follow.
    aborted: bool,
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

    /// Whether a concurrent transaction was in the way of the last one, which may succeed when it is run again.
    pub(crate) fn lost_to_another(&self) -> bool {
        self.watch.saw_conflict()
    }

    /// Begins, runs the callback, and ends the transaction as the callback did.
    ///
    /// A panic in the callback rolls back to where the transaction began, and goes on.
    pub(crate) fn run_transaction<F, R, E>(
        &mut self,
        begin: impl FnOnce(&mut C, State) -> QueryResult<()>,
        callback: F,
    ) -> Result<R, E>
    where
        F: FnOnce(&mut Self) -> Result<R, E>,
        E: From<Error>,
    {
        let entry = self.begin(begin)?;
        match catch_unwind(AssertUnwindSafe(|| callback(self))) {
            Ok(Ok(value)) => match self.commit() {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.unwind_to(entry);
                    Err(match error {
                        // The block began a transaction, and now there is none.
                        Error::NotInTransaction => CommitError::EndedEarly.into(),
                        error => error,
                    }
                    .into())
                }
            },
            Ok(Err(user_error)) => match self.rollback() {
                // A transaction that is gone already, or a connection that is: the user's error is why.
                Ok(()) | Err(Error::BrokenTransactionManager | Error::NotInTransaction) => Err(user_error),
                Err(rollback_error) => {
                    self.unwind_to(entry);
                    Err(rollback_error.into())
                }
            },
            Err(panic) => {
                self.unwind_to(entry);
                resume_unwind(panic)
            }
        }
    }

    /// Begins a transaction and returns the depth that it was begun at.
    fn begin(&mut self, begin: impl FnOnce(&mut C, State) -> QueryResult<()>) -> QueryResult<usize> {
        let Some(state) = self.state() else { return Err(Error::BrokenTransactionManager) };
        if !state.is_nested() {
            if self.running == 0 {
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

    fn rollback(&mut self) -> QueryResult<()> {
        let result = C::TransactionManager::rollback_transaction(&mut self.inner);
        let result = self.watch.result(result).map_err(|error| match self.verdict(&error) {
            Some(doom) => {
                // The savepoint is gone, and the transaction with it.
                self.doom = Some(doom);
                CommitError::from(doom).into()
            }
            None => error,
        });
        let depth = self.depth();
        let ended_early = matches!(self.doom, Some(Doom::EndedEarly)) || matches!(result, Err(Error::NotInTransaction));
        if ended_early {
            self.abandon(depth);
        } else {
            self.discard(depth);
        }
        if depth == 0 {
            self.doom = None;
        }
        result
    }

    /// Rolls back what is open above `depth`, whatever it takes.
    fn unwind_to(&mut self, depth: usize) {
        loop {
            let Some(State { depth: open, .. }) = self.state() else {
                // Nothing on a broken connection can be committed any more.
                self.discard(0);
                return;
            };
            if open <= depth {
                self.abandon_leftovers(open);
                return;
            }
            if self.rollback().is_err() && self.depth() >= open {
                C::TransactionManager::transaction_manager_status_mut(&mut self.inner).set_in_error();
            }
        }
    }

    fn commit(&mut self) -> QueryResult<()> {
        let Some(mut state) = self.state() else {
            // COMMIT was never sent.
            self.discard(0);
            return Err(CommitError::RolledBack.into());
        };
        let waiting = self.queue().depth();
        if state.depth == 0 && waiting == 0 {
            return Err(Error::NotInTransaction);
        }
        if state.depth < waiting {
            self.abandon(state.depth);
            return Err(CommitError::EndedEarly.into());
        }
        let outermost = state.depth <= state.base + 1;
        if outermost && self.queue.has_before_commit() {
            state = self.run_before_commit(state)?;
        }
        if let Some(doom) = self.doom.or_else(|| state.aborted.then_some(Doom::RolledBack)) {
            self.doom = Some(doom);
            self.unwind_to(state.depth - 1);
            return Err(CommitError::from(doom).into());
        }
        if outermost {
            self.send_commit(state.depth)?;
            self.run_committed(state.depth - 1);
            Ok(())
        } else {
            self.release(state.depth)
        }
    }

    /// Ends a savepoint.
    fn release(&mut self, depth: usize) -> QueryResult<()> {
        match C::TransactionManager::commit_transaction(&mut self.inner) {
            Ok(()) => {
                self.queue.release();
                Ok(())
            }
            Err(error) => {
                self.watch.error(&error);
                self.doom = self.verdict(&error);
                let refused = self.doom.or_else(|| is_aborted(&error).then_some(Doom::RolledBack));
                // Diesel keeps the depth on some failures: the level did not commit, so it is rolled back.
                self.unwind_to(depth - 1);
                Err(refused.map_or(error, |doom| CommitError::from(doom).into()))
            }
        }
    }

    /// COMMIT, or its equivalent in a test transaction, believed only when proven.
    fn send_commit(&mut self, depth: usize) -> QueryResult<()> {
        let prove = match C::PROOF {
            CommitProof::Commit => false,
            CommitProof::Status => self.watch.doubt() >= Doubt::Unseen || self.queue.has_commit_hooks(),
            CommitProof::Savepoint => self.watch.doubt() >= Doubt::RawSql || self.queue.has_commit_hooks(),
        };
        // Above depth 1 the RELEASE of Diesel's own savepoint is the proof.
        let sent = if prove && depth == 1 {
            self.send_proven_commit()
        } else {
            C::TransactionManager::commit_transaction(&mut self.inner)
        };
        let Err(error) = sent else { return Ok(()) };
        self.watch.error(&error);
        let state = self.state();
        let still_open = state.is_some_and(|state| state.depth >= depth);
        // Aborted and still open: the proof failed, so that COMMIT was not executed.
        let aborted = still_open && state.is_some_and(|state| state.aborted) || is_aborted(&error);
        let doom = self.verdict(&error).or_else(|| aborted.then_some(Doom::RolledBack));
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

    /// How the transaction ended, if this error says that it has: after a deadlock it is the server that rolled it back.
    fn verdict(&self, error: &Error) -> Option<Doom> {
        let gone = [PROOF_SAVEPOINT, DIESEL_SAVEPOINT, "no transaction is active"];
        let gone = message_of(error).is_some_and(|message| gone.iter().any(|text| message.contains(text)));
        gone.then_some(if self.watch.saw_deadlock() { Doom::RolledBack } else { Doom::EndedEarly })
    }

    /// Runs the hooks that run before COMMIT, and says what the state is then.
    #[cold]
    fn run_before_commit(&mut self, state: State) -> QueryResult<State> {
        loop {
            let hooks = self.queue().take_before_commit();
            if hooks.is_empty() {
                return self.state().ok_or_else(|| CommitError::RolledBack.into());
            }
            for hook in hooks {
                match catch_unwind(AssertUnwindSafe(|| (hook.run)(self))) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        self.unwind_to(state.depth - 1);
                        return Err(error);
                    }
                    Err(panic) => {
                        self.unwind_to(state.depth - 1);
                        resume_unwind(panic);
                    }
                }
            }
        }
    }

    /// The outermost transaction, the one above `depth`, has committed: runs what waited for that.
    fn run_committed(&mut self, depth: usize) {
        let hooks = self.queue.take_committed(depth);
        if !hooks.is_empty() {
            let buffer = self.run_hooks(hooks, HookKind::AfterCommit);
            self.queue.recycle(buffer);
        }
    }

    /// Runs hooks one after the other; gives the emptied buffer back.
    fn run_hooks(&mut self, mut hooks: Vec<Hook<C>>, kind: HookKind) -> Vec<Hook<C>> {
        self.running += 1;
        let mut waiting = hooks.iter_mut();
        while let Some(hook) = waiting.next() {
            self.report.ran += 1;
            if let Err(failed) = hook.run(self) {
                self.report_failure(hook.name(), kind, *failed);
                if self.stop_at_first_failure {
                    let depth = self.depth() + 1;
                    self.report.not_run.extend(waiting.by_ref().map(|hook| hook.describe(kind, depth)));
                }
            }
        }
        self.running -= 1;
        hooks.clear();
        hooks
    }

    #[cold]
    fn report_failure(&mut self, task: &'static str, kind: HookKind, Failed { call_site, cause }: Failed) {
        tracing::error!(task, call_site = %call_site, kind = %kind, error = %cause, "a deferred task failed");
        self.report.failures.push(HookFailure { task, call_site, kind, cause });
    }

    /// Rolls back what a hook left open; says whether there was something.
    pub(crate) fn close_above(&mut self, depth: usize) -> bool {
        let left_open = self.depth() > depth;
        if left_open {
            self.unwind_to(depth);
        }
        left_open
    }

    /// What was registered above `depth` was rolled back: commit hooks vanish, rollback hooks run.
    fn discard(&mut self, depth: usize) {
        let rollback = self.queue().rollback_to(depth);
        if !rollback.is_empty() {
            self.run_hooks(rollback, HookKind::AfterRollback);
        }
    }

    /// What is left above `depth` belongs to transactions that ended behind our back.
    fn abandon_leftovers(&mut self, depth: usize) {
        if self.queue().has_above(depth) {
            self.abandon(depth);
        }
    }

    /// What was registered above `depth` is gone, but nobody knows how that transaction ended: nothing runs, all is
    /// reported.
    fn abandon(&mut self, depth: usize) {
        let (commit, rollback) = self.queue().abandon_to(depth);
        let commit = commit.iter().map(|hook| hook.describe(HookKind::AfterCommit, depth + 1));
        let rollback = rollback.iter().map(|hook| hook.describe(HookKind::AfterRollback, depth + 1));
        let lost: Vec<PendingHook> = commit.chain(rollback).collect();
        for hook in &lost {
            tracing::error!(
                task = hook.task,
                call_site = %hook.call_site,
                kind = %hook.kind,
                "a deferred task did not run: how its transaction ended is not known"
            );
        }
        self.report.not_run.extend(lost);
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

/// PostgreSQL's answer, in its default language, to every statement behind a failed one.
fn is_aborted(error: &Error) -> bool {
    message_of(error).is_some_and(|message| message.contains("current transaction is aborted"))
}

fn message_of(error: &Error) -> Option<&str> {
    match error {
        Error::DatabaseError(_, information) => Some(information.message()),
        Error::RollbackErrorOnCommit { commit_error, .. } => message_of(commit_error),
        _ => None,
    }
}
