//! What the command line means: which state directory, which script, who is asked.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Result, bail};

use crate::cli::{OnConflict, Options};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal;
use crate::machine::account::Account;
use crate::machine::signal::Signals;
use crate::machine::{clock, random, root, state_key, terminal};
use crate::pasteable::name_state_directory;
use crate::plan::{Launch, Selection};
use crate::primitives;
use crate::script::{Source, requires_root};
use crate::session::ConflictPolicy;
use crate::ui::{Questions, Verbosity, line_to_stderr};

/// Where root keeps journal, backups, secrets and logs.
const STATE: &str = "/var/lib/kkrun";

/// Where root records running children: outlives a kill, but not a restart of the machine.
const NOTES: &str = "/run/kkrun/children";

/// The state directory that these options mean. No variable changes root's.
pub fn state_directory(options: &Options) -> Result<PathBuf> {
    if let Some(directory) = &options.state_dir {
        let directory = plain(&std::path::absolute(directory)?);
        name_state_directory(&directory);
        return Ok(directory);
    }
    if root::is_root() {
        return Ok(PathBuf::from(STATE));
    }
    // A directory that cannot be searched has a journal: see `journal::make_state_directory`.
    let found = Path::new(STATE).join(journal::FILE).symlink_metadata();
    if !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        bail!(
            Failure::new(format!("cannot read the journal `{STATE}`: it belongs to root"))
                .exit(ExitCode::REFUSED)
                .kind(FailureKind::Refused)
                .hint(format!("run it as root: `{}`", as_root()))
                .hint("to use another journal, name it with `--state-dir DIR`")
        );
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let in_home = || Account::current().map(|account| account.home.join(".local/state"));
    Ok(state.map_or_else(in_home, Ok)?.join("kkrun"))
}

/// The same directory without `..` and symlinks, as far as it exists.
fn plain(path: &Path) -> PathBuf {
    let mut missing = PathBuf::new();
    for above in path.ancestors() {
        if let Ok(there) = above.canonicalize() {
            let has_up = missing.components().any(|part| part == std::path::Component::ParentDir);
            let is_there = missing.as_os_str().is_empty();
            return match (has_up, is_there) {
                (true, _) => path.to_owned(),
                (false, true) => there,
                (false, false) => there.join(missing),
            };
        }
        let Some(name) = above.components().next_back() else { break };
        missing = if missing.as_os_str().is_empty() {
            PathBuf::from(name.as_os_str())
        } else {
            Path::new(name.as_os_str()).join(missing)
        };
    }
    path.to_owned()
}

/// Becomes root if the script requires it: through sudo if there is a terminal; otherwise it fails.
pub fn become_root_for(options: &Options, script: &Path) -> Result<()> {
    if root::is_root() {
        return Ok(());
    }
    let requires = Source::find(script).is_ok_and(|(source, name)| requires_root(&source, &name));
    if !requires {
        return Ok(());
    }
    let refused = Failure::new(format!("`{}` requires root", script.display()))
        .exit(ExitCode::REFUSED)
        .kind(FailureKind::Refused)
        .hint(format!("run it as root: `{}`", as_root()));
    if options.non_interactive || !terminal::is_interactive() {
        bail!(refused);
    }
    let kept = root::dropped_by_sudo();
    let with = if kept.is_empty() { String::new() } else { format!(", with {}", kept.join(", ")) };
    line_to_stderr(&format!("`{}` requires root: continuing through sudo{with}", script.display()));
    match root::again_through_sudo(&kept) {
        Ok(never) => match never {},
        Err(error) => bail!(refused.hint(sentence(&error))),
    }
}

/// The command line as root would type it.
fn as_root() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("sudo kkrun {}", shell_words::join(words)).trim_end().to_owned()
}

fn child_records_directory(options: &Options) -> Result<PathBuf> {
    if options.state_dir.is_none() && root::is_root() {
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

/// The command that runs a script with these arguments again: what else was typed counts only for the run it was typed for.
pub fn invocation_of(options: &Options, script: &Path, words: &[String]) -> String {
    let mut typed = vec!["kkrun".to_owned()];
    let files = options.settings.iter().map(|file| ("--settings", file));
    for (option, file) in files.chain(options.secrets.iter().map(|file| ("--secrets", file))) {
        typed.extend([option.to_owned(), file.display().to_string()]);
    }
    typed.push(script.display().to_string());
    if !words.is_empty() {
        // One that begins with a dash is none of kkrun's options.
        typed.push("--".to_owned());
        typed.extend_from_slice(words);
    }
    shell_words::join(typed)
}

/// Everything that a run needs to know; `invocation` is the command that hints name.
pub fn launch(options: &Options, invocation: &str) -> Result<Rc<Launch>> {
    launch_from(options, invocation, state_directory(options)?, child_records_directory(options)?)
}

/// Everything that reading scripts needs to know: no journal is read.
pub fn launch_to_read(options: &Options) -> Result<Rc<Launch>> {
    launch_from(options, "kkrun check", PathBuf::new(), PathBuf::new())
}

fn launch_from(options: &Options, invocation: &str, state: PathBuf, notes: PathBuf) -> Result<Rc<Launch>> {
    if !state.as_os_str().is_empty() {
        state_key::take(&state)?;
    }
    let stamp = clock::now().strftime("%Y%m%dT%H%M%S");
    Ok(Rc::new(Launch {
        invocation: invocation.to_owned(),
        state,
        notes,
        run: format!("{stamp}-{}", random::hex(3)?),
        signals: Signals::install()?,
        register: primitives::REGISTRATION,
        dry_run: options.dry_run,
        selection: Selection {
            from: options.from.clone(),
            only: options.only.clone(),
            redo: options.redo.clone(),
            accept: options.accept.clone(),
            reason: options.reason.clone(),
            examine: options.verify || options.repair || options.dry_run,
            verify: options.verify,
            repair: options.repair,
        },
        on_conflict: match options.on_conflict {
            OnConflict::Ask => ConflictPolicy::Ask,
            OnConflict::Keep => ConflictPolicy::Keep,
            OnConflict::Overwrite => ConflictPolicy::Overwrite,
        },
        purge: options.purge.clone(),
        set: options.set.clone(),
        unset: options.unset.clone(),
        settings_files: options.settings.clone(),
        secrets_file: options.secrets.clone(),
    }))
}
