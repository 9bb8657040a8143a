//! `kkrun adopt`: an old script becomes a plan that proves itself.
//!
//! Needs what tests/it/rehearsal.rs needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A script of tests/adopt that is adopted on the pristine base.
struct Adopting {
    directory: tempfile::TempDir,
}

impl Adopting {
    fn new() -> Self {
        Self { directory: tempfile::tempdir_in("/root").unwrap() }
    }

    fn plan(&self) -> PathBuf {
        self.directory.path().join("plan")
    }

    fn adopt(&self, script: &Path, arguments: &[&str]) -> Output {
        self.on("pristine", script).args(arguments).output().unwrap()
    }

    /// The command that adopts a script on the base of this name.
    fn on(&self, base: &str, script: &Path) -> Command {
        let bases =
            std::env::var_os("KKRUN_TEST_BASES").expect("KKRUN_TEST_BASES names the directory of the bases");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
        command.arg("adopt").arg("--base").arg(Path::new(&bases).join(base));
        command.arg("--output").arg(self.plan()).arg(script).env_remove("TMPDIR");
        command
    }

    fn written(&self, text: &str) -> PathBuf {
        let script = self.directory.path().join("script.sh");
        std::fs::write(&script, text).unwrap();
        script
    }

    /// The texts of its scripts.
    fn steps(&self) -> String {
        std::fs::read_dir(self.plan())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rhai"))
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.plan().join(name)).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt").join(name)
}

#[test]
#[ignore = "needs root and the pristine base"]
fn a_script_becomes_a_plan_that_reproduces_it_changes_nothing_again_and_rolls_back() {
    let place = Adopting::new();
    let output = place.adopt(&script("greeter.sh"), &[]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("the plan reproduces 18 of 18 differences"), "{said}");
    assert!(said.contains("a second run changes nothing; after a rollback all is as before"), "{said}");
    assert_eq!(place.read("01_packages.rhai").lines().last(), Some("pkg::install([\"jq\"]);"));
    let user = place.read("02_user.rhai");
    assert!(
        user.contains(
            "// greeter.sh:13\nuser::ensure(settings::greeter, #{ shell: \"/bin/bash\", home_mode: \"0755\", groups: [\"video\"] });\n"
        ),
        "{user}"
    );
    assert!(
        place.read("03_settings.rhai").contains("config::set(\"/etc/login.defs\", \"UMASK\", \"027\");\n")
    );
    let service = place.read("04_service.rhai");
    let [enabled, started] = ["unit::enable(\"greeter.service\");\n", "unit::start(\"greeter.service\");\n"]
        .map(|call| service.find(call));
    assert!(enabled.is_some() && enabled < started, "{service}");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn the_setup_of_a_whole_machine_becomes_a_plan_without_its_secrets() {
    let place = Adopting::new();
    let password = "correct-horse-7-battery";
    let output =
        place.on("prepared", &script("setup_production.sh")).env("DB_PASSWORD", password).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("the plan reproduces 44 of 44 differences"), "{said}");
    assert!(said.contains("a second run changes nothing; after a rollback all is as before"), "{said}");
    assert!(!said.contains(password), "{said}");
    let found = Command::new("grep").args(["-rl", password]).arg(place.plan()).output().unwrap();
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
    let database = place.read("03_database.rhai");
    assert!(
        database.contains("pg::ensure_role(settings::user_name, #{ password: db_password, login: true });"),
        "{database}"
    );
    assert!(place.read("06_services.rhai").contains("unit::enable(\"hallway.service\");"));
}

#[test]
#[ignore = "needs root and the pristine base"]
fn a_script_that_stops_gives_the_plan_of_what_it_did_and_says_where() {
    let place = Adopting::new();
    let script =
        place.written("#!/bin/bash\nset -e\necho one > /etc/one\nls /nothing-here\necho two > /etc/two\n");
    let output = place.adopt(&script, &[]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the script stopped with exit status 2 at `script.sh:4: ls /nothing-here`"),
        "{said}"
    );
    assert!(said.contains("the plan reproduces 1 of 1 differences"), "{said}");
    assert!(place.read("REPORT.md").contains("exit status 2"), "{said}");
}

#[test]
#[ignore = "needs root and the pristine base"]
fn the_data_of_a_service_is_not_copied_and_what_the_script_does_with_it_is_named() {
    let place = Adopting::new();
    let script = place.written(
        "#!/bin/bash\nset -e\necho one > /etc/one\n\
         systemd-run --quiet --unit=run-keeper sh -c 'mkdir /var/lib/keeper; exec 3>/var/lib/keeper/state; exec sleep infinity'\n\
         until [ -e /var/lib/keeper/state ]; do sleep 0.1; done\ncp /etc/hostname /var/lib/keeper/given\n",
    );
    let output = place.adopt(&script, &[]);
    let said = said(&output);
    let report = place.read("REPORT.md");
    assert_eq!(output.status.code(), Some(1), "{said}\n{report}");
    assert!(said.contains("the plan reproduces 2 of 3 differences"), "{said}\n{report}");
    assert!(report.contains("data of `run-keeper.service` in /var/lib/keeper: missing"), "{report}");
    assert!(report.contains("what lines 4, 6 of `script.sh` do"), "{report}");
    assert!(!place.plan().join("files/var").exists());
}

#[test]
#[ignore = "needs root and the pristine base"]
fn arguments_environment_and_answers_reach_a_script_of_any_language() {
    let place = Adopting::new();
    let script = place.written("read answer\necho \"$1 $GREETING $answer\" > /etc/greeting\n");
    let answers = place.directory.path().join("answers");
    std::fs::write(&answers, "yes\n").unwrap();
    let bases = std::env::var_os("KKRUN_TEST_BASES").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
    command.arg("adopt").arg("--base").arg(Path::new(&bases).join("pristine")).arg("--answers").arg(answers);
    command
        .arg("--output")
        .arg(place.plan())
        .arg(script)
        .arg("one")
        .env("GREETING", "hello")
        .env_remove("TMPDIR");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let step = place.read("01_files.rhai");
    assert!(step.contains("file::write(\"/etc/greeting\", \"one hello yes\\n\");"), "{step}");
}

#[test]
#[ignore = "needs root, the prepared base and a network"]
fn what_only_a_command_makes_is_run_again_captured_and_a_new_tree_is_copied_whole() {
    let place = Adopting::new();
    let script = place.written(
        "#!/usr/bin/env bash\nset -e\nAPP=/srv/shelf\nmkdir -p $APP/pages\nfor page in $(seq 20); do echo \"page $page\" > $APP/pages/$page.txt; done\n\
         chmod 750 $APP/pages/7.txt\nln -s 1.txt $APP/pages/first\nmkdir $APP/pages/empty\nnpm install -g --no-audit --no-fund semver@7.5.4\n\
         echo \"$APP\" > /etc/shelf\necho \"see $APP\" > /etc/motd\n",
    );
    let output = place.on("prepared", &script).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("a second run changes nothing; after a rollback all is as before"), "{said}");
    let step = place.read("01_files.rhai");
    assert!(step.contains("cmd::run([\"npm\", \"install\", \"-g\", "), "{step}");
    assert!(step.contains("capture: #{}"), "{step}");
    assert!(step.contains("file::copy(\"files/srv/shelf\", settings::app);"), "{step}");
    assert!(place.read("settings.rhai").contains("app: \"/srv/shelf\""), "{step}");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn checkouts_alternatives_special_users_restarts_and_the_state_of_the_kernel_are_what_they_are() {
    let place = Adopting::new();
    let script = place.written(
        "#!/bin/bash\nset -e\nexport HOME=/root\nmkdir -p /srv/git\ngit init -q --bare /srv/git/app.git\n\
         git -C /srv/git/app.git symbolic-ref HEAD refs/heads/main\ngit clone -q /srv/git/app.git /tmp/work 2>/dev/null\n\
         cd /tmp/work\ngit config user.email a@b\ngit config user.name a\nfor n in 1 2 3; do echo $n > page-$n; done\n\
         git add .\ngit commit -qm one\ngit push -q origin HEAD:main\ncd /\n\
         git clone -q --branch main /srv/git/app.git /srv/app\necho local > /srv/app/local.txt\n\
         useradd --no-create-home --shell /usr/sbin/nologin worker\n\
         useradd --create-home --gid users --comment 'Kim K' kim\n\
         useradd --create-home --gid users ann\n\
         printf '#!/bin/sh\\n' > /usr/local/bin/pages\nchmod 755 /usr/local/bin/pages\n\
         update-alternatives --install /usr/bin/pager pager /usr/local/bin/pages 1\n\
         update-alternatives --set pager /usr/local/bin/pages\ntouch /run/reboot-required\n\
         mkdir -p /srv/backup\nuseradd -m -d /srv/backup/home -s /bin/sh backupper\n\
         groupadd --system metrics\nuseradd --system -g metrics -d /opt/metrics -s /usr/sbin/nologin metrics\n\
         mkdir -p /opt/metrics/app\nchown -R metrics:metrics /opt/metrics\n\
         echo 'net.ipv4.conf.all.rp_filter = 1' > /etc/sysctl.d/90-x.conf\nsysctl -qp /etc/sysctl.d/90-x.conf\n\
         mkdir -p /mnt/scratch\necho 'tmpfs /mnt/scratch tmpfs size=10m 0 0' >> /etc/fstab\nmount /mnt/scratch\n\
         hostnamectl set-hostname kiosk-7\n",
    );
    let output = place.on("prepared", &script).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", place.read("REPORT.md"));
    assert!(said.contains("a second run changes nothing; after a rollback all is as before"), "{said}");
    let written = place.steps();
    for call in [
        "import \"std/git\" as git;",
        "git::checkout(\"/srv/git/app.git\", \"main\", \"/srv/app\", \"root\");",
        "file::write(\"/srv/app/local.txt\", \"local\\n\");",
        "user::ensure(\"worker\", #{ make_home: false, shell: \"/usr/sbin/nologin\" });",
        "user::ensure(\"kim\", #{ comment: \"Kim K\", ",
        "user::ensure(\"ann\", #{",
        "group: \"users\" });",
        "\"--set\", \"pager\", \"/usr/local/bin/pages\"]",
        "host::reboot_required(\"script.sh asks for it\");",
        "file::make_dir(\"/srv/backup\");",
        "group::ensure(\"metrics\", #{ system: true });",
        "cmd::run([\"sysctl\", \"--quiet\", \"--write\", \"net.ipv4.conf.all.rp_filter=1\"], #{",
        "cmd::run([\"mount\", \"/mnt/scratch\"], #{",
        "cmd::run([\"hostname\", \"kiosk-7\"], #{",
    ] {
        assert!(written.contains(call), "{call}\n{written}");
    }
    assert!(!written.contains("page-1"), "{written}");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn numbers_owners_given_secrets_and_what_a_temporary_directory_held_are_kept() {
    let place = Adopting::new();
    let script = place.written(
        "#!/bin/bash\nset -e\ngroupadd -g 5000 vmail\n\
         useradd -g vmail -u 5000 -d /var/vmail -m -s /usr/sbin/nologin vmail\n\
         useradd -o -u 0 -g 0 -M -d /root -s /bin/bash toor\n\
         mkdir -p /srv/data\nchown 1500:1600 /srv/data\ntouch /srv/data/f\n\
         d=$(mktemp -d)\ncd \"$d\"\nprintf 'install:\\n\\tinstall -D -m 755 tool /usr/local/bin/tool\\n' > Makefile\n\
         printf '#!/bin/sh\\necho tool\\n' > tool\nmake install\ncd /\nrm -rf \"$d\"\n\
         sed -i 's/Debian/Machine/' /etc/issue\n\
         cat > /etc/relay.conf <<X\nrelay_password = RelayPass77\nX\n\
         printf 'db:\\n  password: \"yaml-pa55word\"\\n' > /etc/db.yaml\n\
         TOKEN=$(tr -dc a-z </dev/urandom | head -c 20)\necho \"api_token=$TOKEN\" > /etc/api.conf\n\
         echo inner > /etc/inner\nchmod 600 /etc/inner\necho after > /etc/after\n",
    );
    let output = place.on("prepared", &script).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", place.read("REPORT.md"));
    assert!(said.contains("a second run changes nothing; after a rollback all is as before"), "{said}");
    let written = place.steps();
    for call in [
        "group::ensure(\"vmail\", #{ gid: 5000 });",
        "user::ensure(\"vmail\", #{ uid: 5000, home: \"/var/vmail\", ",
        "\"toor\"], #{ unless: || user::exists(\"toor\"), capture: #{} });",
        "file::make_dir(\"/srv/data\", #{ owner: \"1500\", group: \"1600\" });",
        "file::write(\"/usr/local/bin/tool\", \"#!/bin/sh\\necho tool\\n\", #{ mode: \"0755\" });",
        "secret::ask(\"relay_password\", \"Value of relay_password in /etc/relay.conf\");",
        "secret::ask(\"token\", \"Value of token\", #{ generate: true });",
    ] {
        assert!(written.contains(call), "{call}\n{written}");
    }
    assert!(!written.contains("owner: \"toor\""), "{written}");
    let found =
        Command::new("grep").args(["-rlE", "RelayPass77|yaml-pa55word"]).arg(place.plan()).output().unwrap();
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
    assert!(place.read("REPORT.md").contains("\n* /etc/inner\n"), "{}", place.read("REPORT.md"));
}

#[test]
#[ignore = "needs root and the prepared base"]
fn a_service_that_a_script_of_another_shell_restarts_is_restarted_for_its_files() {
    let place = Adopting::new();
    let script = place.written(
        "#!/bin/sh\nset -e\necho 'server { listen 8099; }' > /etc/nginx/conf.d/x.conf\nsystemctl restart nginx\n\
         sysctl -w vm.max_map_count=262144 || true\n",
    );
    let output = place.on("prepared", &script).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", place.read("REPORT.md"));
    let written = place.steps();
    assert!(
        written.contains("step::on_change(#{ restart: [\"nginx.service\"] }, || {\n    file::write("),
        "{written}"
    );
    assert!(place.read("REPORT.md").contains("* kernel parameter vm.max_map_count: "), "{said}");
}
