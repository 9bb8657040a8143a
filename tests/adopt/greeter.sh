#!/bin/bash
# greeter.sh - a small server that greets: a package, a user, a service, two edits. Run it once, as root.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
GREETER=greeter
HOME_OF=/home/$GREETER

echo "==> packages"
apt-get -qq update
apt-get -qq -y install --no-install-recommends jq > /var/log/greeter-apt.log

echo "==> user"
useradd -m -s /bin/bash "$GREETER"
usermod -aG video "$GREETER"
mkdir -p "$HOME_OF/out"
chown "$GREETER:" "$HOME_OF/out"
chmod 750 "$HOME_OF/out"

echo "==> settings"
echo '{"greeting": "hello"}' > /etc/greeter.json
cat > /etc/sysctl.d/60-greeter.conf <<X
vm.swappiness = 10
fs.inotify.max_user_watches = 65536
net.ipv4.tcp_syncookies = 1
X
sed -i 's/^UMASK.*/UMASK\t\t027/' /etc/login.defs
echo 'alias greet="cat ~/out/greeting"' >> /root/.bashrc
ln -s /etc/greeter.json /home/greeter/settings

echo "==> service"
unit() {
    cat > "/etc/systemd/system/$1.service" <<X
[Unit]
Description=Greets

[Service]
User=$GREETER
ExecStart=/bin/sh -c 'jq -r .greeting /etc/greeter.json >%h/out/greeting; exec sleep infinity'

[Install]
WantedBy=multi-user.target
X
}
unit greeter
systemctl daemon-reload
systemctl enable --now greeter
echo "==> done"
