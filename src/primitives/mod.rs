//! What scripts can call, one namespace per file. Their doc comments are the manual, their examples are tests.

#![cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "what Rhai's export macro expands to is found in its prelude alone"
    )
)]

mod ask;
mod cmd;
mod config;
mod file;
mod group;
mod host;
mod http;
mod log;
mod options;
mod pg;
mod pkg;
mod rollback;
mod secret;
mod shorter;
mod step;
mod text;
mod unit;
mod user;

use crate::script::{OptionSet, Registration};

/// Every namespace, and which options its functions know.
pub const REGISTRATION: Registration = Registration { register, options, types, elements };

/// Registers every namespace: this is the only list of them.
fn register(engine: &mut rhai::Engine) {
    cmd::register_output(engine);
    engine.register_static_module("ask", ask::module().into());
    engine.register_static_module("cmd", cmd::module().into());
    engine.register_static_module("config", config::module().into());
    engine.register_static_module("file", file::module().into());
    engine.register_static_module("group", group::module().into());
    engine.register_static_module("host", host::module().into());
    engine.register_static_module("http", http::module().into());
    engine.register_static_module("log", log::module().into());
    engine.register_static_module("options", options::module().into());
    engine.register_static_module("pg", pg::module().into());
    engine.register_static_module("pkg", pkg::module().into());
    engine.register_static_module("rollback", rollback::module().into());
    engine.register_static_module("secret", secret::module().into());
    engine.register_static_module("step", step::module().into());
    engine.register_static_module("text", text::module().into());
    engine.register_static_module("unit", unit::module().into());
    engine.register_static_module("user", user::module().into());
}

/// The options that the `options` argument of this function knows.
fn options(namespace: &str, function: &str) -> Option<OptionSet> {
    match namespace {
        "cmd" => cmd::options(function),
        "config" => Some(config::options(function)),
        "file" => file::options(function),
        "group" => group::options(function),
        "http" => http::options(function),
        "pg" => pg::options(function),
        "pkg" => pkg::options(function),
        "rollback" => rollback::options(function),
        "secret" => secret::options(function),
        "step" => step::options(function),
        "text" => text::options(function),
        "unit" => Some(unit::options()),
        "user" => user::options(function),
        _ => None,
    }
}

/// The types that a parameter takes, where Rhai only knows that it is of any type.
fn types(namespace: &str, function: &str, parameter: &str) -> &'static [&'static str] {
    match (namespace, function, parameter) {
        ("config", "set", "value") => {
            &["string", "char", "int", "float", "bool", "secret", "array", "map", "()"]
        }
        ("config", "block", "text") => &["string", "char", "int", "float", "bool", "secret"],
        ("pkg", "preseed", "value") => &["string", "int", "bool", "secret"],
        ("unit", "stable", "seconds") => &["int", "float"],
        _ => &[],
    }
}

/// The types of the elements of a parameter's array; none for any.
fn elements(namespace: &str, function: &str, parameter: &str) -> &'static [&'static str] {
    match (namespace, function, parameter) {
        ("cmd", _, "argv") => &["string", "int", "char"],
        ("pkg", _, "names") | ("step", "reset", "steps") | ("unit", "stable", "units") => &["string"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{OPTION_MAPS, manual};

    #[test]
    fn parameters_that_can_be_left_out_are_listed_once() {
        let mut engine = rhai::Engine::new();
        register(&mut engine);
        let functions = manual::functions(&engine);
        let signatures = |path: &str| -> Vec<String> {
            functions.iter().filter(|known| known.path() == path).map(manual::Function::signature).collect()
        };
        assert_eq!(signatures("rollback::preview"), ["rollback::preview([options: map]) -> any"]);
        assert_eq!(
            signatures("pg::query"),
            ["pg::query(sql: string[, params: array[, connection: map]]) -> array"]
        );
        assert_eq!(
            signatures("config::set"),
            [
                "config::set(path: string, values: map[, options: map]) -> bool",
                "config::set(path: string, key: string, value: any[, options: map]) -> bool"
            ]
        );
        // Options that must be given stay so.
        let download = "file::download(url: string, path: string, options: map) -> bool";
        assert_eq!(signatures("file::download"), [download]);
    }

    #[test]
    fn what_takes_options_says_which() {
        let mut engine = rhai::Engine::new();
        register(&mut engine);
        let functions = manual::functions(&engine);
        assert!(functions.len() > 40);
        for function in &functions {
            if function.parameters.iter().any(|(name, _)| OPTION_MAPS.contains(&name.as_str())) {
                let known = options(&function.namespace, &function.name);
                assert!(known.is_some_and(|known| !known.names().is_empty()), "{}", function.signature());
            }
        }
    }
}
