//! Metrics, where the feature for them is off: nothing is counted or timed.
//!
//! Must not know: anything.

#[inline(always)]
pub(crate) fn registered(_: impl Iterator<Item = &'static str>) {}

#[inline(always)]
pub(crate) fn dropped(_: impl Iterator<Item = &'static str>, _: bool) {}

#[inline(always)]
pub(crate) fn failed(_: &'static str) {}

#[inline(always)]
pub(crate) fn not_run(_: &'static str) {}

/// A point in time that nobody wants to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp;

impl Stamp {
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self
    }
}

/// Hooks that nobody times.
#[derive(Debug)]
pub(crate) struct HookRuns;

impl HookRuns {
    #[inline(always)]
    pub(crate) fn begin() -> Self {
        Self
    }

    #[inline(always)]
    pub(crate) fn ended(&mut self, _: impl FnOnce() -> Option<&'static str>) {}
}

/// A task that nobody times.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskRun;

#[cfg(feature = "tokio")]
impl TaskRun {
    #[inline(always)]
    pub(crate) fn begin(_: Stamp) -> Self {
        Self
    }

    #[inline(always)]
    pub(crate) fn ended(self, _: &'static str) {}
}

/// Of which task and queue calls are.
type Kind<'c> = (&'static str, &'c std::borrow::Cow<'static, str>);

/// Calls that nobody counts.
#[derive(Debug, Default)]
pub(crate) struct Tally(());

impl Tally {
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn stored<'c>(&mut self, _: usize, _: impl Iterator<Item = Kind<'c>>) {}

    #[inline(always)]
    pub(crate) fn released(&mut self, _: usize) {}

    #[inline(always)]
    pub(crate) fn committed(&mut self, _: usize) {}

    #[inline(always)]
    pub(crate) fn dropped<'c>(&mut self, _: usize, _: impl Iterator<Item = Kind<'c>>, _: bool) {}
}

#[cfg(feature = "worker")]
pub(crate) use self::worker::*;

#[cfg(feature = "worker")]
mod worker {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    /// How an attempt ended.
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum End {
        Well,
        Retried,
        Dead,
    }

    /// An attempt that nobody times.
    #[derive(Debug)]
    pub(crate) struct Begun;

    /// Attempts that nobody counts.
    #[derive(Debug, Default)]
    pub(crate) struct Attempts(());

    impl Attempts {
        #[inline(always)]
        pub(crate) fn begin(&self, _: usize, _: impl FnOnce() -> Option<&'static str>) -> Begun {
            Begun
        }

        #[inline(always)]
        pub(crate) fn ended(&self, _: Begun, _: End) {}

        #[inline(always)]
        pub(crate) fn record(&self, _: &[Arc<str>]) {}
    }

    #[inline(always)]
    pub(crate) fn claimed(_: &[Arc<str>], _: impl Iterator<Item = (usize, Option<&'static str>, i64)>) {}

    #[inline(always)]
    pub(crate) fn rescued(_: Option<&'static str>, _: End) {}

    #[inline(always)]
    pub(crate) fn describe_metrics() {}

    /// A worker never asks how much waits.
    #[derive(Debug)]
    pub(crate) struct Gauges;

    impl Gauges {
        #[inline(always)]
        pub(crate) fn new(_: Duration) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn next(&self) -> Option<Instant> {
            None
        }

        #[inline(always)]
        pub(crate) fn asked(&mut self, _: Instant) {}
    }

    #[inline(always)]
    pub(crate) fn waiting(_: &[Arc<str>], _: &[(i64, Option<i64>)]) {}
}
