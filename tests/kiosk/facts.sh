# The facts that the seven steps must make true and that no step verifies itself, looked at from outside of kkrun. What a
# step verifies (packages, Ruby, gems, listening units, the page's headers) holds when its run ended well.

facts() {
    facts_user && facts_database && facts_site && facts_services && facts_kiosk
}

facts_user() {
    same "shell" /bin/bash "$(getent passwd $user | cut -d: -f7)"
    same "home's owner" $user "$(stat -c %U $home)"
    same "site" "755 $user $user" "$(stat -c '%a %U %G' $site)"
    same "web root" "755 $user $user" "$(stat -c '%a %U %G' $site/dashboard)"
    same "logs" "755 $user adm" "$(stat -c '%a %U %G' /var/log/kimonokittens)"
    local name
    for name in Projects backups .config .config/systemd/user .local/share/applications Projects/kimonokittens; do
        same "$name" "directory $user" "$(stat -c '%F %U' $home/$name)"
    done
}

facts_database() {
    same "the settings' address creates a table" ok "$(psql -XAtq "$(database_url)" \
        -c 'BEGIN' -c 'CREATE TABLE probe (n int)' -c "SELECT 'ok'" -c 'ROLLBACK')"
    local key
    for key in DATABASE_URL API_BASE_URL WEBHOOK_SECRET; do
        check "$key" grep -q "^$key=..*" $home/.env
    done
    for key in NODE_ENV=production RACK_ENV=production ENABLE_BROADCASTER=1 WEBHOOK_DEBOUNCE_SECONDS=120; do
        check "$key" grep -qx "${key%%=*}=[\"']\?${key#*=}[\"']\?" $home/.env
    done
    same "the project's .env" $home/.env "$(readlink -f $home/Projects/kimonokittens/.env)"
}

facts_site() {
    local page asset
    page=$(curl -fsS http://localhost/)
    [[ $page == *Kimonokittens* ]] || die "the page: $page"
    asset=$(grep -o '/assets/[^"]*\.js' <<<"$page" | head -n 1)
    check "an asset is cached for a year" grep -qi 'cache-control:.*max-age=31536000' <(curl -fsSI "http://localhost$asset")
    [[ ! -e /etc/nginx/sites-enabled/default ]] || die "the stock site is still enabled"
}

facts_services() {
    local unit property
    for unit in kimonokittens-dashboard kimonokittens-webhook; do
        same "$unit" enabled "$(systemctl is-enabled $unit)"
        for property in NoNewPrivileges=yes PrivateTmp=yes PrivateDevices=yes ProtectSystem=strict ProtectHome=read-only \
            ProtectControlGroups=yes ProtectKernelModules=yes ProtectKernelTunables=yes Restart=always RestartUSec=10s User=$user; do
            same "$unit" "$property" "$(systemctl show -p "${property%%=*}" $unit)"
        done
        [[ ${CRASHED-} ]] || same "$unit crashed" "NRestarts=0" "$(systemctl show -p NRestarts $unit)"
    done
    same "health is of a real query" "ok ok" "$(curl -fsS http://localhost/api/health | jq -r '.status + " " + .database')"
    [[ $(curl -fsS http://localhost/api/cats | jq '.cats | length') -gt 0 ]] || die "no cats"
    facts_websocket /dashboard/ws
    facts_websocket /ws
    local body='{"ref":"refs/heads/main"}' secret signature
    secret=$(sed -n 's/^WEBHOOK_SECRET=//p' $home/.env | tr -d "'\"")
    signature=$(printf %s "$body" | openssl dgst -sha256 -hmac "$secret" -r | cut -d' ' -f1)
    same "signed" 202 "$(curl -sS -o /dev/null -w '%{http_code}' -d "$body" -H "X-Hub-Signature-256: sha256=$signature" \
        http://localhost/webhook)"
    same "the webhook's health" OK "$(curl -fsS http://localhost:9001/health)"
}

facts_websocket() {
    local answer
    answer=$(curl -sS -i -N --max-time 3 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H 'Sec-WebSocket-Key: a2tydW4ga2tydW4ga2tydQ==' "http://localhost$1" 2>/dev/null | tr -d '\0' || true)
    [[ $answer == HTTP/1.1\ 101* ]] || die "WebSocket $1: ${answer:0:200}"
    [[ $answer == *cats* ]] || die "WebSocket $1 sent no data: ${answer:0:300}"
}

facts_kiosk() {
    local shown
    shown=$(lightdm --show-config 2>&1)
    check "at once" grep -q "autologin-user-timeout=0" <<<"$shown"
    check "the browser's flags" grep -q -- '--kiosk' $home/.config/systemd/user/kimonokittens-kiosk.service
}

# What a rollback of everything must leave of the facts: none.
no_facts() {
    ! getent passwd $user >/dev/null || die "the user is still there"
    local path
    for path in $home $site /var/log/kimonokittens /etc/systemd/system/kimonokittens-dashboard.service \
        /etc/systemd/system/kimonokittens-webhook.service /etc/nginx/sites-enabled/kimonokittens.conf \
        /etc/nginx/sites-available/kimonokittens.conf /etc/logrotate.d/kimonokittens /var/lib/systemd/linger/$user; do
        [[ ! -e $path && ! -L $path ]] || die "$path is still there"
    done
    same "dangling links" "" "$(find /etc/systemd /etc/nginx -xtype l -name '*kimono*')"
    if command -v lightdm >/dev/null; then
        ! lightdm --show-config 2>&1 | grep -q "autologin-user=$user" || die "autologin is still on"
    fi
}
