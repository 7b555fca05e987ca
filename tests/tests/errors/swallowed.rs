//! Statement errors that the block swallows. What follows is committed, or refused: never lost and
//! believed.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, refusal};

on_every_database! {
    e07_a_swallowed_error_never_runs_hooks_for_lost_rows,
    e08_an_error_in_a_rolled_back_savepoint_is_over,
}

/// E7: PostgreSQL aborts the transaction, the others only the statement.
fn e07_a_swallowed_error_never_runs_hooks_for_lost_rows<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        assert!(C::insert(conn, 1).is_err());
        Ok(())
    });
    if C::NAME == "PostgreSQL" {
        assert_eq!(refusal(&result), "RolledBack");
    } else {
        assert_eq!(result, Ok(()));
    }
    assert_eq!(log.ran(), db.committed());
    assert_clean(db, conn, &log);
}

/// E8: the block around it commits, whether the inner one handed the error on or swallowed it
/// itself.
fn e08_an_error_in_a_rolled_back_savepoint_is_over<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let duplicate = |conn: &mut DeferredConnection<C>, swallow: bool| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 2);
            conn.after_rollback(noting(&log, 3))?;
            let result = C::insert(conn, 1);
            if swallow && result.is_err() { Ok(()) } else { result }
        })
    };
    for raw in [true, false] {
        let id = if raw { 1 } else { 10 };
        let result = atomic!(conn, -> QueryResult<()>, {
            if raw {
                C::insert(conn, 1)?;
            }
            assert!(duplicate(conn, false).is_err());
            let swallowed = duplicate(conn, true);
            if C::NAME == "PostgreSQL" {
                assert_eq!(refusal(&swallowed), "RolledBack");
            }
            note(&log, id);
            conn.batch_execute(&format!("INSERT INTO witness VALUES ({})", id + 1))
        });
        assert_eq!(result, Ok(()));
        assert!(db.committed().contains(&(id + 1)));
        assert!(log.ran().contains(&id));
    }
    let expected = if C::NAME == "PostgreSQL" { vec![3, 3, 1, 3, 3, 10] } else { vec![3, 2, 1, 3, 2, 10] };
    assert_eq!(log.ran(), expected);
    assert_clean(db, conn, &log);
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::connection::TransactionManager;
    use diesel::pg::PgRowByRowLoadingMode;
    use diesel::result::Error;
    use diesel::sql_types::Integer;
    use diesel_deferred::{CommitError, DeferredTransactionManager};
    use diesel_deferred_tests::{record, rolled_back, witness};

    use super::*;

    type Conn = DeferredConnection<PgConnection>;

    /// Runs a block that swallows what `fail` does, with hooks and without, outermost and nested,
    /// and under test.
    fn refused(what: &str, fail: impl Fn(&mut Conn)) {
        let db = &Scratch::<PgConnection>::new();
        let log = Log::new();
        let block = |conn: &mut Conn, hooks: bool| {
            atomic!(conn, -> QueryResult<()>, {
                PgConnection::insert(conn, 1)?;
                if hooks {
                    note(&log, 1);
                    conn.after_rollback(noting(&log, 2))?;
                }
                fail(conn);
                Ok(())
            })
        };
        let conn = &mut db.connect();
        for hooks in [true, false] {
            let context = format!("{what}, hooks: {hooks}");
            let before = log.ran();
            let result = block(conn, hooks);
            assert_eq!(refusal(&result), "RolledBack", "{context}");
            let text = result.unwrap_err().to_string();
            assert!(text.contains("the error was swallowed") && text.contains("with `?`"), "{text}");
            assert_eq!(log.ran(), [before, vec![2; hooks.into()]].concat(), "{context}");
            assert!(!db.committed().contains(&1), "{context}");
            assert_clean(db, conn, &log);

            // Diesel's own ways to the same commit.
            let result = conn.transaction(|conn| {
                fail(conn);
                Ok(())
            });
            assert_eq!(refusal(&result), "RolledBack", "{context}");
            DeferredTransactionManager::begin_transaction(conn).unwrap();
            fail(conn);
            assert_eq!(refusal(&DeferredTransactionManager::commit_transaction(conn)), "RolledBack", "{context}");
            assert_clean(db, conn, &log);

            // Nested: the block around it goes on.
            atomic!(conn, -> QueryResult<()>, {
                assert_eq!(refusal(&block(conn, hooks)), "RolledBack", "{context}, nested");
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_clean(db, conn, &log);
        }
        let conn = &mut db.connect();
        conn.begin_test_transaction().unwrap();
        assert_eq!(refusal(&block(conn, true)), "RolledBack", "{what}, in a test transaction");
        atomic!(conn, { PgConnection::insert(conn, 1) }).unwrap();
        assert!(!log.ran().contains(&1), "{what}");
    }

    /// E7: an error of a typed query.
    #[test]
    fn e07_swallowed_by_a_typed_query() {
        refused("typed", |conn| {
            let twice = [witness::id.eq(7), witness::id.eq(7)];
            assert!(diesel::insert_into(witness::table).values(twice).execute(conn).is_err());
        });
    }

    /// E7: an error of raw SQL.
    #[test]
    fn e07_swallowed_by_raw_sql() {
        refused("batch_execute", |conn| assert!(conn.batch_execute("SELECT * FROM nothing").is_err()));
        refused("sql_query", |conn| assert!(diesel::sql_query("SELECT * FROM nothing").execute(conn).is_err()));
    }

    /// E7: an error on the connection below.
    #[test]
    fn e07_swallowed_below_the_wrapper() {
        refused("inner_mut", |conn| assert!(conn.inner_mut().batch_execute("SELECT * FROM nothing").is_err()));
    }

    /// E7: an error of COPY, which Diesel's own bookkeeping misses.
    #[test]
    fn e07_swallowed_by_copy() {
        refused("COPY FROM", |conn| {
            let copy = diesel::copy_from(witness::table)
                .from_raw_data(witness::table, |out| out.write_all(b"not a number\n").map_err(|_| Error::NotFound));
            assert!(copy.execute(conn).is_err());
        });
        refused("COPY FROM below", |conn| {
            let copy = diesel::copy_from(witness::table)
                .from_raw_data(witness::table, |out| out.write_all(b"not a number\n").map_err(|_| Error::NotFound));
            assert!(copy.execute(&mut **conn).is_err());
        });
    }

    /// E7: rows that arrive one by one, the third of which is an error; read up to it, and dropped
    /// before it.
    #[test]
    fn e07_swallowed_by_rows_one_by_one() {
        for take in [1, 2, 3] {
            refused("row by row", |conn| {
                let query = diesel::dsl::sql::<Integer>("SELECT 1 / (3 - n) FROM generate_series(1, 5) n");
                let rows = query.load_iter::<i32, PgRowByRowLoadingMode>(conn).unwrap();
                assert_eq!(rows.take(take).filter(Result::is_err).count(), usize::from(take == 3));
            });
        }
    }

    /// E7: the refusal sends no COMMIT.
    #[test]
    fn e07_what_is_known_to_be_aborted_is_rolled_back() {
        let db = Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        let statements = record(conn);
        let result = atomic!(conn, -> QueryResult<()>, {
            assert!(conn.batch_execute("no SQL").is_err());
            Ok(())
        });
        assert!(matches!(CommitError::of(&result.unwrap_err()), Some(CommitError::RolledBack)));
        assert_eq!(statements.take(), ["BEGIN", "no SQL", "ROLLBACK"]);
    }

    /// E8: also when the aborted savepoint was rolled back by an error of the block's own.
    #[test]
    fn e08_an_aborted_savepoint_that_fails_is_over() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        atomic!(conn, -> QueryResult<()>, {
            let inner: QueryResult<()> = atomic!(conn, {
                assert!(conn.batch_execute("no SQL").is_err());
                rolled_back()
            });
            assert_eq!(inner, rolled_back());
            note(&log, 1);
            PgConnection::insert(conn, 1)
        })
        .unwrap();
        assert_eq!(log.ran(), [1]);
        assert_eq!(db.committed(), [1]);
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel_deferred_tests::{Opponent, witness};

    use super::*;

    type Conn = DeferredConnection<MysqlConnection>;

    fn typed(conn: &mut Conn, _: &str) -> QueryResult<()> {
        witness::table.find(2).select(witness::id).for_update().first::<i32>(conn).map(drop)
    }

    fn batch(conn: &mut Conn, sql: &str) -> QueryResult<()> {
        conn.batch_execute(sql)
    }

    fn below(conn: &mut Conn, sql: &str) -> QueryResult<()> {
        conn.inner_mut().batch_execute(sql)
    }

    /// The server has rolled back all of it. `autocommit = 0` makes the statement behind the
    /// deadlock begin a transaction.
    fn refused(nested: bool, autocommit: bool, statement: fn(&mut Conn, &str) -> QueryResult<()>) {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        conn.batch_execute(&format!("SET autocommit = {}", u8::from(autocommit))).unwrap();
        for hooks in [true, false] {
            let context = format!("nested: {nested}, autocommit: {autocommit}, hooks: {hooks}");
            let log = Log::new();
            let opponent = Opponent::new(db);
            let result = atomic!(conn, -> QueryResult<()>, {
                MysqlConnection::insert(conn, 3)?;
                if hooks {
                    note(&log, 3);
                    conn.after_rollback(noting(&log, 4))?;
                }
                if nested {
                    let inner = atomic!(conn, -> QueryResult<()>, {
                        conn.after_commit(noting(&log, 5))?;
                        opponent.beat(conn, statement);
                        Ok(())
                    });
                    assert_eq!(refusal(&inner), "RolledBack", "{context}");
                } else {
                    opponent.beat(conn, statement);
                }
                MysqlConnection::witnesses(conn.inner_mut());
                Ok(())
            });
            assert_eq!(refusal(&result), "RolledBack", "{context}");
            assert!(result.unwrap_err().to_string().contains("deadlock"));
            assert_eq!(log.ran(), if hooks { vec![4] } else { vec![] }, "{context}");
            assert_eq!(db.committed().iter().filter(|id| **id < 1000).collect::<Vec<_>>(), [&1, &2], "{context}");
            assert_clean(db, conn, &log);
        }
    }

    /// E7: a deadlock swallowed in the outermost block: through a typed query, and through raw SQL.
    #[test]
    fn e07_a_swallowed_deadlock() {
        refused(false, true, typed);
        refused(false, true, batch);
    }

    /// E7: in a savepoint.
    #[test]
    fn e07_a_deadlock_swallowed_in_a_savepoint() {
        refused(true, true, typed);
        refused(true, true, batch);
    }

    /// E7: where the next statement begins a new transaction, the savepoint proof alone is fooled.
    #[test]
    fn e07_a_deadlock_swallowed_without_autocommit() {
        refused(false, false, typed);
        refused(false, false, batch);
        refused(true, false, batch);
    }

    /// E7: on the connection below nobody saw the error; the proof finds no transaction, and not
    /// why.
    #[test]
    fn e07_a_deadlock_swallowed_below_the_wrapper() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        for hooks in [true, false] {
            let log = Log::new();
            let opponent = Opponent::new(db);
            let result = atomic!(conn, -> QueryResult<()>, {
                MysqlConnection::insert(conn, 3)?;
                if hooks {
                    note(&log, 3);
                }
                opponent.beat(conn, below);
                Ok(())
            });
            assert_eq!(refusal(&result), "EndedEarly");
            assert_eq!(log.ran(), NOTHING);
            assert!(!db.committed().contains(&3));
            assert_clean(db, conn, &log);
        }
    }

    /// E7, E8: an error that ends its statement only does no harm.
    #[test]
    fn e08_a_lock_wait_timeout_ends_its_statement_only() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let mut other = db.observer();
        other.batch_execute("INSERT INTO witness VALUES (1); BEGIN; UPDATE witness SET id = id WHERE id = 1").unwrap();
        conn.batch_execute("SET innodb_lock_wait_timeout = 0").unwrap();
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 2);
            MysqlConnection::insert(conn, 2)?;
            let error = conn.batch_execute("DELETE FROM witness WHERE id = 1").unwrap_err();
            assert!(error.to_string().contains("Lock wait timeout"), "{error}");
            Ok(())
        })
        .unwrap();
        assert_eq!(log.ran(), [2]);
        assert_eq!(db.committed(), [1, 2]);
    }
}
