//! At a real terminal: questions, their defaults, Ctrl-C.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use rexpect::session::{PtySession, spawn_command};
use support::Place;

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
fn somebody_elses_edit_is_shown_and_the_answer_decides() {
    for (answer, content, ending) in
        [("keep", "theirs\n", 0), ("replace", "mine too\n", 0), ("stop", "theirs\n", 1), ("", "theirs\n", 1)]
    {
        let place = edited();
        let mut session = at_terminal(&place, &["plan.rhai"]);
        session.exp_string("was changed by somebody else since kkrun left it").unwrap();
        session.exp_string("-mine").unwrap();
        session.exp_string("+theirs").unwrap();
        session.exp_string("keep it, replace it, or stop?").unwrap();
        session.send_line(answer).unwrap();
        session.exp_eof().unwrap();
        assert_eq!(status(&session), ending, "{answer}");
        assert_eq!(place.read("m/a"), content, "{answer}");
    }
}

#[test]
fn a_loss_is_asked_about_by_name_and_the_default_is_no() {
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
fn a_secret_is_asked_for_once_unseen_and_ctrl_c_gives_the_echo_back() {
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
fn the_built_in_reset_asks_and_then_everything_is_looked_at_again() {
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
    support::until("the command is at work", || place.exists("m/begun"));
    session.send_control('c').unwrap();
    let shown = session.exp_eof().unwrap();
    assert_eq!(status(&session), 130, "{shown}");
    assert!(shown.contains("stopped by SIGINT"), "{shown}");
    let hidden = shown.rfind("\u{1b}[?25l");
    assert!(hidden.is_none() || shown.rfind("\u{1b}[?25h") > hidden, "{shown:?}");
}
