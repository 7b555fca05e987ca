//! Tasks of which only one waits at a time.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, with, worker};

#[deferred_task(durable, unique = "keep")]
async fn reindex(#[state] notes: &Notes, table: &str) {
    notes.add(format!("begin {table}"));
    notes.wait_until(|all| all.iter().any(|note| note == "go")).await;
}

#[deferred_task(durable, unique = "replace", key = "{user}")]
async fn summarise(#[state] notes: &Notes, user: u32, text: &str) {
    notes.add(format!("{user} {text}"));
}

#[deferred_task(durable, unique = "replace", key = "{user}")]
async fn greet(#[state] notes: &Notes, user: u32) {
    notes.add(format!("hello {user}"));
}

on_every_async_database!(
    of_calls_that_are_the_same_the_first_stays,
    the_last_call_takes_the_place_of_the_one_that_waits,
    a_running_one_does_not_count,
    a_conflict_leaves_the_transaction_as_it_is,
    a_call_that_was_rolled_back_does_not_count,
    transactions_at_the_same_time_leave_one_call,
);

fn payloads<C: Database>(db: &Scratch<C>) -> Vec<String> {
    db.tasks().into_iter().map(|row| row.payload).collect()
}

/// Q5: "unique by chosen args/period/state, enforced by index". Without a key it is the arguments
/// that count.
async fn of_calls_that_are_the_same_the_first_stays<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let first = committed(db, |conn| {
        let first = reindex("a").priority(1).after_commit(conn)?;
        reindex("b").after_commit(conn)?;
        reindex("a").priority(2).after_commit(conn)?;
        Ok(first)
    });
    committed(db, |conn| {
        reindex("a").priority(3).queue("other").delay(Duration::from_secs(9)).after_commit(conn)?;
        reindex("b").after_commit(conn)?;
        reindex("c").delay(Duration::from_secs(600)).after_commit(conn)
    });
    // One that is scheduled waits, too.
    committed(db, |conn| reindex("c").after_commit(conn));
    let mut rows = db.tasks();
    rows.sort_by(|a, b| a.payload.cmp(&b.payload));
    let rows: Vec<_> = rows.iter().map(|row| (&*row.payload, row.priority, &*row.queue, &*row.state)).collect();
    assert_eq!(
        rows,
        [
            (r#"{"table":"a"}"#, 1, "default", "ready"),
            (r#"{"table":"b"}"#, 0, "default", "ready"),
            (r#"{"table":"c"}"#, 0, "default", "scheduled"),
        ]
    );
    assert_eq!(crate::support::tell(db, diesel_deferred::cancel_task(first)), 1, "it has the id of the first call");
    // What is cancelled does not wait.
    committed(db, |conn| reindex("a").after_commit(conn));
    assert_eq!(db.tasks().len(), 4);
}

/// Q5: everything that the last call says counts.
async fn the_last_call_takes_the_place_of_the_one_that_waits<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        summarise(1, "a").delay(Duration::from_secs(600)).after_commit(conn)?;
        summarise(2, "a").after_commit(conn)?;
        // Of another task, which is its own.
        greet(1).after_commit(conn)?;
        summarise(1, "b").delay(Duration::from_secs(600)).after_commit(conn)
    });
    assert_eq!(db.tasks().len(), 3);
    let last = committed(db, |conn| {
        summarise(2, "c")
            .queue("other")
            .priority(7)
            .max_attempts(3)
            .delay(Duration::from_secs(600))
            .after_commit(conn)?;
        summarise(1, "c").after_commit(conn)
    });
    let rows = db.tasks();
    let row = |user: u32| {
        let payload = format!(r#"{{"user":{user},"text":"c"}}"#);
        rows.iter().find(|row| row.payload == payload).unwrap_or_else(|| panic!("{rows:#?}"))
    };
    assert_eq!(rows.len(), 3);
    let of_two = row(2);
    assert_eq!((&*of_two.queue, of_two.priority, of_two.max_attempts, &*of_two.state), ("other", 7, 3, "scheduled"));
    let of_one = row(1);
    assert_eq!((&*of_one.queue, of_one.priority, of_one.max_attempts, &*of_one.state), ("default", 0, 20, "ready"));
    let at_work = at_work!(worker::<A>(db, &notes));
    let mut all = notes.wait_for(2).await;
    all.sort();
    assert_eq!(all, ["1 c", "hello 1"]);
    db.wait_for_tasks(|rows| rows.len() == 1).await;
    at_work.stop().await;
    assert_eq!(
        crate::support::tell(db, diesel_deferred::cancel_task(last)),
        0,
        "it had the id of the last call, and ran"
    );
}

/// Q5: what has been started does not see what was committed since.
async fn a_running_one_does_not_count<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes));
    committed(db, |conn| reindex("a").after_commit(conn));
    notes.wait_for(1).await;
    committed(db, |conn| reindex("a").after_commit(conn));
    notes.wait_for(2).await;
    committed(db, |conn| reindex("a").delay(Duration::from_secs(600)).after_commit(conn));
    committed(db, |conn| reindex("a").after_commit(conn));
    let states: Vec<_> = db.tasks().into_iter().map(|row| row.state).collect();
    assert_eq!(states, ["running", "running", "scheduled"]);
    notes.add("go");
    db.wait_for_tasks(|rows| rows.len() == 1).await;
    at_work.stop().await;
    assert_eq!(with(&notes.all(), "begin "), ["a", "a"]);
}

/// D6: "dedupe conflict in the flush does not abort the user's transaction".
async fn a_conflict_leaves_the_transaction_as_it_is<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    committed(db, |conn| reindex("a").after_commit(conn));
    let conn = &mut db.patient();
    let written: QueryResult<()> = atomic!(conn, {
        A::Blocking::insert(conn, 1)?;
        reindex("a");
        summarise(1, "a");
        A::Blocking::insert(conn, 2)?;
        Ok(())
    });
    written.expect("committed");
    let conn = &mut db.patient_async::<A>().await;
    let written: QueryResult<()> = atomic!(conn, async {
        A::insert(conn, 3).await?;
        reindex("a");
        summarise(1, "b");
        Ok(())
    })
    .await;
    written.expect("committed");
    assert_eq!(db.committed(), [1, 2, 3]);
    let mut payloads = payloads(db);
    payloads.sort();
    assert_eq!(payloads, [r#"{"table":"a"}"#, r#"{"user":1,"text":"b"}"#]);
}

/// E15: "unique/dedupe locks taken at call time are released on rollback": none is taken.
async fn a_call_that_was_rolled_back_does_not_count<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let conn = &mut db.patient();
    let inner = |conn: &mut diesel_deferred::DeferredConnection<A::Blocking>| -> QueryResult<()> {
        atomic!(conn, {
            summarise(1, "inner");
            Err(diesel::result::Error::RollbackTransaction)
        })
    };
    let written: QueryResult<()> = atomic!(conn, {
        summarise(1, "outer");
        let failed = inner(conn);
        assert!(failed.is_err());
        Ok(())
    });
    written.expect("committed");
    assert!(inner(conn).is_err());
    assert_eq!(payloads(db), [r#"{"user":1,"text":"outer"}"#]);
}

/// Q5: "enforced by index", so that no two transactions miss each other; and they go on.
async fn transactions_at_the_same_time_leave_one_call<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            scope.spawn(move || {
                for round in 0..10 {
                    let conn = &mut db.patient();
                    // On MySQL two transactions that write one unique key may be in each other's
                    // way, as with any unique key.
                    let written: QueryResult<()> = atomic!(conn, retries = 20, {
                        for at in 0..4 {
                            // Each in another order.
                            let user = if thread % 2 == 0 { at } else { 3 - at };
                            reindex(&user.to_string());
                            summarise(user, &format!("{thread} {round}"));
                        }
                        Ok(())
                    });
                    written.expect("committed");
                }
            });
        }
    });
    let rows = db.tasks();
    assert_eq!(rows.len(), 8, "{rows:#?}");
    let last = rows.iter().filter(|row| row.task.ends_with("summarise") && row.payload.ends_with("9\"}")).count();
    assert_eq!(last, 4, "{rows:#?}");
}
