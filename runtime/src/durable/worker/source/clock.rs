//! Whether the database's clock may have gone back. What started before that is leased for so much
//! longer, and to find it takes a look at all that others have begun: not for ever.
//!
//! Must not know: what is done about it.

use std::time::Duration;

use tokio::time::Instant;

/// What a worker has seen of the database's clock.
#[derive(Debug)]
pub(super) struct Clock {
    /// What it said last, and when it had said so at the latest.
    last: Option<(i64, Instant)>,
    /// When it may have gone back last: before this worker began nobody may have looked.
    went_back: Instant,
}

/// A clock that is put right by less than that does no harm.
const SLACK_MS: i64 = 1_000;

/// For how long it is looked for, at least: a statement that asked for the time just before may take
/// effect behind a look. After two leases those that live have renewed what they have.
const LATE: Duration = Duration::from_secs(60);

impl Clock {
    pub(super) fn new() -> Self {
        Self { last: None, went_back: Instant::now() }
    }

    /// It has said this, between these moments.
    pub(super) fn said(&mut self, now_ms: i64, begin: Instant, end: Instant) {
        if let Some((last_ms, last)) = self.last {
            let since = i64::try_from(begin.saturating_duration_since(last).as_millis()).unwrap_or(i64::MAX);
            if now_ms < last_ms.saturating_add(since).saturating_sub(SLACK_MS) {
                self.went_back = end;
            }
        }
        self.last = Some((now_ms, end));
    }

    /// What it said last.
    pub(super) fn last_ms(&self) -> Option<i64> {
        self.last.map(|(ms, _)| ms)
    }

    /// Whether something may be leased for longer than it should because of that.
    pub(super) fn may_have_gone_back(&self, now: Instant, lease: Duration) -> bool {
        now.saturating_duration_since(self.went_back) < (lease * 2).max(LATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_goes_back_is_noticed() {
        let (mut clock, begin, lease) = (Clock::new(), Instant::now(), 45 * SECOND);
        let at = |seconds| begin + seconds * SECOND;
        assert!(clock.may_have_gone_back(at(1), lease), "before it began");
        assert!(!clock.may_have_gone_back(at(91), lease));
        clock.said(1_000_000, at(91), at(92));
        // It may have been said at the end of the one, and at the beginning of the other.
        clock.said(1_000_000, at(93), at(94));
        assert!(!clock.may_have_gone_back(at(94), lease));
        clock.said(1_010_000, at(104), at(105));
        assert!(!clock.may_have_gone_back(at(105), lease));
        clock.said(1_008_000, at(105), at(106));
        assert!(clock.may_have_gone_back(at(106), lease));
        clock.said(1_088_000, at(186), at(187));
        assert!(clock.may_have_gone_back(at(195), lease), "two leases have not passed");
        assert!(!clock.may_have_gone_back(at(197), lease));
        // Forward is none of that.
        clock.said(9_000_000, at(197), at(198));
        assert!(!clock.may_have_gone_back(at(198), lease));
    }
}
