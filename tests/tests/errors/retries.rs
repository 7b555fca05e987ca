//! E13: `retries` runs the outermost block again, and only the attempt that commits runs its hooks.

use std::sync::{Arc, Mutex};

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, refusal};

on_every_database! {
    e13_other_errors_are_not_retried,
}

/// E13: an error of the block that is no conflict comes out at once; so does one that only looks
/// like it.
fn e13_other_errors_are_not_retried<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let mut attempts = 0;
    let result: QueryResult<()> = atomic!(conn, retries = 5, {
        attempts += 1;
        note(&log, 1);
        C::insert(conn, 1)?;
        C::insert(conn, 1)
    });
    assert!(matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{result:?}");
    let result: QueryResult<()> = atomic!(conn, retries = 5, {
        attempts += 1;
        note(&log, 2);
        Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, Box::new(String::from("not the database's"))))
    });
    assert!(result.is_err());
    assert_eq!(attempts, 2);
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log);
}

/// What an attempt registers: a commit hook with its number, and a rollback hook that opens a
/// transaction of its own.
fn register<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, attempt: i32) -> QueryResult<()> {
    note(log, attempt).after_commit(conn)?;
    let log = log.clone();
    conn.after_rollback(move |conn| -> QueryResult<()> {
        atomic!(conn, outermost, {
            note(&log, attempt + 100);
            Ok(())
        })
    })
}

/// Does `when` when a statement that begins with `sql` has failed.
fn on_failure<C: Database>(conn: &mut DeferredConnection<C>, sql: &'static str, when: impl FnMut() + Send + 'static) {
    let when = Arc::new(Mutex::new(when));
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::FinishQuery { query, error: Some(_), .. } = event
            && query.to_string().starts_with(sql)
        {
            when.lock().unwrap()();
        }
    });
}

mod on_sqlite {
    use super::*;

    fn locked(db: &Scratch<SqliteConnection>) -> SqliteConnection {
        let mut other = db.observer();
        other.batch_execute("BEGIN IMMEDIATE").unwrap();
        other
    }

    /// E13: BUSY at BEGIN IMMEDIATE: the block has not even started.
    #[test]
    fn e13_busy_at_begin() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut other = locked(db);
        on_failure(conn, "BEGIN", move || other.batch_execute("ROLLBACK").unwrap());
        let mut attempts = 0;
        atomic!(conn, immediate, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            register(conn, &log, attempts)?;
            SqliteConnection::insert(conn, attempts)
        })
        .unwrap();
        assert_eq!((attempts, log.ran(), db.committed()), (1, vec![1], vec![1]));
        assert_clean(db, conn, &log);
    }

    /// E13: BUSY at a statement.
    #[test]
    fn e13_busy_at_a_statement() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut other = locked(db);
        let mut attempts = 0;
        atomic!(conn, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            register(conn, &log, attempts)?;
            let result = SqliteConnection::insert(conn, attempts);
            if attempts == 2 {
                other.batch_execute("ROLLBACK").unwrap();
            }
            result
        })
        .unwrap();
        assert_eq!((attempts, log.ran(), db.committed()), (3, vec![101, 102, 3], vec![3]));
        assert_clean(db, conn, &log);
    }

    /// E13: BUSY at COMMIT, because of a reader.
    #[test]
    fn e13_busy_at_commit() {
        let db = &Scratch::<SqliteConnection>::new();
        db.observer().batch_execute("PRAGMA journal_mode = DELETE; INSERT INTO witness VALUES (9)").unwrap();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut reader = db.observer();
        reader.batch_execute("BEGIN; SELECT * FROM witness").unwrap();
        on_failure(conn, "COMMIT", move || reader.batch_execute("COMMIT").unwrap());
        let mut attempts = 0;
        atomic!(conn, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            register(conn, &log, attempts)?;
            SqliteConnection::insert(conn, attempts)
        })
        .unwrap();
        assert_eq!((attempts, log.ran(), db.committed()), (2, vec![101, 2], vec![2, 9]));
        assert_clean(db, conn, &log);
    }

    /// E13: the last attempt's error comes out, and no hook of any attempt runs.
    #[test]
    fn e13_retries_are_counted() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut other = locked(db);
        let mut attempts = 0;
        let result = atomic!(conn, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            note(&log, attempts);
            SqliteConnection::insert(conn, attempts)
        });
        assert_eq!(result.unwrap_err().to_string(), "database is locked");
        assert_eq!((attempts, log.ran()), (4, NOTHING.to_vec()));
        let result = atomic!(conn, retries = 0, -> QueryResult<()>, {
            attempts += 1;
            SqliteConnection::insert(conn, attempts)
        });
        assert!(result.is_err());
        assert_eq!(attempts, 5);
        other.batch_execute("ROLLBACK").unwrap();
        assert_clean(db, conn, &log);
    }

    /// E13: nested, only the outermost runs again.
    #[test]
    fn e13_an_inner_block_is_not_retried() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut other = locked(db);
        let (mut outer, mut inner) = (0, 0);
        atomic!(conn, retries = 3, -> QueryResult<()>, {
            outer += 1;
            let result = atomic!(conn, retries = 3, -> QueryResult<()>, {
                inner += 1;
                note(&log, inner);
                SqliteConnection::insert(conn, inner)
            });
            if outer == 2 {
                other.batch_execute("ROLLBACK").unwrap();
            }
            result
        })
        .unwrap();
        assert_eq!((outer, inner, log.ran(), db.committed()), (3, 3, vec![3], vec![3]));
        assert_clean(db, conn, &log);
    }

    /// E13, E9: a conflict was met and survived, and then the block committed by hand: running it
    /// again would do it twice.
    #[test]
    fn e13_what_may_be_committed_is_not_run_again() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut attempts = 0;
        for fail in [false, true] {
            let mut other = locked(db);
            let result = atomic!(conn, retries = 3, -> QueryResult<()>, {
                attempts += 1;
                conn.after_rollback(noting(&log, 1))?;
                assert_eq!(SqliteConnection::insert(conn, 1).unwrap_err().to_string(), "database is locked");
                other.batch_execute("ROLLBACK").unwrap();
                SqliteConnection::insert(conn, attempts)?;
                conn.batch_execute("COMMIT")?;
                if fail { Err(Error::RollbackTransaction) } else { Ok(()) }
            });
            if fail {
                assert_eq!(result, Err(Error::RollbackTransaction));
            } else {
                assert_eq!(refusal(&result), "EndedEarly");
            }
            assert_clean(db, conn, &log);
        }
        assert_eq!((attempts, log.ran()), (2, NOTHING.to_vec()));
        assert_eq!(db.committed()[..2], [1, 2]);
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;

    /// In a serializable transaction of its own: reads all witnesses and writes one.
    const RIVAL: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM witness; \
                         INSERT INTO witness SELECT count(*) + 50 FROM witness; COMMIT";

    /// E13: a serialisation failure, at COMMIT or at the statement behind the rival's commit.
    #[test]
    fn e13_serialization_failure() {
        for at_commit in [true, false] {
            let db = &Scratch::<PgConnection>::new();
            let conn = &mut db.connect();
            let log = Log::new();
            let mut attempts = 0;
            atomic!(conn, isolation = Serializable, retries = 3, -> QueryResult<()>, {
                attempts += 1;
                register(conn, &log, attempts)?;
                PgConnection::witnesses(conn.inner_mut());
                PgConnection::insert(conn, attempts)?;
                if attempts < 3 {
                    db.observer().batch_execute(RIVAL)?;
                }
                if !at_commit {
                    PgConnection::insert(conn, attempts + 10)?;
                }
                Ok(())
            })
            .unwrap();
            assert_eq!((attempts, log.ran()), (3, vec![101, 102, 3]), "at COMMIT: {at_commit}");
            assert_eq!(db.committed(), if at_commit { vec![3, 50, 51] } else { vec![3, 13, 50, 51] });
            assert_clean(db, conn, &log);
        }
    }

    /// E13: a deadlock, which Diesel has no kind for. The one who waits longer than
    /// `deadlock_timeout` gives up.
    #[test]
    fn e13_deadlock() {
        let db = &Scratch::<PgConnection>::new();
        db.observer().batch_execute("INSERT INTO witness VALUES (1), (2)").unwrap();
        let conn = &mut db.connect();
        conn.batch_execute("SET deadlock_timeout = '1ms'").unwrap();
        let log = Log::new();
        let mut attempts = 0;
        let mut rival = None;
        atomic!(conn, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            register(conn, &log, attempts)?;
            conn.batch_execute("UPDATE witness SET id = id WHERE id = 1")?;
            if attempts == 1 {
                let mut other = db.observer();
                other
                    .batch_execute("SET deadlock_timeout = '1h'; BEGIN; UPDATE witness SET id = id WHERE id = 2")
                    .unwrap();
                let pid: i32 = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"))
                    .get_result(&mut other)
                    .unwrap();
                rival = Some(std::thread::spawn(move || {
                    other.batch_execute("UPDATE witness SET id = id WHERE id = 1; ROLLBACK").unwrap();
                }));
                wait_until_blocked(&mut db.observer(), pid);
            }
            conn.batch_execute("UPDATE witness SET id = id WHERE id = 2")
        })
        .unwrap();
        rival.unwrap().join().unwrap();
        assert_eq!((attempts, log.ran()), (2, vec![101, 2]));
        assert_clean(db, conn, &log);
    }

    /// E13, E11: on a broken connection another attempt would only hide why it is broken.
    #[test]
    fn e13_a_broken_connection_is_not_tried_again() {
        let db = &Scratch::<PgConnection>::new();
        db.observer().batch_execute("INSERT INTO witness VALUES (1)").unwrap();
        let conn = &mut db.connect();
        let mut attempts = 0;
        let result = atomic!(conn, isolation = RepeatableRead, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            PgConnection::witnesses(conn.inner_mut());
            db.observer().batch_execute("UPDATE witness SET id = id")?;
            let inner = atomic!(conn, { conn.batch_execute("UPDATE witness SET id = id") });
            assert!(inner.is_err(), "a serialisation failure");
            PgConnection::kill(conn, &mut db.observer());
            PgConnection::insert(conn, 2)
        });
        assert!(matches!(result, Err(Error::DatabaseError(..))), "the statement's error: {result:?}");
        assert_eq!(attempts, 1);
    }

    /// Until the server says that this backend waits for a lock.
    fn wait_until_blocked(conn: &mut PgConnection, pid: i32) {
        let blocked = format!("cardinality(pg_blocking_pids({pid})) > 0");
        let blocked = || diesel::select(diesel::dsl::sql::<diesel::sql_types::Bool>(&blocked));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !blocked().get_result::<bool>(conn).unwrap() {
            assert!(std::time::Instant::now() < deadline, "the rival does not wait");
        }
    }

    /// E13, E9: a serialisation failure survived in a savepoint, and then a raw COMMIT.
    #[test]
    fn e13_what_may_be_committed_is_not_run_again() {
        let db = &Scratch::<PgConnection>::new();
        db.observer().batch_execute("INSERT INTO witness VALUES (1)").unwrap();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut attempts = 0;
        let result = atomic!(conn, isolation = RepeatableRead, retries = 3, -> QueryResult<()>, {
            attempts += 1;
            note(&log, 1);
            conn.after_rollback(noting(&log, 2))?;
            PgConnection::witnesses(conn.inner_mut());
            db.observer().batch_execute("UPDATE witness SET id = id")?;
            let inner = atomic!(conn, { conn.batch_execute("UPDATE witness SET id = id") });
            assert!(matches!(inner, Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _))));
            PgConnection::insert(conn, 2)?;
            conn.batch_execute("COMMIT")
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!((attempts, log.ran(), db.committed()), (1, NOTHING.to_vec(), vec![1, 2]));
        assert_clean(db, conn, &log);
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel_deferred_tests::Opponent;

    use super::*;

    /// E13: a deadlock, through a typed query and through raw SQL, handed on or swallowed.
    #[test]
    fn e13_deadlock() {
        for (typed, swallow) in [(true, false), (true, true), (false, false), (false, true)] {
            let db = &Scratch::<MysqlConnection>::new();
            let conn = &mut db.connect();
            let log = Log::new();
            let mut attempts = 0;
            let mut opponents = vec![Opponent::new(db)];
            atomic!(conn, retries = 3, -> QueryResult<()>, {
                attempts += 1;
                register(conn, &log, attempts)?;
                MysqlConnection::insert(conn, attempts + 10)?;
                if let Some(opponent) = opponents.pop() {
                    let error = opponent.beat(conn, |conn, sql| {
                        if typed { diesel::sql_query(sql).execute(conn).map(drop) } else { conn.batch_execute(sql) }
                    });
                    if !swallow {
                        return Err(error);
                    }
                }
                Ok(())
            })
            .unwrap();
            assert_eq!((attempts, log.ran()), (2, vec![101, 2]), "typed: {typed}, swallow: {swallow}");
            assert_eq!(db.committed(), [1, 2, 12]);
            assert_clean(db, conn, &log);
        }
    }
}
