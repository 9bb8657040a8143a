//! The one Rhai engine of a run: what scripts can reach, and how they are evaluated.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rhai::{Dynamic, NativeCallContext, Scope};

use super::error::Stop;
use super::host::{Host, HostTag, Raised, look, raise};
use super::limits::{Memory, plain};
use super::program::Program;
use super::resolver::Resolver;
use super::secret::Secret;
use super::vocabulary::Registration;
use crate::failure::{Failure, FailureKind};

/// Evaluates scripts against one host.
pub struct Engine {
    inner: rhai::Engine,
    host: Rc<Host>,
    registration: Registration,
}

impl Engine {
    /// An engine whose scripts reach `host` through what `registration` gives them.
    pub fn new(host: Rc<Host>, registration: Registration) -> Self {
        let mut inner = plain();
        inner.set_default_tag(Dynamic::from(HostTag(Rc::clone(&host))));
        inner.set_module_resolver(Resolver::new(Rc::clone(&host)));
        inner.register_static_module("settings", host.settings().module().into());
        let watching = Rc::clone(&host);
        // Rhai's own cannot be interrupted.
        inner.register_fn("sleep", |context: NativeCallContext, seconds: i64| {
            let seconds = u32::try_from(seconds.clamp(0, i64::from(u32::MAX))).unwrap_or_default();
            sleep(&context, f64::from(seconds))
        });
        inner.register_fn("sleep", |context: NativeCallContext, seconds: f64| sleep(&context, seconds));
        inner.register_fn("assert", |context: NativeCallContext, holds: bool| {
            assertion(&context, holds, "the assertion does not hold")
        });
        inner.register_fn("assert", |context: NativeCallContext, holds: bool, what: &str| {
            assertion(&context, holds, what)
        });
        // Rhai's own would end a step half-way, and it would count as complete.
        inner.register_fn("exit", |context: NativeCallContext| exit(&context));
        inner.register_fn("exit", |context: NativeCallContext, _value: Dynamic| exit(&context));
        let memory = Memory::default();
        inner.on_progress(move |_| watching.interruption().or_else(|| memory.exhausted()));
        let printing = Rc::clone(&host);
        inner.on_print(move |text| printing.output(text));
        let debugging = Rc::clone(&host);
        inner.on_debug(move |text, source, position| {
            debugging.reporter().note(format!("{}:{position}: {text}", source.unwrap_or("script")));
        });
        Secret::register(&mut inner);
        (registration.register)(&mut inner);
        Self { inner, host, registration }
    }

    /// The engine itself, to list what is registered.
    pub fn rhai(&self) -> &rhai::Engine {
        &self.inner
    }

    /// What gave it its primitives.
    pub(super) fn registration(&self) -> Registration {
        self.registration
    }

    /// The host behind it.
    pub fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// The script of the host's plan behind `key`.
    ///
    /// # Errors
    /// When it cannot be read or does not compile.
    pub fn program(&self, key: &str) -> Result<Rc<Program>> {
        self.host.scripts().program(&self.inner, key)
    }

    /// Evaluates a script from its first line to its last.
    pub fn evaluate(&self, program: &Program) -> Result<Dynamic, Stop> {
        evaluate(&self.inner, &self.host, program)
    }
}

/// Waits that many seconds, or until the run is interrupted. A dry run does not wait.
fn sleep(context: &NativeCallContext, seconds: f64) -> Raised<()> {
    look(context, |host| {
        let Some(end) =
            Duration::try_from_secs_f64(seconds).ok().and_then(|time| Instant::now().checked_add(time))
        else {
            bail!(Failure::new(format!("cannot sleep {seconds} seconds")).kind(FailureKind::Usage));
        };
        while !host.dry_run() {
            host.session().check_interruption()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            host.seen().world.processes.pause(left);
        }
        Ok(())
    })
}

/// Fails unless something holds.
fn assertion(context: &NativeCallContext, holds: bool, what: &str) -> Raised<()> {
    look(context, |_| if holds { Ok(()) } else { Err(Failure::new(what).kind(FailureKind::Assert).into()) })
}

/// Ends the script as failed; it cannot catch that.
fn exit(context: &NativeCallContext) -> Raised<()> {
    let host = Host::of(context).map_err(|error| error.to_string())?;
    let failure = Failure::new("the script called `exit`")
        .kind(FailureKind::Step)
        .hint("a script ends at its last line; use `throw` to fail with a reason");
    Err(raise(&host, failure.into(), context))
}

/// Evaluates a program with an engine that may already be running another.
pub fn evaluate(engine: &rhai::Engine, host: &Host, program: &Program) -> Result<Dynamic, Stop> {
    let value = engine.eval_ast_with_scope(&mut Scope::new(), &program.ast);
    value.map_err(|error| host.stop_of(&error, &program.name))
}
