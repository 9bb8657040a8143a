//! The command line's contract: options, exit statuses, what goes to which stream, JSON.

use crate::support::Place;

const PLAN: &str = r#"
step::run("01", "First", || { file::write("@/m/a", "a\n"); print("data"); log::warn("careful"); });
step::run("02", "Second", || { if host::args() != [] { print(host::args()); } });
"#;

#[test]
fn options_are_read_on_both_sides_and_arguments_after_two_dashes_are_the_scripts() {
    let place = Place::new(PLAN);
    place.run("--dry-run plan.rhai").ends(6);
    place.run("plan.rhai --dry-run").ends(6);
    place.run("plan.rhai -q a -- --dry-run").ends(0).prints("data\n[\"a\", \"--dry-run\"]\n");
    place.run("plan.rhai -- --dash").ends(0).says("`kkrun plan.rhai --repair -- --dash` examines it");
    place.run("plan.rhai --repair -- --dash").ends(0);
    for words in
        ["--frob plan.rhai", "plan.rhai --frob", "rollback --frob", "plan.rhai --on-conflict perhaps", ""]
    {
        place.run(words).ends(2).prints("");
    }
    place.run("--help").ends(0);
    place.run("--version").ends(0).prints(concat!("kkrun ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn data_goes_to_stdout_and_messages_to_stderr() {
    let place = Place::new(PLAN);
    place.run("plan.rhai").ends(0).prints("data\n").says("careful").says("✅ 01 First");
    let place = Place::new(PLAN);
    place.run("-q plan.rhai").shows(0, "data\n", "  ❗ careful\n");
    let place = Place::new(r#"cmd::run(["echo", "loud"], #{ always: "a test" });"#);
    place.run("-v plan.rhai").shows(0, "", "      $ echo loud\n        loud\n      run echo loud\n");
    place.run("plan.rhai").shows(0, "", "");
}

#[test]
fn json_is_one_event_a_line_from_the_schema_to_the_summary() {
    let place = Place::new(PLAN);
    let events = place.run("--json plan.rhai").ends(0).json();
    assert_eq!(
        events[0],
        serde_json::json!({ "event": "schema", "version": "2.5", "kkrun": env!("CARGO_PKG_VERSION") })
    );
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "schema",
            "plan_started",
            "step_started",
            "change",
            "output",
            "said",
            "step_completed",
            "step_started",
            "step_completed",
            "run_ended"
        ]
    );
    let last = |words: &str, status: i32| place.run(words).ends(status).json().pop().unwrap();
    let mut ended = events.last().unwrap().clone();
    let time = ended.as_object_mut().unwrap().remove("time").unwrap();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    assert_eq!(
        ended,
        serde_json::json!({ "event": "run_ended", "changed": 1, "not_undone": 0, "failed": [], "pending": [], "exit": 0, "step": null })
    );
    assert!(events[2..7].iter().all(|event| event["step"] == "01"), "{events:?}");
    assert_eq!(last("--json plan.rhai", 0)["changed"], 0);
    assert_eq!(last("--json plan.rhai --dry-run --redo 01", 0)["exit"], 0);
    assert_eq!(last("--json rollback --dry-run", 6)["changed"], 1);
    assert_eq!(last("--json rollback", 0)["changed"], 1);
    place.edit("plan/plan.rhai", "print(\"data\")", "throw \"no\"");
    let failed = last("--json plan.rhai", 1);
    assert_eq!((failed["failed"].clone(), failed["exit"].clone()), (serde_json::json!(["01"]), 1.into()));
}

#[test]
fn json_has_a_summary_of_a_run_that_never_began() {
    let place = Place::new(PLAN);
    for (words, status) in
        [("--json none.rhai", 2), ("--json plan.rhai --only 9", 2), ("--json rollback 9", 2)]
    {
        let events = place.run(words).ends(status).json();
        assert_eq!(events.first().unwrap()["event"], "schema", "{words}");
        assert_eq!(events.last().unwrap()["event"], "run_ended", "{words}");
        assert_eq!(events.last().unwrap()["exit"], status, "{words}");
    }
}

#[test]
fn closed_pipe_does_not_stop_the_run() {
    let place = Place::new(PLAN);
    let kkrun = place.command(&["-v", "plan.rhai"]);
    let line = format!(
        "cd '{}' && '{}' --state-dir '{}' -v plan.rhai 2>&1 | true",
        place.path("plan").display(),
        kkrun.get_program().display(),
        place.path("state").display()
    );
    std::process::Command::new("bash").args(["-c", &line]).status().unwrap();
    assert!(place.exists("m/a"));
    crate::support::until("the run has ended", || {
        place.records().last().is_some_and(|kind| kind == "run_ended")
    });
}

#[test]
fn summary_lists_what_is_pending() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["test", "-e", "@/m/go"]] }, || file::write("@/m/a", "a\n"));
});
"#,
    );
    place.run("plan.rhai").ends(1).says("still pending: test -e @/m/go");
    assert!(place.exists("m/a"));
    place.write("m/go", "");
    place.run("plan.rhai").ends(0).never_says("pending");
}

#[test]
fn logs_are_found_by_any_id() {
    let place = Place::new(r#"step::run("a.b/c", "First", || log::info("heard"));"#);
    place.run("log").ends(1).says("no log found: no step has run");
    place.run("plan.rhai").ends(0);
    place.run("log a.b/c").ends(0).prints("heard\n");
    place.run("log").ends(0).prints("heard\n");
    place.run("log other").ends(2).says("no log found: step `other` has not run");
}

#[test]
fn an_exported_plan_is_the_built_in_one() {
    let place = Place::empty();
    place.run_words(&["export", place.path("mine").to_str().unwrap()]).ends(0);
    for (name, built_in) in
        [("scripts/master.rhai", "scripts/master.rhai"), ("stdlib/nginx.rhai", "stdlib/nginx.rhai")]
    {
        let exported = place.read(&format!("mine/{name}"));
        let source =
            std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(built_in)).unwrap();
        assert_eq!(exported, source);
    }
    place.run_words(&["export", place.path("mine").to_str().unwrap()]).ends(2).says("it already exists");
}

#[test]
fn completions_are_written_for_a_shell() {
    let place = Place::empty();
    assert!(place.run("completions bash").ends(0).stdout.contains("--state-dir"));
    place.run("completions tcl").ends(2);
}

#[test]
fn data_that_cannot_be_written_is_a_failure() {
    for words in [&["api"][..], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut kkrun = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun"));
        let output = kkrun.args(words).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr)
                .contains("no space left on device; the output is incomplete"),
            "{words:?}"
        );
    }
}

#[test]
fn commands_in_messages_work_when_they_are_pasted() {
    let place = Place::empty()
        .with(
            "plan/a plan.rhai",
            r#"step::run("01", "One", || file::write("@/m/f", "1\n")); step::run("02", "Two", || throw settings::why);"#,
        )
        .with("plan/settings.rhai", r#"#{ why: "otherwise" }"#)
        .with("plan/more.rhai", r#"#{ why: "because" }"#);
    let state = place.path("state").display().to_string();
    let raw = |words: &[&str]| {
        let output = place.command(words).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let commands = |text: &str| -> Vec<String> {
        let ticked = text.split('`').skip(1).step_by(2);
        ticked.filter(|text| text.starts_with("kkrun ")).map(str::to_owned).collect()
    };
    let pasted = |text: &str, wanted: usize| {
        let found = commands(text);
        assert!(found.len() >= wanted, "{text}");
        for command in found {
            assert!(command.contains(&format!("--state-dir {state} ")), "{command}");
            let words = shell_words::split(&command).unwrap();
            let words: Vec<&str> = words.iter().skip(3).map(String::as_str).collect();
            let output = place.command(&words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_run = command.contains("a plan.rhai");
            assert_eq!(output.status.code(), Some(i32::from(is_run)), "{command}: {said}");
            assert!(
                !command.contains("--settings more.rhai") || said.contains("because"),
                "{command}: {said}"
            );
        }
    };
    pasted(&raw(&["--settings", "more.rhai", "a plan.rhai"]), 2);
    pasted(&raw(&["status"]), 2);
    pasted(&raw(&["status", "a plan.rhai"]), 2);
    pasted(&raw(&["log", "99"]), 0);
    place.write("m/f", "2\n");
    // What the first of its commands decides is decided for the others.
    let conflict = raw(&["rollback"]);
    pasted(&conflict[..=conflict.rfind("to keep it").unwrap()], 1);
    pasted(&raw(&["status"]), 1);
    let json = raw(&["a plan.rhai", "--json"]);
    assert!(json.contains("kkrun --state-dir"), "{json}");
}
