//! What a task captured is dropped exactly once, whatever becomes of it.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::rolled_back;

use crate::support::{
    Count, Gate, LONG, List, Threads, at_most, blocks, eventually, idle, memory, runtime, waits, without_runtime,
};

/// Two tasks of each kind, one slot.
macro_rules! captured_once {
    ($($name:ident: $end:expr, $finish:expr;)*) => {$(
        #[test]
        fn $name() {
            let runtime = runtime();
            let dispatcher = at_most(1, &runtime).build();
            let (gate, list, dropped) = (Gate::shut(), List::default(), Count::default());
            let conn = &mut memory(&dispatcher);
            let result: QueryResult<()> = atomic!(conn, {
                for id in 0..2 {
                    waits(gate.clone(), list.clone(), id, dropped.guard());
                    blocks(gate.clone(), list.clone(), id, dropped.guard());
                }
                $end
            });
            drop(result);
            $finish(&dispatcher, &gate, runtime);
            eventually("all is dropped", || dropped.get() >= 4);
            idle(&dispatcher);
            assert_eq!(dropped.get(), 4);
        }
    )*};
}

type Dispatcher = diesel_deferred::Dispatcher;

captured_once! {
    of_a_task_that_ran: Ok(()), |_: &Dispatcher, gate: &Gate, runtime| {
        gate.open();
        // Not dropped: that would cancel them.
        std::mem::forget::<Threads>(runtime);
    };
    of_a_task_that_was_rolled_back: rolled_back(), |_: &Dispatcher, _: &Gate, _: Threads| ();
    of_a_task_that_was_abandoned: Ok(()), |dispatcher: &Dispatcher, _: &Gate, runtime| {
        let report = without_runtime(dispatcher.shutdown(Duration::ZERO));
        assert_eq!(report.abandoned().len(), 4);
        std::mem::forget::<Threads>(runtime);
    };
    of_a_task_whose_runtime_is_gone: Ok(()), |_: &Dispatcher, _: &Gate, runtime: Threads| drop(runtime);
}

/// Says that it is being dropped, and waits until it may.
struct Slow(Sender<()>, Receiver<()>);

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.0.send(());
        let _ = self.1.recv();
    }
}

#[deferred_task]
async fn holds(slow: Mutex<Slow>) {
    std::future::pending::<()>().await;
    drop(slow);
}

/// A shutdown is not over before what it abandoned is.
#[test]
fn what_is_abandoned_is_dropped_before_its_slot_is_free() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).build();
    let conn = &mut memory(&dispatcher);
    let ((says, said), (go, may_go)) = (channel(), channel());
    atomic!(conn, -> QueryResult<()>, {
        holds(Mutex::new(Slow(says, may_go)));
        Ok(())
    })
    .expect("commits");
    let shutdown = |deadline| without_runtime(dispatcher.shutdown(deadline));
    assert_eq!(shutdown(Duration::ZERO).abandoned().len(), 1);
    said.recv_timeout(LONG).expect("it is dropped");
    assert_eq!((shutdown(Duration::ZERO).abandoned().len(), dispatcher.in_flight()), (1, 1));
    go.send(()).expect("it waits");
    assert!(shutdown(LONG).is_clean());
}

/// Of one that could not run.
#[test]
fn of_a_task_that_was_refused() {
    let dispatcher = Dispatcher::builder().build();
    let (dropped, conn) = (Count::default(), &mut memory(&dispatcher));
    let result: QueryResult<()> = atomic!(conn, {
        waits(Gate::shut(), List::default(), 0, dropped.guard());
        blocks(Gate::shut(), List::default(), 0, dropped.guard());
        Ok(())
    });
    assert!(result.is_err());
    assert_eq!(dropped.get(), 2);
}
