//! Which file systems of the base come along into the clone.

use std::path::{Path, PathBuf};

use crate::machine::mount::{Keeping, Mounted, visible};

/// Where the clone has file systems of its own.
const OWN: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// The file systems mounted below a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SubMounts {
    /// Those to clone, outer ones first, by their paths in the base.
    pub(super) cloned: Vec<PathBuf>,
    /// Those that hold something and stay out: path, kind, and why.
    pub(super) left_out: Vec<(PathBuf, String, &'static str)>,
}

/// Whether the clone has a file system of its own at this path.
pub(super) fn own(path: &Path) -> bool {
    OWN.iter().any(|own| path.starts_with(own))
}

/// The innermost of these mounts that a path lies in.
pub(super) fn holder<'mounts>(path: &Path, mounts: &'mounts [PathBuf]) -> Option<&'mounts Path> {
    let holding = mounts.iter().filter(|mount| path.starts_with(mount));
    holding.max_by_key(|mount| mount.as_os_str().len()).map(PathBuf::as_path)
}

/// Decides for every file system mounted below `base`.
pub(super) fn below(base: &Path, mounted: &[Mounted]) -> SubMounts {
    let mut found = SubMounts::default();
    for mount in visible(mounted) {
        let Ok(inside) = mount.path.strip_prefix(base) else { continue };
        let path = Path::new("/").join(inside);
        let kind = mount.file_system.as_str();
        if inside.as_os_str().is_empty() || own(&path) || mount.keeping() == Keeping::Virtual {
            continue;
        }
        if found.left_out.iter().any(|(outer, _, _)| path.starts_with(outer)) {
            continue;
        }
        if mount.mapped {
            found.left_out.push((path, kind.to_owned(), "its owners are mapped"));
        } else if mount.keeping() == Keeping::OnDisk {
            found.cloned.push(path);
        } else {
            found.left_out.push((path, kind.to_owned(), why_not(kind)));
        }
    }
    found.cloned.sort();
    found
}

fn why_not(kind: &str) -> &'static str {
    match kind {
        "tmpfs" => "it is in memory",
        "overlay" => "it is an overlay itself",
        "9p" | "afs" | "ceph" | "cifs" | "nfs" | "nfs4" | "smb3" | "virtiofs" => {
            "it belongs to another machine"
        }
        _ if kind.starts_with("fuse") => "a program provides it",
        _ => "an overlay cannot use this file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(list: &[(&str, &str)]) -> Vec<Mounted> {
        list.iter()
            .map(|(path, kind)| Mounted {
                path: path.into(),
                file_system: (*kind).to_owned(),
                ..Mounted::default()
            })
            .collect()
    }

    #[test]
    fn disks_come_along_and_what_belongs_elsewhere_is_named() {
        let mounted = mounts(&[
            ("/", "ext4"),
            ("/proc", "proc"),
            ("/run", "tmpfs"),
            ("/run/user/1000", "tmpfs"),
            ("/var", "xfs"),
            ("/home", "ext4"),
            ("/mnt/share", "nfs4"),
            ("/mnt/share/disk", "ext4"),
            ("/boot/efi", "vfat"),
        ]);
        let found = below(Path::new("/"), &mounted);
        assert_eq!(found.cloned, [Path::new("/home"), Path::new("/var")]);
        let left_out: Vec<(&str, &str)> =
            found.left_out.iter().map(|(path, _, why)| (path.to_str().unwrap(), *why)).collect();
        assert_eq!(
            left_out,
            [
                ("/mnt/share", "it belongs to another machine"),
                ("/boot/efi", "an overlay cannot use this file system")
            ]
        );
    }

    #[test]
    fn only_what_is_below_a_directory_belongs_to_it() {
        let mounted =
            mounts(&[("/", "ext4"), ("/srv/base", "xfs"), ("/srv/base/home", "xfs"), ("/home", "xfs")]);
        let found = below(Path::new("/srv/base"), &mounted);
        assert_eq!(found, SubMounts { cloned: vec!["/home".into()], left_out: Vec::new() });
    }

    #[test]
    fn what_another_rehearsal_mounted_is_no_part_of_the_machine() {
        let mut mounted = mounts(&[("/", "ext4"), ("/var/tmp/kkrun-rehearsals/kkrun-1/lower-0", "ext4")]);
        mounted[1].mapped = true;
        assert_eq!(below(Path::new("/"), &mounted).cloned, [] as [PathBuf; 0]);
    }

    #[test]
    fn the_last_mount_at_a_path_is_the_one_that_is_seen() {
        let mounted = mounts(&[("/", "ext4"), ("/data", "ext4"), ("/data", "tmpfs")]);
        assert_eq!(below(Path::new("/"), &mounted).left_out.len(), 1);
    }
}
