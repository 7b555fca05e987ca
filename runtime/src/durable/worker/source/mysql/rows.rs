//! What is done with rows whose ids are known.
//!
//! Must not know: why it is done.

use diesel::result::QueryResult;
use diesel_async::{AsyncMysqlConnection, RunQueryDsl};

use crate::durable::clock::MYSQL_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::Lease;
use crate::durable::worker::source::statements::{CLAIMED, ClaimedRow, ClaimedSql, LISTED, TAKE};

/// The table, for what locks rows by their ids. Where there are few, the server would read all of them
/// otherwise, or an index of them: it locks what it reads, and waits for who has it locked.
pub(super) const BY_ID: &str = "deferred_tasks FORCE INDEX (PRIMARY)";

/// The same of what deletes them.
pub(super) const DELETE: &str = "DELETE t FROM deferred_tasks AS t FORCE INDEX (PRIMARY)";

/// Locks those of these rows that nobody else has locked.
pub(super) async fn lock(conn: &mut AsyncMysqlConnection, tasks: &[TaskId]) -> QueryResult<Vec<TaskId>> {
    let mut locked = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(LISTED) {
        let lock = Sql::<(SqlTaskId,)>::new(format!("SELECT id FROM {BY_ID} WHERE id IN ("))
            .list(tasks.iter().copied())
            .sql(") FOR UPDATE SKIP LOCKED");
        locked.extend(lock.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    Ok(locked)
}

/// Starts these rows, which are locked, and reads them.
pub(super) async fn start(
    conn: &mut AsyncMysqlConnection,
    lease: &Lease,
    rows: &[TaskId],
) -> QueryResult<Vec<ClaimedRow>> {
    let mut started = Vec::with_capacity(rows.len());
    for rows in rows.chunks(LISTED) {
        let take = Sql::<()>::new(format!("UPDATE {BY_ID} SET {TAKE}"))
            .bind(lease.worker)
            .sql(format!(", started_at_ms = {NOW}, lease_until_ms = {NOW} + "))
            .bind(lease.ms())
            .sql(" WHERE id IN (")
            .list(rows.iter().copied())
            .sql(")");
        take.execute(conn).await?;
        let read = Sql::<ClaimedSql>::new(format!("SELECT {CLAIMED} FROM deferred_tasks WHERE id IN ("));
        started.extend(read.list(rows.iter().copied()).sql(")").load::<ClaimedRow>(conn).await?);
    }
    Ok(started)
}
