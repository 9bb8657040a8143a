# What `text::quote` writes for a format is read back as it is by systemd and bash. Run in a booted clone.
set -euo pipefail
kkrun=$(readlink "/proc/$PPID/exe")
mkdir -p /root/quotes && cd /root/quotes
cat >plan.rhai <<'END'
let letters = ["'", "\"", "$", "`", "\\", "#", " ", "a", "{", "}", "=", "é", "\n"];
let values = [""];
for one in letters {
    values.push(one);
    for two in letters {
        values.push(one + two);
        for three in letters { values.push(one + two + three); }
    }
}
for format in ["dotenv", "systemd", "shell"] {
    let written = "";
    let expected = "";
    for (value, at) in values {
        try {
            written += `K${at}=${text::quote(value, #{ format: format })}` + "\n";
            let line = value;
            line.replace("\n", "\x01");
            expected += `K${at}=${line}` + "\n";
        } catch {
            if format != "dotenv" { throw `${format} cannot have ${value}`; }
        }
    }
    file::write(`/root/quotes/${format}`, written);
    file::write(`/root/quotes/${format}.expected`, expected);
}
END
"$kkrun" --state-dir /root/state --yes --non-interactive plan.rhai
lines() { grep -z '^K[0-9]' | tr '\n\0' '\001\n' | LC_ALL=C sort; }
for format in dotenv systemd; do
    systemd-run --quiet --wait --pipe --property=EnvironmentFile=/root/quotes/$format env -0 | lines >read
    LC_ALL=C sort $format.expected | diff - read
done
for format in dotenv systemd shell; do
    bash -c 'set -a; . "$1"; exec env -0' bash ./$format | lines >read
    LC_ALL=C sort $format.expected | diff - read
done
(($(wc -l <dotenv) > 1000))
printf 'all of it holds\n'
