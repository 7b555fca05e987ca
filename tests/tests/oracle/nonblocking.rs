//! Runs the trees on asynchronous connections: one at a time, and several at a time; some are dropped before they end.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, CommitError, Dispatcher, atomic};
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, on_every_async_database, traced};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::runtime::Handle;
use tokio::task::{block_in_place, yield_now};

use crate::TAKEN;
use crate::tree::{
    BlockError, Cut, End, Flavor, How, Kind, Node, Outcome, Own, Told, Tree, compensate, conclude, defer, finish,
    is_bang, note_blocking, note_here, note_spawned, tree,
};
use crate::verdict::{Lost, Record, judge};

on_every_async_database!(
    n13_a_hook_ran_if_and_only_if_its_witness_is_committed,
    a04_blocks_on_several_connections_do_not_see_each_others_hooks,
);

/// Polls a future so many times, and drops it where it has not ended by then. Notes that in `record`.
async fn up_to<F: Future>(cut: Option<Cut>, record: &Record, future: F) -> Option<F::Output> {
    let Some(cut) = cut else { return Some(future.await) };
    let mut left = cut.polls;
    let mut late = if cut.late { 20 } else { 0 };
    {
        let mut future = pin!(future);
        let ended = poll_fn(|context| {
            if left > 0
                && let Poll::Ready(output) = future.as_mut().poll(context)
            {
                return Poll::Ready(Some(output));
            }
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        if ended.is_some() {
            return ended;
        }
        while late > 0 {
            late -= 1;
            yield_now().await;
        }
        record.cut.store(true, Ordering::Relaxed);
    }
    None
}

fn block<'a, C: AsyncDatabase>(
    conn: &'a mut AsyncDeferredConnection<C>,
    how: How,
    body: &'a [Node],
    end: End,
    record: &'a Record,
) -> BoxFuture<'a, Result<(), BlockError>> {
    Box::pin(async move {
        match how {
            How::Atomic => {
                atomic!(conn, async {
                    for node in body {
                        match *node {
                            Node::Return => return finish(end),
                            Node::Task { kind, outcome, told } => {
                                let id = witness(conn, told, record).await?;
                                match kind {
                                    Kind::Here => note_here(&record.here, id, outcome),
                                    Kind::Spawned => note_spawned(record.elsewhere.clone(), id, outcome),
                                    Kind::Blocking => note_blocking(&record.elsewhere, id, outcome),
                                }
                            }
                            _ => step(conn, node, record).await?,
                        }
                    }
                    finish(end)
                })
                .await
            }
            How::Plain => {
                conn.transaction(async |conn| {
                    for node in body {
                        if let Node::Return = node {
                            break;
                        }
                        step(conn, node, record).await?;
                    }
                    finish(end)
                })
                .await
            }
        }
    })
}

/// A witness, and who hears that it was rolled back.
async fn witness<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    told: Told,
    record: &Record,
) -> QueryResult<i32> {
    let id = record.number();
    C::insert(conn, id).await?;
    record.registered.push(id);
    match told {
        Told::Task(kind) => compensate(conn, kind, record, id)?,
        Told::Closure => {
            let log = record.rolled_back.clone();
            conn.after_rollback(async move |_| {
                log.push(id);
                yield_now().await;
            })?;
        }
    }
    Ok(id)
}

async fn step<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    node: &Node,
    record: &Record,
) -> Result<(), BlockError> {
    match *node {
        Node::Task { kind, outcome, told } => {
            let id = witness(conn, told, record).await?;
            defer(conn, kind, record, id, outcome)?;
        }
        Node::Closure { pauses, outcome, own, told } => {
            let id = witness(conn, told, record).await?;
            let record = record.clone();
            conn.after_commit(async move |conn| {
                record.here.push(id);
                pause(pauses).await;
                if let Some(own) = own
                    && let Some(ended) = up_to(own.cut, &record, own_block(conn, own, id + 1, &record)).await
                {
                    ended.map_err(|error| format!("{error:?}"))?;
                }
                pause(pauses).await;
                // Refused where a block of a hook's was cut, or a statement.
                let _ = conn.batch_execute("SELECT 1").await;
                conclude(outcome)
            })?;
        }
        Node::SwallowedError => match C::insert(conn, TAKEN).await {
            Ok(()) => panic!("number {TAKEN} is taken"),
            Err(error) => record.swallow(&error.into()),
        },
        Node::RawSql(cut) => up_to(cut, record, conn.batch_execute("SELECT 1")).await.unwrap_or(Ok(()))?,
        Node::Pause(pauses) => pause(pauses).await,
        Node::Return => {}
        Node::Nested { how, ref body, end, swallow, cut } => {
            let nested = AssertUnwindSafe(block(conn, how, body, end, record)).catch_unwind();
            match up_to(cut, record, nested).await {
                None | Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) if swallow => record.swallow(&error),
                Some(Ok(Err(error))) => return Err(error),
                // Not a panic of what is tested.
                Some(Err(panic)) if swallow && is_bang(&*panic) => {}
                Some(Err(panic)) => resume_unwind(panic),
            }
        }
    }
    Ok(())
}

async fn own_block<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    own: Own,
    id: i32,
    record: &Record,
) -> Result<(), BlockError> {
    atomic!(conn, outermost, async {
        C::insert(conn, id).await?;
        record.registered.push(id);
        compensate(conn, Kind::Here, record, id)?;
        defer(conn, own.kind, record, id, Outcome::Succeeds)?;
        finish(own.end)
    })
    .await
}

async fn pause(pauses: u8) {
    for _ in 0..pauses {
        yield_now().await;
    }
}

async fn n13_a_hook_ran_if_and_only_if_its_witness_is_committed<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let trees = prop::collection::vec(tree(Flavor::Nonblocking), 1);
    check_all::<C>(db, DEFAULT_TREES, &trees);
}

async fn a04_blocks_on_several_connections_do_not_see_each_others_hooks<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let trees = prop::collection::vec(tree(Flavor::Nonblocking), 2..5);
    check_all::<C>(db, DEFAULT_TREES / 4, &trees);
}

const DEFAULT_TREES: u64 = 400;

fn check_all<C: AsyncDatabase>(db: &Scratch<C::Blocking>, default: u64, trees: &impl Strategy<Value = Vec<Tree>>) {
    let mut observer = db.observer();
    prepare(&mut observer);
    let state = Mutex::new((observer, Vec::new()));
    block_in_place(|| {
        crate::run(C::Blocking::NAME, default, trees, |trees| {
            let (observer, connections) = &mut *state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            Handle::current().block_on(check::<C>(db, observer, connections, trees))
        });
    });
}

/// The numbers of a tree are below those of the next, and this many.
const NUMBERS: i32 = 100_000;
/// Where it does not refuse, a connection whose tree was cut is to commit this one by a statement alone.
const ALONE: i32 = NUMBERS - 2;
/// And this one in a block.
const NEXT: i32 = NUMBERS - 1;

/// Runs trees, each on a connection of its own, and judges them.
async fn check<C: AsyncDatabase>(
    db: &Scratch<C::Blocking>,
    observer: &mut C::Blocking,
    connections: &mut Vec<AsyncDeferredConnection<C>>,
    trees: Vec<Tree>,
) -> Result<(), TestCaseError> {
    clear(observer);
    let mut running = Vec::new();
    for (index, tree) in trees.into_iter().enumerate() {
        let conn = match connections.pop() {
            Some(conn) => conn,
            None => connect(db).await,
        };
        running.push(tokio::spawn(run_tree(conn, tree, (index as i32 + 1) * NUMBERS)));
    }
    let mut ended = Vec::new();
    for tree in running {
        ended.push(tree.await);
    }
    settle(observer);
    let visible = C::Blocking::witnesses(observer);
    let mut verdict = Ok(());
    for (index, tree) in ended.into_iter().enumerate() {
        let tree = tree.map_err(|error| TestCaseError::fail(format!("what is tested panicked: {error}")))??;
        connections.extend(tree.conn);
        let base = (index as i32 + 1) * NUMBERS;
        let mut own = visible.clone();
        own.retain(|id| (base..base + NUMBERS).contains(id));
        for (id, committed) in [(base + ALONE, tree.alone), (base + NEXT, tree.next)] {
            prop_assert_eq!(own.contains(&id), committed, "statement {} behind the tree", id - base);
        }
        own.retain(|id| *id < base + ALONE);
        verdict = verdict.and(judge(&tree.record, &own, &tree.lost, tree.committed));
    }
    verdict
}

/// What is left of a tree.
struct Ended<C> {
    /// `None` where it refused use.
    conn: Option<AsyncDeferredConnection<C>>,
    record: Record,
    lost: Lost,
    committed: bool,
    alone: bool,
    next: bool,
}

async fn run_tree<C: AsyncDatabase>(
    mut conn: AsyncDeferredConnection<C>,
    tree: Tree,
    base: i32,
) -> Result<Ended<C>, TestCaseError> {
    let record = Record::above(base);
    let dispatcher = Dispatcher::builder().max_in_flight(2).build();
    conn.set_dispatcher(dispatcher.clone());
    let run = AssertUnwindSafe(block(&mut conn, How::Atomic, &tree.body, tree.end, &record)).catch_unwind();
    let ended = up_to(tree.cut, &record, run).await;
    if let Some(Err(panic)) = &ended {
        prop_assert!(is_bang(&**panic), "a panic that is none of the tree's: {:?}", panic.downcast_ref::<String>());
    }
    let mut lost = Lost::default();
    lost.add(conn.last_report())?;
    prop_assert_eq!(conn.pending(), Vec::new(), "a hook was left behind");

    let cut = record.cut.load(Ordering::Relaxed);
    let refuses = conn.is_broken();
    prop_assert!(cut || !refuses, "the connection of a tree that was not cut is broken");
    prop_assert!(refuses || !conn.in_transaction(), "a transaction was left open");
    // Whatever it answers must be what becomes of the row: no savepoint in a dead transaction.
    let alone = cut && C::insert(&mut conn, base + ALONE).await.is_ok();
    prop_assert!(!alone || !refuses, "a connection that is to be thrown away takes statements");
    let next = next_block(&mut conn, base + NEXT).await;
    lost.add(conn.last_report())?;
    let drained = dispatcher.shutdown(Duration::from_secs(20)).await;
    prop_assert!(drained.is_clean(), "{}", drained);

    let committed = matches!(ended, Some(Ok(Ok(()))));
    let mut ended = Ended { conn: None, record, lost, committed, alone, next: next.is_ok() };
    match next {
        Ok(()) => {
            let again = C::insert(&mut conn, base + NEXT).await;
            prop_assert!(again.is_err(), "the answer to another statement");
            prop_assert!(!conn.is_broken(), "broken behind a block that committed");
            prop_assert!(!conn.in_transaction(), "a transaction was left open");
            prop_assert_eq!(conn.pending(), Vec::new(), "a hook was left behind");
            ended.conn = Some(conn);
        }
        Err(error) => {
            prop_assert!(cut, "the next block failed on a connection that nothing was cut on: {error}");
            let cancelled = matches!(CommitError::of(&error), Some(CommitError::Cancelled));
            prop_assert!(cancelled, "not what a cancelled connection says: {error}");
            prop_assert!(conn.is_broken(), "it refuses, and no pool throws it away");
            let ((), events) = traced(|| drop(conn));
            ended.lost.commit_closures += events.matches("kind=after commit").count();
            ended.lost.rollback_closures += events.matches("kind=after rollback").count();
        }
    }
    Ok(ended)
}

async fn next_block<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, id: i32) -> QueryResult<()> {
    atomic!(conn, async { C::insert(conn, id).await }).await
}

async fn connect<C: AsyncDatabase>(db: &Scratch<C::Blocking>) -> AsyncDeferredConnection<C> {
    let mut conn = db.connect_async::<C>().await;
    if C::Blocking::NAME == "SQLite" {
        // One writes at a time: the others wait for their turn.
        conn.batch_execute("PRAGMA busy_timeout = 20000").await.expect("a timeout");
    }
    conn
}

/// The row to run into; and an observer that waits for connections that are being closed, but not for ever.
fn prepare<C: Database>(observer: &mut C) {
    let patience = match C::NAME {
        "SQLite" => "PRAGMA busy_timeout = 20000",
        "PostgreSQL" => "SET lock_timeout = '20s'",
        _ => "SET lock_wait_timeout = 20, innodb_lock_wait_timeout = 20",
    };
    observer.batch_execute(patience).expect("wait for others");
    observer.batch_execute(&format!("INSERT INTO witness VALUES ({TAKEN})")).expect("the row to run into");
}

/// Waits until no transaction is open that has written a witness: a COMMIT that was cancelled may still be under way, and so may
/// be the end of a connection.
fn settle<C: Database>(observer: &mut C) {
    let alone = match C::NAME {
        "SQLite" => "BEGIN IMMEDIATE; COMMIT",
        "PostgreSQL" => "BEGIN; LOCK TABLE witness IN ACCESS EXCLUSIVE MODE; COMMIT",
        _ => "LOCK TABLES witness WRITE; UNLOCK TABLES",
    };
    block_in_place(|| observer.batch_execute(alone)).expect("a transaction was left open");
}

fn clear<C: Database>(observer: &mut C) {
    settle(observer);
    observer.batch_execute(&format!("DELETE FROM witness WHERE id <> {TAKEN}")).expect("clear the table");
}
