//! Where durable calls are written: one statement for as many of them as it takes.
//!
//! Must not know: transactions, or who sends the statement.

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
mod mysql;
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "async-mysql", feature = "sqlite"))]
mod values;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::UNIX_EPOCH;

use diesel::backend::Backend;
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::result::Error;

use super::id::TaskId;
use super::row::{NewTask, Schedule};
use crate::error::{CannotStore, CommitError};

/// The table.
pub(crate) const TABLE: &str = "deferred_tasks";

/// How many calls of one savepoint are kept in memory: what is beyond is stored before the COMMIT.
/// Some 2 MB of small calls.
pub(crate) const SPILL_BEYOND: usize = 10_000;

/// How many bytes of their arguments are. A statement has several copies of them on their way to
/// the server.
pub(crate) const SPILL_BEYOND_BYTES: usize = BYTES_IN_ONE_STATEMENT / 2;

/// How many bytes of arguments go into one statement: a quarter of what MariaDB takes by default
/// (`max_allowed_packet`).
const BYTES_IN_ONE_STATEMENT: usize = 4 << 20;

/// A table that takes durable calls, on the backend `DB`. Another engine's table is another one of
/// these.
pub(crate) trait Outbox<DB: Backend> {
    /// What writes the calls.
    type Statement<'c>: QueryFragment<DB> + QueryId + Send;

    /// Whether a commit can tell the workers of other processes.
    const NOTIFIES: bool = false;

    /// How many calls one statement takes.
    const CALLS_IN_ONE_STATEMENT: usize;

    /// The one statement that writes these calls.
    fn insert(calls: &[NewTask]) -> Self::Statement<'_>;

    /// The statement that writes the first of the calls, and how many that are.
    fn first_insert(calls: &[NewTask]) -> (Self::Statement<'_>, usize) {
        let mut bytes = 0;
        let fit = calls.iter().take(Self::CALLS_IN_ONE_STATEMENT).take_while(|call| {
            let is_first = bytes == 0;
            bytes += call.bytes();
            is_first || bytes <= BYTES_IN_ONE_STATEMENT
        });
        let count = fit.count();
        (Self::insert(&calls[..count]), count)
    }

    /// What is said when that was sent.
    fn stored(count: usize) -> StoredCalls {
        StoredCalls { calls: count, notifies: Self::NOTIFIES }
    }
}

/// What `store_calls` of [`Deferrable`](crate::Deferrable) has written: what the connection that it
/// handed the calls on to says.
#[derive(Debug, Clone, Copy)]
pub struct StoredCalls {
    calls: usize,
    notifies: bool,
}

impl StoredCalls {
    /// How many calls that are.
    pub fn calls(self) -> usize {
        self.calls
    }

    /// Whether the COMMIT can tell the workers of other processes.
    pub(crate) fn notifies(self) -> bool {
        self.notifies
    }
}

/// Our own table.
#[derive(Debug)]
pub(crate) struct TaskTable;

/// What becomes of a call when one waits that has its `unique_key`: it takes that one's place, or is
/// dropped. Where that one had its place in the row of a key, a worker has to look who is next before the new one is ready:
/// a row can tell of one key that was left. The condition follows.
#[cfg(any(feature = "postgres", feature = "async-postgres", feature = "sqlite"))]
const ON_CONFLICT: &str = " ON CONFLICT (task, unique_key) WHERE unique_key IS NOT NULL AND attempts = 0 \
     AND state IN ('ready', 'blocked', 'scheduled', 'unknown') DO UPDATE SET id = excluded.id, \
     queue = excluded.queue, payload = excluded.payload, priority = excluded.priority, \
     max_attempts = excluded.max_attempts, task_key = excluded.task_key, \
     freed_key = CASE WHEN deferred_tasks.state IN ('ready', 'blocked') THEN deferred_tasks.task_key ELSE deferred_tasks.freed_key END, \
     state = CASE WHEN deferred_tasks.freed_key IS NOT NULL OR (deferred_tasks.state IN ('ready', 'blocked') \
     AND deferred_tasks.task_key IS NOT NULL) THEN 'scheduled' ELSE excluded.state END, \
     run_at_ms = excluded.run_at_ms, enqueued_at_ms = excluded.enqueued_at_ms, \
     refusals = 0, refused_at_ms = NULL, error = NULL, started_at_ms = NULL, trace_parent = excluded.trace_parent";

/// Whether the call may be due as soon as it is committed, by the clock of this machine: it decides
/// no more than whether workers are told.
pub(crate) fn is_due(call: &NewTask) -> bool {
    match call.schedule {
        Schedule::Now => true,
        Schedule::AfterMs(ms) => ms <= 0,
        Schedule::AtMs(ms) => {
            let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
            u128::try_from(ms).is_ok_and(|ms| ms <= now)
        }
    }
}

/// Whether any of these calls was a part of a trace. Otherwise the statement says nothing of that.
fn are_traced(calls: &[NewTask]) -> bool {
    calls.iter().any(|call| call.origin.trace_parent().is_some())
}

/// Which of these calls wait behind another one of them: those that are due, of a key of which an
/// earlier one is due. Of what else is in the table nobody asks here: who commits waits for nothing,
/// and reads nothing. A worker finds out when it takes them.
pub(crate) fn blocked(calls: &[NewTask]) -> Vec<bool> {
    let is_ready = |call: &NewTask| match call.schedule {
        Schedule::Now => true,
        Schedule::AfterMs(ms) => ms <= 0,
        Schedule::AtMs(_) => false,
    };
    // One that is `unique` may not be written.
    let mut first: HashMap<&str, TaskId> = HashMap::new();
    for call in calls.iter().filter(|call| is_ready(call) && call.unique_key.is_none()) {
        if let Some(key) = &call.key {
            let first = first.entry(key).or_insert(call.id);
            *first = call.id.min(*first);
        }
    }
    let waits = |call: &NewTask| {
        let first = call.key.as_deref().and_then(|key| first.get(key));
        is_ready(call) && first.is_some_and(|first| *first < call.id)
    };
    calls.iter().map(waits).collect()
}

impl NewTask {
    /// Makes one of several calls that are the same, because no statement can write a row that it
    /// has written. Those that may meet calls of other transactions are put in an order, so that
    /// two transactions never wait for each other.
    pub(crate) fn settle(calls: &mut Vec<Self>) {
        if calls.iter().all(|call| call.unique_key.is_none()) {
            return;
        }
        let mut seen: HashMap<(&str, String), usize> = HashMap::new();
        let mut dropped = vec![false; calls.len()];
        for (at, call) in calls.iter().enumerate() {
            let Some(unique_key) = &call.unique_key else { continue };
            match seen.entry((call.task, unique_key.clone())) {
                Entry::Vacant(entry) => drop(entry.insert(at)),
                Entry::Occupied(mut entry) if call.replaces => dropped[entry.insert(at)] = true,
                Entry::Occupied(_) => dropped[at] = true,
            }
        }
        let mut dropped = dropped.into_iter();
        calls.retain(|_| dropped.next() == Some(false));
        calls.sort_by(|a, b| (&a.unique_key, a.task).cmp(&(&b.unique_key, b.task)));
    }
}

/// A connection that is not one of Diesel's own, and does not say how rows are written.
pub(crate) fn no_outbox<C>(calls: &[NewTask]) -> Error {
    let Some(call) = calls.first() else { return Error::NotFound };
    CommitError::TaskCannotBeStored(CannotStore {
        task: call.task,
        call_site: call.call_site,
        reason: format!(
            "nobody knows how to write its row on a `{}`; write `store_calls` in its `impl Deferrable` (or `AsyncDeferrable`), which \
             hands the calls on to the connection that it holds",
            std::any::type_name::<C>()
        ),
    })
    .into()
}
