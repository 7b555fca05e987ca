//! When hooks run, and with what.

use diesel::result::QueryResult;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch, note, on_every_async_database, rolled_back};

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    tokio::task::yield_now().await;
    log.push(id);
}

/// C1: a task has not run at the last statement of the block; a plain one has when `atomic!` returns.
async fn c01_a_plain_task_runs_before_the_block_returns<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        assert!(log.ran().is_empty());
        Ok(())
    })
    .await
    .expect("commits");
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
}

/// C2.
async fn c02_a_rolled_back_block_runs_nothing<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        rolled_back()
    })
    .await;
    assert!(result.is_err());
    assert_eq!((log.ran(), db.committed()), (Vec::<i32>::new(), Vec::<i32>::new()));
}

on_every_async_database!(c01_a_plain_task_runs_before_the_block_returns, c02_a_rolled_back_block_runs_nothing);

#[tokio::test(flavor = "multi_thread")]
async fn spawned_inside_tokio_spawn() {
    let db = Scratch::<diesel::SqliteConnection>::new();
    let mut conn = db.connect_async::<diesel_deferred_tests::AsyncSqliteConnection>().await;
    let log = Log::new();
    let inner = log.clone();
    tokio::spawn(async move {
        let mut counter = 0;
        atomic!(conn, retries = 3, async {
            <diesel_deferred_tests::AsyncSqliteConnection as AsyncDatabase>::insert(conn, 1).await?;
            counter += 1;
            spawned(inner.clone(), 7);
            if counter > 0 {
                spawned(inner.clone(), 8)
            }
            QueryResult::Ok(())
        })
        .await
    })
    .await
    .expect("no panic")
    .expect("commits");
    diesel_deferred::Dispatcher::global().shutdown(std::time::Duration::from_secs(5)).await;
    let mut ran = log.ran();
    ran.sort();
    assert_eq!(ran, [7, 8]);
}
