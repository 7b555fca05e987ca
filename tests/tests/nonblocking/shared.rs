//! A7: a deferring connection can be shared, and held across an await, wherever the connection
//! below can.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch, note, refusal, rolled_back, witness};

use crate::fixture::{assert_clean, noting};

const fn is_sync_and_unpin<T: Sync + Unpin>() {}
const fn is_unpin<T: Unpin>() {}
const fn is_send<T: Send>(value: T) -> T {
    value
}

const _: () = {
    is_sync_and_unpin::<AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>>();
    #[cfg(feature = "postgres")]
    {
        is_sync_and_unpin::<AsyncDeferredConnection<diesel_async::AsyncPgConnection>>();
        is_sync_and_unpin::<AsyncDeferredConnection<&mut diesel_async::AsyncPgConnection>>();
    }
    // diesel-async's own is not `Sync`.
    #[cfg(feature = "mysql")]
    is_unpin::<AsyncDeferredConnection<diesel_async::AsyncMysqlConnection>>();
    is_unpin::<DeferredConnection<SqliteConnection>>();
};

/// A7: a handler that holds a `&conn` is `Send`, as those of a web framework have to be.
#[tokio::test]
async fn a07_a_future_that_holds_a_shared_connection_is_send() {
    async fn helper(conn: &AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>) -> usize {
        tokio::task::yield_now().await;
        conn.pending().len()
    }
    let db = Scratch::<SqliteConnection>::new();
    let conn = db.connect_async::<SyncConnectionWrapper<SqliteConnection>>().await;
    let handler = is_send(async move { helper(&conn).await });
    assert_eq!(tokio::spawn(handler).await.unwrap(), 0);
}

/// A7, A6: `spawn_blocking` as diesel-async's. What ran there was not seen: a raw ROLLBACK is found
/// out all the same.
#[tokio::test]
async fn a07_spawn_blocking() {
    use diesel::connection::SimpleConnection;

    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<SyncConnectionWrapper<SqliteConnection>>().await;
    let log = Log::new();
    let inserted = atomic!(conn, -> QueryResult<usize>, async {
        note(&log, 1);
        conn.spawn_blocking(|conn| diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn)).await
    });
    assert_eq!((inserted.await, log.ran(), db.committed()), (Ok(1), vec![1], vec![1]));
    let ended = atomic!(conn, -> QueryResult<()>, async {
        note(&log, 2);
        conn.spawn_blocking(|conn| conn.batch_execute("ROLLBACK")).await
    });
    assert_eq!(refusal(&ended.await), "EndedEarly");
    assert_clean(db, conn, &log).await;
}

/// A7: rows do not hold the connection on SQLite either: two streams at once, and a statement
/// meanwhile.
#[tokio::test]
async fn a07_streams_do_not_hold_the_connection_on_sqlite() {
    use diesel_async::RunQueryDsl;
    use futures_util::{StreamExt, TryStreamExt};

    type Conn = SyncConnectionWrapper<SqliteConnection>;
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<Conn>().await;
    let log = Log::new();
    let block = atomic!(conn, -> QueryResult<Vec<(i32, i32)>>, async {
        for id in 1..=3 {
            Conn::insert(conn, id).await?;
        }
        let query = || witness::table.select(witness::id).order(witness::id);
        let first = query().load_stream::<i32>(conn).await?;
        let second = query().load_stream::<i32>(conn).await?;
        note(&log, 1);
        Conn::insert(conn, 4).await?;
        first.zip(second).map(|(first, second)| Ok((first?, second?))).try_collect().await
    });
    assert_eq!(block.await, Ok(vec![(1, 1), (2, 2), (3, 3)]));
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2, 3, 4]));
    assert_clean(db, conn, &log).await;
}

/// Waits in its `Debug` until another thread looks at the list, too.
#[derive(Clone)]
struct Meeting(Arc<Barrier>, Arc<AtomicUsize>);

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0.wait();
        }
        f.write_str("met")
    }
}

#[deferred_task]
fn meet(_meeting: Meeting, _id: i32) {}

#[tokio::test]
async fn a07_two_threads_look_at_once_on_sqlite() {
    what_waits_is_seen_by_two_threads_at_once::<SyncConnectionWrapper<SqliteConnection>>(&Scratch::new()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a07_two_threads_look_at_once_on_postgres() {
    what_waits_is_seen_by_two_threads_at_once::<diesel_async::AsyncPgConnection>(&Scratch::new()).await;
}

/// A7: no list is short, and none is lost, because another thread reads it at the same time.
async fn what_waits_is_seen_by_two_threads_at_once<C: AsyncDatabase + Sync>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let meeting = Meeting(Arc::new(Barrier::new(2)), Arc::default());
    let block: QueryResult<()> = atomic!(conn, async {
        meet(meeting.clone(), 1);
        noting(conn, &log, 2)?;
        meet(meeting.clone(), 3);
        let shared = &*conn;
        let seen = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                meeting.0.wait();
                shared.pending()
            });
            [shared.pending(), other.join().expect("it looks")]
        });
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].len(), 3);
        assert!(seen[0][0].arguments.contains("met"), "{}", seen[0][0]);
        rolled_back()
    })
    .await;
    assert_eq!(block, rolled_back());
}

/// Pipelining by shared reference, as diesel-async documents it.
#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool};
    use diesel_async::{AsyncConnectionCore, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
    use diesel_deferred_tests::{NOTHING, record_async};
    use futures_util::{StreamExt, TryStreamExt};

    use super::*;

    type Conn = AsyncDeferredConnection<AsyncPgConnection>;

    const _: () = {
        const fn is_connection<C: AsyncConnectionCore>() {}
        is_connection::<&Conn>();
        is_connection::<&AsyncDeferredConnection<&mut AsyncPgConnection>>();
        is_connection::<&AsyncDeferredConnection<deadpool::Object<AsyncPgConnection>>>();
        is_connection::<
            &AsyncDeferredConnection<diesel_async::pooled_connection::bb8::PooledConnection<'_, AsyncPgConnection>>,
        >();
        is_connection::<
            &AsyncDeferredConnection<diesel_async::pooled_connection::mobc::PooledConnection<AsyncPgConnection>>,
        >();
    };

    async fn insert_two(mut conn: &Conn, first: i32, second: i32) -> QueryResult<(usize, usize)> {
        let insert = |id: i32| diesel::insert_into(witness::table).values(witness::id.eq(id));
        let first = insert(first).execute(&mut conn);
        let second = insert(second).execute(&mut conn);
        futures_util::try_join!(first, second)
    }

    /// A7, C21: it is seen, so that a block without tasks sends nothing besides; and the future of
    /// the block is `Send`.
    #[tokio::test]
    async fn a07_pipelining_by_shared_reference() {
        let db = Scratch::<PgConnection>::new();
        let mut conn = db.connect_async::<AsyncPgConnection>().await;
        let statements = record_async(&mut conn);
        let (conn, sent) = tokio::spawn(async move {
            let pairs = atomic!(conn, -> QueryResult<_>, async {
                futures_util::try_join!(insert_two(conn, 1, 2), insert_two(conn, 3, 4))
            });
            assert_eq!(pairs.await, Ok(((1, 1), (1, 1))));
            (conn, statements.take())
        })
        .await
        .unwrap();
        let [begin, .., commit] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((begin.as_str(), commit.as_str()), ("BEGIN", "COMMIT"));
        assert_eq!((sent.len(), db.committed()), (6, vec![1, 2, 3, 4]));
        let mut shared = &conn;
        let mut rows = witness::table.select(witness::id).load_stream::<i32>(&mut shared).await.unwrap();
        let count: i64 = witness::table.count().get_result(&mut shared).await.unwrap();
        assert_eq!((rows.next().await, count), (Some(Ok(1)), 4));
        assert_eq!(rows.try_collect::<Vec<i32>>().await, Ok(vec![2, 3, 4]));
    }

    /// A6: an error that is swallowed there, in a block without tasks, by a typed query and by raw
    /// SQL.
    #[tokio::test]
    async fn a06_a_swallowed_error_by_shared_reference() {
        let db = Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        for raw in [false, true] {
            let swallowed = atomic!(conn, -> QueryResult<()>, async {
                if raw {
                    assert!((&mut &*conn).batch_execute("INSERT INTO witness VALUES (1), (1)").await.is_err());
                } else {
                    assert!(insert_two(conn, 1, 1).await.is_err());
                }
                Ok(())
            })
            .await;
            assert_eq!(refusal(&swallowed), "RolledBack");
        }
        assert_eq!(db.committed(), NOTHING);
        assert_clean(&db, conn, &Log::new()).await;
    }

    /// A2: while a cancelled transaction is open, statements by shared reference are refused, too.
    #[tokio::test]
    async fn a02_a_cancelled_connection_refuses_shared_use() {
        let db = Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let log = Log::new();
        let (reached, is_reached) = tokio::sync::oneshot::channel();
        tokio::select! {
            ended = atomic!(conn, -> QueryResult<()>, async {
                insert_two(conn, 1, 2).await?;
                note(&log, 1);
                reached.send(()).expect("it is waited for");
                std::future::pending().await
            }) => panic!("{ended:?}"),
            reached = is_reached => reached.unwrap(),
        }
        let mut shared = &*conn;
        assert_eq!(refusal(&insert_two(shared, 3, 4).await), "Cancelled");
        assert_eq!(refusal(&witness::table.select(witness::id).load::<i32>(&mut shared).await), "Cancelled");
        assert_eq!(refusal(&shared.batch_execute("INSERT INTO witness VALUES (5)").await), "Cancelled");
        // Its ROLLBACK is the next outermost block's.
        conn.transaction(async |_| QueryResult::Ok(())).await.unwrap();
        assert_eq!(log.ran(), NOTHING);
        assert_clean(&db, conn, &log).await;
    }

    /// A7: one handler at a time: a pooled connection, wrapped, in a program whose helpers take a
    /// `&conn`.
    #[tokio::test]
    async fn a07_a_pooled_connection_by_shared_reference() {
        let db = Scratch::<PgConnection>::new();
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(db.url());
        let pool = deadpool::Pool::builder(manager).build().unwrap();
        let conn = &mut AsyncDeferredConnection::new(pool.get().await.unwrap());
        let log = Log::new();
        let block = atomic!(conn, -> QueryResult<(i32, i32)>, async {
            note(&log, 1);
            let mut shared = &*conn;
            let one = diesel::select(1_i32.into_sql::<diesel::sql_types::Integer>()).get_result(&mut shared);
            let two = diesel::select(2_i32.into_sql::<diesel::sql_types::Integer>()).get_result(&mut shared);
            futures_util::try_join!(one, two)
        });
        assert_eq!((block.await, log.ran()), (Ok((1, 2)), vec![1]));
    }
}
