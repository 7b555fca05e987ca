//! A COMMIT that tells the workers of other processes: on PostgreSQL a notification goes behind it,
//! in the same message. It is no part of the transaction. In there it would hold a lock of the
//! whole server while COMMIT waits for the disk, and could make COMMIT fail.
//!
//! Must not know: when a process notifies, or what it takes to believe a COMMIT.

use std::num::NonZeroU32;

use diesel::connection::InstrumentationEvent;
use diesel::result::{Error, QueryResult};

use super::ending::{Failure, Level, Order};
use super::keeper::Interrupted;
use super::proof::{commit_sql, read, refused_by_commit};
use super::send::{Statement, note_commit, send, send_marked};
use super::wrapper::Wrapper;
use crate::durable::{TaskId, claim_notification, give_notification_back, notification_failed};
use crate::report::emit;

/// What a worker listens for.
const NOTIFY: &str = "NOTIFY deferred_tasks";

/// Whether this COMMIT is to tell workers of other processes.
#[inline]
pub(super) fn is_to_notify<W: Wrapper>(conn: &mut W, order: Order, level: Level) -> bool {
    // What ends in a test transaction is not committed.
    level == Level::Outermost
        && matches!(order, Order::Commit | Order::ProvenCommit)
        && conn.keeper().can_notify
        && claim_notification()
}

/// Sends what commits, and the notification. Once COMMIT has succeeded this does, too.
///
/// The server stops at the first statement of a message that fails, and only says what was wrong.
/// So a setting is changed first, which is a part of the transaction like a row: where the new
/// value is there afterwards, COMMIT has succeeded, and it was the notification that failed.
#[cold]
pub(super) async fn send_commit_and_notify<W: Wrapper>(conn: &mut W, order: Order) -> QueryResult<()> {
    let mark = TaskId::new();
    // The notification waits for nobody: another session's may hold the lock for as long as its own
    // COMMIT takes.
    let message = format!(
        "SET diesel_deferred.committed = '{mark}'; {}; SET LOCAL lock_timeout = '10ms'; {NOTIFY}",
        commit_sql(W::PROOF, order)
    );
    conn.tell(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
    let Err(error) = send_marked(conn, Statement::Sql(&message), Interrupted::InCommit).await else {
        return note_commit(conn);
    };
    if may_have_committed(conn, &error) && has_committed(conn, mark).await {
        notification_failed();
        emit(|| {
            tracing::warn!(
                %error,
                "workers of other processes could not be told of durable calls: these wait until a worker looks"
            );
        });
        return note_commit(conn);
    }
    if give_notification_back() {
        // Another transaction committed meanwhile, and left it to this one.
        let _ = send(conn, Statement::Sql(NOTIFY)).await;
    }
    Err(error)
}

/// Whether that may have been said of the notification.
fn may_have_committed<W: Wrapper>(conn: &mut W, error: &Error) -> bool {
    let of_commit = refused_by_commit(error) || matches!(read(W::PROOF, error), Failure::Gone | Failure::Aborted);
    !of_commit && conn.state().is_some()
}

/// Asks the server whether the setting has this value. A statement that fails is the only answer
/// that any kind of connection can give.
async fn has_committed<W: Wrapper>(conn: &mut W, mark: TaskId) -> bool {
    let question =
        format!("SELECT 1 / (coalesce(current_setting('diesel_deferred.committed', true), '') = '{mark}')::integer");
    send_marked(conn, Statement::Sql(&question), Interrupted::InCommit).await.is_ok()
}
