//! `run_until_empty`: a worker that ends when nothing is due.

use std::time::Duration;

use diesel_deferred::{BoxError, Worker, WorkerError, deferred_task, pause_queue};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, on_every_async_database};

use crate::support::{committed, note, tell, worker, worker_of};

/// How many more it calls: by a connection of the type that the test is about.
pub(crate) type Again = std::sync::Arc<dyn Fn(u32) + Send + Sync>;

/// Calls itself until there is nothing more to count.
#[deferred_task(durable, queue = "counting")]
fn count_down(#[state] notes: &Notes, #[state] again: Again, from: u32) {
    notes.add(format!("count {from}"));
    if from > 0 {
        again(from - 1);
    }
}

/// Is tried again in ten minutes.
#[deferred_task(durable, backoff = "600s")]
async fn fail_for_now(#[state] notes: &Notes) -> Result<(), BoxError> {
    notes.add("attempt 1");
    Err("not yet".into())
}

on_every_async_database!(
    t12_a_worker_ends_when_nothing_is_due,
    t12_what_is_called_meanwhile_is_done_too,
    t12_what_is_due_later_and_what_is_paused_is_left,
    t12_a_database_that_cannot_be_reached_is_an_error,
);

/// T12. Nobody tells it to stop, and it looks by itself once in ten minutes only.
async fn t12_a_worker_ends_when_nothing_is_due<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let until_empty = async || {
        let worker = worker_of::<A>(db, &notes, 2).poll_interval(Duration::from_secs(600)).build().expect("a worker");
        let ended = tokio::time::timeout(Duration::from_secs(30), worker.run_until_empty()).await;
        ended.expect("it goes on").expect("it could work").ran
    };
    assert_eq!(until_empty().await, 0, "there is nothing");
    committed(db, |conn| {
        (0..30).try_for_each(|at| note(&format!("{at}")).after_commit(conn).map(drop))?;
        // One after the other, and one that was due a moment ago.
        (0..5).try_for_each(|at| note(&format!("keyed {at}")).key("k").after_commit(conn).map(drop))?;
        note("was scheduled").delay(Duration::from_secs(600)).after_commit(conn)
    });
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 1 WHERE state = 'scheduled'");
    assert_eq!(until_empty().await, 36);
    assert_eq!((notes.all().len(), db.tasks().len()), (36, 0));
}

/// T12: "also what was called meanwhile".
async fn t12_what_is_called_meanwhile_is_done_too<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = std::sync::Arc::new(Scratch::<A::Blocking>::with_tasks());
    let notes = Notes::default();
    let by = std::sync::Arc::clone(&db);
    let again: Again = std::sync::Arc::new(move |from| {
        committed(&by, |conn| count_down(from).after_commit(conn).map(drop));
    });
    again(20);
    let worker = db.worker::<A>().queue("counting", 4).state(notes.clone()).state(again).build().expect("a worker");
    let report = worker.run_until_empty().await.expect("it could work");
    assert_eq!((report.ran, db.tasks().len()), (21, 0));
    assert_eq!(notes.all().last().map(|note| &**note), Some("count 0"));
}

/// T12: "when nothing is left to run".
async fn t12_what_is_due_later_and_what_is_paused_is_left<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("now").after_commit(conn)?;
        note("later").delay(Duration::from_secs(600)).after_commit(conn)?;
        note("paused").queue("paused").after_commit(conn)?;
        fail_for_now().after_commit(conn)
    });
    tell(db, pause_queue("paused"));
    let worker = worker::<A>(db, &notes).queue("paused", 1).build().expect("a worker");
    assert_eq!(worker.run_until_empty().await.expect("it could work").ran, 2);
    let mut all = notes.all();
    all.sort_unstable();
    assert_eq!(all, ["attempt 1", "now"]);
    let mut left: Vec<_> = db.tasks().into_iter().map(|row| row.state).collect();
    left.sort_unstable();
    assert_eq!(left, ["ready", "scheduled", "scheduled"]);
}

/// T12: a job that is started now and then would hang.
async fn t12_a_database_that_cannot_be_reached_is_an_error<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let scheme = db.url().split_once("://").map(|(scheme, _)| format!("{scheme}://nobody@127.0.0.1:1/none"));
    for url in [scheme.unwrap_or("/dev/null/none".into()), "/dev/null/none".into()] {
        let builder = Worker::<A>::builder(&*url).state(Notes::default()).queue("default", 1);
        let ran = builder.only_tasks_in("until_empty.rs").build().expect("a worker").run_until_empty();
        let ended = tokio::time::timeout(Duration::from_secs(30), ran).await.expect("it goes on");
        assert!(matches!(ended, Err(WorkerError::Unreachable { .. })), "{url}: {ended:?}");
    }
}
