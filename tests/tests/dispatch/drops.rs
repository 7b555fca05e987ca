//! What a task captured is dropped exactly once, whatever becomes of it.

use diesel::prelude::*;
use diesel_deferred::atomic;
use diesel_deferred_tests::rolled_back;

use crate::support::{
    Count, Gate, List, Threads, at_most, blocks, eventually, idle, memory, runtime, waits, without_runtime,
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
        let report = without_runtime(dispatcher.shutdown(std::time::Duration::ZERO));
        assert_eq!(report.abandoned().len(), 4);
        std::mem::forget::<Threads>(runtime);
    };
    of_a_task_whose_runtime_is_gone: Ok(()), |_: &Dispatcher, _: &Gate, runtime: Threads| drop(runtime);
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
