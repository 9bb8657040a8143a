//! A container booted with its own service manager from a root directory, and processes run inside it.

#![expect(unsafe_code, reason = "a process changes its namespaces between fork and exec")]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::ThreadNameSpaceType;

use super::cgroup::{self, ControlGroup};
use super::id_range::IdRange;
use super::network;
use crate::machine::{mount, tool};

/// systemd-nspawn ends with this status when the container asks for a reboot and its unit is kept.
/// Source: systemd-nspawn(1), `--keep-unit`.
const ASKED_FOR_REBOOT: i32 = 133;

/// Where systemd-nspawn keeps what it has of its containers.
const KEPT_BY_NSPAWN: &str = "/run/systemd/nspawn";

/// How often a wait checks whether it has to end.
const GLANCE: Duration = Duration::from_millis(50);

/// What to boot, and how.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The container's name: letters, digits and dashes, new on this machine.
    pub name: String,
    /// Its root directory.
    pub root: PathBuf,
    /// The name it calls itself.
    pub hostname: String,
    /// The file of the network namespace that routes its packets.
    pub network: PathBuf,
    /// The numbers that its users have on this machine. Without it, root inside is root outside: only for trusted
    /// content.
    pub users: Option<IdRange>,
    /// Directories and files shown inside: from, to, and whether they can be written there.
    pub binds: Vec<Bind>,
    /// The unit it boots to.
    pub target: String,
    /// The service inside that entering processes become part of: they end with it.
    pub service: String,
    /// Where what it prints while booting goes.
    pub log: PathBuf,
    /// How long booting may take.
    pub within: Duration,
}

impl Boot {
    /// What systemd-nspawn keeps of it outside of it while it runs, and leaves if it is killed: where mounts are handed in,
    /// its sockets (since version 256), the lock of its root directory. Source: its code, `mount_propagate`,
    /// `unix-export` and `image_path_lock`.
    ///
    /// # Errors
    /// When the root directory cannot be looked at.
    pub fn outside(&self) -> Result<Vec<PathBuf>> {
        let root = std::fs::metadata(&self.root)
            .with_context(|| format!("cannot access `{}`", self.root.display()))?;
        let kept = Path::new(KEPT_BY_NSPAWN);
        Ok(vec![
            kept.join("propagate").join(&self.name),
            kept.join("unix-export").join(&self.name),
            kept.join("locks").join(format!("inode-{}:{}", root.dev(), root.ino())),
        ])
    }
}

/// Removes what a killed systemd-nspawn left of a container outside of it, as far as no other one has taken it since.
pub fn remove_outside(paths: &[PathBuf]) {
    for path in paths {
        let Ok(found) = std::fs::symlink_metadata(path) else { continue };
        if found.is_dir() {
            if mount::mounted().is_ok_and(|all| all.iter().any(|mount| mount.path == *path)) {
                mount::unmount(path);
            }
            let _ = std::fs::remove_dir(path);
        } else if let Ok(lock) = File::options().write(true).open(path) {
            // Removed while it is held, as systemd-nspawn does: one that waits for it looks whether it is still there.
            let taken = rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive);
            let _ = taken.is_ok().then(|| std::fs::remove_file(path));
        }
    }
}

/// A directory or file of this machine shown inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Its path on this machine.
    pub from: PathBuf,
    /// Its path inside.
    pub to: PathBuf,
    /// Whether it can be written there.
    pub writable: bool,
}

/// A booted container. It is killed when dropped.
#[derive(Debug)]
pub struct Container {
    supervisor: Child,
    leader: u32,
    users: Option<IdRange>,
    service: String,
    outside: Vec<PathBuf>,
    // Dropped last: only an empty group can be removed.
    group: ControlGroup,
    keep: bool,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was switched off.
    Off,
    /// It asked to be started again.
    Reboot,
}

/// What a command inside a container is given.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// The program's absolute path inside, then its arguments.
    pub command: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The directory inside that it begins in: `/` when not said.
    pub directory: Option<PathBuf>,
}

impl Container {
    /// Boots one in a control group of its own, which ends with it, and waits until its service manager says that it is
    /// up. `stop` is asked regularly whether to end the wait.
    pub fn boot(boot: &Boot, group: ControlGroup, stop: &dyn Fn() -> bool) -> Result<Self> {
        let directory = boot.log.parent().unwrap_or(Path::new("/"));
        let notify_path = directory.join("notify");
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path)
            .with_context(|| format!("cannot listen at `{}`", notify_path.display()))?;
        notify.set_read_timeout(Some(GLANCE)).context("cannot set a timeout")?;

        let mut command = supervisor(boot, &group)?;
        command.env("NOTIFY_SOCKET", &notify_path);
        let supervisor = command.spawn().context("cannot start `systemd-nspawn`")?;
        let (users, service) = (boot.users, boot.service.clone());
        let outside = boot.outside()?;
        let mut container = Self { supervisor, leader: 0, users, service, outside, group, keep: false };
        container.wait_booted(boot, &notify, stop)?;
        Ok(container)
    }

    fn wait_booted(&mut self, boot: &Boot, notify: &UnixDatagram, stop: &dyn Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + boot.within;
        let failed = |what: String| {
            let last = tool::last_lines(&boot.log, 12).join("\n");
            anyhow!("{what}; its last output:\n{last}")
        };
        let mut message = vec![0_u8; 4096];
        loop {
            if stop() {
                bail!("stopped while the clone was booting");
            }
            if Instant::now() > deadline {
                return Err(failed(format!(
                    "the clone did not finish booting within {} s",
                    boot.within.as_secs()
                )));
            }
            if let Some(status) = self.supervisor.try_wait().context("cannot wait for `systemd-nspawn`")? {
                return Err(failed(format!("the clone did not boot ({status})")));
            }
            match notify.recv(&mut message) {
                Ok(count) => {
                    let said = String::from_utf8_lossy(&message[..count]).into_owned();
                    if let Some(leader) =
                        said.lines().find_map(|line| line.strip_prefix("X_NSPAWN_LEADER_PID="))
                    {
                        self.leader = leader.trim().parse().context("cannot read the pid of the clone")?;
                        network::link_to(&boot.network, self.leader)
                            .context("cannot set up the network of the clone")?;
                    }
                    if said.lines().any(|line| line == "READY=1") && self.leader != 0 {
                        return Ok(());
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    return Err(error).context("cannot read the notifications of the booting clone");
                }
            }
        }
    }

    /// The container's first process, by its number on this machine.
    pub fn leader(&self) -> u32 {
        self.leader
    }

    /// The process that holds the container, by its number on this machine.
    pub fn supervisor(&self) -> u32 {
        self.supervisor.id()
    }

    /// Whether it has ended, and why.
    pub fn ended(&mut self) -> Result<Option<End>> {
        let status = self.supervisor.try_wait().context("cannot wait for `systemd-nspawn`")?;
        status.map(end).transpose()
    }

    /// Waits until it has ended, at most so long.
    pub fn wait_end(&mut self, within: Duration) -> Result<Option<End>> {
        let deadline = Instant::now() + within;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() > deadline {
                return Ok(ended);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Starts a command inside, with this process's terminal and as its child.
    pub fn spawn(&self, inside: &Inside) -> Result<Child> {
        self.start(inside, |_| {})
    }

    /// The same, with a file as its standard input.
    pub fn spawn_reading(&self, inside: &Inside, input: File) -> Result<Child> {
        self.start(inside, |command| {
            command.stdin(input);
        })
    }

    /// Runs a command inside that reads nothing, and gives its exit status and what it printed.
    pub fn output(&self, inside: &Inside) -> Result<(ExitStatus, String)> {
        let child = self.start(inside, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        })?;
        let output = child.wait_with_output().context("cannot wait for a command in the clone")?;
        Ok((output.status, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    fn start(&self, inside: &Inside, prepare: impl FnOnce(&mut Command)) -> Result<Child> {
        let Some((program, arguments)) = inside.command.split_first() else {
            bail!("cannot run an empty command in the clone");
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(inside.environment.iter().map(|(name, value)| (name, value)));
        prepare(&mut command);
        let directory = inside.directory.as_deref().unwrap_or(Path::new("/"));
        let directory =
            CString::new(directory.as_os_str().as_bytes()).context("a path contains a NUL byte")?;
        let leader = self.leader_descriptor()?;
        let door = cgroup::door_into(self.leader, &self.service);
        let inner = leader.try_clone().context("cannot keep the process of the clone open")?;
        let mapped = self.users.is_some();
        // SAFETY: between fork and exec only system calls are made, on descriptors that were opened before; no
        // memory is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                if let Some(door) = &door {
                    cgroup::enter(door)?;
                }
                enter_name_spaces(&inner, mapped)?;
                rustix::process::chdir(directory.as_c_str())?;
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                Ok(())
            });
        }
        // Only children of the calling thread enter another process namespace: hence a thread of its own.
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    rustix::thread::move_into_thread_name_spaces(
                        leader.as_fd(),
                        ThreadNameSpaceType::PROCESS_ID,
                    )
                    .context("cannot enter the clone")?;
                    command
                        .spawn()
                        .with_context(|| format!("cannot start `{}` in the clone", program.display()))
                })
                .join()
                .map_err(|_| anyhow!("the thread that enters the clone ended early"))?
        })
    }

    fn leader_descriptor(&self) -> Result<OwnedFd> {
        let pid = i32::try_from(self.leader).ok().and_then(Pid::from_raw).context("the clone has no pid")?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("the clone has ended")
    }

    fn end_supervisor(&mut self) {
        // The kernel ends every process inside with the first one. Its number is not reused while the supervisor waits
        // for it; what a killed supervisor left is in the group, which ends when it is dropped.
        if self.leader != 0 && matches!(self.supervisor.try_wait(), Ok(None)) {
            cgroup::kill(self.leader);
            if matches!(self.wait_end(Duration::from_secs(5)), Ok(Some(_)) | Err(_)) {
                return;
            }
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        self.group.keep();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.end_supervisor();
        remove_outside(&self.outside);
    }
}

/// Waits a moment for a child to end, less if it does.
pub fn wait_a_moment(child: &mut Child) -> Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child has no pid")?;
    if let Ok(descriptor) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        // An interrupted wait counts as ended.
        let _ = rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&moment));
    }
    child.try_wait().context("cannot wait for a child")
}

/// Passes a signal on to a child of this process.
pub fn pass_on(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The exit status as shells say it: 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn end(status: ExitStatus) -> Result<End> {
    match status.code() {
        Some(0) => Ok(End::Off),
        Some(ASKED_FOR_REBOOT) => Ok(End::Reboot),
        _ => bail!("the clone ended unexpectedly ({status})"),
    }
}

fn enter_name_spaces(leader: &OwnedFd, mapped: bool) -> io::Result<()> {
    use ThreadNameSpaceType as Kind;
    let mut all = Kind::CONTROL_GROUP
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::NETWORK
        | Kind::MOUNT;
    if mapped {
        all |= Kind::USER;
    }
    rustix::thread::move_into_thread_name_spaces(leader.as_fd(), all)?;
    if mapped {
        // A process that enters from outside has no identity inside until it takes one.
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_gid(rustix::thread::Gid::ROOT)?;
        rustix::thread::set_thread_uid(rustix::thread::Uid::ROOT)?;
    }
    Ok(())
}

/// The supervising process, in the control group, and in the namespace that routes the container's packets.
fn supervisor(boot: &Boot, group: &ControlGroup) -> Result<Command> {
    let log = File::create(&boot.log).with_context(|| format!("cannot write `{}`", boot.log.display()))?;
    let log_too = log.try_clone().with_context(|| format!("cannot write `{}`", boot.log.display()))?;
    let mut command = tool::command("nsenter");
    let mut network = OsString::from("--net=");
    network.push(&boot.network);
    command.arg(network).arg("--");
    if let Some(scope) = group.scope() {
        command.args(["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
        command.arg(format!("--unit={scope}")).arg("--");
    }
    let doors = group.doors()?;
    // SAFETY: between fork and exec only a write to descriptors that were opened before is made.
    unsafe {
        command.pre_exec(move || doors.iter().try_for_each(cgroup::enter));
    }
    command.arg("systemd-nspawn").args(arguments(boot));
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_TMPFS_TMP", "0");
    command.stdout(Stdio::from(log)).stderr(Stdio::from(log_too)).process_group(0);
    Ok(command)
}

fn arguments(boot: &Boot) -> Vec<OsString> {
    let with = |option: &str, value: &OsStr| {
        let mut argument = OsString::from(option);
        argument.push(value);
        argument
    };
    let mut arguments: Vec<OsString> = [
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--notify-ready=yes",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
        "--private-network",
    ]
    .map(OsString::from)
    .into();
    arguments.push(with("--machine=", OsStr::new(&boot.name)));
    arguments.push(with("--hostname=", OsStr::new(&boot.hostname)));
    arguments.push(with("--directory=", boot.root.as_os_str()));
    if let Some(IdRange { first, count }) = boot.users {
        arguments.push(format!("--private-users={first}:{count}").into());
        // The caller has mapped the owners of the root directory.
        arguments.push("--private-users-ownership=off".into());
        // The directories that systemd-nspawn creates for a bind belong to this machine's root, who does not exist
        // inside; the manager must be able to write to this one.
        arguments.push("--tmpfs=/run/systemd:mode=0755".into());
    }
    for bind in &boot.binds {
        let mut argument = OsString::from(if bind.writable { "--bind=" } else { "--bind-ro=" });
        argument.push(escape_colons(&bind.from));
        argument.push(":");
        argument.push(escape_colons(&bind.to));
        arguments.push(argument);
    }
    arguments.push(with("systemd.unit=", OsStr::new(&boot.target)));
    arguments
}

/// A colon in a path would separate source and destination. Source: systemd-nspawn(1), `--bind=`.
fn escape_colons(path: &Path) -> OsString {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_outside_is_removed_unless_another_one_holds_it() {
        let place = tempfile::tempdir().unwrap();
        let [directory, used, free, held, gone] =
            ["directory", "used", "free", "held", "gone"].map(|name| place.path().join(name));
        std::fs::create_dir(&directory).unwrap();
        std::fs::create_dir_all(used.join("inside")).unwrap();
        std::fs::write(&free, "").unwrap();
        std::fs::write(&held, "").unwrap();
        // The lock as systemd-nspawn takes it, in another process.
        let lock = "use Fcntl; open F, '+<', $ARGV[0]; my $all = pack 'ssx4qqi', F_WRLCK, 0, 0, 0, 0; \
                    fcntl F, F_SETLK, $all or die; $| = 1; print \"held\\n\"; sleep 60";
        let mut holder = Command::new("perl");
        let mut holder = holder.args(["-e", lock]).arg(&held).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 4];
        io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
        remove_outside(&[directory.clone(), used.clone(), free.clone(), held.clone(), gone]);
        assert!(!directory.exists() && used.exists() && !free.exists() && held.exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
        remove_outside(std::slice::from_ref(&held));
        assert!(!held.exists());
    }

    #[test]
    fn a_bind_keeps_its_colons() {
        assert_eq!(escape_colons(Path::new("/a:b")), "/a\\:b");
    }

    #[test]
    fn a_child_ended_by_a_signal_has_the_exit_status_of_shells() {
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(6 << 8)), 6);
    }

    #[test]
    fn an_end_of_the_container_is_off_or_reboot_or_an_error() {
        assert_eq!(end(ExitStatus::from_raw(0)).unwrap(), End::Off);
        assert_eq!(end(ExitStatus::from_raw(133 << 8)).unwrap(), End::Reboot);
        assert!(end(ExitStatus::from_raw(1 << 8)).is_err());
    }
}
