//! The invariants after every disturbance: the next run reaches the end state, a rollback the state from before, both to
//! the byte, and no prepared file stays.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::ground::{Ground, Lying, Snapshot};
use super::picture::{Picture, leftovers};
use super::plans::{DOWNLOADED, LETTERS, Scenario};
use super::strace::{self, Ended, Position, Traced, run};

/// One scenario on one ground, with what it looks like when nothing disturbs it.
pub(crate) struct Trial {
    pub ground: Ground,
    pub pristine: Snapshot,
    pub finished: Snapshot,
    before: Picture,
    end: Picture,
    /// Whether an undo failed in the end. A file that several changes share gets its bytes alone when it was tried
    /// again, out of order.
    failed: Cell<bool>,
    /// Whether one failed at first: tried again out of order, it leaves the databases of users and groups a text that no
    /// change found there before.
    tried_again: Cell<bool>,
}

/// What kkrun is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Run the plan.
    Run,
    /// Roll it back.
    RollBack,
}

pub(crate) const BOTH: [Doing; 2] = [Doing::Run, Doing::RollBack];

impl Doing {
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Run => &["--secrets", "secrets", "plan.rhai"],
            Self::RollBack => &["rollback", "--yes", "--purge", "all"],
        }
    }
}

/// A server of one file, which goes with the process. Gives its port.
pub(crate) fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _asked = stream.read(&mut [0; 4096]);
            let length = DOWNLOADED.len();
            let _gone = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{DOWNLOADED}"
            );
        }
    });
    port
}

impl Trial {
    /// Runs and rolls back undisturbed, to know what shall come out.
    pub(crate) fn new(scenario: &Scenario, lying: Lying) -> Self {
        let mut ground = Ground::new(lying, serve());
        let pristine = ground.set_up(scenario);
        let before = ground.picture_with_times();
        let ran = run(&ground, &ground.kkrun(Doing::Run.words()));
        assert_eq!(ran.status, Some(0), "{}: undisturbed run: {}", scenario.name, ran.shown());
        let end = ground.picture();
        let finished = ground.snapshot("finished");
        let trial = Self {
            ground,
            pristine,
            finished,
            before,
            end,
            failed: Cell::new(false),
            tried_again: Cell::new(false),
        };
        assert_eq!(
            trial.ended_well(&run(&trial.ground, &trial.ground.kkrun(Doing::Run.words()))),
            Vec::<String>::new()
        );
        let back = trial.rolled_back();
        assert!(back.is_empty(), "{}: undisturbed rollback: {}", scenario.name, back.join("\n"));
        trial
    }

    /// The state that it is started in: a run on what was there before, a rollback after a run.
    pub(crate) fn start(&self, doing: Doing) -> &Snapshot {
        match doing {
            Doing::Run => &self.pristine,
            Doing::RollBack => &self.finished,
        }
    }

    /// The calls that it makes when nothing disturbs it.
    pub(crate) fn calls(&self, start: &Snapshot, doing: Doing) -> Vec<Traced> {
        self.ground.restore(start);
        strace::trace(&self.ground, &self.ground.kkrun(doing.words())).calls
    }

    /// Their positions.
    pub(crate) fn positions(&self, start: &Snapshot, doing: Doing) -> Vec<Position> {
        strace::positions(&self.calls(start, doing))
    }

    /// The problems on these ways on after a disturbance, and whether kkrun claimed more than is true.
    pub(crate) fn recovers(&self, doing: Doing, ended: &Ended, ways: &[Doing]) -> Vec<String> {
        self.tried_again.set(ended.stderr.contains("failed: "));
        self.failed.set(ended.stderr.contains("failed: ") && !ended.stderr.contains("· 0 failed"));
        let mut problems = match (doing, ended.status) {
            (Doing::Run, Some(0)) => self.ended_well(ended),
            (Doing::RollBack, Some(0)) => self.undone_well(ended),
            (_, None) => vec![format!("it did not end: {}", ended.shown())],
            _ => self.false_claims(ended),
        };
        let here = (ways.len() > 1).then(|| self.ground.snapshot("disturbed"));
        for (at, then) in ways.iter().enumerate() {
            if let Some(here) = here.as_ref().filter(|_| at > 0) {
                self.ground.restore(here);
            }
            let mut found = match then {
                Doing::Run => self.runs(ended),
                Doing::RollBack => self.rolled_back(),
            };
            if found.is_empty() {
                found = match then {
                    Doing::Run => self.rolled_back(),
                    Doing::RollBack => self.runs(&Ended::default()),
                };
            }
            problems.extend(found.into_iter().map(|problem| format!("then {then:?}: {problem}")));
        }
        problems
    }

    /// The steps that a run reported as complete and that are not.
    pub(crate) fn false_claims(&self, ended: &Ended) -> Vec<String> {
        let now = self.ground.picture();
        let mut problems = Vec::new();
        for step in ended.claimed_steps() {
            if let Some(difference) = self.end.below(&step).differences(&now.below(&step)) {
                problems.push(format!("step {step} was said to be complete: {difference}"));
            }
        }
        problems
    }

    /// A run that says it did well has done all of it.
    pub(crate) fn ended_well(&self, ended: &Ended) -> Vec<String> {
        let mut problems = Vec::new();
        if ended.status != Some(0) {
            problems.push(format!("the run failed: {}", ended.shown()));
        }
        let difference = self.difference(&self.end, &self.ground.picture());
        if let Some(difference) = difference {
            problems.push(format!("not the end state: {difference}"));
        }
        problems
    }

    /// The same of a rollback.
    pub(crate) fn undone_well(&self, ended: &Ended) -> Vec<String> {
        let mut problems = Vec::new();
        if ended.status != Some(0) {
            problems.push(format!("the rollback failed: {}", ended.shown()));
        }
        let now = self.ground.picture_with_times();
        if let Some(difference) = self.difference(&self.before, &now) {
            problems.push(format!("not as before: {difference}"));
        }
        problems
    }

    /// What of now is not as it should be, as far as that can be asked for.
    fn difference(&self, should: &Picture, now: &Picture) -> Option<String> {
        let (mut should, mut now) = (should.clone(), now.clone());
        if self.failed.get() {
            (should, now) = (should.without_times(), now.without_times());
        }
        if self.tried_again.get() {
            (should, now) = (should.without_times_of_accounts(), now.without_times_of_accounts());
        }
        should.differences(&now)
    }

    fn runs(&self, before: &Ended) -> Vec<String> {
        let mut letters = LETTERS.map(|name| self.ground.tree.join(name)).to_vec();
        letters.retain(|letter| letter.exists());
        let mut ended = run(&self.ground, &self.ground.kkrun(Doing::Run.words()));
        if ended.status == Some(1) && ended.stderr.contains("a rollback was interrupted") {
            let back = self.rolled_back();
            if !back.is_empty() {
                return back;
            }
            ended = run(&self.ground, &self.ground.kkrun(Doing::Run.words()));
        } else {
            for step in before.claimed_steps() {
                if ended.stderr.contains(&format!("🔄 {step} ")) {
                    return vec![format!("step {step} was said to be complete and was run again")];
                }
            }
        }
        // A handler whose test fails has what was changed undone, and the next run makes it.
        if ended.status == Some(1) && ended.stderr.contains("undone because of that") {
            if letters.iter().any(|letter| !letter.exists()) {
                return vec![format!("data was lost without a word for it: {}", ended.shown())];
            }
            ended = run(&self.ground, &self.ground.kkrun(Doing::Run.words()));
        }
        let mut problems = self.ended_well(&ended);
        problems.extend(self.leftovers());
        problems
    }

    fn rolled_back(&self) -> Vec<String> {
        let ended = run(&self.ground, &self.ground.kkrun(Doing::RollBack.words()));
        let mut problems = self.undone_well(&ended);
        problems.extend(self.leftovers());
        problems
    }

    fn leftovers(&self) -> Option<String> {
        let left = leftovers(&self.ground.tree, &self.ground.state);
        (!left.is_empty()).then(|| format!("left over: {}", left.join(", ")))
    }
}
