//! What an async block's expansion names, where the feature for it is off: so that the message
//! about the connection is the only one.
//!
//! Must not know: anything. Nothing here ever runs.

/// In place of the future that `atomic!` is.
pub fn future<F: Future>(block: F) -> impl Future<Output = F::Output> {
    block
}

/// In place of a block's end.
pub async fn caught<F: Future>(block: F) -> F::Output {
    block.await
}

/// In place of a block's result.
pub fn never_returned<R>() -> R {
    unreachable!("nothing returns this")
}
