//! The command line, as it is typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::rollback::CLASSES;
use crate::ui::ColorChoice;

/// Sets up a machine from Rhai scripts: interruptible at any instant, resumable, rehearsable, reversible.
#[derive(Debug, Parser)]
#[command(name = "kkrun", version, args_conflicts_with_subcommands = false, disable_help_subcommand = true)]
#[command(override_usage = "kkrun [OPTIONS] SCRIPT.rhai [WORD]...\n       kkrun [OPTIONS] COMMAND")]
#[command(
    after_help = "Exit status: 0 done · 1 a step or script failed · 2 wrong usage or script · 3 another run holds the lock\n\
4 rollback with conflicts or failures · 5 journal damaged, missing or newer · 6 there are changes to make\n\
77 refused: not trusted, or not root · 78 an answer is needed · 128+N ended by signal N"
)]
pub struct Cli {
    /// The options that every command takes.
    #[command(flatten)]
    pub options: Options,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// The options that every command takes.
#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "every switch of a command line is one")]
pub struct Options {
    /// Only look: say what a run would change
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Examine complete steps too
    #[arg(long, global = true)]
    pub verify: bool,
    /// Pass over the steps before STEP
    #[arg(long, global = true, value_name = "STEP")]
    pub from: Option<String>,
    /// Run these steps alone
    #[arg(long, global = true, value_name = "STEPS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Run these steps again
    #[arg(long, global = true, value_name = "STEPS", value_delimiter = ',')]
    pub redo: Vec<String>,
    /// Take the present fingerprint of these steps as done
    #[arg(long, global = true, value_name = "STEPS", value_delimiter = ',')]
    pub accept: Vec<String>,
    /// Override a setting, now and in later runs
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Forget the override of a setting
    #[arg(long, global = true, value_name = "KEY")]
    pub unset: Vec<String>,
    /// Read further settings
    #[arg(long, global = true, value_name = "FILE")]
    pub settings: Vec<PathBuf>,
    /// Read secrets: lines of KEY=VALUE, mode 0600
    #[arg(long, global = true, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Agree to what loses no data
    #[arg(long, short, global = true)]
    pub yes: bool,
    /// Agree to lose these
    #[arg(long, global = true, value_name = "CLASSES", value_delimiter = ',', value_parser = classes())]
    pub purge: Vec<String>,
    /// What to do about targets that somebody else changed
    #[arg(long, global = true, value_name = "WHAT", default_value = "ask")]
    pub on_conflict: OnConflict,
    /// Never ask
    #[arg(long, global = true)]
    pub non_interactive: bool,
    /// Events as JSON, one a line, on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Show every change and every line that commands print
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Show failures and questions only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Keep journal and backups in DIR
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// What to do about foreign targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Show the difference and ask
    #[default]
    Ask,
    /// Keep what is there
    Keep,
    /// Replace it
    Overwrite,
}

impl Options {
    /// The option that means nothing to a command which runs no script.
    fn refused_by(&self, command: &Command) -> Option<&'static str> {
        if matches!(command, Command::Run { .. } | Command::Rehearse(_)) {
            return None;
        }
        let is_read = matches!(command, Command::Check { .. });
        [
            ("--verify", self.verify),
            ("--from", self.from.is_some()),
            ("--only", !self.only.is_empty()),
            ("--redo", !self.redo.is_empty()),
            ("--accept", !self.accept.is_empty()),
            ("--set", !self.set.is_empty() && !is_read),
            ("--unset", !self.unset.is_empty() && !is_read),
            ("--settings", !self.settings.is_empty() && !is_read),
            ("--secrets", self.secrets.is_some() && !is_read),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a script on a throwaway clone of this machine
    ///
    /// What runs there is root in the clone and nobody on this machine: it cannot change its files, devices, clock or
    /// kernel, and reaches none of its addresses. What it does in the outside world is done.
    Rehearse(Rehearse),
    /// Read scripts without running anything
    Check {
        /// Scripts or directories; the built-in scripts if none is given
        paths: Vec<PathBuf>,
    },
    /// Undo what was done, from the journal alone
    Rollback {
        /// These steps alone, or these targets, such as `file:/etc/hosts`
        steps: Vec<String>,
        /// The plan whose changes are meant
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
    },
    /// Show what a step printed
    Log {
        /// The step; the one that ran last if none is given
        step: Option<String>,
    },
    /// Show every change with its state
    History,
    /// Show what changes triggered and has not run, or drop it
    Pending {
        /// Forget what has these numbers, without running it
        #[arg(long, value_name = "N", value_delimiter = ',')]
        drop: Vec<usize>,
    },
    /// Explain a damaged journal, and the way on
    Doctor,
    /// Show the primitives that scripts can call
    Api {
        /// A namespace or primitive
        name: Option<String>,
    },
    /// Write the built-in scripts to a directory
    Export {
        /// The directory
        directory: PathBuf,
    },
    /// Write completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run a plan or a single script
    #[command(hide = true)]
    Run {
        /// The script
        script: PathBuf,
        /// Its words
        words: Vec<String>,
    },
}

/// How to rehearse.
#[derive(Clone, Debug, Args)]
pub struct Rehearse {
    /// The script to run in the clone
    pub script: PathBuf,
    /// Its words
    pub words: Vec<String>,
    /// Clone the root file system in DIR instead of this machine
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Run this script after it; may be given again
    #[arg(long, value_name = "SCRIPT")]
    pub then: Vec<String>,
    /// Fail unless the clone equals its base after the last script
    #[arg(long)]
    pub expect_unchanged: bool,
    /// Leave the clone and say how to enter it
    #[arg(long)]
    pub keep: bool,
    /// Let the clone start this unit of the machine too; may be given again
    #[arg(long, value_name = "UNIT")]
    pub with: Vec<String>,
}

/// The commonest command line, which is read without making known what the others take.
#[derive(Parser)]
#[command(name = "kkrun", disable_help_flag = true)]
struct Run {
    #[command(flatten)]
    options: Options,
    script: PathBuf,
    words: Vec<String>,
}

impl Cli {
    /// Reads the command line. The first word that is neither an option nor a command is a script to run.
    pub fn of(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let mut run = Run::command();
        if let Some(at) = script_position(&run, &arguments) {
            let read = run.try_get_matches_from_mut(&arguments);
            // What is wrong is reported by the whole command line.
            if let Ok(Run { options, script, words }) =
                read.and_then(|matches| Run::from_arg_matches(&matches))
            {
                return Ok(Self { options, command: Command::Run { script, words } });
            }
            arguments.insert(at, OsString::from("run"));
        }
        let cli = Self::try_parse_from(arguments)?;
        match cli.options.refused_by(&cli.command) {
            None => Ok(cli),
            Some(option) => Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                format!("`{option}` is for running a plan: this command does not take it"),
            )),
        }
    }
}

/// Where the script stands, if the first word that is no option is not a command.
fn script_position(command: &clap::Command, arguments: &[OsString]) -> Option<usize> {
    let takes_value = |text: &str| {
        command.get_arguments().any(|known| {
            let named = text.strip_prefix("--").is_some_and(|name| known.get_long() == Some(name));
            named && known.get_action().takes_values()
        })
    };
    let mut at = 1;
    while at < arguments.len() {
        let text = arguments[at].to_str().unwrap_or_default();
        if text == "--" {
            return Some(at);
        }
        if text.starts_with('-') && text.len() > 1 {
            at += if takes_value(text) { 2 } else { 1 };
            continue;
        }
        return (!Command::has_subcommand(text)).then_some(at);
    }
    None
}

fn classes() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(CLASSES.iter().copied().chain(["all"]))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::of(std::iter::once("kkrun").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn options_stand_on_either_side_of_the_script_until_two_dashes() {
        for line in ["--dry-run --set a=b x.rhai 07", "x.rhai --dry-run 07 --set a=b"] {
            let cli = parse(line).unwrap();
            assert!(cli.options.dry_run, "{line}");
            assert_eq!(cli.options.set, [("a".to_owned(), "b".to_owned())]);
            let Command::Run { script, words } = cli.command else { panic!("{line}") };
            assert_eq!((script.to_str(), words), (Some("x.rhai"), vec!["07".to_owned()]));
        }
        let Command::Run { words, .. } = parse("x.rhai -- --dry-run").unwrap().command else { panic!() };
        assert_eq!(words, ["--dry-run"]);
    }

    #[test]
    fn an_unknown_option_is_refused_anywhere() {
        assert!(parse("x.rhai --frobnicate").is_err());
        assert!(parse("--frobnicate x.rhai").is_err());
    }

    #[test]
    fn what_chooses_steps_of_a_run_is_refused_by_what_runs_none() {
        for line in ["rollback --only 02", "rollback --from 02 --yes", "log --redo 01", "history --set a=b"] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in
            ["rollback 02 --dry-run --purge all --on-conflict overwrite", "check --settings x.rhai a.rhai"]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn only_classes_of_data_can_be_purged() {
        assert_eq!(parse("x.rhai --purge users,all").unwrap().options.purge, ["users", "all"]);
        assert!(parse("x.rhai --purge nonsense").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
