//! Where the claims of a queue begin: behind the last claim, which spares PostgreSQL the dead rows
//! before it. Dead rows stay for as long as an older transaction is open anywhere.
//!
//! Must not know: how a claim is made.

#![cfg_attr(not(feature = "async-postgres"), allow(dead_code, reason = "only PostgreSQL begins there"))]

use std::time::{Duration, Instant};

use crate::durable::id::TaskId;

/// A place in the order in which tasks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(super) priority: i16,
    pub(super) run_at_ms: i64,
    pub(super) id: TaskId,
}

/// Where a claim begins that does not begin at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(super) behind: Floor,
    /// Rows of a more urgent priority than the floor are claimed first, because new ones may have
    /// been enqueued.
    pub(super) urgent_first: bool,
}

/// How long claims begin behind the last one, at least: what commits late, or was given back, lies
/// before it.
const LASTS: Duration = Duration::from_millis(500);

/// And at most.
const LASTS_AT_MOST: Duration = Duration::from_secs(2);

/// What is known of a queue's last claims.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginning {
    /// Where the last one ended, and until when others begin there; `None`: there was nothing more.
    floor: Option<(Floor, Instant)>,
    /// Somebody called since then.
    called: bool,
}

impl Beginning {
    /// Where a claim begins now; `None`: at the front.
    pub(super) fn at(&self, now: Instant) -> Option<Start> {
        let (behind, until) = self.floor?;
        (now < until).then_some(Start { behind, urgent_first: self.called })
    }

    /// A claim that began there has ended, after this time. It took all that it was to take, up to
    /// `last`, or there was no more.
    pub(super) fn claimed(&mut self, start: Option<Start>, last: Option<Floor>, took: Duration, end: Instant) {
        let until = match (start, self.floor) {
            (Some(_), Some((_, until))) => until,
            // Where there is much that is dead it takes long from the front: it is not to become
            // most of what is done.
            _ => end + (took * 10).clamp(LASTS, LASTS_AT_MOST),
        };
        self.floor = last.map(|last| (last, until));
        self.called = false;
    }

    /// Somebody called. A call is due now, and so stands behind all that was taken, but for what is
    /// less urgent.
    pub(super) fn called(&mut self) {
        self.called = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn floor(run_at_ms: i64) -> Floor {
        Floor { priority: 0, run_at_ms, id: TaskId::new() }
    }

    fn behind(behind: Floor) -> Option<Start> {
        Some(Start { behind, urgent_first: false })
    }

    #[test]
    fn begins_behind_the_last_claim_for_a_while() {
        for (took, lasts) in [(1, 500), (50, 500), (51, 510), (200, 2_000), (60_000, 2_000)] {
            let (mut beginning, end) = (Beginning::default(), Instant::now());
            assert_eq!(beginning.at(end), None);
            let (first, second) = (floor(1), floor(2));
            beginning.claimed(None, Some(first), took * MS, end);
            assert_eq!(beginning.at(end), behind(first));
            beginning.claimed(behind(first), Some(second), 300 * MS, end + 300 * MS);
            assert_eq!(beginning.at(end + (lasts - 1) * MS), behind(second));
            assert_eq!(beginning.at(end + lasts * MS), None);
        }
    }

    #[test]
    fn looks_for_what_is_more_urgent_once_a_call() {
        let (mut beginning, end, last) = (Beginning::default(), Instant::now(), floor(1));
        beginning.called();
        beginning.claimed(None, Some(last), MS, end);
        assert_eq!(beginning.at(end), behind(last));
        beginning.called();
        let start = Some(Start { behind: last, urgent_first: true });
        assert_eq!(beginning.at(end), start);
        beginning.claimed(start, Some(last), MS, end);
        assert_eq!(beginning.at(end), behind(last));
    }

    #[test]
    fn begins_at_the_front_where_there_was_no_more() {
        let (mut beginning, end, last) = (Beginning::default(), Instant::now(), floor(1));
        beginning.claimed(None, Some(last), MS, end);
        beginning.claimed(behind(last), None, MS, end);
        assert_eq!(beginning.at(end), None);
    }
}
