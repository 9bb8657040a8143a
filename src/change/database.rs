//! A database of a PostgreSQL server: made, or given to another owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::postgres::Login;
use super::{Kind, Loss, Payload, Position, UndoTerms, Undone, Unit, World, state_value};
use crate::event::Modification;
use crate::journal::{Class, Undoing};
use crate::machine::account::Account;
use crate::machine::postgres::{Connection, Parameter, identifier, literal, sql_state};
use crate::machine::process::{Command, Value as Variable};
use crate::target::{States, Target};

/// A change to one database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatabaseChange {
    before: DatabaseState,
    after: DatabaseState,
    inverse: DatabaseInverse,
    /// How it is made, if it is not there.
    #[serde(skip)]
    making: DesiredDatabase,
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DatabaseInverse {
    database: String,
    #[serde(flatten)]
    login: Login,
}

/// A database, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum DatabaseState {
    /// There is none of that name.
    Absent,
    /// There is one.
    Present {
        /// The server's number for it; unknown before it is made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oid: Option<u32>,
        /// The role it belongs to.
        owner: String,
    },
}

/// The desired state of a database.
#[derive(Clone, Debug, Default)]
pub struct DesiredDatabase {
    /// The role it belongs to; by default the one that makes it.
    pub owner: Option<String>,
    /// The encoding of a new one.
    pub encoding: Option<String>,
    /// The locale of a new one.
    pub locale: Option<String>,
    /// What a new one is copied from.
    pub template: Option<String>,
}

impl DatabaseState {
    fn look(connection: &mut Connection<'_>, database: &str) -> Result<Self> {
        let sql = "SELECT oid, pg_get_userbyid(datdba)::text AS owner FROM pg_database WHERE datname = $1";
        let rows = connection.query(sql, &[Parameter::text(database)])?;
        Ok(rows.first().map_or(Self::Absent, |row| Self::Present {
            oid: row.get("oid").and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok()),
            owner: row.get("owner").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }))
    }

    /// Whether both are the same, as far as is known: a database that was not yet made has no number.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::Present { owner: one, .. }, Self::Present { owner: another, .. }) => {
                one == another && !self.is_another_than(other)
            }
            _ => false,
        }
    }

    /// Whether both have numbers, and different ones.
    fn is_another_than(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Present { oid: Some(one), .. }, Self::Present { oid: Some(another), .. }) if one != another
        )
    }

    fn difference(&self, now: &Self) -> String {
        match (self, now) {
            (_, Self::Absent) => "the database is gone".to_owned(),
            (Self::Absent, Self::Present { .. }) => "a database of that name is there".to_owned(),
            _ if self.is_another_than(now) => {
                "it is another database of the same name, made outside kkrun".to_owned()
            }
            (Self::Present { owner: was, .. }, Self::Present { owner: is, .. }) => {
                format!("it belongs to {is}, not to {was}")
            }
        }
    }
}

impl DatabaseChange {
    /// The change that brings a database to `desired`; `None` if it is so already.
    pub fn towards(
        world: &World,
        login: Login,
        database: &str,
        desired: DesiredDatabase,
    ) -> Result<Option<Self>> {
        let before = DatabaseState::look(&mut login.open(world)?, database)?;
        let owner = match (&desired.owner, &before) {
            (Some(owner), _) | (None, DatabaseState::Present { owner, .. }) => owner.clone(),
            (None, DatabaseState::Absent) => login.server.user.clone(),
        };
        let oid = match &before {
            DatabaseState::Present { oid, .. } => *oid,
            DatabaseState::Absent => None,
        };
        let after = DatabaseState::Present { oid, owner };
        if before.same_as(&after) {
            return Ok(None);
        }
        let inverse = DatabaseInverse { database: database.to_owned(), login };
        Ok(Some(Self { before, after, inverse, making: desired }))
    }

    fn making_sql(&self, template: Option<&str>) -> String {
        let mut sql = format!("CREATE DATABASE {}", identifier(&self.inverse.database));
        if let DatabaseState::Present { owner, .. } = &self.after {
            let _ = write!(sql, " OWNER {}", identifier(owner));
        }
        if let Some(template) = template {
            let _ = write!(sql, " TEMPLATE {}", identifier(template));
        }
        if let Some(encoding) = &self.making.encoding {
            let _ = write!(sql, " ENCODING {}", literal(encoding));
        }
        if let Some(locale) = &self.making.locale {
            let _ = write!(sql, " LOCALE {}", literal(locale));
        }
        sql
    }

    fn give_to(&self, connection: &mut Connection<'_>, state: &DatabaseState) -> Result<()> {
        let DatabaseState::Present { owner, .. } = state else { return Ok(()) };
        let database = identifier(&self.inverse.database);
        connection.execute(&format!("ALTER DATABASE {database} OWNER TO {}", identifier(owner)), &[])
    }

    fn is_creation(&self) -> bool {
        self.before == DatabaseState::Absent
    }

    /// How many tables it has, and how many bytes it takes.
    fn content(&self, world: &World) -> Result<(u64, u64)> {
        let mut connection = self.inverse.login.at(&self.inverse.database).open(world)?;
        let sql = "SELECT count(*) AS tables, pg_database_size(current_database()) AS size FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm') \
                   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'";
        let rows = connection.query(sql, &[])?;
        let number = |name: &str| rows.first().and_then(|row| row.get(name)?.as_u64()).unwrap_or(u64::MAX);
        Ok((number("tables"), number("size")))
    }

    /// Dumps the database into the backups and reports where.
    fn dump(&self, world: &World) -> Result<()> {
        let database = &self.inverse.database;
        let backups = world.backups()?;
        let saved = backups.save_written(|incoming| self.write_dump(world, incoming))?;
        let path = backups.path(saved);
        world.reporter.note(format!(
            "database `{database}` was dumped before its removal: restore it with \
             `pg_restore --create --dbname postgres {}`",
            path.display()
        ));
        Ok(())
    }

    fn write_dump(&self, world: &World, to: &Path) -> Result<()> {
        let server = &self.inverse.login.server;
        let database = &self.inverse.database;
        let dump = "umask 077; out=$1; shift; exec \"$@\" > \"$out\"";
        let mut argv: Vec<String> = ["sh", "-c", dump, "sh"]
            .into_iter()
            .map(str::to_owned)
            .chain([to.display().to_string()])
            .collect();
        // The file is root's: the server's owner gets it as an open descriptor.
        if server.is_local_socket() && Account::current()?.is_root() {
            argv.extend(["runuser", "-u", &server.os_user, "--"].map(str::to_owned));
        }
        argv.extend(["pg_dump", "--format=custom", "--no-password"].map(str::to_owned));
        let mut command = Command::new(&argv);
        let label = format!("pg_dump {database}");
        command.label = Some(label.clone());
        let plain = |text: &str| Variable::Plain(text.into());
        command.env = vec![
            ("PGHOST".into(), plain(&server.host)),
            ("PGPORT".into(), plain(&server.port.to_string())),
            ("PGUSER".into(), plain(&server.user)),
            ("PGDATABASE".into(), plain(database)),
        ];
        if let Some(password) = self.inverse.login.current_password(world)? {
            let secret = Variable::Secret(password.as_bytes().to_vec().into());
            command.env.push(("PGPASSWORD".into(), secret));
        }
        let ended = world.run(&command, &label)?;
        super::succeeded(&ended, &label)
            .with_context(|| format!("cannot remove database `{database}` without a dump"))
    }

    fn drop_it(&self, connection: &mut Connection<'_>) -> Result<()> {
        let database = identifier(&self.inverse.database);
        let can_force =
            connection.is_true("SELECT current_setting('server_version_num')::int >= 130000", &[])?;
        if can_force {
            return connection.execute(&format!("DROP DATABASE {database} WITH (FORCE)"), &[]);
        }
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        connection.query(end, &[Parameter::text(&self.inverse.database)])?;
        connection.execute(&format!("DROP DATABASE {database}"), &[])
    }
}

/// A number of bytes, for messages.
fn size(bytes: u64) -> String {
    let mut amount = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if amount < 10_000 {
            return format!("{amount} {unit}");
        }
        amount = amount.div_ceil(1000);
    }
    format!("{amount} TB")
}

impl Kind for DatabaseChange {
    fn target(&self) -> Target {
        self.inverse.login.database(&self.inverse.database)
    }

    fn needs(&self) -> Result<Vec<Target>> {
        Ok(match &self.after {
            DatabaseState::Present { owner, .. } => vec![self.inverse.login.role(owner)],
            DatabaseState::Absent => Vec::new(),
        })
    }

    fn undone_by(&self) -> Result<Option<Unit>> {
        self.inverse.login.unit()
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        self.inverse.login.used_by(later, |login| login.database == self.inverse.database)
    }

    fn removed_by_undo(&self, world: &World) -> Vec<PathBuf> {
        let look = || DatabaseState::look(&mut self.inverse.login.open(world)?, &self.inverse.database);
        match look() {
            Ok(DatabaseState::Present { oid: Some(oid), .. }) if self.is_creation() => {
                vec![Path::new("base").join(oid.to_string())]
            }
            _ => Vec::new(),
        }
    }

    fn summary(&self) -> String {
        let database = &self.inverse.database;
        match &self.after {
            DatabaseState::Present { owner, .. } if self.is_creation() => {
                format!("make the database {database} for {owner}")
            }
            DatabaseState::Present { owner, .. } => format!("give the database {database} to {owner}"),
            DatabaseState::Absent => format!("remove the database {database}"),
        }
    }

    fn class(&self) -> Class {
        if self.is_creation() { Class::Databases } else { Class::Safe }
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let recorded: DatabaseState = serde_json::from_value(recorded.clone()).ok()?;
        let is_its_own = recorded == DatabaseState::Absent || recorded.same_as(&self.before);
        let lines = || recorded.difference(&self.before).lines().map(str::to_owned).collect();
        (!is_its_own).then(|| Modification::properties(lines()))
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let mut connection = self.inverse.login.open(world)?;
        if !self.is_creation() {
            return self.give_to(&mut connection, &self.after);
        }
        match connection.execute(&self.making_sql(self.making.template.as_deref()), &[]) {
            // A session is connected to the usual template; the other one accepts no connections.
            Err(error) if sql_state(&error) == Some("55006") && self.making.template.is_none() => {
                connection.execute(&self.making_sql(Some("template0")), &[])
            }
            made => made,
        }
    }

    fn position(&self, world: &World) -> Result<Position> {
        let mut connection = self.inverse.login.open(world)?;
        // A server goes on making a database for a client that was killed.
        connection.await_earlier()?;
        let now = DatabaseState::look(&mut connection, &self.inverse.database)?;
        Ok(if now.same_as(&self.after) {
            Position::After
        } else if now.same_as(&self.before) {
            Position::Before
        } else {
            Position::Neither(self.after.difference(&now))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let now = DatabaseState::look(&mut self.inverse.login.open(world)?, &self.inverse.database)?;
        if !now.same_as(&self.after) {
            anyhow::bail!(
                "database `{}` is not as desired: {}",
                self.inverse.database,
                self.after.difference(&now)
            );
        }
        Ok([(self.target(), state_value(&now))].into())
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        if !self.is_creation() {
            return Ok(None);
        }
        let look = || DatabaseState::look(&mut self.inverse.login.open(world)?, &self.inverse.database);
        if matches!(look(), Ok(DatabaseState::Absent)) {
            return Ok(None);
        }
        let content = match self.content(world) {
            Ok((0, bytes)) => format!("no tables, {}", size(bytes)),
            Ok((1, bytes)) => format!("1 table, {}", size(bytes)),
            Ok((tables, bytes)) => format!("{tables} tables, {}", size(bytes)),
            // Content that cannot be read is still a loss.
            Err(_) => "its content cannot be read now".to_owned(),
        };
        let what = format!("the database {} ({content})", self.inverse.database);
        Ok(Some(Loss { class: Class::Databases, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let mut connection = self.inverse.login.open(world)?;
        connection.await_earlier()?;
        let now = DatabaseState::look(&mut connection, &self.inverse.database)?;
        if now.same_as(&self.before) {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let recorded =
            terms.recorded.and_then(|value| serde_json::from_value::<DatabaseState>(value.clone()).ok());
        let recorded = recorded.unwrap_or_else(|| self.after.clone());
        if self.is_creation() && recorded.is_another_than(&now) {
            return Ok(Undone::Kept(recorded.difference(&now)));
        }
        if !now.same_as(&recorded) && !terms.force {
            return Ok(Undone::Conflict(recorded.difference(&now)));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if self.is_creation() {
            // The operator agreed to the loss before the undo.
            if self.content(world)?.0 > 0 {
                self.dump(world)?;
            }
            self.drop_it(&mut connection)?;
        } else {
            self.give_to(&mut connection, &self.before)?;
        }
        let restored = DatabaseState::look(&mut connection, &self.inverse.database)?;
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&restored))].into()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_keeps_two_digits() {
        for (bytes, said) in
            [(0, "0 bytes"), (9_999, "9999 bytes"), (7_791_000, "7791 kB"), (12_300_000, "13 MB")]
        {
            assert_eq!(super::size(bytes), said);
        }
    }
}
