//! The statements for PostgreSQL. Lists of values go as one text each, so that the statements' own
//! text stays the same, and they stay prepared.
//!
//! Must not know: when which of them is sent.

mod claim;
mod ends;
mod keys;
mod link;
mod lists;
mod told;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use diesel::OptionalExtension;
use diesel::result::{ConnectionResult, Error, QueryResult};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use self::claim::take_all;
use self::ends::{OURS, elect, tell, tell_at_once, tell_one_by_one};
use self::link::Link;
use self::lists::{ids, json};
use super::database::{Opening, Statements, WorkerConnection, in_time, statement_limit};
use super::floor::{Floor, Start};
use super::statements::{
    BATCH, Ended, Exchange, Failed, Look, LookSql, Manner, Mine, Past, PastSql, RESCUED, RenewedSql, RescuedRow,
    RescuedSql, Since, Unread, adopt, freed, has_due, in_order, keys_freed, keys_of_rescued, mine, next_unknown, park,
    rescue, start_anew, started_in_the_time_to_come, waiting,
};
use super::{Claim, Hint, Lease, Settlement, Unknown, Waiting};
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
    type Session = Link;

    async fn establish(url: &str) -> ConnectionResult<AsyncPgConnection> {
        link::establish(url).await
    }

    async fn open(conn: AsyncPgConnection, opening: &Opening) -> QueryResult<Link> {
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
        let statement_ms = milliseconds(statement_limit(opening.patience)).to_string();
        let settings = [
            ("synchronous_commit", "off"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_sort", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            ("default_transaction_isolation", "'read committed'"),
            ("default_transaction_read_only", "off"),
            ("statement_timeout", &statement_ms),
            ("lock_timeout", LOCK_MS),
            ("idle_in_transaction_session_timeout", &statement_ms),
        ];
        let mut link = Link::new(conn, &settings, opening.pooler).await?;
        if opening.listens
            && let Some(conn) = link.own_mut()
        {
            conn.batch_execute("LISTEN deferred_tasks").await?;
        }
        Ok(link)
    }

    fn has_pooler(link: &Link) -> bool {
        link.own().is_none()
    }

    async fn exchange(
        link: &mut Link,
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
            let told = match link.own() {
                Some(own) if manner == Manner::AtOnce => {
                    // Nothing is waited for in between: what the ends leave free is free for the
                    // claim, which comes behind them.
                    let (shared, first) = (&*link, if hands_over { None } else { left.next() });
                    let taken = async {
                        match first {
                            Some((claim, start)) => Some(take_all(shared, lease, claim, *start).await),
                            None => None,
                        }
                    };
                    let (told, taken) = join(tell_at_once(own, lease, settled, next_of_keys), taken).await;
                    if let Some((taken, error)) = taken {
                        exchange.claimed_some(taken, error, begin);
                    }
                    told
                }
                _ => tell_one_by_one(link, lease, settled, next_of_keys).await,
            };
            match told {
                Ok(next) => {
                    (exchange.prepared, exchange.readied) = (link.own().is_some(), next.others);
                    if hands_over {
                        (exchange.taken, left) = (next.taken, [].iter());
                    }
                }
                // Most likely a lock. What else it may be comes back.
                Err(error) => match tell(link, lease, settled, Manner::Careful).await {
                    Ok(untold) => exchange.untold = untold,
                    // What was taken must not get lost.
                    Err(_) if exchange.taken.iter().any(|taken| !taken.rows.is_empty()) => {
                        exchange.untold = settled.iter().map(|settlement| settlement.id).collect();
                        exchange.failed = Some(Failed { error, claim: None, took: begin.elapsed() });
                    }
                    Err(error) => return Err(error),
                },
            }
        } else {
            exchange.untold = tell(link, lease, settled, manner).await?;
        }
        if exchange.failed.is_some() {
            return Ok(exchange);
        }
        for (claim, start) in left {
            let claiming = Instant::now();
            if claiming.duration_since(begin) > in_time(lease.duration) {
                break;
            }
            let (taken, error) = take_all(link, lease, claim, *start).await;
            if !exchange.claimed_some(taken, error, claiming) {
                break;
            }
        }
        Ok(exchange)
    }

    async fn mine(link: &mut Link, lease: &Lease) -> QueryResult<Vec<Mine>> {
        link.rows(mine(lease)).await
    }

    async fn park(link: &mut Link, unknown: &Unknown) -> QueryResult<usize> {
        // Those between them, which others may be about to claim, are not locked.
        let park = park(unknown, &format!("(SELECT {NOW})"))
            .sql("id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND task = ")
            .bind(&*unknown.task)
            .sql(
                " AND refusals = 0 AND id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND queue = ",
            )
            .bind(&*unknown.queue)
            .sql(format!(" ORDER BY priority, run_at_ms, id LIMIT {BATCH})) FOR UPDATE SKIP LOCKED))"));
        link.run(park).await
    }

    async fn renew(link: &mut Link, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
        let list = ids(tasks);
        // One that somebody is about to cancel is locked for as long as that transaction is open:
        // the others do not wait for it.
        let renew = Sql::<()>::new(format!("UPDATE deferred_tasks SET lease_until_ms = (SELECT {NOW}) + "))
            .bind(lease.ms())
            .sql(" WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE id = ANY(")
            .bind(&*list)
            .sql("::text::uuid[]) AND ")
            .sql(OURS)
            .bind(lease.worker)
            .sql(" FOR UPDATE SKIP LOCKED))");
        link.run(renew).await?;
        let ours = Sql::<RenewedSql>::new("SELECT id, cancel_requested FROM deferred_tasks WHERE id = ANY(")
            .bind(&*list)
            .sql("::text::uuid[]) AND ")
            .sql(OURS)
            .bind(lease.worker);
        link.rows(ours).await
    }

    async fn look(link: &mut Link, from: &Since) -> QueryResult<Look> {
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
             (SELECT TRUE FROM deferred_tasks WHERE freed_key IS NOT NULL LIMIT 1) IS NOT NULL, FALSE",
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
        link.row(look.sql(format!(" FROM (SELECT {NOW} AS ms OFFSET 0) AS n"))).await
    }

    async fn has_due(link: &mut Link, queues: &[Arc<str>]) -> QueryResult<bool> {
        link.row(has_due(queues, &format!("(SELECT {NOW})"))).await
    }

    async fn waiting(link: &mut Link, queues: &[Arc<str>]) -> QueryResult<Vec<Waiting>> {
        link.rows(waiting(queues, &format!("(SELECT {NOW})"))).await.map(in_order)
    }

    async fn look_back(link: &mut Link) -> QueryResult<Past> {
        let look = Sql::<PastSql>::new(
            "SELECT (SELECT min(ended_at_ms) FROM deferred_tasks WHERE state IN ('dead', 'cancelled')), \
             (SELECT min(refused_at_ms) FROM deferred_tasks WHERE state = 'unknown'), \
             (SELECT max(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), (SELECT max(version) FROM deferred_schema)",
        );
        link.row(look).await
    }

    async fn promote(link: &mut Link) -> QueryResult<usize> {
        // The time is asked for once, in a subquery: a function that may change its answer is no
        // condition of an index.
        let promote = Sql::<()>::new(format!(
            "UPDATE deferred_tasks SET state = 'ready' WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE state = 'scheduled' AND run_at_ms <= (SELECT {NOW}) AND freed_key IS NULL ORDER BY run_at_ms LIMIT {BATCH} \
             FOR UPDATE SKIP LOCKED))"
        ));
        link.run(promote).await
    }

    async fn rescue(link: &mut Link) -> QueryResult<Vec<RescuedRow>> {
        // Those of a key of which somebody has the next row locked: later. The others do not wait.
        let mut stuck = Vec::new();
        for _ in 0..3 {
            let mut found = Vec::new();
            let rescued = link
                .transaction(async |conn| {
                    let rescue = Sql::<RescuedSql>::new(rescue(NOW))
                        .sql(format!(
                            "ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks WHERE state = 'running' \
                             AND lease_until_ms < (SELECT {NOW}) AND (task_key IS NULL OR NOT task_key = ANY(ARRAY(\
                             SELECT value FROM json_array_elements_text("
                        ))
                        .bind(json(&stuck))
                        .sql(format!(
                            "::text::json)))) ORDER BY lease_until_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED)) \
                             RETURNING {RESCUED}, state, task_key"
                        ));
                    let rows: Vec<RescuedRow> = rescue.load(conn).await?;
                    found = elect(conn, &keys_of_rescued(&rows)).await?;
                    if found.is_empty() { Ok(rows) } else { Err(Error::RollbackTransaction) }
                })
                .await;
            match rescued {
                Err(Error::RollbackTransaction) => stuck.append(&mut found),
                rescued => return rescued,
            }
        }
        Ok(Vec::new())
    }

    async fn prune(link: &mut Link, ended: Ended, kept: Duration) -> QueryResult<usize> {
        let prune = Sql::<()>::new(format!(
            "DELETE FROM deferred_tasks WHERE ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks \
             WHERE {} AND ended_at_ms < (SELECT {NOW}) - ",
            ended.states()
        ))
        .bind(milliseconds(kept))
        .sql(format!(" AND freed_key IS NULL ORDER BY ended_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"));
        link.run(prune).await
    }

    async fn start_anew(link: &mut Link, lease: &Lease) -> QueryResult<usize> {
        let now = format!("(SELECT {NOW})");
        let start = Sql::<()>::new(start_anew(&now, lease)).sql(format!(
            "ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks WHERE {} LIMIT {BATCH} FOR UPDATE SKIP LOCKED))",
            started_in_the_time_to_come(&now, lease)
        ));
        link.run(start.varying()).await
    }

    async fn give_up_refused(link: &mut Link, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        let give_up = Sql::<RescuedSql>::new(format!(
            "UPDATE deferred_tasks SET state = 'dead', ended_at_ms = (SELECT {NOW}) WHERE ctid = ANY(ARRAY(SELECT ctid \
             FROM deferred_tasks WHERE state = 'unknown' AND refused_at_ms < (SELECT {NOW}) - "
        ))
        .bind(milliseconds(after))
        .sql(format!(
            " ORDER BY refused_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED)) RETURNING {RESCUED}, state, task_key"
        ));
        link.rows(give_up).await
    }

    async fn adopt(link: &mut Link, task: &str, unread: Unread) -> QueryResult<usize> {
        let now = format!("(SELECT {NOW})");
        let adopt = Sql::<()>::new(adopt("least", &now))
            .sql("ctid = ANY(ARRAY(SELECT ctid FROM deferred_tasks WHERE state = 'unknown' AND task = ")
            .bind(task)
            .sql(unread.of_task(&now))
            .sql(" FOR UPDATE SKIP LOCKED))");
        link.run(adopt).await
    }

    async fn free_keys(link: &mut Link, rows: &[(TaskId, String)]) -> QueryResult<usize> {
        link.transaction(async |conn| {
            // Locked first: what leaves a key behind that is looked at again.
            let lock = Sql::<SqlTaskId>::new("SELECT id FROM deferred_tasks WHERE id = ANY(")
                .bind(ids(&rows.iter().map(|(id, _)| *id).collect::<Vec<_>>()))
                .sql("::text::uuid[]) FOR UPDATE SKIP LOCKED");
            let free: HashSet<TaskId> = lock.load(conn).await?.into_iter().collect();
            let seen: Vec<_> = rows.iter().filter(|(id, _)| free.contains(id)).cloned().collect();
            let keys = keys_freed(&seen);
            let stuck = keys::free(&keys).load::<String>(conn).await?;
            let mut keys: Vec<_> = keys.into_iter().map(|(key, _)| key).collect();
            keys.retain(|key| !stuck.iter().any(|stuck| stuck == key));
            let clear = Sql::<()>::new("UPDATE deferred_tasks SET freed_key = NULL WHERE id = ANY(")
                .bind(ids(&free.into_iter().collect::<Vec<_>>()))
                .sql("::text::uuid[]) AND freed_key = ANY(ARRAY(SELECT value FROM json_array_elements_text(")
                .bind(json(&keys))
                .sql("::text::json)))");
            clear.execute(conn).await
        })
        .await
    }

    async fn next_unknown(link: &mut Link, behind: &str) -> QueryResult<Option<(String, bool)>> {
        link.row(next_unknown(behind, NOW)).await.optional()
    }

    async fn freed(link: &mut Link) -> QueryResult<Vec<(TaskId, String)>> {
        link.rows(freed()).await
    }

    async fn hinted(link: &mut Link) -> Hint {
        let Some(conn) = link.own_mut() else { return std::future::pending().await };
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
const LOCK_MS: &str = "500";
