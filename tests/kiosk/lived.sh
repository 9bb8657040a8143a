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
DATABASE_URL='postgres://$user:old%20%26%20one@localhost/kimonokittens_production?connect_timeout=5'
WEBHOOK_SECRET="made by hand"
NODE_ENV="production"
PORT='3001'
END
    chmod 0644 $home/.env
    sed -i 's/^DATABASE_URL/export &/' $home/.env
    exits 1 plan master.rhai
    [[ $said == *"systemd ignores"*DATABASE_URL* && $said != *"step 03 made"* ]] ||
        die "a line that systemd ignores is not refused before anything: $said"
    [[ $said == *"taken over from \`WEBHOOK_SECRET\`"* ]] || die "it does not say what it took over: $said"
    sed -i 's/^export //' $home/.env
    cp $home/.env /tmp/env
    exits 0 plan master.rhai
    same "the lines that were there" "$(cat /tmp/env)" "$(head -n 6 $home/.env)"
    facts
    check "the old password" psql -XAtqc 'SELECT 1' \
        "postgresql://$user:old%20%26%20one@localhost:5432/kimonokittens_production"
    ! grep -rq "old%20%26%20one" /var/lib/kkrun/journal /var/lib/kkrun/logs || die "the password is in the records"
    check "nothing of the settings is left to change" plan master.rhai --redo 03 --dry-run
    say "and after the state directory is lost"
    rm -rf /var/lib/kkrun
    cp $home/.env /tmp/env
    exits 0 plan master.rhai
    check "the settings are as they were" cmp /tmp/env $home/.env
    facts
    say "a password that needs no encoding"
    sql "ALTER ROLE $user PASSWORD 'pw-by-hand_9'"
    sed -i "s,^DATABASE_URL=.*,DATABASE_URL=postgresql://$user:pw-by-hand_9@localhost:5432/kimonokittens_production," $home/.env
    systemctl restart kimonokittens-dashboard
    rm -rf /var/lib/kkrun
    cp $home/.env /tmp/env
    exits 0 plan master.rhai
    check "the settings are as they were" cmp /tmp/env $home/.env

    say "an address that means another port, with parameters"
    sed -i 's,^\(DATABASE_URL=\)\(.*\)localhost:5432/.*,\1"\2localhost:5433/kimonokittens_production?connect_timeout=5",' $home/.env
    exits 0 plan master.rhai --redo 03 --on-conflict overwrite
    [[ $(database_url) == *"@localhost:5432/kimonokittens_production?connect_timeout=5" ]] || die "$(line DATABASE_URL)"

    say "settings that others can read, of another owner"
    chown root:root $home/.env
    chmod 0644 $home/.env
    step_states | grep -q "03.*drifted.*$home/.env" || die "not seen: $(step_states)"
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

# A damaged product is made again, and a bad one never published.
site() {
    local app=$home/Projects/kimonokittens asset path
    exits 0 plan master.rhai
    asset=$(cd $site/dashboard && ls assets/*.js)

    say "damaged products"
    rm $app/frontend/dist/assets/*.js
    exits 0 plan master.rhai --redo 05 --on-conflict overwrite
    check "the script" test -s "$site/dashboard/$asset"
    check "the built script" test -s "$app/frontend/dist/$asset"
    rm -r $app/node_modules/vite $app/node_modules/.bin
    step_states | grep -q "05.*drifted" || die "not seen: $(step_states)"
    exits 0 plan master.rhai --redo 05 --on-conflict overwrite
    check "vite" as_user test -x $app/node_modules/.bin/vite
    facts_site

    say "what the build does not read, and what it reads"
    for path in README.md backend/server.rb webhook/receiver.rb; do
        cp -p $app/$path /tmp/edited
        echo >>$app/$path
        step_states | grep -q "05.*complete" || die "$path is said to be built: $(step_states)"
        cp -p /tmp/edited $app/$path
    done
    for path in frontend/src/style.css package.json; do
        cp -p $app/$path /tmp/edited
        echo >>$app/$path
        step_states | grep -q "05.*drifted" || die "$path is not seen: $(step_states)"
        cp -p /tmp/edited $app/$path
    done

    say "a changed command"
    cp -a $site/dashboard /tmp/site
    exits 0 plan master.rhai --set 'npm_build=["npx", "vite", "build", "--minify", "false"]'
    ! cmp -s /tmp/site/$asset $site/dashboard/assets/*.js || die "the assets are the old ones"
    exits 0 plan master.rhai --unset npm_build
    check "the assets" diff -r /tmp/site $site/dashboard

    say "another Node.js"
    exits 0 plan master.rhai --set node_version=20.19.0 --set npm_version=11.6.2
    same "its version" v20.19.0 "$(as_user $home/.node/20.19.0/bin/node --version)"
    same "npm's version" 11.6.2 "$(as_user env PATH=$home/.node/20.19.0/bin:/usr/bin:/bin npm --version)"
    check "the site" diff -r /tmp/site $site/dashboard
    exits 0 plan master.rhai --unset node_version --unset npm_version

    say "builds that succeed and are not good"
    exits 1 plan master.rhai --set 'npm_build=["sh", "-c", "rm -rf dist; mkdir dist"]'
    check "the old site stays" diff -r /tmp/site $site/dashboard
    exits 1 plan master.rhai --set 'npm_build=["sh", "-c", "npx vite build && rm dist/assets/*.js"]'
    check "the old site stays" diff -r /tmp/site $site/dashboard
    say "what is not installed is not downloaded"
    exits 1 plan master.rhai --set 'npm_build=["npx", "cowsay", "build"]'
    [[ -z $(find $home/.npm/_npx -name cowsay 2>/dev/null) ]] || die "npx downloaded something: $said"
    exits 0 plan master.rhai --unset npm_build
    check "the site" diff -r /tmp/site $site/dashboard

    say "a publication that fails"
    printf '\n' >>$app/frontend/src/style.css
    printf 'body { color: red }\n' >>$app/frontend/src/style.css
    chmod 0700 $site
    exits 1 plan master.rhai --redo 05
    chmod 0755 $site
    check "the old site is back" diff -r /tmp/site $site/dashboard
    exits 0 plan master.rhai
    ! diff -rq /tmp/site $site/dashboard >/dev/null || die "the new site is not published"
    facts_site
}

# A port in use is refused before anything is started, with who uses it.
ports() {
    exits 1 plan master.rhai --set webhook_port=3001
    [[ $said == *"backend_port and webhook_port are both port 3001"* ]] || die "the clash is not named: $said"
    exits 0 plan master.rhai --unset webhook_port --only 03
    exits 0 plan master.rhai --only 04
    exits 0 plan master.rhai --only 05
    local port
    for port in 80 3001 9001; do
        [[ $port != 80 ]] || systemctl stop nginx
        systemd-run --quiet --unit=squatter.service python3 -m http.server $port 2>/dev/null ||
            systemd-run --quiet --unit=squatter.service ruby -rsocket -e "TCPServer.new($port); sleep"
        for _ in $(seq 50); do [[ -z $(ss -Hlt "sport = :$port") ]] || break; sleep 0.1; done
        exits 1 plan master.rhai
        [[ $said == *"port $port is in use by "*squatter.service* ]] || die "who uses port $port is not named: $said"
        [[ ! -e /etc/systemd/system/kimonokittens-dashboard.service ]] || die "the unit was installed"
        systemctl stop squatter
    done
    exits 0 plan master.rhai
    facts
}

# Owners that others changed are seen, each is named, and put right.
owners() {
    local files=(/etc/systemd/system/kimonokittens-dashboard.service /etc/nginx/sites-available/kimonokittens.conf
        /etc/logrotate.d/kimonokittens) path states
    local screen=(/usr/local/bin/kimonokittens-session /usr/share/xsessions/kimonokittens.desktop)
    exits 0 plan master.rhai
    chown www-data:www-data "${files[@]}" "${screen[@]}"
    systemctl --quiet disable kimonokittens-webhook
    states=$(step_states)
    for path in "${files[@]}" kimonokittens-webhook; do
        grep "06.*drifted" <<<"$states" | grep -qF $path || die "$path is not named: $states"
    done
    for path in "${screen[@]}"; do
        grep "07.*drifted" <<<"$states" | grep -qF $path || die "$path is not named: $states"
    done
    exits 0 plan master.rhai --redo 06,07 --on-conflict overwrite
    for path in "${files[@]}" "${screen[@]}"; do
        same "owner of $path" root:root "$(stat -c %U:%G $path)"
    done
    facts
}

# The kiosk's screen: the user's service manager, its units, and who is logged in.
screen() {
    exits 0 plan master.rhai
    local id number
    id=$(id -u $user)
    say "the service manager, again and again"
    for number in $(seq 10); do
        exits 0 plan rollback 07 --purge all
        exits 0 plan master.rhai --redo 07
        same "the manager in round $number" active "$(systemctl is-active user@$id)"
    done
    systemctl stop user@$id
    step_states | grep -q "07.*drifted.*service manager" || die "not seen: $(step_states)"
    exits 0 plan master.rhai --redo 07
    same "the manager" active "$(systemctl is-active user@$id)"
    facts

    say "a key that systemd ignores"
    sed -i 's/^\[Service\]/[Service]\nStartLimitIntervalSec=5/' $home/.config/systemd/user/kimonokittens-session.target \
        $home/.config/systemd/user/kimonokittens-kiosk.service
    exits 1 plan master.rhai --redo 07 --on-conflict keep
    [[ $said == *StartLimitIntervalSec* ]] || die "it is not named: $said"
    exits 0 plan master.rhai --redo 07 --on-conflict overwrite

    say "another user at the seat"
    printf '[Seat:seat0]\nautologin-user=other\n' >>/etc/lightdm/lightdm.conf
    step_states | grep -q "07.*drifted.*autologin-user is other in \[Seat:seat0\]" || die "not seen: $(step_states)"
    exits 1 plan master.rhai --redo 07 --on-conflict overwrite
    sed -i '/^\[Seat:seat0\]/,$d' /etc/lightdm/lightdm.conf
    exits 0 plan master.rhai --redo 07
    facts
}

# PostgreSQL's clusters, a schema of another role, and an rbenv that another user left half made.
clusters() {
    local conf=/etc/postgresql/15/main/start.conf
    say "a cluster that is started by hand, and an older one on its port"
    pg_createcluster 15 early >/dev/null
    sed -i 's/^port = .*/port = 5432/' /etc/postgresql/15/early/postgresql.conf
    sed -i 's/^auto/manual/' $conf /etc/postgresql/15/early/start.conf
    exits 1 plan master.rhai
    [[ $said == *"2 PostgreSQL clusters are set to port 5432"* ]] || die "the clash is not named: $said"
    pg_ctlcluster 15 main start
    same "the unit of all clusters" inactive "$(systemctl is-active postgresql)"
    mkdir -p /root/half/versions/x && touch /root/half/versions/x/made
    cp -r /root/half $home/.rbenv
    exits 0 plan master.rhai
    same "root's in the user's rbenv" "" "$(find $home/.rbenv ! -user $user)"
    same "the cluster at boot" auto "$(grep '^[a-z]' $conf)"
    systemctl daemon-reload
    systemctl list-dependencies --plain postgresql.service | grep -q postgresql@15-main || die "it is not started at boot"
    same "the other one" down "$(pg_lsclusters --no-header | awk '$2 == "early" { print $4 }')"

    say "a schema of another role"
    sql "CREATE ROLE other"
    sql "ALTER SCHEMA public OWNER TO other" kimonokittens_production
    step_states | grep -q "03.*drifted.*belongs to other" || die "not seen: $(step_states)"
    sql "ALTER SCHEMA public OWNER TO pg_database_owner" kimonokittens_production

    say "a Ruby that is unknown"
    exits 1 plan master.rhai --set ruby_version=9.9.9
    [[ $said == *"set ruby_definition"* ]] || die "no way on: $said"
    exits 0 plan master.rhai --unset ruby_version
    facts

    say "rolled back, the cluster that ran before still runs"
    exits 0 plan rollback.rhai --purge all
    no_facts
    same "the cluster" active "$(systemctl is-active postgresql@15-main)"
    same "the unit of all clusters" inactive "$(systemctl is-active postgresql)"
    same "the cluster at boot" manual "$(grep '^[a-z]' $conf)"
    check "its databases" sql "SELECT 1"
}

# A user who was there before keeps the primary group, and what is made for the user belongs to it.
group() {
    useradd --create-home --home-dir $home --gid users --shell /bin/bash $user
    exits 0 plan master.rhai
    local path
    for path in $site $site/dashboard $home/Projects/kimonokittens $home/.env $home/.rbenv \
        $home/.config/systemd/user/kimonokittens-kiosk.service; do
        same "owner of $path" $user:users "$(stat -c %U:%G $path)"
    done
    same "the group of the backend" users "$(systemctl show -p Group --value kimonokittens-dashboard)"
    facts_database
    facts_site
    facts_services
    facts_kiosk
    exits 0 plan master.rhai --dry-run
    exits 0 plan rollback.rhai --purge all
    same "the user" users "$(id -gn $user)"
}

"$1"
say "done"
