//! Commands that leave nothing kkrun could undo: they are recorded, and a rollback names them.

use crate::support::Place;

const MIXED: &str = r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/a"], #{ creates: "@/m/a" });
    cmd::run(["touch", "@/m/b"], #{ unless: ["test", "-e", "@/m/b"], undo: [["rm", "@/m/b"]] });
    cmd::run(["touch", "@/m/c"], #{ unless: ["test", "-e", "@/m/c"] });
    cmd::run(["touch", "@/m/d"], #{ unless: || file::exists("@/m/d"), undo: [] });
    cmd::run(["touch", "@/m/e"], #{ unless: ["test", "-e", "@/m/e"], made_from: "1" });
    step::on_change(#{ run: [["true"]] }, || cmd::run(["touch", "@/m/f"], #{ unless: ["test", "-e", "@/m/f"] }));
    cmd::run(["bash", "-c", "echo . >> @/m/g"], #{ always: "a test" });
});
"#;

#[test]
fn rollback_lists_commands_that_it_does_not_undo() {
    let place = Place::new(MIXED);
    place.run("plan.rhai").ends(0).says("7 changes");
    let history = place.run("history").ends(0).stdout;
    assert_eq!((history.lines().count(), history.matches(" irreversible ").count()), (7, 5), "{history}");
    for (words, status) in [("rollback --dry-run", 6), ("rollback", 0)] {
        let ran = place.run(words).ends(status);
        ran.says("undone · 0 kept · 0 conflicts · 0 failed · 5 not undone")
            .says("not undone: run touch @/m/c\n      its script names no undo action")
            .says("not undone: run touch @/m/d\n      its script says that there is nothing to undo")
            .says("not undone: run touch @/m/e")
            .says("not undone: run touch @/m/f")
            .says("not undone: run bash -c 'echo . >> @/m/g'");
    }
    assert!(!place.exists("m/a") && !place.exists("m/b") && place.exists("m/c"));
    // It was said, and nothing more can be done about it.
    place.run("rollback").ends(0).says("0 undone").never_says("not undone");
    assert!(place.run("history").ends(0).stdout.contains("irreversible"));
}

#[test]
fn json_of_a_rollback_lists_commands_that_it_does_not_undo() {
    let place = Place::new(MIXED);
    place.run("plan.rhai").ends(0);
    let events = place.run("rollback --json").ends(0).json();
    let listed = events.iter().filter(|event| event["outcome"] == "not_undone").count();
    assert_eq!(listed, 5, "{events:#?}");
    let last = events.last().unwrap();
    assert_eq!((&last["changed"], &last["not_undone"]), (&2.into(), &5.into()), "{last}");
}

#[test]
fn killed_command_without_an_undo_action_is_in_doubt_and_named_by_a_rollback() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "touch @/m/half; kill -KILL $PPID; exit 1"], #{ always: "a test" });
});
"#,
    );
    place.run("plan.rhai").ends(-9);
    assert!(place.run("history").ends(0).stdout.contains("in doubt"));
    let said = place.run("rollback").ends(0);
    said.says("not undone: run bash").says("it may have been stopped half-way").says("1 not undone");
    assert!(place.exists("m/half"));
}

#[test]
fn failed_step_says_how_much_of_what_it_made_can_be_undone() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/a", "");
    cmd::run(["touch", "@/m/b"], #{ always: "a test" });
    cmd::run(["false"], #{ always: "a test" });
});
"#,
    );
    let said = place.run("plan.rhai").ends(1);
    said.says("step 01 made 2 changes so far; 1 of them cannot be undone; the command that failed may have made more");
    let listed = place.run("history").ends(0).stdout;
    assert!(listed.contains("failed       run false (ended with exit code 1)"), "{listed}");
    let row = place.run("history --json").ends(0).json().pop().unwrap();
    let detail = "ended with exit code 1";
    assert_eq!((&row["state"], &row["detail"]), (&"failed".into(), &detail.into()), "{row}");
    let shown = place.run(&format!("show {}", row["change"])).ends(0).stdout;
    assert!(shown.contains("state: failed (ended with exit code 1)"), "{shown}");
    assert!(!place.run("doctor").ends(0).stdout.contains("in doubt"), "its end is known");
    let known = place.run("rollback --dry-run").ends(6);
    known.says("it failed, and may have done a part of it").never_says("half-way");
    // A run that is killed while it does it again leaves it in doubt.
    place.edit("plan/plan.rhai", "[\"false\"]", "[\"bash\", \"-c\", \"kill -KILL $PPID\"]");
    place.run("plan.rhai").ends(-9);
    assert!(place.run("history").ends(0).stdout.contains("in doubt"));
}

#[test]
fn commands_that_ran_often_are_one_line_of_a_rollback() {
    let place = Place::new(
        r#"step::run("01", "First", || { for at in 0..30 { cmd::run(["true"], #{ always: "a test" }); } });"#,
    );
    place.run("plan.rhai").ends(0).says("30 changes");
    let said = place.run("rollback").ends(0).says("30 not undone").says("(30 times)");
    assert_eq!(said.stderr.matches("not undone: ").count(), 1, "{}", said.page());
}

#[test]
fn command_whose_effect_went_with_another_change_is_undone() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::make_dir("@/m/data");
    cmd::run(["touch", "@/m/data/a"], #{ unless: ["test", "-e", "@/m/data/a"] });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback --purge homes").ends(0).says("2 undone").never_says("not undone");
}

#[test]
fn step_is_complete_whatever_its_commands_left_before() {
    let place = Place::new(MIXED).with(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status}`); }"#,
    );
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "echo . >>", "echo , >>");
    place.run("plan.rhai").ends(0).says("1 change");
    let said = place.run("look.rhai").ends(0).prints("01 complete\n");
    said.never_says("no longer asks for");
}

#[test]
fn second_plan_is_rolled_back_by_name_only_while_the_first_has_something_to_undo() {
    let place = Place::new(MIXED)
        .with("plan/zoo.rhai", r#"step::run("01", "Zoo", || { file::write("@/m/zoo", ""); });"#);
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(0);
    place.run("rollback").ends(2).says("run `kkrun rollback --plan plan` or `kkrun rollback --plan zoo`");
    place.run("rollback --plan plan").ends(0);
    place.run("rollback").ends(0).says("1 undone");
}

#[test]
fn command_is_retried_only_when_its_output_matches_retry_on() {
    let script = |message: &str| {
        format!(
            r#"
step::run("01", "First", || {{
    cmd::run(["bash", "-c", "echo . >> @/m/tries; echo 'npm error code {message}' >&2; test $(wc -l < @/m/tries) = 3"],
        #{{ always: "a test", retries: 5, backoff: 0.01, retry_on: "ECONNRESET|ETIMEDOUT" }});
}});
"#
        )
    };
    let place = Place::new(&script("ETIMEDOUT"));
    place.run("plan.rhai").ends(0).says("retrying");
    assert_eq!(place.read("m/tries"), ".\n.\n.\n");
    let place = Place::new(&script("ERESOLVE"));
    place.run("plan.rhai").ends(1).never_says("retrying");
    assert_eq!(place.read("m/tries"), ".\n");
}

#[test]
fn invalid_retry_on_is_reported_before_the_first_step() {
    let place = Place::new(
        r#"step::run("01", "First", || cmd::run(["true"], #{ always: "a test", retry_on: "(" }));"#,
    );
    place.run("check plan.rhai").ends(2).says("option `retry_on`").says("unclosed group");
}
