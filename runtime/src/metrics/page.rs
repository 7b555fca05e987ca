//! That the page of metrics, `guide/src/metrics.md`, is true: its table is that of the code. And that the
//! dashboard and the alerts of the example name metrics that there are, and the dashboard all of them.
//!
//! Must not know: when a value is recorded.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::names::{ALL, Kind, Metric};

/// A file of the repository; `None`: this is the package alone, which has no pages.
fn file(path: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("docs")
        .exists()
        .then(|| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
}

fn row(Metric { name, kind, unit, labels, meaning }: &Metric) -> String {
    let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    let kind = format!("{kind:?}").to_lowercase();
    let unit = if *unit == ::metrics::Unit::Count { "-" } else { unit.as_str() };
    format!("| `{name}` | {kind} | {unit} | {labels} | {meaning} |")
}

/// Point 3 of "metrics": "one table in the docs".
#[test]
fn the_page_has_each_metric() {
    let Some(page) = file("guide/src/metrics.md") else { return };
    let told: Vec<_> = page.lines().filter(|line| line.starts_with("| `diesel_deferred_")).collect();
    let code: Vec<_> = ALL.iter().map(row).collect();
    assert_eq!(told, code, "write this into guide/src/metrics.md:\n{}", code.join("\n"));
}

/// Point 3: "labels are task and queue only", and names as Prometheus has them.
#[test]
fn names_are_as_prometheus_wants_them() {
    for Metric { name, kind, unit, labels, .. } in ALL {
        assert!(labels.iter().all(|label| ["task", "queue"].contains(label)), "{name}: {labels:?}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_seconds"), *unit == ::metrics::Unit::Seconds, "{name}");
    }
}

/// The metrics that a text names, without what Prometheus adds to the name of a histogram.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names = words.filter(|word| word.starts_with("diesel_deferred_"));
    let histograms: Vec<_> =
        ALL.iter().filter(|metric| metric.kind == Kind::Histogram).map(|metric| metric.name).collect();
    let base = |name: &'_ str| -> String {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        part.filter(|part| histograms.contains(part)).unwrap_or(name).to_owned()
    };
    let all: Vec<_> = names.map(|name| (name, base(name))).collect();
    all.into_iter().map(|(name, base)| &name[..base.len()]).collect()
}

/// Point 3: "a Grafana dashboard and alert rules as files that CI loads and checks against the names
/// that the code emits".
#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let (Some(dashboard), Some(alerts)) =
        (file("examples/observability/dashboard.json"), file("examples/observability/alerts.yml"))
    else {
        return;
    };
    #[cfg(feature = "durable")]
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("Grafana reads JSON");
    let all: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(named(&dashboard), all, "the dashboard, and the code");
    let alerts = named(&alerts);
    assert!(alerts.is_subset(&all) && !alerts.is_empty(), "the alerts name {alerts:?}");
}
