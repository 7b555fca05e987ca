//! How durable calls become rows: by one statement just before the outermost COMMIT, or earlier
//! where there are very many, then in the savepoint that they belong to.
//!
//! Must not know: what a row looks like, or whether the connection is asynchronous.

use diesel::result::{DatabaseErrorKind, Error, QueryResult};

use super::ending::{CommitProof, Doom, Doubt, Failure};
use super::keeper::{Interrupted, Keeper};
use super::proof::{PROOF, read};
use super::send::{Statement, send};
use super::wrapper::Wrapper;
use crate::durable::{NewTask, SPILL_BEYOND, SPILL_BEYOND_BYTES, StoredCalls, TABLE, is_due, wake_workers};
use crate::error::{CannotStore, CommitError};
use crate::queue::Calls;
use crate::spans::{SendSpan, is_on};

impl<W> Keeper<W> {
    /// Whether the calls of the innermost depth are more than are kept in memory.
    #[inline]
    pub(super) fn has_to_spill(&mut self) -> bool {
        #[cfg(feature = "testing")]
        if self.is_watched() {
            return false;
        }
        self.has_calls() && are_many(self.queue.innermost_calls())
    }

    /// Whether they have to be stored before a savepoint is set. They could not be while it is
    /// open, so that what counts is the calls of all depths together.
    #[inline]
    pub(super) fn has_to_spill_before_nested(&mut self) -> bool {
        #[cfg(feature = "testing")]
        if self.is_watched() {
            return false;
        }
        self.has_calls() && are_many(self.queue.calls()) && self.queue.innermost_calls().count > 0
    }
}

fn are_many(calls: Calls) -> bool {
    calls.count >= SPILL_BEYOND || calls.bytes >= SPILL_BEYOND_BYTES
}

/// Stores what is left, before the outermost COMMIT. Where this fails the transaction must be
/// rolled back.
pub(super) async fn store_all<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    if conn.keeper().has_calls() { Box::pin(store(conn)).await } else { Ok(()) }
}

/// Stores the calls of the innermost transaction or savepoint, in it. Where this fails it must be
/// rolled back.
pub(super) async fn spill<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    Box::pin(store(conn)).await?;
    conn.keeper().has_spilled = true;
    Ok(())
}

/// What was stored is committed.
#[inline]
pub(super) fn tell_workers<W>(keeper: &mut Keeper<W>) {
    if std::mem::take(&mut keeper.wakes_workers) {
        wake_workers();
    }
}

#[cold]
async fn store<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    if let Err(error) = prove(conn).await {
        return Err(because(conn, error));
    }
    let calls = conn.keeper().queue().take_innermost_calls();
    let mut calls = match calls.into_iter().collect::<Result<Vec<NewTask>, _>>() {
        Ok(calls) => calls,
        Err(cannot_store) => {
            return Err(refuse(conn, cannot_store.clone(), CommitError::TaskCannotBeStored(cannot_store).into()));
        }
    };
    NewTask::settle(&mut calls);
    let due = calls.iter().any(is_due);
    let mut rest = &calls[..];
    while let Some(NewTask { task, call_site, .. }) = rest.first() {
        // In their place for as long as it takes: where this future is dropped meanwhile, and the
        // block around it goes on.
        let dropped = "the future that stored it was dropped before it had ended".to_owned();
        conn.keeper().queue().store(Err(CannotStore { task, call_site, reason: dropped }), 0);
        let span = SendSpan::begin(&conn.keeper().origin(), of_one_queue(rest), rest.len());
        let sent = send_some(conn, rest).await;
        span.end(&sent);
        drop(conn.keeper().queue().take_innermost_calls());
        match conn.keeper().watch.result(sent) {
            Ok(stored) => {
                let (now, left) = rest.split_at(stored.calls().clamp(1, rest.len()));
                let keeper = conn.keeper();
                keeper.can_notify |= due && stored.notifies();
                keeper.tally.stored(keeper.queue.depth(), now.iter().map(NewTask::kind));
                rest = left;
            }
            Err(error) => {
                let cannot_store = CannotStore { task, call_site, reason: error.to_string() };
                let error = because(conn, error);
                return Err(refuse(conn, cannot_store, error));
            }
        }
    }
    conn.keeper().wakes_workers |= due;
    #[cfg(feature = "testing")]
    conn.keeper().note_stored(&calls);
    Ok(())
}

/// The queue of these calls; `None`: they have several.
fn of_one_queue(calls: &[NewTask]) -> Option<&str> {
    let mut queues = calls.iter().map(|call| &**call.kind().1).filter(|_| is_on());
    let first = queues.next()?;
    queues.all(|queue| queue == first).then_some(first)
}

/// Calls were not stored. Whoever goes on in spite of the error must not get to commit without
/// them.
fn refuse<W: Wrapper>(conn: &mut W, cannot_store: CannotStore, error: Error) -> Error {
    conn.keeper().queue().store(Err(cannot_store), 0);
    error
}

/// Sends one statement. Where its future is dropped, that is like dropping one of the block's.
async fn send_some<W: Wrapper>(conn: &mut W, calls: &[NewTask]) -> QueryResult<StoredCalls> {
    if conn.keeper().interrupted != Interrupted::No {
        return Err(CommitError::Cancelled.into());
    }
    if !W::OUTLIVES_DROPPED_STATEMENTS {
        conn.keeper().interrupted = Interrupted::InStatement;
    }
    let sent = conn.send_calls(calls).await;
    conn.keeper().interrupted = Interrupted::No;
    sent
}

/// Whether the transaction may have ended without anybody having noticed. The rows would be
/// committed on their own then.
fn in_doubt<W: Wrapper>(conn: &mut W) -> bool {
    let doubt = conn.keeper().watch.doubt();
    match W::PROOF {
        CommitProof::Status => false,
        CommitProof::Commit | CommitProof::Statement => doubt >= Doubt::RawSql,
        CommitProof::Savepoint => doubt >= Doubt::Failed,
    }
}

/// Fails where no transaction is open, as far as that is in doubt.
async fn prove<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    if conn.depth() < conn.keeper().queue().depth() {
        // Diesel knows already.
        return Err(Error::NotInTransaction);
    }
    if !in_doubt(conn) {
        return Ok(());
    }
    if W::PROOF != CommitProof::Commit {
        send(conn, Statement::Sql(PROOF)).await?;
    }
    if W::PROOF == CommitProof::Commit || W::PROOF == CommitProof::Savepoint && is_sqlite(conn).await? {
        return prove_on_sqlite(conn).await;
    }
    Ok(())
}

/// Whether it is SQLite, where nothing tells by its type.
async fn is_sqlite<W: Wrapper>(conn: &mut W) -> QueryResult<bool> {
    if W::IS_MYSQL {
        return Ok(false);
    }
    // The question must not cost the transaction.
    send(conn, Statement::Sql("SAVEPOINT diesel_deferred_question")).await?;
    let answered = send(conn, Statement::Sql("SELECT sqlite_version()")).await.is_ok();
    if !answered {
        send(conn, Statement::Sql("ROLLBACK TO SAVEPOINT diesel_deferred_question")).await?;
    }
    send(conn, Statement::Sql("RELEASE SAVEPOINT diesel_deferred_question")).await?;
    Ok(answered)
}

/// A savepoint would begin a transaction where there is none, but BEGIN fails in one.
async fn prove_on_sqlite<W: Wrapper>(conn: &mut W) -> QueryResult<()> {
    match send(conn, Statement::Sql("BEGIN")).await {
        Err(Error::DatabaseError(DatabaseErrorKind::Unknown, _)) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            send(conn, Statement::Sql("ROLLBACK")).await?;
            Err(Error::NotInTransaction)
        }
    }
}

/// What is told of a failure: why the transaction is over, where that is known; otherwise what the
/// database says.
fn because<W: Wrapper>(conn: &mut W, error: Error) -> Error {
    let keeper = conn.keeper();
    let lost = keeper.watch.lost_transaction();
    let doom = match read(W::PROOF, &error) {
        Failure::Gone if !lost => Some(Doom::EndedEarly),
        Failure::Gone | Failure::Aborted => Some(Doom::RolledBack),
        Failure::Refused | Failure::Other => lost.then_some(Doom::RolledBack),
    };
    if let Some(doom) = doom {
        keeper.doom = Some(doom);
        return match doom {
            Doom::RolledBack => CommitError::RolledBack.into(),
            Doom::EndedEarly => CommitError::EndedEarly.into(),
        };
    }
    match &error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, about) if misses_table(about.message()) => {
            CommitError::NoTaskTable { source: Box::new(error) }.into()
        }
        Error::DatabaseError(DatabaseErrorKind::Unknown, about) if lacks_right(about.message()) => {
            CommitError::MissingRight { source: Box::new(error) }.into()
        }
        _ => error,
    }
}

/// Whether that says that a right is missing, as PostgreSQL and MySQL say it in English.
fn lacks_right(message: &str) -> bool {
    message.starts_with("permission denied for ") || message.contains(" command denied to user ")
}

/// Whether that says that our table is missing, in the server's default language. In another it is
/// the server's words that the user gets, as of all else that may be wrong with the table.
fn misses_table(message: &str) -> bool {
    // Not a column of it, nor a table that a trigger by hand writes to.
    let Some((before, after)) = message.split_once(TABLE) else { return false };
    match after {
        "" => matches!(before, "no such table: " | "no such table: main."),
        "\" does not exist" => before == "relation \"",
        "' doesn't exist" => before.starts_with("Table '") && before.ends_with('.'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::lacks_right;

    /// As PostgreSQL 15 and MariaDB 10.11 say it.
    #[test]
    fn d05_a_missing_right_is_known_by_its_message() {
        for message in [
            "permission denied for table deferred_tasks",
            "permission denied for schema jobs",
            "INSERT command denied to user 'app'@'localhost' for table `shop`.`deferred_tasks`",
            "UPDATE, SELECT command denied to user 'app'@'localhost' for table 'deferred_tasks'",
        ] {
            assert!(lacks_right(message), "{message}");
        }
        assert!(!lacks_right("relation \"deferred_tasks\" does not exist"));
    }
}
