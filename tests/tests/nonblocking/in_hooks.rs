//! What the connection is while a closure is awaited, and what closures may do wrong.

use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel_async::{SimpleAsyncConnection, TransactionManager};
use diesel_deferred::{
    AsyncDeferredConnection, AsyncDeferredTransactionManager as Manager, FailureCause, HookKind, atomic,
};
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, note_failing, note_panicking, on_every_async_database, rolled_back,
};

use crate::fixture::{assert_clean, noting, panic_of};

on_every_async_database! {
    c06_a_hook_is_outside_of_any_transaction,
    c07_a_hook_may_open_a_transaction_of_its_own,
    c08_tasks_of_a_hooks_block_run_at_its_end,
    c09_a_rollback_in_a_hook_drops_its_own_only,
    e01_hooks_that_fail_do_not_stop_the_others,
    e02_unless_that_is_wanted,
    e04_a_transaction_that_a_hook_left_open_is_closed,
    e14_before_commit_writes_in_the_transaction,
    e14_an_error_before_commit_rolls_back,
    e14_a_panic_before_commit_rolls_back,
    e14_hooks_registered_before_commit_count,
}

/// C6: depth 0, and what a hook writes is committed at once.
async fn c06_a_hook_is_outside_of_any_transaction<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let committed = db.watcher();
    atomic!(conn, -> QueryResult<()>, async {
        conn.after_commit(async move |conn: &mut AsyncDeferredConnection<C>| -> QueryResult<()> {
            assert!(!conn.in_transaction());
            C::insert(conn, 2).await?;
            assert_eq!(committed(), [1, 2], "the connection is in autocommit");
            Ok(())
        })?;
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(conn.last_report().ran(), 1);
    assert_clean(db, conn, &Log::new()).await;
}

/// C7: it is a real outermost transaction, which commits.
async fn c07_a_hook_may_open_a_transaction_of_its_own<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let committed = db.watcher();
    atomic!(conn, -> QueryResult<()>, async {
        conn.after_commit(async move |conn| {
            atomic!(conn, outermost, async {
                C::insert(conn, 2).await?;
                assert_eq!(committed(), [1]);
                QueryResult::Ok(())
            })
            .await?;
            assert_eq!(committed(), [1, 2]);
            QueryResult::Ok(())
        })?;
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_clean(db, conn, &Log::new()).await;
}

/// C8: before the next sibling hook: [1, 11, 2, 12].
async fn c08_tasks_of_a_hooks_block_run_at_its_end<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        for id in [1, 2] {
            let log = log.clone();
            conn.after_commit(async move |conn| {
                log.push(id);
                atomic!(conn, -> QueryResult<()>, async {
                    note(&log, id + 10);
                    Ok(())
                })
                .await
            })?;
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 11, 2, 12]);
    assert_eq!(conn.last_report().ran(), 4, "hooks of a hook's transaction are in the same report");
    assert_clean(db, conn, &log).await;
}

/// C9: the siblings' hooks and those of the hook's other transactions stand.
async fn c09_a_rollback_in_a_hook_drops_its_own_only<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        noting(conn, &log, 1)?;
        let inner = log.clone();
        conn.after_commit(async move |conn| {
            atomic!(conn, -> QueryResult<()>, async {
                note(&inner, 2);
                Ok(())
            })
            .await?;
            let result: QueryResult<()> = atomic!(conn, async {
                C::insert(conn, 1).await?;
                note(&inner, 13);
                rolled_back()
            })
            .await;
            assert_eq!(result, rolled_back());
            QueryResult::Ok(())
        })?;
        note(&log, 3);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log).await;
}

/// E1, E4: errors and panics of tasks and closures, before and behind their first `.await`.
async fn e01_hooks_that_fail_do_not_stop_the_others<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note_failing(&log, 1);
        note_panicking(&log, 2);
        conn.after_commit(async |_| Err::<(), _>("closure 3 failed"))?;
        conn.after_commit(async |conn: &mut AsyncDeferredConnection<C>| {
            C::insert(conn, 4).await.expect("autocommit");
            panic!("closure 4 panicked");
        })?;
        conn.after_commit(async |_| panic!("closure 5 panicked"))?;
        note(&log, 6);
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 2, 6], vec![1, 4]));
    assert_eq!(conn.last_report().ran(), 6);
    let causes: Vec<_> = conn.last_report().failures().iter().map(|failure| failure.cause.to_string()).collect();
    let expected = ["task 1 failed", "task 2 panicked", "closure 3 failed", "closure 4 panicked", "closure 5 panicked"];
    assert_eq!(causes.len(), expected.len(), "{causes:?}");
    for (cause, expected) in causes.iter().zip(expected) {
        assert!(cause.contains(expected), "{cause}");
    }
    assert_clean(db, conn, &log).await;
}

/// E2: what is behind the first failure is reported, and not dropped in silence.
async fn e02_unless_that_is_wanted<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    conn.stop_hooks_at_first_failure(true);
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        conn.after_commit(async |_| Err::<(), _>("stop"))?;
        note(&log, 2);
        noting(conn, &log, 3)
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(conn.last_report().failures().len(), 1);
    assert_eq!(conn.last_report().not_run().len(), 2);
    assert_clean(db, conn, &log).await;
}

/// E4: it is rolled back and reported; one more hook runs behind it, outside of any transaction.
async fn e04_a_transaction_that_a_hook_left_open_is_closed<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        let inner = log.clone();
        conn.after_commit(async move |conn: &mut AsyncDeferredConnection<C>| -> QueryResult<()> {
            Manager::begin_transaction(conn).await?;
            Manager::begin_transaction(conn).await?;
            note(&inner, 9).after_commit(conn)?;
            note(&inner, 1).after_rollback(conn)?;
            C::insert(conn, 9).await
        })?;
        conn.after_commit(async |conn: &mut AsyncDeferredConnection<C>| {
            assert!(!conn.in_transaction());
            C::insert(conn, 2).await
        })?;
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2]));
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    assert!(matches!(failure.cause, FailureCause::LeftTransactionOpen), "{failure}");
    assert_clean(db, conn, &log).await;
}

/// E14: its rows are committed with the others, in the order of registration.
async fn e14_before_commit_writes_in_the_transaction<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let (log, watcher) = (Log::new(), db.watcher());
    atomic!(conn, -> QueryResult<()>, async {
        let inner = log.clone();
        conn.before_commit(async move |conn| {
            assert!(conn.in_transaction());
            inner.push(1);
            C::insert(conn, 2).await?;
            assert_eq!(watcher(), NOTHING);
            Ok(())
        })?;
        let inner = log.clone();
        conn.before_commit(async move |conn| {
            atomic!(conn, async {
                inner.push(2);
                C::insert(conn, 3).await
            })
            .await
        })?;
        note(&log, 3);
        assert_eq!(log.ran(), NOTHING, "not at the end of the statement");
        C::insert(conn, 1).await
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_clean(db, conn, &log).await;
}

/// E14: the error is what the block returns; the second hook is not called.
async fn e14_an_error_before_commit_rolls_back<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, async {
        conn.before_commit(async |conn| {
            C::insert(conn, 2).await?;
            C::insert(conn, 1).await
        })?;
        let inner = log.clone();
        conn.before_commit(async move |_| {
            inner.push(9);
            Ok(())
        })?;
        note(&log, 8);
        note(&log, 1).after_rollback(conn)?;
        C::insert(conn, 1).await
    })
    .await;
    assert!(matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{result:?}");
    assert_eq!((log.ran(), db.committed()), (vec![1], NOTHING.to_vec()));
    assert_clean(db, conn, &log).await;
}

/// E14, E5: a panic is the block's, and goes on.
async fn e14_a_panic_before_commit_rolls_back<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let panic = panic_of(atomic!(conn, -> QueryResult<()>, async {
        conn.before_commit(async |conn| {
            C::insert(conn, 2).await?;
            panic!("before the commit")
        })?;
        note(&log, 8);
        note(&log, 1).after_rollback(conn)?;
        C::insert(conn, 1).await
    }))
    .await;
    assert_eq!(panic, "before the commit");
    assert_eq!((log.ran(), db.committed()), (vec![1], NOTHING.to_vec()));
    assert_clean(db, conn, &log).await;
}

/// E14: hooks of hooks, and what it runs by raw SQL is as good as any.
async fn e14_hooks_registered_before_commit_count<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        let outer = log.clone();
        conn.before_commit(async move |conn: &mut AsyncDeferredConnection<C>| {
            note(&outer, 2).after_commit(conn)?;
            assert_eq!(conn.pending().last().map(|hook| hook.kind), Some(HookKind::AfterCommit));
            let inner = outer.clone();
            conn.before_commit(async move |conn: &mut AsyncDeferredConnection<C>| {
                noting(conn, &inner, 3)?;
                conn.batch_execute("INSERT INTO witness VALUES (1)").await
            })
        })?;
        note(&log, 1);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 2, 3], vec![1]));
    assert_clean(db, conn, &log).await;
}
