#!/bin/sh
# The kiosk's X session: gives the display to the user's systemd, which runs the browser for as long as this lasts.

export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"

xset s off s noblank -dpms
matchbox-window-manager -use_titlebar no -use_cursor no &
unclutter -idle 0 -root &

leave() {
    systemctl --user stop graphical-session.target
}
trap leave EXIT
trap 'exit 0' HUP INT TERM

# A session that was killed left its own: the user's systemd outlives it.
leave
systemctl --user reset-failed '{{kiosk_unit}}' 2>/dev/null
systemctl --user import-environment DISPLAY XAUTHORITY
systemctl --user start '{{session_target}}'

sleep infinity &
wait
