//! Finds secrets on their way to where they would be seen: into the arguments of a command, a text, a comparison.
//!
//! Followed are the simple ways: variables, and maps and arrays that hold a secret, within one function and the
//! closures in it. What goes further is refused when it happens.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTFlags, ASTNode, Expr, FnCallExpr, FnPtr, Position, Stmt, Token};

use super::problem;
use crate::failure::Failure;
use crate::script::engine::Program;
use crate::script::vocabulary::Vocabulary;

/// What a value has to do with secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Taint {
    /// It is one.
    Secret,
    /// It holds one: a map under these keys, an array under none.
    Holder(BTreeSet<String>),
}

type Tainted = BTreeMap<String, Taint>;

/// The places at which a script shows a secret.
pub(super) fn problems(vocabulary: &Vocabulary, program: &Program) -> Vec<Failure> {
    if !program.text.contains("secret::") {
        return Vec::new();
    }
    let mut reader = Reader { vocabulary, program, closures: Vec::new(), problems: BTreeMap::new() };
    reader.read(&program.ast.clone_statements_only(), Tainted::new());
    for function in program.ast.iter_fn_def() {
        if !function.name.starts_with("anon$") {
            reader.read(&alone(&program.ast, &function.name, function.params.len()), Tainted::new());
        }
    }
    let mut seen = BTreeSet::new();
    while let Some((name, captured)) = reader.closures.pop() {
        let function = program.ast.iter_fn_def().find(|function| function.name == name);
        if let Some(function) = function
            && seen.insert(name)
        {
            reader.read(&alone(&program.ast, &function.name, function.params.len()), captured);
        }
    }
    reader.problems.into_values().collect()
}

/// A script with this function alone.
fn alone(ast: &AST, name: &str, parameters: usize) -> AST {
    ast.clone_functions_only_filtered(|_, _, _, known, count| known == name && count == parameters)
}

struct Reader<'check> {
    vocabulary: &'check Vocabulary,
    program: &'check Program,
    /// Closures that were met, each with what it captures.
    closures: Vec<(String, Tainted)>,
    /// By place.
    problems: BTreeMap<(usize, usize), Failure>,
}

impl Reader<'_> {
    /// Reads the body of one function, or the top level.
    fn read(&mut self, ast: &AST, mut tainted: Tainted) {
        ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Stmt(statement)) => self.statement(statement, &mut tainted),
                Some(ASTNode::Expr(expression)) => self.expression(expression, &tainted),
                _ => {}
            }
            true
        });
    }

    fn statement(&mut self, statement: &Stmt, tainted: &mut Tainted) {
        match statement {
            Stmt::Var(variable, ..) => {
                let name = variable.0.name.to_string();
                match self.taint(&variable.1, tainted) {
                    Some(taint) => tainted.insert(name, taint),
                    None => tainted.remove(&name),
                };
            }
            Stmt::Assignment(assignment) => {
                let (left, right) = (&assignment.1.lhs, &assignment.1.rhs);
                if assignment.0.is_op_assignment() {
                    for side in [left, right] {
                        if self.taint(side, tainted) == Some(Taint::Secret) {
                            self.report(side.start_position(), "a secret cannot be added to");
                        }
                    }
                }
                let Some(taint) = self.taint(right, tainted) else { return };
                match left {
                    Expr::Variable(variable, ..) => {
                        tainted.insert(variable.1.to_string(), taint);
                    }
                    Expr::Dot(chain, ..) | Expr::Index(chain, ..) => {
                        if let (Expr::Variable(variable, ..), Some(key)) = (&chain.lhs, key_of(&chain.rhs))
                            && let Taint::Holder(keys) = tainted
                                .entry(variable.1.to_string())
                                .or_insert(Taint::Holder(BTreeSet::new()))
                        {
                            keys.insert(key);
                        }
                    }
                    _ => {}
                }
            }
            Stmt::For(parts, _) => {
                if let Some(Taint::Holder(_)) = self.taint(&parts.2.expr, tainted) {
                    tainted.insert(parts.0.name.to_string(), Taint::Secret);
                }
            }
            Stmt::FnCall(call, position) => self.call(call, *position, tainted),
            Stmt::Return(Some(value), flags, _) if flags.intersects(ASTFlags::BREAK) => {
                if self.taint(value, tainted).is_some() {
                    self.report(value.start_position(), "a secret cannot be thrown: what is thrown is shown");
                }
            }
            _ => {}
        }
    }

    fn expression(&mut self, expression: &Expr, tainted: &Tainted) {
        match expression {
            Expr::InterpolatedString(parts, _) => {
                for part in parts {
                    let part = within_block(part);
                    if self.taint(part, tainted).is_some() {
                        self.report(
                            part.start_position(),
                            "a secret cannot stand in a text: secret::join([…]) makes a longer secret",
                        );
                    }
                }
            }
            Expr::FnCall(call, position) => self.call(call, *position, tainted),
            Expr::DynamicConstant(value, _) => {
                if let Some(pointer) = value.read_lock::<FnPtr>() {
                    self.closures.push((pointer.fn_name().to_owned(), Tainted::new()));
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, tainted: &Tainted) {
        let name = call.name.as_str();
        if let Some(operator) = &call.op_token {
            let is_secret = |side: &Expr| self.taint(side, tainted) == Some(Taint::Secret);
            if !call.args.iter().any(is_secret) {
                return;
            }
            match operator {
                Token::Plus | Token::Minus | Token::Multiply => {
                    self.report(
                        position,
                        "a secret cannot be added to: secret::join([…]) makes a longer one",
                    );
                }
                Token::EqualsTo
                | Token::NotEqualsTo
                | Token::LessThan
                | Token::LessThanEqualsTo
                | Token::GreaterThan
                | Token::GreaterThanEqualsTo
                | Token::In
                | Token::NotIn => self.report(position, "a secret cannot be compared"),
                _ => {}
            }
            return;
        }
        let path: Vec<&str> = call.namespace.path.iter().map(|part| part.name.as_str()).collect();
        match path.as_slice() {
            [] if name == "curry" => self.closure(call, tainted),
            [] if name == "print" || name == "debug" => self.shown(call, tainted),
            ["log"] => self.shown(call, tainted),
            ["cmd"] => {
                if let Some(argv) = call.args.first()
                    && self.taint(argv, tainted).is_some()
                {
                    let place = match argv {
                        Expr::Array(words, _) => {
                            words.iter().find(|word| self.taint(word, tainted).is_some())
                        }
                        _ => None,
                    };
                    self.report(
                        place.unwrap_or(argv).start_position(),
                        "a secret cannot be an argument of a command, which everybody on the machine can see: \
                         use its `env` or `stdin`",
                    );
                }
            }
            _ => {}
        }
    }

    fn shown(&mut self, call: &FnCallExpr, tainted: &Tainted) {
        for argument in &call.args {
            if self.taint(argument, tainted).is_some() {
                self.report(argument.start_position(), "a secret is not shown");
            }
        }
    }

    fn closure(&mut self, call: &FnCallExpr, tainted: &Tainted) {
        let Some(Expr::DynamicConstant(value, _)) = call.args.first() else { return };
        let Some(pointer) = value.read_lock::<FnPtr>() else { return };
        let captured = call.args.iter().skip(1).filter_map(|argument| match argument {
            Expr::Variable(variable, ..) => {
                let name = variable.1.to_string();
                tainted.get(&name).map(|taint| (name.clone(), taint.clone()))
            }
            _ => None,
        });
        // What captures something is met before the closure by itself is.
        self.closures.retain(|(known, _)| known != pointer.fn_name());
        self.closures.push((pointer.fn_name().to_owned(), captured.collect()));
    }

    fn taint(&self, expression: &Expr, tainted: &Tainted) -> Option<Taint> {
        match expression {
            Expr::FnCall(call, _) if call.op_token == Some(Token::Plus) => {
                let mut keys = BTreeSet::new();
                let mut holds = false;
                for side in &call.args {
                    if let Some(Taint::Holder(more)) = self.taint(side, tainted) {
                        holds = true;
                        keys.extend(more);
                    }
                }
                holds.then_some(Taint::Holder(keys))
            }
            Expr::FnCall(call, _) => {
                let [namespace] = call.namespace.path.as_slice() else { return None };
                self.vocabulary.gives_secret(&namespace.name, &call.name).then_some(Taint::Secret)
            }
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                tainted.get(variable.1.as_str()).cloned()
            }
            Expr::Map(map, _) => {
                let keys: BTreeSet<String> = map
                    .0
                    .iter()
                    .filter(|(_, value)| self.taint(value, tainted).is_some())
                    .map(|(key, _)| key.name.to_string())
                    .collect();
                (!keys.is_empty()).then_some(Taint::Holder(keys))
            }
            Expr::Array(items, _) => items
                .iter()
                .any(|item| self.taint(item, tainted).is_some())
                .then(|| Taint::Holder(BTreeSet::new())),
            Expr::Dot(chain, ..) | Expr::Index(chain, ..) => {
                let Taint::Holder(keys) = self.taint(&chain.lhs, tainted)? else { return None };
                keys.contains(&key_of(&chain.rhs)?).then_some(Taint::Secret)
            }
            Expr::Stmt(_) => match within_block(expression) {
                Expr::Stmt(_) => None,
                inner => self.taint(inner, tainted),
            },
            _ => None,
        }
    }

    fn report(&mut self, position: Position, message: &str) {
        let place = (position.line().unwrap_or(0), position.position().unwrap_or(0));
        let failure = problem(self.program, position, message.to_owned());
        self.problems.entry(place).or_insert(failure);
    }
}

/// The key of `.key` or `["key"]`.
fn key_of(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Property(property, _) => Some(property.2.to_string()),
        Expr::StringConstant(key, _) => Some(key.to_string()),
        _ => None,
    }
}

/// The expression that a block consists of, if it is a single one.
fn within_block(expression: &Expr) -> &Expr {
    if let Expr::Stmt(block) = expression
        && let [Stmt::Expr(inner)] = block.statements()
    {
        return inner;
    }
    expression
}
