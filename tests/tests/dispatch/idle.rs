//! `idle`: waiting for all that a dispatcher has, without shutting it down.

use std::thread;

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, atomic, deferred_task};

use crate::support::{Count, Gate, List, at_most, eventually, memory, runtime, waits, without_runtime};

/// Calls itself, in a transaction of its own, until there is nothing more to count.
#[deferred_task(blocking)]
fn count_down(dispatcher: Dispatcher, list: List, from: i32) {
    list.push(from);
    if from > 0 {
        let conn = &mut memory(&dispatcher);
        atomic!(conn, -> QueryResult<()>, {
            count_down(dispatcher.clone(), list.clone(), from - 1);
            Ok(())
        })
        .expect("commits");
    }
}

/// T12: "`idle()` of a dispatcher returns when nothing is left to run, also what was called
/// meanwhile".
#[test]
fn t12_it_waits_for_what_is_called_meanwhile() {
    let runtime = runtime();
    let dispatcher = at_most(2, &runtime).build();
    let list = List::default();
    without_runtime(dispatcher.idle());
    for round in 1..=3 {
        let conn = &mut memory(&dispatcher);
        atomic!(conn, -> QueryResult<()>, {
            count_down(dispatcher.clone(), list.clone(), 20);
            count_down(dispatcher.clone(), list.clone(), 20);
            count_down(dispatcher.clone(), list.clone(), 20);
            Ok(())
        })
        .expect("commits");
        without_runtime(dispatcher.idle());
        assert_eq!((list.lines().len(), dispatcher.in_flight(), dispatcher.waiting()), (63 * round, 0, 0));
    }
    assert!(!dispatcher.is_shut_down());
}

/// T12.
#[test]
fn t12_it_waits_for_what_runs_and_what_waits() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let (gate, list, dropped) = (Gate::shut(), List::default(), Count::default());
    let conn = &mut memory(&dispatcher);
    atomic!(conn, -> QueryResult<()>, {
        waits(gate.clone(), list.clone(), 1, dropped.guard());
        waits(gate.clone(), list.clone(), 2, dropped.guard());
        Ok(())
    })
    .expect("commits");
    eventually("the first one runs", || dispatcher.in_flight() == 1);
    let inner = dispatcher.clone();
    let idle = thread::spawn(move || without_runtime(inner.idle()));
    // It goes on taking tasks.
    atomic!(conn, -> QueryResult<()>, {
        waits(gate.clone(), list.clone(), 3, dropped.guard());
        Ok(())
    })
    .expect("commits");
    assert!(!idle.is_finished());
    gate.open();
    idle.join().expect("no panic");
    assert_eq!((list.lines().len(), dropped.get()), (3, 3));
}
