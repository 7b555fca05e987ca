//! A3, A1: dropped while hooks are awaited behind the COMMIT.

use std::time::Duration;

use diesel::result::QueryResult;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, Dispatcher, FailureCause, atomic};
use diesel_deferred_tests::{
    Log, Scratch, Session, assert_clean_async, cut_at, note, on_every_async_database, rolled_back, traced,
};
use tokio::sync::Notify;

use crate::harness::{note_async, note_blocking};

on_every_async_database! {
    a03_tasks_behind_the_awaited_closure_still_run,
    a03_closures_that_never_run_are_told_of,
    a03_rollback_closures_too,
    a03_dropped_again_while_they_catch_up,
    a03_hooks_of_both_kinds_wait,
}

type Conn<C> = AsyncDeferredConnection<C>;

/// A block that commits row 1 and is dropped in hook 1; hooks 2 to 6 are behind that.
async fn dropped<C: Session>(conn: &mut Conn<C>, log: &Log, there: &'static Notify) {
    let dispatcher = Dispatcher::builder().build();
    conn.set_dispatcher(dispatcher.clone());
    let block = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        conn.after_commit(async move |_| {
            there.notify_one();
            std::future::pending::<()>().await;
        })?;
        note(log, 2);
        let closure = log.clone();
        conn.after_commit(async move |_| closure.push(5))?;
        note_async(log.clone(), 3);
        note_blocking(log, 4);
        let closure = log.clone();
        conn.after_commit(async move |_| closure.push(6))
    });
    cut_at(block, there).await;
    assert!(dispatcher.shutdown(Duration::from_secs(20)).await.is_clean());
    conn.set_dispatcher(Dispatcher::builder().build());
}

fn notify() -> &'static Notify {
    Box::leak(Box::new(Notify::new()))
}

fn sorted(log: &Log) -> Vec<i32> {
    let mut ran = log.ran();
    ran.sort();
    ran
}

async fn a03_tasks_behind_the_awaited_closure_still_run<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    dropped(conn, &log, notify()).await;
    assert_eq!(sorted(&log), [2, 3, 4]);
    assert_eq!(db.committed(), [1]);
    assert!(!conn.is_broken(), "it is clean");
    let report = conn.last_report();
    assert!(matches!(report.failures()[0].cause, FailureCause::Cancelled), "{report}");
    assert_eq!((report.failures().len(), report.ran()), (1, 4));
    // Closures are given the connection when it is used again, before anything else.
    let seen = atomic!(conn, -> QueryResult<Vec<i32>>, async { Ok(log.ran()) }).await.unwrap();
    assert_eq!(seen[3..], [5, 6]);
    assert_clean_async(db, conn, &log).await;
    assert_eq!(sorted(&log), [2, 3, 4, 5, 6]);
}

async fn a03_closures_that_never_run_are_told_of<C: Session>(db: &Scratch<C::Blocking>) {
    for unwrapped in [true, false] {
        let mut conn = db.connect_async::<C>().await;
        let log = Log::new();
        if unwrapped {
            dropped(&mut conn, &log, notify()).await;
        } else {
            rolled_back_and_dropped(&mut conn, &log, notify()).await;
        }
        let ran = log.ran();
        let ((), events) = traced(|| if unwrapped { drop(conn.into_inner()) } else { drop(conn) });
        let lost = events.matches("the connection was dropped before it was used again").count();
        assert_eq!(lost, if unwrapped { 2 } else { 1 }, "{events}");
        assert!(events.contains("after_commit.rs"), "where it was registered: {events}");
        assert_eq!(log.ran(), ran);
    }
}

/// A block that rolls row 7 back and is dropped in a rollback hook; closure 54 and task 53 are
/// behind that.
async fn rolled_back_and_dropped<C: Session>(conn: &mut Conn<C>, log: &Log, there: &'static Notify) {
    let block = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 7).await?;
        // The latest runs first.
        let closure = log.clone();
        conn.after_rollback(async move |_| closure.push(54))?;
        note(log, 53).after_rollback(conn)?;
        conn.after_rollback(async move |_| {
            there.notify_one();
            std::future::pending::<()>().await;
        })?;
        rolled_back()
    });
    cut_at(block, there).await;
}

async fn a03_rollback_closures_too<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    rolled_back_and_dropped(conn, &log, notify()).await;
    assert_eq!(log.ran(), [53]);
    assert!(matches!(conn.last_report().failures()[0].cause, FailureCause::Cancelled));
    atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
    assert_eq!(log.ran(), [53, 54]);
    assert_clean_async(db, conn, &log).await;
}

async fn a03_dropped_again_while_they_catch_up<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let there = notify();
    let closure = log.clone();
    let block = atomic!(conn, -> QueryResult<()>, async {
        for n in 1..4 {
            let closure = closure.clone();
            conn.after_commit(async move |_| {
                if n < 3 {
                    there.notify_one();
                    std::future::pending::<()>().await;
                }
                closure.push(n);
            })?;
        }
        C::insert(conn, 1).await
    });
    cut_at(block, there).await;
    cut_at(atomic!(conn, -> QueryResult<()>, async { C::insert(conn, 8).await }), there).await;
    assert_eq!(log.ran(), [0; 0]);
    assert!(!conn.is_broken());
    atomic!(conn, -> QueryResult<()>, async { C::insert(conn, 9).await }).await.unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![3], vec![1, 9]));
    assert_clean_async(db, conn, &log).await;
}

/// Rollback hooks wait behind one that has committed a block of its own, whose hooks wait too:
/// dropped again, all still run.
async fn a03_hooks_of_both_kinds_wait<C: Session>(db: &Scratch<C::Blocking>) {
    let mut conn = db.connect_async::<C>().await;
    let log = Log::new();
    let there = notify();
    let sink = log.clone();
    let stop = async move || {
        there.notify_one();
        std::future::pending::<()>().await;
    };
    let block = atomic!(conn, -> QueryResult<()>, async {
        let late = sink.clone();
        conn.after_rollback(async move |_| late.push(54))?;
        let inner = sink.clone();
        conn.after_rollback(async move |conn| -> QueryResult<()> {
            atomic!(conn, async {
                C::insert(conn, 1).await?;
                conn.after_commit(async move |_| stop().await)?;
                conn.after_commit(async move |_| stop().await)?;
                let closure = inner.clone();
                conn.after_commit(async move |_| closure.push(2))
            })
            .await
        })?;
        rolled_back()
    });
    cut_at(block, there).await;
    cut_at(atomic!(conn, -> QueryResult<()>, async { Ok(()) }), there).await;
    atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
    assert_eq!(sorted(&log), [2, 54]);
    assert_clean_async(db, &mut conn, &log).await;
}
