//! When a worker does what: it completes attempts, claims tasks for free runners, renews leases,
//! and looks for due and rescued tasks. In between it waits.
//!
//! Must not know: any database.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::errors::{WorkerError, WorkerReport};
use super::job::{self, Job};
use super::lane::{Lanes, SharedLanes, Stop};
use super::round::{Left, Round, outage_pause};
use super::runner::{ENOUGH, OnFailure, Shared};
use super::source::{Claim, Claimed, Source, SourceError, Trouble, Unknown};
use super::work::Work;
use crate::dispatch::pause;
use crate::durable::notify::WINDOW as NOTIFY_WINDOW;
use crate::durable::registry::Registry;
use crate::durable::wake::Bell;
use crate::error::BoxError;
use crate::metrics::{self, Gauges};
use crate::report::emit;

/// How it works.
pub(super) struct Settings {
    pub(super) poll: Duration,
    pub(super) grace: Duration,
    pub(super) batch: usize,
    pub(super) on_failure: Option<OnFailure>,
    /// How often it asks how much waits.
    pub(super) metrics: Duration,
}

/// How long ends wait whose rows somebody has locked.
const LOCKED: Duration = Duration::from_millis(500);

/// How many bytes of arguments a worker has in its hands, beyond one call a queue.
const BYTES: i64 = 16 << 20;

/// What a worker is made of.
pub(super) struct Engine<Src, S> {
    source: Src,
    shared: Arc<Shared<S>>,
    queues: Vec<Arc<str>>,
    lease: Duration,
    settings: Timing,
    work: Work,
    bell: Bell,
    tracker: TaskTracker,
    gauges: Gauges,
}

#[derive(Clone, Copy)]
struct Timing {
    poll: Duration,
    grace: Duration,
    batch: usize,
}

impl<Src, S> Engine<Src, S> {
    pub(super) fn new(
        source: Src,
        service: S,
        registry: Registry,
        work: Work,
        lease: Duration,
        settings: Settings,
    ) -> Self {
        let Settings { poll, grace, batch, on_failure, metrics } = settings;
        let names: Vec<_> = work.queues.iter().map(|(queue, _)| Arc::clone(queue)).collect();
        let lanes = Lanes::new(work.queues.iter().map(|(_, concurrency)| *concurrency), lease);
        Self {
            source,
            shared: Arc::new(Shared::new(lanes, names.clone(), service, registry, on_failure)),
            queues: names,
            lease,
            settings: Timing { poll, grace, batch },
            work,
            bell: Bell::new(),
            tracker: TaskTracker::new(),
            gauges: Gauges::new(metrics),
        }
    }

    pub(super) fn source(&self) -> &Src {
        &self.source
    }

    /// The same, on what is made of its source.
    pub(super) fn on<T>(self, make: impl FnOnce(Src) -> T) -> Engine<T, S> {
        let Self { source, shared, queues, lease, settings, work, bell, tracker, gauges } = self;
        Engine { source: make(source), shared, queues, lease, settings, work, bell, tracker, gauges }
    }
}

impl<Src, S> Engine<Src, S>
where
    Src: Source,
    S: Service<Job, Response = ()> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// Works until `shutdown` is ready, or, where it is to stop then, until nothing is due.
    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        until_empty: bool,
    ) -> Result<WorkerReport, WorkerError> {
        emit(|| self.work.tell());
        metrics::describe_metrics();
        let mut shutdown = pin!(shutdown.fuse());
        let _stop = StopAll(Arc::clone(&self.shared.lanes));
        let mut round = Round::new(self.queues.len(), self.lease, until_empty);
        let fatal = loop {
            let mut stopping = false;
            let done = {
                let doing = pin!(self.round(&mut round));
                match select(doing, shutdown.as_mut()).await {
                    Either::Left((done, _)) => done,
                    Either::Right(((), doing)) => {
                        stopping = true;
                        // What was asked of the database should be heard, or it is lost until its
                        // lease ends.
                        match select(doing, pin!(pause(TELL_WITHIN))).await {
                            Either::Left((done, _)) => done,
                            Either::Right(_) => break None,
                        }
                    }
                }
            };
            let wait = match done {
                Ok(()) if round.left == Some(Left::Nothing) => break None,
                Ok(()) => {
                    round.worked = true;
                    round.failures = 0;
                    self.until_something_is_due(&round)
                }
                // Whoever starts it now and then is to be told, and starts it again.
                Err(SourceError::Passing(Trouble::Unreachable, source))
                    if until_empty && !round.worked && self.shared.lanes.is_idle() =>
                {
                    break Some(WorkerError::Unreachable { source });
                }
                Err(SourceError::Passing(trouble, error)) => {
                    let wait = round.failed();
                    emit(|| tracing::warn!(%error, failures = round.failures, "{trouble}"));
                    Some(wait)
                }
                // At the start nobody has seen it work: whoever set it up is to be told at once.
                Err(SourceError::NoRight { missing, error }) if !round.worked => {
                    break Some(WorkerError::missing_right(missing, error));
                }
                Err(SourceError::NoRight { missing, error }) => {
                    let wait = round.failed();
                    let failed = WorkerError::missing_right(missing, error);
                    emit(
                        || tracing::error!(error = %failed, failures = round.failures, "a worker lacks a right that it had"),
                    );
                    Some(wait)
                }
                Err(SourceError::NoTables(source)) => break Some(WorkerError::NoTables { source }),
                Err(SourceError::Newer { found }) => break Some(WorkerError::newer(found)),
                Err(SourceError::Older { found }) => break Some(WorkerError::older(found)),
            };
            if stopping || self.wait(&mut round, wait, shutdown.as_mut()).await {
                break None;
            }
        };
        let report = self.stop(fatal.is_none()).await;
        match fatal {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// Does what is due.
    async fn round(&mut self, round: &mut Round) -> Result<(), SourceError> {
        let now = Instant::now();
        if now >= round.renew_at {
            self.renew(self.lease / 4).await?;
            round.renew_at = now + self.lease / 3;
        }
        if let Some((_, after)) = round.look_again.take_if(|(at, _)| now >= *at) {
            let after = after * 2;
            round.look_again = (after < self.settings.poll).then_some((now + after, after));
            self.source.called();
            // Where all lanes are about to claim anyway, that is a look.
            if !round.hungry.iter().all(|hungry| *hungry) {
                round.tend_at = now;
            }
        }
        if now >= round.tend_at {
            // What is not in these hands was never begun.
            self.source.give_back(|| self.shared.lanes.held()).await?;
            let outlook = self.source.tend().await?;
            if outlook.ready {
                round.hungry.fill(true);
            }
            if !outlook.given_up.is_empty() {
                let shared = Arc::clone(&self.shared);
                self.tracker.spawn(async move { shared.tell_rescued(&outlook.given_up).await });
            }
            // From now on: a look that took long is not to be followed by the next one at once.
            let poll = self.settings.poll;
            round.tend_at = Instant::now() + outlook.next.map_or(poll, |next| next.min(poll));
            if outlook.ended {
                // After an outage, or when the database's clock has jumped, it may be our own leases
                // that have ended, new ones too. They are still ours where nobody has noticed.
                self.renew(Duration::ZERO).await?;
                let rescued = self.source.rescue().await?;
                if !rescued.is_empty() {
                    let shared = Arc::clone(&self.shared);
                    // Beside the engine: the handler is a user's, and leases are to be extended
                    // while it has much to do.
                    self.tracker.spawn(async move { shared.tell_rescued(&rescued).await });
                    round.hungry.fill(true);
                    round.tend_at = now;
                }
            }
        }
        self.shared.attempts.record(&self.queues);
        self.exchange(round).await?;
        if self.gauges.next().is_some_and(|at| now >= at) {
            self.measure().await;
        }
        self.look_for_the_end(round).await
    }

    /// Asks how much waits, and tells the program's recorder. Where that fails the work goes on.
    async fn measure(&mut self) {
        let begin = Instant::now();
        match self.source.waiting().await {
            Ok(waiting) => metrics::waiting(&self.queues, &waiting),
            Err(SourceError::Passing(_, error)) => {
                emit(|| tracing::warn!(%error, "a worker could not find out how much waits in its queues"));
            }
            // What its other statements meet, too.
            Err(_) => {}
        }
        self.gauges.asked(begin);
    }

    /// Where it is to stop when nothing is due, and it has nothing to do: finds out whether that is
    /// now.
    async fn look_for_the_end(&mut self, round: &mut Round) -> Result<(), SourceError> {
        let Some(left) = round.left else { return Ok(()) };
        if !self.shared.lanes.is_idle() {
            round.left = Some(Left::Unknown);
        } else if !self.source.has_due().await? {
            round.left = Some(Left::Nothing);
        } else {
            round.left = Some(Left::Something);
            // What it could not take the last time either somebody has locked.
            let wait = if left == Left::Something { LOCKED } else { Duration::ZERO };
            round.hungry.fill(wait.is_zero());
            round.tend_at = round.tend_at.min(Instant::now() + wait);
            self.source.called();
        }
        Ok(())
    }

    /// Extends the leases that are so old. That is done three times in their duration, and then those
    /// of a quarter of it are meant: what was taken just behind the last time is not to wait for the
    /// next one.
    async fn renew(&mut self, age: Duration) -> Result<(), SourceError> {
        let begin = Instant::now();
        let Some(before) = begin.checked_sub(age) else { return Ok(()) };
        let asked = self.shared.lanes.leased_before(before);
        if asked.is_empty() {
            return Ok(());
        }
        let renewed = self.source.renew(&asked).await?;
        let ours: HashMap<_, _> = renewed.into_iter().map(|task| (task.id, task.cancel)).collect();
        self.shared.lanes.renewed(&asked, &ours, begin);
        Ok(())
    }

    /// Tells of ends, and takes tasks, where one of the two is due.
    async fn exchange(&mut self, round: &mut Round) -> Result<(), SourceError> {
        let now = Instant::now();
        if round.resume_at.is_some_and(|at| now >= at) {
            round.resume_at = None;
            self.shared.lanes.resume();
        }
        let (to_tell, idle) = self.shared.lanes.to_tell();
        if to_tell == 0 {
            round.lingering = None;
        } else if round.lingering.is_none() {
            round.lingering = Some(now);
        }
        let linger = round.linger();
        let lingered = round.lingering.is_some_and(|since| now.duration_since(since) >= linger);
        let tells = to_tell > 0 && (idle || lingered || to_tell >= ENOUGH);
        // While ends linger, what they leave free is taken when they are told.
        let free = self.free(round);
        let takes = to_tell == 0 && free.iter().zip(&round.hungry).any(|(free, hungry)| *free > 0 && *hungry);
        if !tells && !takes {
            return Ok(());
        }
        let mut settled = self.shared.lanes.take_settled();
        round.lingering = None;
        let bytes = BYTES - self.shared.lanes.bytes();
        // Where something of a key ended, what waited for it may be taken now.
        let frees = settled.iter().any(|settlement| settlement.key.is_some());
        let mut claims: Vec<_> = free
            .into_iter()
            .enumerate()
            .filter(|&(lane, free)| free > 0 && (round.hungry[lane] || frees))
            .filter(|&(lane, _)| bytes > 0 || self.shared.lanes.is_empty(lane))
            .map(|(lane, free)| Claim {
                lane,
                queue: Arc::clone(&self.queues[lane]),
                limit: u32::try_from(free.min(self.settings.batch.max(1)))
                    .unwrap_or(u32::MAX)
                    .min(round.likely(lane, bytes)),
                bytes: bytes.max(1),
                hungry: round.hungry[lane],
            })
            .collect();
        claims.sort_by_key(|claim| (claim.lane < round.first, claim.lane));
        let begin = Instant::now();
        let exchanged = self.source.exchange(&settled, &claims).await?;
        round.exchange_took = begin.elapsed();
        let failed_before = exchanged.failed.map_or(0, |(lane, _)| round.put_off[lane].0);
        let had_none = |claim: &&Claim| exchanged.first != Some(claim.lane);
        for claim in claims.iter().take_while(had_none) {
            round.put_off[claim.lane].0 = 0;
        }
        // Those that had no turn come first.
        round.first = exchanged.first.unwrap_or(0);
        // What is to run again is not looked for later than that.
        let again = settled.iter().filter_map(|settlement| begin.checked_add(settlement.outcome.again()?)).min();
        round.tend_at = again.map_or(round.tend_at, |again| again.min(round.tend_at));
        settled.told(&exchanged.untold);
        if !exchanged.untold.is_empty() {
            round.resume_at = round.resume_at.or_else(|| Instant::now().checked_add(LOCKED));
        }
        for claim in &claims {
            round.hungry[claim.lane] = false;
        }
        exchanged.hungry.iter().for_each(|&lane| round.hungry[lane] = true);
        let unknown = self.unknown(&exchanged.claimed);
        self.shared.count_claimed(&self.queues, &exchanged.claimed);
        round.measure(&exchanged.claimed);
        self.start(exchanged.claimed, begin);
        match (exchanged.failed, exchanged.error) {
            // That may be about this queue only: the others go on.
            (Some((lane, took)), Some(SourceError::Passing(trouble, error))) if trouble != Trouble::Unreachable => {
                let (failures, until) = &mut round.put_off[lane];
                *failures = failed_before + 1;
                let others = u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX);
                let pause = outage_pause(*failures).max(took.saturating_mul(2).saturating_mul(others));
                *until = Instant::now() + pause.min(LONGEST_PUT_OFF);
                let (queue, failures) = (&*self.queues[lane], *failures);
                emit(|| tracing::warn!(%error, queue, failures, "{trouble}"));
                // What it may have taken is to be given back.
                round.tend_at = Instant::now();
            }
            (_, Some(error)) => return Err(error),
            (_, None) => {}
        }
        for unknown in unknown {
            let parked = self.source.park(&unknown).await?;
            self.shared.count_refused(&unknown.task, parked);
        }
        Ok(())
    }

    /// The tasks that this program does not have and that a claim met most: there may be very many
    /// such rows, and to claim one after the other would hold up what stands behind them.
    fn unknown(&self, claimed: &[Claimed]) -> Vec<Unknown> {
        let mut met = BTreeMap::new();
        for task in claimed.iter().filter(|task| task.refusals == 0) {
            if let Err(error) = job::find(&self.shared.registry, &task.task) {
                met.entry((task.lane, &task.task)).or_insert((0, error)).0 += 1;
            }
        }
        let of_lane = |lane| claimed.iter().filter(|task| task.lane == lane).count();
        met.retain(|(lane, _), (rows, _)| *rows * 2 >= of_lane(*lane));
        let unknown = met.into_iter().map(|((lane, task), (_, error))| Unknown {
            queue: Arc::clone(&self.queues[lane]),
            task: task.clone(),
            error,
        });
        unknown.collect()
    }

    /// Has tasks run.
    fn start(&self, claimed: Vec<Claimed>, leased: Instant) {
        for (lane, more) in self.shared.lanes.take_over(claimed, leased) {
            for _ in 0..more {
                let shared = Arc::clone(&self.shared);
                self.tracker.spawn(async move { shared.work_on(lane).await });
            }
        }
    }

    /// How many tasks of each lane may be claimed.
    fn free(&self, round: &Round) -> Vec<usize> {
        let now = Instant::now();
        let mut free = self.shared.lanes.free();
        for (free, put_off) in free.iter_mut().zip(&round.put_off) {
            if now < put_off.1 {
                *free = 0;
            }
        }
        free
    }

    /// When something is to be done even if nothing happens; `None`: at once.
    fn until_something_is_due(&self, round: &Round) -> Option<Instant> {
        let (to_tell, idle) = self.shared.lanes.to_tell();
        let free = self.free(round);
        let takes = |(lane, (free, hungry)): (usize, (&usize, &bool))| {
            *free > 0 && *hungry && (self.shared.lanes.bytes() < BYTES || self.shared.lanes.is_empty(lane))
        };
        if to_tell == 0 && free.iter().zip(&round.hungry).enumerate().any(takes) {
            return None;
        }
        if to_tell > 0 && (idle || to_tell >= ENOUGH) {
            return None;
        }
        let again = round.look_again.map_or(round.tend_at, |(at, _)| at);
        let due = round.tend_at.min(round.renew_at).min(again);
        let due = round.resume_at.map_or(due, |at| at.min(due));
        let due = self.gauges.next().map_or(due, |at| at.min(due));
        let now = Instant::now();
        let due = round.put_off.iter().map(|(_, until)| *until).filter(|until| *until > now).fold(due, Instant::min);
        if to_tell == 0 {
            Some(due)
        } else {
            Some(due.min(round.lingering.unwrap_or_else(Instant::now) + round.linger()))
        }
    }

    /// Waits for something to happen; says whether that was the end.
    async fn wait(
        &mut self,
        round: &mut Round,
        until: Option<Instant>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> bool {
        let Some(until) = until else {
            // Busy. Others on this thread have their turn all the same.
            tokio::task::yield_now().await;
            return shutdown.as_mut().now_or_never().is_some();
        };
        let outage = round.failures > 0;
        let left = until.saturating_duration_since(Instant::now());
        let woken = {
            let mut timer = pin!(pause(left));
            let mut heard = pin!(self.bell.heard());
            let mut hinted = pin!(self.source.hinted());
            let mut ended = pin!(self.shared.ended.notified());
            poll_fn(|context| {
                if shutdown.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Over);
                }
                if timer.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Due);
                }
                // While the database is away there is no use in being called.
                if outage {
                    return Poll::Pending;
                }
                if heard.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Called);
                }
                if hinted.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Hinted);
                }
                ended.as_mut().poll(context).map(|()| Woken::Due)
            })
            .await
        };
        if matches!(woken, Woken::Called | Woken::Hinted) {
            round.hungry.fill(true);
            self.source.called();
        }
        if woken == Woken::Hinted {
            round.look_again = Some((Instant::now() + NOTIFY_WINDOW, NOTIFY_WINDOW));
        }
        woken == Woken::Over
    }

    /// Takes nothing more, waits for what runs, and gives the rest back.
    async fn stop(mut self, graceful: bool) -> WorkerReport {
        let shared = Arc::clone(&self.shared);
        let lanes = &shared.lanes;
        lanes.stop_starting();
        self.tracker.close();
        let end = Instant::now() + if graceful { self.settings.grace } else { Duration::ZERO };
        while !self.tracker.is_empty() && Instant::now() < end {
            // Ends are told meanwhile, and leases extended.
            let _ = self.renew(self.lease / 4).await;
            let _ = self.tell().await;
            let left = end.saturating_duration_since(Instant::now()).min(self.lease / 3);
            let mut all_ended = pin!(self.tracker.wait());
            let mut one_ended = pin!(shared.ended.notified());
            select(select(all_ended.as_mut(), one_ended.as_mut()), pin!(pause(left))).await;
        }
        lanes.stop_all(Stop::Shutdown);
        // What waits somewhere stops at once; what is in the middle of something has a moment to
        // get there.
        select(pin!(self.tracker.wait()), pin!(pause(STOP_WITHIN))).await;
        let end = Instant::now() + TELL_WITHIN;
        loop {
            let told = limited(TELL_WITHIN / 2, self.tell()).await;
            if (told.is_ok() && !lanes.has_untold()) || Instant::now() >= end {
                break;
            }
            pause(Duration::from_millis(100)).await;
        }
        shared.attempts.record(&self.queues);
        // What was taken by a statement whose answer got lost.
        let _ = limited(TELL_WITHIN / 2, self.source.give_back(|| lanes.held())).await;
        WorkerReport {
            ran: shared.ran(),
            released: lanes.released(),
            abandoned: lanes.left(),
            refused: shared.refused(),
        }
    }

    /// Tells of ends, and takes nothing.
    async fn tell(&mut self) -> Result<(), SourceError> {
        self.shared.lanes.resume();
        let mut settled = self.shared.lanes.take_settled();
        if !settled.is_empty() {
            let exchanged = self.source.exchange(&settled, &[]).await?;
            settled.told(&exchanged.untold);
        }
        Ok(())
    }
}

/// A worker that is dropped while it runs takes its tasks along: nobody would extend their leases.
struct StopAll(SharedLanes);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_starting();
        self.0.stop_all(Stop::Dropped);
    }
}

/// What a worker was waiting for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// Something is to be done.
    Due,
    /// Somebody says that there is something to take.
    Called,
    /// The same, by a process that may have more to say.
    Hinted,
    /// It is to stop.
    Over,
}

/// How long a task that was told to stop may take to do so.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// How long a worker that stops tries to reach the database: twice, as its connection may be one
/// that hangs.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// Waits for the database, and not for ever.
async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    match select(pin!(work), pin!(pause(limit))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(SourceError::no_answer()),
    }
}

/// How long a queue is left alone at most whose claims fail.
const LONGEST_PUT_OFF: Duration = Duration::from_secs(60);

impl<Src: fmt::Debug, S> fmt::Debug for Engine<Src, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("source", &self.source).finish_non_exhaustive()
    }
}
