# On a Debian that has nothing: real packages, and what remains of them after a rollback, printed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

contents >/tmp/pristine
say "a dry run never fails and writes nothing"
written() { find /etc /home /opt /root /srv /usr /var -xdev -newer /tmp/pristine -not -path '/var/tmp/*'; }
exits 6 plan master.rhai --dry-run
same "what it wrote" "" "$(written)"
dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' | grep ' ii ' | sort >/tmp/packages
exits 0 plan master.rhai
printf '%s\n' "$said" | tail -n 12
facts
say "rollback of everything"
exits 0 plan rollback.rhai --purge all
no_facts
dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' | grep ' ii ' | sort | check "packages as before" diff /tmp/packages -
say "what Debian leaves behind when packages are removed, not purged:"
contents | diff /tmp/pristine - | grep '^[<>]' | cut -d' ' -f1,2 | sed 's|\(/[^/]*/[^/]*\)/.*|\1/…|' | sort | uniq -c | sort -rn || true
say "and once more"
exits 0 plan master.rhai
facts
say "done"
