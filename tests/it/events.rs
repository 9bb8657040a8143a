//! The events of `--json`: each is documented with all of its fields, and names its step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::support::Place;

/// The fields of every event as docs/events.md lists them, and those that may be missing.
fn documented() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
    let text = std::fs::read_to_string(path).unwrap();
    let runs = text.split("## Runs").nth(1).unwrap().split("## Data").next().unwrap();
    let rows =
        runs.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    let mut known = BTreeMap::new();
    for (event, fields) in rows {
        // What is in brackets describes a field.
        let (mut depth, mut plain) = (0, String::new());
        for letter in fields.chars() {
            depth += i32::from(letter == '(');
            if depth == 0 {
                plain.push(letter);
            }
            depth -= i32::from(letter == ')');
        }
        let plain = plain.split(':').next().unwrap();
        let words: Vec<&str> = plain.split('`').collect();
        let (mut all, mut optional) = (BTreeSet::new(), BTreeSet::new());
        for pair in words[1..].chunks(2) {
            all.insert(pair[0].to_owned());
            if pair.get(1).is_some_and(|behind| behind.starts_with('?')) {
                optional.insert(pair[0].to_owned());
            }
        }
        known.insert(event.to_owned(), (all, optional));
    }
    known
}

#[track_caller]
fn are_documented(events: &[Value], seen: &mut BTreeSet<String>) {
    let known = documented();
    let common = ["event", "step", "time"].map(str::to_owned);
    for event in &events[1..] {
        let name = event["event"].as_str().unwrap();
        let (all, optional) =
            known.get(name).unwrap_or_else(|| panic!("`{name}` is not documented: {event}"));
        let fields: BTreeSet<String> = event.as_object().unwrap().keys().cloned().collect();
        let expected: BTreeSet<String> = all.iter().chain(&common).cloned().collect();
        let missing: Vec<_> =
            expected.difference(&fields).filter(|field| !optional.contains(*field)).collect();
        let unknown: Vec<_> = fields.difference(&expected).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing {missing:?}, unknown {unknown:?}: {event}"
        );
        let time = event["time"].as_str().unwrap();
        assert!(
            time.len() >= 20 && time.as_bytes()[10] == b'T' && time.ends_with('Z'),
            "RFC 3339 in UTC: {event}"
        );
        seen.insert(name.to_owned());
    }
}

#[test]
fn every_event_is_documented_with_all_of_its_fields() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/a", "a\n");
    cmd::run(["bash", "-c", "echo out; echo err >&2"], #{ always: "a test" });
    step::verify("it is there", || file::exists("@/m/a"));
    log::warn("careful");
    print("data");
});
step::run("02", "Second", || { if host::args() != [] { cmd::run(["bash", "-c", "echo no; exit 3"], #{ always: "a test" }); } });
"#,
    );
    let mut seen = BTreeSet::new();
    are_documented(&place.run("plan.rhai --json --dry-run").ends(6).json(), &mut seen);
    let failed = place.run("plan.rhai --json now").ends(1).json();
    are_documented(&failed, &mut seen);
    let error = failed.iter().find(|event| event["event"] == "error").unwrap();
    assert_eq!((&error["kind"], &error["step"]), (&"step".into(), &"02".into()));
    assert_eq!((&error["place"]["file"], &error["place"]["line"]), (&"plan.rhai".into(), &9.into()));
    assert_eq!(error["output"], serde_json::json!(["no"]));
    assert!(error["hints"].as_array().is_some_and(|hints| !hints.is_empty()), "{error}");
    let ended: Vec<&Value> = failed.iter().filter(|event| event["event"] == "command_ended").collect();
    assert_eq!(ended.last().unwrap()["status"], serde_json::json!({ "kind": "exited", "code": 3 }));
    are_documented(&place.run("plan.rhai --json").ends(0).json(), &mut seen);
    let again = place.run("plan.rhai --json").ends(0).json();
    are_documented(&again, &mut seen);
    assert_eq!(again[2]["why"], serde_json::json!({ "kind": "complete" }));
    place.write("m/a", "theirs\n");
    place.edit("plan/plan.rhai", "a\\n", "b\\n");
    are_documented(&place.run("plan.rhai --json --dry-run").ends(6).json(), &mut seen);
    are_documented(&place.run("rollback --json").ends(4).json(), &mut seen);
    are_documented(&place.run("rollback 9 --json").ends(2).json(), &mut seen);
    are_documented(&place.run("reset --json --yes").ends(0).json(), &mut seen);
    let not_seen: Vec<String> = documented().into_keys().filter(|name| !seen.contains(name)).collect();
    assert_eq!(
        not_seen,
        ["command_progress", "step_interrupted", "stopping"],
        "the rest is shown by tests of signals and packages"
    );
}

#[test]
fn differences_of_made_changes_are_data_if_asked_for() {
    let differences = |words: &str| -> Vec<Value> {
        let place = Place::new(r#"step::run("01", "First", || { file::write("@/m/a", "new\n"); });"#);
        let events = place.run(words).ends(0).json();
        events
            .into_iter()
            .filter(|event| event["event"] == "change")
            .map(|event| event["difference"].clone())
            .collect()
    };
    let shown = differences("plan.rhai --json --show-differences");
    assert!(matches!(&*shown, [Value::String(text)] if text.contains("+new")), "{shown:?}");
    assert_eq!(differences("plan.rhai --json"), [Value::Null]);
}

#[test]
fn logs_and_checks_are_data_too() {
    let place =
        Place::new(r#"step::run("01", "First", || { cmd::run(["echo", "hi"], #{ always: "a test" }); });"#);
    place.run("plan.rhai").ends(0);
    let row = place.run("log --json").ends(0).json().pop().unwrap();
    assert_eq!((&row["plan"], &row["step"], &row["lines"][1]), (&"plan".into(), &"01".into(), &"hi".into()));
    assert_eq!(place.run("check --json plan.rhai").ends(0).json()[1]["problems"], 0);
    place.write("plan/plan.rhai", "file::wirte(\"/a\", \"b\");\n");
    let rows = place.run("check --json plan.rhai").ends(2).json();
    assert_eq!((&rows[1]["event"], &rows[1]["place"]["line"]), (&"error".into(), &1.into()));
    assert_eq!(rows[2]["problems"], 1);
}

#[test]
fn state_of_the_journal_is_data() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "a\n"));"#);
    let diagnosis = |exit: i32| place.run("doctor --json").ends(exit).json().pop().unwrap();
    assert_eq!(diagnosis(0)["state"], "missing");
    place.run("plan.rhai").ends(0);
    let intact = diagnosis(0);
    assert_eq!((&intact["event"], &intact["state"]), (&"doctor".into(), &"intact".into()));
    assert_eq!(intact["journal"], "@/state/journal");
    let journal = place.read("state/journal");
    place.write("state/journal", &journal.replacen("First", "Worst", 1));
    let damaged = diagnosis(5);
    assert_eq!(damaged["state"], "damaged");
    assert!(damaged["why"].is_string() && damaged["ways_on"].as_array().unwrap().len() == 3, "{damaged}");
}

#[test]
fn what_is_examined_names_its_step_and_the_end_of_a_run_names_none() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "a\n"));
step::run("02", "Second", || cmd::run(["false"], #{ always: "a test" }));
"#,
    );
    let events = place.run("plan.rhai --json").ends(1).json();
    let [.., error, ended] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&error["event"], &error["step"]), (&"error".into(), &"02".into()));
    assert_eq!((&ended["event"], &ended["step"]), (&"run_ended".into(), &Value::Null));
    place.write("m/a", "theirs\n");
    for words in ["plan.rhai --verify --json", "plan.rhai --dry-run --json"] {
        let events = place.run(words).json();
        let conflict = events.iter().find(|event| event["event"] == "conflict").unwrap();
        assert_eq!(conflict["step"], "01", "{words}: {conflict}");
    }
}

#[test]
fn command_of_data_that_fails_says_so_as_data() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "a\n"));"#);
    place.run("plan.rhai").ends(0);
    for (words, kind, exit) in [
        ("status nope", "usage", 2),
        ("history --plan nope", "usage", 2),
        ("show 999", "usage", 2),
        ("log 99", "usage", 2),
        ("check none.rhai", "usage", 2),
    ] {
        let events = place.run(&format!("{words} --json")).ends(exit).json();
        let [first, error, ..] = events.as_slice() else { panic!("{words}: {events:?}") };
        assert_eq!((&first["event"], &error["event"]), (&"schema".into(), &"error".into()), "{words}");
        assert_eq!((&error["kind"], &error["exit"]), (&kind.into(), &exit.into()), "{words}");
        assert!(words.starts_with("check") || !error["hints"].as_array().unwrap().is_empty(), "{error}");
    }
}
