//! Running the outermost transaction again after a concurrent one was in its way.
//!
//! Must not know: which errors those are (the connection's watch does), or what the block does.

use std::hash::{BuildHasher, RandomState};
use std::thread::sleep;
use std::time::Duration;

use diesel::result::Error;

use super::builder::TransactionBuilder;
use super::registrar::BlockRegistrar;
use crate::connection::{Deferrable, DeferredConnection, Deferring, Wrapper};

/// Before the first retry; doubled for each further one. A short transaction takes about this long
/// on a local server.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// No pause is longer: by then the other transaction is not a matter of bad timing.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A [`TransactionBuilder`] that runs its block again when a concurrent transaction was in the way.
///
/// Between two attempts the thread sleeps: 5 ms before the first retry, doubled for each further
/// one, 1 s at most, and of that a random part between half and all, so that two transactions that
/// met do not meet again.
#[derive(Debug)]
#[must_use = "a transaction builder does nothing until `run`"]
pub struct RetryingTransaction<'c, W> {
    pub(super) transaction: TransactionBuilder<'c, W>,
    pub(super) retries: u32,
}

impl<'c, W: Deferring> TransactionBuilder<'c, W> {
    /// Runs the outermost transaction again, `retries` times at most, when a concurrent transaction
    /// was in its way: after a serialisation failure, a deadlock, or SQLite's `SQLITE_BUSY`, also
    /// when that is what COMMIT reports.
    ///
    /// Commit hooks of an attempt that failed never run; its rollback hooks do, at its end. An
    /// attempt counts as failed by a concurrent transaction when one was in its way at any time,
    /// also where the block went on and returned another error. Between the attempts the thread
    /// sleeps, see [`RetryingTransaction`]. Nested, there is no retry: the transaction around it is
    /// lost, and is what has to run again.
    pub fn retries(self, retries: u32) -> RetryingTransaction<'c, W> {
        RetryingTransaction { transaction: self, retries }
    }
}

impl<C: Deferrable> RetryingTransaction<'_, DeferredConnection<C>> {
    /// Runs the transaction, several times if need be.
    ///
    /// # Errors
    /// What the last attempt returned: see [`TransactionBuilder::run`].
    pub fn run<T, E, F>(&mut self, mut f: F) -> Result<T, E>
    where
        F: FnMut(&mut DeferredConnection<C>) -> Result<T, E>,
        E: From<Error>,
    {
        self.run_attempts(|conn, _| f(conn))
    }

    /// Runs the block of an `atomic!`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[doc(hidden)]
    pub fn run_block<T, E>(
        mut self,
        mut block: impl FnMut(&mut DeferredConnection<C>, &BlockRegistrar<C>) -> Result<T, E>, // runs again with `retries`
    ) -> Result<T, E>
    where
        E: From<Error>, // where `E` is not known, write it: `atomic!(conn, -> Result<(), MyError>, { … })`
    {
        self.run_attempts(&mut block)
    }

    fn run_attempts<T, E>(
        &mut self,
        mut block: impl FnMut(&mut DeferredConnection<C>, &BlockRegistrar<C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        // A retry on its own would run in a transaction that the failure has already ended.
        let retries = if self.transaction.conn.in_transaction() { 0 } else { self.retries };
        let mut attempt = 0;
        loop {
            match self.transaction.run_once(&mut block) {
                Err(_) if attempt < retries && self.transaction.conn.lost_to_another() => {
                    sleep(backoff(attempt));
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// How long to wait before retry number `attempt`, counted from 0.
pub(super) fn backoff(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE);
    // `RandomState` is seeded anew for each value, which is random enough to keep two threads
    // apart.
    let random = RandomState::new().hash_one(attempt);
    let part = f64::from((random >> 32) as u32) / f64::from(u32::MAX);
    longest.mul_f64(0.5 + 0.5 * part)
}

#[cfg(test)]
mod tests {
    use super::{FIRST_PAUSE, LONGEST_PAUSE, backoff};

    #[test]
    fn pauses_double_up_to_the_longest() {
        for attempt in 0..40 {
            let pause = backoff(attempt);
            assert!(pause <= LONGEST_PAUSE);
            assert!(pause >= (FIRST_PAUSE * (1 << attempt.min(16))).min(LONGEST_PAUSE) / 2);
        }
    }
}
