//! A pool of one connection, in a transaction that is never committed: what an application does with
//! its pool a test sees, and nothing is left of it.
//!
//! Must not know: how tasks are run.

use std::any::type_name;
use std::fmt;
use std::future::ready;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[cfg(any(feature = "bb8", feature = "deadpool", feature = "mobc"))]
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::drain::{Drain, Drained, Lender, run_all, set_mode};
use super::expected::{Expectable, Expected, HasRows};
use super::found::{Found, fail_at};
use super::kind::Kind;
use super::lends::{Lending, Lends};
use super::on_connection::{look, look_at_rows};
use super::rows::TaskRows;
use super::seen::Seen;
#[cfg(feature = "r2d2")]
use crate::connection::DeferredConnection;
#[cfg(any(feature = "bb8", feature = "deadpool", feature = "mobc"))]
use crate::connection::{AsyncDeferrable, AsyncDeferredConnection};
use crate::connection::{Mode, Wrapper};
use crate::dispatch::{Dispatcher, DispatcherBuilder};
use crate::error::BoxError;

/// What makes a new connection the test's: it is begun, and given its dispatcher.
type Prepare<W> = Arc<dyn Fn(&mut W) + Send + Sync>;

/// A pool of deferring connections: bb8's, deadpool's or mobc's of diesel-async, or r2d2's of Diesel.
pub trait TestablePool: Clone + Send + Sync + 'static {
    /// Its connections.
    type Conn: TaskRows + Kind;

    /// Opens one with a single connection, which is in a test transaction.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "nobody calls it")]
    fn open(url: &str, prepare: Prepare<Self::Conn>) -> BoxFuture<'static, Result<Self, BoxError>>;

    /// Finds out whether its database can be reached: a pool would only say that it took too long.
    #[doc(hidden)]
    fn probe(url: &str) -> BoxFuture<'static, Result<(), BoxError>>;

    /// Finds out whether it keeps its connection.
    #[doc(hidden)]
    fn settle(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        let is_mobc = type_name::<Self>().starts_with("mobc::");
        async move {
            // What it takes for broken it closes: see `manager`.
            for _ in 0..if is_mobc { 2 } else { 0 } {
                self.lend().await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Lends its connection.
    #[doc(hidden)]
    fn lend(&self) -> Lending<'_, Self::Conn>;
}

/// A pool with one connection in a test transaction, and a dispatcher of its own: for an application
/// that takes its pool. All that is written is seen by all who use the pool, calls and their tasks
/// included, and nothing is left when the test ends. In it a block counts as the outermost one, as in
/// production.
///
/// There is one connection: whoever holds it while waiting for another one waits in vain. Tasks that
/// run after the COMMIT get it when the one who committed has given it back; so do not use
/// [`Mode::Inline`] with tasks that take a connection. Where the pool throws its connection away, as it
/// does when a block was cancelled in it, and r2d2 when one panicked, what was written is gone: the next
/// one begins a transaction of its own. Tasks find the dispatcher for as long as the `TestPool` lives.
///
/// The tables are made before that, by another connection. Each test on SQLite has a file of its own: of
/// two that write to one file, one would wait for the end of the other.
///
/// # Examples
/// ```
/// # #[cfg(all(feature = "bb8", feature = "async-sqlite"))]
/// # mod example {
/// use diesel::prelude::*;
/// use diesel_async::pooled_connection::bb8::Pool;
/// use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
/// use diesel_deferred::testing::TestPool;
/// use diesel_deferred::{AsyncDeferredConnection, BoxError, assert_enqueued, atomic, deferred_task};
///
/// type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;
///
/// #[deferred_task(durable)]
/// async fn send_receipt(#[state] pool: &Pool<Conn>, order_id: i32) -> Result<(), BoxError> {
///     let _conn = pool.get().await?;
///     println!("order {order_id}");
///     Ok(())
/// }
///
/// async fn order(pool: &Pool<Conn>, id: i32) -> Result<(), BoxError> {
///     let mut conn = pool.get().await?;
///     atomic!(conn, -> QueryResult<()>, async {
///         send_receipt(id);
///         Ok(())
///     })
///     .await?;
///     Ok(())
/// }
///
/// # pub async fn test() -> Result<(), BoxError> {
/// # use diesel_migrations::MigrationHarness;
/// # let file = std::env::temp_dir().join(format!("test-pool-{}.db", std::process::id()));
/// # let url = file.to_str().ok_or("no UTF-8")?;
/// # SqliteConnection::establish(url)?.run_pending_migrations(diesel_deferred::migrations())?;
/// let test = TestPool::<Pool<Conn>>::open(url, |dispatcher, pool| dispatcher.state(pool.clone())).await?;
/// order(test.pool(), 7).await?;
/// assert_enqueued!(test, send_receipt(7)).await;
/// assert!(test.drain().run().await.is_clean());
/// # drop(test);
/// # std::fs::remove_file(file)?;
/// # Ok(())
/// # }
/// # }
/// # #[cfg(all(feature = "bb8", feature = "async-sqlite"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), diesel_deferred::BoxError> { example::test().await }
/// # #[cfg(not(all(feature = "bb8", feature = "async-sqlite")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct TestPool<P> {
    pool: P,
    /// It is there.
    dispatcher: Arc<OnceLock<Dispatcher>>,
    /// Of a connection that takes the place of one that was thrown away, too.
    mode: Arc<Mutex<Mode>>,
}

impl<P: TestablePool> TestPool<P> {
    /// Opens it. `dispatcher` is given the pool, to make a state of it, and whatever else tasks take.
    ///
    /// # Errors
    /// Where the pool cannot be opened, or its database not be reached.
    pub async fn open(
        url: &str,
        dispatcher: impl FnOnce(DispatcherBuilder, &P) -> DispatcherBuilder,
    ) -> Result<Self, BoxError> {
        P::probe(url).await?;
        let (opening, later, mode) = Self::opening(url);
        let test = Self::opened(opening.await?, later, mode, dispatcher);
        test.pool.settle().await?;
        Ok(test)
    }

    /// The same of a pool that is opened without being awaited: r2d2's.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub fn open_blocking(
        url: &str,
        dispatcher: impl FnOnce(DispatcherBuilder, &P) -> DispatcherBuilder,
    ) -> Result<Self, BoxError> {
        const AWAITED: &str = "this pool opens with `TestPool::open(…).await`";
        P::probe(url).now_or_never().ok_or(AWAITED)??;
        let (opening, later, mode) = Self::opening(url);
        let pool = opening.now_or_never().ok_or(AWAITED)??;
        Ok(Self::opened(pool, later, mode, dispatcher))
    }

    #[allow(clippy::type_complexity, reason = "it is named nowhere else")]
    fn opening(url: &str) -> (BoxFuture<'static, Result<P, BoxError>>, Arc<OnceLock<Dispatcher>>, Arc<Mutex<Mode>>) {
        // Its states have the pool in them, which is there before its connection is. The pool holds
        // neither: all of that would live for ever.
        let later: Arc<OnceLock<Dispatcher>> = Arc::default();
        let dispatcher = Arc::downgrade(&later);
        let mode: Arc<Mutex<Mode>> = Arc::default();
        let of_connections = Arc::clone(&mode);
        let prepare: Prepare<P::Conn> = Arc::new(move |conn| {
            let later = dispatcher.upgrade();
            if let Some(dispatcher) = later.as_ref().and_then(|later| later.get()) {
                conn.keeper().set_route(dispatcher);
            }
            set_mode(conn, *of_connections.lock().unwrap_or_else(PoisonError::into_inner));
        });
        (P::open(url, prepare), later, mode)
    }

    fn opened(
        pool: P,
        later: Arc<OnceLock<Dispatcher>>,
        mode: Arc<Mutex<Mode>>,
        dispatcher: impl FnOnce(DispatcherBuilder, &P) -> DispatcherBuilder,
    ) -> Self {
        later.get_or_init(|| dispatcher(Dispatcher::builder(), &pool).build());
        Self { pool, dispatcher: later, mode }
    }

    /// The pool, for the application.
    pub fn pool(&self) -> &P {
        &self.pool
    }

    /// Where its tasks run: `dispatcher().idle().await` waits for them.
    pub fn dispatcher(&self) -> &Dispatcher {
        self.dispatcher.get_or_init(|| Dispatcher::builder().build())
    }

    /// What becomes of its tasks from now on; awaited where its connections are asynchronous.
    ///
    /// # Panics
    /// Where the pool has no connection.
    pub fn set_mode(&self, mode: Mode) -> <P::Conn as Kind>::Done<'_, ()> {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        P::Conn::done(async move { set_mode(lend(&self.pool).await.conn(), mode) })
    }

    /// Runs the durable tasks that are stored: see [`drain`](super::drain()). While a task runs nobody
    /// holds the connection.
    pub fn drain(&self) -> Drain<&Self> {
        Drain::new(self)
    }

    /// For [`assert_deferred!`](crate::assert_deferred): what its connection holds back.
    ///
    /// # Panics
    /// Where there is no such call.
    #[doc(hidden)]
    #[track_caller]
    pub fn assert_deferred<T>(&self, expected: Expected<T>) -> <P::Conn as Kind>::Done<'_, ()>
    where
        T: Expectable + 'static,
    {
        let caller = Location::caller();
        P::Conn::done(async move { fail_at(caller, self.look(expected).await.missing()) })
    }

    /// For [`refute_deferred!`](crate::refute_deferred).
    ///
    /// # Panics
    /// Where there is such a call.
    #[doc(hidden)]
    #[track_caller]
    pub fn refute_deferred<T>(&self, expected: Expected<T>) -> <P::Conn as Kind>::Done<'_, ()>
    where
        T: Expectable + 'static,
    {
        let caller = Location::caller();
        P::Conn::done(async move { fail_at(caller, self.look(expected).await.unwanted()) })
    }

    async fn look<T: Expectable + 'static>(&self, expected: Expected<T>) -> Found {
        let mut lent = lend(&self.pool).await;
        let keeper = lent.conn().keeper();
        look(&expected, |see| keeper.show_calls(&mut |call| see(Seen::waiting(call))))
    }

    /// For [`assert_enqueued!`](crate::assert_enqueued).
    ///
    /// # Panics
    /// Where there is no such row.
    #[doc(hidden)]
    #[track_caller]
    pub fn assert_enqueued<T>(&self, expected: Expected<T>) -> <P::Conn as Kind>::Done<'_, ()>
    where
        T: Expectable + HasRows + 'static,
    {
        let caller = Location::caller();
        P::Conn::done(async move {
            fail_at(caller, look_at_rows(caller, lend(&self.pool).await.conn(), expected).await.missing());
        })
    }

    /// For [`refute_enqueued!`](crate::refute_enqueued).
    ///
    /// # Panics
    /// Where there is such a row.
    #[doc(hidden)]
    #[track_caller]
    pub fn refute_enqueued<T>(&self, expected: Expected<T>) -> <P::Conn as Kind>::Done<'_, ()>
    where
        T: Expectable + HasRows + 'static,
    {
        let caller = Location::caller();
        P::Conn::done(async move {
            fail_at(caller, look_at_rows(caller, lend(&self.pool).await.conn(), expected).await.unwanted());
        })
    }
}

async fn lend<P: TestablePool>(pool: &P) -> Box<dyn Lends<P::Conn> + '_> {
    pool.lend().await.unwrap_or_else(|error| {
        panic!("the test's pool has no connection ({error}): it has one, which somebody holds, or its database is not there")
    })
}

impl<'p, P: TestablePool> Drain<&'p TestPool<P>> {
    /// Runs them; where the pool's connections are asynchronous it is awaited.
    ///
    /// # Panics
    /// Where the rows cannot be read or changed, two tasks have one name, or the pool has no connection.
    #[track_caller]
    pub fn run(self) -> <P::Conn as Kind>::Done<'p, Drained> {
        let (test, settings) = self.into_parts();
        let caller = Location::caller();
        P::Conn::done(async move {
            let states = test.dispatcher().states();
            run_all::<P::Conn>(caller, &mut Pooled(&test.pool), settings, states).await
        })
    }
}

/// Lends the pool's connection, for a moment each time.
struct Pooled<'p, P>(&'p P);

impl<P: TestablePool> Lender<P::Conn> for Pooled<'_, P> {
    fn lend<'l>(&'l mut self) -> Lending<'l, P::Conn> {
        self.0.lend()
    }
}

impl<P: fmt::Debug> fmt::Debug for TestPool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestPool").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// A manager of diesel-async's, whose connections are begun and prepared.
#[cfg(any(feature = "bb8", feature = "deadpool", feature = "mobc"))]
fn manager<C>(
    url: &str,
    is_mobc: bool,
    prepare: Prepare<AsyncDeferredConnection<C>>,
) -> AsyncDieselConnectionManager<AsyncDeferredConnection<C>>
where
    C: AsyncDeferrable + 'static,
    AsyncDeferredConnection<C>: diesel_async::pooled_connection::PoolableConnection + 'static,
{
    use diesel_async::AsyncConnection;

    // Of diesel-async 0.9.2 mobc's manager takes the good ones for the broken ones, so that mobc closes
    // each that is given back. The first one finds that out: where there is a second one, it was closed.
    let opened = std::sync::atomic::AtomicUsize::new(0);
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(move |url| {
        let prepare = Arc::clone(&prepare);
        let seems_broken = is_mobc && opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
        async move {
            let mut conn = AsyncDeferredConnection::<C>::establish(url).await?;
            conn.begin_test_transaction().await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            prepare(&mut conn);
            conn.keeper().seem_broken(seems_broken);
            Ok(conn)
        }
        .boxed()
    });
    AsyncDieselConnectionManager::new_with_config(url, config)
}

/// One of diesel-async's pools, of connections of one database.
#[allow(unused_macros, reason = "without a pool, or a database")]
macro_rules! async_pool {
    ($of_pool:literal, $of_database:literal, $pool:ident, $conn:ty, |$manager:ident| $open:expr) => {
        #[cfg(all(feature = $of_pool, feature = $of_database))]
        impl TestablePool for diesel_async::pooled_connection::$pool::Pool<AsyncDeferredConnection<$conn>> {
            type Conn = AsyncDeferredConnection<$conn>;

            fn probe(url: &str) -> BoxFuture<'static, Result<(), BoxError>> {
                let url = url.to_owned();
                async move {
                    let conn = <$conn as diesel_async::AsyncConnection>::establish(&url).await;
                    conn.map(drop).map_err(BoxError::from)
                }
                .boxed()
            }

            #[allow(private_interfaces, reason = "nobody calls it")]
            fn open(url: &str, prepare: Prepare<Self::Conn>) -> BoxFuture<'static, Result<Self, BoxError>> {
                let $manager = manager::<$conn>(url, stringify!($pool) == "mobc", prepare);
                $open.boxed()
            }

            fn lend(&self) -> Lending<'_, Self::Conn> {
                async move {
                    let lent: Box<dyn Lends<Self::Conn> + '_> = Box::new(self.get().await.map_err(BoxError::from)?);
                    Ok(lent)
                }
                .boxed()
            }
        }
    };
}

/// All of them, and r2d2's. Nobody else has the connection, and it must live for as long as the test.
macro_rules! pools {
    ($of_async:literal, $async_conn:ty, $of_sync:literal, $conn:ty) => {
        async_pool!("bb8", $of_async, bb8, $async_conn, |manager| {
            let pool = Self::builder().max_size(1).max_lifetime(None).idle_timeout(None).build(manager);
            async move { pool.await.map_err(BoxError::from) }
        });
        async_pool!("deadpool", $of_async, deadpool, $async_conn, |manager| {
            ready(Self::builder(manager).max_size(1).build().map_err(BoxError::from))
        });
        async_pool!("mobc", $of_async, mobc, $async_conn, |manager| {
            let builder = Self::builder().max_open(1).max_idle(1).max_lifetime(None).max_idle_lifetime(None);
            ready(Ok(builder.build(manager)))
        });

        #[cfg(all(feature = "r2d2", feature = $of_sync))]
        impl TestablePool for diesel::r2d2::Pool<diesel::r2d2::ConnectionManager<DeferredConnection<$conn>>> {
            type Conn = DeferredConnection<$conn>;

            fn probe(url: &str) -> BoxFuture<'static, Result<(), BoxError>> {
                let conn = <$conn as diesel::Connection>::establish(url);
                ready(conn.map(drop).map_err(BoxError::from)).boxed()
            }

            #[allow(private_interfaces, reason = "nobody calls it")]
            fn open(url: &str, prepare: Prepare<Self::Conn>) -> BoxFuture<'static, Result<Self, BoxError>> {
                let builder = Self::builder().max_size(1).min_idle(Some(0)).max_lifetime(None).idle_timeout(None);
                let manager = diesel::r2d2::ConnectionManager::new(url);
                let pool = builder.connection_customizer(Box::new(Begin(prepare))).build(manager);
                ready(pool.map_err(BoxError::from)).boxed()
            }

            fn lend(&self) -> Lending<'_, Self::Conn> {
                let lent = self.get().map(|conn| -> Box<dyn Lends<Self::Conn> + '_> { Box::new(conn) });
                ready(lent.map_err(BoxError::from)).boxed()
            }
        }
    };
}

pools!(
    "async-sqlite",
    diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>,
    "sqlite",
    diesel::SqliteConnection
);
pools!("async-postgres", diesel_async::AsyncPgConnection, "postgres", diesel::PgConnection);
pools!("async-mysql", diesel_async::AsyncMysqlConnection, "mysql", diesel::MysqlConnection);

/// Begins r2d2's connections, and prepares them.
#[cfg(feature = "r2d2")]
struct Begin<W>(Prepare<W>);

#[cfg(feature = "r2d2")]
impl<W> fmt::Debug for Begin<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begin")
    }
}

#[cfg(feature = "r2d2")]
impl<W: diesel::Connection + 'static> diesel::r2d2::CustomizeConnection<W, diesel::r2d2::Error> for Begin<W> {
    fn on_acquire(&self, conn: &mut W) -> Result<(), diesel::r2d2::Error> {
        conn.begin_test_transaction().map_err(diesel::r2d2::Error::QueryError)?;
        (self.0)(conn);
        Ok(())
    }
}
