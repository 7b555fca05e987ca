//! Tasks that are called for later.

use std::time::{Duration, SystemTime};

use diesel_deferred::deferred_task;
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, hold, note, worker};

#[deferred_task(durable)]
async fn snooze_once(#[state] notes: &Notes) -> Result<(), diesel_deferred::Snooze> {
    notes.add(format!("woken {:?}", SystemTime::now()));
    if notes.all().len() == 1 { Err(diesel_deferred::Snooze::new(Duration::from_millis(300))) } else { Ok(()) }
}

on_every_async_database!(
    a_task_starts_when_it_is_due,
    a_time_that_has_passed_is_now,
    a_busy_worker_starts_what_is_due,
    a_snoozed_task_comes_back_when_it_asked_to,
);

/// Q2: "schedule at/in, by DB clock". ECOSYSTEM: +3 s ran at the next heartbeat. Here the worker
/// looks once in ten minutes.
async fn a_task_starts_when_it_is_due<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("500 ms").delay(Duration::from_millis(500)).after_commit(conn)?;
        note("200 ms").delay(Duration::from_millis(200)).after_commit(conn)?;
        note("800 ms").run_at(SystemTime::now() + Duration::from_millis(800)).after_commit(conn)?;
        note("never").delay(Duration::MAX).after_commit(conn)?;
        note("not in our time").run_at(SystemTime::now() + Duration::from_secs(1 << 34)).after_commit(conn)
    });
    let rows = db.tasks();
    assert!(rows.iter().all(|row| row.state == "scheduled"), "{rows:#?}");
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_secs(600)));
    for (count, word) in [(1, "200 ms"), (2, "500 ms"), (3, "800 ms")] {
        let all = notes.wait_for(count).await;
        assert_eq!(all[count - 1], word);
        let due = rows.iter().find(|row| row.payload.contains(word)).expect("its row").run_at_ms;
        let late = A::Blocking::now_ms(&mut db.observer()) - due;
        // PostgreSQL rounds. What matters is that it was not the worker's own look, however busy
        // the machine is.
        assert!((-1..60_000).contains(&late), "{word} is {late} ms late");
    }
    at_work.stop().await;
    assert_eq!(db.tasks().len(), 2);
}

/// Q2.
async fn a_time_that_has_passed_is_now<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("long ago").run_at(SystemTime::UNIX_EPOCH).after_commit(conn)?;
        note("before time").run_at(SystemTime::UNIX_EPOCH - Duration::from_secs(9)).after_commit(conn)?;
        note("at once").delay(Duration::ZERO).after_commit(conn)
    });
    assert!(db.tasks().iter().all(|row| row.state == "ready"));
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(3).await;
    at_work.stop().await;
}

/// Q2: also where no runner is idle when its time comes.
async fn a_busy_worker_starts_what_is_due<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        hold("a").after_commit(conn)?;
        note("urgent").priority(-1).delay(Duration::from_secs(1)).after_commit(conn)?;
        note("b").after_commit(conn)
    });
    let at_work = at_work!(crate::support::worker_of::<A>(db, &notes, 1).poll_interval(Duration::from_secs(600)));
    notes.wait_for(1).await;
    db.wait_for_tasks(|rows| rows[1].state == "ready").await;
    notes.add("go a");
    assert_eq!(notes.wait_for(5).await[2..], ["end a", "urgent", "b"]);
    at_work.stop().await;
}

/// Q6: it comes back after its time, and not at the next look after that.
async fn a_snoozed_task_comes_back_when_it_asked_to<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| snooze_once().after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_secs(600)));
    notes.wait_for(1).await;
    let rows = db.wait_for_tasks(|rows| rows[0].state == "scheduled").await;
    notes.wait_for(2).await;
    let late = A::Blocking::now_ms(&mut db.observer()) - rows[0].run_at_ms;
    assert!((-1..60_000).contains(&late), "{late} ms late");
    at_work.stop().await;
}
