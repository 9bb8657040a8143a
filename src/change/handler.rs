//! Runs handlers: tests, commands, restarts; and works out what of them is left to do once what triggered them is
//! undone.

use std::path::Path;

use anyhow::Result;

use super::World;
use super::unit::{self, DesiredUnit, Unit};
use crate::failure::{Failure, FailureKind};
use crate::journal::Handler;
use crate::machine::account::Account;
use crate::machine::process;

/// A command of a handler.
pub struct Command {
    argv: Vec<String>,
    job: Option<Job>,
}

/// What a command does with a service manager.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    verb: Verb,
    /// Enablement is changed with activity.
    now: bool,
    /// As they are written in the command.
    names: Vec<String>,
    /// The user whose manager is asked; none for the system's.
    user: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    /// Starts what does not run.
    Restart,
    /// Only of what runs.
    Reload,
    Enablement(DesiredUnit),
    /// Of the manager itself.
    ReadFiles,
}

impl Verb {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "start" => Self::Start,
            "stop" => Self::Stop,
            "restart" | "reload-or-restart" => Self::Restart,
            "reload"
            | "try-restart"
            | "condrestart"
            | "try-reload-or-restart"
            | "reload-or-try-restart"
            | "force-reload" => Self::Reload,
            "enable" | "reenable" => Self::Enablement(DesiredUnit::Enabled),
            "disable" => Self::Enablement(DesiredUnit::Disabled),
            "mask" => Self::Enablement(DesiredUnit::Masked),
            "unmask" => Self::Enablement(DesiredUnit::Unmasked),
            "daemon-reload" | "daemon-reexec" => Self::ReadFiles,
            _ => return None,
        })
    }
}

impl Job {
    /// The job that this command gives to systemd; `None` if it is unpredictable.
    fn of(argv: &[String], user: Option<&str>) -> Option<Self> {
        let (program, words) = argv.split_first()?;
        if Path::new(program).file_name()? != "systemctl" {
            return None;
        }
        let (mut verb, mut now, mut names, mut of_user) = (None, false, Vec::new(), false);
        for word in words {
            match word.as_str() {
                "--user" => of_user = true,
                "--now" => now = true,
                "--" | "--system" | "--quiet" | "-q" | "--no-pager" | "--no-ask-password" | "--force"
                | "-f" => {}
                option if option.starts_with('-') => return None,
                word if verb.is_none() => verb = Some(Verb::of(word)?),
                pattern if pattern.contains(['*', '?', '[', '/']) => return None,
                name => names.push(name.to_owned()),
            }
        }
        // A service manager of root's own session is none that kkrun uses.
        if of_user && user.is_none() {
            return None;
        }
        let user = user.filter(|_| of_user).map(str::to_owned);
        Some(Self { verb: verb?, now, names, user })
    }

    fn units(&self) -> impl Iterator<Item = Unit> {
        self.names.iter().map(|name| Unit::new(name, self.user.as_deref()))
    }

    fn desired(&self) -> Vec<DesiredUnit> {
        match self.verb {
            Verb::Start | Verb::Restart => vec![DesiredUnit::Started],
            Verb::Stop => vec![DesiredUnit::Stopped],
            Verb::Enablement(desired) if !self.now => vec![desired],
            Verb::Enablement(DesiredUnit::Enabled) => vec![DesiredUnit::Enabled, DesiredUnit::Started],
            Verb::Enablement(desired) => vec![desired, DesiredUnit::Stopped],
            Verb::Reload | Verb::ReadFiles => Vec::new(),
        }
    }

    /// Whether it is for what runs, so that there is nothing to do where no manager does.
    fn is_for_what_runs(&self) -> bool {
        matches!(self.verb, Verb::Restart | Verb::Reload | Verb::ReadFiles)
    }
}

impl Command {
    /// The states to which it brings units, if their manager runs.
    pub fn desired_units(&self, world: &World) -> Result<Vec<(Unit, DesiredUnit)>> {
        let Some(job) = &self.job else { return Ok(Vec::new()) };
        if job.desired().is_empty() || !unit::manager_runs(world, job.user.as_deref())? {
            return Ok(Vec::new());
        }
        let of_unit = |unit: Unit| job.desired().into_iter().map(move |desired| (unit.clone(), desired));
        Ok(job.units().flat_map(of_unit).collect())
    }

    /// Runs it. Where the manager of a user does not run, there is nothing to reload or restart.
    pub fn run(&self, world: &World, handler: &Handler) -> Result<()> {
        let user = self.job.as_ref().filter(|job| job.is_for_what_runs()).and_then(|job| job.user.as_deref());
        let is_idle = || -> Result<bool> { Ok(user.is_some() && !unit::manager_runs(world, user)?) };
        if is_idle()? {
            return Ok(());
        }
        match run_words(world, &self.argv, handler.user.as_deref()) {
            // It may have come to its end meanwhile.
            Err(error) if !is_idle()? => Err(error),
            _ => Ok(()),
        }
    }

    /// The same without the units that do not run; nothing of it may be left. `last` gives the last verb for a unit.
    fn after_undo(mut self, world: &World, last: impl Fn(&Unit) -> Option<Verb>) -> Result<Option<Self>> {
        let Some(job) = &self.job else { return Ok(Some(self)) };
        if !unit::manager_runs(world, job.user.as_deref())? {
            return Ok(None);
        }
        match job.verb {
            Verb::ReadFiles => return Ok(Some(self)),
            // The change of enablement is recorded by itself, and undone with that record.
            Verb::Enablement(_) => return Ok(None),
            _ => {}
        }
        let mut left = job.names.clone();
        for (name, unit) in job.names.iter().zip(job.units()) {
            if unit.facts(world)?.is_none() {
                world
                    .reporter
                    .note(format!("unit {} not found: nothing is left to run for it", unit.shown()));
            }
            let stays = unit.is_running(world)? && last(&unit) != Some(Verb::Stop);
            if !stays {
                left.retain(|known| known != name);
            }
        }
        let is_gone = |word: &String| job.names.contains(word) && !left.contains(word);
        let argv = self.argv.iter().filter(|word| !is_gone(word)).cloned().collect();
        self.argv = argv;
        Ok((!left.is_empty()).then_some(self))
    }
}

/// What a handler has to do on the state from before.
pub struct Due {
    commands: Vec<Command>,
    restart: Vec<String>,
    read_files: bool,
}

/// The commands of a handler.
pub fn commands(handler: &Handler) -> impl Iterator<Item = Command> {
    handler.run.iter().map(|argv| Command { argv: argv.clone(), job: Job::of(argv, handler.user.as_deref()) })
}

fn last_verb(handler: &Handler, unit: &Unit) -> Option<Verb> {
    let jobs = commands(handler).filter_map(|command| command.job);
    jobs.filter(|job| job.units().any(|known| known == *unit)).last().map(|job| job.verb)
}

/// The units that a handler restarts or reloads and that run now: it may bring them down.
pub fn at_stake(world: &World, handler: &Handler) -> Result<Vec<Unit>> {
    let user = handler.user.as_deref();
    let jobs = commands(handler).filter_map(|command| command.job).filter(Job::is_for_what_runs);
    let mut units: Vec<Unit> = jobs.flat_map(|job| job.units().collect::<Vec<_>>()).collect();
    units.extend(handler.restart.iter().map(|name| Unit::new(name, user)));
    let mut running = Vec::new();
    for unit in units {
        // What it stops is recorded by itself.
        if !running.contains(&unit)
            && last_verb(handler, &unit) != Some(Verb::Stop)
            && unit::manager_runs(world, unit.user.as_deref())?
            && unit.is_running(world)?
        {
            running.push(unit);
        }
    }
    Ok(running)
}

/// What a handler has to do once what triggered it is undone: units that do not run are not started by it, for whether
/// they run is a record of its own.
pub fn due_after_undo(world: &World, handler: &Handler) -> Result<Due> {
    let mut due = Due { commands: Vec::new(), restart: Vec::new(), read_files: false };
    let user = handler.user.as_deref();
    if let Some(user) = user
        && Account::by_name(user)?.is_none()
    {
        return Ok(due);
    }
    let last = |unit: &Unit| last_verb(handler, unit);
    for command in commands(handler) {
        due.commands.extend(command.after_undo(world, last)?);
    }
    if !handler.restart.is_empty() && unit::manager_runs(world, user)? {
        due.read_files = true;
        for name in &handler.restart {
            if unit::is_active(world, name, user)? {
                due.restart.push(name.clone());
            }
        }
    }
    Ok(due)
}

impl Due {
    /// Whether there is nothing that a test has to guard.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.restart.is_empty()
    }

    /// Runs it. A command whose program is gone is skipped with a note.
    pub fn run(&self, world: &World, handler: &Handler) -> Result<()> {
        for command in &self.commands {
            let ran = command.run(world, handler).map_err(anyhow::Error::downcast::<Failure>);
            match ran {
                Err(Ok(failure)) if failure.kind == FailureKind::Missing => world.reporter.note(format!(
                    "not run after the undo: {}, because {}",
                    shell_words::join(&command.argv),
                    failure.message
                )),
                Err(Ok(failure)) => return Err(failure.into()),
                Err(Err(error)) => return Err(error),
                Ok(()) => {}
            }
        }
        self.read_files(world, handler)?;
        // Whether a unit stays active on the state from before is not for an undo to decide.
        unit::restart_active(world, &self.restart, handler.user.as_deref()).map(drop)
    }

    /// The part that needs no test: a manager has to know its files as they are.
    pub fn read_files(&self, world: &World, handler: &Handler) -> Result<()> {
        if self.read_files { unit::reload(world, handler.user.as_deref()) } else { Ok(()) }
    }
}

/// Runs the test, if there is one.
///
/// # Errors
/// When it fails: with its last output.
pub fn test(world: &World, handler: &Handler) -> Result<()> {
    if handler.test.is_empty() {
        return Ok(());
    }
    run_words(world, &handler.test, handler.user.as_deref()).map_err(|error| {
        match error.downcast::<Failure>() {
            Ok(failure) => failure.kind(FailureKind::Test).into(),
            Err(error) => error,
        }
    })
}

/// Restarts the units of a handler that run, which have to stay active. Where the manager of its user does not run, there are none.
pub fn restart(world: &World, handler: &Handler) -> Result<()> {
    let user = handler.user.as_deref();
    if handler.restart.is_empty() || (user.is_some() && !unit::manager_runs(world, user)?) {
        return Ok(());
    }
    unit::reload(world, user)?;
    unit::prove_active(world, unit::restart_active(world, &handler.restart, user)?)
}

fn run_words(world: &World, argv: &[String], user: Option<&str>) -> Result<()> {
    let mut command = process::Command::new(argv);
    if let Some(user) = user {
        command.user = Some(Account::existing(user)?);
    }
    let label = shell_words::join(argv);
    let ended = world.run(&command, &label)?;
    unit::succeeded(&ended, &label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str, user: Option<&str>) -> Option<Job> {
        Job::of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), user)
    }

    #[test]
    fn commands_of_systemctl_are_understood() {
        let restart = job("/usr/bin/systemctl --quiet reload-or-restart nginx a.socket", None).unwrap();
        assert_eq!((restart.verb, restart.desired()), (Verb::Restart, vec![DesiredUnit::Started]));
        assert_eq!(restart.names, ["nginx", "a.socket"]);
        assert_eq!(restart.units().next().unwrap(), Unit::new("nginx.service", None));
        assert_eq!(
            job("systemctl disable --now x", None).unwrap().desired(),
            [DesiredUnit::Disabled, DesiredUnit::Stopped]
        );
        assert_eq!(job("systemctl try-restart x", None).unwrap().desired(), []);
        assert_eq!(
            job("systemctl --user stop x", Some("kim")).unwrap().units().next(),
            Some(Unit::new("x", Some("kim")))
        );
        assert_eq!(job("systemctl stop x", Some("kim")).unwrap().user, None);
    }

    #[test]
    fn what_cannot_be_foreseen_is_no_job() {
        for line in [
            "service nginx restart",
            "systemctl --user restart x",
            "systemctl restart sweep-*",
            "systemctl --no-block restart x",
            "systemctl -M kim@ restart x",
            "systemctl isolate rescue.target",
            "systemctl",
        ] {
            assert_eq!(job(line, None), None, "{line}");
        }
    }
}
