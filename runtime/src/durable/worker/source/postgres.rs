//! The statements for PostgreSQL. Lists of values go as one text each, so that the statements' own
//! text stays the same, and they stay prepared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::OptionalExtension;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::{join, join4};
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::floor::{Floor, Front, Start};
use super::statements::{
    BATCH, CLAIMED, ClaimedRow, Ended, Exchange, HOLDS, IN_THE_WAY, LET_GO, Look, LookSql, Manner, Past, PastSql,
    RESCUED, RenewedSql, RescuedRow, RescuedSql, Since, TAKE, Taken, UNIQUE_WAITS, freed, has_due, keep_done,
    keys_left, keys_of, next_unknown, park, rescue, start_anew, started_in_the_time_to_come, wider,
};
use super::table::{Statements, WorkerConnection, in_time, statement_limit};
use super::{Claim, Hint, Lease, Settlement, Unknown};
use crate::durable::call::milliseconds;
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;

/// A row that an attempt leaves behind, as JSON has it.
#[derive(Serialize)]
struct LeftRow<'s> {
    id: TaskId,
    state: &'static str,
    delay_ms: Option<i64>,
    error: Option<&'s str>,
    refund: i32,
    snoozed: i32,
    refused: bool,
}

/// Identifiers as PostgreSQL writes an array.
fn ids(tasks: &[TaskId]) -> String {
    let mut text = String::from("{");
    for (at, id) in tasks.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "," });
        text.push_str(&id.to_string());
    }
    text.push('}');
    text
}

/// Words as a JSON array.
fn words(words: &[&str]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

impl WorkerConnection for AsyncPgConnection {
    type Statements = OnPostgres;
}

/// The table on PostgreSQL.
#[derive(Debug)]
pub struct OnPostgres;

#[allow(private_interfaces, reason = "nobody can name the trait")]
impl Statements<AsyncPgConnection> for OnPostgres {
    async fn prepare(conn: &mut AsyncPgConnection, patience: Duration) -> QueryResult<()> {
        // What a worker writes may be lost when the server itself crashes: a task is run once more
        // then, which at-least-once allows. Not to wait for the disk is most of a small claim's
        // time.
        //
        // The table is empty at one moment and has a million rows at the next, so that statistics
        // are always of another time: a plan that was made while it was empty would read all of it
        // at each claim, until it is analyzed again. Each statement of ours has an index that has
        // its rows in its order, and none is better off without it. So the plans need not be made
        // anew each time either, which takes longer than a small claim, nor compiled.
        //
        // The server gives up before the worker does: what goes on behind a lost connection would
        // take rows for nobody. It waits for a lock for less time than it takes PostgreSQL to look
        // for a deadlock, which would then end somebody else's transaction.
        let statement_ms = milliseconds(statement_limit(patience));
        let settings = format!(
            "SET synchronous_commit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; \
             SET plan_cache_mode = force_generic_plan; SET jit = off; SET default_transaction_isolation = 'read committed'; \
             SET default_transaction_read_only = off; SET statement_timeout = {statement_ms}; SET lock_timeout = {LOCK_MS}; \
             SET idle_in_transaction_session_timeout = {statement_ms}"
        );
        conn.batch_execute(&settings).await
    }

    async fn listen(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        conn.batch_execute("LISTEN deferred_tasks").await
    }

    async fn exchange(
        conn: &mut AsyncPgConnection,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        manner: Manner,
    ) -> QueryResult<Exchange> {
        let begin = Instant::now();
        let mut exchange = Exchange::default();
        let mut claims = claims.iter();
        let usual = !settled.is_empty() && settled.iter().all(|settlement| settlement.left().is_none());
        if usual && manner != Manner::Careful {
            let told = match manner {
                Manner::AtOnce => {
                    // Nothing is waited for in between: what the ends leave free is free for the
                    // claim, which comes behind them.
                    let (shared, first) = (&*conn, claims.next());
                    let taken = async {
                        match first {
                            Some((claim, start)) => Some(take_all(shared, lease, claim, *start).await),
                            None => None,
                        }
                    };
                    let (told, taken) = join(tell_at_once(shared, lease, settled), taken).await;
                    match taken {
                        Some(Ok(taken)) => exchange.taken.push(taken),
                        Some(Err(error)) => exchange.error = Some((error, begin.elapsed())),
                        None => {}
                    }
                    told
                }
                _ => tell_one_by_one(conn, lease, settled).await,
            };
            if let Err(error) = told {
                // Most likely a lock. What else it may be comes back.
                match tell(conn, lease, settled, Manner::Careful).await {
                    Ok(untold) => exchange.untold = untold,
                    // What was taken must not get lost.
                    Err(_) if exchange.taken.iter().any(|taken| !taken.rows.is_empty()) => {
                        exchange.untold = settled.iter().map(|settlement| settlement.id).collect();
                        exchange.error = Some((error, begin.elapsed()));
                    }
                    Err(error) => return Err(error),
                }
            }
        } else {
            exchange.untold = tell(conn, lease, settled, manner).await?;
        }
        if exchange.error.is_some() {
            return Ok(exchange);
        }
        for (claim, start) in claims {
            let claiming = Instant::now();
            if claiming.duration_since(begin) > in_time(lease.duration) {
                break;
            }
            match take_all(conn, lease, claim, *start).await {
                Ok(taken) => exchange.taken.push(taken),
                Err(error) => {
                    exchange.error = Some((error, claiming.elapsed()));
                    break;
                }
            }
        }
        Ok(exchange)
    }

    async fn mine(conn: &mut AsyncPgConnection, lease: &Lease) -> QueryResult<Vec<(TaskId, Option<String>)>> {
        let mine = Sql::<(SqlTaskId, Nullable<Text>)>::new(
            "SELECT id, task_key FROM deferred_tasks WHERE state = 'running' AND worker = ",
        )
        .bind(lease.worker);
        mine.load(conn).await
    }

    async fn park(conn: &mut AsyncPgConnection, unknown: &Unknown) -> QueryResult<usize> {
        // Those between them, which others may be about to claim, are not locked.
        let park = park(unknown, &format!("(SELECT {NOW})"))
            .sql("id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND task = ")
            .bind(&*unknown.task)
            .sql(
                " AND refusals = 0 AND id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND queue = ",
            )
            .bind(&*unknown.queue)
            .sql(format!(" ORDER BY priority, run_at_ms, id LIMIT {BATCH})) FOR UPDATE SKIP LOCKED))"));
        park.execute(conn).await
    }

    async fn renew(conn: &mut AsyncPgConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
        let list = ids(tasks);
        // One that somebody is about to cancel is locked for as long as that transaction is open:
        // the others do not wait for it.
        let renew = Sql::<()>::new(format!("UPDATE deferred_tasks SET lease_until_ms = (SELECT {NOW}) + "))
            .bind(lease.ms())
            .sql(" WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND id = ANY(")
            .bind(&*list)
            .sql("::text::uuid[]) FOR UPDATE SKIP LOCKED))");
        renew.execute(conn).await?;
        let ours = Sql::<RenewedSql>::new(
            "SELECT id, cancel_requested FROM deferred_tasks WHERE state = 'running' AND worker = ",
        )
        .bind(lease.worker)
        .sql(" AND id = ANY(")
        .bind(&*list)
        .sql("::text::uuid[])");
        ours.load(conn).await
    }

    async fn look(conn: &mut AsyncPgConnection, from: &Since) -> QueryResult<Look> {
        let since_ms = from.since_ms.unwrap_or(i64::MIN);
        let mut look = Sql::<LookSql>::new(
            "SELECT n.ms, (SELECT run_at_ms FROM deferred_tasks WHERE state = 'scheduled' AND run_at_ms >= ",
        )
        .bind(since_ms)
        .sql(if from.since_ms.is_none() {
            " ORDER BY run_at_ms LIMIT 1), (SELECT min(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
                 EXISTS (SELECT FROM deferred_tasks WHERE state = 'running' AND lease_until_ms >= "
        } else {
            " ORDER BY run_at_ms LIMIT 1), NULL::bigint, \
                 EXISTS (SELECT FROM deferred_tasks WHERE state = 'running' AND lease_until_ms >= "
        })
        .bind(since_ms)
        .sql(
            " AND lease_until_ms < n.ms LIMIT 1), \
             EXISTS (SELECT FROM deferred_tasks WHERE freed_key IS NOT NULL LIMIT 1), FALSE",
        );
        // One by one: as a join, it would be planned by what the table had when it was analyzed.
        for (queue, floor) in &from.queues {
            look.push_sql(" OR EXISTS (SELECT FROM deferred_tasks AS c WHERE c.state = 'ready' AND c.queue = ");
            look.push_bind(&**queue);
            if let Some(Floor { priority, run_at_ms, id }) = *floor {
                look.push_sql(" AND (c.priority, c.run_at_ms, c.id) > (");
                look.push_bind(priority);
                look.push_sql(", ");
                look.push_bind(run_at_ms);
                look.push_sql(", ");
                look.push_bind(id);
                look.push_sql(")");
            }
            look.push_sql(" LIMIT 1)");
        }
        // With and without a floor these are some texts for each number of queues.
        look.sql(format!(" FROM (SELECT {NOW} AS ms OFFSET 0) AS n")).get_result(conn).await
    }

    async fn has_due(conn: &mut AsyncPgConnection, queues: &[Arc<str>]) -> QueryResult<bool> {
        has_due(queues, &format!("(SELECT {NOW})")).get_result(conn).await
    }

    async fn look_back(conn: &mut AsyncPgConnection) -> QueryResult<Past> {
        let look = Sql::<PastSql>::new(
            "SELECT (SELECT min(ended_at_ms) FROM deferred_tasks WHERE state IN ('dead', 'cancelled')), \
             (SELECT min(refused_at_ms) FROM deferred_tasks WHERE state = 'unknown'), \
             (SELECT max(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), (SELECT max(version) FROM deferred_schema)",
        );
        look.get_result(conn).await
    }

    async fn promote(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
        // The time is asked for once, in a subquery: a function that may change its answer is no
        // condition of an index.
        let promote = Sql::<()>::new(format!(
            "UPDATE deferred_tasks SET state = 'ready' WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE state = 'scheduled' AND run_at_ms <= (SELECT {NOW}) ORDER BY run_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        ));
        promote.execute(conn).await
    }

    async fn rescue(conn: &mut AsyncPgConnection) -> QueryResult<Vec<RescuedRow>> {
        conn.transaction::<_, Error, _>(async move |conn| {
            let rescue = Sql::<RescuedSql>::new(rescue(NOW)).sql(format!(
                "ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks WHERE state = 'running' AND lease_until_ms < (SELECT {NOW}) \
                 ORDER BY lease_until_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED)) RETURNING {RESCUED}, state, task_key"
            ));
            let rows: Vec<RescuedRow> = rescue.load(conn).await?;
            match elect(conn, &keys_left(&rows)).await? {
                stuck if stuck.is_empty() => Ok(rows),
                // Somebody has the next row of a key locked: later.
                _ => Err(Error::RollbackTransaction),
            }
        })
        .await
        .or_else(|error| if matches!(error, Error::RollbackTransaction) { Ok(Vec::new()) } else { Err(error) })
    }

    async fn prune(conn: &mut AsyncPgConnection, ended: Ended, kept: Duration) -> QueryResult<usize> {
        let prune = Sql::<()>::new(format!(
            "DELETE FROM deferred_tasks WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE {} AND ended_at_ms < (SELECT {NOW}) - ",
            ended.states()
        ))
        .bind(milliseconds(kept))
        .sql(format!(" ORDER BY ended_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"));
        prune.execute(conn).await
    }

    async fn start_anew(conn: &mut AsyncPgConnection, lease: &Lease) -> QueryResult<usize> {
        let now = format!("(SELECT {NOW})");
        let start = Sql::<()>::new(start_anew(&now)).sql(format!(
            "ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks WHERE {} LIMIT {BATCH} FOR UPDATE SKIP LOCKED))",
            started_in_the_time_to_come(&now, lease)
        ));
        start.varying().execute(conn).await
    }

    async fn give_up_refused(conn: &mut AsyncPgConnection, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        let give_up = Sql::<RescuedSql>::new(format!(
            "UPDATE deferred_tasks SET state = 'dead', ended_at_ms = (SELECT {NOW}) WHERE ctid = ANY(ARRAY(SELECT ctid \
             FROM deferred_tasks WHERE state = 'unknown' AND refused_at_ms < (SELECT {NOW}) - "
        ))
        .bind(milliseconds(after))
        .sql(format!(
            " ORDER BY refused_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED)) RETURNING {RESCUED}, state, task_key"
        ));
        give_up.load(conn).await
    }

    async fn adopt(conn: &mut AsyncPgConnection, task: &str) -> QueryResult<usize> {
        let adopt = Sql::<()>::new(
            "UPDATE deferred_tasks SET state = 'ready' WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE state = 'unknown' AND task = ",
        )
        .bind(task)
        .sql(format!(" AND run_at_ms <= (SELECT {NOW}) ORDER BY run_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"));
        adopt.execute(conn).await
    }

    async fn free_keys(conn: &mut AsyncPgConnection, rows: &[(TaskId, String)]) -> QueryResult<()> {
        let keys: Vec<_> = rows.iter().map(|(_, key)| &**key).collect();
        conn.transaction::<_, Error, _>(async |conn| {
            let stuck = elect(conn, &keys).await?;
            let looked_at: Vec<_> = rows.iter().filter(|(_, key)| !stuck.contains(key)).map(|(id, _)| *id).collect();
            let clear = Sql::<()>::new(
                "UPDATE deferred_tasks SET freed_key = NULL WHERE id = ANY(ARRAY(SELECT id \
                FROM deferred_tasks WHERE freed_key IS NOT NULL AND id = ANY(",
            )
            .bind(ids(&looked_at))
            .sql("::text::uuid[]) FOR UPDATE SKIP LOCKED))");
            clear.execute(conn).await.map(drop)
        })
        .await
    }

    async fn next_unknown(conn: &mut AsyncPgConnection, behind: &str) -> QueryResult<Option<(String, bool)>> {
        next_unknown(behind, NOW).get_result(conn).await.optional()
    }

    async fn freed(conn: &mut AsyncPgConnection) -> QueryResult<Vec<(TaskId, String)>> {
        freed().load(conn).await
    }

    async fn hinted(conn: &mut AsyncPgConnection) -> Hint {
        let mut hints = std::pin::pin!(conn.notifications_stream());
        let mut hint = hints.next().await;
        // They all say the same. Behind its end the stream must not be asked.
        while let Some(Ok(_)) = hint {
            match hints.next().now_or_never() {
                Some(another) => hint = another,
                None => return Hint::Called,
            }
        }
        Hint::Lost
    }
}

/// How long one waits for a lock: half of the time after which PostgreSQL looks for a deadlock.
const LOCK_MS: u32 = 500;

/// Has the first one that is blocked of each of these keys be ready, where nothing is in its way,
/// and begins to say which of these keys are stuck: the next row of them is locked by somebody.
fn elect_of<'k, R>(keys: &'k [&'k str]) -> Sql<'k, R> {
    // Behind most keys nobody waits.
    Sql::new("WITH k AS MATERIALIZED (SELECT value AS key FROM json_array_elements_text(").bind(words(keys)).sql(format!(
        "::text::json) WHERE EXISTS (SELECT FROM deferred_tasks AS w WHERE w.task_key = value AND w.state = 'blocked' LIMIT 1)), b AS MATERIALIZED (SELECT k.key, c.place FROM k CROSS JOIN LATERAL (SELECT ctid AS place, id \
         FROM deferred_tasks WHERE task_key = k.key AND state = 'blocked' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) AS c \
         WHERE NOT EXISTS (SELECT FROM deferred_tasks AS h WHERE h.task_key = k.key AND {HOLDS} AND {IN_THE_WAY} LIMIT 1)), \
         u AS (UPDATE deferred_tasks SET state = 'ready' WHERE ctid = ANY(ARRAY(SELECT place FROM b))), \
         stuck AS (SELECT key FROM k WHERE NOT EXISTS (SELECT FROM b WHERE b.key = k.key) AND NOT EXISTS (SELECT FROM deferred_tasks AS h WHERE h.task_key = k.key AND {HOLDS} LIMIT 1)) "
    ))
}

/// Elects; returns the keys that are stuck.
async fn elect(conn: &mut AsyncPgConnection, keys: &[&str]) -> QueryResult<Vec<String>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    elect_of::<Text>(keys).sql("SELECT key FROM stuck").load(conn).await
}

/// Tells of ends that leave no rows, without waiting for an answer in between. Where it fails
/// nothing was told.
async fn tell_at_once(conn: &AsyncPgConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<()> {
    let (done, keys) = (Settlement::done(settled), keys_of(settled));
    let delete = end_well(lease, &done);
    if keys.is_empty() {
        return delete.execute(&mut &*conn).await.map(drop);
    }
    let elect = elect_or_fail(&keys);
    let (mut first, mut second, mut third, mut last) = (conn, conn, conn, conn);
    let (begun, deleted, elected, committed) = join4(
        first.batch_execute("BEGIN"),
        delete.execute(&mut second),
        elect.get_result::<i32>(&mut third),
        last.batch_execute("COMMIT"),
    )
    .await;
    begun?;
    deleted?;
    elected?;
    committed
}

/// The same, one after the other: with the same statements, which are prepared from then on.
async fn tell_one_by_one(conn: &mut AsyncPgConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<()> {
    let (done, keys) = (Settlement::done(settled), keys_of(settled));
    conn.transaction::<_, Error, _>(async |conn| {
        end_well(lease, &done).execute(conn).await?;
        if !keys.is_empty() {
            elect_or_fail(&keys).get_result::<i32>(conn).await?;
        }
        Ok(())
    })
    .await
}

/// Elects. A key that is stuck is an error, so that nothing is committed.
fn elect_or_fail<'k>(keys: &'k [&'k str]) -> Sql<'k, Integer> {
    elect_of(keys).sql("SELECT (1 / (1 - least(count(*), 1)))::integer FROM stuck")
}

/// Deletes what ended well, or keeps it as a part of the history.
fn end_well<'l>(lease: &Lease, done: &[TaskId]) -> Sql<'l> {
    let end =
        if lease.keeps_done { keep_done(&format!("(SELECT {NOW})")) } else { "DELETE FROM deferred_tasks".to_owned() };
    Sql::new(end)
        .sql(" WHERE id = ANY(")
        .bind(ids(done))
        .sql("::text::uuid[]) AND state <> 'done' AND worker = ")
        .bind(lease.worker)
}

/// Tells how attempts ended. Returns the ends that were not told, because somebody has locked their
/// rows, or the next row of their key; a `careful` one does not wait to find that out.
async fn tell(
    conn: &mut AsyncPgConnection,
    lease: &Lease,
    settled: &[Settlement],
    manner: Manner,
) -> QueryResult<Vec<TaskId>> {
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    let (mut stuck, begin) = (Vec::new(), Instant::now());
    if manner != Manner::Careful {
        match tell_of(conn, lease, settled).await {
            Ok(keys) if keys.is_empty() => return Ok(Vec::new()),
            Ok(keys) => stuck = keys,
            // Most likely a lock. What else it may be comes back below; a server that is slow is not
            // asked twice.
            Err(Error::DatabaseError(kind, _))
                if !matches!(kind, DatabaseErrorKind::ClosedConnection)
                    && begin.elapsed() < in_time(lease.duration) => {}
            Err(error) => return Err(error),
        }
    }
    let free = Sql::<SqlTaskId>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
        .bind(lease.worker)
        .sql(" AND id = ANY(")
        .bind(ids(&settled.iter().map(|settlement| settlement.id).collect::<Vec<_>>()))
        .sql("::text::uuid[]) FOR UPDATE SKIP LOCKED");
    let locked = Sql::<SqlTaskId>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
        .bind(lease.worker)
        .sql(" AND id = ANY(")
        .bind(ids(&settled.iter().map(|settlement| settlement.id).collect::<Vec<_>>()))
        .sql("::text::uuid[])");
    let (ours, free): (Vec<TaskId>, Vec<TaskId>) = (locked.load(conn).await?, free.load(conn).await?);
    let untold: std::collections::HashSet<_> = ours.into_iter().filter(|id| !free.contains(id)).collect();
    let mut left: Vec<_> = settled.iter().filter(|settlement| !untold.contains(&settlement.id)).cloned().collect();
    let mut untold: Vec<_> = untold.into_iter().collect();
    // Of each key that is found to be stuck the ends wait; a few times, then for the next round.
    for _ in 0..3 {
        let is_stuck = |settlement: &Settlement| settlement.key.as_ref().is_some_and(|key| stuck.contains(key));
        untold.extend(left.iter().filter(|settlement| is_stuck(settlement)).map(|settlement| settlement.id));
        left.retain(|settlement| !is_stuck(settlement));
        match tell_of(conn, lease, &left).await? {
            keys if keys.is_empty() => return Ok(untold),
            keys => stuck = keys,
        }
    }
    untold.extend(left.iter().map(|settlement| settlement.id));
    Ok(untold)
}

/// Tells of all of these ends, or of none: then the next rows of these keys are locked.
async fn tell_of(conn: &mut AsyncPgConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<Vec<String>> {
    let keys = keys_of(settled);
    if keys.is_empty() {
        settle(conn, lease, settled).await?;
        return Ok(Vec::new());
    }
    // The next of a key are looked for behind the ends, when those are locked: who put one behind a
    // row that has ended now had that row locked until then.
    let mut stuck = Vec::new();
    let told = conn
        .transaction::<_, Error, _>(async |conn| {
            settle(conn, lease, settled).await?;
            stuck = elect(conn, &keys).await?;
            if stuck.is_empty() { Ok(()) } else { Err(Error::RollbackTransaction) }
        })
        .await;
    match told {
        Ok(()) | Err(Error::RollbackTransaction) => Ok(stuck),
        Err(error) => Err(error),
    }
}

async fn settle(conn: &mut AsyncPgConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<()> {
    let done = Settlement::done(settled);
    if !done.is_empty() {
        end_well(lease, &done).execute(conn).await?;
    }
    let left: Vec<_> = settled
        .iter()
        .filter_map(|settlement| {
            let left = settlement.left()?;
            Some(LeftRow {
                id: settlement.id,
                state: left.state,
                delay_ms: left.delay_ms,
                error: left.error,
                refund: left.refund,
                snoozed: left.snoozed,
                refused: left.refused,
            })
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let update = Sql::<()>::new(format!(
        "UPDATE deferred_tasks AS t SET \
         state = CASE WHEN t.cancel_requested AND l.state IN ('scheduled', 'ready', 'unknown') THEN 'cancelled' ELSE l.state END, \
         run_at_ms = COALESCE({NOW} + l.delay_ms, t.run_at_ms), attempts = t.attempts - l.refund, \
         unique_key = CASE WHEN l.refund > 0 AND EXISTS (SELECT FROM deferred_tasks AS o WHERE o.task = t.task \
         AND o.unique_key = t.unique_key AND {UNIQUE_WAITS} LIMIT 1) THEN NULL ELSE t.unique_key END, \
         refused_at_ms = CASE WHEN l.refused THEN COALESCE(t.refused_at_ms, {NOW}) ELSE t.refused_at_ms END, \
         refusals = t.refusals + l.refused::integer, snoozes = t.snoozes + CASE WHEN t.snoozes < 2147483647 THEN l.snoozed ELSE 0 END, error = COALESCE(l.error, t.error), \
         ended_at_ms = CASE WHEN t.cancel_requested OR l.state IN ('dead', 'cancelled') THEN {NOW} END, \
         cancel_requested = false, {LET_GO} FROM json_to_recordset("
    ))
    .bind(serde_json::to_string(&left).unwrap_or_default())
    .sql(
        "::text::json) AS l(id uuid, state text, delay_ms bigint, error text, refund integer, snoozed integer, refused boolean) \
         WHERE t.id = l.id AND t.worker = ",
    )
    .bind(lease.worker);
    update.execute(conn).await?;
    Ok(())
}

/// Which tasks are looked at.
#[derive(Clone, Copy)]
enum Part {
    MoreUrgentThan(i16),
    Behind(Floor),
    All,
}

/// Claims rows of a more urgent priority than the floor, then rows behind the floor, and where that
/// is not enough, rows before it, if there may be some.
async fn take_all(conn: &AsyncPgConnection, lease: &Lease, claim: &Claim, start: Option<Start>) -> QueryResult<Taken> {
    let mut all = Taken::default();
    let parts = match start {
        None => vec![Part::All],
        Some(Start { behind, urgent_first, front }) => {
            let mut parts = Vec::with_capacity(3);
            parts.extend(urgent_first.then_some(Part::MoreUrgentThan(behind.priority)));
            parts.push(Part::Behind(behind));
            parts.extend((front != Front::No).then_some(Part::All));
            parts
        }
    };
    for part in parts {
        let limit = claim.limit.saturating_sub(u32::try_from(all.rows.len()).unwrap_or(u32::MAX));
        let bytes = claim.bytes - all.rows.iter().map(bytes_of).sum::<i64>();
        let is_front = matches!(part, Part::All);
        let only_if_nothing = start.is_some_and(|start| start.front == Front::IfThereIsNothingBehind);
        if limit == 0 || (bytes <= 0 || (is_front && only_if_nothing)) && !all.rows.is_empty() {
            break;
        }
        let begin = Instant::now();
        match take_part(conn, lease, &Claim { limit, bytes, ..claim.clone() }, part).await {
            Ok(taken) => {
                all.more = taken.more;
                all.rows.extend(taken.rows);
            }
            // What was taken must not get lost.
            Err(Error::DatabaseError(..)) if !all.rows.is_empty() => all.more = true,
            Err(error) => return Err(error),
        }
        all.front = is_front.then(|| begin.elapsed());
    }
    Ok(all)
}

fn bytes_of(row: &ClaimedRow) -> i64 {
    i64::try_from(row.payload.len()).unwrap_or(i64::MAX)
}

/// Claims from the front of one part. Rows there that have to wait for others of their key are
/// moved out of the way, and out of the index.
async fn take_part(conn: &AsyncPgConnection, lease: &Lease, claim: &Claim, part: Part) -> QueryResult<Taken> {
    let mut look_at = i64::from(claim.limit);
    let mut all = Taken::default();
    for _ in 0..LOOKS {
        let limit = i64::from(claim.limit) - i64::try_from(all.rows.len()).unwrap_or(i64::MAX);
        let bytes = claim.bytes - all.rows.iter().map(bytes_of).sum::<i64>();
        let (rows, counts) = match take(conn, lease, claim, part, look_at, limit, bytes).await {
            // Two workers took two tasks of one key at the same moment, which the database does not
            // allow. One of them has it now.
            Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) if all.rows.is_empty() => {
                take(conn, lease, claim, part, look_at, limit, bytes).await?
            }
            taken => taken?,
        };
        let taken = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        all.rows.extend(rows);
        all.more = counts.seen >= look_at || counts.free > taken;
        if counts.seen == counts.free || counts.free > taken || taken >= limit {
            return Ok(all);
        }
        // Where half of them have to wait, most of those behind them have to as well.
        let waiting = counts.seen - counts.free;
        let front = if waiting * 2 >= counts.seen { wider(look_at).unwrap_or(look_at) } else { look_at };
        let blocked = block(conn, claim, part, front).await?;
        // Those that could not be moved are still in the way.
        if blocked < waiting {
            match wider(look_at) {
                Some(further) => look_at = further,
                None if blocked > 0 => {}
                None => return Ok(all),
            }
        }
        all.more = true;
        if !all.rows.is_empty() {
            // They are to start.
            return Ok(all);
        }
    }
    Ok(all)
}

/// How often a claim looks at more, before others have their turn.
const LOOKS: usize = 10;

/// How many rows a claim has seen, and how many of them nothing was in the way of.
struct Counts {
    seen: i64,
    free: i64,
}

/// The rows that are looked at: those at the front of the part that nobody has locked.
fn front(claim: &Claim, part: Part, look_at: i64) -> Sql<'_, TakenSql> {
    let queue = &*claim.queue;
    let front = Sql::new(
        "WITH c AS MATERIALIZED (SELECT c.ctid AS place, c.id, c.task_key, c.priority, c.run_at_ms, octet_length(c.payload) AS bytes \
         FROM deferred_tasks AS c WHERE NOT EXISTS (SELECT FROM deferred_paused_queues WHERE queue = ",
    )
    .bind(queue)
    .sql(") AND c.state = 'ready' AND c.queue = ")
    .bind(queue);
    let front = match part {
        Part::MoreUrgentThan(priority) => front.sql(" AND c.priority < ").bind(priority),
        Part::Behind(Floor { priority, run_at_ms, id }) => front
            .sql(" AND (c.priority, c.run_at_ms, c.id) > (")
            .bind(priority)
            .sql(", ")
            .bind(run_at_ms)
            .sql(", ")
            .bind(id)
            .sql(")"),
        Part::All => front,
    };
    front.sql(" ORDER BY c.priority, c.run_at_ms, c.id LIMIT ").bind(look_at).sql(" FOR UPDATE OF c SKIP LOCKED)")
}

/// The rows of a claim, and a last one with how many rows were seen, and how many of them nothing
/// was in the way of.
type TakenSql = (
    Nullable<SqlTaskId>,
    Nullable<Text>,
    Nullable<Text>,
    Integer,
    Integer,
    Nullable<SmallInt>,
    Nullable<BigInt>,
    Nullable<Text>,
    Nullable<Integer>,
);

/// See [`TakenSql`].
type TakenRow =
    (Option<TaskId>, Option<String>, Option<String>, i32, i32, Option<i16>, Option<i64>, Option<String>, Option<i32>);

async fn take(
    conn: &AsyncPgConnection,
    lease: &Lease,
    claim: &Claim,
    part: Part,
    look_at: i64,
    limit: i64,
    bytes: i64,
) -> QueryResult<(Vec<ClaimedRow>, Counts)> {
    let take = front(claim, part, look_at)
        .sql(format!(
            ", f AS MATERIALIZED (SELECT c.place, c.priority, c.run_at_ms, c.id, c.bytes FROM c \
             WHERE c.task_key IS NULL OR NOT EXISTS (SELECT FROM deferred_tasks AS h WHERE h.task_key = c.task_key \
             AND {HOLDS} AND {IN_THE_WAY} LIMIT 1) ORDER BY c.priority, c.run_at_ms, c.id LIMIT "
        ))
        .bind(limit)
        .sql("), b AS MATERIALIZED (SELECT COALESCE(sum(f.bytes), 0) <= ")
        .bind(bytes)
        .sql(format!(" AS fit FROM f), t AS (UPDATE deferred_tasks SET {TAKE}"))
        .bind(lease.worker)
        // A subquery, which is run once. By itself the time would be asked for and calculated with
        // for each row: a sixth of a claim.
        .sql(format!(", started_at_ms = (SELECT {NOW}), lease_until_ms = (SELECT {NOW}) + "))
        .bind(lease.ms())
        // An array, which is made once: a subquery could be run again by the plan, and take more
        // than the limit. The rows are locked, so that they stay in their places. Sums as one goes
        // along cost half of a claim: only where they are needed.
        .sql(
            " WHERE ctid = ANY(CASE WHEN (SELECT fit FROM b) THEN ARRAY(SELECT f.place FROM f) ELSE \
             ARRAY(SELECT s.place FROM (SELECT f.place, sum(f.bytes) OVER o - f.bytes AS before, row_number() OVER o AS at \
             FROM f WINDOW o AS (ORDER BY f.priority, f.run_at_ms, f.id)) AS s WHERE s.at = 1 OR s.before < ",
        )
        .bind(bytes)
        .sql(format!(
            ") END) RETURNING {CLAIMED}) SELECT * FROM t UNION ALL SELECT NULL, NULL, NULL, (SELECT count(*)::integer FROM c), \
             (SELECT count(*)::integer FROM f), NULL, NULL, NULL, NULL"
        ));
    let rows: Vec<TakenRow> = take.load(&mut &*conn).await?;
    let mut counts = Counts { seen: 0, free: 0 };
    let mut claimed = Vec::with_capacity(rows.len());
    for row in rows {
        match row {
            (
                Some(id),
                Some(task),
                Some(payload),
                attempts,
                max_attempts,
                Some(priority),
                Some(run_at_ms),
                key,
                Some(refusals),
            ) => claimed.push(ClaimedRow {
                id,
                task,
                payload,
                attempts,
                max_attempts,
                priority,
                run_at_ms,
                key,
                refusals,
            }),
            (_, _, _, seen, free, ..) => counts = Counts { seen: seen.into(), free: free.into() },
        }
    }
    Ok((claimed, counts))
}

/// Has the rows that have to wait for others of their key be blocked; says how many. Each one that
/// is in the way is locked meanwhile, so that it cannot end without seeing who waits behind it.
async fn block(conn: &AsyncPgConnection, claim: &Claim, part: Part, look_at: i64) -> QueryResult<i64> {
    let block = front(claim, part, look_at).sql(format!(
        " UPDATE deferred_tasks SET state = 'blocked' WHERE ctid = ANY(ARRAY(SELECT c.place FROM c CROSS JOIN LATERAL \
         (SELECT h.id FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND {HOLDS} AND {IN_THE_WAY} \
         LIMIT 1 FOR SHARE SKIP LOCKED) AS h))"
    ));
    let blocked = block.execute(&mut &*conn).await?;
    Ok(i64::try_from(blocked).unwrap_or(i64::MAX))
}
