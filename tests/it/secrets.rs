//! Secrets from every source, through the binary: taken in the right order, asked before the first change, kept
//! for later runs, and shown nowhere.

use std::os::unix::fs::PermissionsExt as _;

use sha2::Digest as _;

use crate::bench::{Bench, code, said};

const PASSWORD: &str = "Canary 'quoted\" @/#$&%\\ 4711";

fn written(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("out")).unwrap()
}

fn script_writing(what: &str) -> Bench {
    let bench = Bench::new(&[]);
    let text = format!("file::write(\"{}\", {what}, #{{ mode: \"0600\" }});", bench.path("out").display());
    bench.write("s.rhai", &text);
    bench
}

const ASKING: &str = "secret::ask(\"db_password\", \"Password\")";

#[test]
fn sources_come_in_order_and_the_last_one_given_is_kept() {
    let bench = script_writing(ASKING);
    let credentials = bench.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("db_password"), "from systemd\n").unwrap();
    let run = |file: bool, variable: bool, credential: bool| {
        let path = bench.secrets_file("db_password=from the file\n", 0o600);
        let mut command = bench.command(&["s.rhai"]);
        if file {
            command.arg("--secrets").arg(path);
        }
        if variable {
            command.env("KKRUN_SECRET_DB_PASSWORD", "from the variable");
        }
        if credential {
            command.env("CREDENTIALS_DIRECTORY", &credentials);
        }
        let output = command.output().unwrap();
        assert_eq!(code(&output), 0, "{}", said(&output));
        written(&bench)
    };
    assert_eq!(run(true, true, true), "from the file");
    assert_eq!(run(false, true, true), "from the variable");
    assert_eq!(run(false, false, true), "from systemd");
    assert_eq!(run(false, false, false), "from systemd");
}

#[test]
fn secrets_are_read_from_standard_input() {
    let given = |text: String| {
        let bench = script_writing(ASKING);
        let output = bench.command(&["s.rhai", "--secrets", "-"]).write_stdin(text).output().unwrap();
        (code(&output), said(&output), std::fs::read_to_string(bench.path("out")).unwrap_or_default())
    };
    let (status, output, found) = given(format!("# of a test\ndb_password={PASSWORD}\n"));
    assert_eq!((status, found.as_str()), (0, PASSWORD), "{output}");
    let (status, output, _) = given(format!("{PASSWORD}\n"));
    assert_eq!(status, 2, "{output}");
    assert!(output.contains("standard input, line 1: ") && !output.contains("4711"), "{output}");
}

#[test]
fn secret_without_a_terminal_is_refused_with_the_three_ways_on() {
    let bench = script_writing(ASKING);
    let output = bench.run(&["s.rhai"]);
    assert_eq!(code(&output), 78);
    let text = said(&output);
    for way in ["`db_password`", "--secrets", "KKRUN_SECRET_DB_PASSWORD", "systemd credential"] {
        assert!(text.contains(way), "{way} in {text}");
    }
}

#[test]
fn generated_secret_is_the_same_in_every_later_run() {
    let bench = script_writing("secret::ask(\"db_password\", \"Password\", #{ generate: true })");
    assert_eq!(code(&bench.run(&["s.rhai"])), 0);
    let made = written(&bench);
    assert_eq!(made.len(), 32);
    std::fs::remove_file(bench.path("out")).unwrap();
    assert_eq!(code(&bench.run(&["s.rhai", "--on-conflict", "overwrite"])), 0);
    assert_eq!(written(&bench), made);
    let stored = bench.path("state/secrets/db_password");
    assert_eq!(std::fs::metadata(stored).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn secret_that_is_not_to_be_kept_is_not_stored() {
    let bench = script_writing("secret::ask(\"pin_code\", \"Pin\", #{ store: false })");
    let path = bench.secrets_file("pin_code=4711 4711 4711\n", 0o600);
    assert_eq!(code(&bench.run(&["s.rhai", "--secrets", &path])), 0);
    assert!(!bench.path("state/secrets/pin_code").exists());
    assert_eq!(code(&bench.run(&["s.rhai"])), 78);
}

#[test]
fn a_secrets_file_that_others_can_read_is_refused() {
    let bench = script_writing(ASKING);
    let path = bench.secrets_file("db_password=x\n", 0o644);
    let output = bench.run(&["s.rhai", "--secrets", &path]);
    assert_eq!(code(&output), 77);
    assert!(said(&output).contains("chmod 600"), "{}", said(&output));
}

#[test]
fn dry_run_neither_asks_for_nor_stores_a_secret() {
    let bench = script_writing(ASKING);
    let output = bench.run(&["--dry-run", "s.rhai"]);
    assert_eq!(code(&output), 6, "{}", said(&output));
    let why = "depends on the secret `db_password`, which is not given yet";
    assert!(said(&output).contains(why), "{}", said(&output));
    // Whatever a run will generate, it is new.
    let bench = script_writing("secret::ask(\"db_password\", \"Password\", #{ generate: true })");
    let output = bench.run(&["--dry-run", "s.rhai"]);
    assert_eq!(code(&output), 6, "{}", said(&output));
    assert!(said(&output).contains("would make "), "{}", said(&output));
    assert!(!bench.path("state/secrets").exists() && !bench.path("out").exists());
}

#[test]
fn a_plan_asks_for_every_secret_before_its_first_change() {
    let bench = Bench::new(&[]);
    let out = bench.path("out");
    let one = format!("file::write(\"{}\", \"changed\\n\");", out.display());
    for (name, text) in [
        (
            "plan.rhai",
            "step::run(\"01\", \"Write\", \"one.rhai\");\nstep::run(\"02\", \"Ask\", \"two.rhai\");\n",
        ),
        ("one.rhai", &*one),
        ("two.rhai", "import \"deep\" as deep;\ndeep::ask();\n"),
        ("deep.rhai", "fn ask() { [1].map(|x| secret::ask(\"deep_secret\", `Number ${x}`)) }\n"),
    ] {
        std::fs::write(bench.path(name), text).unwrap();
    }
    let output = bench.run(&["plan.rhai"]);
    assert_eq!(code(&output), 78, "{}", said(&output));
    assert!(said(&output).contains("`deep_secret`"));
    assert!(!out.exists(), "the first step ran before everything was known");
    // Secrets of steps that do not run are not asked for.
    assert_eq!(code(&bench.run(&["plan.rhai", "--only", "01"])), 0);
    assert!(out.exists());
}

#[test]
fn a_step_is_stale_when_its_secret_is_another_and_only_then() {
    let bench = Bench::new(&[("plan.rhai", "step::run(\"01\", \"Ask\", \"one.rhai\");\n")]);
    let one = format!("file::write(\"{}\", {ASKING});", bench.path("out").display());
    std::fs::write(bench.path("one.rhai"), one).unwrap();
    let run = |secret: &str| {
        let path = bench.secrets_file(&format!("db_password={secret}\n"), 0o600);
        let output = bench.run(&["plan.rhai", "--secrets", &path]);
        assert_eq!(code(&output), 0, "{}", said(&output));
        said(&output)
    };
    run("the first one");
    assert!(!run("the first one").contains("changed"));
    let second = run("the second one");
    assert!(second.contains("the secret `db_password` changed"), "{second}");
    assert_eq!(written(&bench), "the second one");
}

#[test]
fn a_secret_is_shown_and_recorded_nowhere() {
    let bench = Bench::new(&[]);
    let script = format!(
        r#"
        let s = secret::ask("db_password", "Password");
        print(s); print(`${{s}}`); log::info(`it is ${{s}} or ${{secret::join(["x", s])}}`); debug(s);
        file::write("{out}", secret::join(["url=", secret::url_encode(s), "\n", s, "\n"]), #{{ mode: "0600" }});
        print(file::read("{out}"));
        log::warn(file::read("{out}"));
        let refused = 0;
        let named = |secret| `${{secret}}`;
        try {{ file::write("{out}", named.call(s)); }} catch (error) {{ refused += 1; print(error.message); }}
        "#,
        out = bench.path("out").display()
    );
    std::fs::write(bench.path("s.rhai"), script).unwrap();
    let path = bench.secrets_file(&format!("db_password={PASSWORD}\n"), 0o600);
    let output = bench.run(&["s.rhai", "--secrets", &path, "-v"]);
    let text = said(&output);
    assert_eq!(code(&output), 1, "a text with the name of a secret is refused, caught or not: {text}");
    assert!(text.contains("«secret:db_password»"), "{text}");
    assert_eq!(written(&bench), format!("url={}\n{PASSWORD}\n", percent_encoded(PASSWORD)));
    for place in [text, bench.recorded()] {
        assert!(!place.contains("Canary"), "{place}");
    }
    // A rollback that finds it edited says so, without the secret.
    std::fs::write(bench.path("out"), format!("added\n{PASSWORD}\n")).unwrap();
    let output = bench.run(&["rollback", "--plan", "s"]);
    assert_eq!(code(&output), 4, "{}", said(&output));
    assert!(said(&output).contains("conflict: "), "{}", said(&output));
    assert!(!said(&output).contains("Canary") && !bench.recorded().contains("Canary"));
}

#[test]
fn shell_reads_quoted_text_unchanged() {
    for text in ["", "plain", "a b", "it's", "it's \"$HOME\" `id` \\n", "a\\'b$"] {
        let script = format!("printf %s {}", kkrun::text::quoted(text));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{script}");
    }
}

#[test]
fn a_shell_reads_from_an_env_file_the_secret_that_was_typed() {
    let bench = Bench::new(&[]);
    let out = bench.path("env");
    let script = format!(
        "import \"std/env_file\" as env_file;\nenv_file::set(\"{0}\", #{{ PIN: {ASKING} }});\nprint(file::read(\"{0}\"));\n",
        out.display()
    );
    std::fs::write(bench.path("s.rhai"), script).unwrap();
    let path = bench.secrets_file(&format!("db_password={PASSWORD}\n"), 0o600);
    let output = bench.run(&["s.rhai", "--secrets", &path, "-v"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(!said(&output).contains("Canary") && !bench.recorded().contains("Canary"));
    let read =
        std::process::Command::new("sh").args(["-c", ". \"$0\" && printf %s \"$PIN\""]).arg(&out).output();
    assert_eq!(String::from_utf8(read.unwrap().stdout).unwrap(), PASSWORD);
}

#[test]
fn environment_variable_of_a_secret_is_not_readable_as_a_string() {
    let bench = Bench::new(&[("s.rhai", "print(host::env(\"KKRUN_SECRET_PIN\"))")]);
    let output = bench.command(&["s.rhai"]).env("KKRUN_SECRET_PIN", "4711 4711").output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(!said(&output).contains("4711"));
}

#[test]
fn command_gets_a_secret_in_environment_and_input_and_never_as_an_argument() {
    let bench = Bench::new(&[]);
    let out = bench.path("out");
    let script = format!(
        r#"
        let s = secret::ask("db_password", "Password");
        cmd::run(["sh", "-c", "printf '%s|' \"$PIN\" > {out}; cat >> {out}"], #{{
            always: "to see", env: #{{ PIN: s }}, stdin: s, label: "see",
        }});
        print(cmd::read(["sh", "-c", "echo $PIN"], #{{ env: #{{ PIN: s }} }}));
        // What the check cannot see is refused at run time.
        let named = |secret| `${{secret}}`;
        cmd::run(["echo", named.call(s)], #{{ always: "to see" }});
        "#,
        out = out.display()
    );
    std::fs::write(bench.path("s.rhai"), script).unwrap();
    let path = bench.secrets_file(&format!("db_password={PASSWORD}\n"), 0o600);
    let output = bench.run(&["s.rhai", "--secrets", &path, "-v"]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("secret::join"), "{}", said(&output));
    assert_eq!(written(&bench), format!("{PASSWORD}|{PASSWORD}"));
    assert!(!said(&output).contains("Canary") && !bench.recorded().contains("Canary"));
}

#[test]
fn a_person_is_asked_once_before_the_first_step_and_not_shown_what_is_typed() {
    let bench = Bench::new(&[
        ("settings.rhai", "#{ role: \"kim\" }"),
        (
            "plan.rhai",
            "step::run(\"01\", \"Write\", \"one.rhai\");\nstep::run(\"02\", \"Ask\", \"two.rhai\");\n",
        ),
        ("one.rhai", "print(\"step one\");"),
    ]);
    let out = bench.path("out");
    let two = format!(
        "let role = settings::role;\nlet s = secret::ask(\"db_password\", `Password for ${{role}}`);\nfile::write(\"{}\", s);\nsecret::ask(\"db_password\", \"Again\");\nsecret::ask(\"made\", \"Another\", #{{ generate: true }});",
        out.display()
    );
    bench.write("two.rhai", &two);
    let mut command = std::process::Command::new(bench.command(&[]).get_program());
    command.current_dir(bench.path("")).arg("--state-dir").arg(bench.path("state")).arg("plan.rhai");
    let mut terminal = rexpect::session::spawn_command(command, Some(30_000)).unwrap();
    let before = terminal.exp_string("Password for kim").unwrap();
    assert!(!before.contains("step one"), "{before}");
    terminal.send_line("typed by a person").unwrap();
    let between = terminal.exp_string("Another").unwrap();
    assert!(!between.contains("step one"), "{between}");
    terminal.send_line("").unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.contains("step one") && !rest.contains("Again"), "{rest}");
    assert!(!(between + rest.as_str()).contains("typed by"));
    assert_eq!(written(&bench), "typed by a person");
    assert_eq!(std::fs::read_to_string(bench.path("state/secrets/made")).unwrap().len(), 32);
}

/// A secret with every character that an encoding changes.
const CANARY: &str = "Canary-ä 'x\" 50%+\\4711/éÿ";

/// A string as a URL encodes it.
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(encoded).collect()
}

/// Every encoding in which the secret could leak.
fn forms() -> Vec<String> {
    let json = serde_json::Value::from(CANARY).to_string();
    vec![
        "Canary".to_owned(),
        CANARY.to_owned(),
        percent_encoded(CANARY),
        json.trim_matches('"').to_owned(),
        "4711/".to_owned(),
    ]
}

fn leaks(text: &str) -> Option<String> {
    forms().into_iter().find(|form| text.contains(form.as_str()))
}

/// A plan that uses a secret wherever it can.
fn talkative() -> Bench {
    let bench = Bench::new(&[(
        "plan.rhai",
        "step::run(\"01\", \"Talk\", \"01.rhai\");\nstep::run(\"02\", \"More\", \"02.rhai\");\n",
    )]);
    let (out, begun) = (bench.path("out").display().to_string(), bench.path("begun").display().to_string());
    bench.write(
        "01.rhai",
        &format!(
            r#"
            let s = secret::ask("pin", "Pin");
            file::write("{out}", secret::join(["url=", secret::url_encode(s), "\n", s, "\n"]), #{{ mode: "0600" }});
            config::set("{out}.env", "PIN", s, #{{ mode: "0600" }});
            cmd::run(["sh", "-c", "printf '%s\n' \"$PIN\"; cat; printf '%s' \"$PIN\" >&2; head -c 16380 /dev/zero | tr '\\0' x; printf '%s\n' \"$PIN\""], #{{
                always: "a test", env: #{{ PIN: s }}, stdin: secret::join([s, "\n", secret::url_encode(s), "\n"]),
            }});
            let read = cmd::read(["cat", "{out}"]);
            print(read); log::info(read); log::warn(text::url_encode(read)); print(text::json_text(#{{ a: read }})); debug(read);
            step::verify(`it holds ${{s}}`, || true);
            cmd::run(["sh", "-c", "echo \"$PIN\" > /dev/null; touch {begun}; [ -e {begun}.go ] || sleep 600"], #{{ always: "a test", env: #{{ PIN: s }} }});
            "#
        ),
    );
    bench.write(
        "02.rhai",
        &format!(r#"let read = file::read("{out}"); if settings_fail() {{ throw `failed with ${{read}}`; }} fn settings_fail() {{ host::args().len() > 0 }}"#),
    );
    bench
}

/// Everything that a run with these words says and leaves, but the places that may hold the secret.
fn silent_about_it(bench: &Bench, words: &[&str], status: i32) {
    let output = bench.command(words).env("KKRUN_SECRET_PIN", CANARY).output().unwrap();
    let text = said(&output);
    assert_eq!(code(&output), status, "{text}");
    assert_eq!(leaks(&text), None, "{words:?}: {text}");
    nothing_recorded(bench);
}

fn nothing_recorded(bench: &Bench) {
    let mut open = vec![bench.path("state")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let mode = path.symlink_metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let may_hold = path
                .components()
                .any(|part| ["secrets", "backups"].iter().any(|name| part.as_os_str() == *name));
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(may_hold || leaks(&text).is_none(), "{}: {text}", path.display());
        }
    }
    for words in [&["history"][..], &["history", "--json"], &["log", "01"], &["log", "02"], &["doctor"]] {
        let output = bench.command(words).output().unwrap();
        assert_eq!(leaks(&said(&output)), None, "{words:?}");
    }
}

#[test]
fn a_canary_is_found_nowhere_after_full_failing_and_rolled_back_runs() {
    for mode in [&[][..], &["-v"], &["--json"], &["--json", "-v"]] {
        let bench = talkative();
        std::fs::write(bench.path("begun.go"), "").unwrap();
        let with = |words: &[&'static str]| [words, mode].concat();
        silent_about_it(&bench, &with(&["plan.rhai", "now"]), 1);
        silent_about_it(&bench, &with(&["plan.rhai"]), 0);
        // The operator edits the file that holds it: the difference is shown.
        std::fs::write(bench.path("out"), format!("added\n{CANARY}\n")).unwrap();
        std::fs::write(bench.path("out.env"), format!("PIN={CANARY}\nOTHER={CANARY}\n")).unwrap();
        silent_about_it(&bench, &with(&["plan.rhai", "--redo", "01"]), 78);
        silent_about_it(&bench, &with(&["plan.rhai", "--dry-run", "--redo", "01"]), 6);
        silent_about_it(&bench, &with(&["rollback"]), 4);
        silent_about_it(&bench, &with(&["rollback", "--on-conflict", "overwrite"]), 0);
        assert!(!bench.path("out").exists());
    }
}

#[test]
fn a_canary_is_on_no_command_line_and_survives_no_crash() {
    let bench = talkative();
    let mut command = std::process::Command::new(bench.command(&[]).get_program());
    command.current_dir(bench.path("")).arg("--state-dir").arg(bench.path("state")).args(["plan.rhai", "-v"]);
    command.env("KKRUN_SECRET_PIN", CANARY).stdin(std::process::Stdio::null());
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Both ends are small enough for the pipes.
    let mut samples = 0;
    while !bench.path("begun").exists() {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains("Canary") && !line.contains("4711/"), "{line}");
        }
        samples += 1;
    }
    assert!(samples > 2, "{samples} samples");
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(leaks(&said(&output)), None, "{}", said(&output));
    nothing_recorded(&bench);
    std::fs::write(bench.path("begun.go"), "").unwrap();
    silent_about_it(&bench, &["plan.rhai", "-v"], 0);
}

/// A script that writes a line with a secret which is not stored to `out`, a file that everyone may read.
fn writing_unstored() -> Bench {
    let bench = Bench::new(&[]);
    let script = format!(
        "let s = secret::ask(\"tok\", \"T\", #{{ store: false }});\nfile::write(\"{}\", secret::join([\"token=\", s, \"\\n\"]), #{{ mode: \"0644\" }});\n",
        bench.path("out").display()
    );
    bench.write("s.rhai", &script);
    bench
}

fn with_secret(bench: &Bench, name: &str, value: &str, words: &[&str]) -> String {
    let output = bench.command(words).env(format!("KKRUN_SECRET_{name}"), value).output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    said(&output)
}

#[test]
fn a_name_that_contains_a_secret_is_refused_before_it_is_recorded() {
    for act in [
        "config::line(\"@/h\", v)",
        "config::block(\"@/h\", v, \"text\")",
        "config::set(\"@/a.ini\", \"key\", 1, #{ section: v })",
        "file::link(\"/srv/\" + v, \"@/link\")",
        "file::make_dir(\"@/\" + v)",
        "cmd::run([\"true\"], #{ always: \"test\", label: v })",
        "step::on_change(#{ run: [[\"true\", v]] }, || file::write(\"@/f\", \"x\"))",
        "step::on_change(#{ test: [\"true\", `${s}`] }, || file::write(\"@/f\", \"x\"))",
    ] {
        let bench = Bench::new(&[]);
        let begin = "let s = secret::ask(\"tok\", \"T\", #{ store: false });\nfile::write(\"@/out\", s);\n";
        let script = format!("{begin}let v = file::read(\"@/out\");\n{act};\n");
        bench.write("s.rhai", &script.replace('@', bench.path("").to_str().unwrap().trim_end_matches('/')));
        let output = bench.command(&["s.rhai"]).env("KKRUN_SECRET_TOK", "hunter2-hunter2").output().unwrap();
        assert_eq!(code(&output), 1, "{act}: {}", said(&output));
        assert!(said(&output).contains("contains a secret"), "{}", said(&output));
        let journal = std::fs::read_to_string(bench.path("state/journal")).unwrap();
        assert!(!journal.contains("hunter2"), "{act}: {journal}");
    }
}

#[test]
fn rollback_shows_no_content_of_a_file_that_holds_a_secret() {
    let bench = writing_unstored();
    with_secret(&bench, "TOK", "hunter2-hunter2", &["s.rhai"]);
    let edited = written(&bench) + "by hand\n";
    std::fs::write(bench.path("out"), edited).unwrap();
    let output = bench.run(&["rollback"]);
    assert_eq!(code(&output), 4);
    for place in [said(&output), bench.recorded()] {
        assert!(!place.contains("hunter2") && !place.contains("by hand"), "{place}");
    }
    assert!(said(&output).contains("not shown: it may hold a secret"), "{}", said(&output));
}

#[test]
fn content_that_replaced_a_secret_is_not_shown_with_it() {
    let bench = writing_unstored();
    with_secret(&bench, "TOK", "hunter2-hunter2", &["s.rhai"]);
    let script = format!("file::write(\"{}\", \"plain\\n\");\n", bench.path("out").display());
    bench.write("s.rhai", &script);
    std::fs::write(bench.path("out"), "token=hunter2-hunter2 # by hand\n").unwrap();
    let output = bench.run(&["s.rhai"]);
    assert_eq!(code(&output), 78, "{}", said(&output));
    // Whether or not the value is known, nothing that stands beside it is shown.
    assert!(!said(&output).contains("hunter2") && !said(&output).contains("by hand"), "{}", said(&output));
    assert!(said(&output).contains("not shown: it may hold a secret"), "{}", said(&output));
}

#[test]
fn a_pin_cannot_be_guessed_from_a_hash_in_the_state_directory() {
    let bench = Bench::new(&[("plan.rhai", "step::run(\"01\", \"Pin\", \"one.rhai\");\n")]);
    let (out, conf) = (bench.path("out"), bench.path("conf"));
    let one = format!(
        "let s = secret::ask(\"pin\", \"P\", #{{ store: false }});\nfile::write(\"{0}\", s);\nfile::write(\"{0}\", \"gone\");\nconfig::set(\"{1}\", \"PIN\", s);\nconfig::remove(\"{1}\", \"PIN\");\n",
        out.display(),
        conf.display()
    );
    bench.write("one.rhai", &one);
    with_secret(&bench, "PIN", "4711", &["plan.rhai"]);
    let mut names = String::new();
    for entry in std::fs::read_dir(bench.path("state/backups")).unwrap() {
        names.push_str(entry.unwrap().file_name().to_str().unwrap());
    }
    assert!(names.len() >= 64, "the content that was replaced is in the backups: {names}");
    let journal = std::fs::read_to_string(bench.path("state/journal")).unwrap();
    for guess in ["4711", "PIN=4711", "PIN=4711\n", "PIN 4711", "PIN = 4711", "PIN = 4711\n"] {
        let hash = hex::encode(sha2::Sha256::digest(guess));
        assert!(!journal.contains(&hash) && !names.contains(&hash), "{guess} can be guessed");
    }
    assert_eq!(code(&bench.run(&["rollback"])), 0);
    assert!(!out.exists() && !conf.exists());
}

const TOKEN: &str = "hunter2-hunter2-hunter2";

/// A script that shows the file `shown` in every way, and asks for no secret.
fn showing(bench: &Bench) {
    let shown = bench.path("shown").display().to_string();
    bench.write(
        "show.rhai",
        &format!(
            r#"step::run("01", "Show", || {{
                print(file::read("{shown}"));
                log::warn(file::read("{shown}"));
                for line in file::lines("{shown}") {{ print(line); }}
                cmd::run(["cat", "{shown}"], #{{ always: "to see" }});
                cmd::run(["sh", "-c", "cat {shown} >&2; exit 3"], #{{ always: "to see" }});
            }});"#
        ),
    );
}

/// What a script shows that reads this text from a file, and what is recorded of it.
#[track_caller]
fn shown_of(bench: &Bench, text: &str) -> String {
    std::fs::write(bench.path("shown"), text).unwrap();
    let mut all = String::new();
    for mode in ["-v", "--json"] {
        let output = bench.run(&["show.rhai", mode]);
        assert_eq!(code(&output), 1, "{}", said(&output));
        all.push_str(&said(&output));
    }
    for words in [&["log"][..], &["history"], &["doctor"], &["pending"], &["status.rhai"]] {
        all.push_str(&said(&bench.run(words)));
    }
    all + bench.recorded().as_str()
}

#[test]
fn every_value_that_was_ever_given_is_masked() {
    let bench = writing_unstored();
    showing(&bench);
    let rotated = "rotated-rotated";
    with_secret(&bench, "TOK", TOKEN, &["s.rhai"]);
    with_secret(&bench, "TOK", rotated, &["s.rhai"]);
    let stored = format!("file::write(\"{}\", secret::generate(\"made\"));", bench.path("made").display());
    bench.write("made.rhai", &stored);
    assert_eq!(code(&bench.run(&["made.rhai"])), 0);
    let made = std::fs::read_to_string(bench.path("made")).unwrap();
    std::fs::remove_dir_all(bench.path("state/secrets")).unwrap();
    std::fs::remove_dir_all(bench.path("state/backups")).unwrap();
    let all = shown_of(&bench, &format!("1 {TOKEN} 2 {rotated} 3 {made}\n"));
    for value in [TOKEN, rotated, &made] {
        assert!(!all.contains(value), "{value}: {all}");
    }
    assert!(all.contains("1 «secret:tok» 2 «secret:tok» 3 «secret:made»"), "{all}");
    let remembered = bench.path("state/remembered");
    assert_eq!(std::fs::metadata(&remembered).unwrap().permissions().mode() & 0o7777, 0o600);
    std::fs::write(&remembered, "damaged").unwrap();
    let output = bench.run(&["show.rhai"]);
    assert!(said(&output).contains("secrets of earlier runs are not recognised"), "{}", said(&output));
}

#[test]
fn encoded_and_split_values_are_masked_in_output() {
    let bench = writing_unstored();
    showing(&bench);
    with_secret(&bench, "TOK", TOKEN, &["s.rhai"]);
    let output = std::process::Command::new("sh")
        .args(["-c", "for p in '' x xx; do printf %s \"$p$1\" | base64; printf %s \"$p$1\" | base64 -w 9; done; printf %s \"$1\" | od -An -v -tx1 | tr -d ' \\n'", "sh", TOKEN])
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push('\n');
    let pairs: Vec<String> = TOKEN.bytes().map(|byte| format!("{byte:02x}")).collect();
    let byte_by_byte = [
        pairs.join(":"),
        pairs.join(" "),
        format!("%{}", pairs.join("%")),
        format!("\\x{}", pairs.join("\\x")),
    ];
    for form in &byte_by_byte {
        text = format!("{text}it is {form}\n");
    }
    for split in ["\n", "\r", "\u{200b}", "\u{ad}", "\u{1b}[0m"] {
        text = format!("{text}it is {}{split}{}\n", &TOKEN[..11], &TOKEN[11..]);
    }
    let all = shown_of(&bench, &text);
    let mut forms = vec![hex::encode(TOKEN)];
    forms.extend(byte_by_byte);
    forms.extend(["hunter2-hun", "ter2-hunter2"].map(str::to_owned));
    for line in text.lines().filter(|line| line.len() >= 9 && !line.contains("it is")) {
        // The first and the last characters of base64 tell next to nothing.
        forms.push(line.trim_matches('=')[2..line.trim_matches('=').len() - 1].to_owned());
    }
    for form in forms.iter().filter(|form| form.len() >= 6) {
        assert!(!all.contains(form.as_str()), "{form}: {all}");
    }
}

#[test]
fn the_run_that_is_given_a_secret_masks_it_split_in_any_place() {
    let bench = Bench::new(&[]);
    bench.write(
        "s.rhai",
        r#"
        let s = secret::ask("tok", "T", #{ store: false });
        for width in [1, 2, 3, 5, 7, 11] {
            cmd::run(["sh", "-c", `printf %s "$T" | fold -w ${width}; echo; printf %s "$T" | base64 -w ${width}; echo done`], #{ always: "to see", env: #{ T: s } });
        }
        print(cmd::read(["sh", "-c", "printf %s $T | fold -w 6"], #{ env: #{ T: s } }));
        "#,
    );
    let all = with_secret(&bench, "TOK", "Zq7-Xw9vKj2!mB4#Lp8$Tn6%", &["s.rhai", "-v"]);
    for piece in ["Zq7", "Xw9", "Kj2", "mB4", "Lp8", "Tn6", "q7-", "j2!", "WnE3", "enE3", "jJ", "THA4"] {
        assert!(!all.contains(piece), "{piece}: {all}");
    }
    assert_eq!(all.matches("        done\n").count(), 6, "{all}");
}

#[test]
fn a_secret_that_no_script_asks_for_is_masked_and_no_setting() {
    let bench = Bench::new(&[("settings.rhai", "#{ name: \"a\" }"), ("s.rhai", "print(host::args()[0]);")]);
    let path = bench.secrets_file(&format!("a={TOKEN}\n"), 0o600);
    let output = bench.run(&["s.rhai", TOKEN, "--secrets", &path]);
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));
    let all = with_secret(&bench, "A", TOKEN, &["s.rhai", TOKEN]);
    assert!(!all.contains("hunter2"), "{all}");
    let set = format!("name={TOKEN}");
    let output = bench.run(&["s.rhai", "x", "--secrets", &path, "--set", &set]);
    assert_eq!(code(&output), 2, "{}", said(&output));
    assert!(!said(&output).contains("hunter2") && said(&output).contains("secret::ask"), "{}", said(&output));
}

#[test]
fn a_run_that_shows_nothing_reads_nothing_of_earlier_secrets() {
    let bench = Bench::new(&[("plan.rhai", "step::run(\"01\", \"Ask\", \"one.rhai\");\n")]);
    bench.write(
        "one.rhai",
        &format!("file::write(\"{}\", secret::generate(\"key\"));", bench.path("out").display()),
    );
    assert_eq!(code(&bench.run(&["plan.rhai"])), 0);
    std::fs::write(bench.path("state/remembered"), "damaged").unwrap();
    let output = bench.run(&["plan.rhai"]);
    assert_eq!(code(&output), 0);
    assert!(!said(&output).contains("not recognised"), "{}", said(&output));
}

#[test]
fn an_id_that_contains_a_secret_is_refused_before_it_is_recorded() {
    for call in ["step::mark(t)", "step::once(t, || {})", "host::reboot_required(t)"] {
        let bench = Bench::new(&[(
            "s.rhai",
            &format!(
                r#"let s = secret::ask("tok", "T", #{{ store: false }}); let t = host::args()[0]; {call};"#
            ),
        )]);
        let output = bench.command(&["s.rhai", TOKEN]).env("KKRUN_SECRET_TOK", TOKEN).output().unwrap();
        assert_eq!(code(&output), 1, "{call}: {}", said(&output));
        assert!(said(&output).contains("contains a secret") && !said(&output).contains(TOKEN), "{call}");
        assert!(!bench.recorded().contains(TOKEN), "{call}");
    }
}

#[test]
fn a_secret_of_which_hashes_are_left_is_masked_split_anywhere_and_as_it_is_encoded() {
    let bench = writing_unstored();
    let token = "Zq7\"Xw9ü vKj2!mB4";
    with_secret(&bench, "TOK", token, &["s.rhai"]);
    showing(&bench);
    let mut text = String::new();
    for at in (1..token.len()).filter(|at| token.is_char_boundary(*at)) {
        text = format!("{text}between\nit is {}\n{}.\n", &token[..at], &token[at..]);
    }
    let forms = [
        r#"Zq7\"Xw9\u00fc vKj2!mB4"#,
        r"Zq7\u0022Xw9\u00FC vKj2\u0021mB4",
        "Zq7%22Xw9%C3%BC+vKj2%21mB4",
        "Zq7%22Xw9%c3%bc%20vKj2!mB4",
    ];
    for form in forms {
        text = format!("{text}it is {form}.\n");
    }
    let all = shown_of(&bench, &text);
    for piece in ["Zq7", "Xw9", "Kj2", "mB4"] {
        assert!(!all.contains(piece), "{piece}: {all}");
    }
    assert!(all.contains("between"), "{all}");
}

#[test]
fn a_step_whose_id_contains_a_secret_is_refused_before_it_is_recorded() {
    let bench = writing_unstored();
    with_secret(&bench, "TOK", TOKEN, &["s.rhai"]);
    bench.write("plan.rhai", &format!("step::run(\"{TOKEN}\", \"One\", || {{}});"));
    let output = bench.run(&["plan.rhai"]);
    assert_ne!(code(&output), 0, "{}", said(&output));
    assert!(!said(&output).contains(TOKEN) && !bench.recorded().contains(TOKEN), "{}", said(&output));
    assert!(said(&output).contains("contains a secret"), "{}", said(&output));
}
