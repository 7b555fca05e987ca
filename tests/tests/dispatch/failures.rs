//! What is told of tasks and hooks that fail: the name, where it was called, and why, to the
//! handler and to `tracing`.

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, HookKind, atomic, deferred_task};
use diesel_deferred_tests::{Scratch, events_with, rolled_back};

use crate::support::{Count, List, at_most, idle, memory, runtime};

#[deferred_task]
async fn fails_async() -> Result<(), String> {
    tokio::task::yield_now().await;
    Err("async error".to_owned())
}

#[deferred_task]
async fn panics_async() {
    tokio::task::yield_now().await;
    panic!("async panic");
}

#[deferred_task(blocking)]
fn fails_blocking() -> Result<(), String> {
    Err("blocking error".to_owned())
}

#[deferred_task(blocking)]
fn panics_blocking() {
    panic!("blocking panic");
}

#[deferred_task]
fn fails_plain() -> Result<(), String> {
    Err("plain error".to_owned())
}

#[deferred_task]
fn panics_plain() {
    panic!("plain panic");
}

/// E1, E4, E16: everything that fails is told once, by name, call site and cause, to the handler
/// and to `tracing`; a handler that panics harms nothing.
#[test]
fn e16_every_failure_is_told() {
    // Whose side effect it is to listen to events.
    let _ = Scratch::<SqliteConnection>::new();
    let (runtime, told) = (runtime(), List::default());
    let inner = told.clone();
    let dispatcher = at_most(1, &runtime)
        .on_failure(move |failure| {
            inner.push(failure);
            assert_eq!(failure.kind, HookKind::AfterCommit);
            panic!("the handler");
        })
        .build();
    let conn = &mut memory(&dispatcher);
    let start = line!() + 2;
    atomic!(conn, -> QueryResult<()>, {
        fails_async();
        panics_async();
        fails_blocking();
        panics_blocking();
        fails_plain();
        panics_plain();
        conn.after_commit(|_| Err("closure error"))?;
        conn.after_commit(|_| if true { panic!("closure panic") })?;
        Ok(())
    })
    .expect("commits");
    idle(&dispatcher);
    let mut lines = told.lines();
    assert_eq!(lines.len(), 8, "{lines:?}");
    lines.sort_by_key(|line| {
        let (_, rest) = line.split_once(&format!("{}:", file!())).expect("where it was called");
        rest.split(':').next().and_then(|line| line.parse::<u32>().ok())
    });
    let names = ["fails_async", "panics_async", "fails_blocking", "panics_blocking", "fails_plain", "panics_plain"];
    let names = names.into_iter().chain(["e16_every_failure_is_told::{{closure}}"; 2]);
    let kinds = ["async", "blocking", "plain", "closure"]
        .into_iter()
        .flat_map(|kind| [format!("{kind} error"), format!("panicked: {kind} panic")]);
    for (((line, name), cause), at) in lines.iter().zip(names).zip(kinds).zip(start..) {
        assert!(line.starts_with(&format!("{}::{name}", module_path!())), "{line}: not of {name}");
        assert!(line.contains(&format!("(after commit, called at {}:{at}:", file!())), "{line}: not at {at}");
        assert!(line.ends_with(&cause), "{line}: not {cause}");
        let events = events_with(&format!("call_site={}:{at}:", file!()));
        let [event] = &events[..] else { panic!("one event for {line}, not {events:?}") };
        assert!(event.contains(&format!("error={cause}")), "{event}");
    }
}

#[deferred_task]
async fn undo(done: Count) -> Result<(), String> {
    tokio::task::yield_now().await;
    done.up();
    Err("undone".to_owned())
}

/// N12: compensations may be async: they are spawned after the rollback, never after a commit, and
/// told as what they are.
#[test]
fn n12_compensations_may_be_async() {
    let (runtime, told, done) = (runtime(), List::default(), Count::default());
    let inner = told.clone();
    let dispatcher = at_most(1, &runtime).on_failure(move |failure| inner.push(failure.kind)).build();
    let conn = &mut memory(&dispatcher);
    atomic!(conn, -> QueryResult<()>, {
        undo(done.clone()).after_rollback(conn)?;
        let inner: QueryResult<()> = atomic!(conn, {
            undo(done.clone()).after_rollback(conn)?;
            rolled_back()
        });
        assert!(inner.is_err());
        idle(&dispatcher);
        assert_eq!(done.get(), 1, "after the rollback of the savepoint that it belongs to");
        Ok(())
    })
    .expect("commits");
    idle(&dispatcher);
    assert_eq!((done.get(), told.lines()), (1, vec![HookKind::AfterRollback.to_string()]));
    let result: QueryResult<()> = atomic!(conn, {
        undo(done.clone()).after_rollback(conn)?;
        rolled_back()
    });
    assert!(result.is_err());
    idle(&dispatcher);
    assert_eq!(done.get(), 2);
}

/// A compensation that can't run is refused when it is registered; where its dispatcher is shut
/// down after that, it fails, and is told.
#[test]
fn a_compensation_whose_dispatcher_is_shut_down_is_told() {
    let (runtime, told, done) = (runtime(), List::default(), Count::default());
    let inner = told.clone();
    let dispatcher = at_most(1, &runtime).on_failure(move |failure| inner.push(&failure.cause)).build();
    let conn = &mut memory(&dispatcher);
    let result: QueryResult<()> = atomic!(conn, {
        undo(done.clone()).after_rollback(conn)?;
        let report = crate::support::without_runtime(dispatcher.shutdown(crate::support::LONG));
        assert!(report.is_clean());
        let refused = crate::support::refused(undo(done.clone()).after_rollback(conn));
        assert!(refused.contains("::undo` (called at "), "{refused}");
        rolled_back()
    });
    assert!(result.is_err());
    assert_eq!((done.get(), told.lines().len(), conn.last_report().failures().len()), (0, 1, 1));
    assert!(told.lines()[0].contains("its dispatcher was shut down"), "{:?}", told.lines());
}

#[deferred_task]
fn undo_plainly(#[state] done: &Count) {
    done.up();
}

/// A compensation that lacks something when its time has come fails alone: what the others take is
/// there.
#[test]
fn e01_a_compensation_that_cannot_run_fails_alone() {
    let (runtime, told, done) = (runtime(), List::default(), Count::default());
    let inner = told.clone();
    // Built outside of a runtime: it takes the one of the thread.
    let dispatcher = Dispatcher::builder().state(done.clone()).on_failure(move |failure| inner.push(failure)).build();
    let conn = &mut memory(&dispatcher);
    let result: QueryResult<()> = atomic!(conn, {
        undo_plainly().after_rollback(conn)?;
        let inside = runtime.enter();
        undo(done.clone()).after_rollback(conn)?;
        drop(inside);
        undo_plainly().after_rollback(conn)?;
        rolled_back()
    });
    assert!(result.is_err());
    let [told] = &told.lines()[..] else { panic!("one fails: {:?}", told.lines()) };
    assert!(told.contains("::undo (after rollback, called at ") && told.contains("no tokio runtime"), "{told}");
    assert_eq!((done.get(), conn.last_report().ran(), conn.last_report().failures().len()), (2, 3, 1));
}
