//! Holds the layers: imports go down only, and what belongs to one layer is not named in another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers from the lowest to the highest; those of one line may import each other.
const LAYERS: &[&[&str]] = &[
    &["event", "exit_code", "failure", "panicking", "redaction", "text", "time"],
    &["machine"],
    &["change", "journal"],
    &["session"],
    &["rollback"],
    &["script"],
    &["primitives"],
    &["plan", "rehearse"],
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

/// The rooms of a layer, each with the others that it imports: a file with the directory of its name, or a directory.
fn rooms(layer: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, module, text) in sources() {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        let [_, room, below @ ..] = parts.as_slice() else { continue };
        // What holds the rooms together imports them all.
        if module != layer || *room == "mod.rs" {
            continue;
        }
        let mut names = named_behind(&format!("crate::{layer}::"), &text);
        if below.is_empty() {
            // Without the one that stands at the end of `super::super::`.
            names.extend(named_behind("super::", &text.replace("super::super::", "")));
        }
        rooms.entry(room.trim_end_matches(".rs").to_owned()).or_default().extend(names);
    }
    rooms
}

/// The rooms on a way from `room` back to it.
fn circle(rooms: &BTreeMap<String, BTreeSet<String>>, room: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![room.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        let last = way.last().cloned().unwrap_or_default();
        // A room may name itself.
        for next in rooms.get(&last).into_iter().flatten().filter(|next| **next != last) {
            let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
            if next == room {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[test]
fn no_circle_within_a_layer() {
    for layer in ["run", "script"] {
        let rooms = rooms(layer);
        assert!(rooms.len() > 5, "{layer}: {rooms:?}");
        let circles: Vec<Vec<String>> = rooms.keys().filter_map(|room| circle(&rooms, room)).collect();
        assert_eq!(circles, Vec::<Vec<String>>::new(), "{layer}");
    }
}

#[test]
fn circles_are_found() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let rooms = BTreeMap::from([
        ("a".to_owned(), names(&["b", "a"])),
        ("b".to_owned(), names(&["c"])),
        ("c".to_owned(), names(&["b"])),
    ]);
    assert_eq!(circle(&rooms, "a"), None);
    assert_eq!(circle(&rooms, "b").unwrap(), ["b", "c", "b"]);
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "use crate::ui;\nuse crate::{run, journal::{self, History}, cli::Cli};\n// crate::config\nfn f(x: crate::event::Event) {}\n#[cfg(test)]\nmod tests { use crate::commands; }";
    let names: Vec<String> = imported(text).into_iter().collect();
    assert_eq!(names, ["cli", "event", "journal", "run", "ui"]);
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
fn nobody_below_the_user_interface_prints() {
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
