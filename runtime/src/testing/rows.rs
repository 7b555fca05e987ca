//! The rows of durable tasks, by a deferring connection: also those of a transaction that is still
//! open.
//!
//! Must not know: what is done with them.

use std::future::{Future, ready};
use std::panic::Location;

use diesel::result::{Error, QueryResult};

#[cfg(any(feature = "async-sqlite", feature = "async-postgres", feature = "async-mysql"))]
use crate::connection::AsyncDeferredConnection;
use crate::connection::{DeferredConnection, Wrapper};
use crate::durable::by_hand::StoredSql;
pub(crate) use crate::durable::by_hand::StoredTask;
use crate::durable::{Dialect, Sql};

/// A deferring connection of one of the three databases, whose rows of durable tasks can be looked at
/// and run.
#[diagnostic::on_unimplemented(
    message = "the test kit cannot look at rows by a `{Self}`",
    note = "expected a `DeferredConnection` of a `SqliteConnection`, `PgConnection` or `MysqlConnection`, or an `AsyncDeferredConnection` \
            of diesel-async's; turn on the feature of its database"
)]
#[allow(private_interfaces, private_bounds, reason = "nobody can name what is in hidden methods")]
pub trait TaskRows: Wrapper {
    /// The SQL of the time.
    #[doc(hidden)]
    const NOW_MS: &'static str;

    /// Reads rows.
    #[doc(hidden)]
    fn load(&mut self, sql: Sql<'static, StoredSql>) -> impl Future<Output = QueryResult<Vec<StoredTask>>> + Send;

    /// Changes rows.
    #[doc(hidden)]
    fn change(&mut self, sql: Sql<'static>) -> impl Future<Output = QueryResult<usize>> + Send;
}

#[allow(unused_macros, reason = "without a database")]
macro_rules! on {
    ($feature:literal, $backend:ty, DeferredConnection<$conn:ty>) => {
        #[cfg(feature = $feature)]
        #[allow(private_interfaces, reason = "nobody can name what is in hidden methods")]
        impl TaskRows for DeferredConnection<$conn> {
            const NOW_MS: &'static str = <$backend as Dialect>::NOW_MS;

            fn load(
                &mut self,
                sql: Sql<'static, StoredSql>,
            ) -> impl Future<Output = QueryResult<Vec<StoredTask>>> + Send {
                ready(diesel::RunQueryDsl::load(sql, &mut self.inner))
            }

            fn change(&mut self, sql: Sql<'static>) -> impl Future<Output = QueryResult<usize>> + Send {
                ready(diesel::RunQueryDsl::execute(sql, &mut self.inner))
            }
        }
    };
    ($feature:literal, $backend:ty, AsyncDeferredConnection<$conn:ty>) => {
        #[cfg(feature = $feature)]
        #[allow(private_interfaces, reason = "nobody can name what is in hidden methods")]
        impl TaskRows for AsyncDeferredConnection<$conn> {
            const NOW_MS: &'static str = <$backend as Dialect>::NOW_MS;

            async fn load(&mut self, sql: Sql<'static, StoredSql>) -> QueryResult<Vec<StoredTask>> {
                diesel_async::RunQueryDsl::load(sql, &mut self.inner).await
            }

            async fn change(&mut self, sql: Sql<'static>) -> QueryResult<usize> {
                diesel_async::RunQueryDsl::execute(sql, &mut self.inner).await
            }
        }
    };
}

on!("sqlite", diesel::sqlite::Sqlite, DeferredConnection<diesel::SqliteConnection>);
on!("postgres", diesel::pg::Pg, DeferredConnection<diesel::PgConnection>);
on!("mysql", diesel::mysql::Mysql, DeferredConnection<diesel::MysqlConnection>);
on!(
    "async-sqlite",
    diesel::sqlite::Sqlite,
    AsyncDeferredConnection<diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>>
);
on!("async-postgres", diesel::pg::Pg, AsyncDeferredConnection<diesel_async::AsyncPgConnection>);
on!("async-mysql", diesel::mysql::Mysql, AsyncDeferredConnection<diesel_async::AsyncMysqlConnection>);

/// Ends a test that stands there, whose rows cannot be read or changed.
pub(super) fn no_rows(caller: &Location<'_>, error: &Error) -> ! {
    let hint = match error {
        Error::DatabaseError(_, about) if about.message().contains("deferred_tasks") => {
            "; create their table with `conn.run_pending_migrations(diesel_deferred::migrations())`, before the test transaction begins"
        }
        _ => "",
    };
    panic!("at {caller}: the rows of durable tasks cannot be read or changed: {error}{hint}")
}
