use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use rustix::process::{Pid, test_kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::*;
use crate::failure::{Failure, FailureKind};
use crate::machine::lock::{Attempt, Lock};
use crate::machine::terminal;

/// The processes of a run of its own, and what its commands printed.
struct Bench {
    directory: tempfile::TempDir,
    processes: Processes,
    signals: Signals,
    /// Reports of kkrun itself are skipped when this is set.
    is_deaf: bool,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signals = Signals::deaf().unwrap();
        let run = format!("test-{}", directory.path().file_name().unwrap().to_string_lossy());
        let patience = Patience {
            grace: Duration::from_millis(200),
            drain: Duration::from_millis(200),
            silence: Duration::from_millis(300),
        };
        let processes = Processes::new(&run, &directory.path().join("records"), signals.clone());
        Self { directory, processes: processes.with_patience(patience), signals, is_deaf: true }
    }

    fn run(&self, command: &Command) -> (Ended, Vec<String>) {
        self.run_with(command, |_| {})
    }

    fn run_with(&self, command: &Command, mut at: impl FnMut(&str)) -> (Ended, Vec<String>) {
        let mut lines = Vec::new();
        let ended = self
            .processes
            .run(command, &mut |stream, line| {
                if matches!(stream, Stream::Out | Stream::Err) {
                    at(line);
                }
                let from = match stream {
                    Stream::Out => "",
                    Stream::Err => "2:",
                    // Of a machine under load a test's command may be silent for long.
                    Stream::Report if self.is_deaf => return,
                    Stream::Report => "report:",
                    Stream::Progress => "progress:",
                    Stream::Stopping { .. } => return,
                };
                lines.push(format!("{from}{line}"));
            })
            .unwrap();
        (ended, lines)
    }

    fn failure(&self, command: &Command) -> Failure {
        let error = self.processes.run(command, &mut |_, _| {}).unwrap_err();
        error.downcast_ref::<Failure>().unwrap_or_else(|| panic!("no failure: {error:#}")).clone()
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

fn bash(script: &str) -> Command {
    Command { timeout: Some(Duration::from_secs(20)), ..Command::new(["bash", "-c", script]) }
}

fn is_alive(pid: &str) -> bool {
    Process::by_pid(pid.parse().unwrap()).is_some_and(|process| !process.has_ended())
}

/// Waits for what another process is about to do.
fn eventually(holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn the_exit_code_and_both_streams_come_back() {
    let (ended, lines) = Bench::new().run(&bash("echo out; echo err >&2; exit 7"));
    assert_eq!(ended.status, Status::Code(7));
    assert_eq!((ended.stdout.text(), ended.stderr.text()), ("out\n".into(), "err\n".into()));
    assert_eq!(lines.into_iter().collect::<BTreeSet<_>>(), ["2:err".to_owned(), "out".to_owned()].into());
    assert_eq!(ended.left_behind, []);
    assert!(ended.seconds > 0.0 && ended.seconds < 10.0);
}

#[test]
fn a_death_by_a_signal_from_outside_is_reported() {
    let (ended, _) = Bench::new().run(&bash("kill -SEGV $$"));
    assert_eq!(ended.status, Status::Signal(11));
}

#[test]
fn a_program_that_is_missing_is_named_and_its_arguments_are_not() {
    let bench = Bench::new();
    let failure = bench.failure(&Command::new(["no-such-program", "--password=hunter2"]));
    assert_eq!(failure.message, format!("program `no-such-program` not found in PATH ({PATH})"));
    assert_eq!(failure.kind, FailureKind::Missing);
    let failure = bench.failure(&Command::new(["/no/such/program", "hunter2"]));
    assert_eq!(failure.message, "program `/no/such/program` does not exist");
    let plain = bench.path("plain");
    std::fs::write(&plain, "x").unwrap();
    let failure = bench.failure(&Command::new([plain.as_str(), "hunter2"]));
    assert_eq!(
        (failure.message, failure.kind),
        (format!("program `{plain}` is not executable"), FailureKind::Denied)
    );
}

#[test]
fn a_script_without_an_interpreter_line_is_run_as_by_a_shell() {
    let bench = Bench::new();
    let script = bench.path("script");
    std::fs::write(&script, "echo \"$1\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(bench.run(&Command::new([script.as_str(), "one word"])).1, ["one word"]);
}

#[test]
fn a_zero_byte_is_refused() {
    let error = Bench::new().processes.run(&Command::new(["true", "a\0b"]), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().ends_with("an argument or variable contains a NUL byte"), "{error:#}");
}

#[test]
fn a_script_whose_interpreter_is_missing_is_explained() {
    let bench = Bench::new();
    let script = bench.path("script");
    std::fs::write(&script, "#!/no/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let explained = format!("the interpreter in the first line of `{script}` does not exist");
    assert_eq!(bench.failure(&Command::new([&script])).message, explained);
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let mut command = Command::new(["true"]);
    command.cwd = Some("/no/such/directory".into());
    let failure = Bench::new().failure(&command);
    assert_eq!(failure.message, "cannot run `true` in `/no/such/directory`: it does not exist");
    command.cwd = Some("/etc/passwd".into());
    let failure = Bench::new().failure(&command);
    assert_eq!(failure.message, "cannot run `true` in `/etc/passwd`: it is not a directory");
}

#[test]
fn a_relative_program_is_found_where_the_command_runs() {
    let bench = Bench::new();
    std::fs::write(bench.path("here"), "#!/bin/sh\necho \"$0 in $PWD\"\n").unwrap();
    std::fs::set_permissions(bench.path("here"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(["./here"]);
    command.cwd = Some(bench.directory.path().into());
    let directory = bench.directory.path().canonicalize().unwrap();
    let (_, lines) = bench.run(&command);
    assert!(lines[0].ends_with(&format!("/./here in {}", directory.display())), "{lines:?}");
}

#[test]
fn the_environment_is_built_from_nothing() {
    let bench = Bench::new();
    let mut command = Command::new(["env"]);
    command.env = vec![
        ("PLAIN".into(), "a b".into()),
        ("HIDDEN".into(), Value::Secret(Zeroizing::new(b"s\xff".to_vec()))),
        ("LANG".into(), "de_DE.UTF-8".into()),
    ];
    let (ended, _) = bench.run(&command);
    let account = Account::current().unwrap();
    let mut wanted: BTreeSet<Vec<u8>> = [
        format!("PATH={PATH}"),
        format!("HOME={}", account.home.display()),
        format!("USER={}", account.name),
        format!("LOGNAME={}", account.name),
        format!("SHELL={}", account.shell.display()),
        "LANG=de_DE.UTF-8".to_owned(),
        "PLAIN=a b".to_owned(),
        format!("TERM={}", std::env::var("TERM").unwrap_or("dumb".into())),
        format!("KKRUN_RUN={}", bench.processes.run),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    wanted.insert(b"HIDDEN=s\xff".to_vec());
    if !account.is_root() {
        wanted.insert(format!("XDG_RUNTIME_DIR=/run/user/{}", account.uid).into_bytes());
    }
    for name in TAKEN_OVER.into_iter().filter(|name| *name != "TERM") {
        if let Ok(value) = std::env::var(name) {
            wanted.insert(format!("{name}={value}").into_bytes());
        }
    }
    let output = ended.stdout.whole().unwrap();
    let seen: BTreeSet<Vec<u8>> =
        output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    assert_eq!(seen, wanted);
}

#[test]
fn a_child_begins_alone_without_a_terminal_or_core_dumps() {
    let (_, lines) = Bench::new().run(&bash(
        r#"echo "$PWD $(umask) $(ulimit -c)"; readlink /proc/self/fd/0
        read -r _ _ _ _ group session terminal _ < /proc/$$/stat
        [ "$group" = $$ ] && [ "$session" = $$ ] && echo "alone, terminal $terminal"
        echo x 2>/dev/null > /dev/tty || echo "no terminal""#,
    ));
    assert_eq!(lines, ["/ 0022 0", "/dev/null", "alone, terminal 0", "no terminal"].map(str::to_owned));
}

#[test]
fn signals_that_kkrun_ignores_reach_its_children() {
    let (_, lines) = Bench::new().run(&bash("grep -E '^Sig(Ign|Blk)' /proc/self/status | tr -s '\\t' ' '"));
    let pipe = 1_u64 << 12;
    for line in lines {
        let mask = u64::from_str_radix(line.split(' ').nth(1).unwrap(), 16).unwrap();
        assert_eq!(mask & pipe, 0, "{line}");
    }
}

#[test]
fn bytes_go_in_and_come_out_however_many() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0] ^ b'\n').collect();
    let sum = bash("sha256sum");
    let (ended, _) = bench.run(&Command { stdin: Stdin::Bytes(Zeroizing::new(bytes.clone())), ..sum });
    let digest = ended.stdout.text();
    let through = bash("tee /dev/stderr | sha256sum");
    let (ended, _) = bench.run(&Command { stdin: Stdin::Bytes(Zeroizing::new(bytes.clone())), ..through });
    assert_eq!(ended.stdout.text(), digest);
    assert_eq!(ended.stderr.left_out(), 3_000_000 - 2 * KEPT as u64);
    let (ended, _) = bench.run(&Command {
        stdin: Stdin::Bytes(Zeroizing::new(bytes[..2_000_000].to_vec())),
        ..Command::new(["cat"])
    });
    assert_eq!(ended.stdout.whole().unwrap(), &bytes[..2_000_000]);
}

#[test]
fn a_child_that_does_not_read_is_not_at_fault() {
    let (ended, _) = Bench::new().run(&Command {
        stdin: Stdin::Bytes(Zeroizing::new(vec![b'x'; 3_000_000])),
        ..bash("exec 0<&-; echo done")
    });
    assert_eq!((ended.status, ended.stdout.text()), (Status::Code(0), "done\n".into()));
}

#[test]
fn too_much_output_is_bounded_and_its_end_is_kept() {
    let mut count = 0_u32;
    let mut last = String::new();
    let ended = Bench::new()
        .processes
        .run(&bash("seq 1 600000; echo end"), &mut |_, line| {
            count += 1;
            line.clone_into(&mut last);
        })
        .unwrap();
    assert_eq!(last, "end");
    assert!((100_000..110_000).contains(&count), "{count} lines were reported");
    assert!(ended.stdout.left_out() > 1_000_000);
    assert_eq!(ended.tail.len(), TAIL);
    assert_eq!(ended.tail[TAIL - 2..], ["600000".to_owned(), "end".to_owned()]);
    assert!(ended.stdout.text().starts_with("1\n2\n") && ended.stdout.text().ends_with("600000\nend\n"));
}

#[test]
fn lines_arrive_in_order_while_the_command_runs() {
    let bench = Bench::new();
    let mark = bench.path("mark");
    let wait = |number: u8| format!("until [ -e {mark}{number} ]; do sleep 0.01; done");
    let script = format!("echo out 1; {}; echo err 2 >&2; {}; echo out 3", wait(1), wait(2));
    // Each line lets the command go on: if they were not passed on at once, it would time out.
    let (ended, lines) = bench.run_with(&bash(&script), |line| {
        std::fs::write(format!("{mark}{}", line.chars().last().unwrap()), "").unwrap();
    });
    assert_eq!(ended.status, Status::Code(0));
    assert_eq!(lines, ["out 1", "2:err 2", "out 3"].map(str::to_owned));
    assert_eq!(ended.tail, ["out 1", "err 2", "out 3"].map(str::to_owned));
}

#[test]
fn time_that_is_up_ends_the_command_and_its_descendants() {
    let bench = Bench::new();
    let mut command = bash(
        "trap '' TERM; setsid sleep 1000 & sleep 1001 & echo $!; wait; echo $$; while :; do sleep 0.01; done",
    );
    command.timeout = Some(Duration::from_millis(300));
    let mut pids = Vec::new();
    let (ended, lines) = bench.run_with(&command, |_| {
        pids.extend(Process::children().into_iter().map(|child| child.pid));
    });
    assert_eq!(ended.status, Status::TimedOut);
    assert!(ended.seconds >= 0.5 && ended.seconds < 5.0, "{}", ended.seconds);
    assert!(lines.iter().all(|pid| !is_alive(pid)), "{lines:?}");
    assert_eq!(ended.left_behind, []);
    assert!(Process::all().iter().all(|process| {
        process.has_ended()
            || !process.was_started_with(format!("KKRUN_RUN={}", bench.processes.run).as_bytes())
    }));
}

#[test]
fn a_holder_of_the_pipe_is_left_and_named() {
    let bench = Bench::new();
    let (ended, lines) = bench.run(&bash("setsid sleep 1000 & echo $!; disown; exit 3"));
    assert_eq!(ended.status, Status::Code(3));
    assert!(ended.seconds < 5.0, "{}", ended.seconds);
    let [survivor] = ended.left_behind.as_slice() else { panic!("{:?}", ended.left_behind) };
    assert_eq!((survivor.pid.to_string(), survivor.name.as_str()), (lines[0].clone(), "sleep"));
    assert!(is_alive(&lines[0]));
    let pid = Pid::from_raw(survivor.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // A later command reaps it: a process that waits for it does not take it for alive.
    let script = format!("while kill -0 {} 2>/dev/null; do sleep 0.01; done", survivor.pid);
    assert_eq!(bench.run(&bash(&script)).0.status, Status::Code(0));
    assert!(test_kill_process(pid).is_err());
}

#[test]
fn a_daemon_that_closed_its_output_is_named_and_costs_no_time() {
    let bench = Bench::new();
    let script = "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!";
    let (ended, lines) = bench.run(&bash(script));
    assert!(ended.seconds < 0.2, "{}", ended.seconds);
    assert_eq!(ended.left_behind.len(), 1);
    assert_eq!(ended.left_behind[0].pid.to_string(), lines[0]);
    let (ended, _) = bench.run(&bash("true"));
    assert_eq!(ended.left_behind, [], "it is named once");
    let records = bench.directory.path().join("records");
    assert_eq!(orphans(&records).unwrap(), [], "the run is alive");
    bench.run(&Command::new(["kill", "-9", &lines[0]]));
}

#[test]
fn nothing_remains_of_a_command_with_what_its_daemon_started() {
    for (script, what) in [
        ("nohup sh -c '(while sleep 0.1; do :; done) & wait' >/dev/null 2>&1 &", "a daemon with a child"),
        ("setsid sh -c 'setsid sleep 1000 & sleep 1001' >/dev/null 2>&1 &", "sessions"),
        ("setsid bash -c \"trap '' TERM; (trap '' TERM; sleep 1000) & wait\" >/dev/null 2>&1 &", "the deaf"),
        (
            "setsid perl -MPOSIX -e 'while () { fork and exit; setsid }' >/dev/null 2>&1 &",
            "what forks in a loop",
        ),
        ("(setsid bash -c 'kill -STOP $$' >/dev/null 2>&1 &); sleep 0.1", "what is stopped"),
        ("exit 3", "nothing"),
    ] {
        let bench = Bench::new();
        let remaining = Remaining::from_now(&bench.processes, None).unwrap();
        bench.run(&bash(script));
        let begun = Instant::now();
        let mut named = Vec::new();
        let grace = Duration::from_millis(300);
        remaining.end(grace, &mut |process| named.push(process.name.clone())).unwrap();
        assert_eq!(named.is_empty(), what == "nothing", "{what}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{what}: {:?}", begun.elapsed());
        let variable = format!("KKRUN_RUN={}", bench.processes.run);
        let is_left =
            |process: &Process| !process.has_ended() && process.was_started_with(variable.as_bytes());
        // Of what forks in a loop one that was missed goes on.
        for _ in 0..3 {
            let left: Vec<Process> = Process::all().into_iter().filter(is_left).collect();
            assert_eq!(left, [], "{what}");
        }
    }
}

#[test]
fn what_an_earlier_command_left_on_purpose_is_not_ended_with_what_remains_of_a_later_one() {
    let bench = Bench::new();
    let mark = bench.path("mark");
    let daemon = format!(
        "setsid bash -c '(sleep 1000; :) & touch {mark}; wait' >/dev/null 2>&1 & echo $!; until [ -e {mark} ]; do sleep 0.01; done"
    );
    let (ended, lines) = bench.run(&bash(&daemon));
    assert_eq!(ended.left_behind.len(), 1);
    let remaining = Remaining::from_now(&bench.processes, None).unwrap();
    // The daemon ends, and what it started becomes a child of this process.
    bench.run(&bash(&format!("setsid sleep 1001 >/dev/null 2>&1 & kill -KILL {}", lines[0])));
    let mut named = 0;
    remaining.end(Duration::from_millis(300), &mut |_| named += 1).unwrap();
    assert_eq!(named, 1);
    let session: u32 = lines[0].parse().unwrap();
    let left: Vec<Process> =
        Process::all().into_iter().filter(|process| process.session == session).collect();
    for process in &left {
        let pid = Pid::from_raw(process.pid.cast_signed()).unwrap();
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    assert!(left.iter().any(|process| !process.has_ended()), "{left:?}");
}

#[test]
fn the_first_signal_asks_the_command() {
    let bench = Bench::new();
    let script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let (ended, lines) = bench.run_with(&bash(script), |line| {
        if line == "ready" {
            bench.signals.deliver(SIGINT);
        }
    });
    assert_eq!(ended.status, Status::Interrupted { signal: SIGINT });
    // bash says on its standard error what became of its `sleep`.
    let said: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.starts_with("2:")).collect();
    assert_eq!(said, ["ready", "asked"]);
}

#[test]
fn the_second_signal_kills_it_and_nothing_more_is_started() {
    let bench = Bench::new();
    let script = "trap 'echo deaf' TERM; echo ready; while :; do sleep 0.01; done";
    let (ended, _) = bench.run_with(&bash(script), |line| match line {
        "ready" => bench.signals.deliver(SIGINT),
        "deaf" => bench.signals.deliver(SIGTERM),
        _ => {}
    });
    assert_eq!(ended.status, Status::Interrupted { signal: SIGINT });
    let mark = bench.path("mark");
    let (ended, _) = bench.run(&Command::new(["touch", &mark]));
    assert_eq!(ended.status, Status::Interrupted { signal: SIGINT });
    assert!(!Path::new(&mark).exists());
}

#[test]
fn what_outlasts_an_interrupt_is_left_to_finish_and_so_is_everything_at_a_hang_up() {
    for (outlasts_interrupt, signal) in [(true, SIGINT), (false, SIGHUP)] {
        let bench = Bench::new();
        let mark = bench.path("mark");
        let script = format!("echo ready; until [ -e {mark} ]; do sleep 0.01; done; echo finished");
        let command = Command { outlasts_interrupt, ..bash(&script) };
        let (ended, lines) = bench.run_with(&command, |line| {
            if line == "ready" {
                bench.signals.deliver(signal);
                std::fs::write(&mark, "").unwrap();
            }
        });
        assert_eq!((ended.status, lines.last().unwrap().as_str()), (Status::Code(0), "finished"));
        assert_eq!(bench.signals.pending().unwrap().signal, signal);
        // A command that only observes still runs.
        assert_eq!(bench.run(&bash("exit 5")).0.status, Status::Code(5));
    }
}

#[test]
#[ignore = "needs root"]
fn another_user_runs_it_with_its_own_groups_and_home() {
    let bench = Bench::new();
    let account = Account::by_uid(65534).unwrap().unwrap();
    let script =
        "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $XDG_RUNTIME_DIR; pwd; grep CapEff /proc/self/status";
    let (ended, lines) = bench.run(&Command { user: Some(account.clone()), ..bash(script) });
    assert_eq!(ended.status, Status::Code(0));
    let groups: BTreeSet<String> = account.groups.iter().map(u32::to_string).collect();
    assert_eq!(lines[..2], [account.uid.to_string(), account.gid.to_string()]);
    assert_eq!(lines[2].split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), groups);
    let home = account.home.display();
    assert_eq!(lines[3], format!("{home} {0} {0} /run/user/{1}", account.name, account.uid));
    assert_eq!(lines[4], if account.home.is_dir() { home.to_string() } else { "/".to_owned() });
    assert_eq!(lines[5], "CapEff:\t0000000000000000");

    std::fs::set_permissions(bench.directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let directory = bench.directory.path().to_owned();
    let name = account.name.clone();
    let failure = bench.failure(&Command {
        user: Some(account),
        cwd: Some(directory.clone()),
        ..Command::new(["true"])
    });
    let wanted =
        format!("cannot run `true` in `{}` as user `{name}`: permission denied", directory.display());
    assert!(failure.message.starts_with(&wanted), "{}", failure.message);
}

#[test]
fn only_root_becomes_another_user() {
    if Account::current().unwrap().is_root() {
        return;
    }
    let root = Account::existing("root").unwrap();
    let failure = Bench::new().failure(&Command { user: Some(root), ..Command::new(["true"]) });
    assert_eq!(failure.message, "only root can run a command as user `root`");
}

#[test]
fn a_run_without_commands_writes_nothing_and_one_with_clears_up() {
    let bench = Bench::new();
    let records = bench.directory.path().join("records");
    assert!(!records.exists());
    let text_seen = std::cell::RefCell::new(String::new());
    bench.run_with(&bash("echo $$"), |pid| {
        let file = records.join(format!("{}.children", bench.processes.run));
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.starts_with(&format!("{pid} ")), "{text}");
        text_seen.replace(text);
    });
    assert!(!text_seen.borrow().is_empty());
    drop(bench.processes);
    assert_eq!(std::fs::read_dir(records).unwrap().count(), 0);
}

/// Starts a child of the test itself. It is registered as awaited, or a run of another test could reap it.
fn spawned(command: &mut std::process::Command) -> std::process::Child {
    let mut awaited = child::awaited();
    let child = command.spawn().unwrap();
    awaited.insert(child.id());
    child
}

/// One run with two commands, which the test below kills.
fn run_until_killed(directory: &str) {
    let run = Path::new(directory).parent().unwrap().file_name().unwrap().to_str().unwrap();
    let processes = Processes::new(run, Path::new(directory), Signals::deaf().unwrap());
    let left = "setsid sleep 1002 > /dev/null 2>&1 &";
    processes.run(&bash(left), &mut |_, _| {}).unwrap();
    let script = "setsid sleep 1000 & env -i sleep 1001 & echo > $0; wait";
    let ready = format!("{directory}/../ready");
    let command = Command::new(["bash", "-c", script, &ready]);
    processes.run(&command, &mut |_, _| {}).unwrap();
}

#[test]
fn run_that_was_killed_leaves_orphans_which_are_found_and_ended() {
    // The test is its own child, so that no test passes without having been run.
    if let Ok(directory) = std::env::var("KKRUN_TEST_KILLED_RUNNER") {
        return run_until_killed(&directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let records = directory.path().join("records");
    let mut runner = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "machine::process::tests::run_that_was_killed_leaves_orphans_which_are_found_and_ended",
            "--nocapture",
        ])
        .env("KKRUN_TEST_KILLED_RUNNER", &records)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(|| directory.path().join("ready").exists()), "the runner got nowhere");
    assert_eq!(orphans(&records).unwrap(), [], "a run that is alive has no orphans");
    runner.kill().unwrap();
    runner.wait().unwrap();

    let names = || {
        let mut names: Vec<String> =
            orphans(&records).unwrap().into_iter().map(|orphan| orphan.name).collect();
        names.sort_unstable();
        names
    };
    // Its children are still on the way to becoming what they are.
    assert!(eventually(|| names() == ["bash", "sleep", "sleep"]), "{:?}", names());
    let found = orphans(&records).unwrap();
    let run = directory.path().file_name().unwrap().to_str().unwrap();
    assert!(found.iter().all(|orphan| orphan.run == run));
    assert!(!found[0].wait(Instant::now() + Duration::from_millis(1)).unwrap());
    for orphan in &found {
        orphan.end(Duration::from_secs(5)).unwrap();
        assert!(orphan.wait(Instant::now()).unwrap());
    }
    assert_eq!(orphans(&records).unwrap(), []);
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0, "its records are gone with its orphans");

    let variable = format!("KKRUN_RUN={run}");
    let left: Vec<Process> =
        Process::all().into_iter().filter(|process| process.was_started_with(variable.as_bytes())).collect();
    let [left] = left.as_slice() else { panic!("{left:?}") };
    let pid = Pid::from_raw(left.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn child_that_a_killed_run_did_not_come_to_note_is_found_with_its_group() {
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().file_name().unwrap().to_str().unwrap();
    let boot = crate::machine::clock::boot_id().unwrap();
    let group = Process::current().unwrap().control_group().unwrap_or_default();
    let records = format!("run {run}\nboot {boot}\nrunner 1 1\ncgroup {group}\n");
    // The second has neither the variable nor a parent that has: it is in the group that the child leads.
    let script = "(env -i sleep 1004 > /dev/null 2>&1 &); exec sleep 1003";
    let mut child = spawned(
        std::process::Command::new("bash")
            .args(["-c", script])
            .env("KKRUN_RUN", run)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .process_group(0),
    );
    let names = || -> Vec<String> {
        // Records of a run of which nothing is found are removed, and a child that has not executed its program is not
        // found: a killed run's child has the lock until then, so that no one looks.
        std::fs::write(directory.path().join(format!("{run}.children")), &records).unwrap();
        orphans(directory.path()).unwrap().into_iter().map(|orphan| orphan.name).collect()
    };
    assert!(eventually(|| names() == ["sleep", "sleep"]), "{:?}", names());
    for orphan in orphans(directory.path()).unwrap() {
        orphan.end(Duration::from_secs(5)).unwrap();
    }
    child.wait().unwrap();
    assert_eq!(orphans(directory.path()).unwrap(), []);
}

#[test]
fn notes_of_another_boot_or_an_ended_process_are_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    let own = Process::current().unwrap();
    let start = own.start;
    std::fs::write(
        directory.path().join("a.children"),
        format!(
            "{} {start}
run a
boot other
",
            own.pid
        ),
    )
    .unwrap();
    let boot = crate::machine::clock::boot_id().unwrap();
    std::fs::write(
        directory.path().join("b.children"),
        format!(
            "{} 1
run b
boot {boot}
",
            own.pid
        ),
    )
    .unwrap();
    assert_eq!(orphans(directory.path()).unwrap(), []);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_eq!(orphans(&directory.path().join("none")).unwrap(), []);
}

#[test]
fn other_files_are_neither_read_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["rehearsals", "directory.children"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("records of the operator"), "12 345 12\nrun a\nboot b\n").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", at("link.children")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe.children"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let names = || {
        let entries = std::fs::read_dir(directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    let before = names();
    assert_eq!(orphans(directory.path()).unwrap(), []);
    assert_eq!(names(), before);

    let processes = Processes::new("run-1", directory.path(), Signals::deaf().unwrap());
    assert!(!processes.has_records_of_others().unwrap(), "nothing of it is a run's");
    std::fs::write(at("run-0.children"), "").unwrap();
    assert!(processes.has_records_of_others().unwrap());
    assert_eq!(orphans(directory.path()).unwrap(), []);
    assert_eq!(names(), before, "a run that was killed before it noted anything started nothing");
}

#[test]
fn no_secret_is_in_what_a_programmer_is_shown() {
    let command = Command {
        env: vec![("A".into(), Value::Secret(Zeroizing::new(b"hunter2".to_vec())))],
        stdin: Stdin::Bytes(Zeroizing::new(b"hunter2".to_vec())),
        ..Command::default()
    };
    let bytes = format!("{:?}", b"hunter2");
    let shown = format!("{command:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(&bytes), "{shown}");
}

#[test]
fn a_signal_ends_one_pause_and_not_the_next() {
    let bench = Bench::new();
    bench.signals.deliver(SIGHUP);
    let begin = Instant::now();
    bench.processes.pause(Duration::from_secs(60));
    assert!(begin.elapsed() < Duration::from_secs(30));
    bench.processes.pause(Duration::from_millis(20));
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[test]
fn messages_show_the_label() {
    let mut command = Command::new(["/usr/bin/true", "secret"]);
    assert_eq!(command.shown(), "true");
    command.label = Some("truth".to_owned());
    assert_eq!(command.shown(), "truth");
}

/// Makes a test run this script at its terminal.
const SCRIPT: &str = "KKRUN_TEST_SCRIPT";

/// A run at a terminal.
fn run_at_the_terminal(script: &str) {
    use std::io::Write as _;
    let directory = std::env::var("KKRUN_TEST_DIRECTORY").unwrap();
    let patience = Patience { silence: Duration::from_secs(1), ..Patience::default() };
    let processes = Processes::new("terminal", Path::new(&directory), Signals::install().unwrap());
    let processes = processes.with_patience(patience);
    let interactive = std::env::var_os("KKRUN_TEST_INTERACTIVE").is_some();
    let command = Command { interactive, ..bash(script) };
    let mut say = std::io::stdout();
    // The library that plays the person has turned it off.
    let mut settings = rustix::termios::tcgetattr(terminal::open().unwrap()).unwrap();
    settings.local_modes.insert(rustix::termios::LocalModes::ECHO);
    let now = rustix::termios::OptionalActions::Now;
    rustix::termios::tcsetattr(terminal::open().unwrap(), now, &settings).unwrap();
    let ended = processes
        .run(&command, &mut |_, line| {
            writeln!(std::io::stdout(), "line: {line}").unwrap();
        })
        .unwrap();
    let settings = rustix::termios::tcgetattr(terminal::open().unwrap()).unwrap();
    let echoes = settings.local_modes.contains(rustix::termios::LocalModes::ECHO);
    let in_front =
        rustix::termios::tcgetpgrp(terminal::open().unwrap()).unwrap() == rustix::process::getpgrp();
    writeln!(say, "status: {:?}, echo {echoes}, in front {in_front}", ended.status).unwrap();
}

/// That run, with a person at the terminal.
fn at_a_terminal(script: &str, interactive: bool) -> (rexpect::session::PtySession, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    // A shell's background job begins with SIGINT ignored, and so would all that it starts.
    let mut runner = std::process::Command::new("env");
    runner
        .arg("--default-signal")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "machine::process::tests::an_interactive_command_has_the_terminal_which_is_put_back_afterwards",
            "--nocapture",
        ])
        .env(SCRIPT, script)
        .env("KKRUN_TEST_DIRECTORY", directory.path());
    if interactive {
        runner.env("KKRUN_TEST_INTERACTIVE", "1");
    }
    (rexpect::session::spawn_command(runner, Some(20_000)).unwrap(), directory)
}

#[test]
fn an_interactive_command_has_the_terminal_which_is_put_back_afterwards() {
    // The test is the child of all at a terminal, so that no test passes without having been run.
    if let Ok(script) = std::env::var(SCRIPT) {
        return run_at_the_terminal(&script);
    }
    let script =
        "stty -echo; printf 'your name? '; read -r name; echo \"hello $name\"; set -m; sleep 0; exit 4";
    let (mut person, _directory) = at_a_terminal(script, true);
    person.exp_string("your name? ").unwrap();
    person.send_line("Ada").unwrap();
    person.exp_string("hello Ada").unwrap();
    person.exp_string("status: Code(4), echo true, in front true").unwrap();
    person.exp_eof().unwrap();
}

#[test]
fn ctrl_c_interrupts_what_runs_no_matter_who_has_the_terminal() {
    // A shell would lose the signal that it gets while it goes on as another program.
    let script = "exec perl -e '$| = 1; print \"ready\\n\"; sleep 1000'";
    for interactive in [true, false] {
        let (mut person, _directory) = at_a_terminal(script, interactive);
        person.exp_string("ready").unwrap();
        person.send_control('c').unwrap();
        person.exp_string("status: Interrupted { signal: 2 }, echo true, in front true").unwrap();
        person.exp_eof().unwrap();
    }
}

#[test]
fn a_command_that_is_not_interactive_cannot_wait_for_an_answer() {
    let (mut person, _directory) = at_a_terminal("read -r x < /dev/tty || echo \"nothing: $?\"", false);
    person.exp_string("line: nothing: 1").unwrap();
    person.exp_string("status: Code(0), echo true, in front true").unwrap();
    person.exp_eof().unwrap();
}

#[test]
fn an_interactive_command_without_a_terminal_is_refused() {
    if terminal::open().is_ok() {
        // Only a new session has no terminal: the test is its own child there.
        let own_name = "machine::process::tests::an_interactive_command_without_a_terminal_is_refused";
        let mut child = std::process::Command::new("setsid");
        child.arg("--wait").arg(std::env::current_exe().unwrap()).args(["--exact", own_name]);
        let child = spawned(child.stdout(std::process::Stdio::piped()));
        let output = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let failure = Bench::new().failure(&Command { interactive: true, ..Command::new(["true"]) });
    assert_eq!(failure.message, "cannot run `true`: it needs a terminal, and there is none");
    assert_eq!(failure.exit, crate::exit_code::ExitCode::UNANSWERED);
}

/// The report about a silent command, which is ended then.
fn report_about(command: &Command) -> String {
    let bench = Bench { is_deaf: false, ..Bench::new() };
    let signals = bench.signals.clone();
    let mut report = String::new();
    let mut sink = |stream: Stream, line: &str| {
        if stream == Stream::Report {
            line.clone_into(&mut report);
            signals.deliver(SIGTERM);
        }
    };
    bench.processes.run(command, &mut sink).unwrap();
    report
}

#[test]
fn a_silent_command_is_named_with_what_it_waits_for() {
    let said = report_about(&bash("sleep 600; echo"));
    assert!(said.starts_with("`bash` is silent for ") && said.contains(": sleep (process "), "{said}");
    assert!(said.ends_with(") sleeps") || said.contains("kernel"), "{said}");
    let said = report_about(&bash("while :; do :; done"));
    assert!(said.contains(": bash (process ") && said.ends_with("is computing"), "{said}");
}

#[test]
fn the_holder_of_a_lock_that_a_silent_command_waits_for_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    let Attempt::Acquired(_lock) = Lock::acquire(&path).unwrap() else { panic!("the lock is taken") };
    let said = report_about(&Command::new(["flock", path.to_str().unwrap(), "true"]));
    let holder = format!("(process {}) holds", std::process::id());
    assert!(said.contains("waits for the lock of `") && said.contains(path.to_str().unwrap()), "{said}");
    assert!(said.contains(&holder), "{said}");
}

#[test]
fn a_command_that_waits_for_terminal_input_is_named() {
    let script = "tty=$(ps -o tty= -p $PPID | tr -d ' '); read -r line < \"/dev/$tty\"";
    let (mut person, _directory) = at_a_terminal(script, false);
    person.exp_string("waits for input from the terminal").unwrap();
    person.send_control('c').unwrap();
    person.exp_string("status: Interrupted").unwrap();
    person.exp_eof().unwrap();
}

#[test]
fn what_a_timed_out_command_waited_for_is_reported_last() {
    let command = Command { timeout: Some(Duration::from_millis(50)), ..Command::new(["sleep", "600"]) };
    let (ended, _) = Bench::new().run(&command);
    assert_eq!(ended.status, Status::TimedOut);
    assert!(ended.tail[0].contains("sleep (process "), "{:?}", ended.tail);
}

#[test]
fn what_a_command_does_is_apart_from_what_it_prints() {
    let mut command = Command::new(["bash", "-c", "echo one >&3; sleep 0.05; echo printed; echo two >&3"]);
    command.has_progress = true;
    let (ended, mut lines) = Bench::new().run(&command);
    lines.sort();
    assert!(ended.is_success(), "{ended:?}");
    assert_eq!(ended.stdout.text(), "printed\n");
    assert!(lines.starts_with(&["printed".to_owned(), "progress:one".to_owned()]), "{lines:?}");
    // Without it there is no such descriptor.
    command.has_progress = false;
    assert!(!Bench::new().run(&command).0.stderr.text().is_empty());
}
