//! What can be done with the table, chosen at random, and what it is called.
//!
//! Must not know: any database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::durable::id::TaskId;
use crate::durable::row::{NewTask, Schedule};
use crate::durable::worker::model::calls::{call, id};
use crate::durable::worker::model::table::{Row, State, Table};
use crate::durable::worker::source::statements::{
    ClaimedRow, Ended, Look, Manner, Mine, Past, RescuedRow, Since, Unread,
};
use crate::durable::worker::source::{Claim, Lease, Outcome, Settlement, Unknown, Waiting};
use crate::spans::Origin;

/// One of them.
#[derive(Debug)]
pub(super) enum Operation {
    Enqueue(Vec<NewTask>),
    Cancel(TaskId),
    Replay(TaskId),
    ReplayDead(&'static str),
    Pause(&'static str),
    Resume(&'static str),
    Exchange {
        lease: Lease,
        settled: Vec<Settlement>,
        claims: Vec<Claim>,
        manner: Manner,
    },
    Mine(Lease),
    Renew(Lease, Vec<TaskId>),
    Rescue,
    Look(Since),
    LookBack,
    HasDue(Vec<Arc<str>>),
    Waiting(Vec<Arc<str>>),
    StartAnew(Lease),
    Promote,
    NextUnknown(&'static str),
    Adopt(&'static str, Unread),
    Park(Unknown),
    GiveUpRefused(Duration),
    FreeKeys,
    Prune(Ended, Duration),
    /// Time passes.
    Wait(Duration),
    /// The clock goes back.
    GoBack(Duration),
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Count(usize),
    Mine(Vec<Mine>),
    Claimed(Vec<Vec<ClaimedRow>>),
    Renewed(Vec<(TaskId, bool)>),
    Rescued(Vec<RescuedRow>),
    Look(Look),
    Past(Past),
    Due(bool),
    Waiting(Vec<Waiting>),
    Unknown(Option<(String, bool)>),
    Freed(Vec<(TaskId, String)>),
}

/// What a database took for a claim.
#[derive(Debug, Clone, Default)]
pub(super) struct Took {
    pub(super) ids: Vec<TaskId>,
    /// Whether there may be more.
    pub(super) more: bool,
    /// Whether these are next of their keys, and not what stands at the front.
    pub(super) handed_over: bool,
}

impl Operation {
    /// What time it is behind that.
    pub(super) fn ends_at(&self, now_ms: i64) -> i64 {
        match self {
            Self::Wait(time) => now_ms + time.as_millis() as i64,
            Self::GoBack(time) => now_ms - time.as_millis() as i64,
            _ => now_ms,
        }
    }

    /// Does it with the model. Of each claim, `taken` says what a database took, and whether it says
    /// that there may be more: then that may be less than was wanted.
    pub(super) fn run(&self, table: &mut Table, taken: &[Took]) -> Answer {
        match self {
            Self::Enqueue(calls) => {
                table.enqueue(calls);
                Answer::Nothing
            }
            Self::Cancel(id) => Answer::Count(table.cancel(*id)),
            Self::Replay(id) => Answer::Count(table.replay(*id)),
            Self::ReplayDead(task) => Answer::Count(table.replay_dead(task)),
            Self::Pause(queue) => {
                table.pause(queue);
                Answer::Nothing
            }
            Self::Resume(queue) => Answer::Count(table.resume(queue)),
            Self::Exchange { lease, settled, claims, .. } => {
                for settlement in settled {
                    table.settle(lease, settlement);
                }
                let claimed = claims.iter().enumerate().map(|(at, claim)| {
                    // Who is next of the keys that ends have left, or some of these: not what stands
                    // at the front.
                    if let Some(took) = taken.get(at).filter(|took| took.handed_over) {
                        let mut rows = Vec::new();
                        for id in took.ids.iter().take(claim.limit as usize) {
                            if table.can_take_one(*id, &claim.queue) {
                                rows.push(table.start(*id, lease));
                            }
                        }
                        return rows;
                    }
                    let before = table.clone();
                    let mut rows = table.claim(lease, claim);
                    rows.sort_by_key(|row| (row.priority, row.run_at_ms, row.id));
                    if let Some(took) = taken.get(at)
                        && took.more
                        && (1..rows.len()).contains(&took.ids.len())
                    {
                        for left in rows.split_off(took.ids.len()) {
                            table.rows.insert(left.id, before.rows[&left.id].clone());
                        }
                    }
                    rows
                });
                Answer::Claimed(claimed.collect())
            }
            Self::Mine(lease) => Answer::Mine(table.mine(lease.worker)),
            Self::Renew(lease, tasks) => Answer::Renewed(table.renew(lease, tasks)),
            Self::Rescue => Answer::Rescued(table.rescue()),
            Self::Look(from) => Answer::Look(table.look(from)),
            Self::LookBack => Answer::Past(table.look_back()),
            Self::HasDue(queues) => Answer::Due(table.has_due(queues)),
            Self::Waiting(queues) => Answer::Waiting(table.waiting(queues)),
            Self::StartAnew(lease) => Answer::Count(table.start_anew(lease)),
            Self::Promote => Answer::Count(table.promote()),
            Self::NextUnknown(behind) => Answer::Unknown(table.next_unknown(behind)),
            Self::Adopt(task, unread) => Answer::Count(table.adopt(task, *unread)),
            Self::Park(unknown) => Answer::Count(table.park(unknown)),
            Self::GiveUpRefused(after) => Answer::Rescued(table.give_up_refused(*after)),
            Self::FreeKeys => {
                let freed = table.freed();
                table.free_keys(&freed);
                Answer::Freed(freed)
            }
            Self::Prune(ended, kept) => Answer::Count(table.prune(*ended, *kept)),
            Self::Wait(_) | Self::GoBack(_) => {
                table.now = self.ends_at(table.now);
                Answer::Nothing
            }
        }
    }
}

impl Answer {
    /// In an order that does not depend on the database.
    pub(super) fn sorted(mut self) -> Self {
        match &mut self {
            Self::Mine(mine) => mine.sort(),
            Self::Claimed(claims) => {
                claims.iter_mut().for_each(|rows| rows.sort_by_key(|row| (row.priority, row.run_at_ms, row.id)));
            }
            Self::Renewed(renewed) => renewed.sort(),
            Self::Rescued(rescued) => rescued.sort(),
            Self::Freed(freed) => freed.sort(),
            Self::Nothing
            | Self::Count(_)
            | Self::Look(_)
            | Self::Past(_)
            | Self::Due(_)
            | Self::Waiting(_)
            | Self::Unknown(_) => {}
        }
        self
    }
}

const TASKS: [&str; 3] = ["charge", "mail", "tidy"];
const QUEUES: [&str; 2] = ["default", "slow"];
const KEYS: [&str; 2] = ["a", "b"];

/// The workers. Their leases are long: a worker claims nothing any more when a part of them is over,
/// and the machine may be a slow one.
fn leases() -> [Lease; 2] {
    [
        Lease { worker: id(1_000_001), duration: Duration::from_secs(300), keeps_done: false },
        Lease { worker: id(1_000_002), duration: Duration::from_secs(600), keeps_done: true },
    ]
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())].clone()
}

fn some_time(rng: &mut Rng) -> Duration {
    Duration::from_millis(pick(rng, &[0, 1, 10_000, 300_000, 600_000, 1_000_000]))
}

/// Something that can be done with the table as it is. `next` is the number of the next call.
pub(super) fn choose(rng: &mut Rng, table: &Table, next: &mut u128) -> Operation {
    let ids: Vec<TaskId> = table.rows.keys().copied().collect();
    let some_id = |rng: &mut Rng| if ids.is_empty() { id(0) } else { pick(rng, &ids) };
    match rng.u32(0..100) {
        0..22 => Operation::Enqueue(some_calls(rng, table, next)),
        22..28 => Operation::Cancel(some_id(rng)),
        28..32 => Operation::Replay(some_id(rng)),
        32..34 => Operation::ReplayDead(pick(rng, &TASKS)),
        34..36 => Operation::Pause(pick(rng, &QUEUES)),
        36..40 => Operation::Resume(pick(rng, &QUEUES)),
        40..66 => {
            let lease = pick(rng, &leases());
            let manner = pick(rng, &[Manner::AtOnce, Manner::OneByOne, Manner::Careful]);
            Operation::Exchange { lease, settled: some_ends(rng, table, &lease), claims: some_claims(rng), manner }
        }
        66..68 => Operation::Mine(pick(rng, &leases())),
        68..71 => {
            let asked = ids.into_iter().filter(|_| rng.bool()).collect();
            Operation::Renew(pick(rng, &leases()), asked)
        }
        71..75 => Operation::Rescue,
        75..78 => {
            let queues = QUEUES[..rng.usize(1..=2)].iter().map(|queue| (Arc::from(*queue), None)).collect();
            let since_ms = rng.bool().then(|| table.now - pick(rng, &[0, 1, 10_000, 600_000]));
            let names = |queues: Vec<(Arc<str>, _)>| queues.into_iter().map(|(queue, _)| queue).collect();
            match rng.u32(0..5) {
                0 | 1 => Operation::Look(Since { since_ms, queues }),
                2 => Operation::LookBack,
                3 => Operation::Waiting(names(queues)),
                _ => Operation::HasDue(names(queues)),
            }
        }
        78..82 => Operation::Promote,
        82..83 => Operation::NextUnknown(pick(rng, &["", TASKS[0], TASKS[1]])),
        83..86 => Operation::Adopt(pick(rng, &TASKS), pick(rng, &[Unread::Offered, Unread::All])),
        86 => Operation::Park(Unknown {
            queue: Arc::from(pick(rng, &QUEUES)),
            task: pick(rng, &TASKS).to_owned(),
            error: "no such task".to_owned(),
        }),
        87 => Operation::GiveUpRefused(some_time(rng)),
        88..92 => Operation::FreeKeys,
        92..94 => Operation::Prune(pick(rng, &[Ended::Well, Ended::Otherwise]), some_time(rng)),
        94 => Operation::StartAnew(pick(rng, &leases())),
        95 => Operation::GoBack(some_time(rng)),
        _ => Operation::Wait(some_time(rng)),
    }
}

fn some_calls(rng: &mut Rng, table: &Table, next: &mut u128) -> Vec<NewTask> {
    let mut calls = Vec::new();
    // Now and then those of a transaction that was open for long: their ids are of its time.
    let early = 8 * rng.u128(0..=*next / 8) + 4;
    let is_free = |number: u128| !table.rows.contains_key(&id(early + number));
    let is_late = rng.u32(0..4) == 0 && (1..=3).all(is_free);
    let (begin, most) = if is_late { (early, 3) } else { (*next, 4) };
    *next += if is_late { 0 } else { 8 };
    // Most are about one thing.
    let key = pick(rng, &KEYS);
    for number in 1..=rng.u128(1..=most) {
        let number = begin + number;
        let mut call = call(number, pick(rng, &TASKS), pick(rng, &QUEUES));
        call.priority = rng.i16(-1..=1);
        call.max_attempts = rng.u16(1..=3);
        call.schedule = match rng.u32(0..10) {
            0..7 => Schedule::Now,
            7 => Schedule::AfterMs(pick(rng, &[0, 1, 10_000])),
            8 => Schedule::AtMs(table.now + pick(rng, &[-10_000, 0, 1, 10_000])),
            _ => Schedule::AfterMs(10_000),
        };
        call.key = match rng.u32(0..10) {
            0..3 => None,
            3..6 => Some(pick(rng, &KEYS).to_owned()),
            _ => Some(key.to_owned()),
        };
        call.unique_key = (rng.u32(0..10) < 3).then(|| pick(rng, &["u", "v"]).to_owned());
        call.replaces = call.task == "tidy";
        call.origin = Origin::read(pick(rng, &["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]));
        calls.push(call);
    }
    NewTask::settle(&mut calls);
    calls
}

fn some_claims(rng: &mut Rng) -> Vec<Claim> {
    let hungry = rng.bool();
    let claim = |rng: &mut Rng, lane: usize| Claim {
        lane,
        queue: Arc::from(QUEUES[lane]),
        limit: rng.u32(1..=3),
        bytes: pick(rng, &[1, 30, 10_000]),
        // Where it is not, a database may leave what was ready before for the next claim.
        hungry,
    };
    (0..2).map(|lane| claim(rng, lane)).collect()
}

/// Ends of attempts: of this worker's, now and then of another one's, or of none.
fn some_ends(rng: &mut Rng, table: &Table, lease: &Lease) -> Vec<Settlement> {
    let mut ends = Vec::new();
    for row in table.rows.values() {
        let is_mine = row.worker == Some(lease.worker);
        // Where it does not run, whoever ended it has looked who is next of its key. Whether that is
        // looked for again is not said.
        if row.state != State::Running && row.key.is_some() {
            continue;
        }
        if rng.u32(0..100) < if is_mine { 60 } else { 4 } {
            // Now and then of an earlier attempt.
            let started_at_ms = row.started_at.unwrap_or_default() - i64::from(rng.u32(0..100) < 4);
            // Now and then it was taken anew while it ran.
            let unstarted = if row.attempts > 1 { rng.i32(0..2) } else { 0 };
            let (key, outcome) = (row.key.clone(), some_end(rng, row));
            ends.push(Settlement { id: row.id, started_at_ms, key, unstarted, outcome });
        }
    }
    ends
}

fn some_end(rng: &mut Rng, row: &Row) -> Outcome {
    let after = some_time(rng);
    let error = format!("attempt {} failed", row.attempts);
    match rng.u32(0..10) {
        0..3 => Outcome::Done,
        3 | 4 => Outcome::Retry { after, error },
        5 => Outcome::Snoozed(after),
        6 => Outcome::Dead(error),
        7 => Outcome::Cancelled,
        8 => Outcome::Released { started: rng.bool() },
        _ => Outcome::Refused { after, error },
    }
}

/// What all sequences together have to do: what they are called in [`kinds`].
#[rustfmt::skip]
pub(super) const KINDS: [&str; 89] = [
    "Adopt: Unknown -> Ready", "Adopt: none", "Adopt: some", "Cancel: Blocked -> Cancelled",
    "Cancel: Ready -> Cancelled", "Cancel: Scheduled -> Cancelled", "Cancel: Unknown -> Cancelled",
    "Cancel: none", "Cancel: some", "Cancelled", "Cancelled, too late", "Dead", "Dead, too late",
    "Done", "Done, too late", "Enqueue: - -> Blocked", "Enqueue: - -> Ready",
    "Enqueue: - -> Scheduled", "Enqueue: Blocked -> -", "Enqueue: Ready -> -",
    "Enqueue: Scheduled -> -", "Enqueue: Unknown -> -", "Enqueue: one that is unique waits",
    "Exchange: Blocked -> Ready", "Exchange: Blocked -> Running", "Exchange: Ready -> Blocked",
    "Exchange: Ready -> Running", "Exchange: Running -> -", 
    "Exchange: Running -> Cancelled", "Exchange: Running -> Dead", "Exchange: Running -> Done",
    "Exchange: Running -> Ready", "Exchange: Running -> Scheduled", "Exchange: Running -> Unknown",
    "FreeKeys: Blocked -> Ready", "FreeKeys: none", "FreeKeys: some",
    "GiveUpRefused: Unknown -> Dead", "GoBack", "HasDue: false", "HasDue: true",
    "Look: ready false", "Look: ready true", "LookBack", "Mine: none", "Mine: some",
    "NextUnknown: none", "NextUnknown: some", "Park: Ready -> Unknown", "Park: none", "Park: some",
    "Pause", "Promote: Scheduled -> Ready", "Promote: none", "Promote: some",
    "Prune: Cancelled -> -", "Prune: Dead -> -", "Prune: Done -> -", "Prune: none", "Prune: some",
    "Refused", "Refused, too late", "Released", "Released, too late", "Renew: cancel false",
    "Renew: cancel true", "Replay: Cancelled -> Ready", "Replay: Cancelled -> Scheduled",
    "Replay: Dead -> Ready", "Replay: none", "Replay: some", "ReplayDead: Dead -> Ready",
    "ReplayDead: none", "ReplayDead: some", "Rescue: Blocked -> Ready",
    "Rescue: Running -> Cancelled", "Rescue: Running -> Dead", "Rescue: Running -> Ready",
    "Resume: none", "Resume: some", "Retry", "Retry, too late", "Snoozed", "Snoozed, too late",
    "StartAnew: none", "StartAnew: some", "Wait", "Waiting: none", "Waiting: some",
];

/// What was done, of all that there is to be seen.
pub(super) fn kinds(operation: &Operation, answer: &Answer, before: &Table, after: &Table) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    let name = format!("{operation:?}");
    let name: String = name.chars().take_while(|c| c.is_alphabetic()).collect();
    for (id, row) in &after.rows {
        let was = before.rows.get(id).map(|row| row.state);
        if was != Some(row.state) {
            kinds.insert(format!(
                "{name}: {} -> {:?}",
                was.map_or("-".to_owned(), |was| format!("{was:?}")),
                row.state
            ));
        }
    }
    for (id, row) in &before.rows {
        if !after.rows.contains_key(id) {
            kinds.insert(format!("{name}: {:?} -> -", row.state));
        }
    }
    if let Operation::Exchange { lease, settled, .. } = operation {
        for settlement in settled {
            let is_mine = before.rows.get(&settlement.id).is_some_and(|row| {
                row.state == State::Running
                    && row.worker == Some(lease.worker)
                    && row.started_at == Some(settlement.started_at_ms)
            });
            let outcome = format!("{:?}", settlement.outcome);
            let outcome: String = outcome.chars().take_while(|c| c.is_alphabetic()).collect();
            kinds.insert(format!("{outcome}{}", if is_mine { "" } else { ", too late" }));
        }
    }
    if matches!(operation, Operation::Enqueue(calls) if calls.iter().any(|call| !after.rows.contains_key(&call.id))) {
        kinds.insert("Enqueue: one that is unique waits".to_owned());
    }
    let some = |some: bool| if some { "some" } else { "none" };
    match answer {
        Answer::Renewed(renewed) => kinds.extend(renewed.iter().map(|(_, cancel)| format!("Renew: cancel {cancel}"))),
        Answer::Unknown(unknown) => kinds.extend([format!("NextUnknown: {}", some(unknown.is_some()))]),
        Answer::Look(look) => kinds.extend([format!("Look: ready {}", look.ready)]),
        Answer::Mine(mine) => kinds.extend([format!("Mine: {}", some(!mine.is_empty()))]),
        Answer::Freed(freed) => kinds.extend([format!("FreeKeys: {}", some(!freed.is_empty()))]),
        Answer::Waiting(waiting) => kinds.extend([format!("Waiting: {}", some(waiting.iter().any(|of| of.0 > 0)))]),
        Answer::Due(due) => kinds.extend([format!("HasDue: {due}")]),
        Answer::Count(count) => kinds.extend([format!("{name}: {}", some(*count > 0))]),
        Answer::Past(_) | Answer::Nothing => kinds.extend([name]),
        Answer::Claimed(_) | Answer::Rescued(_) => {}
    }
    kinds
}
