//! What the wrapper sees of the statements that pass through it: enough to know when a commit needs proof and when a
//! failed block is worth another attempt.
//!
//! Must not know: hooks.

use diesel::query_builder::QueryId;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};

/// How much may have happened in the transaction that Diesel's own bookkeeping does not show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Only Diesel's typed queries ran, and all of them succeeded.
    #[default]
    None,
    /// A statement failed.
    Failed,
    /// Raw SQL ran.
    RawSql,
    /// Statements may have run on the connection below, or by COPY, whose errors Diesel does not keep.
    Unseen,
}

/// What was seen in the current outermost transaction.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    doubt: Doubt,
    conflict: bool,
    lost: bool,
}

impl Watch {
    pub(crate) fn doubt(&self) -> Doubt {
        self.doubt
    }

    /// Whether a statement failed because of another transaction, so that the block may succeed when it is run again.
    pub(crate) fn saw_conflict(&self) -> bool {
        self.conflict
    }

    /// Whether a statement failed with an error that ends the whole transaction on the server, unannounced.
    pub(crate) fn lost_transaction(&self) -> bool {
        self.lost
    }

    pub(crate) fn set_conflict(&mut self, conflict: bool) {
        self.conflict = conflict;
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn suspect(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.max(doubt);
    }

    /// Notes what kind of query is about to run. One without a static identity is raw SQL, or may hold some.
    pub(crate) fn query<T: QueryId>(&mut self) {
        if !T::HAS_STATIC_QUERY_ID {
            self.suspect(Doubt::RawSql);
        }
    }

    pub(crate) fn result<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        if let Err(error) = &result {
            self.error(error);
        }
        result
    }

    #[cold]
    pub(crate) fn error(&mut self, error: &Error) {
        self.suspect(Doubt::Failed);
        self.conflict |= is_conflict(error);
        self.lost |= ends_transaction(error);
    }
}

/// MySQL's 1213 and MariaDB's 1020: the server has rolled the whole transaction back, which no later statement or COMMIT
/// tells when `autocommit` is off, because the next statement begins a new one then.
const ENDS_TRANSACTION: [&str; 2] = ["Deadlock found", "Record has changed since last read"];

fn ends_transaction(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(_, information) if says(information.message(), &ENDS_TRANSACTION))
}

/// Whether the database gave up on a statement or transaction because of a concurrent one.
///
/// Diesel has a kind for serialisation failures only (PostgreSQL 40001, MySQL 1213 through the query builder) and no
/// SQLSTATE, so the rest is known by the server's text: PostgreSQL's in its default language.
fn is_conflict(error: &Error) -> bool {
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

pub(super) fn says(message: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| message.contains(text))
}

/// A cursor whose errors are seen: SQLite reports a statement's failure at its first row only.
#[allow(missing_debug_implementations, reason = "cursors of Diesel's have none")]
pub struct Watched<'conn, I> {
    pub(super) rows: I,
    pub(super) watch: &'conn mut Watch,
}

impl<I, T> Iterator for Watched<'_, I>
where
    I: Iterator<Item = QueryResult<T>>,
{
    type Item = QueryResult<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| self.watch.result(row))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}
