//! Measures how kkrun grows: ever larger plans, files and journals, in time and peak memory, with the exponent between two
//! sizes. 1 is linear. The start of the program is part of each time, so that small sizes show less than 1.
//!
//! A size that would take longer than [`PATIENCE`], by the time of the size before it, is left out, unless
//! `KKRUN_BENCH_FULL` is set: how long a change takes is above all how fast the disk syncs.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

/// The largest exponent between two sizes.
const BUDGET: f64 = 1.1;

/// For how many seconds the parts of one size may be expected to run.
const PATIENCE: f64 = 60.0;
/// Names another kkrun to measure than the one that was built.
const BINARY: &str = "KKRUN_BENCH_BINARY";
/// Set to measure every size.
const FULL: &str = "KKRUN_BENCH_FULL";

/// What is measured, one after the other; without a command the plan is run.
type Parts = &'static [(&'static str, &'static [&'static str])];

const FIRST: (&str, &[&str]) = ("first run", &[]);
const NOTHING: (&str, &[&str]) = ("run that does nothing", &[]);
const PREVIEW: (&str, &[&str]) = ("preview of the rollback", &["rollback", "--dry-run"]);
const ROLLBACK: (&str, &[&str]) = ("rollback", &["rollback", "--yes"]);
const STATUS: (&str, &[&str]) = ("status", &["status"]);
const HISTORY: (&str, &[&str]) = ("history", &["history"]);

/// One thing that grows.
struct Row {
    what: &'static str,
    sizes: &'static [u32],
    /// Makes the plan and the state of a size in this directory.
    make: fn(&Path, u32),
    parts: Parts,
}

const CHANGES: &[u32] = &[10, 100, 1_000, 10_000];

const ROWS: &[Row] = &[
    Row {
        what: "files",
        sizes: CHANGES,
        make: |at, size| {
            in_one_step(at, size, &format!("file::write(`{}/f${{at}}`, \"x\\n\");", at.display()));
        },
        parts: &[FIRST, NOTHING, PREVIEW, ROLLBACK],
    },
    Row {
        what: "commands",
        sizes: CHANGES,
        make: |at, size| {
            in_one_step(at, size, "cmd::run([\"/bin/true\"], #{ always: \"it is measured\" });");
        },
        parts: &[FIRST, NOTHING, PREVIEW, ROLLBACK],
    },
    Row {
        what: "captured commands",
        sizes: &[10, 100, 1_000],
        make: |at, size| {
            in_one_step(at, size, "cmd::run([\"/bin/true\"], #{ label: \"it\", capture: #{} });");
        },
        parts: &[FIRST, NOTHING],
    },
    Row {
        what: "files of a captured cp",
        sizes: &[100, 1_000, 10_000],
        make: captured,
        parts: &[FIRST, NOTHING, ROLLBACK],
    },
    Row {
        what: "changes to one file",
        sizes: CHANGES,
        make: |at, size| {
            in_one_step(at, size, &format!("file::write(`{}/one`, `${{at}}\\n`);", at.display()));
        },
        parts: &[FIRST, NOTHING, PREVIEW, ROLLBACK],
    },
    Row { what: "steps", sizes: CHANGES, make: steps, parts: &[FIRST, NOTHING] },
    Row { what: "keys of one map", sizes: &[10, 100, 1_000], make: keys, parts: &[FIRST, NOTHING, ROLLBACK] },
    Row {
        what: "MB of a file",
        sizes: &[1, 10, 100, 1_000],
        make: large_file,
        parts: &[FIRST, NOTHING, PREVIEW, ROLLBACK],
    },
    Row {
        what: "files of a mirror",
        sizes: &[100, 1_000, 10_000, 100_000],
        make: mirror,
        parts: &[FIRST, NOTHING, PREVIEW, ROLLBACK],
    },
    Row { what: "MB of output", sizes: &[1, 10, 100, 1_000], make: output, parts: &[FIRST, NOTHING] },
    Row {
        what: "records",
        sizes: &[1_000, 10_000, 100_000, 1_000_000],
        make: records,
        parts: &[("run that replays them", &[]), NOTHING, STATUS, HISTORY],
    },
];

fn main() {
    let scratch = tempfile::tempdir_in(trusted_directory()).expect("a scratch directory");
    let at = scratch.path();
    let mut over = 0;
    let is_root = rustix::process::geteuid().is_root();
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let is_asked_for = |row: &&Row| only.as_ref().is_none_or(|only| row.what.contains(only));
    for row in ROWS.iter().filter(is_asked_for).filter(|row| is_root || !row.what.contains("captured")) {
        let mut before: Vec<f64> = Vec::new();
        for size in row.sizes {
            let expected = before.iter().sum::<f64>() * 10.0;
            if expected > PATIENCE && std::env::var_os(FULL).is_none() {
                println!(
                    "{size:>7} {:<20} left out: about {expected:.0} s, `{FULL}=1` measures it",
                    row.what
                );
                break;
            }
            let place = at.join("place");
            drop(fs::remove_dir_all(&place));
            fs::create_dir(&place).expect("a directory");
            (row.make)(&place, *size);
            let measured: Vec<(f64, f64)> = row.parts.iter().map(|(_, words)| time(&place, words)).collect();
            for (number, (part, _)) in row.parts.iter().enumerate() {
                let (seconds, memory) = measured[number];
                let exponent = before.get(number).map(|before| (seconds / before).log10());
                let shown = exponent.map_or_else(String::new, |exponent| format!("{exponent:.2}"));
                let what = row.what;
                println!("{size:>7} {what:<20} {part:<24} {seconds:>8.3} s {memory:>7.1} MiB {shown:>6}");
                over += usize::from(exponent.is_some_and(|exponent| exponent > BUDGET));
            }
            before = measured.iter().map(|(seconds, _)| *seconds).collect();
        }
    }
    println!("{over} times it grows faster than with the exponent {BUDGET}");
}

/// A directory that only its owner can write: kkrun refuses others.
fn trusted_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from("/root") } else { std::env::temp_dir() }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
}

/// A plan of one step that does `body` so often.
fn in_one_step(at: &Path, size: u32, body: &str) {
    let plan = format!("step::run(\"01\", \"All\", || {{ for at in 0..{size} {{ {body} }} }});\n");
    write(&at.join("growth.rhai"), &plan);
}

fn steps(at: &Path, size: u32) {
    let mut plan = String::new();
    for step in 0..size {
        let _ = writeln!(plan, "step::run(\"{step}\", \"Step {step}\", \"{step}.rhai\");");
        write(&at.join(format!("{step}.rhai")), "let done = true;\n");
    }
    write(&at.join("growth.rhai"), &plan);
}

fn keys(at: &Path, size: u32) {
    let file = at.join("app.conf");
    let mut text = String::new();
    for key in 0..size {
        let _ = writeln!(text, "key{key} = some value");
    }
    write(&file, &text);
    let set = format!(
        "for at in 0..{size} {{ map[`key${{at}}`] = at; }} config::set(\"{}\", map);",
        file.display()
    );
    write(
        &at.join("growth.rhai"),
        &format!("step::run(\"01\", \"All\", || {{ let map = #{{}}; {set} }});\n"),
    );
}

fn large_file(at: &Path, size: u32) {
    let (file, mut piece) = (at.join("large"), vec![b'x'; 1_000_000]);
    let mut large = fs::File::create(&file).expect("a file");
    for number in 0..size {
        piece[..4].copy_from_slice(&number.to_le_bytes());
        large.write_all(&piece).expect("a large file");
    }
    in_one_step(at, 1, &format!("file::write(\"{}\", \"small\\n\");", file.display()));
}

/// A tree of so many small files, in directories of a hundred.
fn mirror(at: &Path, size: u32) {
    let from = at.join("from");
    for number in 0..size {
        let directory = from.join((number / 100).to_string());
        fs::create_dir_all(&directory).expect("a directory");
        write(&directory.join(number.to_string()), &format!("{number}\n"));
    }
    let to = at.join("to");
    in_one_step(at, 1, &format!("file::mirror(\"{}\", \"{}\");", from.display(), to.display()));
}

/// A captured command that replaces every other one of so many files, and makes the others.
fn captured(at: &Path, size: u32) {
    mirror(at, size);
    for number in (0..size).step_by(2) {
        let directory = at.join("to").join((number / 100).to_string());
        fs::create_dir_all(&directory).expect("a directory");
        write(&directory.join(number.to_string()), "old\n");
    }
    let copies = format!("cmd::run([\"cp\", \"-a\", \"{0}/from/.\", \"{0}/to\"]", at.display());
    in_one_step(at, 1, &format!("{copies}, #{{ label: \"it\", capture: #{{}} }});"));
}

/// A command that prints so many megabytes, a line of 64 bytes after the other.
fn output(at: &Path, size: u32) {
    let prints = format!("yes {} | head -c {}", "x".repeat(63), u64::from(size) * 1_000_000);
    let body = format!("cmd::run([\"sh\", \"-c\", \"{prints}\"], #{{ always: \"it is measured\" }});");
    in_one_step(at, 1, &body);
}

/// A complete plan whose journal has so many records: what is repeated are those of a command that ran.
fn records(at: &Path, size: u32) {
    write(&at.join("growth.rhai"), "step::run(\"01\", \"All\", \"01.rhai\");\n");
    write(&at.join("01.rhai"), "cmd::run([\"/bin/true\"], #{ always: \"it is measured\" });\n");
    time(at, &[]);
    let path = at.join("state/journal");
    let text = fs::read_to_string(&path).expect("the journal");
    let last = text.lines().last().expect("a record");
    let is = |kind: &str, record: &Value| record["entry"].get(kind).is_some();
    let all: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(&line[9..]).expect("a record")).collect();
    let of = |kind: &str| all.iter().find(|record| is(kind, record)).expect("a record of it").clone();
    let (mut intent, mut done, mut end) = (of("intent"), of("done"), of("run_ended"));
    let mut journal = std::io::BufWriter::new(
        fs::File::options().append(true).open(&path).expect("the journal, to append to it"),
    );
    let (mut previous, first) = (last[..8].to_owned(), all.len() as u64 + 1);
    let mut append = |record: &mut Value, number: u64| {
        record["header"]["seq"] = number.into();
        record["header"]["prev"] = previous.clone().into();
        let json = record.to_string();
        previous = format!("{:08x}", kkrun::checksum::crc_32c(json.as_bytes()));
        writeln!(journal, "{previous} {json}").expect("a record");
    };
    let pairs = u64::from(size).saturating_sub(first) / 2;
    for pair in 0..pairs {
        let number = first + 2 * pair;
        append(&mut intent, number);
        done["entry"]["done"]["change"] = number.into();
        append(&mut done, number + 1);
    }
    // What was written long before the file is taken for a backup that was put back.
    end["header"]["time"] = jiff::Timestamp::now().to_string().into();
    append(&mut end, first + 2 * pairs);
    drop(journal);
    fs::remove_file(at.join("state/journal.end")).expect("the mark");
}

/// Seconds and peak memory of a run.
fn time(at: &Path, words: &[&str]) -> (f64, f64) {
    let (state, plan) =
        (at.join("state").display().to_string(), at.join("growth.rhai").display().to_string());
    let binary = std::env::var(BINARY).unwrap_or_else(|_| env!("CARGO_BIN_EXE_kkrun").to_owned());
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", &binary]).args(words);
    // What shows something cannot be quiet.
    command.args((![STATUS.1, HISTORY.1].contains(&words)).then_some("--quiet"));
    command.args(["--state-dir", state.as_str()]);
    command.args(words.is_empty().then_some(plan.as_str()));
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("the program runs");
    let seconds = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    // A preview that finds something to do ends with 6.
    assert!(matches!(output.status.code(), Some(0 | 6)), "{words:?}: {said}");
    let memory = said.lines().last().and_then(|line| line.parse::<f64>().ok()).expect("kilobytes");
    (seconds, memory / 1024.0)
}
