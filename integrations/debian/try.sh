#!/usr/bin/env bash
# Runs in a clone of a bare Debian, as root: /opt/before.deb is installed and used, /opt/new.deb upgrades it.
set -euo pipefail

fail() { printf 'failed: %s\n' "$*" >&2; exit 1; }
install() { apt-get install -y -qq --no-install-recommends --allow-downgrades "$1" >/opt/apt.log 2>&1 || { cat /opt/apt.log; fail "install $1"; }; }
# kkrun that must end with this exit status
ends() {
    local expected=$1 status=0
    shift
    kkrun --non-interactive "$@" >/opt/said 2>&1 || status=$?
    [[ $status == "$expected" ]] || { cat /opt/said; fail "kkrun $*: expected $expected, found $status"; }
}

mkdir -p /etc/kkrun/scripts
cat >/etc/kkrun/scripts/greet.rhai <<'RHAI'
const REQUIRES = #{ root: true };
step::run("01", "Greeting", || { file::write("/etc/motd", "first\n"); });
step::run("02", "User", || { user::ensure("visitor", #{ system: true }); });
step::run("03", "Broken", || { if !file::exists("/opt/mended") { throw "not yet"; } file::write("/etc/greeting", "hello\n"); });
RHAI
before=$(cat /etc/motd)

install /opt/before.deb
ends 1 greet.rhai
[[ $(cat /etc/motd) == first ]] || fail "the plan did not run"

# What an upgrade finds is an interrupted run, and goes on with it.
journal=$(sha256sum </var/lib/kkrun/journal)
install /opt/new.deb
[[ $(sha256sum </var/lib/kkrun/journal) == "$journal" ]] || fail "the upgrade modified the journal"
[[ $(dpkg-query -W -f '${Version}' kkrun) == "$(dpkg-deb -f /opt/new.deb Version)" ]] || fail "not upgraded"
touch /opt/mended
ends 0 greet.rhai --json
grep -q '"event":"step_skipped","id":"02"' /opt/said || { cat /opt/said; fail "the upgraded kkrun does not know the steps of before"; }
ends 0 greet.rhai --verify
ends 0 status greet.rhai

# What the package brings is there, and works.
for file in /usr/share/kkrun/scripts/master.rhai /usr/share/kkrun/stdlib/nginx.rhai \
    /usr/share/bash-completion/completions/kkrun /usr/share/zsh/vendor-completions/_kkrun \
    /usr/share/fish/vendor_completions.d/kkrun.fish; do
    dpkg-deb --fsys-tarfile /opt/new.deb | tar -t ".$file" >/dev/null || fail "the package has no $file"
done
dpkg-deb --fsys-tarfile /opt/new.deb | tar -xO ./usr/share/man/man1/kkrun-rollback.1.gz | zcat | grep -q -- purge || fail "no manual"
ends 0 check /usr/share/kkrun/scripts/master.rhai
bash -c '. /usr/share/bash-completion/completions/kkrun; complete -p kkrun' >/dev/null || fail "the completions of bash"

# Removed, and installed again, the journal is there.
apt-get remove -y -qq kkrun >/dev/null
[[ -e /var/lib/kkrun/journal && ! -e /usr/bin/kkrun ]] || fail "remove"
install /opt/new.deb
ends 0 rollback --purge all
[[ $(cat /etc/motd) == "$before" && ! -e /etc/greeting ]] || fail "the rollback did not restore the machine"
! id visitor >/dev/null 2>&1 || fail "the user is still there"

apt-get purge -y -qq kkrun >/opt/said 2>&1
grep -q "kept \`/var/lib/kkrun\`" /opt/said || { cat /opt/said; fail "the purge does not say what it keeps"; }
[[ -e /var/lib/kkrun/journal && -e /etc/kkrun/scripts/greet.rhai ]] || fail "the purge removed what is the operator's"
[[ -z $(find / -xdev -path /opt -prune -o -path /var/lib/kkrun -prune -o -path /etc/kkrun -prune -o -path /proc -prune -o -name '*kkrun*' -print) ]] ||
    fail "left behind: $(find / -xdev -name '*kkrun*')"
