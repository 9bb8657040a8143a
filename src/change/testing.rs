//! What the tests of kinds share: a world without an audience.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{Change, UndoTerms, Undone, World};
use crate::event::{Answer, Audience, Event, Question, Reporter};
use crate::machine::process::Processes;
use crate::machine::signal::Signals;

struct Silent;

impl Audience for Silent {
    fn hear(&self, _: &Event) {}

    fn ask(&self, _: &Question) -> Result<Option<Answer>> {
        Ok(None)
    }
}

/// A world whose state directory is `state`, which exists.
pub(crate) fn world(state: &Path) -> World {
    let processes = Processes::new("test", &state.join("notes"), Signals::deaf().unwrap());
    World::new(processes, state, Reporter::new(Box::new(Silent)))
}

/// The change as a later run reads it from the journal.
pub(crate) fn from_record(change: &Change) -> Change {
    let intent = serde_json::to_string(&change.intent().unwrap()).unwrap();
    Change::of_intent(&serde_json::from_str(&intent).unwrap()).unwrap()
}

/// Undoes a change as a later run would.
pub(crate) fn undo(world: &mut World, change: &Change, recorded: Option<&Value>, force: bool) -> Undone {
    let terms = UndoTerms { recorded, force, dry_run: false, ..UndoTerms::default() };
    from_record(change).kind().undo(world, terms).unwrap()
}
