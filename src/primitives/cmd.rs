//! `cmd::` runs commands: arrays of arguments, never shell strings.

mod capture;
mod touch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex::Regex;
use rhai::plugin::*;
use rhai::{FnPtr, Map};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use self::capture::CaptureOptions;
use super::file::absolute;
use super::shorter::namespace;
use crate::change::{
    Attempts, Change, CommandChange, CommandInverse, CommandSource, CommandState, Payload, PlainCommand,
    Probe, ProductRecord,
};
use crate::failure::{Failure, FailureKind};
use crate::journal::Class;
use crate::machine::account::Account;
use crate::machine::files::{Digest, PathText};
use crate::machine::process::{self, Command, Ended, Stdin};
use crate::script::{
    Host, OptionSet, Raised, Seconds, Secret, Unpredictable, act, json_of, look, options_of, unpredictable,
};
use crate::target::Target;

/// How long `cmd::run` lets a command run when the script does not say.
const LONGEST_RUN: f64 = 3600.0;
/// How long `cmd::read` and `cmd::test` let a command run when the script does not say.
const LONGEST_LOOK: f64 = 60.0;

/// The options of `cmd::run` that say when the command has something to do, and what they are for.
const GUARDS: [&str; 4] = ["creates", "unless", "always", "capture"];
const GUARD_HINTS: [&str; 3] = [
    "`creates: path` names what it makes, `unless: […]` a command that succeeds when it is done",
    "`capture: #{}` runs it apart and finds out whether it changes anything",
    "`always: \"why\"` runs it every time that the step runs",
];

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("read", 1), ("test", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "run" => Some(
            by_hand(OptionSet::of::<RunOptions>())
                .with("unless", &["array", "closure"])
                .with("capture", &["map"])
                .with("undo", &["array", "closure"])
                .with("made_from", &["string", "closure"])
                .needing_one_of(&GUARDS, &GUARD_HINTS),
        ),
        "read" | "test" => Some(by_hand(OptionSet::of::<LookOptions>())),
        _ => None,
    }
}

fn by_hand(options: OptionSet) -> OptionSet {
    options.with("env", &["map"]).with("stdin", &["string", "secret"])
}

/// What `cmd::run` returns. It is empty in a dry run, and reading a field of it then ends the preview of the step.
#[derive(Clone, Debug)]
pub(super) struct Output {
    known: Option<KnownOutput>,
    label: String,
    /// Where the command was called: Rhai does not report where a field is read.
    source: Option<String>,
    position: Position,
}

#[derive(Clone, Debug)]
struct KnownOutput {
    code: i64,
    stdout: String,
    stderr: String,
    seconds: f64,
}

/// Gives an engine the type and its fields.
pub(super) fn register_output(engine: &mut rhai::Engine) {
    fn get<T>(output: &Output, field: impl FnOnce(&KnownOutput) -> T) -> Raised<T> {
        if let Some(known) = &output.known {
            return Ok(field(known));
        }
        let why = format!("the output of `{}`", output.label);
        Err(unpredictable(&why, output.source.as_deref(), output.position))
    }
    engine
        .register_type_with_name::<Output>("output")
        .register_get("code", |output: &mut Output| get(output, |known| known.code))
        // A code that is neither 0 nor one of `ok_codes` has failed the step.
        .register_get("ok", |output: &mut Output| get(output, |_| true))
        .register_get("stdout", |output: &mut Output| get(output, |known| known.stdout.clone()))
        .register_get("stderr", |output: &mut Output| get(output, |known| known.stderr.clone()))
        .register_get("seconds", |output: &mut Output| get(output, |known| known.seconds));
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RunOptions {
    creates: Option<String>,
    #[serde(skip)]
    unless: Option<Dynamic>,
    always: Option<String>,
    #[serde(skip)]
    undo: Option<Dynamic>,
    state: Option<Vec<String>>,
    loses: Option<String>,
    irreversible: Option<String>,
    #[serde(skip)]
    capture: Option<CaptureOptions>,
    #[serde(skip)]
    made_from: Option<Dynamic>,
    whole: bool,
    changes: Option<String>,
    touches: Vec<String>,
    cwd: Option<String>,
    #[serde(skip)]
    env: Map,
    user: Option<String>,
    #[serde(skip)]
    stdin: Option<Dynamic>,
    timeout: Option<Seconds>,
    retries: u32,
    #[serde(deserialize_with = "pattern")]
    retry_on: Option<Regex>,
    backoff: Option<Seconds>,
    ok_codes: Vec<i32>,
    label: Option<String>,
    interactive: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LookOptions {
    cwd: Option<String>,
    #[serde(skip)]
    env: Map,
    user: Option<String>,
    #[serde(skip)]
    stdin: Option<Dynamic>,
    timeout: Option<Seconds>,
    stderr: bool,
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Regex>, D::Error> {
    Regex::new(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// serde cannot read closures and secrets, so they are taken out of the map first.
impl RunOptions {
    fn of(mut map: Map) -> Result<Self> {
        let (unless, undo, made_from) = (map.remove("unless"), map.remove("undo"), map.remove("made_from"));
        let (env, stdin) = (env_of(&mut map)?, map.remove("stdin"));
        let capture = map.remove("capture").map(|given| {
            let kind = given.type_name();
            let map = given.try_cast::<Map>().ok_or_else(|| {
                Failure::new(format!("`capture` must be a map, not a {kind}")).kind(FailureKind::Option)
            })?;
            options_of(map).context("`capture`")
        });
        let capture = capture.transpose()?;
        Ok(Self { unless, undo, capture, made_from, env, stdin, ..options_of(map)? })
    }
}

impl LookOptions {
    fn of(mut map: Map) -> Result<Self> {
        let (env, stdin) = (env_of(&mut map)?, map.remove("stdin"));
        Ok(Self { env, stdin, ..options_of(map)? })
    }
}

fn env_of(options: &mut Map) -> Result<Map> {
    let Some(env) = options.remove("env") else { return Ok(Map::new()) };
    let kind = env.type_name();
    env.try_cast::<Map>().ok_or_else(|| {
        Failure::new(format!("`env` must be a map, not a {kind}")).kind(FailureKind::Option).into()
    })
}

/// One entry of `undo`, over what it inherits from the command.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoEntry {
    argv: Vec<String>,
    user: Option<String>,
    env: Option<BTreeMap<String, String>>,
    cwd: Option<PathBuf>,
    stdin: Option<String>,
    #[serde(default)]
    ok_codes: Vec<i32>,
}

fn words(host: &Host, argv: rhai::Array) -> Result<Vec<String>> {
    if argv.is_empty() {
        bail!(Failure::new("invalid command: the array is empty").kind(FailureKind::Usage));
    }
    let word = |word: Dynamic| {
        if word.is_string() || word.is_int() || word.is_char() {
            let text = word.to_string();
            host.refuse_secret(&text)?;
            return Ok(text);
        }
        bail!(
            Failure::new(format!("invalid command: its arguments must be strings, not {}", word.type_name()))
                .kind(FailureKind::Type)
                .hint("pass a secret in `stdin` or `env`: every user can see arguments")
        )
    };
    argv.into_iter().map(word).collect()
}

fn variables(host: &Host, env: &Map) -> Result<Vec<(std::ffi::OsString, process::Value)>> {
    let variable = |(name, value): (&rhai::Identifier, &Dynamic)| {
        let value = match Host::secret_text(value) {
            Some(secret) => process::Value::Secret(secret.as_bytes().to_vec().into()),
            None if value.is_unit() || value.is_map() || value.is_array() || value.is_fnptr() => {
                bail!(
                    Failure::new(format!(
                        "the variable `{name}` must be a string, not a {}",
                        value.type_name()
                    ))
                    .kind(FailureKind::Type)
                )
            }
            None => {
                let text = value.to_string();
                host.refuse_secret(&text)?;
                process::Value::Plain(text.into())
            }
        };
        Ok((name.to_string().into(), value))
    };
    env.iter().map(variable).collect()
}

fn input(host: &Host, stdin: Option<&Dynamic>) -> Result<Stdin> {
    let Some(stdin) = stdin else { return Ok(Stdin::Null) };
    if let Some(secret) = Host::secret_text(stdin) {
        return Ok(Stdin::Bytes(secret.as_bytes().to_vec().into()));
    }
    match stdin.clone().into_string() {
        Ok(text) => {
            host.refuse_secret(&text)?;
            Ok(Stdin::Bytes(text.into_bytes().into()))
        }
        Err(kind) => {
            bail!(
                Failure::new(format!("`stdin` must be a string or a secret, not a {kind}"))
                    .kind(FailureKind::Option)
            )
        }
    }
}

fn seconds(given: Option<Seconds>, otherwise: f64) -> Duration {
    given.unwrap_or(Seconds(otherwise)).duration()
}

fn looking_command(host: &Host, argv: rhai::Array, options: &LookOptions) -> Result<(Command, String)> {
    let argv = words(host, argv)?;
    let label = shell_words::join(&argv);
    let mut command = Command::new(&argv);
    command.user = options.user.as_deref().map(Account::existing).transpose()?;
    command.cwd = options.cwd.as_deref().map(absolute).transpose()?;
    command.env = variables(host, &options.env)?;
    command.stdin = input(host, options.stdin.as_ref())?;
    command.timeout = Some(seconds(options.timeout, LONGEST_LOOK));
    Ok((command, label))
}

fn read_output(context: &NativeCallContext, argv: rhai::Array, options: Map) -> Raised<String> {
    look(context, |host| {
        let options = LookOptions::of(options)?;
        let (command, label) = looking_command(host, argv, &options)?;
        let ended = host.seen().world.look(&command)?;
        crate::change::succeeded(&ended, &label)?;
        let mut text = ended.stdout.text();
        if options.stderr {
            text.push_str(&ended.stderr.text());
        }
        Ok(text.trim().to_owned())
    })
}

fn succeeds(context: &NativeCallContext, argv: rhai::Array, options: Map) -> Raised<bool> {
    look(context, |host| {
        let options = LookOptions::of(options)?;
        let (command, label) = looking_command(host, argv, &options)?;
        let ended = host.seen().world.look(&command)?;
        if ended.status.code().is_none() {
            crate::change::succeeded(&ended, &label)?;
        }
        if !ended.is_success() && host.would_have_changed() {
            return Err(Unpredictable(format!("whether `{label}` succeeds by then")).into());
        }
        Ok(ended.is_success())
    })
}

/// One call of `cmd::run`.
struct Run<'call> {
    context: &'call NativeCallContext<'call>,
    host: &'call Host,
    argv: Vec<String>,
    label: String,
    options: RunOptions,
    /// In a dry run: whether there is something to do is known only by then.
    is_unsure: std::cell::Cell<bool>,
}

impl Run<'_> {
    fn execute(&self) -> Result<Output> {
        self.check_options()?;
        let product = self.options.creates.as_deref().map(absolute).transpose()?;
        self.host.seen().asks_for(|| self.target(product.as_deref()));
        if self.is_recorded() {
            self.host.seen().refuse_unmounted_paths(&self.target(product.as_deref()))?;
        }
        if self.holds(product.as_deref())? {
            return Ok(self.nothing_run());
        }
        if self.is_recorded() && self.is_made_already()? {
            return Ok(if self.host.dry_run() { self.unknown_output() } else { self.nothing_run() });
        }
        if let Some(capture) = &self.options.capture {
            let ended = self.execute_captured(capture)?;
            let Some(ended) = ended else { return Ok(self.unknown_output()) };
            if !self.host.dry_run() {
                self.prove()?;
            }
            return Ok(self.output(&ended));
        }
        if !self.options.touches.is_empty() {
            return self.execute_touching();
        }
        if self.host.dry_run() {
            let target = self.target(product.as_deref());
            let summary = format!("run {}", self.label);
            if self.options.always.is_some() {
                self.host.session().note_repeated(target, summary);
            } else if self.is_unsure.get() {
                self.host.session().might_make(target, summary);
            } else if let Ok(change) = self.change(product.as_deref(), Vec::new()) {
                self.host.session().foresee(&Change::Command(change))?;
            } else {
                self.host.session().note_change(target, summary);
            }
            return Ok(self.unknown_output());
        }
        let mut attempts = self.attempts()?;
        let undo = self.undo_commands()?;
        let change = self.change(product.as_deref(), undo)?;
        let loses = self.loses(change.inverse());
        let payload = Payload::Command(&mut attempts);
        if !self.host.session().perform_losing(&Change::Command(change), loses, payload)? {
            // The operator keeps what is there.
            return Ok(self.nothing_run());
        }
        self.prove()?;
        Ok(attempts.ended.map_or_else(|| self.nothing_run(), |ended| self.output(&ended)))
    }

    /// The change by the command, which is about to be run.
    fn change(&self, product: Option<&Path>, commands: Vec<PlainCommand>) -> Result<CommandChange> {
        let changes = self.options.changes.as_deref().map(absolute).transpose()?;
        let inverse = CommandInverse {
            label: self.label.clone(),
            product: product.map(PathText::new),
            changes: changes.as_deref().map(PathText::new),
            commands,
            probe: self.probe()?,
            class: if self.options.irreversible.is_some() { Class::Irreversible } else { Class::Safe },
        };
        let (source, user) = (self.source()?, self.options.user.as_deref());
        let session = self.host.seen();
        let me = rustix::process::geteuid().as_raw();
        let uid = user.map(Account::existing).transpose()?.map_or(me, |user| user.uid);
        let record = session.product_record(&inverse);
        let runs_as = user.map(str::to_owned);
        let record = ProductRecord { user: (uid != 0).then_some(uid), runs_as, ..record };
        CommandChange::about_to_run(&session.world, inverse, source, &record)
    }

    fn check_options(&self) -> Result<()> {
        let options = &self.options;
        if options.capture.is_some() {
            self.refuse_beside("capture")?;
        } else if !options.touches.is_empty() {
            self.refuse_beside("touches")?;
        }
        if options.capture.is_none() && !self.has_guard() {
            let failure = Failure::new("`cmd::run` needs one of `creates`, `unless`, `always` or `capture`");
            bail!(GUARD_HINTS.into_iter().fold(failure.kind(FailureKind::Option), Failure::hint));
        }
        if options.always.is_some() && (options.creates.is_some() || options.unless.is_some()) {
            bail!(
                Failure::new("`always` must not be combined with `creates` or `unless`")
                    .kind(FailureKind::Option)
            );
        }
        Ok(())
    }

    fn has_guard(&self) -> bool {
        let options = &self.options;
        options.creates.is_some() || options.unless.is_some() || options.always.is_some()
    }

    /// What undoes a command whose paths are recorded, and whether it is as before, needs no words of the script.
    fn refuse_beside(&self, option: &str) -> Result<()> {
        let options = &self.options;
        let is_captured = options.capture.is_some();
        let beside = [
            ("undo", options.undo.is_some()),
            ("state", options.state.is_some()),
            ("loses", options.loses.is_some()),
            ("irreversible", options.irreversible.is_some()),
            ("whole", options.whole),
            ("changes", options.changes.is_some()),
            ("retries", is_captured && options.retries > 0),
            ("touches", is_captured && !options.touches.is_empty()),
        ];
        let Some((name, _)) = beside.iter().find(|(_, is_given)| *is_given) else { return Ok(()) };
        let hint = match (*name, is_captured) {
            ("retries", _) => "a captured command that fails changes nothing: retry in the command itself",
            (_, true) => "what a captured command changes is undone path by path",
            (_, false) => "what the command changes at these paths is undone path by path",
        };
        bail!(
            Failure::new(format!("`{option}` must not be combined with `{name}`"))
                .kind(FailureKind::Option)
                .hint(hint)
        )
    }

    /// Whether kkrun knows what it changes.
    fn is_recorded(&self) -> bool {
        self.options.capture.is_some() || !self.options.touches.is_empty()
    }

    fn target(&self, product: Option<&Path>) -> Target {
        if self.is_recorded() {
            return Target::Captured(self.label.clone());
        }
        match product {
            Some(product) => Target::product(product),
            None => Target::Command(self.label.clone()),
        }
    }

    /// Whether there is nothing to do. In a dry run, what cannot be known counts as not done.
    fn holds(&self, product: Option<&Path>) -> Result<bool> {
        if self.options.always.is_some() {
            return Ok(false);
        }
        let reported = match &self.options.unless {
            Some(unless) => self.unless_holds(unless),
            None => product.map_or(Ok(false), |product| {
                self.host.refuse_unknown(product)?;
                Ok(std::fs::symlink_metadata(product).is_ok())
            }),
        };
        let holds = match reported {
            Ok(holds) => holds,
            Err(error) if error.is::<Unpredictable>() || self.host.would_have_changed() => {
                self.is_unsure.set(self.options.unless.is_some());
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if !holds {
            return Ok(false);
        }
        let target = self.target(product);
        let wanted = match self.source() {
            Err(error) if error.is::<Unpredictable>() => {
                self.is_unsure.set(true);
                return Ok(false);
            }
            source => source?,
        };
        if let Some(before) = self.before_attempt(&target) {
            // What held before the attempt proves nothing of it. Of a closure that is not recorded: a product that was there
            // may be why it holds, if the command may have run for another reason.
            let ran_for_unless = wanted == CommandSource::default() && !self.options.whole;
            let held_before = match &before.probed {
                Some(probed) => probed == "true",
                None => !ran_for_unless && before.product == Some(true),
            };
            return Ok(self.options.unless.is_some() && !held_before);
        }
        let session = self.host.seen();
        let known = session.history().recorded(&target);
        let known = known.and_then(|value| serde_json::from_value::<CommandState>(value).ok());
        let known = known.unwrap_or_default();
        if self.options.whole
            && let Some(product) = product
            && !known.is_whole(&session.world, product)?
        {
            return Ok(false);
        }
        let CommandSource { made_from, made_by } = known.source;
        let is_same_source = wanted.made_from.is_none() || wanted.made_from == made_from;
        // Of what was there before kkrun, no command is known.
        let is_same_command = wanted.made_by.is_none() || made_by.is_none() || wanted.made_by == made_by;
        Ok(is_same_source && is_same_command)
    }

    /// What was there before an attempt that failed, or that a kill left half done.
    fn before_attempt(&self, target: &Target) -> Option<CommandState> {
        let session = self.host.seen();
        let attempt = session.history().in_doubt().find(|change| change.intent.target == *target)?;
        Some(serde_json::from_value(attempt.intent.before.value()).unwrap_or_default())
    }

    fn unless_holds(&self, unless: &Dynamic) -> Result<bool> {
        Ok(self.lacking(unless)?.is_none())
    }

    /// What `unless` says is missing; none if it holds.
    fn lacking(&self, unless: &Dynamic) -> Result<Option<String>> {
        let Some(closure) = unless.clone().try_cast::<FnPtr>() else {
            let argv = words(self.host, array_of(unless, "unless")?)?;
            let label = shell_words::join(&argv);
            let ended = self.host.seen().world.look(&self.looking(argv)?)?;
            return Ok((!ended.is_success()).then(|| format!("`{label}` still fails")));
        };
        let value = match self.host.call(self.context, &closure) {
            Ok(value) => value,
            Err(error) if self.host.dry_run() => {
                let why = self.host.caught_unknown(error)?;
                return Err(Unpredictable(why).into());
            }
            Err(error) => return Err(error),
        };
        if let Some(missing) = value.read_lock::<rhai::Array>() {
            let missing: Vec<String> = missing.iter().map(Dynamic::to_string).collect();
            return Ok((!missing.is_empty()).then(|| format!("these are missing: {}", missing.join(", "))));
        }
        match value.as_bool() {
            Ok(holds) => Ok((!holds).then(|| "`unless` still does not hold".to_owned())),
            Err(kind) => bail!(
                Failure::new(format!(
                    "`unless` must return true or false, or an array of what is missing, not a {kind}"
                ))
                .kind(FailureKind::Type)
            ),
        }
    }

    /// A command that only reads, with the user, directory and environment of this one.
    fn looking(&self, argv: Vec<String>) -> Result<Command> {
        let mut command = self.command()?;
        command.argv = argv.into_iter().map(Into::into).collect();
        command.stdin = Stdin::Null;
        command.interactive = false;
        command.timeout = Some(seconds(None, LONGEST_LOOK));
        Ok(command)
    }

    fn command(&self) -> Result<Command> {
        let options = &self.options;
        let mut command = Command::new(&self.argv);
        command.label = Some(self.label.clone());
        command.user = options.user.as_deref().map(Account::existing).transpose()?;
        command.cwd = options.cwd.as_deref().map(absolute).transpose()?;
        command.env = variables(self.host, &options.env)?;
        command.stdin = input(self.host, options.stdin.as_ref())?;
        command.timeout = Some(seconds(options.timeout, LONGEST_RUN));
        command.interactive = options.interactive;
        command.outlasts_interrupt = matches!(self.argv[0].as_str(), "apt" | "apt-get" | "dpkg");
        Ok(command)
    }

    fn attempts(&self) -> Result<Attempts> {
        let (command, options) = (self.command()?, &self.options);
        Ok(Attempts {
            command,
            ok_codes: options.ok_codes.clone(),
            retries: options.retries,
            retry_on: options.retry_on.clone(),
            backoff: seconds(options.backoff, 2.0),
            ended: None,
        })
    }

    /// The command as the journal records it: secrets by name.
    fn plain(&self, argv: Vec<String>) -> Result<PlainCommand> {
        let (mut env, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in &self.options.env {
            match value.read_lock::<Secret>() {
                Some(secret) => drop(secrets.insert(name.to_string(), secret.name().to_owned())),
                None => drop(env.insert(name.to_string(), value.to_string())),
            }
        }
        Ok(PlainCommand {
            argv,
            user: self.options.user.clone(),
            env,
            secrets,
            cwd: self.options.cwd.as_deref().map(absolute).transpose()?,
            stdin: None,
            ok_codes: Vec::new(),
        })
    }

    fn undo_commands(&self) -> Result<Vec<PlainCommand>> {
        let Some(undo) = &self.options.undo else { return Ok(Vec::new()) };
        let entries = match undo.clone().try_cast::<FnPtr>() {
            Some(closure) => self.host.call_apart(self.context, &closure)?,
            None => undo.clone(),
        };
        let entries = array_of(&entries, "undo")?;
        entries.into_iter().map(|entry| self.undo_command(&entry)).collect()
    }

    fn undo_command(&self, entry: &Dynamic) -> Result<PlainCommand> {
        if entry.is_array() {
            return self.plain(words(self.host, array_of(entry, "undo")?)?);
        }
        let given: UndoEntry = serde_json::from_value(json_of(entry).context("`undo`")?)
            .map_err(|error| Failure::new(format!("`undo`: {error}")).kind(FailureKind::Option))?;
        let inherited = self.plain(given.argv)?;
        Ok(PlainCommand {
            user: given.user.or(inherited.user),
            secrets: if given.env.is_some() { BTreeMap::new() } else { inherited.secrets },
            env: given.env.unwrap_or(inherited.env),
            cwd: given.cwd.or(inherited.cwd),
            stdin: given.stdin,
            ok_codes: given.ok_codes,
            argv: inherited.argv,
        })
    }

    fn probe(&self) -> Result<Option<Probe>> {
        if let Some(argv) = &self.options.state {
            return Ok(Some(Probe::Output { look: self.plain(argv.clone())? }));
        }
        match &self.options.unless {
            Some(unless) if unless.is_array() => {
                let argv = words(self.host, array_of(unless, "unless")?)?;
                Ok(Some(Probe::Success { look: self.plain(argv)? }))
            }
            _ => Ok(None),
        }
    }

    /// Whether a product has to be made again depends on this. `unless` alone decides about the command.
    fn source(&self) -> Result<CommandSource> {
        let options = &self.options;
        let made_from = self.made_from()?;
        let is_asked = options.unless.is_some() && made_from.is_none() || options.always.is_some();
        if is_asked && !self.is_recorded() {
            return Ok(CommandSource { made_from, made_by: None });
        }
        let plain = self.plain(self.argv.clone())?;
        let stdin = options.stdin.as_ref().filter(|stdin| stdin.is_string()).map(Dynamic::to_string);
        let given = options.env.values().chain(&options.stdin);
        let secrets = given.filter_map(|value| {
            let secret = value.read_lock::<Secret>()?;
            Some(self.host.hash_of_secret(&secret))
        });
        let secrets = secrets.collect::<Result<Vec<_>>>()?;
        let command =
            serde_json::to_vec(&(plain, stdin, secrets)).context("cannot write a command as JSON")?;
        Ok(CommandSource { made_from, made_by: Some(Digest::of(&command).to_string()) })
    }

    /// The digest of the string that it is made from.
    fn made_from(&self) -> Result<Option<String>> {
        let Some(given) = &self.options.made_from else { return Ok(None) };
        let text = match given.clone().try_cast::<FnPtr>() {
            Some(closure) => match self.host.call(self.context, &closure) {
                Err(error) if self.host.dry_run() => {
                    return Err(Unpredictable(self.host.caught_unknown(error)?).into());
                }
                text => text?,
            },
            None => given.clone(),
        };
        let text = text.into_string().map_err(|kind| {
            Failure::new(format!("`made_from` must be a string, not a {kind}")).kind(FailureKind::Option)
        })?;
        Ok(Some(Digest::of(text.as_bytes()).to_string()))
    }

    fn loses(&self, inverse: &CommandInverse) -> Option<(Class, String)> {
        if let Some(why) = &self.options.irreversible {
            return Some((Class::Irreversible, why.clone()));
        }
        if !inverse.has_undo() {
            let is_said = self.options.undo.is_some();
            return is_said
                .then(|| (Class::Irreversible, "its script says that there is nothing to undo".to_owned()));
        }
        self.options.loses.clone().map(|what| (Class::Data, what))
    }

    /// Checks `unless` again after the command, as proof that it worked.
    fn prove(&self) -> Result<()> {
        let Some(unless) = &self.options.unless else { return Ok(()) };
        match self.lacking(unless)? {
            Some(lacking) => bail!(Failure::new(format!("`{}` succeeded, but {lacking}", self.label))),
            None => Ok(()),
        }
    }

    fn unknown_output(&self) -> Output {
        self.output_of(None)
    }

    fn output_of(&self, known: Option<KnownOutput>) -> Output {
        let (source, position) = (self.context.call_source(), self.context.call_position());
        Output { known, label: self.label.clone(), source: source.map(str::to_owned), position }
    }

    fn nothing_run(&self) -> Output {
        let known = KnownOutput { code: 0, stdout: String::new(), stderr: String::new(), seconds: 0.0 };
        self.output_of(Some(known))
    }

    fn output(&self, ended: &Ended) -> Output {
        let known = KnownOutput {
            code: i64::from(ended.status.code().unwrap_or(-1)),
            stdout: ended.stdout.text(),
            stderr: ended.stderr.text(),
            seconds: ended.seconds,
        };
        self.output_of(Some(known))
    }
}

fn array_of(value: &Dynamic, option: &str) -> Result<rhai::Array> {
    value.clone().into_array().map_err(|kind| {
        Failure::new(format!("`{option}` must be an array, not a {kind}")).kind(FailureKind::Option).into()
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Runs a command unless there is nothing to do, and returns `{ code, ok, stdout, stderr, seconds }`. One of these
    /// options, or `capture`, must say when there is nothing to do:
    ///
    /// * `creates: path` – when the path exists, and is not what kkrun made with other arguments, variables, user,
    ///   directory or `stdin`: then the changed command is run, with the product in place. Undo removes what the
    ///   command made there; what was there before stays, and so does a directory above it that the command made: make that
    ///   with `file::make_dir`. A rollback asks for what was added or modified since the command
    ///   ended. So does a run, with `--on-conflict`, before the command runs again where what it had made was
    ///   modified or removed. Of what was added, a copy is kept in the backups before the command runs again; where
    ///   that is too much (16 MiB or 1000 files, caches left out), a run asks. What is added while it runs counts as
    ///   its own, except files of other users, if it does not run as root. What a failed or killed run left of it is
    ///   removed before the next attempt, or moved to `aside/` in the state directory if it may not be the command's.
    ///   If the machine loses power before its step is complete, the command runs again: what it wrote may be lost.
    /// * `unless: argv` or a closure – when that command succeeds, or the closure returns true or an empty array of
    ///   what is missing. It is checked again afterwards, as proof. Together with `creates`, it alone decides. After a
    ///   loss of power, too: let it look at what a file holds, and not only at its name.
    /// * `always: "why"` – never.
    ///
    /// Options about undoing and repeating:
    ///
    /// * `undo` – an array of commands, each an array of arguments or `#{ argv, user, env, cwd, stdin, ok_codes }`; or a
    ///   closure that returns such an array, called just before the command runs; `[]` when there is nothing to undo. One
    ///   without `env` gets that of the command, its secrets included. A rollback lists a command without an undo action
    ///   and without `creates` as not undone.
    ///   They run in this order. After a kill, the first one that has not ended is run again, so it must succeed when there
    ///   is nothing left to do (`rm -f`). A single one need not, if `unless` or `state` is as before the command.
    ///   With `creates`, they run first; what they leave of a product that was not there before is then removed.
    /// * `state: argv` – a command that prints what this one changes, so that kkrun notices when something else changed it:
    ///   `--on-conflict` then decides, in a run as in a rollback. It may fail before this one has run; where it fails
    ///   later, that counts as changed.
    /// * `loses: "what"` – undoing it loses this data, so a rollback asks first (`--purge data`).
    /// * `irreversible: "why"` – it cannot be undone.
    /// * `made_from: text` or a closure that returns it – run it again when this string, or the command itself, differs
    ///   from that of its last success.
    /// * `whole: true` – run it again, too, when something that it made at `creates` is missing or changed: its size, time,
    ///   mode or owner.
    /// * `changes: path` – the product of another command that this one modifies, such as a checkout that it updates: the
    ///   modification is then no conflict.
    /// * `touches: [path, …]` – for a command that must run on the machine itself, because it talks to services: files and
    ///   directories that it changes, whether they are there or not. They are recorded before, with all below them (at
    ///   most 50,000 files or 1 GiB; sockets, pipes, devices and what is mounted inside are left out), and after. A
    ///   rollback restores every path with content, owner, mode, attributes and time; what was modified outside kkrun
    ///   since is a conflict of that path alone. If the command fails, they are restored at once. If kkrun is killed,
    ///   the next run or rollback restores them: what it finds modified is kept in the backups, and what is new is moved
    ///   to `aside/` in the state directory, because it may not be the command's. All else that the command does stays, such
    ///   as what it asked of a service. Refused are a path at which kkrun keeps its own record, and a file that has another
    ///   name (a hard link) outside of these paths.
    ///
    /// `capture: #{}` runs the command apart and makes what it changed a change of kkrun's own. It sees this machine
    /// through an overlay over every local file system. When it has ended well, all that differs is applied at once: a
    /// command that fails or is killed changes nothing, and one after which nothing differs is not recorded. A
    /// rollback restores every path with content, owner, mode, attributes (`user.*`, `security.*`, access control
    /// lists; not `trusted.*`), time and names (hard links). What was modified outside kkrun, while the command ran or
    /// since, is a conflict of that path alone. Needs root.
    ///
    /// Without `creates` and `unless`, a captured command runs each time its step does. But a step that did not
    /// complete, because a later command failed or kkrun was killed, goes on behind it: it is not run again as long as
    /// all that it changed is there and the run changed nothing before it. An examination of a complete step
    /// (`--verify`, `--repair`, a dry run) finds what is not: removed or modified, times apart. Both holds of a
    /// command with `touches` and `always`, too. With `--repair` or `--redo` it runs on top of what it made before:
    /// one that appends a line appends another. Options in `capture`:
    ///
    /// * `paths: [path, …]` – what may change, with all below. Anything else is an error, and nothing is applied.
    /// * `ignore: [path or name, …]` – what is thrown away: a path with all below it, or a name wherever it occurs, such as
    ///   `__pycache__`.
    /// * `allow: [service, …]` – services that it can reach, by the name of their socket, of a directory on its way, or by its
    ///   path: `systemd`, `dbus`, `postgresql`, `docker`. What the command asks a service to do is not captured.
    /// * `preview: true` – a dry run runs it, shows what differs and throws that away. It does not see what changes before it
    ///   would bring, and says so. Without `preview`, a dry run only names the command.
    ///
    /// | what the command does | captured |
    /// |---|---|
    /// | changes files, directories and links on local disks, in `/tmp` and other `tmpfs` | yes |
    /// | changes something in `/run`, `/dev`, `/proc`, `/sys`: a kernel parameter, a firewall | no: it happens at once, in a dry run with `preview`, too |
    /// | mounts or unmounts a file system, and leaves it so | refused: it would do so for itself alone |
    /// | changes files on network file systems, on an overlay over another, and on others without an overlay | refused: they are read-only |
    /// | asks a service through a socket with a path: `systemctl`, `psql`, `docker`, D-Bus | refused, unless in `allow`: then no |
    /// | asks names of users and hosts, writes to the system's log | not captured, always possible |
    /// | uses the network, abstract sockets, signals | no: it happens at once |
    /// | leaves processes running | they are ended, with all that they started |
    /// | makes sockets | they are left out |
    /// | makes named pipes or devices, or makes files immutable | refused: kkrun cannot restore these |
    /// | changes a file that has another name (hard link) elsewhere | refused: kkrun could not restore the name |
    ///
    /// A file with several names in one directory is parted from the others when it is written. The state directory looks
    /// empty to the command. What it writes is below the state directory until it is applied; in memory, if that is on an
    /// overlay. In a rehearsal, no new entry of `/` itself can be made.
    ///
    /// Options about how it runs: `cwd`, `env` (values may be secrets), `user` (with HOME, groups and XDG_RUNTIME_DIR),
    /// `stdin` (a string or a secret), `timeout` (seconds, default 3600), `retries` (default 0; refused
    /// beside `capture`: a captured command that fails changes nothing), `retry_on` (a regular expression: a failed command is only retried when it matches the last 40 lines of output, such as
    /// `"timed out|ECONNRESET"`), `backoff` (seconds before the first retry, default 2, doubled each time), `ok_codes` (accepted exit codes besides 0), `label` (its name in
    /// messages), `interactive: true` (it gets the terminal).
    ///
    /// ```rhai
    /// cmd::run(["touch", "/srv/made"], #{ creates: "/srv/made" });
    /// assert(file::exists("/srv/made"));
    /// let said = cmd::run(["echo", "hello"], #{ always: "to greet" });
    /// assert(said.ok && said.stdout == "hello\n");
    /// ```
    ///
    /// ```rhai
    /// let install = ["sh", "-c", "mkdir -p /srv/app; echo 1.0 > /srv/app/version; echo '/srv/app' >> /srv/list"];
    /// cmd::run(install, #{ capture: #{ paths: ["/srv"], ignore: [".cache"], preview: true } });
    /// assert(file::read("/srv/app/version") == "1.0\n");
    /// ```
    ///
    /// ```rhai
    /// let prepare = ["sh", "-c", "mkdir -p /srv/shop; echo on > /srv/shop/mode; echo shop >> /srv/shops"];
    /// cmd::run(prepare, #{ touches: ["/srv/shop", "/srv/shops"], unless: ["test", "-e", "/srv/shop/mode"] });
    /// assert(file::read("/srv/shops") == "shop\n");
    /// ```
    ///
    /// ```rhai
    /// let pair = || cmd::run(["sh", "-c", "mkdir -p /srv/pair; touch /srv/pair/a /srv/pair/b"],
    ///     #{ creates: "/srv/pair", whole: true });
    /// pair.call();
    /// file::remove("/srv/pair/b");
    /// pair.call();
    /// assert(file::exists("/srv/pair/b"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn run(context: NativeCallContext, argv: rhai::Array, options: Map) -> Raised<Output> {
        act(&context, |host| {
            let options = RunOptions::of(options)?;
            let argv = words(host, argv)?;
            let label = options.label.clone().unwrap_or_else(|| shell_words::join(&argv));
            Run { context: &context, host, argv, label, options, is_unsure: false.into() }.execute()
        })
    }

    /// What a command prints on standard output, trimmed. The command must not change anything: it runs in a dry run, too.
    /// An exit code other than 0 is an error.
    /// Options: `cwd`, `env`, `user`, `stdin`, `timeout` (seconds, default 60), `stderr: true`
    /// (append standard error).
    ///
    /// ```rhai
    /// assert(cmd::read(["echo", "hello"]) == "hello");
    /// ```
    ///
    /// ```rhai
    /// assert(cmd::read(["pwd"], #{ cwd: "/etc" }) == "/etc");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn read(context: NativeCallContext, argv: rhai::Array, options: Map) -> Raised<String> {
        read_output(&context, argv, options)
    }

    /// Whether a command exits with 0. It must not change anything: it runs in a dry run, too. A missing program is an error.
    /// Options: `cwd`, `env`, `user`, `stdin`, `timeout` (seconds, default 60).
    ///
    /// ```rhai
    /// assert(cmd::test(["true"]) && !cmd::test(["false"]));
    /// ```
    ///
    /// ```rhai
    /// assert(cmd::test(["test", "-e", "passwd"], #{ cwd: "/etc" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn test(context: NativeCallContext, argv: rhai::Array, options: Map) -> Raised<bool> {
        succeeds(&context, argv, options)
    }
}
