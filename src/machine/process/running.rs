//! One command under way: its pipes, its deadlines and its end.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::child::{Child, number};
use super::child_records::Slot;
use super::lines::Lines;
use super::offspring::Offspring;
use super::spawn;
use super::start::Ends;
use super::table::Process;
use super::tap::{Tap, emit};
use super::waiting;
use super::{Command, Ended, Processes, Status, Stdin, Stream, Survivor, timespec};
use crate::machine::signal::Urgency;
use crate::machine::terminal;

/// How often a long wait is interrupted to reap processes that outlived their command: a daemon that ended and is not
/// reaped looks alive to those who wait for it.
const REAPING: Duration = Duration::from_millis(500);
/// How often kkrun checks whether the rest of an ended command is gone.
const LOOKING: Duration = Duration::from_millis(10);
/// How much later than a command a signal that was typed at the terminal may reach kkrun itself.
const LATENESS: Duration = Duration::from_millis(500);

/// One command under way.
pub(super) struct Running<'a> {
    processes: &'a Processes,
    command: &'a Command,
    child: Child,
    pidfd: OwnedFd,
    stdin: Option<Feed<'a>>,
    stdout: Tap,
    stderr: Tap,
    progress: Option<Progress>,
    tail: VecDeque<String>,
    started: Instant,
    /// When it last wrote something, and after how much more silence kkrun reports what it waits for.
    sign_of_life: Instant,
    report_after: Duration,
    /// How urgently the run was asked to stop when this began: only later requests concern the command.
    urgency: Option<Urgency>,
    ending: Option<Ending>,
    ended: Option<(std::process::ExitStatus, Instant)>,
    offspring: Offspring<'a>,
    buffer: Vec<u8>,
    _terminal: Option<terminal::Guard>,
}

/// That kkrun is ending the command.
struct Ending {
    status: Status,
    /// When SIGKILL follows; `None` once it was sent, and while there is no hurry.
    kill_at: Option<Instant>,
    killed_at: Option<Instant>,
}

impl<'a> Running<'a> {
    pub(super) fn start(processes: &'a Processes, command: &'a Command, slot: &Slot<'_>) -> Result<Self> {
        let started = Instant::now();
        let urgency = processes.signals.pending().map(|interruption| interruption.urgency);
        // Looked up while there are no pipes yet: the caller may have limited the number of open files.
        processes.current()?;
        let terminal = spawn::terminal_for(command)?;
        let guard = terminal.is_some().then(terminal::Guard::new).flatten();
        let mut offspring = Offspring::before(processes);
        let (mut ends, stdin, stdout, stderr) = ends_of(processes, command, terminal.as_ref())?;
        let progress = if command.has_progress {
            let (read, write) =
                pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe for a command")?;
            ends.progress = Some(write);
            Some(Progress { pipe: read, lines: Lines::default() })
        } else {
            None
        };
        let child = spawn::spawn(processes, command, ends)?;
        offspring.of(number(child.pid()));
        let noted = slot.note(number(child.pid())).and_then(|()| {
            pidfd_open(child.pid(), PidfdFlags::empty()).context("cannot open the process of a command")
        });
        let pidfd = match noted {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _gone = kill_process(child.pid(), Signal::KILL);
                child.reap();
                return Err(error);
            }
        };
        Ok(Self {
            processes,
            command,
            child,
            pidfd,
            stdin,
            stdout,
            stderr,
            progress,
            tail: VecDeque::new(),
            started,
            sign_of_life: started,
            report_after: processes.patience.silence,
            urgency,
            ending: None,
            ended: None,
            offspring,
            buffer: vec![0; 64 * 1024],
            _terminal: guard,
        })
    }

    pub(super) fn into_ended(mut self, sink: &mut dyn FnMut(Stream, &str)) -> Result<Ended> {
        loop {
            self.obey_signals(sink);
            self.obey_deadlines(sink);
            if let Some((status, _)) = self.ended
                && self.is_over()
            {
                return Ok(self.finish(status, sink));
            }
            self.wait_and_serve(sink)?;
        }
    }

    fn obey_signals(&mut self, sink: &mut dyn FnMut(Stream, &str)) {
        let Some(asked) = self.processes.signals.pending() else { return };
        if self.urgency.is_some_and(|before| before >= asked.urgency) {
            return;
        }
        self.urgency = Some(asked.urgency);
        let status = Status::Interrupted { signal: asked.signal };
        match asked.urgency {
            Urgency::AfterCommand => {}
            Urgency::Soon if self.command.outlasts_interrupt => {
                sink(Stream::Stopping { finishes: true }, "");
            }
            // The terminal has signalled an interactive command itself, which decides what to do.
            Urgency::Soon if self.command.interactive && asked.signal != SIGTERM => {}
            Urgency::Soon => {
                sink(Stream::Stopping { finishes: false }, "");
                self.end(status, None);
            }
            Urgency::Now => self.end_now(status),
        }
    }

    fn obey_deadlines(&mut self, sink: &mut dyn FnMut(Stream, &str)) {
        let now = Instant::now();
        match &self.ending {
            None => {
                let due = self.command.timeout.is_some_and(|timeout| now >= self.started + timeout);
                let is_silent = now >= self.sign_of_life + self.report_after;
                if self.ended.is_some() || self.command.interactive && !due {
                    return;
                }
                if due || is_silent {
                    self.report_silence(due, sink);
                }
                if due {
                    self.end(Status::TimedOut, Some(now + self.processes.patience.grace));
                }
            }
            Some(ending) if ending.kill_at.is_some_and(|at| now >= at) => self.end_now(ending.status),
            Some(_) => {}
        }
    }

    /// Reports which of its processes waits for what; also in the error if the command is ended for it.
    fn report_silence(&mut self, is_over: bool, sink: &mut dyn FnMut(Stream, &str)) {
        self.report_after *= 10;
        let waiting = waiting::said(number(self.child.pid()));
        if waiting.is_empty() {
            return;
        }
        let seconds = self.sign_of_life.elapsed().as_secs_f64();
        let silence = format!("silent for {}", crate::time::duration(seconds));
        let text = format!("`{}` is {silence}: {}", self.command.shown(), waiting.join("; "));
        if is_over {
            emit(Stream::Report, &text, &mut self.tail, sink);
        } else {
            sink(Stream::Report, &text);
        }
    }

    fn end(&mut self, status: Status, kill_at: Option<Instant>) {
        self.ending.get_or_insert(Ending { status, kill_at, killed_at: None });
        self.signal(Signal::TERM);
        // A stopped process cannot obey.
        self.signal(Signal::CONT);
    }

    fn end_now(&mut self, status: Status) {
        let status = self.ending.as_ref().map_or(status, |ending| ending.status);
        self.ending = Some(Ending { status, kill_at: None, killed_at: Some(Instant::now()) });
        self.signal(Signal::KILL);
    }

    /// Signals everything that belongs to the command. It is fine if a process has already ended.
    fn signal(&self, signal: Signal) {
        if self.command.interactive {
            // It shares the group with kkrun and the programs that kkrun is piped to.
            let _gone = pidfd_send_signal(&self.pidfd, signal);
        } else if self.ended.is_none() {
            // The child is not reaped yet, so the number of the group cannot be reused.
            let _gone = kill_process_group(self.child.pid(), signal);
        }
        self.offspring.signal(signal);
    }

    /// Whether nothing more is to be waited for once the child has ended.
    fn is_over(&mut self) -> bool {
        let Some((_, at)) = self.ended else { return false };
        let patience = self.processes.patience;
        let now = Instant::now();
        let is_read = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
        let is_drained = is_read || now >= at + patience.drain;
        match &mut self.ending {
            None => is_drained,
            Some(_) if self.offspring.living().is_empty() => is_drained,
            Some(Ending { killed_at: Some(killed_at), .. }) => {
                // Killing a parent makes its children ours, which are then seen for the first time.
                self.offspring.signal(Signal::KILL);
                now >= *killed_at + patience.grace
            }
            Some(ending) => {
                // The child obeyed, but some of its children did not: they get no more time than it would have had.
                ending.kill_at.get_or_insert(at + patience.grace);
                false
            }
        }
    }

    /// Until when nothing has to be done but serve the descriptors.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + REAPING;
        if let (None, None, Some(timeout)) = (&self.ending, &self.ended, self.command.timeout) {
            next = next.min(self.started + timeout);
        }
        if self.ending.is_none() && self.ended.is_none() {
            next = next.min(self.sign_of_life + self.report_after);
        }
        if let Some(at) = self.ending.as_ref().and_then(|ending| ending.kill_at) {
            next = next.min(at);
        }
        if let Some((_, at)) = self.ended {
            next = next.min(if self.ending.is_some() {
                now + LOOKING
            } else {
                at + self.processes.patience.drain
            });
        }
        next
    }

    fn wait_and_serve(&mut self, sink: &mut dyn FnMut(Stream, &str)) -> Result<()> {
        let timeout = timespec(self.next_deadline().saturating_duration_since(Instant::now()));
        let mut ready = [PollFlags::empty(); 6];
        {
            let watched = [
                (self.ended.is_none()).then(|| (self.pidfd.as_fd(), PollFlags::IN)),
                Some((self.processes.signals.bell(), PollFlags::IN)),
                self.stdout.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
                self.stderr.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
                self.stdin.as_ref().map(|feed| (feed.pipe.as_fd(), PollFlags::OUT)),
                self.progress.as_ref().map(|progress| (progress.pipe.as_fd(), PollFlags::IN)),
            ];
            let mut places = Vec::with_capacity(watched.len());
            let mut descriptors = Vec::with_capacity(watched.len());
            for (place, (descriptor, events)) in
                watched.into_iter().enumerate().filter_map(|(place, watched)| Some((place, watched?)))
            {
                places.push(place);
                descriptors.push(PollFd::from_borrowed_fd(descriptor, events));
            }
            match poll(&mut descriptors, Some(&timeout)) {
                Ok(0) => {
                    self.offspring.reap();
                    return Ok(());
                }
                Ok(_) => {}
                Err(Errno::INTR) => return Ok(()),
                Err(error) => return Err(error).context("cannot wait for a command"),
            }
            for (place, descriptor) in places.into_iter().zip(&descriptors) {
                ready[place] = descriptor.revents();
            }
        }
        let [exit, bell, stdout, stderr, stdin, progress] = ready.map(|events| !events.is_empty());
        if bell {
            self.processes.signals.hush();
        }
        if stdin && self.stdin.as_mut().is_some_and(Feed::write) {
            self.stdin = None;
        }
        if progress
            && self.progress.as_mut().is_some_and(|progress| progress.is_at_end(&mut self.buffer, sink))
        {
            self.progress = None;
        }
        if stdout || stderr || progress {
            self.sign_of_life = Instant::now();
            self.report_after = self.processes.patience.silence;
        }
        if stdout {
            self.stdout.read(&mut self.buffer, &mut self.tail, sink)?;
        }
        if stderr {
            self.stderr.read(&mut self.buffer, &mut self.tail, sink)?;
        }
        if exit && let Some(status) = self.child.try_wait().context("cannot wait for a command")? {
            self.ended = Some((status, Instant::now()));
            self.stdin = None;
        }
        Ok(())
    }

    fn finish(mut self, status: std::process::ExitStatus, sink: &mut dyn FnMut(Stream, &str)) -> Ended {
        let mut left_behind = self.offspring.living();
        let links: Vec<String> = [&self.stdout, &self.stderr].into_iter().filter_map(Tap::link).collect();
        if !links.is_empty() {
            let own = std::process::id();
            let known: BTreeSet<u32> = left_behind.iter().map(|process| process.pid).collect();
            left_behind.extend(Process::all().into_iter().filter(|process| {
                process.pid != own && !known.contains(&process.pid) && process.holds_any(&links)
            }));
        }
        // What is left in mounts of its own is ended with them.
        if self.command.mounts.is_none()
            && let Ok(records) = self.processes.records()
        {
            for process in &left_behind {
                // Without the record it would count as an orphan, and only if this run is killed later on.
                drop(records.leave(process));
                self.processes.left().insert(process.pid, process.session);
            }
        }
        for tap in [&mut self.stdout, &mut self.stderr] {
            tap.finish(&mut self.tail, sink);
        }
        Ended {
            status: self.status(status),
            stdout: std::mem::take(&mut self.stdout.captured),
            stderr: std::mem::take(&mut self.stderr.captured),
            tail: std::mem::take(&mut self.tail).into(),
            seconds: self.started.elapsed().as_secs_f64(),
            left_behind: left_behind
                .into_iter()
                .map(|process| Survivor { pid: process.pid, name: process.name })
                .collect(),
        }
    }

    fn status(&self, status: std::process::ExitStatus) -> Status {
        if let Some(ending) = &self.ending {
            return ending.status;
        }
        let Some(signal) = status.signal() else { return Status::Code(status.code().unwrap_or_default()) };
        let is_typed = [SIGINT, SIGQUIT].contains(&signal);
        if self.command.interactive && is_typed && self.processes.signals.pending().is_none() {
            // The terminal signals the whole group, and this process may be the last to handle it.
            self.processes.pause(LATENESS);
        }
        // An interactive command died of the Ctrl-C that kkrun got too.
        match self.processes.signals.pending() {
            Some(asked) if self.command.interactive && asked.signal != SIGHUP => {
                Status::Interrupted { signal: asked.signal }
            }
            _ => Status::Signal(signal),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Only an error of kkrun itself ends here: the command must not go on unseen.
            self.signal(Signal::KILL);
            self.child.reap();
        }
    }
}

/// The child's ends of its descriptors, and ours.
fn ends_of<'a>(
    processes: &Processes,
    command: &'a Command,
    terminal: Option<&std::fs::File>,
) -> Result<(Ends, Option<Feed<'a>>, Tap, Tap)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe for a command");
    if let Some(terminal) = terminal {
        let end = || terminal.try_clone().map(OwnedFd::from).context("cannot share the terminal");
        let ends = Ends { stdin: end()?, stdout: end()?, stderr: end()?, progress: None };
        return Ok((ends, None, Tap::new(Stream::Out, None), Tap::new(Stream::Err, None)));
    }
    let (stdin, feed) = match &command.stdin {
        Stdin::Bytes(bytes) => {
            let (read, write) = pipe()?;
            (read, Some(Feed::new(write, bytes)?))
        }
        Stdin::Null => (processes.nothing()?, None),
    };
    let (out_read, stdout) = pipe()?;
    let (err_read, stderr) = pipe()?;
    let ends = Ends { stdin, stdout, stderr, progress: None };
    Ok((ends, feed, Tap::new(Stream::Out, Some(out_read)), Tap::new(Stream::Err, Some(err_read))))
}

/// The lines in which a command says what it does.
struct Progress {
    pipe: OwnedFd,
    lines: Lines,
}

impl Progress {
    /// Reads once, and returns whether there is no more.
    fn is_at_end(&mut self, buffer: &mut [u8], sink: &mut dyn FnMut(Stream, &str)) -> bool {
        match rustix::io::read(&self.pipe, &mut *buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.lines.push(&buffer[..count], |line| sink(Stream::Progress, line));
                false
            }
            Err(error) => !matches!(error, Errno::INTR | Errno::AGAIN),
        }
    }
}

/// What is still to be written to a command.
struct Feed<'a> {
    pipe: OwnedFd,
    bytes: &'a [u8],
    written: usize,
}

impl<'a> Feed<'a> {
    fn new(pipe: OwnedFd, bytes: &'a [u8]) -> Result<Self> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK).context("cannot set up a pipe")?;
        Ok(Self { pipe, bytes, written: 0 })
    }

    /// Writes what fits, and returns whether that was all; a command that has closed its input needs no more.
    fn write(&mut self) -> bool {
        while self.written < self.bytes.len() {
            match rustix::io::write(&self.pipe, &self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}
