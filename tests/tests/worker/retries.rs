//! Attempts that fail: when the task is tried again, and when it is given up.

use std::time::Duration;

use diesel_deferred::{Attempt, BoxError, Discard, Snooze, deferred_task, replay_dead, replay_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, fail, note, tell, worker};

#[deferred_task(durable, backoff = "10s", max_attempts = 3)]
async fn fail_slowly(#[state] notes: &Notes) -> Result<(), &'static str> {
    notes.add("tried");
    Err("not now")
}

/// An error with sources, one of which says what its source says.
#[derive(Debug)]
struct Chained(&'static str, Option<Box<Chained>>);

impl std::fmt::Display for Chained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Chained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.1.as_deref()?)
    }
}

#[deferred_task(durable, max_attempts = 1)]
fn fail_for_a_reason() -> Result<(), Chained> {
    let innermost = Chained("no route to host", None);
    let middle = Chained("connect: no route to host", Some(Box::new(innermost)));
    Err(Chained("the mail was not sent", Some(Box::new(middle))))
}

/// What it returns depends on how often it was called.
#[deferred_task(durable, max_attempts = 2)]
async fn snooze(#[state] notes: &Notes, #[state] attempt: Attempt, times: usize) -> Result<(), BoxError> {
    notes.add(format!("woken {}", attempt.is_last()));
    let woken = notes.all().iter().filter(|note| note.starts_with("woken")).count();
    if woken <= times {
        // As a source of another error, it counts too.
        return Err(std::io::Error::other(Snooze::new(Duration::from_millis(10))).into());
    }
    Err("at last".into())
}

#[deferred_task(durable)]
async fn discard() -> Result<(), BoxError> {
    Err(std::io::Error::other(Discard::new("the account is closed")).into())
}

on_every_async_database!(
    a_failed_attempt_waits_in_the_row_by_the_clock_of_the_database,
    attempts_run_out_and_the_last_one_leaves_a_dead_letter,
    the_handler_is_told_of_every_failure,
    an_error_is_kept_with_its_sources,
    an_error_that_cannot_be_stored_as_it_is_holds_up_nothing,
    snooze_is_no_attempt,
    discard_gives_up_at_once,
    a_dead_letter_can_be_replayed,
);

/// Q1: "retries with backoff + jitter", and they are in the row, so that no restart forgets them.
async fn a_failed_attempt_waits_in_the_row_by_the_clock_of_the_database<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| (0..8).try_for_each(|_| fail_slowly().after_commit(conn).map(drop)));
    let at_work = at_work!(worker::<A>(db, &notes));
    let rows = db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "scheduled")).await;
    let row = &rows[0];
    assert_eq!((row.attempts, row.max_attempts, row.error.as_deref()), (1, 3, Some("not now")));
    at_work.stop().await;
    let waits = waits(db);
    // Ten seconds, a quarter more or less; and the second that this test may take.
    assert!(waits.iter().all(|ms| (6_500..=12_500).contains(ms)), "{waits:?}");
    let (min, max) = (waits.iter().min(), waits.iter().max());
    assert!(max.zip(min).is_some_and(|(max, min)| max - min > 50), "no jitter: {waits:?}");

    // The third attempt waits twice as long.
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 0");
    let at_work = at_work!(worker::<A>(db, &notes));
    db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "scheduled" && row.attempts == 2)).await;
    at_work.stop().await;
    let waits = self::waits(db);
    assert!(waits.iter().all(|ms| (13_000..=25_000).contains(ms)), "{waits:?}");
}

/// For how many milliseconds more the rows wait.
fn waits<C: Database>(db: &Scratch<C>) -> Vec<i64> {
    let now = C::now_ms(&mut db.observer());
    db.tasks().into_iter().map(|row| row.run_at_ms - now).collect()
}

/// Q1, D10: "after N → dead letter with reason". ECOSYSTEM: attempts are counted on entry.
async fn attempts_run_out_and_the_last_one_leaves_a_dead_letter<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| fail("broken".into()).max_attempts(3).after_commit(conn));
    // The time of a retry is known: it does not wait for the next look.
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_secs(600)));
    let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!((rows[0].attempts, rows[0].error.as_deref()), (3, Some("broken")));
    assert_eq!(notes.all(), ["attempt 1", "attempt 2", "attempt 3"]);
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (3, 0, 0));
}

/// Q1. The handler knows which attempt was the last.
async fn the_handler_is_told_of_every_failure<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (notes, failures) = (Notes::default(), Notes::default());
    let id = committed(db, |conn| fail("broken".into()).max_attempts(2).after_commit(conn));
    let told = failures.clone();
    let at_work = at_work!(worker::<A>(db, &notes).on_failure(move |failure| {
        told.add(failure.to_string());
        // It is a user's, and holds up nothing.
        assert!(failure.is_dead, "not yet: {} {}", failure.attempt, failure.error);
    }));
    db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!(
        failures.all(),
        [
            format!("worker::support::fail ({id}, attempt 1, will be tried again): broken"),
            format!("worker::support::fail ({id}, attempt 2, given up): broken"),
        ]
    );
    at_work.stop().await;
}

/// D10: "dead letter with reason".
async fn an_error_is_kept_with_its_sources<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    committed(db, |conn| fail_for_a_reason().after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &Notes::default()));
    let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!(rows[0].error.as_deref(), Some("the mail was not sent: connect: no route to host"));
    at_work.stop().await;
}

/// Bad input: NUL, which PostgreSQL does not know, a megabyte of text, and characters of four
/// bytes.
async fn an_error_that_cannot_be_stored_as_it_is_holds_up_nothing<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let long = "\u{1F980}".repeat(250_000);
    let errors = ["a\0b \u{1F980} \\u0000 \"quoted\" {,}", &long, ""];
    committed(db, |conn| {
        errors.iter().try_for_each(|error| fail((*error).into()).max_attempts(2).after_commit(conn).map(drop))
    });
    let at_work = at_work!(worker::<A>(db, &notes));
    let rows = db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "dead")).await;
    let kept: Vec<_> = rows.iter().map(|row| row.error.as_deref().unwrap_or("none")).collect();
    assert_eq!(kept[0], "a\u{fffd}b \u{1F980} \\u0000 \"quoted\" {,}");
    assert_eq!(kept[1], format!("{}…", "\u{1F980}".repeat(2_000)));
    assert_eq!(kept[2], "");
    at_work.stop().await;
}

/// FINDINGS C13: "`Snooze(ZERO)` spins".
#[test]
fn a_snooze_is_a_second_at_least() {
    for (asked, after) in
        [(Duration::ZERO, 1_000), (Duration::from_millis(999), 1_000), (Duration::from_millis(1_001), 1_001)]
    {
        assert_eq!(Snooze::new(asked).after(), Duration::from_millis(after));
    }
}

/// Q6: "snooze does not burn an attempt".
async fn snooze_is_no_attempt<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let failures = Notes::default();
    let told = failures.clone();
    committed(db, |conn| snooze(4).after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes).on_failure(move |failure| told.add(&*failure.error)));
    let rows = db.wait_for_tasks(|rows| rows[0].error.is_some()).await;
    // Four times it was no attempt; the fifth was the first of two.
    assert_eq!((rows[0].state.as_str(), rows[0].max_attempts), ("scheduled", 2));
    // It waits as long as after a first attempt: ten seconds, a quarter more or less.
    let wait = "SELECT run_at_ms AS number FROM deferred_tasks";
    let wait = A::Blocking::number(&mut db.observer(), wait) - A::Blocking::now_ms(&mut db.observer());
    assert!(wait < 12_500, "{wait} ms");
    assert_eq!(notes.all(), ["woken false"; 5]);
    assert_eq!(failures.all(), ["at last"]);
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 0");
    db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!(notes.all()[5..], ["woken true"]);
    at_work.stop().await;
}

/// D10: what needs no further attempt gets none.
async fn discard_gives_up_at_once<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    committed(db, |conn| discard().after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &Notes::default()));
    let rows = db.wait_for_tasks(|rows| rows[0].state != "ready" && rows[0].state != "running").await;
    assert_eq!((rows[0].state.as_str(), rows[0].attempts), ("dead", 1));
    assert_eq!(rows[0].error.as_deref(), Some("discarded: the account is closed"));
    at_work.stop().await;
}

/// D10: "replayable".
async fn a_dead_letter_can_be_replayed<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let ids = committed(db, |conn| {
        (0..3).map(|_| fail("broken".into()).max_attempts(2).after_commit(conn)).collect::<Result<Vec<_>, _>>()
    });
    let other = committed(db, |conn| note("later").delay(Duration::from_secs(600)).after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes));
    let dead = |rows: &[diesel_deferred_tests::TaskRow]| rows[..3].iter().all(|row| row.state == "dead");
    db.wait_for_tasks(dead).await;
    assert_eq!(notes.all().len(), 6);
    at_work.stop().await;

    assert_eq!(tell(db, replay_task(ids[0])), 1);
    assert_eq!(tell(db, replay_task(ids[0])), 0, "it waits already");
    assert_eq!(tell(db, replay_task(other)), 0, "it has not run at all");
    assert_eq!(tell(db, replay_dead("worker::support::fail")), 2);
    assert_eq!(tell(db, replay_dead("worker::support::note")), 0);
    let rows = db.tasks();
    assert!(rows[..3].iter().all(|row| (row.state.as_str(), row.attempts) == ("ready", 0)), "{rows:#?}");
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(12).await;
    db.wait_for_tasks(dead).await;
    at_work.stop().await;
}
