//! D5: rows that cannot be written fail their block.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_deferred::{CommitError, DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, note, noting, on_every_database, refusal, rolled_back};

use crate::tasks::{assert_usable, first, firsts, ready, stored};

on_every_database! {
    d05_without_a_table_nothing_is_committed,
    d05_what_the_database_says_is_handed_on,
    d05_the_calls_of_a_failed_block_are_gone,
    d05_a_plain_transaction_fails_as_well,
    d05_a_table_of_a_similar_name_is_not_the_missing_one,
    e14_a_before_commit_hook_may_call_and_fail,
}

/// A witness, a hook of each kind and a call.
fn block<C: Database>(conn: &mut DeferredConnection<C>, log: &Log) -> QueryResult<()> {
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(log, 1);
        conn.after_rollback(noting(log, 2))?;
        first(1);
        Ok(())
    })
}

/// D5: an error with the way out in it; hooks are dropped, and the connection is as good as new.
fn d05_without_a_table_nothing_is_committed<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = block(conn, &log);
    assert_eq!(refusal(&result), "NoTaskTable");
    let error = result.unwrap_err();
    let said = match C::NAME {
        "SQLite" => "no such table: deferred_tasks".to_owned(),
        "PostgreSQL" => "relation \"deferred_tasks\" does not exist".to_owned(),
        _ => {
            let database = db.url().rsplit_once('/').unwrap().1;
            format!("Table '{database}.deferred_tasks' doesn't exist")
        }
    };
    // Read it aloud.
    assert_eq!(
        error.to_string(),
        format!(
            "the transaction was rolled back, nothing was committed: its durable tasks could not be stored ({said}); \
             create their table with `conn.run_pending_migrations(diesel_deferred::migrations())`, or have the `search_path` of this connection lead to it"
        )
    );
    assert_eq!(std::error::Error::source(CommitError::of(&error).unwrap()).unwrap().to_string(), said);
    assert_eq!((log.ran(), db.committed()), (vec![2], NOTHING.to_vec()));
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    // What it says helps.
    C::migrate(&mut db.observer());
    assert_usable(db, conn);
}

/// D5: a column dropped, a constraint and a trigger by hand.
fn d05_what_the_database_says_is_handed_on<C: Database>(db: &Scratch<C>) {
    let trigger = match C::NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'not into deferred_tasks'; END $$ LANGUAGE plpgsql; \
             CREATE TRIGGER refuse BEFORE INSERT ON deferred_tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
        }
        "SQLite" => {
            "CREATE TRIGGER refuse BEFORE INSERT ON deferred_tasks \
             BEGIN SELECT RAISE(ABORT, 'not into deferred_tasks'); END"
        }
        _ => {
            "CREATE TRIGGER refuse BEFORE INSERT ON deferred_tasks FOR EACH ROW \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not into deferred_tasks'"
        }
    };
    let unique = "CREATE UNIQUE INDEX one_of_a_task ON deferred_tasks (task)";
    let column = if C::NAME == "SQLite" {
        // Its indexes and its name are in nobody's way.
        "ALTER TABLE deferred_tasks RENAME COLUMN replaces TO replaced"
    } else {
        "ALTER TABLE deferred_tasks DROP COLUMN replaces"
    };
    let conn = &mut ready(db);
    atomic!(conn, -> QueryResult<()>, {
        first(0);
        Ok(())
    })
    .unwrap();
    for (by_hand, undo, says) in [
        (trigger, "DROP TRIGGER refuse", "not into deferred_tasks"),
        (unique, "DROP INDEX one_of_a_task", ""),
        (column, "", "replaces"),
    ] {
        db.run_sql(by_hand);
        let log = Log::new();
        let error = block(conn, &log).unwrap_err();
        assert!(matches!(error, Error::DatabaseError(..)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(matches!(error, Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)), by_hand == unique);
        assert_eq!((log.ran(), db.committed()), (vec![2], NOTHING.to_vec()));
        assert_eq!(stored(db), firsts([0]));
        assert!(!conn.in_transaction());
        assert_eq!(conn.pending(), []);
        if !undo.is_empty() {
            let on = if C::NAME == "PostgreSQL" && undo.contains("TRIGGER")
                || C::NAME == "MariaDB" && undo.contains("INDEX")
            {
                " ON deferred_tasks"
            } else {
                ""
            };
            db.run_sql(&format!("{undo}{on}"));
        }
        let outcome = if undo.is_empty() { Ok(()) } else { block(conn, &Log::new()) };
        outcome.unwrap();
        db.run_sql("DELETE FROM witness");
        db.run_sql("DELETE FROM deferred_tasks WHERE payload = '{\"id\":1}'");
    }
}

/// D5: whatever is made of the error, the next transaction is not told of them.
fn d05_the_calls_of_a_failed_block_are_gone<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    for nested in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, {
            if nested {
                atomic!(conn, -> QueryResult<()>, {
                    first(1);
                    Ok(())
                })?;
            }
            first(2);
            Ok(())
        });
        assert_eq!(refusal(&result), "NoTaskTable");
        assert_eq!(conn.pending(), []);
    }
    C::migrate(&mut db.observer());
    assert_usable(db, conn);
    assert_eq!(stored(db).len(), 0);
}

/// D5: where Diesel's own `transaction` sends the COMMIT, in the user's own error type.
fn d05_a_plain_transaction_fails_as_well<C: Database>(db: &Scratch<C>) {
    #[derive(Debug)]
    struct Own(Error);
    impl From<Error> for Own {
        fn from(error: Error) -> Self {
            Self(error)
        }
    }
    let conn = &mut db.connect();
    let result: Result<(), Own> = conn.transaction(|conn| {
        C::insert(conn, 1)?;
        first(1).after_commit(conn)?;
        Ok(())
    });
    assert_eq!(refusal(&result.map_err(|own| own.0)), "NoTaskTable");
    assert_eq!(db.committed(), NOTHING);
    C::migrate(&mut db.observer());
    assert_usable(db, conn);
}

/// D5: another table's absence is not blamed on ours.
fn d05_a_table_of_a_similar_name_is_not_the_missing_one<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let result = atomic!(conn, -> QueryResult<()>, {
        first(1);
        C::execute_raw(conn, "INSERT INTO my_deferred_tasks VALUES (1)")
    });
    assert!(CommitError::of(result.as_ref().unwrap_err()).is_none(), "{result:?}");
    assert_usable(db, conn);
    if C::NAME == "SQLite" {
        // Of a trigger by hand.
        db.run_sql(
            "CREATE TRIGGER copy AFTER INSERT ON deferred_tasks BEGIN INSERT INTO old_deferred_tasks VALUES (1); END",
        );
        let error = block(conn, &Log::new()).unwrap_err();
        assert!(CommitError::of(&error).is_none(), "{error}");
    }
}

/// E14, C18: what a before-commit hook calls is stored, and dropped where it fails.
fn e14_a_before_commit_hook_may_call_and_fail<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for fails in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, {
            first(1);
            conn.before_commit(move |conn| {
                first(2).after_commit(conn)?;
                atomic!(conn, -> QueryResult<()>, {
                    first(3);
                    Ok(())
                })?;
                let inner = atomic!(conn, -> QueryResult<()>, {
                    first(4);
                    rolled_back()
                });
                assert_eq!(inner, rolled_back());
                if fails { rolled_back() } else { Ok(()) }
            })
        });
        assert_eq!(result.is_err(), fails);
    }
    assert_eq!(stored(db), firsts([1, 2, 3]));
    assert_usable(db, conn);
}

/// D5: who may not write the rows is told which right is missing.
#[cfg(feature = "postgres")]
#[test]
fn d05_a_role_that_may_not_store_is_told_what_it_needs() {
    let db = Scratch::<PgConnection>::with_tasks();
    let conn = &mut db.connect();
    let role = format!("deferred_reader_{}", std::process::id());
    let run = |conn: &mut DeferredConnection<PgConnection>, sql: &str| {
        diesel::sql_query(sql).execute(conn).expect("the role of the tests may do that");
    };
    // In a transaction that is never committed, so that no role is left.
    conn.begin_test_transaction().unwrap();
    run(conn, &format!("CREATE ROLE {role}"));
    run(conn, &format!("DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', current_schema()); END $$"));
    run(conn, &format!("GRANT SELECT ON deferred_tasks TO {role}"));
    run(conn, &format!("SET LOCAL ROLE {role}"));
    let result: QueryResult<()> = atomic!(conn, {
        first(1);
        Ok(())
    });
    assert_eq!(refusal(&result), "MissingRight");
    assert_eq!(
        result.unwrap_err().to_string(),
        "the transaction was rolled back, nothing was committed: its durable tasks could not be stored (permission denied for table \
         deferred_tasks); the role of this connection needs `GRANT INSERT ON deferred_tasks TO …`, with SELECT and UPDATE where tasks \
         are `unique`, and the schema or database that it is in"
    );
    run(conn, "RESET ROLE");
    run(conn, &format!("GRANT INSERT ON deferred_tasks TO {role}"));
    run(conn, &format!("SET LOCAL ROLE {role}"));
    let stored: QueryResult<()> = atomic!(conn, {
        first(1);
        Ok(())
    });
    stored.unwrap();
}
