//! How much waits in the queues of a worker, and when it asks.
//!
//! Must not know: how it asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::names::{DEPTH, OLDEST};
use super::recorder::{Labels, is_on, record};

/// When a worker asks how much waits.
#[derive(Debug)]
pub(crate) struct Gauges {
    interval: Duration,
    at: Instant,
}

/// How many times as long as it took to ask a worker waits at least, before it asks again.
const REST: u32 = 100;

impl Gauges {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, at: Instant::now() }
    }

    /// When it asks next; `None`: nobody wants to know.
    pub(crate) fn next(&self) -> Option<Instant> {
        is_on().then_some(self.at)
    }

    /// It has asked, which began then.
    pub(crate) fn asked(&mut self, begin: Instant) {
        let now = Instant::now();
        let rest = now.duration_since(begin).saturating_mul(REST);
        self.at = now.checked_add(rest.max(self.interval)).unwrap_or(now);
    }
}

/// How much of each queue waits: how many, and for how many milliseconds the oldest has been due.
pub(crate) fn waiting(queues: &[Arc<str>], waiting: &[(i64, Option<i64>)]) {
    record(|writer| {
        for (queue, (ready, oldest_ms)) in queues.iter().zip(waiting) {
            let labels = Labels::queue(queue);
            writer.set(DEPTH, &labels, *ready as f64);
            // The clock of the database may have gone back.
            writer.set(OLDEST, &labels, oldest_ms.unwrap_or(0).max(0) as f64 / 1_000.0);
        }
    });
}
