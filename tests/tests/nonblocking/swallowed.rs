//! A6, E6, E7, E9, E10: commits that do not commit, on asynchronous connections. Refused, and not
//! by asking the server: each test that can counts what was sent.

use diesel::prelude::*;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Database, Log, NOTHING, Scratch, assert_clean_async, note, on_every_async_database, record_async,
    refusal,
};

on_every_async_database! {
    a06_a_commit_costs_no_message_of_its_own,
    e07_a_swallowed_error_never_runs_hooks_for_lost_rows,
    e09_raw_commit_and_rollback_are_refused,
}

type Conn<C> = AsyncDeferredConnection<C>;

/// A6, C21: BEGIN and COMMIT, and where hooks wait one message that holds the COMMIT.
async fn a06_a_commit_costs_no_message_of_its_own<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let statements = record_async(conn);
    atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
    assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
    conn.transaction(async |_| QueryResult::Ok(())).await.unwrap();
    assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
    for nested in [false, true] {
        atomic!(conn, -> QueryResult<()>, async {
            if nested {
                atomic!(conn, -> QueryResult<()>, async {
                    note(&log, 1);
                    Ok(())
                })
                .await?;
            } else {
                note(&log, 1);
            }
            Ok(())
        })
        .await
        .unwrap();
        let sent = statements.take();
        let savepoint: &[_] = if nested { &["SAVEPOINT", "RELEASE SAVEPOINT"] } else { &[] };
        assert_eq!(sent.len(), 2 + savepoint.len(), "{sent:?}");
        assert_eq!(sent[0], "BEGIN");
        assert!(sent.iter().skip(1).zip(savepoint).all(|(sent, start)| sent.starts_with(start)), "{sent:?}");
        assert!(sent.last().unwrap().ends_with("COMMIT"), "{sent:?}");
    }
    assert_eq!(log.ran(), [1, 1]);
}

/// E7: PostgreSQL aborts the transaction, the others only the statement.
async fn e07_a_swallowed_error_never_runs_hooks_for_lost_rows<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        assert!(C::insert(conn, 1).await.is_err());
        Ok(())
    })
    .await;
    if C::Blocking::NAME == "PostgreSQL" {
        assert_eq!(refusal(&result), "RolledBack");
    } else {
        assert_eq!(result, Ok(()));
    }
    assert_eq!(log.ran(), db.committed());
    assert_clean_async(db, conn, &log).await;
}

/// E9: by the wrapper, and past it.
async fn e09_raw_commit_and_rollback_are_refused<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let mut id = 0;
    for below in [false, true] {
        for sql in ["COMMIT", "ROLLBACK"] {
            for hooks in [true, false] {
                let context = format!("{sql}, below: {below}, hooks: {hooks}");
                let conn = &mut db.connect_async::<C>().await;
                let log = Log::new();
                id += 1;
                let result = atomic!(conn, -> QueryResult<()>, async {
                    C::insert(conn, id).await?;
                    if hooks {
                        note(&log, 1);
                        note(&log, 2).after_rollback(conn)?;
                    }
                    if below { conn.inner_mut().batch_execute(sql).await } else { conn.batch_execute(sql).await }
                })
                .await;
                assert_eq!(refusal(&result), "EndedEarly", "{context}");
                assert_eq!(log.ran(), NOTHING, "{context}");
                assert_eq!(db.committed().contains(&id), sql == "COMMIT", "{context}");
                assert_eq!(conn.last_report().not_run().len(), if hooks { 2 } else { 0 }, "{context}");
                assert_clean_async(db, conn, &log).await;
                SimpleAsyncConnection::batch_execute(conn, "DELETE FROM witness WHERE id > 999").await.unwrap();
            }
        }
    }
}

/// A row that violates a constraint which is looked at by COMMIT only.
const DEFERRED_CONSTRAINT: &str = "CREATE TABLE child (id INTEGER PRIMARY KEY, \
     parent INTEGER NOT NULL REFERENCES witness (id) DEFERRABLE INITIALLY DEFERRED)";

async fn e06_a_deferred_constraint<C: AsyncDatabase>(db: &Scratch<C::Blocking>, setup: &str) {
    let conn = &mut db.connect_async::<C>().await;
    conn.batch_execute(DEFERRED_CONSTRAINT).await.unwrap();
    conn.batch_execute(setup).await.unwrap();
    for hooks in [true, false] {
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 1).await?;
            if hooks {
                note(&log, 1);
                note(&log, 2).after_rollback(conn)?;
            }
            conn.batch_execute("INSERT INTO child VALUES (1, 77)").await
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, diesel::result::Error::DatabaseError(..)), "the database's own error: {error:?}");
        assert_eq!(log.ran(), if hooks { vec![2] } else { vec![] });
        assert!(conn.last_report().is_clean(), "{}", conn.last_report());
        assert!(!db.committed().contains(&1));
        assert_clean_async(db, conn, &log).await;
    }
}

/// E6: a deferred foreign key, checked by COMMIT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e06_deferred_foreign_key_at_commit_on_sqlite() {
    let db = Scratch::new();
    e06_a_deferred_constraint::<diesel_deferred_tests::AsyncSqliteConnection>(&db, "PRAGMA foreign_keys = ON").await;
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::connection::SimpleConnection as _;
    use diesel::dsl::sql;
    use diesel::result::{DatabaseErrorKind, Error};
    use diesel::sql_types::Integer;
    use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, TransactionManager};
    use diesel_deferred::AsyncDeferredTransactionManager;
    use diesel_deferred_tests::{rolled_back, witness};
    use futures_util::StreamExt;

    use super::*;

    type Pg = Conn<AsyncPgConnection>;

    /// Fails at its second row.
    const LATE: &str = "SELECT 1 / (2 - n) FROM generate_series(1, 5) n";

    /// Runs blocks that swallow what `fail` does: with hooks and without, nested, and by Diesel's
    /// own method.
    async fn refused(what: &str, messages: usize, fail: impl AsyncFn(&mut Pg)) {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        for hooks in [true, false] {
            let context = format!("{what}, hooks: {hooks}");
            let log = Log::new();
            let block = async |conn: &mut Pg, id: i32| {
                atomic!(conn, -> QueryResult<()>, async {
                    if hooks {
                        note(&log, id);
                        note(&log, id + 1).after_rollback(conn)?;
                    }
                    fail(conn).await;
                    Ok(())
                })
                .await
            };
            let statements = record_async(conn);
            let result = block(conn, 1).await;
            assert_eq!(refusal(&result), "RolledBack", "{context}");
            assert!(result.unwrap_err().to_string().contains("the error was swallowed"), "{context}");
            let sent = statements.take();
            assert_eq!(sent[0], "BEGIN", "{context}");
            assert_eq!(sent.last().map(String::as_str), Some("ROLLBACK"), "{context}: {sent:?}");
            // BEGIN, the block's own, at most one message with the COMMIT, ROLLBACK.
            assert!(sent.len() <= 3 + messages, "{context}: {sent:?}");
            assert_eq!(log.ran(), if hooks { vec![2] } else { vec![] }, "{context}");
            assert_clean_async(db, conn, &log).await;

            // By hand, which is how other code and pools do it.
            AsyncDeferredTransactionManager::begin_transaction(conn).await.unwrap();
            fail(conn).await;
            let result = AsyncDeferredTransactionManager::commit_transaction(conn).await;
            // Most likely the transaction was dropped with it, which nobody would tell here.
            let expected = if what == "a statement that is dropped" { "Cancelled" } else { "RolledBack" };
            assert_eq!(refusal(&result), expected, "{context}");
            assert_clean_async(db, conn, &log).await;

            // E8: nested, the block around it goes on.
            let id = 10 + i32::from(hooks);
            let outer = atomic!(conn, -> QueryResult<()>, async {
                note(&log, id);
                assert_eq!(refusal(&block(conn, 3).await), "RolledBack", "{context}, nested");
                AsyncPgConnection::insert(conn, id).await
            })
            .await;
            assert_eq!(outer, Ok(()), "{context}");
            let expected = if hooks { vec![2, 4, id] } else { vec![id] };
            assert_eq!(log.ran(), expected, "{context}");
            assert!(db.committed().contains(&id), "{context}");
            assert_clean_async(db, conn, &log).await;
        }
        // In a test transaction.
        let log = Log::new();
        conn.begin_test_transaction().await.unwrap();
        let result = atomic!(conn, -> QueryResult<()>, async {
            note(&log, 1);
            fail(conn).await;
            Ok(())
        })
        .await;
        assert_eq!(refusal(&result), "RolledBack", "{what}, in a test transaction");
        atomic!(conn, async { AsyncPgConnection::insert(conn, 1).await }).await.unwrap();
        assert_eq!(log.ran(), NOTHING);
    }

    /// A6, E7: the error was there to be seen.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_an_error_that_is_swallowed() {
        refused("typed", 1, async |conn| {
            let twice = [witness::id.eq(7), witness::id.eq(7)];
            assert!(diesel::insert_into(witness::table).values(twice).execute(conn).await.is_err());
        })
        .await;
        refused("raw", 1, async |conn| {
            assert!(conn.batch_execute("SELECT * FROM nothing").await.is_err());
        })
        .await;
        refused("below", 1, async |conn| {
            assert!(conn.inner_mut().batch_execute("SELECT * FROM nothing").await.is_err());
        })
        .await;
    }

    /// A6, E7: a plain transaction, without a hook.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_the_method_transaction() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let statements = record_async(conn);
        let result = conn
            .transaction(async |conn| {
                assert_eq!(sql::<Integer>(LATE).get_result::<i32>(conn).await, Ok(1));
                QueryResult::Ok(())
            })
            .await;
        assert_eq!(refusal(&result), "RolledBack");
        let sent = statements.take();
        assert_eq!(sent.len(), 4, "{sent:?}");
        assert!(sent[2].starts_with("SAVEPOINT") && sent[2].ends_with("COMMIT") && sent[3] == "ROLLBACK", "{sent:?}");
        assert_clean_async(db, conn, &Log::new()).await;
    }

    /// A6: the error of a row that nobody reads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_an_error_behind_the_first_row() {
        refused("get_result", 1, async |conn| {
            assert_eq!(sql::<Integer>(LATE).get_result::<i32>(conn).await, Ok(1));
        })
        .await;
        refused("a dropped stream", 1, async |conn| {
            let mut rows = sql::<Integer>(LATE).load_stream::<i32>(conn).await.unwrap();
            assert_eq!(rows.next().await, Some(Ok(1)));
        })
        .await;
        refused("a stream that is not read", 1, async |conn| {
            drop(sql::<Integer>(LATE).load_stream::<i32>(conn).await.unwrap());
        })
        .await;
        refused("a statement that is dropped", 1, async |conn| {
            let query = conn.batch_execute("SELECT pg_sleep(0.05); SELECT 1 / 0");
            assert!(diesel_deferred_tests::cut(query, 1, diesel_deferred_tests::Moment::Waiting).await.is_none());
        })
        .await;
    }

    /// A6: what a statement did whose future was dropped is not known, in a block that goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_a_dropped_statement_is_a_doubt() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let statements = record_async(conn);
        for dropped in [false, true] {
            let result = atomic!(conn, -> QueryResult<()>, async {
                if dropped {
                    let insert = AsyncPgConnection::insert(conn, 8);
                    let _ = diesel_deferred_tests::cut(insert, 1, diesel_deferred_tests::Moment::Waiting).await;
                }
                Ok(())
            })
            .await;
            assert_eq!(result, Ok(()));
            assert_eq!(statements.take().last().is_some_and(|sent| sent.starts_with("SAVEPOINT")), dropped);
        }
    }

    /// E11: the server goes away in a COMMIT, also in one that nothing waits for.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e11_a_connection_lost_in_commit_is_unknown() {
        let db = &Scratch::<PgConnection>::new();
        let die = "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END $$; \
                   CREATE CONSTRAINT TRIGGER die AFTER INSERT ON witness DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION die()";
        db.observer().batch_execute(die).unwrap();
        for hooks in [true, false] {
            let conn = &mut db.connect_async::<AsyncPgConnection>().await;
            let log = Log::new();
            let result = atomic!(conn, -> QueryResult<()>, async {
                if hooks {
                    note(&log, 1);
                }
                AsyncPgConnection::insert(conn, 1).await
            })
            .await;
            assert_eq!(refusal(&result), "Unknown", "hooks: {hooks}");
            assert_eq!((log.ran(), conn.last_report().not_run().len()), (NOTHING.to_vec(), usize::from(hooks)));
        }
    }

    /// A6: pipelined, past the wrapper.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a06_an_error_in_a_pipeline() {
        refused("pipeline", 2, async |conn| {
            let good = sql::<Integer>("SELECT 1");
            let bad = sql::<Integer>("SELECT 1 / 0");
            let (mut first, mut second) = (&**conn, &**conn);
            let (good, bad) = tokio::join!(good.get_result::<i32>(&mut first), bad.get_result::<i32>(&mut second));
            assert_eq!(good, Ok(1));
            assert!(bad.is_err());
        })
        .await;
        refused("pipeline, unseen", 1, async |conn| {
            let late = sql::<Integer>(LATE);
            assert_eq!(late.get_result::<i32>(&mut &**conn).await, Ok(1));
        })
        .await;
    }

    /// E8: also when the aborted savepoint was rolled back by an error of the block's own.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e08_an_aborted_savepoint_that_fails_is_over() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let log = Log::new();
        atomic!(conn, -> QueryResult<()>, async {
            let inner: QueryResult<()> = atomic!(conn, async {
                assert!(conn.batch_execute("no SQL").await.is_err());
                rolled_back()
            })
            .await;
            assert_eq!(inner, rolled_back());
            note(&log, 1);
            AsyncPgConnection::insert(conn, 1).await
        })
        .await
        .unwrap();
        assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
    }

    /// E6: a deferred foreign key, checked by COMMIT.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e06_deferred_foreign_key_at_commit() {
        e06_a_deferred_constraint::<AsyncPgConnection>(&Scratch::new(), "SELECT 1").await;
    }

    /// E6: a COMMIT that the server refuses has ended the transaction: no ROLLBACK is sent behind
    /// it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e06_a_refused_commit_is_the_last_message() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        db.observer().batch_execute(DEFERRED_CONSTRAINT).unwrap();
        let statements = record_async(conn);
        for hooks in [true, false] {
            let log = Log::new();
            let result = atomic!(conn, -> QueryResult<()>, async {
                if hooks {
                    note(&log, 1);
                }
                SimpleAsyncConnection::batch_execute(conn, "INSERT INTO child VALUES (1, 77)").await
            })
            .await;
            assert!(
                matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _))),
                "{result:?}"
            );
            let sent = statements.take();
            assert!(sent.last().is_some_and(|last| last.ends_with("COMMIT")), "{sent:?}");
            assert_eq!(sent.len(), 3, "{sent:?}");
            assert_clean_async(db, conn, &log).await;
            statements.take();
        }
    }

    /// E6, E13: two transactions read what the other writes; the second COMMIT is refused, and the
    /// block runs again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e13_serialization_failure_at_commit() {
        let db = Scratch::<PgConnection>::new();
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let mut next = 0;
        for hooks in [true, false] {
            for retries in [0, 3] {
                let log = Log::new();
                let mut attempts = 0;
                let result = atomic!(conn, isolation = Serializable, retries = retries, -> QueryResult<()>, async {
                    attempts += 1;
                    if hooks {
                        note(&log, attempts);
                        note(&log, 10 + attempts).after_rollback(conn)?;
                    }
                    let _: Vec<i32> = witness::table.select(witness::id).load(conn).await?;
                    next += 1;
                    if attempts == 1 {
                        let other = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM witness; \
                                     INSERT INTO witness SELECT -count(*) - 50 FROM witness; COMMIT";
                        db.observer().batch_execute(other)?;
                    }
                    AsyncPgConnection::insert(conn, next).await
                })
                .await;
                if retries == 0 {
                    let expected =
                        matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)));
                    assert!(expected, "{result:?}");
                    assert_eq!(log.ran(), if hooks { vec![11] } else { vec![] });
                } else {
                    assert_eq!(result, Ok(()));
                    assert_eq!(attempts, 2);
                    assert_eq!(log.ran(), if hooks { vec![11, 2] } else { vec![] });
                }
                assert_clean_async(&db, conn, &log).await;
            }
        }
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel::connection::SimpleConnection as _;
    use diesel_async::{AsyncMysqlConnection, RunQueryDsl};
    use diesel_deferred_tests::{Opponent, witness};

    use super::*;

    type Mysql = Conn<AsyncMysqlConnection>;

    #[derive(Debug, Clone, Copy)]
    enum Way {
        Typed,
        Raw,
        Below,
    }

    /// Loses a deadlock, and says nothing of it.
    async fn lose(conn: &mut Mysql, opponent: Opponent, way: Way) {
        conn.batch_execute("UPDATE witness SET id = id WHERE id = 1").await.unwrap();
        opponent.meet();
        let second = "UPDATE witness SET id = id WHERE id = 2";
        let lost = match way {
            Way::Typed => {
                let row = witness::table.find(2).select(witness::id).for_update();
                RunQueryDsl::first::<i32>(row, conn).await.map(drop)
            }
            Way::Raw => conn.batch_execute(second).await,
            Way::Below => conn.inner_mut().batch_execute(second).await,
        };
        assert!(lost.unwrap_err().to_string().contains("Deadlock found"));
        opponent.won();
    }

    /// A6, E7: a deadlock that is swallowed: the server has rolled back all of it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e07_a_swallowed_deadlock() {
        for (way, nested) in
            [(Way::Typed, false), (Way::Raw, false), (Way::Below, false), (Way::Typed, true), (Way::Raw, true)]
        {
            let db = &Scratch::<MysqlConnection>::new();
            let conn = &mut db.connect_async::<AsyncMysqlConnection>().await;
            for hooks in [true, false] {
                let context = format!("{way:?}, nested: {nested}, hooks: {hooks}");
                let log = Log::new();
                let opponent = Opponent::new(db);
                let result = atomic!(conn, -> QueryResult<()>, async {
                    AsyncMysqlConnection::insert(conn, 3).await?;
                    if hooks {
                        note(&log, 3);
                    }
                    if nested {
                        let inner = atomic!(conn, -> QueryResult<()>, async {
                            lose(conn, opponent, way).await;
                            Ok(())
                        });
                        assert_eq!(refusal(&inner.await), "RolledBack", "{context}");
                    } else {
                        lose(conn, opponent, way).await;
                    }
                    Ok(())
                })
                .await;
                // Below the wrapper nobody saw why.
                let expected = if matches!(way, Way::Below) { "EndedEarly" } else { "RolledBack" };
                assert_eq!(refusal(&result), expected, "{context}");
                assert_eq!(log.ran(), NOTHING, "{context}");
                assert!(!db.committed().contains(&3), "{context}");
                assert_clean_async(db, conn, &log).await;
            }
        }
    }

    /// E10: DDL commits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e10_ddl_ends_the_transaction() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect_async::<AsyncMysqlConnection>().await;
        for hooks in [true, false] {
            let log = Log::new();
            let id = 1 + i32::from(hooks);
            let result = atomic!(conn, -> QueryResult<()>, async {
                AsyncMysqlConnection::insert(conn, id).await?;
                if hooks {
                    note(&log, 1);
                }
                conn.batch_execute(&format!("CREATE TABLE other_{id} (id INTEGER)")).await
            })
            .await;
            assert_eq!(refusal(&result), "EndedEarly", "hooks: {hooks}");
            assert_eq!(log.ran(), NOTHING);
            assert!(db.committed().contains(&id));
            assert_clean_async(db, conn, &log).await;
            db.observer().batch_execute("DELETE FROM witness WHERE id > 999").unwrap();
        }
    }
}
