//! Whether a user's services run without the user being logged in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::unit::{manager_runs, succeeded};
use super::{Kind, Payload, Position, UndoTerms, Undone, World, state_value};
use crate::event::Modification;
use crate::journal::Undoing;
use crate::machine::account::Account;
use crate::machine::files::{self, Attributes, Contents, FileState};
use crate::machine::process::Command;
use crate::target::{States, Target};

/// Where it is kept: an empty file of the user's name. Source: systemd-logind, and what was observed.
const DIRECTORY: &str = "/var/lib/systemd/linger";
/// How long the user's manager is given to start.
const START: Duration = Duration::from_secs(30);

/// A change to a user's lingering.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LingerChange {
    before: bool,
    after: bool,
    inverse: LingerInverse,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LingerInverse {
    user: String,
}

impl LingerChange {
    /// The change that lets a user linger, with a service manager that runs; `None` if that is so already.
    pub fn towards(world: &World, user: &str) -> Result<Option<Self>> {
        let before = lingers(user);
        if before && (!logind_runs(world)? || manager_runs(world, Some(user))?) {
            return Ok(None);
        }
        Ok(Some(Self { before, after: true, inverse: LingerInverse { user: user.to_owned() } }))
    }

    fn states(&self, lingers: bool) -> States {
        [(self.target(), state_value(&lingers))].into()
    }
}

impl Kind for LingerChange {
    fn target(&self) -> Target {
        Target::Linger(self.inverse.user.clone())
    }

    fn summary(&self) -> String {
        let user = &self.inverse.user;
        if self.before {
            return format!("start the service manager of {user}");
        }
        format!("let the services of {user} run without a login")
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let user = &self.inverse.user;
        if !logind_runs(world)? {
            return make_file(user);
        }
        loginctl(world, "enable-linger", user)?;
        let account = Account::existing(user)?;
        // logind does not start a manager that it is just stopping.
        let unit = format!("user@{}.service", account.uid);
        let label = format!("systemctl start {unit}");
        succeeded(&world.run(&Command::new(["systemctl", "start", &unit]), &label)?, &label)?;
        let socket = PathBuf::from(format!("/run/user/{}/systemd/private", account.uid));
        let deadline = Instant::now() + START;
        while !socket.exists() {
            world.processes.check_interruption()?;
            if Instant::now() >= deadline {
                world.reporter.note(format!("the service manager of `{user}` has not started yet"));
                break;
            }
            world.processes.pause(Duration::from_millis(50));
        }
        Ok(())
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let was_ended = recorded.as_bool() == Some(self.after) && self.before != self.after;
        let now = || format!("the services of {} do not run without a login any more", self.inverse.user);
        was_ended.then(|| Modification::shown(&now()))
    }

    fn position(&self, _world: &World) -> Result<Position> {
        Ok(if lingers(&self.inverse.user) == self.after { Position::After } else { Position::Before })
    }

    fn recorded(&self, _world: &World) -> Result<States> {
        let lingers = lingers(&self.inverse.user);
        anyhow::ensure!(lingers == self.after, "user `{}` does not linger", self.inverse.user);
        Ok(self.states(lingers))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let user = &self.inverse.user;
        if lingers(user) == self.before {
            return Ok(Undone::Back(Undoing::Already, self.states(self.before)));
        }
        if !terms.dry_run {
            disable(world, user)?;
        }
        Ok(Undone::Back(Undoing::Restored, self.states(self.before)))
    }
}

/// Whether the user lingers.
pub(super) fn lingers(user: &str) -> bool {
    file_of(user).exists()
}

/// Ends lingering, also of a user who is gone.
pub(super) fn disable(world: &World, user: &str) -> Result<()> {
    if !lingers(user) {
        return Ok(());
    }
    if Account::by_name(user)?.is_some() && logind_runs(world)? {
        return loginctl(world, "disable-linger", user);
    }
    let path = file_of(user);
    files::remove(&path, &FileState::observe(&path)?, "linger")
}

/// Whether logind can be asked.
pub(super) fn logind_runs(world: &World) -> Result<bool> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let active =
        world.look(&Command::new(["systemctl", "is-active", "--quiet", "systemd-logind.service"]))?;
    Ok(active.is_success())
}

fn loginctl(world: &World, verb: &str, user: &str) -> Result<()> {
    let label = format!("loginctl {verb} {user}");
    succeeded(&world.run(&Command::new(["loginctl", verb, user]), &label)?, &label)
}

fn make_file(user: &str) -> Result<()> {
    let path = file_of(user);
    std::fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make `{DIRECTORY}`"))?;
    files::replace(
        &path,
        Contents::Bytes(b""),
        &Attributes::new(0o644, 0, 0),
        &FileState::observe(&path)?,
        "linger",
    )
    .map(drop)
}

fn file_of(user: &str) -> PathBuf {
    Path::new(DIRECTORY).join(user)
}
