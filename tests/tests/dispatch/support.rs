//! Gates that tasks wait at, meters, and connections to throw away.

use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_deferred::{CommitError, DeferredConnection, Dispatcher, DispatcherBuilder, atomic, deferred_task};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// Longer than any of these tests takes, and not for ever.
pub const LONG: Duration = Duration::from_secs(60);

/// A runtime of two threads.
pub fn runtime() -> Threads {
    Threads(Some(Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")))
}

/// A runtime that does not wait for its tasks when a test fails: nobody opens their gates any more.
pub struct Threads(Option<Runtime>);

impl Threads {
    pub fn shutdown_background(mut self) {
        self.0.take().expect("it is there").shutdown_background();
    }
}

impl Deref for Threads {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is there")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(runtime) = self.0.take()
        {
            runtime.shutdown_background();
        }
    }
}

/// A dispatcher there, that runs so many at a time.
pub fn at_most(tasks: usize, runtime: &Runtime) -> DispatcherBuilder {
    Dispatcher::builder().runtime(runtime.handle().clone()).max_in_flight(tasks)
}

/// A connection to a database of its own, in memory, with the table for witnesses.
pub fn memory(dispatcher: &Dispatcher) -> DeferredConnection<SqliteConnection> {
    let mut conn = DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    diesel::sql_query("CREATE TABLE witness (id INTEGER PRIMARY KEY)").execute(&mut conn).expect("create the table");
    conn.set_dispatcher(dispatcher.clone());
    conn
}

/// Waits for a condition that other threads bring about.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Nothing runs or waits any more.
pub fn idle(dispatcher: &Dispatcher) {
    eventually("all tasks end", || dispatcher.in_flight() == 0 && dispatcher.waiting() == 0);
}

/// Why a transaction was refused.
pub fn refused<T: std::fmt::Debug>(result: QueryResult<T>) -> String {
    let error = result.expect_err("the transaction fails");
    let Some(CommitError::TaskCannotRun(_)) = CommitError::of(&error) else { panic!("another error: {error}") };
    error.to_string()
}

/// Awaits without a runtime.
pub fn without_runtime<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let (waker, mut future) = (Waker::from(Arc::new(Unpark(thread::current()))), pin!(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// What tasks wait for.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn shut() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// A list that tasks write to.
#[derive(Clone, Default)]
pub struct List(Arc<Mutex<Vec<String>>>);

impl List {
    pub fn push(&self, line: impl ToString) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    pub fn up(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn at_least(&self, value: usize) {
        self.0.fetch_max(value, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A value that counts its own end.
    pub fn guard(&self) -> Guard {
        Guard(self.clone())
    }
}

/// Counts when it is dropped.
pub struct Guard(Count);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.up();
    }
}

/// Waits at a gate, then notes itself.
#[deferred_task]
pub async fn waits(gate: Gate, list: List, id: i32, guard: Guard) {
    gate.pass().await;
    list.push(id);
    drop(guard);
}

/// The same on a thread of its own.
#[deferred_task(blocking)]
pub fn blocks(gate: Gate, list: List, id: i32, guard: Guard) {
    Handle::current().block_on(gate.pass());
    list.push(id);
    drop(guard);
}

/// Commits one that waits at the gate, and returns once it has its slot.
pub fn occupy(conn: &mut DeferredConnection<SqliteConnection>, dispatcher: &Dispatcher, gate: &Gate) {
    atomic!(conn, -> QueryResult<()>, {
        waits(gate.clone(), List::default(), 0, Count::default().guard());
        Ok(())
    })
    .expect("commits");
    assert_eq!(dispatcher.in_flight(), 1);
}
