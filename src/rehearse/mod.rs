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

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::container::{self, Inside};

pub use difference::Difference;
pub use exception::{EXCEPTIONS, Exception, WATCHED};
pub use progress::Progress;
pub use tools::{MissingTool, missing_tools};

use clone::LiveClone;

/// What the clone sees of the machine that made it: kkrun itself, the plan, files named on the command line.
pub const SHARED: &str = "/run/kkrun-rehearsal";
/// Where the clone finds the plan's root, if the plan came from disk. Its stdlib lies beside it.
pub const PLAN_ROOT: &str = "/run/kkrun-rehearsal/scripts";
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
    /// The arguments of each run of kkrun inside. A script from disk is named below [`PLAN_ROOT`], a file of the
    /// command line below [`FILES`].
    pub runs: Vec<Vec<OsString>>,
    /// The directory that holds what clones write; usually [`SCRATCH`].
    pub scratch: PathBuf,
    /// This very kkrun.
    pub binary: PathBuf,
    /// The plan's root directory, if it came from disk: already checked to be safe to run.
    pub plan_root: Option<PathBuf>,
    /// Files named on the command line, and their names below [`FILES`].
    pub files: Vec<(PathBuf, String)>,
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
/// `next_signal` gives each ending signal this process received, once: the runs inside share the terminal, so that
/// a Ctrl-C reaches them by itself; other signals are passed on. After one, no further run is started.
pub fn rehearse(
    rehearsal: &Rehearsal,
    next_signal: &mut dyn FnMut() -> Option<i32>,
    tell: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    tools::require()?;
    let stop = Stop::new(next_signal);
    let mut clone = LiveClone::make(rehearsal, Path::new(RECORDS), tell)?;
    clone.boot(&stop, tell)?;
    for unit in &rehearsal.with {
        clone.start_unit(unit)?;
    }
    let mut exit_codes = Vec::new();
    for (index, arguments) in rehearsal.runs.iter().enumerate() {
        tell(Progress::RunStarted { index, arguments: arguments.clone() });
        let code = run(&mut clone, arguments, &stop, tell)?;
        tell(Progress::RunEnded { index, code });
        exit_codes.push(code);
        stop.check()?;
    }
    if rehearsal.keep {
        let difference = Difference::new(clone.differences()?);
        tell(clone.keep()?);
        return Ok(outcome(rehearsal, exit_codes, difference));
    }
    clone.switch_off();
    let difference = Difference::new(clone.differences()?);
    tell(Progress::Removing);
    drop(clone);
    Ok(outcome(rehearsal, exit_codes, difference))
}

fn outcome(rehearsal: &Rehearsal, exit_codes: Vec<u8>, difference: Difference) -> Outcome {
    let unexpected = rehearsal.expect_unchanged.then(|| difference.unexpected());
    Outcome { exit_codes, difference, unexpected }
}

/// One run of kkrun inside: begun again when it was cut off by a restart of the clone.
fn run(
    clone: &mut LiveClone,
    arguments: &[OsString],
    stop: &Stop<'_>,
    tell: &mut dyn FnMut(Progress),
) -> Result<u8> {
    let mut command = vec![OsString::from(format!("{SHARED}/kkrun"))];
    command.extend_from_slice(arguments);
    let inside = Inside { command, environment: clone.environment.clone() };
    for _ in 0..=RESTARTS {
        let mut child = clone.container()?.spawn(&inside)?;
        let status = loop {
            if let Some(status) = container::wait_a_moment(&mut child)? {
                break status;
            }
            if let Some(signal) = stop.next() {
                container::pass_on(&child, signal);
            }
        };
        let code = container::exit_code(status);
        if !clone.restart_if_asked(stop, tell)? || code < 128 {
            return Ok(code);
        }
    }
    Err(Failure::new(format!(
        "the plan restarted the clone {} times without coming to its end",
        RESTARTS + 1
    ))
    .into())
}

/// The ending signals that this process received.
struct Stop<'source> {
    source: RefCell<&'source mut dyn FnMut() -> Option<i32>>,
    first: RefCell<Option<i32>>,
}

impl<'source> Stop<'source> {
    fn new(source: &'source mut dyn FnMut() -> Option<i32>) -> Self {
        Self { source: RefCell::new(source), first: RefCell::new(None) }
    }

    fn next(&self) -> Option<i32> {
        let signal = (self.source.borrow_mut())();
        if signal.is_some() {
            self.first.borrow_mut().get_or_insert(signal.unwrap_or_default());
        }
        signal
    }

    /// Whether any came so far.
    fn asked(&self) -> bool {
        while self.next().is_some() {}
        self.first.borrow().is_some()
    }

    /// An error with the right exit status if any came so far.
    fn check(&self) -> Result<()> {
        if !self.asked() {
            return Ok(());
        }
        let signal = self.first.borrow().and_then(|signal| u8::try_from(signal).ok()).unwrap_or_default();
        Err(Failure::new("the rehearsal was stopped").exit(ExitCode::signal(signal)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit_codes: &[u8], unexpected: Option<Difference>) -> ExitCode {
        let difference = Difference::new(Vec::new());
        Outcome { exit_codes: exit_codes.to_vec(), difference, unexpected }.exit_code()
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
    fn the_first_signal_decides_the_exit_status() {
        let mut signals = vec![15, 2];
        let mut next = || signals.pop();
        let stop = Stop::new(&mut next);
        let error = stop.check().unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), ExitCode::signal(2));
    }
}
