//! Draining a backlog: of each size in hand, beside rows of every other kind, by several processes,
//! beside a long transaction.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use diesel_deferred::{DeferredConnection, Worker, WorkerBuilder, WorkerConnection, atomic};

use crate::by_hand::drain_by_hand;
use crate::figures::{median, print_rates, rate};
use crate::schema::Schema;
use crate::{CONCURRENCY, Progress, noop};

/// So many tasks that do nothing, by a worker, and by a loop by hand, both of which have as many in
/// their hands at a time.
pub async fn drain(schema: &Schema, slices: usize, tasks: u64) {
    for at_a_time in [CONCURRENCY, 1_000] {
        let (mut waits, mut does_not, mut mine) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..slices {
            for (commit, times) in [("on", &mut waits), ("off", &mut does_not)] {
                schema.fill(tasks);
                times.push(drain_by_hand(schema, commit, at_a_time, &Progress::of(tasks)));
                assert_eq!(schema.tasks(), 0);
            }
            schema.fill(tasks);
            mine.push(drain_by_workers(schema, &Progress::of(tasks), 1, at_a_time).await);
        }
        let what = format!("drain of {tasks}, {at_a_time} at a time");
        print_rates(&format!("{what}, by hand waiting for the disk"), tasks, waits, mine.clone());
        print_rates(&format!("{what}, by hand not waiting either"), tasks, does_not, mine);
    }
}

/// Rows that a drain is not about: what they are called, and their [`COLUMNS`].
const SHAPES: [(&str, &str); 8] = [
    ("another queue", "'elsewhere', 'noop', 'ready', 0, NULL, NULL, NULL"),
    ("scheduled ones", "'bench', 'noop', 'scheduled', 9999999999999, NULL, NULL, NULL"),
    ("a busy key", "'bench', 'noop', 'blocked', 0, 'busy', NULL, NULL"),
    ("a hundred busy keys", "'bench', 'noop', 'blocked', 0, 'busy ' || n % 100, NULL, NULL"),
    ("dead ones", "'bench', 'noop', 'dead', 0, NULL, 9999999999999, NULL"),
    ("cancelled ones", "'bench', 'noop', 'cancelled', 0, NULL, 9999999999999, NULL"),
    ("unknown ones", "'bench', 'gone', 'unknown', 9999999999999, NULL, NULL, 9999999999999"),
    ("a paused queue", "'paused', 'noop', 'ready', 0, NULL, NULL, NULL"),
];

const COLUMNS: &str = "queue, task, state, run_at_ms, task_key, ended_at_ms, refused_at_ms";

/// The same drain beside nothing, and beside so many rows of each kind. Prints the ratio of these two.
pub async fn shapes(schema: &Schema, tasks: u64, others: u64) {
    let mut conn = schema.connect();
    conn.batch_execute("INSERT INTO deferred_paused_queues VALUES ('paused')").expect("paused");
    schema.fill(tasks);
    let alone = rate(tasks, drain_by_workers(schema, &Progress::of(tasks), 1, CONCURRENCY).await);
    println!("drain of {tasks} beside nothing: {alone:.0}/s");
    for (what, values) in SHAPES {
        schema.fill(tasks);
        // One of each key runs, for ever.
        let insert = format!(
            "INSERT INTO deferred_tasks (id, payload, max_attempts, enqueued_at_ms, {COLUMNS}) \
             SELECT gen_random_uuid(), '{{}}', 20, 0, {values} FROM generate_series(1, {others}) AS n; \
             UPDATE deferred_tasks SET state = 'running', lease_until_ms = 9999999999999 WHERE id IN \
             (SELECT DISTINCT ON (task_key) id FROM deferred_tasks WHERE state = 'blocked')"
        );
        conn.batch_execute(&insert).expect("rows");
        conn.batch_execute("VACUUM ANALYZE deferred_tasks").expect("tidy up");
        let rate = rate(tasks, drain_by_workers(schema, &Progress::of(tasks), 1, CONCURRENCY).await);
        assert_eq!(schema.tasks(), i64::try_from(others).expect("few"));
        println!("drain of {tasks} beside {others} rows: {what:<20} {rate:>9.0}/s   ratio {:.2}", rate / alone);
    }
    conn.batch_execute("DELETE FROM deferred_paused_queues").expect("resumed");
}

/// What tells a process of this program to work until nothing is left, at this URL.
pub const WORKS_AT: &str = "DIESEL_DEFERRED_BENCH_WORKS_AT";

/// A backlog by processes of their own, from the start of the first one to the end of the last one.
pub fn processes(schema: &Schema, slices: usize, tasks: u64) {
    let (mut one, mut eight) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        for (processes, times) in [(1, &mut one), (8, &mut eight)] {
            schema.fill(tasks);
            let begin = Instant::now();
            let this = std::env::current_exe().expect("this program");
            let children =
                (0..processes).map(|_| Command::new(&this).env(WORKS_AT, &schema.url).spawn().expect("a process"));
            for mut child in children.collect::<Vec<_>>() {
                assert!(child.wait().expect("it ended").success());
            }
            times.push(begin.elapsed());
            assert_eq!(schema.tasks(), 0);
        }
    }
    let ratios = one.iter().zip(&eight).map(|(one, eight)| one.as_secs_f64() / eight.as_secs_f64());
    let (ratio, one, eight) = (median(ratios.collect()), rate(tasks, median(one)), rate(tasks, median(eight)));
    println!("drain of {tasks}: by one process {one:.0}/s, by eight {eight:.0}/s, ratio {ratio:.2}");
}

/// What such a process does.
pub async fn work_at(url: String) {
    let worker = Worker::<AsyncPgConnection>::builder(url).state(Progress::of(u64::MAX)).queue("bench", CONCURRENCY);
    worker.build().expect("a worker").run_until_empty().await.expect("it can work");
}

/// From before they connect until all have ended.
pub async fn drain_by_workers(schema: &Schema, progress: &Arc<Progress>, workers: usize, at_a_time: usize) -> Duration {
    drain_by(|| schema.worker(), progress, workers, at_a_time).await
}

/// The same on any database.
pub async fn drain_by<C: WorkerConnection + Send>(
    worker: impl Fn() -> WorkerBuilder<C>,
    progress: &Arc<Progress>,
    workers: usize,
    at_a_time: usize,
) -> Duration {
    let workers: Vec<_> = (0..workers)
        .map(|_| worker().state(Arc::clone(progress)).queue("bench", at_a_time).build().expect("a worker"))
        .collect();
    let start = Instant::now();
    let run = |worker: Worker<C>| tokio::spawn(worker.run(progress.all.clone().cancelled_owned()));
    let running: Vec<_> = workers.into_iter().map(run).collect();
    let mut ran = 0;
    for worker in running {
        let report = worker.await.expect("no panic").expect("it can work");
        assert_eq!(report.released, 0);
        ran += report.ran;
    }
    assert_eq!(ran, progress.tasks);
    start.elapsed()
}

/// A drain while a long transaction elsewhere keeps every dead row: how much slower the last fifth
/// is than the second one.
pub async fn floor(schema: &Schema, slices: usize, tasks: u64) {
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    let (mut their_slowdown, mut my_slowdown) = (Vec::new(), Vec::new());
    let mut called = Vec::new();
    for _ in 0..slices {
        schema.fill(tasks);
        let long = schema.long_transaction();
        let (progress, start) = (Progress::of(tasks), Instant::now());
        theirs.push(drain_by_hand(schema, "off", 1_000, &progress));
        their_slowdown.push(progress.slowdown(start));
        drop(long);
        schema.fill(tasks);
        let long = schema.long_transaction();
        let (progress, start) = (Progress::of(tasks), Instant::now());
        mine.push(drain_by_workers(schema, &progress, 1, CONCURRENCY).await);
        my_slowdown.push(progress.slowdown(start));
        drop(long);
        schema.fill(tasks);
        let long = schema.long_transaction();
        called.push(drain_while_called(schema, &Progress::of(tasks)).await);
        drop(long);
    }
    let called_ratio = called.iter().zip(&mine).map(|(called, mine)| called.as_secs_f64() / mine.as_secs_f64());
    let called_ratio = median(called_ratio.collect());
    print_rates(
        &format!("drain of {tasks} beside a long transaction, by hand not waiting either"),
        tasks,
        theirs,
        mine,
    );
    println!(
        "    the last fifth took by hand {:.2} times as long as the second, ours {:.2}",
        median(their_slowdown),
        median(my_slowdown)
    );
    println!("    while somebody calls every 2 ms ours took {called_ratio:.2} times as long");
}

/// [`drain_by_workers`] with one, while another connection goes on calling: what it calls may have to
/// start before what was taken last.
async fn drain_while_called(schema: &Schema, progress: &Arc<Progress>) -> Duration {
    let over = Arc::new(AtomicBool::new(false));
    let (until, mut conn) = (Arc::clone(&over), DeferredConnection::new(schema.connect()));
    let caller = tokio::task::spawn_blocking(move || {
        while !until.load(Ordering::Relaxed) {
            atomic!(conn, -> QueryResult<()>, {
                noop(0);
                Ok(())
            })
            .expect("commit");
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let worker = schema.worker().state(Arc::clone(progress)).queue("bench", CONCURRENCY).build().expect("a worker");
    let start = Instant::now();
    worker.run(progress.all.clone().cancelled_owned()).await.expect("it can work");
    let took = start.elapsed();
    over.store(true, Ordering::Relaxed);
    caller.await.expect("it called");
    took
}
