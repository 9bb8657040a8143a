//! A PostgreSQL server of a test's own, as the user `postgres`, on a private socket and port.

#![allow(dead_code, reason = "no test file needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Server {
    /// Its socket, its log, and `data`.
    pub directory: PathBuf,
    pub binaries: PathBuf,
    pub port: u16,
    process: RefCell<Child>,
    /// The directory goes with the server, if it was made for it.
    scratch: Option<tempfile::TempDir>,
}

impl Server {
    /// One in a directory of its own, which logs all that it can.
    pub(crate) fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let loudly = [
            "log_statement=all",
            "log_min_duration_statement=0",
            "log_min_error_statement=debug5",
            "log_parameter_max_length_on_error=-1",
        ];
        let mut server = Self::start_in(scratch.path(), &loudly);
        server.scratch = Some(scratch);
        server
    }

    /// One with these settings in a directory that others keep.
    pub(crate) fn start_in(directory: &Path, settings: &[&str]) -> Self {
        let (directory, binaries, (uid, gid)) = (directory.to_owned(), binaries(), postgres());
        chown(&directory, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let made = Command::new(binaries.join("initdb"))
            .args(["--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--wal-segsize=1", "--pgdata"])
            .arg(directory.join("data"))
            .current_dir("/")
            .uid(uid)
            .gid(gid)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = ["listen_addresses='127.0.0.1'", "fsync=off", "wal_keep_size=0", "min_wal_size='2MB'"];
        let settings = [own.as_slice(), settings].concat().join("\n");
        fs::write(directory.join("data/postgresql.auto.conf"), settings).unwrap();
        let process = RefCell::new(launch(&directory, &binaries, port));
        let server = Self { directory, binaries, port, process, scratch: None };
        server.await_start();
        server
    }

    fn await_start(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.psql("SELECT 1").is_err() {
            assert!(Instant::now() < deadline, "the server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, lets `meanwhile` work on its data, and starts it again.
    pub(crate) fn without(&self, meanwhile: impl FnOnce(&Path)) {
        self.end(Signal::QUIT);
        let data = self.directory.join("data");
        let _ = fs::remove_file(data.join("postmaster.pid"));
        meanwhile(&data);
        *self.process.borrow_mut() = launch(&self.directory, &self.binaries, self.port);
        self.await_start();
    }

    fn end(&self, signal: Signal) {
        let mut process = self.process.borrow_mut();
        let _ = kill_process(Pid::from_child(&process), signal);
        let _ = process.wait();
    }

    /// The options of a script that connects to it.
    pub(crate) fn options(&self) -> String {
        format!("host: \"{}\", port: {}", self.directory.display(), self.port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    pub(crate) fn psql_command(&self, database: &str) -> Command {
        let (uid, gid) = postgres();
        let mut command = Command::new(self.binaries.join("psql"));
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]);
        command.arg("-h").arg(&self.directory).args(["-p", &self.port.to_string(), "-d", database]);
        command.current_dir("/").uid(uid).gid(gid);
        command
    }

    pub(crate) fn psql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.psql_command(database).args(["-c", sql]).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) fn psql(&self, sql: &str) -> Result<String, String> {
        self.psql_in("postgres", sql)
    }

    /// Whether the role can log in with this password over TCP.
    pub(crate) fn logs_in(&self, role: &str, password: &str, database: &str) -> bool {
        let output = Command::new(self.binaries.join("psql"))
            .args(["--no-psqlrc", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", role])
            .args(["-d", database, "-c", "SELECT 1"])
            .env("PGPASSWORD", password)
            .current_dir("/")
            .output()
            .unwrap();
        output.status.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without waiting for sessions.
        self.end(Signal::INT);
    }
}

fn launch(directory: &Path, binaries: &Path, port: u16) -> Child {
    let (uid, gid) = postgres();
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    Command::new(binaries.join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-p", &port.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .uid(uid)
        .gid(gid)
        .spawn()
        .unwrap()
}

fn postgres() -> (u32, u32) {
    let user = nix::unistd::User::from_name("postgres").unwrap().expect("there is a user `postgres`");
    (user.uid.as_raw(), user.gid.as_raw())
}

fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let mut found: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop().expect("there is an initdb")
}
