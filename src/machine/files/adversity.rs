//! What happens when the disk is full, read-only or mounted upon, and when a user works against kkrun.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use rustix::fs::{CWD, IFlags, RenameFlags, ioctl_setflags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::thread::UnshareFlags;

use super::testing::*;
use super::*;
use crate::failure::FailureKind;
use crate::machine::mount::separate_thread;

/// Gives the thread of the test its own mounts: they are invisible outside it and disappear with it.
fn mounts_of_its_own() {
    separate_thread(UnshareFlags::NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

fn small_file_system(path: &Path) {
    mount("none", path, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
}

/// Runs `test` in a scratch directory on a thread that has mounts of its own.
fn apart(test: impl FnOnce(&Path) + Send) {
    let (_directory, path) = scratch();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            mounts_of_its_own();
            test(&path);
        });
    });
}

#[test]
#[ignore = "needs root"]
fn a_full_file_system_changes_nothing() {
    apart(|path| {
        small_file_system(path);
        let file = path.join("file");
        std::fs::write(&file, "abc").unwrap();
        let before = FileState::observe(&file).unwrap();
        let much = vec![b'x'; 1 << 20];
        assert_eq!(kind(replace(&file, Contents::Bytes(&much), &mine(0o600), &before, "test")), "space");
        let mut tree = Manifest::default();
        tree.insert_directory(".", &mine(0o700));
        tree.insert_file("much", &much, &mine(0o600));
        assert_eq!(
            kind(build_tree(&path.join("live"), "test", &tree, &mut |_| Ok(Content::Bytes((&*much).into())))),
            "space"
        );
        assert_eq!(names(path), ["file"]);
        assert_eq!(FileState::observe(&file).unwrap(), before);
        let backups = crate::machine::backups::Backups::open(&path.join("backups")).unwrap();
        assert!(backups.save(&much).is_err());
        assert!(!crate::machine::backups::any_in(&path.join("backups")).unwrap());
    });
}

#[test]
#[ignore = "needs root"]
fn a_read_only_file_system_is_named() {
    apart(|path| {
        small_file_system(path);
        std::fs::write(path.join("file"), "abc").unwrap();
        let before = FileState::observe(&path.join("file")).unwrap();
        mount_remount(path, MountFlags::RDONLY, c"").unwrap();
        let absent = FileState::Absent;
        let new = path.join("new");
        assert_eq!(kind(replace(&new, Contents::Bytes(b""), &mine(0o600), &absent, "test")), "readonly");
        let error =
            replace(&new, Contents::Bytes(b""), &mine(0o600), &absent, "test").unwrap_err().to_string();
        assert!(error.contains(&format!("beside `{}`", new.display())), "{error}");
        assert_eq!(kind(link(&new, &"x".into(), 0, 0, None, &absent, "test")), "readonly");
        assert_eq!(kind(make_directory(&new, &mine(0o700), "test")), "readonly");
        assert_eq!(kind(remove(&path.join("file"), &before, "test")), "readonly");
        assert_eq!(kind(set_metadata(&path.join("file"), &mine(0o600), &before)), "readonly");
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_mounted_upon_stays() {
    apart(|path| {
        let at = |name: &str| path.join(name);
        std::fs::create_dir_all(at("tree/mounted")).unwrap();
        for name in ["file", "below", "tree/first"] {
            std::fs::write(at(name), "abc").unwrap();
        }
        mount_bind(at("below"), at("file")).unwrap();
        mount_bind("/proc", at("tree/mounted")).unwrap();
        let before = FileState::observe(&at("file")).unwrap();
        assert_eq!(kind(replace(&at("file"), Contents::Bytes(b""), &mine(0o600), &before, "test")), "busy");
        assert_eq!(names(path), ["below", "file", "tree"]);
        let tree = Manifest::observe(&at("tree")).unwrap();
        let mounted = FileState::Special { what: SpecialKind::Mount };
        assert_eq!(tree.get("mounted"), Some(&mounted));
        assert_eq!(tree.entries().count(), 3);
        assert_eq!(kind(remove_tree(&at("tree"), None)), "busy");
        assert_eq!(names(&at("tree")), ["first", "mounted"]);
    });
}

#[test]
#[ignore = "needs root and a file system with file flags, such as ext4 or xfs"]
fn an_immutable_file_stays_and_the_error_says_how_to_lift_it() {
    let (_directory, path) = scratch();
    let file = path.join("file");
    std::fs::write(&file, "abc").unwrap();
    let before = FileState::observe(&file).unwrap();
    let opened = std::fs::File::open(&file).unwrap();
    ioctl_setflags(&opened, IFlags::IMMUTABLE).unwrap();
    let result = replace(&file, Contents::Bytes(b"x"), &mine(0o600), &before, "test");
    let removed = remove(&file, &before, "test");
    ioctl_setflags(&opened, IFlags::empty()).unwrap();
    let error = result.unwrap_err();
    let failure = error.downcast_ref::<crate::failure::Failure>().unwrap();
    assert_eq!(failure.kind, FailureKind::Denied);
    assert!(failure.message.contains(&*file.to_string_lossy()) && failure.hints[0].contains("chattr -i"));
    assert_eq!(kind(removed), "denied");
    assert_eq!(names(&path), ["file"]);
}

/// One round of changes below `parent`, as a step would make them. How many of them succeeded.
///
/// Each would do harm in the directory of root: it makes what is not there, removes what is, or changes what
/// looks the same.
fn changes(parent: &Path) -> usize {
    let at = |name: &str| parent.join(name);
    let write = |name: &str, to: &Attributes| -> Result<()> {
        let after = replace(&at(name), Contents::Bytes(b"of kkrun"), to, &FileState::Absent, "race")?;
        remove(&at(name), &after, "race")
    };
    let set = || -> Result<()> {
        let before = FileState::observe(&at("same"))?;
        let after = Attributes { mode: 0o777, ..unprivileged(0) };
        set_metadata(&at("same"), &after, &before)?;
        set_metadata(
            &at("same"),
            &before.metadata().map_or(after, Attributes::from),
            &FileState::observe(&at("same"))?,
        )?;
        Ok(())
    };
    let linked = || -> Result<()> {
        let after = link(&at("link"), &"x".into(), 0, 0, None, &FileState::Absent, "race")?;
        remove(&at("link"), &after, "race")
    };
    let made = || -> Result<()> {
        remove_tree(&at("tree"), None)?;
        make_directory(&at("tree"), &unprivileged(0o777), "race").map(|_| ())
    };
    let results =
        [write("file", &unprivileged(0o666)), write("of-root", &mine(0o644)), set(), linked(), made()];
    results.iter().filter(|result| result.is_ok()).count()
}

#[test]
#[ignore = "needs root"]
fn a_user_who_swaps_directories_for_links_never_leads_root_astray() {
    let (_roots_directory, roots) = scratch();
    std::fs::create_dir(roots.join("tree")).unwrap();
    std::fs::write(roots.join("tree/inner"), "of root").unwrap();
    std::fs::write(roots.join("same"), "the same").unwrap();
    std::fs::set_permissions(&roots, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let before = Manifest::observe(&roots).unwrap();
    let (_place, place) = unprivileged_directory();
    let (parent, trap) = (place.join("parent"), place.join("trap"));
    std::fs::create_dir(&parent).unwrap();
    std::os::unix::fs::chown(&parent, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    std::fs::write(parent.join("same"), "the same").unwrap();
    std::os::unix::fs::symlink(&roots, &trap).unwrap();

    let user = User { uid: UNPRIVILEGED, gid: UNPRIVILEGED, groups: Vec::new() };
    let done = AtomicBool::new(false);
    let (mut succeeded, mut refused, mut rounds) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            as_user(&user, || {
                // Pauses of every length up to that of a whole round, so that each place in it is hit.
                for pause in (0..20_000).step_by(37).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    renameat_with(CWD, &parent, CWD, &trap, RenameFlags::EXCHANGE)?;
                    for _ in 0..pause {
                        std::hint::spin_loop();
                    }
                }
                Ok(())
            })
            .unwrap();
        });
        // Until both outcomes were seen: a race that never happened proves nothing.
        while rounds < 2000 || (rounds < 50_000 && (succeeded == 0 || refused == 0)) {
            let successes = changes(&parent);
            succeeded += successes;
            refused += 5 - successes;
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(succeeded > 0 && refused > 0, "{succeeded} changes succeeded, {refused} were refused");
    assert_eq!(Manifest::observe(&roots).unwrap(), before);
}

#[test]
#[ignore = "needs root and overlays"]
fn all_of_it_works_on_the_overlay_of_a_rehearsal() {
    apart(|path| {
        mount("none", path, "tmpfs", MountFlags::empty(), None).unwrap();
        let at = |name: &str| path.join(name);
        for name in ["lower/live/sub", "upper", "work", "merged"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["file", "meta", "gone", "live/sub/old"] {
            std::fs::write(at("lower").join(name), name).unwrap();
        }
        let shown = |name: &str| at(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on",
            shown("lower"),
            shown("upper"),
            shown("work")
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount("overlay", at("merged"), "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        let below = Manifest::observe(&at("lower")).unwrap();
        let seen = |name: &str| FileState::observe(&at("merged").join(name)).unwrap();
        let merged = at("merged");
        let written = replace(
            &merged.join("file"),
            Contents::Bytes(b"new"),
            &unprivileged(0o640),
            &seen("file"),
            "test",
        );
        assert_eq!(written.unwrap(), seen("file"));
        let metadata = set_metadata(&merged.join("meta"), &unprivileged(0o604), &seen("meta")).unwrap();
        assert_eq!(metadata.as_ref(), seen("meta").metadata());
        assert_eq!(access(&merged.join("meta")), (0o604, UNPRIVILEGED, UNPRIVILEGED));
        remove(&merged.join("gone"), &seen("gone"), "test").unwrap();
        let mut tree = Manifest::default();
        tree.insert_directory(".", &mine(0o755));
        tree.insert_file("new", b"abc", &mine(0o644));
        let live = merged.join("live");
        let built = build_tree(&live, "test", &tree, &mut |_| Ok(Content::Bytes(b"abc".into()))).unwrap();
        exchange_tree(&built, &live).unwrap();
        remove_tree(&built, None).unwrap();
        assert!(Manifest::observe(&live).unwrap().same_as(&tree));
        assert_eq!(names(&merged), ["file", "live", "meta"]);
        assert_eq!(Manifest::observe(&at("lower")).unwrap(), below);
    });
}
