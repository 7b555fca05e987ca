//! What the statements of a worker and of the operations read, beside many rows of every other kind.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::sync::Once;
use std::time::Duration;

use diesel_deferred::{
    TaskId, TaskStatement, WorkerBuilder, cancel_task, pause_queue, replay_dead, replay_task, resume_queue,
};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work};
use metrics_util::debugging::DebuggingRecorder;

use crate::support::{committed, fail, hold, lease_end, lease_extended, note};

/// Rows of each kind that a statement may have to go by.
#[derive(Clone, Copy)]
struct Others {
    /// Of each kind.
    count: u32,
    /// So many rows with a column `n`, from 1 on.
    series: fn(u32) -> String,
    /// A new id.
    id: &'static str,
    now: &'static str,
    /// One of a hundred keys, by `n`.
    busy_key: &'static str,
}

/// Columns that only rows of some kinds have, with their values.
type Columns<'a> = &'a [(&'a str, &'a str)];

impl Others {
    fn insert<C: Database>(&self, db: &Scratch<C>) {
        let Self { count, busy_key, now, .. } = *self;
        let (note, busy) = ("worker::support::note", "'busy'");
        let later = format!("{now} + 86400000 + n");
        let due = format!("{now} - 3600000 + n");
        let recently = format!("{now} + n");
        let lease_end = format!("{now} + 3600000");
        let ended: Columns<'_> = &[("ended_at_ms", &recently)];
        let refused: Columns<'_> = &[("refused_at_ms", &recently)];
        let leased: Columns<'_> = &[("lease_until_ms", &lease_end), ("attempts", "1"), ("worker", self.id)];
        let rows = [
            self.of(note, "other", "ready", "NULL", &due, &[], count),
            self.of(note, "default", "blocked", busy, &due, &[], count),
            self.of(note, "default", "blocked", busy_key, &due, &[], count),
            self.of(note, "default", "scheduled", "NULL", &later, &[], count),
            self.of(note, "default", "dead", "NULL", &due, ended, count),
            self.of(note, "default", "dead", busy, &due, ended, count),
            self.of(note, "default", "cancelled", "NULL", &due, ended, count),
            self.of(note, "default", "done", busy, &due, ended, count),
            self.of("shop::gone", "default", "unknown", "NULL", &due, refused, count),
            self.of(note, "paused", "ready", "NULL", &due, &[], count),
            self.of(note, "default", "running", "NULL", "0", leased, count),
            self.of(note, "default", "running", busy, "0", leased, 1),
            self.of(note, "default", "running", busy_key, "0", leased, 100),
            "INSERT INTO deferred_paused_queues (queue) VALUES ('paused')".to_owned(),
        ];
        db.observer().batch_execute(&rows.join("; ")).expect("the rows");
    }

    #[allow(clippy::too_many_arguments)]
    fn of(
        &self,
        task: &str,
        queue: &str,
        state: &str,
        key: &str,
        run_at: &str,
        more: Columns<'_>,
        count: u32,
    ) -> String {
        let (columns, values): (String, String) =
            more.iter().map(|(column, value)| (format!(", {column}"), format!(", {value}"))).unzip();
        format!(
            r#"INSERT INTO deferred_tasks (id, task, queue, payload, state, run_at_ms, max_attempts, task_key, enqueued_at_ms{columns})
            SELECT {}, '{task}', '{queue}', '{{"text":"x"}}', '{state}', {run_at}, 5, {key}, 0{values} FROM {}"#,
            self.id,
            (self.series)(count)
        )
    }
}

/// Has something written for each kind of statement to do. Returns a call to be cancelled.
fn have_called<C: Database>(db: &Scratch<C>) -> TaskId {
    let cancelled = committed(db, |conn| {
        (0..50).try_for_each(|_| note("plain").after_commit(conn).map(drop))?;
        (0..5).try_for_each(|_| note("keyed").key("k").after_commit(conn).map(drop))?;
        (0..3).try_for_each(|_| note("behind a busy key").key("busy").after_commit(conn).map(drop))?;
        // Once more: each attempt leaves versions of the row behind, which are read by the next.
        fail("again".into()).max_attempts(2).after_commit(conn)?;
        note("cancelled").key("l").priority(9).after_commit(conn)
    });
    for (set, which) in [
        ("run_at_ms = 0", "state = 'scheduled' AND run_at_ms > 1"),
        ("ended_at_ms = 1", "state = 'dead' AND ended_at_ms > 1"),
        ("ended_at_ms = 1", "state = 'done' AND ended_at_ms > 1"),
        ("refused_at_ms = 1", "state = 'unknown' AND refused_at_ms > 1"),
        ("lease_until_ms = 0, task_key = NULL", "state = 'running' AND task_key LIKE 'busy-%'"),
        ("task = 'worker::support::note'", "state = 'unknown' AND refused_at_ms > 1"),
        ("task = 'of which few are dead'", "state = 'dead' AND ended_at_ms > 1"),
    ] {
        db.run_sql(&format!(
            "UPDATE deferred_tasks SET {set} WHERE id IN \
             (SELECT id FROM (SELECT id FROM deferred_tasks WHERE {which} ORDER BY id LIMIT 3) AS few)"
        ));
    }
    cancelled
}

fn operations(cancelled: TaskId) -> [TaskStatement; 6] {
    [
        cancel_task(cancelled),
        replay_task(cancelled),
        cancel_task(cancelled),
        replay_dead("of which few are dead"),
        pause_queue("default"),
        resume_queue("default"),
    ]
}

/// Which statement finds out how much waits. It reads what it counts, which is bounded: see [`COUNTED`].
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn counts(statement: &str) -> bool {
    statement.contains(") AS front")
}

/// How many calls of a queue it counts at most.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const COUNTED: u64 = 10_000;

/// A worker asks how much waits only where somebody wants to know.
fn have_metrics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| DebuggingRecorder::new().install().expect("no other recorder"));
}

/// Has a worker do all that is due.
async fn work<A: AsyncDatabase>(db: &Scratch<A::Blocking>, builder: WorkerBuilder<A>, keeps_done: bool) {
    have_metrics();
    let notes = Notes::default();
    let builder = builder
        .metrics_interval(Duration::from_millis(100))
        .queue("default", 20)
        .queue("paused", 20)
        .state(notes.clone())
        .lease(Duration::from_secs(2))
        .poll_interval(Duration::from_millis(100));
    let builder = if keeps_done { builder.keep_done_for(Duration::from_secs(3_600)) } else { builder };
    let at_work = at_work!(builder);
    let count = |all: &[String], word: &str| all.iter().filter(|note| *note == word).count();
    notes.wait_until(|all| count(all, "plain") == 50 && count(all, "keyed") == 5).await;
    // The leases that ended, what was scheduled, unknown, dead.
    notes.wait_until(|all| count(all, "x") >= 3 + 3 + 3).await;
    committed(db, |conn| hold("long").after_commit(conn));
    notes.wait_until(|all| count(all, "begin long") == 1).await;
    let end = lease_end(db);
    lease_extended(db, end, 1).await;
    notes.add("go");
    notes.wait_until(|all| count(all, "end long") == 1).await;
    at_work.stop().await;
    db.run_sql("DELETE FROM deferred_tasks WHERE task = 'worker::support::fail'");
}
