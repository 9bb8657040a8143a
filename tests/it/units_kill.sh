#!/usr/bin/env bash
# Kills kkrun, and the systemctl that it runs, at calls that change something: while a plan of units is run, and while
# it is rolled back. Each time the next run must reach the end that an undisturbed one reaches, and a rollback what was
# there before. Runs in a booted clone, with strace; `kill.sh NUMBER` tries so many positions of each, `all` every one.
set -euo pipefail
wanted=$1
kkrun=$(readlink "/proc/$PPID/exe")
work=/root/sweep
state=$work/state
units=/etc/systemd/system
calls=write,pwrite64,openat,fsync,fdatasync,syncfs,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,fchmod,fchown,utimensat,sendto,sendmsg
mkdir -p "$work"
cat >"$work/plan.rhai" <<'PLAN'
step::run("01", "Units", || {
    step::on_change(#{ restart: ["sweep-new.service"] }, || {
        file::write("/etc/systemd/system/sweep-new.service",
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
    });
    unit::enable("sweep-new");
    unit::start("sweep-new");
    unit::stop("sweep-on");
    unit::disable("sweep-on");
    unit::enable("sweep-off");
    unit::start("sweep-off");
    unit::stop("sweep-busy");
    unit::mask("sweep-busy");
});
PLAN

unit() {
    printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >"/usr/lib/systemd/system/sweep-$1.service"
}
reset() {
    systemctl stop 'sweep-*.service'
    find "$units" -name 'sweep-*' -delete
    rm -rf "$state"
    systemctl daemon-reload
    systemctl --quiet enable sweep-on
    systemctl start sweep-on sweep-busy
}
picture() {
    local name
    for name in new on off busy; do
        printf '%s: ' "$name"
        systemctl show --property=LoadState,ActiveState,UnitFileState,NeedDaemonReload "sweep-$name.service" | sort | paste -sd' '
    done
    find "$units" \( -name '*sweep-*' -o -name '.#*' \) -printf '%p %l %m %u\n' | sort
    cat "$units/sweep-new.service" 2>/dev/null || true
}
run() { (cd "$work" && "$kkrun" --state-dir "$state" --non-interactive "$@" </dev/null >"$work/said" 2>&1); }
plan() { run plan.rhai; }
back() { run rollback --yes --purge all; }
# The words of kkrun, traced with these options of strace.
traced() {
    local words=plan.rhai
    [[ $doing == plan ]] || words='rollback --yes --purge all'
    # shellcheck disable=SC2086 # One word for each.
    (cd "$work" && strace -f -qq -o "$work/trace" "$@" -- "$kkrun" --state-dir "$state" --non-interactive $words </dev/null >"$work/killed" 2>&1) || true
}
start() {
    reset
    [[ $doing == plan ]] || plan
}
bad() {
    printf 'BAD %s, killed at %s: %s\n' "$doing" "$position" "$1"
    sed 's/^/    killed: /' "$work/killed"
    sed 's/^/    /' "$work/said"
    failed=$((failed + 1))
}
is() { # PICTURE WHAT
    local now
    now=$(picture)
    [[ $now == "$1" ]] || bad "$2: $(diff <(printf '%s\n' "$1") <(printf '%s\n' "$now") || true)"
}

for name in on off busy; do unit "$name"; done
reset
before=$(picture)
plan
end=$(picture)
back
[[ $(picture) == "$before" ]]

tried=0 failed=0
for doing in plan back; do
    start
    traced -e "trace=$calls"
    # The K-th call of a thread: as many as the one makes that makes most.
    positions=$(awk '$2 ~ /^[a-z0-9_]+\(/ && ($2 !~ /^openat/ || /O_CREAT/) { split($2, name, "("); count[$1 " " name[1]]++ }
        END { for (key in count) { split(key, of, " "); if (count[key] > most[of[2]]) most[of[2]] = count[key] }
              for (call in most) for (k = 1; k <= most[call]; k++) print call, k }' "$work/trace" | sort -k1,1 -k2,2n)
    total=$(wc -l <<<"$positions")
    [[ $wanted == all ]] || positions=$(awk -v total="$total" -v wanted="$wanted" 'int(NR * wanted / total) > int((NR - 1) * wanted / total)' <<<"$positions")
    while read -r call k; do
        position="$call $k"
        start
        # openat of files that are there counts too: what is killed there is killed between two changes.
        traced -e "trace=$call" -e "inject=$call:signal=SIGKILL:when=$k"
        tried=$((tried + 1))
        if [[ $doing == plan ]] || back; then
            plan || bad "the next run fails"
            is "$end" "not the end state"
            back || bad "the rollback fails"
            is "$before" "not as before"
        else
            bad "the next rollback fails"
        fi
    done <<<"$positions"
    printf '%s: %s calls that can be killed at\n' "$doing" "$total"
done
printf '%s positions, %s bad\n' "$tried" "$failed"
((failed == 0))
