//! The life of a change: which record may follow which. A journal in which another follows is damaged.
//!
//! ```text
//!                 intent
//!                    │
//!                    ▼        done
//!      void ◄──── in doubt ─────────► done
//!                    │                  │
//!                    ├──────────────────┘
//!                    │
//!         undo_intent│   ┌─ undo_intent (the undoing was killed, and begins again)
//!                    │   ├─ undo_command (one undo command ended, and others are left)
//!                    ▼   ▼
//!   ┌─────────────► undoing ─────────► undone
//!   │ undo_intent      │       undone
//!   │                  │ conflict, kept, undo_failed
//!   │                  ▼
//!   └──────────── conflict · kept · undo_failed
//! ```
//!
//! A change in doubt stays so with `failed`, which says that its act has ended and how: what it did is not known, but no
//! longer whether it is at work. It may be acted on again, and fail again.
//!
//! Void and undone are the ends: the change is not there, and only a new intent brings one. A change that is there, in
//! doubt or done, may also be left as it is without an attempt (`conflict`, `kept`, `undo_failed`): a newer change may
//! hold its target, its loss may not be agreed to, or this kkrun may not understand it. All three are offered to the
//! next rollback again.

use anyhow::{Result, bail};

use super::record::{ChangeId, Entry, Undoing};

/// The state of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeState {
    /// Its intent is recorded, its outcome is not.
    InDoubt,
    /// It was made.
    Done,
    /// It was not made.
    Void,
    /// Its undoing began and its outcome is not recorded.
    Undoing,
    /// It was undone.
    Undone(Undoing),
    /// It was left as it is, because its target was modified by something else.
    Conflict(String),
    /// It was left as it is, because data would be lost or nothing can be done.
    Kept(String),
    /// Its undo action failed.
    UndoFailed(String),
}

impl ChangeState {
    /// The state that `entry`, which is about this change, leads to.
    ///
    /// # Errors
    /// When it must not follow.
    pub fn next(&self, entry: &Entry) -> Result<Self> {
        Ok(match (self, entry) {
            (Self::InDoubt, Entry::Done { .. }) => Self::Done,
            (Self::InDoubt, Entry::Void { .. }) => Self::Void,
            (Self::InDoubt, Entry::Failed { .. }) => Self::InDoubt,
            (Self::Undoing, Entry::UndoCommand { .. }) => Self::Undoing,
            (Self::Undoing, Entry::Undone { how, .. }) => Self::Undone(*how),
            (state, Entry::UndoIntent { .. }) if state.is_live() => Self::Undoing,
            (state, Entry::Conflict { why, .. }) if state.is_live() => Self::Conflict(why.clone()),
            (state, Entry::Kept { why, .. }) if state.is_live() => Self::Kept(why.clone()),
            (state, Entry::UndoFailed { error, .. }) if state.is_live() => Self::UndoFailed(error.clone()),
            (state, _) => bail!("which is {}", state.name()),
        })
    }

    /// Something of it may be on the machine.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Void | Self::Undone(_))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::InDoubt => "in doubt",
            Self::Done => "done",
            Self::Void => "void",
            Self::Undoing => "being undone",
            Self::Undone(_) => "undone",
            Self::Conflict(_) => "in conflict",
            Self::Kept(_) => "kept",
            Self::UndoFailed(_) => "not undone, because undoing it failed",
        }
    }
}

impl Entry {
    /// The change that it brings into another state, and what it says of it.
    pub fn of_change(&self) -> Option<(ChangeId, &'static str)> {
        Some(match self {
            Self::Done { change, .. } => (*change, "done"),
            Self::Void { change, .. } => (*change, "void"),
            Self::Failed { change, .. } => (*change, "failed"),
            Self::UndoIntent { change } => (*change, "undo_intent"),
            Self::UndoCommand { change, .. } => (*change, "undo_command"),
            Self::Undone { change, .. } => (*change, "undone"),
            Self::Conflict { change, .. } => (*change, "conflict"),
            Self::Kept { change, .. } => (*change, "kept"),
            Self::UndoFailed { change, .. } => (*change, "undo_failed"),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::{Header, History, Intent, Record};
    use crate::target::{States, Target};

    /// The entries about a change, in the order of the letters `D V I P U C K F A`.
    fn entries(change: ChangeId, states: &States) -> [Entry; 9] {
        let (why, recorded) = (String::new, || states.clone());
        [
            Entry::Done { change, recorded: recorded(), unsynced: false },
            Entry::Void { change, why: why() },
            Entry::UndoIntent { change },
            Entry::UndoCommand { change, recorded: recorded() },
            Entry::Undone { change, how: Undoing::Restored, recorded: recorded() },
            Entry::Conflict { change, why: why() },
            Entry::Kept { change, why: why() },
            Entry::UndoFailed { change, error: why() },
            Entry::Failed { change, error: why() },
        ]
    }

    const LETTERS: [char; 9] = ['D', 'V', 'I', 'P', 'U', 'C', 'K', 'F', 'A'];

    /// What the records of a life must be, said in another way than by states.
    fn is_a_life(letters: &str) -> bool {
        let outcome = |letter: char| matches!(letter, 'D' | 'V');
        let over = |letter: char| matches!(letter, 'V' | 'U');
        // Its act fails before all else, as often as it is tried.
        let letters = letters.trim_start_matches('A');
        !letters.contains('A')
            // There is one outcome at most, and it comes first.
            && letters.chars().skip(1).all(|letter| !outcome(letter))
            // Nothing follows the end.
            && letters.chars().rev().skip(1).all(|letter| !over(letter))
            // What was undone, or in part, was about to be.
            && letters.match_indices(['U', 'P']).all(|(at, _)| letters[..at].ends_with(['I', 'P']))
    }

    #[test]
    fn the_lives_of_a_change_are_those_and_no_others() {
        let mut lives = vec![(String::new(), ChangeState::InDoubt)];
        let mut counted = 0;
        for _ in 0..6 {
            let mut longer = Vec::new();
            for (life, state) in &lives {
                for (letter, entry) in LETTERS.iter().zip(entries(1, &States::new())) {
                    let next = format!("{life}{letter}");
                    counted += 1;
                    match state.next(&entry) {
                        Ok(state) => {
                            assert!(is_a_life(&next), "{next} is taken for a life");
                            longer.push((next, state));
                        }
                        Err(_) => assert!(!is_a_life(&next), "{next} is taken for none"),
                    }
                }
            }
            lives = longer;
        }
        assert!(counted > 5_000, "{counted}");
    }

    #[test]
    fn an_entry_about_no_change_is_no_step_of_its_life() {
        for state in [ChangeState::InDoubt, ChangeState::Done, ChangeState::Undoing] {
            state.next(&Entry::Checkpoint).unwrap_err();
        }
    }

    /// A history to which entries are applied as they are appended.
    #[derive(Default)]
    struct Appended {
        history: History,
        records: u64,
    }

    impl Appended {
        fn append(&mut self, entry: Entry) -> Result<()> {
            let header = Header {
                seq: self.records + 1,
                prev: String::new(),
                run: "r".into(),
                boot: "b".into(),
                time: jiff::Timestamp::UNIX_EPOCH,
                plan: "p".into(),
                unsynced: 0,
                skippable: false,
            };
            self.history.apply(Record { header, entry })?;
            self.records += 1;
            Ok(())
        }

        fn intend(&mut self, target: Target) -> ChangeId {
            let intent = Intent::about(target);
            self.append(Entry::Intent(Box::new(intent))).unwrap();
            self.records
        }
    }

    fn target(name: &str) -> Target {
        Target::Group(name.to_owned())
    }

    fn states(name: &str) -> States {
        [(target(name), 1.into())].into()
    }

    fn kept(name: &str) -> Entry {
        Entry::Recorded { target: target(name), state: 2.into() }
    }

    #[test]
    fn a_change_that_is_not_known_and_a_state_from_nowhere_are_refused_with_their_reason() {
        let mut journal = Appended::default();
        let id = journal.intend(target("a"));
        let done = |change, name| Entry::Done { change, recorded: states(name), unsynced: false };
        for (entry, why) in [
            (done(999, "a"), "says `done` of change 999, of which no intent is recorded"),
            (
                done(id, "b"),
                "says `done` of change 1 with a state of group:b, which that change is not about",
            ),
            (kept("b"), "records a state of group:b, which was never changed"),
            (
                Entry::Undone { change: id, how: Undoing::Already, recorded: states("a") },
                "says `undone` of change 1, which is in doubt",
            ),
            (
                Entry::Once { key: "k".into(), changes: vec![id, 7] },
                "names change 7, of which no intent is recorded",
            ),
        ] {
            let said = journal.append(entry).unwrap_err().to_string();
            assert_eq!(said, why);
        }
        // What a killed attempt left may be put aside, and that recorded, before its change has an outcome.
        journal.append(kept("a")).unwrap();
        journal.append(done(id, "a")).unwrap();
        journal.append(kept("a")).unwrap();
        let said = journal.append(done(id, "a")).unwrap_err().to_string();
        assert_eq!(said, "says `done` of change 1, which is done");
    }

    #[test]
    fn a_part_of_a_file_records_the_state_of_the_file_too() {
        let mut journal = Appended::default();
        let (file, line): (Target, Target) =
            ("file:/etc/a".parse().unwrap(), "line:/etc/a#k".parse().unwrap());
        let change = journal.intend(line.clone());
        let recorded = [(file, 1.into()), (line, 1.into())].into();
        journal.append(Entry::Done { change, recorded, unsynced: false }).unwrap();
        assert_eq!(journal.history.ledger.len(), 2);
    }

    proptest! {
        /// Over any sequence of entries about three changes to two targets, one of which does not exist: what is
        /// refused leaves no trace, and what is taken keeps every promise of the history.
        #[test]
        fn any_sequence_of_entries_is_a_sound_history_or_refused(
            all in proptest::collection::vec((0..12_usize, 1..5_u64, any::<bool>()), 0..60)
        ) {
            let mut journal = Appended::default();
            journal.intend(target("a"));
            journal.intend(target("b"));
            journal.intend(target("a"));
            let mut taken = std::collections::BTreeMap::<ChangeId, String>::new();
            for (which, change, is_own) in all {
                let of_b = (change == 2) == is_own;
                let name = if of_b { "b" } else { "a" };
                let before = format!("{:?}", journal.history);
                let entry = match which {
                    at @ 0..9 => entries(change, &states(name))[at].clone(),
                    9 => Entry::Once { key: "k".into(), changes: vec![change] },
                    _ => kept(name),
                };
                let about = entry.of_change();
                let brings_states =
                    matches!(entry, Entry::Done { .. } | Entry::UndoCommand { .. } | Entry::Undone { .. });
                let is_recorded = journal.history.ledger.contains_key(&target(name))
                    || journal.history.changes.iter().any(|known| {
                        known.is_live() && known.intent.target == target(name)
                    });
                let is_known = change < 4;
                let was_taken = journal.append(entry).is_ok();
                if !was_taken {
                    prop_assert_eq!(&before, &format!("{:?}", journal.history));
                }
                let expected = match (about, which) {
                    (Some(_), at) => {
                        let mut life = taken.get(&change).cloned().unwrap_or_default();
                        life.push(LETTERS[at]);
                        let is_legal = is_known && is_a_life(&life) && (is_own || !brings_states);
                        if is_legal {
                            taken.insert(change, life);
                        }
                        is_legal
                    }
                    (None, 9) => is_known,
                    (None, _) => is_recorded,
                };
                prop_assert_eq!(was_taken, expected);
            }
            for known in &journal.history.changes {
                let life = taken.get(&known.id).map_or("", String::as_str);
                prop_assert_eq!(known.is_live(), !life.ends_with(['V', 'U']));
                prop_assert_eq!(known.settled > 0, life.contains(['D', 'U']));
            }
        }
    }
}
