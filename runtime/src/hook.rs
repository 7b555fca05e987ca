//! One hook: a captured task or closure, its type erased, small ones stored inline.
//!
//! Must not know: when hooks run or why.

use std::any::type_name;
use std::fmt::{self, Write};
use std::panic::Location;

use diesel::result::QueryResult;
use smallbox::{SmallBox, smallbox};

use crate::connection::{Deferrable, DeferredConnection};
use crate::panics::contain;
use crate::report::{FailureCause, HookKind, PendingHook};
use crate::task::{Task, TaskOutput};

/// What a hook holds without an allocation: arguments of 64 bytes (an id and two `String`s need 56) and the call site.
type Inline = [usize; 9];

/// A hook of a `DeferredConnection<C>`.
pub(crate) struct Hook<C>(SmallBox<dyn Body<C>, Inline>);

/// A hook that runs in the transaction, just before COMMIT: its error is the transaction's.
pub(crate) struct BeforeCommit<C> {
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) name: &'static str,
    pub(crate) run: Box<RunBeforeCommit<C>>,
}

type RunBeforeCommit<C> = dyn FnOnce(&mut DeferredConnection<C>) -> QueryResult<()> + Send;

impl<C> BeforeCommit<C> {
    pub(crate) fn new<F>(call_site: &'static Location<'static>, run: F) -> Self
    where
        F: FnOnce(&mut DeferredConnection<C>) -> QueryResult<()> + Send + 'static,
    {
        Self { call_site, name: type_name::<F>(), run: Box::new(run) }
    }

    pub(crate) fn describe(&self, depth: usize) -> PendingHook {
        let (task, call_site, kind) = (self.name, self.call_site, HookKind::BeforeCommit);
        PendingHook { task, arguments: String::new(), call_site, depth, kind }
    }
}

impl<C> fmt::Debug for BeforeCommit<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.call_site)
    }
}

/// What went wrong in a hook. Boxed, so that a hook that succeeds returns one word.
pub(crate) struct Failed {
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) cause: FailureCause,
}

trait Body<C>: Send {
    /// Runs it and contains its panic. Called once.
    fn run(&mut self, conn: &mut DeferredConnection<C>) -> Result<(), Box<Failed>>;
    fn name(&self) -> &'static str;
    fn call_site(&self) -> &'static Location<'static>;
    fn arguments(&self, f: &mut dyn Write) -> fmt::Result;
}

impl<C> Hook<C> {
    #[inline(always)]
    pub(crate) fn task<T: Task + Send + 'static>(task: T) -> Self {
        let body: SmallBox<dyn Body<C>, Inline> = if size_of::<Option<T>>() <= size_of::<Inline>() {
            smallbox!(Some(task))
        } else {
            // `SmallBox` could do this too, but moves the value twice more.
            smallbox!(Some(Box::new(task)))
        };
        Self(body)
    }

    pub(crate) fn closure<F, R>(call_site: &'static Location<'static>, closure: F) -> Self
    where
        F: FnOnce(&mut DeferredConnection<C>) -> R + Send + 'static,
        R: TaskOutput,
        C: Deferrable,
    {
        let body: SmallBox<dyn Body<C>, Inline> = smallbox!(Closure { call_site, closure: Some(closure) });
        Self(body)
    }

    /// Runs it where it is stored, which saves moving it. Run again, it does nothing.
    pub(crate) fn run(&mut self, conn: &mut DeferredConnection<C>) -> Result<(), Box<Failed>> {
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
        // A user's `Debug` may fail, or panic, where a report is made of a transaction that has ended: show what it wrote
        // before that.
        if contain(|| self.0.arguments(&mut arguments)) != Ok(Ok(())) {
            arguments.push('…');
        }
        PendingHook { task: self.name(), arguments, call_site: self.call_site(), depth, kind }
    }
}

impl<C> fmt::Debug for Hook<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.0.call_site())
    }
}

// `Option` because a trait object cannot be consumed by value out of its inline storage; the call site inside the task
// gives it a niche, so it costs nothing.
impl<C, T: Task + Send> Body<C> for Option<T> {
    fn run(&mut self, _: &mut DeferredConnection<C>) -> Result<(), Box<Failed>> {
        let Some(task) = self.take() else { return Ok(()) };
        let call_site = task.call_site();
        report(call_site, || task.run())
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
    C: Deferrable,
{
    fn run(&mut self, conn: &mut DeferredConnection<C>) -> Result<(), Box<Failed>> {
        let Some(closure) = self.closure.take() else { return Ok(()) };
        let call_site = self.call_site;
        let depth = conn.depth();
        let result = report(call_site, || closure(conn));
        // Only a closure is given the connection, so that only a closure can leave it in another state.
        let left_open = conn.close_above(depth);
        match result {
            Ok(()) if left_open => Err(Box::new(Failed { call_site, cause: FailureCause::LeftTransactionOpen })),
            result => result,
        }
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

/// Runs a hook's code, whose error or panic is reported and not passed on.
fn report<R: TaskOutput>(call_site: &'static Location<'static>, run: impl FnOnce() -> R) -> Result<(), Box<Failed>> {
    let cause = match contain(|| run().into_result()) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => FailureCause::Error(error),
        Err(message) => FailureCause::Panic(message),
    };
    Err(Box::new(Failed { call_site, cause }))
}

#[cfg(test)]
mod tests {
    use super::Hook;

    #[test]
    fn a_hook_is_its_inline_storage_and_a_fat_pointer() {
        assert_eq!(size_of::<Hook<()>>(), 88);
    }
}
