//! What the test kit has a connection do with its tasks: hold them back, run them to their end at once,
//! show them, and tell of those that got lost.
//!
//! Must not know: what a test does with them.

use super::ending::Ending;
use super::held::{Drain, Held, HeldCall};
use super::keeper::{Keeper, Waiting, describe};
use crate::dispatch::{CannotRun, Needs, Route, Stage, States};
use crate::durable::{NewTask, TaskId};
use crate::hook::{Failed, Hook};
use crate::report::{FailureCause, HookKind};

/// A call that waits, and the depth that it belongs to; one that is held back belongs to none.
pub(crate) enum Waits<'a, W> {
    /// It runs in this process.
    Hook(&'a Hook<W>, HookKind, usize),
    /// It becomes, or is, a row.
    Stored(&'a NewTask, usize),
}

impl<W> Keeper<W> {
    /// What is held back; made where there is nothing.
    pub(crate) fn held(&mut self) -> &mut Held<W> {
        self.held.get_mut().get_or_insert_default()
    }

    /// Where its tasks go.
    pub(crate) fn set_route(&mut self, dispatcher: &crate::Dispatcher) {
        self.route = Route::to(dispatcher.downgrade());
    }

    /// The states of its dispatcher's tasks.
    pub(crate) fn states(&self) -> States {
        self.route.states()
    }

    /// Calls were run from their rows, and some failed.
    pub(crate) fn note_drained(&mut self, drained: &[NewTask], ran: usize, failures: &[(TaskId, String)]) {
        self.report.ran += ran;
        for (id, error) in failures {
            if let Some(call) = drained.iter().find(|call| call.id == *id) {
                let cause = FailureCause::Error(error.clone().into());
                self.fail(call.task, HookKind::Durable, Failed::new(call.call_site, cause));
            }
        }
    }

    /// How many commit hooks wait, and how many calls.
    pub(crate) fn queue_counts(&mut self) -> (usize, usize) {
        self.queue().counts()
    }

    /// Takes the commit hooks that were registered since so many waited, and shows the calls.
    pub(crate) fn take_registered_since(&mut self, hooks: usize, calls: usize) -> (Vec<Hook<W>>, Vec<NewTask>) {
        let hooks = self.queue().take_commit_since(hooks);
        let calls = self.queue.view(|waiting| {
            waiting.waiting_calls().skip(calls).filter_map(|(_, call)| call.as_ref().ok().cloned()).collect()
        });
        (hooks, calls)
    }

    /// The queue, with a mark for each depth.
    pub(crate) fn queue_up_to(&mut self, depth: usize) -> &mut Waiting<W> {
        let queue = self.queue();
        queue.begin_up_to(depth);
        queue
    }

    /// What is told of hooks is told of those from now on.
    pub(crate) fn begin_report(&mut self) {
        if self.running == 0 {
            self.report.clear();
        }
    }

    /// Whether hooks are held back.
    #[inline]
    pub(super) fn holds(&mut self) -> bool {
        self.held.get_mut().as_ref().is_some_and(|held| held.holds())
    }

    /// Whether a test looks at what is stored, so that it must be stored at once.
    #[inline]
    pub(super) fn is_watched(&mut self) -> bool {
        self.held.get_mut().is_some()
    }

    /// Whether tasks run to their end at once.
    #[inline]
    pub(super) fn is_inline(&mut self) -> bool {
        self.held.get_mut().as_ref().is_some_and(|held| held.is_inline())
    }

    /// Finds what tasks take that are to run now, each to its end where they do so at once.
    ///
    /// # Errors
    /// Which of them could not run.
    pub(super) fn stage(&mut self, needs: impl Iterator<Item = Needs>) -> Result<Stage, CannotRun> {
        if self.is_inline() { self.route.stage_inline(needs) } else { self.route.stage(needs) }
    }

    /// Whether there is what tasks take.
    ///
    /// # Errors
    /// Which of them could not run.
    pub(crate) fn can_run(&mut self, needs: impl Iterator<Item = Needs>) -> Result<(), CannotRun> {
        self.stage(needs).map(drop)
    }

    /// Holds hooks back that would run now; returns them where none is held back.
    #[inline]
    pub(super) fn hold(&mut self, hooks: Vec<Hook<W>>, kind: HookKind) -> Vec<Hook<W>> {
        match self.held.get_mut() {
            Some(held) if held.holds() => {
                held.hold(hooks, kind);
                Vec::new()
            }
            _ => hooks,
        }
    }

    /// Calls were stored.
    pub(super) fn note_stored(&mut self, calls: &[NewTask]) {
        if let Some(held) = self.held.get_mut() {
            held.stored(calls);
        }
    }

    /// What was stored is committed, behind the hooks; returns what runs it, where that is done at once.
    pub(super) fn committed(&mut self, stored: Vec<NewTask>, ending: Ending) -> Option<Drain<W>> {
        let held = self.held.get_mut().as_mut().filter(|_| ending == Ending::Committed);
        held.and_then(|held| held.committed(stored))
    }

    /// What was stored in the transaction that has just ended.
    pub(super) fn take_stored(&mut self) -> Vec<NewTask> {
        self.held.get_mut().as_mut().map(|held| held.take_stored()).unwrap_or_default()
    }

    /// What was stored was rolled back.
    #[inline]
    pub(super) fn rolled_back(&mut self) {
        if let Some(held) = self.held.get_mut() {
            held.rolled_back();
        }
    }

    /// Has a pool take it for the opposite of what it is: good for broken.
    pub(crate) fn seem_broken(&mut self, seems: bool) {
        self.held().seems_broken = seems;
    }

    /// Whether a pool is to take it for the opposite of what it is.
    pub(super) fn seems_broken(&mut self) -> bool {
        self.held.get_mut().as_ref().is_some_and(|held| held.seems_broken)
    }

    /// Shows the calls that wait, and those that are held back, with the depth that each belongs to.
    pub(crate) fn show_calls(&self, show: &mut dyn FnMut(Waits<'_, W>)) {
        self.held.view(|held| {
            for call in held.iter().flat_map(|held| held.calls()) {
                match call {
                    HeldCall::Hook(hook, kind) => show(Waits::Hook(hook, *kind, 0)),
                    HeldCall::Stored(call) => show(Waits::Stored(call, 0)),
                }
            }
        });
        self.queue.view(|waiting| {
            waiting.commit_hooks().for_each(|(depth, hook)| show(Waits::Hook(hook, HookKind::AfterCommit, depth)));
            waiting.rollback_hooks().for_each(|(depth, hook)| show(Waits::Hook(hook, HookKind::AfterRollback, depth)));
        });
        let depth = self.queue.depth();
        self.staging.inspect(|hook| show(Waits::Hook(hook, HookKind::AfterCommit, depth)));
        self.show_waiting_rows(show);
    }

    /// Shows the calls that are about to become rows.
    pub(crate) fn show_waiting_rows(&self, show: &mut dyn FnMut(Waits<'_, W>)) {
        self.queue.view(|waiting| {
            let calls = waiting.waiting_calls().filter_map(|(depth, call)| Some((call.as_ref().ok()?, depth)));
            calls.for_each(|(call, depth)| show(Waits::Stored(call, depth)));
        });
        let depth = self.queue.depth();
        self.staging.inspect_calls(|call| call.iter().for_each(|call| show(Waits::Stored(call, depth))));
    }
}

/// A test is told of what waits for the end of a transaction that never comes.
impl<W> Drop for Keeper<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.queue.view(|waiting| {
            for (_, hook) in waiting.commit_hooks() {
                crate::lost::note(hook.name(), hook.call_site(), NEVER_ENDED);
            }
            for (depth, call) in waiting.waiting_calls() {
                let hook = describe(call, depth);
                crate::lost::note(hook.task, hook.call_site, NEVER_ENDED);
            }
        });
        self.staging.inspect(|hook| crate::lost::note(hook.name(), hook.call_site(), NEVER_ENDED));
    }
}

const NEVER_ENDED: &str = "its connection was dropped before its transaction ended";
