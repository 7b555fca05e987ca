//! A2, A5: on a runtime of one thread diesel-async cannot wait for a statement on SQLite that is
//! dropped, and panics. That must not become worse.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{AsyncDatabase, AsyncSqliteConnection, Log, Scratch, assert_clean_async, note, refusal};
use tokio::sync::Notify;

type Conn = AsyncDeferredConnection<AsyncSqliteConnection>;

/// The panic is diesel-async's, and the only one: the connection refuses use, and the next block
/// cleans up.
#[tokio::test(flavor = "current_thread")]
async fn a02_sqlite_on_a_runtime_of_one_thread() {
    let db = Scratch::<SqliteConnection>::new();
    let mut conn: Conn = db.connect_async().await;
    let log = Log::new();
    // The insert is under way for as long as another connection writes.
    SimpleAsyncConnection::batch_execute(&mut conn, "PRAGMA busy_timeout = 20000").await.unwrap();
    let mut writer = db.observer();
    SimpleConnection::batch_execute(&mut writer, "BEGIN IMMEDIATE").unwrap();
    let there = Notify::new();
    let mut block = Box::pin(atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        note(&log, 51).after_rollback(conn)?;
        there.notify_one();
        AsyncSqliteConnection::insert(conn, 1).await
    }));
    tokio::select! {
        biased;
        result = block.as_mut() => panic!("{result:?}"),
        () = there.notified() => {}
    }
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(block))).unwrap_err();
    let message =
        dropped.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| dropped.downcast_ref().cloned());
    assert!(message.is_some_and(|text: String| text.contains("multi-threaded runtime")));
    assert_eq!(log.ran(), [51]);
    assert!(conn.is_broken());
    assert_eq!(refusal(&AsyncSqliteConnection::insert(&mut conn, 2).await), "Cancelled");
    let next = atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await;
    assert_eq!(refusal(&next), "Cancelled", "the insert is still under way");
    assert!(conn.is_broken());

    SimpleConnection::batch_execute(&mut writer, "ROLLBACK").unwrap();
    let recovered = async {
        while atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recovered).await.expect("it recovers");
    assert!(!db.committed().contains(&1));
    assert_clean_async(&db, &mut conn, &log).await;
    assert_eq!(log.ran(), [51]);
}

/// A3, A5: hooks that are dropped while they are awaited cost nothing there.
#[tokio::test(flavor = "current_thread")]
async fn a03_dropped_in_a_hook_on_a_runtime_of_one_thread() {
    let db = Scratch::<SqliteConnection>::new();
    let mut conn: Conn = db.connect_async().await;
    let log = Log::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        conn.after_commit(async |_| std::future::pending::<()>().await)?;
        note(&log, 1);
        AsyncSqliteConnection::insert(conn, 1).await
    });
    let dropped = tokio::time::timeout(Duration::from_millis(300), block).await;
    assert!(dropped.is_err());
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
    assert_clean_async(&db, &mut conn, &log).await;
}
