//! A view of this machine in which a command changes nothing but directories of its own: an overlay over each local file
//! system, in mounts that only the command sees.
//!
//! The overlays have no redirected directories and no files of which only the metadata is in the upper side
//! (`redirect_dir`, `metacopy`): what the command changed is all there, under its own name. A renamed directory of the
//! lower side is an error to the command (`EXDEV`), which then copies it, as between two file systems. They have no
//! index: a file with several names gets a content of its own when one of them is written.

mod difference;
mod removal;
mod scratch;
mod sockets;
mod view;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::mount::{self, Mounted, Mounts};
use crate::failure::{Failure, FailureKind};
use scratch::Scratch;

pub(crate) use difference::changed;
pub use difference::{Difference, NotTaken};
pub use removal::Removal;
pub use scratch::clear_leftovers;

/// A view that is mounted. Its directories are removed when it is dropped.
pub struct Capture {
    layers: Vec<Layer>,
    mounts: Option<Arc<Mounts>>,
    /// What the command finds mounted.
    mounted: Vec<Mounted>,
    closed: Vec<PathBuf>,
    /// The directory that holds what the command leaves, opened before the command ran.
    opened: Arc<OwnedFd>,
    scratch: Scratch,
}

/// A file system that the command sees through an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    /// Where it is mounted.
    at: PathBuf,
    /// The number of the file system.
    device: u64,
    /// Mounted in a user namespace, where the overlay has attributes of users.
    is_of_users: bool,
    /// Where changes go.
    upper: PathBuf,
    /// What else is mounted below it.
    inner: Vec<PathBuf>,
}

impl Capture {
    /// Mounts a view. What is changed goes below the state directory, which the command finds empty; `allow` names the
    /// services whose sockets it can reach.
    ///
    /// # Errors
    /// When kkrun is not root, when the state directory is where no upper side can be, and when the kernel refuses.
    pub fn prepare(state: &Path, allow: &[String]) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new("cannot capture a command: only root can mount an overlay")
                .kind(FailureKind::Denied)
                .hint("run kkrun as root, or run the command without `capture`")
                .into());
        }
        let mut scratch = Scratch::make(state)?;
        // An overlay cannot hold the upper directory of another; memory can. So it is in a rehearsal.
        if mount::room(scratch.path())?.overlay {
            scratch.move_to_memory()?;
        }
        // In the mounts of this process: from those of the view nothing can be renamed into these.
        let opened = File::open(scratch.path())
            .with_context(|| format!("cannot open `{}`", scratch.path().display()))?;
        let sockets = sockets::closed(allow);
        let (layers, mounts, mounted) = view::mount(scratch.path(), state, &sockets)?;
        let opened = Arc::new(OwnedFd::from(opened));
        Ok(Self { layers, mounts: Some(Arc::new(mounts)), mounted, closed: sockets, opened, scratch })
    }

    /// The mounts that a command has to be started with; none once they are gone.
    pub fn mounts(&self) -> Option<Arc<Mounts>> {
        self.mounts.clone()
    }

    /// Refuses what the command, which has ended, mounted or unmounted: it did so for itself alone, and what it wrote into
    /// a file system of its own is nowhere.
    ///
    /// # Errors
    /// Names a mount. When the list of mounts cannot be read.
    pub fn refuse_own_mounts(&self, label: &str) -> Result<()> {
        let Some(mounts) = &self.mounts else { return Ok(()) };
        let mut last = None;
        let (did, path) = loop {
            let now =
                mounts.among(mount::mounted).context("cannot read the mounts of a captured command")??;
            if self.mounted.iter().map(|mount| mount.number).eq(now.iter().map(|mount| mount.number)) {
                return Ok(());
            }
            let Some(own) = own_mount(&self.mounted, &now, &mount::mounted()?) else { return Ok(()) };
            // What the machine mounted and unmounted between the two lists is not there the next time.
            if last.as_ref() == Some(&own) {
                break own;
            }
            last = Some(own);
        };
        Err(Failure::new(format!(
            "cannot apply what `{label}` changed: it {did} `{}`, and a captured command does so for itself alone",
            path.display()
        ))
        .kind(FailureKind::Refused)
        .hint("nothing was changed: mount it with a command that is not captured, with `unless` or `undo`")
        .into())
    }

    /// Takes the mounts away; what the command left stays. An overlay holds each file of its lower side that was looked
    /// up: what is replaced or removed there gives its room back only without it.
    pub fn unmount(&mut self) {
        self.mounts = None;
    }

    /// The sockets that the command could not reach.
    pub fn closed_sockets(&self) -> &[PathBuf] {
        &self.closed
    }

    /// What the command changed, for each file system in which something differs. The command must have ended, with all
    /// that it started.
    ///
    /// # Errors
    /// When something was made that kkrun could not make, or changed what it could not restore.
    pub fn differences(&self, is_taken: NotTaken<'_>) -> Result<Vec<Difference>> {
        let differences = self
            .layers
            .iter()
            .map(|layer| difference::of(layer, self.scratch.began(), &self.opened, is_taken));
        Ok(differences.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

/// A mount that a command made or took away among its own: what the machine mounts and unmounts meanwhile, the command
/// sees, too.
fn own_mount(before: &[Mounted], now: &[Mounted], machine: &[Mounted]) -> Option<(&'static str, PathBuf)> {
    let is_among = |mount: &Mounted, some: &[Mounted]| some.iter().any(|other| other.number == mount.number);
    let is_the_machines = |mount: &&Mounted| {
        machine.iter().any(|other| (&other.path, &other.device) == (&mount.path, &mount.device))
    };
    let made = now.iter().find(|mount| !is_among(mount, before) && !is_the_machines(mount));
    let taken = || {
        let is_again = |path: &Path| now.iter().any(|mount| mount.path == path && !is_among(mount, before));
        let gone = before.iter().filter(|mount| !is_among(mount, now) && !is_again(&mount.path));
        gone.into_iter().find(|mount| machine.iter().any(|other| other.path == mount.path))
    };
    let made = made.map(|mount| ("mounted a file system at", mount));
    made.or_else(|| taken().map(|mount| ("unmounted", mount))).map(|(did, mount)| (did, mount.path.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_mounts_or_unmounts_is_not_the_commands_doing() {
        let mount = |number, path: &str, device: &str| Mounted {
            number,
            path: path.into(),
            device: device.into(),
            ..Mounted::default()
        };
        let before = [mount(10, "/", "0:50"), mount(11, "/home", "8:2"), mount(12, "/home", "0:51")];
        let machine = [mount(1, "/", "8:1"), mount(2, "/home", "8:2")];
        let with = |mounts: &[Mounted], more: Mounted| [mounts, &[more]].concat();
        let own = |now: &[Mounted], machine: &[Mounted]| {
            own_mount(&before, now, machine).map(|(did, path)| format!("{did} {}", path.display()))
        };
        assert_eq!(own(&before, &machine), None);
        let plugged = with(&machine, mount(3, "/media/stick", "8:17"));
        assert_eq!(own(&with(&before, mount(13, "/media/stick", "8:17")), &plugged), None);
        assert_eq!(own(&before[..1], &machine[..1]), None, "/home was unmounted on the machine");
        let memory = mount(13, "/media/stick", "0:60");
        assert_eq!(own(&with(&before, memory), &plugged).unwrap(), "mounted a file system at /media/stick");
        assert_eq!(own(&before[..2], &machine).unwrap(), "unmounted /home");
        let again = [mount(1, "/", "8:1"), mount(3, "/home", "8:3")];
        assert_eq!(own(&with(&before[..1], mount(13, "/home", "8:3")), &again), None);
    }
}
