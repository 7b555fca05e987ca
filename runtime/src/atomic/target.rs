//! What `atomic!` can be given, and what it says of what it can't.
//!
//! Must not know: what is done with it.

use super::TransactionBuilder;
use crate::connection::{Deferrable, DeferredConnection};

/// `atomic!`'s first argument: whatever derefs to a deferring connection. Diesel's own connections
/// have the methods too, so that what they lack ([`DefersTasks`], [`DefersTasksAsync`]) can be said
/// in words.
///
/// The builders' types belong to what may be lacking: where it does, the compiler has no type for
/// the rest of the expansion, and nothing more to say of it.
pub trait AtomicTarget {
    /// The transaction that `atomic!` is about to run. The name must not meet one of a
    /// user's traits, and is what the compiler says of a type that is no connection at all.
    fn __atomic_needs_a_deferred_connection(&mut self) -> Self::Builder<'_>
    where
        Self: DefersTasks,
    {
        self.builder()
    }

    /// The same for `atomic!(conn, async { … })`.
    fn __atomic_needs_an_async_deferred_connection(&mut self) -> Self::AsyncBuilder<'_>
    where
        Self: DefersTasksAsync,
    {
        self.async_builder()
    }
}

/// What `atomic!` needs of its connection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run this `atomic!` block",
    label = "a block without `async` needs a `DeferredConnection`",
    note = "Diesel's own connections do not keep tasks until the commit: take a `&mut DeferredConnection<…>` from where this one \
            comes from; a connection that you own is wrapped with `DeferredConnection::new(conn)`",
    note = "on an async connection write `atomic!(conn, async {{ … }}).await`",
    note = "a pool only lends connections: write `atomic!(conn = pool.get()?, {{ … }})`"
)]
pub trait DefersTasks: AtomicTarget {
    /// Its transactions.
    type Builder<'c>
    where
        Self: 'c;

    /// The builder of a transaction on it.
    fn builder(&mut self) -> Self::Builder<'_>;
}

/// What `atomic!` with an `async` block needs of its connection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run this `atomic!` block",
    label = "an `async` block needs an `AsyncDeferredConnection`",
    note = "diesel-async's own connections do not keep tasks until the commit: take a `&mut AsyncDeferredConnection<…>` from where \
            this one comes from; a connection that you own is wrapped with `AsyncDeferredConnection::new(conn)`",
    note = "on a `DeferredConnection`, or another that is not async, write `atomic!(conn, {{ … }})` without `.await`",
    note = "a pool only lends connections: write `atomic!(conn = pool.get().await?, async {{ … }}).await`"
)]
#[cfg_attr(
    not(feature = "async"),
    diagnostic::on_unimplemented(
        note = "there is no `AsyncDeferredConnection` without the feature `async-postgres`, `async-mysql` or `async-sqlite` of diesel-deferred"
    )
)]
pub trait DefersTasksAsync: AtomicTarget {
    /// Its transactions.
    type AsyncBuilder<'c>
    where
        Self: 'c;

    /// The builder of a transaction on it.
    fn async_builder(&mut self) -> Self::AsyncBuilder<'_>;
}

impl<C> AtomicTarget for DeferredConnection<C> {}

impl<C: Deferrable> DefersTasks for DeferredConnection<C> {
    type Builder<'c>
        = TransactionBuilder<'c, Self>
    where
        Self: 'c;

    fn builder(&mut self) -> TransactionBuilder<'_, Self> {
        self.build_transaction()
    }
}

/// Diesel's own connections, which keep nothing; and pools, which are no connections.
macro_rules! keeps_nothing {
    ($($feature:literal [$($generics:tt)*] $type:ty,)*) => {$(
        #[cfg(feature = $feature)]
        impl<$($generics)*> AtomicTarget for $type {}
    )*};
}

keeps_nothing! {
    "sqlite" [] diesel::SqliteConnection,
    "postgres" [] diesel::PgConnection,
    "mysql" [] diesel::MysqlConnection,
    "async-postgres" [] diesel_async::AsyncPgConnection,
    "async-mysql" [] diesel_async::AsyncMysqlConnection,
    "async-sqlite" [C, S] diesel_async::sync_connection_wrapper::SyncConnectionWrapper<C, S>,
    "r2d2" [M: diesel::r2d2::ManageConnection] diesel::r2d2::Pool<M>,
    "bb8" [M: bb8::ManageConnection] bb8::Pool<M>,
    "deadpool" [M: deadpool::managed::Manager] deadpool::managed::Pool<M>,
    "mobc" [M: mobc::Manager] mobc::Pool<M>,
}

#[cfg(feature = "async")]
mod nonblocking {
    use super::{AtomicTarget, DefersTasksAsync, TransactionBuilder};
    use crate::connection::{AsyncDeferrable, AsyncDeferredConnection};

    impl<C> AtomicTarget for AsyncDeferredConnection<C> {}

    impl<C: AsyncDeferrable> DefersTasksAsync for AsyncDeferredConnection<C> {
        type AsyncBuilder<'c>
            = TransactionBuilder<'c, Self>
        where
            Self: 'c;

        fn async_builder(&mut self) -> TransactionBuilder<'_, Self> {
            self.build_transaction()
        }
    }
}
