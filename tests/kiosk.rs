//! The whole plan on a booted Debian 12: each script of `tests/kiosk` runs inside a clone of a base and looks at the
//! machine from outside of kkrun.
//!
//! They need root, the tools that `kkrun rehearse` names, and in `KKRUN_TEST_BASES` the directory of bases that
//! `.ci/bases` makes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use kkrun::machine::signal::Signals;
use kkrun::rehearse::{Base, FILES, Progress, Rehearsal, Run, rehearse};

/// Runs `tests/kiosk/NAME.sh` in a clone of a base; it must end with 0. What it leaves in /root/pictures is kept in
/// `target/pictures`.
fn passes(name: &str, base: &str) {
    let bases = std::env::var_os("KKRUN_TEST_BASES").expect("KKRUN_TEST_BASES names the directory of bases");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = tempfile::Builder::new().prefix("kkrun-test-").tempdir_in("/var/tmp").unwrap();
    let script = format!("exec bash {FILES}/{name}.sh");
    let mut files = vec![(PathBuf::from(env!("CARGO_BIN_EXE_kkrun")), "kkrun".to_owned())];
    for directory in ["tests/kiosk", "tests/session"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            files.push((entry.path(), entry.file_name().into_string().unwrap()));
        }
    }
    let rehearsal = Rehearsal {
        base: Base::Directory(PathBuf::from(bases).join(base)),
        with: Vec::new(),
        keep: true,
        expect_unchanged: false,
        runs: vec![Run { arguments: ["-c", &script].map(OsString::from).to_vec(), plan: None }],
        scratch: scratch.path().join("clones"),
        binary: "/bin/bash".into(),
        files,
    };
    let mut kept = None;
    let outcome = rehearse(&rehearsal, &Signals::deaf().unwrap(), &mut |progress| {
        if let Progress::Kept { remove, upper, .. } = progress {
            kept = Some((remove, upper));
        }
    });
    if let Some((remove, upper)) = kept {
        let pictures = root.join("target/pictures");
        std::fs::create_dir_all(&pictures).unwrap();
        let script =
            format!("cp {}/root/pictures/* {} 2>/dev/null; {remove}", upper.display(), pictures.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }
    assert_eq!(outcome.unwrap().exit_codes, [0], "tests/kiosk/{name}.sh");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn the_plan_is_done_done_again_rolled_back_and_done_once_more() {
    passes("whole", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn each_step_fails_for_a_real_cause_and_the_next_run_goes_on_there() {
    passes("resume", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn killed_in_each_step_the_next_run_completes() {
    passes("kill", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn apt_is_left_to_finish_when_the_run_is_stopped() {
    passes("apt", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn a_real_session_shows_the_dashboard() {
    passes("session", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn rolled_back_the_machine_equals_its_base() {
    let bases = std::env::var_os("KKRUN_TEST_BASES").expect("KKRUN_TEST_BASES names the directory of bases");
    let status = Command::new(env!("CARGO_BIN_EXE_kkrun"))
        .args(["rehearse", "--yes", "--non-interactive", "--purge", "all", "--expect-unchanged"])
        .arg("--base")
        .arg(Path::new(&bases).join("prepared"))
        .args(["--then", "rollback.rhai", "master.rhai"])
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
#[ignore = "needs root, the pristine base and a network"]
fn on_a_pristine_debian_it_installs_everything_and_leaves_only_what_debian_leaves() {
    passes("pristine", "pristine");
}
