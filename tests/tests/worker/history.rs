//! `keep_done_for`: what stays of tasks that ended well.

use std::time::Duration;

use diesel_deferred::{Attempt, BoxError, cancel_task, deferred_task, replay_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, note, states, tell, words, worker};

const HOUR: Duration = Duration::from_secs(3_600);

#[deferred_task(durable, backoff = "10ms")]
async fn second_time_lucky(#[state] notes: &Notes, #[state] attempt: &Attempt, word: &str) -> Result<(), BoxError> {
    notes.add(word);
    if attempt.number() == 1 { Err("not yet".into()) } else { Ok(()) }
}

/// One that waits while another one is in the table.
#[deferred_task(durable, unique, key = "{word}")]
async fn once(#[state] notes: &Notes, word: &str) {
    notes.add(word);
}

on_every_async_database!(
    a_history_has_when_how_often_and_by_whom,
    what_is_done_is_in_nobodys_way,
    a_history_is_kept_for_so_long,
    without_a_history_rows_are_deleted_and_those_of_others_stay,
);

/// FINDINGS C14: "a finished task leaves nothing".
async fn a_history_has_when_how_often_and_by_whom<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let before = A::Blocking::now_ms(&mut db.observer());
    committed(db, |conn| second_time_lucky("secret").key("k").after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes).keep_done_for(HOUR));
    let rows = db.wait_for_tasks(|rows| rows[0].state == "done").await;
    at_work.stop().await;
    assert_eq!((rows[0].attempts, &*rows[0].payload, &rows[0].error), (2, "{}", &None));
    assert_eq!(rows[0].task_key.as_deref(), Some("k"));
    let now = A::Blocking::now_ms(&mut db.observer());
    let right = format!(
        "SELECT COUNT(*) AS number FROM deferred_tasks WHERE worker IS NOT NULL AND lease_until_ms IS NULL \
         AND started_at_ms BETWEEN {before} AND ended_at_ms AND ended_at_ms <= {now} AND unique_key IS NULL"
    );
    assert_eq!(A::Blocking::number(&mut db.observer(), &right), 1);
}

/// "unique keys, task keys and claims must not see done rows"; nor do those who look after tasks.
async fn what_is_done_is_in_nobodys_way<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).keep_done_for(HOUR));
    let mut ids = Vec::new();
    for round in 1..=3 {
        ids.push(committed(db, |conn| {
            note("keyed").key("a").after_commit(conn)?;
            once("a").after_commit(conn)
        }));
        db.wait_for_tasks(|rows| rows.len() == 2 * round && rows.iter().all(|row| row.state == "done")).await;
    }
    assert_eq!(notes.all().len(), 6);
    assert_eq!(tell(db, cancel_task(ids[0])), 0);
    assert_eq!(tell(db, replay_task(ids[0])), 0, "its arguments are gone");
    at_work.stop().await;
    assert_eq!(states(db), ["done"; 6]);
}

async fn a_history_is_kept_for_so_long<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["old", "older"]);
    let at_work = at_work!(worker::<A>(db, &notes).keep_done_for(HOUR));
    db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "done")).await;
    let old = A::Blocking::now_ms(&mut db.observer()) - 3_600_000 - 1;
    db.run_sql(&format!("UPDATE deferred_tasks SET ended_at_ms = {old}"));
    let new = words(db, &["new"])[0];
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "done").await;
    assert_eq!(db.task_ids(), [new]);
    // A dead letter is kept for its own time.
    db.run_sql(&format!("UPDATE deferred_tasks SET state = 'dead', ended_at_ms = {old}"));
    words(db, &["last"]);
    db.wait_for_tasks(|rows| rows.len() == 2 && rows[1].state == "done").await;
    assert_eq!(states(db), ["dead", "done"]);
    at_work.stop().await;
}

/// "off by default and free then".
async fn without_a_history_rows_are_deleted_and_those_of_others_stay<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["kept"]);
    let at_work = at_work!(worker::<A>(db, &notes).keep_done_for(HOUR));
    db.wait_for_tasks(|rows| rows[0].state == "done").await;
    at_work.stop().await;
    db.run_sql("UPDATE deferred_tasks SET ended_at_ms = 1");
    words(db, &["not kept"]);
    let at_work = at_work!(worker::<A>(db, &notes));
    notes.wait_for(2).await;
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "done").await;
    at_work.stop().await;
    // Kept for no time: what is left of it goes.
    words(db, &["last"]);
    let at_work = at_work!(worker::<A>(db, &notes).keep_done_for(Duration::ZERO));
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(notes.all(), ["kept", "not kept", "last"]);
    at_work.stop().await;
}
