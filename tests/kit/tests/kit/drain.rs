//! `drain`: durable tasks here and now, as a worker would run them.

use std::sync::Mutex;
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::testing::{Drained, TaskRows, advance, drain};
use diesel_deferred::{DeferredConnection, Dispatcher, assert_enqueued, atomic, deferred_task, refute_enqueued};
use diesel_deferred_tests::{Database, Notes, Scratch, on_every_database};

use tokio::sync::Barrier;

use crate::tasks::{begun, keyed, stored};

on_every_database! {
    t09_what_is_due_runs_once_in_the_order_of_a_worker,
    t09_a_limit_is_kept,
    t09_what_is_due_later_runs_where_it_is_asked_for,
    t09_attempts_are_counted_until_the_last,
    t09_calls_of_one_key_run_one_after_the_other,
    t09_a_queue_alone_and_paused_ones_not_at_all,
    t09_so_many_at_a_time,
    t09_once_leaves_what_is_called_meanwhile,
    t09_states_are_those_of_the_dispatcher_too,
    a_row_of_another_program_is_told_and_left,
    t09_what_a_worker_left_that_died_runs_again,
    t09_a_task_that_always_snoozes_ends_the_test,
    t09_so_many_at_a_time_run_at_one_time,
    d20_a_call_takes_the_place_of_one_that_could_not_be_read,
}

fn call<C: Database>(conn: &mut DeferredConnection<C>, ids: impl IntoIterator<Item = i32>, text: &str) {
    let called: QueryResult<()> = atomic!(conn, {
        for id in ids {
            stored(id, text);
        }
        Ok(())
    });
    called.unwrap();
}

#[track_caller]
fn assert_ran(drained: &Drained, ran: usize) {
    assert!(drained.is_clean() && drained.ran() == ran, "{drained}");
}

/// T9
fn t09_what_is_due_runs_once_in_the_order_of_a_worker<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, 1..=2, "a");
    let urgent = atomic!(conn, -> QueryResult<_>, { stored(3, "a").priority(-1).after_commit(conn) });
    urgent.unwrap();
    assert_ran(&drain(conn).state(notes.clone()).run(), 3);
    assert_eq!(notes.all(), ["stored 3 a 1", "stored 1 a 1", "stored 2 a 1"]);
    refute_enqueued!(conn, stored(_, _));
    assert_ran(&drain(conn).state(notes.clone()).run(), 0);
}

/// T9
fn t09_a_limit_is_kept<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, 1..=5, "");
    assert_ran(&drain(conn).state(notes.clone()).limit(2).run(), 2);
    assert_enqueued!(conn, stored(_, _).times(3));
    assert_ran(&drain(conn).state(notes.clone()).limit(2).at_a_time(10).run(), 2);
    assert_enqueued!(conn, stored(5, _).times(1));
}

/// T9
fn t09_what_is_due_later_runs_where_it_is_asked_for<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let day = Duration::from_secs(86_400);
    let later = |conn: &mut DeferredConnection<C>, id| {
        atomic!(conn, -> QueryResult<_>, { stored(id, "").delay(day).after_commit(conn) }).unwrap()
    };
    later(conn, 1);
    assert_ran(&drain(conn).state(notes.clone()).run(), 0);
    assert_ran(&drain(conn).state(notes.clone()).with_scheduled().run(), 1);
    later(conn, 2);
    advance(conn, day - Duration::from_secs(60));
    assert_ran(&drain(conn).state(notes.clone()).run(), 0);
    advance(conn, Duration::from_secs(60));
    assert_ran(&drain(conn).state(notes.clone()).run(), 1);
}

/// T9, D10
fn t09_attempts_are_counted_until_the_last<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    for (text, attempts) in [("fails", 3), ("panics", 3), ("gives up", 1)] {
        let db = Scratch::<C>::new();
        let (conn, notes) = (&mut begun(&db), Notes::default());
        call(conn, [1], text);
        let first = drain(conn).state(notes.clone()).run();
        assert_eq!((first.ran(), first.failures().len()), (1, 1), "{first}");
        assert_eq!(first.failures()[0].is_dead, attempts == 1);
        let all = drain(conn).state(notes.clone()).with_scheduled().run();
        assert_eq!(all.ran(), attempts - 1, "{all}");
        let numbers: Vec<_> = (1..=attempts).map(|number| format!("stored 1 {text} {number}")).collect();
        assert_eq!(notes.all(), numbers);
        refute_enqueued!(conn, stored(_, _));
    }
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, [1], "snoozes");
    let drained = drain(conn).state(notes).run();
    assert_eq!((drained.snoozed(), drained.is_clean()), (1, true));
    assert_enqueued!(conn, stored(1, "snoozes"));
}

/// T9, D9
fn t09_calls_of_one_key_run_one_after_the_other<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    atomic!(conn, -> QueryResult<()>, {
        for id in 1..=3 {
            keyed(1, id);
            keyed(2, id);
        }
        Ok(())
    })
    .unwrap();
    assert_ran(&drain(conn).state(notes.clone()).at_a_time(6).limit(2).run(), 2);
    assert_enqueued!(conn, keyed(_, _).times(4));
    assert_ran(&drain(conn).state(notes.clone()).at_a_time(6).run(), 4);
    let of_key = |key: i32| {
        let begin = format!("keyed {key} ");
        notes.all().iter().filter(|note| note.starts_with(&begin)).cloned().collect::<Vec<_>>()
    };
    for key in [1, 2] {
        assert_eq!(of_key(key), [1, 2, 3].map(|id| format!("keyed {key} {id}")));
    }
}

/// T9, Q13
fn t09_a_queue_alone_and_paused_ones_not_at_all<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, [1], "");
    let other = atomic!(conn, -> QueryResult<_>, { stored(2, "").queue("other").after_commit(conn) });
    other.unwrap();
    assert_ran(&drain(conn).state(notes.clone()).queue("other").run(), 1);
    assert_eq!(notes.all(), ["stored 2  1"]);
    C::tell(conn, diesel_deferred::pause_queue("mail")).unwrap();
    assert_ran(&drain(conn).state(notes.clone()).run(), 0);
    C::tell(conn, diesel_deferred::resume_queue("mail")).unwrap();
    assert_ran(&drain(conn).state(notes.clone()).run(), 1);
}

/// T9
fn t09_so_many_at_a_time<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, 1..=7, "");
    assert_ran(&drain(conn).state(notes.clone()).at_a_time(3).run(), 7);
    assert_eq!(notes.all().len(), 7);
}

/// T9: what a task calls by another connection is there when the next one is looked for.
fn t09_once_leaves_what_is_called_meanwhile<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, [1], "");
    let drained = drain(conn).state(notes.clone()).once().run();
    assert_ran(&drained, 1);
    call(conn, [2], "");
    // Nothing that was called before it began is left.
    assert_ran(&drain(conn).state(notes.clone()).once().limit(0).run(), 0);
    assert_ran(&drain(conn).state(notes).once().run(), 1);
}

fn t09_states_are_those_of_the_dispatcher_too<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    conn.set_dispatcher(Dispatcher::builder().state(notes.clone()).build());
    call(conn, [1], "");
    assert_ran(&drain(conn).run(), 1);
    assert_eq!(notes.all(), ["stored 1  1"]);
    call(conn, [2], "");
    conn.set_dispatcher(Dispatcher::builder().build());
    let lacks = drain(conn).run();
    assert!(lacks.to_string().contains("it takes a `#[state]` of type"), "{lacks}");
}

/// D20, D21
fn a_row_of_another_program_is_told_and_left<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, 1..=3, "");
    let set = |what: &str, id: i32| format!("UPDATE deferred_tasks SET {what} WHERE payload LIKE '%\"id\":{id}%'");
    C::execute_raw(conn, &set("task = 'gone'", 1)).unwrap();
    C::execute_raw(conn, &set("payload = '{\"id\":2}', unique_key = 'one'", 2)).unwrap();
    let drained = drain(conn).state(notes.clone()).run();
    assert_eq!((drained.ran(), drained.unknown().len()), (1, 2), "{drained}");
    assert!(drained.unknown()[0].contains("`gone`") && drained.unknown()[1].contains("`text` is missing"), "{drained}");
    assert_eq!(notes.all(), ["stored 3  1"]);
    // It has not run, and is the only one still.
    let mend = "UPDATE deferred_tasks SET payload = '{\"id\":2,\"text\":\"unique\"}' WHERE unique_key = 'one'";
    C::execute_raw(conn, mend).unwrap();
    assert_enqueued!(conn, stored(2, "unique"));
}

/// T9, D10
fn t09_what_a_worker_left_that_died_runs_again<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, [1], "");
    let begun = "UPDATE deferred_tasks SET state = 'running', attempts = 1, started_at_ms = run_at_ms, lease_until_ms = run_at_ms + 3600000";
    C::execute_raw(conn, begun).unwrap();
    assert_ran(&drain(conn).state(notes.clone()).run(), 0);
    advance(conn, Duration::from_secs(3_601));
    assert_ran(&drain(conn).state(notes.clone()).run(), 1);
    assert_eq!(notes.all(), ["stored 1  2"]);
}

/// T9
fn t09_a_task_that_always_snoozes_ends_the_test<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    call(conn, [1], "snoozes");
    let message = crate::tasks::message_of(|| drop(drain(conn).state(notes.clone()).with_scheduled().run()));
    assert!(message.contains("`kit::tasks::stored` has asked 100 times"), "{message}");
    assert_eq!(drain(conn).state(notes).with_scheduled().limit(150).run().snoozed(), 150);
}

#[deferred_task(durable, name = "meets")]
async fn meets(#[state] barrier: &Barrier) {
    barrier.wait().await;
}

/// T9: three that wait for each other.
fn t09_so_many_at_a_time_run_at_one_time<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let conn = &mut begun(db);
    atomic!(conn, -> QueryResult<()>, {
        for _ in 0..6 {
            meets();
        }
        Ok(())
    })
    .unwrap();
    assert_ran(&drain(conn).state(Barrier::new(3)).at_a_time(3).run(), 6);
}

/// What a task does by a connection of its own.
struct Calls(Mutex<Box<dyn FnMut() + Send>>);

#[deferred_task(durable, name = "call another")]
async fn call_another(#[state] calls: &Calls) {
    (calls.0.lock().unwrap())();
}

#[deferred_task(durable, unique, name = "only one")]
async fn only_one(#[state] notes: &Notes, id: i32) {
    notes.add(format!("only {id}"));
}

/// D20: a row that is found to be unreadable was taken together with another one, whose task has called
/// the same meanwhile.
fn d20_a_call_takes_the_place_of_one_that_could_not_be_read<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows + Send + 'static,
{
    let (conn, notes) = (&mut db.patient(), Notes::default());
    C::migrate(&mut db.observer());
    atomic!(conn, -> QueryResult<()>, {
        only_one(1);
        call_another();
        Ok(())
    })
    .unwrap();
    C::execute_raw(conn, "UPDATE deferred_tasks SET payload = '{}' WHERE payload LIKE '%1%'").unwrap();
    let mut other = db.patient();
    let calls = Calls(Mutex::new(Box::new(move || {
        atomic!(other, -> QueryResult<()>, {
            only_one(1);
            Ok(())
        })
        .unwrap();
    })));
    let drained = drain(conn).state(notes.clone()).state(calls).at_a_time(2).run();
    assert_eq!((drained.ran(), drained.unknown().len()), (2, 1), "{drained}");
    assert_eq!(notes.all(), ["only 1"]);
}
