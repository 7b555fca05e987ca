//! Watches the table and the bodies of tasks, and says what is not as it was promised:
//! * nothing is lost: a call goes only when a body of it has ended well, or another one of its
//!   `unique` key takes its place;
//! * nothing runs twice within a lease: a body that starts has its row to itself;
//! * no attempt is spent unstarted, unless its worker died, or several things went wrong in a row;
//!   and none starts more often than `max_attempts` says;
//! * calls of one key run one after the other, in their order;
//! * whatever waits for its key has somebody to wait for.
//!
//! Must not know: how a worker works.

use std::collections::{BTreeMap, BTreeSet};

use crate::durable::id::TaskId;
use crate::durable::row::NewTask;
use crate::durable::worker::model::calls::number;
use crate::durable::worker::model::table::{Row, State, Table};

/// What is known from elsewhere than the table.
#[derive(Default)]
pub(super) struct Witness {
    calls: BTreeMap<TaskId, Call>,
    claims: BTreeMap<TaskId, Claim>,
    workers: BTreeMap<TaskId, Worker>,
    /// The bodies that run: of which call, by which worker.
    bodies: BTreeSet<(TaskId, TaskId)>,
    /// How often the database's clock has jumped.
    pub(super) jumps: u32,
    /// How many statements may go wrong behind a claim whose answer got lost, so that the lease is
    /// long enough all the same.
    pub(super) spare: u32,
    /// What was not as it was promised.
    pub(super) wrong: Vec<String>,
}

#[derive(Default)]
struct Call {
    /// How often a body of it has begun, since it was replayed last.
    starts: i32,
    /// How many attempts were spent unstarted, for a reason that counts.
    excused: i32,
    /// A body of it has ended well.
    ended_well: bool,
    /// Another one of its `unique` key stands in its place.
    dropped: bool,
    cancelled: bool,
}

/// What was claimed, as long as it is leased.
struct Claim {
    worker: TaskId,
    attempts: i32,
    started: bool,
    /// How many statements of its worker had gone wrong.
    faults: u32,
    /// How often the clock had jumped.
    jumps: u32,
}

#[derive(Default)]
struct Worker {
    gone: bool,
    /// How many of its statements went wrong.
    faults: u32,
}

impl Witness {
    pub(super) fn enqueued(&mut self, calls: &[NewTask], before: &Table, after: &Table) {
        for call in calls {
            let dropped = !after.rows.contains_key(&call.id);
            if dropped && call.unique_key.is_none() {
                self.tell(format!("{} was not written", number(call.id)));
            }
            self.calls.insert(call.id, Call { dropped, ..Call::default() });
        }
        for id in before.rows.keys().filter(|id| !after.rows.contains_key(id)) {
            self.call(*id).dropped = true;
        }
    }

    pub(super) fn cancelled(&mut self, id: TaskId) {
        self.call(id).cancelled = true;
    }

    pub(super) fn replayed(&mut self, id: TaskId) {
        let call = self.call(id);
        (call.starts, call.excused, call.cancelled) = (0, 0, false);
    }

    /// A statement went wrong, or took long.
    pub(super) fn fault(&mut self, worker: TaskId) {
        self.workers.entry(worker).or_default().faults += 1;
    }

    pub(super) fn gone(&mut self, worker: TaskId) {
        self.workers.entry(worker).or_default().gone = true;
        self.bodies.retain(|(_, by)| *by != worker);
    }

    /// Something is not as it was promised. It is told once.
    pub(super) fn tell(&mut self, what: String) {
        if !self.wrong.contains(&what) {
            self.wrong.push(what);
        }
    }

    fn call(&mut self, id: TaskId) -> &mut Call {
        self.calls.entry(id).or_default()
    }

    /// A body begins.
    pub(super) fn started(&mut self, table: &Table, worker: TaskId, id: TaskId, attempt: i32) {
        let jumps = self.jumps;
        self.call(id).starts += 1;
        let twice = !self.bodies.insert((id, worker));
        let who = number(id);
        if twice {
            self.tell(format!("{who} was started twice by one worker"));
        }
        let row = table.rows.get(&id);
        let is_mine = row.is_some_and(|row| {
            row.state == State::Running
                && row.worker == Some(worker)
                && row.lease_until.is_some_and(|until| until >= table.now)
        });
        match self.claims.get_mut(&id) {
            Some(claim) if claim.worker == worker => {
                claim.started = true;
                if !is_mine && claim.jumps == jumps {
                    self.tell(format!("{who} was started behind the end of its lease"));
                }
            }
            // Rescued by another one, because the clock jumped: nobody could know.
            _ if is_mine => self.tell(format!("{who} was started without a claim")),
            _ => {}
        }
        if let Some(row) = row
            && is_mine
        {
            let starts = self.calls[&id].starts;
            if attempt != row.attempts - row.snoozes {
                self.tell(format!("{who} was told attempt {attempt}, and is at {}", row.attempts - row.snoozes));
            }
            if starts - row.snoozes > row.max_attempts {
                self.tell(format!("{who} was started {starts} times, and has {} attempts", row.max_attempts));
            }
        }
    }

    /// A body has ended, or was stopped.
    pub(super) fn ended(&mut self, worker: TaskId, id: TaskId, well: bool) {
        if self.bodies.remove(&(id, worker)) {
            self.call(id).ended_well |= well;
        }
    }

    /// Looks at the table, which has changed.
    pub(super) fn look(&mut self, table: &Table) {
        for (id, row) in &table.rows {
            self.look_at_claim(*id, row, table);
        }
        let is_gone = |id: &TaskId| !table.rows.contains_key(id);
        self.claims.retain(|id, _| !is_gone(id));
        let lost = self.calls.iter().filter(|(id, call)| is_gone(id) && !call.dropped && !call.ended_well);
        let lost: Vec<_> = lost.map(|(id, _)| format!("{} is gone, and has not ended well", number(*id))).collect();
        lost.into_iter().for_each(|what| self.tell(what));
        self.look_at_keys(table);
    }

    fn look_at_claim(&mut self, id: TaskId, row: &Row, table: &Table) {
        let who = number(id);
        let is_the_same = |claim: &Claim| {
            row.state == State::Running && row.worker == Some(claim.worker) && row.attempts == claim.attempts
        };
        if self.claims.get(&id).is_some_and(is_the_same) {
            return;
        }
        if let Some(claim) = self.claims.remove(&id)
            && !claim.started
            && row.attempts >= claim.attempts
        {
            let worker = self.workers.entry(claim.worker).or_default();
            // Its answer may have got lost, which a worker makes good; but not one thing after the
            // other, until the lease has ended.
            if !worker.gone && worker.faults <= claim.faults + self.spare && claim.jumps == self.jumps {
                self.tell(format!("{who} has spent an attempt that never began"));
            }
            self.call(id).excused += 1;
        }
        let (starts, excused) = {
            let call = self.call(id);
            (call.starts, call.excused)
        };
        if row.state == State::Running {
            let (worker, attempts) = (row.worker.unwrap_or(id), row.attempts);
            let faults = self.workers.entry(worker).or_default().faults;
            let claim = Claim { worker, attempts, started: false, faults, jumps: self.jumps };
            self.claims.insert(id, claim);
            self.look_at_turn(row, table);
        } else if row.attempts > starts + excused {
            self.tell(format!("{who} has {} attempts, and was started {starts} times", row.attempts));
        }
    }

    /// Whether it was its turn, when it was claimed just now.
    fn look_at_turn(&mut self, row: &Row, table: &Table) {
        if row.key.is_none() {
            return;
        }
        for other in table.rows.values().filter(|other| other.key == row.key && other.id != row.id) {
            let waits = matches!(other.state, State::Ready | State::Blocked)
                || (other.state == State::Scheduled && other.attempts > 0);
            if other.state == State::Running {
                self.tell(format!("{} runs beside {}", number(row.id), number(other.id)));
            } else if waits && other.id < row.id {
                self.tell(format!("{} runs before {}", number(row.id), number(other.id)));
            }
        }
    }

    /// Whether whatever waits for its key has somebody to wait for.
    fn look_at_keys(&mut self, table: &Table) {
        for blocked in table.rows.values().filter(|row| row.state == State::Blocked) {
            let frees = |row: &Row| {
                row.freed_key == blocked.key
                    || (row.key == blocked.key
                        && (matches!(row.state, State::Running | State::Ready)
                            || (row.state == State::Scheduled && row.attempts > 0)))
            };
            if !table.rows.values().any(frees) {
                self.tell(format!("{} waits for nobody", number(blocked.id)));
            }
        }
    }

    /// Nothing is left to do.
    pub(super) fn look_at_the_end(&mut self, table: &Table) {
        let is_wrong = |(id, call): (&TaskId, &Call)| {
            let state = table.rows.get(id).map(|row| row.state);
            let is_right = match state {
                None => call.dropped || call.ended_well,
                Some(State::Dead) => true,
                Some(State::Cancelled) => call.cancelled,
                Some(_) => false,
            };
            (!is_right).then(|| format!("{} is {state:?} in the end", number(*id)))
        };
        let wrong: Vec<_> = self.calls.iter().filter_map(is_wrong).collect();
        wrong.into_iter().for_each(|what| self.tell(what));
    }
}
