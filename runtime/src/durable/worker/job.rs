//! One attempt of a durable task, as a worker's service is given it, and how it ends.
//!
//! Must not know: the table.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tower_service::Service;

use super::source::Outcome;
use crate::dispatch::{Required, States, on_a_thread, pause};
use crate::durable::payload::Undecodable;
use crate::durable::registry::{Registered, Registry};
use crate::durable::running::{Attempt, Discard, Running, Snooze};
use crate::error::BoxError;
use crate::spans::TaskSpan;

/// One attempt of a durable task: the request of a worker's service, for layers of tower's.
///
/// Its `Debug` does not show the arguments.
#[derive(Clone)]
pub struct Job {
    attempt: Attempt,
    task: &'static Registered,
    payload: Arc<str>,
    thread: Arc<Thread>,
}

/// A thread that nobody can stop, where the task runs on one.
#[derive(Debug, Default)]
struct Thread {
    runs: AtomicBool,
    ended: Notify,
}

impl Thread {
    fn begin(self: &Arc<Self>) -> RunningThread {
        self.runs.store(true, Ordering::SeqCst);
        RunningThread(Arc::clone(self))
    }
}

/// Dropped by the thread at its end.
struct RunningThread(Arc<Thread>);

impl Drop for RunningThread {
    fn drop(&mut self) {
        self.0.runs.store(false, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("task", &self.task.name).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(attempt: Attempt, task: &'static Registered, payload: Arc<str>) -> Self {
        Self { attempt, task, payload, thread: Arc::default() }
    }

    /// Whether a thread runs it at this moment.
    pub(super) fn is_blocking(&self) -> bool {
        self.thread.runs.load(Ordering::SeqCst)
    }

    /// Waits until no thread runs it any more.
    pub(super) async fn thread_ended(&self) {
        let mut ended = pin!(self.thread.ended.notified());
        ended.as_mut().enable();
        if self.is_blocking() {
            ended.await;
        }
    }

    /// The task's name.
    pub fn task(&self) -> &'static str {
        self.task.name
    }

    /// Which attempt it is, and of what.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// The arguments: a JSON object.
    pub fn payload(&self) -> &str {
        &self.payload
    }
}

/// What runs durable tasks: the innermost service, around which a worker puts its layers.
#[derive(Clone)]
pub struct Handlers {
    pub(crate) states: States,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("states", &self.states).finish()
    }
}

/// The future of a task's body.
pub struct Handling(Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>);

impl Future for Handling {
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handling")
    }
}

impl Service<Job> for Handlers {
    type Response = ();
    type Error = BoxError;
    type Future = Handling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Handling {
        let states = self.states.of_attempt(job.attempt.clone());
        let timeout = job.task.defaults.timeout;
        match job.task.start(&job.payload, &states) {
            Ok(Some(Running::Async(body))) => match timeout {
                Some(timeout) => Handling(Box::pin(within(timeout, body))),
                None => Handling(body),
            },
            Ok(Some(Running::Blocking(body))) => Handling(Box::pin(async move {
                let thread = job.thread.begin();
                let span = TaskSpan::current();
                let body = move || {
                    let _thread = thread;
                    span.run(body)
                };
                on_a_thread(body).await
            })),
            Ok(None) => {
                let lacks = |state: &&Required| !states.has(state);
                let state = job.task.states.iter().find(lacks).map_or("?", Required::name);
                let error = format!(
                    "it takes a `#[state]` of type `{state}`, which the worker does not have; add it with `.state(…)`"
                );
                Handling(Box::pin(std::future::ready(Err(error.into()))))
            }
            Err(undecodable) => Handling(Box::pin(std::future::ready(Err(undecodable.into())))),
        }
    }
}

/// An attempt took longer than its task allows.
#[derive(Debug, Clone, Copy)]
struct TimedOut(Duration);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out after {:?}", self.0)
    }
}

impl std::error::Error for TimedOut {}

async fn within(
    timeout: Duration,
    body: Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>,
) -> Result<(), BoxError> {
    match select(body, pin!(pause(timeout))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(TimedOut(timeout).into()),
    }
}

/// Finds the task of a row, and what is said where there is none.
pub(crate) fn find(registry: &Registry, name: &str) -> Result<&'static Registered, String> {
    registry.get(name).ok_or_else(|| {
        stored(format!(
            "this program has no durable task of the name `{name}`: another version of it may have, or it was removed or renamed while \
             the row waited, or its crate is not linked into the worker; bring it back, or write `was = \"{name}\"` on the one that it has become"
        ))
    })
}

/// Runs one attempt, and says how it ended. What is left of `call` is to be dropped with care.
pub(crate) async fn run<F>(job: &Job, call: Pin<&mut F>) -> Outcome
where
    F: Future<Output = Result<(), BoxError>>,
{
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(error)) => {
            let outcome = crate::panics::contain(|| outcome_of(job, &*error));
            // The error is a user's, and so is what its `Drop` does.
            let _ = crate::panics::contain(|| drop(error));
            outcome.unwrap_or_else(|message| failed(job, format!("its error panicked: {message}")))
        }
        Err(panic) => failed(job, format!("panicked: {}", crate::panics::message(panic))),
    }
}

fn outcome_of(job: &Job, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Outcome {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = String::new();
    for _ in 0..LONGEST_CHAIN {
        let Some(error) = source else { break };
        if let Some(snooze) = error.downcast_ref::<Snooze>() {
            return Outcome::Snoozed(snooze.after());
        }
        if let Some(discard) = error.downcast_ref::<Discard>() {
            return Outcome::Dead(stored(discard.to_string()));
        }
        if let Some(undecodable) = error.downcast_ref::<Undecodable>() {
            let error = stored(format!("its arguments are not those of `{}`: {undecodable}", job.task.name));
            return Outcome::Refused { after: Duration::ZERO, error };
        }
        let part = error.to_string();
        // Many errors say what their source says.
        if !text.contains(&part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&part);
        }
        source = match error.downcast_ref().and_then(std::io::Error::get_ref) {
            // It says what its content says, and hands out that one's source as its own.
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    failed(job, text)
}

/// It failed: another attempt, or none.
fn failed(job: &Job, error: String) -> Outcome {
    let error = stored(error);
    if job.attempt.is_last() {
        Outcome::Dead(error)
    } else {
        Outcome::Retry { after: backoff(job.task.defaults.backoff, job.attempt.number), error }
    }
}

/// How long a task waits at most before it is tried again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(6 * 60 * 60);

/// Twice as long after each attempt, a quarter more or less, so that what failed together is not
/// tried again together.
fn backoff(first: Duration, attempt: u32) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    doubled.min(LONGEST_BACKOFF).mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// How many sources of an error are looked at: one that is its own source has no end.
const LONGEST_CHAIN: usize = 100;

/// How many characters of an error are kept.
const LONGEST_ERROR: usize = 2_000;

/// As it can be stored: PostgreSQL knows no NUL.
fn stored(error: String) -> String {
    let mut error = error.replace('\0', "\u{fffd}");
    if let Some((end, _)) = error.char_indices().nth(LONGEST_ERROR) {
        error.truncate(end);
        error.push('…');
    }
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST_BACKOFF, backoff, stored};

    #[test]
    fn backoff_doubles_with_jitter_up_to_a_limit() {
        let first = Duration::from_secs(10);
        for (attempt, nominal) in [(1, 10.0), (2, 20.0), (5, 160.0), (40, LONGEST_BACKOFF.as_secs_f64())] {
            for _ in 0..100 {
                let waited = backoff(first, attempt).as_secs_f64();
                assert!((nominal * 0.75..=nominal * 1.25).contains(&waited), "attempt {attempt}: {waited}");
            }
        }
        let many: Vec<_> = (0..20).map(|_| backoff(first, 3)).collect();
        assert!(many.iter().any(|one| *one != many[0]), "no jitter");
    }

    #[test]
    fn an_error_is_stored_without_nul_and_not_at_any_length() {
        assert_eq!(stored("a\0b".into()), "a\u{fffd}b");
        assert_eq!(stored("ü".repeat(3_000)).chars().count(), 2_001);
    }
}
