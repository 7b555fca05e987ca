//! Many clients at once, some of which hang up, or ask for what goes wrong. In the end the mails
//! are those of the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::on_both_databases;
use crate::process::{LONG, Service, assert_mails_are_rows};
use crate::rows::Scratch;

const REQUESTS: usize = 2_000;
const CLIENTS: usize = 16;

on_both_databases!(mails_sent_are_rows_committed);

/// What a request does, by its number: of 20 requests four hang up, one of them inside its block;
/// one fails and one panics, behind the call of the task; two are for the same user; and three are
/// referred, one of them by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    Referred,
    ReferredByNobody,
    /// With the request before it.
    Twice,
    Fails,
    Panics,
    HangsUp,
    HangsUpInside,
}

impl Kind {
    fn of(number: usize) -> Self {
        match number % 20 {
            0 | 15 | 17 => Self::HangsUp,
            1 => Self::Fails,
            5 => Self::Panics,
            8 | 9 => Self::Twice,
            10 => Self::HangsUpInside,
            12 | 13 => Self::Referred,
            14 => Self::ReferredByNobody,
            _ => Self::Plain,
        }
    }
}

/// What became of a request.
struct Outcome {
    kind: Kind,
    email: String,
    /// `None`: hung up.
    answer: Option<(StatusCode, Option<i32>)>,
}

/// C1, C2, C4, E5, N2, A2, A4 at the scale of a service.
async fn mails_sent_are_rows_committed(scratch: Scratch) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let service = Arc::new(Service::start(&scratch, &[]).await);
    let (founder, _) = service.client.sign_up("founder@example.org").await.expect("an answer");
    assert_eq!(founder, StatusCode::CREATED);

    let begin = Instant::now();
    let next = Arc::new(Mutex::new(0..REQUESTS));
    // How long the last answer took, in microseconds.
    let pace = Arc::new(AtomicU64::new(10_000));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (service, next, pace) = (Arc::clone(&service), Arc::clone(&next), Arc::clone(&pace));
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(client as u64));
        clients.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let Some(number) = next.lock().expect("nobody panics").next() else { return outcomes };
                // Some moment of the request, and some behind it.
                let patience = Duration::from_micros(pace.load(Ordering::Relaxed)).mul_f64(random.f64() * 1.25);
                let begin = Instant::now();
                let outcome = timeout(LONG, request(&service, number, patience)).await.expect("in time");
                if outcome.kind == Kind::Plain {
                    pace.store(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
                outcomes.push(outcome);
            }
        });
    }
    let outcomes: Vec<Outcome> = clients.join_all().await.into_iter().flatten().collect();
    let took = begin.elapsed();
    assert_eq!(outcomes.len(), REQUESTS);

    let service = Arc::into_inner(service).expect("the clients have ended");
    let (rows, mails) = crate::shutdown::end(service, &scratch).await;

    // The point of it all: exactly the rows, each once.
    assert_mails_are_rows(&mails.welcome, &rows.users);
    assert_mails_are_rows(&mails.thanks, &rows.referrals);

    // And the rows are what the clients were told.
    let mut committed: BTreeMap<&str, i32> = rows.users.iter().map(|(id, email)| (email.as_str(), *id)).collect();
    assert_eq!(committed.len(), rows.users.len(), "e-mail addresses are unique");
    committed.remove("founder@example.org").expect("the founder");
    let mut referred = BTreeSet::new();
    let mut refused_twins = 0;
    let (mut hung_up, mut hung_up_committed) = (0, 0);
    for Outcome { kind, email, answer } in &outcomes {
        let id = committed.get(email.as_str()).copied();
        match (kind, answer) {
            (Kind::HangsUp, None) => {
                hung_up += 1;
                hung_up_committed += usize::from(id.is_some());
            }
            (Kind::Twice, Some((StatusCode::CONFLICT, None))) => refused_twins += 1,
            (Kind::Fails | Kind::Panics, Some((StatusCode::INTERNAL_SERVER_ERROR, None)))
            | (Kind::HangsUpInside, None) => assert_eq!(id, None, "{kind:?} {email}"),
            (Kind::Plain | Kind::Referred | Kind::ReferredByNobody | Kind::Twice | Kind::HangsUp, Some(answer)) => {
                assert_eq!(*answer, (StatusCode::CREATED, id), "{kind:?} {email}");
                if *kind == Kind::Referred {
                    referred.insert((id.expect("a number"), "founder@example.org".to_owned()));
                }
            }
            _ => panic!("{kind:?} {email}: {answer:?}"),
        }
    }
    assert_eq!(refused_twins, REQUESTS / 20, "one of each pair");
    assert_eq!(rows.referrals, Vec::from_iter(referred));
    let all: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.email.as_str()).collect();
    assert!(committed.keys().all(|email| all.contains(email)), "a user that nobody signed up");
    // Some that were to hang up had their answer first. A tenth of all is asked for, half of it at
    // random moments.
    assert!(hung_up >= REQUESTS / 20, "only {hung_up} clients hung up before they had an answer");
    println!(
        "{REQUESTS} requests in {took:?}: {} users, {} mails; {} hung up inside their block, {hung_up} at some moment, \
         {hung_up_committed} of these were committed",
        rows.users.len(),
        mails.welcome.len() + mails.thanks.len(),
        REQUESTS / 20,
    );
}

async fn request(service: &Service, number: usize, patience: Duration) -> Outcome {
    let kind = Kind::of(number);
    let twin = if kind == Kind::Twice { number - number % 2 } else { number };
    let email = format!("user{twin}@example.org");
    let client: &Client = &service.client;
    let answer = match kind {
        Kind::Plain | Kind::Twice => Some(client.sign_up(&email).await),
        Kind::Referred => Some(client.sign_up_referred(&email, "founder@example.org").await),
        Kind::ReferredByNobody => Some(client.sign_up_referred(&email, "nobody@example.org").await),
        Kind::Fails => Some(client.sign_up_badly(&email, "fail").await),
        Kind::Panics => Some(client.sign_up_badly(&email, "panic").await),
        Kind::HangsUp => timeout(patience, client.sign_up(&email)).await.ok(),
        Kind::HangsUpInside => {
            let inside = service.inside(&email);
            tokio::select! {
                answer = client.sign_up_badly(&email, "slow") => Some(answer),
                _ = inside => None,
            }
        }
    };
    let answer = answer.transpose().unwrap_or_else(|error| panic!("{kind:?} {email}: {error:?}"));
    Outcome { kind, email, answer }
}
