//! `atomic!(conn, async { … })`: statements with `.await` in every place that a statement has.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_async::RunQueryDsl;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, NOTHING, note};

use crate::{AsyncConn, connect_async};

async fn later<T>(value: T) -> T {
    tokio::task::yield_now().await;
    value
}

async fn fallible(id: i32) -> QueryResult<i32> {
    if later(id).await < 0 { Err(Error::NotFound) } else { Ok(id) }
}

async fn select(conn: &mut AsyncConn, id: i32) -> QueryResult<i32> {
    diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>(&id.to_string())).get_result(conn).await
}

#[tokio::test]
async fn statements() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        later(()).await;
        fallible(0).await?;
        later(Ok::<_, Error>(())).await?;
        diesel::sql_query("CREATE TABLE users (id INTEGER)").execute(conn).await?;
        note(&log, select(conn, 1).await?);
        note(&log, later(2).await);
        let three = later(3).await;
        note(&log, three);
        let Ok(four) = fallible(4).await else {
            note(&log, later(0).await);
            return Err(Error::NotFound);
        };
        note(&log, four);
        let Ok(_) = fallible(-1).await else {
            note(&log, later(5).await);
            return Ok(());
        };
        note(&log, 0);
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5]);
    Ok(())
}

#[tokio::test]
async fn branches() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        for id in 0..4 {
            if later(id).await == 0 {
                note(&log, id)
            } else if let Ok(1) = fallible(id).await {
                later(()).await
            } else {
                later(()).await;
                note(&log, later(id).await)
            }
            match later(id).await {
                0 => note(&log, 10),
                1 => later(()).await,
                2 if later(true).await => {
                    later(()).await;
                    note(&log, select(conn, 12).await?);
                }
                _ => (),
            }
        }
        match fallible(-1).await {
            Ok(id) => note(&log, id),
            Err(_) => note(&log, 20),
        }
        if let Some(id) = later(Some(21)).await {
            note(&log, id)
        }
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [0, 10, 2, 12, 3, 20, 21]);
    Ok(())
}

#[tokio::test]
async fn loops_and_labels() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let mut left = vec![5, 4, 3];
    atomic!(conn, -> QueryResult<()>, async {
        for id in later(1..=2).await {
            note(&log, later(id).await)
        }
        while let Some(id) = later(left.pop()).await {
            note(&log, id);
            later(()).await
        }
        let last = loop {
            let id = later(6).await;
            note(&log, id);
            break fallible(id).await?;
        };
        assert_eq!(last, 6);
        'outer: for row in 0..3 {
            for column in 0..3 {
                match (later(row).await, column) {
                    (_, 1) => continue 'outer,
                    (2, _) => break 'outer,
                    _ => note(&log, 7 + row),
                }
            }
        }
        let found = 'search: {
            if fallible(9).await? == 9 {
                note(&log, 9);
                break 'search later(Some(10)).await;
            }
            None
        };
        if let Some(id) = found {
            note(&log, id)
        }
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    Ok(())
}

#[tokio::test]
async fn tails() -> QueryResult<()> {
    async fn tail(conn: &mut AsyncConn, log: &Log, id: i32) -> QueryResult<i32> {
        atomic!(conn, async {
            note(log, id);
            if id == 0 {
                note(log, 10);
                return Ok(0);
            }
            match later(id).await {
                1 => fallible(1).await,
                2 => select(conn, 2).await,
                3 => later(Err(Error::NotFound)).await?,
                4 => {
                    note(log, 14);
                    loop {
                        break fallible(4).await;
                    }
                }
                _ => fallible(-1).await,
            }
        })
        .await
    }
    let conn = &mut connect_async().await;
    for (id, result, ran) in [
        (0, Ok(0), vec![0, 10]),
        (1, Ok(1), vec![1]),
        (2, Ok(2), vec![2]),
        (3, Err(Error::NotFound), vec![]),
        (4, Ok(4), vec![4, 14]),
        (5, Err(Error::NotFound), vec![]),
    ] {
        let log = Log::new();
        assert_eq!((tail(conn, &log, id).await, log.ran()), (result, ran));
    }
    Ok(())
}

/// A block whose end is never reached needs no value.
#[tokio::test]
async fn diverging_blocks() {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        note(&log, 1);
        later(()).await;
        return Err(Error::NotFound);
    })
    .await;
    assert_eq!(result, Err(Error::NotFound));
    let result = atomic!(conn, -> QueryResult<i32>, async {
        loop {
            note(&log, 2);
            return later(Ok(2)).await;
        }
    })
    .await;
    assert_eq!((result, log.ran()), (Ok(2), vec![2]));
    let block = async {
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 3);
            later(()).await;
            std::panic::panic_any("failed");
        })
        .await
    };
    assert!(futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(block)).await.is_err());
    assert_eq!(log.ran(), [2]);
}

/// Borrows that live across an `.await`: of the connection, of a temporary.
#[tokio::test]
async fn borrows() -> QueryResult<()> {
    use futures_util::TryStreamExt;
    let conn = &mut connect_async().await;
    let log = Log::new();
    let mut list = vec![1];
    atomic!(conn, -> QueryResult<()>, async {
        let rows = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        let mut rows = rows.load_stream::<i32>(conn).await?;
        while let Some(id) = rows.try_next().await? {
            // Registered while the connection is borrowed by the stream.
            note(&log, id);
        }
        drop(rows);
        list.push(later(&String::from("ab")).await.len());
        list.push(list.len());
        note(&log, i32::try_from(*later(&list).await.last().expect("an element")).expect("small"));
        Ok(())
    })
    .await?;
    assert_eq!((log.ran(), list), (vec![1, 2], vec![1, 2, 2]));
    Ok(())
}

/// What `Option`s and lists hold is registered as in any block; closures and async blocks keep what is no task.
#[tokio::test]
async fn tasks_in_values_and_plain_inner_futures() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        later(Some(1)).await.map(|id| note(&log, id));
        later(note(&log, 2)).await;
        later(Some(vec![note(&log, 3)])).await;
        let sum = async {
            later(4).await;
            fallible(4).await?;
            QueryResult::Ok(later(4).await)
        };
        let sum = sum.await?;
        note(&log, sum);
        let double = async |id: i32| {
            later(id).await;
            id * 2
        };
        note(&log, double(3).await);
        note(&log, 7).after_commit(conn)?;
        let mut register = async |id: i32| note(&log, later(id).await).after_commit(conn);
        register(8).await?;
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 6, 7, 8]);
    Ok(())
}

/// A block that is never awaited begins nothing.
#[tokio::test]
async fn nothing_runs_before_the_first_poll() {
    let conn = &mut connect_async().await;
    let log = Log::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        log.push(2);
        Ok(())
    });
    drop(block);
    assert!(!conn.in_transaction());
    assert_eq!(log.ran(), NOTHING);
}

/// Macros of tokio's that take calls: their values are used, and tasks among them are registered where a statement has them.
#[tokio::test]
async fn macros_that_await() -> QueryResult<()> {
    let conn = &mut connect_async().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        let (one, two) = tokio::join!(later(1), fallible(2));
        note(&log, one);
        note(&log, two?);
        let (three, _) = tokio::try_join!(fallible(3), fallible(4))?;
        note(&log, three);
        let mut never = std::pin::pin!(std::future::pending::<i32>());
        let four = tokio::select! {
            id = later(4) => id,
            id = &mut never => id,
        };
        note(&log, four);
        if tokio::time::timeout(std::time::Duration::ZERO, never).await.is_err() {
            note(&log, 5)
        }
        Ok(())
    })
    .await?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5]);
    Ok(())
}
