//! The service in a process of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Client;
use crate::rows::Scratch;

/// Far beyond what anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Service {
    child: Child,
    pub client: Client,
    outbox: PathBuf,
    errors: PathBuf,
    inside: Inside,
    printed: JoinHandle<Vec<String>>,
}

/// Who wants to know that a slow request waits inside its block.
type Inside = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// What became of a service.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub printed: Vec<String>,
}

/// One of the two binaries, about to be started.
fn command(binary: &str, scratch: &Scratch, settings: &[(&str, &str)], errors: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .envs([("DATABASE_URL", scratch.url.as_str()), ("LISTEN", "127.0.0.1:0"), ("FAULTS", "on")])
        .env("OUTBOX", scratch.directory.path().join("outbox"))
        .env("RUST_BACKTRACE", "0")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(errors).expect("a file for what it complains of"))
        .kill_on_drop(true);
    command
}

/// Starts a process that only works; returns when it does.
pub async fn start_worker(scratch: &Scratch, settings: &[(&str, &str)]) -> Child {
    let errors = scratch.directory.path().join("worker.stderr");
    let mut child =
        command(env!("CARGO_BIN_EXE_worker"), scratch, settings, &errors).spawn().expect("the worker starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let working =
        async { while lines.next_line().await.expect("its output is text").expect("it goes on") != "working" {} };
    timeout(LONG, working).await.expect("it works in time");
    child
}

impl Service {
    pub async fn start(scratch: &Scratch, settings: &[(&str, &str)]) -> Self {
        let outbox = scratch.directory.path().join("outbox");
        let errors = scratch.directory.path().join("stderr");
        let mut child =
            command(env!("CARGO_BIN_EXE_service"), scratch, settings, &errors).spawn().expect("the service starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = timeout(LONG, listening(&mut lines)).await.expect("it listens in time");
        let address =
            address.unwrap_or_else(|| panic!("it ended: {}", fs::read_to_string(&errors).unwrap_or_default()));
        let inside = Inside::default();
        let printed = tokio::spawn(listen(lines, Arc::clone(&inside)));
        Self { child, client: Client::new(address), outbox, errors, inside, printed }
    }

    /// Tells when a slow request for this user waits inside its block.
    pub fn inside(&self, email: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.inside.lock().expect("nobody panics").insert(email.to_owned(), sender);
        receiver
    }

    pub fn outbox(&self) -> PathBuf {
        self.outbox.clone()
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().await;
        assert!(status.expect("`kill` runs").success());
    }

    /// Waits until it has ended.
    pub async fn ended(mut self) -> Ended {
        let status = timeout(LONG, self.child.wait()).await.expect("it ends in time").expect("its status");
        let printed = timeout(LONG, self.printed).await.expect("its output ends with it").expect("its output");
        Ended { status, printed }
    }

    /// What it complained of.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

/// The address that it listens at, unless it ends first.
async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    while let Some(line) = lines.next_line().await.expect("its output is text") {
        if let Some(address) = line.strip_prefix("listening on ") {
            return Some(address.to_owned());
        }
    }
    None
}

/// Reads what it prints, to the end.
async fn listen(mut lines: Lines<BufReader<ChildStdout>>, inside: Inside) -> Vec<String> {
    let mut printed = Vec::new();
    while let Some(line) = lines.next_line().await.expect("its output is text") {
        match line.strip_prefix("waits inside its transaction: ") {
            Some(email) => {
                if let Some(waiter) = inside.lock().expect("nobody panics").remove(email) {
                    let _ = waiter.send(());
                }
            }
            None => printed.push(line),
        }
    }
    printed
}

/// The mails in an outbox, sorted: which user each is about, and who got it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mails {
    pub welcome: Vec<(i32, String)>,
    pub thanks: Vec<(i32, String)>,
}

impl Mails {
    pub fn read(outbox: &Path) -> Self {
        let mut mails = Self::default();
        for file in fs::read_dir(outbox).expect("the outbox") {
            let mail = fs::read_to_string(file.expect("a file").path()).expect("a mail");
            let field = |name: &str| mail.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            // One that is being written is not there yet.
            let (Some(to), Some(subject)) = (field("To:"), field("Subject:")) else { continue };
            let (kind, user) = subject.split_once("user ").expect("a user in the subject");
            let of_kind = if kind == "Welcome, " { &mut mails.welcome } else { &mut mails.thanks };
            of_kind.push((user.parse().expect("a number"), to.trim_matches(['<', '>']).to_owned()));
        }
        mails.welcome.sort();
        mails.thanks.sort();
        mails
    }
}

/// The mails are those of the rows, each once; or else says which are not.
#[track_caller]
pub fn assert_mails_are_rows(mails: &[(i32, String)], rows: &[(i32, String)]) {
    let beyond = |some: &[(i32, String)], others: &[(i32, String)]| {
        let mut beyond = some.to_vec();
        for other in others {
            if let Some(place) = beyond.iter().position(|one| one == other) {
                beyond.remove(place);
            }
        }
        beyond
    };
    let (unsent, uncommitted) = (beyond(rows, mails), beyond(mails, rows));
    assert!(
        unsent.is_empty() && uncommitted.is_empty(),
        "committed, but no mail was sent: {unsent:?}\nsent, but not committed, or twice: {uncommitted:?}"
    );
}
