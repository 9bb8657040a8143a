//! What is still to be done: handlers that were triggered, and restarts of the machine.

use super::record::{ChangeId, Handler};

/// A handler that was triggered and is pending: of one step of one plan.
#[derive(Clone, Debug)]
pub struct PendingHandler {
    /// Never used for another.
    pub number: usize,
    /// The plan that has it.
    pub plan: String,
    /// The step that has it; none for a script without steps.
    pub step: Option<String>,
    /// What it does.
    pub handler: Handler,
    /// The changes that triggered it by being made or undone.
    pub changes: Vec<ChangeId>,
}

impl PendingHandler {
    /// One line for people.
    pub fn sentence(&self) -> String {
        self.handler.sentence()
    }

    pub(super) fn is(&self, plan: &str, step: Option<&str>, handler: &Handler) -> bool {
        self.plan == plan && self.step.as_deref() == step && self.handler == *handler
    }
}

impl Handler {
    /// One line for people.
    pub fn sentence(&self) -> String {
        let whose = self.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
        let commands = self.run.iter().map(shell_words::join);
        let restarts = self.restart.iter().map(|unit| format!("restart {unit}{whose}"));
        let parts: Vec<String> = commands.chain(restarts).collect();
        if parts.is_empty() { format!("test {}", shell_words::join(&self.test)) } else { parts.join(", ") }
    }
}

/// A restart of the machine that a step said is needed.
#[derive(Clone, Debug)]
pub struct Reboot {
    /// The plan.
    pub plan: String,
    /// The step; none for a script without steps.
    pub step: Option<String>,
    /// Why.
    pub why: String,
    /// The boot in which that was said.
    pub boot: String,
    /// What the step had changed by then; empty if that was nothing.
    pub(super) changes: Vec<ChangeId>,
}
