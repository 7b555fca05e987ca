//! Where the claims of a queue begin: behind the last one, which spares PostgreSQL the dead rows before it. They stay for as long as a
//! transaction that is older is open somewhere.
//!
//! Must not know: how a claim is made.

use std::time::{Duration, Instant};

use crate::durable::id::TaskId;

/// A place in the order in which tasks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "async-postgres"), allow(dead_code, reason = "only PostgreSQL begins there"))]
pub(crate) struct Floor {
    pub(super) priority: i16,
    pub(super) run_at_ms: i64,
    pub(super) id: TaskId,
}

/// How long claims begin behind the last one: what commits late, or is tried again, may lie before it.
const LASTS: Duration = Duration::from_millis(500);

/// How long they do so at most where it costs much to begin at the front.
const LASTS_AT_MOST: Duration = Duration::from_secs(2);

/// What is known of a queue's last claims.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginning {
    /// Where the last one ended; `None`: there was nothing more.
    floor: Option<Floor>,
    /// When one last ended that had begun at the front, and how long it took.
    at_front: Option<(Instant, Duration)>,
    /// How long the last one took that did not.
    behind: Option<Duration>,
    /// Something was written since then, which may have to start before what was taken last.
    called: bool,
}

impl Beginning {
    /// Where a claim begins now; `None`: at the front.
    pub(super) fn at(&self, now: Instant) -> Option<Floor> {
        let (since, took) = self.at_front?;
        let lasts = if self.behind.is_some_and(|usual| took > usual * 2) {
            // A tenth of the time at most goes into what is dead, however often somebody calls.
            (took * 10).clamp(LASTS, LASTS_AT_MOST)
        } else if self.called {
            Duration::ZERO
        } else {
            LASTS
        };
        self.floor.filter(|_| now.duration_since(since) < lasts)
    }

    /// A claim has ended that began there, and took all that it was to take, up to `last`, or there was no more.
    pub(super) fn claimed(&mut self, from: Option<Floor>, last: Option<Floor>, took: Duration, end: Instant) {
        if last.is_none() {
            *self = Self::default();
            return;
        }
        self.floor = last;
        if from.is_some() {
            self.behind = Some(took);
        } else {
            self.at_front = Some((end, took));
            self.called = false;
        }
    }

    /// Something was written.
    pub(super) fn called(&mut self) {
        self.called = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn floor(run_at_ms: i64) -> Option<Floor> {
        Some(Floor { priority: 0, run_at_ms, id: TaskId::new() })
    }

    /// When a claim ended that began at the front and took so long, and the end of one behind it, which took 10 ms.
    fn after(took: Duration) -> (Beginning, Instant, Option<Floor>) {
        let (mut beginning, end) = (Beginning::default(), Instant::now());
        assert_eq!(beginning.at(end), None);
        let (first, second) = (floor(1), floor(2));
        beginning.claimed(None, first, took, end);
        assert_eq!(beginning.at(end), first);
        beginning.claimed(first, second, 10 * MS, end + 10 * MS);
        (beginning, end, second)
    }

    #[test]
    fn begins_behind_the_last_claim_for_a_while() {
        let (beginning, end, last) = after(10 * MS);
        assert_eq!(beginning.at(end + 499 * MS), last);
        assert_eq!(beginning.at(end + 500 * MS), None);
    }

    #[test]
    fn begins_at_the_front_when_called() {
        let (mut beginning, end, _) = after(20 * MS);
        beginning.called();
        assert_eq!(beginning.at(end + 20 * MS), None);
        let last = floor(3);
        beginning.claimed(None, last, 10 * MS, end + 30 * MS);
        assert_eq!(beginning.at(end + 30 * MS), last);
    }

    #[test]
    fn begins_there_less_often_where_that_costs_much() {
        let (mut beginning, end, last) = after(21 * MS);
        beginning.called();
        assert_eq!(beginning.at(end + 499 * MS), last);
        assert_eq!(beginning.at(end + 500 * MS), None);
        for (took, lasts) in [(100, 1_000), (199, 1_990), (1_000, 2_000)] {
            let (beginning, end, last) = after(took * MS);
            assert_eq!(beginning.at(end + (lasts - 1) * MS), last);
            assert_eq!(beginning.at(end + lasts * MS), None);
        }
    }

    #[test]
    fn begins_at_the_front_where_there_was_no_more() {
        let (mut beginning, end, last) = after(100 * MS);
        beginning.claimed(last, None, MS, end);
        assert_eq!(beginning.at(end), None);
    }
}
