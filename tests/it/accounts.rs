//! Users and groups that a dead tool left in halves, and what somebody did with them before kkrun came again.
//!
//! They need root, strace, and a mount namespace of their own: the machine's databases, homes and mail are copies there.

use std::process::Command;

/// What the scripts begin with: a machine of their own, and words for what they do.
const PRELUDE: &str = r#"
set -eu
mount -t tmpfs -o mode=0755 none "$D"
mkdir "$D/home" "$D/mail" "$D/plan" "$D/srv"
cp -a /etc "$D/etc"
for each in etc home srv; do mount --bind "$D/$each" "/$each"; done
mount --bind "$D/mail" /var/mail
cd "$D/plan"
kkrun() { "$KKRUN" --state-dir "$D/state" --non-interactive --color never "$@"; }
plan() { printf '%s\n' "$1" >p.rhai; }
# Killed before it starts its first tool, or the one of this number, with the intent on record.
dies() {
    local at=1
    case $1 in [0-9]*) at=$1; shift ;; esac
    strace -qq -o /dev/null -e trace=clone,clone3,vfork -e "inject=clone,clone3,vfork:signal=KILL:when=$at" \
        "$KKRUN" --state-dir "$D/state" --non-interactive "$@" >/dev/null 2>&1 || [[ $? == 137 ]]
}
undo() { kkrun rollback --yes --purge users,homes; }
field() { getent "$1" "$2" | cut -d: -f"$3"; }
is() { [[ $2 == "$3" ]] || { echo "$1: wanted «$2», found «$3»" >&2; exit 1; }; }
whole() { for each in passwd shadow group gshadow subuid subgid; do is "lines of $1 in $each" 1 "$(grep -c "^$1:" "/etc/$each")"; done; }
plan 'user::ensure("kim");'
"#;

/// Runs a script on accounts of its own.
fn holds(script: &str) {
    let directory = tempfile::Builder::new().prefix("kkrun-accounts-").tempdir_in("/var/lib").unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &format!("{PRELUDE}\n{script}")])
        .env("D", directory.path())
        .env("KKRUN", env!("CARGO_BIN_EXE_kkrun"))
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn who_has_got_a_password_since_is_completed_and_not_made_anew() {
    holds(
        r#"
dies p.rhai
useradd --create-home kim && echo kim:secret-word | chpasswd && useradd robin
: >/etc/subuid; : >/etc/subgid; sed -i '/^kim:/d' /etc/gshadow
before=$(getent passwd kim; getent shadow kim)
kkrun p.rhai
is "user and password" "$before" "$(getent passwd kim; getent shadow kim)"
is "lines in gshadow" 1 "$(grep -c '^kim:' /etc/gshadow)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_user_without_a_line_in_shadow_is_made_with_the_same_number() {
    holds(
        r#"
dies p.rhai
echo 'kim:x:1234:1234::/home/kim:/bin/sh' >>/etc/passwd
is "preview" 6 "$(kkrun --dry-run p.rhai >/dev/null 2>&1; echo $?)"
kkrun p.rhai
is "number" 1234 "$(id -u kim)"
whole kim
undo
is "entries left" "" "$(grep -l '^kim:' /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/subgid || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_group_that_was_there_before_is_there_after_a_rollback_that_died() {
    holds(
        r#"
groupadd --gid 5000 kim
kkrun p.rhai
dies 2 rollback --yes --purge users,homes
undo
is "number of the group" 5000 "$(field group kim 3)"
is "lines in gshadow" 1 "$(grep -c '^kim:' /etc/gshadow)"
is "the user" "" "$(getent passwd kim || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn somebody_elses_group_of_the_users_name_stays() {
    holds(
        r#"
kkrun p.rhai
userdel --remove kim 2>/dev/null; groupadd --gid 5000 kim
undo
is "number of the group" 5000 "$(field group kim 3)"
"#,
    );
    holds(
        r#"
dies p.rhai
groupadd --gid 5000 kim
kkrun p.rhai
is "number of the group" 5000 "$(field group kim 3)"
whole kim
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_half_group_is_completed_with_its_number_and_members() {
    holds(
        r#"
plan 'group::ensure("kiosk");'
dies p.rhai
echo 'kiosk:x:1500:' >>/etc/group
groupadd other; usermod --append --groups kiosk daemon
kkrun p.rhai
is "the group" "kiosk:x:1500:daemon" "$(getent group kiosk)"
is "the line in gshadow" "kiosk:!::daemon" "$(grep '^kiosk:' /etc/gshadow)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn lines_that_are_no_entries_are_in_nobodys_way() {
    holds(
        r#"
printf '%s\n' '#old:x:777:kim' '+nis:x:1001:' 'broken' >>/etc/group
printf '%s\n' '#old:x:1001:1001::/:/bin/sh' 'kim:x:broken' >>/etc/passwd
plan 'user::ensure("lee"); file::write("/srv/lees", "", #{ owner: "lee" }); print(file::stat("/srv/lees").owner);'
is "owner" lee "$(kkrun p.rhai)"
undo
is "lines" 5 "$(cat /etc/group /etc/passwd | grep -cE '^(#old|[+]nis|broken|kim:x:broken)')"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_home_that_somebody_gave_the_user_is_not_removed_with_the_one_that_was_made() {
    holds(
        r#"
kkrun p.rhai
mkdir /srv/data; usermod --home /srv/data kim
undo
is "homes" "/srv/data" "$(ls -d /srv/data /home/kim 2>/dev/null || true)"
"#,
    );
    holds(
        r#"
dies p.rhai
mkdir /srv/kim; echo data >/srv/kim/data; useradd --home-dir /srv/kim kim; chown kim /srv/kim
is "the rollback" 4 "$(undo >/dev/null 2>&1; echo $?)"
is "the data" data "$(cat /srv/kim/data)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_home_that_somebody_made_since_the_inverse_failed_is_not_kkruns() {
    holds(
        r#"
kkrun p.rhai
mount -t tmpfs -o uid="$(id -u kim)" none /home/kim
undo && exit 1 || is "the rollback" 4 $?
umount /home/kim; rm -rf /home/kim; mkdir /home/kim; echo archive >/home/kim/archive
kkrun p.rhai
undo
is "the archive" archive "$(cat /home/kim/archive)"
is "the user" "" "$(getent passwd kim || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_user_who_was_being_changed_and_has_gone_is_made() {
    holds(
        r#"
useradd --create-home robin
plan 'user::ensure("robin", #{ groups: ["video"] });'
dies p.rhai
userdel --remove robin 2>/dev/null
kkrun p.rhai
is "groups" "robin video" "$(id -Gn robin)"
undo
is "the user" "" "$(getent passwd robin || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_home_made_by_a_later_run_is_as_closed_as_the_tools_make_it() {
    holds(
        r#"
sed -i '/^UMASK/d' /etc/login.defs; echo 'UMASK 077' >>/etc/login.defs
dies p.rhai
useradd --no-create-home --home-dir /home/kim kim
kkrun p.rhai
is "mode" 700 "$(stat -c %a /home/kim)"
is "owner" kim "$(stat -c %U /home/kim/.profile)"
"#,
    );
}
