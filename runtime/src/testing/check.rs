//! Fails a test that has lost calls.
//!
//! Must not know: how they got lost.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::thread;

use crate::lost::{self, Lost};

/// Has the test fail where calls got lost in it: those that were dropped, and neither registered, nor
/// run, nor given up by name (C24); those that waited for the end of a transaction that never came
/// (T7); and those that a capture ran before their transaction was rolled back (T4). The message names
/// each, with the place of its call.
///
/// It is the first line of a test: what is dropped in the end is dropped before it then. A guard in the
/// scope of another one takes what is lost meanwhile. Calls that a capture or
/// [`Mode::Manual`](super::Mode::Manual) held back are not lost where they are dropped.
///
/// It looks at this thread: that of the test, and of all that `#[tokio::test]` runs where it is not
/// told otherwise. What other threads lose they tell by events only.
///
/// # Panics
/// The guard panics when it is dropped, unless the test has failed already.
///
/// # Examples
/// ```
/// use diesel_deferred::{deferred_task, testing};
///
/// #[deferred_task]
/// fn send_welcome(user_id: i32) {
///     println!("user {user_id}");
/// }
///
/// let no_lost_calls = testing::no_lost_calls();
/// let calls: Vec<_> = [1, 2].into_iter().map(|id| send_welcome(id)).collect();
/// drop(calls); // nobody has registered them
/// let lost = no_lost_calls.check().expect_err("two are lost");
/// assert!(lost.to_string().contains("send_welcome"));
/// ```
#[track_caller]
pub fn no_lost_calls() -> NoLostCalls {
    NoLostCalls { since: Location::caller(), who: Some(lost::ask()), of_thread: PhantomData }
}

/// See [`no_lost_calls`].
#[derive(Debug)]
#[must_use = "it looks for lost calls from now on, until it is dropped: `let _guard = …`"]
pub struct NoLostCalls {
    since: &'static Location<'static>,
    /// `None`: it has ended.
    who: Option<usize>,
    /// What other threads lose it does not see.
    of_thread: PhantomData<*const ()>,
}

impl NoLostCalls {
    /// Says what was lost so far, and looks no longer.
    ///
    /// # Errors
    /// What was lost.
    pub fn check(mut self) -> Result<(), LostCalls> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LostCalls> {
        let calls = self.who.take().map(lost::stop_asking).unwrap_or_default();
        if calls.is_empty() { Ok(()) } else { Err(LostCalls { calls, since: self.since }) }
    }
}

impl Drop for NoLostCalls {
    fn drop(&mut self) {
        match self.end() {
            Err(lost) if !thread::panicking() => panic!("{lost}"),
            _ => {}
        }
    }
}

/// Calls that got lost in a test.
#[derive(Debug, Clone)]
pub struct LostCalls {
    calls: Vec<Lost>,
    since: &'static Location<'static>,
}

impl LostCalls {
    /// The names of their tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &'static str> {
        self.calls.iter().map(|lost| lost.task)
    }
}

impl fmt::Display for LostCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.calls.len();
        write!(f, "{count} {} got lost since {}:", if count == 1 { "call" } else { "calls" }, self.since)?;
        for Lost { task, call_site, why } in &self.calls {
            write!(f, "\n  {task}, called at {call_site}: {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LostCalls {}
