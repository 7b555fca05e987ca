//! What is left of a dispatcher's tasks when they have ended, as nobody outside can see it.

use std::future::pending;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use super::Dispatcher;
use super::slots::KEPT_CAPACITY;
use crate::metrics::Stamp;
use crate::report::HookKind;
use crate::task::expansion::Receiver;
use crate::task::start::Spawned;
use crate::task::{Taken, Task};

const SLOTS: usize = 4;

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Task for Counted {
    type Output = ();
    const NAME: &'static str = "counted";

    fn call_site(&self) -> &'static Location<'static> {
        Location::caller()
    }

    fn hand_over<R: Receiver>(self, _: R) -> R::Output {
        unreachable!("it is handed over already")
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

/// Hands so many tasks over, which end, or wait for ever.
fn burst(dispatcher: &Dispatcher, runtime: &Runtime, tasks: usize, end: bool) -> (Arc<AtomicUsize>, usize) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let kind = HookKind::AfterCommit;
    let run = move |task: Taken<Counted>, _: &super::States| {
        Some(async move {
            let _task = task;
            if end { yield_now().await } else { pending().await }
        })
    };
    let accepted = (0..tasks)
        .filter(|_| {
            let task = Taken::new(Counted(dropped.clone()));
            dispatcher.0.dispatch(runtime.handle(), kind, task, Spawned(run), Stamp::now()).is_ok()
        })
        .count();
    (dropped, accepted)
}

/// Every slot is there again, and nothing holds on to anything.
fn assert_nothing_left(dispatcher: &Dispatcher) {
    let shared = &dispatcher.0;
    assert_eq!((shared.slots.available_permits(), shared.tracker.len()), (SLOTS, 0));
    let lists = shared.lists();
    assert_eq!((lists.in_flight(), lists.waiting.len(), lists.committing), (0, 0, 0));
    assert!(lists.waiting.capacity() <= KEPT_CAPACITY, "{}", lists.waiting.capacity());
    assert_eq!(Arc::strong_count(shared), 1);
}

#[test]
fn a_burst_leaves_nothing_behind() {
    let (runtime, dispatcher) = (runtime(), Dispatcher::builder().max_in_flight(SLOTS).build());
    let (dropped, accepted) = burst(&dispatcher, &runtime, 10_000, true);
    assert_eq!((accepted, dispatcher.in_flight(), dispatcher.waiting()), (10_000, SLOTS, 10_000 - SLOTS));
    let report = runtime.block_on(dispatcher.shutdown(Duration::from_secs(60)));
    assert!(report.is_clean(), "{report}");
    assert_eq!(dropped.load(Ordering::Relaxed), 10_000);
    assert_nothing_left(&dispatcher);
}

#[test]
fn a_runtime_that_is_dropped_leaves_nothing_behind() {
    let (runtime, dispatcher) = (runtime(), Dispatcher::builder().max_in_flight(SLOTS).build());
    let (dropped, accepted) = burst(&dispatcher, &runtime, 10_000, false);
    assert_eq!((accepted, dropped.load(Ordering::Relaxed)), (10_000, 0));
    drop(runtime);
    assert_eq!(dropped.load(Ordering::Relaxed), 10_000);
    assert_nothing_left(&dispatcher);
}

#[test]
fn a_deadline_leaves_nothing_behind() {
    let (runtime, dispatcher) = (runtime(), Dispatcher::builder().max_in_flight(SLOTS).build());
    let (dropped, _) = burst(&dispatcher, &runtime, 10_000, false);
    let report = runtime.block_on(dispatcher.shutdown(Duration::ZERO));
    assert_eq!(report.abandoned().iter().filter(|task| task.started).count(), SLOTS);
    assert_eq!(report.abandoned().len(), 10_000);
    // What ran is dropped where it waits; what comes now is turned away.
    let report = runtime.block_on(dispatcher.shutdown(Duration::from_secs(60)));
    assert!(report.is_clean(), "{report}");
    assert_eq!(dropped.load(Ordering::Relaxed), 10_000);
    let (turned_away, accepted) = burst(&dispatcher, &runtime, 10, true);
    assert_eq!((accepted, turned_away.load(Ordering::Relaxed)), (0, 10));
    assert_nothing_left(&dispatcher);
}
