//! The two scripts a kept clone is given: they work without kkrun, and as long as the clone is there.

use std::path::{Path, PathBuf};

use super::SHARED;
use crate::machine::clone::registry::Made;
use crate::machine::tool::SEARCH_PATH;

/// A script that opens a shell in this directory of the clone, where `kkrun` is found.
pub(super) fn enter(leader: u32, directory: &Path) -> String {
    let directory = directory.to_string_lossy();
    // A login shell would set another path.
    format!(
        "#!/bin/sh\n\
         # Opens a shell in a kept rehearsal, or runs the given command there.\n\
         [ $# -gt 0 ] || set -- /bin/bash\n\
         exec nsenter --target {leader} --all --setuid 0 --setgid 0 -- /usr/bin/env -i -C {} HOME=/root LANG=C.UTF-8 \
         LOGNAME=root PATH={SEARCH_PATH}:{SHARED} SHELL=/bin/bash TERM=\"${{TERM:-dumb}}\" USER=root \"$@\"\n",
        shell_words::quote(&directory)
    )
}

/// A script that removes the clone with all that belongs to it, itself included.
pub(super) fn remove(made: &Made, record: &Path) -> String {
    let quote = |path: &Path| shell_words::quote(&path.to_string_lossy()).into_owned();
    let mut lines = vec![
        "#!/bin/sh".to_owned(),
        "# Removes a kept rehearsal: its processes, mounts, network and files.".to_owned(),
        // A process that took over the number of one that ended is left alone.
        "lives() {".to_owned(),
        "    grep -qv '^[^)]*) Z' \"/proc/$1/stat\" 2>/dev/null || return 1".to_owned(),
        "    [ \"$(sed 's/.*) //' \"/proc/$1/stat\" 2>/dev/null | cut -d ' ' -f 20)\" = \"$2\" ]".to_owned(),
        "}".to_owned(),
        "end() {".to_owned(),
        "    lives \"$@\" && kill -KILL \"$1\"".to_owned(),
        "    while lives \"$@\"; do sleep 0.05; done".to_owned(),
        "}".to_owned(),
        // Some went with the processes whose namespace they were in.
        "release() {".to_owned(),
        "    ! mountpoint -q \"$1\" || umount \"$1\" || umount -l \"$1\"".to_owned(),
        "}".to_owned(),
    ];
    lines.extend(made.processes.iter().map(|process| format!("end {} {}", process.pid, process.start)));
    // While the root directory is mounted no other one has its lock's name.
    let remove_outside = |path: &PathBuf| {
        let path = quote(path);
        format!("[ ! -d {path} ] && rm -f {path} || {{ release {path}; rmdir {path}; }}")
    };
    lines.extend(made.outside.iter().map(remove_outside));
    lines.extend(made.mounts.iter().rev().map(|path| format!("release {}", quote(path))));
    lines.extend(made.network.iter().map(|name| format!("ip netns delete {name}")));
    lines.extend(
        made.control_groups
            .iter()
            .map(|group| format!("find {} -depth -type d -exec rmdir {{}} +", quote(group))),
    );
    lines.push(format!("rm -rf --one-file-system {}", quote(&made.scratch)));
    lines.push(format!("rm -f {}", quote(record)));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clone::registry::Process;

    #[test]
    fn the_removal_names_everything_in_the_right_order() {
        let made = Made {
            runner: None,
            scratch: "/var/tmp/my clones/one".into(),
            mounts: vec!["/m/root".into(), "/m/root/home".into()],
            network: Some("kkrun-7".to_owned()),
            control_groups: vec!["/sys/fs/cgroup/kkrun-7".into()],
            processes: vec![Process { pid: 8, start: 80 }],
            outside: vec!["/run/it".into()],
            kept: true,
        };
        let script = remove(&made, Path::new("/run/kkrun/rehearsals/kkrun-7"));
        let tail: Vec<&str> = script.lines().skip(13).collect();
        assert_eq!(
            tail,
            [
                "end 8 80",
                "[ ! -d /run/it ] && rm -f /run/it || { release /run/it; rmdir /run/it; }",
                "release /m/root/home",
                "release /m/root",
                "ip netns delete kkrun-7",
                "find /sys/fs/cgroup/kkrun-7 -depth -type d -exec rmdir {} +",
                "rm -rf --one-file-system '/var/tmp/my clones/one'",
                "rm -f /run/kkrun/rehearsals/kkrun-7",
            ]
        );
    }
}
