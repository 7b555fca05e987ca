//! The statements for MySQL and MariaDB. Neither returns what an UPDATE changed, so that rows are
//! chosen, locked, and then changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diesel::OptionalExtension;
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{Integer, Nullable, Text};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::time::Instant;

use super::floor::Start;
use super::statements::{
    BATCH, CLAIMED, Candidate, CandidateSql, ClaimedRow, ClaimedSql, Ended, Exchange, LISTED, LeftKey, Look, LookSql,
    Manner, Mine, Past, PastSql, RESCUE_STATE, RESCUED, RenewedSql, RescuedRow, RescuedSql, Since, TAKE, Taken, Unread,
    adopt, choose, freed, has_due, in_order, keys_freed, keys_of, keys_of_rescued, mine, next_unknown, park, rescue,
    settle, start_anew, started_in_the_time_to_come, waiting, wider,
};
use super::table::{Opening, Statements, WorkerConnection, in_time, statement_limit};
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
        _: Manner,
    ) -> QueryResult<Exchange> {
        let begin = Instant::now();
        let untold = tell(conn, lease, settled).await?;
        let readied = settled.iter().any(|settlement| settlement.key.is_some());
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
        change(conn, due, "UPDATE deferred_tasks SET state = 'ready' WHERE id IN (".to_owned()).await
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
            pruned += change(conn, over, "DELETE FROM deferred_tasks WHERE id IN (".to_owned()).await?;
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

/// Locks those of these rows that nobody else has locked.
async fn lock(conn: &mut AsyncMysqlConnection, tasks: &[TaskId]) -> QueryResult<Vec<TaskId>> {
    let mut locked = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(LISTED) {
        let lock = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE id IN (")
            .list(tasks.iter().copied())
            .sql(") FOR UPDATE SKIP LOCKED");
        locked.extend(lock.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    Ok(locked)
}

/// Extends these leases.
async fn renew(conn: &mut AsyncMysqlConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
    let (who, tasks_of_ours) = (*lease, tasks.to_vec());
    // One that somebody is about to cancel is locked for as long as that transaction is open: the
    // others do not wait for it.
    conn.transaction::<_, Error, _>(async move |conn| {
        let choose = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
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
    let ours =
        Sql::<RenewedSql>::new("SELECT id, cancel_requested FROM deferred_tasks WHERE state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND id IN (")
            .list(tasks.iter().copied())
            .sql(")");
    ours.load(conn).await
}

/// Tells how attempts ended. Returns the ends that were not told, because somebody has locked their
/// rows, or the next row of their key.
async fn tell(conn: &mut AsyncMysqlConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<Vec<TaskId>> {
    let mut untold = Vec::new();
    let mut left = settled.to_vec();
    // A few times, then for the next round.
    for _ in 0..4 {
        if left.is_empty() {
            return Ok(untold);
        }
        let (who, ends, mut stuck) = (*lease, left.clone(), Vec::new());
        let told = conn
            .transaction::<_, Error, _>(async |conn| {
                // Whose rows are locked is not waited for: InnoDB would end one of two that wait for
                // each other.
                let ids: Vec<_> = ends.iter().map(|settlement| settlement.id).collect();
                let free: HashSet<_> = lock(conn, &ids).await?.into_iter().collect();
                let (ends, locked): (Vec<_>, Vec<_>) = ends.into_iter().partition(|end| free.contains(&end.id));
                for statement in settle(&who, &ends, NOW, Some(FORGET_UNIQUE)) {
                    statement.execute(conn).await?;
                }
                stuck = elect(conn, &keys_of(&ends)).await?;
                if stuck.is_empty() { Ok(locked) } else { Err(Error::RollbackTransaction) }
            })
            .await;
        match told {
            Ok(locked) => {
                // One that is not there any more is nobody's to be told of.
                let locked: Vec<_> = locked.iter().map(|settlement| settlement.id).collect();
                untold.extend(still_there(conn, lease, &locked).await?);
                return Ok(untold);
            }
            Err(Error::RollbackTransaction) => {}
            Err(error) => return Err(error),
        }
        let is_stuck = |settlement: &Settlement| settlement.key.as_ref().is_some_and(|key| stuck.contains(key));
        untold.extend(left.iter().filter(|settlement| is_stuck(settlement)).map(|settlement| settlement.id));
        left.retain(|settlement| !is_stuck(settlement));
    }
    untold.extend(left.iter().map(|settlement| settlement.id));
    Ok(untold)
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

/// Which of these are still ours.
async fn still_there(conn: &mut AsyncMysqlConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<TaskId>> {
    let mut ours = Vec::new();
    for tasks in tasks.chunks(LISTED) {
        let select = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND id IN (")
            .list(tasks.iter().copied())
            .sql(")");
        ours.extend(select.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    Ok(ours)
}

/// The SQL of the row that runs of a key. Each index is named: to have rows in the order of their ids,
/// MariaDB would read the table from its beginning.
fn runs(key: &str) -> String {
    format!(
        "(SELECT h.id FROM deferred_tasks AS h FORCE INDEX (deferred_tasks_running_key) WHERE h.running_key = {key})"
    )
}

/// The SQL of what is asked of the first row of a key in this column.
fn first(column: &str, what: &str, key: &str) -> String {
    format!(
        "(SELECT {what} FROM deferred_tasks AS h FORCE INDEX (deferred_tasks_{column}) WHERE h.{column} = {key} \
         ORDER BY h.{column}, h.id LIMIT 1)"
    )
}

/// Each of these keys, as `k.name`, with what is asked of it. To ask for the first row of each by one
/// GROUP BY would read all of them.
fn of_keys<'k, R>(what: &str, keys: impl Iterator<Item = &'k str>) -> Sql<'static, R> {
    let keys = serde_json::to_string(&keys.collect::<Vec<_>>()).unwrap_or_default();
    Sql::new(format!("SELECT k.name, {what} FROM JSON_TABLE("))
        .bind(keys)
        .sql(", '$[*]' COLUMNS (name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS k")
}

/// Has the first one that is blocked of each of these keys be ready, where nothing is in its way.
/// Returns the keys of which that one is locked by somebody.
async fn elect(conn: &mut AsyncMysqlConnection, keys: &[LeftKey<'_>]) -> QueryResult<Vec<String>> {
    let mut stuck = Vec::new();
    for keys in keys.chunks(LISTED) {
        let first = of_keys::<(Nullable<Text>, Nullable<SqlTaskId>)>(
            &self::first("blocked_key", "h.id", "k.name"),
            keys.iter().map(|(key, _)| *key),
        );
        let first: Vec<(Option<String>, Option<TaskId>)> = first.load(conn).await?;
        let mut first: HashMap<_, _> = first.into_iter().filter_map(|(key, id)| Some((key?, id?))).collect();
        if first.is_empty() {
            continue;
        }
        let held = of_keys::<(Nullable<Text>, Nullable<SqlTaskId>, Nullable<SqlTaskId>)>(
            &format!("{}, {}", runs("k.name"), self::first("held_key", "h.id", "k.name")),
            first.keys().map(String::as_str),
        );
        let held: Vec<(Option<String>, Option<TaskId>, Option<TaskId>)> = held.load(conn).await?;
        for (key, runs, holder) in held {
            let Some(key) = key else { continue };
            if runs.is_some() || first.get(&key).zip(holder).is_some_and(|(id, holder)| *id > holder) {
                first.remove(&key);
            }
        }
        let wanted: Vec<_> = first.values().copied().collect();
        let mut free = Vec::new();
        for wanted in wanted.chunks(LISTED) {
            let lock = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'blocked' AND id IN (")
                .list(wanted.iter().copied())
                .sql(") FOR UPDATE SKIP LOCKED");
            free.extend(lock.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
        }
        stuck.extend(first.into_iter().filter(|(_, id)| !free.contains(id)).map(|(key, _)| key));
        if !free.is_empty() {
            let elect = Sql::<()>::new("UPDATE deferred_tasks SET state = 'ready' WHERE id IN (");
            elect.list(free).sql(")").execute(conn).await?;
        }
    }
    Ok(stuck)
}

/// Where another one has come that is the same, this row, which is named behind it, is a second one
/// from now on.
const FORGET_UNIQUE: &str = "UPDATE deferred_tasks AS t JOIN deferred_tasks AS o ON o.task = t.task \
     AND o.waiting_unique_key = t.unique_key SET t.unique_key = NULL WHERE t.id = ";

/// Claims from the front of the queue. Rows there that have to wait for others of their key are
/// moved out of the way, and out of the index.
async fn take(conn: &mut AsyncMysqlConnection, lease: &Lease, claim: &Claim) -> QueryResult<Taken> {
    let mut look_at = i64::from(claim.limit);
    for _ in 0..LOOKS {
        let (lease, claim, at) = (*lease, claim.clone(), look_at);
        let (taken, moved) =
            conn.transaction::<_, Error, _>(async move |conn| take_of(conn, &lease, &claim, at).await).await?;
        if !taken.rows.is_empty() || !taken.more {
            return Ok(taken);
        }
        match wider(look_at) {
            Some(further) => look_at = further,
            // The same ones are in the way.
            None if !moved => break,
            None => {}
        }
    }
    Ok(Taken { more: true, ..Taken::default() })
}

/// How often a claim looks at more, before others have their turn.
const LOOKS: usize = 10;

/// Claims among so many rows at the front; says also whether it moved some out of the way.
async fn take_of(
    conn: &mut AsyncMysqlConnection,
    lease: &Lease,
    claim: &Claim,
    look_at: i64,
) -> QueryResult<(Taken, bool)> {
    let queue = &*claim.queue;
    // Of those that hold its key, and of those that are blocked, the first one says whether any stands
    // before it: a condition on the id would read all of them.
    let front = Sql::<CandidateSql>::new(format!(
        "SELECT c.id, CAST(LENGTH(c.payload) AS SIGNED), CASE WHEN c.task_key IS NOT NULL THEN COALESCE({}, {}, {}) END \
         FROM deferred_tasks AS c WHERE NOT EXISTS (SELECT 1 FROM deferred_paused_queues AS p WHERE p.queue = ",
        runs("c.task_key"),
        first("held_key", "CASE WHEN h.id < c.id THEN h.id END", "c.task_key"),
        first("blocked_key", "CASE WHEN h.id < c.id THEN h.id END", "c.task_key"),
    ))
    .bind(queue)
    .sql(") AND c.state = 'ready' AND c.queue = ")
    .bind(queue)
    .sql(" ORDER BY c.priority, c.run_at_ms, c.id LIMIT ")
    .bind(look_at)
    .sql(" FOR UPDATE SKIP LOCKED");
    let seen: Vec<Candidate> = front.load(conn).await?;
    let mut free = choose(&seen, claim.bytes);
    free.truncate(claim.limit as usize);
    let behind: Vec<_> = seen.iter().filter_map(|row| Some((row.id, row.behind?))).collect();
    let moved = block(conn, &behind).await?;
    let more = seen.len() >= usize::try_from(look_at).unwrap_or(usize::MAX) || free.len() + behind.len() < seen.len();
    let mut rows = Vec::with_capacity(free.len());
    for free in free.chunks(LISTED) {
        let take = Sql::<()>::new(format!("UPDATE deferred_tasks SET {TAKE}"))
            .bind(lease.worker)
            .sql(format!(", started_at_ms = {NOW}, lease_until_ms = {NOW} + "))
            .bind(lease.ms())
            .sql(" WHERE id IN (")
            .list(free.iter().copied())
            .sql(")");
        take.execute(conn).await?;
        let read = Sql::<ClaimedSql>::new(format!("SELECT {CLAIMED} FROM deferred_tasks WHERE id IN ("));
        rows.extend(read.list(free.iter().copied()).sql(")").load::<ClaimedRow>(conn).await?);
    }
    Ok((Taken { rows, more, ..Taken::default() }, moved))
}

/// Has rows that have to wait for others of their key be blocked; says whether there were any. Each
/// one that is in the way is locked meanwhile, so that it cannot end without seeing who waits
/// behind it.
async fn block(conn: &mut AsyncMysqlConnection, behind: &[(TaskId, TaskId)]) -> QueryResult<bool> {
    let mut holders: Vec<_> = behind.iter().map(|(_, holder)| *holder).collect();
    holders.sort_unstable();
    holders.dedup();
    let mut locked = HashSet::new();
    for holders in holders.chunks(LISTED) {
        let lock = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE held_key IS NOT NULL AND id IN (")
            .list(holders.iter().copied())
            .sql(") FOR UPDATE SKIP LOCKED");
        locked.extend(lock.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    let free: Vec<_> = behind.iter().filter(|(_, holder)| locked.contains(holder)).map(|(id, _)| *id).collect();
    for free in free.chunks(LISTED) {
        let block = Sql::<()>::new("UPDATE deferred_tasks SET state = 'blocked' WHERE id IN (");
        block.list(free.iter().copied()).sql(")").execute(conn).await?;
    }
    Ok(!free.is_empty())
}
