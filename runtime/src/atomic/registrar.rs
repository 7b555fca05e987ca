//! Where the statements of a block register their tasks.
//!
//! Must not know: what a task is, or how hooks are stored.

#[cfg(feature = "durable")]
use crate::connection::NewCall;
use crate::connection::{DeferredConnection, Deferring, Staging};
use crate::hook::Hook;

/// Where the statements of one block on the deferring connection `W` register their tasks.
#[derive(Debug)]
pub struct Registrar<W>(pub(crate) Staging<W>);

impl<W: Deferring> Registrar<W> {
    #[inline(always)]
    pub(crate) fn register(&self, hook: Hook<W>, needs: bool) {
        self.0.push(hook, needs);
    }

    #[cfg(feature = "durable")]
    pub(crate) fn store(&self, call: NewCall) {
        self.0.push_call(call);
    }
}

/// That of a block that is not async. Short, because the compiler shows the line that asks for the
/// block's closure.
pub(super) type BlockRegistrar<C> = Registrar<DeferredConnection<C>>;
