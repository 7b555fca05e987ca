//! What the statements of all databases have in common.
//!
//! Must not know: how a database takes them.

use super::floor::Floor;
use super::{COUNTED, Lease, Outcome, Settlement, Unknown, WORKER_DIED, Waiting};
use crate::durable::call::milliseconds;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;

use std::sync::Arc;
use std::time::Duration;

use diesel::result::{Error, QueryResult};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text};
use tokio::time::Instant;

/// The rows of a claim.
pub(super) type ClaimedSql =
    (SqlTaskId, Text, Text, Integer, Integer, SmallInt, BigInt, Nullable<Text>, Integer, BigInt, Nullable<Text>);

/// See [`ClaimedSql`].
#[derive(Debug, PartialEq, Eq, diesel::Queryable)]
#[diesel(sql_type = ClaimedSql)]
pub(crate) struct ClaimedRow {
    pub(crate) id: TaskId,
    pub(crate) task: String,
    pub(crate) payload: String,
    /// Those that count.
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    pub(crate) priority: i16,
    /// When it was due.
    pub(crate) run_at_ms: i64,
    pub(crate) key: Option<String>,
    /// How often programs could not read it.
    pub(crate) refusals: i32,
    /// When it was taken.
    pub(crate) started_at_ms: i64,
    /// What the call was a part of.
    pub(crate) trace_parent: Option<String>,
}

/// The columns of one.
pub(super) const CLAIMED: &str = "id, task, payload, attempts - snoozes, max_attempts, priority, run_at_ms, task_key, \
     refusals, COALESCE(started_at_ms, 0), trace_parent";

/// The rows of what a worker has.
pub(super) type MineSql = (SqlTaskId, Nullable<Text>, BigInt);

/// See [`MineSql`].
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, diesel::Queryable)]
#[diesel(sql_type = MineSql)]
pub(crate) struct Mine {
    pub(crate) id: TaskId,
    pub(crate) key: Option<String>,
    /// When it was taken.
    pub(crate) started_at_ms: i64,
}

/// What this worker has.
pub(super) fn mine(lease: &Lease) -> Sql<'static, MineSql> {
    Sql::new(
        "SELECT id, task_key, COALESCE(started_at_ms, 0) FROM deferred_tasks WHERE state = 'running' AND worker = ",
    )
    .bind(lease.worker)
}

/// The rows of what is still ours.
pub(super) type RenewedSql = (SqlTaskId, Bool);

/// From where on one looks: what was before it has been seen, and what is dead there costs time.
#[derive(Debug, Clone)]
pub(crate) struct Since {
    /// Of what is due at a time, and leases that end at one; `None`: from the beginning.
    pub(crate) since_ms: Option<i64>,
    /// Of each queue.
    pub(crate) queues: Vec<(Arc<str>, Option<Floor>)>,
}

/// The row of a look.
pub(super) type LookSql = (BigInt, Nullable<BigInt>, Nullable<BigInt>, Bool, Bool, Bool);

/// What there is.
#[derive(Debug, PartialEq, Eq, diesel::Queryable)]
#[diesel(sql_type = LookSql)]
pub(crate) struct Look {
    pub(crate) now_ms: i64,
    pub(crate) next_scheduled_ms: Option<i64>,
    /// Only where one looks from the beginning: all that has ended since lies before it.
    pub(crate) next_lease_end_ms: Option<i64>,
    /// Whether a lease has ended.
    pub(crate) lease_ended: bool,
    /// Whether there is a key that a row left.
    pub(crate) freed: bool,
    /// Whether a task of one of the worker's queues is ready.
    pub(crate) ready: bool,
}

/// The row of a look at what is in no hurry.
pub(super) type PastSql = (Nullable<BigInt>, Nullable<BigInt>, Nullable<BigInt>, Nullable<Integer>);

/// What is in no hurry.
#[derive(Debug, PartialEq, Eq, diesel::Queryable)]
#[diesel(sql_type = PastSql)]
pub(crate) struct Past {
    /// When the oldest of those ended that did not end well.
    pub(crate) oldest_end_ms: Option<i64>,
    /// Since when the oldest of those waits that no program could read.
    pub(crate) oldest_refusal_ms: Option<i64>,
    /// When the last of the leases ends.
    pub(crate) last_lease_end_ms: Option<i64>,
    /// The version of the tables.
    pub(crate) version: Option<i32>,
}

/// Whether `h` keeps the others of its key waiting: it runs, is ready to, or is tried again. The
/// words are those of the index.
#[cfg(any(feature = "async-sqlite", feature = "testing"))]
pub(super) const HOLDS: &str =
    "h.task_key IS NOT NULL AND (h.state IN ('ready', 'running') OR (h.state = 'scheduled' AND h.attempts > 0))";

/// Whether `b`, which is blocked, is before `c`, which is of the same key: its turn comes first. It
/// is looked for by itself, because there may be very many of them.
#[cfg(feature = "async-sqlite")]
pub(super) const BLOCKED_BEFORE: &str = "b.task_key = c.task_key AND b.state = 'blocked' AND b.id < c.id";

/// Whose `unique_key` counts: what waits, and was never started. The words are those of the index.
#[cfg(any(feature = "async-postgres", feature = "async-sqlite", feature = "testing"))]
pub(super) const UNIQUE_WAITS: &str =
    "o.unique_key IS NOT NULL AND o.attempts = 0 AND o.state IN ('ready', 'blocked', 'scheduled', 'unknown')";

/// What a claim does with a row. A number that somebody wrote by hand must not end the statement,
/// which is that of other rows too.
pub(super) const TAKE: &str = "state = 'running', \
     attempts = CASE WHEN attempts < 2147483647 THEN attempts + 1 ELSE attempts END, worker = ";

/// What is left of a row that nobody runs any more.
pub(super) const LET_GO: &str = "worker = NULL, lease_until_ms = NULL";

/// One more snooze, or none, by a number that follows.
pub(super) const SNOOZES: &str = "snoozes = snoozes + CASE WHEN snoozes < 2147483647 THEN 1 ELSE 0 END * ";

/// The state of a row whose lease has ended: it goes back, or is given up.
pub(super) const RESCUE_STATE: &str = "CASE WHEN cancel_requested THEN 'cancelled' WHEN attempts - snoozes >= max_attempts THEN 'dead' \
     ELSE 'ready' END";

/// What is done with such rows, up to which they are; `now` is the SQL of the time. MySQL makes one
/// assignment after the other, the others all at once: what the state is made of goes behind it.
pub(super) fn rescue(now: &str) -> String {
    format!(
        "UPDATE deferred_tasks SET state = {RESCUE_STATE}, ended_at_ms = CASE WHEN ({RESCUE_STATE}) <> 'ready' THEN {now} END, \
         cancel_requested = FALSE, error = '{WORKER_DIED}', {LET_GO} WHERE "
    )
}

/// What is done with rows that started in the time to come, up to which they are: the clock has gone
/// back since, and without that they would be leased for so much longer. They are leased from now on,
/// for as long as they were then, so that a worker that lives has the time to renew the lease, but not
/// for less than a worker's own lease; `now` is the SQL of the time. When they started stays: the
/// ends of attempts are known by that.
pub(super) fn start_anew(now: &str, lease: &Lease) -> String {
    let longest = lease.ms();
    format!(
        "UPDATE deferred_tasks SET lease_until_ms = {now} + CASE WHEN lease_until_ms - started_at_ms > {longest} \
         THEN lease_until_ms - started_at_ms ELSE {longest} END WHERE "
    )
}

/// Which rows these are; `now` is the SQL of the time. The lease is the condition of an index, and
/// what is leased for no longer than a worker's own lease ends soon enough. A lease that ends before
/// the row started was renewed, or made anew, since the clock went back: that one is true.
pub(super) fn started_in_the_time_to_come(now: &str, lease: &Lease) -> String {
    format!(
        "state = 'running' AND lease_until_ms > {now} + {} AND started_at_ms > {now} AND lease_until_ms > started_at_ms",
        lease.ms()
    )
}

/// What is done with rows of tasks that ended well, where they are kept, up to which they are: what
/// says how they ran stays, what they were given does not; `now` is the SQL of the time.
pub(super) fn keep_done(now: &str) -> String {
    format!(
        "UPDATE deferred_tasks SET state = 'done', ended_at_ms = {now}, payload = '{{}}', error = NULL, unique_key = NULL, \
         cancel_requested = FALSE, lease_until_ms = NULL"
    )
}

/// Rows that are kept for a while, and then deleted: those of a task that ended well, or of one that
/// did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Otherwise,
}

impl Ended {
    /// Their states. The words are those of the indexes.
    #[cfg(any(feature = "async-postgres", feature = "async-sqlite"))]
    pub(super) fn states(self) -> &'static str {
        match self {
            Self::Well => "state = 'done'",
            Self::Otherwise => "state IN ('dead', 'cancelled')",
        }
    }
}

/// The rows of what was taken back: id, task, attempts that count, state, and key.
pub(super) type RescuedSql = (SqlTaskId, Text, Integer, Text, Nullable<Text>);

/// The columns of one, but for the state, which may be the one to come, and the key behind it.
pub(super) const RESCUED: &str = "id, task, attempts - snoozes";

/// See [`RescuedSql`].
pub(crate) type RescuedRow = (TaskId, String, i32, String, Option<String>);

/// A key that a row has left, or may have left, and that row.
pub(super) type LeftKey<'k> = (&'k str, TaskId);

/// The keys of rows that were taken back.
pub(super) fn keys_of_rescued(rescued: &[RescuedRow]) -> Vec<LeftKey<'_>> {
    distinct(rescued.iter().filter_map(|row| Some((row.4.as_deref()?, row.0))))
}

/// The keys of rows whose attempts ended.
pub(super) fn keys_of(settled: &[Settlement]) -> Vec<LeftKey<'_>> {
    distinct(settled.iter().filter_map(|settlement| Some((settlement.key.as_deref()?, settlement.id))))
}

/// The keys that rows left otherwise than by an end. Such a row may have another id by now, and who
/// is next may stand before it.
pub(super) fn keys_freed(rows: &[(TaskId, String)]) -> Vec<LeftKey<'_>> {
    let first = TaskId::from(uuid::Uuid::nil());
    distinct(rows.iter().map(|(_, key)| (&**key, first)))
}

/// Each key once, with the first of its rows.
fn distinct<'k>(keys: impl Iterator<Item = LeftKey<'k>>) -> Vec<LeftKey<'k>> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup_by_key(|(key, _)| *key);
    keys
}

/// How ends are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All statements are sent at once. Those of keys must have been prepared before, or they would
    /// overtake each other.
    #[cfg_attr(not(feature = "async-postgres"), allow(dead_code, reason = "only PostgreSQL's protocol has that"))]
    AtOnce,
    /// One after the other.
    OneByOne,
    /// Without waiting for rows that somebody has locked.
    Careful,
}

/// What an exchange did with the table.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// The ends that were not told, because somebody has locked their rows, or the next row of their
    /// key.
    pub(crate) untold: Vec<TaskId>,
    /// For each claim, in their order; fewer where one of them failed, or there was no time for all.
    pub(crate) taken: Vec<Taken>,
    /// What ended it early. What was taken before that is in good hands.
    pub(crate) failed: Option<Failed>,
    /// Whether the statements of [`Manner::AtOnce`] are known to be prepared.
    pub(crate) prepared: bool,
    /// Whether rows became ready that were behind others of their key.
    pub(crate) readied: bool,
    /// Whether somebody was in the way of who is next of a key.
    pub(crate) in_the_way: bool,
}

/// What ended an exchange early.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Which claim it was, by its place among them; `None`: it was the ends that could not be told.
    pub(crate) claim: Option<usize>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Exchange {
    /// Adds what a claim took that began then; `false`: it failed, and no other one follows.
    pub(crate) fn claimed(&mut self, taken: QueryResult<Taken>, begin: Instant) -> bool {
        match taken {
            Ok(taken) => self.claimed_some(taken, None, begin),
            Err(error) => self.claimed_some(Taken::default(), Some(error), begin),
        }
    }

    /// The same of a claim that consists of several statements: what the first ones took must not get
    /// lost with the one that failed.
    pub(crate) fn claimed_some(&mut self, mut taken: Taken, error: Option<Error>, begin: Instant) -> bool {
        let claim = Some(self.taken.len());
        taken.more |= error.is_some();
        if error.is_none() || !taken.rows.is_empty() {
            self.taken.push(taken);
        }
        self.failed = error.map(|error| Failed { error, claim, took: begin.elapsed() });
        self.failed.is_none()
    }
}

/// What a claim took.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) rows: Vec<ClaimedRow>,
    /// Whether there may be more.
    pub(crate) more: bool,
    /// How long it took at the front of the queue, where it was there in the end.
    pub(crate) front: Option<Duration>,
    /// They are next of their keys, and not what stands at the front.
    pub(crate) handed_over: bool,
}

/// A row at the front of its queue.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
#[derive(Debug, diesel::Queryable)]
#[diesel(sql_type = CandidateSql)]
pub(super) struct Candidate {
    pub(super) id: TaskId,
    pub(super) bytes: i64,
    /// The row of its key that is in its way.
    pub(super) behind: Option<TaskId>,
}

/// See [`Candidate`].
#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
pub(super) type CandidateSql = (SqlTaskId, BigInt, Nullable<SqlTaskId>);

/// Which of these candidates are taken: those that nothing is in the way of, up to these bytes,
/// and one at least.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql"))]
pub(super) fn choose(candidates: &[Candidate], bytes: i64) -> Vec<TaskId> {
    let mut before = 0_i64;
    let free = candidates.iter().filter(|candidate| candidate.behind.is_none());
    let fits = |candidate: &&Candidate| {
        let fits = before == 0 || before < bytes;
        before = before.saturating_add(candidate.bytes);
        fits
    };
    free.take_while(fits).map(|candidate| candidate.id).collect()
}

/// How many rows at the front of a queue are looked at when so many were that a claim could not
/// take, because they have to wait for others of their key; `None`: that is enough for now.
pub(super) fn wider(looked_at: i64) -> Option<i64> {
    (looked_at < FURTHEST).then(|| looked_at.saturating_mul(8).clamp(256, FURTHEST))
}

/// How many rows at the front of a queue are looked at most.
pub(super) const FURTHEST: i64 = 4_096;

/// How many rows are moved or deleted by one statement that tidies up.
pub(super) const BATCH: i32 = 1_000;

/// A row that an attempt leaves behind.
#[derive(serde::Serialize)]
pub(super) struct Left<'s> {
    pub(super) state: &'static str,
    pub(super) delay_ms: Option<i64>,
    pub(super) error: Option<&'s str>,
    /// How many attempts did not count.
    pub(super) refund: i32,
    /// How many attempts asked to be run again.
    pub(super) snoozed: i32,
    /// Whether this program could not read it.
    pub(super) refused: bool,
}

impl Left<'_> {
    /// Whether it waits again, if nobody has cancelled it.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.state, "scheduled" | "ready" | "unknown")
    }
}

impl Settlement {
    /// The row that is left; `None` where it is deleted.
    pub(super) fn left(&self) -> Option<Left<'_>> {
        let left = |state| Left { state, delay_ms: None, error: None, refund: 0, snoozed: 0, refused: false };
        let ms = |after: &std::time::Duration| Some(milliseconds(*after));
        let mut left = match &self.outcome {
            Outcome::Done => return None,
            Outcome::Retry { after, error } => Left { delay_ms: ms(after), error: Some(error), ..left("scheduled") },
            // It counts for the lease, but not for the task.
            Outcome::Snoozed(after) => Left { delay_ms: ms(after), snoozed: 1, ..left("scheduled") },
            Outcome::Dead(error) => Left { error: Some(error), ..left("dead") },
            Outcome::Cancelled => left("cancelled"),
            Outcome::Released { started } => Left { refund: i32::from(!*started), ..left("ready") },
            Outcome::Refused { after, error } => {
                Left { delay_ms: ms(after), error: Some(error), refund: 1, refused: true, ..left("unknown") }
            }
        };
        left.refund += self.unstarted;
        Some(left)
    }

    /// Those that ended well.
    pub(super) fn done(settled: &[Self]) -> Vec<TaskId> {
        let done = settled.iter().filter(|settlement| settlement.outcome == Outcome::Done);
        done.map(|settlement| settlement.id).collect()
    }
}

/// How many values are given in a list at most, which is filled up to 1,024. SQLite takes 32,766, MySQL
/// 65,535.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql", feature = "testing"))]
pub(super) const LISTED: usize = 1_000;

/// What databases say each in its own way about ends.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql", feature = "testing"))]
pub(super) struct EndWords {
    /// The time.
    pub(super) now: &'static str,
    /// The beginning of what deletes rows that are chosen by their ids.
    pub(super) delete: &'static str,
    /// What takes the `unique_key` of the row that is named behind it, if another one has it.
    pub(super) forget_unique: &'static str,
}

/// What tells of ends where there are no arrays: a statement for all that ended well, and one for
/// each other. One that waits again as if it had never been taken forgets its `unique_key` before
/// that, if another one has it meanwhile.
#[cfg(any(feature = "async-sqlite", feature = "async-mysql", feature = "testing"))]
pub(super) fn settle<'s>(lease: &Lease, settled: &'s [Settlement], words: &EndWords) -> Vec<Sql<'s>> {
    let EndWords { now, delete, forget_unique } = *words;
    let mut statements = Vec::new();
    for done in Settlement::done(settled).chunks(LISTED) {
        let end = if lease.keeps_done { keep_done(now) } else { delete.to_owned() };
        let end = Sql::new(end).sql(" WHERE worker = ").bind(lease.worker);
        statements.push(end.sql(" AND state <> 'done' AND id IN (").list(done.iter().copied()).sql(")"));
    }
    for settlement in settled {
        let Some(left) = settlement.left() else { continue };
        let goes_on = left.goes_on();
        if left.refund > 0 {
            let forget = Sql::new(forget_unique)
                .bind(settlement.id)
                .sql(" AND t.worker = ")
                .bind(lease.worker)
                .sql(" AND t.started_at_ms = ")
                .bind(settlement.started_at_ms)
                .sql(" AND t.attempts = ")
                .bind(left.refund);
            statements.push(forget);
        }
        // MySQL makes one assignment after the other, SQLite all at once: none looks at what
        // another one has changed before it.
        let update = Sql::new("UPDATE deferred_tasks SET state = CASE WHEN cancel_requested AND ")
            .bind(goes_on)
            .sql(" THEN 'cancelled' ELSE ")
            .bind(left.state)
            .sql(" END, ended_at_ms = CASE WHEN cancel_requested OR NOT ")
            .bind(goes_on)
            .sql(format!(" THEN {now} END, run_at_ms = "))
            .sql(if left.delay_ms.is_some() { now } else { "run_at_ms" })
            .sql(" + ")
            .bind(left.delay_ms.unwrap_or(0))
            .sql(", attempts = attempts - ")
            .bind(left.refund)
            .sql(format!(", {SNOOZES}"))
            .bind(left.snoozed)
            .sql(format!(
                ", refused_at_ms = CASE WHEN {0} = 1 THEN COALESCE(refused_at_ms, {now}) ELSE refused_at_ms END, \
                 refusals = refusals + {0}",
                i32::from(left.refused)
            ))
            .sql(", error = COALESCE(")
            .bind(left.error)
            .sql(format!(", error), cancel_requested = FALSE, {LET_GO} WHERE id = "))
            .bind(settlement.id)
            .sql(" AND state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND started_at_ms = ")
            .bind(settlement.started_at_ms);
        statements.push(update);
    }
    statements
}

/// What is done with rows of a task that a program does not have, before it claims them; `now` is the
/// SQL of the time. Who waits behind their keys is looked for later.
pub(super) fn park<'s>(unknown: &'s Unknown, now: &str) -> Sql<'s, ()> {
    Sql::new("UPDATE deferred_tasks SET state = 'unknown', error = ").bind(&*unknown.error).sql(format!(
        ", refusals = refusals + 1, refused_at_ms = COALESCE(refused_at_ms, {now}), run_at_ms = {now}, \
         freed_key = task_key WHERE state = 'ready' AND "
    ))
}

/// Which of a task's rows that no program could read a worker adopts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Those whose pause is over.
    Offered,
    /// All of them: a program that has just been started may be one that can.
    All,
}

impl Unread {
    /// Which rows of a task they are, behind that task; `now` is the SQL of the time.
    pub(super) fn of_task(self, now: &str) -> String {
        let offered = match self {
            Self::Offered => format!(" AND run_at_ms <= {now}"),
            Self::All => String::new(),
        };
        format!("{offered} AND freed_key IS NULL ORDER BY run_at_ms LIMIT {BATCH}")
    }
}

/// What is done with them, up to which they are; `least` is the function that finds the lesser of two
/// values, `now` the SQL of the time.
pub(super) fn adopt(least: &str, now: &str) -> String {
    format!("UPDATE deferred_tasks SET state = 'ready', run_at_ms = {least}(run_at_ms, {now}) WHERE ")
}

/// The next task behind this one of which there are rows that no program could read, and whether
/// they are offered again; `now` is the SQL of the time.
pub(super) fn next_unknown<'s>(behind: &'s str, now: &str) -> Sql<'s, (Text, Bool)> {
    Sql::new(format!("SELECT task, run_at_ms <= {now} FROM deferred_tasks WHERE state = 'unknown' AND task > "))
        .bind(behind)
        .sql(" ORDER BY task, run_at_ms LIMIT 1")
}

/// Rows that left a key, and the keys.
pub(super) fn freed() -> Sql<'static, (SqlTaskId, Text)> {
    Sql::new(format!(
        "SELECT id, freed_key FROM deferred_tasks WHERE freed_key IS NOT NULL ORDER BY freed_key LIMIT {BATCH}"
    ))
}

/// Whether there is something in these queues that is ready, or would be by what is done
/// periodically; `now` is the SQL of the time. What is in paused queues waits.
pub(super) fn has_due(queues: &[Arc<str>], now: &str) -> Sql<'static, Bool> {
    let mut due = Sql::new("SELECT EXISTS (SELECT 1 FROM deferred_tasks WHERE freed_key IS NOT NULL)").varying();
    for queue in queues {
        for state in
            ["state = 'ready'", "state = 'scheduled' AND run_at_ms <= ", "state = 'running' AND lease_until_ms < "]
        {
            due.push_sql(format!(" OR EXISTS (SELECT 1 FROM deferred_tasks WHERE {state}"));
            due.push_sql(if state.ends_with(' ') { now.to_owned() } else { String::new() });
            due.push_sql(" AND queue = ");
            due.push_bind(queue.to_string());
            due.push_sql(" AND NOT EXISTS (SELECT 1 FROM deferred_paused_queues WHERE queue = ");
            due.push_bind(queue.to_string());
            due.push_sql("))");
        }
    }
    due
}

/// The rows of how much waits: the place of a queue among the worker's, how many of its calls are
/// ready, and for how long the oldest has been due.
pub(super) type WaitingSql = (Integer, BigInt, Nullable<BigInt>);

/// How much of each of these queues is ready; `now` is the SQL of the time. No more is read than is
/// counted, by the index of the claims, in their order.
pub(super) fn waiting(queues: &[Arc<str>], now: &str) -> Sql<'static, WaitingSql> {
    let mut waiting = Sql::new("");
    for (at, queue) in queues.iter().enumerate() {
        waiting.push_sql(if at == 0 { "" } else { " UNION ALL " });
        waiting.push_sql(format!(
            "SELECT {at}, COUNT(*), {now} - MIN(run_at_ms) FROM \
             (SELECT run_at_ms FROM deferred_tasks WHERE state = 'ready' AND queue = "
        ));
        waiting.push_bind(queue.to_string());
        waiting.push_sql(format!(" ORDER BY priority, run_at_ms, id LIMIT {COUNTED}) AS front"));
    }
    waiting
}

/// The same in the order of the queues.
pub(super) fn in_order(mut rows: Vec<(i32, i64, Option<i64>)>) -> Vec<Waiting> {
    rows.sort_unstable_by_key(|(at, _, _)| *at);
    rows.into_iter().map(|(_, ready, oldest_ms)| (ready, oldest_ms)).collect()
}
