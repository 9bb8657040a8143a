//! `kkrun rehearse SCRIPT.rhai`: runs a plan on a throwaway clone of this machine, and says what it changed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cli::{self, Cli, Command, OnConflict, Options};
use crate::event::{Answer, Event, Question, Reporter};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::signal::Signals;
use crate::machine::tool;
use crate::plan::STANDARD_INPUT;
use crate::rehearse::{
    self, Base, Difference, FILES, Outcome, Progress, Rehearsal, Run, SCRATCH, missing_tools,
};
use crate::script::Source;
use crate::ui::ColorChoice;
use crate::ui::report::{Difference as ReportedDifference, Excerpt, Text, with_difference};

/// So many paths that a rehearsal changed are in its report.
const PATHS_IN_REPORT: usize = 5000;

/// Rehearses as the command line says.
pub(super) fn execute(options: &Options, wanted: cli::Rehearse) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    let signals = Signals::install()?;
    let (inside, files) = options_inside(options)?;
    let mut runs = vec![first_run(options, &inside, &wanted)?];
    for words in &wanted.then {
        runs.push(later_run(&inside, words)?);
    }
    provide_tools(&reporter)?;
    let rehearsal = Rehearsal {
        base: wanted.base.map_or(Base::RunningMachine, Base::Directory),
        with: wanted.with,
        keep: wanted.keep,
        expect_unchanged: wanted.expect_unchanged,
        durable: false,
        runs,
        report: wanted.report.as_ref().map(|_| report_inside(options)).transpose()?,
        scratch: tool::temporary_directory()
            .map_or_else(|| SCRATCH.into(), |place| place.join("kkrun-rehearsals")),
        binary: tool::own_binary()?,
        files,
    };
    let outcome = rehearse::rehearse(&rehearsal, &signals, &mut |progress| emit(&reporter, &progress))?;
    if let Some(path) = &wanted.report {
        match &outcome.report {
            Some(page) => {
                let page = with_difference(page, &shown_difference(&reporter, &outcome.difference));
                super::report::deliver(&page, path)?;
                reporter.note(format!("the report is in `{}`", path.display()));
            }
            None => reporter.note("no report is written: no run in the clone recorded anything"),
        }
    }
    conclude(&reporter, options, &outcome)
}

/// The arguments of kkrun that print the report in the clone.
fn report_inside(options: &Options) -> Result<Vec<OsString>> {
    let mut arguments = ["report", "--output", "-"].map(OsString::from).to_vec();
    arguments.extend(state_directory_inside(options)?);
    Ok(arguments)
}

fn state_directory_inside(options: &Options) -> Result<Option<OsString>> {
    let Some(directory) = &options.state_dir else { return Ok(None) };
    let mut argument = OsString::from("--state-dir=");
    argument.push(std::path::absolute(directory).context("cannot find the state directory")?);
    Ok(Some(argument))
}

/// What the rehearsal changed, for its report.
fn shown_difference(reporter: &Reporter, difference: &Difference) -> ReportedDifference {
    let shown = |line: &str| Text::of_outside(|text| reporter.redact(text), line);
    let lines = difference.entries.iter().map(|entry| shown(&rehearse::difference::line(entry)));
    let left_out = difference.entries.len().saturating_sub(PATHS_IN_REPORT);
    let more = format!("{left_out} more paths are left out: `kkrun rehearse --verbose` lists all of them");
    ReportedDifference {
        summary: difference.summary().iter().map(|sum| shown(&sum.to_string())).collect(),
        paths: Excerpt {
            left_out_before: None,
            lines: lines.take(PATHS_IN_REPORT).collect(),
            left_out_behind: (left_out > 0).then(|| shown(&more)),
        },
    }
}

/// Installs the tools that are missing, if the operator agrees.
pub(super) fn provide_tools(reporter: &Reporter) -> Result<()> {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let programs: Vec<String> = missing.iter().map(|tool| format!("`{}`", tool.program)).collect();
    let command = format!("apt-get install {}", packages.join(" "));
    let text = format!("A clone of this machine needs {}: run `{command}`?", programs.join(", "));
    match reporter.ask(&Question::Confirm { text, default: true, harmless: true })? {
        Some(Answer::Yes) => {
            reporter.note(format!("running `{command}`"));
            tool::install(&packages)
        }
        _ => rehearse::require_tools(),
    }
}

/// The script of the command line itself, with the options that choose steps.
fn first_run(options: &Options, inside: &[OsString], wanted: &cli::Rehearse) -> Result<Run> {
    let (plan, name) = plan_of(&wanted.script)?;
    let mut arguments = inside.to_vec();
    let lists = [("--only", &options.only), ("--redo", &options.redo), ("--accept", &options.accept)];
    for (option, values) in lists {
        if !values.is_empty() {
            arguments.push(format!("{option}={}", values.join(",")).into());
        }
    }
    arguments.extend(options.from.iter().map(|step| format!("--from={step}").into()));
    arguments.extend(options.reason.iter().map(|reason| format!("--reason={reason}").into()));
    arguments.push(name.into());
    if !wanted.words.is_empty() {
        arguments.push("--".into());
        arguments.extend(wanted.words.iter().map(OsString::from));
    }
    Ok(Run { arguments, plan })
}

/// What `--then` names: a script, or arguments as they would follow `kkrun`.
fn later_run(inside: &[OsString], words: &str) -> Result<Run> {
    let typed = shell_words::split(words).with_context(|| format!("cannot read `--then {words}`"))?;
    let mut arguments: Vec<OsString> = typed.iter().map(OsString::from).collect();
    let command_line = std::iter::once(OsString::from("kkrun")).chain(arguments.iter().cloned());
    let usage = |reason: String| Failure::new(format!("`--then {words}`: {reason}")).exit(ExitCode::USAGE);
    let mut plan = None;
    match Cli::of(command_line).map_err(|error| usage(first_line(&error.to_string())))?.command {
        Command::Run { script, .. } => {
            let (found, name) = plan_of(&script)?;
            plan = found;
            let place = arguments.iter().position(|word| Path::new(word) == script);
            arguments[place.context("the script is missing from its own command line")?] = name.into();
        }
        Command::Rehearse(_) => bail!(usage("cannot rehearse inside a rehearsal".to_owned())),
        _ => {}
    }
    Ok(Run { arguments: [inside, &arguments].concat(), plan })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The directory of a script, if it comes from disk, and its name there. It is read here as it will be read in the
/// clone, so that what others could write is refused before anything is made.
fn plan_of(script: &Path) -> Result<(Option<PathBuf>, String)> {
    let (source, name) = Source::find(script)?;
    source.script(&name)?;
    Ok(match source {
        Source::Directory { root, .. } => (Some(root), name),
        Source::BuiltIn => (None, name),
    })
}

/// Files that come along into the clone, with their names there.
type SharedFiles = Vec<(PathBuf, String)>;

/// The options as the runs inside are given them, and the files among them that must come along.
fn options_inside(options: &Options) -> Result<(Vec<OsString>, SharedFiles)> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut files = Vec::new();
    let flags = [
        ("--dry-run", options.dry_run),
        ("--verify", options.verify),
        ("--repair", options.repair),
        ("--yes", options.yes),
        ("--non-interactive", options.non_interactive),
        ("--json", options.json),
        ("--verbose", options.verbose),
        ("--quiet", options.quiet),
        ("--show-differences", true),
    ];
    arguments.extend(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| OsString::from(flag)));
    arguments.extend(options.set.iter().map(|(key, value)| format!("--set={key}={value}").into()));
    arguments.extend(options.unset.iter().map(|key| format!("--unset={key}").into()));
    let mut share = |option: &str, path: &Path, name: String| -> Result<OsString> {
        let path = std::path::absolute(path).with_context(|| format!("cannot find `{}`", path.display()))?;
        let argument = format!("{option}={FILES}/{name}");
        files.push((path, name));
        Ok(argument.into())
    };
    for (number, path) in options.settings.iter().enumerate() {
        arguments.push(share("--settings", path, format!("settings-{number}.rhai"))?);
    }
    if let Some(path) = &options.secrets {
        if path == Path::new(STANDARD_INPUT) {
            bail!(
                Failure::new(
                    "a rehearsal cannot read secrets from standard input: its scripts read them in the clone"
                )
                .exit(ExitCode::USAGE)
                .hint("give them in a file: `--secrets FILE`")
            );
        }
        arguments.push(share("--secrets", path, "secrets".to_owned())?);
    }
    if !options.purge.is_empty() {
        arguments.push(format!("--purge={}", options.purge.join(",")).into());
    }
    match options.on_conflict {
        OnConflict::Ask => {}
        OnConflict::Keep => arguments.push("--on-conflict=keep".into()),
        OnConflict::Overwrite => arguments.push("--on-conflict=overwrite".into()),
    }
    match options.color {
        ColorChoice::Auto => {}
        ColorChoice::Always => arguments.push("--color=always".into()),
        ColorChoice::Never => arguments.push("--color=never".into()),
    }
    arguments.extend(state_directory_inside(options)?);
    Ok((arguments, files))
}

/// Reports what goes on with a clone.
pub(super) fn emit(reporter: &Reporter, progress: &Progress) {
    let text = match progress {
        Progress::LeftoverRemoved { name } => format!("removed what the killed rehearsal `{name}` left behind"),
        Progress::NotASnapshot => {
            "the clone shows this machine's files as they are now: what its services are writing at this moment may \
             be cut off in it"
                .to_owned()
        }
        Progress::NotContained => {
            "root in the clone is root on this machine, because a file system of it cannot map owners: what would \
             change the kernel's own settings, its clock or its devices is not kept away from this machine"
                .to_owned()
        }
        Progress::LeftOut { path, file_system, reason } => {
            format!("`{}` ({file_system}) is not in the clone: {reason}", path.display())
        }
        Progress::LingeringHidden { users } => {
            format!("the clone does not start the lingering services of {}", users.join(", "))
        }
        Progress::ProxyOutOfReach { variable } => {
            format!("`{variable}` names a proxy on this machine's loopback, which the clone cannot reach")
        }
        Progress::InMemory { place, free } => format!(
            "the clone writes to memory, in `{}`: {} free",
            place.display(),
            rehearse::difference::size(*free)
        ),
        Progress::Booted { name, took, .. } => {
            format!("the clone `{name}` is up after {:.1} s: its basic system, bus and logins", took.as_secs_f64())
        }
        Progress::RunStarted { index: 0, .. } | Progress::RunEnded { index: 0, code: 0 } => return,
        Progress::RunStarted { arguments, .. } => {
            let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
            format!("in the clone: kkrun {}", words.join(" "))
        }
        Progress::RunEnded { code, .. } => format!("it ended with exit status {code}"),
        Progress::Restarting => "the clone restarts, as the script asked".to_owned(),
        Progress::Removing => "removing the clone".to_owned(),
        Progress::Kept { enter, remove, upper } => format!(
            "the clone is kept and keeps running\n  enter it:  {enter}\n  remove it: {remove}\n  what it wrote: {}",
            upper.display()
        ),
    };
    let is_of_clone = matches!(
        progress,
        Progress::Booted { .. }
            | Progress::RunStarted { .. }
            | Progress::RunEnded { .. }
            | Progress::Restarting
            | Progress::Removing
            | Progress::Kept { .. }
    );
    // An adoption makes several clones of one machine: what is to be known of that is said once.
    if is_of_clone { reporter.note(text) } else { reporter.note_once(text) }
}

fn conclude(reporter: &Reporter, options: &Options, outcome: &Outcome) -> Result<ExitCode> {
    show_changes(reporter, options, &outcome.difference);
    let exit = outcome.exit_code();
    if let Some(unexpected) = &outcome.unexpected {
        for entry in &unexpected.entries {
            reporter.emit(&Event::Output { text: rehearse::difference::line(entry) });
        }
        if !unexpected.is_empty() {
            let count = unexpected.entries.len();
            let paths = if count == 1 { "path" } else { "paths" };
            return Err(Failure::new(format!("the clone differs from its base in {count} {paths}"))
                .exit(exit)
                .into());
        }
        reporter.note("the clone equals its base, but for the declared exceptions");
    }
    Ok(exit)
}

fn show_changes(reporter: &Reporter, options: &Options, difference: &Difference) {
    if difference.is_empty() {
        return reporter.note("nothing on disk changed");
    }
    reporter.note("changed on disk:");
    if options.verbose {
        for entry in &difference.entries {
            reporter.note(format!("  {}", rehearse::difference::line(entry)));
        }
        return;
    }
    for summary in difference.summary() {
        reporter.note(format!("  {summary}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let words = std::iter::once("kkrun").chain(line.split_whitespace()).chain(["x.rhai"]);
        Cli::of(words.map(OsString::from)).unwrap().options
    }

    #[test]
    fn options_go_along_and_their_files_under_names_of_the_clone() {
        let given = "--yes --set a=b --settings /etc/my.rhai --secrets /root/s --purge users,homes --on-conflict keep -v";
        let (arguments, files) = options_inside(&options(given)).unwrap();
        let expected = [
            "--yes",
            "--verbose",
            "--show-differences",
            "--set=a=b",
            "--settings=/run/kkrun-rehearsal/files/settings-0.rhai",
            "--secrets=/run/kkrun-rehearsal/files/secrets",
            "--purge=users,homes",
            "--on-conflict=keep",
        ];
        assert_eq!(arguments, expected);
        assert_eq!(
            files,
            [
                (PathBuf::from("/etc/my.rhai"), "settings-0.rhai".to_owned()),
                (PathBuf::from("/root/s"), "secrets".to_owned())
            ]
        );
    }

    #[test]
    fn secrets_on_standard_input_are_refused() {
        let error = options_inside(&options("--secrets -")).unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), ExitCode::USAGE);
    }

    #[test]
    fn a_later_run_may_have_options_of_its_own_or_be_a_command() {
        let inside = [OsString::from("--yes")];
        let run = later_run(&inside, "rollback.rhai --purge all").unwrap();
        assert_eq!(run.arguments, ["--yes", "rollback.rhai", "--purge", "all"]);
        assert_eq!(run.plan, None);
        assert_eq!(later_run(&inside, "rollback 07").unwrap().arguments, ["--yes", "rollback", "07"]);
        let error = later_run(&inside, "rehearse x.rhai").unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), ExitCode::USAGE);
    }

    #[test]
    fn the_options_that_choose_steps_are_for_the_first_run_alone() {
        let chosen = options("--only 01,02 --from 01");
        let wanted = cli::Rehearse {
            script: "master.rhai".into(),
            words: vec!["--word".to_owned()],
            base: None,
            then: Vec::new(),
            expect_unchanged: false,
            keep: false,
            report: None,
            with: Vec::new(),
        };
        let run = first_run(&chosen, &[], &wanted).unwrap();
        assert_eq!(run.arguments, ["--only=01,02", "--from=01", "master.rhai", "--", "--word"]);
        assert_eq!(options_inside(&chosen).unwrap().0, ["--show-differences"]);
    }
}
