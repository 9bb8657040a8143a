//! Measures how kkrun grows: plans of ever more changes, in time and peak memory, with the exponent between two sizes. 1 is
//! linear. The start of the program is part of each time, so that small sizes show less than 1.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
/// The largest exponent between the two largest sizes.
const BUDGET: f64 = 1.1;

/// What is measured of each plan, one after the other; without a command the plan is run.
const PARTS: [(&str, &[&str]); 4] = [
    ("first run", &[]),
    ("run that does nothing", &[]),
    ("preview of the rollback", &["rollback", "--dry-run"]),
    ("rollback", &["rollback", "--yes"]),
];

fn main() {
    let scratch = tempfile::tempdir_in(trusted_directory()).expect("a scratch directory");
    let at = scratch.path();
    let files = format!("file::write(`{}/f${{at}}`, \"x\\n\");", at.display());
    let commands = "cmd::run([\"/bin/true\"], #{ always: \"it is measured\" });".to_owned();
    let one_file = format!("file::write(`{}/one`, `${{at}}\\n`);", at.display());
    let mut over = 0;
    for (what, body) in [("files", files), ("commands", commands), ("changes to one file", one_file)] {
        let mut before: Option<[f64; 4]> = None;
        for size in SIZES {
            let measured = measure(at, size, &body);
            for (number, (part, _)) in PARTS.iter().enumerate() {
                let (seconds, memory) = measured[number];
                let exponent = before.map(|before| (seconds / before[number]).log10());
                let shown = exponent.map_or_else(String::new, |exponent| format!("{exponent:.2}"));
                println!("{size:>6} {what:<20} {part:<24} {seconds:>8.3} s {memory:>7.1} MiB {shown:>6}");
                over += usize::from(size == SIZES[3] && exponent.is_some_and(|exponent| exponent > BUDGET));
            }
            before = Some(measured.map(|(seconds, _)| seconds));
        }
    }
    println!("{over} rows grow faster than with the exponent {BUDGET}");
}

/// A directory that only its owner can write: kkrun refuses others.
fn trusted_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from("/root") } else { std::env::temp_dir() }
}

/// Seconds and peak memory of each part for a plan that does `body` so often.
fn measure(at: &Path, size: u32, body: &str) -> [(f64, f64); 4] {
    let (state, plan) = (at.join("state"), at.join("growth.rhai"));
    drop(fs::remove_dir_all(&state));
    fs::write(&plan, format!("step::run(\"01\", \"All\", || {{ for at in 0..{size} {{ {body} }} }});\n"))
        .expect("the plan");
    PARTS.map(|(_, words)| {
        let mut words = words.to_vec();
        let (state, plan) = (state.display().to_string(), plan.display().to_string());
        let is_run = words.is_empty();
        words.extend(["--quiet", "--state-dir", state.as_str()]);
        words.extend(is_run.then_some(plan.as_str()));
        time(&words)
    })
}

fn time(words: &[&str]) -> (f64, f64) {
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", env!("CARGO_BIN_EXE_kkrun")]).args(words);
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("the program runs");
    let seconds = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    // A preview that finds something to do ends with 6.
    assert!(matches!(output.status.code(), Some(0 | 6)), "{words:?}: {said}");
    let memory = said.lines().last().and_then(|line| line.parse::<f64>().ok()).expect("kilobytes");
    (seconds, memory / 1024.0)
}
