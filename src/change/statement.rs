//! A statement that was run in a database, with those that undo it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::postgres::Login;
use super::{Kind, OnDoubt, Payload, Position, UndoTerms, Undone, Unit, World, missing, state_value};
use crate::failure::{Failure, FailureKind};
use crate::journal::{Class, Undoing};
use crate::machine::files::Digest;
use crate::machine::postgres::{Connection, Parameter, binds, inlined, sql_state};
use crate::machine::signal::Interruption;
use crate::target::{States, Target};

/// A change by one statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatementChange {
    before: StatementState,
    after: StatementState,
    inverse: StatementInverse,
    /// Whether this process knows that it took effect.
    #[serde(skip)]
    outcome: Rc<Cell<Option<bool>>>,
}

/// Whether a statement was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum StatementState {
    /// Not run, or undone.
    Open,
    /// Run.
    Done {
        /// The SHA-256 of the statement and its plain parameters.
        sha256: Digest,
    },
}

/// What undoing a statement needs: none of it holds a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatementInverse {
    /// Its label.
    pub label: String,
    /// Where it runs.
    #[serde(flatten)]
    pub login: Login,
    /// The statements that undo it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<String>,
    /// A query that gives true when it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
    /// The script checks by itself whether it holds: running it again is safe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converges: bool,
}

/// A statement and what goes into it.
pub struct Statement {
    /// The statement, with `$1` for the first parameter.
    pub sql: String,
    /// The parameters.
    pub parameters: Vec<Parameter>,
    /// One of them is a secret.
    pub is_secret: bool,
}

impl Statement {
    /// Runs it. A secret in it is kept out of the server's log, or the statement is not run.
    pub fn run(&self, connection: &mut Connection<'_>) -> Result<()> {
        let is_bound = binds(&self.sql);
        if self.is_secret {
            connection.hide(is_bound)?;
        }
        if is_bound {
            return connection.execute(&self.sql, &self.parameters);
        }
        connection.execute(&inlined(&self.sql, &self.parameters)?, &[])
    }
}

/// Whether the query gives true.
pub fn query_holds(connection: &mut Connection<'_>, query: &str) -> Result<bool> {
    connection.read_only(|connection| connection.is_true(query, &[]))
}

impl StatementChange {
    /// The change of running a statement with this hash.
    pub fn new(sha256: Digest, inverse: StatementInverse) -> Self {
        Self {
            before: StatementState::Open,
            after: StatementState::Done { sha256 },
            inverse,
            outcome: Rc::default(),
        }
    }

    /// Whether this very statement was run and not undone, given the recorded state of its target.
    pub fn is_done(&self, recorded: Option<&Value>) -> bool {
        recorded == Some(&state_value(&self.after))
    }

    fn holds(&self, world: &World) -> Result<Option<bool>> {
        let Some(unless) = &self.inverse.unless else { return Ok(self.outcome.get()) };
        let mut connection = self.inverse.login.open(world)?;
        connection.await_earlier()?;
        query_holds(&mut connection, unless).map(Some)
    }

    fn back(&self, how: Undoing) -> Undone {
        Undone::Back(how, [(self.target(), state_value(&self.before))].into())
    }
}

/// Whether the connection failed, rather than the server answered.
fn is_lost(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == FailureKind::Sql)
        && sql_state(error).is_none()
}

impl Kind for StatementChange {
    fn target(&self) -> Target {
        self.inverse.login.statement(&self.inverse.label)
    }

    fn undone_by(&self) -> Result<Option<Unit>> {
        self.inverse.login.unit()
    }

    fn summary(&self) -> String {
        format!("run in the database {}: {}", self.inverse.login.server.dbname, self.inverse.label)
    }

    fn class(&self) -> Class {
        if self.inverse.undo.is_empty() { Class::Irreversible } else { Class::Safe }
    }

    fn may_be_lost(&self) -> bool {
        self.inverse.undo.is_empty() && self.inverse.converges
    }

    fn on_doubt(&self) -> OnDoubt {
        if self.inverse.converges { OnDoubt::ActAgain } else { OnDoubt::Stop }
    }

    fn act(&self, world: &World, payload: Payload<'_>) -> Result<()> {
        let Payload::Statement(statement) = payload else { return Err(missing()) };
        // Nothing is sent before the connection is open.
        self.outcome.set(Some(false));
        let mut connection = self.inverse.login.open(world)?;
        self.outcome.set(None);
        let ran = statement.run(&mut connection);
        match &ran {
            Ok(()) => self.outcome.set(Some(true)),
            // When the server answered with an error, a cancellation too, nothing took effect; a lost connection
            // leaves it open.
            Err(error) if error.is::<Interruption>() || !is_lost(error) => self.outcome.set(Some(false)),
            Err(_) => {}
        }
        ran
    }

    fn position(&self, world: &World) -> Result<Position> {
        Ok(match self.holds(world)? {
            Some(true) => Position::After,
            Some(false) => Position::Before,
            None => Position::Neither("whether the statement took effect is not known".to_owned()),
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        if self.holds(world)? == Some(false) {
            bail!("`{}` ran, but what `unless` looks for still does not hold", self.inverse.label);
        }
        Ok([(self.target(), state_value(&self.after))].into())
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let mut connection = match self.inverse.login.open(world) {
            Ok(connection) => connection,
            // Its effect went with the database.
            Err(error) if sql_state(&error) == Some("3D000") => {
                return Ok(self.back(Undoing::Already));
            }
            Err(error) => return Err(error),
        };
        connection.await_earlier()?;
        if let Some(unless) = &self.inverse.unless
            && !query_holds(&mut connection, unless)?
        {
            return Ok(self.back(Undoing::Already));
        }
        if self.inverse.undo.is_empty() {
            return Ok(Undone::Kept("its script names no undo action".to_owned()));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        match self.inverse.undo.as_slice() {
            // A single statement may be one that cannot run in a transaction.
            [sql] => connection.execute(sql, &[])?,
            several => connection
                .together(|connection| several.iter().try_for_each(|sql| connection.execute(sql, &[])))?,
        }
        Ok(self.back(Undoing::Restored))
    }
}

/// A statement as a short line: without its layout, and not all of it.
pub fn label_of(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let line = words.join(" ");
    if line.chars().count() <= 60 {
        return line;
    }
    let start: String = line.chars().take(57).collect();
    format!("{}… #{}", start.trim_end(), &Digest::of(line.as_bytes()).sha256().unwrap_or_default()[..8])
}

/// Statements as texts that the journal may hold, with plain parameters written into them.
pub fn recordable(sql: &str, parameters: &[Parameter]) -> Result<String> {
    let text: Zeroizing<String> = inlined(sql, parameters)?;
    Ok((*text).clone())
}

#[cfg(test)]
mod tests {
    use super::label_of;

    #[test]
    fn a_label_is_one_short_line_that_tells_statements_apart() {
        assert_eq!(label_of("SELECT\n   1"), "SELECT 1");
        let long = |end: &str| label_of(&format!("INSERT INTO {} VALUES ({end})", "x".repeat(60)));
        assert_ne!(long("1"), long("2"));
        assert!(long("1").chars().count() < 80);
    }
}
