//! Why a source did not do what it was asked, and what an error of the database means to whoever
//! runs a worker: by its kind, and by its message where Diesel has no kind for it. What is in another
//! language than English is told as it is.
//!
//! Must not know: what is done about it.

use std::fmt;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error};

use crate::error::BoxError;

/// Why a source did not do what it was asked.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// It may be otherwise in a while.
    Passing(Trouble, BoxError),
    /// The worker's role may not do what a worker does.
    NoRight { missing: MissingRight, error: BoxError },
    /// The tables are not there.
    NoTables(Error),
    /// The tables are of a newer version of this crate than the worker.
    Newer { found: i32 },
    /// The tables are of an older version of this crate than the worker.
    Older { found: i32 },
}

impl SourceError {
    /// The source says nothing.
    pub(crate) fn no_answer() -> Self {
        Self::Passing(Trouble::Unreachable, "the database did not answer".into())
    }
}

/// What went wrong, where it may be otherwise in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Unreachable,
    Locked,
    InTheWay,
    Full,
    TooSlow,
    ReadOnly,
    Pooler,
    /// Nothing that has a word here.
    Other,
}

/// As events say it.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "a worker could not reach its database",
            Self::Locked => "a worker waits: somebody has locked the table of durable tasks, or rows of it",
            Self::InTheWay => "a worker was in the way of another transaction, and the database ended what it did",
            Self::Full => "the disk of a worker's database is full",
            Self::TooSlow => "a statement of a worker took too long, and the database ended it",
            Self::ReadOnly => "the database of a worker lets nobody write: is it a standby?",
            Self::Pooler => {
                "a pooler between a worker and its database has mixed up prepared statements: PgBouncer keeps those of its \
                 clients apart from version 1.21 on, with `max_prepared_statements`; without that no client may have any \
                 outside of a transaction, and `Worker::builder` is to open the worker's connection, not `builder_with`"
            }
            Self::Other => "a statement of a worker failed",
        })
    }
}

/// A right that a worker's role lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingRight {
    /// `None`: the database does not say which.
    pub(crate) right: Option<String>,
    /// What it is a right to: a table, or another thing with its kind.
    pub(crate) to: String,
}

/// The statements by which a worker finds out, before it has taken anything, whether it has the
/// rights that it needs: the right, the table, and what fails without it.
pub(super) const RIGHTS: [(&str, &str, &str); 5] = [
    ("SELECT", "deferred_schema", "SELECT version FROM deferred_schema WHERE 1 = 0"),
    ("SELECT", "deferred_paused_queues", "SELECT queue FROM deferred_paused_queues WHERE 1 = 0"),
    ("SELECT", "deferred_tasks", "SELECT id FROM deferred_tasks WHERE 1 = 0"),
    ("UPDATE", "deferred_tasks", "UPDATE deferred_tasks SET state = state WHERE 1 = 0"),
    ("DELETE", "deferred_tasks", "DELETE FROM deferred_tasks WHERE 1 = 0"),
];

/// What an error of a statement means for the worker.
pub(super) fn what_it_means(error: Error) -> SourceError {
    if let Error::DatabaseError(_, about) = &error {
        if says_missing(about.message()) {
            return SourceError::NoTables(error);
        }
        if let Some(missing) = missing_right(about.message()) {
            return SourceError::NoRight { missing, error: Box::new(error) };
        }
    }
    SourceError::Passing(trouble(&error), Box::new(error))
}

/// The same of one that finds out whether there is this right to this table.
pub(super) fn of_right(error: Error, right: &str, table: &str) -> SourceError {
    match what_it_means(error) {
        SourceError::NoRight { missing, error } => {
            // Where it is not the table, but the schema that it is in, that is what counts.
            let right = (missing.to == table).then(|| right.to_owned());
            SourceError::NoRight { missing: MissingRight { right: missing.right.or(right), ..missing }, error }
        }
        other => other,
    }
}

/// What it means that no connection could be opened.
pub(super) fn of_connecting(error: ConnectionError) -> SourceError {
    let message = error.to_string();
    match missing_right(&message) {
        Some(missing) => SourceError::NoRight { missing, error: Box::new(error) },
        None if mixes_up_statements(&message) => SourceError::Passing(Trouble::Pooler, Box::new(error)),
        None => SourceError::Passing(Trouble::Unreachable, Box::new(error)),
    }
}

/// A worker's own statements are there for as long as their connection, and have names of their own.
fn mixes_up_statements(message: &str) -> bool {
    message.contains("prepared statement")
        && ["does not exist", "already exists"].iter().any(|end| message.contains(end))
}

/// Each database has its own words for a table, or a column of one, that is not there. By this
/// connection nothing else is asked for.
fn says_missing(message: &str) -> bool {
    let missing = ["does not exist", "doesn't exist", "no such table", "no such column", "Unknown column"];
    missing.iter().any(|words| message.contains(words))
        && ["deferred_", "column"].iter().any(|ours| message.contains(ours))
}

fn missing_right(message: &str) -> Option<MissingRight> {
    // PostgreSQL: permission denied for table deferred_tasks; before version 11 "for relation".
    if let Some((_, to)) = message.split_once("permission denied for ") {
        let to = to.lines().next().unwrap_or(to).replace('"', "");
        let to = to.strip_prefix("table ").or(to.strip_prefix("relation ")).unwrap_or(&to);
        return Some(MissingRight { right: None, to: to.to_owned() });
    }
    // MySQL: UPDATE command denied to user 'worker'@'host' for table `shop`.`deferred_tasks`
    if let Some((right, rest)) = message.split_once(" command denied to user ") {
        let table = rest.split_once(" table ").map_or("deferred_tasks", |(_, table)| table);
        let table = table.rsplit('.').next().unwrap_or(table).trim_matches(['`', '\'', '"']);
        let right = right.rsplit_once(": ").map_or(right, |(_, right)| right);
        return Some(MissingRight { right: Some(right.to_owned()), to: table.to_owned() });
    }
    // MySQL: Access denied for user 'worker'@'host' to database 'shop'
    if let Some((_, rest)) = message.split_once("Access denied for user ")
        && let Some((_, database)) = rest.split_once(" to database ")
    {
        return Some(MissingRight { right: None, to: format!("database {}", database.trim_matches(['`', '\'', '"'])) });
    }
    None
}

/// Whether it was another worker that was in the way, on a connection that works.
pub(super) fn is_about_others(error: &Error) -> bool {
    let Error::DatabaseError(kind, about) = error else { return false };
    match kind {
        DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::SerializationFailure => true,
        // It has a kind of its own on no database. The server has ended the transaction, and nothing else.
        DatabaseErrorKind::Unknown => DEADLOCK.iter().any(|words| about.message().contains(words)),
        _ => false,
    }
}

/// How PostgreSQL, and how MySQL says so.
const DEADLOCK: [&str; 2] = ["deadlock detected", "Deadlock found"];

/// Whether somebody else had something locked for long, or waited for what we had.
#[cfg(feature = "async-mysql")]
pub(super) fn is_of_locks(error: &Error) -> bool {
    matches!(trouble(error), Trouble::InTheWay | Trouble::Locked)
}

fn trouble(error: &Error) -> Trouble {
    if is_about_others(error) {
        return Trouble::InTheWay;
    }
    let Error::DatabaseError(kind, about) = error else { return Trouble::Other };
    match kind {
        DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => return Trouble::Unreachable,
        DatabaseErrorKind::ReadOnlyTransaction => return Trouble::ReadOnly,
        _ => {}
    }
    let message = about.message();
    if mixes_up_statements(message) {
        return Trouble::Pooler;
    }
    // In this order: messages about locks have connections in them, too.
    let words: [(Trouble, &[&str]); 6] = [
        (Trouble::InTheWay, &["could not serialize access"]),
        (
            Trouble::Locked,
            &["lock timeout", "could not obtain lock", "Lock wait timeout", "is locked", "lock request timeout"],
        ),
        (Trouble::Full, &["No space left", "isk is full", "isk full", "is full", "errno: 28", "error 28"]),
        (
            Trouble::TooSlow,
            &["statement timeout", "max_statement_time", "maximum statement execution time", "to user request"],
        ),
        (Trouble::ReadOnly, &["readonly", "read-only"]),
        (
            Trouble::Unreachable,
            &[
                "onnection",
                "gone away",
                "nput/output error",
                "shutting down",
                "shutdown",
                "starting up",
                "unable to open",
            ],
        ),
    ];
    let said = |(_, words): &&(Trouble, &[&str])| words.iter().any(|words| message.contains(words));
    words.iter().find(said).map_or(Trouble::Other, |(trouble, _)| *trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> Error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(message.to_owned()))
    }

    /// FINDINGS C12: a deadlock, a full disk and a lock were all "could not reach its database".
    #[test]
    fn troubles_are_told_apart() {
        let messages = [
            (Trouble::Locked, "canceling statement due to lock timeout"),
            (Trouble::Locked, "could not obtain lock on relation \"deferred_tasks\""),
            (Trouble::Locked, "Lock wait timeout exceeded; try restarting transaction"),
            (Trouble::Locked, "database is locked"),
            (Trouble::Locked, "database table is locked: deferred_tasks"),
            (Trouble::InTheWay, "deadlock detected"),
            (Trouble::InTheWay, "Deadlock found when trying to get lock; try restarting transaction"),
            (Trouble::InTheWay, "could not serialize access due to concurrent update"),
            (Trouble::Full, "could not extend file \"base/16384/16385\": No space left on device"),
            (Trouble::Full, "database or disk is full"),
            (Trouble::Full, "The table 'deferred_tasks' is full"),
            (
                Trouble::Full,
                "Disk full (/tmp/#sql); waiting for someone to free some space... (errno: 28 \"No space left on device\")",
            ),
            (Trouble::TooSlow, "canceling statement due to statement timeout"),
            (Trouble::TooSlow, "Query execution was interrupted (max_statement_time exceeded)"),
            (Trouble::TooSlow, "Query execution was interrupted, maximum statement execution time exceeded"),
            (Trouble::ReadOnly, "attempt to write a readonly database"),
            (
                Trouble::ReadOnly,
                "The MariaDB server is running with the --read-only option so it cannot execute this statement",
            ),
            (Trouble::Unreachable, "terminating connection due to administrator command"),
            (Trouble::Unreachable, "the database system is starting up"),
            (Trouble::Unreachable, "Connection was killed"),
            (Trouble::Unreachable, "Input/output error: Connection reset by peer"),
            (Trouble::Pooler, "prepared statement \"s3\" does not exist"),
            (Trouble::Pooler, "prepared statement \"s3\" already exists"),
            (Trouble::Other, "invalid byte sequence for encoding \"UTF8\": 0x00"),
        ];
        for (expected, message) in messages {
            match what_it_means(error(message)) {
                SourceError::Passing(trouble, error) => {
                    assert_eq!((trouble, &*error.to_string()), (expected, message));
                }
                other => panic!("{message}: {other:?}"),
            }
        }
        let kinds = [
            (DatabaseErrorKind::SerializationFailure, Trouble::InTheWay),
            (DatabaseErrorKind::UniqueViolation, Trouble::InTheWay),
            (DatabaseErrorKind::ReadOnlyTransaction, Trouble::ReadOnly),
            (DatabaseErrorKind::UnableToSendCommand, Trouble::Unreachable),
        ];
        for (kind, expected) in kinds {
            assert_eq!(trouble(&Error::DatabaseError(kind, Box::new(String::new()))), expected);
        }
    }

    #[test]
    fn a_missing_right_is_named() {
        let messages = [
            ("permission denied for table deferred_tasks", None, "deferred_tasks"),
            ("permission denied for relation deferred_tasks", None, "deferred_tasks"),
            ("permission denied for schema jobs", None, "schema jobs"),
            ("permission denied for database \"shop\"\nDETAIL: no", None, "database shop"),
            (
                "UPDATE command denied to user 'w'@'h' for table `shop`.`deferred_tasks`",
                Some("UPDATE"),
                "deferred_tasks",
            ),
            ("DELETE command denied to user 'w'@'h' for table 'deferred_tasks'", Some("DELETE"), "deferred_tasks"),
            (
                "SELECT command denied to user 'w'@'h' for column 'id' in table 'deferred_tasks'",
                Some("SELECT"),
                "deferred_tasks",
            ),
            ("Access denied for user 'w'@'h' to database 'shop'", None, "database shop"),
        ];
        for (message, right, to) in messages {
            let expected = MissingRight { right: right.map(str::to_owned), to: to.to_owned() };
            assert_eq!(missing_right(message), Some(expected), "{message}");
        }
        assert_eq!(missing_right("Access denied for user 'w'@'h' (using password: YES)"), None);
    }
}
