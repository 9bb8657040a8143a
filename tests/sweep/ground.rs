//! Where a sweep takes place: a tree that is set up, a state directory and a plan, on a file system of its own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::picture::Picture;
use super::plans::{BOUND, Bound, Scenario, TOKEN};
use super::server::Server;

/// Which file system lies under the tree and the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lying {
    /// One in memory, which loses nothing.
    Memory,
    /// An image for both.
    Together(&'static str),
    /// An image for each, so that a sync of the journal cannot make up for one of the tree.
    Apart(&'static str),
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(crate) struct Ground {
    directory: tempfile::TempDir,
    pub tree: PathBuf,
    pub state: PathBuf,
    port: u16,
    images: Vec<(PathBuf, PathBuf)>,
    bound: Vec<Bound>,
    /// How often power was lost.
    boots: u64,
    /// PostgreSQL, in memory: it loses nothing.
    server: Option<Server>,
}

/// The state directory, the tree and the server's data as they were at some moment.
pub(crate) struct Snapshot(PathBuf);

impl Ground {
    /// Mounts what it needs; the caller is in mounts of its own.
    pub(crate) fn new(lying: Lying, port: u16) -> Self {
        // Root runs nothing below a directory that others can write.
        let directory = tempfile::Builder::new().prefix("kkrun-sweep-").tempdir_in("/var/lib").unwrap();
        let base = directory.path().to_owned();
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "none"]).arg(&base));
        let mut images = Vec::new();
        let mut image = |name: &str, kind: &str| {
            let (file, at) = (base.join(format!("{name}.image")), base.join(name));
            let megabytes = if kind == "xfs" { 300 } else { 64 };
            fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
            succeed(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&file));
            fs::create_dir(&at).unwrap();
            images.push((file, at));
        };
        let (tree, state) = match lying {
            Lying::Memory => (base.join("m"), base.join("state")),
            Lying::Together(kind) => {
                image("disk", kind);
                (base.join("disk/m"), base.join("disk/state"))
            }
            Lying::Apart(kind) => {
                image("disk", kind);
                image("other", kind);
                (base.join("disk/m"), base.join("other/state"))
            }
        };
        let ground = Self { directory, tree, state, port, images, bound: Vec::new(), boots: 0, server: None };
        ground.mount();
        fs::create_dir(&ground.tree).unwrap();
        fs::create_dir(ground.base().join("plan")).unwrap();
        ground
    }

    pub(crate) fn base(&self) -> &Path {
        self.directory.path()
    }

    fn mount(&self) {
        for (file, at) in &self.images {
            succeed(Command::new("mount").args(["-o", "loop"]).args([file, at]));
        }
    }

    /// A power cut: whatever has not reached the disk is lost. (The ioctl `FS_IOC_SHUTDOWN` without a flush of the
    /// log.)
    pub(crate) fn lose_power(&mut self) {
        let bound = self.unbind();
        for (_, at) in &self.images {
            succeed(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(at));
        }
        for (_, at) in &self.images {
            succeed(Command::new("umount").arg(at));
        }
        self.mount();
        self.bind(&bound);
        self.boot_again();
    }

    /// The kernel says by its boot id that the machine restarted.
    fn boot_again(&mut self) {
        if self.boots > 0 {
            succeed(Command::new("umount").arg(BOOT_ID));
        }
        self.boots += 1;
        let id = self.base().join("boot_id");
        fs::write(&id, format!("00000000-0000-4000-8000-{:012}\n", self.boots)).unwrap();
        succeed(Command::new("mount").arg("--bind").args([id.as_path(), Path::new(BOOT_ID)]));
    }

    /// Makes the plan and the tree of a scenario.
    pub(crate) fn set_up(&mut self, scenario: &Scenario) -> Snapshot {
        if scenario.has_server {
            let directory = self.base().join("server");
            fs::create_dir(&directory).unwrap();
            self.server = Some(Server::start_in(&directory, &[]));
        }
        let server = self.server.as_ref().map(Server::options).unwrap_or_default();
        for (name, text) in scenario.files {
            let path = self.base().join("plan").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = text.replace("@PORT", &self.port.to_string()).replace("@SERVER", &server);
            fs::write(path, text.replace('@', self.tree.to_str().unwrap())).unwrap();
        }
        let plan = self.base().join("plan/secrets");
        fs::write(&plan, format!("token={TOKEN}\n")).unwrap();
        fs::set_permissions(plan, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        (scenario.make)(&self.tree);
        if let Some(server) = &self.server {
            super::databases::make(server);
        }
        let tree = self.tree.clone();
        let bound: Vec<_> = BOUND.into_iter().filter(|bound| tree.join(bound.name).exists()).collect();
        self.bind(&bound);
        self.snapshot("pristine")
    }

    fn bind(&mut self, bound: &[Bound]) {
        for Bound { name, place } in bound {
            succeed(Command::new("mount").arg("--bind").arg(self.tree.join(name)).arg(place));
        }
        self.bound = bound.to_vec();
    }

    fn unbind(&mut self) -> Vec<Bound> {
        for bound in &self.bound {
            succeed(Command::new("umount").arg(bound.place));
        }
        std::mem::take(&mut self.bound)
    }

    fn clear(&self) {
        for entry in fs::read_dir(&self.tree).unwrap() {
            let path = entry.unwrap().path();
            if self.bound.iter().any(|bound| path == self.tree.join(bound.name)) {
                for entry in fs::read_dir(&path).unwrap() {
                    remove(&entry.unwrap().path());
                }
            } else {
                remove(&path);
            }
        }
        remove(&self.state);
    }

    /// Keeps tree and state as they are now.
    pub(crate) fn snapshot(&self, name: &str) -> Snapshot {
        let at = self.base().join("snapshots").join(name);
        remove(&at);
        fs::create_dir_all(&at).unwrap();
        copy(&self.tree, &at.join("m"));
        if self.state.exists() {
            copy(&self.state, &at.join("state"));
        }
        if let Some(server) = &self.server {
            server.without(|data| copy(data, &at.join("data")));
        }
        Snapshot(at)
    }

    /// Brings that back, and onto the disk.
    pub(crate) fn restore(&self, snapshot: &Snapshot) {
        if let Some(server) = &self.server {
            server.without(|data| {
                remove(data);
                copy(&snapshot.0.join("data"), data);
            });
        }
        self.clear();
        copy(&snapshot.0.join("m"), &self.tree);
        if snapshot.0.join("state").exists() {
            copy(&snapshot.0.join("state"), &self.state);
        }
        for (_, at) in &self.images {
            rustix::fs::syncfs(fs::File::open(at).unwrap()).unwrap();
        }
    }

    /// As it shall be after a run: times are those of the run.
    pub(crate) fn picture(&self) -> Picture {
        self.with_databases(Picture::of(&self.tree))
    }

    /// As it shall be after a rollback: files have their times back.
    pub(crate) fn picture_with_times(&self) -> Picture {
        self.with_databases(Picture::with_times(&self.tree))
    }

    fn with_databases(&self, picture: Picture) -> Picture {
        match &self.server {
            Some(server) => picture.and(super::databases::entries(server)),
            None => picture,
        }
    }

    /// kkrun with these words, in an environment of its own and without a terminal.
    pub(crate) fn kkrun(&self, words: &[&str]) -> Vec<String> {
        let state = self.state.to_str().unwrap();
        let given = [env!("CARGO_BIN_EXE_kkrun"), "--state-dir", state, "--non-interactive"];
        given.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    /// What starts these words.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.base().join("plan")).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("NO_COLOR", "1").env("LANG", "C.UTF-8").env("TZ", "UTC");
        command
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Even mounts of its own are in the way of removing the directory.
        self.server = None;
        self.unbind();
        if self.boots > 0 {
            succeed(Command::new("umount").arg(BOOT_ID));
        }
        for (_, at) in &self.images {
            succeed(Command::new("umount").arg(at));
        }
        succeed(Command::new("umount").arg(self.base()));
    }
}

fn remove(path: &Path) {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    assert!(removed.as_ref().is_ok_and(|()| true) || is_missing(&removed), "{}: {removed:?}", path.display());
}

fn is_missing(result: &std::io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").args(["-aT"]).args([from, to]));
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
