//! A small world of packages: what dpkg and apt know of it, and where new ones come from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::ground::succeed;
use super::picture::hex;
use super::plans::write;
use sha2::{Digest as _, Sha256};

/// A package: its name, its version, what it needs, and in which step's directory it has a file.
const PACKAGES: [(&str, &str, &str, &str); 7] = [
    ("kkrun-one", "1.0", "kkrun-needed", "01"),
    ("kkrun-needed", "1.0", "", "01"),
    ("kkrun-two", "1.0", "", "02"),
    ("kkrun-marked", "1.0", "", "01"),
    ("kkrun-versioned", "1.0", "", "01"),
    ("kkrun-versioned", "2.0", "", "01"),
    ("kkrun-removed", "1.0", "", "02"),
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
    let index: String = PACKAGES.into_iter().map(|package| build(tree, package)).collect();
    write(tree, "repository/Packages", &index);
    // dpkg removes a directory that is empty.
    for step in ["01", "02"] {
        write(tree, &format!("{step}/kept"), "kept\n");
    }
    write(tree, &format!("01/{MARKED}"), MARKED);
    let control = control(MARKED, "1.0", "").replacen('\n', "\nStatus: install ok installed\n", 1);
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

/// The same, with packages that are installed in a version before the newest.
pub(crate) fn make_versions(tree: &Path) {
    make(tree);
    let installed = [("kkrun-versioned", "1.0"), ("kkrun-removed", "1.0")];
    let archives = installed.map(|(name, version)| tree.join("repository").join(archive(name, version)));
    let admin = format!("--admindir={}", tree.join("dpkg").display());
    succeed(Command::new("dpkg").args([&admin, "--log=/dev/null", "--install"]).args(archives));
}

fn archive(name: &str, version: &str) -> String {
    format!("{name}_{version}_all.deb")
}

fn architecture() -> String {
    let output = Command::new("dpkg").arg("--print-architecture").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn control(name: &str, version: &str, needs: &str) -> String {
    let needs = if needs.is_empty() { String::new() } else { format!("Depends: {needs}\n") };
    format!(
        "Package: {name}\nMaintainer: kkrun <root@localhost>\nArchitecture: all\nVersion: {version}\n{needs}\
         Description: a package of a test\n"
    )
}

/// Builds it and gives its lines of the index.
fn build(tree: &Path, (name, version, needs, step): (&str, &str, &str, &str)) -> String {
    let work = tree.join("repository/work");
    let inside = |path: &Path| work.join(path.strip_prefix("/").unwrap());
    let mine = inside(&tree.join(step));
    fs::create_dir_all(&mine).unwrap();
    fs::create_dir_all(work.join("DEBIAN")).unwrap();
    fs::write(mine.join(name), format!("{name} {version}")).unwrap();
    fs::write(work.join("DEBIAN/control"), control(name, version, needs)).unwrap();
    let place = tree.join(step).join(format!("{name}-is-configured"));
    for (script, does) in [("postinst", "touch --date=@1000000000"), ("prerm", "rm -f")] {
        let path = work.join("DEBIAN").join(script);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{does} {}\n", place.display())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let file = tree.join("repository").join(archive(name, version));
    succeed(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&work, &file]));
    fs::remove_dir_all(&work).unwrap();
    let bytes = fs::read(&file).unwrap();
    format!(
        "{}Filename: ./{}\nSize: {}\nSHA256: {}\n\n",
        control(name, version, needs),
        archive(name, version),
        bytes.len(),
        hex(&Sha256::digest(&bytes))
    )
}
