//! The tasks of one dispatcher: those that wait for a slot, and those that run in one.
//!
//! A task that has ended hands its slot to the first that waits, so that nothing else is needed to keep things going, and
//! tasks start in the order in which they came. An async one goes on in the tokio task of the one before it: to spawn another
//! costs more than all the rest.
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
use futures_util::future::BoxFuture;
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
    /// Of slots that are free: the memory is passed between threads otherwise, which costs more than the slot.
    spare_alarms: Vec<Arc<AtomicWaker>>,
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
    fn launch(&mut self, slot: Slot) -> Result<Launched, Slot>;
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
            let (identity, alarm) = (Identity::of(&task, kind), lists.spare_alarms.pop().unwrap_or_default());
            let number = lists.next_number();
            let key = lists.running.insert(Running { identity, number, alarm: Arc::clone(&alarm) });
            let token = self.tracker.token();
            drop(lists);
            let slot = Slot { shared: Arc::clone(self), key, identity, alarm, runtime: runtime.id(), _tracked: token };
            if let Err(slot) = launch.start(task, slot, runtime) {
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

    /// Hands on the slots of tasks that were dropped before they ended, which only a runtime does that shuts down: what waits for
    /// that runtime has nowhere to go either.
    fn clear_cancelled(&self) {
        loop {
            let mut lists = self.lists();
            let Some(slot) = lists.cancelled.pop() else {
                lists.clearing = false;
                return;
            };
            let runtime = slot.runtime;
            let all = std::mem::take(&mut lists.waiting);
            let (stranded, others): (Vec<_>, _) =
                all.into_iter().partition(|waiting: &Waiting| waiting.runtime == runtime);
            lists.waiting = others.into();
            drop(lists);
            self.tell(&slot.identity.failed(FailureCause::Cancelled));
            for waiting in stranded {
                self.tell(&waiting.identity().failed(FailureCause::Cancelled));
                // Captured values are a user's: their `Drop` may panic.
                let _ = contain(|| drop(waiting));
            }
            slot.hand_on(None);
        }
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
    /// Its task is over: the next one that waits gets it, in a tokio task of its own. `current` is the runtime that this runs on, where
    /// that is known.
    fn hand_on(self, current: Option<Id>) {
        if let Some((launched, runtime)) = self.next(current) {
            launched.spawn(runtime.as_ref());
        }
    }

    /// Its task is over: the next one that waits gets it, to be spawned on that runtime, or on the one that this runs on.
    fn next(mut self, current: Option<Id>) -> Option<(Launched, Option<Handle>)> {
        loop {
            // Dropped behind the lock: the waker may be the last that holds a runtime which is gone, and what users gave that.
            let _waker;
            let mut lists = self.shared.lists();
            let Some(mut next) = lists.waiting.pop_front() else {
                lists.running.remove(self.key);
                if lists.spare_alarms.len() < KEPT_CAPACITY {
                    _waker = self.alarm.take();
                    lists.spare_alarms.push(self.alarm);
                }
                if lists.waiting.capacity() > KEPT_CAPACITY {
                    lists.waiting = VecDeque::new();
                }
                // Under the lock, so that whoever comes now finds either the slot or somebody who will look again.
                self.shared.slots.add_permits(1);
                return None;
            };
            self.identity = next.identity();
            let number = lists.next_number();
            if let Some(running) = lists.running.get_mut(self.key) {
                (running.identity, running.number) = (self.identity, number);
            }
            drop(lists);
            self.runtime = next.runtime;
            let runtime =
                if current == Some(next.runtime) { None } else { next.handle.or_else(|| self.shared.runtime.clone()) };
            match next.call.launch(self) {
                Ok(launched) => return Some((launched, runtime)),
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

/// How a task ended: what it returned, or what it panicked with.
type Ended = Result<Result<(), BoxError>, String>;

/// A task that has got its slot.
pub enum Launched {
    /// It is to be polled.
    Async(BoxFuture<'static, Ended>, Slot),
    /// It is to be called on a thread for blocking work, and has the slot.
    Blocking(Box<dyn FnOnce() + Send>),
}

impl Launched {
    /// Has it run on that runtime; `None`: on the one that this thread is of.
    fn spawn(self, runtime: Option<&Handle>) {
        match (self, runtime) {
            (Self::Async(task, slot), None) => drop(tokio::spawn(Flight::new(task, slot))),
            (Self::Async(task, slot), Some(runtime)) => drop(runtime.spawn(Flight::new(task, slot))),
            (Self::Blocking(task), None) => drop(tokio::task::spawn_blocking(task)),
            (Self::Blocking(task), Some(runtime)) => drop(runtime.spawn_blocking(task)),
        }
    }
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Launched")
    }
}

/// How a dispatcher runs a task, once it has a slot for it.
pub trait Launch<T>: Send + 'static {
    /// Makes the task ready to run; gives the slot back where there is nothing to run.
    #[doc(hidden)]
    fn launch(self, task: T, slot: Slot) -> Result<Launched, Slot>;

    /// The same, and has it run on that runtime.
    #[doc(hidden)]
    fn start(self, task: T, slot: Slot, runtime: &Handle) -> Result<(), Slot>
    where
        Self: Sized,
    {
        self.launch(task, slot).map(|launched| launched.spawn(Some(runtime)))
    }
}

#[diagnostic::do_not_recommend]
impl<T, F, Fut> Launch<T> for Spawned<F>
where
    T: Task,
    F: FnOnce(T, &States) -> Option<Fut> + Send + 'static,
    Fut: Future<Output = T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot) -> Result<Launched, Slot> {
        match slot.prepare(|states| Some(to_its_end((self.0)(task, states)?))) {
            Some(task) => Ok(Launched::Async(Box::pin(task), slot)),
            None => Err(slot),
        }
    }

    /// Without the box, which this thread would allocate, and another one free.
    fn start(self, task: T, slot: Slot, runtime: &Handle) -> Result<(), Slot> {
        let Some(task) = slot.prepare(|states| Some(to_its_end((self.0)(task, states)?))) else { return Err(slot) };
        runtime.spawn(Flight::new(task, slot));
        Ok(())
    }
}

/// What becomes of a task, whatever it does. It is an `async` block, which has dropped all that it had by its end.
fn to_its_end<F>(task: F) -> impl Future<Output = Ended> + Send + use<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    AssertUnwindSafe(task).catch_unwind().map(|ended| match ended {
        Ok(output) => contain(|| output.into_result()),
        Err(panic) => Err(message(panic)),
    })
}

#[diagnostic::do_not_recommend]
impl<T, F> Launch<T> for Blocking<F>
where
    T: Task + Send + 'static,
    F: FnOnce(T, &States) -> Option<T::Output> + Send + 'static,
{
    fn launch(self, task: T, slot: Slot) -> Result<Launched, Slot> {
        let mut landing = Landing(Some(slot));
        Ok(Launched::Blocking(Box::new(move || {
            let Some(slot) = &landing.0 else { return };
            let states = &slot.shared.states;
            let ended = contain(|| (self.0)(task, states).map_or_else(|| Err(missing_state()), T::Output::into_result));
            if let Some(slot) = landing.land(ended) {
                let runtime = slot.runtime;
                slot.hand_on(Some(runtime));
            }
        })))
    }
}

pin_project! {
    /// A tokio task: it polls a task, and then those that get its slot. It ends where it is told to, or where nothing waits that can run
    /// here: what is async, and for this runtime.
    struct Flight<F> {
        #[pin]
        first: Option<F>,
        next: Option<BoxFuture<'static, Ended>>,
        can_be_woken: bool,
        landing: Landing,
    }
}

impl<F> Flight<F> {
    fn new(first: F, slot: Slot) -> Self {
        Self { first: Some(first), next: None, can_be_woken: false, landing: Landing(Some(slot)) }
    }
}

impl<F: Future<Output = Ended>> Future for Flight<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if !this.landing.is_abandoned() {
            let polled = match (&mut *this.next, this.first.as_mut().as_pin_mut()) {
                (Some(next), _) => next.as_mut().poll(context),
                (None, Some(first)) => first.poll(context),
                (None, None) => return Poll::Ready(()),
            };
            if let Poll::Ready(ended) = polled {
                let Some(slot) = this.landing.land(ended) else { return Poll::Ready(()) };
                // Not beside the next one.
                drop_task(this.first, this.next);
                let runtime = slot.runtime;
                return match slot.next(Some(runtime)) {
                    Some((Launched::Async(task, slot), None)) => {
                        *this.next = Some(task);
                        *this.landing = Landing(Some(slot));
                        // Whatever else the runtime has to do has its turn first: there are tasks that never wait.
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Some((launched, runtime)) => {
                        launched.spawn(runtime.as_ref());
                        Poll::Ready(())
                    }
                    None => Poll::Ready(()),
                };
            }
            if *this.can_be_woken {
                return Poll::Pending;
            }
            // Only where one waits at all, for those behind it too: slot and waker stay the same. Whoever abandons them from now on wakes
            // them; somebody may have done so just now.
            *this.can_be_woken = true;
            this.landing.listen(context);
            if !this.landing.is_abandoned() {
                return Poll::Pending;
            }
        }
        // Whoever told it to stop has told of it. A shutdown that waits for its end waits for that of what it holds.
        drop_task(this.first, this.next);
        this.landing.leave();
        Poll::Ready(())
    }
}

/// What a task holds is a user's, and so is what its `Drop` does.
fn drop_task<F>(mut first: Pin<&mut Option<F>>, next: &mut Option<BoxFuture<'static, Ended>>) {
    let _ = contain(|| {
        first.set(None);
        *next = None;
    });
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

    /// The task has ended by itself: its slot is free.
    fn land(&mut self, ended: Ended) -> Option<Slot> {
        let slot = self.0.take()?;
        let cause = match ended {
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
        Some(slot)
    }
}

impl Drop for Landing {
    /// The task was dropped before it ended.
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        let shared = Arc::clone(&slot.shared);
        let mut lists = shared.lists();
        lists.cancelled.push(slot);
        // Whoever is at it sees this one too. It may be this thread: what gets the slot next is dropped at once where its runtime is gone as
        // well, and so on, deeper each time.
        if !std::mem::replace(&mut lists.clearing, true) {
            drop(lists);
            shared.clear_cancelled();
        }
    }
}
