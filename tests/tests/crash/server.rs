//! Servers of a test's own, to be stopped, killed and started at will. `./test` sees to it that
//! their programs are there.

use std::fs::{File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use diesel_deferred_tests::Database;
use tempfile::TempDir;

/// A server that ends when this value does.
#[derive(Debug)]
pub struct Server {
    directory: TempDir,
    url: String,
    program: PathBuf,
    arguments: Vec<String>,
    /// PostgreSQL refuses to run as root, and MariaDB should not.
    user: &'static str,
    running: Option<Child>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// It ends all connections and leaves everything in order.
    Fast,
    /// It falls over, and has to recover when it is started.
    Crash,
}

impl Server {
    /// Makes a PostgreSQL; it does not run yet.
    #[cfg(feature = "postgres")]
    pub fn postgres() -> Self {
        let (mut server, port) = Self::made("postgres", "postgres");
        let data = server.path("data");
        let initdb = server.program.with_file_name("initdb");
        server.prepare(&initdb, &words(&format!("-D {data} -U postgres -A trust -E UTF8 --no-locale --no-sync")));
        server.url = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
        // Not `synchronous_commit=off`: what is committed must be there when the server has
        // crashed.
        server.arguments = words(&format!(
            "-D {data} -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c full_page_writes=off"
        ));
        server
    }

    /// Makes a MariaDB or MySQL; it does not run yet.
    #[cfg(feature = "mysql")]
    pub fn mysql() -> Self {
        let (mut server, port) = Self::made("mariadbd mysqld", "mysql");
        let (data, directory) = (server.path("data"), server.path(""));
        let version = Command::new(&server.program).arg("--version").output().expect("its version").stdout;
        if String::from_utf8_lossy(&version).contains("MariaDB") {
            let install = find("mariadb-install-db mysql_install_db");
            let method = "--auth-root-authentication-method=normal --skip-test-db --innodb-log-file-size=16M";
            server.prepare(&install, &words(&format!("--no-defaults {method} --datadir={data} --tmpdir={directory}")));
        } else {
            let mysqld = server.program.clone();
            server.prepare(&mysqld, &words(&format!("--no-defaults --initialize-insecure --datadir={data}")));
        }
        let sql = "CREATE DATABASE IF NOT EXISTS test; CREATE USER IF NOT EXISTS root@127.0.0.1 IDENTIFIED BY ''; \
                   GRANT ALL PRIVILEGES ON *.* TO root@127.0.0.1 WITH GRANT OPTION;";
        std::fs::write(server.path("init.sql"), sql.replace("; ", ";\n")).expect("written");
        server.url = format!("mysql://root@127.0.0.1:{port}/test");
        server.arguments = words(&format!(
            "--no-defaults --datadir={data} --tmpdir={directory} --init-file={init} --port={port} --bind-address=127.0.0.1 \
             --skip-networking=0 --skip-name-resolve --socket={socket} --pid-file={pid} --loose-mysqlx=OFF \
             --performance-schema=OFF --loose-skip-log-bin --innodb-buffer-pool-size=32M --loose-innodb-log-file-size=16M \
             --innodb-flush-log-at-trx-commit=2",
            init = server.path("init.sql"),
            socket = server.path("sock"),
            pid = server.path("pid"),
        ));
        server
    }

    fn made(programs: &str, user: &'static str) -> (Self, u16) {
        // Not the system's directory for temporary files: it can be closed to the server's user, or
        // too long for a socket's path.
        let directory = tempfile::Builder::new().prefix("deferred-").tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("for its user too");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port").port();
        let program = find(programs);
        (Self { directory, url: String::new(), program, arguments: Vec::new(), user, running: None }, port)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn prepare(&self, program: &Path, arguments: &[String]) {
        let status = self.command(program, arguments).status().unwrap_or_else(|error| panic!("setpriv: {error}"));
        assert!(status.success(), "{}: {}", program.display(), self.log());
    }

    fn command(&self, program: &Path, arguments: &[String]) -> Command {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        // Should this process be killed, its servers end all the same.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if std::fs::metadata("/proc/self").expect("/proc").uid() == 0 {
            let known = Command::new("id").arg(self.user).output().is_ok_and(|id| id.status.success());
            let user = if known { self.user } else { "nobody" };
            let group = Command::new("id").args(["-g", user]).output().expect("id").stdout;
            command.arg(format!("--reuid={user}")).arg(format!("--regid={}", String::from_utf8_lossy(&group).trim()));
            command.arg("--clear-groups");
        }
        command.arg(program).args(arguments).current_dir(self.directory.path()).env("LC_ALL", "C").env_remove("TMPDIR");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Where it is, also after it was started anew.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it, and waits until it answers.
    pub fn start<C: Database>(&mut self) {
        let mut child = self.command(&self.program, &self.arguments).spawn().expect("setpriv");
        let deadline = Instant::now() + Duration::from_secs(60);
        while C::establish(&self.url).is_err() {
            let ended = child.try_wait().expect("its state");
            assert!(ended.is_none() && Instant::now() < deadline, "it does not answer ({ended:?}): {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.running = Some(child);
    }

    /// Ends it, and waits until it has ended.
    pub fn end<C: Database>(&mut self, end: End) {
        let mut child = self.running.take().expect("it runs");
        let signal = match (end, C::NAME) {
            (End::Fast, "PostgreSQL") => "INT",
            (End::Fast, _) => "TERM",
            // With SIGKILL its other processes would be there still, and it could not start.
            (End::Crash, "PostgreSQL") => "QUIT",
            (End::Crash, _) => "KILL",
        };
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill").success());
        child.wait().expect("it ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // The data is thrown away. PostgreSQL's other processes end with the first one.
            let _ = Command::new("kill").arg("-QUIT").arg(child.id().to_string()).status();
            let deadline = Instant::now() + Duration::from_secs(10);
            while child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// One of these programs: in PATH, or where only root's PATH has them, or where Debian keeps
/// PostgreSQL's.
fn find(programs: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    let found = programs.split(' ').find_map(|program| {
        let program = places.iter().map(|place| place.join(program)).find(|path| path.is_file())?;
        // Beside the real one are its other programs.
        program.canonicalize().ok()
    });
    found.unwrap_or_else(|| {
        panic!(
            "this test starts a server of its own, to restart it, and there is no `{programs}`: `./test` installs it (on Debian: apt-get \
             install postgresql mariadb-server)"
        )
    })
}
