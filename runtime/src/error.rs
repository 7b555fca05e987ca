//! Why a transaction that its code believed committed did not commit.
//!
//! Must not know: connections, hooks. It only names what the transaction manager found out.

use std::error::Error as StdError;
use std::fmt;
use std::panic::Location;

use diesel::result::Error;

use crate::dispatch::CannotRun;

/// Any error of a task or hook.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A commit that could not be believed.
///
/// Diesel reports success for transactions that the server rolled back, because the server reports
/// success for their COMMIT. A [`DeferredConnection`](crate::DeferredConnection) finds out and
/// answers with this error instead, wrapped in [`diesel::result::Error::QueryBuilderError`], the
/// variant of Diesel that carries foreign errors.
///
/// # Examples
/// ```
/// use diesel_deferred::CommitError;
///
/// fn explain(error: &diesel::result::Error) -> &'static str {
///     match CommitError::of(error) {
///         Some(CommitError::Unknown { .. }) => "look the rows up before you try again",
///         Some(_) => "a bug in the block: its message says what to change",
///         None => "an ordinary database error",
///     }
/// }
/// ```
#[non_exhaustive]
pub enum CommitError {
    /// The server rolled the transaction back, or would have at COMMIT: a statement failed and its
    /// error was swallowed. Nothing that ran before that was committed. On MySQL and MariaDB the
    /// statements behind a swallowed deadlock run outside of any transaction: those are committed
    /// one by one.
    RolledBack,
    /// The transaction was over before its block was: a raw `COMMIT`, `ROLLBACK` or `BEGIN`, a
    /// statement that commits implicitly (DDL on MySQL and MariaDB), or a connection that was
    /// replaced. What ran before that point may be committed already, what ran after it committed
    /// statement by statement.
    ///
    /// Not found out where raw SQL ended the transaction *and* another one has begun since, see
    /// [`DeferredConnection`](crate::DeferredConnection).
    EndedEarly,
    /// The block, or a before-commit hook, began a transaction with the transaction manager's own
    /// functions and did not end it. All of it was rolled back, nothing was committed.
    LeftOpen,
    /// A task that the transaction registered could not run after it: there is no tokio runtime for
    /// an `async` one, its dispatcher was shut down, or a `#[state]` is missing. Nothing was
    /// committed.
    TaskCannotRun(CannotRun),
    /// A task or hook was to be registered outside of any transaction. It is not kept, and not run.
    ///
    /// [`is_not_in_transaction`](Self::is_not_in_transaction) finds it together with Diesel's own
    /// error.
    #[non_exhaustive]
    NotInTransaction {
        /// The task's name, or the closure's.
        task: &'static str,
        /// Where it was called, or where the closure was to be registered.
        call_site: &'static Location<'static>,
        /// Whether it is durable: such a call is a row of a transaction, and can be nothing else.
        durable: bool,
    },
    /// A durable task that the transaction registered cannot be stored. Nothing was committed.
    TaskCannotBeStored(CannotStore),
    /// The rows of its durable tasks could not be written, because there is no table for them.
    /// Nothing was committed.
    #[non_exhaustive]
    NoTaskTable {
        /// What the database says.
        source: Box<Error>,
    },
    /// The rows of its durable tasks could not be written, because the role of the connection lacks a
    /// right to do that. Nothing was committed.
    #[non_exhaustive]
    MissingRight {
        /// What the database says.
        source: Box<Error>,
    },
    /// A block on this connection was cancelled: its future was dropped before it had ended, by a
    /// timeout, in a `select!`, or because nobody waited for the answer any more. The connection is
    /// still in its transaction and refuses all use; nothing of it will be committed, unless it was
    /// dropped during COMMIT.
    ///
    /// On PostgreSQL and SQLite the next outermost block rolls back what was left, and goes on; on
    /// MySQL and MariaDB, and where BEGIN or COMMIT itself was under way, the connection has to be
    /// closed, which pools see to.
    Cancelled,
    /// The connection was lost while COMMIT was under way: whether it committed, only the database
    /// knows.
    #[non_exhaustive]
    Unknown {
        /// What the client library reported.
        source: Box<Error>,
    },
}

impl CommitError {
    /// Finds the commit error in a Diesel error.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::QueryBuilderError(inner) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the error says that something needs a transaction and none was open: this crate's,
    /// which names the task and where it was called, or Diesel's
    /// [`NotInTransaction`](Error::NotInTransaction), which has no room for them.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use diesel_deferred::{CommitError, DeferredConnection, deferred_task};
    ///
    /// #[deferred_task]
    /// fn send_welcome(user_id: i32) {}
    ///
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    /// let error = send_welcome(7).after_commit(conn).unwrap_err();
    /// assert!(CommitError::is_not_in_transaction(&error));
    /// assert!(error.to_string().contains("send_welcome"));
    /// ```
    pub fn is_not_in_transaction(error: &Error) -> bool {
        matches!(error, Error::NotInTransaction) || matches!(Self::of(error), Some(Self::NotInTransaction { .. }))
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolledBack => f.write_str(
                "the transaction was rolled back, nothing was committed and none of its hooks ran: a statement in it \
                 failed and the error was swallowed, after which the database can only roll back (and MySQL and MariaDB \
                 commit what follows a deadlock statement by statement); hand the error on with `?`, or run the statement \
                 that may fail in a nested `atomic!`, which rolls back alone",
            ),
            Self::EndedEarly => f.write_str(
                "the transaction ended before its block did, and none of its hooks ran: the block holds a raw COMMIT, \
                 ROLLBACK or BEGIN, a statement that commits implicitly (DDL on MySQL and MariaDB), or it replaced the \
                 connection; what ran before that point may be committed; let `atomic!` begin and end the transaction, \
                 use a nested `atomic!` for a partial rollback, and run DDL outside of it",
            ),
            Self::LeftOpen => f.write_str(
                "the transaction was rolled back, nothing was committed and none of its hooks ran: its block, or a \
                 before-commit hook, began a transaction by hand and did not end it; use a nested `atomic!`, which ends \
                 with its block",
            ),
            Self::TaskCannotRun(cannot_run) => {
                write!(f, "the transaction was rolled back, nothing was committed: the task {cannot_run}")
            }
            Self::NotInTransaction { task, call_site, durable: true } => write!(
                f,
                "`{task}` (called at {call_site}) was not stored: no transaction is open on this connection, and a durable call is a \
                 row of one; call it in an `atomic!` block"
            ),
            Self::NotInTransaction { task, call_site, durable: false } => write!(
                f,
                "`{task}` (called at {call_site}) was not registered: no transaction is open on this connection; call it in an \
                 `atomic!` block, or say that it is to run at once where there is none: `.after_commit_or_now(conn)` or `.run()`"
            ),
            Self::TaskCannotBeStored(cannot_store) => {
                write!(f, "the transaction was rolled back, nothing was committed: the durable task {cannot_store}")
            }
            Self::NoTaskTable { source } => write!(
                f,
                "the transaction was rolled back, nothing was committed: its durable tasks could not be stored ({source}); create their \
                 table with `conn.run_pending_migrations(diesel_deferred::migrations())`, or have the `search_path` of this connection \
                 lead to it",
            ),
            Self::MissingRight { source } => write!(
                f,
                "the transaction was rolled back, nothing was committed: its durable tasks could not be stored ({source}); the role of \
                 this connection needs `GRANT INSERT ON deferred_tasks TO …`, with SELECT and UPDATE where tasks are `unique`, and the \
                 schema or database that it is in",
            ),
            Self::Cancelled => f.write_str(
                "an earlier transaction on this connection was cancelled (its future was dropped before it had ended) and is \
                 still open, so that the connection cannot be used; open a new one (pools do that by themselves), and where a \
                 block must not be cancelled run it in a task of its own (`tokio::spawn`)",
            ),
            Self::Unknown { source } => write!(
                f,
                "the connection was lost during COMMIT ({source}): whether the transaction committed is unknown, none of \
                 its hooks ran; open a new connection and look for the rows before you repeat it",
            ),
        }
    }
}

/// Its message: an `unwrap()` prints that, in the words of Diesel's error around it.
impl fmt::Debug for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for CommitError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unknown { source } | Self::NoTaskTable { source } | Self::MissingRight { source } => Some(source),
            Self::TaskCannotRun(cannot_run) => Some(cannot_run),
            Self::TaskCannotBeStored(cannot_store) => Some(cannot_store),
            Self::RolledBack | Self::EndedEarly | Self::LeftOpen | Self::NotInTransaction { .. } | Self::Cancelled => {
                None
            }
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        Self::QueryBuilderError(Box::new(error))
    }
}

/// A durable task whose call cannot become a row, so that its transaction must not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CannotStore {
    /// The task's name.
    pub task: &'static str,
    /// Where it was called.
    pub call_site: &'static Location<'static>,
    /// What is wrong with the call.
    pub reason: String,
}

impl fmt::Display for CannotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (called at {}) could not be stored: {}", self.task, self.call_site, self.reason)
    }
}

impl StdError for CannotStore {}
