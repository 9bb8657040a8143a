//! Parameters of the whole machine's kernel, which a clone does not have for itself: what the script sets there is not seen.

use std::collections::BTreeSet;

use super::trace::{Trace, as_user, name_of};
use crate::machine::clone::root_files::RootFiles;

/// What the script sets there, and the plan does not.
pub(super) fn unexpressed(trace: &Trace, files: &RootFiles) -> Vec<String> {
    let mut found = BTreeSet::new();
    // Only Bash says what it runs.
    let lines = trace.lines().filter_map(|(_, line)| shell_words::split(line.trim()).ok());
    let commands: Vec<Vec<String>> = if trace.commands.is_empty() {
        lines.collect()
    } else {
        trace.commands.iter().map(|command| as_user(command.words()).1).collect()
    };
    for words in &commands {
        let words = words.iter().skip_while(|word| *word == "sudo").map(String::as_str).collect::<Vec<_>>();
        if words.first().is_some_and(|program| name_of(program) == "sysctl") {
            found.extend(set(&words[1..], files));
        }
    }
    found.extend(trace.written().filter_map(|path| match path.strip_prefix("/proc/sys/") {
        Some(name) => machine_wide(&name.replace('/', ".")),
        None => path.starts_with("/sys/").then_some(path),
    }));
    let said = |name: String| {
        format!("{name}: the script sets it, and the plan does not, for a clone has none of its own")
    };
    found.into_iter().map(said).collect()
}

/// The parameters that sysctl sets with these arguments. Source: sysctl(8).
fn set(arguments: &[&str], files: &RootFiles) -> BTreeSet<String> {
    let mut texts: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let loads = |word: &&str| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        word.starts_with("--load") || letters.is_some_and(|letters| letters.contains('p'))
    };
    let is_system = arguments.contains(&"--system");
    if is_system || arguments.iter().any(loads) {
        let mut paths: Vec<String> = arguments
            .iter()
            .map(|word| word.strip_prefix("--load=").unwrap_or(word))
            .filter(|word| word.starts_with('/'))
            .map(str::to_owned)
            .collect();
        if paths.is_empty() {
            paths.push("/etc/sysctl.conf".to_owned());
        }
        if is_system {
            paths
                .extend(files.names("/etc/sysctl.d").into_iter().map(|name| format!("/etc/sysctl.d/{name}")));
        }
        for path in paths {
            texts.extend(files.text(&path).lines().map(str::to_owned));
        }
    }
    let name = |text: &String| {
        let (name, _) =
            text.split_once('=').filter(|(name, _)| !name.trim_start().starts_with(['#', ';', '/']))?;
        machine_wide(&name.trim().trim_start_matches('-').replace('/', "."))
    };
    texts.iter().filter_map(name).collect()
}

/// A parameter by its name, but for those of the network and the host name, which each clone has.
fn machine_wide(name: &str) -> Option<String> {
    let is_name =
        !name.is_empty() && name.chars().all(|each| each.is_alphanumeric() || "._-*".contains(each));
    let is_own = name.starts_with("net.") || name == "kernel.hostname" || !name.contains('.');
    (is_name && !is_own).then(|| format!("kernel parameter {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(trace: &str, source: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/sysctl.d")).unwrap();
        let text = "# vm.dirty_ratio = 1\nvm.swappiness = 7\nnet.ipv4.ip_forward = 1\n";
        std::fs::write(root.path().join("etc/sysctl.d/90-x.conf"), text).unwrap();
        let trace = Trace::read(trace, source);
        let found = unexpressed(&trace, &RootFiles::new(root.path(), None));
        found.iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_script_sets_of_the_whole_machine_is_named() {
        for command in
            ["sysctl -p /etc/sysctl.d/90-x.conf", "sysctl --system", "sysctl -w vm.swappiness=7 net.core.x=1"]
        {
            let traced = names(&format!("\u{1}1.0 0 1 /\u{2}{command}\n"), "");
            assert_eq!(traced, ["kernel parameter vm.swappiness"], "{command}");
            assert_eq!(names("", &format!("{command}\n")), traced, "{command}");
        }
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let source = format!("echo never > {path}\necho 1 > /proc/sys/vm/drop_caches || true\n");
        let trace = "\u{1}1.0 0 1 /\u{2}echo never\n\u{1}1.0 0 2 /\u{2}echo 1\n";
        for trace in [trace, ""] {
            assert_eq!(names(trace, &source), [path, "kernel parameter vm.drop_caches"]);
        }
        assert_eq!(names("\u{1}1.0 0 1 /\u{2}sysctl -n vm.swappiness\n", ""), [""; 0]);
    }
}
