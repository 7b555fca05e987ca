//! `guide/src/durable-table.md` says what is so: the columns and states of the migrations, statements that
//! run, and directories that the `diesel` command line takes. The statements of `operating.md` run, too.

use std::fs;
use std::path::Path;

use diesel::prelude::*;
use diesel_deferred::migrations;
use diesel_deferred_tests::{Database, Scratch, on_every_database};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};

use crate::tasks::first;

const PAGE: &str = include_str!("../../../guide/src/durable-table.md");

const OPERATING: &str = include_str!("../../../guide/src/operating.md");

const MIGRATION: &str = "00000000000000-deferred-0001_tasks";

/// A migration, and the other way of each: by its database's name.
fn migration(database: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/migrations");
    fs::read_to_string(root.join(database).join(MIGRATION).join("up.sql")).expect("the migration")
}

/// The part of the page under this heading.
fn section(heading: &str) -> &'static str {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).expect("the heading");
    section.split("\n## ").next().expect("the section")
}

/// What the first column of a table in this section has, in code.
fn listed(heading: &str) -> Vec<&'static str> {
    let rows = section(heading).lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

/// The column that only PostgreSQL has, as the page says.
const ONLY_ON_POSTGRES: &str = "overtaken";

/// The page has all columns and states, in the order of none, and no others.
#[test]
fn the_page_has_the_columns_and_states_of_the_migrations() {
    for database in ["sqlite", "postgres", "mysql"] {
        let sql = migration(database);
        let (_, table) = sql.split_once("CREATE TABLE deferred_tasks (\n").expect("the table");
        let (table, _) = table.split_once("\n)").expect("its end");
        let lines = table.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| !line.starts_with(' '));
        let mut columns: Vec<_> = lines
            .filter(|line| !line.contains("GENERATED ALWAYS"))
            .filter_map(|line| line.split(' ').next())
            .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            .collect();
        columns.sort_unstable();
        let mut told = listed("Columns");
        told.retain(|column| database == "postgres" || *column != ONLY_ON_POSTGRES);
        told.sort_unstable();
        assert_eq!(told, columns, "{database}");

        let (_, states) = sql.split_once("CHECK (state IN (").expect("the states");
        let (states, _) = states.split_once("))").expect("their end");
        let states: Vec<_> = states.split(", ").map(|state| state.trim_matches('\'')).collect();
        assert_eq!(listed("States"), states, "{database}");
    }
    let line = format!("| `{ONLY_ON_POSTGRES}` | PostgreSQL only: ");
    assert!(section("Columns").contains(&line), "the page says so");
}

on_every_database!(the_statements_of_the_page_run);

/// In order: what is cancelled can be replayed.
fn the_statements_of_the_page_run<C: Database>(_: &Scratch<C>) {
    let db = &Scratch::<C>::with_tasks();
    let id = db.patient().transaction(|conn| first(1).after_commit(conn)).expect("committed").to_string();
    let hex = format!("X'{}'", id.replace('-', ""));
    let (directory, name, id) = match C::NAME {
        "PostgreSQL" => ("postgres", "| PostgreSQL | `(", format!("'{id}'")),
        "SQLite" => ("sqlite", "| SQLite | `CAST", hex),
        _ => ("mysql", "| MySQL, MariaDB | `(", hex),
    };
    let row = section("Times and identities").lines().find(|line| line.starts_with(name)).expect("the database");
    let cells: Vec<_> = row.split(" | ").map(|cell| cell.trim_matches('`')).collect();
    let (now, readable, readable_id) = (cells[1], cells[2], cells[4].trim_end_matches(" |").trim_matches('`'));
    let mut conn = db.observer();
    conn.batch_execute(&format!("SELECT {readable}, {readable_id} FROM deferred_tasks")).expect("to be read");
    let mut count = 0;
    // A block is for all databases, or for those that it names.
    let blocks = [PAGE, OPERATING].into_iter().flat_map(|page| page.split("```sql").skip(1));
    for (databases, block) in blocks.filter_map(|block| block.split_once('\n')) {
        if !databases.is_empty() && !databases.split(' ').any(|database| database == directory) {
            continue;
        }
        let sql =
            block.split("```").next().expect("its end").replace("NOW_MS", now).replace("= ID", &format!("= {id}"));
        for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            conn.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            count += 1;
        }
        let state = &db.tasks()[0].state;
        let expected = if sql.contains("SET cancel_requested") { "cancelled" } else { "ready" };
        assert_eq!(state, expected, "after {sql}");
    }
    assert!(count >= 25, "{count}");
}

macro_rules! on {
    ($module:ident, $conn:ty, $directory:literal) => {
        mod $module {
            use super::*;

            /// Copied beside an application's own, they run by the command line's way, first of all;
            /// and what the program runs knows them.
            #[test]
            fn the_migrations_are_files_for_the_command_line() {
                let directory = tempfile::tempdir().unwrap();
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/migrations");
                let own = directory.path().join("2020-01-01-000000_users");
                let ours = directory.path().join(MIGRATION);
                for (to, from) in [(&own, None), (&ours, Some(root.join($directory).join(MIGRATION)))] {
                    fs::create_dir_all(to).unwrap();
                    for file in ["up.sql", "down.sql"] {
                        match &from {
                            Some(from) => drop(fs::copy(from.join(file), to.join(file)).unwrap()),
                            None => fs::write(to.join(file), "SELECT 1").unwrap(),
                        }
                    }
                }
                let all = FileBasedMigrations::from_path(directory.path()).unwrap();
                let db = &Scratch::<$conn>::new();
                let conn = &mut db.connect();
                let ran = conn.run_pending_migrations(all.clone()).unwrap();
                let ran: Vec<_> = ran.iter().map(ToString::to_string).collect();
                assert_eq!(ran, ["00000000000000deferred0001", "20200101000000"]);
                assert!(!conn.has_pending_migration(migrations()).unwrap());
                assert_eq!(conn.revert_last_migration(all).unwrap().to_string(), "20200101000000");
                db.patient().transaction(|conn| first(1).after_commit(conn)).expect("committed");
            }
        }
    };
}

on!(sqlite_files, SqliteConnection, "sqlite");
#[cfg(feature = "postgres")]
on!(postgres_files, PgConnection, "postgres");
#[cfg(feature = "mysql")]
on!(mysql_files, MysqlConnection, "mysql");
