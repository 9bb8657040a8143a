//! A machine of its own that may be changed: a copy of a base, booted whole, with the disk and the network that a real
//! one has. Not a clone of a rehearsal: in this one things can be rehearsed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kkrun::machine::clone::cgroup::ControlGroup;
use kkrun::machine::clone::container::{Bind, Boot, Container, Inside};
use kkrun::machine::clone::network::{NAME_SERVER, NetworkNamespace};

/// A booted machine. Dropping it ends it and removes everything of it.
pub(crate) struct Machine {
    container: Container,
    _network: NetworkNamespace,
    _disk: Disk,
    _scratch: tempfile::TempDir,
}

/// Its disk, as long as it is mounted.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn new(image: &Path, at: PathBuf) -> Self {
        std::fs::File::create(image).unwrap().set_len(8 << 30).unwrap();
        succeed(Command::new("mkfs.ext4").arg("-q").arg(image));
        std::fs::create_dir(&at).unwrap();
        succeed(Command::new("mount").args(["-o", "loop"]).args([image, &at]));
        Self { at }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = || Command::new("umount").arg(&self.at).status().is_ok_and(|status| status.success());
        // Processes that were killed a moment ago may still hold it.
        (0..50).any(|_| {
            unmounted() || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
    }
}

impl Machine {
    /// Boots a copy of a base with these files in its /opt/test.
    pub(crate) fn boot(base: &Path, files: &[PathBuf]) -> Self {
        let scratch = super::clone::scratch();
        let disk = Disk::new(&scratch.path().join("image"), scratch.path().join("disk"));
        let root = disk.at.join("root");
        succeed(Command::new("cp").arg("-a").args([base, &root]));
        let test = root.join("opt/test");
        std::fs::create_dir_all(&test).unwrap();
        succeed(Command::new("cp").args(files).arg(&test));
        std::fs::write(root.join("etc/resolv.conf"), format!("nameserver {NAME_SERVER}\n")).unwrap();
        let name = format!("kkrun-test-{}", std::process::id());
        let network = NetworkNamespace::create(&name, &scratch.path().join("network.log"), false).unwrap();
        let tun = PathBuf::from("/dev/net/tun");
        let container = Container::boot(
            &Boot {
                hostname: "newcomer".to_owned(),
                root,
                network: network.path(),
                users: None,
                binds: vec![Bind { from: tun.clone(), to: tun, writable: true }],
                target: "multi-user.target".to_owned(),
                service: "none.service".to_owned(),
                log: scratch.path().join("console.log"),
                within: Duration::from_secs(60),
                name: name.clone(),
            },
            ControlGroup::create(&name).unwrap(),
            &|| false,
        )
        .unwrap();
        Self { container, _network: network, _disk: disk, _scratch: scratch }
    }

    /// Runs a script of /opt/test there; it must end with 0.
    pub(crate) fn passes(&self, script: &str) {
        let environment =
            [("HOME", "/root"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("KKRUN", "/opt/test/kkrun")];
        let inside = Inside {
            command: ["/bin/bash", &format!("/opt/test/{script}")].map(OsString::from).to_vec(),
            environment: environment.map(|(name, value)| (name.into(), value.into())).to_vec(),
            directory: Some("/root".into()),
        };
        let status = self.container.spawn(&inside).unwrap().wait().unwrap();
        assert!(status.success(), "{script}: {status}");
    }
}

fn succeed(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
