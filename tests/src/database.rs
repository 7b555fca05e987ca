//! A database of its own for each test, and the few statements that differ between the kinds.

use std::marker::PhantomData;
#[cfg(any(feature = "postgres", feature = "mysql"))]
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::connection::{Connection, SimpleConnection};
use diesel::prelude::*;
use diesel_deferred::{Deferrable, DeferredConnection, SqlTaskId, TaskId, TaskStatement};
use diesel_migrations::MigrationHarness;

use crate::TaskRow;
#[cfg(feature = "postgres")]
use crate::pooler;

diesel::table! {
    /// One row for each witness.
    witness (id) {
        id -> Integer,
    }
}

#[cfg(feature = "mysql")]
#[diesel::declare_sql_function]
extern "SQL" {
    /// The number of the connection on a MySQL server.
    fn connection_id() -> BigInt;
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Identity {
    #[diesel(sql_type = SqlTaskId)]
    id: TaskId,
}

/// A kind of database under test.
pub trait Database: Deferrable + 'static {
    /// As in the names of the tests.
    const NAME: &'static str;

    /// Makes an empty database, and says how to get rid of it.
    fn create() -> (String, Box<dyn Send + Sync>);

    /// The URL by which workers connect to the database at this one.
    fn url_of_workers(url: &str) -> String {
        url.to_owned()
    }

    /// Writes a witness. A second one of the same number fails.
    fn insert(conn: &mut DeferredConnection<Self>, id: i32) -> QueryResult<()>;

    /// Runs raw SQL as a prepared statement, where the database can prepare it.
    fn execute_raw(conn: &mut DeferredConnection<Self>, sql: &str) -> QueryResult<()>;

    /// The witnesses that this connection sees, sorted.
    fn witnesses(conn: &mut Self) -> Vec<i32>;

    /// The same by a query of the wrapper's.
    fn load_witnesses(conn: &mut DeferredConnection<Self>) -> QueryResult<Vec<i32>>;

    /// Makes the tables of durable tasks.
    fn migrate(conn: &mut Self);

    /// The rows of durable tasks, in the order of their ids.
    fn tasks(conn: &mut Self) -> Vec<TaskRow>;

    /// The time in milliseconds, by the clock of the database.
    fn now_ms(conn: &mut Self) -> i64;

    /// Runs a statement about durable tasks.
    fn tell(conn: &mut DeferredConnection<Self>, statement: TaskStatement) -> QueryResult<usize>;

    /// The identities of these rows, in order.
    fn task_ids(conn: &mut Self) -> Vec<TaskId>;

    /// The number, named `number`, that a query returns.
    fn number(conn: &mut Self, sql: &str) -> i64;

    /// Ends the server's side of a connection, from another one. SQLite has no such side.
    fn kill(conn: &mut DeferredConnection<Self>, by: &mut Self);
}

/// A database that lives as long as this value.
pub struct Scratch<C> {
    url: String,
    _cleanup: Box<dyn Send + Sync>,
    _kind: PhantomData<fn() -> C>,
}

impl<C: Database> Default for Scratch<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Database> Scratch<C> {
    /// Makes one, with the table `witness` in it.
    pub fn new() -> Self {
        crate::events::install();
        let (url, cleanup) = C::create();
        Self::with_witness(Self { url, _cleanup: cleanup, _kind: PhantomData })
    }

    /// One at this address, which is left as it is in the end.
    pub fn at(url: &str) -> Self {
        crate::events::install();
        Self::with_witness(Self { url: url.to_owned(), _cleanup: Box::new(()), _kind: PhantomData })
    }

    fn with_witness(scratch: Self) -> Self {
        scratch.observer().batch_execute("CREATE TABLE witness (id INTEGER PRIMARY KEY)").expect("create the table");
        scratch
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A deferring connection to it.
    pub fn connect(&self) -> DeferredConnection<C> {
        DeferredConnection::new(self.observer())
    }

    /// A plain connection to it.
    pub fn observer(&self) -> C {
        open(&self.url)
    }

    /// The witnesses that another connection sees: what is really committed.
    pub fn committed(&self) -> Vec<i32> {
        self.watcher()()
    }

    /// [`committed`](Self::committed), for hooks to call.
    pub fn watcher(&self) -> impl Fn() -> Vec<i32> + Clone + Send + 'static {
        let url = self.url.clone();
        move || C::witnesses(&mut open::<C>(&url))
    }
}

fn open<C: Database>(url: &str) -> C {
    C::establish(url).unwrap_or_else(|error| panic!("connect to {}: {error}", C::NAME))
}

/// A name that no other test uses, in this process or in one beside it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("deferred_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a statement on drop.
#[cfg(any(feature = "postgres", feature = "mysql"))]
struct Cleanup<F: FnMut()>(F);

#[cfg(any(feature = "postgres", feature = "mysql"))]
impl<F: FnMut()> Drop for Cleanup<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs one statement on a server now, and another one when the value is dropped.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn made<C: Connection + 'static>(server: String, make: &str, undo: String) -> Box<dyn Send + Sync> {
    C::establish(&server)
        .unwrap_or_else(|error| panic!("connect to {server}: {error}"))
        .batch_execute(make)
        .unwrap_or_else(|error| panic!("{make}: {error}"));
    Box::new(Cleanup(move || {
        if let Ok(mut conn) = C::establish(&server) {
            let _ = conn.batch_execute(&undo);
        }
    }))
}

macro_rules! witness_queries {
    ($now:literal) => {
        fn insert(conn: &mut DeferredConnection<Self>, id: i32) -> QueryResult<()> {
            diesel::insert_into(witness::table).values(witness::id.eq(id)).execute(conn).map(drop)
        }

        fn execute_raw(conn: &mut DeferredConnection<Self>, sql: &str) -> QueryResult<()> {
            diesel::sql_query(sql).execute(conn).map(drop)
        }

        fn load_witnesses(conn: &mut DeferredConnection<Self>) -> QueryResult<Vec<i32>> {
            witness::table.select(witness::id).order(witness::id).load(conn)
        }

        fn migrate(conn: &mut Self) {
            conn.run_pending_migrations(diesel_deferred::migrations()).expect("the migrations run");
        }

        fn tasks(conn: &mut Self) -> Vec<TaskRow> {
            let columns = "task, queue, payload, priority, state, run_at_ms, attempts, max_attempts, task_key, error, trace_parent";
            let select = format!("SELECT {columns} FROM deferred_tasks ORDER BY id");
            diesel::sql_query(select).load(conn).expect("the rows")
        }

        fn tell(conn: &mut DeferredConnection<Self>, statement: TaskStatement) -> QueryResult<usize> {
            statement.execute(conn)
        }

        fn now_ms(conn: &mut Self) -> i64 {
            Self::number(conn, concat!("SELECT ", $now, " AS number"))
        }

        fn task_ids(conn: &mut Self) -> Vec<TaskId> {
            let rows: Vec<Identity> =
                diesel::sql_query("SELECT id FROM deferred_tasks ORDER BY id").load(conn).expect("the rows");
            rows.into_iter().map(|row| row.id).collect()
        }

        fn number(conn: &mut Self, sql: &str) -> i64 {
            let row: Number = diesel::sql_query(sql).get_result(conn).unwrap_or_else(|error| panic!("{sql}: {error}"));
            row.number
        }

        fn witnesses(conn: &mut Self) -> Vec<i32> {
            witness::table.select(witness::id).order(witness::id).load(conn).expect("read the witnesses")
        }
    };
}

impl Database for SqliteConnection {
    const NAME: &'static str = "SQLite";

    fn create() -> (String, Box<dyn Send + Sync>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = directory.path().join("scratch.sqlite").display().to_string();
        // So that an observer can read while a transaction is open.
        Self::establish(&url).expect("open").batch_execute("PRAGMA journal_mode = WAL").expect("WAL");
        (url, Box::new(directory))
    }

    fn kill(_: &mut DeferredConnection<Self>, _: &mut Self) {
        panic!("SQLite has no server");
    }

    witness_queries!("CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)");
}

/// A server's address: `./test` sets it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run the tests with `./test`"))
}

#[cfg(feature = "postgres")]
impl Database for PgConnection {
    const NAME: &'static str = "PostgreSQL";

    fn create() -> (String, Box<dyn Send + Sync>) {
        if pooler::is_in_front_of_workers() {
            return create_database();
        }
        let server = server("PG_DATABASE_URL");
        let schema = unique_name();
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options=-csearch_path%3D{schema}%20-cclient_min_messages%3Derror");
        let made = made::<Self>(server, &format!("CREATE SCHEMA {schema}"), format!("DROP SCHEMA {schema} CASCADE"));
        (url, made)
    }

    fn kill(conn: &mut DeferredConnection<Self>, by: &mut Self) {
        let pid: i32 = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"))
            .get_result(conn)
            .expect("the backend's number");
        diesel::sql_query(format!("SELECT pg_terminate_backend({pid}, 5000)")).execute(by).expect("terminate");
    }

    fn url_of_workers(url: &str) -> String {
        pooler::url_of_workers(url)
    }

    witness_queries!("(extract(epoch FROM clock_timestamp()) * 1000)::bigint");
}

#[cfg(feature = "postgres")]
impl Scratch<PgConnection> {
    /// Makes one that is a database, not a schema of one, with the tables of durable tasks: a pooler
    /// does not take the option that says which schema it is.
    pub fn database_with_tasks() -> Self {
        crate::events::install();
        let (url, cleanup) = create_database();
        let scratch = Self::with_witness(Self { url, _cleanup: cleanup, _kind: PhantomData });
        PgConnection::migrate(&mut scratch.observer());
        scratch
    }
}

#[cfg(feature = "postgres")]
fn create_database() -> (String, Box<dyn Send + Sync>) {
    let server = server("PG_DATABASE_URL");
    let name = unique_name();
    let (address, rest) = server.rsplit_once('/').expect("PG_DATABASE_URL names a database");
    let options = rest.split_once('?').map_or(String::new(), |(_, options)| format!("{options}&"));
    let url = format!("{address}/{name}?{options}options=-cclient_min_messages%3Derror");
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    (url, made::<PgConnection>(server, &format!("CREATE DATABASE {name}"), drop))
}

#[cfg(feature = "mysql")]
impl Database for MysqlConnection {
    const NAME: &'static str = "MariaDB";

    fn create() -> (String, Box<dyn Send + Sync>) {
        let server = server("MYSQL_DATABASE_URL");
        let database = unique_name();
        let (address, _) = server.rsplit_once('/').expect("MYSQL_DATABASE_URL names a database");
        let url = format!("{address}/{database}");
        let drop = format!("DROP DATABASE {database}");
        (url, made::<Self>(server, &format!("CREATE DATABASE {database}"), drop))
    }

    fn kill(conn: &mut DeferredConnection<Self>, by: &mut Self) {
        // A typed query: what a block makes of raw SQL is not what its test is about.
        let id: i64 = diesel::select(connection_id()).get_result(conn).expect("the connection's number");
        diesel::sql_query(format!("KILL CONNECTION {id}")).execute(by).expect("kill");
    }

    witness_queries!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000");
}
