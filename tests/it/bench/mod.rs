//! Runs kkrun on a plan in a directory of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;

/// A plan and its state directory, in a directory that only its owner can write.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(scripts: &[(&str, &str)]) -> Self {
        // Root reads no script below a directory that others can write.
        let is_root = rustix::process::geteuid().is_root();
        let directory = if is_root { "/var/lib" } else { env!("CARGO_TARGET_TMPDIR") };
        let directory = tempfile::tempdir_in(directory).unwrap();
        let bench = Self { directory };
        for (name, text) in scripts {
            bench.write(name, text);
        }
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::cargo_bin("kkrun").unwrap();
        command.current_dir(self.directory.path()).env_remove("CREDENTIALS_DIRECTORY");
        command.arg("--state-dir").arg(self.path("state")).arg("--non-interactive").args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn secrets_file(&self, text: &str, mode: u32) -> String {
        let path = self.path("given");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    /// Every file below the state directory but the stored secrets themselves.
    pub(crate) fn recorded(&self) -> String {
        let mut text = String::new();
        let mut open = vec![self.path("state")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !path.ends_with("secrets") {
                        open.push(path);
                    }
                } else {
                    text.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
                }
            }
        }
        text
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + String::from_utf8_lossy(&output.stdout).as_ref()
}
