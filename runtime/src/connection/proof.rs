//! What it takes to believe a COMMIT on a database, and what an error's words mean there: Diesel
//! has no SQLSTATE, and kinds for a few errors only.
//!
//! Must not know: connections, or what is done about it.

use diesel::result::{DatabaseErrorKind, Error};

use super::ending::{CommitProof, Failure, Order};

/// The name is looked for in the server's message, so that it must not be found in any other.
const PROOF_SAVEPOINT: &str = "diesel_deferred_commit_proof";

/// What Diesel's own savepoints are called.
const DIESEL_SAVEPOINT: &str = "diesel_savepoint_";

/// Fails where there is no live transaction, and does nothing where there is one.
pub(super) const PROOF: &str = "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof";

/// One message to the server: where there is no live transaction the savepoint cannot be released
/// (MySQL, MariaDB, SQLite) or not even set (PostgreSQL), and the COMMIT behind it is not executed.
const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

/// The same for PostgreSQL alone, where setting the savepoint is proof enough.
const POSTGRES_PROVEN_COMMIT: &str = "SAVEPOINT diesel_deferred_commit_proof; COMMIT";

/// What PostgreSQL answers in a transaction that has failed, in its default language.
const ABORTED: &str = "current transaction is aborted";

/// What SQLite answers where there is no transaction.
const OVER: &str = "no transaction is active";

/// COMMIT behind a proof.
pub(super) fn proven_commit(proof: CommitProof) -> &'static str {
    if proof == CommitProof::Statement { POSTGRES_PROVEN_COMMIT } else { PROVEN_COMMIT }
}

/// COMMIT, behind a proof where the order says so.
#[cfg(feature = "durable")]
pub(super) fn commit_sql(proof: CommitProof, order: Order) -> &'static str {
    if order == Order::ProvenCommit { proven_commit(proof) } else { "COMMIT" }
}

/// The message that undoes what ran behind Diesel's savepoint of this number, and ends the
/// savepoint.
pub(super) fn roll_back_and_release(number: usize) -> String {
    format!("ROLLBACK TO SAVEPOINT {DIESEL_SAVEPOINT}{number}; RELEASE SAVEPOINT {DIESEL_SAVEPOINT}{number}")
}

/// What it means that a statement failed so that begins, proves or ends a transaction.
pub(super) fn read(proof: CommitProof, error: &Error) -> Failure {
    match error {
        Error::NotInTransaction => Failure::Gone,
        // Errors that have no kind of their own in Diesel may also have come from the proof before
        // the COMMIT, or from a server that is shutting down: a ROLLBACK finds out.
        _ if proof == CommitProof::Statement && refused_by_commit(error) => Failure::Refused,
        Error::DatabaseError(_, about) if is_gone(proof, about.message()) => Failure::Gone,
        Error::DatabaseError(_, about) if about.message().contains(ABORTED) => Failure::Aborted,
        Error::RollbackErrorOnCommit { commit_error, .. } if read(proof, commit_error) == Failure::Gone => {
            Failure::Gone
        }
        _ => Failure::Other,
    }
}

/// Whether the message says that there is no transaction, or that a savepoint is not in it: that it
/// ended behind our back.
fn is_gone(proof: CommitProof, message: &str) -> bool {
    says(message, &[PROOF_SAVEPOINT, DIESEL_SAVEPOINT, OVER])
        // PostgreSQL names the command that it refuses outside of a transaction, in any language.
        || proof == CommitProof::Statement && message.contains("SAVEPOINT")
}

/// Whether SQLite says that there is no transaction. No other database does.
pub(super) fn is_over(error: &Error) -> bool {
    match error {
        Error::DatabaseError(_, about) => about.message().contains(OVER),
        Error::RollbackErrorOnCommit { commit_error, .. } => is_over(commit_error),
        _ => false,
    }
}

/// Whether only a COMMIT can have failed so, of all that goes in one message with it.
pub(super) fn refused_by_commit(error: &Error) -> bool {
    use DatabaseErrorKind::{
        CheckViolation, ForeignKeyViolation, NotNullViolation, SerializationFailure, UniqueViolation,
    };
    matches!(
        error,
        Error::DatabaseError(
            CheckViolation | ForeignKeyViolation | NotNullViolation | SerializationFailure | UniqueViolation,
            _
        )
    )
}

/// MySQL's 1213 and MariaDB's 1020: the server has rolled the whole transaction back, which no
/// later statement or COMMIT tells when `autocommit` is off, because the next statement begins a
/// new one then.
const ENDS_TRANSACTION: [&str; 2] = ["Deadlock found", "Record has changed since last read"];

pub(super) fn ends_transaction(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(_, information) if says(information.message(), &ENDS_TRANSACTION))
}

/// Whether the database gave up on a statement or transaction because of a concurrent one.
///
/// Diesel has a kind for serialisation failures only (PostgreSQL 40001, MySQL 1213 through the
/// query builder) and no SQLSTATE, so the rest is known by the server's text: PostgreSQL's in its
/// default language.
pub(super) fn is_conflict(error: &Error) -> bool {
    let texts = ["deadlock detected", "could not serialize access", "database is locked", "database table is locked"];
    match error {
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => true,
        Error::DatabaseError(DatabaseErrorKind::Unknown, information) => {
            says(information.message(), &texts) || says(information.message(), &ENDS_TRANSACTION)
        }
        Error::RollbackErrorOnCommit { commit_error, .. } => is_conflict(commit_error),
        _ => false,
    }
}

fn says(message: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| message.contains(text))
}
