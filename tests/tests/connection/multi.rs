//! `#[derive(MultiConnection)]`: of deferring connections, and around it.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{Deferrable, DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, note, noting, rolled_back, witness};

type DeferredSqlite = DeferredConnection<SqliteConnection>;

#[cfg(not(feature = "postgres"))]
mod connections {
    pub use bare::Any;
    pub use deferred::AnyDeferred;

    mod bare {
        use diesel::SqliteConnection;

        #[derive(diesel::MultiConnection)]
        pub enum Any {
            Sqlite(SqliteConnection),
        }
    }
    mod deferred {
        use super::super::DeferredSqlite;

        #[derive(diesel::MultiConnection)]
        pub enum AnyDeferred {
            Sqlite(DeferredSqlite),
        }
    }
}

#[cfg(feature = "postgres")]
mod connections {
    pub use bare::Any;
    pub use deferred::AnyDeferred;

    // The derive makes traits of fixed names: one enum a module.
    mod bare {
        use diesel::{PgConnection, SqliteConnection};

        #[derive(diesel::MultiConnection)]
        pub enum Any {
            Sqlite(SqliteConnection),
            Pg(PgConnection),
        }
    }
    mod deferred {
        use super::super::DeferredSqlite;
        use diesel::PgConnection;
        use diesel_deferred::DeferredConnection;

        type DeferredPg = DeferredConnection<PgConnection>;

        #[derive(diesel::MultiConnection)]
        pub enum AnyDeferred {
            Sqlite(DeferredSqlite),
            Pg(DeferredPg),
        }
    }
}

use connections::{Any, AnyDeferred};

impl Deferrable for Any {}

fn insert(conn: &mut DeferredConnection<Any>, id: i32) -> QueryResult<()> {
    diesel::insert_into(witness::table).values(witness::id.eq(id)).execute(conn).map(drop)
}

/// Commit, rollback, nesting, raw COMMIT, and an error that is swallowed: the default proof works
/// on every database.
fn around<C: Database>(db: &Scratch<C>, open: impl Fn(C) -> Any) {
    let conn = &mut DeferredConnection::new(open(db.observer()));
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        let inner: QueryResult<()> = atomic!(conn, {
            note(&log, 2);
            insert(conn, 2)?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        insert(conn, 1)
    })
    .unwrap();
    let failed: QueryResult<()> = atomic!(conn, {
        conn.after_rollback(noting(&log, 3))?;
        insert(conn, 3)?;
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    assert_eq!((log.ran(), db.committed()), (vec![1, 3], vec![1]));

    for hooks in [true, false] {
        let log = Log::new();
        let ended = atomic!(conn, -> QueryResult<()>, {
            if hooks {
                note(&log, 4);
            }
            conn.batch_execute("COMMIT")
        });
        assert!(ended.is_err(), "hooks: {hooks}");
        assert_eq!(log.ran(), NOTHING);
        assert!(!conn.in_transaction());
    }

    let log = Log::new();
    let swallowed = atomic!(conn, -> QueryResult<()>, {
        insert(conn, 5)?;
        note(&log, 5);
        assert!(conn.batch_execute("no SQL").is_err());
        Ok(())
    });
    assert_eq!(swallowed.is_err(), C::NAME == "PostgreSQL", "{swallowed:?}");
    assert_eq!(log.ran().contains(&5), db.committed().contains(&5));
    atomic!(conn, { insert(conn, 6) }).unwrap();
    assert!(db.committed().contains(&6));
}

/// The variants keep their hooks; the enum's own transactions move them.
fn of<C: Database>(db: &Scratch<C>, mut any: AnyDeferred) {
    fn register(any: &mut AnyDeferred, log: &Log, id: i32) -> QueryResult<()> {
        match any {
            AnyDeferred::Sqlite(conn) => note(log, id).after_commit(conn),
            #[cfg(feature = "postgres")]
            AnyDeferred::Pg(conn) => note(log, id).after_commit(conn),
        }
    }
    let log = Log::new();
    any.transaction(|any| {
        register(any, &log, 1)?;
        let inner: QueryResult<()> = any.transaction(|any| {
            register(any, &log, 2)?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(any)?;
        assert_eq!(log.ran(), NOTHING);
        QueryResult::Ok(())
    })
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
    match &mut any {
        AnyDeferred::Sqlite(conn) => atomic!(conn, -> QueryResult<()>, {
            note(&log, 3);
            SqliteConnection::insert(conn, 3)
        }),
        #[cfg(feature = "postgres")]
        AnyDeferred::Pg(conn) => atomic!(conn, -> QueryResult<()>, {
            note(&log, 3);
            PgConnection::insert(conn, 3)
        }),
    }
    .unwrap();
    let swallowed = any.transaction(|any| {
        register(any, &log, 4)?;
        diesel::insert_into(witness::table).values(witness::id.eq(4)).execute(any)?;
        assert!(any.batch_execute("no SQL").is_err());
        QueryResult::Ok(())
    });
    assert_eq!(swallowed.is_err(), C::NAME == "PostgreSQL", "{swallowed:?}");
    assert_eq!(log.ran(), db.committed());
}

#[test]
fn around_sqlite() {
    around(&Scratch::<SqliteConnection>::new(), Any::Sqlite);
}

#[test]
fn of_sqlite() {
    let db = Scratch::<SqliteConnection>::new();
    of(&db, AnyDeferred::Sqlite(db.connect()));
}

#[cfg(feature = "postgres")]
#[test]
fn around_postgres() {
    around(&Scratch::<PgConnection>::new(), Any::Pg);
}

#[cfg(feature = "postgres")]
#[test]
fn of_postgres() {
    let db = Scratch::<PgConnection>::new();
    of(&db, AnyDeferred::Pg(db.connect()));
}
