//! What a hook is given: the values of its own call.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{Database, Log, Scratch, note, on_every_database, rolled_back};

on_every_database! {
    c10_a_loop_hands_over_each_value,
    c10_arguments_are_evaluated_once_at_the_call_in_order,
    c11_later_changes_do_not_reach_the_task,
    c11_captures_of_any_size_arrive_and_are_dropped_once,
}

/// C10: each call sees the value of its moment, not of the last turn.
fn c10_a_loop_hands_over_each_value<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        for id in 0..3 {
            note(&log, id);
        }
        let mut id = 10;
        while id < 13 {
            note(&log, id);
            id += 1;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [0, 1, 2, 10, 11, 12]);
}

#[deferred_task]
fn sum(log: &Log, a: i32, b: i32, c: i32) {
    log.push(a * 100 + b * 10 + c);
}

/// C10: at the call, exactly once, in source order; also when the task never runs.
fn c10_arguments_are_evaluated_once_at_the_call_in_order<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let (log, evaluated) = (Log::new(), Log::new());
    let counter = AtomicI32::new(1);
    let next = || {
        let value = counter.fetch_add(1, Ordering::Relaxed);
        evaluated.push(value);
        value
    };
    atomic!(conn, -> QueryResult<()>, {
        sum(&log, next(), next(), next());
        assert_eq!(evaluated.ran(), [1, 2, 3], "at the call");
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [123]);
    assert_eq!(evaluated.ran(), [1, 2, 3], "once");
    let result: QueryResult<()> = atomic!(conn, {
        sum(&log, next(), next(), next());
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(evaluated.ran(), [1, 2, 3, 4, 5, 6]);
}

#[deferred_task]
fn note_all(log: &Log, ids: &[i32], text: &str, owned: Vec<i32>) {
    ids.iter().for_each(|id| log.push(*id));
    log.push(text.len() as i32);
    owned.into_iter().for_each(|id| log.push(id));
}

/// C11: changing the variable, or the container that it came from, does not change what the task
/// receives.
fn c11_later_changes_do_not_reach_the_task<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let (mut ids, mut text) = (vec![1, 2], String::from("abc"));
        note_all(&log, &ids, &text, ids.clone());
        note(&log, ids[0]);
        ids[0] = 9;
        ids.push(9);
        text.push_str("defg");
        note(&log, ids[0]);
        drop((ids, text));
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2, 3, 1, 2, 1, 9]);
}

/// A large value that tells when it is dropped.
#[derive(Debug, Clone)]
struct Large([u64; 512], #[expect(dead_code, reason = "counts the copies that are alive")] Arc<()>);

#[deferred_task]
fn note_large(log: &Log, large: Large) {
    log.push(large.0.iter().sum::<u64>() as i32);
}

#[deferred_task]
fn note_nothing() {}

/// C11: nothing, or 4 KiB: what was captured is what arrives, and it is dropped, run or not.
fn c11_captures_of_any_size_arrive_and_are_dropped_once<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let (log, alive) = (Log::new(), Arc::new(()));
    for commit in [true, false] {
        let _ = atomic!(conn, -> QueryResult<()>, {
            note_nothing();
            note_large(&log, Large([2; 512], Arc::clone(&alive)));
            let large = Large([3; 512], Arc::clone(&alive));
            let sink = log.clone();
            conn.after_commit(move |_| sink.push(large.0.iter().sum::<u64>() as i32))?;
            conn.after_commit(|_| ())?;
            assert_eq!(Arc::strong_count(&alive), 3);
            if commit { Ok(()) } else { rolled_back() }
        });
        assert_eq!(Arc::strong_count(&alive), 1, "committed: {commit}");
    }
    assert_eq!(log.ran(), [1024, 1536]);
}
