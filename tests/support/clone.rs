//! A script of `tests/kiosk` in a clone of a base, and what it leaves for this side.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use kkrun::machine::signal::Signals;
use kkrun::rehearse::{Base, FILES, Progress, Rehearsal, Run, rehearse};

/// The base of this name.
pub(crate) fn base(name: &str) -> PathBuf {
    let bases = std::env::var_os("KKRUN_TEST_BASES").expect("KKRUN_TEST_BASES names the directory of bases");
    PathBuf::from(bases).join(name)
}

/// An empty directory on the disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("kkrun-test-").tempdir_in("/var/tmp").unwrap()
}

/// A rehearsal of a script with its words, in a clone of the root file system in a directory.
pub(crate) fn of_script(words: &str, base: PathBuf, clones: PathBuf) -> Rehearsal {
    let (name, arguments) = words.split_once(' ').unwrap_or((words, ""));
    let script = format!("exec bash {FILES}/{name}.sh {arguments}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![(PathBuf::from(env!("CARGO_BIN_EXE_kkrun")), "kkrun".to_owned())];
    for directory in ["tests/kiosk", "tests/session"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            files.push((entry.path(), entry.file_name().into_string().unwrap()));
        }
    }
    Rehearsal {
        base: Base::Directory(base),
        with: Vec::new(),
        keep: true,
        expect_unchanged: false,
        durable: false,
        runs: vec![Run { arguments: ["-c", &script].map(OsString::from).to_vec(), plan: None }],
        report: None,
        scratch: clones,
        binary: "/bin/bash".into(),
        files,
    }
}

/// Runs it; it must end with 0. What it leaves in /root/pictures comes to a directory of this side, and nothing else
/// remains.
pub(crate) fn passes(rehearsal: &Rehearsal, pictures: &Path) {
    let mut kept = None;
    let outcome = rehearse(rehearsal, &Signals::deaf().unwrap(), &mut |progress| {
        if let Progress::Kept { remove, upper, .. } = progress {
            kept = Some((remove, upper));
        }
    });
    if let Some((remove, upper)) = kept {
        std::fs::create_dir_all(pictures).unwrap();
        let script =
            format!("cp {}/root/pictures/* {} 2>/dev/null; {remove}", upper.display(), pictures.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }
    let words = rehearsal.runs[0].arguments[1].display().to_string();
    assert_eq!(outcome.unwrap().exit_codes, [0], "{words}");
}
