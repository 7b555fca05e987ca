//! The rows that MariaDB looks at, by its log of statements.

use std::borrow::Cow;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, SimpleAsyncConnection};
use diesel_deferred::{Worker, WorkerBuilder};
use diesel_deferred_tests::{Database, Notes, Scratch};

use super::{COUNTED, Others, counts, have_called, operations, work};

/// In a session whose statements are logged. Those of others are not: they take less than the ten
/// seconds of the default.
const LOGGED: &str = "SET SESSION long_query_time = 0, SESSION log_slow_filter = '', SESSION slow_query_log = ON";

#[derive(Debug, QueryableByName)]
struct Logged {
    #[diesel(sql_type = Binary)]
    statement: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    examined: i64,
    #[diesel(sql_type = BigInt)]
    changed: i64,
    #[diesel(sql_type = BigInt)]
    sent: i64,
}

impl Logged {
    /// Not all of it need be UTF-8: identities are in it as they are.
    fn statement(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.statement)
    }
}

/// Of each kind.
const OF_EACH: i64 = 10_000;

/// By connections whose statements are logged.
fn worker(db: &Scratch<MysqlConnection>) -> WorkerBuilder<AsyncMysqlConnection> {
    let url = db.url().to_owned();
    Worker::<AsyncMysqlConnection>::builder_with(move || {
        let url = url.clone();
        async move {
            let mut conn = AsyncMysqlConnection::establish(&url).await?;
            conn.batch_execute(LOGGED).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        }
    })
}

/// D16: "MariaDB: handler counters bounded in the same way". Before and after the tables were
/// analyzed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_d16_a_statement_reads_what_it_takes() {
    let db = &Scratch::<MysqlConnection>::with_tasks();
    let others = Others {
        count: OF_EACH as u32,
        series: |count| format!("(SELECT seq AS n FROM seq_1_to_{count}) AS s"),
        id: "RANDOM_BYTES(16)",
        now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000",
        busy_key: "CONCAT('busy-', n % 100)",
    };
    others.insert(db);
    db.run_sql("SET GLOBAL log_output = 'TABLE'");
    db.run_sql("SET GLOBAL slow_query_log = ON");
    for analyzed in [false, true] {
        if analyzed {
            db.run_sql("ANALYZE TABLE deferred_tasks");
        }
        let cancelled = have_called(db);
        let mut conn = db.patient();
        conn.batch_execute(LOGGED).expect("logged");
        for operation in operations(cancelled) {
            MysqlConnection::tell(&mut conn, operation).expect("done");
        }
        work(db, worker(db), analyzed).await;
    }
    // Those of one transaction do not know of those of another one: so many of a key may be ready.
    db.run_sql(
        "INSERT INTO deferred_tasks (id, task, queue, payload, state, run_at_ms, max_attempts, task_key, enqueued_at_ms) \
         SELECT UNHEX(LPAD(HEX(seq), 32, '0')), 'worker::support::note', 'keys', '{\"text\":\"of a key\"}', 'ready', 0, 20, \
         CONCAT('key ', seq % 100), 0 FROM seq_1_to_10000",
    );
    db.run_sql("ANALYZE TABLE deferred_tasks");
    let worker = worker(db).queue("keys", 100).state(Notes::default()).build().expect("a worker");
    worker.run_until_empty().await.expect("done");
    let logged: Vec<Logged> = diesel::sql_query(
        "SELECT CAST(sql_text AS BINARY) AS statement, CAST(rows_examined AS SIGNED) AS examined, \
         CAST(rows_affected AS SIGNED) AS changed, CAST(rows_sent AS SIGNED) AS sent FROM mysql.slow_log WHERE db = DATABASE()",
    )
    .load(&mut db.observer())
    .expect("the log");
    db.run_sql("SET GLOBAL slow_query_log = OFF");
    assert!(logged.len() > 100, "only {logged:#?}");
    // All that runs is looked at where a lease is longer than the worker's own, but in a worker's first
    // minute only: the clock may have gone back before.
    let reads_too_much = |logged: &&Logged| {
        let all_that_runs =
            if logged.statement().contains("lease_until_ms > started_at_ms") { OF_EACH + 101 } else { 0 };
        // Of the index, and then of what was found there: of one queue there are more than it counts.
        let all_that_is_counted = if counts(&logged.statement()) { 2 * COUNTED as i64 + 200 } else { 0 };
        logged.examined > 20 + all_that_runs + all_that_is_counted + 10 * (logged.changed + logged.sent)
    };
    let faults: Vec<_> = logged.iter().filter(reads_too_much).collect();
    let told = |logged: &&Logged| {
        let Logged { examined, changed, sent, .. } = logged;
        format!("{examined} rows examined, {changed} changed, {sent} sent: {}", logged.statement())
    };
    let told: Vec<_> = faults.iter().map(told).collect();
    assert!(told.is_empty(), "{} of {} statements read too much:\n{}", told.len(), logged.len(), told.join("\n"));
}
