//! `shutdown`: what it waits for, what it refuses, and what it says of the rest.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use diesel::connection::InstrumentationEvent;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, Dispatcher, atomic};
use diesel_deferred_tests::witness;
use tokio::runtime::Builder;

use crate::support::{
    Count, Gate, LONG, List, at_most, blocks, eventually, idle, memory, refused, runtime, waits, without_runtime,
};

const NOW: Duration = Duration::ZERO;

/// Commits three tasks and returns where they were called.
fn commit_three(
    conn: &mut DeferredConnection<SqliteConnection>,
    gate: &Gate,
    list: &List,
    dropped: &Count,
) -> [String; 3] {
    let mut sites = [0; 3];
    atomic!(conn, -> QueryResult<()>, {
        sites[0] = line!() + 1;
        waits(gate.clone(), list.clone(), 1, dropped.guard());
        sites[1] = line!() + 1;
        blocks(gate.clone(), list.clone(), 2, dropped.guard());
        sites[2] = line!() + 1;
        waits(gate.clone(), list.clone(), 3, dropped.guard());
        Ok(())
    })
    .expect("commits");
    sites.map(|line| format!("(called at {}:{line}:9)", file!()))
}

fn lines(dispatcher: &Dispatcher, deadline: Duration) -> Vec<String> {
    let report = without_runtime(dispatcher.shutdown(deadline));
    assert_eq!(report.is_clean(), report.abandoned().is_empty());
    report.abandoned().iter().map(ToString::to_string).collect()
}

/// What runs and what waits ends before it returns.
#[test]
fn it_waits_for_what_runs_and_what_waits() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let (gate, list, dropped) = (Gate::shut(), List::default(), Count::default());
    commit_three(&mut memory(&dispatcher), &gate, &list, &dropped);
    let inner = dispatcher.clone();
    let shutdown = thread::spawn(move || without_runtime(inner.shutdown(LONG)));
    eventually("it begins", || dispatcher.is_shut_down());
    assert!(!shutdown.is_finished() && list.lines().is_empty());
    gate.open();
    let report = shutdown.join().expect("no panic");
    assert!(report.is_clean(), "{report}");
    assert_eq!((list.lines().join(" "), dropped.get()), ("1 2 3".to_owned(), 3));
    assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (0, 0));
}

/// C12: from then on a transaction with a task fails, one without commits.
#[test]
fn c12_it_refuses_what_comes_later() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let conn = &mut memory(&dispatcher);
    assert_eq!(lines(&dispatcher, LONG), [""; 0], "with nothing to wait for");
    let list = List::default();
    let mut line = 0;
    let message = refused::<()>(atomic!(conn, {
        diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
        line = line!() + 1;
        waits(Gate::shut(), list.clone(), 1, Count::default().guard());
        Ok(())
    }));
    let task = format!("`{}` (called at {}:{line}:9)", "dispatch::support::waits", file!());
    assert!(message.contains(&task) && message.contains("its dispatcher was shut down"), "{message}");
    atomic!(conn, -> QueryResult<()>, {
        diesel::insert_into(witness::table).values(witness::id.eq(2)).execute(conn)?;
        Ok(())
    })
    .expect("commits without a task");
    assert_eq!(witness::table.select(witness::id).load::<i32>(conn), Ok(vec![2]));
    assert_eq!(lines(&dispatcher, NOW), [""; 0], "again");
}

/// At the deadline everything is reported in order: async tasks that run are dropped, blocking ones
/// run on, nothing that waits starts any more. A second shutdown waits for the blocking one.
#[test]
fn at_the_deadline_it_reports_and_abandons() {
    for deadline in [NOW, Duration::from_millis(20)] {
        let runtime = runtime();
        let dispatcher = at_most(2, &runtime).build();
        let (gate, list, dropped) = (Gate::shut(), List::default(), Count::default());
        let conn = &mut memory(&dispatcher);
        // The slab's first place is taken by the one that starts last.
        let first = Gate::shut();
        crate::support::occupy(conn, &dispatcher, &first);
        let [one, two, three] = commit_three(conn, &gate, &list, &dropped);
        first.open();
        eventually("the second slot is handed on", || dispatcher.waiting() == 1);
        let (waits, blocks) = ("dispatch::support::waits", "dispatch::support::blocks");
        assert_eq!(
            lines(&dispatcher, deadline),
            [
                format!("{waits} {one}: abandoned while it ran"),
                format!("{blocks} {two}: abandoned while it ran"),
                format!("{waits} {three}: abandoned before it was started"),
            ]
        );
        eventually("the async ones are dropped", || dropped.get() == 2);
        eventually("its slot is given back", || dispatcher.in_flight() == 1);
        assert_eq!(lines(&dispatcher, NOW), [format!("{blocks} {two}: abandoned while it ran")]);
        gate.open();
        assert_eq!(lines(&dispatcher, LONG), [""; 0]);
        assert_eq!((list.lines(), dropped.get()), (vec!["2".to_owned()], 3));
        idle(&dispatcher);
    }
}

/// Also one that waits, and has its slot from one that never did.
#[test]
fn at_the_deadline_it_abandons_what_follows_a_task_that_never_waited() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let dispatcher = at_most(1, &runtime).build();
    let (open, shut, list, dropped) = (Gate::shut(), Gate::shut(), List::default(), Count::default());
    open.open();
    let conn = &mut memory(&dispatcher);
    runtime.block_on(async {
        atomic!(conn, -> QueryResult<()>, {
            waits(open, list.clone(), 1, Count::default().guard());
            waits(shut.clone(), list.clone(), 2, dropped.guard());
            Ok(())
        })
        .expect("commits");
        let turns = async |count| {
            for _ in 0..count {
                tokio::task::yield_now().await;
            }
        };
        turns(100).await;
        assert_eq!((list.lines().join(" "), dispatcher.in_flight()), ("1".to_owned(), 1));
        let report = dispatcher.shutdown(NOW).await;
        assert_eq!(report.abandoned().len(), 1, "{report}");
        turns(100).await;
    });
    assert_eq!((list.lines().len(), dropped.get(), dispatcher.in_flight()), (1, 1, 0));
}

/// A connection that stops between the check of its tasks and its COMMIT, until it is told to go
/// on.
fn stopping(dispatcher: &Dispatcher) -> (DeferredConnection<SqliteConnection>, impl FnOnce(), impl FnOnce()) {
    let mut conn = memory(dispatcher);
    let ((arrive, arrived), (go_on, told)) = (channel(), channel());
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::CommitTransaction { .. } = event {
            arrive.send(()).expect("somebody waits");
            told.recv().expect("somebody tells");
        }
    });
    (conn, move || arrived.recv().expect("it commits"), move || go_on.send(()).expect("it is there"))
}

/// A transaction that was let through is waited for, and so is its task.
#[test]
fn a_transaction_that_is_about_to_commit_holds_it_up() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let (mut conn, arrived, go_on) = stopping(&dispatcher);
    let (gate, list) = (Gate::shut(), List::default());
    gate.open();
    let inner = list.clone();
    let commit = thread::spawn(move || {
        let conn = &mut conn;
        atomic!(conn, -> QueryResult<()>, {
            waits(gate, inner, 1, Count::default().guard());
            Ok(())
        })
    });
    arrived();
    let inner = dispatcher.clone();
    let shutdown = thread::spawn(move || without_runtime(inner.shutdown(LONG)));
    eventually("it begins", || dispatcher.is_shut_down());
    assert!(!shutdown.is_finished());
    go_on();
    assert_eq!(commit.join().expect("no panic"), Ok(()));
    let report = shutdown.join().expect("no panic");
    assert!(report.is_clean(), "{report}");
    assert_eq!(list.lines(), ["1"]);
}

/// Where that takes longer than the deadline the report says so; the task is not run, and told to
/// the failure handler.
#[test]
fn a_transaction_that_commits_behind_the_deadline_is_reported() {
    let (runtime, told) = (runtime(), List::default());
    let inner = told.clone();
    let dispatcher = at_most(1, &runtime).on_failure(move |failure| inner.push(failure)).build();
    let (mut conn, arrived, go_on) = stopping(&dispatcher);
    let (gate, list, dropped) = (Gate::shut(), List::default(), Count::default());
    gate.open();
    let (inner, guard) = (list.clone(), dropped.guard());
    let commit = thread::spawn(move || {
        let conn = &mut conn;
        atomic!(conn, -> QueryResult<()>, {
            waits(gate, inner, 1, guard);
            Ok(())
        })?;
        QueryResult::Ok(conn.last_report().failures().len())
    });
    arrived();
    let report = without_runtime(dispatcher.shutdown(NOW));
    assert_eq!((report.committing(), report.abandoned().len(), report.is_clean()), (1, 0, false));
    assert_eq!(report.to_string(), "0 tasks abandoned, 1 transactions still committing");
    go_on();
    assert_eq!(commit.join().expect("no panic"), Ok(1));
    let [told] = &told.lines()[..] else { panic!("it is told once: {:?}", told.lines()) };
    assert!(told.contains("dispatch::support::waits") && told.contains("shutdown had run out of time"), "{told}");
    assert_eq!((list.lines().len(), dropped.get(), dispatcher.in_flight()), (0, 1, 0));
    let report = without_runtime(dispatcher.shutdown(NOW));
    assert!(report.is_clean(), "{report}");
}

/// A runtime without timers will do, and so will no runtime.
#[test]
fn it_needs_no_timers() {
    for with_time in [false, true] {
        let mut builder = Builder::new_current_thread();
        let timerless = if with_time { builder.enable_time() } else { &mut builder }.build().expect("a runtime");
        let runtime = runtime();
        let dispatcher = at_most(1, &runtime).build();
        commit_three(&mut memory(&dispatcher), &Gate::shut(), &List::default(), &Count::default());
        let report = timerless.block_on(dispatcher.shutdown(Duration::from_millis(5)));
        assert_eq!(report.abandoned().len(), 3);
    }
}
