//! The INSERT for SQLite.

use diesel::sqlite::Sqlite;

use super::{Outbox, TaskTable, values};
use crate::durable::clock;
use crate::durable::row::NewTask;
use crate::durable::sql::Sql;

impl Outbox<Sqlite> for TaskTable {
    type Statement<'c> = Sql<'c>;

    // SQLite takes 32,766 values, and a call has twelve at most.
    const CALLS_IN_ONE_STATEMENT: usize = 2_500;

    fn insert(calls: &[NewTask]) -> Sql<'_> {
        let sql = values::insert(calls, clock::SQLITE_NOW_MS);
        if calls.iter().all(|call| call.unique_key.is_none()) {
            return sql;
        }
        sql.sql(
            " ON CONFLICT (task, unique_key) WHERE unique_key IS NOT NULL AND attempts = 0 \
             AND state IN ('ready', 'blocked', 'scheduled', 'unknown') DO UPDATE SET id = excluded.id, \
             queue = excluded.queue, payload = excluded.payload, priority = excluded.priority, \
             max_attempts = excluded.max_attempts, freed_key = COALESCE(deferred_tasks.task_key, deferred_tasks.freed_key), task_key = excluded.task_key, \
             state = excluded.state, run_at_ms = excluded.run_at_ms, enqueued_at_ms = excluded.enqueued_at_ms, \
             refusals = 0, refused_at_ms = NULL, error = NULL, started_at_ms = NULL WHERE excluded.replaces",
        )
    }
}
