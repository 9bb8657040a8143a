//! A run that failed, was interrupted or was killed resumes where it stopped.

use crate::support::{Place, until};
use rustix::process::Signal;

const THREE: &str = r#"
step::run("01", "First", "01_first.rhai");
step::run("02", "Second", "02_second.rhai");
step::run("03", "Third", "03_third.rhai");
"#;

fn three(second: &str) -> Place {
    Place::new(THREE)
        .with("plan/01_first.rhai", r#"file::write("@/m/first", "1\n");"#)
        .with("plan/02_second.rhai", second)
        .with("plan/03_third.rhai", r#"file::write("@/m/third", "3\n");"#)
}

const NEEDS_GO: &str = r#"
file::write("@/m/second", "2\n");
cmd::run(["bash", "-c", "echo looking; echo no >&2; test -e @/m/go"], #{ always: "a test" });
"#;

#[test]
fn a_failure_says_step_line_command_output_and_how_to_go_on_and_the_next_run_completes() {
    let place = three(NEEDS_GO);
    place.run("plan.rhai").shows(
        1,
        "",
        r"
plan · 3 steps (run 1, @/plan)

  🔄 01 First
  ✅ 01 First                  [..] s · 1 change
  🔄 02 Second
  ❌ 02 Second                 failed after [..] s

error: `bash -c 'echo looking; echo no >&2; test -e @/m/go'` ended with exit code 1
  ╭─ 02_second.rhai:3:6
3 │ cmd::run([..]
  │ ^^^^^^^^
   last output
     looking
     no
   next: fix the cause, then run `kkrun plan.rhai` again: it resumes at step 02 and skips what is complete
         step 02 made 1 change so far, recorded and reversible; the command that failed may have made more
         full output: `kkrun log 02`
",
    );
    assert!(place.exists("m/second") && !place.exists("m/third"));
    let log = place.run("log 02").ends(0).stdout;
    assert!(log.contains("looking\nno\n"), "{log}");

    let before = place.prints_of("m");
    place.run("plan.rhai").ends(1).says("resuming at 02 (run 2").says("done today");
    assert_eq!(place.prints_of("m"), before);

    place.write("m/go", "");
    place.run("plan.rhai").shows(
        0,
        "",
        r"
plan · 3 steps · resuming at 02 (run 3, @/plan)

  ✅ 01 First                  done today [..], not re-examined
  🔄 02 Second
  ✅ 02 Second                 [..] s · 1 change
  🔄 03 Third
  ✅ 03 Third                  [..] s · 1 change

  changed 1 file or directory, ran 1 command in [..] s
  undo: `kkrun rollback --last` · log: `kkrun log 03`
",
    );
}

#[test]
fn the_second_run_changes_and_records_nothing() {
    let place = three("file::write(\"@/m/second\", \"2\\n\");");
    place.run("plan.rhai").ends(0);
    let before = (place.prints_of("m"), place.prints_of("state/journal"), place.prints_of("state/logs"));
    place.run("plan.rhai").shows(
        0,
        "",
        r"
plan · 3 steps (@/plan)

  ✅ 01 First                  done today [..], not re-examined
  ✅ 02 Second                 done today [..], not re-examined
  ✅ 03 Third                  done today [..], not re-examined

  complete, not re-examined: `kkrun plan.rhai --repair` examines it and runs what no longer holds
",
    );
    assert_eq!(
        (place.prints_of("m"), place.prints_of("state/journal"), place.prints_of("state/logs")),
        before
    );
}

/// Logs its begin and end, and waits in between for the file `go`.
const SLOW: &str = r#"
cmd::run(["bash", "-c", "echo begin >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo end >> @/m/log"],
    #{ creates: "@/m/product" });
"#;

/// Whether a process runs. A zombie has ended: its new parent has not reaped it yet.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The log on one line, which shows whether two commands ran at once.
fn sides(place: &Place) -> String {
    place.read("m/log").replace('\n', " ")
}

#[test]
fn after_a_kill_in_the_middle_of_a_command_nothing_runs_twice_side_by_side() {
    let second = r#"
cmd::run(["bash", "-c", "echo begin $$ >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo end $$ >> @/m/log; touch @/m/product"],
    #{ creates: "@/m/product" });
"#;
    let place = three(second);
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    started.kill();
    let first = sides(&place);
    let orphan = first.split_whitespace().nth(1).unwrap().to_owned();
    assert!(is_alive(&orphan), "the command did not survive its kkrun");

    let next = place.start("plan.rhai");
    until("the next run is at it", || place.read("m/log").lines().count() == 2);
    assert!(!is_alive(&orphan), "it runs beside its orphan");
    place.write("m/go", "");
    next.end().ends(0).says(&format!("ending `bash` (process {orphan}), which a killed run left running"));
    let log = place.read("m/log");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(lines[0], format!("begin {orphan}"));
    assert_eq!(lines[1].strip_prefix("begin "), lines[2].strip_prefix("end "), "{log}");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/log"), log);
}

#[test]
fn second_run_names_the_process_of_the_first_and_status_reports_running() {
    let place = three(SLOW).with(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status}`); }"#,
    );
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    let journal = place.prints_of("state/journal");
    place.run("plan.rhai").ends(3).prints("").says(&format!("process {}", started.child.id()));
    place.run("rollback").ends(3).says(&format!("process {}", started.child.id()));
    place.run("look.rhai").ends(0).prints("01 complete\n02 running\n03 pending\n");
    assert!(place.run("history").ends(0).stdout.lines().any(|line| line.contains(" under way ")));
    assert!(
        place
            .run("doctor")
            .ends(0)
            .stdout
            .ends_with("a run is in progress: the outcome of its current change is not recorded yet\n")
    );
    assert_eq!(place.prints_of("state/journal"), journal);
    started.kill();
    place.run("look.rhai").ends(0).prints("01 complete\n02 interrupted\n03 pending\n");
    assert!(place.run("history").ends(0).stdout.lines().any(|line| line.contains(" in doubt ")));
    place.write("m/go", "");
    place.run("plan.rhai").ends(1).says("did not make `@/m/product`");
    place.run("look.rhai").ends(0).prints("01 complete\n02 failed\n03 pending\n");
}

#[test]
fn ctrl_c_interrupts_the_step_and_the_next_run_goes_on() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let place = three(SLOW);
        let started = place.start("plan.rhai");
        until("the command is at work", || place.holds("m/log", "\n"));
        started.signal(signal);
        started
            .end()
            .ends(status)
            .says("02 Second")
            .says("stopped by SIG")
            .says("run `kkrun plan.rhai` again");
        assert_eq!(sides(&place), "begin ");
        assert_eq!(place.records().last().unwrap(), "run_ended");
        assert!(place.records().contains(&"step_interrupted".to_owned()));
        place.write("plan/02_second.rhai", "file::write(\"@/m/second\", \"2\\n\");");
        place.run("plan.rhai").ends(0).says("resuming at 02");
    }
}

#[test]
fn what_is_complete_when_it_is_asked_to_stop_says_so_and_ends_with_0() {
    let place = Place::new(
        r#"
step::run("01", "First", || cmd::run(["bash", "-c", "echo at work >@/m/log; until [ -e @/m/go ]; do sleep 0.02; done"], #{ always: "a test" }));
"#,
    );
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    // The terminal is closed: the command is finished first.
    started.signal(Signal::HUP);
    place.write("m/go", "");
    started.end().ends(0).says("SIGHUP arrived when there was nothing left to do: the run is complete");
    place.run("plan.rhai").ends(0).says("not re-examined").never_says("SIGHUP");
}

#[test]
fn interruption_between_steps_names_the_steps_that_did_not_run() {
    let place = Place::new(
        r#"
step::run("01", "First", || cmd::run(["bash", "-c", "echo at work >@/m/log; until [ -e @/m/go ]; do sleep 0.02; done"], #{ always: "a test" }));
step::run("02", "Second", || file::write("@/m/second", "2\n"));
step::run("03", "Third", || file::write("@/m/third", "3\n"));
"#,
    );
    let state = |place: &Place| {
        place.run("--json status").ends(0).json().pop().unwrap()["state"].as_str().unwrap().to_owned()
    };
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    // The command is finished first, and the step with it.
    started.signal(Signal::HUP);
    place.write("m/go", "");
    started
        .end()
        .ends(129)
        .says("01 First")
        .says("stopped by SIGHUP: steps 02, 03 did not run")
        .says("run `kkrun plan.rhai` again: it resumes at step 02 and skips what is complete");
    assert_eq!(state(&place), "interrupted");
    let status = place.run("status").ends(0);
    assert!(status.stdout.contains("plan · interrupted since today"), "{}", status.stdout);
    assert!(status.stdout.contains("resumes where it stopped"), "{}", status.stdout);
    place.run("plan.rhai").ends(0).says("resuming at 02");
    assert_eq!(state(&place), "complete");
}

#[test]
fn run_that_finds_nothing_left_of_an_interrupted_one_ends_the_interruption() {
    let place = Place::new("step::run(\"01\", \"First\", || file::write(\"@/m/first\", \"1\\n\"));");
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("step_completed");
    let state = |place: &Place| place.run("--json status").ends(0).json().pop().unwrap()["state"].clone();
    assert_eq!(state(&place), "interrupted");
    place.run("plan.rhai").ends(0);
    assert_eq!(state(&place), "complete");
}

#[test]
fn a_script_that_loops_can_be_interrupted() {
    let place =
        three("file::write(\"@/m/second\", \"\"); let n = 0; loop { n += 1; if n > 40000000 { n = 0; } }");
    let started = place.start("plan.rhai");
    until("the step is at work", || place.exists("m/second"));
    started.signal(Signal::INT);
    started.end().ends(130);
}

#[test]
fn kill_around_an_act_leaves_no_change_in_doubt() {
    for made in [false, true] {
        let place = three("throw \"stop\"");
        place.run("plan.rhai").ends(1);
        let prints = place.prints_of("m/first");
        place.cut_journal_behind("intent");
        if !made {
            place.remove("m/first");
        }
        place.run("doctor").ends(0);
        place.write("plan/02_second.rhai", "file::write(\"@/m/second\", \"2\\n\");");
        place.run("plan.rhai").ends(0);
        assert_eq!(place.prints_of("m/first") == prints, made);
        let outcome = if made { "done" } else { "void" };
        assert_eq!(place.records().iter().filter(|kind| *kind == outcome).count(), if made { 3 } else { 1 });
        place.run("rollback").ends(0);
        assert_eq!(place.prints_of("m").len(), 1, "only the directory itself is left");
    }
}

#[test]
fn change_in_doubt_that_is_neither_before_nor_after_is_shown_with_the_ways_on() {
    let place = three("throw \"stop\"");
    place.run("plan.rhai").ends(1);
    place.cut_journal_behind("intent");
    place.write("m/first", "theirs\n");
    place.write("plan/02_second.rhai", "file::write(\"@/m/second\", \"2\\n\");");
    let said = place.run("plan.rhai").ends(1).says("is neither as before nor as desired");
    said.says("--on-conflict keep").says("--on-conflict overwrite").says("kkrun rollback");
    assert_eq!(place.read("m/first"), "theirs\n");
    place.run("rollback").ends(4).says("conflict: ");
    assert_eq!(place.read("m/first"), "theirs\n");
    place.run("plan.rhai --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/first"), "1\n");
}

#[test]
fn change_in_doubt_that_is_kept_stays_as_it_was_found() {
    let place = three("throw \"stop\"");
    place.run("plan.rhai").ends(1);
    place.cut_journal_behind("intent");
    place.write("m/first", "theirs\n");
    place.write("plan/02_second.rhai", "file::write(\"@/m/second\", \"2\\n\");");
    place.run("plan.rhai --on-conflict keep").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/first"), "theirs\n");
    place.edit("plan/01_first.rhai", "1\\n", "one\\n");
    place.run("plan.rhai").ends(78);
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/first"), "theirs\n");
}

#[test]
fn a_plan_in_one_file_with_closures_goes_on_where_it_stopped() {
    let place = Place::new(
        r#"
let where = "@/m";
step::run("a", "First", || file::write(`${where}/a`, "a\n"));
step::run("b", "Second", || {
    if !file::exists(`${where}/go`) { throw "not yet"; }
    file::write(`${where}/b`, "b\n");
});
"#,
    );
    place.run("plan.rhai").ends(1).says("error: not yet").says("resumes at step b");
    place.write("m/go", "");
    place.run("plan.rhai").ends(0).says("resuming at b");
    place.run("plan.rhai").ends(0).never_says("change");
    assert_eq!((place.read("m/a"), place.read("m/b")), ("a\n".to_owned(), "b\n".to_owned()));
}

#[test]
fn marks_keep_the_place_in_an_ad_hoc_script_and_once_is_for_good() {
    let place = Place::new(
        r#"
if !step::is_done("import") {
    file::write("@/m/imported", "x\n");
    step::mark("import");
    print("imported");
}
if step::once("seed", || print("seeding")) { print("seeded"); }
if !file::exists("@/m/go") { throw "later"; }
print("end");
"#,
    )
    .with("plan/forget.rhai", "step::reset();");
    place.run("plan.rhai").ends(1).prints("imported\nseeding\nseeded\n");
    place.run("plan.rhai").ends(1).prints("");
    place.write("m/go", "");
    place.run("plan.rhai").ends(0).prints("end\n");
    place.write("plan/settings.rhai", "#{ plan: \"plan\" }");
    place.run("forget.rhai").ends(0);
    place.run("plan.rhai").ends(0).prints("imported\nend\n");
}

#[test]
fn what_was_done_once_and_undone_is_done_again() {
    let place = Place::new(
        r#"step::run("01", "First", || { step::once("seed", || file::write("@/m/seed", "x\n")); file::write("@/m/b", "b\n"); });"#,
    );
    place.run("plan.rhai").ends(0);
    place.run(&format!("rollback file:{}", place.path("m/b").display())).ends(0);
    place.remove("m/seed");
    place.run("plan.rhai --redo 01").ends(0);
    assert!(!place.exists("m/seed"), "it stays done once");
    place.run("rollback").ends(0);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/seed"), "x\n");
}

#[test]
fn failed_change_fails_the_step_though_it_is_caught_and_a_read_may_fail() {
    let place = three(
        r#"
try { file::read("@/m/none"); } catch (error) { log::info(`${error.kind} ${error.code} ${error.message}`); }
try { file::write("@/m/none/below", "x"); } catch (error) { log::info("caught"); }
file::write("@/m/second", "2\n");
"#,
    );
    place.run("plan.rhai").ends(1).says("@/m/none").says("caught").says("it resumes at step 02");
    assert!(place.exists("m/second") && !place.exists("m/third"));
}

#[test]
fn a_target_that_was_removed_is_made_again_with_overwrite() {
    let place = three("");
    place.edit("plan/02_second.rhai", "", "file::make_dir(\"@/m/d\");");
    place.run("plan.rhai").ends(0);
    place.remove("m/first");
    place.run("plan.rhai").ends(0);
    assert!(!place.exists("m/first"), "a run trusts completion");
    place.run("plan.rhai --redo 01").ends(78).says("`@/m/first` was removed");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0).says("named with `--redo`");
    assert_eq!(place.read("m/first"), "1\n");
}

#[test]
fn run_cut_off_at_any_record_resumes_and_rolls_back() {
    let begun = || {
        Place::new(
            r#"
step::run("01", "First", || {
    file::write("@/m/old", "new\n", #{ mode: "0600" });
    file::make_dir("@/m/dir");
    file::remove("@/m/gone");
    step::on_change(#{ run: [["touch", "@/reloaded"]] }, || file::write("@/m/dir/conf", "conf\n"));
});
step::run("02", "Second", || {
    file::link("@/m/dir/conf", "@/m/link");
    cmd::run(["bash", "-c", "echo made > @/m/product"], #{ creates: "@/m/product" });
    cmd::run(["touch", "@/m/made"], #{ unless: ["test", "-e", "@/m/made"], undo: [["rm", "-f", "@/m/made"]] });
    config::set("@/m/settings", "answer", "42");
    file::write("@/m/old", "newer\n", #{ mode: "0600" });
});
"#,
        )
        .with("m/old", "old\n")
        .with("m/gone", "gone\n")
        .with("m/settings", "# all of them\nanswer=41\nquestion=\n")
    };
    let whole = begun();
    let before = whole.listing("m");
    whole.run("plan.rhai").ends(0);
    let after = whole.listing("m");
    let mut cut_off = 0;
    for kibibytes in 1.. {
        let place = begun();
        let ran = place.run_until(kibibytes, "plan.rhai");
        if ran.status == 0 {
            break;
        }
        cut_off += 1;
        assert_eq!(ran.status, -25, "{kibibytes}: {}", ran.page());
        if kibibytes % 2 == 0 {
            place.run("plan.rhai").ends(0);
            assert_eq!(
                place.listing("m").replace(&place.path("").display().to_string(), ""),
                after.replace(&whole.path("").display().to_string(), ""),
                "{kibibytes}"
            );
            assert!(place.exists("reloaded"), "{kibibytes}: a handler was lost");
        }
        place.run("rollback").ends(0);
        assert_eq!(place.listing("m"), before, "{kibibytes}");
    }
    assert!(cut_off > 4, "{cut_off}");
}

#[test]
fn killed_handler_runs_again_and_never_twice_at_once() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "echo begin >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo end >> @/m/log"]] }, || {
        file::write("@/m/conf", "conf\n");
    });
});
"#,
    );
    let started = place.start("plan.rhai");
    until("the handler is at work", || place.holds("m/log", "\n"));
    started.kill();
    assert!(place.run("doctor").ends(0).stdout.contains("pending: bash"));
    let next = place.start("plan.rhai");
    until("it is at work again", || place.read("m/log").lines().count() == 2);
    place.write("m/go", "");
    next.end().ends(0);
    assert_eq!(place.read("m/log"), "begin\nbegin\nend\n");
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/log"), "begin\nbegin\nend\n");
}

#[test]
fn a_hang_up_lets_the_command_finish_and_a_second_ctrl_c_does_not_wait() {
    let place = three(&SLOW.replace("#{ creates: \"@/m/product\" }", "#{ always: \"a test\" }"));
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    started.signal(Signal::HUP);
    place.write("m/go", "");
    started.end().ends(129);
    assert_eq!(sides(&place), "begin end ");
    assert!(!place.exists("m/third"));

    let stubborn = r#"cmd::run(["bash", "-c", "trap '' TERM INT; echo begin >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done"], #{ always: "a test" });"#;
    let place = three(stubborn);
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    let began = std::time::Instant::now();
    started.signal(Signal::INT);
    until("the first was noted", || started_was_asked(&started));
    started.signal(Signal::INT);
    started.end().ends(130);
    assert!(began.elapsed().as_secs() < 4, "it waited for a command that does not listen");
    place.write("m/go", "");
}

/// Whether kkrun has received the signal: none is pending any more.
fn started_was_asked(started: &crate::support::Started<'_>) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.child.id())).unwrap_or_default();
    status.lines().any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000000000000000"))
}

#[test]
fn conflict_that_was_kept_is_not_lost_by_a_rollback() {
    let place = three("file::make_dir(\"@/m/second\");").with("m/first", "0\n");
    place.run("plan.rhai").ends(0);
    place.write("m/first", "theirs\n");
    place.edit("plan/01_first.rhai", "1\\n", "one\\n");
    place.run("plan.rhai --on-conflict keep").ends(0);
    place.run("rollback").ends(0).says("1 kept · 0 conflicts");
    assert_eq!(place.read("m/first"), "theirs\n");
}

#[test]
fn conflict_that_was_kept_is_replaced_with_overwrite() {
    let place = three("file::make_dir(\"@/m/second\");");
    place.run("plan.rhai").ends(0);
    place.write("m/first", "theirs\n");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/first"), "theirs\n");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/first"), "1\n");
}

#[test]
fn a_sleeping_script_is_interrupted() {
    let place = three("file::write(\"@/m/asleep\", \"\"); sleep(600);");
    let started = place.start("plan.rhai");
    until("the script sleeps", || place.exists("m/asleep"));
    started.signal(Signal::INT);
    started.end().ends(130).says("stopped by SIGINT");
}

#[test]
fn step_fails_when_the_script_catches_a_failed_change() {
    let place = three("try { file::write(\"@/none/x\", \"\"); } catch { log::info(\"going on\"); }");
    place
        .run("plan.rhai")
        .ends(1)
        .says("going on")
        .says("02_second.rhai:1:13")
        .says("the script caught this, but a failed change always fails its step");
}

#[test]
fn step_that_changes_a_variable_of_the_plan_is_refused_before_anything_runs() {
    let place = Place::new(
        "let port = 80;\nstep::run(\"01\", \"A\", || {\n    port = 9001;\n    file::write(\"@/m/first\", \"x\");\n});\n\
         step::run(\"02\", \"B\", || file::write(\"@/m/second\", `${port}`));\n",
    );
    for words in ["plan.rhai", "check plan.rhai", "plan.rhai --dry-run"] {
        place.run(words).ends(2).says(
            "error: cannot change `port`, a variable from outside, in step `01`: a run that skips the completed step would continue with another value\n  ╭─ plan.rhai:3:5",
        );
    }
    assert!(!place.exists("m/first") && !place.exists("state"));
}

#[test]
fn resume_reads_from_the_plan_what_a_first_run_reads() {
    // What `this` becomes is not seen by reading.
    let place = Place::new(
        "let ports = [80];\n\
         step::run(\"01\", \"A\", || { ports.for_each(|| this = 9001); file::write(\"@/m/first\", `${ports[0]}`); });\n\
         file::write(\"@/m/between\", `${ports[0]}`);\n\
         step::once(\"k\", || ports.for_each(|| this = 7));\n\
         step::run(\"02\", \"B\", || {\n\
             file::write(\"@/m/second\", `${ports[0]}`);\n\
             cmd::run([\"test\", \"-e\", \"@/m/go\"], #{ always: \"a test\" });\n\
         });\n",
    );
    place.run("plan.rhai").ends(1);
    let read = || ["m/first", "m/between", "m/second"].map(|name| place.read(name));
    assert_eq!(read(), ["9001", "80", "80"]);
    place.write("m/go", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(read(), ["9001", "80", "80"]);
}

#[test]
fn attempts_of_a_step_count_up_to_its_completion() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["test", "-e", "@/m/go"], #{ always: "a test" });
    let ran = cmd::run(["bash", "-c", "exit 3"], #{ always: "a test", ok_codes: [3] });
    file::write("@/m/ran", `${ran.ok} ${ran.code}`);
});
"#,
    )
    .with(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.status} ${row.attempts}`); }"#,
    );
    place.run("look.rhai").ends(0).prints("pending 0\n");
    place.run("plan.rhai").ends(1);
    place.run("look.rhai").ends(0).prints("failed 1\n");
    place.write("m/go", "");
    place.run("plan.rhai").ends(0);
    place.run("look.rhai").ends(0).prints("complete 2\n");
    place.run("plan.rhai --redo 01").ends(0);
    place.run("look.rhai").ends(0).prints("complete 1\n");
    assert_eq!(place.read("m/ran"), "true 3");
}

#[test]
fn no_two_runs_have_the_same_number() {
    let place = Place::new(r#"step::run("01", "First", || { file::write("@/m/f", "1\n"); });"#);
    place.run("plan.rhai").ends(0).says("(run 1, ");
    for words in ["plan.rhai", "plan.rhai --repair", "plan.rhai --dry-run", "plan.rhai"] {
        place.run(words).ends(0).never_says("run 2");
    }
    place.run("plan.rhai --redo 01").ends(0).says("(run 2, ");
    place.run("plan.rhai --accept 01").ends(0).says("(run 3, ");
    // What no one could know beforehand has a number nevertheless: the next one shows it.
    place.remove("m/f");
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0).never_says("(run ");
    place.run("plan.rhai --redo 01").ends(0).says("(run 5, ");
    let numbered = place.run("plan.rhai --json").ends(0).stdout;
    assert!(numbered.contains(r#""run":null"#), "{numbered}");
}
