//! A sign-up service with axum: one request is one transaction, and the welcome mails leave after
//! its commit.
//!
//! ```sh
//! cargo run -p diesel-deferred-service          # SQLite; it says where the database and the outbox are
//! DATABASE_URL=postgres://postgres@127.0.0.1:5432/postgres cargo run -p diesel-deferred-service
//!
//! post() { curl -i 127.0.0.1:8000/users -H 'content-type: application/json' "$@"; }
//! post -d '{"email": "ada@example.org"}'        # 201, and a mail in the outbox
//! post -d '{"email": "ada@example.org"}'        # 409
//! post -d '{"email": "bob@example.org", "referred_by": "ada@example.org"}'     # 201, and two mails
//! post -d '{"email": "cem@example.org", "referred_by": "nobody@example.org"}'  # 201, and one
//! curl 127.0.0.1:8000/users                     # how many there are
//! ```
//!
//! An order's receipt is a durable task: a row of the order's transaction, which a worker makes a
//! mail of. There is one in this process, and `cargo run -p diesel-deferred-service --bin worker`
//! is another one. Kill either at any time, and no receipt is lost:
//!
//! ```sh
//! curl -i 127.0.0.1:8000/orders -H 'content-type: application/json' -d '{"email": "ada@example.org", "cents": 1250}'
//! ```
//!
//! `curl 127.0.0.1:8000/metrics` is for Prometheus. Events go to stderr: the first is what the worker
//! works on.
//!
//! With `FAULTS=on` a request may go wrong inside of its block, behind the call of the task; there
//! is no user then, and no mail:
//!
//! ```sh
//! post -H 'x-fault: fail'  -d '{"email": "dan@example.org"}'     # 500
//! post -H 'x-fault: panic' -d '{"email": "dan@example.org"}'     # 500
//! post -H 'x-fault: slow' -m 1 -d '{"email": "dan@example.org"}' # the client hangs up after a second
//! ```
//!
//! Ctrl-C and SIGTERM end it: it takes no more connections, answers the requests that it has, waits
//! for the mails of what was committed, and says which it could not wait for.
//!
//! | variable | by default | is |
//! |---|---|---|
//! | `DATABASE_URL` | a file in the temporary directory | SQLite's file, or `postgres://…` |
//! | `OUTBOX` | a directory beside that file | where the mails are written |
//! | `LISTEN` | `127.0.0.1:8000` | the address; with port 0 it finds a free one |
//! | `GRACE_SECONDS` | 10 | how long the requests, and then the mails, are waited for in the end |
//! | `MAIL_DELAY_MS` | 0 | how long a mail takes |
//! | `LEASE_SECONDS` | 30 | how long a task is kept for a worker that died |
//! | `WORKER` | `on` | whether this process works on durable tasks |
//! | `TRACES` | `off` | whether spans are printed, as they would go to a collector |
//! | `FAULTS` | `off` | see above |

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use diesel_deferred::Dispatcher;
use diesel_deferred_service::cache::UserCount;
use diesel_deferred_service::database::{Database, Postgres, Sqlite};
use diesel_deferred_service::mail::Mailer;
use diesel_deferred_service::metrics;
use diesel_deferred_service::settings::{Settings, interrupted};
use diesel_deferred_service::telemetry::Telemetry;
use diesel_deferred_service::users::{Service, routes};
use diesel_deferred_service::work::work;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

// With several threads: diesel-async's SQLite needs them where a statement is cancelled.
#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let settings = Settings::from_env().map_err(|error| error.to_string())?;
    let _telemetry = Telemetry::listen(settings.traces);
    if settings.is_postgres() { serve::<Postgres>(settings).await } else { serve::<Sqlite>(settings).await }
}

async fn serve<D: Database>(settings: Settings) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let metrics = metrics::install()?;
    D::migrate(&settings.database).await?;
    let settings = Arc::new(settings);
    let count = UserCount::default();
    let dispatcher = Dispatcher::builder()
        .state(Mailer::new(&settings.outbox, &settings.receipts(), settings.mail_delay)?)
        .state(count.clone())
        .on_failure(|failure| eprintln!("{failure}"))
        .build();
    dispatcher.install();

    let service = Arc::new(Service::<D> {
        pool: D::open(&settings.database).await?,
        count,
        transactions: TaskTracker::new(),
        stopping: CancellationToken::new(),
        faults: settings.faults,
    });
    let signal = interrupted();
    // The worker goes on until the last order is committed.
    let drained = CancellationToken::new();
    let working = settings.works.then(|| {
        let (settings, drained) = (Arc::clone(&settings), drained.clone());
        tokio::spawn(async move { work::<D>(&settings, drained.cancelled_owned()).await })
    });

    let listener = TcpListener::bind(&settings.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = axum::serve(listener, routes(Arc::clone(&service)).merge(metrics::routes(metrics)));
    let server = server.with_graceful_shutdown(signal.clone().cancelled_owned());
    let mut server = tokio::spawn(server.into_future());
    signal.cancelled().await;
    println!("shutting down");

    // Requests first, and what they commit while we wait for them; then the mails.
    if timeout(settings.grace, &mut server).await.is_err() {
        service.stopping.cancel();
        // Time for the answers. A client that does not end its request is not waited for.
        let _ = timeout(Duration::from_secs(1), &mut server).await;
    }
    service.transactions.close();
    let _ = timeout(settings.grace, service.transactions.wait()).await;
    // What the worker does not get to is not lost: the next one does.
    drained.cancel();
    if let Some(working) = working {
        working.await??;
    }
    let report = dispatcher.shutdown(settings.grace).await;
    println!("shut down: {report}");
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
