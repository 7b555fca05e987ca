//! The table `deferred_tasks` as a source, with a connection that is opened again when it is lost.
//!
//! Must not know: the SQL of any database.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::ConnectionResult;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel_async::AsyncConnection;
use futures_util::future::BoxFuture;

use super::floor::{Beginning, Floor, Start};
use super::statements::{BATCH, ClaimedRow, Look, RescuedRow};
use super::{Claim, Claimed, Fate, Hint, Lease, Outlook, Renewed, Rescued, Settlement, Source, SourceError};
use crate::durable::call::milliseconds;
use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;
use crate::report::emit;

/// A connection that a worker can take tasks by: diesel-async's `AsyncPgConnection`,
/// `AsyncMysqlConnection`, and `SyncConnectionWrapper<SqliteConnection>`, and an
/// [`AsyncDeferredConnection`](crate::AsyncDeferredConnection) around one of these.
#[diagnostic::on_unimplemented(
    message = "a worker cannot take tasks by a `{Self}`",
    label = "expected one of diesel-async's own connections",
    note = "write `AsyncPgConnection`, `AsyncMysqlConnection` or `SyncConnectionWrapper<SqliteConnection>`, and turn on the feature \
            `async-postgres`, `async-mysql` or `async-sqlite` of diesel-deferred"
)]
pub trait WorkerConnection: AsyncConnection + 'static {
    /// Not methods of the connection itself: their names might meet those of a user's traits.
    #[doc(hidden)]
    type Statements: Statements<Self>;
}

/// What is done with the table by a connection of the type `C`.
#[allow(private_interfaces, private_bounds, reason = "nobody can name the trait")]
pub trait Statements<C> {
    /// Makes a new one ready for a worker.
    fn prepare(conn: &mut C) -> impl Future<Output = QueryResult<()>> + Send;

    /// Has a new one be given hints, where the database has any.
    fn listen(conn: &mut C) -> impl Future<Output = QueryResult<()>> + Send {
        let _ = conn;
        std::future::ready(Ok(()))
    }

    /// See [`Source::exchange`].
    fn exchange(
        conn: &mut C,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
    ) -> impl Future<Output = QueryResult<Vec<Vec<ClaimedRow>>>> + Send;

    /// See [`Source::renew`].
    fn renew(
        conn: &mut C,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> impl Future<Output = QueryResult<Vec<(TaskId, bool)>>> + Send;

    /// What there is, by one statement.
    fn look(conn: &mut C, queues: &[Arc<str>]) -> impl Future<Output = QueryResult<Look>> + Send;

    /// Scheduled tasks that are due become ready; says how many.
    fn promote(conn: &mut C) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Tasks whose lease has ended go back, or are given up; says which.
    fn rescue(conn: &mut C) -> impl Future<Output = QueryResult<Vec<RescuedRow>>> + Send;

    /// Deletes what ended so long ago; says how many.
    fn prune(conn: &mut C, kept: Duration) -> impl Future<Output = QueryResult<usize>> + Send;

    /// See [`Source::hinted`].
    fn hinted(conn: &mut C) -> impl Future<Output = Hint> + Send {
        let _ = conn;
        std::future::pending()
    }
}

/// How one is opened.
pub(crate) type Connect<C> = Box<dyn Fn() -> BoxFuture<'static, ConnectionResult<C>> + Send + Sync>;

/// The table on one database.
pub(crate) struct TableSource<C> {
    connect: Connect<C>,
    conn: Option<C>,
    lease: Lease,
    queues: Vec<Arc<str>>,
    beginnings: Vec<Beginning>,
    kept: Duration,
    listens: bool,
}

impl<C: WorkerConnection> TableSource<C> {
    pub(crate) fn new(connect: Connect<C>, lease: Lease, queues: Vec<Arc<str>>, kept: Duration, listens: bool) -> Self {
        let beginnings = vec![Beginning::default(); queues.len()];
        Self { connect, conn: None, lease, queues, beginnings, kept, listens }
    }

    /// Takes the connection out: a new one where there is none. Who is stopped before it is
    /// [kept](Self::keep) drops it in the middle of whatever it was doing, and begins with a new
    /// one.
    async fn connected(&mut self) -> Result<C, SourceError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let mut conn = (self.connect)().await.map_err(|error| SourceError::Passing(Box::new(error)))?;
        C::Statements::prepare(&mut conn).await.map_err(|error| SourceError::Passing(Box::new(error)))?;
        if self.listens {
            C::Statements::listen(&mut conn).await.map_err(|error| SourceError::Passing(Box::new(error)))?;
        }
        Ok(conn)
    }

    /// Puts it back where it works, and says what an error means.
    fn keep<T>(&mut self, conn: C, result: QueryResult<T>) -> Result<T, SourceError> {
        if result.as_ref().err().is_none_or(is_about_others) {
            self.conn = Some(conn);
        }
        result.map_err(|error| match &error {
            Error::DatabaseError(_, about) if says_missing(about.message()) => SourceError::NoTables(error),
            _ => SourceError::Passing(Box::new(error)),
        })
    }
}

/// Whether it was another worker that was in the way, on a connection that works.
fn is_about_others(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::SerializationFailure, _)
    )
}

/// Each database has its own words for a table, or a column of one, that is not there. By this
/// connection nothing else is asked for.
fn says_missing(message: &str) -> bool {
    let missing = ["does not exist", "doesn't exist", "no such table", "no such column", "Unknown column"];
    missing.iter().any(|words| message.contains(words))
        && ["deferred_", "column"].iter().any(|ours| message.contains(ours))
}

impl<C: WorkerConnection> Source for TableSource<C> {
    async fn exchange(&mut self, settled: &[Settlement], claims: &[Claim]) -> Result<Vec<Claimed>, SourceError> {
        let lease = self.lease;
        let mut conn = self.connected().await?;
        let begin = Instant::now();
        let claims: Vec<_> =
            claims.iter().map(|claim| (claim.clone(), self.beginnings[claim.lane].at(begin))).collect();
        let mut rows = C::Statements::exchange(&mut conn, &lease, settled, &claims).await;
        if rows.as_ref().is_err_and(is_about_others) {
            // All of it was one transaction, which the other worker has undone; on PostgreSQL each
            // claim is one, and tried again by itself.
            rows = C::Statements::exchange(&mut conn, &lease, settled, &claims).await;
        }
        let rows = self.keep(conn, rows)?;
        let end = Instant::now();
        let mut claimed = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        for ((Claim { lane, limit, .. }, start), mut rows) in claims.into_iter().zip(rows) {
            // Databases return them in any order.
            rows.sort_unstable_by_key(|&(id, _, _, _, _, priority, run_at_ms)| (priority, run_at_ms, id));
            let last = rows.last().filter(|_| rows.len() >= limit as usize);
            let last = last.map(|&(id, .., priority, run_at_ms)| Floor { priority, run_at_ms, id });
            self.beginnings[lane].claimed(start, last, end - begin, end);
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
        let mut conn = self.connected().await?;
        let rows = C::Statements::renew(&mut conn, &lease, tasks).await;
        let rows = self.keep(conn, rows)?;
        Ok(rows.into_iter().map(|(id, cancel)| Renewed { id, cancel }).collect())
    }

    async fn tend(&mut self) -> Result<Outlook, SourceError> {
        let mut conn = self.connected().await?;
        let looked = C::Statements::look(&mut conn, &self.queues).await;
        let look = self.keep(conn, looked)?;
        match look.version {
            Some(found) if found > SCHEMA_VERSION => return Err(SourceError::Newer { found }),
            Some(_) => {}
            None => return Err(SourceError::NoTables(Error::NotFound)),
        }
        let is_due = look.next_scheduled_ms.is_some_and(|time| time <= look.now_ms);
        let has_ended = look.next_lease_end_ms.is_some_and(|time| time < look.now_ms);
        let mut outlook = Outlook { ready: look.ready, ended: has_ended, next: None };
        let mut more = false;
        if is_due {
            let mut conn = self.connected().await?;
            let promoted = C::Statements::promote(&mut conn).await;
            let promoted = self.keep(conn, promoted)?;
            outlook.ready |= promoted > 0;
            // What is due next stands behind those, and was not seen.
            more |= promoted > 0;
        }
        let kept_since = look.now_ms.saturating_sub(milliseconds(self.kept));
        if look.oldest_end_ms.is_some_and(|ended| ended < kept_since) {
            let mut conn = self.connected().await?;
            let pruned = C::Statements::prune(&mut conn, self.kept).await;
            // Where that was a full batch there is more to do.
            more |= self.keep(conn, pruned)? >= BATCH as usize;
        }
        // What is due, and was left, others have in their hands.
        let scheduled = look.next_scheduled_ms.filter(|_| !is_due);
        let lease_end = look.next_lease_end_ms.filter(|_| !has_ended);
        let next = scheduled.into_iter().chain(lease_end).min();
        outlook.next = if more {
            Some(Duration::ZERO)
        } else {
            next.and_then(|time| u64::try_from(time.saturating_sub(look.now_ms)).ok()).map(Duration::from_millis)
        };
        Ok(outlook)
    }

    async fn rescue(&mut self) -> Result<Vec<Rescued>, SourceError> {
        let mut conn = self.connected().await?;
        let rows = C::Statements::rescue(&mut conn).await;
        let rows = self.keep(conn, rows)?;
        let rescued = rows.into_iter().map(|(id, task, attempt, state)| {
            let fate = match &*state {
                "dead" => Fate::Dead,
                "cancelled" => Fate::Cancelled,
                _ => Fate::Again,
            };
            Rescued { id, task, attempt, fate }
        });
        Ok(rescued.collect())
    }

    fn called(&mut self) {
        self.beginnings.iter_mut().for_each(Beginning::called);
    }

    async fn hinted(&mut self) {
        let hint = match &mut self.conn {
            Some(conn) if self.listens => C::Statements::hinted(conn).await,
            _ => std::future::pending().await,
        };
        if hint == Hint::Lost {
            emit(|| tracing::warn!("a worker has lost its connection, and opens another one"));
            // What looks next opens it.
            self.conn = None;
        }
    }
}

impl<C> fmt::Debug for TableSource<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSource").field("lease", &self.lease).field("queues", &self.queues).finish_non_exhaustive()
    }
}
