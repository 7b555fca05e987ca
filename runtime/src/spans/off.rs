//! Spans, where the feature for them is off: there are none.
//!
//! Must not know: anything.

use std::fmt::Display;

#[inline(always)]
pub(crate) fn is_on() -> bool {
    false
}

/// What a call is part of: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origin(());

impl Origin {
    #[inline(always)]
    pub(crate) const fn none() -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn read(_: &str) -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn trace_parent(&self) -> Option<&str> {
        None
    }
}

#[inline(always)]
pub(crate) fn handed_over() -> Origin {
    Origin(())
}

/// No statement's span.
#[derive(Debug)]
pub(crate) struct SendSpan(());

impl SendSpan {
    #[inline(always)]
    pub(crate) fn begin(_: &Origin, _: Option<&str>, _: usize) -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn end<T, E>(self, _: &Result<T, E>) {}
}

/// No task's span.
#[derive(Debug)]
pub(crate) struct TaskSpan(());

impl TaskSpan {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn current() -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn of_task(_: &'static str, _: &Origin) -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn of_attempt(_: &'static str, _: &str, _: impl Display, _: u32, _: Option<&str>) -> Self {
        Self(())
    }

    #[inline(always)]
    pub(crate) fn run<R>(&self, run: impl FnOnce() -> R) -> R {
        run()
    }

    #[inline(always)]
    pub(crate) fn enter(&self) -> impl Sized + '_ {}

    #[inline(always)]
    pub(crate) fn of_future<F>(&self, future: F) -> F {
        future
    }

    #[inline(always)]
    pub(crate) fn failed(&self, _: &dyn Display) {}
}

/// The span that is current: none.
#[inline(always)]
pub(crate) fn current() -> Option<()> {
    None
}

/// What the calls of a connection are a part of: nothing.
#[derive(Debug, Default)]
pub(crate) struct Origins(());

/// No span was begun.
#[derive(Debug)]
pub(crate) struct Around(());

impl Around {
    #[inline(always)]
    pub(crate) const fn nothing() -> Self {
        Self(())
    }
}

/// A transaction that begins in no span.
#[derive(Debug)]
pub(crate) struct Begun(());

impl Begun {
    #[inline(always)]
    pub(crate) fn here() -> Self {
        Self(())
    }
}

/// A transaction's span: none.
#[derive(Debug)]
pub(crate) struct Started(());

impl Started {
    #[inline(always)]
    pub(crate) fn begin(_: Option<()>) -> Self {
        Self(())
    }
}

impl Origins {
    #[inline(always)]
    pub(crate) fn begin(&mut self, _: Begun) -> Around {
        Around(())
    }

    #[inline(always)]
    pub(crate) fn end(&mut self, around: Around) -> Around {
        around
    }

    #[inline(always)]
    pub(crate) fn known(&self, _: &Option<()>) -> Option<Origin> {
        None
    }

    #[inline(always)]
    pub(crate) fn find() -> Origin {
        Origin(())
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, _: Option<()>, _: Origin) {}

    #[inline(always)]
    pub(crate) fn is_transaction(&self, _: &Option<()>) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn start(&mut self, _: Started) -> Origin {
        Origin(())
    }

    #[inline(always)]
    pub(crate) fn transaction(&self) -> Option<Result<Origin, Option<()>>> {
        None
    }
}
