//! Scripts that never end, nest without end, exhaust the memory or read outside the plan: kkrun stops them and reports
//! the line. All limits are set, so that debug and release builds behave alike.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Ran};

/// A guard for the machine, in bytes of address space: what is reserved and not used counts here and not for kkrun.
const MEMORY: u64 = 6 << 30;
/// Makes the test of panics run kkrun, with the arguments that it holds.
const FAULT: &str = "KKRUN_TEST_FAULT";

/// Runs a script with its memory bounded from outside, as a guard for the machine.
fn run(script: &str, words: &str) -> Ran {
    let place = Place::new(script);
    run_in(&place, words)
}

fn run_in(place: &Place, words: &str) -> Ran {
    let kkrun = place.command(&words.split_whitespace().collect::<Vec<_>>());
    let mut limited = Command::new("bash");
    limited.args(["-c", &format!("ulimit -v {} && exec \"$@\"", MEMORY >> 10), "bash"]);
    limited.arg(kkrun.get_program()).args(kkrun.get_args()).current_dir(place.path("plan"));
    limited.env_clear().envs(kkrun.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let started = Instant::now();
    let output = limited.stdin(Stdio::null()).output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "it took {:?}", started.elapsed());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Checks for an error of the script, at run time or from the check, with a line.
#[track_caller]
fn is_refused(script: &str) -> Ran {
    let ran = run(script, "plan.rhai");
    assert!([1, 2].contains(&ran.status), "{script}\n{}", ran.page());
    assert!(ran.stderr.contains("plan.rhai:"), "{script}\n{}", ran.page());
    assert!(!ran.stderr.contains("panicked"), "{script}\n{}", ran.page());
    ran
}

#[test]
fn endless_script_is_stopped_with_its_line() {
    for (script, line) in [
        ("let a = 1;\nloop { a += 1; }", 2),
        // An error that cannot be caught has the line of the outermost call.
        ("fn f() {\n    loop { let a = 1; }\n}\nf();", 4),
        ("try { loop { } } catch { print(\"caught\"); }", 1),
    ] {
        let ran =
            run(script, "plan.rhai").ends(1).says("ran for too long").says(&format!("plan.rhai:{line}:"));
        assert!(!ran.stdout.contains("caught"));
    }
}

#[test]
fn endless_recursion_is_stopped_with_its_line() {
    for script in [
        "fn f(n) { f(n + 1) }\nf(0);",
        "fn f(n) { g(n) } fn g(n) { f(n) }\nf(0);",
        "fn f(n) { [n].map(|x| f(x)) }\nf(0);",
        "fn f(g) { g.call(g) }\nf(|g| g.call(g));",
        "fn f(n) { `${f(n)}` }\nf(0);",
        "fn f(n) { #{ a: [f(n)] } }\nf(0);",
    ] {
        is_refused(script);
    }
}

#[test]
fn endlessly_nested_script_is_refused_before_it_runs() {
    let nested = |open: &str, within: &str, close: &str| {
        format!("print(\"ran\");\nlet a = {}{within}{};", open.repeat(20_000), close.repeat(20_000))
    };
    for script in [
        nested("(", "1", ")"),
        nested("[", "1", "]"),
        nested("#{a:", "1", "}"),
        nested("-", "1", ""),
        nested("!", "true", ""),
        nested("1+(", "1", ")"),
        nested("`${", "1", "}`"),
        nested("if true {", "1", "}"),
        nested("|x| ", "1", ""),
        nested("{", "1", "}"),
        format!("print(\"ran\");\nlet a = 1{};", "+1".repeat(50_000)),
        format!("print(\"ran\");\nlet a = #{{}};\na{};", ".b".repeat(50_000)),
        format!("print(\"ran\");\nlet a = [];\na{};", "[0]".repeat(50_000)),
        format!("print(\"ran\");\n{}1{}", "while true {".repeat(20_000), "}".repeat(20_000)),
        format!("print(\"ran\");\nlet a = {};", "1 ?? ".repeat(20_000)),
        format!("print(\"ran\");\nlet a = \"{}", "a".repeat(100_000)),
    ] {
        let ran = run(&script, "plan.rhai");
        assert_eq!(ran.status, 2, "{}…\n{}", &script[..60], ran.stderr.chars().take(600).collect::<String>());
        assert!(!ran.stdout.contains("ran"), "{}", ran.stdout);
        let checked = run(&script, "check plan.rhai");
        assert_eq!(checked.status, 2, "{}…", &script[..60]);
    }
}

#[test]
fn script_that_exhausts_the_memory_is_stopped_with_its_line() {
    for script in [
        "let text = \"x\";\nloop { text += text; }",
        "let text = \"x\";\ntext.pad(9_000_000_000, \"y\");",
        "let a = [];\na.pad(9_000_000_000, 1);",
        "let a = [1];\nloop { a = [a, a]; }",
        "let a = [1];\nloop { a += a; }",
        "let m = #{ a: 1 };\nloop { m = #{ a: m, b: m }; }",
        "let b = blob(9_000_000_000);",
        "let b = blob(10_000);\nloop { b += b; }",
        // Many values, each within the limit.
        "let all = [];\nlet text = \"x\"; for n in 0..23 { text += text; }\nfor n in range(0, 90_000) { all.push(text + n); }",
        "fn f(n, text) { let more = text + n; let other = text + more.len(); if n > 0 { f(n - 1, more) } }\nlet text = \"x\";\nfor n in 0..23 { text += text; }\nf(120, text);",
        "let m = #{};\nlet text = \"x\"; for n in 0..23 { text += text; }\nfor n in range(0, 90_000) { m[`k${n}`] = text + n; }",
        // One call that would make an immense string of two large ones.
        "let a = \"x\"; for n in 0..23 { a += a; }\nlet b = a + \"\";\na.replace(\"x\", b);\nprint(a.len());",
        "let a = \"x\"; for n in 0..23 { a += a; }\nlet b = a + \"\";\na.replace('x', b);\nprint(a.len());",
        "let a = \"x\"; for n in 0..23 { a += a; }\ntext::replace(a, \"x\", a);",
        "let a = \"x\"; for n in 0..23 { a += a; }\nlet d = \"$0\"; for n in 0..22 { d += d; }\ntext::replace(a, \".*\", d);",
        "let a = \"x,\"; for n in 0..22 { a += a; }\na.split(\",\");\na.split();\na.to_chars();",
        "let a = [1]; a.pad(90_000, 1);\nlet b = a.map(|x| a);",
        "let a = [1]; a.pad(90_000, 1);\nlet t = \"x\"; for n in 0..23 { t += t; }\nlet b = a.map(|x| t + x);",
        "let a = [1, 2];\nlet f = || a;\na.push(a);\na.push(f);\nprint(a);\nlet b = a == a;\nloop { a.push(a); }",
    ] {
        let ran = run(script, "plan.rhai");
        assert_eq!(ran.status, 1, "{script}\n{}", ran.page().chars().take(900).collect::<String>());
        // For a value that contains itself, Rhai reports no line.
        let place = if ran.stderr.contains("Data race") { "in plan.rhai" } else { "plan.rhai:" };
        assert!(ran.stderr.contains(place), "{script}\n{}", ran.page());
    }
}

#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    run("let a = [];\nfor n in range(0, 5_000) { a = [a]; }\nprint(a.len());", "plan.rhai")
        .ends(0)
        .prints("1\n");
    run("let a = 1;\nfor n in range(0, 3_000) { a = #{ a: a }; }\nprint(a.len());\n`${a}`;", "plan.rhai")
        .ends(0);
    let ran = run("let a = [];\nfor n in range(0, 3_000) { a = [a]; }\ntext::json_text(a);", "plan.rhai");
    assert!([0, 1].contains(&ran.status), "{}", ran.page());
}

#[test]
fn settings_cannot_exhaust_the_machine() {
    for settings in [
        "let a = \"x\"; loop { a += a; }",
        "fn f() { f() } f();",
        "let all = [];\nlet text = \"x\"; for n in 0..23 { text += text; }\nfor n in range(0, 90_000) { all.push(text + n); }\n#{ a: 1 }",
        "#{ a: \"{a}\" }",
        "#{ a: \"{b}{b}{b}{b}{b}{b}{b}{b}{b}{b}\", b: \"{c}{c}{c}{c}{c}{c}{c}{c}{c}{c}\", c: \"{d}{d}{d}{d}{d}{d}{d}{d}{d}{d}\", d: \"{e}{e}{e}{e}{e}{e}{e}{e}{e}{e}\", e: \"{f}{f}{f}{f}{f}{f}{f}{f}{f}{f}\", f: \"{g}{g}{g}{g}{g}{g}{g}{g}{g}{g}\", g: \"{h}{h}{h}{h}{h}{h}{h}{h}{h}{h}\", h: \"{i}{i}{i}{i}{i}{i}{i}{i}{i}{i}\", i: \"0123456789\" }",
        "eval(\"1\")",
        "import \"one\" as one; #{ a: 1 }",
    ] {
        let place = Place::new("print(settings::a);").with("plan/settings.rhai", settings);
        let ran = run_in(&place, "plan.rhai");
        assert_eq!(ran.status, 2, "{settings}\n{}", ran.page());
        assert!(ran.stderr.contains("setting"), "{settings}\n{}", ran.page());
    }
}

#[test]
fn nothing_is_imported_from_outside_or_in_a_cycle() {
    let outside = Place::empty().with("m/outside.rhai", "fn f() { 1 }");
    let absolute = outside.path("m/outside").display().to_string();
    for name in [
        "../m/outside",
        "..",
        ".",
        "",
        "/etc/passwd",
        &absolute,
        "std/../../m/outside",
        "./words",
        "words/../words",
        "a\\0b",
        "std/",
    ] {
        let place = Place::new(&format!("import \"{name}\" as one;\nprint(\"ran\");"))
            .with("plan/words.rhai", "fn f() { 1 }")
            .with("m/outside.rhai", "fn f() { 1 }");
        let ran = run_in(&place, "plan.rhai");
        assert!([1, 2].contains(&ran.status) && !ran.stdout.contains("ran"), "{name}: {}", ran.page());
        assert!(ran.stderr.contains("plan.rhai:1:"), "{name}: {}", ran.page());
    }
    let place = Place::new("import \"one\" as one;\nprint(one::f());")
        .with("plan/one.rhai", "import \"two\" as two;\nfn f() { two::f() }")
        .with("plan/two.rhai", "import \"three\" as three;\nfn f() { three::f() }")
        .with("plan/three.rhai", "import \"one\" as one;\nfn f() { one::f() }");
    let ran = run_in(&place, "plan.rhai");
    assert!([1, 2].contains(&ran.status), "{}", ran.page());
    ran.says("cycle").says(".rhai:1:");
    run_in(&Place::new("import \"plan\" as me;\nprint(1);"), "plan.rhai").says("cycle");
    // At run time, with a name that no check can know.
    let place = Place::new("let name = \"../m/outside\";\nimport name as one;")
        .with("m/outside.rhai", "fn f() { 1 }");
    let ran = run_in(&place, "plan.rhai");
    assert!([1, 2].contains(&ran.status), "{}", ran.page());
    ran.says("plan.rhai:2:");
}

#[test]
fn script_runs_no_code_that_was_not_checked() {
    for (script, said) in [
        ("let x = 1;\neval(\"print(2)\");", "eval"),
        ("let f = Fn(\"eval\");\nf.call(\"print(2)\");", "eval"),
        ("call(\"eval\", \"1\");", ""),
        ("fn print(text) { 1 }\nprint(1);", "print"),
        ("fn confirm(question) { true }\nexit();", "exit"),
        ("exit(0);", "exit"),
        ("throw \"on purpose\";", "on purpose"),
        ("throw;", ""),
        ("throw #{ failure: 99999, message: \"forged\" };", ""),
        ("throw #{ failure: -1 };", ""),
    ] {
        let ran = is_refused(script);
        assert!(ran.stderr.contains(said), "{script}\n{}", ran.page());
    }
}

#[test]
fn failed_change_fails_its_step_whatever_the_script_catches() {
    for attempt in [
        "try { FAIL } catch { }",
        "try { FAIL } catch (error) { log::info(error.message); }",
        "try { [1].for_each(|x| { FAIL }); } catch { }",
        "let failed = || { FAIL };\ntry { failed.call(); } catch { }",
        "try { try { FAIL } catch { throw \"another\"; } } catch { }",
    ] {
        let attempt = attempt.replace("FAIL", "file::write(\"@/m/none/file\", \"\");");
        let place = Place::new(&format!(
            "step::run(\"01\", \"First\", || {{\n{attempt}\nfile::write(\"@/m/after\", \"\");\n}});\nstep::run(\"02\", \"Second\", || print(\"ran\"));"
        ));
        let ran = place.run("plan.rhai").ends(1);
        assert!(
            !ran.stdout.contains("ran") && !place.records().contains(&"step_completed".to_owned()),
            "{}",
            ran.page()
        );
        ran.says("m/none`").says("plan.rhai:2:");
        std::fs::create_dir(place.path("m/none")).unwrap();
        place.run("plan.rhai").ends(0).prints("ran\n");
    }
    // Reading may be caught.
    run("try { file::read(\"/nonexistent\"); } catch (error) { print(error.kind); }", "plan.rhai")
        .ends(0)
        .prints("missing\n");
}

/// Runs kkrun with primitives that panic, in this process: it records its exit status for the parent.
fn run_with_faulty_primitives(arguments: &str) {
    use kkrun::script::{Raised, Registration, act, look};
    use rhai::NativeCallContext;
    fn register(engine: &mut rhai::Engine) {
        (kkrun::primitives::REGISTRATION.register)(engine);
        let mut module = rhai::Module::new();
        module.set_native_fn("look", |context: NativeCallContext, text: &str| -> Raised<i64> {
            look(&context, |_| panic!("a fault with {text}"))
        });
        module.set_native_fn("act", |context: NativeCallContext, text: &str| -> Raised<i64> {
            act(&context, |_| panic!("a fault with {text}"))
        });
        module.set_native_fn("bare", |text: &str| -> Raised<i64> { panic!("a fault with {text}") });
        engine.register_static_module("fault", module.into());
    }
    kkrun::panicking::keep_quiet();
    let arguments = std::iter::once("kkrun").chain(arguments.split(' ')).map(Into::into);
    let cli = kkrun::cli::Cli::of(arguments).unwrap();
    let reporter = kkrun::commands::reporter(&cli.options);
    let mut launch = kkrun::config::launch(&cli.options, "kkrun plan.rhai").unwrap();
    std::rc::Rc::get_mut(&mut launch).unwrap().register =
        Registration { register, ..kkrun::primitives::REGISTRATION };
    let outcome = kkrun::plan::run_script(&launch, std::path::Path::new("plan.rhai"), Vec::new(), &reporter);
    let error = reporter.without_secrets_of(outcome.unwrap_err());
    kkrun::ui::show(&error);
    let status = kkrun::commands::exit_of(&error).0;
    std::fs::write(std::env::var("KKRUN_TEST_STATUS").unwrap(), status.to_string()).unwrap();
}

#[test]
fn panic_in_a_primitive_is_a_failure_at_its_line_without_a_secret() {
    // The test is its own child, so that no test passes without having been run.
    if let Ok(arguments) = std::env::var(FAULT) {
        return run_with_faulty_primitives(&arguments);
    }
    for call in ["look", "act", "bare"] {
        let canary = "canary-of-the-panic-4711";
        let place = Place::new(&format!(
            "step::run(\"01\", \"First\", || {{\n    file::write(\"@/m/a\", secret::ask(\"pin\", \"Pin\"));\n    \
             let text = file::read(\"@/m/a\");\n    try {{ fault::{call}(text); }} catch {{ print(\"caught\"); }}\n}});"
        ));
        let mut command = Command::new(std::env::current_exe().unwrap());
        let own_name = "abuse::panic_in_a_primitive_is_a_failure_at_its_line_without_a_secret";
        command.args(["--exact", own_name, "--nocapture"]).current_dir(place.path("plan"));
        let arguments = format!("--state-dir {} plan.rhai", place.path("state").display());
        command.env(FAULT, arguments).env("KKRUN_TEST_STATUS", place.path("status"));
        command.env("KKRUN_SECRET_PIN", canary).env("NO_COLOR", "1").stdin(Stdio::null());
        let output = command.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("internal error: a fault with «secret:pin»"), "{call}: {said}");
        if call != "bare" {
            assert!(said.contains("plan.rhai:4:"), "{call}: {said}");
        }
        assert!(!said.contains("\ncaught") && !said.contains(canary), "{call}: {said}");
        assert_eq!(place.read("status"), "1", "{said}");
        assert_eq!(place.records().last().map(String::as_str), Some("run_ended"));
        assert!(place.records().contains(&"step_failed".to_owned()));
        for path in ["journal", "logs"] {
            let found = Command::new("grep")
                .args(["-r", canary])
                .arg(place.path("state").join(path))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{call}");
        }
        place.run("rollback").ends(0);
        assert!(!place.exists("m/a"));
    }
}
