//! Runs a command captured: what it changes is a change of kkrun's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::Run;
use crate::change::{Attempts, CapturedChange, Change, CommandSource, Payload, World};
use crate::failure::{Failure, FailureKind, sentence};
use crate::machine::capture::Capture;
use crate::machine::process::{Ended, Remaining};
use crate::primitives::file::absolute;
use crate::target::Target;

/// How long what a command left running has to end by itself once it is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// A command that wrote so much says how much it is, in bytes.
const LARGE: u64 = 256 * 1024 * 1024;

/// How many paths or sockets are named.
const MOST_NAMED: usize = 10;

/// How a command is captured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CaptureOptions {
    paths: Vec<String>,
    ignore: Vec<String>,
    allow: Vec<String>,
    preview: bool,
}

/// The same, with paths that were looked at.
struct Limits {
    /// What may be changed; everything if none are named.
    paths: Option<Vec<PathBuf>>,
    /// What is thrown away: paths with all below them, and names wherever they occur.
    ignored_paths: Vec<PathBuf>,
    ignored_names: Vec<String>,
}

impl Limits {
    fn of(options: &CaptureOptions) -> Result<Self> {
        let (paths, names): (Vec<&String>, Vec<&String>) =
            options.ignore.iter().partition(|ignored| ignored.contains('/'));
        let only = options.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            paths: (!only.is_empty()).then_some(only),
            ignored_paths: with_destinations(paths.into_iter().map(|path| absolute(path)))?,
            ignored_names: names.into_iter().cloned().collect(),
        })
    }

    /// Whether a change at this path is thrown away.
    fn ignores(&self, path: &Path) -> bool {
        let has_name = |name: &String| path.components().any(|part| part.as_os_str() == name.as_str());
        self.ignored_paths.iter().any(|ignored| path.starts_with(ignored))
            || self.ignored_names.iter().any(has_name)
    }

    /// Refuses a change of what is not named.
    fn refuse_others(&self, change: &CapturedChange, label: &str) -> Result<()> {
        let Some(allowed) = &self.paths else { return Ok(()) };
        let is_other = |path: &PathBuf| !allowed.iter().any(|allowed| path.starts_with(allowed));
        let others: Vec<PathBuf> = change.paths().into_iter().filter(is_other).collect();
        let Some(first) = others.first() else { return Ok(()) };
        let count = others.len();
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let mut failure = Failure::new(format!(
            "cannot apply what `{label}` changed: `{}`{more} is not in `paths`",
            first.display()
        ))
        .kind(FailureKind::Refused)
        .hint("nothing was changed: add what may change to `paths`, or what need not stay to `ignore`");
        failure.output = others.iter().take(MOST_NAMED).map(|path| path.display().to_string()).collect();
        if count > MOST_NAMED {
            failure.output.push(format!("… and {} more", count - MOST_NAMED));
        }
        bail!(failure)
    }
}

/// These paths, and those behind symlinks: what is written through a link is changed there.
fn with_destinations(paths: impl Iterator<Item = Result<PathBuf>>) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        let path = path?;
        all.extend(path.canonicalize().ok().filter(|destination| *destination != path));
        all.push(path);
    }
    Ok(all)
}

impl Run<'_> {
    /// Runs it captured; what it changed is applied, or shown in a dry run. Gives how it ended; none if a dry run cannot
    /// know.
    pub(super) fn execute_captured(&self, options: &CaptureOptions) -> Result<Option<Ended>> {
        let limits = Limits::of(options)?;
        let target = Target::Captured(self.label.clone());
        let dry_run = self.host.dry_run();
        if dry_run && !options.preview {
            self.note_captured(target);
            return Ok(None);
        }
        let source = self.source()?;
        if !dry_run {
            self.host.session().begin_acting()?;
            self.host.session().check_interruption()?;
            self.refuse_half_made(&target)?;
        }
        let (change, ended, mut capture) = match self.run_captured(options, &limits, source) {
            // What earlier changes would bring may be missing.
            Err(error) if dry_run && self.host.would_have_changed() => {
                let reason = sentence(&error);
                self.host.reporter().note(format!("cannot preview `{}` yet: {reason}", self.label));
                self.note_captured(target);
                return Ok(None);
            }
            ran => ran?,
        };
        if dry_run && self.host.would_have_changed() {
            let label = &self.label;
            self.host
                .reporter()
                .note(format!("`{label}` was previewed without what the changes before it would bring"));
        }
        if !dry_run {
            self.refuse_without_product(change.as_ref())?;
        }
        let applied = change.map_or(Ok(()), |change| {
            capture.unmount();
            self.apply(change, &limits)
        });
        self.host.seen().world.remove(capture);
        applied.map(|()| Some(ended))
    }

    /// Refuses to apply what a command changed that did not make what it is there for.
    fn refuse_without_product(&self, change: Option<&CapturedChange>) -> Result<()> {
        let Some(product) = self.options.creates.as_deref().map(absolute).transpose()? else { return Ok(()) };
        let seen = self.host.seen();
        let left = change.map(|change| change.left(&seen.world)).transpose()?;
        let is_there = match left.and_then(|left| left.at(&product)) {
            Some(state) => !state.is_absent(),
            None => product.symlink_metadata().is_ok(),
        };
        if is_there {
            return Ok(());
        }
        bail!(
            Failure::new(format!("`{}` did not make `{}`", self.label, product.display()))
                .kind(FailureKind::Command)
                .hint("nothing was changed")
        )
    }

    fn apply(&self, change: CapturedChange, limits: &Limits) -> Result<()> {
        limits.refuse_others(&change, &self.label)?;
        let size = change.size();
        if size.bytes >= LARGE {
            let (label, state) =
                (&self.label, self.host.seen().world.state_directory().display().to_string());
            self.host
                .reporter()
                .note(format!("`{label}` wrote {size}: `{state}` holds them until they are applied"));
        }
        if let Some(change) = self.without_what_is_kept(change)? {
            self.host.session().perform(&Change::Captured(change), Payload::Nothing)?;
        }
        Ok(())
    }

    /// Whether the step ran it before, and all that it changed is as it left it: a step that did not complete goes on behind
    /// it, and one that is complete still holds. A guard of the script is asked instead. In a dry run of a complete step it is
    /// said what is not as it left it.
    pub(super) fn is_made_already(&self) -> Result<bool> {
        let target = self.target(None);
        let has_probe = self.options.creates.is_some() || self.options.unless.is_some();
        // It may depend on what changed before it in this run.
        if has_probe
            || self.host.seen().step_would_change()
            || self.host.seen().history().live().at(&target).is_empty()
        {
            return Ok(false);
        }
        let source = self.source()?;
        let Some(ran) = self.host.seen().ran_before(&target, &source)? else { return Ok(false) };
        self.host.seen().pass(&ran);
        match ran.modified {
            None => Ok(true),
            Some((path, happened)) if self.host.dry_run() => {
                let summary = format!("run {}", self.label);
                self.host.session().would_run_again(target, summary, &path, &happened);
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    pub(super) fn note_captured(&self, target: Target) {
        let summary = format!("run {}", self.label);
        let mut session = self.host.session();
        if self.options.always.is_some() || !self.has_guard() {
            session.note_repeated(target, summary);
        } else {
            session.note_change(target, summary);
        }
    }

    /// A change that is neither made nor withdrawn is no ground to run its command on.
    pub(super) fn refuse_half_made(&self, target: &Target) -> Result<()> {
        if self.host.seen().doubtful(target).is_none() {
            return Ok(());
        }
        bail!(
            Failure::new(format!(
                "cannot run `{}`: what a killed run applied of its changes could not be undone",
                self.label
            ))
            .kind(FailureKind::InDoubt)
            .hint("`kkrun rollback` undoes what can be undone and shows the difference")
        )
    }

    fn run_captured(
        &self,
        options: &CaptureOptions,
        limits: &Limits,
        source: CommandSource,
    ) -> Result<(Option<CapturedChange>, Ended, Capture)> {
        let session = self.host.seen();
        let world = &session.world;
        let capture = Capture::prepare(world.state_directory(), &options.allow)?;
        let mut attempts = self.attempts()?;
        attempts.command.mounts = capture.mounts();
        // It has another root than the machine's first process, and systemd's programs would do nothing and succeed.
        // Source: systemd's docs/ENVIRONMENT.md.
        attempts.command.env.push(("SYSTEMD_IGNORE_CHROOT".into(), "1".to_owned().into()));
        let remaining = Remaining::from_now(&world.processes, attempts.command.mounts.as_deref())?;
        let ended = run(&mut attempts, world, capture.closed_sockets());
        drop(attempts);
        let ending = |name: &str, pid: u32| {
            world.reporter.note(format!("ending `{name}` (process {pid}): what it changes is not captured"));
        };
        let gone = remaining.end(GRACE, &mut |process| ending(&process.name, process.pid));
        let (ended, gone) = (ended?, gone?);
        // What a service started for it, and holds its output.
        for survivor in ended.left_behind.iter().filter(|survivor| !gone.contains(&survivor.pid)) {
            ending(&survivor.name, survivor.pid);
            survivor.end(GRACE)?;
        }
        capture.refuse_own_mounts(&self.label)?;
        let differences = capture.differences(&|path| limits.ignores(path))?;
        let change = CapturedChange::of(&self.label, source, differences)?;
        Ok((change, ended, capture))
    }

    /// What is left once the operator has decided about the paths that were modified while the command ran.
    fn without_what_is_kept(&self, change: CapturedChange) -> Result<Option<CapturedChange>> {
        let mut kept = Vec::new();
        for path in change.modified_meanwhile() {
            let difference = format!("{}: modified while `{}` ran", path.display(), self.label);
            let summary = format!("run {}", self.label);
            if self.host.session().keeps_modified_meanwhile(&Target::file(&path), &summary, &difference)? {
                kept.push(path);
            }
        }
        if kept.is_empty() { Ok(Some(change)) } else { change.without(&kept) }
    }
}

/// What programs write that cannot reach a service, in lower case.
const UNREACHED: [&str; 9] = [
    "connection refused",
    "failed to connect",
    "cannot connect",
    "can't connect",
    "could not connect",
    "unable to connect",
    "dbus",
    "d-bus",
    "socket",
];

/// Whether a failed command wrote something about one of these services, or that it could not reach one.
fn suggests_service(output: &[String], closed: &[PathBuf]) -> bool {
    let suggests = |line: &String| {
        let lower = line.to_lowercase();
        UNREACHED.iter().any(|words| lower.contains(words))
            || closed.iter().any(|socket| line.contains(&*socket.to_string_lossy()))
    };
    !closed.is_empty() && output.iter().any(suggests)
}

/// Runs the command. One that failed may have missed a service.
fn run(attempts: &mut Attempts, world: &World, closed: &[PathBuf]) -> Result<Ended> {
    attempts.run(world).cloned().map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) if failure.kind != FailureKind::Command => failure.into(),
        Ok(failure) if !suggests_service(&failure.output, closed) => failure.hint("nothing was changed").into(),
        Ok(failure) => {
            let mut services: Vec<String> =
                closed.iter().take(MOST_NAMED).map(|at| at.display().to_string()).collect();
            if closed.len() > MOST_NAMED {
                services.push("…".to_owned());
            }
            let hint = format!(
                "a captured command cannot reach the services at {}: name those that it needs in `allow`, such as `allow: [\"systemd\"]`",
                services.join(", ")
            );
            failure.hint("nothing was changed").hint(hint).into()
        }
        Err(error) => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_suggested_by_what_says_that_it_was_not_reached() {
        let closed = [PathBuf::from("/run/postgresql/.s.PGSQL.5432")];
        for (line, suggests) in [
            ("groupadd: group `shop` does not exist", false),
            ("ls: cannot access '/run/shop': No such file or directory", false),
            ("Failed to connect to bus: Connection refused", true),
            ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", true),
            ("could not open /run/postgresql/.s.PGSQL.5432: No such file or directory", true),
            ("Failed to reach D-Bus", true),
        ] {
            assert_eq!(suggests_service(&[String::new(), line.to_owned()], &closed), suggests, "{line}");
            assert!(!suggests_service(&[line.to_owned()], &[]));
        }
    }
}
