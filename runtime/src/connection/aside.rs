//! Runs a future to its end on a thread of its own: for a test, on a connection where nothing waits.
//!
//! Must not know: what it is.

use std::thread;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::panics::message;

/// A task.
pub(crate) type Task = BoxFuture<'static, Result<(), BoxError>>;

/// A task that is run to its end; `Err`: it panicked with that.
pub(crate) type Finishing = BoxFuture<'static, Result<Result<(), BoxError>, String>>;

/// Runs it on a runtime of its own: this thread may be of one, in which no other can be entered.
/// `Err`: it panicked with that.
pub(crate) fn finish<T: Send + 'static>(future: BoxFuture<'static, T>) -> Result<T, String> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(future)).map_err(|error| error.to_string())
    };
    match thread::Builder::new().name("deferred task".to_owned()).spawn(run) {
        Ok(thread) => thread.join().map_err(message)?,
        Err(error) => Err(error.to_string()),
    }
}
