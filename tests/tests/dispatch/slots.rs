//! How many tasks run at a time, in which order they start, and that a slot is handed on whatever
//! becomes of its task.

use std::future::poll_fn;
use std::task::Poll;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use tokio::runtime::Builder;

use crate::support::{Count, Gate, List, at_most, idle, memory, occupy, runtime, waits};

#[deferred_task]
async fn metered(running: Count, peak: Count, ran: Count) {
    peak.at_least(running.up());
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    running.down();
    ran.up();
}

#[deferred_task(blocking)]
fn metered_blocking(running: Count, peak: Count, ran: Count) {
    peak.at_least(running.up());
    std::thread::yield_now();
    running.down();
    ran.up();
}

/// Never more than that at a time, `async` and blocking ones together; and as many as that.
#[test]
fn so_many_run_at_a_time_and_no_more() {
    for limit in [1, 3] {
        let runtime = runtime();
        let dispatcher = at_most(limit, &runtime).build();
        let (gate, running, peak, ran) = (Gate::shut(), Count::default(), Count::default(), Count::default());
        let conn = &mut memory(&dispatcher);
        occupy(conn, &dispatcher, &gate);
        for _ in 0..20 {
            atomic!(conn, -> QueryResult<()>, {
                for _ in 0..10 {
                    metered(running.clone(), peak.clone(), ran.clone());
                    metered_blocking(running.clone(), peak.clone(), ran.clone());
                }
                Ok(())
            })
            .expect("commits");
            assert!(dispatcher.in_flight() <= limit);
        }
        gate.open();
        idle(&dispatcher);
        assert_eq!(ran.get(), 400);
        assert!((1..=limit).contains(&peak.get()), "{} of {limit} at a time", peak.get());
    }
}

/// A limit is used, not only kept: tasks that wait for each other all have a slot.
#[test]
fn all_slots_are_used() {
    let runtime = runtime();
    let dispatcher = at_most(3, &runtime).build();
    let (gate, list) = (Gate::shut(), List::default());
    let conn = &mut memory(&dispatcher);
    commit(conn, &gate, &list, 0..5);
    assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (3, 2));
    gate.open();
    idle(&dispatcher);
    assert_eq!(list.lines().len(), 5);
}

fn commit(conn: &mut DeferredConnection<SqliteConnection>, gate: &Gate, list: &List, ids: std::ops::Range<i32>) {
    atomic!(conn, -> QueryResult<()>, {
        for id in ids {
            waits(gate.clone(), list.clone(), id, Count::default().guard());
        }
        Ok(())
    })
    .expect("commits");
}

/// C3 for tasks that wait for a slot: over several transactions and connections they start in the
/// order of registration. And the committing thread does not wait for one: nobody else opens the
/// gate.
#[test]
fn c03_what_waits_starts_in_order_and_blocks_nobody() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let (gate, list) = (Gate::shut(), List::default());
    let (one, two) = (&mut memory(&dispatcher), &mut memory(&dispatcher));
    for round in 0..10 {
        commit(one, &gate, &list, round * 10..round * 10 + 5);
        commit(two, &gate, &list, round * 10 + 5..round * 10 + 10);
    }
    assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (1, 99));
    assert!(list.lines().is_empty());
    gate.open();
    idle(&dispatcher);
    assert_eq!(list.lines(), (0..100).map(|id| id.to_string()).collect::<Vec<_>>());
}

/// Somebody else on the runtime has a turn between any two tasks, although these never wait.
#[test]
fn tasks_that_never_wait_leave_others_their_turn() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let dispatcher = at_most(1, &runtime).build();
    let (gate, list) = (Gate::shut(), List::default());
    gate.open();
    let (conn, ran) = (&mut memory(&dispatcher), list.clone());
    let observed = dispatcher.clone();
    let most_in_a_turn = runtime.block_on(async {
        commit(conn, &gate, &list, 0..100);
        let (mut seen, mut most) = (0, 0);
        let observer = tokio::spawn(poll_fn(move |context| {
            let now = ran.lines().len();
            most = most.max(now - seen);
            seen = now;
            if observed.in_flight() == 0 {
                return Poll::Ready(most);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        observer.await.expect("no panic")
    });
    assert_eq!((list.lines().len(), most_in_a_turn), (100, 1));
}

/// As bounded as ever, and nothing stays behind.
#[test]
fn a_hundred_thousand_out_of_one_block() {
    let runtime = runtime();
    let dispatcher = at_most(64, &runtime).build();
    let (running, peak, ran) = (Count::default(), Count::default(), Count::default());
    let conn = &mut memory(&dispatcher);
    atomic!(conn, -> QueryResult<()>, {
        for _ in 0..100_000 {
            metered(running.clone(), peak.clone(), ran.clone());
        }
        Ok(())
    })
    .expect("commits");
    assert_eq!(conn.last_report().ran(), 100_000);
    idle(&dispatcher);
    assert_eq!((ran.get(), dispatcher.waiting()), (100_000, 0));
    assert!((1..=64).contains(&peak.get()), "{} at a time", peak.get());
}

/// What a task may take that panics when it is cloned, or dropped.
struct Explosive(&'static str);

impl Clone for Explosive {
    fn clone(&self) -> Self {
        panic!("{} cloned", self.0)
    }
}

struct PanicsWhenDropped(&'static str);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("{} dropped", self.0);
    }
}

impl std::fmt::Debug for PanicsWhenDropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::fmt::Display for PanicsWhenDropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for PanicsWhenDropped {}

macro_rules! endings {
    ($($module:ident #[$attribute:meta] [$($asyncness:tt)?];)*) => {$(
        #[allow(dead_code, reason = "the methods of a task that a macro defines")]
        mod $module {
            use super::*;

            #[$attribute]
            pub(super) $($asyncness)? fn fails() -> Result<(), String> {
                Err("an error".to_owned())
            }

            #[$attribute]
            pub(super) $($asyncness)? fn fails_with_a_bomb() -> Result<(), PanicsWhenDropped> {
                Err(PanicsWhenDropped("an error that is"))
            }

            #[$attribute]
            pub(super) $($asyncness)? fn panics() {
                panic!("a panic");
            }

            #[$attribute]
            pub(super) $($asyncness)? fn throws_a_bomb() {
                std::panic::panic_any(PanicsWhenDropped("a payload that is"));
            }

            #[$attribute]
            pub(super) $($asyncness)? fn takes_a_bomb(bomb: PanicsWhenDropped) {
                let _ = &bomb;
            }

            #[$attribute]
            pub(super) $($asyncness)? fn takes_an_explosive_state(#[state] _explosive: Explosive) {}

            #[$attribute]
            pub(super) $($asyncness)? fn ends(ran: &Count) {
                ran.up();
            }
        }
    )*};
}

endings! {
    spawned #[deferred_task] [async];
    blocking #[deferred_task(blocking)] [];
}

/// E1, E4, E16 for tasks of a dispatcher: one slot sees every way in which a task can end, and each
/// is told, with its name.
#[test]
fn e04_a_slot_is_handed_on_whatever_becomes_of_its_task() {
    let (runtime, told, ran) = (runtime(), List::default(), Count::default());
    let inner = told.clone();
    let dispatcher = at_most(1, &runtime)
        .state(Explosive("the state"))
        .on_failure(move |failure| inner.push(format!("{}: {}", failure.task, failure.cause)))
        .build();
    let (gate, conn) = (Gate::shut(), &mut memory(&dispatcher));
    let expected: Vec<_> = ["spawned", "blocking"]
        .into_iter()
        .flat_map(|module| {
            [
                ("fails", "an error"),
                ("fails_with_a_bomb", "an error that is"),
                ("panics", "panicked: a panic"),
                ("throws_a_bomb", "panicked: not with a string"),
                ("takes_a_bomb", "panicked: an argument dropped"),
                ("takes_an_explosive_state", "panicked: the state cloned"),
            ]
            .map(|(task, cause)| format!("{}::{module}::{task}: {cause}", module_path!()))
        })
        .collect();
    for gated in [true, false] {
        if gated {
            occupy(conn, &dispatcher, &gate);
        }
        atomic!(conn, -> QueryResult<()>, {
            spawned::fails();
            spawned::fails_with_a_bomb();
            spawned::panics();
            spawned::throws_a_bomb();
            spawned::takes_a_bomb(PanicsWhenDropped("an argument"));
            spawned::takes_an_explosive_state();
            spawned::ends(&ran);
            blocking::fails();
            blocking::fails_with_a_bomb();
            blocking::panics();
            blocking::throws_a_bomb();
            blocking::takes_a_bomb(PanicsWhenDropped("an argument"));
            blocking::takes_an_explosive_state();
            blocking::ends(&ran);
            Ok(())
        })
        .expect("commits");
        gate.open();
        idle(&dispatcher);
    }
    assert_eq!(told.lines(), [&expected[..], &expected[..]].concat());
    assert_eq!(ran.get(), 4);
}
