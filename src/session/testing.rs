//! What the tests of this layer and of the rollback share: runs that write files in a directory of their own.

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::Result;

use super::{ConflictPolicy, Opening, Session};
use crate::change::testing::world;
use crate::change::{
    Attempts, Change, CommandChange, CommandInverse, CommandSource, DesiredFile, FileChange, Found, Payload,
};
use crate::journal::{self, ChangeState, Class, Entry, History, Writer};
use crate::machine::files::{Attributes, PathText};
use crate::machine::process::Command;
use crate::target::States;

/// A state directory, and a directory that its runs change.
pub(crate) struct Ground {
    directory: tempfile::TempDir,
    runs: Cell<u32>,
    boots: Cell<u32>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        Self { directory, runs: Cell::default(), boots: Cell::default() }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("state")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn history(&self) -> History {
        journal::load(&self.state()).unwrap().history
    }

    /// The states of all changes, in their order.
    pub(crate) fn states(&self) -> Vec<ChangeState> {
        self.history().changes.iter().map(|change| change.state.clone()).collect()
    }

    /// The machine restarts.
    pub(crate) fn restart(&self) {
        self.boots.set(self.boots.get() + 1);
    }

    /// A new run of the plan `plan`, which takes the lock with its first record.
    pub(crate) fn run(&self) -> Session {
        self.runs.set(self.runs.get() + 1);
        let mut loaded = journal::load(&self.state()).unwrap();
        let history = std::mem::take(&mut loaded.history);
        let boot = format!("boot {}", self.boots.get());
        let writer = Writer { run: self.runs.get().to_string(), boot, plan: "plan".into() };
        let entries = vec![Entry::RunStarted { script: "plan".into(), root: "plan".into(), pid: 1 }];
        let opening = Opening { directory: self.state(), writer, entries, loaded };
        Session::acting(world(&self.state()), history, "plan", opening)
    }

    /// The same with an answer to conflicts.
    pub(crate) fn run_with(&self, on_conflict: ConflictPolicy) -> Session {
        let mut session = self.run();
        session.on_conflict = on_conflict;
        session
    }

    pub(crate) fn dry_run(&self) -> Session {
        Session::new(world(&self.state()), self.history(), "plan")
    }

    fn writing(&self, name: &str, text: &'static str) -> (Change, DesiredFile<'static>) {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let attributes = Attributes::new(0o644, owner.0, owner.1);
        let desired = DesiredFile::File { bytes: text.as_bytes(), attributes };
        let found = Found::at(&self.path(name)).unwrap();
        (Change::File(FileChange::towards(found, &desired).unwrap()), desired)
    }

    /// Writes a file in a step.
    pub(crate) fn write(&self, session: &mut Session, step: &str, name: &str, text: &'static str) {
        session.enter_step(Some(step));
        let (change, desired) = self.writing(name, text);
        assert!(session.perform(&change, Payload::File(&desired)).unwrap());
    }

    /// A run that is killed between the intent to write a file and doing so.
    pub(crate) fn killed_before_writing(&self, name: &str, text: &'static str) {
        let mut session = self.run();
        session.intend(&self.writing(name, text).0, None).unwrap().unwrap();
    }

    /// A run that is killed once it has recorded that it wrote a file, with the rest of it on the disk or not.
    pub(crate) fn killed_after_writing(&self, name: &str, text: &'static str, unsynced: bool) {
        let mut session = self.run();
        let change = session.intend(&self.writing(name, text).0, None).unwrap().unwrap();
        self.put(name, text);
        session.record(Entry::Done { change, recorded: States::new(), unsynced }).unwrap();
    }

    fn making(&self, session: &Session, name: &str) -> (Change, Attempts) {
        let built = self.path("built");
        let script = format!("mkdir -p built && echo {name} > built/{name}");
        let command =
            Command { cwd: built.parent().map(Into::into), ..Command::new(["bash", "-c", &script]) };
        let inverse = CommandInverse {
            label: script,
            product: Some(PathText::new(&built)),
            changes: None,
            commands: Vec::new(),
            probe: None,
            class: Class::Safe,
        };
        let (source, record) = (CommandSource::default(), session.product_record(&inverse));
        let change = CommandChange::about_to_run(&session.world, inverse, source, &record).unwrap();
        (Change::Command(change), Attempts::once(command))
    }

    /// Runs a command that makes a file of this name and content in the product `built`.
    pub(crate) fn make(&self, session: &mut Session, name: &str) -> Result<bool> {
        let (change, mut attempts) = self.making(session, name);
        session.perform(&change, Payload::Command(&mut attempts))
    }

    /// The same, killed before the command has ended.
    pub(crate) fn begin_to_make(&self, session: &mut Session, name: &str) {
        let (change, _) = self.making(session, name);
        session.intend(&change, None).unwrap().unwrap();
    }
}
