//! The durable calls of an open transaction that were stored already: they count when it is known how
//! it ends.
//!
//! Must not know: how that is known.

use std::borrow::Cow;

use super::names::{ENQUEUED, REGISTERED, ROLLED_BACK};
use super::recorder::{Labels, group, is_on, record, shared};

/// Of which task and queue calls are.
pub(crate) type Kind<'c> = (&'static str, &'c Cow<'static, str>);

/// How many calls of each task and queue were stored at each depth.
#[derive(Debug, Default)]
pub(crate) struct Tally(Vec<(Group, u64)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    depth: usize,
    task: &'static str,
    queue: Cow<'static, str>,
}

impl Tally {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls were stored at this depth.
    pub(crate) fn stored<'c>(&mut self, depth: usize, calls: impl Iterator<Item = Kind<'c>>) {
        if is_on() {
            self.add(depth, calls);
        }
    }

    fn add<'c>(&mut self, depth: usize, calls: impl Iterator<Item = Kind<'c>>) {
        for (task, queue) in calls {
            // Without a copy of the queue's name for each call.
            let is_of = |(group, _): &(Group, u64)| group.depth == depth && group.task == task && group.queue == *queue;
            match self.0.iter().rposition(is_of) {
                Some(at) => self.0[at].1 += 1,
                None => self.0.push((Group { depth, task, queue: queue.clone() }, 1)),
            }
        }
    }

    /// The depth was released: what is of it belongs to the one around it.
    #[inline]
    pub(crate) fn released(&mut self, depth: usize) {
        for (group, _) in &mut self.0 {
            group.depth = group.depth.min(depth.saturating_sub(1));
        }
    }

    /// What is above that depth was committed.
    #[inline]
    pub(crate) fn committed(&mut self, depth: usize) {
        if !self.is_empty() {
            self.end(depth, &[REGISTERED, ENQUEUED]);
        }
    }

    /// What is above that depth was not, and these were not even stored.
    pub(crate) fn dropped<'c>(&mut self, depth: usize, calls: impl Iterator<Item = Kind<'c>>, rolled_back: bool) {
        if is_on() {
            self.add(usize::MAX, calls);
            self.end(depth, if rolled_back { &[REGISTERED, ROLLED_BACK] } else { &[REGISTERED] });
        }
    }

    fn end(&mut self, depth: usize, metrics: &[&'static str]) {
        let mut ended: Vec<((&'static str, Cow<'static, str>), u64)> = Vec::new();
        self.0.retain_mut(|(Group { depth: of, task, queue }, calls)| {
            let stays = *of <= depth;
            if !stays {
                *group(&mut ended, (*task, std::mem::take(queue))) += *calls;
            }
            stays
        });
        if ended.is_empty() {
            return;
        }
        record(|writer| {
            for ((task, queue), calls) in ended {
                let labels = Labels::durable(task, shared(queue));
                metrics.iter().for_each(|metric| writer.count(metric, &labels, calls));
            }
        });
    }
}
