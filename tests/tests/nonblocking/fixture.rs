//! What the tests of this binary check and register in the same words.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use diesel::result::QueryResult;
use diesel_deferred::{AsyncDeferredConnection, Dispatcher, atomic};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch};
use futures_util::FutureExt;

/// For what must happen soon, on however busy a machine.
pub const SOON: Duration = Duration::from_secs(30);

/// No transaction is open and nothing waits; the next block commits, for itself alone, and runs
/// nothing that is old.
pub async fn assert_clean<C: AsyncDatabase>(
    db: &Scratch<C::Blocking>,
    conn: &mut AsyncDeferredConnection<C>,
    log: &Log,
) {
    static NEXT: AtomicI32 = AtomicI32::new(1_000_000);
    assert!(!conn.in_transaction(), "a transaction is open");
    assert_eq!(conn.pending(), [], "hooks were left");
    let (committed, ran) = (db.committed(), log.ran());
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, id).await?;
        noting(conn, &fresh, id)?;
        Ok(())
    })
    .await
    .expect("the next block commits");
    assert_eq!(db.committed(), [committed, vec![id]].concat(), "the next block commits its own row only");
    assert_eq!((log.ran(), fresh.ran()), (ran, vec![id]), "the next block runs its own hook only");
    assert_eq!(conn.last_report().ran(), 1);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
}

/// Registers a closure that notes that it ran.
pub fn noting<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, log: &Log, id: i32) -> QueryResult<()> {
    let log = log.clone();
    conn.after_commit(async move |_| log.push(id))
}

/// The same for a rollback.
pub fn noting_rollback<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, log: &Log, id: i32) -> QueryResult<()> {
    let log = log.clone();
    conn.after_rollback(async move |_| log.push(id))
}

/// Gives `conn` a dispatcher of its own that runs one task at a time, so that their order can be
/// seen.
pub fn one_at_a_time<C>(conn: &mut AsyncDeferredConnection<C>) -> Dispatcher {
    let dispatcher = Dispatcher::builder().max_in_flight(1).build();
    conn.set_dispatcher(dispatcher.clone());
    dispatcher
}

/// Waits until its tasks have run.
pub async fn settled(dispatcher: &Dispatcher) {
    let report = dispatcher.shutdown(SOON).await;
    assert!(report.is_clean(), "{report}");
}

/// The panic that `future` ends with.
pub async fn panic_of<F: Future>(future: F) -> &'static str {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(_) => panic!("expected a panic"),
        Err(panic) => panic.downcast_ref::<&'static str>().expect("a panic of the test's"),
    }
}
