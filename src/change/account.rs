//! What changes of users and groups share: the record of an account's lines, and writing them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::World;
use crate::failure::sentence;
use crate::machine::account::{
    self, Account, DIRECTORY, Database, DatabaseFiles, Databases, Group, LoginDefs, NewUser, Order, Rules,
    Traces,
};
use crate::machine::clock;
use crate::machine::files::Digest;
use crate::machine::process::Command;

/// How often the lock is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// What the databases held of an account before a change, and what the change was to make of that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) before: Traces,
    pub(super) after: Traces,
    files: DatabaseFiles,
}

impl AccountRecord {
    /// Reads the databases, and what `change` would make of them.
    pub(super) fn of(name: &str, change: impl FnOnce(&mut Databases) -> Result<()>) -> Result<Self> {
        let (mut databases, files) = Databases::read(Path::new(DIRECTORY))?;
        let before = databases.traces_of(name);
        change(&mut databases)?;
        Ok(Self { before, after: databases.traces_of(name), files })
    }

    /// Makes durable what is recorded by its digest only, as far as the change replaces it.
    pub(super) fn save(&self, name: &str, world: &World) -> Result<()> {
        for database in Database::ALL {
            if self.before.of(database) == self.after.of(database) {
                continue;
            }
            for secret in now()?.secrets_of(database, name) {
                world.backups()?.save(&secret)?;
            }
        }
        Ok(())
    }

    /// The backups of lines that are recorded by their digest only, and that undoing the change writes again.
    pub(super) fn backups(&self) -> Vec<Digest> {
        let replaced = Database::ALL.into_iter().filter(|of| self.before.of(*of) != self.after.of(*of));
        replaced.flat_map(|of| self.before.of(of).iter().filter_map(account::Line::digest)).collect()
    }

    /// Makes the line of a user's password durable, whatever the change was first to replace.
    pub(super) fn save_password(name: &str, world: &World) -> Result<()> {
        for secret in now()?.secrets_of(Database::Shadow, name) {
            world.backups()?.save(&secret)?;
        }
        Ok(())
    }

    /// The backup of that line.
    pub(super) fn password_backup(&self) -> impl Iterator<Item = Digest> + '_ {
        self.before.of(Database::Shadow).iter().filter_map(account::Line::digest)
    }

    /// Restores the password in these databases.
    pub(super) fn restore_password(
        &self,
        world: &World,
        name: &str,
        databases: &mut Databases,
    ) -> Result<()> {
        databases.restore_password(name, &self.before, &|digest| world.backups()?.read(digest))
    }

    /// Writes the databases as `change` makes them.
    pub(super) fn write(
        &self,
        world: &World,
        order: Order,
        change: impl FnOnce(&mut Databases) -> Result<()>,
    ) -> Result<()> {
        let mut pause = || {
            world.processes.check_interruption()?;
            world.processes.pause(PAUSE);
            Ok(())
        };
        let waiting = (account::PATIENCE, &mut pause as &mut dyn FnMut() -> Result<()>);
        if account::rewrite(Path::new(DIRECTORY), order, &self.files, waiting, change)? {
            flush_caches(world);
        }
        Ok(())
    }

    /// Restores the lines of a name in these databases.
    pub(super) fn restore_lines(
        &self,
        world: &World,
        name: &str,
        of: &[Database],
        databases: &mut Databases,
    ) -> Result<()> {
        let secret = |digest: Digest| world.backups()?.read(digest);
        databases.restore_lines(of, name, &self.before, &secret)
    }
}

/// The databases as they are.
pub(super) fn now() -> Result<Databases> {
    Ok(Databases::read(Path::new(DIRECTORY))?.0)
}

/// Adds what the databases lack of a user.
pub(super) fn add_user(databases: &mut Databases, user: &NewUser<'_>) -> Result<()> {
    by_rules(|rules| databases.add_user(user, rules))
}

/// Adds what the databases lack of a group.
pub(super) fn add_group(databases: &mut Databases, name: &str, gid: Option<u32>, system: bool) -> Result<()> {
    by_rules(|rules| databases.add_group(name, gid, system, rules))
}

/// Gives a user the password that has this hash.
pub(super) fn set_password(databases: &mut Databases, name: &str, hash: &str) -> Result<()> {
    by_rules(|rules| databases.set_password(name, hash, rules))
}

fn by_rules(add: impl FnOnce(&Rules<'_>) -> Result<()>) -> Result<()> {
    let is_taken = |database, number| {
        Ok(match database {
            Database::Group => Group::by_gid(number)?.is_some(),
            _ => Account::by_uid(number)?.is_some(),
        })
    };
    let today = clock::now().as_second() / 86_400;
    add(&Rules { defs: &LoginDefs::read(), is_taken: &is_taken, today })
}

/// Has the daemons that cache users and groups forget them, as the tools do. One that does not run is no error.
fn flush_caches(world: &World) {
    for command in [
        &["/usr/sbin/nscd", "-i", "passwd"][..],
        &["/usr/sbin/nscd", "-i", "group"],
        &["/usr/sbin/sss_cache", "-UG"],
    ] {
        if Path::new(command[0]).exists()
            && let Err(error) = world.look(&Command::new(command))
        {
            tracing::warn!("cannot flush a cache of users and groups: {error}", error = sentence(&error));
        }
    }
}
