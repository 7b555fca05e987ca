//! The tables of durable tasks.
//!
//! Must not know: what is done with them.

#[cfg(any(
    feature = "sqlite",
    feature = "postgres",
    feature = "async-postgres",
    feature = "mysql",
    feature = "async-mysql"
))]
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

/// Which migration this version of the crate knows as the last one.
#[cfg(feature = "worker")]
pub(crate) const SCHEMA_VERSION: i32 = 2;

/// The migrations that create and change the tables of durable tasks, for the database that they
/// are run on.
///
/// They go beside an application's own migrations, in the same bookkeeping. Their versions are
/// earlier than any date, so that `diesel migration revert` goes on reverting the application's
/// own. They are files, too, for the `diesel` command line: `guide/src/durable-table.md` in the
/// repository says how, and what the columns and states mean.
///
/// # Examples
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel::prelude::*;
/// use diesel_deferred::DeferredConnection;
/// use diesel_migrations::MigrationHarness;
///
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// conn.run_pending_migrations(diesel_deferred::migrations())?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn migrations() -> Migrations {
    Migrations(())
}

/// See [`migrations`].
#[derive(Debug, Clone, Copy)]
pub struct Migrations(());

macro_rules! migrations_of {
    ($($(#[$attribute:meta])* $backend:ty: $path:literal;)*) => {$(
        $(#[$attribute])*
        const _: () = {
            const EMBEDDED: EmbeddedMigrations = embed_migrations!($path);

            impl diesel::migration::MigrationSource<$backend> for Migrations {
                fn migrations(&self) -> diesel::migration::Result<Vec<Box<dyn diesel::migration::Migration<$backend>>>> {
                    EMBEDDED.migrations()
                }
            }
        };
    )*};
}

migrations_of! {
    #[cfg(feature = "sqlite")]
    diesel::sqlite::Sqlite: "migrations/sqlite";
    #[cfg(any(feature = "postgres", feature = "async-postgres"))]
    diesel::pg::Pg: "migrations/postgres";
    #[cfg(any(feature = "mysql", feature = "async-mysql"))]
    diesel::mysql::Mysql: "migrations/mysql";
}
