//! The three databases, as the sequences use them: each with tables of its own, and a clock that
//! says what it is told.
//!
//! Must not know: the model.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_migrations::MigrationHarness;

use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::migrations::migrations;
use crate::durable::operations::TaskStatement;
use crate::durable::outbox::{Outbox, TaskTable};
use crate::durable::row::NewTask;
use crate::durable::worker::source::{Opening, Statements, WorkerConnection};

/// A row as it is in a database.
#[derive(Debug, QueryableByName)]
pub(super) struct StoredRow {
    #[diesel(sql_type = SqlTaskId)]
    pub(super) id: TaskId,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(super) task: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(super) queue: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(super) payload: String,
    #[diesel(sql_type = diesel::sql_types::SmallInt)]
    pub(super) priority: i16,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub(super) max_attempts: i32,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub(super) task_key: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub(super) unique_key: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(super) state: String,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub(super) run_at_ms: i64,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub(super) attempts: i32,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub(super) snoozes: i32,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub(super) refusals: i32,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub(super) refused_at_ms: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub(super) freed_key: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub(super) trace_parent: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Nullable<SqlTaskId>)]
    pub(super) worker: Option<TaskId>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub(super) lease_until_ms: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    pub(super) cancel_requested: bool,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub(super) error: Option<String>,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub(super) enqueued_at_ms: i64,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub(super) started_at_ms: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub(super) ended_at_ms: Option<i64>,
}

/// A synchronous connection: an application's.
pub(super) trait Application: MigrationConnection {
    fn enqueue(&mut self, calls: &[NewTask]);
    fn operate(&mut self, statement: TaskStatement) -> usize;
    /// All of them, in the order of their ids.
    fn rows(&mut self) -> Vec<StoredRow>;
}

/// A database with our tables in it.
pub(super) trait Database: Sized {
    const NAME: &'static str;
    type Application: Application;
    type Worker: WorkerConnection;

    /// With empty tables.
    fn new() -> impl Future<Output = Self>;

    /// An application's connection, and a worker's.
    fn connections(&mut self) -> (&mut Self::Application, &mut Session<Self>);

    /// Sets its clock.
    fn set_clock(&mut self, now_ms: i64) -> impl Future<Output = ()>;
}

/// What a worker sends its statements by.
pub(super) type Session<D> =
    <<<D as Database>::Worker as WorkerConnection>::Statements as Statements<<D as Database>::Worker>>::Session;

/// A worker's connection, when it is ready.
async fn opened<C: WorkerConnection>(conn: C) -> <C::Statements as Statements<C>>::Session {
    let opening = Opening { patience: Duration::from_secs(100), listens: false, pooler: Some(false) };
    C::Statements::open(conn, &opening).await.unwrap_or_else(|error| panic!("{error}"))
}

/// What the tables are made by, and emptied.
pub(super) trait MigrationConnection: SimpleConnection {
    fn migrate(&mut self);

    fn empty(&mut self) {
        self.batch("DELETE FROM deferred_tasks; DELETE FROM deferred_paused_queues");
    }

    fn batch(&mut self, sql: &str) {
        self.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

macro_rules! applications {
    ($($(#[$attribute:meta])* $connection:ty;)*) => {$(
        $(#[$attribute])*
        impl MigrationConnection for $connection {
            fn migrate(&mut self) {
                self.run_pending_migrations(migrations()).unwrap_or_else(|error| panic!("{error}"));
            }
        }

        $(#[$attribute])*
        impl Application for $connection {
            fn enqueue(&mut self, calls: &[NewTask]) {
                let statement = <TaskTable as Outbox<<Self as Connection>::Backend>>::insert(calls);
                diesel::RunQueryDsl::execute(statement, self).unwrap_or_else(|error| panic!("enqueue: {error}"));
            }

            fn operate(&mut self, statement: TaskStatement) -> usize {
                diesel::RunQueryDsl::execute(statement, self).unwrap_or_else(|error| panic!("operate: {error}"))
            }

            fn rows(&mut self) -> Vec<StoredRow> {
                let rows = diesel::sql_query("SELECT * FROM deferred_tasks ORDER BY id");
                rows.load(self).unwrap_or_else(|error| panic!("rows: {error}"))
            }
        }
    )*};
}

applications! {
    #[cfg(all(feature = "sqlite", feature = "async-sqlite"))]
    SqliteConnection;
    #[cfg(all(feature = "postgres", feature = "async-postgres"))]
    PgConnection;
    #[cfg(all(feature = "mysql", feature = "async-mysql"))]
    MysqlConnection;
}

/// A server's address: `./test` sets it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run the tests with `./test`"))
}

/// A name that no other test uses.
fn unique_name() -> String {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    format!("deferred_model_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(all(feature = "sqlite", feature = "async-sqlite"))]
pub(super) mod sqlite {
    use std::path::PathBuf;
    use std::sync::Arc;

    use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

    use super::*;

    #[diesel::declare_sql_function]
    extern "SQL" {
        /// SQLite's own, in place of which the tests have another one.
        fn julianday(time: diesel::sql_types::Text) -> diesel::sql_types::Double;
    }

    pub(in super::super) struct Sqlite {
        file: PathBuf,
        application: SqliteConnection,
        worker: Session<Self>,
        clock: Arc<AtomicI64>,
    }

    impl Database for Sqlite {
        const NAME: &'static str = "SQLite";
        type Application = SqliteConnection;
        type Worker = SyncConnectionWrapper<SqliteConnection>;

        async fn new() -> Self {
            let file = std::env::temp_dir().join(unique_name());
            let clock = Arc::new(AtomicI64::new(0));
            let open = || {
                let url = file.display().to_string();
                let mut conn = SqliteConnection::establish(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
                conn.batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA busy_timeout = 5000");
                let clock = Arc::clone(&clock);
                let julianday = move |_: String| clock.load(Ordering::SeqCst) as f64 / 86_400_000.0 + 2_440_587.5;
                julianday_utils::register_impl(&mut conn, julianday).unwrap_or_else(|error| panic!("{error}"));
                conn
            };
            let mut application = open();
            application.migrate();
            let worker = opened(SyncConnectionWrapper::new(open())).await;
            Self { application, worker, clock, file }
        }

        fn connections(&mut self) -> (&mut Self::Application, &mut Session<Self>) {
            (&mut self.application, &mut self.worker)
        }

        async fn set_clock(&mut self, now_ms: i64) {
            self.clock.store(now_ms, Ordering::SeqCst);
        }
    }

    impl Drop for Sqlite {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

#[cfg(all(feature = "postgres", feature = "async-postgres"))]
pub(super) mod postgres {
    use diesel_async::{AsyncConnection, AsyncPgConnection};

    use super::*;

    pub(in super::super) struct Postgres {
        schema: String,
        application: PgConnection,
        worker: Session<Self>,
    }

    impl Database for Postgres {
        const NAME: &'static str = "PostgreSQL";
        type Application = PgConnection;
        type Worker = AsyncPgConnection;

        async fn new() -> Self {
            let (server, schema) = (server("PG_DATABASE_URL"), unique_name());
            let separator = if server.contains('?') { '&' } else { '?' };
            // The schema goes before PostgreSQL's own, and has another one of its functions.
            let url = format!(
                "{server}{separator}options=-csearch_path%3D{schema}%2Cpg_catalog%20-cclient_min_messages%3Derror"
            );
            let mut application = PgConnection::establish(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
            application.batch(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE clock (now_ms bigint NOT NULL); INSERT INTO clock VALUES (0); \
                 CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS \
                 $$ SELECT 'epoch'::timestamptz + now_ms * interval '1 millisecond' FROM {schema}.clock $$"
            ));
            application.migrate();
            let worker = AsyncPgConnection::establish(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            let worker = opened(worker).await;
            Self { schema, application, worker }
        }

        fn connections(&mut self) -> (&mut Self::Application, &mut Session<Self>) {
            (&mut self.application, &mut self.worker)
        }

        async fn set_clock(&mut self, now_ms: i64) {
            self.application.batch(&format!("UPDATE clock SET now_ms = {now_ms}"));
        }
    }

    impl Drop for Postgres {
        fn drop(&mut self) {
            let _ = self.application.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema));
        }
    }
}

#[cfg(all(feature = "mysql", feature = "async-mysql"))]
pub(super) mod mysql {
    use diesel_async::{AsyncConnection, AsyncMysqlConnection, SimpleAsyncConnection};

    use super::*;

    pub(in super::super) struct Mysql {
        database: String,
        application: MysqlConnection,
        worker: Session<Self>,
    }

    impl Database for Mysql {
        const NAME: &'static str = "MariaDB";
        type Application = MysqlConnection;
        type Worker = AsyncMysqlConnection;

        async fn new() -> Self {
            let (server, database) = (server("MYSQL_DATABASE_URL"), unique_name());
            let (address, _) =
                server.rsplit_once('/').unwrap_or_else(|| panic!("MYSQL_DATABASE_URL names no database"));
            let mut first = MysqlConnection::establish(&server).unwrap_or_else(|error| panic!("{server}: {error}"));
            first.batch(&format!("CREATE DATABASE {database}"));
            let url = format!("{address}/{database}");
            let mut application = MysqlConnection::establish(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
            application.migrate();
            let worker = AsyncMysqlConnection::establish(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            let worker = opened(worker).await;
            Self { database, application, worker }
        }

        fn connections(&mut self) -> (&mut Self::Application, &mut Session<Self>) {
            (&mut self.application, &mut self.worker)
        }

        async fn set_clock(&mut self, now_ms: i64) {
            // A tenth of a millisecond more, or it might be rounded down.
            let set = format!("SET timestamp = {}.{:03}1", now_ms / 1_000, now_ms % 1_000);
            self.application.batch(&set);
            self.worker.batch_execute(&set).await.unwrap_or_else(|error| panic!("{set}: {error}"));
        }
    }

    impl Drop for Mysql {
        fn drop(&mut self) {
            let _ = self.application.batch_execute(&format!("DROP DATABASE {}", self.database));
        }
    }
}
