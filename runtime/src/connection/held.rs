//! What a connection holds back for a test: calls that are captured in place of being run, and
//! whether tasks are run to their end at once.
//!
//! Must not know: what a test does with it.

use futures_util::future::BoxFuture;

use crate::durable::NewTask;
use crate::hook::Hook;
use crate::report::HookKind;

/// What becomes of the tasks of a transaction that has committed.
///
/// It is of one connection, and in no other place: tests that run at the same time have nothing in
/// common. A task that takes that connection from a `TestPool` finds the same mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// They run, as in production.
    #[default]
    Real,
    /// Nothing runs: calls are held on the connection, and calls of durable tasks are stored.
    Manual,
    /// Each runs to its end before the block returns: `async` and `blocking` tasks are waited for,
    /// and calls of durable tasks are taken from their rows.
    Inline,
}

/// What is held back on the connection `W`.
pub(crate) struct Held<W> {
    pub(crate) mode: Mode,
    /// The captures that are open, one in the other.
    captures: Vec<Vec<HeldCall<W>>>,
    /// What was called outside of a capture.
    calls: Vec<HeldCall<W>>,
    /// What was stored, and is not committed yet.
    stored: Vec<NewTask>,
    /// Runs the durable tasks that were stored.
    drain: Option<Drain<W>>,
    /// Whether a pool is to take it for the opposite of what it is.
    pub(super) seems_broken: bool,
    /// What was committed since, and is to be run.
    to_drain: Vec<NewTask>,
}

/// Runs durable tasks by the connection.
pub(crate) type Drain<W> = for<'c> fn(&'c mut W) -> BoxFuture<'c, ()>;

/// A call that was held back.
pub(crate) enum HeldCall<W> {
    /// It may still run.
    Hook(Hook<W>, HookKind),
    /// It is a row.
    Stored(NewTask),
}

impl<W> Default for Held<W> {
    fn default() -> Self {
        Self {
            mode: Mode::Real,
            captures: Vec::new(),
            calls: Vec::new(),
            stored: Vec::new(),
            drain: None,
            seems_broken: false,
            to_drain: Vec::new(),
        }
    }
}

impl<W> Held<W> {
    /// Has durable tasks run by this, where tasks run at once.
    pub(crate) fn set_mode(&mut self, mode: Mode, drain: Option<Drain<W>>) {
        (self.mode, self.drain) = (mode, drain);
    }

    /// Whether hooks are held back.
    pub(crate) fn holds(&self) -> bool {
        self.mode == Mode::Manual || !self.captures.is_empty()
    }

    /// Whether they run to their end at once.
    pub(crate) fn is_inline(&self) -> bool {
        self.mode == Mode::Inline && self.captures.is_empty()
    }

    pub(crate) fn begin_capture(&mut self) {
        self.captures.push(Vec::new());
    }

    pub(crate) fn end_capture(&mut self) -> Vec<HeldCall<W>> {
        self.captures.pop().unwrap_or_default()
    }

    /// What is held.
    pub(crate) fn calls(&self) -> &[HeldCall<W>] {
        &self.calls
    }

    /// Takes what is held.
    pub(crate) fn take_calls(&mut self) -> Vec<HeldCall<W>> {
        std::mem::take(&mut self.calls)
    }

    /// Where a call is held: in the innermost capture, or outside of any.
    fn innermost(&mut self) -> &mut Vec<HeldCall<W>> {
        self.captures.last_mut().unwrap_or(&mut self.calls)
    }

    /// Hooks that would run now.
    pub(super) fn hold(&mut self, hooks: impl IntoIterator<Item = Hook<W>>, kind: HookKind) {
        self.innermost().extend(hooks.into_iter().map(|hook| HeldCall::Hook(hook, kind)));
    }

    /// Calls were stored, in a transaction that may still be rolled back.
    pub(super) fn stored(&mut self, calls: &[NewTask]) {
        if self.mode != Mode::Real || !self.captures.is_empty() {
            self.stored.extend_from_slice(calls);
        }
    }

    pub(super) fn take_stored(&mut self) -> Vec<NewTask> {
        std::mem::take(&mut self.stored)
    }

    /// These were committed; returns what runs the tasks, where they run at once.
    pub(super) fn committed(&mut self, stored: Vec<NewTask>) -> Option<Drain<W>> {
        if stored.is_empty() {
            return None;
        }
        if self.is_inline() {
            self.to_drain.extend(stored);
            return self.drain;
        }
        if self.holds() {
            self.innermost().extend(stored.into_iter().map(HeldCall::Stored));
        }
        None
    }

    /// It was rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.stored.clear();
    }

    /// The calls that are to be run.
    pub(crate) fn take_to_drain(&mut self) -> Vec<NewTask> {
        std::mem::take(&mut self.to_drain)
    }
}
