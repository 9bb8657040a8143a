//! The answer to a question that a package asks when it is installed.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::apt::{Apt, LOCK_TIMEOUT};
use super::installed::Installed;
use super::{Kind, OnDoubt, Payload, Position, UndoTerms, Undone, World, missing, state_value};
use crate::failure::{Failure, FailureKind};
use crate::journal::Undoing;
use crate::machine::debconf_files::complete_saves;
use crate::machine::files::Digest;
use crate::machine::process::{Ended, Stdin};
use crate::target::{States, Target};

/// How long to wait before debconf's own lock is tried again.
const PAUSE: Duration = Duration::from_millis(300);

/// A change to one answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebconfChange {
    before: AnswerState,
    after: AnswerState,
    inverse: DebconfInverse,
    /// The answer from before, on its way to the backups.
    #[serde(skip)]
    found: Option<Zeroizing<String>>,
    /// The desired answer.
    #[serde(skip)]
    value: Option<Zeroizing<String>>,
}

/// What is recorded of an answer: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum AnswerState {
    /// debconf does not know the question.
    Unknown,
    /// It has an answer.
    Answered {
        /// The digest of the answer.
        digest: Digest,
        /// The question counts as asked.
        seen: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DebconfInverse {
    package: String,
    question: String,
    kind: String,
    secret: bool,
}

/// A desired answer.
pub struct DesiredAnswer<'a> {
    /// The package that asks.
    pub package: &'a str,
    /// Its question.
    pub question: &'a str,
    /// The type of the question. Source: debconf-devel(7), "Type".
    pub kind: &'a str,
    /// The answer.
    pub value: &'a str,
    /// Nothing may show the answer.
    pub is_secret: bool,
}

impl DebconfChange {
    /// The change that gives a question its answer; `None` if it has that. `left` is the recorded state, if any: an answer
    /// that an installed package has used and cleared is not given again.
    pub fn towards(desired: &DesiredAnswer<'_>, left: Option<&Value>, world: &World) -> Result<Option<Self>> {
        let found = look(desired.package, desired.question, world)?;
        let before = state_of(found.as_ref());
        let after = AnswerState::Answered { digest: Digest::of(desired.value.as_bytes()), seen: true };
        let was_given = || left.is_some_and(|left| *left == state_value(&after));
        if before == after
            || was_given() && Installed::look(world)?.is_installed(desired.package) && found.is_some()
        {
            return Ok(None);
        }
        Ok(Some(Self {
            before,
            after,
            inverse: DebconfInverse {
                package: desired.package.to_owned(),
                question: desired.question.to_owned(),
                kind: desired.kind.to_owned(),
                secret: desired.is_secret || desired.kind == "password",
            },
            found: found.map(|(value, _)| Zeroizing::new(value)),
            value: Some(Zeroizing::new(desired.value.to_owned())),
        }))
    }

    fn now(&self, world: &World) -> Result<AnswerState> {
        Ok(state_of(look(&self.inverse.package, &self.inverse.question, world)?.as_ref()))
    }

    fn states(&self, state: &AnswerState) -> States {
        [(self.target(), state_value(state))].into()
    }

    fn selection(&self, value: &str) -> String {
        let DebconfInverse { package, question, kind, .. } = &self.inverse;
        format!("{package} {question} {kind} {value}\n")
    }

    fn set(&self, world: &World, value: &str) -> Result<()> {
        run(world, &["debconf-set-selections"], self.selection(value))
            .and_then(|ended| succeeded(&ended))
            .map(drop)
    }

    /// Whether only one of the question and its template is there. debconf saves its files one after the other, and was
    /// ended in between.
    fn is_half_there(&self, world: &World) -> Result<bool> {
        let DebconfInverse { package, question, .. } = &self.inverse;
        if look(package, question, world)?.is_some() {
            // The type is the template's.
            let said = communicate(world, package, &format!("METAGET {question} type\n"))?;
            return Ok(said.trim().strip_prefix("0 ").is_none_or(str::is_empty));
        }
        // It registers a question with its template, unless the template is there already.
        let checked = run(world, &["debconf-set-selections", "--checkonly"], self.selection(""))?;
        Ok(checked.tail.iter().any(|line| line.contains("Cannot find a question for")))
    }

    /// Lets debconf forget what is only half there: it brings back what is missing, and then removes both.
    fn forget(&self, world: &World) -> Result<()> {
        let DebconfInverse { package, question, kind, .. } = &self.inverse;
        let template =
            memfd_create("template", MemfdFlags::CLOEXEC).context("cannot make a file in memory")?;
        let mut template = std::fs::File::from(template);
        write!(template, "Template: {question}\nType: {kind}\nDescription: {question}\n")?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), template.as_raw_fd());
        communicate(world, package, &format!("X_LOADTEMPLATEFILE {path}\nUNREGISTER {question}\n")).map(drop)
    }
}

impl Kind for DebconfChange {
    fn target(&self) -> Target {
        let DebconfInverse { package, question, .. } = &self.inverse;
        Target::Debconf { package: package.clone(), question: question.clone() }
    }

    fn summary(&self) -> String {
        format!("answer the question {} of {}", self.inverse.question, self.inverse.package)
    }

    fn holds_secret(&self) -> bool {
        self.inverse.secret
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if let Some(found) = &self.found {
            world.backups()?.save(found.as_bytes())?;
        }
        Ok(())
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        match self.before {
            AnswerState::Answered { digest, .. } => vec![digest],
            AnswerState::Unknown => Vec::new(),
        }
    }

    fn repair(&self, world: &World) -> Result<()> {
        if self.is_half_there(world)? { self.forget(world) } else { Ok(()) }
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        if self.before == AnswerState::Unknown {
            self.repair(world)?;
        }
        self.set(world, self.value.as_ref().ok_or_else(missing)?)
    }

    fn position(&self, world: &World) -> Result<Position> {
        let now = self.now(world)?;
        Ok(if now == self.after {
            Position::After
        } else if now == self.before {
            Position::Before
        } else {
            Position::Neither("the question has another answer".to_owned())
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let now = self.now(world)?;
        if now != self.after {
            bail!("debconf did not take the answer to {}", self.inverse.question);
        }
        Ok(self.states(&now))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.repair(world)?;
        }
        let now = self.now(world)?;
        if now == self.before || now == AnswerState::Unknown {
            return Ok(Undone::Back(Undoing::Already, self.states(&now)));
        }
        let DebconfInverse { package, question, .. } = &self.inverse;
        let asks = Installed::look(world)?.is_there(package);
        if asks && now != self.after && !terms.force && !terms.begun {
            return Ok(Undone::Conflict(format!("the question {question} has another answer by now")));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, States::new()));
        }
        match &self.before {
            AnswerState::Answered { digest, seen } => {
                let value = String::from_utf8(world.backups()?.read(*digest)?)
                    .map_err(|_| anyhow::anyhow!("the recorded answer to {question} is not UTF-8"))?;
                self.set(world, &value)?;
                if !seen {
                    communicate(world, package, &format!("FSET {question} seen false\n"))?;
                }
            }
            // The question of an installed package stays, with its own default.
            AnswerState::Unknown if asks => {
                let commands = format!("RESET {question}\nFSET {question} seen false\n");
                communicate(world, package, &commands)?;
            }
            AnswerState::Unknown => {
                communicate(world, package, &format!("UNREGISTER {question}\n"))?;
            }
        }
        Ok(Undone::Back(Undoing::Restored, self.states(&self.now(world)?)))
    }
}

fn state_of(found: Option<&(String, bool)>) -> AnswerState {
    match found {
        None => AnswerState::Unknown,
        Some((value, seen)) => AnswerState::Answered { digest: Digest::of(value.as_bytes()), seen: *seen },
    }
}

/// The answer to a question and whether it counts as asked; none if debconf does not know the question.
fn look(package: &str, question: &str, world: &World) -> Result<Option<(String, bool)>> {
    let said = communicate(world, package, &format!("GET {question}\nFGET {question} seen\n"))?;
    let mut lines = said.lines();
    // `0 VALUE`; 10 to 19 are errors. Source: debconf-devel(7).
    let answer = lines.next().and_then(|line| line.strip_prefix('0'));
    let seen = lines.next().is_some_and(|line| line.trim() == "0 true");
    Ok(answer.map(|value| (value.strip_prefix(' ').unwrap_or(value).to_owned(), seen)))
}

fn communicate(world: &World, package: &str, commands: &str) -> Result<String> {
    run(world, &["debconf-communicate", package], commands.to_owned()).and_then(|ended| succeeded(&ended))
}

/// What it wrote, if it did not fail.
fn succeeded(ended: &Ended) -> Result<String> {
    // 10 to 19 say something about one question. Source: debconf-devel(7).
    let is_answer = ended.status.code().is_some_and(|code| (10..20).contains(&code));
    if ended.is_success() || is_answer {
        return Ok(ended.stdout.text());
    }
    let why = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
    bail!(Failure::new(format!("debconf {}{why}", ended.status)).kind(FailureKind::Packages))
}

/// Runs a program of debconf, again while another one holds debconf's lock.
fn run(world: &World, argv: &[&str], input: String) -> Result<Ended> {
    complete_saves()?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut command = Apt::new(world).plain(argv);
    command.stdin = Stdin::Bytes(input.into_bytes().into());
    loop {
        world.doubt_durability();
        // Nothing of it is reported: it may show a password.
        let ended = world.look(&command)?;
        let is_locked = ended.tail.iter().any(|line| line.contains("is locked by another process"));
        if !is_locked || Instant::now() >= deadline {
            return Ok(ended);
        }
        world.processes.check_interruption()?;
        world.processes.pause(PAUSE);
    }
}
