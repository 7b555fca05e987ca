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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use pin_project_lite::pin_project;
use slab::Slab;
use smallbox::{SmallBox, smallbox};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

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
    /// Tells tasks that run to stop.
    pub(super) abandon: CancellationToken,
}

#[derive(Default)]
pub(super) struct Lists {
    /// Takes no more tasks than those of transactions that are about to commit.
    pub(super) closed: bool,
    /// Starts nothing any more.
    pub(super) abandoned: bool,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) running: Slab<Started>,
    /// How many tasks have got a slot so far.
    starts: u64,
    /// How many transactions hold the dispatcher open.
    pub(super) committing: usize,
}

/// A task that runs, and the how-manieth it is.
pub(super) type Started = (u64, Identity);

impl Lists {
    fn start(&mut self, identity: Identity) -> usize {
        self.starts += 1;
        self.running.insert((self.starts, identity))
    }

    /// The tasks that run, in the order in which they were started.
    pub(super) fn in_order_of_start(&self) -> Vec<Identity> {
        let mut running: Vec<_> = self.running.iter().map(|(_, started)| *started).collect();
        running.sort_unstable_by_key(|(number, _)| *number);
        running.into_iter().map(|(_, identity)| identity).collect()
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
    pub(super) identity: Identity,
    runtime: Handle,
    call: SmallBox<dyn Call, Inline>,
}

/// A call and the way to launch it, their types erased.
trait Call: Send {
    fn launch(&mut self, slot: Slot) -> Result<(), Slot>;
}

impl<T: Task + Send, L: Launch<T>> Call for Option<(T, L)> {
    fn launch(&mut self, slot: Slot) -> Result<(), Slot> {
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
        identity: Identity,
        task: T,
        launch: L,
    ) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        L: Launch<T>,
    {
        let mut lists = self.lists();
        if lists.abandoned {
            return Err("its dispatcher's shutdown had run out of time by then".into());
        }
        let runtime = runtime.clone();
        if lists.waiting.is_empty()
            && let Ok(permit) = self.slots.try_acquire()
        {
            permit.forget();
            let key = lists.start(identity);
            drop(lists);
            let slot = Slot { shared: Arc::clone(self), key, identity, runtime };
            if let Err(slot) = launch.launch(task, slot) {
                slot.hand_on();
            }
        } else {
            lists.waiting.push_back(Waiting { identity, runtime, call: smallbox!(Some((task, launch))) });
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

/// A place among the tasks that run.
pub struct Slot {
    shared: Arc<Shared>,
    key: usize,
    identity: Identity,
    runtime: Handle,
}

impl Slot {
    /// Its task is over: the next one that waits gets it.
    fn hand_on(mut self) {
        loop {
            let mut lists = self.shared.lists();
            lists.running.remove(self.key);
            let Some(Waiting { identity, runtime, mut call }) = lists.waiting.pop_front() else {
                if lists.waiting.capacity() > KEPT_CAPACITY {
                    lists.waiting = VecDeque::new();
                }
                // Under the lock, so that whoever comes now finds either the slot or somebody who will look again.
                self.shared.slots.add_permits(1);
                return;
            };
            self.key = lists.start(identity);
            drop(lists);
            (self.identity, self.runtime) = (identity, runtime);
            match call.launch(self) {
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

/// How a dispatcher runs a task, once it has a slot for it.
pub trait Launch<T>: Send + 'static {
    /// Starts the task; gives the slot back where there was nothing to start.
    #[doc(hidden)]
    fn launch(self, task: T, slot: Slot) -> Result<(), Slot>;
}

#[diagnostic::do_not_recommend]
impl<T, F, Fut> Launch<T> for Spawned<F>
where
    T: Task,
    F: FnOnce(T, &States) -> Option<Fut> + Send + 'static,
    Fut: Future<Output = T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot) -> Result<(), Slot> {
        let Some(future) = slot.prepare(|states| (self.0)(task, states)) else { return Err(slot) };
        let (tracker, runtime) = (slot.shared.tracker.clone(), slot.runtime.clone());
        let flight =
            Flight { task: AssertUnwindSafe(future).catch_unwind(), abandoned: None, landing: Landing(Some(slot)) };
        tracker.spawn_on(flight, &runtime);
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T, F> Launch<T> for Blocking<F>
where
    T: Task + Send + 'static,
    F: FnOnce(T, &States) -> Option<T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot) -> Result<(), Slot> {
        let (tracker, runtime) = (slot.shared.tracker.clone(), slot.runtime.clone());
        let mut landing = Landing(Some(slot));
        let run = move || {
            let Some(slot) = &landing.0 else { return };
            let states = &slot.shared.states;
            let result =
                contain(|| (self.0)(task, states).map_or_else(|| Err(missing_state()), T::Output::into_result));
            landing.land(result);
        };
        tracker.spawn_blocking_on(run, &runtime);
        Ok(())
    }
}

pin_project! {
    /// A task that runs, until it has ended or is told to stop.
    struct Flight<F> {
        #[pin]
        task: CatchUnwind<AssertUnwindSafe<F>>,
        // Only where the task has to wait at all.
        #[pin]
        abandoned: Option<WaitForCancellationFutureOwned>,
        landing: Landing,
    }
}

impl<F> Future for Flight<F>
where
    F: Future<Output: TaskOutput>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let Poll::Ready(ended) = this.task.poll(context) {
            this.landing.land(match ended {
                Ok(output) => contain(|| output.into_result()),
                Err(panic) => Err(message(panic)),
            });
            return Poll::Ready(());
        }
        if this.abandoned.is_none()
            && let Some(slot) = &this.landing.0
        {
            this.abandoned.set(Some(slot.shared.abandon.clone().cancelled_owned()));
        }
        if let Some(abandoned) = this.abandoned.as_pin_mut() {
            ready!(abandoned.poll(context));
        }
        // Whoever told it to stop has told of it.
        if let Some(slot) = this.landing.0.take() {
            slot.hand_on();
        }
        Poll::Ready(())
    }
}

/// The slot of a task that runs: handed on when the task has ended, whichever way.
struct Landing(Option<Slot>);

impl Landing {
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
        slot.hand_on();
    }
}

impl Drop for Landing {
    /// The task was dropped before it ended, which only a runtime does that shuts down: what waits for that runtime has
    /// nowhere to go either.
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        let shared = Arc::clone(&slot.shared);
        shared.tell(&slot.identity.failed(FailureCause::Cancelled));
        let runtime = slot.runtime.id();
        let stranded = {
            let mut lists = shared.lists();
            let all = std::mem::take(&mut lists.waiting);
            let (stranded, others): (Vec<_>, _) =
                all.into_iter().partition(|waiting: &Waiting| waiting.runtime.id() == runtime);
            lists.waiting = others.into();
            stranded
        };
        for waiting in stranded {
            shared.tell(&waiting.identity.failed(FailureCause::Cancelled));
            // Captured values are a user's: their `Drop` may panic.
            let _ = contain(|| drop(waiting));
        }
        slot.hand_on();
    }
}
