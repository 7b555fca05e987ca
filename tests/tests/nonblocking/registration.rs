//! How and where hooks are registered.

use diesel::result::QueryResult;
use diesel_async::TransactionManager;
use diesel_deferred::{
    AfterCommit, AsyncDeferredConnection, AsyncDeferredTransactionManager as Manager, CommitError, HookKind, atomic,
    deferred_task,
};
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, on_every_async_database, record_async, refusal, rolled_back,
};

use crate::fixture::{assert_clean, noting, noting_rollback, one_at_a_time, settled};

on_every_async_database! {
    c12_outside_of_a_transaction_nothing_is_silent,
    c13_asking_sends_no_sql,
    c18_every_way_to_register_defers,
    c18_explicit_registration_of_spawned_tasks,
    c20_a_finished_transaction_takes_no_hooks,
    c20_a_task_called_after_the_end_is_reported,
    pending_lists_what_waits,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

fn not_in_transaction(result: QueryResult<()>) -> bool {
    result.is_err_and(|error| CommitError::is_not_in_transaction(&error))
}

/// C12: an error, or now and on purpose; never silently dropped, never silently immediate.
async fn c12_outside_of_a_transaction_nothing_is_silent<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    assert!(not_in_transaction(note(&log, 1).after_commit(conn)));
    assert!(not_in_transaction(note(&log, 2).after_rollback(conn)));
    assert!(not_in_transaction(spawned(log.clone(), 3).after_commit(conn)));
    assert!(not_in_transaction(spawned(log.clone(), 4).after_rollback(conn)));
    assert!(not_in_transaction(noting(conn, &log, 5)));
    assert!(not_in_transaction(noting_rollback(conn, &log, 6)));
    assert!(not_in_transaction(conn.before_commit(async |_| Ok(()))));
    assert_clean(db, conn, &log).await;
    assert_eq!(log.ran(), NOTHING);

    spawned(log.clone(), 7).run().await;
    note(&log, 8).after_commit_or_now(conn).unwrap();
    assert_eq!(log.ran(), [7, 8]);
    spawned(log.clone(), 9).after_commit_or_now(conn).unwrap();
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [7, 8, 9]);
}

/// C13: "am I in a transaction?", `pending` and refused registrations send nothing.
async fn c13_asking_sends_no_sql<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    fn ask<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>) -> bool {
        let open = AfterCommit::in_transaction(conn);
        assert_eq!(conn.in_transaction(), open);
        assert_eq!(conn.after_commit(async |_| ()).is_ok(), open);
        assert_eq!(conn.pending().is_empty(), !open);
        assert!(conn.last_report().is_clean());
        open
    }
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let statements = record_async(conn);
    assert!(!ask(conn));
    assert_eq!(statements.take(), [""; 0]);
    atomic!(conn, -> QueryResult<()>, async {
        statements.take();
        assert!(ask(conn));
        note(&log, 1);
        note(&log, 2).after_commit_or_now(conn).unwrap();
        assert_eq!(statements.take(), [""; 0]);
        Ok(())
    })
    .await
    .unwrap();
    statements.take();
    assert!(!ask(conn));
    assert_eq!(statements.take(), [""; 0]);
}

fn helper(conn: &mut impl AfterCommit, log: &Log, id: i32) -> QueryResult<()> {
    note(log, id).after_commit(conn)
}

/// C18: statements in all positions, explicit calls, closures, and every kind of transaction.
async fn c18_every_way_to_register_defers<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, retries = 2, -> QueryResult<()>, async {
        note(&log, 1);
        if log.ran().is_empty() {
            note(&log, 2);
        }
        match 3 {
            3 => note(&log, 3),
            _ => unreachable!(),
        };
        helper(conn, &log, 4)?;
        note(&log, 5).after_commit_or_now(conn).unwrap();
        (6..8).try_for_each(|id| note(&log, id).after_commit(conn))?;
        noting(conn, &log, 8)?;
        let inner = log.clone();
        conn.transaction(async move |conn| helper(conn, &inner, 9)).await?;
        Manager::begin_transaction(conn).await?;
        helper(conn, &log, 10)?;
        Manager::commit_transaction(conn).await?;
        assert_eq!(log.ran(), NOTHING, "nothing before the commit");
        let waiting: Vec<_> = conn.pending().iter().map(|hook| (hook.kind, hook.depth)).collect();
        assert_eq!(waiting, [(HookKind::AfterCommit, 1); 10]);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

    let log = Log::new();
    conn.transaction(async |conn| -> QueryResult<()> {
        helper(conn, &log, 1)?;
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .await
    .unwrap();
    conn.build_transaction().outermost().run(async |conn| helper(conn, &log, 2)).await.unwrap();
    Manager::begin_transaction(conn).await.unwrap();
    helper(conn, &log, 3).unwrap();
    assert_eq!(log.ran(), [1, 2]);
    Manager::commit_transaction(conn).await.unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
    assert_clean(db, conn, &log).await;
}

/// C18: the same three for a task that is spawned.
async fn c18_explicit_registration_of_spawned_tasks<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    for commit in [true, false] {
        let id = if commit { 0 } else { 10 };
        let _ = atomic!(conn, -> QueryResult<()>, async {
            spawned(log.clone(), id + 1).after_commit(conn)?;
            spawned(log.clone(), id + 2).after_rollback(conn)?;
            spawned(log.clone(), id + 3).after_commit_or_now(conn).unwrap();
            // What the first block has spawned may be running beside the second one.
            assert!(!commit || log.ran().is_empty());
            if commit { Ok(()) } else { rolled_back() }
        })
        .await;
    }
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [1, 3, 12]);
}

/// C20: registering on a transaction that was ended by hand is an error.
async fn c20_a_finished_transaction_takes_no_hooks<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        Manager::rollback_transaction(conn).await?;
        assert!(not_in_transaction(note(&log, 1).after_commit(conn)));
        assert!(not_in_transaction(noting_rollback(conn, &log, 2)));
        assert!(not_in_transaction(conn.before_commit(async |_| Ok(()))));
        Ok(())
    })
    .await;
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log).await;
}

/// C20: a statement cannot fail, so the block does; the task is reported and waits for no other
/// transaction.
async fn c20_a_task_called_after_the_end_is_reported<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for nested_after in [false, true] {
        let result: QueryResult<()> = atomic!(conn, async {
            Manager::rollback_transaction(conn).await?;
            note(&log, 1);
            if nested_after {
                atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await?;
                note(&log, 2);
            }
            Ok(())
        })
        .await;
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!(log.ran(), NOTHING);
        let lost: Vec<_> = conn.last_report().not_run().iter().map(|hook| hook.task).collect();
        let expected = if nested_after { 2 } else { 1 };
        assert_eq!(lost, vec!["diesel_deferred_tests::log::note"; expected], "nested after: {nested_after}");
        assert_clean(db, conn, &log).await;
    }
}

/// E16, C18: kind, depth, name and call site of each.
async fn pending_lists_what_waits<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        spawned(log.clone(), 1);
        atomic!(conn, -> QueryResult<()>, async {
            noting(conn, &log, 2)?;
            note(&log, 3).after_rollback(conn)?;
            conn.before_commit(async |_| Ok(()))?;
            let pending = conn.pending();
            let what: Vec<_> = pending.iter().map(|hook| (hook.kind, hook.depth)).collect();
            assert_eq!(
                what,
                [
                    (HookKind::AfterCommit, 1),
                    (HookKind::AfterCommit, 2),
                    (HookKind::AfterRollback, 2),
                    (HookKind::BeforeCommit, 2)
                ]
            );
            assert!(pending[0].task.ends_with("registration::spawned"), "{}", pending[0].task);
            assert!(pending.iter().all(|hook| hook.call_site.file().contains("nonblocking")), "{pending:?}");
            Ok(())
        })
        .await
    })
    .await
    .unwrap();
    assert_eq!(conn.pending(), []);
    assert_eq!(conn.last_report().ran(), 2);
    settled(&dispatcher).await;
}
