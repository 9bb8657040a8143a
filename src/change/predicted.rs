//! What a dry run predicted so far. Where it comes to the same thing again, that is what a run would find.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::machine::files::{Attributes, FileState, Manifest};

/// The paths and accounts that are otherwise by then.
#[derive(Clone, Debug, Default)]
pub struct Predicted {
    paths: BTreeMap<PathBuf, PredictedPath>,
    /// By name, the numbers of the user and of its group.
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, u32>,
    /// By name, whether it will be installed.
    packages: BTreeMap<String, bool>,
}

/// What will be at a path.
#[derive(Clone, Debug)]
pub struct PredictedPath {
    /// Its state.
    pub state: FileState,
    /// The content of a file, where it is known.
    pub content: Option<Rc<[u8]>>,
    /// Nothing is below it that is not predicted, too.
    is_new: bool,
}

impl Predicted {
    /// What is predicted at a canonical path; none where it is as it is now.
    pub fn at(&self, path: &Path) -> Option<PredictedPath> {
        if let Some(known) = self.paths.get(path) {
            return Some(known.clone());
        }
        let above = path.ancestors().skip(1).find_map(|above| self.paths.get(above))?;
        let absent = PredictedPath { state: FileState::Absent, content: None, is_new: true };
        above.is_new.then_some(absent)
    }

    /// The numbers of a user that will be made, and of the user's group.
    pub fn user(&self, name: &str) -> Option<(u32, u32)> {
        self.users.get(name).copied()
    }

    /// The number of a group that will be made.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    /// The entries that will be at a path and below it, if all of them are known.
    pub fn tree(&self, root: &Path) -> Option<impl Iterator<Item = &FileState>> {
        let is_new = self.paths.get(root)?.is_new;
        let below = self.paths.range(root.to_owned()..).take_while(move |(path, _)| path.starts_with(root));
        is_new.then(|| below.map(|(_, known)| &known.state))
    }

    /// The names of what will be in a directory, if all of them are known.
    pub fn names_in(&self, directory: &Path) -> Option<Vec<String>> {
        let is_new = self.paths.get(directory)?.is_new;
        let is_there = |(path, known): &(&PathBuf, &PredictedPath)| {
            path.parent() == Some(directory) && !known.state.is_absent()
        };
        let below = self.paths.iter().filter(is_there).filter_map(|(path, _)| path.file_name());
        is_new.then(|| below.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// Whether a package will be installed; none if it is as it is now.
    pub fn has_package(&self, name: &str) -> Option<bool> {
        self.packages.get(name).copied()
    }

    pub(super) fn set_packages(&mut self, names: impl Iterator<Item = String>, are_there: bool) {
        self.packages.extend(names.map(|name| (name, are_there)));
    }

    /// The content of a file is known.
    pub fn set_content(&mut self, path: &Path, content: Rc<[u8]>) {
        if let Some(known) = self.paths.get_mut(path) {
            known.content = Some(content);
        }
    }

    /// A directory is there, made by kkrun or by a package.
    pub fn set_directory(&mut self, path: &Path, attributes: &Attributes) {
        let state = FileState::directory(attributes);
        self.paths.insert(path.to_owned(), PredictedPath { state, content: None, is_new: false });
    }

    pub(super) fn set_path(
        &mut self,
        path: &Path,
        before: &FileState,
        state: &FileState,
        content: Option<Rc<[u8]>>,
    ) {
        let is_directory = |state: &FileState| matches!(state, FileState::Directory { .. });
        let was_new = self.at(path).is_some_and(|known| known.is_new);
        let is_new = was_new || !(is_directory(before) && is_directory(state));
        self.paths.insert(path.to_owned(), PredictedPath { state: state.clone(), content, is_new });
    }

    pub(super) fn set_tree(&mut self, root: &Path, before: &Manifest, after: &Manifest, is_whole: bool) {
        if is_whole {
            self.paths.retain(|path, _| !path.starts_with(root));
        }
        for (name, state) in after.entries() {
            let is_root = name.as_path() == Path::new(".");
            let path = if is_root { root.to_owned() } else { root.join(name) };
            let absent = FileState::Absent;
            let before = if is_whole { &absent } else { before.get(name.as_path()).unwrap_or(&absent) };
            self.set_path(&path, before, state, None);
        }
        if !is_whole {
            for (name, state) in before.entries().filter(|(name, _)| after.get(name.as_path()).is_none()) {
                self.set_path(&root.join(name), state, &FileState::Absent, None);
            }
        }
        if after.is_empty() {
            self.set_path(root, &FileState::Absent, &FileState::Absent, None);
        }
    }

    pub(super) fn set_user(&mut self, name: &str, (uid, gid): (u32, u32)) {
        self.users.insert(name.to_owned(), (uid, gid));
    }

    pub(super) fn set_group(&mut self, name: &str, gid: u32) {
        self.groups.insert(name.to_owned(), gid);
    }
}
