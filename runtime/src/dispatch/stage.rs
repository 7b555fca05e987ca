//! The dispatcher and the states that the hooks of one transaction take: found before its COMMIT,
//! held until all of them were started.
//!
//! Must not know: transactions.

#![allow(unreachable_pub, reason = "named in hidden methods of public traits")]

use tokio::runtime::Handle;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(feature = "testing")]
use super::dispatcher::WeakDispatcher;
use super::dispatcher::{Dispatcher, is_alive};
#[cfg(feature = "testing")]
use super::on_a_thread::on_a_thread;
use super::slots::Launch;
use super::{CannotRun, Missing, Needs, States};
use crate::error::BoxError;
use crate::metrics::Stamp;
use crate::report::{HookFailure, HookKind};
#[cfg(feature = "testing")]
use crate::task::TaskOutput;
use crate::task::start::{Blocking, Spawned};
use crate::task::{Place, Taken, Task};

/// The dispatcher of one connection.
#[derive(Debug)]
pub(crate) struct Route(
    pub(crate) Option<Dispatcher>,
    /// One that has the connection's pool among its states, and must not be held by it in a circle.
    #[cfg(feature = "testing")]
    Option<WeakDispatcher>,
);

impl Route {
    /// To the process's dispatcher.
    pub(crate) const fn none() -> Self {
        Self(
            None,
            #[cfg(feature = "testing")]
            None,
        )
    }

    /// To this one, for as long as somebody else holds it.
    #[cfg(feature = "testing")]
    pub(crate) fn to(dispatcher: WeakDispatcher) -> Self {
        Self(None, Some(dispatcher))
    }

    fn dispatcher(&self) -> Dispatcher {
        #[cfg(feature = "testing")]
        if let (None, Some(dispatcher)) = (&self.0, self.1.as_ref().and_then(WeakDispatcher::upgrade)) {
            return dispatcher;
        }
        self.0.clone().unwrap_or_else(Dispatcher::global)
    }

    /// Finds what the tasks take, or says which of them could not run.
    pub(crate) fn stage(&self, needs: impl Iterator<Item = Needs>) -> Result<Stage, CannotRun> {
        let mut hold = None;
        let mut alive = false;
        for needs in needs {
            let hold = match &mut hold {
                Some(hold) => hold,
                none => {
                    none.insert(self.dispatcher().hold_open().ok_or_else(|| needs.cannot_run(Missing::OpenDispatcher))?)
                }
            };
            if needs.dispatched && !alive {
                let runtime = hold.runtime.as_ref().ok_or_else(|| needs.cannot_run(Missing::Runtime))?;
                alive = is_alive(runtime);
                if !alive {
                    return Err(needs.cannot_run(Missing::LivingRuntime));
                }
            }
            let states = &hold.dispatcher.0.states;
            if let Some(state) = needs.states.iter().find(|state| !states.has(state)) {
                return Err(needs.cannot_run(Missing::State(state.name())));
            }
        }
        Ok(Stage(hold.map(Box::new)))
    }

    /// The same of tasks that run to their end at once: they take no runtime.
    #[cfg(feature = "testing")]
    pub(crate) fn stage_inline(&self, needs: impl Iterator<Item = Needs>) -> Result<Stage, CannotRun> {
        let mut stage = self.stage(needs.map(|needs| Needs { dispatched: false, ..needs }))?;
        if let Some(hold) = &mut stage.0 {
            hold.inline = Some(std::sync::Mutex::default());
        }
        Ok(stage)
    }

    /// Finds what the tasks take, where nothing can be refused any more: a task that lacks
    /// something fails by itself.
    pub(crate) fn stage_what_there_is(&self, mut needs: impl Iterator<Item = Needs>) -> Stage {
        let mut hold = needs.next().and_then(|_| self.dispatcher().hold_open());
        if let Some(hold) = &mut hold {
            hold.runtime = hold.runtime.take().filter(is_alive);
        }
        Stage(hold.map(Box::new))
    }

    /// The states of its tasks.
    #[cfg(feature = "testing")]
    pub(crate) fn states(&self) -> States {
        self.dispatcher().states()
    }

    /// Tells the dispatcher of a hook that failed on the committing thread.
    pub(crate) fn tell(&self, failure: &HookFailure) {
        self.dispatcher().0.call_handler(failure);
    }
}

/// The dispatcher of one transaction's tasks, which waits for them. Boxed, because most
/// transactions have none, and move this several times.
#[derive(Debug)]
pub struct Stage(Option<Box<Hold>>);

#[derive(Debug)]
struct Hold {
    dispatcher: Dispatcher,
    runtime: Option<Handle>,
    /// Behind which moment its tasks could begin.
    committed: Stamp,
    /// While it is held, a shutdown waits.
    _open: TaskTrackerToken,
    /// Tasks that whoever has started them runs to their end.
    #[cfg(feature = "testing")]
    inline: Option<std::sync::Mutex<Vec<InlineTask>>>,
}

/// A task that runs to its end at once.
#[cfg(feature = "testing")]
pub(crate) struct InlineTask {
    pub(crate) name: &'static str,
    pub(crate) call_site: &'static std::panic::Location<'static>,
    pub(crate) future: futures_util::future::BoxFuture<'static, Result<(), BoxError>>,
}

#[cfg(feature = "testing")]
impl std::fmt::Debug for InlineTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.dispatcher.0.lists().committing -= 1;
    }
}

impl Dispatcher {
    /// Keeps it open for a transaction's tasks; `None` where it was shut down.
    fn hold_open(self) -> Option<Hold> {
        let mut lists = self.0.lists();
        if lists.closed {
            return None;
        }
        lists.committing += 1;
        // Under the lock: a shutdown that comes now waits for it.
        let open = self.0.tracker.token();
        drop(lists);
        let runtime = self.0.runtime.clone().or_else(|| Handle::try_current().ok());
        Some(Hold {
            dispatcher: self,
            runtime,
            committed: Stamp::now(),
            _open: open,
            #[cfg(feature = "testing")]
            inline: None,
        })
    }
}

impl Stage {
    /// For hooks that take nothing.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Its transaction has committed.
    #[inline]
    pub(crate) fn committed(&mut self) {
        if let Some(hold) = &mut self.0 {
            hold.committed = Stamp::now();
        }
    }

    /// Whether tasks run to their end at once.
    #[cfg(feature = "testing")]
    pub(crate) fn is_inline(&self) -> bool {
        self.0.as_ref().is_some_and(|hold| hold.inline.is_some())
    }

    /// The tasks that were started since, which are to run to their end.
    #[cfg(feature = "testing")]
    pub(crate) fn take_inline(&mut self) -> Vec<InlineTask> {
        let inline = self.0.as_mut().and_then(|hold| hold.inline.as_mut());
        let tasks = inline.map(|tasks| tasks.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        tasks.map(std::mem::take).unwrap_or_default()
    }

    /// Keeps a task that is to run to its end at once; hands it back where none is.
    #[cfg(feature = "testing")]
    fn keep_inline<T, F>(&self, task: Taken<T>, future: F) -> Result<Result<(), BoxError>, Taken<T>>
    where
        T: Task,
        F: FnOnce(Taken<T>, &States) -> Option<futures_util::future::BoxFuture<'static, Result<(), BoxError>>>,
    {
        let Some(Hold { dispatcher, inline: Some(inline), .. }) = self.0.as_deref() else { return Err(task) };
        let call_site = task.call_site();
        let Some(future) = future(task, &dispatcher.0.states) else {
            return Ok(Err(crate::task::start::missing_state()));
        };
        let mut inline = inline.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inline.push(InlineTask { name: T::NAME, call_site, future });
        Ok(Ok(()))
    }

    /// Hands a task over.
    fn dispatch<T, L>(&self, task: Taken<T>, launch: L, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        L: Launch<T>,
    {
        let Some(Hold { dispatcher, runtime: Some(runtime), committed, .. }) = self.0.as_deref() else {
            return Err(
                "it could not be run any more: its dispatcher was shut down, or there is no tokio runtime".into()
            );
        };
        dispatcher.0.dispatch(runtime, kind, task, launch, *committed)
    }
}

impl Place for Stage {
    fn states(&self) -> &States {
        match &self.0 {
            Some(hold) => &hold.dispatcher.0.states,
            None => States::none(),
        }
    }

    fn spawn<T, F, Fut>(&self, task: Taken<T>, future: F, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        F: FnOnce(Taken<T>, &States) -> Option<Fut> + Copy + Send + 'static,
        Fut: Future<Output = T::Output> + Send + 'static,
    {
        #[cfg(feature = "testing")]
        let task = match self.keep_inline(task, |task, states| {
            let future = future(task, states)?;
            Some(Box::pin(async move { future.await.into_result() }))
        }) {
            Ok(kept) => return kept,
            Err(task) => task,
        };
        self.dispatch(task, Spawned(future), kind)
    }

    fn block<T, F>(&self, task: Taken<T>, function: F, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static,
    {
        #[cfg(feature = "testing")]
        let task = match self.keep_inline(task, |task, states| {
            let states = states.clone();
            let run = move || match function(task, &states) {
                Some(output) => output.into_result(),
                None => Err(crate::task::start::missing_state()),
            };
            // On the runtime that it runs on.
            Some(Box::pin(on_a_thread(run)))
        }) {
            Ok(kept) => return kept,
            Err(task) => task,
        };
        self.dispatch(task, Blocking(function), kind)
    }
}
