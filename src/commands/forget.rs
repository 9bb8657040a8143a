//! `kkrun forget`: removes what is kept in clear of a plan, or of all: stored secrets, backups and logs; with `--older-than`
//! logs of that age, and backups that no rollback needs.
//!
//! The record comes first: a change that cannot be undone without what is removed says so before anything is gone. What is
//! removed follows from the journal and from what is there, so that the same command completes one that was killed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::chosen_plan;
use crate::cli::Options;
use crate::config;
use crate::event::{Answer, Event, Question, Reporter};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, ChangeState, Class, Entry, History};
use crate::machine::secret_store::SecretStore;
use crate::pasteable::pasteable;
use crate::plan::{is_log_of, journal_session};

/// Says what is removed and what that costs, asks, and removes it. Without a plan it is everything.
pub(super) fn execute(
    options: &Options,
    plan: Option<&str>,
    all: bool,
    older_than: Option<u16>,
) -> Result<ExitCode> {
    let meant = match (plan, all, older_than) {
        (Some(plan), _, _) => Meant::Plan(plan),
        (None, true, _) => Meant::All,
        (None, false, Some(days)) => {
            let age = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
            Meant::Before(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
        }
        (None, false, None) => bail!(
            Failure::new("expected the name of a plan to forget, `--all`, or `--older-than DAYS`")
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Usage)
        ),
    };
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        let launch = config::launch(options, "kkrun forget")?;
        let history = launch.history()?;
        if let Some(plan) = plan {
            check_plan(&history, plan)?;
        }
        refuse_unfinished(&history)?;
        if options.dry_run {
            let forgetting = Forgetting::of(&history, &launch.state, meant)?;
            forgetting.report(&reporter);
            let exit = if forgetting.is_nothing() { ExitCode::DONE } else { ExitCode::DIFFERENT };
            return Ok(ended(&reporter, 0, exit));
        }
        let writer = plan.or_else(|| history.runs.keys().next().map(String::as_str)).unwrap_or_default();
        let mut session = journal_session(&launch, writer, "forget", &reporter)?;
        session.begin_acting()?;
        refuse_doubts(session.history())?;
        let forgetting = Forgetting::of(session.history(), &launch.state, meant)?;
        if forgetting.is_nothing() {
            reporter.note("nothing is kept that could be forgotten");
            return Ok(ended(&reporter, 0, ExitCode::DONE));
        }
        if !is_agreed(&reporter, options, &forgetting)? {
            reporter.note("nothing was removed");
            return Ok(ended(&reporter, 0, ExitCode::DONE));
        }
        let changes: Vec<u64> = forgetting.changes.iter().map(|(id, _)| *id).collect();
        if !changes.is_empty() {
            session.record(Entry::Forgotten { changes })?;
        }
        let removed = forgetting.remove(&launch.state)?;
        if session.has_recorded() {
            session.record_end(Entry::RunEnded { exit: ExitCode::DONE.0, bare: None })?;
        }
        reporter.note(format!("forgotten: {}", forgetting.sentence()));
        Ok(ended(&reporter, removed, ExitCode::DONE))
    })
}

fn ended(reporter: &Reporter, changed: usize, exit: ExitCode) -> ExitCode {
    reporter.emit(&Event::RunEnded {
        changed,
        not_undone: 0,
        failed: Vec::new(),
        pending: Vec::new(),
        triggers: Vec::new(),
        exit: exit.0,
    });
    exit
}

fn check_plan(history: &History, plan: &str) -> Result<()> {
    if history.runs.contains_key(plan) {
        return Ok(());
    }
    Err(chosen_plan::unknown(history, plan).into())
}

fn refuse_unfinished(history: &History) -> Result<()> {
    let Some(unfinished) = &history.rollback else { return Ok(()) };
    bail!(
        Failure::new("cannot forget what a rollback needs: one was interrupted and is not finished")
            .hint(format!("finish it with `{}`, then run this again", unfinished.invocation()))
    )
}

fn refuse_doubts(history: &History) -> Result<()> {
    let is_open = |change: &&ChangeRecord| match change.state {
        // Nothing that is kept could undo it: a command that failed, in a step that was accepted, say.
        ChangeState::InDoubt => !change.is_irreversible(),
        ChangeState::Undoing => true,
        _ => false,
    };
    let Some(open) = history.changes.iter().find(is_open) else { return Ok(()) };
    bail!(
        Failure::new(format!(
            "cannot forget what may still be needed: it is not known whether `{}` was done or undone",
            open.intent.summary
        ))
        .hint(format!("run the plan `{}` to its end or roll it back first", open.plan))
    )
}

fn is_agreed(reporter: &Reporter, options: &Options, forgetting: &Forgetting) -> Result<bool> {
    if options.yes {
        forgetting.report(reporter);
        return Ok(true);
    }
    let lines = forgetting.lines();
    let text = format!("{}\nForget it?", lines.join("\n"));
    if let Some(answer) = reporter.ask(&Question::Confirm { text, default: false, harmless: false })? {
        return Ok(matches!(answer, Answer::Yes));
    }
    forgetting.report(reporter);
    let failure = Failure::new("cannot forget without an answer: no one can be asked")
        .exit(ExitCode::UNANSWERED)
        .kind(FailureKind::Unanswered)
        .hint("`--yes` agrees to it; `--dry-run` shows what would be removed");
    bail!(failure)
}

/// Of what something is forgotten.
#[derive(Clone, Copy)]
enum Meant<'plan> {
    /// Of this plan.
    Plan(&'plan str),
    /// Of all plans, and what is of none.
    All,
    /// What was written before, and no rollback needs.
    Before(SystemTime),
}

impl Meant<'_> {
    /// Whether all that is kept of a change may go.
    fn is_meant(self, change: &ChangeRecord) -> bool {
        match self {
            Self::Plan(plan) => change.plan == plan,
            Self::All => true,
            Self::Before(_) => !change.is_live(),
        }
    }

    /// Whether a file may go by its age.
    fn is_old(self, path: &Path) -> bool {
        let Self::Before(time) = self else { return true };
        path.symlink_metadata().and_then(|found| found.modified()).is_ok_and(|written| written < time)
    }

    fn plan(&self) -> Option<&str> {
        match self {
            Self::Plan(plan) => Some(plan),
            Self::All | Self::Before(_) => None,
        }
    }
}

/// What is removed, and what that costs.
struct Forgetting {
    /// The changes that cannot be undone any more, and what they did.
    changes: Vec<(u64, String)>,
    backups: BTreeSet<String>,
    /// Of those, in bytes.
    size: u64,
    /// The names of stored secrets.
    secrets: BTreeSet<String>,
    logs: Vec<PathBuf>,
    /// What stays although it may be the plan's.
    stays: Vec<String>,
}

impl Forgetting {
    fn of(history: &History, state: &Path, meant: Meant<'_>) -> Result<Self> {
        let (plan, is_meant) = (meant.plan(), |change: &ChangeRecord| meant.is_meant(change));
        let saved = Saved::in_directory(&state.join("backups"))?;
        // Lists of what is in a tree hold names and hashes, no contents, and are compared with in every later run.
        let mut needed = BTreeSet::new();
        for recorded in history.ledger.values() {
            saved.named_in(&recorded.state.value(), &["sha256"], &mut needed);
        }
        let mut others = BTreeSet::new();
        for change in history.changes.iter().filter(|change| !is_meant(change) && change.is_live()) {
            saved.all_of(change, &mut others)?;
        }
        let mut named = BTreeSet::new();
        for change in history.changes.iter().filter(|change| is_meant(change)) {
            saved.all_of(change, &mut named)?;
            if let Some(recorded) = history.ledger.get(&change.intent.target) {
                saved.closure(&recorded.state.value(), &mut named)?;
            }
        }
        // What conflicts overwrote is named by no change, and may be the operator's.
        let candidates = if matches!(meant, Meant::All) { &saved.names } else { &named };
        let is_free = |name: &&String| !needed.contains(*name) && !others.contains(*name);
        let is_old = |name: &&String| meant.is_old(&saved.path(name));
        let backups: BTreeSet<String> = candidates.iter().filter(is_free).filter(is_old).cloned().collect();
        let store = SecretStore::below(state);
        let (secrets, shared) = match meant {
            Meant::Before(_) => (BTreeSet::new(), BTreeSet::new()),
            Meant::Plan(_) | Meant::All => secrets_of(&store, plan)?,
        };
        let mut stays = Vec::new();
        if !shared.is_empty() {
            stays.push(format!("stored secrets of other plans as well: {}", joined(&shared)));
        }
        if plan.is_some() {
            let mut known = named;
            for change in &history.changes {
                saved.all_of(change, &mut known)?;
            }
            let mut copies = 0;
            for name in saved.names.difference(&known).filter(|name| !needed.contains(*name)) {
                copies += usize::from(!saved.is_list_of_tree(name)?);
            }
            if copies > 0 {
                stays.push(format!(
                    "{} of what conflicts overwrote, of which no plan is recorded: `kkrun forget --all` removes them",
                    counted(copies, "copy", "copies")
                ));
            }
        }
        if state.join("aside").exists() && !matches!(meant, Meant::Before(_)) {
            stays.push(format!("`{}`, which may hold files of your own", state.join("aside").display()));
        }
        let is_lost = |change: &&ChangeRecord| {
            let intent = &change.intent;
            let mut needs = BTreeSet::new();
            saved.named_in(&intent.before.value(), &[], &mut needs);
            saved.named_in(&intent.inverse.value(), &["edited"], &mut needs);
            let mut asks = BTreeSet::new();
            secrets_in(&intent.inverse.value(), &mut asks);
            !intent.keeps_content && !needs.is_disjoint(&backups) || !asks.is_disjoint(&secrets)
        };
        let can_be_undone = |change: &&ChangeRecord| {
            is_meant(change) && change.is_live() && change.intent.class != Class::Irreversible
        };
        let changes = history.changes.iter().filter(can_be_undone).filter(is_lost);
        let changes = changes.map(|change| (change.id, change.intent.summary.clone())).collect();
        let logs = logs_of(state, plan)?.into_iter().filter(|log| meant.is_old(log)).collect();
        let size =
            backups.iter().filter_map(|name| saved.path(name).metadata().ok()).map(|found| found.len()).sum();
        Ok(Self { changes, backups, size, secrets, logs, stays })
    }

    fn is_nothing(&self) -> bool {
        self.changes.is_empty() && self.backups.is_empty() && self.secrets.is_empty() && self.logs.is_empty()
    }

    fn sentence(&self) -> String {
        let named =
            if self.secrets.is_empty() { String::new() } else { format!(" ({})", joined(&self.secrets)) };
        format!(
            "{} ({} KiB), {}{named}, {}",
            counted(self.backups.len(), "backup", "backups"),
            self.size.div_ceil(1024),
            counted(self.secrets.len(), "stored secret", "stored secrets"),
            counted(self.logs.len(), "log", "logs")
        )
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("what is removed for good: {}", self.sentence())];
        match self.changes.as_slice() {
            [] => lines.push("every change that can be undone now can be undone afterwards".to_owned()),
            changes => {
                lines.push(format!(
                    "{} cannot be undone afterwards:",
                    counted(changes.len(), "change", "changes")
                ));
                lines.extend(changes.iter().map(|(id, summary)| format!("  #{id} {summary}")));
            }
        }
        if !self.secrets.is_empty() {
            lines
                .push(format!("the next run asks for or generates new values of: {}", joined(&self.secrets)));
        }
        lines.extend(self.stays.iter().map(|what| pasteable(&format!("stays: {what}"))));
        lines
    }

    fn report(&self, reporter: &Reporter) {
        for line in self.lines() {
            reporter.note(line);
        }
    }

    /// Removes all of it, and returns how much that was.
    fn remove(&self, state: &Path) -> Result<usize> {
        let store = SecretStore::below(state);
        self.secrets.iter().try_for_each(|name| store.remove(name))?;
        let backups = self.backups.iter().map(|name| state.join("backups").join(name));
        for path in backups.chain(self.logs.iter().cloned()) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove `{}`", path.display()));
                }
                _ => {}
            }
        }
        for name in ["backups", "logs"] {
            let path = state.join(name);
            match File::open(&path).and_then(|directory| directory.sync_all()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot sync `{}`", path.display()));
                }
                _ => {}
            }
        }
        Ok(self.secrets.len() + self.backups.len() + self.logs.len())
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The stored secrets of a plan, or all; and those of it that another plan asked for as well.
fn secrets_of(store: &SecretStore, plan: Option<&str>) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let stored: BTreeSet<String> = store.names()?.into_iter().collect();
    let Some(plan) = plan else { return Ok((stored, BTreeSet::new())) };
    let remembered = store.remembered()?;
    let asked = |by_plan: bool| -> BTreeSet<String> {
        remembered.iter().filter(|one| (one.plan == plan) == by_plan).map(|one| one.name.clone()).collect()
    };
    let (own, others) = (asked(true), asked(false));
    Ok(stored.into_iter().filter(|name| own.contains(name)).partition(|name| !others.contains(name)))
}

/// The names of secrets that undoing a change asks for: see the kinds that run commands and statements.
fn secrets_in(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("secret", Value::String(name)) => drop(names.insert(name.clone())),
                    ("secrets", Value::Object(secrets)) => {
                        names.extend(secrets.values().filter_map(Value::as_str).map(str::to_owned));
                    }
                    (_, value) => secrets_in(value, names),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| secrets_in(value, names)),
        _ => {}
    }
}

fn logs_of(state: &Path, plan: Option<&str>) -> Result<Vec<PathBuf>> {
    let is_meant = |name: &str| plan.is_none_or(|plan| is_log_of(plan, name));
    let names = names_in(&state.join("logs"))?;
    Ok(names.into_iter().filter(|name| is_meant(name)).map(|name| state.join("logs").join(name)).collect())
}

fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    let shown = || format!("cannot read `{}`", directory.display());
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            let names = entries.map(|entry| Ok(entry.with_context(shown)?.file_name().into_string().ok()));
            Ok(names.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(shown),
    }
}

/// The backups that there are.
struct Saved {
    directory: PathBuf,
    names: BTreeSet<String>,
}

impl Saved {
    fn in_directory(directory: &Path) -> Result<Self> {
        Ok(Self { directory: directory.to_owned(), names: names_in(directory)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Adds the backups that a record names, but under these keys.
    fn named_in(&self, value: &Value, but: &[&str], names: &mut BTreeSet<String>) {
        match value {
            Value::String(text) if self.names.contains(text) => drop(names.insert(text.clone())),
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(key, _)| !but.contains(&key.as_str()));
                fields.for_each(|(_, value)| self.named_in(value, but, names));
            }
            Value::Array(values) => values.iter().for_each(|value| self.named_in(value, but, names)),
            _ => {}
        }
    }

    fn all_of(&self, change: &ChangeRecord, names: &mut BTreeSet<String>) -> Result<()> {
        let intent = &change.intent;
        [&intent.before, &intent.after, &intent.inverse]
            .into_iter()
            .try_for_each(|data| self.closure(&data.value(), names))
    }

    /// Adds the backups that a record names, and those that are named in these: a list of a tree names its files.
    fn closure(&self, value: &Value, names: &mut BTreeSet<String>) -> Result<()> {
        let mut direct = BTreeSet::new();
        self.named_in(value, &[], &mut direct);
        for name in direct {
            if !names.contains(&name)
                && let Some(list) = self.list(&name)?
            {
                names.insert(name);
                self.closure(&list, names)?;
            } else {
                names.insert(name);
            }
        }
        Ok(())
    }

    /// Whether it is what kkrun itself wrote of a tree or product: names, and no content of anyone's.
    fn is_list_of_tree(&self, name: &str) -> Result<bool> {
        Ok(self.list(name)?.is_some_and(|list| list.get(".").is_some()))
    }

    fn list(&self, name: &str) -> Result<Option<Value>> {
        let path = self.path(name);
        let read = || -> std::io::Result<Option<Value>> {
            let mut file = File::open(&path)?;
            let mut first = [0];
            if file.read(&mut first)? == 0 || !matches!(first[0], b'{' | b'[') {
                return Ok(None);
            }
            Ok(serde_json::from_slice(&std::fs::read(&path)?).ok())
        };
        read().with_context(|| format!("cannot read the backup `{}`", path.display()))
    }
}
