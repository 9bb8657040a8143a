# What the tests of the whole plan share. They run as root inside a clone, with kkrun at $KKRUN.
set -euo pipefail
export KKRUN=${KKRUN:-/run/kkrun-rehearsal/files/kkrun}
export NO_COLOR=1
unset SUDO_USER SUDO_UID SUDO_GID
user=kimonokittens
home=/home/$user
site=/var/www/kimonokittens

say() { printf '== %s (%s s)\n' "$*" "$SECONDS"; }
die() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# check LABEL COMMAND...: the command must succeed.
check() {
    local label=$1 output
    shift
    output=$("$@" 2>&1) || die "$label: $* said: $output"
}

# same LABEL WANTED FOUND
same() { [[ $2 == "$3" ]] || die "$1: wanted «$2», found «$3»"; }

# exits STATUS COMMAND...: the command must end with that status; its output is left in $said.
exits() {
    local wanted=$1 status=0
    shift
    said=$("$@" </dev/null 2>&1) || status=$?
    [[ $status == "$wanted" ]] || die "wanted exit $wanted, got $status from: $*"$'\n'"$said"
}

plan() { "$KKRUN" --non-interactive --yes "$@"; }
as_user() { runuser -u "$user" -- env -C / "$@"; }
database_url() { sed -n "s/^DATABASE_URL=//p" "$home/.env" | tr -d "'\""; }
sql() { runuser -u postgres -- psql -XAtqc "$1" "${2:-postgres}"; }
journal_records() { wc -l </var/lib/kkrun/journal; }
step_states() { "$KKRUN" status.rhai 2>/tmp/status.err || cat /tmp/status.err >&2; }

# Everything on disk that a run could touch, with inode, mtime, owner and mode.
snapshot() {
    find /etc /home /var/www /usr/local /usr/share/xsessions /root -xdev -printf '%p %i %T@ %u:%g %m %s\n' 2>/dev/null |
        grep -v -e '/\.cache' -e '^/home/[^/]*/\.npm' | LC_ALL=C sort
}

# The same by content, without inodes and directories' times: for what was rolled back.
contents() {
    (
        cd /
        find etc home var/www usr/local usr/share/xsessions -xdev \( -type f -printf '%p %u:%g %m %T@ ' -exec sha256sum {} \; \) \
            -o \( -type l -printf '%p -> %l %u:%g\n' \) -o \( -type d -printf '%p/ %u:%g %m\n' \) 2>/dev/null || true
    ) | sed 's/ [^ ]*$//;t' | LC_ALL=C sort
}

units() { systemctl list-unit-files --no-legend --no-pager | awk '{ print $1, $2 }' | LC_ALL=C sort; }
databases() { sql "SELECT datname FROM pg_database ORDER BY 1; SELECT rolname FROM pg_roles ORDER BY 1"; }
