//! Reads a script and everything that belongs to it, and finds what is wrong before anything is run.

mod arguments;
mod calls;
mod captured;
mod leak;
mod passed;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rhai::{ASTFlags, ASTNode, Expr, FnAccess, Position, Stmt};

use super::engine::Engine;
use super::graph::{Graph, Visited, key_of};
use super::host::Host;
use super::plan::{self, Plan};
use super::program::{Import, Program};
use super::recovery::recovered;
use super::requirements::Requirements;
use super::source::LIBRARY;
use super::vocabulary::Vocabulary;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, sentence};

/// What a check found.
#[derive(Default)]
pub struct Checked {
    /// The steps, if the script is a plan.
    pub plan: Plan,
    /// What any of its scripts requires.
    pub requirements: Requirements,
    /// The names of the scripts that were read.
    pub scripts: BTreeSet<String>,
    /// The problems, in the order of reading.
    pub problems: Vec<Failure>,
}

/// Checks the script behind `key`; the scripts of its steps, if it is a plan; and all that they import.
pub fn check(engine: &Engine, key: &str) -> Checked {
    let mut checker = Checker {
        engine: engine.rhai(),
        host: engine.host(),
        graph: engine.host().scripts(),
        vocabulary: Vocabulary::of(engine.rhai(), engine.registration()),
        seen: BTreeSet::new(),
        checked: Checked::default(),
    };
    if let Some(program) = checker.read(key, None) {
        checker.plan(key, &program);
    }
    checker.checked
}

/// What a module gives to the scripts that import it.
#[derive(Default)]
struct Exports {
    /// The functions, each with its numbers of parameters and whether they are private.
    functions: BTreeMap<String, Vec<(usize, bool)>>,
    constants: BTreeSet<String>,
    /// What their parameters take.
    taken: passed::Functions,
}

struct Checker<'engine> {
    engine: &'engine rhai::Engine,
    host: &'engine Host,
    graph: &'engine Graph,
    vocabulary: Vocabulary,
    /// The scripts that were visited.
    seen: BTreeSet<String>,
    checked: Checked,
}

impl Checker<'_> {
    fn plan(&mut self, key: &str, program: &Rc<Program>) {
        let (plan, problems) = Plan::read(program);
        self.checked.problems.extend(problems);
        self.script(key, program, &plan::declared_at(program));
        for step in &plan.steps {
            let Some(script) = step.script.as_ref().filter(|script| !self.seen.contains(*script)) else {
                continue;
            };
            if let Some(program) = self.read(script, Some((program, step.position))) {
                self.script(script, &program, &BTreeSet::new());
            }
            self.seen.insert(script.clone());
        }
        self.checked.plan = plan;
    }

    /// The script behind `key`; if it does not compile, what is left of it without its errors.
    fn read(&mut self, key: &str, asked_at: Option<(&Program, Position)>) -> Option<Rc<Program>> {
        match self.graph.program(self.engine, key) {
            Ok(program) => Some(program),
            Err(error) => self.recovered(key, error, asked_at),
        }
    }

    /// Reports why the script behind `key` cannot be read, and returns what is left of it without its errors.
    fn recovered(
        &mut self,
        key: &str,
        error: anyhow::Error,
        asked_at: Option<(&Program, Position)>,
    ) -> Option<Rc<Program>> {
        let text = self.graph.text(key).ok();
        let (problems, program) = text.map(|text| recovered(self.engine, &text)).unwrap_or_default();
        if problems.is_empty() {
            self.report(error, asked_at);
            return None;
        }
        self.checked.problems.extend(problems);
        program.map(Rc::new)
    }

    /// Checks one script and what it imports. `declared` are the places at which it declares steps.
    fn script(&mut self, key: &str, program: &Rc<Program>, declared: &BTreeSet<(usize, usize)>) {
        let (requirements, problems) = Requirements::read(program);
        self.checked.requirements.root |= requirements.root;
        self.checked.problems.extend(problems);
        let (mut seen, nowhere) = (std::mem::take(&mut self.seen), BTreeSet::new());
        let (graph, engine) = (self.graph, self.engine);
        graph.visit(engine, (key, program), &mut seen, &mut |visited| match visited {
            Visited::Script { key: visited, program } => {
                self.file(program, if visited == key { declared } else { &nowhere });
            }
            Visited::Unreadable { by, import, error } => self.unreadable(by, import, error),
            Visited::Circle { by, import, message } => {
                self.checked.problems.push(by.problem(import.position, message));
            }
        });
        self.seen = seen;
    }

    fn file(&mut self, program: &Program, declared: &BTreeSet<(usize, usize)>) {
        self.checked.scripts.insert(program.name.clone());
        let scope = self.scope(program);
        let mut problems = calls::problems(self, program, &scope, declared);
        problems.extend(leak::problems(&self.vocabulary, program));
        problems.extend(captured::problems(program));
        problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
        self.checked.problems.extend(problems);
    }

    fn scope(&self, program: &Program) -> Scope {
        let mut scope = Scope::default();
        for import in &program.parts(self.engine).imports {
            let module = import.module.as_ref().and_then(|path| self.graph.module(self.engine, path).ok());
            scope
                .imports
                .insert(import.alias.clone(), module.map(|module| exports(&self.vocabulary, &module)));
        }
        program.ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Expr(Expr::Map(map, _))) => {
                    scope.properties.extend(map.0.iter().map(|(key, _)| key.name.to_string()));
                }
                Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                    if let Expr::Dot(dot, ..) = &assignment.1.lhs
                        && let Expr::Property(property, _) = &dot.rhs
                    {
                        scope.properties.insert(property.2.to_string());
                    }
                }
                _ => {}
            }
            true
        });
        scope
    }

    fn unreadable(&mut self, by: &Program, import: &Import, error: Option<anyhow::Error>) {
        let (Some(path), Some(error)) = (&import.module, error) else {
            let message = "an import must name its module by a string literal";
            return self.checked.problems.push(by.problem(import.position, message));
        };
        let known = self.graph.source().modules();
        let misspelt = path.starts_with(LIBRARY) || !path.contains('/');
        let key = key_of(path);
        if !misspelt || known.contains(path) || self.graph.text(&key).is_ok() {
            let asked_at = Some((by, import.position));
            if let Some(program) = self.recovered(&key, error, asked_at) {
                self.file(&program, &BTreeSet::new());
            }
            return;
        }
        let failure = by.problem(import.position, format!("unknown module `{path}`"));
        self.checked.problems.push(match crate::text::nearest(path, known.iter().map(String::as_str)) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => failure,
            None => failure.hint(format!("known modules: `{}`", known.join("`, `"))),
        });
    }

    /// Adds the reason why a script cannot be read. A reason without a place gets the place of the import or step.
    fn report(&mut self, error: anyhow::Error, asked_at: Option<(&Program, Position)>) {
        let exit = crate::failure::exit_code(&error);
        let message = sentence(&error);
        let mut failure = error.downcast::<Failure>().unwrap_or_else(|_| Failure::new(message));
        if let (None, Some((asking, position))) = (&failure.place, asked_at) {
            failure.place = asking.problem(position, "").place;
        }
        failure.exit = if exit == ExitCode::REFUSED { exit } else { ExitCode::USAGE };
        self.checked.problems.push(failure);
    }
}

/// What the calls within a script can reach besides what is registered.
#[derive(Default)]
struct Scope {
    /// Modules by alias; none for one that cannot be read.
    imports: BTreeMap<String, Option<Exports>>,
    /// The names of properties that are set anywhere: a call of such a name may call a closure in a map.
    properties: BTreeSet<String>,
}

fn exports(vocabulary: &Vocabulary, program: &Program) -> Exports {
    let mut exports = Exports { taken: passed::functions(vocabulary, program), ..Exports::default() };
    for function in program.ast.iter_fn_def() {
        let private = function.access == FnAccess::Private;
        exports
            .functions
            .entry(function.name.to_string())
            .or_default()
            .push((function.params.len(), private));
    }
    for statement in program.ast.statements() {
        match statement {
            Stmt::Var(variable, flags, _) if flags.intersects(ASTFlags::EXPORTED) => {
                exports.constants.insert(variable.0.name.to_string());
            }
            Stmt::Export(names, _) => {
                let name = if names.1.name.is_empty() { &names.0.name } else { &names.1.name };
                exports.constants.insert(name.to_string());
            }
            _ => {}
        }
    }
    exports
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::change::testing;
    use crate::journal::History;
    use crate::primitives::REGISTRATION;
    use crate::script::{Script, Settings, Source};
    use crate::session::Session;

    /// What is wrong with a plan of these files, the first of which is its script: `FILE:LINE:COLUMN message`,
    /// and the hints behind arrows. Modules are named as they are imported.
    fn reported(files: &[(&str, &str)]) -> Vec<String> {
        let state = tempfile::tempdir().unwrap();
        let nowhere = PathBuf::from("/nonexistent/plan");
        let source = Source::Directory { shown: nowhere.clone(), root: nowhere };
        let session = Session::new(testing::world(state.path()), History::default(), "test");
        let settings =
            Script { name: "settings.rhai".into(), text: "#{ db_name: \"cats\", port: 80 }".into() };
        let settings = Settings::of(Some(&settings), &[], &BTreeMap::new()).unwrap();
        let host = Host::new(session, source, settings, Vec::new());
        let engine = Engine::new(Rc::clone(&host), REGISTRATION);
        for (name, text) in files {
            let script = Script { name: (*name).to_owned(), text: (*text).to_owned() };
            host.scripts().keep(&key_of(name), script.clone());
            host.scripts().keep(name, script);
        }
        check(&engine, files[0].0).problems.iter().map(shown).collect()
    }

    fn shown(failure: &Failure) -> String {
        assert_eq!(failure.exit, ExitCode::USAGE);
        let place = failure.place.as_ref().unwrap();
        let mut text = format!("{}:{}:{} {}", place.file, place.line, place.column, failure.message);
        for hint in &failure.hints {
            text.push_str(" → ");
            text.push_str(hint);
        }
        text
    }

    #[test]
    fn what_is_right_passes() {
        let module = "export const HERE = 1; fn twice(x) { helper(x) * 2 } private fn helper(x) { x }";
        let step = "//! A step.\n\
            import \"std/module\" as other;\n\
            const REQUIRES = #{ root: true };\n\
            let password = secret::generate(\"db\");\n\
            let client = #{ password: password, host: settings::db_name };\n\
            let sum = other::twice(other::HERE) + own(settings::port);\n\
            let names = [1, 2].map(|x| x + sum).filter(|x| x > 2);\n\
            let greeter = #{ greet: |x| x };\n\
            greeter.greet(1);\n\
            cmd::run([\"true\"], #{ always: \"because\" } + #{ env: #{ PW: password } });\n\
            print(`${names.len()} ${client.host}`);\n\
            fn own(x) { global::REQUIRES; x.to_string().len() }\n";
        assert_eq!(
            reported(&[
                ("plan.rhai", "step::run(\"01\", \"One\", \"step.rhai\");"),
                ("step.rhai", step),
                ("std/module", module),
            ]),
            [""; 0]
        );
    }

    #[test]
    fn unknown_names_are_told_with_the_nearest() {
        assert_eq!(
            reported(&[(
                "a.rhai",
                "file::wriet(\"/a\", \"b\");\n\
                 fiel();\n\
                 let x = settings::db_nam;\n\
                 x.lenn();\n\
                 own(1, 2);\n\
                 file::read();\n\
                 exists(\"/x\");\n\
                 x.len(1, 2);\n\
                 fn own(a) { global::NONE }"
            )]),
            [
                "a.rhai:1:7 unknown function `file::wriet` → did you mean `file::write`?",
                "a.rhai:2:1 unknown function `fiel` → did you mean `find`?",
                "a.rhai:3:19 unknown setting `db_nam` → did you mean `settings::db_name`?",
                "a.rhai:4:3 unknown method `lenn` → did you mean `len`?",
                "a.rhai:5:1 `own` takes 1 argument, not 2",
                "a.rhai:6:7 `file::read` does not take 0 arguments → file::read(path: string) -> string",
                "a.rhai:7:1 unknown function `exists` → did you mean `file::exists`?",
                "a.rhai:8:3 the method `len` does not take 2 arguments",
                "a.rhai:9:21 unknown constant `NONE` in this script",
            ]
        );
    }

    #[test]
    fn what_does_not_compile_is_told_in_plain_words() {
        assert_eq!(
            reported(&[("a.rhai", "let name = 1;\nprint(nmae);")]),
            ["a.rhai:2:7 unknown variable `nmae` → did you mean `name`?"]
        );
        assert_eq!(
            reported(&[("a.rhai", "fille::read(\"/x\");")]),
            ["a.rhai:1:1 unknown namespace `fille` → did you mean `file`?"]
        );
        assert!(reported(&[("a.rhai", "eval(\"1\");")])[0].starts_with("a.rhai:1:1 `eval` is not allowed"));
        assert_eq!(reported(&[("a.rhai", "let x = ;")]).len(), 1);
    }

    #[test]
    fn all_mistakes_of_all_files_are_told_at_once() {
        assert_eq!(
            reported(&[
                (
                    "a.rhai",
                    "import \"mod\" as m;\nimport \"nowhere\" as n;\nlet x = 1\nlet y = 2;\nprint(nmae);\nlet z = (1;\n\
                     fille::read(\"/x\");\nfile::wriet(z);\nstep::run(\"01\", \"A\", \"step.rhai\");"
                ),
                ("mod", "fn f() { g( }\nfn h() { print(zz) }"),
                ("step", "let a = ;\nfile::read(5);"),
            ])
            .iter()
            .map(|line| line.split(" → known modules").next().unwrap())
            .collect::<Vec<_>>(),
            [
                "a.rhai:3:9 expected `;` after this, at the end of the statement",
                "a.rhai:5:7 unknown variable `nmae`",
                "a.rhai:6:11 syntax error: Expecting ')' for a matching ( in this expression",
                "a.rhai:7:1 unknown namespace `fille` → did you mean `file`?",
                "mod:1:13 syntax error: Unexpected '}'",
                "mod:2:16 unknown variable `zz`",
                "a.rhai:2:8 unknown module `nowhere`",
                "a.rhai:8:7 unknown function `file::wriet` → did you mean `file::write`?",
                "step:1:9 syntax error: Unexpected ';'",
                "step:2:12 `file::read`: expected a string as argument 1, found an integer → file::read(path: string) -> string",
            ]
        );
    }

    #[test]
    fn imports_are_checked_with_what_they_import() {
        let module = "import \"other\" as other; fn shown() { other::hidden(); other::gone(); nothing() }";
        assert_eq!(
            reported(&[
                (
                    "a.rhai",
                    "import \"mod\" as m;\nm::shwon();\nm::shown(1);\nm::X;\nlet n = \"x\";\nimport n as y;"
                ),
                ("mod", module),
                ("other", "private fn hidden() {}"),
            ]),
            [
                "mod:1:46 `other::hidden` is private to its module",
                "mod:1:63 unknown function `other::gone`",
                "mod:1:71 unknown function `nothing`",
                "a.rhai:6:1 an import must name its module by a string literal",
                "a.rhai:2:4 unknown function `m::shwon` → did you mean `m::shown`?",
                "a.rhai:3:4 `m::shown` takes 0 arguments, not 1",
                "a.rhai:4:4 unknown constant `m::X`",
            ]
        );
    }

    #[test]
    fn an_import_that_is_unknown_outside_the_plan_or_in_a_cycle_is_refused() {
        let mut reported = reported(&[
            (
                "a.rhai",
                "import \"std/gti\" as g;\nimport \"../x\" as o;\nimport \"/etc/x\" as r;\nimport \"m\" as m;",
            ),
            ("m", "import \"n\" as n;"),
            ("n", "import \"m\" as m;"),
        ]);
        let cycle = reported.pop().unwrap();
        assert_eq!(cycle, "n:1:8 imports form a cycle: `m` → `n` → `m`");
        assert!(
            reported[0].starts_with("a.rhai:1:8 unknown module `std/gti` → did you mean `std/git`?"),
            "{reported:?}"
        );
        assert!(
            reported[1].starts_with("a.rhai:2:8 `../x.rhai` is outside the plan's directory"),
            "{reported:?}"
        );
        assert!(reported[2].starts_with("a.rhai:3:8 `/etc/x.rhai` is outside"), "{reported:?}");
        assert_eq!(reported.len(), 3);
    }

    #[test]
    fn unknown_options_in_literal_maps_are_reported() {
        assert_eq!(
            reported(&[(
                "a.rhai",
                "let more = #{};\n\
                 file::write(\"/a\", \"b\", #{ mod: \"0600\" });\n\
                 cmd::run([\"true\"], more + #{ unles: [\"x\"], always: \"y\" });\n\
                 config::set(\"/a\", #{ anything: 1 });\n\
                 step::verify(\"x\", || true, #{ within: 3, foo: 1 });"
            )]),
            [
                "a.rhai:2:27 `file::write` has no option `mod` → did you mean `mode`?",
                "a.rhai:3:30 `cmd::run` has no option `unles` → did you mean `unless`?",
                "a.rhai:5:42 `step::verify` has no option `foo` → known options: `within`, `holds`",
            ]
        );
    }

    #[test]
    fn elements_of_literal_arrays_and_options_that_must_be_given_are_checked() {
        assert_eq!(
            reported(&[(
                "a.rhai",
                "pkg::install([\"tree\", 5]);\n\
                 cmd::read([\"ls\", [\"-l\"], 5, 'c']);\n\
                 cmd::run([\"true\"], #{ label: \"x\" } + #{ user: \"kim\" });\n\
                 let more = #{};\n\
                 cmd::run([\"true\"], more + #{ user: \"kim\" });\n\
                 file::download(\"http://x\", \"/a\", #{ mode: \"0644\" });\n\
                 cmd::run([\"true\"]);"
            )]),
            [
                "a.rhai:1:23 `pkg::install`: expected a string in the array of argument 1, found an integer",
                "a.rhai:2:18 `cmd::read`: expected a string, an integer or a character in the array of argument 1, found an array",
                "a.rhai:3:20 `cmd::run` needs one of `creates`, `unless`, `always` or `capture` → `creates: path` names what it makes, `unless: […]` a command that succeeds when it is done → `capture: #{}` runs it apart and finds out whether it changes anything → `always: \"why\"` runs it every time that the step runs",
                "a.rhai:6:34 `file::download` needs `sha256`",
                "a.rhai:7:6 `cmd::run` does not take 1 argument → cmd::run(argv: array, options: map) -> output → `creates: path` names what it makes, `unless: […]` a command that succeeds when it is done → `capture: #{}` runs it apart and finds out whether it changes anything → `always: \"why\"` runs it every time that the step runs",
            ]
        );
    }

    #[test]
    fn arguments_of_functions_are_checked_by_what_they_are_passed_on_to() {
        let module = "fn place(path, entry) { file::write(path, entry.text); deeper(path); }\n\
             fn deeper(path) { file::exists(path) }\n\
             fn any(one, two) { if type_of(one) == \"string\" { file::read(one); } two.len() }\n\
             fn some(entry) { if \"a\" in entry { return entry.a; } entry.b }\n\
             fn later(path) { [1].map(|x| file::read(path)); file::exists(path) }";
        assert_eq!(
            reported(&[
                (
                    "a.rhai",
                    "import \"mod\" as m;\n\
                     m::place(5, #{ text: \"x\" });\n\
                     m::place(\"/a\", #{ txt: \"x\" });\n\
                     m::place(\"/a\", \"x\");\n\
                     m::deeper([]);\n\
                     m::any(5, \"x\");\n\
                     m::some(#{});\n\
                     m::later(5);\n\
                     own(`${1}`, true);\n\
                     own(1, ());\n\
                     fn own(number, path) { file::read(path); number + 1 }"
                ),
                ("mod", module),
            ]),
            [
                "a.rhai:2:10 `m::place`: expected a string as argument 1 (`path`), found an integer",
                "a.rhai:3:16 `m::place`: the map `entry` lacks the key `text`",
                "a.rhai:4:16 `m::place`: expected a map as argument 2 (`entry`), found a string",
                "a.rhai:5:11 `m::deeper`: expected a string as argument 1 (`path`), found an array",
                "a.rhai:8:10 `m::later`: expected a string as argument 1 (`path`), found an integer",
                "a.rhai:9:13 `own`: expected a string as argument 2 (`path`), found a boolean",
            ]
        );
    }

    #[test]
    fn literal_arguments_are_checked_by_their_type() {
        assert_eq!(
            reported(&[(
                "a.rhai",
                "file::write(\"/a\", 5);\n\
                 file::write([\"/a\"], \"b\");\n\
                 pkg::install(\"tree\");\n\
                 cmd::test(`ls ${1}`);\n\
                 step::run(\"01\", \"A\", 1);\n\
                 config::set(\"/a\", \"k\", [1]);\n\
                 unit::stable(\"a.service\", \"3\");\n\
                 file::copy(\"files/none\", \"/b\");\n\
                 if file::exists(\"files/other\") { file::copy(\"files/other\", \"/b\"); }\n\
                 try { file::read(\"files/none\"); } catch {}"
            )])
            .iter()
            .map(|line| line.split(" → ").next().unwrap())
            .collect::<Vec<_>>(),
            [
                "a.rhai:1:19 `file::write`: expected a secret or a string as argument 2, found an integer",
                "a.rhai:2:13 `file::write`: expected a string as argument 1, found an array",
                "a.rhai:3:14 `pkg::install`: expected an array as argument 1, found a string",
                "a.rhai:4:11 `cmd::test`: expected an array as argument 1, found a string",
                "a.rhai:5:22 `step::run`: expected a closure or a string as argument 3, found an integer",
                "a.rhai:6:24 `config::set`: expected a string, a number, a bool or a secret as a value in `/a`, found an array",
                "a.rhai:7:27 `unit::stable`: expected a float or an integer as argument 2, found a string",
                "a.rhai:8:12 `file::copy`: `files/none` not found in the plan",
            ]
        );
    }

    #[test]
    fn literal_options_are_checked_by_type_and_value() {
        assert_eq!(
            reported(&[(
                "a.rhai",
                "let x = \"06\";\n\
                 file::write(\"/a\", \"b\", #{ mode: 0600 });\n\
                 file::write(\"/a\", \"b\", #{ mode: 0o640 });\n\
                 file::make_dir(\"/a\", #{ mode: \"0900\" });\n\
                 user::ensure(\"kim\", #{ groups: \"sudo\" });\n\
                 user::ensure(\"kim\", #{ groups: `s${x}` });\n\
                 cmd::run([\"a\"], #{ always: true, timeout: \"3\", env: [] });\n\
                 file::access(\"/a\", #{ mode: \"g+q\" });\n\
                 file::write(\"/a\", \"b\", #{ mode: `${x}40` } + #{ owner: 0 });\n\
                 file::access(\"/a\", #{ mode: \"g-w\", owner: x });\n\
                 cmd::run([\"a\"], #{ unless: || true, timeout: 0.5, ok_codes: [0, 1], stdin: \"x\" });"
            )]),
            [
                "a.rhai:2:33 `file::write`: option `mode`: expected three or four octal digits as a string, such as \"0640\", found integer `600` → write `\"0600\"`",
                "a.rhai:3:33 `file::write`: option `mode`: expected three or four octal digits as a string, such as \"0640\", found integer `416` → write `\"0640\"`",
                "a.rhai:4:31 `file::make_dir`: option `mode`: expected three or four octal digits as a string, such as \"0640\", found string \"0900\"",
                "a.rhai:5:32 `user::ensure`: option `groups`: expected an array, found string \"sudo\" → write `groups: [\"sudo\"]`",
                "a.rhai:6:32 `user::ensure`: option `groups`: expected an array, found a string",
                "a.rhai:7:28 `cmd::run`: option `always`: expected a string, found boolean `true`",
                "a.rhai:7:43 `cmd::run`: option `timeout`: expected a number of seconds, found string \"3\"",
                "a.rhai:7:53 `cmd::run`: option `env`: expected a map, found an array",
                "a.rhai:8:29 `file::access`: option `mode`: expected a mode as a string, such as \"0640\" or \"u=rwX,go=rX\", found string \"g+q\"",
                "a.rhai:9:56 `file::write`: option `owner`: expected a string, found integer `0`",
            ]
        );
    }

    #[test]
    fn functions_do_not_take_the_place_of_built_in_ones() {
        assert_eq!(
            reported(&[("a.rhai", "let a = 1;\n  private fn push(a, b) {}\nfn push(a, b, c) {}")]),
            [
                "a.rhai:2:3 the function `push` with 2 parameters would replace the built-in one → give it another name"
            ]
        );
    }

    /// What a step may not change in the plan is reported where it is changed.
    fn changed_at(plan: &str) -> Vec<String> {
        let reported = reported(&[("plan.rhai", plan)]);
        for line in &reported {
            assert!(line.contains(" cannot change `"), "{line}");
            assert!(line.contains(" → `let "), "{line}");
        }
        reported
            .iter()
            .map(|line| line.split(", a variable").next().unwrap().replace("plan.rhai:", ""))
            .collect()
    }

    #[test]
    fn step_does_not_change_what_other_steps_read() {
        // The variable behind § is what is changed.
        for (body, changed) in [
            ("§port = 9001", "port"),
            ("§port += 1", "port"),
            ("if port == 80 { §port = 1 }", "port"),
            ("while true { §port -= 1; }", "port"),
            ("for x in list { §port = x; }", "port"),
            ("try { §port = 1 } catch (e) { print(e) }", "port"),
            ("switch port { 80 => §list.clear(), _ => () }", "list"),
            ("let x = { §port = 1; 2 }; print(x)", "port"),
            ("§port = 1; let port = 2; port = 3", "port"),
            ("{ let port = 2; } §port = 3", "port"),
            ("§list[0] = 2", "list"),
            ("§cfg.port = 2", "cfg"),
            ("§cfg.more[0].deep += 2", "cfg"),
            ("§cfg[\"port\"] = 2", "cfg"),
            ("§list.push(1)", "list"),
            ("push(§list, 1)", "list"),
            ("§cfg.more.insert(0, 1)", "cfg"),
            ("print(§list.pop())", "list"),
            ("§cfg.remove(\"port\")", "cfg"),
            ("§list.sort()", "list"),
            ("§cfg.set_port(1)", "cfg"),
            ("§cfg.raise()", "cfg"),
            ("[1].for_each(|x| §port += x)", "port"),
            ("let change = || { §list.push(1) }; change.call()", "list"),
        ] {
            let step = format!("step::run(\"01\", \"A\", || {{ {body}; }});");
            let column = step.find('§').unwrap() + 1;
            let plan = format!(
                "let port = 80; let list = [1]; let cfg = #{{ port: 80, more: [], raise: || this.port += 1 }};\n\
                 {}\nfn set_port(port) {{ this.port = port; }}",
                step.replace('§', "")
            );
            assert_eq!(changed_at(&plan), [format!("2:{column} cannot change `{changed}`")], "{body}");
        }
    }

    #[test]
    fn closure_that_a_step_calls_does_not_change_the_plan_either() {
        let reported = changed_at(
            "let port = 80;\nlet raise = || port += 1;\nlet tools = #{ lower: || port -= 1 };\nlet step = || port = 2;\n\
             step::run(\"01\", \"A\", || raise.call());\nstep::run(\"02\", \"B\", || tools.lower());\n\
             step::run(\"03\", \"C\", step);\nstep::once(\"k\", || port = 3);\n\
             cmd::run([\"a\"], #{ always: \"b\", undo: || { port = 4; [] } });",
        );
        let places: Vec<&str> = reported.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(places, ["2:16", "3:26", "4:15", "8:20", "9:44"], "{reported:?}");
    }

    #[test]
    fn step_may_change_what_is_its_own() {
        let body = "let own = port; own += 1; let copy = list; copy.push(own); cfg.more.len(); list.filter(|x| x > 1).push(2);\n\
            for port in list { port += 1; } for (x, list) in cfg.more { list += x; } let port = 1; port = 2;\n\
            try { throw 1 } catch (cfg) { cfg += 1; } [1].for_each(|list| list += 1); list.map(|x| x + 1);\n\
            let sum = 0; list.for_each(|x| sum += x); let cfg = #{}; cfg.a = 1; while sum > 0 { sum -= 1; let list = []; list.push(1); }\n\
            list.contains(1); let f = |x| { x.push(1); x }; f.call(list); taken(list);";
        let plan = format!(
            "let port = 80; let list = [1]; let cfg = #{{ more: [] }}; let sum = 0;\n\
             list.for_each(|x| sum += x); sum += 1; list.push(sum);\n\
             step::run(\"01\", \"A\", || {{ {body} }});\nport = 81;\n\
             step::run(\"02\", \"B\", || file::write(\"/x\", `${{port}}`));\n\
             fn taken(list) {{ list.push(1); }}"
        );
        assert_eq!(reported(&[("plan.rhai", &plan)]), [""; 0]);
    }

    #[test]
    fn steps_are_declared_at_the_top_once_and_literally() {
        let reported = reported(&[
            (
                "plan.rhai",
                "step::run(\"01\", \"One\", || 1);\n\
                 step::run(\"01\", \"Two\", || 1);\n\
                 let id = \"03\";\n\
                 step::run(id, \"Three\", || 1);\n\
                 if id == \"03\" { step::run(\"04\", \"Four\", || 1); }\n\
                 step::run(\"05\", \"Five\", \"five.rhai\");\n\
                 step::run(\"06\", \"Six\", \"six.rhai\");",
            ),
            ("five.rhai", "step::run(\"07\", \"Seven\", || 1);"),
        ]);
        assert_eq!(reported[0], "plan.rhai:2:7 the step id `01` is used twice, first in line 1");
        assert_eq!(reported[1], "plan.rhai:4:7 step::run needs its id as a non-empty string literal");
        assert!(
            reported[2].starts_with("plan.rhai:5:23 `step::run` must be called at the top level of a plan"),
            "{reported:?}"
        );
        assert!(
            reported[3].starts_with("five.rhai:1:7 `step::run` must be called at the top"),
            "{reported:?}"
        );
        assert!(reported[4].starts_with("plan.rhai:7:7 script `"), "{reported:?}");
        assert_eq!(reported.len(), 5, "{reported:?}");
    }

    #[test]
    fn what_a_script_requires_is_a_literal() {
        assert_eq!(
            reported(&[("a.rhai", "const REQUIRES = #{ rot: true, root: 1 };")]),
            [
                "a.rhai:1:21 unknown key `rot` of `REQUIRES` → known keys: `root`",
                "a.rhai:1:32 `REQUIRES.root` must be true or false"
            ]
        );
        assert_eq!(reported(&[("a.rhai", "let x = true;\nconst REQUIRES = x;")]).len(), 1);
        assert_eq!(reported(&[("a.rhai", "let REQUIRES = #{ root: true };")]).len(), 1);
    }

    #[test]
    fn secret_of_one_function_is_none_of_another() {
        // Rhai keeps functions in no order: with so many, some stand behind that with the secret.
        let other = "fn f#(word) { cmd::run([\"echo\", word], #{ always: \"x\" }); } f#(\"x\");\n";
        let others: Vec<String> = (0..8).map(|n| other.replace("f#", &format!("f{n}"))).collect();
        let others = others.concat();
        let plan = format!(
            "fn a() {{ let word = secret::generate(\"k\"); file::write(\"/a\", word); }} a();\n{others}"
        );
        let plan = plan.as_str();
        assert_eq!(reported(&[("a.rhai", plan)]), [""; 0]);
    }

    #[test]
    fn secrets_do_not_go_where_none_may_be() {
        let lines = reported(&[(
            "a.rhai",
            "let pw = secret::ask(\"pw\", \"Password\");\n\
             let all = #{ pw: pw, host: \"x\" };\n\
             cmd::run([\"x\", pw], #{ always: \"y\" });\n\
             let argv = [\"x\", all.pw];\n\
             cmd::test(argv);\n\
             print(pw); log::info(`${pw}`);\n\
             let text = `${pw} ${all.host}`;\n\
             file::write(\"/a\", text);\n\
             if pw == \"x\" { text += pw; }\n\
             let longer = \"a\" + secret::generate(\"k\");\n\
             let later = || cmd::read([all[\"pw\"]]);\n\
             for word in argv { cmd::read([word]); }\n\
             let fine = secret::join([pw, text]);\n\
             cmd::run([\"x\"], #{ always: \"y\", env: #{ PW: fine }, stdin: pw });\n\
             fn other() { let k = secret::generate(\"k\"); file::write(\"/a\", k); file::write(\"/b\", `${k}`); }",
        )]);
        let places: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(
            places,
            [
                "a.rhai:3:16",
                "a.rhai:5:11",
                "a.rhai:8:19",
                "a.rhai:9:7",
                "a.rhai:9:24",
                "a.rhai:10:18",
                "a.rhai:11:27",
                "a.rhai:12:31",
                "a.rhai:15:85",
            ],
            "{lines:#?}"
        );
    }
}
