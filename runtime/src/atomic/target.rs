//! What `atomic!` can be given, and what it says of what it can't.
//!
//! Must not know: what is done with it.

use super::TransactionBuilder;
use crate::connection::{Deferrable, DeferredConnection};

/// `atomic!`'s first argument: whatever derefs to a deferring connection. Diesel's own connections have the methods too,
/// so that what they lack ([`DefersTasks`], [`DefersTasksAsync`]) can be said in words.
pub trait AtomicTarget {
    /// The connection below.
    type Wrapped;

    /// The transaction that `atomic!` is about to run. The name must not meet one of a
    /// user's traits, and is what the compiler says of a type that is no connection at all.
    fn __atomic_needs_a_deferred_connection(&mut self) -> TransactionBuilder<'_, DeferredConnection<Self::Wrapped>>
    where
        Self: DefersTasks,
    {
        self.builder()
    }

    /// The same for `atomic!(conn, async { … })`.
    fn __atomic_needs_an_async_deferred_connection(&mut self) -> TransactionBuilder<'_, Self>
    where
        Self: DefersTasksAsync + Sized,
    {
        self.async_builder()
    }
}

/// What `atomic!` needs of its connection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep tasks until the commit",
    label = "`atomic!` needs a `DeferredConnection`",
    note = "take a `&mut DeferredConnection<{Self}>` from where this one comes from; a connection that you own is wrapped with `DeferredConnection::new(conn)`"
)]
pub trait DefersTasks: AtomicTarget {
    /// The builder of a transaction on it.
    fn builder(&mut self) -> TransactionBuilder<'_, DeferredConnection<Self::Wrapped>>;
}

/// What `atomic!` with an `async` block needs of its connection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep tasks until the commit",
    label = "`atomic!` with an `async` block needs an `AsyncDeferredConnection`",
    note = "take a `&mut AsyncDeferredConnection<{Self}>` from where this one comes from; a connection that you own is wrapped with `AsyncDeferredConnection::new(conn)`"
)]
pub trait DefersTasksAsync: AtomicTarget + Sized {
    /// The builder of a transaction on it.
    fn async_builder(&mut self) -> TransactionBuilder<'_, Self>;
}

impl<C: Deferrable> AtomicTarget for DeferredConnection<C> {
    type Wrapped = C;
}

#[diagnostic::do_not_recommend]
impl<C: Deferrable> DefersTasks for DeferredConnection<C> {
    fn builder(&mut self) -> TransactionBuilder<'_, Self> {
        self.build_transaction()
    }
}

/// Diesel's own connections, which keep nothing.
macro_rules! keeps_nothing {
    ($($feature:literal $conn:path,)*) => {$(
        #[cfg(feature = $feature)]
        impl AtomicTarget for $conn {
            type Wrapped = Self;
        }
    )*};
}

keeps_nothing! {
    "sqlite" diesel::SqliteConnection,
    "postgres" diesel::PgConnection,
    "mysql" diesel::MysqlConnection,
    "async-postgres" diesel_async::AsyncPgConnection,
    "async-mysql" diesel_async::AsyncMysqlConnection,
}

#[cfg(feature = "async-sqlite")]
impl<C, S> AtomicTarget for diesel_async::sync_connection_wrapper::SyncConnectionWrapper<C, S> {
    type Wrapped = C;
}

#[cfg(feature = "async")]
mod nonblocking {
    use super::{AtomicTarget, DefersTasksAsync, TransactionBuilder};
    use crate::connection::{AsyncDeferrable, AsyncDeferredConnection};

    impl<C: AsyncDeferrable> AtomicTarget for AsyncDeferredConnection<C> {
        type Wrapped = C;
    }

    #[diagnostic::do_not_recommend]
    impl<C: AsyncDeferrable> DefersTasksAsync for AsyncDeferredConnection<C> {
        fn async_builder(&mut self) -> TransactionBuilder<'_, Self> {
            self.build_transaction()
        }
    }
}
