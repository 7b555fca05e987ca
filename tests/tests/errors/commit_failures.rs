//! COMMITs that fail and say so.

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{CommitError, DeferredTransactionManager, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, refusal, rolled_back,
};

on_every_database! {
    e14_a_failing_before_commit_hook_aborts_the_commit,
    e14_before_commit_hooks_run_in_the_transaction,
    e14_a_before_commit_hook_that_ends_the_transaction_is_refused,
    e14_a_before_commit_hook_that_leaves_one_open_is_refused,
}

/// E14: everything is dropped, the hook's own error is what the block returns.
fn e14_a_failing_before_commit_hook_aborts_the_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for (id, error) in [(1, Error::NotFound), (2, Error::NotInTransaction)] {
        let text = error.to_string();
        let result = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, id)?;
            note(&log, 1);
            note(&log, 2).after_rollback(conn)?;
            conn.before_commit(move |_| Err(error))?;
            let not_reached = noting(&log, 3);
            conn.before_commit(move |conn| {
                not_reached(conn);
                Ok(())
            })
        });
        let error = result.unwrap_err();
        assert!(CommitError::of(&error).is_none(), "{error}");
        assert_eq!(error.to_string(), text);
        assert_clean(db, conn, &log);
    }
    assert_eq!(log.ran(), [2, 2]);
    assert!(db.committed().iter().all(|id| *id > 2));
}

/// E14: just before the outermost COMMIT, in order; they may register more.
fn e14_before_commit_hooks_run_in_the_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        for id in [1, 2] {
            let log = log.clone();
            conn.before_commit(move |conn| {
                assert!(conn.in_transaction());
                log.push(id);
                let inner = log.clone();
                conn.before_commit(move |conn| {
                    inner.push(id + 10);
                    atomic!(conn, {
                        note(&inner, id + 20);
                        C::insert(conn, id)
                    })
                })
            })?;
        }
        atomic!(conn, -> QueryResult<()>, {
            let log = log.clone();
            conn.before_commit(move |_| {
                log.push(3);
                Ok(())
            })
        })?;
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 11, 12, 21, 22]);
    assert_eq!(db.committed(), [1, 2]);
    assert_clean(db, conn, &log);
}

/// E14, E9: nothing may be committed behind the proof's back.
fn e14_a_before_commit_hook_that_ends_the_transaction_is_refused<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for by_hand in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            conn.before_commit(move |conn| {
                if by_hand {
                    DeferredTransactionManager::rollback_transaction(conn)
                } else {
                    conn.batch_execute("COMMIT")
                }
            })
        });
        assert_eq!(refusal(&result), "EndedEarly", "by hand: {by_hand}");
        assert_eq!(log.ran(), NOTHING);
        assert_clean(db, conn, &log);
    }
}

/// E14: what it left open is not committed, so nothing is.
fn e14_a_before_commit_hook_that_leaves_one_open_is_refused<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        conn.before_commit(move |conn| {
            DeferredTransactionManager::begin_transaction(conn)?;
            C::insert(conn, 2)
        })
    });
    assert_eq!(refusal(&result), "LeftOpen");
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// A row that violates a constraint which is looked at by COMMIT only.
const DEFERRED_CONSTRAINT: &str = "CREATE TABLE child (id INTEGER PRIMARY KEY, \
     parent INTEGER NOT NULL REFERENCES witness (id) DEFERRABLE INITIALLY DEFERRED)";

fn e06_a_deferred_constraint<C: Database>(db: &Scratch<C>, setup: &str) {
    db.observer().batch_execute(DEFERRED_CONSTRAINT).unwrap();
    let conn = &mut db.connect();
    conn.batch_execute(setup).unwrap();
    // With and without hooks: with and without a proof in the message.
    for hooks in [true, false] {
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            if hooks {
                note(&log, 1);
                let rollback = log.clone();
                conn.after_rollback(move |conn| -> QueryResult<()> {
                    rollback.push(2);
                    assert!(!conn.in_transaction());
                    C::insert(conn, 2)
                })?;
            }
            conn.batch_execute("INSERT INTO child VALUES (1, 77)")
        });
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DatabaseError(..)), "the database's own error: {error:?}");
        assert_eq!(log.ran(), if hooks { vec![2] } else { vec![] });
        assert!(conn.last_report().is_clean(), "{}", conn.last_report());
        assert!(!db.committed().contains(&1));
        assert_clean(db, conn, &log);
    }
    // By hand, as a pool does it: no block is there to clean up.
    let log = Log::new();
    DeferredTransactionManager::begin_transaction(conn).unwrap();
    note(&log, 1).after_commit(conn).unwrap();
    conn.after_rollback(noting(&log, 2)).unwrap();
    conn.batch_execute("INSERT INTO child VALUES (1, 77)").unwrap();
    assert!(DeferredTransactionManager::commit_transaction(conn).is_err());
    assert_eq!(log.ran(), [2]);
    assert_clean(db, conn, &log);
    // Caught in a block of its own the COMMIT behind it is fine.
    atomic!(conn, -> QueryResult<()>, {
        let inner = atomic!(conn, -> QueryResult<()>, {
            conn.batch_execute("INSERT INTO child VALUES (1, 77)")?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        Ok(())
    })
    .unwrap();
}

mod on_sqlite {
    use super::*;

    /// E6: a deferred foreign key, checked by COMMIT.
    #[test]
    fn e06_deferred_foreign_key_at_commit() {
        e06_a_deferred_constraint(&Scratch::<SqliteConnection>::new(), "PRAGMA foreign_keys = ON");
    }

    /// E6: a reader keeps COMMIT from getting its exclusive lock.
    #[test]
    fn e06_busy_at_commit() {
        let db = Scratch::<SqliteConnection>::new();
        db.observer().batch_execute("PRAGMA journal_mode = DELETE; INSERT INTO witness VALUES (9)").unwrap();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut reader = db.observer();
        reader.batch_execute("BEGIN; SELECT * FROM witness").unwrap();
        let result = atomic!(conn, -> QueryResult<()>, {
            SqliteConnection::insert(conn, 1)?;
            note(&log, 1);
            conn.after_rollback(noting(&log, 2))
        });
        assert_eq!(result.unwrap_err().to_string(), "database is locked");
        assert_eq!(log.ran(), [2]);
        reader.batch_execute("COMMIT").unwrap();
        assert_eq!(db.committed(), [9]);
        assert_clean(&db, conn, &log);
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;

    /// E6: a deferred foreign key, checked by COMMIT.
    #[test]
    fn e06_deferred_foreign_key_at_commit() {
        e06_a_deferred_constraint(&Scratch::<PgConnection>::new(), "SELECT 1");
    }

    /// E6: two transactions read what the other writes; the second COMMIT is refused.
    #[test]
    fn e06_serialization_failure_at_commit() {
        let db = Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        for hooks in [true, false] {
            let log = Log::new();
            let mut other = db.observer();
            let result = atomic!(conn, isolation = Serializable, -> QueryResult<()>, {
                if hooks {
                    note(&log, 1);
                    conn.after_rollback(noting(&log, 2))?;
                }
                PgConnection::witnesses(conn.inner_mut());
                PgConnection::insert(conn, 1)?;
                other.batch_execute(
                    "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM witness; \
                     INSERT INTO witness SELECT count(*) + 50 FROM witness; COMMIT",
                )
            });
            assert!(
                matches!(result, Err(Error::DatabaseError(diesel::result::DatabaseErrorKind::SerializationFailure, _))),
                "{result:?}"
            );
            assert_eq!(log.ran(), if hooks { vec![2] } else { vec![] });
            assert!(!db.committed().contains(&1));
            assert_clean(&db, conn, &log);
        }
    }
}
