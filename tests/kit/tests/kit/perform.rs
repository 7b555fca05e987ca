//! `perform`: one durable task, without a database; and `Attempt::for_test`.

use diesel_deferred::testing::perform;
use diesel_deferred::{Attempt, deferred_task};
use diesel_deferred_tests::Notes;

use crate::tasks::{keyed, stored};

/// T10
#[test]
fn t10_arguments_go_through_a_row_and_the_first_attempt_is_number_1() {
    let notes = Notes::default();
    perform(stored(7, "text")).state(notes.clone()).run_blocking().unwrap();
    perform(keyed(1, 2)).state(notes.clone()).run_blocking().unwrap();
    assert_eq!(notes.all(), ["stored 7 text 1", "keyed 1 2"]);
    // Of the three attempts that the task has, in its queue.
    perform(told()).state(notes.clone()).run_blocking().unwrap();
    perform(told().max_attempts(1).queue("x")).state(notes.clone()).run_blocking().unwrap();
    assert_eq!(notes.all()[2..], ["mail false", "x true"]);
}

#[deferred_task(durable, name = "told", queue = "mail", max_attempts = 3)]
fn told(#[state] notes: &Notes, #[state] attempt: Attempt) {
    notes.add(format!("{} {}", attempt.queue(), attempt.is_last()));
}

/// T10
#[tokio::test]
async fn t10_what_the_task_returns_is_returned() {
    let notes = Notes::default();
    let failed = perform(stored(7, "fails")).state(notes.clone()).run().await.unwrap_err();
    assert_eq!(failed.to_string(), "it failed");
    let discarded = perform(stored(7, "gives up")).state(notes.clone()).run().await.unwrap_err();
    assert!(discarded.is::<diesel_deferred::Discard>());
    let panicked = perform(stored(7, "panics")).state(notes.clone()).run().await.unwrap_err();
    assert_eq!(panicked.to_string(), "panicked: it panicked");
    let last = Attempt::for_test().with_number(3).with_max(3).with_queue("mail");
    assert!(last.is_last() && last.queue() == "mail");
    perform(stored(7, "")).state(notes.clone()).attempt(last).run().await.unwrap();
    assert_eq!(notes.all().last().map(String::as_str), Some("stored 7  3"));
    let lacks = perform(stored(7, "")).run().await.unwrap_err();
    assert!(lacks.to_string().contains("it takes a `#[state]` of type"), "{lacks}");
}

#[deferred_task(durable)]
pub(crate) fn measured_by(length: f64) {
    let _ = length;
}

/// T10, D23
#[test]
fn t10_what_would_not_come_back_from_its_row_is_an_error() {
    let refused = perform(measured_by(f64::NAN)).run_blocking().unwrap_err();
    assert!(refused.to_string().contains("`length`"), "{refused}");
    let refused = perform(measured_by(1.0).queue("")).run_blocking().unwrap_err();
    assert!(refused.to_string().contains("its queue is empty"), "{refused}");
}
