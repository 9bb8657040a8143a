//! Rehearsals in a real clone of a real Debian, with a shell instead of kkrun.
//!
//! They need root, the tools that `kkrun rehearse` names, and the directory of a Debian 12 root file system with
//! systemd and dbus in the variable `KKRUN_TEST_BASE`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kkrun::machine::signal::Signals;
use kkrun::rehearse::difference::{Aspect, Kind};
use kkrun::rehearse::{Base, Outcome, Progress, Rehearsal, Run, rehearse};

fn base() -> PathBuf {
    std::env::var_os("KKRUN_TEST_BASE").expect("KKRUN_TEST_BASE names a Debian 12 root file system").into()
}

/// A run of the shell that replaces kkrun.
fn shell(script: &str) -> Run {
    Run { arguments: vec![OsString::from("-c"), OsString::from(script)], plan: None }
}

struct Trial {
    rehearsal: Rehearsal,
    scratch: tempfile::TempDir,
    signals: Signals,
    reported: Vec<Progress>,
}

impl Trial {
    /// Runs these scripts of the shell, one after another, in a clone of the base.
    fn new(scripts: &[&str]) -> Self {
        let scratch = tempfile::Builder::new().prefix("kkrun-test-").tempdir_in("/var/tmp").unwrap();
        let run = |script: &&str| shell(script);
        let rehearsal = Rehearsal {
            base: Base::Directory(base()),
            with: Vec::new(),
            keep: false,
            expect_unchanged: false,
            durable: false,
            runs: scripts.iter().map(run).collect(),
            report: None,
            scratch: scratch.path().join("clones"),
            binary: "/bin/bash".into(),
            files: Vec::new(),
        };
        Self { rehearsal, scratch, signals: Signals::deaf().unwrap(), reported: Vec::new() }
    }

    fn run(&mut self) -> anyhow::Result<Outcome> {
        let reported = &mut self.reported;
        rehearse(&self.rehearsal, &self.signals, &mut |progress| reported.push(progress))
    }

    fn exit_codes(&mut self) -> Vec<u8> {
        self.run().unwrap().exit_codes
    }

    /// Checks that no process, mount, scratch directory or namespace is left.
    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.scratch.path().join("clones")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.scratch.path().to_str().unwrap()), "{mounts}");
        for progress in &self.reported {
            if let Progress::Booted { name, leader, .. } = progress {
                assert!(!Path::new("/run/netns").join(name).exists());
                assert!(!Path::new("/run/systemd/nspawn/propagate").join(name).exists());
                let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).unwrap_or_default();
                assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
                assert!(!Path::new("/run/kkrun/rehearsals").join(name).exists());
            }
        }
    }
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_clone_boots_the_basic_system_only_and_leaves_nothing_behind() {
    let mut trial = Trial::new(&["[ $(systemctl is-system-running) = running ] && \
         ! systemctl is-active multi-user.target timers.target && systemctl is-active systemd-logind dbus"]);
    assert_eq!(trial.exit_codes(), [0]);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn each_run_sees_what_the_one_before_wrote_and_its_exit_status_is_known() {
    let mut trial =
        Trial::new(&["touch /srv/one; exit 4", "[ -e /srv/one ] && rm /srv/one && kill -9 $$", "true"]);
    let outcome = trial.run().unwrap();
    assert_eq!(outcome.exit_codes, [4, 137, 0]);
    assert_eq!(outcome.exit_code().0, 4);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn what_was_changed_is_listed_and_the_base_is_untouched() {
    let before = std::fs::read(base().join("etc/passwd")).unwrap();
    let mut trial = Trial::new(&["set -e
        echo more >>/etc/passwd
        chmod 600 /etc/group
        touch -r /etc/shells /tmp/time; cp /etc/shells /etc/shells.new; cat /etc/shells.new >/etc/shells
        touch -r /tmp/time /etc/shells; rm /etc/shells.new
        rm /etc/fstab; rm -r /etc/skel; mkdir /etc/skel; echo x >/etc/skel/new
        mv /etc/pam.d /etc/moved.d
        mkdir /srv/tree; echo hello >/srv/tree/file; ln -s file /srv/tree/link"]);
    let outcome = trial.run().unwrap();
    assert_eq!(outcome.exit_codes, [0]);
    let entries = &outcome.difference.entries;
    let find = |path: &str| entries.iter().find(|entry| entry.path == Path::new(path));
    assert_eq!(find("/etc/passwd").unwrap().aspects, [Aspect::Content, Aspect::Time]);
    assert_eq!(find("/etc/group").unwrap().aspects, [Aspect::Mode]);
    assert_eq!(find("/etc/shells"), None, "equal after all");
    assert_eq!(find("/etc/fstab").unwrap().kind, Kind::Deleted);
    assert_eq!(find("/etc/skel"), None, "a directory again, as before");
    assert_eq!(find("/etc/skel/.bashrc").unwrap().kind, Kind::Deleted);
    assert_eq!(find("/etc/skel/new").unwrap().kind, Kind::Added);
    assert_eq!(find("/etc/pam.d").unwrap().kind, Kind::Deleted);
    assert_eq!(find("/etc/pam.d/login").unwrap().kind, Kind::Deleted);
    assert_eq!(find("/etc/moved.d/login").unwrap().kind, Kind::Added);
    assert_eq!(find("/srv/tree/file").unwrap().size, 6);
    assert_eq!(find("/srv/tree/link").unwrap().kind, Kind::Added);
    assert_eq!(find("/tmp/time"), None);
    assert_eq!(std::fs::read(base().join("etc/passwd")).unwrap(), before);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn rolled_back_clone_is_unchanged_and_differences_are_reported() {
    let mut trial = Trial::new(&[
        "systemctl start systemd-timedated; useradd -m ada",
        "cp -a /etc/hosts /root/hosts; echo x >>/etc/hosts; cat /root/hosts >/etc/hosts; \
         touch -r /root/hosts /etc/hosts; rm /root/hosts",
    ]);
    trial.rehearsal.expect_unchanged = true;
    trial.rehearsal.runs.remove(0);
    let outcome = trial.run().unwrap();
    assert_eq!(
        (outcome.exit_code().0, outcome.unexpected),
        (0, Some(kkrun::rehearse::Difference::default()))
    );

    let mut trial = Trial::new(&["echo x >>/etc/hosts"]);
    trial.rehearsal.expect_unchanged = true;
    let outcome = trial.run().unwrap();
    assert_eq!(outcome.exit_code().0, 6);
    let unexpected: Vec<PathBuf> =
        outcome.unexpected.unwrap().entries.into_iter().map(|entry| entry.path).collect();
    assert_eq!(unexpected, [Path::new("/etc/hosts")]);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_restart_from_inside_starts_what_was_enabled_there_and_the_run_begins_again() {
    let mut trial = Trial::new(&["set -e
        if [ -e /srv/restarted ]; then
            systemctl is-active trial.service systemd-tmpfiles-clean.timer
            systemctl is-active quiet.service && exit 9
            exit 0
        fi
        for unit in trial quiet; do
            printf '[Service]\\nExecStart=sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' \
                >/etc/systemd/system/$unit.service
        done
        systemctl enable --now trial.service
        touch /srv/restarted
        systemctl is-active systemd-tmpfiles-clean.timer
        systemctl reboot
        sleep 60"]);
    trial.rehearsal.with = vec!["systemd-tmpfiles-clean.timer".to_owned()];
    assert_eq!(trial.exit_codes(), [0]);
    assert!(trial.reported.contains(&Progress::Restarting));
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn plan_that_restarts_the_clone_for_ever_is_stopped() {
    let mut trial = Trial::new(&["systemctl reboot; sleep 60"]);
    let error = trial.run().unwrap_err().to_string();
    assert!(error.contains("restarted the clone"), "{error}");
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_signal_reaches_the_run_and_ends_the_rehearsal() {
    let mut trial =
        Trial::new(&["trap 'exit 143' TERM; sleep 60 & touch /srv/waits; wait", "touch /srv/never"]);
    let begin = std::time::Instant::now();
    let reported = &mut trial.reported;
    let signals = trial.signals.clone();
    let mut tell = |progress: Progress| {
        if let Progress::Booted { leader, .. } = progress {
            let signals = signals.clone();
            // Once the shell has set its trap and waits.
            let waits = PathBuf::from(format!("/proc/{leader}/root/srv/waits"));
            std::thread::spawn(move || {
                while !waits.exists() {
                    std::thread::yield_now();
                }
                signals.deliver(15);
            });
        }
        reported.push(progress);
    };
    let error = rehearse(&trial.rehearsal, &trial.signals, &mut tell).unwrap_err();
    assert_eq!(kkrun::failure::exit_code(&error).0, 143);
    assert!(begin.elapsed().as_secs() < 30);
    assert!(trial.reported.contains(&Progress::RunEnded { index: 0, code: 143 }));
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_signal_before_the_boot_leaves_nothing() {
    let mut trial = Trial::new(&["true"]);
    trial.signals.deliver(2);
    let error = trial.run().unwrap_err();
    assert_eq!(kkrun::failure::exit_code(&error).0, 130);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn missing_unit_fails_the_rehearsal_and_leaves_nothing() {
    let mut trial = Trial::new(&["true"]);
    trial.rehearsal.with = vec!["no-such-thing".to_owned()];
    let error = trial.run().unwrap_err().to_string();
    assert!(error.contains("`no-such-thing.service`"), "{error}");
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn directory_without_a_system_is_refused() {
    let mut trial = Trial::new(&["true"]);
    trial.rehearsal.base = Base::Directory(trial.scratch.path().to_owned());
    let error = trial.run().unwrap_err();
    assert_eq!(kkrun::failure::exit_code(&error).0, 2);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_kept_clone_can_be_entered_and_removed_by_its_own_scripts() {
    let mut trial = Trial::new(&["echo stays >/srv/kept"]);
    trial.rehearsal.keep = true;
    assert_eq!(trial.exit_codes(), [0]);
    let (enter, remove) = trial
        .reported
        .iter()
        .find_map(|progress| match progress {
            Progress::Kept { enter, remove, .. } => Some((enter.clone(), remove.clone())),
            _ => None,
        })
        .unwrap();
    let inside = std::process::Command::new(&enter)
        .args(["sh", "-ec", "cat /srv/kept; command -v kkrun; pwd"])
        .output()
        .unwrap();
    let removal = std::process::Command::new(remove).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&inside.stdout),
        "stays\n/run/kkrun-rehearsal/kkrun\n/\n",
        "{inside:?}"
    );
    assert!(removal.status.success(), "{removal:?}");
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn the_plan_is_the_working_directory_and_what_others_could_write_stays_theirs() {
    let mut trial = Trial::new(&["set -e
        [ \"$(find . | sort | xargs)\" = '. ./files ./files/page ./loose.rhai ./parts ./parts/one.rhai ./plan.rhai' ]
        [ \"$(cat plan.rhai ../stdlib/git.rhai /run/kkrun-rehearsal/files/secrets)\" = \"$(printf 'plan\\ngit\\nsecret')\" ]
        [ \"$(stat -c %u:%a plan.rhai)\" = 0:644 ]
        [ \"$(stat -c %u:%a loose.rhai)\" = 0:666 ]
        [ \"$(stat -c %u:%a files/page)\" = 1000:644 ]
        [ \"$(stat -c %u:%a /run/kkrun-rehearsal/files/secrets)\" = 0:600 ]
        ! touch other"]);
    let home = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str, owner: u32, mode: u32| {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("scripts/plan.rhai", "plan\n", 0, 0o664);
    put("scripts/loose.rhai", "loose\n", 0, 0o666);
    put("scripts/parts/one.rhai", "one\n", 0, 0o644);
    put("scripts/files/page", "page\n", 1000, 0o644);
    put("scripts/large.iso", "not for the clone\n", 0, 0o644);
    put("scripts/.git/x.rhai", "not for the clone\n", 0, 0o644);
    put("stdlib/git.rhai", "git\n", 0, 0o644);
    put("secrets", "secret\n", 0, 0o600);
    trial.rehearsal.runs[0].plan = Some(home.path().join("scripts"));
    trial.rehearsal.files = vec![(home.path().join("secrets"), "secrets".to_owned())];
    assert_eq!(trial.exit_codes(), [0]);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn names_are_resolved_and_the_machines_own_ports_are_out_of_reach() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut trial = Trial::new(&[&format!(
        "set -e; grep -qx 'nameserver 10.0.2.3' /etc/resolv.conf
         ! (exec 3<>/dev/tcp/127.0.0.1/{port}) && ! (exec 3<>/dev/tcp/10.0.2.2/{port})"
    )]);
    assert_eq!(trial.exit_codes(), [0]);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn two_rehearsals_run_side_by_side() {
    let one = std::thread::spawn(|| Trial::new(&["sleep 1; exit 3"]).exit_codes());
    let other = std::thread::spawn(|| Trial::new(&["sleep 1; exit 5"]).exit_codes());
    assert_eq!((one.join().unwrap(), other.join().unwrap()), (vec![3], vec![5]));
}

#[test]
#[ignore = "needs root and a Debian base"]
fn the_running_machine_is_cloned_without_its_temporary_files_and_stays_as_it_is() {
    let mark = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let path = mark.path().display();
    let mut trial = Trial::new(&[""]);
    let socket = trial.scratch.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let talk = socket.display();
    let script = format!(
        "[ ! -e {path} ] && [ -d {} ] && [ ! -e {talk} ] && echo no >/etc/hostname && rm -r /srv",
        trial.scratch.path().display()
    );
    trial.rehearsal.runs = vec![shell(&script)];
    trial.rehearsal.base = Base::RunningMachine;
    let hostname = std::fs::read("/etc/hostname").unwrap();
    assert_eq!(trial.exit_codes(), [0]);
    assert!(trial.reported.contains(&Progress::NotASnapshot));
    assert_eq!(std::fs::read("/etc/hostname").unwrap(), hostname);
    assert!(Path::new("/srv").is_dir());
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_file_system_below_the_base_comes_along_and_one_in_memory_is_left_out() {
    // A base with mounts below it: itself an overlay, so that the real one stays as it is.
    let place = tempfile::Builder::new().prefix("kkrun-test-").tempdir_in("/var/tmp").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status =
            std::process::Command::new(program).args(arguments).current_dir(&place).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let script = format!(
        "set -e; mkdir up work base
         mount -t overlay overlay -o lowerdir={},upperdir=up,workdir=work base
         truncate -s 16M image; mkfs.ext4 -q image; mount -o loop image base/home; mount -t tmpfs t base/mnt
         mkdir base/home/me; echo old >base/home/me/file; chown 1000:1000 base/home/me; chmod 750 base/home/me
         echo here >base/mnt/memory",
        base().display()
    );
    run("bash", &["-c", &script]);
    let mut trial = Trial::new(&["set -e
        [ \"$(stat -c %u:%a /home/me)\" = 1000:750 ] && [ ! -e /mnt/memory ]
        echo new >/home/me/file"]);
    trial.rehearsal.base = Base::Directory(place.path().join("base"));
    let outcome = trial.run();
    let kept = std::fs::read_to_string(place.path().join("base/home/me/file"));
    run("umount", &["base/mnt", "base/home", "base"]);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.exit_codes, kept.unwrap()), (vec![0], "old\n".to_owned()));
    let changed = outcome.difference.entries.iter().any(|entry| entry.path == Path::new("/home/me/file"));
    assert!(changed, "{:?}", outcome.difference.entries);
    let left_out =
        |progress: &Progress| matches!(progress, Progress::LeftOut { path, .. } if path == Path::new("/mnt"));
    assert!(trial.reported.iter().any(left_out), "{:?}", trial.reported);
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_system_that_does_not_boot_says_so_and_leaves_nothing() {
    let mut trial = Trial::new(&["true"]);
    let base = trial.scratch.path().join("broken");
    for (path, text) in [("etc/os-release", "ID=broken\n"), ("usr/lib/systemd/systemd", "no program\n")] {
        std::fs::create_dir_all(base.join(path).parent().unwrap()).unwrap();
        std::fs::write(base.join(path), text).unwrap();
    }
    trial.rehearsal.base = Base::Directory(base);
    let error = trial.run().unwrap_err().to_string();
    assert!(error.contains("the clone did not boot"), "{error}");
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn where_tools_are_missing_they_are_named_with_the_command_that_installs_them() {
    let kkrun = "/run/kkrun-rehearsal/files/kkrun rehearse --non-interactive status.rhai";
    let mut trial = Trial::new(&[&format!(
        "{kkrun} 2>/srv/said; [ $? = 1 ] && grep -q 'needs `systemd-nspawn`, `slirp4netns`' /srv/said && \
         grep -q 'apt-get install systemd-container slirp4netns' /srv/said"
    )]);
    trial.rehearsal.files = vec![(env!("CARGO_BIN_EXE_kkrun").into(), "kkrun".to_owned())];
    assert_eq!(trial.exit_codes(), [0]);
}

/// Runs scripts that must each fail in a clone, because what they do would change this machine.
fn is_refused(attempts: &[&str]) {
    let attempts: Vec<String> = attempts
        .iter()
        .enumerate()
        .map(|(number, attempt)| format!("( {attempt} ) && {{ echo 'not refused: {number}'; failed=1; }}"))
        .collect();
    let script = format!("failed=0; mkdir -p /srv/at; {}; exit $failed", attempts.join("\n"));
    let mut trial = Trial::new(&[&script]);
    assert_eq!(trial.exit_codes(), [0], "{script}");
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_step_makes_no_device_of_this_machine() {
    is_refused(&[
        "mknod /srv/disk b 7 0",
        "mknod /dev/disk b 7 0",
        "mount -t tmpfs none /srv/at && mknod /srv/at/disk b 7 0",
        "systemd-run --quiet --wait mknod /srv/disk b 7 0",
    ]);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_device_that_lies_in_the_base_cannot_be_opened() {
    let place = tempfile::Builder::new().prefix("kkrun-test-").tempdir_in("/var/tmp").unwrap();
    let root = place.path().join("base");
    let image = place.path().join("image");
    std::fs::write(&image, [0; 4096]).unwrap();
    let said = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    said("cp", &["-a", pristine().to_str().unwrap(), root.to_str().unwrap()]);
    let device = said("losetup", &["--find", "--show", image.to_str().unwrap()]);
    said("cp", &["-a", &device, root.join("srv/disk").to_str().unwrap()]);
    let mut trial =
        Trial::new(&["! (echo changed >/srv/disk) && ! (mount -o remount,dev / && echo changed >/srv/disk)"]);
    trial.rehearsal.base = Base::Directory(root);
    let codes = trial.run().map(|outcome| outcome.exit_codes);
    said("losetup", &["--detach", &device]);
    assert_eq!(codes.unwrap(), [0]);
    assert_eq!(std::fs::read(&image).unwrap(), [0; 4096]);
}

fn pristine() -> PathBuf {
    let bases = std::env::var_os("KKRUN_TEST_BASES").expect("KKRUN_TEST_BASES names the directory of bases");
    PathBuf::from(bases).join("pristine")
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_step_sets_neither_the_clock_nor_the_kernel_of_this_machine() {
    let pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    is_refused(&[
        "date -s 2020-01-01",
        "systemd-run --quiet --wait date -s 2020-01-01",
        "dmesg -n 1",
        "mount -o remount,rw,bind /proc/sys; echo changed >/proc/sys/kernel/core_pattern",
        "mount -t proc proc /srv/at; echo changed >/srv/at/sys/kernel/core_pattern",
        "mount -t proc proc /srv/at; echo h >/srv/at/sysrq-trigger",
        "mount -o remount,rw,bind /sys; mount -t sysfs sysfs /srv/at; \
         for at in /sys /srv/at; do echo 1 >$at/kernel/mm/ksm/run || echo 0 >$at/kernel/profiling && exit 0; done; false",
        "systemd-run --quiet --wait bash -c 'mount -t proc proc /srv/at; echo changed >/srv/at/sys/kernel/core_pattern'",
    ]);
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_step_reaches_no_control_group_but_the_clones() {
    is_refused(&[
        "mount -t cgroup2 cgroup2 /srv/at && [ -e /srv/at/process_api ]",
        // The root of the hierarchy has no such file: what is seen there is a group below it.
        "mount -t cgroup2 cgroup2 /srv/at && [ ! -e /srv/at/cgroup.type ]",
        "mount -t cgroup -o devices cgroup /srv/at && echo a >/srv/at/devices.allow",
        "mount -t cgroup -o memory cgroup /srv/at && mkdir /srv/at/new",
    ]);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn kkrun_itself_and_the_plan_are_the_clones_own_copies() {
    let binary = tempfile::Builder::new().prefix("kkrun-test-").tempfile_in("/var/tmp").unwrap();
    std::fs::copy("/bin/bash", binary.path()).unwrap();
    let before = std::fs::read(binary.path()).unwrap();
    std::fs::set_permissions(binary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut trial = Trial::new(&["for at in /run/kkrun-rehearsal /run/kkrun-rehearsal/kkrun; do \
         mount -o remount,rw,bind $at; done; cp /bin/true /run/kkrun-rehearsal/new && \
         mv -f /run/kkrun-rehearsal/new /run/kkrun-rehearsal/kkrun && exit 1; exit 0"]);
    trial.rehearsal.binary = binary.path().to_owned();
    assert_eq!(trial.exit_codes(), [0]);
    assert_eq!(std::fs::read(binary.path()).unwrap(), before);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn no_address_of_this_machine_is_reached_whatever_the_step_does_to_its_network() {
    let list = std::process::Command::new("hostname").arg("--all-ip-addresses").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let addresses: Vec<&str> = list.split_whitespace().filter(|address| address.contains('.')).collect();
    let address = addresses.first().expect("this machine has an address");
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reach = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
    is_refused(&[
        &reach,
        &format!("ip route add {address}/32 via 10.0.2.102; {reach}"),
        &format!(
            "ip address add 10.0.2.100/24 dev host0; ip route add {address} via 10.0.2.2 dev host0; {reach}"
        ),
    ]);
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_step_may_set_up_the_clones_own_network_users_and_mounts() {
    let mut trial = Trial::new(&["set -e
        ip link add dummy0 type dummy || ip link add name bridge0 type bridge
        ip address add 192.168.77.1/24 dev lo
        sysctl -qw net.ipv4.ip_forward=1 || echo 1 >/proc/sys/net/ipv4/ip_forward
        mount -t tmpfs none /mnt; mount --bind /mnt /srv; umount /srv /mnt
        useradd --uid 70000 far; install -o far -d /srv/far; [ \"$(stat -c %u /srv/far)\" = 70000 ]
        su far -c 'id -un' | grep -qx far
        runuser -u far -- sh -c ': >/srv/far/own'
        systemd-run --quiet --wait -p PrivateTmp=yes -p PrivateDevices=yes -p ProtectSystem=strict \
            -p NoNewPrivileges=yes -p ProtectKernelTunables=yes -p ProtectControlGroups=yes true"]);
    let outcome = trial.run().unwrap();
    assert_eq!(outcome.exit_codes, [0]);
    let paths: Vec<_> = outcome.difference.entries.iter().map(|entry| entry.path.as_path()).collect();
    assert!(paths.contains(&Path::new("/srv/far/own")), "{paths:?}");
    assert!(!paths.contains(&Path::new("/etc/shells")), "{paths:?}");
    assert!(!trial.reported.contains(&Progress::NotContained));
    trial.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and a Debian base"]
fn what_is_killed_inside_or_around_the_clone_leaves_nothing() {
    for victim in ["supervisor", "leader"] {
        let mut trial = Trial::new(&["sleep 60"]);
        let reported = &mut trial.reported;
        let mut tell = |progress: Progress| {
            if let Progress::Booted { leader, .. } = progress {
                let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).unwrap();
                let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
                let pid = if victim == "leader" { leader } else { parent.parse().unwrap() };
                kkrun::machine::clone::cgroup::kill(pid);
            }
            reported.push(progress);
        };
        let _ = rehearse(&trial.rehearsal, &trial.signals, &mut tell);
        trial.assert_nothing_is_left();
    }
}

#[test]
#[ignore = "needs root and a Debian base"]
fn a_base_that_names_no_name_server_boots_and_resolves() {
    let mut trial = Trial::new(&["grep -qx 'nameserver 10.0.2.3' /etc/resolv.conf"]);
    let root = trial.scratch.path().join("base");
    let copied = std::process::Command::new("cp").arg("-a").args([pristine(), root.clone()]).status();
    assert!(copied.unwrap().success());
    std::fs::remove_file(root.join("etc/resolv.conf")).unwrap();
    trial.rehearsal.base = Base::Directory(root);
    assert_eq!(trial.exit_codes(), [0]);
    trial.assert_nothing_is_left();
}
