//! The end of the service: a signal, after which it keeps what it has promised, or says what it
//! could not.

use std::collections::BTreeSet;

use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::on_both_databases;
use crate::process::{Ended, LONG, Mails, Service, assert_mails_are_rows};
use crate::rows::{Rows, Scratch};

on_both_databases!(sigterm_drains, a_request_that_takes_too_long_is_refused);

/// Ends a service, which has to drain, and looks at what it leaves.
pub async fn end(service: Service, scratch: &Scratch) -> (Rows, Mails) {
    service.signal("TERM").await;
    drained(service, scratch).await
}

async fn drained(service: Service, scratch: &Scratch) -> (Rows, Mails) {
    let (outbox, complaints) = (service.outbox(), service.errors());
    let Ended { status, printed } = service.ended().await;
    assert!(status.success(), "{status}, {printed:?}\n{complaints}");
    assert_eq!(printed, ["shutting down", "shut down: 0 tasks abandoned"]);
    (scratch.rows().await, Mails::read(&outbox))
}

async fn sigterm_drains(scratch: Scratch) {
    signal_drains("TERM", &scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_drains() {
    signal_drains("INT", &Scratch::sqlite()).await;
}

/// A signal in the middle of many requests: each user that is committed gets a mail, be it a second
/// later.
async fn signal_drains(signal: &str, scratch: &Scratch) {
    const USERS: usize = 300;
    let service = Service::start(scratch, &[("MAIL_DELAY_MS", "1000")]).await;
    let mut requests = JoinSet::new();
    for number in 0..USERS {
        let client = service.client.clone();
        requests.spawn(async move { client.sign_up(&format!("user{number}@example.org")).await });
    }
    let mut answered = BTreeSet::new();
    while answered.len() < USERS / 3 {
        let answer = timeout(LONG, requests.join_next()).await.expect("in time").expect("one more");
        let (status, id) = answer.expect("no panic").expect("an answer");
        assert_eq!(status, StatusCode::CREATED);
        answered.insert(id.expect("a number"));
    }
    service.signal(signal).await;
    // A mail takes a second, so that the last users' are still under way.
    let early = Mails::read(&service.outbox()).welcome.len();
    assert!(early < answered.len(), "there was nothing to drain");

    let ended = tokio::spawn(async move {
        while let Some(answer) = requests.join_next().await {
            // Who came too late finds the door closed.
            if let Ok((status, id)) = answer.expect("no panic") {
                assert_eq!(status, StatusCode::CREATED);
                answered.insert(id.expect("a number"));
            }
        }
        answered
    });
    let (rows, mails) = drained(service, scratch).await;
    let answered = ended.await.expect("no panic");
    let committed: BTreeSet<_> = rows.users.iter().map(|(id, _)| *id).collect();
    assert!(answered.is_subset(&committed), "answered with 201, but not committed");
    assert_mails_are_rows(&mails.welcome, &rows.users);
}

/// A transaction that is not over in time is rolled back and its client told so, instead of being
/// cut.
async fn a_request_that_takes_too_long_is_refused(scratch: Scratch) {
    let service = Service::start(&scratch, &[("GRACE_SECONDS", "0")]).await;
    let inside = service.inside("slow@example.org");
    let client = service.client.clone();
    let slow = tokio::spawn(async move { client.sign_up_badly("slow@example.org", "slow").await });
    timeout(LONG, inside).await.expect("in time").expect("it gets there");
    let (rows, mails) = end(service, &scratch).await;
    let answer = slow.await.expect("no panic").expect("an answer");
    assert_eq!(answer, (StatusCode::SERVICE_UNAVAILABLE, None));
    assert!(rows.users.is_empty(), "{rows:?}");
    assert_eq!(mails, Mails::default());
}

/// What there was no time for is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_abandoned_is_reported() {
    let scratch = Scratch::sqlite();
    let service = Service::start(&scratch, &[("GRACE_SECONDS", "0"), ("MAIL_DELAY_MS", "600000")]).await;
    for email in ["ada@example.org", "bob@example.org"] {
        let (status, _) = service.client.sign_up(email).await.expect("an answer");
        assert_eq!(status, StatusCode::CREATED);
    }
    service.signal("TERM").await;
    let outbox = service.outbox();
    let Ended { status, printed } = service.ended().await;
    assert!(!status.success(), "{printed:?}");
    let [_, report, first, second] = printed.as_slice() else { panic!("{printed:?}") };
    assert_eq!(report, "shut down: 2 tasks abandoned");
    for line in [first, second] {
        assert!(line.contains("send_welcome (called at examples/service/src/users.rs:"), "{line}");
        assert!(line.ends_with("abandoned while it ran"), "{line}");
    }
    assert_eq!(Mails::read(&outbox), Mails::default());
    assert_eq!(scratch.rows().await.users.len(), 2);
}
