//! Runs scripts and plans: reads and checks everything first, then acts, then says how it ended.

pub mod decision;
mod examine;
mod reading;
mod runner;
mod status;
mod unchanged;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use decision::Decision;
pub use decision::Selection;
pub use reading::Reading;
pub use runner::{Doing, Runner};
pub use status::{StepReport, StepRow, StepStatus, recorded_rows};
use unchanged::{is_unchanged, remembered, to_remember};

use crate::change::World;
use crate::event::{Event, Reporter, SkipReason};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{self, Entry, History, Loaded, ScriptDigests, Writer};
use crate::machine::process::Processes;
use crate::machine::secret_store::{self, SecretStore};
use crate::machine::signal::Signals;
use crate::machine::{clock, lock, signal, trusted};
use crate::script::{
    self, Engine, Host, MAIN, Plan, Program, Registration, Script, Secrets, Settings, Source, Stop,
    asked_secrets, check,
};
use crate::session::{ConflictPolicy, Opening, Session};

/// What `--secrets` calls standard input.
pub const STANDARD_INPUT: &str = "-";

/// Everything that was decided before anything is run.
pub struct Launch {
    /// What the operator typed, for hints.
    pub invocation: String,
    /// The state directory.
    pub state: PathBuf,
    /// Where running children are noted.
    pub notes: PathBuf,
    /// This run's identity.
    pub run: String,
    /// Signals that ask to stop.
    pub signals: Signals,
    /// Gives an engine its primitives.
    pub register: Registration,
    /// Only look.
    pub dry_run: bool,
    /// Which steps.
    pub selection: Selection,
    /// What to do about conflicts.
    pub on_conflict: ConflictPolicy,
    /// The classes that may be lost.
    pub purge: Vec<String>,
    /// `--set`, as typed.
    pub set: Vec<(String, String)>,
    /// `--unset`.
    pub unset: Vec<String>,
    /// `--settings` files.
    pub settings_files: Vec<PathBuf>,
    /// The `--secrets` file, or [`STANDARD_INPUT`].
    pub secrets_file: Option<PathBuf>,
}

impl Launch {
    /// What changes are made with, reporting to `reporter`.
    pub fn world(&self, reporter: Rc<Reporter>) -> World {
        let store = SecretStore::below(&self.state);
        reporter.learn_earlier_secrets(move |redactor| store.teach(redactor));
        let processes = Processes::new(&self.run, &self.notes, self.signals.clone());
        World::new(processes, &self.state, reporter)
    }

    /// The same for a dry run: the commands that it runs are not recorded on disk.
    pub fn world_for_dry_run(&self, reporter: Rc<Reporter>) -> World {
        let mut world = self.world(reporter);
        world.processes = world.processes.without_child_records();
        world
    }

    /// Conflicts are overwritten.
    pub fn overwrites_conflicts(&self) -> bool {
        self.on_conflict == ConflictPolicy::Overwrite
    }

    /// Whether the run with this identity is in progress.
    pub fn is_running(&self, run: &str) -> bool {
        lock::is_held(&self.state.join("lock"))
            && self.history().is_ok_and(|history| history.last_run.is_some_and(|(last, _)| last == run))
    }

    /// Says that what was asked to stop was complete by then: it ends as if it had not been asked.
    pub fn note_late_signal(&self, reporter: &Reporter, what: &str, exit: ExitCode) {
        if let Some(interruption) = self.signals.pending() {
            let signal = signal::name(interruption.signal);
            let is = if exit == ExitCode::DONE { "is complete" } else { "is over" };
            reporter.note(format!("{signal} arrived when there was nothing left to do: the {what} {is}"));
        }
    }

    /// What the journal says now.
    pub fn history(&self) -> Result<History> {
        Ok(self.journal()?.history)
    }

    /// What the journal says now of steps and runs, and how many changes are live: by its checkpoint, if there is one of
    /// it. No change may be asked for.
    pub fn history_about_steps(&self) -> Result<History> {
        match self.brief_journal()? {
            Some((loaded, _)) => {
                tracing::debug!("known by the checkpoint: the journal is not even replayed");
                Ok(loaded.history)
            }
            None => self.history(),
        }
    }

    /// The journal as its checkpoint describes it, without its changes; none if there is no checkpoint of it.
    fn brief_journal(&self) -> Result<Option<(Loaded, ScriptDigests)>> {
        journal::check_state_directory(&self.state)?;
        journal::load_brief(&self.state)
    }

    /// The present journal.
    pub fn journal(&self) -> Result<Loaded> {
        journal::check_state_directory(&self.state)?;
        journal::load(&self.state)
    }

    /// A new log for a step, readable only by its owner; none in a dry run.
    pub fn step_log(&self, plan: &str, step: &str) -> Result<Option<Box<dyn Write>>> {
        if self.dry_run {
            return Ok(None);
        }
        let directory = self.state.join("logs");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot create `{}`", directory.display()))?;
        let path = directory.join(log_name(plan, step, &self.run));
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write the log `{}`", path.display()))?;
        Ok(Some(Box::new(std::io::LineWriter::new(file))))
    }

    /// The secrets of a run: what is stored, and what `--secrets` gives.
    fn secrets(&self, reporter: &Reporter) -> Result<Rc<Secrets>> {
        let given = match self.secrets_file.as_deref() {
            None => BTreeMap::new(),
            Some(path) if path == Path::new(STANDARD_INPUT) => secret_store::from_standard_input()?,
            Some(path) => secret_store::from_file(path)?,
        };
        // What is given may be shown before a script asks for it, or if none does.
        for (name, text) in given.iter().chain(&secret_store::all_from_environment()) {
            reporter.learn_known_secret(name, text);
        }
        Ok(Rc::new(Secrets::new(SecretStore::below(&self.state), given)))
    }

    fn opening(&self, plan: &str, script: &str, root: &str, loaded: Loaded) -> Result<Opening> {
        // What is reported from now on must survive a power failure.
        loaded.make_durable(&self.state)?;
        let writer = Writer { run: self.run.clone(), boot: clock::boot_id()?, plan: plan.to_owned() };
        let (script, root) = (script.to_owned(), root.to_owned());
        let entries = vec![Entry::RunStarted { script, root, pid: std::process::id() }];
        Ok(Opening { directory: self.state.clone(), writer, entries, loaded })
    }
}

/// The file name of a step's log in one run. Sorted by name, those of one step stand in the order of time.
pub fn log_name(plan: &str, step: &str, run: &str) -> String {
    format!("{}.{}.{run}.log", in_file_name(plan), in_file_name(step))
}

/// Whether a log of this name is of a step of this plan.
pub fn is_log_of(plan: &str, name: &str) -> bool {
    name.strip_prefix(&in_file_name(plan)).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a log of this name is of this step.
pub fn is_log_of_step(plan: &str, step: &str, name: &str) -> bool {
    name.starts_with(&format!("{}.{}.", in_file_name(plan), in_file_name(step)))
}

fn in_file_name(text: &str) -> String {
    text.replace(|letter: char| !letter.is_alphanumeric() && letter != '_', "-")
}

/// A script that was read, checked and can be evaluated.
struct Ready {
    host: Rc<Host>,
    /// What is evaluated; nothing of a plan that would only pass over its steps.
    code: Option<(Engine, Rc<Program>)>,
    plan: Plan,
    /// It is a plan of which nothing has changed since its steps completed.
    unchanged: bool,
}

/// Runs a script with its arguments and returns the exit status.
///
/// # Errors
/// With the failure that ended it.
pub fn run_script(
    launch: &Rc<Launch>,
    script: &Path,
    words: Vec<String>,
    reporter: &Rc<Reporter>,
) -> Result<ExitCode> {
    let ready = read(launch, script, words, reporter)?;
    if let Some(trust) = trusted::trust_in_caller() {
        reporter.note(trust);
    }
    let Ready { host, code, plan, unchanged } = &ready;
    let doing = if launch.dry_run { Doing::Preview } else { Doing::Act };
    let is_plan = !plan.steps.is_empty();
    check_selection(&launch.selection, plan)?;
    let runner = if *unchanged {
        Runner::of_unchanged(Rc::clone(launch), examine::steps, doing, plan.clone())
    } else {
        Runner::new(Rc::clone(launch), examine::steps, doing, launch.selection.clone(), plan.clone())
    };
    if let Some(name) = script.file_name().and_then(|name| name.to_str()) {
        runner.set_main(name);
    }
    host.set_runner(Rc::<Runner>::clone(&runner));
    if !is_plan {
        name_plan_of_built_in(script, host)?;
    }
    if is_plan && doing == Doing::Act {
        begin_plan(launch, host)?;
        if !unchanged && let Some((engine, _)) = code {
            ask_secrets(launch, host, plan, engine)?;
        }
    }
    if is_plan && doing == Doing::Preview {
        host.seen().refuse_unfinished_rollback()?;
    }
    if is_plan {
        reporter.emit(&plan_started(launch, host, plan));
        if doing == Doing::Preview {
            host.session().run_handlers_first()?;
        }
    } else {
        for line in overrides_shown(launch, host) {
            reporter.note(format!("with {line}"));
        }
        let entries = override_entries(launch, host)?;
        host.session().remember(entries);
    }
    let outcome = if let Some((engine, program)) = code {
        runner::guarded(|| engine.evaluate(program).map(drop))
    } else {
        Runner::pass_over(host, plan);
        Ok(())
    };
    finish(launch, host, plan, &runner, outcome)
}

/// Says which plan a built-in script is about that was called by its bare name, where another one may be meant: the one
/// that ran last here, or the one in the working directory.
///
/// # Errors
/// When nothing is recorded of the built-in plan, so that it is not meant.
fn name_plan_of_built_in(script: &Path, host: &Host) -> Result<()> {
    if !matches!(host.source(), Source::BuiltIn) {
        return Ok(());
    }
    let session = host.seen();
    let (history, plan) = (session.history(), session.plan());
    let mut runs: Vec<_> = history.last_calls.iter().collect();
    runs.sort_by_key(|(_, call)| call.started);
    let last = runs.last().map(|(plan, _)| plan.as_str()).filter(|last| *last != plan);
    let is_in_directory = Path::new("master.rhai").is_file();
    let other = match last {
        Some(last) => format!("`{last}`, which ran last on this machine"),
        None if is_in_directory => "the one in the working directory".to_owned(),
        None => return Ok(()),
    };
    let (shown, verb) = (script.display(), script.file_stem().unwrap_or_default().to_string_lossy());
    let named = last.map_or_else(|| "./master.rhai".into(), shell_words::quote);
    let way = match (&*verb, last) {
        ("rollback", Some(last)) => format!("kkrun rollback --plan {}", shell_words::quote(last)),
        ("rollback", None) => "kkrun rollback".to_owned(),
        ("status" | "reset", _) => format!("kkrun {verb} {named}"),
        _ => return Ok(()),
    };
    let means =
        format!("`{shown}` is the built-in script, about the built-in plan `{plan}`, not about {other}");
    let is_recorded = history.runs.contains_key(plan);
    if !is_recorded {
        bail!(
            Failure::new(format!("{means}; nothing is recorded of `{plan}`"))
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Usage)
                .hint(format!("for the other one, run `{way}`"))
        );
    }
    host.reporter().note(format!("{means}; for that one, run `{way}`"));
    Ok(())
}

/// Reads a script and all that belongs to it, without running any of it.
fn read(launch: &Rc<Launch>, script: &Path, words: Vec<String>, reporter: &Rc<Reporter>) -> Result<Ready> {
    let (source, name) = Source::find(script)?;
    let text = source.script(&name)?;
    source.check_files()?;
    let files = launch.settings_files.iter().map(|path| read_outside(path)).collect::<Result<Vec<_>>>()?;
    let secrets = launch.secrets(reporter)?;
    let given = Given { script, source: &source, files: &files, words, secrets: &secrets };
    let prepared = |loaded: Loaded| prepared(launch, &given, &name, &text, loaded, reporter);
    let is_everything = launch.selection.is_everything();
    // What finds nothing to do needs no more of the journal than its checkpoint holds.
    if is_everything
        && !launch.dry_run
        && launch.set.is_empty()
        && launch.unset.is_empty()
        && let Some((loaded, digests)) = launch.brief_journal()?
    {
        let host = prepared(loaded)?;
        host.scripts().recall(digests);
        if let Some(plan) = remembered(&host)
            && is_unchanged(&host, &plan)
        {
            tracing::debug!("nothing changed since all steps completed: the journal is not even replayed");
            return Ok(Ready { host, code: None, plan, unchanged: true });
        }
    }
    let loaded = launch.journal()?;
    if let Some(put_back) = &loaded.put_back {
        reporter.note(put_back.sentence());
    }
    let host = prepared(loaded)?;
    if is_everything
        && let Some(plan) = remembered(&host)
        && is_unchanged(&host, &plan)
    {
        tracing::debug!("nothing changed since all steps completed: the plan is not even compiled");
        return Ok(Ready { host, code: None, plan, unchanged: true });
    }
    let engine = Engine::new(Rc::clone(&host), launch.register);
    let program = engine.program(MAIN);
    if is_everything
        && let Ok(program) = &program
        && let Ok(plan) = Plan::of(program)
        && is_unchanged(&host, &plan)
    {
        let program = Rc::clone(program);
        tracing::debug!("nothing changed since all steps completed: the steps are not compiled");
        return Ok(Ready { host, code: Some((engine, program)), plan, unchanged: true });
    }
    let checked = check(&engine, MAIN);
    if let Some(failure) = Failure::all(checked.problems) {
        bail!(failure.hint("nothing was run"));
    }
    let program = program?;
    Ok(Ready { host, code: Some((engine, program)), plan: checked.plan, unchanged: false })
}

/// What a script is called with.
struct Given<'given> {
    script: &'given Path,
    source: &'given Source,
    files: &'given [Script],
    words: Vec<String>,
    secrets: &'given Rc<Secrets>,
}

/// The host of a script, with what the journal says.
fn prepared(
    launch: &Launch,
    given: &Given<'_>,
    name: &str,
    text: &Script,
    mut loaded: Loaded,
    reporter: &Rc<Reporter>,
) -> Result<Rc<Host>> {
    let history = std::mem::take(&mut loaded.history);
    let plain = Settings::read(given.source, given.files, &BTreeMap::new())?;
    let plan_name = plain.text("plan").map_or_else(|| stem(name), str::to_owned);
    let mut overrides = history.overrides.get(&plan_name).cloned().unwrap_or_default();
    for key in &launch.unset {
        if launch.set.iter().any(|(set, _)| set == key) {
            let message = format!("`--set {key}=…` and `--unset {key}` contradict each other");
            bail!(Failure::new(message).exit(ExitCode::USAGE));
        }
        if overrides.remove(key).is_none() {
            plain.check_override(key, None, "--unset")?;
        }
    }
    for (key, value) in &overrides {
        plain.check_override(key, Some(value), "--set").map_err(|failure| {
            failure.hint(format!("an earlier run recorded this override; `--unset {key}` removes it"))
        })?;
    }
    for (key, typed) in &launch.set {
        overrides.insert(key.clone(), plain.typed(key, typed)?);
    }
    let settings = Settings::read(given.source, given.files, &overrides)?;
    let mut session = if launch.dry_run {
        Session::new(launch.world_for_dry_run(Rc::clone(reporter)), history, &plan_name)
    } else {
        let world = launch.world(Rc::clone(reporter));
        let opening = launch.opening(
            &plan_name,
            &given.script.display().to_string(),
            &given.source.describe(),
            loaded,
        )?;
        Session::acting(world, history, &plan_name, opening)
    };
    session.on_conflict = launch.on_conflict;
    let host = Host::new(session, given.source.clone(), settings, given.words.clone());
    host.set_secrets(Rc::clone(given.secrets));
    host.scripts().keep(MAIN, text.clone());
    Ok(host)
}

/// Examines the plan of this script, and gives its name and its steps. The launch is that of a dry run: nothing is changed
/// or asked.
///
/// # Errors
/// When the plan cannot be read, does not pass the check or cannot be examined.
pub fn examined(
    launch: &Rc<Launch>,
    script: &Path,
    reporter: &Rc<Reporter>,
) -> Result<(String, Vec<StepRow>)> {
    let Ready { host, .. } = read(launch, script, Vec::new(), reporter)?;
    let (_, name) = Source::find(script)?;
    let plan = host.seen().plan().to_owned();
    let reports = examine::steps(launch, &host, &name, &plan)?;
    // What had begun may have ended meanwhile.
    let rows = status::rows(&launch.history()?, &plan, reports);
    Ok((plan, rows))
}

/// A session that undoes changes of `plan` without any script.
pub fn rollback_session(
    launch: &Launch,
    mut loaded: Loaded,
    plan: &str,
    reporter: &Rc<Reporter>,
) -> Result<Session> {
    let history = std::mem::take(&mut loaded.history);
    let mut session = if launch.dry_run {
        Session::new(launch.world_for_dry_run(Rc::clone(reporter)), history, plan)
    } else {
        let opening = launch.opening(plan, "rollback", "the journal", loaded)?;
        Session::acting(launch.world(Rc::clone(reporter)), history, plan, opening)
    };
    session.on_conflict = launch.on_conflict;
    Ok(session)
}

/// A session of a command that needs no script, to record something of `plan`; `command` is what the record calls it.
pub fn journal_session(
    launch: &Launch,
    plan: &str,
    command: &str,
    reporter: &Rc<Reporter>,
) -> Result<Session> {
    let mut loaded = launch.journal()?;
    let history = std::mem::take(&mut loaded.history);
    let opening = launch.opening(plan, command, "the journal", loaded)?;
    Ok(Session::acting(launch.world(Rc::clone(reporter)), history, plan, opening))
}

/// Takes the lock, remembers overrides.
fn begin_plan(launch: &Launch, host: &Host) -> Result<()> {
    let mut session = host.session();
    session.begin_acting()?;
    session.run_handlers_first()?;
    drop(session);
    for entry in override_entries(launch, host)? {
        host.session().record(entry)?;
    }
    Ok(())
}

/// What the command line says about overrides that is not remembered yet.
fn override_entries(launch: &Launch, host: &Host) -> Result<Vec<Entry>> {
    let session = host.seen();
    let remembered = session.history().overrides.get(session.plan()).cloned().unwrap_or_default();
    let mut entries = Vec::new();
    for key in launch.unset.iter().filter(|key| remembered.contains_key(*key)) {
        entries.push(Entry::OverrideUnset { key: key.clone() });
    }
    for (key, typed) in &launch.set {
        let value = host.settings().typed(key, typed)?;
        if session.world.reporter.redact(typed) != *typed {
            bail!(
                Failure::new(format!(
                    "`--set {key}` contains a secret: a setting is recorded and shown in clear"
                ))
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Secret)
                .hint("ask for it in the script with `secret::ask`, and give it with `--secrets FILE`")
            );
        }
        if remembered.get(key) != Some(&value) {
            entries.push(Entry::OverrideSet { key: key.clone(), value });
        }
    }
    Ok(entries)
}

/// The overrides in force, a line each.
fn overrides_shown(launch: &Launch, host: &Host) -> Vec<String> {
    let session = host.seen();
    let mut overrides: BTreeMap<String, Value> =
        session.history().overrides.get(session.plan()).cloned().unwrap_or_default();
    overrides.retain(|key, _| !launch.unset.contains(key));
    for (key, typed) in &launch.set {
        overrides.insert(key.clone(), Value::from(typed.as_str()));
    }
    let shown = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!("{key} = {text}"),
        other => format!("{key} = {other}"),
    };
    overrides.iter().map(shown).collect()
}

/// Gets every secret that a step of this run may ask for, before the first of them changes anything.
fn ask_secrets(launch: &Launch, host: &Host, plan: &Plan, engine: &Engine) -> Result<()> {
    let mut began = false;
    for step in &plan.steps {
        began |= launch.selection.from.as_deref().is_none_or(|from| from == step.id);
        let record = host.seen().history().step(host.seen().plan(), &step.id).cloned();
        let decision = launch.selection.decide(&step.id, began, record.as_ref(), None);
        let may_run = match &decision {
            Decision::Run { .. } | Decision::Examine => true,
            // It may be stale: then it runs, with secrets that it did not ask for before.
            Decision::Skip { why } => *why == SkipReason::Complete,
            Decision::Accept => false,
        };
        if !may_run {
            continue;
        }
        let script = step.script.as_deref().unwrap_or(MAIN);
        for request in asked_secrets(engine.rhai(), host.scripts(), host.settings(), script)? {
            // A complete step has no use for one that is not kept.
            if request.store || matches!(decision, Decision::Run { .. }) {
                host.resolve_secret(&request)?;
            }
        }
    }
    Ok(())
}

fn plan_started(launch: &Launch, host: &Host, plan: &Plan) -> Event {
    let session = host.seen();
    let (history, name) = (session.history(), session.plan());
    let is_complete =
        |id: &str| history.step(name, id).is_some_and(|step| step.state == journal::StepState::Complete);
    let first_open = plan.steps.iter().find(|step| !is_complete(&step.id));
    let began = plan.steps.iter().any(|step| is_complete(&step.id));
    Event::PlanStarted {
        plan: name.to_owned(),
        steps: plan.steps.len(),
        run: number_of_run(launch, &session, plan),
        root: host.source().describe(),
        going_on_at: first_open.filter(|_| began).map(|step| step.id.clone()),
        overrides: overrides_shown(launch, host),
        dry_run: launch.dry_run,
        invocation: launch.invocation.clone(),
        widest_title: plan.steps.iter().map(|step| step.title.chars().count()).max().unwrap_or(0),
    }
}

/// The number of this run, which counts those that recorded something; none as long as it is not known that it will.
fn number_of_run(launch: &Launch, session: &Session, plan: &Plan) -> Option<usize> {
    let (history, name) = (session.history(), session.plan());
    let before = history.runs.get(name).copied().unwrap_or_default();
    if session.has_recorded() {
        // Overrides that were just recorded have counted it already.
        return Some(before);
    }
    let mut began = launch.selection.from.is_none();
    let is_run = plan.steps.iter().any(|step| {
        began |= launch.selection.from.as_ref() == Some(&step.id);
        let decision = launch.selection.decide(&step.id, began, history.step(name, &step.id), None);
        matches!(decision, Decision::Run { .. } | Decision::Accept)
    });
    (is_run && !launch.dry_run).then_some(before + 1)
}

/// Records and reports how it ended.
fn finish(
    launch: &Launch,
    host: &Host,
    plan: &Plan,
    runner: &Runner,
    outcome: Result<(), Stop>,
) -> Result<ExitCode> {
    let caught = host.take_failed_mutation();
    let outcome = match (outcome, caught) {
        (Ok(()), Some(failure)) => Err(Stop::Failed(failure)),
        (Ok(()), None) => {
            // A script without steps that uses the name of a plan removes none of its steps.
            let is_gone = |step: Option<&str>| match step {
                Some(id) => !plan.steps.is_empty() && plan.step(id).is_none(),
                None => true,
            };
            runner
                .refuse_drift()
                .and_then(|()| host.session().run_remaining_handlers(is_gone))
                .map_err(runner::failed)
        }
        (Err(stop), _) => Err(stop),
    };
    let exit = match &outcome {
        Ok(()) if launch.dry_run && host.seen().changed() > 0 => ExitCode::DIFFERENT,
        Ok(()) => host.exit().unwrap_or(ExitCode::DONE),
        Err(stop) => runner::exit_of(stop),
    };
    if host.seen().has_recorded() || exit == ExitCode::DONE && ends_an_interruption(launch, host, plan) {
        // A failed journal has been reported already; the run then has no end record.
        let bare = to_remember(host, plan);
        let _ = host.session().record_end(Entry::RunEnded { exit: exit.0, bare });
    }
    if exit == ExitCode::DONE && !plan.steps.is_empty() {
        host.session().write_checkpoint(|| host.scripts().settled_digests());
    }
    let (pending, is_plan) = (host.seen().pending_lines(), !plan.steps.is_empty());
    if let Err(Stop::Unpredictable { place, why }) = &outcome {
        host.reporter().note(format!("not predictable from line {} on: depends on {why}", place.line));
    }
    if let Err(Stop::Failed(failure)) = &outcome {
        host.reporter().emit(&Event::of_failure(failure));
    }
    if let Err(Stop::Interrupted(interruption)) = &outcome {
        runner.report_interruption(host, plan, *interruption);
    }
    if outcome.is_ok() {
        launch.note_late_signal(&host.reporter(), if is_plan { "run" } else { "script" }, exit);
    }
    let (changed, not_undone) = (host.seen().changed(), host.seen().not_undone());
    let (failed, triggers) = (runner.failed(), host.seen().would_trigger().to_vec());
    let ended = Event::RunEnded { changed, not_undone, failed, pending, triggers, exit: exit.0 };
    host.reporter().emit(&ended);
    match outcome {
        // A dry run ends at what is unpredictable: that is no failure.
        Ok(()) | Err(Stop::Unpredictable { .. }) => Ok(exit),
        Err(Stop::Failed(failure)) => Err(failure.into()),
        Err(Stop::Interrupted(interruption)) => Err(interruption.into()),
    }
}

/// Whether the run before this one of the plan did not come to its end, and this one did though it found nothing to do:
/// unless it is recorded, the plan would count as interrupted for ever.
fn ends_an_interruption(launch: &Launch, host: &Host, plan: &Plan) -> bool {
    let session = host.seen();
    let is_whole = !launch.dry_run && !plan.steps.is_empty() && launch.selection.is_everything();
    is_whole && session.history().was_interrupted(session.plan())
}

fn check_selection(selection: &Selection, plan: &Plan) -> Result<()> {
    for id in selection.named() {
        if plan.step(id).is_none() {
            let known: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
            bail!(
                Failure::new(format!("unknown step `{id}`"))
                    .exit(ExitCode::USAGE)
                    .hint(format!("the steps are {}", known.join(", ")))
            );
        }
    }
    if let Some(why) = selection.contradiction() {
        bail!(Failure::new(why).exit(ExitCode::USAGE));
    }
    Ok(())
}

fn read_outside(path: &Path) -> Result<Script> {
    let shown = path.display().to_string();
    let text = script::read_text(path, &shown)
        .with_context(|| format!("cannot read the settings file `{shown}`"))?;
    Ok(Script { text, name: shown })
}

fn stem(name: &str) -> String {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name).to_owned()
}

/// The steps that have a log.
pub fn steps_with_logs(state: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(state.join("logs")).into_iter().flatten().flatten();
    let step = |name: std::ffi::OsString| Some(name.to_str()?.split('.').nth(1)?.to_owned());
    entries.filter_map(|entry| step(entry.file_name())).collect()
}

/// The newest log of a step of a plan.
pub fn log_of(state: &Path, plan: &str, step: &str) -> Result<Option<PathBuf>> {
    newest_log(state, Some(plan), Some(step))
}

/// The newest log of a step, or of the step that logged last; of this plan, or of any.
pub fn newest_log(state: &Path, plan: Option<&str>, step: Option<&str>) -> Result<Option<PathBuf>> {
    let directory = state.join("logs");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", directory.display())),
    };
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read `{}`", directory.display()))?;
        let name = entry.file_name();
        let of_step = name.to_str().and_then(|name| name.split('.').nth(1));
        let is_of_plan = plan.is_none_or(|plan| name.to_str().is_some_and(|name| is_log_of(plan, name)));
        if !is_of_plan || step.is_some_and(|step| of_step != Some(&*in_file_name(step))) {
            continue;
        }
        let looked = || format!("cannot inspect `{}`", entry.path().display());
        let found = entry.metadata().with_context(looked)?;
        // Only kkrun's own files are logs.
        if !found.is_file() {
            continue;
        }
        let written = found.modified().with_context(looked)?;
        if newest.as_ref().is_none_or(|(time, _)| written > *time) {
            newest = Some((written, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}
