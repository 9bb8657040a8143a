//! Rollbacks: from the journal alone, newest first, and nothing that kkrun did not do.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Place, until};
use rustix::process::Signal;

/// Changes what exists and makes what does not.
const PLAN: &str = r#"
step::run("01", "First", || {
    file::write("@/m/old", "new\n");
    file::make_dir("@/m/dir", #{ mode: "0750" });
});
step::run("02", "Second", || {
    file::write("@/m/dir/file", "f\n");
    file::link("@/m/dir/file", "@/m/link");
    file::remove("@/m/gone");
});
step::run("03", "Third", || {
    cmd::run(["bash", "-c", "echo made > @/m/product"], #{ creates: "@/m/product" });
    cmd::run(["touch", "@/m/made"], #{ unless: ["test", "-e", "@/m/made"], undo: [["rm", "@/m/made"]] });
});
"#;

fn done() -> (Place, String) {
    let place = Place::new(PLAN).with("m/old", "old\n").with("m/gone", "gone\n");
    std::fs::set_permissions(place.path("m/old"), PermissionsExt::from_mode(0o755)).unwrap();
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    (place, before)
}

#[test]
fn path_that_was_changed_is_a_target_as_it_is_typed() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/f", "1\n"));
step::run("02", "Second", || file::write("@/m/c:d", "2\n"));
"#,
    );
    place.run("plan.rhai").ends(0);
    let typed = |words: &str, name: &str| format!("rollback {words} {}", place.path(name).display());
    place.run(&typed("--dry-run", "m/c:d")).ends(6).says("would undo: make @/m/c:d");
    place.run(&typed("", "m/f")).ends(0);
    assert!(!place.exists("m/f") && place.exists("m/c:d"));
}

#[test]
fn line_ending_in_a_path_makes_no_line_of_its_own() {
    let place = Place::new("step::run(\"01\", \"First\", || file::write(\"@/m/n\\nl\", \"1\\n\"));");
    place.run("plan.rhai -v").ends(0).says("make @/m/n\\nl");
    let history = place.run("history").ends(0).stdout;
    assert!(history.lines().count() == 1 && history.contains("make @/m/n\\nl"), "{history}");
    place.run("rollback").ends(0).says("removed @/m/n\\nl");
}

#[test]
fn rollback_needs_no_script_and_changes_nothing_when_repeated() {
    let (place, before) = done();
    place.remove("plan/plan.rhai");
    place.run("rollback --dry-run").shows(
        6,
        "",
        "
  ↩  would undo: run touch @/m/made
  ↩  would undo: run bash -c 'echo made > @/m/product'
      remove `@/m/product` (1 file, 5 bytes)
  ↩  would undo: remove @/m/gone
  ↩  would undo: link @/m/link
  ↩  would undo: make @/m/dir/file
  ↩  would undo: make @/m/dir
  ↩  would undo: write @/m/old
7 would be undone · 0 kept · 0 conflicts · 0 failed
",
    );
    assert_ne!(place.listing("m"), before, "a preview changes nothing");
    let records = place.records().len();
    place.run("rollback").shows(
        0,
        "",
        "
  ↩  undone: run touch @/m/made
  ↩  undone: run bash -c 'echo made > @/m/product'
  ↩  restored @/m/gone
  ↩  removed @/m/link
  ↩  removed @/m/dir/file
  ↩  removed @/m/dir
  ↩  restored @/m/old
7 undone · 0 kept · 0 conflicts · 0 failed
",
    );
    assert_eq!(place.listing("m"), before);
    assert!(place.records().len() > records, "history only grows");
    let prints = (place.prints_of("m"), place.prints_of("state/journal"));
    place.run("rollback").ends(0).says("0 undone · 0 kept · 0 conflicts · 0 failed");
    assert_eq!((place.prints_of("m"), place.prints_of("state/journal")), prints);
    let history = place.run("history").ends(0).stdout;
    assert_eq!(history.matches(" undone ").count(), 7, "{history}");

    place.write("plan/plan.rhai", PLAN);
    place.run("plan.rhai").ends(0).never_says("not re-examined");
    assert_eq!(place.read("m/old"), "new\n");
}

#[test]
fn step_rolled_back_alone_is_on_hold_and_refused_when_a_later_change_needs_it() {
    let (place, _) = done();
    let listed = place.listing("m");
    place.run("rollback 01").ends(1).says("cannot undo step 01 alone").says("of step 02");
    assert_eq!(place.listing("m"), listed);
    place.run("rollback 02 --dry-run").ends(6).says("3 would be undone");
    assert_eq!(place.listing("m"), listed);
    place.run("rollback 02").ends(0).says("3 undone");
    assert!(place.exists("m/dir") && !place.exists("m/dir/file") && place.exists("m/gone"));

    place.write(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status}`); }"#,
    );
    place.run("look.rhai").ends(0).prints("01 complete\n02 on_hold\n03 complete\n");
    place.run("plan.rhai").ends(0).says("02 Second                 on hold");
    assert!(!place.exists("m/dir/file"));
    place.run("rollback 01").ends(0);
    place.run("plan.rhai --only 01,02").ends(0);
    assert!(place.exists("m/dir/file"));
    place.run("look.rhai").ends(0).prints("01 complete\n02 complete\n03 complete\n");
    place.run("rollback 9").ends(2).says("unknown step or target `9` in the plan `plan`").says("01, 02, 03");
    place
        .run("rollback file:/nowhere")
        .ends(2)
        .says("unknown step or target `file:/nowhere` in the plan `plan`");
    place.run("rollback /nowhere").ends(2).says("unknown step or target `/nowhere`");
}

#[test]
fn rollback_keeps_and_shows_a_conflict_until_overwrite() {
    let (place, before) = done();
    place.write("m/old", "theirs\n");
    place.run("rollback").shows(
        4,
        "",
        "
  ↩  undone: run touch @/m/made
  ↩  undone: run bash -c 'echo made > @/m/product'
  ↩  restored @/m/gone
  ↩  removed @/m/link
  ↩  removed @/m/dir/file
  ↩  removed @/m/dir
  ✋ conflict: write @/m/old
      content differs (4 → 7 bytes)
      --- as kkrun left it
      +++ as it is now
      @@ -1 +1 @@
      -new
      +theirs
      to overwrite it with the state from before, run `kkrun rollback file:@/m/old --on-conflict overwrite`
      to keep it, run `kkrun rollback file:@/m/old --on-conflict keep`
6 undone · 0 kept · 1 conflict · 0 failed
",
    );
    assert_eq!(place.read("m/old"), "theirs\n");
    place.run("rollback").ends(4).says("0 undone · 0 kept · 1 conflict");
    place.run("rollback --on-conflict overwrite").ends(0).says("1 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn directory_that_gained_files_is_kept_until_its_loss_is_agreed_to() {
    let (place, before) = done();
    place.write("m/dir/photo", "precious");
    let said = place.run("rollback --yes").ends(0).says("6 undone · 1 kept · 0 conflicts · 0 failed");
    said.says("kept: make @/m/dir").says("1 entry that kkrun did not make").says("--purge homes");
    assert_eq!(place.read("m/dir/photo"), "precious");
    place.run("rollback --purge cats").ends(2).says("invalid value 'cats'").says("users, homes");
    place.run("rollback --purge homes").ends(0).says("1 undone");
    assert_eq!(place.listing("m"), before);
}

const SLOW_UNDO: &str = r#"
step::run("01", "First", || { file::write("@/m/a", "a\n"); });
step::run("02", "Second", || {
    cmd::run(["touch", "@/m/b"], #{
        creates: "@/m/b",
        undo: [["bash", "-c", "echo begin >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo end >> @/m/log"]],
    });
});
step::run("03", "Third", || { file::write("@/m/c", "c\n"); });
"#;

#[test]
fn killed_rollback_blocks_every_run_until_it_is_finished() {
    for by_script in [false, true] {
        let place = Place::new(SLOW_UNDO)
            .with("plan/settings.rhai", r#"#{ plan: "kiosk" }"#)
            .with("plan/other.rhai", r#"file::write("@/m/other", "x");"#)
            .with("plan/back.rhai", "print(rollback::apply().undone.len());");
        place.run("plan.rhai").ends(0);
        let finish = if by_script { "back.rhai" } else { "rollback" };
        let started = place.start(finish);
        until("the undoing command is at work", || place.holds("m/log", "\n"));
        started.kill();
        assert!(!place.exists("m/c") && place.exists("m/a"));

        place.run("doctor").ends(0);
        for refused in ["plan.rhai", "other.rhai"] {
            let said = place.run(refused).ends(1).says("a rollback was interrupted and is not finished");
            said.says("kkrun rollback --plan kiosk");
        }
        assert!(!place.exists("m/other") && !place.exists("m/c"));
        place.write("m/go", "");
        place.run(finish).ends(0);
        assert!(!place.exists("m/a") && !place.exists("m/b"));
        assert_eq!(place.read("m/log"), "begin\nbegin\nend\n", "the killed one's command was ended");
        place.run("other.rhai").ends(0);
        place.run("plan.rhai").ends(0);
    }
}

#[test]
fn rollback_killed_after_its_last_undo_is_finished_for_its_own_plan() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "a\n"));"#)
        .with("plan/zoo.rhai", r#"step::run("01", "First", || file::write("@/m/z", "z\n"));"#);
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(0);
    place
        .run("rollback")
        .ends(2)
        .says("cannot choose a plan to roll back: several have recorded changes")
        .says("run `kkrun rollback --plan plan` or `kkrun rollback --plan zoo`");
    place.run("rollback --plan plan").ends(0).says("1 undone");
    place.cut_journal_behind("undone");
    place.run("zoo.rhai").ends(1).says("finish it with `kkrun rollback --plan plan`");
    place.run("rollback --plan zoo").ends(1).says("finish it with");
    place.run("rollback").ends(0).says("0 undone");
    assert!(place.exists("m/z") && !place.exists("m/a"));
    place.run("zoo.rhai").ends(0);
}

#[test]
fn ctrl_c_stops_a_rollback_which_goes_on_later() {
    let place = Place::new(SLOW_UNDO);
    place.run("plan.rhai").ends(0);
    let started = place.start("rollback");
    until("the undoing command is at work", || place.holds("m/log", "\n"));
    started.signal(Signal::INT);
    started.end().ends(130);
    place.write("m/go", "");
    place.run("plan.rhai").ends(1).says("a rollback was interrupted");
    place.run("rollback").ends(0).says("2 undone");
    assert!(!place.exists("m/a"));
}

#[test]
fn rollback_with_conflicts_that_is_asked_to_stop_at_its_last_undo_is_not_called_complete() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/a"], #{
        unless: ["test", "-e", "@/m/a"],
        undo: [["bash", "-c", "echo at work >@/m/log; until test -e @/m/go; do sleep 0.02; done; rm @/m/a"]],
    });
    file::write("@/m/b", "b\n");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.write("m/b", "theirs\n");
    let started = place.start("rollback");
    until("the undoing command is at work", || place.holds("m/log", "\n"));
    started.signal(Signal::HUP);
    place.write("m/go", "");
    let ended = started.end().ends(4).says("1 undone · 0 kept · 1 conflict · 0 failed");
    ended
        .says("SIGHUP arrived when there was nothing left to do: the rollback is over")
        .never_says("is complete");
    assert!(!place.exists("m/a"));
    assert_eq!(place.read("m/b"), "theirs\n");
    // Nothing is left to finish: the plan can be run.
    place.run("plan.rhai --on-conflict keep").ends(0).never_says("interrupted");
}

#[test]
fn failed_undo_is_reported_the_rest_goes_on_and_it_is_tried_again() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/a", "a\n"); });
step::run("02", "Second", || {
    cmd::run(["touch", "@/m/b"], #{ unless: ["test", "-e", "@/m/b"], undo: [["bash", "-c", "echo why; test -e @/m/go && rm @/m/b"]] });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place
        .run("rollback")
        .ends(4)
        .says("failed: run touch @/m/b")
        .says("1 undone · 0 kept · 0 conflicts · 1 failed");
    assert!(!place.exists("m/a") && place.exists("m/b"));
    place.write("m/go", "");
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/b"));
}

#[test]
fn handler_of_the_last_undo_runs_though_it_came_late_or_the_rollback_was_killed() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["cp", "@/m/a", "@/m/running"]] }, || {
        cmd::run(["bash", "-c", "echo new > @/m/a"], #{
            unless: ["grep", "-q", "new", "@/m/a"],
            undo: [["bash", "-c", "if test -e @/m/tried; then echo old > @/m/a; else touch @/m/tried; exit 1; fi"]],
        });
        file::write("@/m/b", "b\n");
    });
});
"#,
    )
    .with("m/a", "old\n")
    .with("m/running", "old\n");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/running"), "new\n");
    place.run("rollback").ends(0).says("2 undone");
    assert_eq!((place.read("m/a"), place.read("m/running")), ("old\n".to_owned(), "old\n".to_owned()));

    place.cut_journal_behind("undone");
    place.write("m/running", "new\n");
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/running"), "old\n");
}

#[test]
fn rollback_of_several_changes_to_a_target_restores_the_first_state() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "1\n"));
step::run("02", "Second", || file::write("@/m/a", "2\n"));
"#,
    )
    .with("m/a", "0\n");
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(1).says("step 02 changed `@/m/a` after it");
    place.run("rollback --dry-run").ends(6).says("2 would be undone");
    place.run("rollback").ends(0).says("2 undone");
    assert_eq!(place.read("m/a"), "0\n");
}

#[test]
fn a_target_that_another_plan_changed_later_is_left_to_it() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "1\n"));"#)
        .with("plan/zoo.rhai", r#"step::run("01", "First", || file::write("@/m/a", "z\n"));"#)
        .with("m/a", "0\n");
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(0);
    place.run("rollback --plan plan --dry-run").ends(4).says("zoo");
    place.run("rollback --plan plan").ends(4).says("zoo");
    assert_eq!(place.read("m/a"), "z\n");
    place.run("rollback --plan zoo").ends(0);
    assert_eq!(place.read("m/a"), "1\n");
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/a"), "0\n");
}

#[test]
fn what_cannot_be_undone_is_listed_with_its_reason() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/sent"], #{ unless: ["test", "-e", "@/m/sent"], irreversible: "a letter was sent" });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let history = place.run("history").ends(0).stdout;
    assert!(history.contains("irreversible") && history.contains("(a letter was sent)"), "{history}");
    place.run("rollback --dry-run").ends(0).says("a letter was sent");
    place
        .run("rollback")
        .ends(0)
        .says("not undone: run touch")
        .says("a letter was sent")
        .says("1 not undone");
}

#[test]
fn data_loss_that_the_script_names_must_be_agreed_to() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/data"], #{ creates: "@/m/data", loses: "the visitors' book" });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback --yes").ends(0).says("the visitors' book").says("--purge data").says("1 kept");
    assert!(place.exists("m/data"));
    place.run("rollback --purge all").ends(0).says("1 undone");
    assert!(!place.exists("m/data"));
}

#[test]
fn rollback_of_an_unknown_plan_names_the_plans_with_changes() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "1\n"));"#)
        .with("plan/back.rhai", "rollback::apply();");
    place.run("plan.rhai").ends(0);
    place
        .run("back.rhai")
        .ends(1)
        .says("nothing to undo for the plan `back`")
        .says("plans with changes: plan");
    place.run("rollback --plan other").ends(2).says("unknown plan `other`").says("plans with a record: plan");
}

#[test]
fn rollback_cut_off_at_any_record_is_finished_by_the_next() {
    let (place, _) = done();
    let written = std::fs::metadata(place.path("state/journal")).unwrap().len();
    let mut cut_off = 0;
    for kibibytes in written / 1024 + 1.. {
        let (place, before) = done();
        let ran = place.run_until(kibibytes, "rollback");
        if ran.status == 0 {
            break;
        }
        cut_off += 1;
        assert_eq!(ran.status, -25, "{kibibytes}: {}", ran.page());
        place.run("rollback").ends(0);
        assert_eq!(place.listing("m"), before, "{kibibytes}");
        place.run("plan.rhai").ends(0);
    }
    assert!(cut_off > 2, "{cut_off}");
}

#[test]
fn built_in_scripts_show_preview_and_roll_back() {
    let place = Place::new(PLAN)
        .with("m/old", "old\n")
        .with("m/gone", "gone\n")
        .with("plan/settings.rhai", r#"#{ plan: "kiosk" }"#)
        .with("plan/master.rhai", PLAN)
        .with_built_in("status.rhai")
        .with_built_in("rollback.rhai");
    let before = place.listing("m");
    place.run("rollback.rhai").ends(0).says("There is nothing to undo of kiosk");
    place.run("master.rhai").ends(0);
    let status = place.run("status.rhai").ends(0).stdout;
    assert!(status.starts_with("kiosk\n  01 First") && status.matches("complete").count() == 3, "{status}");

    let done = (place.prints_of("m"), place.prints_of("state/journal"));
    place.run("rollback.rhai").ends(78).says("Roll back kiosk: 7 changes");
    place.run("rollback.rhai 03 --dry-run --yes").ends(6).says("would undo: run touch @/m/made");
    assert_eq!((place.prints_of("m"), place.prints_of("state/journal")), done);
    let listed =
        place.run("rollback.rhai 03 --yes").ends(0).prints("2 undone · 0 kept · 0 conflicts · 0 failed\n");
    assert_eq!(listed.page().matches("touch @/m/made").count(), 1, "once: {}", listed.page());
    assert!(place.run("status.rhai").ends(0).stdout.contains("on hold"));

    place.write("m/old", "theirs\n");
    place.run("rollback.rhai --yes").ends(4).prints("4 undone · 0 kept · 1 conflicts · 0 failed\n");
    place.run("rollback.rhai --yes --on-conflict overwrite").ends(0);
    assert_eq!(place.listing("m"), before);
}

#[test]
fn rollback_of_one_step_is_not_refused_for_a_file_whose_name_begins_with_its_path() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/f", "one\n"));
step::run("02", "Second", || config::set("@/m/f#a", "key", "1"));
"#,
    )
    .with("m/f#a", "key = 0\n");
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(0).says("1 undone");
    assert!(!place.exists("m/f"));
    assert_eq!(place.read("m/f#a"), "key = 1\n");
}

#[test]
fn targets_of_any_name_are_rolled_back_by_the_form_that_the_history_shows() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/a:b", "1\n");
    file::write("@/m/50%25", "2\n");
    file::write("@/m/two\nlines", "3\n");
    config::set("@/m/c#d", "e[f]#g", "4");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let rows = place.run("history --json").ends(0).json();
    let targets: Vec<String> =
        rows.iter().filter_map(|row| row["target"].as_str()).map(str::to_owned).collect();
    let expected = ["file:@/m/a:b", "file:@/m/50%2525", "file:@/m/two%0alines", "line:@/m/c%23d#e[f]#g"];
    assert_eq!(targets, expected);
    for target in targets {
        place.run_words(&["rollback", &target.replace('@', &place.root())]).ends(0).says("1 undone");
    }
    assert!(place.prints_of("m").len() <= 1, "{}", place.listing("m"));
}

#[test]
fn later_command_that_may_rely_on_what_is_undone_is_named() {
    let place = Place::new(
        r#"
step::run("01", "Before", || cmd::run(["touch", "@/m/one"], #{ creates: "@/m/one" }));
step::run("02", "File", || file::write("@/m/conf", "1\n"));
step::run("03", "Command", || cmd::run(["cp", "@/m/conf", "@/m/copy"], #{ creates: "@/m/copy" }));
"#,
    );
    place.run("plan.rhai").ends(0);
    let named = "cannot determine whether this relies on what is undone: run cp @/m/conf @/m/copy (step 03)";
    for words in ["rollback 02 --dry-run", "rollback 02"] {
        place.run(words).says(named).never_says("run touch");
    }
    place.run("rollback").ends(0).never_says("cannot determine");
}

#[test]
fn step_that_stood_on_what_was_rolled_back_is_not_said_to_be_complete() {
    let place = Place::new(
        r#"
step::run("01", "File", || { file::write("@/m/conf", "1\n"); file::write("@/m/more", "1\n"); });
step::run("02", "Reads", || file::write("@/m/read", file::read("@/m/conf")));
step::run("03", "Command", || cmd::run(["cp", "@/m/conf", "@/m/copy"], #{ creates: "@/m/copy" }));
step::run("04", "Unrelated", || file::write("@/m/own", "1\n"));
"#,
    )
    .with(
        "plan/status.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status} ${row.reason}`); }"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(0);
    let unknown = "what it ran may rely on what was undone since: file:@/m/conf of step 01 and 1 more";
    let status = place.run("status.rhai").ends(0).stdout;
    assert!(status.contains("01 on_hold"), "{status}");
    assert!(status.contains("02 drifted cannot read `@/m/conf`"), "{status}");
    assert!(
        status.contains(&format!("03 complete {unknown}\n")) && status.contains("04 complete \n"),
        "{status}"
    );
    for words in ["plan.rhai", "plan.rhai --dry-run"] {
        let run =
            place.run(words).says("02 Reads                  drifted: cannot read `@/m/conf`: no such file");
        run.says("03 Command                done")
            .says(&format!("step 03: {unknown}"))
            .says("04 Unrelated              done");
    }
    // Once it is there again, nothing is said.
    place.run("plan.rhai --redo 01").ends(0).never_says("no longer").never_says(unknown);
    assert!(place.run("status.rhai").ends(0).stdout.contains("03 complete \n"));
}

#[test]
fn step_that_accepts_what_was_rolled_back_is_complete() {
    let place = Place::new(
        r#"
step::run("01", "File", || file::write("@/m/conf", "1\n"));
step::run("02", "Command", || cmd::run(["cp", "@/m/conf", "@/m/copy"], #{ creates: "@/m/copy" }));
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(0);
    place.run("plan.rhai --accept 02").ends(0);
    place.run("plan.rhai").ends(0).never_says("may rely");
}

/// A plan of this name whose only step asks for all of these.
fn asking(asks: &str) -> String {
    format!("step::run(\"01\", \"All\", || {{ {asks} }});")
}

#[test]
fn rollback_leaves_what_another_plan_asks_for_until_the_last_one_is_rolled_back() {
    let asks = r#"file::make_dir("@/m/d"); file::write("@/m/d/f", "1\n"); config::set("@/m/conf", "key", 1); file::link("@/m/d", "@/m/link");"#;
    let own = r#"file::write("@/m/own", "1\n");"#;
    let place = Place::new(&asking(&format!("{asks}{own}")))
        .with("plan/zoo.rhai", &asking(asks))
        .with("plan/ant.rhai", &asking(asks))
        .with("m/conf", "#key=0\n");
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    let whole = place.listing("m");
    for plan in ["zoo", "ant"] {
        place.run(&format!("{plan}.rhai")).ends(0).says("0 changes");
    }
    let kept = "asked for by step 01 of the plan `zoo`, too: left to it";
    place.run("rollback --plan plan --dry-run").ends(6).says("1 would be undone · 4 kept").says(kept);
    assert_eq!(place.listing("m"), whole);
    place.run("rollback --plan plan").ends(0).says("1 undone · 4 kept · 0 conflicts · 0 failed").says(kept);
    assert!(!place.exists("m/own") && place.exists("m/d/f") && place.exists("m/link"));
    assert_eq!(place.read("m/conf"), "#key=0\nkey=1\n");
    // Nothing of it is this plan's any more.
    place.run("rollback --plan plan").ends(1).says("other plans have changes");
    place.run("zoo.rhai --verify").ends(0);

    place.run("rollback --plan zoo").ends(0).says("0 undone · 4 kept").says("plan `ant`");
    place.run("ant.rhai --verify").ends(0);
    place.run("rollback --plan ant").ends(0).says("4 undone · 0 kept");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn rollback_of_a_step_leaves_what_another_step_asks_for_and_puts_the_step_on_hold() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/both", "1\n"); file::write("@/m/own", "1\n"); });
step::run("02", "Second", || { file::write("@/m/both", "1\n"); });
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(0).says("1 undone · 1 kept").says("asked for by step 02, too");
    assert!(place.exists("m/both") && !place.exists("m/own"));
    place.run("plan.rhai").ends(0).says("01 First                  on hold");
    place.run("plan.rhai --redo 01").ends(0);
    place.run("rollback 02").ends(0).says("0 undone · 1 kept").says("asked for by step 01, too");
    place.run("rollback").ends(0).says("2 undone");
    assert!(!place.exists("m/both") && !place.exists("m/own"));
}

#[test]
fn a_claim_ends_with_the_step_that_made_it_and_with_its_record() {
    for end in ["rollback --plan zoo", "rollback 01 --plan zoo", "reset.rhai", "zoo.rhai --redo 01"] {
        let place = Place::new(&asking(r#"file::write("@/m/f", "1\n");"#))
            .with("plan/zoo.rhai", &asking(r#"file::write("@/m/f", "1\n");"#))
            .with("plan/reset.rhai", "step::reset();")
            .with("plan/settings.rhai", "#{}");
        place.run("plan.rhai").ends(0);
        place.run("zoo.rhai").ends(0);
        match end {
            "reset.rhai" => place.write("plan/settings.rhai", "#{ plan: \"zoo\" }"),
            // It asks for something else by now.
            "zoo.rhai --redo 01" => place.write("plan/zoo.rhai", &asking(r#"file::write("@/m/g", "1\n");"#)),
            _ => {}
        }
        place.run(end).ends(0);
        assert!(place.exists("m/f"));
        place.run("rollback --plan plan").ends(0).says("1 undone · 0 kept");
        assert!(!place.exists("m/f"), "{end}");
    }
}

#[test]
fn rollback_of_a_plan_leaves_what_a_later_change_of_another_plan_relies_on() {
    let place = Place::new(&asking(r#"file::make_dir("@/m/d"); file::write("@/m/own", "1\n");"#))
        .with("plan/zoo.rhai", &asking(r#"file::write("@/m/d/f", "1\n");"#));
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(0);
    place
        .run("rollback --plan plan --purge all")
        .ends(0)
        .says("1 undone · 1 kept")
        .says("`@/m/d/f` of step 01 of the plan `zoo` needs it: left to it");
    assert!(place.exists("m/d/f") && !place.exists("m/own"));
    place.run("rollback --plan zoo").ends(0).says("2 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn rollback_that_left_changes_to_another_plan_and_is_killed_goes_on() {
    let place = Place::new(&asking(r#"file::write("@/m/f", "1\n"); file::write("@/m/own", "1\n");"#))
        .with("plan/zoo.rhai", &asking(r#"file::write("@/m/f", "1\n");"#));
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(0);
    place.run("rollback --plan plan").ends(0).says("1 undone · 1 kept");
    place.cut_journal_behind("left_to");
    place.run("rollback --plan plan").ends(0).says("0 undone · 0 kept");
    assert!(place.exists("m/f"));
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/f"));
}

#[test]
fn a_run_that_changes_nothing_records_no_claims() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/a", "1\n"); file::write("@/m/a", "1\n"); });
step::run("02", "Second", || { file::write("@/m/a", "1\n"); file::write("@/m/a", "1\n"); file::write("@/m/b", "1\n"); });
"#,
    );
    place.run("plan.rhai").ends(0);
    let journal = place.read("state/journal");
    let claims: Vec<&str> = journal.lines().filter(|line| line.contains("\"claims\"")).collect();
    assert_eq!(claims.len(), 1, "{journal}");
    assert!(claims[0].contains(r#""claims":[{"file":"@/m/a"}]"#), "{}", claims[0]);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("state/journal"), journal);
}

#[test]
fn dry_run_counts_what_goes_with_the_product_that_it_changed() {
    let place = Place::new(
        r#"
step::run("01", "All", || {
    cmd::run(["mkdir", "@/m/d"], #{ creates: "@/m/d" });
    cmd::run(["touch", "@/m/d/x"], #{ changes: "@/m/d", unless: ["test", "-e", "@/m/d/x"], undo: [] });
    cmd::run(["touch", "@/m/y"], #{ unless: ["test", "-e", "@/m/y"], undo: [] });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let counts = "0 kept · 0 conflicts · 0 failed · 1 not undone";
    place.run("rollback --dry-run").ends(6).says(&format!("2 would be undone · {counts}"));
    place.run("rollback").ends(0).says(&format!("2 undone · {counts}"));
}

#[test]
fn rollback_script_shows_each_line_once() {
    let place = Place::new(
        r#"
step::run("01", "File", || file::write("@/m/conf", "1\n"));
step::run("02", "Command", || cmd::run(["cp", "@/m/conf", "@/m/copy"], #{ creates: "@/m/copy" }));
"#,
    )
    .with("plan/settings.rhai", r#"#{ plan: "plan" }"#)
    .with_built_in("rollback.rhai");
    place.run("plan.rhai").ends(0);
    for words in ["rollback.rhai 01 --yes --dry-run", "rollback.rhai 01 --yes"] {
        let said = place.run(words).stderr;
        assert_eq!(said.matches("cannot determine whether").count(), 1, "{said}");
        let shown = said.matches("make @/m/conf").count() + said.matches("removed @/m/conf").count();
        assert_eq!(shown, 1, "{said}");
    }
}

#[test]
fn summary_of_a_rollback_that_ends_with_an_error_counts_what_it_undid() {
    let place = Place::new(
        r#"
step::run("01", "All", || {
    cmd::run(["touch", "@/m/y"], #{ unless: ["test", "-e", "@/m/y"], undo: [["sh", "-c", "kill -INT $PPID; sleep 20"]] });
    file::write("@/m/conf", "1\n");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let ended = place.run("rollback --json").ends(130);
    let last = ended.json().pop().unwrap();
    assert_eq!((&last["event"], &last["changed"]), (&"run_ended".into(), &1.into()), "{last}");
}

#[test]
fn a_step_is_on_hold_only_if_something_of_it_was_undone_and_that_is_said() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "mine\n"));
step::run("02", "Second", || ());
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback 02").ends(0).says("0 undone").never_says("on hold");
    place.write("m/a", "theirs\n");
    place.run("rollback 01").ends(4).says("1 conflict").never_says("on hold");
    place.run("plan.rhai").ends(0).never_says("on hold");
    place.write("m/a", "mine\n");
    place
        .run("rollback --last")
        .ends(0)
        .says("step 01 is on hold: `kkrun @/plan/plan.rhai --redo 01` runs it again");
    place.run("plan.rhai").ends(0).says("on hold: rolled back; `--redo 01` runs it again");
}
