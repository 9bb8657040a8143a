//! The file in which a run records the processes it has running, so that the run after a killed one finds them.
//!
//! It is never synced: it only has to survive the death of a process, not of the machine, and it says which boot it is
//! about. It begins with slots of a fixed size, one for each running command, which is filled in as soon as the command
//! has a process; lines about the run follow, and one for each process that a successful command left behind. A process
//! that a killed run could not record any more is found by its variable.

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

/// How the name of such a file ends. Other files in its directory are not read.
const SUFFIX: &str = ".children";

const SLOTS: usize = 16;
/// Enough for a 32-bit number, a 64-bit one, the space between them and a line end.
const SLOT: usize = 32;
const EMPTY: [u8; SLOT] = {
    let mut slot = [b' '; SLOT];
    slot[SLOT - 1] = b'\n';
    slot
};

/// The file of a running run; removed when the run ends, left when it is killed.
#[derive(Debug)]
pub(super) struct ChildRecords {
    /// None for a run that leaves no trace.
    file: Option<(PathBuf, File)>,
    taken: [AtomicBool; SLOTS],
}

/// The slot of one command in the file; emptied when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    records: &'a ChildRecords,
    index: usize,
}

impl ChildRecords {
    pub(super) fn create(directory: &Path, run: &str) -> Result<Self> {
        let named = || format!("cannot record running processes in `{}`", directory.display());
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

    /// A free slot for one more command.
    pub(super) fn slot(&self) -> Result<Slot<'_>> {
        let free = self.taken.iter().position(|taken| !taken.swap(true, Ordering::AcqRel));
        let Some(index) = free else { bail!("cannot run more than {SLOTS} commands at once") };
        Ok(Slot { records: self, index })
    }

    /// Records that these processes were left behind on purpose: they are not orphans, now or later.
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
        // If it stays, it names a runner that has ended, and the next search for orphans removes it.
        if let Some((path, _)) = &self.file {
            drop(fs::remove_file(path));
        }
    }
}

impl Slot<'_> {
    /// Records the process of the command.
    pub(super) fn note(&self, pid: u32) -> Result<()> {
        let Some((path, file)) = &self.records.file else { return Ok(()) };
        let named = || format!("cannot record process {pid} in `{}`", path.display());
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
        if let Some((_, file)) = &self.records.file {
            // The start time distinguishes an ended process in a slot from a living one with its number.
            drop(file.write_all_at(&EMPTY, self.offset()));
        }
        self.records.taken[self.index].store(false, Ordering::Release);
    }
}

/// A new file named after the run. The file of a killed run of the same name must not be overwritten.
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

/// The files of runs in a directory, by their names; none if the directory does not exist.
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
        // It is a link. Source: open(2), O_NOFOLLOW.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(None);
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    let is_own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    Ok(is_own.then_some(file))
}

/// The content of such a file.
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
    /// Reads such a file; `None` if it was removed in the meantime, or is not a file of this user. Invalid lines are
    /// skipped: the rest of a file cut short by a kill still counts, and a run without a boot in its file started
    /// nothing.
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
                        "make sure that no process of the killed run is left, then run `rm {shown}`"
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

    fn path(records: &ChildRecords) -> &Path {
        &records.file.as_ref().unwrap().0
    }

    #[test]
    fn what_is_recorded_is_read_back_and_goes_with_the_slot_and_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let own = Process::current().unwrap();
        let records = ChildRecords::create(&directory.path().join("new"), "run-1").unwrap();
        let first = records.slot().unwrap();
        let second = records.slot().unwrap();
        second.note(own.pid).unwrap();
        records.leave(&own).unwrap();

        let read = Read::from_file(path(&records)).unwrap().unwrap();
        assert_eq!(read.commands, [(own.pid, own.start)]);
        assert_eq!(read.left, [(own.pid, own.start)]);
        assert_eq!(read.runner, Some((own.pid, own.start)));
        assert_eq!((read.run.as_str(), read.boot), ("run-1", clock::boot_id().unwrap()));
        assert_eq!(read.control_group, own.control_group());

        drop((first, second));
        assert_eq!(Read::from_file(path(&records)).unwrap().unwrap().commands, []);
        assert_eq!(records.slot().unwrap().index, 0);
        let file = path(&records).to_owned();
        drop(records);
        assert_eq!(Read::from_file(&file).unwrap(), None);
    }

    #[test]
    fn the_file_of_a_run_of_the_same_name_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("run-1.children"), "of before").unwrap();
        let records = ChildRecords::create(directory.path(), "run-1").unwrap();
        assert_eq!(path(&records).to_owned(), directory.path().join("run-1.1.children"));
        assert_eq!(Read::from_file(path(&records)).unwrap().unwrap().run, "run-1");
        let first = std::fs::read_to_string(directory.path().join("run-1.children"));
        assert_eq!(first.unwrap(), "of before");
    }

    #[test]
    fn the_rest_of_a_file_cut_short_is_read() {
        let whole = format!("{}12 345\nrun r\nboot b\nrunner 7 8\nlef", "   \n");
        let read = Read::parse(&whole);
        assert_eq!((read.commands.as_slice(), read.runner), ([(12, 345)].as_slice(), Some((7, 8))));
        assert_eq!(Read::parse("").run, "");
    }
}
