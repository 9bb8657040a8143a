# Captured commands as they are in setup scripts, each previewed, run and rolled back where this machine is not changed:
# everything written here is in overlays of these mounts. Arguments: kkrun, which of the situations, and on what ground.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv/home LANG=C.UTF-8 NO_COLOR=1
kkrun=$1 wanted=$2 ground=${3:-tmpfs} state=/mnt/state
if [ "$ground" = root ]; then
    # A machine whose root is an overlay of the other kind: with redirected directories, and files without a content.
    mount -t tmpfs -o mode=0755 none /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work,redirect_dir=on,metacopy=on none /mnt/root
    for at in dev proc run sys; do mount --rbind /$at /mnt/root/$at; done
    exec chroot /mnt/root bash "$0" "$kkrun" "$wanted" inner
fi
if [ "$ground" = options ]; then
    # What overlays are made with where nothing is said.
    for parameter in redirect_dir metacopy index; do
        at=/sys/module/overlay/parameters/$parameter
        before="${before-} echo $(cat $at) > $at;"
    done
    trap "$before" EXIT
    for parameter in redirect_dir metacopy index; do echo Y > /sys/module/overlay/parameters/$parameter; done
fi
mount -t tmpfs -o mode=0755,size=3g none /mnt
cp "$kkrun" /mnt/kkrun
kkrun=/mnt/kkrun
# Others write to /etc of this machine meanwhile.
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for directory in /opt /usr /var; do
    # Of the layers of this root nothing stays; only /opt is one more, which is over as many as can be.
    [ "$ground" != inner ] || [ "$directory" = /opt ] || continue
    layer=/mnt/layers$directory
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" none "$directory"
done
# KIND DIRECTORY: a new file system of this kind there.
image() {
    truncate -s 600m "/mnt/image$2.${1}"
    "mkfs.$1" -q "/mnt/image$2.${1}" > /dev/null 2>&1
    mount -o loop "/mnt/image$2.${1}" "$2"
}
mkdir /mnt/image /mnt/ground
case $ground in
tmpfs | options | inner) mount -t tmpfs -o mode=0755,size=1g none /srv ;;
parts)
    # /home and /var are mounts of their own, and of another kind than what holds the state directory.
    mkdir /mnt/image/mnt /mnt/own
    cp -a /var/lib/dpkg /mnt/own
    image xfs /home
    image btrfs /var
    mkdir -p /var/lib /var/tmp
    cp -a /mnt/own/dpkg /var/lib
    image ext4 /mnt/ground
    state=/mnt/ground/state
    mount -t tmpfs -o mode=0755,size=1g none /srv
    ;;
*)
    mkdir /mnt/image/mnt
    image "$ground" /mnt/ground
    mkdir /mnt/ground/srv
    mount --bind /mnt/ground/srv /srv
    state=/mnt/ground/state
    ;;
esac
places="/srv"
[ "$ground" != parts ] || places="/srv /home /var"
# In the mount of the state directory: what is new there is moved.
if [ -d /mnt/ground/srv ]; then
    mkdir /mnt/ground/beside
    places="/srv /mnt/ground/beside"
fi
mkdir /mnt/plan /srv/home
echo '# mine' > /srv/home/.bashrc

# Everything that a rollback has to restore: metadata and times of all, contents of what is not a system program.
picture() {
    find /etc /opt $places /usr/local /usr/bin /usr/lib/locale /var/lib/dpkg/alternatives \
        -printf '%p|%y|%m|%U:%G|%l|%T@|' \( -type d -printf '\n' -o -printf '%n|%s\n' \) | LC_ALL=C sort
    find /etc /opt $places /usr/local /usr/lib/locale /var/lib/dpkg/alternatives -type f -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum
    getcap -r $places /usr/local 2> /dev/null || true
    find /srv -maxdepth 1 -print0 | LC_ALL=C sort -z | xargs -0 getfacl -p 2> /dev/null || true
}

fail() { echo "$name: $1" >&2; shift; "$@" >&2; exit 1; }

# NAME COMMAND TEST [OPTIONS]: what must hold once it has run.
situation() {
    name=$1
    case $wanted in all | "$name") ;; *) return 0 ;; esac
    rm -rf "$state"
    printf 'step::run("01", "One", || cmd::run(["bash", "-ec", `%s`], #{ label: "%s", env: #{ HOME: "/srv/home" }, capture: #{ preview: true }%s }));\n' \
        "$2" "$name" "${4-}" > /mnt/plan/plan.rhai
    picture > /mnt/before
    run --dry-run 6
    picture | cmp -s - /mnt/before || fail "its preview changed something" eval 'diff /mnt/before <(picture) | head -40'
    run "" 0
    bash -ec "$3" || fail "not made" cat /mnt/said
    began=$(date +%s%N)
    "$kkrun" --state-dir "$state" rollback > /mnt/said 2>&1 || fail "not rolled back" cat /mnt/said
    echo "$name: rolled back in $((($(date +%s%N) - began) / 1000000)) ms"
    picture | cmp -s - /mnt/before || fail "not as before" eval 'diff /mnt/before <(picture) | head -40'
}

run() {
    began=$(date +%s%N)
    status=0
    (cd /mnt/plan && "$kkrun" --state-dir "$state" $1 plan.rhai > /mnt/said 2>&1) || status=$?
    [ "$status" = "$2" ] || fail "ended with $status instead of $2" cat /mnt/said
    echo "$name: kkrun $1 in $((($(date +%s%N) - began) / 1000000)) ms"
}

if [ "$wanted" = everything ]; then
    # Fails if anything here has a mark of an overlay.
    cat > /mnt/marks.py << 'END'
import os, sys
for at, directories, files in os.walk("."):
    for path in (os.path.join(at, name) for name in directories + files):
        if any("overlay" in name for name in os.listxattr(path, follow_symlinks=False)):
            sys.exit(f"{path} has a mark of an overlay")
END
    make= changes= test=
    for place in $places; do
        mkdir -p $place/w/tree/deep $place/w/dir/inner
        for file in kept changed gone file tree/a tree/deep/b dir/inner/x other; do echo $file > $place/w/$file; done
        ln $place/w/kept $place/w/also-kept
        ln -s kept $place/w/turned
        changes="$changes cd $place/w; echo new > made; echo more >> changed; rm gone; mv tree renamed; rm -r dir;
            echo file > dir; rm file; mkdir file; echo x > file/x; ln file/x file/y; truncate -s 64M sparse;
            echo end >> sparse; cp /usr/bin/true suid; chmod 4755 suid; chown daemon:daemon other; chmod 0640 other;
            ln -sfn made turned; cp /usr/bin/true capable; setcap cap_net_bind_service=ep capable;
            setfacl -m u:daemon:r changed; mkfifo gone-too; rm gone-too; mkdir -p many/deep split; ln changed split/changed;
            for i in \$(seq 80); do echo \$i > many/deep/\$i; echo \$i > new-\$i; done; setfacl -m u:daemon:r new-7;
            cp /usr/bin/true many/capable; setcap cap_net_bind_service=ep many/capable; mv also-kept many/deep;"
        test="$test cd $place/w; test -u suid -a -f dir -a -d file -a ! -e tree -a ! -e gone;
            test \$(cat renamed/deep/b) = tree/deep/b -a \$(stat -c %h file/x) = 2 -a \$(stat -c %b sparse) -lt 1000;
            getcap capable | grep -q bind; getfacl -p changed | grep -q daemon; getfacl -p new-7 | grep -q daemon;
            getcap many/capable | grep -q bind; test \$(ls many/deep | wc -l) = 81;
            python3 /mnt/marks.py;"
    done
    [ "$ground" != parts ] || changes="$changes mv /home/w/made /var/w/from-home;"
    [ "$ground" != inner ] || changes="$changes ! touch /opt/x;"
    situation everything "$changes" "$test"
    exit
fi

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

if [ "$wanted" = autotools ]; then
    mkdir /srv/hello
    cp /srv/source/tool.c /srv/hello/hello.c
    cd /srv/hello
    printf 'AC_INIT([hello],[1.0])\nAM_INIT_AUTOMAKE\nAC_PROG_CC\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n' > configure.ac
    printf 'bin_PROGRAMS = hello\nhello_SOURCES = hello.c\ndist_man_MANS = hello.1\npkgdata_DATA = hello.txt\n' > Makefile.am
    echo text > hello.txt
    touch AUTHORS ChangeLog NEWS README
    echo '.TH hello 1' > hello.1
    autoreconf --install > /mnt/said 2>&1 || fail "autoreconf" cat /mnt/said
    situation autotools 'cd /srv/hello && ./configure --quiet && make --silent install' \
        '/usr/local/bin/hello && test -e /usr/local/share/man/man1/hello.1 -a -e /usr/local/share/hello/hello.txt'
    exit
fi

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
    umount /mnt/state
    # Not all of the new files have room beside the old ones.
    for number in $(seq 150); do head -c 4096 /dev/zero > /srv/small/$number; done
    full=$name wanted=crowded
    situation crowded 'for number in $(seq 150); do yes | head -c 4096 > /srv/small/$number; done' \
        'test "$(cat /srv/small/[0-9]* | tr -d "y\n" | wc -c)" = 0'
    name=$full wanted=full
fi
