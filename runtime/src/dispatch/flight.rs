//! How a task runs that has got its slot: polled by a tokio task, or called by a thread for blocking work, to its end.
//!
//! Must not know: what waits for a slot, or in which order.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::running::Slot;
use super::states::States;
use crate::error::BoxError;
use crate::panics::{contain, message};
use crate::report::FailureCause;
use crate::task::start::{Blocking, Spawned, missing_state};
use crate::task::{Task, TaskOutput};

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
    pub(super) fn spawn(self, runtime: Option<&Handle>) {
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
    /// A tokio task: it polls a task, and then those that get its slot, because to spawn another for each costs more than all the rest. It
    /// ends where it is told to, or where nothing waits that can run here: what is async, and for this runtime.
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
        if let Some(slot) = self.0.take() {
            slot.cancelled();
        }
    }
}
