//! Real workers on the model, in a simulation: on one thread, by a clock that jumps to whatever is
//! next, with all chance from one seed. So a run of minutes takes milliseconds, and is the same
//! each time.
//!
//! Must not know: any database.

mod bodies;
mod connection;
mod witness;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::{Notify, oneshot};

use self::bodies::Bodies;
use self::connection::ModelConnection;
use self::world::{Shared, World};
use super::calls::{call, id, number, seed_from};
use super::table::State;
use crate::dispatch::pause;
use crate::durable::id::TaskId;
use crate::durable::registry::{Registered, Registry};
use crate::durable::row::{NewTask, Schedule};
use crate::durable::worker::engine::{Engine, Settings};
use crate::durable::worker::source::{Lease, Looking, Table, TableSource};
use crate::durable::worker::work::Work;

/// How long things go wrong. Then they don't any more, and all comes to its end.
const TROUBLE: Duration = Duration::from_secs(60);

/// Behind which something is stuck.
const AT_THE_LATEST: Duration = Duration::from_secs(20 * 60);

static TASKS: [Registered; 3] = [Registered::named("mail"), Registered::named("charge"), Registered::named("tidy")];

const QUEUES: [&str; 2] = ["default", "slow"];

/// What one seed came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    log: Vec<String>,
    wrong: Vec<String>,
}

/// Runs one seed.
fn simulate(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
    // The engine's own: of pauses and backoffs.
    fastrand::seed(seed);
    runtime.block_on(async {
        let shared = Shared::new(Rng::with_seed(seed));
        let (workers, lease) = {
            let world = &mut *shared.lock();
            let (lease, spare) = pick(&mut world.rng, &[(15, 0), (30, 0), (60, 1)]);
            world.witness.spare = spare;
            world.trouble = pick(&mut world.rng, &[0, 3, 10, 30]);
            (world.rng.usize(1..=4), Duration::from_secs(lease))
        };
        let begin = |number| {
            // Not one for all of them: they would be woken in any order.
            let (end, ended) = oneshot::channel();
            (end, tokio::spawn(process(shared.clone(), number, lease, ended)))
        };
        let processes: Vec<_> = (0..workers).map(begin).collect();
        let trouble = [tokio::spawn(callers(shared.clone())), tokio::spawn(operators(shared.clone()))];
        pause(TROUBLE).await;
        for task in trouble {
            let _ = task.await;
        }
        shared.lock().calm_down();
        let mut waited = Duration::ZERO;
        while shared.lock().is_busy() && waited < AT_THE_LATEST {
            pause(Duration::from_secs(1)).await;
            waited += Duration::from_secs(1);
        }
        for (end, process) in processes {
            let _ = end.send(());
            let _ = process.await;
        }
        shared.lock().outcome()
    })
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())]
}

/// A process that has a worker. It is killed, or stopped, and begins anew.
async fn process(shared: Shared, number: usize, lease: Duration, end: oneshot::Receiver<()>) {
    let mut end = pin!(end.fuse());
    for life in 0.. {
        let (worker, name) = (id(1_000_000 + 1_000 * number as u128 + life), format!("worker {number}.{life}"));
        let kill = Arc::new(Notify::new());
        let (engine, lives, is_killed) = {
            let world = &mut *shared.lock();
            // Not all programs are of the same version.
            let tasks = if number == 0 || world.chance(70) { &TASKS[..] } else { &TASKS[..2] };
            let queues = if number == 0 || world.chance(70) { &QUEUES[..] } else { &QUEUES[..1] };
            let lanes: Vec<_> = queues.iter().map(|queue| (Arc::from(*queue), world.rng.usize(1..=4))).collect();
            let poll = Duration::from_millis(pick(&mut world.rng, &[500, 1_000, 5_000]));
            let looking = Looking {
                poll,
                queues: lanes.iter().map(|(queue, _)| Arc::clone(queue)).collect(),
                known: tasks.iter().map(|task| task.name).collect(),
                kept: Duration::from_secs(1_000_000),
                done_kept: None,
                give_up_unknown_after: Duration::from_secs(1_000_000),
                listens: world.chance(70),
                pooler: Some(false),
            };
            let open = {
                let (shared, name) = (shared.clone(), name.clone());
                move || ModelConnection::open(shared.clone(), worker, name.clone()).boxed()
            };
            let lease_of = Lease { worker, duration: lease, keeps_done: false };
            let source = TableSource::new(Table { connect: Box::new(open), lease: lease_of, looking });
            let bodies = Bodies { shared: shared.clone(), worker, name: name.clone(), kill: Arc::clone(&kill) };
            let work = Work { worker, queues: lanes, tasks: tasks.len(), elsewhere: Vec::new(), unnamed: Vec::new() };
            let settings = Settings {
                poll,
                grace: Duration::from_secs(pick(&mut world.rng, &[0, 1, 10])),
                batch: world.rng.usize(0..=3),
                on_failure: None,
                metrics: poll,
            };
            let engine = Engine::new(source, bodies, Registry::of(tasks), work, lease, settings);
            (engine, world.up_to(Duration::from_secs(60)), world.chance(50))
        };
        shared.lock().note(format_args!("{name}: begins"));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let mut run = Box::pin(engine.run(stopped, false));
        let calm = shared.lock().calm;
        let lives = async {
            if calm {
                std::future::pending::<()>().await;
            }
            pause(lives).await;
            if shared.lock().calm {
                std::future::pending::<()>().await;
            }
        };
        // It is alive until the end of its life, or of the simulation, or until it is killed.
        let (killed, is_last) = {
            let ends = async {
                match select(select(pin!(lives), end.as_mut()), pin!(kill.notified())).await {
                    Either::Left((Either::Left(_), _)) => (is_killed, false),
                    Either::Left((Either::Right(_), _)) => (false, true),
                    Either::Right(_) => (true, false),
                }
            };
            match select(run.as_mut(), pin!(ends)).await {
                Either::Left((report, _)) => {
                    shared.lock().wrong(format!("{name} ended by itself: {report:?}"));
                    return;
                }
                Either::Right((ends, _)) => ends,
            }
        };
        if killed {
            shared.lock().note(format_args!("{name}: is killed"));
            shared.lock().witness.gone(worker);
            drop(run);
        } else {
            shared.lock().note(format_args!("{name}: is to stop"));
            let _ = stop.send(());
            let report = run.await;
            let world = &mut *shared.lock();
            world.note(format_args!("{name}: has stopped: {report:?}"));
            world.witness.gone(worker);
        }
        if is_last {
            return;
        }
        let down = shared.lock().up_to(Duration::from_secs(5));
        pause(down).await;
    }
}

/// Programs that enqueue.
async fn callers(shared: Shared) {
    let count = shared.lock().rng.usize(1..=30);
    let mut next = 1;
    for _ in 0..count {
        let wait = {
            let world = &mut *shared.lock();
            world.up_to(TROUBLE / count as u32)
        };
        pause(wait).await;
        let hints = {
            let world = &mut *shared.lock();
            let calls = (0..world.rng.usize(1..=4)).map(|_| {
                next += 1;
                let rng = &mut world.rng;
                let mut call = call(next, TASKS[rng.usize(0..TASKS.len())].name, pick(rng, &QUEUES));
                call.priority = rng.i16(-1..=1);
                call.max_attempts = rng.u16(1..=4);
                if rng.u32(0..100) < 30 {
                    call.schedule = Schedule::AfterMs(rng.i64(0..20_000));
                }
                if rng.u32(0..100) < 60 {
                    call.key = Some(pick(rng, &["a", "b"]).to_owned());
                }
                if rng.u32(0..100) < 20 {
                    call.unique_key = Some(pick(rng, &["u", "v"]).to_owned());
                    call.replaces = rng.bool();
                }
                call
            });
            let calls = calls.collect();
            world.enqueue(calls);
            world.chance(70)
        };
        if hints {
            shared.hint.notify_waiters();
        }
    }
}

/// Whoever looks after queues and tasks.
async fn operators(shared: Shared) {
    let count = shared.lock().rng.usize(0..=10);
    for _ in 0..count {
        let wait = shared.lock().up_to(TROUBLE / count as u32);
        pause(wait).await;
        shared.lock().operate();
    }
}

impl World {
    fn enqueue(&mut self, mut calls: Vec<NewTask>) {
        NewTask::settle(&mut calls);
        let before = self.table().clone();
        let described = calls.iter().map(|call| {
            let (key, unique) = (call.key.as_deref().unwrap_or("-"), call.unique_key.as_deref().unwrap_or("-"));
            format!("{} (key {key}, unique {unique}, {:?}, {:?})", number(call.id), call.schedule, call.queue)
        });
        let described: Vec<_> = described.collect();
        self.note(format_args!("enqueues {}", described.join(", ")));
        self.table().enqueue(&calls);
        let after = self.table().clone();
        self.witness.enqueued(&calls, &before, &after);
        self.change(|_| ());
    }

    /// Something that somebody may do at any time.
    fn operate(&mut self) {
        let ids: Vec<TaskId> = self.table().rows.keys().copied().collect();
        let queue = pick(&mut self.rng, &QUEUES);
        match self.rng.u32(0..8) {
            0 | 1 if !ids.is_empty() => {
                let id = pick(&mut self.rng, &ids);
                if self.change(|table| table.cancel(id)) > 0 {
                    self.witness.cancelled(id);
                    self.note(format_args!("cancels {}", number(id)));
                }
            }
            2 if !ids.is_empty() => {
                let ended: Vec<_> = ids
                    .into_iter()
                    .filter(|id| matches!(self.table().rows[id].state, State::Dead | State::Cancelled))
                    .collect();
                if !ended.is_empty() {
                    let id = pick(&mut self.rng, &ended);
                    self.witness.replayed(id);
                    self.change(|table| table.replay(id));
                    self.note(format_args!("replays {}", number(id)));
                }
            }
            3 => {
                self.change(|table| table.pause(queue));
                self.note(format_args!("pauses {queue}"));
            }
            4 => {
                self.change(|table| table.resume(queue));
                self.note(format_args!("resumes {queue}"));
            }
            5 => {
                self.is_away = !self.is_away;
                self.note(format_args!("the database is {}", if self.is_away { "away" } else { "back" }));
            }
            6 => {
                self.is_away = false;
                self.note(format_args!("the database is back"));
            }
            _ => {
                let by = self.rng.i64(-40_000..40_000);
                self.clock_off_ms += by;
                self.witness.jumps += 1;
                self.note(format_args!("the clock jumps by {by} ms"));
            }
        }
    }

    /// Nothing goes wrong any more.
    fn calm_down(&mut self) {
        self.calm = true;
        for queue in QUEUES {
            self.change(|table| table.resume(queue));
        }
        self.note(format_args!("all is well"));
    }

    /// Whether there is something left to do.
    fn is_busy(&mut self) -> bool {
        self.table().rows.values().any(|row| !matches!(row.state, State::Dead | State::Cancelled))
    }

    fn started(&mut self, worker: TaskId, id: TaskId, attempt: i32) {
        let table = self.table().clone();
        self.witness.started(&table, worker, id, attempt);
    }

    fn wrong(&mut self, what: String) {
        self.witness.tell(what);
    }

    fn outcome(&mut self) -> Outcome {
        let table = self.table().clone();
        self.witness.look_at_the_end(&table);
        Outcome { log: std::mem::take(&mut self.log), wrong: std::mem::take(&mut self.witness.wrong) }
    }
}

/// How many seeds are run: those from 0 on. `SEEDS=100000` runs more of them, and `SEED=7` runs the
/// one, and prints its log.
const SEEDS: u64 = 2_000;

/// What has to happen in some of them.
const HAPPENS: [&str; 24] = [
    "is killed",
    "has stopped",
    "claims",
    "claims some",
    "claims without telling",
    "rescues",
    "Done",
    "Retry",
    "Snoozed",
    "Dead",
    "Cancelled",
    "cannot read",
    "Refused",
    "Released { started: true }",
    "Released { started: false }",
    "too late",
    "AnswerIsLost",
    "HangsUndone",
    "HangsDone",
    "DoneLate",
    "cancels",
    "replays",
    "the clock jumps",
    "the database is away",
];

/// Runs a seed twice. Says what was wrong.
fn check(seed: u64) -> (Outcome, Option<String>) {
    let (first, second) = (simulate(seed), simulate(seed));
    let wrong = if first.log != second.log {
        let differ = first.log.iter().zip(&second.log).find(|(first, second)| first != second);
        Some(format!("is another one the second time: {differ:?}"))
    } else {
        first.wrong.first().cloned()
    };
    (first, wrong)
}

#[test]
fn m1_real_workers_on_the_model_keep_their_promises_whatever_goes_wrong() {
    if let Some(seed) = seed_from("SEED") {
        let (outcome, wrong) = check(seed);
        println!("{}", outcome.log.join("\n"));
        assert_eq!(wrong, None);
        return;
    }
    let seeds = seed_from("SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let found: Mutex<(BTreeMap<u64, String>, BTreeSet<&str>)> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let (outcome, wrong) = check(seed);
            let (faults, happened) = &mut *found.lock().unwrap_or_else(PoisonError::into_inner);
            faults.extend(wrong.map(|wrong| (seed, wrong)));
            for what in HAPPENS {
                if !happened.contains(what) && outcome.log.iter().any(|line| line.contains(what)) {
                    happened.insert(what);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, NonZero::get) {
            scope.spawn(work);
        }
    });
    let (faults, happened) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(faults.is_empty(), "of {seeds} seeds these went wrong (SEED=… shows one): {faults:#?}");
    let missing: Vec<_> = HAPPENS.iter().filter(|what| !happened.contains(**what)).collect();
    assert!(missing.is_empty() || seeds < SEEDS, "never happened: {missing:?}");
}
