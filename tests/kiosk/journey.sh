# The newcomer's way with a plan of his own and kkrun's own directories, on a booted machine: rehearse, dry run, run, run
# again, break, resume, status, roll back one step, roll back all, run again. Twice: each journey begins on what the
# journey before left. It runs as root on a machine that may be changed, with kkrun and its scripts beside it.
. "$(dirname "$0")/lib.sh"

place=/root/plan
"$KKRUN" export /root/exported >/dev/null
mkdir -p $place/scripts
cp /root/exported/scripts/{status,rollback}.rhai $place/scripts/
cd $place/scripts
settings() { printf '#{ plan: "site", page: "%s" }\n' "$1" >settings.rhai; }
cat >master.rhai <<'EOF'
//! A site of one page.

const REQUIRES = #{ root: true };

step::run("01", "Account", || {
    user::ensure("kim", #{ home: "/home/kim", shell: "/bin/sh" });
});
step::run("02", "Page", || {
    file::make_dir("/srv/site", #{ owner: "kim" });
    file::write("/srv/site/page", settings::page + "\n", #{ owner: "kim" });
    config::set("/etc/default/site", "PAGE", settings::page);
    cmd::run(["sh", "-c", "echo captured >/srv/site/captured"], #{ capture: #{} });
});
step::run("03", "Service", || {
    file::write("/etc/systemd/system/site.service",
        "[Service]\nUser=kim\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
    unit::enable("site");
    unit::start("site");
});
step::run("04", "Index", || {
    cmd::run(["sh", "-c", "sleep 1; sort /srv/site/page >/srv/site/index"],
        #{ creates: "/srv/site/index", made_from: settings::page });
    step::verify("it lists the page", || file::exists("/srv/site/index"));
});
EOF

is_done() {
    same "the page" "$1" "$(cat /srv/site/page)"
    same "the index" "$1" "$(cat /srv/site/index)"
    same "its owner" kim "$(stat -c %U /srv/site/page)"
    same "the service" "enabled active" "$(systemctl is-enabled site) $(systemctl is-active site)"
    same "complete steps" 4 "$("$KKRUN" status.rhai 2>/dev/null | grep -c complete)"
}
is_undone() {
    for path in /srv/site /etc/default/site /etc/systemd/system/site.service /home/kim; do
        [[ ! -e $path ]] || die "$path is still there"
    done
    ! getent passwd kim >/dev/null || die "the user is still there"
    ! systemctl is-active --quiet site || die "the service still runs"
}
# Records of what is no more.
no_records() {
    same "records" "" "$(find /run/kkrun /var/tmp/kkrun-rehearsals -mindepth 1 ! -type d 2>/dev/null)"
}

journey() {
    local number=$1 page=$2 to_do=$3
    say "journey $number: rehearse"
    exits 0 plan rehearse master.rhai
    [[ $said == *"removing the clone"* ]] || die "it was not rehearsed: $said"
    [[ $(cat /srv/site/page 2>/dev/null) == "$before" ]] || die "the rehearsal wrote to the machine"
    no_records

    say "journey $number: dry run, run, run again"
    exits "$to_do" plan master.rhai --dry-run
    exits 0 plan master.rhai
    is_done "$before_break"
    exits 0 plan master.rhai
    [[ $said == *"not re-examined"* ]] || die "it did not skip what is done: $said"

    say "journey $number: break, resume, status"
    settings "$page"
    mount --bind /srv/site /srv/site
    mount -o remount,bind,ro /srv/site
    exits 1 plan master.rhai
    [[ $said == *"the file system is read-only"*"run \`kkrun master.rhai\` again"* ]] || die "the cause is not said: $said"
    exits 0 "$KKRUN" status.rhai
    [[ $said == *02*failed* ]] || die "status does not say that it failed: $said"
    umount /srv/site
    exits 0 plan master.rhai
    is_done "$page"

    say "journey $number: roll back one step, then all, then run again"
    exits 0 plan rollback 04 --purge all
    [[ ! -e /srv/site/index ]] || die "the product is still there"
    same "the page" "$page" "$(cat /srv/site/page)"
    exits 0 plan rollback.rhai --purge all
    is_undone
    exits 0 plan master.rhai
    is_done "$page"
    no_records
}

# A disk within a directory of the root. A clone has it, and cannot take it off.
mkdir -p /opt/data /opt/disk
mount --bind /opt/data /opt/disk
settings one
before='' before_break=one
journey 1 two 6
# As the kernel's settings are in most containers.
umount /proc/sys/net
[[ ! -w /proc/sys/net/ipv4/ip_forward ]] || die "the settings of the network can be written"
before=two before_break=two
journey 2 three 0

say "a rehearsal and a run at the same time"
exits 0 plan rollback.rhai --purge all
plan rehearse master.rhai >/tmp/rehearsal 2>&1 </dev/null &
rehearsal=$!
status=0
while kill -0 $rehearsal 2>/dev/null; do
    exits 0 plan master.rhai
    exits 0 plan rollback.rhai --purge all
done
wait $rehearsal || status=$?
same "the rehearsal" 0 "$status$(((status == 0)) || cat /tmp/rehearsal)"
exits 0 plan master.rhai
is_done three
no_records
say "done"
