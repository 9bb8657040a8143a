//! Trees that are new as a whole: their files are the plan's, and one call copies them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::action::Action;
use super::files::{Towards, quoted};
use super::literal;
use super::output::Output;
use crate::machine::clone::root_files::{Seen, SeenKind};

/// A tree with fewer files is written file by file.
const FEWEST: usize = 12;
/// A tree with more is not put into a plan.
const MOST: usize = 5000;

/// A new directory with all that is in it.
pub(super) struct Tree {
    root: PathBuf,
    inside: Vec<(PathBuf, Seen)>,
}

impl Towards<'_> {
    /// The outermost new directories that hold many files of one owner, none of which is a product's, a unit's or holds a
    /// secret. `seen` has what is new.
    pub(super) fn trees(
        &self,
        seen: &BTreeMap<PathBuf, Seen>,
        is_apart: &dyn Fn(&Path) -> bool,
    ) -> Vec<Tree> {
        let mut trees: Vec<Tree> = Vec::new();
        for (root, directory) in seen.iter().filter(|(_, seen)| seen.kind == SeenKind::Directory) {
            if trees.iter().any(|tree| root.starts_with(&tree.root)) || root.starts_with("/etc") {
                continue;
            }
            let inside: Vec<(PathBuf, Seen)> = seen
                .range::<Path, _>((std::ops::Bound::Excluded(root.as_path()), std::ops::Bound::Unbounded))
                .take_while(|(path, _)| path.starts_with(root))
                .map(|(path, seen)| (path.clone(), seen.clone()))
                .collect();
            let files = inside.iter().filter(|(_, seen)| seen.kind == SeenKind::File).count();
            let is_home = self.to.accounts.users.values().any(|user| Path::new(&user.home) == root);
            if !(FEWEST..=MOST).contains(&files) || is_home || is_apart(root) {
                continue;
            }
            let is_other = |(path, seen): &(PathBuf, Seen)| {
                seen.kind == SeenKind::Special
                    || path.to_str().is_none()
                    || matches!(&seen.kind, SeenKind::Link(target) if target.to_str().is_none())
                    || is_apart(path)
                    || self.to.owners(seen) != self.to.owners(directory)
                    || seen.kind == SeenKind::File && self.holds_secret(path)
            };
            if !inside.iter().any(is_other) {
                trees.push(Tree { root: root.clone(), inside });
            }
        }
        trees
    }

    /// The files of a tree that not everyone may read.
    pub(super) fn private_files(&self, tree: &Tree) -> Vec<PathBuf> {
        let inside = tree.inside.iter().filter(|(path, seen)| self.is_private(path, seen));
        inside.map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn holds_secret(&self, path: &Path) -> bool {
        !self.secrets.within(&self.to.files.text(&path.to_string_lossy())).is_empty()
    }

    /// The calls that make a tree.
    pub(super) fn tree(&self, tree: &Tree, directory: &Seen, output: &mut Output) -> Result<Vec<Action>> {
        let above = tree.root.parent().and_then(|above| self.to.files.look(above).ok().flatten());
        let usual = above.map(|above| self.to.owners(&above)).unwrap_or_default();
        let options = self.ownership(self.to.owners(directory), &usual);
        let mut of_mode: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut code = Vec::new();
        let mut kept = String::new();
        let holding: BTreeSet<&Path> = tree
            .inside
            .iter()
            .filter(|(_, seen)| seen.kind == SeenKind::File)
            .flat_map(|(path, _)| path.ancestors().skip(1))
            .collect();
        let of_directory = |mode: u32, options: &[(&'static str, String)]| {
            let mut options = options.to_vec();
            if mode != 0o755 {
                options.push(("mode", literal::string(&format!("{mode:04o}"))));
            }
            literal::options(&options)
        };
        for (path, seen) in &tree.inside {
            match &seen.kind {
                SeenKind::File => {
                    let Some(bytes) = self.to.files.bytes(path)? else { continue };
                    let name = output.keep(path, &bytes)?;
                    let inner = path.strip_prefix(&tree.root).unwrap_or(path);
                    let of_root = name.strip_suffix(&format!("/{}", inner.display())).unwrap_or(&name);
                    kept = String::from(of_root);
                    if seen.mode != 0o644 {
                        of_mode.entry(seen.mode).or_default().push(path.to_string_lossy().into_owned());
                    }
                }
                // A directory of a plan that holds nothing is easily lost.
                SeenKind::Directory if !holding.contains(path.as_path()) => {
                    code.push(format!(
                        "file::make_dir({}{});",
                        quoted(path),
                        of_directory(seen.mode, &options)
                    ));
                }
                SeenKind::Directory if seen.mode != 0o755 => {
                    of_mode.entry(seen.mode).or_default().push(path.to_string_lossy().into_owned());
                }
                SeenKind::Link(target) => {
                    code.push(format!(
                        "file::link({}, {}{});",
                        quoted(target),
                        quoted(path),
                        literal::options(&options)
                    ));
                }
                SeenKind::Directory | SeenKind::Special => {}
            }
        }
        if directory.mode != 0o755 {
            of_mode.entry(directory.mode).or_default().push(tree.root.to_string_lossy().into_owned());
        }
        code.insert(
            0,
            format!(
                "file::copy({}, {}{});",
                literal::string(&kept),
                quoted(&tree.root),
                literal::options(&options)
            ),
        );
        for (mode, paths) in of_mode {
            let mode = literal::string(&format!("{mode:04o}"));
            code.push(match &paths[..] {
                [path] => format!("file::access({}, #{{ mode: {mode} }});", literal::string(path)),
                paths => format!(
                    "for path in {} {{\n    file::access(path, #{{ mode: {mode} }});\n}}",
                    literal::array(paths)
                ),
            });
        }
        let mut actions = vec![self.made(&tree.root, directory, code.join("\n"))];
        let first = tree.inside.iter().filter_map(|(_, seen)| self.stamp(seen)).min();
        if let Some(action) = actions.first_mut() {
            action.when = action.when.into_iter().chain(first).min();
        }
        Ok(actions)
    }

    /// Whether a tree holds this path.
    pub(super) fn is_in(trees: &[Tree], path: &Path) -> bool {
        trees.iter().any(|tree| path.starts_with(&tree.root))
    }
}

impl Tree {
    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}
