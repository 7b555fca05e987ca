//! What keeps public traits ours: only this crate can name [`Sealed`], so that a trait above it can
//! grow without breaking anybody's implementation.
//!
//! Must not know: the traits, or the connections.

use crate::pooled::for_each_pooled;

/// A supertrait of those traits that are implemented here and nowhere else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot implement this trait of diesel-deferred",
    label = "the trait is implemented by diesel-deferred alone",
    note = "for a connection type of your own implement `Deferrable` or `AsyncDeferrable`, and wrap it"
)]
pub trait Sealed {}

#[diagnostic::do_not_recommend]
impl<T: Sealed + ?Sized> Sealed for &mut T {}

/// Pooled connections, as what they hold.
macro_rules! like_its_target {
    ($($feature:literal [$($generics:tt)*] $type:ty => $target:ty,)*) => {$(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> Sealed for $type where $target: Sealed {}
    )*};
}

for_each_pooled!(like_its_target);

like_its_target! {
    "async-sqlite" [C, S] diesel_async::sync_connection_wrapper::SyncConnectionWrapper<C, S> => C,
}

/// The connections of Diesel and of diesel-async.
macro_rules! sealed {
    ($($feature:literal $type:ty,)*) => {$(
        #[cfg(feature = $feature)]
        impl Sealed for $type {}
    )*};
}

sealed! {
    "sqlite" diesel::SqliteConnection,
    "postgres" diesel::PgConnection,
    "mysql" diesel::MysqlConnection,
    "async-postgres" diesel_async::AsyncPgConnection,
    "async-mysql" diesel_async::AsyncMysqlConnection,
}

// What tasks may return, whatever the error is.
impl Sealed for () {}
impl<E> Sealed for Result<(), E> {}
