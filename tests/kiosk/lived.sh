# The plan on a machine that had a life before: what works there goes on working, and what is wrong there is seen.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

line() { grep "^$1=" $home/.env; }

# What works of the operator's own goes on working, however it is written.
secrets() {
    systemctl start postgresql
    useradd --create-home --home-dir $home --shell /bin/bash $user
    sql "CREATE ROLE $user LOGIN PASSWORD 'old & one'"
    sql "CREATE DATABASE kimonokittens_production OWNER $user"
    cat >$home/.env <<END
# by hand
OTHER=stays
DATABASE_URL=postgresql://$user:old%20%26%20one@localhost:5432/kimonokittens_production
WEBHOOK_SECRET="made by hand"
NODE_ENV="production"
PORT='3001'
END
    chmod 0644 $home/.env
    cp $home/.env /tmp/env
    exits 0 plan master.rhai
    [[ $said == *"taken over from \`WEBHOOK_SECRET\`"* ]] || die "it does not say what it took over: $said"
    same "the lines that were there" "$(cat /tmp/env)" "$(head -n 6 $home/.env)"
    facts
    check "the old password" psql -XAtqc 'SELECT 1' \
        "postgresql://$user:old%20%26%20one@localhost:5432/kimonokittens_production"
    say "and after the state directory is lost"
    rm -rf /var/lib/kkrun
    cp $home/.env /tmp/env
    exits 0 plan master.rhai
    check "the settings are as they were" cmp /tmp/env $home/.env
    facts

    say "settings that others can read, of another owner"
    chown root:root $home/.env
    chmod 0644 $home/.env
    step_states | grep -q "03.*drifted.*owner and mode of $home/.env" || die "not seen: $(step_states)"
    exits 0 plan master.rhai --redo 03 --on-conflict overwrite
    facts
}

# What kkrun restarts stays up, or the step fails: each time, with the program's own words.
restarts() {
    exits 0 plan master.rhai
    local _
    for _ in 1 2; do
        exits 1 plan master.rhai ${1---set webhook_debounce_seconds=99999999}
        [[ $said == *03*"failed after"*kimonokittens-webhook.service*"last in its log"*receiver.rb* ]] ||
            die "it does not say what crashed, and why: $said"
        set -- ''
    done
    exits 0 plan master.rhai --unset webhook_debounce_seconds
    CRASHED=yes facts
}

"$1"
say "done"
