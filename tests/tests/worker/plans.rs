//! What the statements of a worker and of the operations read, beside a hundred thousand rows of
//! every other kind.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_deferred::{Worker, cancel_task, pause_queue, replay_dead, replay_task, resume_queue};
use diesel_deferred_tests::{Notes, Scratch, at_work};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::support::{committed, fail, note};

/// The plans of all statements of a connection, as they were executed.
#[derive(Clone, Default)]
struct Plans(Arc<Mutex<Vec<Value>>>);

impl Plans {
    /// A connection whose statements are noted here.
    async fn connect(&self, url: &str) -> AsyncPgConnection {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
        let plans = self.clone();
        tokio::spawn(async move {
            let mut messages = pin!(stream::poll_fn(move |context| connection.poll_message(context)));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message
                    && let Some((_, plan)) = notice.message().split_once("plan:\n")
                {
                    let plan = serde_json::from_str(plan).expect("a plan");
                    plans.0.lock().expect("no panic").push(plan);
                }
            }
        });
        let mut conn = AsyncPgConnection::try_from(client).await.expect("a connection");
        conn.batch_execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; \
             SET auto_explain.log_buffers = on; SET auto_explain.log_timing = off; SET auto_explain.log_format = json; \
             SET auto_explain.log_level = notice; \
             SET client_min_messages = notice",
        )
        .await
        .expect("plans are told");
        conn
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// All nodes of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(plan).chain(below).collect()
}

fn number(node: &Value, field: &str) -> u64 {
    node[field].as_f64().unwrap_or(0.0) as u64
}

/// How many rows it changed.
fn changed(plan: &Value) -> u64 {
    let changes = nodes(plan).into_iter().filter(|node| node["Node Type"] == "ModifyTable");
    let rows = changes.flat_map(|change| change["Plans"].as_array().into_iter().flatten());
    rows.filter(|rows| rows["Parent Relationship"] == "Outer").map(|rows| number(rows, "Actual Rows")).sum()
}

/// How many rows it locked and left as they are: a claim, those that wait for others of their key,
/// which the next statement moves out of its way.
fn left(plan: &Value, changed: u64) -> u64 {
    let locks = nodes(plan).into_iter().filter(|node| node["Node Type"] == "LockRows");
    locks.map(|lock| number(lock, "Actual Rows")).sum::<u64>().saturating_sub(changed)
}

/// What is wrong with it, if anything is.
fn fault(told: &Value) -> Option<String> {
    let plan = &told["Plan"];
    let pages = number(plan, "Shared Hit Blocks") + number(plan, "Shared Read Blocks");
    let changed = changed(plan);
    let filtered = |node: &&Value| {
        number(node, "Rows Removed by Filter")
            + number(node, "Rows Removed by Join Filter")
            + number(node, "Rows Removed by Index Recheck")
            >= 1_000
    };
    // Of each row the way there by an index; and of one that is changed, that of its other indexes.
    let returned = number(plan, "Actual Rows");
    if pages <= 20 + 15 * changed + 5 * (left(plan, changed) + returned.max(changed))
        && !nodes(plan).iter().any(filtered)
    {
        return None;
    }
    Some(format!("{pages} pages for {changed} rows: {}\n{plan:#}", told["Query Text"]))
}

/// A hundred thousand rows of each kind that a statement may have to go by.
const ROWS: &str = "
    CREATE FUNCTION rows_of(task text, queue text, state text, key text, extra_ms bigint) RETURNS void LANGUAGE sql AS $$
        INSERT INTO deferred_tasks (id, task, queue, payload, state, run_at_ms, max_attempts, task_key, enqueued_at_ms,
            ended_at_ms, refused_at_ms)
        SELECT gen_random_uuid(), task, queue, '{\"text\":\"x\"}', state,
            (extract(epoch FROM now()) * 1000)::bigint - 3600000 + n + extra_ms, 5, replace(key, '#', (n % 100)::text), 0,
            CASE WHEN state IN ('dead', 'cancelled', 'done') THEN (extract(epoch FROM now()) * 1000)::bigint + n END,
            CASE WHEN state = 'unknown' THEN (extract(epoch FROM now()) * 1000)::bigint + n END
        FROM generate_series(1, 100000) AS n $$;
    SELECT rows_of('worker::support::note', 'other', 'ready', NULL, 0);
    SELECT rows_of('worker::support::note', 'default', 'blocked', 'busy', 0);
    SELECT rows_of('worker::support::note', 'default', 'blocked', 'busy-#', 0);
    SELECT rows_of('worker::support::note', 'default', 'scheduled', NULL, 86400000);
    SELECT rows_of('worker::support::note', 'default', 'dead', NULL, 0);
    SELECT rows_of('worker::support::note', 'default', 'dead', 'busy', 0);
    SELECT rows_of('worker::support::note', 'default', 'cancelled', NULL, 0);
    SELECT rows_of('worker::support::note', 'default', 'done', 'busy', 0);
    SELECT rows_of('shop::gone', 'default', 'unknown', NULL, 0);
    SELECT rows_of('worker::support::note', 'paused', 'ready', NULL, 0);
    INSERT INTO deferred_paused_queues (queue) VALUES ('paused');
    INSERT INTO deferred_tasks (id, task, queue, payload, state, run_at_ms, max_attempts, task_key, enqueued_at_ms, worker,
        lease_until_ms, attempts)
    SELECT gen_random_uuid(), 'worker::support::note', 'default', '{\"text\":\"x\"}', 'running', 0, 5,
        CASE WHEN n = 0 THEN 'busy' ELSE 'busy-' || n - 1 END, 0, gen_random_uuid(),
        (extract(epoch FROM now()) * 1000)::bigint + 3600000, 1 FROM generate_series(0, 100) AS n;";

/// D16: "what a worker's statement reads is bounded by what it takes or changes, whatever else is in
/// the table". A table that nobody has analyzed, then one that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d16_a_statement_reads_what_it_takes() {
    let db = &Scratch::<PgConnection>::with_tasks();
    db.run_sql("ALTER TABLE deferred_tasks SET (autovacuum_enabled = off)");
    diesel::connection::SimpleConnection::batch_execute(&mut db.observer(), ROWS).expect("the rows");
    let mut faults = Vec::new();
    let mut seen = 0;
    for analyzed in [false, true] {
        if analyzed {
            db.run_sql("ANALYZE deferred_tasks");
        }
        let (plans, notes) = (Plans::default(), Notes::default());
        let (of_worker, url) = (plans.clone(), db.url().to_owned());
        let connect = move || {
            let (plans, url) = (of_worker.clone(), url.clone());
            async move { Ok(plans.connect(&url).await) }
        };
        // What there is to be done: of each kind of statement, some.
        let cancelled = committed(db, |conn| {
            (0..50).try_for_each(|_| note("plain").after_commit(conn).map(drop))?;
            (0..5).try_for_each(|_| note("keyed").key("k").after_commit(conn).map(drop))?;
            (0..3).try_for_each(|_| note("behind a busy key").key("busy").after_commit(conn).map(drop))?;
            fail("again".into()).after_commit(conn)?;
            note("cancelled").key("l").priority(9).after_commit(conn)
        });
        db.run_sql(
            "UPDATE deferred_tasks SET run_at_ms = 0 WHERE id IN (SELECT id FROM deferred_tasks WHERE state = 'scheduled' LIMIT 3); \
             UPDATE deferred_tasks SET ended_at_ms = 1 WHERE id IN (SELECT id FROM deferred_tasks WHERE state = 'dead' LIMIT 3); \
             UPDATE deferred_tasks SET ended_at_ms = 1 WHERE id IN (SELECT id FROM deferred_tasks WHERE state = 'done' LIMIT 3); \
             UPDATE deferred_tasks SET refused_at_ms = 1 WHERE id IN (SELECT id FROM deferred_tasks WHERE state = 'unknown' LIMIT 3); \
             UPDATE deferred_tasks SET lease_until_ms = 0, task_key = NULL WHERE id IN \
             (SELECT id FROM deferred_tasks WHERE state = 'running' AND task_key LIKE 'busy-%' LIMIT 3); \
             UPDATE deferred_tasks SET task = 'worker::support::note' WHERE id IN \
             (SELECT id FROM deferred_tasks WHERE state = 'unknown' AND refused_at_ms > 1 LIMIT 3); \
             UPDATE deferred_tasks SET task = 'of which few are dead' WHERE id IN \
             (SELECT id FROM deferred_tasks WHERE state = 'dead' ORDER BY id LIMIT 3)",
        );
        let conn = &mut plans.connect(db.url()).await;
        for operation in [
            cancel_task(cancelled),
            replay_task(cancelled),
            cancel_task(cancelled),
            replay_dead("of which few are dead"),
            pause_queue("default"),
            resume_queue("default"),
        ] {
            operation.execute(conn).await.expect("done");
        }
        let worker = Worker::<AsyncPgConnection>::builder_with(connect)
            .queue("default", 20)
            .queue("paused", 20)
            .state(notes.clone())
            .lease(Duration::from_secs(2))
            .poll_interval(Duration::from_millis(100));
        // With a history, and without one.
        let at_work = at_work!(if analyzed { worker.keep_done_for(Duration::from_secs(3_600)) } else { worker });
        notes.wait_until(|all| all.iter().filter(|note| *note == "plain").count() == 50).await;
        notes.wait_until(|all| all.iter().filter(|note| *note == "keyed").count() == 5).await;
        // The leases that ended, what was scheduled, unknown, dead.
        notes.wait_until(|all| all.iter().filter(|note| *note == "x").count() >= 3 + 3 + 3).await;
        committed(db, |conn| crate::support::hold("long").after_commit(conn));
        notes.wait_until(|all| all.iter().any(|note| note == "begin long")).await;
        let end = crate::support::lease_end(db);
        crate::support::lease_extended(db, end, 1).await;
        notes.add("go");
        notes.wait_until(|all| all.iter().any(|note| note == "end long")).await;
        at_work.stop().await;
        let told = plans.take();
        seen += told.len();
        faults.extend(told.iter().filter_map(fault));
        db.run_sql("DELETE FROM deferred_tasks WHERE task = 'worker::support::fail'");
    }
    assert!(seen > 50, "only {seen} plans");
    assert!(faults.is_empty(), "{} of {seen} statements read too much:\n{}", faults.len(), faults.join("\n"));
}
