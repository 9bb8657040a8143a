//! Random histories: changes, crashes at any record, edits by the operator, rollbacks of one step or of all. These
//! invariants hold in all of them:
//!
//! * without an edit by the operator there is no conflict, and a rollback restores the first state;
//! * what the operator wrote is lost only where overwriting was agreed to, and then it is in the backups;
//! * a rollback does what its preview says;
//! * the next rollback finishes one that was cut off, and a finished one leaves nothing to do.
//!
//! `PROPTEST_CASES` sets the number of histories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use kkrun::change::{
    AccessChange, Attempts, Change, CommandChange, CommandInverse, CommandSource, DesiredEntry, DesiredFile,
    EditChange, EditTerms, EntryKind, FileChange, FileEntry, Format, Found, Payload, PlainCommand,
    TreeChange, World,
};
use kkrun::event::{Answer, Audience, Event, Question, Reporter};
use kkrun::failure::Failure;
use kkrun::journal::{self, ChangeId, ChangeState, Class, Entry, Handler, History, Journal, Writer};
use kkrun::machine::clock;
use kkrun::machine::files::{self, Attributes, Content, FileState, Manifest, PathText};
use kkrun::machine::process::{Command, Processes};
use kkrun::machine::signal::Signals;
use kkrun::rollback::{Report, Request, apply, preview};
use kkrun::session::{ConflictPolicy, Opening, Session};
use kkrun::target::Target;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// The paths that change.
const PLACES: [&str; 4] = ["a", "b", "d", "d/x"];
/// The number of histories by default.
const CASES: u32 = 2000;

#[derive(Clone, Debug)]
enum Desired {
    Write(u8),
    Line(u8, u8),
    Commented(u8),
    WithoutLine(u8),
    Block(u8),
    WithoutBlock,
    Link(u8),
    Directory,
    Absent,
    Mode(u8),
    Mirror(u8),
    Copy(u8),
    Product(u8),
}

/// Where a run is killed.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// Between the intent and the act.
    BeforeActing,
    /// The journal takes so many more bytes: the cut is before, within or behind any record.
    AtByte(u16),
    /// As above, and the intent of the next undo is recorded behind the cut, without the undo.
    AtByteAndIntended(u16),
}

#[derive(Clone, Debug)]
enum Deed {
    Change { step: u8, place: usize, desired: Desired, triggers: bool, crash: Option<Crash>, replace: bool },
    OperatorEdit { place: usize, how: OperatorEdit },
    Rollback { step: Option<u8>, force: bool, crash: Option<Crash> },
}

#[derive(Clone, Copy, Debug)]
enum OperatorEdit {
    Append,
    Prepend,
    Rewrite,
    Delete,
    Link,
    Mode,
    Inside,
}

struct Unattended;

impl Audience for Unattended {
    fn hear(&self, _: &Event) {}

    fn ask(&self, _: &Question) -> Result<Option<Answer>> {
        Ok(None)
    }
}

/// A scratch machine with its own state directory.
struct Machine {
    directory: tempfile::TempDir,
    runs: Cell<u32>,
}

thread_local! {
    static SIGNALS: Signals = Signals::deaf().unwrap();
}

/// The file size limit of this process: the kernel's way to end a write in its middle.
struct Limit;

impl Limit {
    fn of(bytes: u64) -> Self {
        let whole = rustix::process::getrlimit(rustix::process::Resource::Fsize);
        let limit = rustix::process::Rlimit { current: Some(bytes), ..whole };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
        Self
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let whole = rustix::process::getrlimit(rustix::process::Resource::Fsize);
        let limit = rustix::process::Rlimit { current: whole.maximum, ..whole };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    }
}

impl Machine {
    fn new(start: u8) -> Self {
        // In memory, for speed: no write of these tests has to survive a power cut.
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let machine = Self { directory, runs: Cell::new(0) };
        fs::create_dir(machine.path("")).unwrap();
        if start & 1 != 0 {
            fs::write(machine.path("a"), "k0=first\nz=9\n").unwrap();
            fs::set_permissions(machine.path("a"), PermissionsExt::from_mode(0o640)).unwrap();
        }
        if start & 2 != 0 {
            symlink("nowhere", machine.path("b")).unwrap();
        }
        if start & 4 != 0 {
            fs::create_dir(machine.path("d")).unwrap();
            fs::write(machine.path("d/x"), "x\n").unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.directory.path().canonicalize().unwrap().join("m");
        if name.is_empty() { path } else { path.join(name) }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("state")
    }

    fn world(&self) -> World {
        let reporter = Reporter::new(Box::new(Unattended));
        let processes = Processes::new("model", &self.state().join("notes"), SIGNALS.with(Clone::clone));
        World::new(processes, &self.state(), reporter)
    }

    fn history(&self) -> History {
        journal::load(&self.state()).unwrap().history
    }

    fn writer(&self) -> Writer {
        Writer { run: self.runs.get().to_string(), boot: clock::boot_id().unwrap(), plan: "plan".to_owned() }
    }

    fn session(&self) -> Session {
        self.runs.set(self.runs.get() + 1);
        let mut loaded = journal::load(&self.state()).unwrap();
        let history = std::mem::take(&mut loaded.history);
        let entries =
            vec![Entry::RunStarted { script: "model".to_owned(), root: "model".to_owned(), pid: 1 }];
        let opening = Opening { directory: self.state(), writer: self.writer(), entries, loaded };
        Session::acting(self.world(), history, "plan", opening)
    }

    fn dry_run(&self) -> Session {
        Session::new(self.world(), self.history(), "plan")
    }

    fn limit(&self, crash: Option<Crash>) -> Option<Limit> {
        let length = fs::metadata(self.state().join("journal")).map_or(0, |metadata| metadata.len());
        match crash {
            Some(Crash::AtByte(bytes) | Crash::AtByteAndIntended(bytes)) => {
                Some(Limit::of(length + u64::from(bytes)))
            }
            _ => None,
        }
    }

    /// The kind, mode and content of every path.
    fn snapshot(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        self.collect(&self.path(""), &mut found);
        found
    }

    fn collect(&self, directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_dir() {
                self.collect(&path, found);
                String::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            let name = path.strip_prefix(self.path("")).unwrap().display().to_string();
            found.insert(name, format!("{:o} {content}", metadata.mode()));
        }
    }

    /// The marks that the operator's edits left in paths that still exist.
    fn marks(&self) -> BTreeSet<String> {
        let words = |text: &String| {
            let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
            words.filter(|word| word.starts_with("theirs-")).map(str::to_owned).collect::<Vec<_>>()
        };
        self.snapshot().values().flat_map(words).collect()
    }

    fn is_in_backups(&self, mark: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.state().join("backups")) else { return false };
        entries.flatten().any(|entry| {
            let text = fs::read(entry.path()).unwrap_or_default();
            String::from_utf8_lossy(&text).contains(mark)
        })
    }
}

fn mine(mode: u32) -> Attributes {
    Attributes::new(mode, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The attributes that an existing file keeps, as the primitives do it.
fn attributes(found: &FileState) -> Attributes {
    match found {
        FileState::File { metadata, .. } => Attributes { mtime: None, ..Attributes::from(metadata) },
        _ => mine(0o644),
    }
}

/// Makes a change, or dies where the crash is between intent and act.
fn perform(session: &mut Session, change: &Change, payload: Payload<'_>, crash: Option<Crash>) -> Result<()> {
    if matches!(crash, Some(Crash::BeforeActing)) && session.intend(change, None)?.is_some() {
        std::panic::resume_unwind(Box::new("killed"));
    }
    session.perform(change, payload).map(drop)
}

/// Makes the desired state of one path, as the primitives do.
fn change(session: &mut Session, path: &Path, desired: &Desired, crash: Option<Crash>) -> Result<()> {
    match desired {
        Desired::Write(number) => {
            let bytes = format!("k0=written\nwritten-{number}\n");
            let found = Found::at(path)?;
            if matches!(found.state, FileState::Directory { .. }) {
                return Ok(());
            }
            let desired = DesiredFile::File { bytes: bytes.as_bytes(), attributes: attributes(&found.state) };
            one(session, found, &desired, crash)
        }
        Desired::Link(number) => {
            let found = Found::at(path)?;
            if matches!(found.state, FileState::Directory { .. }) {
                return Ok(());
            }
            let to = PathText::new(format!("link-{number}"));
            let desired = DesiredFile::Link { to, owner: mine(0).owner, group: mine(0).group };
            one(session, found, &desired, crash)
        }
        Desired::Directory => {
            let found = Found::at(path)?;
            match found.state {
                FileState::Absent => {
                    one(session, found, &DesiredFile::Directory { attributes: mine(0o755) }, crash)
                }
                _ => Ok(()),
            }
        }
        Desired::Absent => {
            let found = Found::at(path)?;
            if let FileState::Directory { .. } = found.state {
                let Some(change) = TreeChange::remove(path)? else { return Ok(()) };
                return tree(session, change, &Manifest::default(), "", crash);
            }
            one(session, found, &DesiredFile::Absent, crash)
        }
        Desired::Mode(bits) => {
            let mode = 0o700 | u32::from(bits % 8);
            let found = Found::at(path)?;
            match &found.state {
                FileState::Directory { .. } if bits % 2 == 0 => {
                    let desired = |access: &files::Access| match access.kind {
                        files::EntryKind::Link => *access,
                        _ => files::Access { mode: (access.mode & !0o707) | mode, ..*access },
                    };
                    let Some(change) = AccessChange::towards(path, &desired)? else { return Ok(()) };
                    perform(session, &Change::Access(change), Payload::Nothing, crash)
                }
                FileState::File { metadata, .. } | FileState::Directory { metadata } => {
                    let attributes = Attributes { mode, mtime: None, ..Attributes::from(metadata) };
                    one(session, found, &DesiredFile::Metadata { attributes }, crash)
                }
                _ => Ok(()),
            }
        }
        Desired::Mirror(number) | Desired::Copy(number) => {
            if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                return Ok(());
            }
            let text = format!("tree-{number}\n");
            let mut manifest = Manifest::default();
            manifest.insert_directory(".", &mine(0o755));
            manifest.insert_file(if number % 2 == 0 { "x" } else { "y" }, text.as_bytes(), &mine(0o644));
            let change = match desired {
                Desired::Mirror(_) => TreeChange::mirror(path, &manifest)?,
                _ => TreeChange::copy(path, &manifest)?,
            };
            let Some(change) = change else { return Ok(()) };
            tree(session, change, &manifest, &text, crash)
        }
        Desired::Product(number) => product(session, path, *number, crash),
        Desired::Line(key, value) => {
            edit(session, path, line(*key), DesiredEntry::Text(format!("v{value}").as_bytes()), crash)
        }
        Desired::Commented(key) => edit(session, path, line(*key), DesiredEntry::Comment, crash),
        Desired::WithoutLine(key) => edit(session, path, line(*key), DesiredEntry::Absent, crash),
        Desired::Block(value) => {
            edit(session, path, block(), DesiredEntry::Text(format!("in block {value}").as_bytes()), crash)
        }
        Desired::WithoutBlock => edit(session, path, block(), DesiredEntry::Absent, crash),
    }
}

fn line(key: u8) -> FileEntry {
    let kind = EntryKind::Line { key: format!("k{key}"), separator: Some("=".to_owned()) };
    FileEntry { section: None, comment: "#".to_owned(), format: Format::Ini, kind }
}

fn block() -> FileEntry {
    FileEntry {
        section: None,
        comment: "#".to_owned(),
        format: Format::Ini,
        kind: EntryKind::Block { name: "it".to_owned() },
    }
}

fn one(session: &mut Session, found: Found, desired: &DesiredFile<'_>, crash: Option<Crash>) -> Result<()> {
    let Some(change) = FileChange::towards(found, desired) else { return Ok(()) };
    perform(session, &Change::File(change), Payload::File(desired), crash)
}

fn tree(
    session: &mut Session,
    change: TreeChange,
    desired: &Manifest,
    text: &str,
    crash: Option<Crash>,
) -> Result<()> {
    let open = &mut |_: &Path| -> Result<_> { Ok(Content::Bytes(text.as_bytes().into())) };
    perform(session, &Change::Tree(change), Payload::Tree(desired, open), crash)
}

fn edit(
    session: &mut Session,
    path: &Path,
    entry: FileEntry,
    desired: DesiredEntry<'_>,
    crash: Option<Crash>,
) -> Result<()> {
    let (found, bytes) = Found::text_at(path)?;
    match &found.state {
        FileState::File { .. } => {}
        FileState::Absent if matches!(desired, DesiredEntry::Text(_)) => {}
        _ => return Ok(()),
    }
    let record = session.file_record(&found);
    let attributes = attributes(&found.state);
    let terms = EditTerms { entry, secret: false, in_place: false, attributes, record };
    let Some(change) = EditChange::towards((found, bytes), desired, terms)? else { return Ok(()) };
    perform(session, &Change::Edit(change), Payload::Nothing, crash)
}

/// A command that makes a file; its undo action removes the file.
fn product(session: &mut Session, path: &Path, number: u8, crash: Option<Crash>) -> Result<()> {
    let target = Target::Product(path.into());
    let half = |change: &journal::ChangeRecord| {
        change.state == ChangeState::InDoubt && change.intent.target == target
    };
    let is_again = session.history().changes.iter().any(half);
    if path.symlink_metadata().is_ok() && !is_again {
        return Ok(());
    }
    let script = format!("echo product-{number} > \"$1\"");
    let argv: Vec<String> =
        ["sh", "-c", &script, "sh", &path.display().to_string()].map(str::to_owned).to_vec();
    let undo = PlainCommand { argv: vec!["true".to_owned()], ..PlainCommand::default() };
    let inverse = CommandInverse {
        label: "make".to_owned(),
        product: Some(PathText::new(path)),
        changes: None,
        commands: if number.is_multiple_of(2) { Vec::new() } else { vec![undo] },
        probe: None,
        class: Class::Safe,
    };
    let record = session.product_record(&inverse);
    let change = CommandChange::about_to_run(&session.world, inverse, CommandSource::default(), &record)?;
    let mut command = Command::new(&argv);
    command.label = Some("make".to_owned());
    let (ok_codes, backoff) = (Vec::new(), Duration::ZERO);
    let mut attempts = Attempts { command, ok_codes, retries: 0, retry_on: None, backoff, ended: None };
    perform(session, &Change::Command(change), Payload::Command(&mut attempts), crash)
}

/// One history.
struct Model<'machine> {
    machine: &'machine Machine,
    first: BTreeMap<String, String>,
    marks: u32,
    /// The indices of paths that the operator edited.
    touched: BTreeSet<usize>,
    handled: PathBuf,
}

macro_rules! hold {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(TestCaseError::fail(format!($($message)*)));
        }
    };
}

impl Model<'_> {
    fn run(&mut self, deed: &Deed) -> Result<(), TestCaseError> {
        match deed {
            Deed::Change { step, place, desired, triggers, crash, replace } => {
                self.change(*step, *place, desired, *triggers, *crash, *replace)
            }
            Deed::OperatorEdit { place, how } => {
                self.edit_as_the_operator(*place, *how);
                Ok(())
            }
            Deed::Rollback { step, force, crash } => self.roll_back(*step, *force, *crash).map(drop),
        }
    }

    fn change(
        &mut self,
        step: u8,
        place: usize,
        desired: &Desired,
        triggers: bool,
        crash: Option<Crash>,
        replace: bool,
    ) -> Result<(), TestCaseError> {
        let path = self.machine.path(PLACES[place]);
        if path.parent().is_some_and(|parent| !parent.is_dir()) {
            return Ok(());
        }
        let machine = self.machine;
        let unfinished = machine.history().rollback.is_some();
        let marks = machine.marks();
        let is_known = !machine.history().changes.is_empty();
        let handler = Handler {
            run: vec![vec!["touch".to_owned(), self.handled.display().to_string()]],
            ..Handler::default()
        };
        let limit = machine.limit(crash);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<()> {
            let mut session = machine.session();
            session.on_conflict = if replace { ConflictPolicy::Overwrite } else { ConflictPolicy::Ask };
            // What a change observes depends on what was recovered of a killed run.
            session.recover_before_looking()?;
            let step = step.to_string();
            session.enter_step(Some(&step));
            let (title, script) = (step.clone(), "model".to_owned());
            session.record(Entry::StepStarted { step: step.clone(), title, script })?;
            if triggers {
                session.enter_handler(handler.clone());
            }
            change(&mut session, &path, desired, crash)?;
            if triggers {
                session.leave_handler();
                session.settle(&handler)?;
            }
            session.run_handlers_of_step(&step)?;
            session.run_remaining_handlers(|_| true)
        }));
        drop(limit);
        if let Ok(Err(error)) = outcome {
            let kind = error.downcast_ref::<Failure>().map_or("", |failure| failure.kind.as_str());
            let shown = format!("{error:#}");
            if unfinished {
                hold!(shown.contains("rollback"), "a rollback is unfinished, but: {shown}");
            } else if crash.is_none() {
                let is_conflicting = kind == "conflict" || kind == "in_doubt";
                hold!(is_conflicting, "a change failed: {shown}");
                hold!(!self.touched.is_empty(), "there was no edit by the operator, but: {shown}");
                hold!(!replace, "replacing was agreed to, but: {shown}");
            }
        } else if crash.is_none() {
            hold!(!unfinished, "a rollback is unfinished, but a change was made");
            let history = machine.history();
            hold!(history.pending.is_empty(), "pending after a run: {:?}", history.pending);
        }
        if !replace && is_known && unfinished {
            hold!(machine.marks() == marks, "a refused run changed something");
        }
        self.kept_or_backed_up(&marks)
    }

    /// Every mark of the operator's edits is where it was, or in the backups.
    fn kept_or_backed_up(&self, before: &BTreeSet<String>) -> Result<(), TestCaseError> {
        let after = self.machine.marks();
        for mark in before.difference(&after) {
            let is_link = self
                .machine
                .history()
                .changes
                .iter()
                .any(|change| change.intent.before.value().to_string().contains(mark.as_str()));
            hold!(is_link || self.machine.is_in_backups(mark), "{mark} is lost");
        }
        Ok(())
    }

    fn edit_as_the_operator(&mut self, place: usize, how: OperatorEdit) {
        let path = self.machine.path(PLACES[place]);
        if !path.parent().is_some_and(Path::is_dir) {
            return;
        }
        self.touched.insert(place);
        self.marks += 1;
        let mark = format!("theirs-{}", self.marks);
        let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let text = fs::read_to_string(&path).unwrap_or_default();
        match how {
            OperatorEdit::Append if is_file => fs::write(&path, format!("{text}{mark}=1\n")).unwrap(),
            OperatorEdit::Prepend if is_file => fs::write(&path, format!("{mark}=1\n{text}")).unwrap(),
            OperatorEdit::Delete if is_directory => {}
            OperatorEdit::Delete => drop(fs::remove_file(&path)),
            OperatorEdit::Mode if is_file => {
                fs::set_permissions(&path, PermissionsExt::from_mode(0o604)).unwrap();
            }
            OperatorEdit::Inside if is_directory => {
                fs::write(path.join(&mark), &mark).unwrap();
            }
            OperatorEdit::Link if !is_directory => {
                let _ = fs::remove_file(&path);
                symlink(&mark, &path).unwrap();
            }
            _ if is_directory => {}
            _ => {
                let _ = fs::remove_file(&path);
                fs::write(&path, format!("k0={mark}\n")).unwrap();
            }
        }
    }

    fn roll_back(
        &mut self,
        step: Option<u8>,
        force: bool,
        crash: Option<Crash>,
    ) -> Result<Option<Report>, TestCaseError> {
        let machine = self.machine;
        let steps = step.map(|step| vec![step.to_string().as_str().into()]);
        let request = Request { steps, purge: Vec::new(), force };
        let (before, marks) = (machine.snapshot(), machine.marks());
        let unfinished = machine.history().rollback.is_some();
        let is_doubtful = machine
            .history()
            .changes
            .iter()
            .any(|change| matches!(change.state, ChangeState::InDoubt | ChangeState::Undoing));
        let previewed = preview(&mut machine.dry_run(), &request, true);
        hold!(machine.snapshot() == before, "a preview changed something");
        let limit = machine.limit(crash);
        let applied = apply(&mut machine.session(), &request);
        drop(limit);
        let died = applied.is_err() && crash.is_some();
        if died && matches!(crash, Some(Crash::AtByteAndIntended(_))) {
            self.intend_the_next();
        }
        let report = match applied {
            Err(error) => {
                let shown = format!("{error:#}");
                if !died {
                    let is_refused = shown.contains("cannot undo ")
                        || shown.contains("unknown step or target")
                        || (unfinished && shown.contains("interrupted"));
                    hold!(is_refused, "a rollback failed: {shown}");
                    hold!(machine.snapshot() == before, "a refused rollback changed something");
                }
                None
            }
            Ok(report) => Some(report),
        };
        if let (Some(report), Ok(previewed)) = (&report, &previewed)
            && !unfinished
            && !is_doubtful
            // A conflict below newer changes is found only once those are undone.
            && self.touched.is_empty()
        {
            let ids = |rows: &[kkrun::rollback::Row]| -> BTreeSet<ChangeId> {
                rows.iter().map(|row| row.change).filter(|id| *id != 0).collect()
            };
            hold!(
                ids(&previewed.undone) == ids(&report.undone)
                    && ids(&previewed.kept) == ids(&report.kept)
                    && ids(&previewed.conflicts) == ids(&report.conflicts)
                    && ids(&previewed.failed) == ids(&report.failed),
                "previewed: {previewed:#?}\ndone: {report:#?}"
            );
        }
        if let Some(report) = &report {
            hold!(report.failed.is_empty(), "inverses failed: {:?}", report.failed);
            if self.touched.is_empty() {
                hold!(
                    report.conflicts.is_empty() && report.kept.is_empty(),
                    "there was no edit by the operator, but: {report:#?}"
                );
            }
        }
        if force {
            self.kept_or_backed_up(&marks)?;
        } else {
            let after = machine.marks();
            // A command's product is removed with the command, even if it was modified; a copy is kept.
            let has_products =
                self.machine.history().changes.iter().any(|change| change.intent.what == "command");
            let is_kept = |mark: &&String| !has_products || !self.machine.is_in_backups(mark);
            let lost: Vec<_> = marks.difference(&after).filter(is_kept).collect();
            hold!(lost.is_empty(), "{lost:?} is lost, and overwriting was not agreed to");
        }
        Ok(report)
    }

    /// Leaves the journal as a kill between the intent of an undo and the undo does.
    fn intend_the_next(&self) {
        let history = self.machine.history();
        if history.rollback.is_none() {
            return;
        }
        let Some(next) = history.changes.iter().rev().find(|change| change.is_live()) else { return };
        let loaded = journal::load(&self.machine.state()).unwrap();
        let mut journal = Journal::take_over(&self.machine.state(), &loaded, self.machine.writer()).unwrap();
        journal.append(Entry::UndoIntent { change: next.id }).unwrap();
    }

    fn finish(&mut self) -> Result<(), TestCaseError> {
        if let Some(unfinished) = self.machine.history().rollback
            && let Some(steps) = unfinished.steps
        {
            self.roll_back(steps[0].parse().ok(), false, None)?;
        }
        let Some(report) = self.roll_back(None, false, None)? else {
            return Err(TestCaseError::fail("the last rollback was refused"));
        };
        let now = self.machine.snapshot();
        if self.touched.is_empty() {
            hold!(now == self.first, "before:\n{:#?}\nafter:\n{now:#?}", self.first);
            let history = self.machine.history();
            hold!(history.changes.iter().all(|change| !change.is_live()), "something is live");
            hold!(history.pending.is_empty(), "pending: {:?}", history.pending);
        }
        let is_quiet = |place: &usize| {
            let at = PLACES[*place];
            !self
                .touched
                .iter()
                .any(|touched| at.starts_with(PLACES[*touched]) || PLACES[*touched].starts_with(at))
        };
        for place in (0..PLACES.len()).filter(is_quiet) {
            let at = PLACES[place];
            hold!(now.get(at) == self.first.get(at), "{at}: {:?} → {:?}", self.first.get(at), now.get(at));
        }
        let Some(again) = self.roll_back(None, false, None)? else {
            return Err(TestCaseError::fail("a second rollback was refused"));
        };
        hold!(again.undone.is_empty(), "undone twice: {:?}", again.undone);
        hold!(self.machine.snapshot() == now, "a second rollback changed something");
        if !report.conflicts.is_empty() {
            let forced = self.roll_back(None, true, None)?;
            let forced = forced.unwrap_or_default();
            let kept: BTreeSet<ChangeId> = forced.kept.iter().map(|row| row.change).collect();
            hold!(forced.conflicts.is_empty() || !kept.is_empty(), "forced, but: {:?}", forced.conflicts);
        }
        Ok(())
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Desired::Write),
        4 => (0..2_u8, 0..3_u8).prop_map(|(key, value)| Desired::Line(key, value)),
        1 => (0..2_u8).prop_map(Desired::Commented),
        1 => (0..2_u8).prop_map(Desired::WithoutLine),
        2 => (0..3_u8).prop_map(Desired::Block),
        1 => Just(Desired::WithoutBlock),
        2 => (0..2_u8).prop_map(Desired::Link),
        2 => Just(Desired::Directory),
        3 => Just(Desired::Absent),
        2 => (0..4_u8).prop_map(Desired::Mode),
        1 => (0..4_u8).prop_map(Desired::Mirror),
        1 => (0..4_u8).prop_map(Desired::Copy),
        1 => (0..2_u8).prop_map(Desired::Product),
    ]
}

fn crash() -> impl Strategy<Value = Option<Crash>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Crash::BeforeActing)),
        2 => (0..3000_u16).prop_map(|bytes| Some(Crash::AtByte(bytes))),
        1 => (0..2000_u16).prop_map(|bytes| Some(Crash::AtByteAndIntended(bytes))),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let change =
        (1..4_u8, 0..PLACES.len(), desired(), prop::bool::weighted(0.1), crash(), prop::bool::weighted(0.2));
    let change = change.prop_map(|(step, place, desired, triggers, crash, replace)| Deed::Change {
        step,
        place,
        desired,
        triggers,
        crash,
        replace,
    });
    let edit = prop::sample::select(vec![
        OperatorEdit::Append,
        OperatorEdit::Prepend,
        OperatorEdit::Rewrite,
        OperatorEdit::Delete,
        OperatorEdit::Link,
        OperatorEdit::Mode,
        OperatorEdit::Inside,
    ]);
    let edit = (0..PLACES.len(), edit).prop_map(|(place, how)| Deed::OperatorEdit { place, how });
    let rollback = (prop::option::weighted(0.7, 1..4_u8), prop::bool::weighted(0.2), crash());
    let rollback = rollback.prop_map(|(step, force, crash)| Deed::Rollback { step, force, crash });
    prop_oneof![8 => change, 2 => edit, 2 => rollback]
}

/// A history with edits by the operator, or one without.
fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    (any::<bool>(), prop::collection::vec(deed(), 1..12)).prop_map(|(is_alone, mut deeds)| {
        if is_alone {
            deeds.retain(|deed| !matches!(deed, Deed::OperatorEdit { .. }));
        }
        deeds
    })
}

#[test]
fn random_histories_lose_nothing_and_roll_back_to_the_first_state() {
    // With a handler, a write over the limit is an error and does not end this process.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default()).unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    // With the default number the histories are always the same: a failure can be repeated.
    let rng_seed = if cases == CASES { RngSeed::Fixed(7) } else { RngSeed::Random };
    let failure_persistence = None;
    let config = Config { cases, failure_persistence, max_shrink_iters: 4000, rng_seed, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&(0..8_u8, deeds()), |(start, deeds)| {
        let machine = Machine::new(start);
        let first = machine.snapshot();
        let handled = machine.directory.path().join("handled");
        let mut model = Model { machine: &machine, first, marks: 0, touched: BTreeSet::new(), handled };
        for deed in &deeds {
            model.run(deed)?;
        }
        model.finish()
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => panic!("{why}\n{history:?}"),
        Err(error) => panic!("{error}"),
    }
}
