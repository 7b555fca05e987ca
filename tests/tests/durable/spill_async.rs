//! D14, D22 on asynchronous connections: there a statement cannot wait for anything, so that room is
//! made where a nested block begins or ends, before SQL in a batch, and at COMMIT.

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Database, Moment, NOTHING, Scratch, cut, on_every_async_database, record_async, refusal, rolled_back,
};

use crate::tasks::{assert_usable_async, count, first, is_insert, ready_async, second};

on_every_async_database! {
    d14_where_a_nested_block_begins_and_ends,
    d14_a_rolled_back_savepoint_takes_its_rows_along,
    d14_a_failed_spill_fails_the_transaction,
    d14_raw_sql_is_found_out_before_a_spill,
    a02_a_nested_block_that_is_dropped_in_a_spill,
    d22_large_calls_are_stored_before_a_batch_or_a_block,
}

type Conn<A> = AsyncDeferredConnection<A>;

const MANY: i32 = 10_000;

async fn inside<A: AsyncDatabase>(conn: &mut Conn<A>) -> bool {
    A::execute_raw(
        conn,
        "INSERT INTO witness SELECT 7 FROM (SELECT COUNT(*) AS n FROM deferred_tasks) AS t WHERE n > 0",
    )
    .await
    .unwrap();
    A::execute_raw(conn, "DELETE FROM witness WHERE id = 7").await.unwrap();
    false
}

/// D14, D3
async fn d14_where_a_nested_block_begins_and_ends<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let statements = record_async(conn);
    atomic!(conn, -> QueryResult<()>, async {
        for id in 0..MANY {
            first(id);
        }
        A::insert(conn, 1).await?;
        assert_eq!(conn.pending().len(), 10_000, "a statement cannot wait");
        assert!(!statements.take().iter().any(|sql| is_insert(sql)));
        atomic!(conn, -> QueryResult<()>, async {
            let sent = statements.take();
            let place = sent.iter().position(|sql| is_insert(sql)).expect("before the savepoint is set");
            assert!(sent[place + 1..].iter().any(|sql| sql.starts_with("SAVEPOINT diesel")), "{sent:?}");
            for id in MANY..2 * MANY {
                first(id);
            }
            Ok(())
        })
        .await?;
        let sent = statements.take();
        let place = sent.iter().position(|sql| is_insert(sql)).expect("before the savepoint is released");
        assert!(sent[place + 1..].iter().any(|sql| sql.starts_with("RELEASE")), "{sent:?}");
        for id in 2 * MANY..3 * MANY {
            first(id);
        }
        Ok(())
    })
    .await
    .unwrap();
    let payloads: Vec<_> = db.tasks().into_iter().map(|row| row.payload).collect();
    let expected: Vec<_> = (0..3 * MANY).map(|id| format!("{{\"id\":{id}}}")).collect();
    assert!(payloads == expected, "the same rows in the same order");
}

/// D14, D3
async fn d14_a_rolled_back_savepoint_takes_its_rows_along<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    atomic!(conn, -> QueryResult<()>, async {
        first(1);
        let inner = atomic!(conn, -> QueryResult<()>, async {
            for id in 0..MANY {
                first(id);
            }
            atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await?;
            assert_eq!(conn.pending().len(), 1, "stored, but that of the outer block");
            inside(conn).await;
            rolled_back()
        })
        .await;
        assert_eq!(inner, rolled_back());
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(count(db), 1);
}

/// D14, D5
async fn d14_a_failed_spill_fails_the_transaction<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut db.connect_async::<A>().await;
    let result = atomic!(conn, -> QueryResult<()>, async {
        for id in 0..MANY {
            first(id);
        }
        let caused = atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await;
        assert_eq!(refusal(&caused), "NoTaskTable");
        if A::Blocking::NAME != "PostgreSQL" {
            A::Blocking::migrate(&mut db.observer());
            first(-2);
            A::insert(conn, 2).await?;
        }
        Ok(())
    })
    .await;
    assert_eq!(refusal(&result), "TaskCannotBeStored");
    assert_eq!(db.committed(), NOTHING);
    A::Blocking::migrate(&mut db.observer());
    assert_eq!(count(db), 0);
    assert_usable_async(db, conn).await;
}

/// E9, D1
async fn d14_raw_sql_is_found_out_before_a_spill<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let result = atomic!(conn, -> QueryResult<()>, async {
        for id in 0..MANY {
            first(id);
        }
        conn.inner_mut().batch_execute("ROLLBACK").await?;
        let caused = atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await;
        assert_eq!(refusal(&caused), "EndedEarly");
        Ok(())
    })
    .await;
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!((count(db), conn.last_report().not_run().len()), (0, 10_000));
    assert_usable_async(db, conn).await;
}

/// A2, D1: the block around it goes on, and must not get to commit without the calls that were
/// being stored.
async fn a02_a_nested_block_that_is_dropped_in_a_spill<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    A::Blocking::migrate(&mut db.observer());
    let (mut refused, mut committed) = (0, 0);
    for polls in 0..60 {
        let moment = if polls % 2 == 0 { Moment::Waiting } else { Moment::Woken };
        // Ten thousand rows take many polls on MariaDB, which are all alike.
        let polls = if refused < 8 { polls } else { usize::MAX };
        let mut conn = db.connect_async::<A>().await;
        let mut completed = false;
        let result = atomic!(conn = &mut conn, -> QueryResult<()>, async {
            for id in 0..MANY {
                first(id);
            }
            let nested = atomic!(conn, -> QueryResult<()>, async { Ok(()) });
            completed = cut(nested, polls, moment).await.is_some();
            Ok(())
        })
        .await;
        drop(conn);
        let stored = count(db);
        match result {
            Ok(()) => {
                assert_eq!(stored, 10_000, "polls: {polls}");
                committed += 1;
                db.run_sql("DELETE FROM deferred_tasks");
            }
            Err(error) => {
                assert_eq!(stored, 0, "polls: {polls}: {error}");
                refused += 1;
            }
        }
        if completed {
            break;
        }
    }
    assert!(refused > 0 && committed > 0, "refused: {refused}, committed: {committed}");
}

/// D22: four of them are 2 MB.
async fn d22_large_calls_are_stored_before_a_batch_or_a_block<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let conn = &mut ready_async::<A>(db).await;
    let large = "x".repeat(512 << 10);
    atomic!(conn, -> QueryResult<()>, async {
        for _ in 0..3 {
            second(&large);
        }
        conn.batch_execute("DELETE FROM witness").await?;
        assert_eq!(conn.pending().len(), 3, "not yet");
        second(&large);
        conn.batch_execute("DELETE FROM witness").await?;
        assert_eq!(conn.pending().len(), 0);
        for _ in 0..4 {
            second(&large);
        }
        atomic!(conn, -> QueryResult<()>, async {
            assert_eq!(conn.pending().len(), 0);
            second(&large);
            Ok(())
        })
        .await
    })
    .await
    .unwrap();
    assert_eq!(count(db), 9);
}
