//! The tasks of the processes that are killed. They note that they begin, and that they end.

use std::panic::resume_unwind;
use std::time::Duration;

use diesel_deferred::{Attempt, BoxError, deferred_task};

use crate::journal::Journal;

/// Their queue: the workers of other tests have not what they need.
pub const QUEUE: &str = "crash";

/// Some tasks fail at their first attempt, so that retries are killed too.
fn ends_with(number: i32, attempt: &Attempt) -> Result<(), BoxError> {
    match (number % 11, attempt.number()) {
        (0, 1) => Err("the first attempt fails".into()),
        (5, 1) => resume_unwind(Box::new("the first attempt panics")),
        _ => Ok(()),
    }
}

fn begins(journal: &Journal, attempt: &Attempt, number: i32, task: &str) {
    journal.line(&format!("start {} {number} {task} {}", attempt.id(), attempt.number()));
}

fn ends(journal: &Journal, attempt: &Attempt, number: i32) -> Result<(), BoxError> {
    let fails = matches!((number % 11, attempt.number()), (0 | 5, 1));
    journal.line(&format!("end {} {}", attempt.id(), if fails { "failed" } else { "well" }));
    ends_with(number, attempt)
}

/// Up to 6 ms, another time for each.
fn work_of(number: i32) -> Duration {
    Duration::from_micros(u64::from(number.unsigned_abs()) * 7_919 % 6_000)
}

/// With a key it is `key-…`, without one `plain`.
#[deferred_task(durable, queue = "crash", backoff = "20ms")]
pub async fn brief(
    #[state] journal: &Journal,
    #[state] attempt: Attempt,
    number: i32,
    called: &str,
) -> Result<(), BoxError> {
    begins(journal, &attempt, number, called);
    tokio::time::sleep(work_of(number)).await;
    ends(journal, &attempt, number)
}

#[deferred_task(durable, queue = "crash", backoff = "20ms")]
pub fn blocking(#[state] journal: &Journal, #[state] attempt: Attempt, number: i32) -> Result<(), BoxError> {
    begins(journal, &attempt, number, "plain");
    std::thread::sleep(work_of(number));
    ends(journal, &attempt, number)
}

/// One that waits stays.
#[deferred_task(durable, queue = "crash", backoff = "20ms", unique, key = "{called}")]
pub async fn once(
    #[state] journal: &Journal,
    #[state] attempt: Attempt,
    number: i32,
    called: &str,
) -> Result<(), BoxError> {
    begins(journal, &attempt, number, called);
    tokio::time::sleep(work_of(number)).await;
    ends(journal, &attempt, number)
}

/// The newest one stays.
#[deferred_task(durable, queue = "crash", backoff = "20ms", unique = "replace", key = "{called}")]
pub async fn latest(
    #[state] journal: &Journal,
    #[state] attempt: Attempt,
    number: i32,
    called: &str,
) -> Result<(), BoxError> {
    begins(journal, &attempt, number, called);
    tokio::time::sleep(work_of(number)).await;
    ends(journal, &attempt, number)
}
