//! What kkrun last left at a path, where several targets cover it: a file, the tree that it is in, the access of
//! that tree, the product of a command. Asked when a state looks like a conflict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use serde_json::Value;

use crate::change::{self, Change, CommandState, Left, World, state_value};
use crate::journal::{ChangeId, ChangeRecord, ChangeState, History, Recorded};
use crate::machine::files::{Access, FileState, Manifest, PathText};
use crate::target::Target;

/// What kkrun left at a target.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LastKnown {
    /// This, in the form of the ledger.
    State(Value),
    /// What a command made of it.
    Anything,
}

/// What is known of one path.
enum Known {
    State(FileState),
    Anything,
}

/// What kkrun last left at a target by any change; none if it never did.
pub(super) fn last_known_at(history: &History, world: &World, target: &Target) -> Result<Option<LastKnown>> {
    Ok(match target {
        Target::File(path) => Search::new(history, world).file(path.as_path())?,
        Target::Tree(path) => Search::new(history, world).tree(path.as_path())?,
        _ => history.ledger.get(target).map(|recorded| LastKnown::State(recorded.state.value())),
    })
}

/// The first of these paths that a change is about at which there is not what kkrun last left after it, with what was found
/// there. A step that came before that of the change and ran once more left what the change was made on.
pub(super) fn modified_among(
    history: &History,
    world: &World,
    change: &ChangeRecord,
    found: Vec<(PathBuf, FileState)>,
) -> Result<Option<(PathBuf, FileState)>> {
    let search = Search::new(history, world);
    let own = change.intent.step.as_deref();
    let begun = |step: &str| history.live_changes_of(&change.plan, step).map(|change| change.id).min();
    let is_of_earlier_step = |at: u64| {
        let others = history.steps_of(&change.plan).filter(|(step, _)| Some(step.as_str()) != own);
        let mut makers = others
            .filter(|(step, _)| history.live_changes_of(&change.plan, step).any(|maker| maker.settled == at));
        makers.any(|(step, _)| begun(step) < own.and_then(begun))
    };
    for (path, found) in found {
        let is_as_left = match search.newest(&path)? {
            Some((at, _)) if is_of_earlier_step(at) => false,
            Some((_, LastKnown::Anything)) => true,
            Some((_, LastKnown::State(left))) => {
                serde_json::from_value::<FileState>(left).is_ok_and(|left| left.same_as(&found))
            }
            None => false,
        };
        if !is_as_left {
            return Ok(Some((path, found)));
        }
    }
    Ok(None)
}

/// The access that kkrun last left at a path; none if it never did, or left that to a command.
pub(super) fn last_access_at(history: &History, world: &World, path: &Path) -> Result<Option<Access>> {
    let search = Search::new(history, world);
    match search.file(path)? {
        Some(LastKnown::State(state)) => {
            Ok(serde_json::from_value::<FileState>(state).ok().as_ref().and_then(Access::of_state))
        }
        Some(LastKnown::Anything) => Ok(None),
        None => {
            let mut newest = None;
            search.give_access(0, path, &mut |at, access| {
                if at == path {
                    newest = Some(*access);
                }
            })?;
            Ok(newest)
        }
    }
}

struct Search<'a> {
    history: &'a History,
    world: &'a World,
    /// What captured commands left, of those that were asked about.
    left: RefCell<BTreeMap<ChangeId, Rc<Left>>>,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, world: &'a World) -> Self {
        Self { history, world, left: RefCell::default() }
    }

    /// What the captured command of a change left; none if it is another change.
    fn left_by(&self, known: &ChangeRecord) -> Result<Option<Rc<Left>>> {
        if let Some(left) = self.left.borrow().get(&known.id) {
            return Ok(Some(Rc::clone(left)));
        }
        let Change::Captured(change) = Change::of_intent(&known.intent)? else { return Ok(None) };
        let left = Rc::new(change.left(self.world)?);
        self.left.borrow_mut().insert(known.id, Rc::clone(&left));
        Ok(Some(left))
    }

    fn file(&self, path: &Path) -> Result<Option<LastKnown>> {
        Ok(self.newest(path)?.map(|(_, known)| known))
    }

    /// What kkrun last left at a path, and since which record.
    fn newest(&self, path: &Path) -> Result<Option<(u64, LastKnown)>> {
        let mut newest: Option<(u64, Known)> = None;
        for above in path.ancestors() {
            for (at, known) in self.known_at(above, path)? {
                if newest.as_ref().is_none_or(|(newest, _)| at > *newest) {
                    newest = Some((at, known));
                }
            }
        }
        for change in self.history.changes_of(self.history.live().captured()) {
            if change.settled > 0
                && newest.as_ref().is_none_or(|(newest, _)| change.settled > *newest)
                && let Some(left) = self.left_by(change)?
                && let Some(state) = left.at(path)
            {
                // An undo that failed, or met a conflict, restored some of its paths.
                let is_whole = change.state == ChangeState::Done;
                newest = Some((change.settled, if is_whole { Known::State(state) } else { Known::Anything }));
            }
        }
        Ok(match newest {
            Some((at, Known::State(mut state))) => {
                self.give_access(at, path, &mut |below, access| {
                    if below == path {
                        access.put_on(&mut state);
                    }
                })?;
                Some((at, LastKnown::State(state_value(&state))))
            }
            Some((at, Known::Anything)) => Some((at, LastKnown::Anything)),
            None => None,
        })
    }

    /// What the targets at `above` say of `path`, and since which record.
    fn known_at(&self, above: &Path, path: &Path) -> Result<Vec<(u64, Known)>> {
        let ledger = &self.history.ledger;
        let mut reported = Vec::new();
        if let Some(Recorded { state, at }) = ledger.get(&Target::file(above))
            && let Ok(state) = state.read::<FileState>()
        {
            if above == path {
                reported.push((*at, Known::State(state)));
            } else if !matches!(state, FileState::Directory { .. }) {
                reported.push((*at, Known::State(FileState::Absent)));
            }
        }
        if let Some(Recorded { state, at }) = ledger.get(&Target::tree(above)) {
            let manifest = change::read_recorded_tree(self.world, state)?;
            let relative = relative(above, path);
            match manifest.get_alone(&relative) {
                Some(state) => reported.push((*at, Known::State(state.clone()))),
                None if manifest.is_empty() || self.is_whole(above) => {
                    reported.push((*at, Known::State(FileState::Absent)));
                }
                None => {}
            }
        }
        if let Some(Recorded { state, at }) = ledger.get(&Target::product(above))
            && let Ok(state) = state.read::<CommandState>()
        {
            let is_there = state.product == Some(true);
            reported.push((*at, if is_there { Known::Anything } else { Known::State(FileState::Absent) }));
        }
        Ok(reported)
    }

    fn tree(&self, root: &Path) -> Result<Option<LastKnown>> {
        let mut base: Option<(u64, Manifest)> = None;
        for above in root.ancestors() {
            let Some(Recorded { state, at }) = self.history.ledger.get(&Target::tree(above)) else {
                continue;
            };
            if base.as_ref().is_none_or(|(newest, _)| at > newest) {
                let manifest = change::read_recorded_tree(self.world, state)?;
                let inner =
                    if above == root { manifest } else { manifest.below_path(&relative(above, root)) };
                base = Some((*at, inner));
            }
        }
        let Some((since, mut manifest)) = base else { return Ok(None) };
        self.add_copied_beside(root, &mut manifest)?;
        for path in self.newer_below(root, since)? {
            if let Some(LastKnown::State(state)) = self.file(&path)?
                && let Ok(state) = serde_json::from_value::<FileState>(state)
            {
                manifest.set(relative(root, &path), state);
            }
        }
        self.give_access(since, root, &mut |path, access| {
            if let Ok(relative_path) = path.strip_prefix(root) {
                let name = named(relative_path);
                if let Some(mut state) = manifest.get(&name).cloned() {
                    access.put_on(&mut state);
                    manifest.set(name, state);
                }
            }
        })?;
        Ok(Some(LastKnown::State(change::record_tree(self.world, &manifest)?)))
    }

    /// What a copy left says nothing of the entries that it does not name: those are as the changes before it left
    /// them, back to the last one to the whole tree.
    fn add_copied_beside(&self, root: &Path, manifest: &mut Manifest) -> Result<()> {
        let target = Target::tree(root);
        let is_made = |change: &&ChangeRecord| change.state == ChangeState::Done && change.settled > 0;
        let mut made: Vec<&ChangeRecord> = self.history.live_at(&target).filter(is_made).collect();
        made.sort_by_key(|change| std::cmp::Reverse(change.settled));
        for change in made {
            let left = change::read_recorded_tree(self.world, &change.intent.after)?;
            for (name, state) in left.entries() {
                if manifest.get(name.as_path()).is_none() {
                    manifest.set(name.as_path(), state.clone());
                }
            }
            if is_about_all(change) {
                break;
            }
        }
        Ok(())
    }

    /// The paths at and below `root` of which other targets have reported since.
    fn newer_below(&self, root: &Path, since: u64) -> Result<Vec<PathBuf>> {
        let mut found = vec![root.to_owned()];
        // Targets of a kind are ordered by their paths: those below `root` follow it.
        let ledger = &self.history.ledger;
        let is_newer = |recorded: &Recorded| recorded.at > since;
        let inside = |path: Option<&Path>| path.filter(|path| path.starts_with(root)).map(Path::to_owned);
        for (target, recorded) in ledger.range(Target::file(root)..) {
            let Some(path) = inside(target.path()).filter(|_| matches!(target, Target::File(_))) else {
                break;
            };
            found.extend(is_newer(recorded).then_some(path));
        }
        for (target, recorded) in ledger.range(Target::tree(root)..) {
            let Some(path) = inside(target.path()).filter(|_| matches!(target, Target::Tree(_))) else {
                break;
            };
            if is_newer(recorded) && path != root {
                let manifest = change::read_recorded_tree(self.world, &recorded.state)?;
                found.extend(manifest.below().map(|(name, _)| path.join(name)));
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Gives `put` what changes of access have given to paths since a record, in the order of the records.
    fn give_access(&self, since: u64, path: &Path, put: &mut dyn FnMut(&Path, &Access)) -> Result<()> {
        let meeting = self.history.access_meeting(path);
        let mut changes: Vec<_> = meeting.filter(|change| change.settled > since).collect();
        changes.sort_by_key(|change| change.settled);
        for known in changes {
            let Change::Access(change) = Change::of_intent(&known.intent)? else { continue };
            let is_undone = matches!(known.state, ChangeState::Undone(_));
            for (at, access) in change.given(self.world, is_undone)? {
                put(&at, &access);
            }
        }
        Ok(())
    }

    /// Whether the newest change to the tree at `root` was about all that is in it.
    fn is_whole(&self, root: &Path) -> bool {
        self.history.newest_at(&Target::tree(root)).is_some_and(is_about_all)
    }
}

fn is_about_all(known: &ChangeRecord) -> bool {
    matches!(Change::of_intent(&known.intent), Ok(Change::Tree(change)) if change.is_whole())
}

/// A path as a tree's manifest names it.
fn relative(root: &Path, path: &Path) -> PathBuf {
    named(path.strip_prefix(root).unwrap_or(path))
}

fn named(relative: &Path) -> PathBuf {
    let is_root = relative.as_os_str().is_empty();
    if is_root { PathText::new(".").as_path().to_owned() } else { relative.to_owned() }
}
