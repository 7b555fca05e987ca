//! The migrations of our tables, alone and beside an application's own.

use std::fs;
use std::path::Path;

use diesel::migration::MigrationConnection;
use diesel::prelude::*;
use diesel_async::AsyncMigrationHarness;
use diesel_deferred::{DeferredConnection, atomic, migrations};
use diesel_deferred_tests::{AsyncDatabase, Scratch, on_every_async_database};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use tokio::task::block_in_place;

use crate::tasks::{count, first, stored};

/// An application's own, by their dates.
fn of_the_application(directory: &Path) -> FileBasedMigrations {
    for (name, table) in [
        ("00000000000000_diesel_initial_setup", None),
        ("2020-01-01-000000_users", Some("users")),
        ("2031-01-01-000000_orders", Some("orders")),
    ] {
        let directory = directory.join(name);
        fs::create_dir_all(&directory).unwrap();
        let (up, down) = match table {
            Some(table) => (format!("CREATE TABLE {table} (id INTEGER)"), format!("DROP TABLE {table}")),
            None => ("SELECT 1".to_owned(), "SELECT 1".to_owned()),
        };
        fs::write(directory.join("up.sql"), up).unwrap();
        fs::write(directory.join("down.sql"), down).unwrap();
    }
    FileBasedMigrations::from_path(directory).unwrap()
}

macro_rules! on {
    ($module:ident, $conn:ty) => {
        mod $module {
            use super::*;

            type Conn = DeferredConnection<$conn>;

            fn store_one(conn: &mut Conn) -> QueryResult<()> {
                atomic!(conn, -> QueryResult<()>, {
                    first(1);
                    Ok(())
                })
            }

            fn versions(conn: &mut Conn) -> Vec<String> {
                let mut versions: Vec<_> =
                    conn.applied_migrations().unwrap().into_iter().map(|version| version.to_string()).collect();
                versions.sort();
                versions
            }

            /// Through the wrapper: up, down, and up again.
            #[test]
            fn run_and_revert() {
                let db = &Scratch::<$conn>::new();
                let conn = &mut db.connect();
                for _ in 0..2 {
                    assert!(conn.has_pending_migration(migrations()).unwrap());
                    assert_eq!(conn.run_pending_migrations(migrations()).unwrap().len(), 1);
                    assert!(conn.run_pending_migrations(migrations()).unwrap().is_empty(), "once");
                    assert!(!conn.has_pending_migration(migrations()).unwrap());
                    assert!(!conn.in_transaction());
                    store_one(conn).unwrap();
                    assert_eq!(count(db), 1);
                    conn.revert_all_migrations(migrations()).unwrap();
                    assert!(store_one(conn).is_err());
                    assert_eq!(versions(conn).len(), 0);
                }
            }

            /// In one bookkeeping with the application's, in either order; reverting the last one
            /// is about the application's.
            #[test]
            fn beside_an_applications_own() {
                let directory = tempfile::tempdir().unwrap();
                let own = of_the_application(directory.path());
                for ours_first in [true, false] {
                    let db = &Scratch::<$conn>::new();
                    let conn = &mut db.connect();
                    if ours_first {
                        conn.run_pending_migrations(migrations()).unwrap();
                    }
                    assert_eq!(conn.run_pending_migrations(own.clone()).unwrap().len(), 3);
                    if !ours_first {
                        conn.run_pending_migrations(migrations()).unwrap();
                    }
                    let all = versions(conn);
                    assert_eq!(all.len(), 4, "{all:?}");
                    assert!(!conn.has_pending_migration(own.clone()).unwrap());
                    store_one(conn).unwrap();
                    for version in ["20310101000000", "20200101000000"] {
                        assert_eq!(conn.revert_last_migration(own.clone()).unwrap().to_string(), version);
                    }
                    assert_eq!(stored(db).len(), 1, "the tasks are still there");
                    assert_eq!(conn.run_pending_migrations(own.clone()).unwrap().len(), 2);
                    assert_eq!(versions(conn), all);
                    // `diesel migration redo` and the like of all of them.
                    conn.revert_last_migration(own.clone()).unwrap();
                    conn.run_next_migration(own.clone()).unwrap();
                    assert_eq!(stored(db).len(), 1);
                    assert_eq!(versions(conn), all);
                }
            }

            /// By somebody who sets up the bookkeeping himself.
            #[test]
            fn behind_setup() {
                let db = &Scratch::<$conn>::new();
                let conn = &mut db.connect();
                conn.setup().unwrap();
                conn.run_pending_migrations(migrations()).unwrap();
                store_one(conn).unwrap();
            }
        }
    };
}

on!(sqlite_sync, SqliteConnection);
#[cfg(feature = "postgres")]
on!(postgres_sync, PgConnection);
#[cfg(feature = "mysql")]
on!(mysql_sync, MysqlConnection);

on_every_async_database!(by_diesel_asyncs_harness);

/// Over a deferring connection.
async fn by_diesel_asyncs_harness<A: AsyncDatabase>(db: &Scratch<A::Blocking>)
where
    diesel_deferred::Migrations: diesel::migration::MigrationSource<A::Backend>,
    diesel_deferred::AsyncDeferredConnection<A>: Migrates,
{
    let conn = db.connect_async::<A>().await;
    let mut conn = block_in_place(|| conn.migrate());
    atomic!(conn = &mut conn, -> QueryResult<()>, async {
        first(1);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(stored(db).len(), 1);
}

/// What the harness is generic over is long.
trait Migrates: Sized {
    fn migrate(self) -> Self;
}

macro_rules! migrates {
    ($($conn:ty),*) => {$(
        impl Migrates for diesel_deferred::AsyncDeferredConnection<$conn> {
            fn migrate(self) -> Self {
                let mut harness = AsyncMigrationHarness::new(self);
                harness.run_pending_migrations(migrations()).unwrap();
                assert!(!harness.has_pending_migration(migrations()).unwrap());
                harness.into_inner()
            }
        }
    )*};
}

migrates!(diesel_deferred_tests::AsyncSqliteConnection);
#[cfg(feature = "postgres")]
migrates!(diesel_async::AsyncPgConnection);
#[cfg(feature = "mysql")]
migrates!(diesel_async::AsyncMysqlConnection);
