//! What a script states that it requires, read before anything is run.

use rhai::{ASTFlags, Expr, Stmt};

use super::graph::Graph;
use super::limits;
use super::plan::Plan;
use super::program::Program;
use super::source::Source;
use crate::failure::Failure;

/// The constant that states it.
const NAME: &str = "REQUIRES";

/// What a script requires: `const REQUIRES = #{ root: true };`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// It is run by root.
    pub root: bool,
}

impl Requirements {
    /// Reads the statement of a script, and what is wrong with it.
    pub(super) fn read(program: &Program) -> (Self, Vec<Failure>) {
        let mut found = Self::default();
        let mut problems = Vec::new();
        for statement in program.ast.statements() {
            let Stmt::Var(variable, flags, position) = statement else { continue };
            if variable.0.name.as_str() != NAME {
                continue;
            }
            let Expr::Map(map, _) = &variable.1 else {
                let message =
                    format!("`{NAME}` must be a literal map, because it is read before anything runs");
                let hint = format!("write `const {NAME} = #{{ root: true }};`");
                problems.push(program.problem(*position, message).hint(hint));
                continue;
            };
            if !flags.intersects(ASTFlags::CONSTANT) {
                let message = format!("`{NAME}` must be a constant: `const {NAME} = …`");
                problems.push(program.problem(*position, message));
            }
            for (key, value) in &map.0 {
                match (key.name.as_str(), value) {
                    ("root", Expr::BoolConstant(root, _)) => found.root = *root,
                    ("root", _) => {
                        problems
                            .push(program.problem(key.pos, format!("`{NAME}.root` must be true or false")));
                    }
                    (other, _) => {
                        let message = format!("unknown key `{other}` of `{NAME}`");
                        problems.push(program.problem(key.pos, message).hint("known keys: `root`"));
                    }
                }
            }
        }
        (found, problems)
    }
}

/// Whether this script, or a step of this plan, requires root; as far as it can be read at all.
pub fn requires_root(source: &Source, name: &str) -> bool {
    // This can be read even if the script calls unknown functions.
    let mut engine = rhai::Engine::new_raw();
    limits::limit(&mut engine);
    engine.set_strict_variables(false);
    let graph = Graph::new(source.clone());
    let Ok(program) = graph.program(&engine, name) else { return false };
    let needs = |program: &Program| Requirements::read(program).0.root;
    if needs(&program) {
        return true;
    }
    let (plan, _) = Plan::read(&program);
    let mut scripts = plan.steps.iter().filter_map(|step| step.script.as_ref());
    scripts.any(|script| graph.program(&engine, script).is_ok_and(|program| needs(&program)))
}
