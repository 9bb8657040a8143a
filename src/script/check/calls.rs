//! Finds calls and names of unknown things.

use std::collections::BTreeSet;

use rhai::{ASTNode, Expr, FnCallExpr, Position, Stmt};

use super::arguments::{self, signatures, suggestion};
use super::passed;
use super::{Checker, Scope};
use crate::failure::Failure;
use crate::script::program::Program;
use crate::script::vocabulary::Fit;
use crate::text::nearest;

/// What is wrong with the calls and names in a script.
pub(super) fn problems(
    checker: &Checker,
    program: &Program,
    scope: &Scope,
    declared: &BTreeSet<(usize, usize)>,
) -> Vec<Failure> {
    let own: Vec<(&str, usize)> =
        program.ast.iter_fn_def().map(|function| (function.name.as_str(), function.params.len())).collect();
    let taken = passed::functions(&checker.vocabulary, program);
    let (may_fail, problems) = (false, Vec::new());
    let mut reader = Reader { checker, program, scope, declared, own, taken, may_fail, problems };
    reader.shadows();
    program.ast.walk(&mut |path: &[ASTNode]| {
        reader.may_fail = path.iter().any(|node| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..))));
        match path.last() {
            Some(
                ASTNode::Stmt(Stmt::FnCall(call, position)) | ASTNode::Expr(Expr::FnCall(call, position)),
            ) => {
                reader.call(call, *position);
            }
            Some(ASTNode::Expr(Expr::MethodCall(call, position))) => reader.method(call, *position),
            Some(ASTNode::Expr(Expr::Variable(variable, _, position))) => {
                let namespace: Vec<&str> = names(&variable.2.path);
                if !namespace.is_empty() {
                    reader.name(&namespace, &variable.1, *position);
                }
            }
            _ => {}
        }
        true
    });
    reader.problems
}

struct Reader<'check> {
    checker: &'check Checker<'check>,
    program: &'check Program,
    scope: &'check Scope,
    declared: &'check BTreeSet<(usize, usize)>,
    own: Vec<(&'check str, usize)>,
    /// What their parameters take.
    taken: passed::Functions,
    /// What is read stands within `try`.
    may_fail: bool,
    problems: Vec<Failure>,
}

impl Reader<'_> {
    fn report(&mut self, position: Position, message: String, hints: impl IntoIterator<Item = String>) {
        let mut failure = self.program.problem(position, message);
        failure.hints.extend(hints);
        self.problems.push(failure);
    }

    /// Functions of the script that would silently take the place of registered ones.
    fn shadows(&mut self) {
        let own = self.own.clone();
        for (name, parameters) in own {
            if self.checker.vocabulary.fit("", name, parameters) == Fit::Known {
                let position = definition(&self.program.text, name);
                let s = plural(parameters);
                let message = format!(
                    "the function `{name}` with {parameters} parameter{s} would replace the built-in one"
                );
                self.report(position, message, ["give it another name".to_owned()]);
            }
        }
    }

    fn call(&mut self, call: &FnCallExpr, position: Position) {
        if call.op_token.is_some() {
            return;
        }
        let path = names(&call.namespace.path);
        match path.as_slice() {
            [] => self.unqualified(call, position),
            ["global"] => self.within_the_script(call, position),
            [alias] if self.scope.imports.contains_key(*alias) => {
                self.imported(alias, call, position);
            }
            [namespace] if self.checker.vocabulary.has_namespace(namespace) => {
                self.registered(namespace, call, position);
            }
            [namespace] => self.unknown_namespace(namespace, position),
            // A module of a module is checked where it is imported itself.
            _ => {}
        }
    }

    fn has_own(&self, name: &str, arguments: usize) -> bool {
        self.own.iter().any(|(own, parameters)| *own == name && *parameters == arguments)
    }

    fn unqualified(&mut self, call: &FnCallExpr, position: Position) {
        let (name, arguments) = (call.name.as_str(), call.args.len());
        if self.has_own(name, arguments) {
            return self.own_arguments(call);
        }
        if self.checker.vocabulary.fit("", name, arguments) == Fit::Known || name.starts_with("anon$") {
            return;
        }
        self.unknown_function(name, arguments, position);
    }

    fn within_the_script(&mut self, call: &FnCallExpr, position: Position) {
        if self.has_own(&call.name, call.args.len()) {
            self.own_arguments(call);
        } else {
            self.unknown_function(&call.name, call.args.len(), position);
        }
    }

    fn own_arguments(&mut self, call: &FnCallExpr) {
        let taken = self.taken.get(&(call.name.to_string(), call.args.len()));
        let found = taken.map(|taken| arguments::passed_on(self.program, &call.name, call, taken));
        self.problems.extend(found.unwrap_or_default());
    }

    fn unknown_function(&mut self, name: &str, arguments: usize, position: Position) {
        let other_arities: Vec<usize> =
            self.own.iter().filter(|(own, _)| *own == name).map(|(_, parameters)| *parameters).collect();
        if !other_arities.is_empty() {
            return self.wrong_arity(name, arguments, &other_arities, position);
        }
        if self.checker.vocabulary.fit("", name, arguments) == Fit::OtherArity {
            let message = format!("`{name}` does not take {arguments} argument{}", plural(arguments));
            return self.report(position, message, None);
        }
        let known = self.own.iter().map(|(own, _)| *own).filter(|own| !own.starts_with("anon$"));
        let known: Vec<&str> = known.chain(self.checker.vocabulary.names("")).collect();
        // The author may know the function and not its namespace.
        let elsewhere = self
            .checker
            .vocabulary
            .namespaces()
            .find(|namespace| self.checker.vocabulary.fit(namespace, name, arguments) == Fit::Known);
        let hint = elsewhere
            .map(|namespace| format!("did you mean `{namespace}::{name}`?"))
            .or_else(|| suggestion(name, known));
        self.report(position, format!("unknown function `{name}`"), hint);
    }

    fn wrong_arity(&mut self, name: &str, arguments: usize, known: &[usize], position: Position) {
        let known: Vec<String> = known.iter().map(usize::to_string).collect();
        let message = format!(
            "`{name}` takes {} argument{}, not {arguments}",
            known.join(" or "),
            if known == ["1"] { "" } else { "s" }
        );
        self.report(position, message, None);
    }

    fn imported(&mut self, alias: &str, call: &FnCallExpr, position: Position) {
        let Some(Some(exports)) = self.scope.imports.get(alias) else { return };
        let (name, arguments) = (call.name.as_str(), call.args.len());
        let path = format!("{alias}::{name}");
        let Some(known) = exports.functions.get(name) else {
            let names: Vec<&str> = exports
                .functions
                .iter()
                .filter(|(name, overloads)| {
                    !name.starts_with("anon$") && overloads.iter().any(|(_, private)| !private)
                })
                .map(|(name, _)| name.as_str())
                .collect();
            let hint = qualified_suggestion(alias, name, names);
            return self.report(position, format!("unknown function `{path}`"), hint);
        };
        match known.iter().find(|(parameters, _)| *parameters == arguments) {
            Some((_, false)) => {
                let taken = exports.taken.get(&(name.to_owned(), arguments));
                let found = taken.map(|taken| arguments::passed_on(self.program, &path, call, taken));
                self.problems.extend(found.unwrap_or_default());
            }
            Some((_, true)) => self.report(position, format!("`{path}` is private to its module"), None),
            None => {
                let arities: Vec<usize> = known.iter().map(|(parameters, _)| *parameters).collect();
                self.wrong_arity(&path, arguments, &arities, position);
            }
        }
    }

    fn registered(&mut self, namespace: &str, call: &FnCallExpr, position: Position) {
        let (name, arguments) = (call.name.as_str(), call.args.len());
        let vocabulary = &self.checker.vocabulary;
        if namespace == "step"
            && name == "run"
            && !self.declared.contains(&(position.line().unwrap_or(0), position.position().unwrap_or(0)))
        {
            let hint =
                "write each step as a call of its own, so that kkrun knows all steps before it runs one"
                    .to_owned();
            return self.report(
                position,
                "`step::run` must be called at the top level of a plan".to_owned(),
                [hint],
            );
        }
        match vocabulary.fit(namespace, name, arguments) {
            Fit::Known => {
                self.problems.extend(arguments::problems(
                    self.checker,
                    self.program,
                    namespace,
                    call,
                    self.may_fail,
                ));
            }
            Fit::OtherArity => {
                let message =
                    format!("`{namespace}::{name}` does not take {arguments} argument{}", plural(arguments));
                let hints = signatures(self.checker, namespace, name);
                self.report(position, message, hints);
            }
            Fit::Unknown => {
                let hint = qualified_suggestion(namespace, name, vocabulary.names(namespace));
                self.report(position, format!("unknown function `{namespace}::{name}`"), hint);
            }
        }
    }

    fn unknown_namespace(&mut self, namespace: &str, position: Position) {
        let imports = self.scope.imports.keys().map(String::as_str);
        let known: Vec<&str> = imports.chain(self.checker.vocabulary.namespaces()).collect();
        let hint = suggestion(namespace, known);
        self.report(position, format!("unknown namespace `{namespace}`"), hint);
    }

    fn method(&mut self, call: &FnCallExpr, position: Position) {
        let (name, arguments) = (call.name.as_str(), call.args.len());
        let vocabulary = &self.checker.vocabulary;
        let is_own = self.has_own(name, arguments) || self.has_own(name, arguments + 1);
        if is_own || self.scope.properties.contains(name) {
            return;
        }
        match vocabulary.fit("", name, arguments + 1) {
            Fit::Known => {}
            Fit::OtherArity => {
                let message =
                    format!("the method `{name}` does not take {arguments} argument{}", plural(arguments));
                self.report(position, message, None);
            }
            Fit::Unknown => {
                let hint = suggestion(name, vocabulary.names(""));
                self.report(position, format!("unknown method `{name}`"), hint);
            }
        }
    }

    /// A name within a namespace that is not a call: a setting, or a constant of a module.
    fn name(&mut self, path: &[&str], name: &str, position: Position) {
        match path {
            ["settings"] => {
                let settings = self.checker.host.settings();
                if settings.get(name).is_none() {
                    let hint = qualified_suggestion("settings", name, settings.names().collect());
                    self.report(position, format!("unknown setting `{name}`"), hint);
                }
            }
            ["global"] => {
                let is_constant = self.program.ast.statements().iter().any(|statement| {
                    matches!(statement, Stmt::Var(variable, ..) if variable.0.name.as_str() == name)
                });
                if !is_constant {
                    self.report(position, format!("unknown constant `{name}` in this script"), None);
                }
            }
            [alias] => match self.scope.imports.get(*alias) {
                Some(Some(exports)) if !exports.constants.contains(name) => {
                    let hint = qualified_suggestion(
                        alias,
                        name,
                        exports.constants.iter().map(String::as_str).collect(),
                    );
                    self.report(position, format!("unknown constant `{alias}::{name}`"), hint);
                }
                Some(_) => {}
                None if self.checker.vocabulary.has_namespace(alias) => {
                    self.report(position, format!("unknown constant `{alias}::{name}`"), None);
                }
                None => self.unknown_namespace(alias, position),
            },
            _ => {}
        }
    }
}

fn names(path: &[rhai::Ident]) -> Vec<&str> {
    path.iter().map(|part| part.name.as_str()).collect()
}

fn qualified_suggestion(namespace: &str, name: &str, known: Vec<&str>) -> Option<String> {
    nearest(name, known).map(|near| format!("did you mean `{namespace}::{near}`?"))
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// Where a function of this name is defined.
fn definition(text: &str, name: &str) -> Position {
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let behind = trimmed.strip_prefix("private ").unwrap_or(trimmed).trim_start();
        let Some(rest) = behind.strip_prefix("fn ") else { continue };
        if rest.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('(')) {
            let column = line.len() - trimmed.len() + 1;
            return Position::new(cut(number + 1), cut(column));
        }
    }
    Position::NONE
}

/// A line or column as Rhai counts it.
fn cut(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
