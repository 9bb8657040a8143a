//! `log::` speaks to people, and gives a script's data to standard output.

use rhai::plugin::*;

use crate::event::{Event, Level};
use crate::script::{Host, Raised, look};

/// The namespace.
pub fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

fn say(context: &NativeCallContext, level: Level, text: &str) -> Raised<()> {
    look(context, |host: &Host| {
        host.reporter().emit(&Event::Said { level, text: text.to_owned() });
        Ok(())
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Says something to people, on standard error.
    ///
    /// ```rhai
    /// log::info("the dashboard is served on port 80");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn info(context: NativeCallContext, text: &str) -> Raised<()> {
        say(&context, Level::Info, text)
    }

    /// Says something that wants attention, on standard error.
    ///
    /// ```rhai
    /// log::warn("the clock is five minutes off");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn warn(context: NativeCallContext, text: &str) -> Raised<()> {
        say(&context, Level::Warn, text)
    }

    /// Says that something was reached, on standard error; a preview that found something to change does not say so.
    ///
    /// ```rhai
    /// log::success("the kiosk is set up");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn success(context: NativeCallContext, text: &str) -> Raised<()> {
        if Host::of(&context).is_ok_and(|host| host.would_have_changed()) {
            return Ok(());
        }
        say(&context, Level::Success, text)
    }

    /// Gives a line of data to standard output; `print` does the same.
    ///
    /// ```rhai
    /// log::output("42");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn output(context: NativeCallContext, text: &str) -> Raised<()> {
        look(&context, |host: &Host| {
            host.output(text);
            Ok(())
        })
    }
}
