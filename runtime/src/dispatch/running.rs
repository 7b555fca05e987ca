//! The tasks of one dispatcher: those that wait for a slot, and those that run in one.
//!
//! A task that has ended hands its slot to the first that waits, so that nothing else is needed to keep things going, and
//! tasks start in the order in which they came.
//!
//! Must not know: who hands tasks in, or why.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use slab::Slab;
use smallbox::{SmallBox, smallbox};
use tokio::runtime::{Handle, Id};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::states::States;
use crate::error::BoxError;
use crate::hook::Inline;
use crate::panics::{contain, message};
use crate::report::{FailureCause, HookFailure, HookKind};
use crate::task::start::{Blocking, Spawned, missing_state};
use crate::task::{Task, TaskOutput};

/// A buffer of more waiting tasks than this is not kept: what a burst left behind is not needed again. About 150 KB.
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
    running: Slab<Running>,
    /// How many tasks have got a slot so far.
    starts: u64,
    /// How many transactions hold the dispatcher open.
    pub(super) committing: usize,
}

/// A slot and what runs in it.
struct Running {
    identity: Identity,
    /// The how-manieth it is that was started.
    number: u64,
    /// Wakes the task.
    alarm: Arc<AtomicWaker>,
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
        running.into_iter().map(|running| (running.identity, Arc::clone(&running.alarm))).collect()
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
    runtime: Id,
    /// That runtime's, where it is not the dispatcher's own: a handle that all tasks count on is slow to copy.
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
    fn launch(&mut self, slot: Slot, runtime: Runtime<'_>) -> Result<(), Slot>;
}

impl Identity {
    fn of<T: Task>(task: &T, kind: HookKind) -> Self {
        Self { task: T::NAME, call_site: task.call_site(), kind }
    }
}

impl<T: Task + Send, L: Launch<T>> Call for Option<(T, L)> {
    fn identity(&self, kind: HookKind) -> Identity {
        match self {
            Some((task, _)) => Identity::of(task, kind),
            None => Identity { task: T::NAME, call_site: Location::caller(), kind },
        }
    }

    fn launch(&mut self, slot: Slot, runtime: Runtime<'_>) -> Result<(), Slot> {
        match self.take() {
            Some((task, launch)) => launch.launch(task, slot, runtime),
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
        task: T,
        launch: L,
    ) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        L: Launch<T>,
    {
        let mut lists = self.lists();
        if self.abandoned.load(Ordering::Relaxed) {
            return Err("its dispatcher's shutdown had run out of time by then".into());
        }
        if lists.waiting.is_empty()
            && let Ok(permit) = self.slots.try_acquire()
        {
            // Given back where nobody takes the slot over.
            permit.forget();
            let (identity, alarm) = (Identity::of(&task, kind), Arc::new(AtomicWaker::new()));
            let number = lists.next_number();
            let key = lists.running.insert(Running { identity, number, alarm: Arc::clone(&alarm) });
            let token = self.tracker.token();
            drop(lists);
            let slot = Slot { shared: Arc::clone(self), key, identity, alarm, runtime: runtime.id(), _tracked: token };
            if let Err(slot) = launch.launch(task, slot, Runtime::Of(runtime)) {
                slot.hand_on(None);
            }
        } else {
            let handle = if self.runtime.is_some() { None } else { Some(runtime.clone()) };
            lists.waiting.push_back(Waiting {
                call: smallbox!(Some((task, launch))),
                kind,
                runtime: runtime.id(),
                handle,
            });
        }
        Ok(())
    }

    /// Tells of a failure.
    pub(super) fn tell(&self, failure: &HookFailure) {
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
pub struct Slot {
    shared: Arc<Shared>,
    key: usize,
    identity: Identity,
    alarm: Arc<AtomicWaker>,
    /// Where its task runs.
    runtime: Id,
    /// While it is held, a shutdown waits.
    _tracked: TaskTrackerToken,
}

impl Slot {
    /// Its task is over: the next one that waits gets it. `current` is the runtime that this runs on, where that is known.
    fn hand_on(mut self, current: Option<Id>) {
        loop {
            let mut lists = self.shared.lists();
            let Some(mut next) = lists.waiting.pop_front() else {
                lists.running.remove(self.key);
                if lists.waiting.capacity() > KEPT_CAPACITY {
                    lists.waiting = VecDeque::new();
                }
                // Under the lock, so that whoever comes now finds either the slot or somebody who will look again.
                self.shared.slots.add_permits(1);
                return;
            };
            self.identity = next.identity();
            let number = lists.next_number();
            if let Some(running) = lists.running.get_mut(self.key) {
                (running.identity, running.number) = (self.identity, number);
            }
            drop(lists);
            self.runtime = next.runtime;
            let handle;
            let runtime = if current == Some(next.runtime) {
                Runtime::Current
            } else {
                handle = next.handle.or_else(|| self.shared.runtime.clone());
                handle.as_ref().map_or(Runtime::Current, Runtime::Of)
            };
            match next.call.launch(self, runtime) {
                Ok(()) => return,
                Err(slot) => self = slot,
            }
        }
    }

    /// The task's future, or closure, as far as it can be made.
    fn prepare<R>(&self, make: impl FnOnce(&States) -> Option<R>) -> Option<R> {
        let cause = match contain(|| make(&self.shared.states)) {
            Ok(Some(made)) => return Some(made),
            Ok(None) => FailureCause::Error(missing_state()),
            Err(message) => FailureCause::Panic(message),
        };
        self.shared.tell(&self.identity.failed(cause));
        None
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// Where a task is to run.
#[derive(Debug, Clone, Copy)]
pub enum Runtime<'a> {
    /// On the runtime that this thread is of.
    Current,
    /// On this one.
    Of(&'a Handle),
}

impl Runtime<'_> {
    fn spawn(self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Current => drop(tokio::spawn(task)),
            Self::Of(handle) => drop(handle.spawn(task)),
        }
    }

    fn spawn_blocking(self, task: impl FnOnce() + Send + 'static) {
        match self {
            Self::Current => drop(tokio::task::spawn_blocking(task)),
            Self::Of(handle) => drop(handle.spawn_blocking(task)),
        }
    }
}

/// How a dispatcher runs a task, once it has a slot for it.
pub trait Launch<T>: Send + 'static {
    /// Starts the task; gives the slot back where there was nothing to start.
    #[doc(hidden)]
    fn launch(self, task: T, slot: Slot, runtime: Runtime<'_>) -> Result<(), Slot>;
}

#[diagnostic::do_not_recommend]
impl<T, F, Fut> Launch<T> for Spawned<F>
where
    T: Task,
    F: FnOnce(T, &States) -> Option<Fut> + Send + 'static,
    Fut: Future<Output = T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot, runtime: Runtime<'_>) -> Result<(), Slot> {
        let Some(future) = slot.prepare(|states| (self.0)(task, states)) else { return Err(slot) };
        let task = AssertUnwindSafe(future).catch_unwind();
        runtime.spawn(Flight { task, can_be_woken: false, landing: Landing(Some(slot)) });
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T, F> Launch<T> for Blocking<F>
where
    T: Task + Send + 'static,
    F: FnOnce(T, &States) -> Option<T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot, runtime: Runtime<'_>) -> Result<(), Slot> {
        let mut landing = Landing(Some(slot));
        runtime.spawn_blocking(move || {
            let Some(slot) = &landing.0 else { return };
            let states = &slot.shared.states;
            let result =
                contain(|| (self.0)(task, states).map_or_else(|| Err(missing_state()), T::Output::into_result));
            landing.land(result);
        });
        Ok(())
    }
}

pin_project! {
    /// A task that runs, until it has ended or is told to stop.
    struct Flight<F> {
        #[pin]
        task: CatchUnwind<AssertUnwindSafe<F>>,
        can_be_woken: bool,
        landing: Landing,
    }
}

impl<F> Future for Flight<F>
where
    F: Future<Output: TaskOutput>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if !this.landing.is_abandoned() {
            if let Poll::Ready(ended) = this.task.poll(context) {
                this.landing.land(match ended {
                    Ok(output) => contain(|| output.into_result()),
                    Err(panic) => Err(message(panic)),
                });
                return Poll::Ready(());
            }
            if *this.can_be_woken {
                return Poll::Pending;
            }
            // Only where it waits at all. Whoever abandons it from now on wakes it; somebody may have done so just now.
            *this.can_be_woken = true;
            this.landing.listen(context);
            if !this.landing.is_abandoned() {
                return Poll::Pending;
            }
        }
        // Whoever told it to stop has told of it.
        this.landing.leave();
        Poll::Ready(())
    }
}

/// The slot of a task that runs: handed on when the task has ended, whichever way.
struct Landing(Option<Slot>);

impl Landing {
    fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(|slot| slot.shared.abandoned.load(Ordering::SeqCst))
    }

    /// Has the task woken when it is abandoned.
    fn listen(&self, context: &Context<'_>) {
        if let Some(slot) = &self.0 {
            slot.alarm.register(context.waker());
        }
    }

    /// The task stops.
    fn leave(&mut self) {
        if let Some(slot) = self.0.take() {
            let runtime = slot.runtime;
            slot.hand_on(Some(runtime));
        }
    }

    /// The task has ended by itself.
    fn land(&mut self, result: Result<Result<(), BoxError>, String>) {
        let Some(slot) = self.0.take() else { return };
        let cause = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(FailureCause::Error(error)),
            Err(message) => Some(FailureCause::Panic(message)),
        };
        if let Some(cause) = cause {
            let failure = slot.identity.failed(cause);
            slot.shared.tell(&failure);
            // The error is a user's: its `Drop` may panic, and the slot must be handed on.
            let _ = contain(|| drop(failure));
        }
        let runtime = slot.runtime;
        slot.hand_on(Some(runtime));
    }
}

impl Drop for Landing {
    /// The task was dropped before it ended, which only a runtime does that shuts down: what waits for that runtime has
    /// nowhere to go either.
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        let shared = Arc::clone(&slot.shared);
        shared.tell(&slot.identity.failed(FailureCause::Cancelled));
        let runtime = slot.runtime;
        let stranded = {
            let mut lists = shared.lists();
            let all = std::mem::take(&mut lists.waiting);
            let (stranded, others): (Vec<_>, _) =
                all.into_iter().partition(|waiting: &Waiting| waiting.runtime == runtime);
            lists.waiting = others.into();
            stranded
        };
        for waiting in stranded {
            shared.tell(&waiting.identity().failed(FailureCause::Cancelled));
            // Captured values are a user's: their `Drop` may panic.
            let _ = contain(|| drop(waiting));
        }
        slot.hand_on(None);
    }
}
