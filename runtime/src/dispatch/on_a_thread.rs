//! Running what may block on a thread for that.
//!
//! Must not know: what it is.

use crate::error::BoxError;

/// Runs it to its end on such a thread of the runtime that polls this; its panic goes on here.
///
/// # Errors
/// What it returns; or that the runtime is shutting down.
pub(crate) async fn on_a_thread(body: impl FnOnce() -> Result<(), BoxError> + Send + 'static) -> Result<(), BoxError> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(error) => Err(error.into()),
        },
    }
}
