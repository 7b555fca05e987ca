//! What hooks take beyond the connection, where the feature for it is off: there is neither a
//! dispatcher nor a state.
//!
//! Must not know: anything.

#![allow(unreachable_pub, reason = "named in hidden methods of public traits")]

use super::{CannotRun, Missing, Needs, States};
use crate::report::HookFailure;
use crate::task::Place;

/// A connection's dispatcher, if there were any.
#[derive(Debug)]
pub(crate) struct Route(());

impl Route {
    /// To nowhere.
    pub(crate) const fn none() -> Self {
        Self(())
    }

    /// Says which of the tasks could not run.
    pub(crate) fn stage(&self, needs: impl Iterator<Item = Needs>) -> Result<Stage, CannotRun> {
        for needs in needs {
            if needs.dispatched {
                return Err(needs.cannot_run(Missing::Runtime));
            }
            if let Some(state) = needs.states.iter().find(|state| !States::none().has(state)) {
                return Err(needs.cannot_run(Missing::State(state.name())));
            }
        }
        Ok(Stage::none())
    }

    /// Finds what the tasks take: nothing, without a dispatcher.
    pub(crate) fn stage_what_there_is(&self, _: impl Iterator<Item = Needs>) -> Stage {
        Stage::none()
    }

    pub(crate) fn tell(&self, _: &HookFailure) {}
}

/// Where hooks find what they take: without a dispatcher, nowhere.
#[derive(Debug)]
pub struct Stage(());

impl Stage {
    /// For hooks that take nothing.
    pub(crate) const fn none() -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn committed(&mut self) {}
}

impl Place for Stage {
    fn states(&self) -> &States {
        States::none()
    }
}
