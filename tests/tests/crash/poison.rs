//! A task that kills its worker, whenever it is run.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{Attempt, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Scratch, on_every_async_database};
use tokio::runtime::Runtime;

use crate::child::{Process, ready, told, until_told_to_stop};
use crate::journal::Journal;

on_every_async_database!(
    d10_a_task_that_kills_its_worker,
    d19_one_that_kills_its_worker_starts_as_often_as_it_may,
    d19_one_that_kills_its_worker_takes_no_attempts_of_others,
);

#[deferred_task(durable, queue = "poison", max_attempts = 2)]
async fn poison(#[state] journal: &Journal, #[state] attempt: Attempt) {
    journal.line(&format!("poison {}", attempt.number()));
    std::process::abort();
}

/// It may be killed in its middle.
#[deferred_task(durable, queue = "poison")]
async fn neighbour(#[state] journal: &Journal, #[state] attempt: Attempt) {
    journal.line(&format!("start {} {}", attempt.id(), attempt.number()));
    tokio::time::sleep(Duration::from_millis(30)).await;
    journal.line(&format!("end {}", attempt.id()));
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

/// D19, D10: "none ever starts more often than `max_attempts`", and it is a dead letter after exactly
/// so many kills.
async fn d19_one_that_kills_its_worker_starts_as_often_as_it_may<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    for attempts in [1, 3] {
        let db = &Scratch::<A::Blocking>::with_tasks();
        let journal = Journals::new();
        db.patient().transaction(|conn| poison().max_attempts(attempts).after_commit(conn)).expect("committed");
        for _ in 0..attempts {
            journal.work::<A>(db.url(), 1).ends();
        }
        let survivor = journal.work::<A>(db.url(), 1);
        let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
        survivor.stop();
        assert_eq!(rows[0].attempts, i32::from(attempts));
        let starts: Vec<_> = (1..=attempts).map(|attempt| format!("poison {attempt}")).collect();
        assert_eq!(journal.lines(), starts);
    }
}

/// D19: of the tasks beside it an attempt is spent where a runner had one, and of no other; all of
/// them run to their end.
async fn d19_one_that_kills_its_worker_takes_no_attempts_of_others<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    const KILLS: usize = 3;
    let db = &Scratch::<A::Blocking>::with_tasks();
    let journal = Journals::new();
    let ids = db
        .patient()
        .transaction(|conn| {
            let mut ids = Vec::new();
            for at in 0..20 {
                if at == 5 {
                    poison().max_attempts(u16::try_from(KILLS).expect("few")).after_commit(conn)?;
                }
                ids.push(neighbour().after_commit(conn)?.to_string());
            }
            QueryResult::Ok(ids)
        })
        .expect("committed");
    for kill in 1..=KILLS {
        journal.work::<A>(db.url(), 4).ends();
        let lines = journal.lines();
        let (mut spent, mut starts) = (0, 0);
        for (id, row) in db.task_ids().into_iter().zip(db.tasks()).filter(|(_, row)| row.task.ends_with("::neighbour"))
        {
            let begin = format!("start {id} ");
            spent += usize::try_from(row.attempts).expect("none is negative");
            starts += lines.iter().filter(|line| line.starts_with(&begin)).count();
        }
        // Beside the one that kills there are three runners, which may have got one each and not
        // begun it.
        assert!((starts..=starts + 3 * kill).contains(&spent), "{spent} attempts are spent, {starts} began");
    }
    let survivor = journal.work::<A>(db.url(), 4);
    let rows = db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "dead").await;
    survivor.stop();
    assert_eq!((rows[0].attempts, &*rows[0].task), (i32::try_from(KILLS).expect("few"), "crash::poison::poison"));
    let lines = journal.lines();
    assert_eq!(lines.iter().filter(|line| line.starts_with("poison")).count(), KILLS);
    for id in ids {
        let begin = format!("start {id} ");
        let starts = lines.iter().filter_map(|line| line.strip_prefix(&begin));
        let starts: Vec<usize> = starts.map(|attempt| attempt.parse().expect("a number")).collect();
        assert!(lines.contains(&format!("end {id}")), "{id} did not run to its end");
        // Once, and once more for each kill at most: each with a number of its own.
        assert!(starts.is_sorted_by(|one, next| one < next), "{id}: {starts:?}");
        assert!(starts.last().is_some_and(|last| *last <= 1 + KILLS), "{id}: {starts:?}");
    }
}

/// What the processes of a test have noted.
struct Journals(tempfile::TempDir);

impl Journals {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn lines(&self) -> Vec<String> {
        let journal = std::fs::read_to_string(self.0.path().join("journal")).expect("the journal");
        journal.lines().map(str::to_owned).collect()
    }

    /// Starts a worker for so many tasks at a time.
    fn work<A: AsyncDatabase>(&self, url: &str, concurrency: usize) -> Process {
        let path = self.0.path().join("journal").display().to_string();
        let variables = [("CRASH_JOURNAL", path), ("CRASH_CONCURRENCY", concurrency.to_string())];
        Process::start::<A>("works on poison", url, &variables)
    }
}

/// The role of a process: one task after the other, or so many at a time.
pub fn works<A: AsyncDatabase>(url: &str, runtime: &Runtime) {
    let worker = Worker::<A>::builder(url)
        .queue("poison", std::env::var("CRASH_CONCURRENCY").map_or(1, |number| number.parse().expect("a number")))
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
