//! A2: pools throw a connection away whose block was dropped, and keep one that is clean.

use std::ops::DerefMut;

use diesel::prelude::*;
#[cfg(feature = "postgres")]
use diesel_async::RunQueryDsl;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, bb8, deadpool, mobc,
};
use diesel_async::{AsyncConnection, SimpleAsyncConnection, TransactionManager};
use diesel_deferred::{AfterCommit, AsyncDeferredConnection, AsyncDeferredTransactionManager, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Database, Log, NOTHING, Scratch, Session, cut_at, note, refusal,
};
use tokio::sync::Notify;

/// Whether the pool asks the connections that it hands out with a query, or looks at them only.
#[derive(Debug, Clone, Copy)]
enum Recycling {
    Verified,
    Fast,
    CustomQuery,
    CustomFunction,
}

const RECYCLING: [Recycling; 4] =
    [Recycling::Verified, Recycling::Fast, Recycling::CustomQuery, Recycling::CustomFunction];

fn manager<C: AsyncConnection + 'static>(url: &str, recycling: Recycling) -> AsyncDieselConnectionManager<C> {
    let mut config = ManagerConfig::default();
    config.recycling_method = match recycling {
        Recycling::Verified => RecyclingMethod::Verified,
        Recycling::Fast => RecyclingMethod::Fast,
        Recycling::CustomQuery => RecyclingMethod::CustomQuery("SELECT 2".into()),
        Recycling::CustomFunction => RecyclingMethod::CustomFunction(Box::new(|_| Box::pin(async { Ok(()) }))),
    };
    AsyncDieselConnectionManager::new_with_config(url, config)
}

/// A2: with `AsyncConnection` in scope a pooled connection has a `transaction` of its own, which is
/// diesel-async's. Its future is dropped while a statement is under way, or between two.
async fn drop_own_transaction<C, G>(pooled: &mut G, log: &Log, statement_is_dropped: bool)
where
    C: AsyncDatabase,
    G: DerefMut<Target = AsyncDeferredConnection<C>> + AfterCommit + Send,
{
    let there = Notify::new();
    let own = pooled.transaction(async |pooled| -> QueryResult<()> {
        C::insert(pooled, 1).await?;
        note(log, 3).after_commit(pooled)?;
        note(log, 4).after_rollback(pooled)?;
        loop {
            let mut statement = Box::pin(SimpleAsyncConnection::batch_execute(pooled, "SELECT 1"));
            // Until the answer of one is not there at once.
            if !statement_is_dropped || futures_util::poll!(statement.as_mut()).is_pending() {
                there.notify_one();
                std::future::pending::<()>().await;
            }
        }
    });
    cut_at(own, &there).await;
}

/// What each pool has to do: `$pool` makes one of one connection, `$keeps` says whether it keeps
/// good ones.
macro_rules! pool_tests {
    ($($name:ident: $conn:ty, $manager:ident => $pool:expr, keeps = $keeps:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let db = Scratch::<<$conn as AsyncDatabase>::Blocking>::new();
            // SQLite locks the database while its last connection closes, and mobc closes one after
            // the other.
            let mut open = db.observer();
            <$conn as AsyncDatabase>::Blocking::witnesses(&mut open);
            for recycling in RECYCLING {
                let $manager = manager::<AsyncDeferredConnection<$conn>>(db.url(), recycling);
                let pool = $pool;
                let log = Log::new();
                let mut pooled = pool.get().await.unwrap();
                let conn = &mut *pooled;
                let good = <$conn as Session>::session(conn.inner_mut()).await;
                atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
                drop(pooled);

                // A clean one comes back, where the pool keeps any.
                let mut pooled = pool.get().await.unwrap();
                let conn = &mut *pooled;
                let first = <$conn as Session>::session(conn.inner_mut()).await;
                assert_eq!(first == good, $keeps, "{recycling:?}");
                let there = Notify::new();
                let block = atomic!(conn, -> QueryResult<()>, async {
                    <$conn as AsyncDatabase>::insert(conn, 1).await?;
                    note(&log, 1);
                    there.notify_one();
                    std::future::pending().await
                });
                cut_at(block, &there).await;
                drop(pooled);

                let mut pooled = pool.get().await.unwrap();
                let conn = &mut *pooled;
                let second = <$conn as Session>::session(conn.inner_mut()).await;
                assert_ne!(first, second, "{recycling:?}: the connection was used again");
                assert!(!conn.in_transaction());
                assert_eq!(conn.pending(), []);

                // By hand: the wrapper does not see that this is dropped.
                AsyncDeferredTransactionManager::begin_transaction(conn).await.unwrap();
                <$conn as AsyncDatabase>::insert(conn, 1).await.unwrap();
                drop(pooled);
                let mut pooled = pool.get().await.unwrap();
                let conn = &mut *pooled;
                let third = <$conn as Session>::session(conn.inner_mut()).await;
                assert_ne!(third, second, "{recycling:?}: the connection was used again");
                <$conn as AsyncDatabase>::insert(conn, 100 + recycling as i32).await.unwrap();
                assert!(db.committed().contains(&(100 + recycling as i32)), "{recycling:?}: not a part of anything");
                assert_eq!(log.ran(), NOTHING);
                drop(pooled);

                for statement_is_dropped in [true, false] {
                    let before = log.ran().len();
                    let mut pooled = pool.get().await.unwrap();
                    let used = <$conn as Session>::session((&mut *pooled).inner_mut()).await;
                    drop_own_transaction::<$conn, _>(&mut pooled, &log, statement_is_dropped).await;
                    if statement_is_dropped {
                        let conn = &mut *pooled;
                        assert_eq!(refusal(&<$conn as AsyncDatabase>::insert(conn, 2).await), "Cancelled");
                        assert_eq!(refusal(&note(&log, 3).after_commit(conn)), "Cancelled");
                        let block: QueryResult<()> = atomic!(conn, async { Ok(()) }).await;
                        assert_eq!(refusal(&block), "Cancelled");
                    }
                    drop(pooled);
                    let mut pooled = pool.get().await.unwrap();
                    let next = <$conn as Session>::session((&mut *pooled).inner_mut()).await;
                    assert_ne!(next, used, "{recycling:?}: the connection was used again");
                    assert_eq!(log.ran()[before..], [4], "at the latest when the pool throws it away");
                }

                // The method of the connection itself is noticed at once.
                let mut pooled = pool.get().await.unwrap();
                let ours = (*pooled).transaction(async |conn| -> QueryResult<()> {
                    <$conn as AsyncDatabase>::insert(conn, 1).await?;
                    there.notify_one();
                    std::future::pending().await
                });
                cut_at(ours, &there).await;
                assert_eq!(refusal(&<$conn as AsyncDatabase>::insert(&mut *pooled, 2).await), "Cancelled");
            }
            assert!(!db.committed().contains(&1));
        }
    )*};
}

type Wrapped<C> = AsyncDeferredConnection<C>;

// diesel-async's manager for mobc has it the wrong way round: it gives good connections up when
// they come back. A bad one it keeps, and finds out when it is to be handed out.
macro_rules! pools {
    ($($database:ident, $conn:ty;)*) => {$(
        mod $database {
            use super::*;

            pool_tests! {
                a02_bb8: $conn, manager => bb8::Pool::<Wrapped<$conn>>::builder().max_size(1).build(manager).await.unwrap(), keeps = true;
                a02_deadpool: $conn, manager => deadpool::Pool::<Wrapped<$conn>>::builder(manager).max_size(1).build().unwrap(), keeps = true;
                a02_mobc: $conn, manager => mobc::Pool::<Wrapped<$conn>>::builder().max_open(1).build(manager), keeps = false;
            }
        }
    )*};
}

pools!(sqlite, AsyncSqliteConnection;);
#[cfg(feature = "postgres")]
pools!(postgres, diesel_async::AsyncPgConnection;);
#[cfg(feature = "mysql")]
pools!(mysql, diesel_async::AsyncMysqlConnection;);

/// The other way round, a deferring connection around a pooled one: what is given back is idle, or
/// thrown away, wherever it was cut.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_around_a_pooled_connection() {
    use diesel_deferred_tests::{Moment, cut, witness};

    type Bare = diesel_async::AsyncPgConnection;
    let db = Scratch::<PgConnection>::new();
    let pool = bb8::Pool::<Bare>::builder().max_size(1).build(manager(db.url(), Recycling::Fast)).await.unwrap();
    let log = Log::new();
    for moment in [Moment::Waiting, Moment::Woken] {
        for polls in 0.. {
            let mut conn = AsyncDeferredConnection::new(pool.get().await.unwrap());
            let id = 1000 * (moment as i32) + 2 * polls;
            let block = atomic!(conn, isolation = Serializable, -> QueryResult<()>, async {
                note(&log, id);
                diesel::insert_into(witness::table).values(witness::id.eq(id)).execute(conn).await.map(drop)
            });
            let completed = cut(block, polls as usize, moment).await.is_some();
            drop(conn);
            let conn = &mut pool.get().await.unwrap();
            diesel::insert_into(witness::table).values(witness::id.eq(id + 1)).execute(conn).await.unwrap();
            assert!(db.committed().contains(&(id + 1)), "{polls} polls, {moment:?}: in a transaction of another's");
            assert!(log.ran().iter().all(|id| db.committed().contains(id)));
            if completed {
                break;
            }
        }
    }
}
