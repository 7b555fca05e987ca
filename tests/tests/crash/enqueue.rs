//! Blocks at random: nested, with durable calls of every kind, and witnesses beside them; some are
//! rolled back by an error, a panic, or by being dropped.
//!
//! A call and its witness are made at the same depth, under one number: the call is committed if
//! and only if the witness is.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use diesel::connection::{Connection, SimpleConnection};
use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, TaskId, atomic};
use diesel_deferred_tests::{AsyncDatabase, Database, Moment, cut, rolled_back};
use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::journal::Journal;
use crate::tasks::{blocking, brief, latest, once};

/// Makes the call, and says its id.
macro_rules! call {
    ($kind:expr, $number:expr, $conn:expr) => {{
        let (kind, number) = ($kind, $number);
        let called = name(kind);
        match kind {
            Kind::Plain => brief(number, &called).after_commit($conn)?,
            Kind::Delayed(ms) => brief(number, &called).delay(Duration::from_millis(ms)).after_commit($conn)?,
            Kind::Keyed(_) => brief(number, &called).key(called.clone()).after_commit($conn)?,
            Kind::Blocking => blocking(number).after_commit($conn)?,
            Kind::Once(_) => once(number, &called).after_commit($conn)?,
            Kind::Latest(_) => latest(number, &called).after_commit($conn)?,
        }
    }};
}

/// Who enqueues.
#[derive(Debug, Clone)]
pub struct Enqueuer {
    pub journal: Journal,
    pub rng: Rng,
    /// The last number that was given away, to calls and to blocks.
    pub last: Arc<AtomicI32>,
}

/// How a block ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Well,
    Error,
    Panic,
}

/// What is in a block.
enum Item {
    Call { number: i32, kind: Kind },
    Nested,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Delayed(u64),
    Keyed(u8),
    Blocking,
    Once(u8),
    Latest(u8),
}

impl Enqueuer {
    fn number(&self) -> i32 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn items(&mut self, depth: u32) -> Vec<Item> {
        (0..self.rng.u32(1..=4))
            .map(|_| match self.rng.u32(0..4) {
                0 if depth < 3 => Item::Nested,
                _ => Item::Call { number: self.number(), kind: self.kind() },
            })
            .collect()
    }

    fn kind(&mut self) -> Kind {
        match self.rng.u8(0..10) {
            0..4 => Kind::Plain,
            4 | 5 => Kind::Delayed(self.rng.u64(0..60)),
            6 => Kind::Keyed(self.rng.u8(0..3)),
            7 => Kind::Blocking,
            8 => Kind::Once(self.rng.u8(0..2)),
            _ => Kind::Latest(self.rng.u8(0..2)),
        }
    }

    fn end(&mut self) -> End {
        match self.rng.u8(0..8) {
            0 => End::Error,
            1 => End::Panic,
            _ => End::Well,
        }
    }

    fn note(&self, block: i32, number: i32, id: TaskId, kind: Kind) {
        self.journal.line(&format!("call {block} {number} {id} {}", name(kind)));
    }

    /// Has nothing to do for a moment, so that others come to write.
    fn pause(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(500..4_000))
    }

    /// Enqueues for ever by a synchronous connection.
    pub fn run<C: Database>(mut self, url: &str) {
        let conn = &mut DeferredConnection::<C>::establish(url).expect("connected");
        if C::NAME == "SQLite" {
            conn.batch_execute("PRAGMA busy_timeout = 5000").expect("set");
        }
        loop {
            let block = self.number();
            self.journal.line(&format!("begin {block}"));
            let _ = catch_unwind(AssertUnwindSafe(|| self.block(conn, block, 0)));
            self.journal.line(&format!("ended {block}"));
            thread::sleep(self.pause());
        }
    }

    fn block<C: Database>(&mut self, conn: &mut DeferredConnection<C>, block: i32, depth: u32) -> QueryResult<()> {
        atomic!(conn, {
            for item in self.items(depth) {
                match item {
                    Item::Call { number, kind } => {
                        C::insert(conn, number)?;
                        let id = call!(kind, number, conn);
                        self.note(block, number, id, kind);
                    }
                    Item::Nested => {
                        let nested = catch_unwind(AssertUnwindSafe(|| self.block(conn, block, depth + 1)));
                        is_ours(nested.unwrap_or_else(|_| rolled_back()))?;
                    }
                }
            }
            self.finish(block, depth)
        })
    }

    /// Enqueues for ever by an asynchronous connection, and drops some of the futures.
    pub async fn run_async<A: AsyncDatabase>(mut self, url: &str) {
        let inner = A::establish(url).await.expect("connected");
        let conn = &mut AsyncDeferredConnection::new(inner);
        if A::Blocking::NAME == "SQLite" {
            conn.batch_execute("PRAGMA busy_timeout = 5000").await.expect("set");
        }
        loop {
            let number = self.number();
            self.journal.line(&format!("begin {number}"));
            let polls = if self.rng.u8(0..6) == 0 { self.rng.usize(1..60) } else { usize::MAX };
            let block = AssertUnwindSafe(self.block_async(conn, number, 0)).catch_unwind();
            let _ = cut(block, polls, Moment::Waiting).await;
            self.journal.line(&format!("ended {number}"));
            tokio::time::sleep(self.pause()).await;
        }
    }

    fn block_async<'a, A: AsyncDatabase>(
        &'a mut self,
        conn: &'a mut AsyncDeferredConnection<A>,
        block: i32,
        depth: u32,
    ) -> BoxFuture<'a, QueryResult<()>> {
        Box::pin(async move {
            atomic!(conn, async {
                for item in self.items(depth) {
                    match item {
                        Item::Call { number, kind } => {
                            A::insert(conn, number).await?;
                            let id = call!(kind, number, conn);
                            self.note(block, number, id, kind);
                        }
                        Item::Nested => {
                            let nested = AssertUnwindSafe(self.block_async(conn, block, depth + 1));
                            is_ours(nested.catch_unwind().await.unwrap_or_else(|_| rolled_back()))?;
                        }
                    }
                }
                self.finish(block, depth)
            })
            .await
        })
    }

    fn finish(&mut self, block: i32, depth: u32) -> QueryResult<()> {
        match self.end() {
            End::Error => return rolled_back(),
            End::Panic => resume_unwind(Box::new("in a block")),
            End::Well => {}
        }
        if depth == 0 {
            self.journal.line(&format!("closing {block}"));
        }
        Ok(())
    }
}

/// An inner block that we rolled back does not concern the outer one; a failure of the database
/// does.
fn is_ours(nested: QueryResult<()>) -> QueryResult<()> {
    match nested {
        Err(diesel::result::Error::RollbackTransaction) => Ok(()),
        other => other,
    }
}

fn name(kind: Kind) -> String {
    match kind {
        Kind::Plain | Kind::Delayed(_) | Kind::Blocking => "plain".to_owned(),
        Kind::Keyed(key) => format!("key-{key}"),
        Kind::Once(key) => format!("once-{key}"),
        Kind::Latest(key) => format!("latest-{key}"),
    }
}
