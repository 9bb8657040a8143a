//! Nothing that others could have written runs: each part of a plan, writable by each kind of stranger, and replaced
//! while kkrun runs.

use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Place, Ran};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A user and group other than root, which every Debian has.
const STRANGER: u32 = 65_534;
/// A user with a group of the same name and number and no other members.
const CALLER: u32 = 1;

/// A plan with every kind of file that a plan has.
fn whole() -> Place {
    Place::new("step::run(\"01\", \"First\", \"01.rhai\");")
        .with(
            "plan/01.rhai",
            "import \"words\" as words;\nfile::write(\"@/m/a\", words::text());\nfile::copy(\"files/b\", \"@/m/b\");\n\
             file::copy(\"files/tree\", \"@/m/tree\");\nfile::write(\"@/m/s\", secret::ask(\"pin\", \"Pin\"));",
        )
        .with("plan/words.rhai", "fn text() { settings::text }")
        .with("plan/files/b", "b")
        .with("plan/files/tree/deep/c", "c")
        .with("plan/settings.rhai", "#{ text: \"a\" }")
        .with("mine.rhai", "#{ text: \"mine\" }")
        .with("given", "pin=correct horse battery\n")
}

const WORDS: &str = "plan.rhai --settings ../mine.rhai --secrets ../given";

/// Every file that is read before anything runs.
const PARTS: [&str; 13] = [
    "plan/plan.rhai",
    "plan/01.rhai",
    "plan/words.rhai",
    "plan/settings.rhai",
    "plan/files",
    "plan/files/b",
    "plan/files/tree/deep",
    "plan/files/tree/deep/c",
    "plan",
    "mine.rhai",
    "given",
    "state",
    ".",
];

fn set_mode(place: &Place, name: &str, mode: u32) {
    std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn prepared() -> Place {
    let place = whole();
    std::fs::create_dir(place.path("state")).unwrap();
    for part in PARTS {
        set_mode(&place, part, if place.path(part).is_dir() { 0o700 } else { 0o600 });
    }
    place
}

/// Checks that the plan is refused before anything is evaluated, and runs after the command that the hint names.
#[track_caller]
fn refused_until_repaired(place: &Place, what: &str) {
    for words in [WORDS.to_owned(), format!("{WORDS} --dry-run")] {
        let ran = place.run(&words);
        assert_eq!(ran.status, 77, "{what}: {}", ran.page());
        assert_eq!(place.prints_of("m").len(), 1, "{what}");
        assert_eq!(place.records().len(), 0, "{what}");
    }
    let said = place.run(WORDS).stderr;
    let mend = said.split('`').find(|text| text.starts_with("chmod ") || text.starts_with("chown "));
    let mend = mend.unwrap_or_else(|| panic!("{what}: no way to mend it in {said}"));
    let mend = mend.replace('@', place.path("").display().to_string().trim_end_matches('/'));
    assert!(
        Command::new("bash").args(["-c", &mend]).current_dir(place.path("plan")).status().unwrap().success(),
        "{what}: {mend}"
    );
    let ran = place.run(WORDS);
    assert_eq!(ran.status, 0, "{what}, after `{mend}`: {}", ran.page());
    assert!(place.exists("m/tree/deep/c"));
}

#[test]
#[ignore = "needs root"]
fn plan_that_others_can_write_or_own_is_refused_until_it_is_repaired() {
    for part in PARTS {
        let is_dir = part == "."
            || !part.contains('.') && !part.ends_with("/b") && !part.ends_with("/c") && part != "given";
        let (open, group) = if is_dir { (0o777, 0o775) } else { (0o666, 0o664) };
        let place = prepared();
        set_mode(&place, part, open);
        refused_until_repaired(&place, &format!("{part} written by everybody"));
        let place = prepared();
        chown(place.path(part), Some(0), Some(STRANGER)).unwrap();
        set_mode(&place, part, group);
        refused_until_repaired(&place, &format!("{part} written by a group"));
        let place = prepared();
        chown(place.path(part), Some(STRANGER), Some(0)).unwrap();
        refused_until_repaired(&place, &format!("{part} of a stranger"));
    }
}

#[test]
#[ignore = "needs root"]
fn an_access_control_list_and_a_group_of_several_count_as_others() {
    let place = prepared();
    let listed = Command::new("setfacl").args(["-m", "u:65534:rw"]).arg(place.path("plan/01.rhai")).status();
    assert!(listed.unwrap().success());
    refused_until_repaired(&place, "an access control list");

    let place = prepared();
    set_mode(&place, "plan/01.rhai", 0o664);
    place.run(WORDS).ends(0);
    place.remove("m");
    std::fs::create_dir(place.path("m")).unwrap();
    // The same with another user in root's group.
    let kkrun = place.command(&WORDS.split(' ').collect::<Vec<_>>());
    let script = "sed 's/^root:x:0:.*/root:x:0:nobody/' /etc/group > \"$1/group\" && \
                  mount --bind \"$1/group\" /etc/group && shift && exec \"$@\"";
    let mut apart = Command::new("unshare");
    apart.args(["-m", "bash", "-c", script, "bash"]).arg(place.path("")).arg(kkrun.get_program());
    apart.args(kkrun.get_args()).current_dir(place.path("plan"));
    let output = apart.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("is writable by its group"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn link_is_as_trusted_as_its_owner_and_its_directory() {
    let place = prepared();
    symlink("plan/plan.rhai", place.path("file-link")).unwrap();
    symlink("plan", place.path("directory-link")).unwrap();
    std::fs::create_dir(place.path("open")).unwrap();
    symlink("../plan", place.path("open/link")).unwrap();
    chown(place.path("open"), Some(STRANGER), Some(STRANGER)).unwrap();
    let own = |name: &str, owner: u32| lchown(place.path(name), Some(owner), Some(owner)).unwrap();
    let run = |words: &[&str]| -> Ran {
        place.run_words(&[words, &["--settings", "../mine.rhai", "--secrets", "../given"]].concat())
    };
    own("file-link", STRANGER);
    own("directory-link", STRANGER);
    for typed in ["../file-link", "../directory-link/plan.rhai"] {
        run(&[typed]).ends(77).says("belongs to `nobody`").says("chown --no-dereference root");
    }
    run(&["../open/link/plan.rhai"]).ends(77).says("@/open` belongs to `nobody`");
    place.run(&format!("{WORDS} --state-dir ../open/state")).ends(77);
    assert!(!place.exists("open/state"));
    assert_eq!(place.prints_of("m").len(), 1);
    own("directory-link", 0);
    run(&["../directory-link/plan.rhai"]).ends(0);
    // A link to a script is as trusted as the file that it points to.
    place.write("elsewhere.rhai", "fn text() { \"elsewhere\" }");
    place.remove("plan/words.rhai");
    symlink("../elsewhere.rhai", place.path("plan/words.rhai")).unwrap();
    set_mode(&place, "elsewhere.rhai", 0o666);
    run(&["plan.rhai"]).ends(77).says("@/elsewhere.rhai` is writable by everyone");
}

#[test]
#[ignore = "needs root"]
fn nothing_runs_from_a_directory_that_everybody_can_write() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::write(directory.path().join("plan.rhai"), "print(\"ran\");").unwrap();
    let place = Place::empty();
    let ran = place.run_words(&[directory.path().join("plan.rhai").to_str().unwrap()]).ends(77);
    assert!(!ran.stdout.contains("ran"));
    ran.says("`/tmp` is a directory in which everyone can create files")
        .says("/etc/kkrun/scripts")
        .never_says("chmod");
}

#[test]
#[ignore = "needs root"]
fn a_checkout_of_the_user_who_called_sudo_is_run_and_that_is_said_once() {
    let as_caller = |place: &Place, uid: u32, words: &str| {
        let mut command = place.command(&words.split(' ').collect::<Vec<_>>());
        let output = command.env("SUDO_UID", uid.to_string()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let place = prepared();
    for part in PARTS.into_iter().filter(|part| !["state", "."].contains(part)) {
        chown(place.path(part), Some(CALLER), Some(CALLER)).unwrap();
    }
    // A user's private group counts as the user.
    set_mode(&place, "plan/plan.rhai", 0o664);
    assert_eq!(as_caller(&place, STRANGER, WORDS).0, Some(77));
    assert_eq!(place.run(WORDS).status, 77);
    let (status, said) = as_caller(&place, CALLER, WORDS);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("who called sudo").count(), 1, "{said}");
    assert!(said.contains("/plan` belongs to `daemon`, who called sudo"), "{said}");
    // But not another user's, nor what others than the caller can write.
    chown(place.path("plan/words.rhai"), Some(STRANGER), Some(STRANGER)).unwrap();
    assert_eq!(as_caller(&place, CALLER, WORDS).0, Some(77));
    chown(place.path("plan/words.rhai"), Some(CALLER), Some(STRANGER)).unwrap();
    set_mode(&place, "plan/words.rhai", 0o664);
    assert_eq!(as_caller(&place, CALLER, WORDS).0, Some(77));
}

#[test]
fn content_that_was_checked_runs_though_the_file_is_replaced_meanwhile() {
    let place = Place::new(
        "step::run(\"01\", \"First\", \"01.rhai\");\nstep::run(\"02\", \"Second\", \"02.rhai\");\n\
         step::run(\"03\", \"Third\", || print(\"03 checked\"));",
    )
    .with(
        "plan/01.rhai",
        "for name in [\"plan\", \"02\", \"words\", \"settings\"] {\n    \
         cmd::run([\"sh\", \"-c\", `echo 'print(\"swapped\"); fn text() { \"swapped\" }' > @/plan/${name}.rhai`], \
         #{ always: \"a swap\" });\n}",
    )
    .with("plan/02.rhai", "import \"words\" as words;\nprint(words::text());\nprint(settings::text);")
    .with("plan/words.rhai", "fn text() { \"02 checked\" }")
    .with("plan/settings.rhai", "#{ text: \"settings checked\" }");
    place.run("plan.rhai").ends(0).prints("02 checked\nsettings checked\n03 checked\n");
    assert!(place.read("plan/words.rhai").contains("swapped"));
}

#[test]
#[ignore = "needs root"]
fn what_a_stranger_swaps_in_never_runs() {
    let place = Place::new("print(\"of root\");");
    // Everything belongs to root, but the stranger can exchange one file for the other.
    std::fs::create_dir_all(place.path("open/trap")).unwrap();
    std::fs::rename(place.path("plan"), place.path("open/plan")).unwrap();
    std::fs::create_dir(place.path("plan")).unwrap();
    place.write("open/trap/plan.rhai", "file::write(\"@/m/trapped\", \"\");");
    chown(place.path("open"), Some(STRANGER), Some(STRANGER)).unwrap();
    chown(place.path("open/trap"), Some(STRANGER), Some(STRANGER)).unwrap();
    symlink(place.path("open/plan/plan.rhai"), place.path("open/link")).unwrap();
    symlink(place.path("open/trap/plan.rhai"), place.path("open/other-link")).unwrap();
    set_mode(&place, ".", 0o755);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let user = kkrun::machine::files::User { uid: STRANGER, gid: STRANGER, groups: Vec::new() };
            let swap = |one: &str, other: &str| {
                renameat_with(CWD, place.path(one), CWD, place.path(other), RenameFlags::EXCHANGE)
            };
            kkrun::machine::files::as_user(&user, || {
                while !done.load(Ordering::Relaxed) {
                    swap("open/plan", "open/trap")?;
                    swap("open/link", "open/other-link")?;
                }
                Ok(())
            })
            .unwrap();
        });
        for round in 0..100 {
            let typed = ["../open/plan/plan.rhai", "../open/link"][round % 2];
            let ran = place.run(typed);
            if !(ran.status == 77 && ran.stdout.is_empty()) {
                done.store(true, Ordering::Relaxed);
                panic!("{}", ran.page());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!place.exists("m/trapped"));
}

#[test]
fn special_files_are_not_waited_for() {
    let place = Place::new("print(1);");
    for name in ["plan/fifo.rhai", "plan/words.rhai", "mine.rhai", "given"] {
        rustix::fs::mknodat(CWD, place.path(name), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }
    place.write("plan/import.rhai", "import \"words\" as words;\nwords::text();");
    for words in [
        "fifo.rhai",
        "import.rhai",
        "plan.rhai --settings ../mine.rhai",
        "plan.rhai --secrets ../given",
        "check fifo.rhai",
    ] {
        let started = std::time::Instant::now();
        place.run(words).ends(2).says("is not a regular file");
        assert!(started.elapsed().as_secs() < 10, "{words} waited");
    }
}

/// The sources of a directory and below, with their code without comments.
fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_unsafe_block_is_in_the_machine_layer_says_why_it_is_sound_and_is_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    let mut counts = std::collections::BTreeMap::new();
    for (path, text) in &found {
        let name = path.rsplit_once("/src/").unwrap().1;
        let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
        let is_unsafe = |line: &str| line.contains("unsafe {") || line.contains("unsafe fn");
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_unsafe(line)) {
            assert!(name.starts_with("machine/"), "{path}:{}: unsafe outside of machine/", at + 1);
            let before = text.lines().take(at).collect::<Vec<_>>();
            let reason =
                before.iter().rev().take(12).any(|line| line.contains("SAFETY") || line.contains("# Safety"));
            assert!(reason, "{path}:{}: `{}` does not say why it is sound", at + 1, line.trim());
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let listed: Vec<&str> = architecture
        .lines()
        .filter(|line| line.starts_with("| `machine/") && line.contains(".rs` |"))
        .collect();
    let counted: Vec<String> = counts.iter().map(|(name, count)| format!("| `{name}` | {count} |")).collect();
    let is_listed = |start: &String| listed.iter().any(|line| line.starts_with(start.as_str()));
    assert!(
        counted.iter().all(is_listed) && counted.len() == listed.len(),
        "ARCHITECTURE.md lists\n{}\nand there are\n{}",
        listed.join("\n"),
        counted.join("\n")
    );
}
