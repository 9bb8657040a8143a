//! Reads what is going to be run: only if nobody else could have written it.
//!
//! The file is opened first and the opened file is judged and read, so that the bytes that were checked are
//! the bytes that run. Every directory above is judged too: who can write one can exchange what is in it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

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
    let path = path.canonicalize().with_context(named)?;
    let mut file = File::open(&path).with_context(named)?;
    let metadata = file.metadata().with_context(named)?;
    if !metadata.is_file() {
        bail!(Failure::new(format!("`{}` is no regular file", path.display())).exit(ExitCode::USAGE));
    }
    if rustix::process::geteuid().is_root() {
        judge(&path, &metadata)?;
        for above in path.ancestors().skip(1) {
            let metadata =
                above.metadata().with_context(|| format!("cannot look at `{}`", above.display()))?;
            judge(above, &metadata)?;
        }
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(named)?;
    Ok(bytes)
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
    let caller = Account::sudo_caller()?;
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
