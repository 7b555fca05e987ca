//! The tables, and workers on them.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use diesel_deferred::{Worker, WorkerBuilder};
use diesel_migrations::MigrationHarness;
use tokio::sync::oneshot;

use crate::by_hand::insert_by_hand;

/// A schema with the tables, which lives as long as this value.
pub struct Schema {
    /// Of this schema.
    pub url: String,
    /// To drop it by.
    server: String,
    name: String,
}

impl Schema {
    pub fn new(server: &str) -> Self {
        let name = format!("deferred_bench_{}", std::process::id());
        let mut conn = PgConnection::establish(server).expect("connect");
        conn.batch_execute(&format!("CREATE SCHEMA {name}")).expect("a schema");
        let separator = if server.contains('?') { '&' } else { '?' };
        // diesel-async does not encrypt by itself, libpq does where the server can: here neither
        // does.
        let plain = if server.contains("sslmode") { "" } else { "&sslmode=disable" };
        let url = format!("{server}{separator}options=-csearch_path%3D{name}{plain}");
        let schema = Self { url, server: server.to_owned(), name };
        schema.connect().run_pending_migrations(diesel_deferred::migrations()).expect("the tables");
        schema
    }

    pub fn connect(&self) -> PgConnection {
        PgConnection::establish(&self.url).expect("connect")
    }

    pub async fn connect_async(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.url).await.expect("connect")
    }

    pub fn worker(&self) -> WorkerBuilder<AsyncPgConnection> {
        Worker::builder(self.url.clone())
    }

    pub fn empty(&self) {
        self.connect().batch_execute("TRUNCATE deferred_tasks").expect("empty");
    }

    /// As many tasks, on a table as after a while of rest: what the server would tidy up is tidied
    /// up, so that it hits neither side.
    pub fn fill(&self, tasks: u64) {
        self.empty();
        let mut conn = self.connect();
        let mut rest = i64::try_from(tasks).expect("few");
        while rest > 0 {
            insert_by_hand(rest.min(10_000)).execute(&mut conn).expect("rows");
            rest -= 10_000;
        }
        conn.batch_execute("VACUUM ANALYZE deferred_tasks").expect("tidy up");
        // Not everybody may.
        let _ = conn.batch_execute("CHECKPOINT");
    }

    pub fn tasks(&self) -> i64 {
        self.number("SELECT count(*) AS number FROM deferred_tasks")
    }

    /// What a query calls `number`.
    pub fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let row = diesel::sql_query(query).get_result::<Row>(&mut self.connect());
        row.expect("a number").number
    }

    /// A transaction that stays open, and goes on seeing the rows of this moment.
    pub fn long_transaction(&self) -> PgConnection {
        let mut conn = self.connect();
        conn.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM deferred_tasks")
            .expect("a snapshot");
        conn
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let mut conn = PgConnection::establish(&self.server).expect("connect");
        conn.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name)).expect("dropped");
    }
}

/// A worker in the background.
pub struct Working {
    stop: oneshot::Sender<()>,
    worker: tokio::task::JoinHandle<()>,
}

impl Working {
    pub fn start(builder: WorkerBuilder<AsyncPgConnection>) -> Self {
        let worker = builder.build().expect("a worker");
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = tokio::spawn(async move {
            worker.run(async { drop(stopped.await) }).await.expect("it can work");
        });
        Self { stop, worker }
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.worker.await.expect("it stopped");
    }
}
