//! What a claim takes from the front of its queue.
//!
//! Must not know: how attempts end, and who is next of a key then.

use std::collections::HashSet;

use diesel::result::{Error, QueryResult};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, RunQueryDsl};

use super::keys::{first, runs};
use super::rows::{BY_ID, start};
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::statements::{Candidate, CandidateSql, LISTED, Taken, choose, wider};
use crate::durable::worker::source::{Claim, Lease};

/// Claims from the front of the queue. Rows there that have to wait for others of their key are
/// moved out of the way, and out of the index.
pub(super) async fn take(conn: &mut AsyncMysqlConnection, lease: &Lease, claim: &Claim) -> QueryResult<Taken> {
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
    let rows = start(conn, lease, &free).await?;
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
        let lock = Sql::<(SqlTaskId,)>::new(format!("SELECT id FROM {BY_ID} WHERE held_key IS NOT NULL AND id IN ("))
            .list(holders.iter().copied())
            .sql(") FOR UPDATE SKIP LOCKED");
        locked.extend(lock.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    let free: Vec<_> = behind.iter().filter(|(_, holder)| locked.contains(holder)).map(|(id, _)| *id).collect();
    for free in free.chunks(LISTED) {
        let block = Sql::<()>::new(format!("UPDATE {BY_ID} SET state = 'blocked' WHERE id IN ("));
        block.list(free.iter().copied()).sql(")").execute(conn).await?;
    }
    Ok(!free.is_empty())
}
