//! Talks to PostgreSQL servers: as an operating-system user over a socket, or with a password over TCP.

mod password;
mod row;
mod statement;
mod value;

use std::fmt::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use postgres::error::{DbError, SqlState};
use postgres::{Client, Config, NoTls};
use serde::{Deserialize, Serialize};

pub use self::password::{Verifier, fits, verifier};
pub use self::row::Row;
pub use self::statement::{binds, inlined};
pub use self::value::Parameter;
use super::account::Account;
use super::files::{User, as_user};
use super::process::Processes;
use crate::failure::{Failure, FailureKind};

/// Where Debian's servers have their sockets.
const SOCKETS: &str = "/var/run/postgresql";
/// The port of the first server of a machine.
const PORT: u16 = 5432;
/// The operating-system user that owns the servers, and the role of the same name that owns all in them.
const OWNER: &str = "postgres";
/// The name by which kkrun's own connections can be told from others.
const APPLICATION: &str = "kkrun";
/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long a server that says it is starting is waited for.
const STARTING: Duration = Duration::from_secs(15);
/// How long between two attempts.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// How often the run is checked for a request to stop while a statement runs.
const WATCHING: Duration = Duration::from_millis(100);

/// A server, a database in it and a role: plain data, without a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The directory of its socket, or the name or address of its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// The operating-system user that connects to a socket.
    pub os_user: String,
    /// The name under which the password is stored, if one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: SOCKETS.to_owned(),
            port: PORT,
            user: OWNER.to_owned(),
            dbname: OWNER.to_owned(),
            os_user: OWNER.to_owned(),
            secret: None,
        }
    }
}

impl Server {
    /// The same server, seen from another database.
    pub fn at(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// What distinguishes this server from the machine's first one: host and port, the host empty for the usual
    /// directory of sockets; `None` for the first one.
    pub fn address(&self) -> Option<(&str, u16)> {
        match (self.host.as_str(), self.port) {
            (SOCKETS, PORT) => None,
            (SOCKETS, port) => Some(("", port)),
            (host, port) => Some((host, port)),
        }
    }

    /// Whether it is reached by a socket of this machine.
    pub fn is_local_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// The same server over TCP, at the host and port where it listens by default.
    pub fn over_tcp(&self, user: &str, dbname: &str) -> Self {
        let host = if self.is_local_socket() { "127.0.0.1".to_owned() } else { self.host.clone() };
        Self { host, user: user.to_owned(), dbname: dbname.to_owned(), ..self.clone() }
    }

    /// Its address, for messages.
    fn place(&self) -> String {
        if self.is_local_socket() {
            format!("{}/.s.PGSQL.{}", self.host.trim_end_matches('/'), self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn config(&self, password: Option<&str>) -> Config {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.dbname)
            .application_name(APPLICATION)
            .connect_timeout(CONNECTING);
        if let Some(password) = password {
            config.password(password);
        }
        config
    }

    fn attempt(&self, password: Option<&str>) -> Result<Result<Client, postgres::Error>> {
        let config = self.config(password);
        if !self.is_local_socket() {
            return Ok(config.connect(NoTls));
        }
        // The server asks the kernel for the user of the thread that connects.
        let account = Account::existing(&self.os_user)?;
        let user = User { uid: account.uid, gid: account.gid, groups: account.groups };
        as_user(&user, || Ok(config.connect(NoTls)))
    }
}

/// An open connection.
pub struct Connection<'run> {
    client: Client,
    processes: &'run Processes,
}

impl<'run> Connection<'run> {
    /// Connects. A server that is still starting is waited for.
    ///
    /// # Errors
    /// A [`Failure`] of kind `unreachable` when no server answers, `denied` when it does not let the role in,
    /// `missing` when there is no such database.
    pub fn open(server: &Server, password: Option<&str>, processes: &'run Processes) -> Result<Self> {
        let deadline = Instant::now() + STARTING;
        loop {
            let error = match server.attempt(password)? {
                Ok(client) => return Ok(Self { client, processes }),
                Err(error) => error,
            };
            let is_starting = error.code() == Some(&SqlState::CANNOT_CONNECT_NOW);
            if !is_starting || Instant::now() >= deadline {
                return Err(connect_failure(server, &error).into());
            }
            processes.check_interruption()?;
            processes.pause(BETWEEN_ATTEMPTS);
        }
    }

    /// Runs one statement with bound parameters and gives its rows.
    pub fn query(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>> {
        let rows = self.watched(|client| {
            let bound: Vec<_> = parameters
                .iter()
                .map(|parameter| parameter as &(dyn postgres::types::ToSql + Sync))
                .collect();
            client.query(sql, &bound)
        })?;
        rows.iter().map(row::read).collect()
    }

    /// The first value of the first row, if there is one.
    pub fn value(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Option<serde_json::Value>> {
        let rows = self.query(sql, parameters)?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).map(|(_, value)| value))
    }

    /// Whether the first value is true.
    pub fn is_true(&mut self, sql: &str, parameters: &[Parameter]) -> Result<bool> {
        Ok(self.value(sql, parameters)?.and_then(|value| value.as_bool()).unwrap_or(false))
    }

    /// Runs one statement with bound parameters. Several at once are refused by the server.
    pub fn execute(&mut self, sql: &str, parameters: &[Parameter]) -> Result<()> {
        self.watched(|client| {
            let bound: Vec<_> = parameters
                .iter()
                .map(|parameter| parameter as &(dyn postgres::types::ToSql + Sync))
                .collect();
            client.execute(sql, &bound)
        })
        .map(drop)
    }

    /// Runs `inside` in a transaction in which nothing can be changed.
    pub fn read_only<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.execute("BEGIN READ ONLY", &[])?;
        self.rolled_back(inside)
    }

    /// Runs `inside` in a transaction that is rolled back.
    pub fn trying<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.execute("BEGIN", &[])?;
        self.rolled_back(inside)
    }

    /// Runs `inside` in one transaction: all of its changes are made, or none.
    pub fn together<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.execute("BEGIN", &[])?;
        match inside(self) {
            Ok(value) => {
                self.execute("COMMIT", &[])?;
                Ok(value)
            }
            Err(error) => {
                let _ = self.execute("ROLLBACK", &[]);
                Err(error)
            }
        }
    }

    fn rolled_back<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let found = inside(self);
        // The server rolls back by itself when the connection breaks.
        let ended = self.execute("ROLLBACK", &[]);
        let found = found?;
        ended?;
        Ok(found)
    }

    /// Keeps the server from writing what comes next to its log, in this session; returns whether it does. Only a
    /// superuser may.
    pub fn hush(&mut self) -> Result<bool> {
        let is_superuser = self.is_true("SELECT current_setting('is_superuser') = 'on'", &[])?;
        if !is_superuser {
            return Ok(false);
        }
        // A server of another version may not know all of them. Error messages can contain a secret value too.
        let quiet = "SELECT set_config(name, desired, false) FROM (VALUES \
                     ('log_statement', 'none'), ('log_duration', 'off'), ('log_min_duration_statement', '-1'), \
                     ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'), \
                     ('log_min_error_statement', 'panic'), ('log_min_messages', 'fatal')) AS quiet (name, desired) \
                     JOIN pg_settings USING (name)";
        self.query(quiet, &[])?;
        Ok(true)
    }

    /// Whether the server would write the parameters of this session's statements to its log.
    fn logs_parameters(&mut self) -> Result<bool> {
        self.is_true(
            "SELECT current_setting('log_statement') IN ('mod', 'all') \
             OR current_setting('log_min_duration_statement') <> '-1' \
             OR current_setting('log_min_duration_sample', true) <> '-1' \
             OR current_setting('log_transaction_sample_rate', true)::float8 > 0",
            &[],
        )
    }

    /// Keeps a secret in the next statements out of the server's log.
    ///
    /// # Errors
    /// When that is impossible: the server logs the statements of this role, or would log a failed one.
    pub fn hide(&mut self, is_bound: bool) -> Result<()> {
        if self.hush()? || (is_bound && !self.logs_parameters()?) {
            return Ok(());
        }
        bail!(
            Failure::new("cannot hide the secret in this statement: the server would write it to its log")
                .kind(FailureKind::Secret)
                .hint("connect as a superuser, who can stop the server from logging it: leave out `user`")
                .hint("set the password of a role with pg::ensure_role")
        )
    }

    /// Waits until no statement of a killed run is left: the server finishes them without their client.
    pub fn await_earlier(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let busy = "SELECT count(*) > 0 FROM pg_stat_activity \
                    WHERE application_name = $1 AND state = 'active' AND pid <> pg_backend_pid()";
        while self.is_true(busy, &[Parameter::text(APPLICATION)])? {
            if Instant::now() >= deadline {
                bail!("a statement that a killed run began is still running in the server");
            }
            self.processes.check_interruption()?;
            self.processes.pause(BETWEEN_ATTEMPTS);
        }
        Ok(())
    }

    /// Lets the client work while this thread watches for a request to stop the run, and then cancels the statement at
    /// the server.
    fn watched<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send,
    ) -> Result<T> {
        let (client, processes) = (&mut self.client, self.processes);
        let cancel = client.cancel_token();
        let asked_before = processes.interruption();
        let worked = std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel::<()>();
            let worker = std::thread::Builder::new()
                .name("postgresql".to_owned())
                .spawn_scoped(scope, move || {
                    let worked = work(client);
                    drop(done);
                    worked
                })
                .context("cannot start a thread")?;
            while finished.recv_timeout(WATCHING) == Err(RecvTimeoutError::Timeout) {
                if processes.interruption() != asked_before {
                    // It may have ended by itself meanwhile: then there is nothing to cancel.
                    let _ = cancel.cancel_query(NoTls);
                }
            }
            anyhow::Ok(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        worked.map_err(|error| {
            if error.code() == Some(&SqlState::QUERY_CANCELED)
                && let Err(interruption) = processes.check_interruption()
            {
                return interruption;
            }
            failure(&error).into()
        })
    }
}

/// The SQLSTATE of an error, if the server sent it. Source: PostgreSQL manual, appendix A.
pub fn sql_state(error: &anyhow::Error) -> Option<&str> {
    let failure = error.downcast_ref::<Failure>()?;
    let (_, state) = failure.message.rsplit_once(" (SQLSTATE ")?;
    state.strip_suffix(')')
}

fn failure(error: &postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(reported) => known_at(reported),
        None => Failure::new(format!("PostgreSQL: {}", with_sources(error))).kind(FailureKind::Sql),
    }
}

/// The server's message. Its own log may hold the statement; this never does.
fn known_at(reported: &DbError) -> Failure {
    let mut message = format!("PostgreSQL: {}", reported.message());
    if let Some(detail) = reported.detail() {
        let _ = write!(message, ": {}", detail.trim_end_matches('.'));
    }
    let mut failure =
        Failure::new(format!("{message} (SQLSTATE {})", reported.code().code())).kind(FailureKind::Sql);
    if let Some(hint) = reported.hint() {
        failure = failure.hint(hint);
    }
    failure
}

fn connect_failure(server: &Server, error: &postgres::Error) -> Failure {
    let place = server.place();
    let (user, os_user, dbname) = (&server.user, &server.os_user, &server.dbname);
    let Some(reported) = error.as_db_error() else {
        let failure =
            Failure::new(format!("no PostgreSQL server answers at `{place}`: {}", with_sources(error)))
                .kind(FailureKind::Unreachable);
        return failure
            .hint("start it first: unit::start(\"postgresql.service\")")
            .hint("list the servers of this machine and their ports: `pg_lsclusters`");
    };
    let plain = known_at(reported);
    match reported.code() {
        code if *code == SqlState::CANNOT_CONNECT_NOW => {
            Failure::new(format!("the PostgreSQL server at `{place}` is still starting"))
                .kind(FailureKind::Unreachable)
        }
        code if *code == SqlState::INVALID_CATALOG_NAME => {
            Failure::new(format!("database `{dbname}` not found at `{place}` (SQLSTATE 3D000)"))
                .kind(FailureKind::Missing)
        }
        code if *code == SqlState::INVALID_PASSWORD => Failure::new(format!(
            "the PostgreSQL server at `{place}` refused this password for the role `{user}` (SQLSTATE 28P01)"
        ))
        .kind(FailureKind::Denied),
        code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            let failure = Failure::new(format!("{} (at `{place}`)", plain.message)).kind(FailureKind::Denied);
            if server.is_local_socket() {
                failure.hint(format!(
                    "let the operating-system user `{os_user}` (option `os_user`) connect as the role `{user}`: pg_hba.conf, pg_ident.conf"
                ))
            } else {
                failure.hint("check in pg_hba.conf who may connect from where")
            }
        }
        _ => Failure { message: format!("cannot connect to `{place}`: {}", plain.message), ..plain },
    }
}

/// An error with all that caused it: the crate's own message names only the activity.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A name as SQL writes it.
pub fn identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// A string as SQL writes it.
pub fn literal(text: &str) -> String {
    // The form with backslashes begins with a space, which protects it in concatenations.
    postgres_protocol::escape::escape_literal(text).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::machine::signal::Signals;

    /// Answers each connection with the next of these errors.
    fn answering(
        directory: &std::path::Path,
        states: &'static [&'static str],
    ) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
        std::thread::spawn(move || {
            for state in states {
                let (mut stream, _) = listener.accept().unwrap();
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut startup).unwrap();
                let fields = format!("SFATAL\0VFATAL\0C{state}\0Mtold\0\0");
                stream.write_all(b"E").unwrap();
                stream.write_all(&u32::try_from(fields.len() + 4).unwrap().to_be_bytes()).unwrap();
                stream.write_all(fields.as_bytes()).unwrap();
            }
        })
    }

    fn refused(directory: &std::path::Path, states: &'static [&'static str]) -> Failure {
        let server = Server {
            host: directory.display().to_string(),
            os_user: Account::current().unwrap().name,
            ..Server::default()
        };
        let processes = Processes::new("run", &directory.join("notes"), Signals::deaf().unwrap());
        let answers = answering(directory, states);
        let refused = Connection::open(&server, None, &processes).err().unwrap();
        answers.join().unwrap();
        refused.downcast::<Failure>().unwrap()
    }

    #[test]
    fn a_server_that_is_starting_is_waited_for_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let failure = refused(directory.path(), &["57P03", "57P03", "3D000"]);
        assert_eq!(failure.message.split(" at ").next(), Some("database `postgres` not found"));
    }

    #[test]
    fn a_server_that_does_not_run_is_named_with_what_starts_it() {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().display().to_string();
        let server = Server { host: host.clone(), os_user: "root".to_owned(), ..Server::default() };
        let processes = Processes::new("run", &directory.path().join("notes"), Signals::deaf().unwrap());
        let error = Connection::open(&server, None, &processes).err().unwrap();
        let failure = error.downcast::<Failure>().unwrap();
        assert!(failure.message.contains(&format!("{host}/.s.PGSQL.5432")), "{}", failure.message);
        assert!(failure.hints[0].contains("unit::start"), "{:?}", failure.hints);
    }

    #[test]
    fn a_target_names_its_server_unless_it_is_the_usual_one() {
        let usual = Server::default();
        assert_eq!(usual.address(), None);
        assert_eq!(Server { port: 5433, ..usual.clone() }.address(), Some(("", 5433)));
        assert_eq!(Server { host: "db".to_owned(), ..usual }.address(), Some(("db", 5432)));
    }
}
