//! The statements for MySQL and MariaDB. Neither returns what an UPDATE changed, so that rows are
//! chosen, locked, and then changed.

use std::sync::Arc;
use std::time::Duration;

use diesel::result::{Error, QueryResult};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};

use super::floor::Start;
use super::statements::{
    BATCH, CLAIMED, ClaimedRow, ClaimedSql, ITS_TURN, Look, LookSql, RESCUE_STATE, RESCUED, RenewedSql, RescuedRow,
    RescuedSql, TAKE, rescue, settle,
};
use super::table::{Statements, WorkerConnection};
use super::{Claim, Lease, Settlement};
use crate::durable::call::milliseconds;
use crate::durable::clock::MYSQL_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;

impl WorkerConnection for AsyncMysqlConnection {
    type Statements = OnMysql;
}

/// The table on MySQL and MariaDB.
#[derive(Debug)]
pub struct OnMysql;

#[allow(private_interfaces, reason = "nobody can name the trait")]
impl Statements<AsyncMysqlConnection> for OnMysql {
    async fn prepare(conn: &mut AsyncMysqlConnection) -> QueryResult<()> {
        // Or a claim would lock the gaps between rows, and keep those from being written that
        // enqueue.
        conn.batch_execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await
    }

    async fn exchange(
        conn: &mut AsyncMysqlConnection,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
    ) -> QueryResult<Vec<Vec<ClaimedRow>>> {
        let (lease, settled, claims) = (*lease, settled.to_vec(), claims.to_vec());
        conn.transaction::<_, Error, _>(async move |conn| {
            for statement in settle(&lease, &settled, NOW) {
                statement.execute(conn).await?;
            }
            let mut rows = Vec::with_capacity(claims.len());
            for (claim, _) in &claims {
                rows.push(take(conn, &lease, claim).await?);
            }
            Ok(rows)
        })
        .await
    }

    async fn renew(
        conn: &mut AsyncMysqlConnection,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> QueryResult<Vec<(TaskId, bool)>> {
        let (who, tasks_of_ours) = (*lease, tasks.to_vec());
        // One that somebody is about to cancel is locked for as long as that transaction is open:
        // the others do not wait for it.
        conn.transaction::<_, Error, _>(async move |conn| {
            let choose =
                Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
                    .bind(who.worker)
                    .sql(" AND id IN (")
                    .list(tasks_of_ours)
                    .sql(") FOR UPDATE SKIP LOCKED");
            let free: Vec<(TaskId,)> = choose.load(conn).await?;
            if free.is_empty() {
                return Ok(());
            }
            let renew = Sql::<()>::new(format!("UPDATE deferred_tasks SET lease_until_ms = {NOW} + "))
                .bind(who.ms())
                .sql(" WHERE id IN (")
                .list(free.iter().map(|row| row.0))
                .sql(")");
            renew.execute(conn).await.map(drop)
        })
        .await?;
        let ours = Sql::<RenewedSql>::new(
            "SELECT id, cancel_requested FROM deferred_tasks WHERE state = 'running' AND worker = ",
        )
        .bind(lease.worker)
        .sql(" AND id IN (")
        .list(tasks.iter().copied())
        .sql(")");
        ours.load(conn).await
    }

    async fn look(conn: &mut AsyncMysqlConnection, queues: &[Arc<str>]) -> QueryResult<Look> {
        let look = Sql::<LookSql>::new(format!(
            "SELECT {NOW}, (SELECT MIN(run_at_ms) FROM deferred_tasks WHERE state = 'scheduled'), \
             (SELECT MIN(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
             (SELECT MIN(ended) FROM (SELECT MIN(ended_at_ms) AS ended FROM deferred_tasks WHERE state = 'dead' UNION ALL \
             SELECT MIN(ended_at_ms) FROM deferred_tasks WHERE state = 'cancelled') AS ends), \
             EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'ready' AND queue IN ("
        ))
        .list(queues.iter().map(|queue| &**queue))
        .sql(")), (SELECT MAX(version) FROM deferred_schema)");
        look.get_result(conn).await
    }

    async fn promote(conn: &mut AsyncMysqlConnection) -> QueryResult<usize> {
        let due = format!("state = 'scheduled' AND run_at_ms <= {NOW} ORDER BY run_at_ms");
        change(conn, due, "UPDATE deferred_tasks SET state = 'ready' WHERE id IN (".to_owned()).await
    }

    async fn rescue(conn: &mut AsyncMysqlConnection) -> QueryResult<Vec<RescuedRow>> {
        conn.transaction::<_, Error, _>(async move |conn| {
            let choose = Sql::<RescuedSql>::new(format!(
                "SELECT {RESCUED}, {RESCUE_STATE} FROM deferred_tasks WHERE state = 'running' AND lease_until_ms < {NOW} \
                 ORDER BY lease_until_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
            ));
            let rows: Vec<RescuedRow> = choose.load(conn).await?;
            if rows.is_empty() {
                return Ok(rows);
            }
            let rescue = Sql::<()>::new(rescue(NOW)).sql("id IN (");
            rescue.list(rows.iter().map(|row| row.0)).sql(")").execute(conn).await?;
            Ok(rows)
        })
        .await
    }

    async fn prune(conn: &mut AsyncMysqlConnection, kept: Duration) -> QueryResult<usize> {
        let kept = milliseconds(kept);
        let over = format!("state IN ('dead', 'cancelled') AND ended_at_ms < {NOW} - {kept}");
        change(conn, over, "DELETE FROM deferred_tasks WHERE id IN (".to_owned()).await
    }
}

/// Chooses rows that nobody else has locked, and does something with them.
async fn change(conn: &mut AsyncMysqlConnection, of: String, change: String) -> QueryResult<usize> {
    conn.transaction::<_, Error, _>(async move |conn| {
        let choose = Sql::<(SqlTaskId,)>::new(format!(
            "SELECT id FROM deferred_tasks WHERE {of} LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
        ));
        let rows: Vec<(TaskId,)> = choose.load(conn).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let change = Sql::<()>::new(change).list(rows.iter().map(|row| row.0)).sql(")");
        change.execute(conn).await?;
        Ok(rows.len())
    })
    .await
}

async fn take(conn: &mut AsyncMysqlConnection, lease: &Lease, claim: &Claim) -> QueryResult<Vec<ClaimedRow>> {
    let queue = &*claim.queue;
    let choose = Sql::<ClaimedSql>::new(format!(
        "SELECT {CLAIMED} FROM deferred_tasks AS c WHERE NOT EXISTS (SELECT 1 FROM deferred_paused_queues AS p WHERE p.queue = "
    ))
    .bind(queue)
    .sql(") AND c.state = 'ready' AND c.queue = ")
    .bind(queue)
    .sql(format!(" AND {ITS_TURN} ORDER BY c.priority, c.run_at_ms, c.id LIMIT "))
    .bind(i64::from(claim.limit))
    .sql(" FOR UPDATE SKIP LOCKED");
    let mut rows: Vec<ClaimedRow> = choose.load(conn).await?;
    if rows.is_empty() {
        return Ok(rows);
    }
    let take = Sql::<()>::new(format!("UPDATE deferred_tasks SET {TAKE}"))
        .bind(lease.worker)
        .sql(format!(", lease_until_ms = {NOW} + "))
        .bind(lease.ms())
        .sql(" WHERE id IN (")
        .list(rows.iter().map(|row| row.0))
        .sql(")");
    take.execute(conn).await?;
    for row in &mut rows {
        row.3 = row.3.saturating_add(1);
    }
    Ok(rows)
}
