#!/bin/bash
# setup_production.sh - the hallway dashboard on one machine: packages, user, database, Ruby, frontend, services, kiosk.
# Usage: DB_PASSWORD=... ./setup_production.sh   (Debian 12, root, once; then reboot)
set -euo pipefail

USER_NAME=hallway
HOME_DIR=/home/$USER_NAME
APP=$HOME_DIR/Projects/hallway
SITE=/var/www/hallway/dashboard
LOGS=/var/log/hallway
DB=hallway_production

[ "$(id -u)" = 0 ] || { echo "run this as root" >&2; exit 1; }
: "${DB_PASSWORD:?set DB_PASSWORD first}"
cd /

echo "==> packages"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql nginx curl rsync jq openssl logrotate sudo \
    ruby rbenv nodejs npm lightdm xserver-xorg-core unclutter >/var/log/setup-apt.log

echo "==> user and directories"
useradd -m -s /bin/bash "$USER_NAME"
usermod -aG video,audio "$USER_NAME"
chmod 750 "$HOME_DIR"
mkdir -p "$SITE" "$LOGS" "$APP"/{backend,frontend/src} "$HOME_DIR"/{backups,.config/systemd/user}
chown "$USER_NAME:adm" "$LOGS"

echo "==> database"
systemctl enable --now postgresql
until sudo -u postgres psql -qAtc 'SELECT 1' >/dev/null 2>&1; do sleep 1; done
sudo -u postgres psql -q -v ON_ERROR_STOP=1 -c "CREATE ROLE $USER_NAME LOGIN PASSWORD '$DB_PASSWORD'"
sudo -u postgres createdb -E UTF8 -T template0 -O "$USER_NAME" "$DB"
sudo -u postgres psql -q -d "$DB" -c 'CREATE EXTENSION pg_trgm'
PGPASSWORD=$DB_PASSWORD psql -q -h localhost -U "$USER_NAME" -d "$DB" -v ON_ERROR_STOP=1 <<'SQL'
CREATE TABLE trains (id serial PRIMARY KEY, line text NOT NULL, leaves timestamptz NOT NULL);
INSERT INTO trains (line, leaves) VALUES ('R21', '2026-01-01 08:00+01');
SQL
WEBHOOK_SECRET=$(openssl rand -hex 24)
cat > "$HOME_DIR/.env" <<ENV
DATABASE_URL=postgres://$USER_NAME:$DB_PASSWORD@localhost:5432/$DB
RACK_ENV=production
PORT=3001
WEBHOOK_SECRET=$WEBHOOK_SECRET
ENV
chmod 600 "$HOME_DIR/.env"

echo "==> ruby"
cat >> "$HOME_DIR/.bashrc" <<'RC'
export PATH="$HOME/.rbenv/bin:$PATH"
eval "$(rbenv init -)"
RC
cat > "$APP/backend/server.rb" <<'RUBY'
require "socket"
server = TCPServer.new("127.0.0.1", Integer(ENV.fetch("PORT")))
loop do
  client = server.accept
  client.gets
  body = '{"ok":true}'
  client.print "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}"
  client.close
end
RUBY

echo "==> frontend"
cat > "$APP/package.json" <<'JSON'
{
  "name": "hallway",
  "version": "1.0.0",
  "private": true,
  "scripts": { "build": "node build.js" }
}
JSON
cat > "$APP/build.js" <<'JS'
const fs = require("fs");
const page = fs.readFileSync("frontend/src/index.html", "utf8");
fs.mkdirSync("frontend/dist", { recursive: true });
fs.writeFileSync("frontend/dist/index.html", page.replace("TITLE", "Hallway"));
JS
echo '<!doctype html><title>TITLE</title><p>trains</p>' > "$APP/frontend/src/index.html"
chown -R "$USER_NAME:$USER_NAME" "$HOME_DIR" /var/www/hallway
ln -sfn "$HOME_DIR/.env" "$APP/.env"
sudo -iu "$USER_NAME" bash -c "cd '$APP' && npm run --silent build"
rsync -a --delete "$APP/frontend/dist/" "$SITE/"

echo "==> services"
cat > /etc/systemd/system/hallway.service <<UNIT
[Unit]
Description=Backend of the hallway dashboard
After=network.target postgresql.service

[Service]
User=$USER_NAME
WorkingDirectory=$APP
EnvironmentFile=$HOME_DIR/.env
ExecStart=/usr/bin/ruby $APP/backend/server.rb
Restart=always
NoNewPrivileges=yes
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now hallway
cat > /etc/nginx/sites-available/hallway.conf <<NGINX
server {
    listen 80 default_server;
    server_name _;
    root $SITE;
    location / { try_files \$uri /index.html; }
    location /api { proxy_pass http://127.0.0.1:3001; }
}
NGINX
ln -sf /etc/nginx/sites-available/hallway.conf /etc/nginx/sites-enabled/
rm -f /etc/nginx/sites-enabled/default
nginx -t
systemctl enable nginx
systemctl restart nginx
printf '%s/*.log {\n    weekly\n    rotate 8\n    missingok\n    su %s adm\n}\n' "$LOGS" "$USER_NAME" > /etc/logrotate.d/hallway

echo "==> kiosk"
printf '#!/bin/sh\nunclutter -idle 0 -root &\nexec x-terminal-emulator\n' > /usr/local/bin/hallway-session
chmod +x /usr/local/bin/hallway-session
sed -i -e "s/^#\?autologin-user=.*/autologin-user=$USER_NAME/" \
    -e 's/^#\?autologin-user-timeout=.*/autologin-user-timeout=0/' /etc/lightdm/lightdm.conf
systemctl set-default graphical.target
loginctl enable-linger "$USER_NAME"
echo "==> done"
