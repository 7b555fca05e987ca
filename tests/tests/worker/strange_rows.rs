//! Rows that no call of this program wrote: of older and newer programs, and changed by hand.

use std::time::Duration;

use diesel_deferred::{Attempt, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, fail, note, words, worker, worker_of};

#[deferred_task(durable, max_attempts = 2, backoff = "1ms")]
async fn fail_numbered(#[state] notes: &Notes, #[state] attempt: Attempt) -> Result<(), String> {
    notes.add(format!("attempt {}", attempt.number()));
    Err("failed".into())
}

/// At v2 it has an argument more, which was given a default, and one that may be missing.
#[deferred_task(durable)]
async fn grown(#[state] notes: &Notes, id: i32, note: Option<String>, #[serde(default)] times: u8) {
    notes.add(format!("{id} {note:?} {times}"));
}

on_every_async_database!(
    d21_what_cannot_be_read_waits_for_another_program,
    d21_what_cannot_be_read_is_offered_to_a_program_that_starts,
    d21_a_task_of_another_program_waits_for_it,
    d21_what_no_program_can_read_is_given_up_in_the_end,
    a_call_of_an_older_version_is_read,
    numbers_that_make_no_sense_stop_nothing,
    a_row_that_claims_to_run_is_refused_or_runs,
    a_row_of_a_worker_that_is_not_there_is_taken_when_its_lease_ends,
    a_queue_that_nobody_works_on_is_left_alone,
);

/// D21, D12: "does not stop the queue": what this program cannot read waits for the one that can,
/// and was no attempt. ECOSYSTEM: `worker.run()` returns Err and ends, and so does the next one.
async fn d21_what_cannot_be_read_waits_for_another_program<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a", "b", "c", "d", "e", "after"]);
    let payloads = ["", "not JSON", r#"{"wrong":1}"#, r#"{"text":7}"#, r#"["text"]"#];
    for (payload, word) in payloads.iter().zip(["a", "b", "c", "d", "e"]) {
        db.run_sql(&format!(
            r#"UPDATE deferred_tasks SET payload = '{payload}' WHERE payload = '{{"text":"{word}"}}'"#
        ));
    }
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    assert_eq!(notes.wait_for(1).await, ["after"]);
    let rows = db.wait_for_tasks(|rows| rows.len() == 5 && rows.iter().all(|row| row.state == "unknown")).await;
    for (row, part) in rows.iter().zip([
        "the payload is not a JSON object",
        "the payload is not a JSON object",
        "`text` is missing",
        "`text` cannot be read: invalid type: integer `7`",
        "the payload is not a JSON object",
    ]) {
        let reason = row.error.as_deref().unwrap_or_default();
        assert!(reason.starts_with("its arguments are not those of `worker::support::note`: "), "{reason}");
        assert!(reason.contains(part), "{reason}");
        assert_eq!(row.attempts, 0);
    }
    // Another program writes them as this one reads them: it tries again by itself.
    db.run_sql(r#"UPDATE deferred_tasks SET payload = '{"text":"read"}'"#);
    assert_eq!(notes.wait_for(6).await[1..], ["read"; 5]);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let report = at_work.stop().await;
    assert!(report.refused["worker::support::note"] >= 5, "{report}");
}

/// D21: "another program's, of the version before or after": the next deploy may be that program, and
/// is not to wait for a pause that began before it.
async fn d21_what_cannot_be_read_is_offered_to_a_program_that_starts<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a", "b"]);
    db.run_sql("UPDATE deferred_tasks SET payload = '{}'");
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    db.wait_for_tasks(|rows| rows.len() == 2 && rows.iter().all(|row| row.state == "unknown")).await;
    at_work.stop().await;
    // Refused so often that it is offered again in an hour.
    db.run_sql(r#"UPDATE deferred_tasks SET payload = '{"text":"read"}', run_at_ms = run_at_ms + 3600000"#);
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    assert_eq!(notes.wait_for(2).await, ["read", "read"]);
    at_work.stop().await;
}

/// D21: a task that this program does not have holds up nobody, also not of its key, and is the
/// other program's as soon as that one looks.
async fn d21_a_task_of_another_program_waits_for_it<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (notes, failures) = (Notes::default(), Notes::default());
    let told = failures.clone();
    committed(db, |conn| {
        ["removed", "after"].into_iter().try_for_each(|text| note(text).key("k").after_commit(conn).map(drop))
    });
    db.run_sql(r#"UPDATE deferred_tasks SET task = 'shop::gone' WHERE payload = '{"text":"removed"}'"#);
    let at_work = at_work!(
        worker::<A>(db, &notes).on_failure(move |failure| told.add(format!("{} {}", failure.task, failure.is_dead)))
    );
    assert_eq!(notes.wait_for(1).await, ["after"]);
    let rows = db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "unknown").await;
    let reason = rows[0].error.as_deref().unwrap_or_default();
    assert!(reason.contains("no durable task of the name `shop::gone`"), "{reason}");
    assert!(reason.contains(r#"`was = "shop::gone"`"#), "{reason}");
    assert_eq!((rows[0].attempts, failures.all().len()), (0, 0));
    // It stays there, while a program has it that reads it again and again.
    db.run_sql("UPDATE deferred_tasks SET task = 'worker::support::note'");
    assert_eq!(notes.wait_for(2).await, ["after", "removed"]);
    let report = at_work.stop().await;
    assert_eq!(report.refused["shop::gone"], 1, "{report}");
}

/// D21: "it becomes a dead letter only after a time that the user sets".
async fn d21_what_no_program_can_read_is_given_up_in_the_end<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (notes, failures) = (Notes::default(), Notes::default());
    let told = failures.clone();
    words(db, &["gone"]);
    db.run_sql("UPDATE deferred_tasks SET task = 'shop::gone'");
    let at_work = at_work!(
        worker::<A>(db, &notes)
            .poll_interval(Duration::from_millis(50))
            .give_up_unknown_after(Duration::from_secs(3_600))
            .on_failure(move |failure| told.add(format!("{} {}", failure.task, failure.is_dead)))
    );
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "unknown").await;
    assert_eq!(failures.all().len(), 0);
    db.run_sql("UPDATE deferred_tasks SET refused_at_ms = refused_at_ms - 3600000");
    db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!(failures.wait_for(1).await, ["shop::gone true"]);
    at_work.stop().await;
}

/// D15: "payload written at v1 still decodes at v2 or is dead-lettered with a schema message".
async fn a_call_of_an_older_version_is_read<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| grown(1, None, 0).after_commit(conn));
    // And one field that the task has not any more.
    db.run_sql(r#"UPDATE deferred_tasks SET payload = '{"id":1,"dropped":[{}]}'"#);
    let at_work = at_work!(worker::<A>(db, &notes));
    assert_eq!(notes.wait_for(1).await, ["1 None 0"]);
    at_work.stop().await;
}

/// D12: "rows changed by hand". Each of them runs, and none stops the others.
async fn numbers_that_make_no_sense_stop_nothing<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let changes = [
        "attempts = -2147483648",
        "attempts = 2147483647",
        "max_attempts = 0",
        "max_attempts = -2147483648",
        "max_attempts = 2147483647",
        "run_at_ms = -9223372036854775808",
        "run_at_ms = 9223372036854775807",
        "run_at_ms = -9223372036854775808, state = 'scheduled'",
        "priority = -32768",
        "priority = 32767",
        "enqueued_at_ms = -1, ended_at_ms = 9223372036854775807",
        "error = 'none', unique_key = 'x', replaces = TRUE",
        "cancel_requested = TRUE",
    ];
    let names: Vec<_> = (0..changes.len()).map(|at| format!("row {at}")).collect();
    words(db, &names.iter().map(|name| &**name).collect::<Vec<_>>());
    committed(db, |conn| fail_numbered().after_commit(conn));
    for (at, change) in changes.iter().enumerate() {
        db.run_sql(&format!(r#"UPDATE deferred_tasks SET {change} WHERE payload = '{{"text":"row {at}"}}'"#));
    }
    // One of a task that fails, too: it runs out of attempts at once, or goes on.
    db.run_sql("UPDATE deferred_tasks SET attempts = 2147483647 WHERE task LIKE '%fail_numbered'");
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    let rows = db.wait_for_tasks(|rows| matches!(rows, [row] if row.state == "dead")).await;
    assert_eq!(rows[0].error.as_deref(), Some("failed"));
    let mut all = notes.all();
    all.sort();
    let mut expected = names;
    expected.push("attempt 2147483647".to_owned());
    expected.sort();
    assert_eq!(all, expected);
    at_work.stop().await;

    // It snoozes beyond all numbers, and after more time than there is.
    committed(db, |conn| crate::strange_rows::sleep_long().after_commit(conn));
    db.run_sql("UPDATE deferred_tasks SET max_attempts = 2147483647, attempts = -7 WHERE task LIKE '%sleep_long'");
    let at_work = at_work!(worker::<A>(db, &notes));
    let rows = db.wait_for_tasks(|rows| rows.iter().any(|row| row.state == "scheduled")).await;
    assert_eq!(rows[1].max_attempts, i32::MAX);
    words(db, &["still there"]);
    notes.wait_until(|all| all.last().is_some_and(|last| last == "still there")).await;
    at_work.stop().await;
}

#[deferred_task(durable)]
async fn sleep_long() -> Result<(), diesel_deferred::Snooze> {
    Err(diesel_deferred::Snooze::new(std::time::Duration::from_millis(i64::MAX as u64)))
}

/// D12: no row is wedged.
async fn a_row_that_claims_to_run_is_refused_or_runs<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    use diesel::connection::SimpleConnection;
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("1").key("k").after_commit(conn)?;
        note("2").key("k").after_commit(conn)
    });
    let refused = db.observer().batch_execute("UPDATE deferred_tasks SET state = 'running'");
    assert!(refused.is_err(), "it would run for ever");
    let refused = db.observer().batch_execute("UPDATE deferred_tasks SET state = 'finished'");
    assert!(refused.is_err(), "nobody knows that state");
    db.run_sql(r#"UPDATE deferred_tasks SET state = 'running', lease_until_ms = 0 WHERE payload = '{"text":"1"}'"#);
    let at_work = at_work!(worker::<A>(db, &notes));
    assert_eq!(notes.wait_for(2).await, ["1", "2"]);
    at_work.stop().await;
}

/// D11: "lease expiry redelivers", and D10: what was counted stays counted.
async fn a_row_of_a_worker_that_is_not_there_is_taken_when_its_lease_ends<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (notes, failures) = (Notes::default(), Notes::default());
    let told = failures.clone();
    committed(db, |conn| {
        fail("x".into()).max_attempts(7).after_commit(conn)?;
        note("cancelled").after_commit(conn)?;
        note("worn out").max_attempts(5).after_commit(conn)
    });
    let now = <A::Blocking as diesel_deferred_tests::Database>::now_ms(&mut db.observer());
    db.run_sql(&format!(
        "UPDATE deferred_tasks SET state = 'running', attempts = 5, worker = id, lease_until_ms = {}, \
         cancel_requested = (payload LIKE '%cancelled%')",
        now + 300
    ));
    // The end of the lease is known: no look in between is needed.
    let worker = worker::<A>(db, &notes).poll_interval(std::time::Duration::from_secs(600));
    let at_work =
        at_work!(worker.on_failure(move |failure| told.add(format!("{} {}", failure.attempt, failure.is_dead))));
    assert_eq!(notes.wait_for(2).await, ["attempt 6", "attempt 7"]);
    let after = <A::Blocking as diesel_deferred_tests::Database>::now_ms(&mut db.observer());
    assert!(after >= now + 300, "taken {} ms before the lease ended", now + 300 - after);
    let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    let ends: Vec<_> = rows.iter().map(|row| (row.state.as_str(), row.attempts)).collect();
    assert_eq!(ends, [("dead", 7), ("cancelled", 5), ("dead", 5)]);
    assert!(rows[2].error.as_deref().is_some_and(|error| error.contains("its worker died")), "{rows:#?}");
    at_work.stop().await;
    // To be cancelled is no failure.
    let mut failures = failures.all();
    failures.sort();
    assert_eq!(failures, ["5 false", "5 true", "6 false", "7 true"]);
}

/// Q4, several queues: another worker's queue is its own.
async fn a_queue_that_nobody_works_on_is_left_alone<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("elsewhere").queue("of nobody").after_commit(conn)?;
        note("here").after_commit(conn)
    });
    let at_work = at_work!(worker::<A>(db, &notes));
    assert_eq!(notes.wait_for(1).await, ["here"]);
    at_work.stop().await;
    let rows = db.tasks();
    assert_eq!((rows[0].state.as_str(), rows[0].queue.as_str(), rows[0].attempts), ("ready", "of nobody", 0));
}
