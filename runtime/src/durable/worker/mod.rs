//! The worker: takes rows of durable tasks, and runs what they say.
//!
//! `source` is where tasks come from, `lane` what this worker has taken, `runner` and `job` one
//! attempt, `engine` what is done when, `round` what it knows in between, `work` what it says at its
//! start.
//!
//! Must not know: how rows are written.

mod builder;
mod engine;
mod errors;
mod job;
mod lane;
#[cfg(test)]
mod model;
mod round;
mod runner;
mod source;
mod work;

pub use self::builder::{Worker, WorkerBuilder};
pub use self::errors::{AbandonedAttempt, FailedAttempt, WorkerError, WorkerReport};
pub use self::job::{Handlers, Handling, Job};
#[cfg(feature = "testing")]
pub(crate) use self::job::{find, run};
pub use self::source::WorkerConnection;
#[cfg(feature = "testing")]
pub(crate) use self::source::{Lease, Outcome, Settlement, by_hand};
