//! What durable tasks cost on PostgreSQL, beside the same by hand on the same table: enqueueing,
//! draining, waking a worker, and doing nothing; and what they cost others. Both sides in alternating
//! slices, as in `side_by_side`: prints the ratio of the medians. What keys cost is measured on the
//! other databases, too.
//!
//! `PG_DATABASE_URL=… MYSQL_DATABASE_URL=… cargo bench -p diesel-deferred-benches --bench durable`;
//! `--test` runs each once. Words after `--` choose parts, by the names of [`PARTS`]. It makes a
//! schema, a database and a file of its own, and drops them at the end. What needs a server whose URL
//! is not set is left out.

mod by_hand;
mod costs;
mod drain;
mod enqueue;
mod figures;
mod keys;
mod schema;
mod steady;
mod wait;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diesel_deferred::deferred_task;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::schema::Schema;

/// How many tasks a worker of these benches runs at a time.
const CONCURRENCY: usize = 100;

static RAN: AtomicU64 = AtomicU64::new(0);

#[deferred_task(durable, name = "noop", queue = "bench")]
async fn noop(#[state] progress: &Arc<Progress>, number: i64) {
    let _ = number;
    progress.ran();
}

#[deferred_task(durable, name = "arrive", queue = "wake")]
async fn arrive(#[state] arrivals: &mpsc::UnboundedSender<Instant>) {
    let _ = arrivals.send(Instant::now());
}

#[deferred_task(durable, name = "stamp", queue = "steady")]
async fn stamp(#[state] latencies: &mpsc::UnboundedSender<Duration>, called_us: u64) {
    let _ = latencies.send(Duration::from_micros(steady::now_us().saturating_sub(called_us)));
}

/// Counts tasks, and says when so many have run.
#[derive(Debug)]
struct Progress {
    tasks: u64,
    /// When each tenth of them had run.
    tenths: Mutex<Vec<Instant>>,
    all: CancellationToken,
}

impl Progress {
    fn of(tasks: u64) -> Arc<Self> {
        RAN.store(0, Ordering::Relaxed);
        Arc::new(Self { tasks, tenths: Mutex::default(), all: CancellationToken::new() })
    }

    fn ran(&self) {
        let ran = RAN.fetch_add(1, Ordering::Relaxed) + 1;
        if ran.is_multiple_of((self.tasks / 10).max(1)) {
            self.tenths.lock().expect("nobody panics").push(Instant::now());
        }
        if ran == self.tasks {
            self.all.cancel();
        }
    }

    /// How much longer the last fifth took than the second one: the first has the start in it.
    fn slowdown(&self, start: Instant) -> f64 {
        let mut tenths = self.tenths.lock().expect("nobody panics").clone();
        tenths.sort_unstable();
        tenths.insert(0, start);
        let between = |from: usize, to: usize| (tenths[to] - tenths[from]).as_secs_f64();
        if tenths.len() < 11 { 1.0 } else { between(8, 10) / between(2, 4) }
    }
}

/// What can be asked for.
const PARTS: [&str; 14] = [
    "enqueue",
    "commit",
    "drain",
    "keys",
    "keys-sqlite",
    "keys-mysql",
    "shapes",
    "processes",
    "wal",
    "others",
    "wake",
    "idle",
    "floor",
    "steady",
];

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(url) = std::env::var(drain::WORKS_AT) {
        return runtime.block_on(drain::work_at(url));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let asked: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let schema = std::env::var("PG_DATABASE_URL").ok().map(|url| Schema::new(&url));
    for part in PARTS {
        if asked.is_empty() || asked.iter().any(|asked| *asked == part) {
            runtime.block_on(measure_where_there_is(part, schema.as_ref(), test));
        }
    }
}

/// Measures one part, where its database is there.
async fn measure_where_there_is(part: &str, schema: Option<&Schema>, test: bool) {
    let tasks = if test { 1_000 } else { 20_000 };
    match (part, schema, std::env::var("MYSQL_DATABASE_URL")) {
        ("keys-sqlite", ..) => keys::keys_on_sqlite(tasks).await,
        ("keys-mysql", _, Ok(url)) => keys::keys_on_mysql(&url, tasks).await,
        ("keys-mysql", _, Err(_)) => println!("{part}: MYSQL_DATABASE_URL is not set"),
        (part, Some(schema), _) => measure(part, schema, test).await,
        (part, None, _) => println!("{part}: PG_DATABASE_URL is not set"),
    }
}

/// Measures one part on PostgreSQL.
async fn measure(part: &str, schema: &Schema, test: bool) {
    let (slices, tasks) = if test { (1, 1_000) } else { (5, 100_000) };
    match part {
        "enqueue" => {
            for (tasks, transactions) in [(1, 200), (1_000, 10)] {
                let (slices, transactions) = if test { (1, 1) } else { (15, transactions) };
                enqueue::enqueue(schema, slices, transactions, tasks);
                enqueue::enqueue_async(schema, slices, transactions, tasks).await;
            }
        }
        "commit" => {
            let (slices, time) = if test { (1, 0) } else { (31, 300) };
            for connections in [1, 4, 16, 64] {
                enqueue::commit(schema, slices, Duration::from_millis(time), connections);
            }
        }
        "drain" => drain::drain(schema, slices, tasks).await,
        "keys" => keys::keys(schema, if test { 1_000 } else { 60_000 }).await,
        "shapes" => drain::shapes(schema, tasks, tasks).await,
        "processes" => drain::processes(schema, slices, tasks),
        "wal" => costs::wal(schema, tasks).await,
        "others" => costs::others(schema, slices, tasks).await,
        "wake" => wait::wake(schema, if test { 3 } else { 500 }).await,
        "idle" => wait::idle(schema, Duration::from_secs(if test { 1 } else { 10 })).await,
        "floor" => {
            // So many that what is dead makes itself felt.
            let (slices, tasks) = if test { (1, tasks) } else { (3, 600_000) };
            drain::floor(schema, slices, tasks).await;
        }
        "steady" => steady::steady(schema, Duration::from_secs(if test { 1 } else { 600 })).await,
        part => unreachable!("{part} is none of the parts"),
    }
}
