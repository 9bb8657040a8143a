//! What the script itself names in places whose differences are otherwise noise: a log for a service, a cache directory, a
//! diversion, a range of subordinate numbers. Each is a call of the plan, or is named as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::action::{Action, Place};
use super::files::{Towards, quoted};
use super::literal;
use super::noise::is_noise;
use super::trace::{Command, Trace, as_user, name_of};
use crate::machine::clone::root_files::{RootFiles, Seen, SeenKind};
use crate::script::lexically_normal;

/// Places that do not outlast the machine's next start, or are read from their records.
const ELSEWHERE: [&str; 21] = [
    "/dev",
    "/etc/group",
    "/etc/gshadow",
    "/etc/mtab",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/subgid",
    "/etc/subuid",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/kkrun",
    "/var/lib/postgresql",
    "/var/lib/redis",
    "/var/lib/systemd/linger",
    "/var/lock",
    "/var/run",
    "/var/tmp",
];

/// What is named, and what becomes of it.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// What makes it.
    pub(super) actions: Vec<Action>,
    /// The paths that it makes.
    pub(super) paths: BTreeSet<PathBuf>,
    /// What the plan does not make, and why.
    pub(super) lost: Vec<(String, String)>,
}

impl Named {
    /// The files among its paths: only that they are there is the script's doing.
    pub(super) fn logs(&self) -> impl Iterator<Item = &PathBuf> {
        let is_file = |action: &&Action| action.code.starts_with("cmd::run(");
        self.actions.iter().filter(is_file).filter_map(|action| action.path.as_ref())
    }

    /// The lines of what the plan does not make.
    pub(super) fn missing(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|(what, _)| format!("{what}: missing"))
    }

    /// The same with the reasons.
    pub(super) fn unexpressed(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|(what, why)| format!("{what}: {why}"))
    }
}

impl Towards<'_> {
    /// What the script named: it is the script's doing wherever it is.
    pub(super) fn named(&self, script: &str) -> Result<Named> {
        let mut named = Named::default();
        for (path, command) in paths(self.trace) {
            let Some(after) = self.to.files.look(&path)? else { continue };
            let is_directory = after.kind == SeenKind::Directory;
            if !is_noise(&path, is_directory) || self.from.difference(&path, self.to, false)?.is_none() {
                continue;
            }
            let before = self.from.files.look(&path)?;
            match self.call(&path, before.as_ref(), &after) {
                Some(code) => {
                    let mut action = Action::new(Place::Files, code).by(Some(command));
                    action.path = Some(path.clone());
                    named.actions.push(action);
                    named.paths.insert(path);
                }
                None if is_cache(&path) => {}
                None => {
                    let why = if path == Path::new("/etc/resolv.conf") {
                        "a clone has one of its own"
                    } else {
                        "others write it, too"
                    };
                    let line = command.line;
                    let why =
                        format!("the script writes it (`{script}:{line}`), and the plan does not, for {why}");
                    named.lost.push((path.display().to_string(), why));
                }
            }
        }
        for command in &self.trace.commands {
            let words = plain(command);
            let records = Records { from: &self.from.files, to: &self.to.files };
            let is_open = self.secrets.within(&command.text).is_empty();
            for code in records.calls(&words).into_iter().filter(|_| is_open) {
                let place = if code.contains("\"usermod\"") { Place::Accounts } else { Place::Files };
                if !named.actions.iter().any(|known| known.code == code) {
                    named.actions.push(Action::new(place, code).by(Some(command)));
                }
            }
            if let Some(what) = swap(&words).filter(|what| !named.lost.iter().any(|(known, _)| known == what))
            {
                let line = command.line;
                let why = format!(
                    "the script switches it on (`{script}:{line}`), and the plan does not, for a clone cannot"
                );
                named.lost.push((what, why));
            }
        }
        Ok(named)
    }

    /// The call that makes what is at a path, whatever else will be in it.
    fn call(&self, path: &Path, before: Option<&Seen>, after: &Seen) -> Option<String> {
        path.to_str()?;
        let mode = literal::string(&format!("{:04o}", after.mode));
        let (owner, group) = self.to.owners(after);
        let is_same_kind = before.is_some_and(|before| {
            std::mem::discriminant(&before.kind) == std::mem::discriminant(&after.kind)
        });
        let is_empty = after.kind == SeenKind::File
            && (after.size == 0
                || path.starts_with("/var/log")
                || is_same_kind && before.map(|before| before.size) == Some(after.size));
        if !is_empty && after.kind != SeenKind::Directory {
            return None;
        }
        if is_same_kind {
            let options =
                [("owner", literal::string(&owner)), ("group", literal::string(&group)), ("mode", mode)];
            return Some(format!("file::access({}{});", quoted(path), literal::options(&options)));
        }
        if before.is_some() {
            return None;
        }
        if after.kind == SeenKind::Directory {
            let mut options = self.ownership((owner, group), &("root".to_owned(), "root".to_owned()));
            if after.mode != 0o755 {
                options.push(("mode", mode));
            }
            return Some(format!("file::make_dir({}{});", quoted(path), literal::options(&options)));
        }
        // What services have written to it by then is no conflict.
        let words =
            ["install", "--owner", &owner, "--group", &group, "--mode", mode.trim_matches('"'), "/dev/null"];
        let words = words.into_iter().map(str::to_owned).chain([path.to_string_lossy().into_owned()]);
        Some(format!(
            "cmd::run({}, #{{ unless: || file::exists({at}), undo: [[\"rm\", \"--force\", {at}]] }});",
            literal::array(words),
            at = quoted(path)
        ))
    }
}

/// The arguments of a command, from its program on, without what runs it as another user.
fn plain(command: &Command) -> Vec<String> {
    let mut words = as_user(command.words()).1;
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    words
}

/// Whether it is in a directory that programs keep for themselves in every home, where only directories are a script's.
fn is_cache(path: &Path) -> bool {
    is_noise(&Path::new("/").join(path.file_name().unwrap_or_default()), false)
        || path
            .ancestors()
            .skip(1)
            .any(|above| above.file_name().is_some_and(|name| is_noise(&Path::new("/").join(name), true)))
}

/// The paths that commands make, write or give to someone, each with the last of them. What they only log is none.
fn paths(trace: &Trace) -> BTreeMap<PathBuf, &Command> {
    let mut paths = BTreeMap::new();
    for command in &trace.commands {
        let is_log = |path: &String| lexically_normal(&command.directory.join(path)).starts_with("/var/log");
        let outputs = trace.outputs(command).filter(|path| path.starts_with('/') && !is_log(path));
        let words = plain(command);
        let arguments = made(&words).into_iter().filter(|path| !is_log(path) || name_of(&words[0]) != "tee");
        for path in arguments.chain(outputs) {
            let path = lexically_normal(&command.directory.join(path));
            if !ELSEWHERE.iter().any(|elsewhere| path.starts_with(elsewhere)) {
                paths.insert(path, command);
            }
        }
    }
    paths
}

/// The arguments of a command that are what it makes, writes or gives to someone. Source: the manual pages of coreutils.
fn made(words: &[String]) -> Vec<String> {
    let Some((program, arguments)) = words.split_first() else { return Vec::new() };
    // Letters of options whose next argument is their value.
    let valued = match name_of(program) {
        "chgrp" | "chmod" | "chown" | "tee" => "",
        "cp" | "ln" | "mv" => "tS",
        "install" => "gmotS",
        "mkdir" => "m",
        "touch" => "drt",
        _ => return Vec::new(),
    };
    let (mut named, mut is_directory, mut is_value) = (Vec::new(), false, false);
    for word in arguments {
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
        if std::mem::take(&mut is_value) {
            continue;
        }
        match letters {
            Some(letters) if !letters.starts_with('-') => {
                is_directory |= letters.contains('d');
                is_value = letters.chars().last().is_some_and(|last| valued.contains(last));
            }
            Some("-directory") => is_directory = true,
            Some(long) => {
                is_value = !long.contains('=')
                    && ["-group", "-mode", "-owner"].contains(&long)
                    && !valued.is_empty();
            }
            None => named.push(word.clone()),
        }
    }
    match name_of(program) {
        "chgrp" | "chmod" | "chown" => named.drain(..1.min(named.len())).for_each(drop),
        "install" if !is_directory => named = inner(&named),
        "cp" | "ln" | "mv" => named = inner(&named),
        _ => {}
    }
    named
}

/// The last of some paths, or what it may be in that.
fn inner(paths: &[String]) -> Vec<String> {
    let Some((last, sources)) = paths.split_last() else { return Vec::new() };
    let within = sources.iter().map(|source| format!("{}/{}", last.trim_end_matches('/'), name_of(source)));
    std::iter::once(last.clone()).chain(within).collect()
}

/// What is switched on as swap.
fn swap(words: &[String]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let only_shows =
        arguments.iter().any(|word| ["-s", "--show", "--summary", "--version"].contains(&word.as_str()));
    if name_of(program) != "swapon" || only_shows || arguments.is_empty() {
        return None;
    }
    let file = arguments.iter().find(|word| word.starts_with('/') || word.contains('='));
    Some(file.map_or_else(|| "swap".to_owned(), |file| format!("swap {file}")))
}

/// The records of Debian's tools before and after.
struct Records<'files> {
    from: &'files RootFiles,
    to: &'files RootFiles,
}

impl Records<'_> {
    /// The calls for what a command wrote to them, with their undo actions.
    fn calls(&self, words: &[String]) -> Vec<String> {
        let Some((program, arguments)) = words.split_first() else { return Vec::new() };
        match name_of(program) {
            "usermod" => self.subordinate(arguments),
            "dpkg-statoverride" => self.override_of(arguments).into_iter().collect(),
            "dpkg-divert" => self.diversion(arguments).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn is_new(&self, path: &str, is_it: impl Fn(&str) -> bool) -> bool {
        self.to.text(path).lines().any(&is_it) && !self.from.text(path).lines().any(is_it)
    }

    /// Source: usermod(8), subuid(5).
    fn subordinate(&self, arguments: &[String]) -> Vec<String> {
        let Some(user) = arguments.last() else { return Vec::new() };
        let mut calls = Vec::new();
        for (at, argument) in arguments.iter().enumerate() {
            let (option, value) = match argument.split_once('=') {
                Some((option, value)) => (option, value),
                None => (argument.as_str(), arguments.get(at + 1).map_or("", String::as_str)),
            };
            let (file, add, delete) = match option {
                "-v" | "--add-subuids" => ("/etc/subuid", "--add-subuids", "--del-subuids"),
                "-w" | "--add-subgids" => ("/etc/subgid", "--add-subgids", "--del-subgids"),
                _ => continue,
            };
            let numbers = value
                .split_once('-')
                .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
            let Some((first, last)) = numbers.filter(|(first, last)| first <= last) else { continue };
            let entry = format!("{user}:{first}:{}", last - first + 1);
            if self.is_new(file, |line| line == entry) {
                calls.push(format!(
                    "cmd::run({}, #{{ unless: || file::read({}).contains({}), undo: [{}] }});",
                    literal::array(["usermod", add, value, user]),
                    literal::string(file),
                    literal::string(&entry),
                    literal::array(["usermod", delete, value, user])
                ));
            }
        }
        calls
    }

    /// Owner and mode themselves are those of the file. Source: dpkg-statoverride(1).
    fn override_of(&self, arguments: &[String]) -> Option<String> {
        let path = arguments.last().filter(|_| arguments.iter().any(|word| word == "--add"))?;
        let end = format!(" {path}");
        if !self.is_new("/var/lib/dpkg/statoverride", |line| line.ends_with(&end)) {
            return None;
        }
        let words = arguments.iter().filter(|word| *word != "--update").map(String::as_str);
        Some(format!(
            "cmd::run({}, #{{ unless: {}, undo: [{}] }});",
            literal::array(std::iter::once("dpkg-statoverride").chain(words)),
            literal::array(["dpkg-statoverride", "--list", path]),
            literal::array(["dpkg-statoverride", "--force-all", "--remove", path])
        ))
    }

    /// Source: dpkg-divert(1).
    fn diversion(&self, arguments: &[String]) -> Option<String> {
        const OTHERS: [&str; 4] = ["--list", "--listpackage", "--remove", "--truename"];
        let path =
            arguments.last().filter(|_| !arguments.iter().any(|word| OTHERS.contains(&word.as_str())))?;
        if !self.is_new("/var/lib/dpkg/diversions", |line| line == path) {
            return None;
        }
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let removed: Vec<&str> = words.iter().filter(|word| **word != "--add").copied().collect();
        let (last, before) = removed.split_last()?;
        let undo = ["dpkg-divert"].iter().chain(before).chain(["--remove"].iter()).chain([last]);
        Some(format!(
            "cmd::run({}, #{{ unless: || cmd::read([\"dpkg-divert\", \"--list\", {}]) != \"\", undo: [{}] }});",
            literal::array(std::iter::once("dpkg-divert").chain(words.iter().copied())),
            literal::string(path),
            literal::array(undo)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::live::Live;
    use super::super::secret::Secrets;
    use super::super::side::Side;
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn named(before: &[(&str, &str)], after: &[(&str, &str)], commands: &[&str]) -> Named {
        let roots = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for (root, files) in roots.iter().zip([before, after]) {
            for (path, text) in files {
                write(root.path(), path, text);
            }
        }
        let [from, to] = [0, 1].map(|at| Side::of(RootFiles::new(roots[at].path(), None), Live::default()));
        let entries: Vec<String> = commands
            .iter()
            .enumerate()
            .map(|(at, text)| format!("\u{1}{at}.0 0 {} /\u{2}{text}\n", at + 1))
            .collect();
        let (trace, secrets) = (Trace::read(&entries.concat(), &commands.join("\n")), Secrets::default());
        let towards = Towards {
            from: &from,
            to: &to,
            trace: &trace,
            during: (0, i128::MAX),
            secrets: &secrets,
            packaged: None,
        };
        towards.named("x.sh").unwrap()
    }

    fn begins(named: &Named) -> Vec<&str> {
        named.actions.iter().map(|action| action.code.split(", #").next().unwrap()).collect()
    }

    #[test]
    fn the_logs_and_caches_that_the_script_names_are_calls() {
        let found = named(
            &[],
            &[
                ("/var/log/shop.log", "started\n"),
                ("/var/cache/shelf/x", ""),
                ("/var/log/other.log", "x\n"),
                ("/root/.cache/a", "x"),
            ],
            &[
                "touch /var/log/shop.log",
                "install -d -m 750 /var/cache/shelf",
                "echo setup >> /var/log/other.log",
                "tee -a /var/log/other.log",
                "cp a /root/.cache/a",
            ],
        );
        assert_eq!(found.actions[0].code.split('(').next(), Some("file::make_dir"));
        assert!(found.actions[1].code.starts_with("cmd::run([\"install\", "), "{:?}", found.actions);
        assert!(found.actions[1].code.ends_with(
            "\"/dev/null\", \"/var/log/shop.log\"], #{ unless: || file::exists(\"/var/log/shop.log\"), undo: [[\"rm\", \"--force\", \"/var/log/shop.log\"]] });"
        ));
        assert_eq!((found.actions.len(), found.lost), (2, Vec::new()));
    }

    #[test]
    fn what_no_call_makes_is_lost_with_its_line() {
        let found = named(
            &[("/etc/resolv.conf", "nameserver 10.0.2.3\n")],
            &[("/etc/resolv.conf", "nameserver 9.9.9.9\n"), ("/swapfile", "")],
            &["printf x > /etc/resolv.conf", "swapon /swapfile", "swapon --show"],
        );
        let lost: Vec<String> = found.unexpressed().collect();
        assert_eq!(
            lost,
            [
                "/etc/resolv.conf: the script writes it (`x.sh:1`), and the plan does not, for a clone has one of its own",
                "swap /swapfile: the script switches it on (`x.sh:2`), and the plan does not, for a clone cannot",
            ]
        );
        assert_eq!(found.missing().next().as_deref(), Some("/etc/resolv.conf: missing"));
    }

    #[test]
    fn entries_of_the_records_of_tools_are_their_commands() {
        let found = named(
            &[("/etc/subuid", "kim:100000:65536\n")],
            &[
                ("/etc/subuid", "kim:100000:65536\nkim:700000:65536\n"),
                ("/var/lib/dpkg/statoverride", "root adm 750 /usr/bin/chage\n"),
                ("/var/lib/dpkg/diversions", "/usr/bin/wall\n/usr/bin/wall.distrib\n:\n"),
            ],
            &[
                "usermod --add-subuids 700000-765535 kim",
                "dpkg-statoverride --update --add root adm 750 /usr/bin/chage",
                "dpkg-divert --local --rename --add /usr/bin/wall",
                "dpkg-divert --add /usr/bin/failed",
            ],
        );
        assert_eq!(
            begins(&found),
            [
                "cmd::run([\"usermod\", \"--add-subuids\", \"700000-765535\", \"kim\"]",
                "cmd::run([\"dpkg-statoverride\", \"--add\", \"root\", \"adm\", \"750\", \"/usr/bin/chage\"]",
                "cmd::run([\"dpkg-divert\", \"--local\", \"--rename\", \"--add\", \"/usr/bin/wall\"]",
            ]
        );
        assert!(
            found.actions[0]
                .code
                .contains("contains(\"kim:700000:65536\"), undo: [[\"usermod\", \"--del-subuids\"")
        );
        assert!(found.actions[2].code.ends_with(
            "undo: [[\"dpkg-divert\", \"--local\", \"--rename\", \"--remove\", \"/usr/bin/wall\"]] });"
        ));
        assert_eq!(found.lost, Vec::new());
    }
}
