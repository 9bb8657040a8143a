//! PostgreSQL: roles, databases, extensions and what is in the databases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use regex::Regex;

use super::action::{Action, Place};
use super::literal;
use super::output::Output;
use super::secret::Secrets;
use super::trace::{Command, Trace};
use crate::machine::postgres::{self, fits, identifier};
use crate::rehearse::LiveClone;

/// A role, with the columns of `pg_authid`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Role {
    /// Its attributes, as `pg::ensure_role` takes them.
    attributes: Vec<(&'static str, String)>,
    verifier: String,
    /// Settings of its own, which no primitive has.
    settings: Vec<String>,
}

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Database {
    owner: String,
    encoding: String,
    /// Each as the server prints it, such as `kim=CTc/kim`.
    privileges: Vec<String>,
    extensions: BTreeSet<String>,
    /// What `pg_dump` prints of it, without comments.
    contents: String,
}

/// What a script may have made in the server, without what every server has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    roles: BTreeMap<String, Role>,
    databases: BTreeMap<String, Database>,
    /// What `ALTER SYSTEM` set, which is in a file among the data.
    settings: BTreeMap<String, String>,
}

/// The first number of what users make. Source: src/include/access/transam.h, `FirstNormalObjectId`.
const FIRST: u32 = 16384;

impl Cluster {
    /// What the server of a clone has; nothing if none runs.
    pub(super) fn of(clone: &LiveClone) -> Result<Self> {
        let query = |database: &str, sql: &str| -> Result<Vec<Vec<String>>> {
            let psql = [
                "/sbin/runuser",
                "-u",
                "postgres",
                "--",
                "psql",
                "-XAt",
                "-F",
                "\t",
                "-d",
                database,
                "-c",
                sql,
            ];
            let printed = clone.printed(&psql).ok().flatten().unwrap_or_default();
            Ok(printed.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
        };
        let mut cluster = Self::default();
        let roles = format!(
            "SELECT a.rolname, a.rolcanlogin, a.rolsuper, a.rolcreatedb, a.rolcreaterole, a.rolreplication, a.rolconnlimit, \
             coalesce(a.rolpassword, ''), coalesce(array_to_string(r.rolconfig, E'\\x1f'), '') \
             FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid WHERE a.oid >= {FIRST}"
        );
        for row in query("postgres", &roles)? {
            let [name, login, superuser, createdb, createrole, replication, limit, verifier, settings] =
                &row[..]
            else {
                continue;
            };
            let mut attributes = vec![("login", (login == "t").to_string())];
            let given = [
                ("superuser", superuser),
                ("createdb", createdb),
                ("createrole", createrole),
                ("replication", replication),
            ];
            attributes.extend(
                given.iter().filter(|(_, value)| *value == "t").map(|(name, _)| (*name, "true".to_owned())),
            );
            if limit != "-1" {
                attributes.push(("connection_limit", limit.clone()));
            }
            let settings =
                settings.split('\x1f').filter(|setting| !setting.is_empty()).map(str::to_owned).collect();
            let role = Role { attributes, verifier: verifier.clone(), settings };
            cluster.roles.insert(name.clone(), role);
        }
        let settings =
            "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf'";
        for row in query("postgres", settings)? {
            let [name, value] = &row[..] else { continue };
            cluster.settings.insert(name.clone(), value.clone());
        }
        let databases = format!(
            "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), coalesce(array_to_string(datacl, E'\\x1f'), '') \
             FROM pg_database WHERE oid >= {FIRST}"
        );
        for row in query("postgres", &databases)? {
            let [name, owner, encoding, privileges] = &row[..] else { continue };
            let extensions = query(name, &format!("SELECT extname FROM pg_extension WHERE oid >= {FIRST}"))?;
            let dump = ["/sbin/runuser", "-u", "postgres", "--", "pg_dump", "--inserts", "-d", name];
            let contents = clone.printed(&dump)?.unwrap_or_default();
            let database = Database {
                owner: owner.clone(),
                encoding: encoding.clone(),
                privileges: privileges
                    .split('\x1f')
                    .filter(|entry| !entry.is_empty())
                    .map(str::to_owned)
                    .collect(),
                extensions: extensions.into_iter().flatten().filter(|name| name != "plpgsql").collect(),
                contents: plain(&contents),
            };
            cluster.databases.insert(name.clone(), database);
        }
        Ok(cluster)
    }

    /// Each role and database, with all that is known of it. The server keeps another verifier of the same password.
    pub(super) fn lines(&self) -> BTreeMap<String, String> {
        let mut lines = BTreeMap::new();
        for (name, role) in &self.roles {
            let password = if role.verifier.is_empty() { "no password" } else { "a password" };
            let mut about: Vec<String> =
                role.attributes.iter().map(|(name, value)| format!("{name} {value}")).collect();
            about.push(password.to_owned());
            if !role.settings.is_empty() {
                about.push(format!("settings {}", role.settings.join(", ")));
            }
            lines.insert(format!("role {name}"), about.join(", "));
        }
        lines.extend(
            self.settings
                .iter()
                .map(|(name, value)| (format!("setting {name} of PostgreSQL"), value.clone())),
        );
        for (name, database) in &self.databases {
            let mut about = format!("owner {}, encoding {}", database.owner, database.encoding);
            if !database.privileges.is_empty() {
                about = format!("{about}, privileges {}", database.privileges.join(", "));
            }
            lines.insert(format!("database {name}"), about);
            for extension in &database.extensions {
                lines.insert(format!("extension {extension} of {name}"), String::new());
            }
            if !tables(&database.contents).is_empty() {
                lines.insert(format!("contents of the database {name}"), database.contents.clone());
            }
        }
        lines
    }

    /// The calls that make what the other one has beyond this one, and what no call makes.
    pub(super) fn towards(
        &self,
        desired: &Self,
        trace: &Trace,
        secrets: &Secrets,
        output: &mut Output,
    ) -> Result<(Vec<Action>, Vec<String>)> {
        let (mut actions, mut unexpressed) = (Vec::new(), Vec::new());
        let is_client =
            |text: &str| ["psql", "createdb", "createuser"].iter().any(|client| text.contains(client));
        let maker = |name: &str| {
            let named =
                trace.commands.iter().find(|command| is_client(&command.text) && command.text.contains(name));
            named.or_else(|| trace.commands.iter().rev().find(|command| is_client(&command.text)))
        };
        for (name, role) in desired.roles.iter().filter(|(name, role)| self.roles.get(*name) != Some(role)) {
            let mut options = role.attributes.clone();
            let mut of_it = Vec::new();
            if !role.verifier.is_empty() {
                match secrets.fitting(|value| fits(value, &role.verifier).unwrap_or(false)) {
                    Some(secret) => {
                        options.insert(0, ("password", secret.to_owned()));
                        of_it.push(secret.to_owned());
                    }
                    None => unexpressed.push(format!("role {name}: its password is not known")),
                }
            }
            let code = format!("pg::ensure_role({}{});", literal::string(name), literal::options(&options));
            let action = Action::new(Place::Databases, code).by(maker(name));
            actions.push(Action { secrets: of_it, ..action });
            match settings_of(name, &role.settings) {
                Some(calls) => {
                    actions.extend(
                        calls.into_iter().map(|code| Action::new(Place::Databases, code).by(maker(name))),
                    );
                }
                None => {
                    unexpressed
                        .push(format!("role {name}: it has the settings {}", role.settings.join(", ")));
                }
            }
        }
        for (name, database) in
            desired.databases.iter().filter(|(name, database)| self.databases.get(*name) != Some(database))
        {
            let quoted = literal::string(name);
            let mut options = vec![("owner", literal::string(&database.owner))];
            options.push(("encoding", literal::string(&database.encoding)));
            options.push(("template", literal::string("template0")));
            let code = format!("pg::ensure_database({quoted}{});", literal::options(&options));
            let made = maker(name);
            actions.push(Action::new(Place::Databases, code).by(made));
            for extension in &database.extensions {
                let identifier = identifier(extension);
                // It goes with a database that is new; another one may hold what depends on it by then.
                let undo = if self.databases.contains_key(name) {
                    literal::string(&format!("DROP EXTENSION {identifier}"))
                } else {
                    "[]".to_owned()
                };
                let code = format!(
                    "pg::execute({}, [], #{{\n    unless: || pg::value(\"SELECT 1 FROM pg_extension WHERE extname = $1\", [{}], #{{ dbname: {quoted} }}) != (),\n    undo: {},\n    dbname: {quoted},\n}});",
                    literal::string(&format!("CREATE EXTENSION {identifier}")),
                    literal::string(extension),
                    undo,
                );
                actions.push(Action::new(Place::Databases, code).by(made));
            }
            if let Some(table) = tables(&database.contents).first() {
                let kept = output.keep(Path::new(&format!("{name}.sql")), database.contents.as_bytes())?;
                // It goes with the database.
                let code = format!(
                    "cmd::run([\"psql\", \"--no-psqlrc\", \"--quiet\", \"--single-transaction\", \"--set\", \"ON_ERROR_STOP=1\", \"--dbname\", {quoted}], #{{\n    unless: || pg::value(\"SELECT to_regclass($1)::text\", [{}], #{{ dbname: {quoted} }}) != (),\n    user: \"postgres\",\n    stdin: file::read({}),\n    undo: [],\n    label: {},\n}});",
                    literal::string(table),
                    literal::string(&kept),
                    literal::string(&format!("contents of {name}")),
                );
                actions.push(Action::new(Place::Databases, code).by(made));
            }
            match privileges_of(name, database) {
                Some(calls) => {
                    actions
                        .extend(calls.into_iter().map(|code| Action::new(Place::Databases, code).by(made)));
                }
                None => {
                    unexpressed.push(format!(
                        "database {name}: it has the privileges {}",
                        database.privileges.join(", ")
                    ));
                }
            }
        }
        let (calls, unknown) = self.server_settings(desired, trace, &maker);
        actions.extend(calls);
        unexpressed.extend(unknown);
        // In the order in which they depend on each other, wherever the script made them.
        let first = actions.iter().filter_map(|action| action.when).min();
        for action in &mut actions {
            action.when = first;
        }
        Ok((actions, unexpressed))
    }

    /// The calls for the settings of the server, and what no call sets.
    fn server_settings<'trace>(
        &self,
        desired: &Self,
        trace: &'trace Trace,
        maker: &dyn Fn(&str) -> Option<&'trace Command>,
    ) -> (Vec<Action>, Vec<String>) {
        let (mut actions, mut unexpressed) = (Vec::new(), Vec::new());
        let system = |name: &str| {
            let of_it = |command: &&Command| {
                command.text.to_uppercase().contains("ALTER SYSTEM") && command.text.contains(name)
            };
            trace.commands.iter().find(of_it).or_else(|| maker(name))
        };
        for (name, value) in
            desired.settings.iter().filter(|(name, value)| self.settings.get(*name) != Some(value))
        {
            match setting_of(name, value, self.settings.get(name)) {
                Some(code) => actions.push(Action::new(Place::Databases, code).by(system(name))),
                None => unexpressed.push(format!("setting {name} of PostgreSQL: it is {value}")),
            }
        }
        (actions, unexpressed)
    }
}

/// The calls that give a role its settings; `None` if one of them is not known.
fn settings_of(role: &str, settings: &[String]) -> Option<Vec<String>> {
    let named = identifier(role);
    let call = |setting: &String| {
        let (key, value) = setting.split_once('=')?;
        let statement = format!("ALTER ROLE {named} SET {} TO {}", parameter(key), value_of(key, value)?);
        Some(format!(
            "pg::execute({}, [], #{{\n    unless: || pg::value(\"SELECT 1 FROM pg_roles WHERE rolname = $1 AND $2 = ANY (rolconfig)\", [{}, {}]) != (),\n    undo: {},\n}});",
            literal::string(&statement),
            literal::string(role),
            literal::string(setting),
            literal::string(&format!("ALTER ROLE {named} RESET {}", parameter(key))),
        ))
    };
    settings.iter().map(call).collect()
}

/// The call that sets a setting of the server, which reads it then; `None` if it is not known how. The settings that it reads only
/// when it starts wait for that.
fn setting_of(name: &str, value: &str, before: Option<&String>) -> Option<String> {
    let key = parameter(name);
    let undo = match before {
        Some(before) => format!("ALTER SYSTEM SET {key} TO {}", value_of(name, before)?),
        None => format!("ALTER SYSTEM RESET {key}"),
    };
    Some(format!(
        "step::on_change(#{{ run: [[\"systemctl\", \"reload\", \"postgresql.service\"]] }}, || {{\n    pg::execute({}, [], #{{\n        unless: || pg::value(\"SELECT 1 FROM pg_file_settings WHERE name = $1 AND setting = $2 AND sourcefile LIKE '%/postgresql.auto.conf'\", [{}, {}]) != (),\n        undo: {},\n    }});\n}});",
        literal::string(&format!("ALTER SYSTEM SET {key} TO {}", value_of(name, value)?)),
        literal::string(name),
        literal::string(value),
        literal::string(&undo),
    ))
}

/// The name of a setting as SQL writes it: that of an extension has a dot.
fn parameter(key: &str) -> String {
    key.split('.').map(identifier).collect::<Vec<_>>().join(".")
}

/// The value of a setting as SQL writes it; a list is written by its elements. Source: PostgreSQL's manual, "SET", and
/// `variable_is_guc_list_quote`.
fn value_of(key: &str, value: &str) -> Option<String> {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !LISTS.contains(&key.to_lowercase().as_str()) {
        return Some(postgres::literal(value));
    }
    let mut left = value.trim();
    let mut elements = Vec::new();
    while !left.is_empty() {
        let (element, rest) = name_at(left, ',')?;
        elements.push(postgres::literal(&element));
        left = rest.trim_start().strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(if elements.is_empty() { postgres::literal("") } else { elements.join(", ") })
}

/// A name that begins a text, with or without quotes, and what follows it.
fn name_at(text: &str, end: char) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (name, rest) = text.split_at(text.find(end).unwrap_or(text.len()));
        return Some((name.trim().to_owned(), rest));
    };
    let mut name = String::new();
    loop {
        let (part, behind) = rest.split_once('"')?;
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(_) => name.push('"'),
            None => return Some((name, behind)),
        }
        rest = &behind[1..];
    }
}

/// The calls that give the privileges of a database; `None` if one of them is not known. Source: PostgreSQL's manual, 5.8.
fn privileges_of(name: &str, database: &Database) -> Option<Vec<String>> {
    let entries: Vec<(String, &str, &str)> = database
        .privileges
        .iter()
        .map(|entry| {
            let (grantee, rest) = name_at(entry, '=')?;
            Some((grantee, rest.strip_prefix('=')?, entry.as_str()))
        })
        .collect::<Option<_>>()?;
    let named = identifier(name);
    let mut calls = Vec::new();
    let mut add = |statement: String, holds: &str, parameter: &str, undo: String| {
        calls.push(format!(
            "pg::execute({}, [], #{{\n    unless: || pg::value({}, [{}, {}]) != (),\n    undo: {},\n}});",
            literal::string(&statement),
            literal::string(holds),
            literal::string(name),
            literal::string(parameter),
            literal::string(&undo),
        ));
    };
    if !entries.is_empty() && entries.iter().all(|(grantee, ..)| !grantee.is_empty()) {
        add(
            format!("REVOKE ALL ON DATABASE {named} FROM PUBLIC"),
            "SELECT 1 FROM pg_database WHERE datname = $1 AND NOT has_database_privilege($2, datname, 'CONNECT')",
            "public",
            format!("GRANT CONNECT, TEMPORARY ON DATABASE {named} TO PUBLIC"),
        );
    }
    for (grantee, rest, entry) in entries {
        let (letters, _) = rest.split_once('/')?;
        if grantee == database.owner || grantee.is_empty() {
            continue;
        }
        let word = |letter| match letter {
            'C' => Some("CREATE"),
            'T' => Some("TEMPORARY"),
            'c' => Some("CONNECT"),
            _ => None,
        };
        let words: Vec<&str> = letters.chars().map(word).collect::<Option<_>>()?;
        add(
            format!("GRANT {} ON DATABASE {named} TO {}", words.join(", "), identifier(&grantee)),
            "SELECT 1 FROM pg_database WHERE datname = $1 AND $2 = ANY (datacl::text[])",
            entry,
            format!("REVOKE ALL ON DATABASE {named} FROM {}", identifier(&grantee)),
        );
    }
    Some(calls)
}

/// The statements of a dump, without what is another in each.
fn plain(dump: &str) -> String {
    let is_statement = |line: &&str| {
        !line.starts_with("--") && !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")
    };
    let mut text = String::new();
    let mut is_blank = true;
    for line in dump.lines().filter(is_statement) {
        if line.is_empty() && is_blank {
            continue;
        }
        is_blank = line.is_empty();
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The tables that a dump makes.
fn tables(dump: &str) -> Vec<String> {
    let Ok(pattern) = Regex::new(r"(?m)^CREATE TABLE (\S+) \($") else { return Vec::new() };
    pattern.captures_iter(dump).map(|captures| captures[1].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET x = 0;\n\n\n\nCREATE TABLE public.notes (\n    id integer\n);\n";

    #[test]
    fn a_dump_is_compared_by_its_statements() {
        assert_eq!(plain(DUMP), "SET x = 0;\n\nCREATE TABLE public.notes (\n    id integer\n);\n");
        assert_eq!(tables(DUMP), ["public.notes"]);
    }

    #[test]
    fn roles_databases_and_their_contents_are_calls_in_the_order_of_their_needs() {
        let directory = tempfile::tempdir().unwrap();
        let mut output = Output::create(directory.path()).unwrap();
        let role = Role { attributes: vec![("login", "true".to_owned())], ..Role::default() };
        let database = Database {
            owner: "kim".to_owned(),
            encoding: "UTF8".to_owned(),
            extensions: BTreeSet::from(["pg_trgm".to_owned()]),
            contents: plain(DUMP),
            ..Database::default()
        };
        let desired = Cluster {
            roles: BTreeMap::from([("kim".to_owned(), role)]),
            databases: BTreeMap::from([("cats".to_owned(), database)]),
            settings: BTreeMap::new(),
        };
        let (actions, unexpressed) = Cluster::default()
            .towards(&desired, &Trace::default(), &Secrets::default(), &mut output)
            .unwrap();
        let begins: Vec<&str> =
            actions.iter().map(|action| action.code.split(['(', '\n']).next().unwrap()).collect();
        assert_eq!(begins, ["pg::ensure_role", "pg::ensure_database", "pg::execute", "cmd::run"]);
        assert_eq!(actions[0].code, "pg::ensure_role(\"kim\", #{ login: true });");
        assert_eq!(unexpressed, [""; 0]);
        assert_eq!(std::fs::read_to_string(directory.path().join("files/cats.sql")).unwrap(), plain(DUMP));
        assert_eq!(desired.lines().len(), 4);
        assert_eq!(desired.lines()["role kim"], "login true, no password");
        assert_eq!(desired.lines()["database cats"], "owner kim, encoding UTF8");
    }

    #[test]
    fn settings_of_roles_and_privileges_of_databases_are_statements() {
        let of_role = |setting: &str| settings_of("app-user", &[setting.to_owned()]).unwrap().remove(0);
        let call = of_role("statement_timeout=10s");
        assert!(call.contains(r#"ALTER ROLE \"app-user\" SET \"statement_timeout\" TO '10s'"#), "{call}");
        let call = of_role(r#"search_path="$user", public"#);
        assert!(call.contains(r#"SET \"search_path\" TO '$user', 'public'"#), "{call}");
        assert_eq!(settings_of("kim", &["x".to_owned()]), None);
        let of = |privileges: &[&str]| {
            let (owner, privileges) =
                ("kim".to_owned(), privileges.iter().map(|entry| (*entry).to_owned()).collect());
            privileges_of("cats", &Database { owner, privileges, ..Database::default() })
        };
        assert_eq!(of(&[]).unwrap(), [""; 0]);
        let calls = of(&["kim=CTc/kim", r#""app-user"=c/kim"#]).unwrap();
        assert!(calls[0].contains(r#"REVOKE ALL ON DATABASE \"cats\" FROM PUBLIC"#), "{calls:?}");
        assert!(calls[1].contains(r#"GRANT CONNECT ON DATABASE \"cats\" TO \"app-user\""#), "{calls:?}");
        assert!(calls[1].contains(r#"["cats", "\"app-user\"=c/kim"]"#), "{calls:?}");
        assert_eq!(of(&["app=c*/kim"]), None);
    }

    #[test]
    fn settings_of_the_server_are_calls_and_are_compared() {
        let with = |value: &str| Cluster {
            settings: BTreeMap::from([("work_mem".to_owned(), value.to_owned())]),
            ..Cluster::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let mut output = Output::create(directory.path()).unwrap();
        let trace = Trace::read(
            "\u{1}1.0 0 3 /\u{2}psql -c 'SELECT 1'\n\u{1}2.0 0 4 /\u{2}psql -c \"ALTER SYSTEM SET work_mem = '8MB'\"\n",
            "",
        );
        let desired = with("8MB");
        for (before, undo) in
            [(Cluster::default(), r#"RESET \"work_mem\""#), (with("4MB"), r#"SET \"work_mem\" TO '4MB'"#)]
        {
            let (actions, unexpressed) =
                before.towards(&desired, &trace, &Secrets::default(), &mut output).unwrap();
            assert_eq!((actions.len(), actions[0].line, unexpressed), (1, Some(4), Vec::new()));
            let code = &actions[0].code;
            assert!(code.contains(r#"pg::execute("ALTER SYSTEM SET \"work_mem\" TO '8MB'", [], "#), "{code}");
            assert!(code.contains(&format!("undo: \"ALTER SYSTEM {undo}\"")), "{code}");
        }
        assert_eq!(desired.lines()["setting work_mem of PostgreSQL"], "8MB");
    }
}
