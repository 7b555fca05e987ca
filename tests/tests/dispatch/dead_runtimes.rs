//! No runtime, or one that is gone or goes: a transaction that comes too late fails, and what was
//! committed is told.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, FailureCause, atomic, deferred_task};
use diesel_deferred_tests::witness;
use tokio::runtime::Builder;

use crate::support::{
    Count, Gate, LONG, List, at_most, blocks, eventually, idle, memory, occupy, refused, runtime, waits,
    without_runtime,
};

macro_rules! refused_by {
    ($dispatcher:expr, $task:ident) => {{
        let conn = &mut memory($dispatcher);
        let message = refused::<()>(atomic!(conn, {
            diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
            $task(Gate::shut(), List::default(), 1, Count::default().guard());
            Ok(())
        }));
        let task = concat!("`dispatch::support::", stringify!($task), "` (called at ");
        for part in [task, file!(), "tokio runtime", "install"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert_eq!(witness::table.count().get_result(conn), Ok(0_i64));
    }};
}

/// A thread that is in no runtime, and a dispatcher without one.
#[test]
fn without_a_runtime_nothing_is_committed() {
    let dispatcher = Dispatcher::builder().build();
    refused_by!(&dispatcher, waits);
    refused_by!(&dispatcher, blocks);
}

/// The runtime that the dispatcher was built in was shut down; or the one that the thread has
/// entered, or is a blocking thread of.
#[test]
fn on_a_runtime_that_was_shut_down_nothing_is_committed() {
    let gone = runtime();
    let dispatcher = gone.block_on(async { Dispatcher::builder().build() });
    let handle = gone.handle().clone();
    let (gate, list) = (Gate::shut(), List::default());
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let inner = dispatcher.clone();
    let (result, ready) = (List::default(), Count::default());
    let (results, here) = (result.clone(), ready.clone());
    gone.spawn_blocking(move || {
        let conn = &mut memory(&inner);
        here.up();
        told.recv().expect("somebody tells");
        let refused = refused::<()>(atomic!(conn, {
            waits(gate, list, 1, Count::default().guard());
            Ok(())
        }));
        results.push(refused);
    });
    eventually("the blocking thread is there", || ready.get() == 1);
    gone.shutdown_background();
    // Its threads end by and by; what is spawned before that is still taken, and cancelled.
    eventually("it is gone", || without_runtime(handle.spawn(std::future::ready(()))).is_err());
    refused_by!(&dispatcher, waits);
    refused_by!(&dispatcher, blocks);
    let entered = handle.enter();
    refused_by!(&dispatcher, waits);
    refused_by!(&Dispatcher::builder().build(), blocks);
    drop(entered);
    go_on.send(()).expect("the blocking thread waits");
    eventually("it is refused", || result.lines().len() == 1);
}

/// 100,000 tasks wait when their runtime is dropped: each is told as cancelled, and dropped, once.
/// None runs, nothing hangs.
#[test]
fn a_runtime_that_is_dropped_cancels_what_runs_and_waits() {
    for blocking in [false, true] {
        let (runtime, told, other) = (runtime(), Count::default(), Count::default());
        let (inner, others) = (told.clone(), other.clone());
        let dispatcher = at_most(2, &runtime)
            .on_failure(move |failure| match failure.cause {
                FailureCause::Cancelled => {
                    inner.up();
                }
                _ => {
                    others.up();
                }
            })
            .build();
        let (gate, ran, dropped) = (Gate::shut(), List::default(), Count::default());
        let conn = &mut memory(&dispatcher);
        occupy(conn, &dispatcher, &gate);
        let many = if blocking { 1_000 } else { 100_000 };
        atomic!(conn, -> QueryResult<()>, {
            for id in 0..many {
                if blocking {
                    blocks(gate.clone(), ran.clone(), id, dropped.guard())
                } else {
                    waits(gate.clone(), ran.clone(), id, dropped.guard())
                }
            }
            Ok(())
        })
        .expect("commits");
        let many = usize::try_from(many).expect("many");
        assert_eq!(dispatcher.waiting(), many - 1);
        if blocking {
            // The one that runs can't be stopped: it runs to its end.
            runtime.shutdown_background();
            eventually("the async one is cancelled, and with it all that wait", || told.get() >= many);
            gate.open();
        } else {
            drop(runtime);
        }
        idle(&dispatcher);
        eventually("all is dropped", || dropped.get() == many);
        let ran = ran.lines().len();
        assert_eq!((told.get(), other.get()), (many + 1 - ran, 0));
        assert!(ran <= usize::from(blocking), "{ran} ran");
    }
}

/// Two runtimes behind one slot, both gone, their tasks one behind the other: no task of the one
/// finds the other in its way, and the stack does not grow with them.
#[test]
fn two_runtimes_that_are_gone_are_no_recursion() {
    let (one, two, told) = (runtime(), runtime(), Count::default());
    let inner = told.clone();
    // Built outside of both: tasks run where their thread is.
    let dispatcher = Dispatcher::builder()
        .max_in_flight(1)
        .on_failure(move |_| {
            inner.up();
        })
        .build();
    let (gate, ran, dropped) = (Gate::shut(), List::default(), Count::default());
    let conn = &mut memory(&dispatcher);
    let pairs = 5_000;
    for _ in 0..pairs {
        for runtime in [&one, &two] {
            let _inside = runtime.enter();
            atomic!(conn, -> QueryResult<()>, {
                waits(gate.clone(), ran.clone(), 0, dropped.guard());
                Ok(())
            })
            .expect("commits");
        }
    }
    drop(two);
    assert_eq!(told.get(), 0, "none of its tasks had started");
    drop(one);
    assert_eq!((told.get(), dropped.get(), ran.lines().len()), (2 * pairs, 2 * pairs, 0));
    assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (0, 0));
}

/// A runtime that goes takes its own tasks along, not those of another.
#[test]
fn the_slots_of_a_runtime_that_is_gone_go_to_others() {
    let (one, two, told) = (runtime(), runtime(), Count::default());
    let inner = told.clone();
    let dispatcher = Dispatcher::builder()
        .max_in_flight(1)
        .on_failure(move |_| {
            inner.up();
        })
        .build();
    let (gate, ran) = (Gate::shut(), List::default());
    let conn = &mut memory(&dispatcher);
    for (id, runtime) in (0..).zip([&one, &two, &one, &two]) {
        let _inside = runtime.enter();
        atomic!(conn, -> QueryResult<()>, {
            waits(gate.clone(), ran.clone(), id, Count::default().guard());
            Ok(())
        })
        .expect("commits");
    }
    drop(one);
    gate.open();
    idle(&dispatcher);
    assert_eq!((ran.lines().join(" "), told.get()), ("1 3".to_owned(), 2));
}

/// A value of a user's that a runtime holds, and that asks the dispatcher something when it is
/// dropped.
struct Asks(Dispatcher);

impl Drop for Asks {
    fn drop(&mut self) {
        let _ = self.0.in_flight();
    }
}

/// The waker of a task may be the last that holds a runtime which is gone.
#[test]
fn the_last_of_a_runtime_is_dropped_behind_the_lock() {
    let (over, is_over) = channel();
    thread::spawn(move || {
        let dispatcher = Dispatcher::builder().max_in_flight(1).build();
        let asks = Asks(dispatcher.clone());
        let one = Builder::new_current_thread()
            .on_thread_stop(move || {
                let _ = &asks;
            })
            .build()
            .expect("a runtime");
        let two = Builder::new_current_thread().build().expect("a runtime");
        let (gate, list) = (Gate::shut(), List::default());
        let conn = &mut memory(&dispatcher);
        let mut call = |gate: &Gate, id| {
            atomic!(conn, -> QueryResult<()>, {
                waits(gate.clone(), list.clone(), id, Count::default().guard());
                Ok(())
            })
            .expect("commits");
        };
        let turns = async || {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let open = Gate::shut();
        open.open();
        one.block_on(async { call(&gate, 1) });
        two.block_on(async { call(&open, 2) });
        one.block_on(turns());
        gate.open();
        one.block_on(turns());
        drop(one);
        // Its task waited, and its slot goes on here, in one that never does.
        two.block_on(turns());
        over.send(list.lines()).expect("somebody waits");
    });
    assert_eq!(is_over.recv_timeout(LONG).expect("no deadlock"), ["1", "2"]);
}

#[deferred_task]
fn take_a_moment() {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(20) {}
}

/// While a runtime is dropped somebody commits tasks to it, one for each that is told: the stack
/// does not grow with them.
#[test]
fn a_runtime_that_goes_while_somebody_commits_is_no_recursion() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let known = Arc::new(OnceLock::<Dispatcher>::new());
    let (dropping, stack, its) = (thread::current().id(), Arc::new(Mutex::new(Vec::new())), Arc::clone(&known));
    let places = Arc::clone(&stack);
    let dispatcher = at_most(1, &runtime)
        .on_failure(move |_| {
            if thread::current().id() == dropping {
                let here = 0_u8;
                places.lock().expect("not poisoned").push(&raw const here as usize);
                let (begin, dispatcher) = (Instant::now(), its.get().expect("it is known"));
                while begin.elapsed() < Duration::from_millis(20) && dispatcher.waiting() == 0 {}
            }
        })
        .build();
    known.set(dispatcher.clone()).expect("once");
    let committing = {
        let dispatcher = dispatcher.clone();
        thread::spawn(move || {
            let conn = &mut memory(&dispatcher);
            atomic!(conn, -> QueryResult<()>, {
                for id in 0..2_000 {
                    waits(Gate::shut(), List::default(), id, Count::default().guard());
                    take_a_moment();
                }
                Ok(())
            })
        })
    };
    eventually("some wait", || dispatcher.waiting() > 0);
    drop(runtime);
    committing.join().expect("no panic").expect("commits");
    idle(&dispatcher);
    let places = stack.lock().expect("not poisoned");
    let (low, high) = (places.iter().min().expect("one"), places.iter().max().expect("one"));
    assert!(high - low < 50_000, "{} bytes of the stack for {} tasks", high - low, places.len());
}
