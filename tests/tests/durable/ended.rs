//! Commits that do not commit, with durable calls waiting: no row is stored that its transaction
//! did not take along.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, DeferredTransactionManager, HookKind, atomic};
use diesel_deferred_tests::{Database, Scratch, on_every_database, refusal, rolled_back};

use crate::tasks::{assert_usable, count, first, firsts, ready, stored};

on_every_database! {
    e07_a_swallowed_error_stores_nothing_that_is_lost,
    e08_an_error_in_a_rolled_back_savepoint_is_over,
    e09_raw_sql_that_ends_the_transaction_stores_nothing,
    e09_in_a_nested_block,
    e09_and_the_block_fails_or_panics,
    e09_a_call_behind_the_end_is_reported,
    e12_a_replaced_connection_takes_its_calls_along,
    e05_a_panic_stores_nothing,
    c02_an_error_stores_nothing,
    c20_a_transaction_by_hand,
}

type Conn<C> = DeferredConnection<C>;

/// The calls that are reported as not stored.
pub fn lost<C>(conn: &Conn<C>) -> Vec<String> {
    let calls = conn.last_report().not_run().iter().filter(|hook| hook.kind == HookKind::Durable);
    calls.map(|hook| format!("{} {}", hook.task, hook.arguments)).collect()
}

/// E7: PostgreSQL aborts the transaction, the others only the statement.
fn e07_a_swallowed_error_stores_nothing_that_is_lost<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for raw in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            first(1);
            let failed = if raw { conn.batch_execute("no SQL") } else { C::insert(conn, 1) };
            assert!(failed.is_err());
            first(2);
            Ok(())
        });
        if C::NAME == "PostgreSQL" {
            assert_eq!(refusal(&result), "RolledBack");
            assert_eq!((stored(db).len(), lost(conn).len()), (0, 0));
        } else {
            assert_eq!(result, Ok(()));
            assert_eq!(stored(db), firsts([1, 2]));
        }
        db.run_sql("DELETE FROM witness");
        db.run_sql("DELETE FROM deferred_tasks");
        assert_usable(db, conn);
    }
}

/// E8
fn e08_an_error_in_a_rolled_back_savepoint_is_over<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        first(1);
        let inner = atomic!(conn, -> QueryResult<()>, {
            first(2);
            C::insert(conn, 1)
        });
        assert!(inner.is_err());
        first(3);
        Ok(())
    })
    .unwrap();
    assert_eq!(stored(db), firsts([1, 3]));
}

type Ways<C> = [(&'static str, fn(&mut Conn<C>, &str) -> QueryResult<()>); 3];

/// The ways past Diesel's bookkeeping.
fn ways<C: Database>() -> Ways<C> {
    [
        ("batch_execute", |conn, sql| conn.batch_execute(sql)),
        ("sql_query", C::execute_raw),
        ("inner_mut", |conn, sql| conn.inner_mut().batch_execute(sql)),
    ]
}

/// E9, D1: no row, which would be committed on its own; the calls are reported.
fn e09_raw_sql_that_ends_the_transaction_stores_nothing<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let mut id = 0;
    for (way, run) in ways::<C>() {
        for sql in ["COMMIT", "ROLLBACK"] {
            for plain in [true, false] {
                let context = format!("{sql} by {way}, plain: {plain}");
                let conn = &mut db.connect();
                id += 1;
                let block = |conn: &mut Conn<C>| {
                    C::insert(conn, id)?;
                    first(1).after_commit(conn)?;
                    run(conn, sql)?;
                    Ok(())
                };
                let result =
                    if plain { conn.transaction(block) } else { atomic!(conn, -> QueryResult<()>, { block(conn) }) };
                assert_eq!(refusal(&result), "EndedEarly", "{context}");
                assert_eq!(db.committed().contains(&id), sql == "COMMIT", "{context}");
                assert_eq!(count(db), 0, "{context}");
                assert_eq!(lost(conn), firsts([1]), "{context}");
                assert_usable(db, conn);
            }
        }
    }
}

/// E9: the block around the nested one is over as well.
fn e09_in_a_nested_block<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for end in [QueryResult::Ok(()), rolled_back()] {
        for before in [true, false] {
            let result = atomic!(conn, -> QueryResult<()>, {
                first(1);
                if before {
                    conn.batch_execute("COMMIT")?;
                }
                let inner = atomic!(conn, -> QueryResult<()>, {
                    first(2);
                    if !before {
                        conn.batch_execute("COMMIT")?;
                    }
                    first(3);
                    if end.is_ok() { Ok(()) } else { rolled_back() }
                });
                let _ = inner;
                first(4);
                Ok(())
            });
            assert_eq!(refusal(&result), "EndedEarly");
            // Diesel's PostgreSQL connection knows of the COMMIT, so that the nested block is one
            // of its own.
            let own = C::NAME == "PostgreSQL" && before && end.is_ok();
            assert_eq!(stored(db), if own { firsts([2, 3]) } else { vec![] });
            db.run_sql("DELETE FROM deferred_tasks");
            assert!(lost(conn).contains(&firsts([1])[0]), "{}", conn.last_report());
            assert!(lost(conn).contains(&firsts([4])[0]), "{}", conn.last_report());
            assert_usable(db, conn);
        }
    }
}

/// E9, E5: also where nobody wants it committed.
fn e09_and_the_block_fails_or_panics<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for (sql, panics) in [("COMMIT", true), ("COMMIT", false), ("ROLLBACK", true), ("ROLLBACK", false)] {
        let result = catch_unwind(AssertUnwindSafe(|| {
            atomic!(conn, -> QueryResult<()>, {
                first(1);
                conn.after_rollback(|_| ())?;
                conn.batch_execute(sql)?;
                if panics {
                    std::panic::resume_unwind(Box::new("in the block"));
                }
                rolled_back()
            })
        }));
        assert_eq!(result.is_err(), panics);
        assert_eq!(count(db), 0);
        assert_eq!(lost(conn), firsts([1]), "{sql}, panics: {panics}");
        assert_usable(db, conn);
    }
}

/// C20, E9: it belongs to nothing that could be committed, and must not wait for the next
/// transaction.
fn e09_a_call_behind_the_end_is_reported<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let result = atomic!(conn, -> QueryResult<()>, {
        DeferredTransactionManager::rollback_transaction(conn)?;
        first(1);
        assert!(first(2).after_commit(conn).is_err());
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!((count(db), lost(conn)), (0, firsts([1])));
    assert_usable(db, conn);
}

/// E12
fn e12_a_replaced_connection_takes_its_calls_along<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let result = atomic!(conn, -> QueryResult<()>, {
        first(1);
        *conn.inner_mut() = db.observer();
        first(2);
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!((count(db), lost(conn)), (0, firsts([1, 2])));
    assert_usable(db, conn);
}

/// E5
fn e05_a_panic_stores_nothing<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for nested in [true, false] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            atomic!(conn, -> QueryResult<()>, {
                first(1);
                let inner = catch_unwind(AssertUnwindSafe(|| {
                    atomic!(conn, -> QueryResult<()>, {
                        first(2);
                        std::panic::resume_unwind(Box::new("in the block"))
                    })
                }));
                if !nested {
                    std::panic::resume_unwind(inner.unwrap_err());
                }
                first(3);
                Ok(())
            })
        }));
        assert_eq!(panicked.is_err(), !nested);
    }
    assert_eq!(stored(db), firsts([1, 3]));
    assert_usable(db, conn);
}

/// C2, N4: not by that, the next, or any later transaction.
fn c02_an_error_stores_nothing<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for _ in 0..2 {
        let result = atomic!(conn, -> QueryResult<()>, {
            atomic!(conn, -> QueryResult<()>, {
                first(1);
                Ok(())
            })?;
            first(2);
            rolled_back()
        });
        assert_eq!(result, rolled_back());
        assert_usable(db, conn);
    }
    assert_eq!(count(db), 0);
}

/// C20, E12: as a pool does it, with Diesel's own functions.
fn c20_a_transaction_by_hand<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    DeferredTransactionManager::begin_transaction(conn).unwrap();
    first(1).after_commit(conn).unwrap();
    DeferredTransactionManager::begin_transaction(conn).unwrap();
    first(2).after_commit(conn).unwrap();
    DeferredTransactionManager::rollback_transaction(conn).unwrap();
    first(3).after_commit(conn).unwrap();
    assert_eq!(count(db), 0);
    DeferredTransactionManager::commit_transaction(conn).unwrap();
    assert_eq!(stored(db), firsts([1, 3]));
    DeferredTransactionManager::begin_transaction(conn).unwrap();
    first(4).after_commit(conn).unwrap();
    DeferredTransactionManager::rollback_transaction(conn).unwrap();
    assert_usable(db, conn);
    assert_eq!(stored(db), firsts([1, 3]));
}

mod on_sqlite {
    use super::*;

    /// E9: SQLite rolls back on its own.
    #[test]
    fn e09_insert_or_rollback() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut ready(db);
        conn.batch_execute("INSERT INTO witness VALUES (1)").unwrap();
        let result = atomic!(conn, -> QueryResult<()>, {
            first(1);
            let _ = diesel::sql_query("INSERT OR ROLLBACK INTO witness VALUES (1)").execute(conn);
            Ok(())
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!((count(db), lost(conn)), (0, firsts([1])));
        assert_usable(db, conn);
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;

    /// E7: an error that Diesel does not keep.
    #[test]
    fn e07_a_swallowed_error_of_copy() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut ready(db);
        let result = atomic!(conn, -> QueryResult<()>, {
            first(1);
            let _ = conn.inner_mut().batch_execute("SELECT 1 / 0");
            Ok(())
        });
        assert_eq!(refusal(&result), "RolledBack");
        assert_eq!(count(db), 0);
        assert_usable(db, conn);
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel_deferred_tests::Opponent;

    use super::*;

    /// E7: the server rolled everything back, and what follows is committed one by one.
    #[test]
    fn e07_a_swallowed_deadlock_stores_nothing() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut ready(db);
        for (nested, plain) in [(true, false), (false, false), (false, true)] {
            let opponent = Opponent::new(db);
            let block = |conn: &mut Conn<MysqlConnection>| {
                first(1).after_commit(conn)?;
                if nested {
                    let inner: QueryResult<()> = atomic!(conn, {
                        first(2);
                        Err(opponent.beat(conn, |conn, sql| conn.batch_execute(sql)))
                    });
                    assert!(inner.is_err());
                } else {
                    opponent.beat(conn, |conn, sql| conn.batch_execute(sql));
                }
                first(3).after_commit(conn)?;
                QueryResult::Ok(())
            };
            let result = if plain { conn.transaction(block) } else { atomic!(conn, { block(conn) }) };
            assert_eq!(refusal(&result), "RolledBack", "nested: {nested}, plain: {plain}");
            assert_eq!((count(db), lost(conn).len()), (0, 0), "nested: {nested}, plain: {plain}");
            assert_usable(db, conn);
        }
    }

    /// E10: DDL has committed what ran before it. What is called behind it would be a row without
    /// its transaction.
    #[test]
    fn e10_an_implicit_commit_stores_nothing() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut ready(db);
        let mut table = 0;
        for (way, run) in ways::<MysqlConnection>() {
            for plain in [true, false] {
                table += 1;
                let block = |conn: &mut Conn<MysqlConnection>| {
                    first(1).after_commit(conn)?;
                    run(conn, &format!("CREATE TABLE ddl_{table} (id INTEGER)"))?;
                    first(2).after_commit(conn)?;
                    QueryResult::Ok(())
                };
                let result = if plain { conn.transaction(block) } else { atomic!(conn, { block(conn) }) };
                assert_eq!(refusal(&result), "EndedEarly", "{way}, plain: {plain}");
                assert_eq!((count(db), lost(conn)), (0, firsts([1, 2])), "{way}, plain: {plain}");
                assert_usable(db, conn);
            }
        }
    }
}
