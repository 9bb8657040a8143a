//! The command line, as it is typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::rollback::CLASSES;
use crate::ui::ColorChoice;

/// Sets up a machine from Rhai scripts: interruptible at any instant, resumable, rehearsable, reversible.
#[derive(Debug, Parser)]
#[command(name = "kkrun", version, args_conflicts_with_subcommands = false, disable_help_subcommand = true)]
#[command(arg_required_else_help = true)]
#[command(override_usage = "kkrun [OPTIONS] SCRIPT.rhai [ARGUMENT]...\n       kkrun [OPTIONS] COMMAND")]
#[command(after_help = "\
Exit status:
  0      done
  1      a step or a script failed
  2      wrong usage, or a script that does not pass the check
  3      another run holds the lock
  4      a rollback ended with conflicts or failures
  5      the journal is damaged, missing or of another machine
  6      a dry run found changes to make
  77     refused: others can write a script or the state, or root is needed
  78     an answer is needed and no one can be asked
  128+N  ended by signal N")]
pub struct Cli {
    /// The options that were given.
    #[command(flatten)]
    pub options: Options,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The options of runs. `options_of` says which of them other commands take.
#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "every switch of a command line is one")]
pub struct Options {
    /// Change nothing: show what would be changed
    #[arg(long)]
    pub dry_run: bool,
    /// Examine complete steps too, and fail at those whose effect no longer holds
    #[arg(long)]
    pub verify: bool,
    /// Examine complete steps too, and run those whose effect no longer holds
    #[arg(long)]
    pub repair: bool,
    /// Start at STEP: skip the steps before it
    #[arg(long, value_name = "STEP")]
    pub from: Option<String>,
    /// Run only these steps
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Run these steps again, complete or on hold
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub redo: Vec<String>,
    /// Record these steps as complete without running them
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub accept: Vec<String>,
    /// With --accept: why; the journal keeps it, `status` and `log` show it
    #[arg(long, value_name = "TEXT", requires = "accept")]
    pub reason: Option<String>,
    /// Override a setting in this run and all later ones
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Forget the override of a setting
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,
    /// Read more settings from FILE; may be repeated
    #[arg(long, value_name = "FILE")]
    pub settings: Vec<PathBuf>,
    /// Read secrets from FILE: KEY=VALUE lines, mode 0600; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Answer yes to every question about something that loses no data
    #[arg(long, short)]
    pub yes: bool,
    /// Allow a rollback to delete these classes of data
    #[arg(long, value_name = "CLASSES", value_delimiter = ',', value_parser = classes())]
    pub purge: Vec<String>,
    /// What to do about targets modified outside kkrun
    #[arg(long, value_name = "WHAT", default_value = "ask")]
    pub on_conflict: OnConflict,
    /// Never ask
    #[arg(long)]
    pub non_interactive: bool,
    /// Write JSON to standard output: an object per line
    #[arg(long)]
    pub json: bool,
    /// Show every change and all output of commands
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Show what changes in each target
    #[arg(long, hide = true)]
    pub show_differences: bool,
    /// Run in a throwaway clone: show no commands to type next, which would be about the clone
    #[arg(long, hide = true)]
    pub in_clone: bool,
    /// Show only failures and questions
    #[arg(long, short)]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Keep journal and backups in DIR
    #[arg(long, value_name = "DIR", overrides_with = "state_dir")]
    pub state_dir: Option<PathBuf>,
}

/// What to do about a conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Show the difference and ask
    #[default]
    Ask,
    /// Keep what is there
    Keep,
    /// Overwrite it; a backup is kept
    Overwrite,
}

/// The options that a command takes besides its own, by their names in [`Options`]; none of a run or a rehearsal, which
/// take all.
fn options_of(command: &str) -> Option<&'static [&'static str]> {
    Some(match command {
        "run" | "rehearse" => return None,
        "check" => &["set", "unset", "settings", "secrets", "json", "color"],
        "rollback" => &[
            "dry_run",
            "yes",
            "purge",
            "on_conflict",
            "non_interactive",
            "json",
            "verbose",
            "quiet",
            "color",
            "state_dir",
        ],
        "reset" | "forget" => &["dry_run", "yes", "non_interactive", "json", "quiet", "color", "state_dir"],
        "pending" | "doctor" => &["non_interactive", "json", "quiet", "color", "state_dir"],
        "status" | "history" | "show" | "log" => &["json", "color", "state_dir"],
        "report" => &["color", "state_dir"],
        "api" => &["json", "color"],
        _ => &["color"],
    })
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a script on a throwaway clone of this machine
    ///
    /// The script runs as root in the clone and has no privileges on this machine: it cannot change its files,
    /// devices, clock or kernel, and cannot reach its addresses. What it does on other machines is real.
    Rehearse(Rehearse),
    /// Turn an old script into a plan
    ///
    /// The script, of any language, runs as root on a throwaway clone of this machine; what it did there is read back and
    /// written as a plan. The plan then runs on a clone of its own, which is compared with the first one, runs again, and is
    /// rolled back. What it does not reproduce is listed in REPORT.md. On this machine only the tools of a clone
    /// (systemd-container, slirp4netns) are installed, if they are missing.
    Adopt(Adopt),
    /// Check scripts without running anything
    Check {
        /// Scripts or directories [default: the built-in scripts]
        paths: Vec<PathBuf>,
    },
    /// Undo recorded changes, newest first
    Rollback {
        /// Only these steps or targets, such as `02` or `file:/etc/hosts`
        steps: Vec<String>,
        /// Undo changes of this plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Undo what the last run changed, or the last one of which something is left
        #[arg(long)]
        last: bool,
    },
    /// Show the state of the plans of this machine, or of one with its steps
    ///
    /// With a plan, its complete steps are examined, and nothing is changed. The exit status is 0 whatever the state is. If a
    /// plan cannot be examined, it is the one of `kkrun check` for that plan.
    Status {
        /// The plan: its name, or its script [default: all]
        plan: Option<String>,
    },
    /// Forget the progress of a plan: the next run checks everything again
    ///
    /// All changes stay, and can still be rolled back.
    Reset {
        /// The plan: its name, or its script [default: the only one]
        plan: Option<String>,
        /// Only these steps
        #[arg(long, value_name = "STEPS", value_delimiter = ',')]
        steps: Vec<String>,
    },
    /// Show the output of a step
    Log {
        /// The step [default: the one that ran last]
        step: Option<String>,
        /// A step of this plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
    },
    /// List changes and their states
    History {
        /// Only these steps, targets or paths, such as `02`, `user:kim` or `/etc/hosts`
        steps: Vec<String>,
        /// Only changes of this plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
    },
    /// Show one change with what it changed
    Show {
        /// The number of the change, as `kkrun history` lists it
        #[arg(value_name = "N", value_parser = change_number)]
        change: u64,
    },
    /// Write a report of a run: one HTML page with its steps, changes and failures
    ///
    /// The page needs nothing but a browser. It shows the steps, commands and changes of the run on a time line, with what
    /// changed line by line, the output of steps, and what is pending now. Like `show` and `log`, it shows no secrets.
    Report {
        /// The run, as `kkrun show` names it [default: the last one]
        run: Option<String>,
        /// The last run of this plan
        #[arg(long, value_name = "PLAN", conflicts_with = "run")]
        plan: Option<String>,
        /// Write the page to FILE; `-` is standard output [default: kkrun-report-RUN.html]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List what was triggered and has not run yet (handlers), or drop it
    Pending {
        /// Drop the handlers with these numbers without running them
        #[arg(long, value_name = "N", value_delimiter = ',', value_parser = number::<usize>)]
        drop: Vec<usize>,
    },
    /// Remove the stored secrets, backups and logs of a plan
    ///
    /// Shows first which changes cannot be undone afterwards, and asks; `--yes` agrees. What was recorded of the changes
    /// stays, without contents. Refused during a run and while a rollback is not finished.
    Forget {
        /// The plan: its name; `--all` and `--older-than` need none
        plan: Option<String>,
        /// Everything, of all plans
        #[arg(long, conflicts_with = "plan")]
        all: bool,
        /// Only logs, and backups that no rollback needs, that are older than so many days
        #[arg(long, value_name = "DAYS", conflicts_with_all = ["plan", "all"], value_parser = number::<u16>)]
        older_than: Option<u16>,
    },
    /// Examine the journal and explain how to repair it
    Doctor {
        /// Continue with a journal that is older than the state directory or of another machine
        #[arg(long)]
        accept_journal: bool,
    },
    /// Show the manual of the functions that scripts can call
    Api {
        /// A namespace, such as `file`, or a function, such as `file::write`
        name: Option<String>,
    },
    /// Write the built-in scripts to a directory
    Export {
        /// The directory to write to
        directory: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run a plan or a single script
    #[command(hide = true, override_usage = "kkrun [OPTIONS] SCRIPT.rhai [ARGUMENT]...")]
    Run {
        /// The script
        script: PathBuf,
        /// Arguments of the script
        words: Vec<String>,
    },
}

/// How to rehearse.
#[derive(Clone, Debug, Args)]
pub struct Rehearse {
    /// The script to run in the clone
    pub script: PathBuf,
    /// Arguments of the script
    #[arg(value_name = "ARGUMENT")]
    pub words: Vec<String>,
    /// Clone the root file system in DIR instead of this machine
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Run this script next; may be repeated
    #[arg(long, value_name = "SCRIPT")]
    pub then: Vec<String>,
    /// Fail unless the clone equals its base after the last script
    #[arg(long)]
    pub expect_unchanged: bool,
    /// Keep the clone and show how to enter it
    #[arg(long)]
    pub keep: bool,
    /// Write a report of the clone's last run to FILE, with all that the rehearsal changed on disk: one HTML page
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Start this unit of the machine in the clone too; may be repeated
    #[arg(long, value_name = "UNIT")]
    pub with: Vec<String>,
}

/// The most common command line, parsed without building the other commands.
#[derive(Parser)]
#[command(name = "kkrun", disable_help_flag = true)]
struct Run {
    #[command(flatten)]
    options: Options,
    script: PathBuf,
    words: Vec<String>,
}

/// What to adopt.
#[derive(Clone, Debug, Args)]
pub struct Adopt {
    /// The script to run in the clone
    pub script: PathBuf,
    /// Arguments of the script
    #[arg(value_name = "ARGUMENT")]
    pub words: Vec<String>,
    /// Clone the root file system in DIR instead of this machine
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Give FILE to the script as its standard input
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Write the plan to DIR, a new or empty directory [default: the name of the script without its extension]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line. The first argument that is neither an option nor a command is a script to run. Options can
    /// be before the command or behind it.
    pub fn of(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        plain(&arguments).map_or_else(|| Self::by_description(arguments), Ok)
    }

    fn by_description(mut arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut run = Run::command();
        let Some(at) = command_position(&run, &arguments) else {
            return Self::try_parse_from(arguments);
        };
        let typed = arguments[at].to_str().unwrap_or_default();
        if !Command::has_subcommand(typed) {
            let read = run.try_get_matches_from_mut(&arguments);
            // What is wrong is reported by the whole command line.
            if let Ok(Run { options, script, words }) =
                read.and_then(|matches| Run::from_arg_matches(&matches))
            {
                return Ok(Self { options, command: Command::Run { script, words } });
            }
            arguments.insert(at, OsString::from("run"));
        }
        arguments[1..=at].rotate_right(1);
        let mut known = command_line();
        let matches = known.try_get_matches_from_mut(arguments)?;
        let Some((name, given)) = matches.subcommand() else { return Self::from_arg_matches(&matches) };
        if let Some(taken) = options_of(name) {
            let typed = |option: &&clap::Arg| {
                let source = given.value_source(option.get_id().as_str());
                source == Some(ValueSource::CommandLine)
                    && !taken.contains(&option.get_id().as_str())
                    // An alias, a script or a rehearsal may give these to every command.
                    && !["state_dir", "non_interactive", "show_differences", "in_clone"].contains(&option.get_id().as_str())
            };
            if let Some(option) = Options::augment_args(clap::Command::new("")).get_arguments().find(typed) {
                let message =
                    format!("`kkrun {name}` does not take `--{}`", option.get_long().unwrap_or_default());
                return Err(known.error(ErrorKind::UnknownArgument, message));
            }
        }
        Ok(Self { options: Options::from_arg_matches(given)?, command: Command::from_arg_matches(&matches)? })
    }
}

/// The whole command line: each command with the options that it takes.
pub fn command_line() -> clap::Command {
    let mut known = Cli::command();
    let options = Options::augment_args(clap::Command::new(""));
    for command in known.get_subcommands_mut() {
        let taken = options_of(command.get_name());
        // Behind those of the command itself.
        let option = |(at, option): (usize, &clap::Arg)| {
            let is_taken = taken.is_none_or(|taken| taken.contains(&option.get_id().as_str()));
            option.clone().hide(option.is_hide_set() || !is_taken).display_order(100 + at)
        };
        let all: Vec<clap::Arg> = options.get_arguments().enumerate().map(option).collect();
        *command = std::mem::take(command).args(all);
    }
    known
}

/// The run of one script with no other options than these switches and `--state-dir`, as it is typed most: building the
/// description of all options takes a quarter of the time of a run that does nothing. `None` for anything else, which
/// the description explains.
fn plain(arguments: &[OsString]) -> Option<Cli> {
    let (mut options, mut script) = (Options::default(), None);
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        let switch = match argument.to_str()? {
            "--dry-run" => &mut options.dry_run,
            "--verify" => &mut options.verify,
            "--non-interactive" => &mut options.non_interactive,
            "--json" => &mut options.json,
            "-y" | "--yes" => &mut options.yes,
            "-v" | "--verbose" => &mut options.verbose,
            "-q" | "--quiet" => &mut options.quiet,
            "--state-dir" => {
                let directory = arguments.next()?;
                let is_value = !directory.is_empty() && !directory.to_str()?.starts_with('-');
                if !is_value || options.state_dir.replace(directory.into()).is_some() {
                    return None;
                }
                continue;
            }
            text => {
                let is_script = !text.is_empty() && !text.starts_with('-') && !Command::has_subcommand(text);
                if !is_script || script.replace(PathBuf::from(argument)).is_some() {
                    return None;
                }
                continue;
            }
        };
        // One that is given twice is an error.
        if std::mem::replace(switch, true) {
            return None;
        }
    }
    let is_consistent = !(options.quiet && options.verbose);
    let script = script.filter(|_| is_consistent)?;
    Some(Cli { options, command: Command::Run { script, words: Vec::new() } })
}

/// The position of the first argument that is not an option: a command or a script.
fn command_position(command: &clap::Command, arguments: &[OsString]) -> Option<usize> {
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
        return Some(at);
    }
    None
}

fn classes() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(CLASSES.iter().copied().chain(["all"]))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a number, such as `8`".to_owned())
}

fn change_number(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('#').unwrap_or(text).parse();
    number.map_err(|_| "expected the number of a change, such as `8` or `#8`".to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, found `{text}`"))?;
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
    fn a_plain_command_line_means_what_its_description_says() {
        let words = |line: &str| -> Vec<OsString> {
            std::iter::once("kkrun").chain(line.split(' ')).map(OsString::from).collect()
        };
        for line in [
            "x.rhai",
            "-q --state-dir /s x.rhai",
            "--quiet x.rhai --state-dir s",
            "--dry-run -v dir/x.rhai",
            "--verify -y --non-interactive --json --verbose x",
        ] {
            let described = Cli::by_description(words(line)).unwrap();
            assert_eq!(format!("{:?}", plain(&words(line)).unwrap()), format!("{described:?}"), "{line}");
        }
        for line in [
            "",
            "-q -q x.rhai",
            "-q -v x.rhai",
            "--state-dir a --state-dir b x.rhai",
            "--state-dir -q x.rhai",
            "--state-dir  x.rhai",
            "x.rhai 07",
            "x.rhai --",
            "-qy x.rhai",
            "--quiet=true x.rhai",
            "--color never x.rhai",
            "history",
            "--frobnicate",
        ] {
            assert!(plain(&words(line)).is_none(), "{line}");
        }
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
    fn what_is_hidden_is_in_no_help() {
        for command in command_line().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(!help.contains("--in-clone") && !help.contains("--show-differences"), "{help}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }
}
