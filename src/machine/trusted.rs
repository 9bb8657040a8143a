//! Reads what is going to be run, if no one else could have written it.
//!
//! Every directory and every link on the way is judged on an opened descriptor, then the file is opened in the last of
//! those directories, and the opened file is judged and read: the bytes that were checked are the bytes that run. A
//! user who can write to a directory can exchange its entries, so a sticky one is not trusted either.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, lgetxattr, open as open_path, openat, readlinkat};
use rustix::io::Errno;

use super::account::{Account, is_alone_in};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};

/// How many links one path may have, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The attribute that holds an access control list. Source: acl(5).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The option of chown that changes a link and not its target.
const LINK: &str = "--no-dereference ";

thread_local! {
    /// Trusted directories by the given names, and their resolved paths. Only root, or the user who called sudo, can
    /// change anything on the way, so it need not be judged again for each of a thousand scripts.
    static TRUSTED: RefCell<HashMap<PathBuf, PathBuf>> = RefCell::default();
    static CALLER: OnceCell<Option<Account>> = const { OnceCell::new() };
    /// The first thing that was trusted because it belongs to the user who called sudo.
    static OF_CALLER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Reads a file that is going to be trusted.
///
/// # Errors
/// With [`ExitCode::REFUSED`] and the command that corrects it, when root runs kkrun and a user other than root, and
/// than the one who called sudo, could write to the file or a directory above it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let (path, mut file, length) = judged(path)?;
    read_all(&mut file, length).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Opens a file that is going to be trusted: what it holds is what was judged.
///
/// # Errors
/// As [`read`].
pub fn file(path: &Path) -> Result<File> {
    Ok(judged(path)?.1)
}

fn judged(path: &Path) -> Result<(PathBuf, File, u64)> {
    let is_root = rustix::process::geteuid().is_root();
    let (path, file) = open_as(path, is_root)?;
    let stat =
        fstat(&file).map_err(io::Error::from).with_context(|| format!("cannot read `{}`", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        bail!(Failure::new(format!("`{}` is not a regular file", path.display())).exit(ExitCode::USAGE));
    }
    if is_root {
        judge(&path, &Access::from(&stat))?;
    }
    Ok((path, file, stat.st_size.try_into().unwrap_or_default()))
}

/// Reads a file that was seen to have this length, in bytes.
fn read_all(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length.saturating_add(1)];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // All of it is read, and room is left: this is the end.
        if filled == length {
            break;
        }
        if filled == bytes.len() {
            bytes.resize(filled * 2, 0);
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Opens a file after judging the way to it, and returns its resolved path. The file itself is not judged.
///
/// # Errors
/// As [`read`], but for the file itself.
pub fn open(path: &Path) -> Result<(PathBuf, File)> {
    open_as(path, rustix::process::geteuid().is_root())
}

fn open_as(path: &Path, is_root: bool) -> Result<(PathBuf, File)> {
    let named = || format!("cannot read `{}`", path.display());
    // Without this, the open of a FIFO without a writer would block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if !is_root {
        let file = open_path(path, flags, Mode::empty()).map_err(io::Error::from).with_context(named)?;
        return Ok((path.to_owned(), file.into()));
    }
    let mut at = std::path::absolute(path).with_context(named)?;
    for _ in 0..MOST_LINKS {
        let (Some(directory), Some(name)) = (at.parent(), at.file_name()) else { break };
        let directory = trusted_directory(directory).with_context(named)?;
        let resolved = directory.join(name);
        match open_path(&resolved, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => return Ok((resolved, file.into())),
            Err(Errno::LOOP) => at = directory.join(target_of(&resolved).with_context(named)?),
            Err(error) => return Err(io::Error::from(error)).with_context(named),
        }
    }
    bail!(Failure::new(format!("`{}` is not a regular file", path.display())).exit(ExitCode::USAGE))
}

/// The target of a link in a trusted directory.
fn target_of(link: &Path) -> Result<PathBuf> {
    let opened = open_path(link, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    judge_owner(link, fstat(&opened).map_err(io::Error::from)?.st_uid, LINK)?;
    let target = readlinkat(&opened, "", Vec::new()).map_err(io::Error::from)?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// The resolved path of a directory, with everything on the way judged.
fn trusted_directory(directory: &Path) -> Result<PathBuf> {
    if let Some(known) = TRUSTED.with_borrow(|trusted| trusted.get(directory).cloned()) {
        return Ok(known);
    }
    let way = Way::to(directory, false)?;
    if way.missing {
        return Err(io::Error::from(Errno::NOENT).into());
    }
    TRUSTED.with_borrow_mut(|trusted| trusted.insert(directory.to_owned(), way.path.clone()));
    Ok(way.path)
}

/// Refuses state that others could have written: a directory, those of the named files in it that exist, and the way to
/// it. Sticky directories on the way are fine: other users can exchange nothing in them. What does not exist yet is
/// judged by its future parent.
///
/// # Errors
/// With [`ExitCode::REFUSED`] and the command that corrects it, when root runs kkrun.
pub fn check_state(directory: &Path, files: &[&str]) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let way = Way::to(&std::path::absolute(directory)?, true)?;
    if way.missing {
        return Ok(());
    }
    let named = |path: &Path| format!("cannot access `{}`", path.display());
    judge(&way.path, &Access::from(&way.path.metadata().with_context(|| named(&way.path))?))?;
    for file in files {
        let path = way.path.join(file);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => judge_owner(&path, metadata.uid(), LINK)?,
            Ok(metadata) => judge(&path, &Access::from(&metadata))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| named(&path)),
        }
    }
    Ok(())
}

/// Refuses a directory that others could have written, exchanged, or redirected by a link.
///
/// # Errors
/// As [`read`].
pub fn check_directory(directory: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        trusted_directory(&std::path::absolute(directory)?)?;
    }
    Ok(())
}

/// Refuses a tree of files in which others could have written anything; a missing one is fine. What a package manager
/// installed beside the sources is not checked.
///
/// # Errors
/// As [`read`].
pub fn check_tree(tree: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let named = |path: &Path| format!("cannot access `{}`", path.display());
    let mut open = vec![tree.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == tree => return Ok(()),
            Err(error) => return Err(error).with_context(|| named(&path)),
        };
        if metadata.is_symlink() {
            judge_owner(&path, metadata.uid(), LINK)?;
            continue;
        }
        judge(&path, &Access::from(&metadata))?;
        if metadata.is_dir() && path.file_name() != Some(OsStr::new(INSTALLED)) {
            for entry in path.read_dir().with_context(|| named(&path))? {
                open.push(entry.with_context(|| named(&path))?.path());
            }
        }
    }
    Ok(())
}

/// Where npm puts what it installs.
pub const INSTALLED: &str = "node_modules";

/// Whether only root, and the user who called sudo, could have written the file with this metadata.
pub fn only_trusted_wrote(metadata: &Metadata) -> bool {
    judge(Path::new(""), &Access::from(metadata)).is_ok()
}

/// The warning for a path that is trusted only because it belongs to the user who called sudo.
pub fn trust_in_caller() -> Option<String> {
    let path = OF_CALLER.with_borrow(Clone::clone)?;
    let caller = caller().ok().flatten()?;
    Some(format!("`{}` belongs to `{}`, who called sudo: trusted like root's", path.display(), caller.name))
}

/// A path walked component by component, each judged on its descriptor.
struct Way {
    /// Free of links.
    path: PathBuf,
    /// Whether the walk ended before the last component, because there is no further directory.
    missing: bool,
}

impl Way {
    /// Walks to an absolute path of a directory. Sticky directories of root are passed if `through_sticky`.
    fn to(path: &Path, through_sticky: bool) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |path: &Path, errno: Errno| {
            anyhow::Error::new(io::Error::from(errno)).context(format!("cannot access `{}`", path.display()))
        };
        let root = || open_path("/", flags, Mode::empty()).map_err(|errno| failed(Path::new("/"), errno));
        let mut ahead: VecDeque<OsString> = names_of(path).collect();
        // Only the last directory is held open: the caller may have limited the number of open files.
        let (mut directory, mut here) = (root()?, PathBuf::from("/"));
        let mut links = 0;
        loop {
            Self::judge(&here, &fstat(&directory).map_err(|errno| failed(&here, errno))?, through_sticky)?;
            let Some(name) = ahead.pop_front() else { return Ok(Self { path: here, missing: false }) };
            let mut again = None;
            if name == ".." {
                again = here.parent().map(Path::to_owned).or_else(|| Some(here.clone()));
            } else {
                let shown = here.join(&name);
                let next = match openat(&directory, &name, flags, Mode::empty()) {
                    Ok(next) => next,
                    Err(Errno::NOENT) => return Ok(Self { path: here, missing: true }),
                    Err(errno) => return Err(failed(&shown, errno)),
                };
                let stat = fstat(&next).map_err(|errno| failed(&shown, errno))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => (directory, here) = (next, shown),
                    FileType::Symlink => {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err(failed(&shown, Errno::LOOP));
                        }
                        judge_owner(&shown, stat.st_uid, LINK)?;
                        let target =
                            readlinkat(&next, "", Vec::new()).map_err(|errno| failed(&shown, errno))?;
                        again = Some(here.join(OsString::from_vec(target.into_bytes())));
                    }
                    // The caller gets an error from walking through it.
                    _ => return Ok(Self { path: here, missing: true }),
                }
            }
            if let Some(path) = again {
                let names: Vec<OsString> = names_of(&path).collect();
                names.into_iter().rev().for_each(|name| ahead.push_front(name));
                (directory, here) = (root()?, PathBuf::from("/"));
            }
        }
    }

    fn judge(path: &Path, stat: &Stat, through_sticky: bool) -> Result<()> {
        let is_sticky = through_sticky && stat.st_uid == 0 && stat.st_mode & 0o1000 != 0;
        if is_sticky { Ok(()) } else { judge(path, &Access::from(stat)) }
    }
}

fn names_of(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Who may write something.
struct Access {
    owner: u32,
    group: u32,
    mode: u32,
}

impl From<&Metadata> for Access {
    fn from(metadata: &Metadata) -> Self {
        Self { owner: metadata.uid(), group: metadata.gid(), mode: metadata.mode() }
    }
}

impl From<&Stat> for Access {
    fn from(stat: &Stat) -> Self {
        Self { owner: stat.st_uid, group: stat.st_gid, mode: stat.st_mode }
    }
}

/// The user who called sudo.
fn caller() -> Result<Option<Account>> {
    if let Some(known) = CALLER.with(|caller| caller.get().cloned()) {
        return Ok(known);
    }
    let caller = Account::sudo_caller()?;
    CALLER.with(|known| known.set(caller.clone())).ok();
    Ok(caller)
}

fn judge_owner(path: &Path, owner: u32, chown_option: &str) -> Result<()> {
    if owner == 0 {
        return Ok(());
    }
    if caller()?.is_some_and(|caller| caller.uid == owner) {
        OF_CALLER.with_borrow_mut(|first| {
            first.get_or_insert_with(|| path.to_owned());
        });
        return Ok(());
    }
    bail!(refused(
        path,
        &format!("belongs to {}", name_of(owner)),
        &format!("chown {chown_option}root {}", shown(path))
    ))
}

fn judge(path: &Path, access: &Access) -> Result<()> {
    judge_owner(path, access.owner, "")?;
    if access.mode & 0o1002 == 0o1002 {
        bail!(
            refusal(path, "is a directory in which everyone can create files")
                .hint("copy the plan to a directory that only root can write to, such as /etc/kkrun/scripts")
        );
    }
    if access.mode & 0o002 != 0 {
        bail!(refused(path, "is writable by everyone", &format!("chmod o-w {}", shown(path))));
    }
    if access.mode & 0o020 != 0 && !is_own_group(path, access.group)? {
        bail!(refused(path, "is writable by its group", &format!("chmod g-w {}", shown(path))));
    }
    Ok(())
}

/// Whether write access for the group adds no one: the group is root's, or that of the user who called sudo, it has no
/// other member, and the bits are not the mask of an access control list.
fn is_own_group(path: &Path, group: u32) -> Result<bool> {
    let mut list = [0_u8; 0];
    if lgetxattr(path, ACCESS_LIST, &mut list).is_ok() {
        return Ok(false);
    }
    if group == 0 {
        return is_alone_in("root", 0);
    }
    match caller()? {
        Some(caller) if caller.gid == group => caller.has_private_group(),
        _ => Ok(false),
    }
}

fn refused(path: &Path, why: &str, command: &str) -> Failure {
    refusal(path, why).hint(format!("if you trust its content, run `{command}`"))
}

fn refusal(path: &Path, why: &str) -> Failure {
    Failure::new(format!("refused: `{}` {why}, so others could decide what root does", path.display()))
        .exit(ExitCode::REFUSED)
        .kind(FailureKind::Refused)
}

fn name_of(uid: u32) -> String {
    match Account::by_uid(uid) {
        Ok(Some(account)) => format!("`{}`", account.name),
        _ => format!("user {uid}"),
    }
}

fn shown(path: &Path) -> String {
    shell_words::quote(&path.display().to_string()).into_owned()
}
