//! Finds the secrets that scripts ask for by reading the scripts, so that a person is asked before the first change
//! and not twenty minutes into the run.

use std::collections::BTreeMap;

use anyhow::Result;
use rhai::{ASTNode, Dynamic, Expr, FnCallExpr, Stmt};

use super::graph::Graph;
use super::program::Program;
use super::secrets::{Existing, LENGTH, SecretRequest};
use super::settings::Settings;

/// The secrets that a script and its imports ask for by `secret::ask` with a literal name, in the order of the source.
pub fn asked_secrets(
    engine: &rhai::Engine,
    graph: &Graph,
    settings: &Settings,
    script: &str,
) -> Result<Vec<SecretRequest>> {
    let mut asked: Vec<SecretRequest> = Vec::new();
    for key in graph.consists_of(engine, script)?.iter() {
        let program = graph.program(engine, key)?;
        let texts = Texts { settings, named: named_texts(settings, &program) };
        program.ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Stmt(Stmt::FnCall(call, _)) | ASTNode::Expr(Expr::FnCall(call, _))) =
                path.last()
                && let Some(request) = texts.request(call)
                && !asked.iter().any(|known| known.name == request.name)
            {
                asked.push(request);
            }
            true
        });
    }
    Ok(asked)
}

/// The variables at the top of a script whose value can be read without running it.
fn named_texts(settings: &Settings, program: &Program) -> BTreeMap<String, String> {
    let mut texts = Texts { settings, named: BTreeMap::new() };
    for statement in program.ast.statements() {
        if let Stmt::Var(variable, ..) = statement
            && let Some(text) = texts.text(&variable.1)
        {
            texts.named.insert(variable.0.as_str().to_owned(), text);
        }
    }
    texts.named
}

struct Texts<'settings> {
    settings: &'settings Settings,
    named: BTreeMap<String, String>,
}

impl Texts<'_> {
    /// The request, if the call is one of `secret::ask` with a literal name.
    fn request(&self, call: &FnCallExpr) -> Option<SecretRequest> {
        if call.name != "ask" || call.namespace.to_string() != "secret" {
            return None;
        }
        let Some(Expr::StringConstant(name, _)) = call.args.first() else { return None };
        let prompt = call.args.get(1).and_then(|prompt| self.text(prompt));
        let options = match call.args.get(2) {
            // Options that are known at run time only: then the run asks.
            Some(options) => self.value(options)?.try_cast::<rhai::Map>()?,
            None => rhai::Map::new(),
        };
        let flag =
            |name: &str, default| options.get(name).map_or(Some(default), |value| value.as_bool().ok());
        Some(SecretRequest {
            name: name.to_string(),
            prompt: Some(prompt.unwrap_or_else(|| format!("Secret `{name}`"))),
            generate: flag("generate", false)?.then_some(LENGTH),
            store: flag("store", true)?,
            existing: match options.get("existing") {
                Some(existing) => Some(rhai::serde::from_dynamic::<Existing>(existing).ok()?),
                None => None,
            },
        })
    }

    /// The value of an expression, as far as it is known without running anything.
    fn value(&self, expression: &Expr) -> Option<Dynamic> {
        let Expr::Map(map, _) = expression else {
            return expression.get_literal_value(None).or_else(|| Some(self.text(expression)?.into()));
        };
        let known = map.0.iter().map(|(name, value)| Some((name.name.clone().into(), self.value(value)?)));
        known.collect::<Option<rhai::Map>>().map(Dynamic::from_map)
    }

    /// The text of an expression, as far as it is known without running anything.
    fn text(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::InterpolatedString(segments, _) => {
                segments.iter().map(|segment| self.text(segment)).collect()
            }
            Expr::Variable(variable, ..) => {
                let name = variable.1.as_str();
                match variable.2.to_string().as_str() {
                    "" => self.named.get(name).cloned(),
                    "settings" => match self.settings.get(name)? {
                        serde_json::Value::String(text) => Some(text.clone()),
                        other => Some(other.to_string()),
                    },
                    _ => None,
                }
            }
            Expr::Stmt(block) => match block.statements() {
                [Stmt::Expr(expression)] => self.text(expression),
                _ => None,
            },
            other => other.get_literal_value(None).as_ref().map(Dynamic::to_string),
        }
    }
}
