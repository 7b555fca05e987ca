//! The program's recorder: whether there is one, and how it is given values.
//!
//! Must not know: which values.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::metrics::{Key, Label, Level, Metadata, Recorder, SharedString, with_recorder};

use super::names::{QUEUE, TASK};
use crate::panics::contain;

/// Whether the program has installed a recorder. The one that stands in for it otherwise has no
/// size.
#[inline]
pub(super) fn is_on() -> bool {
    with_recorder(|recorder| size_of_val(recorder) > 0)
}

/// Has values written, all by one look for the recorder.
pub(super) fn record(write: impl FnOnce(&Writer<'_>)) {
    let begin = Instant::now();
    let _ = contain(|| with_recorder(|recorder| write(&Writer(recorder))));
    let took = begin.elapsed();
    if took >= LONG {
        tell_of_long(took);
    }
}

/// So long a recorder may take that notes values in memory, on a machine that is busy.
const LONG: Duration = Duration::from_secs(1);

/// How often it is told that one took longer.
const TOLD_EVERY: Duration = Duration::from_secs(60);

#[cold]
fn tell_of_long(took: Duration) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let Ok(mut told) = TOLD.lock() else { return };
    if told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
        return;
    }
    *told = Some(Instant::now());
    drop(told);
    let _ = contain(|| {
        tracing::warn!(
            ?took,
            "the program's recorder of metrics took long, and a transaction or a worker waited for it: it is called by \
             whoever commits, so have it keep values in memory, and send them from a thread of its own"
        );
    });
}

/// Writes values.
pub(super) struct Writer<'r>(&'r dyn Recorder);

static METADATA: Metadata<'static> = Metadata::new(env!("CARGO_CRATE_NAME"), Level::INFO, Some(module_path!()));

impl Writer<'_> {
    pub(super) fn count(&self, name: &'static str, labels: &Labels, by: u64) {
        if by > 0 {
            self.0.register_counter(&labels.key(name), &METADATA).increment(by);
        }
    }

    pub(super) fn set(&self, name: &'static str, labels: &Labels, value: f64) {
        self.0.register_gauge(&labels.key(name), &METADATA).set(value);
    }

    pub(super) fn times(&self, name: &'static str, labels: &Labels, times: impl Iterator<Item = Duration>) {
        let histogram = self.0.register_histogram(&labels.key(name), &METADATA);
        times.for_each(|time| histogram.record(time.as_secs_f64()));
    }
}

/// What a value is about.
#[derive(Clone)]
pub(super) struct Labels(Vec<Label>);

impl Labels {
    /// A hook or an in-process task.
    pub(super) fn task(task: &'static str) -> Self {
        Self(vec![Label::from_static_parts(TASK, task)])
    }

    /// A durable task.
    pub(super) fn durable(task: &'static str, queue: impl Into<SharedString>) -> Self {
        Self(vec![Label::from_static_parts(TASK, task), Label::new(QUEUE, queue)])
    }

    pub(super) fn queue(queue: &Arc<str>) -> Self {
        Self(vec![Label::new(QUEUE, Arc::clone(queue))])
    }

    fn key(&self, name: &'static str) -> Key {
        Key::from_parts(name, self.0.clone())
    }
}

/// The queue of a call, as a label has it.
pub(super) fn shared(queue: Cow<'static, str>) -> SharedString {
    match queue {
        Cow::Borrowed(queue) => SharedString::const_str(queue),
        Cow::Owned(queue) => queue.into(),
    }
}

/// Adds to the group of this name; the last one is looked at first, because what comes one after the
/// other is of one group mostly.
pub(super) fn group<K: PartialEq, V: Default>(groups: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = groups.iter().rposition(|(other, _)| *other == key);
    let at = at.unwrap_or_else(|| {
        groups.push((key, V::default()));
        groups.len() - 1
    });
    &mut groups[at].1
}
