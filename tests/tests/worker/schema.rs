//! Tables that are not there, are newer than the worker, or were changed by a later migration.

use diesel_deferred::WorkerError;
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, hold, states, with, words, worker};

on_every_async_database!(
    a_worker_without_tables_says_so,
    a_worker_whose_tables_were_changed_says_so,
    a_worker_that_meets_newer_tables_says_so,
    a_worker_that_meets_older_tables_says_so,
    tables_that_become_newer_stop_a_worker_that_works,
    a_later_migration_loses_no_rows,
);

/// Bad input: "each gets a clear error".
async fn a_worker_without_tables_says_so<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let error = at_work!(worker::<A>(db, &Notes::default())).fails().await;
    assert!(matches!(error, WorkerError::NoTables { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("conn.run_pending_migrations(diesel_deferred::migrations())"), "{message}");

    // The row that says which tables they are.
    A::Blocking::migrate(&mut db.observer());
    db.run_sql("DELETE FROM deferred_schema");
    let error = at_work!(worker::<A>(db, &Notes::default())).fails().await;
    assert!(matches!(error, WorkerError::NoTables { .. }), "{error:?}");
}

/// Bad input: "a table changed by hand: each gets a clear error".
async fn a_worker_whose_tables_were_changed_says_so<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    words(db, &["a"]);
    db.run_sql("ALTER TABLE deferred_tasks RENAME COLUMN max_attempts TO tries");
    let error = at_work!(worker::<A>(db, &Notes::default())).fails().await;
    let message = error.to_string();
    assert!(matches!(error, WorkerError::NoTables { .. }), "{error:?}");
    assert!(message.contains("changed by hand") && message.contains("max_attempts"), "{message}");
    // What a `main` shows that returns it.
    assert_eq!(format!("{error:?}"), message);
}

/// "a worker that meets a newer table says so and stops".
async fn a_worker_that_meets_newer_tables_says_so<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a"]);
    db.run_sql("UPDATE deferred_schema SET version = 3");
    let error = at_work!(worker::<A>(db, &notes)).fails().await;
    let message = error.to_string();
    assert!(matches!(error, WorkerError::NewerTables { found: 3, known: 2, .. }), "{error:?}");
    assert!(message.contains("of version 3, and this worker knows versions up to 2"), "{message}");
    assert_eq!((states(db), notes.all().len()), (vec!["ready".to_owned()], 0));
}

/// Bad input: "a table with rows of the previous layout": the worker stops with words, not damage.
async fn a_worker_that_meets_older_tables_says_so<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a"]);
    db.run_sql("UPDATE deferred_schema SET version = 1");
    let error = at_work!(worker::<A>(db, &notes)).fails().await;
    let message = error.to_string();
    assert!(matches!(error, WorkerError::OlderTables { found: 1, needed: 2, .. }), "{error:?}");
    assert!(message.contains("of version 1, and this worker needs version 2"), "{message}");
    assert_eq!((states(db), notes.all().len()), (vec!["ready".to_owned()], 0));
}

/// The same, where they are migrated under its hands: what runs goes back.
async fn tables_that_become_newer_stop_a_worker_that_works<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes));
    committed(db, |conn| hold("a").after_commit(conn));
    notes.wait_for(1).await;
    assert!(!at_work.has_ended());
    db.run_sql("UPDATE deferred_schema SET version = 3");
    let error = at_work.fails().await;
    assert!(matches!(error, WorkerError::NewerTables { found: 3, known: 2, .. }), "{error:?}");
    let rows = db.tasks();
    assert_eq!((&*rows[0].state, rows[0].attempts), ("ready", 1));

    // The newer worker has it at once.
    db.run_sql("UPDATE deferred_schema SET version = 2");
    notes.add("go");
    let at_work = at_work!(worker::<A>(db, &notes));
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(with(&notes.all(), "end "), ["a"]);
    at_work.stop().await;
}

/// "Upgrade path: a later migration of the table must not lose rows": one that this version
/// understands, because it only adds, and rows that were written before it.
async fn a_later_migration_loses_no_rows<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["before"]);
    committed(db, |conn| hold("during").after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(2).await;
    db.run_sql("ALTER TABLE deferred_tasks ADD COLUMN added INTEGER NOT NULL DEFAULT 7");
    // The migrations that were run are not run again.
    A::Blocking::migrate(&mut db.observer());
    // A worker that was there all the while, with statements that were prepared for the table as it
    // was.
    words(db, &["after"]);
    notes.wait_for(3).await;
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(with(&notes.all(), "begin "), ["during"]);
    assert_eq!(with(&notes.all(), "end "), ["during"]);
    at_work.stop().await;
}
