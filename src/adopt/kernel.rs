//! The settings of a running kernel, which no file shows: the host name, mounts, network parameters and the rules of the
//! firewall.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::action::{Action, Place};
use super::literal;
use super::secret::Secrets;
use super::trace::{Command, Trace, as_user, name_of};
use crate::machine::clone::root_files::RootFiles;
use crate::rehearse::LiveClone;
use crate::script::lexically_normal;

/// The settings of a running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    hostname: String,
    /// What is mounted where.
    mounts: BTreeMap<String, String>,
    /// The parameters of its network, by their names with dots. A clone cannot change others: they are the machine's.
    parameters: BTreeMap<String, String>,
    /// The policy and the rules of each chain of the firewall, and whole tables of nftables.
    firewall: BTreeMap<String, String>,
}

/// Begins a part of what is asked.
const PART: &str = "\u{1}";

impl Kernel {
    /// That of a clone.
    pub(super) fn of(clone: &LiveClone) -> Result<Self> {
        // A tool that is not installed has set nothing.
        let ask = format!(
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nuname -n\necho '{PART}'\ncat /proc/1/mountinfo\necho '{PART}'\n\
             grep -rsa . /proc/sys/net\necho '{PART}'\niptables-save 2>/dev/null\necho '{PART}'\n\
             ip6tables-save 2>/dev/null\necho '{PART}'\nnft --stateless list ruleset 2>/dev/null\nexit 0"
        );
        Ok(Self::read(&clone.printed(&["/bin/sh", "-c", &ask])?.unwrap_or_default()))
    }

    fn read(said: &str) -> Self {
        let mut parts = said.split(PART).map(|part| part.strip_prefix('\n').unwrap_or(part));
        let mut next = || parts.next().unwrap_or_default();
        let hostname = next().trim().to_owned();
        let mounts = next().lines().filter_map(mount).collect();
        let parameters = next().lines().filter_map(parameter).collect();
        let mut firewall = chains("iptables", next());
        firewall.extend(chains("ip6tables", next()));
        firewall.extend(tables(next()));
        Self { hostname, mounts, parameters, firewall }
    }

    /// Keeps only these parameters: the others follow from what runs.
    pub(super) fn keep(&mut self, names: &BTreeSet<String>) {
        self.parameters.retain(|name, _| names.contains(name));
    }

    /// The parameters that are otherwise later, and that the script or a file of settings names.
    pub(super) fn set_until(&self, later: &Self, files: &RootFiles, trace: &Trace) -> BTreeSet<String> {
        let mut settings = files.text("/etc/sysctl.conf");
        settings.push_str(&files.text("/etc/ufw/sysctl.conf"));
        for name in files.names("/etc/sysctl.d") {
            settings.push_str(&files.text(&format!("/etc/sysctl.d/{name}")));
        }
        let is_named = |name: &str| {
            let path = name.replace('.', "/");
            [name, &path].iter().any(|name| settings.contains(name) || trace.contains(name))
        };
        let others = later.parameters.iter().filter(|(name, value)| {
            self.parameters.get(*name).is_some_and(|before| before != *value) && is_named(name)
        });
        others.map(|(name, _)| name.clone()).collect()
    }

    /// Each of them with its value.
    pub(super) fn lines(&self) -> BTreeMap<String, String> {
        let list = |kind: &'static str, map: &BTreeMap<String, String>| -> Vec<(String, String)> {
            map.iter().map(|(name, value)| (format!("{kind} {name}"), value.clone())).collect()
        };
        let mut lines = BTreeMap::from([("host name".to_owned(), self.hostname.clone())]);
        lines.extend(list("mount", &self.mounts));
        lines.extend(list("kernel parameter", &self.parameters));
        lines.extend(list("firewall", &self.firewall));
        lines
    }

    /// The names of what is otherwise in another one.
    pub(super) fn differing(&self, other: &Self) -> Vec<String> {
        let (one, other) = (self.lines(), other.lines());
        let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
    }

    /// The calls that give a kernel with these settings the desired ones. What they do not give is found by the comparison.
    pub(super) fn towards(
        &self,
        desired: &Self,
        files: &RootFiles,
        trace: &Trace,
        secrets: &Secrets,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.hostname != desired.hostname {
            let name = literal::string(&desired.hostname);
            let code = format!(
                "cmd::run([\"hostname\", {name}], #{{ unless: || host::hostname() == {name}, undo: || [[\"hostname\", host::hostname()]] }});"
            );
            let made = trace.of_program(&["hostnamectl", "hostname"], "");
            actions.push(Action::new(Place::Units, code).by(made));
        }
        for (name, value) in &desired.parameters {
            if self.parameters.get(name) == Some(value) {
                continue;
            }
            let (quoted, text) = (literal::string(name), literal::string(value));
            let code = format!(
                "cmd::run([\"sysctl\", \"--quiet\", \"--write\", {}], #{{\n    unless: || cmd::read([\"sysctl\", \"--values\", {quoted}]) == {text},\n    undo: || [[\"sysctl\", \"--quiet\", \"--write\", {} + cmd::read([\"sysctl\", \"--values\", {quoted}])]],\n}});",
                literal::string(&format!("{name}={value}")),
                literal::string(&format!("{name}=")),
            );
            let made = trace.of_program(&["sysctl"], name).or_else(|| trace.of_program(&["sysctl"], ""));
            actions.push(Action::new(Place::Units, code).by(made));
        }
        for point in desired.mounts.keys().filter(|point| !self.mounts.contains_key(*point)) {
            actions.extend(mounting(point, files, trace, secrets));
        }
        if self.firewall != desired.firewall {
            let conf = files.text("/etc/ufw/ufw.conf");
            if conf.lines().any(|line| line.trim() == "ENABLED=yes") {
                const FILES: [&str; 3] = ["/etc/ufw/ufw.conf", "/etc/ufw/user.rules", "/etc/ufw/user6.rules"];
                let code = "cmd::run([\"ufw\", \"--force\", \"enable\"], #{ unless: || cmd::read([\"ufw\", \"status\"]).starts_with(\"Status: active\"), undo: [[\"/lib/ufw/ufw-init\", \"stop\"]] });";
                let made =
                    Action::new(Place::Units, code.to_owned()).by(trace.of_program(&["ufw"], "enable"));
                actions.push(after_files(made, &FILES, files, trace));
            } else {
                actions.extend(trace.commands.iter().filter_map(|command| rule(command, secrets)));
            }
            actions.extend(self.loading(desired, files, trace));
        }
        actions
    }

    /// The call that loads the tables of nftables from the file that the script loaded them from last. Those that were there
    /// cannot be restored.
    fn loading(&self, desired: &Self, files: &RootFiles, trace: &Trace) -> Option<Action> {
        let tables = |kernel: &Self| {
            let tables = kernel.firewall.iter().filter(|(name, _)| name.starts_with("nft "));
            tables.map(|(name, rules)| (name.clone(), rules.clone())).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (tables(self), tables(desired));
        if before.iter().any(|(name, rules)| after.get(name) != Some(rules)) {
            return None;
        }
        let new: Vec<Vec<&str>> = after
            .keys()
            .filter(|name| !before.contains_key(*name))
            .map(|name| name.split(' ').skip(1).collect())
            .collect();
        let (command, path) =
            trace.commands.iter().rev().find_map(|command| Some((command, loaded(command)?)))?;
        let is_there = files.look(&path).is_ok_and(|seen| seen.is_some());
        let (first, path) = (new.first().filter(|_| is_there)?, path.to_str()?);
        let with =
            |verbs: &[&str], table: &[&str]| literal::array([&["nft"], verbs, &["table"], table].concat());
        // A table is added if it is not there, so that it can be deleted in any case.
        let undo: Vec<String> =
            new.iter().flat_map(|table| [with(&["add"], table), with(&["delete"], table)]).collect();
        let quoted = literal::string(path);
        let code = format!(
            "cmd::run([\"nft\", \"--file\", {quoted}], #{{\n    made_from: || file::sha256({quoted}),\n    unless: {},\n    undo: [{}],\n}});",
            with(&["list"], first),
            undo.join(", ")
        );
        Some(after_files(Action::new(Place::Units, code).by(Some(command)), &[path], files, trace))
    }

    /// Why rules of nftables are not loaded by the plan.
    pub(super) fn unexpressed(
        &self,
        after: &Self,
        files: &RootFiles,
        trace: &Trace,
        script: &str,
    ) -> Vec<String> {
        if self.loading(after, files, trace).is_some() {
            return Vec::new();
        }
        let firewall = &after.firewall;
        let names: BTreeSet<&String> = self.firewall.keys().chain(firewall.keys()).collect();
        let differing = names
            .into_iter()
            .filter(|name| name.starts_with("nft ") && self.firewall.get(*name) != firewall.get(*name));
        let command = trace.of_program(&["nft"], "");
        let place = command.map(|command| format!(" (`{script}:{}`)", command.line)).unwrap_or_default();
        let why = |name: &String| {
            format!(
                "firewall {name}: the script sets it{place}, and the plan does not, for it is not loaded from one file, or \
                 replaces rules that cannot be restored"
            )
        };
        differing.map(why).collect()
    }
}

/// The file that a command of nft loads. Source: nft(8).
fn loaded(command: &Command) -> Option<PathBuf> {
    let words = as_user(command.words()).1;
    let words: Vec<&str> = words.iter().map(String::as_str).skip_while(|word| *word == "sudo").collect();
    let (program, arguments) = words.split_first()?;
    let only_checks = arguments.iter().any(|word| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        *word == "--check" || letters.is_some_and(|letters| letters.contains('c'))
    });
    let at = arguments.iter().position(|word| ["-f", "--file"].contains(word))?;
    let path = lexically_normal(&command.directory.join(arguments.get(at + 1)?));
    (name_of(program) == "nft" && !only_checks && path.starts_with("/") && !path.starts_with("/dev"))
        .then_some(path)
}

/// The call that mounts something as the script did.
fn mounting(point: &str, files: &RootFiles, trace: &Trace, secrets: &Secrets) -> Option<Action> {
    const FSTAB: &str = "/etc/fstab";
    let quoted = literal::string(point);
    let options =
        format!("#{{ unless: [\"mountpoint\", \"--quiet\", {quoted}], undo: [[\"umount\", {quoted}]] }}");
    let command = trace.of_program(&["mount"], point);
    let is_listed = files.text(FSTAB).lines().any(|line| line.split_whitespace().nth(1) == Some(point));
    if is_listed {
        let made = command.or_else(|| trace.of_program(&["mount"], ""));
        let code = format!("cmd::run([\"mount\", {quoted}], {options});");
        return Some(after_files(Action::new(Place::Units, code).by(made), &[FSTAB], files, trace));
    }
    let command = command?;
    let words = as_user(command.words()).1;
    let is_plain = words.first().is_some_and(|program| name_of(program) == "mount")
        && secrets.within(&command.text).is_empty();
    let code = format!("cmd::run({}, {options});", literal::array(&words));
    is_plain.then(|| Action::new(Place::Units, code).by(Some(command)))
}

/// The same action, not before these files have what the script wrote to them last.
fn after_files(mut action: Action, paths: &[&str], files: &RootFiles, trace: &Trace) -> Action {
    let seen = paths.iter().filter_map(|path| files.look(Path::new(path)).ok().flatten());
    let (Some(when), Some(written)) = (action.when, seen.map(|seen| seen.modified).max()) else {
        return action;
    };
    if written >= when {
        action.when = Some(written + 1);
        action.line = trace.at(written, "").map(|command| command.line).max(action.line);
    }
    action
}

/// The call that adds a rule of iptables, makes a chain or sets a policy, as a command of the script did.
fn rule(command: &Command, secrets: &Secrets) -> Option<Action> {
    let mut words = as_user(command.words()).1;
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    let program = name_of(words.first()?).to_owned();
    if !["iptables", "ip6tables"].contains(&program.as_str()) || !secrets.within(&command.text).is_empty() {
        return None;
    }
    let is_verb = |word: &String| {
        ["-A", "--append", "-I", "--insert", "-N", "--new-chain", "-P", "--policy"].contains(&word.as_str())
    };
    let at = words.iter().position(is_verb)?;
    let chain = words.get(at + 1)?.clone();
    let mut table = vec![program.clone()];
    if let Some(named) = words.iter().position(|word| word == "-t" || word == "--table") {
        table.extend(words.get(named..named + 2)?.iter().cloned());
    }
    let of_table = |verb: &str, chain: &str| {
        literal::array([table.clone(), vec![verb.to_owned(), chain.to_owned()]].concat())
    };
    // With another verb, without the place at which a rule is inserted.
    let same_rule = |verb: &str| {
        let mut words = words.clone();
        verb.clone_into(&mut words[at]);
        if words.get(at + 2).is_some_and(|word| word.parse::<u32>().is_ok()) {
            words.remove(at + 2);
        }
        literal::array(words)
    };
    let (unless, undo) = match words[at].as_str() {
        "-N" | "--new-chain" => (of_table("-S", &chain), of_table("-X", &chain)),
        "-P" | "--policy" => {
            let policy = words.get(at + 2)?;
            let holds = format!(
                "|| cmd::read({}).contains({})",
                of_table("-S", &chain),
                literal::string(&format!("-P {chain} {policy}"))
            );
            // There are two, and the other one was there. Source: iptables(8), "-P".
            let other = if policy == "ACCEPT" { "DROP" } else { "ACCEPT" };
            let restored = [table.clone(), vec!["-P".to_owned(), chain.clone(), other.to_owned()]].concat();
            (holds, literal::array(restored))
        }
        _ => (same_rule("-C"), same_rule("-D")),
    };
    let code = format!("cmd::run({}, #{{ unless: {unless}, undo: [{undo}] }});", literal::array(&words));
    Some(Action::new(Place::Units, code).by(Some(command)))
}

/// A mount that a script may have made, and what is mounted. Source: `proc_pid_mountinfo(5)`.
fn mount(line: &str) -> Option<(String, String)> {
    const THEIR_OWN: [&str; 6] = ["/dev", "/proc", "/run", "/sys", "/var/lib/containers", "/var/lib/docker"];
    let (place, kind) = line.split_once(" - ")?;
    let point = place.split(' ').nth(4)?.replace("\\040", " ");
    let mut kind = kind.split(' ');
    let (kind, source) = (kind.next()?, kind.next()?);
    let is_own = point == "/" || THEIR_OWN.iter().any(|own| Path::new(&point).starts_with(own));
    (!is_own).then(|| (point, format!("{kind} {source}")))
}

/// A parameter as `grep -r` prints its file.
fn parameter(line: &str) -> Option<(String, String)> {
    let (path, value) = line.strip_prefix("/proc/sys/")?.split_once(':')?;
    // An interface can have a dot in its name.
    let name = path.replace('.', "\0").replace('/', ".").replace('\0', "/");
    Some((name, value.to_owned()))
}

/// The chains of what `iptables-save` prints, without those that have no effect. Source: iptables-save(8).
fn chains(program: &str, said: &str) -> BTreeMap<String, String> {
    let mut chains: BTreeMap<(String, String), (String, Vec<String>)> = BTreeMap::new();
    let mut table = "";
    for line in said.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            chains.insert((table.to_owned(), name.to_owned()), (policy.to_owned(), Vec::new()));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let name = rule.split(' ').next().unwrap_or_default();
            chains.entry((table.to_owned(), name.to_owned())).or_default().1.push(rule.to_owned());
        }
    }
    // A jump to a chain without a rule does nothing, and may leave another chain without one.
    loop {
        let is_empty = |(policy, rules): &(String, Vec<String>)| {
            rules.is_empty() && ["-", "ACCEPT"].contains(&policy.as_str())
        };
        let gone: BTreeSet<_> =
            chains.iter().filter(|(_, chain)| is_empty(chain)).map(|(name, _)| name.clone()).collect();
        if gone.is_empty() {
            break;
        }
        chains.retain(|name, _| !gone.contains(name));
        for ((table, _), (_, rules)) in &mut chains {
            rules.retain(|rule| {
                let mut words = rule.split(' ').skip_while(|word| !["-j", "-g"].contains(word)).skip(1);
                words.next().is_none_or(|target| !gone.contains(&(table.clone(), target.to_owned())))
            });
        }
    }
    let line = |((table, name), (policy, rules)): ((String, String), (String, Vec<String>))| {
        (format!("{program} {table} {name}"), [vec![format!("policy {policy}")], rules].concat().join("\n"))
    };
    chains.into_iter().map(line).collect()
}

/// The tables of what nft prints, but for those that iptables has printed. Source: nft(8).
fn tables(said: &str) -> BTreeMap<String, String> {
    let mut tables: BTreeMap<String, String> = BTreeMap::new();
    let mut name = None;
    let mut is_of_iptables = false;
    for line in said.lines() {
        if line.starts_with('#') {
            is_of_iptables = line.contains("managed by iptables-nft");
        } else if let Some(table) = line.strip_prefix("table ") {
            name = (!is_of_iptables).then(|| format!("nft {}", table.trim_end_matches(" {")));
            is_of_iptables = false;
        } else if line == "}" {
            name = None;
        } else if let Some(name) = &name {
            let text = tables.entry(name.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated\n*filter\n:INPUT DROP [1:2]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:ufw-before - [0:0]\n:ufw-user - [0:0]\n\
        -A INPUT -j ufw-before\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A ufw-before -j ufw-user\nCOMMIT\n";

    fn kernel(hostname: &str, mounts: &str, parameters: &str, saved: &str) -> Kernel {
        Kernel::read(&[hostname, mounts, parameters, saved, "", ""].join("\n\u{1}\n"))
    }

    #[test]
    fn settings_of_the_kernel_are_read_and_what_comes_by_itself_is_not() {
        let mounts = "1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / /run/x rw - tmpfs tmpfs rw\n3 1 0:3 / /mnt/a\\040b rw,nosuid shared:1 - tmpfs none rw\n";
        let kernel = kernel(
            "one",
            mounts,
            "/proc/sys/net/ipv4/ip_forward:1\n/proc/sys/net/ipv4/conf/eth0.1/mtu:2\n",
            SAVED,
        );
        let lines = kernel.lines();
        assert_eq!(lines["host name"], "one");
        assert_eq!(lines["mount /mnt/a b"], "tmpfs none");
        assert_eq!(lines["kernel parameter net.ipv4.ip_forward"], "1");
        assert_eq!(lines["kernel parameter net.ipv4.conf.eth0/1.mtu"], "2");
        assert_eq!(
            lines["firewall iptables filter INPUT"],
            "policy DROP\nINPUT -p tcp -m tcp --dport 22 -j ACCEPT"
        );
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_table_that_iptables_prints_is_not_read_again_from_nft() {
        let said = "# Warning: table ip filter is managed by iptables-nft, do not touch!\ntable ip filter {\n\tchain INPUT {\n\t}\n}\ntable inet own {\n\tchain c {\n\t}\n}\n";
        assert_eq!(
            tables(said),
            BTreeMap::from([("nft inet own".to_owned(), "\tchain c {\n\t}\n".to_owned())])
        );
    }

    #[test]
    fn only_parameters_that_are_named_count() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("etc/sysctl.d")).unwrap();
        std::fs::write(directory.path().join("etc/sysctl.d/9.conf"), "net.ipv4.ip_forward = 1\n").unwrap();
        let files = RootFiles::new(directory.path(), None);
        let of = |value: &str| {
            kernel(
                "",
                "",
                &format!("/proc/sys/net/ipv4/ip_forward:{value}\n/proc/sys/net/core/x:{value}\n"),
                "",
            )
        };
        let names = of("0").set_until(&of("1"), &files, &Trace::default());
        assert_eq!(names, BTreeSet::from(["net.ipv4.ip_forward".to_owned()]));
        let traced = Trace::read("", "sysctl -w net/core/x=1");
        assert_eq!(of("0").set_until(&of("1"), &files, &traced).len(), 2);
    }

    #[test]
    fn the_kernel_of_the_plan_gets_the_same_settings() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/fstab"), "tmpfs /mnt/a tmpfs size=1m 0 0\n").unwrap();
        let mounts = "3 1 0:3 / /mnt/a rw - tmpfs tmpfs rw\n4 1 0:3 / /mnt/b rw - tmpfs tmpfs rw\n5 1 0:3 / /mnt/c rw - tmpfs tmpfs rw\n";
        let after = kernel("two", mounts, "/proc/sys/net/ipv4/ip_forward:1\n", SAVED);
        let files = RootFiles::new(directory.path(), None);
        let commands = [
            "hostnamectl set-hostname two",
            "mount -a",
            "mount -t tmpfs tmpfs /mnt/b",
            "sysctl -p",
            "iptables -P INPUT DROP",
            "iptables -P FORWARD ACCEPT",
            "iptables -I INPUT 1 -p tcp --dport 22 -j ACCEPT",
        ];
        let entry = |(at, text)| format!("\u{1}{at}.0 0 {} /\u{2}{text}\n", at + 1);
        let traced = commands.iter().enumerate().map(entry).collect::<Vec<String>>().concat();
        let trace = Trace::read(&traced, "");
        let before = kernel("one", "", "/proc/sys/net/ipv4/ip_forward:0\n", "");
        let actions = before.towards(&after, &files, &trace, &Secrets::default());
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "cmd::run([\"hostname\", \"two\"], #{ unless: || host::hostname() == \"two\", undo: || [[\"hostname\", host::hostname()]] });",
                "cmd::run([\"sysctl\", \"--quiet\", \"--write\", \"net.ipv4.ip_forward=1\"], #{\n    unless: || cmd::read([\"sysctl\", \"--values\", \"net.ipv4.ip_forward\"]) == \"1\",\n    undo: || [[\"sysctl\", \"--quiet\", \"--write\", \"net.ipv4.ip_forward=\" + cmd::read([\"sysctl\", \"--values\", \"net.ipv4.ip_forward\"])]],\n});",
                "cmd::run([\"mount\", \"/mnt/a\"], #{ unless: [\"mountpoint\", \"--quiet\", \"/mnt/a\"], undo: [[\"umount\", \"/mnt/a\"]] });",
                "cmd::run([\"mount\", \"-t\", \"tmpfs\", \"tmpfs\", \"/mnt/b\"], #{ unless: [\"mountpoint\", \"--quiet\", \"/mnt/b\"], undo: [[\"umount\", \"/mnt/b\"]] });",
                "cmd::run([\"iptables\", \"-P\", \"INPUT\", \"DROP\"], #{ unless: || cmd::read([\"iptables\", \"-S\", \"INPUT\"]).contains(\"-P INPUT DROP\"), undo: [[\"iptables\", \"-P\", \"INPUT\", \"ACCEPT\"]] });",
                "cmd::run([\"iptables\", \"-P\", \"FORWARD\", \"ACCEPT\"], #{ unless: || cmd::read([\"iptables\", \"-S\", \"FORWARD\"]).contains(\"-P FORWARD ACCEPT\"), undo: [[\"iptables\", \"-P\", \"FORWARD\", \"DROP\"]] });",
                "cmd::run([\"iptables\", \"-I\", \"INPUT\", \"1\", \"-p\", \"tcp\", \"--dport\", \"22\", \"-j\", \"ACCEPT\"], #{ unless: [\"iptables\", \"-C\", \"INPUT\", \"-p\", \"tcp\", \"--dport\", \"22\", \"-j\", \"ACCEPT\"], undo: [[\"iptables\", \"-D\", \"INPUT\", \"-p\", \"tcp\", \"--dport\", \"22\", \"-j\", \"ACCEPT\"]] });",
            ]
        );
        assert_eq!(actions[4].line, Some(5));
        // What is the same needs no call.
        assert!(after.towards(&after, &files, &trace, &Secrets::default()).is_empty());
    }

    #[test]
    fn a_firewall_of_ufw_is_enabled_after_its_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("etc/ufw")).unwrap();
        std::fs::write(directory.path().join("etc/ufw/ufw.conf"), "# x\nENABLED=yes\n").unwrap();
        let desired = kernel("", "", "", SAVED);
        let files = RootFiles::new(directory.path(), None);
        let trace = Trace::read(
            "\u{1}5.0 0 1 /\u{2}ufw --force enable\n\u{1}6.0 0 3 /\u{2}iptables -A INPUT -j DROP\n",
            "",
        );
        let actions = Kernel::default().towards(&desired, &files, &trace, &Secrets::default());
        assert_eq!(actions.len(), 1);
        assert!(actions[0].code.starts_with("cmd::run([\"ufw\", \"--force\", \"enable\"], #{ unless: ||"));
        assert!(actions[0].when > Some(6_000_000_000) && actions[0].line == Some(3), "{actions:?}");
    }

    #[test]
    fn tables_of_nftables_are_loaded_from_the_file_of_the_script() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/nftables.conf"), "table inet gateway {\n}\n").unwrap();
        let files = RootFiles::new(directory.path(), None);
        let read = |tables: &str| Kernel::read(&["", "", "", "", "", tables].join("\n\u{1}\n"));
        let gateway = "table inet gateway {\n\tchain input {\n\t}\n}\n";
        let (none, after) = (read(""), read(gateway));
        let load = "\u{1}1.0 0 4 /etc\u{2}nft -c -f /etc/nftables.conf\n\u{1}2.0 0 5 /etc\u{2}nft -f nftables.conf\n";
        let trace = Trace::read(load, "");
        let action = none.loading(&after, &files, &trace).unwrap();
        assert_eq!(action.line, Some(5));
        assert_eq!(
            action.code,
            "cmd::run([\"nft\", \"--file\", \"/etc/nftables.conf\"], #{\n    made_from: || file::sha256(\"/etc/nftables.conf\"),\n    \
             unless: [\"nft\", \"list\", \"table\", \"inet\", \"gateway\"],\n    \
             undo: [[\"nft\", \"add\", \"table\", \"inet\", \"gateway\"], [\"nft\", \"delete\", \"table\", \"inet\", \"gateway\"]],\n});"
        );
        assert_eq!(none.unexpressed(&after, &files, &trace, "x.sh"), [""; 0]);
        let added = Trace::read("\u{1}1.0 0 4 /\u{2}nft add table inet gateway\n", "");
        let why = none.unexpressed(&after, &files, &added, "x.sh");
        assert!(why[0].starts_with("firewall nft inet gateway: the script sets it (`x.sh:4`), "), "{why:?}");
        // What was there is lost.
        let other = read("table ip old {\n\tchain x {\n\t}\n}\n");
        assert_eq!(other.loading(&after, &files, &trace), None);
    }
}
