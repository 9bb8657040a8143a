//! The file in which a run notes the processes it has running, so that the run after a killed one finds them.
//!
//! It is never synced: it only has to survive the death of a process, not of the machine, and it says which boot
//! it is about. It begins with slots of a fixed size, one for each running command, which the child fills in
//! before it executes anything; lines about the run follow, and one for each process that a command which ended
//! well left behind.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use rustix::io::{Errno, retry_on_intr};

use super::table::Process;
use crate::failure::Failure;
use crate::machine::clock;
use crate::machine::files::PathText;

/// How the name of such a file ends. What is named otherwise in its directory is not read.
const SUFFIX: &str = ".children";

const SLOTS: usize = 16;
/// Enough for two 32-bit numbers, a 64-bit one, two blanks and a line end.
const SLOT: usize = 64;
const EMPTY: [u8; SLOT] = {
    let mut slot = [b' '; SLOT];
    slot[SLOT - 1] = b'\n';
    slot
};

/// The note file of a run at work; it goes when the run ends, and stays when the run is killed.
#[derive(Debug)]
pub(super) struct ChildRecords {
    /// None for a file without a name, which is gone with the run.
    path: Option<PathBuf>,
    file: Arc<File>,
    taken: [AtomicBool; SLOTS],
}

/// One command's place in the file; emptied when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    notes: &'a ChildRecords,
    index: usize,
}

impl ChildRecords {
    pub(super) fn create(directory: &Path, run: &str) -> Result<Self> {
        let named = || format!("cannot note running processes in `{}`", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
        let (path, mut file) = create_unused(directory, run).with_context(named)?;
        let mut text = EMPTY.repeat(SLOTS);
        let own = Process::current().context("cannot read `/proc/self/stat`: is /proc mounted?")?;
        writeln!(text, "run {run}")?;
        writeln!(text, "boot {}", clock::boot_id()?)?;
        writeln!(text, "runner {} {}", own.pid, own.start)?;
        if let Some(group) = own.control_group() {
            writeln!(text, "cgroup {group}")?;
        }
        file.write_all(&text).with_context(named)?;
        Ok(Self::of(file, Some(path)))
    }

    /// For a run that leaves no trace: a killed one's commands are not found later.
    pub(super) fn nowhere() -> Result<Self> {
        let file = rustix::fs::memfd_create("kkrun-notes", rustix::fs::MemfdFlags::CLOEXEC)
            .context("cannot make a file in memory")?;
        Ok(Self::of(File::from(file), None))
    }

    fn of(file: File, path: Option<PathBuf>) -> Self {
        Self { path, file: Arc::new(file), taken: std::array::from_fn(|_| AtomicBool::new(false)) }
    }

    /// The file, if it has a name.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A free place for one more command.
    pub(super) fn slot(&self) -> Result<Slot<'_>> {
        let free = self.taken.iter().position(|taken| !taken.swap(true, Ordering::AcqRel));
        let Some(index) = free else { bail!("more than {SLOTS} commands at once") };
        Ok(Slot { notes: self, index })
    }

    /// ChildRecords that these processes were left behind on purpose: they are no orphans, now or later.
    pub(super) fn leave(&self, process: &Process) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let line = format!("left {} {}\n", process.pid, process.start);
        // Not the open one: Linux lets `pwrite` append while O_APPEND is set, which the slots cannot do with.
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot append to `{}`", path.display()))
    }
}

impl Drop for ChildRecords {
    fn drop(&mut self) {
        // LastKnown behind, it names a runner that is gone and is cleared away by the next look for orphans.
        if let Some(path) = &self.path {
            drop(fs::remove_file(path));
        }
    }
}

impl Slot<'_> {
    /// What the child needs to note itself: an open file and the offset of its slot.
    pub(super) fn pen(&self) -> Pen {
        Pen { file: Arc::clone(&self.notes.file), offset: (self.index * SLOT) as u64 }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // A slot that still names an ended process is reported from a living one by the start time.
        drop(self.notes.file.write_all_at(&EMPTY, (self.index * SLOT) as u64));
        self.notes.taken[self.index].store(false, Ordering::Release);
    }
}

/// Writes a slot, in the child, between fork and exec.
#[derive(Clone, Debug)]
pub(super) struct Pen {
    file: Arc<File>,
    offset: u64,
}

impl Pen {
    /// ChildRecords the calling process. Only raw system calls and the stack are used, nothing is allocated or locked:
    /// fit for a child of a process with threads.
    pub(super) fn note_self(&self) -> Result<(), Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let stat = retry_on_intr(|| rustix::fs::open(c"/proc/self/stat", flags, Mode::empty()))?;
        let mut text = [0_u8; 1024];
        let length = retry_on_intr(|| rustix::io::read(&stat, &mut text))?;
        let mut slot = EMPTY;
        let mut at = 0;
        // Not asked of the kernel: to a process of another namespace's group it says 0, which is no group.
        for field in [OWN_NUMBER, START, GROUP] {
            at = put(&mut slot, at, field_of(&text[..length], field).ok_or(Errno::INVAL)?) + 1;
        }
        write_at(self.file.as_fd(), &slot, self.offset)
    }
}

/// A new file named after the run. What a killed run of the same name left must not be written over.
fn create_unused(directory: &Path, run: &str) -> std::io::Result<(PathBuf, File)> {
    let mut path = directory.join(format!("{run}{SUFFIX}"));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    for number in 1_u32.. {
        match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                path = directory.join(format!("{run}.{number}{SUFFIX}"));
            }
            result => return result.map(|file| (path, file)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn write_at(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let written = retry_on_intr(|| rustix::io::pwrite(file, bytes, offset))?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

/// The fields of the line in `/proc/PID/stat` that are noted, counted from 0. Source: `proc_pid_stat(5)`.
const OWN_NUMBER: usize = 0;
const GROUP: usize = 4;
const START: usize = 21;

/// A number of the line in `/proc/PID/stat`: digits, at most 20 of them.
fn field_of(stat: &[u8], field: usize) -> Option<&[u8]> {
    // The name, which is the second, may hold blanks and parentheses.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let digits = match field.checked_sub(2) {
        None => stat.split(|byte| *byte == b' ').next()?,
        Some(behind) => stat[name_end + 1..].split(|byte| *byte == b' ').nth(behind + 1)?,
    };
    (digits.len() <= 20).then_some(digits)
}

fn put(slot: &mut [u8; SLOT], at: usize, digits: &[u8]) -> usize {
    let mut end = at;
    for digit in digits.iter().take_while(|digit| digit.is_ascii_digit()) {
        slot[end] = *digit;
        end += 1;
    }
    end
}

/// The note files in a directory, as far as their names tell; none where there is no such directory.
pub(super) fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read the directory `{}`", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(unreadable)?;
        let is_named_so = entry.file_name().as_encoded_bytes().ends_with(SUFFIX.as_bytes());
        if is_named_so && entry.file_type().with_context(unreadable)?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Opens a file of this user's own; `None` when it is gone, or anything else. Never waits for a writer.
fn open_own(path: &Path) -> std::io::Result<Option<File>> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // A link in its place. Source: open(2), O_NOFOLLOW.
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    let is_own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    Ok(is_own.then_some(file))
}

/// What a note file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) run: String,
    pub(super) boot: String,
    pub(super) control_group: Option<String>,
    /// The run itself: number and start.
    pub(super) runner: Option<(u32, u64)>,
    /// Running commands: number, start, group.
    pub(super) commands: Vec<(u32, u64, u32)>,
    /// Processes left behind on purpose: number and start.
    pub(super) left: Vec<(u32, u64)>,
}

impl Read {
    /// Reads a note file; `None` when it went away meanwhile, or is not a file of this user's. Lines that make no
    /// sense are passed over: a file cut short by a kill still tells the rest, and one that says no boot is of a run
    /// that started nothing.
    pub(super) fn from_file(path: &Path) -> Result<Option<Self>> {
        let mut text = Vec::new();
        let read = open_own(path).and_then(|file| match file {
            Some(mut file) => file.read_to_end(&mut text).map(|_| true),
            None => Ok(false),
        });
        match read {
            Ok(true) => Ok(Some(Self::parse(&String::from_utf8_lossy(&text)))),
            Ok(false) => Ok(None),
            Err(error) => {
                let shown = PathText::new(path);
                Err(Failure::new(format!("cannot read the record of running commands `{shown}`: {error}"))
                    .hint(format!(
                        "it says what a killed run left running: if nothing of it runs any more, `rm {shown}`"
                    ))
                    .into())
            }
        }
    }

    fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "run" => rest.clone_into(&mut read.run),
                "boot" => rest.clone_into(&mut read.boot),
                "cgroup" => read.control_group = Some(rest.to_owned()),
                "runner" => read.runner = pair(rest),
                "left" => read.left.extend(pair(rest)),
                _ => {
                    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
                    if let (Some(Ok(pid)), Some(Ok(start)), Some(Ok(group))) =
                        (numbers.next(), numbers.next(), numbers.next())
                        && let (Ok(pid), Ok(group)) = (u32::try_from(pid), u32::try_from(group))
                    {
                        read.commands.push((pid, start, group));
                    }
                }
            }
        }
        read
    }
}

fn pair(text: &str) -> Option<(u32, u64)> {
    let (pid, start) = text.split_once(' ')?;
    Some((pid.parse().ok()?, start.trim_end().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_and_goes_with_the_slot_and_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let own = Process::current().unwrap();
        let notes = ChildRecords::create(&directory.path().join("new"), "run-1").unwrap();
        let first = notes.slot().unwrap();
        let second = notes.slot().unwrap();
        second.pen().note_self().unwrap();
        notes.leave(&own).unwrap();

        let read = Read::from_file(notes.path.as_ref().unwrap()).unwrap().unwrap();
        assert_eq!(read.commands, [(own.pid, own.start, own.group)]);
        assert_eq!(read.left, [(own.pid, own.start)]);
        assert_eq!(read.runner, Some((own.pid, own.start)));
        assert_eq!((read.run.as_str(), read.boot), ("run-1", clock::boot_id().unwrap()));
        assert_eq!(read.control_group, own.control_group());

        drop((first, second));
        assert_eq!(Read::from_file(notes.path.as_ref().unwrap()).unwrap().unwrap().commands, []);
        assert_eq!(notes.slot().unwrap().index, 0);
        let path = notes.path.clone().unwrap();
        drop(notes);
        assert_eq!(Read::from_file(&path).unwrap(), None);
    }

    #[test]
    fn what_a_run_of_the_same_name_noted_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("run-1.children"), "of before").unwrap();
        let notes = ChildRecords::create(directory.path(), "run-1").unwrap();
        assert_eq!(notes.path.clone().unwrap(), directory.path().join("run-1.1.children"));
        assert_eq!(Read::from_file(notes.path.as_ref().unwrap()).unwrap().unwrap().run, "run-1");
        let first = std::fs::read_to_string(directory.path().join("run-1.children"));
        assert_eq!(first.unwrap(), "of before");
    }

    #[test]
    fn a_file_cut_short_tells_the_rest() {
        let whole = format!("{}12 345 12\nrun r\nboot b\nrunner 7 8\nlef", "   \n");
        let read = Read::parse(&whole);
        assert_eq!((read.commands.as_slice(), read.runner), ([(12, 345, 12)].as_slice(), Some((7, 8))));
        assert_eq!(Read::parse("").run, "");
    }

    #[test]
    fn numbers_are_found_without_a_library() {
        let line = b"12 (a) b) S 1 0 3 4 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(field_of(line, OWN_NUMBER), Some(&b"12"[..]));
        assert_eq!(field_of(line, GROUP), Some(&b"0"[..]));
        assert_eq!(field_of(line, START), Some(&b"98765"[..]));
        assert_eq!(field_of(b"12 (cut) S 1", START), None);
        assert_eq!(field_of(b"", OWN_NUMBER), None);
    }
}
