//! M1: random sequences of operations give the same answers and the same rows on the model and on
//! the three databases.
//!
//! Must not know: how a database does what it does.

mod database;
mod operation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use diesel::result::QueryResult;
use fastrand::Rng;

use self::database::{Application, Database, MigrationConnection, StoredRow};
use self::operation::{Answer, KINDS, Operation, Took, choose, kinds};
use super::calls::{number, seed_from};
use super::table::{Row, State, Table};
use crate::durable::id::TaskId;
use crate::durable::operations::{cancel_task, pause_queue, replay_dead, replay_task, resume_queue};
use crate::durable::worker::source::statements::{Failed, Look};
use crate::durable::worker::source::{Claim, Statements, WorkerConnection};

/// How many sequences are run on each database: those of the seeds from 0 on. `SEED=7` runs the one
/// of this seed.
const SEQUENCES: u64 = 500;

/// How many operations one has.
const OPERATIONS: usize = 40;

/// What SQLite does not do: who is next of a key is taken by the end of the one before it.
const HANDED_OVER: &str = "handed over";

/// When a sequence begins.
const BEGIN_MS: i64 = 1_700_000_000_000;

type Of<D> = <<D as Database>::Worker as WorkerConnection>::Statements;

/// Does it with a database. Says also what was taken for each claim.
async fn run<D: Database>(database: &mut D, operation: &Operation, now_ms: i64) -> QueryResult<(Answer, Vec<Took>)> {
    let mut took = Vec::new();
    let (application, worker) = database.connections();
    let answer = match operation {
        Operation::Enqueue(calls) => {
            application.enqueue(calls);
            Answer::Nothing
        }
        Operation::Cancel(id) => Answer::Count(application.operate(cancel_task(*id))),
        Operation::Replay(id) => Answer::Count(application.operate(replay_task(*id))),
        Operation::ReplayDead(task) => Answer::Count(application.operate(replay_dead(*task))),
        // Where the queue is paused already, MariaDB counts one, and the others none.
        Operation::Pause(queue) => {
            application.operate(pause_queue(*queue));
            Answer::Nothing
        }
        Operation::Resume(queue) => Answer::Count(application.operate(resume_queue(*queue))),
        Operation::Exchange { lease, settled, claims, manner } => {
            let claims: Vec<_> = claims.iter().map(|claim| (claim.clone(), None)).collect();
            let exchange = Of::<D>::exchange(worker, lease, settled, &claims, *manner).await?;
            assert!(exchange.untold.is_empty(), "nobody has anything locked: {:?}", exchange.untold);
            if let Some(Failed { error, .. }) = exchange.failed {
                return Err(error);
            }
            // Those that have become ready, and were not taken here, are told of.
            took = exchange
                .taken
                .iter()
                .map(|taken| Took {
                    ids: taken.rows.iter().map(|row| row.id).collect(),
                    more: taken.more || (taken.handed_over && exchange.readied),
                    handed_over: taken.handed_over,
                })
                .collect();
            Answer::Claimed(exchange.taken.into_iter().map(|taken| taken.rows).collect())
        }
        Operation::Mine(lease) => Answer::Mine(Of::<D>::mine(worker, lease).await?),
        Operation::Renew(lease, tasks) => Answer::Renewed(Of::<D>::renew(worker, lease, tasks).await?),
        Operation::Rescue => Answer::Rescued(Of::<D>::rescue(worker).await?),
        Operation::Look(from) => {
            let look = Of::<D>::look(worker, from).await?;
            // What is before that may be seen.
            let next_lease_end_ms = look.next_lease_end_ms.filter(|_| from.since_ms.is_none());
            Answer::Look(Look { next_lease_end_ms, ..look })
        }
        Operation::HasDue(queues) => Answer::Due(Of::<D>::has_due(worker, queues).await?),
        Operation::Waiting(queues) => Answer::Waiting(Of::<D>::waiting(worker, queues).await?),
        Operation::StartAnew(lease) => Answer::Count(Of::<D>::start_anew(worker, lease).await?),
        Operation::LookBack => Answer::Past(Of::<D>::look_back(worker).await?),
        Operation::Promote => Answer::Count(Of::<D>::promote(worker).await?),
        Operation::NextUnknown(behind) => Answer::Unknown(Of::<D>::next_unknown(worker, behind).await?),
        Operation::Adopt(task, unread) => Answer::Count(Of::<D>::adopt(worker, task, *unread).await?),
        Operation::Park(unknown) => Answer::Count(Of::<D>::park(worker, unknown).await?),
        Operation::GiveUpRefused(after) => Answer::Rescued(Of::<D>::give_up_refused(worker, *after).await?),
        Operation::FreeKeys => {
            let freed = Of::<D>::freed(worker).await?;
            Of::<D>::free_keys(worker, &freed).await?;
            Answer::Freed(freed)
        }
        Operation::Prune(ended, kept) => Answer::Count(Of::<D>::prune(worker, *ended, *kept).await?),
        Operation::Wait(_) | Operation::GoBack(_) => {
            database.set_clock(now_ms).await;
            Answer::Nothing
        }
    };
    Ok((answer.sorted(), took))
}

impl From<StoredRow> for Row {
    fn from(row: StoredRow) -> Self {
        let state = match &*row.state {
            "ready" => State::Ready,
            "blocked" => State::Blocked,
            "scheduled" => State::Scheduled,
            "running" => State::Running,
            "unknown" => State::Unknown,
            "dead" => State::Dead,
            "cancelled" => State::Cancelled,
            "done" => State::Done,
            other => panic!("no state: {other}"),
        };
        Self {
            id: row.id,
            task: row.task,
            queue: row.queue,
            payload: row.payload,
            priority: row.priority,
            max_attempts: row.max_attempts,
            key: row.task_key,
            unique_key: row.unique_key,
            state,
            run_at: row.run_at_ms,
            attempts: row.attempts,
            snoozes: row.snoozes,
            refusals: row.refusals,
            refused_at: row.refused_at_ms,
            freed_key: row.freed_key,
            trace_parent: row.trace_parent,
            worker: row.worker,
            lease_until: row.lease_until_ms,
            cancel_requested: row.cancel_requested,
            error: row.error,
            enqueued_at: row.enqueued_at_ms,
            started_at: row.started_at_ms,
            ended_at: row.ended_at_ms,
        }
    }
}

/// Without what is the same in all identities.
fn short(value: &impl Debug) -> String {
    format!("{value:?}").replace("00000000-0000-0000-0000-000000", "")
}

fn shown(operation: &Operation) -> String {
    let Operation::Enqueue(calls) = operation else { return short(operation) };
    let calls = calls.iter().map(|call| {
        let (key, unique) = (call.key.as_deref().unwrap_or("-"), call.unique_key.as_deref().unwrap_or("-"));
        format!(
            "\n  {}: {} in {}, key {key}, unique {unique}, priority {}, {:?}",
            number(call.id),
            call.task,
            call.queue,
            call.priority,
            call.schedule
        )
    });
    calls.fold("Enqueue".to_owned(), |all, call| all + &call)
}

/// Compares the rows. A claim may leave those ready whose turn it is not, or block them: both are
/// right, and the model goes on with what the database did.
fn compare(table: &mut Table, stored: Vec<StoredRow>) -> Result<(), String> {
    let stored: BTreeMap<TaskId, Row> = stored.into_iter().map(|row| (row.id, row.into())).collect();
    let waits = |state| matches!(state, State::Ready | State::Blocked);
    for (id, row) in &stored {
        let may_differ = !table.rows.contains_key(id) || !table.is_its_turn(*id);
        if let Some(expected) = table.rows.get_mut(id)
            && may_differ
            && waits(row.state)
            && waits(expected.state)
        {
            expected.state = row.state;
        }
    }
    for id in table.rows.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
        let (expected, found) = (table.rows.get(id), stored.get(id));
        if expected != found {
            let (expected, found) = (short(&expected), short(&found));
            return Err(format!("row {}: the model has\n{expected}\nthe database has\n{found}", number(*id)));
        }
    }
    Ok(())
}

/// Runs one sequence; adds what was done to `reached`.
async fn sequence<D: Database>(seed: u64, database: &mut D, reached: &mut BTreeSet<String>) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let mut table = Table { now: BEGIN_MS, ..Table::default() };
    database.connections().0.empty();
    database.set_clock(BEGIN_MS).await;
    let (mut next, mut log) = (0, String::new());
    for _ in 0..OPERATIONS {
        let operation = choose(&mut rng, &table, &mut next);
        let before = table.clone();
        log += &format!("{}\n", shown(&operation));
        let now_ms = operation.ends_at(table.now);
        let (found, taken) =
            run(database, &operation, now_ms).await.map_err(|error| format!("{log}failed: {error}"))?;
        let expected = operation.run(&mut table, &taken).sorted();
        reached.extend(kinds(&operation, &expected, &before, &table));
        if taken.iter().any(|took| took.handed_over && !took.ids.is_empty()) {
            reached.insert(HANDED_OVER.to_owned());
        }
        if expected != found {
            let (expected, found) = (short(&expected), short(&found));
            return Err(format!("{log}the model answers\n{expected}\nthe database answers\n{found}"));
        }
        let stored = database.connections().0.rows();
        compare(&mut table, stored).map_err(|difference| format!("{log}{difference}"))?;
        if let Operation::Exchange { claims, .. } = &operation {
            // What was ready before is not looked for where a key is handed over.
            let was_ready = |id: TaskId| before.rows.get(&id).is_some_and(|row| row.state == State::Ready);
            let is_left = |claim: &Claim, took: &Took| {
                let mut ready = table.rows.keys().filter(|id| table.can_take_one(**id, &claim.queue));
                ready.any(|id| !took.handed_over || !was_ready(*id))
            };
            let is_wrong = |(claim, took): &(&Claim, &Took)| !took.more && is_left(claim, took);
            if let Some((claim, _)) = claims.iter().zip(&taken).find(is_wrong) {
                return Err(format!("{log}there is more to take of {}", claim.queue));
            }
        }
    }
    Ok(())
}

/// Runs all of them, or the one of `SEED`.
fn sequences<D: Database>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let mut database = D::new().await;
        let mut reached = BTreeSet::new();
        let one = seed_from("SEED");
        for seed in one.map_or(0..SEQUENCES, |seed| seed..seed + 1) {
            if let Err(difference) = sequence(seed, &mut database, &mut reached).await {
                panic!("{}, SEED={seed}:\n{difference}", D::NAME);
            }
        }
        let handed_over = (D::NAME != "SQLite").then_some(&HANDED_OVER);
        let unreached: Vec<_> = KINDS.iter().chain(handed_over).filter(|kind| !reached.contains(**kind)).collect();
        assert!(one.is_some() || unreached.is_empty(), "never done: {unreached:?}");
    });
}

#[cfg(all(feature = "sqlite", feature = "async-sqlite"))]
#[test]
fn m1_sqlite_does_what_the_model_says() {
    sequences::<database::sqlite::Sqlite>();
}

#[cfg(all(feature = "postgres", feature = "async-postgres"))]
#[test]
fn m1_postgresql_does_what_the_model_says() {
    sequences::<database::postgres::Postgres>();
}

#[cfg(all(feature = "mysql", feature = "async-mysql"))]
#[test]
fn m1_mariadb_does_what_the_model_says() {
    sequences::<database::mysql::Mysql>();
}
