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
use crate::spans::{Around, Begun, Origin, Origins, Started, current, is_on};

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
    origins: Origins,
}

impl<W> Staging<W> {
    pub(super) fn new() -> Self {
        Self(Arc::new(StagingInner {
            occupied: AtomicBool::new(false),
            needs: AtomicBool::new(false),
            staged: SpinMutex::new(Staged { tasks: Vec::new(), calls: Vec::new(), origins: Origins::default() }),
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
        let Staged { tasks, calls, .. } = &mut *staged;
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
        drop(staged);
        // Behind that: with another branch before it the hook would be copied after all.
        if is_on() {
            self.trace_last();
        }
    }

    #[cold]
    fn trace_last(&self) {
        let origin = self.origin();
        if let Some(hook) = self.lock().tasks.last_mut() {
            hook.be_part_of(origin);
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn push_call(&self, mut call: NewCall) {
        self.trace(&mut call);
        self.lock().calls.push(call);
        self.0.occupied.store(true, Ordering::Relaxed);
    }
}

/// What calls are a part of.
impl<W> Staging<W> {
    /// A call that is made now.
    #[cold]
    pub(super) fn origin(&self) -> Origin {
        let now = current();
        let in_transaction = {
            let origins = &self.lock().origins;
            if let Some(origin) = origins.known(&now) {
                return origin;
            }
            origins.is_transaction(&now)
        };
        if in_transaction {
            let started = Started::begin(now);
            return self.lock().origins.start(started);
        }
        let origin = Origins::find();
        self.lock().origins.note(now, origin.clone());
        origin
    }

    /// The same of a durable call, which remembers it.
    #[cfg(feature = "durable")]
    #[inline]
    pub(super) fn trace(&self, call: &mut NewCall) {
        if is_on()
            && let Ok(call) = call
        {
            call.origin = self.origin();
        }
    }

    /// What the open transaction is.
    pub(super) fn transaction(&self) -> Origin {
        let known = self.lock().origins.transaction();
        match known {
            Some(Ok(origin)) => origin,
            Some(Err(around)) => {
                let started = Started::begin(around);
                self.lock().origins.start(started)
            }
            None => Origin::none(),
        }
    }

    /// A transaction is about to begin.
    #[inline]
    pub(super) fn begin_span(&self) -> Around {
        let begun = Begun::here();
        self.lock().origins.begin(begun)
    }

    /// It has ended.
    #[inline]
    pub(super) fn end_span(&self, around: Around) {
        let _ended = self.lock().origins.end(around);
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
