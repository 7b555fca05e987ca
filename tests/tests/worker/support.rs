//! What the tests of a worker share: tasks that note what they do, and how to have them written.
//!
//! Tasks that take another `#[state]` than [`Notes`] are on queues of their own, so that a worker
//! on `default` needs no other.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{Attempt, BoxError, DeferredConnection, TaskId, TaskStatement, WorkerBuilder, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, eventually};

/// Notes a word.
#[deferred_task(durable)]
pub(crate) async fn note(#[state] notes: &Notes, text: &str) {
    notes.add(text);
}

/// Notes `begin …`, waits until somebody notes `go` or `go …`, and notes `end …`.
#[deferred_task(durable, backoff = "10ms")]
pub(crate) async fn hold(#[state] notes: &Notes, text: &str) {
    notes.add(format!("begin {text}"));
    let go = format!("go {text}");
    notes.wait_until(|all| all.iter().any(|note| *note == "go" || *note == go)).await;
    notes.add(format!("end {text}"));
}

/// [`hold`], on a thread.
#[deferred_task(durable, backoff = "10ms")]
pub(crate) fn hold_blocking(#[state] notes: &Notes, text: &str) {
    notes.add(format!("begin {text}"));
    let go = format!("go {text}");
    while !notes.all().iter().any(|note| *note == "go" || *note == go) {
        std::thread::sleep(Duration::from_millis(5));
    }
    notes.add(format!("end {text}"));
}

/// Notes which attempt it is, and fails.
#[deferred_task(durable, backoff = "10ms")]
pub(crate) async fn fail(#[state] notes: &Notes, #[state] attempt: &Attempt, text: String) -> Result<(), BoxError> {
    notes.add(format!("attempt {}", attempt.number()));
    Err(text.into())
}

/// A worker on the queue `default`, for ten tasks at a time.
pub(crate) fn worker<A: AsyncDatabase>(db: &Scratch<A::Blocking>, notes: &Notes) -> WorkerBuilder<A> {
    worker_of(db, notes, 10)
}

/// A worker on the queue `default`, for so many tasks at a time.
pub(crate) fn worker_of<A: AsyncDatabase>(
    db: &Scratch<A::Blocking>,
    notes: &Notes,
    concurrency: usize,
) -> WorkerBuilder<A> {
    db.worker::<A>().queue("default", concurrency).state(notes.clone())
}

/// Has calls written: what `calls` registers is committed.
pub(crate) fn committed<C: Database, T>(
    db: &Scratch<C>,
    calls: impl FnOnce(&mut DeferredConnection<C>) -> QueryResult<T>,
) -> T {
    db.patient().transaction(calls).expect("committed")
}

/// Has some tasks written that note words.
pub(crate) fn words<C: Database>(db: &Scratch<C>, words: &[&str]) -> Vec<TaskId> {
    committed(db, |conn| words.iter().map(|word| note(word).after_commit(conn)).collect())
}

/// Runs a statement of ours, and says how many tasks it found.
pub(crate) fn tell<C: Database>(db: &Scratch<C>, statement: TaskStatement) -> usize {
    C::tell(&mut db.patient(), statement).expect("executed")
}

/// The states of the rows, in the order of their ids.
pub(crate) fn states<C: Database>(db: &Scratch<C>) -> Vec<String> {
    db.tasks().into_iter().map(|row| row.state).collect()
}

/// What was noted, without the words that only let others go on.
pub(crate) fn with<'n>(all: &'n [String], prefix: &str) -> Vec<&'n str> {
    all.iter().filter_map(|note| note.strip_prefix(prefix)).collect()
}

/// [`lease_end`] as SQL.
pub(crate) const LEASE_END: &str = "SELECT MIN(lease_until_ms) AS number FROM deferred_tasks WHERE state = 'running'";

/// When the first of the leases ends, by the clock of the database.
pub(crate) fn lease_end<C: Database>(db: &Scratch<C>) -> i64 {
    C::number(&mut db.observer(), LEASE_END)
}

/// Waits until the first of the leases ends so many milliseconds after `end`.
pub(crate) async fn lease_extended<C: Database>(db: &Scratch<C>, end: i64, ms: i64) {
    let mut observer = db.observer();
    eventually("the lease is extended", || C::number(&mut observer, LEASE_END) >= end + ms).await;
}
