//! T1: in a test transaction everything happens at the same point and in the same order as in
//! production.

use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, CommitError, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, note_failing, on_every_async_database, record_async, rolled_back,
};

use crate::fixture::{assert_clean, noting, noting_rollback, panic_of};

on_every_async_database! {
    t01_hooks_run_when_the_apps_outermost_block_returns,
    t01_rolled_back_blocks_panics_and_failures_are_as_in_production,
    t01_options_of_begin_are_accepted,
    t01_the_test_transaction_itself_takes_no_hooks,
    t01_test_transaction_is_one,
}

/// T1: at depth 2, which is the app's outermost one.
async fn t01_hooks_run_when_the_apps_outermost_block_returns<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    conn.begin_test_transaction().await.unwrap();
    for id in [10, 20] {
        atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, id).await?;
            note(&log, id + 1);
            let inner = log.clone();
            conn.after_commit(async move |conn| {
                inner.push(id + 2);
                atomic!(conn, outermost, -> QueryResult<()>, async {
                    note(&inner, id + 3);
                    Ok(())
                })
                .await
            })?;
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, id + 4);
                Ok(())
            })
            .await?;
            assert_eq!(log.ran().len(), if id == 10 { 0 } else { 4 }, "not before the block returns");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(conn.last_report().ran(), 4);
    }
    assert_eq!(log.ran(), [11, 12, 13, 14, 21, 22, 23, 24]);
    assert_eq!(db.committed(), NOTHING);
}

/// T1: the same drops, the same reports.
async fn t01_rolled_back_blocks_panics_and_failures_are_as_in_production<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    conn.begin_test_transaction().await.unwrap();
    let result: QueryResult<()> = atomic!(conn, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        note(&log, 2).after_rollback(conn)?;
        rolled_back()
    })
    .await;
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [2]);
    let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 6);
        panic!("in the block")
    }))
    .await;
    assert_eq!(panic, "in the block");
    atomic!(conn, -> QueryResult<()>, async {
        // Neither row 1 is there.
        C::insert(conn, 1).await?;
        note_failing(&log, 3);
        conn.before_commit(async |conn| C::insert(conn, 4).await)?;
        let inner: QueryResult<()> = atomic!(conn, async {
            note(&log, 5);
            rolled_back()
        })
        .await;
        assert_eq!(inner, rolled_back());
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [2, 3]);
    assert_eq!(conn.last_report().failures().len(), 1);
    assert!(C::insert(conn, 4).await.is_err(), "what `before_commit` wrote is there");
    assert_eq!(db.committed(), NOTHING);
}

/// T1, N10: a test transaction does not count for `outermost`, nor for what belongs to BEGIN.
async fn t01_options_of_begin_are_accepted<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    conn.begin_test_transaction().await.unwrap();
    let statements = record_async(conn);
    atomic!(conn, outermost, retries = 3, async {
        note(&log, 1);
        let refused: QueryResult<()> = atomic!(conn, outermost, async { Ok(()) }).await;
        assert!(matches!(refused, Err(Error::AlreadyInTransaction)));
        QueryResult::Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(statements.take(), ["SAVEPOINT diesel_savepoint_1", "RELEASE SAVEPOINT diesel_savepoint_1"]);
}

/// T1, C12: directly in the test transaction is outside of any transaction, as it is in production.
async fn t01_the_test_transaction_itself_takes_no_hooks<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    conn.begin_test_transaction().await.unwrap();
    assert!(!conn.in_transaction());
    assert!(note(&log, 1).after_commit(conn).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    assert!(noting(conn, &log, 2).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    assert!(noting_rollback(conn, &log, 2).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    assert!(conn.before_commit(async |_| Ok(())).is_err_and(|error| CommitError::is_not_in_transaction(&error)));
    note(&log, 3).after_commit_or_now(conn).unwrap();
    assert_eq!(log.ran(), [3]);
    atomic!(conn, -> QueryResult<()>, async {
        assert!(conn.in_transaction());
        note(&log, 4).after_commit(conn)
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [3, 4]);
    assert_eq!(conn.pending(), []);
}

/// T1: `test_transaction` is a test transaction too; nested it is a savepoint like any other.
async fn t01_test_transaction_is_one<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let value = conn
        .test_transaction(async |conn: &mut AsyncDeferredConnection<C>| {
            let value = atomic!(conn, outermost, -> QueryResult<_>, async {
                note(&log, 1);
                note(&log, 2).after_rollback(conn)?;
                C::insert(conn, 1).await?;
                Ok(7)
            })
            .await?;
            assert_eq!(log.ran(), [1], "where the block returns");
            QueryResult::Ok(value)
        })
        .await;
    assert_eq!((value, log.ran(), db.committed()), (7, vec![1], NOTHING.to_vec()));
    assert_clean(db, conn, &log).await;

    atomic!(conn, -> QueryResult<()>, async {
        conn.test_transaction(async |conn| {
            note(&log, 3).after_commit(conn)?;
            note(&log, 4).after_rollback(conn)
        })
        .await;
        assert_eq!(log.ran(), [1, 4]);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 4]);

    let panic = panic_of(conn.test_transaction(async |conn| {
        C::insert(conn, 1).await?;
        if log.ran().len() == 2 {
            panic!("in the test");
        }
        QueryResult::Ok(())
    }))
    .await;
    assert_eq!(panic, "in the test");
    assert_clean(db, conn, &log).await;
}
