# The whole plan undisturbed, killed, or cut off by a loss of power; each time the machine is pictured for
# `tests/machine`, with the plan done and with everything rolled back.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"
pictures=/root/pictures
# What is here is lost with the power, but it can be looked at from outside until then.
watched=/run/kkrun-test
mkdir -p $pictures $watched
secrets=$watched/secrets
install -m 600 /dev/stdin $secrets <<<$'db_password=correct horse battery\nwebhook_secret=staple'
whole() { plan --secrets $secrets master.rhai </dev/null; }

# picture NAME: a line for everything that the plan could leave otherwise: what it is, a tab, how it is.
picture() {
    local roots=(/etc /home /var/www /usr/local /usr/share/xsessions)
    {
        find "${roots[@]}" -xdev \( -type l -printf '%p\tlink %u:%g %l\n' \) -o -printf '%p\t%y %m %u:%g\n'
        find "${roots[@]}" -xdev -type f -print0 | xargs -0 sha256sum | sed 's/^\([0-9a-f]*\)  \(.*\)/\2\tcontents \1/'
        getent passwd | sed 's/^\([^:]*\):/user \1\t/'
        getent group | sed 's/^\([^:]*\):/group \1\t/'
        units | sed 's/^\([^ ]*\) /unit \1\t/'
        systemctl list-units --type=service,socket,timer --state=active,failed --plain --no-legend |
            awk '{ printf "running %s\t%s %s\n", $1, $3, $4 }'
        ls -A /var/lib/systemd/linger 2>/dev/null | sed 's/$/\tlingers/'
        sql "SELECT 'database ' || datname || E'\t' || pg_get_userbyid(datdba) || coalesce(' ' || datacl::text, '')
            FROM pg_database"
        sql "SELECT 'role ' || rolname || E'\t' || concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb,
            rolcanlogin, rolconnlimit, rolvaliduntil, rolpassword IS NOT NULL) FROM pg_authid"
    } | LC_ALL=C sort >$pictures/$1
}

# What is held of a machine on which the plan is complete, and what of it rolled back.
judged() {
    same "complete steps" 7 "$(step_states | grep -c complete)"
    facts
    picture done
    say "pictured with the plan done"
    exits 0 plan rollback.rhai --purge all
    no_facts
    picture undone
    say "rolled back and pictured"
}

# A machine with its own life.
live() { systemctl start postgresql nginx; }

case $1 in
undisturbed)
    live
    picture base
    begun=$(date +%s%N)
    exits 0 whole
    echo $((($(date +%s%N) - begun) / 1000000)) >$pictures/milliseconds
    judged
    ;;
killed) # SECONDS
    live
    "$KKRUN" --non-interactive --yes --secrets $secrets master.rhai >$watched/said 2>&1 </dev/null &
    pid=$!
    sleep "$2"
    kill -KILL $pid 2>/dev/null || say "it had ended"
    wait $pid 2>/dev/null || true
    say "killed after: $(tail -n 1 $watched/said)"
    exits 0 whole
    judged
    ;;
cut_off)
    live
    # Everything up to here was on the disk for long.
    sync -f /
    touch $watched/began
    whole >$watched/said 2>&1 || true
    touch $watched/ended
    sleep infinity
    ;;
booted_again) # SERVICES LINGERING COMPLETE, each a list with commas
    for name in ${3//,/ }; do
        loginctl enable-linger "$name"
    done
    # As a boot does it: all at once, and what fails is no reason to stop.
    [[ -z ${2-} ]] || systemctl start ${2//,/ } || say "a unit did not start"
    if [[ -e /var/lib/kkrun/journal ]]; then step_states >$watched/states; else : >$watched/states; fi
    for step in ${4//,/ }; do
        grep -q "^ *$step .*complete" $watched/states || die "$step was said to be complete, and is not: $(<$watched/states)"
    done
    exits 0 whole
    judged
    ;;
esac
say "done"
