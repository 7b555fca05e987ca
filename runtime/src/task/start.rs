//! The ways in which a captured call is run: right after the commit on its thread, or by a
//! dispatcher. The macros name them.
//!
//! Must not know: connections, how hooks are stored, or how a dispatcher does it.

use super::{Place, Start, Taken, Task, TaskOutput};
use crate::dispatch::States;
use crate::error::BoxError;
use crate::report::HookKind;

/// A plain function: it runs where the commit was, before that returns.
#[derive(Debug, Clone, Copy)]
pub struct Here<F>(pub F);

impl<T, F> Start<T> for Here<F>
where
    T: Task + Send + 'static,
    F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static,
{
    const DISPATCHED: bool = false;

    #[inline(always)]
    fn run<P: Place>(self, task: Taken<T>, place: &P, _: HookKind) -> Result<(), BoxError> {
        match (self.0)(task, place.states()) {
            Some(output) => output.into_result(),
            None => Err(missing_state()),
        }
    }
}

/// A plain function without states: `.run()` itself, so that no closure of ours has to be compiled
/// for each task.
#[derive(Debug, Clone, Copy)]
pub struct Alone<F>(pub F);

impl<T, F> Start<T> for Alone<F>
where
    T: Task + Send + 'static,
    F: FnOnce(T) -> T::Output + Copy + Send + 'static,
{
    const DISPATCHED: bool = false;

    #[inline(always)]
    fn run<P: Place>(self, task: Taken<T>, _: &P, _: HookKind) -> Result<(), BoxError> {
        (self.0)(task.call()).into_result()
    }
}

/// What is reported of a task whose `#[state]` was there before the commit and is not any more. No
/// dispatcher loses one.
#[cold]
pub(crate) fn missing_state() -> BoxError {
    "a `#[state]` of the task is missing".into()
}

/// An `async fn`: a tokio task.
#[derive(Debug, Clone, Copy)]
pub struct Spawned<F>(pub F);

/// The future of an `async fn`. Where it may not be spawned this is where the compiler says why;
/// what it returns is `Send` by declaration, so that it has nothing more to say.
#[inline]
pub fn spawnable<F>(future: F) -> impl Future<Output = F::Output> + Send + 'static
where
    F: Future + Send + 'static, // what is not `Send` must be dropped before the next `.await`: the task is spawned on tokio
{
    future
}

/// A `blocking` function: it runs on tokio's blocking pool.
#[derive(Debug, Clone, Copy)]
pub struct Blocking<F>(pub F);

#[cfg(feature = "tokio")]
impl<T, F, Fut> Start<T> for Spawned<F>
where
    T: Task + Send + 'static,
    F: FnOnce(Taken<T>, &States) -> Option<Fut> + Copy + Send + 'static,
    Fut: Future<Output = T::Output> + Send + 'static,
{
    const DISPATCHED: bool = true;

    #[inline]
    fn run<P: Place>(self, task: Taken<T>, place: &P, kind: HookKind) -> Result<(), BoxError> {
        place.spawn(task, self.0, kind)
    }
}

#[cfg(feature = "tokio")]
impl<T, F> Start<T> for Blocking<F>
where
    T: Task + Send + 'static,
    F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static,
{
    const DISPATCHED: bool = true;

    #[inline]
    fn run<P: Place>(self, task: Taken<T>, place: &P, kind: HookKind) -> Result<(), BoxError> {
        place.block(task, self.0, kind)
    }
}
