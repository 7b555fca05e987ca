//! What the environment says; the table is in `main.rs`.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub struct Settings {
    pub database: String,
    pub outbox: PathBuf,
    pub listen: String,
    pub grace: Duration,
    pub mail_delay: Duration,
    pub lease: Duration,
    /// Whether the service works on durable tasks, too.
    pub works: bool,
    pub faults: bool,
    /// Whether spans are printed.
    pub traces: bool,
}

impl Settings {
    pub fn from_env() -> Result<Self, Box<dyn Error>> {
        let var = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        let dir = env::temp_dir().join("diesel-deferred-service");
        let settings = Self {
            database: var("DATABASE_URL", &dir.join("service.db").to_string_lossy()),
            outbox: var("OUTBOX", &dir.join("outbox").to_string_lossy()).into(),
            listen: var("LISTEN", "127.0.0.1:8000"),
            grace: Duration::from_secs(var("GRACE_SECONDS", "10").parse()?),
            mail_delay: Duration::from_millis(var("MAIL_DELAY_MS", "0").parse()?),
            lease: Duration::from_secs(var("LEASE_SECONDS", "30").parse()?),
            works: var("WORKER", "on") == "on",
            faults: var("FAULTS", "off") == "on",
            traces: var("TRACES", "off") == "on",
        };
        // SQLite's file may be there, too.
        std::fs::create_dir_all(&settings.outbox)?;
        std::fs::create_dir_all(settings.receipts())?;
        let (outbox, receipts) = (settings.outbox.display(), settings.receipts());
        println!("database: {}\noutbox: {outbox}\nreceipts: {}", settings.database, receipts.display());
        Ok(settings)
    }

    /// Where receipts are written: beside the outbox.
    pub fn receipts(&self) -> PathBuf {
        self.outbox.with_file_name("receipts")
    }

    pub fn is_postgres(&self) -> bool {
        self.database.starts_with("postgres:") || self.database.starts_with("postgresql:")
    }
}

/// Cancelled by Ctrl-C, or by what a process is told to end with.
pub fn interrupted() -> CancellationToken {
    let signal = CancellationToken::new();
    tokio::spawn(listen(signal.clone()));
    signal
}

async fn listen(signal: CancellationToken) {
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
