//! What went wrong, in the form that a person is shown: what, where, and what to do next.

use std::fmt;

use crate::exit_code::ExitCode;

/// An error that carries more than its sentence.
///
/// Travels inside [`anyhow::Error`]; the caller that reports it finds it with `downcast_ref`. An error without
/// one exits with [`ExitCode::FAILED`].
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit status it leads to.
    pub exit: ExitCode,
    /// What scripts see as `kind` when they catch it.
    pub kind: FailureKind,
    /// One sentence, without a full stop: what failed.
    pub message: String,
    /// The exit code of the command behind it, if there is one.
    pub code: Option<i32>,
    /// The last lines that the command behind it printed.
    pub output: Vec<String>,
    /// What the reader can do, a sentence each.
    pub hints: Vec<String>,
    /// Where in which script, once that is known.
    pub place: Option<Place>,
    /// The step that failed with it.
    pub step: Option<FailedStep>,
    /// What it sums up, each with its own place: the problems that a check found.
    pub problems: Vec<Failure>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// Its plan.
    pub plan: String,
    /// Its id.
    pub id: String,
}

/// A place in a script, with the frames that led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The script's name as the operator knows it.
    pub file: String,
    /// One-based line.
    pub line: usize,
    /// One-based column, counted in characters.
    pub column: usize,
    /// The text of that line.
    pub text: String,
    /// The callers, innermost first: function and its place.
    pub frames: Vec<String>,
}

/// The kinds of failures. Scripts see and compare their names, so a name never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FailureKind {
    Assert,
    Backup,
    Busy,
    Command,
    Conflict,
    CrossDevice,
    Damaged,
    Denied,
    Directory,
    Duplicate,
    Encoding,
    Exists,
    Failed,
    Http,
    InDoubt,
    Interrupted,
    Io,
    Journal,
    Locked,
    Missing,
    Network,
    NotEmpty,
    Option,
    Packages,
    Panic,
    ReadOnly,
    Refused,
    Secret,
    Size,
    Space,
    Sql,
    Step,
    Template,
    Test,
    Timeout,
    Type,
    Unanswered,
    Unit,
    Unreachable,
    Usage,
    Verify,
}

impl FailureKind {
    /// The name that scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assert => "assert",
            Self::Backup => "backup",
            Self::Busy => "busy",
            Self::Command => "command",
            Self::Conflict => "conflict",
            Self::CrossDevice => "crossdevice",
            Self::Damaged => "damaged",
            Self::Denied => "denied",
            Self::Directory => "directory",
            Self::Duplicate => "duplicate",
            Self::Encoding => "encoding",
            Self::Exists => "exists",
            Self::Failed => "failed",
            Self::Http => "http",
            Self::InDoubt => "in_doubt",
            Self::Interrupted => "interrupted",
            Self::Io => "io",
            Self::Journal => "journal",
            Self::Locked => "locked",
            Self::Missing => "missing",
            Self::Network => "network",
            Self::NotEmpty => "notempty",
            Self::Option => "option",
            Self::Packages => "packages",
            Self::Panic => "panic",
            Self::ReadOnly => "readonly",
            Self::Refused => "refused",
            Self::Secret => "secret",
            Self::Size => "size",
            Self::Space => "space",
            Self::Sql => "sql",
            Self::Step => "step",
            Self::Template => "template",
            Self::Test => "test",
            Self::Timeout => "timeout",
            Self::Type => "type",
            Self::Unanswered => "unanswered",
            Self::Unit => "unit",
            Self::Unreachable => "unreachable",
            Self::Usage => "usage",
            Self::Verify => "verify",
        }
    }
}

impl Failure {
    /// A failure of a step or script.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            exit: ExitCode::FAILED,
            kind: FailureKind::Failed,
            message: message.into(),
            code: None,
            output: Vec::new(),
            hints: Vec::new(),
            place: None,
            step: None,
            problems: Vec::new(),
        }
    }

    /// The failure that sums up these problems, if there are any; a single one is returned as it is. If another
    /// user could write a script, that decides the exit status.
    pub fn all(mut problems: Vec<Self>) -> Option<Self> {
        if problems.len() <= 1 {
            return problems.pop();
        }
        let refused = problems.iter().any(|problem| problem.exit == ExitCode::REFUSED);
        let mut failure = Self::new(format!("{} problems", problems.len()));
        failure.exit = if refused { ExitCode::REFUSED } else { problems[0].exit };
        failure.kind = problems[0].kind;
        failure.problems = problems;
        Some(failure)
    }

    /// The same with another exit status.
    pub fn exit(mut self, exit: ExitCode) -> Self {
        self.exit = exit;
        self
    }

    /// The same with another kind, as scripts see it.
    pub fn kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same with one more thing that the reader can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same, said to come from this place in a script.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error in lines of its own, with its way on: where it is one of several, which end nothing by themselves.
pub fn with_way_on(error: &anyhow::Error) -> String {
    let hints = error.downcast_ref::<Failure>().map_or(&[][..], |failure| &failure.hints);
    hints.iter().fold(format!("{error:#}"), |text, hint| format!("{text}\n{hint}"))
}

/// The exit status that this error leads to.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    error.downcast_ref::<Failure>().map_or(ExitCode::FAILED, |failure| failure.exit)
}
