//! What is to be rolled back, and what may be lost.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::change::{Change, World, in_one_form};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, Class, UnfinishedRollback};
use crate::machine::files::canonical;
use crate::target::Target;

/// The data classes that `--purge` takes.
pub const CLASSES: &[&str] = &["users", "homes", "databases", "packages", "data"];

/// A step, a target or a run, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A target is in its one form.
    pub(super) text: String,
    target: Option<Target>,
    /// The same if the key is typed in another spelling than it was recorded in.
    spelled: Option<Target>,
}

impl From<&str> for Asked {
    fn from(text: &str) -> Self {
        let parsed: Option<Target> = text.parse().ok();
        // It may be relative, and lead through links.
        let path = text.contains('/').then(|| std::path::absolute(text).ok()).flatten();
        let path = path.map(|path| canonical(&path).unwrap_or(path));
        let in_one_text = parsed.as_ref().map_or_else(|| text.to_owned(), Target::to_string);
        // A path that is named alone is the file at it.
        let target = parsed.or_else(|| path.map(|path| Target::file(&path)));
        let spelled = target.as_ref().map(in_one_form);
        Self { text: in_one_text, target, spelled }
    }
}

/// How a run is named among steps and targets.
const RUN: &str = "run:";

/// The word that names all changes of a run.
pub fn run_word(run: &str) -> String {
    format!("{RUN}{run}")
}

impl Asked {
    /// Whether all changes of this run are meant.
    pub(super) fn is_for_run(&self, run: &str) -> bool {
        self.text.strip_prefix(RUN) == Some(run)
    }

    /// The path that was typed, as it is or as a file.
    pub fn path(&self) -> Option<PathBuf> {
        let typed = self.target.as_ref().filter(|target| target.is_whole_file())?.path()?;
        Some(canonical(typed).unwrap_or_else(|_| typed.to_owned()))
    }

    /// Whether a change is meant: it is of that step, to that target or of that run.
    pub fn is_for(&self, change: &ChangeRecord) -> bool {
        self.is_for_run(&change.run)
            || change.intent.step.as_ref() == Some(&self.text)
            || [&self.target, &self.spelled].into_iter().flatten().any(|typed| *typed == change.intent.target)
    }
}

/// Whether a change is at this path: to it, to a part of it, or to something below it. One of many paths is at those that it
/// changed, as its manifests say.
pub fn is_at(known: &ChangeRecord, path: &Path, world: &World) -> bool {
    let own = known.intent.target.path();
    let changes = |change: Change| match own {
        Some(own) => path.starts_with(own) && change.kind().reaches(path, world),
        None => change.kind().touches(world).iter().any(|touched| touched.starts_with(path)),
    };
    own.is_some_and(|own| own.starts_with(path))
        || matches!(known.intent.what.as_str(), "tree" | "captured")
            && Change::of_intent(&known.intent).is_ok_and(changes)
}

/// What to roll back, and what may be lost.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these steps or targets; `None` for all.
    pub steps: Option<Vec<Asked>>,
    /// The classes that may be lost without asking.
    pub purge: Vec<String>,
    /// Overwrite conflicts with the states from before.
    pub force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Options {
    steps: Vec<String>,
    purge: Vec<String>,
}

impl Request {
    /// The request that a script's options and the command line make together.
    pub fn of(options: &Value, purge: &[String], force: bool) -> Result<Self> {
        let options: Options = match options {
            Value::Null => Options::default(),
            given => serde_json::from_value(given.clone())
                .map_err(|error| Failure::new(error.to_string()).kind(FailureKind::Option))?,
        };
        let purge = [options.purge, purge.to_vec()].concat();
        let steps = options.steps.iter().map(|word| word.as_str().into()).collect();
        let steps = (!options.steps.is_empty()).then_some(steps);
        let request = Self { steps, purge, force };
        request.check_classes()?;
        Ok(request)
    }

    pub(super) fn check_classes(&self) -> Result<()> {
        for class in &self.purge {
            if class != "all" && !CLASSES.contains(&class.as_str()) {
                bail!(
                    Failure::new(format!("unknown data class `{class}`"))
                        .exit(ExitCode::USAGE)
                        .kind(FailureKind::Usage)
                        .hint(format!("the classes are {} and `all`", CLASSES.join(", ")))
                );
            }
        }
        Ok(())
    }

    pub(super) fn grants(&self, class: Class) -> bool {
        let Some(word) = class.purge_word() else { return true };
        self.purge.iter().any(|granted| granted == "all" || granted == word)
    }

    /// Whether a change is among what is asked for.
    pub(super) fn names(&self, known: &ChangeRecord) -> bool {
        self.steps.as_ref().is_none_or(|asked| asked.iter().any(|asked| asked.is_for(known)))
    }

    /// Whether a step of its plan is among what is asked for.
    pub(super) fn names_step(&self, step: &str) -> bool {
        self.steps.as_ref().is_none_or(|asked| asked.iter().any(|asked| asked.text == step))
    }

    /// Whether all that an unfinished rollback is for is asked for.
    pub(super) fn covers(&self, unfinished: &UnfinishedRollback) -> bool {
        match (&unfinished.steps, &self.steps) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(begun), Some(asked)) => begun.iter().all(|word| asked.contains(&word.as_str().into())),
        }
    }
}
