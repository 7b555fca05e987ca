//! Hooks that open blocks whose hooks open blocks.

use std::future::Future;
use std::pin::Pin;

use diesel::result::QueryResult;
use diesel_deferred::{AsyncDeferredConnection, CommitError, FailureCause, Missing, atomic};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch, on_every_async_database};

use crate::fixture::assert_clean;

on_every_async_database! {
    e18_a_chain_of_hooks_is_refused_before_the_stack_ends,
}

type Chained<'a> = Pin<Box<dyn Future<Output = QueryResult<()>> + Send + 'a>>;

/// Each hook's block registers the next hook.
fn chain<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, log: Log, id: i32) -> Chained<'_> {
    Box::pin(async move {
        atomic!(conn, async {
            C::insert(conn, id).await?;
            let log = log.clone();
            conn.after_commit(async move |conn| {
                log.push(id);
                if id < 10_000 { chain::<C>(conn, log, id + 1).await } else { Ok(()) }
            })
        })
        .await
    })
}

/// E18, C8: those that fit in the 2 MB of a thread run, each before its block returns; the block of
/// the next one is rolled back, with an error that names the hook.
async fn e18_a_chain_of_hooks_is_refused_before_the_stack_ends<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let mut conn = db.connect_async::<C>().await;
    let log = Log::new();
    let chained = log.clone();
    // On a thread of the runtime's, which has 2 MB.
    let task = tokio::spawn(async move {
        chain(&mut conn, chained, 1).await.unwrap();
        conn
    });
    let mut conn = task.await.unwrap();
    assert_eq!(log.ran(), (1..=8).collect::<Vec<_>>());
    assert_eq!(db.committed(), log.ran());
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    let FailureCause::Error(error) = &failure.cause else { panic!("{failure}") };
    let refused = error.downcast_ref().and_then(CommitError::of);
    let Some(CommitError::TaskCannotRun(cannot_run)) = refused else { panic!("{failure}") };
    assert_eq!(cannot_run.missing, Missing::HookDepth(8));
    assert!(cannot_run.call_site.file().ends_with("deep.rs"), "{cannot_run}");
    assert_clean(db, &mut conn, &log).await;
}
