//! Connections that keep hooks until the outermost commit, and what the database below must tell them.
//!
//! Must not know: the macros, or how a task captures its arguments.

mod blocking;
mod commit;
mod forward;
mod run;
mod transaction;
mod watch;

use diesel::connection::Connection;
use diesel::result::QueryResult;

pub use self::blocking::DeferredConnection;
pub(crate) use self::blocking::Staging;
pub use self::transaction::DeferredTransactionManager;
pub(crate) use self::transaction::{Promise, begin_with_sql};
use crate::task::Task;

/// A Diesel connection that a [`DeferredConnection`] can wrap.
///
/// Implemented for Diesel's own connections and for r2d2's pooled ones. For a `#[derive(MultiConnection)]` enum or a
/// connection of another crate one line does, because the default proof works on every SQL database:
///
/// ```
/// use diesel::prelude::*;
/// use diesel_deferred::{Deferrable, DeferredConnection};
///
/// #[derive(diesel::MultiConnection)]
/// enum AnyConnection {
///     Sqlite(SqliteConnection),
/// }
///
/// impl Deferrable for AnyConnection {}
///
/// type Conn = DeferredConnection<AnyConnection>;
/// # fn main() { Conn::establish(":memory:").map(drop).unwrap_or(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`DeferredConnection` does not know how to prove a COMMIT on `{Self}`",
    note = "in a generic function write the bound `{Self}: diesel_deferred::Deferrable`; for a connection type of your own write `impl diesel_deferred::Deferrable for {Self} {{}}`: the default proof works on every SQL database"
)]
pub trait Deferrable: Connection {
    /// What it takes to believe that a COMMIT on this connection committed.
    const PROOF: CommitProof = CommitProof::Savepoint;

    /// The SQL that opens a transaction with these options: the standard's by default. Only connections with one of the
    /// capability traits, such as [`HasIsolation`](crate::HasIsolation), can be asked for it.
    #[doc(hidden)]
    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        options.standard_sql()
    }
}

/// What it takes to believe that a COMMIT committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitProof {
    /// COMMIT fails when there is no transaction to commit: SQLite.
    Commit,
    /// The client library reports the state of the transaction with each answer, so Diesel knows it, except for COPY and
    /// for statements that went past the wrapper: PostgreSQL.
    Status,
    /// Nothing tells but a savepoint, set and released in the same message as COMMIT: it fails where there is no live
    /// transaction. MySQL, MariaDB, and whatever is not known.
    Savepoint,
}

/// Something that a task can be registered on: a [`DeferredConnection`], or a pooled one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep tasks until the commit",
    label = "expected a `&mut DeferredConnection`",
    note = "pass a `DeferredConnection`: establish one with `DeferredConnection::<…>::establish(url)`, or wrap a connection \
            with `DeferredConnection::new(conn)`"
)]
pub trait AfterCommit {
    /// Whether a transaction is open. Sends no SQL.
    fn in_transaction(&mut self) -> bool;

    /// Registers a task to run after the outermost commit.
    ///
    /// # Errors
    /// [`NotInTransaction`](diesel::result::Error::NotInTransaction) outside of a transaction.
    fn defer_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()>;

    /// Registers a task to run after a rollback of the innermost open transaction or of one around it.
    ///
    /// # Errors
    /// [`NotInTransaction`](diesel::result::Error::NotInTransaction) outside of a transaction.
    fn compensate_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()>;
}

#[diagnostic::do_not_recommend]
impl<A: AfterCommit + ?Sized> AfterCommit for &mut A {
    fn in_transaction(&mut self) -> bool {
        (**self).in_transaction()
    }

    fn defer_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        (**self).defer_task(task)
    }

    fn compensate_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        (**self).compensate_task(task)
    }
}

#[cfg(feature = "sqlite")]
impl Deferrable for diesel::SqliteConnection {
    const PROOF: CommitProof = CommitProof::Commit;
}

#[cfg(feature = "postgres")]
impl Deferrable for diesel::PgConnection {
    const PROOF: CommitProof = CommitProof::Status;
}

#[cfg(feature = "mysql")]
impl Deferrable for diesel::MysqlConnection {
    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        options.mysql_sql()
    }
}

#[cfg(feature = "r2d2")]
impl<M> Deferrable for diesel::r2d2::PooledConnection<M>
where
    M: diesel::r2d2::ManageConnection,
    M::Connection: Deferrable + diesel::r2d2::R2D2Connection + Send + 'static,
{
    const PROOF: CommitProof = <M::Connection as Deferrable>::PROOF;

    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        <M::Connection as Deferrable>::begin_sql(options)
    }
}

#[cfg(feature = "r2d2")]
#[diagnostic::do_not_recommend]
impl<M> AfterCommit for diesel::r2d2::PooledConnection<M>
where
    M: diesel::r2d2::ManageConnection,
    M::Connection: AfterCommit,
{
    fn in_transaction(&mut self) -> bool {
        (**self).in_transaction()
    }

    fn defer_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        (**self).defer_task(task)
    }

    fn compensate_task<T: Task + Send + 'static>(&mut self, task: T) -> QueryResult<()> {
        (**self).compensate_task(task)
    }
}
