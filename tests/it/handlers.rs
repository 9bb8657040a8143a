//! Handlers: they are pending until they ran, belong to a step of a plan, and follow the undo of the changes that
//! triggered them.

use crate::support::{Place, Ran};

/// What `kkrun pending` lists, without the numbers.
fn pending(place: &Place) -> Vec<String> {
    let listed = place.run("pending").ends(0).stdout;
    listed.lines().map(|line| line.split_once(' ').unwrap().1.trim_start().to_owned()).collect()
}

/// A plan whose test fails, killed before that was seen: its changes are made, its handler is pending, and the operator
/// has put something of theirs into what it made.
fn killed_before_its_test() -> Place {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["bash", "@/test"], run: [["touch", "@/ran"]] }, || {
        file::make_dir("@/m/d");
        cmd::run(["touch", "@/m/book"], #{ creates: "@/m/book", loses: "the visitors' book" });
        file::write("@/m/edited", "a\n");
        file::write("@/m/plain", "b\n");
    });
});
"#,
    )
    .with("ok", "")
    .with("test", "test -e @/ok || { echo theirs > @/m/edited; exit 1; }");
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("done");
    place.remove("ok");
    place.remove("ran");
    place.write("m/d/letter", "theirs\n");
    place
}

#[test]
fn undo_inside_a_run_keeps_data_as_a_rollback_does() {
    let place = killed_before_its_test();
    let failed = place.run("plan.rhai --yes --non-interactive").ends(1);
    failed
        .says("`bash @/test` ended with exit code 1")
        .says("undone because of that: make @/m/plain")
        .says("kept: make @/m/d")
        .says("`--purge homes` allows it")
        .says("kept: run touch @/m/book")
        .says("the visitors' book; `--purge data` allows it")
        .says("conflict: make @/m/edited");
    assert_eq!((place.read("m/d/letter"), place.read("m/edited")), ("theirs\n".into(), "theirs\n".into()));
    assert!(place.exists("m/book") && !place.exists("m/plain") && !place.exists("ran"));
    let history = place.run("history").ends(0).stdout;
    assert_eq!(history.matches(" kept ").count(), 2, "{history}");
    assert_eq!(history.matches(" conflict ").count(), 1, "{history}");
    assert_eq!(history.matches(" undone ").count(), 1, "{history}");

    // The changes that are in place have not passed the test.
    place.edit("plan/plan.rhai", "        file::write(\"@/m/edited\", \"a\\n\");\n", "");
    place.run("plan.rhai --yes --non-interactive").ends(1).says("ended with exit code 1");
    assert!(place.exists("m/d/letter") && !place.exists("m/plain"));
    place
        .run("plan.rhai --purge all")
        .ends(1)
        .says("undone because of that: make @/m/plain, run touch @/m/book");
    assert!(!place.exists("m/book") && !place.exists("m/d"));
}

#[test]
fn data_kept_by_an_undo_inside_a_run_stays_once_the_test_passes() {
    let place = killed_before_its_test();
    place.run("plan.rhai --non-interactive").ends(1);
    place.write("ok", "");
    place.run("plan.rhai --on-conflict keep").ends(0);
    assert!(place.exists("ran"));
    assert_eq!(pending(&place), Vec::<String>::new());
    let history = place.run("history").ends(0).stdout;
    assert!(!history.contains(" kept "), "{history}");
}

#[test]
fn a_test_that_cannot_be_run_leaves_nothing_pending() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["nosuchprog"] }, || file::write("@/m/a", "a\n"));
});
"#,
    );
    place
        .run("plan.rhai")
        .ends(1)
        .says("program `nosuchprog` not found")
        .says("undone because of that: make @/m/a");
    assert!(!place.exists("m/a"));
    assert_eq!(pending(&place), Vec::<String>::new());
    place.run("rollback").ends(0);
}

#[test]
fn handler_whose_commands_were_corrected_runs_the_new_ones() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "ech0 wrong >> @/log"]] }, || {
        file::write("@/m/a", "a\n");
        config::set("@/m/ini", "key", "new");
    });
    step::verify("it has run", || file::read("@/log").contains("right"));
});
"#,
    )
    .with("m/ini", "key = old\n");
    place
        .run("plan.rhai")
        .ends(1)
        .says("ended with exit code 127")
        .says("it stays pending")
        .says("`kkrun pending --drop 1`");
    place.run("plan.rhai").ends(1).says("ended with exit code 127");
    place.edit("plan/plan.rhai", "ech0 wrong", "echo right");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "right\n");
    assert_eq!(pending(&place), Vec::<String>::new());
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("log"), "right\n");
    place.run("rollback").ends(0).never_says("ech0");
    assert_eq!(place.read("log"), "right\nright\n", "a rollback runs the corrected ones, too");
}

#[test]
fn a_handler_that_the_script_no_longer_has_is_run_until_it_is_dropped() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "@/reload"]] }, || file::write("@/m/a", "a\n"));
});
"#,
    )
    .with("reload", "exit 3");
    place.run("plan.rhai").ends(1);
    place.write("plan/plan.rhai", "step::run(\"01\", \"First\", || log::info(\"nothing\"));");
    place.run("plan.rhai").ends(1).says("ended with exit code 3").says("`kkrun pending --drop 1`");
    place.run("pending --drop 1").ends(0).says("dropped: bash");
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0).never_says("bash");
}

const TYPO: &str = r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["systemctl", "reload", "ngnix"], ["bash", "-c", "echo ran >> @/log; exit 1"]] }, || file::write("@/m/a", "a\n"));
});
"#;

/// A plan with a handler that always fails, beside another plan.
fn beside_another(plan: &str) -> Place {
    let place = Place::new(plan)
        .with("plan/other.rhai", "step::run(\"01\", \"First\", || file::write(\"@/m/other\", \"o\\n\"));");
    place.run("plan.rhai").ends(1);
    place
}

#[test]
fn a_pending_handler_is_of_its_plan_alone() {
    let place = beside_another(
        "step::run(\"01\", \"First\", || {\n\
         step::on_change(#{ run: [[\"bash\", \"-c\", \"echo ran >> @/log; exit 1\"]] }, || file::write(\"@/m/a\", \"a\\n\"));\n});\n",
    );
    assert_eq!(place.read("log"), "ran\n");
    place.run("other.rhai").ends(0).never_says("pending").never_says("pending");
    place.run("rollback --plan other").ends(0).never_says("pending");
    assert_eq!(place.read("log"), "ran\n", "another plan does not run it");
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("log"), "ran\nran\n");
}

#[test]
fn pending_handlers_are_listed_and_dropped() {
    let place = beside_another(TYPO);
    let listed = place.run("pending").ends(0).stdout;
    assert!(listed.starts_with("#1 "), "{listed}");
    for part in ["plan", "01", "systemctl reload ngnix, bash -c", "make @/m/a"] {
        assert!(listed.contains(part), "`{part}`: {listed}");
    }
    let rows = place.run("pending --json").ends(0).json();
    assert_eq!(rows[0]["event"], "schema");
    let row = &rows[1];
    assert_eq!((&row["pending"], &row["plan"], &row["step"]), (&1.into(), &"plan".into(), &"01".into()));
    assert_eq!(row["handler"]["run"][0], serde_json::json!(["systemctl", "reload", "ngnix"]));
    assert_eq!(row["after_undo"], false);
    assert_eq!(row["changes"].as_array().unwrap().len(), 1);

    place.run("pending --drop 7").ends(2).says("unknown pending handler 7").says("kkrun pending");
    place.run("pending --drop 1").ends(0).says("dropped: systemctl reload ngnix");
    place.run("pending").ends(0).prints("").says("nothing is pending");
    place.run("plan.rhai").ends(0);
    assert!(place.run("history").ends(0).stdout.contains(" done "));

    // Numbers are never used again.
    place.edit("plan/plan.rhai", "\"a\\n\"", "\"b\\n\"");
    place.run("plan.rhai").ends(1);
    assert!(place.run("pending").ends(0).stdout.starts_with("#2 "));
    place.run("pending --drop 1").ends(2);
    assert!(place.run("--help").ends(0).stdout.contains("pending"));
}

#[test]
fn a_run_of_other_steps_leaves_what_is_pending_of_a_step_to_it() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "echo ran >> @/log; test -e @/go"]] }, || file::write("@/m/a", "a\n"));
});
step::run("02", "Second", || file::write("@/m/b", "b\n"));
"#,
    )
    .with("plan/settings.rhai", "#{ plan: \"plan\" }")
    .with("plan/look.rhai", "file::write(\"@/m/c\", \"c\\n\");");
    place.run("plan.rhai").ends(1);
    place.run("plan.rhai --only 02").ends(0);
    place.run("look.rhai").ends(0);
    assert_eq!(place.read("log"), "ran\n");
    place.write("go", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "ran\nran\n");
    assert_eq!(pending(&place), Vec::<String>::new());
}

#[test]
fn a_block_within_a_block_is_undone_alone_and_both_handlers_run_when_it_is_corrected() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "echo outer >> @/log"]] }, || {
        file::write("@/m/outer", "1\n");
        step::on_change(#{ test: ["grep", "-q", "good", "@/m/inner"], run: [["bash", "-c", "echo inner >> @/log"]] }, || {
            file::write("@/m/inner", "bad\n");
        });
    });
});
"#,
    )
    .with("m/inner", "good\n");
    place.run("plan.rhai").ends(1).says("undone because of that: write @/m/inner");
    assert_eq!((place.read("m/outer"), place.read("m/inner")), ("1\n".into(), "good\n".into()));
    assert_eq!(place.read("log"), "inner\n", "on the state from before; what stands around it has not ended");
    assert_eq!(pending(&place).len(), 1);
    place.edit("plan/plan.rhai", "bad", "good too");
    place.edit("plan/plan.rhai", "echo outer", "echo round");
    place.edit("plan/plan.rhai", "echo inner", "echo in");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "inner\nin\nround\n");
    assert_eq!(pending(&place), Vec::<String>::new());
    place.run("rollback").ends(0);
    assert_eq!(place.read("log"), "inner\nin\nround\nin\nround\n");
}

#[test]
fn what_a_killed_run_left_is_run_once_by_a_script_that_did_not_change() {
    // Two blocks ask for one target, and the run was killed before the second one's handler.
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "echo first >> @/log"]] }, || file::make_dir("@/m/d"));
    step::on_change(#{ run: [["bash", "-c", "echo second >> @/log"]] }, || {
        file::make_dir("@/m/d");
        file::write("@/m/d/a", "a\n");
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("done");
    place.remove("log");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "second\n");
    assert_eq!(pending(&place), Vec::<String>::new());
}

fn rolled_back(plan: &str) -> (Place, Ran) {
    let place = Place::new(plan).with("m/old", "0\n");
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    let ran = place.run("rollback").ends(0);
    assert_eq!(place.listing("m"), before);
    assert_eq!(pending(&place), Vec::<String>::new());
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    (place, ran)
}

#[test]
fn handler_test_of_a_removed_file_does_not_block_the_rollback() {
    let (_, ran) = rolled_back(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["grep", "-q", "1", "@/m/conf"] }, || file::write("@/m/conf", "1\n"));
});
"#,
    );
    ran.never_says("grep");
}

#[test]
fn after_an_undo_a_test_that_fails_skips_what_it_guards() {
    let (place, ran) = rolled_back(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["grep", "-q", "1", "@/m/conf"], run: [["bash", "-c", "echo reloaded >> @/log"]] }, || {
        file::write("@/m/conf", "1\n");
    });
});
"#,
    );
    ran.says("not run after the undo: bash -c 'echo reloaded >> @/log', because `grep -q 1 @/m/conf` ended with exit code 2");
    assert_eq!(place.read("log"), "reloaded\nreloaded\n", "it ran when the file was made, and at no undo");
}

#[test]
fn after_an_undo_a_test_that_passes_lets_its_commands_run() {
    let (place, _) = rolled_back(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["test", "-e", "@/m/old"], run: [["bash", "-c", "cat @/m/old >> @/log"]] }, || {
        file::write("@/m/old", "1\n");
    });
});
"#,
    );
    assert_eq!(place.read("log"), "1\n0\n1\n0\n");
}

#[test]
fn handler_of_a_removed_program_is_dropped_after_an_undo() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["@/m/tool", "x"]] }, || {
        file::copy("/bin/true", "@/m/tool");
        file::write("@/m/conf", "1\n");
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place
        .run("rollback")
        .ends(0)
        .says("not run after the undo: @/m/tool x, because program `@/m/tool` does not exist");
    assert_eq!(pending(&place), Vec::<String>::new());
}

#[test]
fn a_handler_that_fails_after_an_undo_stays_pending_and_can_be_dropped() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["test", "-e", "@/m/a"]] }, || file::write("@/m/a", "1\n"));
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(4).says("failed: test -e @/m/a").says("`kkrun pending --drop 2`");
    let listed = place.run("pending").ends(0).stdout;
    assert!(listed.contains("after an undo"), "{listed}");
    place.run("pending --drop 2").ends(0);
    place.run("rollback").ends(0);
}

#[test]
fn the_reason_of_a_failed_test_is_shown_though_the_undone_state_fails_too() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{
        test: ["bash", "-c", "echo 'syntax error in conf' >&2; grep -q good @/m/conf"],
        run: [["bash", "-c", "echo 'it does not run, cannot reload' >&2; exit 1"]],
    }, || file::write("@/m/conf", "bad\n"));
});
"#,
    )
    .with("m/conf", "good\n");
    let failed = place.run("plan.rhai").ends(1);
    let error = failed.stderr.split("error: ").nth(1).unwrap().to_owned();
    assert!(error.starts_with("the test of a handler failed: `bash -c 'echo '\\''syntax error"), "{error}");
    failed
        .says("     syntax error in conf")
        .says("undone because of that: write @/m/conf")
        .says("it does not run, cannot reload");
    assert_eq!(place.read("m/conf"), "good\n");
}

#[test]
fn a_restart_that_a_step_asked_for_is_not_asked_for_once_it_is_undone() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/a", "a\n"); host::reboot_required("a is read at boot"); });
step::run("02", "Second", || { file::write("@/m/b", "b\n"); host::reboot_required("b is read at boot"); });
"#,
    )
    .with("plan/other.rhai", "file::write(\"@/m/c\", \"c\\n\");");
    place.run("plan.rhai").ends(0).says("a restart of the machine: a is read").says("machine: b is read");
    place.run("other.rhai").ends(0).never_says("restart of the machine");
    assert_eq!(pending(&place).len(), 2);
    place.run("rollback 02 --plan plan").ends(0).never_says("b is read").says("a is read at boot");
    place.run("plan.rhai --redo 01").ends(0).never_says("b is read").says("machine: a is read");
    place.write("m/a", "theirs\n");
    place.run("rollback --plan plan").ends(4).says("a restart of the machine: a is read at boot");
    place.run("rollback --plan plan --on-conflict overwrite").ends(0).never_says("restart of the machine");
    assert_eq!(pending(&place), Vec::<String>::new());
}

/// Runs a shell script in a booted clone, and holds that it ends well.
pub(crate) fn holds_on_a_booted_machine(script: &str) {
    let base =
        std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
    let place = tempfile::tempdir_in("/root").unwrap();
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write(
        "plan.rhai",
        "file::copy(\"files/script.sh\", \"/root/script.sh\");\n\
         cmd::run([\"bash\", \"/root/script.sh\"], #{ always: \"a test\", timeout: 900 });\n",
    );
    std::fs::create_dir(place.path().join("files")).unwrap();
    write("files/script.sh", script);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun"))
        .args(["rehearse", "--yes", "--non-interactive", "-v", "--base"])
        .arg(base)
        .arg("plan.rhai")
        .current_dir(place.path())
        .env_remove("TMPDIR")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all of it holds"), "{said}");
}

#[test]
#[ignore = "needs root and a Debian base"]
fn booted_machine_rolls_back_units_users_and_data() {
    holds_on_a_booted_machine(include_str!("handlers.sh"));
}

#[test]
#[ignore = "needs root and a Debian base"]
fn booted_machine_keeps_what_two_plans_ask_for_until_the_last_is_rolled_back() {
    holds_on_a_booted_machine(include_str!("claims.sh"));
}
