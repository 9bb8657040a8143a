//! Finds changes by their target and by their path, so that no question about one of them looks at all of them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::record::ChangeId;
use crate::target::Target;

/// The identities of changes, in ascending order in each list, by target and by path.
#[derive(Clone, Debug, Default)]
pub struct Index {
    by_target: BTreeMap<Target, Vec<ChangeId>>,
    by_path: BTreeMap<PathBuf, AtPath>,
    /// Those of captured commands: each is to many paths, which are no targets of their own.
    captured: Vec<ChangeId>,
}

/// The changes to what is at one path.
#[derive(Clone, Debug, Default)]
struct AtPath {
    /// Those to all of it, or to owners and modes.
    whole: Vec<ChangeId>,
    /// Those to parts of its text.
    parts: Vec<ChangeId>,
}

impl AtPath {
    fn list_of(&mut self, target: &Target) -> &mut Vec<ChangeId> {
        if target.is_part() { &mut self.parts } else { &mut self.whole }
    }
}

impl Index {
    pub(super) fn insert(&mut self, target: &Target, id: ChangeId) {
        insert(self.by_target.entry(target.clone()).or_default(), id);
        if let Target::Captured(_) = target {
            insert(&mut self.captured, id);
        }
        if let Some(path) = target.path() {
            insert(self.by_path.entry(path.to_owned()).or_default().list_of(target), id);
        }
    }

    /// Takes a change out: rollbacks come to the newest first, which is at the end of its lists.
    pub fn remove(&mut self, target: &Target, id: ChangeId) {
        if let Target::Captured(_) = target {
            remove(&mut self.captured, id);
        }
        if let Some(ids) = self.by_target.get_mut(target) {
            remove(ids, id);
            if ids.is_empty() {
                self.by_target.remove(target);
            }
        }
        let Some(path) = target.path() else { return };
        if let Some(at) = self.by_path.get_mut(path) {
            remove(at.list_of(target), id);
            if at.whole.is_empty() && at.parts.is_empty() {
                self.by_path.remove(path);
            }
        }
    }

    /// The changes to a target.
    pub fn at(&self, target: &Target) -> &[ChangeId] {
        self.by_target.get(target).map_or(&[], Vec::as_slice)
    }

    /// The changes of captured commands.
    pub fn captured(&self) -> &[ChangeId] {
        &self.captured
    }

    /// The changes to parts of the text at a path.
    pub fn parts_at(&self, path: &Path) -> &[ChangeId] {
        self.by_path.get(path).map_or(&[], |at| &at.parts)
    }

    /// The changes at a path and at those above it, a list for each path.
    pub fn above<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a [ChangeId]> {
        let at = path.ancestors().filter_map(|above| self.by_path.get(above));
        at.flat_map(|at| [at.whole.as_slice(), at.parts.as_slice()])
    }

    /// The changes below a path, a list for each path.
    pub fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a [ChangeId]> {
        // Paths are ordered by their components: what is below a path follows it.
        let after = self.by_path.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
        let below = after.take_while(move |(below, _)| below.starts_with(path));
        below.flat_map(|(_, at)| [at.whole.as_slice(), at.parts.as_slice()])
    }

    /// The changes that may hold the same content as one to this target, or contain it: those to the target itself, to
    /// its path and to the directories above it; to parts of its text only if it is the whole text; and those of captured
    /// commands.
    pub fn sharing<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a [ChangeId]> {
        let path = target.path();
        let whole = path.into_iter().flat_map(Path::ancestors).filter_map(|above| self.by_path.get(above));
        let parts = path.filter(|_| !target.is_part()).map(|path| self.parts_at(path));
        let whole = whole.map(|at| at.whole.as_slice());
        let captured = path.is_some().then_some(self.captured.as_slice());
        std::iter::once(self.at(target)).chain(parts).chain(whole).chain(captured)
    }
}

fn insert(ids: &mut Vec<ChangeId>, id: ChangeId) {
    if let Err(at) = ids.binary_search(&id) {
        ids.insert(at, id);
    }
}

fn remove(ids: &mut Vec<ChangeId>, id: ChangeId) {
    if let Ok(at) = ids.binary_search(&id) {
        ids.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        for (id, target) in (1..).zip([
            "tree:/a",
            "file:/a/b",
            "line:/a/b#k",
            "line:/a/b#l",
            "file:/a/b/c",
            "file:/a-b",
            "user:a",
        ]) {
            index.insert(&target.parse().unwrap(), id);
        }
        index
    }

    fn all<'a>(lists: impl Iterator<Item = &'a [ChangeId]>) -> Vec<ChangeId> {
        let mut ids = lists.flatten().copied().collect::<Vec<_>>();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn changes_are_found_by_what_they_share_and_by_where_they_are() {
        let index = index();
        let sharing = |target: &str| all(index.sharing(&target.parse().unwrap()));
        assert_eq!(sharing("file:/a/b"), [1, 2, 3, 4]);
        assert_eq!(sharing("line:/a/b#k"), [1, 2, 3]);
        assert_eq!(sharing("user:a"), [7]);
        assert_eq!(all(index.above(Path::new("/a/b/c/d"))), [1, 2, 3, 4, 5]);
        assert_eq!(all(index.below(Path::new("/a"))), [2, 3, 4, 5]);
        assert_eq!(all(index.below(Path::new("/a/b"))), [5]);
    }

    #[test]
    fn removed_change_is_found_nowhere() {
        let mut index = index();
        index.remove(&"file:/a/b".parse().unwrap(), 2);
        index.remove(&"line:/a/b#k".parse().unwrap(), 3);
        assert_eq!(all(index.sharing(&"file:/a/b".parse().unwrap())), [1, 4]);
        assert!(index.at(&"line:/a/b#k".parse().unwrap()).is_empty());
    }
}
