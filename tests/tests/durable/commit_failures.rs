//! COMMITs that fail and say so, and blocks that run again: the rows go with the attempt that they
//! were written in.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, Scratch, noting, on_every_database};

use crate::ended::lost;
use crate::tasks::{assert_usable, count, first, firsts, ready, stored};

on_every_database!(e13_rows_of_failed_attempts_are_not_there);

type Conn<C> = DeferredConnection<C>;

/// E13: neither where a statement failed nor where the INSERT or the COMMIT did.
fn e13_rows_of_failed_attempts_are_not_there<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    // What a concurrent transaction would cause, at will.
    let (statement, raise) = match C::NAME {
        "PostgreSQL" => ("DO $$ BEGIN RAISE serialization_failure; END $$", "RAISE serialization_failure"),
        "SQLite" => {
            db.run_sql(
                "CREATE TABLE conflict (id INTEGER); \
                 CREATE TRIGGER conflict BEFORE INSERT ON conflict BEGIN SELECT RAISE(ABORT, 'database is locked'); END",
            );
            ("INSERT INTO conflict VALUES (1)", "SELECT RAISE(ABORT, 'database is locked')")
        }
        _ => (
            "SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'Deadlock found'",
            "SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'Deadlock found'",
        ),
    };
    let mut attempts = 0;
    atomic!(conn, retries = 3, -> QueryResult<()>, {
        attempts += 1;
        first(attempts);
        C::insert(conn, attempts)?;
        if attempts < 3 {
            conn.batch_execute(statement)?;
        }
        first(attempts * 10);
        Ok(())
    })
    .unwrap();
    assert_eq!((attempts, stored(db), db.committed()), (3, firsts([3, 30]), vec![3]));

    // The INSERT of the rows: two attempts of it.
    let refuses = match C::NAME {
        "PostgreSQL" => format!(
            "CREATE FUNCTION conflict() RETURNS trigger AS $$ BEGIN {raise}; END $$ LANGUAGE plpgsql; \
             CREATE TRIGGER conflict BEFORE INSERT ON deferred_tasks FOR EACH ROW WHEN (new.priority > 0) \
             EXECUTE FUNCTION conflict()"
        ),
        "SQLite" => {
            format!("CREATE TRIGGER conflict2 BEFORE INSERT ON deferred_tasks WHEN new.priority > 0 BEGIN {raise}; END")
        }
        _ => format!(
            "CREATE TRIGGER conflict BEFORE INSERT ON deferred_tasks FOR EACH ROW IF new.priority > 0 THEN {raise}; END IF"
        ),
    };
    db.run_sql(&refuses);
    db.run_sql("DELETE FROM deferred_tasks");
    let mut attempts = 0;
    atomic!(conn, retries = 3, -> QueryResult<()>, {
        attempts += 1;
        first(attempts).priority(3 - attempts as i16);
        Ok(())
    })
    .unwrap();
    assert_eq!((attempts, stored(db)), (3, firsts([3])));
    assert_usable(db, conn);
}

/// E6: the rows were written, and go with the COMMIT that fails.
fn e06_a_deferred_constraint<C: Database>(db: &Scratch<C>, setup: &str) {
    let conn = &mut ready(db);
    db.run_sql(
        "CREATE TABLE child (id INTEGER PRIMARY KEY, \
         parent INTEGER NOT NULL REFERENCES witness (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    conn.batch_execute(setup).unwrap();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        first(1);
        conn.after_rollback(noting(&log, 1))?;
        conn.batch_execute("INSERT INTO child VALUES (1, 77)")
    });
    assert!(matches!(result, Err(diesel::result::Error::DatabaseError(..))), "{result:?}");
    assert_eq!((log.ran(), count(db), lost(conn).len()), (vec![1], 0, 0));
    assert_usable(db, conn);
}

mod on_sqlite {
    use super::*;

    #[test]
    fn e06_a_deferred_constraint() {
        super::e06_a_deferred_constraint(&Scratch::<SqliteConnection>::new(), "PRAGMA foreign_keys = ON");
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::result::{DatabaseErrorKind, Error};

    use super::*;

    #[test]
    fn e06_a_deferred_constraint() {
        super::e06_a_deferred_constraint(&Scratch::<PgConnection>::new(), "SELECT 1");
    }

    /// E6
    #[test]
    fn e06_a_serialization_failure_at_commit() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut ready(db);
        let mut attempts = 0;
        let mut run = |conn: &mut Conn<PgConnection>, retries: bool| {
            let mut block = |conn: &mut Conn<PgConnection>| {
                attempts += 1;
                first(attempts).after_commit(conn)?;
                PgConnection::witnesses(conn.inner_mut());
                PgConnection::insert(conn, attempts)?;
                if attempts == 1 || !retries {
                    db.run_sql(
                        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM witness; \
                         INSERT INTO witness SELECT max(id) + 50 FROM (SELECT id FROM witness UNION SELECT 50) w; COMMIT",
                    );
                }
                QueryResult::Ok(())
            };
            let result = if retries {
                atomic!(conn, isolation = Serializable, retries = 3, { block(conn) })
            } else {
                atomic!(conn, isolation = Serializable, { block(conn) })
            };
            (result, std::mem::take(&mut attempts))
        };
        let (result, attempts) = run(conn, false);
        let failed = matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)));
        assert!(failed && attempts == 1, "{result:?}");
        assert_eq!(count(db), 0);
        // E13
        let (result, attempts) = run(conn, true);
        assert_eq!((result, attempts), (Ok(()), 2));
        assert_eq!(stored(db), firsts([2]));
    }
}
