//! The files of the user and group databases, and what the tools of the shadow suite leave in and beside them: copies
//! (`/etc/passwd-` and its kin), and halves when they die. Source: passwd(5), shadow(5), subuid(5).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::account_lines::{AccountEntry, AccountLines, DATABASES};
use super::account_lock::{AccountLock, PATIENCE, TAG, leavings};
use super::backups::Backups;
use super::files::{self, Attributes, Contents, FileState, PathText};

/// One database as it was at some moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Database {
    path: PathText,
    state: FileState,
    /// Its copy, whose content is in the backups under its hash.
    copy: FileState,
}

impl Database {
    /// Whether it holds what it held then.
    fn is_unchanged(&self) -> Result<bool> {
        Ok(FileState::observe(self.path.as_path())?.sha256() == self.state.sha256())
    }

    /// Its state, and its text without these; `None` if it is as it was, or names none of them.
    fn without(&self, entries: &[AccountEntry<'_>]) -> Result<Option<(FileState, Vec<u8>)>> {
        let path = self.path.as_path();
        if self.is_unchanged()? || FileState::observe(path)?.is_absent() {
            return Ok(None);
        }
        let (text, now) = files::read(path)?;
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let left = entries.iter().fold(text.clone(), |text, entry| entry.taken_from_text(name, &text));
        Ok((left != text).then_some((now, left)))
    }
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
        DATABASES.iter().map(look).collect::<Result<_>>().map(Self)
    }

    /// Makes the copies' contents durable, for [`AccountFiles::restore_copies`].
    pub fn save(&self, backups: &Backups) -> Result<()> {
        for database in &self.0 {
            backups.save_file(&copy_of(database.path.as_path()))?;
        }
        Ok(())
    }

    /// Whether a database that is not as it was then names one of these, or a tool left something in preparation.
    pub fn hold_rests(&self, entries: &[AccountEntry<'_>]) -> Result<bool> {
        for database in &self.0 {
            if database.without(entries)?.is_some() {
                return Ok(true);
            }
        }
        Ok(match self.directory() {
            Some(directory) => !leavings(directory)?.is_empty(),
            None => false,
        })
    }

    /// Whether the copies are as they were then, but for those of databases that have changed since.
    pub fn have_their_copies(&self) -> Result<bool> {
        for database in &self.0 {
            let path = database.path.as_path();
            if FileState::observe(path)?.same_as(&database.state)
                && FileState::observe(&copy_of(path))?.sha256() != database.copy.sha256()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes these out of every database that is not as it was then, and away what tools left in preparation.
    pub fn remove_rests(&self, entries: &[AccountEntry<'_>]) -> Result<()> {
        self.remove_rests_within(PATIENCE, entries)
    }

    fn remove_rests_within(&self, patience: Duration, entries: &[AccountEntry<'_>]) -> Result<()> {
        let Some(directory) = self.directory() else { return Ok(()) };
        self.clear_leftover()?;
        if !self.hold_rests(entries)? {
            return Ok(());
        }
        let lock = AccountLock::acquire(directory, patience)?;
        lock.clear()?;
        for database in &self.0 {
            let Some((now, text)) = database.without(entries)? else { continue };
            rewrite(database.path.as_path(), &text, &now)?;
        }
        Ok(())
    }

    /// Gives a group the line among the passwords of groups that it lacks.
    pub fn complete_group(&self, name: &str) -> Result<()> {
        let Some(directory) = self.directory() else { return Ok(()) };
        if !AccountLines::read_in(directory)?.lacks_group_shadow(name) {
            return Ok(());
        }
        let _lock = AccountLock::acquire(directory, PATIENCE)?;
        let path = directory.join("gshadow");
        let now = FileState::observe(&path)?;
        let Some(text) = AccountLines::read_in(directory)?.with_group_shadow(name) else { return Ok(()) };
        rewrite(&path, &text, &now)
    }

    /// Whether all hold what they held then.
    pub fn are_unchanged(&self) -> Result<bool> {
        for database in &self.0 {
            if !database.is_unchanged()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands an outcome on, when what tools left in preparation is gone; and after a failure, when the copies are back
    /// of databases that were not changed.
    pub fn tidied_after<T>(&self, outcome: Result<T>, backups: &Backups) -> Result<T> {
        // Whoever waited in vain does not wait once more.
        let patience = if outcome.is_ok() { PATIENCE } else { Duration::ZERO };
        let cleared = self.remove_rests_within(patience, &[]);
        match outcome {
            Ok(outcome) => cleared.map(|()| outcome),
            Err(error) => {
                if let Err(untidy) = cleared.and_then(|()| self.restore_copies(backups)) {
                    tracing::warn!("cannot tidy the user databases: {untidy:#}");
                }
                Err(error)
            }
        }
    }

    /// Removes what a dead run prepared for one of the databases.
    fn clear_leftover(&self) -> Result<()> {
        self.0.first().map_or(Ok(()), |database| files::clear_leftover(database.path.as_path(), TAG))
    }

    fn directory(&self) -> Option<&Path> {
        self.0.first()?.path.as_path().parent()
    }

    /// Brings back the copy of every database that holds the same as then, and the time of both. Where a
    /// database has other entries by now, its copy is left alone.
    pub fn restore_copies(&self, backups: &Backups) -> Result<()> {
        self.clear_leftover()?;
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

/// Gives a database other text, and leaves it all else.
fn rewrite(path: &Path, text: &[u8], now: &FileState) -> Result<()> {
    let Some(metadata) = now.metadata() else { return Ok(()) };
    let attributes = Attributes { mtime: None, ..metadata.into() };
    files::replace(path, Contents::Bytes(text), &attributes, now, TAG).map(drop)
}

fn restore(path: &Path, state: &FileState, backups: &Backups) -> Result<()> {
    let now = FileState::observe(path)?;
    match state {
        FileState::File { sha256, metadata, .. } if now.sha256() == Some(*sha256) => {
            files::set_metadata(path, &Attributes::from(metadata), &now)?;
        }
        FileState::File { sha256, metadata, .. } => {
            let mut reader = backups.file(*sha256)?;
            let contents = Contents::Reader { from: &mut reader, sha256: Some(*sha256) };
            files::replace(path, contents, &Attributes::from(metadata), &now, TAG)?;
        }
        FileState::Absent if matches!(now, FileState::File { .. }) => files::remove(path, &now, TAG)?,
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
    fn a_user_half_removed_goes_for_good_and_nobody_else() {
        let (_directory, etc, _backups) = scratch();
        let user = [AccountEntry::User("kim")];
        std::fs::write(etc.join("gshadow"), "video:*::kim\n").unwrap();
        let before = AccountFiles::observe_in(&etc).unwrap();
        assert!(!before.hold_rests(&user).unwrap());
        std::fs::write(etc.join("group"), "root:x:0:\nvideo:x:44:kim,robin\n").unwrap();
        std::fs::write(etc.join("subuid"), "kim:1:1\n").unwrap();
        std::fs::write(etc.join("passwd.lock"), "1\0").unwrap();
        assert!(before.hold_rests(&user).unwrap());
        before.remove_rests(&user).unwrap();
        let text = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
        assert_eq!(
            (text("group"), text("subuid")),
            ("root:x:0:\nvideo:x:44:robin\n".to_owned(), String::new())
        );
        assert_eq!(text("gshadow"), "video:*::kim\n", "it is as it was");
        assert!(!etc.join("passwd.lock").exists());
        assert!(!before.hold_rests(&user).unwrap());
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
