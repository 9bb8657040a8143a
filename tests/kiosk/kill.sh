# kkrun is killed in the middle of each step; the next run, at once, finds what was left running and completes.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

# kill_in STEP: starts the plan, waits until the step's begin is on record and a little more, and kills kkrun.
kill_in() {
    local step=$1 pause=$2 pid
    "$KKRUN" --non-interactive --yes master.rhai >/tmp/killed.log 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 3000); do
        if grep -q "\"step_started\":{\"step\":\"$step\"" /var/lib/kkrun/journal 2>/dev/null; then break; fi
        kill -0 $pid 2>/dev/null || break
        sleep 0.01
    done
    sleep "$pause"
    kill -KILL $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
}

for step in 01 02 03 04 05 06 07; do
    kill_in $step 0.3
    exits 0 plan master.rhai
    same "complete steps after a kill in $step" 7 "$(step_states | grep -c complete)"
    facts
    exits 0 plan rollback.rhai --purge all
    no_facts
    say "killed in $step, completed, rolled back"
done
exits 0 plan master.rhai
facts

say "two runs at once"
exits 0 plan reset.rhai
"$KKRUN" --non-interactive --yes master.rhai >/dev/null 2>&1 </dev/null &
first=$!
until grep -qx "$first" /var/lib/kkrun/lock; do
    kill -0 $first || die "the first run did not get the lock"
    sleep 0.01
done
status=0
second=$(plan master.rhai 2>&1 </dev/null) || status=$?
wait $first || die "the first run failed"
same "the second run's status" 3 "$status"
[[ $second == *"process $first,"* ]] || die "the first is not named: $second"
say "done"
