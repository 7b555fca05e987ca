//! Runs a task that has got its slot to its end: a tokio task polls it, or a thread for blocking
//! work calls it.
//!
//! Must not know: what waits for a slot, or in which order.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};

use super::slots::{Ended, Launch, Launched, Shared, Slot};
use super::states::States;
use crate::panics::{contain, message};
use crate::report::FailureCause;
use crate::task::start::{Blocking, Spawned, missing_state};
use crate::task::{Taken, Task, TaskOutput};

/// Has a task run on that runtime; `None`: on the one that this thread is of.
fn spawn(launched: Launched, runtime: Option<&Handle>) {
    match (launched, runtime) {
        (Launched::Async(task, slot), None) => drop(tokio::spawn(Runner::new(task, slot))),
        (Launched::Async(task, slot), Some(runtime)) => drop(runtime.spawn(Runner::new(task, slot))),
        (Launched::Blocking(task), None) => drop(tokio::task::spawn_blocking(task)),
        (Launched::Blocking(task), Some(runtime)) => drop(runtime.spawn_blocking(task)),
    }
}

impl Slot {
    /// Its task is over: the next one that waits gets it, in a tokio task of its own. `current` is
    /// the runtime that this runs on, where that is known.
    fn hand_on(self, current: Option<Id>) {
        if let Some((launched, runtime)) = self.next(current) {
            spawn(launched, runtime.as_ref());
        }
    }

    /// Its task was dropped before it ended: the next one that waits gets it.
    fn cancelled(self) {
        self.run.ended(self.identity.task);
        let shared = Arc::clone(&self.shared);
        if shared.add_cancelled(self) {
            shared.clear_cancelled();
        }
    }

    /// The task's future, or closure, as far as it can be made.
    fn prepare<R>(&self, make: impl FnOnce(&States) -> Option<R>) -> Option<R> {
        let cause = match contain(|| self.span.run(|| make(&self.shared.states))) {
            Ok(Some(made)) => return Some(made),
            Ok(None) => FailureCause::Error(missing_state()),
            Err(message) => FailureCause::Panic(message),
        };
        self.run.ended(self.identity.task);
        self.span.failed(&cause);
        self.span.run(|| self.shared.report_failure(&self.identity.failed(cause)));
        None
    }
}

impl Shared {
    /// Hands on the slots of tasks that were dropped before they ended.
    fn clear_cancelled(&self) {
        while let Some((slot, stranded)) = self.next_cancelled() {
            self.report_failure(&slot.identity.failed(FailureCause::Cancelled));
            for waiting in stranded {
                self.report_failure(&waiting.identity().failed(FailureCause::Cancelled));
                // Captured values are a user's: their `Drop` may panic.
                let _ = contain(|| drop(waiting));
            }
            slot.hand_on(None);
        }
    }
}

impl<T, F, Fut> Launch<T> for Spawned<F>
where
    T: Task,
    F: FnOnce(Taken<T>, &States) -> Option<Fut> + Copy + Send + 'static,
    Fut: Future<Output = T::Output> + Send + 'static,
{
    fn launch(self, task: Taken<T>, slot: Slot) -> Result<Launched, Slot> {
        match slot.prepare(|states| Some(to_its_end((self.0)(task, states)?))) {
            Some(task) => Ok(Launched::Async(Box::pin(task), slot)),
            None => Err(slot),
        }
    }

    /// Without the box, which this thread would allocate, and another one free.
    fn start(self, task: Taken<T>, slot: Slot, runtime: &Handle) {
        match slot.prepare(|states| Some(to_its_end((self.0)(task, states)?))) {
            Some(task) => drop(runtime.spawn(Runner::new(task, slot))),
            None => slot.hand_on(None),
        }
    }
}

/// What becomes of a task, whatever it does. It is an `async` block, which has dropped all that it
/// had by its end.
fn to_its_end<F>(task: F) -> impl Future<Output = Ended> + Send + use<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    AssertUnwindSafe(task).catch_unwind().map(|ended| match ended {
        Ok(output) => contain(|| output.into_result()),
        Err(panic) => Err(message(panic)),
    })
}

impl<T, F> Launch<T> for Blocking<F>
where
    T: Task + Send + 'static,
    F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static,
{
    fn launch(self, task: Taken<T>, slot: Slot) -> Result<Launched, Slot> {
        let mut guard = SlotGuard(Some(slot));
        Ok(Launched::Blocking(Box::new(move || {
            let Some(slot) = &guard.0 else { return };
            let states = &slot.shared.states;
            let run = || (self.0)(task, states).map_or_else(|| Err(missing_state()), T::Output::into_result);
            let ended = contain(|| slot.span.run(run));
            if let Some(slot) = guard.ended(ended) {
                let runtime = slot.runtime;
                slot.hand_on(Some(runtime));
            }
        })))
    }

    fn start(self, task: Taken<T>, slot: Slot, runtime: &Handle) {
        match self.launch(task, slot) {
            Ok(launched) => spawn(launched, Some(runtime)),
            Err(slot) => slot.hand_on(None),
        }
    }
}

pin_project! {
    /// A tokio task: it polls a task, and then the tasks that get its slot, because to spawn
    /// another tokio task for each costs more than all the rest. It ends where it is told to, or
    /// where no async task for this runtime waits.
    struct Runner<F> {
        #[pin]
        first: Option<F>,
        next: Option<BoxFuture<'static, Ended>>,
        can_be_woken: bool,
        guard: SlotGuard,
    }
}

impl<F> Runner<F> {
    fn new(first: F, slot: Slot) -> Self {
        Self { first: Some(first), next: None, can_be_woken: false, guard: SlotGuard(Some(slot)) }
    }
}

impl<F: Future<Output = Ended>> Future for Runner<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if !this.guard.is_abandoned() {
            let polled = {
                let _in_its_span = this.guard.0.as_ref().map(|slot| slot.span.enter());
                match (&mut *this.next, this.first.as_mut().as_pin_mut()) {
                    (Some(next), _) => next.as_mut().poll(context),
                    (None, Some(first)) => first.poll(context),
                    (None, None) => return Poll::Ready(()),
                }
            };
            if let Poll::Ready(ended) = polled {
                let Some(slot) = this.guard.ended(ended) else { return Poll::Ready(()) };
                // Not beside the next one.
                drop_task(this.first, this.next);
                let runtime = slot.runtime;
                return match slot.next(Some(runtime)) {
                    Some((Launched::Async(task, slot), None)) => {
                        *this.next = Some(task);
                        *this.guard = SlotGuard(Some(slot));
                        // Whatever else the runtime has to do has its turn first: there are tasks
                        // that never wait.
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Some((launched, runtime)) => {
                        spawn(launched, runtime.as_ref());
                        Poll::Ready(())
                    }
                    None => Poll::Ready(()),
                };
            }
            if *this.can_be_woken {
                return Poll::Pending;
            }
            // Only where one waits at all, for those behind it too: slot and waker stay the same.
            // Whoever abandons them from now on wakes them; somebody may have done so just now.
            *this.can_be_woken = true;
            this.guard.listen(context);
            if !this.guard.is_abandoned() {
                return Poll::Pending;
            }
        }
        // Whoever told it to stop has told of it. A shutdown that waits for its end waits for that
        // of what it holds.
        drop_task(this.first, this.next);
        this.guard.stopped();
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
struct SlotGuard(Option<Slot>);

impl SlotGuard {
    fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(|slot| slot.shared.abandoned.load(Ordering::SeqCst))
    }

    /// Has the task woken when it is abandoned.
    fn listen(&self, context: &Context<'_>) {
        if let Some(slot) = &self.0 {
            slot.waker.register(context.waker());
        }
    }

    /// The task stops.
    fn stopped(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.run.ended(slot.identity.task);
            let runtime = slot.runtime;
            slot.hand_on(Some(runtime));
        }
    }

    /// The task has ended by itself: its slot is free.
    fn ended(&mut self, ended: Ended) -> Option<Slot> {
        let slot = self.0.take()?;
        slot.run.ended(slot.identity.task);
        let cause = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(FailureCause::Error(error)),
            Err(message) => Some(FailureCause::Panic(message)),
        };
        if let Some(cause) = cause {
            slot.span.failed(&cause);
            let failure = slot.identity.failed(cause);
            slot.span.run(|| slot.shared.report_failure(&failure));
            // The error is a user's: its `Drop` may panic, and the slot must be handed on.
            let _ = contain(|| drop(failure));
        }
        Some(slot)
    }
}

impl Drop for SlotGuard {
    /// The task was dropped before it ended.
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.cancelled();
        }
    }
}
