//! Calls of one key run one after the other: who is in whose way, and who is next.
//!
//! Rows that have ended leave entries in the indexes until the server clears them away, and those of
//! a busy key are many. So what is next is looked for behind the row that has ended, and what is in
//! the way right before the row that asks. Only among the rows that were overtaken, of which there
//! are few, does one look from the first row of the key on.
//!
//! What stands behind a row is found by the end of that row; so one that stands before what runs must
//! wait for a row before it, or be known as overtaken. Where the row before it goes otherwise than by
//! an end, a worker sees to that: see [`free`].
//!
//! Must not know: how the row before ended, and on which connection this is sent.

use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};
use serde::Serialize;

use super::lists::json;
use crate::durable::clock::POSTGRES_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::floor::Start;
use crate::durable::worker::source::statements::{CLAIMED, ClaimedRow, LeftKey};
use crate::durable::worker::source::{Claim, Lease};

/// Whether `h` keeps the later ones of its key waiting: it is about to run, or is tried again. The
/// words are those of the index.
const WAITS: &str = "h.task_key IS NOT NULL AND (h.state = 'ready' OR (h.state = 'scheduled' AND h.attempts > 0))";

/// Of a row whose place is known. In the words of an index, the index may be read from end to end by
/// a plan that was made while there was little in it.
const IS_BLOCKED: &str = "state || '' = 'blocked'";

/// Where the nearest row before `c` is that waits, too: a backward scan from `c`, in the order of the
/// key and the id, because in that of the id alone rows of other keys stand between.
fn waits_before() -> String {
    format!(
        "(SELECT h.ctid FROM deferred_tasks AS h WHERE {WAITS} AND (h.task_key, h.id) < (c.task_key, c.id) \
         AND h.task_key >= c.task_key ORDER BY h.task_key DESC, h.id DESC LIMIT 1)"
    )
}

/// Where the row is that is in the way of `c`, and NULL where there is none: one of its key that
/// runs, or is before it. Subqueries of one row, because an EXISTS might be made a join with all of
/// the table.
pub(super) fn in_the_way() -> String {
    let blocked = |overtaken| {
        format!(
            "(SELECT h.ctid FROM deferred_tasks AS h WHERE h.state = 'blocked' \
             AND (h.task_key, h.overtaken, h.id) < (c.task_key, {overtaken}, c.id) \
             AND (h.task_key, h.overtaken) >= (c.task_key, {overtaken}) \
             ORDER BY h.task_key DESC, h.overtaken DESC, h.id DESC LIMIT 1)"
        )
    };
    format!(
        "COALESCE((SELECT h.ctid FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND h.state = 'running' LIMIT 1), \
         {}, {}, {})",
        waits_before(),
        blocked(false),
        blocked(true)
    )
}

#[derive(Serialize)]
struct Behind<'k> {
    key: &'k str,
    behind: TaskId,
}

/// Locks who is next of each of these keys, where nothing is in its way, as `b`. The keys are `stuck`
/// of which somebody else has locked that row.
fn next_of<'k, R>(keys: &[LeftKey<'k>]) -> Sql<'k, R> {
    let behind: Vec<_> = keys.iter().map(|&(key, behind)| Behind { key, behind }).collect();
    // While nobody has looked who is next where a row has left its place, that is anywhere.
    let from_there = "WITH k AS MATERIALIZED (SELECT l.key, CASE WHEN (SELECT true FROM deferred_tasks AS f \
                      WHERE f.freed_key = l.key LIMIT 1) THEN '00000000-0000-0000-0000-000000000000' ELSE l.behind END AS behind, \
                      (SELECT true FROM deferred_tasks AS o WHERE o.state = 'blocked' AND (o.task_key, o.overtaken) >= (l.key, true) \
                      AND o.task_key <= l.key ORDER BY o.task_key, o.overtaken, o.id LIMIT 1) AS overtaken \
                      FROM json_to_recordset(";
    // Either may be before the other one: those of a transaction that was committed late stand before
    // what has run meanwhile, and only the first of them was overtaken. There is seldom one.
    let overtaken = "(SELECT ctid AS place, task_key, id FROM deferred_tasks \
                     WHERE state = 'blocked' AND (task_key, overtaken) >= (k.key, true) AND task_key <= k.key \
                     ORDER BY task_key, overtaken, id LIMIT 1)";
    let behind_it = "(SELECT ctid AS place, task_key, id FROM deferred_tasks \
                     WHERE state = 'blocked' AND (task_key, overtaken, id) > (k.key, false, k.behind) \
                     AND (task_key, overtaken) <= (k.key, false) ORDER BY task_key, overtaken, id LIMIT 1)";
    // Of `c`, so that it is asked of what was found, and not of every key.
    let is_free = format!(
        "(SELECT true FROM deferred_tasks AS h WHERE h.task_key = c.task_key AND h.state = 'running' LIMIT 1) IS NULL \
         AND {} IS NULL",
        waits_before()
    );
    Sql::new(from_there).bind(json(&behind)).sql(format!(
        "::text::json) AS l(key text, behind uuid)), n AS MATERIALIZED (\
         SELECT k.key, c.place, c.id FROM k CROSS JOIN LATERAL {behind_it} AS c WHERE k.overtaken IS NULL AND {is_free} UNION ALL \
         SELECT k.key, c.place, c.id FROM k CROSS JOIN LATERAL (SELECT place, task_key, id FROM ({overtaken} UNION ALL {behind_it}) AS c \
         ORDER BY id LIMIT 1) AS c WHERE k.overtaken AND {is_free}), \
         b AS MATERIALIZED (SELECT ctid AS place, id, queue, priority, run_at_ms, octet_length(payload) AS bytes FROM deferred_tasks \
         WHERE ctid = ANY(ARRAY(SELECT place FROM n)) AND {IS_BLOCKED} FOR UPDATE SKIP LOCKED), \
         stuck AS (SELECT key FROM n WHERE id NOT IN (SELECT id FROM b)), "
    ))
}

/// Has who is next of each of these keys be ready; returns the keys that are stuck.
pub(super) fn elect<'k>(keys: &[LeftKey<'k>]) -> Sql<'k, Text> {
    next_of(keys).sql(format!("{READY} SELECT key FROM stuck"))
}

const READY: &str =
    "u AS (UPDATE deferred_tasks SET state = 'ready', overtaken = false WHERE ctid = ANY(ARRAY(SELECT place FROM b)))";

/// The same, of keys in which rows have left their places otherwise than by an end. Where one of the
/// key runs, its end would not find a row before it that waited for one of those: of each key the
/// first such row is noted as overtaken. What runs is locked meanwhile, so that it does not end
/// without seeing that; where somebody else has it locked, the key is stuck.
pub(super) fn free<'k>(keys: &[LeftKey<'k>]) -> Sql<'k, Text> {
    next_of(keys).sql(format!(
        "{READY}, r AS MATERIALIZED (SELECT k.key, h.place FROM k CROSS JOIN LATERAL (SELECT ctid AS place FROM deferred_tasks \
         WHERE task_key = k.key AND state = 'running' LIMIT 1) AS h), \
         l AS MATERIALIZED (SELECT r.key, h.id FROM r CROSS JOIN LATERAL (SELECT id FROM deferred_tasks \
         WHERE ctid = r.place AND state || '' = 'running' FOR SHARE SKIP LOCKED) AS h), \
         o AS (UPDATE deferred_tasks SET overtaken = true WHERE ctid = ANY(ARRAY(SELECT (SELECT ctid FROM deferred_tasks \
         WHERE state = 'blocked' AND (task_key, overtaken) >= (l.key, false) AND (task_key, overtaken, id) < (l.key, false, l.id) \
         ORDER BY task_key, overtaken, id LIMIT 1) FROM l)) AND {IS_BLOCKED}) \
         SELECT key FROM stuck UNION ALL SELECT key FROM r WHERE key NOT IN (SELECT key FROM l)"
    ))
}

#[derive(Serialize)]
struct Room<'c> {
    queue: &'c str,
    rows: u32,
    bytes: i64,
}

/// Takes who is next of each of these keys, as far as these claims reach, and has the others be
/// ready. A key that is stuck is an error, so that nothing is committed.
///
/// What is taken starts before all else that is ready: this is for claims that know of nothing else.
pub(super) fn hand_over<'k>(
    keys: &[LeftKey<'k>],
    lease: &Lease,
    claims: &[(Claim, Option<Start>)],
) -> Sql<'k, TakenSql> {
    let room = claims.iter().map(|(claim, _)| Room { queue: &claim.queue, rows: claim.limit, bytes: claim.bytes });
    let room = json(&room.collect::<Vec<_>>());
    next_of(keys)
        .sql("q AS (SELECT q.queue, q.rows, q.bytes FROM json_to_recordset(")
        .bind(room)
        .sql(
            "::text::json) AS q(queue text, rows bigint, bytes bigint) \
             WHERE (SELECT true FROM deferred_paused_queues AS p WHERE p.queue = q.queue) IS NULL), \
             h AS MATERIALIZED (SELECT s.place, s.at <= s.rows AND (s.at = 1 OR s.before < s.bytes) AS fits FROM \
             (SELECT b.place, q.rows, q.bytes, row_number() OVER o AS at, sum(b.bytes) OVER o - b.bytes AS before \
             FROM b LEFT JOIN q ON q.queue = b.queue \
             WINDOW o AS (PARTITION BY b.queue ORDER BY b.priority, b.run_at_ms, b.id)) AS s), \
             t AS (UPDATE deferred_tasks AS t SET overtaken = false, state = CASE WHEN h.fits THEN 'running' ELSE 'ready' END, \
             attempts = CASE WHEN h.fits AND t.attempts < 2147483647 THEN t.attempts + 1 ELSE t.attempts END, \
             worker = CASE WHEN h.fits THEN "
        )
        .bind(lease.worker)
        .sql(format!(
            " END, started_at_ms = CASE WHEN h.fits THEN (SELECT {NOW}) ELSE t.started_at_ms END, \
             lease_until_ms = CASE WHEN h.fits THEN (SELECT {NOW}) + "
        ))
        .bind(lease.ms())
        .sql(format!(
            " END FROM h WHERE t.ctid = h.place RETURNING {CLAIMED}, CASE WHEN h.fits THEN t.queue END AS queue) \
             SELECT * FROM t WHERE queue IS NOT NULL UNION ALL SELECT NULL, NULL, NULL, \
             (1 / (1 - least((SELECT count(*) FROM stuck), 1)))::integer, (SELECT count(*) FROM h WHERE fits IS NOT TRUE)::integer, \
             NULL, NULL, NULL, NULL, NULL, NULL, NULL"
        ))
}

/// The rows that were taken, with their queues where these are asked for, and a last row with two
/// numbers.
pub(super) type TakenSql = (
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
    Nullable<Text>,
    Nullable<Text>,
);

/// See [`TakenSql`].
pub(super) type TakenRow = (
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
    Option<String>,
    Option<String>,
);

/// Rows that were taken, each with its queue where that is asked for.
pub(super) type WithQueue = Vec<(ClaimedRow, Option<String>)>;

/// The rows apart from the two numbers.
pub(super) fn split(rows: Vec<TakenRow>) -> (WithQueue, (i32, i32)) {
    let mut numbers = (0, 0);
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
                trace_parent,
                queue,
            ) => claimed.push((
                ClaimedRow {
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
                    trace_parent,
                },
                queue,
            )),
            (_, _, _, first, second, ..) => numbers = (first, second),
        }
    }
    (claimed, numbers)
}
