//! Trees on asynchronous connections, one at a time and several at a time, and what is asked of
//! each connection afterwards.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, CommitError, Dispatcher, atomic};
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, on_every_async_database, traced};
use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::TAKEN;
use crate::nonblocking::{block, up_to};
use crate::tree::{Flavor, How, Tree, is_bang, tree};
use crate::verdict::{Lost, Record, judge, stored};

on_every_async_database!(
    n13_a_hook_ran_if_and_only_if_its_witness_is_committed,
    a04_blocks_on_several_connections_do_not_see_each_others_hooks,
);

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
/// Where it does not refuse, a connection whose tree was cut is to commit this one by a statement
/// alone.
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
    let (visible, rows) = (C::Blocking::witnesses(observer), stored(&C::Blocking::tasks(observer)));
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
        let mut own_rows = rows.clone();
        own_rows.retain(|id| (base..base + NUMBERS).contains(id));
        verdict = verdict.and(judge(&tree.record, &own, &own_rows, &tree.lost, tree.committed));
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

/// The row to run into; and an observer that waits for connections that are being closed, but not
/// for ever.
fn prepare<C: Database>(observer: &mut C) {
    let patience = match C::NAME {
        "SQLite" => "PRAGMA busy_timeout = 20000",
        "PostgreSQL" => "SET lock_timeout = '20s'",
        _ => "SET lock_wait_timeout = 20, innodb_lock_wait_timeout = 20",
    };
    observer.batch_execute(patience).expect("wait for others");
    C::migrate(observer);
    observer.batch_execute(&format!("INSERT INTO witness VALUES ({TAKEN})")).expect("the row to run into");
}

/// Waits until no transaction is open that has written a witness: a COMMIT that was cancelled may
/// still be under way, and so may be the end of a connection.
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
    observer.batch_execute("DELETE FROM deferred_tasks").expect("clear the table");
}
