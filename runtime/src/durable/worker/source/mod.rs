//! Where a worker takes tasks from: the table, on one of three databases. A broker would be another
//! one of these.
//!
//! Must not know: how tasks are run.

#[cfg(feature = "testing")]
pub(crate) mod by_hand;
mod clock;
mod database;
mod deferring;
pub(super) mod floor;
#[cfg(feature = "async-mysql")]
mod hand_over;
#[cfg(feature = "async-mysql")]
mod mysql;
#[cfg(feature = "async-postgres")]
mod postgres;
#[cfg(feature = "async-sqlite")]
mod sqlite;
pub(super) mod statements;
mod table;
mod trouble;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(crate) use self::database::Opening;
pub(crate) use self::database::Statements;
pub use self::database::WorkerConnection;
pub(crate) use self::table::{Connect, Looking, Table, TableSource};
pub(crate) use self::trouble::{MissingRight, SourceError, Trouble};
use crate::durable::call::milliseconds;
use crate::durable::id::TaskId;

/// Where a worker takes tasks from.
pub(crate) trait Source: Send + 'static {
    /// Tells how attempts ended, then takes tasks, each of which is to be started at once. What it
    /// took is nobody else's until its lease ends.
    fn exchange(
        &mut self,
        settled: &[Settlement],
        claims: &[Claim],
    ) -> impl Future<Output = Result<Exchanged, SourceError>> + Send;

    /// Leaves rows at the front of a queue to a program that has their task, a batch at once; says how
    /// many. Those that such a program had offered again it leaves where they are: that one is about
    /// to claim them.
    fn park(&mut self, unknown: &Unknown) -> impl Future<Output = Result<usize, SourceError>> + Send;

    /// Renews the leases of these tasks. Returns which of them are still ours, and which of ours
    /// are to be cancelled.
    fn renew(&mut self, tasks: &[TaskId]) -> impl Future<Output = Result<Vec<Renewed>, SourceError>> + Send;

    /// What is ours by the table, and not among `held`, was taken by a statement whose answer got
    /// lost: it never ran, and anybody may take it. Asks only where there may be such tasks.
    fn give_back(
        &mut self,
        held: impl FnOnce() -> HashSet<TaskId> + Send,
    ) -> impl Future<Output = Result<usize, SourceError>> + Send;

    /// The periodic work: promotes what is due, and deletes rows that are kept no longer. Returns
    /// what the table has for the worker to do.
    fn tend(&mut self) -> impl Future<Output = Result<Outlook, SourceError>> + Send;

    /// Takes back the tasks whose lease has ended, and returns them. The leases of tasks that run
    /// here are renewed first.
    fn rescue(&mut self) -> impl Future<Output = Result<Vec<Rescued>, SourceError>> + Send;

    /// Whether something of the worker's queues is due, or becomes due by what is done periodically.
    fn has_due(&mut self) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// How much of each of the worker's queues is ready.
    fn waiting(&mut self) -> impl Future<Output = Result<Vec<Waiting>, SourceError>> + Send;

    /// Tasks were enqueued. They may have to start before those that were claimed last.
    fn called(&mut self) {}

    /// Waits for a hint that there may be tasks: of something that was enqueued, or because hints
    /// may have been missed. A source that gives no hints waits for ever.
    fn hinted(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why there may be tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Somebody says so.
    Called,
    /// The connection is lost, and with it what would have been said.
    Lost,
}

/// What an exchange did.
#[derive(Debug, Default)]
pub(crate) struct Exchanged {
    pub(crate) claimed: Vec<Claimed>,
    /// The lanes of which there may be more to take.
    pub(crate) hungry: Vec<usize>,
    /// The ends that could not be told now, because somebody has locked their rows.
    pub(crate) untold: Vec<TaskId>,
    /// What went wrong behind all that.
    pub(crate) error: Option<SourceError>,
    /// The lane of the claim that failed, and how long that took.
    pub(crate) failed: Option<(usize, Duration)>,
    /// The first lane behind it whose turn did not come.
    pub(crate) first: Option<usize>,
}

/// Who takes tasks, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    /// The worker. A new one each time that it starts: names would make a worker that died look
    /// alive when it is back.
    pub(crate) worker: TaskId,
    pub(crate) duration: Duration,
    /// Whether rows of tasks that ended well stay.
    pub(crate) keeps_done: bool,
}

impl Lease {
    fn ms(&self) -> i64 {
        milliseconds(self.duration)
    }
}

/// How many tasks of a queue are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// Its place in the worker's list.
    pub(crate) lane: usize,
    pub(crate) queue: Arc<str>,
    pub(crate) limit: u32,
    /// How many bytes of arguments are wanted; the first task is taken whatever it has.
    pub(crate) bytes: i64,
    /// There may be some that are ready; otherwise only those that become so by the ends that are
    /// told now.
    pub(crate) hungry: bool,
}

/// A task that this program does not have, of which rows stand at the front of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Unknown {
    pub(crate) queue: Arc<str>,
    pub(crate) task: String,
    /// What is said of it.
    pub(crate) error: String,
}

/// A task that was taken.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) lane: usize,
    pub(crate) id: TaskId,
    pub(crate) task: String,
    pub(crate) payload: String,
    /// The number of this attempt, from 1.
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    /// Whose tasks run one after the other.
    pub(crate) key: Option<String>,
    /// How often programs could not read it.
    pub(crate) refusals: i32,
    /// When it was due, by the clock of the database.
    pub(crate) run_at_ms: i64,
    /// When it was taken, by the clock of the database.
    pub(crate) started_at_ms: i64,
    /// What the call was a part of.
    pub(crate) trace_parent: Option<String>,
}

/// Without the arguments.
impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), attempt {} of {}", self.task, self.id, self.attempt, self.max_attempts)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settlement {
    pub(crate) id: TaskId,
    /// When it was taken: the same worker may have taken the task anew since then, and that attempt
    /// has not ended like this one. A statement whose answer got lost is sent again, or arrives late.
    /// Only what is done is done, whichever attempt that was.
    pub(crate) started_at_ms: i64,
    /// The key that it held.
    pub(crate) key: Option<String>,
    /// How many of its attempts were none: the task was taken anew while it ran here.
    pub(crate) unstarted: i32,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well: the row is deleted, or kept as a part of the history.
    Done,
    /// It failed, and is tried again after this time.
    Retry { after: Duration, error: String },
    /// It asked to be run again after this time, which was no failure.
    Snoozed(Duration),
    /// It is not tried again.
    Dead(String),
    /// It was cancelled while it ran.
    Cancelled,
    /// Anybody may take it. One that was not `started` was no attempt; one that was stopped with
    /// its worker was one.
    Released { started: bool },
    /// This program cannot read it. Another one may, and gets it after this time. It was no attempt.
    Refused { after: Duration, error: String },
}

impl Outcome {
    /// In how long the task is to run again.
    pub(crate) fn again(&self) -> Option<Duration> {
        match self {
            Self::Retry { after, .. } | Self::Snoozed(after) | Self::Refused { after, .. } => Some(*after),
            _ => None,
        }
    }
}

/// A task whose lease was extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewed {
    pub(crate) id: TaskId,
    pub(crate) cancel: bool,
}

/// A task whose lease had ended: the worker that had it died, or was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rescued {
    pub(crate) id: TaskId,
    pub(crate) task: String,
    /// The number of the attempt, from 1.
    pub(crate) attempt: i32,
    pub(crate) fate: Fate,
    /// What is said of that attempt.
    pub(crate) why: &'static str,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Anybody may take it.
    Again,
    /// That was its last attempt.
    Dead,
    /// It was to be cancelled.
    Cancelled,
}

/// What is said of its attempt.
pub(crate) const WORKER_DIED: &str =
    "its worker died during this attempt, or was cut off from the database for longer than the lease";

/// What is said of an attempt that was the last one, and was stopped with its worker.
pub(crate) const STOPPED_IN_LAST_ATTEMPT: &str = "its worker stopped during its last attempt";

/// What is said of a task that was given up although nobody has tried it.
pub(crate) const UNKNOWN_FOR_TOO_LONG: &str =
    "no program that worked on its queue had this task, or could read its arguments, for as long as such rows are kept";

/// How many calls of a queue are ready, and for how many milliseconds the oldest of them has been due.
/// Of more than [`COUNTED`] it is so many, those that are taken first.
pub(crate) type Waiting = (i64, Option<i64>);

/// How many calls of a queue are counted at most.
pub(crate) const COUNTED: usize = 10_000;

/// What a source knows of the time to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Whether there is something to take now.
    pub(crate) ready: bool,
    /// Whether there are leases that have ended.
    pub(crate) ended: bool,
    /// In how long something becomes due, as far as is known.
    pub(crate) next: Option<Duration>,
    /// What no program could read for so long that it was given up now.
    pub(crate) given_up: Vec<Rescued>,
}
