//! What a block can be begun with: the server agrees, hooks wait for its commit, and nesting is refused.

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
    let block = conn.build_transaction().exclusive();
    block.run(async |conn| note(&log, 2).after_commit(conn)).await.unwrap();
    atomic!(conn, outermost, immediate, retries = 2, async { note(&log, 3).after_commit(conn) }).await.unwrap();
    assert_eq!(
        statements.take(),
        ["BEGIN IMMEDIATE", "COMMIT", "BEGIN EXCLUSIVE", "COMMIT", "BEGIN IMMEDIATE", "COMMIT"]
    );
    assert_eq!(log.ran(), [1, 2, 3]);
    assert_clean(db, conn, &log).await;
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::sql_types::Text;
    use diesel_async::{AsyncPgConnection, RunQueryDsl};
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
        let refused = conn.build_transaction().read_only();
        refused.run(async |conn| AsyncPgConnection::insert(conn, 1).await).await.unwrap_err();
        for level in [IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted, IsolationLevel::ReadUncommitted] {
            let name = conn.build_transaction().isolation(level).run(async |conn| setting(conn, "isolation").await);
            let sql = format!("{level:?}").to_lowercase();
            assert_eq!(name.await.unwrap().replace(' ', ""), sql);
        }
        assert_eq!(setting(conn, "isolation").await.unwrap(), "read committed", "the level was for one transaction");
        assert_eq!(log.ran(), [1]);
        assert_clean(db, conn, &log).await;
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
        // A level below SERIALIZABLE sees what was committed meanwhile; the default of this server does not.
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
