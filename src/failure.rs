//! What went wrong, in the form that a person is shown: what, where, and what to do next.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

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
    /// Where its last command ran, if that failed.
    pub command: Option<Box<FailedCommand>>,
}

/// Where a command ran that failed: what someone needs who wants to try it by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCommand {
    /// The directory that was asked for.
    pub directory: Option<PathBuf>,
    /// The user, if it is another one than that of kkrun.
    pub user: Option<String>,
    /// Its variables, but those that hold a secret.
    pub variables: Vec<(OsString, OsString)>,
    /// The names of those.
    pub withheld: Vec<OsString>,
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
            message: in_words(message.into()),
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

/// An error in one sentence, the system's own error last: the only way in which one is written.
pub fn sentence(error: &anyhow::Error) -> String {
    in_words(format!("{error:#}"))
}

/// An error in lines of its own, with its way on: where it is one of several, which end nothing by themselves.
pub fn with_way_on(error: &anyhow::Error) -> String {
    let hints = error.downcast_ref::<Failure>().map_or(&[][..], |failure| &failure.hints);
    hints.iter().fold(sentence(error), |text, hint| format!("{text}\n{hint}"))
}

/// A message in which the errors of the system are words as in the rest of it: the standard library begins them with a
/// capital letter, and ends them with ` (os error 28)`.
fn in_words(message: String) -> String {
    const MARK: &str = " (os error ";
    let (mut done, mut rest) = (String::new(), message.as_str());
    while let Some((before, behind)) = rest.split_once(MARK) {
        let number = behind.split_once(')').and_then(|(number, behind)| Some((number.parse().ok()?, behind)));
        let Some((number, behind)) = number else {
            done.extend([before, MARK]);
            rest = behind;
            continue;
        };
        let whole = std::io::Error::from_raw_os_error(number).to_string();
        let words = whole.split(MARK).next().unwrap_or_default();
        match before.strip_suffix(words) {
            Some(before) => done.extend([before, &uncapitalised(words)]),
            None => done.push_str(before),
        }
        rest = behind;
    }
    if done.is_empty() { message } else { done + rest }
}

/// The words without a capital letter at their beginning, unless that begins an abbreviation.
fn uncapitalised(words: &str) -> String {
    let mut letters = words.chars();
    match (letters.next(), letters.as_str().chars().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            format!("{}{}", first.to_lowercase(), letters.as_str())
        }
        _ => words.to_owned(),
    }
}

/// The exit status that this error leads to.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    error.downcast_ref::<Failure>().map_or(ExitCode::FAILED, |failure| failure.exit)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_of_the_system_is_in_words_and_without_its_number() {
        for (number, words) in [
            (28, "no space left on device"),
            (13, "permission denied"),
            (2, "no such file or directory"),
            (5, "input/output error"),
        ] {
            let io = || std::io::Error::from_raw_os_error(number);
            let chain = Err::<(), _>(io()).context("cannot write `/x`").unwrap_err();
            assert_eq!(sentence(&chain), format!("cannot write `/x`: {words}"));
            let errno = rustix::io::Errno::from_raw_os_error(number);
            let chain = Err::<(), _>(errno).context("cannot write `/x`").unwrap_err();
            assert_eq!(sentence(&chain), format!("cannot write `/x`: {words}"));
            let text = format!("cannot read `/x`: {} at line 3", io());
            assert_eq!(Failure::new(text).message, format!("cannot read `/x`: {words} at line 3"));
        }
        let both = format!("{}, and then {}", std::io::Error::from_raw_os_error(2), "gone (os error 2)");
        assert_eq!(in_words(both), "no such file or directory, and then gone");
        for untouched in ["plain", "(os error 2)", "what (os error x) is", "open (os error 7"] {
            assert_eq!(in_words(untouched.to_owned()), untouched);
        }
    }
}
