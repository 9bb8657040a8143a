//! What a person sees: the screen of a terminal of 60, 80 and 140 columns after a command, and the same without one.
//!
//! `SNAPSHOTS=overwrite cargo test --test it screens` writes `screens/*.txt`: read what changed as a user would. A row
//! that the terminal itself broke ends with `⏎`.

use std::fmt::Write as _;

use regex::Regex;
use rexpect::session::spawn_command;

use crate::support::Place;

const PLAN: &str = r#"
step::run("01", "Directories", || {
    file::make_dir("@/m/srv/web/releases/current");
    file::make_dir("@/m/srv/web/shared/log");
});
step::run("02", "Configuration of the web server", || {
    file::write("@/m/srv/web/shared/nginx.conf", "server {\n  listen 80;\n  root /srv/web;\n}\n");
    config::set("@/m/srv/web/shared/app.ini", "port", "8080", #{ section: "http" });
});
step::run("03", "Build", || {
    cmd::run(["bash", "-c", "exec >&2; for n in 1 2 3; do echo compiling module $n of 3; done; test -e @/m/library || { echo 'ld: cannot find -lweb: no such file or directory in /usr/lib/x86_64-linux-gnu, /usr/local/lib and /opt/web/lib'; exit 2; }"], #{ always: "it is quick" });
});
step::run("04", "Greeting", || file::write("@/m/srv/web/motd", "hello\n"));
log::success("the web service is up");
"#;

/// A command, with what is typed at its questions.
struct Scene<'a> {
    words: &'a str,
    /// Behind this, that is typed.
    typed: Option<(&'a str, &'a str)>,
}

fn place() -> Place {
    Place::new(PLAN).with("m/library", "")
}

/// With a length that is that of the real name.
fn normalized(place: &Place, shown: &str) -> String {
    let root = place.root();
    let stand_in = format!("/srv/{}", "x".repeat(root.len() - 5));
    let shown = shown.replace(&root, &stand_in);
    let clock = Regex::new(r"(today|yesterday) \d\d:\d\d").unwrap();
    let seconds = Regex::new(r"\b\d\.\d s\b").unwrap();
    let shown = clock.replace_all(&shown, "today 12:34");
    seconds.replace_all(&shown, "0.1 s").into_owned()
}

impl Scene<'_> {
    /// What is on a screen of so many columns at the end, and the exit status.
    fn on_terminal(&self, place: &Place, columns: u16) -> String {
        let kkrun = place.command(&self.words.split(' ').collect::<Vec<_>>());
        let words = std::iter::once(kkrun.get_program()).chain(kkrun.get_args());
        let words = shell_words::join(words.map(|word| word.to_str().unwrap()));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("stty rows 100 cols {columns} echo; {words}; echo \"exit $?\"")]);
        command.current_dir(place.path("plan")).env_clear().env("TZ", "UTC").env("TERM", "xterm-256color");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        let mut session = spawn_command(command, Some(60_000)).unwrap();
        let mut shown = String::new();
        if let Some((question, answer)) = self.typed {
            shown = session.exp_string(question).unwrap() + question;
            session.send_line(answer).unwrap();
        }
        shown += &session.exp_eof().unwrap();
        // A character is a byte here.
        let bytes: Vec<u8> = shown.chars().map(|byte| u8::try_from(u32::from(byte)).unwrap()).collect();
        let shown = normalized(place, &String::from_utf8(bytes).unwrap());
        let mut terminal = vt100::Parser::new(100, columns, 0);
        terminal.process(shown.as_bytes());
        let screen = terminal.screen();
        let rows = screen.rows(0, columns).zip(0..).map(|(row, at)| {
            let broken = if screen.row_wrapped(at) { "⏎" } else { "" };
            format!("{}{broken}\n", row.trim_end())
        });
        rows.collect::<String>().trim_end().to_owned() + "\n"
    }

    /// What is written where there is no terminal.
    fn plain(&self, place: &Place) -> String {
        let mut command = place.command(&self.words.split(' ').collect::<Vec<_>>());
        let output = command.env("TERM", "dumb").output().unwrap();
        let shown = [output.stdout, output.stderr].concat();
        let exit = output.status.code().unwrap();
        normalized(place, &format!("{}exit {exit}\n", String::from_utf8(shown).unwrap()))
    }
}

/// Compares what a command shows in each width, each time in a new place that `prepare` makes.
#[track_caller]
fn shows(name: &str, scene: &Scene<'_>, prepare: impl Fn() -> Place) {
    let mut text = String::new();
    for columns in [60, 80, 140] {
        let _ = write!(text, "=== {columns} columns\n{}\n", scene.on_terminal(&prepare(), columns));
    }
    let _ = write!(text, "=== no terminal, NO_COLOR, TERM=dumb\n{}", scene.plain(&prepare()));
    assert!(!text.contains('\u{1b}'), "an escape is shown: {text:?}");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/screens/{name}.txt"));
    snapbox::Assert::new().action_env("SNAPSHOTS").eq(text, snapbox::Data::read_from(&path, None).raw());
}

fn of(words: &str) -> Scene<'_> {
    Scene { words, typed: None }
}

#[test]
fn screens_of_a_dry_run() {
    shows("dry-run", &of("plan.rhai --dry-run"), place);
}

#[test]
fn screens_of_a_first_run() {
    shows("first-run", &of("plan.rhai"), place);
}

#[test]
fn screens_of_a_failure() {
    let scene = Scene { words: "plan.rhai", typed: Some(("[stop]", "stop")) };
    shows("failure", &scene, || Place::new(PLAN));
}

#[test]
fn screens_of_a_resume() {
    shows("resume", &of("plan.rhai"), || {
        let place = Place::new(PLAN);
        place.run("plan.rhai").ends(1);
        place.write("m/library", "");
        place
    });
}

#[test]
fn screens_of_a_status() {
    let drifted = || {
        let place = place();
        place.run("plan.rhai").ends(0);
        place.write("m/srv/web/shared/nginx.conf", "server {\n  listen 81;\n  root /srv/web;\n}\n");
        place
    };
    shows("status", &of("status plan.rhai"), drifted);
    shows("repair", &Scene { words: "plan.rhai --repair", typed: Some(("[stop]", "o")) }, drifted);
    shows("status-of-failure", &of("status"), || {
        let place = Place::new(PLAN);
        place.run("plan.rhai").ends(1);
        place
    });
}

#[test]
fn screens_of_a_rollback_with_a_conflict() {
    shows("rollback", &of("rollback"), || {
        let place = place();
        place.run("plan.rhai").ends(0);
        place.write("m/srv/web/shared/nginx.conf", "server {\n  listen 81;\n  root /srv/web;\n}\n");
        place
    });
}
