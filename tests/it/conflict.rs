//! Conflicts in a booted clone of a Debian: the operator adds a user, masks a unit and puts users into a group after
//! kkrun did its work.
//!
//! Needs what tests/it/rehearsal.rs needs.

use std::process::Command;

const SETTINGS: &str = "#{ plan: \"conflict\" }";
const REQUIRES: &str = "const REQUIRES = #{ root: true };\n";
const MUST: &str = "fn must(label, ok) { if !ok { throw `FAILED: ${label}`; } }\n";
const SET_UP: &str = r#"
file::write("/etc/systemd/system/good.service",
    "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
unit::enable("good");
unit::disable("nginx");
group::ensure("kiosks");
user::ensure("kim", #{ groups: ["kiosks"] });
"#;
const EDITED_BY_THE_OPERATOR: &str = r#"
cmd::run(["useradd", "--create-home", "--groups", "kiosks", "ada"], #{ always: "the operator", undo: [] });
cmd::run(["bash", "-c", "echo hers > /home/ada/hers; echo his > /home/kim/his"], #{ always: "the operator", undo: [] });
cmd::run(["systemctl", "mask", "nginx"], #{ always: "the operator", undo: [] });
"#;
const WITHOUT_AGREEMENT: &str = r#"
let done = rollback::apply();
must("kim is kept", user::exists("kim") && file::read("/home/kim/his") == "his\n");
must("kept is reported", done.kept.some(|row| row.target == "user:kim" && row.class == "users"));
must("ada stays", user::exists("ada") && file::read("/home/ada/hers") == "hers\n");
must("a unit that the operator masked stays masked", unit::get("nginx").enabled == "masked");
must("and is shown", done.conflicts.some(|row| row.target == "unit:nginx.service/enablement"));
must("the unit's file is gone", !file::exists("/etc/systemd/system/good.service"));
"#;
const WITH_AGREEMENT: &str = r#"
let done = rollback::apply(#{ purge: ["all"] });
must("kim is gone", !user::exists("kim") && !file::exists("/home/kim"));
must("ada stays, with what is hers", user::exists("ada") && file::read("/home/ada/hers") == "hers\n");
must("ada is still found by name", cmd::read(["id", "-un", "ada"]) == "ada");
must("none failed", done.failed.is_empty());
"#;

#[test]
#[ignore = "needs root and a Debian base"]
fn rollback_keeps_what_the_operator_did_meanwhile() {
    let base =
        std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
    let place = tempfile::tempdir_in("/root").expect("a directory that only root can write");
    let scripts = [
        ("plan.rhai", SET_UP),
        ("edit.rhai", EDITED_BY_THE_OPERATOR),
        ("without.rhai", WITHOUT_AGREEMENT),
        ("with.rhai", WITH_AGREEMENT),
    ];
    std::fs::write(place.path().join("settings.rhai"), SETTINGS).expect("settings");
    for (name, text) in scripts {
        std::fs::write(place.path().join(name), format!("{REQUIRES}{text}{MUST}")).expect("a script");
    }
    // What the operator does is not recorded as a change of the plan.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.args(["rehearse", "--yes", "--non-interactive", "--base"]).arg(base);
    command.args(["plan.rhai", "--then", "edit.rhai", "--then", "without.rhai", "--then", "with.rhai"]);
    let output = command.current_dir(place.path()).env_remove("TMPDIR").output().expect("kkrun");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("FAILED"), "{said}");
    assert!(said.contains("with.rhai"), "{said}");
}

/// Repeats every act and every undo, as after a kill between it and the record of its outcome: the journal is cut behind
/// each intent in turn.
const TWICE: &str = r#"
set -eu
kkrun=$(readlink "/proc/$PPID/exe")
mkdir -p /root/twice && cd /root/twice && chmod 0700 .
cat > plan.rhai << 'END'
file::write("/etc/systemd/system/good.service",
    "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
unit::enable("good");
unit::start("good");
unit::disable("cron");
unit::stop("cron");
unit::mask("ctrl-alt-del.target");
group::ensure("kiosks");
user::ensure("kim", #{ groups: ["kiosks", "audio"] });
user::linger("kim");
config::set("/etc/adduser.conf", "DIR_MODE", "0700");
END
run() {
    "$kkrun" --state-dir /root/twice/state --yes --non-interactive "$@" > last 2>&1 || { cat last; exit 1; }
}
seen() {
    cat /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/subuid /etc/subgid /etc/adduser.conf
    ls -l /etc/systemd/system/good.service /home /etc/systemd/system/multi-user.target.wants 2>&1 | sed 's/[A-Z][a-z][a-z] .*[0-9]:[0-9]*//'
    ls /var/lib/systemd/linger 2>/dev/null || true
    for unit in good cron ctrl-alt-del.target; do
        systemctl is-enabled "$unit" 2>&1 || true
        systemctl is-active "$unit" 2>&1 || true
    done
}
same() {
    seen > now
    diff "$1" now || { echo "FAILED: $2"; exit 1; }
}
seen > before
run plan.rhai
seen > after
cp state/journal acted
for line in $(grep -n '"entry":{"intent":' acted | cut -d: -f1); do
    head -n "$line" acted > state/journal; rm state/journal.end
    run plan.rhai
    same after "acted again behind record $line"
done
cp acted state/journal; rm state/journal.end
run rollback --purge all
same before "undone"
cp state/journal undone
count=0
for line in $(grep -n '"entry":{"undo_intent":' undone | cut -d: -f1); do
    head -n "$line" undone > state/journal; rm state/journal.end
    run rollback --purge all
    same before "undone again behind record $line"
    count=$((count + 1))
done
[ "$count" -ge 7 ] && echo "TWICE $count"
"#;

#[test]
#[ignore = "needs root and a Debian base"]
fn every_act_and_every_undo_is_idempotent() {
    let base =
        std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
    let place = tempfile::tempdir_in("/root").expect("a directory that only root can write");
    std::fs::write(place.path().join("settings.rhai"), SETTINGS).expect("settings");
    let script = format!(
        "{REQUIRES}let reported = cmd::run([\"bash\", \"-c\", `{TWICE}`], #{{ always: \"a test\", undo: [] }});\n\
         log::info(reported.stdout);\n"
    );
    std::fs::write(place.path().join("twice.rhai"), script.replace("${", "$\\{")).expect("a script");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.args(["rehearse", "--yes", "--non-interactive", "--base"]).arg(base).arg("twice.rhai");
    let output = command.current_dir(place.path()).env_remove("TMPDIR").output().expect("kkrun");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("· TWICE "), "{said}");
}

/// Each decision of the operator's is asked about, kept, and overwritten; what is volatile is neither.
const DECISIONS: &str = r#"
set -eu
kkrun=$(readlink "/proc/$PPID/exe")
mkdir -p /root/decisions && cd /root/decisions && chmod 0700 .
run() {
    status=0
    "$kkrun" --state-dir /root/decisions/state --non-interactive "$@" > last 2>&1 || status=$?
}
ends() {
    wanted=$1
    shift
    run "$@"
    [ "$status" = "$wanted" ] || { cat last; echo "FAILED: $what: $* ended with $status, not $wanted"; exit 1; }
}
count=0
decided() {
    what=$1 undone=$3
    printf '%s\n' "$2" > plan.rhai
    rm -rf state
    ends 0 plan.rhai
    bash -euc "$undone"
    ends 78 plan.rhai
    ends 6 plan.rhai --dry-run
    grep -q 'would ask' last || { cat last; echo "FAILED: $what: not asked"; exit 1; }
    ends 0 plan.rhai --on-conflict keep
    ends 0 plan.rhai
    ! bash -euc "$4" || { echo "FAILED: $what: it is not kept"; exit 1; }
    ends 0 plan.rhai --on-conflict overwrite
    bash -euc "$4" || { echo "FAILED: $what: it is not overwritten"; exit 1; }
    ends 0 rollback --plan plan --purge all
    count=$((count + 1))
}
decided "home mode" 'user::ensure("kim", #{ home_mode: "0750" });' \
    'chmod 0700 /home/kim' '[ "$(stat -c %a /home/kim)" = 750 ]'
decided "shell" 'user::ensure("kim", #{ shell: "/bin/bash" });' \
    'usermod --shell /bin/sh kim' 'getent passwd kim | grep -q :/bin/bash$'
decided "membership" 'user::ensure("kim", #{ groups: ["video"] });' \
    'gpasswd --delete kim video' 'id -nG kim | grep -qw video'
decided "user" 'user::ensure("kim");' 'userdel --remove kim 2>/dev/null' 'id kim'
decided "group" 'group::ensure("kiosks");' 'groupdel kiosks' 'getent group kiosks'
decided "lingering" 'user::ensure("kim"); user::linger("kim");' \
    'loginctl disable-linger kim' 'test -e /var/lib/systemd/linger/kim'
printf '[Service]\nExecStart=/bin/sleep infinity\n' > /etc/systemd/system/good.service
systemctl daemon-reload
what="stopped unit"
echo 'unit::start("good");' > plan.rhai
rm -rf state
ends 0 plan.rhai
systemctl stop good
ends 6 plan.rhai --dry-run
grep -q 'would ask' last
ends 0 plan.rhai --on-conflict keep
ends 0 plan.rhai
! systemctl is-active good
ends 0 plan.rhai --on-conflict overwrite
systemctl stop good
ends 0 plan.rhai
grep -q 'good.service. was stopped' last && grep -q 'no one can be asked' last
systemctl is-active good
what="kept user"
echo 'user::ensure("kim", #{ shell: "/bin/bash" });' > plan.rhai
rm -rf state
ends 0 plan.rhai
usermod --shell /bin/sh kim
ends 0 plan.rhai --on-conflict keep
ends 0 rollback --plan plan --purge all --dry-run
ends 0 rollback --plan plan --purge all
id kim
ends 0 rollback --plan plan --purge all --on-conflict overwrite
! id kim
what="crashed unit"
echo 'unit::start("good");' > plan.rhai
rm -rf state
systemctl stop good
ends 0 plan.rhai
systemctl kill --signal=KILL good
while systemctl is-active --quiet good; do sleep 0.1; done
ends 0 plan.rhai
systemctl is-active good
echo "DECIDED $count"
"#;

#[test]
#[ignore = "needs root and a Debian base"]
fn decisions_about_users_groups_and_units_are_conflicts_and_a_crash_is_none() {
    let base =
        std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
    let place = tempfile::tempdir_in("/root").expect("a directory that only root can write");
    std::fs::write(place.path().join("settings.rhai"), SETTINGS).expect("settings");
    let script = format!(
        "{REQUIRES}let reported = cmd::run([\"bash\", \"-c\", `{DECISIONS}`], #{{ always: \"a test\", undo: [] }});\n\
         log::info(reported.stdout);\n"
    );
    std::fs::write(place.path().join("decisions.rhai"), script.replace("${", "$\\{")).expect("a script");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.args(["rehearse", "--yes", "--non-interactive", "--base"]).arg(base).arg("decisions.rhai");
    let output = command.current_dir(place.path()).env_remove("TMPDIR").output().expect("kkrun");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("DECIDED 6"), "{said}");
}
