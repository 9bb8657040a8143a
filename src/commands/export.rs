//! `kkrun export DIR`: writes the built-in scripts and library, to be read and changed.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::script::built_in;
use crate::ui::line_to_stderr;

/// Writes them below `directory`, which must not hold them yet.
pub(super) fn execute(directory: &Path) -> Result<ExitCode> {
    for (name, embedded) in built_in() {
        let target = directory.join(name);
        if target.symlink_metadata().is_ok() {
            bail!(
                Failure::new(format!("cannot export to `{}`: it already exists", target.display()))
                    .exit(ExitCode::USAGE)
                    .hint("name a new directory: export overwrites nothing")
            );
        }
        std::fs::create_dir_all(&target).with_context(|| format!("cannot create `{}`", target.display()))?;
        embedded.extract(&target).with_context(|| format!("cannot write to `{}`", target.display()))?;
    }
    let version = directory.join("VERSION");
    std::fs::write(&version, concat!(env!("CARGO_PKG_VERSION"), "\n"))
        .with_context(|| format!("cannot write `{}`", version.display()))?;
    line_to_stderr(&format!(
        "written to `{}`: run `kkrun {}`",
        directory.display(),
        directory.join("scripts/master.rhai").display()
    ));
    Ok(ExitCode::DONE)
}
