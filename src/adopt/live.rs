//! What can only be asked of a machine that runs.

use std::collections::BTreeSet;

use anyhow::Result;

use super::database::Cluster;
use super::kernel::Kernel;
use super::open_files::OpenFiles;
use super::restart::{self, Changes};
use super::unit;
use crate::rehearse::LiveClone;

/// What a running machine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// The units that are active.
    pub(super) active: BTreeSet<String>,
    /// When services changed their states.
    pub(super) changes: Changes,
    pub(super) cluster: Cluster,
    pub(super) kernel: Kernel,
    pub(super) open: OpenFiles,
}

impl Live {
    /// That of a clone.
    pub(super) fn of(clone: &LiveClone) -> Result<Self> {
        let list = ["/bin/systemctl", "list-units", "--state=active", "--full", "--plain", "--no-legend"];
        let active = unit::active(&clone.printed(&list)?.unwrap_or_default());
        let changes = restart::changes(&clone.printed(&restart::ASK)?.unwrap_or_default());
        let cluster = Cluster::of(clone)?;
        Ok(Self { active, changes, cluster, kernel: Kernel::of(clone)?, open: OpenFiles::of(clone)? })
    }
}
