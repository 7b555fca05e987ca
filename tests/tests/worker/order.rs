//! Which task is taken when: priorities, times, queues, and how many run at a time.

use std::collections::HashSet;
use std::time::Duration;

use diesel_deferred::deferred_task;
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{committed, hold, note, with, words, worker, worker_of};

on_every_async_database!(
    the_lower_priority_goes_first_then_the_earlier_one,
    a_full_queue_does_not_hold_up_another,
    no_more_run_than_the_queue_allows,
    a_task_that_ends_makes_room_for_one,
    many_tasks_run_each_once,
    long_tasks_are_left_to_others,
);

#[deferred_task(durable, priority = 3)]
async fn note_later(#[state] notes: &Notes, text: &str) {
    notes.add(text);
}

/// Q4: "priority order", then by time, then by call. One at a time, so that the order of their
/// starts is that of their notes.
async fn the_lower_priority_goes_first_then_the_earlier_one<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        note("0 at 0, first").after_commit(conn)?;
        note("5").priority(5).after_commit(conn)?;
        note_later("3").after_commit(conn)?;
        note("-7").priority(-7).after_commit(conn)?;
        note_later("-32768").priority(i16::MIN).after_commit(conn)?;
        note("0 before that").after_commit(conn)?;
        note("0 at 0, second").after_commit(conn)?;
        note("32767").priority(i16::MAX).after_commit(conn)
    });
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 1000000 WHERE priority = 0");
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = 999999 WHERE payload LIKE '%before that%'");
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    let order = ["-32768", "-7", "0 before that", "0 at 0, first", "0 at 0, second", "3", "5", "32767"];
    assert_eq!(notes.wait_for(8).await, order);
    at_work.stop().await;

    // One that is urgent overtakes those that wait, whether or not they were written before it, and
    // are more than are taken at once.
    let notes = Notes::default();
    let at_work = at_work!(worker_of::<A>(db, &notes, 1));
    committed(db, |conn| hold("a").after_commit(conn));
    notes.wait_for(1).await;
    let waiting = ["b", "c", "d", "e", "f", "g"];
    words(db, &waiting);
    committed(db, |conn| note("urgent").priority(-1).after_commit(conn));
    notes.add("go a");
    let all = notes.wait_for(10).await;
    assert_eq!(
        (&all[2..4], &all[4..]),
        (&["end a".to_owned(), "urgent".to_owned()][..], &waiting.map(str::to_owned)[..])
    );
    at_work.stop().await;
}

/// Q4: several queues, each with its own bound. ECOSYSTEM has queues that starve behind another.
async fn a_full_queue_does_not_hold_up_another<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker_of::<A>(db, &notes, 3).queue("slow", 2));
    committed(db, |conn| (0..50).try_for_each(|at| hold(&format!("{at}")).queue("slow").after_commit(conn).map(drop)));
    notes.wait_until(|all| with(all, "begin ").len() == 2).await;
    // They stand behind the others in every order.
    let calls: Vec<_> = (0..20).map(|at| format!("fast {at}")).collect();
    committed(db, |conn| calls.iter().try_for_each(|call| note(call).priority(9).after_commit(conn).map(drop)));
    let all = notes.wait_until(|all| with(all, "fast ").len() == 20).await;
    let mut begun = with(&all, "begin ");
    begun.sort_unstable();
    assert_eq!(begun, ["0", "1"]);
    notes.add("go");
    notes.wait_until(|all| with(all, "end ").len() == 50).await;
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released), (70, 0));
}

#[deferred_task(durable)]
async fn count_in(#[state] notes: &Notes, at: usize) {
    notes.add(format!("in {at}"));
    tokio::time::sleep(Duration::from_millis(2)).await;
    notes.add(format!("out {at}"));
}

#[deferred_task(durable)]
fn count_in_blocking(#[state] notes: &Notes, at: usize) {
    notes.add(format!("in {at}"));
    std::thread::sleep(Duration::from_millis(2));
    notes.add(format!("out {at}"));
}

/// How many were in at the same time at most.
fn most_at_once(all: &[String]) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for note in all {
        now = if note.starts_with("in ") { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

/// Q4: "concurrency bound never exceeded", and used.
async fn no_more_run_than_the_queue_allows<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        (0..150).try_for_each(|at| {
            if at % 2 == 0 { count_in(at).after_commit(conn) } else { count_in_blocking(at).after_commit(conn) }
                .map(drop)
        })
    });
    let at_work = at_work!(worker_of::<A>(db, &notes, 4));
    let all = notes.wait_for(300).await;
    assert_eq!(most_at_once(&all), 4);
    at_work.stop().await;
}

/// ECOSYSTEM: "one wake-up gives each slot exactly one job": what is left waits for the next poll.
async fn a_task_that_ends_makes_room_for_one<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker_of::<A>(db, &notes, 2).poll_interval(Duration::from_secs(600)));
    let calls: Vec<_> = (0..9).map(|at| format!("{at}")).collect();
    committed(db, |conn| calls.iter().try_for_each(|call| hold(call).after_commit(conn).map(drop)));
    for at in 0..9 {
        notes.wait_until(|all| with(all, "begin ").len() == (at + 2).min(9)).await;
        notes.add(format!("go {at}"));
    }
    notes.wait_until(|all| with(all, "end ").len() == 9).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
}

/// D11, and ECOSYSTEM: 2,003 executions for 2,000 jobs.
async fn many_tasks_run_each_once<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let workers: Vec<_> = (0..3).map(|_| at_work!(worker::<A>(db, &notes))).collect();
    let calls: Vec<_> = (0..2_000).map(|at| format!("{at}")).collect();
    for part in calls.chunks(500) {
        words(db, &part.iter().map(|call| &**call).collect::<Vec<_>>());
    }
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let all = notes.all();
    assert_eq!(all.len(), 2_000);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2_000);
    let mut ran = 0;
    for worker in workers {
        ran += worker.stop().await.ran;
    }
    assert_eq!(ran, 2_000);
}

/// What is taken ahead is what ends soon: the short tasks of one queue are no reason to take the
/// long ones of another, which another worker could run.
async fn long_tasks_are_left_to_others<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker_of::<A>(db, &notes, 10).queue("long", 1));
    committed(db, |conn| {
        (0..20).try_for_each(|at| hold(&format!("{at}")).queue("long").after_commit(conn).map(drop))?;
        (0..600).try_for_each(|_| note("short").after_commit(conn).map(drop))
    });
    notes.wait_until(|all| all.iter().filter(|note| *note == "short").count() == 600).await;
    let rows = db.wait_for_tasks(|rows| rows.len() == 20).await;
    let taken = rows.iter().filter(|row| row.state == "running").count();
    assert_eq!(taken, 1, "of the queue of long tasks, of which one runs at a time");
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
}
