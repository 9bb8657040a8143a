//! How many changes are live: what a summary needs of them, where the changes themselves are left out.

use serde::{Deserialize, Serialize};

use super::change_record::ChangeRecord;

/// How many changes are live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCount {
    /// All of them.
    pub changes: usize,
    /// Those that cannot be undone.
    pub irreversible: usize,
    /// Those of which what undoing them needs was removed.
    pub forgotten: usize,
}

impl LiveCount {
    pub(super) fn add(self, other: Self) -> Self {
        Self {
            changes: self.changes + other.changes,
            irreversible: self.irreversible + other.irreversible,
            forgotten: self.forgotten + other.forgotten,
        }
    }

    pub(super) fn of(change: &ChangeRecord) -> Self {
        Self {
            changes: 1,
            irreversible: change.is_irreversible().into(),
            forgotten: change.is_forgotten.into(),
        }
    }
}

/// The live changes of a plan in its step, or without one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LiveInStep {
    pub(super) plan: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<String>,
    pub(super) count: LiveCount,
}
