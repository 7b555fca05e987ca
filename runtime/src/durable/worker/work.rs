//! What a worker works on, as it says when it starts.
//!
//! Must not know: how it works.

use std::sync::Arc;

use crate::durable::id::TaskId;
use crate::durable::migrations::SCHEMA_VERSION;

/// What it works on, as it says at its start.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) worker: TaskId,
    /// The queues, with how many tasks of each run at a time.
    pub(super) queues: Vec<(Arc<str>, usize)>,
    /// How many durable tasks the program has.
    pub(super) tasks: usize,
    /// Those of them whose queue it does not work on, and those queues.
    pub(super) elsewhere: Vec<(&'static str, &'static str)>,
    /// The queues that no task of the program names.
    pub(super) unnamed: Vec<Arc<str>>,
}

/// How many names are listed in one event.
const LISTED: usize = 20;

impl Work {
    /// Says so.
    pub(super) fn tell(&self) {
        let queues = listed(self.queues.iter().map(|(queue, concurrency)| format!("{queue} ({concurrency})")));
        let elsewhere = listed(self.elsewhere.iter().map(|(task, queue)| format!("{task} ({queue})")));
        tracing::info!(
            worker = %self.worker,
            queues,
            tasks = self.tasks,
            elsewhere,
            version = env!("CARGO_PKG_VERSION"),
            tables = SCHEMA_VERSION,
            "a worker of durable tasks starts; `elsewhere` are tasks of this program whose queues it does not work on"
        );
        for queue in &self.unnamed {
            tracing::warn!(
                queue = &**queue,
                "no durable task of this program names this queue of its worker: it has nothing to do unless calls name it \
                 with `.queue(…)`, or the tasks are of a crate that this program is not linked with"
            );
        }
    }
}

/// Names as a list, with how many more there are.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let mut list = names.take(LISTED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    list
}
