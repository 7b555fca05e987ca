//! The table `deferred_tasks`, and what is done with it: the definition.
//!
//! Each method is one transaction, and nobody is in the middle of another one. What several of them
//! do with each other's locks is not said here, nor how many rows one statement takes at most.
//!
//! Must not know: any database, or when a worker does what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::durable::call::milliseconds;
use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;
use crate::durable::row::{NewTask, Schedule};
use crate::durable::worker::source::statements::{ClaimedRow, Ended, Look, Mine, Past, RescuedRow, Since, Unread};
use crate::durable::worker::source::{Claim, Lease, Outcome, Settlement, Unknown, WORKER_DIED, Waiting};

/// Where a call is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It is due, and claims look at it.
    Ready,
    /// It is due, but waits behind another one of its key. No claim looks at it.
    Blocked,
    /// It is due at `run_at`.
    Scheduled,
    /// A worker has it, and nobody else until `lease_until`.
    Running,
    /// A program that cannot read it gave it back. From `run_at` on it is offered again.
    Unknown,
    /// It was given up. It is kept for a while, and can be replayed.
    Dead,
    /// Somebody cancelled it. It is kept for a while, and can be replayed.
    Cancelled,
    /// It ended well, and is kept as a part of the history.
    Done,
}

/// A call. Times are in milliseconds, by the clock of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: TaskId,
    pub(super) task: String,
    pub(super) queue: String,
    pub(super) payload: String,
    /// The lower number runs first.
    pub(super) priority: i16,
    pub(super) max_attempts: i32,
    /// What it is about: calls of one key run one after the other, in the order of their ids.
    pub(super) key: Option<String>,
    /// Until it is started, no other call of its task that waits has this.
    pub(super) unique_key: Option<String>,
    pub(super) state: State,
    pub(super) run_at: i64,
    /// How often a worker has started it.
    pub(super) attempts: i32,
    /// How many of those attempts asked to be run again: they do not count.
    pub(super) snoozes: i32,
    /// How often programs gave it back because they cannot read it, and since when.
    pub(super) refusals: i32,
    pub(super) refused_at: Option<i64>,
    /// A key that it held, or waited for, when it was cancelled or parked, or that the one whose place
    /// it has taken did: a worker looks who is next. Until then it is not ready, and not deleted.
    pub(super) freed_key: Option<String>,
    /// What the call was a part of.
    pub(super) trace_parent: Option<String>,
    pub(super) worker: Option<TaskId>,
    pub(super) lease_until: Option<i64>,
    /// Its worker is to stop it.
    pub(super) cancel_requested: bool,
    /// Of the last attempt that failed.
    pub(super) error: Option<String>,
    pub(super) enqueued_at: i64,
    pub(super) started_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
}

impl Row {
    fn new(call: &NewTask, state: State, run_at: i64, now: i64) -> Self {
        Self {
            id: call.id,
            task: call.task.to_owned(),
            queue: call.queue.clone().into_owned(),
            payload: call.payload.json().to_owned(),
            priority: call.priority,
            max_attempts: i32::from(call.max_attempts),
            key: call.key.clone(),
            unique_key: call.unique_key.clone(),
            state,
            run_at,
            attempts: 0,
            snoozes: 0,
            refusals: 0,
            refused_at: None,
            freed_key: None,
            trace_parent: call.origin.trace_parent().map(str::to_owned),
            worker: None,
            lease_until: None,
            cancel_requested: false,
            error: None,
            enqueued_at: now,
            started_at: None,
            ended_at: None,
        }
    }

    /// Whether it keeps others of its key waiting: it runs, is ready to, or is tried again. One
    /// that is scheduled, and was never tried, keeps nobody waiting.
    pub(super) fn holds_its_key(&self) -> bool {
        match self.state {
            State::Running | State::Ready => true,
            State::Scheduled => self.attempts > 0,
            _ => false,
        }
    }

    /// Whether its `unique_key` counts: it waits, and was never started.
    fn is_unique(&self) -> bool {
        self.attempts == 0 && matches!(self.state, State::Ready | State::Blocked | State::Scheduled | State::Unknown)
    }

    /// The key in which it leaves its place when it goes otherwise than by a worker.
    fn freed_key(&self) -> Option<String> {
        if self.holds_its_key() || self.state == State::Blocked { self.key.clone() } else { self.freed_key.clone() }
    }

    /// The attempts that count.
    fn counted(&self) -> i32 {
        self.attempts - self.snoozes
    }

    /// What is taken first.
    fn order(&self) -> (i16, i64, TaskId) {
        (self.priority, self.run_at, self.id)
    }
}

/// The table, and the clock of its database.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) now: i64,
    pub(super) rows: BTreeMap<TaskId, Row>,
    pub(super) paused: BTreeSet<String>,
}

/// What applications do.
impl Table {
    /// Writes calls, by one statement.
    pub(super) fn enqueue(&mut self, calls: &[NewTask]) {
        for call in calls {
            let run_at = match call.schedule {
                Schedule::Now => self.now,
                Schedule::AfterMs(ms) => self.now + ms,
                Schedule::AtMs(time) => time,
            };
            let state = if run_at > self.now {
                State::Scheduled
            } else if is_behind_another(call, calls) {
                State::Blocked
            } else {
                State::Ready
            };
            let mut row = Row::new(call, state, run_at, self.now);
            if let Some(same) = self.rows.values().find(|other| is_same(&row, other) && other.is_unique()) {
                if !call.replaces {
                    continue;
                }
                // It takes the place of one that waits.
                row.freed_key = same.freed_key();
                if row.freed_key.is_some() {
                    row.state = State::Scheduled;
                }
                let same = same.id;
                self.rows.remove(&same);
            }
            self.rows.insert(row.id, row);
        }
    }

    /// Cancels a call that waits, and has one that runs be stopped. Says how many.
    pub(super) fn cancel(&mut self, id: TaskId) -> usize {
        let now = self.now;
        let Some(row) = self.rows.get_mut(&id) else { return 0 };
        match row.state {
            State::Dead | State::Cancelled | State::Done => return 0,
            State::Running => row.cancel_requested = true,
            State::Ready | State::Blocked | State::Scheduled | State::Unknown => {
                row.freed_key = row.freed_key();
                row.state = State::Cancelled;
                row.ended_at = Some(now);
            }
        }
        row.unique_key = None;
        1
    }

    /// Has a dead letter, or a cancelled call, run again. Says how many.
    pub(super) fn replay(&mut self, id: TaskId) -> usize {
        let now = self.now;
        let ended = |row: &&mut Row| matches!(row.state, State::Dead | State::Cancelled);
        let Some(row) = self.rows.get_mut(&id).filter(ended) else { return 0 };
        row.state = if row.freed_key.is_none() { State::Ready } else { State::Scheduled };
        row.run_at = now;
        row.ended_at = None;
        row.unique_key = None;
        (row.attempts, row.snoozes) = (0, 0);
        (row.refusals, row.refused_at) = (0, None);
        1
    }

    /// Has all dead letters of a task run again. Says how many.
    pub(super) fn replay_dead(&mut self, task: &str) -> usize {
        let dead = self.ids(|row| row.state == State::Dead && row.task == task);
        dead.into_iter().map(|id| self.replay(id)).sum()
    }

    /// Nothing is claimed of this queue until it is resumed.
    pub(super) fn pause(&mut self, queue: &str) {
        self.paused.insert(queue.to_owned());
    }

    pub(super) fn resume(&mut self, queue: &str) -> usize {
        usize::from(self.paused.remove(queue))
    }
}

/// Whether a call of the same statement and key comes before it. What else is in the table is not
/// asked, because who enqueues waits for nothing and reads nothing; a claim finds it out.
fn is_behind_another(call: &NewTask, calls: &[NewTask]) -> bool {
    // Of a given time only the database knows whether it is past, and one that is unique may not be
    // written.
    let is_ready = |call: &NewTask| match call.schedule {
        Schedule::Now => true,
        Schedule::AfterMs(ms) => ms <= 0,
        Schedule::AtMs(_) => false,
    };
    let is_before =
        |other: &NewTask| other.id < call.id && other.key == call.key && other.unique_key.is_none() && is_ready(other);
    call.key.is_some() && is_ready(call) && calls.iter().any(is_before)
}

/// Whether two calls are of one task, and have the same `unique_key`.
fn is_same(row: &Row, other: &Row) -> bool {
    row.id != other.id && row.task == other.task && row.unique_key.is_some() && row.unique_key == other.unique_key
}

/// What workers do.
impl Table {
    /// Takes the first calls of a queue that are ready: so many at most, and so many bytes, but one
    /// at least. Each of them is started at once, and that is an attempt.
    ///
    /// Those whose turn it is not are blocked. A database looks at some of them at a time: it may leave
    /// others ready, and take fewer if it says that there may be more.
    pub(super) fn claim(&mut self, lease: &Lease, claim: &Claim) -> Vec<ClaimedRow> {
        let front = self.front(&claim.queue);
        let (its_turn, not_its_turn): (Vec<_>, Vec<_>) = front.into_iter().partition(|id| self.is_its_turn(*id));
        for id in not_its_turn {
            self.set(id, State::Blocked);
        }
        let (mut claimed, mut bytes) = (Vec::new(), 0);
        for id in its_turn.into_iter().take(claim.limit as usize) {
            if bytes == 0 || bytes < claim.bytes {
                let row = self.start(id, lease);
                bytes += row.payload.len() as i64;
                claimed.push(row);
            }
        }
        claimed
    }

    /// Whether there is something to take.
    pub(super) fn can_take(&self, queue: &str) -> bool {
        self.front(queue).into_iter().any(|id| self.is_its_turn(id))
    }

    /// The calls of a queue that are ready, in their order, if it is not paused.
    fn front(&self, queue: &str) -> Vec<TaskId> {
        if self.paused.contains(queue) {
            return Vec::new();
        }
        let mut ready = self.ids(|row| row.state == State::Ready && row.queue == queue);
        ready.sort_by_key(|id| self.rows[id].order());
        ready
    }

    /// Whether none of its key runs, and none that is due, or is tried again, is before it.
    pub(super) fn is_its_turn(&self, id: TaskId) -> bool {
        let row = &self.rows[&id];
        let is_before = |other: &Row| other.id < id && (other.holds_its_key() || other.state == State::Blocked);
        let is_in_the_way =
            |other: &Row| other.id != id && other.key == row.key && (other.state == State::Running || is_before(other));
        row.key.is_none() || !self.rows.values().any(is_in_the_way)
    }

    /// Whether this one can be taken from a queue.
    pub(super) fn can_take_one(&self, id: TaskId, queue: &str) -> bool {
        self.front(queue).contains(&id) && self.is_its_turn(id)
    }

    pub(super) fn start(&mut self, id: TaskId, lease: &Lease) -> ClaimedRow {
        let now = self.now;
        let row = self.row(id);
        row.state = State::Running;
        row.attempts += 1;
        row.worker = Some(lease.worker);
        row.lease_until = Some(now + milliseconds(lease.duration));
        row.started_at = Some(now);
        ClaimedRow {
            id,
            task: row.task.clone(),
            payload: row.payload.clone(),
            attempts: row.counted(),
            max_attempts: row.max_attempts,
            priority: row.priority,
            run_at_ms: row.run_at,
            key: row.key.clone(),
            refusals: row.refusals,
            started_at_ms: now,
            trace_parent: row.trace_parent.clone(),
        }
    }

    /// An attempt of this worker's ended, which is of no interest where the call is not this
    /// worker's any more, or again: in a later attempt. Only what is done is done, whichever attempt
    /// that was. Says whether it was of interest.
    pub(super) fn settle(&mut self, lease: &Lease, settlement: &Settlement) -> bool {
        let is_this_attempt =
            |row: &Row| settlement.outcome == Outcome::Done || row.started_at == Some(settlement.started_at_ms);
        let is_mine =
            |row: &Row| row.state == State::Running && row.worker == Some(lease.worker) && is_this_attempt(row);
        let is_mine = self.rows.get(&settlement.id).is_some_and(is_mine);
        if is_mine {
            match settlement.outcome {
                Outcome::Done if lease.keeps_done => self.keep(settlement.id),
                _ => {
                    self.row(settlement.id).attempts -= settlement.unstarted;
                    self.end(settlement.id, &settlement.outcome);
                }
            }
        }
        if let Some(key) = &settlement.key {
            self.elect(key);
        }
        is_mine
    }

    fn end(&mut self, id: TaskId, outcome: &Outcome) {
        let now = self.now;
        let row = self.row(id);
        let mut state = match outcome {
            Outcome::Done => None,
            Outcome::Retry { after, error } => {
                row.run_at = now + milliseconds(*after);
                row.error = Some(error.clone());
                Some(State::Scheduled)
            }
            Outcome::Snoozed(after) => {
                row.run_at = now + milliseconds(*after);
                row.snoozes += 1;
                Some(State::Scheduled)
            }
            Outcome::Released { started } => {
                row.attempts -= i32::from(!started);
                Some(State::Ready)
            }
            Outcome::Refused { after, error } => {
                row.run_at = now + milliseconds(*after);
                row.error = Some(error.clone());
                row.attempts -= 1;
                row.refusals += 1;
                row.refused_at = row.refused_at.or(Some(now));
                Some(State::Unknown)
            }
            Outcome::Dead(error) => {
                row.error = Some(error.clone());
                Some(State::Dead)
            }
            Outcome::Cancelled => Some(State::Cancelled),
        };
        if row.cancel_requested {
            state = state.map(|state| if state == State::Dead { state } else { State::Cancelled });
        }
        self.stop(id, state);
    }

    /// It ended well, and stays: how it ran, and not what it was given.
    fn keep(&mut self, id: TaskId) {
        let now = self.now;
        let row = self.row(id);
        (row.state, row.ended_at) = (State::Done, Some(now));
        (row.lease_until, row.cancel_requested) = (None, false);
        (row.payload, row.error, row.unique_key) = ("{}".to_owned(), None, None);
    }

    /// An attempt has ended, and the call goes on like this, or is gone.
    fn stop(&mut self, id: TaskId, state: Option<State>) {
        let now = self.now;
        let row = self.row(id);
        (row.worker, row.lease_until, row.cancel_requested) = (None, None, false);
        match state {
            None => drop(self.rows.remove(&id)),
            Some(state) => {
                row.state = state;
                if matches!(state, State::Dead | State::Cancelled) {
                    row.ended_at = Some(now);
                }
                // It waits as if it had never been started. Where another one has come meanwhile
                // that is the same, they are two.
                let row = &self.rows[&id];
                if row.is_unique() && self.rows.values().any(|other| is_same(row, other) && other.is_unique()) {
                    self.row(id).unique_key = None;
                }
            }
        }
    }

    /// The first one that is blocked of this key is ready, if it is its turn.
    fn elect(&mut self, key: &str) {
        let blocked = self.ids(|row| row.state == State::Blocked && row.key.as_deref() == Some(key));
        if let Some(first) = blocked.first().copied().filter(|first| self.is_its_turn(*first)) {
            self.set(first, State::Ready);
        }
    }

    /// What this worker has.
    pub(super) fn mine(&self, worker: TaskId) -> Vec<Mine> {
        let mine = self.rows.values().filter(|row| row.state == State::Running && row.worker == Some(worker));
        let mine = mine.map(|row| Mine {
            id: row.id,
            key: row.key.clone(),
            started_at_ms: row.started_at.unwrap_or_default(),
        });
        mine.collect()
    }

    /// Extends leases. Says which of the calls are still this worker's, and whether they are to be
    /// cancelled.
    pub(super) fn renew(&mut self, lease: &Lease, tasks: &[TaskId]) -> Vec<(TaskId, bool)> {
        let until = self.now + milliseconds(lease.duration);
        let mut renewed = Vec::new();
        for Mine { id, .. } in self.mine(lease.worker) {
            if tasks.contains(&id) {
                self.row(id).lease_until = Some(until);
                renewed.push((id, self.rows[&id].cancel_requested));
            }
        }
        renewed
    }

    /// Takes back the calls whose lease has ended.
    pub(super) fn rescue(&mut self) -> Vec<RescuedRow> {
        let ended = self.ids(|row| row.lease_until.is_some_and(|until| until < self.now));
        let mut rescued = Vec::new();
        for id in ended {
            let row = self.row(id);
            row.error = Some(WORKER_DIED.to_owned());
            let (state, name) = if row.cancel_requested {
                (State::Cancelled, "cancelled")
            } else if row.counted() >= row.max_attempts {
                (State::Dead, "dead")
            } else {
                (State::Ready, "ready")
            };
            let key = row.key.clone();
            rescued.push((id, row.task.clone(), row.counted(), name.to_owned(), key.clone()));
            self.stop(id, Some(state));
            if let Some(key) = key {
                self.elect(&key);
            }
        }
        rescued
    }

    /// What there is for a worker on these queues. Of what is due, and of leases that end, it sees
    /// what does so from a time on.
    pub(super) fn look(&self, from: &Since) -> Look {
        let rows = || self.rows.values();
        let since = from.since_ms.unwrap_or(i64::MIN);
        let is_ours = |row: &Row| from.queues.iter().any(|(queue, _)| **queue == *row.queue);
        let has_ended = |row: &Row| row.lease_until.is_some_and(|until| (since..self.now).contains(&until));
        let scheduled = rows().filter(|row| row.state == State::Scheduled).map(|row| row.run_at);
        Look {
            now_ms: self.now,
            next_scheduled_ms: scheduled.filter(|run_at| *run_at >= since).min(),
            next_lease_end_ms: rows().filter_map(|row| row.lease_until).min().filter(|_| from.since_ms.is_none()),
            lease_ended: rows().any(has_ended),
            freed: rows().any(|row| row.freed_key.is_some()),
            ready: rows().any(|row| row.state == State::Ready && is_ours(row)),
        }
    }

    /// What there is that is in no hurry.
    pub(super) fn look_back(&self) -> Past {
        let unknown = self.rows.values().filter(|row| row.state == State::Unknown);
        let ended = self.rows.values().filter(|row| matches!(row.state, State::Dead | State::Cancelled));
        Past {
            oldest_end_ms: ended.filter_map(|row| row.ended_at).min(),
            oldest_refusal_ms: unknown.filter_map(|row| row.refused_at).min(),
            last_lease_end_ms: self.rows.values().filter_map(|row| row.lease_until).max(),
            version: Some(SCHEMA_VERSION),
        }
    }

    /// Whether there is something in these queues that is ready, or would be by what is done
    /// periodically.
    pub(super) fn has_due(&self, queues: &[Arc<str>]) -> bool {
        let is_due = |row: &Row| match row.state {
            State::Ready => true,
            State::Scheduled => row.run_at <= self.now,
            State::Running => row.lease_until.is_some_and(|until| until < self.now),
            _ => false,
        };
        let is_ours = |row: &Row| queues.iter().any(|queue| **queue == *row.queue) && !self.paused.contains(&row.queue);
        self.rows.values().any(|row| row.freed_key.is_some() || (is_due(row) && is_ours(row)))
    }

    /// How much of each of these queues is ready.
    pub(super) fn waiting(&self, queues: &[Arc<str>]) -> Vec<Waiting> {
        let waiting = queues.iter().map(|queue| {
            let ready: Vec<_> =
                self.rows.values().filter(|row| row.state == State::Ready && *row.queue == **queue).collect();
            let oldest = ready.iter().map(|row| row.run_at).min();
            (ready.len() as i64, oldest.map(|oldest| self.now - oldest))
        });
        waiting.collect()
    }

    /// What started in the time to come, and is leased for longer than this worker's leases are, is
    /// leased from now on: the clock has gone back. A lease that ends before that start was renewed
    /// since. Says how many.
    pub(super) fn start_anew(&mut self, lease: &Lease) -> usize {
        let (now, longest) = (self.now, milliseconds(lease.duration));
        let mut count = 0;
        for row in self.rows.values_mut() {
            if let (Some(started), Some(until)) = (row.started_at, row.lease_until)
                && started > now
                && until > now + longest
                && until > started
            {
                row.lease_until = Some(now + longest.max(until - started));
                count += 1;
            }
        }
        count
    }

    /// What was scheduled, and is due, is ready. Says how many.
    pub(super) fn promote(&mut self) -> usize {
        self.make_ready(|row, now| row.state == State::Scheduled && row.run_at <= now && row.freed_key.is_none())
    }

    /// What no program could read so far, of this task, is ready. Says how many.
    pub(super) fn adopt(&mut self, task: &str, unread: Unread) -> usize {
        let now = self.now;
        let is_meant = |row: &Row| unread == Unread::All || row.run_at <= now;
        self.rows.values_mut().filter(|row| row.state == State::Unknown).for_each(|row| {
            if row.task == task && is_meant(row) && row.freed_key.is_none() {
                row.run_at = row.run_at.min(now);
            }
        });
        self.make_ready(|row, now| {
            row.state == State::Unknown && row.task == task && row.run_at <= now && row.freed_key.is_none()
        })
    }

    /// Leaves what is ready of a task to a program that has it, but for what such a program has
    /// offered again. Says how many. Who waits behind their keys is looked for later.
    pub(super) fn park(&mut self, unknown: &Unknown) -> usize {
        let now = self.now;
        let is_parked = |row: &&mut Row| {
            row.state == State::Ready && row.refusals == 0 && *row.queue == *unknown.queue && row.task == unknown.task
        };
        let parked = self.rows.values_mut().filter(is_parked).map(|row| {
            row.freed_key = row.key.clone();
            (row.state, row.run_at, row.refusals) = (State::Unknown, now, 1);
            row.refused_at = row.refused_at.or(Some(now));
            row.error = Some(unknown.error.clone());
        });
        parked.count()
    }

    fn make_ready(&mut self, which: impl Fn(&Row, i64) -> bool) -> usize {
        let ids = self.ids(|row| which(row, self.now));
        ids.iter().for_each(|id| self.set(*id, State::Ready));
        ids.len()
    }

    /// The next task behind this one of which there are calls that no program could read, and
    /// whether one of them is offered again.
    pub(super) fn next_unknown(&self, behind: &str) -> Option<(String, bool)> {
        let unknown = self.rows.values().filter(|row| row.state == State::Unknown && *row.task > *behind);
        let next = unknown.min_by_key(|row| (&row.task, row.run_at))?;
        Some((next.task.clone(), next.run_at <= self.now))
    }

    /// Gives up what no program could read for so long.
    pub(super) fn give_up_refused(&mut self, after: Duration) -> Vec<RescuedRow> {
        let now = self.now;
        let before = now - milliseconds(after);
        let old = self.ids(|row| row.state == State::Unknown && row.refused_at.is_some_and(|at| at < before));
        let give_up = |id| {
            let row = self.row(id);
            (row.state, row.ended_at) = (State::Dead, Some(now));
            (id, row.task.clone(), row.counted(), "dead".to_owned(), row.key.clone())
        };
        old.into_iter().map(give_up).collect()
    }

    /// The calls that left a key otherwise than by a worker, and the keys.
    pub(super) fn freed(&self) -> Vec<(TaskId, String)> {
        self.rows.values().filter_map(|row| Some((row.id, row.freed_key.clone()?))).collect()
    }

    /// Looks who waits behind these keys.
    pub(super) fn free_keys(&mut self, freed: &[(TaskId, String)]) {
        for (id, key) in freed {
            self.elect(key);
            if let Some(row) = self.rows.get_mut(id).filter(|row| row.freed_key.as_ref() == Some(key)) {
                row.freed_key = None;
            }
        }
    }

    /// Deletes what ended so long ago, if no worker has to look who is next. Says how many.
    pub(super) fn prune(&mut self, ended: Ended, kept: Duration) -> usize {
        let before = self.now - milliseconds(kept);
        let is_such = |row: &Row| (row.state == State::Done) == (ended == Ended::Well);
        let old =
            self.ids(|row| row.ended_at.is_some_and(|ended| ended < before) && is_such(row) && row.freed_key.is_none());
        old.iter().for_each(|id| drop(self.rows.remove(id)));
        old.len()
    }
}

impl Table {
    /// The ids of some rows, in their order.
    fn ids(&self, which: impl Fn(&Row) -> bool) -> Vec<TaskId> {
        self.rows.values().filter(|row| which(row)).map(|row| row.id).collect()
    }

    /// A row that is there.
    fn row(&mut self, id: TaskId) -> &mut Row {
        self.rows.get_mut(&id).unwrap_or_else(|| panic!("no row {id}"))
    }

    fn set(&mut self, id: TaskId, state: State) {
        self.row(id).state = state;
    }
}
