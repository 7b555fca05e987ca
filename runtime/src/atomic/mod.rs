//! What `atomic!` expands to: a transaction builder, and the registrar through which a block's statements register tasks.
//!
//! Must not know: how a transaction ends, or how hooks are stored.

mod options;
mod retry;

pub use self::options::{BeginOptions, HasDeferrable, HasImmediate, HasIsolation, HasReadOnly, IsolationLevel};
use diesel::connection::TransactionManager;
use diesel::result::Error;

pub use self::retry::RetryingTransaction;
use crate::connection::{Deferrable, DeferredConnection, Promise, Staging, begin_with_sql};
use crate::hook::Hook;

/// Where the statements of one block register their tasks.
#[derive(Debug)]
pub struct Registrar<C>(Staging<C>);

impl<C: Deferrable> Registrar<C> {
    #[inline(always)]
    pub(crate) fn register(&self, hook: Hook<C>) {
        self.0.push(hook);
    }
}

/// A transaction with options, as `atomic!` writes it.
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
pub struct TransactionBuilder<'c, C> {
    conn: &'c mut DeferredConnection<C>,
    begin: BeginOptions,
    outermost: bool,
}

impl<'c, C: Deferrable> TransactionBuilder<'c, C> {
    pub(crate) fn new(conn: &'c mut DeferredConnection<C>) -> Self {
        Self { conn, begin: BeginOptions::default(), outermost: false }
    }

    /// Sets the isolation level.
    pub fn isolation(mut self, level: IsolationLevel) -> Self
    where
        C: HasIsolation,
    {
        self.begin.isolation = Some(level);
        self
    }

    /// Forbids writing.
    pub fn read_only(mut self) -> Self
    where
        C: HasReadOnly,
    {
        self.begin.read_only = true;
        self
    }

    /// Waits at the start for a snapshot on which a serializable read-only transaction cannot fail.
    pub fn deferrable(mut self) -> Self
    where
        C: HasDeferrable,
    {
        self.begin.deferrable = true;
        self
    }

    /// Takes the write lock at the start.
    pub fn immediate(mut self) -> Self
    where
        C: HasImmediate,
    {
        self.begin.lock = Some("IMMEDIATE");
        self
    }

    /// Locks everybody else out at the start.
    pub fn exclusive(mut self) -> Self
    where
        C: HasImmediate,
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
    pub fn retries(self, retries: u32) -> RetryingTransaction<'c, C> {
        RetryingTransaction::new(self, retries)
    }

    /// Runs the transaction.
    ///
    /// Options that belong to BEGIN (all but [`outermost`](Self::outermost)) can't be had by a savepoint, so with one of
    /// them nesting is refused too. In a test transaction they have no effect.
    ///
    /// # Errors
    /// What `f` returns; what BEGIN or COMMIT return; [`AlreadyInTransaction`](Error::AlreadyInTransaction).
    pub fn run<T, E>(self, f: impl FnOnce(&mut DeferredConnection<C>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error>,
    {
        self.run_block(|conn, _| f(conn))
    }

    /// Runs the block of an `atomic!`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[doc(hidden)]
    pub fn run_block<T, E>(
        mut self,
        block: impl FnOnce(&mut DeferredConnection<C>, &Registrar<C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>, // where `E` is not known, write it: `atomic!(conn, -> Result<(), MyError>, { … })`
    {
        self.run_once(block)
    }

    fn run_once<T, E>(
        &mut self,
        block: impl FnOnce(&mut DeferredConnection<C>, &Registrar<C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let (begin, outermost) = (&self.begin, self.outermost);
        let registrar = Registrar(self.conn.lend_staging());
        let result = self.conn.run_transaction(
            Promise::Atomic,
            |inner, state| {
                if state.is_nested() && (outermost || !begin.is_plain()) {
                    Err(Error::AlreadyInTransaction)
                } else if begin.is_plain() || !state.is_idle() {
                    C::TransactionManager::begin_transaction(inner)
                } else {
                    begin_with_sql(inner, &C::begin_sql(begin))
                }
            },
            |conn| block(conn, &registrar),
        );
        self.conn.return_staging(registrar.0);
        result
    }
}

/// `atomic!`'s first argument: whatever derefs to a [`DeferredConnection`]. Diesel's own connections have the method too,
/// so that what they lack ([`DefersTasks`]) can be said in words.
pub trait AtomicTarget {
    /// The connection below.
    type Wrapped;

    /// The transaction that `atomic!` is about to run. The name must not meet one of a
    /// user's traits, and is what the compiler says of a type that is no connection at all.
    fn __atomic_needs_a_deferred_connection(&mut self) -> TransactionBuilder<'_, Self::Wrapped>
    where
        Self: DefersTasks,
    {
        self.builder()
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
    fn builder(&mut self) -> TransactionBuilder<'_, Self::Wrapped>;
}

impl<C: Deferrable> AtomicTarget for DeferredConnection<C> {
    type Wrapped = C;
}

#[diagnostic::do_not_recommend]
impl<C: Deferrable> DefersTasks for DeferredConnection<C> {
    fn builder(&mut self) -> TransactionBuilder<'_, C> {
        self.build_transaction()
    }
}

#[cfg(feature = "sqlite")]
impl AtomicTarget for diesel::SqliteConnection {
    type Wrapped = Self;
}

#[cfg(feature = "postgres")]
impl AtomicTarget for diesel::PgConnection {
    type Wrapped = Self;
}

#[cfg(feature = "mysql")]
impl AtomicTarget for diesel::MysqlConnection {
    type Wrapped = Self;
}
