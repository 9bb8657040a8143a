//! Commands that run on the machine itself and name the paths that they touch.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::support::{Place, until};

/// A plan of one command, run by bash, that names these paths.
fn touching(script: &str, touches: &[&str], options: &str) -> Place {
    let touches: Vec<String> = touches.iter().map(|path| format!("\"@/m/{path}\"")).collect();
    Place::new(&format!(
        "step::run(\"01\", \"First\", || cmd::run([\"bash\", \"-ec\", `{script}`], #{{ label: \"it\", touches: [{}], {options} }}));\n",
        touches.join(", ")
    ))
}

const ALWAYS: &str = "always: \"a test\"";

#[test]
fn what_a_command_changes_at_the_paths_that_it_names_is_undone() {
    let script = "echo more >> @/m/conf; chmod 0600 @/m/conf; rm -r @/m/tree/old; mkdir -p @/m/tree/new; \
        echo x > @/m/tree/new/x; ln -sfn new @/m/tree/link; mkdir -p @/m/way/there; echo y > @/m/way/there/y; echo z > @/m/other";
    let place = touching(script, &["conf", "tree", "way/there"], ALWAYS);
    place.write("m/conf", "first\n");
    fs::set_permissions(place.path("m/conf"), fs::Permissions::from_mode(0o640)).unwrap();
    place.write("m/tree/old/deep", "deep\n");
    std::os::unix::fs::symlink("old", place.path("m/tree/link")).unwrap();
    let picture = |name: &str| {
        let found = fs::symlink_metadata(place.path(name)).unwrap();
        (found.mode(), found.mtime(), found.mtime_nsec())
    };
    let before = ["m/conf", "m/tree", "m/tree/old", "m/tree/old/deep"].map(picture);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/conf"), "first\nmore\n");
    place.run("rollback --dry-run").ends(6);
    place.run("rollback").ends(0).says("1 undone");
    assert_eq!(["m/conf", "m/tree", "m/tree/old", "m/tree/old/deep"].map(picture), before);
    assert_eq!((place.read("m/conf"), place.read("m/tree/old/deep")), ("first\n".into(), "deep\n".into()));
    assert_eq!(fs::read_link(place.path("m/tree/link")).unwrap(), PathBuf::from("old"));
    // The directories above a named path go with it; what was not named stays.
    assert!(!place.exists("m/tree/new") && !place.exists("m/way") && place.exists("m/other"));
}

#[test]
fn what_it_changed_is_found_by_its_paths_and_shown() {
    let place = touching("echo more >> @/m/conf; echo x > @/m/tree/x", &["conf", "tree"], ALWAYS);
    place.write("m/conf", "first\n");
    place.write("m/tree/other", "");
    place.run("plan.rhai").ends(0);
    for path in ["m/conf", "m/tree/x"] {
        let history = place.run(&format!("history {}", place.path(path).display())).ends(0).stdout;
        assert!(history.contains("run it"), "{path}: {history}");
    }
    for path in ["m/tree/other", "m/nowhere"] {
        let asked = format!("history {}", place.path(path).display());
        place.run(&asked).ends(0).says("no such changes are recorded").prints("");
    }
    let row = place.run("history --json").ends(0).json().pop().unwrap();
    let shown = place.run(&format!("show {}", row["change"])).ends(0).stdout;
    assert!(
        shown.contains("m/conf: ") && shown.contains("+more") && shown.contains("m/tree/x: a file"),
        "{shown}"
    );
    let json = place.run(&format!("show {} --json", row["change"])).ends(0).json().pop().unwrap();
    assert!(json["difference"].as_str().unwrap().contains("+more"), "{json}");
}

#[test]
fn a_path_that_was_modified_since_is_a_conflict_and_the_others_are_undone() {
    let place = touching("echo new > @/m/one; mkdir @/m/two; echo x > @/m/two/x", &["one", "two"], ALWAYS);
    place.write("m/one", "1\n");
    place.run("plan.rhai").ends(0);
    place.write("m/one", "theirs\n");
    place.run("rollback").ends(4).says("@/m/one: content differs").never_says("m/two");
    assert_eq!(place.read("m/one"), "theirs\n");
    assert!(!place.exists("m/two"));
    place.run("rollback --on-conflict overwrite --yes").ends(0);
    assert_eq!(place.read("m/one"), "1\n");
    assert!(place.backup_of("theirs\n").exists());
}

#[test]
fn a_failed_command_leaves_the_paths_that_it_names_as_they_were() {
    let place = touching("echo more >> @/m/one; echo x > @/m/made; exit 3", &["one", "made"], ALWAYS);
    place.write("m/one", "1\n");
    place.run("plan.rhai").ends(1).says("exit code 3");
    assert_eq!(place.read("m/one"), "1\n");
    assert!(!place.exists("m/made") && !place.exists("state/aside"));
    place.edit("plan/plan.rhai", "; exit 3", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/one"), "1\nmore\n");
}

#[test]
fn what_a_killed_command_left_is_restored_and_none_of_it_is_lost() {
    let script = "echo more >> @/m/one; mkdir -p @/m/made; echo x > @/m/made/x; echo on > @/m/mark; sleep 60";
    let place = touching(script, &["one", "made"], ALWAYS);
    place.write("m/one", "1\n");
    let started = place.start("plan.rhai");
    until("the command is at work", || place.exists("m/mark"));
    started.kill();
    place.write("m/made/mine", "mine\n");
    place.edit("plan/plan.rhai", "; sleep 60", "");
    place.run("plan.rhai").ends(0).says("`@/m/made` was moved to `@/state/aside/1/made`");
    assert_eq!(place.read("m/one"), "1\nmore\n");
    assert_eq!(place.read("state/aside/1/made/mine"), "mine\n");
    assert!(place.backup_of("1\nmore\n").exists());
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/one"), "1\n");
    assert!(!place.exists("m/made"));
}

#[test]
fn a_rollback_restores_what_a_killed_command_left() {
    let script = "echo more >> @/m/one; echo on > @/m/mark; sleep 60";
    let place = touching(script, &["one"], ALWAYS);
    place.write("m/one", "1\n");
    let started = place.start("plan.rhai");
    until("the command is at work", || place.exists("m/mark"));
    started.kill();
    place.run("rollback").ends(0).says("1 undone");
    assert_eq!(place.read("m/one"), "1\n");
}

#[test]
fn kkruns_own_changes_before_and_after_such_a_command_are_undone_in_their_order() {
    let place = Place::new(
        r#"
step::run("01", "One", || {
    file::write("@/m/conf", "one\n");
    cmd::run(["bash", "-c", "echo two >> @/m/conf"], #{ always: "a test", touches: ["@/m/conf"] });
});
step::run("02", "Two", || file::write("@/m/conf", "three\n"));
"#,
    );
    place.write("m/conf", "zero\n");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/conf"), "three\n");
    place.run("rollback 02").ends(0);
    assert_eq!(place.read("m/conf"), "one\ntwo\n");
    place.run("rollback 01").ends(0);
    assert_eq!(place.read("m/conf"), "zero\n");
}

#[test]
fn it_needs_a_guard_and_none_that_says_how_it_is_undone() {
    touching("true", &["one"], "")
        .run("plan.rhai")
        .ends(2)
        .says("needs one of `creates`, `unless`, `always`");
    touching("true", &["one"], "always: \"x\", undo: []")
        .run("plan.rhai")
        .ends(1)
        .says("`touches` must not be combined with `undo`");
    let place = touching("echo x >> @/m/one", &["one"], "creates: \"@/m/one\"");
    place.write("m/other", "");
    place.run("plan.rhai").ends(0);
    place.run("--redo=01 plan.rhai").ends(0);
    assert_eq!(place.read("m/one"), "x\n");
}

#[test]
fn too_large_a_tree_is_refused_before_anything_is_done() {
    let place = touching("echo x > @/m/made", &["large", "made"], ALWAYS);
    place.write("m/large/file", "");
    fs::File::options().write(true).open(place.path("m/large/file")).unwrap().set_len(3 << 30).unwrap();
    place.run("plan.rhai").ends(1).says("at most 50000 files, 2 GB are recorded");
    assert!(!place.exists("m/made"));
}

#[test]
fn a_path_with_the_own_record_in_it_and_a_file_with_a_name_elsewhere_are_refused() {
    let place = Place::new("");
    place.write("m/t/out", "z\n");
    fs::hard_link(place.path("m/t/out"), place.path("m/elsewhere")).unwrap();
    for (path, said) in [
        ("@", "kkrun keeps its own record in"),
        ("@/state", "kkrun keeps its own record in"),
        ("@/state/backups", "kkrun keeps its own record in"),
        ("@/m/t", "it has another name outside of `touches`"),
    ] {
        let call = format!("cmd::run([\"touch\", \"@/m/ran\"], #{{ touches: [\"{path}\"], {ALWAYS} }});");
        place.write("plan/plan.rhai", &format!("step::run(\"01\", \"First\", || {{ {call} }});\n"));
        place.run("plan.rhai").ends(1).says(said);
        assert!(!place.exists("m/ran"), "{path}");
    }
    fs::remove_file(place.path("m/elsewhere")).unwrap();
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/t/out"), "z\n");
}

#[test]
fn a_step_goes_on_behind_such_a_command_and_an_examination_finds_what_is_gone() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || {\n    cmd::run([\"bash\", \"-c\", \"echo more >> @/m/list\"], #{ always: \"a test\", touches: [\"@/m/list\"] });\n    \
         cmd::run([\"test\", \"-e\", \"@/m/flag\"], #{ always: \"a test\" });\n});\n",
    );
    place.run("plan.rhai").ends(1);
    place.write("m/flag", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/list"), "more\n", "it is not run again");
    place.run("plan.rhai --verify").ends(0);
    fs::remove_file(place.path("m/list")).unwrap();
    place.run("plan.rhai --verify").ends(1).says("`@/m/list` was removed");
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/list"), "more\n");
}

#[test]
fn such_a_command_is_run_again_on_what_comes_before_it_and_is_written_again() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || {\n    file::write(\"@/m/list\", \"first\\n\");\n    \
         cmd::run([\"bash\", \"-c\", \"echo more >> @/m/list\"], #{ always: \"a test\", touches: [\"@/m/list\"] });\n    \
         cmd::run([\"test\", \"-e\", \"@/m/flag\"], #{ always: \"a test\" });\n});\n",
    );
    place.run("plan.rhai").ends(1);
    place.run("plan.rhai").ends(1);
    place.write("m/flag", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/list"), "first\nmore\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/list"));
}
