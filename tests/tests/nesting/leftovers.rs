//! N14: what a rolled-back nested block leaves on the server, which is nothing.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::atomic;
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, on_every_database, refusal, rolled_back,
};

on_every_database! {
    n14_refused_blocks_leave_nothing_behind,
    n14_a_refused_block_hides_no_raw_rollback_behind_the_next,
}

/// More than PostgreSQL's lock table has room for in its default settings, one of each savepoint.
const REFUSED: i32 = 20_000;

/// N14: each refused block is counted, those that succeed are committed, and while the transaction
/// is open another client can connect.
fn n14_refused_blocks_leave_nothing_behind<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let mut refused = 0;
    atomic!(conn, -> QueryResult<()>, {
        for id in 0..REFUSED {
            let nested: QueryResult<()> = atomic!(conn, {
                C::insert(conn, id)?;
                rolled_back()
            });
            assert_eq!(nested, rolled_back());
            refused += 1;
        }
        drop(db.observer());
        note(&log, 1);
        C::insert(conn, REFUSED)
    })
    .unwrap();
    assert_eq!(refused, REFUSED);
    assert_eq!(db.committed(), [REFUSED]);
    assert_eq!(log.ran(), [1]);
    assert_clean(db, conn, &log);
}

/// N14, E9: a raw `ROLLBACK TO` to before a block's savepoint ends that savepoint, which its
/// RELEASE finds out. The savepoint of a block that was refused before, of the same name, must not
/// be taken for it.
fn n14_a_refused_block_hides_no_raw_rollback_behind_the_next<C: Database>(db: &Scratch<C>) {
    for refused in [0, 1, 2] {
        let conn = &mut db.connect();
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, {
            for _ in 0..refused {
                let nested: QueryResult<()> = atomic!(conn, { rolled_back() });
                assert_eq!(nested, rolled_back());
            }
            conn.batch_execute("SAVEPOINT by_hand")?;
            atomic!(conn, -> QueryResult<()>, {
                C::insert(conn, 1)?;
                note(&log, 1);
                conn.batch_execute("ROLLBACK TO SAVEPOINT by_hand")
            })
        });
        assert_eq!(refusal(&result), "EndedEarly", "behind {refused} refused blocks");
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(db.committed(), NOTHING);
        assert_clean(db, conn, &log);
        db.observer().batch_execute("DELETE FROM witness").unwrap();
    }
}
