//! What the statements of all databases have in common.
//!
//! Must not know: how a database takes them.

#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
use super::Lease;
use super::{Outcome, Settlement, WORKER_DIED};
use crate::durable::call::milliseconds;
use crate::durable::id::{SqlTaskId, TaskId};
#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
use crate::durable::sql::Sql;

use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text};

/// The rows of a claim.
pub(super) type ClaimedSql = (SqlTaskId, Text, Text, Integer, Integer, SmallInt, BigInt);

/// Id, task, payload, attempts that count, attempts at most, priority, and when it was due.
pub(super) type ClaimedRow = (TaskId, String, String, i32, i32, i16, i64);

/// The columns of one.
pub(super) const CLAIMED: &str = "id, task, payload, attempts - snoozes, max_attempts, priority, run_at_ms";

/// The rows of what is still ours.
pub(super) type RenewedSql = (SqlTaskId, Bool);

/// The row of a look: now, the next scheduled, the end of the next lease, the oldest end of a task,
/// whether anything is ready, and the version of the tables.
pub(super) type LookSql = (BigInt, Nullable<BigInt>, Nullable<BigInt>, Nullable<BigInt>, Bool, Nullable<Integer>);

/// See [`LookSql`].
#[derive(Debug, diesel::Queryable)]
#[diesel(sql_type = LookSql)]
pub(super) struct Look {
    pub(super) now_ms: i64,
    pub(super) next_scheduled_ms: Option<i64>,
    pub(super) next_lease_end_ms: Option<i64>,
    /// When the oldest of those ended that are kept.
    pub(super) oldest_end_ms: Option<i64>,
    pub(super) ready: bool,
    pub(super) version: Option<i32>,
}

/// Tasks of one key run one after the other, in the order of their ids: `c` has to wait while
/// another one of its key runs, or an earlier one is due or is being tried again. One that is
/// scheduled, and was never tried, keeps nobody waiting.
pub(super) const ITS_TURN: &str = "(c.task_key IS NULL OR NOT EXISTS (SELECT 1 FROM deferred_tasks e \
     WHERE e.task_key = c.task_key AND e.id <> c.id AND (e.state = 'running' OR (e.id < c.id \
     AND (e.state = 'ready' OR (e.state = 'scheduled' AND e.attempts > 0))))))";

/// What a claim does with a row. A number that somebody wrote by hand must not end the statement,
/// which is that of other rows too.
pub(super) const TAKE: &str = "state = 'running', unique_key = NULL, \
     attempts = CASE WHEN attempts < 2147483647 THEN attempts + 1 ELSE attempts END, worker = ";

/// What is left of a row that nobody runs any more.
pub(super) const LET_GO: &str = "worker = NULL, lease_until_ms = NULL";

/// One more snooze, or none, by a number that follows.
pub(super) const SNOOZES: &str = "snoozes = snoozes + CASE WHEN snoozes < 2147483647 THEN 1 ELSE 0 END * ";

/// The state of a row whose lease has ended: it goes back, or is given up.
pub(super) const RESCUE_STATE: &str = "CASE WHEN cancel_requested THEN 'cancelled' WHEN attempts - snoozes >= max_attempts THEN 'dead' \
     ELSE 'ready' END";

/// What is done with such rows, up to which they are; `now` is the SQL of the time. MySQL makes one
/// assignment after the other, the others all at once: what the state is made of goes behind it.
pub(super) fn rescue(now: &str) -> String {
    format!(
        "UPDATE deferred_tasks SET state = {RESCUE_STATE}, ended_at_ms = CASE WHEN ({RESCUE_STATE}) <> 'ready' THEN {now} END, \
         cancel_requested = FALSE, error = '{WORKER_DIED}', {LET_GO} WHERE "
    )
}

/// The rows of what was taken back: id, task, attempts that count, state.
pub(super) type RescuedSql = (SqlTaskId, Text, Integer, Text);

/// The columns of one, but for the state, which may be the one to come.
pub(super) const RESCUED: &str = "id, task, attempts - snoozes";

/// See [`RescuedSql`].
pub(super) type RescuedRow = (TaskId, String, i32, String);

/// How many rows are moved or deleted by one statement that tidies up.
pub(super) const BATCH: i32 = 1_000;

/// A row that an attempt leaves behind.
pub(super) struct Left<'s> {
    pub(super) state: &'static str,
    pub(super) delay_ms: Option<i64>,
    pub(super) error: Option<&'s str>,
    /// How many attempts did not count.
    pub(super) refund: i32,
    /// How many attempts asked to be run again.
    pub(super) snoozed: i32,
}

impl Settlement {
    /// The row that is left; `None` where it is deleted.
    pub(super) fn left(&self) -> Option<Left<'_>> {
        let left = |state| Left { state, delay_ms: None, error: None, refund: 0, snoozed: 0 };
        let ms = |after: &std::time::Duration| Some(milliseconds(*after));
        Some(match &self.outcome {
            Outcome::Done => return None,
            Outcome::Retry { after, error } => Left { delay_ms: ms(after), error: Some(error), ..left("scheduled") },
            // It counts for the lease, but not for the task.
            Outcome::Snoozed(after) => Left { delay_ms: ms(after), snoozed: 1, ..left("scheduled") },
            Outcome::Dead(error) => Left { error: Some(error), ..left("dead") },
            Outcome::Cancelled => left("cancelled"),
            Outcome::Released => Left { refund: 1, ..left("ready") },
        })
    }

    /// Those that ended well.
    pub(super) fn done(settled: &[Self]) -> Vec<TaskId> {
        settled
            .iter()
            .filter(|settlement| settlement.outcome == Outcome::Done)
            .map(|settlement| settlement.id)
            .collect()
    }
}

/// What tells of ends where there are no arrays: a statement for all that ended well, and one for
/// each other; `now` is the SQL of the time.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
pub(super) fn settle<'s>(lease: &Lease, settled: &'s [Settlement], now: &'static str) -> Vec<Sql<'s>> {
    let mut statements = Vec::new();
    let done = Settlement::done(settled);
    if !done.is_empty() {
        let delete = Sql::new("DELETE FROM deferred_tasks WHERE worker = ").bind(lease.worker);
        statements.push(delete.sql(" AND id IN (").list(done).sql(")"));
    }
    for settlement in settled {
        let Some(left) = settlement.left() else { continue };
        let goes_on = matches!(left.state, "scheduled" | "ready");
        // MySQL makes one assignment after the other, SQLite all at once: none looks at what
        // another one has changed before it.
        let update = Sql::new("UPDATE deferred_tasks SET state = CASE WHEN cancel_requested AND ")
            .bind(goes_on)
            .sql(" THEN 'cancelled' ELSE ")
            .bind(left.state)
            .sql(" END, ended_at_ms = CASE WHEN cancel_requested OR NOT ")
            .bind(goes_on)
            .sql(format!(" THEN {now} END, run_at_ms = "))
            .sql(if left.delay_ms.is_some() { now } else { "run_at_ms" })
            .sql(" + ")
            .bind(left.delay_ms.unwrap_or(0))
            .sql(", attempts = attempts - ")
            .bind(left.refund)
            .sql(format!(", {SNOOZES}"))
            .bind(left.snoozed)
            .sql(", error = COALESCE(")
            .bind(left.error)
            .sql(format!(", error), cancel_requested = FALSE, {LET_GO} WHERE id = "))
            .bind(settlement.id)
            .sql(" AND worker = ")
            .bind(lease.worker);
        statements.push(update);
    }
    statements
}
