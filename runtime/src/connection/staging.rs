//! Tasks on their way from the statements of a block into the connection's queue.
//!
//! Must not know: connections, or what becomes of the tasks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::durable::NewTask;
use crate::error::CannotStore;
use crate::hook::Hook;

/// A durable call, or what is wrong with it, which its transaction fails with.
pub(crate) type NewCall = Result<NewTask, CannotStore>;

/// Tasks on their way from the statements of a block into the connection's queue.
///
/// A block registers here and not on the connection itself, because a statement's value may still
/// borrow the connection when its task is registered. The connection takes over what is staged
/// before it looks at its queue, so that the order is kept and the queue itself needs no lock.
pub(crate) struct Staging<W>(Arc<StagingInner<W>>);

struct StagingInner<W> {
    /// Whether the list may hold anything: a transaction without tasks never takes the lock.
    occupied: AtomicBool,
    /// Whether any task takes a dispatcher.
    needs: AtomicBool,
    /// Under one lock: taking both is then one atomic operation.
    staged: SpinMutex<Staged<W>>,
}

struct Staged<W> {
    tasks: Vec<Hook<W>>,
    calls: Vec<NewCall>,
}

impl<W> Staging<W> {
    pub(super) fn new() -> Self {
        Self(Arc::new(StagingInner {
            occupied: AtomicBool::new(false),
            needs: AtomicBool::new(false),
            staged: SpinMutex::new(Staged { tasks: Vec::new(), calls: Vec::new() }),
        }))
    }

    /// Maps what is staged. Not under the lock: `f` runs code of a user's. One thread at a time,
    /// that which views the queue.
    pub(super) fn inspect<T>(&self, f: impl FnMut(&Hook<W>) -> T) -> Vec<T> {
        let mut tasks = std::mem::take(&mut self.lock().tasks);
        let mapped = tasks.iter().map(f).collect();
        let mut staged = self.lock();
        tasks.append(&mut staged.tasks);
        staged.tasks = tasks;
        mapped
    }

    /// Maps the durable calls that are staged. Under the lock: nothing of a user's runs.
    pub(super) fn inspect_calls<T>(&self, f: impl FnMut(&NewCall) -> T) -> Vec<T> {
        self.lock().calls.iter().map(f).collect()
    }

    /// Whether anything may be staged.
    #[inline]
    pub(super) fn is_occupied(&self) -> bool {
        self.0.occupied.load(Ordering::Relaxed)
    }

    /// Gives what is staged to `take`, which leaves nothing.
    #[inline]
    pub(super) fn take<T>(&self, take: impl FnOnce(&mut Vec<Hook<W>>, &mut Vec<NewCall>) -> T) -> T {
        let mut staged = self.lock();
        let Staged { tasks, calls } = &mut *staged;
        self.0.occupied.store(false, Ordering::Relaxed);
        take(tasks, calls)
    }

    pub(super) fn has_needs(&self) -> bool {
        self.0.needs.load(Ordering::Relaxed)
    }

    pub(super) fn set_needs(&self, needs: bool) {
        self.0.needs.store(needs, Ordering::Relaxed);
    }

    #[inline]
    fn lock(&self) -> SpinMutexGuard<'_, Staged<W>> {
        self.0.staged.lock()
    }

    // Always inlined: the hook is then built where it is stored, not copied there. A debug build
    // compiles it once instead of for each task.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn push(&self, hook: Hook<W>, needs: bool) {
        let mut staged = self.lock();
        staged.tasks.push(hook);
        // Relaxed: whoever reads them has the connection by `&mut`, so was synchronised with by
        // other means.
        self.0.occupied.store(true, Ordering::Relaxed);
        if needs {
            self.0.needs.store(true, Ordering::Relaxed);
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn push_call(&self, call: NewCall) {
        self.lock().calls.push(call);
        self.0.occupied.store(true, Ordering::Relaxed);
    }
}

impl<W> Clone for Staging<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W> fmt::Debug for Staging<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lock().tasks, f)
    }
}
