//! Runs the durable tasks that are stored, here and now, by the connection of a test.
//!
//! Must not know: the SQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::{Error, QueryResult};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tower_service::Service;

use super::kind::Kind;
use super::lends::{Lending, Lends};
use super::rows::{StoredTask, TaskRows};
use crate::connection::Mode;
use crate::dispatch::States;
use crate::durable::by_hand::{self, Next};
use crate::durable::{Attempt, FailedAttempt, Handlers, Job, Lease, Outcome, Registry, Settlement, TaskId, find, run};

/// Runs the durable tasks that are due, one after the other, until there are none: what a worker would
/// do, by the test's own connection, so that it sees the rows of a transaction that is not committed.
/// Each goes through all that it would go through there: its arguments are read from its row, the
/// attempt is counted, keys keep their order, `Snooze`, `Discard`, timeouts and `backoff` count, and a
/// dead letter is one. Tasks take the states of the connection's dispatcher, and those that are given
/// here.
///
/// No worker may be at work on the same rows. A task that takes a connection itself takes one of its
/// own: see [`TestPool`](super::TestPool) for a pool of one.
///
/// # Examples
/// ```
/// use diesel::prelude::*;
/// use diesel_deferred::testing::drain;
/// use diesel_deferred::{DeferredConnection, assert_enqueued, atomic, deferred_task};
/// use diesel_migrations::MigrationHarness;
///
/// struct Mailer;
///
/// #[deferred_task(durable)]
/// async fn send_receipt(#[state] _mailer: &Mailer, order_id: i32) {
///     println!("order {order_id}");
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// conn.run_pending_migrations(diesel_deferred::migrations())?;
/// conn.begin_test_transaction()?;
/// atomic!(conn, -> QueryResult<()>, {
///     send_receipt(7);
///     Ok(())
/// })?;
/// assert_enqueued!(conn, send_receipt(7));
///
/// let drained = drain(conn).state(Mailer).run();
/// assert_eq!(drained.ran(), 1);
/// assert!(drained.is_clean(), "{drained}");
/// # Ok(())
/// # }
/// ```
pub fn drain<W: TaskRows + Kind>(conn: &mut W) -> Drain<&mut W> {
    Drain::new(conn)
}

/// How durable tasks are run: see [`drain`].
#[must_use = "nothing runs until `run`"]
pub struct Drain<On> {
    on: On,
    settings: Settings,
}

#[derive(Default)]
pub(super) struct Settings {
    states: Vec<Give>,
    next: Next,
    limit: Option<usize>,
    at_a_time: usize,
    once: bool,
}

type Give = Box<dyn FnOnce(&mut States) + Send>;

impl<On> Drain<On> {
    pub(super) fn new(on: On) -> Self {
        Self { on, settings: Settings { at_a_time: 1, ..Settings::default() } }
    }

    pub(super) fn into_parts(self) -> (On, Settings) {
        (self.on, self.settings)
    }

    /// A value that tasks take as `#[state]`.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.settings.states.push(Box::new(move |states| states.insert(state)));
        self
    }

    /// Only what is in this queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.settings.next.queue = Some(queue.into());
        self
    }

    /// Runs so many attempts, and no more.
    pub fn limit(mut self, attempts: usize) -> Self {
        self.settings.limit = Some(attempts);
        self
    }

    /// Runs also what is due later: what was called with a delay, snoozes, and attempts that failed,
    /// again and again until they succeed or are dead letters.
    pub fn with_scheduled(mut self) -> Self {
        self.settings.next.later = true;
        self
    }

    /// Runs what was called before it begins, and leaves what the tasks call themselves.
    pub fn once(mut self) -> Self {
        self.settings.once = true;
        self
    }

    /// Runs so many at a time: 1 by default.
    pub fn at_a_time(mut self, tasks: usize) -> Self {
        self.settings.at_a_time = tasks.max(1);
        self
    }
}

impl<'c, W: TaskRows + Kind> Drain<&'c mut W> {
    /// Runs them; on an asynchronous connection it is awaited.
    ///
    /// # Panics
    /// Where the rows cannot be read or changed, or two tasks have one name.
    pub fn run(self) -> W::Done<'c, Drained> {
        let Self { on, settings } = self;
        W::done(async move {
            let states = on.keeper().states();
            run_all::<W>(&mut Own(on), settings, states).await
        })
    }
}

impl<On> fmt::Debug for Drain<On> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { next, limit, at_a_time, once, states: _ } = &self.settings;
        f.debug_struct("Drain")
            .field("next", next)
            .field("limit", limit)
            .field("at_a_time", at_a_time)
            .field("once", once)
            .finish_non_exhaustive()
    }
}

/// Lends the connection for a moment each time: while tasks run nobody has it.
pub(super) trait Lender<W>: Send {
    fn lend<'l>(&'l mut self) -> Lending<'l, W>;
}

/// The test's own one.
struct Own<'c, W>(&'c mut W);

impl<W: Send> Lender<W> for Own<'_, W> {
    fn lend<'l>(&'l mut self) -> Lending<'l, W> {
        let lent: Box<dyn Lends<W> + 'l> = Box::new(&mut *self.0);
        std::future::ready(Ok(lent)).boxed()
    }
}

/// What was run.
#[derive(Debug, Clone, Default)]
pub struct Drained {
    ran: usize,
    failures: Vec<FailedAttempt>,
    snoozed: usize,
    unknown: Vec<String>,
}

impl Drained {
    /// How many attempts there were, failed ones included.
    pub fn ran(&self) -> usize {
        self.ran
    }

    /// The attempts that failed, in the order in which they ended.
    pub fn failures(&self) -> &[FailedAttempt] {
        &self.failures
    }

    /// How many attempts asked to be run again later.
    pub fn snoozed(&self) -> usize {
        self.snoozed
    }

    /// Why rows were left alone: the test's program does not have their task, or cannot read their
    /// arguments.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Whether every task was found and none failed.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.unknown.is_empty()
    }

    fn note(&mut self, row: &StoredTask, outcome: &Outcome) {
        let mut failed = |is_dead, error: &str| {
            let attempt = u32::try_from(row.attempts).unwrap_or(1);
            let (task, error) = (row.task.clone(), error.to_owned());
            self.failures.push(FailedAttempt { id: row.id, task, attempt, is_dead, error });
        };
        match outcome {
            Outcome::Retry { error, .. } => failed(false, error),
            Outcome::Dead(error) => failed(true, error),
            Outcome::Snoozed(_) => self.snoozed += 1,
            Outcome::Refused { error, .. } => self.unknown.push(error.clone()),
            Outcome::Done | Outcome::Cancelled | Outcome::Released { .. } => {}
        }
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ran, failures, snoozed, unknown } = self;
        write!(f, "{ran} attempts ran, {} failed, {snoozed} snoozed", failures.len())?;
        failures.iter().try_for_each(|failure| write!(f, "\n  failed: {failure}"))?;
        unknown.iter().try_for_each(|why| write!(f, "\n  left alone: {why}"))
    }
}

/// How long nobody else takes what is run: nobody else is there.
const LEASE: Duration = Duration::from_secs(60 * 60);

pub(super) async fn run_all<W: TaskRows + Kind>(
    on: &mut impl Lender<W>,
    settings: Settings,
    mut states: States,
) -> Drained {
    let Settings { states: given, mut next, limit, at_a_time, once } = settings;
    given.into_iter().for_each(|give| give(&mut states));
    let registry = Registry::collect(|_| true).unwrap_or_else(|(name, places)| {
        let [one, other] = places.map(|task| format!("{}:{}", task.file, task.line));
        panic!("two durable tasks have the name `{name}`: at {one} and {other}")
    });
    let handlers = Handlers { states };
    let lease = Lease { worker: TaskId::new(), duration: LEASE, keeps_done: false };
    next.up_to = once.then(TaskId::new);
    let mut drained = Drained::default();
    loop {
        let left = limit.map_or(at_a_time, |limit| at_a_time.min(limit - drained.ran));
        let rows = if left == 0 { Vec::new() } else { begin(on, &lease, &next, left).await };
        if rows.is_empty() {
            return drained;
        }
        let attempts = rows.iter().map(|row| attempt::<W>(&registry, &handlers, row));
        let outcomes = join_all(attempts).await;
        for (row, outcome) in rows.iter().zip(outcomes) {
            drained.note(row, &outcome);
            match &outcome {
                Outcome::Refused { .. } => next.but.push(row.id),
                _ => drained.ran += 1,
            }
            end(on, &lease, row, outcome).await;
        }
    }
}

/// Takes the rows that are next.
async fn begin<W: TaskRows + Kind>(
    on: &mut impl Lender<W>,
    lease: &Lease,
    next: &Next,
    limit: usize,
) -> Vec<StoredTask> {
    let mut lent = lend(on).await;
    let conn = lent.conn();
    let mut rows: Vec<StoredTask> =
        done(conn.load(by_hand::next(next, i64::try_from(limit).unwrap_or(i64::MAX))).await);
    // Of those of one key that are due later several may be next.
    let mut keys = std::collections::HashSet::new();
    rows.retain(|row| row.key.as_ref().is_none_or(|key| keys.insert(key.clone())));
    let mut taken = Vec::with_capacity(rows.len());
    for row in rows {
        done(conn.change(by_hand::take(lease, row.id)).await);
        taken.extend(done(conn.load(by_hand::one(row.id)).await));
    }
    taken
}

/// Tells how an attempt ended.
async fn end<W: TaskRows + Kind>(on: &mut impl Lender<W>, lease: &Lease, row: &StoredTask, outcome: Outcome) {
    let mut lent = lend(on).await;
    let conn = lent.conn();
    let settlement = Settlement { id: row.id, started_at_ms: row.started_at_ms, key: row.key.clone(), outcome };
    for statement in by_hand::end(lease, &settlement, W::NOW_MS) {
        done(conn.change(statement.into_owned()).await);
    }
    if let Some(key) = &row.key {
        for next in done(conn.load(by_hand::next_of_key(key)).await) {
            done(conn.change(by_hand::ready(next.id)).await);
        }
    }
}

async fn lend<'l, W>(on: &'l mut impl Lender<W>) -> Box<dyn Lends<W> + 'l> {
    on.lend().await.unwrap_or_else(|error| panic!("the pool has no connection for the rows of durable tasks: {error}"))
}

fn done<T>(result: QueryResult<T>) -> T {
    result.unwrap_or_else(|error: Error| panic!("the rows of durable tasks cannot be read or changed: {error}"))
}

/// Runs one attempt.
async fn attempt<W: Kind>(registry: &Registry, handlers: &Handlers, row: &StoredTask) -> Outcome {
    let task = match find(registry, &row.task) {
        Ok(task) => task,
        Err(error) => return Outcome::Refused { after: Duration::ZERO, error },
    };
    let attempt = Attempt {
        id: row.id,
        number: u32::try_from(row.attempts).unwrap_or(1),
        max: u32::try_from(row.max_attempts).unwrap_or(1),
        queue: Arc::from(&*row.queue),
    };
    let job = Job::new(attempt, task, Arc::from(&*row.payload));
    let mut handlers = handlers.clone();
    let running = async move {
        // On the runtime that it runs on.
        let mut call = std::pin::pin!(handlers.call(job.clone()));
        run(&job, call.as_mut()).await
    };
    W::to_its_end(running.boxed())
        .await
        .unwrap_or_else(|panic| Outcome::Retry { after: Duration::ZERO, error: format!("panicked: {panic}") })
}

/// What becomes of a connection's tasks from now on: see [`Mode`]. It is of this connection alone.
///
/// # Examples
/// ```
/// use diesel::prelude::*;
/// use diesel_deferred::testing::{Mode, set_mode, take_held};
/// use diesel_deferred::{DeferredConnection, assert_deferred, atomic, deferred_task};
///
/// #[deferred_task]
/// async fn send_welcome(user_id: i32) {
///     println!("user {user_id}");
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// let sign_up = |conn: &mut DeferredConnection<SqliteConnection>, id| {
///     atomic!(conn, -> QueryResult<()>, {
///         send_welcome(id);
///         Ok(())
///     })
/// };
///
/// set_mode(conn, Mode::Manual);
/// sign_up(conn, 7)?; // no runtime is needed: nothing runs
/// assert_deferred!(conn, send_welcome(7));
/// assert_eq!(take_held(conn).len(), 1);
///
/// set_mode(conn, Mode::Inline);
/// sign_up(conn, 8)?; // has run to its end
/// assert_eq!(conn.last_report().ran(), 1);
/// # Ok(())
/// # }
/// ```
pub fn set_mode<W: TaskRows + Kind>(conn: &mut W, mode: Mode) {
    fn drain_inline<W: TaskRows + Kind>(conn: &mut W) -> BoxFuture<'_, ()> {
        async move {
            let states = conn.keeper().states();
            let drained = run_all::<W>(&mut Own(&mut *conn), Drain::new(()).settings, states).await;
            conn.keeper().note_drained(&drained.failures);
        }
        .boxed()
    }

    conn.keeper().held().set_mode(mode, Some(drain_inline::<W>));
}
