//! Rows that somebody else has locked, on databases with row locks.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::cancel_task;
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, eventually};

use crate::support::{committed, hold, with, worker};

/// [`eventually`], inside of a transaction of a blocking connection.
fn eventually_here(what: &str, condition: impl FnMut() -> bool) {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(eventually(what, condition)));
}

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
            let first = lease_end();
            eventually_here("the lease is extended", || lease_end() >= first + 2_000);
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

/// The same of the ends of all others, where the table is so small that its rows are read faster one after
/// the other than by their ids.
async fn a_locked_row_holds_up_no_end<A: AsyncDatabase>() {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes));
    let texts = ["locked", "one", "two", "three", "four", "five"];
    let ids = committed(db, |conn| {
        texts.map(|text| hold(text).after_commit(conn)).into_iter().collect::<QueryResult<Vec<_>>>()
    });
    notes.wait_until(|all| with(all, "begin ").len() == texts.len()).await;
    let mut open = db.patient();
    open.build_transaction()
        .run(|conn| {
            assert_eq!(<A::Blocking as Database>::tell(conn, cancel_task(ids[0]))?, 1);
            texts[1..].iter().for_each(|text| notes.add(format!("go {text}")));
            let mut observer = db.observer();
            let left = "SELECT COUNT(*) AS number FROM deferred_tasks";
            eventually_here("the ends are told", || <A::Blocking as Database>::number(&mut observer, left) <= 1);
            QueryResult::Ok(())
        })
        .expect("committed");
    at_work.stop().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_d18_a_locked_row_holds_up_no_end() {
    a_locked_row_holds_up_no_end::<diesel_async::AsyncPgConnection>().await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_d18_a_locked_row_holds_up_no_end() {
    a_locked_row_holds_up_no_end::<diesel_async::AsyncMysqlConnection>().await;
}

/// RULES D9, D18: InnoDB looks at the next key of the index, too, when the next call of a key starts. A
/// transaction that has ended the running one there, and takes its time, keeps no end from being told.
#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_d9_an_end_does_not_wait_for_the_key_next_to_its_own() {
    let db = &Scratch::<MysqlConnection>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<diesel_async::AsyncMysqlConnection>(db, &notes));
    committed(db, |conn| {
        for (text, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            hold(text).key(key).after_commit(conn)?;
        }
        hold("none").after_commit(conn)
    });
    notes.wait_until(|all| with(all, "begin ").len() == 3).await;
    let mut open = db.patient();
    let mut observer = db.observer();
    let newest = "SELECT MAX(id) AS number FROM information_schema.processlist WHERE db = DATABASE()";
    let newest_before = MysqlConnection::number(&mut observer, newest);
    // It is to lock that row alone.
    diesel::sql_query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(&mut open).expect("set");
    open.transaction(|conn| {
        diesel::sql_query("DELETE FROM deferred_tasks WHERE payload LIKE '%b1%'").execute(conn)?;
        notes.add("go a1");
        notes.add("go none");
        let left = "SELECT COUNT(*) AS number FROM deferred_tasks WHERE payload LIKE '%a1%' OR payload LIKE '%none%'";
        eventually_here("the ends are told", || MysqlConnection::number(&mut observer, left) == 0);
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    })
    .expect_err("rolled back");
    assert_eq!(MysqlConnection::number(&mut observer, newest), newest_before, "the worker has lost its connection");
    notes.add("go");
    db.wait_for_tasks(<[_]>::is_empty).await;
    let mut ends: Vec<_> = with(&notes.all(), "end ").into_iter().map(str::to_owned).collect();
    ends.sort_unstable();
    assert_eq!(ends, ["a1", "a2", "b1", "b2", "none"]);
    at_work.stop().await;
}
