//! Users and groups of a container under other numbers on this machine: root inside has no rights outside.
//!
//! What is on disk keeps its owners: the container sees it through mounts that map the numbers.

#![expect(unsafe_code, reason = "`mount_setattr` has no wrapper")]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, anyhow};
use nix::libc;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{
    Gid, Uid, capabilities, set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::machine::{mount, tool};

/// Numbers are mapped in pieces of this size, as systemd-nspawn does it.
const PIECE: u32 = 1 << 16;

/// The numbers on this machine that a container's users and groups have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The number outside of 0 inside.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl IdRange {
    /// The upper half of the numbers that there are here, for all of those in the lower half: a machine's own users
    /// are there.
    pub fn upper_half() -> Result<Self> {
        let count = |file: &str| {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{file}`"))?;
            mapped(&text).with_context(|| format!("cannot parse `{file}`"))
        };
        let count = count("/proc/self/uid_map")?.min(count("/proc/self/gid_map")?) / 2 / PIECE * PIECE;
        Ok(Self { first: count, count })
    }

    /// A mount of a path, not attached yet, in which the numbers are mapped and devices cannot be opened. `None` if the
    /// file system or the kernel does not support it.
    pub fn view(self, from: &Path) -> Result<Option<View>> {
        let failed = || format!("cannot map the owners of `{}`", from.display());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = match open_tree(CWD, from, flags) {
            Err(Errno::NOSYS) => return Ok(None),
            tree => tree.with_context(failed)?,
        };
        let names = self.name_space().with_context(failed)?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NODEV,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(names.as_raw_fd()).with_context(failed)?,
        };
        // SAFETY: the call reads the structure, whose size it is given, and an empty string; both outlive it, and so do
        // the two descriptors.
        let status = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if status == 0 {
            return Ok(Some(View { tree }));
        }
        // Source: mount_setattr(2). A file system that cannot says EINVAL, as does one that is mapped already.
        match std::io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(None)
            }
            error => Err(error).with_context(failed),
        }
    }

    /// A user namespace with these numbers. Creating it needs a process; it exists as long as it is held.
    fn name_space(self) -> Result<OwnedFd> {
        let mut command = tool::command("unshare");
        command.args(["--user", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start `unshare`")?;
        let names = self.map(&mut process);
        let _ = process.kill();
        let _ = process.wait();
        names
    }

    fn map(self, process: &mut Child) -> Result<OwnedFd> {
        let failed = "cannot create a user namespace";
        let (mut to, mut from) = process.stdin.take().zip(process.stdout.take()).context(failed)?;
        // An answer proves that the process runs in the namespace.
        to.write_all(b"\n").and_then(|()| from.read_exact(&mut [0])).context(failed)?;
        let own = PathBuf::from(format!("/proc/{}", process.id()));
        for file in ["uid_map", "gid_map"] {
            std::fs::write(own.join(file), format!("0 {} {}\n", self.first, self.count)).context(failed)?;
        }
        Ok(std::fs::File::open(own.join("ns/user")).context(failed)?.into())
    }

    /// Does something as the user who is root inside, with all rights that this process has.
    pub fn as_root_of<T: Send>(self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let become_root = || -> Result<(), Errno> {
            let (user, group) = (Uid::from_raw(self.first), Gid::from_raw(self.first));
            set_keep_capabilities(true)?;
            set_thread_groups(&[])?;
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
            let mut sets = capabilities(None)?;
            sets.effective = sets.permitted;
            set_capabilities(None, sets)
        };
        // For this thread alone: the process keeps its identity.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    become_root().context("cannot act as the root user of the clone")?;
                    act()
                })
                .join()
                .map_err(|_| anyhow!("the thread that acts as the clone's root ended early"))?
        })
    }
}

/// How many numbers from 0 on there are, in the text of a map. Source: user_namespaces(7).
fn mapped(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let fields: Vec<u32> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        matches!(fields.as_slice(), [0, _, _]).then(|| fields[2])
    })
}

/// A mount with mapped numbers that is attached nowhere, and gone when dropped.
#[derive(Debug)]
pub struct View {
    tree: OwnedFd,
}

impl View {
    /// Attaches it at a directory.
    pub fn attach(self, at: &Path) -> Result<Attached> {
        move_mount(self.tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("cannot mount at `{}`", at.display()))?;
        Ok(Attached { at: at.to_owned(), keep: false })
    }
}

/// A mount with mapped numbers at a directory; it is unmounted when dropped.
#[derive(Debug)]
pub struct Attached {
    at: PathBuf,
    keep: bool,
}

impl Attached {
    /// Leaves it mounted when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.keep {
            mount::unmount(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_machine_and_of_a_container_are_counted() {
        assert_eq!(mapped("         0          0 4294967295\n"), Some(u32::MAX));
        assert_eq!(mapped("0 100000 65536\n"), Some(65536));
        assert_eq!(mapped("1000 1000 1\n"), None);
    }

    #[test]
    fn the_range_does_not_meet_the_numbers_it_is_for() {
        let range = IdRange::upper_half().unwrap();
        assert!(range.first >= range.count && range.count.is_multiple_of(PIECE), "{range:?}");
    }
}
