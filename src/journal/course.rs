//! The course of one run: its records in their order. A [`History`](super::History) keeps what follows from all of them.

use super::record::{Entry, Record};
use super::step_record::RunRecord;

/// Which run is meant.
#[derive(Clone, Copy, Debug)]
pub enum WhichRun<'a> {
    /// The one of this identity.
    Named(&'a str),
    /// The newest one that ran a step, made a change or undid one; of this plan, or of any.
    Newest(Option<&'a str>),
}

/// A run, and what it recorded.
#[derive(Clone, Debug)]
pub struct Course {
    /// The run.
    pub run: RunRecord,
    /// Its plan.
    pub plan: String,
    /// What it recorded after its first record, oldest first.
    pub records: Vec<Record>,
}

impl Course {
    /// Whether it did something to the machine, and did not only change what is recorded.
    fn acted(&self) -> bool {
        let acts = |record: &Record| {
            matches!(
                record.entry,
                Entry::StepStarted { .. }
                    | Entry::Intent(_)
                    | Entry::UndoIntent { .. }
                    | Entry::RollbackStarted { .. }
            )
        };
        self.records.iter().any(acts)
    }
}

/// Picks a run out of the records of a journal, which it is shown in their order. Two runs are in memory at most.
pub(super) struct Picker<'a> {
    which: WhichRun<'a>,
    found: Option<Course>,
    current: Option<Course>,
}

impl<'a> Picker<'a> {
    pub(super) fn new(which: WhichRun<'a>) -> Self {
        Self { which, found: None, current: None }
    }

    /// Takes in one more record.
    pub(super) fn see(&mut self, record: &Record) {
        let Record { header, entry } = record;
        if let Entry::RunStarted { script, root, .. } = entry {
            self.end_current();
            let is_meant = match self.which {
                WhichRun::Named(run) => header.run == run,
                WhichRun::Newest(plan) => plan.is_none_or(|plan| header.plan == plan),
            };
            let run = RunRecord {
                run: header.run.clone(),
                script: script.clone(),
                root: root.clone(),
                started: header.time,
                ended: None,
            };
            self.current = is_meant.then(|| Course { run, plan: header.plan.clone(), records: Vec::new() });
            return;
        }
        let Some(current) = self.current.as_mut().filter(|current| current.run.run == header.run) else {
            return;
        };
        if let Entry::RunEnded { exit, .. } = entry {
            current.run.ended = Some((header.time, *exit));
        }
        current.records.push(record.clone());
    }

    fn end_current(&mut self) {
        let is_meant = |course: &Course| matches!(self.which, WhichRun::Named(_)) || course.acted();
        if let Some(course) = self.current.take().filter(is_meant) {
            self.found = Some(course);
        }
    }

    /// The run that is meant, if there is one.
    pub(super) fn picked(mut self) -> Option<Course> {
        self.end_current();
        self.found
    }
}
