//! One hook: a captured task or closure, its type erased, small ones stored inline.
//!
//! Must not know: when hooks run or why, or what a connection is.

use std::fmt::{self, Write};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;

use diesel::result::QueryResult;
use smallbox::{SmallBox, smallbox};

use crate::dispatch::{Needs, Stage};
use crate::error::BoxError;
use crate::panics::contain;
use crate::report::{FailureCause, HookKind, PendingHook};
use crate::spans::{Origin, TaskSpan};
#[cfg(feature = "opentelemetry")]
use crate::spans::{hand_over, is_on};
use crate::task::call_site::Waits;
use crate::task::{Start, Taken, Task};

/// What a hook holds without an allocation: arguments of 64 bytes (an id and two `String`s need 56),
/// the call site, and where there are spans what the call is part of.
pub(crate) type Inline = [usize; 9 + size_of::<Origin>() / size_of::<usize>()];

/// A hook of the deferring connection `W`. Of one field, or it would be built elsewhere and moved.
pub(crate) struct Hook<W>(SmallBox<dyn Body<W>, Inline>);

/// What is done, or is to be awaited: only a closure of an asynchronous connection is.
pub(crate) enum Step<'a, T> {
    Done(T),
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "nothing to await without asynchronous connections"))]
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

/// How a hook ended. Boxed, so that one that succeeds returns one word.
pub(crate) type Outcome = Result<(), Box<Failed>>;

/// What went wrong in a hook.
pub(crate) struct Failed {
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) cause: FailureCause,
    /// In which it ran, and is told of.
    pub(crate) span: TaskSpan,
}

impl Failed {
    /// In no span.
    pub(crate) fn new(call_site: &'static Location<'static>, cause: FailureCause) -> Self {
        Self { call_site, cause, span: TaskSpan::none() }
    }
}

/// A hook that runs in the transaction, just before COMMIT: its error is the transaction's.
pub(crate) struct BeforeCommit<W> {
    pub(crate) name: &'static str,
    pub(crate) call_site: &'static Location<'static>,
    pub(crate) run: Box<RunBeforeCommit<W>>,
}

type RunBeforeCommit<W> = dyn for<'a> FnOnce(&'a mut W) -> Step<'a, QueryResult<()>> + Send;

impl<W> BeforeCommit<W> {
    pub(crate) fn describe(&self, depth: usize) -> PendingHook {
        let (task, call_site, kind) = (self.name, self.call_site, HookKind::BeforeCommit);
        PendingHook { task, arguments: String::new(), call_site, depth, kind }
    }
}

impl<W> fmt::Debug for BeforeCommit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.call_site)
    }
}

/// What a [`Hook`] stores: a task, or a closure of the connection's kind.
///
/// Few methods, because each is compiled for each task.
pub(crate) trait Body<W>: Send {
    /// Runs it and contains its panic. Run again, it does nothing.
    fn run<'a>(&'a mut self, conn: &'a mut W, stage: &'a Stage, kind: HookKind) -> Step<'a, Outcome>;
    fn facts(&self) -> Facts;

    /// Those of a task; a closure has none.
    fn arguments(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }

    /// What its call is part of; of a hook that is no call of a user's, there is none.
    #[cfg(feature = "opentelemetry")]
    fn origin(&mut self) -> Option<&mut Origin> {
        None
    }

    /// The call of a task, for a test that compares it.
    #[cfg(feature = "testing")]
    fn call(&self) -> Option<&dyn std::any::Any> {
        None
    }
}

/// What is known of a hook before it runs.
pub(crate) struct Facts {
    pub(crate) name: &'static str,
    pub(crate) call_site: &'static Location<'static>,
    /// What it takes to run it, where that is more than the connection.
    pub(crate) needs: Option<Needs>,
    /// Whether it is given the connection.
    pub(crate) wants_connection: bool,
}

/// Nothing in it is pinned: a body that is to be is in a box of its own.
impl<W> Unpin for Hook<W> {}

impl<W> Hook<W> {
    #[inline(always)]
    pub(crate) fn task<T: Task + Send + 'static, S: Start<T>>(task: Taken<T>, start: S) -> Self {
        let body: SmallBox<dyn Body<W>, Inline> = if const { size_of::<Call<T, S>>() <= size_of::<Inline>() } {
            smallbox!(Call(Waits::new(task, start), Origin::none()))
        } else {
            // `SmallBox` could do this too, but moves the value twice more.
            smallbox!(Box::new(Call(Waits::new(task, start), Origin::none())))
        };
        Self(body)
    }

    pub(crate) fn closure<B: Body<W> + 'static>(body: B) -> Self {
        let body: SmallBox<dyn Body<W>, Inline> = smallbox!(body);
        Self(body)
    }

    /// Its call was a part of that.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn be_part_of(&mut self, origin: Origin) {
        if let Some(place) = self.0.origin() {
            *place = origin;
        }
    }

    #[cfg(not(feature = "opentelemetry"))]
    pub(crate) fn be_part_of(&mut self, _: Origin) {}

    /// Runs it where it is stored, which saves moving it.
    #[inline]
    pub(crate) fn run<'a>(&'a mut self, conn: &'a mut W, stage: &'a Stage, kind: HookKind) -> Step<'a, Outcome> {
        #[cfg(feature = "opentelemetry")]
        if is_on() {
            return self.run_in_a_span(conn, stage, kind);
        }
        self.0.run(conn, stage, kind)
    }

    #[cfg(feature = "opentelemetry")]
    #[cold]
    fn run_in_a_span<'a>(&'a mut self, conn: &'a mut W, stage: &'a Stage, kind: HookKind) -> Step<'a, Outcome> {
        let origin = self.0.origin().map(std::mem::take).unwrap_or_default();
        if origin.is_none() {
            return self.0.run(conn, stage, kind);
        }
        if self.is_dispatched() {
            return hand_over(&origin, || self.0.run(conn, stage, kind));
        }
        let span = TaskSpan::of_task(self.name(), &origin);
        match span.run(|| self.0.run(conn, stage, kind)) {
            Step::Done(outcome) => Step::Done(ended_in(span, outcome)),
            Step::Later(future) => Step::Later(Box::pin(async move {
                let outcome = span.of_future(future).await;
                ended_in(span, outcome)
            })),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.facts().name
    }

    pub(crate) fn call_site(&self) -> &'static Location<'static> {
        self.0.facts().call_site
    }

    pub(crate) fn needs(&self) -> Option<Needs> {
        self.0.facts().needs
    }

    /// Whether a dispatcher runs it.
    pub(crate) fn is_dispatched(&self) -> bool {
        self.needs().is_some_and(|needs| needs.dispatched)
    }

    pub(crate) fn wants_connection(&self) -> bool {
        self.0.facts().wants_connection
    }

    #[cfg(feature = "testing")]
    pub(crate) fn call(&self) -> Option<&dyn std::any::Any> {
        self.0.call()
    }

    pub(crate) fn describe(&self, kind: HookKind, depth: usize) -> PendingHook {
        let mut arguments = String::new();
        // A user's `Debug` may fail, or panic, where a report is made of a transaction that has
        // ended: show what it wrote before that.
        if contain(|| self.0.arguments(&mut arguments)) != Ok(Ok(())) {
            arguments.push('…');
        }
        let Facts { name, call_site, .. } = self.0.facts();
        PendingHook { task: name, arguments, call_site, depth, kind }
    }
}

impl<W> fmt::Debug for Hook<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { name, call_site, .. } = self.0.facts();
        write!(f, "{name} at {call_site}")
    }
}

/// A task's call, until it runs: a trait object cannot be consumed by value out of its inline
/// storage.
///
/// All of this is compiled once for each task of a program. So it uses few generic helpers, and
/// what depends on the types alone it asks in constants: a build without optimisation then leaves
/// out the other branch.
struct Call<T: Task, S>(Waits<T, S>, Origin);

impl<W, T, S> Body<W> for Call<T, S>
where
    T: Task + Send + 'static,
    S: Start<T>,
{
    fn run<'a>(&'a mut self, _: &'a mut W, stage: &'a Stage, kind: HookKind) -> Step<'a, Outcome> {
        let call_site = self.0.call_site();
        Step::Done(contained(call_site, &mut || match self.0.take() {
            Some((task, start)) => start.run(task, stage, kind),
            None => Ok(()),
        }))
    }

    fn facts(&self) -> Facts {
        let call_site = self.0.call_site();
        Facts { name: T::NAME, call_site, needs: Needs::of::<T, S>(call_site), wants_connection: false }
    }

    fn arguments(&self, f: &mut dyn Write) -> fmt::Result {
        match self.0.call() {
            Some(task) => task.write_arguments(f),
            None => Ok(()),
        }
    }

    #[cfg(feature = "opentelemetry")]
    fn origin(&mut self) -> Option<&mut Origin> {
        Some(&mut self.1)
    }

    #[cfg(feature = "testing")]
    fn call(&self) -> Option<&dyn std::any::Any> {
        self.0.call().map(|task| task as &dyn std::any::Any)
    }
}

impl<W, B: Body<W>> Body<W> for Box<B> {
    fn run<'a>(&'a mut self, conn: &'a mut W, stage: &'a Stage, kind: HookKind) -> Step<'a, Outcome> {
        (**self).run(conn, stage, kind)
    }

    fn facts(&self) -> Facts {
        Body::<W>::facts(&**self)
    }

    fn arguments(&self, f: &mut dyn Write) -> fmt::Result {
        Body::<W>::arguments(&**self, f)
    }

    #[cfg(feature = "opentelemetry")]
    fn origin(&mut self) -> Option<&mut Origin> {
        Body::<W>::origin(&mut **self)
    }

    #[cfg(feature = "testing")]
    fn call(&self) -> Option<&dyn std::any::Any> {
        Body::<W>::call(&**self)
    }
}

/// Runs a task and contains its panic. Not generic, because it would be compiled for each task.
#[inline]
fn contained(call_site: &'static Location<'static>, run: &mut dyn FnMut() -> Result<(), BoxError>) -> Outcome {
    outcome(call_site, contain(run))
}

/// What is reported of a hook's error or panic.
#[inline]
pub(crate) fn outcome(call_site: &'static Location<'static>, result: Result<Result<(), BoxError>, String>) -> Outcome {
    let cause = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => FailureCause::Error(error),
        Err(message) => FailureCause::Panic(message),
    };
    Err(Box::new(Failed::new(call_site, cause)))
}

/// A span of a task's that ends like this.
#[cfg(feature = "opentelemetry")]
fn ended_in(span: TaskSpan, outcome: Outcome) -> Outcome {
    outcome.map_err(|mut failed| {
        span.failed(&failed.cause);
        failed.span = span;
        failed
    })
}

#[cfg(test)]
mod tests {
    use super::Hook;
    use crate::spans::Origin;

    #[test]
    fn a_hook_is_its_inline_storage_and_a_fat_pointer() {
        // With spans, one word more.
        assert_eq!(size_of::<Hook<()>>(), 88 + size_of::<Origin>());
        assert!(size_of::<Origin>() <= size_of::<usize>());
    }
}
