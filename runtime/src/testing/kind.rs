//! What is the same on synchronous and asynchronous connections: done at once on the ones, awaited
//! on the others.
//!
//! Must not know: what is done.

use std::future::{Future, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::connection::{
    AsyncDeferrable, AsyncDeferredConnection, Deferrable, DeferredConnection, Wrapper, finish, now,
};
use crate::panics::{caught, message};

/// A deferring connection: what the functions of the kit return is a value on a synchronous one, and
/// a future on an asynchronous one.
#[allow(private_bounds, reason = "nobody else implements it")]
pub trait Kind: Wrapper {
    /// `T`, or a future of it.
    type Done<'a, T: Send + 'a>
    where
        Self: 'a;

    /// Does it.
    #[doc(hidden)]
    fn done<'a, T: Send + 'a>(work: impl Future<Output = T> + Send + 'a) -> Self::Done<'a, T>
    where
        Self: 'a;

    /// Runs a future to its end that needs no connection; `Err`: it panicked with that.
    #[doc(hidden)]
    fn to_its_end<T: Send + 'static>(future: BoxFuture<'static, T>) -> BoxFuture<'static, Result<T, String>>;
}

impl<C: Deferrable> Kind for DeferredConnection<C> {
    type Done<'a, T: Send + 'a>
        = T
    where
        Self: 'a;

    fn done<'a, T: Send + 'a>(work: impl Future<Output = T> + Send + 'a) -> T
    where
        Self: 'a,
    {
        now(work)
    }

    fn to_its_end<T: Send + 'static>(future: BoxFuture<'static, T>) -> BoxFuture<'static, Result<T, String>> {
        ready(finish(future)).boxed()
    }
}

impl<C: AsyncDeferrable> Kind for AsyncDeferredConnection<C> {
    type Done<'a, T: Send + 'a>
        = BoxFuture<'a, T>
    where
        Self: 'a;

    fn done<'a, T: Send + 'a>(work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T>
    where
        Self: 'a,
    {
        work.boxed()
    }

    fn to_its_end<T: Send + 'static>(future: BoxFuture<'static, T>) -> BoxFuture<'static, Result<T, String>> {
        caught(future).map(|outcome| outcome.map_err(message)).boxed()
    }
}
