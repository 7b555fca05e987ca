//! The statements for PostgreSQL. Lists of values go as one text each, so that the statements' own
//! text stays the same, and they stay prepared.

use std::sync::Arc;
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::floor::{Floor, Start};
use super::statements::{
    BATCH, CLAIMED, ClaimedRow, ClaimedSql, ITS_TURN, LET_GO, Look, LookSql, RESCUED, RenewedSql, RescuedRow,
    RescuedSql, TAKE, rescue,
};
use super::table::{Statements, WorkerConnection};
use super::{Claim, Hint, Lease, Settlement};
use crate::durable::call::milliseconds;
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::id::TaskId;
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

impl WorkerConnection for AsyncPgConnection {
    type Statements = OnPostgres;
}

/// The table on PostgreSQL.
#[derive(Debug)]
pub struct OnPostgres;

#[allow(private_interfaces, reason = "nobody can name the trait")]
impl Statements<AsyncPgConnection> for OnPostgres {
    async fn prepare(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        // What a worker writes may be lost when the server itself crashes: a task is run once more
        // then, which at-least-once allows. Not to wait for the disk is most of a small claim's
        // time.
        //
        // The table is empty at one moment and has a million rows at the next, so that statistics
        // are always of another time: a plan that was made while it was empty would read all of it
        // at each claim, until it is analyzed again. Each statement of ours has an index that has
        // its rows in its order, and none is better off without it. So the plans need not be made
        // anew each time either, which takes longer than a small claim, nor compiled.
        conn.batch_execute(
            "SET synchronous_commit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; \
             SET plan_cache_mode = force_generic_plan; SET jit = off",
        )
        .await
    }

    async fn listen(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        conn.batch_execute("LISTEN deferred_tasks").await
    }

    async fn exchange(
        conn: &mut AsyncPgConnection,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
    ) -> QueryResult<Vec<Vec<ClaimedRow>>> {
        settle(conn, lease, settled).await?;
        let mut rows = Vec::with_capacity(claims.len());
        for (claim, start) in claims {
            let taken = match take_all(conn, lease, claim, *start).await {
                // Two workers took two tasks of one key at the same moment, which the database does
                // not allow. One of them has it now.
                Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                    take(conn, lease, claim, Part::All).await
                }
                taken => taken,
            };
            match taken {
                Ok(taken) => rows.push(taken),
                // What was taken for other queues must not get lost for as long as a lease.
                Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => rows.push(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
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

    async fn look(conn: &mut AsyncPgConnection, queues: &[Arc<str>]) -> QueryResult<Look> {
        let look = Sql::<LookSql>::new(format!(
            "SELECT {NOW}, (SELECT min(run_at_ms) FROM deferred_tasks WHERE state = 'scheduled'), \
             (SELECT min(lease_until_ms) FROM deferred_tasks WHERE state = 'running'), \
             (SELECT min(ended_at_ms) FROM deferred_tasks WHERE state IN ('dead', 'cancelled')), \
             EXISTS (SELECT FROM json_array_elements_text("
        ))
        .bind(serde_json::to_string(&queues.iter().map(|queue| &**queue).collect::<Vec<_>>()).unwrap_or_default())
        .sql(
            "::text::json) AS q WHERE EXISTS (SELECT FROM deferred_tasks AS c WHERE c.state = 'ready' AND c.queue = q.value)), \
             (SELECT max(version) FROM deferred_schema)",
        );
        look.get_result(conn).await
    }

    async fn promote(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
        let promote = Sql::<()>::new(format!(
            "UPDATE deferred_tasks SET state = 'ready' WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks \
             WHERE state = 'scheduled' AND run_at_ms <= {NOW} ORDER BY run_at_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        ));
        promote.execute(conn).await
    }

    async fn rescue(conn: &mut AsyncPgConnection) -> QueryResult<Vec<RescuedRow>> {
        let rescue = Sql::<RescuedSql>::new(rescue(NOW)).sql(format!(
            "id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'running' AND lease_until_ms < {NOW} \
             ORDER BY lease_until_ms LIMIT {BATCH} FOR UPDATE SKIP LOCKED)) RETURNING {RESCUED}, state"
        ));
        rescue.load(conn).await
    }

    async fn prune(conn: &mut AsyncPgConnection, kept: Duration) -> QueryResult<usize> {
        let prune = Sql::<()>::new(format!(
            "DELETE FROM deferred_tasks WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks \
             WHERE state IN ('dead', 'cancelled') AND ended_at_ms < {NOW} - "
        ))
        .bind(milliseconds(kept))
        .sql(format!(" LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"));
        prune.execute(conn).await
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

async fn settle(conn: &mut AsyncPgConnection, lease: &Lease, settled: &[Settlement]) -> QueryResult<()> {
    let done = Settlement::done(settled);
    if !done.is_empty() {
        let delete = Sql::<()>::new("DELETE FROM deferred_tasks WHERE id = ANY(")
            .bind(ids(&done))
            .sql("::text::uuid[]) AND worker = ")
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
            })
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let update = Sql::<()>::new(format!(
        "UPDATE deferred_tasks AS t SET \
         state = CASE WHEN t.cancel_requested AND l.state IN ('scheduled', 'ready') THEN 'cancelled' ELSE l.state END, \
         run_at_ms = COALESCE({NOW} + l.delay_ms, t.run_at_ms), attempts = t.attempts - l.refund, \
         snoozes = t.snoozes + CASE WHEN t.snoozes < 2147483647 THEN l.snoozed ELSE 0 END, error = COALESCE(l.error, t.error), \
         ended_at_ms = CASE WHEN t.cancel_requested OR l.state IN ('dead', 'cancelled') THEN {NOW} END, \
         cancel_requested = false, {LET_GO} FROM json_to_recordset("
    ))
    .bind(serde_json::to_string(&left).unwrap_or_default())
    .sql(
        "::text::json) AS l(id uuid, state text, delay_ms bigint, error text, refund integer, snoozed integer) \
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
/// is not enough, rows before it: there may be the next task of a key that was busy then.
async fn take_all(
    conn: &mut AsyncPgConnection,
    lease: &Lease,
    claim: &Claim,
    start: Option<Start>,
) -> QueryResult<Vec<ClaimedRow>> {
    let urgent = start.filter(|start| start.urgent_first).map(|start| Part::MoreUrgentThan(start.behind.priority));
    let behind = start.map(|start| Part::Behind(start.behind));
    let mut rows = Vec::new();
    for part in urgent.into_iter().chain(behind).chain([Part::All]) {
        let limit = claim.limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        if limit == 0 {
            break;
        }
        match take(conn, lease, &Claim { limit, ..claim.clone() }, part).await {
            Ok(more) => rows.extend(more),
            // What was taken must not get lost.
            Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) if !rows.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

async fn take(conn: &mut AsyncPgConnection, lease: &Lease, claim: &Claim, part: Part) -> QueryResult<Vec<ClaimedRow>> {
    let queue = &*claim.queue;
    let mut take = Sql::<ClaimedSql>::new(format!("UPDATE deferred_tasks SET {TAKE}"))
        .bind(lease.worker)
        // A subquery, which is run once. By itself the time would be asked for and calculated with
        // for each row: a sixth of a claim.
        .sql(format!(", lease_until_ms = (SELECT {NOW}) + "))
        .bind(lease.ms())
        // An array, which is made once: a subquery could be run again by the plan, and take more
        // than the limit.
        .sql(
            " WHERE id = ANY(ARRAY(SELECT c.id FROM deferred_tasks AS c \
             WHERE NOT EXISTS (SELECT FROM deferred_paused_queues WHERE queue = ",
        )
        .bind(queue)
        .sql(") AND c.state = 'ready' AND c.queue = ")
        .bind(queue);
    take = match part {
        Part::MoreUrgentThan(priority) => take.sql(" AND c.priority < ").bind(priority),
        Part::Behind(Floor { priority, run_at_ms, id }) => take
            .sql(" AND (c.priority, c.run_at_ms, c.id) > (")
            .bind(priority)
            .sql(", ")
            .bind(run_at_ms)
            .sql(", ")
            .bind(id)
            .sql(")"),
        Part::All => take,
    };
    let take = take
        .sql(format!(" AND {ITS_TURN} ORDER BY c.priority, c.run_at_ms, c.id LIMIT "))
        .bind(i64::from(claim.limit))
        .sql(format!(" FOR UPDATE OF c SKIP LOCKED)) RETURNING {CLAIMED}"));
    take.load(conn).await
}
