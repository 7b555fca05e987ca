//! Dropping futures half-way, and telling connections apart.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::Notify;

use crate::{AsyncDatabase, AsyncSqliteConnection};

/// When the future is dropped that was polled so often. It is polled again only when it was woken,
/// so that each poll is progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Right after that poll: what it waits for may not have happened.
    Waiting,
    /// When it was woken: what it waited for has happened, but it does not know.
    Woken,
}

/// Polls `future` so often, and drops it; `None` where it had not completed by then.
pub async fn cut<F: Future>(future: F, polls: usize, moment: Moment) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 && moment == Moment::Waiting => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs `future` until it says where it is, and drops it there.
pub async fn cut_at<F: Future>(future: F, there: &Notify) {
    tokio::select! {
        biased;
        _ = future => panic!("it ran to its end"),
        () = there.notified() => {}
    }
}

/// Waits until `condition` holds, and not for ever.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Connections that can be told apart.
pub trait Session: AsyncDatabase {
    /// A number that no other connection to the database has.
    fn session(conn: &mut Self) -> impl Future<Output = i64> + Send;

    /// Whether the server still has that connection, so that it may still do something.
    fn is_alive(by: &mut Self::Blocking, session: i64) -> bool;
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

async fn number<C>(conn: &mut C, sql: &'static str) -> i64
where
    C: AsyncDatabase,
    diesel::query_builder::SqlQuery: for<'q> diesel_async::methods::LoadQuery<'q, C, Number>,
{
    let found: Vec<Number> = diesel::sql_query(sql).load(conn).await.expect("a number");
    found[0].n
}

impl Session for AsyncSqliteConnection {
    /// In a temporary table, which a connection has for itself.
    async fn session(conn: &mut Self) -> i64 {
        static NEXT: AtomicI64 = AtomicI64::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        conn.batch_execute(&format!(
            "PRAGMA busy_timeout = 5000; CREATE TEMP TABLE IF NOT EXISTS session (n INTEGER); \
             INSERT INTO session SELECT {next} WHERE NOT EXISTS (SELECT * FROM session)"
        ))
        .await
        .expect("a temporary table");
        number(conn, "SELECT n FROM temp.session").await
    }

    fn is_alive(_: &mut SqliteConnection, _: i64) -> bool {
        false
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn exists<C>(by: &mut C, sql: String) -> bool
where
    C: diesel::connection::LoadConnection,
    diesel::query_builder::SqlQuery: for<'q> diesel::query_dsl::LoadQuery<'q, C, Number>,
{
    let found: Vec<Number> = diesel::RunQueryDsl::load(diesel::sql_query(sql), by).expect("a number");
    found[0].n > 0
}

#[cfg(feature = "postgres")]
impl Session for diesel_async::AsyncPgConnection {
    async fn session(conn: &mut Self) -> i64 {
        number(conn, "SELECT pg_backend_pid()::bigint AS n").await
    }

    fn is_alive(by: &mut PgConnection, session: i64) -> bool {
        exists(by, format!("SELECT count(*) AS n FROM pg_stat_activity WHERE pid = {session}"))
    }
}

#[cfg(feature = "mysql")]
impl Session for diesel_async::AsyncMysqlConnection {
    async fn session(conn: &mut Self) -> i64 {
        number(conn, "SELECT CAST(connection_id() AS SIGNED) AS n").await
    }

    fn is_alive(by: &mut MysqlConnection, session: i64) -> bool {
        exists(by, format!("SELECT count(*) AS n FROM information_schema.processlist WHERE id = {session}"))
    }
}
