//! A2: what a connection does between the block that was dropped and the next one.

use diesel::prelude::*;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection, TransactionManager};
use diesel_deferred::{AsyncDeferredConnection, AsyncDeferredTransactionManager, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, Scratch, Session, assert_clean_async, cut_at, note, on_every_async_database, refusal, witness,
};
use tokio::sync::Notify;

use crate::harness::note_async;

on_every_async_database! {
    a02_all_use_is_refused,
    a02_the_next_outermost_block_cleans_up,
    a02_what_did_not_run_is_told_of,
}

type Conn<C> = AsyncDeferredConnection<C>;

/// A block that is dropped between two statements.
async fn dropped<C: Session>(conn: &mut Conn<C>, log: &Log) {
    let there = Notify::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        note(log, 1);
        note(log, 51).after_rollback(conn)?;
        let (commit, rollback) = (log.clone(), log.clone());
        conn.after_commit(async move |_| commit.push(2))?;
        conn.after_rollback(async move |_| rollback.push(52))?;
        note_async(log.clone(), 1);
        C::insert(conn, 1).await?;
        there.notify_one();
        std::future::pending().await
    });
    cut_at(block, &there).await;
}

async fn a02_all_use_is_refused<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    dropped(conn, &log).await;
    assert_eq!(log.ran(), [51], "rollback tasks run at once, nothing else does");
    assert!(conn.is_broken(), "pools throw it away");
    assert!(AsyncDeferredTransactionManager::is_broken_transaction_manager(conn));
    assert_eq!(refusal(&C::insert(conn, 2).await), "Cancelled");
    assert_eq!(refusal(&conn.batch_execute("SELECT 1").await), "Cancelled");
    assert_eq!(refusal(&conn.batch_execute("COMMIT").await), "Cancelled");
    assert_eq!(db.committed(), [0; 0]);
}

async fn a02_the_next_outermost_block_cleans_up<C: Session>(db: &Scratch<C::Blocking>) {
    for way in 0..4 {
        let conn = &mut db.connect_async::<C>().await;
        let log = Log::new();
        dropped(conn, &log).await;
        let ended = match way {
            0 => atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await,
            1 => atomic!(conn, outermost, retries = 1, -> QueryResult<()>, async { Ok(()) }).await,
            2 => conn.transaction(async |_| QueryResult::Ok(())).await,
            _ => AsyncDeferredTransactionManager::rollback_transaction(conn).await,
        };
        if C::Blocking::NAME == "MariaDB" {
            assert_eq!(refusal(&ended), "Cancelled", "{way}");
            assert!(conn.is_broken());
        } else {
            assert_eq!(ended, Ok(()), "{way}");
            assert_clean_async(db, conn, &log).await;
        }
        assert_eq!(log.ran(), [51], "{way}");
        assert!(!db.committed().contains(&1));
    }
    let conn = &mut db.connect_async::<C>().await;
    dropped(conn, &Log::new()).await;
    let committed = AsyncDeferredTransactionManager::commit_transaction(conn).await;
    assert_eq!(refusal(&committed), "Cancelled");
    assert!(!db.committed().contains(&1));
}

async fn a02_what_did_not_run_is_told_of<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    dropped(conn, &log).await;
    let report = conn.last_report();
    let not_run: Vec<_> = report.not_run().iter().map(|hook| hook.kind).collect();
    assert_eq!(not_run, [HookKind::AfterRollback], "the rollback closure: {report}");
    assert_eq!(report.ran(), 1);
}

/// Statements that give rows.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_rows_are_refused() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut db.connect_async::<diesel_async::AsyncPgConnection>().await;
    dropped(conn, &Log::new()).await;
    let ids = witness::table.select(witness::id);
    assert_eq!(refusal(&ids.load::<i32>(conn).await), "Cancelled");
    assert_eq!(refusal(&ids.first::<i32>(conn).await), "Cancelled");
    assert_eq!(refusal(&ids.load_stream::<i32>(conn).await.map(drop)), "Cancelled");
}

/// A COMMIT that was dropped may have committed: nothing runs, all is reported, and the connection
/// is not used again.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_dropped_in_a_commit_that_commits() {
    use diesel::connection::SimpleConnection;
    use diesel_deferred_tests::{NOTHING, eventually};

    let db = &Scratch::<PgConnection>::new();
    // COMMIT waits for a lock, so that it is known to be under way.
    db.observer()
        .batch_execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON witness DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .unwrap();
    let mut observer = db.observer();
    observer.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(4711)").unwrap();
    let mut conn = db.connect_async::<diesel_async::AsyncPgConnection>().await;
    let session = diesel_async::AsyncPgConnection::session(conn.inner_mut()).await;
    let log = Log::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        note(&log, 51).after_rollback(conn)?;
        diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn).await.map(drop)
    });
    let mut watcher = db.observer();
    let waits = format!("SELECT 1 FROM pg_locks WHERE pid = {session} AND NOT granted");
    let in_commit = eventually("COMMIT waits", || {
        diesel::RunQueryDsl::execute(diesel::sql_query(&waits), &mut watcher).unwrap() == 1
    });
    tokio::select! {
        biased;
        result = block => panic!("{result:?}"),
        () = in_commit => {}
    }
    assert!(conn.is_broken());
    let kinds: Vec<_> = conn.last_report().not_run().iter().map(|hook| hook.kind).collect();
    assert_eq!(kinds, [HookKind::AfterCommit, HookKind::AfterRollback]);
    observer.batch_execute("ROLLBACK").unwrap();
    eventually("it commits", || db.committed() == [1]).await;
    for _ in 0..2 {
        let next = atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await;
        assert_eq!(refusal(&next), "Cancelled");
    }
    assert_eq!(log.ran(), NOTHING);
}
