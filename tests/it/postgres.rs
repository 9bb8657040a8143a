//! Roles, databases and statements, through the binary; each test has a PostgreSQL server of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Bench, code, said};
use crate::server::Server;
use rustix::process::{Pid, Signal, kill_process};

const CANARY: &str = "Canary 'quoted\" @/#$&%\\ 4711";

fn databases(server: &Server) -> String {
    server
        .psql("SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE NOT datistemplate")
        .unwrap()
}

/// Another session of the server, which runs one statement and stays open until it is dropped.
struct Session {
    process: Child,
    _input: std::process::ChildStdin,
}

impl Session {
    fn start(server: &Server, database: &str, sql: &str) -> Self {
        let mut command = server.psql_command(database);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = process.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, format!("{sql};\nSELECT 'ready';\n").as_bytes()).unwrap();
        let mut output = std::io::BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut output, &mut line).unwrap(), 0, "the session ended");
        }
        Self { process, _input: input }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn expect(output: &Output, wanted: i32) -> String {
    assert_eq!(code(output), wanted, "{}", said(output));
    said(output)
}

fn plan(bench: &Bench, step: &str) {
    bench.write("plan.rhai", "step::run(\"01\", \"Set up\", \"one.rhai\");\n");
    bench.write("one.rhai", step);
}

fn files_with(bench: &Bench, start: &[u8]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.path("state/backups")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| std::fs::read(path).unwrap().starts_with(start)).collect()
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn role_and_database_are_made_verified_and_undone_and_no_log_holds_the_password() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    plan(
        &bench,
        &format!(
            r#"
            let at = #{{ {options} }};
            let password = secret::ask("db_password", "Password");
            pg::ensure_role("kim", at + #{{ password: password, createdb: true }});
            pg::ensure_database("my shop", at + #{{ owner: "kim" }});
            file::write("{url}", pg::url(#{{ user: "kim", password: password, host: "127.0.0.1", port: {port}, dbname: "my shop" }}), #{{ mode: "0600" }});
            let client = #{{ host: "127.0.0.1", port: {port}, user: "kim", password: password, dbname: "my shop" }};
            step::verify("logs in", || pg::value("SELECT current_user::text", [], client) == "kim");
            step::verify("can create", || pg::can_create("kim", "my shop", at));
            step::verify("no one else can", || !pg::can_create("nobody", "my shop", at));
            step::verify("as itself too", || pg::can_create("kim", "my shop", client));
            "#,
            options = server.options(),
            port = server.port,
            url = bench.path("url").display(),
        ),
    );
    let given = bench.secrets_file(&format!("db_password={CANARY}\n"), 0o600);
    let first = expect(&bench.run(&["plan.rhai", "--secrets", &given, "-v"]), 0);
    assert!(server.logs_in("kim", CANARY, "my shop"));
    // A second run of the step changes nothing.
    let again = expect(&bench.run(&["plan.rhai", "--redo", "01", "--json"]), 0);
    assert!(again.contains("\"changed\":0"), "{again}");
    expect(&bench.run(&["plan.rhai", "--dry-run", "--redo", "01"]), 0);
    // The URL is one that others read.
    let url = std::fs::read_to_string(bench.path("url")).unwrap();
    let read = Command::new(server.binaries.join("psql"))
        .args(["--no-psqlrc", "-tAc", "SELECT current_user", &url])
        .output();
    assert_eq!(String::from_utf8(read.unwrap().stdout).unwrap().trim(), "kim");
    server.psql_in("my shop", "CREATE TABLE cats AS SELECT 1 AS id").unwrap();
    server.psql_in("my shop", "ALTER TABLE cats OWNER TO kim").unwrap();
    // Data is removed only where that is agreed to.
    let kept = expect(&bench.run(&["rollback", "--plan", "plan"]), 0);
    assert!(kept.contains("the database my shop (1 table, ") && kept.contains("--purge databases"), "{kept}");
    assert_eq!(databases(&server), "my shop,postgres");
    let _busy = Session::start(&server, "my shop", "SELECT 1");
    let gone = expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "databases"]), 0);
    assert_eq!(databases(&server), "postgres");
    assert_eq!(server.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'kim'").unwrap(), "0");
    // Its whole content is in the backups.
    let dumps = files_with(&bench, b"PGDMP");
    assert_eq!(dumps.len(), 1, "{gone}");
    assert_eq!(std::fs::metadata(&dumps[0]).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(gone.contains(&dumps[0].display().to_string()), "{gone}");
    let listed =
        Command::new(server.binaries.join("pg_restore")).arg("--list").arg(&dumps[0]).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("TABLE DATA public cats"));
    expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "all"]), 0);
    // The next run makes everything again.
    let last = expect(&bench.run(&["plan.rhai"]), 0);
    assert!(server.logs_in("kim", CANARY, "my shop"));
    for place in [server.log(), bench.recorded(), first, again, kept, gone, last] {
        assert!(!place.contains("Canary"), "{place}");
        assert!(!place.contains("SCRAM-SHA-256$"), "a verifier is as good as a password to some: {place}");
    }
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn rollback_restores_password_and_attributes_of_an_existing_role() {
    let server = Server::start();
    server.psql("CREATE ROLE kim LOGIN CREATEROLE PASSWORD 'the old one' CONNECTION LIMIT 5 VALID UNTIL '2001-01-01'").unwrap();
    let bench = Bench::new(&[]);
    let step = |more: &str| {
        format!(
            "pg::ensure_role(\"kim\", #{{ {}, password: secret::ask(\"db_password\", \"Password\"), createdb: true, createrole: false{more} }});",
            server.options()
        )
    };
    plan(&bench, &step(""));
    let given = bench.secrets_file(&format!("db_password={CANARY}\n"), 0o600);
    expect(&bench.run(&["plan.rhai", "--secrets", &given]), 0);
    assert!(server.logs_in("kim", CANARY, "postgres"), "one that has expired counts again");
    // The operator changes the password: a conflict, which is shown and kept.
    server.psql("ALTER ROLE kim PASSWORD 'of the operator'").unwrap();
    let drift = expect(&bench.run(&["plan.rhai", "--redo", "01", "--dry-run"]), 6);
    assert!(drift.contains("change the database role kim: password"), "{drift}");
    let conflict = expect(&bench.run(&["plan.rhai", "--redo", "01"]), 78);
    assert!(conflict.contains("its attributes differ: password"), "{conflict}");
    let conflict = expect(&bench.run(&["rollback", "--plan", "plan"]), 4);
    assert!(conflict.contains("its attributes differ: password"), "{conflict}");
    assert!(server.logs_in("kim", "of the operator", "postgres"));
    expect(&bench.run(&["plan.rhai", "--redo", "01", "--on-conflict", "overwrite"]), 0);
    assert!(server.logs_in("kim", CANARY, "postgres"));
    // Another desired state.
    plan(&bench, &step(", connection_limit: 7"));
    expect(&bench.run(&["plan.rhai"]), 0);
    assert_eq!(server.psql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'kim'").unwrap(), "7");
    expect(&bench.run(&["rollback", "--plan", "plan"]), 0);
    let attributes = "SELECT rolcreatedb, rolcreaterole, rolconnlimit, rolvaliduntil < now() FROM pg_roles WHERE rolname = 'kim'";
    assert_eq!(server.psql(attributes).unwrap(), "f|t|5|t");
    server.psql("ALTER ROLE kim VALID UNTIL 'infinity'").unwrap();
    assert!(server.logs_in("kim", "the old one", "postgres"));
    // A rollback with overwrite keeps the operator's password in the backups.
    expect(&bench.run(&["plan.rhai", "--on-conflict", "overwrite"]), 0);
    server.psql("ALTER ROLE kim PASSWORD 'of the operator'").unwrap();
    let theirs = server.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'kim'").unwrap();
    expect(&bench.run(&["rollback", "--plan", "plan"]), 4);
    expect(&bench.run(&["rollback", "--plan", "plan", "--on-conflict", "overwrite"]), 0);
    assert_eq!(files_with(&bench, theirs.as_bytes()).len(), 1);
    assert!(server.logs_in("kim", "the old one", "postgres"));
    assert!(!server.log().contains("Canary") && !bench.recorded().contains("Canary"));
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn verifier_whose_backup_is_missing_is_named_before_a_rollback_begins() {
    let server = Server::start();
    server.psql("CREATE ROLE kim LOGIN PASSWORD 'the old one'").unwrap();
    let verifier = server.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'kim'").unwrap();
    let bench = Bench::new(&[]);
    let last = bench.path("last");
    plan(
        &bench,
        &format!(
            "pg::ensure_role(\"kim\", #{{ {}, password: secret::ask(\"db_password\", \"Password\") }}); file::write(\"{}\", \"1\");",
            server.options(),
            last.display()
        ),
    );
    let given = bench.secrets_file(&format!("db_password={CANARY}\n"), 0o600);
    expect(&bench.run(&["plan.rhai", "--secrets", &given]), 0);
    for backup in files_with(&bench, verifier.as_bytes()) {
        std::fs::remove_file(backup).unwrap();
    }
    let said = expect(&bench.run(&["rollback"]), 4);
    let named = said.find("cannot restore").expect(&said);
    assert!(said[named..].contains("role:") && named < said.find("removed").expect(&said), "{said}");
    assert!(!last.exists() && server.logs_in("kim", CANARY, "postgres"));
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn rollback_keeps_a_role_that_owns_something() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    plan(&bench, &format!("pg::ensure_role(\"kim\", #{{ {} }});", server.options()));
    expect(&bench.run(&["plan.rhai"]), 0);
    server.psql("CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO kim").unwrap();
    let kept = expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "databases"]), 0);
    assert!(kept.contains("objects in postgres belong to the role kim"), "{kept}");
    server.psql("DROP TABLE theirs").unwrap();
    expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "databases"]), 0);
    assert_eq!(server.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'kim'").unwrap(), "0");
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn database_is_made_beside_a_busy_template_and_returned_to_its_owner() {
    let server = Server::start();
    server.psql("CREATE ROLE kim").unwrap();
    server.psql("CREATE DATABASE old").unwrap();
    let bench = Bench::new(&[]);
    let at = server.options();
    plan(
        &bench,
        &format!(
            "pg::ensure_database(\"old\", #{{ {at}, owner: \"kim\" }});\npg::ensure_database(\"new\", #{{ {at}, owner: \"kim\" }});"
        ),
    );
    {
        let _busy = Session::start(&server, "template1", "SELECT 1");
        expect(&bench.run(&["plan.rhai"]), 0);
    }
    let owner = |name: &str| {
        server
            .psql(&format!("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{name}'"))
            .unwrap()
    };
    assert_eq!((owner("old"), owner("new")), ("kim".to_owned(), "kim".to_owned()));
    // The operator makes another one of that name: kkrun does not remove it, whatever is agreed to.
    server.psql("DROP DATABASE new").unwrap();
    server.psql("CREATE DATABASE new OWNER kim").unwrap();
    let kept = expect(
        &bench.run(&["rollback", "--plan", "plan", "--purge", "all", "--on-conflict", "overwrite"]),
        0,
    );
    assert!(kept.contains("another database of the same name"), "{kept}");
    assert_eq!((owner("old"), owner("new")), ("postgres".to_owned(), "kim".to_owned()));
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn a_database_that_the_server_made_for_a_killed_run_is_found() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    plan(&bench, &format!("pg::ensure_database(\"shop\", #{{ {} }});", server.options()));
    // This lock keeps every session from adding a database to the catalog.
    let lock = Session::start(&server, "postgres", "BEGIN; LOCK pg_database IN SHARE MODE");
    let mut killed = Command::new(bench.command(&[]).get_program());
    killed.arg("--state-dir").arg(bench.path("state")).args(["--non-interactive", "plan.rhai"]);
    let mut killed = killed.current_dir(bench.path("")).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND wait_event_type = 'Lock'";
    while server.psql(waiting).unwrap() != "1" {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(lock);
    let output = expect(&bench.run(&["plan.rhai", "--json"]), 0);
    assert!(output.contains("\"changed\":0"), "it is done already: {output}");
    assert_eq!(databases(&server), "postgres,shop");
    expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "databases"]), 0);
    assert_eq!(databases(&server), "postgres");
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn statements_run_once_or_until_they_hold_and_are_undone() {
    let server = Server::start();
    server.psql("CREATE TABLE cats (name text, age int)").unwrap();
    let bench = Bench::new(&[]);
    plan(
        &bench,
        &format!(
            r#"
            let at = #{{ {options} }};
            let key = secret::ask("api_key", "Key");
            pg::execute("INSERT INTO cats VALUES ($1, $2)", ["O'Malley", 7], at + #{{ undo: "DELETE FROM cats WHERE name = $1" }});
            pg::execute("COMMENT ON TABLE cats IS $1", ["it's \\ mine"], at + #{{
                unless: "SELECT obj_description('cats'::regclass) = $1",
                undo: ["COMMENT ON TABLE cats IS 'was'", "COMMENT ON TABLE cats IS NULL"],
            }});
            pg::execute("INSERT INTO cats VALUES ($1)", [key], at + #{{
                unless: || pg::value("SELECT count(*) FROM cats WHERE name = $1", [key], at) == 1,
                undo: "DELETE FROM cats WHERE age IS NULL", loses: "the key of the cats",
            }});
            pg::execute("ALTER ROLE postgres PASSWORD $1", [key], at);
            let rows = pg::query("SELECT name, age, true AS flag, NULL AS none, 1.5::float8 AS half, ARRAY['a'] AS list, '{{\"a\":1}}'::jsonb AS json FROM cats WHERE age = $1", [7], at);
            if rows != [#{{ name: "O'Malley", age: 7, flag: true, none: (), half: 1.5, list: ["a"], json: #{{ a: 1 }} }}] {{
                throw `${{rows}}`;
            }}
            "#,
            options = server.options()
        ),
    );
    let given = bench.secrets_file(&format!("api_key={CANARY}\n"), 0o600);
    expect(&bench.run(&["plan.rhai", "--secrets", &given, "-v"]), 0);
    assert_eq!(server.psql("SELECT count(*) FROM cats").unwrap(), "2");
    assert!(server.logs_in("postgres", CANARY, "postgres"));
    assert_eq!(server.psql("SELECT obj_description('cats'::regclass)").unwrap(), "it's \\ mine");
    let again = expect(&bench.run(&["plan.rhai", "--redo", "01", "--json"]), 0);
    assert!(again.contains("\"changed\":0"), "{again}");
    // Drift is repaired where the script has a probe.
    server.psql("COMMENT ON TABLE cats IS 'else'").unwrap();
    let drift = expect(&bench.run(&["plan.rhai", "--redo", "01", "--dry-run"]), 6);
    assert!(drift.contains("COMMENT ON TABLE cats IS $1") && !drift.contains("$1, $2"), "{drift}");
    expect(&bench.run(&["plan.rhai", "--redo", "01"]), 0);
    let kept = expect(&bench.run(&["rollback", "--plan", "plan"]), 0);
    assert!(kept.contains("the key of the cats"), "{kept}");
    assert_eq!(
        server.psql("SELECT count(*), max(obj_description('cats'::regclass)) FROM cats").unwrap(),
        "1|"
    );
    expect(&bench.run(&["rollback", "--plan", "plan", "--purge", "data"]), 0);
    assert_eq!(server.psql("SELECT count(*) FROM cats").unwrap(), "0");
    assert!(!server.log().contains("Canary"), "{}", server.log());
    assert!(!bench.recorded().contains("Canary"));
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn invalid_databases_and_roles_are_refused_with_the_reason() {
    let server = Server::start();
    server.psql("CREATE TABLE cats (name text UNIQUE)").unwrap();
    server.psql("CREATE ROLE weak LOGIN PASSWORD 'weak weak'; GRANT ALL ON cats TO weak").unwrap();
    let bench = Bench::new(&[]);
    let at = server.options();
    let weak = format!(
        "host: \"127.0.0.1\", port: {}, user: \"weak\", password: \"weak weak\", dbname: \"postgres\"",
        server.port
    );
    let key = "secret::generate(\"api_key\")";
    for (script, wanted) in [
        (format!("pg::execute(\"SELECT 1; SELECT 2\", [], #{{ {at} }})"), "multiple commands"),
        (format!("pg::execute(\"SET work_mem TO $1; SELECT 2\", [1], #{{ {at} }})"), "multiple commands"),
        (
            format!("pg::value(\"INSERT INTO cats VALUES ('x') RETURNING name\", [], #{{ {at} }})"),
            "read-only transaction",
        ),
        (
            format!("pg::value(\"COMMIT; INSERT INTO cats VALUES ('x')\", [], #{{ {at} }})"),
            "multiple commands",
        ),
        (format!("pg::execute(\"INSERT INTO cats VALUES ($2)\", [1], #{{ {at} }})"), "parameter"),
        (
            format!("pg::execute(\"SET work_mem TO $2\", [1], #{{ {at} }})"),
            "uses $2, but 1 parameters are given",
        ),
        (format!("pg::query(\"SELECT now()\", [], #{{ {at} }})"), "select its text: now::text"),
        (format!("pg::query(\"SELECT 1\", [], #{{ {at}, prot: 1 }})"), "no option `prot`"),
        (format!("pg::ensure_role(\"kim\", #{{ {at}, pasword: {key} }})"), "no option `pasword`"),
        (
            format!("pg::ensure_database(\"x\", #{{ {at}, owner: \"nobody\" }})"),
            "role \"nobody\" does not exist",
        ),
        (
            format!("pg::value(\"SELECT 1\", [], #{{ {at}, dbname: \"nowhere\" }})"),
            "database `nowhere` not found",
        ),
        (
            format!("pg::value(\"SELECT 1\", [], #{{ {at}, user: \"weak\" }})"),
            "the operating-system user `postgres`",
        ),
        (
            format!("pg::value(\"SELECT 1\", [], #{{ {at}, port: 1 }})")
                .replace(&at, &format!("host: \"{}\"", server.directory.display())),
            "unit::start",
        ),
        (
            format!("pg::value(\"SELECT 1\", [], #{{ {} }})", weak.replace("weak weak", "wrong wrong")),
            "refused this password for the role `weak`",
        ),
        (
            format!(
                "pg::execute(\"INSERT INTO cats VALUES ($1)\", [{key}], #{{ {weak}, unless: \"SELECT false\" }})"
            ),
            "is not stored",
        ),
        (
            format!(
                "pg::execute(\"INSERT INTO cats VALUES ('unhidden')\", [], #{{ {at}, unless: \"SELECT false\" }})"
            ),
            "still does not hold",
        ),
        (format!("pg::execute(`ALTER ROLE weak PASSWORD '${{{key}}}'`, [], #{{ {at} }})"), "secret::join"),
    ] {
        bench.write("s.rhai", &script);
        let output = bench.run(&["s.rhai"]);
        assert!(
            matches!(code(&output), 1 | 2) && said(&output).contains(wanted),
            "{script}: {wanted} in\n{}",
            said(&output)
        );
    }
    // A role that cannot turn off logging gets no secret, as the server would log it.
    bench.write(
        "s.rhai",
        &format!(
            "let weak = secret::ask(\"weak\", \"Weak\");\npg::execute(\"INSERT INTO cats VALUES ($1)\", [weak], #{{ {} }});",
            weak.replace("\"weak weak\"", "weak")
        ),
    );
    let given = bench.secrets_file("weak=weak weak\n", 0o600);
    let refused = expect(&bench.run(&["s.rhai", "--secrets", &given]), 1);
    assert!(refused.contains("would write it to its log"), "{refused}");
    // A statement that failed changed nothing, so nothing is in doubt in the next run.
    bench.write("s.rhai", &format!("pg::execute(\"INSERT INTO nowhere VALUES (1)\", [], #{{ {at} }})"));
    expect(&bench.run(&["s.rhai"]), 1);
    server.psql("CREATE TABLE nowhere (id int)").unwrap();
    expect(&bench.run(&["s.rhai"]), 0);
    assert_eq!(server.psql("SELECT count(*) FROM nowhere").unwrap(), "1");
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn a_statement_that_fails_leaves_no_secret_in_the_server_s_log() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    let at = server.options();
    server.psql("CREATE TABLE numbers (id int UNIQUE, name text UNIQUE)").unwrap();
    server.psql("CREATE ROLE \"nobody\" LOGIN").unwrap();
    let asked = "secret::ask(\"canary\", \"Canary\")";
    for call in [
        format!("pg::execute(\"INSERT INTO numbers (id) VALUES ($1)\", [{asked}], #{{ {at} }})"),
        format!("pg::execute(\"INSERT INTO numbers (name) VALUES ($1), ($1)\", [{asked}], #{{ {at} }})"),
        format!("pg::execute(\"CREATE ROLE postgres PASSWORD $1\", [{asked}], #{{ {at} }})"),
        format!("pg::execute(\"CREATE ROLE other PASSWORD $1 NONSENSE\", [{asked}], #{{ {at} }})"),
        format!(
            "pg::ensure_role(\"denied\", #{{ {at}, os_user: \"nobody\", dbname: \"postgres\", password: {asked} }})"
        ),
    ] {
        bench.write("s.rhai", &format!("{call};"));
        let given = bench.secrets_file(&format!("canary={CANARY}\n"), 0o600);
        let failed = expect(&bench.run(&["s.rhai", "--secrets", &given]), 1);
        for place in [server.log(), bench.recorded(), failed] {
            assert!(!place.contains("Canary '"), "{call}: {place}");
            assert!(!place.contains("SCRAM-SHA-256$"), "{call}: {place}");
        }
    }
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn a_running_statement_ends_when_the_run_is_stopped() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    plan(&bench, &format!("pg::execute(\"SELECT pg_sleep(600)\", [], #{{ {} }});", server.options()));
    let mut stopped = Command::new(bench.command(&[]).get_program());
    stopped.arg("--state-dir").arg(bench.path("state")).args(["--non-interactive", "plan.rhai"]);
    let mut stopped = stopped.current_dir(bench.path("")).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").unwrap()
        != "1"
    {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&stopped), Signal::INT).unwrap();
    assert_eq!(stopped.wait().unwrap().code(), Some(130));
    assert_eq!(
        server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").unwrap(),
        "0"
    );
    let history = expect(&bench.run(&["history"]), 0);
    assert!(!history.contains("doubt"), "{history}");
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn role_and_database_in_a_url_of_another_plan_are_left_to_it() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    let (options, port, path) = (server.options(), server.port, bench.path("env"));
    let made = format!(
        "let at = #{{ {options} }}; pg::ensure_role(\"kim\", at); pg::ensure_database(\"shop\", at + #{{ owner: \"kim\" }});"
    );
    let url = format!(
        "config::set(\"{}\", \"DATABASE_URL\", \"postgres://kim:x@localhost:{port}/shop\");",
        path.display()
    );
    // In one plan the rollback of the first step is refused.
    bench.write(
        "plan.rhai",
        &format!(
            "step::run(\"01\", \"Make\", || {{ {made} }}); step::run(\"02\", \"Use\", || {{ {url} }});\n"
        ),
    );
    expect(&bench.run(&["plan.rhai"]), 0);
    let refused = expect(&bench.run(&["rollback", "01", "--purge", "all"]), 1);
    assert!(refused.contains("cannot undo step 01 alone"), "{refused}");
    expect(&bench.run(&["rollback", "--purge", "all"]), 0);
    assert_eq!(databases(&server), "postgres");
    // Another plan gets them.
    bench.write("make.rhai", &format!("step::run(\"01\", \"Make\", || {{ {made} }});\n"));
    bench.write("use.rhai", &format!("step::run(\"01\", \"Use\", || {{ {url} }});\n"));
    expect(&bench.run(&["make.rhai"]), 0);
    expect(&bench.run(&["use.rhai"]), 0);
    let left = expect(&bench.run(&["rollback", "--plan", "make", "--purge", "all"]), 0);
    assert!(left.contains("0 undone · 2 kept") && left.contains("step 01 of the plan `use`"), "{left}");
    assert_eq!(databases(&server), "postgres,shop");
    expect(&bench.run(&["rollback", "--plan", "use", "--purge", "all"]), 0);
    assert_eq!(databases(&server), "postgres");
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn migration_in_a_database_that_was_there_is_said_to_be_not_undone() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    server.psql(&format!("CREATE ROLE kim LOGIN PASSWORD '{}'", CANARY.replace('\'', "''"))).unwrap();
    server.psql("CREATE DATABASE shop OWNER kim").unwrap();
    std::fs::create_dir(bench.path("migrations")).unwrap();
    bench.write("migrations/001_cats.sql", "CREATE TABLE cats (id int);\n");
    bench.write("plan.rhai", "step::run(\"01\", \"Migrate\", \"one.rhai\");\n");
    bench.write(
        "one.rhai",
        &format!(
            r#"import "std/migrations" as migrations;
            let password = secret::ask("db_password", "The password");
            let shop = #{{ host: "127.0.0.1", port: {}, user: "kim", password: password, dbname: "shop" }};
            migrations::migrate("{}", shop);
            step::verify("all is applied", || migrations::is_complete("{}", shop));"#,
            server.port,
            bench.path("migrations").display(),
            bench.path("migrations").display(),
        ),
    );
    let given = bench.secrets_file(&format!("db_password={CANARY}\n"), 0o600);
    expect(&bench.run(&["plan.rhai", "--secrets", &given]), 0);
    assert_eq!(server.psql_in("shop", "SELECT count(*) FROM cats").unwrap(), "0");
    let rolled_back = expect(&bench.run(&["rollback", "--purge", "all"]), 0);
    let said = "not undone: run migration 001_cats.sql";
    assert!(rolled_back.contains(said) && rolled_back.contains("1 not undone"), "{rolled_back}");
    assert!(rolled_back.contains("its tables stay as long as the database shop is there"), "{rolled_back}");
    assert_eq!(server.psql_in("shop", "SELECT count(*) FROM cats").unwrap(), "0");
    // What was applied stays applied.
    expect(&bench.run(&["plan.rhai", "--secrets", &given]), 0);
}

#[test]
#[ignore = "needs root and the programs of PostgreSQL"]
fn a_dry_run_asks_whether_a_statement_holds_unless_something_before_it_may_change_that() {
    let server = Server::start();
    let bench = Bench::new(&[]);
    let options = server.options();
    let steps = |first: &str| {
        format!(
            "step::run(\"a\", \"Before\", || {first});\n\
             step::run(\"b\", \"Table\", || pg::execute(\"CREATE TABLE cats(a int)\", [], #{{ {options}, \
             unless: \"SELECT to_regclass('cats') IS NOT NULL\", undo: \"DROP TABLE IF EXISTS cats\" }}));\n"
        )
    };
    bench.write("plan.rhai", &steps("group::ensure(\"kkrun-none\")"));
    expect(&bench.run(&["plan.rhai", "--only", "b"]), 0);
    let said = expect(&bench.run(&["plan.rhai", "--dry-run"]), 6);
    assert!(said.contains("would make the group kkrun-none") && !said.contains("CREATE TABLE"), "{said}");
    bench.write("plan.rhai", &steps(&format!("pg::ensure_role(\"kim\", #{{ {options} }})")));
    let said = expect(&bench.run(&["plan.rhai", "--dry-run"]), 6);
    assert!(said.contains("its script might run in the database postgres: CREATE TABLE cats"), "{said}");
    assert!(said.contains("--repair` might run 1 statement"), "{said}");
}
