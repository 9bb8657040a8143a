//! `kkrun rehearse` as operators type it: at a terminal, stopped, killed.
//!
//! Needs what tests/it/rehearsal.rs needs.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const WRITES: &str = "file::write(\"/srv/rehearsed\", \"text\\n\");\n";
const WAITS: &str =
    "log::info(\"waiting\");\nstep::verify(\"that the operator comes\", || false, #{ within: 600 });\n";

/// A script in a directory that only its owner can write.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir_in("/root").unwrap();
        std::fs::write(directory.path().join("plan.rhai"), script).unwrap();
        Self { directory }
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("plan.rhai")
    }

    fn rehearse(&self, options: &[&str]) -> Command {
        let base =
            std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
        command.arg("rehearse").arg("--base").arg(base).args(options).arg(self.script());
        command.env_remove("TMPDIR");
        command
    }
}

fn assert_nothing_is_left(name: &str) {
    for directory in ["/run/netns", "/run/kkrun/rehearsals", "/var/tmp/kkrun-rehearsals"] {
        assert!(!Path::new(directory).join(name).exists(), "{directory}/{name}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/{name}/")), "{mounts}");
}

#[test]
#[ignore = "needs root and a Debian base"]
fn rehearsal_reports_changes_and_lists_differences_as_data() {
    let place = Place::new(WRITES);
    let output = place.rehearse(&["--expect-unchanged", "--then", "history"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("    /srv 1 added (5 bytes)"), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed.lines().last(), Some("added /srv/rehearsed"), "{printed}");
    assert!(!Path::new("/srv/rehearsed").exists());
}

#[test]
#[ignore = "needs root and a Debian base"]
fn report_of_a_rehearsal_has_its_run_and_what_it_changed_on_disk() {
    let place =
        Place::new("step::run(\"01\", \"Write\", || file::write(\"/srv/<rehearsed>\", \"text\\n\"));");
    let page = place.directory.path().join("page.html");
    let output = place.rehearse(&["--report", page.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let page = std::fs::read_to_string(page).unwrap();
    for part in [
        "/srv/&lt;rehearsed&gt;",
        "+text",
        "Changed on disk by the rehearsal",
        "added /srv/&lt;rehearsed&gt;",
    ] {
        assert!(page.contains(part), "`{part}` is not in the page:\n{page}");
    }
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_dry_run_changes_nothing_in_the_clone() {
    let output = Place::new(WRITES).rehearse(&["--dry-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("nothing on disk changed"), "{said}");
}

#[test]
#[ignore = "needs root and a Debian base"]
fn ctrl_c_ends_the_run_inside_the_clone_and_leaves_nothing() {
    let place = Place::new(WAITS);
    let mut session = rexpect::session::spawn_command(place.rehearse(&[]), Some(60_000)).unwrap();
    let (_, name) = session.exp_regex("kkrun-[0-9-]+").unwrap();
    session.exp_string("waiting").unwrap();
    session.send_control('c').unwrap();
    let said = session.exp_eof().unwrap();
    let status = session.process().wait().unwrap();
    assert!(format!("{status:?}").ends_with(", 130)"), "{status:?}: {said}");
    assert_nothing_is_left(&name);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn next_rehearsal_removes_what_a_killed_one_left() {
    let place = Place::new(WAITS);
    let mut killed = place.rehearse(&[]).stderr(Stdio::piped()).spawn().unwrap();
    let name = format!("kkrun-{}", killed.id());
    let said = BufReader::new(killed.stderr.take().unwrap());
    assert!(said.lines().any(|line| line.unwrap().contains("is up after")), "the clone did not boot");
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(9));
    let scratch = Path::new("/var/tmp/kkrun-rehearsals").join(&name);
    assert!(scratch.exists() || !Path::new("/run/kkrun/rehearsals").join(&name).exists());
    let next = Place::new(WRITES).rehearse(&[]).output().unwrap();
    assert_eq!(next.status.code(), Some(0), "{}", String::from_utf8_lossy(&next.stderr));
    assert_nothing_is_left(&name);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn next_rehearsal_ends_what_one_killed_at_any_moment_of_its_boot_left() {
    for wait in [0, 50, 100, 200, 400, 600, 800] {
        let place = Place::new(WAITS);
        let mut killed = place.rehearse(&[]).stderr(Stdio::null()).spawn().unwrap();
        let name = format!("kkrun-{}", killed.id());
        let log = Path::new("/var/tmp/kkrun-rehearsals").join(&name).join("console.log");
        while !log.exists() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(wait));
        killed.kill().unwrap();
        assert_eq!(killed.wait().unwrap().signal(), Some(9));
        let next = Place::new(WRITES).rehearse(&[]).output().unwrap();
        assert_eq!(next.status.code(), Some(0), "{wait} ms: {}", String::from_utf8_lossy(&next.stderr));
        assert_nothing_is_left(&name);
        let with_name = Command::new("pgrep").args(["--full", &format!("machine={name} ")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&with_name.stdout), "", "{wait} ms");
    }
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_captured_command_is_rehearsed_with_its_undo() {
    let script = r#"
step::run("01", "Install", || {
    let install = "echo more >> /etc/motd; rm -r /etc/apt/sources.list.d; rm /etc/issue; mkdir -p /etc/cron.d /srv/app; rm -rf /etc/cron.d; mkdir /etc/cron.d; echo x > /etc/cron.d/app; echo y > /srv/app/y; chown 1000:1000 /srv/app/y; setcap cap_net_raw+ep /usr/bin/true; ln -s y /srv/app/z; touch /tmp/t";
    cmd::run(["bash", "-ec", install], #{ label: "install", creates: "/srv/app", capture: #{} });
    step::verify("it is applied", || file::read("/srv/app/z") == "y\n" && !file::exists("/etc/issue")
        && cmd::read(["ls", "/etc/cron.d"]) == "app" && cmd::read(["getcap", "/usr/bin/true"]) != "");
});
"#;
    let place = Place::new(script);
    let then = ["--expect-unchanged", "--then", "rollback --yes --non-interactive"];
    let output = place.rehearse(&then).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("paths changed") && said.contains("1 undone"), "{said}");
}
