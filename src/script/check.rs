//! Reads a script and everything that belongs to it, and finds what is wrong before anything is run.

mod calls;
mod leak;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use rhai::{ASTFlags, ASTNode, Expr, FnAccess, Position, Stmt};

use super::engine::{Engine, Program};
use super::error::place_in;
use super::host::Host;
use super::plan::Plan;
use super::requirements::Requirements;
use super::resolver::LIBRARY;
use super::vocabulary::Vocabulary;
use crate::exit_code::ExitCode;
use crate::failure::Failure;

/// What a check found.
pub struct Checked {
    /// The steps, if the script is a plan.
    pub plan: Plan,
    /// What any of its scripts requires.
    pub requirements: Requirements,
    /// How many scripts were read.
    pub scripts: usize,
    /// What is wrong, in the order in which it is read.
    pub problems: Vec<Failure>,
}

/// Checks a script; the scripts of its steps, if it is a plan; and all that they import.
pub fn check(engine: &Engine, program: &Program) -> Checked {
    let (plan, problems) = Plan::read(program);
    let mut checker = Checker {
        engine: engine.rhai(),
        host: engine.host(),
        vocabulary: Vocabulary::of(engine.rhai(), engine.known_options()),
        modules: HashMap::new(),
        requirements: Requirements::default(),
        scripts: 0,
        problems,
    };
    let declared: BTreeSet<(usize, usize)> = plan.steps.iter().map(|step| (step.line, step.column)).collect();
    checker.script(program, &declared);
    let mut seen = BTreeSet::new();
    for step in &plan.steps {
        let Some(script) = &step.script else { continue };
        if !seen.insert(script) {
            continue;
        }
        match checker.host.program(checker.engine, script) {
            Ok(program) => checker.script(&program, &BTreeSet::new()),
            Err(error) => checker.unreadable(error, program, Position::new(cut(step.line), cut(step.column))),
        }
    }
    let Checker { requirements, scripts, problems, .. } = checker;
    Checked { plan, requirements, scripts, problems }
}

/// A line or column as Rhai counts it.
fn cut(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// What a module gives to whoever imports it.
#[derive(Default)]
struct Exports {
    /// The functions, each with its numbers of parameters and whether they are private.
    functions: BTreeMap<String, Vec<(usize, bool)>>,
    constants: BTreeSet<String>,
}

/// A module on the way from unread to read.
enum ModuleState {
    /// Its imports are being read.
    Open,
    /// What it gives; nothing if it cannot be read.
    Read(Option<Rc<Exports>>),
}

struct Checker<'engine> {
    engine: &'engine rhai::Engine,
    host: &'engine Host,
    vocabulary: Vocabulary,
    modules: HashMap<String, ModuleState>,
    requirements: Requirements,
    scripts: usize,
    problems: Vec<Failure>,
}

impl Checker<'_> {
    /// Checks one script and what it imports. `declared` are the places at which it declares steps.
    fn script(&mut self, program: &Program, declared: &BTreeSet<(usize, usize)>) {
        let (requirements, problems) = Requirements::read(program);
        self.requirements.root |= requirements.root;
        self.problems.extend(problems);
        self.file(program, declared, &mut Vec::new());
    }

    fn file(&mut self, program: &Program, declared: &BTreeSet<(usize, usize)>, chain: &mut Vec<String>) {
        self.scripts += 1;
        let surroundings = self.imports(program, chain);
        let mut problems = calls::problems(self, program, &surroundings, declared);
        problems.extend(leak::problems(&self.vocabulary, program));
        problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
        self.problems.extend(problems);
    }

    /// Reads what a script imports, and checks that in turn.
    fn imports(&mut self, program: &Program, chain: &mut Vec<String>) -> Surroundings {
        let mut surroundings = Surroundings::default();
        let mut imports = Vec::new();
        program.ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Stmt(Stmt::Import(import, position))) => match &import.0 {
                    Expr::StringConstant(module, at) => {
                        imports.push((module.to_string(), import.1.name.to_string(), *at));
                    }
                    _ => imports.push((String::new(), import.1.name.to_string(), *position)),
                },
                Some(ASTNode::Expr(Expr::Map(map, _))) => {
                    surroundings.properties.extend(map.0.iter().map(|(key, _)| key.name.to_string()));
                }
                Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                    if let Expr::Dot(dot, ..) = &assignment.1.lhs
                        && let Expr::Property(property, _) = &dot.rhs
                    {
                        surroundings.properties.insert(property.2.to_string());
                    }
                }
                _ => {}
            }
            true
        });
        for (module, alias, position) in imports {
            let exports = self.module(program, &module, position, chain);
            surroundings.imports.insert(alias, exports);
        }
        surroundings
    }

    /// What the module at `path` gives, read and checked when it is met first.
    fn module(
        &mut self,
        importer: &Program,
        path: &str,
        position: Position,
        chain: &mut Vec<String>,
    ) -> Option<Rc<Exports>> {
        match self.modules.get(path) {
            Some(ModuleState::Read(exports)) => return exports.clone(),
            Some(ModuleState::Open) => {
                let start = chain.iter().position(|open| open == path).unwrap_or(0);
                let circle = [chain[start..].join("` → `"), path.to_owned()].join("` → `");
                let message = format!("imports form a circle: `{circle}`");
                self.problems.push(problem(importer, position, message));
                return None;
            }
            None => {}
        }
        if path.is_empty() {
            let message = "an import names its module by a literal text".to_owned();
            self.problems.push(problem(importer, position, message));
            return None;
        }
        self.modules.insert(path.to_owned(), ModuleState::Open);
        let read = self.host.imported(self.engine, path);
        let exports = match read {
            Ok(program) => {
                chain.push(path.to_owned());
                self.file(&program, &BTreeSet::new(), chain);
                chain.pop();
                Some(Rc::new(exports(&program)))
            }
            Err(error) => {
                self.unreadable_module(error, path, importer, position);
                None
            }
        };
        self.modules.insert(path.to_owned(), ModuleState::Read(exports.clone()));
        exports
    }

    fn unreadable_module(
        &mut self,
        error: anyhow::Error,
        path: &str,
        importer: &Program,
        position: Position,
    ) {
        let known = self.host.source().modules();
        let is_known = known.iter().any(|name| name == path);
        let misspelt = path.starts_with(LIBRARY) || !path.contains('/');
        if misspelt && !is_known {
            let mut failure = problem(importer, position, format!("there is no module `{path}`"));
            failure = match crate::text::nearest(path, known.iter().map(String::as_str)) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None if known.is_empty() => failure,
                None => failure.hint(format!("there are `{}`", known.join("`, `"))),
            };
            self.problems.push(failure);
        } else {
            self.unreadable(error, importer, position);
        }
    }

    /// Takes in why a script cannot be read; without a place of its own it stands where that was asked for.
    fn unreadable(&mut self, error: anyhow::Error, asking: &Program, position: Position) {
        let exit = crate::failure::exit_code(&error);
        let message = format!("{error:#}");
        let mut failure = error.downcast::<Failure>().unwrap_or_else(|_| Failure::new(message));
        if failure.place.is_none() {
            failure.place = Some(place_in(&asking.name, &asking.text, position));
        }
        failure.exit = if exit == ExitCode::REFUSED { exit } else { ExitCode::USAGE };
        self.problems.push(failure);
    }
}

/// What the calls within a script can reach besides what is registered.
#[derive(Default)]
struct Surroundings {
    /// By alias; none for a module that cannot be read.
    imports: BTreeMap<String, Option<Rc<Exports>>>,
    /// The names of properties that are set anywhere: what is called may be a closure in a map.
    properties: BTreeSet<String>,
}

fn exports(program: &Program) -> Exports {
    let mut exports = Exports::default();
    for function in program.ast.iter_fn_def() {
        let private = function.access == FnAccess::Private;
        exports
            .functions
            .entry(function.name.to_string())
            .or_default()
            .push((function.params.len(), private));
    }
    for statement in program.ast.statements() {
        match statement {
            Stmt::Var(variable, flags, _) if flags.intersects(ASTFlags::EXPORTED) => {
                exports.constants.insert(variable.0.name.to_string());
            }
            Stmt::Export(names, _) => {
                let name = if names.1.name.is_empty() { &names.0.name } else { &names.1.name };
                exports.constants.insert(name.to_string());
            }
            _ => {}
        }
    }
    exports
}

/// A problem at a place in a script.
fn problem(program: &Program, position: Position, message: String) -> Failure {
    Failure::new(message).exit(ExitCode::USAGE).at(place_in(&program.name, &program.text, position))
}
