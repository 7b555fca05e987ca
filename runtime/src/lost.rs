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
    /// For each who asks, the one in the other: what was lost since.
    static LOST: RefCell<Vec<Option<Vec<Lost>>>> = const { RefCell::new(Vec::new()) };
}

/// Notes what was lost, for the innermost who asks.
pub(crate) fn note(task: &'static str, call_site: &'static Location<'static>, why: &'static str) {
    // Where the thread ends nobody asks any more.
    let _ = LOST.try_with(|lost| {
        if let Ok(mut lost) = lost.try_borrow_mut()
            && let Some(innermost) = lost.iter_mut().rev().flatten().next()
        {
            innermost.push(Lost { task, call_site, why });
        }
    });
}

/// From now on what is lost on this thread is noted. Says who asks.
pub(crate) fn ask() -> usize {
    LOST.with_borrow_mut(|lost| {
        lost.push(Some(Vec::new()));
        lost.len() - 1
    })
}

/// That one asks no more; says what was noted for it.
pub(crate) fn stop_asking(who: usize) -> Vec<Lost> {
    LOST.with_borrow_mut(|lost| {
        let noted = lost.get_mut(who).and_then(Option::take).unwrap_or_default();
        while lost.last().is_some_and(Option::is_none) {
            lost.pop();
        }
        noted
    })
}
