//! When a commit tells the workers of other processes, on PostgreSQL: once in a few milliseconds a
//! process, whatever it commits. A worker that was told looks again for a while, so that a commit
//! in between is not late.
//!
//! Must not know: how that is sent, or what a worker does.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At most one notification in this time.
pub(crate) const WINDOW: Duration = Duration::from_millis(5);

/// How long nobody notifies when a notification could not be sent: the server's queue of them is
/// full, or another session holds it. No commit has to find that out again at once.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether this process notifies at all.
static SILENT: AtomicBool = AtomicBool::new(false);

static TURN: Turn = Turn::new();

/// Has no commit of this process notify: from now on, and for good.
///
/// On PostgreSQL a commit with durable calls that are due sends `NOTIFY deferred_tasks` behind its
/// COMMIT, in the same message, for the workers of other processes. Call this once, where the
/// program begins, if the server or a pooler in between does not take that: CockroachDB,
/// YugabyteDB, some proxies of Aurora's. Workers of this process are woken all the same; those of
/// others find calls when they look, see [`poll_interval`](crate::WorkerBuilder::poll_interval).
///
/// Through PgBouncer's transaction mode notifications do go. But where one fails (another session has
/// held their lock for more than 10 ms, or their queue is full), the connection asks its session
/// whether COMMIT has succeeded, and there another session may answer: a transaction that was
/// committed is then reported as failed. Call this where that must not be.
///
/// # Examples
/// ```
/// diesel_deferred::never_notify();
/// // and then the program
/// ```
pub fn never_notify() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Whether a commit that is about to be sent is to notify. Who is told so does, or says that it
/// [did not](notification_failed).
pub(crate) fn claim_notification() -> bool {
    !SILENT.load(Ordering::Relaxed) && TURN.take(now())
}

/// What was claimed was not sent, because the transaction did not commit; says whether another one
/// has relied on it.
pub(crate) fn give_notification_back() -> bool {
    TURN.give_back()
}

/// What was claimed could not be sent.
pub(crate) fn notification_failed() {
    TURN.pause(now());
}

/// Microseconds since the first that was asked for.
fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    microseconds(BEGIN.elapsed())
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Whose turn it is to notify. Relaxed throughout: no other data goes with it.
struct Turn {
    /// The time from which on somebody notifies again, in microseconds.
    from: AtomicU64,
    /// Whether somebody has left it to the last one who had the turn.
    relied_on: AtomicBool,
}

impl Turn {
    const fn new() -> Self {
        Self { from: AtomicU64::new(0), relied_on: AtomicBool::new(false) }
    }

    fn take(&self, now: u64) -> bool {
        let next = now.saturating_add(microseconds(WINDOW));
        let taken = self.from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |from| (now >= from).then_some(next));
        self.relied_on.store(taken.is_err(), Ordering::Relaxed);
        taken.is_ok()
    }

    fn give_back(&self) -> bool {
        self.from.store(0, Ordering::Relaxed);
        self.relied_on.swap(false, Ordering::Relaxed)
    }

    fn pause(&self, now: u64) {
        self.from.store(now.saturating_add(microseconds(PAUSE)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d17_one_turn_in_a_window() {
        let turn = Turn::new();
        let taken = (0..1_000_000_u64).step_by(100).filter(|&now| turn.take(now)).count();
        assert_eq!(taken, 200, "a second");
    }

    #[test]
    fn d17_a_turn_that_is_given_back_is_the_next_ones() {
        let turn = Turn::new();
        assert!(turn.take(1_000));
        assert!(!turn.give_back(), "nobody relied on it");
        assert!(turn.take(1_001));
        assert!(!turn.take(1_002));
        assert!(turn.give_back(), "somebody did");
        assert!(turn.take(1_003));
    }

    #[test]
    fn d17_a_failure_is_a_pause() {
        let turn = Turn::new();
        assert!(turn.take(1_000));
        turn.pause(2_000);
        assert!(!turn.take(201_999));
        assert!(turn.take(202_000));
    }
}
