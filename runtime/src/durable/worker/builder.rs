//! The worker as users see it: how it is set up, and run.
//!
//! Must not know: what it does when.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionResult;
use futures_util::FutureExt;
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::engine::{Engine, Settings};
use super::errors::{FailedAttempt, WorkerError, WorkerReport};
use super::job::{Handlers, Job};
use super::source::{Statements, Table, TableSource, WorkerConnection};
use super::work::Work;
use crate::dispatch::States;
use crate::durable::id::TaskId;
use crate::durable::registry::{Registered, Registry};
use crate::durable::worker::source::{Connect, Lease, Looking};
use crate::error::BoxError;

/// Takes durable tasks out of the database, and runs them.
///
/// Any number of workers, in any number of processes, may work on one database: the service itself,
/// other machines, or both.
///
/// # What is guaranteed
/// * Every task that was committed is run *at least once*. A worker that dies at any instruction
///   loses nothing: when the lease of what it had taken has ended, another one takes it. What a
///   task does elsewhere should be keyed by its [`Attempt::id`](crate::Attempt::id).
/// * No two workers run one task at the same time while its lease lasts. A worker extends the
///   leases of what it runs.
/// * Of what is due, a worker takes by priority, then by when it was due, then in the order of the
///   calls. Those that share a key run one after the other.
/// * An attempt is spent when it starts: a worker takes what it starts at once, and counts it with
///   the same statement, so that a task that kills its worker runs out of attempts like one that
///   fails, and never starts more often than `max_attempts`. One that was stopped with its worker
///   has spent its attempt, too. One that has none left becomes a *dead letter*, which keeps its
///   arguments and the reason, and can be [replayed](crate::replay_task).
/// * Due times and leases are by the database's clock.
///
/// # Failures
/// An error, a panic, and an attempt that takes longer than the task's `timeout` are failed
/// attempts: the task is tried again, after its `backoff`, then twice as long each time, up to six
/// hours, a quarter more or less. [`Snooze`](crate::Snooze) and [`Discard`](crate::Discard) ask for
/// another end. A row that cannot be read, or is of a task that this program does not have, is
/// another program's, of the version before or after: it waits for that one, spends nothing, holds up
/// nobody, and becomes a dead letter after
/// [`give_up_unknown_after`](WorkerBuilder::give_up_unknown_after).
///
/// When the database goes away the worker goes on with what it has, and looks for it until it is
/// back; likewise where it was not there to begin with. All that it says of that, also of a wrong
/// address, are `tracing` events, which tell a lost connection, a lock, a deadlock, a full disk and a
/// time limit apart. It has one connection, best a direct one: a pooler that runs each transaction in
/// another session (PgBouncer's transaction mode) makes it slower and lets it hear nothing, see
/// [`transaction_pooler`](WorkerBuilder::transaction_pooler).
///
/// # Which tasks there are
/// All with `#[deferred_task(durable)]` in the crates that the program is linked from. A binary
/// that is only a worker has to use the crate that has the tasks: `use my_service as _;` does.
///
/// # Examples
/// ```no_run
/// # #[cfg(feature = "async-postgres")]
/// # mod example {
/// use diesel_async::AsyncPgConnection;
/// use diesel_deferred::{Worker, deferred_task};
///
/// #[derive(Clone)]
/// pub struct Mailer;
///
/// #[deferred_task(durable, queue = "mail", max_attempts = 5)]
/// async fn send_receipt(#[state] mailer: Mailer, order_id: i64) -> Result<(), std::io::Error> {
///     let _ = (mailer, order_id);
///     Ok(())
/// }
///
/// pub async fn work(url: &str, shutdown: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
///     let worker = Worker::<AsyncPgConnection>::builder(url).queue("mail", 20).state(Mailer).build()?;
///     let report = worker.run(shutdown).await?;
///     println!("{report}");
///     Ok(())
/// }
/// # }
/// ```
#[must_use = "a worker works while it is `run`"]
pub struct Worker<C, S = Handlers> {
    engine: Engine<Table<C>, S>,
}

// The bounds are the methods' own: of an `impl`'s the compiler only says that they are not met.
impl<C> Worker<C> {
    /// Sets one up, for the database at this address.
    pub fn builder(url: impl Into<String>) -> WorkerBuilder<C>
    where
        C: WorkerConnection,
    {
        let url = url.into();
        Self::builder_with(move || {
            let url = url.clone();
            async move { C::Statements::establish(&url).await }
        })
    }

    /// Sets one up, with a function that opens connections: each time that the worker needs one. It
    /// keeps one.
    pub fn builder_with<F, Fut>(connect: F) -> WorkerBuilder<C>
    where
        C: WorkerConnection,
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ConnectionResult<C>> + Send + 'static,
    {
        let setup = Setup {
            connect: Box::new(move || connect().boxed()),
            queues: Vec::new(),
            states: States::default(),
            lease: Duration::from_secs(30),
            settings: Settings {
                poll: Duration::from_secs(1),
                grace: Duration::from_secs(10),
                batch: 1_000,
                on_failure: None,
                metrics: Duration::from_secs(15),
            },
            kept: Duration::from_secs(30 * 24 * 60 * 60),
            done_kept: None,
            listens: true,
            pooler: None,
            give_up_unknown_after: Duration::from_secs(7 * 24 * 60 * 60),
            tasks_in: "",
        };
        WorkerBuilder { layers: Identity::new(), setup }
    }
}

impl<C, S> Worker<C, S>
where
    C: WorkerConnection,
    S: Service<Job, Response = ()> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// Works until `shutdown` is ready; then takes nothing more, waits for what runs, and gives the
    /// rest back.
    ///
    /// It must be awaited on a tokio runtime. Where it is dropped before its end, async tasks are
    /// stopped, and what it had taken is taken by other workers when its lease has ended.
    ///
    /// It begins with a `tracing` event at INFO: its queues, how many tasks there are, and which of
    /// them are of other queues; and one at WARN for each queue that no task of the program names.
    ///
    /// # Errors
    /// The tables are not there, or are newer than this worker: what runs is given back. Or the
    /// worker's role lacks a right when it starts; one that it loses later is an event, and it waits.
    ///
    /// A database that cannot be reached is no error, at the start neither: the worker tells it at WARN,
    /// and tries again every few seconds. That is so where its URL is wrong, too.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<WorkerReport, WorkerError> {
        self.engine.on(TableSource::new).run(shutdown, false).await
    }

    /// Works until nothing of its queues is due, then ends: for tests, and for a job that is started
    /// now and then. What is called meanwhile, by the tasks themselves or by others, is done, too.
    ///
    /// What is due later is not waited for: calls with a delay, attempts that are tried again after
    /// their backoff, snoozes. Neither is what other workers run, and what is in paused queues.
    ///
    /// # Errors
    /// As those of [`run`](Self::run); and [`WorkerError::Unreachable`] where the database cannot be
    /// reached at its start. One that cannot be reached later is waited for.
    ///
    /// # Examples
    /// ```no_run
    /// # #[cfg(all(feature = "sqlite", feature = "async-sqlite"))]
    /// # mod example {
    /// use diesel::prelude::*;
    /// use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
    /// use diesel_deferred::{DeferredConnection, Worker, atomic, deferred_task};
    /// use diesel_migrations::MigrationHarness;
    ///
    /// #[deferred_task(durable)]
    /// async fn count_down(from: u32) {
    ///     println!("{from}");
    /// }
    ///
    /// # pub async fn test(url: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(url)?;
    /// conn.run_pending_migrations(diesel_deferred::migrations())?;
    /// atomic!(conn, -> QueryResult<()>, {
    ///     count_down(2);
    ///     count_down(1);
    ///     Ok(())
    /// })?;
    /// let worker = Worker::<SyncConnectionWrapper<SqliteConnection>>::builder(url).build()?;
    /// assert_eq!(worker.run_until_empty().await?.ran, 2);
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    pub async fn run_until_empty(self) -> Result<WorkerReport, WorkerError> {
        self.engine.on(TableSource::new).run(std::future::pending(), true).await
    }
}

impl<C, S> fmt::Debug for Worker<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("source", self.engine.source()).finish_non_exhaustive()
    }
}

/// Sets a [`Worker`] up; an example is there.
#[must_use = "a builder does nothing until `build`"]
pub struct WorkerBuilder<C, L = Identity> {
    layers: L,
    setup: Setup<C>,
}

/// All but the layers, which change the builder's type.
struct Setup<C> {
    connect: Connect<C>,
    queues: Vec<(Arc<str>, usize)>,
    states: States,
    lease: Duration,
    settings: Settings,
    kept: Duration,
    done_kept: Option<Duration>,
    listens: bool,
    pooler: Option<bool>,
    give_up_unknown_after: Duration,
    /// How the names of the files end whose tasks it has.
    tasks_in: &'static str,
}

/// A hundred years: clocks cannot be asked for `Duration::MAX`.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How many tasks of a queue run at a time, where nobody says so.
const CONCURRENCY: usize = 10;

/// The queue of tasks that name none.
const DEFAULT: &str = "default";

impl<C: WorkerConnection, L> WorkerBuilder<C, L> {
    /// Works on this queue, so many tasks at a time (1 at least). Without any, the worker works on
    /// `default` and on all queues that the attributes of the program's tasks name, ten tasks of
    /// each at a time; one that only a call names (`.queue(…)`) is not among them.
    pub fn queue(mut self, queue: impl Into<Arc<str>>, concurrency: usize) -> Self {
        let queue = queue.into();
        self.setup.queues.retain(|(other, _)| *other != queue);
        self.setup.queues.push((queue, concurrency.max(1)));
        self
    }

    /// A value that tasks take as `#[state]`; of several of one type the last counts.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.setup.states.insert(state);
        self
    }

    /// Puts a layer of tower's around what runs tasks: rate limits, tracing, metrics. The first one
    /// that is added is the outermost.
    ///
    /// An error of the layer's is a failed attempt. One that is not ready yet holds up the tasks
    /// behind it. One that gives an attempt up, as a timeout does, stops an `async fn`; a plain
    /// `fn` goes on on its thread, and is tried again when that has ended.
    pub fn layer<New>(self, layer: New) -> WorkerBuilder<C, Stack<New, L>> {
        let Self { layers, setup } = self;
        WorkerBuilder { layers: Stack::new(layer, layers), setup }
    }

    /// How long a task is nobody else's when its worker gives no sign of life: 30 seconds by
    /// default, 1 at least. Leases are extended three times in that time.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.setup.lease = lease.clamp(Duration::from_secs(1), FOREVER);
        self
    }

    /// How often an idle worker looks: once a second by default. A commit in its own process wakes
    /// it at once, and on PostgreSQL one in any process does. What it has seen to be scheduled
    /// starts on time; calls with a shorter delay than this may wait for the next look.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.setup.settings.poll = interval.clamp(Duration::from_millis(1), FOREVER);
        self
    }

    /// Does not listen for notifications, which is what wakes a worker on PostgreSQL when another
    /// process commits: it finds such calls when it [looks](Self::poll_interval). For servers that
    /// have no LISTEN, or lose what it brings: CockroachDB, YugabyteDB. There, programs that enqueue
    /// want [`never_notify`](crate::never_notify).
    pub fn poll_only(mut self) -> Self {
        self.setup.listens = false;
        self
    }

    /// Says whether there is a pooler between the worker and PostgreSQL that runs each transaction in
    /// another session: PgBouncer in transaction mode and its like. A worker finds that out by
    /// itself, and takes the numbers of the server's processes for proof; so this is needed only
    ///
    /// * to have nothing said of such a pooler: `true`;
    /// * where each client of the pooler keeps its session, as in PgBouncer's session mode, which
    ///   cannot be told from outside: `false` has the worker listen, and set what it needs once. The
    ///   pooler must reset sessions before it hands them on (`server_reset_query`), as PgBouncer
    ///   does by default.
    ///
    /// Behind one the worker has nothing set or prepared beyond a transaction, so that no other
    /// client of the pool sees it. It cannot listen: what other processes commit waits until it
    /// [looks](Self::poll_interval). And each of its statements takes three answers instead of one.
    pub fn transaction_pooler(mut self, pooler: bool) -> Self {
        self.setup.pooler = Some(pooler);
        self
    }

    /// How long a worker that stops waits for what runs: 10 seconds by default. Then async tasks
    /// are stopped, and given back.
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.setup.settings.grace = grace.min(FOREVER);
        self
    }

    /// How many tasks one statement takes at most: 1,000 by default. A worker takes no more than it
    /// starts at once.
    pub fn batch(mut self, tasks: usize) -> Self {
        self.setup.settings.batch = tasks;
        self
    }

    /// How long dead letters and cancelled tasks are kept: 30 days by default.
    pub fn keep_dead_for(mut self, kept: Duration) -> Self {
        self.setup.kept = kept;
        self
    }

    /// How long the rows of tasks that ended well are kept, with when they began and ended, how many
    /// attempts they took, and by which worker. By default they are deleted at once, which costs
    /// less: a history is as large as what it tells of.
    ///
    /// Their arguments, keys of `unique`, and errors are not kept. Each worker keeps what it runs;
    /// one that keeps nothing leaves the history of others alone. To delete what is left of one,
    /// keep it for no time.
    pub fn keep_done_for(mut self, kept: Duration) -> Self {
        self.setup.done_kept = Some(kept);
        self
    }

    /// After which time a row becomes a dead letter that no program could read: one of a task that
    /// none of them has, or with arguments that are not its task's. 7 days by default. Until then it
    /// waits for the program that can, the version before or after this one.
    pub fn give_up_unknown_after(mut self, after: Duration) -> Self {
        self.setup.give_up_unknown_after = after;
        self
    }

    /// As if the program had the durable tasks of this file only: so that our own tests can have two
    /// versions of a program in one.
    #[doc(hidden)]
    pub fn only_tasks_in(mut self, file: &'static str) -> Self {
        self.setup.tasks_in = file;
        self
    }

    /// How often it asks how much waits in its queues, for the metrics `diesel_deferred_queue_depth`
    /// and `diesel_deferred_queue_oldest_seconds`: every 15 seconds by default, where the program has
    /// a recorder of metrics.
    ///
    /// That is one statement for all of its queues, which counts 10,000 calls of each at most. It is
    /// not asked again before a hundred times as long has passed as it took.
    #[cfg(feature = "metrics")]
    pub fn metrics_interval(mut self, interval: Duration) -> Self {
        self.setup.settings.metrics = interval.clamp(Duration::from_millis(1), FOREVER);
        self
    }

    /// What to do when an attempt has failed. It is called by a thread of the runtime, and must not
    /// block.
    ///
    /// For an attempt whose worker died it is the handler of the worker that takes the task back,
    /// whatever queue that is of. It may be called twice for one attempt, by two workers, where the
    /// first was only cut off from the database, and not at all where a worker dies before it. What
    /// counts is in the row.
    pub fn on_failure(mut self, handler: impl Fn(&FailedAttempt) + Send + Sync + 'static) -> Self {
        self.setup.settings.on_failure = Some(Box::new(handler));
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// A name that two tasks have or had (`was = "…"`), or a task of one of its queues that takes a `#[state]` which it does
    /// not have.
    pub fn build(self) -> Result<Worker<C, L::Service>, WorkerError>
    where
        L: Layer<Handlers>,
    {
        let Self { layers, setup } = self;
        let Setup {
            connect,
            mut queues,
            states,
            lease,
            settings,
            kept,
            done_kept,
            give_up_unknown_after,
            listens,
            pooler,
            tasks_in,
        } = setup;
        let registry = Registry::collect(|task| task.file.ends_with(tasks_in))
            .map_err(|(name, both)| WorkerError::DuplicateTask { name, places: both.map(place) })?;
        if queues.is_empty() {
            let mut names: Vec<&str> = registry.all().iter().map(|task| task.defaults.queue).chain([DEFAULT]).collect();
            names.sort_unstable();
            names.dedup();
            queues = names.into_iter().map(|name| (Arc::from(name), CONCURRENCY)).collect();
        }
        check_states(&registry, &queues, &states)?;
        let lease =
            Lease { worker: TaskId::new(), duration: lease, keeps_done: done_kept.is_some_and(|kept| !kept.is_zero()) };
        let looking = Looking {
            queues: queues.iter().map(|(queue, _)| Arc::clone(queue)).collect(),
            poll: settings.poll,
            known: registry.names().collect(),
            kept,
            done_kept,
            give_up_unknown_after,
            listens,
            pooler,
        };
        let source = Table { connect, lease, looking };
        let service = layers.layer(Handlers { states });
        let work = work(&registry, lease.worker, queues);
        Ok(Worker { engine: Engine::new(source, service, registry, work, lease.duration, settings) })
    }
}

/// What a worker says at its start.
fn work(registry: &Registry, worker: TaskId, queues: Vec<(Arc<str>, usize)>) -> Work {
    let all = registry.all();
    let ours = |queue: &str| queues.iter().any(|(ours, _)| **ours == *queue);
    let elsewhere = all.iter().map(|task| (task.name, task.defaults.queue)).filter(|(_, queue)| !ours(queue)).collect();
    let is_named = |queue: &str| queue == DEFAULT || all.iter().any(|task| task.defaults.queue == queue);
    let unnamed = queues.iter().map(|(queue, _)| Arc::clone(queue)).filter(|queue| !is_named(queue)).collect();
    Work { worker, tasks: all.len(), elsewhere, unnamed, queues }
}

fn place(task: &Registered) -> String {
    format!("{}:{}", task.file, task.line)
}

/// A task that lacks a state is refused before anything runs. Of other queues it may: those are
/// another worker's.
fn check_states(registry: &Registry, queues: &[(Arc<str>, usize)], states: &States) -> Result<(), WorkerError> {
    let states = states.of_attempt(crate::Attempt::example());
    for task in registry.all() {
        let ours = queues.iter().any(|(queue, _)| **queue == *task.defaults.queue);
        if let (true, Some(state)) = (ours, task.states.iter().find(|state| !states.has(state))) {
            let (task, place, has) = (task.name, place(task), states.names());
            return Err(WorkerError::MissingState { task, place, state: state.name(), has });
        }
    }
    Ok(())
}

impl<C, L> fmt::Debug for WorkerBuilder<C, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("queues", &self.setup.queues)
            .field("states", &self.setup.states)
            .finish_non_exhaustive()
    }
}
