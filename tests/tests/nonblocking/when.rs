//! When tasks run, in which order, and with what.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use diesel::result::{Error, QueryResult};
use diesel_deferred::{Dispatcher, FailureCause, atomic, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Log, NOTHING, Scratch, note, note_failing, on_every_async_database,
    rolled_back,
};
use tokio::sync::Notify;

use crate::fixture::{SOON, assert_clean, noting, one_at_a_time, settled};

on_every_async_database! {
    c01_a_plain_task_runs_before_the_block_returns,
    c01_a_spawned_task_is_not_waited_for,
    c02_a_rolled_back_block_runs_nothing,
    c03_plain_tasks_run_in_the_order_of_registration,
    c03_spawned_tasks_are_started_in_the_order_of_registration,
    c04_each_call_runs_exactly_once,
    c05_the_rows_are_committed_when_a_task_runs,
    c14_hooks_belong_to_their_connection,
    c16_the_value_is_not_lost_when_a_hook_fails,
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    tokio::task::yield_now().await;
    log.push(id);
}

#[deferred_task(blocking)]
fn blocking(log: &Log, id: i32) {
    log.push(id);
}

#[deferred_task]
async fn spawned_behind(gate: Arc<Notify>, log: Log, id: i32) {
    gate.notified().await;
    log.push(id);
}

/// C1: a task has not run at the last statement of the block; a plain one has when `atomic!`
/// returns.
async fn c01_a_plain_task_runs_before_the_block_returns<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let block = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        noting(conn, &log, 2)?;
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    });
    assert_eq!(db.committed(), NOTHING, "a future does nothing before it is awaited");
    block.await.unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 2], vec![1]));
    assert_clean(db, conn, &log).await;
}

/// C1: it has been started or waits for its turn when `atomic!` returns, and is not awaited: this
/// one ends later.
async fn c01_a_spawned_task_is_not_waited_for<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (log, gate) = (Log::new(), Arc::new(Notify::new()));
    atomic!(conn, -> QueryResult<()>, async {
        spawned_behind(Arc::clone(&gate), log.clone(), 1);
        blocking(&log, 2);
        note(&log, 3);
        assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (0, 0));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [3], "the plain one has run");
    assert_eq!(dispatcher.in_flight() + dispatcher.waiting(), 2);
    assert_eq!(conn.last_report().ran(), 3, "handed over");
    gate.notify_one();
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [3, 1, 2]);
}

/// C2: not on that, the next, or any later transaction.
async fn c02_a_rolled_back_block_runs_nothing<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        noting(conn, &log, 2)?;
        spawned(log.clone(), 3);
        blocking(&log, 4);
        rolled_back()
    })
    .await;
    assert_eq!(result, rolled_back());
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log).await;
    settled(&dispatcher).await;
    assert_eq!(log.ran(), NOTHING);
}

/// C3: over the whole tree, whatever they are registered by.
async fn c03_plain_tasks_run_in_the_order_of_registration<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 2);
            atomic!(conn, -> QueryResult<()>, async {
                noting(conn, &log, 3)?;
                Ok(())
            })
            .await?;
            note(&log, 4).after_commit(conn)?;
            Ok(())
        })
        .await?;
        noting(conn, &log, 5)?;
        note(&log, 6);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6]);
}

/// C3: of all kinds in one; with one at a time they also end in that order.
async fn c03_spawned_tasks_are_started_in_the_order_of_registration<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (here, elsewhere) = (Log::new(), Log::new());
    atomic!(conn, -> QueryResult<()>, async {
        for id in 0..10 {
            spawned(elsewhere.clone(), 10 * id);
            note(&here, id);
            atomic!(conn, -> QueryResult<()>, async {
                blocking(&elsewhere, 10 * id + 1);
                spawned(elsewhere.clone(), 10 * id + 2).after_commit(conn)?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(here.ran(), (0..10).collect::<Vec<_>>());
    settled(&dispatcher).await;
    assert_eq!(elsewhere.ran(), (0..10).flat_map(|id| [10 * id, 10 * id + 1, 10 * id + 2]).collect::<Vec<_>>());
}

/// C4: a later transaction does not run it again.
async fn c04_each_call_runs_exactly_once<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (here, elsewhere) = (Log::new(), Log::new());
    for id in 0..4 {
        let result = atomic!(conn, -> QueryResult<()>, async {
            note(&here, id);
            spawned(elsewhere.clone(), id);
            if id % 2 == 0 { Ok(()) } else { rolled_back() }
        })
        .await;
        assert_eq!(result.is_ok(), id % 2 == 0);
    }
    settled(&dispatcher).await;
    assert_eq!((here.ran(), elsewhere.ran()), (vec![0, 2], vec![0, 2]));
}

/// C5: from another connection.
async fn c05_the_rows_are_committed_when_a_task_runs<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    let (watcher, sink) = (db.watcher(), log.clone());
    atomic!(conn, -> QueryResult<()>, async {
        conn.after_commit(async move |_| watcher().into_iter().for_each(|id| sink.push(id)))?;
        let (watcher, sink) = (db.watcher(), log.clone());
        look(Arc::new(watcher), sink);
        C::insert(conn, 1).await?;
        assert_eq!(db.committed(), NOTHING);
        Ok(())
    })
    .await
    .unwrap();
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [1, 1]);
}

type Watcher = Arc<dyn Fn() -> Vec<i32> + Send + Sync>;

#[deferred_task(blocking)]
fn look(watcher: Watcher, log: Log) {
    watcher().into_iter().for_each(|id| log.push(id));
}

/// C14: each fires at its own connection's commit only.
async fn c14_hooks_belong_to_their_connection<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let (a, b) = (&mut db.connect_async::<C>().await, &mut db.connect_async::<C>().await);
    let log = Log::new();
    let result = atomic!(a, -> QueryResult<()>, async {
        note(&log, 1);
        atomic!(b, -> QueryResult<()>, async {
            note(&log, 2);
            note(&log, 3).after_commit(a)?;
            noting(b, &log, 4)
        })
        .await?;
        assert_eq!(log.ran(), [2, 4], "b has committed, a has not");
        rolled_back()
    })
    .await;
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [2, 4]);
    assert_clean(db, a, &log).await;
    assert_clean(db, b, &log).await;
}

/// C16, E1, E3: the others run, and the block's value comes out.
async fn c16_the_value_is_not_lost_when_a_hook_fails<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let value = atomic!(conn, -> QueryResult<_>, async {
        note_failing(&log, 1);
        note(&log, 2);
        Ok(String::from("value"))
    })
    .await
    .unwrap();
    assert_eq!((value.as_str(), log.ran()), ("value", vec![1, 2]));
    let [failure] = conn.last_report().failures() else { panic!("{}", conn.last_report()) };
    assert!(matches!(&failure.cause, FailureCause::Error(error) if error.to_string() == "task 1 failed"));
}

#[deferred_task(blocking)]
fn wait_for(heard: Arc<std::sync::Mutex<Receiver<i32>>>, log: &Log) -> Result<(), String> {
    let id = heard.lock().map_err(|error| error.to_string())?.recv_timeout(SOON).map_err(|error| error.to_string())?;
    log.push(id);
    Ok(())
}

/// A blocking task runs on another thread: it waits here for what the only thread of the runtime
/// says afterwards.
#[tokio::test(flavor = "current_thread")]
async fn a_blocking_task_blocks_no_thread_of_the_runtime() {
    let db = Scratch::<diesel::SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    let (say, heard) = std::sync::mpsc::channel();
    atomic!(conn, -> QueryResult<()>, async {
        wait_for(Arc::new(std::sync::Mutex::new(heard)), &log);
        Ok(())
    })
    .await
    .unwrap();
    say.send(7).unwrap();
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [7]);
}

/// C2: a task that could not run is an error of the block before its COMMIT.
#[tokio::test]
async fn a_task_without_a_dispatcher_fails_the_block() {
    let db = Scratch::<diesel::SqliteConnection>::new();
    let conn = &mut db.connect_async::<AsyncSqliteConnection>().await;
    let dispatcher = Dispatcher::builder().build();
    conn.set_dispatcher(dispatcher.clone());
    settled(&dispatcher).await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        AsyncSqliteConnection::insert(conn, 1).await?;
        note(&log, 1);
        spawned(log.clone(), 2);
        Ok(())
    })
    .await;
    let error = result.unwrap_err();
    assert!(!matches!(error, Error::RollbackTransaction) && error.to_string().contains("spawned"), "{error}");
    assert_eq!((log.ran(), db.committed()), (NOTHING.to_vec(), NOTHING.to_vec()));
}
