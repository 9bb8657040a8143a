# Ctrl-C, a signal or a hang-up while apt is at work: it is left to finish, the step is interrupted, the next run goes on.
. "$(dirname "$0")/lib.sh"

# A package that takes its time to be configured, in an archive on this machine.
say "an archive"
mkdir -p /srv/archive /srv/slow/DEBIAN /srv/plan
cat >/srv/slow/DEBIAN/control <<'END'
Package: kkrun-slow
Version: 1
Architecture: all
Maintainer: kkrun <root@localhost>
Description: takes its time to be configured
END
printf '#!/bin/sh\ntouch /run/slow-began\nsleep 3\ntouch /run/slow-ended\n' >/srv/slow/DEBIAN/postinst
chmod 0755 /srv/slow/DEBIAN /srv/slow/DEBIAN/postinst
package=/srv/archive/kkrun-slow_1_all.deb
dpkg-deb --build --root-owner-group /srv/slow $package >/dev/null
{
    dpkg-deb --field $package
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n' "${package##*/}" "$(stat -c %s $package)" "$(sha256sum $package | cut -d' ' -f1)"
} >/srv/archive/Packages
echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list.d/slow.list
check "the archive" apt-get update -o Dir::Etc::sourcelist=sources.list.d/slow.list -o Dir::Etc::sourceparts=- \
    -o APT::Get::List-Cleanup=0
printf '%s\n' 'step::run("01", "Install", || pkg::install(["kkrun-slow"]));' 'step::run("02", "Leave a mark", || file::write("/srv/mark", "\n"));' >/srv/plan/slow.rhai

for signal in INT TERM HUP; do
    rm -f /run/slow-began /run/slow-ended
    env --default-signal "$KKRUN" --non-interactive --yes /srv/plan/slow.rhai >/tmp/slow.log 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 1500); do
        if [[ -e /run/slow-began ]]; then break; fi
        kill -0 $pid 2>/dev/null || break
        sleep 0.02
    done
    [[ -e /run/slow-began ]] || die "apt did not come to the package: $(cat /tmp/slow.log)"
    kill -s $signal $pid
    status=0
    wait $pid || status=$?
    same "exit status after $signal" $((128 + $(kill -l $signal))) $status
    [[ -e /run/slow-ended ]] || die "apt was not left to finish: $(cat /tmp/slow.log)"
    same "what dpkg says" "install ok installed" "$(dpkg-query --show --showformat '${Status}' kkrun-slow)"
    same "what dpkg finds wrong" "" "$(dpkg --audit)"
    [[ ! -e /srv/mark ]] || die "the next step was run"
    [[ "$("$KKRUN" history 2>&1)" == *kkrun-slow* ]] || die "it is not on record: $("$KKRUN" history 2>&1)"
    exits 0 plan /srv/plan/slow.rhai
    [[ -e /srv/mark ]] || die "the next run did not go on: $said"
    exits 0 plan rollback --plan slow --purge all
    dpkg-query --show --showformat '${Status}' kkrun-slow 2>/dev/null | grep -q ' installed' && die "it is still installed"
    say "$signal"
done
