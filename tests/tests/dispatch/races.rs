//! Shutdown against commits from other threads: no task is lost without a word.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, atomic};
use diesel_deferred_tests::witness;
use tokio::runtime::Runtime;

use crate::support::{
    Count, Gate, LONG, List, at_most, blocks, eventually, idle, memory, occupy, refused, runtime, waits,
    without_runtime,
};

const THREADS: i32 = 4;

/// What the threads did until their transactions were refused: how many tasks they committed. Each
/// transaction that was refused left no row.
fn commit_until_refused(dispatcher: &Dispatcher, gate: &Gate, ran: &List, dropped: &Count, start: &Barrier) -> usize {
    let conn = &mut memory(dispatcher);
    start.wait();
    for id in 0..50_000 {
        let result: QueryResult<()> = atomic!(conn, {
            diesel::insert_into(witness::table).values(witness::id.eq(id)).execute(conn)?;
            waits(gate.clone(), ran.clone(), id, dropped.guard());
            blocks(gate.clone(), ran.clone(), id, dropped.guard());
            Ok(())
        });
        if result.is_err() {
            assert!(refused(result).contains("its dispatcher was shut down"));
            assert_eq!(witness::table.count().get_result(conn), Ok(i64::from(id)));
            return usize::try_from(id).expect("few") * 2;
        }
    }
    panic!("never refused")
}

fn race(
    dispatcher: &Dispatcher,
    gate: &Gate,
    ran: &List,
    dropped: &Count,
    shut_down: impl FnOnce() -> diesel_deferred::ShutdownReport,
) -> (usize, diesel_deferred::ShutdownReport) {
    let start = Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| commit_until_refused(dispatcher, gate, ran, dropped, &start)))
            .collect();
        start.wait();
        let report = shut_down();
        (threads.into_iter().map(|thread| thread.join().expect("no panic")).sum(), report)
    })
}

fn telling(runtime: &Runtime, told: &Count, slots: usize) -> Dispatcher {
    let told = told.clone();
    at_most(slots, runtime)
        .on_failure(move |_| {
            told.up();
        })
        .build()
}

/// A deadline that is long enough: what was committed ran, all of it, and what did not run was not
/// committed.
#[test]
fn with_time_enough_everything_that_was_committed_ran() {
    for slots in [1, 4, 1000] {
        let (runtime, told) = (runtime(), Count::default());
        let dispatcher = telling(&runtime, &told, slots);
        let (gate, ran, dropped) = (Gate::shut(), List::default(), Count::default());
        gate.open();
        let (committed, report) = race(&dispatcher, &gate, &ran, &dropped, || {
            eventually("some tasks ran", || ran.lines().len() > 20);
            without_runtime(dispatcher.shutdown(LONG))
        });
        assert!(report.is_clean(), "{report}");
        // Those that were refused captured theirs too: two for each thread.
        assert_eq!((ran.lines().len(), dropped.get(), told.get()), (committed, committed + 2 * THREADS as usize, 0));
    }
}

/// No time at all, and a slot that is never free: everything is in the report, or was told to the
/// handler.
#[test]
fn without_time_everything_that_was_committed_is_reported() {
    for deadline in [Duration::ZERO, Duration::from_millis(3)] {
        let (runtime, told) = (runtime(), Count::default());
        let dispatcher = telling(&runtime, &told, 1);
        let (gate, ran, dropped) = (Gate::shut(), List::default(), Count::default());
        occupy(&mut memory(&dispatcher), &dispatcher, &gate);
        let (committed, report) = race(&dispatcher, &gate, &ran, &dropped, || {
            eventually("some tasks wait", || dispatcher.waiting() > 20);
            without_runtime(dispatcher.shutdown(deadline))
        });
        let never_started = report.abandoned().iter().filter(|task| !task.started).count();
        assert_eq!((report.abandoned().len(), never_started + told.get()), (never_started + 1, committed));
        assert!(told.get() <= 2 * report.committing(), "{report}");
        idle(&dispatcher);
        gate.open();
        eventually("all is dropped", || dropped.get() == committed + 2 * THREADS as usize);
        assert!(ran.lines().is_empty(), "something started behind the deadline");
    }
}

/// Many slots and little time: what ran or is reported, or both, is what was committed.
#[test]
fn with_little_time_nothing_is_lost_without_a_word() {
    for _ in 0..5 {
        let (runtime, told) = (runtime(), Count::default());
        let dispatcher = telling(&runtime, &told, 3);
        let (gate, ran, dropped) = (Gate::shut(), List::default(), Count::default());
        gate.open();
        let (committed, report) = race(&dispatcher, &gate, &ran, &dropped, || {
            eventually("some tasks ran", || ran.lines().len() > 20);
            without_runtime(dispatcher.shutdown(Duration::from_micros(50)))
        });
        eventually("all is dropped", || dropped.get() == committed + 2 * THREADS as usize);
        idle(&dispatcher);
        let (ran, running) = (ran.lines().len(), report.abandoned().iter().filter(|task| task.started).count());
        let silent = committed - told.get() - (report.abandoned().len() - running);
        // Those that ran at the deadline may have ended all the same.
        assert!((silent - running..=silent).contains(&ran), "{ran} of {committed} ran; {report}");
    }
}
