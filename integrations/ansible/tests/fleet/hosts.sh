# Hosts for tests: booted containers with sshd, each an overlay over one base in a network namespace of its own. Sourced.
# `work` is a directory on a disk, `base` a root file system with a Debian that boots. Needs root.

# In a mount namespace of its own: what another process copied of these mounts would keep their directories busy.
[[ -n ${KKRUN_FLEET_APART-} ]] || KKRUN_FLEET_APART=1 exec unshare --mount "$0" "$@"

say() { printf 'fleet: %s (%s s)\n' "$*" "$SECONDS"; }
die() { printf 'fleet: %s\n' "$*" >&2; exit 1; }

declare -A leader=() supervisor=()
tag=kkf$$

# The base with what a host of Ansible needs, and the archives of the packages that the tests install, so that no host needs a
# network for them.
make_hosts_base() {
    local packages=("$@") root=$work/base/root
    mkdir -p "$work"/base/{upper,work,root}
    mount -t overlay -o "lowerdir=$base,upperdir=$work/base/upper,workdir=$work/base/work" none "$root"
    mount -t proc none "$root/proc"
    mount --bind /dev "$root/dev"
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    local apt=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -y -qq --no-install-recommends
        -o APT::Keep-Downloaded-Packages=true -o Binary::apt::APT::Keep-Downloaded-Packages=true)
    "${apt[@]}" update >/dev/null
    # shellcheck disable=SC2086 # a word is a package
    "${apt[@]}" install openssh-server python3 python3-apt ${HOST_PACKAGES-} >/dev/null 2>"$work/apt.log" || { cat "$work/apt.log"; die "cannot make the base of the hosts"; }
    "${apt[@]}" install --download-only "${packages[@]}" >/dev/null
    # What is downloaded stays although an installation succeeded.
    echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >"$root/etc/apt/apt.conf.d/keep"
    rm "$root/usr/sbin/policy-rc.d"
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    mkdir -p -m 700 "$root/root/.ssh"
    cp "$work/key.pub" "$root/root/.ssh/authorized_keys"
    umount "$root/dev" "$root/proc" "$root"
}

# A number for each address: tests at once do not meet.
address() { printf '10.%s.%s.2' "$((100 + $$ % 100))" "$1"; }

# Boots a host, for the first time or again.
boot() {
    local number=$1 name=$tag-$1 root=$work/$1/root network
    network=10.$((100 + $$ % 100)).$number
    if ! mountpoint -q "$root" 2>/dev/null; then
        mkdir -p "$work/$number"/{upper,work,root}
        mount -t overlay -o "lowerdir=$work/base/upper:$base,upperdir=$work/$number/upper,workdir=$work/$number/work" none "$root"
        echo "web$number" >"$root/etc/hostname"
    fi
    if [[ ! -e /run/netns/$name ]]; then
        ip netns add "$name"
        ip link add "$name" type veth peer name host0 netns "$name"
        ip addr add "$network.1/24" dev "$name"
        ip -n "$name" addr add "$network.2/24" dev host0
        ip -n "$name" link set host0 up
        ip -n "$name" link set lo up
    fi
    ip link set "$name" up
    local group
    for group in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [[ -e $group/cgroup.procs ]] && mkdir -p "$group/$name"
    done
    (
        for group in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
            [[ ! -e $group/$name/cgroup.procs ]] || echo $BASHPID >"$group/$name/cgroup.procs"
        done
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --boot --register=no --keep-unit --settings=no \
            --resolv-conf=off --timezone=off --link-journal=no --console=read-only --machine="$name" --hostname="web$number" \
            --directory="$root" --network-namespace-path="/run/netns/$name" </dev/null >"$work/$number/console" 2>&1
    ) &
    supervisor[$number]=$!
    local attempt
    for attempt in {1..300}; do
        leader[$number]=$(pgrep --parent "${supervisor[$number]}" --exact systemd || true)
        if [[ -n ${leader[$number]} ]] && reach "$number" true 2>/dev/null; then return; fi
        sleep 0.2
    done
    cat "$work/$number/console"
    die "web$number does not come up"
}

reach() {
    local number=$1
    shift
    ssh -q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=10 -o ControlPath=none -i "$work/key" \
        "root@$(address "$number")" "$@"
}

# The power of a host goes off: its packets first, so that no one hears of its end.
power_off() {
    local number=$1
    ip link set "$tag-$number" down
    kill -KILL "${leader[$number]}"
    wait "${supervisor[$number]}" 2>/dev/null || true
    unset "leader[$number]" "supervisor[$number]"
}

# Ends a host and removes all of it.
discard() {
    local number=$1 name=$tag-$1 group
    [[ -z ${leader[$number]-} ]] || power_off "$number"
    ip netns del "$name" 2>/dev/null || true
    ip link del "$name" 2>/dev/null || true
    umount --lazy "$work/$number/root" 2>/dev/null || true
    for group in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [[ ! -d $group/$name ]] || find "$group/$name" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf --one-file-system "${work:?}/$number"
}

discard_all() {
    local number
    for number in "${!supervisor[@]}" "$@"; do discard "$number"; done
    umount --lazy "$work/base/root/dev" "$work/base/root/proc" "$work/base/root" 2>/dev/null || true
    rm -rf --one-file-system "${work:?}"
}
