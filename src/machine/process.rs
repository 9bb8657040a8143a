//! Runs commands: each in a session of its own, with an environment built from nothing, streamed line by line, bounded
//! in memory, stopped as a whole, and recorded, so that the run after a killed one finds it.

mod captured;
mod child;
mod child_records;
mod environment;
mod lines;
mod offspring;
mod orphan;
mod program;
mod remaining;
mod running;
mod spawn;
mod start;
mod table;
mod tap;
mod waiting;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

pub use captured::{Captured, KEPT};
pub use environment::{PATH, RUN, TAKEN_OVER, Value};
pub use lines::LONGEST;
pub use orphan::{Orphan, orphans};
pub use remaining::Remaining;
pub use table::Process;
pub use tap::{MOST_BYTES, MOST_LINES};

use super::account::Account;
use super::mount::Mounts;
use super::signal::{Interruption, Signals, Urgency};
use crate::failure::FailedCommand;
use child_records::ChildRecords;
use running::Running;

/// What to run, as whom, and how.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Its name in messages; errors never show the arguments, which may hold secrets.
    pub label: Option<String>,
    /// Variables on top of the environment that every command gets.
    pub env: Vec<(OsString, Value)>,
    /// Where it runs; by default `/`, or the home of `user`.
    pub cwd: Option<PathBuf>,
    /// The user it runs as, with all groups; by default that of kkrun.
    pub user: Option<Account>,
    /// What it reads.
    pub stdin: Stdin,
    /// After how long it is ended.
    pub timeout: Option<Duration>,
    /// It talks to the operator: it gets the terminal, stays in the foreground, and kkrun does not see its output.
    pub interactive: bool,
    /// The first request to stop leaves it alone, because stopping it half-way is worse (apt, dpkg).
    pub outlasts_interrupt: bool,
    /// It writes to its descriptor [`PROGRESS`] what it does, a line each: [`Stream::Progress`]. Not as another user, nor
    /// with other mounts.
    pub has_progress: bool,
    /// The mounts that it sees; by default those of kkrun.
    pub mounts: Option<Arc<Mounts>>,
}

impl Command {
    /// That program with those arguments, and the defaults for all else.
    pub fn new<Word: Into<OsString>>(argv: impl IntoIterator<Item = Word>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Its name in messages: its label, or the name of its program.
    pub fn shown(&self) -> String {
        match (&self.label, self.argv.first()) {
            (Some(label), _) => label.clone(),
            (None, Some(program)) => {
                let program = Path::new(program);
                program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
            }
            (None, None) => String::new(),
        }
    }
}

/// The descriptor to which a command writes what it does.
pub const PROGRESS: i32 = 3;

/// What a command reads.
#[derive(Clone, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// These bytes, wiped from memory afterwards. A command need not read them all.
    Bytes(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Stdin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("Null"),
            // The bytes may be a password.
            Self::Bytes(bytes) => write!(formatter, "Bytes({} of them)", bytes.len()),
        }
    }
}

/// Where a line comes from: one of the two streams a command writes, or kkrun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// What it does now: see [`Command::has_progress`]. It is kept nowhere.
    Progress,
    /// Neither: what kkrun itself reports about the command.
    Report,
    /// No line: the run was asked to stop.
    Stopping {
        /// The command is finished first; otherwise it was asked to end.
        finishes: bool,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this exit code.
    Code(i32),
    /// By a signal of this number that kkrun did not send.
    Signal(i32),
    /// By kkrun, because it timed out.
    TimedOut,
    /// By kkrun, because the run was asked to stop by this signal.
    Interrupted {
        /// The signal that kkrun got.
        signal: i32,
    },
}

impl Status {
    /// The exit code, if it ended by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            _ => None,
        }
    }
}

/// As the end of a sentence about the command: "ended with exit code 2".
impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "ended with exit code {code}"),
            Self::Signal(signal) => write!(formatter, "was ended by {}", super::signal::name(*signal)),
            Self::TimedOut => formatter.write_str("timed out"),
            Self::Interrupted { signal } => {
                write!(formatter, "was stopped by {}", super::signal::name(*signal))
            }
        }
    }
}

/// A process that was still there when its command had ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub status: Status,
    /// What it wrote to standard output.
    pub stdout: Captured,
    /// What it wrote to standard error.
    pub stderr: Captured,
    /// The last lines of both, in the order they arrived, fit to be shown; at most [`TAIL`].
    pub tail: Vec<String>,
    /// How long it took, what was left of its output included.
    pub seconds: f64,
    /// Processes that it left behind: still running, and children of kkrun or holding its output open.
    pub left_behind: Vec<Survivor>,
}

impl Ended {
    /// Whether it ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.status == Status::Code(0)
    }
}

/// How many of the last lines are kept for an error message.
pub const TAIL: usize = 40;

/// Limits for waits that would otherwise last for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// For the rest of the output once a command has ended, while another process holds its pipe open.
    pub drain: Duration,
    /// For output, before kkrun reports which process of a command waits for what; then again after every ten times as
    /// long.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            drain: Duration::from_secs(2),
            silence: Duration::from_secs(60),
        }
    }
}

/// The processes of one run.
#[derive(Debug)]
pub struct Processes {
    run: String,
    directory: PathBuf,
    is_recorded: bool,
    signals: Signals,
    patience: Patience,
    /// Created when the first command runs: a run without commands writes nothing.
    records: OnceLock<ChildRecords>,
    current: OnceLock<Account>,
    /// `/dev/null`, for a command without input.
    nothing: OnceLock<File>,
    /// What commands left behind: number and session. This process reaps them.
    left: Mutex<BTreeMap<u32, u32>>,
    /// The last command, if it failed.
    failed: Mutex<Option<FailedCommand>>,
}

impl Processes {
    /// For the run of that id, which is a valid file name: running commands are recorded in a file of that name in the
    /// directory `records`, which is created when it is needed.
    pub fn new(run: &str, records: &Path, signals: Signals) -> Self {
        Self {
            run: run.to_owned(),
            directory: records.to_owned(),
            is_recorded: true,
            signals,
            patience: Patience::default(),
            records: OnceLock::new(),
            current: OnceLock::new(),
            nothing: OnceLock::new(),
            left: Mutex::new(BTreeMap::new()),
            failed: Mutex::new(None),
        }
    }

    /// The same with other limits for waits.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The same for commands that only observe: they are not recorded on disk.
    pub fn without_child_records(mut self) -> Self {
        self.is_recorded = false;
        self
    }

    /// The signals that these processes are stopped by.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Where running commands are recorded.
    pub fn child_records_directory(&self) -> &Path {
        &self.directory
    }

    /// Whether other runs have recorded running commands there: killed ones, or one that holds the lock.
    pub fn has_records_of_others(&self) -> Result<bool> {
        let own = self.records.get().and_then(ChildRecords::path);
        Ok(child_records::files_in(&self.directory)?.iter().any(|path| Some(path.as_path()) != own))
    }

    /// That the run was asked to stop, if it was.
    pub fn interruption(&self) -> Option<Interruption> {
        self.signals.pending()
    }

    /// Fails with the [`Interruption`] when the run was asked to stop.
    pub fn check_interruption(&self) -> Result<()> {
        self.interruption().map_or(Ok(()), |interruption| Err(interruption.into()))
    }

    /// Waits so long, or until the run is asked to stop.
    pub fn pause(&self, duration: Duration) {
        let bell = self.signals.bell();
        let mut bells = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
        // An early wake-up does no harm: the caller checks again anyway.
        if rustix::event::poll(&mut bells, Some(&timespec(duration))).is_ok_and(|rung| rung > 0) {
            // It would end every pause to come as well.
            self.signals.hush();
        }
    }

    /// Runs a command to its end and hands every line to `sink` as it comes, without its line ending and without
    /// terminal control sequences. Of a stream with more than [`MOST_LINES`] lines or [`MOST_BYTES`] bytes, the
    /// beginning is handed over as it comes, and the end when it ends. When a command is silent for long, or times out,
    /// kkrun reports which of its processes waits for what.
    ///
    /// # Errors
    ///
    /// When it could not be started; the message names what was missing, and never an argument. A failed command is not
    /// an error.
    pub fn run(&self, command: &Command, sink: &mut dyn FnMut(Stream, &str)) -> Result<Ended> {
        if let Some(interruption) = self.signals.pending().filter(|asked| asked.urgency == Urgency::Now) {
            return Ok(Ended {
                status: Status::Interrupted { signal: interruption.signal },
                stdout: Captured::default(),
                stderr: Captured::default(),
                tail: Vec::new(),
                seconds: 0.0,
                left_behind: Vec::new(),
            });
        }
        let slot = self.records()?.slot()?;
        let ended = Running::start(self, command, &slot)?.into_ended(sink)?;
        let failed = if ended.is_success() { None } else { Some(self.as_failed(command)?) };
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        Ok(ended)
    }

    fn as_failed(&self, command: &Command) -> Result<FailedCommand> {
        let current = self.current()?;
        let account = command.user.as_ref().unwrap_or(current);
        Ok(environment::of_failed(account, account.uid != current.uid, command))
    }

    /// Where the last command ran, if it failed.
    pub fn failed(&self) -> Option<FailedCommand> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn records(&self) -> Result<&ChildRecords> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        // A process that outlives its command becomes a child of this process, and so is noticed.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the reaper of descendants")?;
        let records = if self.is_recorded {
            ChildRecords::create(&self.directory, &self.run)?
        } else {
            ChildRecords::nowhere()
        };
        Ok(self.records.get_or_init(|| records))
    }

    fn nothing(&self) -> Result<OwnedFd> {
        let shared = match self.nothing.get() {
            Some(opened) => opened.try_clone(),
            None => File::open("/dev/null")
                .map(|opened| self.nothing.get_or_init(|| opened))
                .and_then(File::try_clone),
        };
        Ok(shared.context("cannot open `/dev/null`")?.into())
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<u32, u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Result<&Account> {
        if let Some(account) = self.current.get() {
            return Ok(account);
        }
        let account = Account::current()?;
        Ok(self.current.get_or_init(|| account))
    }
}

fn timespec(duration: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
