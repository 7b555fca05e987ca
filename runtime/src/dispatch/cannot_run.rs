//! What a user is told of a task that could not run after the commit.
//!
//! Must not know: how that is found out.

use std::error::Error;
use std::fmt;
use std::panic::Location;

/// A task that could not run after the commit, so that there must not be one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CannotRun {
    /// The task's name.
    pub task: &'static str,
    /// Where it was called.
    pub call_site: &'static Location<'static>,
    /// What is not there.
    pub missing: Missing,
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (called at {}) could not run: {}", self.task, self.call_site, self.missing)
    }
}

impl Error for CannotRun {}

/// What a task lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// A tokio runtime, for an `async` or `blocking` task.
    Runtime,
    /// The runtime that its dispatcher was built in, which has ended since.
    LivingRuntime,
    /// A dispatcher that still takes tasks.
    OpenDispatcher,
    /// The `#[state]` of this type.
    State(&'static str),
    /// A place less deep: hooks are being run in hooks, as many as this one in the other, and each
    /// takes some of the stack.
    HookDepth(usize),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HookDepth(depth) => write!(
                f,
                "{depth} hooks are being run one in the other, each in a block of the one before; register it in the first \
                 of these blocks, or make it an `async` or a `durable` task, which runs when they have ended"
            ),
            Self::Runtime => f.write_str(
                "there is no tokio runtime; commit on a thread of a running one, or build a `Dispatcher` in one (or with \
                 `.runtime(handle)`) and `install()` it at the start of the program",
            ),
            Self::LivingRuntime => f.write_str(
                "the tokio runtime that its dispatcher was built in has ended; install a dispatcher of a running one, or (in tests, \
                 where each has its own) give one to the connection with `set_dispatcher`",
            ),
            Self::OpenDispatcher => f.write_str(
                "its dispatcher was shut down; commit before you call `Dispatcher::shutdown`, or install another dispatcher",
            ),
            #[cfg(not(feature = "tokio"))]
            Self::State(name) => write!(
                f,
                "it takes a `#[state]` of type `{name}`, which dispatchers have: turn on the feature `tokio` of diesel-deferred"
            ),
            #[cfg(feature = "tokio")]
            Self::State(name) => write!(
                f,
                "it takes a `#[state]` of type `{name}`, which its dispatcher does not have; add it with \
                 `Dispatcher::builder().state(…)`, and `install()` that dispatcher or give it to the connection with \
                 `set_dispatcher`"
            ),
        }
    }
}
