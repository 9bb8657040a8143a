//! The manual of the functions that kkrun gives to scripts, from their doc comments.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use rhai::Engine;
use serde::Serialize;

use super::vocabulary::{Registration, type_name};

/// The description of a function that is only a shorter call of another.
pub const SHORTER: &str = "a shorter call";

/// A function as scripts see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The names of its parameters with their types.
    pub parameters: Vec<(String, String)>,
    /// How many of its last parameters can be left out.
    pub optional: usize,
    /// The type of what it returns; empty when it returns nothing.
    pub returns: String,
    /// Its doc comment, in Markdown, with the examples.
    pub doc: String,
}

/// An example in a doc comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The words behind `rhai` on its fence.
    pub marks: Vec<String>,
    /// The script.
    pub text: String,
}

impl Function {
    /// `namespace::name`.
    pub fn path(&self) -> String {
        format!("{}::{}", self.namespace, self.name)
    }

    /// How it is called: `http::get(url: string[, options: map]) -> map`.
    pub fn signature(&self) -> String {
        let required = self.parameters.len() - self.optional;
        let mut parameters = String::new();
        for (at, (name, kind)) in self.parameters.iter().enumerate() {
            let open = if at < required { "" } else { "[" };
            let comma = if at == 0 { "" } else { ", " };
            let _ = write!(parameters, "{open}{comma}{name}: {kind}");
        }
        parameters.push_str(&"]".repeat(self.optional));
        let returns = if self.returns.is_empty() { String::new() } else { format!(" -> {}", self.returns) };
        format!("{}({parameters}){returns}", self.path())
    }

    /// The examples in its doc comment.
    pub fn examples(&self) -> Vec<Example> {
        let mut examples = Vec::new();
        let mut open: Option<Example> = None;
        for line in self.doc.lines() {
            match (&mut open, line.trim_end().strip_prefix("```")) {
                (None, Some(fence)) => {
                    let mut words = fence.split(',').map(str::trim);
                    if words.next() == Some("rhai") {
                        let marks = words.map(str::to_owned).collect();
                        open = Some(Example { marks, text: String::new() });
                    }
                }
                (Some(_), Some(_)) => examples.extend(open.take()),
                (Some(example), None) => {
                    example.text.push_str(line);
                    example.text.push('\n');
                }
                (None, None) => {}
            }
        }
        examples
    }
}

/// Every function of every namespace, sorted by its path; those of one name in the order of their parameters.
pub fn functions(engine: &Engine) -> Vec<Function> {
    let mut shorter = Vec::new();
    let mut found = engine.collect_fn_metadata(
        None,
        |function| {
            if function.namespace.is_empty() || function.metadata.name.contains('$') {
                return None;
            }
            let metadata = function.metadata;
            let parameters = metadata.params_info.iter().map(|parameter| {
                let (name, kind) = parameter.split_once(':').unwrap_or((parameter, "any"));
                (name.trim().trim_start_matches('_').to_owned(), type_name(kind))
            });
            let listed = Function {
                namespace: function.namespace.to_string(),
                name: metadata.name.to_string(),
                parameters: parameters.collect(),
                optional: 0,
                returns: type_name(&metadata.return_type),
                doc: text_of(metadata.comments.iter().map(rhai::Identifier::as_str)),
            };
            Some((listed, metadata.param_types.to_vec()))
        },
        false,
    );
    found.retain(|(function, types)| {
        let is_shorter = function.doc == SHORTER;
        if is_shorter {
            shorter.push((function.path(), types.clone()));
        }
        !is_shorter
    });
    let mut found: Vec<Function> = found
        .into_iter()
        .map(|(function, types)| {
            let is_of_it =
                |(path, kept): &&(String, Vec<TypeId>)| *path == function.path() && types.starts_with(kept);
            Function { optional: shorter.iter().filter(is_of_it).count(), ..function }
        })
        .collect();
    found.sort_by(|one, other| {
        let key = |function: &Function| {
            (function.namespace.clone(), function.name.clone(), function.parameters.len())
        };
        key(one).cmp(&key(other)).then_with(|| one.signature().cmp(&other.signature()))
    });
    found
}

/// The same of a registration that no script uses yet.
pub fn functions_of(registration: Registration) -> Vec<Function> {
    let mut engine = Engine::new_raw();
    (registration.register)(&mut engine);
    functions(&engine)
}

/// The namespaces of these functions, sorted.
pub fn namespaces(functions: &[Function]) -> Vec<&str> {
    let names: BTreeSet<&str> = functions.iter().map(|function| function.namespace.as_str()).collect();
    names.into_iter().collect()
}

/// The text of doc comments without their slashes.
fn text_of<'text>(comments: impl Iterator<Item = &'text str>) -> String {
    let mut lines = Vec::new();
    for comment in comments {
        for line in comment.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("///").unwrap_or(line);
            lines.push(line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned());
        }
    }
    lines.join("\n").trim().to_owned()
}
