//! Calls of one key run one after the other: who is in whose way, and who is next.
//!
//! Must not know: how the row before ended.

use diesel::result::QueryResult;
use diesel::sql_types::{Nullable, Text};
use diesel_async::{AsyncMysqlConnection, RunQueryDsl};

use super::rows::{BY_ID, start};
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::floor;
use crate::durable::worker::source::hand_over::{NextOfKey, NextOfKeySql, Shares};
use crate::durable::worker::source::statements::{LISTED, LeftKey, Taken};
use crate::durable::worker::source::{Claim, Lease};

/// The SQL of the row that runs of a key. Each index is named: to have rows in the order of their ids,
/// MariaDB would read the table from its beginning.
pub(super) fn runs(key: &str) -> String {
    format!(
        "(SELECT h.id FROM deferred_tasks AS h FORCE INDEX (deferred_tasks_running_key) WHERE h.running_key = {key})"
    )
}

/// The SQL of what is asked of the first row of a key in this column.
pub(super) fn first(column: &str, what: &str, key: &str) -> String {
    format!(
        "(SELECT {what} FROM deferred_tasks AS h FORCE INDEX (deferred_tasks_{column}) WHERE h.{column} = {key} \
         ORDER BY h.{column}, h.id LIMIT 1)"
    )
}

/// What is known of a key: itself, the first row that is blocked, the one that runs, and the first one
/// that holds it.
type KeySql = (Nullable<Text>, Nullable<SqlTaskId>, Nullable<SqlTaskId>, Nullable<SqlTaskId>);

/// See [`KeySql`].
type Key = (Option<String>, Option<TaskId>, Option<TaskId>, Option<TaskId>);

/// Asks that of each of these keys; who runs and who holds it only of those of which a row is blocked.
/// To ask for the first row of each by one GROUP BY would read all of them.
fn look_at<'k>(keys: impl Iterator<Item = &'k str>) -> Sql<'static, KeySql> {
    let keys = serde_json::to_string(&keys.collect::<Vec<_>>()).unwrap_or_default();
    let of_blocked = |what: &str| format!("CASE WHEN b.id IS NOT NULL THEN {what} END");
    Sql::new(format!(
        "SELECT b.name, b.id, {}, {} FROM (SELECT k.name, {} AS id FROM JSON_TABLE(",
        of_blocked(&runs("b.name")),
        of_blocked(&first("held_key", "h.id", "b.name")),
        first("blocked_key", "h.id", "k.name"),
    ))
    .bind(keys)
    // The limit keeps the servers from asking once more wherever `b.id` stands.
    .sql(format!(
        ", '$[*]' COLUMNS (name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS k LIMIT {LISTED}) AS b"
    ))
}

/// Who is next of some keys.
struct NextOf {
    /// The rows, which are locked.
    rows: Vec<NextOfKey>,
    /// The keys of which somebody else has that row locked.
    stuck: Vec<String>,
}

/// Locks the first one that is blocked of each of these keys, where nothing is in its way.
async fn next_of(conn: &mut AsyncMysqlConnection, keys: &[LeftKey<'_>]) -> QueryResult<NextOf> {
    let mut next = NextOf { rows: Vec::new(), stuck: Vec::new() };
    for keys in keys.chunks(LISTED) {
        let seen: Vec<Key> = look_at(keys.iter().map(|(key, _)| *key)).load(conn).await?;
        let mut wanted: Vec<(String, TaskId)> = Vec::new();
        for (key, blocked, runs, holder) in seen {
            let (Some(key), Some(blocked), None) = (key, blocked, runs) else { continue };
            if holder.is_none_or(|holder| blocked < holder) {
                wanted.push((key, blocked));
            }
        }
        if wanted.is_empty() {
            continue;
        }
        let lock = Sql::<NextOfKeySql>::new(
            "SELECT id, queue, priority, run_at_ms, CAST(LENGTH(payload) AS SIGNED), \
             EXISTS (SELECT 1 FROM deferred_paused_queues AS p WHERE p.queue = t.queue) \
             FROM deferred_tasks AS t FORCE INDEX (PRIMARY) WHERE state = 'blocked' AND id IN (",
        );
        let lock = lock.list(wanted.iter().map(|(_, id)| *id)).sql(") FOR UPDATE SKIP LOCKED");
        let rows: Vec<NextOfKey> = lock.load(conn).await?;
        let is_stuck = |id: &TaskId| !rows.iter().any(|row| row.id == *id);
        next.stuck.extend(wanted.into_iter().filter(|(_, id)| is_stuck(id)).map(|(key, _)| key));
        next.rows.extend(rows);
    }
    Ok(next)
}

/// Has who is next of each of these keys be ready. Returns the keys that are stuck.
pub(super) async fn elect(conn: &mut AsyncMysqlConnection, keys: &[LeftKey<'_>]) -> QueryResult<Vec<String>> {
    let NextOf { rows, stuck } = next_of(conn, keys).await?;
    make_ready(conn, &rows.iter().map(|row| row.id).collect::<Vec<_>>()).await?;
    Ok(stuck)
}

async fn make_ready(conn: &mut AsyncMysqlConnection, rows: &[TaskId]) -> QueryResult<()> {
    for rows in rows.chunks(LISTED) {
        let elect = Sql::<()>::new(format!("UPDATE {BY_ID} SET state = 'ready' WHERE id IN ("));
        elect.list(rows.iter().copied()).sql(")").execute(conn).await?;
    }
    Ok(())
}

/// What claims took of what was next of some keys.
#[derive(Default)]
pub(super) struct HandedOver {
    /// For each of the claims.
    pub(super) taken: Vec<Taken>,
    /// Whether there are others, which are ready.
    pub(super) others: bool,
    /// The keys of which somebody else has the next row locked: then nothing is to be committed.
    pub(super) stuck: Vec<String>,
}

/// Takes who is next of each of these keys, as far as these claims reach, and has the others be
/// ready.
///
/// What is taken starts before all else that is ready: this is for claims that know of nothing else.
pub(super) async fn hand_over(
    conn: &mut AsyncMysqlConnection,
    lease: &Lease,
    keys: &[LeftKey<'_>],
    claims: &[(Claim, Option<floor::Start>)],
) -> QueryResult<HandedOver> {
    let NextOf { rows, stuck } = next_of(conn, keys).await?;
    if !stuck.is_empty() {
        return Ok(HandedOver { stuck, ..HandedOver::default() });
    }
    let shares = Shares::of(rows, claims);
    make_ready(conn, &shares.ready).await?;
    let taken = shares.taken(start(conn, lease, &shares.starting()).await?);
    Ok(HandedOver { taken, others: !shares.ready.is_empty(), stuck })
}
