//! What was lost on this thread: calls that were dropped, and hooks whose transaction was never
//! ended. For tests, which ask for it; everybody else is told by an event.
//!
//! Must not know: who asks.

use std::cell::RefCell;
use std::panic::Location;

/// A call, or a hook, that will never run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) task: &'static str,
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) why: &'static str,
}

thread_local! {
    /// `None`: nobody asks.
    static LOST: RefCell<Option<Vec<Lost>>> = const { RefCell::new(None) };
}

/// Notes what was lost, where somebody asks for it.
pub(crate) fn note(task: &'static str, call_site: &'static Location<'static>, why: &'static str) {
    // Where the thread ends nobody asks any more.
    let _ = LOST.try_with(|lost| {
        if let Ok(mut lost) = lost.try_borrow_mut()
            && let Some(lost) = &mut *lost
        {
            lost.push(Lost { task, call_site, why });
        }
    });
}

/// From now on what is lost on this thread is noted.
pub(crate) fn ask() {
    LOST.set(Some(Vec::new()));
}

/// Nobody asks any more; says what was noted so far.
pub(crate) fn stop_asking() -> Vec<Lost> {
    LOST.replace(None).unwrap_or_default()
}
