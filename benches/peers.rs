//! Measures kkrun beside a bash master with marker files and make with stamps, in pairs within one run, and
//! prints the median of their ratios: below 1, kkrun is faster. Its journal is synced as in any run.
//!
//! As root it runs in a mount namespace of its own, in which `/var/lib` is a scratch directory: there kkrun can be called
//! as people type it, without `--state-dir`.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The number of pairs of which a ratio is the median.
const PAIRS: usize = 15;

/// Names another kkrun to measure than the one that was built.
const BINARY: &str = "KKRUN_BENCH_BINARY";
/// Set in the process that sees a scratch directory at [`STATE`].
const APART: &str = "KKRUN_BENCH_APART";
/// Where kkrun has its state directory when root types no other.
const STATE: &str = "/var/lib";

/// What kkrun may take at most.
#[derive(Clone, Copy)]
enum Budget {
    /// This part of what bash takes.
    Bash(f64),
    /// What make takes.
    Make,
}

/// One workload, in the three forms.
struct Row {
    name: &'static str,
    budget: Budget,
    pairs: usize,
    /// Restores the state before a measurement.
    reset: Box<dyn Fn()>,
    kkrun: Vec<String>,
    bash: Vec<String>,
    make: Option<Vec<String>>,
}

fn main() {
    let scratch = tempfile::tempdir_in(trusted_directory()).expect("a scratch directory");
    let at = scratch.path();
    let is_root = rustix::process::geteuid().is_root();
    if is_root && std::env::var_os(APART).is_none() {
        run_apart(at);
        return;
    }
    INSTALLED.get_or_init(|| install(at));
    println!(
        "{:<16} {:>9} {:>9} {:>9} {:>8} {:>8} {:>12}",
        "", "kkrun", "bash", "make", "/bash", "/make", "budget"
    );
    let mut rows = vec![
        noop(at, "no-op 7", 7),
        first_run(at),
        thousand_commands(at),
        line(at, "line in 20 lines", 20, 0.5),
        line(at, "line in 10 MB", 350_000, 1.0),
        noop(at, "no-op 1000", 1000),
    ];
    if is_root {
        rows.insert(0, typed(noop(at, "no-op 7 as typed", 7)));
        rows.push(captured_files(at, "1000 captured", 1_000));
        rows.push(captured_files(at, "10000 captured", 10_000));
    }
    if let Some(only) = std::env::args().skip(1).find(|word| !word.starts_with('-')) {
        rows.retain(|row| row.name.contains(&only));
    }
    let mut over = 0;
    for row in &rows {
        over += usize::from(!measure(row));
    }
    println!("peak memory of a no-op of 7 steps: {:.1} MiB (budget 12)", peak(at));
    println!("{over} of {} rows over budget", rows.len());
}

/// Runs this program again where [`STATE`] is a scratch directory.
fn run_apart(at: &Path) {
    let lib = at.join("lib");
    fs::create_dir(&lib).expect("a directory");
    let bound = format!("mount --bind '{}' {STATE} && exec \"$0\" \"$@\"", text(&lib));
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "--propagation", "private", "sh", "-c", &bound]).env(APART, "1");
    apart.arg(std::env::current_exe().expect("this program")).args(std::env::args_os().skip(1));
    assert!(apart.status().expect("unshare runs").success(), "the benchmark failed");
}

/// The same row with kkrun called as people type it.
fn typed(row: Row) -> Row {
    let kkrun: Vec<String> = [row.kkrun.first(), row.kkrun.last()].into_iter().flatten().cloned().collect();
    time(&kkrun);
    Row { kkrun, ..row }
}

/// A directory that only its owner can write: kkrun refuses others.
fn trusted_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from("/root") } else { std::env::temp_dir() }
}

/// The kkrun that is measured.
static INSTALLED: OnceLock<String> = OnceLock::new();

/// Copies kkrun, as an installation does: of what the linker wrote, through a mapping, the kernel maps fewer pages at once,
/// and each start takes longer.
fn install(at: &Path) -> String {
    let built = std::env::var(BINARY).unwrap_or_else(|_| env!("CARGO_BIN_EXE_kkrun").to_owned());
    let installed = at.join("kkrun");
    fs::copy(built, &installed).expect("a copy of kkrun");
    text(&installed)
}

fn kkrun(state: &Path, script: &Path) -> Vec<String> {
    let binary = INSTALLED.get().expect("kkrun is installed");
    [&**binary, "--quiet", "--state-dir", &text(state), &text(script)].map(str::to_owned).to_vec()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, content).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("a mode");
}

/// The master script that kkrun replaces, without its steps; only the directory of its markers differs.
const MASTER: &str = r#"#!/bin/bash
SCRIPT_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
STATE_DIR="$SCRIPT_DIR/markers"
mkdir -p "$STATE_DIR"

run_step() {
    local step_num="$1"
    local step_name="$2"
    local script_file="$3"
    local marker_file="$STATE_DIR/.step${step_num}_complete"

    if [ -f "$marker_file" ]; then
        echo "✅ Step $step_num ($step_name) already completed, skipping"
        return 0
    fi

    echo "🔄 Running Step $step_num: $step_name"
    if bash "$SCRIPT_DIR/$script_file"; then
        touch "$marker_file"
        echo "✅ Step $step_num completed successfully"
    else
        echo "❌ Step $step_num failed. Fix the issue and re-run this script."
        exit 1
    fi
}

"#;

/// The three forms of a plan whose steps do `body` (in bash) or `rhai`.
fn plan(at: &Path, steps: usize, bash: &str, rhai: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut master = MASTER.to_owned();
    let mut makefile = format!("all: {}/make{steps:04}\n", text(at));
    let mut rhai_plan = String::new();
    for step in 1..=steps {
        let id = format!("{step:04}");
        let _ = writeln!(master, "run_step \"{id}\" \"Step {id}\" \"{id}.sh\"");
        write(&at.join(format!("{id}.sh")), bash);
        let needs = if step == 1 { String::new() } else { format!("{}/make{:04}", text(at), step - 1) };
        let _ = write!(makefile, "{0}/make{id}: {needs}\n\t@bash {0}/{id}.sh && touch $@\n", text(at));
        let _ = writeln!(rhai_plan, "step::run(\"{id}\", \"Step {id}\", \"{id}.rhai\");");
        write(&at.join(format!("{id}.rhai")), rhai);
    }
    write(&at.join("master.sh"), &master);
    write(&at.join("Makefile"), &makefile);
    write(&at.join("master.rhai"), &rhai_plan);
    let bash = vec!["bash".to_owned(), text(&at.join("master.sh"))];
    let make = vec!["make".to_owned(), "-f".to_owned(), text(&at.join("Makefile"))];
    (kkrun(&at.join("state"), &at.join("master.rhai")), bash, make)
}

/// Removes all records of completed steps.
fn forget(at: &Path) {
    drop(fs::remove_dir_all(at.join("state")));
    drop(fs::remove_dir_all(at.join("markers")));
    for entry in fs::read_dir(at).expect("the scratch").flatten() {
        if entry.file_name().to_string_lossy().starts_with("make0") {
            fs::remove_file(entry.path()).expect("a stamp");
        }
    }
}

fn noop(at: &Path, name: &'static str, steps: usize) -> Row {
    let at = at.join(format!("noop{steps}"));
    let (kkrun, bash, make) = plan(&at, steps, "true\n", "let done = true;\n");
    for form in [&kkrun, &bash, &make] {
        time(form);
    }
    let budget = Budget::Make;
    Row { name, budget, pairs: PAIRS, reset: Box::new(|| ()), kkrun, bash, make: Some(make) }
}

fn first_run(at: &Path) -> Row {
    let at = at.join("first");
    let (kkrun, bash, make) = plan(&at, 7, "true\n", "let done = true;\n");
    let reset = Box::new(move || forget(&at));
    Row {
        name: "first run 7",
        budget: Budget::Bash(0.35),
        pairs: PAIRS,
        reset,
        kkrun,
        bash,
        make: Some(make),
    }
}

fn thousand_commands(at: &Path) -> Row {
    let at = at.join("thousand");
    let rhai = "for at in 0..1000 { cmd::run([\"/bin/true\"], #{ always: \"it is measured\" }); }\n";
    let (kkrun, bash, make) = plan(&at, 1, "for i in $(seq 1000); do /bin/true; done\n", rhai);
    let reset = Box::new(move || forget(&at));
    Row { name: "1000 x true", budget: Budget::Bash(0.85), pairs: 5, reset, kkrun, bash, make: Some(make) }
}

/// What a captured command wrote is read, synced and moved to its place; the script writes and syncs it.
fn captured_files(at: &Path, name: &'static str, files: usize) -> Row {
    let at = at.join(format!("captured{files}"));
    for number in 0..files {
        write(&at.join(format!("from/{}/{number}", number / 100)), &format!("{number}\n"));
    }
    let copy = format!("cp -a {0}/from {0}/to", text(&at));
    let words = copy.replace(' ', "\", \"");
    let rhai = format!("cmd::run([\"{words}\"], #{{ label: \"it\", capture: #{{}} }});\n");
    let (kkrun, bash, _) = plan(&at, 1, &format!("{copy}\nsync -f {}\n", text(&at)), &rhai);
    let reset = Box::new(move || {
        forget(&at);
        drop(fs::remove_dir_all(at.join("to")));
    });
    Row { name, budget: Budget::Bash(2.0), pairs: 5, reset, kkrun, bash, make: None }
}

fn line(at: &Path, name: &'static str, lines: usize, budget: f64) -> Row {
    let at = at.join(format!("line{lines}"));
    let file = at.join("file.conf");
    let bash = format!("sed -i 's/^wanted=.*/wanted=new/' {}\n", text(&file));
    let rhai = format!("config::set(\"{}\", \"wanted\", \"new\");\n", text(&file));
    let (kkrun, bash, _) = plan(&at, 1, &bash, &rhai);
    let mut content = String::new();
    for number in 0..lines {
        let _ = writeln!(content, "key{number}=some value {number:08}");
    }
    content.push_str("wanted=old\n");
    let reset = Box::new(move || {
        forget(&at);
        fs::write(&file, &content).expect("the file");
    });
    let budget = Budget::Bash(budget);
    Row { name, budget, pairs: PAIRS, reset, kkrun, bash, make: None }
}

fn time(form: &[String]) -> Duration {
    let begun = Instant::now();
    let status =
        Command::new(&form[0]).args(&form[1..]).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let elapsed = begun.elapsed();
    let output = status.expect("the program runs");
    assert!(output.status.success(), "{form:?}: {}", String::from_utf8_lossy(&output.stderr));
    elapsed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a row and says whether it is within its budget.
fn measure(row: &Row) -> bool {
    let (mut kkruns, mut bashes, mut makes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut to_bash, mut to_make) = (Vec::new(), Vec::new());
    for _ in 0..row.pairs {
        let timed = |form: &[String]| {
            (row.reset)();
            rustix::fs::sync();
            time(form).as_secs_f64() * 1000.0
        };
        let (kkrun, bash) = (timed(&row.kkrun), timed(&row.bash));
        kkruns.push(kkrun);
        bashes.push(bash);
        to_bash.push(kkrun / bash);
        if let Some(make) = &row.make {
            let make = timed(make);
            makes.push(make);
            to_make.push(kkrun / make);
        }
    }
    let ratio = median(to_bash);
    let make = if makes.is_empty() { String::from("-") } else { format!("{:.1} ms", median(makes)) };
    let (is_within, budget) = match row.budget {
        Budget::Bash(most) => (ratio <= most, format!("{most:.2} of bash")),
        Budget::Make => (median(to_make.clone()) <= 1.0, "make".to_owned()),
    };
    let to_make = if to_make.is_empty() { String::from("-") } else { format!("{:.2}", median(to_make)) };
    let (kkrun, bash) = (format!("{:.1} ms", median(kkruns)), format!("{:.1} ms", median(bashes)));
    println!("{:<16} {kkrun:>9} {bash:>9} {make:>9} {ratio:>8.2} {to_make:>8} {budget:>12}", row.name);
    is_within
}

/// The peak resident size of a run, in MiB.
fn peak(at: &Path) -> f64 {
    let at = at.join("noop7");
    let form = kkrun(&at.join("state"), &at.join("master.rhai"));
    let output =
        Command::new("/usr/bin/time").args(["-f", "%M"]).args(&form).output().expect("/usr/bin/time");
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().last().and_then(|line| line.parse::<f64>().ok()).expect("kilobytes") / 1024.0
}
