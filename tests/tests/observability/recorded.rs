//! What a recorder of metrics was told on this thread.

use std::collections::BTreeMap;

use metrics::Recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Values by `name task queue`, without the crate's and the module's names. Of a histogram, how many
/// values there are.
#[derive(Debug)]
pub(crate) struct Recorded(pub(crate) BTreeMap<String, f64>);

impl Recorded {
    pub(crate) fn take(snapshotter: &Snapshotter) -> Self {
        let values = snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
            let (_, key) = key.into_parts();
            let label = |name| key.labels().find(|label| label.key() == name).map_or("", |label| label.value());
            let task = label("task").rsplit("::").next().unwrap_or_default().to_owned();
            let name = key.name().trim_start_matches("diesel_deferred_");
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            (format!("{name} {task} {}", label("queue")).trim_end().to_owned(), value)
        });
        Self(values.collect())
    }

    /// What there is, but for what depends on how long things take.
    pub(crate) fn counts(&self) -> Vec<(&str, f64)> {
        let told = self.0.iter().filter(|(name, _)| !name.starts_with("queue_")).map(|(name, value)| (&**name, *value));
        told.collect()
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}

/// Runs `work`, and says what it recorded on this thread.
pub(crate) fn recorded(work: impl FnOnce()) -> Recorded {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, work);
    Recorded::take(&snapshotter)
}

/// The same of a future that stays on this thread.
pub(crate) async fn recorded_async(work: impl Future<Output = ()>) -> Recorded {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let dynamic: &dyn Recorder = &recorder;
    let guard = metrics::set_default_local_recorder(dynamic);
    work.await;
    drop(guard);
    Recorded::take(&snapshotter)
}
