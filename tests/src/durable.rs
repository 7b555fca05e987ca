//! Durable tasks under test: the tables, what is in them, workers, and what tasks noted.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{
    AsyncDeferredConnection, DeferredConnection, TaskId, Worker, WorkerBuilder, WorkerConnection, WorkerError,
    WorkerReport,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::{AsyncDatabase, Database, Scratch};

/// What tasks did, in order.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<(Mutex<Vec<String>>, Notify)>);

impl Notes {
    /// Notes something.
    pub fn add(&self, note: impl Into<String>) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(note.into());
        self.0.1.notify_waiters();
    }

    /// All that was noted.
    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there are so many notes.
    pub async fn wait_for(&self, count: usize) -> Vec<String> {
        self.wait_until(|all| all.len() >= count).await
    }

    /// Waits until the notes are as they should be.
    pub async fn wait_until(&self, are_right: impl Fn(&[String]) -> bool) -> Vec<String> {
        let wait = async {
            loop {
                let mut noted = std::pin::pin!(self.0.1.notified());
                noted.as_mut().enable();
                let all = self.all();
                if are_right(&all) {
                    return all;
                }
                noted.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("after 30 seconds the notes are {:?}", self.all()))
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
#[allow(missing_docs)]
pub struct TaskRow {
    #[diesel(sql_type = Text)]
    pub task: String,
    #[diesel(sql_type = Text)]
    pub queue: String,
    #[diesel(sql_type = Text)]
    pub payload: String,
    #[diesel(sql_type = SmallInt)]
    pub priority: i16,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = BigInt)]
    pub run_at_ms: i64,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Integer)]
    pub max_attempts: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub task_key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub trace_parent: Option<String>,
}

impl<C: Database> Scratch<C> {
    /// Makes one with the tables of durable tasks.
    pub fn with_tasks() -> Self {
        let scratch = Self::new();
        C::migrate(&mut scratch.observer());
        scratch
    }

    /// The rows that another connection sees, in the order of their ids.
    pub fn tasks(&self) -> Vec<TaskRow> {
        C::tasks(&mut self.observer())
    }

    /// Their identities, in the same order.
    pub fn task_ids(&self) -> Vec<TaskId> {
        C::task_ids(&mut self.observer())
    }

    /// Waits until the rows are as they should be.
    pub async fn wait_for_tasks(&self, are_right: impl Fn(&[TaskRow]) -> bool) -> Vec<TaskRow> {
        for _ in 0..3_000 {
            let tasks = self.tasks();
            if are_right(&tasks) {
                return tasks;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("after 30 seconds the rows are {:#?}", self.tasks())
    }

    /// A connection that waits for its turn, beside workers that write.
    pub fn patient(&self) -> DeferredConnection<C> {
        let mut conn = self.observer();
        if C::NAME == "SQLite" {
            conn.batch_execute("PRAGMA busy_timeout = 10000").expect("set the time");
        }
        DeferredConnection::new(conn)
    }

    /// An asynchronous one.
    pub async fn patient_async<A: AsyncDatabase<Blocking = C>>(&self) -> AsyncDeferredConnection<A> {
        let mut conn = self.connect_async::<A>().await;
        if C::NAME == "SQLite" {
            let set = SimpleAsyncConnection::batch_execute(&mut conn, "PRAGMA busy_timeout = 10000");
            set.await.expect("set the time");
        }
        conn
    }

    /// Changes rows by hand.
    pub fn run_sql(&self, sql: &str) {
        self.patient().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A worker, to be set up.
    pub fn worker<A: WorkerConnection>(&self) -> WorkerBuilder<A> {
        Worker::builder(C::url_of_workers(self.url())).poll_interval(Duration::from_millis(50))
    }
}

/// A worker that works in the background.
#[derive(Debug)]
pub struct AtWork {
    stop: oneshot::Sender<()>,
    stopping: Arc<Notify>,
    worker: JoinHandle<Result<WorkerReport, WorkerError>>,
}

/// Starts a worker.
#[macro_export]
macro_rules! at_work {
    ($builder:expr) => {
        $crate::AtWork::start($builder.build().expect("a worker"))
    };
}

impl AtWork {
    /// Has it work.
    pub fn start<C, S>(worker: Worker<C, S>) -> Self
    where
        C: WorkerConnection,
        S: tower_service::Service<diesel_deferred::Job, Response = ()> + Send + 'static,
        S::Error: Into<diesel_deferred::BoxError>,
        S::Future: Send,
    {
        let (stop, stopped) = oneshot::channel();
        let stopping = Arc::new(Notify::new());
        let heard = Arc::clone(&stopping);
        let worker = tokio::spawn(worker.run(async move {
            drop(stopped.await);
            heard.notify_one();
        }));
        Self { stop, stopping, worker }
    }

    /// Tells it to stop, and waits until it has heard that; it says what it said in the end.
    pub async fn begin_to_stop(self) -> JoinHandle<WorkerReport> {
        let _ = self.stop.send(());
        self.stopping.notified().await;
        tokio::spawn(async move { Self::ended(self.worker).await.expect("a worker that could work") })
    }

    /// Stops it, and says what it said.
    pub async fn stop(self) -> WorkerReport {
        let _ = self.stop.send(());
        Self::ended(self.worker).await.expect("a worker that could work")
    }

    /// Waits for it to end by itself.
    pub async fn fails(self) -> WorkerError {
        let ended = tokio::time::timeout(Duration::from_secs(30), Self::ended(self.worker)).await;
        ended.expect("it goes on").expect_err("it ended well")
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.worker.is_finished()
    }

    /// Ends it as a crash does: nothing is told to anybody.
    pub async fn kill(self) {
        self.worker.abort();
        let _ = self.worker.await;
    }

    async fn ended(worker: JoinHandle<Result<WorkerReport, WorkerError>>) -> Result<WorkerReport, WorkerError> {
        worker.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }
}
