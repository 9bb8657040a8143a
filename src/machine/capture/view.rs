//! Mounts the view of one captured command, in a mount namespace that is entered through its descriptor.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_new, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::UnshareFlags;

use super::Layer;
use crate::machine::clone::root::{below, copy_metadata};
use crate::machine::mount::{self, Keeping, Mounted, Mounts, Sides};

/// What the command sees as it is: the kernel's own, and what is gone after a restart.
const AS_IT_IS: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// Whatever its changes are for, nothing of them is synced before they are applied.
const OPTIONS: &str = "volatile,redirect_dir=off,index=off,metacopy=off";
/// The same in a user namespace, where an overlay has neither. Source: overlayfs.rst.
const OPTIONS_OF_USERS: &str = "volatile,userxattr";

/// Mounts it below `scratch`. The command finds `state` empty, and something that does not listen at `closed`.
pub(super) fn mount(
    scratch: &Path,
    state: &Path,
    closed: &[PathBuf],
) -> Result<(Vec<Layer>, Mounts, Vec<Mounted>)> {
    // The mounts of a thread are its own; they last as long as the descriptor.
    let is_of_users = is_in_user_namespace()?;
    std::thread::scope(|scope| {
        let mounting = scope.spawn(move || {
            separate_mounts()?;
            let (mounted, overlays) = (&mount::mounted()?, Cell::new(0));
            View { scratch, state, closed, mounted, is_of_users, overlays }.mount()
        });
        mounting.join().map_err(|_| anyhow!("the thread that mounts a view ended early"))?
    })
    .context("cannot give a captured command a view of this machine")
}

/// Gives this thread mounts of its own.
fn separate_mounts() -> Result<()> {
    mount::separate_thread(UnshareFlags::NEWNS)
        .and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC))
        .context("cannot separate mounts")
}

struct View<'a> {
    scratch: &'a Path,
    state: &'a Path,
    closed: &'a [PathBuf],
    /// What is mounted in the mounts of this thread.
    mounted: &'a [Mounted],
    /// In a user namespace, such as a rehearsal's.
    is_of_users: bool,
    /// How many overlays were tried.
    overlays: Cell<usize>,
}

impl View<'_> {
    fn mount(&self) -> Result<(Vec<Layer>, Mounts, Vec<Mounted>)> {
        let root = self.scratch.join("root");
        std::fs::create_dir(&root).with_context(|| format!("cannot create `{}`", root.display()))?;
        let mut layers = if self.is_of_users { self.directories(&root)? } else { self.all(&root)? };
        let is_shown = |path: &Path| AS_IT_IS.iter().any(|at| path.starts_with(at)) || path == Path::new("/");
        let mut others: Vec<&Mounted> = mount::visible(self.mounted)
            .filter(|mount| !is_shown(&mount.path) && !mount.path.starts_with(self.state))
            .collect();
        others.sort_by(|one, other| one.path.cmp(&other.path));
        for found in &others {
            match self.show(found, &root) {
                // Where others remove a mount point, it is gone from these mounts, too.
                Err(_) if !mount::mounted()?.iter().any(|mount| mount.path == found.path) => {}
                layer => layers.extend(layer?),
            }
        }
        for layer in &mut layers {
            let inner = others.iter().map(|mount| &mount.path).filter(|path| path.starts_with(&layer.at));
            layer.inner = inner.filter(|path| **path != layer.at).cloned().collect();
        }
        let opened = |path| File::open(path).context("cannot open the mounts of a thread");
        let name_space = opened("/proc/thread-self/ns/mnt")?.into();
        enter(&root)?;
        let root = opened("/")?.into();
        mount_new("none", self.state, "tmpfs", MountFlags::RDONLY, c"mode=0700,size=4k")
            .with_context(|| format!("cannot hide `{}`", self.state.display()))?;
        for socket in self.closed {
            // What is gone meanwhile is closed, too. To connect to a device is refused as if no one listened.
            let _ = mount_bind("/dev/null", socket);
        }
        Ok((layers, Mounts { name_space, root }, mount::mounted()?))
    }

    /// Shows the file system of the root through one overlay.
    fn all(&self, root: &Path) -> Result<Vec<Layer>> {
        let layer = self.overlay(Path::new("/"), root, MountFlags::NODEV)?;
        for at in AS_IT_IS {
            if is_directory(Path::new(at)) {
                mount_bind_recursive(at, below(root, Path::new(at)))
                    .with_context(|| format!("cannot show `{at}`"))?;
            }
        }
        Ok(vec![layer])
    }

    /// Shows each directory of the root through an overlay of its own, and the root itself read-only: mounts that came
    /// from outside a user namespace cannot be taken off in it, and no overlay can be mounted over what they cover.
    fn directories(&self, root: &Path) -> Result<Vec<Layer>> {
        mount_bind_recursive("/", root).context("cannot show `/`")?;
        let layers = self.within(Path::new("/"), root, MountFlags::NODEV)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
        mount_remount(root, flags, c"").context("cannot show `/`")?;
        Ok(layers)
    }

    /// The overlays of the directories in a directory. One that something is mounted in, from outside the user namespace,
    /// is shown as it is but for its own directories: no overlay can be mounted over it. Source: mount_namespaces(7),
    /// "Restrictions on mount namespaces".
    fn within(&self, directory: &Path, root: &Path, flags: MountFlags) -> Result<Vec<Layer>> {
        let named = || format!("cannot read the directory `{}`", directory.display());
        let mut layers = Vec::new();
        for entry in std::fs::read_dir(directory).with_context(named)? {
            let path = entry.with_context(named)?.path();
            let is_apart = AS_IT_IS.iter().any(|at| path == Path::new(at))
                || self.mounted.iter().any(|mount| mount.path == path);
            if !is_directory(&path) || is_apart {
                continue;
            }
            match self.overlay(&path, &below(root, &path), flags) {
                Err(_) if self.holds_mounts(&path) => layers.extend(self.within(&path, root, flags)?),
                // It is gone meanwhile.
                Err(_) if !is_directory(&path) => {}
                layer => layers.push(layer?),
            }
        }
        Ok(layers)
    }

    /// Whether something is mounted below this path.
    fn holds_mounts(&self, path: &Path) -> bool {
        let is_below = |at: &Path| at != path && at.starts_with(path) && !at.starts_with(self.state);
        self.mounted.iter().any(|mount| is_below(&mount.path))
    }

    /// Shows a file system other than that of the root: through an overlay if it is a local one that can be written.
    fn show(&self, found: &Mounted, root: &Path) -> Result<Vec<Layer>> {
        let at = &below(root, &found.path);
        let named = || format!("cannot show `{}`", found.path.display());
        let is_local = matches!(found.keeping(), Keeping::OnDisk | Keeping::InMemory | Keeping::InOverlay);
        let Ok(directory) = std::fs::metadata(&found.path) else { return Ok(Vec::new()) };
        let mut layers = Vec::new();
        if is_local && !found.read_only && !found.mapped && directory.is_dir() {
            let mut flags = MountFlags::NODEV;
            flags.set(MountFlags::NOSUID, found.no_suid);
            flags.set(MountFlags::NOEXEC, found.no_exec);
            match self.overlay(&found.path, at, flags) {
                // The kernel stacks two overlays at most: this one is over another already.
                Err(_) if found.keeping() == Keeping::InOverlay => {}
                Err(_) if self.is_of_users && self.holds_mounts(&found.path) => {
                    layers = self.within(&found.path, root, flags)?;
                }
                layer => return layer.map(|layer| vec![layer]),
            }
        }
        // With what is mounted in it, it came with the root.
        if layers.is_empty() {
            mount_bind(&found.path, at).with_context(named)?;
        }
        if found.keeping() != Keeping::Virtual && !found.read_only {
            let mut flags = MountFlags::BIND | MountFlags::RDONLY;
            flags.set(MountFlags::NOSUID, found.no_suid);
            flags.set(MountFlags::NOEXEC, found.no_exec);
            mount_remount(at, flags, c"").with_context(named)?;
        }
        Ok(layers)
    }

    fn overlay(&self, lower: &Path, at: &Path, flags: MountFlags) -> Result<Layer> {
        let number = self.overlays.replace(self.overlays.get() + 1);
        let [upper, work] = ["upper", "work"].map(|side| self.scratch.join(format!("{side}-{number}")));
        for directory in [&upper, &work] {
            std::fs::create_dir(directory)
                .with_context(|| format!("cannot create `{}`", directory.display()))?;
        }
        copy_metadata(lower, &upper)?;
        let device =
            std::fs::metadata(lower).with_context(|| format!("cannot access `{}`", lower.display()))?.dev();
        let options = if self.is_of_users { OPTIONS_OF_USERS } else { OPTIONS };
        mount::mount_overlay(&Sides { lower, upper: &upper, work: &work }, at, options, flags)?;
        let is_of_users = self.is_of_users;
        Ok(Layer { at: lower.to_owned(), device, is_of_users, upper, inner: Vec::new() })
    }
}

fn is_directory(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Whether the numbers of users are not the machine's own. Source: user_namespaces(7).
fn is_in_user_namespace() -> Result<bool> {
    const MAP: &str = "/proc/self/uid_map";
    let map = std::fs::read_to_string(MAP).with_context(|| format!("cannot read `{MAP}`"))?;
    Ok(map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Makes a mounted directory the root of this thread's mounts, and takes the old one away. Source: pivot_root(2).
fn enter(root: &Path) -> Result<()> {
    let entered = chdir(root)
        .and_then(|()| pivot_root(c".", c"."))
        .and_then(|()| unmount(c".", UnmountFlags::DETACH))
        .and_then(|()| chdir(c"/"));
    entered.context("cannot enter the view")
}

#[cfg(test)]
mod tests {
    use super::super::Capture;
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_mount_that_is_gone_meanwhile_is_left_out() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let [scratch, state, gone] = ["scratch", "state", "gone"].map(|name| directory.path().join(name));
        for path in [&scratch, &state] {
            std::fs::create_dir(path).unwrap();
        }
        let ats: Vec<PathBuf> = std::thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                separate_mounts().unwrap();
                let mut mounted = mount::mounted().unwrap();
                let found = Mounted { path: gone.clone(), file_system: "fuse".into(), ..Mounted::default() };
                mounted.extend([Mounted { file_system: "tmpfs".into(), ..found.clone() }, found]);
                let view = View {
                    scratch: &scratch,
                    state: &state,
                    closed: &[],
                    mounted: &mounted,
                    is_of_users: false,
                    overlays: Cell::new(0),
                };
                view.mount().unwrap().0.into_iter().map(|layer| layer.at).collect()
            });
            mounting.join().unwrap()
        });
        assert!(ats.contains(&PathBuf::from("/")) && !ats.contains(&gone), "{ats:?}");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_mount_that_goes_while_the_command_runs_is_no_difference() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let [state, at] = ["state", "gone"].map(|name| directory.path().join(name));
        for is_changed in [false, true] {
            let found = std::thread::scope(|scope| {
                let run = scope.spawn(|| {
                    separate_mounts().unwrap();
                    std::fs::create_dir(&at).unwrap();
                    mount_new("none", &at, "tmpfs", MountFlags::empty(), None).unwrap();
                    let capture = Capture::prepare(&state, &[]).unwrap();
                    let layer = capture.layers.iter().find(|layer| layer.at == at).unwrap();
                    if is_changed {
                        std::fs::write(layer.upper.join("new"), "").unwrap();
                    }
                    unmount(&at, UnmountFlags::DETACH).unwrap();
                    std::fs::remove_dir(&at).unwrap();
                    capture.differences(&|_| false)
                });
                run.join().unwrap()
            });
            match found {
                Ok(differences) => assert!(!is_changed && differences.is_empty(), "{differences:?}"),
                Err(error) => assert!(is_changed && error.to_string().contains("unmounted"), "{error:#}"),
            }
        }
    }
}
