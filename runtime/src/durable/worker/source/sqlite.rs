//! The statements for SQLite, whose connection is a synchronous one: each round is one transaction
//! on a thread for blocking work, because it is commits that cost there.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::QueryResult;
use diesel::{OptionalExtension, RunQueryDsl, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use tokio::time::Instant;

use super::database::{Opening, Statements, WorkerConnection};
use super::floor::Start;
use super::statements::{
    BATCH, BLOCKED_BEFORE, CLAIMED, Candidate, CandidateSql, ClaimedRow, ClaimedSql, EndWords, Ended, Exchange, HOLDS,
    LISTED, LeftKey, Look, LookSql, Manner, Mine, Past, PastSql, RESCUED, RenewedSql, RescuedRow, RescuedSql, Since,
    TAKE, Taken, UNIQUE_WAITS, Unread, adopt, choose, freed, has_due, in_order, keys_freed, keys_of, keys_of_rescued,
    mine, next_unknown, park, rescue, settle, start_anew, started_in_the_time_to_come, waiting, wider,
};
use super::{Claim, Lease, Settlement, Unknown, Waiting};
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
    const HAS_ROLES: bool = false;

    type Session = SyncConnectionWrapper<SqliteConnection>;

    async fn open(mut conn: Self::Session, opening: &Opening) -> QueryResult<Self::Session> {
        // One writes at a time: the others wait their turn. Not for as long as the worker's patience
        // lasts, or a statement that it has given up would go on by itself.
        let wait_ms = milliseconds(opening.patience) / 2;
        conn.spawn_blocking(move |conn| conn.batch_execute(&format!("PRAGMA busy_timeout = {wait_ms}"))).await?;
        Ok(conn)
    }

    async fn exchange(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        _: Manner,
    ) -> QueryResult<Exchange> {
        let (lease, settled, claims) = (*lease, settled.to_vec(), claims.to_vec());
        conn.spawn_blocking(move |conn| {
            conn.immediate_transaction(|conn| {
                let words = EndWords { now: NOW, delete: "DELETE FROM deferred_tasks", forget_unique: &FORGET_UNIQUE };
                settle(&lease, &settled, &words)
                    .into_iter()
                    .try_for_each(|statement| statement.execute(conn).map(drop))?;
                elect(conn, &keys_of(&settled))?;
                let readied = settled.iter().any(|settlement| settlement.key.is_some());
                let mut exchange = Exchange { readied, ..Exchange::default() };
                for (claim, _) in &claims {
                    let claiming = Instant::now();
                    if !exchange.claimed(take(conn, &lease, claim), claiming) {
                        break;
                    }
                }
                Ok(exchange)
            })
        })
        .await
    }

    async fn mine(conn: &mut SyncConnectionWrapper<SqliteConnection>, lease: &Lease) -> QueryResult<Vec<Mine>> {
        let lease = *lease;
        conn.spawn_blocking(move |conn| mine(&lease).load(conn)).await
    }

    async fn park(conn: &mut SyncConnectionWrapper<SqliteConnection>, unknown: &Unknown) -> QueryResult<usize> {
        let unknown = unknown.clone();
        conn.spawn_blocking(move |conn| {
            let park = park(&unknown, NOW)
                .sql("task = ")
                .bind(&*unknown.task)
                .sql(" AND refusals = 0 AND id IN (SELECT id FROM deferred_tasks WHERE state = 'ready' AND queue = ")
                .bind(&*unknown.queue)
                .sql(format!(" ORDER BY priority, run_at_ms, id LIMIT {BATCH})"));
            park.execute(conn)
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
            let mut renewed = Vec::with_capacity(tasks.len());
            for tasks in tasks.chunks(LISTED) {
                let renew = Sql::<RenewedSql>::new(format!("UPDATE deferred_tasks SET lease_until_ms = {NOW} + "))
                    .bind(lease.ms())
                    .sql(" WHERE state = 'running' AND worker = ")
                    .bind(lease.worker)
                    .sql(" AND id IN (")
                    .list(tasks.iter().copied())
                    .sql(") RETURNING id, cancel_requested");
                renewed.extend(renew.load::<(TaskId, bool)>(conn)?);
            }
            Ok(renewed)
        })
        .await
    }

    async fn look(conn: &mut SyncConnectionWrapper<SqliteConnection>, from: &Since) -> QueryResult<Look> {
        let from = from.clone();
        conn.spawn_blocking(move |conn| {
            let since_ms = from.since_ms.unwrap_or(i64::MIN);
            let look = Sql::<LookSql>::new(format!(
                "SELECT {NOW}, (SELECT min(run_at_ms) FROM deferred_tasks WHERE state = 'scheduled' AND run_at_ms >= "
            ))
            .bind(since_ms)
            .sql(
                "), (SELECT min(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
                 EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'running' AND lease_until_ms >= ",
            )
            .bind(since_ms)
            .sql(format!(
                " AND lease_until_ms < {NOW}), EXISTS (SELECT 1 FROM deferred_tasks WHERE freed_key IS NOT NULL), \
                 EXISTS (SELECT 1 FROM deferred_tasks WHERE state = 'ready' AND queue IN ("
            ))
            .list(from.queues.iter().map(|(queue, _)| &**queue))
            .sql("))");
            look.get_result(conn)
        })
        .await
    }

    async fn has_due(conn: &mut SyncConnectionWrapper<SqliteConnection>, queues: &[Arc<str>]) -> QueryResult<bool> {
        let due = has_due(queues, NOW);
        conn.spawn_blocking(move |conn| due.get_result(conn)).await
    }

    async fn waiting(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        queues: &[Arc<str>],
    ) -> QueryResult<Vec<Waiting>> {
        let waiting = waiting(queues, NOW);
        conn.spawn_blocking(move |conn| waiting.load(conn).map(in_order)).await
    }

    async fn look_back(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<Past> {
        conn.spawn_blocking(|conn| {
            let look = Sql::<PastSql>::new(
                "SELECT (SELECT min(ended_at_ms) FROM deferred_tasks WHERE state IN ('dead', 'cancelled')), \
                 (SELECT min(refused_at_ms) FROM deferred_tasks WHERE state = 'unknown'), \
                 (SELECT max(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), (SELECT max(version) FROM deferred_schema)",
            );
            look.get_result(conn)
        })
        .await
    }

    async fn promote(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<usize> {
        conn.spawn_blocking(|conn| {
            let promote = Sql::<()>::new(format!(
                "UPDATE deferred_tasks SET state = 'ready' WHERE id IN (SELECT id FROM deferred_tasks \
                 WHERE state = 'scheduled' AND run_at_ms <= {NOW} AND freed_key IS NULL ORDER BY run_at_ms LIMIT {BATCH})"
            ));
            promote.execute(conn)
        })
        .await
    }

    async fn rescue(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<Vec<RescuedRow>> {
        conn.spawn_blocking(|conn| {
            conn.immediate_transaction(|conn| {
                let rescue = Sql::<RescuedSql>::new(rescue(NOW)).sql(format!(
                    "id IN (SELECT id FROM deferred_tasks WHERE state = 'running' AND lease_until_ms < {NOW} \
                     ORDER BY lease_until_ms LIMIT {BATCH}) RETURNING {RESCUED}, state, task_key"
                ));
                let rows: Vec<RescuedRow> = rescue.load(conn)?;
                elect(conn, &keys_of_rescued(&rows))?;
                Ok(rows)
            })
        })
        .await
    }

    async fn prune(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        ended: Ended,
        kept: Duration,
    ) -> QueryResult<usize> {
        let kept = milliseconds(kept);
        conn.spawn_blocking(move |conn| {
            let prune = Sql::<()>::new(format!(
                "DELETE FROM deferred_tasks WHERE id IN (SELECT id FROM deferred_tasks \
                 WHERE {} AND ended_at_ms < {NOW} - {kept} AND freed_key IS NULL ORDER BY ended_at_ms LIMIT {BATCH})",
                ended.states()
            ));
            prune.execute(conn)
        })
        .await
    }

    async fn start_anew(conn: &mut SyncConnectionWrapper<SqliteConnection>, lease: &Lease) -> QueryResult<usize> {
        let start = start_anew(NOW, lease) + &started_in_the_time_to_come(NOW, lease);
        conn.spawn_blocking(move |conn| Sql::<()>::new(start).varying().execute(conn)).await
    }

    async fn give_up_refused(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        after: Duration,
    ) -> QueryResult<Vec<RescuedRow>> {
        let after = milliseconds(after);
        conn.spawn_blocking(move |conn| {
            let give_up = Sql::<RescuedSql>::new(format!(
                "UPDATE deferred_tasks SET state = 'dead', ended_at_ms = {NOW} WHERE id IN (SELECT id FROM deferred_tasks \
                 WHERE state = 'unknown' AND refused_at_ms < {NOW} - {after} ORDER BY refused_at_ms LIMIT {BATCH}) \
                 RETURNING {RESCUED}, state, task_key"
            ));
            give_up.load(conn)
        })
        .await
    }

    async fn adopt(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        task: &str,
        unread: Unread,
    ) -> QueryResult<usize> {
        let task = task.to_owned();
        conn.spawn_blocking(move |conn| {
            let adopt = Sql::<()>::new(adopt("min", NOW))
                .sql("id IN (SELECT id FROM deferred_tasks WHERE state = 'unknown' AND task = ")
                .bind(task)
                .sql(unread.of_task(NOW))
                .sql(")");
            adopt.execute(conn)
        })
        .await
    }

    async fn free_keys(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        rows: &[(TaskId, String)],
    ) -> QueryResult<usize> {
        let rows = rows.to_vec();
        conn.spawn_blocking(move |conn| {
            conn.immediate_transaction(|conn| {
                let keys = keys_freed(&rows);
                elect(conn, &keys)?;
                let clear = Sql::<()>::new("UPDATE deferred_tasks SET freed_key = NULL WHERE id IN (");
                let clear = clear.list(rows.iter().map(|(id, _)| *id)).sql(") AND freed_key IN (");
                clear.list(keys.iter().map(|(key, _)| *key)).sql(")").execute(conn)
            })
        })
        .await
    }

    async fn next_unknown(
        conn: &mut SyncConnectionWrapper<SqliteConnection>,
        behind: &str,
    ) -> QueryResult<Option<(String, bool)>> {
        let behind = behind.to_owned();
        conn.spawn_blocking(move |conn| next_unknown(&behind, NOW).get_result(conn).optional()).await
    }

    async fn freed(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<Vec<(TaskId, String)>> {
        conn.spawn_blocking(|conn| freed().load(conn)).await
    }
}

/// The SQL of the row that runs of the key of `c`, which is in the way of `c`.
fn runs(key: &str) -> String {
    format!("(SELECT h.id FROM deferred_tasks AS h WHERE h.task_key = {key} AND h.state = 'running')")
}

/// The same of one that holds the key before `c`. By itself: in one condition with what runs, all that
/// holds the key would be read, and behind `c` there may be very many.
fn held_before(key: &str) -> String {
    format!("(SELECT h.id FROM deferred_tasks AS h WHERE h.task_key = {key} AND {HOLDS} AND h.id < c.id LIMIT 1)")
}

/// Has the first one that is blocked of each of these keys be ready, where nothing is in its way.
fn elect(conn: &mut SqliteConnection, keys: &[LeftKey<'_>]) -> QueryResult<()> {
    for keys in keys.chunks(LISTED) {
        let elect = Sql::<()>::new("UPDATE deferred_tasks SET state = 'ready' WHERE id IN (WITH k(key) AS (VALUES ");
        let elect = elect.rows(keys.iter().map(|(key, _)| *key)).sql(format!(
            ") SELECT c.id FROM (SELECT key, (SELECT id FROM deferred_tasks WHERE task_key = k.key AND state = 'blocked' \
             ORDER BY id LIMIT 1) AS id FROM k) AS c WHERE c.id IS NOT NULL AND {} IS NULL AND {} IS NULL)",
            runs("c.key"),
            held_before("c.key")
        ));
        elect.execute(conn)?;
    }
    Ok(())
}

/// Where another one has come that is the same, this row, which is named behind it, is a second one
/// from now on.
static FORGET_UNIQUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE deferred_tasks AS t SET unique_key = NULL WHERE EXISTS (SELECT 1 FROM deferred_tasks AS o \
         WHERE o.task = t.task AND o.unique_key = t.unique_key AND {UNIQUE_WAITS}) AND t.id = "
    )
});

/// Claims from the front of the queue. Rows there that have to wait for others of their key are
/// moved out of the way, and out of the index.
fn take(conn: &mut SqliteConnection, lease: &Lease, claim: &Claim) -> QueryResult<Taken> {
    let mut look_at = i64::from(claim.limit);
    loop {
        let queue = &*claim.queue;
        let front = Sql::<CandidateSql>::new(format!(
            "SELECT c.id, length(CAST(c.payload AS BLOB)), CASE WHEN c.task_key IS NOT NULL THEN COALESCE({}, {}, \
             (SELECT b.id FROM deferred_tasks AS b WHERE {BLOCKED_BEFORE} LIMIT 1)) END \
             FROM deferred_tasks AS c WHERE NOT EXISTS (SELECT 1 FROM deferred_paused_queues WHERE queue = ",
            runs("c.task_key"),
            held_before("c.task_key")
        ))
        .bind(queue)
        .sql(") AND c.state = 'ready' AND c.queue = ")
        .bind(queue)
        .sql(" ORDER BY c.priority, c.run_at_ms, c.id LIMIT ")
        .bind(look_at);
        let seen: Vec<Candidate> = front.load(conn)?;
        let blocked: Vec<_> = seen.iter().filter(|row| row.behind.is_some()).map(|row| row.id).collect();
        for blocked in blocked.chunks(LISTED) {
            let block = Sql::<()>::new("UPDATE deferred_tasks SET state = 'blocked' WHERE id IN (");
            block.list(blocked.iter().copied()).sql(")").execute(conn)?;
        }
        let mut free = choose(&seen, claim.bytes);
        free.truncate(claim.limit as usize);
        let more =
            seen.len() >= usize::try_from(look_at).unwrap_or(usize::MAX) || free.len() + blocked.len() < seen.len();
        if free.is_empty() && more {
            look_at = wider(look_at).unwrap_or(look_at);
            continue;
        }
        let mut rows = Vec::with_capacity(free.len());
        for free in free.chunks(LISTED) {
            let take = Sql::<ClaimedSql>::new(format!("UPDATE deferred_tasks SET {TAKE}"))
                .bind(lease.worker)
                .sql(format!(", started_at_ms = {NOW}, lease_until_ms = {NOW} + "))
                .bind(lease.ms())
                .sql(" WHERE id IN (")
                .list(free.iter().copied())
                .sql(format!(") RETURNING {CLAIMED}"));
            rows.extend(take.load::<ClaimedRow>(conn)?);
        }
        return Ok(Taken { rows, more, ..Taken::default() });
    }
}
