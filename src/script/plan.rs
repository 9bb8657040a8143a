//! Reads which steps a plan has, without evaluating it.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use rhai::{Expr, FnCallExpr, Position, Stmt};

use super::program::Program;
use crate::failure::Failure;

/// A step as the plan declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its script; none for an inline step.
    pub script: Option<String>,
    /// Where it is declared; nowhere if that is only remembered.
    pub position: Position,
}

/// The steps that a script declares at its top level, in order; none for a script that is no plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<PlannedStep>,
    /// The script only runs them: if all of them are complete, there is nothing to evaluate.
    pub is_bare: bool,
}

impl Plan {
    /// Reads the declarations of a program.
    ///
    /// # Errors
    /// With [`ExitCode::USAGE`](crate::exit_code::ExitCode::USAGE) when an id or title is not a literal, or an id is used twice.
    pub fn of(program: &Program) -> Result<Self> {
        let (plan, mut problems) = Self::read(program);
        if problems.is_empty() { Ok(plan) } else { Err(problems.swap_remove(0).into()) }
    }

    /// Reads the declarations of a program, and everything that is wrong with them.
    pub(super) fn read(program: &Program) -> (Self, Vec<Failure>) {
        let (mut plan, mut problems) = (Self { is_bare: true, ..Self::default() }, Vec::new());
        let mut lines = HashMap::new();
        for statement in program.ast.statements() {
            let Some((call, position)) = step_run(statement) else {
                plan.is_bare &= is_constant(statement);
                continue;
            };
            plan.is_bare &= call.args.len() == 3;
            let step = match planned(program, call, position) {
                Ok(step) => step,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            if let Some(first) = lines.get(&step.id) {
                let message = format!("the step id `{}` is used twice, first in line {first}", step.id);
                problems.push(program.problem(position, message));
                continue;
            }
            plan.is_bare &= step.script.is_some();
            lines.insert(step.id.clone(), position.line().unwrap_or(0));
            plan.steps.push(step);
        }
        (plan, problems)
    }

    /// The step of this id.
    pub fn step(&self, id: &str) -> Option<&PlannedStep> {
        self.steps.iter().find(|step| step.id == id)
    }
}

/// The lines and columns at which a program declares steps at its top level, rightly or wrongly.
pub(super) fn declared_at(program: &Program) -> BTreeSet<(usize, usize)> {
    let calls = program.ast.statements().iter().filter_map(step_run);
    calls.map(|(_, position)| (position.line().unwrap_or(0), position.position().unwrap_or(0))).collect()
}

/// The call, if the statement is a call of `step::run`.
fn step_run(statement: &Stmt) -> Option<(&FnCallExpr, Position)> {
    let (call, position) = match statement {
        Stmt::FnCall(call, position) => (call, position),
        Stmt::Expr(expression) => match &**expression {
            Expr::FnCall(call, position) => (call, position),
            _ => return None,
        },
        _ => return None,
    };
    let is_step_run = call.name == "run" && call.namespace.path.len() == 1 && call.namespace.root() == "step";
    is_step_run.then_some((call, *position))
}

fn planned(program: &Program, call: &FnCallExpr, position: Position) -> Result<PlannedStep, Failure> {
    let literal =
        |at: usize, what: &str| match call.args.get(at) {
            Some(Expr::StringConstant(text, _)) if !text.is_empty() => Ok(text.to_string()),
            _ => Err(program
                .problem(position, format!("step::run needs its {what} as a non-empty string literal"))),
        };
    let (id, title) = (literal(0, "id")?, literal(1, "title")?);
    let script = match call.args.get(2) {
        Some(Expr::StringConstant(text, _)) => Some(text.to_string()),
        Some(Expr::InterpolatedString(..)) => {
            return Err(program.problem(position, "step::run needs its script as a string literal"));
        }
        Some(_) => None,
        None => return Err(program.problem(position, "step::run needs a script or a closure")),
    };
    Ok(PlannedStep { id, title, script, position })
}

/// Whether the statement only declares a constant.
fn is_constant(statement: &Stmt) -> bool {
    matches!(statement, Stmt::Var(named, ..) if named.1.is_constant())
}
