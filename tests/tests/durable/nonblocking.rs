//! The same on asynchronous connections, where what differs is who waits.

use std::panic::AssertUnwindSafe;

use diesel::result::QueryResult;
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use diesel_deferred::{AfterCommit, AsyncDeferredConnection, CommitError, HookKind, TaskId, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Database, Log, NOTHING, Scratch, note, on_every_async_database, record_async, refusal, rolled_back,
};
use futures_util::FutureExt;

use crate::tasks::{
    assert_not_in_transaction, assert_usable_async, count, first, firsts, in_short, keep, ready_async, replace, second,
    stored, third,
};

on_every_async_database! {
    d02_one_statement_for_a_thousand_calls,
    c21_without_durable_calls_nothing_else_is_sent,
    d05_without_a_table_nothing_is_committed,
    d05_what_cannot_be_written_is_refused,
    d06_keys,
    e07_a_swallowed_error_stores_nothing_that_is_lost,
    e07_in_a_nested_block,
    e09_raw_sql_that_ends_the_transaction_stores_nothing,
    e05_a_panic_stores_nothing,
    e13_rows_of_failed_attempts_are_not_there,
    c18_every_way_to_call_defers,
    c18_a_hook_calls_in_a_block_of_its_own,
    t01_in_a_test_transaction_the_outermost_block_stores,
    on_a_borrowed_connection,
}

type Conn<A> = AsyncDeferredConnection<A>;

/// The calls that are reported as not stored.
fn lost<A>(conn: &Conn<A>) -> Vec<String> {
    let calls = conn.last_report().not_run().iter().filter(|hook| hook.kind == HookKind::Durable);
    calls.map(|hook| format!("{} {}", hook.task, hook.arguments)).collect()
}

/// D2, D3
async fn d02_one_statement_for_a_thousand_calls<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let statements = record_async(conn);
    let mut ids = Vec::new();
    atomic!(conn, -> QueryResult<()>, async {
        for block in 0..100 {
            ids.push(first(block).after_commit(conn)?);
            ids.push(third(block.into(), true).after_commit(conn)?);
            let inner = atomic!(conn, -> QueryResult<Vec<TaskId>>, async {
                let mut of_block = Vec::new();
                for n in 0..8 {
                    of_block.push(second(&format!("{block} {n}")).after_commit(conn)?);
                }
                if block % 4 == 3 { rolled_back() } else { Ok(of_block) }
            })
            .await;
            ids.extend(inner.into_iter().flatten());
        }
        for n in 0..200 {
            ids.push(first(n).after_commit(conn)?);
        }
        Ok(())
    })
    .await
    .unwrap();
    let sent = in_short(statements.take());
    let others: Vec<_> = sent.iter().filter(|sql| !sql.contains("SAVEPOINT")).collect();
    assert_eq!(others, ["BEGIN", "INSERT", "COMMIT"]);
    assert_eq!(ids.len(), 1_000);
    assert_eq!(db.task_ids(), ids, "C17");
}

/// C21
async fn c21_without_durable_calls_nothing_else_is_sent<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let statements = record_async(conn);
    for id in 0..3 {
        atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
        assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
        let failed = atomic!(conn, -> QueryResult<()>, async {
            first(id);
            rolled_back()
        })
        .await;
        assert_eq!(failed, rolled_back());
        assert_eq!(statements.take(), ["BEGIN", "ROLLBACK"]);
        atomic!(conn, -> QueryResult<()>, async {
            first(id);
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(in_short(statements.take()), ["BEGIN", "INSERT", "COMMIT"]);
        conn.transaction(async |conn| first(id).after_commit(conn).map(drop)).await.unwrap();
        assert_eq!(in_short(statements.take()), ["BEGIN", "INSERT", "COMMIT"]);
    }
}

/// D5
async fn d05_without_a_table_nothing_is_committed<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut db.connect_async::<A>().await;
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, async {
        A::insert(conn, 1).await?;
        note(&log, 1);
        note(&log, 2).after_rollback(conn)?;
        first(1);
        Ok(())
    })
    .await;
    assert_eq!(refusal(&result), "NoTaskTable");
    assert_eq!((log.ran(), db.committed()), (vec![2], NOTHING.to_vec()));
    A::Blocking::migrate(&mut db.observer());
    assert_usable_async(db, conn).await;
    // A constraint by hand.
    db.run_sql("CREATE UNIQUE INDEX one_of_a_task ON deferred_tasks (task)");
    let result = atomic!(conn, -> QueryResult<()>, async {
        A::insert(conn, 1).await?;
        first(1);
        first(2);
        Ok(())
    })
    .await;
    assert!(matches!(result, Err(diesel::result::Error::DatabaseError(..))), "{result:?}");
    assert_eq!((db.committed(), count(db)), (NOTHING.to_vec(), 0));
    assert_usable_async(db, conn).await;
}

/// D5
async fn d05_what_cannot_be_written_is_refused<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let mut reached = false;
    let result = atomic!(conn, -> QueryResult<()>, async {
        first(1).key("");
        let error = first(2).queue("a\0b").after_commit(conn).unwrap_err();
        assert!(matches!(CommitError::of(&error), Some(CommitError::TaskCannotBeStored(_))), "{error}");
        A::insert(conn, 1).await?;
        reached = true;
        Ok(())
    })
    .await;
    assert!(reached);
    assert_eq!(refusal(&result), "TaskCannotBeStored");
    assert_eq!((db.committed(), count(db)), (NOTHING.to_vec(), 0));
    assert_usable_async(db, conn).await;
}

/// D6
async fn d06_keys<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    for text in ["a", "b"] {
        atomic!(conn, -> QueryResult<()>, async {
            for _ in 0..2 {
                keep(1, text);
                replace(1, text);
            }
            Ok(())
        })
        .await
        .unwrap();
    }
    assert_eq!(stored(db), [r#"keep {"id":1,"text":"a"}"#, r#"replace {"id":1,"text":"b"}"#]);
}

/// E7
async fn e07_a_swallowed_error_stores_nothing_that_is_lost<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    for raw in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, async {
            A::insert(conn, 1).await?;
            first(1);
            let failed = if raw { conn.batch_execute("no SQL").await } else { A::insert(conn, 1).await };
            assert!(failed.is_err());
            first(2);
            Ok(())
        })
        .await;
        if A::Blocking::NAME == "PostgreSQL" {
            assert_eq!(refusal(&result), "RolledBack");
            assert_eq!((stored(db).len(), lost(conn).len()), (0, 0));
        } else {
            assert_eq!(result, Ok(()));
            assert_eq!(stored(db), firsts([1, 2]));
        }
        db.run_sql("DELETE FROM witness");
        db.run_sql("DELETE FROM deferred_tasks");
        assert_usable_async(db, conn).await;
    }
}

/// E7, E8: on PostgreSQL diesel-async leaves the outer block aborted, which the wrapper heals.
async fn e07_in_a_nested_block<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let result = atomic!(conn, -> QueryResult<()>, async {
        first(1);
        A::insert(conn, 1).await?;
        let swallowed = atomic!(conn, -> QueryResult<()>, async {
            first(2);
            let _ = A::insert(conn, 1).await;
            Ok(())
        })
        .await;
        assert_eq!(swallowed.is_err(), A::Blocking::NAME == "PostgreSQL");
        let handed_on = atomic!(conn, -> QueryResult<()>, async {
            first(3);
            A::insert(conn, 1).await
        })
        .await;
        assert!(handed_on.is_err());
        first(4);
        Ok(())
    })
    .await;
    assert_eq!(result, Ok(()));
    assert_eq!(stored(db), if A::Blocking::NAME == "PostgreSQL" { firsts([1, 4]) } else { firsts([1, 2, 4]) });
}

/// E9, D1
async fn e09_raw_sql_that_ends_the_transaction_stores_nothing<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    A::Blocking::migrate(&mut db.observer());
    let mut id = 0;
    for way in ["batch_execute", "prepared", "inner_mut", "nested"] {
        for sql in ["COMMIT", "ROLLBACK"] {
            for plain in [true, false] {
                let context = format!("{sql}, {way}, plain: {plain}");
                let conn = &mut db.connect_async::<A>().await;
                id += 1;
                let block = async |conn: &mut Conn<A>| {
                    A::insert(conn, id).await?;
                    first(1).after_commit(conn)?;
                    match way {
                        "batch_execute" => conn.batch_execute(sql).await?,
                        "prepared" => A::execute_raw(conn, sql).await?,
                        "inner_mut" => conn.inner_mut().batch_execute(sql).await?,
                        _ => {
                            let nested =
                                atomic!(conn, -> QueryResult<()>, async { conn.batch_execute(sql).await }).await;
                            assert!(nested.is_err(), "{context}");
                        }
                    }
                    first(2).after_commit(conn).map(drop)
                };
                let result = if plain {
                    // By Diesel's own functions.
                    <A as DatabaseOf>::begin(conn).await.unwrap();
                    let ended = block(conn).await;
                    let committed = <A as DatabaseOf>::commit(conn).await;
                    if way == "nested" { committed } else { ended.and(committed) }
                } else {
                    atomic!(conn, -> QueryResult<()>, async {
                        let ended = block(conn).await;
                        if way == "nested" { Ok(()) } else { ended }
                    })
                    .await
                };
                match &result {
                    // By hand there is nothing left to commit where the nested block has found out.
                    Err(diesel::result::Error::NotInTransaction) if plain && way == "nested" => {}
                    _ => assert_eq!(refusal(&result), "EndedEarly", "{context}"),
                }
                assert_eq!(db.committed().contains(&id), sql == "COMMIT", "{context}");
                assert_eq!(count(db), 0, "{context}");
                assert!(lost(conn).contains(&firsts([1])[0]), "{context}: {}", conn.last_report());
                assert_usable_async(db, conn).await;
            }
        }
    }
}

/// The transaction manager's own functions.
trait DatabaseOf: AsyncDatabase {
    async fn begin(conn: &mut Conn<Self>) -> QueryResult<()> {
        use diesel_async::TransactionManager;
        diesel_deferred::AsyncDeferredTransactionManager::begin_transaction(conn).await
    }

    async fn commit(conn: &mut Conn<Self>) -> QueryResult<()> {
        use diesel_async::TransactionManager;
        diesel_deferred::AsyncDeferredTransactionManager::commit_transaction(conn).await
    }
}

impl<A: AsyncDatabase> DatabaseOf for A {}

/// E5
async fn e05_a_panic_stores_nothing<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let block = async {
        atomic!(conn, -> QueryResult<()>, async {
            first(1);
            A::insert(conn, 1).await?;
            std::panic::resume_unwind(Box::new("in the block"))
        })
        .await
    };
    assert!(AssertUnwindSafe(block).catch_unwind().await.is_err());
    assert_eq!((count(db), db.committed()), (0, NOTHING.to_vec()));
    assert_usable_async(db, conn).await;
}

/// E13
async fn e13_rows_of_failed_attempts_are_not_there<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let statement = match A::Blocking::NAME {
        "PostgreSQL" => "DO $$ BEGIN RAISE serialization_failure; END $$",
        "SQLite" => {
            db.run_sql(
                "CREATE TABLE conflict (id INTEGER); \
                 CREATE TRIGGER conflict BEFORE INSERT ON conflict BEGIN SELECT RAISE(ABORT, 'database is locked'); END",
            );
            "INSERT INTO conflict VALUES (1)"
        }
        _ => "SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'Deadlock found'",
    };
    let mut attempts = 0;
    atomic!(conn, retries = 3, -> QueryResult<()>, async {
        attempts += 1;
        first(attempts);
        if attempts < 3 {
            conn.batch_execute(statement).await?;
        }
        A::insert(conn, attempts).await
    })
    .await
    .unwrap();
    assert_eq!((attempts, stored(db), db.committed()), (3, firsts([3]), vec![3]));
}

async fn helper(conn: &mut impl AfterCommit, id: i32) -> QueryResult<TaskId> {
    first(id).after_commit(conn)
}

/// C18
async fn c18_every_way_to_call_defers<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    assert_not_in_transaction(first(0).after_commit(conn));
    atomic!(conn, -> QueryResult<()>, async {
        first(1);
        helper(conn, 2).await?;
        Some(first(3));
        let both = vec![first(4), first(5)];
        both;
        conn.transaction(async |conn| {
            helper(conn, 6).await?;
            QueryResult::Ok(())
        })
        .await?;
        conn.before_commit(async |conn| {
            helper(conn, 7).await?;
            atomic!(conn, -> QueryResult<()>, async {
                first(8);
                Ok(())
            })
            .await
        })?;
        assert_eq!(conn.pending().len(), 7, "one of them the before-commit hook");
        assert_eq!(count(db), 0);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(stored(db), firsts(1..9));
}

/// C7, C8
async fn c18_a_hook_calls_in_a_block_of_its_own<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    atomic!(conn, -> QueryResult<()>, async {
        first(1);
        conn.after_commit(async |conn| -> QueryResult<()> {
            assert_not_in_transaction(first(2).after_commit(conn));
            atomic!(conn, -> QueryResult<()>, async {
                first(3);
                Ok(())
            })
            .await
        })
    })
    .await
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!(stored(db), firsts([1, 3]));
}

/// T1
async fn t01_in_a_test_transaction_the_outermost_block_stores<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    conn.begin_test_transaction().await.unwrap();
    assert_not_in_transaction(first(1).after_commit(conn));
    let statements = record_async(conn);
    for id in [2, 3] {
        atomic!(conn, outermost, -> QueryResult<()>, async {
            first(id);
            Ok(())
        })
        .await
        .unwrap();
        let sent = in_short(statements.take());
        assert_eq!(sent[1..], ["INSERT", "RELEASE SAVEPOINT diesel_savepoint_1"]);
        assert_eq!(conn.pending(), []);
    }
    assert_eq!(count(db), 0);
}

/// `AsyncDeferredConnection<&mut …>`
async fn on_a_borrowed_connection<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    A::Blocking::migrate(&mut db.observer());
    let mut inner = A::establish(db.url()).await.unwrap();
    {
        let conn = &mut AsyncDeferredConnection::new(&mut inner);
        atomic!(conn, -> QueryResult<()>, async {
            first(1);
            Ok(())
        })
        .await
        .unwrap();
        let failed = atomic!(conn, -> QueryResult<()>, async {
            first(2);
            rolled_back()
        })
        .await;
        assert_eq!(failed, rolled_back());
    }
    inner.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(stored(db), firsts([1]));
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::prelude::*;
    use diesel::sql_types::Integer;
    use diesel_async::{AsyncPgConnection, RunQueryDsl};

    use super::*;

    /// A6: an error that is still on the wire when the block ends.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_an_unread_error_stores_nothing() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut ready_async::<AsyncPgConnection>(db).await;
        let result = atomic!(conn, -> QueryResult<()>, async {
            first(1);
            let failing = diesel::dsl::sql::<Integer>("SELECT 1 / (2 - n) FROM generate_series(1, 1000) AS n");
            let read: i32 = failing.get_result(conn).await?;
            assert_eq!(read, 1);
            Ok(())
        })
        .await;
        assert_eq!(refusal(&result), "RolledBack");
        assert_eq!(count(db), 0);
        assert_usable_async(db, conn).await;
    }
}
