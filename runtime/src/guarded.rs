//! A value that its owner has by `&mut`, and that everybody else may look at, one thread at a time.
//! It can be shared where the value itself can't.
//!
//! Must not know: what it holds.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// The value. By `&mut` it costs nothing that a plain one does not.
pub(crate) struct Guarded<T> {
    inner: Mutex<Inner<T>>,
    returned: Condvar,
}

struct Inner<T> {
    value: T,
    /// Who has taken the value out, to look at it.
    viewer: Option<ThreadId>,
}

impl<T> Guarded<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { inner: Mutex::new(Inner { value, viewer: None }), returned: Condvar::new() }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        // A panic elsewhere leaves the value whole: nothing is done with it under the lock.
        &mut self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).value
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Guarded<T> {
    /// Looks at the value. Not under the lock, because `view` may run code of a user's, which may
    /// look at it again: it finds nothing then. Other threads wait.
    pub(crate) fn view<R>(&self, view: impl FnOnce(&T) -> R) -> R {
        let me = thread::current().id();
        let mut inner = self.lock();
        while inner.viewer.is_some_and(|viewer| viewer != me) {
            inner = self.returned.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.viewer.is_some() {
            return view(&T::default());
        }
        inner.viewer = Some(me);
        let taken = Taken { value: std::mem::take(&mut inner.value), from: self };
        drop(inner);
        view(&taken.value)
    }
}

/// A value that is being looked at. It goes back where it came from, also in a panic.
struct Taken<'a, T: Default> {
    value: T,
    from: &'a Guarded<T>,
}

impl<T: Default> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut inner = self.from.lock();
        inner.value = std::mem::take(&mut self.value);
        inner.viewer = None;
        self.from.returned.notify_all();
    }
}

impl<T: Default + fmt::Debug> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view(|value| value.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::thread;

    use super::Guarded;

    #[test]
    fn threads_look_one_after_the_other_and_all_see_the_value() {
        // Not `Sync`: only one thread at a time may have it.
        let guarded = Guarded::new(Cell::new(1));
        let both_are_here = Barrier::new(2);
        let look = || {
            both_are_here.wait();
            guarded.view(|value| {
                thread::yield_now();
                value.get()
            })
        };
        let seen = thread::scope(|scope| {
            let other = scope.spawn(look);
            [look(), other.join().expect("it looks")]
        });
        assert_eq!(seen, [1, 1]);
    }

    #[test]
    fn who_looks_again_while_looking_finds_nothing_and_a_panic_loses_nothing() {
        let mut guarded = Guarded::new(vec![1]);
        assert_eq!(guarded.view(|outer| (outer.len(), guarded.view(Vec::len))), (1, 0));
        let _ = catch_unwind(AssertUnwindSafe(|| guarded.view(|_| panic!("on purpose"))));
        assert_eq!(*guarded.get_mut(), [1]);
    }
}
