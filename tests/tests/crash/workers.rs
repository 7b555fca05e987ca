//! Two processes work on one queue: no row runs twice at a time within its lease, and no key does.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::time::Duration;

use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, eventually, on_every_async_database};

use crate::child::Process;
use crate::spans::{Span, Spans, connect, enqueue};

on_every_async_database!(d11_q12_two_processes, d11_what_waits_is_not_started_when_its_lease_has_ended);

/// Two of them that have a moment in common.
fn overlapping(spans: &[Span], are_the_same: impl Fn(&Span, &Span) -> bool) -> Option<(&Span, &Span)> {
    let ended = |span: &Span| span.ended_ms.unwrap_or(i64::MAX);
    spans.iter().enumerate().find_map(|(at, a)| {
        let other = |b: &&Span| are_the_same(a, b) && a.begun_ms < ended(b) && b.begun_ms < ended(a);
        spans[at + 1..].iter().find(other).map(|b| (a, b))
    })
}

fn numbers(spans: &[Span]) -> HashSet<u32> {
    spans.iter().map(|span| span.number).collect()
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// D11, Q10: whoever lives keeps what it has, for longer than a lease too. Q12, D9: those of a key
/// run one after the other, in their order.
async fn d11_q12_two_processes<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let spans = Spans::new();
    let lease = Duration::from_secs(2);
    let workers = [1, 2].map(|worker| spans.work::<A>(db, worker, 4, lease));
    let conn = &mut connect(db);
    // Longer than the lease.
    enqueue(conn, [(1, 3_000, None), (2, 3_000, None)]);
    for chunk in 1..=10 {
        enqueue(conn, (0..16).map(|at| (chunk * 100 + at, 8, KEYS.get(at as usize % 6).copied())));
    }
    db.wait_for_tasks(|rows| {
        // Nobody died, so that nothing is taken twice.
        assert!(rows.iter().all(|row| row.attempts <= 1), "{rows:#?}");
        rows.is_empty()
    })
    .await;
    workers.into_iter().for_each(Process::stop);
    let spans = spans.all();
    assert_eq!(overlapping(&spans, |a, b| a.id == b.id), None, "one row twice at a time");
    assert_eq!(overlapping(&spans, |a, b| !a.key.is_empty() && a.key == b.key), None, "two of one key at a time");
    assert_eq!((spans.len(), numbers(&spans).len()), (162, 162), "{spans:?}");
    for key in KEYS {
        let of_key: Vec<_> = spans.iter().filter(|span| span.key == key).map(|span| span.number).collect();
        assert!(of_key.len() >= 20 && of_key.is_sorted(), "{key} is out of order: {of_key:?}");
    }
    let mut by_worker = BTreeMap::<_, usize>::new();
    spans.iter().for_each(|span| *by_worker.entry(span.worker).or_default() += 1);
    crate::say!("{}: tasks by worker: {by_worker:?}", A::Blocking::NAME);
    assert_eq!(by_worker.len(), 2, "one of the two did nothing");
}

/// D11: a worker that stood still for longer than its lease, in a debugger or on a machine that
/// slept, starts nothing that another one has. D19: it had taken one task, which it had started.
async fn d11_what_waits_is_not_started_when_its_lease_has_ended<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let spans = Spans::new();
    let brief = (0..200).map(|number| (number, 0, None));
    enqueue(&mut connect(db), brief.chain((200..212).map(|number| (number, 300, None))));
    let still = spans.work::<A>(db, 1, 1, Duration::from_secs(1));
    let observer = &mut db.observer();
    eventually("one that is slow runs", || {
        // 200 to 211 are slow, and it runs one at a time.
        let slow = r#"SELECT count(*) AS number FROM deferred_tasks WHERE state = 'running' AND payload LIKE '%"number":2__,%'"#;
        A::Blocking::number(observer, slow) == 1 && spans.all().last().is_some_and(|span| span.number >= 200)
    })
    .await;
    signal(&still, "STOP");
    // Where it stands still within a transaction, it keeps its locks for as long as it does.
    while !nothing_is_locked(db) {
        signal(&still, "CONT");
        signal(&still, "STOP");
    }
    let healthy = spans.work::<A>(db, 2, 4, Duration::from_secs(30));
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    healthy.stop();
    let before = spans.all();
    signal(&still, "CONT");
    still.stop();
    let after = spans.all();
    assert_eq!(after.len(), before.len(), "it began what was another worker's: {:?}", after.last());
    assert_eq!(numbers(&after).len(), 212);
    assert_eq!(after.len(), 213, "the one that it had, twice: {after:?}");
}

fn nothing_is_locked<C: Database>(db: &Scratch<C>) -> bool {
    let lock = match C::NAME {
        "SQLite" => "BEGIN IMMEDIATE",
        _ => "START TRANSACTION; SELECT id FROM deferred_tasks FOR UPDATE NOWAIT",
    };
    db.observer().batch_execute(&format!("{lock}; ROLLBACK")).is_ok()
}

fn signal(process: &Process, signal: &str) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(process.pid().to_string()).status();
    assert!(sent.expect("kill").success());
}
