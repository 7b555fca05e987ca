//! What `atomic!(conn, async { … })` expands to: the steps of a transaction around a future, one
//! attempt after the other.
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
use crate::task::never::Never;

impl<'c, C: AsyncDeferrable> TransactionBuilder<'c, AsyncDeferredConnection<C>> {
    /// Runs the transaction.
    ///
    /// Options that belong to BEGIN (all but [`outermost`](Self::outermost)) can't be had by a
    /// savepoint, so with one of them nesting is refused too. In a test transaction they have no
    /// effect. With [`retries`](Self::retries) only `atomic!` can run it: a closure cannot be
    /// awaited twice.
    ///
    /// # Errors
    /// What `f` returns; what BEGIN or COMMIT return;
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction).
    pub async fn run<'a, T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        for<'r> F: AsyncFnOnce(&'r mut AsyncDeferredConnection<C>) -> Result<T, E>
            + AsyncBlock<&'r mut AsyncDeferredConnection<C>, Result<T, E>, Fut: Send>
            + Send
            + 'a,
        E: From<Error> + 'a,
        T: 'a,
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
        // A retry on its own would run in a transaction that the failure has already ended. In a
        // transaction that was cancelled the next outermost block begins with rolling that back.
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
    pub async fn begin(&mut self) -> Open<'_, C> {
        let TransactionBuilder { conn, begin, outermost } = &mut self.transaction;
        let block = OpenBlock::begin(&mut **conn, Opening::Block { begin, outermost: *outermost }).await;
        Open(block.map(|block| {
            let registrar = Registrar(block.conn.keeper.lend_staging());
            (block, registrar)
        }))
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

/// A transaction that is open, or could not be opened. The expansion has one path for both, so that
/// the error type of the block's is asked for in one place: where it is missing, that is one
/// message.
#[derive(Debug)]
pub struct Open<'c, C: AsyncDeferrable>(QueryResult<OpenWithRegistrar<'c, AsyncDeferredConnection<C>>>);

type OpenWithRegistrar<'c, W> = (OpenBlock<'c, W>, Registrar<W>);

impl<C: AsyncDeferrable> Open<'_, C> {
    /// What the block is given, if it is to run.
    pub fn parts(&mut self) -> Option<(&mut AsyncDeferredConnection<C>, &Registrar<AsyncDeferredConnection<C>>)> {
        let (block, registrar) = self.0.as_mut().ok()?;
        Some((block.conn, registrar))
    }

    /// Ends the transaction as the block did.
    ///
    /// # Errors
    /// What the block returned, or what BEGIN or COMMIT returns.
    pub async fn end<R: BlockValue>(self, outcome: Option<Caught<R>>) -> Result<R::Value, R::Error>
    where
        R::Error: From<Error>, // where `E` is not known, write it: `atomic!(conn, -> Result<(), MyError>, async { … })`
    {
        let (block, registrar) = self.0?;
        block.conn.keeper.return_staging(registrar.0);
        // A block that did not run has nothing to commit.
        let outcome =
            outcome.map_or_else(|| Ok(Err(Error::RollbackTransaction.into())), |outcome| outcome.0.map(R::into_result));
        block.end(outcome).await
    }
}

/// What a block may end in.
#[diagnostic::on_unimplemented(
    message = "this `atomic!` block ends without a `Result`",
    label = "expected `Ok(…)` or `Err(…)`, found `{Self}`",
    note = "`Ok(…)` commits, `Err(…)` rolls back"
)]
pub trait BlockValue {
    /// What is committed with.
    type Value;
    /// What is rolled back with.
    type Error;
    /// Itself.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

#[diagnostic::do_not_recommend]
impl<T, E> BlockValue for Result<T, E> {
    type Value = T;
    type Error = E;

    #[inline]
    fn into_result(self) -> Self {
        self
    }
}

/// A block that only diverges, such as `todo!()`. Nothing in it says what its result would be, so
/// that it is what most are; with `-> Result<..>` it is what that says.
#[diagnostic::do_not_recommend]
impl BlockValue for Never {
    type Value = ();
    type Error = Error;

    fn into_result(self) -> QueryResult<()> {
        self
    }
}

/// How a block ended: with its value, or with a panic.
#[allow(missing_debug_implementations, reason = "a panic has none")]
pub struct Caught<R>(Result<R, Panic>);

/// Awaits a block, up to its panic.
pub async fn caught<R, F: Future<Output = R>>(block: F) -> Caught<R> {
    Caught(AssertUnwindSafe(block).catch_unwind().await)
}

/// The future that `atomic!` is. Where it was not awaited the compiler shows the line that names
/// its type.
#[inline]
#[rustfmt::skip]
pub fn future<F>(block: F) -> impl Future<Output = F::Output> // runs when it is awaited: `atomic!(conn, async { … }).await`
where
    F: Future,
{
    block
}

/// A value of the type of a block's result, for a `return` that is never reached: it tells the
/// compiler that type before it looks at the block, so that what does not fit is underlined in the
/// block.
#[cold]
pub fn never_returned<R>() -> R {
    unreachable!("nothing returns this")
}
