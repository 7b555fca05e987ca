//! Tasks of a key, and transactions beside them that are open for long.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel_deferred::{TaskId, cancel_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, eventually, on_every_async_server};
use tokio::runtime::Handle;
use tokio::task;

use crate::support::{committed, hold, note, tell, with, worker};

on_every_async_server!(
    calls_that_are_committed_late_keep_their_order,
    a_call_behind_one_that_was_cancelled_is_next,
    a_locked_row_keeps_no_other_key_with_a_dead_worker,
);

/// Has `10` run while the transactions of `5` and `6`, and of `8`, are open. Returns the id of `5` when
/// the worker has seen that they have to wait.
async fn called_before_what_runs<A: AsyncDatabase>(db: &Scratch<A::Blocking>, notes: &Notes) -> TaskId {
    let wait = |count| task::block_in_place(|| Handle::current().block_on(notes.wait_for(count)));
    let first = committed(db, |conn| {
        let first = note("5").key("k").after_commit(conn)?;
        note("6").key("k").after_commit(conn)?;
        committed(db, |conn| {
            note("8").key("k").after_commit(conn)?;
            committed(db, |conn| hold("10").key("k").after_commit(conn));
            wait(1);
            Ok(())
        });
        Ok(first)
    });
    let states = ["blocked", "blocked", "blocked", "running"];
    db.wait_for_tasks(|rows| rows.iter().map(|row| &*row.state).eq(states)).await;
    first
}

/// D9: the order is that of the calls, also of those whose transactions commit when a later one runs.
async fn calls_that_are_committed_late_keep_their_order<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_millis(20)));
    called_before_what_runs::<A>(db, &notes).await;
    notes.add("go 10");
    assert_eq!(notes.wait_for(6).await[2..], ["end 10", "5", "6", "8"]);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
}

/// D9: nobody waits for a call that is gone; nor where it had been overtaken.
async fn a_call_behind_one_that_was_cancelled_is_next<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_millis(20)));
    let first = called_before_what_runs::<A>(db, &notes).await;
    assert_eq!(tell(db, cancel_task(first)), 1);
    // A worker has looked who is next.
    let freed = "SELECT count(*) AS number FROM deferred_tasks WHERE freed_key IS NOT NULL";
    let mut observer = db.observer();
    eventually("nothing is freed", || A::Blocking::number(&mut observer, freed) == 0).await;
    notes.add("go 10");
    assert_eq!(notes.wait_for(5).await[2..], ["end 10", "6", "8"]);
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "cancelled").await;
    at_work.stop().await;
}

/// D9: "head-of-line blocks only that key": also where the tasks of a dead worker are taken back, and
/// somebody has locked the next row of a key of theirs.
async fn a_locked_row_keeps_no_other_key_with_a_dead_worker<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let next = committed(db, |conn| {
        hold("1").key("k").max_attempts(1).after_commit(conn)?;
        let next = hold("2").key("k").after_commit(conn)?;
        hold("3").key("l").after_commit(conn)?;
        hold("4").after_commit(conn)?;
        Ok(next)
    });
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)));
    notes.wait_until(|all| with(all, "begin ").len() == 3).await;
    at_work.kill().await;
    let mut other = db.observer();
    let next = match A::Blocking::NAME {
        "PostgreSQL" => format!("'{next}'"),
        _ => format!("UNHEX('{}')", next.to_string().replace('-', "")),
    };
    other.batch_execute(&format!("BEGIN; SELECT 1 FROM deferred_tasks WHERE id = {next} FOR UPDATE")).expect("locked");
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)));
    notes.wait_until(|all| with(all, "begin ").len() == 5).await;
    let all = notes.all();
    let mut again = with(&all, "begin ").split_off(3);
    again.sort_unstable();
    assert_eq!(again, ["3", "4"]);
    other.batch_execute("COMMIT").expect("unlocked");
    notes.add("go");
    notes.wait_until(|all| with(all, "end ").contains(&"2")).await;
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "dead").await;
    at_work.stop().await;
}
