//! The metrics, each with its name, its type, its labels, and what it means. `guide/src/metrics.md` has
//! the same table, which a test compares with this one.
//!
//! Must not know: when a value is recorded.

use ::metrics::{KeyName, SharedString, Unit, with_recorder};

/// One metric.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    #[cfg_attr(not(test), expect(dead_code, reason = "the page of metrics has them"))]
    pub(super) labels: &'static [&'static str],
    pub(super) meaning: &'static str,
}

/// Its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The label of a task's name.
pub(super) const TASK: &str = "task";

/// The label of a queue's name. Only durable tasks have one.
pub(super) const QUEUE: &str = "queue";

macro_rules! metrics {
    ($($constant:ident: $kind:ident of $unit:ident, $name:literal, $labels:expr, $meaning:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// All of them.
        pub(super) const ALL: &[Metric] = &[$(
            Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, labels: &$labels, meaning: $meaning },
        )*];
    };
}

metrics! {
    REGISTERED: Counter of Count, "diesel_deferred_registered_total", [TASK, QUEUE],
        "hooks and calls of tasks whose transaction has ended, whichever way";
    ROLLED_BACK: Counter of Count, "diesel_deferred_rolled_back_total", [TASK, QUEUE],
        "those of them that were dropped, because what they belong to was rolled back";
    NOT_RUN: Counter of Count, "diesel_deferred_not_run_total", [TASK],
        "those that did not run although nothing is known to have rolled them back";
    ENQUEUED: Counter of Count, "diesel_deferred_enqueued_total", [TASK, QUEUE],
        "durable calls that were committed";
    CLAIMED: Counter of Count, "diesel_deferred_claimed_total", [TASK, QUEUE],
        "durable calls that a worker took out of the table";
    RAN: Counter of Count, "diesel_deferred_ran_total", [TASK, QUEUE],
        "hooks, in-process tasks and attempts that have ended, well or not";
    FAILED: Counter of Count, "diesel_deferred_failed_total", [TASK, QUEUE],
        "those of them that failed";
    RETRIED: Counter of Count, "diesel_deferred_retried_total", [TASK, QUEUE],
        "failed attempts that are tried again";
    DEAD: Counter of Count, "diesel_deferred_dead_total", [TASK, QUEUE],
        "durable calls that were given up: dead letters";
    START_DELAY: Histogram of Seconds, "diesel_deferred_start_delay_seconds", [TASK, QUEUE],
        "from the COMMIT to the start; of a durable call from when it was due";
    RUN_TIME: Histogram of Seconds, "diesel_deferred_run_seconds", [TASK, QUEUE],
        "how long a hook, an in-process task or an attempt took";
    DEPTH: Gauge of Count, "diesel_deferred_queue_depth", [QUEUE],
        "durable calls that are due and wait for a worker; 10,000 means that many or more";
    OLDEST: Gauge of Seconds, "diesel_deferred_queue_oldest_seconds", [QUEUE],
        "for how long the oldest of those has been due; 0 where there is none";
}

/// Tells the program's recorder what each metric means, and its unit. A worker does so when it
/// starts; a program without one calls this after it has installed its recorder.
///
/// # Examples
/// ```
/// // After `PrometheusBuilder::new().install_recorder()`, or the like:
/// diesel_deferred::describe_metrics();
/// ```
pub fn describe_metrics() {
    let _ = crate::panics::contain(|| {
        with_recorder(|recorder| {
            for Metric { name, kind, unit, meaning, .. } in ALL {
                let (name, unit) = (KeyName::from_const_str(name), Some(*unit));
                let meaning = SharedString::const_str(meaning);
                match kind {
                    Kind::Counter => recorder.describe_counter(name, unit, meaning),
                    Kind::Gauge => recorder.describe_gauge(name, unit, meaning),
                    Kind::Histogram => recorder.describe_histogram(name, unit, meaning),
                }
            }
        });
    });
}
