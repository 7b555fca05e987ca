//! D22, D14: what waits for a COMMIT takes little memory, however much it is, and so does what a
//! worker has in its hands. A process of its own for each way, because what counts is all that it
//! takes, with the client libraries.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, on_every_async_database};
use tokio::runtime::Runtime;

use crate::child::{Process, answer, ready, told, told_number, until_told_to_stop};

on_every_async_database! {
    d22_large_calls_before_a_commit_take_little_memory,
    d22_large_calls_in_async_blocks_take_little_memory,
    d22_a_worker_takes_as_many_large_calls_as_it_has_room_for,
}

/// So many of 1 MB take 100 MB where nothing bounds them. `CRASH_CALLS` is another number.
const CALLS: &str = "100";

/// All of a process, in a debug build.
const ALLOWED_KB: u64 = 64 << 10;

/// The same of a process that works, on as many at a time as there are.
const ALLOWED_WORKER_KB: u64 = 128 << 10;

/// 1 MiB with its JSON around it.
fn large() -> String {
    "x".repeat((1 << 20) - r#"{"text":""}"#.len())
}

#[deferred_task(durable, queue = "large")]
async fn keep(text: String) {
    // As one that sends it somewhere.
    tokio::time::sleep(Duration::from_millis(5)).await;
    drop(text);
}

async fn d22_large_calls_before_a_commit_take_little_memory<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    assert_takes_little::<A>(db, "a statement after each", "statements");
    assert_takes_little::<A>(db, "each in a block of its own", "blocks");
}

/// A statement cannot wait there, so that it takes blocks, or SQL in a batch.
async fn d22_large_calls_in_async_blocks_take_little_memory<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    assert_takes_little::<A>(db, "each in an asynchronous block of its own", "async blocks");
}

fn assert_takes_little<A: AsyncDatabase>(db: &Scratch<A::Blocking>, what: &str, way: &str) {
    A::Blocking::migrate(&mut db.observer());
    let calls = std::env::var("CRASH_CALLS").unwrap_or_else(|_| CALLS.to_owned());
    let mut process =
        Process::start::<A>("calls", db.url(), &[("CRASH_WAY", way.to_owned()), ("CRASH_CALLS", calls.clone())]);
    let peak_kb: u64 = process.answers();
    process.stop();
    say!("{}, {calls} calls, {what}: {} MB at most", A::Blocking::NAME, peak_kb >> 10);
    let stored = A::Blocking::number(&mut db.observer(), "SELECT COUNT(*) AS number FROM deferred_tasks");
    assert_eq!(stored.to_string(), calls, "{what}");
    assert!(peak_kb < ALLOWED_KB, "{what}: {peak_kb} KB");
    db.run_sql("DELETE FROM deferred_tasks");
}

async fn d22_a_worker_takes_as_many_large_calls_as_it_has_room_for<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    A::Blocking::migrate(&mut db.observer());
    let calls = std::env::var("CRASH_CALLS").unwrap_or_else(|_| CALLS.to_owned());
    let mut conn = db.connect();
    for _ in 0..calls.parse::<u32>().expect("a number") {
        atomic!(conn = &mut conn, -> QueryResult<()>, {
            keep(large());
            Ok(())
        })
        .expect("it commits");
    }
    let mut process = Process::start::<A>("works on large calls", db.url(), &[("CRASH_CALLS", calls.clone())]);
    let peak_kb: u64 = process.answers();
    process.stop();
    say!("{}, {calls} calls, a worker: {} MB at most", A::Blocking::NAME, peak_kb >> 10);
    assert_eq!(db.tasks(), []);
    assert!(peak_kb < ALLOWED_WORKER_KB, "{peak_kb} KB");
}

/// What the process does that works.
pub fn works<A: AsyncDatabase>(url: &str, runtime: &Runtime) {
    let worker = Worker::<A>::builder(url).queue("large", 1_000).build().expect("a worker");
    ready();
    let report = runtime.block_on(worker.run_until_empty()).expect("it works");
    assert_eq!(report.ran, told_number::<u64>("CRASH_CALLS"));
    answer(peak_kb());
    until_told_to_stop();
}

/// What the process does that calls.
pub fn calls<A: AsyncDatabase>(url: &str, runtime: &Runtime) {
    let conn = DeferredConnection::new(A::Blocking::establish(url).expect("a connection"));
    ready();
    let made = match &*told("CRASH_WAY") {
        "statements" => by_statements(conn),
        "blocks" => by_blocks(conn),
        "async blocks" => runtime.block_on(by_async_blocks::<A>(url)),
        way => panic!("no such way: {way}"),
    };
    made.expect("it commits");
    answer(peak_kb());
    until_told_to_stop();
}

fn by_statements<C: Database>(mut conn: DeferredConnection<C>) -> QueryResult<()> {
    atomic!(conn = &mut conn, -> QueryResult<()>, {
        for _ in 0..told_number::<u32>("CRASH_CALLS") {
            keep(large());
            C::execute_raw(conn, "DELETE FROM witness")?;
        }
        Ok(())
    })
}

fn by_blocks<C: Database>(mut conn: DeferredConnection<C>) -> QueryResult<()> {
    atomic!(conn = &mut conn, -> QueryResult<()>, {
        for _ in 0..told_number::<u32>("CRASH_CALLS") {
            atomic!(conn, -> QueryResult<()>, {
                keep(large());
                Ok(())
            })?;
        }
        Ok(())
    })
}

async fn by_async_blocks<A: AsyncDatabase>(url: &str) -> QueryResult<()> {
    let mut conn = AsyncDeferredConnection::new(A::establish(url).await.expect("a connection"));
    atomic!(conn = &mut conn, -> QueryResult<()>, async {
        for _ in 0..told_number::<u32>("CRASH_CALLS") {
            atomic!(conn, -> QueryResult<()>, async {
                keep(large());
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
}

/// How much this process has taken at most.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KB")
}
