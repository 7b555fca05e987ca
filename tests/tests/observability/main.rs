//! What a program sees of hooks, tasks and workers from outside: metrics and traces.

/// Makes a test of each generic function for each database, on tables of durable tasks. On one thread: what is
/// recorded or exported is that of the thread.
macro_rules! on_every_worker {
    ($($name:ident),* $(,)?) => {
        mod sqlite_workers {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name::<AsyncSqliteConnection>(&Scratch::with_tasks()).await })*
        }
        #[cfg(feature = "postgres")]
        mod postgres_workers {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name::<diesel_async::AsyncPgConnection>(&Scratch::with_tasks()).await })*
        }
        #[cfg(feature = "mysql")]
        mod mysql_workers {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name::<diesel_async::AsyncMysqlConnection>(&Scratch::with_tasks()).await })*
        }
    };
}

mod exported;
mod metrics;
mod recorded;
mod traces;
