//! A process that enqueues and works is killed with SIGKILL at any moment, and started anew, again
//! and again.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use diesel_deferred::Worker;
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, at_work, on_every_async_database};
use fastrand::Rng;

use crate::child::Process;
use crate::journal::Journal;
use crate::tasks;
use crate::verdict::Story;

on_every_async_database!(d04_killed_at_any_moment);

/// How many numbers a process has.
const NUMBERS: i32 = 100_000;

/// The latest moment of a kill after the process has begun.
const LATEST: Duration = Duration::from_millis(110);

/// With fewer rounds than this, some phase may not be hit.
const ENOUGH: usize = 40;

/// D4, D1, D3, D10, D11, Q5, Q12
async fn d04_killed_at_any_moment<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let rounds = std::env::var("CRASH_ROUNDS").map_or(70, |rounds| rounds.parse().expect("CRASH_ROUNDS is a number"));
    let seed = std::env::var("CRASH_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    crate::say!("{}: CRASH_SEED={seed}", A::Blocking::NAME);
    let directory = tempfile::tempdir().expect("a directory");
    let begin = Instant::now();
    let mut story = Story::default();
    let mut rng = Rng::with_seed(seed);
    for round in 0..rounds {
        let path = directory.path().join(round.to_string());
        let first = NUMBERS * i32::try_from(round).expect("so few");
        let variables = [
            ("CRASH_JOURNAL", path.display().to_string()),
            ("CRASH_SEED", rng.u64(..).to_string()),
            ("CRASH_FIRST", first.to_string()),
        ];
        let process = Process::start::<A>("enqueues and works", db.url(), &variables);
        // The moment is what the test is about: nothing is waited for.
        std::thread::sleep(LATEST.mul_f64(rng.f64()));
        process.kill();
        look(db, &mut story, &path, first..first + NUMBERS);
    }
    let killed_for = begin.elapsed();

    let path = directory.path().join("last");
    let journal = Journal::open(&path);
    let healthy = Worker::<A>::builder(db.url()).queue(tasks::QUEUE, 10).poll_interval(Duration::from_millis(50));
    let worker = at_work!(healthy.state(journal));
    // D10: nothing is left, not even a dead letter.
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    worker.stop().await;
    story.read(&std::fs::read_to_string(&path).expect("the journal"), false);
    story.judge(&db.committed());
    let tally = &story.tally;
    crate::say!("{}: {tally}; {killed_for:.1?}, then {:.1?}", A::Blocking::NAME, begin.elapsed() - killed_for);
    if rounds >= ENOUGH {
        for (phase, hit) in [
            ("before COMMIT", tally.before_commit),
            ("between COMMIT and claim", tally.before_claim),
            ("while a task ran", tally.while_running),
            ("between run and ack", tally.before_ack),
        ] {
            assert!(hit > 0, "no process was killed {phase}");
        }
    }
}

/// What the process that was killed has left: of its own calls, and of those that it ran.
fn look<C: Database>(db: &Scratch<C>, story: &mut Story, journal: &Path, its_own: Range<i32>) {
    story.read(&std::fs::read_to_string(journal).expect("the journal"), true);
    let rows: Vec<_> = db.tasks().into_iter().map(|row| (number_in(&row.payload), row)).collect();
    let unclaimed = rows.iter().any(|(number, row)| row.attempts == 0 && its_own.contains(number));
    let unacknowledged = rows.iter().any(|(number, row)| row.state == "running" && story.has_just_ended(*number));
    story.tally.before_claim += usize::from(unclaimed);
    story.tally.before_ack += usize::from(unacknowledged);
}

fn number_in(payload: &str) -> i32 {
    let (_, rest) = payload.split_once("\"number\":").expect("a number");
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}
