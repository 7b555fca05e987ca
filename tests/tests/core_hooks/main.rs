//! RULES, chapter "Core hooks".

use diesel::result::{Error, QueryResult};
use diesel_deferred::atomic;
use diesel_deferred_tests::{Database, Log, Scratch, note, on_every_database};

on_every_database! {
    c01_a_task_runs_when_the_block_has_committed,
    c02_a_rolled_back_block_never_runs_its_tasks,
}

/// C1: has not run at the last statement of the block, has run when `atomic!` returns.
fn c01_a_task_runs_when_the_block_has_committed<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        assert_eq!(log.ran(), [], "not before the commit");
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
        Err(Error::RollbackTransaction)
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    for _ in 0..2 {
        atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
    }
    assert_eq!(log.ran(), []);
    assert_eq!(db.committed(), []);
}
