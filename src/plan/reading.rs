//! Reads and checks scripts of which none is run.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::Result;

use super::{Launch, read_outside, stem};
use crate::event::Reporter;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, sentence};
use crate::journal::History;
use crate::script::{Checked, Engine, Host, SETTINGS, Settings, Source, check};
use crate::session::Session;

/// What was read so far, and what was wrong with it.
#[derive(Default)]
pub struct Reading {
    scripts: BTreeSet<String>,
    problems: Vec<Failure>,
}

impl Reading {
    /// Reads the script `name` of `source` and all that belongs to it.
    pub fn script(&mut self, launch: &Launch, source: Source, name: &str, reporter: &Rc<Reporter>) {
        match checked(launch, source, name, reporter) {
            Ok(checked) => {
                self.scripts.extend(checked.scripts);
                for problem in checked.problems {
                    self.add(problem);
                }
            }
            Err(error) => self.fail(error),
        }
    }

    /// Takes in why something cannot be read.
    pub fn fail(&mut self, error: anyhow::Error) {
        let message = sentence(&error);
        let mut failure = error.downcast::<Failure>().unwrap_or_else(|_| Failure::new(message));
        if failure.exit != ExitCode::REFUSED {
            failure.exit = ExitCode::USAGE;
        }
        self.add(failure);
    }

    /// How many scripts were read.
    pub fn scripts(&self) -> usize {
        self.scripts.len()
    }

    /// The problems; one that several scripts share is reported once.
    pub fn into_problems(self) -> Vec<Failure> {
        self.problems
    }

    fn add(&mut self, problem: Failure) {
        let known = self
            .problems
            .iter()
            .any(|known| known.place == problem.place && known.message == problem.message);
        if !known {
            self.problems.push(problem);
        }
    }
}

fn checked(launch: &Launch, source: Source, name: &str, reporter: &Rc<Reporter>) -> Result<Checked> {
    let files = launch.settings_files.iter().map(|path| read_outside(path)).collect::<Result<Vec<_>>>()?;
    let plain = Settings::read(&source, &files, &BTreeMap::new())?;
    let mut overrides = BTreeMap::new();
    for (key, typed) in &launch.set {
        overrides.insert(key.clone(), plain.typed(key, typed)?);
    }
    let settings = Settings::read(&source, &files, &overrides)?;
    if name == SETTINGS {
        return Ok(Checked { scripts: BTreeSet::from([source.script(name)?.name]), ..Checked::default() });
    }
    let session =
        Session::new(launch.world_for_dry_run(Rc::clone(reporter)), History::default(), &stem(name));
    let host = Host::new(session, source, settings, Vec::new());
    let engine = Engine::new(Rc::clone(&host), launch.register);
    Ok(check(&engine, name))
}
