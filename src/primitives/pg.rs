//! `pg::` queries PostgreSQL servers, and brings roles and databases to their desired state.

use std::cell::Cell;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use rhai::plugin::*;
use rhai::{FnPtr, Map};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::shorter::namespace;
use crate::change::{
    Change, DatabaseChange, DesiredDatabase, DesiredRole, Login, Payload, RoleChange, Statement,
    StatementChange, StatementInverse, label_of, query_holds, recordable,
};
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::Class;
use crate::machine::files::Digest;
use crate::machine::postgres::{Connection, Parameter, Server, identifier};
use crate::machine::random;
use crate::script::{
    Host, OptionSet, Raised, Secret, Unpredictable, act, look, option_names, options_of, value_of,
};
use crate::session::WouldChange;

pub(super) fn module() -> rhai::Module {
    namespace(
        exported_manifest!(functions),
        &[
            ("query", 2),
            ("value", 2),
            ("execute", 2),
            ("ensure_role", 1),
            ("ensure_database", 1),
            ("can_create", 1),
        ],
    )
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    let own = match function {
        "query" | "value" | "can_create" => OptionSet::default(),
        "execute" => OptionSet::of::<ExecuteOptions>()
            .with("unless", &["string", "closure"])
            .with("undo", &["string", "array"]),
        "ensure_role" => OptionSet::of::<RoleOptions>(),
        "ensure_database" => OptionSet::of::<DatabaseOptions>(),
        _ => return None,
    };
    let connection = OptionSet::of::<ServerOptions>().with("connection", &["map"]);
    Some(own.and(connection).with("password", &["string", "secret", "int"]))
}

/// The options that say which server, which database, and as whom.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServerOptions {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    dbname: Option<String>,
    os_user: Option<String>,
}

/// Takes those options out of a map; the password only if it belongs to the connection.
fn login_from(host: &Host, options: &mut Map, with_password: bool) -> Result<Login> {
    let mut given = Map::new();
    for name in option_names::<ServerOptions>() {
        if let Some((name, value)) = options.remove_entry(*name) {
            given.insert(name, value);
        }
    }
    let mut password = if with_password { options.remove("password") } else { None };
    if let Some(connection) = options.remove("connection") {
        let kind = connection.type_name();
        let Some(mut connection) = connection.try_cast::<Map>() else {
            bail!(
                Failure::new(format!("`connection` must be a map, not a {kind}")).kind(FailureKind::Option)
            );
        };
        password = connection.remove("password").or(password);
        given.extend(connection);
    }
    let options: ServerOptions = options_of(given)?;
    let default = Server::default();
    let os_user = options.os_user.unwrap_or(default.os_user);
    let secret =
        password.as_ref().and_then(|password| Some(password.read_lock::<Secret>()?.name().to_owned()));
    let password = password.map(|password| host.text_or_secret(&password, "`password`")).transpose()?;
    let server = Server {
        host: options.host.unwrap_or(default.host),
        port: options.port.unwrap_or(default.port),
        user: options.user.unwrap_or_else(|| os_user.clone()),
        dbname: options.dbname.unwrap_or(default.dbname),
        os_user,
        secret,
    };
    Ok(Login { server, password })
}

/// A login that is going to be recorded, so its password must be stored.
fn recorded_login(host: &Host, options: &mut Map, with_password: bool) -> Result<Login> {
    let login = login_from(host, options, with_password)?;
    let Some(password) = &login.password else { return Ok(login) };
    let is_stored = match &login.server.secret {
        Some(name) => host.dry_run() || host.is_stored_secret(name, password)?,
        None => false,
    };
    if !is_stored {
        bail!(
            Failure::new("the password of this connection is not stored: a rollback could not log in")
                .kind(FailureKind::Secret)
                .hint("use secret::ask(name, prompt), which stores it")
        );
    }
    Ok(login)
}

/// Refuses unknown options.
fn no_more(options: &Map) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    options_of::<Nothing>(options.clone()).map(drop)
}

fn parameters(host: &Host, values: rhai::Array) -> Result<Vec<Parameter>> {
    let parameter = |value: Dynamic| {
        if let Some(secret) = Host::secret_text(&value) {
            return Ok(Parameter::Text(secret));
        }
        if value.is_unit() {
            return Ok(Parameter::Null);
        }
        if let Ok(flag) = value.as_bool() {
            return Ok(Parameter::Bool(flag));
        }
        if value.is_int() || value.is_float() {
            return Ok(Parameter::Number(value.to_string()));
        }
        Ok(Parameter::Text(host.text_or_secret(&value, "a parameter")?))
    };
    values.into_iter().map(parameter).collect()
}

/// Refuses, in a dry run, to read a server that a change before this one may have modified.
fn refuse_unknown(host: &Host) -> Result<()> {
    let session = host.seen();
    // What a complete step does whenever it runs says nothing about whether it holds.
    let is_counted = |would: &&WouldChange| !(would.is_repeated && session.examines);
    let mut counted = session.would_change().iter().filter(is_counted);
    match counted.find(|would| would.target.may_reach_databases()) {
        Some(would) if host.dry_run() => {
            Err(Unpredictable(format!("what is in the database after {}", would.summary)).into())
        }
        _ => Ok(()),
    }
}

/// Whether a dry run predicted the packages of a server that this machine has not got: what is made in it is new.
fn awaits_server(host: &Host) -> bool {
    host.installs_packages() && !std::path::Path::new("/usr/share/postgresql-common/pg_wrapper").exists()
}

/// Runs a query that changes nothing.
fn looked<T>(
    host: &Host,
    sql: &str,
    values: rhai::Array,
    mut connection: Map,
    read: impl FnOnce(&mut Connection<'_>, &[Parameter]) -> Result<T>,
) -> Result<T> {
    host.refuse_secret(sql)?;
    let is_secret = values.iter().any(Dynamic::is::<Secret>);
    let values = parameters(host, values)?;
    let login = login_from(host, &mut connection, true)?;
    no_more(&connection)?;
    refuse_unknown(host)?;
    let session = host.seen();
    let mut connection = login.open(&session.world)?;
    if is_secret {
        connection.hide(true)?;
    }
    connection.read_only(|connection| read(connection, &values))
}

fn rows(context: &NativeCallContext, sql: &str, values: rhai::Array, connection: Map) -> Raised<rhai::Array> {
    look(context, |host| {
        let rows = looked(host, sql, values, connection, |connection, values| connection.query(sql, values))?;
        Ok(rows.into_iter().map(|row| value_of(&serde_json::Value::Object(row))).collect())
    })
}

fn first_value(
    context: &NativeCallContext,
    sql: &str,
    values: rhai::Array,
    connection: Map,
) -> Raised<Dynamic> {
    look(context, |host| {
        let value =
            looked(host, sql, values, connection, |connection, values| connection.value(sql, values))?;
        Ok(value.as_ref().map_or(Dynamic::UNIT, value_of))
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExecuteOptions {
    loses: Option<String>,
    irreversible: Option<String>,
    label: Option<String>,
}

/// One call of `pg::execute`.
struct Execution<'call> {
    context: &'call NativeCallContext<'call>,
    host: &'call Host,
    statement: Statement,
    sha256: Digest,
    inverse: StatementInverse,
    unless: Option<Dynamic>,
    options: ExecuteOptions,
    /// In a dry run it is not known whether there is something to do.
    is_unsure: Cell<bool>,
}

impl<'call> Execution<'call> {
    fn of(
        context: &'call NativeCallContext<'call>,
        host: &'call Host,
        sql: &str,
        values: rhai::Array,
        mut options: Map,
    ) -> Result<Self> {
        host.refuse_secret(sql)?;
        let is_secret = values.iter().any(Dynamic::is::<Secret>);
        let names: Vec<String> = values.iter().map(shown).collect();
        let parameters = parameters(host, values)?;
        let login = recorded_login(host, &mut options, true)?;
        let (unless, undo) = (options.remove("unless"), options.remove("undo"));
        let options: ExecuteOptions = options_of(options)?;
        let plain = |sql: &str| {
            host.refuse_secret(sql)?;
            if is_secret && sql.contains('$') {
                bail!(
                    Failure::new("`undo` and `unless` are recorded, so they cannot use parameters if one of these is a secret")
                        .kind(FailureKind::Secret)
                );
            }
            recordable(sql, &parameters)
        };
        let undo = match undo {
            None => Vec::new(),
            Some(undo) => texts(undo)?.iter().map(|sql| plain(sql)).collect::<Result<Vec<_>>>()?,
        };
        let recorded_unless = match &unless {
            Some(query) if query.is_string() => Some(plain(&query.to_string())?),
            Some(closure) if closure.is_fnptr() => None,
            Some(other) => bail!(
                Failure::new(format!("`unless` must be a query or a closure, not a {}", other.type_name()))
                    .kind(FailureKind::Option)
            ),
            None => None,
        };
        let inverse = StatementInverse {
            label: options.label.clone().unwrap_or_else(|| label_of(sql)),
            login,
            undo,
            converges: unless.is_some(),
            unless: recorded_unless,
        };
        let sha256 = Digest::of(format!("{sql}\0{}", names.join("\0")).as_bytes());
        let statement = Statement { sql: sql.to_owned(), parameters, is_secret };
        Ok(Self { context, host, statement, sha256, inverse, unless, options, is_unsure: Cell::new(false) })
    }

    fn execute(&self) -> Result<bool> {
        let change = StatementChange::new(self.sha256, self.inverse.clone());
        let performed = Change::Statement(change.clone());
        self.host.seen().asks_for(|| performed.kind().target());
        if self.holds(&change)? {
            return Ok(false);
        }
        if self.is_unsure.get() && !self.is_in_new_database() {
            let kind = performed.kind();
            self.host.session().might_make(kind.target(), kind.summary());
            return Ok(true);
        }
        let changed = self.host.session().perform_losing(
            &performed,
            self.loses(),
            Payload::Statement(&self.statement),
        )?;
        self.prove()?;
        Ok(changed)
    }

    /// Whether there is nothing to do. In a dry run, what cannot be known counts as not done.
    fn holds(&self, change: &StatementChange) -> Result<bool> {
        if self.unless.is_none() {
            let target = Change::Statement(change.clone()).kind().target();
            let session = self.host.seen();
            let is_in_doubt = session.doubtful(&target).is_some();
            return Ok(!is_in_doubt && change.is_done(session.history().recorded(&target).as_ref()));
        }
        match self.unless_holds() {
            Err(error) if error.is::<Unpredictable>() || self.host.would_have_changed() => {
                self.is_unsure.set(true);
                Ok(false)
            }
            held => held,
        }
    }

    /// Whether a dry run predicted that the database is made: nothing is in it.
    fn is_in_new_database(&self) -> bool {
        let database = self.inverse.login.database(&self.inverse.login.server.dbname);
        let is_made = self.host.seen().would_change().iter().any(|would| would.target == database);
        is_made || awaits_server(self.host)
    }

    fn unless_holds(&self) -> Result<bool> {
        if let Some(query) = &self.inverse.unless {
            refuse_unknown(self.host)?;
            let session = self.host.seen();
            return query_holds(&mut self.inverse.login.open(&session.world)?, query);
        }
        let Some(closure) = self.unless.clone().and_then(Dynamic::try_cast::<FnPtr>) else {
            return Ok(false);
        };
        let value = match self.host.call(self.context, &closure) {
            Ok(value) => value,
            Err(error) if self.host.dry_run() => {
                return Err(Unpredictable(self.host.caught_unknown(error)?).into());
            }
            Err(error) => return Err(error),
        };
        value.as_bool().map_err(|kind| {
            Failure::new(format!("`unless` must return true or false, not a {kind}"))
                .kind(FailureKind::Type)
                .into()
        })
    }

    /// Checks `unless` again after the statement, as proof that it worked.
    fn prove(&self) -> Result<()> {
        if self.host.dry_run() || self.unless.is_none() || self.unless_holds()? {
            return Ok(());
        }
        bail!(Failure::new(format!("`{}` succeeded, but `unless` still does not hold", self.inverse.label)))
    }

    fn loses(&self) -> Option<(Class, String)> {
        if let Some(why) = &self.options.irreversible {
            return Some((Class::Irreversible, why.clone()));
        }
        let loses = self.options.loses.clone().filter(|_| !self.inverse.undo.is_empty());
        loses.map(|what| (Class::Data, what))
    }
}

/// A parameter as part of the identity of a statement: a secret counts by its name.
fn shown(value: &Dynamic) -> String {
    match value.read_lock::<Secret>() {
        Some(secret) => secret.to_string(),
        None => value.to_string(),
    }
}

/// One string or an array of strings.
fn texts(value: Dynamic) -> Result<Vec<String>> {
    let items = if value.is_array() { value.into_array().unwrap_or_default() } else { vec![value] };
    let text = |item: Dynamic| {
        item.into_string().map_err(|kind| {
            Failure::new(format!("`undo` must be SQL, not a {kind}")).kind(FailureKind::Option).into()
        })
    };
    items.into_iter().map(text).collect()
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RoleOptions {
    login: Option<bool>,
    superuser: Option<bool>,
    createdb: Option<bool>,
    createrole: Option<bool>,
    inherit: Option<bool>,
    replication: Option<bool>,
    bypassrls: Option<bool>,
    connection_limit: Option<i32>,
}

fn ensure_role_with(context: &NativeCallContext, role: &str, mut options: Map) -> Raised<bool> {
    act(context, |host| {
        let password = options.remove("password");
        let password = password.map(|password| host.text_or_secret(&password, "`password`")).transpose()?;
        if password.as_ref().is_some_and(|password| password.is_empty()) {
            bail!(
                Failure::new("invalid option `password`: PostgreSQL treats an empty password as none")
                    .kind(FailureKind::Option)
            );
        }
        let login = recorded_login(host, &mut options, false)?;
        host.seen().asks_for(|| login.role(role));
        let options: RoleOptions = options_of(options)?;
        // A role with a password is meant to log in.
        let desired_login = options.login.or(password.is_some().then_some(true));
        let desired = DesiredRole {
            password,
            login: desired_login,
            superuser: options.superuser,
            createdb: options.createdb,
            createrole: options.createrole,
            inherit: options.inherit,
            replication: options.replication,
            bypassrls: options.bypassrls,
            connection_limit: options.connection_limit,
        };
        let found = RoleChange::towards(&host.seen().world, login.clone(), role, &desired);
        let Some(change) = (match found {
            Err(_) if awaits_server(host) => {
                let summary = format!("make the database role {role}");
                host.session().note_change(login.role(role), summary);
                return Ok(true);
            }
            found => found?,
        }) else {
            return Ok(false);
        };
        let performed = Change::Role(change.clone());
        let changed = host.session().perform(&performed, Payload::Nothing)?;
        if !host.dry_run()
            && let Some(password) = &desired.password
            && desired.login != Some(false)
        {
            report_refusal(host, &login, role, password);
        }
        Ok(changed)
    })
}

/// Logs in as people and programs will. The server has the password by now; any other obstacle
/// is reported, and is for a script to verify.
fn report_refusal(host: &Host, login: &Login, role: &str, password: &Zeroizing<String>) {
    let server = login.server.over_tcp(role, &login.server.dbname);
    let tried = {
        let session = host.seen();
        Connection::open(&server, Some(password.as_str()), &session.world.processes).map(drop)
    };
    if let Err(error) = tried {
        host.note_once(&format!(
            "role `{role}` has its password, but cannot log in over TCP: {error}",
            error = sentence(&error)
        ));
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DatabaseOptions {
    owner: Option<String>,
    encoding: Option<String>,
    locale: Option<String>,
    template: Option<String>,
}

fn ensure_database_with(context: &NativeCallContext, database: &str, mut options: Map) -> Raised<bool> {
    act(context, |host| {
        let login = recorded_login(host, &mut options, true)?;
        host.seen().asks_for(|| login.database(database));
        let options: DatabaseOptions = options_of(options)?;
        let desired = DesiredDatabase {
            owner: options.owner,
            encoding: options.encoding,
            locale: options.locale,
            template: options.template,
        };
        let target = login.database(database);
        let found = DatabaseChange::towards(&host.seen().world, login, database, desired);
        let Some(change) = (match found {
            Err(_) if awaits_server(host) => {
                host.session().note_change(target, format!("make the database {database}"));
                return Ok(true);
            }
            found => found?,
        }) else {
            return Ok(false);
        };
        let performed = Change::Database(change.clone());
        host.session().perform(&performed, Payload::Nothing)
    })
}

fn role_can_create(
    context: &NativeCallContext,
    role: &str,
    dbname: &str,
    mut connection: Map,
) -> Raised<bool> {
    look(context, |host| {
        refuse_unknown(host)?;
        let login = login_from(host, &mut connection, true)?.at(dbname);
        no_more(&connection)?;
        let session = host.seen();
        let mut connection = login.open(&session.world)?;
        let known = "SELECT rolcanlogin AND has_database_privilege(oid, current_database(), 'CONNECT') \
                     AND has_schema_privilege(oid, to_regnamespace('public')::oid, 'CREATE') \
                     FROM pg_roles WHERE rolname = $1";
        if !connection.is_true(known, &[Parameter::text(role)])? {
            return Ok(false);
        }
        if host.dry_run() {
            return Ok(true);
        }
        let probe = identifier(&format!("kkrun_probe_{}", random::hex(6)?));
        let made = connection.trying(|connection| {
            connection.execute(&format!("SET LOCAL ROLE {}", identifier(role)), &[])?;
            connection.execute(&format!("CREATE TABLE public.{probe} (id integer)"), &[])
        });
        match made {
            Ok(()) => Ok(true),
            Err(error) if crate::machine::postgres::sql_state(&error) == Some("42501") => Ok(false),
            Err(error) => Err(error),
        }
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UrlOptions {
    user: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    dbname: Option<String>,
}

fn url_of(host: &Host, mut parts: Map) -> Result<Dynamic> {
    let password = parts.remove("password");
    let parts: UrlOptions = options_of(parts)?;
    let encoded = crate::text::percent_encoded;
    let mut url = Zeroizing::new("postgresql://".to_owned());
    if let Some(user) = &parts.user {
        url.push_str(&encoded(user));
    }
    let mut secret = None;
    if let Some(password) = &password {
        secret = password.read_lock::<Secret>().map(|secret| secret.name().to_owned());
        let text = host.text_or_secret(password, "`password`")?;
        url.push(':');
        url.push_str(&encoded(&text));
    }
    if parts.user.is_some() || password.is_some() {
        url.push('@');
    }
    let address = parts.host.as_deref().unwrap_or("localhost");
    // An IPv6 address contains colons itself.
    if address.contains(':') {
        let _ = write!(url, "[{address}]");
    } else {
        url.push_str(&encoded(address));
    }
    let _ = write!(url, ":{}", parts.port.unwrap_or(Server::default().port));
    if let Some(dbname) = &parts.dbname {
        url.push('/');
        url.push_str(&encoded(dbname));
    }
    Ok(match secret {
        Some(name) => Dynamic::from(Secret::new(&name, url)),
        None => Dynamic::from((*url).clone()),
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The rows that a query returns, each a map of its columns. It runs in a read-only transaction. Numbers, bools, strings,
    /// JSON and arrays of strings and integers keep their type; cast any other type to text: `x::text`. The first of
    /// `params` is `$1` in the query.
    ///
    /// The functions of `pg::` connect to the socket of this machine's server as the operating-system user `postgres`.
    /// The map `connection` changes that: `host`, `port`, `user`, `password`, `dbname`, `os_user`.
    ///
    /// ```rhai,booted
    /// let rows = pg::query("SELECT datname FROM pg_database ORDER BY 1");
    /// assert(rows.some(|row| row.datname == "postgres"));
    /// ```
    ///
    /// ```rhai,booted
    /// assert(pg::query("SELECT oid FROM pg_database WHERE datname = $1", ["postgres"]).len() == 1);
    /// ```
    ///
    /// ```rhai,booted
    /// assert(pg::query("SELECT current_database()::text AS name", [], #{ dbname: "template1" })[0].name == "template1");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn query(
        context: NativeCallContext,
        sql: &str,
        params: rhai::Array,
        connection: Map,
    ) -> Raised<rhai::Array> {
        rows(&context, sql, params, connection)
    }

    /// The first value of the first row that a query returns, or `()`. Options: the connection, as for `pg::query`.
    ///
    /// ```rhai,booted
    /// assert(pg::value("SELECT 6 * 7") == 42);
    /// ```
    ///
    /// ```rhai,booted
    /// assert(pg::value("SELECT datname FROM pg_database WHERE datname = $1", ["nowhere"]) == ());
    /// ```
    ///
    /// ```rhai,booted
    /// assert(pg::value("SELECT current_user::text", [], #{ port: 5432 }) == "postgres");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn value(
        context: NativeCallContext,
        sql: &str,
        params: rhai::Array,
        connection: Map,
    ) -> Raised<Dynamic> {
        first_value(&context, sql, params, connection)
    }

    /// Runs one statement once: later runs of the step skip it unless it was undone. The first of `params` is `$1` in it.
    /// Where the server allows no parameters, as in `ALTER` and `SET`, they are written into the statement as SQL literals;
    /// messages and the journal show `$1`. Options, besides those of the connection (see `pg::query`):
    ///
    /// * `unless` – a query or a closure that returns true when there is nothing to do. It alone decides, and is checked
    ///   again afterwards, as proof.
    /// * `undo` – a statement that undoes this one, or an array of statements. Without one, a rollback lists it as not undone.
    /// * `loses: "what"` – undoing it loses this data, so a rollback asks first (`--purge data`).
    /// * `irreversible: "why"` – it cannot be undone.
    /// * `label` – its name in messages.
    ///
    /// ```rhai,booted
    /// assert(pg::execute("COMMENT ON DATABASE postgres IS 'mine'"));
    /// assert(!pg::execute("COMMENT ON DATABASE postgres IS 'mine'"));
    /// ```
    ///
    /// ```rhai,booted
    /// pg::execute("COMMENT ON DATABASE postgres IS $1", ["it's mine"]);
    /// ```
    ///
    /// ```rhai,booted
    /// pg::execute("ALTER SYSTEM SET work_mem = $1", ["8MB"], #{ undo: "ALTER SYSTEM RESET work_mem" });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn execute(
        context: NativeCallContext,
        sql: &str,
        params: rhai::Array,
        options: Map,
    ) -> Raised<bool> {
        act(&context, |host| Execution::of(&context, host, sql, params, options)?.execute())
    }

    /// Makes sure that a role exists and has the given attributes. The server gets no password but its SCRAM-SHA-256
    /// verifier, and keeps that out of its log. Undo restores the attributes and the password of a role that existed; one
    /// that was created is dropped after a rollback asked (`--purge databases`), if nothing belongs to it any more.
    /// Options: `password` (a secret), `login` (default true for a new role and with a password), `superuser`, `createdb`,
    /// `createrole`, `inherit`, `replication`, `bypassrls`, `connection_limit`; what is not given stays. The connection:
    /// `host`, `port`, `user`, `dbname`, `os_user`, or a map `connection` with these and `password`.
    ///
    /// ```rhai,booted
    /// pg::ensure_role("reader");
    /// assert(!pg::ensure_role("reader"));
    /// ```
    ///
    /// ```rhai,booted
    /// let password = secret::generate("writer_password");
    /// pg::ensure_role("writer", #{ password: password, createdb: true });
    /// let writer = #{ host: "localhost", user: "writer", password: password, dbname: "postgres" };
    /// assert(pg::value("SELECT current_user::text", [], writer) == "writer");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ensure_role(context: NativeCallContext, role: &str, options: Map) -> Raised<bool> {
        ensure_role_with(&context, role, options)
    }

    /// Makes sure that a database exists. Undo restores the owner of one that existed; one that was created is dropped after
    /// a rollback asked (`--purge databases`), and dumped into the backups before that if it has a table.
    /// Options: `owner`; for a new database `encoding`, `locale`, `template`; the connection, as for `pg::ensure_role`.
    ///
    /// ```rhai,booted
    /// pg::ensure_database("shop");
    /// assert(!pg::ensure_database("shop"));
    /// ```
    ///
    /// ```rhai,booted
    /// pg::ensure_role("keeper");
    /// pg::ensure_database("shop", #{ owner: "keeper" });
    /// assert(pg::can_create("keeper", "shop"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ensure_database(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        ensure_database_with(&context, name, options)
    }

    /// Whether the role can log in, connect to the database and create a table in its schema `public`. This is tried in a
    /// transaction that is rolled back; a dry run checks the privileges instead.
    ///
    /// ```rhai,booted
    /// assert(pg::can_create("postgres", "postgres"));
    /// ```
    ///
    /// ```rhai,booted
    /// assert(pg::can_create("postgres", "postgres", #{ port: 5432 }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn can_create(
        context: NativeCallContext,
        role: &str,
        dbname: &str,
        connection: Map,
    ) -> Raised<bool> {
        role_can_create(&context, role, dbname, connection)
    }

    /// The URL of a database, each part percent-encoded. If the password is a secret, so is the URL.
    /// Parts: `user`, `password`, `host` (default `localhost`), `port` (default 5432), `dbname`.
    ///
    /// ```rhai
    /// let url = pg::url(#{ user: "kim", host: "db", dbname: "my shop" });
    /// assert(url == "postgresql://kim@db:5432/my%20shop");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn url(context: NativeCallContext, parts: Map) -> Raised<Dynamic> {
        look(&context, |host| url_of(host, parts))
    }

    /// A name quoted as an SQL identifier, in double quotes.
    ///
    /// ```rhai
    /// assert(pg::ident("odd \"name\"") == "\"odd \"\"name\"\"\"");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ident(context: NativeCallContext, name: &str) -> Raised<String> {
        look(&context, |_| Ok(identifier(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::rc::Rc;

    use super::*;
    use crate::script::{Settings, Source};
    use crate::session::testing::Ground;
    use crate::target::{Aspect, Target};

    fn dry_run_after(targets: Vec<Target>) -> Rc<Host> {
        let source = Source::find(Path::new("master.rhai")).unwrap().0;
        let settings = Settings::read(&source, &[], &BTreeMap::new()).unwrap();
        let host = Host::new(Ground::new().dry_run(), source, settings, Vec::new());
        for target in targets {
            host.session().note_change(target, "make it".to_owned());
        }
        host
    }

    #[test]
    fn a_dry_run_asks_a_database_unless_something_predicted_before_may_reach_it() {
        let unit = |aspect| Target::Unit { user: None, name: "app.service".into(), aspect };
        let harmless = vec![
            Target::User("kim".into()),
            Target::Group("cats".into()),
            Target::Hold("vim".into()),
            Target::Packages(vec!["vim".into()]),
            Target::file(Path::new("/etc/motd")),
            unit(Aspect::Enablement),
        ];
        refuse_unknown(&dry_run_after(harmless)).unwrap();
        let login = Login { server: Server::default(), password: None };
        for target in [
            login.role("kim"),
            login.database("shop"),
            Target::Command("make".into()),
            Target::Captured("make".into()),
            unit(Aspect::Activity),
        ] {
            let refused = refuse_unknown(&dry_run_after(vec![target.clone()]));
            assert!(refused.unwrap_err().is::<Unpredictable>(), "{target}");
        }
        let repeated = dry_run_after(Vec::new());
        repeated.session().note_repeated(Target::Command("look".into()), "run look".to_owned());
        assert!(refuse_unknown(&repeated).is_err());
        repeated.session().examines = true;
        refuse_unknown(&repeated).unwrap();
    }
}
