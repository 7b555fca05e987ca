//! The three pools behind one face, so that a test is written once.

use std::future::Future;
use std::ops::DerefMut;

use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8, deadpool, mobc};
use diesel_deferred::{AfterCommit, AsyncDeferrable, AsyncDeferredConnection};
use diesel_deferred_tests::AsyncDatabase;

/// A pool of deferring connections, of any of the three kinds.
pub trait AnyPool<C: AsyncDatabase>: Clone + Send + Sync + Sized + 'static {
    /// Whether a good connection that was given back is lent out again. Of diesel-async 0.9.2
    /// mobc's manager takes the good ones for the broken ones, so that mobc closes them.
    const REUSES: bool;

    type Guard: DerefMut<Target = AsyncDeferredConnection<C>> + AfterCommit + Send;

    fn build(
        manager: AsyncDieselConnectionManager<AsyncDeferredConnection<C>>,
        size: u32,
    ) -> impl Future<Output = Self> + Send;

    fn lend(&self) -> impl Future<Output = Self::Guard> + Send;
}

/// The same for bare ones.
pub trait AnyBarePool<C: AsyncDatabase>: Sized {
    type Guard: AsyncDeferrable + 'static;

    fn build(manager: AsyncDieselConnectionManager<C>) -> impl Future<Output = Self>;

    fn lend(&self) -> impl Future<Output = Self::Guard>;
}

macro_rules! pools {
    ($($conn:ty),*) => {$(
        impl AnyPool<$conn> for bb8::Pool<AsyncDeferredConnection<$conn>> {
            const REUSES: bool = true;
            type Guard = bb8::PooledConnection<'static, AsyncDeferredConnection<$conn>>;

            async fn build(
                manager: AsyncDieselConnectionManager<AsyncDeferredConnection<$conn>>,
                size: u32,
            ) -> Self {
                Self::builder().max_size(size).build(manager).await.expect("a pool")
            }

            async fn lend(&self) -> Self::Guard {
                self.get_owned().await.expect("a connection")
            }
        }

        impl AnyPool<$conn> for deadpool::Pool<AsyncDeferredConnection<$conn>> {
            const REUSES: bool = true;
            type Guard = deadpool::Object<AsyncDeferredConnection<$conn>>;

            async fn build(
                manager: AsyncDieselConnectionManager<AsyncDeferredConnection<$conn>>,
                size: u32,
            ) -> Self {
                Self::builder(manager).max_size(size as usize).build().expect("a pool")
            }

            async fn lend(&self) -> Self::Guard {
                self.get().await.expect("a connection")
            }
        }

        impl AnyPool<$conn> for mobc::Pool<AsyncDeferredConnection<$conn>> {
            const REUSES: bool = false;
            type Guard = mobc::PooledConnection<AsyncDeferredConnection<$conn>>;

            async fn build(
                manager: AsyncDieselConnectionManager<AsyncDeferredConnection<$conn>>,
                size: u32,
            ) -> Self {
                Self::builder().max_open(size.into()).build(manager)
            }

            async fn lend(&self) -> Self::Guard {
                self.get().await.expect("a connection")
            }
        }

        impl AnyBarePool<$conn> for bb8::Pool<$conn> {
            type Guard = bb8::PooledConnection<'static, $conn>;

            async fn build(manager: AsyncDieselConnectionManager<$conn>) -> Self {
                Self::builder().max_size(1).build(manager).await.expect("a pool")
            }

            async fn lend(&self) -> Self::Guard {
                self.get_owned().await.expect("a connection")
            }
        }

        impl AnyBarePool<$conn> for deadpool::Pool<$conn> {
            type Guard = deadpool::Object<$conn>;

            async fn build(manager: AsyncDieselConnectionManager<$conn>) -> Self {
                Self::builder(manager).max_size(1).build().expect("a pool")
            }

            async fn lend(&self) -> Self::Guard {
                self.get().await.expect("a connection")
            }
        }

        impl AnyBarePool<$conn> for mobc::Pool<$conn> {
            type Guard = mobc::PooledConnection<$conn>;

            async fn build(manager: AsyncDieselConnectionManager<$conn>) -> Self {
                Self::builder().max_open(1).build(manager)
            }

            async fn lend(&self) -> Self::Guard {
                self.get().await.expect("a connection")
            }
        }
    )*};
}

pools!(diesel_deferred_tests::AsyncSqliteConnection);
#[cfg(feature = "postgres")]
pools!(diesel_async::AsyncPgConnection);
#[cfg(feature = "mysql")]
pools!(diesel_async::AsyncMysqlConnection);
