//! What the command line means: which state directory, which script, who is asked.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;

use crate::cli::{Foreign, Options};
use crate::machine::account::Account;
use crate::machine::signal::Signals;
use crate::machine::{clock, random};
use crate::primitives;
use crate::run::{Launch, Selection};
use crate::session::ForeignPolicy;
use crate::ui::{Questions, Verbosity};

/// Where root keeps journal, backups, secrets and logs.
const STATE: &str = "/var/lib/kkrun";

/// Where root notes running children: gone after a restart, kept over a kill.
const NOTES: &str = "/run/kkrun";

/// The state directory that these options mean. No variable changes root's.
pub fn state_directory(options: &Options) -> Result<PathBuf> {
    if let Some(directory) = &options.state_dir {
        return Ok(std::path::absolute(directory)?);
    }
    let account = Account::current()?;
    if account.is_root() {
        return Ok(PathBuf::from(STATE));
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(state.unwrap_or_else(|| account.home.join(".local/state")).join("kkrun"))
}

fn notes_directory(options: &Options) -> Result<PathBuf> {
    if options.state_dir.is_none() && Account::current()?.is_root() {
        return Ok(PathBuf::from(NOTES));
    }
    Ok(state_directory(options)?.join("running"))
}

/// Who answers questions.
pub fn questions(options: &Options) -> Questions {
    Questions { yes: options.yes, non_interactive: options.non_interactive }
}

/// How much is shown.
pub fn verbosity(options: &Options) -> Verbosity {
    match (options.quiet, options.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}

/// Everything that a run needs to know; `invocation` is what hints tell the operator to type again.
pub fn launch(options: &Options, invocation: &str) -> Result<Rc<Launch>> {
    let stamp = clock::now().strftime("%Y%m%dT%H%M%S");
    Ok(Rc::new(Launch {
        invocation: invocation.to_owned(),
        state: state_directory(options)?,
        notes: notes_directory(options)?,
        run: format!("{stamp}-{}", random::hex(3)?),
        signals: Signals::install()?,
        register: primitives::REGISTRATION,
        dry_run: options.dry_run,
        selection: Selection {
            from: options.from.clone(),
            only: options.only.clone(),
            redo: options.redo.clone(),
            accept: options.accept.clone(),
            verify: options.verify,
        },
        foreign: match options.foreign {
            Foreign::Ask => ForeignPolicy::Ask,
            Foreign::Keep => ForeignPolicy::Keep,
            Foreign::Replace => ForeignPolicy::Replace,
        },
        purge: options.purge.clone(),
        set: options.set.clone(),
        unset: options.unset.clone(),
        settings_files: options.settings.clone(),
        secrets_file: options.secrets.clone(),
    }))
}
