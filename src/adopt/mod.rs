//! An old script turned into a plan: it runs on a clone of a machine, what it did is read back and written as calls of
//! primitives, and the plan proves itself on a clone of its own.

mod account;
mod action;
mod ageing;
mod alternative;
mod checkout;
mod database;
mod debconf;
mod diversion;
mod document;
mod edit;
mod files;
mod kernel;
mod literal;
mod live;
mod named;
mod noise;
mod open_files;
mod origin;
mod output;
mod package;
mod parameter;
mod product;
mod proof;
mod restart;
mod secret;
mod server;
mod setting;
mod side;
mod suspect;
mod trace;
mod tree;
mod unit;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::clock;
use crate::machine::clone::container::Inside;
use crate::machine::clone::root_files::RootFiles;
use crate::machine::files::PathText;
use crate::machine::signal::Signals;
use crate::rehearse::{
    Base, Difference, FILES, LiveClone, Progress, Rehearsal, Run, SHARED, Stop, plan_root, require_tools,
};
use action::{Action, Place};
use files::Towards;
use kernel::Kernel;
use live::Live;
use named::Named;
use origin::Origin;
use output::{Output, Written};
use package::Packages;
use restart::Restart;
use secret::Secrets;
use server::Servers;
use side::Side;
use trace::Trace;

pub use proof::Comparison;

/// Where the trace of the script's shell is written in the clone: with kkrun's own files, which are not compared.
const TRACE: &str = "/var/lib/kkrun/adopted-trace";
/// The name in the clone of what the script's shell reads first.
const PRELUDE: &str = "adopt-prelude";

/// What to adopt, and on what.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The script.
    pub script: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, besides what a login of root has.
    pub environment: Vec<(OsString, OsString)>,
    /// What it reads on standard input; else this process's own.
    pub answers: Option<PathBuf>,
    /// What is cloned.
    pub base: Base,
    /// The directory of the plan: a new or empty one.
    pub output: PathBuf,
    /// The directory that holds what clones write.
    pub scratch: PathBuf,
    /// This very kkrun.
    pub binary: PathBuf,
}

/// What goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// About a clone.
    Clone(Progress),
    /// The script begins.
    ScriptStarted,
    /// The script ended with this exit status.
    ScriptEnded(u8),
    /// The packages that it asked for are installed in a clone of their own, to know what is theirs.
    Packages(usize),
    /// The plan is written.
    Written(PathBuf),
    /// The plan runs in a clone of its own.
    Proving,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The exit status of the script, and where it stopped if that is not 0.
    pub script: (u8, Option<String>),
    /// The plan's exit status in its first run.
    pub run: u8,
    /// The step that failed in it, and why, if that is known.
    pub failed: Option<String>,
    /// What the plan reproduces.
    pub comparison: Comparison,
    /// What cannot be expressed, with the reason.
    pub unexpressed: Vec<String>,
    /// The files that not everyone may read, whose contents are in clear in the plan.
    pub in_clear: Vec<String>,
    /// What was neither put into the plan nor compared.
    pub uncompared: Vec<String>,
    /// What a second run changed; nothing if it did not end, or the first did not.
    pub second_run: Option<u64>,
    /// The exit status of a rollback.
    pub rollback: u8,
    /// The paths, accounts and settings of the kernel that were not as in the base afterwards.
    pub left: Vec<String>,
    /// How many of those there were that packages leave when they are removed.
    pub left_by_packages: usize,
}

impl Adopted {
    /// Whether the script ended well, the plan reproduces all of it, a second run changes nothing and a rollback leaves
    /// the base.
    pub fn holds(&self) -> bool {
        self.script.0 == 0
            && self.run == 0
            && self.comparison.remaining.is_empty()
            && self.second_run == Some(0)
            && self.rollback == 0
            && self.left.is_empty()
    }
}

/// A machine after something ran on it.
struct After {
    /// Its files are there as long as it is.
    _clone: LiveClone,
    side: Side,
    changed: BTreeSet<PathBuf>,
}

/// Runs the script on a clone, writes the plan and proves it.
pub fn adopt(adoption: &Adoption, signals: &Signals, tell: &mut dyn FnMut(Stage)) -> Result<Adopted> {
    require_tools()?;
    let stop = Stop::new(signals);
    let (script, source) = named_source(adoption)?;
    let mut output = Output::create(&adoption.output)?;
    let mut observed = run_script(adoption, script, &source, &stop, tell)?;
    let trace = Trace::read(&observed.after.side.files.text(TRACE), &source);
    let parameters = observed.keep_parameters(&trace);
    let base = Side::of(base_files(&adoption.base), observed.before.clone());
    let after = &observed.after.side;
    let origin = Origin::of(&trace, &source, &adoption.environment, &adoption.arguments);
    let mut secrets = Secrets::of(&origin, &adoption.environment);
    let settings = setting::candidates(&trace, &secrets);
    let mut unexpressed = Vec::new();
    let packages = package_actions(&base, &observed, (&trace, &secrets), &mut output)?;
    let write = |actions: Vec<Action>, restarts: &[Restart], secrets: &Secrets, output: &mut Output| {
        output.write_plan(Written {
            script,
            name: Path::new(script).file_stem().and_then(|stem| stem.to_str()).unwrap_or(script),
            actions,
            sections: &trace.sections(),
            restarts,
            secrets,
            settings: &settings,
        })
    };
    let (answers, reference, failed) = packages_alone(
        adoption,
        (&packages, &trace, &parameters),
        (&base, after),
        (&secrets, &mut output),
        &write,
        &stop,
        tell,
    )?;
    unexpressed.extend(failed);
    let from = reference.as_ref().map_or(&base, |alone| &alone.side);

    let of_packages = reference.as_ref().map(|alone| &alone.changed);
    let changed: BTreeSet<PathBuf> =
        observed.after.changed.iter().chain(of_packages.into_iter().flatten()).cloned().collect();
    let servers = Servers::of(&changed, from, after, &trace);
    unexpressed.extend(servers.unexpressed(script));
    let differing = differing(
        changed.iter().filter(|path| !servers.holds(path)),
        (from, after),
        (&origin, &mut secrets),
    )?;
    let during = observed.during;
    let towards =
        Towards { from, to: after, trace: &trace, during, secrets: &secrets, packaged: of_packages };
    let found = towards.of(&differing, &mut output)?;
    let named = towards.named(script)?;
    unexpressed.extend(named.unexpressed());
    let numbered = after.accounts.numbered(&from.accounts, &trace);
    let (accounts, unexpressed_accounts) = from.accounts.towards(&after.accounts, &trace, &secrets);
    unexpressed.extend(unexpressed_accounts);
    let reason = |(path, why): (PathBuf, String)| format!("{}: {why}", PathText::new(path));
    unexpressed.extend(found.unexpressed.into_iter().map(reason));
    let (databases, unexpressed_databases) =
        from.cluster.towards(&after.cluster, &trace, &secrets, &mut output)?;
    unexpressed.extend(unexpressed_databases.into_iter().chain(secrets.lost()));
    unexpressed.extend(parameter::unexpressed(&trace, &after.files));
    let units = unit::towards(&from.active, &after.active, &trace);
    let kernel = from.kernel.towards(&after.kernel, &after.files, &trace, &secrets);
    unexpressed.extend(after.rules_not_loaded(from, &trace, script));
    let actions: Vec<Action> = answers
        .into_iter()
        .chain(packages)
        .chain(only_there(&trace, &base.packages, &after.packages))
        .chain(accounts)
        .chain(found.actions)
        .chain(named.actions.iter().cloned())
        .chain(from.alternatives.towards(&after.alternatives, &trace))
        .chain(databases)
        .chain(units)
        .chain(kernel)
        .chain(unit::reboot(&trace, script))
        .collect();
    let restarts = restarts(&observed, &trace, &actions);
    unexpressed.extend(setting::of_clone(&actions, output.kept(), &source));
    write(actions, &restarts, &secrets, &mut output)?;
    tell(Stage::Written(output.directory().to_owned()));

    tell(Stage::Proving);
    let adopted = prove(
        adoption,
        (&output, &secrets),
        &observed,
        (from, &base, of_packages),
        (&servers, &found.apart, &parameters, &numbered, &named),
        &stop,
        tell,
    )?;
    let adopted = Adopted {
        script: (observed.exit, stopped_at(script, &observed, &trace, &secrets)),
        unexpressed,
        in_clear: found.in_clear.iter().map(|path| PathText::new(path).to_string()).collect(),
        uncompared: servers.uncompared(),
        ..adopted
    };
    output.write(Path::new("REPORT.md"), report(script, &adopted).as_bytes())?;
    Ok(adopted)
}

/// The file name of the script, and its text.
fn named_source(adoption: &Adoption) -> Result<(&str, String)> {
    let source = std::fs::read(&adoption.script)
        .with_context(|| format!("cannot read `{}`", adoption.script.display()))?;
    let name =
        adoption.script.file_name().and_then(|name| name.to_str()).context("the script has no name")?;
    Ok((name, String::from_utf8_lossy(&source).into_owned()))
}

/// The restarts of the script, with the files among those of the plan that the units read.
fn restarts(observed: &Observed, trace: &Trace, actions: &[Action]) -> Vec<Restart> {
    let after = &observed.after.side;
    let mut restarts = restart::restarts(trace, &after.active, &after.changes, observed.during);
    restart::find_files(&mut restarts, actions, &after.files);
    restarts
}

/// Writes a plan of these actions.
type Write<'w> = dyn Fn(Vec<Action>, &[Restart], &Secrets, &mut Output) -> Result<()> + 'w;

/// Installs the packages alone in clones of their own, again with the answers that they do not give by themselves: what they
/// install depends on them. Gives those answers, the last clone, and what went wrong.
fn packages_alone(
    adoption: &Adoption,
    (packages, trace, parameters): (&[Action], &Trace, &BTreeSet<String>),
    (base, after): (&Side, &Side),
    (secrets, output): (&Secrets, &mut Output),
    write: &Write<'_>,
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Stage),
) -> Result<(Vec<Action>, Option<After>, Vec<String>)> {
    let (mut answers, mut reference, mut failed) = (Vec::new(), None, Vec::new());
    while !packages.is_empty() {
        write(answers.iter().chain(packages).cloned().collect(), &[], secrets, output)?;
        tell(Stage::Packages(after.packages.asked_beyond(&base.packages).len()));
        let (code, mut alone) = run_plan_alone(adoption, (output.directory(), secrets), stop, tell)?;
        alone.side.kernel.keep(parameters);
        if code != 0 {
            failed
                .push(format!("packages: they cannot be installed without the script (exit status {code})"));
        }
        let mut missing = asked(&alone.side, after, trace, packages);
        // Those of the script come first, for others follow from them.
        if missing.iter().any(|answer| answer.line.is_some()) {
            missing.retain(|answer| answer.line.is_some());
        }
        reference = Some(alone);
        missing.retain(|answer| !answers.contains(answer));
        if missing.is_empty() {
            break;
        }
        answers.extend(missing);
    }
    Ok((answers, reference, failed))
}

fn base_files(base: &Base) -> RootFiles {
    match base {
        Base::RunningMachine => RootFiles::new(Path::new("/"), None),
        Base::Directory(directory) => RootFiles::new(directory, None),
    }
}

/// The last command of a script that failed.
fn stopped_at(script: &str, observed: &Observed, trace: &Trace, secrets: &Secrets) -> Option<String> {
    let last = trace.commands.last().filter(|_| observed.exit != 0)?;
    Some(format!("{script}:{}: {}", last.line, secrets.hidden(&last.text)))
}

/// What answers the questions of packages: they ask when they are installed.
fn asked(from: &Side, after: &Side, trace: &Trace, packages: &[Action]) -> Vec<Action> {
    let mut answers = from.answers.towards(&after.answers, trace);
    let first = packages.iter().filter_map(|action| action.when).min();
    for answer in &mut answers {
        answer.when = first.or(answer.when).map(|when| when - 1);
    }
    answers
}

/// The paths among these that differ. Notes the secrets in what is new.
fn differing<'paths>(
    paths: impl Iterator<Item = &'paths PathBuf>,
    (from, to): (&Side, &Side),
    (origin, secrets): (&Origin<'_>, &mut Secrets),
) -> Result<Vec<PathBuf>> {
    let mut differing = Vec::new();
    for path in paths {
        if from.difference(path, to, false)?.is_some() {
            learn((origin, secrets), (from, to), path)?;
            differing.push(path.clone());
        }
    }
    Ok(differing)
}

/// Notes the secrets in what a file has beyond the one before.
fn learn(
    (origin, secrets): (&Origin<'_>, &mut Secrets),
    (from, to): (&Side, &Side),
    path: &Path,
) -> Result<()> {
    const LONGEST: u64 = 64 * 1024;
    if to.files.look(path)?.is_none_or(|seen| seen.size > LONGEST) {
        return Ok(());
    }
    let text = to.files.text(&path.to_string_lossy());
    let earlier = from.files.text(&path.to_string_lossy());
    let earlier: BTreeSet<&str> = earlier.lines().collect();
    let new: Vec<&str> = text.lines().filter(|line| !earlier.contains(line)).collect();
    secrets.learn(origin, path, &new.join("\n"), is_checked_out(path, to));
    Ok(())
}

/// Whether a file came with a checkout of git, whose index names it. Source: gitformat-index(5).
fn is_checked_out(path: &Path, side: &Side) -> bool {
    let names = |above: &Path| {
        let index = side.files.bytes(&above.join(".git/index")).ok().flatten().unwrap_or_default();
        let inside = path.strip_prefix(above).unwrap_or(path).as_os_str().as_bytes();
        !inside.is_empty() && index.windows(inside.len()).any(|name| name == inside)
    };
    !path.starts_with("/etc") && path.ancestors().skip(1).any(names)
}

/// What the script did.
struct Observed {
    exit: u8,
    /// What the clone said of itself before.
    before: Live,
    after: After,
    during: (i128, i128),
}

impl Observed {
    /// Keeps only the parameters of the kernel that the script set; their names.
    fn keep_parameters(&mut self, trace: &Trace) -> BTreeSet<String> {
        let after = &mut self.after.side;
        let parameters = self.before.kernel.set_until(&after.kernel, &after.files, trace);
        for kernel in [&mut after.kernel, &mut self.before.kernel] {
            kernel.keep(&parameters);
        }
        parameters
    }
}

fn run_script(
    adoption: &Adoption,
    script: &str,
    source: &str,
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Stage),
) -> Result<Observed> {
    let mut prelude = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    prelude.write_all(trace::prelude(TRACE).as_bytes()).context("cannot write a temporary file")?;
    let mut files = vec![(adoption.script.clone(), script.to_owned())];
    files.push((prelude.path().to_owned(), PRELUDE.to_owned()));
    let rehearsal = rehearsal(adoption, files, None);
    let mut clone = LiveClone::make(&rehearsal, &mut |progress| tell(Stage::Clone(progress)))?;
    clone.boot(stop, &mut |progress| tell(Stage::Clone(progress)))?;
    clone.printed(&["/bin/mkdir", "-p", "/var/lib/kkrun"])?;
    let before = Live::of(&clone)?;
    let booted = Difference::new(clone.differences()?);
    let mut command = interpreter(source);
    // `env` is another program's way to be found.
    let is_bash = command.iter().take(2).any(|word| word.to_string_lossy().ends_with("bash"));
    command.push(format!("{FILES}/{script}").into());
    command.extend(adoption.arguments.iter().map(OsString::from));
    let mut environment = clone.environment.clone();
    let given =
        adoption.environment.iter().filter(|(name, _)| !environment.iter().any(|(known, _)| known == name));
    let given: Vec<_> = given.cloned().collect();
    environment.extend(given);
    if is_bash {
        environment.push(("BASH_ENV".into(), format!("{FILES}/{PRELUDE}").into()));
    }
    let answers = adoption.answers.as_ref().map(|path| {
        File::open(path).with_context(|| format!("cannot open the answers `{}`", path.display()))
    });
    let inside = Inside { command, environment, directory: Some("/root".into()) };
    tell(Stage::ScriptStarted);
    let begin = now();
    let exit = clone.run(&inside, answers.transpose()?, stop)?;
    let end = now();
    tell(Stage::ScriptEnded(exit));
    stop.check()?;
    clone.restart_if_asked(stop, &mut |progress| tell(Stage::Clone(progress)))?;
    let after = look_at(clone, &booted, stop)?;
    Ok(Observed { exit, before, after, during: (begin, end) })
}

/// Waits until no process of the machine has anything to do: what was started has then written what it writes at first.
fn settle(clone: &LiveClone, stop: &Stop<'_>) -> Result<()> {
    // Every process but this one waits for something. Source: proc_pid_stat(5).
    const IS_QUIET: &str = "for at in /proc/[0-9]*; do [ \"$at\" = /proc/$$ ] || read -r stat 2>/dev/null <\"$at/stat\" || \
                            continue; case $stat in *') R '* | *') D '*) exit 1 ;; esac; done";
    const LOOKS: usize = 3;
    const EVERY: Duration = Duration::from_millis(100);
    const WITHIN: Duration = Duration::from_secs(10);
    let (begin, mut quiet) = (Instant::now(), 0);
    // A service that is always busy has settled, too.
    while quiet < LOOKS && begin.elapsed() < WITHIN {
        stop.check()?;
        let command = ["/bin/sh", "-c", IS_QUIET].map(OsString::from).to_vec();
        let inside = Inside { command, environment: clone.environment.clone(), directory: None };
        quiet = if clone.output(&inside)?.0 == 0 { quiet + 1 } else { 0 };
        std::thread::sleep(EVERY);
    }
    Ok(())
}

/// Looks at a machine, and ends what runs on it.
fn look_at(mut clone: LiveClone, booted: &Difference, stop: &Stop<'_>) -> Result<After> {
    settle(&clone, stop)?;
    let live = Live::of(&clone)?;
    clone.switch_off();
    let changed = proof::paths(&Difference::new(clone.differences()?).without(booted).entries);
    let side = Side::of(clone.files(), live);
    Ok(After { _clone: clone, side, changed })
}

/// The program of a script's first line, with its arguments.
fn interpreter(source: &str) -> Vec<OsString> {
    let first = source.lines().next().unwrap_or_default();
    let words: Vec<&str> =
        first.strip_prefix("#!").map_or_else(Vec::new, |line| line.split_whitespace().collect());
    if words.is_empty() { vec!["/bin/sh".into()] } else { words.into_iter().map(OsString::from).collect() }
}

fn now() -> i128 {
    clock::now().as_nanosecond()
}

fn rehearsal(adoption: &Adoption, files: Vec<(PathBuf, String)>, plan: Option<&Path>) -> Rehearsal {
    let run = plan.map(|plan| Run { arguments: Vec::new(), plan: Some(plan.to_owned()) });
    Rehearsal {
        base: adoption.base.clone(),
        with: Vec::new(),
        keep: false,
        expect_unchanged: false,
        durable: false,
        runs: run.into_iter().collect(),
        report: None,
        scratch: adoption.scratch.clone(),
        binary: adoption.binary.clone(),
        files,
    }
}

/// What installs the packages: their sources, what was asked for, what is on hold.
fn package_actions(
    base: &Side,
    observed: &Observed,
    (trace, secrets): (&Trace, &Secrets),
    output: &mut Output,
) -> Result<Vec<Action>> {
    const SOURCES: [&str; 5] = [
        "/etc/apt/auth.conf.d",
        "/etc/apt/keyrings",
        "/etc/apt/preferences.d",
        "/etc/apt/sources.list.d",
        "/etc/apt/trusted.gpg.d",
    ];
    let after = &observed.after.side;
    let is_source = |path: &&PathBuf| {
        path.as_path() == Path::new("/etc/apt/sources.list")
            || SOURCES.iter().any(|source| path.starts_with(source))
    };
    let mut sources: BTreeSet<PathBuf> = observed.after.changed.iter().filter(is_source).cloned().collect();
    // A repository of the machine's own has to be there first.
    let texts: Vec<String> = sources.iter().map(|path| after.files.text(&path.to_string_lossy())).collect();
    let own: BTreeSet<PathBuf> = texts.iter().flat_map(|text| local_repositories(text)).collect();
    let changed = observed.after.changed.iter();
    sources.extend(changed.filter(|path| own.iter().any(|root| path.starts_with(root))).cloned());
    let sources: Vec<PathBuf> = sources.into_iter().collect();
    let towards = Towards { from: base, to: after, trace, during: observed.during, secrets, packaged: None };
    let mut actions = towards.of(&sources, output)?.actions;
    output::parents_first(&mut actions);
    actions.sort_by(|one, other| (one.when, &one.path).cmp(&(other.when, &other.path)));
    if !actions.is_empty() {
        let lines = actions.iter().flat_map(|action| action.code.lines());
        let calls: Vec<String> = lines.map(|line| format!("    {line}")).collect();
        let code = format!(
            "step::on_change(#{{ run: [[\"apt-get\", \"update\"]] }}, || {{\n{}\n}});",
            calls.join("\n")
        );
        let secrets = actions.iter().flat_map(|action| action.secrets.clone()).collect();
        let first = actions.swap_remove(0);
        actions = vec![Action { code, secrets, place: Place::Packages, is_file: false, path: None, ..first }];
    }
    let add = |code: String, made: Option<&trace::Command>, actions: &mut Vec<Action>| {
        let mut action = Action::new(Place::Packages, code).by(made);
        // Sources come first, whenever they were written last.
        action.when = action.when.into_iter().chain(actions.iter().filter_map(|action| action.when)).max();
        actions.push(action);
    };
    let mut asked = after.packages.asked_beyond(&base.packages);
    if !asked.is_empty() {
        // Another machine may lack what this one has.
        asked.extend(already_there(trace, &base.packages, &after.packages));
        let mut options = Vec::new();
        if after.packages.has_recommended_beyond(&base.packages) {
            options.push(("recommends", "true".to_owned()));
        }
        let versioned = asked.iter().map(|name| trace.versioned(name).unwrap_or_else(|| name.clone()));
        let code = format!("pkg::install({}{});", literal::array(versioned), literal::options(&options));
        let made = asked.iter().find_map(|name| trace.naming(INSTALLERS, name));
        add(code, made, &mut actions);
    }
    let irreversible =
        [("irreversible", literal::string("no package source may have the version from before"))];
    let upgraded = after.packages.upgraded_beyond(&base.packages);
    if !upgraded.is_empty() {
        let code = format!("pkg::upgrade({}{});", literal::array(&upgraded), literal::options(&irreversible));
        let made = trace.commands.iter().find(|command| {
            let words = command.words();
            words.iter().any(|word| ["upgrade", "dist-upgrade", "full-upgrade"].contains(&word.as_str()))
        });
        add(code, made.or_else(|| trace.naming(INSTALLERS, upgraded[0])), &mut actions);
    }
    let removed: Vec<&String> =
        base.packages.0.keys().filter(|name| !after.packages.0.contains_key(*name)).collect();
    if let Some(first) = removed.first() {
        let code = format!("pkg::remove({}{});", literal::array(&removed), literal::options(&irreversible));
        add(code, trace.naming(INSTALLERS, first), &mut actions);
    }
    let held = after.packages.held_beyond(&base.packages);
    if let Some(first) = held.first() {
        let code = format!("pkg::hold({});", literal::array(&held));
        add(code, trace.naming(&["apt-mark", "dpkg"], first), &mut actions);
    }
    Ok(actions)
}

/// The packages that the script installs though they were there before.
fn already_there(trace: &Trace, before: &Packages, after: &Packages) -> Vec<String> {
    let is_there = |name: &String| before.0.contains_key(name) && after.0.contains_key(name);
    trace.installed().into_iter().filter(is_there).collect()
}

/// What installs the packages that the script asks for and this machine has, if it asks for no others.
fn only_there(trace: &Trace, before: &Packages, after: &Packages) -> Option<Action> {
    let there = already_there(trace, before, after);
    if there.is_empty() || !after.asked_beyond(before).is_empty() {
        return None;
    }
    let code = format!("pkg::install({});", literal::array(&there));
    Some(Action::new(Place::Packages, code).by(trace.naming(INSTALLERS, "install")))
}

/// The programs that install and remove packages.
const INSTALLERS: &[&str] = &["apt-get", "apt", "aptitude", "dpkg"];

/// The directories of this machine that a package source names. Source: sources.list(5).
fn local_repositories(source: &str) -> Vec<PathBuf> {
    let words = source.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let local = words.filter_map(|word| word.strip_prefix("file:").or_else(|| word.strip_prefix("copy:")));
    local.map(|path| Path::new("/").join(path.trim_start_matches('/'))).collect()
}

/// Runs the plan in a clone that serves nothing else.
fn run_plan_alone(
    adoption: &Adoption,
    (plan, secrets): (&Path, &Secrets),
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Stage),
) -> Result<(u8, After)> {
    let (mut clone, booted) = clone_with_plan(adoption, (plan, secrets), stop, tell)?;
    let code = clone.run(
        &kkrun(&clone, &["--in-clone", "--yes", "--non-interactive", "master.rhai"]),
        None,
        stop,
    )?;
    stop.check()?;
    Ok((code, look_at(clone, &booted, stop)?))
}

fn clone_with_plan(
    adoption: &Adoption,
    (plan, secrets): (&Path, &Secrets),
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Stage),
) -> Result<(LiveClone, Difference)> {
    let rehearsal = rehearsal(adoption, Vec::new(), Some(plan));
    let mut clone = LiveClone::make(&rehearsal, &mut |progress| tell(Stage::Clone(progress)))?;
    clone.environment.extend(secrets.environment());
    clone.boot(stop, &mut |progress| tell(Stage::Clone(progress)))?;
    let booted = Difference::new(clone.differences()?);
    Ok((clone, booted))
}

/// A run of kkrun in the plan's directory.
fn kkrun(clone: &LiveClone, arguments: &[&str]) -> Inside {
    let mut command = vec![OsString::from(format!("{SHARED}/kkrun"))];
    command.extend(arguments.iter().map(OsString::from));
    Inside { command, environment: clone.environment.clone(), directory: Some(plan_root(0)) }
}

/// Runs the plan, compares, runs it again, rolls it back and compares with the base.
fn prove(
    adoption: &Adoption,
    (output, secrets): (&Output, &Secrets),
    observed: &Observed,
    (from, base, alone): (&Side, &Side, Option<&BTreeSet<PathBuf>>),
    (servers, apart, parameters, numbered, named): (
        &Servers,
        &BTreeSet<PathBuf>,
        &BTreeSet<String>,
        &BTreeSet<String>,
        &Named,
    ),
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Stage),
) -> Result<Adopted> {
    let (mut clone, booted) = clone_with_plan(adoption, (output.directory(), secrets), stop, tell)?;
    let mut kernel = Kernel::of(&clone)?;
    kernel.keep(parameters);
    let run = clone.run(
        &kkrun(&clone, &["--in-clone", "--yes", "--non-interactive", "master.rhai"]),
        None,
        stop,
    )?;
    stop.check()?;
    settle(&clone, stop)?;
    let mut side = Side::of(clone.files(), Live::of(&clone)?);
    side.kernel.keep(parameters);
    let mut planned = proof::paths(&Difference::new(clone.differences()?).without(&booted).entries);
    let after = &observed.after;
    let mut changed = after.changed.clone();
    for paths in [&mut planned, &mut changed] {
        paths.retain(|path| !servers.holds(path));
    }
    changed.extend(named.paths.iter().cloned());
    let apart: BTreeSet<PathBuf> = apart.iter().chain(named.logs()).cloned().collect();
    let mut comparison =
        proof::compare(from, base, &after.side, &side, (&changed, &planned), (&apart, numbered))?;
    let missing: Vec<String> = servers.missing().into_iter().chain(named.missing()).collect();
    comparison.differences += missing.len();
    comparison.remaining.extend(missing);

    let failed = if run == 0 {
        None
    } else {
        failed_step(&clone.output(&kkrun(&clone, &["--json", "status", "master.rhai"]))?.1)
    };
    // Steps that never ran have nothing to be run again.
    let second_run = if run != 0 {
        None
    } else if output.ids.is_empty() {
        Some(0)
    } else {
        let redo = format!("--redo={}", output.ids.join(","));
        let again = clone.output(&kkrun(&clone, &["--json", "--non-interactive", &redo, "master.rhai"]))?;
        changed_in(&again.1).filter(|_| again.0 == 0)
    };
    let arguments = ["--in-clone", "--yes", "--non-interactive", "--purge=all", "rollback"];
    let code = if output.ids.is_empty() { 0 } else { clone.run(&kkrun(&clone, &arguments), None, stop)? };
    stop.check()?;
    let mut rolled_back = Kernel::of(&clone)?;
    rolled_back.keep(parameters);
    clone.switch_off();
    let left = Difference::new(clone.differences()?).without(&booted).unexpected();
    let left = left.entries.into_iter().filter(|entry| !noise::is_noise(&entry.path, entry.directory));
    // Packages are removed, not purged: their records, settings and accounts stay.
    let is_of_packages =
        |path: &PathBuf| servers.holds(path) || alone.is_some_and(|alone| alone.contains(path));
    let (of_packages, left): (Vec<PathBuf>, Vec<PathBuf>) =
        left.map(|entry| entry.path).partition(is_of_packages);
    let now = account::Accounts::of(&clone.files()).lines(numbered);
    let [before, with_packages] = [base, from].map(|side| side.accounts.lines(numbered));
    let is_left =
        |name: &&String| now.get(*name) != before.get(*name) && now.get(*name) != with_packages.get(*name);
    let accounts: BTreeSet<&String> = now.keys().chain(before.keys()).filter(is_left).collect();
    let paths = left.iter().map(|path| PathText::new(path).to_string());
    let left: Vec<String> =
        paths.chain(accounts.into_iter().cloned()).chain(kernel.differing(&rolled_back)).collect();
    Ok(Adopted {
        script: (0, None),
        run,
        failed,
        comparison,
        unexpressed: Vec::new(),
        in_clear: Vec::new(),
        uncompared: Vec::new(),
        second_run,
        rollback: code,
        left,
        left_by_packages: of_packages.len(),
    })
}

/// How many changes a run reported, by its events.
fn changed_in(events: &str) -> Option<u64> {
    events.lines().rev().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        event.get("exit")?;
        event.get("changed")?.as_u64()
    })
}

/// The step that failed, with its script and the error, by what `status` says.
fn failed_step(said: &str) -> Option<String> {
    let steps = said.lines().find_map(|line| {
        let status: serde_json::Value = serde_json::from_str(line).ok()?;
        status.get("steps")?.as_array().cloned()
    })?;
    let failed = steps.iter().find(|step| step["status"] == "failed")?;
    let text = |name: &str| failed[name].as_str().unwrap_or_default();
    Some(format!("step {} {} ({}): {}", text("id"), text("title"), text("script"), text("error")))
}

/// The report for people.
fn report(script: &str, adopted: &Adopted) -> String {
    let mut text = format!("# `{script}` as a plan\n\n");
    if let (code @ 1.., stopped) = &adopted.script {
        let place = stopped.as_deref().map(|stopped| format!(" at `{stopped}`")).unwrap_or_default();
        let _ = write!(
            text,
            "The script stopped with exit status {code}{place}. The plan does what it did until then.\n\n"
        );
    }
    let comparison = &adopted.comparison;
    let counts = format!("{} of {} differences", comparison.reproduced(), comparison.differences);
    if adopted.run == 0 {
        let _ = write!(text, "The plan reproduces {counts}.\n\n");
    } else {
        let failed = adopted.failed.as_deref().unwrap_or("no step is known to have failed");
        let _ = write!(
            text,
            "## The plan fails\n\nIt ended with exit status {}: {failed}.\n\nUntil then it reproduced {counts}. It was not run \
             again.\n\n",
            adopted.run
        );
    }
    let mut list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(text, "## {title}\n\n");
            for line in lines {
                let _ = writeln!(text, "* {line}");
            }
            text.push('\n');
        }
    };
    list("Not reproduced", comparison.remaining.clone());
    list("Not expressed", adopted.unexpressed.clone());
    list("In clear in the plan, though not everyone may read it on the machine", adopted.in_clear.clone());
    list("Not compared", adopted.uncompared.clone());
    list("Not as in the base after a rollback", adopted.left.clone());
    text
}

/// The exit status of an adoption.
pub fn exit_code(adopted: &Adopted) -> ExitCode {
    if adopted.holds() { ExitCode::DONE } else { ExitCode::FAILED }
}

/// An error if the script cannot be adopted at all.
pub fn check(script: &Path) -> Result<()> {
    if !script.is_file() {
        let shown = script.display();
        let message = if script.exists() {
            format!("cannot read the script `{shown}`: it is not a file")
        } else {
            format!("script `{shown}` not found")
        };
        bail!(Failure::new(message).exit(ExitCode::USAGE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_run_by_the_program_of_its_first_line() {
        assert_eq!(interpreter("#!/usr/bin/env bash\n"), ["/usr/bin/env", "bash"]);
        assert_eq!(interpreter("#!/bin/bash -e\n"), ["/bin/bash", "-e"]);
        assert_eq!(interpreter("echo\n"), ["/bin/sh"]);
    }

    #[test]
    fn packages_that_the_machine_has_are_in_the_plan_if_the_script_asks_for_them() {
        let status = |names: &[&str]| {
            let each = names
                .iter()
                .map(|name| format!("Package: {name}\nStatus: install ok installed\nVersion: 1\n\n"));
            Packages::read(&each.collect::<String>(), "")
        };
        let trace = Trace::read(
            "\u{1}1.0 0 3 /\u{2}apt-get install -y -t stable git=1:2 npm:all ./x.deb new\n\u{1}1.0 0 4 /\u{2}apt-get remove nano\n",
            "",
        );
        let base = status(&["git", "npm", "nano", "stable"]);
        let there = only_there(&trace, &base, &base).unwrap();
        assert_eq!((&*there.code, there.line), ("pkg::install([\"git\", \"npm\"]);", Some(3)));
        let after = status(&["git", "npm", "nano", "stable", "new"]);
        assert_eq!(only_there(&trace, &base, &after), None);
        assert_eq!(already_there(&trace, &base, &after), ["git", "npm"]);
    }

    #[test]
    fn a_plan_that_fails_is_reported_with_its_step_and_reproduces_nothing_for_certain() {
        let said = "{\"event\":\"schema\"}\n{\"event\":\"status\",\"steps\":[{\"id\":\"01\",\"title\":\"Users\",\
                    \"script\":\"01_users.rhai\",\"status\":\"complete\",\"error\":null},{\"id\":\"02\",\"title\":\"Disks\",\
                    \"script\":\"02_disks.rhai\",\"status\":\"failed\",\"error\":\"`mount` ended with exit code 32\"}]}\n";
        let failed = failed_step(said);
        assert_eq!(failed.as_deref(), Some("step 02 Disks (02_disks.rhai): `mount` ended with exit code 32"));
        assert_eq!(failed_step("{\"event\":\"schema\"}\n"), None);
        let adopted = Adopted {
            script: (0, None),
            run: 1,
            failed,
            comparison: Comparison { differences: 3, remaining: Vec::new() },
            unexpressed: Vec::new(),
            in_clear: Vec::new(),
            uncompared: Vec::new(),
            second_run: None,
            rollback: 0,
            left: Vec::new(),
            left_by_packages: 0,
        };
        let text = report("x.sh", &adopted);
        assert!(
            text.contains("It ended with exit status 1: step 02 Disks (02_disks.rhai): `mount`"),
            "{text}"
        );
        assert!(!text.contains("The plan reproduces"), "{text}");
        assert!(!adopted.holds());
        let text = report("x.sh", &Adopted { run: 0, failed: None, ..adopted });
        assert!(text.contains("The plan reproduces 3 of 3 differences."), "{text}");
    }

    #[test]
    fn the_changes_of_a_run_are_those_of_its_last_event() {
        assert_eq!(
            changed_in("{\"event\":\"x\"}\n{\"event\":\"run_ended\",\"changed\":3,\"exit\":0}\n"),
            Some(3)
        );
        assert_eq!(changed_in(""), None);
    }
}
