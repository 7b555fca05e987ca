//! What a connection does with its tasks where there is no test kit: what it does with them anyway.
//!
//! Must not know: anything.

use super::keeper::Keeper;
use crate::dispatch::{CannotRun, Needs};
use crate::hook::Hook;
use crate::report::HookKind;

impl<W> Keeper<W> {
    #[inline(always)]
    #[allow(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn holds(&self) -> bool {
        false
    }

    pub(super) fn can_run(&self, needs: impl Iterator<Item = Needs>) -> Result<(), CannotRun> {
        self.route.stage(needs).map(drop)
    }

    #[inline(always)]
    #[allow(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn hold(&self, hooks: Vec<Hook<W>>, _: HookKind) -> Vec<Hook<W>> {
        hooks
    }
}
