//! What a task is a part of that is being handed to a dispatcher. Between the two are the functions that
//! each task has of its own, which know nothing of spans.
//!
//! Must not know: what a dispatcher does.

use std::cell::RefCell;

use super::origin::Origin;

thread_local! {
    static HANDED_OVER: RefCell<Origin> = const { RefCell::new(Origin::none()) };
}

/// Hands a task over that is a part of that.
pub(crate) fn hand_over<R>(origin: &Origin, hand_over: impl FnOnce() -> R) -> R {
    HANDED_OVER.set(origin.clone());
    let result = hand_over();
    // One that could not be handed over has not taken it.
    HANDED_OVER.take();
    result
}

/// What the task is a part of that is handed over.
#[cfg(feature = "tokio")]
pub(crate) fn handed_over() -> Origin {
    HANDED_OVER.take()
}
