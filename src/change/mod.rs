//! What can be done to a machine and undone again: one kind of change in each file, with its target, its states
//! before and after, how it is probed and how it is undone.
//!
//! A change is plain data. Once its intent is in the journal it can be probed and undone from there alone,
//! by any later kkrun, without the script that wanted it.

mod access;
mod account;
mod apt;
mod aside;
mod attempts;
mod captured;
mod command;
mod database;
mod debconf;
mod edit;
mod file;
mod group;
pub mod handler;
mod hold;
mod installed;
mod linger;
pub mod login_password;
mod package_versions;
pub mod packages;
mod postgres;
mod predicted;
mod reliance;
mod role;
mod statement;
#[cfg(test)]
pub(crate) mod testing;
mod touched;
mod tree;
pub mod unit;
mod user;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use access::{AccessChange, AccessInverse, AccessState};
pub use apt::{LIST_AGE, LOCK_TIMEOUT, TIMEOUT as PACKAGES_TIMEOUT};
pub use aside::things_set_aside;
pub use attempts::Attempts;
pub use captured::{CapturedChange, CapturedState, Left};
pub use command::{
    CommandChange, CommandInverse, CommandSource, CommandState, PlainCommand, Probe, ProductRecord,
};
pub use database::{DatabaseChange, DesiredDatabase};
pub use debconf::{DebconfChange, DesiredAnswer};
pub use edit::{
    Asked, Beside, DesiredEntry, DesiredLine, EditChange, EditTerms, EntryKind, FileEntry, FileRecord,
    Format, Lines, Made, TogetherTerms, document_tree, entry_target, in_one_form, is_document,
    matching_lines, plain_value, recognise, refuse_without_effect, section_name,
};
pub use file::{DesiredFile, FileChange, Found};
pub use group::{DesiredGroup, GroupChange};
pub use hold::{HoldChange, is_held};
pub use linger::LingerChange;
pub use package_versions::{DesiredVersion, DesiredVersions, PackageArchive, PackageVersionsChange};
pub use packages::{DesiredPackages, PackagesChange};
pub use postgres::Login;
pub use predicted::{Predicted, PredictedPath};
pub use role::{DesiredRole, RoleChange};
pub use statement::{Statement, StatementChange, StatementInverse, label_of, query_holds, recordable};
pub use tree::{TreeChange, TreeInverse, TreeState, read_recorded_tree, record_tree};
pub use unit::{DesiredUnit, Unit, UnitChange, UnitFacts, stay_active, succeeded, verify_file};
pub use user::{DesiredUser, UserChange, UserFacts, UserState, password_of};

use crate::event::{CommandOutcome, Counted, Event, Modification, Reporter};
use crate::journal::{ChangeId, Class, Intent, Undoing};
use crate::machine::account::{Account, Group};
use crate::machine::backups::Backups;
use crate::machine::capture::{Capture, Removal};
use crate::machine::files::{self, Digest, Manifest, OpenFile};
use crate::machine::mount;
use crate::machine::process::{Command, Ended, Processes, Status, Stream, orphans};
use crate::machine::signal;
use crate::target::{States, Target};
use crate::text::one_line;

/// How long a package manager that a killed run left is given to finish: ended in the middle, it leaves the
/// packages half configured.
const LONGEST_WAIT: Duration = Duration::from_secs(1800);

/// What changes are made with.
pub struct World {
    /// Runs commands.
    pub processes: Processes,
    /// Reports what happens.
    pub reporter: Rc<Reporter>,
    /// What a previewed rollback would have removed by now, as [`Kind::removed_by_undo`] names it.
    pub assumed_gone: RefCell<BTreeSet<PathBuf>>,
    /// The paths at which it would have restored by now what was there before.
    pub assumed_back: RefCell<BTreeSet<PathBuf>>,
    /// What a dry run predicted so far.
    pub predicted: RefCell<Predicted>,
    /// What is being compared was recorded as holding a secret: its content is not shown, for the value may not be known
    /// any more.
    pub content_is_secret: Cell<bool>,
    state: PathBuf,
    backups: OnceCell<Backups>,
    /// What commands wrote may be unsynced.
    wrote: Cell<bool>,
    /// What was found done may be unsynced: a run that was killed, or an act that failed, may have left it.
    found: Cell<bool>,
    /// The view of the captured command before, on its way.
    removal: Removal,
}

impl World {
    /// A world whose backups are in the state directory `state`.
    pub fn new(processes: Processes, state: &Path, reporter: Rc<Reporter>) -> Self {
        let (assumed_gone, assumed_back, backups) = (RefCell::default(), RefCell::default(), OnceCell::new());
        let (state, wrote, found) = (state.to_owned(), Cell::new(false), Cell::new(false));
        let (predicted, content_is_secret) = (RefCell::default(), Cell::default());
        Self {
            processes,
            reporter,
            assumed_gone,
            assumed_back,
            predicted,
            content_is_secret,
            state,
            backups,
            wrote,
            found,
            removal: Removal::default(),
        }
    }

    /// The contents from before; their directory is made when the first is asked for.
    pub fn backups(&self) -> Result<&Backups> {
        if let Some(backups) = self.backups.get() {
            return Ok(backups);
        }
        let opened = Backups::open(&self.state.join("backups"))?;
        Ok(self.backups.get_or_init(|| opened))
    }

    /// Removes what held a captured command, beside the run.
    pub fn remove(&self, capture: Capture) {
        self.removal.begin(capture);
    }

    /// The state directory.
    pub fn state_directory(&self) -> &Path {
        &self.state
    }

    /// From now on, what is found may be unsynced.
    pub fn doubt_durability(&self) {
        self.found.set(true);
    }

    /// Makes durable what commands wrote, and what was found, wherever that is, before it is recorded as done.
    pub fn make_durable(&self) {
        if self.wrote.replace(false) | self.found.replace(false) {
            files::sync_all();
        }
    }

    /// Runs a command and reports its output, line by line.
    pub fn run(&self, command: &Command, label: &str) -> Result<Ended> {
        self.run_with_progress(command, label, &mut |_, _| None)
    }

    /// The same for a command of which `words` knows, by a line of it, what it does now, in words.
    pub fn run_with_progress(
        &self,
        command: &Command,
        label: &str,
        words: &mut dyn FnMut(Stream, &str) -> Option<String>,
    ) -> Result<Ended> {
        // What a captured command writes is nowhere until it is applied.
        if command.mounts.is_none() {
            self.wrote.set(true);
        }
        self.reporter.emit(&Event::CommandStarted { label: label.to_owned() });
        let ended = self.processes.run(command, &mut |stream, line| {
            let text = crate::text::printable_but_returns(line);
            let doing = words(stream, line);
            match stream {
                Stream::Progress => {}
                Stream::Report => self.reporter.note(text),
                Stream::Stopping { finishes } => {
                    self.reporter.emit(&Event::Stopping { command: label.to_owned(), finishes });
                }
                stream => self.reporter.emit(&Event::CommandLine { error: stream == Stream::Err, text }),
            }
            if let Some(text) = doing {
                self.reporter.emit(&Event::CommandProgress { text });
            }
        })?;
        let (status, seconds) = (outcome_of(ended.status), ended.seconds);
        self.reporter.emit(&Event::CommandEnded { label: label.to_owned(), status, seconds });
        self.not_interrupted(ended)
    }

    /// Ends or awaits what a killed run left running, so that nothing runs beside it.
    pub fn end_orphans(&self) -> Result<()> {
        let orphans = orphans(self.processes.child_records_directory())?;
        for orphan in orphans {
            let named =
                format!("`{}` (process {}), which a killed run left running", orphan.name, orphan.pid);
            if orphan.is_better_awaited() {
                self.reporter.note(format!("waiting for {named}"));
                if orphan.wait(Instant::now() + LONGEST_WAIT)? {
                    continue;
                }
            }
            self.reporter.note(format!("ending {named}"));
            orphan.end(Duration::from_secs(5))?;
        }
        Ok(())
    }

    /// Runs a command that changes nothing: nothing is reported of it.
    pub fn look(&self, command: &Command) -> Result<Ended> {
        let ended = self.processes.run(command, &mut |_, _| {})?;
        self.not_interrupted(ended)
    }

    fn not_interrupted(&self, ended: Ended) -> Result<Ended> {
        if matches!(ended.status, Status::Interrupted { .. }) {
            self.processes.check_interruption()?;
        }
        Ok(ended)
    }
}

/// How a command ended, as it is reported.
fn outcome_of(status: Status) -> CommandOutcome {
    match status {
        Status::Code(code) => CommandOutcome::Exited { code },
        Status::Signal(signal) => CommandOutcome::Signalled { signal: signal::name(signal) },
        Status::TimedOut => CommandOutcome::TimedOut,
        Status::Interrupted { signal } => CommandOutcome::Interrupted { signal: signal::name(signal) },
    }
}

/// The state of a target, compared with one change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// As before the change.
    Before,
    /// As after it.
    After,
    /// On the way from one to the other, as a change or its undoing leaves it that was stopped half-way: every part is
    /// as before or as after.
    Between,
    /// Neither; with what differs from after, for messages.
    Neither(String),
}

/// What is done when a run finds a target neither as before nor as after a change whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDoubt {
    /// It cannot be half done, so the target was modified outside kkrun: stop and ask.
    Stop,
    /// It may be half done: act again, under the same change and its first before-state.
    ActAgain,
}

/// Data that an undo removes.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The class that has to be named to agree.
    pub class: Class,
    /// What would be lost, as the end of the question "Remove …?".
    pub what: String,
}

/// What an undo may take for granted.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a circumstance of its own")]
pub struct UndoTerms<'a> {
    /// The recorded state of the target: what kkrun last left there, or was told to keep.
    pub recorded: Option<&'a Value>,
    /// For a change of a part: the recorded state of the whole.
    pub recorded_file: Option<&'a Value>,
    /// For an entry: what was made around it for others that were undone meanwhile, and stayed for its sake.
    pub made: Made,
    /// Restore the before-state even over a conflict.
    pub force: bool,
    /// Change nothing, report what would be done.
    pub dry_run: bool,
    /// The change was seen made: what it left is whole.
    pub was_made: bool,
    /// It was begun before, and killed or failed: some of it may be undone.
    pub begun: bool,
    /// It was begun before and failed: not all of its commands have ended well.
    pub failed: bool,
    /// How many of its commands have ended well before.
    pub commands_ended: usize,
    /// `recorded` was recorded after this change's intent.
    pub recorded_since: bool,
    /// What would be lost was agreed to.
    pub agreed: bool,
}

/// A change to an entry of the same file that was undone by itself.
#[derive(Clone, Debug)]
pub struct UndoneEntry {
    /// The record of its intent.
    pub made: ChangeId,
    /// The record that says that it is undone.
    pub undone: u64,
    /// The change.
    pub change: Change,
}

/// How an undo ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Undone {
    /// One of its commands ended well and others are left; with what is recorded from now on.
    InProgress(States),
    /// The target is as before, as far as this change goes; with what is recorded from now on.
    Back(Undoing, States),
    /// The target was modified outside kkrun; with the difference.
    Conflict(String),
    /// It stays, for this reason.
    Kept(String),
}

/// What [`Kind::act`] takes besides the change.
pub enum Payload<'a> {
    /// Nothing: the change says it all.
    Nothing,
    /// The desired state of a path, with its content.
    File(&'a DesiredFile<'a>),
    /// The entries of a tree with the times that new ones get, and what opens the content of each by its path from the
    /// root.
    Tree(&'a Manifest, &'a mut OpenFile<'a>),
    /// The command to run.
    Command(&'a mut Attempts),
    /// The statement to run.
    Statement(&'a Statement),
}

impl<'a> Payload<'a> {
    /// What a change to a path takes.
    fn file(self) -> Result<&'a DesiredFile<'a>> {
        let Self::File(desired) = self else { return Err(missing()) };
        Ok(desired)
    }
}

/// The error of an act that was not given what it takes.
fn missing() -> anyhow::Error {
    anyhow::anyhow!("internal error: a change was made without what it takes, which is not in the journal")
}

/// What every kind of change answers.
pub trait Kind {
    /// What is changed.
    fn target(&self) -> Target;

    /// The target of the whole that it changes a part of, if that is a target of its own.
    fn whole(&self) -> Option<Target> {
        None
    }

    /// Whether owner and mode alone are changed: what is there stays, with what is in it.
    fn keeps_content(&self) -> bool {
        false
    }

    /// Whether it writes a secret to its target.
    fn holds_secret(&self) -> bool {
        false
    }

    /// Other targets that have to exist for it, such as the role that a database belongs to.
    ///
    /// # Errors
    /// When the accounts cannot be looked up: what is needed and not known would be undone first.
    fn needs(&self) -> Result<Vec<Target>> {
        Ok(Vec::new())
    }

    /// The backups that undoing it restores from or compares with, as far as it cannot do without them; `recorded` as for
    /// [`Kind::loss`].
    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        Vec::new()
    }

    /// The unit that has to run while it is undone.
    fn undone_by(&self) -> Result<Option<Unit>> {
        Ok(None)
    }

    /// Those of these targets of later changes that rely on it, as far as only the machine tells that.
    ///
    /// # Errors
    /// When it cannot be determined.
    fn relied_on<'t>(&self, _later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        Ok(Vec::new())
    }

    /// Whether it changed what is at this path, which is no target of its own.
    fn reaches(&self, _path: &Path, _world: &World) -> bool {
        false
    }

    /// The paths that it changed, where these are no targets of their own and not all below one that is.
    fn touches(&self, _world: &World) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What is gone once it is undone: absolute paths, a database as `base/OID`, a user as `user/NAME` and a user in a group
    /// as `group/NAME/USER`. Previews use it.
    fn removed_by_undo(&self, _world: &World) -> Vec<PathBuf> {
        Vec::new()
    }

    /// One line for messages: what is done to what.
    fn summary(&self) -> String;

    /// What it changes in its target, line by line: a unified diff of a short text that everyone may read, names and
    /// sizes of other files. None where the summary says it all.
    fn difference(&self, _world: &World) -> Option<String> {
        None
    }

    /// What it changed in its target, as far as the contents from before and after are kept.
    fn recorded_difference(&self, _world: &World) -> Option<String> {
        None
    }

    /// How what it changes is counted.
    fn counted(&self) -> Counted {
        self.target().counted()
    }

    /// Notes what a run would find once it is made.
    fn predict(&self, _world: &World, _predicted: &mut Predicted) {}

    /// What undoing it now would do, where the summary does not show it; `recorded` as for [`Kind::loss`].
    fn undo_takes(&self, _world: &World, _recorded: Option<&Value>) -> Option<String> {
        None
    }

    /// The states that are recorded after its act has failed: what a later attempt has to know.
    fn left_by_failure(&self, _world: &World) -> Result<States> {
        Ok(States::new())
    }

    /// Clears what an earlier attempt left, before the next one; `recorded` as for [`Kind::loss`]. Gives the recorded
    /// state from then on, if something was cleared.
    fn clear_attempt(&self, _world: &World, _recorded: Option<&Value>) -> Result<Option<Value>> {
        Ok(None)
    }

    /// What undoing it costs.
    fn class(&self) -> Class {
        Class::Safe
    }

    /// Whether nothing depends on its record: nothing of it can be undone, and making it again is safe.
    fn may_be_lost(&self) -> bool {
        false
    }

    /// Whether its act, and its undoing, sync all that they do before they return, and its position tells exactly whether
    /// they did: then neither outcome needs a record that is synced.
    fn is_found_again(&self) -> bool {
        false
    }

    /// Whether it is made again after a restart of the machine, unless all that it made was synced by then: at the end of
    /// the step or of the run. Its record promises nothing before that.
    fn is_made_again(&self) -> bool {
        false
    }

    /// Whether its command is run again where a killed run left it half made and the operator keeps what is there: on that.
    fn is_run_again(&self) -> bool {
        false
    }

    /// What is done when it may be half done.
    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::Stop
    }

    /// Makes durable what undoing will need, and clears what an earlier attempt left; before the intent.
    fn prepare(&self, _world: &World) -> Result<()> {
        Ok(())
    }

    /// Why the state that was found is a conflict, given the recorded one; `None` if kkrun may overwrite it. By default
    /// nothing is: what is volatile, such as a unit that stopped, is no one's decision.
    fn conflict(&self, _recorded: &Value, _world: &World) -> Option<Modification> {
        None
    }

    /// Whether it brings back what is recorded of its target.
    fn restores(&self, _recorded: &Value) -> bool {
        false
    }

    /// Completes or clears what an act or an undo left that was stopped half-way: a target that is as desired by now is
    /// not probed again, so leftovers beside it would stay.
    fn repair(&self, _world: &World) -> Result<()> {
        Ok(())
    }

    /// Undoes what an act did that failed or was killed, and completes an undo that failed, for a kind that is made at once
    /// or not at all. Gives the paths that stay because they were modified outside kkrun since, with what differs. Doing so
    /// twice is the same as once.
    ///
    /// # Errors
    /// When something cannot be restored: the target is then on the way, and stays in doubt.
    fn withdraw(&self, _world: &World) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Makes the change: brings the target to the desired state. Only [`Session::perform`](crate::session::Session::perform) calls
    /// it, after the intent is recorded.
    ///
    /// # Errors
    /// When it fails, having done some of it or nothing; and for a change that was read from the journal, where that
    /// does not hold what the act takes.
    fn act(&self, world: &World, payload: Payload<'_>) -> Result<()>;

    /// Probes the target.
    fn position(&self, world: &World) -> Result<Position>;

    /// Observes the target after acting: the states that are recorded from now on, by target.
    ///
    /// # Errors
    /// When the target is not as desired.
    fn recorded(&self, world: &World) -> Result<States>;

    /// What was made for these other entries of its file and stayed for its sake, so that it goes with it; `id` is the
    /// record of its own intent.
    fn stayed_for(&self, _id: ChangeId, _undone: Vec<UndoneEntry>) -> Made {
        Made::default()
    }

    /// What would be lost by undoing it now; observed, not remembered. `recorded` is the recorded state of the target,
    /// if that is from after this change's intent.
    fn loss(&self, _world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        Ok(self.class().purge_word().map(|_| Loss { class: self.class(), what: self.summary() }))
    }

    /// Restores the before-state. Doing so twice is the same as once.
    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone>;
}

/// A change of any kind.
///
/// In the journal every kind is the three fields `before`, `after` and `inverse` under its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    /// Owner and mode of entries of a tree.
    Access(AccessChange),
    /// What a captured command changed.
    Captured(CapturedChange),
    /// A command that was run.
    Command(CommandChange),
    /// A line or block of a text file.
    Edit(EditChange),
    /// A file, link or directory.
    File(FileChange),
    /// A database.
    Database(DatabaseChange),
    /// A database role.
    Role(RoleChange),
    /// A statement that was run in a database.
    Statement(StatementChange),
    /// A tree of them.
    Tree(TreeChange),
    /// A group.
    Group(GroupChange),
    /// Whether a user's services run without a login.
    Linger(LingerChange),
    /// The answer to a question of a package.
    Debconf(DebconfChange),
    /// Whether a package stays in its version.
    Hold(HoldChange),
    /// Versions of packages.
    PackageVersions(PackageVersionsChange),
    /// Packages of the distribution.
    Packages(PackagesChange),
    /// A user.
    User(UserChange),
    /// Whether a unit starts by itself, or runs.
    Unit(UnitChange),
}

impl Change {
    /// The kind behind it.
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Access(change) => change,
            Self::Captured(change) => change,
            Self::Command(change) => change,
            Self::Edit(change) => change,
            Self::File(change) => change,
            Self::Database(change) => change,
            Self::Role(change) => change,
            Self::Statement(change) => change,
            Self::Tree(change) => change,
            Self::Group(change) => change,
            Self::Linger(change) => change,
            Self::Debconf(change) => change,
            Self::Hold(change) => change,
            Self::PackageVersions(change) => change,
            Self::Packages(change) => change,
            Self::User(change) => change,
            Self::Unit(change) => change,
        }
    }

    /// The intent to make it.
    pub fn intent(&self) -> Result<Intent> {
        let mut fields = match serde_json::to_value(self).context("cannot write a change as JSON")? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Null);
        let intent = Intent {
            step: None,
            target: self.kind().target(),
            keeps_content: self.kind().keeps_content(),
            holds_secret: self.kind().holds_secret(),
            needs: self.kind().needs()?,
            whole: self.kind().whole().filter(|whole| !whole.overlaps(&self.kind().target())),
            held_by: self.kind().target().path().map(mount::holding).transpose()?.flatten(),
            class: self.kind().class(),
            loses: None,
            summary: one_line(&self.kind().summary()).into_owned(),
            pending: Vec::new(),
            what: take("what").as_str().unwrap_or_default().to_owned(),
            before: take("before").into(),
            after: take("after").into(),
            inverse: take("inverse").into(),
        };
        debug_assert!(fields.is_empty(), "a change is before, after and inverse, not {fields:?}");
        Ok(intent)
    }

    /// The change that this intent recorded.
    pub fn of_intent(intent: &Intent) -> Result<Self> {
        let mut fields = Map::new();
        fields.insert("what".to_owned(), Value::from(intent.what.as_str()));
        fields.insert("before".to_owned(), intent.before.value());
        fields.insert("after".to_owned(), intent.after.value());
        fields.insert("inverse".to_owned(), intent.inverse.value());
        serde_json::from_value(Value::Object(fields)).with_context(|| {
            format!("cannot read the recorded change of {}: this kkrun does not know its form", intent.target)
        })
    }
}

/// The name under which a file is prepared beside its target: the same for every attempt at one path, so that
/// each finds what the one before left.
fn tag(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    format!("{:08x}", crate::checksum::crc_32c(path.as_os_str().as_bytes()))
}

/// The users and groups with these numbers, root's left out: what belongs to them depends on them.
fn accounts_of(owners: impl IntoIterator<Item = (u32, u32)>) -> Result<Vec<Target>> {
    let (users, groups): (BTreeSet<u32>, BTreeSet<u32>) = owners.into_iter().unzip();
    // A number without an account is no one's to lose.
    let user = |uid| Ok(Account::by_uid(uid)?.map(|user| Target::User(user.name)));
    let group = |gid| Ok(Group::by_gid(gid)?.map(|group| Target::Group(group.name)));
    let users = users.into_iter().filter(|uid| *uid != 0).map(user);
    let groups = groups.into_iter().filter(|gid| *gid != 0).map(group);
    users.chain(groups).filter_map(Result::transpose).collect()
}

/// Whether what is at a path vanishes by itself: at a restart of the machine, or by age.
fn is_volatile(path: &Path) -> bool {
    ["/run", "/tmp", "/var/tmp", "/dev/shm"].iter().any(|root| path.starts_with(root))
}

/// The unified diff of two texts.
fn unified_diff(old: &str, new: &str, header: Option<(&str, &str)>) -> String {
    let difference = similar::TextDiff::from_lines(old, new);
    let mut unified = difference.unified_diff();
    if let Some((old, new)) = header {
        unified.header(old, new);
    }
    unified.to_string()
}

/// What is shown instead of a content that holds a secret.
const NOT_SHOWN: &str = "(not shown: it may hold a secret)";

/// How many differing entries of a tree are shown.
const MOST_SHOWN: usize = 40;

/// The first of these lines, and how many more there are.
fn shortened(mut lines: Vec<String>) -> String {
    let left = lines.len().saturating_sub(MOST_SHOWN);
    if left > 0 {
        lines.truncate(MOST_SHOWN);
        lines.push(format!("… and {left} more"));
    }
    lines.join("\n")
}

/// Turns a state into the JSON that the journal and the ledger hold.
pub fn state_value(state: &impl Serialize) -> Value {
    serde_json::to_value(state).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_wrote_may_be_lost_until_it_is_made_durable() {
        let state = tempfile::tempdir().unwrap();
        let world = testing::world(state.path());
        world.look(&Command::new(["true"])).unwrap();
        assert!(!world.wrote.get());
        world.run(&Command::new(["true"]), "true").unwrap();
        assert!(world.wrote.get());
        world.make_durable();
        assert!(!world.wrote.get());
    }
}
