//! Files that are much larger than what kkrun may need of memory. What a run needs is the mark that the kernel keeps of
//! a process's largest resident set, looked at until it ends; it stays at its height, so that no look can miss it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::support::{Place, Ran};

/// The size of the files, in MiB.
const LARGE: usize = 200;
/// How much more memory a run with such a file may need than one that does nothing, in MiB.
const MOST: u64 = 64;

/// A file of which no two blocks are equal, so that nothing can share them.
fn large(path: &Path, seed: u64) {
    const PIECE: usize = 1 << 20;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(path).unwrap();
    let mut piece = vec![b'x'; PIECE];
    for number in 0..LARGE {
        for block in (0..PIECE).step_by(4096) {
            let mark = [seed.to_le_bytes(), ((number * PIECE + block) as u64).to_le_bytes()].concat();
            piece[block..block + mark.len()].copy_from_slice(&mark);
        }
        file.write_all(&piece).unwrap();
    }
}

/// Runs kkrun and says how much memory it needed, in KiB.
fn peak(place: &Place, words: &str) -> (Ran, u64) {
    let mut command = place.command(&words.split_whitespace().collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let now = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = now.map_or(peak, |now| now.parse().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    (place.ran(&output), peak)
}

/// Runs the plan and rolls it back; each must stay within the bound.
#[track_caller]
fn frugal(place: &Place) {
    let idle = Place::new("step::run(\"01\", \"Nothing\", || {});\n");
    let (_, idle) = peak(&idle, "plan.rhai");
    let before = place.prints_of("m").len();
    let runs = [
        ("plan.rhai --dry-run", 6),
        ("plan.rhai", 0),
        ("plan.rhai --verify", 0),
        ("rollback --dry-run", 6),
        ("rollback", 0),
    ];
    let needed = runs.map(|(words, status)| {
        let (ran, needed) = peak(place, words);
        ran.ends(status);
        (words, needed.saturating_sub(idle) / 1024)
    });
    assert!(
        needed.iter().all(|(_, needed)| *needed <= MOST),
        "MiB more than a run that does nothing: {needed:?}"
    );
    assert_eq!(place.prints_of("m").len(), before);
}

#[test]
fn a_large_file_is_written_over_within_bounds() {
    let place = Place::new(r#"step::run("01", "Write", || { file::write("@/m/file", "small\n"); });"#);
    large(&place.path("m/file"), 1);
    frugal(&place);
}

#[test]
fn a_large_file_is_removed_within_bounds() {
    let place = Place::new(r#"step::run("01", "Remove", || { file::remove("@/m/file"); });"#);
    large(&place.path("m/file"), 1);
    frugal(&place);
}

#[test]
fn a_large_file_gives_way_to_a_link_within_bounds() {
    let place = Place::new(r#"step::run("01", "Link", || { file::link("elsewhere", "@/m/file"); });"#);
    large(&place.path("m/file"), 1);
    frugal(&place);
}

#[test]
fn a_large_file_gets_another_mode_within_bounds() {
    let plan = r#"step::run("01", "Access", || { file::access("@/m/file", #{ mode: "0600" }); });"#;
    let place = Place::new(plan);
    large(&place.path("m/file"), 1);
    frugal(&place);
}

#[test]
fn a_large_file_is_copied_over_another_within_bounds() {
    let place = Place::new(r#"step::run("01", "Copy", || { file::copy("@/from", "@/m/file"); });"#);
    large(&place.path("from"), 1);
    large(&place.path("m/file"), 2);
    frugal(&place);
}

#[test]
fn a_large_file_of_the_plan_is_copied_within_bounds() {
    let place = Place::new(r#"step::run("01", "Copy", || { file::copy("files/large", "@/m/file"); });"#);
    large(&place.path("plan/files/large"), 1);
    frugal(&place);
}

#[test]
fn a_tree_with_a_large_file_is_mirrored_over_another_within_bounds() {
    let place = Place::new(r#"step::run("01", "Mirror", || { file::mirror("@/from", "@/m/tree"); });"#);
    large(&place.path("from/file"), 1);
    large(&place.path("m/tree/file"), 2);
    frugal(&place);
}

#[test]
fn a_tree_of_the_plan_with_a_large_file_is_copied_within_bounds() {
    let place = Place::new(r#"step::run("01", "Copy", || { file::copy("files/tree", "@/m/tree"); });"#);
    large(&place.path("plan/files/tree/file"), 1);
    large(&place.path("m/tree/file"), 2);
    frugal(&place);
}

#[test]
fn a_tree_with_a_large_file_is_removed_within_bounds() {
    let place = Place::new(r#"step::run("01", "Remove", || { file::remove("@/m/tree"); });"#);
    large(&place.path("m/tree/file"), 1);
    frugal(&place);
}

/// The bytes that kkrun read of each file.
fn read_of(place: &Place, words: &str) -> std::collections::BTreeMap<String, usize> {
    let kkrun = place.command(&words.split_whitespace().collect::<Vec<_>>());
    let log = place.path("trace");
    let mut traced = std::process::Command::new("strace");
    traced.args([
        "-f",
        "-qq",
        "-y",
        "-s",
        "0",
        "-e",
        "trace=read,pread64,readv,preadv,copy_file_range,sendfile",
    ]);
    traced.arg("-o").arg(&log).arg(kkrun.get_program()).args(kkrun.get_args());
    traced.env_clear().envs(kkrun.get_envs().filter_map(|(name, value)| Some((name, value?))));
    traced.current_dir(place.path("plan")).stdin(Stdio::null());
    let ran = place.ran(&traced.output().unwrap());
    assert!([0, 6].contains(&ran.status), "{}", ran.page());
    let mut read = std::collections::BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let of = |line: &str| {
            let path = line.split_once('<')?.1.split_once('>')?.0.replace(&place.root(), "@");
            let length = line.rsplit_once("= ")?.1.parse::<usize>().ok()?;
            Some((path, length))
        };
        if let Some((path, length)) = of(line) {
            *read.entry(path).or_default() += length;
        }
    }
    read
}

#[test]
#[ignore = "needs strace"]
fn a_target_is_read_at_most_twice_and_its_copy_once() {
    const WHOLE: usize = LARGE << 20;
    for act in [
        r#"file::write("@/m/it/file", "small\n")"#,
        r#"file::remove("@/m/it/file")"#,
        r#"file::link("elsewhere", "@/m/it/file")"#,
        r#"file::access("@/m/it/file", #{ mode: "0600" })"#,
        r#"file::copy("@/from/file", "@/m/it/file")"#,
        r#"file::copy("@/from", "@/m/it")"#,
        r#"file::mirror("@/from", "@/m/it")"#,
        r#"file::remove("@/m/it")"#,
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"Act\", || {{ {act}; }});"));
        large(&place.path("from/file"), 1);
        large(&place.path("m/it/file"), 2);
        for words in ["plan.rhai --dry-run", "plan.rhai", "plan.rhai --verify", "rollback"] {
            let read = read_of(&place, words);
            // A tree is built beside, and the old one moved there: it is read under either name.
            let of = |name: &str| {
                read.iter()
                    .filter(|(path, _)| path.starts_with(name))
                    .map(|(_, length)| length)
                    .sum::<usize>()
            };
            let (target, origin) = (of("@/m/"), of("@/from/"));
            // What was written small just now may be read again.
            assert!(target <= 2 * WHOLE + 4096, "{act}, {words}: {read:?}");
            assert!(origin <= 2 * WHOLE, "{act}, {words}: {read:?}");
        }
    }
}

#[test]
#[ignore = "needs strace"]
fn an_edited_file_is_read_once_and_its_two_copies_are_not_read_again() {
    let text = "another = a value of usual length\n".repeat((8 << 20) / 34);
    for act in [
        r#"config::set("@/m/file", "key", "1")"#,
        r#"config::set("@/m/file", #{ one: 1, two: 2, another_one: 3 })"#,
        r#"config::line("@/m/file", "a line")"#,
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"Edit\", || {{ {act}; }});"));
        place.write("m/file", &text);
        // What is written in the tick in which it is read is read again.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let read = read_of(&place, "plan.rhai");
        let of = |name: &str| -> usize {
            read.iter().filter(|(path, _)| path.starts_with(name)).map(|(_, length)| length).sum()
        };
        let (target, backups) = (of("@/m/"), of("@/state/backups/"));
        assert!(target <= text.len() + 4096, "{act}: {read:?}");
        assert_eq!(backups, 0, "{act}: {read:?}");
    }
}

#[test]
fn modified_large_file_is_a_conflict_and_overwritten_within_bounds() {
    let place = Place::new(r#"step::run("01", "Write", || { file::write("@/m/file", "small\n"); });"#);
    place.run("plan.rhai").ends(0);
    large(&place.path("m/file"), 1);
    let mut needed = Vec::new();
    for (words, status) in [
        ("rollback", 4),
        ("plan.rhai --verify", 78),
        ("plan.rhai --redo 01", 78),
        ("plan.rhai --redo 01 --on-conflict overwrite", 0),
    ] {
        let (ran, more) = peak(&place, words);
        ran.ends(status);
        needed.push((words, more / 1024));
    }
    assert_eq!(place.read("m/file"), "small\n");
    assert!(needed.iter().all(|(_, needed)| *needed <= 32 + MOST), "MiB in all: {needed:?}");
}

#[test]
fn a_file_too_large_to_be_edited_is_refused_within_bounds_and_by_name() {
    let place = Place::new(r#"step::run("01", "Edit", || { config::set("@/m/file", "key", "1"); });"#);
    large(&place.path("m/file"), 1);
    let (ran, needed) = peak(&place, "plan.rhai");
    ran.ends(1).says("cannot read `@/m/file` as text: it is larger than 16 MiB");
    assert!(needed / 1024 <= 32 + MOST, "{needed} KiB");
}

#[test]
fn the_largest_text_is_edited_within_bounds() {
    let place = Place::new(r#"step::run("01", "Edit", || { config::set("@/m/file", "key", "1"); });"#);
    let text = "another = a value of usual length\n".repeat((16 << 20) / 34 - 1);
    place.write("m/file", &text);
    frugal(&place);
    assert!(place.read("m/file") == text);
}

#[test]
fn large_file_is_observed_within_bounds() {
    let place = Place::new(
        r#"step::run("01", "Look", || {
            if file::sha256("@/m/file") != file::stat("@/m/file").sha256 { throw "two digests"; }
            file::write("@/m/seen", "seen\n");
        });"#,
    );
    large(&place.path("m/file"), 1);
    frugal(&place);
}
