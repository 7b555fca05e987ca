//! The table `deferred_tasks` as a source, with a connection that is opened again when it is lost.
//!
//! Must not know: the SQL of any database.

use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionResult;
use diesel::result::{Error, QueryResult};
use diesel_async::SimpleAsyncConnection;
use futures_util::future::{BoxFuture, Either, select};
use tokio::time::Instant;

use super::clock::Clock;
use super::database::{Opening, Statements, WorkerConnection, patience};
use super::floor::{Beginning, Floor, REST};
use super::statements::{BATCH, Ended, Exchange, Failed, Look, Manner, Mine, Past, RescuedRow, Since, Unread};
use super::trouble::{RIGHTS, is_about_others, of_connecting, of_right, what_it_means};
use super::{
    Claim, Claimed, Exchanged, Fate, Hint, Lease, Outcome, Outlook, Renewed, Rescued, Settlement, Source, SourceError,
    UNKNOWN_FOR_TOO_LONG, Unknown, WORKER_DIED, Waiting,
};
use crate::dispatch::pause;
use crate::durable::call::milliseconds;
use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;
use crate::report::emit;

/// How one is opened.
pub(crate) type Connect<C> = Box<dyn Fn() -> BoxFuture<'static, ConnectionResult<C>> + Send + Sync>;

/// How a worker looks at the table.
pub(crate) struct Looking {
    pub(crate) queues: Vec<Arc<str>>,
    pub(crate) poll: Duration,
    /// The names of the tasks that this program has.
    pub(crate) known: HashSet<&'static str>,
    pub(crate) kept: Duration,
    /// For how long what ended well is kept; `None`: it is deleted, and what others keep is theirs.
    pub(crate) done_kept: Option<Duration>,
    /// After which time it gives up what no program can read.
    pub(crate) give_up_unknown_after: Duration,
    /// Whether it is to be given hints.
    pub(crate) listens: bool,
    /// Whether somebody has said that there is a pooler, or that there is none.
    pub(crate) pooler: Option<bool>,
}

/// What a source is made of. It needs to know nothing of the connection's type.
pub(crate) struct Table<C> {
    pub(crate) connect: Connect<C>,
    pub(crate) lease: Lease,
    pub(crate) looking: Looking,
}

/// The table on one database.
pub(crate) struct TableSource<C: WorkerConnection> {
    connect: Connect<C>,
    conn: Option<<C::Statements as Statements<C>>::Session>,
    lease: Lease,
    looking: Looking,
    beginnings: Vec<Beginning>,
    /// Until when a statement whose answer got lost may still take tasks.
    doubt: Option<Instant>,
    /// Whether ends of tasks with keys were told of on this connection.
    told_of_keys: bool,
    /// Until when some rows of ours are expected to be locked.
    careful: Option<Instant>,
    /// Whether it is known to have its rights.
    may_work: bool,
    /// Whether nobody is to be told of a pooler any more.
    told_of_pooler: bool,
    /// Behind which name it looks for tasks that no program could read.
    unknown_behind: String,
    /// Which of their rows it adopts: all of them until it has been through their names once.
    unread: Unread,
    /// The clock of the database, at the last look.
    clock: Clock,
    /// When it looks at all from the beginning, and at what is in no hurry.
    thorough_at: Option<Instant>,
}

/// For how long rows of ours are expected to stay locked.
const CAREFUL: Duration = Duration::from_secs(5);

/// How long before the last look another one begins: a transaction may have committed behind it.
const SLACK_MS: i64 = 2_000;

/// How many names of tasks that no program could read are looked at in one look.
const NAMES: usize = 20;

impl<C: WorkerConnection> TableSource<C> {
    pub(crate) fn new(Table { connect, lease, looking }: Table<C>) -> Self {
        Self {
            connect,
            conn: None,
            lease,
            beginnings: vec![Beginning::default(); looking.queues.len()],
            doubt: None,
            told_of_keys: false,
            careful: None,
            may_work: !C::Statements::HAS_ROLES,
            told_of_pooler: looking.pooler.is_some(),
            looking,
            unknown_behind: String::new(),
            unread: Unread::All,
            clock: Clock::new(),
            thorough_at: None,
        }
    }

    /// Does something on the connection: on a new one where there is none. Whoever is stopped in the
    /// middle of it drops the connection, whatever it was doing, and begins with a new one.
    async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut <C::Statements as Statements<C>>::Session) -> QueryResult<T>,
    ) -> Result<T, SourceError> {
        let patience = patience(self.lease.duration);
        let done = {
            let work = async {
                let mut conn = match self.conn.take() {
                    Some(conn) => conn,
                    None => {
                        self.told_of_keys = false;
                        let conn = (self.connect)().await.map_err(of_connecting)?;
                        let opening = Opening { patience, listens: self.looking.listens, pooler: self.looking.pooler };
                        let conn = C::Statements::open(conn, &opening).await.map_err(what_it_means)?;
                        if C::Statements::has_pooler(&conn) && !self.told_of_pooler {
                            self.told_of_pooler = true;
                            emit(|| tell_of_pooler(self.looking.poll));
                        }
                        conn
                    }
                };
                let done = work(&mut conn).await;
                Ok((conn, done))
            };
            match select(pin!(work), pin!(pause(patience))).await {
                Either::Left((done, _)) => done?,
                Either::Right(_) => return Err(SourceError::no_answer()),
            }
        };
        let (conn, done) = done;
        if done.as_ref().err().is_none_or(is_about_others) {
            self.conn = Some(conn);
        }
        done.map_err(what_it_means)
    }

    /// Rows may have become ready that lie before the last claims.
    fn may_lie_before(&mut self) {
        self.called();
        self.beginnings.iter_mut().for_each(Beginning::before);
    }

    /// Looks at what is in no hurry; says what there is where there is more of that to be done.
    async fn look_back(&mut self) -> Result<Option<Outlook>, SourceError> {
        let past: Past = self.with(async |conn| C::Statements::look_back(conn).await).await?;
        match past.version {
            Some(found) if found > SCHEMA_VERSION => return Err(SourceError::Newer { found }),
            Some(found) if found < SCHEMA_VERSION => return Err(SourceError::Older { found }),
            Some(_) => {}
            None => return Err(SourceError::NoTables(Error::NotFound)),
        }
        let now_ms = self.clock.last_ms().unwrap_or(i64::MAX);
        let (kept, after) = (self.looking.kept, self.looking.give_up_unknown_after);
        let mut more = false;
        if past.oldest_end_ms.is_some_and(|ended| ended < now_ms.saturating_sub(milliseconds(kept))) {
            let pruned = self.with(async |conn| C::Statements::prune(conn, Ended::Otherwise, kept).await).await?;
            more |= pruned >= BATCH as usize;
        }
        if let Some(kept) = self.looking.done_kept {
            let pruned = self.with(async |conn| C::Statements::prune(conn, Ended::Well, kept).await).await?;
            more |= pruned >= BATCH as usize;
        }
        // All that is leased for longer than that is another worker's, with longer leases, or the
        // clock has gone back.
        let lease = self.lease;
        let is_long = |end| end > now_ms.saturating_add(2 * lease.ms());
        if self.clock.may_have_gone_back(Instant::now(), lease.duration) && past.last_lease_end_ms.is_some_and(is_long)
        {
            let begun = self.with(async |conn| C::Statements::start_anew(conn, &lease).await).await?;
            more |= begun >= BATCH as usize;
        }
        let mut given_up = Vec::new();
        if past.oldest_refusal_ms.is_some_and(|since| since < now_ms.saturating_sub(milliseconds(after))) {
            let rows = self.with(async |conn| C::Statements::give_up_refused(conn, after).await).await?;
            more |= rows.len() >= BATCH as usize;
            given_up.extend(rows.into_iter().map(|row| rescued(row, UNKNOWN_FOR_TOO_LONG)));
        }
        Ok((more || !given_up.is_empty()).then_some(Outlook {
            ready: false,
            ended: false,
            next: Some(Duration::ZERO),
            given_up,
        }))
    }

    /// Finds out whether there are the rights that a worker needs, before it takes something that
    /// it could not complete.
    async fn check_rights(&mut self) -> Result<(), SourceError> {
        if self.may_work {
            return Ok(());
        }
        for (right, table, statement) in RIGHTS {
            let tried = self.with(async |conn| Ok(conn.batch_execute(statement).await)).await?;
            if let Err(error) = tried {
                self.conn = None;
                return Err(of_right(error, right, table));
            }
        }
        self.may_work = true;
        Ok(())
    }

    /// Adopts what no program could read so far, and this one may. What waits for long because a
    /// program before this one could not read it is not to wait for that any longer.
    async fn adopt(&mut self) -> Result<usize, SourceError> {
        let mut adopted = 0;
        for _ in 0..NAMES {
            let behind = std::mem::take(&mut self.unknown_behind);
            let next = self.with(async |conn| C::Statements::next_unknown(conn, &behind).await).await?;
            let Some((task, offered)) = next else {
                self.unread = Unread::Offered;
                return Ok(adopted);
            };
            let unread = self.unread;
            if (offered || unread == Unread::All) && self.looking.known.contains(&*task) {
                adopted += self.with(async |conn| C::Statements::adopt(conn, &task, unread).await).await?;
            }
            self.unknown_behind = task;
        }
        Ok(adopted)
    }
}

impl<C: WorkerConnection> Source for TableSource<C> {
    async fn exchange(&mut self, settled: &[Settlement], claims: &[Claim]) -> Result<Exchanged, SourceError> {
        let lease = self.lease;
        let begin = Instant::now();
        let claims: Vec<_> =
            claims.iter().map(|claim| (claim.clone(), self.beginnings[claim.lane].at(begin))).collect();
        let has_keys = settled.iter().any(|settlement| settlement.key.is_some());
        // Whatever happens now, and also where nobody waits for it to happen: until it is known to
        // have gone well it may have taken tasks that nobody is told of.
        let doubt = self.doubt;
        if !claims.is_empty() {
            self.doubt = begin.checked_add(patience(lease.duration) * 2);
        }
        let mut exchanged = None;
        // Two workers that were in each other's way are not when it is done again.
        for _ in 0..2 {
            let manner = match self.careful {
                Some(until) if begin < until => Manner::Careful,
                _ if has_keys && !self.told_of_keys => Manner::OneByOne,
                _ => Manner::AtOnce,
            };
            let done =
                self.with(async |conn| C::Statements::exchange(conn, &lease, settled, &claims, manner).await).await;
            let again = matches!(&done, Err(SourceError::Passing(..))) && self.conn.is_some();
            exchanged = Some(done);
            if !again {
                break;
            }
        }
        let Some(done) = exchanged else { return Ok(Exchanged::default()) };
        let Exchange { untold, taken, failed, prepared, readied, in_the_way } = done?;
        // On this connection.
        self.told_of_keys |= has_keys && prepared && self.conn.is_some();
        let end = Instant::now();
        let tried = failed.as_ref().and_then(|failed| failed.claim).map_or(taken.len(), |claim| claim + 1);
        let failed = failed.filter(|failed| !is_about_others(&failed.error));
        if failed.is_none() {
            // What was in doubt before still is: an earlier statement may be on its way yet.
            self.doubt = doubt;
        } else {
            self.conn = None;
        }
        // What waited behind them may be ready now, or they themselves are.
        if readied || settled.iter().any(|settlement| settlement.left().is_some()) {
            self.may_lie_before();
        }
        if !untold.is_empty() || in_the_way {
            self.careful = end.checked_add(CAREFUL);
        }
        let mut exchanged = Exchanged { untold, ..Exchanged::default() };
        // Of other queues, or there was no room for them, and no claim looks for them here.
        if readied {
            let looked_for = |lane| {
                let mut here = claims.iter().zip(&taken);
                here.any(|((claim, _), taken)| claim.lane == lane && !taken.handed_over)
            };
            exchanged.hungry.extend((0..self.beginnings.len()).filter(|lane| !looked_for(*lane)));
        }
        exchanged.hungry.extend(claims[taken.len()..].iter().map(|(claim, _)| claim.lane));
        exchanged.first = claims.get(tried).map(|(claim, _)| claim.lane);
        if let Some(Failed { error, claim, took }) = failed {
            exchanged.failed = claim.map(|claim| (claims[claim].0.lane, took));
            exchanged.error = Some(what_it_means(error));
        }
        for ((Claim { lane, limit, .. }, _), mut taken) in claims.into_iter().zip(taken) {
            // Databases return them in any order.
            taken.rows.sort_unstable_by_key(|row| (row.priority, row.run_at_ms, row.id));
            let full = taken.rows.len() >= limit as usize;
            let last =
                taken.rows.last().map(|row| Floor { priority: row.priority, run_at_ms: row.run_at_ms, id: row.id });
            if !taken.handed_over {
                self.beginnings[lane].claimed(full, last, taken.front, end);
            }
            if taken.more {
                exchanged.hungry.push(lane);
            }
            exchanged.claimed.extend(taken.rows.into_iter().map(|row| Claimed {
                lane,
                id: row.id,
                task: row.task,
                payload: row.payload,
                attempt: row.attempts,
                max_attempts: row.max_attempts,
                key: row.key,
                refusals: row.refusals,
                run_at_ms: row.run_at_ms,
                started_at_ms: row.started_at_ms,
                trace_parent: row.trace_parent,
            }));
        }
        Ok(exchanged)
    }

    async fn park(&mut self, unknown: &Unknown) -> Result<usize, SourceError> {
        self.with(async |conn| C::Statements::park(conn, unknown).await).await
    }

    async fn renew(&mut self, tasks: &[TaskId]) -> Result<Vec<Renewed>, SourceError> {
        let lease = self.lease;
        let rows = self.with(async |conn| C::Statements::renew(conn, &lease, tasks).await).await?;
        Ok(rows.into_iter().map(|(id, cancel)| Renewed { id, cancel }).collect())
    }

    async fn give_back(&mut self, held: impl FnOnce() -> HashSet<TaskId> + Send) -> Result<usize, SourceError> {
        let Some(until) = self.doubt else { return Ok(0) };
        let (lease, begin, held) = (self.lease, Instant::now(), held());
        let mine = self.with(async |conn| C::Statements::mine(conn, &lease).await).await?;
        let lost: Vec<_> = mine.into_iter().filter(|mine| !held.contains(&mine.id)).collect();
        for lost in lost.chunks(BATCH as usize) {
            let released = |lost: &Mine| Settlement {
                id: lost.id,
                started_at_ms: lost.started_at_ms,
                key: lost.key.clone(),
                unstarted: 0,
                outcome: Outcome::Released { started: false },
            };
            let released: Vec<_> = lost.iter().map(released).collect();
            self.with(async |conn| C::Statements::exchange(conn, &lease, &released, &[], Manner::Careful).await)
                .await?;
        }
        // By now the server has given up, too.
        if begin >= until {
            self.doubt = None;
        }
        Ok(lost.len())
    }

    async fn tend(&mut self) -> Result<Outlook, SourceError> {
        self.check_rights().await?;
        let begin = Instant::now();
        let thorough = self.thorough_at.is_none_or(|at| begin >= at);
        if thorough && let Some(outlook) = self.look_back().await? {
            // There is more of that.
            return Ok(outlook);
        }
        let from = Since {
            since_ms: self.clock.last_ms().filter(|_| !thorough).map(|ms| ms.saturating_sub(SLACK_MS)),
            queues: self
                .looking
                .queues
                .iter()
                .zip(&self.beginnings)
                .map(|(queue, beginning)| (Arc::clone(queue), beginning.floor().filter(|_| !thorough)))
                .collect(),
        };
        let asked = Instant::now();
        let look: Look = self.with(async |conn| C::Statements::look(conn, &from).await).await?;
        self.clock.said(look.now_ms, asked, Instant::now());
        let is_due = look.next_scheduled_ms.is_some_and(|time| time <= look.now_ms);
        let mut outlook = Outlook { ready: look.ready, ended: look.lease_ended, next: None, given_up: Vec::new() };
        let mut more = false;
        if look.freed {
            let rows = self.with(async |conn| C::Statements::freed(conn).await).await?;
            let freed = self.with(async |conn| C::Statements::free_keys(conn, &rows).await).await?;
            self.may_lie_before();
            outlook.ready = true;
            // Of keys that are stuck the next look is in time.
            more |= rows.len() >= BATCH as usize && freed > 0;
        }
        if is_due {
            let promoted = self.with(async |conn| C::Statements::promote(conn).await).await?;
            if promoted > 0 {
                self.may_lie_before();
                outlook.ready = true;
            }
            // What is due next stands behind those, and was not seen.
            more |= promoted > 0;
        }
        if thorough {
            if look.ready {
                self.may_lie_before();
            }
            let adopted = self.adopt().await?;
            if adopted > 0 {
                self.may_lie_before();
                outlook.ready = true;
            }
            let now = Instant::now();
            // Of what was left to this program there is more, and it takes turns with other tasks.
            let looks = if adopted >= BATCH as usize { 1 } else { 5 };
            self.thorough_at = now.checked_add((now - begin).saturating_mul(REST).max(self.looking.poll * looks));
        }
        // What is due, and was left, others have in their hands.
        let scheduled = look.next_scheduled_ms.filter(|_| !is_due);
        outlook.next = if more {
            Some(Duration::ZERO)
        } else {
            let lease_end = look.next_lease_end_ms.filter(|_| !look.lease_ended);
            let next = scheduled.into_iter().chain(lease_end).min();
            let next = next.and_then(|time| u64::try_from(time.saturating_sub(look.now_ms)).ok());
            // Leases that end later are seen by then.
            Some(next.map_or(Duration::MAX, Duration::from_millis).min(self.lease.duration))
        };
        Ok(outlook)
    }

    async fn rescue(&mut self) -> Result<Vec<Rescued>, SourceError> {
        let rows = self.with(async |conn| C::Statements::rescue(conn).await).await?;
        self.may_lie_before();
        Ok(rows.into_iter().map(|row| rescued(row, WORKER_DIED)).collect())
    }

    async fn has_due(&mut self) -> Result<bool, SourceError> {
        let queues = self.looking.queues.clone();
        self.with(async |conn| C::Statements::has_due(conn, &queues).await).await
    }

    async fn waiting(&mut self) -> Result<Vec<Waiting>, SourceError> {
        let queues = self.looking.queues.clone();
        self.with(async |conn| C::Statements::waiting(conn, &queues).await).await
    }

    fn called(&mut self) {
        self.beginnings.iter_mut().for_each(Beginning::called);
    }

    async fn hinted(&mut self) {
        let hint = match &mut self.conn {
            Some(conn) if self.looking.listens => C::Statements::hinted(conn).await,
            _ => std::future::pending().await,
        };
        if hint == Hint::Lost {
            emit(|| tracing::warn!("a worker has lost its connection, and opens another one"));
            // What looks next opens it.
            self.conn = None;
        }
    }
}

fn tell_of_pooler(poll: Duration) {
    tracing::warn!(
        poll_interval = ?poll,
        "a worker has no session of its own on its database: there is a pooler in between, such as PgBouncer in transaction \
         mode. The worker works, more slowly, and leaves no setting behind there. It cannot listen: what other processes \
         commit waits until it looks, for `poll_interval` at most. Connect it to the database directly; or say \
         `.transaction_pooler(true)` if this is as it should be, or `.transaction_pooler(false)` if each client of the pooler \
         keeps its session"
    );
}

fn rescued((id, task, attempt, state, _): RescuedRow, why: &'static str) -> Rescued {
    let fate = match &*state {
        "dead" => Fate::Dead,
        "cancelled" => Fate::Cancelled,
        _ => Fate::Again,
    };
    Rescued { id, task, attempt, fate, why }
}

impl<C> fmt::Debug for Table<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("lease", &self.lease)
            .field("queues", &self.looking.queues)
            .finish_non_exhaustive()
    }
}
