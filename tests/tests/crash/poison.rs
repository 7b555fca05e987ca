//! A task that kills its worker, whenever it is run.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{Attempt, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Scratch, on_every_async_database};
use tokio::runtime::Runtime;

use crate::child::{Process, ready, told, until_told_to_stop};
use crate::journal::Journal;

on_every_async_database!(d10_a_task_that_kills_its_worker);

#[deferred_task(durable, queue = "poison", max_attempts = 2)]
async fn poison(#[state] journal: &Journal, #[state] attempt: Attempt) {
    journal.line(&format!("poison {}", attempt.number()));
    std::process::abort();
}

#[deferred_task(durable, queue = "poison")]
async fn harmless(#[state] journal: &Journal) {
    journal.line("harmless");
}

/// D10: attempts count from their start. The one that has none left is a dead letter that says why,
/// and does not stop those behind it.
async fn d10_a_task_that_kills_its_worker<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let conn = &mut db.patient();
    atomic!(conn, -> QueryResult<()>, {
        poison().after_commit(conn)?;
        harmless().after_commit(conn)?;
        Ok(())
    })
    .expect("committed");
    let work = || Process::start::<A>("works on poison", db.url(), &[("CRASH_JOURNAL", path.display().to_string())]);
    work().ends();
    work().ends();
    let survivor = work();
    let rows = db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "dead").await;
    survivor.stop();
    assert_eq!((rows[0].attempts, &*rows[0].task), (2, "crash::poison::poison"));
    let error = rows[0].error.as_deref().unwrap_or_default();
    assert!(error.contains("its worker died during this attempt"), "{error}");
    let journal = std::fs::read_to_string(&path).expect("the journal");
    let mut ran: Vec<_> = journal.lines().collect();
    // The harmless one need not wait until the other is given up.
    ran.sort_unstable();
    assert_eq!(ran, ["harmless", "poison 1", "poison 2"]);
}

/// The role of a process: one task after the other.
pub fn works<A: AsyncDatabase>(url: &str, runtime: &Runtime) {
    let worker = Worker::<A>::builder(url)
        .queue("poison", 1)
        .lease(Duration::from_secs(1))
        .poll_interval(Duration::from_millis(20))
        .state(Journal::open(told("CRASH_JOURNAL")))
        .build()
        .expect("a worker");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    ready();
    let worker = runtime.spawn(worker.run(async { drop(stopped.await) }));
    until_told_to_stop();
    drop(stop);
    runtime.block_on(worker).expect("no panic").expect("a worker that could work");
}
