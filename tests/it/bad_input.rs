//! Invalid input: a clear message, the right exit status, and nothing is lost or changed.

use std::os::unix::fs::PermissionsExt;

use crate::support::Place;

const GOOD: &str = r#"step::run("01", "First", || file::write("@/m/a", "a\n"));"#;

/// Checks that nothing was changed: there is no state directory and no product.
#[track_caller]
fn untouched(place: &Place) {
    assert!(!place.exists("state"), "a state directory appeared");
    assert_eq!(place.prints_of("m").len(), 1);
}

#[test]
fn a_script_that_cannot_be_read_is_wrong_usage() {
    let place =
        Place::new(GOOD).with("plan/empty.rhai", "").with("plan/remark.rhai", "// nothing but a remark\n");
    std::fs::write(place.path("plan/junk.rhai"), [0_u8, 159, 146, 150, b'\n', 255]).unwrap();
    std::fs::write(place.path("plan/nul.rhai"), "let a = 1;\0").unwrap();
    std::fs::write(place.path("plan/latin.rhai"), b"let a = 1;\nlet b = \"\xe9\";\n").unwrap();
    for (script, said) in [
        ("none.rhai", "script `none.rhai` not found"),
        ("./none.rhai", "script `./none.rhai` not found"),
        ("../m", "is a directory, not a script"),
        ("empty.rhai", "`empty.rhai` contains no statement"),
        ("remark.rhai", "`remark.rhai` contains no statement"),
        ("junk.rhai", "line 1 is not UTF-8 text"),
        ("nul.rhai", "is binary, not a script"),
        ("latin.rhai", "line 2 is not UTF-8 text"),
        ("/dev/null", "is not a regular file"),
    ] {
        place.run(script).ends(2).prints("").says("error: ").says(said);
        place.run(&format!("{script} --dry-run")).ends(2);
    }
    untouched(&place);
}

#[test]
fn inconsistent_plan_changes_nothing() {
    for (plan, said) in [
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nstep::run(\"02\", \"Second\", \"none.rhai\");",
            "none.rhai",
        ),
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nstep::run(\"01\", \"Second\", || 1);",
            "`01` is used twice, first in line 1",
        ),
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nlet id = \"02\";\nstep::run(id, \"Second\", || 1);",
            "needs its id as a non-empty string literal",
        ),
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nstep::run(\"02\", \"Second\", \"../m/x.rhai\");",
            "is outside the plan's directory",
        ),
        ("step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nlet x = (1;", "plan.rhai:2:"),
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nstep::run(\"02\", \"Second\", \"bad.rhai\");",
            "bad.rhai:2:",
        ),
        (
            "step::run(\"01\", \"First\", || file::write(\"@/m/a\", \"\"));\nstep::run(\"02\", \"Second\", \"junk.rhai\");",
            "not UTF-8",
        ),
    ] {
        let place = Place::new(plan).with("plan/bad.rhai", "let a = 1;\nlet b = ;\n");
        std::fs::write(place.path("plan/junk.rhai"), [255]).unwrap();
        place.run("plan.rhai").ends(2).says(said);
        place.run("plan.rhai --dry-run").ends(2).says(said);
        untouched(&place);
    }
}

#[test]
fn settings_other_than_a_map_of_plain_values_are_refused() {
    for (settings, said) in [
        ("let a = 1;", "must end in a map of settings"),
        ("#{ a: || 1 }", "the setting `a`"),
        ("#{ a: \"{b}\" }", "unknown setting `b`"),
        ("#{ a: \"{b}\", b: \"{a}\" }", "refers to itself"),
        ("#{ a: ", "settings.rhai:1:"),
    ] {
        let place = Place::new(GOOD).with("plan/settings.rhai", settings);
        place.run("plan.rhai").ends(2).says(said);
        untouched(&place);
    }
}

#[test]
fn a_script_without_end_or_bottom_is_stopped() {
    let place = Place::new("loop { }");
    place.run("plan.rhai").ends(1).says("ran for too long").says("plan.rhai:1:");
    let place = Place::new("fn deeper(n) { deeper(n + 1) }\ndeeper(0);");
    place.run("plan.rhai").ends(1).says("nested too deeply");
    let place = Place::new("let text = \"x\"; loop { text += text; }");
    place.run("plan.rhai").ends(1).says("too large");
    let place = Place::new(&format!("let a = {}1{};", "(".repeat(5000), ")".repeat(5000)));
    place.run("plan.rhai").ends(2);
    let place = Place::new("file::write(\"@/m/a\", \"\");\nexit();");
    place.run("plan.rhai").ends(1).says("the script called `exit`").says("plan.rhai:2:");
    let place = Place::new("eval(\"1\");");
    place.run("plan.rhai").ends(2).says("eval");
}

#[test]
fn an_import_in_a_cycle_or_from_outside_is_refused() {
    let place = Place::new("import \"one\" as one;\none::f();")
        .with("plan/one.rhai", "import \"two\" as two;\nfn f() { 1 }")
        .with("plan/two.rhai", "import \"one\" as one;\nfn f() { 1 }")
        .with("m/outside.rhai", "fn f() { 1 }")
        .with("plan/out.rhai", "import \"../m/outside\" as outside;\noutside::f();");
    let ran = place.run("plan.rhai");
    assert!(matches!(ran.status, 1 | 2), "{}", ran.page());
    ran.says("cycle");
    let ran = place.run("out.rhai");
    assert!(matches!(ran.status, 1 | 2), "{}", ran.page());
    ran.says("is outside the plan's directory");
}

#[test]
fn a_state_directory_that_cannot_be_written_stops_the_run_before_it_changes_anything() {
    let place = Place::new(GOOD).with("file", "");
    let mut command = place.command(&["plan.rhai"]);
    command.args(["--state-dir", place.path("file/state").to_str().unwrap()]);
    let words = ["--state-dir", place.path("file/state").to_str().unwrap().to_owned().leak(), "plan.rhai"];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun"))
        .args(words)
        .current_dir(place.path("plan"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("file/state"), "{said}");
    assert_eq!(place.prints_of("m").len(), 1);
}

#[test]
fn journal_that_cannot_be_written_ends_the_run_and_stays_whole() {
    // A limit to the size of files stands in for a full disk.
    let place = Place::new(
        r#"
step::run("01", "First", || { for n in range(0, 60) { file::write(`@/m/${n}`, "x"); } });
"#,
    );
    let kkrun = place.command(&[]);
    let line = format!(
        "trap '' XFSZ; ulimit -f 16; cd '{}' && exec '{}' --state-dir '{}' plan.rhai",
        place.path("plan").display(),
        kkrun.get_program().display(),
        place.path("state").display()
    );
    let output =
        std::process::Command::new("bash").args(["-c", &line]).env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the journal") && said.contains("nothing is lost"), "{said}");
    let made = place.prints_of("m").len() - 1;
    assert!(made > 0 && made < 60);
    let doctor = place.run("doctor").ends(0).stdout;
    assert!(doctor.contains("is intact"), "{doctor}");
    assert_eq!(
        place.records().iter().filter(|kind| *kind == "intent").count(),
        made,
        "nothing without a record"
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(place.prints_of("m").len(), 1);
}

fn broken(damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Place {
    let place = Place::new(GOOD).with("m/a", "old\n");
    place.run("plan.rhai").ends(0);
    let path = place.path("state/journal");
    std::fs::write(&path, damage(std::fs::read(&path).unwrap())).unwrap();
    place
}

#[track_caller]
fn refused(place: &Place, said: &str) {
    let before = (place.prints_of("m"), place.prints_of("state"));
    for words in ["plan.rhai", "plan.rhai --dry-run", "rollback", "rollback --dry-run", "history"] {
        place.run(words).ends(5).says(said).says("nothing was changed; run `kkrun doctor`");
    }
    let doctor = place.run("doctor").ends(5).stdout;
    assert!(doctor.contains("changes nothing until this is resolved") && doctor.contains(said), "{doctor}");
    assert_eq!((place.prints_of("m"), place.prints_of("state")), before);
}

#[test]
fn a_damaged_journal_changes_nothing_and_is_explained() {
    let flipped = broken(|mut bytes| {
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        bytes
    });
    refused(&flipped, "is damaged");
    let without_a_line = broken(|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.remove(2);
        lines.concat().into()
    });
    refused(&without_a_line, "is damaged");
    let junk = broken(|_| b"not a journal at all\n".to_vec());
    refused(&junk, "is empty, but backups");
}

#[test]
fn a_missing_journal_beside_backups_is_damage() {
    let place = broken(|bytes| bytes);
    place.remove("state/journal");
    refused(&place, "is missing, but backups");
}

fn line_of(json: &serde_json::Value) -> String {
    let json = json.to_string();
    format!("{:08x} {json}\n", kkrun::checksum::crc_32c(json.as_bytes()))
}

fn with_a_record(change: impl FnOnce(&mut serde_json::Value)) -> Place {
    broken(|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let last = text.lines().last().unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&last[9..]).unwrap();
        record["header"]["prev"] = last[..8].into();
        record["header"]["seq"] = (record["header"]["seq"].as_u64().unwrap() + 1).into();
        change(&mut record);
        format!("{text}{}", line_of(&record)).into()
    })
}

#[test]
fn journal_of_a_newer_kkrun_is_refused_unless_its_records_are_skippable() {
    refused(&with_a_record(|record| record["entry"] = "teleported".into()), "written by a newer kkrun");
    let skippable = with_a_record(|record| {
        record["entry"] = "teleported".into();
        record["header"]["skippable"] = true.into();
    });
    skippable.run("plan.rhai").ends(0);
    skippable.run("rollback").ends(0);
    let newer = broken(|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text.lines().next().unwrap()[9..]).unwrap();
        record["entry"]["format"]["version"]["major"] = 3.into();
        line_of(&record).into()
    });
    refused(&newer, "wrote it in format 3");
}

#[test]
fn a_torn_end_is_saved_aside_and_the_run_goes_on() {
    for torn in [&b"0123abcd {\"seq\":"[..], &[0; 300], b"\xff"] {
        let place = broken(|mut bytes| {
            bytes.extend_from_slice(torn);
            bytes
        });
        let whole = place.prints_of("state");
        let doctor = place.run("doctor").ends(0).stdout;
        assert!(
            doctor.contains(&format!("its last {} bytes are an incomplete write", torn.len())),
            "{doctor}"
        );
        place.run("plan.rhai --dry-run").ends(0);
        assert_eq!(place.prints_of("state"), whole, "who only reads cuts nothing");
        place.run("plan.rhai --redo 01").ends(0);
        let saved = std::fs::read_dir(place.path("state"))
            .unwrap()
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("journal.torn-at-"));
        assert_eq!(std::fs::read(saved.unwrap().path()).unwrap(), torn);
        place.run("doctor").ends(0);
        place.run("rollback").ends(0);
        assert_eq!(place.read("m/a"), "old\n");
    }
}

#[test]
#[ignore = "needs root"]
fn root_runs_nothing_that_other_users_can_write() {
    let set = |place: &Place, name: &str, mode: u32| {
        std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    let place = Place::new("step::run(\"01\", \"First\", \"01.rhai\");")
        .with("plan/01.rhai", "import \"words\" as words;\nfile::write(\"@/m/a\", words::text());\nfile::copy(\"files/b\", \"@/m/b\");")
        .with("plan/words.rhai", "fn text() { \"a\" }")
        .with("plan/files/b", "b")
        .with("mine.rhai", "#{ port: 81 }")
        .with("plan/settings.rhai", "#{ port: 80 }");
    for name in ["plan/plan.rhai", "plan/01.rhai", "plan/settings.rhai", "mine.rhai", "plan"] {
        let mode = if name == "plan" { 0o777 } else { 0o666 };
        set(&place, name, mode);
        let said = place.run("plan.rhai --settings ../mine.rhai").ends(77).says("is writable by everyone");
        said.says("chmod o-w");
        untouched(&place);
        set(&place, name, 0o755);
    }
    std::fs::create_dir(place.path("state")).unwrap();
    set(&place, "state", 0o777);
    place.run("plan.rhai").ends(77).says("@/state");
    place.run("rollback").ends(77).says("@/state");
    set(&place, "state", 0o700);
    place.run("plan.rhai").ends(0);
    set(&place, "state/journal", 0o666);
    place.run("rollback").ends(77).says("journal");
    assert!(place.exists("m/a"));
}

#[test]
fn a_script_that_requires_root_is_refused_to_others() {
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let script = directory.path().join("plan.rhai");
    std::fs::write(&script, "const REQUIRES = #{ root: true };\nfile::write(\"/nothing\", \"\");\n").unwrap();
    let run = |binary: &std::path::Path| {
        let mut command = std::process::Command::new(binary);
        command.arg("--state-dir").arg(directory.path().join("state")).arg(&script);
        command.stdin(std::process::Stdio::null()).env("NO_COLOR", "1").current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.output()
    };
    let output = run(std::path::Path::new(env!("CARGO_BIN_EXE_kkrun"))).unwrap_or_else(|_| {
        // The binary is in a directory that only root can read.
        let copy = directory.path().join("kkrun");
        std::fs::copy(env!("CARGO_BIN_EXE_kkrun"), &copy).unwrap();
        run(&copy).unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("requires root") && said.contains("sudo kkrun"), "{said}");
    assert!(!directory.path().join("state").exists());
}

#[test]
fn question_without_a_terminal_ends_with_its_exit_status() {
    let place = Place::new("if ask::confirm(\"Really?\", false) { file::write(\"@/m/a\", \"\"); }");
    place.run("plan.rhai").ends(78).says("Really?");
    place.run("plan.rhai --non-interactive").ends(78);
    assert_eq!(place.prints_of("m").len(), 1);
    place.run("plan.rhai --yes").ends(0);
    assert!(place.exists("m/a"));
}

#[test]
fn invalid_option_of_a_primitive_is_reported_with_its_line() {
    let place = Place::new(GOOD).with("plan/bad.rhai", "file::write(\"@/m/x\", \"\", #{ mood: \"0644\" });");
    let ran = place.run("bad.rhai");
    assert!(matches!(ran.status, 1 | 2), "{}", ran.page());
    ran.says("mood").says("bad.rhai:1:");
    assert!(!place.exists("m/x"));
}

#[test]
fn file_in_the_way_of_a_path_is_named() {
    let place = Place::new("file::write(\"@/m/file\", \"\"); file::write(\"@/m/file/x\", \"\");");
    place.run("plan.rhai").ends(1).says("cannot write `@/m/file/x`: `@/m/file` is a file, not a directory");
}
