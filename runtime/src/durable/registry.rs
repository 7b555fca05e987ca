//! All durable tasks of the program, found at link time.
//!
//! Must not know: the table, or how tasks are taken from it.

use super::call::{Defaults, Durable};
use super::payload::{Decoder, Undecodable};
use super::running::Running;
use crate::dispatch::{Required, States};
use crate::task::Taken;

/// A durable task, as its attribute registers it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registered {
    pub(crate) name: &'static str,
    /// What it was called in older versions of the program.
    pub(crate) was: &'static [&'static str],
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) states: &'static [Required],
    pub(crate) defaults: Defaults,
    start: fn(&Decoder<'_>, &States) -> Result<Option<Running>, Undecodable>,
}

inventory::collect!(Registered);

impl Registered {
    /// This task, which stands there.
    pub const fn new<T: Durable>(file: &'static str, line: u32) -> Self {
        Self { name: T::NAME, was: T::WAS, file, line, states: T::STATES, defaults: T::DEFAULTS, start: start::<T> }
    }

    /// One of this name, for a service that runs it without its body.
    #[cfg(all(test, feature = "worker"))]
    pub(crate) const fn named(name: &'static str) -> Self {
        let start = |_: &Decoder<'_>, _: &States| Ok(None);
        Self { name, was: &[], file: file!(), line: line!(), states: &[], defaults: Defaults::STANDARD, start }
    }

    /// The body of a stored call; `None` where it lacks a state.
    ///
    /// # Errors
    /// Where the payload is not one of this task's.
    pub(crate) fn start(&self, payload: &str, states: &States) -> Result<Option<Running>, Undecodable> {
        (self.start)(&Decoder::new(payload)?, states)
    }
}

/// The durable tasks, by each name that they have or had.
#[cfg(feature = "worker")]
#[derive(Debug)]
pub(crate) struct Registry(std::collections::HashMap<&'static str, &'static Registered>);

#[cfg(feature = "worker")]
impl Registry {
    /// Finds those that are `wanted`.
    ///
    /// # Errors
    /// A name that two of them have or had: which of them a row means nobody could say.
    pub(crate) fn collect(
        wanted: impl Fn(&Registered) -> bool,
    ) -> Result<Self, (&'static str, [&'static Registered; 2])> {
        let mut tasks = std::collections::HashMap::new();
        for task in inventory::iter::<Registered>.into_iter().filter(|task| wanted(task)) {
            // What it is called now it may say to have been called, too.
            let was = task.was.iter().filter(|was| **was != task.name);
            for name in was.chain([&task.name]) {
                if let Some(other) = tasks.insert(*name, task) {
                    let mut both = [other, task];
                    // In link order otherwise, which is any.
                    both.sort_by_key(|task| (task.file, task.line));
                    return Err((name, both));
                }
            }
        }
        Ok(Self(tasks))
    }

    /// Of these.
    #[cfg(test)]
    pub(crate) fn of(tasks: &'static [Registered]) -> Self {
        Self(tasks.iter().map(|task| (task.name, task)).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'static Registered> {
        self.0.get(name).copied()
    }

    /// Each of them once, in the order of their names.
    pub(crate) fn all(&self) -> Vec<&'static Registered> {
        let mut all: Vec<_> = self.0.iter().filter(|(name, task)| **name == task.name).map(|(_, task)| *task).collect();
        all.sort_by_key(|task| task.name);
        all
    }

    /// All names that rows may have.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

fn start<T: Durable>(payload: &Decoder<'_>, states: &States) -> Result<Option<Running>, Undecodable> {
    let stored = T::stored::<()>();
    Ok((stored.start)(Taken::new((stored.decode)(payload)?), states))
}
