//! One hook: a captured task or closure, its type erased, small ones stored inline.
//!
//! Must not know: when hooks run or why.

use std::any::type_name;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use smallbox::{SmallBox, smallbox};

use crate::connection::DeferredConnection;
use crate::error::BoxError;
use crate::report::{HookKind, PendingHook};
use crate::task::{Task, TaskOutput};

/// Captures up to this size need no allocation: six words hold an id, a `String` or `Vec` and the call site, and make a
/// hook 64 bytes, one cache line.
type Inline = [usize; 6];

/// A hook of a `DeferredConnection<C>`.
pub(crate) struct Hook<C>(SmallBox<dyn Body<C>, Inline>);

trait Body<C>: Send {
    /// Runs it. Called once: a hook is consumed by [`Hook::run`].
    fn run(&mut self, conn: &mut DeferredConnection<C>) -> Result<(), BoxError>;
    fn name(&self) -> &'static str;
    fn call_site(&self) -> &'static Location<'static>;
    fn arguments(&self, f: &mut dyn Write) -> fmt::Result;
}

impl<C> Hook<C> {
    pub(crate) fn task<T: Task + Send + 'static>(task: T) -> Self {
        let body: SmallBox<dyn Body<C>, Inline> = smallbox!(Some(task));
        Self(body)
    }

    pub(crate) fn closure<F, R>(call_site: &'static Location<'static>, closure: F) -> Self
    where
        F: FnOnce(&mut DeferredConnection<C>) -> R + Send + 'static,
        R: TaskOutput,
    {
        let body: SmallBox<dyn Body<C>, Inline> = smallbox!(Closure { call_site, closure: Some(closure) });
        Self(body)
    }

    pub(crate) fn run(mut self, conn: &mut DeferredConnection<C>) -> Result<(), BoxError> {
        self.0.run(conn)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }

    pub(crate) fn call_site(&self) -> &'static Location<'static> {
        self.0.call_site()
    }

    pub(crate) fn describe(&self, kind: HookKind, depth: usize) -> PendingHook {
        let mut arguments = String::new();
        let written = catch_unwind(AssertUnwindSafe(|| self.0.arguments(&mut arguments)));
        if !matches!(written, Ok(Ok(()))) {
            // A user's `Debug` that fails or panics: show what it wrote before that.
            arguments.push('…');
        }
        PendingHook { task: self.name(), arguments, call_site: self.call_site(), depth, kind }
    }
}

impl<C> fmt::Debug for Hook<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.call_site())
    }
}

// `Option` because a trait object cannot be consumed by value out of its inline storage; the call site inside the task
// gives it a niche, so it costs nothing.
impl<C, T: Task + Send> Body<C> for Option<T> {
    fn run(&mut self, _: &mut DeferredConnection<C>) -> Result<(), BoxError> {
        self.take().map_or(Ok(()), |task| task.run().into_result())
    }

    fn name(&self) -> &'static str {
        T::NAME
    }

    fn call_site(&self) -> &'static Location<'static> {
        self.as_ref().map_or_else(Location::caller, Task::call_site)
    }

    fn arguments(&self, f: &mut dyn Write) -> fmt::Result {
        self.as_ref().map_or(Ok(()), |task| task.write_arguments(f))
    }
}

struct Closure<F> {
    call_site: &'static Location<'static>,
    closure: Option<F>,
}

impl<C, F, R> Body<C> for Closure<F>
where
    F: FnOnce(&mut DeferredConnection<C>) -> R + Send,
    R: TaskOutput,
{
    fn run(&mut self, conn: &mut DeferredConnection<C>) -> Result<(), BoxError> {
        self.closure.take().map_or(Ok(()), |closure| closure(conn).into_result())
    }

    fn name(&self) -> &'static str {
        type_name::<F>()
    }

    fn call_site(&self) -> &'static Location<'static> {
        self.call_site
    }

    fn arguments(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Hook;

    #[test]
    fn a_hook_is_one_cache_line() {
        assert_eq!(size_of::<Hook<()>>(), 64);
    }
}
