//! The file in which a run notes the processes it has running, so that the run after a killed one finds them.
//!
//! It is never synced: it only has to survive the death of a process, not of the machine, and it says which boot
//! it is about. It begins with slots of a fixed size, one for each running command, which is filled in as
//! soon as the command has a process; lines about the run follow, and one for each process that a command which ended
//! well left behind. A process that a killed run did not come to note is found by its variable.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use super::table::Process;
use crate::failure::Failure;
use crate::machine::clock;
use crate::machine::files::PathText;

/// How the name of such a file ends. What is named otherwise in its directory is not read.
const SUFFIX: &str = ".children";

const SLOTS: usize = 16;
/// Enough for a 32-bit number, a 64-bit one, the space between them and a line end.
const SLOT: usize = 32;
const EMPTY: [u8; SLOT] = {
    let mut slot = [b' '; SLOT];
    slot[SLOT - 1] = b'\n';
    slot
};

/// The note file of a run at work; it goes when the run ends, and stays when the run is killed.
#[derive(Debug)]
pub(super) struct ChildRecords {
    /// None for a run that leaves no trace.
    file: Option<(PathBuf, File)>,
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
        Ok(Self::of(Some((path, file))))
    }

    /// For a run that leaves no trace: a killed one's commands are not found later.
    pub(super) fn nowhere() -> Self {
        Self::of(None)
    }

    fn of(file: Option<(PathBuf, File)>) -> Self {
        Self { file, taken: std::array::from_fn(|_| AtomicBool::new(false)) }
    }

    /// The file; none for a run that leaves no trace.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// A free place for one more command.
    pub(super) fn slot(&self) -> Result<Slot<'_>> {
        let free = self.taken.iter().position(|taken| !taken.swap(true, Ordering::AcqRel));
        let Some(index) = free else { bail!("more than {SLOTS} commands at once") };
        Ok(Slot { notes: self, index })
    }

    /// Notes that these processes were left behind on purpose: they are no orphans, now or later.
    pub(super) fn leave(&self, process: &Process) -> Result<()> {
        let Some((path, _)) = &self.file else { return Ok(()) };
        let line = format!("left {} {}\n", process.pid, process.start);
        // Not the open one: Linux lets `pwrite` append while O_APPEND is set, which the slots cannot do with.
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot append to `{}`", path.display()))
    }
}

impl Drop for ChildRecords {
    fn drop(&mut self) {
        // Left behind, it names a runner that is gone and is cleared away by the next look for orphans.
        if let Some((path, _)) = &self.file {
            drop(fs::remove_file(path));
        }
    }
}

impl Slot<'_> {
    /// Notes the process of the command.
    pub(super) fn note(&self, pid: u32) -> Result<()> {
        let Some((path, file)) = &self.notes.file else { return Ok(()) };
        let named = || format!("cannot note process {pid} in `{}`", path.display());
        let process = Process::by_pid(pid).with_context(named)?;
        let mut slot = EMPTY;
        write!(&mut slot[..], "{} {}", process.pid, process.start).with_context(named)?;
        file.write_all_at(&slot, self.offset()).with_context(named)
    }

    fn offset(&self) -> u64 {
        (self.index * SLOT) as u64
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some((_, file)) = &self.notes.file {
            // A slot that still names an ended process is reported from a living one by the start time.
            drop(file.write_all_at(&EMPTY, self.offset()));
        }
        self.notes.taken[self.index].store(false, Ordering::Release);
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
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(None);
        }
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
    /// Running commands: number and start.
    pub(super) commands: Vec<(u32, u64)>,
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
                _ => read.commands.extend(pair(line.trim_end())),
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

    fn path(notes: &ChildRecords) -> &Path {
        &notes.file.as_ref().unwrap().0
    }

    #[test]
    fn what_is_noted_is_read_back_and_goes_with_the_slot_and_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let own = Process::current().unwrap();
        let notes = ChildRecords::create(&directory.path().join("new"), "run-1").unwrap();
        let first = notes.slot().unwrap();
        let second = notes.slot().unwrap();
        second.note(own.pid).unwrap();
        notes.leave(&own).unwrap();

        let read = Read::from_file(path(&notes)).unwrap().unwrap();
        assert_eq!(read.commands, [(own.pid, own.start)]);
        assert_eq!(read.left, [(own.pid, own.start)]);
        assert_eq!(read.runner, Some((own.pid, own.start)));
        assert_eq!((read.run.as_str(), read.boot), ("run-1", clock::boot_id().unwrap()));
        assert_eq!(read.control_group, own.control_group());

        drop((first, second));
        assert_eq!(Read::from_file(path(&notes)).unwrap().unwrap().commands, []);
        assert_eq!(notes.slot().unwrap().index, 0);
        let file = path(&notes).to_owned();
        drop(notes);
        assert_eq!(Read::from_file(&file).unwrap(), None);
    }

    #[test]
    fn what_a_run_of_the_same_name_noted_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("run-1.children"), "of before").unwrap();
        let notes = ChildRecords::create(directory.path(), "run-1").unwrap();
        assert_eq!(path(&notes).to_owned(), directory.path().join("run-1.1.children"));
        assert_eq!(Read::from_file(path(&notes)).unwrap().unwrap().run, "run-1");
        let first = std::fs::read_to_string(directory.path().join("run-1.children"));
        assert_eq!(first.unwrap(), "of before");
    }

    #[test]
    fn a_file_cut_short_tells_the_rest() {
        let whole = format!("{}12 345\nrun r\nboot b\nrunner 7 8\nlef", "   \n");
        let read = Read::parse(&whole);
        assert_eq!((read.commands.as_slice(), read.runner), ([(12, 345)].as_slice(), Some((7, 8))));
        assert_eq!(Read::parse("").run, "");
    }
}
