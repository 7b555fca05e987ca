//! How a block ends other than by its last expression, and what runs when it was rolled back.

use diesel::result::QueryResult;
use diesel_deferred::{AsyncDeferredConnection, FailureCause, HookKind, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, note_failing, note_panicking, on_every_async_database, rolled_back,
};

use crate::fixture::{assert_clean, noting_rollback, panic_of};

on_every_async_database! {
    n12_rollback_hooks_run_deepest_first,
    n12_a_savepoints_rollback_hooks_see_the_outer_transaction,
    e05_a_panic_rolls_back_and_goes_on,
    e05_a_panic_in_an_inner_block_leaves_the_outer_one_usable,
    early_ends_of_a_block,
}

/// N12: undoing goes backwards; failures are reported, and on a commit none runs.
async fn n12_rollback_hooks_run_deepest_first<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for commit in [true, false] {
        let result: QueryResult<()> = atomic!(conn, async {
            note(&log, 1).after_rollback(conn)?;
            atomic!(conn, -> QueryResult<()>, async {
                noting_rollback(conn, &log, 21)?;
                atomic!(conn, async { note_panicking(&log, 31).after_rollback(conn) }).await?;
                note_failing(&log, 22).after_rollback(conn)
            })
            .await?;
            noting_rollback(conn, &log, 2)?;
            if commit { Ok(()) } else { rolled_back() }
        })
        .await;
        assert_eq!(result.is_ok(), commit);
        assert_eq!(log.ran(), if commit { vec![] } else { vec![31, 22, 21, 2, 1] });
    }
    assert_eq!(conn.last_report().ran(), 5);
    let failures = conn.last_report().failures();
    assert!(failures.iter().all(|failure| failure.kind == HookKind::AfterRollback));
    assert!(
        matches!([&failures[0].cause, &failures[1].cause], [FailureCause::Panic(_), FailureCause::Error(_)]),
        "{failures:?}"
    );
    assert_clean(db, conn, &log).await;
}

/// N12: what the hook writes there belongs to the outer transaction.
async fn n12_a_savepoints_rollback_hooks_see_the_outer_transaction<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        let inner = log.clone();
        let child: QueryResult<()> = atomic!(conn, async {
            C::insert(conn, 1).await?;
            conn.after_rollback(async move |conn: &mut AsyncDeferredConnection<C>| -> QueryResult<()> {
                assert!(conn.in_transaction());
                note(&inner, 2).after_commit(conn)?;
                C::insert(conn, 2).await
            })?;
            rolled_back()
        })
        .await;
        assert_eq!(child, rolled_back());
        assert_eq!(db.committed(), NOTHING);
        Ok(())
    })
    .await
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!((log.ran(), db.committed()), (vec![2], vec![2]));
}

/// E5: through the `.await`, from any depth; the connection is usable afterwards.
async fn e05_a_panic_rolls_back_and_goes_on<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for depth in [1, 2] {
        let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 1).await?;
            note(&log, 9);
            note(&log, 1).after_rollback(conn)?;
            if depth == 1 {
                panic!("in the block");
            }
            atomic!(conn, -> QueryResult<()>, async {
                C::insert(conn, 2).await?;
                note(&log, 9);
                note(&log, 2).after_rollback(conn)?;
                tokio::task::yield_now().await;
                panic!("in the block");
            })
            .await
        }))
        .await;
        assert_eq!(panic, "in the block");
        assert_eq!(db.committed().len(), depth - 1);
        assert_clean(db, conn, &log).await;
    }
    let panic = panic_of(conn.transaction(async |conn| {
        C::insert(conn, 1).await?;
        note(&log, 9).after_commit(conn)?;
        if log.ran().len() == 3 {
            panic!("in the closure");
        }
        QueryResult::Ok(())
    }))
    .await;
    assert_eq!(panic, "in the closure");
    assert_eq!(log.ran(), [1, 2, 1]);
    assert_clean(db, conn, &log).await;
}

/// E5, N2: caught in the outer block, it has dropped what was the inner one's.
async fn e05_a_panic_in_an_inner_block_leaves_the_outer_one_usable<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        C::insert(conn, 1).await?;
        let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 2).await?;
            note(&log, 2);
            panic!("in the inner block")
        }))
        .await;
        assert_eq!(panic, "in the inner block");
        note(&log, 3);
        C::insert(conn, 3).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 3], vec![1, 3]));
    assert_clean(db, conn, &log).await;
}

/// C2, N13: `?` and `return` leave the block, not the function around it.
async fn early_ends_of_a_block<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<i32>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        if log.ran().is_empty() {
            return Ok(7);
        }
        note(&log, 2);
        Ok(8)
    })
    .await;
    assert_eq!(result, Ok(7));
    let result = atomic!(conn, -> QueryResult<()>, async {
        note(&log, 3);
        for id in [2, 1, 3] {
            C::insert(conn, id).await?;
            note(&log, 4);
        }
        unreachable!("1 is there")
    })
    .await;
    assert!(result.is_err());
    let result = atomic!(conn, -> QueryResult<()>, async {
        for id in 5.. {
            note(&log, id);
            if id == 6 {
                break;
            }
        }
        return rolled_back();
    })
    .await;
    assert_eq!(result, rolled_back());
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
    assert_clean(db, conn, &log).await;
}
