//! Checks scripts from outside, and asks for root.

use std::process::Command;

use crate::support::Place;

const BROKEN: &str = "file::wriet(\"/x\", settings::nmae);\nfoo();\n";

#[test]
fn every_problem_is_reported_with_its_line_and_nothing_runs() {
    let plan = "step::run(\"01\", \"First\", || file::write(\"@/m/first\", \"x\"));\n\
                step::run(\"02\", \"Second\", \"02.rhai\");\n";
    let place = Place::new(plan)
        .with("plan/settings.rhai", "#{ name: \"kim\" }")
        .with("plan/02.rhai", &format!("import \"helper\" as helper;\n{BROKEN}"))
        .with("plan/helper.rhai", "fn help() { hepl(1) }");
    for words in ["plan.rhai", "check plan.rhai", "plan.rhai --dry-run"] {
        place
            .run(words)
            .ends(2)
            .says("unknown function `hepl`\n  ╭─ helper.rhai:1:13")
            .says("unknown function `file::wriet`\n  ╭─ 02.rhai:2:7")
            .says("next: did you mean `file::write`?")
            .says("unknown setting `nmae`\n  ╭─ 02.rhai:2:29")
            .says("unknown function `foo`\n  ╭─ 02.rhai:3:1")
            .says("error: 4 problems");
    }
    assert!(!place.exists("m/first") && !place.exists("state"));
}

#[test]
fn array_is_a_value_in_json_and_toml_only() {
    let place = Place::new(
        "config::set(\"@/m/a.json\", \"a\", [1]);\nconfig::set(\"@/m/a\", \"a\", #{ b: 1 }, #{ format: \"toml\" });\n",
    );
    place.run("check plan.rhai").ends(0);
    place.write(
        "plan/plan.rhai",
        "config::set(\"/etc/a.conf\", \"a\", [1]);\nconfig::set(\"/etc/a.ini\", \"a\", ());\n",
    );
    place
        .run("plan.rhai")
        .ends(2)
        .says("expected a string, a number, a bool or a secret as a value in `/etc/a.conf`, found an array")
        .says("plan.rhai:1:33")
        .says("as a value in `/etc/a.ini`")
        .says("next: only JSON and TOML have other values");
}

#[test]
fn reserved_word_is_named_with_the_way_to_write_it() {
    for (script, column, word, hint) in [
        ("let a = #{ debug: true };", 12, "debug", "quote it as the key of a map: `\"debug\": …`"),
        ("let a = #{ one: 1, import: 2 };", 20, "import", "`\"import\": …`"),
        ("let a = #{ in : 1 };", 12, "in", "`\"in\": …`"),
        ("let a = #{}; a.new = 1;", 16, "new", "in brackets instead of behind a dot: `[\"new\"]`"),
        ("let sync = 1;", 5, "sync", "choose another name"),
    ] {
        let place = Place::new(script);
        let caret = format!("  │ {}{}\n", " ".repeat(column - 1), "^".repeat(word.len()));
        place
            .run("check plan.rhai")
            .ends(2)
            .says(&format!("error: `{word}` is a reserved word\n  ╭─ plan.rhai:1:{column}\n"))
            .says(&caret)
            .says(hint);
    }
    Place::new("let a = #{ \"debug\": true, \"in\": 2 }; print(a[\"in\"]);")
        .run("plan.rhai")
        .ends(0)
        .prints("2\n");
}

#[test]
fn scripts_without_problems_are_counted_and_directories_are_read_whole() {
    let place = Place::new("import \"lib\" as lib; print(lib::one());")
        .with("plan/lib.rhai", "fn one() { 1 }")
        .with("plan/below/other.rhai", "print(2);");
    place.run("check plan.rhai").ends(0).prints("2 scripts, no problems\n");
    place
        .run_words(&["check", &place.path("plan").display().to_string()])
        .ends(0)
        .prints("3 scripts, no problems\n");
    place.write("plan/below/other.rhai", "let x = ;");
    place
        .run_words(&["check", &place.path("plan").display().to_string()])
        .ends(2)
        .says("below/other.rhai:1:9");
    place
        .run_words(&["check", &place.path("nowhere").display().to_string()])
        .ends(2)
        .says("nowhere` not found");
}

#[test]
fn the_built_in_scripts_pass() {
    let place = Place::empty();
    let ran = place.run("check").ends(0);
    assert!(ran.stdout.ends_with(" scripts, no problems\n"), "{}", ran.page());
}

/// Runs kkrun with these arguments as the user `nobody`, in a mount namespace where /mnt holds the program and /var/lib
/// what `prepare` makes.
fn as_nobody(prepare: &str, words: &[&str]) -> (Option<i32>, String) {
    started_as_nobody(prepare, "", words)
}

/// The same, started by the command `start`.
fn started_as_nobody(prepare: &str, start: &str, words: &[&str]) -> (Option<i32>, String) {
    let script = format!(
        "set -eu; program=$1; shift; start=$1; shift; mount -t tmpfs -o mode=0755 none /mnt; cp \"$program\" /mnt/kkrun\n\
         mount -t tmpfs -o mode=0755 none /var/lib; cd /mnt\n{prepare}\n\
         exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i HOME=/nonexistent NO_COLOR=1 \\\n\
         PATH=/mnt/bin:/usr/bin:/bin KKRUN_SECRET_PIN=4711 $start /mnt/kkrun \"$@\""
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
            env!("CARGO_BIN_EXE_kkrun"),
            start,
        ])
        .args(words)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_script_that_requires_root_is_refused_without_it() {
    let prepare = "echo 'step::run(\"01\", \"First\", \"01.rhai\");' > plan.rhai\n\
                   echo 'const REQUIRES = #{ root: true }; print(1);' > 01.rhai";
    let (status, said) = as_nobody(prepare, &["plan.rhai", "--dry-run"]);
    assert_eq!(status, Some(77), "{said}");
    assert!(said.contains("error: `plan.rhai` requires root\n"), "{said}");
    assert!(said.contains("next: run it as root: `sudo kkrun plan.rhai --dry-run`"), "{said}");
    let (status, said) =
        as_nobody("echo 'print(1);' > plan.rhai", &["plan.rhai", "--state-dir", "/mnt/s", "--dry-run"]);
    assert_eq!(status, Some(0), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn captured_command_is_refused_without_root() {
    let prepare = "install -d -o 65534 state\n\
                   echo 'cmd::run([\"touch\", \"/mnt/state/x\"], #{ capture: #{} });' > plan.rhai";
    let (status, said) = as_nobody(prepare, &["plan.rhai", "--state-dir", "/mnt/state"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("error: cannot capture a command: only root can mount an overlay"), "{said}");
    assert!(said.contains("run kkrun as root, or run the command without `capture`"), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn command_as_another_user_is_refused_without_root() {
    let prepare = "install -d -o 65534 state\n\
                   echo 'cmd::run([\"true\"], #{ user: \"root\", always: \"a test\" });' > plan.rhai";
    let (status, said) = as_nobody(prepare, &["plan.rhai", "--state-dir", "/mnt/state"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("only root can run a command as user `root`"), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn directory_without_a_journal_locks_no_user_out() {
    // What a run of root's leaves that was killed before it changed anything.
    let prepare = "echo 'step::run(\"01\", \"First\", || ());' > /mnt/empty.rhai\n\
                   strace -qq -o /dev/null -e inject=flock:signal=KILL /mnt/kkrun /mnt/empty.rhai > /dev/null 2>&1 || true\n\
                   test -e /var/lib/kkrun/lock && ! test -e /var/lib/kkrun/journal\n\
                   install -d -o 65534 state; echo 'print(1);' > plan.rhai";
    let (status, said) = as_nobody(prepare, &["history"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("no changes are recorded"), "{said}");
    let with_journal = format!(
        "{prepare}\n/mnt/kkrun /mnt/empty.rhai; test -e /var/lib/kkrun/journal\n\
                                stat -c %a /var/lib/kkrun | grep -qx 700"
    );
    let (status, said) = as_nobody(&with_journal, &["history"]);
    assert_eq!(status, Some(77), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn users_are_refused_beside_the_journal_of_root() {
    for words in [["history"], ["doctor"], ["rollback"], ["log"]] {
        let (status, said) = as_nobody("mkdir -m 0700 /var/lib/kkrun", &words);
        assert_eq!(status, Some(77), "{said}");
        assert!(said.contains(&format!("`sudo kkrun {}`", words[0])), "{said}");
    }
    let (status, said) = as_nobody("mkdir -m 0700 /var/lib/kkrun", &["history", "--state-dir", "/tmp/other"]);
    assert_eq!(status, Some(0), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn with_a_terminal_it_goes_on_through_sudo_with_the_secrets_it_was_given() {
    let prepare = "echo 'const REQUIRES = #{ root: true }; print(1);' > plan.rhai; mkdir bin\n\
                   printf '#!/bin/sh\\necho \"sudo was given: $*\"; exit 5\\n' > bin/sudo; chmod +x bin/sudo\n\
                   printf '#!/bin/sh\\nexec script -qec \"$*\" /dev/null\\n' > bin/at-a-terminal; chmod +x bin/*";
    let (status, said) = started_as_nobody(prepare, "/mnt/bin/at-a-terminal", &["plan.rhai", "--dry-run"]);
    assert_eq!(status, Some(5), "{said}");
    assert!(
        said.contains("`plan.rhai` requires root: continuing through sudo, with KKRUN_SECRET_PIN"),
        "{said}"
    );
    let given = "sudo was given: --preserve-env=KKRUN_SECRET_PIN -- /mnt/kkrun plan.rhai --dry-run";
    assert!(said.contains(given), "{said}");
    let (status, said) =
        started_as_nobody(prepare, "/mnt/bin/at-a-terminal", &["plan.rhai", "--non-interactive"]);
    assert_eq!(status, Some(77), "{said}");
}

#[test]
fn option_that_a_function_needs_is_missed_before_anything_runs() {
    for (call, lacks) in [
        (r#"cmd::run(["true"], #{})"#, "`cmd::run` needs one of `creates`, `unless`, `always` or `capture`"),
        (r#"cmd::run(["true"], #{ label: "x" })"#, "`cmd::run` needs one of"),
        (
            r#"file::access("/etc", #{ recursive: true })"#,
            "`file::access` needs one of `owner`, `group` or `mode`",
        ),
        (r#"file::download("https://a/b", "/srv/b", #{ })"#, "`file::download` needs `sha256`"),
    ] {
        let place = Place::new(&format!(r#"step::run("01", "First", || {{ {call}; }});"#));
        place.run("check plan.rhai").ends(2).says(lacks);
    }
    let place = Place::new(
        r#"step::run("01", "First", || { let o = #{}; cmd::run(["true"], o + #{ always: "x" }); });"#,
    );
    place.run("check plan.rhai").ends(0);
}

#[test]
fn what_was_exported_passes_the_check() {
    let place = Place::empty();
    place.run("export ../built-in").ends(0);
    place.run("check ../built-in").ends(0);
    // As the plan that imports it, a module is checked, too.
    std::fs::remove_file(place.path("built-in/scripts/files/kiosk.service")).unwrap();
    place.run("check ../built-in/stdlib").ends(2).says("`files/kiosk.service` not found in the plan");
}
