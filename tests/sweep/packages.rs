//! A small world of packages: what dpkg and apt know of it, and where new ones come from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::ground::succeed;
use super::picture::hex;
use super::plans::write;
use sha2::{Digest as _, Sha256};

/// A package: its name, what it needs, and in which step's directory it has a file.
const PACKAGES: [(&str, &str, &str); 4] = [
    ("kkrun-one", "kkrun-needed", "01"),
    ("kkrun-needed", "", "01"),
    ("kkrun-two", "", "02"),
    ("kkrun-marked", "", "01"),
];
/// A package that is already installed, automatically.
const MARKED: &str = "kkrun-marked";

/// Makes all of it.
pub(crate) fn make(tree: &Path) {
    for name in [
        "dpkg/info",
        "dpkg/updates",
        "dpkg/triggers",
        "apt/lists/partial",
        "cache/archives/partial",
        "log/apt",
    ] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    for name in
        ["passwd", "group", "shadow", "nsswitch.conf", "ld.so.cache", "machine-id", "pam.d", "security"]
    {
        let path = Path::new("/etc").join(name);
        if path.exists() {
            fs::create_dir_all(tree.join("etc")).unwrap();
            succeed(Command::new("cp").arg("-a").arg(path).arg(tree.join("etc")));
        }
    }
    let place = tree.to_str().unwrap();
    write(tree, "etc/apt/sources.list", &format!("deb [trusted=yes] file:{place}/repository ./\n"));
    write(tree, "etc/dpkg/dpkg.cfg", "no-debsig\n");
    let index: String =
        PACKAGES.into_iter().map(|(name, needs, step)| build(tree, name, needs, step)).collect();
    write(tree, "repository/Packages", &index);
    // dpkg removes a directory that is empty.
    for step in ["01", "02"] {
        write(tree, &format!("{step}/kept"), "kept\n");
    }
    write(tree, &format!("01/{MARKED}"), MARKED);
    let control = control(MARKED, "").replacen('\n', "\nStatus: install ok installed\n", 1);
    write(tree, "dpkg/status", &format!("{control}\n"));
    write(tree, "dpkg/available", "");
    write(tree, "dpkg/info/format", "1\n");
    let above: String = Path::new(place)
        .ancestors()
        .collect::<Vec<_>>()
        .iter()
        .rev()
        .skip(1)
        .fold("/.\n".to_owned(), |text, path| format!("{text}{}\n", path.display()));
    write(tree, &format!("dpkg/info/{MARKED}.list"), &format!("{above}{place}/01\n{place}/01/{MARKED}\n"));
    write(tree, &format!("dpkg/info/{MARKED}.md5sums"), "");
    write(
        tree,
        "apt/extended_states",
        &format!("Package: {MARKED}\nArchitecture: {}\nAuto-Installed: 1\n\n", architecture()),
    );
}

fn architecture() -> String {
    let output = Command::new("dpkg").arg("--print-architecture").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn control(name: &str, needs: &str) -> String {
    let needs = if needs.is_empty() { String::new() } else { format!("Depends: {needs}\n") };
    format!(
        "Package: {name}\nMaintainer: kkrun <root@localhost>\nArchitecture: all\nVersion: 1.0\n{needs}\
         Description: a package of a test\n"
    )
}

/// Builds it and gives its lines of the index.
fn build(tree: &Path, name: &str, needs: &str, step: &str) -> String {
    let work = tree.join("repository/work");
    let inside = |path: &Path| work.join(path.strip_prefix("/").unwrap());
    let mine = inside(&tree.join(step));
    fs::create_dir_all(&mine).unwrap();
    fs::create_dir_all(work.join("DEBIAN")).unwrap();
    fs::write(mine.join(name), name).unwrap();
    fs::write(work.join("DEBIAN/control"), control(name, needs)).unwrap();
    let place = tree.join(step).join(format!("{name}-is-configured"));
    for (script, does) in [("postinst", "touch"), ("prerm", "rm -f")] {
        let path = work.join("DEBIAN").join(script);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{does} {}\n", place.display())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let file = tree.join("repository").join(format!("{name}.deb"));
    succeed(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&work, &file]));
    fs::remove_dir_all(&work).unwrap();
    let bytes = fs::read(&file).unwrap();
    format!(
        "{}Filename: ./{name}.deb\nSize: {}\nSHA256: {}\n\n",
        control(name, needs),
        bytes.len(),
        hex(&Sha256::digest(&bytes))
    )
}
