//! What the tests share: a scratch database of each kind, witnesses, and a log of the hooks that
//! ran.
//!
//! A *witness* is a row that a test writes in the block beside a hook; a second connection tells
//! whether it was committed.

mod checks;
mod database;
#[cfg(feature = "mysql")]
mod deadlock;
mod durable;
mod events;
mod log;
mod nonblocking;
mod polls;
#[cfg(feature = "postgres")]
mod pooler;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod proxy;
mod statements;

pub use checks::{assert_clean, assert_clean_async, refusal, rolled_back};
pub use database::{Database, Scratch, witness};
#[cfg(feature = "mysql")]
pub use deadlock::Opponent;
pub use durable::{AtWork, Notes, TaskRow};
pub use events::{events_with, traced};
pub use log::{Log, NOTHING, note, note_failing, note_panicking, noting};
pub use nonblocking::{AsyncDatabase, AsyncSqliteConnection};
pub use polls::{Moment, Session, cut, cut_at, eventually};
#[cfg(feature = "postgres")]
pub use pooler::Pooler;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use proxy::{Proxy, cut_behind_commit, in_front_of, instead, server_of};
pub use statements::{Statements, notifies, record, record_async, record_kept, without_notification};

/// Makes a `#[test]` of each generic `fn name<C: Database>(db: &Scratch<C>)` for each database.
#[macro_export]
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&$crate::Scratch::<diesel::SqliteConnection>::new()) })*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test] fn $name() { super::$name(&$crate::Scratch::<diesel::PgConnection>::new()) })*
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            $(#[test] fn $name() { super::$name(&$crate::Scratch::<diesel::MysqlConnection>::new()) })*
        }
    };
}

/// Makes a `#[tokio::test]` of each generic
/// `async fn name<C: AsyncDatabase>(db: &Scratch<C::Blocking>)` for each database.
#[macro_export]
macro_rules! on_every_async_database {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<$crate::AsyncSqliteConnection>(&$crate::Scratch::new()).await })*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<diesel_async::AsyncPgConnection>(&$crate::Scratch::new()).await })*
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<diesel_async::AsyncMysqlConnection>(&$crate::Scratch::new()).await })*
        }
    };
}

/// The same for each database that has a server, on tables of durable tasks.
#[macro_export]
macro_rules! on_every_async_server {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<diesel_async::AsyncPgConnection>(&$crate::Scratch::with_tasks()).await })*
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<diesel_async::AsyncMysqlConnection>(&$crate::Scratch::with_tasks()).await })*
        }
    };
}
