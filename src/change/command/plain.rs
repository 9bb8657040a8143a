//! A command as plain data, and how the state that a command changes is observed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::change::{World, unit};
use crate::failure::sentence;
use crate::machine::account::Account;
use crate::machine::files::Digest;
use crate::machine::process::{self, Command, Stdin};
use crate::machine::secret_store::SecretStore;

/// How long a probe may take.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

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
    /// The exit codes besides 0 that mean success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ok_codes: Vec<i32>,
}

impl PlainCommand {
    /// The command to run. A secret that is no longer stored is left out, and a note says so.
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
                    "`{}` runs without `{variable}`: secret `{name}` is not stored",
                    self.label()
                )),
            }
        }
        if let Some(text) = &self.stdin {
            command.stdin = Stdin::Bytes(text.clone().into_bytes().into());
        }
        Ok(command)
    }

    /// Its name in messages.
    pub fn label(&self) -> String {
        shell_words::join(&self.argv)
    }
}

/// How the state that a command changes is observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Probe {
    /// By whether this command succeeds: then there is nothing left to do.
    Success {
        /// The probing command.
        look: PlainCommand,
    },
    /// By the output of this command.
    Output {
        /// The probing command.
        look: PlainCommand,
    },
}

impl Probe {
    /// The state now: `true` or `false`, or a hash of the output; none if the command that prints it fails, as it does
    /// where there is nothing to print yet or any more.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn state(&self, world: &World) -> Result<Option<String>> {
        let (Self::Success { look } | Self::Output { look }) = self;
        let ended = world.look(&look.command(world, LONGEST_LOOK)?)?;
        Ok(match self {
            Self::Success { .. } => Some(ended.is_success().to_string()),
            Self::Output { .. } if !ended.is_success() => None,
            Self::Output { .. } => Some(Digest::of(ended.stdout.text().trim_end().as_bytes()).to_string()),
        })
    }

    /// Why the state is unknown.
    pub(super) fn failure(&self, world: &World) -> Result<()> {
        let Self::Output { look } = self else { return Ok(()) };
        unit::succeeded(&world.look(&look.command(world, LONGEST_LOOK)?)?, &look.label())
    }

    /// How the state differs from the recorded one.
    pub(super) fn difference(&self, world: &World) -> String {
        let (Self::Success { look } | Self::Output { look }) = self;
        match self.failure(world) {
            Ok(()) => format!("the output of `{}` is not what kkrun recorded", look.label()),
            Err(error) => format!("{error}, and kkrun recorded its output", error = sentence(&error)),
        }
    }
}
