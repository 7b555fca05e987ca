//! Runs the tasks of a worker's lanes: what becomes of one attempt, from the service's call to its
//! end.
//!
//! Must not know: where tasks come from, or when they are taken.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::errors::FailedAttempt;
use super::job::{self, Job};
use super::lane::{Lanes, SharedLanes, Stop};
use super::source::{Claimed, Fate, Outcome, Rescued, STOPPED_IN_LAST_ATTEMPT};
use crate::durable::id::TaskId;
use crate::durable::registry::Registry;
use crate::durable::running::Attempt;
use crate::error::BoxError;
use crate::metrics::{self, Attempts, End};
use crate::panics::contain;
use crate::report::emit;
use crate::spans::TaskSpan;

pub(super) type OnFailure = Box<dyn Fn(&FailedAttempt) + Send + Sync>;

/// So many ends do not wait.
pub(super) const ENOUGH: usize = 500;

/// What a worker shares with its runners.
pub(super) struct Shared<S> {
    pub(super) lanes: SharedLanes,
    queues: Vec<Arc<str>>,
    service: Mutex<S>,
    pub(super) registry: Registry,
    on_failure: Option<OnFailure>,
    /// An attempt has ended.
    pub(super) ended: Notify,
    pub(super) attempts: Attempts,
    ran: AtomicU64,
    /// The tasks that this program could not read: how many, and when that was told.
    refused: std::sync::Mutex<BTreeMap<String, (u64, Option<Instant>)>>,
}

/// How often it is told that a task could not be read.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How long a task waits that this program could not read: twice as long each time.
fn refused_for(refusals: i32) -> Duration {
    let times = u32::try_from(refusals).unwrap_or(0).min(10);
    Duration::from_secs(1)
        .saturating_mul(1 << times)
        .min(Duration::from_secs(600))
        .mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// How an attempt ended.
enum Ended {
    With(Outcome),
    /// The task is another worker's now: nobody is to be told.
    Elsewhere,
    /// It goes on, on a thread that nobody waits for.
    NotYet,
}

impl<S> Shared<S> {
    pub(super) fn new(
        lanes: Lanes,
        queues: Vec<Arc<str>>,
        service: S,
        registry: Registry,
        on_failure: Option<OnFailure>,
    ) -> Self {
        let (lanes, service) = (Arc::new(lanes), Mutex::new(service));
        Self {
            lanes,
            queues,
            service,
            registry,
            on_failure,
            ended: Notify::new(),
            attempts: Attempts::default(),
            ran: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// The tasks that this program could not read, and how many calls of each.
    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().map(|(task, (calls, _))| (task.clone(), *calls)).collect()
    }

    /// So many calls of this task were left to another program before they were claimed.
    pub(super) fn count_refused(&self, task: &str, calls: usize) {
        if calls > 0 {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.entry(task.to_owned()).or_insert((0, None)).0 += calls as u64;
        }
    }

    /// What the task of a row is called in this program, where it has that.
    fn name_of(&self, task: &str) -> Option<&'static str> {
        self.registry.get(task).map(|task| task.name)
    }

    /// Has what was taken counted.
    pub(super) fn count_claimed(&self, queues: &[Arc<str>], claimed: &[Claimed]) {
        let calls = claimed.iter();
        metrics::claimed(
            queues,
            calls.map(|call| (call.lane, self.name_of(&call.task), call.started_at_ms.saturating_sub(call.run_at_ms))),
        );
    }

    /// How many attempts have ended.
    pub(super) fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }
}

impl<S> Shared<S>
where
    S: Service<Job, Response = ()> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// Runs the tasks of a lane, one after the other, until nothing waits.
    pub(super) async fn work_on(&self, lane: usize) {
        while let Some((claimed, stop)) = self.lanes.next(lane) {
            let id = claimed.id;
            let begun = self.attempts.begin(lane, || self.name_of(&claimed.task));
            match self.attempt(claimed, stop).await {
                Ended::With(outcome) => {
                    if let Some(end) = end_of(&outcome) {
                        self.ran.fetch_add(1, Ordering::Relaxed);
                        self.attempts.ended(begun, end);
                    }
                    let (empty, count) = self.lanes.ended(lane, id, outcome);
                    if empty || count == 1 || count == ENOUGH {
                        self.ended.notify_one();
                    }
                }
                Ended::Elsewhere => self.lanes.forget(id),
                Ended::NotYet => {}
            }
        }
        self.ended.notify_one();
    }

    /// Runs one attempt.
    async fn attempt(&self, claimed: Claimed, stop: CancellationToken) -> Ended {
        let Claimed { lane, id, task: name, payload, attempt, max_attempts, refusals, trace_parent, .. } = claimed;
        if stop.is_cancelled() {
            return self.stopped(id, false, None);
        }
        let number = from_one(attempt);
        let failed = |is_dead, error: &str| FailedAttempt {
            id,
            task: name.clone(),
            attempt: number,
            is_dead,
            error: error.to_owned(),
        };
        let task = match job::find(&self.registry, &name) {
            Ok(task) => task,
            // A program that has it takes it, as soon as it looks.
            Err(error) => {
                self.tell_refusal(id, &name, &error);
                return Ended::With(Outcome::Refused { after: Duration::ZERO, error });
            }
        };
        let max = u32::try_from(max_attempts).unwrap_or(1);
        let attempt = Attempt { id, number, max, queue: Arc::clone(&self.queues[lane]) };
        let job = Job::new(attempt, task, payload.into());
        let span = TaskSpan::of_attempt(task.name, &self.queues[lane], id, number, trace_parent.as_deref());
        let mut call = Box::pin(span.of_future(self.call(job.clone())));
        let outcome = {
            let mut running = pin!(job::run(&job, call.as_mut()));
            match select(running.as_mut(), pin!(stop.cancelled())).await {
                Either::Left((outcome, _)) => Some(outcome),
                // A thread cannot be stopped.
                Either::Right(_) if job.is_blocking() && !self.lanes.why(id).is_some_and(Stop::is_end) => {
                    Some(running.as_mut().await)
                }
                Either::Right(_) => None,
            }
        };
        // What it holds is a user's, and so is what its `Drop` does.
        let _ = contain(|| drop(call));
        let Some(outcome) = outcome else {
            let last = job.attempt().is_last().then(|| failed(true, STOPPED_IN_LAST_ATTEMPT));
            return self.stopped(id, job.is_blocking(), last);
        };
        // A layer has given it up, but the thread goes on: nobody is to begin the task anew beside
        // it.
        while job.is_blocking() {
            if self.lanes.why(id).is_some_and(Stop::is_end) {
                return Ended::NotYet;
            }
            if stop.is_cancelled() {
                job.thread_ended().await;
            } else {
                select(pin!(job.thread_ended()), pin!(stop.cancelled())).await;
            }
        }
        if self.lanes.why(id) == Some(Stop::LeaseLost) {
            return Ended::Elsewhere;
        }
        match &outcome {
            Outcome::Retry { error, .. } => {
                span.failed(error);
                span.run(|| self.tell_failure(&failed(false, error)));
            }
            Outcome::Dead(error) => {
                span.failed(error);
                span.run(|| self.tell_failure(&failed(true, error)));
            }
            Outcome::Refused { error, .. } => self.tell_refusal(id, &name, error),
            _ => {}
        }
        Ended::With(match outcome {
            // Anybody may try, and this program, too: less and less often.
            Outcome::Refused { error, .. } => Outcome::Refused { after: refused_for(refusals), error },
            outcome => outcome,
        })
    }

    /// How an attempt ended that was stopped: one that had begun was an attempt, and `last` says
    /// that it was the last one.
    fn stopped(&self, id: TaskId, blocks: bool, last: Option<FailedAttempt>) -> Ended {
        match self.lanes.why(id) {
            Some(Stop::Cancelled) => Ended::With(Outcome::Cancelled),
            Some(Stop::LeaseLost | Stop::Dropped) => Ended::Elsewhere,
            Some(Stop::Shutdown) if blocks => Ended::NotYet,
            // Or its lease was lost, and is ours again.
            Some(Stop::Shutdown) | None => match last {
                Some(last) => {
                    self.tell_failure(&last);
                    Ended::With(Outcome::Dead(last.error))
                }
                None => Ended::With(Outcome::Released { started: self.lanes.has_started(id) }),
            },
        }
    }

    /// Asks the service, when it is ready.
    async fn call(&self, job: Job) -> Result<(), BoxError> {
        let called = {
            let mut service = self.service.lock().await;
            poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
            service.call(job)
        };
        called.await.map_err(Into::into)
    }

    /// Tells of the attempts whose workers died, each of which may have been its task's last.
    pub(super) async fn tell_rescued(&self, rescued: &[Rescued]) {
        for Rescued { id, task, attempt, fate, why } in rescued {
            if *fate != Fate::Cancelled {
                metrics::rescued(self.name_of(task), if *fate == Fate::Dead { End::Dead } else { End::Retried });
                self.tell_failure(&FailedAttempt {
                    id: *id,
                    task: task.clone(),
                    attempt: from_one(*attempt),
                    is_dead: *fate == Fate::Dead,
                    error: (*why).to_owned(),
                });
                tokio::task::yield_now().await;
            }
        }
    }

    /// Tells of a task that this program cannot read: once a minute for each name, or a deploy would
    /// fill the logs.
    fn tell_refusal(&self, id: TaskId, task: &str, error: &str) {
        let is_new = {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = refused.entry(task.to_owned()).or_insert((0, None));
            entry.0 += 1;
            let is_new = entry.1.is_none_or(|told: Instant| told.elapsed() >= TOLD_EVERY);
            if is_new {
                entry.1 = Some(Instant::now());
            }
            is_new
        };
        if is_new {
            emit(|| tracing::warn!(%id, task, error, "a durable task was left to another program, which can read it"));
        }
    }

    fn tell_failure(&self, failure: &FailedAttempt) {
        let FailedAttempt { id, task, attempt, is_dead, error } = failure;
        emit(|| {
            if *is_dead {
                tracing::error!(%id, task, attempt, error, "a durable task was given up");
            } else {
                tracing::warn!(%id, task, attempt, error, "an attempt of a durable task failed");
            }
        });
        if let Some(handler) = &self.on_failure {
            // It is a user's, and what it panics with has nobody to go to.
            let _ = contain(|| handler(failure));
        }
    }
}

/// How an attempt ended, where it was one.
fn end_of(outcome: &Outcome) -> Option<End> {
    match outcome {
        Outcome::Done | Outcome::Snoozed(_) | Outcome::Cancelled => Some(End::Well),
        Outcome::Retry { .. } => Some(End::Retried),
        Outcome::Dead(_) => Some(End::Dead),
        Outcome::Released { .. } | Outcome::Refused { .. } => None,
    }
}

/// The number of the attempt, as the row has it. It may have been changed by hand.
fn from_one(attempt: i32) -> u32 {
    u32::try_from(attempt).unwrap_or(1).max(1)
}
