//! What refused nested blocks leave behind: 20,000 in one transaction, where each is rolled back.
//! On SQLite the last thousand should take as long as the first, and on PostgreSQL the server's
//! process should not grow.
//!
//! `PG_DATABASE_URL=… cargo bench -p diesel-deferred-benches --bench refused_blocks`; `--test` runs
//! two thousand.

use std::fmt;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::{BigInt, Integer};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use diesel_deferred::{AsyncDeferredConnection, Deferrable, DeferredConnection, atomic};

/// How many blocks are timed together.
const THOUSAND: usize = 1_000;

/// How often SQLite is measured. What the machine does meanwhile hits single thousands.
const RUNS: usize = 9;

/// Each block writes: only then has its savepoint a lock on PostgreSQL. No temporary table, whose
/// pages would be in the process's own memory; it goes with the transaction.
const TABLE: &str = "CREATE TABLE bench_refused (id INTEGER)";
const INSERT: &str = "INSERT INTO bench_refused VALUES (1)";

/// What PostgreSQL says of the process that serves the connection.
const MEMORY: &str =
    "SELECT pg_backend_pid() AS pid, (SELECT sum(total_bytes) FROM pg_backend_memory_contexts)::bigint AS bytes";

#[derive(QueryableByName)]
struct Memory {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KB in its contexts", self.bytes / 1024)?;
        // Of a server on another machine, or another user's, nothing can be read.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        match status.lines().find_map(|line| line.strip_prefix("RssAnon:")) {
            Some(resident) => write!(f, ", {} resident and its own", resident.trim()),
            None => Ok(()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = std::env::args().any(|argument| argument == "--test");
    let thousands = if test { 2 } else { 20 };
    on_sqlite(thousands, if test { 1 } else { RUNS })?;
    let Ok(url) = std::env::var("PG_DATABASE_URL") else {
        println!("PG_DATABASE_URL is not set: nothing is measured on PostgreSQL");
        return Ok(());
    };
    on_postgres(&url, thousands)?;
    on_asynchronous_postgres(&url, thousands).await?;
    Ok(())
}

fn on_sqlite(thousands: usize, runs: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut times = vec![Vec::new(); thousands];
    for _ in 0..runs {
        let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
        atomic!(conn, -> QueryResult<()>, {
            conn.batch_execute(TABLE)?;
            for times in &mut times {
                let begin = Instant::now();
                for _ in 0..THOUSAND {
                    refuse(conn)?;
                }
                times.push(begin.elapsed());
            }
            Ok(())
        })?;
    }
    let medians: Vec<Duration> = times.into_iter().map(median).collect();
    if let [first, .., last] = &*medians {
        let ratio = last.as_secs_f64() / first.as_secs_f64();
        println!("SQLite: the first thousand {first:?}, the last {last:?}, ratio {ratio:.2}");
    }
    Ok(())
}

fn refuse<C: Deferrable>(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
    rolled_back(atomic!(conn, {
        conn.batch_execute(INSERT)?;
        Err(Error::RollbackTransaction)
    }))
}

/// What was asked for is no error.
fn rolled_back(result: QueryResult<()>) -> QueryResult<()> {
    match result {
        Err(Error::RollbackTransaction) => Ok(()),
        other => other,
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn on_postgres(url: &str, thousands: usize) -> Result<(), Box<dyn std::error::Error>> {
    let conn = &mut DeferredConnection::<PgConnection>::establish(url)?;
    rolled_back(atomic!(conn, {
        conn.batch_execute(TABLE)?;
        for thousand in 0..=thousands {
            if thousand % 5 == 0 || thousand == 1 {
                let memory: Memory = diesel::sql_query(MEMORY).get_result(conn)?;
                println!("PostgreSQL, {:5} refused: {memory}", thousand * THOUSAND);
            }
            for _ in 0..THOUSAND {
                refuse(conn)?;
            }
        }
        Err(Error::RollbackTransaction)
    }))?;
    Ok(())
}

async fn on_asynchronous_postgres(url: &str, thousands: usize) -> Result<(), Box<dyn std::error::Error>> {
    let conn = &mut AsyncDeferredConnection::new(AsyncPgConnection::establish(url).await?);
    let block = atomic!(conn, async {
        diesel_async::SimpleAsyncConnection::batch_execute(conn, TABLE).await?;
        for thousand in 0..=thousands {
            if thousand % 5 == 0 || thousand == 1 {
                let memory: Memory = diesel_async::RunQueryDsl::get_result(diesel::sql_query(MEMORY), conn).await?;
                println!("PostgreSQL, asynchronous, {:5} refused: {memory}", thousand * THOUSAND);
            }
            for _ in 0..THOUSAND {
                let refused = atomic!(conn, async {
                    diesel_async::SimpleAsyncConnection::batch_execute(conn, INSERT).await?;
                    Err(Error::RollbackTransaction)
                });
                rolled_back(refused.await)?;
            }
        }
        Err(Error::RollbackTransaction)
    });
    rolled_back(block.await)?;
    Ok(())
}
