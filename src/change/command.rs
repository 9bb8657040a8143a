//! A command that was run, with what takes it back: the removal of its product, or commands given beforehand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, OnDoubt, Position, UndoTerms, Undone, World, state_value, unit};
use crate::journal::{Class, Undoing};
use crate::machine::account::Account;
use crate::machine::files::{self, Digest, FileState, PathText};
use crate::machine::process::{self, Command, Stdin};
use crate::machine::secret_store::SecretStore;

/// How long a command that looks, or takes back, may take.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// How long a command that takes something back may take.
const LONGEST_UNDO: Duration = Duration::from_secs(1800);

/// Up to how many bytes of a product are kept when it is removed.
const MOST_KEPT: u64 = 16 * 1024 * 1024;

/// A command as the journal holds it: everything that running it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainCommand {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// As whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Variables on top of those that every command gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Variables that hold secrets: by variable, the secret's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The exit codes that are no failure, besides 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ok_codes: Vec<i32>,
}

impl PlainCommand {
    /// The command to run. A secret that is not stored any more is left out, and that is reported.
    pub fn command(&self, world: &World, timeout: Duration) -> Result<Command> {
        let mut command = Command::new(&self.argv);
        command.user = self.user.as_deref().map(Account::existing).transpose()?;
        command.cwd.clone_from(&self.cwd);
        command.timeout = Some(timeout);
        let plain = |value: &String| process::Value::Plain(value.into());
        command.env = self.env.iter().map(|(name, value)| (name.into(), plain(value))).collect();
        let store = SecretStore::below(world.state_directory());
        for (variable, name) in &self.secrets {
            match store.read(name)? {
                Some(text) => {
                    let secret = process::Value::Secret(text.as_bytes().to_vec().into());
                    command.env.push((variable.into(), secret));
                }
                None => world.reporter.note(format!(
                    "`{}` runs without {variable}: the secret {name} is not stored",
                    self.label()
                )),
            }
        }
        if let Some(text) = &self.stdin {
            command.stdin = Stdin::Bytes(text.clone().into_bytes().into());
        }
        Ok(command)
    }

    /// How people are reported of it.
    pub fn label(&self) -> String {
        shell_words::join(&self.argv)
    }
}

/// How the state that a command changes is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Probe {
    /// The command is of no further use once this one succeeds.
    Success {
        /// The looking command.
        look: PlainCommand,
    },
    /// By what this one prints.
    Output {
        /// The looking command.
        look: PlainCommand,
    },
}

impl Probe {
    /// The state now: `true` or `false`, or a hash of the output.
    pub fn state(&self, world: &World) -> Result<String> {
        match self {
            Self::Success { look } => {
                Ok(world.look(&look.command(world, LONGEST_LOOK)?)?.is_success().to_string())
            }
            Self::Output { look } => {
                let ended = world.look(&look.command(world, LONGEST_LOOK)?)?;
                unit::succeeded(&ended, &look.label())?;
                Ok(Digest::of(ended.stdout.text().trim_end().as_bytes()).to_string())
            }
        }
    }
}

/// What a command is about: the presence of its product, and what its probe tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandState {
    /// Whether its product is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<bool>,
    /// What the probe tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed: Option<String>,
    /// A hash of what it was last made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<String>,
}

/// What takes a command back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandInverse {
    /// What it is called.
    pub label: String,
    /// Its product: removed, if it was not there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<PathText>,
    /// Commands that take it back, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<PlainCommand>,
    /// How its state is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What undoing it costs.
    pub class: Class,
}

/// A command that leaves something to take back, or to remember.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandChange {
    before: CommandState,
    after: CommandState,
    inverse: CommandInverse,
}

impl CommandChange {
    /// The change by a command about to be run. What it was made from is remembered with its success.
    pub fn about_to_run(world: &World, inverse: CommandInverse, made_from: Option<String>) -> Result<Self> {
        let mut before = CommandState { product: None, probed: None, made_from: None };
        before.product = inverse.product.as_ref().map(|path| is_there(path.as_path())).transpose()?;
        before.probed = inverse.probe.as_ref().map(|probe| probe.state(world)).transpose()?;
        let after = CommandState { product: before.product.map(|_| true), probed: None, made_from };
        Ok(Self { before, after, inverse })
    }

    /// Removes what an earlier attempt may have left half made.
    pub fn remove_partial_product(&self) -> Result<()> {
        match &self.inverse.product {
            Some(product) => remove(product.as_path()),
            None => Ok(()),
        }
    }

    /// Removes what is left of a product whose removal was interrupted.
    fn clear_leftover(&self) -> Result<()> {
        match &self.inverse.product {
            Some(product) => files::clear_leftover(product.as_path(), &super::file::tag(product.as_path())),
            None => Ok(()),
        }
    }

    /// What a product has become since is nobody's to tell: a copy of one that is a small file costs little.
    fn keep_small_product(&self, world: &World) -> Result<()> {
        let Some(product) = &self.inverse.product else { return Ok(()) };
        match std::fs::symlink_metadata(product.as_path()) {
            Ok(metadata) if !metadata.is_dir() && metadata.len() <= MOST_KEPT => {
                super::file::keep_copy(world, product.as_path())
            }
            _ => Ok(()),
        }
    }

    fn state(&self, world: &World) -> Result<CommandState> {
        Ok(CommandState {
            product: self.inverse.product.as_ref().map(|path| is_there(path.as_path())).transpose()?,
            probed: self.inverse.probe.as_ref().map(|probe| probe.state(world)).transpose()?,
            made_from: None,
        })
    }

    /// Nothing of it is there any more.
    fn is_as_before(&self, now: &CommandState) -> bool {
        let product_gone = now.product == Some(false) && self.before.product == Some(false);
        let probed_before = now.probed.is_some() && now.probed == self.before.probed;
        match (&self.inverse.product, &self.inverse.probe) {
            (Some(_), None) => product_gone,
            (None, Some(_)) => probed_before,
            (Some(_), Some(_)) => product_gone && (probed_before || self.inverse.commands.is_empty()),
            (None, None) => false,
        }
    }
}

fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

fn remove(path: &Path) -> Result<()> {
    match FileState::observe(path)? {
        FileState::Absent => Ok(()),
        // A half of it would be taken for the product.
        FileState::Directory { .. } => super::tree::remove_at_once(path),
        state => files::remove(path, &state, &super::file::tag(path)),
    }
}

impl Kind for CommandChange {
    fn target(&self) -> String {
        match &self.inverse.product {
            Some(product) => format!("product:{product}"),
            None => format!("command:{}", self.inverse.label),
        }
    }

    fn removed_by_undo(&self, _world: &World) -> Vec<PathBuf> {
        let is_gone = self.before.product == Some(false);
        let product = self.inverse.product.as_ref().filter(|_| is_gone);
        product.map(|product| product.as_path().to_owned()).into_iter().collect()
    }

    fn summary(&self) -> String {
        format!("run {}", self.inverse.label)
    }

    fn class(&self) -> Class {
        self.inverse.class
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, _world: &World) -> Result<()> {
        self.clear_leftover()
    }

    fn mend(&self, _world: &World) -> Result<()> {
        self.clear_leftover()
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.mend(world)?;
        let now = self.state(world)?;
        if self.before.product == Some(false)
            && now.product == Some(false)
            && self.inverse.commands.is_empty()
        {
            return Ok(Position::Before);
        }
        if let (Some(Probe::Success { .. }), Some("true")) = (&self.inverse.probe, now.probed.as_deref()) {
            return Ok(Position::After);
        }
        Ok(Position::Neither(format!("`{}` may have been stopped half-way", self.inverse.label)))
    }

    fn recorded(&self, world: &World) -> Result<BTreeMap<String, Value>> {
        let mut now = self.state(world)?;
        if let (Some(product), Some(false)) = (&self.inverse.product, now.product) {
            anyhow::bail!("`{}` did not make `{product}`", self.inverse.label);
        }
        if let Some(Probe::Success { look }) = &self.inverse.probe
            && now.probed.as_deref() != Some("true")
        {
            anyhow::bail!("after `{}`, `{}` still fails", self.inverse.label, look.label());
        }
        now.made_from.clone_from(&self.after.made_from);
        Ok([(self.target(), state_value(&now))].into())
    }

    fn loss(&self, _world: &World) -> Result<Option<super::Loss>> {
        Ok(None)
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.clear_leftover()?;
        }
        let looked = self.state(world);
        let now = looked.as_ref().cloned().unwrap_or_default();
        if self.is_as_before(&now) {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let recorded =
            terms.recorded.and_then(|value| serde_json::from_value::<CommandState>(value.clone()).ok());
        if let (Some(Probe::Output { look }), Some(recorded)) = (&self.inverse.probe, &recorded)
            && recorded.probed.is_some()
            && recorded.probed != now.probed
            // What an inverse left that was stopped half-way cannot be reported.
            && !terms.begun
            && !terms.force
        {
            // A look that failed says nothing of anybody.
            looked?;
            return Ok(Undone::Conflict(format!("what `{}` prints is another since", look.label())));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        for command in &self.inverse.commands {
            let label = command.label();
            let ended = world.run(&command.command(world, LONGEST_UNDO)?, &label)?;
            if !ended.status.code().is_some_and(|code| command.ok_codes.contains(&code)) {
                unit::succeeded(&ended, &label)?;
            }
        }
        if self.before.product == Some(false) {
            self.keep_small_product(world)?;
            self.remove_partial_product()?;
        }
        let restored = self.state(world).unwrap_or_default();
        if let (Some(Probe::Success { look }), Some("true")) =
            (&self.inverse.probe, restored.probed.as_deref())
            && !self.inverse.commands.is_empty()
        {
            anyhow::bail!("after taking `{}` back, `{}` still holds", self.inverse.label, look.label());
        }
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&restored))].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::change::testing::{undo, world};

    #[test]
    fn what_is_left_of_a_half_removed_product_goes_and_is_never_taken_for_the_product() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mut world = world(&path);
        let product = path.join("product");
        let inverse = CommandInverse {
            label: "make".to_owned(),
            product: Some(PathText::new(&*product)),
            commands: Vec::new(),
            probe: None,
            class: Class::Safe,
        };
        let change = Change::Command(CommandChange::about_to_run(&world, inverse, None).unwrap());
        std::fs::create_dir_all(product.join("inner")).unwrap();
        undo(&mut world, &change, None, false);
        assert!(!product.exists());

        let left = path.join(format!(".kkrun-{}", super::super::file::tag(&product)));
        std::fs::create_dir_all(left.join("inner")).unwrap();
        assert_eq!(change.kind().position(&world).unwrap(), Position::Before);
        assert!(!left.exists());
        std::fs::create_dir_all(left.join("inner")).unwrap();
        let undone = undo(&mut world, &change, None, false);
        assert!(matches!(undone, Undone::Back(Undoing::Already, _)) && !left.exists());
    }
}
