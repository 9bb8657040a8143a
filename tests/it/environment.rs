//! The environment in which kkrun is started makes no difference to what it does.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::support::Place;

/// Does some of everything, and writes down what a command sees.
const PLAN: &str = r#"
file::make_dir("@/m/made");
file::write("@/m/made/file", "text\n");
file::copy("files/tree", "@/m/tree");
config::set("@/m/conf", "k", 1);
cmd::run(["bash", "-c", "exec > @/m/seen; env -u KKRUN_RUN | sort; pwd; umask; ulimit -S -n; ulimit -c; trap; ls -l /proc/self/fd | wc -l; touch @/m/naive; mkdir @/m/naive-dir"], #{ always: "to see" });
cmd::run(["bash", "-c", "x='a b:c'; set -- $x; echo $#; ls / > /dev/null; type -P ls"], #{ always: "to see" });
step::verify("it is there", || cmd::read(["cat", "@/m/made/file"]) == "text");
print(cmd::read(["id", "-un"]));
"#;

fn place() -> Place {
    let place = Place::new(PLAN).with("plan/files/tree/a", "a").with("plan/files/tree/b/c", "c");
    // The listing includes the scratch directory itself.
    std::fs::set_permissions(place.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// The modes, owners and contents after the run.
fn done(place: &Place) -> String {
    let script = "find . | sort | while read -r path; do stat -c '%n %A %U %G' \"$path\"; test -f \"$path\" && cat \"$path\"; done; true";
    let output = Command::new("bash").args(["-c", script]).current_dir(place.path("m")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace(&place.path("").display().to_string(), "@/")
}

/// Runs kkrun from a shell, after the commands of `first`.
fn after(place: &Place, first: &str) -> Command {
    let kkrun = place.command(&[]);
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{first}\nexec \"$@\""), "bash"]).arg(kkrun.get_program());
    shell.arg("--state-dir").arg(place.path("state")).arg(place.path("plan/plan.rhai"));
    shell.current_dir(place.path("plan")).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    shell.stdin(std::process::Stdio::null());
    shell
}

/// As done by a plain login.
fn plain() -> (String, String) {
    let place = place();
    let output = after(&place, "").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (done(&place), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn no_variable_limit_mode_or_descriptor_changes_what_is_done() {
    let expected = plain();
    assert!(
        expected.0.contains("./naive -rw-r--r--") && expected.0.contains("./naive-dir drwxr-xr-x"),
        "{}",
        expected.0
    );
    // The last line counts the title of the listing, the standard three and the directory that is listed.
    assert!(expected.0.contains("\n/\n0022\n1024\n0\n5\n"), "{}", expected.0);
    for first in [
        "export BASH_ENV=$PWD/evil ENV=$PWD/evil; echo 'touch \"$OLDPWD/evil-ran\"; exit 7' > $BASH_ENV",
        "mkdir bin; printf '#!/bin/sh\\nexit 7\\n' | tee bin/bash bin/cat bin/id bin/ls > /dev/null; chmod +x bin/*; export PATH=$PWD/bin",
        "export PATH=",
        "export IFS=:/ CDPATH=/etc GLOBIGNORE='*' BASHOPTS=nullglob SHELLOPTS=noglob:noexec POSIXLY_CORRECT=1",
        "export LD_LIBRARY_PATH=/nonexistent LD_BIND_NOW=1 GCONV_PATH=/tmp LOCPATH=/tmp NLSPATH=/tmp",
        "export PYTHONPATH=/tmp PERL5LIB=/tmp PERL5OPT=-w RUBYOPT=-w NODE_OPTIONS=--inspect GIT_DIR=/tmp PGHOST=/tmp",
        "export HOME=/home/ada USER=ada LOGNAME=ada SHELL=/bin/false XDG_RUNTIME_DIR=/tmp XDG_STATE_HOME=/tmp",
        "export LANG=tr_TR.UTF-8 LC_ALL=C LANGUAGE=de TZ=Antarctica/Troll COLUMNS=20 TMPDIR=/nonexistent",
        "export SUDO_USER=root SUDO_UID=0 SUDO_GID=0 SUDO_COMMAND=/bin/sh KKRUN_RUN=forged KKRUN_STATE=/tmp",
        "export RUST_BACKTRACE=full RUST_LOG=trace RUST_MIN_STACK=1 MALLOC_PERTURB_=7",
        "export 'BASH_FUNC_cat%%=() { exit 7; }' 'BASH_FUNC_ls%%=() { exit 7; }'",
        "umask 0",
        "umask 077",
        "umask 777",
        "exec 0<&-",
        "exec 1>&2 0<&- 2<&-; exec 1<&-",
        "ulimit -S -n 16",
        "ulimit -S -s 256",
        "ulimit -S -c unlimited",
        "for n in {10..40}; do eval \"exec $n</dev/null\"; done",
        "trap '' PIPE USR1 ALRM CHLD",
        "mkdir gone; cd gone; rmdir ../gone",
        "cd /proc/self",
    ] {
        let place = place();
        let output = after(&place, first).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{first}: {said}");
        assert_eq!(done(&place), expected.0, "{first}");
        if !first.contains("1>") {
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected.1, "{first}");
        }
        assert!(!place.exists("plan/evil-ran") && !place.exists("evil-ran"), "{first}");
        // And back.
        let mut rollback = after(&place, first);
        let words: Vec<_> = rollback.get_args().map(std::borrow::ToOwned::to_owned).collect();
        rollback = {
            let mut again = Command::new("bash");
            again
                .args(&words[..words.len() - 1])
                .args(["rollback", "--purge", "all"])
                .current_dir(place.path("plan"));
            again.env_clear().env("PATH", "/usr/bin:/bin").stdin(std::process::Stdio::null());
            again
        };
        let output = rollback.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{first}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!place.exists("m/made") && !place.exists("m/tree"), "{first}");
    }
}

#[test]
fn preloaded_library_is_not_passed_on_to_commands() {
    let place = Place::empty();
    let source = place.path("evil.c");
    std::fs::write(
        &source,
        "#include <stdlib.h>\n__attribute__((constructor)) void f(void) { setenv(\"EVIL\", \"1\", 1); }\n",
    )
    .unwrap();
    let library = place.path("evil.so");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(made.unwrap().success());
    place.write(
        "plan/plan.rhai",
        "print(cmd::read([\"sh\", \"-c\", \"echo ${EVIL-unset} ${LD_PRELOAD-unset}\"]));",
    );
    let output =
        place.command(&["plan.rhai"]).env("LD_PRELOAD", &library).env("LD_AUDIT", &library).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "unset unset\n");
}

#[test]
#[ignore = "needs root"]
fn a_hard_limit_of_sixteen_open_files_changes_nothing_for_root() {
    let expected = plain();
    let place = place();
    let output = after(&place, "ulimit -n 16").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // In a container root cannot raise it; the result is the same.
    assert_eq!(done(&place).replace("\n16\n", "\n1024\n"), expected.0);
}

#[test]
fn ignored_sigchld_hides_no_child_from_kkrun() {
    let place = Place::new(
        "print(cmd::run([\"sh\", \"-c\", \"exit 3\"], #{ always: \"a test\", ok_codes: [3] }).code);",
    );
    let kkrun = place.command(&["plan.rhai"]);
    // A shell would not pass it on.
    let script = "$SIG{CHLD} = 'IGNORE'; exec @ARGV";
    let mut perl = Command::new("perl");
    perl.args(["-e", script]).arg(kkrun.get_program()).args(kkrun.get_args()).current_dir(place.path("plan"));
    let output = perl.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn signals_blocked_by_the_parent_still_stop_kkrun() {
    let place =
        Place::new("cmd::run([\"bash\", \"-c\", \"touch @/m/begun; sleep 600\"], #{ always: \"a test\" });");
    let kkrun = place.command(&["plan.rhai"]);
    let script =
        "use POSIX; POSIX::sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM, SIGINT, SIGHUP)); exec @ARGV";
    let mut perl = Command::new("perl");
    perl.args(["-e", script]).arg(kkrun.get_program()).args(kkrun.get_args()).current_dir(place.path("plan"));
    let mut child = perl.process_group(0).spawn().unwrap();
    crate::support::until("the command is at work", || place.exists("m/begun"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn no_core_file_of_kkrun_or_its_commands_is_written() {
    let place = Place::new(
        "cmd::run([\"bash\", \"-c\", \"touch @/m/begun; ulimit -Hc > @/m/limit; sleep 600\"], #{ always: \"a test\" });",
    );
    let mut started = place.start("plan.rhai");
    crate::support::until("the command is at work", || place.exists("m/limit"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", started.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_ascii_whitespace().nth(4), Some("0"), "{core}");
    // Not dumpable shows in the owner of what /proc tells of it, or in what only root may read.
    started.signal(rustix::process::Signal::ABORT);
    assert!(!started.child.wait().unwrap().success());
    let left: Vec<_> =
        std::fs::read_dir(place.path("plan")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["plan.rhai"]);
    crate::support::until("the command's limit is known", || place.holds("m/limit", "0"));
    place.run("rollback").ends(0);
}
