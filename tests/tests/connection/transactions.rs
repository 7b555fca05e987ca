//! Kinds of transactions, and what instrumentation sees of them.

use std::sync::{Arc, Mutex};

use diesel::connection::{Connection, InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, NOTHING, Scratch, assert_clean, note, record, rolled_back, witness};

use crate::on_each_connection;

const ROLLED_BACK: &str = "ROLLBACK TO SAVEPOINT diesel_savepoint_1";
const RELEASED: &str = "RELEASE SAVEPOINT diesel_savepoint_1";

/// The events of a script, as text.
fn events<C: Connection>(conn: &mut C, script: impl FnOnce(&mut C)) -> Vec<String> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| sink.lock().unwrap().push(format!("{event:?}")));
    script(conn);
    std::mem::take(&mut *events.lock().unwrap())
}

macro_rules! script {
    () => {
        |conn| {
            let _ = conn.transaction(|conn| {
                diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
                let inner: QueryResult<()> = conn.transaction(|conn| {
                    diesel::insert_into(witness::table).values(witness::id.eq(2)).execute(conn)?;
                    conn.transaction(|conn| witness::table.select(witness::id).load::<i32>(conn))?;
                    rolled_back()
                });
                assert_eq!(inner, rolled_back());
                QueryResult::Ok(())
            });
            let duplicate =
                conn.transaction(|conn| diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn));
            assert!(duplicate.is_err());
        }
    };
}

on_each_connection! {
    /// The same events with the same depths as on a bare connection. N14: the message that rolls a
    /// savepoint back releases it, too.
    fn instrumentation_sees_the_same(db) {
        let bare = events(&mut db.observer(), script!());
        db.observer().batch_execute("DELETE FROM witness").unwrap();
        let wrapped = events(&mut db.connect(), script!());
        let released = |event: &String| event.replace(ROLLED_BACK, &[ROLLED_BACK, RELEASED].join("; "));
        assert_eq!(wrapped, bare.iter().map(released).collect::<Vec<_>>());
        assert_ne!(wrapped, bare);
        assert!(bare.len() > 20, "{bare:?}");
    }

    /// The depth of a proven commit is reported as that of a plain one.
    fn instrumentation_sees_a_proven_commit(db) {
        let with_hook = events(&mut db.connect(), |conn| {
            conn.transaction(|conn| conn.after_commit(|_| ())).unwrap();
        });
        let without = events(&mut db.connect(), |conn| conn.transaction(|_| QueryResult::Ok(())).unwrap());
        let kinds = |events: &[String]| -> Vec<String> {
            events.iter().map(|event| event.split(['{', '(']).next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(kinds(&with_hook), kinds(&without));
        let of_commit = |events: &[String]| events.iter().find(|event| event.starts_with("CommitTransaction")).cloned();
        assert_eq!(of_commit(&with_hook), of_commit(&without));
    }
}

mod on_sqlite {
    use super::*;

    /// `immediate` and `exclusive`, by `atomic!`, by builder and by Diesel's names: hooks wait for
    /// their commit.
    #[test]
    fn immediate_and_exclusive() {
        let db = &Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let statements = record(conn);
        atomic!(conn, immediate, -> QueryResult<()>, {
            note(&log, 1);
            let busy = db.observer().batch_execute("BEGIN IMMEDIATE");
            assert_eq!(busy.unwrap_err().to_string(), "database is locked");
            let nested = conn.immediate_transaction(|_| QueryResult::Ok(()));
            assert!(matches!(nested, Err(Error::AlreadyInTransaction)), "{nested:?}");
            Ok(())
        })
        .unwrap();
        conn.immediate_transaction(|conn| note(&log, 2).after_commit(conn)).unwrap();
        conn.exclusive_transaction(|conn| note(&log, 3).after_commit(conn)).unwrap();
        conn.build_transaction().exclusive().retries(1).run(|conn| note(&log, 4).after_commit(conn)).unwrap();
        atomic!(conn, exclusive, -> QueryResult<()>, {
            note(&log, 5);
            Ok(())
        })
        .unwrap();
        assert_eq!(
            statements.take(),
            [
                "BEGIN IMMEDIATE",
                "COMMIT",
                "BEGIN IMMEDIATE",
                "COMMIT",
                "BEGIN EXCLUSIVE",
                "COMMIT",
                "BEGIN EXCLUSIVE",
                "COMMIT",
                "BEGIN EXCLUSIVE",
                "COMMIT"
            ]
        );
        assert_eq!(log.ran(), [1, 2, 3, 4, 5]);
        assert_clean(db, conn, &log);
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::sql_types::Text;
    use diesel_deferred::IsolationLevel;
    use diesel_deferred_tests::Database;

    use super::*;

    fn setting(conn: &mut PgConnection, name: &str) -> String {
        let sql = format!("current_setting('transaction_{name}')");
        diesel::select(diesel::dsl::sql::<Text>(&sql)).get_result(conn).unwrap()
    }

    /// All options at once, by `atomic!` and by builder; the server agrees.
    #[test]
    fn build_transaction() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let statements = record(conn);
        atomic!(conn, isolation = Serializable, read_only, deferrable, -> QueryResult<()>, {
            assert_eq!(statements.take(), ["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"]);
            note(&log, 1);
            let settings = ["isolation", "read_only", "deferrable"].map(|name| setting(conn, name));
            assert_eq!(settings, ["serializable", "on", "on"]);
            let nested: QueryResult<()> = atomic!(conn, read_only, { Ok(()) });
            assert!(matches!(nested, Err(Error::AlreadyInTransaction)), "{nested:?}");
            Ok(())
        })
        .unwrap();
        let refused = conn.build_transaction().read_only().run(|conn| PgConnection::insert(conn, 1));
        assert!(refused.is_err());
        for level in [IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted, IsolationLevel::ReadUncommitted] {
            let name =
                conn.build_transaction().isolation(level).run(|conn| QueryResult::Ok(setting(conn, "isolation")));
            let sql = format!("{level:?}").to_lowercase();
            assert_eq!(name.unwrap().replace(' ', ""), sql);
        }
        assert_eq!(log.ran(), [1]);
        assert_clean(db, conn, &log);
    }

    fn settings(conn: &mut PgConnection) -> [String; 3] {
        ["isolation", "read_only", "deferrable"].map(|name| setting(conn, name))
    }

    /// Diesel's methods, by its names, receivers and generics.
    macro_rules! calls_of_diesel {
        ($conn:ident) => {{
            $conn
                .batch_execute("SET default_transaction_read_only = on; SET default_transaction_deferrable = on")
                .unwrap();
            let mut builder = $conn.build_transaction().serializable().read_only().deferrable();
            let seen = [
                builder.run::<_, Error, _>(|conn| Ok(settings(conn))),
                builder.run(|conn| Ok(settings(conn))),
                $conn.build_transaction().read_committed().read_write().not_deferrable().run(|conn| Ok(settings(conn))),
                $conn.build_transaction().repeatable_read().run(|conn| Ok(settings(conn))),
            ];
            $conn.batch_execute("RESET ALL").unwrap();
            seen.map(|settings| settings.unwrap())
        }};
    }

    /// A7: code that was written for Diesel's builder compiles as it is, and does the same.
    #[test]
    fn a07_the_builder_has_diesels_methods() {
        let db = &Scratch::<PgConnection>::new();
        let (plain, conn) = (&mut db.observer(), &mut db.connect());
        let expected = [
            ["serializable", "on", "on"],
            ["serializable", "on", "on"],
            ["read committed", "off", "off"],
            ["repeatable read", "on", "on"],
        ];
        assert_eq!(calls_of_diesel!(plain), expected);
        assert_eq!(calls_of_diesel!(conn), expected);
        assert_clean(db, conn, &Log::new());
    }

    /// A7: nested it is refused as Diesel's is, but for one without options, which is a savepoint.
    #[test]
    fn a07_a_nested_builder() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        conn.transaction(|conn| {
            let mut refused = [
                conn.build_transaction().read_write().run(|_| QueryResult::Ok(())),
                conn.build_transaction().not_deferrable().run(|_| Ok(())),
                conn.build_transaction().read_committed().run(|_| Ok(())),
                conn.build_transaction().outermost().run(|_| Ok(())),
            ]
            .into_iter();
            assert!(refused.all(|result| matches!(result, Err(Error::AlreadyInTransaction))));
            let savepoint: QueryResult<()> = conn.build_transaction().run(|conn| {
                note(&log, 1).after_commit(conn)?;
                rolled_back()
            });
            assert_eq!(savepoint, rolled_back());
            conn.build_transaction().run(|conn| note(&log, 2).after_commit(conn))
        })
        .unwrap();
        assert_eq!(log.ran(), [2]);
        assert_clean(db, conn, &log);
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use diesel_deferred_tests::Database;

    use super::*;

    /// The level is set in the message that begins.
    #[test]
    fn build_transaction() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let statements = record(conn);
        let refused = atomic!(conn, isolation = ReadCommitted, read_only, -> QueryResult<()>, {
            assert_eq!(
                statements.take(),
                ["SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION READ ONLY"]
            );
            note(&log, 1);
            MysqlConnection::insert(conn, 1)
        });
        assert!(refused.unwrap_err().to_string().contains("READ ONLY"));
        // A level below SERIALIZABLE sees what was committed meanwhile; the default of this server
        // does not.
        atomic!(conn, isolation = ReadCommitted, -> QueryResult<()>, {
            note(&log, 2);
            assert_eq!(MysqlConnection::witnesses(conn), NOTHING);
            db.observer().batch_execute("INSERT INTO witness VALUES (7)")?;
            assert_eq!(MysqlConnection::witnesses(conn), [7]);
            Ok(())
        })
        .unwrap();
        atomic!(conn, isolation = RepeatableRead, -> QueryResult<()>, {
            assert_eq!(MysqlConnection::witnesses(conn), [7]);
            db.observer().batch_execute("INSERT INTO witness VALUES (8)")?;
            assert_eq!(MysqlConnection::witnesses(conn), [7], "the level was for one transaction");
            Ok(())
        })
        .unwrap();
        assert_eq!(log.ran(), [2]);
        assert_clean(db, conn, &log);
    }
}
