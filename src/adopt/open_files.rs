//! Which files are held open for writing: what a program may change at any time is its data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::rehearse::LiveClone;

/// The files that processes of a machine hold open for writing, each with the unit of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenFiles(BTreeMap<PathBuf, Option<String>>);

impl OpenFiles {
    /// Those of a clone. The permissions of a link in `/proc/PID/fd` are those of the open file. Source: proc(5).
    pub(super) fn of(clone: &LiveClone) -> Result<Self> {
        const LIST: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
            find /proc/[0-9]*/fd -maxdepth 1 -perm -200 -lname '/*' -printf '%h %l\\n' 2>/dev/null\n\
            grep -sH . /proc/[0-9]*/cgroup\nexit 0";
        Ok(Self::read(&clone.printed(&["/bin/sh", "-c", LIST])?.unwrap_or_default()))
    }

    /// Each with the unit of a process that has it.
    pub(super) fn files(&self) -> &BTreeMap<PathBuf, Option<String>> {
        &self.0
    }

    pub(super) fn read(list: &str) -> Self {
        let mut units: BTreeMap<&str, &str> = BTreeMap::new();
        let mut files = Vec::new();
        for line in list.lines().filter_map(|line| line.strip_prefix("/proc/")) {
            if let Some((process, path)) = line.split_once("/fd ") {
                files.push((process, path));
            } else if let Some((process, group)) = line.split_once("/cgroup:")
                && let Some(unit) = group.rsplit('/').find(|part| part.ends_with(".service"))
            {
                units.insert(process, unit);
            }
        }
        let is_file = |path: &str| {
            !path.ends_with(" (deleted)")
                && !["/dev/", "/memfd:", "/proc/", "/sys/"].iter().any(|place| path.starts_with(place))
        };
        let files = files.into_iter().filter(|(_, path)| is_file(path));
        Self(
            files
                .map(|(process, path)| (path.into(), units.get(process).map(|&unit| unit.to_owned())))
                .collect(),
        )
    }
}
