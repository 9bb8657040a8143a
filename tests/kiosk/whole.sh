# The plan from nothing to done, again, forgotten and done again, rolled back in part and whole, and once more.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

# A machine with its own life: its web server and database run, so they shall run afterwards.
systemctl start postgresql nginx

say "a dry run never fails and writes nothing"
contents >/tmp/pristine
exits 6 plan master.rhai --dry-run
[[ $said == *"might run migration"* ]] || die "it pretends to know everything: $said"
[[ ! -e /var/lib/kkrun ]] || die "the dry run made a state directory"
contents | check "unchanged" diff /tmp/pristine -

say "the plan"
exits 0 plan master.rhai
printf '%s\n' "$said" | tail -n 12
facts

say "a second run changes nothing"
snapshot >/tmp/before
records=$(journal_records)
started=$(systemctl show -p ActiveEnterTimestampMonotonic kimonokittens-dashboard kimonokittens-webhook nginx postgresql@15-main)
begun=$(date +%s%N)
exits 0 plan master.rhai
elapsed=$((($(date +%s%N) - begun) / 1000000))
snapshot | check "files" diff /tmp/before -
same "records" "$records" "$(journal_records)"
same "restarts" "$started" \
    "$(systemctl show -p ActiveEnterTimestampMonotonic kimonokittens-dashboard kimonokittens-webhook nginx postgresql@15-main)"
((elapsed < 1000)) || die "it took $elapsed ms"
say "the second run took $elapsed ms"
exits 0 plan master.rhai --dry-run

say "status"
same "complete steps" 7 "$(step_states | grep -c complete)"
runuser -u postgres -- psql -XAtqc "ALTER ROLE kimonokittens NOLOGIN"
step_states | grep -q "03.*drifted" || die "status does not see the drift: $(step_states)"
exits 0 plan master.rhai --redo 03 --on-conflict overwrite
same "complete steps" 7 "$(step_states | grep -c complete)"

say "an override makes its steps stale, is used and remembered"
step_states >/dev/null
exits 2 plan master.rhai --set webhook_prot=1
exits 2 plan master.rhai --set webhook_port=many
exits 0 plan master.rhai --set webhook_port=49123
same "health" OK "$(curl -fsS http://localhost:49123/health)"
exits 0 plan master.rhai
[[ $said == *"webhook_port = 49123"* ]] || die "the override is not shown: $said"
exits 0 plan master.rhai --unset webhook_port
same "health" OK "$(curl -fsS http://localhost:9001/health)"
facts

say "reset forgets progress; a run looks at everything and changes nothing"
snapshot >/tmp/before
exits 0 plan reset.rhai
exits 0 plan master.rhai
snapshot | check "files" diff /tmp/before -

say "a rollback keeps data unless it is agreed to"
exits 6 plan rollback.rhai --dry-run
snapshot | check "the preview changed nothing" diff /tmp/before -
exits 0 plan rollback.rhai
[[ $said == *kept* ]] || die "nothing was kept: $said"
getent passwd $user >/dev/null || die "the user was removed without a word"
same "the database" 1 "$(sql "SELECT count(*) FROM pg_database WHERE datname = 'kimonokittens_production'")"
[[ ! -e /etc/nginx/sites-enabled/kimonokittens.conf ]] || die "the site is still there"
[[ $(curl -fsS http://localhost/) == *"Welcome to nginx"* ]] || die "nginx's stock site is not served"

say "and once more, whole"
exits 0 plan master.rhai
facts
exits 0 plan rollback.rhai --purge all
no_facts
exits 0 plan rollback.rhai --purge all
exits 0 plan master.rhai
facts
say "done"
