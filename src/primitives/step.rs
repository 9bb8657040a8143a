//! `step::` runs steps, marks progress, verifies effects and declares handlers.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rhai::FnPtr;
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::event::Event;
use crate::failure::{Failure, FailureKind};
use crate::journal::{Entry, Handler};
use crate::script::{Host, OptionSet, Raised, Seconds, StepBody, StepCall, act, look, options_of, value_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("verify", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "on_change" => Some(OptionSet::of::<HandlerOptions>()),
        "verify" => Some(OptionSet::of::<VerifyOptions>()),
        _ => None,
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HandlerOptions {
    test: Vec<String>,
    run: Vec<Vec<String>>,
    restart: Vec<String>,
    user: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct VerifyOptions {
    within: Seconds,
    holds: Seconds,
}

/// The time between two checks of something that is not true yet.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

fn run_step(context: &NativeCallContext, id: &str, title: &str, body: StepBody) -> Raised<()> {
    look(context, |host| {
        host.refuse_secret(id)?;
        host.refuse_secret(title)?;
        let call = StepCall { id: id.to_owned(), title: title.to_owned(), body };
        host.runner()?.run(context, &call)
    })
}

/// Runs the handler of a block if it is pending. If its test fails, the changes inside the block are undone.
fn settle(host: &Host, handler: &Handler) -> Result<()> {
    let Err(error) = host.session().settle(handler) else { return Ok(()) };
    host.session().check_interruption()?;
    let mut failure = match error.downcast::<Failure>() {
        Ok(failure) if failure.kind == FailureKind::Test => failure,
        Ok(failure) => bail!(failure),
        Err(error) => return Err(error),
    };
    failure.hints.extend(host.runner()?.undo_block(host, handler)?);
    Err(failure.into())
}

fn verify_now(context: &NativeCallContext, host: &Host, closure: &FnPtr) -> Result<Result<bool, String>> {
    match host.verifying(|| host.call(context, closure)) {
        Ok(value) => Ok(Ok(value.as_bool().unwrap_or(false))),
        Err(error) => host.caught(error).map(Err),
    }
}

fn verified(
    context: &NativeCallContext,
    label: &str,
    closure: &FnPtr,
    options: &VerifyOptions,
) -> Raised<()> {
    act(context, |host| {
        if host.would_have_changed() {
            host.reporter().emit(&Event::Verified { label: label.to_owned(), now: false });
            return Ok(());
        }
        if let Some(failure) = host.take_failed_mutation() {
            bail!(failure);
        }
        // In a dry run nothing is going to change, so one check is enough.
        let waited = |option: Seconds| if host.dry_run() { Duration::ZERO } else { option.duration() };
        let deadline = Instant::now() + waited(options.within);
        let holds = waited(options.holds);
        let mut since: Option<Instant> = None;
        loop {
            host.seen().check_interruption()?;
            let found = verify_now(context, host, closure)?;
            let now = Instant::now();
            match &found {
                Ok(true) => {
                    let began = *since.get_or_insert(now);
                    if now.duration_since(began) >= holds {
                        host.reporter().emit(&Event::Verified { label: label.to_owned(), now: true });
                        return Ok(());
                    }
                }
                _ if since.is_some() => {
                    bail!(
                        Failure::new(format!("not verified: {label}: it was true, but did not stay true"))
                            .kind(FailureKind::Verify)
                    )
                }
                _ if now >= deadline => {
                    let why = found.err().map_or_else(String::new, |error| format!(": {error}"));
                    bail!(Failure::new(format!("not verified: {label}{why}")).kind(FailureKind::Verify))
                }
                _ => {}
            }
            host.seen().world.processes.pause(BETWEEN_LOOKS);
        }
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Runs the script `script`, a file beside the plan, as the step `id`. Id and title must be string literals at the top
    /// level of the plan. A complete step is skipped unless its script, functions, settings, secrets or plan files changed.
    ///
    /// ```rhai
    /// step::run("01", "Leave a greeting", "01_greet.rhai");
    /// ```
    #[rhai_fn(name = "run", return_raw, volatile)]
    pub(super) fn run_script(context: NativeCallContext, id: &str, title: &str, script: &str) -> Raised<()> {
        run_step(&context, id, title, StepBody::Script(script.to_owned()))
    }

    /// Runs a closure of the plan as the step `id`, for a whole plan in one file. What is outside of
    /// the closures is evaluated by every run: read there only what no step changes, because a run that goes on reads it
    /// after the steps before.
    ///
    /// ```rhai
    /// step::run("greet", "Leave a greeting", || file::write("/srv/greeting", "hello\n"));
    /// ```
    #[rhai_fn(name = "run", return_raw, volatile)]
    pub(super) fn run_closure(context: NativeCallContext, id: &str, title: &str, body: FnPtr) -> Raised<()> {
        run_step(&context, id, title, StepBody::Closure(body))
    }

    /// Records that the part `id` of an ad hoc script is done.
    ///
    /// ```rhai
    /// step::mark("downloaded");
    /// assert(step::is_done("downloaded"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn mark(context: NativeCallContext, id: &str) -> Raised<()> {
        act(&context, |host| {
            host.refuse_secret(id)?;
            host.runner()?.mark(host, id)
        })
    }

    /// Whether `id` was marked as done, or is a complete step.
    ///
    /// ```rhai
    /// assert(!step::is_done("never marked"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn is_done(context: NativeCallContext, id: &str) -> Raised<bool> {
        look(&context, |host| host.runner()?.is_done(host, id))
    }

    /// Calls the closure once on this machine, for what must never happen twice, such as an import of data. It counts as
    /// done when the closure has returned. Neither a reset nor `--redo` forgets it, only a rollback of what it changed. From
    /// then on nothing is known of what it asks for: unlike any other part of a step, it does not keep another step or
    /// plan from undoing what it found as desired.
    ///
    /// ```rhai
    /// step::once("import", || log::info("importing"));
    /// step::once("import", || throw "never reached");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn once(context: NativeCallContext, key: &str, closure: FnPtr) -> Raised<bool> {
        act(&context, |host| {
            host.refuse_secret(key)?;
            if host.seen().history().once.contains_key(key) {
                // What it asked for at that time is no longer known.
                host.seen().asks_for(|| Target::Once(key.to_owned()));
                return Ok(false);
            }
            if host.dry_run() {
                host.session().note_change(Target::Once(key.to_owned()), format!("{key}, once"));
                return Ok(true);
            }
            let known = host.seen().history().changes.len();
            let _value = host.call_apart(&context, &closure)?;
            let changes = host.seen().history().changes[known..].iter().map(|change| change.id).collect();
            host.session().record(Entry::Once { key: key.to_owned(), changes })?;
            Ok(true)
        })
    }

    /// Runs a handler if something changes inside the closure. It is pending until it ran once: at the end of the block, or
    /// when the step runs again after a crash, then with the present arguments of the script. Undoing a change from inside
    /// runs the handler, too. `kkrun pending` lists pending handlers and can drop them.
    ///
    /// The handler is a map of `test` (a command that must succeed first), `run` (an array of commands), `restart` (units
    /// to restart if they are active, and then to stay so) and `user` (whose commands and service manager these are). If `test` fails, the
    /// changes inside are undone as by a rollback, and the step fails; during a rollback, nothing is run. A unit that
    /// `systemctl` starts, stops or enables in `run` is recorded, and a rollback restores its state.
    /// ```rhai
    /// step::on_change(#{ test: ["true"], run: [["true"]] }, || file::exists("/etc"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn on_change(
        context: NativeCallContext,
        options: rhai::Map,
        closure: FnPtr,
    ) -> Raised<Dynamic> {
        act(&context, |host| {
            let given: HandlerOptions = options_of(options)?;
            for argument in given.run.iter().flatten().chain(&given.test) {
                host.refuse_secret(argument)?;
            }
            let handler =
                Handler { test: given.test, run: given.run, restart: given.restart, user: given.user };
            host.session().enter_handler(handler.clone());
            let value = host.call(&context, &closure);
            host.session().leave_handler();
            let value = value?;
            settle(host, &handler)?;
            Ok(value)
        })
    }

    /// Calls the closure. If it depends on what only a run can know, a dry run reports it under its label as something that
    /// might be done, and goes on behind it. What the closure returns is not given, for it may be unknown.
    ///
    /// ```rhai
    /// step::part("a greeting", || file::write("/srv/greeting", "hello\n"));
    /// assert(file::exists("/srv/greeting"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn part(context: NativeCallContext, label: &str, closure: FnPtr) -> Raised<()> {
        act(&context, |host| match host.call(&context, &closure) {
            Ok(_) => Ok(()),
            Err(error) if host.dry_run() => {
                let why = host.caught_unknown(error)?;
                let step = host.seen().step().unwrap_or_default().to_owned();
                let summary = format!("change more for {label}, which is not predictable: depends on {why}");
                host.session().might_make(Target::Step(step), summary);
                Ok(())
            }
            Err(error) => Err(error),
        })
    }

    /// Fails the step unless the closure returns true. An error inside counts as false. In a dry run, after something that
    /// would have changed, it is not evaluated but reported as "later".
    /// Options: `within` (seconds until it must be true), `holds` (seconds for which it must stay true).
    ///
    /// ```rhai
    /// step::verify("there is a root directory", || file::exists("/"));
    /// ```
    ///
    /// ```rhai
    /// step::verify("there is a root directory", || file::exists("/"), #{ within: 1, holds: 0 });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn verify(
        context: NativeCallContext,
        label: &str,
        closure: FnPtr,
        options: rhai::Map,
    ) -> Raised<()> {
        let options = look(&context, |_| options_of::<VerifyOptions>(options))?;
        verified(&context, label, &closure, &options)
    }

    /// The steps of the plan `plan`, evaluated as in a dry run: an array of `#{ id, title, script, status, started, finished,
    /// seconds, attempts, error, changes, reason }`.
    ///
    /// ```rhai
    /// for row in step::list("master.rhai") { log::output(`${row.id} ${row.status}`); }
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn list(context: NativeCallContext, plan: &str) -> Raised<Dynamic> {
        look(&context, |host| Ok(value_of(&host.runner()?.list(&context, plan)?)))
    }

    /// What no longer holds of the complete step `id`, or `()`.
    ///
    /// ```rhai
    /// let reason = step::drift("01");
    /// if reason != () { log::warn(`step 01 no longer holds: ${reason}`); }
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn drift(context: NativeCallContext, id: &str) -> Raised<Dynamic> {
        look(&context, |host| Ok(host.runner()?.drift(&context, id)?.map_or(Dynamic::UNIT, Dynamic::from)))
    }

    /// Forgets the progress of the whole plan. Changes stay recorded and can be undone.
    ///
    /// ```rhai
    /// step::mark("a");
    /// step::reset();
    /// assert(!step::is_done("a"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn reset(context: NativeCallContext) -> Raised<()> {
        act(&context, |host| host.runner()?.reset(host, None))
    }

    /// Forgets the progress of the given steps only.
    ///
    /// ```rhai
    /// step::mark("a");
    /// step::mark("b");
    /// step::reset(["a"]);
    /// assert(!step::is_done("a") && step::is_done("b"));
    /// ```
    #[rhai_fn(name = "reset", return_raw, volatile)]
    pub(super) fn reset_these(context: NativeCallContext, steps: rhai::Array) -> Raised<()> {
        act(&context, |host| {
            let steps = steps.into_iter().map(|step| step.to_string()).collect();
            host.runner()?.reset(host, Some(steps))
        })
    }
}
