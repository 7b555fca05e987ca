//! What is counted and timed of hooks and tasks, for whatever recorder of the crate `metrics` the
//! program has installed.
//!
//! Values are gathered, and handed to the recorder for all calls of one task and queue together: at
//! the end of a transaction, and in each round of a worker. It is code of the program's, so that it
//! is never called under a lock, and its panic goes nowhere.
//!
//! Must not know: connections, or what a task is.

#[cfg(feature = "worker")]
mod attempts;
mod hooks;
mod names;
#[cfg(test)]
mod page;
#[cfg(feature = "worker")]
mod queues;
mod recorder;
mod tally;

#[cfg(feature = "worker")]
pub(crate) use self::attempts::{Attempts, End, claimed, rescued};
#[cfg(feature = "tokio")]
pub(crate) use self::hooks::TaskRun;
pub(crate) use self::hooks::{HookRuns, Stamp, dropped, failed, not_run, registered};
pub use self::names::describe_metrics;
#[cfg(feature = "worker")]
pub(crate) use self::queues::{Gauges, waiting};
pub(crate) use self::tally::Tally;
