//! What the asynchronous connection below must tell a deferring one.
//!
//! Must not know: how that is used.

#[cfg(feature = "durable")]
use diesel::result::QueryResult;
use diesel_async::AsyncConnection;
#[cfg(all(feature = "durable", any(feature = "async-postgres", feature = "async-mysql")))]
use diesel_async::AsyncConnectionCore;

#[cfg(feature = "async-sqlite")]
use super::Deferrable;
use super::ending::CommitProof;
use crate::atomic::BeginOptions;
#[cfg(feature = "durable")]
use crate::durable::{NewTask, StoredCalls};
#[cfg(all(feature = "durable", any(feature = "async-postgres", feature = "async-mysql")))]
use crate::durable::{Outbox, TaskTable};

/// A diesel-async connection that an [`AsyncDeferredConnection`](crate::AsyncDeferredConnection)
/// can wrap.
///
/// Implemented for diesel-async's own connections, for `&mut` to one, and for pooled ones. For a
/// connection type of your own one line does: `impl AsyncDeferrable for MyConnection {}`, because
/// the default proof works on every SQL database. What is added to this trait will have defaults.
#[diagnostic::on_unimplemented(
    message = "`AsyncDeferredConnection` does not know how to prove a COMMIT on `{Self}`",
    note = "in a generic function write the bound `{Self}: diesel_deferred::AsyncDeferrable`; for diesel-async's own connections turn on the feature \
            `async-postgres`, `async-mysql` or `async-sqlite` of diesel-deferred; for a connection type of your own write \
            `impl diesel_deferred::AsyncDeferrable for {Self} {{}}`: the default proof works on every SQL database"
)]
pub trait AsyncDeferrable: AsyncConnection {
    /// What it takes to believe that a COMMIT on this connection committed.
    const PROOF: CommitProof = CommitProof::Savepoint;

    /// Whether it is known to be MySQL or MariaDB: one of any type may be SQLite, where a savepoint
    /// proves less.
    #[doc(hidden)]
    const IS_MYSQL: bool = false;

    /// Whether the connection is still in step with its server when the future of a statement was
    /// dropped.
    #[doc(hidden)]
    const OUTLIVES_DROPPED_STATEMENTS: bool = false;

    /// The SQL that opens a transaction with these options: the standard's by default.
    #[doc(hidden)]
    fn begin_sql(options: &BeginOptions) -> String {
        options.standard_sql()
    }

    /// Writes the rows of durable calls, as many of them as one statement takes, and says what was
    /// written. There is one call at least.
    ///
    /// # Errors
    /// What the database says; by default, that nobody knows how to write them on this connection.
    #[cfg(feature = "durable")]
    fn store_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send {
        std::future::ready(Err(crate::durable::no_outbox::<Self>(calls)))
    }
}

/// [`AsyncDeferrable::store_calls`] on our own table.
#[cfg(all(feature = "durable", any(feature = "async-postgres", feature = "async-mysql")))]
macro_rules! stores_calls {
    ($backend:ty) => {
        async fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
            let (statement, count) = <TaskTable as Outbox<$backend>>::first_insert(calls);
            self.execute_returning_count(statement).await?;
            Ok(<TaskTable as Outbox<$backend>>::stored(count))
        }
    };
}

#[cfg(all(not(feature = "durable"), any(feature = "async-postgres", feature = "async-mysql")))]
macro_rules! stores_calls {
    ($backend:ty) => {};
}

#[cfg(feature = "async-postgres")]
impl AsyncDeferrable for diesel_async::AsyncPgConnection {
    const PROOF: CommitProof = CommitProof::Statement;
    // Its client takes the answers that nobody waits for off the wire.
    const OUTLIVES_DROPPED_STATEMENTS: bool = true;

    stores_calls!(diesel::pg::Pg);
}

#[cfg(feature = "async-mysql")]
impl AsyncDeferrable for diesel_async::AsyncMysqlConnection {
    const IS_MYSQL: bool = true;

    fn begin_sql(options: &BeginOptions) -> String {
        options.mysql_sql()
    }

    stores_calls!(diesel::mysql::Mysql);
}

#[cfg(feature = "async-sqlite")]
impl<C, S> AsyncDeferrable for diesel_async::sync_connection_wrapper::SyncConnectionWrapper<C, S>
where
    Self: AsyncConnection,
    C: Deferrable + 'static,
    S: diesel_async::sync_connection_wrapper::SpawnBlocking + Send,
{
    const PROOF: CommitProof = C::PROOF;
    const IS_MYSQL: bool = C::IS_MYSQL;
    // A dropped statement is waited for.
    const OUTLIVES_DROPPED_STATEMENTS: bool = true;

    fn begin_sql(options: &BeginOptions) -> String {
        C::begin_sql(options)
    }

    #[cfg(feature = "durable")]
    fn store_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send {
        // They go to another thread.
        let calls = calls.to_vec();
        self.spawn_blocking(move |conn| conn.store_calls(&calls))
    }
}

/// What derefs to a connection is one.
macro_rules! like_its_target {
    ($($(#[$attribute:meta])* [$($generics:tt)*] $type:ty => $target:ty,)*) => {$(
        $(#[$attribute])*
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> AsyncDeferrable for $type
        where
            Self: AsyncConnection,
            $target: AsyncDeferrable,
        {
            const PROOF: CommitProof = <$target as AsyncDeferrable>::PROOF;
            const IS_MYSQL: bool = <$target as AsyncDeferrable>::IS_MYSQL;
            const OUTLIVES_DROPPED_STATEMENTS: bool = <$target as AsyncDeferrable>::OUTLIVES_DROPPED_STATEMENTS;

            fn begin_sql(options: &BeginOptions) -> String {
                <$target as AsyncDeferrable>::begin_sql(options)
            }

            #[cfg(feature = "durable")]
            fn store_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send {
                (**self).store_calls(calls)
            }
        }
    )*};
}

like_its_target! {
    [C] &mut C => C,
    #[cfg(feature = "bb8")] [M: bb8::ManageConnection] bb8::PooledConnection<'_, M> => M::Connection,
    #[cfg(feature = "deadpool")] [M: deadpool::managed::Manager] deadpool::managed::Object<M> => M::Type,
    #[cfg(feature = "mobc")] [M: mobc::Manager] mobc::Connection<M> => M::Connection,
}
