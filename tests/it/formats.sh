# What `config::` sets is what the program reads, in the files that Debian ships, and a rollback restores them to the byte.
# Run in a booted clone that reaches Debian's archive.
set -euo pipefail
kkrun=${kkrun-$(readlink "/proc/$PPID/exe")}
export DEBIAN_FRONTEND=noninteractive
mkdir -p /root/formats && cd /root/formats
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 0755 /usr/sbin/policy-rc.d
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends adduser chrony dnsmasq-base fail2ban git lightdm mariadb-client-core php-fpm postgresql \
    procps python3-gi redis-server samba-common-bin supervisor wireguard-tools >said 2>&1 || { cat said; exit 1; }
rm /usr/sbin/policy-rc.d

kk() { "$kkrun" --state-dir /root/formats/state --yes --non-interactive "$@" >said 2>&1; }
fail() { echo "FAILED: $*"; cat said; exit 1; }
is() { [[ $2 == "$3" ]] || fail "$1: expected \`$2\`, found \`$3\`"; }
has() { grep -qxF -- "$2" "$1" || { grep -nF -- "${2%%=*}" "$1"; fail "no line \`$2\` in $1"; }; }

fail2ban=/etc/fail2ban/jail.conf jail=/etc/fail2ban/jail.d/defaults-debian.conf supervisor=/etc/supervisor/supervisord.conf samba=/etc/samba/smb.conf mysql=/etc/mysql/mariadb.cnf
postgresql=$(echo /etc/postgresql/*/main/postgresql.conf) sysctl=/etc/sysctl.d/90-ours.conf git=/root/.gitconfig
php=$(echo /etc/php/*/fpm/php.ini) pool=$(echo /etc/php/*/fpm/pool.d/www.conf) redis=/etc/redis/redis.conf
dnsmasq=/etc/dnsmasq.conf chrony=/etc/chrony/chrony.conf lightdm=/etc/lightdm/lightdm.conf wireguard=/etc/wireguard/wg0.conf
adduser=/etc/adduser.conf
sed -i 's/^\[global\]$/[GLOBAL]/; s/^   workgroup = .*/   Work Group = OLD \\\n      NAME/' $samba
printf '[mysqld]\nbind_address = 127.0.0.1 # local\nskip-name-resolve\nsql_mode = "ANSI # x" # why\n!includedir /etc/mysql/conf.d/\n' >$mysql
printf 'net/ipv4/ip_forward = 0\n-net.ipv4.conf.lo.rp_filter = 2\nnet/ipv4/conf/lo/forwarding = 0\nvm.swappiness = 1\nvm.swappiness = 60\n' >$sysctl
printf '[User]\n\tName = kim ; me\n\temail = kim@example.org\n[core]\n\tEditor = vi \\\n\t -n\n\tbare\n[remote "Origin"]\n\turl = a\n' >$git
printf 'shared_buffers 64MB   # as text\nPORT = 5439   # the last counts\n' >>$postgresql
printf 'PORT 7001\nmaxmemory 10mb\n' >>$redis
printf 'port=5353 # ours\nbogus-priv # why\n' >>$dnsmasq
printf 'MaxUpdateSkew 50.0\n' >>$chrony; sed -i '/^maxupdateskew/d' $chrony
printf '[Seat:*]\nautologin-user=kim;x # x\n' >>$lightdm
printf '[interface]\nPrivateKey = x # secret\nlistenport = 1 # one\n[Peer]\nPublicKey = y\n' >$wireguard
printf 'First_UID=1500\n' >>$adduser
files=($fail2ban $jail $supervisor $samba $mysql $postgresql $sysctl $git $php $pool $redis $dnsmasq $chrony $lightdm $wireguard $adduser)
mkdir before after; cp --parents "${files[@]}" before

cat >plan.rhai <<END
const REQUIRES = #{ root: true };
fn same(what, expected, found) { if expected != found { throw what + ": " + found; } }
step::run("01", "Formats", || {
    config::set("$fail2ban", "action_mw", "%(action_)s", #{ section: "DEFAULT" });
    config::set("$fail2ban", "bantime", "2h", #{ section: "DEFAULT" });
    config::remove("$fail2ban", "action_mwl", #{ section: "DEFAULT" });
    config::set("$fail2ban", "MaxRetry", 7, #{ section: "DEFAULT" });
    config::set("$jail", #{ backend: "polling", logpath: "/etc/hostname", action: "%(action_mw)s" }, #{ section: "sshd" });
    config::set("$supervisor", "LogFile", "/var/log/supervisor/ours.log", #{ section: "supervisord" });
    config::set("$supervisor", "minfds", 1024, #{ section: "supervisord" });
    config::set("$samba", "workgroup", "KIOSK", #{ section: "global" });
    config::set("$samba", "server string", "a # b", #{ section: "Global" });
    config::set("$samba", "path", "/srv", #{ section: "our share" });
    config::set("$mysql", #{ "bind-address": "0.0.0.0", "skip_name_resolve": 1, "sql-mode": "TRADITIONAL", "max-connections": 50 }, #{ section: "mysqld" });
    config::set("$postgresql", #{ port: 5440, shared_buffers: "32MB", listen_addresses: "'*'", cluster_name: "'it''s # one'" });
    config::comment("$postgresql", "datestyle");
    config::set("$sysctl", #{ "net.ipv4.ip_forward": 1, "net.ipv4.conf.lo.rp_filter": 0, "net.ipv4.conf.lo.forwarding": 1, "vm.swappiness": 10 });
    config::set("$git", "name", "Kim", #{ section: "user" });
    config::set("$git", #{ editor: "nano", bare: false }, #{ section: "core" });
    config::set("$git", "URL", "b", #{ section: "Remote \"Origin\"" });
    config::set("$php", #{ memory_limit: "300M", "opcache.enable": 1, error_log: "/var/log/php # x" });
    config::set("$pool", #{ "pm.max_children": 9, "php_admin_value[memory_limit]": "64M" }, #{ section: "www" });
    config::set("$redis", #{ port: 7002, MaxMemory: "20mb" });
    config::set("$dnsmasq", "port", 5354);
    config::comment("$dnsmasq", "bogus-priv");
    config::set("$chrony", "maxupdateskew", 75);
    config::set("$chrony", "rtcsync", "");
    config::set("$lightdm", "autologin-user", "guest", #{ section: "Seat:*" });
    config::set("$wireguard", "ListenPort", 51820, #{ section: "Interface" });
    config::set("$adduser", "FIRST_UID", 2000);
    same("postgresql", "5440", config::get("$postgresql", "Port"));
    same("supervisor", "/var/run/supervisord.pid", config::get("$supervisor", "pidfile", #{ section: "supervisord" }));
});
END
kk plan.rhai || fail "the plan"
cp --parents "${files[@]}" after

grep -q '^action_mw = %(action_)s$' $fail2ban && ! grep -q -- '-whois\[sender' $fail2ban || fail "$fail2ban"
fail2ban-client -d >jails 2>&1 || fail fail2ban
is fail2ban "['set', 'sshd', 'maxretry', 7] ['set', 'sshd', 'bantime', '2h'] ['set', 'sshd', 'addaction', 'iptables-multiport']" \
    "$(grep -E 'addaction|bantime|maxretry' jails | paste -sd' ')"
has $supervisor 'logfile=/var/log/supervisor/ours.log ; (main log file;default $CWD/supervisord.log)'
supervisord -c $supervisor || fail supervisord
for _ in {1..50}; do supervisorctl pid >/dev/null 2>&1 && break; sleep 0.1; done
[[ -s /var/log/supervisor/ours.log ]] || fail "supervisord's log"
supervisorctl shutdown >/dev/null
is samba KIOSK "$(testparm -s --parameter-name=workgroup $samba 2>/dev/null)"
is samba 'a # b' "$(testparm -s --parameter-name='server string' $samba 2>/dev/null)"
is samba /srv "$(testparm -s --section-name='our share' --parameter-name=path $samba 2>/dev/null)"
is 'sections of samba' 1 "$(grep -ci '^\[global\]' $samba)"
has $mysql 'bind_address = 0.0.0.0 # local'
is mysql '--bind_address=0.0.0.0 --skip-name-resolve=1 --sql_mode=TRADITIONAL --max-connections=50' \
    "$(my_print_defaults --defaults-file=$mysql mysqld | grep -E 'address|resolve|mode|connections' | xargs)"
has $postgresql 'shared_buffers 32MB   # as text'
has $postgresql 'PORT = 5440   # the last counts'
has $postgresql 'port = 5432				# (change requires restart)'
server=$(echo /usr/lib/postgresql/*/bin/postgres)
asked() { cd /; setpriv --reuid postgres --regid postgres --clear-groups "$server" -C "$1" -D "${postgresql%/*}"; }
is postgresql "5440 4096 * it's # one" "$(asked port) $(asked shared_buffers) $(asked listen_addresses) $(asked cluster_name)"
is sysctl 'net.ipv4.ip_forward = 1 net.ipv4.conf.lo.rp_filter = 0 net.ipv4.conf.lo.forwarding = 1 vm.swappiness = 1 vm.swappiness = 10' \
    "$(sysctl --dry-run -p $sysctl 2>&1 | xargs)"
is git 'Kim nano false b' "$(git config -f $git user.name) $(git config -f $git core.editor) $(git config -f $git core.bare) $(git config -f $git remote.Origin.url)"
is 'lines of git' 1 "$(grep -ci '^.url' $git)"
is php '300M|1|/var/log/php # x' "$(php -n -c $php -r 'echo ini_get("memory_limit"), "|", get_cfg_var("opcache.enable"), "|", ini_get("error_log");')"
is 'lines of php' 1 "$(grep -c '^memory_limit' $php)"
$(echo /usr/sbin/php-fpm[0-9]*) -tt >pools 2>&1 || fail "php-fpm"
grep -q 'pm.max_children = 9' pools && grep -q 'php_admin_value\[memory_limit\] = 64M' pools || fail "$pool"
redis-server $redis --daemonize no --logfile '' --dir /tmp >redis.log 2>&1 & redis_server=$!
for _ in {1..50}; do redis-cli -p 7002 ping >/dev/null 2>&1 && break; sleep 0.1; done
is redis 20971520 "$(redis-cli -p 7002 config get maxmemory | tail -1)"
kill $redis_server
has $dnsmasq 'port=5354 # ours'
has $dnsmasq '#bogus-priv # why'
dnsmasq --test -C $dnsmasq 2>/dev/null || fail dnsmasq
chronyd -p -f $chrony >chrony 2>/dev/null || fail chrony
has chrony 'MaxUpdateSkew 75'
has chrony rtcsync
lightdm --show-config 2>&1 | grep -q 'autologin-user=guest$' || fail "$lightdm"
has $wireguard 'listenport = 51820 # one'
adduser --quiet --disabled-password --gecos '' --no-create-home ours >said 2>&1 || fail adduser
is adduser 2000 "$(id -u ours)"

kk plan.rhai --redo 01 || fail "again"
grep -q '0 changes' said || fail "the second run changed something"
for file in "${files[@]}"; do cmp "$file" "after$file" || fail "$file after the second run"; done
kk rollback || fail rollback
for file in "${files[@]}"; do cmp "$file" "before$file" || fail "$file after the rollback"; done

# Every value of fail2ban's own files is read as Python reads it.
python3 - >values.json <<'END'
import configparser, glob, json
values = []
for file in glob.glob("/etc/fail2ban/**/*.conf", recursive=True):
    read = configparser.RawConfigParser(inline_comment_prefixes=";")
    read.read(file)
    sections = {"DEFAULT": read.defaults(), **{name: read._sections[name] for name in read.sections()}}
    values += [[file, name, key, value] for name, section in sections.items() for key, value in section.items()]
assert len(values) > 1000
print(json.dumps(values))
END
cat >plan.rhai <<'END'
for row in text::json_parse(file::read("/root/formats/values.json")) {
    let found = config::get(row[0], row[2], #{ section: row[1] });
    if found != row[3] { throw `${row}: ${found}`; }
    if !found.contains("\n") { config::set(row[0], row[2], found, #{ section: row[1] }); }
}
END
kk plan.rhai || fail "the values of fail2ban"

# What a program cannot read is refused, and so is no other value: the file is written by hand as well, and the program asked.
cat >values.py <<'END'
import configparser, sys
from gi.repository import GLib
from supervisor.options import expand
format, value = sys.argv[1:]
if format == "keyfile":
    file, text = GLib.KeyFile(), f"[s]\nk={value}\n"
    file.load_from_data(text, len(text), GLib.KeyFileFlags.NONE)
    file.get_string("s", "k")
elif format == "fail2ban":
    parser = configparser.ConfigParser()
    parser.read_string(f"[DEFAULT]\na = 1\nk = {value}\n")
    parser["DEFAULT"]["k"]
else:
    expand(value, {"a": 1}, "k")
END
reads() { # FORMAT VALUE
    case $1 in
        git) printf '[s]\nk = %s\n' "$2" >asked; git config -f asked s.k ;;
        redis) printf 'port 0\nrequirepass %s\n' "$2" >asked; redis-server asked >started 2>&1 || true; ! grep 'FATAL CONFIG FILE ERROR' started ;;
        dnsmasq) printf 'txt-record=%s\n' "$2" >asked; dnsmasq --test -C asked ;;
        php) printf 'k = %s\nlast = ok\n' "$2" >asked; [[ $(php -n -c asked -r 'echo get_cfg_var("last");') == ok ]] ;;
        *) /usr/bin/python3 values.py "$1" "$2" ;;
    esac >asked.log 2>&1
}
while IFS=' ' read -r format is value; do
    case $format in redis) key=requirepass options=;; dnsmasq) key=txt-record options=;; php) key=k options=;; *) key=k options=', section: "s"' ;; esac
    printf '%s' "$value" >value
    echo "config::set(\"/root/formats/new\", \"$key\", file::read(\"/root/formats/value\"), #{ format: \"$format\"$options });" >plan.rhai
    if [[ $is == + ]]; then
        reads "$format" "$value" || { mv asked.log said; fail "not read by $format: $value"; }
        kk plan.rhai --dry-run </dev/null || [[ $? == 6 ]] || fail "refused for $format: $value"
    else
        ! reads "$format" "$value" || fail "read by $format: $value"
        ! kk plan.rhai --dry-run </dev/null && grep -q "invalid value of \`$key\`: " said || fail "not refused for $format: $value"
    fi
done <<'END'
git - a"b
git - C:\x
git + C:\\x
git + a\"b
redis - it's
redis - a b
redis - "a"b
redis + "it's"
redis + a"b c"
dnsmasq - x,"a
dnsmasq - x,a\"b
dnsmasq + x,"a\"b"
dnsmasq + x,it's
php - tcp://127.0.0.1:6379?auth=abc
php - a(b
php - it's
php - a$
php + "tcp://127.0.0.1:6379?auth=abc"
php + E_ALL & ~(E_NOTICE | E_STRICT)
php + a{b}[c]
supervisor - PW="100%"
supervisor - %(a)
supervisor + PW="100%%"
supervisor + %(a)02d
fail2ban - ops+50%@b
fail2ban - %(a)d
fail2ban + ops+50%%@b
fail2ban + %(a)s
keyfile - a\b
keyfile - a\"b
keyfile + a\\b
keyfile + a\sb
END

# What programs differ in is refused where the program is not known.
printf '[Main]\nport = 1 ; one\nlist = a,\n  b = 2\nHost-Name = x\n' >/srv/some.conf
for refused in '"port", #{ section: "Main" }|`;` begins a comment' '"list", #{ section: "Main" }|continues `list`' \
    '"host_name", #{ section: "Main" }|another spelling' '"port", #{ section: "main" }|another spelling'; do
    echo "config::get(\"/srv/some.conf\", ${refused%|*});" >plan.rhai
    ! kk plan.rhai || fail "not refused: $refused"
    grep -qF -- "${refused#*|}" said || fail "not said: ${refused#*|}"
    grep -qF 'format' said || fail "no way on: $refused"
done
printf 'all of it holds\n'
