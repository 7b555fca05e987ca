//! C24: a call that is dropped without having been registered, run or given up by name is told: one
//! event, with task and call site. Every other end of a call is told elsewhere, or was asked for.
//!
//! Each test counts the events of its own tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{BoxError, CommitError, DeferredConnection, Dispatcher, atomic, deferred_task};
use diesel_deferred_tests::{AsyncSqliteConnection, Database, Scratch, at_work, events_with};
use tokio::runtime::Builder;
use tokio::sync::Notify;

type Conn = DeferredConnection<SqliteConnection>;

/// The events about calls of this task that were lost.
fn lost(task: &str) -> Vec<String> {
    let mut events = events_with(&format!("task=\"{task}\"\n"));
    events.retain(|event| event.contains("neither registered nor run"));
    events
}

fn db() -> Scratch<SqliteConnection> {
    Scratch::with_tasks()
}

/// A task of each kind, with the name of its test.
macro_rules! a_task_of_each_kind {
    ($test:literal) => {
        #[deferred_task(name = $test)]
        fn here(id: i32) {
            let _ = id;
        }
        #[deferred_task(name = $test)]
        fn failing(id: i32, text: &str) -> Result<(), String> {
            Err(format!("{id} {text}"))
        }
        #[deferred_task(name = $test)]
        fn generic<T: Clone + Send + 'static>(value: &T) {
            let _ = value;
        }
        #[deferred_task(name = $test)]
        async fn spawned(id: i32) {
            let _ = id;
        }
        #[deferred_task(name = $test, blocking)]
        fn blocking(id: i32) {
            let _ = id;
        }
        #[deferred_task(name = $test, durable, queue = $test)]
        async fn durable(id: i32) {
            let _ = id;
        }
    };
}

const KINDS: usize = 6;

/// Hands a call of each to a macro.
macro_rules! calls {
    ($each:ident $arguments:tt) => {
        $each!(here(1) $arguments);
        $each!(failing(1, "text") $arguments);
        $each!(generic(&1) $arguments);
        $each!(spawned(1) $arguments);
        $each!(blocking(1) $arguments);
        $each!(durable(1) $arguments);
    };
}

#[test]
fn a_call_that_is_dropped_is_told_with_task_and_call_site() {
    let _db = db();
    #[deferred_task(name = "lost.told")]
    fn task(id: i32) {
        let _ = id;
    }
    let line = line!() + 1;
    drop(task(1));
    let events = lost("lost.told");
    assert_eq!(events.len(), 1);
    assert!(events[0].contains(&format!("call_site={}:{line}:", file!())), "{}", events[0]);
}

#[test]
fn so_is_a_call_of_each_kind_and_forget_says_that_it_was_meant() {
    let _db = db();
    a_task_of_each_kind!("lost.kinds");
    macro_rules! forget {
        ($call:tt $arguments:tt ()) => {
            $call $arguments.forget();
        };
    }
    calls!(forget());
    assert_eq!(lost("lost.kinds"), [""; 0]);
    macro_rules! dropped {
        ($call:tt $arguments:tt ()) => {
            drop($call $arguments);
        };
    }
    calls!(dropped());
    assert_eq!(lost("lost.kinds").len(), KINDS);
}

#[test]
fn so_is_a_call_wherever_it_was_kept() {
    let db = db();
    #[deferred_task(name = "lost.kept")]
    fn task(id: i32) {
        let _ = id;
    }
    let lost_by = |drop: &dyn Fn()| {
        let before = lost("lost.kept").len();
        drop();
        lost("lost.kept").len() - before
    };
    assert_eq!(lost_by(&|| drop(vec![task(1), task(2), task(3)])), 3);
    assert_eq!(lost_by(&|| drop(Box::new(Some(Ok::<_, ()>((task(1), [task(2)])))))), 2);
    assert_eq!(
        lost_by(&|| {
            let _ = task(1);
        }),
        1
    );
    assert_eq!(
        lost_by(&|| {
            let _named = task(1);
        }),
        1
    );
    assert_eq!(
        lost_by(&|| {
            let _iterator = [1, 2].map(task).into_iter();
        }),
        2
    );
    assert_eq!(lost_by(&|| std::mem::forget(task(1))), 0);
    // In a block, too: what is bound is not the block's to register.
    let lost_in_block = lost_by(&|| {
        let conn = &mut db.connect();
        let committed: QueryResult<()> = atomic!(conn, {
            let _named = task(1);
            Ok(())
        });
        committed.expect("committed");
    });
    assert_eq!(lost_in_block, 1);
}

#[test]
fn a_panic_says_enough() {
    let _db = db();
    #[deferred_task(name = "lost.panic")]
    fn task(id: i32) {
        let _ = id;
    }
    let panicked = catch_unwind(|| {
        let _task = task(1);
        panic!("of the test's");
    });
    assert!(panicked.is_err());
    assert_eq!(lost("lost.panic"), [""; 0]);
}

#[test]
fn what_is_run_is_not_lost() {
    let _db = db();
    a_task_of_each_kind!("lost.run");
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    here(1).run();
    failing(1, "text").run().expect_err("it fails");
    generic(&1).run();
    runtime.block_on(spawned(1).run());
    blocking(1).run();
    runtime.block_on(durable(1).run());
    #[deferred_task(name = "lost.run")]
    fn panics() {
        panic!("of the test's");
    }
    catch_unwind(|| panics().run()).expect_err("it panics");
    assert_eq!(lost("lost.run"), [""; 0]);
    // Nothing of it has run: it is as lost as any.
    drop(spawned(1).run());
    assert_eq!(lost("lost.run").len(), 1);
}

#[test]
fn what_is_registered_is_not_lost_whether_it_runs_or_is_rolled_back() {
    let db = db();
    a_task_of_each_kind!("lost.registered");
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let dispatcher = Dispatcher::builder().runtime(runtime.handle().clone()).build();
    let connect = || {
        let mut conn = db.connect();
        conn.set_dispatcher(dispatcher.clone());
        conn
    };
    let register = |conn: &mut Conn| -> QueryResult<()> {
        macro_rules! register {
            (durable $arguments:tt ($conn:ident)) => {
                durable $arguments.after_commit($conn)?;
            };
            ($call:tt $arguments:tt ($conn:ident)) => {
                $call $arguments.after_commit($conn)?;
                $call $arguments.after_commit_or_now($conn).expect("registered");
                $call $arguments.after_rollback($conn)?;
            };
        }
        calls!(register(conn));
        atomic!(conn, {
            here(1);
            failing(1, "text");
            generic(&1);
            spawned(1);
            blocking(1);
            durable(1);
            Some(here(1));
            Ok(())
        })
    };
    let conn = &mut connect();
    atomic!(conn, -> QueryResult<()>, { register(conn) }).expect("committed");
    atomic!(conn, -> QueryResult<()>, {
        register(conn)?;
        Err(Error::RollbackTransaction)
    })
    .expect_err("rolled back");
    atomic!(conn, -> QueryResult<()>, {
        let _: QueryResult<()> = atomic!(conn, {
            register(conn)?;
            Err(Error::RollbackTransaction)
        });
        Ok(())
    })
    .expect("committed without");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            register(conn)?;
            panic!("of the test's")
        })
    }));
    assert!(panicked.is_err());
    // A connection that is gone before the transaction has ended.
    let mut conn = connect();
    <diesel_deferred::DeferredTransactionManager as diesel::connection::TransactionManager<Conn>>::begin_transaction(
        &mut conn,
    )
    .and_then(|()| register(&mut conn))
    .expect("registered");
    drop(conn);
    let report = runtime.block_on(dispatcher.shutdown(Duration::from_secs(30)));
    assert!(report.is_clean(), "{report}");
    assert_eq!(lost("lost.registered"), [""; 0]);
}

#[test]
fn what_is_retried_is_not_lost() {
    let db = db();
    #[deferred_task(name = "lost.retried")]
    fn here(id: i32) {
        let _ = id;
    }
    #[deferred_task(name = "lost.retried", durable)]
    fn durable(id: i32) {
        let _ = id;
    }
    let (conn, other) = (&mut db.connect(), &mut db.observer());
    let mut attempts = 0;
    let committed: QueryResult<()> = atomic!(conn, retries = 3, {
        attempts += 1;
        // Two times another one has the write lock.
        other.batch_execute(if attempts < 3 { "BEGIN IMMEDIATE" } else { "SELECT 1" })?;
        here(attempts);
        durable(attempts);
        let inserted = SqliteConnection::insert(conn, attempts);
        if attempts < 3 {
            other.batch_execute("ROLLBACK")?;
        }
        inserted
    });
    committed.expect("committed");
    assert_eq!((attempts, conn.last_report().ran()), (3, 1));
    assert_eq!(lost("lost.retried"), [""; 0]);
}

#[test]
fn what_is_refused_by_an_error_is_not_lost() {
    let db = db();
    a_task_of_each_kind!("lost.refused");
    let conn = &mut db.connect();
    let refused = |result: QueryResult<()>| {
        let error = result.expect_err("it is refused");
        assert!(CommitError::of(&error).is_some(), "{error}");
    };
    macro_rules! refuse {
        (durable $arguments:tt ($conn:ident)) => {
            refused(durable $arguments.after_commit($conn).map(drop));
            refused(durable $arguments.queue("").after_commit($conn).map(drop));
        };
        ($call:tt $arguments:tt ($conn:ident)) => {
            refused($call $arguments.after_commit($conn));
            refused($call $arguments.after_rollback($conn));
        };
    }
    calls!(refuse(conn));
    // No runtime, and a state that nobody gave.
    #[derive(Clone)]
    struct Missing;
    #[deferred_task(name = "lost.refused")]
    fn with_state(#[state] missing: Missing, id: i32) {
        let _ = (missing, id);
    }
    let error: BoxError = spawned(1).after_commit_or_now(conn).expect_err("no runtime");
    assert!(error.to_string().contains("runtime"), "{error}");
    with_state(1).after_commit_or_now(conn).expect_err("no state");
    refused(atomic!(conn, {
        spawned(1);
        Ok(())
    }));
    refused(atomic!(conn, {
        with_state(1);
        Ok(())
    }));
    refused(atomic!(conn, {
        durable(1).queue("");
        Ok(())
    }));
    assert_eq!(lost("lost.refused"), [""; 0]);
}

#[test]
fn what_its_runtime_drops_is_told_as_cancelled_and_not_as_lost() {
    let db = db();
    #[deferred_task(name = "lost.cancelled")]
    async fn spawned(id: i32) {
        std::future::pending::<()>().await;
        let _ = id;
    }
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let dispatcher = Dispatcher::builder().runtime(runtime.handle().clone()).max_in_flight(2).build();
    let conn = &mut db.connect();
    conn.set_dispatcher(dispatcher.clone());
    let committed: QueryResult<()> = atomic!(conn, {
        for id in 1..=4 {
            spawned(id);
        }
        Ok(())
    });
    committed.expect("committed");
    // Two of them were never polled, two had no slot.
    assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (2, 2));
    drop(runtime);
    assert_eq!(events_with("task=\"lost.cancelled\"\n").len(), 4);
    assert_eq!(lost("lost.cancelled"), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_block_loses_what_it_had_not_registered() {
    let db = db();
    #[deferred_task(name = "lost.block")]
    fn task(id: i32) {
        let _ = id;
    }
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let (begun, never) = (Notify::new(), Notify::new());
    let block = async {
        atomic!(conn, -> QueryResult<()>, async {
            task(1);
            let _kept = task(2);
            task(3).after_rollback(conn)?;
            begun.notify_one();
            never.notified().await;
            Ok(())
        })
        .await
    };
    tokio::select! {
        _ = block => unreachable!("nobody notifies it"),
        () = begun.notified() => {}
    }
    assert_eq!(lost("lost.block").len(), 1, "the one that was kept");
}

#[tokio::test]
async fn what_a_worker_reads_from_a_row_is_not_lost() {
    let db = db();
    #[deferred_task(name = "lost.worker", durable, queue = "lost.worker")]
    async fn spawned(id: i32) -> Result<(), String> {
        if id == 1 { Ok(()) } else { Err(id.to_string()) }
    }
    #[deferred_task(name = "lost.worker.blocking", durable, queue = "lost.worker")]
    fn blocking(text: &str, id: i32) {
        let _ = (text, id);
    }
    let conn = &mut db.patient();
    let committed: QueryResult<()> = atomic!(conn, {
        spawned(1);
        spawned(2).max_attempts(1);
        blocking("text", 3);
        blocking("unreadable", 4).max_attempts(1);
        Ok(())
    });
    committed.expect("committed");
    db.run_sql("UPDATE deferred_tasks SET payload = '{\"text\":\"unreadable\"}' WHERE payload LIKE '%unreadable%'");
    let worker = at_work!(db.worker::<AsyncSqliteConnection>().queue("lost.worker", 2));
    let ends = |row: &diesel_deferred_tests::TaskRow| match &*row.task {
        "lost.worker" => row.state == "dead",
        // It waits for a program that can read it.
        _ => row.state == "unknown",
    };
    db.wait_for_tasks(|rows| rows.len() == 2 && rows.iter().all(ends)).await;
    worker.stop().await;
    assert_eq!((lost("lost.worker"), lost("lost.worker.blocking")), (Vec::new(), Vec::new()));
}
