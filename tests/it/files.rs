//! Files and trees of every name, size and shape.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::Place;

/// What `stat` shows of all below `m`, which must be the same when all is undone.
fn everything(place: &Place) -> String {
    let script = "find . -printf '%P %y %m %U %G %n %s %b %T@ %l\\n' | sort; lsattr -R . 2>/dev/null | sort; find . -type f -exec sha256sum {} + | sort";
    let output = Command::new("bash").args(["-c", script]).current_dir(place.path("m")).output();
    // A directory's time and size are those of what is in it.
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().filter(|line| !line.starts_with(" d ")).collect::<Vec<_>>().join("\n")
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

fn dated(path: &Path, seconds: &str) {
    let touched = Command::new("touch").args(["-h", "-d", seconds]).arg(path).status();
    assert!(touched.unwrap().success());
}

#[test]
fn names_that_sort_before_a_dot_or_a_slash_are_copied_mirrored_and_removed() {
    let names = ["+page.svelte", "(auth)/inner", "#x#", "$x", "-rf", " blank", "a/b", "a-b/c", "a.b", "!/!"];
    let place = Place::new(
        r#"
step::run("01", "Copy", || { file::copy("@/from", "@/m/copied"); });
step::run("02", "Mirror", || { file::mirror("@/from", "@/m/mirrored"); });
step::run("03", "Copy from the plan", || { file::copy("files/tree", "@/m/planned"); });
step::run("04", "Access", || { file::access("@/m/copied", #{ mode: "go=", recursive: true }); });
step::run("05", "Remove", || { file::remove("@/m/old"); });
"#,
    );
    for name in names {
        for root in ["from", "plan/files/tree", "m/old"] {
            place.write(&format!("{root}/{name}"), name);
        }
    }
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    for name in names {
        for root in ["copied", "mirrored", "planned"] {
            assert_eq!(place.read(&format!("m/{root}/{name}")), name);
        }
    }
    assert!(!place.exists("m/old"));
    place.run("plan.rhai --verify").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(place.listing("m"), before);
}

#[test]
fn hard_links_inside_a_removed_or_mirrored_tree_stay_together() {
    for act in [r#"file::remove("@/m/tree")"#, r#"file::mirror("@/from", "@/m/tree")"#] {
        let place = Place::new(&format!("step::run(\"01\", \"Act\", || {{ {act}; }});"));
        for name in ["m/tree/a/first", "m/tree/other", "from/one", "from/inner/x"] {
            place.write(name, name);
        }
        for (first, second) in [
            ("m/tree/a/first", "m/tree/a-second"),
            ("m/tree/a/first", "m/tree/b/third"),
            ("from/one", "from/two"),
        ] {
            std::fs::create_dir_all(place.path(second).parent().unwrap()).unwrap();
            std::fs::hard_link(place.path(first), place.path(second)).unwrap();
        }
        let before = everything(&place);
        place.run("plan.rhai").ends(0);
        if place.exists("m/tree") {
            assert_eq!(inode(&place.path("m/tree/one")), inode(&place.path("m/tree/two")));
        }
        place.run("plan.rhai --verify").ends(0);
        place.run("rollback").ends(0);
        assert_eq!(everything(&place), before, "{act}");
        let first = inode(&place.path("m/tree/a/first"));
        assert_eq!([first; 2], ["m/tree/a-second", "m/tree/b/third"].map(|name| inode(&place.path(name))));
    }
}

#[test]
fn a_file_with_a_name_elsewhere_is_neither_removed_nor_replaced() {
    for act in [
        r#"file::remove("@/m/tree/file")"#,
        r#"file::remove("@/m/tree")"#,
        r#"file::mirror("@/from", "@/m/tree")"#,
        r#"file::write("@/m/tree/file", "new")"#,
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"Act\", || {{ {act}; }});"));
        place.write("from/one", "one");
        place.write("m/tree/file", "before");
        std::fs::hard_link(place.path("m/tree/file"), place.path("elsewhere")).unwrap();
        let before = everything(&place);
        place.run("plan.rhai").ends(1).says("hard link").says("-samefile @/m/tree/file`");
        assert_eq!(everything(&place), before, "{act}");
        std::fs::remove_file(place.path("elsewhere")).unwrap();
        place.run("plan.rhai").ends(0);
    }
}

#[test]
fn sparse_files_stay_sparse_in_copies_backups_and_when_they_come_back() {
    const LENGTH: u64 = 256 << 20;
    let place = Place::new(
        r#"
step::run("01", "Copy", || { file::copy("@/m/sparse", "@/m/copied"); });
step::run("02", "Mirror", || { file::mirror("@/m/tree", "@/m/mirrored"); });
step::run("03", "Replace", || { file::write("@/m/sparse", "new\n"); });
step::run("04", "Remove", || { file::remove("@/m/tree"); });
"#,
    );
    std::fs::create_dir_all(place.path("m/tree")).unwrap();
    for name in ["m/sparse", "m/tree/sparse"] {
        let file = File::create(place.path(name)).unwrap();
        file.set_len(LENGTH).unwrap();
        file.write_all_at(name.as_bytes(), LENGTH / 2).unwrap();
        file.sync_all().unwrap();
    }
    let used = |path: &Path| path.metadata().unwrap().blocks() * 512;
    let before = everything(&place);
    place.run("plan.rhai").ends(0);
    for name in ["m/copied", "m/mirrored/sparse"] {
        assert_eq!(place.path(name).metadata().unwrap().len(), LENGTH);
        assert!(used(&place.path(name)) < 1 << 20, "{name}");
    }
    for backup in std::fs::read_dir(place.path("state/backups")).unwrap() {
        let backup = backup.unwrap().path();
        assert!(used(&backup) < 1 << 20, "{}", backup.display());
    }
    place.run("rollback").ends(0);
    assert_eq!(everything(&place), before);
}

#[test]
fn rollback_restores_links_with_their_times() {
    let place = place_of_links_and_files();
    let before = everything(&place);
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --verify").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(everything(&place), before);
}

#[test]
#[ignore = "needs a file system with file flags, such as ext4 or xfs"]
fn rollback_restores_files_with_their_flags() {
    let place = place_of_links_and_files();
    let flagged = ["m/tree/file", "m/flagged", "m/over"].map(|name| place.path(name));
    assert!(Command::new("chattr").arg("+dA").args(&flagged).status().unwrap().success());
    let before = everything(&place);
    assert!(before.contains('A'), "{before}");
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --verify").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(everything(&place), before);
}

/// A plan that replaces and removes links and files, each with a time of its own.
fn place_of_links_and_files() -> Place {
    let place = Place::new(
        r#"
step::run("01", "Relink", || { file::link("new", "@/m/link"); });
step::run("02", "Remove", || { file::remove("@/m/gone"); file::remove("@/m/tree"); });
step::run("03", "Write", || { file::write("@/m/flagged", "new\n"); });
step::run("04", "Mirror", || { file::mirror("@/m/from", "@/m/over"); });
"#,
    );
    for name in ["m/tree/file", "m/flagged", "m/over/file", "m/from/file"] {
        place.write(name, name);
    }
    for name in ["m/link", "m/gone", "m/tree/link", "m/over/link", "m/from/link"] {
        symlink("old", place.path(name)).unwrap();
        dated(&place.path(name), "2001-02-03 04:05:06.789");
    }
    place
}

#[test]
fn directory_in_place_of_a_file_is_a_conflict_replaced_with_overwrite_and_restored() {
    for act in [
        r#"file::write("@/m/it", "new\n")"#,
        r#"file::link("elsewhere", "@/m/it")"#,
        r#"file::copy("@/from", "@/m/it")"#,
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"Act\", || {{ {act}; }});"));
        place.write("from", "from");
        place.run("plan.rhai").ends(0);
        let made = everything(&place);
        place.remove("m/it");
        place.write("m/it/inner/theirs", "theirs");
        let theirs = everything(&place);
        place.run("plan.rhai --redo 01").ends(78).says("a directory").says("--on-conflict overwrite");
        place.run("rollback").ends(4).says("1 conflict");
        assert_eq!(everything(&place), theirs, "{act}");
        place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
        assert_eq!(place.read("state/journal").matches("\"in_doubt\"").count(), 0);
        let shape = |text: &str| {
            text.lines()
                .filter(|line| line.starts_with("it "))
                .map(|line| line[..5].to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(shape(&everything(&place)), shape(&made), "{act}");
        place.run("rollback").ends(0);
        assert!(!place.exists("m/it"), "{act}: {}", everything(&place));
    }
}

#[test]
fn rollback_with_overwrite_restores_a_file_where_the_operator_made_a_directory() {
    let place = Place::new(r#"step::run("01", "Write", || { file::write("@/m/it", "new\n"); });"#);
    place.write("m/it", "before\n");
    let before = everything(&place);
    place.run("plan.rhai").ends(0);
    place.remove("m/it");
    place.write("m/it/inner/theirs", "theirs");
    place.run("rollback").ends(4);
    place.run("rollback --on-conflict overwrite").ends(0);
    assert_eq!(everything(&place), before);
    assert_eq!(place.backups().iter().filter(|backup| *backup == "theirs").count(), 1);
}

#[test]
fn directory_kept_in_place_of_a_file_is_asked_about_once() {
    let place = Place::new(r#"step::run("01", "Write", || { file::write("@/m/it", "new\n"); });"#);
    place.run("plan.rhai").ends(0);
    place.remove("m/it");
    place.write("m/it/theirs", "theirs");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert!(place.exists("m/it/theirs"));
}

#[test]
fn directory_that_a_file_took_the_place_of_is_made_again_if_the_operator_says_so() {
    let place = Place::new(r#"step::run("01", "Make", || file::make_dir("@/m/d"));"#);
    place.run("plan.rhai").ends(0);
    place.remove("m/d");
    place.write("m/d", "theirs\n");
    place.run("plan.rhai --redo 01 --non-interactive").ends(78).says("a directory → a file");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    assert_eq!(place.read("m/d"), "theirs\n");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert!(place.path("m/d").is_dir());
    place.write("m/d/own", "mine\n");
    place.run("rollback").ends(0).says("kept");
    place.remove("m/d/own");
    place.run("rollback").ends(0).says("2 undone");
    assert!(!place.exists("m/d"));
    // What is nothing of kkrun's is refused as before.
    let place = Place::new(r#"step::run("01", "Make", || file::make_dir("@/m/d"));"#).with("m/d", "theirs\n");
    place
        .run("plan.rhai --on-conflict overwrite")
        .ends(1)
        .says("cannot create the directory `@/m/d`: it is a file");
}
