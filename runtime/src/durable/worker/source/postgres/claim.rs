//! What a claim takes, from the front of its queue or from where the last one ended.
//!
//! Must not know: how attempts end, and who is next of a key then.

use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use tokio::time::Instant;

use super::keys::{TakenRow, TakenSql, in_the_way, split};
use super::link::Link;
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::sql::Sql;
use crate::durable::worker::source::floor::{Floor, Front, Start};
use crate::durable::worker::source::statements::{CLAIMED, ClaimedRow, TAKE, Taken, wider};
use crate::durable::worker::source::{Claim, Lease};

/// Which tasks are looked at.
#[derive(Clone, Copy)]
enum Part {
    MoreUrgentThan(i16),
    Behind(Floor),
    All,
}

/// Claims rows of a more urgent priority than the floor, then rows behind the floor, and where that
/// is not enough, rows before it, if there may be some. What it took before an error must not get
/// lost.
pub(super) async fn take_all(
    link: &Link,
    lease: &Lease,
    claim: &Claim,
    start: Option<Start>,
) -> (Taken, Option<Error>) {
    let mut all = Taken::default();
    let taken = take_parts(link, lease, claim, start, &mut all).await;
    (all, taken.err())
}

async fn take_parts(
    link: &Link,
    lease: &Lease,
    claim: &Claim,
    start: Option<Start>,
    all: &mut Taken,
) -> QueryResult<()> {
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
        let is_front = matches!(part, Part::All);
        let only_if_nothing = start.is_some_and(|start| start.front == Front::IfThereIsNothingBehind);
        let Some(rest) = rest_of(claim, all) else { break };
        if (rest.bytes <= 0 || (is_front && only_if_nothing)) && !all.rows.is_empty() {
            break;
        }
        let begin = Instant::now();
        take_part(link, lease, &rest, part, all).await?;
        all.front = is_front.then(|| begin.elapsed());
    }
    Ok(())
}

/// What a claim has still to take; `None`: nothing.
fn rest_of(claim: &Claim, taken: &Taken) -> Option<Claim> {
    let rows = u32::try_from(taken.rows.len()).unwrap_or(u32::MAX);
    let limit = claim.limit.checked_sub(rows).filter(|limit| *limit > 0)?;
    let bytes = taken.rows.iter().map(|row| i64::try_from(row.payload.len()).unwrap_or(i64::MAX)).sum::<i64>();
    Some(Claim { limit, bytes: claim.bytes - bytes, ..claim.clone() })
}

/// Claims from the front of one part. Rows there that have to wait for others of their key are
/// moved out of the way, and out of the index.
async fn take_part(link: &Link, lease: &Lease, claim: &Claim, part: Part, all: &mut Taken) -> QueryResult<()> {
    let limit = i64::from(claim.limit);
    let mut look_at = limit;
    for _ in 0..LOOKS {
        let (rows, counts) = match take(link, lease, claim, part, look_at).await {
            // Two workers took two tasks of one key at the same moment, which the database does not
            // allow. One of them has it now.
            Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                take(link, lease, claim, part, look_at).await?
            }
            taken => taken?,
        };
        let taken = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        all.rows.extend(rows);
        // No more of them are counted than may be taken: behind those there may be others.
        let uncounted = counts.free >= limit && counts.seen > counts.free;
        all.more = counts.seen >= look_at || counts.free > taken || uncounted;
        if counts.seen == counts.free || counts.free > taken || taken >= limit {
            return Ok(());
        }
        // Where half of them have to wait, most of those behind them have to as well.
        let waiting = counts.seen - counts.free;
        let front = if waiting * 2 >= counts.seen { wider(look_at).unwrap_or(look_at) } else { look_at };
        let blocked = block(link, claim, part, front).await?;
        // Those that could not be moved are still in the way.
        if blocked < waiting {
            match wider(look_at) {
                Some(further) => look_at = further,
                None if blocked > 0 => {}
                None => return Ok(()),
            }
        }
        all.more = true;
        if taken > 0 {
            // They are to start.
            return Ok(());
        }
    }
    Ok(())
}

/// How often a claim looks at more, before others have their turn.
const LOOKS: usize = 10;

/// How many rows a claim has seen, and how many of them nothing was in the way of, up to its limit.
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

async fn take(
    link: &Link,
    lease: &Lease,
    claim: &Claim,
    part: Part,
    look_at: i64,
) -> QueryResult<(Vec<ClaimedRow>, Counts)> {
    let in_the_way = in_the_way();
    let take = front(claim, part, look_at)
        .sql(format!(
            ", f AS MATERIALIZED (SELECT c.place, c.priority, c.run_at_ms, c.id, c.bytes FROM c \
             WHERE c.task_key IS NULL OR {in_the_way} IS NULL ORDER BY c.priority, c.run_at_ms, c.id LIMIT "
        ))
        .bind(i64::from(claim.limit))
        .sql("), b AS MATERIALIZED (SELECT COALESCE(sum(f.bytes), 0) <= ")
        .bind(claim.bytes)
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
        .bind(claim.bytes)
        .sql(format!(
            ") END) RETURNING {CLAIMED}, NULL::text) SELECT * FROM t UNION ALL SELECT NULL, NULL, NULL, \
             (SELECT count(*)::integer FROM c), (SELECT count(*)::integer FROM f), NULL, NULL, NULL, NULL, NULL, NULL, NULL"
        ));
    let rows: Vec<TakenRow> = link.rows(take).await?;
    let (rows, (seen, free)) = split(rows);
    Ok((rows.into_iter().map(|(row, _)| row).collect(), Counts { seen: seen.into(), free: free.into() }))
}

/// Has the rows that have to wait for others of their key be blocked; says how many. Each one that
/// is in the way is locked meanwhile, so that it cannot end without seeing who waits behind it.
async fn block(link: &Link, claim: &Claim, part: Part, look_at: i64) -> QueryResult<i64> {
    let in_the_way = in_the_way();
    let block = front(claim, part, look_at).sql(format!(
        ", w AS MATERIALIZED (SELECT c.place, h.state = 'running' AND c.id < h.id AS overtaken \
         FROM (SELECT c.place, c.id, {in_the_way} AS behind FROM c WHERE c.task_key IS NOT NULL) AS c CROSS JOIN LATERAL \
         (SELECT id, state FROM deferred_tasks WHERE ctid = c.behind AND state IN ('ready', 'blocked', 'scheduled', 'running') \
         FOR SHARE SKIP LOCKED) AS h) \
         UPDATE deferred_tasks AS t SET state = 'blocked', overtaken = w.overtaken FROM w WHERE t.ctid = w.place"
    ));
    let blocked = link.run(block).await?;
    Ok(i64::try_from(blocked).unwrap_or(i64::MAX))
}
