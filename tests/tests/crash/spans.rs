//! Tasks that note when they began and ended, by the clock of the database.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{Attempt, DeferredConnection, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::child::{Process, answer, ready, told, told_number};
use crate::journal::Journal;

/// The queue of these tasks.
pub const QUEUE: &str = "spans";

/// What these tasks need.
#[derive(Clone)]
pub struct Clock {
    worker: u32,
    journal: Journal,
    now_ms: Arc<Mutex<dyn FnMut() -> i64 + Send>>,
}

/// The time in milliseconds, by the clock of the database.
pub fn now_ms<C: Database>(conn: &mut C) -> i64 {
    let now = match C::NAME {
        "SQLite" => "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)",
        "PostgreSQL" => "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        _ => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    };
    C::number(conn, &format!("SELECT {now} AS number"))
}

impl Clock {
    pub fn new<C: Database + Send>(worker: u32, mut conn: C, journal: Journal) -> Self {
        Self { worker, journal, now_ms: Arc::new(Mutex::new(move || now_ms(&mut conn))) }
    }

    fn now(&self) -> i64 {
        (self.now_ms.lock().unwrap_or_else(PoisonError::into_inner))()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// Takes so many milliseconds. It is told its key, which is empty where it has none.
#[deferred_task(durable, queue = "spans")]
async fn span(#[state] clock: &Clock, #[state] attempt: Attempt, number: u32, ms: u64, key: &str) {
    let (id, worker) = (attempt.id(), clock.worker);
    clock.journal.line(&format!("begin {id} {number} {worker} {} {key}", clock.now()));
    tokio::time::sleep(Duration::from_millis(ms)).await;
    clock.journal.line(&format!("end {id} {worker} {}", clock.now()));
}

/// A connection to enqueue by, which waits for its turn to write.
pub fn connect<C: Database>(db: &Scratch<C>) -> DeferredConnection<C> {
    let mut conn = db.patient();
    if C::NAME == "SQLite" {
        conn.batch_execute("PRAGMA busy_timeout = 20000").expect("set");
    }
    conn
}

/// Enqueues some in one transaction: number, milliseconds and key.
pub fn enqueue<'k, C: Database>(
    conn: &mut DeferredConnection<C>,
    tasks: impl IntoIterator<Item = (u32, u64, Option<&'k str>)>,
) {
    atomic!(conn, -> QueryResult<()>, {
        for (number, ms, key) in tasks {
            match key {
                Some(key) => span(number, ms, key).key(key).after_commit(conn)?,
                None => span(number, ms, "").after_commit(conn)?,
            };
        }
        Ok(())
    })
    .expect("committed");
}

/// One run of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub id: String,
    pub number: u32,
    pub worker: u32,
    pub key: String,
    pub begun_ms: i64,
    /// One that did not end was killed.
    pub ended_ms: Option<i64>,
}

/// The runs of several processes.
#[derive(Debug)]
pub struct Spans {
    directory: TempDir,
}

impl Spans {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("spans")
    }

    /// A process that works.
    pub fn work<A: AsyncDatabase>(
        &self,
        db: &Scratch<A::Blocking>,
        worker: u32,
        concurrency: usize,
        lease: Duration,
    ) -> Process {
        self.work_with::<A>(db, worker, concurrency, lease, &[])
    }

    /// One that is told more.
    pub fn work_with<A: AsyncDatabase>(
        &self,
        db: &Scratch<A::Blocking>,
        worker: u32,
        concurrency: usize,
        lease: Duration,
        more: &[(&str, String)],
    ) -> Process {
        let told = [
            ("CRASH_WORKER", worker.to_string()),
            ("CRASH_CONCURRENCY", concurrency.to_string()),
            ("CRASH_LEASE_MS", lease.as_millis().to_string()),
            ("CRASH_JOURNAL", self.path().display().to_string()),
        ];
        Process::start::<A>("works on spans", db.url(), &[&told[..], more].concat())
    }

    /// What ran, in the order in which it began.
    pub fn all(&self) -> Vec<Span> {
        let (mut spans, mut running) = (Vec::<Span>::new(), HashMap::new());
        for line in std::fs::read_to_string(self.path()).unwrap_or_default().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["begin", id, number, worker, ms, key] => {
                    running.insert((id.to_owned(), worker.to_owned()), spans.len());
                    spans.push(Span {
                        id: id.to_owned(),
                        number: number.parse().expect("a number"),
                        worker: worker.parse().expect("a number"),
                        key: key.to_owned(),
                        begun_ms: ms.parse().expect("a time"),
                        ended_ms: None,
                    });
                }
                ["end", id, worker, ms] => {
                    let at = running.remove(&(id.to_owned(), worker.to_owned())).expect("it began");
                    spans[at].ended_ms = Some(ms.parse().expect("a time"));
                }
                _ => panic!("{line}"),
            }
        }
        spans
    }
}

/// The role of a process: works on these tasks until it is told to stop.
pub fn works<A: AsyncDatabase>(url: &str, runtime: &Runtime)
where
    A::Blocking: Send,
{
    let conn = <A::Blocking as Connection>::establish(url).expect("connected");
    let clock = Clock::new(told_number("CRASH_WORKER"), conn, Journal::open(told("CRASH_JOURNAL")));
    let worker = Worker::<A>::builder(url)
        .queue(QUEUE, told_number("CRASH_CONCURRENCY"))
        .lease(Duration::from_millis(told_number("CRASH_LEASE_MS")))
        .poll_interval(Duration::from_millis(20))
        .state(clock)
        .build()
        .expect("a worker");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = runtime.spawn(worker.run(async { drop(stopped.await) }));
    ready();
    for line in std::io::stdin().lines() {
        let line = line.expect("what it is told");
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["time"] => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                answer(now.as_secs());
            }
            ["enqueue", number, "after", ms] => {
                let conn = &mut DeferredConnection::<A::Blocking>::establish(url).expect("connected");
                let number: u32 = number.parse().expect("a number");
                let delay = Duration::from_millis(ms.parse().expect("a number"));
                atomic!(conn, -> QueryResult<()>, {
                    span(number, 0, "").delay(delay).after_commit(conn)?;
                    Ok(())
                })
                .expect("committed");
                answer(number);
            }
            _ => panic!("{line}"),
        }
    }
    drop(stop);
    runtime.block_on(worker).expect("no panic").expect("a worker that could work");
}
