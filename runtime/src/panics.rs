//! Running code of a user's where its panic must not pass: what a hook did has been decided by
//! then.
//!
//! Must not know: what that code is.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// What was thrown.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Runs `f`; of a panic it says its message.
#[inline]
pub(crate) fn contain<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(message)
}

/// Awaits `future`, up to its panic.
pub(crate) async fn caught<F: Future + ?Sized>(mut future: Pin<Box<F>>) -> Result<F::Output, Panic> {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// The message of a panic.
#[cold]
pub(crate) fn message(panic: Panic) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not with a string".to_owned());
    forget(panic);
    message
}

/// Drops what was thrown. That may panic again: what is thrown then is leaked.
fn forget(panic: Panic) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(panic);
    }
}
