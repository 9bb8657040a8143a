//! Packages of a real dpkg and apt in a booted clone of a Debian: versions, holds, answers, removals and package sources.
//!
//! Needs what tests/it/rehearsal.rs needs, with gnupg in the base.

use std::process::Command;

/// Runs a script of bash in a booted clone of the base, beside the archive that it makes with `deb NAME VERSION [NEEDS]`.
fn passes(script: &str) {
    let base =
        std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system");
    let place = tempfile::tempdir_in("/root").unwrap();
    std::fs::create_dir(place.path().join("files")).unwrap();
    std::fs::write(place.path().join("settings.rhai"), "#{ plan: \"packages\" }").unwrap();
    std::fs::write(
        place.path().join("plan.rhai"),
        "file::copy(\"files/test.sh\", \"/root/test.sh\");\n\
         cmd::run([\"bash\", \"/root/test.sh\"], #{ always: \"a test\" });\n",
    )
    .unwrap();
    let script = format!("{}\n{script}\n", include_str!("packages.sh"));
    std::fs::write(place.path().join("files/test.sh"), script).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.args(["rehearse", "--yes", "--non-interactive", "-v", "--base"]).arg(base).arg("plan.rhai");
    let output = command.current_dir(place.path()).env_remove("TMPDIR").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
#[ignore = "needs root and a Debian base"]
fn package_reaches_a_version_and_rollback_restores_the_one_from_before() {
    passes(
        r#"
deb one 1.0; deb one 2.0; deb one 3.0; deb other 1.0; archive
apt-get install -yq one=1.0; apt-mark auto one
before=$(installed)

plan 'pkg::install(["one=2.0"]);'
is "dry run" 6 "$(status kk plan.rhai --dry-run)"
said "install one 2.0 over 1.0"
is "still" 1.0 "$(version one)"
exits 0 kk plan.rhai
is "upgraded" "2.0 manual" "$(version one) $(marked one)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
# The version from before is nowhere by then: its archive is in the backups.
rm /srv/archive/one_1.0_all.deb; archive; apt-get clean
exits 0 kk rollback
is "after the rollback" "$before" "$(installed)"
is "marked as before" auto "$(marked one)"
[[ ! -e /var/cache/apt/kkrun ]]

apt-get install -yq one=3.0
plan 'pkg::install(["one=2.0"]); pkg::install(["other"]);'
exits 0 kk plan.rhai
is "downgraded" "2.0 1.0" "$(version one) $(version other)"
exits 0 kk rollback --purge packages
is "after the rollback" "3.0 " "$(version one) $(version other)"

plan 'pkg::upgrade(["one", "other"]);'
apt-get install -yq --allow-downgrades one=2.0
exits 0 kk plan.rhai
is "newest" "3.0 1.0" "$(version one) $(version other)"
deb other 1.1; index
exits 0 kk plan.rhai --redo 01; said "0 changes"
plan 'pkg::upgrade(["one", "other"], #{ list_age: 0 });'
exits 0 kk plan.rhai --redo 01
is "the lists were fetched" 1.1 "$(version other)"
exits 0 kk rollback --purge packages
is "after the rollback" "2.0 " "$(version one) $(version other)"

# Modified outside kkrun.
plan 'pkg::install(["one=3.0"]);'
exits 0 kk plan.rhai
apt-get install -yq --allow-downgrades one=2.0
is "conflict" 78 "$(status kk plan.rhai --redo 01 --on-conflict ask)"; said "package \`one\` is 2.0, and was 3.0"
exits 0 kk plan.rhai --redo 01 --on-conflict keep
is "kept" 2.0 "$(version one)"
exits 0 kk plan.rhai --redo 01 --on-conflict overwrite
is "overwritten" 3.0 "$(version one)"
deb one 4.0; archive; apt-get update -q; apt-get install -yq one=4.0
is "conflict at the rollback" 4 "$(status kk rollback --on-conflict ask)"
said "package \`one\` is 4.0, and was"
exits 0 kk rollback --on-conflict overwrite
is "overwritten" 2.0 "$(version one)"

# What is nowhere.
plan 'pkg::install(["one=9.9"]);'
is "unknown version" 1 "$(status kk plan.rhai)"
said "one=9.9 (there is 4.0, 3.0, 2.0)"
rm /srv/archive/one_2.0_all.deb; archive; apt-get update -q; apt-get clean
plan 'pkg::install(["one=3.0"]);'
is "no way back" 1 "$(status kk plan.rhai)"
said "cannot install one 3.0 over 2.0 so that it can be undone: no package source has one 2.0 any more"
is "nothing done" 2.0 "$(version one)"
plan 'pkg::install(["one=3.0"], #{ irreversible: "a test" });'
exits 0 kk plan.rhai
kk rollback || true
said "a test"
is "stays" 3.0 "$(version one)"
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn package_in_a_file_is_installed_in_the_version_that_it_holds() {
    passes(
        r#"
deb needed 1.0; deb local 1.0 needed; archive; mv /srv/archive/local_1.0_all.deb /srv/local.deb
deb local 2.0 needed; mv /srv/archive/local_2.0_all.deb /srv/newer.deb; archive
before=$(installed)
plan 'pkg::install(["/srv/local.deb"]);'
is "dry run" 6 "$(status kk plan.rhai --dry-run)"; said "install local 1.0 and 1 that they need"
exits 0 kk plan.rhai
is "there" "1.0 1.0" "$(version local) $(version needed)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
plan 'pkg::install(["/srv/newer.deb"]);'
is "no way back" 1 "$(status kk plan.rhai)"; said "no package source has local 1.0 any more"
plan 'pkg::install(["/srv/newer.deb"], #{ irreversible: "the file is the way back" });'
exits 0 kk plan.rhai
is "newer" 2.0 "$(version local)"
exits 0 kk rollback --purge packages
is "gone" "$before" "$(installed)"
chmod 0666 /srv/local.deb; plan 'pkg::install(["/srv/local.deb"]);'
is "others can write it" 77 "$(status kk plan.rhai)"
printf x >/srv/broken.deb; plan 'pkg::install(["/srv/broken.deb"]);'
is "no package" 1 "$(status kk plan.rhai)"; said "cannot read the package \`/srv/broken.deb\`"
deb lost 1.0 no-such-package; mv /srv/archive/lost_1.0_all.deb /srv/lost.deb; plan 'pkg::install(["/srv/lost.deb"]);'
is "cannot be installed, dry run" 6 "$(status kk plan.rhai --dry-run)"; said "apt would not install /srv/lost.deb"
is "cannot be installed" 1 "$(status kk plan.rhai)"

# One that cannot be configured is not there, however often it is tried.
breaks=postinst deb failing 1.0; mv /srv/archive/failing_1.0_all.deb /srv/failing.deb
plan 'pkg::install(["/srv/failing.deb"]);'
for attempt in 1 2 3; do is "attempt $attempt" 1 "$(status kk plan.rhai)"; done
is "dry run" 6 "$(status kk plan.rhai --dry-run)"
touch /root/mended; exits 0 kk plan.rhai
is "there" 1.0 "$(version failing)"
exits 0 kk rollback --purge packages
is "gone again" "$before" "$(installed)"
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn removed_package_is_installed_again_by_a_rollback() {
    passes(
        r#"
conffile=yes deb ground 1.0; deb user 1.0 ground; archive
apt-get install -yq user; apt-mark manual ground
echo mine >/etc/ground.conf
before=$(installed)
plan 'pkg::remove(["ground"]);'
is "needed" 1 "$(status kk plan.rhai)"; said "cannot remove ground: apt would remove user"
plan 'pkg::remove(["user", "ground"]); if pkg::installed("user") { throw "still there"; }'
is "dry run" 6 "$(status kk plan.rhai --dry-run)"; said "remove ground, user"
exits 0 kk plan.rhai
is "gone, with its configuration" " mine" "$(version ground) $(cat /etc/ground.conf)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
apt-get clean; rm /srv/archive/ground_1.0_all.deb; archive; apt-get update -q
exits 0 kk rollback
is "after the rollback" "$before mine" "$(installed) $(cat /etc/ground.conf)"
plan 'pkg::remove(["dpkg"]);'
is "essential" 1 "$(status kk plan.rhai)"; said "dpkg"
plan 'pkg::remove(["no-such-package"]);'
exits 0 kk plan.rhai; said "0 changes"
plan 'pkg::remove(["ground", "user"]);'
is "no way back" 1 "$(status kk plan.rhai)"; said "no package source has ground 1.0 any more"
is "nothing done" "$before" "$(installed)"

# Of another architecture. What libc6 needs is essential to apt in each of them.
dpkg --add-architecture i386
arch=i386 fields="Protected: yes\nImportant: yes\nMulti-Arch: same\n" deb libcrypt1 "$(dpkg-query --show --showformat='${Version}' libcrypt1)"
arch=i386 deb lib 1.0 libcrypt1; arch=amd64 deb lib 1.0; arch=amd64 deb tool 1.0; archive
before=$(installed)
plan 'pkg::install(["lib:i386"]); if pkg::installed("lib") || !pkg::installed("lib:i386") { throw "the other one"; }'
exits 0 kk plan.rhai
is "there" "lib:i386 lib" "$(dpkg-query --show --showformat='${binary:Package} ${Package}' lib)"
! apt-get purge --yes --simulate libcrypt1:i386 >/root/said 2>&1 || fail "apt takes it for essential no more"
exits 0 kk plan.rhai --redo 01; said "0 changes"
exits 0 kk rollback --purge packages; said "undone"
is "after the rollback" "$before" "$(installed)"
plan 'pkg::install(["tool:amd64"]);'
exits 0 kk plan.rhai
is "there by its architecture" 1.0 "$(version tool)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
exits 0 kk rollback --purge packages
is "after the rollback" "$before" "$(installed)"

# A transaction that fails again and again is undone to what was there before the first attempt.
breaks=prerm deb stuck 1.0; deb plain 1.0; breaks=postinst deb second 1.0; deb first 1.0; archive
apt-get install -yq stuck plain
before=$(installed)
tried_twice() { rm -f /root/mended; for attempt in 1 2; do is "attempt $attempt" 1 "$(status kk plan.rhai)"; done; }
for code in 'pkg::remove(["plain", "stuck"]);' 'pkg::install(["second", "first"]);'; do
    plan "$code"
    tried_twice; touch /root/mended
    exits 0 kk rollback --purge packages; is "undone after two failures: $code" "$before" "$(installed)"
    tried_twice; touch /root/mended
    exits 0 kk plan.rhai; [[ $(installed) != "$before" ]] || fail "nothing was done: $code"
    exits 0 kk rollback --purge packages; is "undone after a success: $code" "$before" "$(installed)"
done
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn package_on_hold_stays_until_it_is_let_go() {
    passes(
        r#"
deb one 1.0; deb one 2.0; deb two 1.0; deb three 1.0; archive
apt-get install -yq one=1.0 two three; apt-mark hold two
before=$(apt-mark showhold)
plan 'pkg::hold(["one"]); pkg::unhold(["two"]); if !pkg::held("one") || pkg::held("two") { throw "not so"; }'
is "dry run" 6 "$(status kk plan.rhai --dry-run)"; said "put one on hold"
plan 'pkg::hold(["one"]); pkg::unhold(["two"]);'
exits 0 kk plan.rhai
is "held" one "$(apt-mark showhold)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
apt-get -yq upgrade; is "apt keeps it" 1.0 "$(version one)"
# Its own hold is no obstacle, and stays.
plan 'pkg::install(["one=2.0"]); pkg::hold(["one"]); pkg::unhold(["two"]);'
exits 0 kk plan.rhai
is "upgraded, still held" "2.0 one" "$(version one) $(apt-mark showhold)"
# The operator's is.
apt-mark hold three >/dev/null
plan 'pkg::remove(["three"]);'
is "held by the operator" 1 "$(status kk plan.rhai)"; said "the package \`three\` is on hold"; said "pkg::unhold"
apt-mark unhold three >/dev/null
exits 0 kk rollback --plan plan
is "after the rollback" "1.0 $before" "$(version one) $(apt-mark showhold)"
# Ended by the operator.
plan 'pkg::hold(["one"]);'
exits 0 kk plan.rhai; apt-mark unhold one
is "a conflict" 78 "$(status kk plan.rhai --redo 01 --on-conflict ask)"
said "package \`one\` is not on hold any more"
exits 0 kk rollback
plan 'pkg::hold(["no-such-package"]);'
is "not there" 1 "$(status kk plan.rhai)"; said "cannot put \`no-such-package\` on hold: it is not installed"
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn answers_are_given_before_a_package_asks_and_a_rollback_takes_them_away() {
    passes(
        r#"
asks=yes deb asking 1.0; archive
get() { echo "GET $2" | debconf-communicate "$1" | sed 's/^0 //'; }
plan 'pkg::preseed("asking", "asking/color", "string", "deep blue"); pkg::preseed("asking", "asking/password", "password", secret::ask("token", "The token")); pkg::install(["asking"]);'
export KKRUN_SECRET_TOKEN=hush-hush-123
is "dry run" 6 "$(status kk plan.rhai --dry-run)"; said "answer the question asking/color of asking"
is "nothing yet" "10 asking/color doesn't exist" "$(get asking asking/color)"
exits 0 kk plan.rhai
is "the package read them" "deep blue hush-hush-123" "$(cat /etc/asking)"
is "the package cleared one" "" "$(get asking asking/password)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
! grep -r hush-hush /root/state/journal
exits 0 kk rollback --purge packages
is "unknown again" "10 asking/color doesn't exist" "$(get asking asking/color)"
# Over an answer that was there.
debconf-set-selections <<<'asking asking/color string red'
plan 'pkg::preseed("asking", "asking/color", "string", "green");'
exits 0 kk plan.rhai; is "given" green "$(get asking asking/color)"
exits 0 kk rollback; is "as before" red "$(get asking asking/color)"
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn package_source_that_does_not_work_changes_nothing() {
    passes(
        r#"
deb one 1.0; archive; signed /srv/good good; signed /srv/bad other
cp /srv/good.asc /root/plan/files/good.asc; cp /srv/bad.asc /root/plan/files/bad.asc
state() { find /etc/apt /var/lib/apt/lists -type f | sort | xargs sha256sum; }
before=$(state)
add() { plan "apt::repository($1); pkg::install([\"one\"]);" 'import "std/apt" as apt;'; }
rm /etc/apt/sources.list.d/test.list; rm -f /var/lib/apt/lists/*srv_archive*; before=$(state)

# Beside a source that does not work.
echo 'deb [trusted=yes] file:/srv/nowhere ./' >/etc/apt/sources.list.d/broken.list
before=$(state)
add '#{ name: "good", key: "files/good.asc", entry: "deb [signed-by={KEY}] file:/srv/good ./" }'
is "dry run" 6 "$(status kk plan.rhai --dry-run)"
is "nothing yet" "$before" "$(state)"
exits 0 kk plan.rhai
is "installed" 1.0 "$(version one)"
exits 0 kk plan.rhai --redo 01; said "0 changes"
exits 0 kk rollback --purge packages
is "after the rollback" "$before" "$(state)"
rm /etc/apt/sources.list.d/broken.list; before=$(state)

# deb822.
add '#{ name: "good", key: "files/good.asc", sources: "Types: deb\nURIs: file:/srv/good\nSuites: ./\nSigned-By: {KEY}" }'
exits 0 kk plan.rhai
[[ -f /etc/apt/sources.list.d/good.sources ]]
is "installed" 1.0 "$(version one)"
exits 0 kk rollback --purge packages
is "after the rollback" "$before" "$(state)"

# A key that does not fit: nothing is listed, and apt goes on.
add '#{ name: "good", key: "files/bad.asc", entry: "deb [signed-by={KEY}] file:/srv/good ./" }'
is "wrong key" 1 "$(status kk plan.rhai)"
[[ ! -e /etc/apt/sources.list.d/good.list ]]; apt-get update -q; apt-get check -q
exits 0 kk rollback
is "after the rollback" "$before" "$(state)"

# The same source is listed with another key.
cp /srv/good.asc /etc/apt/keyrings/theirs.asc
echo 'deb [signed-by=/etc/apt/keyrings/theirs.asc] file:/srv/good ./' >/etc/apt/sources.list.d/theirs.list
apt-get update -q; before=$(state)
add '#{ name: "good", key: "files/good.asc", entry: "deb [signed-by={KEY}] file:/srv/good ./" }'
is "listed twice" 1 "$(status kk plan.rhai)"
said "cannot add the repository good"; said "Conflicting values set for option Signed-By"; said "replaces"
is "nothing done" "$before" "$(state)"; apt-get check -q
add '#{ name: "good", key: "files/good.asc", entry: "deb [signed-by={KEY}] file:/srv/good ./", replaces: "/etc/apt/sources.list.d/theirs.list" }'
exits 0 kk plan.rhai
[[ ! -e /etc/apt/sources.list.d/theirs.list ]]; is "installed" 1.0 "$(version one)"
exits 0 kk rollback --purge packages
is "after the rollback" "$before" "$(state)"; apt-get check -q
"#,
    );
}

#[test]
#[ignore = "needs root and a Debian base"]
fn an_installation_says_which_package_of_how_many_and_a_ctrl_c_is_answered_at_once() {
    passes(
        r#"
waits=yes deb one 1.0 two; deb two 1.0; waits=yes deb three 1.0; archive
# at_terminal: a run on a terminal of 140 columns; what is written to descriptor 9 is typed there.
at_terminal() {
    rm -f /root/keys /root/seen; mkfifo /root/keys
    env --default-signal=INT,QUIT script -qefc "stty cols 140; TERM=xterm '$kkrun' --state-dir /root/state plan.rhai" /root/seen <>/root/keys >/dev/null &
    terminal=$!
    exec 9>/root/keys
    until [[ -e /root/seen ]]; do sleep 0.1; done
}
sees() {
    for n in {1..600}; do
        if tr '\r\n' '  ' </root/seen | grep -qF -- "$1"; then return; fi
        sleep 0.1
    done
    cp /root/seen /root/said; fail "not seen: $1"
}
plan 'pkg::install(["one"]); file::write("/root/behind", "");'
at_terminal
sees "configuring one (2/2)"; sees "1/1 "
printf '\003' >&9
sees 'stopping: `apt-get install one` is finished first'; sees "the step has taken"; sees "A second Ctrl-C ends it at once"
kill -0 $terminal
touch /root/go
ended=0; wait $terminal || ended=$?
is "after what was begun" "130 1.0 1.0" "$ended $(version one) $(version two)"
[[ ! -e /root/behind ]]

rm /root/go
plan 'pkg::install(["one"]); pkg::install(["three"]);'
at_terminal
sees "configuring three (1/1)"
printf '\003' >&9; sees "stopping:"; printf '\003' >&9
ended=0; wait $terminal || ended=$?
is "at once" 130 "$ended"
touch /root/go
exits 0 kk plan.rhai
is "repaired" 1.0 "$(version three)"; dpkg --audit; is "sound" "" "$(dpkg --audit)"

deb four 1.0 five; deb five 1.0; archive
plan 'pkg::install(["four"]);'
exits 0 kk --json plan.rhai
said '"event":"command_progress"'; said "unpacking five (1/2)"; said "configuring four (2/2)"
"#,
    );
}
