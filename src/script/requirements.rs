//! What a script states that it requires, read before anything is run.

use std::rc::Rc;

use rhai::{ASTFlags, Expr, Position, Stmt};

use super::engine::Program;
use super::error::place_in;
use super::plan::Plan;
use super::source::Source;
use crate::exit_code::ExitCode;
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
            let wrong = |message: String, position: Position| {
                Failure::new(message).exit(ExitCode::USAGE).at(place_in(
                    &program.name,
                    &program.text,
                    position,
                ))
            };
            let Expr::Map(map, _) = &variable.1 else {
                let message = format!("`{NAME}` is read before anything runs, so it is a literal map");
                problems.push(
                    wrong(message, *position).hint(format!("write `const {NAME} = #{{ root: true }};`")),
                );
                continue;
            };
            if !flags.intersects(ASTFlags::CONSTANT) {
                problems.push(wrong(format!("`{NAME}` is a constant: `const {NAME} = …`"), *position));
            }
            for (key, value) in &map.0 {
                match (key.name.as_str(), value) {
                    ("root", Expr::BoolConstant(root, _)) => found.root = *root,
                    ("root", _) => problems.push(wrong(format!("`{NAME}.root` is true or false"), key.pos)),
                    (other, _) => {
                        let message = format!("`{NAME}` knows no `{other}`");
                        problems.push(wrong(message, key.pos).hint("it knows `root`"));
                    }
                }
            }
        }
        (found, problems)
    }
}

/// Whether this script, or a step of this plan, requires root; as far as it can be read at all.
pub fn requires_root(source: &Source, name: &str) -> bool {
    let Some(program) = parsed(source, name) else { return false };
    let needs = |program: &Program| Requirements::read(program).0.root;
    if needs(&program) {
        return true;
    }
    let (plan, _) = Plan::read(&program);
    let mut scripts = plan.steps.iter().filter_map(|step| step.script.as_ref());
    scripts.any(|script| parsed(source, script).is_some_and(|program| needs(&program)))
}

/// A script that is read for its statements only: what it calls need not be known.
fn parsed(source: &Source, name: &str) -> Option<Program> {
    let script = source.script(name).ok()?;
    let mut engine = rhai::Engine::new_raw();
    super::engine::limit(&mut engine);
    engine.set_strict_variables(false);
    let ast = engine.compile(&script.text).ok()?;
    Some(Program { name: script.name, text: script.text.into(), ast: Rc::new(ast) })
}
