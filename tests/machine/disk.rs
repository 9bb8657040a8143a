//! A disk of its own for a clone, from which the power can be taken.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Room for what a whole plan writes; the image is sparse.
const SIZE: u64 = 8 << 30;
/// How long what still uses it may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// An image with a file system. Nothing of it stays mounted when it is dropped.
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
    /// Where the machine that survived is shown.
    shown: PathBuf,
}

impl Disk {
    /// Makes one of this kind (`ext4`, `xfs`) in an empty directory.
    pub(crate) fn new(directory: &Path, kind: &str) -> Self {
        let [image, at, shown] = ["image", "disk", "survived"].map(|name| directory.join(name));
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        succeed(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        for directory in [&at, &shown] {
            std::fs::create_dir(directory).unwrap();
        }
        let disk = Self { image, at, shown };
        disk.mount();
        disk
    }

    /// By a device of its own each time: a mount namespace that another process made meanwhile may still hold the file
    /// system that lost its power.
    fn mount(&self) {
        let device = succeed(Command::new("losetup").args(["--find", "--show"]).arg(&self.image));
        succeed(Command::new("mount").arg(device.trim()).arg(&self.at));
        // It goes with its last mount.
        succeed(Command::new("losetup").args(["--detach", device.trim()]));
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// From now on nothing reaches it any more, not even what its own log still held. (The ioctl `FS_IOC_SHUTDOWN`
    /// without a flush of the log.)
    pub(crate) fn lose_power(&self) {
        succeed(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at));
    }

    /// What is on it after its log was recovered.
    pub(crate) fn power_up(&self) {
        unmount(&self.at);
        self.mount();
    }

    /// Shows, not to be written, what a clone of `base` had become that wrote to `upper`.
    pub(crate) fn show(&self, upper: &Path, base: &Path) -> &Path {
        let options = format!("ro,redirect_dir=follow,lowerdir={}:{}", upper.display(), base.display());
        succeed(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&self.shown));
        &self.shown
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for path in [&self.shown, &self.at] {
            if is_mounted(path) {
                unmount(path);
            }
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    Command::new("mountpoint").arg("-q").arg(path).status().unwrap().success()
}

/// Waits for its last user to end.
fn unmount(path: &Path) {
    let begin = Instant::now();
    while !Command::new("umount").arg("-q").arg(path).status().unwrap().success() {
        if begin.elapsed() > PATIENCE {
            succeed(Command::new("umount").arg("--lazy").arg(path));
            panic!("`{}` is still in use", path.display());
        }
        sleep(Duration::from_millis(100));
    }
}

/// Gives what it printed.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
