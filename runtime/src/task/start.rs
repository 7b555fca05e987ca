//! The ways in which a captured call is run: right after the commit on its thread, or by a dispatcher. The macros name them.
//!
//! Must not know: connections, or how hooks are stored.

use super::call_site::Taken;
use super::{Task, TaskOutput};
use crate::dispatch::{Stage, States};
use crate::error::BoxError;
use crate::report::HookKind;

/// How a task is run.
#[cfg_attr(
    not(feature = "tokio"),
    diagnostic::on_unimplemented(
        message = "`async` and `blocking` tasks need a runtime",
        label = "this task runs on tokio, for which the feature `tokio` of diesel-deferred is off",
        note = "turn on the feature `tokio` of diesel-deferred, or write a plain `fn`, which runs on the committing thread"
    )
)]
pub trait Start<T: Task>: Send + 'static {
    /// Whether it takes a dispatcher.
    const DISPATCHED: bool;

    /// Runs the task, or has it run.
    ///
    /// # Errors
    /// What the task returns, where it runs right here.
    #[doc(hidden)]
    fn run(self, task: Taken<T>, stage: &Stage, kind: HookKind) -> Result<(), BoxError>;
}

/// A plain function: it runs where the commit was, before that returns.
#[derive(Debug)]
pub struct Here<F>(pub F);

impl<T, F> Start<T> for Here<F>
where
    T: Task + Send + 'static,
    F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Send + 'static,
{
    const DISPATCHED: bool = false;

    #[inline(always)]
    fn run(self, task: Taken<T>, stage: &Stage, _: HookKind) -> Result<(), BoxError> {
        match (self.0)(task, stage.states()) {
            Some(output) => output.into_result(),
            None => Err(missing_state()),
        }
    }
}

/// What is reported of a task whose `#[state]` was there before the commit and is not any more. No dispatcher loses one.
#[cold]
pub(crate) fn missing_state() -> BoxError {
    "a `#[state]` of the task is missing".into()
}

/// An `async fn`: a tokio task.
#[derive(Debug)]
pub struct Spawned<F>(pub F);

/// The future of an `async fn`. Where it may not be spawned this is where the compiler says why; what it returns is `Send` by
/// declaration, so that it has nothing more to say.
#[inline]
pub fn spawnable<F>(future: F) -> impl Future<Output = F::Output> + Send + 'static
where
    F: Future + Send + 'static, // what is not `Send` must be dropped before the next `.await`: the task is spawned on tokio
{
    future
}

/// A `blocking` function: it runs on tokio's blocking pool.
#[derive(Debug)]
pub struct Blocking<F>(pub F);

#[cfg(feature = "tokio")]
macro_rules! dispatched {
    ($($kind:ident)*) => {$(
        impl<T, F> Start<T> for $kind<F>
        where
            T: Task + Send + 'static,
            Self: crate::dispatch::Launch<T>,
        {
            const DISPATCHED: bool = true;

            #[inline]
            fn run(self, task: Taken<T>, stage: &Stage, kind: HookKind) -> Result<(), BoxError> {
                stage.dispatch(task, self, kind)
            }
        }
    )*};
}

#[cfg(feature = "tokio")]
dispatched!(Spawned Blocking);
