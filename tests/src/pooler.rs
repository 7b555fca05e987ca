//! A PgBouncer in transaction mode, in front of the tests' server. `./test` sees to it that the program
//! is there.

use std::fs::{File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::database::server;
use crate::proxy::server_of;

/// A pooler, with any database of the server behind it.
#[derive(Debug)]
pub struct Pooler {
    directory: TempDir,
    port: u16,
    running: Option<Child>,
    keeps_statements: bool,
}

/// Where workers are to connect, instead of directly to their databases: the tests of workers are
/// run once more behind a pooler.
const OF_WORKERS: &str = "DEFERRED_TESTS_POOLER";

/// The URL by which workers connect to this database of PostgreSQL's.
pub(crate) fn url_of_workers(url: &str) -> String {
    std::env::var(OF_WORKERS).map_or_else(|_| url.to_owned(), |address| behind(&address, url))
}

/// Whether workers are behind a pooler.
pub(crate) fn is_in_front_of_workers() -> bool {
    std::env::var_os(OF_WORKERS).is_some()
}

/// The URL of the database that way.
fn behind(address: &str, url: &str) -> String {
    let (_, database) = url.rsplit_once('/').expect("a database");
    let database = database.split_once('?').map_or(database, |(database, _)| database);
    format!("postgres://postgres@{address}/{database}?sslmode=disable")
}

impl Pooler {
    /// Starts one with so many sessions of each database for all clients together.
    pub fn new(sessions: u32) -> Self {
        let version = Command::new("pgbouncer").env("PATH", path()).arg("--version").output();
        let version = version.expect("`./test` installs pgbouncer (on Debian: apt-get install pgbouncer)").stdout;
        let keeps_statements = keeps_statements(&String::from_utf8_lossy(&version));
        // Not the system's directory for temporary files: it can be closed to the program's user.
        let directory = tempfile::Builder::new().prefix("deferred-").tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("for its user too");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port").port();
        let server = server("PG_DATABASE_URL");
        let (host, server_port) = server_of(&server).rsplit_once(':').unwrap_or((server_of(&server), "5432"));
        let (_, rest) = server.split_once("://").expect("a URL");
        let login = rest.rsplit_once('@').map_or("postgres", |(login, _)| login);
        let login = login
            .split_once(':')
            .map_or_else(|| format!("user={login}"), |(user, password)| format!("user={user} password='{password}'"));
        let statements = if keeps_statements { "max_prepared_statements = 100" } else { "" };
        let settings = format!(
            "[databases]\n\
             * = host={host} port={server_port} {login}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {sessions}\n\
             {statements}\n"
        );
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("written");
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("for its user too");
        let mut pooler = Self { directory, port, running: None, keeps_statements };
        pooler.start();
        pooler
    }

    /// A database, by way of the pooler.
    pub fn in_front_of(&self, url: &str) -> String {
        behind(&self.address(), url)
    }

    /// Has the workers of a program of tests connect this way.
    pub fn in_front_of_workers(&self, program: &mut Command) {
        program.env(OF_WORKERS, self.address());
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether the pooler keeps the prepared statements of its clients apart: from version 1.21 on.
    pub fn keeps_statements(&self) -> bool {
        self.keeps_statements
    }

    /// Stops the pooler, with all its connections, and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    fn start(&mut self) {
        let log = self.directory.path().join("log");
        let out = File::options().create(true).append(true).open(&log).expect("a log");
        // Should this process be killed, it ends all the same. It refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).env("PATH", path());
        if std::fs::metadata("/proc/self").expect("/proc").uid() == 0 {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        }
        command.args(["pgbouncer", "pgbouncer.ini"]).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a log")).stderr(out);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("setpriv: {error}"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = child.try_wait().expect("its state");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "it does not answer ({ended:?}): {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.running = Some(child);
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Only root's has the program on Debian.
fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

/// By what it says of its version: `PgBouncer 1.18.0`.
fn keeps_statements(said: &str) -> bool {
    let version = said.split_whitespace().nth(1).expect("a version");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(21))
}
