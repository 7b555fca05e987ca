//! What those do who look after the tasks: cancel, replay, pause, and what is kept for how long.

use std::time::Duration;

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{cancel_task, deferred_task, pause_queue, replay_task, resume_queue};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{
    committed, hold, hold_blocking, lease_end, lease_extended, note, states, tell, words, worker, worker_of,
};

on_every_async_database!(
    what_waits_and_is_cancelled_never_runs,
    an_async_task_that_runs_is_stopped,
    a_blocking_task_runs_to_its_end_and_is_not_tried_again,
    a_paused_queue_waits,
    two_may_pause_a_queue_at_once,
    what_ended_is_kept_for_so_long,
);

/// Fails when it is let go.
#[deferred_task(durable)]
fn fail_at_the_end(#[state] notes: &Notes) -> Result<(), &'static str> {
    notes.add("begin");
    while !notes.all().iter().any(|note| note == "go") {
        std::thread::sleep(Duration::from_millis(5));
    }
    notes.add("end");
    Err("failed")
}

/// Q7: "cancel pending, in tx too".
async fn what_waits_and_is_cancelled_never_runs<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let ids = words(db, &["cancelled", "cancelled in vain"]);
    let scheduled = committed(db, |conn| note("later").delay(Duration::from_millis(1)).after_commit(conn));
    assert_eq!(tell(db, cancel_task(ids[0])), 1);
    assert_eq!(tell(db, cancel_task(ids[0])), 0, "it is cancelled already");
    assert_eq!(tell(db, cancel_task(scheduled)), 1);
    let rolled_back = db.patient().transaction::<(), Error, _>(|conn| {
        assert_eq!(A::Blocking::tell(conn, cancel_task(ids[1]))?, 1);
        Err(Error::RollbackTransaction)
    });
    assert!(rolled_back.is_err());
    // In the transaction of the call itself it is not stored yet, and there is nothing to be
    // cancelled.
    assert_eq!(states(db), ["cancelled", "ready", "cancelled"]);
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    notes.wait_for(1).await;
    words(db, &["after"]);
    assert_eq!(notes.wait_for(2).await, ["cancelled in vain", "after"]);
    // It can be had again.
    assert_eq!(tell(db, replay_task(scheduled)), 1);
    assert_eq!(notes.wait_for(3).await[2], "later");
    at_work.stop().await;
    assert_eq!(states(db), ["cancelled"]);
}

/// Q7: "cancel running, in tx too".
async fn an_async_task_that_runs_is_stopped<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let id = committed(db, |conn| hold("a").after_commit(conn));
    let at_work = at_work!(worker_of::<A>(db, &notes, 1).lease(Duration::from_secs(1)));
    notes.wait_for(1).await;
    let cancelled = db.patient().transaction(|conn| A::Blocking::tell(conn, cancel_task(id)));
    assert_eq!(cancelled.expect("committed"), 1);
    let rows = db.wait_for_tasks(|rows| rows[0].state == "cancelled").await;
    assert_eq!(rows[0].error, None, "it is no failure");
    // Its runner is free.
    words(db, &["after"]);
    assert_eq!(notes.wait_for(2).await, ["begin a", "after"]);
    assert_eq!(tell(db, cancel_task(id)), 0, "it has ended");
    let report = at_work.stop().await;
    assert_eq!((report.released, report.abandoned.len()), (0, 0));
}

/// Q7. A thread cannot be stopped.
async fn a_blocking_task_runs_to_its_end_and_is_not_tried_again<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let ids = committed(db, |conn| Ok([fail_at_the_end().after_commit(conn)?, hold_blocking("b").after_commit(conn)?]));
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)));
    notes.wait_for(2).await;
    for id in ids {
        assert_eq!(tell(db, cancel_task(id)), 1);
    }
    // Its lease is extended all the same.
    lease_extended(db, lease_end(db), 1).await;
    notes.add("go");
    let rows = db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "cancelled").await;
    assert_eq!(rows[0].error.as_deref(), Some("failed"));
    assert_eq!(notes.all().iter().filter(|note| note.starts_with("end")).count(), 2);
    at_work.stop().await;
}

/// Q13: "pause/resume".
async fn a_paused_queue_waits<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).queue("other", 5));
    committed(db, |conn| hold("a").after_commit(conn));
    notes.wait_for(1).await;
    assert_eq!(tell(db, pause_queue("default")), 1);
    // It is paused already: what that counts as depends on the database.
    tell(db, pause_queue("default"));
    committed(db, |conn| {
        note("paused").priority(-9).after_commit(conn)?;
        note("not paused").queue("other").after_commit(conn)
    });
    // What runs goes on.
    notes.wait_until(|all| all.len() == 2).await;
    notes.add("go a");
    db.wait_for_tasks(|rows| rows.len() == 1).await;
    assert_eq!(notes.all(), ["begin a", "not paused", "go a", "end a"]);
    assert_eq!(states(db), ["ready"]);
    assert_eq!(tell(db, resume_queue("default")), 1);
    assert_eq!(tell(db, resume_queue("default")), 0);
    assert_eq!(notes.wait_for(5).await[4], "paused");
    at_work.stop().await;
}

/// FINDINGS C13: "two sessions that pause one queue at once: a unique violation".
async fn two_may_pause_a_queue_at_once<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    for at in 0..10 {
        let queue = format!("queue {at}");
        let (begins, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let mut first = db.patient();
            first
                .transaction(|conn| {
                    <A::Blocking as Database>::tell(conn, pause_queue(&*queue))?;
                    scope.spawn(|| {
                        let mut second = db.patient();
                        begins.send(()).expect("somebody waits for it");
                        <A::Blocking as Database>::tell(&mut second, pause_queue(&*queue)).expect("it is paused");
                    });
                    begun.recv().expect("it begins");
                    QueryResult::Ok(())
                })
                .expect("committed");
        });
    }
    let paused = "SELECT COUNT(*) AS number FROM deferred_paused_queues";
    assert_eq!(<A::Blocking as Database>::number(&mut db.observer(), paused), 10);
}

/// D13: "finished rows are deleted in bounded batches; table stays small".
async fn what_ended_is_kept_for_so_long<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| (0..2_500).try_for_each(|_| note("old").after_commit(conn).map(drop)));
    let now = A::Blocking::now_ms(&mut db.observer());
    let hour = 60 * 60 * 1_000;
    db.run_sql(&format!("UPDATE deferred_tasks SET state = 'dead', ended_at_ms = {}", now - hour - 10_000));
    words(db, &["kept", "cancelled long ago"]);
    db.run_sql(&format!(
        "UPDATE deferred_tasks SET state = 'dead', ended_at_ms = {} WHERE payload LIKE '%kept%'",
        now - hour + 60_000
    ));
    db.run_sql("UPDATE deferred_tasks SET state = 'cancelled', ended_at_ms = 0 WHERE payload LIKE '%long ago%'");
    let at_work = at_work!(
        worker::<A>(db, &notes).keep_dead_for(Duration::from_secs(60 * 60)).poll_interval(Duration::from_secs(600))
    );
    let rows = db.wait_for_tasks(|rows| rows.len() == 1).await;
    assert_eq!(rows[0].payload, r#"{"text":"kept"}"#);
    words(db, &["alive"]);
    assert_eq!(notes.wait_for(1).await, ["alive"]);
    at_work.stop().await;
}
