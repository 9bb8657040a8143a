//! Runs a command on the machine itself whose script names the paths that it touches.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{Output, Run};
use crate::change::{CapturedChange, Change, Payload};
use crate::failure::{Failure, FailureKind};
use crate::primitives::file::absolute;
use crate::target::Target;

impl Run<'_> {
    /// Runs it; what differs at the named paths afterwards is a change of kkrun's own.
    pub(super) fn execute_touching(&self) -> Result<Output> {
        let target = Target::Captured(self.label.clone());
        let paths = self.options.touches.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
        if self.host.dry_run() {
            self.note_captured(target);
            return Ok(self.unknown_output());
        }
        let source = self.source()?;
        for path in &paths {
            self.note_symlink(path, &paths);
        }
        // What a killed run left at these paths is restored before they are recorded.
        self.host.session().begin_acting()?;
        self.host.session().check_interruption()?;
        self.refuse_half_made(&target)?;
        let state = self.host.seen().world.state_directory().to_owned();
        let change = Change::Captured(CapturedChange::about_to_touch(&self.label, source, &paths, &state)?);
        let mut attempts = self.attempts()?;
        if !self.host.session().perform(&change, Payload::Command(&mut attempts))? {
            return Ok(self.nothing_run());
        }
        if let Some(product) = self.options.creates.as_deref().map(absolute).transpose()?
            && product.symlink_metadata().is_err()
        {
            bail!(
                Failure::new(format!("`{}` did not make `{}`", self.label, product.display()))
                    .kind(FailureKind::Command)
            );
        }
        self.prove()?;
        Ok(attempts.ended.map_or_else(|| self.nothing_run(), |ended| self.output(&ended)))
    }

    /// Warns of a symlink: a command may replace it, or write to what is behind it.
    fn note_symlink(&self, path: &Path, named: &[PathBuf]) {
        let Some(destination) = path.is_symlink().then(|| path.canonicalize().ok()).flatten() else { return };
        if !named.iter().any(|named| destination.starts_with(named)) {
            self.host.reporter().note(format!(
                "`{}` is a symlink to `{destination}`: only the link is recorded and undone; add `{destination}` to `touches` if `{}` writes there",
                path.display(),
                self.label,
                destination = destination.display(),
            ));
        }
    }
}
