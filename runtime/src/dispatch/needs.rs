//! What a task takes to run beyond the connection.
//!
//! Must not know: how tasks are run.

use std::panic::Location;

use super::cannot_run::{CannotRun, Missing};
use super::states::Required;
use crate::task::{Start, Task};

/// What one waiting task takes.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub(crate) task: &'static str,
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) dispatched: bool,
    pub(crate) states: &'static [Required],
}

impl Needs {
    /// Whether a task of these types takes anything.
    pub(crate) const fn any<T: Task, S: Start<T>>() -> bool {
        S::DISPATCHED || !T::STATES.is_empty()
    }

    /// What a call of this task takes, if anything.
    pub(crate) fn of<T: Task, S: Start<T>>(call_site: &'static Location<'static>) -> Option<Self> {
        Self::any::<T, S>().then_some(Self { task: T::NAME, call_site, dispatched: S::DISPATCHED, states: T::STATES })
    }

    pub(crate) fn cannot_run(&self, missing: Missing) -> CannotRun {
        CannotRun { task: self.task, call_site: self.call_site, missing }
    }
}
