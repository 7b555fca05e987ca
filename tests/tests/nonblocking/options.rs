//! What a block can be begun with: the server agrees, hooks wait for its commit, and nesting is
//! refused.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{AsyncDatabase, AsyncSqliteConnection, Log, Scratch, note, record_async};

use crate::fixture::assert_clean;

/// `immediate` and `exclusive`, by `atomic!` and by builder.
#[tokio::test]
async fn immediate_and_exclusive_on_sqlite() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let log = Log::new();
    let statements = record_async(conn);
    atomic!(conn, immediate, -> QueryResult<()>, async {
        note(&log, 1);
        let busy = db.observer().batch_execute("BEGIN IMMEDIATE");
        assert_eq!(busy.unwrap_err().to_string(), "database is locked");
        let nested: QueryResult<()> = atomic!(conn, immediate, async { Ok(()) }).await;
        assert!(matches!(nested, Err(Error::AlreadyInTransaction)), "{nested:?}");
        Ok(())
    })
    .await
    .unwrap();
    conn.build_transaction().exclusive().run(async |conn| note(&log, 2).after_commit(conn)).await.unwrap();
    atomic!(conn, outermost, immediate, retries = 2, async { note(&log, 3).after_commit(conn) }).await.unwrap();
    assert_eq!(
        statements.take(),
        ["BEGIN IMMEDIATE", "COMMIT", "BEGIN EXCLUSIVE", "COMMIT", "BEGIN IMMEDIATE", "COMMIT"]
    );
    // Its ROLLBACK is the next outermost block's.
    conn.immediate_transaction(async |_| QueryResult::Ok(())).await.unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
    assert_clean(db, conn, &log).await;
}

/// A7: diesel-async's two methods for SQLite. A cancelled one is noticed, which diesel-async's is
/// not.
#[tokio::test]
async fn a07_immediate_and_exclusive_transaction_on_sqlite() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let log = Log::new();
    let statements = record_async(conn);
    conn.immediate_transaction(async |conn| {
        note(&log, 1).after_commit(conn)?;
        let nested = conn.exclusive_transaction::<_, Error, _>(async |_| Ok(())).await;
        assert!(matches!(nested, Err(Error::AlreadyInTransaction)), "{nested:?}");
        QueryResult::Ok(())
    })
    .await
    .unwrap();
    conn.exclusive_transaction(async |conn| note(&log, 2).after_commit(conn)).await.unwrap();
    assert_eq!(statements.take(), ["BEGIN IMMEDIATE", "COMMIT", "BEGIN EXCLUSIVE", "COMMIT"]);
    let (reached, is_reached) = tokio::sync::oneshot::channel();
    let sink = &log;
    let cancelled = conn.immediate_transaction(async move |conn| -> QueryResult<()> {
        note(sink, 3).after_rollback(conn)?;
        reached.send(()).expect("it is waited for");
        std::future::pending().await
    });
    tokio::select! {
        ended = cancelled => panic!("{ended:?}"),
        reached = is_reached => reached.unwrap(),
    }
    // Its ROLLBACK is the next outermost block's.
    conn.immediate_transaction(async |_| QueryResult::Ok(())).await.unwrap();
    assert_eq!(log.ran(), [1, 2, 3]);
    assert_clean(db, conn, &log).await;
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::sql_types::Text;
    use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
    use diesel_deferred::{AsyncDeferredConnection, IsolationLevel};

    use super::*;

    async fn setting(conn: &mut AsyncDeferredConnection<AsyncPgConnection>, name: &str) -> QueryResult<String> {
        let sql = format!("current_setting('transaction_{name}')");
        RunQueryDsl::get_result(diesel::select(diesel::dsl::sql::<Text>(&sql)), conn).await
    }

    /// All options at once, by `atomic!` and by builder.
    #[tokio::test]
    async fn the_server_agrees() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let log = Log::new();
        let statements = record_async(conn);
        atomic!(conn, isolation = Serializable, read_only, deferrable, -> QueryResult<()>, async {
            assert_eq!(statements.take(), ["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"]);
            note(&log, 1);
            for (name, value) in [("isolation", "serializable"), ("read_only", "on"), ("deferrable", "on")] {
                assert_eq!(setting(conn, name).await?, value);
            }
            let nested: QueryResult<()> = atomic!(conn, read_only, async { Ok(()) }).await;
            assert!(matches!(nested, Err(Error::AlreadyInTransaction)), "{nested:?}");
            Ok(())
        })
        .await
        .unwrap();
        let mut read_only = conn.build_transaction().read_only();
        read_only.run(async |conn| AsyncPgConnection::insert(conn, 1).await).await.unwrap_err();
        for level in [IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted, IsolationLevel::ReadUncommitted] {
            let mut block = conn.build_transaction().isolation(level);
            let name = block.run(async |conn| setting(conn, "isolation").await).await.unwrap();
            assert_eq!(name.replace(' ', ""), format!("{level:?}").to_lowercase());
        }
        assert_eq!(setting(conn, "isolation").await.unwrap(), "read committed", "the level was for one transaction");
        assert_eq!(log.ran(), [1]);
        assert_clean(db, conn, &log).await;
    }

    async fn settings<C>(conn: &mut C) -> [String; 3]
    where
        C: diesel_async::AsyncConnection<Backend = diesel::pg::Pg>,
    {
        let mut settings = [const { String::new() }; 3];
        for (at, name) in ["isolation", "read_only", "deferrable"].into_iter().enumerate() {
            let sql = format!("current_setting('transaction_{name}')");
            settings[at] = RunQueryDsl::get_result(diesel::select(diesel::dsl::sql::<Text>(&sql)), conn).await.unwrap();
        }
        settings
    }

    /// diesel-async's methods, by its names, receivers and generics.
    macro_rules! calls_of_diesel {
        ($conn:ident) => {{
            SimpleAsyncConnection::batch_execute(
                $conn,
                "SET default_transaction_read_only = on; SET default_transaction_deferrable = on",
            )
            .await
            .unwrap();
            let mut builder = $conn.build_transaction().serializable().read_only().deferrable();
            let seen = [
                builder.run::<_, Error, _>(async |conn| Ok(settings(conn).await)).await,
                builder.run(async |conn| Ok(settings(conn).await)).await,
                $conn
                    .build_transaction()
                    .read_committed()
                    .read_write()
                    .not_deferrable()
                    .run(async |conn| Ok(settings(conn).await))
                    .await,
                $conn.build_transaction().repeatable_read().run(async |conn| Ok(settings(conn).await)).await,
            ];
            SimpleAsyncConnection::batch_execute($conn, "RESET ALL").await.unwrap();
            seen.map(|settings| settings.unwrap())
        }};
    }

    /// A7: code that was written for diesel-async's builder compiles as it is, and does the same.
    #[tokio::test]
    async fn a07_the_builder_has_diesels_methods() {
        let db = &Scratch::<PgConnection>::new();
        let plain = &mut AsyncPgConnection::establish(db.url()).await.unwrap();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let expected = [
            ["serializable", "on", "on"],
            ["serializable", "on", "on"],
            ["read committed", "off", "off"],
            ["repeatable read", "on", "on"],
        ];
        assert_eq!(calls_of_diesel!(plain), expected);
        assert_eq!(calls_of_diesel!(conn), expected);
        assert_clean(db, conn, &Log::new()).await;
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel_async::{AsyncMysqlConnection, RunQueryDsl};
    use diesel_deferred::AsyncDeferredConnection;
    use diesel_deferred_tests::{NOTHING, witness};

    use super::*;

    async fn seen(conn: &mut AsyncDeferredConnection<AsyncMysqlConnection>) -> QueryResult<Vec<i32>> {
        RunQueryDsl::load(witness::table.select(witness::id).order(witness::id), conn).await
    }

    /// The level is set in the message that begins, for one transaction.
    #[tokio::test]
    async fn the_server_agrees() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect_async::<AsyncMysqlConnection>().await;
        let log = Log::new();
        let statements = record_async(conn);
        let refused = atomic!(conn, isolation = ReadCommitted, read_only, -> QueryResult<()>, async {
            assert_eq!(
                statements.take(),
                ["SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION READ ONLY"]
            );
            note(&log, 1);
            AsyncMysqlConnection::insert(conn, 1).await
        })
        .await;
        assert!(refused.unwrap_err().to_string().contains("READ ONLY"));
        // A level below SERIALIZABLE sees what was committed meanwhile; the default of this server
        // does not.
        atomic!(conn, isolation = ReadCommitted, -> QueryResult<()>, async {
            note(&log, 2);
            assert_eq!(seen(conn).await?, NOTHING);
            db.observer().batch_execute("INSERT INTO witness VALUES (7)")?;
            assert_eq!(seen(conn).await?, [7]);
            Ok(())
        })
        .await
        .unwrap();
        atomic!(conn, isolation = RepeatableRead, -> QueryResult<()>, async {
            assert_eq!(seen(conn).await?, [7]);
            db.observer().batch_execute("INSERT INTO witness VALUES (8)")?;
            assert_eq!(seen(conn).await?, [7], "the level was for one transaction");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(log.ran(), [2]);
        assert_clean(db, conn, &log).await;
    }
}
