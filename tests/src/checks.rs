//! What many tests check in the same words.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI32, Ordering};

use diesel::result::{Error, QueryResult};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, CommitError, DeferredConnection, atomic};

use crate::{AsyncDatabase, Database, Log, Scratch};

/// What a block returns to be rolled back.
pub fn rolled_back<T>() -> QueryResult<T> {
    Err(Error::RollbackTransaction)
}

/// The refusal of a commit, as its variant's name.
pub fn refusal<T: Debug>(result: &QueryResult<T>) -> &'static str {
    match result.as_ref().map_err(CommitError::of) {
        Err(Some(CommitError::RolledBack)) => "RolledBack",
        Err(Some(CommitError::EndedEarly)) => "EndedEarly",
        Err(Some(CommitError::LeftOpen)) => "LeftOpen",
        Err(Some(CommitError::Cancelled)) => "Cancelled",
        Err(Some(CommitError::Unknown { .. })) => "Unknown",
        Err(Some(CommitError::NoTaskTable { .. })) => "NoTaskTable",
        Err(Some(CommitError::MissingRight { .. })) => "MissingRight",
        Err(Some(CommitError::TaskCannotBeStored(_))) => "TaskCannotBeStored",
        _ => panic!("expected a refused commit, not {result:?}"),
    }
}

/// The number of the next row that tells whether a connection is clean.
static NEXT: AtomicI32 = AtomicI32::new(1_000_000);

/// No transaction is open and nothing waits; the next block commits, for itself alone, and runs
/// nothing that is old.
pub fn assert_clean<C: Database>(db: &Scratch<C>, conn: &mut DeferredConnection<C>, log: &Log) {
    assert!(!conn.in_transaction(), "a transaction is open");
    assert_eq!(conn.pending(), [], "hooks were left");
    let (committed, ran) = (db.committed(), log.ran());
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, id)?;
        conn.after_commit(crate::noting(&fresh, id))?;
        Ok(())
    })
    .expect("the next block commits");
    assert_eq!(db.committed(), [committed, vec![id]].concat(), "the next block commits its own row only");
    assert_eq!((log.ran(), fresh.ran()), (ran, vec![id]), "the next block runs its own hook only");
    assert_eq!(conn.last_report().ran(), 1);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
}

/// The same of an asynchronous connection.
pub async fn assert_clean_async<C: AsyncDatabase>(
    db: &Scratch<C::Blocking>,
    conn: &mut AsyncDeferredConnection<C>,
    log: &Log,
) {
    assert!(!conn.in_transaction(), "a transaction is open");
    assert!(!conn.is_broken(), "a pool would throw it away");
    assert_eq!(conn.pending(), [], "hooks were left");
    let (committed, ran) = (db.committed(), log.ran());
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, id).await?;
        crate::note(&fresh, id);
        Ok(())
    })
    .await
    .expect("the next block commits");
    assert_eq!(db.committed(), [committed, vec![id]].concat(), "the next block commits its own row only");
    assert_eq!((log.ran(), fresh.ran()), (ran, vec![id]), "the next block runs its own hook only");
    assert_eq!(conn.last_report().ran(), 1);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
}
