//! Whether a package stays in its version, whatever apt would install.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apt::Apt;
use super::installed::Installed;
use super::{Kind, Payload, Position, UndoTerms, Undone, World, state_value};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::Undoing;
use crate::target::{States, Target};

/// A change to dpkg's selection of a package.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldChange {
    before: bool,
    after: bool,
    inverse: HoldInverse,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct HoldInverse {
    package: String,
}

impl HoldChange {
    /// The change that puts a package on hold or lets it go; `None` if that is so already.
    ///
    /// # Errors
    /// When a package that is not there, and would not be by then, is to be put on hold.
    pub fn towards(package: &str, is_held: bool, world: &World, acts: bool) -> Result<Option<Self>> {
        let known = Installed::look(world)?;
        let package = known.named(package).to_owned();
        let before = known.is_held(&package);
        if before == is_held {
            return Ok(None);
        }
        if is_held && acts && !known.is_there(&package) {
            bail!(
                Failure::new(format!("cannot put `{package}` on hold: it is not installed"))
                    .kind(FailureKind::Missing)
                    .hint("install it first: pkg::install")
            );
        }
        Ok(Some(Self { before, after: is_held, inverse: HoldInverse { package } }))
    }

    fn is_held(&self, world: &World) -> Result<bool> {
        Ok(Installed::look(world)?.is_held(&self.inverse.package))
    }

    fn states(&self, is_held: bool) -> States {
        [(self.target(), state_value(&is_held))].into()
    }
}

/// Whether a package is on hold.
pub fn is_held(package: &str, world: &World) -> Result<bool> {
    Ok(Installed::look(world)?.is_held(package))
}

fn verb(is_held: bool) -> &'static str {
    if is_held { "hold" } else { "unhold" }
}

impl Kind for HoldChange {
    fn target(&self) -> Target {
        Target::Hold(self.inverse.package.clone())
    }

    fn summary(&self) -> String {
        if self.after {
            format!("put {} on hold", self.inverse.package)
        } else {
            format!("let {} go from its hold", self.inverse.package)
        }
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        Apt::new(world).mark(verb(self.after), &[&self.inverse.package])
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let was_ended = recorded.as_bool() == Some(self.after) && self.before != self.after;
        let now = if self.after { "not on hold any more" } else { "on hold again" };
        was_ended.then(|| Modification::shown(&format!("package `{}` is {now}", self.inverse.package)))
    }

    fn position(&self, world: &World) -> Result<Position> {
        Ok(if self.is_held(world)? == self.after { Position::After } else { Position::Before })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let is_held = self.is_held(world)?;
        anyhow::ensure!(
            is_held == self.after,
            "apt-mark left the hold of {} as it was",
            self.inverse.package
        );
        Ok(self.states(is_held))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let known = Installed::look(world)?;
        let package = &self.inverse.package;
        // A package that is gone has no hold that counts.
        if known.is_held(package) == self.before || self.before && !known.is_there(package) {
            return Ok(Undone::Back(Undoing::Already, self.states(self.before)));
        }
        if !terms.dry_run {
            Apt::new(world).mark(verb(self.before), &[package])?;
        }
        Ok(Undone::Back(Undoing::Restored, self.states(self.before)))
    }
}
