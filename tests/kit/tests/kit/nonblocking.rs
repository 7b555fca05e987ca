//! The kit on asynchronous connections.

use diesel::result::QueryResult;
use diesel_async::AsyncConnection;
use diesel_deferred::testing::{Mode, TaskRows, advance, capture_async, drain, set_mode, take_held};
use diesel_deferred::{
    AsyncDeferredConnection, Attempt, BoxError, Dispatcher, assert_deferred, assert_enqueued, atomic, deferred_task,
    refute_deferred, refute_enqueued,
};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, on_every_async_database};
use std::time::Duration;

use crate::tasks::{blocking, plain, spawned, stored};

#[deferred_task(durable)]
pub(crate) async fn stored_async(#[state] notes: Notes, #[state] attempt: Attempt, id: i32) -> Result<(), BoxError> {
    tokio::task::yield_now().await;
    notes.add(format!("stored_async {id} {}", attempt.number()));
    Ok(())
}

on_every_async_database! {
    t02_nothing_runs_and_the_calls_are_in_order,
    t08_t09_rows_are_found_and_drained,
    t11_modes,
    t02_a_capture_that_is_dropped_holds_nothing_any_more,
}

async fn begun<C: AsyncDatabase>(db: &Scratch<C::Blocking>) -> AsyncDeferredConnection<C> {
    C::Blocking::migrate(&mut db.observer());
    let mut conn = AsyncDeferredConnection::<C>::establish(db.url()).await.expect("connect");
    conn.begin_test_transaction().await.expect("begin");
    conn
}

async fn call<C: AsyncDatabase>(conn: &mut AsyncDeferredConnection<C>, notes: &Notes, id: i32) -> QueryResult<()> {
    atomic!(conn, async {
        plain(notes.clone(), id, "");
        spawned(notes.clone(), id);
        blocking(notes.clone(), id);
        let notes = notes.clone();
        conn.after_commit(async move |_conn| notes.add(format!("closure {id}")))?;
        stored_async(id);
        Ok(())
    })
    .await
}

/// T2
async fn t02_nothing_runs_and_the_calls_are_in_order<C: AsyncDatabase>(db: &Scratch<C::Blocking>)
where
    AsyncDeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun::<C>(db).await, Notes::default());
    let captured = capture_async(conn, async |conn| call(conn, &notes, 1).await).await;
    assert_eq!(captured.len(), 5);
    assert_deferred!(captured, spawned(_, 1));
    assert_deferred!(captured, stored_async(1));
    refute_deferred!(captured, plain(_, 2, _));
    assert!(notes.all().is_empty());
    set_mode(conn, Mode::Inline);
    captured.run(conn).await.unwrap();
    assert_eq!(notes.all(), ["plain 1 ", "spawned 1", "blocking 1", "closure 1"]);
    assert_eq!(conn.last_report().ran(), 4);
}

/// T8, T9
async fn t08_t09_rows_are_found_and_drained<C: AsyncDatabase>(db: &Scratch<C::Blocking>)
where
    AsyncDeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun::<C>(db).await, Notes::default());
    let hour = Duration::from_secs(3600);
    atomic!(conn, -> QueryResult<()>, async {
        stored_async(1);
        stored_async(2).delay(hour).after_commit(conn)?;
        assert_deferred!(conn, stored_async(_).times(2));
        Ok(())
    })
    .await
    .unwrap();
    assert_enqueued!(conn, stored_async(2).delay(hour)).await;
    refute_enqueued!(conn, stored(_, _)).await;
    let drained = drain(conn).state(notes.clone()).run().await;
    assert!(drained.is_clean() && drained.ran() == 1, "{drained}");
    advance(conn, hour).await;
    assert_eq!(drain(conn).state(notes.clone()).run().await.ran(), 1);
    assert_eq!(notes.all(), ["stored_async 1 1", "stored_async 2 1"]);
    refute_enqueued!(conn, stored_async(_)).await;
    assert!(db.tasks().is_empty());
}

/// T11
async fn t11_modes<C: AsyncDatabase>(db: &Scratch<C::Blocking>)
where
    AsyncDeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun::<C>(db).await, Notes::default());
    conn.set_dispatcher(Dispatcher::builder().state(notes.clone()).build());
    set_mode(conn, Mode::Manual);
    call(conn, &notes, 1).await.unwrap();
    assert_deferred!(conn, blocking(_, 1));
    assert_deferred!(conn, stored_async(1));
    assert!(notes.all().is_empty());
    assert_eq!(take_held(conn).len(), 5);
    assert_eq!(drain(conn).run().await.ran(), 1);
    set_mode(conn, Mode::Inline);
    call(conn, &notes, 2).await.unwrap();
    assert_eq!(
        notes.all(),
        ["stored_async 1 1", "plain 2 ", "spawned 2", "blocking 2", "closure 2", "stored_async 2 1"]
    );
    spawned(notes.clone(), 3).after_commit_or_now(conn).unwrap();
    set_mode(conn, Mode::Real);
    call(conn, &notes, 4).await.unwrap();
    notes.wait_until(|all| all.contains(&"spawned 4".to_owned())).await;
    assert_enqueued!(conn, stored_async(4)).await;
}

/// A2
async fn t02_a_capture_that_is_dropped_holds_nothing_any_more<C: AsyncDatabase>(db: &Scratch<C::Blocking>)
where
    AsyncDeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun::<C>(db).await, Notes::default());
    {
        let (committed, has_committed) = tokio::sync::oneshot::channel();
        let captured = capture_async(conn, async |conn| {
            call(conn, &notes, 1).await.unwrap();
            committed.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            _ = captured => unreachable!("it waits for ever"),
            ended = has_committed => ended.unwrap(),
        }
    }
    call(conn, &notes, 2).await.unwrap();
    notes.wait_until(|all| all.contains(&"spawned 2".to_owned())).await;
    refute_deferred!(conn, spawned(_, 1));
}
