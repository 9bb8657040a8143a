//! A network of its own that reaches the outside through user-mode networking, and nothing of this machine.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failure::{Failure, sentence};
use crate::machine::tool;

/// The address at which slirp4netns answers questions for names. Source: slirp4netns(1).
pub const NAME_SERVER: &str = "10.0.2.3";

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A named network namespace with its link to the outside; both end when it is dropped.
#[derive(Debug)]
pub struct NetworkNamespace {
    name: String,
    link: Option<Link>,
    keep: bool,
}

#[derive(Debug)]
struct Link {
    process: Child,
    /// Closing it ends the process, even when kkrun was killed.
    _exit: Option<OwnedFd>,
}

impl NetworkNamespace {
    /// Makes one of this name, which must be new, and waits until it reaches the outside. With
    /// `outlive_kkrun` the link stays after this process.
    pub fn create(name: &str, log: &Path, outlive_kkrun: bool) -> Result<Self> {
        tool::run("ip", ["netns", "add", name]).context("cannot create a network namespace")?;
        let mut namespace = Self { name: name.to_owned(), link: None, keep: false };
        tool::run("ip", ["-n", name, "link", "set", "lo", "up"])?;
        namespace.link = Some(connect(&namespace.path(), log, outlive_kkrun)?);
        let_pass(name).context("cannot isolate a network namespace from this machine")?;
        Ok(namespace)
    }

    /// The file of the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// The process that forwards the packets.
    pub fn link_process(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.process.id())
    }

    /// Leaves it when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Some(mut link) = self.link.take() {
            let _ = link.process.kill();
            let _ = link.process.wait();
        }
        remove(&self.name);
    }
}

/// The two ends of the link between a container and the namespace that its packets pass through, in the network that
/// slirp4netns makes (10.0.2.0/24, of which it uses the first addresses. Source: slirp4netns(1)).
pub const INSIDE: &str = "10.0.2.101";
/// The other end.
pub const OUTSIDE: &str = "10.0.2.102";
/// The network device of a container.
pub const DEVICE: &str = "host0";
const MTU: &str = "65520";

/// Links the container whose first process is given, and which has a network of its own, to a namespace. The container
/// can do with its end what it likes; the routing is decided in the namespace, which it cannot reach.
pub fn link_to(namespace: &Path, leader: u32) -> Result<()> {
    let name =
        namespace.file_name().context("the network namespace has no name")?.to_string_lossy().into_owned();
    let leader = leader.to_string();
    // The link of an earlier boot may take a moment to disappear.
    let _ = tool::run("ip", ["-n", &name, "link", "delete", "inside"]);
    let make = ["-n", &name, "link", "add", "inside", "mtu", MTU, "type", "veth"];
    let peer = ["peer", "name", DEVICE, "mtu", MTU, "netns", &leader];
    tool::run("ip", make.iter().chain(&peer))?;
    tool::run("ip", ["-n", &name, "address", "add", OUTSIDE, "peer", INSIDE, "dev", "inside"])?;
    tool::run("ip", ["-n", &name, "link", "set", "inside", "up"])?;
    let inside = format!("--net=/proc/{leader}/ns/net");
    for words in [
        ["address", "add", INSIDE, "peer", OUTSIDE, "dev", DEVICE].as_slice(),
        &["link", "set", DEVICE, "up"],
        &["route", "add", "default", "via", OUTSIDE],
    ] {
        tool::run("nsenter", [inside.as_str(), "--", "ip"].iter().chain(words))?;
    }
    Ok(())
}

/// Forwards packets of a link to the outside, except those to an address of this machine.
fn let_pass(name: &str) -> Result<()> {
    forward(name).map_err(|error| {
        Failure::new(sentence(&error))
            .hint(
                "inside a container, start the container so that it can write `/proc/sys/net`: systemd-nspawn does \
                 with `SYSTEMD_NSPAWN_API_VFS_WRITABLE=network` in its environment",
            )
            .hint("or rehearse on the machine that runs the container, with `--base` and the container's directory")
    })?;
    for address in addresses(&tool::run("ip", ["-4", "-oneline", "address", "show"])?) {
        tool::run("ip", ["-n", name, "route", "replace", "unreachable", &address])?;
    }
    Ok(())
}

/// Lets a namespace forward. Containers see their kernel settings read-only, those of namespaces that they make
/// themselves, too; a mount of `proc` that nothing else sees has them writable. Source: systemd-nspawn(1), "/proc/sys/".
fn forward(name: &str) -> Result<()> {
    let settings = "test -w /proc/sys/net/ipv4/ip_forward || mount -t proc proc /proc && \
                    echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv4/conf/tap0/proxy_arp";
    let network = format!("--net=/run/netns/{name}");
    tool::run("nsenter", [&network, "--", "unshare", "--mount", "--", "sh", "-c", settings]).map(drop)
}

/// The addresses in a list of them, one a line, except those that mean another machine inside: the loopback's, and
/// those in the network of the link. Source: ip-address(8).
fn addresses(list: &str) -> Vec<String> {
    let after = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet");
        let address = words.nth(1)?.split('/').next()?;
        Some(address.to_owned())
    };
    let elsewhere = |address: &String| address.starts_with("127.") || address.starts_with("10.0.2.");
    list.lines().filter_map(after).filter(|address| !elsewhere(address)).collect()
}

/// Removes the namespace of this name, if there is one.
pub fn remove(name: &str) {
    let _ = tool::run("ip", ["netns", "delete", name]);
}

fn connect(namespace: &Path, log: &Path, outlive_kkrun: bool) -> Result<Link> {
    let (ready, says_ready) = pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe")?;
    // slirp4netns talks on its standard output too, so that it needs one more descriptor for this.
    fcntl_setfd(&says_ready, FdFlags::empty()).context("cannot pass on a pipe")?;
    let said = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let said_too = said.try_clone().with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut command = tool::command("slirp4netns");
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]);
    command.arg(format!("--ready-fd={}", says_ready.as_raw_fd()));
    command.stdout(Stdio::from(said)).stderr(Stdio::from(said_too));
    let exit = if outlive_kkrun {
        None
    } else {
        let (watched, held) = pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe")?;
        command.arg("--exit-fd=0").stdin(Stdio::from(watched));
        Some(held)
    };
    // In a group of its own: a Ctrl-C at the terminal is for the plan.
    command.arg(namespace).arg("tap0").process_group(0);
    let mut process = command.spawn().context("cannot start `slirp4netns`")?;
    drop(says_ready);
    match wait_ready(ready) {
        Ok(true) => Ok(Link { process, _exit: exit }),
        outcome => {
            let _ = process.kill();
            let _ = process.wait();
            outcome?;
            bail!("`slirp4netns` did not set up the network: {}", tool::last_lines(log, 4).join("; "));
        }
    }
}

fn wait_ready(ready: OwnedFd) -> Result<bool> {
    let timeout = Timespec::try_from(READY_WITHIN).context("invalid timeout")?;
    let mut watched = [PollFd::new(&ready, PollFlags::IN)];
    rustix::event::poll(&mut watched, Some(&timeout)).context("cannot wait for `slirp4netns`")?;
    if watched[0].revents().is_empty() {
        return Ok(false);
    }
    let mut byte = [0_u8; 1];
    let count = File::from(ready).read(&mut byte).context("cannot read from `slirp4netns`")?;
    Ok(count == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_machine_are_those_that_mean_it_inside_too() {
        let list = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever\n\
                    1: lo    inet 10.9.9.9/32 scope global lo\\       valid_lft forever\n\
                    4: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n\
                    5: wg0    inet 10.8.0.2 peer 10.8.0.1/32 scope global wg0\\       valid_lft forever\n\
                    6: vm    inet 10.0.2.15/24 scope global vm\\       valid_lft forever\n";
        assert_eq!(addresses(list), ["10.9.9.9", "192.0.2.2", "10.8.0.2"]);
    }
}
