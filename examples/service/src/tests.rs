//! The handlers, tested with the kit: by a pool of one connection, in a transaction that is never
//! committed. `tests/service` has the service as its users have it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use diesel_deferred::testing::{Mode, TestPool, no_lost_calls};
use diesel_deferred::{assert_deferred, assert_enqueued, payloads, refute_deferred, refute_enqueued};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::cache::UserCount;
use crate::database::{Database, Pool, Sqlite};
use crate::mail::Mailer;
use crate::orders::send_receipt;
use crate::users::{Service, evict_count, routes, send_thanks, send_welcome};

/// The service under test, with a database and an outbox of its own.
struct Test {
    pool: TestPool<Pool<Sqlite>>,
    routes: Router,
    folder: TempDir,
}

impl Test {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        for directory in ["outbox", "receipts"] {
            std::fs::create_dir(path(directory)).expect("a directory");
        }
        // diesel-async's migrations need a runtime with several threads.
        let url = path("test.db");
        let migrate = move || tokio::runtime::Runtime::new().expect("a runtime").block_on(Sqlite::migrate(&url));
        tokio::task::spawn_blocking(migrate).await.expect("no panic").expect("the tables");
        let count = UserCount::default();
        let mailer =
            Mailer::new(path("outbox").as_ref(), path("receipts").as_ref(), Default::default()).expect("an outbox");
        let pool = TestPool::<Pool<Sqlite>>::open(&path("test.db"), |dispatcher, _| {
            dispatcher.state(mailer).state(count.clone())
        })
        .await
        .expect("a pool");
        let service = Service::<Sqlite> {
            pool: pool.pool().clone(),
            count,
            transactions: TaskTracker::new(),
            stopping: CancellationToken::new(),
            faults: true,
        };
        Self { pool, routes: routes(Arc::new(service)), folder }
    }

    async fn post(&self, to: &str, fault: &str, json: &str) -> StatusCode {
        let request = Request::post(to).header(header::CONTENT_TYPE, "application/json").header("x-fault", fault);
        let request = request.body(Body::from(json.to_owned())).expect("a request");
        self.routes.clone().oneshot(request).await.expect("an answer").status()
    }

    /// How many mails are in a directory.
    fn mails(&self, directory: &str) -> usize {
        std::fs::read_dir(self.folder.path().join(directory)).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn a_sign_up_welcomes_the_user_and_thanks_who_is_known() {
    let _no_lost_calls = no_lost_calls();
    let test = Test::begin().await;
    test.pool.set_mode(Mode::Manual).await;
    assert_eq!(test.post("/users", "none", r#"{"email": "ada@example.org"}"#).await, StatusCode::CREATED);
    let referred = r#"{"email": "bob@example.org", "referred_by": "ada@example.org"}"#;
    assert_eq!(test.post("/users", "none", referred).await, StatusCode::CREATED);
    let by_nobody = r#"{"email": "cem@example.org", "referred_by": "nobody@example.org"}"#;
    assert_eq!(test.post("/users", "none", by_nobody).await, StatusCode::CREATED);
    assert_eq!(test.post("/users", "none", referred).await, StatusCode::CONFLICT);

    assert_deferred!(test.pool, send_welcome(_, "ada@example.org").times(1)).await;
    assert_deferred!(test.pool, send_welcome(_, _).times(3)).await;
    assert_deferred!(test.pool, send_thanks("ada@example.org", 2).times(1)).await;
    refute_deferred!(test.pool, send_thanks("nobody@example.org", _)).await;
    assert_deferred!(test.pool, evict_count().times(3)).await;
    assert_eq!(test.mails("outbox"), 0, "nothing runs");
}

#[tokio::test]
async fn a_sign_up_that_fails_sends_nothing() {
    let _no_lost_calls = no_lost_calls();
    let test = Test::begin().await;
    for fault in ["fail", "panic"] {
        let status = test.post("/users", fault, r#"{"email": "ada@example.org"}"#).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    test.pool.dispatcher().idle().await;
    assert_eq!(test.mails("outbox"), 0);
    assert_eq!(test.post("/users", "none", r#"{"email": "ada@example.org"}"#).await, StatusCode::CREATED);
    test.pool.dispatcher().idle().await;
    assert_eq!(test.mails("outbox"), 1);
}

#[tokio::test]
async fn an_order_has_a_receipt() {
    let _no_lost_calls = no_lost_calls();
    let test = Test::begin().await;
    let order = r#"{"email": "ada@example.org", "cents": 1250}"#;
    assert_eq!(test.post("/orders", "none", order).await, StatusCode::CREATED);
    assert_enqueued!(test.pool, send_receipt(_, "ada@example.org", 1250).queue("mail").max_attempts(10)).await;

    let drained = test.pool.drain().run().await;
    assert!(drained.is_clean(), "{drained}");
    refute_enqueued!(test.pool, send_receipt(_, _, _)).await;
    assert_eq!(test.mails("receipts"), 1);
}

/// Rows wait while the service is deployed.
#[test]
fn the_rows_of_earlier_releases_can_be_read() {
    payloads!("tests/payloads.json", [send_receipt(7, "ada@example.org", 1250)]);
}
