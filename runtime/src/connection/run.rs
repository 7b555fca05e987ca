//! What becomes of hooks when their transaction has ended: they run, vanish, or are reported as lost.
//!
//! A captured value's `Drop` is code of a user's too: where hooks are dropped its panic is contained and reported, because
//! the transaction has ended by then and nothing can be refused any more.
//!
//! Must not know: how a transaction ends.

use std::panic::Location;

use super::Deferrable;
use super::blocking::{DeferredConnection, Doom};
use crate::hook::{BeforeCommit, Failed, Hook};
use crate::panics::contain;
use crate::queue::Dropped;
use crate::report::{FailureCause, HookFailure, HookKind};

const UNKNOWN_END: &str = "how its transaction ended is not known";

impl<C: Deferrable> DeferredConnection<C> {
    /// The outermost transaction, the one above `depth`, has committed: runs what waited for that.
    #[inline]
    pub(super) fn run_committed(&mut self, depth: usize) {
        if !self.queue.close_if_empty(depth) {
            self.run_waiting(depth);
        }
    }

    fn run_waiting(&mut self, depth: usize) {
        let hooks = self.queue.take_committed(depth);
        // Closed before a hook runs, which may open transactions of its own.
        let spent = self.queue.close_committed(depth);
        let buffer = self.run_hooks(hooks, HookKind::AfterCommit);
        self.queue.recycle(buffer);
        if !spent.is_empty() {
            self.bury(spent.into_iter().map(|(_, hook)| hook), HookKind::AfterRollback);
        }
    }

    /// Runs hooks one after the other; gives the emptied buffer back.
    fn run_hooks(&mut self, mut hooks: Vec<Hook<C>>, kind: HookKind) -> Vec<Hook<C>> {
        self.running += 1;
        let mut run = 0;
        for hook in &mut hooks {
            run += 1;
            self.report.ran += 1;
            if let Err(failed) = hook.run(self) {
                let Failed { call_site, cause } = *failed;
                self.report.fail(HookFailure { task: hook.name(), call_site, kind, cause });
                if self.stop_at_first_failure {
                    break;
                }
            }
        }
        if run < hooks.len() {
            let depth = self.depth() + 1;
            let not_run = hooks.split_off(run);
            self.report.lose(not_run.iter().map(|hook| hook.describe(kind, depth)), "one before it failed");
            self.bury(not_run, kind);
        }
        self.running -= 1;
        // What has run has nothing left to drop.
        hooks.clear();
        hooks
    }

    /// What was registered above `depth` is over: rolled back, unless it is known to have ended otherwise.
    pub(super) fn drop_above(&mut self, depth: usize, doom: Option<Doom>) {
        match doom {
            Some(Doom::EndedEarly) => self.abandon(depth),
            Some(Doom::RolledBack) | None => self.discard(depth),
        }
    }

    /// What was registered above `depth` was rolled back: commit hooks vanish, rollback hooks run.
    pub(super) fn discard(&mut self, depth: usize) {
        let Dropped { commit, rollback, before } = self.queue().rollback_to(depth);
        self.bury(commit, HookKind::AfterCommit);
        self.bury_before_commit(before);
        if !rollback.is_empty() {
            // A hook may open transactions of its own; whether this one is worth another attempt is not about those.
            let conflict = self.watch.saw_conflict();
            self.run_hooks(rollback, HookKind::AfterRollback);
            self.watch.set_conflict(conflict);
        }
    }

    /// What was registered above `depth` is gone, but nobody knows how that transaction ended: nothing runs, all is
    /// reported.
    pub(super) fn abandon(&mut self, depth: usize) {
        // It may have been committed: it is not to be run again.
        self.watch.set_conflict(false);
        let Dropped { commit, rollback, before } = self.queue().rollback_to(depth);
        self.report.lose(commit.iter().map(|hook| hook.describe(HookKind::AfterCommit, depth + 1)), UNKNOWN_END);
        self.report.lose(rollback.iter().map(|hook| hook.describe(HookKind::AfterRollback, depth + 1)), UNKNOWN_END);
        self.bury(commit, HookKind::AfterCommit);
        self.bury(rollback, HookKind::AfterRollback);
        self.bury_before_commit(before);
    }

    /// What is left above `depth` belongs to transactions that ended behind our back.
    #[inline]
    pub(super) fn abandon_leftovers(&mut self, depth: usize) {
        if self.queue().depth() > depth {
            self.abandon(depth);
        }
    }

    /// Tasks that a block registered after its transaction was ended by hand. They belong to nothing that can be committed,
    /// and must not wait for the next transaction.
    #[cold]
    pub(super) fn lose_strays(&mut self, strays: Vec<Hook<C>>) {
        let lost = strays.iter().map(|hook| hook.describe(HookKind::AfterCommit, 1));
        self.report.lose(lost, "its transaction had ended before it was called");
        self.bury(strays, HookKind::AfterCommit);
    }

    /// Drops hooks that will not run.
    fn bury(&mut self, hooks: impl IntoIterator<Item = Hook<C>>, kind: HookKind) {
        for hook in hooks {
            self.bury_one(hook.name(), hook.call_site(), kind, hook);
        }
    }

    /// Drops before-commit hooks of a COMMIT that will not be.
    pub(super) fn bury_before_commit(&mut self, hooks: impl IntoIterator<Item = BeforeCommit<C>>) {
        for hook in hooks {
            self.bury_one(hook.name, hook.call_site, HookKind::BeforeCommit, hook);
        }
    }

    fn bury_one<H>(&mut self, task: &'static str, call_site: &'static Location<'static>, kind: HookKind, hook: H) {
        if let Err(message) = contain(|| drop(hook)) {
            self.report.fail(HookFailure { task, call_site, kind, cause: FailureCause::Panic(message) });
        }
    }
}
