//! The tasks of one queue that this worker has taken, and the bounded number of runners that run
//! them.
//!
//! Must not know: where tasks come from, or how they are run.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::errors::AbandonedAttempt;
use super::source::{Claimed, Outcome, Settlement};
use crate::durable::id::TaskId;

/// All that a worker has taken and not told the source of yet.
#[derive(Debug)]
pub(super) struct Lanes {
    inner: Mutex<Inner>,
    lease: Duration,
}

#[derive(Debug)]
struct Inner {
    lanes: Vec<Lane>,
    flights: BTreeMap<TaskId, Flight>,
    settled: Vec<Settlement>,
    /// Ends that could not be told, because somebody has locked their rows.
    put_off: Vec<Settlement>,
    /// How many bytes of arguments the flights have.
    bytes: i64,
    /// How many were given back.
    released: usize,
    /// No task is started any more.
    stopping: bool,
}

#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Claimed>,
    runners: usize,
    concurrency: usize,
    /// How many attempts have ended since ends were last taken to be told.
    ended: usize,
}

/// A task that was taken.
#[derive(Debug)]
struct Flight {
    leased: Instant,
    stop: CancellationToken,
    why: Option<Stop>,
    task: String,
    key: Option<String>,
    started_at_ms: i64,
    bytes: i64,
    started: bool,
    /// When it was due.
    run_at_ms: i64,
    /// How many of its attempts were none: it was taken anew.
    unstarted: i32,
}

/// Why a task that runs is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked for that.
    Cancelled,
    /// Its lease has ended: another worker may have it.
    LeaseLost,
    /// The worker stops.
    Shutdown,
    /// The worker was dropped: nobody tells of ends any more.
    Dropped,
}

impl Stop {
    /// Whether the worker ends.
    pub(super) fn is_end(self) -> bool {
        matches!(self, Self::Shutdown | Self::Dropped)
    }
}

impl Lanes {
    pub(super) fn new(concurrencies: impl IntoIterator<Item = usize>, lease: Duration) -> Self {
        let lane = |concurrency| Lane { waiting: VecDeque::new(), runners: 0, concurrency, ended: 0 };
        let inner = Inner {
            lanes: concurrencies.into_iter().map(lane).collect(),
            flights: BTreeMap::new(),
            settled: Vec::new(),
            put_off: Vec::new(),
            bytes: 0,
            released: 0,
            stopping: false,
        };
        Self { inner: Mutex::new(inner), lease }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what was claimed; says how many runners each lane is to get more. A task that
    /// runs here already, because its lease had ended and it was taken anew, goes on with the new
    /// lease; that was no attempt.
    pub(super) fn take_over(&self, claimed: Vec<Claimed>, leased: Instant) -> Vec<(usize, usize)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for task in claimed {
            inner.forget_told(&task);
            if let Some(flight) = inner.flights.get_mut(&task.id) {
                flight.leased = leased;
                flight.started_at_ms = task.started_at_ms;
                flight.unstarted += 1;
                // Where it has ended meanwhile, that is how this attempt ends, too.
                let untold = inner.settled.iter_mut().chain(&mut inner.put_off);
                for settlement in untold.filter(|settlement| settlement.id == task.id) {
                    settlement.started_at_ms = task.started_at_ms;
                    settlement.unstarted = flight.unstarted;
                }
                flight.why = flight.why.filter(|why| *why != Stop::LeaseLost);
                continue;
            }
            let flight = Flight {
                leased,
                stop: CancellationToken::new(),
                why: None,
                task: task.task.clone(),
                key: task.key.clone(),
                started_at_ms: task.started_at_ms,
                bytes: i64::try_from(task.payload.len()).unwrap_or(i64::MAX),
                started: false,
                run_at_ms: task.run_at_ms,
                unstarted: 0,
            };
            inner.bytes = inner.bytes.saturating_add(flight.bytes);
            inner.flights.insert(task.id, flight);
            inner.lanes[task.lane].waiting.push_back(task);
        }
        let mut wanted = Vec::new();
        for (at, lane) in inner.lanes.iter_mut().enumerate() {
            let more = lane.waiting.len().min(lane.concurrency - lane.runners);
            if more > 0 {
                lane.runners += more;
                wanted.push((at, more));
            }
        }
        wanted
    }

    /// The next task for a runner of this lane; without one the runner ends.
    pub(super) fn next(&self, lane: usize) -> Option<(Claimed, CancellationToken)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        while let Some(task) = inner.lanes[lane].waiting.pop_front().filter(|_| !inner.stopping) {
            let Some(flight) = inner.flights.get_mut(&task.id) else { continue };
            if flight.leased.elapsed() < self.lease {
                flight.started = true;
                let stop = flight.stop.clone();
                return Some((task, stop));
            }
            // Somebody else may have begun it by now: this process stood still, or cannot reach the
            // database.
            inner.settle(task.id, Outcome::Released { started: false });
        }
        inner.lanes[lane].runners -= 1;
        None
    }

    /// An attempt ended; says whether nothing waits in its lane, and how many ends wait to be told.
    pub(super) fn ended(&self, lane: usize, id: TaskId, outcome: Outcome) -> (bool, usize) {
        let mut inner = self.lock();
        inner.settle(id, outcome);
        inner.lanes[lane].ended += 1;
        (inner.lanes[lane].waiting.is_empty(), inner.settled.len())
    }

    /// Why this task was told to stop.
    pub(super) fn why(&self, id: TaskId) -> Option<Stop> {
        self.lock().flights.get(&id)?.why
    }

    /// Whether this task was begun.
    pub(super) fn has_started(&self, id: TaskId) -> bool {
        self.lock().flights.get(&id).is_some_and(|flight| flight.started)
    }

    /// Forgets a task without telling of it: it is somebody else's, or goes on where nobody waits
    /// for it.
    pub(super) fn forget(&self, id: TaskId) {
        self.lock().remove(id);
    }

    /// Takes the ends that are to be told. They are forgotten only when that has been done.
    pub(super) fn take_settled(self: &Arc<Self>) -> Telling {
        let mut inner = self.lock();
        inner.lanes.iter_mut().for_each(|lane| lane.ended = 0);
        Telling { settled: std::mem::take(&mut inner.settled), lanes: Arc::clone(self) }
    }

    /// Whether there are ends that were not told.
    pub(super) fn has_untold(&self) -> bool {
        let inner = self.lock();
        !inner.settled.is_empty() || !inner.put_off.is_empty()
    }

    /// What was put off is to be told now.
    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        let mut put_off = std::mem::take(&mut inner.put_off);
        inner.settled.append(&mut put_off);
    }

    /// How many ends wait to be told, and whether there is a lane of theirs in which nothing runs
    /// any more, so that nothing else can end.
    pub(super) fn to_tell(&self) -> (usize, bool) {
        let inner = self.lock();
        let idle = inner.lanes.iter().any(|lane| lane.ended > 0 && lane.runners == 0);
        let released = inner.settled.len() > inner.lanes.iter().map(|lane| lane.ended).sum();
        (inner.settled.len(), idle || released)
    }

    /// How many tasks each lane has a use for now: one for each free runner.
    pub(super) fn free(&self) -> Vec<usize> {
        self.lock().lanes.iter().map(|lane| lane.concurrency - lane.runners).collect()
    }

    /// How many bytes of arguments are in these hands.
    pub(super) fn bytes(&self) -> i64 {
        self.lock().bytes
    }

    /// Whether nothing of this lane runs.
    pub(super) fn is_empty(&self, lane: usize) -> bool {
        self.lock().lanes[lane].runners == 0
    }

    /// Whether nothing is in these hands.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().flights.is_empty()
    }

    /// All that is in these hands.
    pub(super) fn held(&self) -> HashSet<TaskId> {
        self.lock().flights.keys().copied().collect()
    }

    /// The tasks whose lease was last extended before `time`.
    pub(super) fn leased_before(&self, time: Instant) -> Vec<TaskId> {
        let inner = self.lock();
        inner.flights.iter().filter(|(_, flight)| flight.leased < time).map(|(id, _)| *id).collect()
    }

    /// Of `asked`, these are still ours, and leased anew; the others are stopped.
    pub(super) fn renewed(&self, asked: &[TaskId], ours: &HashMap<TaskId, bool>, leased: Instant) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for id in asked {
            // One that has ended meanwhile is told of as it is.
            let Some(flight) = inner.flights.get_mut(id) else { continue };
            match ours.get(id) {
                Some(false) => flight.leased = leased,
                Some(true) => {
                    flight.leased = leased;
                    flight.why = flight.why.or(Some(Stop::Cancelled));
                    flight.stop.cancel();
                }
                None => {
                    flight.why = Some(Stop::LeaseLost);
                    flight.stop.cancel();
                    if !flight.started {
                        inner.remove(*id);
                        inner.lanes.iter_mut().for_each(|lane| lane.waiting.retain(|task| task.id != *id));
                    }
                }
            }
        }
    }

    /// Starts nothing any more: what waits goes back.
    pub(super) fn stop_starting(&self) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.stopping = true;
        let waiting: Vec<_> = inner.lanes.iter_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        waiting.into_iter().for_each(|task| inner.settle(task.id, Outcome::Released { started: false }));
    }

    /// Stops all that runs.
    pub(super) fn stop_all(&self, why: Stop) {
        let mut inner = self.lock();
        for flight in inner.flights.values_mut() {
            flight.why = flight.why.or(Some(why));
            flight.stop.cancel();
        }
    }

    /// How many tasks were given back.
    pub(super) fn released(&self) -> usize {
        self.lock().released
    }

    /// The tasks that the source was not told of, by name.
    pub(super) fn left(&self) -> Vec<AbandonedAttempt> {
        let inner = self.lock();
        let left = inner.flights.iter().map(|(id, flight)| AbandonedAttempt { id: *id, task: flight.task.clone() });
        let mut left: Vec<_> = left.collect();
        left.sort_unstable_by_key(|attempt| attempt.id);
        left
    }
}

impl Inner {
    /// What is to be told of a task.
    fn settle(&mut self, id: TaskId, outcome: Outcome) {
        if let Some(Flight { started_at_ms, key, unstarted, .. }) = self.flights.get(&id) {
            let (started_at_ms, unstarted) = (*started_at_ms, *unstarted);
            self.settled.push(Settlement { id, started_at_ms, key: key.clone(), unstarted, outcome });
        }
    }

    /// Where the end of an attempt waits to be told, and its task was taken anew and is due at another
    /// time than then, that end was told of and the answer got lost, or was that of a later attempt of
    /// another worker's: this is the next attempt. What is done is done: told of, there is no row.
    fn forget_told(&mut self, task: &Claimed) {
        if self.flights.get(&task.id).is_none_or(|flight| flight.run_at_ms == task.run_at_ms) {
            return;
        }
        let is_over = |settlement: &Settlement| settlement.id == task.id && settlement.outcome != Outcome::Done;
        let untold = self.settled.len() + self.put_off.len();
        self.settled.retain(|settlement| !is_over(settlement));
        self.put_off.retain(|settlement| !is_over(settlement));
        if self.settled.len() + self.put_off.len() < untold {
            self.remove(task.id);
        }
    }

    /// A task is in these hands no more.
    fn remove(&mut self, id: TaskId) {
        if let Some(flight) = self.flights.remove(&id) {
            self.bytes -= flight.bytes;
        }
    }
}

/// Ends that are being told. Where that fails, or nobody waits for it any more, they are to be told
/// again.
pub(super) struct Telling {
    lanes: SharedLanes,
    settled: Vec<Settlement>,
}

impl Telling {
    /// They were told, but for these, which are put off.
    pub(super) fn told(&mut self, untold: &[TaskId]) {
        let mut inner = self.lanes.lock();
        let (left, told): (Vec<_>, Vec<_>) =
            self.settled.drain(..).partition(|settlement| untold.contains(&settlement.id));
        inner.put_off.extend(left);
        for settlement in told {
            inner.remove(settlement.id);
            inner.released += usize::from(matches!(settlement.outcome, Outcome::Released { .. }));
        }
    }
}

impl Deref for Telling {
    type Target = [Settlement];

    fn deref(&self) -> &[Settlement] {
        &self.settled
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let mut inner = self.lanes.lock();
        self.settled.append(&mut inner.settled);
        inner.settled = std::mem::take(&mut self.settled);
    }
}

/// The lanes, as runners and the worker share them.
pub(super) type SharedLanes = Arc<Lanes>;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Lanes;
    use crate::durable::id::TaskId;
    use crate::durable::worker::source::{Claimed, Outcome};

    /// The attempt of one task, which was due then.
    fn attempt(attempt: i32, run_at_ms: i64) -> Claimed {
        Claimed {
            lane: 0,
            id: TaskId::from(uuid::Uuid::nil()),
            task: "mail".to_owned(),
            payload: "{}".to_owned(),
            attempt,
            max_attempts: 3,
            key: None,
            refusals: 0,
            run_at_ms,
            started_at_ms: attempt.into(),
            trace_parent: None,
        }
    }

    fn lanes() -> Arc<Lanes> {
        let lanes = Arc::new(Lanes::new([1], Duration::from_secs(60)));
        lanes.take_over(vec![attempt(1, 0)], Instant::now());
        assert!(lanes.next(0).is_some());
        lanes
    }

    fn retry() -> Outcome {
        Outcome::Retry { after: Duration::from_secs(1), error: "it failed".to_owned() }
    }

    #[test]
    fn d19_what_runs_already_goes_on_and_gives_the_attempt_back() {
        let lanes = lanes();
        lanes.take_over(vec![attempt(2, 0)], Instant::now());
        lanes.ended(0, attempt(1, 0).id, retry());
        let settled = lanes.take_settled();
        assert_eq!((settled[0].started_at_ms, settled[0].unstarted), (2, 1));
        assert!(lanes.next(0).is_none(), "it is not begun twice");
    }

    #[test]
    fn d19_what_another_worker_has_begun_meanwhile_stays_spent() {
        let lanes = lanes();
        lanes.take_over(vec![attempt(3, 0)], Instant::now());
        lanes.ended(0, attempt(1, 0).id, retry());
        assert_eq!(lanes.take_settled()[0].unstarted, 1, "the second attempt was another worker's");
    }

    #[test]
    fn what_is_done_is_done_whatever_it_was_taken_anew_for() {
        let lanes = lanes();
        lanes.ended(0, attempt(1, 0).id, Outcome::Done);
        lanes.take_over(vec![attempt(3, 1_000)], Instant::now());
        assert!(lanes.next(0).is_none(), "it is not begun again");
        assert_eq!(lanes.take_settled()[0].outcome, Outcome::Done);
    }

    #[test]
    fn d19_what_was_told_of_and_is_due_anew_is_begun() {
        let lanes = lanes();
        lanes.ended(0, attempt(1, 0).id, retry());
        lanes.take_over(vec![attempt(2, 1_000)], Instant::now());
        assert_eq!(lanes.next(0).map(|(task, _)| task.attempt), Some(2));
        assert!(!lanes.has_untold(), "the end of the first attempt was told of");
    }
}
