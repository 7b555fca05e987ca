//! What a worker knows from one round to the next: what is due when, and what there may be to take.
//!
//! Must not know: what is done in a round.

use std::time::Duration;

use tokio::time::Instant;

use super::source::Claimed;

/// How long ends of attempts wait for others at most, so that many are told at once, while others
/// of their queue still run.
const LINGER: Duration = Duration::from_millis(5);

/// What is known between two rounds.
pub(super) struct Round {
    /// Of which lanes there may be more to take.
    pub(super) hungry: Vec<bool>,
    /// How long the last exchange took.
    pub(super) exchange_took: Duration,
    pub(super) tend_at: Instant,
    pub(super) renew_at: Instant,
    /// When there is to be another look, and how long after the last one: a process that has told
    /// of a commit is silent about those of the next few milliseconds, and some of these take longer
    /// than others. So one that was told looks again, each time after twice as long, until that is
    /// what it does anyway.
    pub(super) look_again: Option<(Instant, Duration)>,
    /// Since when ends wait to be told.
    pub(super) lingering: Option<Instant>,
    /// When ends are told that could not be.
    pub(super) resume_at: Option<Instant>,
    /// Whether there was a round that did what it was to do.
    pub(super) worked: bool,
    /// Where it is to stop when nothing is due: what was left when it last had nothing to do.
    pub(super) left: Option<Left>,
    /// Of each lane how many of its claims failed, one after the other, and until when there is no
    /// other one: they keep the others waiting.
    pub(super) put_off: Vec<(u32, Instant)>,
    /// Of each lane, how many bytes of arguments a call had on average that was claimed last. A claim
    /// looks at the sizes of as many calls as it may take, which some databases read the arguments
    /// for: of large ones it is to look at few.
    sizes: Vec<i64>,
    /// Which lane is the first to claim.
    pub(super) first: usize,
    pub(super) failures: u32,
}

/// What there is to be done that a worker does not have in its hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Unknown,
    Nothing,
    Something,
}

impl Round {
    pub(super) fn new(lanes: usize, lease: Duration, until_empty: bool) -> Self {
        let now = Instant::now();
        Self {
            hungry: vec![true; lanes],
            exchange_took: Duration::ZERO,
            tend_at: now,
            renew_at: now + lease / 3,
            look_again: None,
            lingering: None,
            resume_at: None,
            worked: false,
            left: until_empty.then_some(Left::Unknown),
            put_off: vec![(0, now); lanes],
            sizes: vec![0; lanes],
            first: 0,
            failures: 0,
        }
    }

    /// How long ends wait for others: no longer than it takes to tell of them.
    pub(super) fn linger(&self) -> Duration {
        self.exchange_took.min(LINGER)
    }

    /// How many calls of a lane have so many bytes of arguments, with as many again to spare.
    pub(super) fn likely(&self, lane: usize, bytes: i64) -> u32 {
        match self.sizes[lane] {
            0 => u32::MAX,
            size => u32::try_from(bytes.max(0).saturating_mul(2) / size).unwrap_or(u32::MAX).max(1),
        }
    }

    /// Notes how large those are that were claimed.
    pub(super) fn measure(&mut self, claimed: &[Claimed]) {
        let mut sums = vec![(0, 0); self.sizes.len()];
        for Claimed { lane, payload, .. } in claimed {
            let (calls, bytes) = &mut sums[*lane];
            (*calls, *bytes) = (*calls + 1, *bytes + payload.len());
        }
        for (size, (calls, bytes)) in self.sizes.iter_mut().zip(sums).filter(|(_, (calls, _))| *calls > 0) {
            *size = i64::try_from(bytes / calls).unwrap_or(i64::MAX);
        }
    }

    /// It did not do what it was to do; says when the next one is to begin.
    pub(super) fn failed(&mut self) -> Instant {
        self.failures += 1;
        // Whatever was called out meanwhile was not heard.
        self.hungry.fill(true);
        self.tend_at = Instant::now();
        Instant::now() + outage_pause(self.failures)
    }
}

/// How long a worker waits between two attempts to reach its database.
pub(super) fn outage_pause(failures: u32) -> Duration {
    let doubled = Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(failures.min(10)));
    doubled.min(Duration::from_secs(5)).mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::id::TaskId;

    #[test]
    fn of_large_calls_a_claim_looks_at_few() {
        let mut round = Round::new(2, Duration::from_secs(60), false);
        let call = |lane, bytes| Claimed {
            lane,
            id: TaskId::new(),
            task: String::new(),
            payload: "x".repeat(bytes),
            attempt: 1,
            max_attempts: 1,
            key: None,
            refusals: 0,
            run_at_ms: 0,
            started_at_ms: 0,
            trace_parent: None,
        };
        assert_eq!(round.likely(0, 1_000), u32::MAX, "nothing is known");
        round.measure(&[call(0, 150), call(1, 1), call(0, 250)]);
        assert_eq!((round.likely(0, 1_000), round.likely(1, 1_000)), (10, 2_000));
        assert_eq!(round.likely(0, -5_000), 1, "a lane in which nothing runs has one");
        round.measure(&[call(1, 100)]);
        assert_eq!((round.likely(0, 1_000), round.likely(1, 1_000)), (10, 20));
    }
}
