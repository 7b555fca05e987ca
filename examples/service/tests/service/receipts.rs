//! Receipts are durable tasks: kill the service or the worker at any moment, and none is lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::on_both_databases;
use crate::process::{LONG, Service, start_worker};
use crate::rows::Scratch;

const ROUNDS: usize = 12;
const SETTINGS: [(&str, &str); 2] = [("LEASE_SECONDS", "1"), ("MAIL_DELAY_MS", "20")];

on_both_databases!(no_receipt_is_lost, a_receipt_is_sent_by_the_service_alone);

/// The orders that have a receipt, sorted: a receipt that was sent twice is still one.
fn receipts(scratch: &Scratch) -> Vec<i32> {
    let mut orders = Vec::new();
    for file in fs::read_dir(scratch.directory.path().join("receipts")).expect("the receipts") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            orders.push(order_of(&path));
        }
    }
    orders.sort_unstable();
    orders
}

fn order_of(receipt: &Path) -> i32 {
    let mail = fs::read_to_string(receipt).expect("a mail");
    let subject = mail.lines().find_map(|line| line.strip_prefix("Subject: Receipt for order ")).expect("an order");
    subject.parse().expect("a number")
}

/// Waits until nothing is left to be sent.
pub async fn sent(scratch: &Scratch) -> Vec<i32> {
    let all = async {
        loop {
            let (orders, waiting) = scratch.orders().await;
            if waiting == 0 {
                return orders;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, all).await.expect("all receipts are sent in time")
}

/// Orders until it is told to stop, or the service is no more; says how many were answered.
fn order_on(service: &Service, orders: &mut JoinSet<Vec<i32>>) {
    for client in 0..4 {
        let http = service.client.clone();
        orders.spawn(async move {
            let mut answered = Vec::new();
            while let Ok((status, id)) = http.order(&format!("client{client}@example.org"), 1_250).await {
                assert_eq!(status, StatusCode::CREATED);
                answered.push(id.expect("a number"));
            }
            answered
        });
    }
}

/// D1, D4: with a worker in the service, and one in a process of its own.
async fn no_receipt_is_lost(scratch: Scratch) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut orders = JoinSet::new();
    let mut service = Service::start(&scratch, &SETTINGS).await;
    let mut worker = start_worker(&scratch, &SETTINGS).await;
    for _ in 0..ROUNDS {
        order_on(&service, &mut orders);
        sleep(Duration::from_millis(random.u64(20..300))).await;
        if random.bool() {
            worker.kill().await.expect("it dies");
            worker = start_worker(&scratch, &SETTINGS).await;
        }
        service.signal("KILL").await;
        service.ended().await;
        service = Service::start(&scratch, &SETTINGS).await;
    }
    let answered: Vec<i32> = orders.join_all().await.into_iter().flatten().collect();
    let committed = sent(&scratch).await;
    assert!(answered.iter().all(|order| committed.contains(order)), "answered with 201, but not committed");
    assert!(committed.len() > ROUNDS, "{committed:?}");
    // The point of it all: exactly the orders, each once.
    assert_eq!(receipts(&scratch), committed);
    println!("{} orders, {} of them answered; {ROUNDS} kills", committed.len(), answered.len());
}

/// And a clean end leaves what was not sent to the next one.
async fn a_receipt_is_sent_by_the_service_alone(scratch: Scratch) {
    let service = Service::start(&scratch, &[("WORKER", "off")]).await;
    let (status, order) = service.client.order("ada@example.org", 5).await.expect("an answer");
    assert_eq!(status, StatusCode::CREATED);
    service.signal("TERM").await;
    assert!(service.ended().await.status.success());
    assert_eq!(scratch.orders().await.1, 1);

    let service = Service::start(&scratch, &[]).await;
    assert_eq!(sent(&scratch).await, [order.expect("a number")]);
    assert_eq!(receipts(&scratch), [order.expect("a number")]);
    service.signal("TERM").await;
    assert!(service.ended().await.status.success());
}
