//! What is known of the plans of a machine: their status, one change, the changes of a step, and which plan is meant.

use crate::support::Place;

/// Two plans: one that is complete, and one of which the second step fails.
fn two_plans() -> Place {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "one\n"));
step::run("02", "Second", || file::make_dir("@/m/b"));
"#,
    )
    .with(
        "plan/zoo.rhai",
        r#"
step::run("01", "Cages", || file::write("@/m/cage", "shut\n"));
step::run("02", "Animals", || cmd::run(["bash", "-c", "echo looking for the lion; exit 3"], #{ always: "a test" }));
step::run("03", "Visitors", || file::write("@/m/gate", "open\n"));
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("zoo.rhai").ends(1);
    place
}

#[test]
fn status_shows_every_plan_by_the_journal_alone() {
    let place = two_plans();
    let before = (place.prints_of("m"), place.prints_of("state"));
    place.run("status").shows(
        0,
        "
● plan · complete since today [..] · 2 of 2 begun steps complete by the journal
      script: @/plan/plan.rhai
    last run: `plan.rhai`, today [..], took [..] s, ended with exit status 0
     changes: 2
        next: not examined: `kkrun status plan` examines it

● zoo · failed since today [..] · 1 of 2 begun steps complete by the journal
      script: @/plan/zoo.rhai
    last run: `zoo.rhai`, today [..], took [..] s, ended with exit status 1
     changes: 2, 1 of them cannot be undone

last lines of step 02 (`kkrun log 02 --plan zoo`)
  $ bash -c 'echo looking for the lion; exit 3'
  looking for the lion
    `bash -c 'echo looking for the lion; exit 3'` ended with exit code 3 after [..] s
  failed: `bash -c 'echo looking for the lion; exit 3'` ended with exit code 3
        next: fix the cause, then `kkrun @/plan/zoo.rhai` resumes where it stopped
",
        "",
    );
    assert_eq!((place.prints_of("m"), place.prints_of("state")), before, "status changes nothing");
    let rows = place.run("status --json").ends(0).json();
    let states: Vec<&str> = rows[1..].iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["complete", "failed"]);
}

#[test]
fn status_of_a_plan_examines_it_whether_its_name_or_its_script_is_given() {
    let place = two_plans();
    for plan in ["zoo", "zoo.rhai"] {
        let ran = place.run(&format!("status {plan}")).ends(0);
        for shown in [
            "1 of 3 steps complete\n",
            "✅ 01 Cages    complete · today",
            "❌ 02 Animals  failed",
            "⏳ 03 Visitors pending\n",
        ] {
            assert!(ran.stdout.contains(shown), "{shown}:\n{}", ran.stdout);
        }
    }
    place.write("m/a", "two\n");
    let ran = place.run("status plan").ends(0);
    assert!(ran.stdout.contains("plan · drifted"), "{}", ran.stdout);
    assert!(ran.stdout.contains("plan.rhai --repair` runs what no longer holds"), "{}", ran.stdout);
    let row = place.run("--json status plan").ends(0).json().pop().unwrap();
    assert_eq!((&row["examined"], &row["steps"][0]["status"]), (&true.into(), &"drifted".into()));
    // Without its script it is known by its record.
    place.remove("plan/plan.rhai");
    let ran = place.run("status plan").ends(2);
    assert!(ran.stdout.contains("not examined: script `@/plan/plan.rhai` not found"), "{}", ran.stdout);
    // The exit status is that of the check, also where the state is data.
    place.write("plan/zoo.rhai", "step::run(\"01\", \"Cages\", || file::wrte(\"@/m/cage\"));");
    for words in ["status zoo", "status zoo.rhai --json"] {
        let ran = place.run(words).ends(2);
        let why = "zoo.rhai:1:35: unknown function `file::wrte`";
        let next =
            "`kkrun check @/plan/zoo.rhai` shows what is wrong in its scripts".replace('@', &place.root());
        let shown = ran.stdout.replace('@', &place.root());
        assert!(shown.contains(why) && shown.contains("failed") && shown.contains(&next), "{shown}");
    }
    place.run("status").ends(0);
    place.run("status plam").ends(2).says("unknown plan `plam`").says("did you mean `plan`?");
    Place::empty().run("status").ends(0).prints("no plan has recorded anything here yet\n");
}

#[test]
fn repair_runs_what_no_longer_holds_and_a_dry_run_shows_it() {
    let place = two_plans();
    place.remove("m/b");
    let skipped = place.run("plan.rhai").ends(0).never_says("drifted:");
    skipped.says("not re-examined");
    let ran = place.run("plan.rhai --dry-run").ends(6);
    ran.says("would ask whether to make @/m/b")
        .says("drifted: `@/m/b` was removed; `--repair` runs it again");
    assert!(!place.exists("m/b"));
    place.run("plan.rhai --dry-run --repair").ends(6).says("it would run again");
    place
        .run("plan.rhai --repair --on-conflict overwrite")
        .ends(0)
        .says("01 First                  done today");
    assert!(place.exists("m/b"));
    place.run("plan.rhai --dry-run").ends(0).says("still holds").never_says("would");
    place.run("plan.rhai --repair --verify").ends(2).says("contradict each other");
}

#[test]
fn reset_forgets_the_progress_of_the_plan_that_is_named() {
    let place = two_plans();
    place.run("reset").ends(2).says("several have recorded something").says("PLAN is plan, zoo");
    place.run("reset plan").ends(78).says("`--yes` agrees to it");
    place.run("reset plan --steps 7 --yes").ends(2).says("step `7` of plan has never run");
    place.run("reset plan --dry-run").ends(6);
    place.run("reset plan --steps 02 --yes").ends(0).says("the progress of step 02 of plan is forgotten");
    place
        .run("plan.rhai")
        .ends(0)
        .says("01 First                  done")
        .says("02 Second                 0.0 s");
    place.run("rollback --plan plan").ends(0).says("2 undone");
}

#[test]
fn rollback_of_the_last_run_leaves_what_runs_before_it_made() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "one\n"));"#);
    place.run("plan.rhai").ends(0);
    place.edit(
        "plan/plan.rhai",
        "));",
        "));\nstep::run(\"02\", \"Second\", || { file::write(\"@/m/b\", \"\"); file::write(\"@/m/c\", \"\"); });",
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback --last --dry-run").ends(6).says("2 would be undone").says("is of the plan `plan`");
    place.run("rollback --last").ends(0).says("2 undone");
    assert!(place.exists("m/a") && !place.exists("m/b") && !place.exists("m/c"));
    place.run("plan.rhai").ends(0).says("02 Second                 on hold");
    place.run("rollback --last").ends(0).says("1 undone");
    assert!(!place.exists("m/a"));
    place.run("rollback --last").ends(2).says("no run has changes that can be undone");
}

#[test]
fn one_change_is_shown_with_its_difference_and_the_way_to_undo_it() {
    let place =
        Place::new(r#"step::run("01", "First", || file::write("@/m/a", "new\n"));"#).with("m/a", "old\n");
    place.run("plan.rhai").ends(0);
    let id = place.run("history --json").json()[1]["change"].to_string();
    let ran = place.run(&format!("show {id}")).ends(0);
    for shown in ["write @/m/a", "step: 01", "-old\n", "+new\n", "undo: `kkrun rollback file:@/m/a`"] {
        assert!(ran.stdout.contains(shown), "{shown}:\n{}", ran.stdout);
    }
    let row = place.run(&format!("show {id} --json")).ends(0).json().pop().unwrap();
    assert!(row["difference"].as_str().unwrap().contains("+new"), "{row}");
    place.run("show 9999").ends(2).says("unknown change 9999");
}

#[test]
fn history_is_that_of_a_plan_a_step_or_a_target() {
    let place = two_plans();
    let lines = |words: &str| place.run(words).ends(0).stdout.lines().count();
    assert_eq!((lines("history"), lines("history --plan plan"), lines("history 01")), (4, 2, 2));
    let target = format!("history file:{}", place.path("m/cage").display());
    assert_eq!((lines(&target), lines("history 02 --plan zoo")), (1, 1));
    // By a path, with what is in the file.
    place.write("plan/set.rhai", "step::run(\"01\", \"Set\", || config::set(\"@/m/c.ini\", \"a\", \"1\"));");
    place.write("m/c.ini", "a = 0\n");
    place.run("set.rhai").ends(0);
    let path = place.path("m/c.ini").display().to_string();
    assert_eq!((lines(&format!("history {path}")), lines(&format!("history file:{path}"))), (1, 1));
    // Relative, through a link, and of a directory above.
    std::os::unix::fs::symlink(place.path("m"), place.path("plan/link")).unwrap();
    for (typed, count) in [("./../m/c.ini", 1), ("link/c.ini", 1), ("../m/", 4), ("../m/other", 0)] {
        assert_eq!(lines(&format!("history {typed}")), count, "{typed}");
    }
    place.run("history 99").ends(0).prints("").says("no such changes are recorded");
}

#[test]
fn a_built_in_script_says_which_plan_it_is_about() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", ""));"#);
    let is_root = rustix::process::geteuid().is_root();
    place.run("plan.rhai").ends(0);
    for script in ["status.rhai", "rollback.rhai", "reset.rhai"] {
        let ran = place.run(&format!("{script} --yes"));
        if is_root {
            ran.ends(2).says(
                "about the built-in plan `kimonokittens`, not about `plan`, which ran last on this machine",
            );
        } else {
            ran.ends(77);
        }
    }
    assert!(place.exists("m/a"));
}

#[test]
fn a_command_takes_the_options_that_it_understands_and_helps_with_those() {
    let place = two_plans();
    for (words, option) in [
        ("history --redo 01", "--redo"),
        ("--only 02 rollback", "--only"),
        ("export --json x", "--json"),
        ("status --purge all", "--purge"),
        ("pending --dry-run", "--dry-run"),
    ] {
        place.run(words).ends(2).says(&format!("does not take `{option}`"));
    }
    let help = place.run("history --help").ends(0).stdout;
    assert!(help.contains("--json") && !help.contains("--redo") && !help.contains("--secrets"), "{help}");
    let help = place.run("rollback --help").ends(0).stdout;
    assert!(help.contains("--purge") && !help.contains("--accept"), "{help}");
    assert!(place.run("--help").ends(0).stdout.contains("--repair"));
}

#[test]
fn a_run_ends_with_what_it_changed_and_the_way_back_and_an_idle_one_offers_to_examine() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/a", "one\n"); file::make_dir("@/m/b"); });
step::run("02", "Second", || ());
"#,
    );
    let ran = place.run("plan.rhai").ends(0).says("changed 2 files or directories in 0.");
    ran.says("undo: `kkrun rollback --last` · log: `kkrun log 02`");
    let offer =
        "complete, not re-examined: `kkrun plan.rhai --repair` examines it and runs what no longer holds";
    place.run("plan.rhai").ends(0).says(offer).never_says("changed");
    place.run("plan.rhai --repair").ends(0).never_says(offer);
    place.run("rollback 01").ends(0);
    place.run("plan.rhai").ends(0).says("1 of 2 steps are complete").never_says(offer);
}

#[test]
fn a_dry_run_shows_directories_that_lead_to_one_another_once() {
    let place = Place::new(
        r#"step::run("01", "First", || { file::make_dir("@/m/a/b/c"); file::make_dir("@/m/d"); });"#,
    );
    let ran = place.run("plan.rhai --dry-run").ends(6);
    ran.says("would make @/m/a/b/c and 2 directories above it\n      would make @/m/d\n");
}

#[test]
fn a_variable_that_is_not_set_now_is_no_reason_to_say_that_a_step_no_longer_asks() {
    let plan = r#"step::run("01", "Files", || {
    if host::env("ASKING") != () { file::write("@/m/asked", "x"); }
    if file::exists("@/more") { file::write("@/m/more", "x"); }
});"#;
    let place = Place::new(plan).with("more", "");
    let output = place.command(&["plan.rhai"]).env("ASKING", "yes").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status = |set: bool| {
        let mut command = place.command(&["status", "plan.rhai"]);
        if set {
            command.env("ASKING", "yes");
        }
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    assert!(!status(false).contains("no longer asks"), "{}", status(false));
    place.remove("more");
    assert!(status(true).contains("no longer asks for"), "{}", status(true));
}

#[test]
fn status_says_how_a_rollback_and_a_dropped_handler_ended() {
    let place = Place::new(r#"step::run("01", "First", || { file::write("@/m/f", "1\n"); });"#);
    place.run("plan.rhai").ends(0);
    place.write("m/f", "2\n");
    place.run("rollback").ends(4);
    let status = place.run("status").ends(0).stdout;
    assert!(status.contains("last run: `rollback`") && status.contains("with exit status 4"), "{status}");
    place.run("rollback --on-conflict overwrite").ends(0);
    let status = place.run("status").ends(0).stdout;
    assert!(status.contains("with exit status 0") && !status.contains("killed"), "{status}");
    // With nothing left to undo, too.
    place.run("rollback").ends(0);
    assert!(!place.run("status").ends(0).stdout.contains("killed"));

    let fails = r#"step::run("01", "First", || step::on_change(#{ run: [["false"]] }, || file::write("@/m/g", "1\n")));"#;
    let place = Place::new(fails);
    place.run("plan.rhai").ends(1);
    place.run("pending --drop 1").ends(0);
    assert!(!place.run("status").ends(0).stdout.contains("killed"));
}

#[test]
fn a_repair_shows_a_conflict_once_and_tells_nothing_of_what_holds() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "mine\n"));
step::run("02", "Second", || { cmd::run(["true"], #{ always: "a test" }); log::success("it is up"); });
"#,
    );
    place.run("plan.rhai").ends(0);
    place.write("m/a", "theirs\n");
    let ran = place.run("plan.rhai --repair --on-conflict overwrite").ends(0).never_says("would");
    assert_eq!(ran.stderr.matches("was modified outside kkrun").count(), 1, "{}", ran.page());
    ran.never_says("it is up").says("02 Second                 done today");
    // What a dry run finds it shows.
    place.write("m/a", "theirs\n");
    place
        .run("plan.rhai --dry-run")
        .ends(6)
        .says("would ask whether to write @/m/a")
        .never_says("would run true");
}

#[test]
fn what_is_nearly_a_command_or_a_script_is_named() {
    let place = two_plans();
    place.run("statsu").ends(2).says("unknown command `statsu`").says("did you mean `kkrun status`?");
    place.run("plna.rhai").ends(2).says("script `plna.rhai` not found").says("did you mean `plan.rhai`?");
    place.run("plan").ends(2).says("script `plan` not found").says("did you mean `plan.rhai`?");
    place.run("undo").ends(2).says("script `undo` not found").says("`kkrun --help` lists the commands");
    let alone = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun")).output().unwrap();
    place.ran(&alone).ends(2).says("Usage: kkrun").says("Commands:").never_says("error:");
    place.run("statsu.rhai").ends(2).says("did you mean `status.rhai`?");
    place.run("show #9999").ends(2).says("unknown change 9999");
    place.run("show nine").ends(2).says("expected the number of a change, such as `8` or `#8`");
    place.run("rollback --last 01").ends(2).says("takes no steps or targets").says("`kkrun rollback 01`");
}

#[test]
fn hints_name_the_plan_where_there_are_several() {
    let place = two_plans();
    place.write("plan/plan.rhai", r#"step::run("01", "First", || file::write("@/m/other", ""));"#);
    place.run("plan.rhai").ends(0);
    let status = place.run("status plan.rhai").ends(0).stdout;
    let commands = status.split('`').filter(|text| text.starts_with("kkrun ") && text.contains("rollback"));
    let undo: Vec<&str> = commands.collect();
    assert!(!undo.is_empty(), "{status}");
    for command in undo {
        let words = shell_words::split(&command.replace('@', &place.root())).unwrap();
        let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        assert!(command.ends_with(" --plan plan"), "{command}");
        place.run_words(&[&words[..], &["--dry-run"]].concat()).ends(6);
    }
}
