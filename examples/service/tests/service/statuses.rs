//! Each kind of request once: what it is answered, who is in the database then, and who got a mail.

use hyper::StatusCode;

use crate::on_both_databases;
use crate::process::{Service, assert_mails_are_rows};
use crate::rows::Scratch;

on_both_databases!(every_kind_of_request);

/// C1, C2, E5: mails leave after the commit, and none for what failed or panicked behind the call
/// of the task. N2: a nested block that fails takes its own mail with it and no other.
async fn every_kind_of_request(scratch: Scratch) {
    let service = Service::start(&scratch, &[]).await;
    let client = &service.client;
    assert_eq!(client.count().await.expect("an answer"), Some(0));

    let (ada, id) = client.sign_up("ada@example.org").await.expect("an answer");
    assert_eq!((ada, id.is_some()), (StatusCode::CREATED, true));
    // What the plain task evicts is evicted when the answer is there.
    assert_eq!(client.count().await.expect("an answer"), Some(1));
    assert_eq!(client.sign_up("ada@example.org").await.expect("an answer"), (StatusCode::CONFLICT, None));
    assert_eq!(client.sign_up("ada").await.expect("an answer"), (StatusCode::UNPROCESSABLE_ENTITY, None));
    let (bob, _) = client.sign_up_referred("bob@example.org", "ada@example.org").await.expect("an answer");
    assert_eq!(bob, StatusCode::CREATED);
    let (cem, _) = client.sign_up_referred("cem@example.org", "nobody@example.org").await.expect("an answer");
    assert_eq!(cem, StatusCode::CREATED, "the referral failed, and nothing else");
    for fault in ["fail", "panic"] {
        let answer = client.sign_up_badly("dan@example.org", fault).await.expect("an answer");
        assert_eq!(answer, (StatusCode::INTERNAL_SERVER_ERROR, None), "{fault}");
    }
    let inside = service.inside("dan@example.org");
    tokio::select! {
        answer = client.sign_up_badly("dan@example.org", "slow") => panic!("it was not slow: {answer:?}"),
        inside = inside => inside.expect("it gets there"),
    }
    assert_eq!(client.count().await.expect("an answer"), Some(3));
    // The address is free again: what hung on to it has been rolled back, or is waited for.
    let (dan, _) = client.sign_up("dan@example.org").await.expect("an answer");
    assert_eq!(dan, StatusCode::CREATED);

    let (rows, mails) = crate::shutdown::end(service, &scratch).await;
    let emails: Vec<_> = rows.users.iter().map(|(_, email)| email.as_str()).collect();
    assert_eq!(emails, ["ada@example.org", "bob@example.org", "cem@example.org", "dan@example.org"]);
    assert_eq!(rows.referrals.len(), 1);
    assert_mails_are_rows(&mails.welcome, &rows.users);
    assert_mails_are_rows(&mails.thanks, &rows.referrals);
}
