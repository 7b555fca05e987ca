//! Where `atomic!(conn, async { … })` can stand: in spawned tasks, generic functions, recursion,
//! traits, beside others; and what the connection may be. Much of it is here to compile, most of
//! all because the future has to be `Send`.

use std::future::Future;
use std::pin::Pin;

use diesel::result::{Error, QueryResult};
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::deadpool::{Pool, PoolError};
use diesel_deferred::{AfterCommit, AsyncDeferrable, AsyncDeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Log, NOTHING, Scratch, note, on_every_async_database, rolled_back,
};
use tokio::sync::Barrier;

use crate::fixture::{assert_clean, noting, one_at_a_time, settled};

on_every_async_database! {
    in_a_spawned_task,
    a04_blocks_that_are_joined_do_not_see_each_other,
    a05_a_connection_moves_between_threads,
    in_recursion_and_traits,
    what_the_connection_may_be,
    captures,
    errors_of_ones_own,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

fn assert_send<F: Future + Send>(future: F) -> F {
    future
}

/// A function as services have them: generic, with `?`, tasks, nesting and retries.
async fn service<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, log: &Log, id: i32) -> QueryResult<i32> {
    atomic!(conn, retries = 1, async {
        C::insert(conn, id).await?;
        note(log, id);
        let inner: QueryResult<()> = atomic!(conn, async {
            C::insert(conn, id + 1).await?;
            note(log, id + 1);
            rolled_back()
        })
        .await;
        assert_eq!(inner, rolled_back());
        noting(conn, log, id + 2)?;
        Ok(id)
    })
    .await
}

/// A5: blocks in a task that may move from thread to thread: with and without a use of the
/// connection, which they may share only.
async fn in_a_spawned_task<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let mut conn = db.connect_async::<C>().await;
    let log = Log::new();
    let inner = log.clone();
    let conn = tokio::spawn(async move {
        assert_eq!(service(&mut conn, &inner, 1).await, Ok(1));
        atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await?;
        let mut counter = 0;
        atomic!(conn, -> QueryResult<()>, async {
            tokio::task::yield_now().await;
            note(&inner, 11);
            counter += 1;
            Ok(())
        })
        .await?;
        atomic!(conn, retries = counter, -> QueryResult<()>, async {
            assert_eq!(conn.pending(), []);
            tokio::task::yield_now().await;
            assert!(conn.last_report().is_clean());
            counter += 1;
            let id = 10 + i32::try_from(counter).expect("small");
            if counter == 2 {
                note(&inner, id);
            }
            C::insert(conn, id).await
        })
        .await?;
        conn.transaction(async |conn| noting(conn, &inner, 13)).await?;
        QueryResult::Ok(conn)
    })
    .await
    .expect("no panic");
    assert_eq!(log.ran(), [1, 3, 11, 12, 13]);
    assert_eq!(db.committed(), [1, 12]);
    assert_clean(db, &mut conn.unwrap(), &log).await;
}

/// A4: two connections, one task; each block waits for the other in its middle, so that they really
/// overlap.
async fn a04_blocks_that_are_joined_do_not_see_each_other<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let (a, b) = (&mut db.connect_async::<C>().await, &mut db.connect_async::<C>().await);
    let (of_a, of_b) = (Log::new(), Log::new());
    let barrier = &Barrier::new(2);
    let both = assert_send(async {
        tokio::join!(
            atomic!(a, -> QueryResult<()>, async {
                note(&of_a, 1);
                barrier.wait().await;
                note(&of_a, 2);
                noting(a, &of_a, 3)?;
                barrier.wait().await;
                assert_eq!(a.pending().len(), 3);
                C::insert(a, 1).await
            }),
            atomic!(b, -> QueryResult<()>, async {
                note(&of_b, 11);
                barrier.wait().await;
                noting(b, &of_b, 12)?;
                barrier.wait().await;
                assert_eq!(b.pending().len(), 2);
                rolled_back()
            }),
        )
    })
    .await;
    assert_eq!(both, (Ok(()), rolled_back()));
    assert_eq!((of_a.ran(), of_b.ran(), db.committed()), (vec![1, 2, 3], NOTHING.to_vec(), vec![1]));
    assert_clean(db, a, &of_a).await;
    assert_clean(db, b, &of_b).await;
}

/// A5: with hooks that wait: begun on one runtime's thread, gone on with and committed on another
/// one's.
async fn a05_a_connection_moves_between_threads<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    use diesel_async::TransactionManager;
    use diesel_deferred::AsyncDeferredTransactionManager as Manager;

    let mut conn = db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(&mut conn);
    let (log, elsewhere) = (Log::new(), Log::new());
    Manager::begin_transaction(&mut conn).await.unwrap();
    note(&log, 1).after_commit(&mut conn).unwrap();
    let (sink, handle) = (log.clone(), tokio::runtime::Handle::current());
    let outside = elsewhere.clone();
    let other = std::thread::spawn(move || {
        handle.block_on(async move {
            service(&mut conn, &sink, 10).await?;
            spawned(outside, 7).after_commit(&mut conn)?;
            assert_eq!(sink.ran(), NOTHING);
            QueryResult::Ok(conn)
        })
    });
    let mut conn = tokio::task::spawn_blocking(|| other.join().expect("no panic")).await.unwrap().unwrap();
    Manager::commit_transaction(&mut conn).await.unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 10, 12], vec![10]));
    settled(&dispatcher).await;
    assert_eq!(elsewhere.ran(), [7]);
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn countdown<'a, C: AsyncDatabase>(
    conn: &'a mut AsyncDeferredConnection<C>,
    log: &'a Log,
    id: i32,
) -> Boxed<'a, QueryResult<()>> {
    Box::pin(async move {
        atomic!(conn, async {
            note(log, id);
            C::insert(conn, id).await?;
            if id > 1 {
                // The failure stops here: what is above it goes on.
                let inner = countdown(conn, log, id - 1).await;
                assert_eq!(inner.is_err(), id - 1 == 20);
            }
            if id == 20 { rolled_back() } else { Ok(()) }
        })
        .await
    })
}

trait Repository {
    fn save(&mut self, log: &Log, id: i32) -> impl Future<Output = QueryResult<()>> + Send;
}

impl<C: AsyncDatabase> Repository for AsyncDeferredConnection<C> {
    async fn save(&mut self, log: &Log, id: i32) -> QueryResult<()> {
        atomic!(conn = self, async {
            note(log, id);
            C::insert(conn, id).await
        })
        .await
    }
}

trait ObjectSafe {
    fn save_boxed<'a>(&'a mut self, log: &'a Log, id: i32) -> Boxed<'a, QueryResult<()>>;
}

impl<R: Repository + Send> ObjectSafe for R {
    fn save_boxed<'a>(&'a mut self, log: &'a Log, id: i32) -> Boxed<'a, QueryResult<()>> {
        Box::pin(self.save(log, id))
    }
}

/// N1, N3: forty levels deep, of which twenty are rolled back; and the methods of traits.
async fn in_recursion_and_traits<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    assert_send(countdown(conn, &log, 40)).await.unwrap();
    assert_eq!(log.ran(), (21..41).rev().collect::<Vec<_>>());
    assert_eq!(db.committed(), (21..41).collect::<Vec<_>>());
    conn.save(&log, 50).await.unwrap();
    let object: &mut dyn ObjectSafe = conn;
    object.save_boxed(&log, 51).await.unwrap();
    assert_eq!(db.committed()[20..], [50, 51]);
    assert_clean(db, conn, &log).await;
}

/// A block on whatever can be borrowed as the connection.
async fn borrowed<C: AsyncDeferrable>(mut conn: impl AsMut<AsyncDeferredConnection<C>>, log: &Log) -> QueryResult<()> {
    atomic!(conn = conn.as_mut(), async {
        note(log, 1);
        Ok(())
    })
    .await
}

struct Service<C> {
    conn: AsyncDeferredConnection<C>,
    log: Log,
}

impl<C> AsMut<AsyncDeferredConnection<C>> for Service<C> {
    fn as_mut(&mut self) -> &mut AsyncDeferredConnection<C> {
        &mut self.conn
    }
}

/// An owned one, `&mut`, a boxed one, a field, an expression with `.await` and `?`, a pooled one by
/// name.
async fn what_the_connection_may_be<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let log = Log::new();
    let mut conn = db.connect_async::<C>().await;
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    let mut conn = Box::new(conn);
    atomic!(conn, -> QueryResult<()>, async { C::insert(conn, 2).await }).await.unwrap();
    let mut service = Service { conn: *conn, log: log.clone() };
    atomic!(conn = service.conn, async {
        note(&service.log, 3);
        C::insert(conn, 3).await
    })
    .await
    .unwrap();
    assert_send(borrowed(service, &log)).await.unwrap();
    atomic!(conn = db.connect_async::<C>().await, async {
        note(&log, 4);
        C::insert(conn, 4).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 3, 1, 4], vec![1, 2, 3, 4]));
}

/// `conn = pool.get().await?`: a failure to get one is an error of the block's.
#[tokio::test]
async fn a_connection_from_an_expression_that_may_fail() {
    #[derive(Debug)]
    enum Failure {
        Pool(PoolError),
        Database(Error),
    }
    impl From<PoolError> for Failure {
        fn from(error: PoolError) -> Self {
            Self::Pool(error)
        }
    }
    impl From<Error> for Failure {
        fn from(error: Error) -> Self {
            Self::Database(error)
        }
    }
    let db = Scratch::<diesel::SqliteConnection>::new();
    let manager = AsyncDieselConnectionManager::<AsyncDeferredConnection<AsyncSqliteConnection>>::new(db.url());
    let pool = Pool::builder(manager).max_size(1).build().unwrap();
    let log = Log::new();
    let (shared, inner) = (pool.clone(), log.clone());
    let work = async move || {
        atomic!(conn = shared.get().await?, -> Result<(), Failure>, async {
            note(&inner, 1);
            spawned(inner.clone(), 2).after_rollback(conn)?;
            AsyncSqliteConnection::insert(conn, 1).await?;
            Ok(())
        })
        .await
    };
    assert_send(work()).await.unwrap();
    let failed = work().await;
    assert!(matches!(failed, Err(Failure::Database(Error::DatabaseError(..)))), "1 is there: {failed:?}");
    pool.close();
    let failed = work().await;
    assert!(matches!(failed, Err(Failure::Pool(PoolError::Closed))), "{failed:?}");
    assert_eq!((log.ran().first(), db.committed()), (Some(&1), vec![1]));
}

fn register(conn: &mut impl AfterCommit, log: &Log, id: i32) -> QueryResult<()> {
    note(log, id).after_commit(conn)
}

/// What a block may do with the variables around it.
async fn captures<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let (mut list, owned) = (vec![1], vec![7, 8]);
    let borrowed = &mut list;
    let (moved, length) = atomic!(conn, -> QueryResult<_>, async {
        borrowed.push(2);
        for id in &owned {
            note(&log, *id);
        }
        Ok((owned, borrowed.len()))
    })
    .await
    .unwrap();
    assert_eq!((moved, length), (vec![7, 8], 2));
    list.push(3);
    let mut attempts = Vec::new();
    atomic!(conn, retries = 2, async {
        let id = attempts.len();
        attempts.push(id);
        note(&log, 9);
        QueryResult::Ok(())
    })
    .await
    .unwrap();
    assert_eq!((attempts, log.ran()), (vec![0], vec![7, 8, 9]));
    assert_clean(db, conn, &log).await;
    // `move` takes the connection, too, where it is a reference.
    let text = String::from("moved in");
    let future = atomic!(conn, async move {
        register(conn, &log, i32::try_from(text.len()).unwrap())?;
        tokio::task::yield_now().await;
        QueryResult::Ok((text, log))
    });
    let (text, log) = assert_send(future).await.unwrap();
    assert_eq!((text.as_str(), log.ran(), list), ("moved in", vec![7, 8, 9, 8], vec![1, 2, 3]));
}

/// `E: From<diesel::result::Error>` is all that is asked of an error.
async fn errors_of_ones_own<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let boxed = atomic!(conn, -> Result<(), Box<dyn std::error::Error + Send + Sync>>, async {
        note(&log, 1);
        C::insert(conn, 1).await?;
        let _: i32 = "no number".parse()?;
        Ok(())
    })
    .await;
    assert_eq!(boxed.unwrap_err().to_string(), "invalid digit found in string");
    assert_eq!((log.ran(), db.committed()), (NOTHING.to_vec(), NOTHING.to_vec()));
    assert_clean(db, conn, &log).await;
}
