//! What the changes within a PostgreSQL server share: how they get to it.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::reliance::{self, LoginInUrl, logins_of};
use super::{Lines, Unit, World};
use crate::failure::{Failure, FailureKind};
use crate::machine::postgres::{Connection, Server};
use crate::machine::secret_store::SecretStore;
use crate::target::{DatabaseServer, Target};

/// Where Debian has the configuration of the clusters, `VERSION/NAME`.
const CLUSTERS: &str = "/etc/postgresql";

/// The port in a line of a server's configuration, if it is that of the port.
fn port_in(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?.split('#').next()?;
    let value = line.trim().strip_prefix("port")?.trim_start().trim_start_matches('=');
    value.trim().trim_matches('\'').parse().ok()
}

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

    /// The unit of this machine's server with the usual socket, by the configuration of its cluster. Source:
    /// postgresql-common, `postgresql@VERSION-CLUSTER.service`.
    pub(super) fn unit(&self) -> Result<Option<Unit>> {
        if self.address().is_some_and(|address| !address.host.is_empty()) {
            return Ok(None);
        }
        for version in reliance::entries(Path::new(CLUSTERS))? {
            for cluster in reliance::entries(&version)? {
                let text = reliance::text_at(&cluster.join("postgresql.conf"))?;
                let lines = Lines::of(&text);
                let port = (0..lines.count()).rev().find_map(|number| port_in(lines.body(number)));
                if port == Some(self.server.port)
                    && let (Some(version), Some(name)) = (version.file_name(), cluster.file_name())
                {
                    let name = format!("postgresql@{}-{}.service", version.display(), name.display());
                    return Ok(Some(Unit::new(&name, None)));
                }
            }
        }
        Ok(None)
    }

    /// Those of the targets that are a text with a URL for this server of which `is_it` holds.
    pub(super) fn used_by<'t>(
        &self,
        later: &[&'t Target],
        is_it: impl Fn(&LoginInUrl) -> bool,
    ) -> Result<Vec<&'t Target>> {
        let mut using = Vec::new();
        for target in later {
            if logins_of(target)?.iter().any(|login| login.is_at(&self.server) && is_it(login)) {
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

#[cfg(test)]
mod tests {
    use super::port_in;

    #[test]
    fn only_a_line_that_sets_the_port_has_one() {
        for line in ["port = 5432\t\t\t# (change requires restart)", "port=5432", " port '5432'"] {
            assert_eq!(port_in(line.as_bytes()), Some(5432), "{line}");
        }
        for line in ["#port = 5432", "ports = 5432", "port = ", "listen_addresses = 'port 5432'", ""] {
            assert_eq!(port_in(line.as_bytes()), None, "{line}");
        }
    }
}
