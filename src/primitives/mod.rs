//! What scripts can call, one namespace a file. Their doc comments are the manual, their examples are tests.

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
mod rollback;
mod secret;
mod step;
mod text;
mod unit;
mod user;

/// Gives an engine every namespace. The one list of them.
pub fn register(engine: &mut rhai::Engine) {
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
    engine.register_static_module("rollback", rollback::module().into());
    engine.register_static_module("secret", secret::module().into());
    engine.register_static_module("step", step::module().into());
    engine.register_static_module("text", text::module().into());
    engine.register_static_module("unit", unit::module().into());
    engine.register_static_module("user", user::module().into());
}
