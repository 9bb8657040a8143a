//! Resolves a path, finds the user who controls it, and holds its directory open.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, accessat, fstat, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use super::credentials::{User, as_user, is_root};
use super::failures::{failed, refused};

/// How many links one path may have, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The one name of a path: links of root in directories that only root can write are resolved, any other link on the
/// way is an error that names it. The last component is not followed, and missing components are kept as they are.
///
/// A user who runs kkrun without being root counts as root does.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    Ok(Walk::to(path)?.canonical())
}

/// The user who controls the path: the owner of the first directory on the way that is not root's. `None` where only
/// root does.
pub fn owner_of_place(path: &Path) -> Result<Option<u32>> {
    Ok(Walk::to(path)?.last.user.map(|(uid, _)| uid))
}

/// The directory that a walk has reached.
struct Step {
    /// Opened with `O_PATH`.
    directory: OwnedFd,
    /// Whether only root can have put anything here.
    trusted: bool,
    /// The first owner on the way who is not root, and the group of that directory.
    user: Option<(u32, u32)>,
}

impl Step {
    fn first() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())
            .map_err(|errno| failed("open", Path::new("/"), errno))?;
        let stat = fstat(&root).map_err(|errno| failed("access", Path::new("/"), errno))?;
        Ok(Self { directory: root, trusted: is_private(&stat), user: None })
    }
}

/// A path walked to the directory of its last component.
pub(super) struct Walk {
    /// Only the last one is held open: the caller may have limited the number of open files.
    last: Step,
    /// The names on the way to it.
    names: Vec<OsString>,
    /// What does not exist, from the first missing directory on.
    missing: Vec<OsString>,
    /// Whether one of the directories on the way is not a directory.
    blocked: bool,
    name: OsString,
}

impl Walk {
    /// Walks to the directory of `path`.
    pub(super) fn to(path: &Path) -> Result<Self> {
        let (parents, name) = components(path)?;
        let last = Step::first()?;
        let mut walk = Self { last, names: Vec::new(), missing: Vec::new(), blocked: false, name };
        walk.follow(parents)?;
        Ok(walk)
    }

    /// Begins again, with these names in front of those ahead.
    fn begin_again(&mut self, names: Vec<OsString>, ahead: &mut VecDeque<OsString>) -> Result<()> {
        names.into_iter().rev().for_each(|name| ahead.push_front(name));
        self.last = Step::first()?;
        self.names.clear();
        Ok(())
    }

    fn follow(&mut self, mut ahead: VecDeque<OsString>) -> Result<()> {
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                let mut names = std::mem::take(&mut self.names);
                names.pop();
                self.begin_again(names, &mut ahead)?;
                continue;
            }
            let here = &self.last;
            let shown = self.so_far().join(&name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = match openat(&here.directory, &name, flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    self.missing.push(name);
                    if ahead.iter().any(|name| name == "..") {
                        return Err(failed("access", &shown, Errno::NOENT));
                    }
                    self.missing.extend(ahead);
                    return Ok(());
                }
                Err(errno) => return Err(failed("access", &shown, errno)),
            };
            let stat = fstat(&next).map_err(|errno| failed("access", &shown, errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let user = here.user.or((!is_trusted(stat.st_uid)).then_some((stat.st_uid, stat.st_gid)));
                    let trusted = here.trusted && is_private(&stat);
                    self.last = Step { directory: next, trusted, user };
                    self.names.push(name);
                }
                FileType::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(refused(&shown, "has too many symbolic links on the way"));
                    }
                    if !here.trusted || !is_trusted(stat.st_uid) {
                        return Err(refused(
                            &shown,
                            "is a symbolic link that other users than root could have created: use the path of its target",
                        ));
                    }
                    let target = readlinkat(&next, "", Vec::new())
                        .map_err(|errno| failed("read the link", &shown, errno))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    let mut names = std::mem::take(&mut self.names);
                    if target.is_absolute() {
                        names.clear();
                    }
                    names.extend(target.components().filter_map(|component| match component {
                        Component::Normal(name) => Some(name.to_owned()),
                        Component::ParentDir => Some("..".into()),
                        _ => None,
                    }));
                    self.begin_again(names, &mut ahead)?;
                }
                _ => {
                    self.blocked = true;
                    self.missing.push(name);
                    self.missing.extend(ahead);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn so_far(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(&self.names);
        path
    }

    /// The path of the last component's directory.
    pub(super) fn parent(&self) -> PathBuf {
        let mut path = self.so_far();
        path.extend(&self.missing);
        path
    }

    /// The path walked to, by its one name.
    pub(super) fn canonical(&self) -> PathBuf {
        if self.name == "." { self.parent() } else { self.parent().join(&self.name) }
    }

    /// The last component's directory, opened with `O_PATH`; none if it does not exist.
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.missing.is_empty().then(|| self.last.directory.as_fd())
    }

    /// The last component; `.` for the root directory.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

/// The directory in which something is to be changed, held open.
pub(super) struct Place {
    directory: OwnedFd,
    /// The canonical path of what is to be changed.
    pub(super) path: PathBuf,
    /// Its last component.
    pub(super) name: OsString,
    /// The user who controls it, if that user can write in the directory.
    user: Option<User>,
    /// Whether only root can put anything there.
    pub(super) trusted: bool,
}

impl Place {
    /// Opens the directory of `path`, with the credentials of the user who controls it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let walk = Walk::to(path)?;
        let (parent, path) = (walk.parent(), walk.canonical());
        if walk.blocked {
            return Err(failed("open the directory", &parent, Errno::NOTDIR));
        }
        let Some(seen) = walk.directory() else {
            return Err(failed("open the directory", &parent, Errno::NOENT));
        };
        let seen = fstat(seen).map_err(|errno| failed("access", &parent, errno))?;
        let user = match walk.last.user {
            Some((uid, group)) if is_root() => Some(User::of(uid, group)?),
            _ => None,
        };
        let by_user = user.as_ref().and_then(|user| {
            let opened = as_user(user, || {
                let directory = open_directory(&parent)?;
                accessat(&directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
                Ok(directory)
            });
            opened.ok()
        });
        let (directory, user) = if let Some(directory) = by_user {
            (directory, user)
        } else {
            let opened = open_directory(&parent);
            (opened.map_err(|errno| failed("open the directory", &parent, errno))?, None)
        };
        let opened = fstat(&directory).map_err(|errno| failed("access", &parent, errno))?;
        if (opened.st_dev, opened.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(refused(&parent, "was replaced while kkrun opened it"));
        }
        let trusted = walk.last.trusted;
        Ok(Self { directory, path, name: walk.name, user, trusted })
    }

    /// The directory, open for reading.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Speaks of something else in the same directory from now on.
    pub(super) fn turn_to(&mut self, name: &OsStr) {
        self.path.set_file_name(name);
        name.clone_into(&mut self.name);
    }

    /// Whether a user controls it, who can write in the directory.
    pub(super) fn is_of_user(&self) -> bool {
        self.user.is_some()
    }

    /// The path of something beside it.
    pub(super) fn beside(&self, name: &OsStr) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Runs `act` as the user who controls the directory, if `may` says that this user can do it alone, else as root.
    pub(super) fn acting<T: Send>(
        &self,
        may: impl FnOnce(&User) -> bool,
        act: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        match &self.user {
            Some(user) if may(user) => as_user(user, act),
            _ => act(),
        }
    }

    /// Makes changes to the names in the directory survive a power loss.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(|errno| failed("sync the directory of", &self.path, errno))
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(
        rustix::fs::CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The directories on the way and the last component.
fn components(path: &Path) -> Result<(VecDeque<OsString>, OsString)> {
    if !path.is_absolute() {
        return Err(refused(path, "is not an absolute path"));
    }
    let mut names = VecDeque::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push_back(name.to_owned()),
            Component::ParentDir => names.push_back("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match names.pop_back() {
        Some(name) if name == ".." => bail!(refused(path, "ends in `..`")),
        Some(name) => Ok((names, name)),
        None => Ok((names, ".".into())),
    }
}

/// Whether this owner is root, or who runs kkrun.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Whether only root can change the names in this directory. The group bits include an access control list.
fn is_private(stat: &Stat) -> bool {
    is_trusted(stat.st_uid) && stat.st_mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn links_of_root_in_places_of_root_are_resolved() {
        let target = std::fs::read_link("/bin").expect("/bin is a link, as on every Debian 12");
        assert_eq!(canonical(Path::new("/bin/../bin/./sh")).unwrap(), Path::new("/").join(target).join("sh"));
        assert_eq!(canonical(Path::new("/bin")).unwrap(), Path::new("/bin"));
        assert_eq!(canonical(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(owner_of_place(Path::new("/bin/sh")).unwrap(), None);
    }

    #[test]
    fn a_link_that_others_could_have_made_is_refused_by_name() {
        let (_directory, path) = scratch();
        std::fs::create_dir(path.join("real")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        symlink("real", path.join("link")).unwrap();
        let error = canonical(&path.join("link/file")).unwrap_err();
        assert!(error.to_string().contains(&format!("`{}`", path.join("link").display())), "{error}");
        assert_eq!(canonical(&path.join("link")).unwrap(), path.join("link"));
    }

    #[test]
    fn missing_components_are_kept() {
        let (_directory, path) = scratch();
        assert_eq!(canonical(&path.join("a/./b/c")).unwrap(), path.join("a/b/c"));
        assert!(canonical(&path.join("a/../b")).is_err());
        assert!(canonical(Path::new("relative")).is_err());
        assert!(canonical(&path.join("..")).is_err());
        assert_eq!(kind(Place::open(&path.join("a/b")).map(|_| ())), "missing");
    }

    #[test]
    #[ignore = "needs root"]
    fn the_first_owner_who_is_not_root_decides() {
        let (_directory, path) = unprivileged_directory();
        std::fs::create_dir(path.join("roots")).unwrap();
        assert_eq!(owner_of_place(&path).unwrap(), None);
        assert_eq!(owner_of_place(&path.join("roots/file")).unwrap(), Some(UNPRIVILEGED));
        symlink("roots", path.join("link")).unwrap();
        assert!(canonical(&path.join("link/file")).is_err());
    }
}
