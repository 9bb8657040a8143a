//! Commands that misbehave: the step ends in time, reports the outcome, and names the processes that are left.

use std::time::{Duration, Instant};

use crate::support::{Place, Ran, until};

/// A step with one command, and how long it took.
fn run(script: &str, options: &str) -> (Place, Ran, Duration) {
    let place = Place::empty();
    place.write("plan/script", script);
    let call =
        format!("cmd::run([\"bash\", \"@/plan/script\", \"@/m\"], #{{ always: \"a test\"{options} }});");
    place.write("plan/plan.rhai", &format!("step::run(\"01\", \"First\", || {{ {call} }});"));
    let started = Instant::now();
    let ran = place.run("plan.rhai");
    (place, ran, started.elapsed())
}

fn end_of(place: &Place, name: &str) {
    let Ok(pid) = place.read(name).trim().parse() else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

const SOON: Duration = Duration::from_secs(30);

#[test]
fn process_that_a_command_leaves_running_is_kept_and_named() {
    for (script, what) in [
        ("setsid sleep 600 < /dev/null > /dev/null 2>&1 & echo $! > $1/pid; exit 0", "a daemon"),
        (
            "(setsid bash -c 'echo $$ > '$1'/pid; exec sleep 600' < /dev/null > /dev/null 2>&1 &); sleep 0.2",
            "a double fork",
        ),
        ("sleep 600 & echo $! > $1/pid; exit 0", "a holder of the pipe"),
        ("trap '' TERM HUP; sleep 600 & echo $! > $1/pid; disown; exit 0", "a deaf holder of the pipe"),
    ] {
        let (place, ran, took) = run(script, "");
        let ran = ran.ends(0);
        assert!(took < SOON, "{what}: {took:?}");
        let pid = place.read("m/pid").trim().to_owned();
        let log = place.run("log 01").ends(0).stdout;
        let named = ran.stderr.contains(&pid) || log.contains(&pid);
        end_of(&place, "m/pid");
        assert!(named, "{what}, process {pid}: {}\n{log}", ran.page());
    }
}

#[test]
fn command_that_never_ends_is_ended_after_its_timeout() {
    for (script, what) in [
        ("exec sleep 600", "what sleeps"),
        ("echo $BASHPID > $1/pid; while :; do :; done", "what computes"),
        ("trap '' TERM INT HUP QUIT; while :; do sleep 600; done", "what hears no signal"),
        ("trap 'sleep 600' TERM; sleep 600", "what takes its time to end"),
        ("kill -STOP $$", "what is stopped"),
        ("bash -c 'trap \"\" TERM; sleep 600' & sleep 600", "what has deaf children"),
        ("cat <(sleep 600)", "what reads a pipe"),
        ("yes", "what floods"),
    ] {
        let (place, ran, took) = run(script, ", timeout: 1");
        let ran = ran.ends(1).says("timed out");
        assert!(took < SOON, "{what}: {took:?}\n{}", ran.page());
        assert!(place.records().contains(&"step_failed".to_owned()));
        // Nothing of it is left.
        let state = place.path("plan/script").display().to_string();
        let all = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&all.stdout).contains(&state), "{what}");
    }
    let (_, ran, _) = run("exec sleep 600", ", timeout: 1");
    ran.says("(process ").says("sleeps");
}

#[test]
fn command_without_a_terminal_never_waits_for_input() {
    for script in [
        "read -r line; echo \"got <$line>\"",
        "read -r line < /dev/tty || echo 'got <>'",
        "exec 3<> /dev/tty || true; echo 'got <>'",
        "cat; echo 'got <>'",
        "bash -i -c 'read -r x' < /dev/null; echo 'got <>'",
    ] {
        let (place, ran, took) = run(script, "");
        ran.ends(0);
        assert!(took < SOON && place.run("log 01").stdout.contains("got <>"), "{script}: {took:?}");
    }
}

#[test]
fn output_of_every_kind_is_shown_and_logged_without_what_a_terminal_would_obey() {
    let script = r"
printf '\033]52;c;ZXZpbA==\a clipboard\n'
printf '\033[2J\033[H\033[?25l\033[?1049h cursor\n'
printf '\302\233[2J\302\2350;title\302\234 c1\n'
printf '\2332J raw c1\n'
printf 'user\342\200\256txt.exe\342\201\246 bidi\n'
printf '\033P1$r\033\\ device\n'
printf 'bell\a back\b del\177 shift\016\017 end\n'
printf 'progress 1\rprogress 2\r\n'
printf '\000\001\002 zeros\n'
head -c 300000 /dev/urandom
printf '\n\303\050 not utf-8\n'
printf '\033]0;never ended'
";
    for words in ["plan.rhai -v", "plan.rhai --json", "plan.rhai"] {
        let place = Place::empty();
        place.write("plan/script", script);
        place.write(
            "plan/plan.rhai",
            "step::run(\"01\", \"First\", || { cmd::run([\"bash\", \"@/plan/script\"], #{ always: \"a test\" }); print(cmd::read([\"bash\", \"@/plan/script\"])); });",
        );
        let output = place.command(&words.split(' ').collect::<Vec<_>>()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut log = Vec::new();
        for entry in std::fs::read_dir(place.path("state/logs")).unwrap() {
            log.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        let shown = place.command(&["log", "01"]).output().unwrap().stdout;
        for (what, bytes) in
            [("stderr", &output.stderr), ("the log", &log), ("what `kkrun log` shows", &shown)]
        {
            let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            let acts = |letter: char| {
                letter.is_control() && !"\n\t".contains(letter)
                    || ('\u{202a}'..='\u{202e}').contains(&letter)
                    || ('\u{2066}'..='\u{2069}').contains(&letter)
            };
            let found = text.char_indices().find(|(_, letter)| acts(*letter));
            assert_eq!(
                found,
                None,
                "{words}, {what}: {:?}",
                found.map(|(at, _)| text[at.saturating_sub(0)..].chars().take(40).collect::<String>())
            );
        }
        for word in [
            " clipboard",
            " cursor",
            " c1",
            "usertxt.exe bidi",
            "bell back del shift end",
            "progress 2",
            " zeros",
            " not utf-8",
        ] {
            assert!(String::from_utf8_lossy(&log).contains(word), "`{word}` is not in the log");
        }
    }
}

/// How much a command prints, in MiB: `KKRUN_TEST_FLOOD=10240` for the whole of it.
fn flood() -> u64 {
    std::env::var("KKRUN_TEST_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(1024)
}

#[test]
fn a_flood_is_taken_in_bounded_memory_and_the_log_is_whole_up_to_its_limit() {
    for (generator, lines) in
        [("yes 'a line of the flood, one of very many'", true), ("cat /dev/zero", false)]
    {
        let bytes = flood() << 20;
        let place = Place::empty();
        place.write(
            "plan/script",
            &format!(
                "echo begin; {generator} | head -c {bytes}; echo; echo the end; touch $1/ended; sleep 600"
            ),
        );
        place.write("plan/plan.rhai", "step::run(\"01\", \"First\", || { cmd::run([\"bash\", \"@/plan/script\", \"@/m\"], #{ always: \"a test\" }); });");
        let started = place.start("plan.rhai");
        let deadline = Instant::now() + Duration::from_secs(flood());
        while !place.exists("m/ended") {
            assert!(Instant::now() < deadline, "{generator} takes too long");
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", started.child.id())).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap()
            .trim()
            .trim_end_matches(" kB");
        let peak: u64 = peak.parse().unwrap();
        assert!(peak < 64 * 1024, "{generator}: {peak} KiB");
        started.signal(rustix::process::Signal::TERM);
        assert_eq!(started.end().status, 143);
        let log = place.run("log 01").ends(0).stdout;
        assert!(log.len() < 40 << 20, "{} bytes are logged", log.len());
        assert!(
            log.contains("\nbegin\n") && log.contains("\nthe end\n") && log.contains("bytes left out"),
            "{generator}"
        );
        if lines {
            let reported =
                log.lines().filter(|line| *line == "a line of the flood, one of very many").count();
            assert!(
                (kkrun::machine::process::MOST_LINES - 1..kkrun::machine::process::MOST_LINES + 3_000)
                    .contains(&reported),
                "{reported}"
            );
        }
    }
}

#[test]
fn first_signal_terminates_the_command_and_the_second_kills_it() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || { cmd::run([\"bash\", \"-c\", \"trap '' TERM; touch @/m/begun; while :; do sleep 0.1; done\"], #{ always: \"a test\" }); });",
    );
    let started = place.start("plan.rhai");
    until("the command is at work", || place.exists("m/begun"));
    started.signal(rustix::process::Signal::INT);
    // It gets SIGTERM and ignores it.
    std::thread::sleep(Duration::from_millis(300));
    started.signal(rustix::process::Signal::INT);
    let ran = started.end().ends(130);
    ran.says("stopped by SIGINT");
    assert!(place.records().contains(&"step_interrupted".to_owned()));
}

#[test]
fn a_hang_up_lets_the_running_command_finish_and_stops_then() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || { cmd::run([\"bash\", \"-c\", \"touch @/m/begun; until [ -e @/m/go ]; do sleep 0.02; done; echo finished\"], #{ always: \"a test\" }); });\n\
         step::run(\"02\", \"Second\", || file::write(\"@/m/second\", \"\"));",
    );
    let started = place.start("plan.rhai");
    until("the command is at work", || place.exists("m/begun"));
    started.signal(rustix::process::Signal::HUP);
    started.signal(rustix::process::Signal::HUP);
    place.write("m/go", "");
    started.end().ends(129);
    assert!(!place.exists("m/second"));
    assert!(place.run("log 01").stdout.contains("finished"));
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/second"));
}

#[test]
#[ignore = "needs root or user namespaces: it mounts"]
fn full_disk_below_the_logs_does_not_stop_the_run() {
    let place = Place::new(
        "step::run(\"01\", \"First\", || { cmd::run([\"bash\", \"-c\", \"seq 1 5000\"], #{ always: \"a test\" }); file::write(\"@/m/a\", \"\"); });",
    );
    std::fs::create_dir_all(place.path("state/logs")).unwrap();
    // Every write there fails: no space is left.
    let kkrun = place.command(&["plan.rhai"]);
    let script = "mount -t tmpfs -o size=4k,mode=700 none \"$1\" && head -c 4096 /dev/zero > \"$1/full\"; shift; exec \"$@\"";
    let mut apart = std::process::Command::new("unshare");
    apart.args(["-rm", "bash", "-c", script, "bash"]).arg(place.path("state/logs")).arg(kkrun.get_program());
    let output = apart.args(kkrun.get_args()).current_dir(place.path("plan")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(place.exists("m/a"));
}
