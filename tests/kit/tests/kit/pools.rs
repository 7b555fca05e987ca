//! `TestPool`: a pool of one connection in a test transaction.

use diesel::prelude::*;
use diesel::r2d2::ConnectionManager;
use diesel_async::pooled_connection::{bb8, deadpool, mobc};
use diesel_deferred::testing::{Mode, TestPool, TestablePool};
use diesel_deferred::{
    AsyncDeferredConnection, BoxError, DeferredConnection, assert_deferred, assert_enqueued, atomic, deferred_task,
    refute_enqueued,
};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, rolled_back};

use crate::tasks::plain;

/// What a pool is asked for.
#[deferred_task(durable)]
pub(crate) async fn pooled(#[state] notes: Notes, id: i32) -> Result<(), BoxError> {
    notes.add(format!("pooled {id}"));
    Ok(())
}

/// A service that has its pool.
macro_rules! on_every_pool {
    ($database:ident, $conn:ty, $blocking:ty) => {
        mod $database {
            use super::*;

            on_every_pool!(@ $conn, $blocking, bb8);
            on_every_pool!(@ $conn, $blocking, deadpool);
            on_every_pool!(@ $conn, $blocking, mobc);

            /// T11
            #[test]
            fn r2d2() {
                let db = Scratch::<$blocking>::with_tasks();
                let notes = Notes::default();
                type Pool = diesel::r2d2::Pool<ConnectionManager<DeferredConnection<$blocking>>>;
                let test = TestPool::<Pool>::open_blocking(db.url(), |dispatcher, _| dispatcher.state(notes.clone()))
                    .expect("open");
                {
                    let conn = &mut *test.pool().get().expect("a connection");
                    atomic!(conn, -> QueryResult<()>, {
                        <$blocking as Database>::insert(conn, 1)?;
                        plain(notes.clone(), 1, "");
                        pooled(1);
                        let refused: QueryResult<()> = atomic!(conn, {
                            <$blocking as Database>::insert(conn, 2)?;
                            pooled(2);
                            rolled_back()
                        });
                        assert_eq!(refused, rolled_back());
                        Ok(())
                    })
                    .unwrap();
                }
                assert_enqueued!(test, pooled(_).times(1));
                let drained = test.drain().run();
                assert!(drained.is_clean() && drained.ran() == 1, "{drained}");
                refute_enqueued!(test, pooled(_));
                assert_eq!(notes.all(), ["plain 1 ", "pooled 1"]);
                test.set_mode(Mode::Manual);
                plain(notes.clone(), 3, "").after_commit_or_now(&mut *test.pool().get().expect("a connection")).unwrap();
                assert_deferred!(test, plain(_, 3, _));
                assert_eq!(db.committed(), Vec::<i32>::new(), "nothing is left");
                assert!(db.tasks().is_empty());
            }
        }
    };
    (@ $conn:ty, $blocking:ty, $pool:ident) => {
        /// T11
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $pool() {
            let db = Scratch::<$blocking>::with_tasks();
            type Pool = super::super::pools::$pool::Pool<AsyncDeferredConnection<$conn>>;
            let notes = Notes::default();
            let test = TestPool::<Pool>::open(db.url(), |dispatcher, pool| {
                dispatcher.state(notes.clone()).state(pool.clone())
            })
            .await
            .expect("open");
            let task = on_the_pool(test.pool().clone(), notes.clone());
            // A handler of a service, on a task of its own.
            tokio::spawn(async move {
                let mut conn = task.0.get().await.expect("a connection");
                atomic!(conn, -> QueryResult<()>, async {
                    <$conn as AsyncDatabase>::insert(conn, 1).await?;
                    plain(task.1.clone(), 1, "");
                    pooled(1);
                    let refused: QueryResult<()> = atomic!(conn, async {
                        <$conn as AsyncDatabase>::insert(conn, 2).await?;
                        pooled(2);
                        rolled_back()
                    })
                    .await;
                    assert_eq!(refused, rolled_back());
                    Ok(())
                })
                .await
                .unwrap();
            })
            .await
            .unwrap();
            test.dispatcher().idle().await;
            assert_enqueued!(test, pooled(_).times(1)).await;
            let drained = test.drain().run().await;
            assert!(drained.is_clean() && drained.ran() == 1, "{drained}");
            refute_enqueued!(test, pooled(_)).await;
            assert_eq!(notes.all(), ["plain 1 ", "pooled 1"]);
            test.set_mode(Mode::Manual).await;
            plain(notes.clone(), 3, "").after_commit_or_now(&mut test.pool().get().await.expect("a connection")).unwrap();
            assert_deferred!(test, plain(_, 3, _)).await;
            assert_eq!(db.committed(), Vec::<i32>::new(), "nothing is left");
            assert!(db.tasks().is_empty());
        }
    };
}

fn on_the_pool<P: TestablePool>(pool: P, notes: Notes) -> (P, Notes) {
    (pool, notes)
}

on_every_pool!(sqlite, diesel_deferred_tests::AsyncSqliteConnection, SqliteConnection);
#[cfg(feature = "postgres")]
on_every_pool!(postgres, diesel_async::AsyncPgConnection, PgConnection);
#[cfg(feature = "mysql")]
on_every_pool!(mysql, diesel_async::AsyncMysqlConnection, MysqlConnection);
