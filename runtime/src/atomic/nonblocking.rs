//! What `atomic!(conn, async { … })` expands to: the steps of a transaction around a future, one attempt after the other.
//!
//! Must not know: how a transaction ends.

use std::panic::AssertUnwindSafe;

use diesel::result::{Error, QueryResult};
use futures_util::FutureExt;

use super::retry::{RetryingTransaction, backoff};
use super::{Registrar, TransactionBuilder};
use crate::connection::{AsyncBlock, AsyncDeferrable, AsyncDeferredConnection, OpenBlock, Opening, Wrapper};
use crate::dispatch::pause;
use crate::panics::Panic;

impl<'c, C: AsyncDeferrable> TransactionBuilder<'c, AsyncDeferredConnection<C>> {
    /// Runs the transaction.
    ///
    /// Options that belong to BEGIN (all but [`outermost`](Self::outermost)) can't be had by a savepoint, so with one of
    /// them nesting is refused too. In a test transaction they have no effect. With [`retries`](Self::retries) only `atomic!` can run
    /// it: a closure cannot be awaited twice.
    ///
    /// # Errors
    /// What `f` returns; what BEGIN or COMMIT return; [`AlreadyInTransaction`](Error::AlreadyInTransaction).
    pub async fn run<'a, T, E, F>(self, f: F) -> Result<T, E>
    where
        for<'r> F: AsyncFnOnce(&'r mut AsyncDeferredConnection<C>) -> Result<T, E>
            + AsyncBlock<&'r mut AsyncDeferredConnection<C>, Result<T, E>, Fut: Send>
            + Send
            + 'a,
        E: From<Error> + Send + 'a,
        T: Send + 'a,
    {
        let opening = Opening::Block { begin: &self.begin, outermost: self.outermost };
        self.conn.run_transaction(opening, f).await
    }

    /// For `atomic!`.
    #[doc(hidden)]
    pub fn __attempts(self) -> Attempts<'c, C> {
        self.retries(0).__attempts()
    }
}

impl<'c, C: AsyncDeferrable> RetryingTransaction<'c, AsyncDeferredConnection<C>> {
    /// For `atomic!`.
    #[doc(hidden)]
    pub fn __attempts(self) -> Attempts<'c, C> {
        // A retry on its own would run in a transaction that the failure has already ended.
        // In a transaction that was cancelled the next outermost block begins with rolling that back.
        let conn = &mut *self.transaction.conn;
        let retries = if !conn.is_interrupted() && conn.in_transaction() { 0 } else { self.retries };
        Attempts { transaction: self.transaction, retries, attempt: 0 }
    }
}

/// The attempts at one transaction.
#[derive(Debug)]
pub struct Attempts<'c, C: AsyncDeferrable> {
    transaction: TransactionBuilder<'c, AsyncDeferredConnection<C>>,
    retries: u32,
    attempt: u32,
}

impl<C: AsyncDeferrable> Attempts<'_, C> {
    /// Begins the transaction.
    ///
    /// # Errors
    /// What BEGIN returns.
    pub async fn begin(&mut self) -> QueryResult<Open<'_, C>> {
        let TransactionBuilder { conn, begin, outermost } = &mut self.transaction;
        let block = OpenBlock::begin(&mut **conn, Opening::Block { begin, outermost: *outermost }).await?;
        let registrar = Registrar(block.conn.keeper.lend_staging());
        Ok(Open { block, registrar })
    }

    /// Whether the block is to run again after this end of it; waits until it is time to.
    pub async fn again(&mut self, failed: bool) -> bool {
        let conn = &mut *self.transaction.conn;
        let again = failed && self.attempt < self.retries && !conn.is_interrupted() && conn.lost_to_another();
        if again {
            pause(backoff(self.attempt)).await;
            self.attempt += 1;
        }
        again
    }
}

/// A transaction that is open.
#[derive(Debug)]
pub struct Open<'c, C: AsyncDeferrable> {
    block: OpenBlock<'c, AsyncDeferredConnection<C>>,
    registrar: Registrar<AsyncDeferredConnection<C>>,
}

impl<C: AsyncDeferrable> Open<'_, C> {
    /// What the block is given.
    pub fn parts(&mut self) -> (&mut AsyncDeferredConnection<C>, &Registrar<AsyncDeferredConnection<C>>) {
        (self.block.conn, &self.registrar)
    }

    /// Ends the transaction as the block did.
    ///
    /// # Errors
    /// What the block returned, or what COMMIT returns.
    pub async fn end<T, E>(self, outcome: Caught<Result<T, E>>) -> Result<T, E>
    where
        E: From<Error>, // where `E` is not known, write it: `atomic!(conn, -> Result<(), MyError>, async { … })`
    {
        let Self { block, registrar } = self;
        block.conn.keeper.return_staging(registrar.0);
        block.end(outcome.0).await
    }
}

/// How a block ended: with its value, or with a panic.
#[allow(missing_debug_implementations, reason = "a panic has none")]
pub struct Caught<R>(Result<R, Panic>);

/// Awaits a block, up to its panic.
pub async fn caught<R, F: Future<Output = R>>(block: F) -> Caught<R> {
    Caught(AssertUnwindSafe(block).catch_unwind().await)
}

/// The result of a block that was never begun.
///
/// # Errors
/// Always.
pub fn refused<T, E: From<Error>>(error: Error) -> Result<T, E> {
    Err(error.into())
}
