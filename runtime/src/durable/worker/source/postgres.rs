//! The statements for PostgreSQL. Lists of values go as one text each, so that the statements' own
//! text stays the same, and they stay prepared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::OptionalExtension;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::floor::{Floor, Front, Start};
use super::statements::{
    BATCH, BLOCKED_BEFORE, CLAIMED, ClaimedRow, Exchange, HOLDS, IN_THE_WAY, LET_GO, Look, LookSql, Mine, Past,
    PastSql, RESCUED, RenewedSql, RescuedRow, RescuedSql, Since, TAKE, Taken, UNIQUE_WAITS, freed, has_due, keys_of,
    keys_of_rescued, mine, next_unknown, rescue, start_anew, started_in_the_time_to_come, wider,
};
use super::table::{Statements, WorkerConnection};
use super::{Claim, Hint, Lease, Settlement};
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
    started_at_ms: i64,
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

/// Numbers as PostgreSQL writes an array.
fn numbers(numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
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
        let statement_ms = milliseconds(patience) * 4 / 5;
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
        careful: bool,
    ) -> QueryResult<Exchange> {
        let mut exchange = Exchange { untold: tell(conn, lease, settled, careful).await?, ..Exchange::default() };
        for (claim, start) in claims {
            match take_all(conn, lease, claim, *start).await {
                Ok(taken) => exchange.taken.push(taken),
                Err(error) => {
                    exchange.error = Some(error);
                    break;
                }
            }
        }
        Ok(exchange)
    }

    async fn mine(conn: &mut AsyncPgConnection, lease: &Lease) -> QueryResult<Vec<Mine>> {
        mine(lease).load(conn).await
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
             WHERE state = 'scheduled' AND run_at_ms <= (SELECT {NOW}) AND freed_key IS NULL ORDER BY run_at_ms LIMIT {BATCH} \
             FOR UPDATE SKIP LOCKED))"
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
            match elect(conn, &keys_of_rescued(&rows)).await? {
                stuck if stuck.is_empty() => Ok(rows),
                // Somebody has the next row of a key locked: later.
                _ => Err(Error::RollbackTransaction),
            }
        })
        .await
        .or_else(|error| if matches!(error, Error::RollbackTransaction) { Ok(Vec::new()) } else { Err(error) })
    }

    async fn prune(conn: &mut AsyncPgConnection, kept: Duration) -> QueryResult<usize> {
        let prune = Sql::<()>::new(format!(
            "DELETE FROM deferred_tasks WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE state IN ('dead', 'cancelled') AND ended_at_ms < (SELECT {NOW}) - "
        ))
        .bind(milliseconds(kept))
        .sql(format!(" AND freed_key IS NULL ORDER BY ended_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"));
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
        conn.transaction::<_, Error, _>(async |conn| {
            // Locked first: what leaves a key behind that is looked at again.
            let lock = Sql::<SqlTaskId>::new("SELECT id FROM deferred_tasks WHERE id = ANY(")
                .bind(ids(&rows.iter().map(|(id, _)| *id).collect::<Vec<_>>()))
                .sql("::text::uuid[]) FOR UPDATE SKIP LOCKED");
            let free: Vec<TaskId> = lock.load(conn).await?;
            let mut keys: Vec<_> = rows.iter().filter(|(id, _)| free.contains(id)).map(|(_, key)| &**key).collect();
            let stuck = elect(conn, &keys).await?;
            keys.retain(|key| !stuck.iter().any(|stuck| stuck == key));
            let clear = Sql::<()>::new("UPDATE deferred_tasks SET freed_key = NULL WHERE id = ANY(")
                .bind(ids(&free))
                .sql("::text::uuid[]) AND freed_key = ANY(ARRAY(SELECT value FROM json_array_elements_text(")
                .bind(words(&keys))
                .sql("::text::json)))");
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

/// Has the first one that is blocked of each of these keys be ready, where nothing is in its way.
/// Returns the keys of which that one is locked by somebody.
async fn elect(conn: &mut AsyncPgConnection, keys: &[&str]) -> QueryResult<Vec<String>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    // The first one, or none: the next one behind a row that is locked would have to wait for that.
    let elect = Sql::<Text>::new("WITH k AS MATERIALIZED (SELECT value AS key FROM json_array_elements_text(")
        .bind(words(keys))
        .sql(format!(
            "::text::json)), c AS MATERIALIZED (SELECT k.key AS task_key, (SELECT id FROM deferred_tasks \
             WHERE task_key = k.key AND state = 'blocked' ORDER BY id LIMIT 1) AS id FROM k), \
             w AS MATERIALIZED (SELECT c.task_key, c.id FROM c WHERE c.id IS NOT NULL AND NOT EXISTS (SELECT \
             FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND {HOLDS} AND {IN_THE_WAY} LIMIT 1)), \
             l AS MATERIALIZED (SELECT id FROM deferred_tasks WHERE id = ANY(ARRAY(SELECT id FROM w)) AND state = 'blocked' \
             FOR UPDATE SKIP LOCKED), \
             u AS (UPDATE deferred_tasks SET state = 'ready' WHERE id = ANY(ARRAY(SELECT id FROM l))) \
             SELECT task_key FROM w WHERE NOT EXISTS (SELECT FROM l WHERE l.id = w.id)"
        ));
    elect.load(conn).await
}

/// Tells how attempts ended. Returns the ends that were not told, because somebody has locked their
/// rows, or the next row of their key; a `careful` one does not wait to find that out.
async fn tell(
    conn: &mut AsyncPgConnection,
    lease: &Lease,
    settled: &[Settlement],
    careful: bool,
) -> QueryResult<Vec<TaskId>> {
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    let mut stuck = Vec::new();
    if !careful {
        match tell_of(conn, lease, settled).await {
            Ok(keys) if keys.is_empty() => return Ok(Vec::new()),
            Ok(keys) => stuck = keys,
            // Most likely a lock. What else it may be comes back below.
            Err(Error::DatabaseError(kind, _)) if !matches!(kind, DatabaseErrorKind::ClosedConnection) => {}
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
        let (tasks, started): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let delete = Sql::<()>::new("DELETE FROM deferred_tasks AS t USING unnest(")
            .bind(ids(&tasks))
            .sql("::text::uuid[], ")
            .bind(numbers(&started))
            .sql("::text::bigint[]) AS d(id, at) WHERE t.id = d.id AND COALESCE(t.started_at_ms, 0) <= d.at AND t.worker = ")
            .bind(lease.worker);
        delete.execute(conn).await?;
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
                started_at_ms: settlement.started_at_ms,
            })
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let refunded: Vec<_> = left.iter().filter(|left| left.refund > 0).map(|left| left.id).collect();
    // One that waits again as if it had never been taken forgets its unique_key, if another one has
    // it meanwhile.
    let update = Sql::<()>::new(format!(
        "UPDATE deferred_tasks AS t SET \
         state = CASE WHEN t.cancel_requested AND l.state IN ('scheduled', 'ready', 'unknown') THEN 'cancelled' ELSE l.state END, \
         run_at_ms = COALESCE({NOW} + l.delay_ms, t.run_at_ms), attempts = t.attempts - l.refund, \
         unique_key = CASE WHEN l.refund > 0 AND t.attempts = 1 AND (EXISTS (SELECT FROM deferred_tasks AS o \
         WHERE o.task = t.task AND o.unique_key = t.unique_key AND {UNIQUE_WAITS} LIMIT 1) \
         OR EXISTS (SELECT FROM deferred_tasks AS o WHERE o.id = ANY("
    ))
    .bind(ids(&refunded))
    .sql("::text::uuid[]) AND o.id < t.id AND o.task = t.task AND o.unique_key = t.unique_key AND o.attempts = 1 AND o.worker = ")
    .bind(lease.worker)
    .sql(format!(
        ")) THEN NULL ELSE t.unique_key END, \
         refused_at_ms = CASE WHEN l.refused THEN COALESCE(t.refused_at_ms, {NOW}) ELSE t.refused_at_ms END, \
         refusals = t.refusals + l.refused::integer, snoozes = t.snoozes + CASE WHEN t.snoozes < 2147483647 THEN l.snoozed ELSE 0 END, error = COALESCE(l.error, t.error), \
         ended_at_ms = CASE WHEN t.cancel_requested OR l.state IN ('dead', 'cancelled') THEN {NOW} END, \
         cancel_requested = false, {LET_GO} FROM json_to_recordset("
    ))
    .bind(serde_json::to_string(&left).unwrap_or_default())
    .sql(
        "::text::json) AS l(id uuid, state text, delay_ms bigint, error text, refund integer, snoozed integer, refused boolean, \
         started_at_ms bigint) WHERE t.id = l.id AND COALESCE(t.started_at_ms, 0) <= l.started_at_ms AND t.worker = ",
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
async fn take_all(
    conn: &mut AsyncPgConnection,
    lease: &Lease,
    claim: &Claim,
    start: Option<Start>,
) -> QueryResult<Taken> {
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
async fn take_part(conn: &mut AsyncPgConnection, lease: &Lease, claim: &Claim, part: Part) -> QueryResult<Taken> {
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
        let blocked = block(conn, claim, part, look_at).await?;
        // Where all of them were moved there is as much to be seen as before, behind them.
        if blocked < counts.seen - counts.free || blocked >= look_at / 2 {
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
    Nullable<BigInt>,
);

/// See [`TakenSql`].
type TakenRow = (
    Option<TaskId>,
    Option<String>,
    Option<String>,
    i32,
    i32,
    Option<i16>,
    Option<i64>,
    Option<String>,
    Option<i32>,
    Option<i64>,
);

async fn take(
    conn: &mut AsyncPgConnection,
    lease: &Lease,
    claim: &Claim,
    part: Part,
    look_at: i64,
    limit: i64,
    bytes: i64,
) -> QueryResult<(Vec<ClaimedRow>, Counts)> {
    let take = front(claim, part, look_at)
        .sql(format!(
            ", f AS MATERIALIZED (SELECT c.place, sum(c.bytes) OVER o - c.bytes AS before, row_number() OVER o AS at FROM c \
             WHERE c.task_key IS NULL OR NOT EXISTS (SELECT FROM deferred_tasks AS h WHERE h.task_key = c.task_key \
             AND {HOLDS} AND {IN_THE_WAY} LIMIT 1) AND NOT EXISTS (SELECT FROM deferred_tasks AS b WHERE {BLOCKED_BEFORE} LIMIT 1) \
             WINDOW o AS (ORDER BY c.priority, c.run_at_ms, c.id)), \
             t AS (UPDATE deferred_tasks SET {TAKE}"
        ))
        .bind(lease.worker)
        // A subquery, which is run once. By itself the time would be asked for and calculated with
        // for each row: a sixth of a claim.
        .sql(format!(", started_at_ms = (SELECT {NOW}), lease_until_ms = (SELECT {NOW}) + "))
        .bind(lease.ms())
        // An array, which is made once: a subquery could be run again by the plan, and take more
        // than the limit. The rows are locked, so that they stay in their places.
        .sql(" WHERE ctid = ANY(ARRAY(SELECT f.place FROM f WHERE f.at <= ")
        .bind(limit)
        .sql(" AND (f.at = 1 OR f.before < ")
        .bind(bytes)
        .sql(format!(
            "))) RETURNING {CLAIMED}) SELECT * FROM t UNION ALL SELECT NULL, NULL, NULL, (SELECT count(*)::integer FROM c), \
             (SELECT count(*)::integer FROM f), NULL, NULL, NULL, NULL, NULL"
        ));
    let rows: Vec<TakenRow> = take.load(conn).await?;
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
                Some(started_at_ms),
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
                started_at_ms,
            }),
            (_, _, _, seen, free, ..) => counts = Counts { seen: seen.into(), free: free.into() },
        }
    }
    Ok((claimed, counts))
}

/// Has the rows that have to wait for others of their key be blocked; says how many. Each one that
/// is in the way is locked meanwhile, so that it cannot end without seeing who waits behind it.
async fn block(conn: &mut AsyncPgConnection, claim: &Claim, part: Part, look_at: i64) -> QueryResult<i64> {
    let block = front(claim, part, look_at).sql(format!(
        " UPDATE deferred_tasks SET state = 'blocked' WHERE ctid = ANY(ARRAY(SELECT c.place FROM c CROSS JOIN LATERAL \
         (SELECT h.id FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND {HOLDS} AND {IN_THE_WAY} \
         LIMIT 1 FOR SHARE SKIP LOCKED) AS h))"
    ));
    let blocked = block.execute(conn).await?;
    Ok(i64::try_from(blocked).unwrap_or(i64::MAX))
}
