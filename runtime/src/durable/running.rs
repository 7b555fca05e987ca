//! A durable task that is about to run: its body, what it is told of itself, and how it can ask for
//! another end than success or failure.
//!
//! Must not know: the table, or who runs it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::id::TaskId;
use crate::error::BoxError;
use crate::task::{Task, TaskOutput};

type BoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
type BoxBody = Box<dyn FnOnce() -> Result<(), BoxError> + Send>;

/// The body of a durable task.
#[doc(hidden)]
pub enum Running {
    /// Of an `async fn`.
    Async(BoxFuture),
    /// Of a plain function, which may block.
    Blocking(BoxBody),
}

impl Running {
    /// Of an `async fn`.
    pub fn spawned<T, F>(future: F) -> Self
    where
        T: Task,
        F: Future<Output = T::Output> + Send + 'static,
    {
        Self::Async(Box::pin(async move { future.await.into_result() }))
    }

    /// Of a plain function.
    pub fn blocking<T, F>(body: F) -> Self
    where
        T: Task,
        F: FnOnce() -> T::Output + Send + 'static,
    {
        Self::Blocking(Box::new(move || body().into_result()))
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Async(_) => "Async",
            Self::Blocking(_) => "Blocking",
        })
    }
}

/// What a worker tells a durable task of the attempt that it is: ask for it with
/// `#[state] attempt: Attempt`.
///
/// A durable task may run more than once, so that what it does elsewhere should be keyed by its
/// [`id`](Self::id).
///
/// # Examples
/// ```
/// use diesel_deferred::{Attempt, deferred_task};
///
/// #[deferred_task(durable)]
/// fn charge(#[state] attempt: Attempt, order_id: i64) {
///     println!("order {order_id}: Idempotency-Key {}, attempt {}", attempt.id(), attempt.number());
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub(crate) id: TaskId,
    pub(crate) number: u32,
    pub(crate) max: u32,
    pub(crate) queue: Arc<str>,
}

impl Attempt {
    /// One of nothing.
    #[cfg(feature = "worker")]
    pub(crate) fn example() -> Self {
        Self { id: TaskId::new(), number: 1, max: 1, queue: Arc::from("") }
    }

    /// The first one of twenty, of a call in the queue `default`: for a test that calls a task's body
    /// itself.
    ///
    /// # Examples
    /// ```
    /// use diesel_deferred::{Attempt, deferred_task};
    ///
    /// #[deferred_task(durable)]
    /// fn charge(#[state] attempt: Attempt, order_id: i64) -> Result<(), String> {
    ///     if attempt.is_last() { Err(format!("order {order_id} is lost")) } else { Ok(()) }
    /// }
    ///
    /// assert!(charge(7).run(Attempt::for_test()).is_ok());
    /// assert!(charge(7).run(Attempt::for_test().with_number(20)).is_err());
    /// ```
    #[cfg(feature = "testing")]
    pub fn for_test() -> Self {
        Self { id: TaskId::new(), number: 1, max: 20, queue: Arc::from("default") }
    }

    /// The same with another number, from 1.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_number(self, number: u32) -> Self {
        Self { number, ..self }
    }

    /// The same of so many.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_max(self, attempts: u32) -> Self {
        Self { max: attempts, ..self }
    }

    /// The same in another queue.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_queue(self, queue: impl Into<Arc<str>>) -> Self {
        Self { queue: queue.into(), ..self }
    }

    /// The call's identity: the same at each attempt.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether a failure would be the last one.
    pub fn is_last(&self) -> bool {
        self.number >= self.max
    }

    /// The queue that it was taken from.
    pub fn queue(&self) -> &str {
        &self.queue
    }
}

/// Returned as an error by a durable task, it has the task run again later; that was no failed
/// attempt.
///
/// It may be the error itself, or a source of it.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use diesel_deferred::{BoxError, Snooze, deferred_task};
///
/// # fn is_ready(_: i64) -> bool { false }
/// #[deferred_task(durable)]
/// fn collect(report_id: i64) -> Result<(), BoxError> {
///     if !is_ready(report_id) {
///         return Err(Snooze::new(Duration::from_secs(30)).into());
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snooze {
    after: Duration,
}

impl Snooze {
    /// Asks for another run after this time, and a second at least: a task that asks for less would
    /// keep its worker and the database busy.
    pub fn new(after: Duration) -> Self {
        Self { after: after.max(Duration::from_secs(1)) }
    }

    /// How long it asks to wait.
    pub fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Display for Snooze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snoozed for {:?}", self.after)
    }
}

impl Error for Snooze {}

/// Returned as an error by a durable task, it is not tried again: the task becomes a dead letter at
/// once.
///
/// It may be the error itself, or a source of it.
///
/// # Examples
/// ```
/// use diesel_deferred::{BoxError, Discard, deferred_task};
///
/// # fn is_open(_: i64) -> bool { false }
/// #[deferred_task(durable)]
/// fn send_statement(account_id: i64) -> Result<(), BoxError> {
///     if !is_open(account_id) {
///         return Err(Discard::new("the account was closed").into());
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discard {
    reason: String,
}

impl Discard {
    /// Gives the task up, for this reason, which the dead letter keeps.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// Why it is given up.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "discarded: {}", self.reason)
    }
}

impl Error for Discard {}
