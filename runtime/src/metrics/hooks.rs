//! Hooks and in-process tasks: how many there were, and how long they waited and ran.
//!
//! Must not know: what becomes of a hook.

use std::time::{Duration, Instant};

use super::names::{FAILED, NOT_RUN, RAN, REGISTERED, ROLLED_BACK, RUN_TIME, START_DELAY};
use super::recorder::{Labels, group, is_on, record};

/// Hooks whose transaction has ended well, or that run because it has not.
#[inline]
pub(crate) fn registered(names: impl Iterator<Item = &'static str>) {
    if is_on() {
        count(names, &[REGISTERED]);
    }
}

/// Hooks that are dropped, because their transaction was rolled back or for another reason.
#[inline]
pub(crate) fn dropped(names: impl Iterator<Item = &'static str>, rolled_back: bool) {
    if is_on() {
        count(names, if rolled_back { &[REGISTERED, ROLLED_BACK] } else { &[REGISTERED] });
    }
}

fn count(names: impl Iterator<Item = &'static str>, metrics: &[&'static str]) {
    let mut groups = Vec::new();
    for name in names {
        *group::<_, u64>(&mut groups, name) += 1;
    }
    if groups.is_empty() {
        return;
    }
    record(|writer| {
        for (name, hooks) in groups {
            let labels = Labels::task(name);
            metrics.iter().for_each(|metric| writer.count(metric, &labels, hooks));
        }
    });
}

/// One that failed.
#[cold]
pub(crate) fn failed(task: &'static str) {
    one(FAILED, task);
}

/// One that did not run although nothing is known to have rolled it back.
#[cold]
pub(crate) fn not_run(task: &'static str) {
    one(NOT_RUN, task);
}

fn one(metric: &'static str, task: &'static str) {
    if is_on() {
        record(|writer| writer.count(metric, &Labels::task(task), 1));
    }
}

/// A point in time; nothing where nobody wants to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(Option<Instant>);

impl Stamp {
    /// This moment.
    #[inline]
    pub(crate) fn now() -> Self {
        Self(is_on().then(Instant::now))
    }
}

/// The hooks of one list, while they run one after the other. What they took is recorded at its end.
#[derive(Debug)]
pub(crate) struct HookRuns(Option<Box<Timed>>);

#[derive(Debug)]
struct Timed {
    /// When the first one could begin.
    begin: Instant,
    /// When the last one ended.
    last: Instant,
    runs: Vec<(&'static str, Vec<Run>)>,
}

/// How long it waited, and how long it took.
type Run = (Duration, Duration);

impl HookRuns {
    /// They are about to run.
    #[inline]
    pub(crate) fn begin() -> Self {
        Self(is_on().then(|| {
            let begin = Instant::now();
            Box::new(Timed { begin, last: begin, runs: Vec::new() })
        }))
    }

    /// One has ended; `None`: it was handed over, and runs elsewhere.
    #[inline]
    pub(crate) fn ended(&mut self, name: impl FnOnce() -> Option<&'static str>) {
        if let Some(timed) = &mut self.0 {
            timed.ended(name());
        }
    }
}

impl Timed {
    fn ended(&mut self, name: Option<&'static str>) {
        let (begun, now) = (self.last, Instant::now());
        self.last = now;
        if let Some(name) = name {
            group(&mut self.runs, name).push((begun.duration_since(self.begin), now.duration_since(begun)));
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.runs.is_empty() {
            record_runs(&self.runs);
        }
    }
}

fn record_runs(runs: &[(&'static str, Vec<Run>)]) {
    record(|writer| {
        for (name, runs) in runs {
            let labels = Labels::task(name);
            writer.count(RAN, &labels, runs.len() as u64);
            writer.times(START_DELAY, &labels, runs.iter().map(|(delay, _)| *delay));
            writer.times(RUN_TIME, &labels, runs.iter().map(|(_, took)| *took));
        }
    });
}

/// A task that a dispatcher runs.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskRun(Option<(Duration, Instant)>);

#[cfg(feature = "tokio")]
impl TaskRun {
    /// It begins, behind that commit.
    #[inline]
    pub(crate) fn begin(committed: Stamp) -> Self {
        Self(committed.0.map(|committed| {
            let now = Instant::now();
            (now.duration_since(committed), now)
        }))
    }

    /// It has ended, whichever way.
    #[inline]
    pub(crate) fn ended(self, task: &'static str) {
        if let Some((delay, begun)) = self.0 {
            record_runs(&[(task, vec![(delay, begun.elapsed())])]);
        }
    }
}
