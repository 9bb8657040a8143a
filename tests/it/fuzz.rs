//! Reading ends without a panic, whatever is in a file: journals, lines, env files, settings and scripts.
//!
//! A few hundred cases by default; `PROPTEST_CASES=1000000 cargo test --test it NAME` tries more. A case that fails is
//! minimised, kept in `tests/it/fuzz.proptest-regressions`, and tried first from then on.

use std::time::{Duration, Instant};

use kkrun::change::{DesiredEntry, EntryKind, FileEntry, Format};
use kkrun::cli::Cli;
use kkrun::machine::files::Digest;
use kkrun::plan::Reading;
use kkrun::script::Source;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

fn config(cases: u32) -> Config {
    let given = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config {
        cases: given.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        max_shrink_iters: 2_000,
        ..Config::default()
    }
}

/// The longest time that a text of this size may take.
fn in_time<T>(what: &dyn std::fmt::Debug, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}: {what:?}", started.elapsed());
    result
}

/// A journal as kkrun writes it.
fn journal() -> &'static [u8] {
    &journal_and_key().0
}

/// The same with its key.
fn journal_and_key() -> &'static (Vec<u8>, Vec<u8>) {
    static BOTH: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    BOTH.get_or_init(|| {
        let place = crate::support::Place::new(
            "step::run(\"01\", \"First\", || { file::write(\"@/m/a\", \"a\"); config::set(\"@/m/c\", \"k\", 1); });",
        );
        place.run("plan.rhai").ends(0);
        place.run("rollback").ends(0);
        let read = |name: &str| std::fs::read(place.path(name)).unwrap();
        (read("state/journal"), read("state/key"))
    })
}

thread_local! {
    // Root reads no script below a directory that others can write.
    static DIRECTORY: tempfile::TempDir = if rustix::process::geteuid().is_root() {
        tempfile::tempdir_in("/var/lib").unwrap()
    } else {
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
    };
}

fn scratch(name: &str) -> std::path::PathBuf {
    DIRECTORY.with(|directory| directory.path().join(name))
}

/// One modification of a file's bytes.
#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Double(usize, usize),
    Line(String),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0..5_000_usize;
    let json = prop_oneof![
        Just("{}".to_owned()),
        Just("{\"header\":{\"seq\":1,\"skippable\":true},\"entry\":\"checkpoint\"}".to_owned()),
        Just("[]".repeat(200)),
        Just("[".repeat(2_000)),
        "\\PC{0,60}",
        (any::<u64>(), any::<i64>(), "[a-z_]{0,12}").prop_map(|(seq, time, kind)| format!(
            "{{\"header\":{{\"seq\":{seq},\"prev\":\"00000000\",\"run\":\"r\",\"boot\":\"b\",\"time\":{time},\"plan\":\"p\"}},\"entry\":\"{kind}\"}}"
        )),
    ];
    prop_oneof![
        at().prop_map(Damage::Cut),
        (at(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (at(), proptest::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), 0..500_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (at(), 0..500_usize).prop_map(|(at, count)| Damage::Double(at, count)),
        // With a valid checksum, so that the content is read.
        json.prop_map(Damage::Line),
    ]
}

fn damaged(bytes: &[u8], all: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in all {
        let within = |at: usize| at % (bytes.len() + 1);
        match damage {
            Damage::Cut(at) => bytes.truncate(within(*at)),
            Damage::Flip(at, bits) => {
                let at = within(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Damage::Insert(at, more) => {
                let at = within(*at);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = within(*at);
                let end = bytes.len().min(at + count);
                bytes.drain(at..end);
            }
            Damage::Double(at, count) => {
                let at = within(*at);
                let again = bytes[at..bytes.len().min(at + count)].to_vec();
                bytes.splice(at..at, again);
            }
            Damage::Line(json) => {
                bytes.extend(format!("{:08x} {json}\n", kkrun::checksum::crc_32c(json.as_bytes())).bytes());
            }
        }
    }
    bytes
}

/// The pieces of which scripts are made.
fn script() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("let ".to_owned()),
        Just("const ".to_owned()),
        Just("fn ".to_owned()),
        Just("if ".to_owned()),
        Just("else ".to_owned()),
        Just("loop ".to_owned()),
        Just("while ".to_owned()),
        Just("for ".to_owned()),
        Just(" in ".to_owned()),
        Just("switch ".to_owned()),
        Just("return ".to_owned()),
        Just("throw ".to_owned()),
        Just("try ".to_owned()),
        Just("catch ".to_owned()),
        Just("import ".to_owned()),
        Just("export ".to_owned()),
        Just(" as ".to_owned()),
        Just("private ".to_owned()),
        Just("this".to_owned()),
        Just("global::".to_owned()),
        Just("eval".to_owned()),
        Just("exit".to_owned()),
        Just("Fn".to_owned()),
        Just("call".to_owned()),
        Just("step::run(\"01\", \"First\", || ".to_owned()),
        Just("step::run(".to_owned()),
        Just("file::write(".to_owned()),
        Just("cmd::run([".to_owned()),
        Just("secret::ask(\"pin\", ".to_owned()),
        Just("config::set(".to_owned()),
        Just("unit::enable(".to_owned()),
        Just("settings::".to_owned()),
        Just("const REQUIRES = #{ root: true };".to_owned()),
        Just("import \"std/env_file\" as env_file;".to_owned()),
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("#{".to_owned()),
        Just("${".to_owned()),
        Just("`".to_owned()),
        Just("\"".to_owned()),
        Just("'".to_owned()),
        Just("|".to_owned()),
        Just("||".to_owned()),
        Just(";".to_owned()),
        Just(":".to_owned()),
        Just("::".to_owned()),
        Just(",".to_owned()),
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just("=".to_owned()),
        Just("=>".to_owned()),
        Just("+=".to_owned()),
        Just("?.".to_owned()),
        Just("??".to_owned()),
        Just("!".to_owned()),
        Just("-".to_owned()),
        Just("*".to_owned()),
        Just("//".to_owned()),
        Just("/*".to_owned()),
        Just("*/".to_owned()),
        Just("///".to_owned()),
        Just("\n".to_owned()),
        Just(" ".to_owned()),
        Just("\\".to_owned()),
        Just("0x".to_owned()),
        "[a-z]{1,3}",
        "[0-9]{1,20}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

const FORMATS: &[Format] = &[
    Format::Ini,
    Format::Systemd,
    Format::Networkd,
    Format::Sshd,
    Format::Ssh,
    Format::Postfix,
    Format::Environment,
    Format::Dotenv,
    Format::Shell,
    Format::Fstab,
    Format::Words,
];

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn a_journal_of_any_bytes_is_read_or_refused(
        all in proptest::collection::vec(damage(), 0..6), begun in any::<bool>(),
    ) {
        let bytes = damaged(if begun { journal() } else { b"" }, &all);
        let state = scratch("state");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("journal"), &bytes).unwrap();
        std::fs::write(state.join("key"), &journal_and_key().1).unwrap();
        let first = in_time(&all, || kkrun::journal::load(&state).map(|loaded| loaded.history.changes.len()).map_err(|error| error.to_string()));
        // Reading changes nothing.
        prop_assert_eq!(&std::fs::read(state.join("journal")).unwrap(), &bytes);
        let again = kkrun::journal::load(&state).map(|loaded| loaded.history.changes.len()).map_err(|error| error.to_string());
        prop_assert_eq!(first, again);
    }

    #[test]
    fn a_line_or_block_is_edited_or_refused_in_any_file(
        file in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            proptest::collection::vec(
                prop_oneof![
                    Just("[s]"), Just("[S]"), Just("k=1"), Just("k = 2"), Just("k: 3"), Just("#k=4"), Just("; k"), Just("k"),
                    Just("export k='5'"), Just("# BEGIN kkrun k"), Just("# END kkrun k"), Just(""), Just("  "), Just("k=\""),
                    Just("k='a\nb'"), Just("\r"), Just("  k=9 \\"), Just("if k"), Just("fi"), Just("K 1 # why"), Just("k none swap sw"),
                    Just("Match all"), Just("Host k"), Just("cat << k"), Just("  more"), Just("k=1; k=2"), Just("\u{feff}k=6"), Just("kk=7"), Just("[s"), Just("= 8"),
                ], 0..12
            ).prop_map(|lines| lines.join("\n").into_bytes()),
        ],
        crlf in any::<bool>(), ended in any::<bool>(),
        section in proptest::option::of(prop_oneof!["[sS\\] ]{1,2}", Just("Match all".to_owned()), Just("host k".to_owned())]), key in prop_oneof![Just("k".to_owned()), "[a-zA-Z_.-]{1,4}"],
        separator in proptest::option::of(prop_oneof![Just("="), Just(" = "), Just(": "), Just(" ")]),
        is_block in any::<bool>(), desired in 0..3_usize, text in "\\PC{0,12}",
        format in proptest::sample::select(FORMATS),
    ) {
        let mut bytes = file;
        if crlf {
            bytes = String::from_utf8_lossy(&bytes).replace('\n', "\r\n").into_bytes();
        }
        if ended {
            bytes.push(b'\n');
        }
        let kind = if is_block {
            EntryKind::Block { name: key }
        } else {
            EntryKind::Line { key, separator: separator.map(str::to_owned) }
        };
        let entry = FileEntry { section, comment: "#".to_owned(), format, kind };
        let desired = [DesiredEntry::Text(text.as_bytes()), DesiredEntry::Comment, DesiredEntry::Absent][desired];
        let edited = in_time(&bytes, || entry.edited(&bytes, desired, "the file"));
        if let Ok(Some(edited)) = edited {
            prop_assert_ne!(&edited.bytes, &bytes);
            let again = in_time(&edited.bytes, || entry.edited(&edited.bytes, desired, "the file"));
            prop_assert!(matches!(again, Ok(None)));
        }
    }

    #[test]
    fn settings_of_any_text_are_read_or_refused(text in script(), typed in "\\PC{0,20}", wraps in any::<bool>()) {
        let text = if wraps { format!("#{{ a: \"{{b}}{text}\", b: [1, #{{ c: {text} }}], port: 80 }}") } else { text };
        let root = scratch("settings");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("settings.rhai"), &text).unwrap();
        let source = Source::Directory { shown: root.clone(), root };
        let settings = in_time(&text, || kkrun::script::Settings::read(&source, &[], &std::collections::BTreeMap::new()));
        if let Ok(settings) = settings {
            for name in settings.names() {
                drop(settings.typed(name, &typed));
            }
        }
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn a_script_of_any_text_is_checked(text in script(), in_function in any::<bool>()) {
        let text = if in_function { format!("fn f(a) {{ {text} }}\nf(1);\n") } else { text };
        check(&text);
    }
}

proptest! {
    #![proptest_config(config(6))]

    #[test]
    fn a_shell_reads_from_an_env_file_what_was_written(values in proptest::collection::vec("[ -~é✅]{0,16}", 30)) {
        let place = crate::support::Place::empty();
        let text = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let pairs = values.iter().enumerate().map(|(at, value)| format!("K{at}: \"{}\"", text(value)));
        let pairs: Vec<String> = pairs.collect();
        let script = format!("import \"std/env_file\" as env_file;\nenv_file::set(\"{}\", #{{ {} }});", place.path("m/.env").display(), pairs.join(", "));
        std::fs::write(place.path("plan/plan.rhai"), script).unwrap();
        place.run("plan.rhai").ends(0);
        let before = place.prints_of("m");
        place.run("plan.rhai").ends(0);
        prop_assert_eq!(before, place.prints_of("m"));
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", "set -a; . \"$1\"; for n in {0..29}; do k=K$n; printf '%s\\0' \"${!k}\"; done", "bash"]);
        let output = shell.arg(place.path("m/.env")).env_clear().env("LC_ALL", "C.UTF-8").output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        let read: Vec<&str> = read.split_terminator('\0').collect();
        prop_assert_eq!(read, values);
    }
}

/// Checks a script as `kkrun check` does.
fn check(text: &str) -> Vec<kkrun::failure::Failure> {
    let root = scratch("plan");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("plan.rhai"), text).unwrap();
    let cli = Cli::of(["kkrun", "check"].map(Into::into)).unwrap();
    let launch = kkrun::config::launch_to_read(&cli.options).unwrap();
    let reporter = kkrun::commands::reporter(&cli.options);
    let mut reading = Reading::default();
    in_time(&text, || {
        let source = Source::Directory { shown: root.clone(), root };
        reading.script(&launch, source, "plan.rhai", &reporter);
    });
    reading.into_problems()
}

#[test]
fn what_the_fuzzers_read_is_understood_when_it_is_whole() {
    assert!(check("let a = 1;").is_empty());
    assert_eq!(check("let a = ;").len(), 1);
    let state = scratch("whole");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("journal"), journal()).unwrap();
    std::fs::write(state.join("key"), &journal_and_key().1).unwrap();
    assert_eq!(kkrun::journal::load(&state).unwrap().history.changes.len(), 2);
    assert_ne!(Digest::of(journal()), Digest::of(b""));
}
