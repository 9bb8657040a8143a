#!/usr/bin/env bash
# Handlers on a booted machine: what they make of units is recorded and put back, a user's manager that does not run has
# nothing to reload, and data that an undo inside a run meets is kept. Runs in a booted clone with nginx and PostgreSQL.
set -euo pipefail
kkrun=$(readlink "/proc/$PPID/exe")
work=/root/handlers
mkdir -p "$work"
cd "$work"
kk() { "$kkrun" --state-dir "$work/state" --non-interactive "$@" </dev/null >"$work/said" 2>&1; }
fail() {
    printf 'FAILED: %s\n' "$1"
    sed 's/^/    /' "$work/said"
    exit 1
}
ends() { # STATUS WORD...
    local wanted=$1 status=0
    shift
    kk "$@" || status=$?
    ((status == wanted)) || fail "kkrun $* ended with $status, not $wanted"
}
says() { grep -qF -- "$1" "$work/said" || fail "\`$1\` is not said"; }
never_says() { ! grep -qF -- "$1" "$work/said" || fail "\`$1\` is said"; }
is() { # STATE UNIT
    local now
    now=$(systemctl is-active "$2" || true)
    [[ $now == "$1" ]] || fail "$2 is $now, not $1"
}
nothing_pending() {
    ends 0 pending
    says 'nothing is pending'
}
forget() { rm -rf "$work/state"; }
plan() { cat >plan.rhai; }

printf '== a unit that a handler starts\n'
systemctl stop nginx
plan <<'PLAN'
step::run("01", "Site", || {
    step::on_change(#{ test: ["nginx", "-t"], run: [["systemctl", "reload-or-restart", "nginx"]] }, || {
        file::write("/etc/nginx/conf.d/more.conf", "server_tokens off;\n");
    });
});
PLAN
ends 0 plan.rhai
is active nginx
ends 0 history
says 'start nginx.service'
ends 0 rollback
is inactive nginx
nothing_pending
# A unit that was already active stays active, with the same process.
systemctl start nginx
ends 0 plan.rhai
before=$(systemctl show --value --property=MainPID nginx)
ends 0 rollback
is active nginx
[[ $(systemctl show --value --property=MainPID nginx) == "$before" ]] || fail 'nginx was restarted'
nothing_pending

printf '== a unit that a handler brings down\n'
forget
systemctl start nginx
plan <<'PLAN'
step::run("01", "Site", || {
    step::on_change(#{ run: [["systemctl", "restart", "nginx"]] }, || {
        file::write("/etc/nginx/conf.d/more.conf", "no_such_word on;\n");
    });
});
PLAN
ends 1 plan.rhai
is failed nginx
ends 0 history
says 'stop nginx.service'
ends 0 rollback
is active nginx
nothing_pending
# Mended instead, it runs, and ran before.
ends 1 plan.rhai
sed -i 's/no_such_word on/server_tokens off/' plan.rhai
ends 0 plan.rhai
is active nginx
ends 0 rollback
is active nginx
nothing_pending
sed -i '/step::on_change/s/#{/#{ test: ["nginx", "-t"],/; s/restart/reload-or-restart/' plan.rhai

printf '== the syntax error is shown, though nginx does not run\n'
systemctl stop nginx
sed -i 's/server_tokens off/no_such_word on/; s/reload-or-restart/reload/' plan.rhai
ends 1 plan.rhai
says 'unknown directive "no_such_word"'
says 'undone because of that: make /etc/nginx/conf.d/more.conf'
never_says 'cannot reload'
[[ ! -e /etc/nginx/conf.d/more.conf ]] || fail 'the bad file stays'
nothing_pending
ends 0 rollback

printf '== a misspelt unit\n'
forget
plan <<'PLAN'
step::run("01", "Site", || {
    step::on_change(#{ run: [["systemctl", "reload-or-restart", "ngnix"]] }, || file::write("/srv/site", "1\n"));
});
PLAN
ends 1 plan.rhai
says 'ngnix'
says ' pending --drop 1`'
ends 0 rollback
says 'unit ngnix.service not found'
nothing_pending
ends 1 plan.rhai
sed -i s/ngnix/nginx/ plan.rhai
ends 0 plan.rhai
is active nginx
ends 0 rollback
is inactive nginx

printf '== a unit of its own, restarted and gone\n'
forget
plan <<'PLAN'
step::run("01", "Unit", || {
    step::on_change(#{ test: ["systemd-analyze", "verify", "/etc/systemd/system/idle.service"], restart: ["idle"] }, || {
        file::write("/etc/systemd/system/idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    });
    unit::start("idle");
});
PLAN
ends 0 plan.rhai
ends 0 rollback
is inactive idle
[[ $(systemctl show --value --property=LoadState idle) == not-found ]] || fail 'the manager still knows the unit'
nothing_pending

printf '== what a handler stops and starts again\n'
forget
systemctl start nginx
plan <<'PLAN'
step::run("01", "Offline", || {
    step::on_change(#{ run: [["systemctl", "stop", "nginx"], ["cp", "/srv/offline", "/srv/used"], ["systemctl", "start", "nginx"]] }, || {
        file::write("/srv/offline", "1\n");
    });
});
PLAN
printf '0\n' >/srv/offline
ends 0 plan.rhai
is active nginx
ends 0 rollback
is active nginx
[[ $(cat /srv/used) == 0 ]] || fail 'the handler did not run after the undo'

printf '== the manager of a user that does not run\n'
forget
useradd --create-home kim
plan <<'PLAN'
step::run("01", "Screen", || {
    user::linger("kim");
    step::on_change(#{ restart: ["idle"], user: "kim" }, || {
        file::write("/home/kim/idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    });
});
PLAN
ends 0 plan.rhai
loginctl disable-linger kim
ends 78 plan.rhai --redo 01
ends 0 plan.rhai --redo 01 --on-conflict overwrite
ends 0 rollback 01
never_says 'daemon-reload'
nothing_pending
ends 0 plan.rhai --redo 01
loginctl disable-linger kim
ends 0 rollback
nothing_pending
until [[ $(systemctl is-active "user@$(id -u kim)") == inactive ]]; do sleep 0.2; done
sed -i '/user::linger/d' plan.rhai
ends 0 plan.rhai
ends 0 rollback
nothing_pending
# A user manager that runs and cannot reload is reported with its user.
loginctl enable-linger kim
until [[ -e /run/user/$(id -u kim)/systemd/private ]]; do sleep 0.2; done
sed -i 's/restart: \["idle"\]/run: [["systemctl", "--user", "restart", "none"]]/' plan.rhai
ends 1 plan.rhai
says 'systemctl --user restart none'
ends 0 rollback

printf '== a unit of a user that a login starts\n'
forget
useradd --create-home lou
runuser -u lou -- mkdir -p /home/lou/.config/systemd/user
loginctl enable-linger lou
until [[ -e /run/user/$(id -u lou)/systemd/private ]]; do sleep 0.2; done
plan <<'PLAN'
step::run("01", "Screen", || {
    file::write("/home/lou/.config/systemd/user/screen.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=default.target\n");
    unit::enable("screen.service", #{ user: "lou" });
});
PLAN
ends 0 plan.rhai
runuser -u lou -- env "XDG_RUNTIME_DIR=/run/user/$(id -u lou)" systemctl --user start screen.service
pgrep -u lou -x sleep >/dev/null || fail 'it does not run'
ends 0 rollback
! pgrep -u lou -x sleep >/dev/null || fail 'it still runs'
nothing_pending

printf '== data in what an undo inside a run meets\n'
forget
systemctl start postgresql
touch /srv/ok
plan <<'PLAN'
step::run("01", "Data", || {
    step::on_change(#{ test: ["test", "-e", "/srv/ok"], run: [["test", "-e", "/srv/go"]] }, || {
        user::ensure("kimo");
        pg::ensure_database("shop");
        pkg::install(["tree"]);
        file::make_dir("/srv/d");
        file::write("/srv/plain", "1\n");
    });
});
PLAN
ends 1 plan.rhai
rm /srv/ok
printf 'letter\n' | tee /home/kimo/letter /srv/d/letter >/dev/null
runuser -u postgres -- psql --quiet --dbname shop --command 'CREATE TABLE cats AS SELECT 1 AS id'
ends 1 plan.rhai --yes
says 'undone because of that: make /srv/plain'
for word in users databases packages homes; do says "\`--purge $word\` allows it"; done
[[ $(cat /home/kimo/letter /srv/d/letter) == $'letter\nletter' ]] || fail 'a letter is lost'
[[ $(runuser -u postgres -- psql -At --dbname shop --command 'SELECT id FROM cats') == 1 ]] || fail 'a table is lost'
command -v tree >/dev/null || fail 'the package is gone'
id kimo >/dev/null || fail 'the user is gone'
[[ ! -e /srv/plain ]] || fail 'what holds no data stays'
ends 0 pending
says 'test -e /srv/go'
ends 1 plan.rhai --yes --purge databases,homes
[[ ! -e /srv/d ]] || fail 'agreed to, it is removed'
id kimo >/dev/null || fail 'the user is gone'
touch /srv/ok /srv/go
ends 0 plan.rhai
nothing_pending
ends 0 rollback --yes --purge all
! id kimo 2>/dev/null || fail 'the user is still there'
! command -v tree >/dev/null || fail 'the package is still there'
nothing_pending
printf 'all of it holds\n'
