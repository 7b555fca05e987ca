//! What the connection is while a hook runs.

use diesel::prelude::*;
use diesel_deferred::atomic;
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, rolled_back,
};

on_every_database! {
    c06_a_hook_is_outside_of_any_transaction,
    c07_a_hook_may_open_a_transaction_of_its_own,
    c08_tasks_of_a_hooks_block_run_at_its_end,
    c09_a_rollback_in_a_hook_drops_its_own_only,
}

/// C6: depth 0, and what a hook writes is committed at once.
fn c06_a_hook_is_outside_of_any_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let committed = db.watcher();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(move |conn| -> QueryResult<()> {
            assert!(!conn.in_transaction());
            C::insert(conn, 2)?;
            assert_eq!(committed(), [1, 2], "the connection is in autocommit");
            Ok(())
        })?;
        C::insert(conn, 1)
    })
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(conn.last_report().ran(), 1);
    assert_clean(db, conn, &Log::new());
}

/// C7: it is a real outermost transaction, which commits.
fn c07_a_hook_may_open_a_transaction_of_its_own<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let committed = db.watcher();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(move |conn| -> QueryResult<()> {
            atomic!(conn, outermost, {
                C::insert(conn, 2)?;
                assert_eq!(committed(), [1]);
                QueryResult::Ok(())
            })?;
            assert_eq!(committed(), [1, 2]);
            Ok(())
        })?;
        C::insert(conn, 1)
    })
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_clean(db, conn, &Log::new());
}

/// C8: before the next sibling hook: [1, 11, 2, 12].
fn c08_tasks_of_a_hooks_block_run_at_its_end<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        for id in [1, 2] {
            let log = log.clone();
            conn.after_commit(move |conn| -> QueryResult<()> {
                log.push(id);
                atomic!(conn, {
                    note(&log, id + 10);
                    Ok(())
                })
            })?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 11, 2, 12]);
    assert_eq!(conn.last_report().ran(), 4, "hooks of a hook's transaction are in the same report");
    assert_clean(db, conn, &log);
}

/// C9: the siblings' hooks and those of the hook's other transactions stand.
fn c09_a_rollback_in_a_hook_drops_its_own_only<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(noting(&log, 1))?;
        let inner = log.clone();
        conn.after_commit(move |conn| -> QueryResult<()> {
            atomic!(conn, -> QueryResult<()>, {
                note(&inner, 2);
                Ok(())
            })?;
            let result: QueryResult<()> = atomic!(conn, {
                C::insert(conn, 1)?;
                note(&inner, 13);
                rolled_back()
            });
            assert_eq!(result, rolled_back());
            Ok(())
        })?;
        note(&log, 3);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}
