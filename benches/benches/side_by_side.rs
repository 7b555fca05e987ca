//! Whole transactions, ours and by hand, in alternating slices: where a few percent count, what the
//! machine does meanwhile must hit both. Prints the ratio of the medians.
//!
//! `cargo bench -p diesel-deferred-benches --bench side_by_side`; `--test` runs each once.
//!
//! `--only by_hand 1 10000` runs nothing but 10,000 transactions by hand of one hook each (`ours` for
//! those of `atomic!`): under `valgrind --tool=callgrind`, whose counts do not depend on what the
//! machine does meanwhile.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

const SLICES: usize = 600;
const TRANSACTIONS: u32 = 2_000;

static SINK: AtomicU64 = AtomicU64::new(0);

#[deferred_task]
fn add(a: u64, b: u64, c: u64) {
    SINK.fetch_add(a + b + c, Ordering::Relaxed);
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let number = |at: usize| arguments[at].parse().expect("a number");
        let hooks = u64::from(number(at + 2));
        let mut transaction: Box<dyn FnMut()> =
            if arguments[at + 1] == "ours" { Box::new(ours(hooks)) } else { Box::new(by_hand(hooks)) };
        slice(number(at + 3), &mut transaction);
        return;
    }
    let (slices, transactions) =
        if arguments.iter().any(|argument| argument == "--test") { (1, 1) } else { (SLICES, TRANSACTIONS) };
    for hooks in [0, 1, 5, 20] {
        let (mut by_hand, mut ours) = (by_hand(hooks), ours(hooks));
        let (mut theirs, mut mine) = (Vec::new(), Vec::new());
        for _ in 0..slices {
            theirs.push(slice(transactions, &mut by_hand));
            mine.push(slice(transactions, &mut ours));
        }
        let (theirs, mine) = (median(theirs), median(mine));
        println!(
            "{hooks:2} hooks: by hand {theirs:?}, atomic! {mine:?} a transaction, ratio {:.3}",
            mine.as_secs_f64() / theirs.as_secs_f64()
        );
    }
}

/// A list of boxes that is kept from transaction to transaction, on Diesel's own connection.
fn by_hand(hooks: u64) -> impl FnMut() {
    let mut conn = SqliteConnection::establish(":memory:").expect("in memory");
    let mut list: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    move || {
        conn.transaction(|_| {
            for i in 0..hooks {
                let (a, b, c) = black_box((i, i, i));
                list.push(Box::new(move || {
                    SINK.fetch_add(a + b + c, Ordering::Relaxed);
                }));
            }
            QueryResult::Ok(())
        })
        .expect("commit");
        for hook in list.drain(..) {
            hook();
        }
    }
}

fn ours(hooks: u64) -> impl FnMut() {
    let mut conn = DeferredConnection::new(SqliteConnection::establish(":memory:").expect("in memory"));
    move || {
        atomic!(conn, -> QueryResult<()>, {
            for i in 0..hooks {
                let (a, b, c) = black_box((i, i, i));
                add(a, b, c);
            }
            Ok(())
        })
        .expect("commit");
    }
}

fn slice(transactions: u32, transaction: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..transactions {
        transaction();
    }
    start.elapsed() / transactions
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
