//! The dispatcher and the states that the hooks of one transaction take: found before its COMMIT,
//! held until all of them were started.
//!
//! Must not know: transactions.

#![allow(unreachable_pub, reason = "named in hidden methods of public traits")]

use tokio::runtime::Handle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::dispatcher::{Dispatcher, is_alive};
use super::slots::Launch;
use super::{CannotRun, Missing, Needs, States};
use crate::error::BoxError;
use crate::metrics::Stamp;
use crate::report::{HookFailure, HookKind};
use crate::task::start::{Blocking, Spawned};
use crate::task::{Place, Taken, Task};

/// The dispatcher of one connection.
#[derive(Debug)]
pub(crate) struct Route(pub(crate) Option<Dispatcher>);

impl Route {
    /// To the process's dispatcher.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    fn dispatcher(&self) -> Dispatcher {
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

    /// Finds what the tasks take, where nothing can be refused any more: a task that lacks
    /// something fails by itself.
    pub(crate) fn stage_what_there_is(&self, mut needs: impl Iterator<Item = Needs>) -> Stage {
        let mut hold = needs.next().and_then(|_| self.dispatcher().hold_open());
        if let Some(hold) = &mut hold {
            hold.runtime = hold.runtime.take().filter(is_alive);
        }
        Stage(hold.map(Box::new))
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
        Some(Hold { dispatcher: self, runtime, committed: Stamp::now(), _open: open })
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
        self.dispatch(task, Spawned(future), kind)
    }

    fn block<T, F>(&self, task: Taken<T>, function: F, kind: HookKind) -> Result<(), BoxError>
    where
        T: Task + Send + 'static,
        F: FnOnce(Taken<T>, &States) -> Option<T::Output> + Copy + Send + 'static,
    {
        self.dispatch(task, Blocking(function), kind)
    }
}
