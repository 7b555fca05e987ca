//! Hooks that open blocks whose hooks open blocks.

use diesel::prelude::*;
use diesel_deferred::{CommitError, DeferredConnection, FailureCause, Missing, atomic};
use diesel_deferred_tests::{Database, Log, Scratch, assert_clean, on_every_database};

on_every_database! {
    e18_a_chain_of_hooks_is_refused_before_the_stack_ends,
    e18_rollback_hooks_in_rollback_hooks_are_reported_before_the_stack_ends,
}

/// As many hooks as may be run one in the other.
const DEPTH: i32 = 32;

/// Each hook's block registers the next hook.
fn chain<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, id: i32) -> QueryResult<()> {
    atomic!(conn, {
        C::insert(conn, id)?;
        let log = log.clone();
        conn.after_commit(move |conn| {
            log.push(id);
            if id < 10_000 { chain(conn, &log, id + 1) } else { Ok(()) }
        })
    })
}

/// Runs `test` on a stack of the size that threads of tokio and of the standard library have.
fn with_small_stack(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, test).unwrap();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// E18, C8: those that fit run, each before its block returns; the block of the next one is rolled
/// back, with an error that names the hook.
fn e18_a_chain_of_hooks_is_refused_before_the_stack_ends<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    with_small_stack(|| chain(conn, &log, 1).unwrap());
    assert_eq!(log.ran(), (1..=DEPTH).collect::<Vec<_>>());
    assert_eq!(db.committed(), log.ran());
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    let FailureCause::Error(error) = &failure.cause else { panic!("{failure}") };
    let refused = error.downcast_ref().and_then(CommitError::of);
    let Some(CommitError::TaskCannotRun(cannot_run)) = refused else { panic!("{failure}") };
    assert_eq!(cannot_run.missing, Missing::HookDepth(32));
    assert!(cannot_run.call_site.file().ends_with("deep.rs"), "{cannot_run}");
    assert_clean(db, conn, &log);
}

/// Each hook's block is rolled back, and registers the next hook.
fn rolled_back_chain<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, id: i32) {
    let result: QueryResult<()> = atomic!(conn, {
        let log = log.clone();
        conn.after_rollback(move |conn| {
            log.push(id);
            if id < 10_000 {
                rolled_back_chain(conn, &log, id + 1);
            }
        })?;
        Err(diesel::result::Error::RollbackTransaction)
    });
    assert!(result.is_err());
}

/// E18: after a rollback there is nothing left to refuse, so that the hook that does not fit is
/// reported.
fn e18_rollback_hooks_in_rollback_hooks_are_reported_before_the_stack_ends<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    with_small_stack(|| rolled_back_chain(conn, &log, 1));
    assert_eq!(log.ran(), (1..=DEPTH).collect::<Vec<_>>());
    assert_eq!(conn.last_report().not_run().len(), 1, "{}", conn.last_report());
    assert_clean(db, conn, &log);
}
