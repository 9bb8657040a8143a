//! Configuration files of formats that kkrun knows, edited through the binary and read by the programs they are for.

use std::path::Path;
use std::process::Command;

use crate::support::Place;

/// What a program prints about a file: standard output, and where it fails standard error.
fn asked(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

/// Runs the plan twice, asks in between, and sees the files come back.
fn edits(place: &Place, files: &[&str], ask: impl Fn(&Place)) {
    let before: Vec<String> = files.iter().map(|file| place.read(file)).collect();
    place.run("plan.rhai").ends(0);
    ask(place);
    let after: Vec<String> = files.iter().map(|file| place.read(file)).collect();
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
    assert_eq!(files.iter().map(|file| place.read(file)).collect::<Vec<_>>(), after);
    place.run("rollback").ends(0);
    assert_eq!(files.iter().map(|file| place.read(file)).collect::<Vec<_>>(), before);
}

#[test]
#[ignore = "needs OpenSSH's server and root"]
fn sshd_reads_what_was_set_before_the_first_match() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/sshd_config";
    config::set(file, "PasswordAuthentication", "no");
    config::set(file, "AllowUsers", "kim backup");
    config::set(file, "PermitRootLogin", "no");
    config::set(file, "X11Forwarding", "yes", #{ section: "Match User backup" });
    config::set(file, "AllowTcpForwarding", "no", #{ section: "Match User guest" });
    config::comment(file, "PrintMotd");
    config::block(file, "tries", "MaxAuthTries 3");
    config::block(file, "late", "Match User late\n    MaxAuthTries 2");
    config::set(file, "MaxSessions", 4);
});"#,
    );
    let key = place.path("key");
    asked("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", shown(&key)]);
    let text = format!(
        "HostKey {}\n#PasswordAuthentication yes\npermitrootlogin yes # for now\nPrintMotd no\n\n\
         # The backup comes with a key.\nMatch User backup\n    PasswordAuthentication yes\n    AllowTcpForwarding yes\n",
        key.display()
    );
    place.write("m/sshd_config", &text);
    edits(&place, &["m/sshd_config"], |place| {
        let file = place.path("m/sshd_config");
        let of = |user: &str| {
            let user = format!("user={user},host=h,addr=10.0.0.1");
            asked("sshd", &["-T", "-f", shown(&file), "-C", &user])
        };
        let has = |text: &str, lines: &[&str]| {
            for line in lines {
                assert!(text.lines().any(|other| other == *line), "no `{line}` in {text}");
            }
        };
        has(
            &of("kim"),
            &[
                "passwordauthentication no",
                "permitrootlogin no",
                "allowusers kim",
                "allowusers backup",
                "printmotd yes",
                "x11forwarding no",
            ],
        );
        has(&of("backup"), &["passwordauthentication yes", "x11forwarding yes", "allowtcpforwarding yes"]);
        has(&of("guest"), &["passwordauthentication no", "allowtcpforwarding no", "maxauthtries 3"]);
    });
}

#[test]
#[ignore = "needs OpenSSH's server and root"]
fn what_sshd_would_not_read_is_refused_and_named() {
    let place = Place::new(
        r#"step::run("01", "First", || config::set("@/m/sshd_config", "PasswordAuthentication", "no"));"#,
    );
    let key = place.path("key");
    asked("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", shown(&key)]);
    let text = "HostKey @/key\nInclude @/m/sshd_config.d/*.conf\nPasswordAuthentication no\n";
    place.write("m/sshd_config", text);
    place.write("m/sshd_config.d/50-cloud.conf", "\nPasswordAuthentication yes\n");
    let file = place.path("m/sshd_config");
    let says = |value: &str| {
        let read = asked("sshd", &["-T", "-f", shown(&file)]);
        assert!(read.lines().any(|line| line == format!("passwordauthentication {value}")), "{read}");
    };
    // The file says it already, and still it has no effect.
    says("yes");
    place.run("plan.rhai --dry-run").ends(6).says("line 2 of").says("50-cloud.conf");
    place.run("plan.rhai").ends(1).says("line 2 of").says("50-cloud.conf").says("is read before it");
    assert_eq!(place.read("m/sshd_config"), text);
    let both = r#"step::run("01", "First", || {
    config::set("@/m/sshd_config.d/50-cloud.conf", "PasswordAuthentication", "no", #{ format: "sshd" });
    config::set("@/m/sshd_config", "PasswordAuthentication", "no");
});"#;
    let place = place.with("plan/plan.rhai", both);
    place.run("plan.rhai --dry-run").ends(6);
    place.run("plan.rhai").ends(0);
    says("no");
}

#[test]
#[ignore = "needs OpenSSH's server, Postfix and root"]
fn what_sshd_and_postfix_cannot_read_is_refused_and_no_other_value() {
    let place = Place::empty().with("m/master.cf", "");
    let key = place.path("key");
    asked("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", shown(&key)]);
    let (sshd, postfix) = (format!("HostKey {}\n", key.display()), "compatibility_level = 3.6\n");
    let (of_sshd, of_postfix) = (place.path("m/sshd_config"), place.path("m"));
    let reads = |file: &str, key: &str| {
        let (program, arguments) = match file {
            "sshd_config" => ("sshd", ["-t", "-f", shown(&of_sshd)].to_vec()),
            _ => ("postconf", ["-c", shown(&of_postfix), "-x", key].to_vec()),
        };
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(program).args(arguments).env("PATH", path).output();
        output.unwrap_or_else(|error| panic!("{program}: {error}")).status.success()
    };
    for (file, before, key, read, not_read) in [
        (
            "sshd_config",
            &*sshd,
            "Banner",
            &[
                "/a",
                "\"a b\"",
                "'a b'",
                "it\\'s",
                "a\\\"b",
                "a\\ b",
                "\"it's\"",
                "a\"b c\"d",
                "\"a # b\"",
                "a#b",
                "a\\b",
            ][..],
            &["it's", "\"a", "a b", "a\"b", "'a\\' b", ""][..],
        ),
        ("sshd_config", &sshd, "AllowUsers", &["kim backup", "'a b' c"], &["a\"b", "kim it's"]),
        ("sshd_config", &sshd, "VersionAddendum", &["a b c"], &["it's"]),
        ("sshd_config", &sshd, "MaxStartups", &["10:30:60"], &["10:30:60 x"]),
        (
            "main.cf",
            postfix,
            "smtpd_banner",
            &["$myhostname ESMTP", "${x?{y}:{z}}", "$(x)", "a$$b", "${{$x}=={y}?{a}:{b}}", "$${x", "\"a"],
            &["${x", "$(x", "a$", "$ x", "${x?{y}", "${}"],
        ),
    ] {
        let path = format!("m/{file}");
        for (values, is_read) in [(read, true), (not_read, false)] {
            for value in values {
                place.write(
                    &path,
                    &format!("{before}{key} {}{value}\n", if file == "main.cf" { "= " } else { "" }),
                );
                assert_eq!(reads(file, key), is_read, "{key} {value}");
                place.write(&path, before);
                let literal = serde_json::to_string(value).expect("a string is JSON");
                let plan = format!("config::set(\"{}\", \"{key}\", {literal});", shown(&place.path(&path)));
                place.write("plan/plan.rhai", &plan);
                if is_read {
                    place.run("plan.rhai --on-conflict overwrite").ends(0);
                    assert!(reads(file, key), "{key} {value}");
                } else {
                    place
                        .run("plan.rhai --on-conflict overwrite")
                        .ends(1)
                        .says(&format!("invalid value of `{key}`"));
                    assert!(!place.read(&path).contains(key), "{key} {value}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs OpenSSH's client"]
fn ssh_reads_what_was_set_outside_and_inside_of_hosts() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/ssh_config";
    config::set(file, "ForwardAgent", "no");
    config::set(file, "Port", 2222, #{ section: "Host git" });
    config::set(file, "User", "kim", #{ section: "Host new" });
    config::set(file, "HashKnownHosts", "no", #{ section: "Host *" });
});"#,
    )
    .with(
        "m/ssh_config",
        "Host git\n\tport=22\n\nHost *\n    User all\n    ForwardAgent yes\n    hashknownhosts yes\n",
    );
    edits(&place, &["m/ssh_config"], |place| {
        let file = place.path("m/ssh_config");
        for (host, lines) in [
            ("git", &["port 2222", "user all", "forwardagent no", "hashknownhosts no"]),
            ("new", &["port 22", "user kim", "forwardagent no", "hashknownhosts no"]),
        ] {
            let text = asked("ssh", &["-G", "-F", shown(&file), host]);
            for line in lines {
                assert!(text.lines().any(|other| other == *line), "{host}: no `{line}` in {text}");
            }
        }
    });
}

#[test]
#[ignore = "needs Postfix"]
fn postfix_reads_a_value_that_had_several_lines() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/main.cf";
    let old = config::get(file, "mynetworks");
    if old != () && old != "127.0.0.0/8, [::1]/128" { throw old; }
    config::set(file, "mydestination", "localhost");
    config::set(file, "relayhost", "mail.example.org");
    config::set(file, "inet_interfaces", "loopback-only");
    config::remove(file, "smtpd_banner");
    config::comment(file, "mynetworks");
});"#,
    )
    .with(
        "m/main.cf",
        "compatibility_level = 3.6\nmydestination = a.example.org,\n    b.example.org,\n# the old name\n\n\tc.example.org\n\
         smtpd_banner =\n  hello\n  world\nmynetworks = 127.0.0.0/8,\n#relayhost = x\n  [::1]/128\nmyorigin = localhost\n",
    )
    .with("m/master.cf", "");
    edits(&place, &["m/main.cf"], |place| {
        let set = asked("postconf", &["-c", shown(&place.path("m")), "-n"]);
        let set: Vec<&str> = set.lines().filter(|line| !line.starts_with("config_directory")).collect();
        assert_eq!(
            set,
            [
                "compatibility_level = 3.6",
                "inet_interfaces = loopback-only",
                "mydestination = localhost",
                "myorigin = localhost",
                "relayhost = mail.example.org",
            ]
        );
    });
}

#[test]
#[ignore = "needs systemd"]
fn systemd_takes_a_unit_whose_lists_were_changed() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/kiosk.service";
    config::set(file, "ExecStart", "/bin/sleep 2", #{ section: "Service" });
    config::set(file, "Restart", "always", #{ section: "Service" });
    config::set(file, "RestartSec", 3, #{ section: "Service" });
    config::remove(file, "ExecStartPre", #{ section: "Service" });
});"#,
    )
    .with(
        "m/kiosk.service",
        "[Unit]\nDescription=A kiosk\n[Service]\nType=oneshot\nExecStart=/bin/false\nExecStart=\nExecStart=/bin/sleep \\\n# long\n  1\n\
         ExecStartPre=/nowhere \\\n  x\n[Service]\nRestart=on-failure\nType=simple\n",
    );
    edits(&place, &["m/kiosk.service"], |place| {
        // It says what it does not understand on standard error, and ends with 0.
        let file = place.path("m/kiosk.service");
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no", shown(&file)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("kiosk.service"), "{said}");
        assert!(
            place
                .read("m/kiosk.service")
                .contains("ExecStart=\nExecStart=/bin/sleep 2\n[Service]\nRestart=always\n")
        );
    });
}

#[test]
#[ignore = "needs util-linux's findmnt"]
fn findmnt_reads_a_table_whose_lines_were_set() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/fstab";
    config::set(file, "/tmp", "tmpfs /tmp tmpfs size=1g 0 0");
    config::set(file, "/swapfile2", "/swapfile2 none swap sw 0 0");
    config::comment(file, "/mnt");
});"#,
    )
    .with("m/fstab", "# <file system> <mount point> <type> <options>\nproc\t/proc\tproc defaults 0 0\ntmpfs /tmp tmpfs defaults 0 0\n/dev/nowhere /mnt ext4 defaults 0 2\n");
    edits(&place, &["m/fstab"], |place| {
        let file = place.path("m/fstab");
        let list = asked(
            "findmnt",
            &["--tab-file", shown(&file), "--raw", "--noheadings", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS"],
        );
        assert_eq!(list, "proc /proc proc defaults\ntmpfs /tmp tmpfs size=1g\n/swapfile2 none swap sw\n");
        // That the swap file is not there is a warning.
        let output = Command::new("findmnt").args(["--verify", "--tab-file", shown(&file)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("[E]"), "{said}");
    });
}

#[test]
fn a_shell_reads_what_was_assigned() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let file = "@/m/java.sh";
    config::set(file, "JAVA_HOME", "/opt/new");
    config::set(file, "GREETING", text::quote("it's a \"day\""));
    config::set(file, "MODE", "fast");
});"#,
    )
    .with(
        "m/java.sh",
        "# MODE=slow\nTEXT='\nMODE=no\n'\nif [ -z \"$JAVA_HOME\" ]; then\n    MODE=slow\nfi\nexport JAVA_HOME=/opt/old # the old one\nPATH=$JAVA_HOME/bin:$PATH\n",
    );
    edits(&place, &["m/java.sh"], |place| {
        let script = format!(
            ". {} && echo \"$MODE|$GREETING|$(env | grep ^JAVA_HOME)\"",
            place.path("m/java.sh").display()
        );
        let said = asked("sh", &["-c", &script]);
        assert_eq!(said, "fast|it's a \"day\"|JAVA_HOME=/opt/new\n");
    });
}

#[test]
fn environment_keeps_its_export_and_locales_are_written_as_locale_gen_reads_them() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    config::set("@/m/environment", "JAVA_HOME", "/opt/new", #{ format: "environment" });
    config::set("@/m/locale.gen", "de_DE.UTF-8", "UTF-8");
});"#,
    )
    .with("m/environment", "PATH=\"/usr/bin\"\nexport JAVA_HOME=/old\n")
    .with(
        "m/locale.gen",
        "# This file lists locales.\n# de_DE ISO-8859-1\n# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n",
    );
    edits(&place, &["m/environment", "m/locale.gen"], |place| {
        assert_eq!(place.read("m/environment"), "PATH=\"/usr/bin\"\nexport JAVA_HOME=/opt/new\n");
        let read = format!(
            "while read -r locale charset; do case $locale in \\#*) ;; *) echo \"$locale/$charset\" ;; esac; done < {}",
            place.path("m/locale.gen").display()
        );
        assert_eq!(asked("sh", &["-c", &read]), "de_DE.UTF-8/UTF-8\nen_US.UTF-8/UTF-8\n");
    });
}

const DAEMON: &str = r#"{
    "log-driver": "json-file",
    "log-opts": { "max-size": "10m" },
    "runtimes": {
        "own": { "path": "/usr/bin/own" }
    }
}
"#;

const CONTAINERD: &str = r#"# Ours.
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause:3.8" # as shipped
"#;

#[test]
fn python_reads_what_was_set_in_json_and_toml() {
    let place = Place::new(
        r#"step::run("01", "First", || {
    let json = "@/m/daemon.json";
    config::set(json, "log-driver", "local");
    config::set(json, #{ "max-size": "1g", "max-file": "3" }, #{ section: "log-opts" });
    config::set(json, "dns", ["1.1.1.1", "8.8.8.8"]);
    config::set(json, "limits", #{ soft: 1024, hard: 2.5, on: true, none: () });
    config::remove(json, "own", #{ section: "runtimes" });
    let toml = "@/m/config.toml";
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    config::set(toml, "sandbox_image", "pause:3.9", #{ section: cri });
    config::set(toml, "SystemdCgroup", true, #{ section: cri + ".containerd.runtimes.runc.options" });
    config::set(toml, #{ jobs: 4, flags: ["-a", "b\"c"] }, #{ section: "build" });
    config::remove(toml, "version");
    config::set("@/m/new.json", "name", "new");
    config::set("@/m/new.toml", "name", "new");
    assert(config::get(json, "max-file", #{ section: "log-opts" }) == "3");
    assert(config::get(json, "limits").hard == 2.5);
    assert(config::get(toml, "jobs", #{ section: "build" }) == 4);
    assert(config::get(toml, "nothing", #{ section: "nowhere" }) == ());
});"#,
    )
    .with("m/daemon.json", DAEMON)
    .with("m/config.toml", CONTAINERD);
    edits(&place, &["m/daemon.json", "m/config.toml"], |place| {
        let read = "import json, sys, tomllib; print(json.dumps([json.load(open(name)) if name.endswith('json') \
                    else tomllib.load(open(name, 'rb')) for name in sys.argv[1:]]))";
        let files =
            ["m/daemon.json", "m/config.toml", "m/new.json", "m/new.toml"].map(|file| place.path(file));
        let files: Vec<&str> = files.iter().map(|file| shown(file)).collect();
        let read = asked("python3", &[&["-c", read], &*files].concat());
        let expected = serde_json::json!([
            {
                "log-driver": "local",
                "log-opts": { "max-size": "1g", "max-file": "3" },
                "runtimes": {},
                "dns": ["1.1.1.1", "8.8.8.8"],
                "limits": { "soft": 1024, "hard": 2.5, "on": true, "none": null },
            },
            {
                "plugins": { "io.containerd.grpc.v1.cri": {
                    "sandbox_image": "pause:3.9",
                    "containerd": { "runtimes": { "runc": { "options": { "SystemdCgroup": true } } } },
                } },
                "build": { "jobs": 4, "flags": ["-a", "b\"c"] },
            },
            { "name": "new" },
            { "name": "new" },
        ]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&read).expect("JSON"), expected);
        assert!(place.read("m/config.toml").contains("\"pause:3.9\" # as shipped"));
    });
    assert!(!place.exists("m/new.json") && !place.exists("m/new.toml"));
}

#[test]
fn a_value_of_json_is_undone_alone_and_modified_elsewhere_it_is_no_conflict() {
    let place = Place::new(
        r#"step::run("01", "One", || config::set("@/m/daemon.json", #{ "max-size": "1g", "max-file": "3" }, #{ section: "log-opts" }));
step::run("02", "Two", || config::set("@/m/daemon.json", "debug", true));"#,
    )
    .with("m/daemon.json", DAEMON);
    place.run("plan.rhai --dry-run").ends(6).says("+    \"debug\": true");
    assert_eq!(place.read("m/daemon.json"), DAEMON);
    place.run("plan.rhai").ends(0);
    place.edit("m/daemon.json", "/usr/bin/own", "/opt/own");
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
    place.run("rollback 01").ends(0).says("2 undone");
    let kept = DAEMON.replace("/usr/bin/own", "/opt/own");
    assert_eq!(place.read("m/daemon.json"), kept.replace("    }\n}", "    },\n    \"debug\": true\n}"));
    place.edit("m/daemon.json", "\"debug\": true", "\"debug\": false");
    place.run("rollback").ends(4).says("1 conflict").says("\"debug\": false");
    place.edit("m/daemon.json", "\"debug\": false", "\"debug\": true");
    place.run("rollback").ends(0).says("1 undone");
    assert_eq!(place.read("m/daemon.json"), kept);
}

#[test]
fn a_document_that_no_longer_parses_is_a_conflict_of_its_rollback_and_stops_nothing_else() {
    let plan = r#"step::run("01", "One", || {
    config::set("@/m/daemon.json", #{ "debug": true, dns: ["1.1.1.1"] });
    config::set("@/m/a.toml", "a", 2);
    config::set("@/m/a.env", "A", 2);
    file::write("@/m/new", "new\n");
});"#;
    for (policy, exit) in [("", 4), (" --on-conflict keep", 0), (" --on-conflict overwrite", 0)] {
        let place = Place::new(plan)
            .with("m/daemon.json", DAEMON)
            .with("m/a.toml", "a = 1\n")
            .with("m/a.env", "A=1\n");
        place.run("plan.rhai").ends(0);
        let broken = place.read("m/daemon.json").replacen("{\n", "{ oops\n", 1);
        place.write("m/daemon.json", &broken);
        place.write("m/a.toml", "a = 2\na = 3\n");
        place.write("m/a.env", "A=2\nA=3\n");
        place.run(&format!("rollback --dry-run{policy}")).ends(6);
        assert!(place.exists("m/new"));
        let rollback = place.run(&format!("rollback{policy}")).ends(exit);
        assert!(!place.exists("m/new"));
        if policy.ends_with("overwrite") {
            assert_eq!(place.read("m/daemon.json"), DAEMON);
            assert_eq!((&*place.read("m/a.toml"), &*place.read("m/a.env")), ("a = 1\n", "A=1\n"));
            continue;
        }
        assert_eq!(place.read("m/daemon.json"), broken);
        assert_eq!((&*place.read("m/a.toml"), &*place.read("m/a.env")), ("a = 2\na = 3\n", "A=2\nA=3\n"));
        if policy.is_empty() {
            rollback
                .says("4 conflicts")
                .says("restores all of `@/m/a.toml` from before this change")
                .says("--on-conflict overwrite");
        }
    }
}

#[test]
fn all_spellings_of_a_key_are_one_target() {
    let plan = r#"step::run("01", "One", || config::set("@/m/my.cnf", "bind-address", "1.1.1.1", #{ section: "mysqld" }));
step::run("02", "Two", || config::set("@/m/my.cnf", "bind_address", "2.2.2.2", #{ section: "MYSQLD" }));"#;
    let place = Place::new(plan).with("m/my.cnf", "[mysqld]\nbind-address = 0.0.0.0 # all\n").with(
        "plan/twice.rhai",
        r#"config::set("@/m/my.cnf", #{ "a-b": 1, "a_b": 2 }, #{ section: "mysqld" });"#,
    );
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/my.cnf"), "[mysqld]\nbind-address = 2.2.2.2 # all\n");
    place.run("rollback 01").ends(1).says("cannot undo step 01 alone").says("run `kkrun rollback 01 02`");
    let typed = format!("rollback line:{}#[Mysqld]bind-address", shown(&place.path("m/my.cnf")));
    place.run(&typed).ends(0).says("2 undone");
    assert_eq!(place.read("m/my.cnf"), "[mysqld]\nbind-address = 0.0.0.0 # all\n");
    place.run("twice.rhai").ends(1).says("cannot set `a-b` and `a_b`").says("they are one key");
}

#[test]
fn overwriting_one_step_takes_only_what_it_must() {
    let plan = r#"step::run("01", "One", || {
    config::set("@/m/a.env", "A", 2);
    config::set("@/m/daemon.json", "debug", true);
});
step::run("02", "Two", || {
    config::set("@/m/a.env", "B", 2);
    config::set("@/m/daemon.json", "dns", ["1.1.1.1"]);
});"#;
    let place = Place::new(plan).with("m/daemon.json", DAEMON).with("m/a.env", "A=1\n");
    place.run("plan.rhai").ends(0);
    place.write("m/a.env", "A=2\n# ours\nA=3\nB=2\n");
    let broken = place.read("m/daemon.json").replacen("{\n", "{ oops\n", 1);
    place.write("m/daemon.json", &broken);
    place
        .run("rollback 01")
        .ends(4)
        .says("overwriting it leaves no line of A but the one from before this change")
        .says("restores all of `@/m/daemon.json` from before this change, without what was set in it since");
    assert_eq!(place.read("m/a.env"), "A=2\n# ours\nA=3\nB=2\n");
    place.run("rollback 01 --on-conflict overwrite --dry-run").ends(6);
    assert_eq!(
        (place.read("m/a.env"), place.read("m/daemon.json")),
        ("A=2\n# ours\nA=3\nB=2\n".to_owned(), broken.clone())
    );
    // What is in the file of lines stays; of a document that does not parse there is no part.
    place.run("rollback 01 --on-conflict overwrite").ends(0).says("2 undone");
    assert_eq!(place.read("m/a.env"), "# ours\nA=1\nB=2\n");
    assert_eq!(place.read("m/daemon.json"), DAEMON);
    for kept in ["A=2\n# ours\nA=3\nB=2\n", &broken] {
        assert!(place.backup_of(kept).exists());
    }
    place.run("plan.rhai --redo 02").ends(0).says("1 change");
    assert!(place.read("m/daemon.json").contains("1.1.1.1"));
    place.run("rollback").ends(0);
    assert_eq!(
        (place.read("m/a.env"), place.read("m/daemon.json")),
        ("# ours\nA=1\n".to_owned(), DAEMON.to_owned())
    );
}

#[test]
fn a_file_that_is_not_understood_is_refused_with_the_way_on() {
    let place = Place::empty()
        .with("m/a.json", "{\n  \"port\": [1]\n}\n")
        .with("m/a.toml", "[port]\na = 1\n")
        .with("m/a.conf", "127.0.0.1 localhost\n")
        .with("m/peers.conf", "[Peer]\nPublicKey=a\n[Peer]\nPublicKey=b\n")
        .with("plan/json.rhai", r#"config::set("@/m/a.json", "number", 2, #{ section: "port" });"#)
        .with("plan/json_comment.rhai", r#"config::comment("@/m/a.json", "port");"#)
        .with("plan/json_block.rhai", r#"config::block("@/m/a.json", "b", "x");"#)
        .with("plan/toml.rhai", r#"config::set("@/m/a.toml", "port", 2);"#)
        .with(
            "plan/null.rhai",
            r#"let none = text::json_parse("[null]"); config::set("@/m/a.toml", "none", none);"#,
        )
        .with("plan/section.rhai", r#"config::set("@/m/a.toml", "a", 2, #{ section: "b..c" });"#)
        .with("plan/yaml.rhai", r#"config::set("@/m/new.yaml", "port", 2);"#)
        .with("plan/table.rhai", r#"config::set("@/m/a.conf", "10.0.0.1", "kiosk");"#)
        .with("plan/comment.rhai", r#"config::comment("@/m/a.conf", "127.0.0.1");"#)
        .with("plan/peers.rhai", r#"config::set("@/m/peers.conf", "Endpoint", "x", #{ section: "Peer" });"#)
        .with("plan/unit.rhai", r#"config::set("@/m/a.service", "User", "kim");"#)
        .with("plan/sections.rhai", r#"config::set("@/m/a.env", "A", 1, #{ section: "s" });"#)
        .with(
            "plan/format.rhai",
            r#"let format = "nonsense"; config::set("@/m/a.conf", "a", 1, #{ format: format });"#,
        );
    let before = place.prints_of("m");
    place.run("json.rhai").ends(1).says("`port` has no keys, it is an array");
    place.run("json_comment.rhai").ends(1).says("cannot comment out port").says("config::remove");
    place.run("json_block.rhai").ends(1).says("its values are nested").says("config::set");
    place.run("toml.rhai").ends(1).says("it is a table of its own").says("`section`");
    place.run("null.rhai").ends(1).says("TOML has no null");
    place.run("section.rhai").ends(1).says("invalid section `b..c`").says("log-opts");
    place.run("yaml.rhai").ends(1).says("it is YAML").says("file::write");
    place
        .run("table.rhai")
        .ends(1)
        .says("its format is unknown, and line 1 is not `key = value`")
        .says("`format`")
        .says("config::line");
    place.run("comment.rhai").ends(1).says("its format is unknown");
    place.run("peers.rhai").ends(1).says("`[Peer]` is there twice in `@/m/peers.conf`: in lines 1 and 3");
    place.run("unit.rhai").ends(1).says("every key is in a section").says("option `section`");
    place.run("sections.rhai").ends(1).says("this format has no sections");
    place.run("format.rhai").ends(1).says("`nonsense`").says("`sshd`");
    assert_eq!(place.prints_of("m"), before);
}

#[test]
#[ignore = "needs a base that boots, and root"]
fn systemd_and_bash_read_back_what_was_quoted_for_them() {
    crate::handlers::holds_on_a_booted_machine(include_str!("quotes.sh"));
}

#[test]
#[ignore = "needs a base that boots, root and a network"]
fn programs_read_what_was_set_in_the_files_that_debian_ships() {
    crate::handlers::holds_on_a_booted_machine(include_str!("formats.sh"));
}

/// All strings of up to three of these letters.
fn strings(letters: &[&str]) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut longest = all.clone();
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}")))
            .collect();
        all.extend(longest.iter().cloned());
    }
    all
}

#[test]
#[ignore = "needs npm, pip, Ruby's dotenv and a network"]
fn every_dotenv_reads_back_what_was_quoted_for_it() {
    let place = Place::new(
        r#"let lines = "";
let refused = 0;
for (value, at) in text::json_parse(file::read("@/values")) {
    try { lines += `K${at}=${text::quote(value, #{ format: "dotenv" })}` + "\n"; } catch { refused += 1; }
}
file::write("@/m/env", lines);
print(refused);
"#,
    );
    let letters = ["'", "\"", "$", "`", "\\", "#", " ", "a", "{", "}", "=", "é", "\t", "(", "!"];
    let values = strings(&letters);
    place.write("values", &serde_json::to_string(&values).expect("strings are JSON"));
    place.run("plan.rhai").ends(0);
    let (env, readers) = (place.path("m/env"), place.path("readers"));
    let (env, readers) = (shown(&env), shown(&readers));
    asked("npm", &["install", "--silent", "--no-fund", "--no-audit", "--prefix", readers, "dotenv@16.6.1"]);
    let python = format!("{readers}/python");
    asked("python3", &["-m", "pip", "install", "--quiet", "--target", &python, "python-dotenv==1.2.1"]);
    let by_npm = "console.log(JSON.stringify(require(process.argv[1]).parse(require('fs').readFileSync(process.argv[2]))))";
    let module = format!("{readers}/node_modules/dotenv");
    let by_python = "import sys; sys.path.insert(0, sys.argv[1]); import dotenv, json; print(json.dumps(dotenv.dotenv_values(sys.argv[2])))";
    let by_ruby = "require 'dotenv'; require 'json'; print Dotenv::Parser.call(File.read(ARGV[0], encoding: 'UTF-8')).to_json";
    let read = [
        asked("node", &["-e", by_npm, &module, env]),
        asked("python3", &["-c", by_python, &python, env]),
        asked("ruby", &["-e", by_ruby, env]),
    ];
    for read in read {
        let read: std::collections::BTreeMap<String, String> = serde_json::from_str(&read).expect("a map");
        assert!(read.len() > values.len() / 2, "{} of {}", read.len(), values.len());
        for (key, value) in read {
            let at: usize = key[1..].parse().expect("a number");
            assert_eq!(value, values[at], "{key}");
        }
    }
}
