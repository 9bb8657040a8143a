//! Mounted file systems: a list of them, and overlays that this process mounts and unmounts.

#![expect(unsafe_code, reason = "mounts, a root and a working directory for one thread")]

use std::ffi::CString;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};

use super::files::PathText;
use crate::failure::{Failure, FailureKind};

/// Of this thread: a test has mounts of its own.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// A mounted file system as this process sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the kernel's flags of a mount do not depend on each other"
)]
pub struct Mounted {
    /// The kernel's number of it.
    pub number: u64,
    /// The numbers of its file system.
    pub device: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// What kind it is: `ext4`, `tmpfs`.
    pub file_system: String,
    /// Whether it shows its owners under other numbers.
    pub mapped: bool,
    /// Whether nothing can be written there.
    pub read_only: bool,
    /// Whether set-user-id bits and file capabilities mean nothing there.
    pub no_suid: bool,
    /// Whether no program there can be executed.
    pub no_exec: bool,
}

/// Mounts of their own, for a command to see.
#[derive(Debug)]
pub struct Mounts {
    /// Their namespace.
    pub name_space: OwnedFd,
    /// The directory that is the root among them. That of the namespace is another one where this process is in a
    /// chroot.
    pub root: OwnedFd,
}

impl Mounts {
    /// Acts on a thread that sees these mounts; its root is theirs. What it starts sees them, too.
    ///
    /// # Errors
    /// When the kernel refuses, or the thread cannot be started.
    pub fn among<T: Send>(&self, act: impl FnOnce() -> T + Send) -> std::io::Result<T> {
        let enter = || {
            separate_thread(UnshareFlags::empty())?;
            move_into_link_name_space(self.name_space.as_fd(), Some(LinkNameSpaceType::Mount))?;
            fchdir(&self.root)?;
            chroot(c".")
        };
        std::thread::scope(|scope| {
            let acting = std::thread::Builder::new().spawn_scoped(scope, || enter().map(|()| act()))?;
            let ended = acting.join().map_err(|_| std::io::Error::other("a thread ended early"))?;
            Ok(ended?)
        })
    }
}

/// Gives this thread a root and a working directory of its own, and what else is named.
///
/// # Errors
/// When the kernel refuses.
pub fn separate_thread(also: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(UnshareFlags::NEWNS.contains(also), "nothing else is safe for a single thread");
    // SAFETY: the flags give this thread its own mounts, root and working directory; no descriptor is touched.
    unsafe { unshare_unsafe(UnshareFlags::FS | also) }
}

/// Where what a file system holds is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// On a disk of this machine.
    OnDisk,
    /// In this machine's memory.
    InMemory,
    /// In the directories of an overlay.
    InOverlay,
    /// Nowhere: the kernel shows something as files.
    Virtual,
    /// In another machine, by a program, or in a way that no overlay can be mounted over.
    Elsewhere,
}

/// File systems on disks of this machine that an overlay can be mounted over.
const ON_DISK: [&str; 10] =
    ["bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs", "xfs", "zfs"];

/// File systems that hold no data.
const VIRTUAL: [&str; 22] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "fuse.portal",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
    "tracefs",
];

impl Mounted {
    /// Where it keeps what it holds.
    pub fn keeping(&self) -> Keeping {
        match self.file_system.as_str() {
            kind if ON_DISK.contains(&kind) => Keeping::OnDisk,
            kind if VIRTUAL.contains(&kind) => Keeping::Virtual,
            "tmpfs" => Keeping::InMemory,
            "overlay" => Keeping::InOverlay,
            _ => Keeping::Elsewhere,
        }
    }
}

/// Those of these mounts that are seen: what is mounted later at the same path covers what was there.
pub fn visible(mounted: &[Mounted]) -> impl Iterator<Item = &Mounted> {
    mounted.iter().enumerate().filter_map(|(index, mount)| {
        let covered = mounted[index + 1..].iter().any(|later| later.path == mount.path);
        (!covered).then_some(mount)
    })
}

/// All mounts in the order in which they were made. Source of the format: proc_pid_mountinfo(5).
pub fn mounted() -> Result<Vec<Mounted>> {
    let text = std::fs::read(MOUNTS).with_context(|| format!("cannot read `{MOUNTS}`"))?;
    Ok(parse(&text))
}

/// The file system that holds a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Where it is mounted.
    pub at: PathText,
    /// It is in memory: what it holds ends with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_memory: bool,
}

/// The file system that holds this path, or else the nearest directory above that exists. None for the one at the root.
///
/// # Errors
/// When the path or the list of mounts cannot be read.
pub fn holding(path: &Path) -> Result<Option<Holding>> {
    let Some(held) = path.ancestors().find_map(|path| number(path).transpose()).transpose()? else {
        return Ok(None);
    };
    if Some(held) == number(Path::new("/"))? {
        return Ok(None);
    }
    let mount = mounted()?.into_iter().find(|mount| mount.number == held);
    Ok(mount.map(|mount| Holding {
        in_memory: matches!(mount.keeping(), Keeping::InMemory | Keeping::Virtual),
        at: PathText::new(mount.path),
    }))
}

/// The kernel's number of the mount that holds this path; none if nothing is there.
fn number(path: &Path) -> Result<Option<u64>> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID)
    {
        Ok(found) => Ok(Some(found.stx_mnt_id)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).with_context(|| format!("cannot access `{}`", path.display())),
    }
}

/// Refuses to speak of `path` while the file system that held it (`recorded`; none: the one at the root) is not mounted, or
/// something is mounted over it. What exists may have been moved to another one.
///
/// # Errors
/// `missing` or `busy`, with the command that mounts or unmounts it.
pub fn refuse_elsewhere(recorded: Option<&Holding>, path: &Path) -> Result<()> {
    if number(path)?.is_some() {
        return Ok(());
    }
    let root = Path::new("/");
    let then = recorded.map_or(root, |recorded| recorded.at.as_path());
    let now = holding(path)?;
    let now = now.as_ref().map_or(root, |now| now.at.as_path());
    if now == then {
        return Ok(());
    }
    // Deeper than the one that held it.
    if now.starts_with(then) {
        return refuse_over(then, &[path.to_owned()]);
    }
    match recorded {
        Some(recorded) if !recorded.in_memory => refuse_without(then, path),
        _ => Ok(()),
    }
}

/// Refuses to speak of `path` while the file system that held it is not mounted at `mount`. What exists may have been moved
/// to another one.
///
/// # Errors
/// `missing`, with the command that mounts it.
fn refuse_without(mount: &Path, path: &Path) -> Result<()> {
    if number(path)?.is_some() || mounted()?.iter().any(|mounted| mounted.path == mount) {
        return Ok(());
    }
    let shown = mount.to_string_lossy();
    Err(Failure::new(format!(
        "cannot access `{}`: it was changed on a file system mounted at `{shown}`, and none is mounted there",
        path.display()
    ))
    .kind(FailureKind::Missing)
    .hint(format!("run `mount {}`, then try again", shell_words::quote(&shown)))
    .into())
}

/// Refuses to remove these paths when something is mounted at or below one of them: a removal would delete from the
/// file system that is mounted there, or stop half-way. The paths must be canonical. To be called before anything is
/// changed.
///
/// # Errors
/// `busy`, with the mount and the command that unmounts it.
pub fn refuse_within<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<()> {
    let mounts = mounted()?;
    for path in paths {
        let path = path.as_ref();
        let within: Vec<&Mounted> = mounts.iter().filter(|mount| mount.path.starts_with(path)).collect();
        let Some(outermost) = within.first() else { continue };
        let mut failure = Failure::new(format!(
            "cannot remove `{}`: `{}` is mounted ({})",
            path.display(),
            outermost.path.display(),
            outermost.file_system
        ))
        .kind(FailureKind::Busy);
        // Innermost first: umount refuses a mount point that has another one below it.
        for mount in within.iter().rev() {
            let shown = mount.path.to_string_lossy();
            failure = failure.hint(format!("run `umount {}`, then try again", shell_words::quote(&shown)));
        }
        return Err(failure.into());
    }
    Ok(())
}

/// Refuses to speak of paths below `root` over which something is mounted that was not there: what is seen is another
/// file system's.
///
/// # Errors
/// `busy`, with the command that unmounts it. When the list of mounts cannot be read.
pub fn refuse_over(root: &Path, paths: &[PathBuf]) -> Result<()> {
    let is_inside = |mount: &&Mounted| mount.path != root && mount.path.starts_with(root);
    for mount in mounted()?.iter().filter(is_inside) {
        if let Some(hidden) = paths.iter().find(|path| path.starts_with(&mount.path)) {
            let shown = mount.path.to_string_lossy();
            return Err(Failure::new(format!(
                "cannot access `{}`: `{shown}` is mounted over it ({}), and was not when it was changed",
                hidden.display(),
                mount.file_system
            ))
            .kind(FailureKind::Busy)
            .hint(format!("run `umount {}`, then try again", shell_words::quote(&shown)))
            .into());
        }
    }
    Ok(())
}

fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let path = fields.get(4)?;
            let dash = fields.iter().position(|field| *field == b"-")?;
            let has = |field: &[u8], wanted: &[u8]| {
                field.split(|byte| *byte == b',').any(|option| option == wanted)
            };
            let options = fields.get(5)?;
            Some(Mounted {
                number: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
                device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
                path: PathBuf::from(OsString::from_vec(unescape(path))),
                file_system: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
                mapped: has(options, b"idmapped"),
                read_only: has(options, b"ro")
                    || fields.get(dash + 3).is_some_and(|of_all| has(of_all, b"ro")),
                no_suid: has(options, b"nosuid"),
                no_exec: has(options, b"noexec"),
            })
        })
        .collect()
}

/// The kernel's list has whitespace and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The free space and the kind of the file system of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may still be written.
    pub free: u64,
    /// Whether it lives in memory.
    pub in_memory: bool,
    /// Whether it is an overlay, which cannot hold the upper directory of another.
    pub overlay: bool,
}

/// The free space at this path. Magic numbers from linux/magic.h.
pub fn room(path: &Path) -> Result<Room> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const OVERLAY: i64 = 0x794c_7630;
    let found = rustix::fs::statfs(path).with_context(|| format!("cannot access `{}`", path.display()))?;
    let kind = found.f_type;
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    Ok(Room {
        free: found.f_bavail.saturating_mul(block),
        in_memory: kind == TMPFS || kind == RAMFS,
        overlay: kind == OVERLAY,
    })
}

/// A mounted overlay: what is written to it goes to its upper directory. It is unmounted when dropped.
#[derive(Debug)]
pub struct Overlay {
    /// Its lower side.
    pub lower: PathBuf,
    /// Where changes go.
    pub upper: PathBuf,
    /// Where it is mounted.
    pub merged: PathBuf,
    keep: bool,
}

/// The directories of an overlay; `upper` and `work` are empty and on one file system.
pub struct Sides<'a> {
    /// What is seen where nothing was changed.
    pub lower: &'a Path,
    /// Where changes go.
    pub upper: &'a Path,
    /// What the kernel needs for that.
    pub work: &'a Path,
}

/// Mounts an overlay at `merged` until it is unmounted. `options` are those of overlayfs.rst but for the directories.
pub fn mount_overlay(sides: &Sides<'_>, merged: &Path, options: &str, flags: MountFlags) -> Result<()> {
    let mut data = options.as_bytes().to_vec();
    for (name, path) in [("lowerdir", sides.lower), ("upperdir", sides.upper), ("workdir", sides.work)] {
        data.extend(format!(",{name}=").as_bytes());
        escape_option(path, &mut data);
    }
    let data = CString::new(data).context("a path contains a NUL byte")?;
    rustix::mount::mount("overlay", merged, "overlay", flags, Some(data.as_c_str())).with_context(|| {
        format!("cannot mount an overlay of `{}` at `{}`", sides.lower.display(), merged.display())
    })
}

impl Overlay {
    /// Mounts one. `upper` and `work` are empty directories on one file system.
    ///
    /// Unless it is `durable` nothing in it is ever synced (`volatile`): it is thrown away, and a package
    /// installation is several times faster. A device in it is not opened: it would be this machine's. Directories of the
    /// lower side can be renamed (`redirect_dir`), as on
    /// the machine itself.
    pub fn mount(lower: &Path, upper: &Path, work: &Path, merged: &Path, durable: bool) -> Result<Self> {
        let volatile = if durable { "" } else { "volatile," };
        let options = format!("{volatile}redirect_dir=on,index=off,metacopy=off");
        let sides = Sides { lower, upper, work };
        mount_overlay(&sides, merged, &options, MountFlags::NODEV)?;
        Ok(Self { lower: lower.to_owned(), upper: upper.to_owned(), merged: merged.to_owned(), keep: false })
    }

    /// One over plain directories, without a mount.
    #[cfg(test)]
    pub(super) fn described(lower: &Path, upper: &Path, merged: &Path) -> Self {
        Self { lower: lower.to_owned(), upper: upper.to_owned(), merged: merged.to_owned(), keep: true }
    }

    /// Leaves it mounted when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if !self.keep {
            unmount(&self.merged);
        }
    }
}

/// Unmounts what is mounted at a path, at the latest when its last user ends.
pub fn unmount(path: &Path) {
    if rustix::mount::unmount(path, UnmountFlags::empty()).is_err() {
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
    }
}

/// In overlay options a comma ends the option and a colon separates layers, unless escaped. Source:
/// Documentation/filesystems/overlayfs.rst.
fn escape_option(path: &Path, into: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_mounts_is_read_with_spaces_in_names() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                     40 27 8:1 / /mnt/my\\040disk rw,idmapped shared:1 master:2 - xfs /dev/sda1 rw\n\n";
        let mount = |number, device: &str, path: &str, kind: &str, mapped| Mounted {
            number,
            device: device.into(),
            path: path.into(),
            file_system: kind.into(),
            mapped,
            ..Mounted::default()
        };
        let root = mount(27, "254:0", "/", "ext4", false);
        assert_eq!(parse(text), [root, mount(40, "8:1", "/mnt/my disk", "xfs", true)]);
        let limited =
            parse(b"9 1 0:4 / /a ro,nosuid,noexec - tmpfs none rw\n9 1 0:4 / /b rw - tmpfs none ro\n");
        assert!(limited[0].read_only && limited[0].no_suid && limited[0].no_exec);
        assert!(limited[1].read_only && !limited[1].no_suid);
    }

    #[test]
    fn a_path_cannot_end_its_mount_option() {
        let mut options = Vec::new();
        escape_option(Path::new("/a,b:c\\d"), &mut options);
        assert_eq!(options, b"/a\\,b\\:c\\\\d");
    }

    #[test]
    fn the_room_of_proc_is_neither_memory_nor_overlay() {
        let room = room(Path::new("/proc")).unwrap();
        assert_eq!((room.in_memory, room.overlay), (false, false));
    }
}
