//! The statements for PostgreSQL. Lists of values go as one text each, so that the statements' own
//! text stays the same, and they stay prepared.

mod claim;
mod ends;
mod keys;
mod lists;

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::OptionalExtension;
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{Nullable, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join;
use futures_util::{FutureExt, StreamExt};

use self::claim::take_all;
use self::ends::{elect, tell, tell_at_once, tell_one_by_one};
use self::lists::ids;
use super::floor::{Floor, Start};
use super::statements::{
    BATCH, Ended, Exchange, Look, LookSql, Manner, Past, PastSql, RESCUED, RenewedSql, RescuedRow, RescuedSql, Since,
    freed, has_due, keys_freed, keys_left, next_unknown, park, rescue, start_anew, started_in_the_time_to_come,
};
use super::table::{Statements, WorkerConnection, in_time, statement_limit};
use super::{Claim, Hint, Lease, Settlement, Unknown};
use crate::durable::call::milliseconds;
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;

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
        let mut left = claims.iter();
        let usual = !settled.is_empty() && settled.iter().all(|settlement| settlement.left().is_none());
        exchange.readied = settled.iter().any(|settlement| settlement.key.is_some());
        if usual && manner != Manner::Careful {
            // Where nothing else is known to be ready, who is next of a key starts at once, and
            // nothing is left to be claimed.
            let hands_over = claims.iter().all(|(claim, _)| !claim.hungry);
            let next_of_keys = if hands_over { claims } else { &[] };
            let told = match manner {
                Manner::AtOnce => {
                    // Nothing is waited for in between: what the ends leave free is free for the
                    // claim, which comes behind them.
                    let (shared, first) = (&*conn, if hands_over { None } else { left.next() });
                    let taken = async {
                        match first {
                            Some((claim, start)) => Some(take_all(shared, lease, claim, *start).await),
                            None => None,
                        }
                    };
                    let (told, taken) = join(tell_at_once(shared, lease, settled, next_of_keys), taken).await;
                    if let Some(taken) = taken {
                        exchange.claimed(taken, begin);
                    }
                    told
                }
                _ => tell_one_by_one(conn, lease, settled, next_of_keys).await,
            };
            match told {
                Ok(next) => {
                    (exchange.prepared, exchange.readied) = (true, next.others);
                    if hands_over {
                        (exchange.taken, left) = (next.taken, [].iter());
                    }
                }
                // Most likely a lock. What else it may be comes back.
                Err(error) => match tell(conn, lease, settled, Manner::Careful).await {
                    Ok(untold) => exchange.untold = untold,
                    // What was taken must not get lost.
                    Err(_) if exchange.taken.iter().any(|taken| !taken.rows.is_empty()) => {
                        exchange.untold = settled.iter().map(|settlement| settlement.id).collect();
                        exchange.error = Some((error, begin.elapsed()));
                    }
                    Err(error) => return Err(error),
                },
            }
        } else {
            exchange.untold = tell(conn, lease, settled, manner).await?;
        }
        if exchange.error.is_some() {
            return Ok(exchange);
        }
        for (claim, start) in left {
            let claiming = Instant::now();
            if claiming.duration_since(begin) > in_time(lease.duration) {
                break;
            }
            if !exchange.claimed(take_all(conn, lease, claim, *start).await, claiming) {
                break;
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
        let keys = keys_freed(rows);
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
