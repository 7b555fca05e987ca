//! What `atomic!` expands to: a transaction builder, and the registrar through which a block's statements register tasks.
//!
//! Must not know: how a transaction ends, or how hooks are stored.

#[cfg(feature = "async")]
mod nonblocking;
mod options;
mod retry;
mod target;
#[cfg(not(feature = "async"))]
mod without_async;

#[cfg(feature = "async")]
pub use self::nonblocking::{Attempts, BlockValue, Caught, Open, caught, future, never_returned};
pub use self::options::{
    BeginOptions, HasDeferrable, HasExclusive, HasImmediate, HasIsolation, HasReadOnly, IsolationLevel,
};
#[cfg(not(feature = "async"))]
pub use self::without_async::{caught, future, never_returned};
use diesel::result::Error;

pub use self::retry::RetryingTransaction;
pub use self::target::{AtomicTarget, DefersTasks, DefersTasksAsync};
#[cfg(feature = "durable")]
use crate::connection::NewCall;
use crate::connection::{Deferrable, DeferredConnection, Deferring, Opening, Staging};
use crate::hook::Hook;

/// Where the statements of one block on the deferring connection `W` register their tasks.
#[derive(Debug)]
pub struct Registrar<W>(pub(crate) Staging<W>);

impl<W: Deferring> Registrar<W> {
    #[inline(always)]
    pub(crate) fn register(&self, hook: Hook<W>, needs: bool) {
        self.0.push(hook, needs);
    }

    #[cfg(feature = "durable")]
    pub(crate) fn store(&self, call: NewCall) {
        self.0.push_call(call);
    }
}

/// That of a block that is not async. Short, because the compiler shows the line that asks for the block's closure.
type BlockRegistrar<C> = Registrar<DeferredConnection<C>>;

/// A transaction with options, as `atomic!` writes it. It has the methods of Diesel's own builder for PostgreSQL, and more.
///
/// # Coming from Diesel
/// Nested in a transaction, Diesel's builder returns [`AlreadyInTransaction`](Error::AlreadyInTransaction). This one does where
/// any option was set, and with [`outermost`](Self::outermost); without options it opens a savepoint, as
/// [`atomic!`](crate::atomic) does. In a test transaction, where Diesel's refuses too, it opens a savepoint, and its options
/// have no effect.
///
/// # Examples
/// ```no_run
/// use diesel::prelude::*;
/// use diesel_deferred::{DeferredConnection, IsolationLevel};
///
/// # #[cfg(feature = "postgres")]
/// fn total(conn: &mut DeferredConnection<PgConnection>) -> QueryResult<i64> {
///     conn.build_transaction().isolation(IsolationLevel::Serializable).read_only().run(|conn| {
///         diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>("count(*)")).get_result(conn)
///     })
/// }
/// ```
#[derive(Debug)]
#[must_use = "a transaction builder does nothing until `run`"]
pub struct TransactionBuilder<'c, W> {
    pub(crate) conn: &'c mut W,
    begin: BeginOptions,
    outermost: bool,
}

impl<'c, W: Deferring> TransactionBuilder<'c, W> {
    pub(crate) fn new(conn: &'c mut W) -> Self {
        Self { conn, begin: BeginOptions::default(), outermost: false }
    }

    /// Sets the isolation level.
    pub fn isolation(mut self, level: IsolationLevel) -> Self
    where
        W::Wrapped: HasIsolation,
    {
        self.begin.isolation = Some(level);
        self
    }

    /// Makes it as if transactions ran one after the other.
    pub fn serializable(self) -> Self
    where
        W::Wrapped: HasIsolation,
    {
        self.isolation(IsolationLevel::Serializable)
    }

    /// Shows all queries the state at the transaction's start.
    pub fn repeatable_read(self) -> Self
    where
        W::Wrapped: HasIsolation,
    {
        self.isolation(IsolationLevel::RepeatableRead)
    }

    /// Shows each query what was committed when it started.
    pub fn read_committed(self) -> Self
    where
        W::Wrapped: HasIsolation,
    {
        self.isolation(IsolationLevel::ReadCommitted)
    }

    /// Forbids writing.
    pub fn read_only(mut self) -> Self
    where
        W::Wrapped: HasReadOnly,
    {
        self.begin.read_only = Some(true);
        self
    }

    /// Allows writing, also where the database's default forbids it.
    pub fn read_write(mut self) -> Self
    where
        W::Wrapped: HasReadOnly,
    {
        self.begin.read_only = Some(false);
        self
    }

    /// Waits at the start for a snapshot on which a serializable read-only transaction cannot fail.
    pub fn deferrable(mut self) -> Self
    where
        W::Wrapped: HasDeferrable,
    {
        self.begin.deferrable = Some(true);
        self
    }

    /// Does not wait at the start, also where the database's default is to.
    pub fn not_deferrable(mut self) -> Self
    where
        W::Wrapped: HasDeferrable,
    {
        self.begin.deferrable = Some(false);
        self
    }

    /// Takes the write lock at the start.
    pub fn immediate(mut self) -> Self
    where
        W::Wrapped: HasImmediate,
    {
        self.begin.lock = Some("IMMEDIATE");
        self
    }

    /// Locks everybody else out at the start.
    pub fn exclusive(mut self) -> Self
    where
        W::Wrapped: HasExclusive,
    {
        self.begin.lock = Some("EXCLUSIVE");
        self
    }

    /// Refuses to be nested, with [`AlreadyInTransaction`](Error::AlreadyInTransaction) before any SQL is sent. A test
    /// transaction does not count.
    pub fn outermost(mut self) -> Self {
        self.outermost = true;
        self
    }

    /// Runs the outermost transaction again, `retries` times at most, when a concurrent transaction was in its way: after a
    /// serialisation failure, a deadlock, or SQLite's `SQLITE_BUSY`, also when that is what COMMIT reports.
    ///
    /// Commit hooks of an attempt that failed never run; its rollback hooks do, at its end. An attempt counts as failed by a
    /// concurrent transaction when one was in its way at any time, also where the block went on and returned another error.
    /// Between the attempts the thread sleeps, see [`RetryingTransaction`].
    /// Nested, there is no retry: the transaction around it is lost, and is what has to run again.
    pub fn retries(self, retries: u32) -> RetryingTransaction<'c, W> {
        RetryingTransaction::new(self, retries)
    }
}

impl<C: Deferrable> TransactionBuilder<'_, DeferredConnection<C>> {
    /// Runs the transaction.
    ///
    /// Options that belong to BEGIN (all but [`outermost`](Self::outermost)) can't be had by a savepoint, so with one of
    /// them nesting is refused too. In a test transaction they have no effect.
    ///
    /// # Errors
    /// What `f` returns; what BEGIN or COMMIT return; [`AlreadyInTransaction`](Error::AlreadyInTransaction).
    pub fn run<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut DeferredConnection<C>) -> Result<T, E>,
        E: From<Error>,
    {
        self.run_once(|conn, _| f(conn))
    }

    /// Runs the block of an `atomic!`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[doc(hidden)]
    pub fn run_block<T, E>(
        mut self,
        block: impl FnOnce(&mut DeferredConnection<C>, &BlockRegistrar<C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>, // where `E` is not known, write it: `atomic!(conn, -> Result<(), MyError>, { … })`
    {
        self.run_once(block)
    }

    fn run_once<T, E>(
        &mut self,
        block: impl FnOnce(&mut DeferredConnection<C>, &BlockRegistrar<C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let registrar = Registrar(self.conn.keeper.lend_staging());
        let opening = Opening::Block { begin: &self.begin, outermost: self.outermost };
        let result = self.conn.run_transaction(opening, |conn| block(conn, &registrar));
        self.conn.keeper.return_staging(registrar.0);
        result
    }
}
