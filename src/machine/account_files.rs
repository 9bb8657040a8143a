//! The files of the user and group databases, and the copies that the tools of the shadow suite leave beside
//! them (`/etc/passwd-` and its kin). Source: passwd(5), shadow(5), subuid(5).

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::backups::Backups;
use super::files::{self, Attributes, Contents, FileState, PathText};

const NAMES: [&str; 6] = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];

/// One database as it was at some moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Database {
    path: PathText,
    state: FileState,
    /// Its copy, whose content is in the backups under its hash.
    copy: FileState,
}

/// The databases at one moment, so that a change that is taken back leaves no trace: the tools would leave
/// copies that still show the removed user, and its password's hash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountFiles(Vec<Database>);

impl AccountFiles {
    /// Looks at the databases of this machine.
    pub fn observe() -> Result<Self> {
        Self::observe_in(Path::new("/etc"))
    }

    fn observe_in(directory: &Path) -> Result<Self> {
        let look = |name: &&str| {
            let path = directory.join(name);
            let state = FileState::observe(&path)?;
            Ok(Database { copy: FileState::observe(&copy_of(&path))?, path: PathText::new(path), state })
        };
        NAMES.iter().map(look).collect::<Result<_>>().map(Self)
    }

    /// Makes the copies' contents durable, for [`AccountFiles::restore_copies`].
    pub fn save(&self, backups: &Backups) -> Result<()> {
        for database in &self.0 {
            backups.save_file(&copy_of(database.path.as_path()))?;
        }
        Ok(())
    }

    /// Brings back the copy of every database that holds the same as then, and the time of both. Where a
    /// database has other entries by now, its copy is left alone.
    pub fn restore_copies(&self, backups: &Backups) -> Result<()> {
        for database in &self.0 {
            let path = database.path.as_path();
            let now = FileState::observe(path)?;
            if !now.same_as(&database.state) {
                continue;
            }
            if let Some(metadata) = database.state.metadata() {
                files::set_metadata(path, &Attributes::from(metadata), &now)?;
            }
            restore(&copy_of(path), &database.copy, backups)?;
        }
        Ok(())
    }
}

fn restore(path: &Path, state: &FileState, backups: &Backups) -> Result<()> {
    let now = FileState::observe(path)?;
    let tag = "accounts";
    match state {
        FileState::File { sha256, metadata, .. } if now.sha256() == Some(*sha256) => {
            files::set_metadata(path, &Attributes::from(metadata), &now)?;
        }
        FileState::File { sha256, metadata, .. } => {
            let mut reader = backups.file(*sha256)?;
            let contents = Contents::Reader { from: &mut reader, sha256: Some(*sha256) };
            files::replace(path, contents, &Attributes::from(metadata), &now, tag)?;
        }
        FileState::Absent if matches!(now, FileState::File { .. }) => files::remove(path, &now, tag)?,
        _ => {}
    }
    Ok(())
}

fn copy_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf, Backups) {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().canonicalize().unwrap();
        std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::fs::write(etc.join("passwd-"), "older\n").unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\n").unwrap();
        let backups = Backups::open(&etc.join("backups")).unwrap();
        (directory, etc, backups)
    }

    #[test]
    fn copies_come_back_byte_for_byte_with_their_time() {
        let (_directory, etc, backups) = scratch();
        let before = AccountFiles::observe_in(&etc).unwrap();
        let states = || {
            ["passwd", "passwd-", "group", "group-"].map(|name| FileState::observe(&etc.join(name)).unwrap())
        };
        let at_first = states();
        before.save(&backups).unwrap();
        for name in ["passwd", "group"] {
            std::fs::rename(etc.join(name), etc.join(format!("{name}-"))).unwrap();
        }
        std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\n").unwrap();
        before.restore_copies(&backups).unwrap();
        assert_eq!(states(), at_first);
    }

    #[test]
    fn the_copy_of_a_database_with_other_entries_is_left_alone() {
        let (_directory, etc, backups) = scratch();
        let before = AccountFiles::observe_in(&etc).unwrap();
        before.save(&backups).unwrap();
        std::fs::write(etc.join("passwd"), "somebody else\n").unwrap();
        std::fs::write(etc.join("passwd-"), "newer\n").unwrap();
        before.restore_copies(&backups).unwrap();
        assert_eq!(std::fs::read_to_string(etc.join("passwd-")).unwrap(), "newer\n");
    }
}
