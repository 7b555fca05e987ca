//! The table `deferred_tasks` as a source, with a connection that is opened again when it is lost.
//!
//! Must not know: the SQL of any database.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::ConnectionResult;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use futures_util::future::BoxFuture;

use super::statements::{BATCH, ClaimedRow, Look};
use super::{Claim, Claimed, Outlook, Renewed, Settlement, Source, SourceError};
use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;

/// A connection that a worker can take tasks by: diesel-async's `AsyncPgConnection`, `AsyncMysqlConnection`, and
/// `SyncConnectionWrapper<SqliteConnection>`.
#[diagnostic::on_unimplemented(
    message = "a worker cannot take tasks by a `{Self}`",
    label = "expected one of diesel-async's own connections",
    note = "write `AsyncPgConnection`, `AsyncMysqlConnection` or `SyncConnectionWrapper<SqliteConnection>`, and turn on the feature \
            `async-postgres`, `async-mysql` or `async-sqlite` of diesel-deferred"
)]
#[allow(private_interfaces, private_bounds, reason = "nobody else implements it")]
pub trait WorkerConnection: Sized + Send + 'static {
    /// Opens one.
    #[doc(hidden)]
    fn open(url: &str) -> impl Future<Output = ConnectionResult<Self>> + Send;

    /// Makes a new one ready for a worker.
    #[doc(hidden)]
    fn prepare(&mut self) -> impl Future<Output = QueryResult<()>> + Send;

    /// See [`Source::exchange`].
    #[doc(hidden)]
    fn exchange(
        &mut self,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Floor>)],
    ) -> impl Future<Output = QueryResult<Vec<Vec<ClaimedRow>>>> + Send;

    /// See [`Source::renew`].
    #[doc(hidden)]
    fn renew(
        &mut self,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> impl Future<Output = QueryResult<Vec<(TaskId, bool)>>> + Send;

    /// What there is, by one statement.
    #[doc(hidden)]
    fn look(&mut self, queues: &[Arc<str>]) -> impl Future<Output = QueryResult<Look>> + Send;

    /// Scheduled tasks that are due become ready; says how many.
    #[doc(hidden)]
    fn promote(&mut self) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Tasks whose lease has ended go back, or are given up; says how many.
    #[doc(hidden)]
    fn rescue(&mut self) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Deletes what ended so long ago; says how many.
    #[doc(hidden)]
    fn prune(&mut self, kept: Duration) -> impl Future<Output = QueryResult<usize>> + Send;

    /// See [`Source::hinted`].
    #[doc(hidden)]
    fn hinted(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Who takes tasks, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    /// The worker. A new one each time that it starts: names would make a worker that died look alive when it is back.
    pub(crate) worker: TaskId,
    pub(crate) duration: Duration,
}

impl Lease {
    pub(super) fn ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX / 1_000)
    }
}

/// Where the last claim of a queue ended. To begin there spares PostgreSQL the dead rows before it, which stay for as long as a
/// long transaction is open somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    pub(super) priority: i16,
    pub(super) run_at_ms: i64,
    pub(super) id: TaskId,
}

/// How long a floor is used: what commits late, or is tried again, may lie below it.
const FLOOR_LASTS: Duration = Duration::from_millis(500);

/// How often what is kept no longer is looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// How one is opened.
pub(crate) type Connect<C> = Box<dyn Fn() -> BoxFuture<'static, ConnectionResult<C>> + Send + Sync>;

/// The table on one database.
pub(crate) struct TableSource<C> {
    connect: Connect<C>,
    conn: Option<C>,
    lease: Lease,
    queues: Vec<Arc<str>>,
    floors: Vec<Option<(Floor, Instant)>>,
    kept: Duration,
    pruned: Option<Instant>,
}

impl<C: WorkerConnection> TableSource<C> {
    pub(crate) fn new(connect: Connect<C>, lease: Lease, queues: Vec<Arc<str>>, kept: Duration) -> Self {
        let floors = vec![None; queues.len()];
        Self { connect, conn: None, lease, queues, floors, kept, pruned: None }
    }

    /// The connection: a new one where there is none.
    async fn connected(&mut self) -> Result<&mut C, SourceError> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                let mut conn = (self.connect)().await.map_err(|error| SourceError::Passing(Box::new(error)))?;
                conn.prepare().await.map_err(|error| SourceError::Passing(Box::new(error)))?;
                conn
            }
        };
        Ok(self.conn.insert(conn))
    }

    /// What an error of a statement means.
    fn failed(&mut self, error: Error) -> SourceError {
        if !is_about_others(&error) {
            self.conn = None;
        }
        match &error {
            Error::DatabaseError(_, about) if says_missing(about.message()) => SourceError::NoTables(error),
            _ => SourceError::Passing(Box::new(error)),
        }
    }
}

/// Whether it was another worker that was in the way, on a connection that works.
fn is_about_others(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::SerializationFailure, _)
    )
}

/// Each database has its own words for a table that is not there.
fn says_missing(message: &str) -> bool {
    let missing = ["does not exist", "doesn't exist", "no such table"];
    message.contains("deferred_") && missing.iter().any(|words| message.contains(words))
}

impl<C: WorkerConnection> Source for TableSource<C> {
    async fn exchange(&mut self, settled: &[Settlement], claims: &[Claim]) -> Result<Vec<Claimed>, SourceError> {
        let now = Instant::now();
        let claims: Vec<_> = claims
            .iter()
            .map(|claim| {
                let floor = self.floors[claim.lane].filter(|(_, since)| now.duration_since(*since) < FLOOR_LASTS);
                (claim.clone(), floor.map(|(floor, _)| floor))
            })
            .collect();
        let lease = self.lease;
        let conn = self.connected().await?;
        let mut rows = conn.exchange(&lease, settled, &claims).await;
        if rows.as_ref().is_err_and(is_about_others) {
            // As on PostgreSQL, where all of it is one transaction.
            rows = conn.exchange(&lease, settled, &claims).await;
        }
        let rows = rows.map_err(|error| self.failed(error))?;
        let mut claimed = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        for ((Claim { lane, limit, .. }, floor), mut rows) in claims.into_iter().zip(rows) {
            // Databases return them in any order.
            rows.sort_unstable_by_key(|&(id, _, _, _, _, priority, run_at_ms)| (priority, run_at_ms, id));
            let full = rows.len() >= limit as usize;
            self.floors[lane] = match (rows.last(), self.floors[lane]) {
                // Behind the last one there is more, or it ended for want of rows: then begin anew.
                (Some(&(id, .., priority, run_at_ms)), since) if full => {
                    let since = if floor.is_some() { since.map_or(now, |(_, since)| since) } else { now };
                    Some((Floor { priority, run_at_ms, id }, since))
                }
                _ => None,
            };
            claimed.extend(rows.into_iter().map(|(id, task, payload, attempt, max_attempts, ..)| Claimed {
                lane,
                id,
                task,
                payload,
                attempt,
                max_attempts,
            }));
        }
        Ok(claimed)
    }

    async fn renew(&mut self, tasks: &[TaskId]) -> Result<Vec<Renewed>, SourceError> {
        let lease = self.lease;
        let rows = self.connected().await?.renew(&lease, tasks).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        Ok(rows.into_iter().map(|(id, cancel)| Renewed { id, cancel }).collect())
    }

    async fn tend(&mut self) -> Result<Outlook, SourceError> {
        let queues = self.queues.clone();
        let looked = self.connected().await?.look(&queues).await;
        let look = looked.map_err(|error| self.failed(error))?;
        match look.version {
            Some(found) if found > SCHEMA_VERSION => return Err(SourceError::Newer { found }),
            Some(_) => {}
            None => return Err(SourceError::NoTables(Error::NotFound)),
        }
        let due = |time: Option<i64>| time.is_some_and(|time| time <= look.now_ms);
        let mut outlook = Outlook { ready: look.ready, next: None };
        let mut more = false;
        if due(look.next_scheduled_ms) {
            let promoted = self.connected().await?.promote().await;
            let promoted = promoted.map_err(|error| self.failed(error))?;
            outlook.ready |= promoted > 0;
            more |= promoted >= BATCH as usize;
        }
        if due(look.next_lease_end_ms) {
            let rescued = self.connected().await?.rescue().await;
            let rescued = rescued.map_err(|error| self.failed(error))?;
            outlook.ready |= rescued > 0;
            more |= rescued >= BATCH as usize;
        }
        if self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
            let kept = self.kept;
            let pruned = self.connected().await?.prune(kept).await;
            // Where that was a full batch there is more to do.
            let full = pruned.map_err(|error| self.failed(error))? >= BATCH as usize;
            self.pruned = if full { None } else { Some(Instant::now()) };
            more |= full;
        }
        let next = [look.next_scheduled_ms, look.next_lease_end_ms].into_iter().flatten().min();
        outlook.next = if more {
            Some(Duration::ZERO)
        } else {
            next.and_then(|time| u64::try_from(time - look.now_ms).ok())
                .map(Duration::from_millis)
                .filter(|next| !next.is_zero())
        };
        Ok(outlook)
    }

    async fn hinted(&mut self) {
        match &mut self.conn {
            Some(conn) => conn.hinted().await,
            None => std::future::pending().await,
        }
    }
}

impl<C> fmt::Debug for TableSource<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSource").field("lease", &self.lease).field("queues", &self.queues).finish_non_exhaustive()
    }
}
