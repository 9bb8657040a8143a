//! Reading the databases, and writing some of them one after the other under their lock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::databases::{Database, Databases};
use super::lock::Lock;
use crate::machine::files::{self, Attributes, Contents, Digest, FileState};

/// The tag of files in preparation, beside the databases and beside a home.
pub const TAG: &str = "accounts";

/// Where the databases are.
pub const DIRECTORY: &str = "/etc";

/// The files of the databases at one moment, so that restoring a text restores its time too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseFiles(BTreeMap<Database, FileState>);

/// Which of several databases is written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The file that makes an account exist is written last.
    Adding,
    /// The file that makes it exist is written first.
    Removing,
}

fn path_of(directory: &Path, database: Database) -> PathBuf {
    directory.join(database.file())
}

impl Databases {
    /// Reads those of a directory. Each text is consistent; a concurrent change to several of them may be seen in part.
    pub fn read(directory: &Path) -> Result<(Self, DatabaseFiles)> {
        let (mut texts, mut states) = (Self::default(), DatabaseFiles::default());
        for database in Database::ALL {
            let path = path_of(directory, database);
            if FileState::observe(&path)?.is_absent() {
                continue;
            }
            let (text, state) = files::read(&path)?;
            texts.0.insert(database, text);
            states.0.insert(database, state);
        }
        Ok((texts, states))
    }
}

/// Removes what a killed run prepared for one of the databases.
pub fn clear_leftover(directory: &Path) -> Result<()> {
    files::clear_leftover(&path_of(directory, Database::Passwd), TAG)
}

/// Writes what `change` makes of the databases of a directory, each durably and in one instant, under the lock. Returns
/// whether there was anything to write. A run that is killed in between leaves only the first of them written.
///
/// # Errors
/// When another program keeps the lock so long; when a database cannot be written.
pub fn rewrite(
    directory: &Path,
    order: Order,
    before: &DatabaseFiles,
    (patience, pause): (Duration, &mut dyn FnMut() -> Result<()>),
    change: impl FnOnce(&mut Databases) -> Result<()>,
) -> Result<bool> {
    let _lock = Lock::acquire(directory, patience, pause)?;
    clear_leftover(directory)?;
    let (found, states) = Databases::read(directory)?;
    let mut changed = found.clone();
    change(&mut changed)?;
    let mut all = Database::ALL;
    if order == Order::Removing {
        all.reverse();
    }
    for database in all {
        let (Some(text), Some(state)) = (changed.text(database), states.0.get(&database)) else { continue };
        let Some(metadata) = state.metadata().filter(|_| found.text(database) != Some(text)) else {
            continue;
        };
        let as_before = before.0.get(&database).filter(|before| before.sha256() == Some(Digest::of(text)));
        let mtime = as_before.and_then(FileState::metadata).map(|metadata| metadata.mtime);
        let attributes = Attributes { mtime, ..Attributes::from(metadata) };
        files::replace(&path_of(directory, database), Contents::Bytes(text), &attributes, state, TAG)?;
    }
    Ok(found != changed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::machine::account::PATIENCE;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().canonicalize().unwrap();
        std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::fs::write(etc.join("shadow"), "root:*:20000::::::\n").unwrap();
        std::fs::set_permissions(etc.join("shadow"), std::fs::Permissions::from_mode(0o640)).unwrap();
        (directory, etc)
    }

    fn set(all: &mut Databases, lines: &[&str]) {
        let bytes: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        for database in [Database::Passwd, Database::Shadow, Database::Group] {
            all.set_lines(database, "kim", &bytes);
        }
    }

    #[test]
    fn text_mode_and_time_come_back_and_what_is_not_there_stays_away() {
        let (_directory, etc) = scratch();
        let (_, before) = Databases::read(&etc).unwrap();
        let seen = || {
            let metadata = etc.join("shadow").metadata().unwrap();
            let text = std::fs::read_to_string(etc.join("shadow")).unwrap();
            (text, metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
        };
        let at_first = seen();
        std::fs::write(etc.join(".kkrun-accounts"), "of a killed run").unwrap();
        let write = |order, lines: &[&str]| {
            rewrite(&etc, order, &before, (PATIENCE, &mut || Ok(())), |all| {
                set(all, lines);
                Ok(())
            })
            .unwrap()
        };
        assert!(write(Order::Adding, &["kim:x:1:1::/:/bin/sh"]));
        assert!(!write(Order::Adding, &["kim:x:1:1::/:/bin/sh"]));
        assert!(seen().0.contains("kim") && seen().1 == at_first.1);
        assert!(write(Order::Removing, &[]));
        assert_eq!(seen(), at_first);
        assert!(!etc.join("group").exists() && !etc.join(".kkrun-accounts").exists());
    }

    #[test]
    fn the_holder_of_the_lock_is_waited_for_and_then_named() {
        let (_directory, etc) = scratch();
        // A process does not block on its own lock. 6 and 1 are F_SETLK and F_WRLCK.
        let hold = r#"open(F, ">", $ARGV[0]); my $lock = pack("s s x4 q q l x4", 1, 0, 0, 0, 0); fcntl(F, 6, $lock) or die; $| = 1; print "."; sleep 60"#;
        let mut holder = std::process::Command::new("perl")
            .args(["-e", hold])
            .arg(etc.join(".pwd.lock"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let mut pauses = 0;
        let error = rewrite(
            &etc,
            Order::Adding,
            &DatabaseFiles::default(),
            (Duration::from_millis(50), &mut || {
                pauses += 1;
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            }),
            |_| panic!("the lock is held"),
        );
        holder.kill().unwrap();
        // Another test may have reaped it.
        let _ended = holder.wait();
        assert!(error.unwrap_err().to_string().contains(".pwd.lock`: another program holds it"));
        assert!(pauses > 0);
    }
}
