//! What the changes within a PostgreSQL server share: how they get to it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::World;
use super::reliance::{LoginInUrl, logins_of};
use crate::failure::{Failure, FailureKind};
use crate::machine::postgres::{Connection, Server};
use crate::machine::secret_store::SecretStore;
use crate::target::{DatabaseServer, Target};

/// A server and how to get in. The journal holds the name of the password alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct Login {
    /// The server.
    #[serde(flatten)]
    pub server: Server,
    /// The password, while the script that gave it runs.
    #[serde(skip)]
    pub password: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.server)
    }
}

impl Login {
    /// The same, seen from another database.
    pub fn at(&self, dbname: &str) -> Self {
        Self { server: self.server.at(dbname), password: self.password.clone() }
    }

    fn address(&self) -> Option<DatabaseServer> {
        self.server.address().map(|(host, port)| DatabaseServer { host: host.to_owned(), port })
    }

    /// A role of the server.
    pub fn role(&self, name: &str) -> Target {
        Target::Role { server: self.address(), name: name.to_owned() }
    }

    /// A database of the server.
    pub fn database(&self, name: &str) -> Target {
        Target::Database { server: self.address(), name: name.to_owned() }
    }

    /// A statement in this database.
    pub(super) fn statement(&self, label: &str) -> Target {
        let (server, database) = (self.address(), self.server.dbname.clone());
        Target::Statement { server, database, label: label.to_owned() }
    }

    /// Those of the targets that are a text with a URL for this server of which `is_it` holds.
    pub(super) fn used_by<'t>(
        &self,
        later: &[&'t Target],
        is_it: impl Fn(&LoginInUrl) -> bool,
    ) -> Result<Vec<&'t Target>> {
        let server = self.server.address().map(|(host, _)| host);
        let mut using = Vec::new();
        for target in later {
            if logins_of(target)?.iter().any(|login| login.is_at(server) && is_it(login)) {
                using.push(*target);
            }
        }
        Ok(using)
    }

    /// Connects.
    pub fn open<'world>(&self, world: &'world World) -> Result<Connection<'world>> {
        let password = self.current_password(world)?;
        Connection::open(&self.server, password.as_deref().map(String::as_str), &world.processes)
    }

    /// The password that was given, else the stored one.
    pub(super) fn current_password(&self, world: &World) -> Result<Option<Zeroizing<String>>> {
        if self.password.is_some() {
            return Ok(self.password.clone());
        }
        let Some(name) = &self.server.secret else { return Ok(None) };
        let stored = SecretStore::below(world.state_directory()).read(name)?;
        let missing = || {
            Failure::new(format!("cannot log in to the PostgreSQL server: secret `{name}` is not stored"))
                .kind(FailureKind::Secret)
        };
        stored.with_context(missing).map(Some)
    }
}
