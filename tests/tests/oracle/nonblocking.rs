//! Runs a tree on an asynchronous connection; some are dropped before they end.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::Ordering;

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{AsyncDatabase, Moment, cut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::yield_now;

use crate::TAKEN;
use crate::tree::{
    BlockError, Cut, End, How, Kind, Node, Outcome, Own, Told, compensate, conclude, defer, finish, is_bang,
    note_blocking, note_here, note_spawned, note_stored,
};
use crate::verdict::Record;

/// Polls a future so many times, and drops it where it has not ended by then. Notes that in
/// `record`.
pub async fn up_to<F: Future>(at: Option<Cut>, record: &Record, future: F) -> Option<F::Output> {
    let Some(Cut { polls, late }) = at else { return Some(future.await) };
    let ended = cut(future, polls, if late { Moment::Woken } else { Moment::Waiting }).await;
    record.cut.fetch_or(ended.is_none(), Ordering::Relaxed);
    ended
}

pub fn block<'a, C: AsyncDatabase>(
    conn: &'a mut AsyncDeferredConnection<C>,
    how: How,
    body: &'a [Node],
    end: End,
    record: &'a Record,
) -> BoxFuture<'a, Result<(), BlockError>> {
    Box::pin(async move {
        match how {
            How::Atomic => {
                atomic!(conn, async {
                    for node in body {
                        match *node {
                            Node::Return => return finish(end),
                            Node::Task { kind, outcome, told } => {
                                let id = witness(conn, told, record).await?;
                                match kind {
                                    Kind::Here => note_here(&record.here, id, outcome),
                                    Kind::Spawned => note_spawned(record.elsewhere.clone(), id, outcome),
                                    Kind::Blocking => note_blocking(&record.elsewhere, id, outcome),
                                    Kind::Durable => note_stored(record.durable(id)),
                                }
                            }
                            _ => step(conn, node, record).await?,
                        }
                    }
                    finish(end)
                })
                .await
            }
            How::Plain => {
                conn.transaction(async |conn| {
                    for node in body {
                        if let Node::Return = node {
                            break;
                        }
                        step(conn, node, record).await?;
                    }
                    finish(end)
                })
                .await
            }
        }
    })
}

/// A witness, and who hears that it was rolled back.
async fn witness<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    told: Told,
    record: &Record,
) -> QueryResult<i32> {
    let id = record.number();
    C::insert(conn, id).await?;
    record.registered.push(id);
    match told {
        Told::Task(kind) => compensate(conn, kind, record, id)?,
        Told::Closure => {
            let log = record.rolled_back.clone();
            conn.after_rollback(async move |_| {
                log.push(id);
                yield_now().await;
            })?;
        }
    }
    Ok(id)
}

async fn step<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    node: &Node,
    record: &Record,
) -> Result<(), BlockError> {
    match *node {
        Node::Task { kind, outcome, told } => {
            let id = witness(conn, told, record).await?;
            defer(conn, kind, record, id, outcome)?;
        }
        Node::Closure { pauses, outcome, own, told } => {
            let id = witness(conn, told, record).await?;
            let record = record.clone();
            conn.after_commit(async move |conn| {
                record.here.push(id);
                pause(pauses).await;
                if let Some(own) = own
                    && let Some(ended) = up_to(own.cut, &record, own_block(conn, own, id + 1, &record)).await
                {
                    ended.map_err(|error| format!("{error:?}"))?;
                }
                pause(pauses).await;
                // Refused where a block of a hook's was cut, or a statement.
                let _ = conn.batch_execute("SELECT 1").await;
                conclude(outcome)
            })?;
        }
        Node::SwallowedError => match C::insert(conn, TAKEN).await {
            Ok(()) => panic!("number {TAKEN} is taken"),
            Err(error) => record.swallow(&error.into()),
        },
        Node::RawSql(cut) => up_to(cut, record, conn.batch_execute("SELECT 1")).await.unwrap_or(Ok(()))?,
        Node::Pause(pauses) => pause(pauses).await,
        Node::Return => {}
        Node::Nested { how, ref body, end, swallow, cut } => {
            let nested = AssertUnwindSafe(block(conn, how, body, end, record)).catch_unwind();
            match up_to(cut, record, nested).await {
                None | Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) if swallow => record.swallow(&error),
                Some(Ok(Err(error))) => return Err(error),
                // Not a panic of what is tested.
                Some(Err(panic)) if swallow && is_bang(&*panic) => {}
                Some(Err(panic)) => resume_unwind(panic),
            }
        }
    }
    Ok(())
}

async fn own_block<C: AsyncDatabase>(
    conn: &mut AsyncDeferredConnection<C>,
    own: Own,
    id: i32,
    record: &Record,
) -> Result<(), BlockError> {
    atomic!(conn, outermost, async {
        C::insert(conn, id).await?;
        record.registered.push(id);
        compensate(conn, Kind::Here, record, id)?;
        defer(conn, own.kind, record, id, Outcome::Succeeds)?;
        finish(own.end)
    })
    .await
}

async fn pause(pauses: u8) {
    for _ in 0..pauses {
        yield_now().await;
    }
}
