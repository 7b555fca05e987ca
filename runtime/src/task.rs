//! A captured call of a task function.
//!
//! Must not know: connections, how hooks are stored, or where tasks run.

#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub mod call_site;
#[allow(unreachable_pub, reason = "re-exported whole by the crate's hidden module")]
pub mod expansion;
pub(crate) mod start;

use std::fmt::{self, Write};
use std::panic::Location;

use crate::dispatch::Required;
use crate::error::BoxError;
use crate::sealed::Sealed;

/// A call of a [`#[deferred_task]`](crate::deferred_task) function, captured by value.
///
/// The attribute implements it. Nobody else does: it has hidden items, which change with each version.
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

    /// Writes the captured arguments as `name: value, …`; a value that is not `Debug` is written as its type.
    ///
    /// # Errors
    /// What the sink returns.
    fn write_arguments(&self, f: &mut dyn Write) -> fmt::Result;

    /// Drops the call, which is not lost.
    #[doc(hidden)]
    fn give_up(self) {}

    /// Hands the captured call, and how to run it, to `receiver`, which may take it to another thread.
    ///
    /// Where an argument cannot go there this does not compile, on the argument's type. It is the only place: everything
    /// else asks for no more than a `Task`, so that one such argument is one message.
    #[doc(hidden)]
    fn hand_over<R: expansion::Receiver>(self, receiver: R) -> R::Output;
}

/// What a task or hook may return: `()` or `Result<(), E>` with an `E` that converts into [`BoxError`].
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
