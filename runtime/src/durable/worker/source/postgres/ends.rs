//! How attempts ended, and who is next of their keys.
//!
//! Must not know: why an attempt ended as it did.

use std::collections::HashSet;

use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join4;
use serde::Serialize;
use tokio::time::Instant;

use super::keys::{self, TakenRow, split};
use super::link::Link;
use super::lists::{ids, json};
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::database::in_time;
use crate::durable::worker::source::floor::Start;
use crate::durable::worker::source::statements::{
    LET_GO, Left, LeftKey, Manner, Taken, UNIQUE_WAITS, keep_done, keys_of,
};
use crate::durable::worker::source::{Claim, Lease, Settlement};

/// A row that an attempt leaves behind, as JSON has it.
#[derive(Serialize)]
struct LeftRow<'s> {
    id: TaskId,
    started_at_ms: i64,
    #[serde(flatten)]
    left: Left<'s>,
}

impl<'s> LeftRow<'s> {
    fn of(settlement: &'s Settlement) -> Option<Self> {
        let Settlement { id, started_at_ms, .. } = *settlement;
        Some(Self { id, started_at_ms, left: settlement.left()? })
    }
}

/// Elects; returns the keys that are stuck.
pub(super) async fn elect(conn: &mut AsyncPgConnection, keys: &[LeftKey<'_>]) -> QueryResult<Vec<String>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    keys::elect(keys).load(conn).await
}

/// Who was next of the keys that ends have left.
pub(super) struct Next {
    /// For each of the claims.
    pub(super) taken: Vec<Taken>,
    /// Whether there are others, which are ready.
    pub(super) others: bool,
}

impl Next {
    fn of(rows: Vec<TakenRow>, claims: &[(Claim, Option<Start>)]) -> Self {
        let (rows, (_, others)) = split(rows);
        let mut taken: Vec<_> = claims.iter().map(|_| Taken { handed_over: true, ..Taken::default() }).collect();
        for (row, queue) in rows {
            let at = claims.iter().position(|(claim, _)| queue.as_deref() == Some(&*claim.queue));
            if let Some(taken) = at.and_then(|at| taken.get_mut(at)) {
                taken.rows.push(row);
            }
        }
        Self { taken, others: others > 0 }
    }
}

/// Tells of ends that leave no rows, and takes who is next of their keys, without waiting for an
/// answer in between. Where it fails nothing was told, nor taken.
pub(super) async fn tell_at_once(
    conn: &AsyncPgConnection,
    lease: &Lease,
    settled: &[Settlement],
    claims: &[(Claim, Option<Start>)],
) -> QueryResult<Next> {
    let (done, keys) = (Settlement::done(settled), keys_of(settled));
    let delete = end_well(lease, &done);
    if keys.is_empty() {
        delete.execute(&mut &*conn).await?;
        return Ok(Next::of(Vec::new(), claims));
    }
    let (mut first, mut second, mut third, mut last) = (conn, conn, conn, conn);
    let (begun, deleted, next, committed) = join4(
        first.batch_execute("BEGIN"),
        delete.execute(&mut second),
        keys::hand_over(&keys, lease, claims).load(&mut third),
        last.batch_execute("COMMIT"),
    )
    .await;
    begun?;
    deleted?;
    let next = next?;
    committed?;
    Ok(Next::of(next, claims))
}

/// The same, one after the other: with the same statements, which are prepared from then on.
pub(super) async fn tell_one_by_one(
    link: &mut Link,
    lease: &Lease,
    settled: &[Settlement],
    claims: &[(Claim, Option<Start>)],
) -> QueryResult<Next> {
    let (done, keys) = (Settlement::done(settled), keys_of(settled));
    link.transaction(async |conn| {
        end_well(lease, &done).execute(conn).await?;
        let next = if keys.is_empty() { Vec::new() } else { keys::hand_over(&keys, lease, claims).load(conn).await? };
        Ok(Next::of(next, claims))
    })
    .await
}

/// Rows that a worker has begun, by their ids; the worker follows. That they run is said otherwise
/// than in the words of an index: it has the rows of all workers, which may be few when the statement
/// is planned, and many afterwards.
pub(super) const OURS: &str = "state <> 'done' AND worker = ";

/// Deletes what ended well, or keeps it as a part of the history.
fn end_well<'l>(lease: &Lease, done: &[TaskId]) -> Sql<'l> {
    let end =
        if lease.keeps_done { keep_done(&format!("(SELECT {NOW})")) } else { "DELETE FROM deferred_tasks".to_owned() };
    Sql::new(end).sql(" WHERE id = ANY(").bind(ids(done)).sql("::text::uuid[]) AND ").sql(OURS).bind(lease.worker)
}

/// Tells how attempts ended. Returns the ends that were not told, because somebody has locked their
/// rows, or the next row of their key; a `careful` one does not wait to find that out.
pub(super) async fn tell(
    link: &mut Link,
    lease: &Lease,
    settled: &[Settlement],
    manner: Manner,
) -> QueryResult<Vec<TaskId>> {
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    let (mut stuck, begin) = (Vec::new(), Instant::now());
    if manner != Manner::Careful {
        match tell_of(link, lease, settled).await {
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
    let list = ids(&settled.iter().map(|settlement| settlement.id).collect::<Vec<_>>());
    let ours = || {
        Sql::<SqlTaskId>::new("SELECT id FROM deferred_tasks WHERE id = ANY(")
            .bind(&*list)
            .sql("::text::uuid[]) AND ")
            .sql(OURS)
            .bind(lease.worker)
    };
    let all: Vec<TaskId> = link.rows(ours()).await?;
    let free: HashSet<TaskId> = link.rows(ours().sql(" FOR UPDATE SKIP LOCKED")).await?.into_iter().collect();
    let untold: HashSet<_> = all.into_iter().filter(|id| !free.contains(id)).collect();
    let mut left: Vec<_> = settled.iter().filter(|settlement| !untold.contains(&settlement.id)).cloned().collect();
    let mut untold: Vec<_> = untold.into_iter().collect();
    // Of each key that is found to be stuck the ends wait; a few times, then for the next round.
    for _ in 0..3 {
        let is_stuck = |settlement: &Settlement| settlement.key.as_ref().is_some_and(|key| stuck.contains(key));
        untold.extend(left.iter().filter(|settlement| is_stuck(settlement)).map(|settlement| settlement.id));
        left.retain(|settlement| !is_stuck(settlement));
        // One that waits again as if it had never been taken may have the unique_key of a call that is
        // about to be committed: it waits for that transaction.
        let waits_again = |settlement: &Settlement| settlement.left().is_some_and(|left| left.refund > 0);
        match tell_of(link, lease, &left).await {
            Ok(keys) if keys.is_empty() => return Ok(untold),
            Ok(keys) => stuck = keys,
            Err(Error::DatabaseError(kind, _))
                if !matches!(kind, DatabaseErrorKind::ClosedConnection) && left.iter().any(waits_again) =>
            {
                untold.extend(left.iter().filter(|settlement| waits_again(settlement)).map(|settlement| settlement.id));
                left.retain(|settlement| !waits_again(settlement));
                stuck.clear();
            }
            Err(error) => return Err(error),
        }
    }
    untold.extend(left.iter().map(|settlement| settlement.id));
    Ok(untold)
}

/// Tells of all of these ends, or of none: then the next rows of these keys are locked.
async fn tell_of(link: &mut Link, lease: &Lease, settled: &[Settlement]) -> QueryResult<Vec<String>> {
    let keys = keys_of(settled);
    if keys.is_empty() {
        match link.own_mut() {
            Some(conn) => settle(conn, lease, settled).await?,
            None => link.transaction(async |conn| settle(conn, lease, settled).await).await?,
        }
        return Ok(Vec::new());
    }
    // The next of a key are looked for behind the ends, when those are locked: who put one behind a
    // row that has ended now had that row locked until then.
    let mut stuck = Vec::new();
    let told = link
        .transaction(async |conn| {
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
    let left: Vec<_> = settled.iter().filter_map(LeftRow::of).collect();
    if left.is_empty() {
        return Ok(());
    }
    // `r` are those that wait again as if they had never been taken, with how many of one unique_key
    // they are: each but the first one forgets it, and that one does if another call has it meanwhile.
    let update = Sql::<()>::new("WITH l AS MATERIALIZED (SELECT * FROM json_to_recordset(")
        .bind(json(&left))
        .sql(
            "::text::json) AS l(id uuid, started_at_ms bigint, state text, delay_ms bigint, error text, refund integer, \
             snoozed integer, refused boolean)), r AS MATERIALIZED (SELECT o.id, row_number() OVER (PARTITION BY o.task, o.unique_key \
             ORDER BY o.id) AS at FROM l JOIN deferred_tasks AS o ON o.id = l.id WHERE l.refund > 0 AND o.attempts = l.refund \
             AND o.unique_key IS NOT NULL AND o.id = ANY(ARRAY(SELECT id FROM l)) AND o.started_at_ms = l.started_at_ms \
             AND o.state <> 'done' AND o.worker = ",
        )
        .bind(lease.worker)
        .sql(format!(
            ") UPDATE deferred_tasks AS t SET \
             state = CASE WHEN t.cancel_requested AND l.state IN ('scheduled', 'ready', 'unknown') THEN 'cancelled' ELSE l.state END, \
             run_at_ms = COALESCE({NOW} + l.delay_ms, t.run_at_ms), attempts = t.attempts - l.refund, \
             unique_key = CASE WHEN l.refund > 0 AND t.attempts = l.refund AND (EXISTS (SELECT FROM deferred_tasks AS o \
             WHERE o.task = t.task AND o.unique_key = t.unique_key AND {UNIQUE_WAITS} LIMIT 1) \
             OR EXISTS (SELECT FROM r WHERE r.id = t.id AND r.at > 1)) THEN NULL ELSE t.unique_key END, \
             refused_at_ms = CASE WHEN l.refused THEN COALESCE(t.refused_at_ms, {NOW}) ELSE t.refused_at_ms END, \
             refusals = t.refusals + l.refused::integer, snoozes = t.snoozes + CASE WHEN t.snoozes < 2147483647 THEN l.snoozed ELSE 0 END, error = COALESCE(l.error, t.error), \
             ended_at_ms = CASE WHEN t.cancel_requested OR l.state IN ('dead', 'cancelled') THEN {NOW} END, \
             cancel_requested = false, {LET_GO} FROM l WHERE t.id = l.id \
             AND t.id = ANY(ARRAY(SELECT id FROM l)) AND t.started_at_ms = l.started_at_ms AND t.state <> 'done' AND t.worker = "
        ))
        .bind(lease.worker);
    update.execute(conn).await?;
    Ok(())
}
