//! Draining a backlog of calls of keys, on the three databases.

use std::path::PathBuf;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::mysql::MysqlConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncMysqlConnection, SimpleAsyncConnection};
use diesel_deferred::{DeferredConnection, Worker, atomic};
use diesel_migrations::MigrationHarness;

use crate::drain::{drain_by, drain_by_workers};
use crate::figures::rate;
use crate::schema::Schema;
use crate::{CONCURRENCY, Progress, noop};

/// Enqueues by calls, in transactions of ten, on a connection of any kind. 0 keys: without any.
macro_rules! enqueue {
    ($conn:ident, $tasks:expr, $keys:expr) => {
        for transaction in 0..$tasks / 10 {
            atomic!($conn, -> QueryResult<()>, {
                for at in 0..10 {
                    let number = transaction * 10 + at;
                    let call = noop(i64::try_from(number).expect("few"));
                    if $keys == 0 { call } else { call.key(format!("key {}", number % $keys)) };
                }
                Ok(())
            })
            .expect("commit");
        }
    };
}

/// A backlog of calls of so many keys, beside the same calls without any. They are committed in
/// transactions of ten, so that most of them do not know of each other. Prints tasks a second and the
/// ratio.
pub async fn keys(schema: &Schema, tasks: u64) {
    let deadlocks = "SELECT deadlocks AS number FROM pg_stat_database WHERE datname = current_database()";
    let (before, mut figures) = (schema.number(deadlocks), Figures::of("PostgreSQL", tasks));
    for (keys, workers) in [(0, 1), (tasks, 1), (100, 1), (10, 1), (1, 1), (0, 8), (100, 8)] {
        enqueue_of_keys(schema, tasks, keys);
        schema.connect().batch_execute("VACUUM ANALYZE deferred_tasks").expect("tidy up");
        figures.print(keys, workers, drain_by_workers(schema, &Progress::of(tasks), workers, CONCURRENCY).await);
    }
    println!("deadlocks meanwhile: {}", schema.number(deadlocks) - before);
}

/// Such a backlog on PostgreSQL.
pub fn enqueue_of_keys(schema: &Schema, tasks: u64, keys: u64) {
    schema.empty();
    let mut conn = DeferredConnection::new(schema.connect());
    // How long the backlog takes to be written is not what is measured.
    conn.batch_execute("SET synchronous_commit = off").expect("a setting");
    enqueue!(conn, tasks, keys);
}

/// The same by one worker, on a file of SQLite's, which does not wait for the disk.
pub async fn keys_on_sqlite(tasks: u64) {
    let file = File(std::env::temp_dir().join(format!("deferred_bench_{}.sqlite", std::process::id())));
    let mut conn = DeferredConnection::new(SqliteConnection::establish(&file.url()).expect("a file"));
    conn.batch_execute(&format!("PRAGMA journal_mode = WAL; {NO_WAIT}")).expect("settings");
    conn.run_pending_migrations(diesel_deferred::migrations()).expect("the tables");
    let mut figures = Figures::of("SQLite", tasks);
    for keys in [0, tasks, 100, 10, 1] {
        conn.batch_execute("DELETE FROM deferred_tasks").expect("empty");
        enqueue!(conn, tasks, keys);
        conn.batch_execute("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)").expect("tidy up");
        let worker = || {
            let url = file.url();
            Worker::<SyncConnectionWrapper<SqliteConnection>>::builder_with(move || {
                let url = url.clone();
                async move {
                    let mut conn = SyncConnectionWrapper::establish(&url).await?;
                    conn.batch_execute(NO_WAIT).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
                    Ok(conn)
                }
            })
        };
        figures.print(keys, 1, drain_by(worker, &Progress::of(tasks), 1, CONCURRENCY).await);
    }
}

const NO_WAIT: &str = "PRAGMA synchronous = NORMAL";

/// The same by one worker, in a database of its own on this server of MariaDB or MySQL.
pub async fn keys_on_mysql(server: &str, tasks: u64) {
    let name = format!("deferred_bench_{}", std::process::id());
    let (address, _) = server.rsplit_once('/').expect("the URL names a database");
    let url = format!("{address}/{name}");
    let mut admin = MysqlConnection::establish(server).expect("connect");
    admin.batch_execute(&format!("CREATE DATABASE {name}")).expect("a database");
    let mut conn = DeferredConnection::new(MysqlConnection::establish(&url).expect("connect"));
    conn.run_pending_migrations(diesel_deferred::migrations()).expect("the tables");
    let mut figures = Figures::of("MariaDB", tasks);
    for keys in [0, tasks, 100, 10, 1] {
        conn.batch_execute("DELETE FROM deferred_tasks").expect("empty");
        enqueue!(conn, tasks, keys);
        let worker = || Worker::<AsyncMysqlConnection>::builder(url.clone());
        figures.print(keys, 1, drain_by(worker, &Progress::of(tasks), 1, CONCURRENCY).await);
    }
    admin.batch_execute(&format!("DROP DATABASE {name}")).expect("dropped");
}

/// A file that is removed at the end.
struct File(PathBuf);

impl File {
    fn url(&self) -> String {
        self.0.to_str().expect("a path of UTF-8").to_owned()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.url()));
        }
    }
}

/// What is printed of one database.
struct Figures {
    database: &'static str,
    tasks: u64,
    /// Tasks a second of one worker without keys.
    without: f64,
}

impl Figures {
    fn of(database: &'static str, tasks: u64) -> Self {
        Self { database, tasks, without: 0.0 }
    }

    fn print(&mut self, keys: u64, workers: usize, took: Duration) {
        let Self { database, tasks, .. } = *self;
        let rate = rate(tasks, took);
        if (keys, workers) == (0, 1) {
            self.without = rate;
        }
        let what = format!("{database}: drain of {tasks} with {keys} keys by {workers} workers");
        println!("{what:<56} {rate:>9.0}/s   ratio {:.3}", rate / self.without);
    }
}
