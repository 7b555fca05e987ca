//! How a transaction ends with COMMIT, and what it takes to believe that.
//!
//! Must not know: how hooks are run, or whether the connection is asynchronous.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::connection::{InstrumentationEvent, TransactionDepthChange, TransactionManagerStatus};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};

use super::CommitProof;
use super::interrupt::recover;
use super::keeper::{Doom, Interrupted, Keeper};
use super::run::{abandon, bury_before_commit, drop_above, drop_broken, run_committed};
use super::store::{spill, store_all, tell_workers};
use super::transaction::{
    Promise, Statement, change_depth, expect_depth, give_up, notice_its_end, roll_back_and_release, send, send_marked,
    send_rollback, unbalanced, unwind_to,
};
use super::watch::{Doubt, says};
use super::wrapper::{State, Wrapper};
use crate::dispatch::{CannotRun, Missing, Stage};
use crate::error::CommitError;
use crate::hook::{Hook, Step};
use crate::panics::caught;

/// The name is looked for in the server's message, so that it must not be found in any other.
const PROOF_SAVEPOINT: &str = "diesel_deferred_commit_proof";

/// What Diesel's own savepoints are called.
pub(super) const DIESEL_SAVEPOINT: &str = "diesel_savepoint_";

/// Fails where there is no live transaction, and does nothing where there is one.
pub(super) const PROOF: &str = "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof";

/// One message to the server: where there is no live transaction the savepoint cannot be released (MySQL, MariaDB,
/// SQLite) or not even set (PostgreSQL), and the COMMIT behind it is not executed.
const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

/// The same for PostgreSQL alone, where setting the savepoint is proof enough.
const POSTGRES_PROVEN_COMMIT: &str = "SAVEPOINT diesel_deferred_commit_proof; COMMIT";

/// What PostgreSQL answers in a transaction that has failed, in its default language.
const ABORTED: &str = "current transaction is aborted";

/// The usual: the outermost transaction, at `level`, needs no more than a plain COMMIT.
#[inline(always)]
pub(super) fn ready_to_commit<W: Wrapper>(conn: &mut W, level: usize, promise: Promise) -> Option<Stage> {
    let state = conn.state()?;
    let keeper = conn.keeper();
    let waiting = keeper.queue();
    let plain = waiting.depth() == level
        && state.depth == level
        && level == state.base + 1
        && !waiting.has_before_commit()
        && !waiting.has_calls()
        && !keeper.wakes_workers
        && keeper.interrupted == Interrupted::No
        && keeper.doom.is_none()
        && !is_lost(keeper, state)
        && !has_to_be_proven::<W>(keeper, level, promise);
    if plain { stage(keeper).ok() } else { None }
}

/// Commits the transaction or savepoint that was begun at `level`, which must be the innermost.
pub(super) async fn commit_at<W: Wrapper>(conn: &mut W, level: usize, promise: Promise) -> QueryResult<()> {
    match conn.state() {
        Some(State { depth, .. }) if depth != level => Err(unbalanced(conn, depth, level).await),
        state => commit(conn, state, promise).await,
    }
}

/// Commits the innermost transaction or savepoint.
pub(super) async fn commit<W: Wrapper>(conn: &mut W, state: Option<State>, promise: Promise) -> QueryResult<()> {
    let Some(mut state) = state else { return Err(broken(conn).await) };
    if conn.keeper().queue().depth() > state.depth {
        // Hooks were registered at a level that ended below the wrapper.
        give_up(conn, state.depth).await;
        if state.depth > state.base {
            unwind_to(conn, state.depth - 1).await;
        }
        return Err(CommitError::EndedEarly.into());
    }
    let outermost = state.depth <= state.base + 1;
    if outermost && conn.keeper().queue.has_before_commit() {
        state = run_before_commit(conn, state).await?;
    }
    if let Some(doom) = conn.keeper().doom.or_else(|| is_lost(conn.keeper(), state).then_some(Doom::RolledBack)) {
        unwind_to(conn, state.depth - 1).await;
        return Err(CommitError::from(doom).into());
    }
    if !outermost {
        if let Err(error) = spill(conn).await {
            unwind_to(conn, state.depth - 1).await;
            return Err(error);
        }
        return release(conn, state.depth).await;
    }
    let stage = match stage(conn.keeper()) {
        Ok(stage) => stage,
        Err(cannot_run) => {
            unwind_to(conn, state.depth - 1).await;
            return Err(cannot_run.into());
        }
    };
    if let Err(error) = store_all(conn).await {
        unwind_to(conn, state.depth - 1).await;
        return Err(error);
    }
    let sent = if has_to_be_proven::<W>(conn.keeper(), state.depth, promise) {
        send_proven_commit(conn).await
    } else {
        send_marked(conn, Statement::Commit, Interrupted::InCommit).await
    };
    if let Err(error) = sent {
        return Err(commit_failed(conn, state.depth, error).await);
    }
    tell_workers(conn.keeper());
    run_committed(conn, state.depth - 1, stage).await;
    Ok(())
}

/// Finds what the tasks that wait take to run. One that could not run must not be committed.
#[inline(always)]
fn stage<W: Wrapper>(keeper: &mut Keeper<W>) -> Result<Stage, CommitError> {
    if keeper.running >= W::HOOK_DEPTH {
        refuse_deeper_hooks(keeper)?;
    }
    if !keeper.has_needs() {
        return Ok(Stage::none());
    }
    let needs = keeper.queue.waiting_for_commit().filter_map(|hook| hook.needs());
    keeper.route.stage(needs).map_err(CommitError::TaskCannotRun)
}

/// A hook that would run on this thread needs stack on top of all the hooks that are being run. What is
/// spawned does not.
#[cold]
fn refuse_deeper_hooks<W: Wrapper>(keeper: &mut Keeper<W>) -> Result<(), CommitError> {
    let runs_here = |hook: &&Hook<W>| !hook.needs().is_some_and(|needs| needs.dispatched);
    match keeper.queue().waiting_for_commit().find(runs_here) {
        Some(hook) => Err(CommitError::TaskCannotRun(CannotRun {
            task: hook.name(),
            call_site: hook.call_site(),
            missing: Missing::HookDepth(W::HOOK_DEPTH),
        })),
        None => Ok(()),
    }
}

/// COMMIT was never sent on a connection that broke before.
#[cold]
async fn broken<W: Wrapper>(conn: &mut W) -> Error {
    drop_broken(conn).await;
    CommitError::RolledBack.into()
}

/// Whether the transaction may have been ended by a statement in it without anybody having noticed.
pub(super) fn may_be_committed<W: Wrapper>(conn: &mut W) -> bool {
    let watch = &conn.keeper().watch;
    W::PROOF == CommitProof::Savepoint && watch.doubt() >= Doubt::RawSql && !watch.lost_transaction()
}

/// Finds out before a ROLLBACK, which would succeed without a transaction too, whether what ran may be committed, where
/// rollback hooks wait for the answer.
pub(super) async fn rollback_doom<W: Wrapper>(conn: &mut W) -> Option<Doom> {
    let unproven = may_be_committed(conn)
        && conn.keeper().queue().has_rollback_hooks()
        && conn.state().is_some_and(|state| state.depth == 1 && !state.aborted);
    (unproven && send(conn, Statement::Sql(PROOF)).await.is_err()).then_some(Doom::EndedEarly)
}

/// Whether it is known before COMMIT that only a rollback can follow, or has happened.
fn is_lost<W>(keeper: &Keeper<W>, state: State) -> bool {
    state.aborted || keeper.watch.lost_transaction()
}

/// Ends a savepoint.
async fn release<W: Wrapper>(conn: &mut W, depth: usize) -> QueryResult<()> {
    let Err(error) = send(conn, Statement::Commit).await else {
        conn.keeper().queue.release();
        return Ok(());
    };
    let keeper = conn.keeper();
    keeper.watch.error(&error);
    if is_gone::<W>(&error) {
        // And the transaction with it.
        keeper.doom = Some(keeper.verdict());
    } else {
        heal(conn, depth).await;
    }
    let doom = match conn.keeper().doom {
        None => aborted_release(conn),
        doom => doom,
    };
    if conn.state().is_some_and(|state| state.depth < depth) {
        drop_above(conn, depth - 1, doom).await;
    }
    // Diesel keeps the depth on some failures: the level did not commit, so it is rolled back.
    unwind_to(conn, depth - 1).await;
    Err(doom.map_or(error, |doom| CommitError::from(doom).into()))
}

/// Where a RELEASE failed diesel-async takes the level for ended, but on PostgreSQL its savepoint is still there, and nothing else
/// can be done in the transaction before that was rolled back to.
async fn heal<W: Wrapper>(conn: &mut W, depth: usize) {
    if W::PROOF == CommitProof::Statement && depth > 1 && conn.state().is_some_and(|state| state.depth < depth) {
        let _ = send(conn, Statement::Sql(&roll_back_and_release(depth - 1))).await;
    }
}

/// Why PostgreSQL refused to release a savepoint that is there: constraints wait for COMMIT, so that only an aborted
/// transaction is left. It has been rolled back to the savepoint by now.
fn aborted_release<W: Wrapper>(conn: &mut W) -> Option<Doom> {
    let postgres = matches!(W::PROOF, CommitProof::Status | CommitProof::Statement);
    (postgres && conn.state().is_some()).then_some(Doom::RolledBack)
}

/// Whether the COMMIT at `depth` is believed only with a proof. Above depth 1 the RELEASE of Diesel's own savepoint is one.
#[inline(always)]
fn has_to_be_proven<W: Wrapper>(keeper: &mut Keeper<W>, depth: usize, promise: Promise) -> bool {
    let suspicious = match (W::PROOF, promise) {
        (CommitProof::Commit, _) => return false,
        (CommitProof::Savepoint, Promise::AsDiesel) if !keeper.has_spilled => Doubt::Unseen,
        (CommitProof::Savepoint | CommitProof::Statement, _) => Doubt::Failed,
        (CommitProof::Status, _) => Doubt::Unseen,
    };
    let in_doubt = keeper.watch.doubt() >= suspicious;
    depth == 1 && (in_doubt || keeper.queue.has_commit_hooks() || keeper.queue.has_rollback_hooks())
}

/// COMMIT behind a proof, in one message, with the events and the bookkeeping that Diesel's own commit has.
async fn send_proven_commit<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    let proven = if W::PROOF == CommitProof::Statement { POSTGRES_PROVEN_COMMIT } else { PROVEN_COMMIT };
    conn.tell(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
    send_marked(conn, Statement::Sql(proven), Interrupted::InCommit).await?;
    if let TransactionManagerStatus::Valid(status) = conn.status() {
        // Diesel's PostgreSQL connection has noticed already.
        if status.transaction_depth().is_some() {
            status.change_transaction_depth(TransactionDepthChange::DecreaseDepth)?;
        }
    }
    Ok(())
}

/// A COMMIT at depth `entry + 1` failed: leaves nothing open above `entry`.
#[cold]
pub(super) async fn end_failed_commit<W: Wrapper>(conn: &mut W, entry: usize, error: Error) -> Error {
    let error = commit_failed(conn, entry + 1, error).await;
    unwind_to(conn, entry).await;
    error
}

/// Finds out what became of the transaction, cleans up, and says so.
#[cold]
async fn commit_failed<W: Wrapper>(conn: &mut W, depth: usize, error: Error) -> Error {
    conn.keeper().watch.error(&error);
    notice_its_end(conn, &error);
    heal(conn, depth).await;
    let state = conn.state();
    let still_open = state.is_some_and(|state| state.depth >= depth);
    let doom = if is_gone::<W>(&error) {
        Some(conn.keeper().verdict())
    } else if still_open && proof_failed::<W>(state, &error) {
        // COMMIT was not executed.
        Some(Doom::RolledBack)
    } else if depth > 1 {
        aborted_release(conn)
    } else {
        None
    };
    // diesel-async takes the transaction for ended whatever went wrong: nothing else tells that the connection was lost.
    let taken_for_ended = W::ASYNC && W::PROOF != CommitProof::Commit && depth == 1 && !still_open;
    let cleaned_up = if depth == 1 && was_refused::<W>(&error) {
        // The server has rolled back, so that there is nothing to send.
        if still_open { change_depth(conn, TransactionDepthChange::DecreaseDepth) } else { Ok(()) }
    } else if still_open {
        send_rollback(conn).await
    } else if taken_for_ended {
        send(conn, Statement::Sql("ROLLBACK")).await
    } else {
        Ok(())
    };
    if cleaned_up.is_err() {
        conn.status().set_in_error();
    }
    if doom.is_none() && conn.state().is_none() {
        // The connection broke in COMMIT, or COMMIT failed and ROLLBACK behind it.
        abandon(conn, 0);
        return CommitError::Unknown { source: Box::new(error) }.into();
    }
    drop_above(conn, depth - 1, doom).await;
    doom.map_or(error, |doom| CommitError::from(doom).into())
}

/// Whether PostgreSQL says that the transaction has failed before. Nothing but the server's words tells.
pub(super) fn is_aborted(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(_, about) if says(about.message(), &[ABORTED]))
}

/// Whether PostgreSQL has executed COMMIT and refused it, which ends the transaction. Only asked where the
/// client library keeps no state.
///
/// Errors that have no kind of their own in Diesel may also have come from the proof before the COMMIT,
/// or from a server that is shutting down: a ROLLBACK finds out.
fn was_refused<W: Wrapper>(error: &Error) -> bool {
    use DatabaseErrorKind::{
        CheckViolation, ForeignKeyViolation, NotNullViolation, SerializationFailure, UniqueViolation,
    };
    W::PROOF == CommitProof::Statement
        && matches!(
            error,
            Error::DatabaseError(
                CheckViolation | ForeignKeyViolation | NotNullViolation | SerializationFailure | UniqueViolation,
                _
            )
        )
}

/// Whether it was the proof that failed, and not the COMMIT behind it.
fn proof_failed<W: Wrapper>(state: Option<State>, error: &Error) -> bool {
    match W::PROOF {
        // In another language it is the server's words that the user gets.
        CommitProof::Statement => is_aborted(error),
        _ => state.is_some_and(|state| state.aborted),
    }
}

impl<W> Keeper<W> {
    /// How a transaction ended that is found to be gone: after a deadlock it is the server that rolled it back.
    pub(super) fn verdict(&self) -> Doom {
        if self.watch.lost_transaction() { Doom::RolledBack } else { Doom::EndedEarly }
    }
}

/// Runs the hooks that run before COMMIT, and says what the state is then. The first that fails rolls everything back.
#[cold]
async fn run_before_commit<W: Wrapper>(conn: &mut W, state: State) -> QueryResult<State> {
    loop {
        let mut hooks = conn.keeper().queue().take_before_commit().into_iter();
        if hooks.len() == 0 {
            return match conn.state() {
                Some(state) => Ok(state),
                None => Err(broken(conn).await),
            };
        }
        while let Some(hook) = hooks.next() {
            let outcome = match catch_unwind(AssertUnwindSafe(|| (hook.run)(conn))) {
                Ok(Step::Done(result)) => Ok(result),
                Ok(Step::Later(future)) => caught(future).await,
                Err(panic) => Err(panic),
            };
            let balanced = match conn.keeper().interrupted {
                Interrupted::No => expect_depth(conn, state.depth).await,
                // A block of the hook's was dropped before it ended.
                _ => recover(conn).await.and(Err(CommitError::Cancelled.into())),
            };
            let failed = match outcome {
                Ok(result) => match result.and(balanced) {
                    Ok(()) => continue,
                    Err(error) => Ok(error),
                },
                Err(panic) => Err(panic),
            };
            bury_before_commit(conn.keeper(), hooks);
            unwind_to(conn, state.depth - 1).await;
            match failed {
                Ok(error) => return Err(error),
                Err(panic) => resume_unwind(panic),
            }
        }
    }
}

/// Whether the error says that there is no transaction, or that a savepoint is not in it: that it ended behind our back.
pub(super) fn is_gone<W: Wrapper>(error: &Error) -> bool {
    match error {
        Error::NotInTransaction => true,
        Error::DatabaseError(_, information) => {
            let message = information.message();
            says(message, &[PROOF_SAVEPOINT, DIESEL_SAVEPOINT, "no transaction is active"])
                // PostgreSQL names the command that it refuses outside of a transaction, in any language.
                || W::PROOF == CommitProof::Statement && message.contains("SAVEPOINT")
        }
        Error::RollbackErrorOnCommit { commit_error, .. } => is_gone::<W>(commit_error),
        _ => false,
    }
}
