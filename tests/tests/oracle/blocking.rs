//! Runs the trees on synchronous connections.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::{Error, QueryResult};
use diesel_deferred::{DeferredConnection, Dispatcher, atomic};
use diesel_deferred_tests::{Database, Scratch, on_every_database};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::runtime::Runtime;

use crate::TAKEN;
use crate::tree::{
    BlockError, End, Flavor, How, Kind, Node, Outcome, Told, Tree, compensate, conclude, defer, finish, is_bang,
    note_blocking, note_here, note_spawned, note_stored, tree,
};
use crate::verdict::{Lost, Record, judge, stored};

on_every_database!(n13_a_hook_ran_if_and_only_if_its_witness_is_committed);

fn block<C: Database>(
    conn: &mut DeferredConnection<C>,
    how: How,
    body: &[Node],
    end: End,
    record: &Record,
) -> Result<(), BlockError> {
    match how {
        How::Atomic => atomic!(conn, {
            for node in body {
                match *node {
                    Node::Return => return finish(end),
                    Node::Task { kind, outcome, told } => {
                        let id = witness(conn, told, record)?;
                        match kind {
                            Kind::Here => note_here(&record.here, id, outcome),
                            Kind::Spawned => note_spawned(record.elsewhere.clone(), id, outcome),
                            Kind::Blocking => note_blocking(&record.elsewhere, id, outcome),
                            Kind::Durable => note_stored(record.durable(id)),
                        }
                    }
                    _ => step(conn, node, record)?,
                }
            }
            finish(end)
        }),
        How::Plain => diesel::Connection::transaction(conn, |conn| {
            for node in body {
                if let Node::Return = node {
                    break;
                }
                step(conn, node, record)?;
            }
            finish(end)
        }),
    }
}

/// A witness, and who hears that it was rolled back.
fn witness<C: Database>(conn: &mut DeferredConnection<C>, told: Told, record: &Record) -> QueryResult<i32> {
    let id = record.number();
    C::insert(conn, id)?;
    record.registered.push(id);
    match told {
        Told::Task(kind) => compensate(conn, kind, record, id)?,
        Told::Closure => {
            let log = record.rolled_back.clone();
            conn.after_rollback(move |_| log.push(id))?;
        }
    }
    Ok(id)
}

fn step<C: Database>(conn: &mut DeferredConnection<C>, node: &Node, record: &Record) -> Result<(), BlockError> {
    match *node {
        Node::Task { kind, outcome, told } => {
            let id = witness(conn, told, record)?;
            defer(conn, kind, record, id, outcome)?;
        }
        Node::Closure { outcome, own, told, .. } => {
            let id = witness(conn, told, record)?;
            let record = record.clone();
            conn.after_commit(move |conn| {
                record.here.push(id);
                if let Some(own) = own {
                    let ended: Result<(), BlockError> = atomic!(conn, outermost, {
                        C::insert(conn, id + 1)?;
                        record.registered.push(id + 1);
                        compensate(conn, Kind::Here, &record, id + 1)?;
                        defer(conn, own.kind, &record, id + 1, Outcome::Succeeds)?;
                        finish(own.end)
                    });
                    ended.map_err(|error| format!("{error:?}"))?;
                }
                conclude(outcome)
            })?;
        }
        Node::SwallowedError => {
            let failed = C::insert(conn, TAKEN);
            assert!(failed.is_err(), "number {TAKEN} is taken");
        }
        Node::RawSql(_) => conn.batch_execute("SELECT 1")?,
        Node::Return | Node::Pause(_) => {}
        Node::Nested { how, ref body, end, swallow, .. } => {
            let result = catch_unwind(AssertUnwindSafe(|| block(conn, how, body, end, record)));
            match result {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) if swallow => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => resume_unwind(panic),
            }
        }
    }
    Ok(())
}

fn n13_a_hook_ran_if_and_only_if_its_witness_is_committed<C: Database>(db: &Scratch<C>) {
    let runtime = Runtime::new().expect("a runtime for the tasks");
    let conn = RefCell::new(db.connect());
    let observer = RefCell::new(db.observer());
    C::migrate(&mut observer.borrow_mut());
    C::insert(&mut conn.borrow_mut(), TAKEN).expect("the row to run into");
    crate::run(C::NAME, 500, &tree(Flavor::Blocking), |tree| {
        check::<C>(&runtime, &mut conn.borrow_mut(), &mut observer.borrow_mut(), &tree)
    });
}

fn check<C: Database>(
    runtime: &Runtime,
    conn: &mut DeferredConnection<C>,
    observer: &mut C,
    tree: &Tree,
) -> Result<(), TestCaseError> {
    observer.batch_execute(&format!("DELETE FROM witness WHERE id <> {TAKEN}")).expect("clear the table");
    observer.batch_execute("DELETE FROM deferred_tasks").expect("clear the table");
    let record = Record::above(TAKEN);
    let dispatcher = Dispatcher::builder().runtime(runtime.handle().clone()).max_in_flight(2).build();
    conn.set_dispatcher(dispatcher.clone());
    let result = catch_unwind(AssertUnwindSafe(|| block(conn, How::Atomic, &tree.body, tree.end, &record)));
    if let Err(panic) = &result {
        prop_assert!(is_bang(&**panic), "a panic that is none of the tree's");
    }
    let mut lost = Lost::default();
    lost.add(conn.last_report())?;
    let drained = runtime.block_on(dispatcher.shutdown(Duration::from_secs(20)));
    prop_assert!(drained.is_clean(), "{}", drained);

    let mut visible = C::witnesses(observer);
    visible.retain(|id| *id != TAKEN);
    judge(&record, &visible, &stored(&C::tasks(observer)), &lost, matches!(result, Ok(Ok(()))))?;
    prop_assert!(!conn.in_transaction(), "a transaction was left open");
    prop_assert_eq!(conn.pending(), Vec::new(), "a hook was left behind");
    atomic!(conn, -> Result<(), Error>, { C::insert(conn, 1) }).expect("the next block");
    prop_assert!(C::witnesses(observer).contains(&1), "the connection's next block did not commit");
    Ok(())
}
