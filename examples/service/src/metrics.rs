//! `GET /metrics`, as Prometheus asks for it. `guide/src/metrics.md` says what there is, and
//! `examples/observability` has a dashboard and alerts.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Up to these times, in seconds, values are counted together. Those of several processes can be added
/// up then.
const BUCKETS: [f64; 9] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];

/// Has everything counted from now on. It goes before all else.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?;
    let metrics = builder.install_recorder()?;
    diesel_deferred::describe_metrics();
    let tidied = metrics.clone();
    // Values are kept as they come until somebody puts them into their buckets.
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            tidied.run_upkeep();
        }
    });
    Ok(metrics)
}

pub fn routes(metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(move || ready(metrics.render())))
}
