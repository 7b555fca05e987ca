//! Async blocks in every place: nested, spawned, in generic functions, beside transactions and hooks of other code.

use diesel::connection::Connection as _;
use diesel::prelude::*;
use diesel::result::Error;
use diesel_async::{AsyncConnection, RunQueryDsl};
use diesel_deferred::{AsyncDeferrable, AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{Log, note};

use crate::{AsyncConn, connect, connect_async};

#[tokio::test]
async fn nested() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let value = atomic!(conn, -> QueryResult<i32>, async {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 2);
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, 3);
                Ok(())
            })
            .await?;
            Ok(())
        })
        .await?;
        let rolled_back: QueryResult<()> = atomic!(conn, async {
            note(&log, 4);
            Err(Error::RollbackTransaction)
        })
        .await;
        assert!(rolled_back.is_err());
        let five = if atomic!(conn, -> QueryResult<bool>, async { Ok(true) }).await? { 5 } else { 0 };
        note(&log, five);
        assert!(log.ran().is_empty());
        atomic!(conn, async {
            note(&log, 6);
            Ok(6)
        })
        .await
    })
    .await?;
    assert_eq!((value, log.ran()), (6, vec![1, 2, 3, 5, 6]));
    Ok(())
}

#[tokio::test]
async fn on_another_connection() -> QueryResult<()> {
    let (conn, other, blocking) = (&mut connect_async().await, &mut connect_async().await, &mut connect());
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        atomic!(other, -> QueryResult<()>, async {
            note(&log, 2);
            conn.pending();
            note(&log, 3);
            Ok(())
        })
        .await?;
        atomic!(blocking, -> QueryResult<()>, {
            note(&log, 4);
            Ok(())
        })?;
        assert_eq!(log.ran(), [2, 3, 4]);
        note(&log, 5);
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [2, 3, 4, 1, 5]);
    Ok(())
}

#[tokio::test]
async fn two_connections_at_once() -> QueryResult<()> {
    let (one, two) = (&mut connect_async().await, &mut connect_async().await);
    let (first, second) = (Log::new(), Log::new());
    let (one, two) = tokio::join!(
        atomic!(one, -> QueryResult<()>, async {
            note(&first, 1);
            tokio::task::yield_now().await;
            note(&first, 2);
            Ok(())
        }),
        atomic!(two, -> QueryResult<()>, async {
            note(&second, 3);
            tokio::task::yield_now().await;
            Err(Error::NotFound)
        }),
    );
    assert_eq!((one, two), (Ok(()), Err(Error::NotFound)));
    assert_eq!((first.ran(), second.ran()), (vec![1, 2], vec![]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawned() -> QueryResult<()> {
    let mut conn = connect_async().await;
    let log = Log::new();
    let inner = log.clone();
    let block = tokio::spawn(async move {
        let mut count = 0;
        atomic!(conn, retries = 2, outermost, -> QueryResult<i32>, async {
            diesel::sql_query("SELECT 1").execute(conn).await?;
            count += 1;
            for id in 0..count {
                note(&inner, id);
                tokio::task::yield_now().await;
            }
            atomic!(conn, -> QueryResult<()>, async {
                note(&inner, 5);
                Ok(())
            })
            .await?;
            Ok(count)
        })
        .await
    });
    assert_eq!(block.await.expect("no panic")?, 1);
    assert_eq!(log.ran(), [0, 5]);
    Ok(())
}

/// A future that is `Send` whatever the connection is.
fn generic<'a, C: AsyncDeferrable, E: From<Error> + Send + 'a>(
    conn: &'a mut AsyncDeferredConnection<C>,
    log: &'a Log,
    id: i32,
) -> impl std::future::Future<Output = Result<i32, E>> + Send + 'a {
    atomic!(conn, async move {
        note(log, id);
        tokio::task::yield_now().await;
        Ok(id)
    })
}

async fn generic_with_closure<C, F>(conn: &mut AsyncDeferredConnection<C>, log: &Log, work: F) -> QueryResult<i32>
where
    C: AsyncDeferrable,
    F: AsyncFn(&mut AsyncDeferredConnection<C>) -> QueryResult<i32>,
{
    atomic!(conn, retries = 1, async {
        let id = work(conn).await?;
        note(log, id);
        Ok(id)
    })
    .await
}

trait Repository {
    async fn save(&mut self, id: i32) -> QueryResult<i32>;
}

struct Users {
    conn: Box<AsyncConn>,
    log: Log,
}

impl Repository for Users {
    async fn save(&mut self, id: i32) -> QueryResult<i32> {
        atomic!(conn = self.conn, async {
            diesel::sql_query("SELECT 1").execute(conn).await?;
            note(&self.log, id);
            Ok(id)
        })
        .await
    }
}

#[tokio::test]
async fn in_generic_functions_and_traits() -> QueryResult<()> {
    let mut users = Users { conn: Box::new(connect_async().await), log: Log::new() };
    assert_eq!(users.save(1).await?, 1);
    let Users { conn, log } = &mut users;
    assert_eq!(generic::<_, Error>(conn, log, 2).await?, 2);
    assert_eq!(generic_with_closure(conn, log, async |_| Ok(3)).await?, 3);
    assert_eq!(log.ran(), [1, 2, 3]);
    Ok(())
}

#[tokio::test]
async fn closures_after_the_commit() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let (commit, rollback) = (log.clone(), log.clone());
    atomic!(conn, -> QueryResult<()>, async {
        conn.before_commit(async |conn| diesel::sql_query("SELECT 1").execute(conn).await.map(drop))?;
        conn.after_commit(async move |conn: &mut AsyncConn| {
            tokio::task::yield_now().await;
            commit.push(i32::from(conn.in_transaction()));
        })?;
        conn.after_rollback(async move |_| rollback.push(9))?;
        note(&log, 1);
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [0, 1]);
    Ok(())
}

/// Another code's transactions nest with blocks.
#[tokio::test]
async fn in_a_transaction_of_the_connections_own() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    conn.begin_test_transaction().await?;
    let log = Log::new();
    conn.transaction(async |conn| {
        atomic!(conn, async {
            note(&log, 1);
            QueryResult::Ok(())
        })
        .await?;
        assert!(log.ran().is_empty());
        QueryResult::Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1]);
    // The other trait's name is in scope too.
    assert!(connect().begin_test_transaction().is_ok());
    Ok(())
}
