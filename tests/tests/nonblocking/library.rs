//! What diesel-async offers beside transactions, in a block and around one.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncMigrationHarness, RunQueryDsl, SaveChangesDsl, SimpleAsyncConnection};
use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Log, Scratch, note, on_every_async_database, record_async, rolled_back,
    witness,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::TryStreamExt;

use crate::fixture::{assert_clean, one_at_a_time, settled};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

on_every_async_database! {
    around_a_borrowed_connection,
    batches,
    instrumentation_is_that_of_the_connection_below,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

diesel::table! {
    letter (id) {
        id -> Integer,
        text -> Text,
    }
}

#[derive(AsChangeset, Identifiable, Queryable, Selectable, Debug, PartialEq)]
#[diesel(table_name = letter)]
struct Letter {
    id: i32,
    text: String,
}

/// `AsyncDeferredConnection<&mut C>`: a wrapper for a while.
async fn around_a_borrowed_connection<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let mut bare = db.connect_async::<C>().await.into_inner();
    let log = Log::new();
    for id in [1, 2] {
        let conn = &mut AsyncDeferredConnection::new(&mut bare);
        let dispatcher = one_at_a_time(conn);
        for commit in [true, false] {
            let result = atomic!(conn, -> QueryResult<()>, async {
                note(&log, id);
                spawned(log.clone(), id + 10);
                conn.batch_execute(&format!("INSERT INTO witness VALUES ({})", if commit { id } else { id + 50 })).await?;
                if commit { Ok(()) } else { rolled_back() }
            })
            .await;
            assert_eq!(result.is_ok(), commit);
        }
        settled(&dispatcher).await;
    }
    assert_eq!((log.ran(), db.committed()), (vec![1, 11, 2, 12], vec![1, 2]));
    bare.batch_execute("INSERT INTO witness VALUES (9)").await.unwrap();
    assert_eq!(db.committed(), [1, 2, 9], "no transaction was left open");
}

/// Raw SQL, several statements at once; what it makes of the transaction is looked at before COMMIT
/// is believed.
async fn batches<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        conn.batch_execute("INSERT INTO witness VALUES (1); INSERT INTO witness VALUES (2)").await
    })
    .await
    .unwrap();
    let ended = atomic!(conn, -> QueryResult<()>, async {
        note(&log, 2);
        conn.batch_execute("INSERT INTO witness VALUES (3); ROLLBACK").await
    })
    .await;
    assert_eq!(diesel_deferred_tests::refusal(&ended), "EndedEarly");
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2]));
    assert_clean(db, conn, &log).await;
}

/// The same messages as on a bare connection. N14: the one that rolls a savepoint back releases it,
/// too.
async fn instrumentation_is_that_of_the_connection_below<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    async fn script<C: AsyncConnection>(conn: &mut C) -> Vec<String> {
        let statements = record_async(conn);
        let done = conn.transaction(async |conn| {
            let inner: QueryResult<()> = conn.transaction(async |_| rolled_back()).await;
            assert_eq!(inner, rolled_back());
            conn.transaction(async |_| QueryResult::Ok(())).await
        });
        done.await.unwrap();
        conn.batch_execute("SELECT 1").await.unwrap();
        statements.take()
    }
    let mut conn = db.connect_async::<C>().await;
    let wrapped = script(&mut conn).await;
    let mut bare = script(&mut conn.into_inner()).await;
    assert_eq!(bare[2], "ROLLBACK TO SAVEPOINT diesel_savepoint_1");
    bare[2].push_str("; RELEASE SAVEPOINT diesel_savepoint_1");
    assert_eq!(wrapped, bare);
    assert_eq!(wrapped.len(), 7, "{wrapped:?}");
}

/// On the three databases by their concrete types, as the bounds of these are.
macro_rules! of_each_backend {
    ($database:ident, $conn:ty) => {
        mod $database {
            use super::*;

            type Conn = AsyncDeferredConnection<$conn>;

            async fn count(conn: &mut Conn) -> QueryResult<i64> {
                RunQueryDsl::get_result(witness::table.count(), conn).await
            }

            /// Rows one after the other, in a block and outside of one; also where the stream is
            /// left early.
            #[tokio::test]
            async fn load_stream() {
                let db = &Scratch::new();
                let conn: &mut Conn = &mut db.connect_async().await;
                let log = Log::new();
                atomic!(conn, async {
                    for id in 1..6 {
                        <$conn>::insert(conn, id).await?;
                    }
                    let query = witness::table.select(witness::id).order(witness::id);
                    let mut rows = RunQueryDsl::load_stream::<i32>(query, conn).await?;
                    while let Some(id) = rows.try_next().await? {
                        note(&log, id);
                    }
                    drop(rows);
                    let mut rows = RunQueryDsl::load_stream::<i32>(query, conn).await?;
                    assert_eq!(rows.try_next().await?, Some(1));
                    drop(rows);
                    <$conn>::insert(conn, 6).await
                })
                .await
                .unwrap();
                let all = RunQueryDsl::load_stream::<i32>(witness::table.select(witness::id), conn).await.unwrap();
                assert_eq!(all.try_collect::<Vec<_>>().await.unwrap().len(), 6);
                assert_eq!((log.ran(), db.committed()), (vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5, 6]));
                assert_clean(db, conn, &log).await;
            }

            /// `save_changes`; of a row that is not there it is `NotFound`, and rolls back.
            #[tokio::test]
            async fn save_changes() {
                let db = &Scratch::new();
                let conn: &mut Conn = &mut db.connect_async().await;
                let log = Log::new();
                conn.batch_execute("CREATE TABLE letter (id INTEGER PRIMARY KEY, text TEXT NOT NULL)").await.unwrap();
                conn.batch_execute("INSERT INTO letter VALUES (1, 'old')").await.unwrap();
                let saved = atomic!(conn, async {
                    note(&log, 1);
                    let changed = Letter { id: 1, text: String::from("new") };
                    changed.save_changes::<Letter>(conn).await
                })
                .await;
                assert_eq!(saved, Ok(Letter { id: 1, text: String::from("new") }));
                let missing: QueryResult<Letter> = atomic!(conn, async {
                    note(&log, 2);
                    Letter { id: 2, text: String::from("none") }.save_changes(conn).await
                })
                .await;
                assert_eq!(missing, Err(Error::NotFound));
                assert_eq!(log.ran(), [1]);
            }

            /// As a synchronous connection of Diesel's, which migrations and other libraries take.
            #[tokio::test(flavor = "multi_thread")]
            async fn the_synchronous_wrapper() {
                let db = Scratch::new();
                let mut conn: Conn = db.connect_async().await;
                let log = Log::new();
                conn = tokio::task::spawn_blocking(move || {
                    let mut conn: AsyncConnectionWrapper<Conn> = AsyncConnectionWrapper::from(conn);
                    diesel::connection::Connection::transaction(&mut conn, |conn| {
                        diesel::RunQueryDsl::execute(
                            diesel::insert_into(witness::table).values(witness::id.eq(1)),
                            conn,
                        )?;
                        QueryResult::Ok(())
                    })
                    .unwrap();
                    let failed: QueryResult<()> = diesel::connection::Connection::transaction(&mut conn, |conn| {
                        diesel::RunQueryDsl::execute(
                            diesel::insert_into(witness::table).values(witness::id.eq(2)),
                            conn,
                        )?;
                        rolled_back()
                    });
                    assert_eq!(failed, rolled_back());
                    conn.into_inner()
                })
                .await
                .unwrap();
                atomic!(conn, async {
                    note(&log, 1);
                    assert_eq!(count(conn).await?, 1);
                    <$conn>::insert(conn, 3).await
                })
                .await
                .unwrap();
                assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 3]));
            }

            /// N9: `AsyncMigrationHarness`: each migration in a transaction, which the connection
            /// believes as Diesel's own would.
            #[tokio::test(flavor = "multi_thread")]
            async fn migrations() {
                let db = Scratch::new();
                let conn: Conn = db.connect_async().await;
                let log = Log::new();
                let mut harness = AsyncMigrationHarness::new(conn);
                let ran = harness.run_pending_migrations(MIGRATIONS).unwrap().len();
                assert!(ran > 0);
                assert_eq!(harness.run_pending_migrations(MIGRATIONS).unwrap().len(), 0);
                assert_eq!(harness.revert_all_migrations(MIGRATIONS).unwrap().len(), ran);
                let conn = &mut harness.into_inner();
                assert!(!conn.in_transaction());
                assert_clean(&db, conn, &log).await;
            }
        }
    };
}

of_each_backend!(sqlite_only, AsyncSqliteConnection);
#[cfg(feature = "postgres")]
of_each_backend!(postgres_only, diesel_async::AsyncPgConnection);
#[cfg(feature = "mysql")]
of_each_backend!(mysql_only, diesel_async::AsyncMysqlConnection);
