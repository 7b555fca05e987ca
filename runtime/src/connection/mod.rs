//! Connections that keep hooks until the outermost commit, and what the database below must tell
//! them.
//!
//! Must not know: the macros, or how a task captures its arguments.

#[cfg(feature = "testing")]
mod aside;
#[cfg(feature = "async")]
mod async_deferrable;
mod blocking;
mod both;
mod ending;
mod flow;
mod forward;
#[cfg(feature = "async")]
mod forward_async;
#[cfg(feature = "async-postgres")]
mod forward_shared;
#[cfg(feature = "testing")]
mod held;
mod hooks;
#[cfg(not(feature = "testing"))]
mod in_production;
#[cfg(feature = "testing")]
mod in_tests;
mod keeper;
#[cfg(feature = "async")]
mod nonblocking;
#[cfg(feature = "durable")]
mod notify;
#[cfg(not(feature = "durable"))]
use self::store as notify;
mod proof;
mod register;
mod send;
mod staging;
#[cfg(feature = "durable")]
mod store;
#[cfg(not(feature = "durable"))]
#[path = "off.rs"]
mod store;
mod watch;
mod wrapper;

use diesel::connection::Connection;
#[cfg(feature = "durable")]
use diesel::result::QueryResult;

#[cfg(feature = "testing")]
pub(crate) use self::aside::finish;
#[cfg(feature = "async")]
pub use self::async_deferrable::AsyncDeferrable;
pub use self::blocking::{DeferredConnection, DeferredTransactionManager};
pub use self::ending::CommitProof;
#[cfg(feature = "async")]
pub(crate) use self::flow::OpenBlock;
pub(crate) use self::flow::Opening;
#[cfg(feature = "testing")]
pub(crate) use self::held::HeldCall;
#[cfg(feature = "testing")]
pub use self::held::Mode;
#[cfg(feature = "testing")]
pub(crate) use self::hooks::run_held;
#[cfg(feature = "testing")]
pub(crate) use self::in_tests::Waits;
#[cfg(feature = "async")]
pub(crate) use self::nonblocking::AsyncBlock;
#[cfg(feature = "async")]
pub use self::nonblocking::{AsyncDeferredConnection, AsyncDeferredTransactionManager};
pub use self::register::AfterCommit;
#[cfg(feature = "durable")]
pub(crate) use self::staging::NewCall;
pub(crate) use self::staging::Staging;
pub use self::wrapper::Deferring;
pub(crate) use self::wrapper::Wrapper;
#[cfg(feature = "testing")]
pub(crate) use self::wrapper::now;
#[cfg(feature = "durable")]
use crate::durable::{NewTask, Outbox, StoredCalls, TaskTable};

/// A Diesel connection that a [`DeferredConnection`] can wrap.
///
/// Implemented for Diesel's own connections and for r2d2's pooled ones. For a
/// `#[derive(MultiConnection)]` enum or another connection type of your own one line does, because
/// the default proof works on every SQL database. What is added to this trait will have defaults:
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

    /// Whether it is known to be MySQL or MariaDB: one of any type may be SQLite, where a savepoint
    /// proves less.
    #[doc(hidden)]
    const IS_MYSQL: bool = false;

    /// The SQL that opens a transaction with these options: the standard's by default. Only
    /// connections with one of the capability traits, such as
    /// [`HasIsolation`](crate::HasIsolation), can be asked for it.
    #[doc(hidden)]
    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        options.standard_sql()
    }

    /// Writes the rows of durable calls, as many of them as one statement takes, and says what was
    /// written. There is one call at least.
    ///
    /// For an enum of connections hand it on to the one that it holds: `match self {
    /// Self::Sqlite(conn) => conn.store_calls(calls), … }`.
    ///
    /// # Errors
    /// What the database says; by default, that nobody knows how to write them on this connection.
    #[cfg(feature = "durable")]
    fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
        Err(crate::durable::no_outbox::<Self>(calls))
    }
}

/// [`Deferrable::store_calls`] on our own table.
#[cfg(all(feature = "durable", any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
macro_rules! stores_calls {
    ($backend:ty) => {
        fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
            let (statement, count) = <TaskTable as Outbox<$backend>>::first_insert(calls);
            self.execute_returning_count(&statement)?;
            Ok(<TaskTable as Outbox<$backend>>::stored(count))
        }
    };
}

#[cfg(all(not(feature = "durable"), any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
macro_rules! stores_calls {
    ($backend:ty) => {};
}

#[cfg(feature = "sqlite")]
impl Deferrable for diesel::SqliteConnection {
    const PROOF: CommitProof = CommitProof::Commit;

    stores_calls!(diesel::sqlite::Sqlite);
}

#[cfg(feature = "postgres")]
impl Deferrable for diesel::PgConnection {
    const PROOF: CommitProof = CommitProof::Status;

    stores_calls!(diesel::pg::Pg);
}

#[cfg(feature = "mysql")]
impl Deferrable for diesel::MysqlConnection {
    const IS_MYSQL: bool = true;

    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        options.mysql_sql()
    }

    stores_calls!(diesel::mysql::Mysql);
}

#[cfg(feature = "r2d2")]
impl<M> Deferrable for diesel::r2d2::PooledConnection<M>
where
    M: diesel::r2d2::ManageConnection,
    M::Connection: Deferrable + diesel::r2d2::R2D2Connection + Send + 'static,
{
    const PROOF: CommitProof = <M::Connection as Deferrable>::PROOF;
    const IS_MYSQL: bool = <M::Connection as Deferrable>::IS_MYSQL;

    fn begin_sql(options: &crate::atomic::BeginOptions) -> String {
        <M::Connection as Deferrable>::begin_sql(options)
    }

    #[cfg(feature = "durable")]
    fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
        (**self).store_calls(calls)
    }
}
