//! Acts as a user, on a thread that may do only what that user may.

use std::panic::resume_unwind;

use anyhow::{Context, Result};
use nix::unistd::getgrouplist;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Whom to act as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl User {
    /// The user of this id with the groups that the user database gives; without an entry there, only
    /// `group`.
    pub fn of(uid: u32, group: u32) -> Result<Self> {
        let entry = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
            .with_context(|| format!("cannot look up user {uid}"))?;
        let Some(entry) = entry else {
            return Ok(Self { uid, gid: group, groups: Vec::new() });
        };
        let groups = std::ffi::CString::new(entry.name.as_bytes())
            .ok()
            .and_then(|name| getgrouplist(&name, entry.gid).ok())
            .unwrap_or_default();
        Ok(Self {
            uid,
            gid: entry.gid.as_raw(),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        })
    }

    /// Whether the user may give a file to this group.
    pub(super) fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

/// Whether this process can act as another user.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `act` as `user`: on a helper thread, which alone gets the user's effective ids and groups and loses
/// every capability.
///
/// The real and the saved user id stay root's: otherwise the user could signal that thread, and so end the whole
/// process. Without root, or as root itself, `act` runs as it is.
pub fn as_user<T: Send>(user: &User, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if !is_root() || user.uid == 0 {
        return act();
    }
    let drop_credentials = || -> rustix::io::Result<()> {
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(None, Gid::from_raw(user.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(user.uid), None)
    };
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new()
            .name(format!("as user {}", user.uid))
            .spawn_scoped(scope, move || {
                drop_credentials().with_context(|| format!("cannot act as user {}", user.uid))?;
                act()
            })
            .context("cannot start a thread")?;
        helper.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::UNPRIVILEGED;

    fn effective() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    #[test]
    #[ignore = "needs root"]
    fn only_the_helper_thread_becomes_the_user() {
        let user = User { uid: UNPRIVILEGED, gid: UNPRIVILEGED, groups: vec![4242, UNPRIVILEGED] };
        let groups = |()| -> Vec<u32> {
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect()
        };
        let mine = groups(());
        let watched = std::sync::Barrier::new(2);
        let (inside, outside) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                watched.wait();
                let seen = (effective(), groups(()));
                watched.wait();
                seen
            });
            let inside = as_user(&user, || {
                watched.wait();
                let seen = (effective(), groups(()), std::fs::read("/etc/shadow").is_err());
                watched.wait();
                Ok(seen)
            });
            (inside.unwrap(), other.join().unwrap())
        });
        assert_eq!(inside, ((UNPRIVILEGED, UNPRIVILEGED), vec![4242, UNPRIVILEGED], true));
        assert_eq!(outside, ((0, effective().1), mine));
    }

    #[test]
    #[ignore = "needs root"]
    fn the_user_cannot_end_the_process_through_the_thread() {
        let user = User { uid: UNPRIVILEGED, gid: UNPRIVILEGED, groups: vec![] };
        as_user(&user, || {
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            let ids = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
            let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).unwrap().to_owned();
            assert_eq!(ids.split_whitespace().collect::<Vec<_>>(), ["Uid:", "0", "65534", "0", "65534"]);
            assert_eq!(capabilities.split_whitespace().nth(1), Some("0000000000000000"));
            Ok(())
        })
        .unwrap();
    }
}
