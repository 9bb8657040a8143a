//! Which changes a rollback is about, in which order, what it refuses, and what it leaves to other steps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use anyhow::{Result, bail};

use super::request::Request;
use crate::change::Change;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{self, ChangeId, ChangeRecord, Claims, Class, History};
use crate::session::{Later, Session};
use crate::target::{Aspect, Target};

/// The live changes that a rollback is about, newest first; only a start that follows a start of the same unit comes
/// right before that one: the unit ran while the changes between were made, and something else stopped it.
pub(super) fn candidates(session: &Session, request: &Request) -> Result<Vec<ChangeId>> {
    let (history, plan) = (session.history(), session.plan());
    let of_plan: Vec<&ChangeRecord> =
        history.changes.iter().filter(|change| change.plan == plan && change.awaits_rollback()).collect();
    let Some(steps) = &request.steps else {
        let has_claims = history.claims.keys().any(|(of, _)| of == plan);
        if of_plan.is_empty() && !has_claims && history.rollback.is_none() {
            refuse_other_plan(history, plan)?;
        }
        let ids = in_undo_order(of_plan);
        name_unknown_reliance(session, &ids);
        return Ok(ids);
    };
    for asked in steps {
        let word = &asked.text;
        let is_known = history.changes.iter().any(|change| change.plan == plan && asked.is_for(change));
        if history.step(plan, word).is_none() && !is_known {
            let known: Vec<&str> = history.steps_of(plan).map(|(id, _)| id.as_str()).collect();
            if known.is_empty() {
                bail!(
                    Failure::new(format!("unknown step or target `{word}`: nothing is recorded"))
                        .exit(ExitCode::USAGE)
                        .kind(FailureKind::Usage)
                        .hint("name the state directory of the run with `--state-dir DIR`")
                );
            }
            bail!(
                Failure::new(format!("unknown step or target `{word}` in the plan `{plan}`"))
                    .exit(ExitCode::USAGE)
                    .kind(FailureKind::Usage)
                    .hint(format!("steps with a record: {}", known.join(", ")))
                    .hint("list the targets with `kkrun history --json`")
            );
        }
    }
    let asked: Vec<&ChangeRecord> = of_plan.into_iter().filter(|change| request.names(change)).collect();
    let stays = |change: &&ChangeRecord| change.is_live() && !(change.plan == plan && request.names(change));
    let staying: Vec<&ChangeRecord> = history.changes.iter().filter(stays).collect();
    for change in asked.iter().rev() {
        if let Some(later) = needed_by(session, change, &staying)? {
            refuse_alone(history, change, later, plan)?;
        }
    }
    let ids = in_undo_order(asked);
    name_unknown_reliance(session, &ids);
    Ok(ids)
}

fn in_undo_order(mut changes: Vec<&ChangeRecord>) -> Vec<ChangeId> {
    let starts = |change: &ChangeRecord| {
        matches!(change.intent.target, Target::Unit { aspect: Aspect::Activity, .. })
            && matches!(Change::of_intent(&change.intent), Ok(Change::Unit(change)) if change.is_start())
    };
    for at in 1..changes.len() {
        let later = changes[at];
        if !starts(later) {
            continue;
        }
        let mut before = changes[..at].iter();
        let older = before.rposition(|change| change.intent.target == later.intent.target);
        if let Some(older) = older.filter(|older| starts(changes[*older])) {
            changes[older + 1..=at].rotate_right(1);
        }
    }
    changes.iter().rev().map(|change| change.id).collect()
}

/// How many later commands are named that may rely on what is undone.
const MOST_NAMED: usize = 5;

/// Names the later changes that stay and of which kkrun does not know what they rely on: what a command or a statement
/// reads is not recorded.
fn name_unknown_reliance(session: &Session, undone: &[ChangeId]) {
    let undone: BTreeSet<ChangeId> = undone.iter().copied().collect();
    let Some(oldest) = undone.first() else { return };
    let is_opaque = |change: &&ChangeRecord| {
        change.id > *oldest && change.is_live() && change.intent.is_opaque() && !undone.contains(&change.id)
    };
    let later: Vec<&ChangeRecord> = session.history().changes.iter().filter(is_opaque).collect();
    for change in later.iter().take(MOST_NAMED) {
        let (summary, whose) = (&change.intent.summary, change.whose(session.plan()));
        session.reporter().note_once(format!(
            "cannot determine whether this relies on what is undone: {summary} ({whose})"
        ));
    }
    if later.len() > MOST_NAMED {
        session.reporter().note_once(format!("… and {} more", later.len() - MOST_NAMED));
    }
}

fn refuse_alone(history: &History, change: &ChangeRecord, later: &ChangeRecord, plan: &str) -> Result<()> {
    let needing = later.whose(plan);
    let (target, needs) = (&change.intent.target, &later.intent.target);
    let why = if target == needs {
        format!("{needing} changed {} after it", target.described())
    } else {
        format!("{} of {needing} needs {}", needs.described(), target.described())
    };
    let steps = (&change.intent.step, &later.intent.step);
    let (alone, way_on) = match steps {
        (Some(step), Some(other)) if later.plan == plan && step != other => {
            let of_plan = history.plan_option(plan);
            let both = shell_words::join([step, other]);
            let way_on = format!(
                "run `kkrun rollback {both}{of_plan}`, or `kkrun rollback{of_plan}` to undo the whole plan"
            );
            (format!("step {step}"), way_on)
        }
        (Some(step), other) if other.as_ref() != Some(step) => {
            (format!("step {step}"), format!("roll back {needing} as well, or everything"))
        }
        _ => (target.described(), format!("roll back {needing} as well, or everything")),
    };
    bail!(Failure::new(format!("cannot undo {alone} alone: {why}")).hint(way_on))
}

/// The first of the changes that stay, oldest first, that is later and needs what this one did.
fn needed_by<'a>(
    session: &Session,
    change: &ChangeRecord,
    staying: &[&'a ChangeRecord],
) -> Result<Option<&'a ChangeRecord>> {
    let later = &staying[staying.partition_point(|staying| staying.id <= change.id)..];
    let later = later.iter().copied().map(Later::Change).collect();
    Ok(session.first_relying(&change.intent, later)?.and_then(|later| match later {
        Later::Change(change) => Some(change),
        Later::Claim { .. } => None,
    }))
}

/// To which step a change is left that is not undone, and why.
pub(super) struct LeftToAnother {
    pub(super) plan: String,
    pub(super) step: Option<String>,
    pub(super) why: String,
}

/// Those of the `candidates`, newest first, on which something relies that is not rolled back: a claim, a change of
/// another plan, or another candidate that is left. A change that only has newer content is no such thing: what it
/// replaced comes back once it is undone.
pub(super) fn left_to_others(
    session: &Session,
    request: &Request,
    candidates: &[ChangeId],
) -> Result<BTreeMap<ChangeId, LeftToAnother>> {
    let (history, plan) = (session.history(), session.plan());
    let mut left: BTreeMap<ChangeId, LeftToAnother> = BTreeMap::new();
    let of_others = history.live_beside(plan);
    let is_left = |((of, step), _): &(&(String, String), &Claims)| !(of == plan && request.names_step(step));
    let mut claims_left: Vec<_> = history.claims.iter().filter(is_left).collect();
    claims_left.sort_by_key(|(_, claims)| claims.at);
    for id in candidates {
        let Some(known) = history.change(*id).filter(|known| known.intent.class != Class::Irreversible)
        else {
            continue;
        };
        if known.undoing_began() {
            continue;
        }
        let claims = claims_left.iter().filter(|((of, step), claims)| {
            let owner = (of.as_str(), Some(step.as_str()));
            claims.at > *id && owner != (&*known.plan, known.intent.step.as_deref())
        });
        let claims = claims.flat_map(|((plan, step), claims)| {
            claims.targets.iter().map(|target| Later::Claim { plan, step, target })
        });
        let newer = |id: &ChangeId| (Bound::Excluded(*id), Bound::Unbounded);
        let is_content = |later: &ChangeRecord| session.holds_content_of(later, known);
        let of_others = of_others.range(newer(id)).filter_map(|id| history.change(*id));
        let staying = left.range(newer(id)).filter_map(|(id, _)| history.change(*id));
        let mut changes: Vec<_> = of_others.filter(|later| !is_content(later)).chain(staying).collect();
        changes.sort_unstable_by_key(|later| later.id);
        let changes = changes.into_iter().map(Later::Change);
        let Some(relying) = session.first_relying(&known.intent, claims.chain(changes).collect())? else {
            continue;
        };
        // What is left itself belongs to the step that it is left to.
        let (of, step) = match relying {
            Later::Change(change) => match left.get(&change.id) {
                Some(left) => (left.plan.clone(), left.step.clone()),
                None => (change.plan.clone(), change.intent.step.clone()),
            },
            Later::Claim { plan, step, .. } => (plan.to_owned(), Some(step.to_owned())),
        };
        let (target, whose) = (relying.target(), journal::whose(&of, step.as_deref(), plan));
        let why = if *target == known.intent.target && matches!(relying, Later::Claim { .. }) {
            format!("asked for by {whose}, too: left to it")
        } else {
            format!("{} of {whose} needs it: left to it", target.described())
        };
        left.insert(*id, LeftToAnother { plan: of, step, why });
    }
    Ok(left)
}

/// Nothing of this plan, but changes of others: not "nothing to undo".
fn refuse_other_plan(history: &History, plan: &str) -> Result<()> {
    let mut others: Vec<&str> = history
        .changes
        .iter()
        .filter(|change| change.awaits_rollback())
        .map(|change| change.plan.as_str())
        .collect();
    others.sort_unstable();
    others.dedup();
    if others.is_empty() {
        return Ok(());
    }
    bail!(
        Failure::new(format!("nothing to undo for the plan `{plan}`, but other plans have changes"))
            .hint(format!("plans with changes: {}", others.join(", ")))
    )
}
