//! N14: what a rolled-back nested block leaves on the server, which is nothing.

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::atomic;
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, on_every_async_database, refusal, rolled_back,
};

use crate::fixture::assert_clean;

on_every_async_database! {
    n14_refused_blocks_leave_nothing_behind,
    n14_a_refused_block_hides_no_raw_rollback_behind_the_next,
}

/// More than PostgreSQL's lock table has room for in its default settings, one of each savepoint.
const REFUSED: i32 = 20_000;

/// N14: each refused block is counted, those that succeed are committed, and while the transaction
/// is open another client can connect.
async fn n14_refused_blocks_leave_nothing_behind<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let mut refused = 0;
    atomic!(conn, -> QueryResult<()>, async {
        for id in 0..REFUSED {
            let nested: QueryResult<()> = atomic!(conn, async {
                C::insert(conn, id).await?;
                rolled_back()
            })
            .await;
            assert_eq!(nested, rolled_back());
            refused += 1;
        }
        drop(db.connect_async::<C>().await);
        note(&log, 1);
        C::insert(conn, REFUSED).await
    })
    .await
    .unwrap();
    assert_eq!(refused, REFUSED);
    assert_eq!(db.committed(), [REFUSED]);
    assert_eq!(log.ran(), [1]);
    assert_clean(db, conn, &log).await;
}

/// N14, E9: a raw `ROLLBACK TO` to before a block's savepoint ends that savepoint, which its
/// RELEASE finds out. The savepoint of a block that was refused before, of the same name, must not
/// be taken for it.
async fn n14_a_refused_block_hides_no_raw_rollback_behind_the_next<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    for refused in [0, 1, 2] {
        let conn = &mut db.connect_async::<C>().await;
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, async {
            for _ in 0..refused {
                let nested: QueryResult<()> = atomic!(conn, async { rolled_back() }).await;
                assert_eq!(nested, rolled_back());
            }
            conn.batch_execute("SAVEPOINT by_hand").await?;
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, 1);
                conn.batch_execute("ROLLBACK TO SAVEPOINT by_hand").await
            })
            .await
        })
        .await;
        assert_eq!(refusal(&result), "EndedEarly", "behind {refused} refused blocks");
        assert_eq!(log.ran(), NOTHING);
        assert_clean(db, conn, &log).await;
    }
}
