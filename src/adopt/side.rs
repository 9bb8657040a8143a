//! One machine of a comparison: its files, and whose they are.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use super::account::Accounts;
use super::alternative::Alternatives;
use super::database::Cluster;
use super::debconf::Answers;
use super::kernel::Kernel;
use super::live::Live;
use super::open_files::OpenFiles;
use super::package::Packages;
use super::restart::Changes;
use super::trace::Trace;
use crate::machine::clone::root_files::{RootFiles, Seen, SeenKind};

/// A machine, running or not.
pub(super) struct Side {
    pub(super) files: RootFiles,
    pub(super) accounts: Accounts,
    pub(super) packages: Packages,
    pub(super) alternatives: Alternatives,
    /// The answers to the questions of packages.
    pub(super) answers: Answers,
    /// The units that were active when it was looked at.
    pub(super) active: BTreeSet<String>,
    /// When services changed their states last.
    pub(super) changes: Changes,
    pub(super) cluster: Cluster,
    pub(super) kernel: Kernel,
    pub(super) open: OpenFiles,
}

impl Side {
    /// Why its rules of a firewall are not loaded by the plan. Where their service runs, that loads them.
    pub(super) fn rules_not_loaded(&self, before: &Self, trace: &Trace, script: &str) -> Vec<String> {
        if self.active.contains("nftables.service") {
            return Vec::new();
        }
        before.kernel.unexpressed(&self.kernel, &self.files, trace, script)
    }

    pub(super) fn of(files: RootFiles, live: Live) -> Self {
        let Live { active, changes, cluster, kernel, open } = live;
        let (accounts, packages, answers) = (Accounts::of(&files), Packages::of(&files), Answers::of(&files));
        let alternatives = Alternatives::of(&files);
        Self { files, accounts, packages, alternatives, answers, active, changes, cluster, kernel, open }
    }

    /// Owner and group, by name.
    pub(super) fn owners(&self, seen: &Seen) -> (String, String) {
        (self.accounts.user_name(seen.owner), self.accounts.group_name(seen.group))
    }

    /// What differs at a path, in a word; `None` if it is the same on both. Times and the owner of a symlink do not count:
    /// nothing depends on them.
    pub(super) fn difference(
        &self,
        path: &Path,
        other: &Self,
        is_loose: bool,
    ) -> Result<Option<&'static str>> {
        let (here, there) = match (self.files.look(path)?, other.files.look(path)?) {
            (None, None) => return Ok(None),
            (Some(here), Some(there)) => (here, there),
            (Some(_), None) => return Ok(Some("missing")),
            (None, Some(_)) => return Ok(Some("additional")),
        };
        if here.kind != there.kind {
            let links = matches!((&here.kind, &there.kind), (SeenKind::Link(_), SeenKind::Link(_)));
            return Ok(Some(if links { "target" } else { "kind" }));
        }
        if is_loose || matches!(here.kind, SeenKind::Link(_)) {
            return Ok(None);
        }
        if self.owners(&here) != other.owners(&there) {
            return Ok(Some("owner"));
        }
        if here.mode != there.mode {
            return Ok(Some("mode"));
        }
        if here.kind == SeenKind::File && !self.files.has_same_bytes(path, &other.files)? {
            return Ok(Some("content"));
        }
        Ok((!self.files.has_same_attributes(path, &other.files)?).then_some("attributes"))
    }
}
