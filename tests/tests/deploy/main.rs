//! D21: a deploy. Workers of two versions of a program are at work together: each call runs once, by
//! a version that can run it, and none is lost or a dead letter.
//!
//! The versions are files of this program: a worker of the one does not know the other's tasks.

use std::ops::Range;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, Worker, WorkerBuilder, WorkerError};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, AtWork, Database, Notes, Scratch, TaskRow, at_work, events_with,
    on_every_async_database,
};

mod next;
mod previous;
mod renamed_twice;

const PREVIOUS: &str = "deploy/previous.rs";
const NEXT: &str = "deploy/next.rs";

on_every_async_database!(
    d21_a_deploy_that_starts_the_next_version_first,
    d21_a_deploy_that_starts_the_previous_version_first,
    d21_a_rollback,
    d21_what_no_version_has_any_more_is_told_and_waits,
    d21_many_unknown_rows_at_the_head_cost_the_others_nothing,
);

fn builder<A: AsyncDatabase>(db: &Scratch<A::Blocking>, notes: &Notes, version: &'static str) -> WorkerBuilder<A> {
    db.worker::<A>().only_tasks_in(version).queue("default", 4).state(notes.clone())
}

fn fleet<A: AsyncDatabase>(db: &Scratch<A::Blocking>, notes: &Notes, version: &'static str) -> [AtWork; 2] {
    [0, 1].map(|_| at_work!(builder::<A>(db, notes, version)))
}

async fn stop(fleet: [AtWork; 2]) {
    for worker in fleet {
        worker.stop().await;
    }
}

fn committed<C: Database>(db: &Scratch<C>, calls: impl FnOnce(&mut DeferredConnection<C>) -> QueryResult<()>) {
    db.patient().transaction(calls).expect("committed");
}

/// Calls of the previous version.
fn previous_calls<C: Database>(db: &Scratch<C>, ids: Range<i32>) {
    committed(db, |conn| {
        for id in ids {
            previous::same(id).after_commit(conn)?;
            previous::removed(id).after_commit(conn)?;
            previous::old_name(id).after_commit(conn)?;
            previous::argument_added(id).after_commit(conn)?;
            previous::argument_removed(id, "gone".into()).after_commit(conn)?;
            previous::argument_optional(id, 7).after_commit(conn)?;
            previous::type_widened(id, 7).after_commit(conn)?;
            previous::type_changed(id, 7).after_commit(conn)?;
        }
        Ok(())
    });
}

/// Calls of the next one.
fn next_calls<C: Database>(db: &Scratch<C>, ids: Range<i32>) {
    committed(db, |conn| {
        for id in ids {
            next::same(id).after_commit(conn)?;
            next::added(id).after_commit(conn)?;
            next::new_name(id).after_commit(conn)?;
            next::argument_added(id, 3).after_commit(conn)?;
            next::argument_removed(id).after_commit(conn)?;
            next::argument_optional(id, None).after_commit(conn)?;
            next::type_widened(id, 1 << 40).after_commit(conn)?;
            next::type_changed(id, "seven".into()).after_commit(conn)?;
        }
        Ok(())
    });
}

/// What may have run such a call.
const BOTH: &[&str] = &["previous", "next"];

/// Of each call, who can run it. What is only `previous`' its own fleet has to run before it goes.
const PREVIOUS_CALLS: &[(&str, &[&str])] = &[
    ("same", BOTH),
    ("removed", &["previous"]),
    ("old_name", BOTH),
    ("argument_added", BOTH),
    ("argument_removed", BOTH),
    ("argument_optional", BOTH),
    ("type_widened", BOTH),
    ("type_changed", &["previous"]),
];

const NEXT_CALLS: &[(&str, &[&str])] = &[
    ("same", BOTH),
    ("added", &["next"]),
    ("new_name", &["next"]),
    // What the previous one has no argument for it leaves alone.
    ("argument_added", BOTH),
    ("argument_removed", &["next"]),
    ("argument_optional", &["next"]),
    ("type_widened", &["next"]),
    ("type_changed", &["next"]),
];

/// Each call ran once, by one that can.
fn assert_ran(notes: &Notes, calls: &[(&str, &[&str])], ids: Range<i32>) {
    let all = notes.all();
    for id in ids {
        for (task, who) in calls {
            let begin = format!("{task} {id} ");
            let ran: Vec<_> = all.iter().filter_map(|note| note.strip_prefix(&begin)).collect();
            assert!(matches!(ran[..], [one] if who.contains(&one)), "{task} {id} was run by {ran:?}, and {who:?} can");
        }
    }
}

/// Waits until no row is left; meanwhile none is a dead letter.
async fn until_empty<C: Database>(db: &Scratch<C>) {
    db.wait_for_tasks(|rows| {
        assert!(rows.iter().all(|row| row.state != "dead"), "{rows:#?}");
        // Nobody waits until they are offered again.
        // Where a worker is in the way that is no matter.
        let _ = db.patient().batch_execute("UPDATE deferred_tasks SET run_at_ms = 0 WHERE state = 'unknown'");
        rows.is_empty()
    })
    .await;
}

/// All of them wait for another version, and nothing is spent.
fn all_wait(rows: &[TaskRow]) -> bool {
    rows.iter().all(|row| row.state == "unknown" && row.attempts == 0)
}

/// Workers of the next version begin beside those of the previous one, which go when all is done
/// that only they can do. Both enqueue all the time.
async fn d21_a_deploy_that_starts_the_next_version_first<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let previous = fleet::<A>(db, &notes, PREVIOUS);
    previous_calls(db, 0..10);
    let next = fleet::<A>(db, &notes, NEXT);
    previous_calls(db, 10..20);
    next_calls(db, 100..110);
    previous_calls(db, 20..30);
    next_calls(db, 110..120);
    until_empty(db).await;
    stop(previous).await;
    next_calls(db, 120..130);
    until_empty(db).await;
    stop(next).await;
    assert_ran(&notes, PREVIOUS_CALLS, 0..30);
    assert_ran(&notes, NEXT_CALLS, 100..130);
    assert_eq!(notes.all().len(), 60 * 8);
}

/// Who enqueues is of the next version already, and the workers are not: the calls wait for those
/// of the next version, and none of the others waits.
async fn d21_a_deploy_that_starts_the_previous_version_first<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    next_calls(db, 100..110);
    previous_calls(db, 0..10);
    let previous = fleet::<A>(db, &notes, PREVIOUS);
    // All of its own, and those of the other's that it can read.
    let theirs = NEXT_CALLS.iter().filter(|(_, who)| who.contains(&"previous")).count();
    notes.wait_for(80 + 10 * theirs).await;
    let waiting = 10 * (NEXT_CALLS.len() - theirs);
    db.wait_for_tasks(|rows| rows.len() == waiting && all_wait(rows)).await;
    let next = fleet::<A>(db, &notes, NEXT);
    until_empty(db).await;
    stop(previous).await;
    stop(next).await;
    assert_ran(&notes, PREVIOUS_CALLS, 0..10);
    assert_ran(&notes, NEXT_CALLS, 100..110);
    assert_eq!(notes.all().len(), 20 * 8);
}

/// The next version goes again, and leaves calls behind that only it can run: they wait until it is
/// back.
async fn d21_a_rollback<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let next = fleet::<A>(db, &notes, NEXT);
    next_calls(db, 100..110);
    notes.wait_for(20).await;
    stop(next).await;
    next_calls(db, 110..120);
    let previous = fleet::<A>(db, &notes, PREVIOUS);
    previous_calls(db, 0..10);
    db.wait_for_tasks(|rows| !rows.is_empty() && all_wait(rows)).await;
    assert_ran(&notes, PREVIOUS_CALLS, 0..10);
    stop(previous).await;
    let next = fleet::<A>(db, &notes, NEXT);
    until_empty(db).await;
    stop(next).await;
    assert_ran(&notes, NEXT_CALLS, 100..120);
    assert_eq!(notes.all().len(), 30 * 8);
}

/// What only the previous version could run, and did not before it went: it is told at WARN, once a
/// minute a name, and by the worker's report.
async fn d21_what_no_version_has_any_more_is_told_and_waits<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    previous_calls(db, 0..5);
    let worker = at_work!(builder::<A>(db, &notes, NEXT));
    let rows = db.wait_for_tasks(|rows| rows.len() == 10 && rows.iter().all(|row| row.state == "unknown")).await;
    assert_ran(&notes, &PREVIOUS_CALLS.iter().filter(|(_, who)| *who == BOTH).copied().collect::<Vec<_>>(), 0..5);
    let report = worker.stop().await;
    assert_eq!(report.refused["deploy::removed"], 5, "{report}");
    assert!(report.refused["deploy::type_changed"] >= 5, "{report}");
    assert!(report.to_string().contains("deploy::removed: left to another program 5 times"), "{report}");
    let reason = rows[0].error.as_deref().unwrap_or_default();
    assert!(reason.contains(r#"write `was = "deploy::removed"`"#), "{reason}");
    let ids = db.task_ids();
    let told = ids.iter().flat_map(|id| events_with(&id.to_string()));
    let told: Vec<_> = told.filter(|event| event.contains("left to another program")).collect();
    let of = |task: &str| told.iter().filter(|event| event.contains(task)).count();
    assert_eq!((of("deploy::removed"), of("deploy::type_changed")), (1, 1), "{told:#?}");
}

/// 100,000 rows of a task that a program does not have stand before a call that it has.
async fn d21_many_unknown_rows_at_the_head_cost_the_others_nothing<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let many = if A::Blocking::NAME == "PostgreSQL" { 100_000 } else { 10_000 };
    committed(db, |conn| (0..many).try_for_each(|id| previous::removed(id).after_commit(conn).map(drop)));
    committed(db, |conn| next::same(-1).after_commit(conn).map(drop));
    let begin = std::time::Instant::now();
    let worker = at_work!(builder::<A>(db, &notes, NEXT));
    assert_eq!(notes.wait_for(1).await, ["same -1 next"]);
    eprintln!("{}: behind {many} it ran after {:?}", A::Blocking::NAME, begin.elapsed());
    let report = worker.stop().await;
    eprintln!("{report}");
    let counts =
        "SELECT count(*) AS number FROM deferred_tasks WHERE state NOT IN ('ready', 'unknown') OR attempts <> 0";
    assert_eq!(A::Blocking::number(&mut db.observer(), counts), 0, "nothing is spent");
}

/// Two tasks that claim a name: one has it, or both had it.
#[test]
fn two_tasks_that_claim_one_name_are_refused() {
    let refused = |files: &'static str| {
        let builder = Worker::<AsyncSqliteConnection>::builder(":memory:").only_tasks_in(files);
        let Err(error) = builder.build() else { panic!("two tasks of one name") };
        let message = error.to_string();
        let WorkerError::DuplicateTask { name, places, .. } = error else { panic!("{error:?}") };
        assert!(message.contains(&format!(r#"`was = "{name}"`"#)), "{message}");
        (name, places)
    };
    // Of the two versions together each task is there twice.
    assert!(refused("").0.starts_with("deploy::"));
    let (name, places) = refused("deploy/renamed_twice.rs");
    assert_eq!(name, "deploy::split");
    assert_eq!(places, [6, 9].map(|line| format!("tests/tests/deploy/renamed_twice.rs:{line}")));
}
