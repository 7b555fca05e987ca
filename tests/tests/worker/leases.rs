//! Tasks that take long, and workers that die.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel_deferred::deferred_task;
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, on_every_async_database};

use crate::support::{
    LEASE_END, committed, hold_blocking, lease_end, lease_extended, states, tell, with, words, worker, worker_of,
};

const SHORT: Duration = Duration::from_secs(1);

/// [`hold`](crate::support::hold), which notes where it is stopped.
#[deferred_task(durable, max_attempts = 2, backoff = "10ms")]
async fn hold_on(#[state] notes: &Notes, text: &str) {
    struct Stopped<'n>(&'n Notes, &'n str);
    impl Drop for Stopped<'_> {
        fn drop(&mut self) {
            self.0.add(format!("stopped {}", self.1));
        }
    }
    let stopped = Stopped(notes, text);
    notes.add(format!("begin {text}"));
    let go = format!("go {text}");
    notes.wait_until(|all| all.iter().any(|note| *note == "go" || *note == go)).await;
    std::mem::forget(stopped);
    notes.add(format!("end {text}"));
}

on_every_async_database!(
    a_task_that_takes_long_stays_with_its_worker,
    the_tasks_of_a_worker_that_died_are_run_by_another,
    a_task_that_kills_its_workers_runs_out_of_attempts,
    a_lost_lease_stops_the_task_here,
    a_late_end_is_not_told,
    a_worker_that_was_away_for_long_goes_on,
    no_lease_lasts_for_longer_because_the_clock_went_back,
    a_hundred_thousand_leases_are_renewed,
);

/// Q10: "heartbeat rescue does not rescue a live long job". Three leases long, with another worker
/// that looks.
async fn a_task_that_takes_long_stays_with_its_worker<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        hold_on("a").after_commit(conn)?;
        hold_blocking("b").after_commit(conn)
    });
    let first = at_work!(worker::<A>(db, &notes).lease(SHORT));
    notes.wait_for(2).await;
    let second = at_work!(worker::<A>(db, &notes).lease(SHORT));
    let begin = lease_end(db);
    for ms in [500, 1_000, 1_500, 2_000] {
        lease_extended(db, begin, ms).await;
        assert_eq!(states(db), ["running", "running"]);
    }
    // The other one works all the while.
    words(db, &["x"]);
    notes.wait_until(|all| all.iter().any(|note| note == "x")).await;
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let ran = first.stop().await.ran + second.stop().await.ran;
    assert_eq!(ran, 3);
    assert_eq!(with(&notes.all(), "begin ").len(), 2);
    assert_eq!(with(&notes.all(), "stopped ").len(), 0);
}

/// D11: "lease expiry redelivers". ECOSYSTEM: never recovered by a restarted worker of the same
/// name.
async fn the_tasks_of_a_worker_that_died_are_run_by_another<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold_on("a").after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes).lease(SHORT));
    notes.wait_for(1).await;
    at_work.kill().await;
    // Whoever drops a worker stops its tasks: nobody extends their leases.
    notes.wait_until(|all| all == ["begin a", "stopped a"]).await;
    assert_eq!(states(db), ["running"]);
    let lease_end = lease_end(db);
    let at_work = at_work!(worker::<A>(db, &notes).lease(SHORT).poll_interval(Duration::from_secs(600)));
    notes.wait_until(|all| all.len() == 3).await;
    let late = A::Blocking::now_ms(&mut db.observer()) - lease_end;
    // Not before, and long before the worker would look by itself.
    assert!((0..60_000).contains(&late), "taken {late} ms after its lease ended");
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(notes.all(), ["begin a", "stopped a", "begin a", "go", "end a"]);
    at_work.stop().await;
}

/// D10: "attempt counter increases on entry, so crashes count; after N → dead letter with reason".
/// ECOSYSTEM: retried without end.
async fn a_task_that_kills_its_workers_runs_out_of_attempts<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (notes, failures) = (Notes::default(), Notes::default());
    let begin = |name: &'static str| {
        let told = failures.clone();
        let worker = worker::<A>(db, &notes).lease(SHORT);
        at_work!(worker.on_failure(move |failure| told.add(format!("{name}: {failure}"))))
    };
    let id = committed(db, |conn| hold_on("a").after_commit(conn));
    for (attempt, name) in [(1, "first"), (2, "second")] {
        let at_work = begin(name);
        notes.wait_until(|all| with(all, "begin ").len() == attempt).await;
        at_work.kill().await;
    }
    let at_work = begin("third");
    let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!(rows[0].attempts, 2);
    let reason = rows[0].error.as_deref().unwrap_or_default();
    assert!(reason.contains("its worker died during this attempt"), "{reason}");
    // Who takes it back is told.
    let told = [("second", 1, "will be tried again"), ("third", 2, "given up")].map(|(name, attempt, end)| {
        format!("{name}: worker::leases::hold_on ({id}, attempt {attempt}, {end}): {reason}")
    });
    assert_eq!(failures.wait_for(2).await, told);
    assert_eq!(with(&notes.all(), "begin ").len(), 2);
    notes.add("go");
    assert_eq!(tell(db, diesel_deferred::replay_task(id)), 1);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
}

/// Has all rows look as if another worker had them.
fn take_away<C: Database>(db: &Scratch<C>) {
    db.run_sql("UPDATE deferred_tasks SET worker = id, lease_until_ms = lease_until_ms + 60000");
}

/// D11: "two relays never deliver the same row concurrently".
async fn a_lost_lease_stops_the_task_here<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold_on("a").after_commit(conn));
    let at_work = at_work!(worker_of::<A>(db, &notes, 1).lease(SHORT));
    notes.wait_for(1).await;
    take_away(db);
    notes.wait_until(|all| all == ["begin a", "stopped a"]).await;
    // Its runner is free, and the row the other's.
    words(db, &["after"]);
    notes.wait_for(3).await;
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (1, 0, 0), "{report}");
    let rows = db.tasks();
    assert_eq!((&*rows[0].state, rows[0].attempts), ("running", 1));
}

/// D11: what another one has is not deleted under its hands.
async fn a_late_end_is_not_told<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let failures = Notes::default();
    let told = failures.clone();
    committed(db, |conn| {
        hold_blocking("a").after_commit(conn)?;
        hold_blocking("b").after_commit(conn)
    });
    let at_work =
        at_work!(worker::<A>(db, &notes).lease(SHORT).on_failure(move |failure| told.add(failure.to_string())));
    notes.wait_for(2).await;
    take_away(db);
    // One ends before the worker has noticed, one after.
    notes.add("go a");
    notes.wait_until(|all| with(all, "end ").len() == 1).await;
    tokio::time::sleep(SHORT / 2).await;
    notes.add("go b");
    notes.wait_until(|all| with(all, "end ").len() == 2).await;
    let report = at_work.stop().await;
    assert_eq!(report.abandoned, []);
    assert_eq!(states(db), ["running", "running"]);
    assert_eq!(failures.all(), [""; 0]);
}

/// D11: a lease that has ended, and that nobody has taken, is still ours: what runs is not stopped
/// for nothing.
async fn a_worker_that_was_away_for_long_goes_on<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold_on("a").after_commit(conn));
    let at_work = at_work!(worker::<A>(db, &notes).lease(SHORT).poll_interval(Duration::from_millis(100)));
    notes.wait_for(1).await;
    let (lock, unlock) = match A::Blocking::NAME {
        "SQLite" => ("BEGIN IMMEDIATE", "ROLLBACK"),
        "PostgreSQL" => ("BEGIN; LOCK TABLE deferred_tasks IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
        _ => ("LOCK TABLES deferred_tasks WRITE", "UNLOCK TABLES"),
    };
    let mut conn = db.patient();
    conn.batch_execute(lock).expect("locked");
    let end = A::Blocking::number(conn.inner_mut(), LEASE_END);
    while A::Blocking::now_ms(conn.inner_mut()) < end + 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    conn.batch_execute(unlock).expect("unlocked");
    lease_extended(db, end, 1).await;
    assert_eq!((states(db), db.tasks()[0].attempts), (vec!["running".to_owned()], 1));
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(notes.all(), ["begin a", "go", "end a"]);
    at_work.stop().await;
}

/// FINDINGS C13: "the database's clock goes back an hour: a dead worker's row is stuck for an hour".
/// That of a worker that lives stays with it.
async fn no_lease_lasts_for_longer_because_the_clock_went_back<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold_on("alive").after_commit(conn));
    // Whichever of the workers finds the dead one's row, leases it anew for no less than its own lease.
    let alive = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(6)));
    notes.wait_for(1).await;
    // As if all of this had been an hour later; and a worker that died just before the clock went
    // back.
    let dead = at_work!(worker::<A>(db, &notes).queue("dead", 1).lease(SHORT));
    committed(db, |conn| hold_on("dead").queue("dead").after_commit(conn));
    notes.wait_until(|all| with(all, "begin ").len() == 2).await;
    dead.kill().await;
    db.run_sql(
        "UPDATE deferred_tasks SET lease_until_ms = lease_until_ms + 3600000, started_at_ms = started_at_ms + 3600000",
    );
    let other = at_work!(worker::<A>(db, &notes).queue("dead", 1).lease(SHORT));
    notes.wait_until(|all| with(all, "begin ") == ["alive", "dead", "dead"]).await;
    // The lease of the one that lives ends when it should.
    let of_alive = "SELECT lease_until_ms AS number FROM deferred_tasks WHERE queue = 'default'";
    let ends = A::Blocking::number(&mut db.observer(), of_alive);
    let now = A::Blocking::now_ms(&mut db.observer());
    assert!(ends <= now + 7_000, "it ends {} ms from now", ends - now);
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(with(&notes.all(), "end ").len(), 2);
    alive.stop().await;
    other.stop().await;
}

/// Runs for as long as its worker.
#[deferred_task(durable)]
async fn run_on() {
    std::future::pending::<()>().await;
}

/// FINDINGS C11: a list of as many tasks is too much for a statement of MariaDB and SQLite.
async fn a_hundred_thousand_leases_are_renewed<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    const TASKS: i64 = 100_000;
    let db = &Scratch::<A::Blocking>::with_tasks();
    let (series, id) = match A::Blocking::NAME {
        "PostgreSQL" => ("SELECT n FROM generate_series(1, 100000) AS n", "gen_random_uuid()"),
        "MariaDB" => ("SELECT seq AS n FROM seq_1_to_100000", "RANDOM_BYTES(16)"),
        _ => (
            "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100000) SELECT n FROM s",
            "randomblob(16)",
        ),
    };
    db.run_sql(&format!(
        "INSERT INTO deferred_tasks (id, task, queue, payload, run_at_ms, max_attempts, enqueued_at_ms) \
         SELECT {id}, 'worker::leases::run_on', 'default', '{{}}', 0, 5, 0 FROM ({series}) AS s"
    ));
    let concurrency = usize::try_from(TASKS).expect("few enough");
    let at_work = at_work!(worker_of::<A>(db, &Notes::default(), concurrency).lease(Duration::from_secs(30)));
    let mut observer = db.observer();
    let mut number = |what: &str| {
        let of_running = format!("SELECT {what} AS number FROM deferred_tasks WHERE state = 'running'");
        A::Blocking::number(&mut observer, &of_running)
    };
    let waits = async {
        while number("count(*)") < TASKS {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let end = number("max(lease_until_ms)");
        while number("min(lease_until_ms)") <= end {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(number("count(CASE WHEN attempts = 1 THEN 1 END)"), TASKS);
    };
    tokio::time::timeout(Duration::from_secs(300), waits).await.expect("all leases are renewed in time");
    at_work.kill().await;
}
