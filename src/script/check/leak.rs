//! Finds secrets where they must not be: among the arguments of a command, in a comparison or a sum, and their names in
//! a string that a primitive would refuse for it.
//!
//! It follows variables, and maps and arrays that contain a secret, within one function and its closures. Everything
//! else is refused at run time.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Expr, FnCallExpr, FnPtr, Position, Stmt, Token};

use super::captured::alone;
use crate::failure::Failure;
use crate::script::program::Program;
use crate::script::vocabulary::Vocabulary;

/// What a value has to do with secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Taint {
    /// It is one.
    Secret,
    /// It is a string that contains the name of one instead of its value.
    Named,
    /// It holds one: a map under these keys, an array under none.
    Holder(BTreeSet<String>),
}

type Tainted = BTreeMap<String, Taint>;

/// The namespaces that may get the name of a secret in a string: they print or ask something.
const TALK: [&str; 5] = ["ask", "host", "log", "secret", "step"];

/// The places at which a script uses a secret where it must not.
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
            _ => {}
        }
    }

    fn expression(&mut self, expression: &Expr, tainted: &Tainted) {
        match expression {
            Expr::FnCall(call, position) => self.call(call, *position, tainted),
            Expr::DynamicConstant(value, _) => {
                if let Some(pointer) = value.read_lock::<FnPtr>()
                    // One that captures something was met by that.
                    && !self.closures.iter().any(|(known, _)| known == pointer.fn_name())
                {
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
                    self.report(position, "a secret cannot be added to: use secret::join([…])");
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
            ["cmd"] => {
                for (at, argument) in call.args.iter().enumerate() {
                    if at == 0 {
                        self.words(argument, tainted);
                    } else {
                        self.text(argument, tainted);
                    }
                }
            }
            [namespace] if !TALK.contains(namespace) && self.vocabulary.has_namespace(namespace) => {
                for argument in &call.args {
                    self.text(argument, tainted);
                }
            }
            _ => {}
        }
    }

    /// The words of a command.
    fn words(&mut self, argument: &Expr, tainted: &Tainted) {
        if self.taint(argument, tainted).is_none() {
            return;
        }
        let word = match argument {
            Expr::Array(words, _) => words.iter().find(|word| self.taint(word, tainted).is_some()),
            _ => None,
        };
        self.report(
            word.unwrap_or(argument).start_position(),
            "a secret cannot be an argument of a command, which every user can see: use its `env` or `stdin`",
        );
    }

    /// What would be a text in an argument.
    fn text(&mut self, argument: &Expr, tainted: &Tainted) {
        match argument {
            Expr::Map(map, _) => {
                for (_, value) in &map.0 {
                    self.text(value, tainted);
                }
            }
            _ if self.taint(argument, tainted) == Some(Taint::Named) => self.report(
                argument.start_position(),
                "this string would contain the name of the secret instead of the secret: use secret::join([…])",
            ),
            _ => {}
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
        self.closures.push((pointer.fn_name().to_owned(), captured.collect()));
    }

    fn taint(&self, expression: &Expr, tainted: &Tainted) -> Option<Taint> {
        match expression {
            Expr::FnCall(call, _) if call.op_token == Some(Token::Plus) => {
                let mut keys = BTreeSet::new();
                let mut holds = false;
                for side in &call.args {
                    match self.taint(side, tainted) {
                        Some(Taint::Holder(more)) => {
                            holds = true;
                            keys.extend(more);
                        }
                        Some(Taint::Named) => return Some(Taint::Named),
                        _ => {}
                    }
                }
                holds.then_some(Taint::Holder(keys))
            }
            Expr::FnCall(call, _) => {
                let [namespace] = call.namespace.path.as_slice() else { return None };
                self.vocabulary.gives_secret(&namespace.name, &call.name).then_some(Taint::Secret)
            }
            Expr::InterpolatedString(parts, _) => parts
                .iter()
                .any(|part| {
                    matches!(self.taint(within_block(part), tainted), Some(Taint::Secret | Taint::Named))
                })
                .then_some(Taint::Named),
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
        let failure = self.program.problem(position, message);
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
