//! What a script reaches: the session, its plan's source and settings, and how a primitive's error becomes
//! one of the script's.

mod secrets;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::{Result, bail};
use rhai::{Dynamic, EvalAltResult, FnPtr, Map, NativeCallContext, Position};

use super::captured::apart;
use super::error::{Failures, Stop, Termination};
use super::graph::Graph;
use super::secrets::Secrets;
use super::settings::Settings;
use super::source::Source;
use crate::change::{Found, PredictedPath};
use crate::event::{Event, Reporter};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind, Place, sentence};
use crate::journal::Handler;
use crate::machine::account::{Account, Group};
use crate::machine::files;
use crate::machine::secret_store::SecretStore;
use crate::machine::signal::Interruption;
use crate::panicking;
use crate::session::{Mode, Session};
use crate::target::Target;

/// What a primitive returns to Rhai.
pub type Raised<T> = Result<T, Box<EvalAltResult>>;

/// The host as Rhai carries it.
#[derive(Clone)]
pub(super) struct HostTag(pub(super) Rc<Host>);

/// In a dry run, a script asked for something that is known only after acting.
#[derive(Debug)]
pub struct Unpredictable(pub String);

impl std::fmt::Display for Unpredictable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "not predictable: depends on {}", self.0)
    }
}

impl std::error::Error for Unpredictable {}

/// What a step has used besides its code: the rest of its fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The secrets it asked for, each with a keyed hash.
    pub secrets: BTreeMap<String, String>,
    /// The plan's files it read, each with its hash.
    pub files: BTreeMap<String, String>,
    /// The settings that it used without naming them in its code, as templates do.
    pub settings: BTreeSet<String>,
    /// The variables of kkrun's environment that it read, each with a keyed hash.
    pub environment: BTreeMap<String, String>,
}

impl Trace {
    /// The hash of a missing file of the plan.
    pub const MISSING: &str = "missing";
}

/// What is run as a step.
pub enum StepBody {
    /// The script of this name.
    Script(String),
    /// A closure within the plan.
    Closure(FnPtr),
}

/// A call of `step::run`.
pub struct StepCall {
    /// The step's id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// What is run.
    pub body: StepBody,
}

/// What `step::` and `rollback::` need from the caller that runs the plan.
pub trait StepRunner {
    /// Runs, skips or examines a step.
    fn run(&self, context: &NativeCallContext, call: &StepCall) -> Result<()>;
    /// Records progress of an ad hoc script.
    fn mark(&self, host: &Host, id: &str) -> Result<()>;
    /// Whether a step is complete by its record.
    fn is_done(&self, host: &Host, id: &str) -> Result<bool>;
    /// The steps of a plan with their status.
    fn list(&self, context: &NativeCallContext, plan: &str) -> Result<serde_json::Value>;
    /// What no longer holds of a step; none if all holds.
    fn drift(&self, context: &NativeCallContext, id: &str) -> Result<Option<String>>;
    /// Whether every step that the plan came to is complete and, as far as it was looked at, holds.
    fn all_hold(&self) -> bool;
    /// Forgets the progress of these steps, or of all.
    fn reset(&self, host: &Host, steps: Option<Vec<String>>) -> Result<()>;
    /// What a rollback would do.
    fn preview_rollback(&self, host: &Host, options: serde_json::Value) -> Result<serde_json::Value>;
    /// Undoes what the step changed in the block of a handler whose test fails, by the rules of a rollback. Returns what
    /// became of it, a line for each fate.
    fn undo_block(&self, host: &Host, handler: &Handler) -> Result<Vec<String>>;
    /// Rolls back.
    fn apply_rollback(&self, host: &Host, options: serde_json::Value) -> Result<serde_json::Value>;
}

/// A primitive that failed to change something, and where it was called.
struct FailedMutation {
    number: usize,
    file: String,
    position: Position,
}

/// Everything a script reaches.
pub struct Host {
    session: RefCell<Session>,
    scripts: Graph,
    settings: Settings,
    arguments: Vec<String>,
    secrets: RefCell<Rc<Secrets>>,
    runner: RefCell<Option<Rc<dyn StepRunner>>>,
    failures: Failures,
    failed_mutation: RefCell<Option<FailedMutation>>,
    trace: RefCell<Trace>,
    refusals: RefCell<BTreeSet<String>>,
    passing: RefCell<Option<Box<EvalAltResult>>>,
    exit: Cell<Option<ExitCode>>,
    verifying: Cell<bool>,
}

/// The error of a closure on its way through the primitive that called it. The host keeps it meanwhile,
/// because Rhai's errors cannot travel in others.
#[derive(Debug)]
pub struct Passing;

impl std::fmt::Display for Passing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a closure of the script failed")
    }
}

impl std::error::Error for Passing {}

impl Host {
    /// A host for the scripts of `source`.
    pub fn new(session: Session, source: Source, settings: Settings, arguments: Vec<String>) -> Rc<Self> {
        let store = SecretStore::below(session.world.state_directory());
        Rc::new(Self {
            session: RefCell::new(session),
            scripts: Graph::new(source),
            settings,
            arguments,
            secrets: RefCell::new(Rc::new(Secrets::new(store, BTreeMap::new()))),
            runner: RefCell::default(),
            failures: Failures::default(),
            failed_mutation: RefCell::default(),
            trace: RefCell::default(),
            refusals: RefCell::default(),
            passing: RefCell::default(),
            exit: Cell::default(),
            verifying: Cell::default(),
        })
    }

    /// The host behind a primitive's call.
    pub fn of(context: &NativeCallContext) -> Result<Rc<Self>> {
        let tag = context.tag().and_then(|tag| tag.clone().try_cast::<HostTag>());
        match tag {
            Some(tag) => Ok(tag.0),
            None => bail!("this engine has no host"),
        }
    }

    /// The session. It must not be held while a closure of the script runs.
    pub fn session(&self) -> RefMut<'_, Session> {
        self.session.borrow_mut()
    }

    /// The session, read only.
    pub fn seen(&self) -> Ref<'_, Session> {
        self.session.borrow()
    }

    /// Where scripts and plan files come from.
    pub fn source(&self) -> &Source {
        self.scripts.source()
    }

    /// The scripts of the plan.
    pub fn scripts(&self) -> &Graph {
        &self.scripts
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The script's arguments.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The secrets of the run.
    pub fn secrets(&self) -> Rc<Secrets> {
        Rc::clone(&self.secrets.borrow())
    }

    /// Sets the secrets of the run.
    pub fn set_secrets(&self, secrets: Rc<Secrets>) {
        *self.secrets.borrow_mut() = secrets;
    }

    /// Where events and messages go.
    pub fn reporter(&self) -> Rc<Reporter> {
        self.seen().reporter()
    }

    /// Whether nothing may be changed.
    pub fn dry_run(&self) -> bool {
        self.seen().mode == Mode::DryRun
    }

    /// Whether something would have been changed already in a dry run: what is read from now on may
    /// not be what a run would read.
    pub fn would_have_changed(&self) -> bool {
        let session = self.seen();
        session.mode == Mode::DryRun && !session.would_change().is_empty()
    }

    /// What a run would find at a path: in a dry run, what was predicted for it.
    pub fn found(&self, path: &std::path::Path) -> Result<Found> {
        let found = Found::at(path)?;
        let predicted = self.seen().world.predicted.borrow().at(&found.path);
        Ok(match predicted {
            Some(PredictedPath { state, .. }) => Found { state, ..found },
            None => found,
        })
    }

    /// What a dry run predicted for a path, unless a command may make something else of it.
    pub fn predicted(&self, path: &std::path::Path) -> Result<Option<PredictedPath>> {
        let (path, session) = (files::canonical(path)?, self.seen());
        let is_product = |target: &Target| matches!(target, Target::Product(_)) && target.meets(&path);
        if session.would_change().iter().any(|would| is_product(&would.target)) {
            return Ok(None);
        }
        let predicted = session.world.predicted.borrow();
        Ok(predicted.at(&path))
    }

    /// Whether a dry run predicted that packages are installed: what belongs to them is unknown by then.
    pub fn installs_packages(&self) -> bool {
        let is_of_packages =
            |target: &Target| matches!(target, Target::Packages(_) | Target::PackageSet { .. });
        self.dry_run() && self.seen().would_change().iter().any(|would| is_of_packages(&would.target))
    }

    /// Whether nothing is at a path now, and packages that a dry run predicted may bring something.
    pub fn may_be_packaged(&self, path: &std::path::Path) -> bool {
        let theirs = ["/etc", "/usr", "/var", "/opt", "/lib", "/bin", "/sbin"];
        let is_theirs = theirs.iter().any(|root| path.starts_with(root)) && !path.starts_with("/usr/local");
        let is_predicted = || self.predicted(path).is_ok_and(|known| known.is_some());
        is_theirs && std::fs::symlink_metadata(path).is_err() && self.installs_packages() && !is_predicted()
    }

    /// The numbers of a user and of the user's group, by name. A number that no user has is itself, without a group.
    pub fn user_ids(&self, name: &str) -> Result<(u32, Option<u32>)> {
        if let Some((uid, gid)) = self.seen().world.predicted.borrow().user(name) {
            return Ok((uid, Some(gid)));
        }
        match (Account::by_name(name)?, number_of(name)) {
            (None, Some(uid)) => Ok((uid, None)),
            _ => Account::existing(name).map(|account| (account.uid, Some(account.gid))),
        }
    }

    /// The number of a group, by name. A number that no group has is itself.
    pub fn group_id(&self, name: &str) -> Result<u32> {
        if let Some(gid) = self.seen().world.predicted.borrow().group(name) {
            return Ok(gid);
        }
        let missing = || Failure::new(format!("group `{name}` not found")).kind(FailureKind::Missing);
        let group = Group::by_name(name)?.map(|group| group.gid);
        Ok(group.or_else(|| number_of(name)).ok_or_else(missing)?)
    }

    /// Refuses, in a dry run, to report on a path if something at it, above it or below it would have been
    /// changed by now: what is there is not what a run would find.
    pub fn refuse_unknown(&self, path: &std::path::Path) -> Result<()> {
        let session = self.seen();
        if session.mode == Mode::Act {
            return Ok(());
        }
        match session.would_change().iter().find(|would| would.target.meets(path)) {
            Some(would) => {
                Err(Unpredictable(format!("{}, which would have changed by then", would.target)).into())
            }
            None if self.may_be_packaged(path) => {
                let path = path.display();
                Err(Unpredictable(format!("`{path}`, which packages may bring by then")).into())
            }
            None => Ok(()),
        }
    }

    /// Prints a script's data on standard output.
    pub fn output(&self, text: &str) {
        self.reporter().emit(&Event::Output { text: text.to_owned() });
    }

    /// What the current step has used so far.
    pub fn trace(&self) -> RefMut<'_, Trace> {
        self.trace.borrow_mut()
    }

    /// What answers `step::` and `rollback::`.
    pub fn set_runner(&self, runner: Rc<dyn StepRunner>) {
        *self.runner.borrow_mut() = Some(runner);
    }

    /// What answers `step::` and `rollback::`.
    pub fn runner(&self) -> Result<Rc<dyn StepRunner>> {
        match &*self.runner.borrow() {
            Some(runner) => Ok(Rc::clone(runner)),
            None => bail!("steps can be run by a plan only"),
        }
    }

    /// A mutating primitive failed in this step, whether or not the script caught it.
    pub fn take_failed_mutation(&self) -> Option<Failure> {
        let failed = self.failed_mutation.borrow_mut().take()?;
        let mut failure = self.failures.get(failed.number);
        if failure.place.is_none() {
            failure.place = Some(self.place_of(&failed.file, failed.position));
        }
        Some(failure.hint("the script caught this, but a failed change always fails its step"))
    }

    /// Keeps a failure and returns its number, which travels through Rhai.
    pub(super) fn keep_failure(&self, error: &anyhow::Error) -> usize {
        let mut failure =
            error.downcast_ref::<Failure>().cloned().unwrap_or_else(|| Failure::new(String::new()));
        failure.message = sentence(error);
        let failure = self.reporter().without_secrets_in(failure);
        self.failures.keep(failure)
    }

    /// What this error of Rhai's means; `script` is the file whose evaluation it ended.
    pub fn stop_of(&self, error: &EvalAltResult, script: &str) -> Stop {
        match self.failures.stop_of(error, script, |file, line| self.scripts.line_of(file, line)) {
            Stop::Failed(failure) => Stop::Failed(self.reporter().without_secrets_in(failure)),
            other => other,
        }
    }

    fn place_of(&self, file: &str, position: Position) -> Place {
        let line = position.line().unwrap_or(0);
        let column = position.position().unwrap_or(1).max(1);
        let text = self.scripts.line_of(file, line);
        Place { file: file.to_owned(), line, column, text, frames: Vec::new() }
    }

    /// Where a primitive was called; `None` if that is not known.
    fn place_of_call(&self, context: &NativeCallContext) -> Option<Place> {
        let (source, position) = (context.call_source()?, context.call_position());
        (!position.is_none()).then(|| self.place_of(source, position))
    }

    /// Why evaluation must end now, as Rhai's progress callback wants it.
    pub(super) fn interruption(&self) -> Option<Dynamic> {
        // While a primitive borrows the session, it checks for interruptions itself.
        let session = self.session.try_borrow().ok()?;
        let interruption = session.world.processes.interruption()?;
        Some(Dynamic::from(Termination::Interrupted(interruption)))
    }

    /// Calls a script's closure from within a primitive. The session must not be held.
    pub fn call(&self, context: &NativeCallContext, closure: &FnPtr) -> Result<Dynamic> {
        closure.call_within_context::<Dynamic>(context, ()).map_err(|error| {
            *self.passing.borrow_mut() = Some(error);
            Passing.into()
        })
    }

    /// The same with copies of what the closure captured, so its changes to them have no effect outside. For a closure
    /// that a later run does not call again.
    pub fn call_apart(&self, context: &NativeCallContext, closure: &FnPtr) -> Result<Dynamic> {
        self.call(context, &apart(closure))
    }

    /// The error of the closure that was called last, if that is what this error stands for.
    pub fn take_passing(&self, error: &anyhow::Error) -> Option<Box<EvalAltResult>> {
        if error.is::<Passing>() { self.passing.borrow_mut().take() } else { None }
    }

    /// The message of a closure's error, if a script may catch it; else the error itself.
    pub fn caught(&self, error: anyhow::Error) -> Result<String> {
        let Some(passing) = self.take_passing(&error) else { return Err(error) };
        match self.stop_of(&passing, "") {
            Stop::Failed(failure) if failure.kind != FailureKind::Journal => Ok(failure.message),
            _ => {
                *self.passing.borrow_mut() = Some(passing);
                Err(error)
            }
        }
    }

    /// What is unpredictable, by a closure's error; anything final stays an error.
    pub fn caught_unknown(&self, error: anyhow::Error) -> Result<String> {
        let Some(passing) = self.take_passing(&error) else { return Err(error) };
        match self.stop_of(&passing, "") {
            Stop::Unpredictable { why, .. } => Ok(why),
            Stop::Failed(failure) if failure.kind != FailureKind::Journal => Ok(now(&failure.message)),
            _ => {
                *self.passing.borrow_mut() = Some(passing);
                Err(error)
            }
        }
    }

    /// The exit status that the script ends with if nothing fails.
    pub fn end_with(&self, exit: ExitCode) {
        self.exit.set(Some(exit));
    }

    /// The exit status that was set.
    pub fn exit(&self) -> Option<ExitCode> {
        self.exit.get()
    }

    /// The present hashes of the secrets and plan files that a step used when it completed.
    pub fn present(&self, then: &Trace) -> Result<Trace> {
        let (settings, environment) = (then.settings.clone(), then.environment.clone());
        let mut now = Trace { settings, environment, ..Trace::default() };
        for name in then.files.keys() {
            let hash = match self.source().plan_file(name) {
                Ok(file) => file.hash(),
                Err(_) => Trace::MISSING.to_owned(),
            };
            now.files.insert(name.clone(), hash);
        }
        for (name, hash) in &then.secrets {
            // One that was not stored means what it meant until it is given again.
            let present = self.present_secret(name)?.unwrap_or_else(|| hash.clone());
            now.secrets.insert(name.clone(), present);
        }
        Ok(now)
    }

    /// Calls the closure of a verification.
    pub fn verifying<T>(&self, ask: impl FnOnce() -> T) -> T {
        let before = self.verifying.replace(true);
        let answer = ask();
        self.verifying.set(before);
        answer
    }

    /// Whether a verification is running: everything that it does counts as reading.
    pub fn is_verifying(&self) -> bool {
        self.verifying.get()
    }

    /// Reports something once in a run.
    pub fn note_once(&self, text: &str) {
        if self.refusals.borrow_mut().insert(text.to_owned()) {
            self.reporter().note(text);
        }
    }
}

/// Runs a primitive that only reads. If it fails in a dry run, after something would have been
/// changed, the preview of the step ends there: in a run it might have succeeded.
pub fn look<T>(context: &NativeCallContext, primitive: impl FnOnce(&Host) -> Result<T>) -> Raised<T> {
    let host = Host::of(context).map_err(|error| error.to_string())?;
    guarded(|| primitive(&host)).map_err(|error| {
        let unknown = host.would_have_changed() && !is_final(&error);
        let error = if unknown { anyhow::Error::new(Unpredictable(now(&sentence(&error)))) } else { error };
        raise(&host, error, context)
    })
}

/// Runs a primitive that changes something. Its failure fails the step, caught or not.
pub fn act<T>(context: &NativeCallContext, primitive: impl FnOnce(&Host) -> Result<T>) -> Raised<T> {
    act_without_recovery(context, |host| {
        host.session().recover_before_looking()?;
        primitive(host)
    })
}

/// The same for one that recovers by itself what a killed run left: a rollback repairs what a run refuses.
pub fn act_without_recovery<T>(
    context: &NativeCallContext,
    primitive: impl FnOnce(&Host) -> Result<T>,
) -> Raised<T> {
    let host = Host::of(context).map_err(|error| error.to_string())?;
    guarded(|| primitive(&host)).map_err(|error| {
        if host.would_have_changed() && !is_final(&error) {
            return raise(&host, Unpredictable(now(&sentence(&error))).into(), context);
        }
        let raised = raise(&host, error, context);
        if let EvalAltResult::ErrorRuntime(value, _) = &*raised
            && let Some(number) = value.read_lock::<Map>().and_then(|map| map.get("failure")?.as_int().ok())
        {
            let file = context.call_source().unwrap_or_default().to_owned();
            let position = context.call_position();
            *host.failed_mutation.borrow_mut() =
                usize::try_from(number).ok().map(|number| FailedMutation { number, file, position });
        }
        raised
    })
}

/// A number of an account. The last one means none to the kernel.
fn number_of(name: &str) -> Option<u32> {
    let is_number = name.bytes().all(|digit| digit.is_ascii_digit());
    name.parse().ok().filter(|number| is_number && *number != u32::MAX)
}

/// What a preview depends on where something fails as the machine is now, and may not by then.
fn now(error: &str) -> String {
    format!("what changes before it (as it is now: {error})")
}

/// A panic within a primitive is its failure, at the place of its call.
fn guarded<T>(primitive: impl FnOnce() -> Result<T>) -> Result<T> {
    panicking::caught(primitive).unwrap_or_else(|failure| Err(failure.into()))
}

/// Whether the error is the same whatever would have changed before.
fn is_final(error: &anyhow::Error) -> bool {
    error.is::<Unpredictable>()
        || error.is::<Passing>()
        || error.is::<Interruption>()
        || error.downcast_ref::<Failure>().is_some_and(|failure| {
            matches!(
                failure.kind,
                FailureKind::Option | FailureKind::Type | FailureKind::Usage | FailureKind::Panic
            )
        })
}

/// The error that ends a preview at something unpredictable.
pub fn unpredictable(why: &str, source: Option<&str>, position: Position) -> Box<EvalAltResult> {
    let asked = source.map(|source| (source.to_owned(), position));
    let token = Termination::Unpredictable(why.to_owned(), asked);
    Box::new(EvalAltResult::ErrorTerminated(Dynamic::from(token), position))
}

/// The script's error for a primitive's.
pub fn raise(host: &Host, error: anyhow::Error, context: &NativeCallContext) -> Box<EvalAltResult> {
    if let Some(Unpredictable(why)) = error.downcast_ref::<Unpredictable>() {
        return unpredictable(why, context.call_source(), context.call_position());
    }
    let raised = raise_at(host, error, context.call_position());
    // What no script can catch is given the place of each outer call on its way.
    if let EvalAltResult::ErrorTerminated(token, _) = &*raised
        && let Some(Termination::Failed(number)) = token.clone().try_cast()
    {
        host.failures.place(number, || host.place_of_call(context));
    }
    raised
}

/// The script's error for one that happened at this position.
#[expect(clippy::unnecessary_box_returns, reason = "Rhai's results hold their errors in boxes")]
#[expect(clippy::needless_pass_by_value, reason = "its type fits `map_err`")]
pub(super) fn raise_at(host: &Host, error: anyhow::Error, position: Position) -> Box<EvalAltResult> {
    if let Some(passed) = host.take_passing(&error) {
        return passed;
    }
    if let Some(Unpredictable(why)) = error.downcast_ref::<Unpredictable>() {
        return unpredictable(why, None, position);
    }
    if let Some(interruption) = error.downcast_ref::<Interruption>() {
        let token = Termination::Interrupted(*interruption);
        return Box::new(EvalAltResult::ErrorTerminated(Dynamic::from(token), position));
    }
    let number = host.keep_failure(&error);
    let failure = host.failures.get(number);
    if matches!(failure.kind, FailureKind::Journal | FailureKind::Step | FailureKind::Panic) {
        return Box::new(EvalAltResult::ErrorTerminated(
            Dynamic::from(Termination::Failed(number)),
            position,
        ));
    }
    let mut map = Map::new();
    map.insert("kind".into(), failure.kind.as_str().into());
    map.insert("code".into(), failure.code.map_or(Dynamic::UNIT, |code| Dynamic::from(i64::from(code))));
    map.insert("message".into(), failure.message.into());
    map.insert("failure".into(), Dynamic::from(i64::try_from(number).unwrap_or(i64::MAX)));
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from_map(map), position))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::session::testing::Ground;
    use crate::target::Target;

    fn host(session: Session) -> Rc<Host> {
        let source = Source::find(Path::new("master.rhai")).unwrap().0;
        let settings = Settings::read(&source, &[], &BTreeMap::new()).unwrap();
        Host::new(session, source, settings, Vec::new())
    }

    fn raised(host: &Host, error: anyhow::Error) -> EvalAltResult {
        *raise_at(host, error, Position::NONE)
    }

    #[test]
    fn dry_run_does_not_report_on_what_would_have_changed_by_then() {
        let ground = Ground::new();
        let (above, path, other) = (ground.path("d"), ground.path("d/f"), ground.path("e"));
        let host = host(ground.dry_run());
        assert!(!host.would_have_changed() && host.refuse_unknown(&path).is_ok());
        host.session().note_change(Target::file(&above), "make d".to_owned());
        assert!(host.would_have_changed() && host.refuse_unknown(&other).is_ok());
        assert!(host.refuse_unknown(&path).unwrap_err().is::<Unpredictable>());
        assert!(host.refuse_unknown(&above).is_err());
    }

    #[test]
    fn run_that_acts_reads_whatever_it_changed() {
        let ground = Ground::new();
        let host = host(ground.run());
        ground.write(&mut host.session(), "01", "f", "new\n");
        assert!(!host.would_have_changed() && host.refuse_unknown(&ground.path("f")).is_ok());
    }

    #[test]
    fn script_can_catch_a_failure_by_its_kind_but_not_a_journal_that_cannot_be_written() {
        let host = host(Ground::new().dry_run());
        let missing = Failure::new("not found").kind(FailureKind::Missing);
        let error = anyhow::Error::new(missing).context("cannot copy");
        let EvalAltResult::ErrorRuntime(value, _) = raised(&host, error) else { panic!("cannot be caught") };
        let map = value.cast::<Map>();
        assert_eq!(
            (map["kind"].to_string(), map["message"].to_string()),
            ("missing".into(), "cannot copy: not found".into())
        );
        for kind in [FailureKind::Journal, FailureKind::Step, FailureKind::Panic] {
            let error = raised(&host, Failure::new("lost").kind(kind).into());
            assert!(matches!(error, EvalAltResult::ErrorTerminated(..)), "{kind:?}");
        }
    }

    #[test]
    fn what_is_unpredictable_ends_the_preview_and_is_no_failure_of_the_script() {
        let host = host(Ground::new().dry_run());
        let error = raised(&host, Unpredictable("what a command prints".to_owned()).into());
        assert!(matches!(host.stop_of(&error, "a.rhai"), Stop::Unpredictable { .. }));
    }
}
