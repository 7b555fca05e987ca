//! The statements for SQLite, whose connection is a synchronous one: each round is one transaction
//! on a thread for blocking work, because it is commits that cost there.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::QueryResult;
use diesel::{RunQueryDsl, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

use super::floor::Start;
use super::statements::{
    BATCH, CLAIMED, ClaimedRow, ClaimedSql, ITS_TURN, Look, LookSql, RESCUED, RenewedSql, RescuedRow, RescuedSql, TAKE,
    rescue, settle,
};
use super::table::{Statements, WorkerConnection};
use super::{Claim, Lease, Settlement};
use crate::durable::call::milliseconds;
use crate::durable::clock::SQLITE_NOW_MS as NOW;
use crate::durable::id::TaskId;
use crate::durable::sql::Sql;

impl WorkerConnection for SyncConnectionWrapper<SqliteConnection> {
    type Statements = OnSqlite;
}

/// The table on SQLite.
#[derive(Debug)]
pub struct OnSqlite;

#[allow(private_interfaces, reason = "nobody can name the trait")]
impl Statements<SyncConnectionWrapper<SqliteConnection>> for OnSqlite {
    async fn prepare(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<()> {
        // One writes at a time: the others wait their turn, for five seconds at most.
        conn.spawn_blocking(|conn| conn.batch_execute("PRAGMA busy_timeout = 5000")).await
    }

    async fn exchange(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
    ) -> QueryResult<Vec<Vec<ClaimedRow>>> {
        let (lease, settled, claims) = (*lease, settled.to_vec(), claims.to_vec());
        conn.spawn_blocking(move |conn| {
            conn.immediate_transaction(|conn| {
                settle(&lease, &settled, NOW)
                    .into_iter()
                    .try_for_each(|statement| statement.execute(conn).map(drop))?;
                claims.iter().map(|(claim, _)| take(conn, &lease, claim)).collect()
            })
        })
        .await
    }

    async fn renew(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> QueryResult<Vec<(TaskId, bool)>> {
        let (lease, tasks) = (*lease, tasks.to_vec());
        conn.spawn_blocking(move |conn| {
            let renew = Sql::<RenewedSql>::new(format!("UPDATE deferred_tasks SET lease_until_ms = {NOW} + "))
                .bind(lease.ms())
                .sql(" WHERE state = 'running' AND worker = ")
                .bind(lease.worker)
                .sql(" AND id IN (")
                .list(tasks)
                .sql(") RETURNING id, cancel_requested");
            renew.load(conn)
        })
        .await
    }

    async fn look(conn: &mut SyncConnectionWrapper<SqliteConnection>, queues: &[Arc<str>]) -> QueryResult<Look> {
        let queues = queues.to_vec();
        conn.spawn_blocking(move |conn| {
            let look = Sql::<LookSql>::new(format!(
                "SELECT {NOW}, (SELECT min(run_at_ms) FROM deferred_tasks WHERE state = 'scheduled'), \
                 (SELECT min(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
                 (SELECT min(ended_at_ms) FROM deferred_tasks WHERE state IN ('dead', 'cancelled')), \
                 EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'ready' AND queue IN ("
            ))
            .list(queues.iter().map(|queue| &**queue))
            .sql(")), (SELECT max(version) FROM deferred_schema)");
            look.get_result(conn)
        })
        .await
    }

    async fn promote(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<usize> {
        conn.spawn_blocking(|conn| {
            let promote = Sql::<()>::new(format!(
                "UPDATE deferred_tasks SET state = 'ready' WHERE id IN (SELECT id FROM deferred_tasks \
                 WHERE state = 'scheduled' AND run_at_ms <= {NOW} ORDER BY run_at_ms LIMIT {BATCH})"
            ));
            promote.execute(conn)
        })
        .await
    }

    async fn rescue(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<Vec<RescuedRow>> {
        conn.spawn_blocking(|conn| {
            let rescue = Sql::<RescuedSql>::new(rescue(NOW)).sql(format!(
                "id IN (SELECT id FROM deferred_tasks WHERE state = 'running' AND lease_until_ms < {NOW} \
                 ORDER BY lease_until_ms LIMIT {BATCH}) RETURNING {RESCUED}, state"
            ));
            rescue.load(conn)
        })
        .await
    }

    async fn prune(conn: &mut SyncConnectionWrapper<SqliteConnection>, kept: Duration) -> QueryResult<usize> {
        let kept = milliseconds(kept);
        conn.spawn_blocking(move |conn| {
            let prune = Sql::<()>::new(format!(
                "DELETE FROM deferred_tasks WHERE id IN (SELECT id FROM deferred_tasks \
                 WHERE state IN ('dead', 'cancelled') AND ended_at_ms < {NOW} - {kept} LIMIT {BATCH})"
            ));
            prune.execute(conn)
        })
        .await
    }
}

fn take(conn: &mut SqliteConnection, lease: &Lease, claim: &Claim) -> QueryResult<Vec<ClaimedRow>> {
    let queue = &*claim.queue;
    let take = Sql::<ClaimedSql>::new(format!("UPDATE deferred_tasks SET {TAKE}"))
        .bind(lease.worker)
        .sql(format!(", lease_until_ms = {NOW} + "))
        .bind(lease.ms())
        .sql(
            " WHERE id IN (SELECT c.id FROM deferred_tasks AS c \
             WHERE NOT EXISTS (SELECT 1 FROM deferred_paused_queues WHERE queue = ",
        )
        .bind(queue)
        .sql(") AND c.state = 'ready' AND c.queue = ")
        .bind(queue)
        .sql(format!(" AND {ITS_TURN} ORDER BY c.priority, c.run_at_ms, c.id LIMIT "))
        .bind(i64::from(claim.limit))
        .sql(format!(") RETURNING {CLAIMED}"));
    take.load(conn)
}
