//! What a task is given: the values of its own call; and which values are calls.

use std::sync::atomic::{AtomicI32, Ordering};

use diesel::result::QueryResult;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch, note, on_every_async_database, rolled_back};

use crate::fixture::{one_at_a_time, settled};

on_every_async_database! {
    c10_a_loop_hands_over_each_value,
    c10_arguments_are_evaluated_once_at_the_call_in_order,
    c11_later_changes_do_not_reach_the_task,
    options_and_lists_of_tasks_are_statements,
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
async fn sum(log: Log, a: i32, b: i32, c: i32) {
    log.push(a * 100 + b * 10 + c);
}

#[deferred_task]
async fn note_all(log: Log, ids: Vec<i32>) {
    ids.into_iter().for_each(|id| log.push(id));
}

#[deferred_task(blocking)]
fn note_slice(log: &Log, ids: &[i32]) {
    ids.iter().for_each(|id| log.push(*id));
}

/// C10: each call sees the value of its moment.
async fn c10_a_loop_hands_over_each_value<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (here, elsewhere) = (Log::new(), Log::new());
    atomic!(conn, -> QueryResult<()>, async {
        for id in 0..3 {
            note(&here, id);
            spawned(elsewhere.clone(), id);
            C::insert(conn, id).await?;
        }
        let mut id = 10;
        while id < 13 {
            note(&here, id);
            let sink = here.clone();
            conn.after_commit(async move |_| sink.push(id + 10))?;
            id += 1;
        }
        Ok(())
    })
    .await
    .unwrap();
    settled(&dispatcher).await;
    assert_eq!(here.ran(), [0, 1, 2, 10, 20, 11, 21, 12, 22]);
    assert_eq!(elsewhere.ran(), [0, 1, 2]);
}

/// C10: at the call, exactly once, in source order; an argument may itself be awaited.
async fn c10_arguments_are_evaluated_once_at_the_call_in_order<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (log, evaluated, counter) = (Log::new(), Log::new(), AtomicI32::new(1));
    let next = async || {
        tokio::task::yield_now().await;
        let value = counter.fetch_add(1, Ordering::Relaxed);
        evaluated.push(value);
        value
    };
    for commit in [true, false] {
        let _ = atomic!(conn, -> QueryResult<()>, async {
            sum(log.clone(), next().await, next().await, next().await);
            if commit { Ok(()) } else { rolled_back() }
        })
        .await;
    }
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [123]);
    assert_eq!(evaluated.ran(), [1, 2, 3, 4, 5, 6]);
}

/// C11: nor those of its container.
async fn c11_later_changes_do_not_reach_the_task<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        let mut ids = vec![1, 2];
        note_all(log.clone(), ids.clone());
        note_slice(&log, &ids);
        ids[0] = 9;
        note_slice(&log, &ids);
        drop(ids);
        Ok(())
    })
    .await
    .unwrap();
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [1, 2, 1, 2, 9, 2]);
}

/// C18: an `Option` or a `Vec` of tasks is a statement, whichever kind they are of.
async fn options_and_lists_of_tasks_are_statements<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let (here, elsewhere) = (Log::new(), Log::new());
    atomic!(conn, -> QueryResult<()>, async {
        Some(1).map(|id| spawned(elsewhere.clone(), id));
        None.map(|id| spawned(elsewhere.clone(), id));
        (2..4).map(|id| spawned(elsewhere.clone(), id)).collect::<Vec<_>>();
        Some(4).map(|id| blocking(&elsewhere, id));
        (5..7).map(|id| note(&here, id)).collect::<Vec<_>>();
        if here.ran().is_empty() {
            Some(7).map(|id| note(&here, id));
        }
        match C::insert(conn, 1).await {
            Ok(()) => spawned(elsewhere.clone(), 8),
            Err(error) => return Err(error),
        };
        Ok(())
    })
    .await
    .unwrap();
    settled(&dispatcher).await;
    assert_eq!((here.ran(), elsewhere.ran()), (vec![5, 6, 7], vec![1, 2, 3, 4, 8]));
}
