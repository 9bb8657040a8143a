//! What happens, as data: reported from below, rendered by `ui`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind, sentence};
use crate::pasteable::pasteable;
use crate::redaction::Redactor;
use crate::text::{accepted_as_it_is, on_screen, printable, printable_lines};

/// The first line of `--json`, which names the form of those behind it.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename = "schema")]
pub struct FirstLine {
    /// The version of the form: the major one is raised when a reader has to change.
    version: &'static str,
    /// The version of kkrun.
    kkrun: &'static str,
}

impl Default for FirstLine {
    fn default() -> Self {
        Self { version: "2.5", kkrun: env!("CARGO_PKG_VERSION") }
    }
}

/// The state of a change in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeOutcome {
    /// It was made.
    Made,
    /// It would be made.
    Would,
    /// It would be asked about, because of a conflict.
    WouldAsk,
    /// It would be made unless a change before it makes it so already.
    Might,
    /// A conflict was kept, as the operator decided.
    Kept,
}

impl ChangeOutcome {
    /// Whether nothing was done or decided: a dry run says so.
    pub fn is_foreseen(self) -> bool {
        matches!(self, Self::Would | Self::WouldAsk | Self::Might)
    }
}

/// What kind of thing a target is, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// The owners and modes of a tree.
    Access,
    /// A managed block of a file.
    Block,
    /// A command, whether kkrun finds out what it changes or not.
    Command,
    /// A database.
    Database,
    /// An answer for a package's installation.
    Debconf,
    /// A file, a directory or a symbolic link.
    File,
    /// A group.
    Group,
    /// The hold of a package.
    Hold,
    /// A key of a file.
    Line,
    /// Whether a user's services run without a login.
    Linger,
    /// A part of a script that is run once.
    Once,
    /// A package.
    Package,
    /// What a command makes.
    Product,
    /// A role of a database server.
    Role,
    /// A statement for a database.
    Statement,
    /// A step.
    Step,
    /// A tree of files.
    Tree,
    /// A unit of the service manager.
    Unit,
    /// A user.
    User,
    /// A whole line of a file.
    WholeLine,
}

/// What a change is about, to be counted: one thing that is changed twice is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What kind of things they are.
    pub kind: TargetKind,
    /// The name of each.
    pub names: Vec<String>,
}

/// How a target was modified outside kkrun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// It is not there any more.
    Removed,
    /// It does not run any more.
    Stopped,
    /// Something of it differs from what kkrun left.
    Differs {
        /// In one line, where one says it, such as `mode 0644 → 0600`.
        brief: Option<String>,
        /// Line by line.
        lines: Vec<String>,
        /// The unified diff of a text, where it is shown: what kkrun left and what is there.
        diff: Option<String>,
    },
}

impl Modification {
    /// It differs in these properties, the first of which says it in one line.
    pub fn properties(lines: Vec<String>) -> Self {
        Self::Differs { brief: lines.first().cloned(), lines, diff: None }
    }

    /// It is as this text shows it, which is too much for one line.
    pub fn shown(text: &str) -> Self {
        Self::Differs { brief: None, lines: text.lines().map(str::to_owned).collect(), diff: None }
    }

    /// What happened to it as a whole, as the end of a sentence.
    pub fn happened(&self) -> Option<&'static str> {
        match self {
            Self::Removed => Some("was removed"),
            Self::Stopped => Some("was stopped"),
            Self::Differs { .. } => None,
        }
    }

    /// In one line, of the target that is called so.
    pub fn in_one_line(&self, described: &str) -> String {
        match (self, self.happened()) {
            (_, Some(happened)) => format!("{described} {happened}"),
            (Self::Differs { brief: Some(brief), .. }, _) => format!("{described} was modified: {brief}"),
            _ => format!("{described} was modified"),
        }
    }

    /// What differs, line by line, of the target that is called so.
    pub fn difference(&self, described: &str) -> String {
        match (self, self.happened()) {
            (Self::Differs { lines, diff, .. }, _) => lines
                .iter()
                .map(String::as_str)
                .chain(diff.iter().flat_map(|diff| diff.lines()))
                .collect::<Vec<_>>()
                .join("\n"),
            (_, happened) => format!("{described} {}", happened.unwrap_or_default()),
        }
    }

    /// Whether a diff of its text is among what is shown.
    pub fn has_diff(&self) -> bool {
        matches!(self, Self::Differs { diff: Some(_), .. })
    }
}

/// The outcome of an undo in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum UndoOutcome {
    /// It would be undone.
    Would,
    /// It was undone.
    Undone,
    /// It was as before already.
    Already,
    /// It is kept: data would be lost.
    Kept,
    /// It was not undone: there is no way to do it.
    NotUndone,
    /// It was modified outside kkrun.
    Conflict,
    /// The inverse failed.
    Failed,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Neutral.
    Info,
    /// Needs attention.
    Warn,
    /// Something was reached.
    Success,
}

/// Why a step is skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum SkipReason {
    /// It is complete by its record.
    Complete,
    /// It is complete, and was looked at.
    Examined,
    /// What it is now is taken as complete; why, if the operator said so.
    Recorded(Option<String>),
    /// The options select other steps.
    NotSelected,
    /// It was rolled back without the rest of its plan; with its id.
    #[serde(rename = "on_hold")]
    Held(String),
    /// It no longer holds, which is only reported; with what differs.
    Drifted(String),
    /// It no longer holds, and `--repair` would run it; with what differs. For a dry run.
    NeedsRepair(String),
    /// It no longer holds, and would be run; with what differs. For a dry run of `--repair`.
    WouldRepair(String),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => formatter.write_str("complete"),
            Self::Examined => formatter.write_str("examined"),
            Self::Recorded(why) => formatter.write_str(&accepted_as_it_is(why.as_deref())),
            Self::NotSelected => formatter.write_str("not selected"),
            Self::Held(id) => {
                write!(formatter, "on hold: rolled back; `--redo {id}` runs it again")
            }
            Self::Drifted(reason) => write!(formatter, "drifted: {reason}"),
            Self::NeedsRepair(reason) => {
                write!(formatter, "drifted: {reason}; `--repair` runs it again")
            }
            Self::WouldRepair(reason) => write!(formatter, "drifted: {reason}; it would run again"),
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CommandOutcome {
    /// By itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// By a signal that kkrun did not send.
    Signalled {
        /// Its name, such as `SIGKILL`.
        signal: String,
    },
    /// By kkrun, because it timed out.
    TimedOut,
    /// By kkrun, because the run was asked to stop.
    Interrupted {
        /// The name of the signal that kkrun got.
        signal: String,
    },
}

/// As the end of a sentence about the command: "ended with exit code 2".
impl fmt::Display for CommandOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(formatter, "ended with exit code {code}"),
            Self::Signalled { signal } => write!(formatter, "was ended by {signal}"),
            Self::TimedOut => formatter.write_str("timed out"),
            Self::Interrupted { signal } => write!(formatter, "was stopped by {signal}"),
        }
    }
}

/// A place in a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ScriptPlace {
    /// The script's name as the operator knows it.
    pub file: String,
    /// One-based line.
    pub line: usize,
    /// One-based column, counted in characters.
    pub column: usize,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A plan or script begins.
    PlanStarted {
        /// Its name.
        plan: String,
        /// How many steps it has.
        steps: usize,
        /// The ordinal of this run among those that recorded something; none as long as it is not known that it will.
        run: Option<usize>,
        /// Where its files come from.
        root: String,
        /// The first step that is not complete, if any is.
        going_on_at: Option<String>,
        /// The overrides in force.
        overrides: Vec<String>,
        /// Nothing will be changed.
        dry_run: bool,
        /// The command that runs it again.
        invocation: String,
        /// The columns of its widest title, for people.
        #[serde(skip)]
        widest_title: usize,
    },
    /// A step is passed over by its record.
    StepSkipped {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// Why.
        why: SkipReason,
        /// When it completed.
        finished: Option<Timestamp>,
        /// It is complete by its record.
        complete: bool,
    },
    /// A step begins.
    StepStarted {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// Why it runs again, if it was complete.
        reason: Option<String>,
        /// How long it took when it last completed, in seconds.
        usual_seconds: Option<f64>,
    },
    /// A step is complete.
    StepCompleted {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// How long it took.
        seconds: f64,
        /// How many changes it made in this run.
        changes: usize,
    },
    /// A step failed.
    StepFailed {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// How long it took.
        seconds: f64,
        /// What failed.
        error: String,
    },
    /// A step was stopped from outside.
    StepInterrupted {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// By what.
        signal: String,
    },
    /// A step was looked at.
    StepPreviewed {
        /// Its id.
        id: String,
        /// Its title.
        title: String,
        /// How many changes it would make, as far as can be reported.
        changes: usize,
        /// From where on it cannot be reported, and why.
        unpredictable: Option<String>,
    },
    /// A command begins.
    CommandStarted {
        /// What it is called.
        label: String,
    },
    /// A command printed a line.
    CommandLine {
        /// It was on standard error.
        error: bool,
        /// The line, without escapes.
        text: String,
    },
    /// A command that says so has come to something else.
    CommandProgress {
        /// What it does now, in words.
        text: String,
    },
    /// A command ended.
    CommandEnded {
        /// What it is called.
        label: String,
        /// How.
        status: CommandOutcome,
        /// How long it took.
        seconds: f64,
    },
    /// The run was asked to stop while a command runs.
    Stopping {
        /// The command.
        command: String,
        /// It is finished first: ended half-way it leaves more to repair. Otherwise it was asked to end.
        finishes: bool,
    },
    /// A target is changed.
    Change {
        /// How it stands.
        outcome: ChangeOutcome,
        /// The target.
        target: String,
        /// How it is counted.
        #[serde(skip)]
        counted: Counted,
        /// One line.
        summary: String,
        /// What changes in it, line by line.
        #[serde(skip_serializing_if = "Option::is_none")]
        difference: Option<String>,
    },
    /// A target was modified outside kkrun.
    Conflict {
        /// The target.
        target: String,
        /// The change that finds it so, in one line.
        summary: String,
        /// What differs from the recorded state, line by line.
        difference: String,
        /// The target as people call it.
        #[serde(skip)]
        described: String,
        /// What happened to it as a whole, if that says it all.
        #[serde(skip)]
        happened: Option<&'static str>,
    },
    /// Something that must be true was looked at.
    Verified {
        /// What.
        label: String,
        /// False when only looking and it may become true later.
        now: bool,
    },
    /// A change is undone, or not.
    Undo {
        /// How it stands.
        outcome: UndoOutcome,
        /// The change.
        change: u64,
        /// The step that made it.
        #[serde(skip)]
        step: Option<String>,
        /// The target.
        target: String,
        /// One line.
        summary: String,
        /// The difference, the reason, the error.
        detail: Option<String>,
        /// What the operator can do about it, a line each.
        hints: Vec<String>,
        /// What the undo did, for people, such as `removed /srv/a`.
        #[serde(skip)]
        done: String,
    },
    /// A script says something to people.
    Said {
        /// How.
        level: Level,
        /// What.
        text: String,
    },
    /// A script's data.
    Output {
        /// The text, without the line's end.
        text: String,
    },
    /// kkrun says something about what it does.
    Note {
        /// What.
        text: String,
    },
    /// Why a run or a command failed.
    Error {
        /// What kind of failure, as scripts see it.
        kind: &'static str,
        /// What failed, in one sentence.
        message: String,
        /// What the operator can do, a sentence each.
        hints: Vec<String>,
        /// Where in which script.
        place: Option<ScriptPlace>,
        /// The last lines that the command behind it printed.
        output: Vec<String>,
        /// The exit status that it leads to.
        exit: u8,
    },
    /// The end of everything.
    RunEnded {
        /// How many changes were made or undone, or would be.
        changed: usize,
        /// How many changes a rollback came to that cannot be undone.
        not_undone: usize,
        /// The steps that failed.
        failed: Vec<String>,
        /// What is still pending.
        pending: Vec<String>,
        /// What the changes that a dry run foresees would trigger.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        triggers: Vec<String>,
        /// The exit status.
        exit: u8,
    },
}

impl Event {
    /// The step that it names.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::StepSkipped { id, .. }
            | Self::StepStarted { id, .. }
            | Self::StepCompleted { id, .. }
            | Self::StepFailed { id, .. }
            | Self::StepInterrupted { id, .. }
            | Self::StepPreviewed { id, .. } => Some(id),
            Self::Undo { step, .. } => step.as_deref(),
            _ => None,
        }
    }

    /// The event of an error.
    pub fn of_error(error: &anyhow::Error) -> Self {
        let message = sentence(error);
        let Some(failure) = error.downcast_ref::<Failure>() else {
            return Self::of_failure(&Failure::new(message));
        };
        Self::of_failure(&Failure { message, ..failure.clone() })
    }

    /// The event of a failure; of one that sums up several problems, their messages are its output.
    pub fn of_failure(failure: &Failure) -> Self {
        let place = failure.place.as_ref();
        let problems = failure.problems.iter().map(|problem| match &problem.place {
            Some(place) => format!("{}:{}:{}: {}", place.file, place.line, place.column, problem.message),
            None => problem.message.clone(),
        });
        let is_of_usage = failure.kind == FailureKind::Failed && failure.exit == ExitCode::USAGE;
        let kind = if is_of_usage { FailureKind::Usage } else { failure.kind };
        Self::Error {
            kind: kind.as_str(),
            message: failure.message.clone(),
            hints: failure.hints.clone(),
            place: place.map(|place| ScriptPlace {
                file: place.file.clone(),
                line: place.line,
                column: place.column,
            }),
            output: failure.output.iter().cloned().chain(problems).collect(),
            exit: failure.exit.0,
        }
    }
}

/// A question to a person.
#[derive(Clone, Debug)]
pub enum Question {
    /// Yes or no.
    Confirm {
        /// The question.
        text: String,
        /// What an empty answer means.
        default: bool,
        /// `--yes` may answer it: no data is lost by it.
        harmless: bool,
    },
    /// A line of text.
    Text {
        /// The question.
        text: String,
        /// What an empty answer means.
        default: String,
    },
    /// A text that is not shown.
    Secret {
        /// The question.
        text: String,
        /// An empty answer is one.
        may_be_empty: bool,
    },
}

/// What receives events and answers questions: a terminal, a program, or neither.
pub trait Audience {
    /// Takes in an event. Never fails: a closed terminal ends nothing.
    fn hear(&self, event: &Event);
    /// What is reported from now on belongs to this step, though none began: it is examined.
    fn about(&self, _step: Option<&str>) {}
    /// Whether it shows what changes in a target, line by line, of changes with this outcome.
    fn shows_differences(&self, _outcome: ChangeOutcome) -> bool {
        false
    }
    /// Whether questions are answered with yes without being shown.
    fn agrees_unasked(&self) -> bool {
        false
    }
    /// Asks; `Ok(None)` when no one can be asked.
    fn ask(&self, question: &Question) -> Result<Option<Answer>>;
}

/// An answer to a question.
pub enum Answer {
    /// To [`Question::Confirm`].
    Yes,
    /// To [`Question::Confirm`].
    No,
    /// To [`Question::Text`] and [`Question::Secret`].
    Text(zeroize::Zeroizing<String>),
}

/// Teaches the redactor what earlier runs knew.
type EarlierSecrets = Box<dyn FnOnce(&mut Redactor) -> Result<()>>;

/// Reports to the audience and to the log of the step, without secrets.
pub struct Reporter {
    audience: Box<dyn Audience>,
    redactor: RefCell<Redactor>,
    /// Until something is to be shown or recorded.
    earlier: RefCell<Option<EarlierSecrets>>,
    /// Lines at the end of which a secret may begin: shown when it is known how they go on.
    held: RefCell<Vec<Event>>,
    /// The sentences that are not reported twice.
    noted: RefCell<BTreeSet<String>>,
    log: RefCell<Option<Box<dyn Write>>>,
    /// What an examination reports, until it is known whether that is to be shown.
    apart: RefCell<Option<Vec<Event>>>,
    ended: Cell<bool>,
    waited: Cell<Duration>,
}

impl Reporter {
    /// A reporter to this audience, without a log yet.
    pub fn new(audience: Box<dyn Audience>) -> Rc<Self> {
        Rc::new(Self {
            audience,
            redactor: RefCell::default(),
            earlier: RefCell::default(),
            held: RefCell::default(),
            noted: RefCell::default(),
            log: RefCell::default(),
            apart: RefCell::default(),
            ended: Cell::new(false),
            waited: Cell::default(),
        })
    }

    /// Keeps what is reported from now on in `log` too, or in none.
    pub fn log_to(&self, log: Option<Box<dyn Write>>) {
        self.release(self.held.take());
        *self.log.borrow_mut() = log;
    }

    /// Looks for this secret in everything reported from now on; warns if it is too short for that.
    pub fn learn_secret(&self, name: &str, value: &str) {
        if !self.redactor.borrow_mut().learn(name, value) && !value.is_empty() {
            self.note(format!(
                "the secret `{name}` is shorter than {} characters, so it is not redacted in output",
                crate::redaction::SHORTEST
            ));
        }
    }

    /// The same for one that was reported of before.
    pub fn learn_known_secret(&self, name: &str, value: &str) {
        self.redactor.borrow_mut().learn(name, value);
    }

    /// Looks for what earlier runs knew, too. It is read when the first text is to be shown or recorded.
    pub fn learn_earlier_secrets(&self, teach: impl FnOnce(&mut Redactor) -> Result<()> + 'static) {
        *self.earlier.borrow_mut() = Some(Box::new(teach));
    }

    fn redactor(&self) -> std::cell::Ref<'_, Redactor> {
        if let Some(teach) = self.earlier.take() {
            let taught = teach(&mut self.redactor.borrow_mut());
            if let Err(error) = taught {
                let text = format!(
                    "secrets of earlier runs are not recognised in what is shown: {error}",
                    error = sentence(&error)
                );
                self.audience.hear(&Event::Note { text });
            }
        }
        self.redactor.borrow()
    }

    /// The text without secrets.
    pub fn redact(&self, text: &str) -> String {
        self.redactor().redact(text)
    }

    /// Whether the text holds a secret, also one of which only hashes are left.
    pub fn holds_secret(&self, text: &str) -> bool {
        self.redactor().holds_secret(text)
    }

    /// Whether a text contains a secret of which the value is known.
    pub fn holds_known_secret(&self, text: &str) -> bool {
        self.redactor().holds_known_secret(text)
    }

    /// The failure without secrets in anything that is shown of it.
    pub fn without_secrets_in(&self, mut failure: Failure) -> Failure {
        let redact = |text: &mut String| *text = printable_lines(&self.redact(text));
        redact(&mut failure.message);
        failure.hints.iter_mut().for_each(redact);
        // A secret may be split by the ends of lines.
        if !failure.output.is_empty() {
            let output = self.redact(&failure.output.join("\n"));
            failure.output = output.split('\n').map(|line| printable(on_screen(line)).into_owned()).collect();
        }
        if let Some(place) = &mut failure.place {
            redact(&mut place.text);
            place.frames.iter_mut().for_each(redact);
        }
        failure.problems =
            failure.problems.into_iter().map(|problem| self.without_secrets_in(problem)).collect();
        failure
    }

    /// The same for an error, whose chain becomes its message.
    pub fn without_secrets_of(&self, error: anyhow::Error) -> anyhow::Error {
        let message = sentence(&error);
        match error.downcast::<Failure>() {
            Ok(failure) => self.without_secrets_in(Failure { message, ..failure }).into(),
            Err(error) => {
                let shown = self.redact(&message);
                if shown == message { error } else { Failure::new(shown).into() }
            }
        }
    }

    /// Emits an event. A line at the end of which a secret may begin waits for what follows.
    pub fn emit(&self, event: &Event) {
        if let Some(apart) = &mut *self.apart.borrow_mut() {
            apart.push(event.clone());
            return;
        }
        if matches!(event, Event::CommandProgress { .. }) {
            // It is no line of a stream: what waits goes on waiting.
            return self.show(&self.without_secrets(event));
        }
        let mut held = self.held.take();
        let Some(text) = line_of(event).filter(|text| !text.contains(JOINT)) else {
            self.release(held);
            return self.show(&self.without_secrets(event));
        };
        let texts = held.iter().filter_map(line_of).chain([text]);
        let together = texts.collect::<Vec<_>>().join(JOINT);
        let is_short = together.len() < MOST_HELD;
        let from = if is_short { self.redactor().may_go_on_from(&together) } else { None };
        held.push(event.clone());
        let from = from.unwrap_or(together.len());
        let mut end = 0;
        let is_before = |event: &&Event| {
            end += line_of(event).map_or(0, str::len) + JOINT.len();
            end - JOINT.len() <= from
        };
        let mut decided = held.iter().take_while(is_before).count();
        while decided > 0 && decided < held.len() && !self.is_apart(&held[..decided], &held[decided..]) {
            decided -= 1;
        }
        let waiting = held.split_off(decided);
        self.release(held);
        *self.held.borrow_mut() = waiting;
    }

    /// What `act` gives, and what it reports: the caller emits what of that is to be seen.
    pub fn apart<T>(&self, act: impl FnOnce() -> T) -> (T, Vec<Event>) {
        let before = self.apart.replace(Some(Vec::new()));
        let given = act();
        (given, self.apart.replace(before).unwrap_or_default())
    }

    /// Whether no secret begins in these lines and goes on in those behind them.
    fn is_apart(&self, lines: &[Event], behind: &[Event]) -> bool {
        let text = |lines: &[Event]| lines.iter().filter_map(line_of).collect::<Vec<_>>().join(JOINT);
        let (lines, behind) = (text(lines), text(behind));
        let together = self.redact(&[lines.as_str(), behind.as_str()].join(JOINT));
        together == [self.redact(&lines), self.redact(&behind)].join(JOINT)
    }

    /// Shows lines that were held: a secret that is split by their ends is in none of them.
    fn release(&self, mut held: Vec<Event>) {
        if held.len() > 1 {
            let together = held.iter().filter_map(line_of).collect::<Vec<_>>().join(JOINT);
            let shown = self.redact(&together);
            let texts: Vec<&str> = shown.split(JOINT).collect();
            held.truncate(texts.len());
            for (event, shown) in held.iter_mut().zip(texts) {
                if let Some(text) = line_of_mut(event) {
                    shown.clone_into(text);
                }
            }
        }
        for event in &held {
            self.show(&self.without_secrets(event));
        }
    }

    fn show(&self, event: &Event) {
        self.ended.set(self.ended.get() || matches!(event, Event::RunEnded { .. }));
        if let Some(log) = self.log.borrow_mut().as_mut()
            && let Some(line) = log_line(event)
        {
            // The log is a convenience: a full disk shows where it matters, at the journal.
            let _ = writeln!(log, "{line}");
        }
        self.audience.hear(event);
    }

    /// Whether what changes in a target is shown, of changes with this outcome.
    pub fn shows_differences(&self, outcome: ChangeOutcome) -> bool {
        self.audience.shows_differences(outcome)
    }

    /// Whether questions are answered with yes without being shown.
    pub fn agrees_unasked(&self) -> bool {
        self.audience.agrees_unasked()
    }

    /// Whether the end was reported.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Reports a sentence about what kkrun does.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(&Event::Note { text: text.into() });
    }

    /// Reports a sentence that is true of the whole run, once.
    pub fn note_once(&self, text: String) {
        if self.noted.borrow_mut().insert(text.clone()) {
            self.note(text);
        }
    }

    /// What is reported from now on belongs to this step, which is examined.
    pub fn about(&self, step: Option<&str>) {
        self.audience.about(step);
    }

    /// How long answers were waited for so far.
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// Asks; `Ok(None)` when no one can be asked.
    pub fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        self.release(self.held.take());
        let mut question = question.clone();
        match &mut question {
            Question::Confirm { text, .. } | Question::Text { text, .. } | Question::Secret { text, .. } => {
                *text = printable_lines(&self.redact(text));
            }
        }
        let begun = Instant::now();
        let answer = self.audience.ask(&question);
        self.waited.set(self.waited.get() + begun.elapsed());
        answer
    }

    fn without_secrets(&self, event: &Event) -> Event {
        // What others wrote, in a file that is shown or a name, is not obeyed by the terminal.
        let redact = |text: &str| printable_lines(&self.redact(text));
        let mut event = event.clone();
        match &mut event {
            // Data: a consumer needs every byte.
            Event::Output { text } => *text = self.redact(text),
            Event::CommandLine { text, .. } => *text = printable(on_screen(&self.redact(text))).into_owned(),
            Event::Said { text, .. } | Event::CommandProgress { text } => *text = redact(text),
            Event::Note { text } => *text = pasteable(&redact(text)),
            Event::CommandStarted { label }
            | Event::CommandEnded { label, .. }
            | Event::Verified { label, .. } => {
                *label = redact(label);
            }
            Event::Change { summary, target, difference, .. } => {
                *summary = redact(summary);
                *target = redact(target);
                *difference = difference.as_deref().map(redact);
            }
            Event::Conflict { summary, target, difference, described, .. } => {
                *described = redact(described);
                *summary = redact(summary);
                *target = redact(target);
                *difference = redact(difference);
            }
            Event::Undo { summary, target, detail, hints, done, .. } => {
                for hint in hints {
                    *hint = pasteable(&redact(hint));
                }
                *summary = redact(summary);
                *done = redact(done);
                *target = redact(target);
                *detail = detail.as_deref().map(|detail| pasteable(&redact(detail)));
            }
            Event::StepFailed { error, .. } => *error = redact(error),
            Event::Stopping { command, .. } => *command = redact(command),
            Event::Error { message, hints, output, .. } => {
                *message = redact(message);
                for text in output {
                    *text = redact(text);
                }
                for hint in hints {
                    *hint = pasteable(&redact(hint));
                }
            }
            Event::StepPreviewed { unpredictable, .. } => {
                *unpredictable = unpredictable.as_deref().map(redact);
            }
            Event::StepStarted { reason, .. } => *reason = reason.as_deref().map(redact),
            Event::PlanStarted { overrides, .. } => {
                for line in overrides {
                    *line = redact(line);
                }
            }
            Event::StepSkipped {
                why:
                    SkipReason::Drifted(reason)
                    | SkipReason::NeedsRepair(reason)
                    | SkipReason::WouldRepair(reason)
                    | SkipReason::Recorded(Some(reason)),
                ..
            } => *reason = redact(reason),
            Event::StepSkipped { .. }
            | Event::StepCompleted { .. }
            | Event::StepInterrupted { .. }
            | Event::RunEnded { .. } => {}
        }
        event
    }
}

/// Joins lines that are shown one after the other. It is not seen, and in no line that was made printable.
const JOINT: &str = "\0";

/// So many bytes are held at most.
const MOST_HELD: usize = 8192;

/// The text of an event that is one of a stream of lines.
fn line_of(event: &Event) -> Option<&str> {
    match event {
        Event::CommandLine { text, .. } | Event::Output { text } | Event::Said { text, .. } => Some(text),
        _ => None,
    }
}

fn line_of_mut(event: &mut Event) -> Option<&mut String> {
    match event {
        Event::CommandLine { text, .. } | Event::Output { text } | Event::Said { text, .. } => Some(text),
        _ => None,
    }
}

/// The line that the log of a step keeps of an event, if any.
fn log_line(event: &Event) -> Option<String> {
    Some(match event {
        Event::CommandStarted { label } => format!("$ {label}"),
        Event::CommandEnded { label, status, seconds } => {
            format!("  `{label}` {status} after {seconds:.1} s")
        }
        Event::Change { summary, .. } => format!("* {summary}"),
        Event::Conflict { described, happened: Some(happened), .. } => {
            format!("{described} {happened} outside kkrun")
        }
        Event::Conflict { described, difference, .. } => {
            format!("{described} was modified outside kkrun:\n{difference}")
        }
        Event::Verified { label, now } => format!("{} {label}", if *now { "✓" } else { "later:" }),
        Event::Output { text } => printable_lines(text),
        Event::CommandLine { text, .. } | Event::Said { text, .. } | Event::Note { text } => text.clone(),
        Event::StepFailed { error, .. } => format!("failed: {error}"),
        Event::StepInterrupted { signal, .. } => format!("stopped by {signal}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_modified_is_said_by_what_happened_and_not_by_how_its_text_ends() {
        let said = |modification: &Modification| {
            (modification.in_one_line("`/x`"), modification.difference("`/x`"), modification.happened())
        };
        let removed = "`/x` was removed".to_owned();
        assert_eq!(said(&Modification::Removed), (removed.clone(), removed, Some("was removed")));
        assert_eq!(Modification::Stopped.in_one_line("`a.service`"), "`a.service` was stopped");
        let text = "7: the cat was removed";
        let shown = ("`/x` was modified".to_owned(), text.to_owned(), None);
        assert_eq!(said(&Modification::shown(text)), shown);
        let properties = Modification::properties(vec!["mode 0644 → 0600".into(), "owner 0 → 1".into()]);
        let lines = "mode 0644 → 0600\nowner 0 → 1".to_owned();
        assert_eq!(said(&properties), ("`/x` was modified: mode 0644 → 0600".to_owned(), lines, None));
        let differs = |brief: Option<&str>| Modification::Differs {
            brief: brief.map(str::to_owned),
            lines: vec!["content differs".to_owned()],
            diff: Some("-a\n+b\n".to_owned()),
        };
        assert_eq!(differs(None).difference("`/x`"), "content differs\n-a\n+b");
        assert!(differs(None).has_diff() && !properties.has_diff());
    }

    #[test]
    fn a_reason_to_skip_has_a_kind_in_json() {
        let json = |why: SkipReason| serde_json::to_value(why).unwrap();
        assert_eq!(json(SkipReason::NotSelected), serde_json::json!({ "kind": "not_selected" }));
        let held = serde_json::json!({ "kind": "on_hold", "detail": "07" });
        assert_eq!(json(SkipReason::Held("07".into())), held);
    }
}
