//! A transaction with options, and how a block runs in it, once.
//!
//! Must not know: how a transaction ends, or how often the block is run.

use diesel::result::Error;

use super::options::{
    BeginOptions, HasDeferrable, HasExclusive, HasImmediate, HasIsolation, HasReadOnly, IsolationLevel,
};
use super::registrar::{BlockRegistrar, Registrar};
#[cfg(feature = "async")]
use crate::connection::{AsyncBlock, AsyncDeferrable, AsyncDeferredConnection};
use crate::connection::{Deferrable, DeferredConnection, Deferring, Opening};

/// A transaction with options, as `atomic!` writes it. It has the methods of Diesel's own builder
/// for PostgreSQL, and more.
///
/// # Coming from Diesel
/// Nested in a transaction, Diesel's builder returns
/// [`AlreadyInTransaction`](Error::AlreadyInTransaction). This one does where any option was set,
/// and with [`outermost`](Self::outermost); without options it opens a savepoint, as
/// [`atomic!`](crate::atomic) does. In a test transaction, where Diesel's refuses too, it opens a
/// savepoint, and its options have no effect.
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
    pub(super) conn: &'c mut W,
    pub(super) begin: BeginOptions,
    pub(super) outermost: bool,
}

impl<'c, W: Deferring> TransactionBuilder<'c, W> {
    fn new(conn: &'c mut W) -> Self {
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

    /// Refuses to be nested, with [`AlreadyInTransaction`](Error::AlreadyInTransaction) before any
    /// SQL is sent. A test transaction does not count.
    pub fn outermost(mut self) -> Self {
        self.outermost = true;
        self
    }
}

impl<C: Deferrable> TransactionBuilder<'_, DeferredConnection<C>> {
    /// Runs the transaction.
    ///
    /// Options that belong to BEGIN (all but [`outermost`](Self::outermost)) can't be had by a
    /// savepoint, so with one of them nesting is refused too. In a test transaction they have no
    /// effect.
    ///
    /// # Errors
    /// What `f` returns; what BEGIN or COMMIT return;
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction).
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

    pub(super) fn run_once<T, E>(
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

impl<C: Deferrable> DeferredConnection<C> {
    /// A transaction with options; [`atomic!`](crate::atomic) writes this for you.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use diesel_deferred::DeferredConnection;
    ///
    /// # fn main() -> QueryResult<()> {
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    /// conn.build_transaction().immediate().run(|conn| diesel::sql_query("SELECT 1").execute(conn))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_, Self> {
        TransactionBuilder::new(self)
    }

    /// A transaction that takes SQLite's write lock at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the
    /// transaction returns.
    pub fn immediate_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        C: HasImmediate,
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.build_transaction().immediate().run(f)
    }

    /// A transaction that locks an SQLite database for everybody else at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the
    /// transaction returns.
    pub fn exclusive_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        C: HasExclusive,
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.build_transaction().exclusive().run(f)
    }
}

#[cfg(feature = "async")]
impl<C: AsyncDeferrable> AsyncDeferredConnection<C> {
    /// A transaction with options; [`atomic!`](crate::atomic) writes this for you.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_, Self> {
        TransactionBuilder::new(self)
    }

    /// A transaction that takes SQLite's write lock at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the
    /// transaction returns.
    pub async fn immediate_transaction<'a, R, E, F>(&mut self, f: F) -> Result<R, E>
    where
        C: HasImmediate,
        for<'r> F:
            AsyncFnOnce(&'r mut Self) -> Result<R, E> + AsyncBlock<&'r mut Self, Result<R, E>, Fut: Send> + Send + 'a,
        E: From<Error> + Send + 'a,
        R: Send + 'a,
    {
        self.build_transaction().immediate().run(f).await
    }

    /// A transaction that locks an SQLite database for everybody else at its start.
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](Error::AlreadyInTransaction) in a transaction, and what the
    /// transaction returns.
    pub async fn exclusive_transaction<'a, R, E, F>(&mut self, f: F) -> Result<R, E>
    where
        C: HasExclusive,
        for<'r> F:
            AsyncFnOnce(&'r mut Self) -> Result<R, E> + AsyncBlock<&'r mut Self, Result<R, E>, Fut: Send> + Send + 'a,
        E: From<Error> + Send + 'a,
        R: Send + 'a,
    {
        self.build_transaction().exclusive().run(f).await
    }
}
