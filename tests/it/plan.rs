//! Plans: which steps run, the status of each, the settings in force, and what a dry run shows.

use crate::support::{Place, Ran};

const SETTINGS: &str = r#"#{ plan: "kiosk", port: 80, name: "dashboard", url: "http://{name}:{port}/" }"#;

const STATUS: &str = r#"
for row in step::list("plan.rhai") {
    let reason = if row.reason == () { "" } else { ` (${row.reason})` };
    print(`${row.id} ${row.status}${reason}`);
}
"#;

fn kiosk() -> Place {
    Place::new(
        r#"
import "words" as words;
step::run("01", "First", "01_first.rhai");
step::run("02", "Second", "02_second.rhai");
step::run("03", "Third", || file::write("@/m/third", settings::name + "\n"));
"#,
    )
    .with("plan/settings.rhai", SETTINGS)
    .with("plan/01_first.rhai", "// Makes a file.\nfile::write(\"@/m/first\", \"1\\n\");\n")
    .with(
        "plan/02_second.rhai",
        "import \"words\" as words;\nfile::write(\"@/m/second\", words::greeting(settings::url));\n",
    )
    .with("plan/words.rhai", "fn greeting(url) { `see ${url}\n` }\nfn unused() { 1 }\n")
    .with("plan/status.rhai", STATUS)
}

#[test]
fn step_is_stale_when_its_fingerprint_changes_and_not_when_its_comments_do() {
    let place = kiosk();
    place.run("status.rhai").ends(0).prints("01 pending\n02 pending\n03 pending\n");
    place.run("plan.rhai").ends(0);
    let whole = "01 complete\n02 complete\n03 complete\n";
    place.run("status.rhai").ends(0).prints(whole);

    place.edit("plan/01_first.rhai", "// Makes a file.", "//! Makes another remark.\n/* and one more */");
    place.edit("plan/words.rhai", "fn unused() { 1 }", "fn unused() { 2 }");
    place.run("status.rhai").ends(0).prints(whole);

    place.edit("plan/01_first.rhai", "1\\n", "one\\n");
    place.edit("plan/words.rhai", "see", "look at");
    place.edit("plan/settings.rhai", "\"dashboard\"", "\"kiosk\"");
    place.run("status.rhai").ends(0).prints(
        "01 stale (its script changed)\n02 stale (`words::greeting` changed)\n03 stale (settings::name dashboard → kiosk)\n",
    );
    place.edit("plan/words.rhai", "look at", "see");
    place.run("status.rhai").ends(0).prints(
        "01 stale (its script changed)\n02 stale (settings::url http://dashboard:80/ → http://kiosk:80/)\n\
         03 stale (settings::name dashboard → kiosk)\n",
    );
    place.run("plan.rhai --accept 01").ends(0).says("01 First                  accepted as it is");
    assert_eq!(place.read("m/first"), "1\n");
    assert_eq!(
        (place.read("m/second"), place.read("m/third")),
        ("see http://kiosk:80/\n".into(), "kiosk\n".into())
    );
    place.run("status.rhai").ends(0).prints(
        "01 complete (accepted as it is; its script would still write @/m/first)\n02 complete\n03 complete\n",
    );
}

/// A plan of steps only, or one with a last line after them.
fn steps(last: &str) -> Place {
    let plan = format!(
        "const REQUIRES = #{{ root: false }};\nstep::run(\"01\", \"First\", \"01_first.rhai\");\n\
         step::run(\"02\", \"Second\", \"02_second.rhai\");\n{last}"
    );
    Place::new(&plan)
        .with("plan/settings.rhai", SETTINGS)
        .with("plan/files/motd", "hello\n")
        .with("plan/01_first.rhai", "file::copy(\"files/motd\", \"@/m/motd\");\n")
        .with(
            "plan/02_second.rhai",
            "import \"words\" as words;\nfile::write(\"@/m/second\", words::greeting(settings::url));\n",
        )
        .with("plan/words.rhai", "fn greeting(url) { `see ${url}\n` }\n")
}

/// What kkrun logs about itself when it runs a plan again.
fn diagnosed(place: &Place) -> String {
    let output = place.command(&["plan.rhai"]).env("KKRUN_LOG", "debug").output().expect("kkrun runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_complete_plan_is_compiled_again_only_when_something_changed() {
    let forms =
        [("", "the plan is not even compiled"), ("log::info(\"done\");\n", "the steps are not compiled")];
    for (last, unchanged) in forms {
        let place = steps(last);
        assert!(!diagnosed(&place).contains("not compiled"));
        let second = diagnosed(&place);
        assert!(second.contains(unchanged) && second.contains("not re-examined"), "{second}");
        assert_eq!(second.contains("done\n"), !last.is_empty(), "{second}");

        for (name, from, to) in [
            ("plan/files/motd", "hello", "good morning"),
            ("plan/words.rhai", "see", "look at"),
            ("plan/settings.rhai", "dashboard", "screen"),
            ("plan/plan.rhai", "Second", "The second"),
            ("plan/02_second.rhai", "greeting(", "greeting( "),
        ] {
            place.edit(name, from, to);
            let said = diagnosed(&place);
            assert!(!said.contains("nothing changed since"), "{name}\n{said}");
        }
        assert_eq!(place.read("m/motd"), "good morning\n");
        assert_eq!(place.read("m/second"), "look at http://screen:80/\n");
        place.edit("plan/02_second.rhai", "words::greeting( settings::url)", "words::greting(settings::url)");
        place.run("plan.rhai").ends(2).says("greting");
        place.edit("plan/02_second.rhai", "greting", "greeting");
        place
            .run("plan.rhai --set name=board")
            .ends(0)
            .says("settings::url http://screen:80/ → http://board:80/");
        assert_eq!(place.read("m/second"), "look at http://board:80/\n");
        place.run("plan.rhai --redo 01").ends(0).says("01 First");
        place.run("rollback --plan kiosk").ends(0);
        assert!(!place.exists("m/second"));
        place.run("plan.rhai").ends(0);
        assert!(place.exists("m/second"));
    }
}

#[test]
fn fingerprint_covers_everything_that_a_step_reaches() {
    let first = "step::run(\"01\", \"First\", \"01.rhai\");";
    // The plan, its step's script, a module, another one; what is edited: in which of them, what for what.
    for (plan, step, m, n, (edited, from, to)) in [
        // After an interpolated string.
        (first, "import \"m\" as m; m::g();", "fn f(l) { `${l}` } fn g() { \"v1\" }", "", ("m", "v1", "v2")),
        (first, "let a = `${1}`; import \"n\" as n; n::v();", "", "fn v() { 1 }", ("n", "1", "2")),
        (first, "import \"m\" as m; log::info(`a ${1} b`); m::g();", "fn g() { 1 }", "", ("m", "1", "2")),
        (first, "fn f(l) { `${l}` } fn g() { settings::name } g();", "", "", ("settings", "dashboard", "x")),
        (
            "log::info(`plan ${1}`); step::run(\"01\", \"First\", || { let a = `${1}`; settings::name });",
            "1;",
            "",
            "",
            ("settings", "dashboard", "x"),
        ),
        // What a closure captures from the plan.
        ("let port = 80; step::run(\"01\", \"First\", || { port + 1 });", "1;", "", "", ("plan", "80", "81")),
        (
            "let name = settings::name; step::run(\"01\", \"First\", || { name + \"\" });",
            "1;",
            "",
            "",
            ("settings", "dashboard", "x"),
        ),
        (
            "const PORT = 80; fn p() { global::PORT } step::run(\"01\", \"First\", || { p() });",
            "1;",
            "",
            "",
            ("plan", "80", "81"),
        ),
        // A function that a string names, a module used in a function, a module used in a module.
        (first, "fn g() { \"v1\" } let p = Fn(\"g\"); p.call();", "", "", ("01", "v1", "v2")),
        (
            first,
            "import \"m\" as m; m::g();",
            "fn g() { import \"n\" as q; q::v() }",
            "fn v() { 1 }",
            ("n", "1", "2"),
        ),
        (first, "import \"m\" as m; m::q::v();", "import \"n\" as q;", "fn v() { 1 }", ("n", "1", "2")),
    ] {
        let place = Place::new(plan)
            .with("plan/settings.rhai", SETTINGS)
            .with("plan/01.rhai", step)
            .with("plan/m.rhai", &format!("{m}\nfn unused() {{ 7 }}\n"))
            .with("plan/n.rhai", &format!("{n}\nfn unused() {{ 7 }}\n"));
        place.run("plan.rhai").ends(0);
        place.run("plan.rhai").ends(0).says("not re-examined");
        place.edit("plan/m.rhai", "{ 7 }", "{ 8 }");
        place.edit("plan/n.rhai", "{ 7 }", "{ 8 }");
        place.run("plan.rhai").ends(0).says("not re-examined");
        place.edit(&format!("plan/{edited}.rhai"), from, to);
        let ran = place.run("plan.rhai").ends(0);
        assert!(!ran.stderr.contains("not re-examined"), "{plan}\n{step}\n{}", ran.page());
    }
}

#[test]
fn dry_run_says_in_whole_sentences_what_fails_as_the_machine_is_now() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["mkdir", "@/m/made"], #{ always: "a test" });
    let names = file::list("@/m/elsewhere");
    file::write("@/m/first", `${names.len()}\n`);
});
"#,
    );
    place.run("plan.rhai --dry-run").ends(6).says(
        "1 change, then not predictable from line 4 on: depends on what changes before it (as it is now: ",
    );
}

#[test]
fn accepted_step_is_known_by_its_title_and_script() {
    let place = Place::new("step::run(\"01\", \"First\", \"a.rhai\");")
        .with("plan/a.rhai", "file::write(\"@/m/a\", \"1\\n\");");
    place.run("plan.rhai --reason none").ends(2).says("--accept");
    place.run("plan.rhai --accept 01 --reason by-hand").ends(0).says("accepted as it is: by-hand");
    let status = place.run("status").ends(0);
    assert!(!status.stdout.contains("by-hand"), "a plan's line says no step's: {}", status.stdout);
    place.run("plan.rhai").ends(0).says("01 First                  done");
    place.write("plan/b.rhai", "file::write(\"@/m/a\", \"2\\n\");");
    place.edit("plan/plan.rhai", "a.rhai", "b.rhai");
    place.run("plan.rhai --accept 01").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/a"), "2\n");
}

#[test]
fn plan_file_that_appears_or_disappears_makes_its_readers_stale() {
    for ask in ["file::exists(\"files/extra\");", "try { file::read(\"files/extra\"); } catch { }"] {
        let place = Place::new("step::run(\"01\", \"First\", \"01.rhai\");").with("plan/01.rhai", ask);
        place.run("plan.rhai").ends(0);
        place.run("plan.rhai").ends(0).says("not re-examined");
        place.write("plan/files/extra", "1\n");
        place.run("plan.rhai").ends(0).says("`files/extra` changed");
        place.run("plan.rhai").ends(0).says("not re-examined");
        place.remove("plan/files/extra");
        place.run("plan.rhai").ends(0).says("`files/extra` changed");
    }
}

#[test]
fn a_plan_file_that_changed_makes_its_readers_stale() {
    let place = Place::new(r#"step::run("01", "First", || file::copy("files/motd", "@/m/motd"));"#)
        .with("plan/files/motd", "hello\n")
        .with("plan/settings.rhai", SETTINGS)
        .with("plan/status.rhai", STATUS);
    place.run("plan.rhai").ends(0);
    place.write("plan/files/motd", "good morning\n");
    place.run("status.rhai").ends(0).prints("01 stale (`files/motd` changed)\n");
    place.run("plan.rhai").ends(0).says("`files/motd` changed");
    assert_eq!(place.read("m/motd"), "good morning\n");
}

#[test]
fn drift_is_found_by_status_and_verify_and_repaired_by_redo() {
    let place = kiosk();
    place.run("plan.rhai").ends(0);
    place.write("m/first", "theirs\n");
    place.remove("m/second");
    let before = (place.prints_of("m"), place.prints_of("state"));
    place
        .run("status.rhai")
        .ends(0)
        .prints("01 drifted (`@/m/first` was modified: content differs (2 → 7 bytes))\n02 drifted (`@/m/second` was removed)\n03 complete\n");
    assert_eq!((place.prints_of("m"), place.prints_of("state")), before, "status writes nothing");
    place
        .run("plan.rhai --dry-run")
        .ends(6)
        .says("-1\n      +theirs\n      would ask whether to write @/m/first\n  ⏩ 01 First")
        .never_says("-theirs");
    place.run("plan.rhai").ends(0).says("01 First                  done today");
    let said = place.run("plan.rhai --verify").ends(1).says("drifted: `@/m/first` was modified");
    said.says("drifted: `@/m/second` was removed")
        .says("steps 01, 02 no longer hold")
        .says("`kkrun plan.rhai --repair` runs what no longer holds");
    place.run("plan.rhai --redo 02").ends(78).says("`@/m/second` was removed");
    place.run("plan.rhai --redo 02 --on-conflict overwrite").ends(0).says("named with `--redo`");
    assert_eq!(place.read("m/second"), "see http://dashboard:80/\n");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    place.run("plan.rhai --verify").ends(0).says("still holds");
    assert_eq!(place.read("m/first"), "1\n");
}

#[test]
fn dry_run_knows_what_it_predicted_itself() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let secret = secret::ask("key", "Key", #{ generate: true });
    user::ensure("kkrun-kim", #{ home: "@/m/home", home_mode: "0750" });
    file::make_dir("@/m/home/a/b", #{ owner: "kkrun-kim" });
    file::make_dir("@/m/home/a/c", #{ owner: "kkrun-kim" });
    file::write("@/m/home/a/b/page", "port=80\n", #{ owner: "kkrun-kim" });
    file::write("@/m/home/a/b/page", "port=80\n");
    config::set("@/m/home/a/b/page", #{ port: 81, key: secret }, #{ separator: "=" });
    file::copy("files/tree", "@/m/home/tree", #{ owner: "kkrun-kim", group: "kkrun-kim" });
    file::access("@/m/home/tree", #{ owner: "kkrun-kim", recursive: true });
    if !file::exists("@/m/home/a/b/page") || file::exists("@/m/home/a/none") { throw "wrong"; }
    if file::read("@/m/home/tree/leaf") != "leaf\n" || file::list("@/m/home/tree") != ["leaf"] { throw "wrong"; }
    file::remove("@/m/old");
    if file::exists("@/m/old") { throw "wrong"; }
    cmd::run(["make", "all"], #{ creates: "@/m/home/built", user: "kkrun-kim", cwd: "@/m/home/a" });
    file::mirror("@/m/home/built", "@/m/home/site");
    step::part("the rest", || if file::exists("@/m/home/built/x") { throw "wrong"; });
    file::write("@/m/last", "1\n");
});"#,
    )
    .with("plan/files/tree/leaf", "leaf\n")
    .with("m/old", "");
    let ran = place.run("plan.rhai --dry-run").ends(6);
    let mut changes: Vec<&str> = Vec::new();
    changes.extend(
        ran.stderr
            .lines()
            .filter_map(|line| line.strip_prefix("      "))
            .filter(|line| line.starts_with("would ") || line.starts_with("might ")),
    );
    let expected = [
        "would make the user kkrun-kim with @/m/home",
        "would make @/m/home/a/b and the directory above it",
        "would make @/m/home/a/c",
        "would make @/m/home/a/b/page",
        "would set key in @/m/home/a/b/page",
        "would set port in @/m/home/a/b/page",
        "would copy 2 entries to @/m/home/tree",
        "would remove @/m/old",
        "would run make all",
        "would mirror @/m/home/built to @/m/home/site",
        "might change more for the rest, which is not predictable: depends on product:@/m/home/built, which would have changed by then",
        "would make @/m/last",
    ];
    assert_eq!(changes, expected, "{}", ran.stderr);
    ran.says("01 First                  13 changes\n");
    assert!(!place.exists("state") && place.exists("m/old"));
}

#[test]
fn dry_run_shows_unified_diffs_of_texts_and_sizes_of_other_files() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    file::write("@/m/page", "one\ntwo\n3\nfour\n");
    file::write("@/m/new", "hello\n");
    file::write("@/m/private", "never shown\n", #{ mode: "0600" });
    config::set("@/m/app.conf", "port", 81, #{ separator: "=" });
    file::copy("files/binary", "@/m/binary");
    file::mirror("files/tree", "@/m/tree");
});"#,
    )
    .with("m/page", "one\ntwo\nthree\nfour\n")
    .with("m/app.conf", "# app\nport=80\n")
    .with("m/tree/old", "old")
    .with("plan/files/tree/leaf", "leaf\n")
    .with("plan/files/binary", "\0\u{1}");
    place
        .run("plan.rhai --dry-run")
        .ends(6)
        .says("would write @/m/page\n        @@ -1,4 +1,4 @@\n         one\n         two\n        -three\n        +3\n         four\n")
        .says("would make @/m/new\n        @@ -0,0 +1 @@\n        +hello\n")
        .says("would make @/m/private\n        a file of 12 bytes\n")
        .says("would set port in @/m/app.conf\n        @@ -1,2 +1,2 @@\n         # app\n        -port=80\n        +port=81\n")
        .says("would make @/m/binary\n        a file of 2 bytes\n")
        .says("leaf: a file of 5 bytes\n")
        .says("old: a file of 3 bytes → absent\n")
        .never_says("never shown");
    assert!(!place.exists("state"));
    let changes = place.run("plan.rhai --dry-run --json").json();
    let page =
        changes.iter().find(|event| event["summary"].as_str().is_some_and(|text| text.ends_with("/page")));
    assert!(page.unwrap()["difference"].as_str().unwrap().contains("-three\n+3\n"), "{changes:?}");
    // A run shows them with `-v`.
    place.run("plan.rhai").ends(0).never_says("+hello");
    place.write("m/new", "changed\n");
    place.run("plan.rhai -v --redo 01 --on-conflict overwrite").ends(0).says("-changed\n        +hello\n");
}

#[test]
fn long_differences_show_their_head_and_verbose_shows_all() {
    let lines = |word: &str| -> String {
        let lines: Vec<String> = (0..100).map(|number| format!("{word} {number}\n")).collect();
        lines.concat()
    };
    let place = Place::new(r#"step::run("01", "First", || file::copy("files/long", "@/m/long"));"#)
        .with("plan/files/long", &lines("new"));
    place
        .run("plan.rhai --dry-run")
        .ends(6)
        .says("+new 0\n")
        .never_says("+new 99")
        .says("… and 61 more lines, shown with `-v`");
    place.run("plan.rhai --dry-run -v").ends(6).says("+new 99\n").never_says("more lines");
    place.run("plan.rhai").ends(0);
    place.write("m/long", &lines("theirs"));
    for words in ["plan.rhai --redo 01", "rollback"] {
        let said = place.run(words);
        assert!(matches!(said.status, 78 | 4), "{}", said.stderr);
        said.says("-new 0\n").never_says("+theirs 99").says("more lines, shown with `-v`");
        place.run(&format!("{words} -v")).says("-new 0\n").says("+theirs 99\n").never_says("more lines");
    }
    assert!(place.read("state/journal").len() < 30_000, "the journal holds the head alone");
}

#[test]
fn dry_run_differs_by_what_is_done_about_a_conflict() {
    let place = closing();
    place.run("plan.rhai").ends(0);
    place.write("m/first", "theirs\n");
    place.edit("plan/plan.rhai", "1\\n", "one\\n");
    let before = place.prints_of("state");
    let words = |policy: &str| format!("plan.rhai --dry-run --on-conflict {policy}");
    let asks = place.run(&words("ask")).ends(6).says("would ask whether to write @/m/first").says("+theirs");
    asks.never_says("would write");
    place.run(&words("overwrite")).ends(6).says("would write @/m/first").says("-theirs\n        +one\n");
    place.run(&words("keep")).ends(0).says("kept as modified outside kkrun: `@/m/first`");
    assert_eq!(place.prints_of("state"), before);
    place.run("plan.rhai --on-conflict keep").ends(0);
    place.run("plan.rhai --redo 01 --dry-run").ends(0).never_says("would");
}

/// Two steps and a closing line.
fn closing() -> Place {
    Place::new(
        r#"
step::run("01", "First", || file::write("@/m/first", "1\n"));
step::run("02", "Second", || file::write("@/m/second", "2\n"));
log::success("all of it is set up");
"#,
    )
}

#[test]
fn closing_line_is_printed_only_when_every_step_is_complete_and_holds() {
    let closes = |ran: Ran, does: bool| {
        assert_eq!(ran.stderr.contains("all of it is set up"), does, "{}", ran.stderr);
    };
    let place = closing();
    closes(place.run("plan.rhai --dry-run").ends(6), false);
    closes(place.run("plan.rhai --only 01").ends(0), false);
    closes(place.run("plan.rhai").ends(0), true);
    closes(place.run("plan.rhai").ends(0), true);
    closes(place.run("plan.rhai --dry-run").ends(0), true);
    closes(place.run("plan.rhai --verify").ends(0), true);
    place.write("m/first", "theirs\n");
    closes(place.run("plan.rhai --verify").ends(1), false);
    closes(place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0), true);
    place.run("rollback 02").ends(0);
    closes(place.run("plan.rhai").ends(0).says("on hold"), false);
    closes(place.run("plan.rhai --dry-run").ends(0).says("on hold"), false);
    place.edit("plan/plan.rhai", "2\\n", "two\\n");
    closes(place.run("plan.rhai --redo 02").ends(0), true);
    // Stale, and not selected.
    place.edit("plan/plan.rhai", "1\\n", "one\\n");
    closes(place.run("plan.rhai --only 02").ends(0), false);
}

#[test]
fn dry_run_of_verify_predicts_what_verify_does() {
    let place = closing();
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --verify --dry-run").ends(0).says("still holds").never_says("would");
    place.write("m/first", "theirs\n");
    let sentences = |ran: Ran| -> Vec<String> {
        ran.stderr.lines().skip(1).map(|line| line.replace(" --dry-run", "")).collect()
    };
    let predicted = sentences(place.run("plan.rhai --verify --dry-run").ends(1));
    assert_eq!(predicted, sentences(place.run("plan.rhai --verify").ends(1)));
    assert_eq!(place.read("m/first"), "theirs\n");
    // A step that is not complete is neither run nor predicted behind one that does not hold.
    place.run("rollback 02").ends(0);
    let words = "plan.rhai --verify --only 01,02";
    let predicted = sentences(place.run(&format!("{words} --dry-run")).ends(1).says("drifted:"));
    assert_eq!(predicted, sentences(place.run(words).ends(1)));
}

#[test]
fn a_step_that_left_the_plan_stays_visible_until_it_is_undone() {
    let place = kiosk();
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "step::run(\"02\", \"Second\", \"02_second.rhai\");\n", "");
    place.run("status.rhai").ends(0).prints(
        "01 complete\n03 complete\n02 complete (no longer in the plan; `kkrun rollback 02` undoes it)\n",
    );
    place.run("rollback 02").ends(0).says("1 undone");
    place.run("status.rhai").ends(0).prints("01 complete\n03 complete\n");
}

#[test]
fn from_and_only_choose_steps() {
    let place = kiosk();
    place.run("plan.rhai --from 02").ends(0).says("01 First                  not selected");
    assert!(!place.exists("m/first") && place.exists("m/second") && place.exists("m/third"));
    let place = kiosk();
    place.run("plan.rhai --only=01,03").ends(0);
    assert!(place.exists("m/first") && !place.exists("m/second") && place.exists("m/third"));
    for option in ["--from", "--only", "--redo", "--accept"] {
        place.run(&format!("plan.rhai {option} 9")).ends(2).says("unknown step `9`").says("01, 02, 03");
    }
}

#[test]
fn an_override_is_used_shown_remembered_and_forgotten() {
    let place = kiosk();
    place.write(
        "plan/02_second.rhai",
        "if !file::exists(\"@/m/go\") { throw \"wait\"; } file::write(\"@/m/second\", settings::url);",
    );
    place
        .run("plan.rhai --set port=8080 --set name=kiosk")
        .ends(1)
        .says("  with name = kiosk\n  with port = 8080\n");
    place.write("m/go", "");
    place.run("plan.rhai").ends(0).says("  with port = 8080\n");
    assert_eq!(
        (place.read("m/second"), place.read("m/third")),
        ("http://kiosk:8080/".into(), "kiosk\n".into())
    );
    let records = place.records().len();
    place.run("plan.rhai --set port=8080").ends(0).says("  with port = 8080\n");
    assert_eq!(place.records().len(), records, "said again, it is nothing new");

    place
        .run("plan.rhai --dry-run --unset port")
        .ends(6)
        .never_says("port = 8080")
        .says("http://kiosk:8080/ → http://kiosk:80/");
    place.run("plan.rhai --unset port").ends(0).never_says("with port");
    assert_eq!(place.read("m/second"), "http://kiosk:80/");
    place.run("plan.rhai").ends(0).never_says("with port").says("with name = kiosk");
}

#[test]
fn an_override_of_a_script_without_steps_is_remembered_when_it_changes_something() {
    let place = Place::new("file::write(\"@/m/port\", settings::port.to_string());")
        .with("plan/settings.rhai", SETTINGS);
    place.run("plan.rhai --set port=81").ends(0).says("with port = 81");
    place.run("plan.rhai").ends(0).says("with port = 81");
    assert_eq!(place.read("m/port"), "81");
    place.run("plan.rhai --unset port").ends(0).never_says("with port");
    assert_eq!(place.read("m/port"), "80");
    place.run("plan.rhai").ends(0).never_says("with port");
}

#[test]
fn an_override_is_checked_before_anything_is_touched() {
    let place = kiosk();
    place.run("plan.rhai --set port=eighty").ends(2).says("--set port: expected int, found `eighty`");
    place.run("plan.rhai --set prot=80").ends(2).says("unknown setting `prot`").says("did you mean `port`?");
    place.run("plan.rhai --unset prot").ends(2).says("unknown setting `prot`").says("did you mean `port`?");
    place.run("plan.rhai --set port").ends(2).says("KEY=VALUE");
    assert!(!place.exists("state") && place.prints_of("m").len() == 1);
}

#[test]
fn a_remembered_override_of_a_setting_that_is_gone_says_how_to_forget_it() {
    let place = kiosk();
    place.run("plan.rhai --set port=8080").ends(0);
    place.write("plan/settings.rhai", r#"#{ plan: "kiosk", name: "dashboard", url: "http://{name}/" }"#);
    place.run("plan.rhai").ends(2).says("unknown setting `port`").says("--unset port");
    place.run("plan.rhai --unset port").ends(0);
    place.run("plan.rhai").ends(0);
}

#[test]
fn a_settings_file_overrides_and_is_overridden() {
    let place = kiosk().with("plan/mine.rhai", "#{ port: 81, name: \"mine\" }");
    place.run("plan.rhai --settings mine.rhai --set port=82").ends(0);
    assert_eq!(place.read("m/second"), "see http://mine:82/\n");
    place.write("plan/mine.rhai", "#{ prot: 81 }");
    place.run("plan.rhai --settings mine.rhai").ends(2).says("unknown setting `prot`");
    place.run("plan.rhai --settings none.rhai").ends(2).says("none.rhai");
}

#[test]
fn a_dry_run_says_what_would_change_and_writes_nothing() {
    let place = kiosk();
    place.edit(
        "plan/02_second.rhai",
        "\nfile",
        "\ncmd::test([\"true\"]);\nlet made = cmd::run([\"bash\", \"-c\", \"echo 5\"], #{ always: \"a test\" });\nlet five = made.stdout;\nfile",
    );
    place.run("plan.rhai --dry-run").shows(
        6,
        "",
        "
kiosk · 3 steps (dry run, @/plan)

  🔄 01 First
      would make @/m/first
        @@ -0,0 +1 @@
        +1
  👀 01 First                  1 change
  🔄 02 Second
      would run bash -c 'echo 5'
  👀 02 Second                 1 change, then not predictable from line 3 on: depends on the output of `bash -c 'echo 5'`
  🔄 03 Third
      would make @/m/third
        @@ -0,0 +1 @@
        +dashboard
  👀 03 Third                  1 change

  would change 2 files or directories, run 1 command
  1 of 3 steps is not predictable to its end
",
    );
    assert!(!place.exists("state"), "not even the state directory appears");
    assert_eq!(place.prints_of("m").len(), 1);

    place.edit("plan/02_second.rhai", "always: \"a test\"", "unless: [\"test\", \"-e\", \"@/m/first\"]");
    place.run("plan.rhai").ends(0);
    let before = (place.prints_of("m"), place.prints_of("state"));
    place.run("plan.rhai --dry-run").ends(0).says("still holds");
    assert_eq!((place.prints_of("m"), place.prints_of("state")), before);
}

#[test]
fn a_dry_run_reads_a_unit_of_which_only_one_with_a_longer_name_would_have_changed() {
    let plan = |read: &str| {
        let file = r#"file::write("@/m/systemd/system/my-dbus.service", "[Service]\n");"#;
        Place::new(&format!("{file}\nunit::get(\"{read}\");\n")).with("m/systemd/system/dbus.socket", "")
    };
    let why = "my-dbus.service, which would have changed by then";
    plan("my-dbus.service").run("plan.rhai --dry-run").ends(6).says(why);
    plan("dbus.service").run("plan.rhai --dry-run").ends(6).never_says(why);
}

#[test]
fn a_dry_run_reads_no_value_that_a_change_before_would_have_made_another() {
    let place = Place::new(
        r#"
file::write("@/m/a", "new");
if file::read("@/m/a") == "old" { file::write("@/m/wrong", ""); }
if file::read("@/m/a") == "new" { file::write("@/m/right", ""); }
cmd::run(["make"], #{ creates: "@/m/made" });
if !file::exists("@/m/made/it") { file::write("@/m/wrong", ""); }
"#,
    )
    .with("m/a", "old");
    let ran = place.run("plan.rhai --dry-run").ends(6).says("would make @/m/right");
    ran.never_says("wrong").says("not predictable from line 6 on");
    assert!(!place.exists("state"));
}

#[test]
fn step_id_given_to_another_script_must_be_confirmed() {
    let place = kiosk();
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "\"01_first.rhai\"", "\"02_second.rhai\"");
    let records = place.records().len();
    let said = place
        .run("plan.rhai")
        .ends(78)
        .says("step id `01` now belongs to another script: `02_second.rhai`, formerly `01_first.rhai`");
    said.says("--yes").says("kkrun rollback 01");
    place.run("plan.rhai --non-interactive").ends(78);
    assert!(place.records().len() <= records + 4);
    place.run("plan.rhai --yes").ends(0);
}

#[test]
fn conflict_is_asked_about_kept_or_replaced() {
    let changed = || {
        let place = kiosk();
        place.run("plan.rhai").ends(0);
        place.write("m/first", "theirs\n");
        place.edit("plan/01_first.rhai", "1\\n", "one\\n");
        place
    };
    let place = changed();
    let said = place.run("plan.rhai").ends(78).says("was modified outside kkrun");
    said.says("-1\n")
        .says("+theirs")
        .says("--on-conflict overwrite")
        .says("--on-conflict keep")
        .says("no one can be asked");
    assert_eq!(place.read("m/first"), "theirs\n");

    place.run("plan.rhai --on-conflict keep").ends(0).says("kept as modified outside kkrun");
    assert_eq!(place.read("m/first"), "theirs\n");
    place.run("plan.rhai --redo 01").ends(0);
    place.run("status.rhai").ends(0).prints("01 complete\n02 complete\n03 complete\n");
    assert_eq!(place.read("m/first"), "theirs\n");

    let place = changed();
    place.run("plan.rhai --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/first"), "one\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/first") || place.read("m/first") == "theirs\n");
}

#[test]
fn handler_runs_once_and_stays_pending_over_a_kill() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["test", "-e", "@/m/b"], run: [["bash", "-c", "echo reloaded >> @/m/log"]] }, || {
        file::write("@/m/a", "a\n");
        file::write("@/m/b", "b\n");
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/log"), "reloaded\n");
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/log"), "reloaded\n", "nothing changed, nothing to reload");

    for behind in ["intent", "done"] {
        place.cut_journal_behind(behind);
        place.remove("m/log");
        place.run("doctor").ends(0);
        assert!(place.run("doctor").stdout.contains("pending: bash -c"), "{behind}");
        place.run("plan.rhai").ends(0);
        assert_eq!(place.read("m/log"), "reloaded\n", "{behind}");
        assert!(!place.run("doctor").stdout.contains("pending"));
    }
    // The undo removes the file that its test names.
    place.run("rollback").ends(0).says("not run after the undo: bash -c").never_says("pending");
    assert_eq!(place.read("m/log"), "reloaded\n");
}

#[test]
fn handler_whose_test_fails_undoes_the_changes_and_fails_the_step() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/before", "stays\n");
    step::on_change(#{ test: ["bash", "-c", "echo looks at it; grep -q good @/m/site"], run: [["touch", "@/m/reloaded"]] }, || {
        file::write("@/m/site", "bad\n");
        file::remove("@/m/default");
    });
});
"#,
    )
    .with("m/site", "good\n")
    .with("m/default", "stock\n");
    let failed = place.run("plan.rhai").ends(1).says("grep -q good").says("looks at it");
    failed.says("undone because of that: remove @/m/default, write @/m/site").says("it resumes at step 01");
    assert_eq!((place.read("m/site"), place.read("m/default")), ("good\n".into(), "stock\n".into()));
    assert!(place.exists("m/before"));
    assert!(!place.run("doctor").stdout.contains("pending"));
    place.edit("plan/plan.rhai", "\"bad\\n\"", "\"good too\\n\"");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/site"), "good too\n");
}

#[test]
fn a_verification_waits_fails_and_counts_errors_as_false() {
    let place = Place::new(
        r#"
step::run("01", "First", || step::verify("a file comes", || file::exists("@/m/comes"), #{ within: 20 }));
step::run("02", "Second", || step::verify("it reads well", || file::read("@/m/none") == "x"));
"#,
    );
    let started = place.start("plan.rhai");
    crate::support::until("the step is at work", || place.records().contains(&"step_started".to_owned()));
    place.write("m/comes", "");
    started.end().ends(1).says("✅ 01 First").says("not verified: it reads well: ").says("@/m/none");
}

#[test]
fn steps_are_allowed_at_the_top_level_only() {
    for plan in [
        r#"step::run("01", "First", || step::run("02", "Second", || 1));"#,
        r#"if true { step::run("02", "Second", || 1); }"#,
    ] {
        let place = Place::new(plan);
        place.run("plan.rhai").ends(2).says("`step::run` must be called at the top level of a plan");
        assert!(!place.exists("state"));
    }
}

#[test]
fn a_command_that_runs_each_time_is_no_drift() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    let said = cmd::run(["echo", "now"], #{ always: "a test" });
    file::write("@/m/said", said.stdout);
});
"#,
    )
    .with("plan/look.rhai", r#"for row in step::list("plan.rhai") { print(row.status); }"#);
    place.run("plan.rhai").ends(0);
    place.run("look.rhai").ends(0).prints("complete\n");
    place.run("plan.rhai --verify").ends(0);
    place.run("plan.rhai --redo 01 --dry-run").ends(6).says("run echo now");
}

#[test]
fn status_of_a_step_that_ends_meanwhile_is_complete() {
    let place = Place::new(
        r#"
step::run("01", "First", || { cmd::run(["bash", "-c", "touch @/m/begun; until test -e @/m/go; do sleep 0.01; done"], #{ always: "a test" }); });
"#,
    )
    .with(
        "plan/look.rhai",
        r#"
cmd::read(["bash", "-c", "touch @/m/looks; until test -e @/m/ended; do sleep 0.01; done"]);
for row in step::list("plan.rhai") { print(`${row.id} ${row.status} ${row.finished != ()}`); }
"#,
    );
    let run = place.start("plan.rhai");
    crate::support::until("the step begins", || place.exists("m/begun"));
    let look = place.start("look.rhai");
    crate::support::until("the status is asked for", || place.exists("m/looks"));
    place.write("m/go", "");
    run.end().ends(0);
    place.write("m/ended", "");
    look.end().ends(0).prints("01 complete true\n");
}

#[test]
fn log_of_a_step_that_never_ran_names_those_that_did() {
    let place =
        Place::new(r#"step::run("01", "First", || { print("here"); }); step::run("02", "Second", || {});"#);
    place.run("log 01").ends(2).says("no log found: no step has run yet");
    place.run("plan.rhai --only 01").ends(0);
    place.run("log 02").ends(2).says("no log found: step `02` has not run").says("steps with a log: 01");
    place.run("log 01").ends(0).prints("here\n");
}

#[test]
fn dry_run_says_that_a_pending_handler_would_run() {
    let place = Place::new(
        r#"
step::run("01", "First", || { step::on_change(#{ run: [["test", "-e", "@/m/ok"]] }, || file::write("@/m/f", "1\n")); });
"#,
    );
    place.run("plan.rhai").ends(1);
    let would = "would run what is pending: test -e @/m/ok";
    place.run("plan.rhai --dry-run").ends(6).says(would).never_says("nothing to change");
    place.write("m/ok", "");
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --dry-run").ends(0).never_says(would);
}

#[test]
fn failed_test_of_a_handler_is_named_as_such() {
    let place = Place::new(
        r#"step::run("01", "First", || { step::on_change(#{ test: ["false"] }, || file::write("@/m/f", "1\n")); });"#,
    );
    place
        .run("plan.rhai")
        .ends(1)
        .says("error: the test of a handler failed: `false` ended with exit code 1");
}

#[test]
fn failed_step_counts_what_it_made_since_it_was_last_complete() {
    let place = Place::new(r#"step::run("01", "First", || { file::write("@/m/f", "1\n"); });"#);
    place.run("plan.rhai").ends(0);
    place.write(
        "plan/plan.rhai",
        r#"step::run("01", "First", || { file::write("@/m/g", "1\n"); throw "no"; });"#,
    );
    place.run("plan.rhai").ends(1).says("step 01 made 1 change so far");
    place.run("plan.rhai").ends(1).says("step 01 made 1 change so far");
}

#[test]
fn dry_run_knows_a_copy_of_what_it_predicted_and_a_directory_that_nothing_makes() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::make_dir("@/m/d"); file::write("@/m/d/f", "1\n"); file::copy("@/m/d/f", "@/m/d/g"); file::write("@/m/d/h", "1\n"); });
step::run("02", "Second", || file::write("@/m/none/h", "1\n"));
"#,
    );
    let said = place
        .run("plan.rhai --dry-run")
        .ends(6)
        .says("01 First                  4 changes")
        .says("would make @/m/d/g");
    said.never_says("would make @/m/none").says("its parent directory `@/m/none` does not exist");
}

#[test]
fn logs_that_were_forgotten_are_said_to_be_removed() {
    let place =
        Place::new(r#"step::run("01", "First", || { print("here"); file::write("@/m/f", "1\n"); });"#);
    place.run("plan.rhai").ends(0);
    place.run("forget plan --yes").ends(0);
    place.run("log").ends(1).says("no log found: `kkrun forget` removed those of the steps that ran");
    place.run("log 01").ends(1).says("no log found: `kkrun forget` removed that of step `01`");
}

#[test]
fn a_repair_that_keeps_what_was_modified_makes_it_the_operators_for_good() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "mine\n"));"#);
    place.run("plan.rhai").ends(0);
    place.write("m/a", "theirs\n");
    place.run("plan.rhai --verify").ends(1);
    place.run("plan.rhai --repair --on-conflict keep").ends(0).says("kept as modified outside kkrun");
    assert_eq!(place.read("m/a"), "theirs\n");
    place.run("plan.rhai --verify").ends(0);
    assert!(!place.run("status plan.rhai").ends(0).stdout.contains("drifted"));
}
