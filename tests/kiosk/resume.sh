# Each of the seven steps fails for a real cause, says so, and the next run goes on there.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

# fails STEP NAMED...: the run ends with 1 at that step, and names these.
fails() {
    local step=$1 part
    shift
    exits 1 plan master.rhai
    [[ $said == *"$step"*"failed after"* ]] || die "step $step did not fail: $said"
    for part in "$@" "kkrun log $step" "run \`kkrun master.rhai\` again"; do
        [[ $said == *"$part"* ]] || die "step $step does not say «$part»: $said"
    done
    step_states | grep -q "$step.*failed" || die "status does not say that $step failed: $(step_states)"
    say "step $step failed as it should: $(grep -m1 '^error' <<<"$said")"
}

say "01: a package without a candidate"
exits 1 plan master.rhai --set 'packages=["no-such-package-anywhere"]'
[[ $said == *no-such-package-anywhere* ]] || die "it is not named: $said"
exits 0 plan master.rhai --unset packages --only 01

say "02: no space where the checkout goes"
mount -t tmpfs -o size=64k,mode=755 none /home
fails 02 "space"
# With both named, mount(8) adds no options of its own: those of owners have other numbers inside a clone.
mount -t tmpfs -o remount,size=3g none /home

say "03: PostgreSQL cannot start"
mv /etc/postgresql/15/main/postgresql.conf /etc/postgresql/15/main/postgresql.conf.away
systemctl stop postgresql@15-main 2>/dev/null || true
fails 03
mv /etc/postgresql/15/main/postgresql.conf.away /etc/postgresql/15/main/postgresql.conf

say "04: a broken lock file of gems"
exits 0 plan master.rhai --only 03
app=$home/Projects/kimonokittens
cp -p $app/Gemfile.lock /tmp/Gemfile.lock
sed -i 's/^    pg (.*/    pg (99.9.9)/' $app/Gemfile.lock
fails 04 "bundle install"
cp -p /tmp/Gemfile.lock $app/Gemfile.lock

say "05: a broken lock file of npm"
cp -p $app/package-lock.json /tmp/package-lock.json
echo '{ "broken": ' >$app/package-lock.json
fails 05 "npm packages"
cp -p /tmp/package-lock.json $app/package-lock.json

say "06: a unit that crashes"
cp -p $app/backend/server.rb /tmp/server.rb
echo 'abort "no luck today"' >$app/backend/server.rb
fails 06
cp -p /tmp/server.rb $app/backend/server.rb

say "06: nginx does not accept its configuration"
echo 'nonsense;' >/etc/nginx/conf.d/broken.conf
exits 1 plan master.rhai
rm /etc/nginx/conf.d/broken.conf

say "07: no session to choose"
chattr +i /usr/share/xsessions 2>/dev/null || mount --bind -o ro,nodev /usr/share/xsessions /usr/share/xsessions
exits 1 plan master.rhai
[[ $said == *07*"failed after"* ]] || die "step 07 did not fail: $said"
chattr -i /usr/share/xsessions 2>/dev/null || umount /usr/share/xsessions

say "the causes are gone"
exits 0 plan master.rhai
[[ $said == *"not re-examined"* ]] || die "it did not skip what is done: $said"
CRASHED=yes facts
say "done"
