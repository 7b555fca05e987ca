//! Hooks that fail.

use diesel::connection::TransactionManager;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, DeferredTransactionManager, FailureCause, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, note_failing, note_panicking, noting, on_every_database,
    rolled_back, traced,
};

on_every_database! {
    e01_a_failing_hook_does_not_stop_the_others,
    e02_on_request_the_first_failure_stops_the_rest,
    e03_a_failing_hook_does_not_make_the_commit_look_failed,
    e04_a_panicking_hook_is_contained,
    e04_a_hook_that_leaves_a_transaction_open_is_a_failure,
    e16_failures_carry_the_call_site_and_are_traced,
}

/// E1: all errors are collected, in order, each with the task's name.
fn e01_a_failing_hook_does_not_stop_the_others<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note_failing(&log, 1);
        note(&log, 2);
        note_panicking(&log, 3);
        conn.after_commit(|conn| C::insert(conn, 1))?;
        note(&log, 4);
        C::insert(conn, 1)
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 4]);
    let report = conn.last_report();
    assert_eq!((report.ran(), report.failures().len(), report.not_run().len()), (5, 3, 0), "{report}");
    assert!(!report.is_clean());
    let tasks: Vec<_> = report.failures().iter().map(|failure| failure.task).collect();
    assert_eq!(tasks[..2], ["diesel_deferred_tests::log::note_failing", "diesel_deferred_tests::log::note_panicking"]);
    assert!(tasks[2].contains("e01_a_failing_hook"), "a closure's type says where it is: {}", tasks[2]);
    assert_eq!(report.failures()[0].cause.to_string(), "task 1 failed");
    assert!(matches!(&report.failures()[2].cause, FailureCause::Error(error) if error.is::<diesel::result::Error>()));
    assert!(std::error::Error::source(&report.failures()[0]).is_some());
    assert_clean(db, conn, &log);
}

/// E2: what is behind it is reported as not run, not silently dropped.
fn e02_on_request_the_first_failure_stops_the_rest<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    conn.stop_hooks_at_first_failure(true);
    for fail in [note_failing(&Log::new(), 2), note_failing(&Log::new(), 3)] {
        let log = Log::new();
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            fail;
            note(&log, 4);
            conn.after_commit(noting(&log, 5))?;
            Ok(())
        })
        .unwrap();
        assert_eq!(log.ran(), [1]);
        let report = conn.last_report();
        assert_eq!((report.ran(), report.failures().len()), (2, 1), "{report}");
        let [task, closure] = report.not_run() else { panic!("{report}") };
        assert_eq!((task.task, task.kind, task.depth), ("diesel_deferred_tests::log::note", HookKind::AfterCommit, 1));
        assert!(task.arguments.ends_with("id: 4"), "{}", task.arguments);
        assert!(task.call_site.file().ends_with("hooks.rs") && closure.call_site.file().ends_with("hooks.rs"));
        assert_clean(db, conn, &log);
    }
    conn.stop_hooks_at_first_failure(false);
    e01_a_failing_hook_does_not_stop_the_others(&Scratch::<C>::new());
}

/// E3: the block's value is returned, the row is committed, and the report says what failed.
fn e03_a_failing_hook_does_not_make_the_commit_look_failed<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<i32>, {
        C::insert(conn, 1)?;
        note_failing(&log, 1);
        note_panicking(&log, 2);
        note(&log, 3).after_rollback(conn)?;
        Ok(7)
    });
    assert_eq!(result, Ok(7));
    assert_eq!(db.committed(), [1]);
    assert_eq!(log.ran(), [1, 2], "no rollback hook");
    assert_eq!(conn.last_report().failures().len(), 2);
}

/// E4: the next hooks run, the connection is at depth 0 and usable.
fn e04_a_panicking_hook_is_contained<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let value = atomic!(conn, -> QueryResult<i32>, {
        note_panicking(&log, 1);
        let inner = log.clone();
        conn.after_commit(move |conn| -> QueryResult<()> {
            atomic!(conn, {
                C::insert(conn, 2)?;
                note(&inner, 99);
                panic!("in the hook's own block")
            })
        })?;
        conn.after_commit(|_| -> Result<(), String> { std::panic::panic_any(7) })?;
        let committed = db.watcher();
        conn.after_commit(move |conn| {
            assert!(!conn.in_transaction());
            assert_eq!(committed(), [1], "the hook's own block was rolled back");
        })?;
        note(&log, 3);
        C::insert(conn, 1)?;
        Ok(1)
    });
    assert_eq!(value, Ok(1));
    assert_eq!(log.ran(), [1, 3]);
    let causes: Vec<_> = conn.last_report().failures().iter().map(|failure| failure.cause.to_string()).collect();
    assert_eq!(
        causes,
        ["panicked: task 1 panicked", "panicked: in the hook's own block", "panicked: not with a string"]
    );
    assert_eq!(db.committed(), [1]);
    assert_clean(db, conn, &log);
}

/// E4, C6: the next hook is outside of a transaction again, and what the guilty one wrote there is
/// rolled back.
fn e04_a_hook_that_leaves_a_transaction_open_is_a_failure<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let inner = log.clone();
        conn.after_commit(move |conn| -> QueryResult<()> {
            DeferredTransactionManager::begin_transaction(conn)?;
            DeferredTransactionManager::begin_transaction(conn)?;
            conn.after_commit(noting(&inner, 1))?;
            conn.after_rollback(noting(&inner, 2))?;
            C::insert(conn, 1)
        })?;
        conn.after_commit(|conn| assert!(!conn.in_transaction()))?;
        note(&log, 3);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2, 3]);
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    assert!(matches!(failure.cause, FailureCause::LeftTransactionOpen), "{failure}");
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// E16: file and line of the *call*, for tasks and closures, in the report and in a `tracing`
/// event.
fn e16_failures_carry_the_call_site_and_are_traced<C: Database>(db: &Scratch<C>) {
    fn failing_block<C: Database>(conn: &mut DeferredConnection<C>, log: &Log) -> u32 {
        let line = line!();
        atomic!(conn, -> QueryResult<()>, {
            note_failing(log, 1);
            conn.after_commit(|_| Err("no luck"))?;
            note_panicking(log, 3).after_commit(conn)?;
            Ok(())
        })
        .unwrap();
        line
    }
    let conn = &mut db.connect();
    let log = Log::new();
    let (line, events) = traced(|| failing_block(conn, &log));
    let sites: Vec<_> = conn.last_report().failures().iter().map(|failure| failure.call_site).collect();
    assert_eq!(sites.iter().map(|site| site.line()).collect::<Vec<_>>(), [line + 2, line + 3, line + 4]);
    assert!(sites.iter().all(|site| site.file() == file!()));
    for expected in [
        "message=a deferred task failed".to_owned(),
        "task=\"diesel_deferred_tests::log::note_failing\"".to_owned(),
        format!("call_site={}:{}:", file!(), line + 2),
        "kind=after commit".to_owned(),
        "error=task 1 failed".to_owned(),
        format!("call_site={}:{}:", file!(), line + 3),
        "error=no luck".to_owned(),
        format!("call_site={}:{}:", file!(), line + 4),
        "error=panicked: task 3 panicked".to_owned(),
    ] {
        assert!(events.contains(&expected), "{expected} is not in\n{events}");
    }

    // What did not run is traced as well.
    let (result, events) = traced(|| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 4);
            DeferredTransactionManager::rollback_transaction(conn)?;
            note(&log, 5);
            rolled_back()
        })
    });
    assert!(result.is_err());
    assert_eq!(events.matches("a deferred task did not run").count(), 1, "4 was rolled back, 5 is lost:\n{events}");
}
