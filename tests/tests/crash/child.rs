//! Processes: this very binary, started anew.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::thread;
use std::time::Duration;

use diesel_deferred::Worker;
use diesel_deferred_tests::{AsyncDatabase, AsyncSqliteConnection, Database};

use crate::enqueue::Enqueuer;
use crate::journal::Journal;
use crate::tasks;

/// What a process is told, by environment variables.
const ROLE: &str = "CRASH_ROLE";
const DATABASE: &str = "CRASH_DATABASE";
const URL: &str = "CRASH_URL";

/// What it says when it has begun.
const READY: &str = "@ready";

/// What comes before an answer.
const ANSWER: &str = "@answer";

/// A process that ends when this value does.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one, and waits until it has begun.
    pub fn start<A: AsyncDatabase>(role: &str, url: &str, variables: &[(&str, String)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child::a_process_of_other_tests", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DATABASE, A::Blocking::NAME)
            .env(URL, url)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut process = Self { child, stdin, stdout };
        process.wait_for(READY);
        process
    }

    /// The rest of the first line that has this word in it.
    pub fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.stdout.read_line(&mut line).expect("its output");
            assert!(read > 0, "it ended before it said {word}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Tells it something, and waits for its answer.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub fn ask<T: std::str::FromStr>(&mut self, question: &str) -> T {
        use std::io::Write;
        writeln!(self.stdin.as_ref().expect("its input"), "{question}").expect("it listens");
        self.answers()
    }

    /// Waits for its answer.
    pub fn answers<T: std::str::FromStr>(&mut self) -> T {
        let answer = self.wait_for(ANSWER);
        answer.parse().unwrap_or_else(|_| panic!("it answered {answer}"))
    }

    /// Waits until it has ended by itself.
    pub fn ends(mut self) {
        let status = self.child.wait().expect("it ended");
        assert!(!status.success(), "it was to crash");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ended");
    }

    /// Has it end in good order.
    pub fn stop(mut self) {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("its output");
        let status = self.child.wait().expect("it ended");
        assert!(status.success(), "{status}: {rest}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process was told.
pub fn told(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
}

pub fn told_number<N: std::str::FromStr>(variable: &str) -> N {
    told(variable).parse().unwrap_or_else(|_| panic!("{variable} is no number"))
}

/// Tells the parent that everything works.
pub fn ready() {
    println!("{READY}");
}

/// Answers the parent.
pub fn answer(answer: impl std::fmt::Display) {
    println!("{ANSWER} {answer}");
}

/// Waits until the parent wants it to end, or has ended.
pub fn until_told_to_stop() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Where nobody says which: there is nothing to play.
#[test]
fn a_process_of_other_tests() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    if database == diesel::SqliteConnection::NAME {
        return plays::<AsyncSqliteConnection>();
    }
    #[cfg(feature = "postgres")]
    if database == diesel::PgConnection::NAME {
        return plays::<diesel_async::AsyncPgConnection>();
    }
    #[cfg(feature = "mysql")]
    if database == diesel::MysqlConnection::NAME {
        return plays::<diesel_async::AsyncMysqlConnection>();
    }
    panic!("no such database: {database}");
}

fn plays<A: AsyncDatabase>() {
    let url = told(URL);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match &*told(ROLE) {
        "enqueues and works" => enqueues_and_works::<A>(&url, &runtime),
        "calls" => crate::memory::calls::<A>(&url, &runtime),
        "works on large calls" => crate::memory::works::<A>(&url, &runtime),
        "works on poison" => crate::poison::works::<A>(&url, &runtime),
        "works on spans" => crate::spans::works::<A>(&url, &runtime),
        role => panic!("no such role: {role}"),
    }
}

/// Enqueues by two connections, and works, until it is killed.
fn enqueues_and_works<A: AsyncDatabase>(url: &str, runtime: &tokio::runtime::Runtime) {
    let journal = Journal::open(told("CRASH_JOURNAL"));
    let worker = Worker::<A>::builder(url)
        .queue(tasks::QUEUE, 4)
        .lease(Duration::from_secs(1))
        .poll_interval(Duration::from_millis(20))
        .state(journal.clone())
        .build()
        .expect("a worker");
    runtime.spawn(worker.run(std::future::pending()));
    let last = Arc::new(AtomicI32::new(told_number("CRASH_FIRST")));
    let mut rng = fastrand::Rng::with_seed(told_number("CRASH_SEED"));
    let blocking = Enqueuer { journal, rng: rng.fork(), last };
    let nonblocking = Enqueuer { rng: rng.fork(), ..blocking.clone() };
    thread::scope(|scope| {
        scope.spawn(|| blocking.run::<A::Blocking>(url));
        scope.spawn(|| runtime.block_on(nonblocking.run_async::<A>(url)));
        ready();
        until_told_to_stop();
        std::process::exit(0);
    });
}
