//! One thing that a plan does, as it stands in a step.

use std::path::{Path, PathBuf};

use super::trace::Command;

/// What an action is about: where a plan without sections puts it, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Packages and their sources.
    Packages,
    /// Users and groups.
    Accounts,
    /// Files, directories and links.
    Files,
    /// Roles, databases and what is in them.
    Databases,
    /// What runs.
    Units,
}

impl Place {
    /// The title of a step of nothing else.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Packages => "Packages",
            Self::Accounts => "Users and groups",
            Self::Files => "Files",
            Self::Databases => "Databases",
            Self::Units => "Services",
        }
    }
}

/// One call of a primitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) place: Place,
    /// When the script did it, in nanoseconds since 1970, if that is known.
    pub(super) when: Option<i128>,
    /// The line of the script.
    pub(super) line: Option<usize>,
    /// The call, as one or more lines without indentation.
    pub(super) code: String,
    /// Whether a unit that reads it has to be restarted.
    pub(super) is_file: bool,
    /// The names of the secrets in it.
    pub(super) secrets: Vec<String>,
    /// The path that it is about, if it is a file, a directory or a link.
    pub(super) path: Option<PathBuf>,
}

impl Action {
    /// An action that is not known to be any command's.
    pub(super) fn new(place: Place, code: String) -> Self {
        Self { place, when: None, line: None, code, is_file: false, secrets: Vec::new(), path: None }
    }

    /// The path of the file, directory or link that it is about, also where it only gives that to someone.
    pub(super) fn target(&self) -> Option<&Path> {
        let given = || {
            let rest = self.code.strip_prefix("file::access(\"")?;
            Some(Path::new(rest.split('"').next()?))
        };
        self.path.as_deref().or_else(given)
    }

    /// The same, made by a command of the script.
    pub(super) fn by(mut self, command: Option<&Command>) -> Self {
        self.when = command.map(|command| command.when);
        self.line = command.map(|command| command.line);
        self
    }
}
