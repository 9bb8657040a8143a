//! Checks scripts from outside, and asks for root.

use std::process::Command;

use crate::support::Place;

const BROKEN: &str = "file::wriet(\"/x\", settings::nmae);\nfoo();\n";

#[test]
fn every_problem_is_told_with_its_place_and_nothing_is_run() {
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
            .says("there is no function `hepl`\n  ╭─ helper.rhai:1:13")
            .says("there is no function `file::wriet`\n  ╭─ 02.rhai:2:7")
            .says("next: did you mean `file::write`?")
            .says("there is no setting `nmae`\n  ╭─ 02.rhai:2:29")
            .says("there is no function `foo`\n  ╭─ 02.rhai:3:1")
            .says("error: 4 problems");
    }
    assert!(!place.exists("m/first") && !place.exists("state"));
}

#[test]
fn what_passes_is_counted_and_a_directory_is_read_whole() {
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
        .says("there is no script");
}

#[test]
fn the_built_in_scripts_pass() {
    let place = Place::empty();
    let ran = place.run("check").ends(0);
    assert!(ran.stdout.ends_with(" scripts, no problems\n"), "{}", ran.page());
}

/// A script that runs the rest of its words as somebody who may do nothing, in a mount namespace whose /var/lib holds
/// the program and this.
fn as_nobody(prepare: &str, words: &[&str]) -> (Option<i32>, String) {
    started_as_nobody(prepare, "", words)
}

/// The same with the words of `start` in front of the program.
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
fn beside_root_s_journal_nobody_is_shown_another() {
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
        said.contains("`plan.rhai` requires root: going on through sudo, with KKRUN_SECRET_PIN"),
        "{said}"
    );
    let given = "sudo was given: --preserve-env=KKRUN_SECRET_PIN -- /mnt/kkrun plan.rhai --dry-run";
    assert!(said.contains(given), "{said}");
    let (status, said) =
        started_as_nobody(prepare, "/mnt/bin/at-a-terminal", &["plan.rhai", "--non-interactive"]);
    assert_eq!(status, Some(77), "{said}");
}
