//! Transactions that end before their block does: raw SQL, DDL, a connection that is replaced.

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, DeferredTransactionManager, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, refusal, rolled_back,
};

on_every_database! {
    e09_raw_commit_and_rollback_are_refused,
    e09_nested_too,
    e09_a_later_nested_block_does_not_wipe_the_report,
    e09_a_nested_block_does_not_stand_in_for_the_one_that_ended,
    e09_rollback_hooks_do_not_run_after_a_raw_commit,
    e09_what_follows_in_the_block_reaches_no_other_transaction,
    e09_a_wrapped_transaction_that_is_over_is_refused,
    e12_a_replaced_connection_takes_its_hooks_along,
    e12_outside_of_a_transaction_replacing_is_harmless,
}

type Ways<C> = [(&'static str, fn(&mut DeferredConnection<C>, &str) -> QueryResult<()>); 3];

/// The ways past Diesel's bookkeeping.
fn ways<C: Database>() -> Ways<C> {
    [
        ("batch_execute", |conn, sql| conn.batch_execute(sql)),
        ("sql_query", C::execute_raw),
        ("inner_mut", |conn, sql| conn.inner_mut().batch_execute(sql)),
    ]
}

/// E9: an error that says so; the hooks run neither way, and are reported.
fn e09_raw_commit_and_rollback_are_refused<C: Database>(db: &Scratch<C>) {
    let mut id = 0;
    for (way, run) in ways::<C>() {
        for sql in ["COMMIT", "ROLLBACK"] {
            for hooks in [true, false] {
                let context = format!("{sql} by {way}, hooks: {hooks}");
                let conn = &mut db.connect();
                let log = Log::new();
                id += 10;
                let result = atomic!(conn, -> QueryResult<()>, {
                    C::insert(conn, id)?;
                    if hooks {
                        note(&log, 1);
                        conn.after_rollback(noting(&log, 2))?;
                    }
                    run(conn, sql)
                });
                assert_eq!(refusal(&result), "EndedEarly", "{context}");
                let text = result.unwrap_err().to_string();
                assert!(text.contains("a raw COMMIT") && text.contains("let `atomic!` begin and end"), "{text}");
                assert_eq!(log.ran(), NOTHING, "{context}");
                assert_eq!(db.committed().contains(&id), sql == "COMMIT", "{context}");
                let lost: Vec<_> = conn.last_report().not_run().iter().map(|hook| hook.kind).collect();
                let expected = [HookKind::AfterCommit, HookKind::AfterRollback];
                assert_eq!(lost, if hooks { &expected[..] } else { &[] }, "{context}");
                assert_clean(db, conn, &log);
                db.observer().batch_execute("DELETE FROM witness WHERE id > 999").unwrap();
            }
        }
    }
}

/// E9, E11: what was lost is still in the report when the outer block has returned.
fn e09_a_later_nested_block_does_not_wipe_the_report<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        let ended: QueryResult<()> = atomic!(conn, { conn.batch_execute("COMMIT") });
        assert_eq!(refusal(&ended), "EndedEarly");
        let _: QueryResult<()> = atomic!(conn, { Ok(()) });
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(conn.last_report().not_run().len(), 1, "{}", conn.last_report());
    assert_eq!(log.ran(), NOTHING);
    assert_clean(db, conn, &log);
}

/// E9: SQLite's savepoints begin a transaction where there is none, which must not pass for the one
/// that ended.
fn e09_a_nested_block_does_not_stand_in_for_the_one_that_ended<C: Database>(db: &Scratch<C>) {
    let log = Log::new();
    for nested_commits in [true, false] {
        for (id, sql, outer_commits) in [(1, "ROLLBACK", true), (2, "COMMIT", true), (3, "COMMIT", false)] {
            let conn = &mut db.connect();
            let result = atomic!(conn, -> QueryResult<()>, {
                C::insert(conn, id)?;
                note(&log, id);
                conn.after_rollback(noting(&log, -id))?;
                conn.batch_execute(sql)?;
                let _: QueryResult<()> = atomic!(conn, { if nested_commits { Ok(()) } else { rolled_back() } });
                if outer_commits { Ok(()) } else { rolled_back() }
            });
            let context = format!("{sql}, nested commits: {nested_commits}, outer: {outer_commits}");
            assert!(result.is_err(), "{context}");
            assert_eq!(log.ran(), NOTHING, "{context}");
            assert_eq!(db.committed().contains(&id), sql == "COMMIT", "{context}");
            assert_clean(db, conn, &log);
            db.observer().batch_execute("DELETE FROM witness").unwrap();
        }
    }
}

/// E9: the block around the nested one is over as well.
fn e09_nested_too<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for end in [QueryResult::Ok(()), rolled_back()] {
        let result = atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            conn.after_rollback(noting(&log, 2))?;
            let inner = atomic!(conn, -> QueryResult<()>, {
                note(&log, 3);
                conn.after_rollback(noting(&log, 4))?;
                conn.batch_execute("COMMIT")?;
                end
            });
            assert!(inner.is_err());
            Ok(())
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(conn.last_report().not_run().len(), 4, "{}", conn.last_report());
        assert_clean(db, conn, &log);
    }
}

/// E9: not when the block fails and not when it panics behind the raw COMMIT.
fn e09_rollback_hooks_do_not_run_after_a_raw_commit<C: Database>(db: &Scratch<C>) {
    for (way, run) in ways::<C>() {
        for panic in [true, false] {
            let conn = &mut db.connect();
            let log = Log::new();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                atomic!(conn, -> QueryResult<()>, {
                    note(&log, 1);
                    conn.after_rollback(noting(&log, 2))?;
                    run(conn, "COMMIT")?;
                    assert!(!panic, "in the block");
                    rolled_back()
                })
            }));
            match result {
                Ok(result) => assert_eq!(result, rolled_back(), "the block's own error, {way}"),
                Err(_) => assert!(panic),
            }
            assert_eq!(log.ran(), NOTHING, "{way}, panic: {panic}");
            assert_eq!(conn.last_report().not_run().len(), 2, "{way}, panic: {panic}");
            assert_clean(db, conn, &log);
        }
    }
}

/// E9: not even a transaction that the block begins by raw SQL.
fn e09_what_follows_in_the_block_reaches_no_other_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        conn.batch_execute("ROLLBACK")?;
        // A block of its own, as far as the connection can know; or refused.
        let _ = atomic!(conn, -> QueryResult<()>, { Ok(()) });
        note(&log, 2);
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(conn.last_report().not_run().len(), 2, "{}", conn.last_report());
    assert_clean(db, conn, &log);
}

/// E9: what happened before a connection was wrapped is not known, so that its COMMIT is proven.
fn e09_a_wrapped_transaction_that_is_over_is_refused<C: Database>(db: &Scratch<C>) {
    if C::NAME == "PostgreSQL" {
        // Diesel's own bookkeeping knows.
        return;
    }
    let mut inner = db.observer();
    <C as Connection>::TransactionManager::begin_transaction(&mut inner).unwrap();
    inner.batch_execute("COMMIT").unwrap();
    let conn = &mut DeferredConnection::new(inner);
    assert_eq!(refusal(&DeferredTransactionManager::commit_transaction(conn)), "EndedEarly");
    assert_clean(db, conn, &Log::new());
}

/// E12: replaced in a block: nothing that waited on the old one runs, and it is said so.
fn e12_a_replaced_connection_takes_its_hooks_along<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for end in [QueryResult::Ok(()), rolled_back()] {
        for nested in [true, false] {
            let replace = |conn: &mut DeferredConnection<C>| {
                C::insert(conn, 1)?;
                note(&log, 1).after_commit(conn)?;
                conn.after_rollback(noting(&log, 2))?;
                *conn.inner_mut() = db.observer();
                assert!(!conn.in_transaction());
                assert!(note(&log, 3).after_commit(conn).is_err());
                end.as_ref().map_err(|_| diesel::result::Error::RollbackTransaction).copied()
            };
            let result = atomic!(conn, -> QueryResult<()>, {
                if nested { atomic!(conn, { replace(conn) }) } else { replace(conn) }
            });
            match &end {
                Ok(()) => assert_eq!(refusal(&result), "EndedEarly"),
                Err(_) => assert_eq!(result, rolled_back()),
            }
            assert_eq!(log.ran(), NOTHING);
            assert_eq!(conn.last_report().not_run().len(), 2, "{}", conn.last_report());
            assert!(!db.committed().contains(&1));
            assert_clean(db, conn, &log);
        }
    }
}

/// E12: the new connection works as the old one did.
fn e12_outside_of_a_transaction_replacing_is_harmless<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    *conn.inner_mut() = db.observer();
    assert_clean(db, conn, &Log::new());
    let mut inner = std::mem::replace(conn, db.connect()).into_inner();
    inner.batch_execute("INSERT INTO witness VALUES (1)").unwrap();
    assert_clean(db, conn, &Log::new());
}

mod on_sqlite {
    use super::*;

    /// E9: SQLite rolls back on its own; the error that it gave for that is what the block returns.
    #[test]
    fn e09_insert_or_rollback() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        conn.batch_execute("INSERT INTO witness VALUES (1)").unwrap();
        for swallow in [true, false] {
            let result = atomic!(conn, -> QueryResult<()>, {
                SqliteConnection::insert(conn, 2)?;
                note(&log, 2);
                let result = diesel::sql_query("INSERT OR ROLLBACK INTO witness VALUES (1)").execute(conn);
                if swallow { Ok(()) } else { result.map(drop) }
            });
            if swallow {
                assert_eq!(refusal(&result), "EndedEarly");
            } else {
                let error = result.unwrap_err();
                assert!(error.to_string().contains("UNIQUE constraint"), "{error}");
            }
            assert_eq!(log.ran(), NOTHING);
            assert_eq!(conn.last_report().not_run().len(), 1);
            assert!(!db.committed().contains(&2));
            assert_clean(db, conn, &log);
        }
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;

    /// E9: a transaction that Diesel does not know of must not swallow the next block.
    #[test]
    fn e09_a_raw_begin_behind_a_raw_commit_is_cleaned_up() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        for end in [QueryResult::Ok(()), rolled_back()] {
            let result = atomic!(conn, -> QueryResult<()>, {
                note(&log, 1);
                conn.batch_execute("COMMIT")?;
                conn.batch_execute("BEGIN")?;
                PgConnection::insert(conn, 1)?;
                end
            });
            assert!(result.is_err());
            assert_eq!(log.ran(), NOTHING);
            assert_clean(db, conn, &log);
            assert!(!db.committed().contains(&1), "rolled back, not committed with the next block");
        }
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use super::*;

    /// E9, N12: a plain transaction is believed as Diesel does, but not about hooks.
    #[test]
    fn e09_a_plain_transaction_with_a_rollback_hook_is_proven() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let result = conn.transaction(|conn| {
            conn.after_rollback(noting(&log, 1))?;
            conn.batch_execute("ROLLBACK")
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!(conn.last_report().not_run().len(), 1);
        assert_clean(db, conn, &log);
    }

    /// E10, E11: on a connection that is lost nobody can say what an implicit commit has left.
    #[test]
    fn e10_a_connection_lost_behind_ddl_runs_no_rollback_hook() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let result: QueryResult<()> = atomic!(conn, {
            MysqlConnection::insert(conn, 1)?;
            conn.after_rollback(noting(&log, 1))?;
            conn.batch_execute("CREATE TABLE other (id INTEGER)")?;
            MysqlConnection::kill(conn, &mut db.observer());
            rolled_back()
        });
        assert!(result.is_err());
        assert_eq!((db.committed(), log.ran()), (vec![1], NOTHING.to_vec()));
        assert_eq!(conn.last_report().not_run().len(), 1, "{}", conn.last_report());
    }

    /// E10: DDL commits what ran before it; the block's atomicity is gone, and nothing claims
    /// otherwise.
    #[test]
    fn e10_ddl_in_the_block() {
        let db = &Scratch::<MysqlConnection>::new();
        let mut table = 0;
        for (way, run) in ways::<MysqlConnection>() {
            for (hooks, nested) in [(true, false), (false, false), (true, true), (false, true)] {
                let context = format!("{way}, hooks: {hooks}, nested: {nested}");
                let conn = &mut db.connect();
                let log = Log::new();
                table += 1;
                let sql = format!("CREATE TABLE ddl_{table} (id INTEGER)");
                let result = atomic!(conn, -> QueryResult<()>, {
                    MysqlConnection::insert(conn, table)?;
                    if hooks {
                        note(&log, 1);
                        conn.after_rollback(noting(&log, 2))?;
                    }
                    if nested { atomic!(conn, { run(conn, &sql) }) } else { run(conn, &sql) }
                });
                assert_eq!(refusal(&result), "EndedEarly", "{context}");
                let text = result.unwrap_err().to_string();
                assert!(text.contains("DDL on MySQL and MariaDB") && text.contains("run DDL outside"), "{text}");
                assert_eq!(log.ran(), NOTHING, "{context}");
                assert!(db.committed().contains(&table), "{context}: committed by the DDL");
                assert_eq!(conn.last_report().not_run().len(), if hooks { 2 } else { 0 }, "{context}");
                assert_clean(db, conn, &log);
                db.observer().batch_execute("DELETE FROM witness WHERE id > 999").unwrap();
            }
        }
    }

    /// E10: Diesel's own `transaction` promises nothing about DDL, and migrations need it; with a
    /// hook it is refused.
    #[test]
    fn e10_ddl_in_a_plain_transaction() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        for hook in [false, true] {
            let result = conn.transaction(|conn| {
                if hook {
                    note(&log, 1).after_commit(conn)?;
                }
                conn.batch_execute("CREATE OR REPLACE TABLE ddl (id INTEGER)")
            });
            match hook {
                false => assert_eq!(result, Ok(())),
                true => assert_eq!(refusal(&result), "EndedEarly"),
            }
            assert_eq!(log.ran(), NOTHING);
            assert_clean(db, conn, &log);
        }
    }

    /// E10: a block that fails behind the DDL returns its own error, and runs no rollback hooks for
    /// committed rows.
    #[test]
    fn e10_ddl_in_a_block_that_fails() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        for nested in [true, false] {
            let result = atomic!(conn, -> QueryResult<()>, {
                conn.after_rollback(noting(&log, 2))?;
                let fail = |conn: &mut DeferredConnection<MysqlConnection>| -> QueryResult<()> {
                    conn.batch_execute("CREATE OR REPLACE TABLE ddl (id INTEGER)")?;
                    rolled_back()
                };
                if nested {
                    let inner = atomic!(conn, { fail(conn) });
                    assert!(inner.is_err());
                    rolled_back()
                } else {
                    fail(conn)
                }
            });
            assert_eq!(result, rolled_back());
            assert_eq!(log.ran(), NOTHING, "nested: {nested}");
            assert_clean(db, conn, &log);
        }
    }
}
