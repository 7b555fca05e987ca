//! Queries, derives and migrations.

use diesel::connection::{CacheSize, Connection, DefaultLoadingMode, SimpleConnection};
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, assert_clean, note, witness};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{notes, on_each_connection};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, Identifiable, AsChangeset)]
#[diesel(table_name = notes)]
struct Note {
    id: i32,
    body: String,
}

impl Note {
    fn new(id: i32, body: &str) -> Self {
        Self { id, body: body.to_owned() }
    }
}

/// Takes any connection, as third-party code does.
fn third_party<C: Connection>(conn: &mut C) -> QueryResult<()> {
    conn.transaction(|conn| conn.batch_execute("INSERT INTO witness VALUES (41)"))
}

on_each_connection! {
    /// `MigrationHarness` of diesel_migrations, outside of a block.
    fn migrations_run_and_revert(db) {
        let conn = &mut db.connect();
        assert!(conn.has_pending_migration(MIGRATIONS).unwrap());
        assert_eq!(conn.run_pending_migrations(MIGRATIONS).unwrap().len(), 1);
        assert!(!conn.has_pending_migration(MIGRATIONS).unwrap());
        diesel::insert_into(notes::table).values(Note::new(1, "a")).execute(conn).unwrap();
        assert_eq!(conn.revert_all_migrations(MIGRATIONS).unwrap().len(), 1);
        assert!(notes::table.count().get_result::<i64>(conn).is_err());
        assert_clean(db, conn, &Log::new());
    }

    /// Typed queries, derives, `load_iter`, batch inserts, `save_changes`; the hooks see the
    /// result.
    fn queries_work_as_below(db) {
        let conn = &mut db.connect();
        conn.run_pending_migrations(MIGRATIONS).unwrap();
        conn.set_prepared_statement_cache_size(CacheSize::Disabled);
        conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
        let log = Log::new();
        let all = atomic!(conn, -> QueryResult<Vec<Note>>, {
            let batch = vec![Note::new(1, "a"), Note::new(2, "b"), Note::new(3, "c")];
            assert_eq!(diesel::insert_into(notes::table).values(&batch).execute(conn)?, 3);
            note(&log, 1);
            let saved: Note = Note::new(2, "changed").save_changes(conn)?;
            assert_eq!(saved, Note::new(2, "changed"));
            let ids = notes::table
                .select(notes::id)
                .order(notes::id)
                .load_iter::<i32, DefaultLoadingMode>(conn)?
                .collect::<QueryResult<Vec<_>>>()?;
            assert_eq!(ids, [1, 2, 3]);
            let missing = notes::table.find(9).first::<Note>(conn);
            assert_eq!(missing, Err(diesel::result::Error::NotFound));
            assert_eq!(notes::table.find(9).first::<Note>(conn).optional()?, None);
            diesel::delete(notes::table.find(3)).execute(conn)?;
            notes::table.select(Note::as_select()).order(notes::id).load(conn)
        });
        assert_eq!(all.unwrap(), [Note::new(1, "a"), Note::new(2, "changed")]);
        assert_eq!(log.ran(), [1], "an empty result is no failure");
        assert_clean(db, conn, &log);
    }

    /// By deref coercion to the connection below, and as the wrapper itself.
    fn functions_that_take_a_connection(db) {
        fn below(conn: &mut Inner) -> QueryResult<usize> {
            conn.transaction(|conn| diesel::insert_into(witness::table).values(witness::id.eq(42)).execute(conn))
        }
        let conn = &mut db.connect();
        let log = Log::new();
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            third_party(conn)?;
            below(conn)?;
            assert_eq!(log.ran(), NOTHING);
            Ok(())
        })
        .unwrap();
        assert_eq!(log.ran(), [1]);
        assert_eq!(db.committed(), [41, 42]);
        let mut owned: DeferredConnection<Inner> = std::mem::replace(conn, db.connect());
        atomic!(owned, { Inner::insert(owned, 43) }).unwrap();
        assert_eq!(db.committed(), [41, 42, 43]);
    }

    /// A cursor that is not read to its end leaves the connection usable.
    fn a_half_read_cursor(db) {
        let conn = &mut db.connect();
        conn.batch_execute("INSERT INTO witness VALUES (1), (2), (3)").unwrap();
        let log = Log::new();
        let first = atomic!(conn, -> QueryResult<_>, {
            note(&log, 1);
            let mut rows = witness::table.select(witness::id).order(witness::id).load_iter::<i32, DefaultLoadingMode>(conn)?;
            rows.next().transpose()
        });
        assert_eq!(first.unwrap(), Some(1));
        assert_eq!(log.ran(), [1]);
        assert_clean(db, conn, &log);
    }
}

/// Migrations of databases whose DDL is transactional, in a block.
fn migrations_in_a_block<C: Database + diesel::migration::MigrationConnection>()
where
    DeferredConnection<C>: MigrationHarness<C::Backend>,
{
    let db = &diesel_deferred_tests::Scratch::<C>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    for commit in [false, true] {
        let result = atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            conn.run_pending_migrations(MIGRATIONS).unwrap();
            if commit { Ok(()) } else { Err(diesel::result::Error::RollbackTransaction) }
        });
        assert_eq!(result.is_ok(), commit);
        assert_eq!(conn.batch_execute("SELECT * FROM notes").is_ok(), commit);
    }
    assert_eq!(log.ran(), [1]);
}

#[test]
fn migrations_in_a_block_on_sqlite() {
    migrations_in_a_block::<SqliteConnection>();
}

#[cfg(feature = "postgres")]
#[test]
fn migrations_in_a_block_on_postgres() {
    migrations_in_a_block::<PgConnection>();
}

mod only_sqlite {
    use super::*;
    use diesel_deferred_tests::Scratch;

    /// What exists for `SqliteConnection` alone: by deref, or with `&mut **conn`.
    #[test]
    fn serialize_and_batches_with_returning() {
        let db = Scratch::<SqliteConnection>::new();
        let conn = &mut db.connect();
        let log = Log::new();
        let ids = atomic!(conn, -> QueryResult<Vec<i32>>, {
            note(&log, 1);
            diesel::replace_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
            diesel::insert_or_ignore_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
            diesel::insert_into(witness::table)
                .values(vec![witness::id.eq(2), witness::id.eq(3)])
                .returning(witness::id)
                .get_results(&mut **conn)
        });
        assert_eq!(ids, Ok(vec![2, 3]));
        assert_eq!(log.ran(), [1]);

        let buffer = conn.serialize_database_to_buffer();
        let copy = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").unwrap();
        // A database in WAL mode needs its files: the copy of it has none.
        let mut bytes = buffer.to_vec();
        bytes[18..20].copy_from_slice(&[1, 1]);
        copy.deserialize_readonly_database_from_buffer(&bytes).unwrap();
        assert_eq!(SqliteConnection::witnesses(copy), [1, 2, 3]);
    }
}

#[cfg(feature = "mysql")]
mod only_mysql {
    use super::*;
    use diesel_deferred_tests::Scratch;

    #[test]
    fn replace_and_insert_or_ignore() {
        let db = Scratch::<MysqlConnection>::new();
        let conn = &mut db.connect();
        atomic!(conn, -> QueryResult<()>, {
            diesel::replace_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
            diesel::insert_or_ignore_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
            Ok(())
        })
        .unwrap();
        assert_eq!(db.committed(), [1]);
    }
}
