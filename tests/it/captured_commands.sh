# Captured commands as they are in setup scripts, each previewed, run and rolled back where this machine is not changed:
# everything written here is in overlays of these mounts. Arguments: kkrun, and which of the situations.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv/home LANG=C.UTF-8 NO_COLOR=1
kkrun=$1 wanted=$2
mount -t tmpfs -o mode=0755,size=3g none /mnt
# Others write to /etc of this machine meanwhile.
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for directory in /opt /usr /var; do
    layer=/mnt/layers$directory
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" none "$directory"
done
mount -t tmpfs -o mode=0755,size=1g none /srv
mkdir /mnt/plan /srv/home
echo '# mine' > /srv/home/.bashrc

# Everything that a rollback has to restore: metadata and times of all, contents of what is not a system program.
picture() {
    find /etc /opt /srv /usr/local /usr/bin /usr/lib/locale /var/lib/dpkg/alternatives \
        -printf '%p|%y|%m|%U:%G|%l|%T@|' \( -type d -printf '\n' -o -printf '%n|%s\n' \) | LC_ALL=C sort
    find /etc /opt /srv /usr/local /usr/lib/locale /var/lib/dpkg/alternatives -type f -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum
    getcap -r /srv /usr/local 2> /dev/null || true
    find /srv -maxdepth 1 -print0 | LC_ALL=C sort -z | xargs -0 getfacl -p 2> /dev/null || true
}

fail() { echo "$name: $1" >&2; shift; "$@" >&2; exit 1; }

# NAME COMMAND TEST [OPTIONS]: what must hold once it has run.
situation() {
    name=$1
    case $wanted in all | "$name") ;; *) return 0 ;; esac
    rm -rf /mnt/state
    printf 'step::run("01", "One", || cmd::run(["bash", "-ec", `%s`], #{ label: "%s", env: #{ HOME: "/srv/home" }, capture: #{ preview: true }%s }));\n' \
        "$2" "$name" "${4-}" > /mnt/plan/plan.rhai
    picture > /mnt/before
    run --dry-run 6
    picture | cmp -s - /mnt/before || fail "its preview changed something" eval 'diff /mnt/before <(picture) | head -40'
    run "" 0
    bash -ec "$3" || fail "not made" cat /mnt/said
    began=$(date +%s%N)
    "$kkrun" --state-dir /mnt/state rollback > /mnt/said 2>&1 || fail "not rolled back" cat /mnt/said
    echo "$name: rolled back in $((($(date +%s%N) - began) / 1000000)) ms"
    picture | cmp -s - /mnt/before || fail "not as before" eval 'diff /mnt/before <(picture) | head -40'
}

run() {
    began=$(date +%s%N)
    status=0
    (cd /mnt/plan && "$kkrun" --state-dir /mnt/state $1 plan.rhai > /mnt/said 2>&1) || status=$?
    [ "$status" = "$2" ] || fail "ended with $status instead of $2" cat /mnt/said
    echo "$name: kkrun $1 in $((($(date +%s%N) - began) / 1000000)) ms"
}

mkdir /srv/source
cat > /srv/source/tool.c << 'END'
int main(void) { return 0; }
END
cat > /srv/source/Makefile << 'END'
prefix = /usr/local
tool: tool.c
	cc -o tool tool.c
install: tool
	install -d $(prefix)/bin $(prefix)/share/man/man1 $(prefix)/lib/tool
	install -m 0755 tool $(prefix)/bin/tool
	install -m 4755 tool $(prefix)/bin/tool-setuid
	echo manual | gzip > $(prefix)/share/man/man1/tool.1.gz
	ln -sf tool $(prefix)/bin/tool-link
	echo data > $(prefix)/lib/tool/data
END
situation make-install 'make -C /srv/source install' \
    'test -u /usr/local/bin/tool-setuid && /usr/local/bin/tool-link && test -x /srv/source/tool'

mkdir -p /srv/package/there
echo 'VALUE = 1' > /srv/package/there/__init__.py
printf 'from setuptools import setup\nsetup(name="there", version="1.0", packages=["there"])\n' > /srv/package/setup.py
if python3 -c 'import ensurepip' 2> /dev/null; then
    situation venv-with-pip 'python3 -m venv /srv/venv && cd /srv/package && /srv/venv/bin/pip install --no-index --no-build-isolation . || test -x /srv/venv/bin/pip' \
        'test -x /srv/venv/bin/pip'
else
    situation venv 'python3 -m venv --without-pip /srv/venv' 'test -x /srv/venv/bin/python3'
fi

if python3 -c 'import setuptools, wheel, pip' 2> /dev/null; then
    situation pip-system 'cd /srv/package && python3 -m pip install -q --break-system-packages --root-user-action=ignore --no-cache-dir --no-index --no-build-isolation .' \
        'cd / && test "$(python3 -c "import there; print(there.VALUE)")" = 1'
fi

if command -v npm > /dev/null; then
    mkdir /srv/npm
    echo '{"name":"there","version":"1.0.0","bin":{"there":"there.js"}}' > /srv/npm/package.json
    printf '#!/usr/bin/env node\n' > /srv/npm/there.js
    (cd /srv && npm pack --silent /srv/npm > /dev/null 2>&1)
    situation npm-global 'npm install --silent --offline --no-audit --no-fund --global --prefix /usr/local /srv/there-1.0.0.tgz' \
        'test -x /usr/local/bin/there'
fi

cat > /srv/installer.sh << 'END'
set -e
mkdir -p ~/.tool/bin
printf '#!/bin/sh\necho tool\n' > ~/.tool/bin/tool
chmod +x ~/.tool/bin/tool
grep -q .tool ~/.bashrc || printf 'export PATH="$HOME/.tool/bin:$PATH"\n' >> ~/.bashrc
END
situation installer 'cat /srv/installer.sh | sh' 'grep -q .tool /srv/home/.bashrc && /srv/home/.tool/bin/tool | grep -q tool'

printf '#!/bin/sh\n' > /usr/local/bin/my-editor
chmod +x /usr/local/bin/my-editor
situation alternatives 'update-alternatives --quiet --install /usr/bin/my-editor my-editor /usr/local/bin/my-editor 10' \
    'test "$(readlink -f /usr/bin/my-editor)" = /usr/local/bin/my-editor && test -e /var/lib/dpkg/alternatives/my-editor'

if command -v locale-gen > /dev/null && [ -e /usr/share/i18n/locales/de_DE ]; then
    situation locale 'echo "de_DE.UTF-8 UTF-8" >> /etc/locale.gen && locale-gen' 'localedef --list-archive | grep -q de_DE'
fi

situation ssh-keygen 'mkdir -p -m 0700 /srv/home/.ssh && ssh-keygen -q -t ed25519 -N "" -f /srv/home/.ssh/id' \
    'test "$(stat -c %a /srv/home/.ssh/id)" = 600'

mkdir -p /srv/unpacked/bin
cp /usr/bin/true /srv/unpacked/bin/one
ln /srv/unpacked/bin/one /srv/unpacked/bin/two
chmod 6755 /srv/unpacked/bin/one
mkdir /srv/unpacked/lib
ln /srv/unpacked/bin/one /srv/unpacked/lib/three
ln -s ../bin/one /srv/unpacked/lib/link
truncate -s 64M /srv/unpacked/sparse
tar -C /srv -cSf /srv/archive.tar unpacked
rm -r /srv/unpacked
situation tarball 'mkdir /opt/app && tar -C /opt/app -xf /srv/archive.tar' \
    'test "$(stat -c %h:%a /opt/app/unpacked/lib/three)" = 3:6755 && test "$(stat -c %b /opt/app/unpacked/sparse)" -lt 1000'

mkdir -p /srv/replaced/inner
echo x > /srv/replaced/inner/file
situation directory-becomes-file 'rm -r /srv/replaced && echo file > /srv/replaced' 'test -f /srv/replaced'

echo x > /srv/limits
situation attributes 'setfacl -m u:daemon:r /srv/limits; cp /usr/bin/true /srv/capable; setcap cap_net_bind_service=ep /srv/capable' \
    'getcap /srv/capable | grep -q cap_net_bind_service && getfacl -p /srv/limits | grep -q daemon'

mkdir -m 0777 /srv/shared
situation as-user 'id -un > /srv/shared/who' 'test "$(cat /srv/shared/who)" = daemon && test "$(stat -c %U /srv/shared/who)" = daemon' \
    ', user: "daemon"'

if [ "$wanted" = many ]; then
    mkdir -p /srv/many
    for directory in $(seq 500); do
        mkdir /srv/many/$directory
        (cd /srv/many/$directory && printf "$directory" | tee $(seq 100) > /dev/null)
    done
    situation many 'mv /srv/many /srv/renamed' 'test "$(find /srv/renamed -type f | wc -l)" = 50000 && ! test -e /srv/many'
fi

if [ "$wanted" = full ]; then
    name=full
    mkdir /srv/small
    mount -t tmpfs -o size=1m none /srv/small
    echo mine > /srv/small/mine
    echo 'step::run("01", "One", || cmd::run(["dd", "if=/dev/zero", "of=/srv/small/big", "bs=1M", "count=4"], #{ label: "it", capture: #{} }));' > /mnt/plan/plan.rhai
    run "" 1
    grep -qi 'no space' /mnt/said || fail "another error" cat /mnt/said
    [ "$(ls -A /srv/small)" = mine ] || fail "something is left" ls -A /srv/small
    "$kkrun" --state-dir /mnt/state rollback 2>&1 | grep -q '0 undone' || fail "something is recorded" cat /mnt/said
    mount -t tmpfs -o size=1m,mode=0700 none /mnt/state
    run "" 1
    [ "$(ls -A /srv/small)" = mine ] || fail "something is left" ls -A /srv/small
fi
