//! Users and groups: equal to those of the tools, half made by a killed run, and modified by the operator before the
//! next run.
//!
//! They need root, strace, and a mount namespace of their own: the machine's databases, homes and mail are copies there.

use std::process::Command;

/// The head of each script: copies of the machine's directories, and functions.
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
# Killed before it replaces the first of the databases, or the one of this number, with the intent on record.
dies() {
    local at=1 status=0
    case $1 in [0-9]*) at=$1; shift ;; esac
    strace -qq -o /dev/null -P /etc -e trace=renameat,renameat2 -e "inject=renameat,renameat2:signal=KILL:when=$at" \
        "$KKRUN" --state-dir "$D/state" --non-interactive "$@" >/dev/null 2>&1 || status=$?
    is "status of the killed" 137 "$status"
}
undo() { kkrun rollback --yes --purge users,homes; }
field() { getent "$1" "$2" | cut -d: -f"$3"; }
is() { [[ $2 == "$3" ]] || { echo "$1: expected (-), found (+)" >&2; diff -u <(echo "$2") <(echo "$3") >&2; exit 1; }; }
databases() { for each in passwd shadow group gshadow subuid subgid; do echo "== $each"; cat "/etc/$each"; done; }
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
fn dry_run_knows_groups_and_users_that_it_predicted() {
    holds(
        r#"
plan '
group::ensure("office");
user::ensure("kim", #{ groups: ["office"] });
user::ensure("daemon", #{ groups: ["office"] });
user::ensure("ann", #{ group: "office" });
file::make_dir("/srv/office", #{ owner: "kim", group: "office" });
cmd::run(["useradd", "lee"], #{ unless: || user::exists("lee"), capture: #{} });
user::ensure("lee", #{ shell: "/bin/sh" });
'
kkrun --dry-run p.rhai >said 2>&1 || true
for line in 'would make the group office' 'would make the user kim with /home/kim' \
    'would change the user daemon (add to office)' 'would make the user ann with /home/ann' 'would make /srv/office' 'might make the user lee'; do
    grep -qF "$line" said || { cat said; exit 1; }
done
! grep 'not predictable' said
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn preview_of_a_rollback_sees_through_the_users_of_a_group_that_it_undoes_before() {
    holds(
        r#"
plan '
group::ensure("office");
group::ensure("crew");
user::ensure("daemon", #{ groups: ["office"] });
user::ensure("ann", #{ group: "crew", groups: ["office"] });
'
kkrun p.rhai
kkrun rollback --dry-run --purge all >said 2>&1 || true
grep -F '4 would be undone · 0 kept' said || { cat said; exit 1; }
kkrun rollback --dry-run >said 2>&1 || true
for line in 'it has members: ann' 'it is the primary group of ann'; do grep -F "$line" said || { cat said; exit 1; }; done
kkrun rollback --yes --purge all
is "groups left" "" "$(getent group office crew || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn user_who_got_a_password_since_is_completed_and_not_replaced() {
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
fn user_without_a_shadow_entry_is_completed_with_the_same_number() {
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
fn group_that_existed_before_survives_a_killed_rollback() {
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
fn group_of_others_with_the_users_name_is_kept() {
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
fn invalid_lines_in_the_databases_are_kept() {
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
fn home_that_the_operator_gave_the_user_is_kept() {
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
fn home_that_the_operator_made_after_a_failed_undo_is_kept() {
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
fn user_removed_during_a_change_is_made_again() {
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
fn home_made_by_a_later_run_has_the_mode_of_useradd() {
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

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn home_made_for_an_existing_user_is_removed_once_that_is_allowed() {
    holds(
        r#"
useradd --system --home-dir /srv/shop shop; before=$(databases)
for options in '#{ home_mode: "0755" }' '#{ home: "/srv/shop", groups: ["video"] }'; do
    rm -rf "$D/state"
    plan "user::ensure(\"shop\", $options);"
    kkrun p.rhai
    echo order >/srv/shop/orders; mkdir /srv/shop/.kkrun-like
    kkrun rollback --yes >said 2>&1 || true
    grep -q '0 undone · 1 kept' said || { cat said; exit 1; }
    grep -q 'the home /srv/shop of the user shop (.*2 entries that kkrun did not make: .kkrun-like, orders; `--purge homes`' said || { cat said; exit 1; }
    is "the orders" order "$(cat /srv/shop/orders)"
    kkrun rollback --yes --purge homes
    is "the home" "" "$(ls -A /srv)"
    is "databases" "$before" "$(databases)"
done
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn home_made_for_an_existing_user_is_not_undone_while_it_is_of_others() {
    holds(
        r#"
useradd --system --home-dir /srv/shop shop
plan 'user::ensure("shop", #{ home: "/srv/shop" });'
kkrun p.rhai
chown daemon /srv/shop
is "the rollback" 4 "$(undo >said 2>&1; echo $?)"
grep -qF 'the home `/srv/shop` belongs to daemon, not shop' said || { cat said; exit 1; }
chown shop /srv/shop; userdel shop
undo
is "the home" "" "$(ls -d /srv/shop 2>/dev/null || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn home_of_a_service_that_only_its_mode_asks_for_goes_with_the_service() {
    holds(
        r#"
plan 'user::ensure("shop", #{ system: true, home_mode: "0750" });'
kkrun p.rhai
is "mode" 750 "$(stat -c %a /home/shop)"
undo
is "the home" "" "$(ls -d /home/shop 2>/dev/null || true)"
"#,
    );
}

/// The databases and the home that the tools leave, and those that kkrun leaves, with the same machine before.
#[test]
#[ignore = "needs root: makes a mount namespace"]
fn databases_and_homes_equal_those_of_the_tools_to_the_byte() {
    holds(
        r#"
mkdir "$D/first"
keep() { cp -a /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/subgid "$D/first/"; }
home() {
    (cd /home && find . -type f -printf '%p %M %u:%g %T@ ' -exec sha256sum '{}' ';' -o -printf '%p %M %u:%g %l\n' | sort)
}
same() {
    keep; "${@:3}" >"$D/said" 2>&1 || { cat "$D/said"; exit 1; }
    local theirs; theirs=$(databases; home)
    rm -rf /home/*; cp -a "$D"/first/* /etc/
    plan "$2"; kkrun p.rhai 2>"$D/said" || { cat "$D/said"; exit 1; }
    is "$1" "$theirs" "$(databases; home)"
    undo >"$D/said" 2>&1 || { cat "$D/said"; exit 1; }
    for each in passwd shadow group gshadow subuid subgid; do cmp "$D/first/$each" "/etc/$each"; done
    is "homes after the rollback of $1" "" "$(ls /home)"
}
mkdir /etc/skel/bin; ln -s .profile /etc/skel/link; chmod 0711 /etc/skel/bin
same plain 'user::ensure("kim");' useradd --create-home kim
same options 'user::ensure("kim", #{ shell: "/bin/bash", home_mode: "0750", groups: ["video", "audio"] });' \
    useradd --create-home --shell /bin/bash --key HOME_MODE=0750 --groups audio,video kim
same comment 'user::ensure("kim", #{ comment: "Kim K" });' useradd --create-home --comment "Kim K" kim
same "no home" 'user::ensure("kim", #{ home: "/srv/none/kim", make_home: false });' useradd --no-create-home --home-dir /srv/none/kim kim
same service 'user::ensure("kim", #{ system: true });' useradd --system kim
same number 'user::ensure("kim", #{ uid: 4242 });' useradd --create-home --uid 4242 kim
same "primary group" 'user::ensure("kim", #{ group: "users", groups: ["video"] });' \
    useradd --create-home --gid users --groups video kim
same "primary group of a service" 'user::ensure("kim", #{ system: true, group: "daemon" });' useradd --system --gid daemon kim
same "number of a service" 'user::ensure("kim", #{ uid: 543 });' useradd --create-home --uid 543 kim
same group 'group::ensure("kiosk");' groupadd kiosk
same "group of a service" 'group::ensure("kiosk", #{ system: true });' groupadd --system kiosk
same "group with a number" 'group::ensure("kiosk", #{ gid: 777 });' groupadd --gid 777 kiosk
# A machine with more on it.
useradd robin; useradd --uid 1500 lee; useradd --system service; groupadd --gid 1503 kim; gpasswd -A robin kim
printf '%s\n' '+::::::' >>/etc/passwd; printf '%s\n' '+:::' >>/etc/group
printf '%s\n' 'SUB_GID_COUNT 1000' 'PASS_MAX_DAYS 30' 'GID_MIN 1600' 'UMASK 077' >>/etc/login.defs
printf '%s\n' INACTIVE=12 EXPIRE=2031-02-03 SHELL=/bin/dash HOME=/home >>/etc/default/useradd
same "own group" 'user::ensure("kim", #{ groups: ["robin", "video"] });' useradd --create-home --gid kim --groups robin,video kim
same "another group's number" 'user::ensure("sam");' useradd --create-home sam
same member 'user::ensure("robin", #{ groups: ["kim", "video"], shell: "/bin/bash" });' \
    usermod --append --groups kim,video --shell /bin/bash robin
same "another comment" 'user::ensure("robin", #{ comment: "Robin R" });' usermod --comment "Robin R" robin
rm /etc/default/useradd; sed -i /^SUB_/d /etc/login.defs; echo SUB_UID_COUNT 0 >>/etc/login.defs
same "without defaults" 'user::ensure("sam");' useradd --create-home sam
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn rollback_restores_earlier_entries_of_the_user_to_the_byte() {
    holds(
        r#"
useradd robin; groupadd --gid 5000 kim; gpasswd -A robin kim; gpasswd -M robin kim
sed -i 's/^kim:[^:]*:/kim:$y$hash-of-the-group:/' /etc/gshadow
sed -i -E 's/^(video:.*)$/\1kim/' /etc/group; sed -i -E 's/^(audio:.*:).*:(.*)$/\1kim:\2kim/' /etc/gshadow
sed -i '2i kim:$y$hash-of-the-gone:1:0:9:7:::' /etc/shadow; sed -i '1i kim:900000:10' /etc/subuid
before=$(databases)
plan 'user::ensure("kim", #{ groups: ["video", "disk"] });'
kkrun p.rhai
is "the password" '!' "$(field shadow kim 2)"
is "hashes in the journal" 0 "$(grep -c 'hash-of' "$D/state/journal" || true)"
usermod --append --groups floppy kim
undo
is "databases" "$before" "$(databases)"
for at in 1 2 3; do
    rm -rf "$D/state"
    dies $at p.rhai
    undo
    is "databases after a run killed at $at" "$before" "$(databases)"
    kkrun p.rhai
    dies $at rollback --yes --purge users,homes
    undo
    is "databases after a rollback killed at $at" "$before" "$(databases)"
done
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_run_killed_between_two_databases_is_completed_with_the_same_number() {
    holds(
        r#"
plan 'group::ensure("kiosk"); user::ensure("kim", #{ groups: ["kiosk", "video"] });'
for at in 1 2 3 4 5 6 7 8; do
    rm -rf "$D/state"
    before=$(databases)
    dies $at p.rhai
    # On record once the user's turn has come, after the two lines of the group.
    number=$(grep -o '"kim:x:[0-9]*:[0-9]*::' "$D/state/journal" | cut -d: -f3 || true)
    kkrun p.rhai
    whole kim
    [[ $at -le 2 ]] || is "number after a kill at $at" "$number" "$(id -u kim)"
    is "groups" "kim kiosk video" "$(id -Gn kim | tr ' ' '\n' | sort | xargs)"
    undo
    is "databases" "$before" "$(databases)"
done
# Of another primary group, which stays as it is.
plan 'user::ensure("kim", #{ group: "users", groups: ["video"] });'
for at in 1 2 3 4 5 6; do
    rm -rf "$D/state"
    dies $at p.rhai
    kkrun p.rhai
    is "groups after a kill at $at" "users video" "$(id -Gn kim)"
    is "lines of a group of its own" 0 "$(cat /etc/group /etc/gshadow | grep -c ^kim: || true)"
    dies $at rollback --yes --purge users,homes
    undo
    is "databases after a kill at $at" "$before" "$(databases)"
done
plan 'user::ensure("daemon", #{ group: "users" });'
is "another primary group" 1 "$(kkrun p.rhai >/dev/null 2>said; echo $?)"
grep -qF 'user `daemon` already exists with the primary group `daemon`, not `users`' said
plan 'user::ensure("lee", #{ group: "strangers" });'
is "a missing primary group" 1 "$(kkrun p.rhai >/dev/null 2>said; echo $?)"
grep -qF 'group `strangers` not found' said
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn mount_in_the_home_is_named_and_nothing_is_removed() {
    holds(
        r#"
kkrun p.rhai
mkdir /home/kim/share; mount -t tmpfs none /home/kim/share; echo kept >/home/kim/share/file
before=$(databases)
undo >said 2>&1 && exit 1 || is "the rollback" 4 $?
grep -q '/home/kim/share' said || { cat said; exit 1; }
is "databases" "$before" "$(databases)"
is "the home" ".bash_logout .bashrc .profile share" "$(ls -A /home/kim | xargs)"
umount /home/kim/share
undo
is "the home" "" "$(ls /home)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn mail_and_a_home_replaced_by_a_link_are_mentioned() {
    holds(
        r#"
kkrun p.rhai
echo letter >/var/mail/kim; chown kim:mail /var/mail/kim
mv /home/kim /srv/kim; ln -s /srv/kim /home/kim
kkrun rollback --yes >said 2>&1 && undo >>said 2>&1
is "the home, when asked and when done" 2 "$(grep -c 'replaced by a symbolic link and stays' said)"
for each in /var/mail/kim '`/home/kim` was replaced by a symbolic link and stays'; do
    grep -qF -- "$each" said || { cat said; exit 1; }
done
is "what stays" "/home/kim /srv/kim/.profile" "$(ls -d /home/kim /srv/kim/.profile /var/mail/kim 2>/dev/null | xargs)"
is "the user" "" "$(getent passwd kim || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn group_of_the_user_with_other_members_is_kept() {
    holds(
        r#"
kkrun p.rhai
number=$(id -g kim)
usermod --append --groups kim daemon
undo >said 2>&1
grep -q 'the group `kim` stays: it has other members: daemon' said || { cat said; exit 1; }
is "the group" "kim:x:$number:daemon" "$(getent group kim)"
is "the line in gshadow" "kim:!::daemon" "$(grep '^kim:' /etc/gshadow)"
is "the user" "" "$(getent passwd kim || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn rollback_of_a_step_is_refused_while_a_later_file_belongs_to_its_user() {
    holds(
        r#"
cat >p.rhai <<'P'
step::run("01", "User", || user::ensure("kim"));
step::run("02", "File", || file::write("/srv/of-kim", "text\n", #{ owner: "kim" }));
P
kkrun p.rhai
said=$(kkrun rollback 01 --yes --purge users,homes 2>&1) && exit 1
grep -F 'cannot undo step 01 alone' <<<"$said"
is "owner" kim "$(stat -c %U /srv/of-kim)"
undo
is "file and user" "" "$(ls /srv; getent passwd kim || true)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn login_shell_must_be_there_and_names_that_other_tools_made_are_taken() {
    holds(
        r#"
plan 'user::ensure("kim", #{ shell: "/bin/none" });'
if kkrun p.rhai 2>"$D/said"; then echo "a shell that is not there was set"; exit 1; fi
grep -q 'there is no such program' "$D/said"
! id kim
useradd first.last
plan 'user::ensure("first.last", #{ groups: ["video"] });'
kkrun p.rhai
id -nG first.last | grep -qw video
undo
! id -nG first.last | grep -qw video
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn rollback_of_a_step_is_refused_while_a_later_step_relies_on_its_account() {
    holds(
        r#"
mkdir -p -m 1777 /srv/there
mkdir -p /etc/systemd/system/b.service.d
n=0
while read -r first later; do
    n=$((n + 1))
    cat >"p$n.rhai" <<P
step::run("01", "Account", || $first);
step::run("02", "Later", || $later);
P
    kkrun "p$n.rhai"
    said=$(kkrun rollback 01 --plan "p$n" --yes --purge all 2>&1) && { echo "not refused: $later"; exit 1; }
    grep -F 'cannot undo step 01 alone' <<<"$said"
    kkrun rollback --plan "p$n" --yes --purge all
    is "accounts after $later" "" "$(getent passwd kim; getent group crew; true)"
done <<'CASES'
user::ensure("kim") config::set("/srv/conf", "key", "value", #{ owner: "kim" })
user::ensure("kim") file::access("/srv/there", #{ owner: "kim" })
user::ensure("kim") file::write("/etc/systemd/system/a.service", "[Service]\nExecStart=true\nUser = kim\n")
user::ensure("kim") file::write("/etc/systemd/system/a.service", "[Service]\nExecStart=true\nUser=\"kim\"\n")
user::ensure("kim") config::set("/etc/systemd/system/b.service.d/user.conf", "User", "kim", #{ section: "Service" })
user::ensure("kim") cmd::run(["true"], #{ always: "it says so", undo: [#{ argv: ["true"], user: "kim" }] })
user::ensure("kim") cmd::run(["touch", "/home/kim/made"], #{ creates: "/home/kim/made" })
user::ensure("kim") cmd::run(["touch", "/srv/there/made"], #{ creates: "/srv/there/made", user: "kim" })
group::ensure("crew") user::ensure("kim", #{ groups: ["crew"] })
group::ensure("crew") file::write("/etc/systemd/system/a.service", "[Service]\nExecStart=true\nSupplementaryGroups=audio crew\n")
CASES
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_login_password_is_given_once_never_recorded_and_undone() {
    holds(
        r#"
useradd --create-home kim && echo kim:old-word | chpasswd
before=$(databases)
printf 'login=it is $5\n' >secrets
chmod 600 secrets
plan 'user::ensure("kim", #{ password: secret::ask("login", "The password"), shell: "/bin/bash" });'
kkrun --secrets secrets --dry-run p.rhai && exit 1
is "preview" "$before" "$(databases)"
kkrun --secrets secrets p.rhai
hash=$(field shadow kim 2)
is "who logs in" kim "$(printf 'it is $5\n' | setpriv --reuid=65534 --regid=65534 --clear-groups su kim -c 'id -un' 2>/dev/null)"
kkrun --secrets secrets p.rhai
is "the hash after a second run" "$hash" "$(field shadow kim 2)"
is "what holds the hash or the password" "" "$(grep -rlaF -e "$hash" -e 'it is $5' "$D/state/journal" "$D/state/logs" 2>/dev/null || true)"
undo
is "databases after the rollback" "$before" "$(databases)"
# One that was changed since is kept.
kkrun --secrets secrets p.rhai
echo kim:third | chpasswd
third=$(getent shadow kim)
kkrun rollback --yes --purge all >"$D/said" 2>&1 && exit 1
grep -q 'the password was changed' "$D/said"
is "a password that was changed since" "$third" "$(getent shadow kim)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_new_user_gets_the_hash_that_is_given_and_a_killed_run_is_completed() {
    holds(
        r#"
before=$(databases)
plan 'user::ensure("kim", #{ password_hash: "$6$saltsalt$vtI8mzsSoFjIuFYHBMWuOfJBXhfGnqTSY3gQdnSZh5a2PrxIYdwCXsbGHXkkPXwnrtFL2Eqm3WtCMvrvNGPGY." });'
for at in 1 2 3; do
    dies $at p.rhai
    kkrun p.rhai
    is "hash" '$6$saltsalt$vtI8mzsSoFjIuFYHBMWuOfJBXhfGnqTSY3gQdnSZh5a2PrxIYdwCXsbGHXkkPXwnrtFL2Eqm3WtCMvrvNGPGY.' "$(field shadow kim 2)"
    whole kim
    undo
    is "databases after the rollback" "$before" "$(databases)"
done
plan 'user::ensure("kim", #{ password_hash: "plain" });'
if kkrun p.rhai 2>"$D/said"; then echo "a password was taken for a hash"; exit 1; fi
grep -q 'mkpasswd' "$D/said"
plan 'user::ensure("kim", #{ password: "plain" });'
if kkrun p.rhai 2>"$D/said"; then echo "a string was taken for a password"; exit 1; fi
grep -q 'expected a secret' "$D/said"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn a_user_is_taken_out_of_groups_and_put_back_where_it_was() {
    holds(
        r#"
groupadd crew
for each in ann kim lee; do useradd "$each"; usermod --append --groups crew "$each"; done
before=$(databases)
plan 'user::ensure("kim", #{ not_in_groups: ["crew", "audio"] });'
kkrun p.rhai
is "members" ann,lee "$(field group crew 4)"
kkrun p.rhai 2>&1 | grep -q 'crew' && exit 1
undo
is "databases after the rollback" "$before" "$(databases)"
kkrun p.rhai
useradd --groups crew max
undo
is "members with another one" ann,lee,max,kim "$(field group crew 4)"
# The primary group is no list.
useradd --no-user-group --gid users robin
plan 'user::ensure("robin", #{ not_in_groups: ["users"] });'
if kkrun p.rhai 2>"$D/said"; then echo "taken out of the primary group"; exit 1; fi
grep -q "it is the user's primary group" "$D/said"
plan 'user::ensure("robin", #{ groups: ["users", "video"], shell: "/bin/bash", not_in_groups: ["audio"] });'
before=$(databases)
kkrun p.rhai
is "groups of a user of the group users" "users video" "$(id -nG robin)"
kkrun p.rhai
undo
is "databases after that" "$before" "$(databases)"
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn comment_is_undone_beside_other_accounts_unless_it_was_modified_since() {
    holds(
        r#"
useradd --comment Old robin
before=$(databases)
plan 'user::ensure("robin", #{ comment: "New" }); user::ensure("relay", #{ comment: "Relay", make_home: false });'
kkrun p.rhai
is "comments" "New Relay" "$(field passwd robin 5) $(field passwd relay 5)"
kkrun p.rhai
useradd other
undo
is "comment after the rollback" Old "$(field passwd robin 5)"
! id relay 2>"$D/said"
userdel other
is "databases after the rollback" "$before" "$(databases)"
kkrun p.rhai
usermod --comment Other robin
if undo >"$D/said" 2>&1; then echo "another comment was undone"; exit 1; fi
grep -q 'comment `Other`, neither `New` nor `Old`' "$D/said" || { cat "$D/said"; exit 1; }
is "another comment" Other "$(field passwd robin 5)"
kkrun rollback --yes --on-conflict overwrite
is "comment after that" Old "$(field passwd robin 5)"
for comment in 'a:b' 'a\nb'; do
    plan "user::ensure(\"robin\", #{ comment: \"$comment\" });"
    if kkrun p.rhai 2>"$D/said"; then echo "a comment brought fields of its own"; exit 1; fi
    grep -q 'option `comment`' "$D/said" || { cat "$D/said"; exit 1; }
done
"#,
    );
}

#[test]
#[ignore = "needs root: makes a mount namespace"]
fn password_whose_backup_is_missing_is_named_before_a_rollback_begins() {
    holds(
        r#"
groupadd --gid 5000 kim; sed -i '2i kim:$y$hash-of-the-gone:1:0:9:7:::' /etc/shadow
plan 'file::write("/srv/first", "1"); user::ensure("kim"); file::write("/srv/last", "1");'
kkrun p.rhai
grep -l hash-of-the-gone "$D"/state/backups/* | xargs rm
status=0
said=$(undo 2>&1) || status=$?
is "exit status" 4 "$status"
named=$(grep -n 'cannot restore user:kim: the backup' <<<"$said" | cut -d: -f1)
first=$(grep -n 'removed /srv/last' <<<"$said" | cut -d: -f1)
[[ -n $named && -n $first && $named -lt $first ]] || { echo "$said" >&2; exit 1; }
grep -q 'rollback user:kim --on-conflict keep' <<<"$said" || { echo "$said" >&2; exit 1; }
[[ ! -e /srv/first ]] && id kim >/dev/null
"#,
    );
}
