//! Where the claims of a queue begin: behind the last claim, which spares PostgreSQL the dead rows
//! before it. Dead rows stay for as long as an older transaction is open anywhere.
//!
//! Must not know: how a claim is made.

#![cfg_attr(not(feature = "async-postgres"), allow(dead_code, reason = "only PostgreSQL begins there"))]

use std::time::Duration;

use tokio::time::Instant;

use crate::durable::id::TaskId;

/// A place in the order in which tasks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(super) priority: i16,
    pub(super) run_at_ms: i64,
    pub(super) id: TaskId,
}

impl Floor {
    /// A place as long before it as those that were written before may commit behind it.
    fn with_slack(self) -> Self {
        Self { run_at_ms: self.run_at_ms.saturating_sub(SLACK_MS), ..self }
    }
}

/// Where a claim begins that does not begin at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(super) behind: Floor,
    /// Rows of a more urgent priority than the floor are claimed first, because new ones may have
    /// been enqueued.
    pub(super) urgent_first: bool,
    /// What is done where there is not enough behind the floor.
    pub(super) front: Front,
}

/// Whether a claim looks at the front, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    No,
    IfThereIsNothingBehind,
    Yes,
}

/// Who is called has a row that was due a moment ago: those that are committed up to this much
/// later than another one are not overlooked.
const SLACK_MS: i64 = 1_000;

/// How long claims begin behind the last one, at most: what commits later still, or was given back,
/// lies before it.
const LASTS: Duration = Duration::from_millis(500);

/// The next claim at the front, and the next look at all of the table, waits for this many times as
/// long as the last one took. Where much is dead they take long, and whoever calls meanwhile waits for
/// them: one call in a hundred for each of the two.
pub(super) const REST: u32 = 100;

/// What is known of a queue's last claims.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginning {
    /// Where the last one ended.
    floor: Option<Floor>,
    /// When there was a claim at the front, and how long it took.
    front: Option<(Instant, Duration)>,
    /// Somebody called since then.
    called: bool,
    /// Rows may have become ready that lie before the floor.
    before: bool,
}

impl Beginning {
    /// Where the next claim begins; `None`: at the front.
    pub(super) fn at(&self, now: Instant) -> Option<Start> {
        let behind = self.floor?;
        let (last, took) = self.front?;
        let since = now.saturating_duration_since(last);
        let may = since >= took * REST;
        if may && since >= LASTS {
            return None;
        }
        let front = match (may, self.before, self.called) {
            (true, true, _) => Front::Yes,
            (true, false, true) => Front::IfThereIsNothingBehind,
            _ => Front::No,
        };
        Some(Start { behind, urgent_first: self.called, front })
    }

    /// Where a look begins.
    pub(super) fn floor(&self) -> Option<Floor> {
        self.floor
    }

    /// A claim has ended. It took rows up to `last`, as many as it was to take or all that there
    /// were; `front` is how long it took there, if it was there.
    pub(super) fn claimed(&mut self, full: bool, last: Option<Floor>, front: Option<Duration>, end: Instant) {
        match last {
            Some(last) if full => self.floor = Some(last),
            // There is no more: the next one is a new one.
            Some(last) => self.floor = Some(last.with_slack()),
            None => {}
        }
        if let Some(took) = front {
            self.front = Some((end, took));
            self.before = false;
        }
        self.called = false;
    }

    /// Somebody called. A call is due now, and so stands behind all that was taken, but for what is
    /// less urgent.
    pub(super) fn called(&mut self) {
        self.called = true;
    }

    /// Rows have become ready that may lie before the floor.
    pub(super) fn before(&mut self) {
        self.before = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn floor(run_at_ms: i64) -> Floor {
        Floor { priority: 0, run_at_ms, id: TaskId::new() }
    }

    fn start(behind: Floor, urgent_first: bool, front: Front) -> Option<Start> {
        Some(Start { behind, urgent_first, front })
    }

    #[test]
    fn begins_behind_the_last_claim_for_a_while() {
        for (took, lasts) in [(1, 500), (5, 500), (6, 600), (20, 2_000)] {
            let (mut beginning, end) = (Beginning::default(), Instant::now());
            assert_eq!(beginning.at(end), None);
            let (first, second) = (floor(1), floor(2));
            beginning.claimed(true, Some(first), Some(took * MS), end);
            assert_eq!(beginning.at(end), start(first, false, Front::No));
            beginning.claimed(true, Some(second), None, end + 300 * MS);
            assert_eq!(beginning.at(end + (lasts - 1) * MS), start(second, false, Front::No));
            assert_eq!(beginning.at(end + lasts * MS), None);
        }
    }

    #[test]
    fn looks_for_what_is_more_urgent_once_a_call() {
        let (mut beginning, end, last) = (Beginning::default(), Instant::now(), floor(1));
        beginning.claimed(true, Some(last), Some(MS), end);
        beginning.called();
        assert_eq!(beginning.at(end), start(last, true, Front::No));
        assert_eq!(beginning.at(end + 100 * MS), start(last, true, Front::IfThereIsNothingBehind));
        beginning.claimed(true, Some(last), None, end);
        assert_eq!(beginning.at(end + 100 * MS), start(last, false, Front::No));
    }

    #[test]
    fn looks_before_the_floor_where_something_became_ready() {
        let (mut beginning, end, last) = (Beginning::default(), Instant::now(), floor(1));
        beginning.claimed(true, Some(last), Some(MS), end);
        beginning.before();
        beginning.claimed(true, Some(last), None, end);
        assert_eq!(beginning.at(end + 100 * MS), start(last, false, Front::Yes));
        beginning.claimed(true, Some(last), Some(MS), end);
        assert_eq!(beginning.at(end + 100 * MS), start(last, false, Front::No));
    }

    #[test]
    fn begins_a_little_before_the_last_one_where_there_was_no_more() {
        let (mut beginning, end) = (Beginning::default(), Instant::now());
        let last = floor(5_000);
        beginning.claimed(false, Some(last), Some(MS), end);
        let before = Floor { run_at_ms: 4_000, ..last };
        assert_eq!(beginning.at(end), start(before, false, Front::No));
        beginning.claimed(false, None, None, end);
        assert_eq!(beginning.at(end), start(before, false, Front::No));
    }
}
