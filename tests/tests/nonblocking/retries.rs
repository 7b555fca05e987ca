//! E13: `retries` runs the outermost block again, and only the attempt that commits runs its hooks.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Log, NOTHING, Scratch, note, on_every_async_database,
};

use crate::fixture::{assert_clean, one_at_a_time, settled};

on_every_async_database! {
    e13_other_errors_are_not_retried,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

/// E13: an error of the block that is no conflict comes out at once; so does one that only looks
/// like it.
async fn e13_other_errors_are_not_retried<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let mut attempts = 0;
    let result: QueryResult<()> = atomic!(conn, retries = 5, async {
        attempts += 1;
        note(&log, 1);
        C::insert(conn, 1).await?;
        C::insert(conn, 1).await
    })
    .await;
    assert!(matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{result:?}");
    let result: QueryResult<()> = atomic!(conn, retries = 5, async {
        attempts += 1;
        note(&log, 2);
        Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, Box::new(String::from("not the database's"))))
    })
    .await;
    assert!(result.is_err());
    assert_eq!(attempts, 2);
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log).await;
}

/// What an attempt registers: hooks of each kind with its number, and a rollback hook that opens a
/// transaction of its own.
fn register<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, log: &Log, attempt: i32) -> QueryResult<()> {
    note(log, attempt).after_commit(conn)?;
    let log = log.clone();
    conn.after_rollback(async move |conn| {
        atomic!(conn, outermost, -> QueryResult<()>, async {
            note(&log, attempt + 100);
            Ok(())
        })
        .await
    })
}

fn locked(db: &Scratch<SqliteConnection>) -> SqliteConnection {
    let mut other = db.observer();
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    other
}

/// E13: BUSY at BEGIN IMMEDIATE: the block has not even started.
#[tokio::test]
async fn e13_busy_at_begin() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let log = Log::new();
    let mut other = Some(locked(db));
    diesel_async::AsyncConnection::set_instrumentation(
        conn,
        move |event: diesel::connection::InstrumentationEvent<'_>| {
            if let diesel::connection::InstrumentationEvent::FinishQuery { error: Some(_), .. } = event
                && let Some(mut other) = other.take()
            {
                other.batch_execute("ROLLBACK").unwrap();
            }
        },
    );
    let mut attempts = 0;
    atomic!(conn, immediate, retries = 3, -> QueryResult<()>, async {
        attempts += 1;
        register(conn, &log, attempts)?;
        AsyncSqliteConnection::insert(conn, attempts).await
    })
    .await
    .unwrap();
    assert_eq!((attempts, log.ran(), db.committed()), (1, vec![1], vec![1]));
    assert_clean(db, conn, &log).await;
}

/// E13: BUSY at a statement; what is spawned is that of the last attempt.
#[tokio::test]
async fn e13_busy_at_a_statement() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let dispatcher = one_at_a_time(conn);
    let (log, elsewhere) = (Log::new(), Log::new());
    let mut other = locked(db);
    let mut attempts = 0;
    let mut seen = Vec::new();
    atomic!(conn, retries = 3, -> QueryResult<()>, async {
        attempts += 1;
        seen.push(attempts);
        spawned(elsewhere.clone(), attempts);
        register(conn, &log, attempts)?;
        let result = AsyncSqliteConnection::insert(conn, attempts).await;
        if attempts == 2 {
            other.batch_execute("ROLLBACK").unwrap();
        }
        result
    })
    .await
    .unwrap();
    assert_eq!((attempts, log.ran(), db.committed()), (3, vec![101, 102, 3], vec![3]));
    assert_eq!(seen, [1, 2, 3]);
    assert_clean(db, conn, &log).await;
    settled(&dispatcher).await;
    assert_eq!(elsewhere.ran(), [3]);
}

/// E13: the last attempt's error comes out, and no hook of any attempt runs; nested, only the
/// outermost runs again.
#[tokio::test]
async fn e13_retries_are_counted() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let log = Log::new();
    let mut other = locked(db);
    let (mut outer, mut inner) = (0, 0);
    let result = atomic!(conn, retries = 2, -> QueryResult<()>, async {
        outer += 1;
        note(&log, outer);
        atomic!(conn, retries = 2, -> QueryResult<()>, async {
            inner += 1;
            note(&log, inner);
            AsyncSqliteConnection::insert(conn, inner).await
        })
        .await
    })
    .await;
    assert_eq!(result.unwrap_err().to_string(), "database is locked");
    assert_eq!((outer, inner, log.ran()), (3, 3, NOTHING.to_vec()));
    other.batch_execute("ROLLBACK").unwrap();
    assert_clean(db, conn, &log).await;
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
    use diesel_deferred_tests::witness;

    use super::*;

    type Conn = AsyncDeferredConnection<AsyncPgConnection>;

    async fn read(conn: &mut Conn) -> QueryResult<i64> {
        RunQueryDsl::get_result(witness::table.count(), conn).await
    }

    /// E13: 40001 at a statement, and at COMMIT: two serializable transactions that each read what
    /// the other one writes.
    #[tokio::test]
    async fn e13_serialisation_failures() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let rival = &mut db.connect_async::<AsyncPgConnection>().await;
        for at_commit in [false, true] {
            let dispatcher = one_at_a_time(conn);
            let (log, elsewhere) = (Log::new(), Log::new());
            let base = if at_commit { 10 } else { 0 };
            let mut attempts = 0;
            let mut failed_in_block = 0;
            atomic!(conn, isolation = Serializable, retries = 3, -> QueryResult<()>, async {
                attempts += 1;
                spawned(elsewhere.clone(), attempts);
                register(conn, &log, attempts)?;
                read(conn).await?;
                if at_commit {
                    AsyncPgConnection::insert(conn, base + attempts).await?;
                }
                if attempts == 1 {
                    atomic!(rival, isolation = Serializable, -> QueryResult<()>, async {
                        read(rival).await?;
                        AsyncPgConnection::insert(rival, base + 9).await
                    })
                    .await?;
                }
                if !at_commit {
                    let inserted = AsyncPgConnection::insert(conn, base + attempts).await;
                    failed_in_block += usize::from(inserted.is_err());
                    inserted?;
                }
                Ok(())
            })
            .await
            .unwrap();
            assert_eq!(failed_in_block, usize::from(!at_commit), "40001 is where it is meant to be");
            assert_eq!((attempts, log.ran()), (2, vec![101, 2]), "at commit: {at_commit}");
            assert_clean(db, conn, &log).await;
            settled(&dispatcher).await;
            assert_eq!(elsewhere.ran(), [2]);
            conn.batch_execute("DELETE FROM witness WHERE id >= 1000000").await.unwrap();
        }
        assert_eq!(db.committed(), [2, 9, 12, 19]);
    }
}
