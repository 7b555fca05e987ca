//! A connection to the model, by a network on which things go wrong: a statement does not arrive,
//! hangs, is slow, or its answer is lost.
//!
//! Must not know: what a worker does with it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::SqliteConnection;
use diesel::connection::{CacheSize, Instrumentation};
use diesel::query_builder::{AsQuery, QueryFragment, QueryId};
use diesel::result::{ConnectionError, DatabaseErrorKind, Error, QueryResult};
use diesel::sqlite::Sqlite;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AnsiTransactionManager, AsyncConnection, AsyncConnectionCore, SimpleAsyncConnection};

use futures_util::future::{Either, select};
use tokio::time::Instant;

use super::world::{Shared, World};
use crate::dispatch::pause;
use crate::durable::id::TaskId;
use crate::durable::worker::model::calls::number;
use crate::durable::worker::source::floor::Start;
use crate::durable::worker::source::statements::{
    Ended, Exchange, Failed, Look, Manner, Mine, Past, RescuedRow, Since, Taken, Unread,
};
use crate::durable::worker::source::{
    Claim, Hint, Lease, Opening, Settlement, Statements, Unknown, Waiting, WorkerConnection,
};

/// A connection of a worker's.
pub(super) struct ModelConnection {
    shared: Shared,
    worker: TaskId,
    /// The worker's name in the log.
    name: String,
    is_lost: AtomicBool,
}

/// What becomes of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It never arrives.
    Fails,
    AnswerIsLost,
    HangsUndone,
    HangsDone,
    /// The connection is lost at once, and the server does it later, but before it would give up.
    DoneLate,
}

/// How long a statement is on its way, at most, and its answer.
const NETWORK: Duration = Duration::from_millis(3);

/// How long the server goes on with a statement at most: a worker waits longer.
const SERVER_LIMIT: Duration = Duration::from_secs(4);

/// And where it is slow.
const SLOW: Duration = Duration::from_secs(8);

impl World {
    /// What becomes of the next statement, and how long it and its answer are on their way.
    fn fate(&mut self) -> (Fate, Duration, Duration) {
        let (mut there, mut back) = (self.up_to(NETWORK), self.up_to(NETWORK));
        if self.calm {
            return (Fate::Answered, there, back);
        }
        if self.is_away {
            return (Fate::Fails, there, back);
        }
        if !self.chance(self.trouble) {
            return (Fate::Answered, there, back);
        }
        let fate = match self.rng.u32(0..7) {
            0 => Fate::Fails,
            1 => Fate::AnswerIsLost,
            2 => Fate::HangsUndone,
            3 => Fate::HangsDone,
            4 => Fate::DoneLate,
            _ => Fate::Answered,
        };
        match self.rng.u32(0..4) {
            0 => there = self.up_to(SLOW),
            1 => back = self.up_to(SLOW),
            _ => {}
        }
        if fate == Fate::DoneLate {
            there = self.up_to(SERVER_LIMIT);
        }
        (fate, there, back)
    }
}

impl ModelConnection {
    /// Opens one.
    pub(super) async fn open(shared: Shared, worker: TaskId, name: String) -> Result<Self, ConnectionError> {
        let conn = Self { shared, worker, name, is_lost: AtomicBool::new(false) };
        match conn.send("opens a connection", |_| ()).await {
            Ok(()) => Ok(conn),
            Err(error) => Err(ConnectionError::BadConnection(error.to_string())),
        }
    }

    /// Sends a statement.
    async fn send<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> QueryResult<T> {
        let lost = || Err(Error::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new("it is lost".to_owned())));
        if self.is_lost.load(Ordering::Relaxed) {
            return lost();
        }
        let (fate, there, back) = {
            let world = &mut *self.shared.lock();
            let (fate, there, back) = world.fate();
            if fate != Fate::Answered || there > NETWORK || back > NETWORK {
                world.witness.fault(self.worker);
                world.note(format_args!("{}: {what}: {fate:?}, {there:?} there, {back:?} back", self.name));
            }
            (fate, there, back)
        };
        self.is_lost.store(fate != Fate::Answered, Ordering::Relaxed);
        if fate == Fate::DoneLate {
            let shared = self.shared.clone();
            tokio::spawn(async move {
                pause(there).await;
                work(&mut shared.lock());
            });
            pause(back).await;
            return lost();
        }
        pause(there).await;
        let answer = match fate {
            Fate::Answered | Fate::AnswerIsLost | Fate::HangsDone => Some(work(&mut self.shared.lock())),
            Fate::DoneLate | Fate::Fails | Fate::HangsUndone => None,
        };
        pause(back).await;
        match (fate, answer) {
            (Fate::Answered, Some(answer)) => Ok(answer),
            (Fate::HangsUndone | Fate::HangsDone, _) => std::future::pending().await,
            _ => lost(),
        }
    }
}

/// Identities, as a log has them.
fn numbers(ids: impl IntoIterator<Item = TaskId>) -> String {
    ids.into_iter().map(|id| number(id).to_string()).collect::<Vec<_>>().join(" ")
}

async fn settle(conn: &ModelConnection, lease: Lease, settled: Vec<Settlement>) -> QueryResult<()> {
    let name = conn.name.clone();
    let settle = move |world: &mut World| {
        for settlement in &settled {
            let mine = world.change(|table| table.settle(&lease, settlement));
            let late = if mine { "" } else { ", too late" };
            let (id, outcome) = (number(settlement.id), &settlement.outcome);
            world.note(format_args!("{name}: {id} {outcome:?}{late}"));
        }
    };
    conn.send("settles", settle).await
}

async fn take(conn: &ModelConnection, lease: Lease, claim: Claim) -> QueryResult<Taken> {
    let name = conn.name.clone();
    let take = move |world: &mut World| {
        let mut rows = Vec::new();
        world.change_some(|table| {
            rows = table.claim(&lease, &claim);
            rows.len()
        });
        if !rows.is_empty() {
            world.note(format_args!("{name}: claims {}", numbers(rows.iter().map(|row| row.id))));
        }
        let more = world.table().can_take(&claim.queue);
        Taken { rows, more, ..Taken::default() }
    };
    conn.send("claims", take).await
}

/// The table on the model.
pub(super) struct OnModel;

impl Statements<ModelConnection> for OnModel {
    type Session = ModelConnection;

    async fn open(conn: ModelConnection, _: &Opening) -> QueryResult<ModelConnection> {
        conn.send("prepares", |_| ()).await?;
        Ok(conn)
    }

    async fn exchange(
        conn: &mut ModelConnection,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        _: Manner,
    ) -> QueryResult<Exchange> {
        let begin = Instant::now();
        let readied = settled.iter().any(|settlement| settlement.key.is_some());
        let mut exchange = Exchange { prepared: true, readied, ..Exchange::default() };
        let mut claims = claims.iter().map(|(claim, _)| claim);
        if !settled.is_empty() {
            // Where they are sent at once, a claim may succeed although the ends are not told.
            let claim = if conn.shared.lock().chance(30) { claims.next() } else { None };
            if let Some(claim) = claim {
                let taken = take(conn, *lease, claim.clone()).await?;
                exchange.claimed(Ok(taken), begin);
            }
            match settle(conn, *lease, settled.to_vec()).await {
                Ok(()) => {}
                Err(error) if exchange.taken.iter().all(|taken| taken.rows.is_empty()) => return Err(error),
                Err(error) => {
                    conn.shared.lock().note(format_args!("{}: claims without telling", conn.name));
                    exchange.untold = settled.iter().map(|settlement| settlement.id).collect();
                    exchange.failed = Some(Failed { error, claim: None, took: begin.elapsed() });
                    return Ok(exchange);
                }
            }
        }
        for claim in claims {
            let begin = Instant::now();
            // On some databases a claim is one statement, on others several.
            let first = if conn.shared.lock().chance(50) { claim.limit } else { claim.limit.min(1) };
            let mut all = Taken::default();
            let taken = async {
                all = take(conn, *lease, Claim { limit: first, ..claim.clone() }).await?;
                if first < claim.limit && !all.rows.is_empty() {
                    let rest = take(conn, *lease, Claim { limit: claim.limit - first, ..claim.clone() }).await?;
                    all.rows.extend(rest.rows);
                    all.more = rest.more;
                }
                Ok(())
            };
            let error = taken.await.err();
            if error.is_some() && !all.rows.is_empty() {
                conn.shared.lock().note(format_args!("{}: claims some", conn.name));
            }
            if !exchange.claimed_some(all, error, begin) {
                break;
            }
        }
        Ok(exchange)
    }

    async fn mine(conn: &mut ModelConnection, lease: &Lease) -> QueryResult<Vec<Mine>> {
        let worker = lease.worker;
        conn.send("looks what it has", move |world| world.table().mine(worker)).await
    }

    async fn park(conn: &mut ModelConnection, unknown: &Unknown) -> QueryResult<usize> {
        let unknown = unknown.clone();
        conn.send("parks", move |world| world.change_some(|table| table.park(&unknown))).await
    }

    async fn renew(conn: &mut ModelConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
        let (lease, tasks) = (*lease, tasks.to_vec());
        conn.send("renews", move |world| world.table().renew(&lease, &tasks)).await
    }

    async fn look(conn: &mut ModelConnection, from: &Since) -> QueryResult<Look> {
        let from = from.clone();
        conn.send("looks", move |world| world.table().look(&from)).await
    }

    async fn look_back(conn: &mut ModelConnection) -> QueryResult<Past> {
        conn.send("looks back", |world| world.table().look_back()).await
    }

    async fn has_due(conn: &mut ModelConnection, queues: &[Arc<str>]) -> QueryResult<bool> {
        let queues = queues.to_vec();
        conn.send("asks what is due", move |world| world.table().has_due(&queues)).await
    }

    async fn waiting(conn: &mut ModelConnection, queues: &[Arc<str>]) -> QueryResult<Vec<Waiting>> {
        let queues = queues.to_vec();
        conn.send("asks how much waits", move |world| world.table().waiting(&queues)).await
    }

    async fn start_anew(conn: &mut ModelConnection, lease: &Lease) -> QueryResult<usize> {
        let lease = *lease;
        conn.send("starts anew", move |world| world.change_some(|table| table.start_anew(&lease))).await
    }

    async fn promote(conn: &mut ModelConnection) -> QueryResult<usize> {
        conn.send("promotes", |world| world.change_some(|table| table.promote())).await
    }

    async fn rescue(conn: &mut ModelConnection) -> QueryResult<Vec<RescuedRow>> {
        let name = conn.name.clone();
        let rescue = move |world: &mut World| {
            let rescued = world.change(|table| table.rescue());
            world.note(format_args!("{name}: rescues {}", numbers(rescued.iter().map(|row| row.0))));
            rescued
        };
        conn.send("rescues", rescue).await
    }

    async fn prune(conn: &mut ModelConnection, ended: Ended, kept: Duration) -> QueryResult<usize> {
        conn.send("prunes", move |world| world.change_some(|table| table.prune(ended, kept))).await
    }

    async fn give_up_refused(conn: &mut ModelConnection, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        conn.send("gives up", move |world| world.change(|table| table.give_up_refused(after))).await
    }

    async fn adopt(conn: &mut ModelConnection, task: &str, unread: Unread) -> QueryResult<usize> {
        let task = task.to_owned();
        conn.send("adopts", move |world| world.change_some(|table| table.adopt(&task, unread))).await
    }

    async fn free_keys(conn: &mut ModelConnection, rows: &[(TaskId, String)]) -> QueryResult<usize> {
        let (freed, rows) = (rows.len(), rows.to_vec());
        conn.send("frees keys", move |world| world.change(|table| table.free_keys(&rows))).await?;
        Ok(freed)
    }

    async fn next_unknown(conn: &mut ModelConnection, behind: &str) -> QueryResult<Option<(String, bool)>> {
        let behind = behind.to_owned();
        conn.send("looks for unknown", move |world| world.table().next_unknown(&behind)).await
    }

    async fn freed(conn: &mut ModelConnection) -> QueryResult<Vec<(TaskId, String)>> {
        conn.send("looks for freed keys", |world| world.table().freed()).await
    }

    async fn hinted(conn: &mut ModelConnection) -> Hint {
        let lasts = {
            let world = &mut *conn.shared.lock();
            let is_lost = !world.calm && world.chance(world.trouble);
            is_lost.then(|| world.up_to(SLOW))
        };
        let lost = async {
            match lasts {
                Some(lasts) => pause(lasts).await,
                None => std::future::pending().await,
            }
        };
        match select(pin!(conn.shared.hint.notified()), pin!(lost)).await {
            Either::Left(_) => Hint::Called,
            Either::Right(_) => Hint::Lost,
        }
    }
}

impl WorkerConnection for ModelConnection {
    type Statements = OnModel;
}

impl fmt::Debug for OnModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnModel")
    }
}

/// Which is said of what a connection must have, and a worker asks of none.
const NOT_ASKED_FOR: &str = "a worker has its statements";

type Real = SyncConnectionWrapper<SqliteConnection>;

impl SimpleAsyncConnection for ModelConnection {
    /// By which a worker finds out whether it has the rights that it needs.
    async fn batch_execute(&mut self, _: &str) -> QueryResult<()> {
        self.send("asks for a right", |_| ()).await
    }
}

impl AsyncConnectionCore for ModelConnection {
    type ExecuteFuture<'conn, 'query> = <Real as AsyncConnectionCore>::ExecuteFuture<'conn, 'query>;
    type LoadFuture<'conn, 'query> = <Real as AsyncConnectionCore>::LoadFuture<'conn, 'query>;
    type Stream<'conn, 'query> = <Real as AsyncConnectionCore>::Stream<'conn, 'query>;
    type Row<'conn, 'query> = <Real as AsyncConnectionCore>::Row<'conn, 'query>;
    type Backend = Sqlite;

    fn load<'conn, 'query, T>(&'conn mut self, _: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Sqlite> + QueryId + 'query,
    {
        unreachable!("{NOT_ASKED_FOR}")
    }

    fn execute_returning_count<'conn, 'query, T>(&'conn mut self, _: T) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Sqlite> + QueryId + 'query,
    {
        unreachable!("{NOT_ASKED_FOR}")
    }
}

impl AsyncConnection for ModelConnection {
    type TransactionManager = AnsiTransactionManager;

    async fn establish(_: &str) -> Result<Self, ConnectionError> {
        unreachable!("{NOT_ASKED_FOR}")
    }

    fn transaction_state(&mut self) -> &mut AnsiTransactionManager {
        unreachable!("{NOT_ASKED_FOR}")
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        unreachable!("{NOT_ASKED_FOR}")
    }

    fn set_instrumentation(&mut self, _: impl Instrumentation) {
        unreachable!("{NOT_ASKED_FOR}")
    }

    fn set_prepared_statement_cache_size(&mut self, _: CacheSize) {
        unreachable!("{NOT_ASKED_FOR}")
    }
}
