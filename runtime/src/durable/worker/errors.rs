//! What a worker tells: why it cannot work, which attempts failed, and what it left when it
//! stopped.
//!
//! Must not know: how it works.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use diesel::result::Error;

use super::source::MissingRight;
use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;
use crate::error::BoxError;

/// Why a worker cannot work.
#[non_exhaustive]
pub enum WorkerError {
    /// A name that two durable tasks have, or had by their `was = "…"`, so that nobody knows which
    /// of them a row means.
    #[non_exhaustive]
    DuplicateTask {
        /// The name.
        name: &'static str,
        /// Where they are: file and line.
        places: [String; 2],
    },
    /// A task of one of the worker's queues takes a `#[state]` that the worker does not have.
    #[non_exhaustive]
    MissingState {
        /// The task.
        task: &'static str,
        /// Where it is: file and line.
        place: String,
        /// The state's type.
        state: &'static str,
        /// The types that the worker has. An `Arc<T>` is no `T`.
        has: Vec<&'static str>,
    },
    /// [`run_until_empty`](crate::Worker::run_until_empty) could not reach the database at its start:
    /// there is no server at the URL, no such database or role, or the URL is none; or the server is just
    /// starting, has too many connections, or does not answer.
    #[non_exhaustive]
    Unreachable {
        /// What the client library says.
        source: BoxError,
    },
    /// The tables of durable tasks are not there, or not as the migrations left them.
    #[non_exhaustive]
    NoTables {
        /// What the database says.
        source: Error,
    },
    /// The worker's role lacks a right.
    #[non_exhaustive]
    MissingRight {
        /// Which one, where the database says so.
        right: Option<String>,
        /// What it is a right to: a table, or `schema …`, `database …`.
        to: String,
        /// What the database says.
        source: BoxError,
    },
    /// The tables were changed by a newer version of this crate, which this worker does not
    /// understand.
    #[non_exhaustive]
    NewerTables {
        /// The version of the tables.
        found: i32,
        /// The newest version that this worker knows.
        known: i32,
    },
    /// The tables are those of an older version of this crate.
    #[non_exhaustive]
    OlderTables {
        /// The version of the tables.
        found: i32,
        /// The version that this worker needs.
        needed: i32,
    },
}

/// All that a worker does.
const GRANTS: &str = "GRANT SELECT, UPDATE, DELETE ON deferred_tasks TO …; GRANT SELECT ON deferred_schema TO …; \
     GRANT SELECT ON deferred_paused_queues TO …";

impl WorkerError {
    pub(super) fn missing_right(MissingRight { right, to }: MissingRight, source: BoxError) -> Self {
        Self::MissingRight { right, to, source }
    }

    pub(super) fn older(found: i32) -> Self {
        Self::OlderTables { found, needed: SCHEMA_VERSION }
    }

    pub(super) fn newer(found: i32) -> Self {
        Self::NewerTables { found, known: SCHEMA_VERSION }
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateTask { name, places: [first, second] } => write!(
                f,
                "two durable tasks have the name `{name}`, or had it (`was = \"{name}\"`): the ones at {first} and at {second}; give one \
                 of them another with `#[deferred_task(durable, name = \"…\")]`, or remove it from `was`"
            ),
            Self::MissingState { task, place, state, has } => {
                write!(
                    f,
                    "the durable task `{task}` (at {place}) takes a `#[state]` of type `{state}`, which the worker does not have; add it \
                     with `.state(…)`, or leave the task's queue to another worker"
                )?;
                if has.is_empty() { Ok(()) } else { write!(f, ". The worker has `{}`", has.join("`, `")) }
            }
            Self::Unreachable { source } => write!(
                f,
                "the worker could not reach its database ({source}); look at its URL, and whether the server is there and takes connections"
            ),
            Self::NoTables { source } => write!(
                f,
                "the tables of durable tasks are not there, or were changed by hand ({source}); create them with \
                 `conn.run_pending_migrations(diesel_deferred::migrations())`"
            ),
            Self::MissingRight { right, to, source } => {
                match right {
                    Some(right) => write!(f, "the worker lacks the right {right} to {to}")?,
                    None => write!(f, "the worker lacks a right to {to}")?,
                }
                write!(f, " ({source}); its role needs `{GRANTS}`, and the schema or database that these are in")
            }
            Self::NewerTables { found, known } => write!(
                f,
                "the tables of durable tasks are of version {found}, and this worker knows versions up to {known}; deploy the worker \
                 with the version of diesel-deferred that migrated them. No task was lost"
            ),
            Self::OlderTables { found, needed } => write!(
                f,
                "the tables of durable tasks are of version {found}, and this worker needs version {needed}; run \
                 `conn.run_pending_migrations(diesel_deferred::migrations())` first. No task was lost. Tables of version 1 were those of a \
                 version that was never released: have its workers empty them, then revert that migration"
            ),
        }
    }
}

/// Its message: it is what a `main` prints that returns it.
impl fmt::Debug for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for WorkerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NoTables { source } => Some(source),
            Self::MissingRight { source, .. } | Self::Unreachable { source } => Some(&**source),
            Self::DuplicateTask { .. }
            | Self::MissingState { .. }
            | Self::NewerTables { .. }
            | Self::OlderTables { .. } => None,
        }
    }
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The call.
    pub id: TaskId,
    /// The task's name.
    pub task: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Whether it was the last one: the call is a dead letter now.
    pub is_dead: bool,
    /// What went wrong.
    pub error: String,
}

impl fmt::Display for FailedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_dead { "given up" } else { "will be tried again" };
        write!(f, "{} ({}, attempt {}, {end}): {}", self.task, self.id, self.attempt, self.error)
    }
}

/// What became of a worker's tasks when it stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerReport {
    /// How many attempts ended while it worked, well or not.
    pub ran: u64,
    /// How many tasks it gave back: those that it had not started, and those that it stopped at the
    /// end of the grace period.
    pub released: usize,
    /// The tasks that ran on when it stopped, because a blocking function cannot be stopped, and
    /// those whose end it could not tell the database. They are run again when their lease has
    /// ended.
    pub abandoned: Vec<AbandonedAttempt>,
    /// The tasks that this program does not have, or whose arguments it could not read, by name,
    /// and how often it left one to another program.
    pub refused: BTreeMap<String, u64>,
}

/// An attempt that a worker did not wait for when it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedAttempt {
    /// The call.
    pub id: TaskId,
    /// The task's name.
    pub task: String,
}

impl fmt::Display for AbandonedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.task, self.id)
    }
}

impl fmt::Display for WorkerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ran, released, abandoned, .. } = self;
        write!(f, "attempts that ran: {ran}, tasks given back: {released}, abandoned: {}", abandoned.len())?;
        self.abandoned.iter().try_for_each(|attempt| write!(f, "\n  {attempt}"))?;
        self.refused.iter().try_for_each(|(task, times)| write!(f, "\n  {task}: left to another program {times} times"))
    }
}
