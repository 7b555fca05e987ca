//! N12: hooks that run after a rollback.

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, FailureCause, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, note_failing, note_panicking, noting, on_every_database,
    rolled_back,
};

on_every_database! {
    n12_deepest_first_and_the_latest_first,
    n12_never_on_commit,
    n12_of_a_committed_child_when_an_ancestor_rolls_back,
    n12_only_of_this_connection,
    n12_a_savepoints_run_while_the_outer_transaction_goes_on,
    n12_failures_are_reported_and_do_not_change_the_error,
    n12_run_on_panics_too,
    n12_a_rollback_hook_may_open_a_transaction,
}

/// N12: undoing goes backwards.
fn n12_deepest_first_and_the_latest_first<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        note(&log, 1).after_rollback(conn)?;
        atomic!(conn, -> QueryResult<()>, {
            conn.after_rollback(noting(&log, 21))?;
            atomic!(conn, -> QueryResult<()>, { note(&log, 31).after_rollback(conn) })?;
            note(&log, 22).after_rollback(conn)
        })?;
        conn.after_rollback(noting(&log, 2))?;
        assert_eq!(log.ran(), NOTHING);
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [31, 22, 21, 2, 1]);
    assert_eq!(conn.last_report().ran(), 5);
    assert_clean(db, conn, &log);
}

/// N12: not on that commit and not on a later rollback.
fn n12_never_on_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1).after_rollback(conn)?;
        atomic!(conn, { note(&log, 2).after_rollback(conn) })
    })
    .unwrap();
    assert!(atomic!(conn, -> QueryResult<()>, { rolled_back() }).is_err());
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log);
}

/// N12: the child's commit was only a RELEASE.
fn n12_of_a_committed_child_when_an_ancestor_rolls_back<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let child: QueryResult<()> = atomic!(conn, {
            atomic!(conn, -> QueryResult<()>, { note(&log, 1).after_rollback(conn) })?;
            assert_eq!(log.ran(), NOTHING);
            rolled_back()
        });
        assert_eq!(child, rolled_back());
        assert_eq!(log.ran(), [1], "when the ancestor rolls back, not at the end");
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1], "once");
}

/// N12: not those of another connection.
fn n12_only_of_this_connection<C: Database>(db: &Scratch<C>) {
    let (a, b) = (&mut db.connect(), &mut db.connect());
    let log = Log::new();
    atomic!(a, -> QueryResult<()>, {
        note(&log, 1).after_rollback(a)?;
        let result: QueryResult<()> = atomic!(b, {
            note(&log, 2).after_rollback(b)?;
            rolled_back()
        });
        assert_eq!(result, rolled_back());
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2]);
}

/// N12: what the hook writes there belongs to the outer transaction.
fn n12_a_savepoints_run_while_the_outer_transaction_goes_on<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let inner_log = log.clone();
        let child: QueryResult<()> = atomic!(conn, {
            C::insert(conn, 1)?;
            conn.after_rollback(move |conn| -> QueryResult<()> {
                assert!(conn.in_transaction());
                note(&inner_log, 2).after_commit(conn)?;
                C::insert(conn, 2)
            })?;
            rolled_back()
        });
        assert_eq!(child, rolled_back());
        assert_eq!(db.committed(), NOTHING);
        Ok(())
    })
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(db.committed(), [2]);
    assert_eq!(log.ran(), [2]);
}

/// N12: the block's own error is what is returned.
fn n12_failures_are_reported_and_do_not_change_the_error<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        note(&log, 1).after_rollback(conn)?;
        note_failing(&log, 2).after_rollback(conn)?;
        note_panicking(&log, 3).after_rollback(conn)?;
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [3, 2, 1]);
    let failures = conn.last_report().failures();
    assert!(failures.iter().all(|failure| failure.kind == HookKind::AfterRollback));
    let [FailureCause::Panic(panic), FailureCause::Error(error)] = [&failures[0].cause, &failures[1].cause] else {
        panic!("{}", conn.last_report())
    };
    assert_eq!((panic.as_str(), error.to_string().as_str()), ("task 3 panicked", "task 2 failed"));
    assert_clean(db, conn, &log);
}

/// N12: a panic of the block rolls back as well.
fn n12_run_on_panics_too<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1).after_rollback(conn)?;
            note(&log, 2);
            panic!("in the block")
        })
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"in the block"));
    assert_eq!(log.ran(), [1]);
    assert_clean(db, conn, &log);
}

/// N12: the rollback is complete by then, so that is a real outermost one.
fn n12_a_rollback_hook_may_open_a_transaction<C: Database>(db: &Scratch<C>) {
    fn failed<C: Database>(conn: &mut DeferredConnection<C>, log: &Log) -> QueryResult<()> {
        let log = log.clone();
        atomic!(conn, {
            C::insert(conn, 1)?;
            conn.after_rollback(move |conn| {
                atomic!(conn, outermost, -> QueryResult<()>, {
                    note(&log, 1);
                    C::insert(conn, 2)
                })
            })?;
            rolled_back()
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    assert_eq!(failed(conn, &log), rolled_back());
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(log.ran(), [1]);
    assert_eq!(db.committed(), [2]);
    assert_clean(db, conn, &log);
}
