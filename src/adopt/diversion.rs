//! Files of packages that are diverted to other names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::machine::clone::root_files::RootFiles;

/// The new diversions: from where to where. Their command moves the files. Each has three lines; the last is
/// its package. Source: dpkg-divert(1), "FILES".
pub(super) fn diversions(from: &RootFiles, to: &RootFiles) -> BTreeSet<(PathBuf, PathBuf)> {
    let of = |files: &RootFiles| {
        let text = files.text("/var/lib/dpkg/diversions");
        let lines: Vec<&str> = text.lines().collect();
        lines
            .chunks_exact(3)
            .map(|lines| (PathBuf::from(lines[0]), PathBuf::from(lines[1])))
            .collect::<BTreeSet<_>>()
    };
    of(to).difference(&of(from)).cloned().collect()
}
