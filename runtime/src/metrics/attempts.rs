//! The attempts of a worker: what was taken, and how it ended.
//!
//! Must not know: the table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::names::{CLAIMED, DEAD, FAILED, RAN, RETRIED, RUN_TIME, START_DELAY};
use super::recorder::{Labels, group, is_on, record};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Otherwise than by a failure.
    Well,
    /// It failed, and is tried again.
    Retried,
    /// It failed, and was given up.
    Dead,
}

/// An attempt that has begun; nothing where nobody wants to know.
#[derive(Debug)]
pub(crate) struct Begun(Option<(usize, &'static str, Instant)>);

/// Those that have ended since they were last recorded: by lane and task.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<Vec<((usize, &'static str), Ended)>>);

#[derive(Debug, Default)]
struct Ended {
    retried: u64,
    dead: u64,
    took: Vec<Duration>,
}

impl Attempts {
    /// One of this lane begins; `task` says which task it is of, where the program has that.
    #[inline]
    pub(crate) fn begin(&self, lane: usize, task: impl FnOnce() -> Option<&'static str>) -> Begun {
        Begun(if is_on() { task().map(|task| (lane, task, Instant::now())) } else { None })
    }

    /// It has ended.
    #[inline]
    pub(crate) fn ended(&self, Begun(begun): Begun, end: End) {
        let Some((lane, task, begin)) = begun else { return };
        let took = begin.elapsed();
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = group(&mut groups, (lane, task));
        ended.took.push(took);
        match end {
            End::Well => {}
            End::Retried => ended.retried += 1,
            End::Dead => ended.dead += 1,
        }
    }

    /// Records what has ended. Lanes are queues, by their places.
    pub(crate) fn record(&self, queues: &[Arc<str>]) {
        let groups = {
            let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if groups.is_empty() {
                return;
            }
            std::mem::take(&mut *groups)
        };
        record(|writer| {
            for ((lane, task), Ended { retried, dead, took }) in groups {
                let Some(queue) = queues.get(lane) else { continue };
                let labels = Labels::durable(task, Arc::clone(queue));
                writer.count(RAN, &labels, took.len() as u64);
                writer.count(FAILED, &labels, retried + dead);
                writer.count(RETRIED, &labels, retried);
                writer.count(DEAD, &labels, dead);
                writer.times(RUN_TIME, &labels, took.into_iter());
            }
        });
    }
}

/// These were taken: their lanes, their tasks where the program has them, and for how many
/// milliseconds they had been due.
pub(crate) fn claimed(queues: &[Arc<str>], calls: impl Iterator<Item = (usize, Option<&'static str>, i64)>) {
    if !is_on() {
        return;
    }
    let mut groups: Vec<((usize, &'static str), Vec<i64>)> = Vec::new();
    for (lane, task, delay_ms) in calls {
        if let Some(task) = task {
            group(&mut groups, (lane, task)).push(delay_ms);
        }
    }
    if groups.is_empty() {
        return;
    }
    record(|writer| {
        for ((lane, task), delays_ms) in groups {
            let Some(queue) = queues.get(lane) else { continue };
            let labels = Labels::durable(task, Arc::clone(queue));
            writer.count(CLAIMED, &labels, delays_ms.len() as u64);
            // The clock of the database may have gone back.
            let delays = delays_ms.into_iter().map(|ms| Duration::from_millis(ms.try_into().unwrap_or(0)));
            writer.times(START_DELAY, &labels, delays);
        }
    });
}

/// An attempt of this task failed with its worker, and another one has found that. Of its queue
/// nothing is known.
pub(crate) fn rescued(task: Option<&'static str>, end: End) {
    let Some(task) = task.filter(|_| is_on()) else { return };
    record(|writer| {
        let labels = Labels::task(task);
        writer.count(FAILED, &labels, 1);
        writer.count(if end == End::Dead { DEAD } else { RETRIED }, &labels, 1);
    });
}
