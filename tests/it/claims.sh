#!/usr/bin/env bash
# Two plans ask for the same packages, units, users, groups and databases: what the first one brought stays until the last
# one that asks for it is rolled back. Runs in a booted clone with nginx and PostgreSQL.
set -euo pipefail
kkrun=$(readlink "/proc/$PPID/exe")
work=/root/claims
mkdir -p "$work" /srv/archive /srv/claimed/DEBIAN
cd "$work"
fail() {
    printf 'FAILED: %s\n' "$1"
    sed 's/^/    /' "$work/said"
    exit 1
}
ends() { # STATUS WORD...
    local wanted=$1 status=0
    shift
    "$kkrun" --state-dir "$work/state" --non-interactive "$@" </dev/null >"$work/said" 2>&1 || status=$?
    ((status == wanted)) || fail "kkrun $* ended with $status, not $wanted"
}
says() { grep -qF -- "$1" "$work/said" || fail "\`$1\` is not said"; }

printf 'Package: kkrun-claimed\nVersion: 1\nArchitecture: all\nMaintainer: kkrun <root@localhost>\nDescription: is claimed\n' \
    >/srv/claimed/DEBIAN/control
chmod 0755 /srv/claimed/DEBIAN
package=/srv/archive/kkrun-claimed_1_all.deb
dpkg-deb --build --root-owner-group /srv/claimed $package >/dev/null
{
    dpkg-deb --field $package
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n' "${package##*/}" "$(stat -c %s $package)" "$(sha256sum $package | cut -d' ' -f1)"
} >/srv/archive/Packages
echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list.d/claimed.list
apt-get update -o Dir::Etc::sourcelist=sources.list.d/claimed.list -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 >"$work/said" 2>&1 ||
    fail 'the archive cannot be read'
systemctl start postgresql

# What is there of: the package, the unit, the account, the group, its lingering manager, the role, the database.
there() {
    dpkg-query --show --showformat '${db:Status-Status}' kkrun-claimed 2>/dev/null | grep -qx installed && printf 'package '
    [[ $(systemctl is-active claimed) == active && $(systemctl is-enabled claimed) == enabled ]] && printf 'unit '
    getent passwd kim >/dev/null && printf 'user '
    id -nG kim 2>/dev/null | grep -qw crew && printf 'group '
    [[ -e /var/lib/systemd/linger/kim ]] && printf 'linger '
    runuser -u postgres -- psql -qAtc 'SELECT rolname FROM pg_roles' | grep -qx kim && printf 'role '
    runuser -u postgres -- psql -qAtc 'SELECT datname FROM pg_database' | grep -qx site && printf 'database '
    true
}
printf '[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/claimed.service
systemctl daemon-reload
for plan in one two; do
    cat >$plan.rhai <<'PLAN'
step::run("01", "All", || {
    pkg::install(["kkrun-claimed"]);
    group::ensure("crew");
    user::ensure("kim", #{ groups: ["crew"] });
    user::linger("kim");
    unit::enable("claimed");
    unit::start("claimed");
    pg::ensure_role("kim");
    pg::ensure_database("site", #{ owner: "kim" });
});
PLAN
done
all='package unit user group linger role database '
for first in one two; do
    last=two
    [[ $first == two ]] && last=one
    ends 0 $first.rhai
    [[ $(there) == "$all" ]] || fail "there is $(there)"
    ends 0 $last.rhai
    says '0 changes'
    ends 0 rollback --plan $first --yes --purge all
    says "asked for by step 01 of the plan \`$last\`, too: left to it"
    says '0 undone'
    [[ $(there) == "$all" ]] || fail "after the rollback of $first there is $(there)"
    ends 0 $last.rhai --verify
    ends 0 rollback --plan $last --yes --purge all
    [[ -z $(there) ]] || fail "in the end there is $(there)"
    printf '%s, then %s: left to the last\n' $first $last
done
printf 'all of it holds\n'
