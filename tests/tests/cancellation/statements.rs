//! A statement whose own future is dropped, on a connection that goes on: where the answer to it
//! would pass for the answer to the next one, there is no next one.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{AsyncDatabase, Database, Log, Scratch, note, on_every_async_database};

on_every_async_database!(
    a02_a_statement_dropped_in_a_block_commits_nothing_unseen,
    a02_raw_sql_dropped_in_a_block_commits_nothing_unseen,
    a03_a_statement_dropped_in_a_hook_leaves_no_answer_for_the_next,
);

/// A query that takes longer than all that comes behind it.
fn slow<C: AsyncDatabase>() -> &'static str {
    match C::Blocking::NAME {
        "SQLite" => {
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) INSERT INTO witness SELECT -1 FROM n WHERE x = 300000"
        }
        "PostgreSQL" => "INSERT INTO witness SELECT -1 FROM pg_sleep(0.3)",
        _ => "INSERT INTO witness SELECT -1 FROM (SELECT SLEEP(0.3)) AS slept",
    }
}

/// Drops it when it is under way.
async fn dropped_under_way<T>(statement: impl Future<Output = T>) {
    let mut statement = pin!(statement);
    let ended = tokio::time::timeout(Duration::from_millis(50), &mut statement).await;
    assert!(ended.is_err(), "the statement was too fast to be dropped");
}

/// What a block that goes on behind the dropped statement returns, it also does.
async fn goes_on<C: AsyncDatabase>(db: &Scratch<C::Blocking>, conn: &mut AsyncDeferredConnection<C>, raw: bool) {
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        C::insert(conn, 1).await?;
        if raw {
            dropped_under_way(conn.batch_execute(slow::<C>())).await;
        } else {
            dropped_under_way(C::execute_raw(conn, slow::<C>())).await;
        }
        note(&log, 1);
        let again = atomic!(conn, async { C::insert(conn, 1).await }).await;
        assert!(again.is_err(), "the answer to another statement");
        Ok(())
    })
    .await;
    let committed = db.committed().contains(&1);
    assert_eq!(result.is_ok(), committed, "{result:?}");
    assert_eq!(log.ran(), if committed { vec![1] } else { vec![] });
    assert!(result.is_err() || !conn.is_broken());
}

async fn a02_a_statement_dropped_in_a_block_commits_nothing_unseen<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    goes_on::<C>(db, &mut db.connect_async().await, false).await;
}

async fn a02_raw_sql_dropped_in_a_block_commits_nothing_unseen<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    goes_on::<C>(db, &mut db.connect_async().await, true).await;
}

async fn a03_a_statement_dropped_in_a_hook_leaves_no_answer_for_the_next<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let block = async {
        atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 1).await?;
            conn.after_commit(async |conn| C::execute_raw(conn, slow::<C>()).await)?;
            Ok(())
        })
        .await
    };
    dropped_under_way(block).await;
    assert!(db.committed().contains(&1));
    let again = C::insert(conn, 1).await;
    assert!(again.is_err(), "the answer to another statement");
    let next = C::insert(conn, 2).await;
    assert_eq!(next.is_ok(), db.committed().contains(&2), "{next:?}");
    assert_eq!(next.is_err(), conn.is_broken());
}
