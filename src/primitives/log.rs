//! `log::` prints messages on standard error, and a script's data on standard output.

use rhai::plugin::*;

use crate::event::{Event, Level};
use crate::script::{Host, Raised, look};

pub(super) fn module() -> rhai::Module {
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

    /// Prints a message on standard error.
    ///
    /// ```rhai
    /// log::info("the dashboard is served on port 80");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn info(context: NativeCallContext, text: &str) -> Raised<()> {
        say(&context, Level::Info, text)
    }

    /// Prints a warning on standard error.
    ///
    /// ```rhai
    /// log::warn("the clock is five minutes off");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn warn(context: NativeCallContext, text: &str) -> Raised<()> {
        say(&context, Level::Warn, text)
    }

    /// Prints on standard error that something succeeded. A dry run that found something to change does not print it.
    /// Outside of steps it is printed only if every step that the plan came to is complete, and holds as far as it was
    /// examined.
    ///
    /// ```rhai
    /// log::success("the kiosk is set up");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn success(context: NativeCallContext, text: &str) -> Raised<()> {
        let has_failed_to = |host: &Host| {
            let is_closing = host.seen().step().is_none();
            host.would_have_changed() || is_closing && host.runner().is_ok_and(|runner| !runner.all_hold())
        };
        if Host::of(&context).is_ok_and(|host| has_failed_to(&host)) {
            return Ok(());
        }
        say(&context, Level::Success, text)
    }

    /// Prints a line of data on standard output, as `print` does.
    ///
    /// ```rhai
    /// log::output("42");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn output(context: NativeCallContext, text: &str) -> Raised<()> {
        look(&context, |host: &Host| {
            host.output(text);
            Ok(())
        })
    }
}
