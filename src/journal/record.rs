//! What one line of the journal says.
//!
//! Everything here is a promise to every later kkrun: fields are added, never renamed or given another
//! meaning. A reader ignores fields that it does not know; a kind that it does not know stops it, unless
//! the writer marked that record `skippable`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plain::PlainData;
use crate::machine::mount::Holding;
use crate::target::{Footprint, States, Target, states_as_list};

/// The identity of a change: the sequence number of its intent.
pub type ChangeId = u64;

/// The format's version. A newer major version is refused, a newer minor one is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FormatVersion {
    /// Raised when an older kkrun would misread the journal.
    pub major: u32,
    /// Raised when something is added that an older kkrun can ignore.
    pub minor: u32,
}

impl FormatVersion {
    /// What this kkrun writes.
    pub const CURRENT: Self = Self { major: 2, minor: 1 };
}

/// What precedes every entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// One-based, without gaps.
    pub seq: u64,
    /// The checksum of the line before, as its eight hexadecimal digits; zeros for the first.
    pub prev: String,
    /// The run that wrote it.
    pub run: String,
    /// The kernel's boot identity, so that a later reader knows whether the machine restarted.
    pub boot: String,
    /// When.
    pub time: Timestamp,
    /// The plan it belongs to.
    pub plan: String,
    /// How many records before it were not synced when it was written: a power failure may lose those and leave it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unsynced: u64,
    /// Readers that do not know the kind may pass over this record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skippable: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A header and what it heads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Who wrote it, when.
    pub header: Header,
    /// What it says.
    pub entry: Entry,
}

/// What undoing a change costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Undone without asking.
    Safe,
    /// A user account.
    Users,
    /// A directory that gained content of its own.
    Homes,
    /// A database or a role with data.
    Databases,
    /// Packages of the distribution.
    Packages,
    /// Something else whose loss was named by the script.
    Data,
    /// Cannot be undone.
    Irreversible,
}

impl Class {
    /// Its name for `--purge`; `None` if it needs no permission or none helps.
    pub fn purge_word(self) -> Option<&'static str> {
        match self {
            Self::Safe | Self::Irreversible => None,
            Self::Users => Some("users"),
            Self::Homes => Some("homes"),
            Self::Databases => Some("databases"),
            Self::Packages => Some("packages"),
            Self::Data => Some("data"),
        }
    }
}

/// Commands that a change triggers: they run once, after the last of the changes that trigger them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Handler {
    /// Must succeed before anything is run; empty for none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Run in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<Vec<String>>,
    /// Units that are restarted if they are loaded and active, after the service manager has reloaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<String>,
    /// The user whose service manager and commands are meant; none for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Why a pending handler is pending no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settling {
    /// It ran to its end.
    #[default]
    Ran,
    /// What triggered it was undone, and there was nothing to run: it stays pending for changes that are not undone.
    Undone,
    /// What its step has in its place now was triggered instead.
    Replaced,
    /// The operator dropped it: what triggered it triggers it no more, not by being undone either.
    Dropped,
}

/// What a step meant when it completed, part by part, so that a difference can be named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// A hash over the tokens of the step and of every function it reaches.
    pub code: String,
    /// A short hash over the tokens of each function of a module that it reaches, so that the one that changed can be named.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<String, String>,
    /// The scripts and modules that it consists of, besides the plan's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<String>,
    /// A hash over the bytes of all of them. While it is the same, the code means the same and passes the check.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bytes: String,
    /// The settings it names, with their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// The secrets it asked for, each with a keyed hash.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The plan's files that it read, each with its hash.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// The variables of kkrun's environment that it read, each with a keyed hash. With others it means the same, but may
    /// ask for something else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// A plan that does nothing but run its steps. While its text is the same, it need not be read to know them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarePlan {
    /// A hash over the bytes of its script.
    pub bytes: String,
    /// The ids of its steps, in order.
    pub steps: Vec<String>,
}

/// The intent to change one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The step that needs it; none for a script without steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What it is about.
    pub target: Target,
    /// Owner and mode alone are changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_content: bool,
    /// A secret is written to the target: its content is not shown from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_secret: bool,
    /// Other targets that have to exist for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Target>,
    /// The whole that it changes a part of, if its state is recorded with that of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Target>,
    /// The file system that held it, if not the one at the root: without it nothing can be said of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<Holding>,
    /// What undoing it costs.
    pub class: Class,
    /// What is lost by undoing it, or why it cannot be undone, in the script's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loses: Option<String>,
    /// One line for people.
    pub summary: String,
    /// What becomes necessary by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Handler>,
    /// The kind of change.
    pub what: String,
    /// The target's state before, as the kind describes it.
    pub before: PlainData,
    /// The target's state after.
    pub after: PlainData,
    /// What the kind needs to bring the before-state back: plain data, no script.
    pub inverse: PlainData,
}

#[cfg(test)]
impl Intent {
    /// A change to this target of which nothing else matters.
    pub(super) fn about(target: Target) -> Self {
        Self {
            step: None,
            target,
            keeps_content: false,
            holds_secret: false,
            needs: Vec::new(),
            whole: None,
            held_by: None,
            class: Class::Safe,
            loses: None,
            summary: String::new(),
            pending: Vec::new(),
            what: String::new(),
            before: Value::Null.into(),
            after: Value::Null.into(),
            inverse: Value::Null.into(),
        }
    }
}

impl Entry {
    /// A reader that does not know it may pass over it: nothing is decided by it.
    pub(super) fn is_skippable(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// The same without secrets in what is written for people.
    #[must_use]
    pub fn redacted(mut self, redact: &dyn Fn(&str) -> String) -> Self {
        match &mut self {
            Self::Intent(intent) => {
                intent.summary = redact(&intent.summary);
                intent.loses = intent.loses.as_deref().map(redact);
            }
            Self::Void { why: text, .. }
            | Self::Failed { error: text, .. }
            | Self::RebootPending { why: text, .. }
            | Self::Conflict { why: text, .. }
            | Self::Kept { why: text, .. }
            | Self::UndoFailed { error: text, .. }
            | Self::StepFailed { error: text, .. } => *text = redact(text),
            _ => {}
        }
        self
    }
}

/// How an undo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undoing {
    /// The before-state was restored.
    Restored,
    /// The before-state was there already.
    Already,
    /// Only the part that was as written was undone.
    InPart,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The first record of every journal.
    Format {
        /// The format's version.
        version: FormatVersion,
        /// The kkrun that began the journal.
        kkrun: String,
        /// The machine's identity.
        machine: String,
        /// By which the key is recognised under which everything is hashed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// The operator accepted a journal that was in doubt: it is of this machine, and goes on from here.
    JournalAccepted {
        /// The machine's identity.
        machine: String,
    },
    /// A run has something to record.
    RunStarted {
        /// The script as it was called.
        script: String,
        /// Where its plan comes from: a directory, or `built in`.
        root: String,
        /// The process.
        pid: u32,
    },
    /// A run that recorded something came to its end.
    RunEnded {
        /// Its exit status.
        exit: u8,
        /// Its plan, if that is nothing but steps, all of them complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bare: Option<BarePlan>,
    },
    /// A remembered override.
    OverrideSet {
        /// The setting's name.
        key: String,
        /// Its value from now on.
        value: Value,
    },
    /// An override is forgotten.
    OverrideUnset {
        /// The setting's name.
        key: String,
    },
    /// A step begins to act.
    StepStarted {
        /// Its id.
        step: String,
        /// Its title.
        title: String,
        /// Its script, or the plan's for an inline step.
        script: String,
    },
    /// All that a step asks for holds.
    StepCompleted {
        /// Its id.
        step: String,
        /// How long it took.
        seconds: f64,
        /// What it meant.
        fingerprint: Fingerprint,
        /// What it asks for and found as desired, where that may be by a change of another step.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        claims: Vec<Target>,
    },
    /// A step failed.
    StepFailed {
        /// Its id.
        step: String,
        /// How long it took.
        seconds: f64,
        /// What failed, in one sentence.
        error: String,
        /// Where, as `file:line:column`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<String>,
    },
    /// A step was stopped from outside.
    StepInterrupted {
        /// Its id.
        step: String,
        /// How long it took.
        seconds: f64,
        /// By what.
        signal: String,
    },
    /// A step was rolled back without the rest of its plan: it is on hold until it is named.
    StepOnHold {
        /// Its id.
        step: String,
    },
    /// A step's present fingerprint is taken as done.
    StepAccepted {
        /// Its id.
        step: String,
        /// Its title.
        #[serde(default)]
        title: String,
        /// Its script, or the plan's for an inline step.
        #[serde(default)]
        script: String,
        /// What it means now.
        fingerprint: Fingerprint,
        /// What its script would still do, a line each: that is accepted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<String>,
        /// Why, in the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Progress is forgotten; changes are not.
    StepsReset {
        /// The steps; none for all of the plan.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<Vec<String>>,
    },
    /// Something that is done once per machine for good, or until it is undone.
    Once {
        /// Its key.
        key: String,
        /// The changes that it made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeId>,
    },
    /// A change is about to be made.
    Intent(Box<Intent>),
    /// It was made.
    Done {
        /// Which.
        change: ChangeId,
        /// What is recorded from now on, by target.
        #[serde(with = "states_as_list")]
        recorded: States,
        /// What it made is not synced yet: if the machine restarts before a record that follows a sync, it is in doubt
        /// again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unsynced: bool,
    },
    /// It was not made: the target is as before.
    Void {
        /// Which.
        change: ChangeId,
        /// Why that is known.
        why: String,
    },
    /// Its act ended with a failure. If no outcome follows, the act may have done a part of what it is for.
    Failed {
        /// Which.
        change: ChangeId,
        /// How it failed, in one sentence.
        error: String,
    },
    /// A state was recorded without a change: what a failed or killed act left.
    Recorded {
        /// The target.
        target: Target,
        /// Its state.
        state: Value,
    },
    /// The operator kept a conflict: what is there is the operator's, until kkrun is told to overwrite it.
    ConflictKept {
        /// The target.
        target: Target,
        /// The desired state that it was kept against: the operator is not asked about the same one again.
        against: Value,
    },
    /// A handler is pending because of changes that were made before it was in its script.
    Triggered {
        /// The step that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Which.
        handler: Handler,
        /// The changes.
        changes: Vec<ChangeId>,
    },
    /// A handler is pending no more.
    Settled {
        /// The step that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Which.
        handler: Handler,
        /// Why.
        #[serde(default)]
        how: Settling,
    },
    /// A restart of the machine is needed.
    RebootPending {
        /// The step that says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Why.
        why: String,
    },
    /// A rollback begins.
    RollbackStarted {
        /// The steps or targets it is for; none for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<Vec<String>>,
        /// The classes of data it may lose.
        purge: Vec<String>,
        /// Conflicts are overwritten.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// What is needed to undo these changes is removed, as the operator asked for: they cannot be undone any more.
    Forgotten {
        /// Which.
        changes: Vec<ChangeId>,
    },
    /// A change is about to be undone.
    UndoIntent {
        /// Which.
        change: ChangeId,
    },
    /// One more of its undo commands ended well, and it is not the last one. They run in their order.
    UndoCommand {
        /// Which change.
        change: ChangeId,
        /// What is recorded from now on, by target.
        #[serde(with = "states_as_list")]
        recorded: States,
    },
    /// It was undone.
    Undone {
        /// Which.
        change: ChangeId,
        /// How.
        how: Undoing,
        /// What is recorded from now on, by target.
        #[serde(with = "states_as_list")]
        recorded: States,
    },
    /// It was left as it is because the target was modified outside kkrun.
    Conflict {
        /// Which.
        change: ChangeId,
        /// What differs.
        why: String,
    },
    /// It was left as it is because undoing it would lose data, or cannot be done.
    Kept {
        /// Which.
        change: ChangeId,
        /// Why.
        why: String,
    },
    /// Its inverse failed.
    UndoFailed {
        /// Which.
        change: ChangeId,
        /// What failed.
        error: String,
    },
    /// It was left to another step, which relies on it and is not rolled back: it belongs to that step from now on.
    LeftTo {
        /// Which.
        change: ChangeId,
        /// The plan of that step.
        plan: String,
        /// The step; none for a script without steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// What relies on it.
        why: String,
    },
    /// A rollback came to its end: what is left is final until asked for again.
    RollbackEnded {
        /// How many changes were undone.
        undone: usize,
        /// How many were kept.
        kept: usize,
        /// How many are in conflict.
        conflicts: usize,
        /// How many inverses failed.
        failed: usize,
    },
    /// Reserved: a compaction point.
    Checkpoint,
    /// Reserved: a plan that goes on after a restart.
    ContinueAfterReboot,
    /// Reserved: a dead man's rollback is set.
    Armed,
    /// Reserved: it is called off.
    Confirmed,
    /// Reserved: something made by hand is taken into the record.
    Adopted,
}

impl Intent {
    /// Whether its outcome may record a state of this target.
    pub fn is_about(&self, target: &Target) -> bool {
        target.overlaps(&self.target) || self.whole.as_ref() == Some(target)
    }

    /// Whether it is not recorded what it reads and relies on.
    pub fn is_opaque(&self) -> bool {
        matches!(self.what.as_str(), "captured" | "command" | "statement")
    }

    /// What other changes may depend on, or share with it.
    pub fn footprint(&self) -> Footprint<'_> {
        Footprint { target: &self.target, keeps_content: self.keeps_content, needs: &self.needs }
    }
}

impl Entry {
    /// Whether it says that something on the machine is so from now on: then that has to last as long as the record.
    pub fn promises(&self) -> bool {
        self.follows_sync()
            || matches!(
                self,
                Self::Done { .. } | Self::Void { .. } | Self::UndoCommand { .. } | Self::Undone { .. }
            )
    }

    /// Whether all that commands wrote before it was synced, in whichever run they ran.
    pub fn follows_sync(&self) -> bool {
        matches!(
            self,
            Self::StepCompleted { .. }
                | Self::StepAccepted { .. }
                | Self::Once { .. }
                | Self::Settled { .. }
                | Self::RollbackEnded { .. }
                | Self::RunEnded { .. }
        )
    }
}
