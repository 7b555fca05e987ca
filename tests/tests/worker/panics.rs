//! Code of users' that panics, and attempts that take too long.

use std::fmt;

use diesel_deferred::{BoxError, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, TaskRow, at_work, on_every_async_database};
use serde::{Deserialize, Deserializer, Serialize};

use crate::support::{committed, note, with, worker_of};

#[deferred_task(durable, max_attempts = 1)]
async fn panic_async() {
    panic!("an async task");
}

#[deferred_task(durable, max_attempts = 1)]
fn panic_blocking() {
    panic!("a blocking task");
}

/// Its panic is no string.
#[deferred_task(durable, max_attempts = 1)]
async fn panic_with_a_bomb() {
    std::panic::panic_any(Bomb);
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        // A second panic while the first one unwinds would end the process, whoever catches.
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

/// Panics when it is read.
#[derive(Debug, Clone, Serialize)]
struct Unreadable;

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("in Deserialize")
    }
}

#[deferred_task(durable, max_attempts = 1)]
async fn take_unreadable(value: Unreadable) {
    let _ = value;
}

/// An error that panics when it is told, and when it is dropped.
#[derive(Debug)]
struct Mean(Option<Bomb>);

impl fmt::Display for Mean {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_some() { Ok(()) } else { panic!("in Display") }
    }
}

impl std::error::Error for Mean {}

#[deferred_task(durable, max_attempts = 1)]
async fn fail_meanly(bomb: bool) -> Result<(), Mean> {
    Err(Mean(bomb.then(|| Bomb)))
}

/// An error that is its own source.
#[derive(Debug)]
struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("endless")
    }
}

impl std::error::Error for Endless {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self)
    }
}

#[deferred_task(durable, max_attempts = 1)]
fn fail_endlessly() -> Result<(), Endless> {
    Err(Endless)
}

/// What it holds when it is stopped panics when it is dropped.
#[deferred_task(durable, max_attempts = 1, timeout = "20ms")]
async fn hold_a_bomb_too_long() {
    let _bomb = Bomb;
    std::future::pending::<()>().await;
}

#[deferred_task(durable, max_attempts = 2, timeout = "20ms", backoff = "1ms")]
async fn take_too_long(#[state] notes: &Notes) -> Result<(), BoxError> {
    struct Stopped<'n>(&'n Notes);
    impl Drop for Stopped<'_> {
        fn drop(&mut self) {
            self.0.add("stopped");
        }
    }
    let _stopped = Stopped(notes);
    std::future::pending().await
}

#[deferred_task(durable, timeout = "30s")]
async fn take_no_time(#[state] notes: &Notes) {
    tokio::task::yield_now().await;
    notes.add("in time");
}

on_every_async_database!(whatever_panics_the_worker_goes_on, an_attempt_that_takes_too_long_is_stopped);

/// Q11: "panic in handler = failed attempt, worker survives". ECOSYSTEM: a row that stays
/// `Running`, a process that dies. One runner only: if it were lost, the rest would not run.
async fn whatever_panics_the_worker_goes_on<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        panic_async().after_commit(conn)?;
        panic_blocking().after_commit(conn)?;
        panic_with_a_bomb().after_commit(conn)?;
        take_unreadable(Unreadable).after_commit(conn)?;
        fail_meanly(false).after_commit(conn)?;
        fail_meanly(true).after_commit(conn)?;
        fail_endlessly().after_commit(conn)?;
        hold_a_bomb_too_long().after_commit(conn)?;
        note("the worker lives").after_commit(conn)
    });
    let at_work = at_work!(worker_of::<A>(db, &notes, 1).on_failure(|failure| panic!("in the handler of {failure}")));
    notes.wait_until(|all| all == ["the worker lives"]).await;
    let rows = db.wait_for_tasks(|rows| rows.len() == 8 && rows.iter().all(|row| row.state == "dead")).await;
    let reason = |at: usize| rows[at].error.as_deref().unwrap_or_default();
    assert_eq!(reason(0), "panicked: an async task");
    assert_eq!(reason(1), "panicked: a blocking task");
    assert_eq!(reason(2), "panicked: not with a string");
    assert_eq!(reason(3), "panicked: in Deserialize");
    assert_eq!(reason(4), "its error panicked: in Display");
    assert_eq!(reason(5), "");
    assert_eq!(reason(6), "endless");
    assert_eq!(reason(7), "panicked: a bomb");
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.abandoned.len()), (9, 0));
}

/// Q11: "timeout in handler = failed attempt".
async fn an_attempt_that_takes_too_long_is_stopped<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        take_too_long().after_commit(conn)?;
        take_no_time().after_commit(conn)
    });
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    let dead = |rows: &[TaskRow]| matches!(rows, [row] if row.state == "dead");
    let rows = db.wait_for_tasks(dead).await;
    assert_eq!((rows[0].attempts, rows[0].error.as_deref()), (2, Some("timed out after 20ms")));
    assert_eq!(with(&notes.all(), "stopped").len(), 2);
    assert_eq!(with(&notes.all(), "in time").len(), 1);
    at_work.stop().await;
}
