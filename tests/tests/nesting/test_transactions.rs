//! T1: in a test transaction everything happens at the same point and in the same order as in
//! production.

use diesel::prelude::*;
use diesel_deferred::{CommitError, FailureCause, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, note, note_failing, noting, on_every_database, record, rolled_back,
};

on_every_database! {
    t01_hooks_run_when_the_apps_outermost_block_returns,
    t01_rolled_back_blocks_and_failures_are_as_in_production,
    t01_options_of_begin_are_accepted,
    t01_the_test_transaction_itself_takes_no_hooks,
    t01_test_transaction_is_one,
}

/// T1: at depth 2, which is the app's outermost one.
fn t01_hooks_run_when_the_apps_outermost_block_returns<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    conn.begin_test_transaction().unwrap();
    for id in [10, 20] {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, id)?;
            note(&log, id + 1);
            let inner = log.clone();
            conn.after_commit(move |conn| {
                inner.push(id + 2);
                atomic!(conn, outermost, -> QueryResult<()>, {
                    note(&inner, id + 3);
                    Ok(())
                })
            })?;
            atomic!(conn, -> QueryResult<()>, {
                note(&log, id + 4);
                Ok(())
            })?;
            assert_eq!(log.ran().len(), if id == 10 { 0 } else { 4 }, "not before the block returns");
            Ok(())
        })
        .unwrap();
        assert_eq!(conn.last_report().ran(), 4);
    }
    assert_eq!(log.ran(), [11, 12, 13, 14, 21, 22, 23, 24]);
    assert_eq!(C::witnesses(conn.inner_mut()), [10, 20]);
    assert_eq!(db.committed(), NOTHING);
}

/// T1: the same drops, the same reports.
fn t01_rolled_back_blocks_and_failures_are_as_in_production<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    conn.begin_test_transaction().unwrap();
    let result: QueryResult<()> = atomic!(conn, {
        C::insert(conn, 1)?;
        note(&log, 1);
        note(&log, 2).after_rollback(conn)?;
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [2]);
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 3)?;
        note_failing(&log, 3);
        conn.before_commit(|conn| C::insert(conn, 4))?;
        let inner: QueryResult<()> = atomic!(conn, {
            note(&log, 5);
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2, 3]);
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    assert!(matches!(failure.cause, FailureCause::Error(_)) && failure.kind == HookKind::AfterCommit);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 6)?;
            note(&log, 6);
            panic!("in the block")
        })
    }));
    assert!(panic.is_err());
    assert_eq!(C::witnesses(conn.inner_mut()), [3, 4]);
    assert_eq!(log.ran(), [2, 3]);
    assert_eq!(db.committed(), NOTHING);
}

/// T1, N10: a test transaction does not count for `outermost`, nor for what belongs to BEGIN.
fn t01_options_of_begin_are_accepted<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    conn.begin_test_transaction().unwrap();
    let statements = record(conn);
    atomic!(conn, outermost, retries = 3, {
        note(&log, 1);
        let refused: QueryResult<()> = atomic!(conn, outermost, { Ok(()) });
        assert!(matches!(refused, Err(diesel::result::Error::AlreadyInTransaction)));
        QueryResult::Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(statements.take(), ["SAVEPOINT diesel_savepoint_1", "RELEASE SAVEPOINT diesel_savepoint_1"]);
}

/// T1, C12: directly in the test transaction is outside of any transaction, as it is in production.
fn t01_the_test_transaction_itself_takes_no_hooks<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    conn.begin_test_transaction().unwrap();
    assert!(!conn.in_transaction());
    assert!(note(&log, 1).after_commit(conn).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    assert!(conn.after_rollback(noting(&log, 2)).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    assert!(conn.before_commit(|_| Ok(())).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    note(&log, 3).after_commit_or_now(conn).unwrap();
    assert_eq!(log.ran(), [3]);
    atomic!(conn, -> QueryResult<()>, {
        assert!(conn.in_transaction());
        note(&log, 4).after_commit(conn)
    })
    .unwrap();
    assert_eq!(log.ran(), [3, 4]);
    assert_eq!(conn.pending(), []);
}

/// T1: Diesel's `test_transaction` is a test transaction too; nested it is a savepoint like any
/// other.
fn t01_test_transaction_is_one<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let value = conn.test_transaction(|conn| {
        let value = atomic!(conn, outermost, -> QueryResult<_>, {
            note(&log, 1);
            note(&log, 2).after_rollback(conn)?;
            C::insert(conn, 1)?;
            Ok(7)
        })?;
        assert_eq!(log.ran(), [1], "where the block returns");
        QueryResult::Ok(value)
    });
    assert_eq!(value, 7);
    assert_eq!(log.ran(), [1]);
    assert_eq!(db.committed(), NOTHING);
    diesel_deferred_tests::assert_clean(db, conn, &log);

    atomic!(conn, -> QueryResult<()>, {
        conn.test_transaction(|conn| {
            note(&log, 3).after_commit(conn)?;
            note(&log, 4).after_rollback(conn)
        });
        assert_eq!(log.ran(), [1, 4]);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 4]);
}
