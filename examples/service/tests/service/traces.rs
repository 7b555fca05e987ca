//! The spans that the service prints.

use std::collections::HashMap;

use crate::on_both_databases;
use crate::process::Service;
use crate::rows::Scratch;

on_both_databases!(an_order_is_one_trace);

/// A request, its transaction, the statement that stores its call, and the attempt of a worker.
async fn an_order_is_one_trace(scratch: Scratch) {
    let service = Service::start(&scratch, &[("TRACES", "on")]).await;
    service.client.order("ada@example.org", 1_250).await.expect("an answer");
    crate::receipts::sent(&scratch).await;
    service.signal("TERM").await;
    let printed = service.ended().await.printed;

    // What stdout's exporter prints of a span: `Name` before its `TraceId`.
    let (mut traces, mut name): (HashMap<&str, Vec<&str>>, _) = Default::default();
    for line in &printed {
        if let Some((key, value)) = line.trim().split_once(':') {
            match key.trim() {
                "Name" => name = value.trim(),
                "TraceId" => traces.entry(value.trim()).or_default().push(name),
                _ => {}
            }
        }
    }
    let parts = ["POST /orders", "transaction", "send mail", "process mail"];
    let has_all = |spans: &Vec<&str>| parts.iter().all(|part| spans.contains(part));
    assert!(traces.values().any(has_all), "{traces:#?}\n{printed:#?}");
}
