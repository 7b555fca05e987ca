//! The clocks of the processes are an hour off, before and behind the server's: all times are the
//! server's, so that nothing changes.
//!
//! Not on SQLite: there the clock of the database is that of the process.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, eventually};
use tempfile::TempDir;

use crate::child::Process;
use crate::spans::{Spans, enqueue, now_ms};

const HOUR: i64 = 3_600;

/// A library that shifts the clock of the programs it is loaded into.
struct Skew {
    directory: TempDir,
}

impl Skew {
    fn compiled() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/skew.c");
        let mut cc = Command::new("cc");
        let status = cc
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join("skew.so"))
            .args([source, "-ldl"])
            .status();
        assert!(status.expect("a C compiler, as SQLite needs too").success());
        Self { directory }
    }

    fn by(&self, seconds: i64) -> [(&'static str, String); 2] {
        let library = self.directory.path().join("skew.so").display().to_string();
        [("LD_PRELOAD", library), ("SKEW_SECONDS", seconds.to_string())]
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q02_postgres_has_another_time() {
    another_time::<diesel_async::AsyncPgConnection>().await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q02_mysql_has_another_time() {
    another_time::<diesel_async::AsyncMysqlConnection>().await;
}

const LEASE: Duration = Duration::from_secs(1);

/// Q2, D11, Q10: due times and leases are by the clock of the database.
async fn another_time<A: AsyncDatabase>() {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (skew, spans) = (Skew::compiled(), Spans::new());
    let worker = |number, seconds| {
        let mut process = spans.work_with::<A>(db, number, 2, LEASE, &skew.by(seconds));
        let off = process.ask::<i64>("time") - seconds_now();
        assert!((off - seconds).abs() < 60, "its clock is {off} seconds off, in the place of {seconds}");
        process
    };
    // What the one in the future leaves, the one in the past takes; and the other way round.
    let future = worker(1, HOUR);
    let past = is_taken_over(db, &spans, 1, future, || worker(2, -HOUR)).await;
    let mut future = is_taken_over(db, &spans, 2, past, || worker(3, HOUR)).await;

    let mut past = worker(4, -HOUR);
    let observer = &mut db.observer();
    // Longer than the lease: whoever has them keeps them.
    enqueue(&mut db.connect(), [(10, 2_500, None), (11, 2_500, None)]);
    let begin = now_ms(observer);
    // Those who enqueue count delays from the server's time too.
    assert_eq!(future.ask::<u32>("enqueue 20 after 700"), 20);
    assert_eq!(past.ask::<u32>("enqueue 21 after 700"), 21);
    let committed = now_ms(observer);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    [future, past].into_iter().for_each(Process::stop);
    let spans = spans.all();
    for number in [10, 11, 20, 21] {
        let runs: Vec<_> = spans.iter().filter(|span| span.number == number).collect();
        assert_eq!(runs.len(), 1, "{number} ran more than once: {runs:?}");
        if number >= 20 {
            let begun = runs[0].begun_ms;
            assert!(
                begun >= begin + 700 && begun < committed + 700 + 5_000,
                "{begun}, enqueued at {begin} to {committed}"
            );
        }
    }
}

/// A worker is killed while it runs a task: another one takes it, when the lease has ended by the
/// server's clock.
async fn is_taken_over<C: Database>(
    db: &Scratch<C>,
    spans: &Spans,
    number: u32,
    first: Process,
    start: impl Fn() -> Process,
) -> Process {
    enqueue(&mut db.connect(), [(number, 1_500, None)]);
    let began = || spans.all().into_iter().filter(|span| span.number == number).collect::<Vec<_>>();
    eventually("it begins", || began().len() == 1).await;
    let second = start();
    let observer = &mut db.observer();
    let lease_until = C::number(observer, "SELECT COALESCE(MAX(lease_until_ms), 0) AS number FROM deferred_tasks");
    let left = lease_until - now_ms(observer);
    assert!(left <= 1_000 && left > -5_000, "the lease ends in {left} ms");
    first.kill();
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let began = began();
    assert_eq!(began.len(), 2, "{began:?}");
    let again = began[1].begun_ms;
    assert!(
        again > lease_until && again < lease_until + 5_000,
        "the lease ended at {lease_until}, and it began at {again}"
    );
    second
}

fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("not that late")
}
