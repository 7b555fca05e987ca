//! What tasks are given by the worker, and what it refuses to begin without.

use std::sync::Arc;

use diesel_deferred::{Attempt, TaskId, WorkerError, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, worker};

/// A state that only the tasks of one queue take.
#[derive(Debug, Clone)]
pub(crate) struct Mailer(Arc<str>);

#[deferred_task(durable, queue = "mail")]
async fn send(#[state] notes: &Notes, #[state] mailer: Mailer, text: &str) {
    notes.add(format!("{} {text}", mailer.0));
}

#[deferred_task(durable, max_attempts = 2)]
async fn tell_by_value(#[state] notes: Notes, #[state] attempt: Attempt) {
    notes.add(describe("value", &attempt));
}

#[deferred_task(durable)]
fn tell_by_reference(#[state] attempt: &Attempt, #[state] notes: &Notes) {
    notes.add(describe("reference", attempt));
}

fn describe(by: &str, attempt: &Attempt) -> String {
    format!("{by} {} {} {} {}", attempt.id(), attempt.number(), attempt.is_last(), attempt.queue())
}

on_every_async_database!(a_task_is_told_of_its_attempt, a_worker_without_a_state_is_refused);

/// "`#[state] attempt: Attempt`".
async fn a_task_is_told_of_its_attempt<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let ids: [TaskId; 2] = committed(db, |conn| {
        let by_value = tell_by_value().queue("other").after_commit(conn)?;
        Ok([by_value, tell_by_reference().max_attempts(1).after_commit(conn)?])
    });
    let at_work = at_work!(worker::<A>(db, &notes).queue("other", 1));
    let mut all = notes.wait_for(2).await;
    all.sort();
    assert_eq!(all, [format!("reference {} 1 true default", ids[1]), format!("value {} 1 false other", ids[0])]);
    at_work.stop().await;
}

/// "a missing `#[state]` stops the worker at start-up with a message that names both".
async fn a_worker_without_a_state_is_refused<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    for builder in [worker::<A>(db, &notes).queue("mail", 1), db.worker::<A>().state(notes.clone())] {
        let error = builder.build().expect_err("it lacks a state");
        let message = error.to_string();
        let WorkerError::MissingState { task, place, state, .. } = error else { panic!("{error:?}") };
        assert_eq!((task, state), ("worker::states::send", "worker::states::Mailer"));
        assert!(place.starts_with("tests/tests/worker/states.rs:"), "{place}");
        for part in [task, &*place, state, "add it with `.state(…)`", "The worker has `diesel_deferred_tests"] {
            assert!(message.contains(part), "{message}");
        }
    }
    // Of a queue that is another worker's it is not asked for.
    at_work!(worker::<A>(db, &notes)).stop().await;
    committed(db, |conn| send("x").after_commit(conn));
    // Of the tasks of all queues another one takes another state.
    let again: crate::until_empty::Again = std::sync::Arc::new(|_| ());
    let of_all = db.worker::<A>().state(notes.clone()).state(again);
    let at_work = at_work!(of_all.state(Mailer("first".into())).state(Mailer("last".into())));
    assert_eq!(notes.wait_for(1).await, ["last x"]);
    at_work.stop().await;

    // Where a call goes to a queue whose worker cannot know, the attempt fails, and another worker
    // may have it.
    committed(db, |conn| send("y").queue("default").after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes));
    let rows = db.wait_for_tasks(|rows| rows[0].error.is_some()).await;
    let error = "it takes a `#[state]` of type `worker::states::Mailer`, which the worker does not have; add it with `.state(…)`";
    assert_eq!((&*rows[0].state, rows[0].error.as_deref()), ("scheduled", Some(error)));
    at_work.stop().await;
}
