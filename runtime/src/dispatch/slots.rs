//! The tasks of one dispatcher: those that wait for a slot, and those that run in one.
//!
//! A task that has ended hands its slot to the first that waits, so that nothing else is needed to
//! keep things going, and tasks start in the order in which they came.
//!
//! Must not know: who hands tasks in, or why; how a task is run. For that [`Launch`] is asked.

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use slab::Slab;
use smallbox::{SmallBox, smallbox};
use tokio::runtime::{Handle, Id};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::states::States;
use crate::error::BoxError;
use crate::metrics::{Stamp, TaskRun};
use crate::panics::contain;
use crate::report::{FailureCause, HookFailure, HookKind};
use crate::spans::{Origin, TaskSpan, handed_over};
use crate::task::call_site::Waits;
use crate::task::{Taken, Task};

/// What a waiting call holds without an allocation: as much as a hook does, so that a task which
/// needed none there needs none here.
type Inline = [usize; 9];

/// How a task ended: what it returned, or what it panicked with.
pub(super) type Ended = Result<Result<(), BoxError>, String>;

/// A task that has got its slot.
pub(super) enum Launched {
    /// It is to be polled.
    Async(BoxFuture<'static, Ended>, Slot),
    /// It is to be called on a thread for blocking work, and has the slot.
    Blocking(Box<dyn FnOnce() + Send>),
}

/// How a dispatcher runs a task, once it has a slot for it.
pub(super) trait Launch<T: Task>: Copy + Send + 'static {
    /// Makes the task ready to run; gives the slot back where there is nothing to run.
    fn launch(self, task: Taken<T>, slot: Slot) -> Result<Launched, Slot>;

    /// The same, and has it run on that runtime. Where there is nothing to run, the slot is handed
    /// on.
    fn start(self, task: Taken<T>, slot: Slot, runtime: &Handle);
}

/// A buffer of more waiting tasks than this is not kept: what a burst left behind is not needed
/// again. About 150 KB.
pub(super) const KEPT_CAPACITY: usize = 1024;

/// What is told to whoever wants to know of failures.
pub(super) type FailureHandler = Box<dyn Fn(&HookFailure) + Send + Sync>;

/// What a dispatcher's tasks and handles share.
pub(super) struct Shared {
    /// Where tasks run; `None`: on the runtime of the thread that commits.
    pub(super) runtime: Option<Handle>,
    pub(super) tracker: TaskTracker,
    pub(super) slots: Semaphore,
    pub(super) lists: Mutex<Lists>,
    pub(super) states: States,
    pub(super) on_failure: Option<FailureHandler>,
    /// Whether tasks that run are to stop.
    pub(super) abandoned: AtomicBool,
}

#[derive(Default)]
pub(super) struct Lists {
    /// Takes no more tasks than those of transactions that are about to commit.
    pub(super) closed: bool,
    pub(super) waiting: VecDeque<Waiting>,
    running: Slab<RunningTask>,
    /// Of slots that are free: the memory is passed between threads otherwise, which costs more
    /// than the slot.
    spare_wakers: Vec<Arc<AtomicWaker>>,
    /// How many tasks have got a slot so far.
    starts: u64,
    /// How many transactions hold the dispatcher open.
    pub(super) committing: usize,
    /// Slots whose tasks were dropped before they ended.
    cancelled: Vec<Slot>,
    /// Whether somebody hands those on.
    clearing: bool,
}

/// A slot and what runs in it.
struct RunningTask {
    identity: Identity,
    /// Its place in the order in which tasks were started, from 1.
    number: u64,
    waker: Arc<AtomicWaker>,
}

impl Lists {
    fn next_number(&mut self) -> u64 {
        self.starts += 1;
        self.starts
    }

    /// How many tasks run.
    pub(super) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// The tasks that run, in the order in which they were started, with what wakes them.
    pub(super) fn in_order_of_start(&self) -> Vec<(Identity, Arc<AtomicWaker>)> {
        let mut running: Vec<_> = self.running.iter().map(|(_, running)| running).collect();
        running.sort_unstable_by_key(|running| running.number);
        running.into_iter().map(|running| (running.identity, Arc::clone(&running.waker))).collect()
    }
}

/// Which call a task is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) task: &'static str,
    pub(super) call_site: &'static Location<'static>,
    pub(super) kind: HookKind,
}

impl Identity {
    pub(super) fn failed(self, cause: FailureCause) -> HookFailure {
        let Self { task, call_site, kind } = self;
        HookFailure { task, call_site, kind, cause }
    }
}

/// A call that waits for a slot.
pub(super) struct Waiting {
    call: SmallBox<dyn Call, Inline>,
    kind: HookKind,
    /// Behind which moment it could begin.
    committed: Stamp,
    /// What its call was a part of.
    origin: Origin,
    runtime: Id,
    /// That runtime's, where it is not the dispatcher's own: a handle that all tasks count on is
    /// slow to copy.
    handle: Option<Handle>,
}

impl Waiting {
    pub(super) fn identity(&self) -> Identity {
        self.call.identity(self.kind)
    }
}

/// A call and the way to launch it, their types erased.
trait Call: Send {
    fn identity(&self, kind: HookKind) -> Identity;
    fn launch(&mut self, slot: Slot) -> Result<Launched, Slot>;
}

impl Identity {
    fn of<T: Task>(call_site: &'static Location<'static>, kind: HookKind) -> Self {
        Self { task: T::NAME, call_site, kind }
    }
}

impl<T: Task + Send, L: Launch<T>> Call for Waits<T, L> {
    fn identity(&self, kind: HookKind) -> Identity {
        Identity::of::<T>(self.call_site(), kind)
    }

    fn launch(&mut self, slot: Slot) -> Result<Launched, Slot> {
        match self.take() {
            Some((task, launch)) => launch.launch(task, slot),
            None => Err(slot),
        }
    }
}

impl Shared {
    pub(super) fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task, or has it wait for a slot.
    pub(super) fn dispatch<T, L>(
        self: &Arc<Self>,
        runtime: &Handle,
        kind: HookKind,
        task: Taken<T>,
        launch: L,
        committed: Stamp,
    ) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        L: Launch<T>,
    {
        let origin = handed_over();
        let mut lists = self.lists();
        if self.abandoned.load(Ordering::Relaxed) {
            return Err("its dispatcher's shutdown had run out of time by then".into());
        }
        if lists.waiting.is_empty()
            && let Ok(permit) = self.slots.try_acquire()
        {
            // Given back where nobody takes the slot over.
            permit.forget();
            let (identity, waker) =
                (Identity::of::<T>(task.call_site(), kind), lists.spare_wakers.pop().unwrap_or_default());
            let number = lists.next_number();
            let key = lists.running.insert(RunningTask { identity, number, waker: Arc::clone(&waker) });
            let token = self.tracker.token();
            drop(lists);
            let run = TaskRun::begin(committed);
            let runtime_id = runtime.id();
            let span = TaskSpan::of_task(T::NAME, &origin);
            let shared = Arc::clone(self);
            let slot = Slot { shared, key, identity, run, span, waker, runtime: runtime_id, _tracked: token };
            launch.start(task, slot, runtime);
        } else {
            let handle = if self.runtime.is_some() { None } else { Some(runtime.clone()) };
            lists.waiting.push_back(Waiting {
                call: smallbox!(Waits::new(task, launch)),
                kind,
                committed,
                origin,
                runtime: runtime.id(),
                handle,
            });
        }
        Ok(())
    }

    /// Keeps the slot of a task that was dropped before it ended. Returns whether the caller is to
    /// hand such slots on: somebody who is at it sees this one too. It may be this thread: what
    /// gets the slot next is dropped at once where its runtime is gone as well, and so on, deeper
    /// each time.
    pub(super) fn add_cancelled(&self, slot: Slot) -> bool {
        let mut lists = self.lists();
        lists.cancelled.push(slot);
        !std::mem::replace(&mut lists.clearing, true)
    }

    /// The slot of a task that was dropped before it ended, and what waits for its runtime. Only a
    /// runtime that shuts down drops tasks: what waits for it has nowhere to go either. After
    /// `None` somebody else may hand slots on.
    pub(super) fn next_cancelled(&self) -> Option<(Slot, Vec<Waiting>)> {
        let mut lists = self.lists();
        let Some(slot) = lists.cancelled.pop() else {
            lists.clearing = false;
            return None;
        };
        let all = std::mem::take(&mut lists.waiting);
        let (stranded, others): (Vec<_>, _) = all.into_iter().partition(|waiting| waiting.runtime == slot.runtime);
        lists.waiting = others.into();
        Some((slot, stranded))
    }

    /// Emits a failure as an event, and tells the user's handler of it.
    pub(super) fn report_failure(&self, failure: &HookFailure) {
        failure.emit();
        self.call_handler(failure);
    }

    /// Tells the user's handler of a failure.
    pub(super) fn call_handler(&self, failure: &HookFailure) {
        if let Some(handler) = &self.on_failure {
            // It is a user's, and what it panics with has nobody to go to.
            let _ = contain(|| handler(failure));
        }
    }
}

/// A place among the tasks that run. It goes from one task to the next.
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    key: usize,
    pub(super) identity: Identity,
    /// How long its task waited, and runs.
    pub(super) run: TaskRun,
    /// In which its task runs.
    pub(super) span: TaskSpan,
    pub(super) waker: Arc<AtomicWaker>,
    /// Where its task runs.
    pub(super) runtime: Id,
    /// While it is held, a shutdown waits.
    _tracked: TaskTrackerToken,
}

impl Slot {
    /// Its task is over: the next one that waits gets it, to be spawned on that runtime, or on the
    /// one that this runs on.
    pub(super) fn next(mut self, current: Option<Id>) -> Option<(Launched, Option<Handle>)> {
        loop {
            // Dropped behind the lock: the waker may be the last that holds a runtime which is
            // gone, and what users gave that.
            let _waker;
            let mut lists = self.shared.lists();
            let Some(mut next) = lists.waiting.pop_front() else {
                lists.running.remove(self.key);
                if lists.spare_wakers.len() < KEPT_CAPACITY {
                    _waker = self.waker.take();
                    lists.spare_wakers.push(self.waker);
                }
                if lists.waiting.capacity() > KEPT_CAPACITY {
                    lists.waiting = VecDeque::new();
                }
                // Under the lock, so that whoever comes now finds either the slot or somebody who
                // will look again.
                self.shared.slots.add_permits(1);
                return None;
            };
            self.identity = next.identity();
            let number = lists.next_number();
            if let Some(running) = lists.running.get_mut(self.key) {
                (running.identity, running.number) = (self.identity, number);
            }
            drop(lists);
            self.run = TaskRun::begin(next.committed);
            self.span = TaskSpan::of_task(self.identity.task, &next.origin);
            self.runtime = next.runtime;
            let runtime =
                if current == Some(next.runtime) { None } else { next.handle.or_else(|| self.shared.runtime.clone()) };
            match next.call.launch(self) {
                Ok(launched) => return Some((launched, runtime)),
                Err(slot) => self = slot,
            }
        }
    }
}
