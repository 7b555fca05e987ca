//! Runs the durable tasks that are stored, here and now, by the connection of a test.
//!
//! Must not know: the SQL.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::ready;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::QueryResult;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tower_service::Service;

use super::kind::Kind;
use super::lends::{Lending, Lends};
use super::rows::{StoredTask, TaskRows, no_rows};
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
/// It runs what is in any queue, where a worker has its own ones: a misspelt `.queue("…")` is found by
/// `assert_enqueued!`, and not here. No worker may be at work on the same rows. A task that takes a connection itself takes one of its
/// own: see [`TestPool`](super::TestPool) for a pool of one. On a synchronous connection tasks run on a
/// runtime of their own, which ends with them, while this thread waits: they cannot wait for what the
/// test itself has spawned. It is meant for the rows of a test: each is looked for among all of them.
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
    /// 1 at least.
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
    #[track_caller]
    pub fn run(self) -> W::Done<'c, Drained> {
        let Self { on, settings } = self;
        let caller = Location::caller();
        W::done(async move {
            let states = on.keeper().states();
            run_all::<W>(caller, &mut Own(on), settings, states).await
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
        ready(Ok(lent)).boxed()
    }
}

/// What was run.
#[derive(Debug, Clone, Default)]
#[must_use = "what failed is in it: `assert!(drained.is_clean(), \"{drained}\")`"]
pub struct Drained {
    ran: usize,
    failures: Vec<FailedAttempt>,
    snoozed: usize,
    unknown: Vec<String>,
    /// All that ended badly, by its call.
    pub(super) bad: Vec<(TaskId, String)>,
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
        if let Outcome::Retry { error, .. } | Outcome::Dead(error) | Outcome::Refused { error, .. } = outcome {
            self.bad.push((row.id, error.clone()));
        }
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
        let Self { ran, failures, snoozed, unknown, bad: _ } = self;
        write!(f, "{ran} attempts ran, {} failed, {snoozed} snoozed", failures.len())?;
        failures.iter().try_for_each(|failure| write!(f, "\n  failed: {failure}"))?;
        unknown.iter().try_for_each(|why| write!(f, "\n  left alone: {why}"))
    }
}

/// How long nobody else takes what is run: nobody else is there.
const LEASE: Duration = Duration::from_secs(60 * 60);

/// How often a task may ask to be run again, where nothing else ends it.
const MOST_SNOOZES: u32 = 100;

pub(super) async fn run_all<W: TaskRows + Kind>(
    caller: &Location<'_>,
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
    let mut snoozes: HashMap<TaskId, u32> = HashMap::new();
    let mut table = Table { caller, on, lease, rows: PhantomData };
    table.rescue().await;
    loop {
        let left = limit.map_or(at_a_time, |limit| at_a_time.min(limit - drained.ran));
        let rows = if left == 0 { Vec::new() } else { table.begin(&next, left).await };
        if rows.is_empty() {
            return drained;
        }
        let attempts: Vec<_> = rows.iter().map(|row| attempt(&registry, &handlers, row)).collect();
        let outcomes = W::to_its_end(join_all(attempts).boxed()).await;
        let outcomes = outcomes.unwrap_or_else(|why| panic!("at {caller}: durable tasks could not be run: {why}"));
        for (row, outcome) in rows.iter().zip(outcomes) {
            drained.note(row, &outcome);
            let mut times = 0;
            match &outcome {
                Outcome::Refused { .. } => next.but.push(row.id),
                Outcome::Snoozed(_) => times = *snoozes.entry(row.id).and_modify(|times| *times += 1).or_insert(1),
                _ => {}
            }
            drained.ran += usize::from(!matches!(outcome, Outcome::Refused { .. }));
            table.end(row, outcome).await;
            let task = &row.task;
            assert!(
                limit.is_some() || times < MOST_SNOOZES,
                "at {caller}: `{task}` has asked {times} times to be run again, which may go on for ever: write `.limit(n)`"
            );
        }
    }
}

/// The rows, for whoever runs what they say.
struct Table<'t, W, On> {
    /// Where the test asks for it.
    caller: &'t Location<'t>,
    on: &'t mut On,
    lease: Lease,
    rows: PhantomData<fn() -> W>,
}

impl<W: TaskRows + Kind, On: Lender<W>> Table<'_, W, On> {
    /// Takes the rows that are next.
    async fn begin(&mut self, next: &Next, limit: usize) -> Vec<StoredTask> {
        let Self { caller, lease, .. } = *self;
        let mut lent = self.lend().await;
        let conn = lent.conn();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows: Vec<StoredTask> = done(caller, conn.load(by_hand::next(next, limit)).await);
        // Of those of one key that are due later several may be next.
        let mut keys = HashSet::new();
        rows.retain(|row| row.key.as_ref().is_none_or(|key| keys.insert(key.clone())));
        let mut taken = Vec::with_capacity(rows.len());
        for row in rows {
            done(caller, conn.change(by_hand::take(&lease, row.id)).await);
            taken.extend(done(caller, conn.load(by_hand::one(row.id)).await));
        }
        taken
    }

    /// Tells how an attempt ended.
    async fn end(&mut self, row: &StoredTask, outcome: Outcome) {
        let Self { caller, lease, .. } = *self;
        let mut lent = self.lend().await;
        let conn = lent.conn();
        let settlement =
            Settlement { id: row.id, started_at_ms: row.started_at_ms, key: row.key.clone(), unstarted: 0, outcome };
        for statement in by_hand::end(&lease, &settlement, W::NOW_MS) {
            done(caller, conn.change(statement.into_owned()).await);
        }
        if let Some(key) = &row.key {
            for next in done(caller, conn.load(by_hand::next_of_key(key)).await) {
                done(caller, conn.change(by_hand::ready(next.id)).await);
            }
        }
    }

    /// Takes back what a worker left that died.
    async fn rescue(&mut self) {
        let caller = self.caller;
        let mut lent = self.lend().await;
        done(caller, lent.conn().change(by_hand::expired(W::NOW_MS)).await);
    }

    async fn lend(&mut self) -> Box<dyn Lends<W> + '_> {
        let caller = self.caller;
        self.on.lend().await.unwrap_or_else(|error| {
            panic!("at {caller}: there is no connection for the rows of durable tasks ({error}): somebody holds it")
        })
    }
}

fn done<T>(caller: &Location<'_>, result: QueryResult<T>) -> T {
    result.unwrap_or_else(|error| no_rows(caller, &error))
}

/// One attempt, which is run by whoever polls it.
fn attempt(registry: &Registry, handlers: &Handlers, row: &StoredTask) -> BoxFuture<'static, Outcome> {
    let task = match find(registry, &row.task) {
        Ok(task) => task,
        Err(error) => return ready(Outcome::Refused { after: Duration::ZERO, error }).boxed(),
    };
    let attempt = Attempt {
        id: row.id,
        number: u32::try_from(row.attempts).unwrap_or(1),
        max: u32::try_from(row.max_attempts).unwrap_or(1),
        queue: Arc::from(&*row.queue),
    };
    let job = Job::new(attempt, task, Arc::from(&*row.payload));
    let mut handlers = handlers.clone();
    async move {
        // On the runtime that it runs on.
        let mut call = std::pin::pin!(handlers.call(job.clone()));
        run(&job, call.as_mut()).await
    }
    .boxed()
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
            let calls = conn.keeper().held().take_to_drain();
            let mut settings = Drain::new(()).settings;
            settings.next.only = Some(calls.iter().map(|call| call.id).collect());
            let drained = run_all::<W>(Location::caller(), &mut Own(&mut *conn), settings, states).await;
            conn.keeper().note_drained(&calls, drained.ran, &drained.bad);
        }
        .boxed()
    }

    conn.keeper().held().set_mode(mode, Some(drain_inline::<W>));
}
