# On a Debian that has nothing: real packages, and what remains of them after a rollback, printed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/facts.sh"

contents >/tmp/pristine
say "a dry run never fails and writes nothing"
written() { find /etc /home /opt /root /srv /usr /var -xdev -newer /tmp/pristine -not -path '/var/tmp/*'; }
exits 6 plan master.rhai --dry-run --json
printf '%s\n' "$said" >/tmp/predicted
same "what it wrote" "" "$(written)"
dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' | grep ' ii ' | sort >/tmp/packages
exits 0 plan master.rhai --json
printf '%s\n' "$said" >/tmp/made
facts
say "the dry run predicted what was made, and nothing else"
targets() { jq -rR "fromjson? | select(.event == \"change\" and ($2)) | .target" "$1" | LC_ALL=C sort; }
targets /tmp/made '.outcome == "made"' >/tmp/made.targets
targets /tmp/predicted '.outcome == "would"' >/tmp/would.targets
targets /tmp/predicted '.outcome == "would" or .outcome == "might"' >/tmp/any.targets
same "predicted twice" "" "$(uniq -d /tmp/would.targets)"
same "predicted and not made" "" "$(comm -23 /tmp/would.targets /tmp/made.targets)"
same "made and not predicted" "" "$(comm -13 /tmp/any.targets /tmp/made.targets)"
(($(wc -l </tmp/would.targets) >= 45)) || die "only $(wc -l </tmp/would.targets) of $(wc -l </tmp/made.targets) are certain"
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
