//! When hooks run, how often, in which order, and what they can see.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, note_failing, noting, on_every_database, rolled_back,
};

on_every_database! {
    c01_a_task_runs_when_the_block_has_committed,
    c02_a_rolled_back_block_never_runs_its_tasks,
    c03_hooks_run_in_registration_order_over_the_tree,
    c04_each_call_runs_once,
    c05_a_hook_sees_the_rows_from_another_connection,
    c14_hooks_belong_to_one_connection,
    c16_the_value_survives_a_failing_hook,
}

/// C1: has not run at the last statement of the block, has run when `atomic!` returns.
fn c01_a_task_runs_when_the_block_has_committed<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        assert_eq!(log.ran(), NOTHING, "not before the commit");
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(db.committed(), [1]);
}

/// C2: not on that, the next, or any later transaction of the connection.
fn c02_a_rolled_back_block_never_runs_its_tasks<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        C::insert(conn, 1)?;
        note(&log, 1);
        conn.after_commit(noting(&log, 2))?;
        rolled_back()
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    for _ in 0..2 {
        atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
    }
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// C3: over the whole tree, tasks and closures alike, not inner-first.
fn c03_hooks_run_in_registration_order_over_the_tree<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, {
            conn.after_commit(noting(&log, 2))?;
            note(&log, 3);
            atomic!(conn, -> QueryResult<()>, {
                note(&log, 4);
                Ok(())
            })?;
            conn.after_commit(noting(&log, 5))?;
            Ok(())
        })?;
        note(&log, 6);
        conn.transaction(|conn| note(&log, 7).after_commit(conn))?;
        conn.after_commit(noting(&log, 8))?;
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// C4: exactly once; a later transaction does not run it again.
fn c04_each_call_runs_once<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for id in 0..3 {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, id);
            note(&log, id + 10);
            Ok(())
        })
        .unwrap();
        assert_eq!(conn.last_report().ran(), 2);
    }
    atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
    assert_eq!(log.ran(), [0, 10, 1, 11, 2, 12]);
    assert_clean(db, conn, &log);
}

/// C5: the rows of the block are there for *another* connection when the hook runs.
fn c05_a_hook_sees_the_rows_from_another_connection<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let seen = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let (committed, seen) = (db.watcher(), seen.clone());
        conn.after_commit(move |_| committed().into_iter().for_each(|id| seen.push(id)))?;
        atomic!(conn, { C::insert(conn, 1) })?;
        C::insert(conn, 2)?;
        assert_eq!(db.committed(), NOTHING, "not before the commit");
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.ran(), [1, 2]);
}

/// C14: two connections, nested blocks: each hook runs at the commit of its own.
fn c14_hooks_belong_to_one_connection<C: Database>(db: &Scratch<C>) {
    let (a, b) = (&mut db.connect(), &mut db.connect());
    let log = Log::new();
    atomic!(a, -> QueryResult<()>, {
        note(&log, 1);
        atomic!(b, -> QueryResult<()>, {
            note(&log, 2);
            note(&log, 3).after_commit(a)?;
            Ok(())
        })?;
        assert_eq!(log.ran(), [2], "b has committed, a has not");
        let result: QueryResult<()> = atomic!(b, {
            note(&log, 4);
            note(&log, 5).after_commit(a)?;
            rolled_back()
        });
        assert_eq!(result, rolled_back());
        note(&log, 6);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2, 1, 3, 5, 6]);

    let result: QueryResult<()> = atomic!(a, {
        note(&log, 7);
        atomic!(b, -> QueryResult<()>, {
            note(&log, 8);
            Ok(())
        })?;
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [2, 1, 3, 5, 6, 8], "b's commit stands when a rolls back");
    assert_clean(db, a, &log);
    assert_clean(db, b, &log);
}

/// C16: the value is returned, and the failure is in the report.
fn c16_the_value_survives_a_failing_hook<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let value = atomic!(conn, -> QueryResult<_>, {
        C::insert(conn, 1)?;
        note_failing(&log, 1);
        Ok(String::from("the value"))
    });
    assert_eq!(value.as_deref(), Ok("the value"));
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    assert_eq!(failure.cause.to_string(), "task 1 failed");
    assert_eq!(db.committed(), [1]);
}
