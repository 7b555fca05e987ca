//! A captured call of a task function.
//!
//! Must not know: connections, how hooks are stored, or where tasks run.

#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub mod call_site;
#[allow(unreachable_pub, reason = "re-exported whole by the crate's hidden module")]
pub mod expansion;
pub(crate) mod never;
#[allow(unreachable_pub, reason = "re-exported whole by the crate's hidden module")]
mod shown;
pub(crate) mod start;
#[allow(unreachable_pub, reason = "re-exported whole by the crate's hidden module")]
pub mod statement;

use std::fmt::{self, Write};
#[cfg(feature = "tokio")]
use std::future::Future;
use std::panic::Location;

use self::shown::Shows;
use crate::dispatch::{Required, States};
#[cfg(feature = "durable")]
use crate::durable::NewTask;
use crate::error::BoxError;
#[cfg(feature = "durable")]
use crate::error::CannotStore;
use crate::report::HookKind;
use crate::sealed::Sealed;

/// A call of a [`#[deferred_task]`](crate::deferred_task) function, captured by value.
///
/// The attribute implements it. Nobody else does: it has hidden items, which change with each
/// version.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a captured task call",
    note = "put `#[deferred_task]` on the function and pass what calling it returns"
)]
pub trait Task: Sized {
    /// What the function returns; of an `async fn`, what it is awaited for.
    type Output: TaskOutput;

    /// Module path and name of the function, or the `name = "…"` of the attribute.
    const NAME: &'static str;

    /// The types of its `#[state]` arguments.
    #[doc(hidden)]
    const STATES: &'static [Required] = &[];

    /// Where the function was called.
    fn call_site(&self) -> &'static Location<'static>;

    /// Writes the captured arguments as `name: value, …`; a value that is not `Debug` is written as
    /// its type.
    ///
    /// # Errors
    /// What the sink returns.
    fn write_arguments(&self, f: &mut dyn Write) -> fmt::Result {
        let mut shows = Shows::to(f);
        self.show_arguments(&mut shows);
        shows.end()
    }

    /// The same, of a task's expansion.
    #[doc(hidden)]
    fn show_arguments(&self, _: &mut Shows<'_>) {}

    /// Drops the call, which is not lost.
    #[doc(hidden)]
    fn give_up(self) {}

    /// Hands the captured call, and how to run it, to `receiver`, which may take it to another
    /// thread.
    ///
    /// Where an argument cannot go there this does not compile, on the argument's type. It is the
    /// only place: everything else asks for no more than a `Task`, so that one such argument is one
    /// message.
    #[doc(hidden)]
    fn hand_over<R: Receiver>(self, receiver: R) -> R::Output;
}

/// A call that somebody has taken over: it is registered, or about to run. It is dropped without a
/// word: whoever has taken it over says what became of it.
pub struct Taken<T: Task>(Option<T>);

impl<T: Task> Taken<T> {
    /// Takes the call over.
    #[inline]
    pub fn new(call: T) -> Self {
        Self(Some(call))
    }

    /// The call, to be run.
    #[inline]
    pub fn call(mut self) -> T {
        let Some(call) = self.0.take() else { unreachable!("it is there until this, which takes `self`") };
        call
    }

    /// All of it, the first time.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Self> {
        let call = self.0.take()?;
        Some(Self(Some(call)))
    }

    pub(crate) fn peek(&self) -> Option<&T> {
        self.0.as_ref()
    }

    #[inline]
    pub(crate) fn call_site(&self) -> &'static Location<'static> {
        match &self.0 {
            Some(call) => call.call_site(),
            None => Location::caller(),
        }
    }
}

impl<T: Task> Drop for Taken<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.give_up();
        }
    }
}

impl<T: Task> fmt::Debug for Taken<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }
}

/// Takes a captured call, see [`Task::hand_over`].
#[doc(hidden)]
pub trait Receiver {
    /// What becomes of it.
    type Output;
    /// Takes it, with how to run it.
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) -> Self::Output;
    /// Takes that of a durable task, which is run from its row.
    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) -> Self::Output;
}

/// How a task is run.
#[cfg_attr(
    not(feature = "tokio"),
    diagnostic::on_unimplemented(
        message = "`async` and `blocking` tasks need a runtime",
        label = "this task runs on tokio, for which the feature `tokio` of diesel-deferred is off",
        note = "turn on the feature `tokio` of diesel-deferred, or write a plain `fn`, which runs on the committing thread"
    )
)]
#[doc(hidden)]
pub trait Start<T: Task>: Copy + Send + 'static {
    /// Whether it takes a dispatcher.
    const DISPATCHED: bool;

    /// Runs the task, or has it run.
    ///
    /// # Errors
    /// What the task returns, where it runs right here.
    #[doc(hidden)]
    fn run<P: Place>(self, task: Taken<T>, place: &P, kind: HookKind) -> Result<(), BoxError>;
}

/// Where a task is run: what it takes was found before the COMMIT.
#[doc(hidden)]
pub trait Place {
    /// The values of `#[state]` arguments.
    fn states(&self) -> &States;

    /// Has the future of a task run by a dispatcher.
    ///
    /// # Errors
    /// Why it can't be run any more.
    #[cfg(feature = "tokio")]
    fn spawn<T, F, Fut>(&self, task: Taken<T>, future: F, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        F: FnOnce(Taken<T>, &States) -> Option<Fut> + Copy + Send + 'static,
        Fut: Future<Output = T::Output> + Send + 'static;

    /// Has a task run by a dispatcher, on a thread for blocking work.
    ///
    /// # Errors
    /// Why it can't be run any more.
    #[cfg(feature = "tokio")]
    fn block<T, F>(&self, task: Taken<T>, function: F, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static;
}

/// What a task or hook may return: `()` or `Result<(), E>` with an `E` that converts into
/// [`BoxError`].
#[diagnostic::on_unimplemented(
    message = "a deferred task cannot return `{Self}`",
    label = "expected `()` or `Result<(), E>`",
    note = "nobody is there to take a value, or to await a future, when the task runs after the commit: return `()`, or `Result<(), E>` where \
            `E` converts into `Box<dyn std::error::Error + Send + Sync>`, as every `Send + Sync` error type and `String` do"
)]
pub trait TaskOutput: Sealed {
    /// Turns the output into the result that is reported.
    ///
    /// # Errors
    /// The task's own error.
    fn into_result(self) -> Result<(), BoxError>;
}

#[diagnostic::do_not_recommend]
impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}
