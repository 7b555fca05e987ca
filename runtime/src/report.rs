//! What a connection tells about its hooks: what waits, what failed, what never ran.
//!
//! Must not know: how hooks are stored or run.

use std::fmt;
use std::panic::Location;

use crate::error::BoxError;
use crate::metrics;
use crate::panics::contain;

/// What is shown in place of a `#[secret]` argument.
#[allow(unreachable_pub, reason = "named in the macros' expansions")]
pub const SECRET: &str = "<secret>";

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookKind {
    /// After the outermost transaction committed.
    AfterCommit,
    /// After the transaction or savepoint that it belongs to was rolled back.
    AfterRollback,
    /// Just before the outermost COMMIT.
    BeforeCommit,
    /// Not in this process: the call of a durable task, which is stored just before the outermost
    /// COMMIT and run by a worker.
    Durable,
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfterCommit => "after commit",
            Self::AfterRollback => "after rollback",
            Self::BeforeCommit => "before commit",
            Self::Durable => "by a worker",
        })
    }
}

/// A hook that waits, or that waited and never ran.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingHook {
    /// The task's name, or the closure's type.
    pub task: &'static str,
    /// The captured arguments, as `name: value` where the value is `Debug`. Empty for a closure.
    pub arguments: String,
    /// Where the task was called, or the closure registered.
    pub call_site: &'static Location<'static>,
    /// The depth of the transaction that the hook belongs to now: 1 is the outermost.
    pub depth: usize,
    /// When it would run.
    pub kind: HookKind,
}

impl fmt::Display for PendingHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}) {} at {}, depth {}", self.task, self.arguments, self.kind, self.call_site, self.depth)
    }
}

/// Why a hook failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FailureCause {
    /// It returned this error.
    Error(BoxError),
    /// It panicked, with this message where it was a string; or it did not run, and a captured
    /// value panicked when it was dropped.
    Panic(String),
    /// It returned with a transaction still open on the connection, which has been rolled back.
    LeftTransactionOpen,
    /// It was dropped before it had finished: its runtime shut down, or the future of the `atomic!`
    /// that awaited it was dropped.
    Cancelled,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => write!(f, "{error}"),
            Self::Panic(message) => write!(f, "panicked: {message}"),
            Self::LeftTransactionOpen => {
                f.write_str("left a transaction open, which was rolled back; close it, or use `atomic!`")
            }
            Self::Cancelled => f.write_str("was cancelled before it had finished"),
        }
    }
}

/// A hook that ran and failed. What was committed stays committed.
#[derive(Debug)]
#[non_exhaustive]
pub struct HookFailure {
    /// The task's name, or the closure's type.
    pub task: &'static str,
    /// Where the task was called, or the closure registered.
    pub call_site: &'static Location<'static>,
    /// When it ran.
    pub kind: HookKind,
    /// What went wrong.
    pub cause: FailureCause,
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, called at {}): {}", self.task, self.kind, self.call_site, self.cause)
    }
}

impl std::error::Error for HookFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            FailureCause::Error(error) => Some(&**error),
            FailureCause::Panic(_) | FailureCause::LeftTransactionOpen | FailureCause::Cancelled => None,
        }
    }
}

/// What became of the hooks of the last outermost transaction, with those of transactions that its
/// hooks opened.
///
/// It begins anew when the next outermost transaction begins.
#[derive(Debug, Default)]
pub struct Report {
    pub(crate) ran: usize,
    pub(crate) failures: Vec<HookFailure>,
    pub(crate) not_run: Vec<PendingHook>,
}

impl Report {
    /// How many commit hooks and rollback hooks ran, failed ones included. Before-commit hooks are
    /// part of the transaction and do not count.
    pub fn ran(&self) -> usize {
        self.ran
    }

    /// The hooks that failed, in the order in which they ran.
    pub fn failures(&self) -> &[HookFailure] {
        &self.failures
    }

    /// Hooks that did not run although nothing is known to have rolled their transaction back:
    /// those behind a failure on a connection that [stops at the first
    /// one](crate::DeferredConnection::stop_hooks_at_first_failure), and those of a transaction
    /// whose end is [unknown](crate::CommitError::Unknown) or came
    /// [early](crate::CommitError::EndedEarly).
    pub fn not_run(&self) -> &[PendingHook] {
        &self.not_run
    }

    /// Whether every hook ran and none failed.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.not_run.is_empty()
    }

    /// Notes a hook that failed.
    pub(crate) fn fail(&mut self, failure: HookFailure) {
        failure.emit();
        self.failures.push(failure);
    }

    /// Notes hooks that will not run although nothing is known to have rolled them back.
    pub(crate) fn lose(&mut self, hooks: Vec<PendingHook>, why: &'static str) {
        for hook in &hooks {
            not_run(hook, why);
        }
        self.not_run.extend(hooks);
    }

    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.ran = 0;
        if !self.is_clean() {
            self.failures.clear();
            self.not_run.clear();
        }
    }
}

impl HookFailure {
    /// Tells whoever listens.
    #[cold]
    pub(crate) fn emit(&self) {
        metrics::failed(self.task);
        emit(|| {
            tracing::error!(
                task = self.task,
                call_site = %self.call_site,
                kind = %self.kind,
                error = %self.cause,
                "a deferred task failed"
            );
        });
    }
}

/// Tells whoever listens of a hook that will not run.
#[cold]
pub(crate) fn not_run(hook: &PendingHook, why: &'static str) {
    metrics::not_run(hook.task);
    emit(|| {
        tracing::error!(
            task = hook.task,
            call_site = %hook.call_site,
            kind = %hook.kind,
            why,
            "a deferred task did not run"
        );
    });
}

/// Emits an event. It runs the `Display` of a user's error, and a user's subscriber: what panics
/// there must not stop the hooks behind it.
pub(crate) fn emit(event: impl FnOnce()) {
    let _ = contain(event);
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks ran, {} failed, {} did not run", self.ran, self.failures.len(), self.not_run.len())?;
        for failure in &self.failures {
            write!(f, "\n  failed: {failure}")?;
        }
        for hook in &self.not_run {
            write!(f, "\n  not run: {hook}")?;
        }
        Ok(())
    }
}
