//! At a real terminal: questions, their defaults, Ctrl-C.

use crate::support::Place;
use rexpect::session::{PtySession, spawn_command};

/// kkrun at a terminal.
fn at_terminal(place: &Place, words: &[&str]) -> PtySession {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.arg("--state-dir").arg(place.path("state")).args(words).current_dir(place.path("plan"));
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm");
    spawn_command(command, Some(20_000)).unwrap()
}

/// How it ended.
fn status(session: &PtySession) -> i32 {
    let status = session.process().wait().unwrap();
    let text = format!("{status:?}");
    text.rsplit_once(", ")
        .and_then(|(_, code)| code.trim_end_matches(')').parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

fn edited() -> Place {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "mine\n"));"#);
    place.run("plan.rhai").ends(0);
    place.write("m/a", "theirs\n");
    place.edit("plan/plan.rhai", "mine", "mine too");
    place
}

#[test]
fn conflict_is_shown_and_the_answer_decides() {
    for (answer, content, ending) in [
        ("keep", "theirs\n", 0),
        ("k", "theirs\n", 0),
        ("overwrite", "mine too\n", 0),
        ("O", "mine too\n", 0),
        ("stop", "theirs\n", 1),
        ("", "theirs\n", 1),
    ] {
        let place = edited();
        let mut session = at_terminal(&place, &["plan.rhai"]);
        session.exp_string("was modified outside kkrun").unwrap();
        session.exp_string("-mine").unwrap();
        session.exp_string("+theirs").unwrap();
        session.exp_string("keep it, overwrite it, or stop?").unwrap();
        session.send_line("kepe").unwrap();
        session.exp_string("keep it, overwrite it, or stop?").unwrap();
        session.send_line(answer).unwrap();
        session.exp_eof().unwrap();
        assert_eq!(status(&session), ending, "{answer}");
        assert_eq!(place.read("m/a"), content, "{answer}");
    }
}

#[test]
fn data_loss_is_asked_about_by_name_and_the_default_is_no() {
    for (answer, is_kept) in [("", true), ("n", true), ("y", false)] {
        let place = Place::new(r#"step::run("01", "First", || file::make_dir("@/m/home"));"#);
        place.run("plan.rhai").ends(0);
        place.write("m/home/letter", "dear");
        let mut session = at_terminal(&place, &["rollback", "--yes"]);
        session.exp_string("Remove the directory").unwrap();
        session.exp_string("m/home with 1 entry that kkrun did not make? [y/N]").unwrap();
        session.send_line(answer).unwrap();
        session.exp_eof().unwrap();
        assert_eq!(status(&session), 0);
        assert_eq!(place.exists("m/home/letter"), is_kept, "{answer}");
    }
}

#[test]
fn ctrl_c_at_a_question_ends_the_run() {
    let place = Place::new(
        r#"
step::run("01", "First", || { if ask::confirm("Really?", true) { file::write("@/m/a", "a"); } });
"#,
    );
    let mut session = at_terminal(&place, &["plan.rhai"]);
    session.exp_string("Really? [Y/n]").unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 130);
    assert!(!place.exists("m/a"));
    let mut session = at_terminal(&place, &["plan.rhai"]);
    session.exp_string("Really? [Y/n]").unwrap();
    session.send_line("").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
    assert!(place.exists("m/a"));
}

#[test]
fn secret_is_asked_for_once_unseen_and_ctrl_c_restores_the_echo() {
    let place = Place::new(
        r#"
let password = secret::ask("db_password", "Database password");
step::run("01", "First", || file::write("@/m/a", "a"));
"#,
    );
    let line = format!(
        "stty echo; cd '{}'; LANG=C.UTF-8 '{}' --state-dir '{}' plan.rhai; echo \"ended $?\"; stty -a | grep -o '[-]*echo '",
        place.path("plan").display(),
        env!("CARGO_BIN_EXE_kkrun"),
        place.path("state").display()
    );
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &line]);
    let mut shell = spawn_command(shell, Some(20_000)).unwrap();
    shell.exp_string("Database password").unwrap();
    shell.send_control('c').unwrap();
    let shown = shell.exp_eof().unwrap();
    assert!(shown.contains("ended 130\r\necho \r\n"), "{shown}");
    assert!(!place.exists("m/a"));

    let mut session = at_terminal(&place, &["plan.rhai"]);
    session.exp_string("Database password").unwrap();
    session.send_line("correct horse battery").unwrap();
    let shown = session.exp_eof().unwrap();
    assert!(!shown.contains("correct horse"), "{shown}");
    assert_eq!(status(&session), 0);
    assert!(place.exists("m/a"));
}

#[test]
fn built_in_reset_asks_and_then_every_step_is_checked_again() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/a", "a"));"#)
        .with("plan/settings.rhai", r#"#{ plan: "kiosk" }"#)
        .with_built_in("reset.rhai");
    place.run("plan.rhai").ends(0);
    let records = place.records().len();
    let mut session = at_terminal(&place, &["reset.rhai"]);
    session.exp_string("Forget the progress of all steps of kiosk? [y/N]").unwrap();
    session.send_line("").unwrap();
    session.exp_string("Nothing was forgotten").unwrap();
    session.exp_eof().unwrap();
    assert_eq!((status(&session), place.records().len()), (0, records));
    place.run("reset.rhai").ends(78);

    let mut session = at_terminal(&place, &["reset.rhai"]);
    session.exp_string("[y/N]").unwrap();
    session.send_line("y").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
    let before = place.prints_of("m");
    place.run("plan.rhai").ends(0).says("0 changes");
    assert_eq!(place.prints_of("m"), before);
    place.run("rollback").ends(0).says("1 undone");
}

#[test]
fn a_running_command_is_stopped_by_ctrl_c_and_the_cursor_is_shown_again() {
    let place = Place::new(
        r#"step::run("01", "First", || { cmd::run(["bash", "-c", "echo at work; touch @/m/begun; sleep 600"], #{ always: "a test" }); });"#,
    );
    let mut session = at_terminal(&place, &["plan.rhai"]);
    crate::support::until("the command is at work", || place.exists("m/begun"));
    session.send_control('c').unwrap();
    let shown = session.exp_eof().unwrap();
    assert_eq!(status(&session), 130, "{shown}");
    assert!(shown.contains("stopped by SIGINT"), "{shown}");
    let hidden = shown.rfind("\u{1b}[?25l");
    assert!(hidden.is_none() || shown.rfind("\u{1b}[?25h") > hidden, "{shown:?}");
}

#[test]
fn the_first_ctrl_c_is_answered_at_once_with_what_a_second_one_does() {
    let place = Place::new(
        r#"step::run("01", "First", || { cmd::run(["bash", "-c", "trap 'touch @/m/asked' TERM; touch @/m/begun; while :; do sleep 0.02; done"], #{ always: "a test", label: "the loop" }); });"#,
    );
    let mut session = at_terminal(&place, &["plan.rhai"]);
    crate::support::until("the command is at work", || place.exists("m/begun"));
    session.send_control('c').unwrap();
    session.exp_string("stopping: `the loop` was asked to end").unwrap();
    crate::support::until("the command was asked to end", || place.exists("m/asked"));
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 130);
}

/// A shell with job control at a terminal, and kkrun started in it.
fn at_shell(place: &Place) -> PtySession {
    let mut shell = std::process::Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).current_dir(place.path("plan"));
    shell
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm");
    shell.env("PS1", "shell> ").env("KK", env!("CARGO_BIN_EXE_kkrun")).env("STATE", place.path("state"));
    let mut session = spawn_command(shell, Some(20_000)).unwrap();
    session
        .send_line("stty echo; set +o history; kk() { \"$KK\" --state-dir \"$STATE\" \"$@\"; }; echo rea''dy")
        .unwrap();
    session.exp_string("ready\r\n").unwrap();
    session
}

/// Echo and line editing are on, and the shell goes on.
#[track_caller]
fn is_as_before(session: &mut PtySession) {
    session
        .send_line("stty -a | tr ' ' '\\n' | grep -E '^-?(echo|icanon|isig);?$' | tr '\\n' ,; echo en''d")
        .unwrap();
    let shown = session.exp_string("end\r\n").unwrap();
    assert!(shown.contains("isig,icanon,echo,"), "{shown:?}");
}

#[test]
fn ctrl_z_releases_the_terminal_and_the_run_goes_on_afterwards() {
    let place = Place::new(
        r#"
let password = secret::ask("db_password", "Database password");
step::run("01", "First", || { cmd::run(["bash", "-c", "touch @/m/begun; until [ -e @/m/go ]; do sleep 0.02; done"], #{ always: "a test" }); file::write("@/m/a", password); });
"#,
    );
    let mut session = at_shell(&place);
    // Within a prompt, where the echo is off.
    session.send_line("kk plan.rhai; echo \"status $?\"").unwrap();
    session.exp_string("Database password").unwrap();
    session.send_control('z').unwrap();
    session.exp_string("Stopped").unwrap();
    is_as_before(&mut session);
    session.send_line("fg").unwrap();
    session.exp_string("--state-dir").unwrap();
    session.send_line("correct horse battery").unwrap();
    crate::support::until("the command is at work", || place.exists("m/begun"));
    session.send_control('z').unwrap();
    session.exp_string("Stopped").unwrap();
    is_as_before(&mut session);
    place.write("m/go", "");
    session.send_line("fg; echo \"status $?\"").unwrap();
    let shown = session.exp_string("status 0").unwrap();
    assert!(!shown.contains("correct horse"), "{shown}");
    is_as_before(&mut session);
    assert_eq!(place.read("m/a"), "correct horse battery");
}

#[test]
fn signals_within_a_prompt_leave_the_terminal_as_it_was() {
    use rustix::process::Signal;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::QUIT, 131), (Signal::HUP, 129)]
    {
        for prompt in ["secret::ask(\"pin\", \"Tell me\")", "ask::text(\"Tell me\", \"\")"] {
            let place = Place::new(&format!("let answer = {prompt};\nfile::write(\"@/m/a\", \"\");"));
            let mut session = at_shell(&place);
            session
                .send_line("bash -c 'echo $$ > pid; exec \"$KK\" --state-dir \"$STATE\" plan.rhai'; echo \"status $?\"")
                .unwrap();
            session.exp_string("Tell me").unwrap();
            let pid = place.read("plan/pid").trim().parse().unwrap();
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
            session.exp_string(&format!("status {status}")).unwrap();
            is_as_before(&mut session);
            assert!(!place.exists("m/a"), "{signal:?} {prompt}");
            // An interactive shell ignores SIGTERM, and would be waited for.
            session.send_line("exit").unwrap();
            session.exp_eof().unwrap();
        }
    }
}

#[test]
fn a_terminal_that_goes_away_ends_the_run_without_a_panic_and_it_resumes() {
    let place = Place::new(
        r#"
step::run("01", "First", || { cmd::run(["bash", "-c", "touch @/m/begun; until [ -e @/m/go ]; do sleep 0.02; done; seq 1 2000"], #{ always: "a test" }); });
step::run("02", "Second", || file::write("@/m/second", ""));
"#,
    );
    // The process at the other end of the terminal is killed.
    let mut holder = std::process::Command::new("script");
    let line = format!(
        "'{}' --state-dir '{}' plan.rhai -v",
        env!("CARGO_BIN_EXE_kkrun"),
        place.path("state").display()
    );
    holder.args(["-qec", &line, "/dev/null"]).current_dir(place.path("plan"));
    let mut holder =
        holder.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::until("the command is at work", || place.exists("m/begun"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    place.write("m/go", "");
    crate::support::until("the run has ended", || {
        place.records().last().is_some_and(|kind| kind == "run_ended")
    });
    assert!(!place.exists("m/second"));
    assert!(place.run("log 01").stdout.contains("\n2000\n"));
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/second"));
}

#[test]
fn reader_that_goes_away_does_not_stop_the_run() {
    let place = Place::new(
        r#"
step::run("01", "First", || { for n in range(0, 300) { print(`line ${n}`); log::info(`said ${n}`); } file::write("@/m/a", ""); });
"#,
    );
    for words in ["plan.rhai", "plan.rhai --json", "plan.rhai -v", "history", "log 01", "status plan", "api"]
    {
        let script = format!(
            "\"$KK\" --state-dir \"$STATE\" {words} 2>&1 | head -n 1 > /dev/null; echo \"${{PIPESTATUS[0]}}\""
        );
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &script]).current_dir(place.path("plan"));
        shell.env("KK", env!("CARGO_BIN_EXE_kkrun")).env("STATE", place.path("state"));
        let output = shell.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{words}");
        assert!(place.exists("m/a"));
    }
}

/// A plan whose second step fails until `m/b` is there.
fn failing() -> Place {
    Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "a\n"));
step::run("02", "Second", || {
    file::write("@/m/c", "c\n");
    cmd::run(["test", "-e", "@/m/b"], #{ always: "a test" });
});
"#,
    )
}

const WHAT_NEXT: &str = "step 02 failed; what next? (retry/edit/shell/skip/rollback/stop) [stop]";

#[test]
fn failed_step_is_retried_where_it_failed() {
    let place = failing();
    let mut session = at_terminal(&place, &["--redo", "01", "plan.rhai"]);
    session.exp_string("next:").unwrap();
    session.exp_string(WHAT_NEXT).unwrap();
    session.send_line("no idea").unwrap();
    session.exp_string("unknown answer: expected one of these words").unwrap();
    session.exp_string(WHAT_NEXT).unwrap();
    place.write("m/b", "");
    session.send_line("ret").unwrap();
    session.exp_string("Second").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
    let history = place.run("history 01").ends(0).stdout;
    assert_eq!(history.lines().count(), 1, "step 01 is not run again: {history}");
}

#[test]
fn failed_step_is_accepted_or_rolled_back_or_left() {
    for (answer, ending, is_kept) in [("skip", 0, true), ("rollback", 1, false), ("", 1, true)] {
        let place = failing();
        let mut session = at_terminal(&place, &["plan.rhai"]);
        session.exp_string(WHAT_NEXT).unwrap();
        session.send_line(answer).unwrap();
        if answer == "skip" {
            // Without a reason it is not skipped.
            session.exp_string("reason for skipping step 02").unwrap();
            session.send_line("").unwrap();
            session.exp_string(WHAT_NEXT).unwrap();
            session.send_line("sk").unwrap();
            session.exp_string("reason for skipping step 02").unwrap();
            session.send_line("the mirror is down until Monday").unwrap();
        }
        let shown = session.exp_eof().unwrap();
        assert_eq!(status(&session), ending, "{answer}: {shown}");
        assert_eq!(place.exists("m/c"), is_kept, "{answer}: {shown}");
        assert!(place.exists("m/a"), "{answer}");
        assert_eq!(shown.matches("error:").count(), 0, "the failure is told once: {shown}");
        if answer == "skip" {
            let why = "accepted as it is: the mirror is down until Monday";
            assert!(shown.contains(why), "{shown}");
            for words in ["status", "status plan.rhai", "log 02", "log 02 --json"] {
                let told = place.run(words).ends(0).stdout.replace("\n              ", " ");
                assert!(words == "status" || told.contains(why), "{words}: {told}");
            }
            let row = place.run("status plan.rhai --json").ends(0).json().pop().unwrap();
            assert!(row["steps"][1]["reason"].as_str().unwrap().contains(why), "{row}");
        }
    }
}

#[test]
fn script_is_edited_at_the_line_that_failed_and_a_shell_opened_beside_it() {
    let place = failing();
    place.write(
        "editor",
        "#!/bin/sh\nprintf '%s\\n' \"$1\" \"$2\" >@/m/edited\nexec sed -i 's/-e/-n/' \"$2\"\n",
    );
    place.write("shell", "#!/bin/sh\npwd >@/m/shell\n");
    let mut command = place.command(&["plan.rhai"]);
    command.env("TERM", "xterm").env("SHELL", place.path("shell")).env("EDITOR", place.path("editor"));
    for script in ["editor", "shell"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(place.path(script), mode).unwrap();
    }
    let mut session = spawn_command(command, Some(20_000)).unwrap();
    for answer in ["shell", "edit", "retry"] {
        session.exp_string(WHAT_NEXT).unwrap();
        session.send_line(answer).unwrap();
    }
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
    assert_eq!(place.read("m/shell"), "@/plan\n");
    assert_eq!(place.read("m/edited"), "+5\nplan.rhai\n");
}

#[test]
fn shell_after_a_failed_command_has_its_directory_and_variables_but_no_secret() {
    let place = Place::new(
        r#"
let token = secret::ask("token", "Token");
step::run("02", "Second", || cmd::run(["test", "-e", "b"], #{
    always: "a test",
    cwd: "@/m",
    env: #{ PORT: "3001", TOKEN: token },
}));
"#,
    );
    place.write("secrets", "token=hunter22\n");
    place.write("shell", "#!/bin/sh\npwd\nenv\n");
    for (file, mode) in [("secrets", 0o600), ("shell", 0o755)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(place.path(file), mode).unwrap();
    }
    let mut command = place.command(&["--secrets", "../secrets", "plan.rhai"]);
    command.env("TERM", "xterm").env("SHELL", place.path("shell")).env("EDITOR", "true").env("STRAY", "1");
    let mut session = spawn_command(command, Some(20_000)).unwrap();
    session.exp_string(WHAT_NEXT).unwrap();
    session.send_line("shell").unwrap();
    let shown = session.exp_string(WHAT_NEXT).unwrap();
    session.send_line("stop").unwrap();
    session.exp_eof().unwrap();
    assert!(shown.contains("not set, because it is secret: `TOKEN`"), "{shown}");
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let directory = place.path("m").display().to_string();
    assert!(lines.contains(&&*directory) && lines.contains(&"PORT=3001"), "{shown}");
    for absent in ["hunter22", "STRAY=", "KKRUN_RUN="] {
        assert!(!shown.contains(absent), "{shown}");
    }
}

#[test]
fn what_cannot_be_started_does_not_end_the_question_and_a_step_on_hold_is_said_to_be_so() {
    let place = failing();
    let mut command = place.command(&["plan.rhai"]);
    command.env("TERM", "xterm").env("EDITOR", place.path("no-editor"));
    let mut session = spawn_command(command, Some(20_000)).unwrap();
    session.exp_string(WHAT_NEXT).unwrap();
    session.send_line("edit").unwrap();
    session.exp_string("cannot start").unwrap();
    session.exp_string(WHAT_NEXT).unwrap();
    session.send_line("rollback").unwrap();
    session.exp_string("step 02 is on hold").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 1);
}

#[test]
fn no_one_is_asked_who_wants_no_questions() {
    for option in ["--yes", "--non-interactive"] {
        let place = failing();
        let mut session = at_terminal(&place, &[option, "plan.rhai"]);
        let shown = session.exp_eof().unwrap();
        assert_eq!(status(&session), 1);
        assert!(!shown.contains("what next?"), "{shown}");
    }
}

#[test]
fn secrets_are_not_typed_where_they_are_shown() {
    let place = Place::new(r#"step::run("01", "First", || secret::ask("pin", "PIN"));"#);
    let mut session = at_terminal(&place, &["plan.rhai", "--secrets", "-"]);
    let shown = session.exp_eof().unwrap();
    assert!(shown.contains("it is a terminal, which shows what is typed"), "{shown}");
    assert_eq!(status(&session), 2);
}

#[test]
fn an_answer_that_is_no_text_is_asked_for_again() {
    use std::io::Write as _;
    let place = edited();
    let mut session = at_terminal(&place, &["plan.rhai"]);
    session.exp_string("or stop?").unwrap();
    session.process().get_file_handle().unwrap().write_all(b"keep\xff\n").unwrap();
    session.exp_string("invalid answer: expected UTF-8").unwrap();
    session.exp_string("or stop?").unwrap();
    session.send_line("k").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
}

#[test]
fn a_step_that_was_accepted_stays_as_it_was_accepted_and_is_accepted_once() {
    let place = Place::new(
        r#"
step::run("01", "First", || { cmd::run(["test", "-e", "@/m/one"], #{ creates: "@/m/one" }); });
step::run("02", "Second", || { cmd::run(["test", "-e", "@/m/two"], #{ always: "a test" }); });
"#,
    );
    let mut session = at_terminal(&place, &["plan.rhai"]);
    session.exp_string("step 01 failed; what next?").unwrap();
    session.send_line("skip").unwrap();
    session.exp_string("reason for skipping step 01").unwrap();
    session.send_line("made by hand").unwrap();
    session.exp_string("step 02 failed; what next?").unwrap();
    place.write("m/two", "");
    session.send_line("retry").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
    assert_eq!(place.records().iter().filter(|kind| *kind == "step_accepted").count(), 1);

    let accepted = "accepted as it is: made by hand; its script would still run test -e @/m/one";
    let shown = place.run("status plan.rhai").ends(0).stdout;
    assert!(shown.contains(accepted) && shown.contains("2 of 2 steps complete"), "{shown}");
    assert!(!shown.contains("exit code"), "the failure is over: {shown}");
    for words in ["plan.rhai --repair", "plan.rhai --verify", "plan.rhai --dry-run"] {
        place.run(words).ends(0).says(accepted).never_says("would run");
    }
    // It runs when it is named.
    place.run("plan.rhai --redo 01").ends(1);
    place.run("plan.rhai --accept 01").ends(0);
    place.run("forget plan --yes").ends(0);
    place.run("log").ends(1).says("`kkrun forget` removed those of the steps that ran");
}

#[test]
fn a_running_step_is_one_line_with_its_place_its_command_and_what_that_printed_last() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "echo at work; until [ -e @/m/go ]; do sleep 0.02; done"], #{ always: "a test", label: "the loop" });
});
step::run("02", "Second", || ());
"#,
    );
    place.write("m/go", "");
    place.run("plan.rhai").ends(0);
    place.remove("m/go");
    let mut session = at_terminal(&place, &["plan.rhai", "--redo", "01"]);
    for part in ["1/2 ", "01", "First · 0 s of about 0.", " · the loop", " · at work"] {
        // A character is a byte here.
        let part: String = part.bytes().map(char::from).collect();
        session.exp_string(&part).unwrap();
    }
    place.write("m/go", "");
    session.exp_eof().unwrap();
    assert_eq!(status(&session), 0);
}
