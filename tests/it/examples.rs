//! Runs the examples in the manual: each by the program itself, on a machine of which only a copy can change.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kkrun::primitives::REGISTRATION;
use kkrun::script::manual::{Example, Function, functions_of};

/// Makes everything that an example may write a layer over what is there, in a mount namespace of its own, and runs
/// the command line in it. /mnt is for the example itself, with a plan beside it; what is above it belongs to root.
const PLACE: &str = r#"
set -eu
mount -t tmpfs -o mode=0755 none /mnt
for directory in /etc /home /opt /usr/local /var /root; do
    [ -d "$directory" ] || continue
    layer=/mnt/layers$directory
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" none "$directory"
done
mount -t tmpfs -o mode=0755 none /srv
mkdir /mnt/plan
cat > /mnt/plan/example.rhai
printf '%s\n' 'file::write("/srv/greeting", "hello\n");' > /mnt/plan/01_greet.rhai
printf '%s\n' 'step::run("01", "Leave a greeting", "01_greet.rhai");' > /mnt/plan/master.rhai
exec "$@"
"#;

/// The examples with this mark, or without any, and the function that each belongs to.
fn examples(mark: Option<&str>) -> Vec<(Function, Example)> {
    let mut found = Vec::new();
    for function in functions_of(REGISTRATION) {
        for example in function.examples() {
            if example.marks.first().map(String::as_str) == mark {
                found.push((function.clone(), example));
            }
        }
    }
    found
}

fn run_apart(example: &Example) -> Output {
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", PLACE, "sh"])
        .args([env!("CARGO_BIN_EXE_kkrun"), "--state-dir", "/mnt/state", "--non-interactive"])
        .arg("/mnt/plan/example.rhai")
        .env("KKRUN_SECRET_DB_PASSWORD", "correct horse battery staple")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), example.text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_function_is_described_and_has_an_example() {
    let functions = functions_of(REGISTRATION);
    let wanting: Vec<String> = functions
        .iter()
        .filter(|function| {
            let text = function.doc.split("```").next().unwrap_or_default().trim();
            text.is_empty() || function.examples().is_empty()
        })
        .map(Function::signature)
        .collect();
    assert_eq!(wanting, Vec::<String>::new());
    for function in &functions {
        for example in function.examples() {
            assert!(example.marks.iter().all(|mark| mark == "booted"), "{}", function.signature());
        }
    }
}

#[test]
#[ignore = "needs root: makes a mount namespace for each example"]
fn every_example_holds_on_this_machine() {
    let examples = examples(None);
    assert!(examples.len() > 50, "they were found");
    let mut failed = String::new();
    for (function, example) in &examples {
        let output = run_apart(example);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            writeln!(failed, "{}: {}\n{said}", function.signature(), output.status).unwrap();
        }
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(!Path::new("/mnt/plan").exists(), "nothing of it is left");
}

#[test]
#[ignore = "needs root and a base with the packages of the kiosk: boots it"]
fn every_example_that_wants_services_holds_on_a_booted_machine() {
    let bases = std::env::var_os("KKRUN_TEST_BASES").map_or("/var/tmp/kkrun-bases".into(), PathBuf::from);
    // Root runs nothing below a directory that others can write.
    let place = tempfile::Builder::new().prefix("kkrun-examples-").tempdir_in("/var/lib").unwrap();
    let examples = examples(Some("booted"));
    assert!(examples.len() > 20, "they were found");
    let plan = place.path().join("plan");
    std::fs::create_dir(&plan).unwrap();
    // The clone starts nothing by itself.
    let mut steps = String::from(
        "import \"std/postgresql\" as postgresql;\npostgresql::ensure_running(5432);\nlet failed = [];\n",
    );
    for (at, (function, example)) in examples.iter().enumerate() {
        let name = format!("example_{at}");
        let body = example.text.replace('\n', "\n    ");
        writeln!(steps, "import \"{name}\" as {name};").unwrap();
        writeln!(
            steps,
            "try {{ {name}::holds(); }} catch (failure) {{ failed.push(`{}: ${{failure}}`); }}",
            function.path()
        )
        .unwrap();
        let module = format!("fn holds() {{\n    {body}\n}}\n");
        std::fs::write(plan.join(format!("{name}.rhai")), module).unwrap();
    }
    steps.push_str(
        "for line in failed { log::warn(line); }\nif failed != [] { throw `${failed.len()} failed`; }\n",
    );
    std::fs::write(plan.join("examples.rhai"), steps).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kkrun"))
        .args(["rehearse", "--non-interactive", "--yes", "--base"])
        .arg(bases.join("prepared"))
        .arg(plan.join("examples.rhai"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
