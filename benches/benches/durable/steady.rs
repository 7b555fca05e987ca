//! A steady load beside a transaction that stays open: what is dead stays, and nobody is to notice.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};
use tokio::sync::mpsc;

use crate::schema::{Schema, Working};
use crate::{CONCURRENCY, Progress, stamp};

/// Calls a second.
const OFFERED: u64 = 800;

/// So many that are committed at a time.
const AT_A_TIME: u64 = 8;

/// From the call to the first line of its task, for so long: the first minute's 95th percentile, and
/// the last one's.
pub async fn steady(schema: &Schema, time: Duration) {
    schema.empty();
    let long = schema.long_transaction();
    let (sender, mut latencies) = mpsc::unbounded_channel::<Duration>();
    let working =
        Working::start(schema.worker().state(Progress::of(u64::MAX)).state(sender).queue("steady", CONCURRENCY));
    let mut conn = DeferredConnection::new(schema.connect());
    let caller = tokio::task::spawn_blocking(move || {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < time {
            atomic!(conn, -> QueryResult<()>, {
                for _ in 0..AT_A_TIME {
                    stamp(now_us());
                }
                Ok(())
            })
            .expect("commit");
            calls += AT_A_TIME;
            let next = start + Duration::from_micros(calls * 1_000_000 / OFFERED);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        calls
    });
    let calls = caller.await.expect("it called");
    let mut all = Vec::new();
    while (all.len() as u64) < calls {
        all.push(latencies.recv().await.expect("it works"));
    }
    working.stop().await;
    drop(long);
    let minute = usize::try_from(OFFERED * 60).expect("few").min(all.len() / 2);
    let percentile = |latencies: &[Duration]| {
        let mut latencies = latencies.to_vec();
        latencies.sort_unstable();
        latencies[latencies.len() * 95 / 100]
    };
    let (first, last) = (percentile(&all[..minute]), percentile(&all[all.len() - minute..]));
    println!(
        "{OFFERED} calls a second for {time:?} beside an open transaction: {calls} ran; 95th percentile of the first \
         minute {first:?}, of the last one {last:?}, ratio {:.2}",
        last.as_secs_f64() / first.as_secs_f64()
    );
}

/// By the clock of this machine.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970");
    u64::try_from(now.as_micros()).expect("before the year 500000")
}
