//! Finds the file that a command executes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Command, PATH, Value};
use crate::failure::{Failure, FailureKind};

/// The file of the program: found as a shell would, in the command's own PATH if it has one.
pub(super) fn resolve(command: &Command, directory: &Path) -> Result<PathBuf> {
    let name = command
        .argv
        .first()
        .filter(|name| !name.is_empty())
        .context("cannot run a command without a program")?;
    let shown = name.to_string_lossy();
    if name.as_bytes().contains(&b'/') {
        let path = directory.join(name);
        return match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(Failure::new(format!("program `{shown}` is a directory"))
                    .kind(FailureKind::Denied)
                    .into())
            }
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Err(not_executable(&shown).into()),
            Ok(_) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::new(format!("program `{shown}` does not exist"))
                    .kind(FailureKind::Missing)
                    .into())
            }
            Err(error) => Err(error).with_context(|| format!("cannot access program `{shown}`")),
        };
    }
    let path = command.env.iter().rev().find(|(name, _)| name == "PATH").and_then(|(_, value)| match value {
        Value::Plain(path) => Some(path.as_os_str()),
        Value::Secret(_) => None,
    });
    let path = path.unwrap_or(OsStr::new(PATH));
    let mut without_permission = None;
    for candidate in std::env::split_paths(path) {
        let candidate = directory.join(candidate).join(name);
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(metadata) if metadata.is_file() => without_permission = Some(candidate),
            _ => {}
        }
    }
    if let Some(candidate) = without_permission {
        return Err(not_executable(&candidate.to_string_lossy()).into());
    }
    let message = format!("program `{shown}` not found in PATH ({})", path.to_string_lossy());
    let hint = format!("install the package that provides `{shown}` first");
    Err(Failure::new(message).kind(FailureKind::Missing).hint(hint).into())
}

fn not_executable(shown: &str) -> Failure {
    Failure::new(format!("program `{shown}` is not executable"))
        .kind(FailureKind::Denied)
        .hint(format!("make it executable: chmod +x {shown}"))
}
