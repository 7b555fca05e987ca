//! Rows that somebody else has locked, on databases with row locks.

use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_deferred::cancel_task;
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work};

use crate::support::{committed, hold, with, worker};

/// A transaction that cancels a task, and takes its time, holds up the lease of that one and of no
/// other.
async fn a_locked_row_holds_up_no_other<A: AsyncDatabase>() {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)));
    let ids = committed(db, |conn| {
        ["locked", "free"].map(|text| hold(text).after_commit(conn)).into_iter().collect::<QueryResult<Vec<_>>>()
    });
    notes.wait_until(|all| with(all, "begin ").len() == 2).await;
    let mut open = db.patient();
    open.build_transaction()
        .run(|conn| {
            assert_eq!(<A::Blocking as Database>::tell(conn, cancel_task(ids[0]))?, 1);
            let lease_end = || {
                let of_free = "SELECT lease_until_ms AS number FROM deferred_tasks WHERE payload LIKE '%free%'";
                <A::Blocking as Database>::number(&mut db.observer(), of_free)
            };
            let (begin, first) = (Instant::now(), lease_end());
            while lease_end() < first + 2_000 {
                assert!(begin.elapsed() < Duration::from_secs(20), "the lease is not extended");
                std::thread::sleep(Duration::from_millis(20));
            }
            QueryResult::Ok(())
        })
        .expect("committed");
    notes.add("go free");
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "cancelled").await;
    assert_eq!(with(&notes.all(), "end "), ["free"]);
    at_work.stop().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_locked_row_holds_up_no_other() {
    a_locked_row_holds_up_no_other::<diesel_async::AsyncPgConnection>().await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_a_locked_row_holds_up_no_other() {
    a_locked_row_holds_up_no_other::<diesel_async::AsyncMysqlConnection>().await;
}
