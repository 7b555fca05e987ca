//! Runs one durable task, by itself.
//!
//! Must not know: any database.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tower_service::Service;

use crate::connection::finish;
use crate::dispatch::States;
use crate::durable::{Attempt, Durable, Handlers, Job, NewTask, Registry, find};
use crate::error::{BoxError, CannotStore};
use crate::panics::{caught, message};

/// Runs one call of a durable task as a worker would, without a database: its arguments go through the
/// payload of a row and back, and `#[state] attempt: Attempt` is the first one of those that the task has. What the task returns is
/// returned.
///
/// # Examples
/// ```
/// use diesel_deferred::testing::perform;
/// use diesel_deferred::{Attempt, BoxError, deferred_task};
///
/// struct Mailer;
///
/// #[deferred_task(durable)]
/// async fn send_receipt(#[state] _mailer: &Mailer, #[state] attempt: Attempt, order_id: i32) -> Result<(), BoxError> {
///     if order_id < 0 {
///         return Err(format!("no order {order_id}, in attempt {}", attempt.number()).into());
///     }
///     Ok(())
/// }
///
/// let failed = perform(send_receipt(-1)).state(Mailer).run_blocking();
/// assert_eq!(failed.unwrap_err().to_string(), "no order -1, in attempt 1");
/// ```
pub fn perform<T: Durable>(call: T) -> Perform {
    Perform { call: call.call(), states: States::default(), attempt: None }
}

/// How a call is run: see [`perform`].
#[must_use = "nothing runs until `run` or `run_blocking`"]
pub struct Perform {
    call: Result<NewTask, CannotStore>,
    states: States,
    attempt: Option<Attempt>,
}

impl Perform {
    /// A value that the task takes as `#[state]`.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Another attempt than the first one.
    pub fn attempt(mut self, attempt: Attempt) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// What the task returns, or its panic; what is wrong with its arguments or options; a `#[state]`
    /// that is missing.
    pub async fn run(self) -> Result<(), BoxError> {
        let running = self.running()?;
        caught(running).await.unwrap_or_else(|panic| Err(panicked(&message(panic))))
    }

    /// The same on a thread that may block: on a runtime of its own.
    ///
    /// # Errors
    /// As those of [`run`](Self::run).
    pub fn run_blocking(self) -> Result<(), BoxError> {
        finish(self.running()?).unwrap_or_else(|panic| Err(panicked(&panic)))
    }

    fn running(self) -> Result<BoxFuture<'static, Result<(), BoxError>>, BoxError> {
        let call = self.call?;
        let registry = Registry::collect(|task| task.name == call.task())
            .map_err(|(name, _)| format!("two durable tasks have the name `{name}`"))?;
        let task = find(&registry, call.task())?;
        let first = || {
            let first = Attempt::for_test().with_max(call.max_attempts.into());
            first.with_queue(&*call.queue)
        };
        let job = Job::new(self.attempt.unwrap_or_else(first), task, Arc::from(call.payload()));
        let mut handlers = Handlers { states: self.states };
        // On the runtime that it runs on.
        Ok(async move { handlers.call(job).await }.boxed())
    }
}

fn panicked(message: &str) -> BoxError {
    format!("panicked: {message}").into()
}

impl fmt::Debug for Perform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Perform").field("call", &self.call).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
