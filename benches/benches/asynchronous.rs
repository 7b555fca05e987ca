//! What hooks cost on asynchronous connections, and what the dispatcher costs, beside the same by
//! hand. Both sides in alternating slices, as in `side_by_side`: prints the ratio of the medians.
//!
//! `cargo bench -p diesel-deferred-benches --bench asynchronous`; `--test` runs each once. The part
//! on PostgreSQL needs `PG_DATABASE_URL`, and says so where it is not set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diesel::{Connection, ExpressionMethods, QueryResult, SqliteConnection};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, Dispatcher, atomic, deferred_task};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

static SINK: AtomicU64 = AtomicU64::new(0);

#[deferred_task]
fn add(a: u64) {
    SINK.fetch_add(a, Ordering::Relaxed);
}

#[deferred_task]
async fn add_later(a: u64) {
    work(a).await;
}

/// What a task does: it waits once, and ends.
async fn work(a: u64) {
    tokio::task::yield_now().await;
    SINK.fetch_add(a, Ordering::Relaxed);
}

diesel::table! {
    bench_rows (id) {
        id -> Integer,
    }
}

#[tokio::main]
async fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    match std::env::var("PG_DATABASE_URL") {
        Ok(url) => on_postgres(&url, if test { 1 } else { 400 }, if test { 1 } else { 50 }).await,
        Err(_) => println!("PG_DATABASE_URL is not set: nothing is measured on PostgreSQL"),
    }
    for max_in_flight in [64, 256, 1024] {
        many_tasks(max_in_flight, if test { 1 } else { 15 }, if test { 1_000 } else { 100_000 }).await;
    }
}

/// A transaction with one hook, and diesel-async's own with a call behind it. Each slice has
/// connections of its own, and the sides take turns at being first: how fast a connection is
/// depends on the core that the server's process happens to be on.
async fn on_postgres(url: &str, slices: usize, transactions: u32) {
    for inserts in [0, 1] {
        for hooks in [0, 1] {
            let (mut theirs, mut mine) = (Vec::new(), Vec::new());
            for slice in 0..slices {
                let mut bare = connect(url).await;
                let mut deferred = AsyncDeferredConnection::new(connect(url).await);
                if slice % 2 == 0 {
                    theirs.push(by_hand(&mut bare, transactions, inserts, hooks).await);
                    mine.push(ours(&mut deferred, transactions, inserts, hooks).await);
                } else {
                    mine.push(ours(&mut deferred, transactions, inserts, hooks).await);
                    theirs.push(by_hand(&mut bare, transactions, inserts, hooks).await);
                }
            }
            let what = format!("PostgreSQL, {inserts} INSERTs, {hooks} hooks, a transaction");
            print_ratio(&what, theirs, mine);
        }
    }
}

async fn connect(url: &str) -> AsyncPgConnection {
    let mut conn = AsyncPgConnection::establish(url).await.expect("connect");
    conn.batch_execute("CREATE TEMPORARY TABLE bench_rows (id INTEGER)").await.expect("a table");
    conn
}

async fn by_hand(conn: &mut AsyncPgConnection, transactions: u32, inserts: u32, hooks: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..transactions {
        conn.transaction(async |conn| {
            for _ in 0..inserts {
                diesel::insert_into(bench_rows::table).values(bench_rows::id.eq(1)).execute(conn).await?;
            }
            QueryResult::Ok(())
        })
        .await
        .expect("commit");
        if hooks > 0 {
            SINK.fetch_add(1, Ordering::Relaxed);
        }
    }
    start.elapsed() / transactions
}

async fn ours(
    conn: &mut AsyncDeferredConnection<AsyncPgConnection>,
    transactions: u32,
    inserts: u32,
    hooks: u32,
) -> Duration {
    let start = Instant::now();
    for _ in 0..transactions {
        atomic!(conn, -> QueryResult<()>, async {
            for _ in 0..inserts {
                diesel::insert_into(bench_rows::table).values(bench_rows::id.eq(1)).execute(conn).await?;
            }
            if hooks > 0 {
                add(1);
            }
            Ok(())
        })
        .await
        .expect("commit");
    }
    start.elapsed() / transactions
}

/// Async tasks out of one block, and the same futures by hand.
async fn many_tasks(max_in_flight: usize, slices: usize, tasks: u64) {
    let mut conn = DeferredConnection::new(SqliteConnection::establish(":memory:").expect("in memory"));
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    let (mut their_peak, mut my_peak) = (0, 0);
    for _ in 0..slices {
        let (took, peak) = measured(spawn_by_hand(max_in_flight, tasks)).await;
        theirs.push(took);
        their_peak = their_peak.max(peak);
        let (took, peak) = measured(dispatch(&mut conn, max_in_flight, tasks)).await;
        mine.push(took);
        my_peak = my_peak.max(peak);
    }
    print_ratio(&format!("{tasks} async tasks out of one block, {max_in_flight} at a time"), theirs, mine);
    println!("    memory at most: by hand {} KB, from the block {} KB", their_peak / 1024, my_peak / 1024);
}

async fn spawn_by_hand(max_in_flight: usize, tasks: u64) {
    let (tracker, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(max_in_flight)));
    for a in 0..tasks {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
        tracker.spawn(async move {
            work(a).await;
            drop(slot);
        });
    }
    tracker.close();
    tracker.wait().await;
}

async fn dispatch(conn: &mut DeferredConnection<SqliteConnection>, max_in_flight: usize, tasks: u64) {
    let dispatcher = Dispatcher::builder().max_in_flight(max_in_flight).build();
    conn.set_dispatcher(dispatcher.clone());
    atomic!(conn, -> QueryResult<()>, {
        for a in 0..tasks {
            add_later(a);
        }
        Ok(())
    })
    .expect("commit");
    let report = dispatcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.is_clean(), "{report}");
}

/// How long it took, and how many bytes it had allocated at most.
async fn measured(run: impl Future<Output = ()>) -> (Duration, usize) {
    let before = memory::start();
    let start = Instant::now();
    run.await;
    (start.elapsed(), memory::peak_since(before))
}

fn print_ratio(what: &str, theirs: Vec<Duration>, mine: Vec<Duration>) {
    let (theirs, mine) = (median(theirs), median(mine));
    let ratio = mine.as_secs_f64() / theirs.as_secs_f64();
    println!("{what}: by hand {theirs:?}, ours {mine:?}, ratio {ratio:.3}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How much is allocated, and how much was at most.
mod memory {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting;

    static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
    static PEAK: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn start() -> usize {
        let now = ALLOCATED.load(Ordering::Relaxed);
        PEAK.store(now, Ordering::Relaxed);
        now
    }

    pub(super) fn peak_since(start: usize) -> usize {
        PEAK.load(Ordering::Relaxed).saturating_sub(start)
    }

    // SAFETY: passes every call on to the system's allocator.
    #[allow(unsafe_code, reason = "there is no other way to count allocations")]
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
            PEAK.fetch_max(now, Ordering::Relaxed);
            // SAFETY: the caller's promise.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;
}
