//! A durable call as the row that it becomes.
//!
//! Must not know: what a task is, the table's SQL, or when the rows are written.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;

use super::id::TaskId;
use super::payload::Payload;
use crate::report::{HookKind, PendingHook};
use crate::spans::Origin;

/// When a call is due, by the clock of the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Schedule {
    #[default]
    Now,
    AfterMs(i64),
    AtMs(i64),
}

/// A durable call on its way to its row: what `store_calls` of [`Deferrable`](crate::Deferrable) is
/// given, to hand it on to the connection that it holds.
///
/// Its `Debug` shows neither the arguments nor the key, which may be made of them.
#[derive(Clone, PartialEq, Eq)]
pub struct NewTask {
    pub(crate) id: TaskId,
    pub(crate) task: &'static str,
    pub(crate) queue: Cow<'static, str>,
    pub(crate) payload: Payload,
    pub(crate) priority: i16,
    pub(crate) max_attempts: u16,
    pub(crate) schedule: Schedule,
    pub(crate) key: Option<String>,
    /// What it is compared by with others of its task that wait.
    pub(crate) unique_key: Option<String>,
    /// Whether it takes the place of one that waits.
    pub(crate) replaces: bool,
    /// What the call was a part of.
    pub(crate) origin: Origin,
    pub(crate) call_site: &'static Location<'static>,
}

impl NewTask {
    /// The call's identity.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task's name.
    pub fn task(&self) -> &'static str {
        self.task
    }

    /// The arguments: a JSON object, with those that are `#[secret]`.
    pub fn payload(&self) -> &str {
        self.payload.json()
    }

    /// Its task and queue.
    pub(crate) fn kind(&self) -> (&'static str, &Cow<'static, str>) {
        (self.task, &self.queue)
    }

    /// How many bytes it takes that are not bounded by its columns.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.json().len()
    }

    pub(crate) fn describe(&self, depth: usize) -> PendingHook {
        PendingHook {
            task: self.task,
            arguments: self.payload.shown(),
            call_site: self.call_site,
            depth,
            kind: HookKind::Durable,
        }
    }
}

impl fmt::Debug for NewTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTask")
            .field("id", &self.id)
            .field("task", &self.task)
            .field("queue", &self.queue)
            .field("payload", &self.payload)
            .field("schedule", &self.schedule)
            .field("call_site", &self.call_site)
            .finish_non_exhaustive()
    }
}
