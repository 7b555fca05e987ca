//! The INSERT for MySQL and MariaDB.

use diesel::mysql::Mysql;

use super::{Outbox, TaskTable, values};
use crate::durable::clock;
use crate::durable::row::NewTask;
use crate::durable::sql::Sql;

impl Outbox<Mysql> for TaskTable {
    type Statement<'c> = Sql<'c>;

    // A prepared statement takes 65,535 values, and a call has twelve at most.
    const CALLS_IN_ONE_STATEMENT: usize = 5_000;

    fn insert(calls: &[NewTask]) -> Sql<'_> {
        let sql = values::insert(calls, clock::MYSQL_NOW_MS);
        if calls.iter().all(|call| call.unique_key.is_none()) {
            return sql;
        }
        // In place of INSERT IGNORE, which would ignore far more. The only other key is the id,
        // which nothing shares.
        sql.sql(
            " ON DUPLICATE KEY UPDATE id = IF(VALUES(replaces), VALUES(id), id), \
             queue = IF(VALUES(replaces), VALUES(queue), queue), payload = IF(VALUES(replaces), VALUES(payload), payload), \
             priority = IF(VALUES(replaces), VALUES(priority), priority), \
             max_attempts = IF(VALUES(replaces), VALUES(max_attempts), max_attempts), \
             freed_key = IF(VALUES(replaces) AND state IN ('ready', 'blocked'), task_key, freed_key), \
             refusals = IF(VALUES(replaces), 0, refusals), refused_at_ms = IF(VALUES(replaces), NULL, refused_at_ms), \
             error = IF(VALUES(replaces), NULL, error), started_at_ms = IF(VALUES(replaces), NULL, started_at_ms), \
             trace_parent = IF(VALUES(replaces), VALUES(trace_parent), trace_parent), \
             task_key = IF(VALUES(replaces), VALUES(task_key), task_key), \
             state = IF(VALUES(replaces), IF(freed_key IS NULL, VALUES(state), 'scheduled'), state), \
             run_at_ms = IF(VALUES(replaces), VALUES(run_at_ms), run_at_ms), \
             enqueued_at_ms = IF(VALUES(replaces), VALUES(enqueued_at_ms), enqueued_at_ms)",
        )
    }
}
