//! One clone, from its mounts to its end. Whatever was made is taken away when it is dropped, the last made first.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::environment::{self, CERTIFICATE_FILES};
use super::units::{self, CONTROL, REPORT, SERVICE, STARTED, TARGET, UNITS};
use super::{Base, FILES, Progress, RECORDS, Rehearsal, SHARED, Stop, kept, mounts};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, sentence};
use crate::machine::clone::cgroup::ControlGroup;
use crate::machine::clone::container::{self, Bind, Boot, Container, End, Inside};
use crate::machine::clone::id_range::{IdRange, View};
use crate::machine::clone::network::{NAME_SERVER, NetworkNamespace};
use crate::machine::clone::overlay_difference;
use crate::machine::clone::registry::{Process, Record};
use crate::machine::clone::root::{self, CloneRoot, Layer};
use crate::machine::clone::root_files::RootFiles;
use crate::machine::mount;

/// Below this a plan cannot do much; a whole kiosk writes about 2.5 GB.
const LEAST_ROOM: u64 = 512 * 1024 * 1024;
const BOOT_WITHIN: Duration = Duration::from_secs(120);
const DOWN_WITHIN: Duration = Duration::from_secs(120);
const SYSTEM_UNITS: &str = "/etc/systemd/system";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const LINGER: &str = "/var/lib/systemd/linger";

/// A clone with all that belongs to it. The order of the fields is that in which they are taken away.
pub struct LiveClone {
    container: Option<Container>,
    network: NetworkNamespace,
    root: CloneRoot,
    record: Record,
    /// What each run inside is given.
    pub environment: Vec<(OsString, OsString)>,
    with: Vec<String>,
    hostname: String,
    started: BTreeSet<String>,
    restarts: usize,
}

impl LiveClone {
    /// Mounts it and gives it a network.
    pub fn make(rehearsal: &Rehearsal, tell: &mut dyn FnMut(Progress)) -> Result<Self> {
        let base = base_directory(&rehearsal.base)?;
        let (mut record, removed) = Record::open(Path::new(RECORDS), &rehearsal.scratch)?;
        for name in removed {
            tell(Progress::LeftoverRemoved { name });
        }
        let scratch = record.made.scratch.clone();
        check_room(&scratch, tell)?;
        if base == Path::new("/") {
            tell(Progress::NotASnapshot);
        }

        record.made.mounts.push(root::mapped_scratch(&scratch));
        let mut root = CloneRoot::new(&scratch, rehearsal.durable);
        mount_layers(&base, &rehearsal.scratch, &mut root, &mut record, tell)?;
        share(rehearsal, &scratch)?;
        let given: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let mut environment = environment::passed(&given);
        for variable in environment::proxies_out_of_reach(&environment) {
            tell(Progress::ProxyOutOfReach { variable });
        }
        environment.extend(certificates(&given, root.path(), &scratch)?);

        record.made.network = Some(record.name.clone());
        record.save()?;
        let network = NetworkNamespace::create(&record.name, &scratch.join("network.log"), rehearsal.keep)?;
        record.made.processes.extend(network.link_process().and_then(Process::of));
        record.save()?;
        let hostname = hostname(&base).unwrap_or_else(|| record.name.clone());
        Ok(Self {
            container: None,
            network,
            root,
            record,
            environment,
            with: rehearsal.with.iter().map(|unit| units::full_name(unit)).collect(),
            hostname,
            started: BTreeSet::new(),
            restarts: 0,
        })
    }

    /// Boots it, for the first time or again.
    pub fn boot(&mut self, stop: &Stop<'_>, tell: &mut dyn FnMut(Progress)) -> Result<()> {
        let begin = Instant::now();
        stop.check()?;
        self.write_units()?;
        let scratch = self.record.made.scratch.clone();
        // Written down before anything starts in it: a kill at any later instant leaves what the next rehearsal finds.
        let group = ControlGroup::create(&self.record.name)?;
        self.record.made.control_groups = group.directories().to_vec();
        let boot = Boot {
            name: self.record.name.clone(),
            root: self.root.path().to_owned(),
            hostname: self.hostname.clone(),
            network: self.network.path(),
            users: self.root.users(),
            binds: self.binds(),
            target: TARGET.to_owned(),
            service: SERVICE.to_owned(),
            log: scratch.join("console.log"),
            within: BOOT_WITHIN,
        };
        self.record.made.outside = boot.outside()?;
        self.record.save()?;
        let container = match Container::boot(&boot, group, &|| stop.asked()) {
            Ok(container) => container,
            Err(error) => {
                stop.check()?;
                return Err(error);
            }
        };
        let leader = container.leader();
        let processes = [leader, container.supervisor()].into_iter().filter_map(Process::of);
        self.record.made.processes.retain(|process| Some(process.pid) == self.network.link_process());
        self.record.made.processes.splice(0..0, processes);
        self.container = Some(container);
        self.record.save()?;
        tell(Progress::Booted { name: self.record.name.clone(), leader, took: begin.elapsed() });
        Ok(())
    }

    pub(super) fn container(&self) -> Result<&Container> {
        self.container.as_ref().context("the clone is powered off")
    }

    /// Runs a command inside to its end, with this process's terminal unless it is given an input. The signals that this
    /// process gets are passed on to it. Returns its exit status as shells say it.
    pub fn run(&mut self, inside: &Inside, input: Option<File>, stop: &Stop<'_>) -> Result<u8> {
        let container = self.container()?;
        let mut child = match input {
            Some(input) => container.spawn_reading(inside, input)?,
            None => container.spawn(inside)?,
        };
        let status = loop {
            if let Some(status) = container::wait_a_moment(&mut child)? {
                break status;
            }
            if let Some(signal) = stop.to_pass_on() {
                container::pass_on(&child, signal);
            }
            if let Err(error) = self.check_held() {
                // Not waited for, it would hold on to the clone's process namespace.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(container::exit_code(status))
    }

    /// Runs a command inside that reads nothing: its exit status as shells say it, and what it printed.
    pub fn output(&self, inside: &Inside) -> Result<(u8, String)> {
        let (status, printed) = self.container()?.output(inside)?;
        Ok((container::exit_code(status), printed))
    }

    /// What a command inside that reads nothing prints; `None` if it fails.
    pub fn printed(&self, command: &[&str]) -> Result<Option<String>> {
        let command = command.iter().map(OsString::from).collect();
        let inside = Inside { command, environment: self.environment.clone(), directory: None };
        let (code, printed) = self.output(&inside)?;
        Ok((code == 0).then_some(printed))
    }

    /// The files that those inside see.
    pub fn files(&self) -> RootFiles {
        RootFiles::new(self.root.path(), self.root.users())
    }

    /// Starts a unit that would otherwise wait for a step.
    pub(super) fn start_unit(&self, unit: &str) -> Result<()> {
        let unit = units::full_name(unit);
        let (status, _) = self.container()?.output(&self.systemctl(&["start", "--", &unit]))?;
        if status.success() {
            return Ok(());
        }
        let (_, said) =
            self.container()?.output(&self.systemctl(&["status", "--no-pager", "--full", "--", &unit]))?;
        let mut failure = Failure::new(format!("cannot start `{unit}` in the clone"));
        failure.output = said.lines().map(str::to_owned).collect();
        Err(failure.into())
    }

    /// Boots it again if a command inside asked for a restart. An error if it was switched off.
    pub fn restart_if_asked(&mut self, stop: &Stop<'_>, tell: &mut dyn FnMut(Progress)) -> Result<bool> {
        if !self.goes_down()? {
            return Ok(false);
        }
        let container = self.container.as_mut().context("the clone is powered off")?;
        match container.wait_end(DOWN_WITHIN)? {
            Some(End::Reboot) => {}
            Some(End::Off) => {
                return Err(Failure::new("the script powered the clone off").into());
            }
            None => bail!("the clone did not shut down within {} s", DOWN_WITHIN.as_secs()),
        }
        tell(Progress::Restarting);
        self.container = None;
        self.restarts += 1;
        let list = root::text_of(&self.record.made.scratch.join("report").join(STARTED));
        self.started.extend(units::running(&list.unwrap_or_default()));
        self.boot(stop, tell)?;
        Ok(true)
    }

    /// Fails when the process that holds the clone was killed: the clone would run on without an owner to end it.
    fn check_held(&mut self) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.ended().map(drop))
    }

    fn goes_down(&mut self) -> Result<bool> {
        let container = self.container.as_mut().context("the clone is powered off")?;
        if container.ended()?.is_some() {
            return Ok(true);
        }
        let inside = self.systemctl(&["is-system-running"]);
        let Ok((_, state)) = self.container()?.output(&inside) else { return Ok(true) };
        Ok(state.trim() == "stopping" || state.trim().is_empty())
    }

    fn systemctl(&self, arguments: &[&str]) -> Inside {
        let mut command = vec![OsString::from("/bin/systemctl")];
        command.extend(arguments.iter().map(OsString::from));
        Inside { command, environment: self.environment.clone(), directory: None }
    }

    /// Ends every process in it at once: what it would write while going down in order is no change of the plan.
    pub fn switch_off(&mut self) {
        self.container = None;
    }

    /// Everything on disk that is otherwise than in the base.
    pub fn differences(&self) -> Result<Vec<overlay_difference::Difference>> {
        self.root.differences()
    }

    /// Leaves all of it as it is, with scripts to enter and to remove it. Who enters begins in this directory, as the run
    /// did: what its messages say to run works there.
    pub(super) fn keep(mut self, directory: &Path) -> Result<Progress> {
        let scratch = self.record.made.scratch.clone();
        let leader = self.container()?.leader();
        self.record.made.kept = true;
        let enter = scratch.join("enter");
        root::write_scratch(&enter, &kept::enter(leader, directory), 0o700)?;
        let remove = scratch.join("remove");
        root::write_scratch(&remove, &kept::remove(&self.record.made, self.record.path()), 0o700)?;
        self.record.save()?;
        if let Some(container) = &mut self.container {
            container.keep();
        }
        self.network.keep();
        self.root.keep();
        Ok(Progress::Kept {
            enter: enter.to_string_lossy().into_owned(),
            remove: remove.to_string_lossy().into_owned(),
            upper: scratch.join("upper-0"),
        })
    }

    fn binds(&self) -> Vec<Bind> {
        let scratch = self.root.scratch();
        let bind = |from: PathBuf, to: &str, writable| Bind { from, to: to.into(), writable };
        vec![
            bind(scratch.join("shared"), SHARED, false),
            bind(scratch.join("report"), REPORT, true),
            bind(scratch.join("units"), UNITS, true),
            bind(scratch.join("control"), CONTROL, true),
            bind(
                scratch.join("journald.conf"),
                "/run/systemd/journald.conf.d/zz-kkrun-rehearsal.conf",
                false,
            ),
        ]
    }

    fn write_units(&self) -> Result<()> {
        let scratch = &self.record.made.scratch;
        let [unit_directory, control] = ["units", "control"].map(|name| scratch.join(name));
        root::fresh_directory(&unit_directory)?;
        root::fresh_directory(&control)?;
        root::fresh_directory(&scratch.join("report"))?;
        let all = self.root.all_links(Path::new(SYSTEM_UNITS))?;
        let new = self.root.new_links(Path::new(SYSTEM_UNITS))?;
        let mut wanted = self.with.clone();
        if self.restarts > 0 {
            wanted.extend(units::after_restart(&all, &new, &self.started));
            wanted.extend(self.display_manager());
        }
        for (path, text) in units::files(&wanted) {
            root::write_scratch(&unit_directory.join(path), &text, 0o644)?;
        }
        for path in units::covered(&all, &new) {
            root::link_scratch("/dev/null", &control.join(path))?;
        }
        Ok(())
    }

    /// The display manager is wanted through its alias, not through a link in a directory.
    fn display_manager(&self) -> Option<String> {
        const ALIAS: &str = "/etc/systemd/system/display-manager.service";
        let default = root::link_name(self.root.path(), Path::new("/etc/systemd/system/default.target"));
        if default.is_some_and(|default| default != "graphical.target") {
            return None;
        }
        let manager = root::link_name(self.root.path(), Path::new(ALIAS))?;
        let chosen = self.root.holds(Path::new(ALIAS)) || self.started.contains(&manager);
        chosen.then_some(manager)
    }
}

fn base_directory(base: &Base) -> Result<PathBuf> {
    let directory = match base {
        Base::RunningMachine => PathBuf::from("/"),
        Base::Directory(path) => root::real_path(path)?,
    };
    let manager = ["lib/systemd/systemd", "usr/lib/systemd/systemd"];
    if !manager.iter().any(|manager| root::is_file(&directory.join(manager))) {
        let message = format!("cannot boot a clone of `{}`: no systemd found in it", directory.display());
        return Err(Failure::new(message).exit(ExitCode::USAGE).into());
    }
    Ok(directory)
}

fn check_room(scratch: &Path, tell: &mut dyn FnMut(Progress)) -> Result<()> {
    let room = mount::room(scratch)?;
    let place = scratch.parent().unwrap_or(scratch).display().to_string();
    if room.overlay {
        return Err(Failure::new(format!(
            "cannot keep the clone in `{place}`: it is on an overlay, which cannot hold another overlay's changes"
        ))
        .hint("set TMPDIR to a directory on a disk, or on a tmpfs if there is enough memory")
        .into());
    }
    if room.free < LEAST_ROOM {
        let free = room.free / 1024 / 1024;
        return Err(Failure::new(format!(
            "not enough space in `{place}`: a rehearsal needs at least 512 MiB, {free} MiB are free"
        ))
        .hint("set TMPDIR to a directory with more space")
        .into());
    }
    if room.in_memory {
        tell(Progress::InMemory { place: scratch.to_owned(), free: room.free });
    }
    Ok(())
}

fn mount_layers(
    base: &Path,
    all_scratch: &Path,
    root: &mut CloneRoot,
    record: &mut Record,
    tell: &mut dyn FnMut(Progress),
) -> Result<()> {
    let scratch = record.made.scratch.clone();
    let mounted = mount::mounted()?;
    let sub_mounts = mounts::below(base, &mounted);
    for (path, file_system, reason) in sub_mounts.left_out {
        // What this or another rehearsal mounted is no part of the machine.
        if root::below(base, &path).starts_with(all_scratch) {
            continue;
        }
        tell(Progress::LeftOut { path, file_system, reason: reason.to_owned() });
    }
    let mut places = vec![PathBuf::from("/")];
    places.extend(sub_mounts.cloned);
    let users = root::file_names(&root::below(base, Path::new(LINGER)));
    let mut hidden: Vec<PathBuf> = users.iter().map(|user| Path::new(LINGER).join(user)).collect();
    if !users.is_empty() {
        tell(Progress::LingeringHidden { users });
    }
    if let Ok(inside) = root::real_path(all_scratch)?.strip_prefix(base) {
        hidden.push(Path::new("/").join(inside));
    }
    if base == Path::new("/") {
        // A connection to one of these would reach the real machine.
        let mounted: Vec<PathBuf> = mounted.into_iter().map(|mount| mount.path).collect();
        let seen = |path: &PathBuf| mounts::holder(path, &mounted) == mounts::holder(path, &places);
        hidden.extend(root::listening_sockets().into_iter().filter(seen));
    }
    let views = users_of_its_own(base, &places, root, &scratch)?;
    if views.is_none() {
        tell(Progress::NotContained);
    }
    let mut views = views.into_iter().flatten();
    for (number, at) in places.iter().enumerate() {
        let here = |path: &Path| mounts::holder(path, &places) == Some(at.as_path());
        let mut layer = Layer { at: at.clone(), ..Layer::default() };
        layer.hidden = hidden.iter().filter(|path| here(path)).cloned().collect();
        if at == Path::new("/") {
            if root::is_directory(&base.join("tmp")) {
                layer.emptied.push("/tmp".into());
            }
            layer.written.extend(machine_id(base)?);
            layer.written.push((RESOLV_CONF.into(), format!("nameserver {NAME_SERVER}\n")));
        }
        // Written down before: what is not there when a leftover is removed does no harm.
        record.made.mounts.push(root::mapped_lower(&scratch, number));
        record.made.mounts.push(root::below(root.path(), at));
        record.save()?;
        match root.add(number, base, layer, &scratch, views.next()) {
            Ok(()) => {}
            Err(error) if at == Path::new("/") => return Err(error),
            Err(error) => tell(Progress::LeftOut {
                path: at.clone(),
                file_system: "unknown".to_owned(),
                reason: sentence(&error),
            }),
        }
    }
    Ok(())
}

/// Gives the clone users of its own, if every file system of it can show its owners under other numbers: a view of each.
fn users_of_its_own(
    base: &Path,
    places: &[PathBuf],
    root: &mut CloneRoot,
    scratch: &Path,
) -> Result<Option<Vec<View>>> {
    let users = IdRange::upper_half()?;
    let Some(own) = users.view(scratch)? else { return Ok(None) };
    let views: Result<Option<Vec<View>>> =
        places.iter().map(|at| users.view(&root::below(base, at))).collect();
    let Some(views) = views? else { return Ok(None) };
    root.map(users, own)?;
    Ok(Some(views))
}

/// A machine has an identity from its first boot on; a base that has none would go through that boot, which enables
/// every service there is.
fn machine_id(base: &Path) -> Result<Option<(PathBuf, String)>> {
    const FILE: &str = "/etc/machine-id";
    let known = root::text_of(&root::below(base, Path::new(FILE))).unwrap_or_default();
    if known.trim().len() == 32 {
        return Ok(None);
    }
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).context("cannot get a random number")?;
    Ok(Some((FILE.into(), format!("{:032x}\n", u128::from_ne_bytes(random)))))
}

fn share(rehearsal: &Rehearsal, scratch: &Path) -> Result<()> {
    let shared = scratch.join("shared");
    root::fresh_directory(&shared)?;
    root::fresh_directory(&shared.join("report"))?;
    // A copy: the file itself would be this machine's.
    root::copy_for_all(&rehearsal.binary, &shared.join("kkrun"), 0o755)?;
    for (number, root) in rehearsal.plans().iter().enumerate() {
        let copy = in_shared(&shared, &super::plan_root(number));
        root::copy_plan(root, &copy)?;
        let library = root::real_path(root)?.with_file_name("stdlib");
        if root::is_directory(&library) {
            root::copy_plan(&library, &copy.with_file_name("stdlib"))?;
        }
    }
    root::fresh_directory(&in_shared(&shared, Path::new(FILES)))?;
    for (from, name) in &rehearsal.files {
        root::copy_file(from, &in_shared(&shared, Path::new(FILES)).join(name))?;
    }
    // Journals of the base would be copied as soon as they are opened.
    root::write_scratch(&scratch.join("journald.conf"), "[Journal]\nStorage=volatile\n", 0o644)
}

fn in_shared(shared: &Path, path: &Path) -> PathBuf {
    shared.join(path.strip_prefix(SHARED).unwrap_or(path))
}

/// Files of certificates that the clone lacks, or has otherwise, are given to it, and the variable names the copy.
fn certificates(
    given: &[(OsString, OsString)],
    clone: &Path,
    scratch: &Path,
) -> Result<Vec<(OsString, OsString)>> {
    let directory = scratch.join("shared/certificates");
    root::fresh_directory(&directory)?;
    let mut variables = Vec::new();
    for (name, value) in given {
        if !name.to_str().is_some_and(|name| CERTIFICATE_FILES.contains(&name)) {
            continue;
        }
        let path = Path::new(value);
        if !root::is_file(path) {
            continue;
        }
        if root::same_text(path, &root::below(clone, path)) {
            variables.push((name.clone(), value.clone()));
        } else {
            root::copy_for_all(path, &directory.join(name), 0o644)?;
            variables.push((name.clone(), Path::new(SHARED).join("certificates").join(name).into()));
        }
    }
    Ok(variables)
}

/// The name the base calls itself.
fn hostname(base: &Path) -> Option<String> {
    let name = root::text_of(&base.join("etc/hostname"))?;
    let name = name.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let valid = name.len() <= 63
        && !name.starts_with(['-', '.'])
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter));
    valid.then(|| name.to_owned())
}
