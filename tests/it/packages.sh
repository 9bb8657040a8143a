# What the tests of packages share: archives, plans and comparisons. Run in a booted clone.
set -euo pipefail
kkrun=$(readlink "/proc/$PPID/exe")
mkdir -p /srv/archive /root/plan/files && cd /root/plan
echo '#{ plan: "plan" }' >settings.rhai
echo 'deb [trusted=yes] copy:/srv/archive ./' >/etc/apt/sources.list.d/test.list
rm -f /etc/apt/sources.list.d/debian.sources; : >/etc/apt/sources.list
rm -rf /var/lib/apt/lists/*; mkdir -p /etc/apt/keyrings

kk() { "$kkrun" --state-dir /root/state --yes --non-interactive "$@" >/root/said 2>&1; }
fail() { echo "FAILED: $*"; cat /root/said; exit 1; }
is() { [[ $2 == "$3" ]] || fail "$1: expected \`$2\`, found \`$3\`"; }
status() { local status=0; "$@" || status=$?; echo $status; }
exits() { local status=0 expected=$1; shift; "$@" || status=$?; is "$*" "$expected" "$status"; }
said() { grep -qF -- "$1" /root/said || fail "not said: $1"; }
# plan CODE [HEAD]: a plan with one step, behind what comes first in its file.
plan() { printf '%s\nconst REQUIRES = #{ root: true };\nstep::run("01", "One", || { %s });\n' "${2-}" "$1" >plan.rhai; }
version() { dpkg-query --show --showformat='${db:Status-Abbrev}${Version}' "$1" 2>/dev/null | sed -n 's/^[ih]i.//p'; }
marked() { if [[ -n $(apt-mark showauto "$1") ]]; then echo auto; else echo manual; fi; }
installed() { dpkg-query --show --showformat='${db:Status-Abbrev} ${Package} ${Version}\n' | grep -v '^[up]n'; }

# deb NAME VERSION [NEEDS]: makes a package in the archive, for `arch` and with more `fields`.
deb() {
    local work=/srv/work
    rm -rf $work; mkdir -p $work/DEBIAN $work/usr/share/$1; echo "$2" >"$work/usr/share/$1/version"
    printf 'Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: kkrun <root@localhost>\n%bDescription: a test\n' \
        "$1" "$2" "${arch-all}" "${fields-}${3:+Depends: $3\n}" >$work/DEBIAN/control
    if [[ -n ${conffile-} ]]; then mkdir $work/etc; echo theirs >"$work/etc/$1.conf"; echo "/etc/$1.conf" >$work/DEBIAN/conffiles; fi
    if [[ -n ${asks-} ]]; then
        printf 'Template: %s/color\nType: string\nDescription: color\n\nTemplate: %s/password\nType: password\nDescription: password\n' "$1" "$1" >$work/DEBIAN/templates
        printf '#!/bin/sh\n. /usr/share/debconf/confmodule\ndb_input high %s/color || true\ndb_go || true\n' "$1" >$work/DEBIAN/config
        printf '#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get %s/color\ncolor=$RET\ndb_get %s/password\necho "$color $RET" >/etc/%s\ndb_set %s/password ""\n' "$1" "$1" "$1" "$1" >$work/DEBIAN/postinst
        printf '#!/bin/sh\nrm -f /etc/%s\n' "$1" >$work/DEBIAN/postrm
        chmod 0755 $work/DEBIAN/{config,postinst,postrm}
    fi
    if [[ -n ${waits-} ]]; then
        printf '#!/bin/sh\nuntil [ -e /root/go ]; do sleep 0.1; done\n' >$work/DEBIAN/postinst
        chmod 0755 $work/DEBIAN/postinst
    fi
    # A script that fails until something is mended.
    if [[ -n ${breaks-} ]]; then
        printf '#!/bin/sh\ntest -e /root/mended\n' >$work/DEBIAN/$breaks
        chmod 0755 $work/DEBIAN/$breaks
    fi
    dpkg-deb --root-owner-group --build $work "/srv/archive/$1_$2_${arch-all}.deb" >/dev/null
}

# Writes the index of the archive, which apt does not know before it has fetched it.
index() {
    local file
    for file in /srv/archive/*.deb; do
        dpkg-deb --field "$file"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "${file##*/}" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d' ' -f1)"
    done >/srv/archive/Packages
}

archive() { index; apt-get update -q >/dev/null; }

# signed DIRECTORY NAME: a copy of the archive, signed with a key of its own, which is beside it.
signed() {
    export GNUPGHOME=/root/gnupg-$2
    mkdir -m 0700 -p "$GNUPGHOME"
    gpg --batch --quiet --passphrase '' --quick-generate-key "$2 <$2@localhost>" ed25519 sign never
    gpg --armor --export >"$1.asc"
    cp -r /srv/archive "$1"
    (
        cd "$1"
        printf 'Date: %s\nSHA256:\n %s %s Packages\n' "$(date -Ru)" "$(sha256sum Packages | cut -d' ' -f1)" "$(stat -c %s Packages)" >Release
        gpg --batch --quiet --clearsign --output InRelease Release
    )
}
