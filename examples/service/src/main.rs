//! A sign-up service with axum: one request is one transaction, and the welcome mails leave after its commit.
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
//! With `FAULTS=on` a request may go wrong inside of its block, behind the call of the task; there is no user then, and no
//! mail:
//!
//! ```sh
//! post -H 'x-fault: fail'  -d '{"email": "dan@example.org"}'     # 500
//! post -H 'x-fault: panic' -d '{"email": "dan@example.org"}'     # 500
//! post -H 'x-fault: slow' -m 1 -d '{"email": "dan@example.org"}' # the client hangs up after a second
//! ```
//!
//! Ctrl-C and SIGTERM end it: it takes no more connections, answers the requests that it has, waits for the mails of what was
//! committed, and says which it could not wait for.
//!
//! | variable | by default | is |
//! |---|---|---|
//! | `DATABASE_URL` | a file in the temporary directory | SQLite's file, or `postgres://…` |
//! | `OUTBOX` | a directory beside that file | where the mails are written |
//! | `LISTEN` | `127.0.0.1:8000` | the address; with port 0 it finds a free one |
//! | `GRACE_SECONDS` | 10 | how long the requests, and then the mails, are waited for in the end |
//! | `MAIL_DELAY_MS` | 0 | how long a mail takes |
//! | `FAULTS` | `off` | see above |

mod cache;
mod database;
mod errors;
mod faults;
mod mail;
mod users;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use diesel_deferred::Dispatcher;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cache::UserCount;
use self::database::{Database, Postgres, Sqlite};
use self::mail::Mailer;
use self::users::{Service, routes};

struct Settings {
    database: String,
    outbox: PathBuf,
    listen: String,
    grace: Duration,
    mail_delay: Duration,
    faults: bool,
}

impl Settings {
    fn from_env() -> Result<Self, Box<dyn Error>> {
        let var = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        let dir = env::temp_dir().join("diesel-deferred-service");
        Ok(Self {
            database: var("DATABASE_URL", &dir.join("service.db").to_string_lossy()),
            outbox: var("OUTBOX", &dir.join("outbox").to_string_lossy()).into(),
            listen: var("LISTEN", "127.0.0.1:8000"),
            grace: Duration::from_secs(var("GRACE_SECONDS", "10").parse()?),
            mail_delay: Duration::from_millis(var("MAIL_DELAY_MS", "0").parse()?),
            faults: var("FAULTS", "off") == "on",
        })
    }
}

// With several threads: diesel-async's SQLite needs them where a statement is cancelled.
#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let settings = Settings::from_env()?;
    // SQLite's file may be there, too.
    std::fs::create_dir_all(&settings.outbox)?;
    println!("database: {}\noutbox: {}", settings.database, settings.outbox.display());
    if settings.database.starts_with("postgres:") || settings.database.starts_with("postgresql:") {
        serve::<Postgres>(settings).await
    } else {
        serve::<Sqlite>(settings).await
    }
}

async fn serve<D: Database>(settings: Settings) -> Result<ExitCode, Box<dyn Error>> {
    let count = UserCount::default();
    let dispatcher = Dispatcher::builder()
        .state(Mailer::new(&settings.outbox, settings.mail_delay)?)
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
    let signal = CancellationToken::new();
    tokio::spawn(interrupted(signal.clone()));
    let listener = TcpListener::bind(&settings.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = axum::serve(listener, routes(Arc::clone(&service)));
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
    let report = dispatcher.shutdown(settings.grace).await;
    println!("shut down: {report}");
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C, or what a process is told to end with.
async fn interrupted(signal: CancellationToken) {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened to");
        tokio::select! {
            _ = terminate.recv() => {}
            result = interrupt => result.expect("Ctrl-C can be listened to"),
        }
    }
    #[cfg(not(unix))]
    interrupt.await.expect("Ctrl-C can be listened to");
    signal.cancel();
}
