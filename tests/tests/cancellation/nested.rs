//! A2: an inner block that is dropped while the one around it goes on: that one cannot commit any
//! more.

use std::future::pending;

use diesel::result::QueryResult;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncConnection, SimpleAsyncConnection, TransactionManager};
use diesel_deferred::{AfterCommit, AsyncDeferredConnection, AsyncDeferredTransactionManager as Manager, atomic};
use diesel_deferred_tests::{
    Database, Log, Moment, NOTHING, Scratch, Session, assert_clean_async, cut, cut_at, note, on_every_async_database,
    refusal, rolled_back,
};

use tokio::sync::Notify;

use crate::harness::is_refusal;

on_every_async_database! {
    a02_a_transaction_of_generic_code,
    a02_a_dropped_inner_block_dooms_the_outer_one,
    a02_a_dropped_inner_transaction_dooms_the_outer_one,
    a02_a_dropped_inner_block_of_a_hook,
    a02_a_dropped_block_of_a_before_commit_hook,
    a02_a_cancelled_connection_takes_no_tasks,
    a02_what_comes_behind_a_nested_block_around_a_dropped_one,
    a02_what_comes_behind_a_foreign_transaction_around_a_dropped_one,
}

type Conn<C> = AsyncDeferredConnection<C>;

/// How the outer block goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Commits,
    Swallows,
    Fails,
    Panics,
}

async fn inner<C: Session>(conn: &mut Conn<C>, log: &Log) -> QueryResult<()> {
    atomic!(conn, async {
        note(log, 2);
        note(log, 52).after_rollback(conn)?;
        C::insert(conn, 2).await?;
        C::insert(conn, 3).await
    })
    .await
}

async fn inner_transaction<C: Session>(conn: &mut Conn<C>, log: &Log) -> QueryResult<()> {
    conn.transaction(async |conn| {
        note(log, 2).after_commit(conn)?;
        note(log, 52).after_rollback(conn)?;
        C::insert(conn, 2).await
    })
    .await
}

async fn a02_a_dropped_inner_block_dooms_the_outer_one<C: Session>(db: &Scratch<C::Blocking>) {
    for then in [Then::Commits, Then::Swallows, Then::Fails, Then::Panics] {
        doomed::<C>(db, then, async |conn, log| inner(conn, log).await).await;
    }
}

async fn a02_a_dropped_inner_transaction_dooms_the_outer_one<C: Session>(db: &Scratch<C::Blocking>) {
    doomed::<C>(db, Then::Swallows, async |conn, log| inner_transaction(conn, log).await).await;
}

async fn doomed<C: Session>(
    db: &Scratch<C::Blocking>,
    then: Then,
    inner: impl AsyncFn(&mut Conn<C>, &Log) -> QueryResult<()>,
) {
    let (mut recovered, mut refused, mut untouched) = (0, 0, 0);
    // On SQLite a statement may be done before its future is first polled: with the machine busy,
    // all of them. Then once more.
    for moment in [Moment::Waiting, Moment::Woken].repeat(20) {
        if moment == Moment::Waiting && refused > 0 && (recovered > 0 || C::Blocking::NAME == "MariaDB") {
            break;
        }
        for polls in 0.. {
            let context = format!("{then:?}, {polls} polls, {moment:?}");
            let conn = &mut db.connect_async::<C>().await;
            let (log, mut completed, mut spoilt) = (Log::new(), false, false);
            let outer = atomic!(conn, -> QueryResult<()>, async {
                C::insert(conn, 1).await?;
                note(&log, 1);
                note(&log, 51).after_rollback(conn)?;
                completed = cut(inner(conn, &log), polls, moment).await.is_some();
                // Otherwise it had not begun.
                spoilt = polls > 0 && !completed;
                if completed {
                    return rolled_back();
                }
                match then {
                    Then::Commits => {}
                    Then::Swallows if spoilt => {
                        let statement = conn.batch_execute("INSERT INTO witness VALUES (4)").await;
                        assert!(is_refusal(&statement.unwrap_err()), "{context}");
                        let nested = atomic!(conn, -> QueryResult<()>, async { C::insert(conn, 5).await }).await;
                        assert_eq!(refusal(&nested), "Cancelled", "{context}");
                        let nested = conn.transaction(async |conn| C::insert(conn, 5).await).await;
                        assert_eq!(refusal(&nested), "Cancelled", "{context}");
                    }
                    Then::Swallows => {}
                    Then::Fails => return rolled_back(),
                    Then::Panics => std::panic::resume_unwind(Box::new("in the outer block")),
                }
                Ok(())
            });
            let outer = if then == Then::Panics {
                use futures_util::FutureExt;
                std::panic::AssertUnwindSafe(outer).catch_unwind().await.unwrap_or_else(|_| rolled_back())
            } else {
                outer.await
            };
            if completed {
                assert!(!spoilt && outer.is_err(), "{context}");
                assert_eq!(log.ran(), [52, 51]);
                assert_clean_async(db, conn, &log).await;
                break;
            }
            if !spoilt {
                untouched += 1;
                if outer.is_ok() {
                    assert_eq!((log.ran(), db.committed().contains(&1)), (vec![1], true));
                    let sql = "DELETE FROM witness WHERE id = 1";
                    diesel::connection::SimpleConnection::batch_execute(&mut db.observer(), sql).unwrap();
                }
                continue;
            }
            match then {
                Then::Commits | Then::Swallows => assert_eq!(refusal(&outer), "Cancelled", "{context}"),
                Then::Fails | Then::Panics => assert_eq!(outer, rolled_back(), "{context}"),
            }
            let mut ran = log.ran();
            ran.sort();
            ran.retain(|id| *id != 52);
            assert_eq!(ran, [51], "rollback tasks only, once: {context}");
            assert!(log.ran().iter().filter(|id| **id == 52).count() <= 1);
            assert!(db.committed().iter().all(|id| *id >= 1000), "{context}");
            assert_eq!(conn.pending(), [], "{context}");
            if conn.is_broken() {
                refused += 1;
                let next = atomic!(conn, -> QueryResult<()>, async { C::insert(conn, 6).await }).await;
                assert!(is_refusal(&next.unwrap_err()), "{context}");
            } else {
                recovered += 1;
                assert_clean_async(db, conn, &log).await;
            }
        }
    }
    assert_eq!(recovered > 0, C::Blocking::NAME != "MariaDB", "{recovered}, {refused}, {untouched}");
    assert!(refused > 0 && untouched > 0, "{recovered}, {refused}, {untouched}");
}

/// A hook that runs behind the COMMIT and drops a block of its own: that is its failure, and what
/// was committed stays.
async fn a02_a_dropped_inner_block_of_a_hook<C: Session>(db: &Scratch<C::Blocking>) {
    let mut conn = db.connect_async::<C>().await;
    let log = Log::new();
    let sink = log.clone();
    let committed = atomic!(conn, async {
        conn.after_commit(async move |conn| -> QueryResult<()> {
            let block = atomic!(conn, async {
                C::insert(conn, 2).await?;
                note(&sink, 2);
                std::future::pending::<QueryResult<()>>().await
            });
            assert!(tokio::time::timeout(std::time::Duration::from_millis(300), block).await.is_err());
            Ok(())
        })?;
        note(&log, 1);
        C::insert(conn, 1).await
    })
    .await;
    assert_eq!(committed, Ok(()));
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
    let failures: Vec<_> = conn.last_report().failures().iter().map(|failure| failure.cause.to_string()).collect();
    assert!(failures.len() == 1 && failures[0].contains("left a transaction open"), "{failures:?}");
    assert_eq!(conn.last_report().ran(), 2);
    if C::Blocking::NAME == "MariaDB" {
        assert!(conn.is_broken());
        assert!(is_refusal(&C::insert(&mut conn, 3).await.unwrap_err()));
    } else {
        assert_clean_async(db, &mut conn, &log).await;
    }
    drop(conn);
    assert_ne!(log.ran(), NOTHING);
}

/// What comes behind a nested block that held the dropped one, and has ended, is not committed by
/// itself.
async fn a02_what_comes_behind_a_nested_block_around_a_dropped_one<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        let nested: QueryResult<()> = atomic!(conn, async {
            dropped(conn, &log).await;
            Ok(())
        })
        .await;
        assert!(is_refusal(&nested.expect_err("a block in it was dropped")));
        behind(conn, &log).await
    })
    .await;
    assert!(is_refusal(&result.expect_err("a block in it was dropped")));
    assert_eq!((db.committed(), log.ran()), (NOTHING.to_vec(), vec![52]));
}

/// The same of a transaction that is opened by the transaction manager, as the method of a pooled
/// connection does, and by code which is generic over diesel-async's connections.
async fn a02_what_comes_behind_a_foreign_transaction_around_a_dropped_one<C: Session>(db: &Scratch<C::Blocking>) {
    for (by_manager, fails) in [(false, false), (false, true), (true, false), (true, true)] {
        let conn = &mut db.connect_async::<C>().await;
        let log = Log::new();
        let result: QueryResult<()> = atomic!(conn, async {
            if by_manager {
                Manager::begin_transaction(conn).await?;
                dropped(conn, &log).await;
                let ended = if fails {
                    Manager::rollback_transaction(conn).await
                } else {
                    Manager::commit_transaction(conn).await
                };
                assert!(ended.is_err());
            } else {
                let nested = AsyncConnection::transaction(conn, async |conn| {
                    dropped(conn, &log).await;
                    if fails { rolled_back() } else { QueryResult::Ok(()) }
                });
                assert!(nested.await.is_err());
            }
            behind(conn, &log).await
        })
        .await;
        assert!(is_refusal(&result.expect_err("a block in it was dropped")));
        assert_eq!((db.committed(), log.ran()), (NOTHING.to_vec(), vec![52]));
    }
}

/// A2: code that is generic over diesel-async's connections calls the trait's `transaction`.
/// Cancelled, it is noticed as `atomic!` is.
async fn a02_a_transaction_of_generic_code<C: Session>(db: &Scratch<C::Blocking>) {
    async fn library<A: AsyncConnection + AfterCommit>(conn: &mut A, log: &Log, there: &Notify) -> QueryResult<()> {
        let transaction = conn.transaction(async |conn| {
            conn.batch_execute("INSERT INTO witness VALUES (1)").await?;
            note(log, 1).after_commit(conn)?;
            note(log, 2).after_rollback(conn)?;
            there.notify_one();
            pending().await
        });
        transaction.await
    }
    let conn = &mut db.connect_async::<C>().await;
    let (log, there) = (Log::new(), Notify::new());
    cut_at(library(conn, &log, &there), &there).await;
    assert_eq!(log.ran(), [2]);
    assert_eq!(refusal(&C::insert(conn, 3).await), "Cancelled");
    assert_eq!(db.committed(), NOTHING);
}

/// A block that is dropped between two statements.
async fn dropped<C: Session>(conn: &mut Conn<C>, log: &Log) {
    let there = Notify::new();
    let block = async {
        inner(conn, log).await?;
        atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 5).await?;
            there.notify_one();
            pending().await
        })
        .await
    };
    cut_at(block, &there).await;
}

async fn behind<C: Session>(conn: &mut Conn<C>, log: &Log) -> QueryResult<()> {
    let statement = C::insert(conn, 4).await;
    assert!(is_refusal(&statement.expect_err("it would be committed by itself")));
    assert!(is_refusal(&inner(conn, log).await.expect_err("so would its rows")));
    Ok(())
}

/// A2: a before-commit hook that drops a block of its own has spoilt its transaction.
async fn a02_a_dropped_block_of_a_before_commit_hook<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let mut dropped = false;
    // Until the SAVEPOINT was under way when its future was dropped.
    for id in 0..50 {
        let (sender, receiver) = std::sync::mpsc::channel();
        let result = atomic!(conn, -> QueryResult<()>, async {
            conn.before_commit(async move |conn: &mut Conn<C>| {
                let block = atomic!(conn, -> QueryResult<()>, async { Ok(()) });
                let completed = cut(block, 1, Moment::Waiting).await.is_some();
                sender.send(completed).expect("somebody waits");
                Ok(())
            })?;
            note(&log, id);
            C::insert(conn, id).await
        })
        .await;
        if !receiver.recv().expect("the hook ran") {
            dropped = true;
            assert!(result.is_err());
            break;
        }
        assert_eq!(result, Ok(()));
    }
    assert!(dropped);
    assert_eq!(log.ran(), db.committed(), "a hook ran if and only if its row is there");
}

/// A2: nothing can be registered where nothing will be committed.
async fn a02_a_cancelled_connection_takes_no_tasks<C: Session>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let inside = Notify::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        inside.notify_one();
        pending().await
    });
    tokio::select! {
        result = block => panic!("{result:?}"),
        () = inside.notified() => {}
    }
    assert_eq!(refusal(&note(&log, 1).after_commit(conn)), "Cancelled");
    assert_eq!(refusal(&note(&log, 2).after_rollback(conn)), "Cancelled");
    assert_eq!(refusal(&conn.after_commit(async |_| ())), "Cancelled");
    assert!(note(&log, 3).after_commit_or_now(conn).is_err());
    assert_eq!((log.ran(), conn.pending()), (vec![], vec![]));
}
