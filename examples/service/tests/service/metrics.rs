//! What the service tells Prometheus.

use hyper::StatusCode;
use tokio::time::timeout;

use crate::on_both_databases;
use crate::process::{LONG, Service};
use crate::rows::Scratch;

on_both_databases!(what_is_done_is_told);

/// "Example with the Prometheus exporter": a mail of a dispatcher's, a receipt of a worker's, the depth
/// of a queue, and a rollback.
async fn what_is_done_is_told(scratch: Scratch) {
    let service = Service::start(&scratch, &[]).await;
    let client = &service.client;
    client.sign_up("ada@example.org").await.expect("an answer");
    let (failed, _) = client.sign_up_badly("bob@example.org", "fail").await.expect("an answer");
    assert_eq!(failed, StatusCode::INTERNAL_SERVER_ERROR);
    client.order("ada@example.org", 1_250).await.expect("an answer");
    let expected = [
        r#"diesel_deferred_ran_total{task="diesel_deferred_service::users::send_welcome"} 1"#,
        r#"diesel_deferred_rolled_back_total{task="diesel_deferred_service::users::send_welcome"} 1"#,
        r#"diesel_deferred_enqueued_total{task="diesel_deferred_service::orders::send_receipt",queue="mail"} 1"#,
        r#"diesel_deferred_ran_total{task="diesel_deferred_service::orders::send_receipt",queue="mail"} 1"#,
        r#"diesel_deferred_run_seconds_bucket{task="diesel_deferred_service::orders::send_receipt",queue="mail",le="60"} 1"#,
        r#"diesel_deferred_queue_depth{queue="mail"} 0"#,
        "# TYPE diesel_deferred_start_delay_seconds histogram",
        "# HELP diesel_deferred_enqueued_total durable calls that were committed",
    ];
    let mut told = String::new();
    let all_told = async {
        while !expected.iter().all(|line| told.contains(line)) {
            told = client.metrics().await.expect("an answer");
        }
    };
    let in_time = timeout(LONG, all_told).await;
    let missing: Vec<_> = expected.iter().filter(|line| !told.contains(**line)).collect();
    assert!(in_time.is_ok(), "{missing:#?} are not in\n{told}");
    crate::shutdown::end(service, &scratch).await;
}
