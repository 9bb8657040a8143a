//! A role of a PostgreSQL server: made, or given other attributes or another password.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::postgres::Login;
use super::{Kind, Loss, Payload, Position, UndoTerms, Undone, Unit, World, state_value};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::{Class, Undoing};
use crate::machine::files::Digest;
use crate::machine::postgres::{
    Connection, Parameter, Verifier, fits, identifier, literal, sql_state, verifier,
};
use crate::target::{States, Target};

/// A change to one role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleChange {
    before: RoleState,
    after: RoleState,
    inverse: RoleInverse,
    /// The verifier of the password from before, on its way to the backups.
    #[serde(skip)]
    found: Option<Verifier>,
    /// The verifier of the desired password.
    #[serde(skip)]
    new_verifier: Option<Verifier>,
}

/// What undoing it needs besides the states; the verifier of the password from before is in the backups under its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RoleInverse {
    role: String,
    #[serde(flatten)]
    login: Login,
}

/// A role, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum RoleState {
    /// There is none of that name.
    Absent,
    /// There is one.
    Present(Role),
}

/// A role's attributes, by their names in `CREATE ROLE`.
#[expect(clippy::struct_excessive_bools, reason = "these are the server's own attributes")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Role {
    /// The server's number for it; unknown before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<u32>,
    /// It can log in.
    pub login: bool,
    /// It passes every permission check.
    pub superuser: bool,
    /// It can make databases.
    pub createdb: bool,
    /// It can make roles.
    pub createrole: bool,
    /// It has the privileges of the roles it belongs to.
    pub inherit: bool,
    /// It can replicate.
    pub replication: bool,
    /// Row-level security does not bind it.
    pub bypassrls: bool,
    /// How many connections it may have; -1 for any number.
    pub connection_limit: i32,
    /// Until when its password counts; none for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// The SHA-256 of the password's verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Digest>,
}

/// The desired state of a role; what is `None` stays, or is the server's default.
#[derive(Clone, Debug, Default)]
pub struct DesiredRole {
    /// Its password.
    pub password: Option<Zeroizing<String>>,
    /// It can log in.
    pub login: Option<bool>,
    /// It passes every permission check.
    pub superuser: Option<bool>,
    /// It can make databases.
    pub createdb: Option<bool>,
    /// It can make roles.
    pub createrole: Option<bool>,
    /// It has the privileges of the roles it belongs to.
    pub inherit: Option<bool>,
    /// It can replicate.
    pub replication: Option<bool>,
    /// Row-level security does not bind it.
    pub bypassrls: Option<bool>,
    /// How many connections it may have.
    pub connection_limit: Option<i32>,
}

/// A role as it was found.
struct Found {
    state: RoleState,
    verifier: Option<Verifier>,
    expired: bool,
}

impl Found {
    fn look(connection: &mut Connection<'_>, role: &str) -> Result<Self> {
        let sql = "SELECT oid, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolreplication, \
                   rolbypassrls, rolconnlimit, nullif(rolvaliduntil, 'infinity')::text AS valid_until, \
                   coalesce(rolvaliduntil < now(), false) AS expired, rolpassword \
                   FROM pg_authid WHERE rolname = $1";
        let rows = connection.query(sql, &[Parameter::text(role)]).map_err(|error| {
            if sql_state(&error) == Some("42501") {
                return Failure::new(
                    "cannot read or make roles: only a superuser of the PostgreSQL server may",
                )
                .kind(FailureKind::Denied)
                .hint("leave `user` out: the operating-system user `postgres` is one")
                .into();
            }
            error
        })?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(Self { state: RoleState::Absent, verifier: None, expired: false });
        };
        let flag = |name: &str| row.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or(-1);
        let verifier = text("rolpassword").map(Zeroizing::new);
        let role = Role {
            oid: u32::try_from(number("oid")).ok(),
            login: flag("rolcanlogin"),
            superuser: flag("rolsuper"),
            createdb: flag("rolcreatedb"),
            createrole: flag("rolcreaterole"),
            inherit: flag("rolinherit"),
            replication: flag("rolreplication"),
            bypassrls: flag("rolbypassrls"),
            connection_limit: i32::try_from(number("rolconnlimit")).unwrap_or(-1),
            valid_until: text("valid_until"),
            password: verifier.as_ref().map(|verifier| Digest::of(verifier.as_bytes())),
        };
        Ok(Self { state: RoleState::Present(role), verifier, expired: flag("expired") })
    }
}

impl Role {
    /// What `CREATE ROLE` makes by default.
    /// Source: PostgreSQL manual, `CREATE ROLE`.
    fn new() -> Self {
        Self {
            oid: None,
            login: false,
            superuser: false,
            createdb: false,
            createrole: false,
            inherit: true,
            replication: false,
            bypassrls: false,
            connection_limit: -1,
            valid_until: None,
            password: None,
        }
    }

    fn flags(&self) -> [(&'static str, bool); 7] {
        [
            ("LOGIN", self.login),
            ("SUPERUSER", self.superuser),
            ("CREATEDB", self.createdb),
            ("CREATEROLE", self.createrole),
            ("INHERIT", self.inherit),
            ("REPLICATION", self.replication),
            ("BYPASSRLS", self.bypassrls),
        ]
    }

    /// The SQL words that make this of `from`, without the password.
    fn words(&self, from: &Self) -> String {
        let mut words = String::new();
        for ((name, desired), (_, found)) in self.flags().into_iter().zip(from.flags()) {
            if desired != found {
                let no = if desired { "" } else { "NO" };
                let _ = write!(words, " {no}{name}");
            }
        }
        if self.connection_limit != from.connection_limit {
            let _ = write!(words, " CONNECTION LIMIT {}", self.connection_limit);
        }
        if self.valid_until != from.valid_until {
            let until = self.valid_until.as_deref().unwrap_or("infinity");
            let _ = write!(words, " VALID UNTIL {}", literal(until));
        }
        words
    }

    /// What differs, for messages.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found: Vec<String> = self
            .flags()
            .into_iter()
            .zip(other.flags())
            .filter(|(one, another)| one != another)
            .map(|((name, _), (_, is))| format!("{}{}", if is { "" } else { "no " }, name.to_lowercase()))
            .collect();
        if self.connection_limit != other.connection_limit {
            found.push(format!("connection limit {}", other.connection_limit));
        }
        if self.valid_until != other.valid_until {
            found.push(format!("valid until {}", other.valid_until.as_deref().unwrap_or("infinity")));
        }
        if self.password != other.password {
            found.push("password".to_owned());
        }
        found
    }
}

impl RoleState {
    /// Whether both are the same, as far as is known: a role that was not yet made has no number.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::Present(one), Self::Present(another)) => {
                let same_role = one.oid.is_none() || another.oid.is_none() || one.oid == another.oid;
                same_role && one.differences(another).is_empty()
            }
            _ => false,
        }
    }

    fn difference(&self, now: &Self) -> String {
        match (self, now) {
            (_, Self::Absent) => "the role is gone".to_owned(),
            (Self::Absent, Self::Present(_)) => "a role of that name is there".to_owned(),
            (Self::Present(one), Self::Present(another)) => {
                let differences = one.differences(another);
                if differences.is_empty() {
                    "it is another role of the same name".to_owned()
                } else {
                    format!("its attributes differ: {}", differences.join(", "))
                }
            }
        }
    }
}

impl RoleChange {
    /// The change that brings a role to `desired`; `None` if it is so already.
    pub fn towards(world: &World, login: Login, role: &str, desired: &DesiredRole) -> Result<Option<Self>> {
        let found = Found::look(&mut login.open(world)?, role)?;
        let mut after = match &found.state {
            RoleState::Present(role) => role.clone(),
            RoleState::Absent => Role { login: true, ..Role::new() },
        };
        for (wanted, attribute) in [
            (desired.login, &mut after.login),
            (desired.superuser, &mut after.superuser),
            (desired.createdb, &mut after.createdb),
            (desired.createrole, &mut after.createrole),
            (desired.inherit, &mut after.inherit),
            (desired.replication, &mut after.replication),
            (desired.bypassrls, &mut after.bypassrls),
        ] {
            *attribute = wanted.unwrap_or(*attribute);
        }
        after.connection_limit = desired.connection_limit.unwrap_or(after.connection_limit);
        let mut new_verifier = None;
        if let Some(password) = &desired.password {
            let is_there = match &found.verifier {
                Some(verifier) => fits(password, verifier)?,
                None => false,
            };
            if !is_there {
                let made = verifier(password);
                after.password = Some(Digest::of(made.as_bytes()));
                new_verifier = Some(made);
            }
            if found.expired {
                after.valid_until = None;
            }
        }
        let after = RoleState::Present(after);
        if found.state.same_as(&after) {
            return Ok(None);
        }
        let inverse = RoleInverse { role: role.to_owned(), login };
        Ok(Some(Self { before: found.state, after, inverse, found: found.verifier, new_verifier }))
    }

    /// Makes `to` of `from`; `verifier` is that of `to`.
    fn bring(
        &self,
        connection: &mut Connection<'_>,
        from: &RoleState,
        to: &RoleState,
        verifier: Option<&Verifier>,
    ) -> Result<()> {
        let name = identifier(&self.inverse.role);
        let RoleState::Present(to) = to else { return connection.execute(&format!("DROP ROLE {name}"), &[]) };
        let made = Role::new();
        let (verb, from) = match from {
            RoleState::Absent => ("CREATE", &made),
            RoleState::Present(from) => ("ALTER", from),
        };
        let mut sql = Zeroizing::new(format!("{verb} ROLE {name} WITH{}", to.words(from)));
        if to.password != from.password {
            sql.push_str(" PASSWORD ");
            match verifier {
                Some(verifier) => sql.push_str(&literal(verifier)),
                None => sql.push_str("NULL"),
            }
        }
        connection.hush()?;
        connection.execute(&sql, &[])
    }

    fn look(&self, world: &World) -> Result<RoleState> {
        Ok(Found::look(&mut self.inverse.login.open(world)?, &self.inverse.role)?.state)
    }

    fn is_creation(&self) -> bool {
        self.before == RoleState::Absent
    }

    /// Why the role cannot be dropped: objects belong to it or refer to it.
    fn still_needed(&self, connection: &mut Connection<'_>, role: &Role) -> Result<Option<String>> {
        let sql = "SELECT DISTINCT coalesce(d.datname, o.datname, 'the whole server')::text \
                   FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid \
                   LEFT JOIN pg_database o ON s.classid = 'pg_database'::regclass AND o.oid = s.objid \
                   WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 ORDER BY 1";
        let oid = Parameter::Number(role.oid.unwrap_or_default().to_string());
        let rows = connection.query(sql, &[oid])?;
        let places: Vec<&str> = rows.iter().filter_map(|row| row.values().next()?.as_str()).collect();
        Ok((!places.is_empty()).then(|| {
            format!(
                "objects in {} belong to the role {} or refer to it",
                places.join(", "),
                self.inverse.role
            )
        }))
    }
}

impl Kind for RoleChange {
    fn target(&self) -> Target {
        self.inverse.login.role(&self.inverse.role)
    }

    fn undone_by(&self) -> Result<Option<Unit>> {
        self.inverse.login.unit()
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        self.inverse.login.used_by(later, |login| login.role == self.inverse.role)
    }

    fn summary(&self) -> String {
        let role = &self.inverse.role;
        match (&self.before, &self.after) {
            (RoleState::Present(before), RoleState::Present(after)) => {
                format!("change the database role {role}: {}", before.differences(after).join(", "))
            }
            (_, RoleState::Absent) => format!("remove the database role {role}"),
            _ => format!("make the database role {role}"),
        }
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        match (&self.before, &self.after) {
            (RoleState::Present(before), RoleState::Present(after)) if before.password != after.password => {
                before.password.into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn class(&self) -> Class {
        if self.is_creation() { Class::Databases } else { Class::Safe }
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if let (Some(found), Some(_)) = (&self.found, &self.new_verifier) {
            world.backups()?.save(found.as_bytes())?;
        }
        Ok(())
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let recorded: RoleState = serde_json::from_value(recorded.clone()).ok()?;
        let is_its_own = recorded == RoleState::Absent || recorded.same_as(&self.before);
        let lines = || recorded.difference(&self.before).lines().map(str::to_owned).collect();
        (!is_its_own).then(|| Modification::properties(lines()))
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let mut connection = self.inverse.login.open(world)?;
        self.bring(&mut connection, &self.before, &self.after, self.new_verifier.as_ref())
    }

    fn position(&self, world: &World) -> Result<Position> {
        let mut connection = self.inverse.login.open(world)?;
        connection.await_earlier()?;
        let now = Found::look(&mut connection, &self.inverse.role)?.state;
        Ok(if now.same_as(&self.after) {
            Position::After
        } else if now.same_as(&self.before) {
            Position::Before
        } else {
            Position::Neither(self.after.difference(&now))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let now = self.look(world)?;
        if !now.same_as(&self.after) {
            anyhow::bail!("role `{}` is not as desired: {}", self.inverse.role, self.after.difference(&now));
        }
        Ok([(self.target(), state_value(&now))].into())
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        if !self.is_creation() || matches!(self.look(world), Ok(RoleState::Absent)) {
            return Ok(None);
        }
        Ok(Some(Loss { class: Class::Databases, what: format!("the database role {}", self.inverse.role) }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let mut connection = self.inverse.login.open(world)?;
        connection.await_earlier()?;
        let Found { state: now, verifier: there, .. } = Found::look(&mut connection, &self.inverse.role)?;
        if now.same_as(&self.before) {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let recorded =
            terms.recorded.and_then(|value| serde_json::from_value::<RoleState>(value.clone()).ok());
        let recorded = recorded.unwrap_or_else(|| self.after.clone());
        if !now.same_as(&recorded) && !terms.force {
            return Ok(Undone::Conflict(recorded.difference(&now)));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if let (RoleState::Absent, RoleState::Present(role)) = (&self.before, &now)
            && let Some(why) = self.still_needed(&mut connection, role)?
        {
            return Ok(Undone::Kept(why));
        }
        let verifier = match (&self.before, &now) {
            (RoleState::Present(before), RoleState::Present(role)) if before.password != role.password => {
                before.password.map(|digest| world.backups()?.read(digest)).transpose()?
            }
            _ => None,
        };
        let verifier = verifier
            .map(|bytes| String::from_utf8(bytes).map(Zeroizing::new))
            .transpose()
            .context("the backup of the role's password is invalid: expected UTF-8")?;
        if let (Some(there), false) = (&there, now.same_as(&recorded)) {
            // A password that was set outside kkrun goes when agreed to: a copy is kept.
            world.backups()?.save(there.as_bytes())?;
        }
        self.bring(&mut connection, &now, &self.before, verifier.as_ref())?;
        let restored = Found::look(&mut connection, &self.inverse.role)?.state;
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&restored))].into()))
    }
}
