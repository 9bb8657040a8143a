//! A plan run on a throwaway clone of this machine, or of a root file system in a directory.

mod clone;
pub mod difference;
mod environment;
mod exception;
mod kept;
mod mounts;
mod progress;
mod tools;
mod units;

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGQUIT};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::machine::clone::container::Inside;
use crate::machine::signal::{Interruption, Signals, Urgency};
use crate::machine::terminal;

pub use clone::LiveClone;
pub use difference::Difference;
pub use exception::{EXCEPTIONS, Exception, WATCHED};
pub use progress::Progress;
pub use tools::{MissingTool, missing_tools, require as require_tools};

/// What the clone sees of the machine that made it: kkrun itself, the plan, files named on the command line.
pub const SHARED: &str = "/run/kkrun-rehearsal";
/// Where the clone finds the files named on the command line, under the names given to them.
pub const FILES: &str = "/run/kkrun-rehearsal/files";
/// Where clones lie on disk unless the operator says otherwise: on a disk, and not cleared while they run.
pub const SCRATCH: &str = "/var/tmp/kkrun-rehearsals";
const RECORDS: &str = "/run/kkrun/rehearsals";
/// A plan that restarts its machine more often than this goes round in circles.
const RESTARTS: usize = 3;

/// What is cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The machine that kkrun runs on.
    RunningMachine,
    /// A root file system in a directory.
    Directory(PathBuf),
}

/// What to rehearse, and on what.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// What is cloned.
    pub base: Base,
    /// Units of the base that are started although nothing of its own life is.
    pub with: Vec<String>,
    /// Whether the clone stays, running.
    pub keep: bool,
    /// Whether it is looked at in the end if the clone equals its base.
    pub expect_unchanged: bool,
    /// Whether what is synced inside reaches the disk, as a rehearsal of a loss of power needs it. Else nothing does,
    /// which is several times faster.
    pub durable: bool,
    /// The runs of kkrun inside, one after another.
    pub runs: Vec<Run>,
    /// The arguments of kkrun that print a report of them at the end.
    pub report: Option<Vec<OsString>>,
    /// The directory that holds what clones write; usually [`SCRATCH`].
    pub scratch: PathBuf,
    /// This very kkrun.
    pub binary: PathBuf,
    /// Files named on the command line, and their names below [`FILES`].
    pub files: Vec<(PathBuf, String)>,
}

/// A run of kkrun inside the clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its arguments. Other files than the plan's own are named below [`FILES`].
    pub arguments: Vec<OsString>,
    /// The directory of its script, if that came from disk: the run finds a copy as its working directory, so that
    /// the script is named without a path.
    pub plan: Option<PathBuf>,
}

impl Rehearsal {
    /// The plans' roots on disk, each once.
    fn plans(&self) -> Vec<&Path> {
        let mut plans: Vec<&Path> = Vec::new();
        for plan in self.runs.iter().filter_map(|run| run.plan.as_deref()) {
            if !plans.contains(&plan) {
                plans.push(plan);
            }
        }
        plans
    }

    /// Where a run inside begins.
    fn working_directory(&self, run: &Run) -> PathBuf {
        let number =
            run.plan.as_deref().and_then(|plan| self.plans().iter().position(|known| *known == plan));
        number.map_or_else(|| PathBuf::from("/"), plan_root)
    }
}

/// Where the clone finds a plan that came from disk; its stdlib lies beside it.
pub fn plan_root(number: usize) -> PathBuf {
    Path::new(SHARED).join(format!("plan-{number}")).join("scripts")
}

/// How a rehearsal ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status of each run, in order.
    pub exit_codes: Vec<u8>,
    /// Everything on disk that is otherwise than in the base.
    pub difference: Difference,
    /// The part of it that must not be, when the base was to be equal in the end.
    pub unexpected: Option<Difference>,
    /// The report; none if none was asked for, or no run inside recorded anything.
    pub report: Option<String>,
}

impl Outcome {
    /// The exit status of the whole: the first run's that failed, else whether the clone equals its base if it
    /// should.
    pub fn exit_code(&self) -> ExitCode {
        let failed = self.exit_codes.iter().find(|code| **code != 0);
        match (failed, &self.unexpected) {
            (Some(code), _) => ExitCode(*code),
            (None, Some(difference)) if !difference.is_empty() => ExitCode::DIFFERENT,
            _ => ExitCode::DONE,
        }
    }
}

/// Clones, boots, runs, compares, and takes everything away again, whatever happens in between.
///
/// The runs inside share the terminal, so that a Ctrl-C reaches them by itself; other signals are passed on. After
/// one, no further run is started.
pub fn rehearse(rehearsal: &Rehearsal, signals: &Signals, tell: &mut dyn FnMut(Progress)) -> Result<Outcome> {
    tools::require()?;
    let stop = Stop::new(signals);
    // A run that is killed cannot put the terminal back itself.
    let _terminal = terminal::Guard::new();
    let mut clone = LiveClone::make(rehearsal, tell)?;
    clone.boot(&stop, tell)?;
    for unit in &rehearsal.with {
        clone.start_unit(unit)?;
    }
    // What booting wrote is not the plan's doing.
    let booted = Difference::new(clone.differences()?);
    let mut exit_codes = Vec::new();
    for (index, each) in rehearsal.runs.iter().enumerate() {
        tell(Progress::RunStarted { index, arguments: each.arguments.clone() });
        let code = run(&mut clone, each, rehearsal.working_directory(each), &stop, tell)?;
        tell(Progress::RunEnded { index, code });
        exit_codes.push(code);
        stop.check()?;
    }
    let report = match &rehearsal.report {
        Some(arguments) => report(&clone, arguments)?,
        None => None,
    };
    if rehearsal.keep {
        let difference = Difference::new(clone.differences()?).without(&booted);
        let last = rehearsal.runs.last().map(|run| rehearsal.working_directory(run));
        tell(clone.keep(&last.unwrap_or_else(|| PathBuf::from("/")))?);
        return Ok(outcome(rehearsal, exit_codes, difference, report));
    }
    clone.switch_off();
    let difference = Difference::new(clone.differences()?).without(&booted);
    tell(Progress::Removing);
    drop(clone);
    Ok(outcome(rehearsal, exit_codes, difference, report))
}

fn outcome(
    rehearsal: &Rehearsal,
    exit_codes: Vec<u8>,
    difference: Difference,
    report: Option<String>,
) -> Outcome {
    let unexpected = rehearsal.expect_unchanged.then(|| difference.unexpected());
    Outcome { exit_codes, difference, unexpected, report }
}

/// What kkrun prints inside with these arguments: it reads the clone's record where that is, and knows its secrets.
fn report(clone: &LiveClone, arguments: &[OsString]) -> Result<Option<String>> {
    let mut command = vec![OsString::from(format!("{SHARED}/kkrun"))];
    command.extend_from_slice(arguments);
    let (code, printed) =
        clone.output(&Inside { command, environment: clone.environment.clone(), directory: None })?;
    Ok((code == 0).then_some(printed))
}

/// One run of kkrun inside: begun again when it was cut off by a restart of the clone.
fn run(
    clone: &mut LiveClone,
    run: &Run,
    directory: PathBuf,
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Progress),
) -> Result<u8> {
    let mut command = vec![OsString::from(format!("{SHARED}/kkrun"))];
    command.extend_from_slice(&run.arguments);
    let inside = Inside { command, environment: clone.environment.clone(), directory: Some(directory) };
    for _ in 0..=RESTARTS {
        let code = clone.run(&inside, None, stop)?;
        if !clone.restart_if_asked(stop, tell)? || code < 128 {
            return Ok(code);
        }
    }
    Err(Failure::new(format!("the plan restarted the clone {} times without completing", RESTARTS + 1))
        .into())
}

/// What this process was asked by signals, and how much of it the run inside was reported.
pub struct Stop<'signals> {
    signals: &'signals Signals,
    passed_on: Cell<Option<Urgency>>,
}

impl<'signals> Stop<'signals> {
    /// Of a process that was asked nothing yet.
    pub fn new(signals: &'signals Signals) -> Self {
        Self { signals, passed_on: Cell::new(None) }
    }

    /// A signal for the run inside that it did not get by itself.
    fn to_pass_on(&self) -> Option<i32> {
        let Interruption { signal, urgency } = self.signals.pending()?;
        if self.passed_on.get() >= Some(urgency) {
            return None;
        }
        self.passed_on.set(Some(urgency));
        // A second Ctrl-C means "now": one that is reported of twice would be taken for it.
        let typed = signal == SIGINT || signal == SIGQUIT;
        (!typed || !terminal::is_in_front()).then_some(signal)
    }

    fn asked(&self) -> bool {
        self.signals.pending().is_some()
    }

    /// An error with the right exit status if any signal came so far.
    pub fn check(&self) -> Result<()> {
        let Some(Interruption { signal, .. }) = self.signals.pending() else { return Ok(()) };
        let exit = ExitCode::signal(u8::try_from(signal).unwrap_or_default());
        Err(Failure::new("the rehearsal was stopped").kind(FailureKind::Interrupted).exit(exit).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit_codes: &[u8], unexpected: Option<Difference>) -> ExitCode {
        let difference = Difference::new(Vec::new());
        Outcome { exit_codes: exit_codes.to_vec(), difference, unexpected, report: None }.exit_code()
    }

    #[test]
    fn the_first_run_that_failed_decides_the_exit_status() {
        assert_eq!(outcome(&[0, 4, 1], None), ExitCode::UNDONE_IN_PART);
        assert_eq!(outcome(&[0, 0], None), ExitCode::DONE);
    }

    #[test]
    fn a_clone_that_should_be_unchanged_and_is_not_exits_with_different() {
        let equal = Difference::new(Vec::new());
        assert_eq!(outcome(&[0], Some(equal)), ExitCode::DONE);
        let other = Difference::new(vec![difference::tests::added("/etc/new", 1)]);
        assert_eq!(outcome(&[0], Some(other)), ExitCode::DIFFERENT);
    }

    #[test]
    fn a_signal_is_passed_on_once_and_once_more_when_it_insists() {
        let signals = Signals::deaf().unwrap();
        let stop = Stop::new(&signals);
        assert_eq!(stop.to_pass_on(), None);
        signals.deliver(15);
        assert_eq!((stop.to_pass_on(), stop.to_pass_on()), (Some(15), None));
        signals.deliver(15);
        assert_eq!((stop.to_pass_on(), stop.to_pass_on()), (Some(15), None));
        let error = stop.check().unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), ExitCode::signal(15));
    }
}
