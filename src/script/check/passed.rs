//! What the parameters of a script's own functions take: what the primitives take that they are passed on to.
//!
//! A parameter that the function looks at, assigns to or compares takes anything: it may be passed on in some cases only.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{ASTNode, Expr, FnCallExpr, Stmt, Token};

use super::captured::alone;
use crate::script::program::Program;
use crate::script::vocabulary::Vocabulary;

/// The parameters of functions, by the name and the number of parameters.
pub(super) type Functions = BTreeMap<(String, usize), Vec<Taken>>;

/// What one parameter takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its name.
    pub name: String,
    /// The types, as scripts name them; none for any.
    pub types: BTreeSet<String>,
    /// The keys that a map must have.
    pub keys: BTreeSet<String>,
}

/// Methods of maps that tell nothing of what must be in one.
const LOOKS: [&str; 3] = ["get", "contains", "keys"];

/// How often functions are read again, because what one takes follows from what another one takes.
const PASSES: usize = 3;

/// The functions of a script.
pub(super) fn functions(vocabulary: &Vocabulary, program: &Program) -> Functions {
    let mut known = Functions::new();
    for _ in 0..PASSES {
        let found: Functions = program
            .ast
            .iter_fn_def()
            .filter(|function| !function.name.starts_with("anon$"))
            .map(|function| {
                let parameters: Vec<String> = function.params.iter().map(ToString::to_string).collect();
                let name = function.name.to_string();
                let key = (name.clone(), parameters.len());
                let mut reader = Reader::of(vocabulary, &known, parameters);
                let ast = alone(&program.ast, &name, key.1);
                ast.walk(&mut |path: &[ASTNode]| {
                    reader.node(path);
                    true
                });
                (key, reader.taken())
            })
            .collect();
        if found == known {
            break;
        }
        known = found;
    }
    known
}

struct Reader<'check> {
    vocabulary: &'check Vocabulary,
    known: &'check Functions,
    parameters: Vec<String>,
    types: BTreeMap<String, BTreeSet<String>>,
    keys: BTreeMap<String, BTreeSet<String>>,
    /// Parameters that take anything.
    open: BTreeSet<String>,
    /// A `return` was met: what is behind it may not be reached.
    may_have_returned: bool,
}

impl<'check> Reader<'check> {
    fn of(vocabulary: &'check Vocabulary, known: &'check Functions, parameters: Vec<String>) -> Self {
        let (types, keys, open) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { vocabulary, known, parameters, types, keys, open, may_have_returned: false }
    }

    fn parameter<'e>(&self, expression: &'e Expr) -> Option<&'e str> {
        let Expr::Variable(variable, ..) = expression else { return None };
        let is_own = variable.2.is_empty() && self.parameters.iter().any(|own| *own == *variable.1);
        is_own.then(|| variable.1.as_str())
    }

    fn node(&mut self, path: &[ASTNode]) {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::FnCall(call, _)) | ASTNode::Expr(Expr::FnCall(call, _))) => {
                self.call(call);
            }
            Some(ASTNode::Expr(Expr::Dot(parts, ..))) => self.property(parts.as_ref(), path),
            Some(ASTNode::Expr(Expr::Coalesce(parts, _))) => {
                for part in parts.iter() {
                    self.opens(part);
                }
            }
            Some(ASTNode::Stmt(Stmt::Switch(parts, _))) => self.opens(&parts.0),
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => self.opens(&assignment.1.lhs),
            Some(ASTNode::Stmt(Stmt::Var(variable, ..))) => {
                self.open.insert(variable.0.name.to_string());
            }
            Some(ASTNode::Stmt(Stmt::For(parts, _))) => {
                self.open.insert(parts.0.name.to_string());
            }
            Some(ASTNode::Stmt(Stmt::Return(..))) => self.may_have_returned = true,
            _ => {}
        }
    }

    fn opens(&mut self, expression: &Expr) {
        if let Some(name) = self.parameter(expression) {
            self.open.insert(name.to_owned());
        }
    }

    /// `parameter.key`, or a method that is called on it.
    fn property(&mut self, parts: &rhai::BinaryExpr, path: &[ASTNode]) {
        let Some(name) = self.parameter(&parts.lhs).map(str::to_owned) else { return };
        let key = match &parts.rhs {
            Expr::Property(property, _) => property.2.to_string(),
            Expr::Dot(below, ..) | Expr::Index(below, ..) => match &below.lhs {
                Expr::Property(property, _) => property.2.to_string(),
                _ => return self.opens(&parts.lhs),
            },
            Expr::MethodCall(call, _) if LOOKS.contains(&call.name.as_str()) => return,
            _ => return self.opens(&parts.lhs),
        };
        self.takes(&name, &BTreeSet::from(["map".to_owned()]));
        let is_certain = |node: &ASTNode| {
            !matches!(
                node,
                ASTNode::Stmt(
                    Stmt::If(..)
                        | Stmt::Switch(..)
                        | Stmt::While(..)
                        | Stmt::Do(..)
                        | Stmt::For(..)
                        | Stmt::TryCatch(..)
                ) | ASTNode::Expr(Expr::And(..) | Expr::Or(..) | Expr::Coalesce(..))
            )
        };
        if !self.may_have_returned && path.iter().all(is_certain) {
            self.keys.entry(name).or_default().insert(key);
        }
    }

    fn call(&mut self, call: &FnCallExpr) {
        // What a closure captures, and `key in map`.
        if call.name == "curry" || call.op_token == Some(Token::In) {
            return;
        }
        let names: Vec<&str> = call.namespace.path.iter().map(|part| part.name.as_str()).collect();
        let parameters: Vec<BTreeSet<String>> = match names.as_slice() {
            _ if call.op_token.is_some() => Vec::new(),
            [namespace] if self.vocabulary.has_namespace(namespace) => {
                let known = self.vocabulary.signatures(namespace, &call.name, call.args.len());
                let of = |at: usize| {
                    let types = known.iter().filter_map(|parameters| parameters.get(at));
                    let is_open = types.clone().any(|parameter| parameter.types.is_empty());
                    if is_open {
                        return BTreeSet::new();
                    }
                    types.flat_map(|parameter| parameter.types.iter().cloned()).collect()
                };
                (0..call.args.len()).map(of).collect()
            }
            [] | ["global"] => {
                let own = self.known.get(&(call.name.to_string(), call.args.len()));
                own.map(|own| own.iter().map(|taken| taken.types.clone()).collect()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let passes_on = !parameters.is_empty();
        for (at, argument) in call.args.iter().enumerate() {
            let Some(name) = self.parameter(argument).map(str::to_owned) else { continue };
            match parameters.get(at) {
                Some(types) if passes_on => self.takes(&name, types),
                // An operator, a conversion, `type_of`, a function of another module.
                _ => self.opens(argument),
            }
        }
    }

    /// Narrows what a parameter takes.
    fn takes(&mut self, name: &str, types: &BTreeSet<String>) {
        if types.is_empty() {
            return;
        }
        let narrowed = match self.types.get(name) {
            Some(before) => before.intersection(types).cloned().collect(),
            None => types.clone(),
        };
        // Different ones in different cases.
        if narrowed.is_empty() {
            self.open.insert(name.to_owned());
        }
        self.types.insert(name.to_owned(), narrowed);
    }

    fn taken(self) -> Vec<Taken> {
        let Self { parameters, mut types, mut keys, open, .. } = self;
        parameters
            .into_iter()
            .map(|name| {
                let is_open = open.contains(&name);
                let types = types.remove(&name).filter(|_| !is_open).unwrap_or_default();
                let keys = keys.remove(&name).filter(|_| !is_open).unwrap_or_default();
                Taken { name, types, keys }
            })
            .collect()
    }
}
