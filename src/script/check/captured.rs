//! Finds closures that change a variable around them although a later run does not call them again: the body of a step,
//! of `step::once`, an `undo`. The value of the variable afterwards would depend on which run looks at it.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Expr, FnCallExpr, FnPtr, Position, Stmt, StmtBlock};

use crate::failure::Failure;
use crate::script::program::Program;

/// The functions of Rhai that change what they are called on, as methods or as functions with it in front. A test
/// asks Rhai itself.
const MUTATING: &str = "append chop clear crop dedup drain fill_with insert make_lower make_upper mixin pad pop push \
    remove replace retain reverse set set_bit set_bits set_tag shift sort sort_by sort_desc splice take trim truncate \
    write_ascii write_be write_le write_utf8";

/// The name under which `this` is followed.
const THIS: &str = "this";

/// The changes that a later run would not see.
pub(super) fn problems(program: &Program) -> Vec<Failure> {
    let mut reader = Reader::of(program);
    reader.find_closures();
    for (closure, place) in std::mem::take(&mut reader.uncalled) {
        reader.place = place;
        reader.closure(&closure);
    }
    reader.problems.into_values().collect()
}

/// A closure as it stands in a script.
#[derive(Clone, Debug)]
pub(super) struct Closure {
    /// The name of its function.
    function: String,
    /// The variables that it captures, which are its first parameters.
    captured: Vec<String>,
}

/// What the closure that may not be called again belongs to.
#[derive(Clone, Debug, Default)]
enum Place {
    /// A step.
    Step(String),
    /// `step::once`.
    #[default]
    Once,
    /// An `undo`.
    Undo,
}

struct Reader<'check> {
    program: &'check Program,
    /// The closures in what is given to each variable.
    held: BTreeMap<String, Vec<Closure>>,
    /// The methods that change `this`: functions of the script and closures in maps.
    changing_this: BTreeSet<String>,
    /// The closures that a later run may not call again.
    uncalled: Vec<(Closure, Place)>,
    place: Place,
    seen: BTreeSet<String>,
    /// By place.
    problems: BTreeMap<(usize, usize), Failure>,
}

impl<'check> Reader<'check> {
    fn of(program: &'check Program) -> Self {
        Self {
            program,
            held: BTreeMap::new(),
            changing_this: BTreeSet::new(),
            uncalled: Vec::new(),
            place: Place::default(),
            seen: BTreeSet::new(),
            problems: BTreeMap::new(),
        }
    }

    fn find_closures(&mut self) {
        let program = self.program;
        program.ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Stmt(Stmt::Var(variable, ..))) => self.hold(&variable.0.name, &variable.1),
                Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                    if let Some((name, _)) = root(&assignment.1.lhs) {
                        self.hold(name, &assignment.1.rhs);
                    }
                    if let Some(name) = last_property(&assignment.1.lhs) {
                        self.method(name, &assignment.1.rhs);
                    }
                }
                Some(ASTNode::Expr(Expr::Map(map, _))) => {
                    for (key, value) in &map.0 {
                        self.method(&key.name, value);
                        if key.name == "undo" {
                            self.uncalled.extend(closure_in(value).map(|closure| (closure, Place::Undo)));
                        }
                    }
                }
                Some(ASTNode::Stmt(Stmt::FnCall(call, _)) | ASTNode::Expr(Expr::FnCall(call, _))) => {
                    self.call_of_step(call);
                }
                _ => {}
            }
            true
        });
        for function in program.ast.iter_fn_def().filter(|function| !function.name.starts_with("anon$")) {
            if changes_this(program, &function.name, function.params.len()) {
                self.changing_this.insert(function.name.to_string());
            }
        }
    }

    /// Adds the closures that a variable may hold from here on.
    fn hold(&mut self, name: &str, value: &Expr) {
        let mut found = Vec::new();
        value.walk(&mut Vec::new(), &mut |path: &[ASTNode]| {
            if let Some(ASTNode::Expr(inner)) = path.last() {
                found.extend(closure_in(inner));
            }
            true
        });
        self.held.entry(name.to_owned()).or_default().extend(found);
    }

    /// Adds a closure that can be called as a method.
    fn method(&mut self, name: &str, value: &Expr) {
        let Some(closure) = closure_in(value) else { return };
        let function = self.program.ast.iter_fn_def().find(|function| function.name == closure.function);
        if function.is_some_and(|function| changes_this(self.program, &function.name, function.params.len()))
        {
            self.changing_this.insert(name.to_owned());
        }
    }

    fn call_of_step(&mut self, call: &FnCallExpr) {
        if call.namespace.path.len() != 1 || call.namespace.root() != "step" {
            return;
        }
        let (body, place) = match (call.name.as_str(), call.args.first()) {
            ("run", Some(Expr::StringConstant(id, _))) => (call.args.get(2), Place::Step(id.to_string())),
            ("once", _) => (call.args.get(1), Place::Once),
            _ => return,
        };
        match body {
            Some(Expr::Variable(variable, ..)) => {
                let held = self.held.get(variable.1.as_str()).cloned().unwrap_or_default();
                self.uncalled.extend(held.into_iter().map(|closure| (closure, place.clone())));
            }
            Some(body) => self.uncalled.extend(closure_in(body).map(|closure| (closure, place))),
            None => {}
        }
    }

    /// Reads a closure whose captured variables belong to what is around the place.
    fn closure(&mut self, closure: &Closure) {
        if closure.captured.is_empty() || !self.seen.insert(closure.function.clone()) {
            return;
        }
        // What it calls by a captured variable changes what that captured in turn.
        for name in &closure.captured {
            for held in self.held.get(name).cloned().unwrap_or_default() {
                self.closure(&held);
            }
        }
        let around: BTreeSet<String> = closure.captured.iter().cloned().collect();
        let function = self.program.ast.iter_fn_def().find(|function| function.name == closure.function);
        let Some(function) = function else { return };
        let body = alone(&self.program.ast, &function.name, function.params.len());
        self.body(&body, around);
    }

    /// Reads the statements of a function. `around` are the variables that are not its own.
    fn body(&mut self, body: &AST, mut around: BTreeSet<String>) {
        body.walk(&mut |path: &[ASTNode]| {
            if let [ASTNode::Stmt(statement)] = path {
                self.statement(statement, &mut around);
            }
            true
        });
    }

    fn block(&mut self, block: &StmtBlock, around: &BTreeSet<String>) {
        let mut around = around.clone();
        for statement in block.statements() {
            self.statement(statement, &mut around);
        }
    }

    fn statement(&mut self, statement: &Stmt, around: &mut BTreeSet<String>) {
        match statement {
            Stmt::Var(variable, ..) => {
                self.expression(&variable.1, around);
                around.remove(variable.0.name.as_str());
            }
            Stmt::Assignment(assignment) => {
                self.expression(&assignment.1.rhs, around);
                self.expression(&assignment.1.lhs, around);
                self.changed(&assignment.1.lhs, around);
            }
            Stmt::If(flow, _) | Stmt::While(flow, _) | Stmt::Do(flow, ..) => {
                self.expression(&flow.expr, around);
                self.block(&flow.body, around);
                self.block(&flow.branch, around);
            }
            Stmt::For(parts, _) => {
                self.expression(&parts.2.expr, around);
                let mut inner = around.clone();
                inner.remove(parts.0.name.as_str());
                if let Some(counter) = &parts.1 {
                    inner.remove(counter.name.as_str());
                }
                self.block(&parts.2.body, &inner);
            }
            Stmt::TryCatch(flow, _) => {
                self.block(&flow.body, around);
                let mut inner = around.clone();
                if let Expr::Variable(caught, ..) = &flow.expr {
                    inner.remove(caught.1.as_str());
                }
                self.block(&flow.branch, &inner);
            }
            Stmt::Switch(parts, _) => {
                self.expression(&parts.0, around);
                for case in &parts.1.expressions {
                    self.expression(&case.lhs, around);
                    self.expression(&case.rhs, around);
                }
            }
            Stmt::Block(block) => self.block(block, around),
            Stmt::FnCall(call, _) => self.call(call, around),
            Stmt::Expr(expression) => self.expression(expression, around),
            Stmt::BreakLoop(Some(value), ..) | Stmt::Return(Some(value), ..) => {
                self.expression(value, around);
            }
            _ => {}
        }
    }

    fn expression(&mut self, expression: &Expr, around: &BTreeSet<String>) {
        match expression {
            Expr::InterpolatedString(parts, _) | Expr::Array(parts, _) => self.all(parts.iter(), around),
            Expr::Map(map, _) => self.all(map.0.iter().map(|(_, value)| value), around),
            Expr::And(parts, _) | Expr::Or(parts, _) | Expr::Coalesce(parts, _) => {
                self.all(parts.iter(), around);
            }
            Expr::Stmt(block) => self.block(block, around),
            Expr::FnCall(call, _) => self.call(call, around),
            Expr::Dot(parts, ..) | Expr::Index(parts, ..) => {
                self.expression(&parts.lhs, around);
                self.chain(&parts.rhs, root(&parts.lhs), around);
            }
            _ => {}
        }
    }

    fn all<'a>(&mut self, expressions: impl Iterator<Item = &'a Expr>, around: &BTreeSet<String>) {
        for expression in expressions {
            self.expression(expression, around);
        }
    }

    /// Reads what follows `.` or `[`. `within` is the variable of which it is still a part, if it is one.
    fn chain(&mut self, expression: &Expr, within: Option<(&str, Position)>, around: &BTreeSet<String>) {
        match expression {
            Expr::Dot(parts, ..) | Expr::Index(parts, ..) => {
                self.chain(&parts.lhs, within, around);
                // What a method returns is a value of its own.
                let is_part = !matches!(parts.lhs, Expr::MethodCall(..));
                self.chain(&parts.rhs, within.filter(|_| is_part), around);
            }
            Expr::MethodCall(call, _) => {
                self.all(call.args.iter(), around);
                let name = call.name.as_str();
                if let Some((variable, position)) = within
                    && (is_mutating(name) || self.changing_this.contains(name))
                {
                    self.report(variable, position, around);
                }
            }
            other => self.expression(other, around),
        }
    }

    fn call(&mut self, call: &FnCallExpr, around: &BTreeSet<String>) {
        if let Some(Closure { function, captured }) = curried(call) {
            let captured = captured.into_iter().filter(|name| around.contains(name)).collect();
            return self.closure(&Closure { function, captured });
        }
        self.all(call.args.iter(), around);
        // Functions of Rhai are given their first argument itself, those of scripts a copy.
        if call.namespace.is_empty()
            && call.op_token.is_none()
            && is_mutating(&call.name)
            && let Some(changed) = call.args.first()
        {
            self.changed(changed, around);
        }
    }

    /// This is changed.
    fn changed(&mut self, expression: &Expr, around: &BTreeSet<String>) {
        if let Some((name, position)) = root(expression) {
            self.report(name, position, around);
        }
    }

    fn report(&mut self, name: &str, position: Position, around: &BTreeSet<String>) {
        if !around.contains(name) {
            return;
        }
        let (where_, why, way) = match &self.place {
            Place::Step(id) => (
                format!("step `{id}`"),
                "a run that skips the completed step would continue with another value",
                "compute it before the first step, or have the step that needs it read what this one left on the machine",
            ),
            Place::Once => (
                "`step::once`".to_owned(),
                "a later run, which does not call the closure, would continue with another value",
                "compute it before `step::once`, or read what the closure left on the machine",
            ),
            Place::Undo => (
                "`undo`".to_owned(),
                "it is called only when the command runs, so a later run would continue with another value",
                "compute it before the command",
            ),
        };
        let message = format!("cannot change `{name}`, a variable from outside, in {where_}: {why}");
        let failure = self
            .program
            .problem(position, message)
            .hint(way)
            .hint(format!("`let {name} = …` within the closure makes a variable of its own"));
        let place = (position.line().unwrap_or(0), position.position().unwrap_or(0));
        self.problems.entry(place).or_insert(failure);
    }
}

fn is_mutating(name: &str) -> bool {
    MUTATING.split_whitespace().any(|known| known == name)
}

/// Whether a function changes the value that it is called on.
fn changes_this(program: &Program, name: &str, parameters: usize) -> bool {
    let mut reader = Reader::of(program);
    reader.body(&alone(&program.ast, name, parameters), BTreeSet::from([THIS.to_owned()]));
    !reader.problems.is_empty()
}

/// A script with this function alone.
pub(super) fn alone(ast: &AST, name: &str, parameters: usize) -> AST {
    // Rhai's own filter for copies lets all through.
    let mut copy = ast.clone_functions_only();
    copy.retain_functions(|_, _, known, count| known == name && count == parameters);
    copy
}

/// The variable of which an expression is the whole or a part, and where it is named.
fn root(expression: &Expr) -> Option<(&str, Position)> {
    match expression {
        Expr::Variable(variable, _, position) if variable.2.is_empty() => {
            Some((variable.1.as_str(), *position))
        }
        Expr::ThisPtr(position) => Some((THIS, *position)),
        Expr::Dot(parts, ..) | Expr::Index(parts, ..) => root(&parts.lhs),
        _ => None,
    }
}

/// The property at the end of `a.b.c`.
fn last_property(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Dot(parts, ..) => last_property(&parts.rhs),
        Expr::Property(property, _) => Some(property.2.as_str()),
        _ => None,
    }
}

/// The closure that an expression is.
pub(super) fn closure_in(expression: &Expr) -> Option<Closure> {
    match expression {
        Expr::DynamicConstant(value, _) => {
            let function = value.read_lock::<FnPtr>()?.fn_name().to_owned();
            Some(Closure { function, captured: Vec::new() })
        }
        Expr::FnCall(call, _) => curried(call),
        Expr::Stmt(block) => match block.statements() {
            [Stmt::Share(_), Stmt::Expr(inner)] => closure_in(inner),
            _ => None,
        },
        _ => None,
    }
}

/// The closure that captures something, as Rhai's parser writes it: `curry(function, variable, …)`.
fn curried(call: &FnCallExpr) -> Option<Closure> {
    if call.name != "curry" {
        return None;
    }
    let (function, variables) = call.args.split_first()?;
    let Expr::DynamicConstant(value, _) = function else { return None };
    let captured = variables.iter().filter_map(|variable| root(variable).map(|(name, _)| name.to_owned()));
    Some(Closure { function: value.read_lock::<FnPtr>()?.fn_name().to_owned(), captured: captured.collect() })
}

#[cfg(test)]
mod tests {
    use rhai::EvalAltResult;

    use super::*;
    use crate::script::limits;

    /// A literal of a type, as Rhai names it in the signature of a function.
    fn literal(kind: &str) -> Option<&'static str> {
        let kind = kind.trim().trim_start_matches("&mut ").trim_start_matches('&');
        Some(match kind.rsplit("::").next().unwrap_or(kind).trim_end_matches('>') {
            "Array" => "[1]",
            "Blob" => "blob(1)",
            "Map" => "#{ a: 1 }",
            "ImmutableString" | "str" | "String" | "string" => "\"a\"",
            "INT" | "i64" | "Dynamic" => "1",
            "FLOAT" | "f64" => "1.5",
            "bool" => "true",
            "char" => "'a'",
            "FnPtr" => "|x| x",
            "Instant" => "timestamp()",
            "ExclusiveRange" | "Range<INT" => "0..1",
            "InclusiveRange" | "RangeInclusive<INT" => "0..=1",
            _ => return None,
        })
    }

    /// Rhai refuses to call on a constant what may change it.
    #[test]
    fn rhai_functions_that_change_their_first_argument_are_known() {
        let engine = limits::plain();
        let functions = engine.collect_fn_metadata(
            None,
            |function| {
                let parameters = &function.metadata.params_info;
                let kinds = parameters.iter().map(|known| known.split_once(':').map_or("", |(_, kind)| kind));
                Some((function.metadata.name.to_string(), kinds.map(str::to_owned).collect::<Vec<_>>()))
            },
            true,
        );
        let (mut found, mut untried) = (BTreeSet::new(), Vec::new());
        for (name, kinds) in functions {
            let is_method = name.starts_with(char::is_alphabetic) && !name.contains('$');
            if !is_method || !kinds.first().is_some_and(|kind| kind.trim().starts_with("&mut ")) {
                continue;
            }
            let Some(arguments) = kinds.iter().map(|kind| literal(kind)).collect::<Option<Vec<_>>>() else {
                untried.push(format!("{name}({})", kinds.join(",")));
                continue;
            };
            let call = format!("const X = {}; X.{name}({})", arguments[0], arguments[1..].join(", "));
            if let Err(error) = engine.run(&call)
                && matches!(*error, EvalAltResult::ErrorNonPureMethodCallOnConstant(..))
            {
                found.insert(name);
            }
        }
        assert_eq!(untried, Vec::<String>::new());
        // These could and do not; of a string, which is what is mostly split, `split` neither.
        for name in "contains extract filter for_each get map order order_by order_desc split".split(' ') {
            assert!(found.remove(name), "{name}");
        }
        let known: BTreeSet<String> = MUTATING.split_whitespace().map(str::to_owned).collect();
        assert_eq!(known, found);
    }
}
