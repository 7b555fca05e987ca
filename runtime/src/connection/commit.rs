//! How a transaction ends with COMMIT, and what it takes to believe that.
//!
//! Must not know: how hooks are run.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::connection::{InstrumentationEvent, TransactionDepthChange, TransactionManager, TransactionManagerStatus};
use diesel::result::{Error, QueryResult};

use super::blocking::{DeferredConnection, Doom};
use super::transaction::{Promise, State};
use super::watch::{Doubt, says};
use super::{CommitProof, Deferrable};
use crate::error::CommitError;

/// The name is looked for in the server's message, so that it must not be found in any other.
const PROOF_SAVEPOINT: &str = "diesel_deferred_commit_proof";

/// What Diesel's own savepoints are called.
const DIESEL_SAVEPOINT: &str = "diesel_savepoint_";

/// Fails where there is no live transaction, and does nothing where there is one.
const PROOF: &str = "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof";

/// One message to the server: where there is no live transaction the savepoint cannot be released (MySQL, MariaDB,
/// SQLite) or not even set (PostgreSQL), and the COMMIT behind it is not executed.
const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

impl<C: Deferrable> DeferredConnection<C> {
    /// Commits the transaction or savepoint that was begun at `level`, which must be the innermost.
    pub(super) fn commit_at(&mut self, level: usize, promise: Promise) -> QueryResult<()> {
        match self.state() {
            Some(State { depth, .. }) if depth != level => Err(self.unbalanced(depth, level)),
            state => self.commit(state, promise),
        }
    }

    /// Commits the innermost transaction or savepoint.
    pub(super) fn commit(&mut self, state: Option<State>, promise: Promise) -> QueryResult<()> {
        let Some(mut state) = state else { return Err(self.broken()) };
        if self.queue().depth() > state.depth {
            // Hooks were registered at a level that ended below the wrapper.
            self.give_up(state.depth);
            if state.depth > state.base {
                self.unwind_to(state.depth - 1);
            }
            return Err(CommitError::EndedEarly.into());
        }
        let outermost = state.depth <= state.base + 1;
        if outermost && self.queue.has_before_commit() {
            state = self.run_before_commit(state)?;
        }
        if let Some(doom) = self.doom.or_else(|| self.is_lost(state).then_some(Doom::RolledBack)) {
            self.unwind_to(state.depth - 1);
            return Err(CommitError::from(doom).into());
        }
        if outermost {
            self.send_commit(state.depth, promise)?;
            self.run_committed(state.depth - 1);
            Ok(())
        } else {
            self.release(state.depth)
        }
    }

    /// COMMIT was never sent on a connection that broke before.
    #[cold]
    fn broken(&mut self) -> Error {
        self.drop_broken();
        CommitError::RolledBack.into()
    }

    /// Nothing on a broken connection can be committed any more; what was committed before, on a database that does not
    /// tell, is not known.
    #[cold]
    pub(super) fn drop_broken(&mut self) {
        if self.may_be_committed() { self.abandon(0) } else { self.discard(0) }
    }

    /// Whether the transaction may have been ended by a statement in it without anybody having noticed.
    fn may_be_committed(&self) -> bool {
        C::PROOF == CommitProof::Savepoint && self.watch.doubt() >= Doubt::RawSql && !self.watch.lost_transaction()
    }

    /// Finds out before a ROLLBACK, which would succeed without a transaction too, whether what ran may be committed, where
    /// rollback hooks wait for the answer.
    pub(super) fn rollback_doom(&mut self) -> Option<Doom> {
        let unproven = self.may_be_committed()
            && self.queue().has_rollback_hooks()
            && self.state().is_some_and(|state| state.depth == 1 && !state.aborted);
        (unproven && self.inner.batch_execute(PROOF).is_err()).then_some(Doom::EndedEarly)
    }

    /// Ends the savepoint that was rolled back to, at the depth above `depth`. Where the transaction around it had ended,
    /// on SQLite the savepoint began one of its own, which must not pass for it.
    pub(super) fn end_savepoint(&mut self, depth: usize) {
        if C::PROOF != CommitProof::Status && self.watch.doubt() >= Doubt::RawSql {
            // Where that fails the transaction is gone, which its COMMIT will find out.
            let _ = self.inner.batch_execute(&format!("RELEASE SAVEPOINT {DIESEL_SAVEPOINT}{depth}"));
        }
    }

    /// Whether it is known before COMMIT that only a rollback can follow, or has happened.
    fn is_lost(&self, state: State) -> bool {
        state.aborted || self.watch.lost_transaction()
    }

    /// Ends a savepoint.
    fn release(&mut self, depth: usize) -> QueryResult<()> {
        let Err(error) = C::TransactionManager::commit_transaction(&mut self.inner) else {
            self.queue.release();
            return Ok(());
        };
        self.watch.error(&error);
        if is_gone(&error) {
            // And the transaction with it.
            self.doom = Some(self.verdict());
        }
        let doom = self.doom.or_else(|| self.aborted_release());
        // Diesel keeps the depth on some failures: the level did not commit, so it is rolled back.
        self.unwind_to(depth - 1);
        Err(doom.map_or(error, |doom| CommitError::from(doom).into()))
    }

    /// Why PostgreSQL refused to release a savepoint that is there: constraints wait for COMMIT, so that only an aborted
    /// transaction is left. Diesel has rolled it back to the savepoint by now.
    fn aborted_release(&mut self) -> Option<Doom> {
        (C::PROOF == CommitProof::Status && self.state().is_some()).then_some(Doom::RolledBack)
    }

    /// COMMIT, or its equivalent in a test transaction, believed only when proven.
    fn send_commit(&mut self, depth: usize, promise: Promise) -> QueryResult<()> {
        let suspicious = match (C::PROOF, promise) {
            (CommitProof::Commit, _) => None,
            (CommitProof::Savepoint, Promise::Atomic) => Some(Doubt::Failed),
            (CommitProof::Savepoint, Promise::AsDiesel) | (CommitProof::Status, _) => Some(Doubt::Unseen),
        };
        let prove = suspicious.is_some_and(|doubt| {
            self.watch.doubt() >= doubt || self.queue.has_commit_hooks() || self.queue.has_rollback_hooks()
        });
        // Above depth 1 the RELEASE of Diesel's own savepoint is the proof.
        let sent = if prove && depth == 1 {
            self.send_proven_commit()
        } else {
            C::TransactionManager::commit_transaction(&mut self.inner)
        };
        sent.map_err(|error| self.commit_failed(depth, error))
    }

    /// COMMIT behind a proof, in one message, with the events and the bookkeeping that Diesel's own commit has.
    fn send_proven_commit(&mut self) -> QueryResult<()> {
        self.inner.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        self.inner.batch_execute(PROVEN_COMMIT)?;
        if let TransactionManagerStatus::Valid(status) = self.status() {
            // PostgreSQL's connection has noticed already.
            if status.transaction_depth().is_some() {
                status.change_transaction_depth(TransactionDepthChange::DecreaseDepth)?;
            }
        }
        Ok(())
    }

    /// Finds out what became of the transaction, cleans up, and says so.
    #[cold]
    fn commit_failed(&mut self, depth: usize, error: Error) -> Error {
        self.watch.error(&error);
        let state = self.state();
        let still_open = state.is_some_and(|state| state.depth >= depth);
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
            self.status().set_in_error();
        }
        if doom.is_none() && self.state().is_none() {
            // The connection broke in COMMIT, or COMMIT failed and ROLLBACK behind it.
            self.abandon(0);
            return CommitError::Unknown { source: Box::new(error) }.into();
        }
        self.drop_above(depth - 1, doom);
        doom.map_or(error, |doom| CommitError::from(doom).into())
    }

    /// How a transaction ended that is found to be gone: after a deadlock it is the server that rolled it back.
    pub(super) fn verdict(&self) -> Doom {
        if self.watch.lost_transaction() { Doom::RolledBack } else { Doom::EndedEarly }
    }

    /// Runs the hooks that run before COMMIT, and says what the state is then. The first that fails rolls everything back.
    #[cold]
    fn run_before_commit(&mut self, state: State) -> QueryResult<State> {
        loop {
            let mut hooks = self.queue().take_before_commit().into_iter();
            if hooks.len() == 0 {
                return self.state().ok_or_else(|| self.broken());
            }
            while let Some(hook) = hooks.next() {
                let outcome = catch_unwind(AssertUnwindSafe(|| (hook.run)(self)));
                let balanced = self.expect_depth(state.depth);
                let failed = match outcome {
                    Ok(result) => match result.and(balanced) {
                        Ok(()) => continue,
                        Err(error) => Ok(error),
                    },
                    Err(panic) => Err(panic),
                };
                self.bury_before_commit(hooks);
                self.unwind_to(state.depth - 1);
                match failed {
                    Ok(error) => return Err(error),
                    Err(panic) => resume_unwind(panic),
                }
            }
        }
    }
}

/// Whether the error says that there is no transaction, or that a savepoint is not in it: that it ended behind our back.
pub(super) fn is_gone(error: &Error) -> bool {
    match error {
        Error::NotInTransaction => true,
        Error::DatabaseError(_, information) => {
            says(information.message(), &[PROOF_SAVEPOINT, DIESEL_SAVEPOINT, "no transaction is active"])
        }
        Error::RollbackErrorOnCommit { commit_error, .. } => is_gone(commit_error),
        _ => false,
    }
}
