//! Owner, group and mode of the entries of a tree, where they differ from the desired ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, OnDoubt, Payload, Position, UndoTerms, Undone, World, shortened, state_value};
use crate::journal::Undoing;
use crate::machine::files::{self, Access, Digest, PathText};
use crate::target::{States, Target};

/// A list of at most this many entries is in the journal itself, a longer one in the backups.
const MOST_HERE: usize = 32;

type List = BTreeMap<PathText, Access>;

/// A change to the access of entries of a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessChange {
    before: AccessState,
    after: AccessState,
    inverse: AccessInverse,
    /// What was found and what is desired, on their way to the backups.
    #[serde(skip)]
    lists: Option<(List, List)>,
}

/// The access of each entry that the change is about, by its path from the root of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AccessState {
    /// A short list.
    Here(BTreeMap<PathText, Access>),
    /// A long one, which is in the backups.
    Kept {
        /// How many entries.
        entries: usize,
        /// The digest of the list.
        list: Digest,
    },
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessInverse {
    path: PathText,
}

impl AccessState {
    fn of(list: &List) -> Result<Self> {
        Ok(if list.len() <= MOST_HERE {
            Self::Here(list.clone())
        } else {
            Self::Kept { entries: list.len(), list: Digest::of(&blob(list)?) }
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Here(list) => list.len(),
            Self::Kept { entries, .. } => *entries,
        }
    }

    fn read(&self, world: &World) -> Result<List> {
        match self {
            Self::Here(list) => Ok(list.clone()),
            Self::Kept { list, .. } => serde_json::from_slice(&world.backups()?.read(*list)?)
                .with_context(|| format!("backup `{list}` is invalid: expected a list of owners and modes")),
        }
    }

    fn save(&self, list: &List, world: &World) -> Result<()> {
        if let Self::Kept { .. } = self {
            world.backups()?.save(&blob(list)?)?;
        }
        Ok(())
    }
}

fn blob(list: &List) -> Result<Vec<u8>> {
    serde_json::to_vec(list).context("cannot write owners and modes as JSON")
}

impl AccessChange {
    /// The change that gives every entry of the tree at the canonical path `path` the access that `desired` makes of
    /// its present one; `None` if all have it already.
    pub fn towards(path: &Path, desired: &dyn Fn(&Access) -> Access) -> Result<Option<Self>> {
        let mut before = List::new();
        let mut after = List::new();
        for (name, access) in files::observe_access(path)? {
            let wanted = desired(&access);
            if wanted != access {
                before.insert(name.clone(), access);
                after.insert(name, wanted);
            }
        }
        if before.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            before: AccessState::of(&before)?,
            after: AccessState::of(&after)?,
            inverse: AccessInverse { path: PathText::new(path) },
            lists: Some((before, after)),
        }))
    }

    /// The access that acting set on each path; with `undone`, the one that undoing restored.
    ///
    /// # Errors
    /// When the backups cannot be read.
    pub fn given(&self, world: &World, undone: bool) -> Result<Vec<(PathBuf, Access)>> {
        let (before, after) = self.lists(world)?;
        let list = if undone { before } else { after };
        Ok(list.into_iter().map(|(name, access)| (self.entry(&name), access)).collect())
    }

    fn entry(&self, name: &PathText) -> PathBuf {
        if name.as_path() == Path::new(".") { self.path().to_owned() } else { self.path().join(name) }
    }

    fn path(&self) -> &Path {
        self.inverse.path.as_path()
    }

    fn lists(&self, world: &World) -> Result<(List, List)> {
        match &self.lists {
            Some(lists) => Ok(lists.clone()),
            None => Ok((self.before.read(world)?, self.after.read(world)?)),
        }
    }

    /// The listed entries that are still there and of the same kind, as they are now.
    fn observe(&self, listed: &List) -> Result<List> {
        // Something else may be in the tree's place by now.
        if std::fs::symlink_metadata(self.path()).is_ok_and(|root| !root.is_dir()) {
            return Ok(List::new());
        }
        let mut now = files::observe_access(self.path())?;
        now.retain(|name, access| listed.get(name).is_some_and(|listed| listed.kind == access.kind));
        Ok(now)
    }
}

fn paired(from: &List, to: &List) -> BTreeMap<PathText, (Access, Access)> {
    from.iter().filter_map(|(name, from)| Some((name.clone(), (*from, *to.get(name)?)))).collect()
}

/// A line for each entry that is not as in `list`.
fn differences(list: &List, now: &List) -> Vec<String> {
    now.iter()
        .filter_map(|(name, now)| {
            let expected = list.get(name)?;
            (expected != now).then(|| format!("{name}: {expected} → {now}"))
        })
        .collect()
}

impl Kind for AccessChange {
    fn target(&self) -> Target {
        Target::Access(self.path().into())
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        let of = |state: &AccessState| match state {
            AccessState::Here(_) => None,
            AccessState::Kept { list, .. } => Some(*list),
        };
        [&self.before, &self.after].into_iter().filter_map(of).collect()
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let Some((before, after)) = &self.lists else { return Ok(Vec::new()) };
        let is_given = |(name, access): &(&PathText, &Access)| before.get(*name) != Some(*access);
        let given = after.iter().filter(is_given);
        super::accounts_of(given.map(|(_, access)| (access.owner, access.group)))
    }

    fn summary(&self) -> String {
        let entries = self.before.len();
        let counted = if entries == 1 { "entry" } else { "entries" };
        format!("set owner and mode of {entries} {counted} of {}", self.inverse.path)
    }

    fn difference(&self, world: &World) -> Option<String> {
        let (before, after) = self.lists(world).ok()?;
        Some(differences(&before, &after).join("\n"))
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        let (before, after) = self.lists(world)?;
        self.before.save(&before, world)?;
        self.after.save(&after, world)
    }

    fn reaches(&self, path: &Path, world: &World) -> bool {
        let Ok((_, after)) = self.lists(world) else { return true };
        after.keys().any(|name| self.entry(name) == path)
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let (before, after) = self.lists(world)?;
        files::set_access(self.path(), &paired(&before, &after))
    }

    fn position(&self, world: &World) -> Result<Position> {
        let (before, after) = self.lists(world)?;
        let now = self.observe(&after)?;
        let differing = differences(&after, &now);
        Ok(if differing.is_empty() {
            Position::After
        } else if differences(&before, &now).is_empty() {
            Position::Before
        } else if now.iter().all(|(name, now)| {
            before
                .get(name)
                .zip(after.get(name))
                .is_some_and(|(before, after)| now.lies_between(before, after))
        }) {
            Position::Between
        } else {
            Position::Neither(shortened(differing))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let (_, after) = self.lists(world)?;
        let differing = differences(&after, &self.observe(&after)?);
        if !differing.is_empty() {
            let path = &self.inverse.path;
            anyhow::bail!("owners and modes in `{path}` are not as desired: {}", shortened(differing));
        }
        Ok([(self.target(), state_value(&self.after))].into())
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let (before, after) = self.lists(world)?;
        let now = self.observe(&after)?;
        let recorded = terms
            .recorded
            .and_then(|value| serde_json::from_value::<AccessState>(value.clone()).ok())
            .and_then(|state| state.read(world).ok())
            .unwrap_or_default();
        let is_back: BTreeMap<_, _> = [(self.target(), state_value(&self.before))].into();
        // Entries that are gone need nothing.
        if differences(&before, &now).is_empty() {
            return Ok(Undone::Back(Undoing::Already, is_back));
        }
        let mut expected = after.clone();
        for (name, state) in &mut expected {
            if let Some(recorded) = recorded.get(name).filter(|recorded| recorded.kind == state.kind) {
                *state = *recorded;
            }
        }
        let mut by_others = now.clone();
        // What this change itself left counts as well as what is recorded: another change may have been undone since.
        by_others.retain(|name, access| {
            let ends = before.get(name).zip(after.get(name));
            !ends.is_some_and(|(before, after)| access.lies_between(before, after))
        });
        let conflicts = differences(&expected, &by_others);
        if !conflicts.is_empty() && !terms.force {
            return Ok(Undone::Conflict(shortened(conflicts)));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        files::set_access(self.path(), &paired(&now, &before))?;
        Ok(Undone::Back(Undoing::Restored, is_back))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::change::Change;
    use crate::change::testing::{from_record, undo, world};

    fn closed(access: &Access) -> Access {
        Access { mode: access.mode & 0o700, ..*access }
    }

    #[test]
    fn differing_entries_are_changed_and_undone_and_those_of_others_are_a_conflict() {
        for entries in [2, 2 * MOST_HERE] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().canonicalize().unwrap();
            let root = path.join("tree");
            std::fs::create_dir_all(&root).unwrap();
            for number in 0..entries {
                std::fs::write(root.join(number.to_string()), "").unwrap();
            }
            let own = root.join("own");
            std::fs::write(&own, "").unwrap();
            std::fs::set_permissions(&own, PermissionsExt::from_mode(0o600)).unwrap();
            let before = files::observe_access(&root).unwrap();
            let mut world = world(&path);

            let change = AccessChange::towards(&root, &closed).unwrap().unwrap();
            change.prepare(&world).unwrap();
            change.act(&world, Payload::Nothing).unwrap();
            let change = Change::Access(change);
            assert_eq!(
                change.kind().summary(),
                format!("set owner and mode of {} entries of {}", entries + 1, root.display())
            );
            assert!(AccessChange::towards(&root, &closed).unwrap().is_none());
            let again = from_record(&change);
            assert_eq!(again.kind().position(&world).unwrap(), Position::After);
            let recorded = again.kind().recorded(&world).unwrap().remove(&change.kind().target()).unwrap();

            let second = root.join("1");
            std::fs::set_permissions(&second, PermissionsExt::from_mode(0o604)).unwrap();
            assert!(matches!(again.kind().position(&world).unwrap(), Position::Neither(_)));
            let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
            assert!(why.starts_with("1: file 0600 ") && why.contains("→ file 0604 "), "{why}");
            std::fs::set_permissions(&second, PermissionsExt::from_mode(0o600)).unwrap();

            std::fs::remove_file(root.join("0")).unwrap();
            let undone = undo(&mut world, &change, Some(&recorded), false);
            assert!(matches!(undone, Undone::Back(Undoing::Restored, _)), "{undone:?}");
            let mut left = before.clone();
            left.remove(&PathText::new("0"));
            assert_eq!(files::observe_access(&root).unwrap(), left);
            let undone = undo(&mut world, &change, Some(&recorded), false);
            assert!(matches!(undone, Undone::Back(Undoing::Already, _)), "{undone:?}");

            std::fs::set_permissions(&second, PermissionsExt::from_mode(0o604)).unwrap();
            let undone = undo(&mut world, &change, Some(&recorded), true);
            assert!(matches!(undone, Undone::Back(Undoing::Restored, _)), "{undone:?}");
            assert_eq!(files::observe_access(&root).unwrap(), left);
        }
    }

    #[test]
    fn access_that_is_set_and_restored_is_reported_by_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let root = path.join("tree");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("file"), "f").unwrap();
        let world = world(&path);
        let before = files::observe_access(&root).unwrap();
        let change = AccessChange::towards(&root, &closed).unwrap().unwrap();
        change.act(&world, Payload::Nothing).unwrap();
        let after = files::observe_access(&root).unwrap();
        for (undone, list) in [(false, after), (true, before)] {
            let given: BTreeMap<_, _> = change.given(&world, undone).unwrap().into_iter().collect();
            assert_eq!(given[&root.join("file")], list[&PathText::new("file")]);
            assert_eq!(given[&root], list[&PathText::new(".")]);
        }
        assert!(change.reaches(&root.join("file"), &world) && !change.reaches(&root.join("other"), &world));
    }
}
