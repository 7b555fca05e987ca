//! Async blocks with each option that SQLite has, and what they take from around them: captures, and connections of every kind.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::{AsyncConn, connect_async};

#[tokio::test]
async fn every_option_that_sqlite_has() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    atomic!(conn, immediate, async {
        note(&log, 1);
        QueryResult::Ok(())
    })
    .await?;
    atomic!(conn, retries = 1, -> QueryResult<()>, immediate, outermost, async {
        note(&log, 2);
        Ok(())
    })
    .await?;
    let refused: QueryResult<()> = atomic!(conn, async {
        note(&log, 0);
        atomic!(conn, outermost, async {
            note(&log, 0);
            Ok(())
        })
        .await
    })
    .await;
    assert_eq!(refused, Err(Error::AlreadyInTransaction));
    atomic!(conn, outermost, crate = ::diesel_deferred, -> QueryResult<()>, async move {
        note(&log, 3);
        assert_eq!(log.ran(), [1, 2]);
        Ok(())
    },)
    .await
}

#[tokio::test]
async fn captures() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let (mut count, mut names, name) = (0, Vec::new(), String::from("ada"));
    atomic!(conn, -> QueryResult<()>, async {
        count += 1;
        names.push(&name);
        note(&log, count);
        Ok(())
    })
    .await?;
    assert_eq!((count, &names), (1, &vec![&name]));
    // With `retries` a block borrows, also behind `move`.
    atomic!(conn, retries = 3, -> QueryResult<()>, async {
        count += 1;
        note(&log, count);
        Ok(())
    })
    .await?;
    assert_eq!(count, 2);
    let moved = log.clone();
    let length = atomic!(conn, -> QueryResult<usize>, async move {
        let name = name;
        note(&moved, 3);
        drop(moved);
        Ok(name.len())
    })
    .await?;
    assert_eq!((length, log.ran()), (3, vec![1, 2, 3]));
    Ok(())
}

#[tokio::test]
async fn a_connection_of_any_name_and_kind() -> QueryResult<()> {
    let log = Log::new();
    let mut owned = connect_async().await;
    atomic!(owned, -> QueryResult<()>, async {
        note(&log, 1);
        assert!(owned.in_transaction());
        Ok(())
    })
    .await?;
    atomic!(r#fn = connect_async().await, -> QueryResult<()>, async {
        note(&log, 2);
        r#fn.pending();
        Ok(())
    })
    .await?;
    let mut boxed = Box::new(owned);
    atomic!(boxed, -> QueryResult<()>, async {
        note(&log, 3);
        Ok(())
    })
    .await?;
    let conn = &mut *boxed;
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 4);
        let conn = 5;
        note(&log, conn);
        Ok(())
    })
    .await?;
    atomic!(conn, -> QueryResult<()>, async {
        let gone = conn;
        gone.pending();
        note(&log, 6);
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6]);
    Ok(())
}

/// A `?` in the expression of the connection is an error of the block's.
#[tokio::test]
async fn a_connection_that_cannot_be_had() {
    async fn missing() -> QueryResult<AsyncConn> {
        Err(Error::NotFound)
    }
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn = missing().await?, async {
        note(&log, 1);
        conn.pending();
        Ok(())
    })
    .await;
    assert_eq!((result, log.ran()), (Err(Error::NotFound), vec![]));
}

/// Code that was written for a connection of its own: in the block `conn` is a `&mut` already.
#[tokio::test]
async fn a_mutable_borrow_of_the_connection_is_the_connection() -> QueryResult<()> {
    let mut conn = connect_async().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        diesel_async::RunQueryDsl::execute(diesel::sql_query("SELECT 1"), &mut conn).await?;
        note(&log, 1);
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1]);
    Ok(())
}
