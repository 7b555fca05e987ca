//! Tasks of one key.

use std::collections::HashMap;
use std::time::Duration;

use diesel_deferred::{Attempt, cancel_task, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, hold, note, tell, with, worker, worker_of};

on_every_async_database!(
    tasks_of_one_key_run_one_after_the_other,
    two_workers_keep_the_order_of_a_key,
    a_task_that_is_tried_again_holds_up_its_key_only,
    a_task_for_later_holds_up_nobody,
    an_earlier_call_that_becomes_due_is_next,
    a_dead_letter_or_a_cancelled_task_holds_up_nobody,
    a_key_spans_tasks_and_queues,
);

#[deferred_task(durable, key = "order-{order}")]
async fn step(#[state] notes: &Notes, order: u32, step: u32) {
    notes.add(format!("in {order} {step}"));
    tokio::task::yield_now().await;
    notes.add(format!("out {order} {step}"));
}

/// Fails the first time, and waits long then.
#[deferred_task(durable, backoff = "3600s")]
async fn fail_first(#[state] notes: &Notes, #[state] attempt: Attempt, text: &str) -> Result<(), &'static str> {
    notes.add(format!("{text}, attempt {}", attempt.number()));
    if attempt.number() == 1 { Err("not the first time") } else { Ok(()) }
}

/// Each order's steps went in and out one after the other, and in their order.
fn assert_in_order(all: &[String], orders: u32, steps: u32) {
    let mut by_order: HashMap<&str, Vec<&str>> = HashMap::new();
    for note in all {
        let mut words = note.split(' ');
        let (what, order) = (words.next().expect("what"), words.next().expect("the order"));
        let step = words.next().expect("the step");
        let seen = by_order.entry(order).or_default();
        if what == "out" {
            assert_eq!(seen.last(), Some(&step), "another one of order {order} ran meanwhile");
        } else {
            seen.push(step);
        }
    }
    assert_eq!(by_order.len(), orders as usize);
    let expected: Vec<_> = (0..steps).map(|step| step.to_string()).collect();
    for (order, seen) in by_order {
        assert_eq!(seen, expected, "order {order}");
    }
}

/// Q12: "concurrency limit per key", D9: per-key order.
async fn tasks_of_one_key_run_one_after_the_other<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        // The order of the calls counts, whatever their priorities.
        (0..10).try_for_each(|at| {
            (0..5).try_for_each(|order| step(order, at).priority(10 - at as i16).after_commit(conn).map(drop))
        })
    });
    // What ends makes the next one of its key ready, without a look in between.
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_secs(600)));
    let all = notes.wait_for(100).await;
    assert_in_order(&all, 5, 10);
    at_work.stop().await;
}

/// D9: "per-key order is kept under several relays". PostgreSQL's SKIP LOCKED alone would let the
/// second one of a key go by the first.
async fn two_workers_keep_the_order_of_a_key<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let workers: Vec<_> = (0..3).map(|_| at_work!(worker_of::<A>(db, &notes, 2))).collect();
    for at in 0..40 {
        committed(db, |conn| (0..3).try_for_each(|order| step(order, at).after_commit(conn).map(drop)));
    }
    let all = notes.wait_for(240).await;
    assert_in_order(&all, 3, 40);
    for worker in workers {
        worker.stop().await;
    }
}

/// D9: "head-of-line blocks only that key".
async fn a_task_that_is_tried_again_holds_up_its_key_only<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        fail_first("head").key("k").after_commit(conn)?;
        note("behind it").key("k").after_commit(conn)?;
        note("of another key").key("l").after_commit(conn)?;
        note("of no key").after_commit(conn)
    });
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    assert_eq!(notes.wait_for(3).await, ["head, attempt 1", "of another key", "of no key"]);
    // It had every chance to be taken, too.
    for word in ["x", "y", "z"] {
        committed(db, |conn| note(word).after_commit(conn));
        notes.wait_until(|all| all.last().is_some_and(|last| last == word)).await;
    }
    let rows = db.wait_for_tasks(|rows| rows.len() == 2).await;
    assert_eq!((rows[0].state.as_str(), rows[1].state.as_str()), ("scheduled", "blocked"));
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 0 WHERE state = 'scheduled'");
    assert_eq!(notes.wait_for(8).await[6..], ["head, attempt 2", "behind it"]);
    at_work.stop().await;
}

/// D9: the order of the calls counts, also for one that came late: those that a later call had
/// blocked before do not go by it.
async fn an_earlier_call_that_becomes_due_is_next<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("early").key("k").delay(Duration::from_secs(600)).after_commit(conn)?;
        hold("a").key("k").after_commit(conn)?;
        ["b", "c"].iter().try_for_each(|word| note(word).key("k").after_commit(conn).map(drop))
    });
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(1).await;
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 0 WHERE state = 'scheduled'");
    db.wait_for_tasks(|rows| rows.iter().map(|row| &*row.state).eq(["blocked", "running", "blocked", "blocked"])).await;
    notes.add("go a");
    assert_eq!(notes.wait_for(6).await[2..], ["end a", "early", "b", "c"]);
    at_work.stop().await;
}

/// D9: one that was called for later is not the head of its key before its time.
async fn a_task_for_later_holds_up_nobody<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("later").key("k").delay(Duration::from_secs(600)).after_commit(conn)?;
        note("now").key("k").after_commit(conn)
    });
    let at_work = at_work!(worker::<A>(db, &notes));
    assert_eq!(notes.wait_for(1).await, ["now"]);
    at_work.stop().await;
}

/// D9, D10.
async fn a_dead_letter_or_a_cancelled_task_holds_up_nobody<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let cancelled = committed(db, |conn| {
        fail_first("head").key("k").max_attempts(1).after_commit(conn)?;
        let cancelled = note("cancelled").key("k").after_commit(conn)?;
        note("last").key("k").after_commit(conn)?;
        Ok(cancelled)
    });
    assert_eq!(tell(db, cancel_task(cancelled)), 1);
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(Duration::from_secs(600)));
    assert_eq!(notes.wait_for(2).await, ["head, attempt 1", "last"]);
    at_work.stop().await;
}

/// Q12: it is the key that counts, not the task or the queue.
async fn a_key_spans_tasks_and_queues<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        hold("1").key("k").after_commit(conn)?;
        note("2").key("k").queue("other").after_commit(conn)?;
        step(7, 7).key("k").after_commit(conn)?;
        note("free").queue("other").after_commit(conn)
    });
    let at_work = at_work!(worker::<A>(db, &notes).queue("other", 10));
    let all = notes.wait_until(|all| all.len() == 2).await;
    assert_eq!((with(&all, "begin "), with(&all, "free").len()), (vec!["1"], 1));
    notes.add("go 1");
    assert_eq!(notes.wait_for(7).await[3..], ["end 1", "2", "in 7 7", "out 7 7"]);
    at_work.stop().await;
}
