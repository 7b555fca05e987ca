//! What only PostgreSQL's asynchronous connection offers: pipelining and notifications.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_deferred::atomic;
use diesel_deferred_tests::{AsyncDatabase, Log, NOTHING, Scratch, note, refusal, rolled_back, witness};
use futures_util::{StreamExt, TryStreamExt};

use crate::fixture::{SOON, assert_clean};

/// Pipelining by `&mut &**conn`, in a block and in a spawned one; a failure of one of them fails
/// the block, an error that is swallowed its COMMIT (A6).
#[tokio::test]
async fn pipelining() {
    let db = Scratch::<PgConnection>::new();
    let mut conn = db.connect_async::<AsyncPgConnection>().await;
    let log = Log::new();
    let insert = |id: i32| diesel::insert_into(witness::table).values(witness::id.eq(id));
    let sink = log.clone();
    let mut conn = tokio::spawn(async move {
        let log = sink;
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 1);
            futures_util::try_join!(
                RunQueryDsl::execute(insert(1), &mut &**conn),
                RunQueryDsl::execute(insert(2), &mut &**conn),
                RunQueryDsl::get_results::<i32>(witness::table.select(witness::id), &mut &**conn),
            )?;
            Ok(())
        })
        .await
        .unwrap();
        let failed = atomic!(conn, -> QueryResult<()>, async {
            note(&log, 2);
            futures_util::try_join!(
                RunQueryDsl::execute(insert(3), &mut &**conn),
                RunQueryDsl::execute(insert(1), &mut &**conn),
            )?;
            Ok(())
        })
        .await;
        assert!(matches!(failed, Err(Error::DatabaseError(..))), "{failed:?}");
        let swallowed = atomic!(conn, -> QueryResult<()>, async {
            note(&log, 4);
            let (first, second) = futures_util::join!(
                RunQueryDsl::execute(insert(4), &mut &**conn),
                RunQueryDsl::execute(insert(1), &mut &**conn),
            );
            assert!(first.is_ok() && second.is_err());
            Ok(())
        })
        .await;
        assert_eq!(refusal(&swallowed), "RolledBack");
        conn
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2]));
    assert_clean(&db, &mut conn, &log).await;
}

/// A block that only pipelines, and a typed swallowed error in a block without hooks.
#[tokio::test]
async fn a06_a_swallowed_pipelined_error_without_hooks() {
    let db = Scratch::<PgConnection>::new();
    let mut conn = db.connect_async::<AsyncPgConnection>().await;
    let swallowed = atomic!(conn, -> QueryResult<()>, async {
        let insert = diesel::insert_into(witness::table).values(witness::id.eq(1));
        assert_eq!(RunQueryDsl::execute(insert, &mut &**conn).await, Ok(1));
        assert!(RunQueryDsl::execute(insert, &mut &**conn).await.is_err());
        Ok(())
    })
    .await;
    assert_eq!(refusal(&swallowed), "RolledBack");
    assert_eq!(db.committed(), NOTHING);
    assert_clean(&db, &mut conn, &Log::new()).await;
}

/// A7: streams of rows do not hold the connection: two at once, and a statement meanwhile.
#[tokio::test]
async fn a07_streams_do_not_hold_the_connection() {
    let db = Scratch::<PgConnection>::new();
    let mut conn = db.connect_async::<AsyncPgConnection>().await;
    let log = Log::new();
    let seen = atomic!(conn, -> QueryResult<Vec<(i32, i32)>>, async {
        for id in 1..=3 {
            AsyncPgConnection::insert(conn, id).await?;
        }
        let query = || witness::table.select(witness::id).order(witness::id);
        let mut first = RunQueryDsl::load_stream::<i32>(query(), conn).await?;
        let second = RunQueryDsl::load_stream::<i32>(query(), conn).await?;
        assert_eq!(first.next().await, Some(Ok(1)));
        note(&log, 1);
        AsyncPgConnection::insert(conn, 4).await?;
        first.zip(second).map(|(first, second)| Ok((first?, second?))).try_collect().await
    })
    .await;
    assert_eq!(seen, Ok(vec![(2, 1), (3, 2)]));
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2, 3, 4]));
    assert_clean(&db, &mut conn, &log).await;
}

/// A6: an error among rows that nobody has read yet at the COMMIT, of a block without tasks and
/// with typed queries only. The stream lives on.
#[tokio::test]
async fn a06_an_error_in_a_stream_that_outlives_its_block() {
    let db = Scratch::<PgConnection>::new();
    let mut conn = db.connect_async::<AsyncPgConnection>().await;
    let mut kept = None;
    let block = atomic!(conn, -> QueryResult<()>, async {
        for id in 1..=5 {
            AsyncPgConnection::insert(conn, id).await?;
        }
        let fails_at_three = witness::table.select(witness::id / (witness::id - 3)).order(witness::id);
        kept = Some(RunQueryDsl::load_stream::<i32>(fails_at_three, conn).await?);
        Ok(())
    })
    .await;
    assert_eq!(refusal(&block), "RolledBack");
    assert_eq!(db.committed(), NOTHING);
    let rows: Vec<QueryResult<i32>> = kept.expect("it began").collect().await;
    assert!(rows.last().is_some_and(Result::is_err), "{rows:?}");
    assert_clean(&db, &mut conn, &Log::new()).await;
}

/// `NOTIFY` of a block arrives after its COMMIT only; the listener is a deferring connection, too.
#[tokio::test]
async fn notifications() {
    let db = Scratch::<PgConnection>::new();
    let conn = &mut db.connect_async::<AsyncPgConnection>().await;
    let mut listener = db.connect_async::<AsyncPgConnection>().await;
    listener.batch_execute("LISTEN deferred").await.unwrap();
    for commit in [false, true] {
        let _ = atomic!(conn, -> QueryResult<()>, async {
            let sql = format!("NOTIFY deferred, '{commit}-{}'", std::process::id());
            conn.batch_execute(&sql).await?;
            if commit { Ok(()) } else { rolled_back() }
        })
        .await;
    }
    let own = format!("-{}", std::process::id());
    let mut notifications = std::pin::pin!(listener.notifications_stream());
    let payload = loop {
        let next = tokio::time::timeout(SOON, notifications.next()).await.expect("in time");
        let payload = next.expect("a notification").unwrap().payload;
        if payload.ends_with(&own) {
            break payload;
        }
    };
    assert_eq!(payload, format!("true{own}"));
}
