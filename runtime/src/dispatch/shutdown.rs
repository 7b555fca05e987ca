//! What a dispatcher says of the tasks that its shutdown did not wait for.
//!
//! Must not know: how tasks are run.

use std::fmt;
use std::panic::Location;

use crate::metrics;
use crate::report::emit;

/// What became of a dispatcher's tasks by the deadline of its shutdown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "what was abandoned will not run any more"]
pub struct ShutdownReport {
    pub(super) abandoned: Vec<AbandonedTask>,
    pub(super) committing: usize,
}

impl ShutdownReport {
    /// The tasks that had not ended by the deadline: first those that ran, in the order in which
    /// they were started, then those that waited, in theirs.
    pub fn abandoned(&self) -> &[AbandonedTask] {
        &self.abandoned
    }

    /// How many transactions were about to commit at the deadline, or were running the hooks that
    /// they had: tasks that those hand over after it do not run, which the [failure
    /// handler](crate::DispatcherBuilder::on_failure) is told.
    pub fn committing(&self) -> usize {
        self.committing
    }

    /// Whether every task had ended, and no transaction could still hand one over.
    pub fn is_clean(&self) -> bool {
        self.abandoned.is_empty() && self.committing == 0
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks abandoned", self.abandoned.len())?;
        if self.committing > 0 {
            write!(f, ", {} transactions still committing", self.committing)?;
        }
        self.abandoned.iter().try_for_each(|task| write!(f, "\n  {task}"))
    }
}

/// A task that a shutdown did not wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedTask {
    /// The task's name.
    pub task: &'static str,
    /// Where it was called.
    pub call_site: &'static Location<'static>,
    /// Whether it had been started. If not, none of it ran.
    pub started: bool,
}

impl AbandonedTask {
    /// Tells whoever listens.
    pub(super) fn emit(&self) {
        if !self.started {
            metrics::not_run(self.task);
        }
        emit(|| {
            tracing::error!(
                task = self.task,
                call_site = %self.call_site,
                started = self.started,
                "a deferred task was abandoned at shutdown"
            );
        });
    }
}

impl fmt::Display for AbandonedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.started { "while it ran" } else { "before it was started" };
        write!(f, "{} (called at {}): abandoned {state}", self.task, self.call_site)
    }
}
