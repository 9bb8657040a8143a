//! Root edits in a directory that a hostile user owns: no symbolic link, hard link, FIFO or exchanged directory
//! redirects an edit, or its rollback, to a file of root's.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::Place;
use kkrun::machine::files::{User, as_user};
use rustix::fs::{CWD, FileType, RenameFlags, mknodat, renameat_with};

/// The hostile user: a real user of every Debian.
const STRANGER: u32 = 65_534;

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(STRANGER), Some(STRANGER)).unwrap();
}

/// The stranger's home beside a directory of root's, in which nothing may change.
fn homes() -> Place {
    let place =
        Place::empty().with("root/shadow", "root:$6$hash:19000::::::\n").with("home/.bashrc", "k=old\n");
    place.write("home/sub/.bashrc", "k=old\n");
    for (name, mode) in [("", 0o755), ("root", 0o755), ("root/shadow", 0o600)] {
        std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for name in ["home", "home/sub", "home/.bashrc", "home/sub/.bashrc"] {
        give(&place.path(name));
    }
    place.write("plan/files/new", "k=new\n");
    place.write("plan/files/tree/.bashrc", "k=new\n");
    place
}

/// The changes that are tried, of `FILE`.
const EDITS: [(&str, &str); 14] = [
    ("set", r#"config::set("FILE", "k", "new");"#),
    ("comment", r#"config::comment("FILE", "root:$6$hash:19000::::::");"#),
    ("remove-line", r#"config::remove("FILE", "k");"#),
    ("line", r#"config::line("FILE", "k=new", #{ matching: "^k=" });"#),
    ("in-place", r#"config::set("FILE", "k", "new", #{ in_place: true });"#),
    ("block", r#"config::block("FILE", "mine", "one\ntwo");"#),
    ("write", r#"file::write("FILE", "k=new\n");"#),
    ("write-open", r#"file::write("FILE", "k=new\n", #{ mode: "0666", owner: "nobody" });"#),
    ("copy", r#"file::copy("files/new", "FILE");"#),
    ("access", r#"file::access("FILE", #{ mode: "0666", owner: "nobody" });"#),
    ("access-tree", r#"file::access("PARENT", #{ mode: "0777", owner: "nobody", recursive: true });"#),
    ("mirror", r#"file::mirror("files/tree", "PARENT");"#),
    ("remove", r#"file::remove("FILE");"#),
    ("link", r#"file::link("/nowhere", "FILE");"#),
];

/// The traps that the stranger sets.
const TRAPS: [&str; 7] =
    ["symbolic link", "hard link", "fifo", "link to nothing", "linked parent", "linked home", "directory"];

/// Sets a trap and says which file is edited.
fn trap(place: &Place, kind: &str) -> &'static str {
    let (file, sub) = (place.path("home/sub/.bashrc"), place.path("home/sub"));
    let away = || drop(std::fs::remove_file(&file));
    match kind {
        "symbolic link" => {
            away();
            symlink(place.path("root/shadow"), &file).unwrap();
            give(&file);
        }
        // The kernel may be set to let every user make one.
        "hard link" => {
            away();
            std::fs::hard_link(place.path("root/shadow"), &file).unwrap();
        }
        "fifo" => {
            away();
            mknodat(CWD, &file, FileType::Fifo, 0o666.into(), 0).unwrap();
            give(&file);
        }
        "link to nothing" => {
            away();
            symlink(place.path("root/new"), &file).unwrap();
            give(&file);
        }
        "linked parent" => {
            std::fs::rename(&sub, place.path("home/aside")).unwrap();
            symlink(place.path("root"), &sub).unwrap();
            give(&sub);
        }
        "linked home" => {
            std::fs::rename(place.path("home"), place.path("aside")).unwrap();
            symlink(place.path("root"), place.path("home")).unwrap();
            give(&place.path("home"));
            std::fs::rename(place.path("root/shadow"), place.path("root/.bashrc")).unwrap();
            return "home/.bashrc";
        }
        _ => {
            away();
            std::fs::create_dir(&file).unwrap();
            give(&file);
        }
    }
    if kind == "linked parent" {
        std::fs::rename(place.path("root/shadow"), place.path("root/.bashrc")).unwrap();
    }
    "home/sub/.bashrc"
}

/// The entries of root's directory, a line for each, and their contents.
fn of_root(place: &Place) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let line = |(path, inode, seconds, nanoseconds, mode): (std::path::PathBuf, u64, i64, i64, u32)| {
        let metadata = path.symlink_metadata().unwrap();
        let owner = (metadata.uid(), metadata.gid());
        format!("{} {inode} {seconds}.{nanoseconds} {mode:o} {owner:?}\n", path.display())
    };
    let prints: String = place.prints_of("root").into_iter().map(line).collect();
    [prints, place.listing("root")].concat()
}

fn run_in_time(place: &Place, what: &str, words: &str) -> crate::support::Ran {
    let started = Instant::now();
    let ran = place.run(words);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{what} took {:?}: {}",
        started.elapsed(),
        ran.page()
    );
    ran
}

#[test]
#[ignore = "needs root"]
fn no_trap_redirects_an_edit() {
    for kind in TRAPS {
        let place = homes();
        let file = trap(&place, kind);
        let before = of_root(&place);
        for (name, edit) in EDITS {
            let parent = file.trim_end_matches("/.bashrc");
            let script = edit.replace("FILE", &format!("@/{file}")).replace("PARENT", &format!("@/{parent}"));
            place.write(&format!("plan/{name}.rhai"), &script);
            let what = format!("{name} at a {kind}");
            let ran = run_in_time(&place, &what, &format!("{name}.rhai --on-conflict overwrite"));
            assert!([0, 1].contains(&ran.status), "{what}: {}", ran.page());
            assert_eq!(of_root(&place), before, "{what}: {}", ran.page());
            run_in_time(
                &place,
                &what,
                &format!("rollback --plan {name} --on-conflict overwrite --purge all"),
            );
            assert_eq!(of_root(&place), before, "the rollback of {what}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn no_trap_redirects_a_rollback() {
    for kind in TRAPS {
        for (name, edit) in EDITS {
            let place = homes();
            for name in ["home/sub/.bashrc", "home/.bashrc"] {
                place.write(name, "k=old\nroot:$6$hash:19000::::::\n");
                give(&place.path(name));
            }
            let file = if kind == "linked home" { "home/.bashrc" } else { "home/sub/.bashrc" };
            let parent = file.trim_end_matches("/.bashrc");
            let script = edit.replace("FILE", &format!("@/{file}")).replace("PARENT", &format!("@/{parent}"));
            place.write(&format!("plan/{name}.rhai"), &script);
            let ran = run_in_time(&place, name, &format!("{name}.rhai --on-conflict overwrite"));
            assert_eq!(ran.status, 0, "{name}: {}", ran.page());
            let has_recorded = place.exists("state/journal");
            assert_eq!(has_recorded, name != "comment", "{name}: {}", ran.page());
            trap(&place, kind);
            let before = of_root(&place);
            let what = format!("rollback of {name} at a {kind}");
            for force in ["", " --on-conflict overwrite --purge all"] {
                let ran = run_in_time(&place, &what, &format!("rollback --plan {name}{force}"));
                // A plan that recorded nothing is unknown; any other is rolled back, or what stops that is named.
                let expected: &[i32] = if has_recorded { &[0, 1, 4] } else { &[2] };
                assert!(expected.contains(&ran.status), "{what}{force}: {}", ran.page());
                assert_eq!(of_root(&place), before, "{what}{force}: {}", ran.page());
            }
        }
    }
}

/// The same names as in the stranger's directory, so that every edit that is redirected does harm.
fn with_likeness(place: &Place, count: usize) {
    for (directory, owner) in [("home/sub", STRANGER), ("root", STRANGER)] {
        for n in 0..count {
            let path = place.path(&format!("{directory}/f{n}"));
            if n % 2 == 0 {
                std::fs::write(&path, format!("k=old {n}\n")).unwrap();
                chown(&path, Some(owner), Some(owner)).unwrap();
            }
        }
    }
}

/// Runs `work` while the stranger exchanges its directory for a link to root's, without pause.
fn while_exchanging<T>(place: &Place, work: impl FnOnce() -> T) -> (T, usize) {
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let trap = place.path("home/trap");
    if trap.symlink_metadata().is_err() {
        symlink(place.path("root"), &trap).unwrap();
        give(&trap);
    }
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let user = User { uid: STRANGER, gid: STRANGER, groups: Vec::new() };
            as_user(&user, || {
                // Pauses of every length, so that each place of an edit is hit.
                for pause in (0..100_000).step_by(937).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    renameat_with(CWD, place.path("home/sub"), CWD, &trap, RenameFlags::EXCHANGE)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    for _ in 0..pause {
                        std::hint::spin_loop();
                    }
                }
                Ok(())
            })
            .unwrap();
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result
    });
    if place.path("home/sub").is_symlink() {
        renameat_with(CWD, place.path("home/sub"), CWD, &trap, RenameFlags::EXCHANGE).unwrap();
    }
    (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), count.into_inner())
}

/// kkrun with its state in memory, where syncing is quick: the race is what takes the time.
fn quick(place: &Place, state: &Path, words: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.arg("--state-dir").arg(state).args(words.split(' ')).current_dir(place.path("plan"));
    let output = command.env("NO_COLOR", "1").stdin(std::process::Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[ignore = "needs root"]
fn no_race_redirects_thousands_of_edits_or_their_rollback() {
    const FILES: usize = 100;
    let place = homes();
    with_likeness(&place, FILES);
    let state = tempfile::tempdir_in("/dev/shm").unwrap();
    place.write(
        "plan/plan.rhai",
        &format!(
            r#"
let made = 0;
let refused = 0;
for round in range(0, 60) {{ if round > 14 && made > 40 {{ break; }} for n in range(0, {FILES}) {{
    let file = `@/home/sub/f${{n}}`;
    for act in [
        || config::set(file, "k", n + round), || file::write(file, `k=new ${{n + round}}\n`), || config::block(file, "b", "x"),
        || file::access(file, #{{ mode: "0600" }}),
    ] {{
        try {{ act.call(); made += 1; }} catch {{ refused += 1; }}
    }}
}} }}
print(`${{made}} ${{refused}}`);
"#
        ),
    );
    let before = of_root(&place);
    let ((status, said), exchanged) = while_exchanging(&place, || quick(&place, state.path(), "plan.rhai"));
    assert_eq!(of_root(&place), before, "{said}");
    assert!(exchanged > 50, "exchanged {exchanged} times");
    assert_eq!(status, Some(1), "some must have been refused: {said}");
    let done = changes(&place, state.path(), "\"state\":\"done\"").len();
    assert!(done > 20, "{done} edits were made: {said}");

    // The rollback, with the same race.
    let mut exchanged = 0;
    for _ in 0..3 {
        let ((_, said), count) = while_exchanging(&place, || {
            quick(&place, state.path(), "rollback --plan plan --on-conflict overwrite")
        });
        assert_eq!(of_root(&place), before, "{said}");
        exchanged += count;
    }
    assert!(exchanged > 10, "exchanged {exchanged} times");
    let (_, said) = quick(&place, state.path(), "rollback --plan plan --on-conflict overwrite --purge all");
    assert_eq!(of_root(&place), before, "{said}");
}

/// The number of changes whose line in the history contains this.
fn changes(place: &Place, state: &Path, wanted: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.arg("--state-dir").arg(state).args(["history", "--json"]).current_dir(place.path("plan"));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect()
}
