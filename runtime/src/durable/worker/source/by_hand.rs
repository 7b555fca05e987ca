//! A worker's statements about one row, for any connection: a test runs tasks by its own, which may
//! be in a transaction that nobody else sees into.
//!
//! Must not know: who runs the tasks, or when.

use std::sync::LazyLock;

use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};

use super::statements::{EndWords, HOLDS, TAKE, UNIQUE_WAITS, rescue, settle};
use super::{Lease, Settlement};
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;

/// The rows of [`rows`]. Public, as what the hidden methods of the kit's trait return; nobody can name it.
#[allow(unreachable_pub, reason = "returned by hidden methods of public traits")]
pub type StoredSql =
    (SqlTaskId, Text, Text, Text, SmallInt, Integer, Integer, Nullable<Text>, BigInt, BigInt, Text, BigInt);

/// See [`StoredSql`].
#[derive(Debug, Clone, diesel::Queryable)]
#[diesel(sql_type = StoredSql)]
#[allow(unreachable_pub, reason = "returned by hidden methods of public traits")]
pub struct StoredTask {
    pub(crate) id: TaskId,
    pub(crate) task: String,
    pub(crate) queue: String,
    pub(crate) payload: String,
    pub(crate) priority: i16,
    /// Those that count.
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    pub(crate) key: Option<String>,
    pub(crate) run_at_ms: i64,
    pub(crate) enqueued_at_ms: i64,
    pub(crate) state: String,
    pub(crate) started_at_ms: i64,
}

fn rows() -> Sql<'static, StoredSql> {
    Sql::new(
        "SELECT c.id, c.task, c.queue, c.payload, c.priority, c.attempts - c.snoozes, c.max_attempts, c.task_key, c.run_at_ms, \
         c.enqueued_at_ms, c.state, COALESCE(c.started_at_ms, 0) FROM deferred_tasks AS c WHERE ",
    )
    .varying()
}

/// What waits or runs.
const LIVE: &str = "c.state IN ('ready', 'blocked', 'scheduled', 'running', 'unknown')";

/// What waits or runs of a task, in the order of the calls.
pub(crate) fn live(task: &'static str) -> Sql<'static, StoredSql> {
    rows().sql(LIVE).sql(" AND c.task = ").bind(task).sql(" ORDER BY c.id")
}

/// Some of what waits or runs of the others.
pub(crate) fn others(task: &'static str, limit: i64) -> Sql<'static, StoredSql> {
    rows().sql(LIVE).sql(" AND c.task <> ").bind(task).sql(" ORDER BY c.id LIMIT ").bind(limit)
}

/// The row of a task.
pub(crate) fn one(id: TaskId) -> Sql<'static, StoredSql> {
    rows().sql("c.id = ").bind(id)
}

/// Which rows are next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Next {
    /// Of this queue only.
    pub(crate) queue: Option<String>,
    /// Also what is due later.
    pub(crate) later: bool,
    /// These only.
    pub(crate) only: Option<Vec<TaskId>>,
    /// Not these.
    pub(crate) but: Vec<TaskId>,
    /// Only what was called before that one.
    pub(crate) up_to: Option<TaskId>,
}

/// The rows that are next: of those of one key the first.
pub(crate) fn next(next: &Next, limit: i64) -> Sql<'static, StoredSql> {
    let mut sql = rows().sql("(c.state IN ('ready', 'blocked', 'unknown') OR (c.state = 'scheduled'");
    if !next.later {
        sql = sql.sql(" AND c.run_at_ms <= ").now();
    }
    sql = sql.sql(format!(
        ")) AND NOT EXISTS (SELECT 1 FROM deferred_paused_queues AS p WHERE p.queue = c.queue) AND (c.task_key IS NULL \
         OR NOT EXISTS (SELECT 1 FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND h.id <> c.id \
         AND (h.state = 'running' OR (h.id < c.id AND ({HOLDS} OR h.state = 'blocked')))))"
    ));
    if let Some(queue) = &next.queue {
        sql = sql.sql(" AND c.queue = ").bind(queue.clone());
    }
    if let Some(last) = next.up_to {
        sql = sql.sql(" AND c.id <= ").bind(last);
    }
    if let Some(only) = &next.only {
        sql = sql.sql(" AND c.id IN (").list(only.iter().copied()).sql(")");
    }
    if !next.but.is_empty() {
        sql = sql.sql(" AND c.id NOT IN (").list(next.but.iter().copied()).sql(")");
    }
    sql.sql(" ORDER BY c.priority, c.run_at_ms, c.id LIMIT ").bind(limit)
}

/// An attempt begins, where the row still waits.
pub(crate) fn take(lease: &Lease, id: TaskId) -> Sql<'static> {
    Sql::new(format!("UPDATE deferred_tasks SET {TAKE}"))
        .bind(lease.worker)
        .sql(", started_at_ms = ")
        .now()
        .sql(", lease_until_ms = ")
        .now()
        .sql(" + ")
        .bind(lease.ms())
        .sql(" WHERE id = ")
        .bind(id)
        .sql(" AND state IN ('ready', 'blocked', 'scheduled', 'unknown')")
}

/// What a worker left that died; `now` is the SQL of the time.
pub(crate) fn expired(now: &'static str) -> Sql<'static> {
    Sql::new(rescue(now)).sql(format!("state = 'running' AND lease_until_ms < {now}"))
}

/// Tells how an attempt ended; `now` is the SQL of the time.
pub(crate) fn end<'s>(lease: &Lease, settlement: &'s Settlement, now: &'static str) -> Vec<Sql<'s>> {
    let words = EndWords { now, delete: "DELETE FROM deferred_tasks", forget_unique: &FORGET_UNIQUE };
    settle(lease, std::slice::from_ref(settlement), &words)
}

/// Where another one has come that is the same, this row is a second one from now on. `DISTINCT`,
/// because MySQL changes no table that it reads in the same statement.
static FORGET_UNIQUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE deferred_tasks AS t SET unique_key = NULL WHERE EXISTS (SELECT 1 FROM (SELECT DISTINCT o.task, o.unique_key \
         FROM deferred_tasks AS o WHERE {UNIQUE_WAITS}) AS o WHERE o.task = t.task AND o.unique_key = t.unique_key) AND t.id = "
    )
});

/// The row that is next of a key, where none holds it.
pub(crate) fn next_of_key(key: &str) -> Sql<'static, StoredSql> {
    rows()
        .sql("c.state = 'blocked' AND c.task_key = ")
        .bind(key.to_owned())
        .sql(format!(" AND NOT EXISTS (SELECT 1 FROM deferred_tasks AS h WHERE {HOLDS} AND h.task_key = c.task_key) ORDER BY c.id LIMIT 1"))
}

/// It is.
pub(crate) fn ready(id: TaskId) -> Sql<'static> {
    Sql::new("UPDATE deferred_tasks SET state = 'ready' WHERE state = 'blocked' AND id = ").bind(id)
}

/// Times pass: what waits is due so much earlier.
pub(crate) fn advance(by_ms: i64) -> [Sql<'static>; 2] {
    let waits = Sql::new("UPDATE deferred_tasks SET run_at_ms = run_at_ms - ")
        .bind(by_ms)
        .sql(", enqueued_at_ms = enqueued_at_ms - ")
        .bind(by_ms)
        .sql(" WHERE state IN ('ready', 'blocked', 'scheduled', 'unknown')");
    let runs = Sql::new("UPDATE deferred_tasks SET lease_until_ms = lease_until_ms - ")
        .bind(by_ms)
        .sql(", started_at_ms = started_at_ms - ")
        .bind(by_ms)
        .sql(" WHERE state = 'running'");
    [waits, runs]
}
