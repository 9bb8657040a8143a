//! Holds the layers: imports go down only and in no circle, and what belongs to one layer is not named in another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// The layers from the lowest to the highest; those of one line may import each other.
const LAYERS: &[&[&str]] = &[
    &["checksum", "event", "exit_code", "failure", "panicking", "pasteable", "redaction", "text", "time"],
    &["machine"],
    &["target"],
    &["change", "journal"],
    &["session"],
    &["rollback"],
    &["script"],
    &["primitives"],
    &["plan", "rehearse"],
    &["adopt"],
    &["ui"],
    &["cli", "commands", "config"],
    &["build", "lib", "main"],
];

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every source file with the module of the crate that it belongs to.
fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_owned();
                let first = relative.components().next().unwrap();
                let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
                found.push((relative, module, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The code without comments and without the tests at the end of the file, which may reach further.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// The modules of the crate that the code names: `crate::NAME` and each of `crate::{NAME, NAME}`.
fn imported(text: &str) -> BTreeSet<String> {
    named_behind("crate::", text)
}

/// The names that the code has behind `path`: `path::NAME` and each of `path::{NAME, NAME}`.
fn named_behind(path: &str, text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let code: String = code(text).collect::<Vec<_>>().join("\n");
    for behind in code.split(path).skip(1) {
        let name = |text: &str| {
            text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
        };
        match behind.strip_prefix('{') {
            None => {
                names.insert(name(behind));
            }
            Some(list) => {
                let mut depth = 0_usize;
                let mut at_start = true;
                for (at, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_start = true,
                        letter if at_start && !letter.is_whitespace() => {
                            names.insert(name(&list[at..]));
                            at_start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

#[test]
fn every_module_has_its_layer() {
    let unknown: BTreeSet<String> =
        sources().into_iter().map(|(_, module, _)| module).filter(|module| rank(module).is_none()).collect();
    assert_eq!(unknown, BTreeSet::new(), "name them in LAYERS");
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (path, module, text) in sources() {
        for name in imported(&text) {
            if rank(&name) > rank(&module) {
                wrong.push(format!("{} imports crate::{name}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "use crate::ui;\nuse crate::{run, journal::{self, History}, cli::Cli};\n// crate::config\nfn f(x: crate::event::Event) {}\n#[cfg(test)]\nmod tests { use crate::commands; }";
    let names: Vec<String> = imported(text).into_iter().collect();
    assert_eq!(names, ["cli", "event", "journal", "run", "ui"]);
}

/// The modules by their path (`machine::process::table`), each with the text of its file.
fn modules() -> BTreeMap<Vec<String>, String> {
    let name = |(path, _, text): (PathBuf, String, String)| {
        let path = path.with_extension("");
        let mut parts: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        (parts, code(&text).collect::<Vec<_>>().join("\n"))
    };
    sources().into_iter().filter(|(path, ..)| path.as_os_str() != "build.rs").map(name).collect()
}

/// The paths of a tree such as `a::{b, c::d as e}`, each with the name it goes by; and what follows the tree.
fn tree(text: &str) -> (Vec<(Vec<String>, String)>, &str) {
    let text = text.trim_start();
    let mut rest = text;
    let mut found = Vec::new();
    if let Some(list) = text.strip_prefix('{') {
        rest = list.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            let (inner, behind) = tree(rest);
            if behind.len() == rest.len() {
                break;
            }
            found.extend(inner);
            rest = behind.trim_start().trim_start_matches(',').trim_start();
        }
        return (found, rest.strip_prefix('}').unwrap_or(rest));
    }
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let end = if text.starts_with('*') { 1 } else { end };
    let (name, behind) = text.split_at(end);
    if let Some(deeper) = behind.strip_prefix("::") {
        let (inner, behind) = tree(deeper);
        let under = |(mut path, known): (Vec<String>, String)| {
            path.insert(0, name.to_owned());
            (path, known)
        };
        return (inner.into_iter().map(under).collect(), behind);
    }
    if name.is_empty() {
        return (found, rest);
    }
    rest = behind;
    let mut known = name.to_owned();
    if let Some(alias) = rest.trim_start().strip_prefix("as ") {
        let end =
            alias.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(alias.len());
        alias[..end].clone_into(&mut known);
        rest = &alias[end..];
    }
    (vec![(vec![name.to_owned()], known)], rest)
}

/// The paths in the code of a module, absolute as far as they begin with `crate`, `self`, `super` or a module inside;
/// those of `pub use` alone, or all.
fn paths(
    module: &[String],
    modules: &BTreeMap<Vec<String>, String>,
    only_handed_on: bool,
) -> Vec<(Vec<String>, String)> {
    let text = &modules[module];
    let mut starts = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let before = text[..at].rsplit(['\n', ';']).next().unwrap().trim();
        if before.is_empty() && !only_handed_on || before.starts_with("pub") {
            starts.push(at + "use ".len());
        }
    }
    if !only_handed_on {
        for start in ["crate::", "super::", "self::"] {
            let begins =
                |at: &usize| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            starts.extend(text.match_indices(start).map(|(at, _)| at).filter(begins));
        }
    }
    let absolute = |(path, known): (Vec<String>, String)| {
        let mut at = module.to_vec();
        let mut rest = path.as_slice();
        match path[0].as_str() {
            "crate" => at.clear(),
            "self" | "super" => {}
            name => {
                at.push(name.to_owned());
                if !modules.contains_key(&at) {
                    return None;
                }
                at.pop();
                at.extend(path);
                return Some((at, known));
            }
        }
        while let Some((first, behind)) =
            rest.split_first().filter(|(first, _)| ["crate", "self", "super"].contains(&first.as_str()))
        {
            if first == "super" {
                at.pop();
            }
            rest = behind;
        }
        at.extend(rest.iter().cloned());
        Some((at, known))
    };
    starts.into_iter().flat_map(|at| tree(&text[at..]).0).filter_map(absolute).collect()
}

/// The module in whose file the end of a path is defined, re-exports followed.
fn home(path: &[String], modules: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let deepest = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length])).unwrap();
    let (module, rest) = path.split_at(deepest);
    let Some(name) = rest.first() else { return module.to_vec() };
    match paths(module, modules, true).into_iter().find(|(_, known)| known == name) {
        Some((target, _)) if !target.starts_with(module) || target.len() > module.len() + 1 => {
            home(&target, modules)
        }
        _ => module.to_vec(),
    }
}

/// Which modules a module names. What it takes from one that it is inside of makes no circle: that one opens the room
/// which all in it share.
fn named(module: &[String], modules: &BTreeMap<Vec<String>, String>) -> BTreeSet<Vec<String>> {
    let mut named: BTreeSet<Vec<String>> =
        paths(module, modules, false).iter().map(|(path, _)| home(path, modules)).collect();
    named.retain(|other| !module.starts_with(other));
    named
}

/// Every shortest circle of modules that name each other, as the names of its modules.
fn circles(modules: &BTreeMap<Vec<String>, String>) -> BTreeSet<Vec<String>> {
    let edges: BTreeMap<&[String], BTreeSet<Vec<String>>> =
        modules.keys().map(|module| (module.as_slice(), named(module, modules))).collect();
    let mut circles = BTreeSet::new();
    for start in modules.keys() {
        let mut reached: BTreeMap<&[String], &[String]> = BTreeMap::new();
        let mut next: VecDeque<&[String]> = [start.as_slice()].into();
        while let Some(module) = next.pop_front() {
            for other in &edges[module] {
                if other == start {
                    let back = std::iter::successors(Some(module), |at| reached.get(at).copied());
                    let mut circle: Vec<String> = back.map(|module| module.join("::")).collect();
                    circle.reverse();
                    let first = (0..circle.len()).min_by_key(|at| circle[*at].clone()).unwrap();
                    circle.rotate_left(first);
                    circles.insert(circle);
                    next.clear();
                    break;
                }
                if !reached.contains_key(other.as_slice()) {
                    reached.insert(other, module);
                    next.push_back(other);
                }
            }
        }
    }
    circles
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let shown: Vec<String> = circles(&modules())
        .into_iter()
        .map(|circle| format!("{} → {}", circle.join(" → "), circle[0]))
        .collect();
    assert_eq!(shown, Vec::<String>::new());
}

#[test]
fn circles_are_found_through_every_form_of_path() {
    let circle_of = |files: &[(&str, &str)]| -> Vec<String> {
        let of = |(name, text): &(&str, &str)| {
            let path = name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            (path, (*text).to_owned())
        };
        let found = circles(&files.iter().map(of).collect());
        found.into_iter().map(|circle| circle.join(" ")).collect()
    };
    for files in [
        [("", ""), ("x", ""), ("x::a", "use super::b;"), ("x::b", "use crate::x::a::Thing;")],
        [
            ("", ""),
            ("x", "mod a; pub use b::Thing;"),
            ("x::a", "use super::Thing;"),
            ("x::b", "fn f() { super::a::f() }"),
        ],
        [
            ("", ""),
            ("x", ""),
            ("x::a", "use super::{c, b::{self, Thing as Other}};"),
            ("x::b", "use super::a::{f, g};"),
        ],
    ] {
        assert_eq!(circle_of(&files), ["x::a x::b"], "{files:?}");
    }
    assert_eq!(
        circle_of(&[
            ("", ""),
            ("x", "use a::f; pub struct S;"),
            ("x::a", "use super::S; use super::S as T;")
        ]),
        [""; 0]
    );
    assert_eq!(
        circle_of(&[("", ""), ("x", "use a::f;"), ("x::a", "use crate::y::g;"), ("y", "use crate::x::S;")]),
        ["x x::a y"]
    );
}

/// Files outside `modules` whose code names one of `words`.
fn named_elsewhere(words: &[&str], modules: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, module, text) in sources() {
        if modules.contains(&module.as_str()) {
            continue;
        }
        for (number, line) in code(&text).enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{} names {word}", path.display(), number + 1));
            }
        }
    }
    wrong
}

#[test]
fn only_the_machine_may_be_unsafe_or_start_processes() {
    assert_eq!(
        named_elsewhere(
            &["unsafe {", "unsafe fn", "unsafe impl", "unsafe_code", "std::process::Command"],
            &["machine"]
        ),
        Vec::<String>::new()
    );
}

#[test]
fn only_the_user_interface_prints() {
    let prints = ["println!", "eprintln!", "print!(", "io::stdout()", "io::stderr()"];
    // The build script talks to Cargo.
    assert_eq!(named_elsewhere(&prints, &["ui", "machine", "build"]), Vec::<String>::new());
}

#[test]
fn the_command_line_is_read_in_one_place() {
    let allowed = ["cli", "ui", "commands"];
    assert_eq!(named_elsewhere(&["clap::", "clap_complete::"], &allowed), Vec::<String>::new());
}

#[test]
fn scripts_are_known_to_their_layers_alone() {
    let allowed = ["script", "primitives"];
    assert_eq!(named_elsewhere(&["rhai::"], &allowed), Vec::<String>::new());
}

/// `failure::sentence` takes the number of the system's errors off, which every other way would show.
#[test]
fn errors_are_written_in_one_place() {
    let mut wrong = Vec::new();
    for (path, module, text) in sources() {
        if module != "failure" && !path.ends_with("tests.rs") && code(&text).any(|line| line.contains(":#}"))
        {
            wrong.push(path);
        }
    }
    assert_eq!(wrong, Vec::<PathBuf>::new());
}
