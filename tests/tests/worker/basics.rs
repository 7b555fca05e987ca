//! From the call to the worker.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{AsyncDeferredConnection, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};

#[deferred_task(durable)]
async fn note(#[state] notes: &Notes, id: i32, text: &str) {
    notes.add(format!("{id} {text}"));
}

on_every_async_database!(
    a_committed_call_runs,
    a_call_that_was_rolled_back_does_not,
    a_worker_of_the_applications_own_connection_type,
);

/// D1
async fn a_committed_call_runs<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let worker = at_work!(crate::support::worker_of::<A>(db, &notes, 1));
    let conn = &mut db.patient_async::<A>().await;
    let written: QueryResult<()> = atomic!(conn, async {
        for id in 1..=3 {
            A::insert(conn, id).await?;
            note(id, "async");
        }
        Ok(())
    })
    .await;
    written.expect("committed");
    assert_eq!(notes.wait_for(3).await, ["1 async", "2 async", "3 async"]);
    db.wait_for_tasks(|rows| rows.is_empty()).await;

    let conn = &mut db.patient();
    let written: QueryResult<()> = atomic!(conn, {
        note(4, "sync");
        Ok(())
    });
    written.expect("committed");
    assert_eq!(notes.wait_for(4).await[3..], ["4 sync"]);
    let report = worker.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (4, 0, 0));
    assert_eq!(db.tasks(), []);
}

/// D1, D3
async fn a_call_that_was_rolled_back_does_not<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let conn = &mut db.patient_async::<A>().await;
    let written: QueryResult<()> = atomic!(conn, async {
        note(1, "outer");
        let inner: QueryResult<()> = atomic!(conn, async {
            note(2, "inner");
            Err(diesel::result::Error::RollbackTransaction)
        })
        .await;
        assert!(inner.is_err());
        Ok(())
    })
    .await;
    written.expect("committed");
    let payloads: Vec<_> = db.tasks().into_iter().map(|row| row.payload).collect();
    assert_eq!(payloads, [r#"{"id":1,"text":"outer"}"#]);
}

/// D1: an application has one alias for its connections, which defer; its worker is of that type.
async fn a_worker_of_the_applications_own_connection_type<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    type Conn<A> = AsyncDeferredConnection<A>;
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let builder = Worker::<Conn<A>>::builder(db.url()).poll_interval(Duration::from_millis(50));
    let worker = at_work!(builder.queue("default", 2).state(notes.clone()));
    let conn = &mut db.patient_async::<A>().await;
    atomic!(conn, -> QueryResult<()>, async {
        note(1, "one");
        note(2, "two");
        Ok(())
    })
    .await
    .expect("committed");
    notes.wait_for(2).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(worker.stop().await.ran, 2);
}
