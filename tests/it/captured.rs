//! Captured commands: what they change is applied at once or not at all, shown before, and undone byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, Ran, until};

/// A plan of one captured command, run by bash.
fn plan(script: &str, options: &str) -> String {
    format!(
        "step::run(\"01\", \"First\", || cmd::run([\"bash\", \"-ec\", `{script}`], #{{ label: \"it\", {options} }}));\n"
    )
}

fn captured(script: &str) -> Place {
    Place::new(&plan(script, "capture: #{}"))
}

/// What is at every path below `m`: kind, mode, owner, time, number of names and content, and the extended attributes.
fn picture(place: &Place) -> BTreeMap<PathBuf, String> {
    fn add(path: &Path, into: &mut BTreeMap<PathBuf, String>) {
        let metadata = path.symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(path).unwrap().display().to_string()
        } else if metadata.is_file() {
            // A sparse file of a gibibyte is its first bytes and its size.
            use std::io::Read as _;
            let mut bytes = Vec::new();
            fs::File::open(path).unwrap().take(1 << 20).read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            String::new()
        };
        let xattrs = xattrs(path);
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        let time = if metadata.is_symlink() { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) };
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        into.insert(
            path.to_owned(),
            format!("{mode:o} {uid}:{gid} {time:?} {links} {size} {xattrs:?} {content}"),
        );
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                add(&entry.unwrap().path(), into);
            }
        }
    }
    let mut all = BTreeMap::new();
    add(&place.path("m"), &mut all);
    all
}

fn xattrs(path: &Path) -> Vec<String> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<String> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            format!("{}={}", String::from_utf8_lossy(name), hex::encode(&value[..length]))
        })
        .collect();
    found.sort();
    found
}

/// The names and contents of two pictures alone, for a comparison of what a command makes by itself.
fn without_times(picture: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let rest = |text: &String| {
        let (mode, rest) = text.split_once(" (").unwrap();
        format!("{mode} {}", rest.split_once(") ").unwrap().1)
    };
    picture.iter().map(|(path, text)| (path.clone(), rest(text))).collect()
}

#[track_caller]
fn same(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| format!("{}\n  {:?}\n  {:?}", path.display(), one.get(path), other.get(path)))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The command makes of `m` what it makes there by itself, and an undo restores `m` byte for byte.
fn is_applied_and_undone(make: impl Fn(&Place), script: &str) -> Place {
    let plain = Place::empty();
    make(&plain);
    let by_itself = script.replace('@', &plain.root());
    let status = Command::new("bash").args(["-ec", &by_itself]).env("HOME", "/root").status().unwrap();
    assert!(status.success());
    let expected: BTreeMap<PathBuf, String> = without_times(&picture(&plain))
        .into_iter()
        .map(|(path, text)| {
            (path.strip_prefix(plain.path("m")).unwrap().to_owned(), text.replace(&plain.root(), "@"))
        })
        .collect();

    let place = captured(script);
    make(&place);
    let before = picture(&place);
    let ran = place.run("plan.rhai").ends(0);
    let actual: BTreeMap<PathBuf, String> = without_times(&picture(&place))
        .into_iter()
        .map(|(path, text)| {
            (path.strip_prefix(place.path("m")).unwrap().to_owned(), text.replace(&place.root(), "@"))
        })
        .collect();
    same(&expected, &actual);
    ran.never_says("ending");
    place.run("rollback --dry-run").ends(6);
    place.run("rollback").ends(0).says("1 undone");
    same(&before, &picture(&place));
    assert!(!place.exists("state/captures"));
    place
}

#[test]
#[ignore = "needs root"]
fn files_directories_and_links_are_applied_and_undone() {
    let make = |place: &Place| {
        place.write("m/kept", "kept\n");
        place.write("m/changed", "old\n");
        place.write("m/gone", "gone\n");
        place.write("m/tree/a", "a\n");
        place.write("m/tree/deep/b", "b\n");
        place.write("m/file-to-be-directory", "file\n");
        place.write("m/directory-to-be-file/inner", "inner\n");
        std::os::unix::fs::symlink("kept", place.path("m/link")).unwrap();
        std::os::unix::fs::symlink("kept", place.path("m/turned")).unwrap();
    };
    is_applied_and_undone(
        make,
        "cd @/m; echo new > made; echo new > changed; rm gone; chmod 0600 kept; chown daemon kept; \
         mv tree renamed; mkdir -p dir/deep; echo x > dir/deep/x; ln -s x dir/link; rm link; ln -sfn other turned; \
         rm file-to-be-directory; mkdir file-to-be-directory; echo y > file-to-be-directory/y; \
         rm -r directory-to-be-file; echo z > directory-to-be-file; chmod 0700 .",
    );
}

#[test]
#[ignore = "needs root"]
fn names_of_one_file_attributes_and_holes_are_applied_and_undone() {
    let make = |place: &Place| {
        place.write("m/one", "one\n");
        fs::hard_link(place.path("m/one"), place.path("m/two")).unwrap();
        place.write("m/three", "three\n");
        fs::hard_link(place.path("m/three"), place.path("m/four")).unwrap();
        place.write("m/attributes", "x\n");
        let path = place.path("m/attributes");
        rustix::fs::setxattr(&path, "user.old", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    };
    let place = is_applied_and_undone(
        make,
        "cd @/m; mkdir d; echo a > d/a; ln d/a d/b; ln d/a c; rm two; rm four; ln one five; \
         truncate -s 1G sparse; echo end >> sparse; cp /bin/true suid; chmod 4755 suid; \
         python3 -c 'import os; os.setxattr(\"attributes\", \"user.new\", b\"2\"); os.removexattr(\"attributes\", \"user.old\")'",
    );
    assert_eq!(fs::metadata(place.path("m/one")).unwrap().nlink(), 2);
}

/// So many that what is new is moved: into directories that are there, over files, and whole directories, of which some have
/// marks of the overlay, names elsewhere, or something that came from outside of them.
#[test]
#[ignore = "needs root"]
fn many_files_are_applied_without_marks_of_the_overlay_and_undone() {
    let make = |place: &Place| {
        for number in 0..80 {
            place.write(&format!("m/there/old-{number:02}"), "old\n");
            place.write(&format!("m/again/{number:02}"), "old\n");
        }
        place.write("m/from/here", "moved\n");
        std::os::unix::fs::symlink("here", place.path("m/from/link")).unwrap();
        let path = place.path("m/there/old-07");
        rustix::fs::setxattr(&path, "user.note", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    };
    is_applied_and_undone(
        make,
        "cd @/m; for i in {00..79}; do echo new > there/new-$i; echo more >> there/old-$i; done; chmod 0600 there/old-0*; \
         chown daemon there/new-0*; rm -r again; mkdir -m 0710 again; for i in {00..69}; do echo new > again/$i; done; \
         mkdir -p made/deep made/empty; mv from/here from/link made/deep; mv there/old-79 made/old; \
         echo a > made/a; ln made/a made/b; mkdir split; echo c > split/c; ln split/c there/c; ln -s a made/link; \
         cp /bin/true made/suid; chmod 4755 made/suid; truncate -s 1M made/sparse; touch -d 2001-01-01 made made/deep",
    );
}

#[test]
#[ignore = "needs root"]
fn what_is_left_out_of_a_new_directory_is_not_there() {
    let script = "cd @/m; mkdir -p made/.cache/deep; touch made/.cache/deep/x made/.cache/y; for i in {00..99}; do echo $i > made/$i; done; \
                  touch -d 2001-01-01 made; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"made/socket\")'";
    let place = Place::new(&plan(script, "capture: #{ ignore: [\".cache\"] }"));
    place.write("m/there", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(fs::read_dir(place.path("m/made")).unwrap().count(), 100);
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/made"));
}

#[test]
#[ignore = "needs root"]
fn a_time_alone_is_applied_and_undone() {
    is_applied_and_undone(|place| place.write("m/one", "one\n"), "touch -d 2001-01-01 @/m/one");
}

#[test]
#[ignore = "needs root"]
fn an_attribute_that_the_command_sets_is_no_mark_of_its_overlay() {
    let set = "python3 -c 'import os; os.setxattr(\"@/m/d\", \"user.overlay.opaque\", b\"y\")'";
    let place = captured(&format!("{set}; echo new > @/m/d/new"));
    place.write("m/d/old", "old\n");
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/d/old").as_str(), place.read("m/d/new").as_str()), ("old\n", "new\n"));
}

#[test]
#[ignore = "needs root"]
fn a_command_that_wrote_much_says_how_much() {
    let place = captured("mkdir -p @/m; truncate -s 1G @/m/holes");
    place.run("plan.rhai").ends(0).never_says("wrote");
    let place = captured("mkdir -p @/m; fallocate -l 256M @/m/large; echo small > @/m/small");
    place.run("plan.rhai").ends(0).says("`it` wrote 2 files, 269 MB").says("state` holds them");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/large"));
}

#[test]
#[ignore = "needs root"]
fn a_name_that_is_written_is_parted_from_the_others_and_comes_back() {
    let place = captured("echo new > @/m/one");
    place.write("m/one", "old\n");
    fs::hard_link(place.path("m/one"), place.path("m/two")).unwrap();
    let before = picture(&place);
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/one"), place.read("m/two")), ("new\n".to_owned(), "old\n".to_owned()));
    place.run("rollback").ends(0);
    same(&before, &picture(&place));
    let [one, two] = ["m/one", "m/two"].map(|name| fs::metadata(place.path(name)).unwrap().ino());
    assert_eq!(one, two);
}

#[test]
#[ignore = "needs root"]
fn a_file_with_a_name_elsewhere_is_refused() {
    let place = captured("echo new > @/m/a/one");
    place.write("m/a/one", "old\n");
    fs::create_dir(place.path("m/b")).unwrap();
    fs::hard_link(place.path("m/a/one"), place.path("m/b/two")).unwrap();
    place
        .run("plan.rhai")
        .ends(1)
        .says("has another name (a hard link) elsewhere")
        .says("-samefile @/m/a/one");
    assert_eq!(place.read("m/a/one"), "old\n");
}

#[test]
#[ignore = "needs root"]
fn a_failed_command_changes_nothing() {
    let place = captured("echo half > @/m/half; rm @/m/old; exit 3");
    place.write("m/old", "old\n");
    let before = picture(&place);
    place.run("plan.rhai").ends(1).says("nothing was changed").never_says("`allow`");
    same(&before, &picture(&place));
    place.run("rollback").ends(0).says("0 undone");
}

#[test]
#[ignore = "needs root"]
fn a_killed_command_changes_nothing_and_leaves_nothing() {
    let place = captured("echo half > @/m/half; touch /run/kkrun-test-@NAME; sleep 60");
    let mark = PathBuf::from(format!("/run/kkrun-test-{}", std::process::id()));
    place.edit("plan/plan.rhai", "/run/kkrun-test-@NAME", &mark.display().to_string());
    let started = place.start("plan.rhai");
    until("the command is at work", || mark.exists());
    started.kill();
    fs::remove_file(&mark).unwrap();
    assert!(!place.exists("m/half"));
    place.edit("plan/plan.rhai", "; sleep 60", "");
    place.run("plan.rhai").ends(0).says("ending `");
    let _ = fs::remove_file(&mark);
    assert_eq!(place.read("m/half"), "half\n");
    assert!(!place.exists("state/captures"));
}

#[test]
#[ignore = "needs root"]
fn a_preview_says_that_it_does_not_see_the_changes_before_it() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || {\n    file::write(\"@/m/one\", \"1\\n\");\n    \
         cmd::run([\"touch\", \"@/m/two\"], #{ label: \"it\", capture: #{ preview: true } });\n});\n",
    );
    place.write("m/there", "");
    let note = "`it` was previewed without what the changes before it would bring";
    place.run("plan.rhai --dry-run").ends(6).says("@/m/two: a file of 0 bytes").says(note);
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --dry-run").never_says(note);
}

#[test]
#[ignore = "needs root"]
fn a_command_that_changes_nothing_is_not_recorded() {
    let place = captured("cat @/m/file > /dev/null; echo same > @/m/made; rm @/m/made; : >> @/m/file");
    place.write("m/file", "text\n");
    let before = picture(&place);
    place.run("plan.rhai").ends(0);
    same(&before, &picture(&place));
    assert!(!place.records().contains(&"intent".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn what_a_killed_run_applied_is_taken_back_and_the_command_finds_the_machine_as_before() {
    // As a run leaves it that was killed in the middle of applying: the intent, and one of the two files.
    let place = captured("echo more >> @/m/one; echo more >> @/m/two");
    place.write("m/one", "1\n");
    place.write("m/two", "2\n");
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("intent");
    place.write("m/two", "2\n");
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/one"), place.read("m/two")), ("1\nmore\n".to_owned(), "2\nmore\n".to_owned()));
    place.run("rollback").ends(0);
    assert_eq!((place.read("m/one"), place.read("m/two")), ("1\n".to_owned(), "2\n".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn a_conflict_before_a_rollback_is_one_of_that_path_alone() {
    let place = captured("echo new > @/m/one; echo new > @/m/two; mkdir @/m/made; echo x > @/m/made/x");
    place.write("m/one", "1\n");
    place.run("plan.rhai").ends(0);
    place.write("m/one", "theirs\n");
    place.write("m/made/mine", "mine\n");
    place
        .run("rollback --dry-run")
        .says("@/m/one: content differs")
        .says("the other 2 of 4 paths would be as before");
    place
        .run("rollback")
        .ends(4)
        .says("@/m/one: content differs")
        .says("it holds 1 entry that kkrun did not make: mine")
        .says("the other 2 of 4 paths are as before")
        .never_says("m/two");
    assert_eq!(place.read("m/one"), "theirs\n");
    assert_eq!(place.read("m/made/mine"), "mine\n");
    assert!(!place.exists("m/two") && !place.exists("m/made/x"));
    place.run("rollback --on-conflict overwrite").ends(0).says("1 undone");
    assert_eq!(place.read("m/one"), "1\n");
    assert!(!place.exists("m/made"));
    assert!(
        place.backups().contains(&"theirs\n".to_owned()) && place.backups().contains(&"mine\n".to_owned())
    );
}

/// Runs the plan of this place, whose captured command ends with [`WAIT`], and acts once the command has come there.
fn meanwhile(place: &Place, policy: &str, act: impl FnOnce()) -> Ran {
    let marks = tempfile::tempdir_in("/run").unwrap();
    let [up, go] = ["up", "go"].map(|name| marks.path().join(name));
    let wait = format!("touch {}; until test -e {}; do sleep 0.01; done", up.display(), go.display());
    place.edit("plan/plan.rhai", WAIT, &wait);
    let started = place.start(&format!("plan.rhai --on-conflict {policy}"));
    until("the command is at work", || up.exists());
    act();
    fs::write(&go, "").unwrap();
    let ran = started.end();
    place.edit("plan/plan.rhai", &wait, WAIT);
    ran
}

const WAIT: &str = "WAIT";

#[test]
#[ignore = "needs root"]
fn what_is_modified_while_the_command_runs_is_a_conflict_of_that_path_alone() {
    for (policy, status, one, two) in
        [("keep", 0, "theirs\n", "new\n"), ("overwrite", 0, "new\n", "new\n"), ("ask", 78, "theirs\n", "2\n")]
    {
        let place = captured("echo new > @/m/one; echo new > @/m/two; WAIT");
        place.write("m/one", "1\n");
        place.write("m/two", "2\n");
        let ran = meanwhile(&place, policy, || place.write("m/one", "theirs\n"));
        ran.ends(status).says("modified while `it` ran");
        assert_eq!((place.read("m/one").as_str(), place.read("m/two").as_str()), (one, two), "{policy}");
        if status == 0 {
            place.run("rollback").ends(0);
            assert_eq!(
                (place.read("m/one").as_str(), place.read("m/two").as_str()),
                ("theirs\n", "2\n"),
                "{policy}"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_kept_keeps_the_directories_that_it_needs() {
    for script in ["rm -r dir; mkdir dir; WAIT", "rm -r dir; WAIT", "rm -r dir; echo new > dir; WAIT"] {
        let place = captured(&format!("cd @/m; echo new > beside; {script}"));
        place.write("m/dir/old", "old\n");
        meanwhile(&place, "keep", || place.write("m/dir/sub/theirs", "theirs\n")).ends(0);
        assert_eq!(place.read("m/dir/sub/theirs"), "theirs\n", "{script}");
        assert!(place.exists("m/beside") && !place.exists("m/dir/old"), "{script}");
        place.run("rollback").ends(0);
        assert_eq!(
            (place.read("m/dir/sub/theirs").as_str(), place.read("m/dir/old").as_str()),
            ("theirs\n", "old\n")
        );
        assert!(!place.exists("m/beside"));
    }
}

#[test]
#[ignore = "needs root"]
fn access_that_is_changed_while_the_command_runs_is_a_conflict() {
    let mode = |place: &Place, name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o7777;
    for (policy, status, expected) in [("ask", 78, 0o700), ("keep", 0, 0o700), ("overwrite", 0, 0o755)] {
        let place = captured("echo new > @/m/dir/new; WAIT");
        place.write("m/dir/old", "old\n");
        let closed = || fs::set_permissions(place.path("m/dir"), Permissions::from_mode(0o700)).unwrap();
        meanwhile(&place, policy, closed).ends(status).says("m/dir: modified while `it` ran");
        assert_eq!(mode(&place, "m/dir"), expected, "{policy}");
        assert_eq!(place.exists("m/dir/new"), status == 0, "{policy}");
        if status == 0 {
            place.run("rollback").ends(0);
            assert_eq!((mode(&place, "m/dir"), place.exists("m/dir/new")), (0o700, false), "{policy}");
        }
    }
    // What is only added to a directory whose access the command leaves is no conflict.
    let place = captured("echo new > @/m/dir/new; WAIT");
    place.write("m/dir/old", "old\n");
    meanwhile(&place, "ask", || place.write("m/dir/theirs", "theirs\n")).ends(0);
    place.run("rollback").ends(0);
    assert!(place.exists("m/dir/theirs") && !place.exists("m/dir/new"));
}

#[test]
#[ignore = "needs root"]
fn what_is_removed_while_the_command_runs_is_a_conflict() {
    for (name, gone) in [("both", "both"), ("dir/both", "dir")] {
        for (policy, status) in [("ask", 78), ("keep", 0), ("overwrite", 0)] {
            let place = captured(&format!("echo mine >> @/m/{name}; echo new > @/m/beside; WAIT"));
            place.write(&format!("m/{name}"), "theirs\n");
            let remove = || {
                let path = place.path(&format!("m/{gone}"));
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
            };
            meanwhile(&place, policy, remove)
                .ends(status)
                .says(&format!("m/{gone}: modified while `it` ran"));
            assert_eq!(place.exists(&format!("m/{name}")), policy == "overwrite", "{gone} {policy}");
            assert_eq!(place.exists("m/beside"), status == 0, "{gone} {policy}");
            if status == 0 {
                place.run("rollback").ends(0);
                assert!(!place.exists(&format!("m/{gone}")) && !place.exists("m/beside"));
            }
        }
    }
    // What the command itself renamed was removed by no one else.
    let place = captured("cd @/m; mv old new; mkdir more; mv inner/old more/new; echo more >> new");
    place.write("m/old", "old\n");
    place.write("m/inner/old", "old\n");
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/new").as_str(), place.read("m/more/new").as_str()), ("old\nmore\n", "old\n"));
    place.run("rollback").ends(0);
    assert!(place.exists("m/old") && place.exists("m/inner/old") && !place.exists("m/new"));
}

#[test]
#[ignore = "needs root"]
fn a_preview_shows_the_difference_and_leaves_nothing() {
    let place = Place::new(&plan("echo new > @/m/one; rm @/m/two", "capture: #{ preview: true }"));
    place.write("m/one", "old\n");
    place.write("m/two", "2\n");
    let before = picture(&place);
    place
        .run("--dry-run plan.rhai")
        .ends(6)
        .says("2 paths changed")
        .says("-old")
        .says("+new")
        .says("@/m/two: a file of 2 bytes → absent");
    same(&before, &picture(&place));
    assert!(!place.exists("state"));
    let place = captured("touch @/m/made");
    place.run("--dry-run plan.rhai").ends(6).says("run it");
    assert!(!place.exists("m/made"));
}

#[test]
#[ignore = "needs root"]
fn paths_restrict_and_ignored_ones_are_dropped() {
    let script = "mkdir @/m/app @/m/cache; echo x > @/m/app/x; echo y > @/m/cache/y; echo z > @/m/app/junk";
    let place = Place::new(&plan(script, "capture: #{ paths: [\"@/m/app\"] }"));
    place
        .run("plan.rhai")
        .ends(1)
        .says("`@/m/cache` and 1 more is not in `paths`")
        .says("@/m/cache/y")
        .says("nothing was changed");
    assert!(!place.exists("m/app"));
    let options = "capture: #{ paths: [\"@/m/app\"], ignore: [\"@/m/cache\", \"junk\"] }";
    let place = Place::new(&plan(script, options));
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/app/x") && !place.exists("m/cache") && !place.exists("m/app/junk"));
    place.run("rollback").ends(0);
    assert!(!place.exists("m/app"));
}

#[test]
#[ignore = "needs root"]
fn services_are_out_of_reach_unless_they_are_allowed() {
    let directory = tempfile::tempdir_in("/run").unwrap();
    let socket = directory.path().join("service.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let connect = format!(
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{}\")'; touch @/m/reached",
        socket.display()
    );
    let place = captured(&connect);
    place.run("plan.rhai").ends(1).says("Connection refused").says("allow: [\"systemd\"]");
    assert!(!place.exists("m/reached"));
    let place = Place::new(&plan(&connect, "capture: #{ allow: [\"service\"] }"));
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/reached"));
}

#[test]
#[ignore = "needs root"]
fn kkruns_own_state_is_hidden_and_a_process_that_is_left_is_ended() {
    let place =
        captured("ls @/state > @/m/list; rm -rf @/state/* || true; sleep 600 & disown; touch @/m/made");
    place.run("plan.rhai").ends(0).says("ending `sleep`");
    assert_eq!(place.read("m/list"), "");
    assert!(place.exists("state/journal") && place.exists("m/made"));
}

#[test]
#[ignore = "needs root"]
fn nothing_that_a_captured_command_left_writes_into_what_is_applied() {
    let late = "while sleep 0.2; do echo late; done >> @/m/seven";
    let beside = format!("nohup sh -c '({late}) & wait' >/dev/null 2>&1 & sleep 0.3");
    let session = format!("setsid env -i sh -c '{late}' >/dev/null 2>&1 & sleep 0.3");
    let apart = format!(
        "(setsid unshare --mount setsid env -i sh -c '({late}) & ({late}) & exit' >/dev/null 2>&1 &); sleep 0.3"
    );
    let numbered =
        format!("unshare --pid --fork sh -c '({late}) & ({late}) & wait' >/dev/null 2>&1 & sleep 0.3");
    let looping = "perl -MPOSIX -e 'while () { fork and exit; setsid; open F, q(>>@/m/seven); print F q(late) }' >/dev/null 2>&1 & sleep 0.3";
    for script in [&beside, &session, &apart, &numbered, looping] {
        // Many files: they are moved, not copied.
        let place = captured(&format!(
            "for i in $(seq 100); do echo $i > @/m/f$i; done; echo 7 > @/m/seven; {script}"
        ));
        place.run("plan.rhai").ends(0).says("ending `");
        let seven = place.read("m/seven");
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(place.read("m/seven"), seven, "{script}");
        place.run("rollback").ends(0).says("1 undone");
        assert!(!place.exists("m/seven"));
    }
    // Nor does what a command left that failed.
    let place = captured(&format!("{beside}; echo $! > /run/kkrun-test-@NAME; exit 3"));
    let mark = PathBuf::from(format!("/run/kkrun-test-left-{}", std::process::id()));
    place.edit("plan/plan.rhai", "/run/kkrun-test-@NAME", &mark.display().to_string());
    place.run("plan.rhai").ends(1).says("nothing was changed").says("ending `");
    let pid = fs::read_to_string(&mark).unwrap();
    fs::remove_file(&mark).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
#[ignore = "needs root"]
fn a_path_that_is_too_long_is_refused_and_can_be_ignored() {
    let name = "n".repeat(40);
    let script = format!("touch @/m/made; cd @/m; for i in $(seq 120); do mkdir {name}; cd {name}; done");
    let place = captured(&script);
    place
        .run("plan.rhai")
        .ends(1)
        .says("cannot capture `@/m/nnnn")
        .says("the kernel takes 4095 at most")
        .says("`ignore` leaves out");
    assert!(!place.exists("m/made") && !place.exists(&format!("m/{name}")));
    let place = Place::new(&plan(&script, &format!("capture: #{{ ignore: [\"{name}\"] }}")));
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/made") && !place.exists(&format!("m/{name}")));
}

#[test]
#[ignore = "needs root"]
fn other_changes_to_the_same_paths_fit_together() {
    let place = Place::new(
        r#"
step::run("01", "Write", || file::write("@/m/shared", "one\n"));
step::run("02", "Captured", || cmd::run(["bash", "-ec", "echo two >> @/m/shared; echo x > @/m/made"], #{ label: "it", capture: #{} }));
step::run("03", "Write again", || { file::write("@/m/shared", "three\n"); file::write("@/m/made", "y\n"); });
"#,
    );
    place.run("plan.rhai").ends(0).never_says("outside kkrun");
    place.run("rollback 02").ends(1).says("needs");
    place.run("rollback --dry-run").ends(6).says("4 would be undone").never_says("differs");
    place.run("rollback 03").ends(0);
    assert_eq!((place.read("m/shared"), place.read("m/made")), ("one\ntwo\n".to_owned(), "x\n".to_owned()));
    place.run("rollback 02").ends(0);
    assert_eq!(place.read("m/shared"), "one\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/shared"));
}

#[test]
fn options_that_say_how_to_undo_are_refused_beside_capture() {
    for option in ["undo: []", "state: [\"true\"]", "retries: 1", "whole: true"] {
        let place = Place::new(&plan("true", &format!("capture: #{{}}, {option}")));
        let name = option.split_once(':').unwrap().0;
        place.run("plan.rhai").ends(1).says(&format!("`capture` must not be combined with `{name}`"));
    }
    let place = Place::new(&plan("true", "capture: #{ path: [] }"));
    place.run("plan.rhai").ends(1).says("unknown option `path`");
}

/// A plan of a command that appends a line, and one that fails until there is a flag.
fn appending(command: &str) -> Place {
    Place::new(&format!(
        "step::run(\"01\", \"First\", || {{\n{command}\n    cmd::run([\"test\", \"-e\", \"@/m/flag\"], #{{ always: \"a test\" }});\n}});\n"
    ))
}

#[test]
#[ignore = "needs root"]
fn a_step_goes_on_behind_the_commands_that_it_ran_and_redo_runs_them_again() {
    let append = "    cmd::run([\"bash\", \"-c\", \"echo more >> @/m/list\"], #{ capture: #{} });";
    let place = appending(&[append, append].join("\n"));
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("m/list"), "more\nmore\n", "each of two equal commands is run");
    place.write("m/flag", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/list"), "more\nmore\n", "none is run again");
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/list"), "more\nmore\nmore\nmore\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/list"));
}

#[test]
#[ignore = "needs root"]
fn a_command_whose_result_is_gone_or_that_is_another_one_is_run_again_where_the_step_goes_on() {
    let place = appending("    cmd::run([\"bash\", \"-c\", \"echo more >> @/m/list\"], #{ capture: #{} });");
    place.run("plan.rhai").ends(1);
    fs::remove_file(place.path("m/list")).unwrap();
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("m/list"), "more\n");
    place.edit("plan/plan.rhai", "echo more", "echo other");
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("m/list"), "more\nother\n");
}

#[test]
#[ignore = "needs root"]
fn an_examination_finds_what_a_command_left_removed_or_modified() {
    let place = captured("echo 1 > @/m/one; echo 2 > @/m/two");
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --verify").ends(0).says("still holds");
    fs::remove_file(place.path("m/one")).unwrap();
    place.run("plan.rhai --verify").ends(1).says("`@/m/one` was removed");
    place.run("plan.rhai --dry-run").ends(6);
    place.run("plan.rhai --repair").ends(0);
    assert_eq!(place.read("m/one"), "1\n");
    place.run("plan.rhai --verify").ends(0);
    place.write("m/two", "theirs\n");
    place.run("plan.rhai --verify").ends(1).says("`@/m/two` was modified");
}

#[test]
#[ignore = "needs root"]
fn what_later_changes_made_of_a_path_is_no_drift_and_neither_is_a_time() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || {\n    cmd::run([\"install\", \"-m\", \"644\", \"/etc/hostname\", \"@/m/host\"], #{ capture: #{ preview: true } });\n    \
         cmd::run([\"bash\", \"-c\", \"echo a > @/m/a; echo b > @/m/b\"], #{ capture: #{} });\n    \
         cmd::run([\"bash\", \"-c\", \"echo c > @/m/b\"], #{ capture: #{} });\n    file::write(\"@/m/a\", \"own\\n\");\n});\n",
    );
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --verify").ends(0).says("still holds");
    place.run("plan.rhai --dry-run").ends(0);
}

#[test]
#[ignore = "needs root"]
fn a_path_that_is_kept_after_a_kill_is_what_the_command_runs_on() {
    let place = captured("echo more >> @/m/one; echo 2 > @/m/two; rm @/m/old");
    for name in ["m/one", "m/old"] {
        place.write(name, "1\n");
    }
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("intent");
    place.write("m/one", "theirs\n");
    place.run("plan.rhai").ends(1).says("runs the command on what is there");
    place.run("plan.rhai --on-conflict keep").ends(0);
    assert_eq!((place.read("m/one"), place.read("m/two")), ("theirs\nmore\n".to_owned(), "2\n".to_owned()));
    assert!(!place.exists("m/old"));
    place.run("rollback").ends(0);
    assert_eq!((place.read("m/one"), place.read("m/old")), ("theirs\n".to_owned(), "1\n".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn what_a_rollback_cannot_see_is_neither_gone_nor_as_before() {
    let place = captured("mkdir @/m/d; echo 1 > @/m/there/made");
    place.write("m/there/mine", "mine\n");
    place.run("plan.rhai").ends(0);
    fs::rename(place.path("m/there"), place.path("m/moved")).unwrap();
    std::os::unix::fs::symlink("moved", place.path("m/there")).unwrap();
    place.run("rollback").ends(4).says("`@/m/there`: it was a directory, and is a symbolic link now");
    fs::remove_file(place.path("m/there")).unwrap();
    fs::rename(place.path("m/moved"), place.path("m/there")).unwrap();
    place.run("rollback").ends(0);
    assert!(!place.exists("m/there/made") && !place.exists("m/d") && place.exists("m/there/mine"));
}

#[test]
#[ignore = "needs root"]
fn nothing_is_undone_of_a_file_system_that_is_not_mounted() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || {\n    cmd::run([\"bash\", \"-c\", \"cd @/m/disk; echo 2 > made; rm mine\"], #{ capture: #{} });\n    \
         cmd::run([\"bash\", \"-c\", \"echo 2 > @/m/disk/sub/touched\"], #{ always: \"a test\", touches: [\"@/m/disk/sub/touched\"] });\n});\n",
    );
    let script =
        "set -eu; cd @/m; truncate -s 30M image; mkfs.ext4 -q image; mkdir disk; mount -o loop image disk
        mkdir disk/sub; echo mine > disk/mine; cd @/plan
        $K plan.rhai; umount @/m/disk
        ! $K --yes rollback 2> @/m/said; grep -q 'run `mount @/m/disk`' @/m/said; test -z \"$(ls @/m/disk)\"
        ! $K plan.rhai --verify
        ! $K plan.rhai --repair 2> @/m/said; grep -q 'run `mount @/m/disk`' @/m/said; test -z \"$(ls @/m/disk)\"
        mount -o loop @/m/image @/m/disk; $K plan.rhai --verify; $K --yes rollback
        test \"$(cat @/m/disk/mine)\" = mine; ! test -e @/m/disk/made; ! test -e @/m/disk/sub/touched";
    let script = script.replace('@', &place.root());
    let kkrun =
        format!("{} --state-dir {}/state --non-interactive", env!("CARGO_BIN_EXE_kkrun"), place.root());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-ec", &script])
        .env("K", kkrun)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs root"]
fn a_command_that_mounts_for_itself_alone_is_refused() {
    let place = captured("mkdir @/m/at; mount -t tmpfs none @/m/at; echo lost > @/m/at/file");
    place.run("plan.rhai").ends(1).says("it mounted a file system at `@/m/at`");
    assert!(!place.exists("m/at"));
    place.edit("plan/plan.rhai", "; echo lost > @/m/at/file", "; umount @/m/at");
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/at"));
}

#[test]
#[ignore = "needs root"]
fn overwriting_gives_a_file_that_kept_its_content_its_mode_back() {
    let mode = |place: &Place, name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o7777;
    let place = captured("chmod 600 @/m/edited @/m/gone; echo new > @/m/new");
    for name in ["m/edited", "m/gone"] {
        place.write(name, &format!("only in {name}\n"));
    }
    place.run("plan.rhai").ends(0);
    place.write("m/edited", "theirs\n");
    fs::remove_file(place.path("m/gone")).unwrap();
    place.run("rollback --on-conflict overwrite").ends(0).says("1 undone");
    assert_eq!((place.read("m/edited").as_str(), mode(&place, "m/edited")), ("theirs\n", 0o644));
    assert!(!place.exists("m/gone") && !place.exists("m/new"));
}

#[test]
#[ignore = "needs root"]
fn nothing_is_undone_or_applied_below_what_was_mounted_over_it() {
    let marks = format!("/run/kkrun-test-over-{}", std::process::id());
    let place = captured("mkdir -p @/m/d/deep; echo 1 > @/m/d/new; echo 1 > @/m/d/deep/er");
    fs::create_dir_all(place.path("m/d")).unwrap();
    place.write(
        "plan/later.rhai",
        &plan("echo 2 > @/m/d/new; touch $M/up; until test -e $M/go; do sleep 0.01; done", "capture: #{}")
            .replace('@', &place.root())
            .replace("$M", &marks),
    );
    let script = "set -eu; cd @/plan; mkdir $M; $K plan.rhai
        $K later.rhai 2> @/said & until test -e $M/up; do sleep 0.01; done
        mount -t tmpfs none @/m/d; touch $M/go; ! wait $!; rm -r $M
        grep -q 'modified while' @/said; test -z \"$(ls @/m/d)\"; umount @/m/d
        test \"$(cat @/m/d/new)\" = 1
        mount -t tmpfs none @/m/d
        for words in '' --dry-run '--on-conflict overwrite'; do
            ! $K rollback $words --plan plan 2> @/said; grep -q 'run `umount @/m/d`' @/said
        done
        umount @/m/d; test -e @/m/d/new
        $K rollback --plan plan; test -z \"$(ls @/m/d)\"";
    let script = script.replace('@', &place.root());
    let kkrun =
        format!("{} --state-dir {}/state --non-interactive", env!("CARGO_BIN_EXE_kkrun"), place.root());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-ec", &script])
        .envs([("K", &kkrun), ("M", &marks)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs root"]
fn what_the_machine_mounts_meanwhile_is_not_the_commands_doing() {
    let marks = format!("/run/kkrun-test-mounting-{}", std::process::id());
    let place = captured(&format!(
        "touch {marks}/up; until test -e {marks}/go; do sleep 0.01; done; echo 1 > @/m/made"
    ));
    let script = "set -eu; cd @/plan; mkdir $M @/old @/new; mount -t tmpfs none @/old
        $K plan.rhai & until test -e $M/up; do sleep 0.01; done
        mount -t tmpfs none @/new; umount @/old; touch $M/go; wait $!; rm -r $M";
    let script = script.replace('@', &place.root());
    let kkrun =
        format!("{} --state-dir {}/state --non-interactive", env!("CARGO_BIN_EXE_kkrun"), place.root());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "shared", "bash", "-ec", &script])
        .envs([("K", &kkrun), ("M", &marks)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.exists("m/made"));
}

#[test]
#[ignore = "needs root"]
fn a_path_that_another_process_writes_while_it_is_applied_leaves_nothing_in_doubt() {
    // The paths are applied in their order: once the first is there, the last one waits.
    let place = captured("cd @/m; for i in $(seq 60); do echo new > f$i; done; echo new >> zz");
    (1..=60).for_each(|i| place.write(&format!("m/f{i}"), "old\n"));
    place.write("m/zz", "mine\n");
    place.write("theirs", "theirs\n");
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A pause could miss the moment.
            let began = std::time::Instant::now();
            while place.read("m/f1") != "new\n" && began.elapsed().as_secs() < 60 {
                std::hint::spin_loop();
            }
            fs::rename(place.path("theirs"), place.path("m/zz")).unwrap();
        });
        place.run("plan.rhai")
    });
    ran.ends(1).says("`@/m/zz` was modified outside kkrun in the meantime");
    assert_eq!((place.read("m/f1").as_str(), place.read("m/zz").as_str()), ("old\n", "theirs\n"));
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/f1").as_str(), place.read("m/zz").as_str()), ("new\n", "theirs\nnew\n"));
    place.run("rollback").ends(0);
    assert_eq!((place.read("m/f1").as_str(), place.read("m/zz").as_str()), ("old\n", "theirs\n"));
}

#[test]
#[ignore = "needs root"]
fn a_command_that_does_not_make_what_it_is_there_for_changes_nothing() {
    for option in ["capture: #{}", "touches: [\"@/m/g\"]"] {
        let place =
            Place::new(&plan("mkdir -p @/m; echo x >> @/m/g", &format!("{option}, creates: \"@/m/f\"")));
        place.run("plan.rhai").ends(1).says("did not make `@/m/f`");
        assert_eq!(place.exists("m/g"), option.starts_with("touches"));
        place.edit("plan/plan.rhai", "echo x >>", "echo f > @/m/f; echo x >>");
        place.run("plan.rhai").ends(0);
        place.run("rollback").ends(0);
        assert_eq!((place.exists("m/g"), place.exists("m/f")), (false, option.starts_with("touches")));
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_written_through_a_symlink_is_ignored_there_and_said_of_a_touching_command() {
    let set_up = |place: &Place| {
        place.write("m/real/f", "0\n");
        std::os::unix::fs::symlink("real", place.path("m/link")).unwrap();
    };
    let place =
        Place::new(&plan("echo 1 >> @/m/link/f; echo 1 > @/m/made", "capture: #{ ignore: [\"@/m/link\"] }"));
    set_up(&place);
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/real/f").as_str(), place.exists("m/made")), ("0\n", true));
    let touching = |more: &str| {
        Place::new(&plan("echo 1 >> @/m/link/f", &format!("always: \"x\", touches: [\"@/m/link\"{more}]")))
    };
    let place = touching("");
    set_up(&place);
    place.run("plan.rhai").ends(0).says("`@/m/link` is a symlink to `@/m/real`");
    let place = touching(", \"@/m/real\"");
    set_up(&place);
    place.run("plan.rhai").ends(0).never_says("is a symlink");
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/real/f"), "0\n");
}

#[test]
#[ignore = "needs root"]
fn a_step_whose_paths_an_earlier_step_made_again_no_longer_holds() {
    let place = Place::new(
        r#"
step::run("01", "Install", || cmd::run(["bash", "-ec", "cd @/m; mkdir -p app; echo port=80 > app/conf; echo doc > app/doc"], #{ label: "install", capture: #{} }));
step::run("02", "Configure", || cmd::run(["sed", "-i", "s/80/8080/", "@/m/app/conf"], #{ label: "configure", capture: #{} }));
"#,
    );
    fs::create_dir_all(place.path("m")).unwrap();
    place.run("plan.rhai").ends(0);
    place.run("rollback 01").ends(1).says("needs");
    assert!(place.exists("m/app/doc"));
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/app/conf"), "port=80\n");
    place.run("plan.rhai --verify").ends(1).says("02 Configure              drifted");
    place.run("plan.rhai --repair").ends(0);
    assert_eq!(place.read("m/app/conf"), "port=8080\n");
    fs::remove_file(place.path("m/app/doc")).unwrap();
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/app/conf"), "port=8080\n");
    place.run("plan.rhai --verify").ends(0);
    place.run("rollback").ends(0);
    assert!(!place.exists("m/app"));
}

#[test]
#[ignore = "needs root"]
fn a_dry_run_names_the_command_that_runs_again_behind_what_drifted() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/file", "x\n");
    cmd::run(["sh", "-c", "echo line >> @/m/list"], #{ label: "add a line", capture: #{} });
});
step::run("02", "Second", || cmd::run(["sh", "-c", "echo 2 > @/m/second"], #{ label: "second", capture: #{} }));
"#,
    );
    fs::create_dir_all(place.path("m")).unwrap();
    place.run("plan.rhai").ends(0);
    fs::remove_file(place.path("m/file")).unwrap();
    place
        .run("plan.rhai --repair --dry-run --on-conflict overwrite")
        .says("run add a line")
        .never_says("run second");
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/list"), "line\nline\n");
}

#[test]
#[ignore = "needs root"]
fn what_a_repair_was_told_to_overwrite_is_no_conflict_of_the_rollback() {
    let place = captured("mkdir -p @/m/app; echo 1 > @/m/app/v; echo w > @/m/app/w");
    fs::create_dir_all(place.path("m")).unwrap();
    place.run("plan.rhai").ends(0);
    place.write("m/app/v", "2\n");
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/app/v"), "1\n");
    place.run("rollback --dry-run").ends(6).says("2 would be undone").says("0 conflicts");
    place.run("rollback").ends(0).says("2 undone");
    assert!(!place.exists("m/app"));
}
