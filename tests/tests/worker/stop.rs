//! What a worker does when it is told to stop.

use std::time::Duration;

use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{
    committed, hold, hold_blocking, lease_end, lease_extended, note, states, with, words, worker, worker_of,
};

on_every_async_database!(
    it_waits_for_what_runs_and_takes_nothing_more,
    what_ends_meanwhile_is_told_at_once,
    d19_nothing_is_taken_ahead,
    d19_a_last_attempt_that_is_stopped_was_the_last,
    a_full_queue_is_given_back,
    a_blocking_task_is_abandoned,
    a_worker_that_has_nothing_to_do_stops_at_once,
);

/// Q9: "graceful stop finishes running, stops fetching".
async fn it_waits_for_what_runs_and_takes_nothing_more<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)).grace_period(Duration::from_secs(60)));
    committed(db, |conn| {
        hold("a").after_commit(conn)?;
        hold_blocking("b").after_commit(conn)
    });
    notes.wait_for(2).await;
    let stopping = at_work.begin_to_stop().await;
    // It extends leases meanwhile: twice after what was written here.
    lease_extended(db, lease_end(db), 1).await;
    words(db, &["too late"]);
    lease_extended(db, lease_end(db), 1).await;
    assert!(!stopping.is_finished());
    notes.add("go");
    let report = stopping.await.expect("stopped");
    assert_eq!((report.ran, report.released, report.abandoned.len()), (2, 0, 0), "{report}");
    assert_eq!(with(&notes.all(), "end ").len(), 2);
    let rows = db.tasks();
    assert_eq!(rows.len(), 1);
    assert_eq!((&*rows[0].state, rows[0].attempts), ("ready", 0));
}

/// Q9, D9: whoever waits for the end of a task need not wait for the end of the others. A third of
/// this lease is longer than the test.
async fn what_ends_meanwhile_is_told_at_once<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let lease = Duration::from_secs(600);
    let at_work = at_work!(worker::<A>(db, &notes).lease(lease).grace_period(lease));
    committed(db, |conn| {
        hold("a").after_commit(conn)?;
        hold("b").after_commit(conn)
    });
    notes.wait_for(2).await;
    let stopping = at_work.begin_to_stop().await;
    words(db, &["after"]);
    notes.add("go a");
    db.wait_for_tasks(|rows| !rows.iter().any(|row| row.payload.contains("\"a\""))).await;
    assert!(!stopping.is_finished());
    notes.add("go b");
    assert_eq!(stopping.await.expect("stopped").abandoned, []);
}

/// D19, D20: nothing is taken ahead, so that whatever stops a worker, or kills it, what had not
/// started is as it was: its attempts, and what it is `unique` by.
async fn d19_nothing_is_taken_ahead<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        (0..100).try_for_each(|_| note("fast").max_attempts(1).after_commit(conn).map(drop))?;
        hold("a").after_commit(conn)?;
        (0..100).try_for_each(|_| note("slow").max_attempts(1).after_commit(conn).map(drop))
    });
    let at_work = at_work!(worker_of::<A>(db, &notes, 1).grace_period(Duration::ZERO));
    notes.wait_until(|all| all.iter().any(|note| note == "begin a")).await;
    let running = |db: &Scratch<A::Blocking>| db.tasks().iter().filter(|row| row.state == "running").count();
    assert_eq!(running(db), 1);
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (100, 1, 0), "{report}");
    let rows = db.tasks();
    assert_eq!(rows.len(), 101);
    let slow = |row: &&diesel_deferred_tests::TaskRow| row.payload.contains("slow");
    assert!(rows.iter().filter(slow).all(|row| (&*row.state, row.attempts, &row.error) == ("ready", 0, &None)));
    // The one that had started was an attempt.
    let held: Vec<_> = rows.iter().filter(|row| !slow(row)).map(|row| (&*row.state, row.attempts)).collect();
    assert_eq!(held, [("ready", 1)]);

    // Any other worker has them at once, in their order.
    notes.add("go");
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
    assert_eq!(with(&notes.all(), "begin ").len(), 2);
    assert_eq!(with(&notes.all(), "slow").len(), 100);
}

/// D19: a body that had started in its last attempt, and was stopped with its worker, does not start
/// once more.
async fn d19_a_last_attempt_that_is_stopped_was_the_last<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold("a").max_attempts(1).after_commit(conn));
    let failures = Notes::default();
    let told = failures.clone();
    let at_work = at_work!(
        worker_of::<A>(db, &notes, 1)
            .grace_period(Duration::ZERO)
            .on_failure(move |failure| told.add(format!("{} {}", failure.attempt, failure.is_dead)))
    );
    notes.wait_for(1).await;
    let report = at_work.stop().await;
    assert_eq!((report.released, report.abandoned.len()), (0, 0), "{report}");
    let rows = db.tasks();
    assert_eq!((&*rows[0].state, rows[0].attempts), ("dead", 1));
    assert_eq!(rows[0].error.as_deref(), Some("its worker stopped during its last attempt"));
    assert_eq!(failures.all(), ["1 true"]);
}

/// Q9: "bounded": at the end of the grace period async tasks are stopped.
async fn a_full_queue_is_given_back<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| (0..50).try_for_each(|at| hold(&at.to_string()).after_commit(conn).map(drop)));
    let at_work = at_work!(worker_of::<A>(db, &notes, 5).grace_period(Duration::from_millis(50)));
    notes.wait_for(5).await;
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (0, 5, 0), "{report}");
    let rows = db.tasks();
    // D19: the five had started.
    assert!(rows.iter().all(|row| row.state == "ready"), "{rows:#?}");
    assert_eq!((rows.len(), rows.iter().map(|row| row.attempts).sum::<i32>()), (50, 5));
    assert_eq!(with(&notes.all(), "end ").len(), 0);
}

/// Q9, D11: what cannot be stopped is not given back, and is said.
async fn a_blocking_task_is_abandoned<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let id = committed(db, |conn| hold_blocking("a").after_commit(conn));
    let at_work =
        at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)).grace_period(Duration::from_millis(50)));
    notes.wait_for(1).await;
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released), (0, 0), "{report}");
    let [abandoned] = &*report.abandoned else { panic!("{report}") };
    assert_eq!((abandoned.id, &*abandoned.task), (id, "worker::support::hold_blocking"));
    assert_eq!(states(db), ["running"], "it runs on");
    let lease_end = lease_end(db);
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(2).await;
    assert!(A::Blocking::now_ms(&mut db.observer()) >= lease_end, "its lease lasts");
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
}

/// Q9.
async fn a_worker_that_has_nothing_to_do_stops_at_once<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).grace_period(Duration::MAX).poll_interval(Duration::MAX));
    words(db, &["a"]);
    notes.wait_for(1).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let report = tokio::time::timeout(Duration::from_secs(10), at_work.stop()).await.expect("at once");
    assert_eq!((report.ran, report.released, report.abandoned.len()), (1, 0, 0));
}
