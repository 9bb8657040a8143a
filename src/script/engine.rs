//! The one Rhai engine of a run: its limits, what scripts can reach, and how they are compiled.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rhai::packages::{Package, StandardPackage};
use rhai::{
    AST, Dynamic, EvalAltResult, ImmutableString, NativeCallContext, ParseErrorType, Position, Scope, Token,
};

use super::error::{self, Stop};
use super::host::{Host, HostTag, Raised, look, raise};
use super::manual;
use super::resolver::Resolver;
use super::source::Script;
use super::tokens::tokens;
use super::vocabulary::KnownOptions;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::memory;
use crate::text::nearest;

/// The stack, in bytes, of the thread that evaluates scripts: enough for every call level that the limits
/// allow.
pub const STACK_SIZE: usize = 64 * 1024 * 1024;

/// Gives an engine the primitives that its scripts can call.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Registers them.
    pub register: fn(&mut rhai::Engine),
    /// Which options their last maps know.
    pub options: KnownOptions,
}

/// A compiled script.
#[derive(Clone)]
pub struct Program {
    /// The name that errors call it by.
    pub name: String,
    /// Its text.
    pub text: Rc<str>,
    /// Its compiled form.
    pub ast: Rc<AST>,
}

/// Compiles and evaluates scripts against one host.
pub struct Engine {
    inner: rhai::Engine,
    host: Rc<Host>,
    known_options: KnownOptions,
}

/// An engine with Rhai's own functions, which are looked up when they are called, within the limits.
pub(super) fn plain() -> rhai::Engine {
    let mut engine = rhai::Engine::new_raw();
    engine.register_global_module(StandardPackage::new_lazy().as_shared_module());
    engine.set_max_strings_interned(1 << 16);
    limit(&mut engine);
    engine
}

/// Sets every limit: what Rhai does by default differs between builds and leaves some open.
pub(super) fn limit(engine: &mut rhai::Engine) {
    // The default optimiser panics on an assignment into a constant map, and the full one calls host
    // functions while compiling.
    engine.set_optimization_level(rhai::OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    engine.disable_symbol("eval");
    engine.set_max_call_levels(128);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_operations(50_000_000);
    engine.set_max_string_size(LARGEST_TEXT);
    engine.set_max_array_size(100_000);
    engine.set_max_map_size(100_000);
    engine.set_max_modules(1_000);
    engine.set_max_functions(10_000);
    engine.set_max_variables(10_000);
    let memory = Memory::default();
    engine.on_progress(move |_| memory.exhausted());
    // Rhai's own make the new text before they look how large it is: of two texts of the largest size, one of 2^48
    // bytes.
    engine.register_fn("replace", |text: &mut ImmutableString, from: &str, to: &str| replace(text, from, to));
    engine.register_fn("replace", |text: &mut ImmutableString, from: char, to: &str| {
        replace(text, from.encode_utf8(&mut [0; 4]), to)
    });
}

/// The largest text, in bytes.
pub const LARGEST_TEXT: usize = 16 * 1024 * 1024;

/// How much memory the process may use while a script runs, in bytes: many large values are each within their limit.
const MOST_MEMORY: u64 = 1024 * 1024 * 1024;

/// Looks from time to time how much memory is used.
struct Memory {
    operations: Cell<u32>,
    looked: Cell<Instant>,
    is_exhausted: Cell<bool>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { operations: Cell::default(), looked: Cell::new(Instant::now()), is_exhausted: Cell::default() }
    }
}

impl Memory {
    /// Why the script must end, if it uses too much; asked at each operation.
    fn exhausted(&self) -> Option<Dynamic> {
        // The clock costs more than most operations, and no operation makes more than a few large texts. Rhai's own
        // count begins again with each closure that one of its functions calls.
        self.operations.set(self.operations.get().wrapping_add(1));
        if self.operations.get().is_multiple_of(16) {
            let now = Instant::now();
            if now >= self.looked.get() + Duration::from_millis(2) {
                self.looked.set(now);
                self.is_exhausted.set(memory::resident().is_some_and(|used| used > MOST_MEMORY));
            }
        }
        // Said at every operation from then on: what turns values into text passes over an error.
        self.is_exhausted
            .get()
            .then(|| Dynamic::from(format!("the script uses more than {} MiB of memory", MOST_MEMORY >> 20)))
    }
}

fn replace(text: &mut ImmutableString, from: &str, to: &str) -> Raised<()> {
    let growth = to.len().saturating_sub(from.len());
    if text.len().saturating_add(text.matches(from).count().saturating_mul(growth)) > LARGEST_TEXT {
        let what = "Length of string".to_owned();
        return Err(Box::new(EvalAltResult::ErrorDataTooLarge(what, Position::NONE)));
    }
    *text = text.replace(from, to).into();
    Ok(())
}

impl Engine {
    /// An engine whose scripts reach `host` through what `registration` gives them.
    pub fn new(host: Rc<Host>, registration: Registration) -> Self {
        let mut inner = plain();
        inner.set_default_tag(rhai::Dynamic::from(HostTag(Rc::clone(&host))));
        inner.set_module_resolver(Resolver::new(Rc::clone(&host)));
        inner.register_static_module("settings", host.settings().module().into());
        let watching = Rc::clone(&host);
        // Rhai's own would hear of no Ctrl-C.
        inner.register_fn("sleep", |context: NativeCallContext, seconds: i64| {
            let seconds = u32::try_from(seconds.clamp(0, i64::from(u32::MAX))).unwrap_or_default();
            sleep(&context, f64::from(seconds))
        });
        inner.register_fn("sleep", |context: NativeCallContext, seconds: f64| sleep(&context, seconds));
        // Rhai's own would end a step half-way as if it were complete.
        inner.register_fn("exit", |context: NativeCallContext| exit(&context));
        inner.register_fn("exit", |context: NativeCallContext, _value: rhai::Dynamic| exit(&context));
        let memory = Memory::default();
        inner.on_progress(move |_| watching.interruption().or_else(|| memory.exhausted()));
        let printing = Rc::clone(&host);
        inner.on_print(move |text| printing.output(text));
        let debugging = Rc::clone(&host);
        inner.on_debug(move |text, source, position| {
            debugging.reporter().note(format!("{}:{position}: {text}", source.unwrap_or("script")));
        });
        super::secret::Secret::register(&mut inner);
        (registration.register)(&mut inner);
        Self { inner, host, known_options: registration.options }
    }

    /// The engine itself, for reading what is registered.
    pub fn rhai(&self) -> &rhai::Engine {
        &self.inner
    }

    /// Which options its primitives know.
    pub(super) fn known_options(&self) -> KnownOptions {
        self.known_options
    }

    /// The host behind it.
    pub fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Compiles a script.
    ///
    /// # Errors
    /// With [`ExitCode::USAGE`] and the place of the first error.
    pub fn compile(&self, script: &Script) -> Result<Program> {
        compile(&self.inner, &self.host, script)
    }

    /// Evaluates a script from its first line to its last.
    pub fn evaluate(&self, program: &Program) -> Result<rhai::Dynamic, Stop> {
        evaluate(&self.inner, &self.host, program)
    }
}

/// Waits so many seconds, or until the run is asked to stop. While only looking nothing is to be waited for.
fn sleep(context: &NativeCallContext, seconds: f64) -> Raised<()> {
    look(context, |host| {
        let Some(end) =
            Duration::try_from_secs_f64(seconds).ok().and_then(|time| Instant::now().checked_add(time))
        else {
            bail!(Failure::new(format!("nobody can wait {seconds} seconds")).kind("usage"));
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

/// Ends the script as failed, whatever it would catch.
fn exit(context: &NativeCallContext) -> Raised<()> {
    let host = Host::of(context).map_err(|error| error.to_string())?;
    let failure = Failure::new("the script called `exit`")
        .kind("step")
        .hint("a script ends at its last line; `throw` says why it cannot go on");
    Err(raise(&host, failure.into(), context))
}

/// Compiles a script with an engine that is already running one.
pub fn compile(engine: &rhai::Engine, host: &Host, script: &Script) -> Result<Program> {
    host.remember_text(&script.name, &script.text);
    if script.text.as_bytes().contains(&0) {
        return Err(Failure::new(format!("`{}` is binary, not a script", script.name))
            .exit(ExitCode::USAGE)
            .into());
    }
    let mut ast = engine.compile(&script.text).map_err(|error| uncompilable(engine, script, error))?;
    if ast.statements().is_empty() && !ast.has_functions() {
        return Err(Failure::new(format!("`{}` holds no statement: there is nothing to run", script.name))
            .exit(ExitCode::USAGE)
            .into());
    }
    ast.set_source(script.name.as_str());
    Ok(Program { name: script.name.clone(), text: Rc::from(script.text.as_str()), ast: Rc::new(ast) })
}

/// Why a script does not compile, with the nearest name that is known for one that is not.
fn uncompilable(engine: &rhai::Engine, script: &Script, error: rhai::ParseError) -> Failure {
    let known: Vec<String> = match error.err_type() {
        ParseErrorType::ModuleUndefined(_) => manual::functions(engine)
            .into_iter()
            .map(|function| function.namespace)
            .chain(["settings".to_owned()])
            .collect(),
        ParseErrorType::VariableUndefined(_) => identifiers(engine, &script.text),
        _ => Vec::new(),
    };
    let near = match error.err_type() {
        ParseErrorType::ModuleUndefined(name) | ParseErrorType::VariableUndefined(name) => {
            let others = known.iter().map(String::as_str).filter(|known| known != name);
            nearest(name, others).map(str::to_owned)
        }
        _ => None,
    };
    let failure = error::plain(&error.into(), &script.name, &script.text, ExitCode::USAGE);
    match near {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure,
    }
}

/// The names that a script uses.
fn identifiers(engine: &rhai::Engine, text: &str) -> Vec<String> {
    tokens(engine, text)
        .into_iter()
        .filter_map(|token| if let Token::Identifier(name) = token { Some(name.to_string()) } else { None })
        .collect()
}

/// Evaluates a program with an engine that may already be running another.
pub fn evaluate(engine: &rhai::Engine, host: &Host, program: &Program) -> Result<rhai::Dynamic, Stop> {
    let value = engine.eval_ast_with_scope(&mut Scope::new(), &program.ast);
    value.map_err(|error| host.stop_of(&error, &program.name))
}
