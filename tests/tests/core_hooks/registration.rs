//! How and where hooks are registered.

use diesel::prelude::*;
use diesel_deferred::{AfterCommit, CommitError, DeferredConnection, DeferredTransactionManager, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, record, refusal,
};

use diesel::connection::TransactionManager;

on_every_database! {
    c12_outside_of_a_transaction_nothing_is_silent,
    c13_asking_sends_no_sql,
    c18_every_way_to_register_defers,
    c20_a_finished_transaction_takes_no_hooks,
    c20_a_task_called_after_the_end_is_reported,
}

fn not_in_transaction(result: QueryResult<()>) -> bool {
    // Diesel's own error has no room for what it was, and where.
    result.is_err_and(|error| {
        CommitError::is_not_in_transaction(&error)
            && error.to_string().contains("registration.rs:")
            && format!("{error:?}").contains("was not registered: no transaction is open")
    })
}

/// C12: an error, or now and on purpose; never silently dropped, never silently immediate.
fn c12_outside_of_a_transaction_nothing_is_silent<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    assert!(not_in_transaction(note(&log, 1).after_commit(conn)));
    assert!(not_in_transaction(note(&log, 2).after_rollback(conn)));
    assert!(not_in_transaction(conn.after_commit(noting(&log, 3))));
    assert!(not_in_transaction(conn.after_rollback(noting(&log, 4))));
    assert!(not_in_transaction(conn.before_commit(|_| Ok(()))));
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log);

    note(&log, 5).run();
    assert_eq!(log.ran(), [5]);
    note(&log, 6).after_commit_or_now(conn).unwrap();
    assert_eq!(log.ran(), [5, 6]);
}

/// C13: "am I in a transaction?", `pending` and refused registrations send nothing.
fn c13_asking_sends_no_sql<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let statements = record(conn);
    let ask = |conn: &mut DeferredConnection<C>| {
        let open = AfterCommit::in_transaction(conn);
        assert_eq!(conn.in_transaction(), open);
        assert_eq!(conn.after_commit(|_| ()).is_ok(), open);
        assert_eq!(conn.pending().is_empty(), !open);
        assert!(conn.last_report().is_clean());
        open
    };
    assert!(!ask(conn));
    assert_eq!(statements.take(), [""; 0]);
    atomic!(conn, -> QueryResult<()>, {
        statements.take();
        assert!(ask(conn));
        note(&log, 1);
        note(&log, 2).after_commit_or_now(conn).unwrap();
        assert_eq!(statements.take(), [""; 0]);
        Ok(())
    })
    .unwrap();
    statements.take();
    assert!(!ask(conn));
    assert_eq!(statements.take(), [""; 0]);
}

fn helper(conn: &mut impl AfterCommit, log: &Log, id: i32) -> QueryResult<()> {
    note(log, id).after_commit(conn)
}

/// C18: statements in all positions, explicit calls, closures, and every kind of transaction.
fn c18_every_way_to_register_defers<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let retried = log.clone();
    atomic!(conn, retries = 2, -> QueryResult<()>, {
        note(&retried, 1);
        if retried.ran().is_empty() {
            note(&retried, 2);
        }
        match 3 {
            3 => note(&retried, 3),
            _ => unreachable!(),
        };
        helper(conn, &retried, 4)?;
        note(&retried, 5).after_commit_or_now(conn).unwrap();
        (6..8).try_for_each(|id| note(&retried, id).after_commit(conn))?;
        conn.after_commit(noting(&retried, 8))?;
        conn.transaction(|conn| helper(conn, &retried, 9))?;
        DeferredTransactionManager::begin_transaction(conn)?;
        helper(conn, &retried, 10)?;
        DeferredTransactionManager::commit_transaction(conn)?;
        assert_eq!(retried.ran(), NOTHING, "nothing before the commit");
        let waiting: Vec<_> = conn.pending().iter().map(|hook| (hook.kind, hook.depth)).collect();
        assert_eq!(waiting, [(HookKind::AfterCommit, 1); 10]);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

    let log = Log::new();
    conn.transaction(|conn| -> QueryResult<()> {
        helper(conn, &log, 1)?;
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .unwrap();
    conn.build_transaction().outermost().run(|conn| helper(conn, &log, 2)).unwrap();
    DeferredTransactionManager::begin_transaction(conn).unwrap();
    helper(conn, &log, 3).unwrap();
    assert_eq!(log.ran(), [1, 2]);
    DeferredTransactionManager::commit_transaction(conn).unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
}

/// C20: registering on a transaction that was ended by hand is an error.
fn c20_a_finished_transaction_takes_no_hooks<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        DeferredTransactionManager::rollback_transaction(conn)?;
        assert!(not_in_transaction(note(&log, 1).after_commit(conn)));
        assert!(not_in_transaction(conn.after_rollback(noting(&log, 2))));
        assert!(not_in_transaction(conn.before_commit(|_| Ok(()))));
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log);
}

/// C20: a statement cannot fail, so the block does; the task is reported and waits for no other
/// transaction.
fn c20_a_task_called_after_the_end_is_reported<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for nested_after in [false, true] {
        let result: QueryResult<()> = atomic!(conn, {
            DeferredTransactionManager::rollback_transaction(conn)?;
            note(&log, 1);
            if nested_after {
                atomic!(conn, -> QueryResult<()>, { Ok(()) })?;
                note(&log, 2);
            }
            Ok(())
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!(log.ran(), NOTHING);
        let lost: Vec<_> = conn.last_report().not_run().iter().map(|hook| hook.task).collect();
        let expected = if nested_after { 2 } else { 1 };
        assert_eq!(lost, vec!["diesel_deferred_tests::log::note"; expected], "nested after: {nested_after}");
        assert_clean(db, conn, &log);
    }
}
