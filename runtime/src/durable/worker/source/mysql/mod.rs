//! The statements for MySQL and MariaDB. Neither returns what an UPDATE changed, so that rows are
//! chosen, locked, and then changed.

mod claim;
mod ends;
mod keys;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use diesel::OptionalExtension;
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{Integer, Text};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::time::Instant;

use self::claim::take;
use self::ends::tell;
use self::keys::elect;
use self::rows::{BY_ID, DELETE, lock};
use super::database::{Opening, Statements, WorkerConnection, in_time, statement_limit};
use super::floor::Start;
use super::statements::{
    BATCH, Ended, Exchange, LISTED, Look, LookSql, Manner, Mine, Past, PastSql, RESCUE_STATE, RESCUED, RenewedSql,
    RescuedRow, RescuedSql, Since, Unread, adopt, freed, has_due, in_order, keys_freed, keys_of_rescued, mine,
    next_unknown, park, rescue, start_anew, started_in_the_time_to_come, waiting,
};
use super::trouble::is_of_locks;
use super::{Claim, Lease, Settlement, Unknown, Waiting};
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
    type Session = AsyncMysqlConnection;

    async fn open(mut conn: AsyncMysqlConnection, opening: &Opening) -> QueryResult<AsyncMysqlConnection> {
        // With another isolation level a claim would lock the gaps between rows, and keep those
        // from being written that enqueue.
        //
        // The server gives up before the worker does: what goes on behind a lost connection would
        // take rows for nobody.
        let patience_s = statement_limit(opening.patience).as_secs().max(1);
        // It says that somebody has locked the tables before it says that a statement takes long.
        let lock_s = (patience_s - 1).max(1);
        let settings = format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; \
             SET SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = {lock_s}"
        );
        conn.batch_execute(&settings).await?;
        // MariaDB limits all statements, in seconds; MySQL, which does not know this one, none that
        // change something.
        let _ = conn.batch_execute(&format!("SET SESSION max_statement_time = {patience_s}")).await;
        Ok(conn)
    }

    async fn exchange(
        conn: &mut AsyncMysqlConnection,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        manner: Manner,
    ) -> QueryResult<Exchange> {
        let begin = Instant::now();
        // Where nothing else is known to be ready, who is next of a key starts at once, and nothing is
        // left to be claimed.
        let usual = !settled.is_empty() && settled.iter().all(|settlement| settlement.left().is_none());
        let hands_over = usual && manner != Manner::Careful && claims.iter().all(|(claim, _)| !claim.hungry);
        let readied = settled.iter().any(|settlement| settlement.key.is_some());
        if hands_over {
            match tell(conn, lease, settled, claims).await {
                Ok((next, untold)) => {
                    return Ok(Exchange { untold, taken: next.taken, readied: next.others, ..Exchange::default() });
                }
                // To see that no other row runs of a key, InnoDB locks the key behind it, too, for which
                // it waits for whoever has ended that one. The ends need none of these locks, and who is
                // next becomes ready.
                Err(error) if readied && is_of_locks(&error) => {
                    let (_, untold) = tell(conn, lease, settled, &[]).await?;
                    return Ok(Exchange { untold, readied, in_the_way: true, ..Exchange::default() });
                }
                Err(error) => return Err(error),
            }
        }
        let (_, untold) = tell(conn, lease, settled, &[]).await?;
        let mut exchange = Exchange { untold, readied, ..Exchange::default() };
        for (claim, _) in claims {
            let claiming = Instant::now();
            if claiming.duration_since(begin) > in_time(lease.duration) {
                break;
            }
            if !exchange.claimed(take(conn, lease, claim).await, claiming) {
                break;
            }
        }
        Ok(exchange)
    }

    async fn mine(conn: &mut AsyncMysqlConnection, lease: &Lease) -> QueryResult<Vec<Mine>> {
        mine(lease).load(conn).await
    }

    async fn park(conn: &mut AsyncMysqlConnection, unknown: &Unknown) -> QueryResult<usize> {
        let unknown = unknown.clone();
        conn.transaction::<_, Error, _>(async move |conn| {
            // Those between them, which others may be about to claim, are not locked.
            let front = Sql::<(SqlTaskId, Text, Integer)>::new(
                "SELECT id, task, refusals FROM deferred_tasks WHERE state = 'ready' AND queue = ",
            )
            .bind(&*unknown.queue)
            .sql(format!(" ORDER BY priority, run_at_ms, id LIMIT {BATCH}"));
            let front: Vec<(TaskId, String, i32)> = front.load(conn).await?;
            let is_unknown = |(_, task, refusals): &&(TaskId, String, i32)| *task == unknown.task && *refusals == 0;
            let ids: Vec<_> = front.iter().filter(is_unknown).map(|row| row.0).collect();
            let ids = lock(conn, &ids).await?;
            if ids.is_empty() {
                return Ok(0);
            }
            park(&unknown, NOW).sql("id IN (").list(ids).sql(")").execute(conn).await
        })
        .await
    }

    async fn renew(
        conn: &mut AsyncMysqlConnection,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> QueryResult<Vec<(TaskId, bool)>> {
        let mut ours = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(LISTED) {
            ours.extend(renew(conn, lease, tasks).await?);
        }
        Ok(ours)
    }

    async fn look(conn: &mut AsyncMysqlConnection, from: &Since) -> QueryResult<Look> {
        let since_ms = from.since_ms.unwrap_or(i64::MIN);
        let look = Sql::<LookSql>::new(format!(
            "SELECT {NOW}, (SELECT MIN(run_at_ms) FROM deferred_tasks WHERE state = 'scheduled' AND run_at_ms >= "
        ))
        .bind(since_ms)
        .sql(
            "), (SELECT MIN(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
             EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'running' AND lease_until_ms >= ",
        )
        .bind(since_ms)
        .sql(format!(
            " AND lease_until_ms < {NOW}), EXISTS (SELECT 1 FROM deferred_tasks WHERE freed_key IS NOT NULL), \
             EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'ready' AND queue IN ("
        ))
        .list(from.queues.iter().map(|(queue, _)| &**queue))
        .sql("))");
        look.get_result(conn).await
    }

    async fn has_due(conn: &mut AsyncMysqlConnection, queues: &[Arc<str>]) -> QueryResult<bool> {
        has_due(queues, NOW).get_result(conn).await
    }

    async fn waiting(conn: &mut AsyncMysqlConnection, queues: &[Arc<str>]) -> QueryResult<Vec<Waiting>> {
        waiting(queues, NOW).load(conn).await.map(in_order)
    }

    async fn look_back(conn: &mut AsyncMysqlConnection) -> QueryResult<Past> {
        let look = Sql::<PastSql>::new(
            "SELECT (SELECT MIN(ended) FROM (SELECT MIN(ended_at_ms) AS ended FROM deferred_tasks WHERE state = 'dead' UNION ALL \
             SELECT MIN(ended_at_ms) FROM deferred_tasks WHERE state = 'cancelled') AS ends), \
             (SELECT MIN(refused_at_ms) FROM deferred_tasks WHERE state = 'unknown'), \
             (SELECT MAX(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), (SELECT MAX(version) FROM deferred_schema)",
        );
        look.get_result(conn).await
    }

    async fn promote(conn: &mut AsyncMysqlConnection) -> QueryResult<usize> {
        let due = format!("state = 'scheduled' AND run_at_ms <= {NOW} AND freed_key IS NULL ORDER BY run_at_ms");
        change(conn, due, format!("UPDATE {BY_ID} SET state = 'ready' WHERE id IN (")).await
    }

    async fn rescue(conn: &mut AsyncMysqlConnection) -> QueryResult<Vec<RescuedRow>> {
        // Those of a key of which somebody has the next row locked: later. The others do not wait.
        let mut stuck: Vec<String> = Vec::new();
        for _ in 0..3 {
            let mut found = Vec::new();
            let (but, stuck_now) = (&stuck, &mut found);
            let rescued = conn
                .transaction::<_, Error, _>(async move |conn| {
                    let mut choose = Sql::<RescuedSql>::new(format!(
                        "SELECT {RESCUED}, {RESCUE_STATE}, task_key FROM deferred_tasks WHERE state = 'running' \
                         AND lease_until_ms < {NOW}"
                    ));
                    if !but.is_empty() {
                        choose = choose.sql(" AND (task_key IS NULL OR task_key NOT IN (");
                        choose = choose.list(but.iter().map(String::as_str)).sql("))");
                    }
                    let choose = choose.sql(format!(" ORDER BY lease_until_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED"));
                    let rows: Vec<RescuedRow> = choose.load(conn).await?;
                    if rows.is_empty() {
                        return Ok(rows);
                    }
                    let rescue = Sql::<()>::new(rescue(NOW)).sql("id IN (");
                    rescue.list(rows.iter().map(|row| row.0)).sql(")").execute(conn).await?;
                    *stuck_now = elect(conn, &keys_of_rescued(&rows)).await?;
                    if stuck_now.is_empty() { Ok(rows) } else { Err(Error::RollbackTransaction) }
                })
                .await;
            match rescued {
                Err(Error::RollbackTransaction) => stuck.append(&mut found),
                rescued => return rescued,
            }
        }
        Ok(Vec::new())
    }

    async fn prune(conn: &mut AsyncMysqlConnection, ended: Ended, kept: Duration) -> QueryResult<usize> {
        let kept = milliseconds(kept);
        let mut pruned = 0;
        // One after the other: there is an index for each.
        let states: &[&str] = match ended {
            Ended::Well => &["done"],
            Ended::Otherwise => &["dead", "cancelled"],
        };
        for state in states {
            let over = format!(
                "state = '{state}' AND ended_at_ms < {NOW} - {kept} AND freed_key IS NULL ORDER BY ended_at_ms"
            );
            pruned += change(conn, over, format!("{DELETE} WHERE id IN (")).await?;
        }
        Ok(pruned)
    }

    async fn start_anew(conn: &mut AsyncMysqlConnection, lease: &Lease) -> QueryResult<usize> {
        change(conn, started_in_the_time_to_come(NOW, lease), start_anew(NOW, lease) + "id IN (").await
    }

    async fn give_up_refused(conn: &mut AsyncMysqlConnection, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        let after = milliseconds(after);
        conn.transaction::<_, Error, _>(async move |conn| {
            let choose = Sql::<RescuedSql>::new(format!(
                "SELECT {RESCUED}, 'dead', task_key FROM deferred_tasks WHERE state = 'unknown' \
                 AND refused_at_ms < {NOW} - {after} ORDER BY refused_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
            ));
            let rows: Vec<RescuedRow> = choose.load(conn).await?;
            if !rows.is_empty() {
                let give_up = Sql::<()>::new(format!(
                    "UPDATE deferred_tasks SET state = 'dead', ended_at_ms = {NOW} WHERE id IN ("
                ));
                give_up.list(rows.iter().map(|row| row.0)).sql(")").execute(conn).await?;
            }
            Ok(rows)
        })
        .await
    }

    async fn adopt(conn: &mut AsyncMysqlConnection, task: &str, unread: Unread) -> QueryResult<usize> {
        let task = task.to_owned();
        conn.transaction::<_, Error, _>(async move |conn| {
            let choose = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'unknown' AND task = ")
                .bind(task)
                .sql(unread.of_task(NOW))
                .sql(" FOR UPDATE SKIP LOCKED");
            let rows: Vec<(TaskId,)> = choose.load(conn).await?;
            if !rows.is_empty() {
                let adopt = Sql::<()>::new(adopt("least", NOW)).sql("id IN (");
                adopt.list(rows.iter().map(|row| row.0)).sql(")").execute(conn).await?;
            }
            Ok(rows.len())
        })
        .await
    }

    async fn free_keys(conn: &mut AsyncMysqlConnection, rows: &[(TaskId, String)]) -> QueryResult<usize> {
        let rows = rows.to_vec();
        conn.transaction::<_, Error, _>(async move |conn| {
            // Locked first: what leaves a key behind that is looked at again.
            let free = lock(conn, &rows.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await?;
            let seen: Vec<_> = rows.into_iter().filter(|(id, _)| free.contains(id)).collect();
            let mut keys = keys_freed(&seen);
            let stuck = elect(conn, &keys).await?;
            keys.retain(|(key, _)| !stuck.iter().any(|stuck| stuck == key));
            if keys.is_empty() {
                return Ok(0);
            }
            let clear = Sql::<()>::new("UPDATE deferred_tasks SET freed_key = NULL WHERE id IN (");
            let clear = clear.list(free).sql(") AND freed_key IN (");
            clear.list(keys.iter().map(|(key, _)| *key)).sql(")").execute(conn).await
        })
        .await
    }

    async fn next_unknown(conn: &mut AsyncMysqlConnection, behind: &str) -> QueryResult<Option<(String, bool)>> {
        next_unknown(behind, NOW).get_result(conn).await.optional()
    }

    async fn freed(conn: &mut AsyncMysqlConnection) -> QueryResult<Vec<(TaskId, String)>> {
        freed().load(conn).await
    }
}

/// Extends these leases.
async fn renew(conn: &mut AsyncMysqlConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
    let (who, tasks_of_ours) = (*lease, tasks.to_vec());
    // One that somebody is about to cancel is locked for as long as that transaction is open: the
    // others do not wait for it.
    conn.transaction::<_, Error, _>(async move |conn| {
        let choose = Sql::<(SqlTaskId,)>::new(format!("SELECT id FROM {BY_ID} WHERE state = 'running' AND worker = "))
            .bind(who.worker)
            .sql(" AND id IN (")
            .list(tasks_of_ours)
            .sql(") FOR UPDATE SKIP LOCKED");
        let free: Vec<(TaskId,)> = choose.load(conn).await?;
        if free.is_empty() {
            return Ok(());
        }
        let renew = Sql::<()>::new(format!("UPDATE {BY_ID} SET lease_until_ms = {NOW} + "))
            .bind(who.ms())
            .sql(" WHERE id IN (")
            .list(free.iter().map(|row| row.0))
            .sql(")");
        renew.execute(conn).await.map(drop)
    })
    .await?;
    let ours =
        Sql::<RenewedSql>::new("SELECT id, cancel_requested FROM deferred_tasks WHERE state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND id IN (")
            .list(tasks.iter().copied())
            .sql(")");
    ours.load(conn).await
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
