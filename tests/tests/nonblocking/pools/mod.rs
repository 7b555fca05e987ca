//! bb8, deadpool and mobc: pools of deferring connections, and deferring connections around pooled
//! ones.

mod kinds;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::result::QueryResult;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, deadpool};
use diesel_async::{AsyncConnection, SimpleAsyncConnection, TransactionManager};
use diesel_deferred::{
    AfterCommit, AsyncDeferrable, AsyncDeferredConnection, AsyncDeferredTransactionManager as Manager, atomic,
    deferred_task,
};
use diesel_deferred_tests::{AsyncDatabase, Database, Log, NOTHING, Scratch, note, rolled_back};
use futures_util::FutureExt;
use tokio::sync::Barrier;

use self::kinds::{AnyBarePool, AnyPool};
use crate::fixture::{SOON, noting, noting_rollback, one_at_a_time, panic_of, settled};

/// Each test on each pool of each database.
macro_rules! on_every_pool {
    ($($name:ident),* $(,)?) => {
        on_every_pool!(sqlite, diesel_deferred_tests::AsyncSqliteConnection, $($name)*);
        #[cfg(feature = "postgres")]
        on_every_pool!(postgres, diesel_async::AsyncPgConnection, $($name)*);
        #[cfg(feature = "mysql")]
        on_every_pool!(mysql, diesel_async::AsyncMysqlConnection, $($name)*);
    };
    ($database:ident, $conn:ty, $($name:ident)*) => {
        mod $database {
            use diesel_async::pooled_connection::{bb8, deadpool, mobc};
            use diesel_deferred::AsyncDeferredConnection;
            use diesel_deferred_tests::Scratch;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    type Deferring = AsyncDeferredConnection<$conn>;
                    super::$name::<$conn, bb8::Pool<Deferring>>(&Scratch::new()).await;
                    super::$name::<$conn, deadpool::Pool<Deferring>>(&Scratch::new()).await;
                    super::$name::<$conn, mobc::Pool<Deferring>>(&Scratch::new()).await;
                }
            )*

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_deferring_connection_around_a_pooled_one() {
                super::around::<$conn, bb8::Pool<$conn>>(&Scratch::new()).await;
                super::around::<$conn, deadpool::Pool<$conn>>(&Scratch::new()).await;
                super::around::<$conn, mobc::Pool<$conn>>(&Scratch::new()).await;
            }
        }
    };
}

on_every_pool! {
    a_pool_of_deferring_connections,
    e05_a_panic_in_a_pooled_block_leaves_the_connection_good,
    e12_a_connection_with_an_open_transaction_is_thrown_away,
    a04_many_tasks_on_few_connections,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

/// A connection that stays open: when its last one is closed, SQLite locks readers out for a
/// moment.
fn held_open<C: AsyncDatabase>(db: &Scratch<C::Blocking>) -> C::Blocking {
    let mut conn = db.observer();
    assert_eq!(C::Blocking::witnesses(&mut conn), NOTHING);
    conn
}

/// A pool, and how many connections it has opened.
async fn pool<C: AsyncDatabase, P: AnyPool<C>>(db: &Scratch<C::Blocking>, size: u32) -> (P, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&opened);
    let mut config = ManagerConfig::<AsyncDeferredConnection<C>>::default();
    config.custom_setup = Box::new(move |url| {
        counter.fetch_add(1, Ordering::SeqCst);
        let url = url.to_owned();
        async move { AsyncDeferredConnection::<C>::establish(&url).await }.boxed()
    });
    (P::build(AsyncDieselConnectionManager::new_with_config(db.url(), config), size).await, opened)
}

fn register(conn: &mut impl AfterCommit, log: &Log, id: i32) -> QueryResult<()> {
    note(log, id).after_commit(conn)
}

/// `atomic!` on a pooled one by its name, `transaction`, and generic code.
async fn a_pool_of_deferring_connections<C: AsyncDatabase, P: AnyPool<C>>(db: &Scratch<C::Blocking>) {
    let _open = held_open::<C>(db);
    let (pool, opened) = pool::<C, P>(db, 1).await;
    let log = Log::new();
    for id in [1, 11] {
        let mut conn = pool.lend().await;
        assert!(register(&mut conn, &log, 0).is_err(), "outside of a transaction");
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, id);
            register(conn, &log, id + 1)?;
            C::insert(conn, id).await
        })
        .await
        .unwrap();
        let transaction = conn.transaction(async |conn| {
            register(conn, &log, id + 2)?;
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, id + 3);
                C::insert(conn, id + 1).await
            })
            .await?;
            assert!(!log.ran().contains(&(id + 2)));
            QueryResult::Ok(())
        });
        transaction.await.unwrap();
        let failed: QueryResult<()> = atomic!(conn = *conn, async {
            register(conn, &log, id + 4)?;
            note(&log, id + 5).after_rollback(conn)?;
            rolled_back()
        })
        .await;
        assert_eq!(failed, rolled_back());
    }
    assert_eq!(log.ran(), [1, 2, 3, 4, 6, 11, 12, 13, 14, 16]);
    assert_eq!(db.committed(), [1, 2, 11, 12]);
    if P::REUSES {
        assert_eq!(opened.load(Ordering::SeqCst), 1, "one connection, used again");
    }
}

/// E5: it was rolled back, and goes back into the pool clean.
async fn e05_a_panic_in_a_pooled_block_leaves_the_connection_good<C: AsyncDatabase, P: AnyPool<C>>(
    db: &Scratch<C::Blocking>,
) {
    let _open = held_open::<C>(db);
    let (pool, opened) = pool::<C, P>(db, 1).await;
    let log = Log::new();
    let mut conn = pool.lend().await;
    let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        panic!("in the block")
    }))
    .await;
    assert_eq!(panic, "in the block");
    drop(conn);
    let mut conn = pool.lend().await;
    if P::REUSES {
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
    assert!(!AsyncDeferredConnection::in_transaction(&mut conn));
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 2);
        C::insert(conn, 2).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![2], vec![2]));
}

/// E12: its hooks die with it, whichever way it was left open.
async fn e12_a_connection_with_an_open_transaction_is_thrown_away<C: AsyncDatabase, P: AnyPool<C>>(
    db: &Scratch<C::Blocking>,
) {
    /// The pooled one's own `transaction`, which is diesel-async's and has no guard.
    async fn leave_open<C: AsyncConnection + AfterCommit>(conn: &mut C, log: &Log) {
        let panic = panic_of(conn.transaction(async |conn| -> QueryResult<()> {
            conn.batch_execute("INSERT INTO witness VALUES (1)").await?;
            register(conn, log, 1)?;
            panic!("in the closure")
        }));
        assert_eq!(panic.await, "in the closure");
    }
    let _open = held_open::<C>(db);
    let (pool, opened) = pool::<C, P>(db, 1).await;
    let log = Log::new();
    for by_hand in [true, false] {
        let before = {
            let mut conn = pool.lend().await;
            if by_hand {
                Manager::begin_transaction(&mut *conn).await.unwrap();
                C::insert(&mut conn, 1).await.unwrap();
                register(&mut conn, &log, 1).unwrap();
                noting_rollback(&mut conn, &log, 2).unwrap();
            } else {
                leave_open(&mut conn, &log).await;
            }
            opened.load(Ordering::SeqCst)
        };
        let mut conn = tokio::time::timeout(SOON, pool.lend()).await.expect("a new one");
        assert_eq!(opened.load(Ordering::SeqCst), before + 1, "a new connection, by hand: {by_hand}");
        assert!(!AsyncDeferredConnection::in_transaction(&mut conn));
        assert_eq!(conn.pending(), []);
        atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
    }
    assert_eq!((log.ran(), db.committed()), (NOTHING.to_vec(), NOTHING.to_vec()));
}

/// A4, N13: as many hooks as rows, whoever fails.
async fn a04_many_tasks_on_few_connections<C: AsyncDatabase, P: AnyPool<C>>(db: &Scratch<C::Blocking>) {
    let _open = held_open::<C>(db);
    let (pool, _) = pool::<C, P>(db, 4).await;
    let (here, elsewhere) = (Log::new(), Log::new());
    let dispatcher = diesel_deferred::Dispatcher::builder().max_in_flight(3).build();
    let start = Arc::new(Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|id| {
            let (pool, here, elsewhere, dispatcher, start) =
                (pool.clone(), here.clone(), elsewhere.clone(), dispatcher.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                let mut conn = pool.lend().await;
                conn.set_dispatcher(dispatcher);
                // One after the other on SQLite, which waits for nobody.
                atomic!(conn, retries = 100, async {
                    note(&here, id);
                    spawned(elsewhere.clone(), id);
                    C::insert(conn, id).await?;
                    if id % 5 == 4 { rolled_back() } else { Ok(()) }
                })
                .await
            })
        })
        .collect();
    for (id, task) in tasks.into_iter().enumerate() {
        let result = tokio::time::timeout(SOON, task).await.expect("in time").expect("no panic");
        assert_eq!(result.is_ok(), id % 5 != 4, "{id}: {result:?}");
    }
    settled(&dispatcher).await;
    let committed = db.committed();
    assert_eq!(committed.len(), 16);
    for log in [here, elsewhere] {
        let mut ran = log.ran();
        ran.sort_unstable();
        assert_eq!(ran, committed);
    }
}

/// The other way round: a bare connection from the pool, wrapped for a while.
async fn around<C: AsyncDatabase, P: AnyBarePool<C>>(db: &Scratch<C::Blocking>) {
    async fn insert<C: AsyncDeferrable>(conn: &mut AsyncDeferredConnection<C>, id: i32) -> QueryResult<()> {
        conn.batch_execute(&format!("INSERT INTO witness VALUES ({id})")).await
    }
    let _open = held_open::<C>(db);
    let pool = P::build(AsyncDieselConnectionManager::new(db.url())).await;
    let (log, elsewhere) = (Log::new(), Log::new());
    for id in [1, 11] {
        let conn = &mut AsyncDeferredConnection::new(pool.lend().await);
        let dispatcher = one_at_a_time(conn);
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, id);
            spawned(elsewhere.clone(), id);
            let inner: QueryResult<()> = atomic!(conn, async {
                note(&log, id + 1);
                insert(conn, id + 1).await?;
                rolled_back()
            })
            .await;
            assert_eq!(inner, rolled_back());
            let sink = log.clone();
            conn.after_commit(async move |conn| {
                sink.push(id + 2);
                insert(conn, id + 2).await
            })?;
            insert(conn, id).await
        })
        .await
        .unwrap();
        let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
            insert(conn, id + 3).await?;
            note(&log, id + 3);
            panic!("in the block")
        }));
        assert_eq!(panic.await, "in the block");
        assert!(!conn.in_transaction());
        // E7: the proof is that of the connection below, through the pool.
        let swallowed = atomic!(conn, -> QueryResult<()>, async {
            note(&log, id + 4);
            insert(conn, id + 4).await?;
            assert!(conn.batch_execute("no SQL").await.is_err());
            Ok(())
        })
        .await;
        assert_eq!(swallowed.is_ok(), db.committed().contains(&(id + 4)));
        assert_eq!(swallowed.is_ok(), log.ran().contains(&(id + 4)));
        settled(&dispatcher).await;
    }
    assert_eq!(elsewhere.ran(), [1, 11]);
    let ran: Vec<_> = log.ran().into_iter().filter(|id| id % 10 != 5).collect();
    assert_eq!(ran, [1, 3, 11, 13]);
}

/// A pooled connection is a connection of diesel-async's too, with a `transaction` that knows
/// nothing of hooks.
#[tokio::test]
async fn n09_the_transactions_of_a_pooled_connection() {
    type Sqlite = diesel_deferred_tests::AsyncSqliteConnection;
    let db = Scratch::<diesel::SqliteConnection>::new();
    let (pool, _) = pool::<Sqlite, deadpool::Pool<AsyncDeferredConnection<Sqlite>>>(&db, 1).await;
    let mut conn = pool.get().await.unwrap();
    let log = Log::new();
    conn.transaction(async |conn| {
        register(conn, &log, 1)?;
        noting(conn, &log, 2)?;
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 3);
            Ok(())
        })
        .await?;
        assert_eq!(log.ran(), NOTHING);
        QueryResult::Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
}

/// T1: a pool of one connection in a test transaction, which diesel-async's manager is told to
/// begin.
#[tokio::test]
async fn t01_a_pool_of_test_transactions() {
    type Sqlite = diesel_deferred_tests::AsyncSqliteConnection;
    let db = Scratch::<diesel::SqliteConnection>::new();
    let mut config = ManagerConfig::<AsyncDeferredConnection<Sqlite>>::default();
    config.custom_setup = Box::new(|url| {
        let url = url.to_owned();
        async move {
            let mut conn = AsyncDeferredConnection::<Sqlite>::establish(&url).await?;
            conn.begin_test_transaction().await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        }
        .boxed()
    });
    let manager = AsyncDieselConnectionManager::new_with_config(db.url(), config);
    let pool = deadpool::Pool::builder(manager).max_size(1).build().expect("a pool");
    let log = Log::new();
    for id in [1, 2] {
        let mut conn = pool.get().await.unwrap();
        atomic!(conn, outermost, async {
            note(&log, id);
            Sqlite::insert(conn, id).await
        })
        .await
        .unwrap();
        assert_eq!(log.ran().len(), usize::try_from(id).unwrap(), "where the block returns");
    }
    let mut conn = pool.get().await.unwrap();
    assert!(Sqlite::insert(&mut conn, 1).await.is_err(), "in the same test transaction");
    assert_eq!((log.ran(), db.committed()), (vec![1, 2], NOTHING.to_vec()));
}
