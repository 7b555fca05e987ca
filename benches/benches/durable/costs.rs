//! What tasks cost the server, and others on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use crate::by_hand::drain_by_hand;
use crate::drain::drain_by_workers;
use crate::figures::median;
use crate::keys::enqueue_of_keys;
use crate::schema::Schema;
use crate::{CONCURRENCY, Progress};

/// How much a task writes to the log of the server: its call, and its claim and end.
pub async fn wal(schema: &Schema, tasks: u64) {
    let written = "SELECT wal_bytes::bigint AS number FROM pg_stat_wal";
    let whole_pages = "SELECT wal_fpi AS number FROM pg_stat_wal";
    for keys in [0, 100] {
        schema.empty();
        // What is written first behind a checkpoint is written as a whole page.
        schema.connect().batch_execute("CHECKPOINT").expect("a superuser");
        let at = || (settled(schema, written), schema.number(whole_pages));
        let (start, pages) = at();
        enqueue_of_keys(schema, tasks, keys);
        let (enqueued, _) = at();
        drain_by_workers(schema, &Progress::of(tasks), 1, CONCURRENCY).await;
        let (drained, pages_then) = at();
        let each = |bytes: i64| bytes as f64 / tasks as f64;
        println!(
            "WAL of {tasks} tasks of {keys} keys: {:.0} bytes each to be enqueued, {:.0} to be run; {} whole pages",
            each(enqueued - start),
            each(drained - enqueued),
            pages_then - pages
        );
    }
}

/// Sessions tell of what they wrote a moment later, or when they end.
fn settled(schema: &Schema, query: &str) -> i64 {
    let mut last = schema.number(query);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = schema.number(query);
        if now == last {
            return now;
        }
        last = now;
    }
}

/// How many point SELECTs of another table somebody gets done while a loop by hand drains a backlog,
/// and while a worker does. Not beside those of a machine that does nothing else: its cores fall
/// asleep between two of them.
pub async fn others(schema: &Schema, slices: usize, tasks: u64) {
    schema
        .connect()
        .batch_execute(
            "CREATE TABLE others AS SELECT n::integer AS id, repeat('x', 100) AS text FROM generate_series(1, 100000) AS n; \
             CREATE UNIQUE INDEX others_id ON others (id); ANALYZE others",
        )
        .expect("a table");
    let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        schema.fill(tasks);
        let reader = Reader::start(schema);
        drain_by_hand(schema, "off", CONCURRENCY, &Progress::of(tasks));
        by_hand.push(reader.stop());
        schema.fill(tasks);
        let reader = Reader::start(schema);
        drain_by_workers(schema, &Progress::of(tasks), 1, CONCURRENCY).await;
        ours.push(reader.stop());
    }
    let (by_hand, ours) = (median(by_hand), median(ours));
    let ratio = ours / by_hand;
    println!("point SELECTs of others during a drain: by hand {by_hand:.0}/s, ours {ours:.0}/s, ratio {ratio:.2}");
    schema.connect().batch_execute("DROP TABLE others").expect("dropped");
}

/// Somebody who reads one row after the other.
struct Reader {
    over: Arc<AtomicBool>,
    reads: std::thread::JoinHandle<f64>,
}

impl Reader {
    fn start(schema: &Schema) -> Self {
        diesel::table! {
            others (id) {
                id -> Integer,
                text -> Text,
            }
        }
        let (over, mut conn) = (Arc::new(AtomicBool::new(false)), schema.connect());
        let until = Arc::clone(&over);
        let reads = std::thread::spawn(move || {
            let (start, mut reads) = (Instant::now(), 0_i32);
            while !until.load(Ordering::Relaxed) {
                let id = reads.wrapping_mul(7_919).rem_euclid(100_000) + 1;
                let text: String = others::table.find(id).select(others::text).get_result(&mut conn).expect("a row");
                assert_eq!(text.len(), 100);
                reads = reads.wrapping_add(1);
            }
            f64::from(reads) / start.elapsed().as_secs_f64()
        });
        Self { over, reads }
    }

    /// How many it read, a second.
    fn stop(self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.reads.join().expect("it read")
    }
}
