//! Reads what is going to be run: only if nobody else could have written it.
//!
//! The file is opened first and the opened file is judged and read, so that the bytes that were checked are
//! the bytes that run. Every directory above is judged too: who can write one can exchange what is in it.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::account::Account;
use crate::exit_code::ExitCode;
use crate::failure::Failure;

/// Reads a file that is going to be trusted.
///
/// # Errors
/// With [`ExitCode::REFUSED`] and the command that mends it, when root runs kkrun and somebody other than root,
/// or the user who called sudo, could write the file or a directory above it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let named = || format!("cannot read `{}`", path.display());
    let (path, mut file) = open(path).with_context(named)?;
    let metadata = file.metadata().with_context(named)?;
    if !metadata.is_file() {
        bail!(Failure::new(format!("`{}` is no regular file", path.display())).exit(ExitCode::USAGE));
    }
    if rustix::process::geteuid().is_root() {
        judge(&path, &metadata)?;
        if let Some(directory) = path.parent() {
            judge_directory(directory)?;
        }
    }
    read_all(&mut file, metadata.len()).with_context(named)
}

/// Reads a file that was seen to have this length, in bytes.
fn read_all(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length.saturating_add(1)];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // With room left and all of it there, this was the end.
        if filled == length {
            break;
        }
        if filled == bytes.len() {
            bytes.resize(filled * 2, 0);
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

thread_local! {
    /// Directories under the names that they were given, and what they are.
    static RESOLVED: RefCell<HashMap<PathBuf, PathBuf>> = RefCell::default();
    /// Directories that are trusted with all above: it takes root, or the user who called sudo, to change that,
    /// so it need not be looked at again for each of a thousand scripts.
    static JUDGED: RefCell<HashSet<PathBuf>> = RefCell::default();
    static CALLER: OnceCell<Option<Account>> = const { OnceCell::new() };
}

/// Opens a file, and says where it is when every link is followed.
fn open(path: &Path) -> io::Result<(PathBuf, File)> {
    if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let known = RESOLVED.with_borrow(|known| known.get(directory).cloned());
        let directory = if let Some(known) = known {
            known
        } else {
            let resolved = directory.canonicalize()?;
            RESOLVED.with_borrow_mut(|known| known.insert(directory.to_owned(), resolved.clone()));
            resolved
        };
        let path = directory.join(name);
        let no_link = OFlags::NOFOLLOW.bits().cast_signed();
        match OpenOptions::new().read(true).custom_flags(no_link).open(&path) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
            opened => return opened.map(|file| (path, file)),
        }
    }
    let path = path.canonicalize()?;
    let file = File::open(&path)?;
    Ok((path, file))
}

/// Judges a directory, which is free of links, and all above it.
fn judge_directory(directory: &Path) -> Result<()> {
    if JUDGED.with_borrow(|judged| judged.contains(directory)) {
        return Ok(());
    }
    for above in directory.ancestors() {
        let metadata = above.metadata().with_context(|| format!("cannot look at `{}`", above.display()))?;
        judge(above, &metadata)?;
    }
    JUDGED.with_borrow_mut(|judged| judged.insert(directory.to_owned()));
    Ok(())
}

/// The user who called sudo.
fn caller() -> Result<Option<Account>> {
    if let Some(known) = CALLER.with(|caller| caller.get().cloned()) {
        return Ok(known);
    }
    let caller = Account::sudo_caller()?;
    CALLER.with(|known| known.set(caller.clone())).ok();
    Ok(caller)
}

/// Refuses state that somebody else could have written: a directory, the files named in it that exist, and where
/// it stands. Another user can exchange nothing in a sticky directory above.
///
/// # Errors
/// With [`ExitCode::REFUSED`] and the command that mends it, when root runs kkrun.
pub fn check_state(directory: &Path, files: &[&str]) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let named = |path: &Path| format!("cannot look at `{}`", path.display());
    let directory = directory.canonicalize().with_context(|| named(directory))?;
    for file in files {
        let path = directory.join(file);
        match path.symlink_metadata() {
            Ok(metadata) => judge(&path, &metadata)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| named(&path)),
        }
    }
    for (height, path) in directory.ancestors().enumerate() {
        let metadata = path.metadata().with_context(|| named(path))?;
        let is_sticky = height > 0 && metadata.uid() == 0 && metadata.mode() & 0o1000 != 0;
        if !is_sticky {
            judge(path, &metadata)?;
        }
    }
    Ok(())
}

/// Whether nobody but root, and the user who called sudo, could write what this describes.
pub fn only_trusted_wrote(metadata: &Metadata) -> bool {
    judge(Path::new(""), metadata).is_ok()
}

fn judge(path: &Path, metadata: &Metadata) -> Result<()> {
    let caller = caller()?;
    let is_caller = |uid: u32| caller.as_ref().is_some_and(|caller| caller.uid == uid);
    let owner = metadata.uid();
    if owner != 0 && !is_caller(owner) {
        bail!(refused(
            path,
            &format!("belongs to {}", name_of(owner)),
            &format!("chown root {}", shown(path))
        ));
    }
    let mode = metadata.mode();
    if mode & 0o002 != 0 {
        bail!(refused(path, "can be written by everybody", &format!("chmod o-w {}", shown(path))));
    }
    let own_group = metadata.gid() == 0
        || match &caller {
            Some(caller) => caller.gid == metadata.gid() && caller.has_private_group()?,
            None => false,
        };
    if mode & 0o020 != 0 && !own_group {
        bail!(refused(path, "can be written by its group", &format!("chmod g-w {}", shown(path))));
    }
    Ok(())
}

fn refused(path: &Path, why: &str, mend: &str) -> Failure {
    Failure::new(format!(
        "refused: `{}` {why}, so it may hold what somebody else wants root to do",
        path.display()
    ))
    .exit(ExitCode::REFUSED)
    .kind("refused")
    .hint(format!("if you trust what is there: `{mend}`"))
}

fn name_of(uid: u32) -> String {
    match Account::by_uid(uid) {
        Ok(Some(account)) => format!("`{}`", account.name),
        _ => format!("user {uid}"),
    }
}

fn shown(path: &Path) -> String {
    shell_words::quote(&path.display().to_string()).into_owned()
}
