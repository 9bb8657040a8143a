//! The root directory of a clone: overlays over the file systems of the base, and which parts of the base it hides.

use std::ffi::CString;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use super::id_range::{Attached, IdRange, View};
use super::overlay_difference::{self, Difference};
use crate::machine::mount::Overlay;
use crate::machine::trusted;

/// A file system of the base that the clone shows through an overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Its path as the clone sees it: `/`, `/home`.
    pub at: PathBuf,
    /// What the clone must not see: the paths as it sees them.
    pub hidden: Vec<PathBuf>,
    /// Directories that the clone finds empty.
    pub emptied: Vec<PathBuf>,
    /// Files that the clone has of its own: path and text.
    pub written: Vec<(PathBuf, String)>,
}

impl Layer {
    /// Whether a path is gone with a directory that the clone must not see, or finds empty: a socket of another rehearsal,
    /// in the directory of all rehearsals.
    fn is_within_another(&self, path: &Path) -> bool {
        let mut others = self.hidden.iter().chain(&self.emptied);
        others.any(|other| path != other && path.starts_with(other))
    }
}

/// The mounted root of a clone. Everything is unmounted when it is dropped.
#[derive(Debug)]
pub struct CloneRoot {
    overlays: Vec<(Layer, Overlay)>,
    /// The views below the layers, with mapped owners. Unmounted after the layers, the last one first.
    views: Vec<Attached>,
    scratch: PathBuf,
    merged: PathBuf,
    durable: bool,
    users: Option<IdRange>,
}

impl CloneRoot {
    /// An empty one in a scratch directory; `durable` if a sync in it must reach the disk.
    pub fn new(scratch: &Path, durable: bool) -> Self {
        Self {
            overlays: Vec::new(),
            views: Vec::new(),
            scratch: scratch.to_owned(),
            merged: scratch.join("root"),
            durable,
            users: None,
        }
    }

    /// Gives the clone its own range of users: it sees the scratch directory through this view.
    pub fn map(&mut self, users: IdRange, scratch: View) -> Result<()> {
        let shown = mapped_scratch(&self.scratch);
        make_directory(&shown)?;
        self.views.push(scratch.attach(&shown)?);
        self.scratch = shown;
        self.users = Some(users);
        Ok(())
    }

    /// The numbers that the clone's users have on this machine, if they are others.
    pub fn users(&self) -> Option<IdRange> {
        self.users
    }

    /// The scratch directory with the owners that the clone must see.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The directory that the clone's root is seen at.
    pub fn path(&self) -> &Path {
        &self.merged
    }

    /// Adds a layer; number 0 is that of `/`. `view` shows its file system with mapped owners.
    pub fn add(
        &mut self,
        number: usize,
        base: &Path,
        layer: Layer,
        scratch: &Path,
        view: Option<View>,
    ) -> Result<()> {
        let lower = below(base, &layer.at);
        let [upper, work] = ["upper", "work"].map(|side| scratch.join(format!("{side}-{number}")));
        for directory in [&upper, &work] {
            make_directory(directory)?;
        }
        copy_metadata(&lower, &upper)?;
        for path in layer.hidden.iter().filter(|path| !layer.is_within_another(path)) {
            hide(&lower, &upper, inside(path, &layer.at))?;
        }
        for path in &layer.emptied {
            empty(&lower, &upper, inside(path, &layer.at))?;
        }
        for (path, text) in &layer.written {
            let relative = inside(path, &layer.at);
            make_parents(&lower, &upper, relative)?;
            let file = upper.join(relative);
            std::fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        let merged = below(&self.merged, &layer.at);
        if number == 0 {
            make_directory(&merged)?;
        }
        let (Some(users), Some(view)) = (self.users, view) else {
            self.overlays.push((layer, Overlay::mount(&lower, &upper, &work, &merged, self.durable)?));
            return Ok(());
        };
        let lower = mapped_lower(scratch, number);
        make_directory(&lower)?;
        self.views.push(view.attach(&lower)?);
        let [upper, work] = ["upper", "work"].map(|side| self.scratch.join(format!("{side}-{number}")));
        // What an overlay itself creates belongs to the user who mounted it, whom the mapped mounts must know.
        let mount = || Overlay::mount(&lower, &upper, &work, &merged, self.durable);
        self.overlays.push((layer, users.as_root_of(mount)?));
        Ok(())
    }

    /// Everything on disk that differs between the clone and its base, except what was hidden or written in
    /// preparation.
    pub fn differences(&self) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        for (layer, overlay) in &self.overlays {
            let written = layer.written.iter().map(|(path, _)| path);
            let apart: Vec<PathBuf> =
                layer.hidden.iter().chain(&layer.emptied).chain(written).cloned().collect();
            found.extend(overlay_difference::differences(overlay, &layer.at, &apart)?);
        }
        found.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(found)
    }

    /// The links in the directories below `directory` that were made in the clone: directory name, link name.
    pub fn new_links(&self, directory: &Path) -> Result<Vec<(String, String)>> {
        self.overlay_of(directory).map_or(Ok(Vec::new()), |(layer, overlay)| {
            links(&overlay.upper.join(inside(directory, &layer.at)))
        })
    }

    /// The links in the directories below `directory` as the clone sees them.
    pub fn all_links(&self, directory: &Path) -> Result<Vec<(String, String)>> {
        links(&below(&self.merged, directory))
    }

    /// Whether something at this path was made or changed in the clone.
    pub fn holds(&self, path: &Path) -> bool {
        self.overlay_of(path).is_some_and(|(layer, overlay)| {
            std::fs::symlink_metadata(overlay.upper.join(inside(path, &layer.at)))
                .is_ok_and(|found| !found.file_type().is_char_device())
        })
    }

    fn overlay_of(&self, path: &Path) -> Option<&(Layer, Overlay)> {
        let holding = self.overlays.iter().filter(|(layer, _)| path.starts_with(&layer.at));
        holding.max_by_key(|(layer, _)| layer.at.as_os_str().len())
    }

    /// Leaves it mounted when dropped.
    pub fn keep(&mut self) {
        self.overlays.iter_mut().for_each(|(_, overlay)| overlay.keep());
        self.views.iter_mut().for_each(Attached::keep);
    }
}

impl Drop for CloneRoot {
    fn drop(&mut self) {
        // Inner mounts are unmounted first.
        while self.overlays.pop().is_some() {}
        while self.views.pop().is_some() {}
    }
}

/// Where a scratch directory is mounted with mapped owners.
pub fn mapped_scratch(scratch: &Path) -> PathBuf {
    scratch.join("mapped")
}

/// Where the file system of a layer is mounted with mapped owners.
pub fn mapped_lower(scratch: &Path, number: usize) -> PathBuf {
    scratch.join(format!("lower-{number}"))
}

/// A path of the base or clone as this machine sees it.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The links in the directories below one: directory name, link name. Names that are not UTF-8 are skipped: no unit has
/// such a name.
pub fn links(directory: &Path) -> Result<Vec<(String, String)>> {
    let text = |name: std::ffi::OsString| name.into_string().ok();
    let found = overlay_difference::links(directory)?;
    Ok(found.into_iter().filter_map(|(outer, inner)| Some((text(outer)?, text(inner)?))).collect())
}

/// The names of the files in a directory of the base; empty if the directory does not exist.
pub fn file_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The sockets with a path that processes of this machine listen at: connecting to one through an overlay would reach
/// the process. Source: proc_net(5), unix.
pub fn listening_sockets() -> Vec<PathBuf> {
    let list = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut paths: Vec<PathBuf> = list
        .lines()
        .filter_map(|line| line.find(" /").map(|start| PathBuf::from(&line[start + 1..])))
        .filter(|path| std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// The text of a small file, or nothing if it cannot be read.
pub fn text_of(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The file name of what a link at this path in a root directory points to, if it is a link.
pub fn link_name(root: &Path, path: &Path) -> Option<String> {
    let target = std::fs::read_link(below(root, path)).ok()?;
    target.file_name().and_then(std::ffi::OsStr::to_str).map(str::to_owned)
}

/// Whether a path is a regular file, links followed.
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// Whether a path is a directory, and no link to one.
pub fn is_directory(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// The path with all links followed.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("cannot find `{}`", path.display()))
}

/// Whether two files can be read and hold the same.
pub fn same_text(left: &Path, right: &Path) -> bool {
    matches!((std::fs::read(left), std::fs::read(right)), (Ok(left), Ok(right)) if left == right)
}

/// Copies a file for a clone, with a mode that lets every user in it read it.
pub fn copy_for_all(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let uncopied = || format!("cannot copy `{}` for the clone", from.display());
    std::fs::copy(from, to).with_context(uncopied)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).with_context(uncopied)
}

fn inside<'path>(path: &'path Path, at: &Path) -> &'path Path {
    path.strip_prefix(at).unwrap_or(path)
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir(path).with_context(|| format!("cannot create `{}`", path.display()))
}

/// Creates the parents of a path in the upper side, with the metadata of those in the lower side.
fn make_parents(lower: &Path, upper: &Path, path: &Path) -> Result<()> {
    let parents: Vec<&Path> =
        path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    for parent in parents.iter().rev() {
        let made = upper.join(parent);
        if !made.is_dir() {
            make_directory(&made)?;
            copy_metadata(&lower.join(parent), &made)?;
        }
    }
    Ok(())
}

/// A character device 0/0 in the upper side is a deletion. Source: Documentation/filesystems/overlayfs.rst.
fn hide(lower: &Path, upper: &Path, path: &Path) -> Result<()> {
    make_parents(lower, upper, path)?;
    let mark = upper.join(path);
    mknodat(CWD, &mark, FileType::CharacterDevice, Mode::empty(), 0)
        .with_context(|| format!("cannot hide `{}` in the clone", path.display()))
}

fn empty(lower: &Path, upper: &Path, path: &Path) -> Result<()> {
    make_parents(lower, upper, path)?;
    let directory = upper.join(path);
    make_directory(&directory)?;
    copy_metadata(&lower.join(path), &directory)?;
    rustix::fs::setxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .with_context(|| format!("cannot mark `{}` as empty in the clone", directory.display()))
}

/// Gives a directory the owner, attributes and mode of another; the mode last, because changing the owner may clear
/// bits.
pub fn copy_metadata(from: &Path, to: &Path) -> Result<()> {
    let found = std::fs::metadata(from).with_context(|| format!("cannot access `{}`", from.display()))?;
    let unchangeable = || format!("cannot make `{}` like `{}`", to.display(), from.display());
    chown(to, Some(found.uid()), Some(found.gid())).with_context(unchangeable)?;
    for (name, value) in overlay_difference::attributes(from)? {
        let name = CString::new(name).context("the name of an attribute contains a NUL byte")?;
        rustix::fs::setxattr(to, name.as_c_str(), &value, XattrFlags::empty()).with_context(unchangeable)?;
    }
    let mode = std::fs::Permissions::from_mode(found.mode() & 0o7777);
    std::fs::set_permissions(to, mode).with_context(unchangeable)
}

/// The most that is copied into a clone of one plan, in bytes.
const PLAN_LIMIT: u64 = 512 * 1024 * 1024;

/// How deep below a plan's root its scripts may be.
const PLAN_DEPTH: usize = 4;

/// Copies what a plan's root holds of scripts, and its `files`, for a clone. Files that only root, or the user who
/// called sudo, could have written belong to root in the copy; all others keep owner and mode, so that kkrun refuses
/// them there as it would here.
pub fn copy_plan(root: &Path, to: &Path) -> Result<()> {
    let mut left = PLAN_LIMIT;
    copy_scripts(root, to, PLAN_DEPTH, &mut left)
        .and_then(|()| match root.join("files") {
            files if is_directory(&files) => copy_tree(&files, &to.join("files"), &mut left),
            _ => Ok(()),
        })
        .with_context(|| format!("cannot copy the plan in `{}` for the clone", root.display()))
}

/// Copies a file for a clone, with its owner and mode as [`copy_plan`] has them.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    copy_tree(from, to, &mut PLAN_LIMIT.clone())
        .with_context(|| format!("cannot copy `{}` for the clone", from.display()))
}

fn copy_scripts(from: &Path, to: &Path, depth: usize, left: &mut u64) -> Result<()> {
    let unreadable = || format!("cannot read `{}`", from.display());
    std::fs::create_dir_all(to).with_context(|| format!("cannot create `{}`", to.display()))?;
    give_like(&std::fs::symlink_metadata(from).with_context(unreadable)?, to)?;
    for entry in std::fs::read_dir(from).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().with_context(unreadable)?;
        if kind.is_dir() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if depth > 1 && !hidden && entry.file_name() != "files" && holds_scripts(&path, depth - 1) {
                copy_scripts(&path, &copy, depth - 1, left)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rhai") {
            copy_tree(&path, &copy, left)?;
        }
    }
    Ok(())
}

fn holds_scripts(directory: &Path, depth: usize) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|extension| extension == "rhai")
            || depth > 1 && is_directory(&path) && holds_scripts(&path, depth - 1)
    })
}

fn copy_tree(from: &Path, to: &Path, left: &mut u64) -> Result<()> {
    let unreadable = || format!("cannot read `{}`", from.display());
    let unwritable = || format!("cannot write `{}`", to.display());
    let found = std::fs::symlink_metadata(from).with_context(unreadable)?;
    if found.is_dir() {
        make_directory(to)?;
        for entry in std::fs::read_dir(from).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            copy_tree(&entry.path(), &to.join(entry.file_name()), left)?;
        }
    } else if found.is_symlink() {
        let target = std::fs::read_link(from).with_context(unreadable)?;
        return std::os::unix::fs::symlink(target, to).with_context(unwritable);
    } else if found.is_file() {
        *left = left
            .checked_sub(found.len())
            .with_context(|| format!("it is larger than {} MiB", PLAN_LIMIT / 1024 / 1024))?;
        std::fs::copy(from, to).with_context(unreadable)?;
    } else {
        return Ok(());
    }
    give_like(&found, to)
}

fn give_like(found: &Metadata, to: &Path) -> Result<()> {
    let unwritable = || format!("cannot write `{}`", to.display());
    let (owner, group, mode) = if trusted::only_trusted_wrote(found) {
        (0, 0, found.mode() & 0o7755)
    } else {
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    chown(to, Some(owner), Some(group)).with_context(unwritable)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).with_context(unwritable)
}

/// Writes a file of the rehearsal's own scratch directory with the directories above it.
pub fn write_scratch(path: &Path, text: &str, mode: u32) -> Result<()> {
    let unwritable = || format!("cannot write `{}`", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(unwritable)?;
    }
    std::fs::write(path, text).with_context(unwritable)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(unwritable)
}

/// Creates a directory that every user may enter, without what an earlier boot put there.
pub fn fresh_directory(path: &Path) -> Result<()> {
    let unwritable = || format!("cannot create `{}`", path.display());
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(unwritable);
        }
        _ => {}
    }
    std::fs::create_dir_all(path).with_context(unwritable)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).with_context(unwritable)
}

/// Makes a link in a rehearsal's own scratch directory.
pub fn link_scratch(target: &str, path: &Path) -> Result<()> {
    let unwritable = || format!("cannot create the link `{}`", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(unwritable)?;
    }
    std::os::unix::fs::symlink(target, path).with_context(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_a_hidden_or_emptied_directory_is_not_hidden_again() {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let hidden =
            paths(&["/var/scratch", "/var/scratch/other/api.socket", "/tmp/x", "/var/scratch.socket"]);
        let layer = Layer { hidden, emptied: paths(&["/tmp"]), ..Layer::default() };
        let within: Vec<bool> = layer.hidden.iter().map(|path| layer.is_within_another(path)).collect();
        assert_eq!(within, [false, true, true, false]);
    }

    #[test]
    fn a_path_of_the_clone_is_found_below_its_root() {
        assert_eq!(below(Path::new("/base"), Path::new("/etc")), Path::new("/base/etc"));
        assert_eq!(below(Path::new("/"), Path::new("/etc")), Path::new("/etc"));
        assert_eq!(below(Path::new("/base"), Path::new("/")), Path::new("/base/"));
    }

    #[test]
    fn a_socket_that_a_process_listens_at_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket with a space");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listening_sockets().contains(&path));
    }
}
