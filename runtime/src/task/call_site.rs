//! Where a task was called, and what is said where the call is dropped before anybody has taken it
//! over: a task that nobody would miss otherwise.
//!
//! Must not know: who takes a call over, or how it is run.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::panic::Location;
use std::thread;

use super::{Taken, Task};
use crate::report::emit;

/// Where `T` was called: a field of the captured call. Dropped with it, it says that the call was
/// lost. Whoever registers, runs or gives up the call silences it first.
///
/// A field, because a captured call is taken apart, which what implements `Drop` itself cannot be.
/// It is one word, and is never null, so that an `Option` of the call takes no more room than the
/// call.
pub struct CallSite<T: Task>(&'static Location<'static>, PhantomData<fn() -> T>);

impl<T: Task> CallSite<T> {
    /// The place of whoever calls the function that calls this, where that one is
    /// `#[track_caller]`.
    #[inline]
    #[track_caller]
    pub fn of_caller() -> Self {
        Self(Location::caller(), PhantomData)
    }

    /// The place.
    #[inline]
    pub fn location(&self) -> &'static Location<'static> {
        self.0
    }

    /// The call is not lost.
    #[inline]
    pub fn silence(self) {
        mem::forget(self);
    }
}

impl<T: Task> Drop for CallSite<T> {
    #[inline]
    fn drop(&mut self) {
        lost(T::NAME, self.0);
    }
}

impl<T: Task> fmt::Debug for CallSite<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)
    }
}

/// Tells whoever listens. A panic drops whatever there is, and says enough itself.
#[cold]
fn lost(task: &'static str, call_site: &'static Location<'static>) {
    if !thread::panicking() {
        #[cfg(feature = "testing")]
        crate::lost::note(task, call_site, "its call was dropped, and neither registered nor run");
        emit(|| {
            tracing::warn!(
                task,
                %call_site,
                "a call of a deferred task was dropped, and neither registered nor run; call it as a statement of \
                 `atomic!`, or write `.after_commit(conn)?`, or `.forget()` where it is meant to be dropped"
            );
        });
    }
}

/// A call that was taken over and waits, with how it is started. As large as the two are.
pub(crate) struct Waits<T: Task, S>(Taken<T>, S);

impl<T: Task, S: Copy> Waits<T, S> {
    #[inline(always)]
    pub(crate) fn new(call: Taken<T>, start: S) -> Self {
        Self(call, start)
    }

    /// The two, the first time.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<(Taken<T>, S)> {
        match self.0.take() {
            Some(call) => Some((call, self.1)),
            None => None,
        }
    }

    /// Where it was called, while it waits.
    pub(crate) fn call_site(&self) -> &'static Location<'static> {
        self.0.call_site()
    }

    /// The call, while it waits.
    pub(crate) fn call(&self) -> Option<&T> {
        self.0.peek()
    }
}
