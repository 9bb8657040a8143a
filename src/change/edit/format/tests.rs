//! Each format by what becomes of its files.

use super::super::{DesiredEntry, EntryKind, FileEntry};
use super::rules::{Continuation, Repeated, Rules, Spelling, Trailing};
use super::*;
use crate::failure::Failure;

fn entry(format: Format, section: Option<&str>, key: &str) -> FileEntry {
    let kind = EntryKind::Line { key: key.to_owned(), separator: None };
    FileEntry { section: section.map(str::to_owned), comment: "#".to_owned(), format, kind }
}

/// What the file is after the edit; none if it stays.
fn edited(entry: &FileEntry, before: &str, desired: DesiredEntry<'_>) -> Result<Option<String>, String> {
    let edited = entry.edited(before.as_bytes(), desired, "/f").map_err(|error| error.to_string())?;
    Ok(edited.map(|edited| String::from_utf8(edited.bytes).unwrap()))
}

/// Each file before, and after `key` is set to `value`.
fn sets(format: Format, section: Option<&str>, (key, value): (&str, &str), files: &[(&str, &str)]) {
    let entry = entry(format, section, key);
    for (before, after) in files {
        let desired = DesiredEntry::Text(value.as_bytes());
        assert_eq!(edited(&entry, before, desired).unwrap().as_deref(), Some(*after), "{before}");
        assert_eq!(
            entry.value(after.as_bytes(), "/f").unwrap().as_deref(),
            Some(value.as_bytes()),
            "{after}"
        );
        assert_eq!(edited(&entry, after, desired), Ok(None), "{after}");
    }
}

fn value(format: Format, section: Option<&str>, key: &str, text: &str) -> Option<String> {
    let value = entry(format, section, key).value(text.as_bytes(), "/f").unwrap()?;
    Some(String::from_utf8(value).unwrap())
}

fn refused(entry: &FileEntry, before: &str, desired: DesiredEntry<'_>) -> String {
    let error = entry.edited(before.as_bytes(), desired, "/f").unwrap_err();
    let failure = error.downcast_ref::<Failure>().unwrap();
    format!("{} {}", failure.message, failure.hints.join(" "))
}

#[test]
fn words_are_separated_by_whitespace() {
    sets(
        Format::Words,
        None,
        ("k", "new"),
        &[
            ("K 1\nk old", "K 1\nk new"),
            ("k\t\told\n", "k\t\tnew\n"),
            ("K 1\nk\n", "K 1\nk new\n"),
            ("Port 22\n# k yes\nX no\n", "Port 22\n# k yes\nk new\nX no\n"),
            ("# only words\n", "# only words\nk new\n"),
            ("kk=1\n", "kk=1\nk new\n"),
        ],
    );
}

#[test]
fn a_key_of_sshd_has_no_case_and_goes_before_the_first_match() {
    sets(
        Format::Sshd,
        None,
        ("PermitRootLogin", "no"),
        &[
            ("permitrootlogin yes\n", "permitrootlogin no\n"),
            ("PermitRootLogin=yes\n", "PermitRootLogin=no\n"),
            ("PermitRootLogin yes # for now\n", "PermitRootLogin no # for now\n"),
            (
                "Port 22\n\nMatch User a\n    PermitRootLogin yes\n",
                "Port 22\nPermitRootLogin no\n\nMatch User a\n    PermitRootLogin yes\n",
            ),
            (
                "Port 22\n\n# the backup\nmatch user a\n  X no\n",
                "Port 22\nPermitRootLogin no\n\n# the backup\nmatch user a\n  X no\n",
            ),
            // The first wins.
            ("PermitRootLogin yes\nPermitRootLogin no\n", "PermitRootLogin no\nPermitRootLogin no\n"),
        ],
    );
    sets(
        Format::Sshd,
        Some("Match User a"),
        ("X", "1"),
        &[
            ("Match  user b\n X 2\nmatch User a\n\tx 2\n", "Match  user b\n X 2\nmatch User a\n\tx 1\n"),
            ("Port 1\nMatch all\n  X 2\n", "Port 1\n\nMatch User a\n    X 1\nMatch all\n  X 2\n"),
            ("Port 1\n", "Port 1\n\nMatch User a\n    X 1\n"),
        ],
    );
    sets(
        Format::Ssh,
        Some("Host a b"),
        ("X", "1"),
        &[
            ("Host *\n    X 2\n", "Host a b\n    X 1\nHost *\n    X 2\n"),
            ("Host a\n X 2\nhost=a b\n  Y 1\n", "Host a\n X 2\nhost=a b\n  Y 1\n  X 1\n"),
        ],
    );
    sets(
        Format::Ssh,
        None,
        ("X", "1"),
        &[("# ours\n\nHost *\n    X 2\n", "# ours\nX 1\n\nHost *\n    X 2\n")],
    );
    let keys = entry(Format::Sshd, None, "AllowUsers");
    assert!(
        refused(&keys, "AllowUsers a\nallowusers b\n", DesiredEntry::Text(b"c")).contains("lines 1 and 2")
    );
    // What is below would count then.
    let login = entry(Format::Sshd, None, "PermitRootLogin");
    let twice = "PermitRootLogin yes\npermitrootlogin no\n";
    assert!(refused(&login, twice, DesiredEntry::Absent).contains("more than once"));
    let section = entry(Format::Sshd, Some("User a"), "X");
    assert!(refused(&section, "", DesiredEntry::Text(b"1")).contains("Match User backup"));
}

#[test]
fn a_line_of_postfix_goes_on_in_the_indented_lines_below() {
    let text = "a = 1,\n    2\n# about\n\n\t3\nb=2\n";
    assert_eq!(value(Format::Postfix, None, "a", text).as_deref(), Some("1, 2 3"));
    sets(
        Format::Postfix,
        None,
        ("a", "new"),
        &[
            (text, "a = new\nb=2\n"),
            ("b = 1,\n# a = old\n  2\n", "b = 1,\n# a = old\n  2\na = new\n"),
            ("b = 1\n  a = 2\n", "b = 1\n  a = 2\na = new\n"),
        ],
    );
    let a = entry(Format::Postfix, None, "a");
    assert_eq!(edited(&a, text, DesiredEntry::Absent), Ok(Some("b=2\n".to_owned())));
    let commented = "#a = 1,\n#    2\n## about\n#\n#\t3\nb=2\n".to_owned();
    assert_eq!(edited(&a, text, DesiredEntry::Comment), Ok(Some(commented)));
    assert_eq!(edited(&a, text, DesiredEntry::Text(b"1, 2 3")), Ok(None));
}

#[test]
fn an_assignment_keeps_its_export_and_what_follows() {
    for format in [Format::Environment, Format::Shell, Format::Dotenv] {
        sets(
            format,
            None,
            ("A", "/new"),
            &[
                ("export A=/old\n", "export A=/new\n"),
                ("B=1\n", "B=1\nA=/new\n"),
                ("# A=/old\nB=1\n", "# A=/old\nA=/new\nB=1\n"),
            ],
        );
    }
    for format in [Format::Environment, Format::Shell] {
        sets(format, None, ("A", "/new"), &[("A=/old # why\n", "A=/new # why\n")]);
        let a = entry(format, None, "A");
        let why = if format == Format::Shell { "read back" } else { "begins a comment" };
        assert!(refused(&a, "", DesiredEntry::Text(b"a # b")).contains(why));
    }
    sets(
        Format::Dotenv,
        None,
        ("A", "new"),
        &[
            ("A='one\nA=2\n'\nA2=1\n", "A=new\nA2=1\n"),
            ("B=\"1\\\"\nA=2\"\nC=it's\n", "B=\"1\\\"\nA=2\"\nC=it's\nA=new\n"),
        ],
    );
    let a = entry(Format::Dotenv, None, "A");
    assert!(refused(&a, "B=\"1\nA=2\n", DesiredEntry::Text(b"1")).contains("line 1: its quotes never close"));
}

#[test]
fn a_shell_assigns_outside_of_its_commands() {
    sets(
        Format::Shell,
        None,
        ("A", "new"),
        &[
            ("A=old; export A\n", "A=new; export A\n"),
            ("A=\"one\ntwo\" # why\n", "A=new # why\n"),
            ("if true; then\n    A=1\nfi\n", "if true; then\n    A=1\nfi\nA=new\n"),
            ("if true; then A=1; fi\nB=1\n", "if true; then A=1; fi\nB=1\nA=new\n"),
            ("#A=1\nif x; then\n    A=1\nfi\n", "#A=1\nif x; then\n    A=1\nfi\nA=new\n"),
            ("f() {\nA=1\n}\n", "f() {\nA=1\n}\nA=new\n"),
            (
                "case $x in\n(a) A=1 ;;\nb) A=2 ;;\nesac\nA=3\n",
                "case $x in\n(a) A=1 ;;\nb) A=2 ;;\nesac\nA=new\n",
            ),
            ("for x in a fi; do\n A=1\ndone < f\n", "for x in a fi; do\n A=1\ndone < f\nA=new\n"),
            ("B='\nA=1\n'\n", "B='\nA=1\n'\nA=new\n"),
            ("A=1 run\n", "A=1 run\nA=new\n"),
            ("A=$(echo \"a b\" | tr -d x)\n", "A=new\n"),
            ("B=it\\'s\nA=1\n", "B=it\\'s\nA=new\n"),
            ("[ -f x ] && A=1\n", "[ -f x ] && A=1\nA=new\n"),
            ("export A=1 B=2\n", "export A=new B=2\n"),
        ],
    );
    let a = entry(Format::Shell, None, "A");
    assert!(refused(&a, "export A=1 B=2\n", DesiredEntry::Absent).contains("line 1 has more in it"));
    assert!(refused(&a, "", DesiredEntry::Text(b"a b")).contains("read back"));
    assert!(
        refused(&a, "cat << X\nA=1\nX\n", DesiredEntry::Text(b"1"))
            .contains("line 1: it has a here-document")
    );
    assert!(refused(&a, "if x; then\n", DesiredEntry::Text(b"1")).contains("line 1: it never ends"));
    assert!(refused(&a, "B=1\nC='\n", DesiredEntry::Text(b"1")).contains("line 2: its quotes"));
}

#[test]
fn a_table_of_file_systems_has_lines_named_by_their_fields() {
    let line = "/swapfile2 none swap sw 0 0";
    sets(
        Format::Fstab,
        None,
        ("/swapfile2", line),
        &[
            ("UUID=1 / ext4 defaults 0 1\n", "UUID=1 / ext4 defaults 0 1\n/swapfile2 none swap sw 0 0\n"),
            ("/swapfile2 none swap defaults 0 0\n", "/swapfile2 none swap sw 0 0\n"),
        ],
    );
    let data = entry(Format::Fstab, None, "/data");
    let text = "/dev/sdb1\t/data\text4\tdefaults\t0\t2\n";
    assert_eq!(edited(&data, text, DesiredEntry::Text(b"/dev/sdb1 /data ext4 defaults 0 2")), Ok(None));
    assert_eq!(edited(&data, text, DesiredEntry::Comment), Ok(Some(format!("#{text}"))));
    let swap = entry(Format::Fstab, None, "/swapfile2");
    assert!(refused(&swap, "", DesiredEntry::Text(b"none swap sw 0 0")).contains("must be its whole line"));
    assert_eq!(value(Format::Fstab, None, "none", "/swapfile2 none swap sw 0 0\n"), None);
}

#[test]
fn a_unit_has_lists_that_an_empty_value_resets() {
    let service = Some("Service");
    sets(
        Format::Systemd,
        service,
        ("ExecStart", "/bin/b"),
        &[
            (
                "[Service]\nExecStart=/bin/a \\\n# why\n  --x\nUser=a\n",
                "[Service]\nExecStart=/bin/b\nUser=a\n",
            ),
            ("[Service]\nExecStart=\nExecStart=/bin/a\n", "[Service]\nExecStart=\nExecStart=/bin/b\n"),
            (
                "[Service]\nExecStart=/bin/c\nExecStart =\nUser=a\nExecStart= /bin/a\n",
                "[Service]\nExecStart=/bin/c\nExecStart =\nUser=a\nExecStart= /bin/b\n",
            ),
            ("[Service]\nExecStart=\n", "[Service]\nExecStart=\nExecStart=/bin/b\n"),
            (
                "[Service]\nExecStart=/bin/a\nExecStart =\nUser=a\n",
                "[Service]\nExecStart=/bin/a\nExecStart =\nExecStart =/bin/b\nUser=a\n",
            ),
            (
                "[Unit]\nA=1\n[Service]\nX=1\n[Service]\nY=2\n",
                "[Unit]\nA=1\n[Service]\nX=1\n[Service]\nY=2\nExecStart=/bin/b\n",
            ),
        ],
    );
    let text = "[Service]\nExecStart=/bin/a \\\n; why\n  --x\n";
    assert_eq!(value(Format::Systemd, service, "ExecStart", text).as_deref(), Some("/bin/a    --x"));
    let start = entry(Format::Systemd, service, "ExecStart");
    let reset = "[Service]\nExecStart=\nExecStart=/bin/a\n";
    assert_eq!(edited(&start, reset, DesiredEntry::Absent), Ok(Some("[Service]\n".to_owned())));
    let environment = entry(Format::Systemd, service, "Environment");
    let many = "[Service]\nEnvironment=A=1\nEnvironment=B=2\n";
    assert!(refused(&environment, many, DesiredEntry::Text(b"C=3")).contains("lines 2 and 3"));
    let outside = entry(Format::Systemd, None, "ExecStart");
    assert!(refused(&outside, "", DesiredEntry::Text(b"x")).contains("every key is in a section"));
}

/// What the documents say in the row of each format that is data.
fn row(name: &str, rules: &Rules) -> String {
    let signs = |signs: &[u8]| {
        signs.iter().map(|sign| format!("`{}`", char::from(*sign))).collect::<Vec<_>>().join(" ")
    };
    let behind = match rules.trailing {
        Trailing::Nothing => "no comment".to_owned(),
        Trailing::Anywhere(all) => format!("{} anywhere", signs(all)),
        Trailing::Spaced(all) => format!("{} behind whitespace", signs(all)),
        Trailing::Unknown(all) => format!("{} in it is refused", signs(all)),
    };
    let several = match rules.continuation {
        Continuation::Nothing => "never",
        Continuation::Backslash => "a backslash at the end",
        Continuation::BackslashOverComments => "a backslash at the end, over comments",
        Continuation::Indented => "indented lines below",
        Continuation::Deeper => "lines below that are indented deeper",
        Continuation::Unknown => "a backslash at the end; a deeper line below is refused",
    };
    let spelling = |names| match names {
        Spelling::Exact => "as written",
        Spelling::AnyCase => "in any case",
        Spelling::AnyCaseAndBlanks => "in any case, with whitespace or without",
        Spelling::AnyCaseAndWidth => "in any case, with one space or more",
        Spelling::AnyDash => "with `-` or `_`",
        Spelling::Sysctl => "with `.` or `/`, and a `-` before it or not",
        Spelling::AnyCaseBeforeQuote => "in any case, but for what is in quotes",
        Spelling::Unknown => "as written; beside another spelling refused",
    };
    let repeated = match rules.repeated {
        Repeated::Refused => "refused",
        Repeated::Last => "the last",
        Repeated::Reset => "what is behind an empty one; several refused",
    };
    let sections = match &rules.sections {
        None => "none".to_owned(),
        Some(sections) if sections.headings_but.is_some() => {
            "headings, but for those of a host or path".to_owned()
        }
        Some(sections) => {
            let several = if sections.merges { "are one" } else { "refused" };
            format!("{}; several {several}", spelling(sections.names))
        }
    };
    format!(
        "| `{name}` | {} | {behind} | {several} | {} | {repeated} | {sections} |",
        signs(rules.comments),
        spelling(rules.keys)
    )
}

#[test]
fn the_documents_say_what_each_format_is_like() {
    let documents = include_str!("../../../../docs/config-formats.md");
    let missing: Vec<String> = [
        ("ini", &table::INI),
        ("keyfile", &table::KEYFILE),
        ("configparser", &table::CONFIGPARSER),
        ("fail2ban", &table::FAIL2BAN),
        ("supervisor", &table::SUPERVISOR),
        ("samba", &table::SAMBA),
        ("mysql", &table::MYSQL),
        ("postgresql", &table::POSTGRESQL),
        ("sysctl", &table::SYSCTL),
        ("php", &table::PHP),
        ("php_fpm", &table::PHP_FPM),
        ("git", &table::GIT),
        ("wireguard", &table::WIREGUARD),
        ("redis", &table::REDIS),
        ("dnsmasq", &table::DNSMASQ),
        ("chrony", &table::CHRONY),
        ("nsswitch", &table::NSSWITCH),
        ("aliases", &table::ALIASES),
        ("adduser", &table::ADDUSER),
        ("openssl", &table::OPENSSL),
        ("systemd", &table::SYSTEMD),
        ("networkd", &table::NETWORKD),
        ("postfix", &table::POSTFIX),
        ("words", &table::WORDS),
    ]
    .into_iter()
    .map(|(name, rules)| {
        assert!(serde_json::from_str::<Format>(&format!("\"{name}\"")).is_ok(), "{name}");
        row(name, rules)
    })
    .filter(|row| !documents.contains(&format!("{row}\n")))
    .collect();
    assert!(missing.is_empty(), "not in docs/config-formats.md:\n{}", missing.join("\n"));
}

#[test]
fn a_comment_behind_a_value_is_the_formats() {
    for (format, section, before, after) in [
        (Format::Fail2ban, Some("s"), "[s]\nk = old ; why\n", "[s]\nk = new ; why\n"),
        (Format::Fail2ban, Some("s"), "[s]\nk = old # no\n", "[s]\nk = new\n"),
        (Format::Supervisor, Some("s"), "[s]\nk=old # why\n", "[s]\nk=new # why\n"),
        (Format::Supervisor, Some("s"), "[s]\nk=old;no\n", "[s]\nk=new\n"),
        (Format::Keyfile, Some("s"), "[s]\nk=old # no\n;k=1\n", "[s]\nk=new\n;k=1\n"),
        (Format::Samba, Some("s"), "[s]\nk = old ; no\n", "[s]\nk = new\n"),
        (Format::Mysql, Some("s"), "[s]\nk = old# why\n", "[s]\nk = new# why\n"),
        (Format::Mysql, Some("s"), "[s]\nk = \"a # b\" # why\n", "[s]\nk = new # why\n"),
        (Format::Mysql, Some("s"), "[s]\nk # why\n", "[s]\nk=new # why\n"),
        (Format::Mysql, Some("s"), "[s]\nk = # why\n", "[s]\nk = new # why\n"),
        (Format::Postgresql, None, "K = 'it''s # no'\t# why\n", "K = new\t# why\n"),
        (Format::Postgresql, None, "k 'old' # why\nkk = 1\n", "k new # why\nkk = 1\n"),
        (Format::Php, None, "[PHP]\nk = \"a;b\" ; why\n[x]\n", "[PHP]\nk = new ; why\n[x]\n"),
        (Format::Git, Some("s"), "[s]\n\tk = \"a;b\" # why\n", "[s]\n\tk = new # why\n"),
        (Format::Wireguard, Some("s"), "[s]\nK = old#why\n", "[s]\nK = new#why\n"),
        (Format::Redis, None, "k old # no\n", "k new\n"),
        (Format::Dnsmasq, None, "k=a#no # why\n", "k=new # why\n"),
        (Format::Nsswitch, None, "k:  old # why\n", "k:  new # why\n"),
        (Format::Sysctl, None, "k = old ; no\n", "k = new\n"),
        (Format::Openssl, Some("s"), "[ s ]\nk = old # why\n", "[ s ]\nk = new # why\n"),
    ] {
        let mut entry = entry(format, section, "k");
        assert_eq!(
            edited(&entry, before, DesiredEntry::Text(b"new")),
            Ok(Some(after.to_owned())),
            "{before}"
        );
        assert_eq!(entry.value(after.as_bytes(), "/f").unwrap().as_deref(), Some(&b"new"[..]), "{after}");
        entry.comment = format.comment().to_owned();
        let commented = edited(&entry, before, DesiredEntry::Comment).unwrap().unwrap();
        assert_eq!(entry.value(commented.as_bytes(), "/f").unwrap(), None, "{commented}");
    }
    let k = entry(Format::Fail2ban, Some("s"), "k");
    assert!(
        refused(&k, "", DesiredEntry::Text(b"a ; b")).contains("a `;` behind whitespace begins a comment")
    );
    let k = entry(Format::Postgresql, None, "k");
    assert!(refused(&k, "", DesiredEntry::Text(b"*")).contains("single quotes"));
    for value in ["'*'", "5432", "-1", "0.5", "64MB", "on", "a-b.c:d"] {
        assert!(edited(&k, "", DesiredEntry::Text(value.as_bytes())).is_ok(), "{value}");
    }
    let k = entry(Format::Mysql, Some("s"), "k");
    assert!(refused(&k, "[s]\nk = \"a\nb\"\n", DesiredEntry::Text(b"1")).contains("close in a later line"));
}

#[test]
fn a_value_goes_on_as_the_format_says() {
    let text = "[s]\nk = %(a)s\n    b[c=\"d\"]\n# about\n\n    e\n# x\nl = 1\n";
    for format in [Format::Fail2ban, Format::Configparser, Format::Supervisor] {
        let k = entry(format, Some("s"), "K");
        assert_eq!(value(format, Some("s"), "k", text).as_deref(), Some("%(a)s\nb[c=\"d\"]\n\ne"));
        assert_eq!(
            edited(&k, text, DesiredEntry::Text(b"new")),
            Ok(Some("[s]\nk = new\n# x\nl = 1\n".to_owned()))
        );
        assert_eq!(edited(&k, text, DesiredEntry::Absent), Ok(Some("[s]\n# x\nl = 1\n".to_owned())));
        // What was commented out stays together.
        let commented = edited(&k, text, DesiredEntry::Comment).unwrap().unwrap();
        let again = edited(&k, &commented, DesiredEntry::Text(b"new")).unwrap().unwrap();
        assert!(again.contains("#    e\nK = new\n# x\n"), "{again}");
        // As deep as the key it is a key of its own.
        assert_eq!(value(format, Some("s"), "k", "[s]\n  k = 1\n  l = 2\n").as_deref(), Some("1"));
    }
    let text = "[g]\n k = a\\\n  b\nl = 1\n";
    assert_eq!(value(Format::Samba, Some("g"), "k", text).as_deref(), Some("a  b"));
    sets(Format::Samba, Some("g"), ("k", "new"), &[(text, "[g]\n k = new\nl = 1\n")]);
    sets(Format::Keyfile, Some("g"), ("k", "new"), &[("[g]\nk=a\\\nl=1\n", "[g]\nk=new\nl=1\n")]);
    sets(Format::Aliases, None, ("root", "kim"), &[("Root: a,\n\tb\nc: d\n", "Root: kim\nc: d\n")]);
}

#[test]
fn a_key_is_the_same_in_each_spelling_of_the_format() {
    let cases: &[(Format, Option<&str>, &str, &str, &str)] = &[
        (
            Format::Samba,
            Some("global"),
            "workgroup",
            "[GLOBAL]\nWork Group = a\n",
            "[GLOBAL]\nWork Group = new\n",
        ),
        (Format::Samba, Some("my  Share"), "path", "[My share]\npath = a\n", "[My share]\npath = new\n"),
        (
            Format::Mysql,
            Some("mysqld"),
            "bind-address",
            "[mysqld]\nbind_address=a\n",
            "[mysqld]\nbind_address=new\n",
        ),
        (Format::Mysql, Some("mysqld"), "k", "[mysqld]\nK=a\n", "[mysqld]\nK=a\nk=new\n"),
        (Format::Sysctl, None, "net.ipv4.x", "-net/ipv4/x = a\n", "-net/ipv4/x = new\n"),
        (Format::Sysctl, None, "net.ipv4.eth0/1.x", "net/ipv4/eth0.1/x=a\n", "net/ipv4/eth0.1/x=new\n"),
        (
            Format::Sysctl,
            None,
            "net.ipv4.eth0/1.x",
            "net.ipv4.eth0.1.x=a\n",
            "net.ipv4.eth0.1.x=a\nnet.ipv4.eth0/1.x=new\n",
        ),
        (Format::Postgresql, None, "port", "PORT=1\nPort 2\n", "PORT=1\nPort new\n"),
        (
            Format::Git,
            Some("Remote \"o\""),
            "URL",
            "[remote \"O\"]\nurl=a\n[remote \"o\"]\nurl=a\n",
            "[remote \"O\"]\nurl=a\n[remote \"o\"]\nurl=new\n",
        ),
        (Format::Wireguard, Some("Interface"), "MTU", "[interface]\nmtu=1\n", "[interface]\nmtu=new\n"),
        (Format::Keyfile, Some("s"), "k", "[s]\nK=1\n[S]\nk=1\n", "[s]\nK=1\nk=new\n[S]\nk=1\n"),
        (Format::Adduser, None, "DHOME", "dhome=/a\n", "dhome=new\n"),
    ];
    for (format, section, key, before, after) in cases {
        sets(*format, *section, (key, "new"), &[(before, after)]);
    }
    let git = entry(Format::Git, Some("user"), "name");
    assert!(
        refused(&git, "[core] bare = true\n[user]\n", DesiredEntry::Text(b"x"))
            .contains("more behind the header")
    );
}

#[test]
fn what_programs_differ_in_is_refused_where_the_program_is_not_known() {
    let text = DesiredEntry::Text(b"new");
    for (section, before, why) in [
        (None, "k = 1 ; why\n", "whether `;` begins a comment"),
        (None, "k = #fff\n", "whether `#` begins a comment"),
        (None, "k = 1,\n  2\n", "line 2: whether it continues `k`"),
        (None, "k = 1\n\n# x\n  l = 2\n", "line 4: whether it continues `k`"),
        (None, "K = 1\n", "line 1: whether its key is another spelling of `k`"),
        (Some("s"), "[S]\nk=1\n", "line 1 has it in another spelling"),
        (Some("s"), "[s]\nk = 1\n[t]\nx = {\n  a = 1\n}\n", "line 4: a block begins in it"),
    ] {
        let k = entry(Format::Ini, section, "k");
        for desired in [text, DesiredEntry::Absent, DesiredEntry::Comment] {
            assert!(refused(&k, before, desired).contains(why), "{before}: {}", refused(&k, before, desired));
        }
        if !before.contains('{') {
            assert!(k.value(before.as_bytes(), "/f").is_err(), "{before}");
        }
    }
    let k = entry(Format::Ini, None, "k");
    for value in ["x ; y", "my#pass", "a;b", "#fff", "it's #1", "sh -c 'a#b'", "'a' #b", "'a#b", "a\\", " a"]
    {
        let said = refused(&k, "k = 1\n", DesiredEntry::Text(value.as_bytes()));
        // Quotes may be read as they are.
        assert!(said.contains("`format`") && said.contains("config::line"), "{value}: {said}");
        assert!(!said.contains("quote"), "{value}: {said}");
    }
    for value in ["'x ; y'", "\"my#pass\"", "it's", "a\"b", "a\\b", "100%", "$x", "a b", ""] {
        assert!(edited(&k, "k = 1\n", DesiredEntry::Text(value.as_bytes())).is_ok(), "{value}");
    }
    assert!(refused(&k, "k = a#b\n  \n", text).contains("whether `#` begins a comment"));
    assert!(edited(&k, "k = \"a#b;c\"\n  \n", text).is_ok());
    let php = "[PHP]\nk = 1\n[x]\nk = 2\n[HOST=a]\nk = 3\n";
    sets(Format::Php, None, ("k", "new"), &[(php, "[PHP]\nk = 1\n[x]\nk = new\n[HOST=a]\nk = 3\n")]);
}

/// Each value as the program reads it, and those that it does not. `tests/it/formats.sh` asks the programs.
const VALUES: &[(Format, &str, &[&str], &[&str])] = &[
    (
        Format::Sshd,
        "Banner",
        &[
            "/a",
            "\"a b\"",
            "'a b'",
            "a\\\"b",
            "it\\'s",
            "\"it's\"",
            "a\"b c\"d",
            "a\\ b",
            "a#b",
            "\"a # b\"",
            "a\\b",
        ],
        &["it's", "\"a", "a b", "a\"b", "a # b", "", "'a\\' b"],
    ),
    (Format::Sshd, "AllowUsers", &["kim backup", "\"kim\" 'a b'"], &["a\"b", "kim it's"]),
    (Format::Ssh, "ProxyCommand", &["ssh -W %h:%p host", "sh -c 'a b'"], &["sh -c 'a b", "a\"b"]),
    (
        Format::Redis,
        "requirepass",
        REDIS_READS,
        &["it's", "a\"b", "a b", "", "\"a\"b", "'a\\\\'", "\"a\" # x"],
    ),
    (Format::Redis, "save", &["900 1 300 10", "\"\""], &["\"900 1"]),
    (Format::Redis, "bind", &["127.0.0.1 ::1"], &["127.0.0.1 '::1"]),
    (
        Format::Supervisor,
        "environment",
        &["PW=\"100%%\"", "A=\"%(ENV_x)s\"", "%(process_num)02d", "A=\"a;b#c\"", "A=it's"],
        &["PW=\"100%\"", "%s", "%(x)", "%(x", "%()s", "%5%", "PW=\"a ;b\"", "a #b"],
    ),
    (
        Format::Fail2ban,
        "destemail",
        &["ops@b", "50%%", "%(action_)s[name=x]", "%(known/failregex)s", "a#b", "a;b"],
        &["ops+50%@b", "%", "%%%", "%(x)d", "%(x", "%()s", "a ;b"],
    ),
    (Format::Configparser, "k", &["100%%", "%(a)s", "a;b"], &["100%", "%(a)"]),
    (Format::Php, "k", PHP_READS, PHP_REFUSES),
    (Format::PhpFpm, "access.format", &["%R - \"%m %r\" %s", "/run/php/$pool.sock"], &["a=b", "a;b"]),
    (
        Format::Git,
        "name",
        &["Kim", "\"a # b\"", "C:\\\\x", "a\\\"b", "a\\nb\\tc", "it's", "a\"b c\"d", "a\\\\", "!git log"],
        &["a\"b", "C:\\x", "\"a", "a # b", "a;b", "a\\", "\"\\x\"", " a"],
    ),
    (
        Format::Keyfile,
        "psk",
        &["a b", "a\\\\b", "a\\sb", "a\\;b;c;", "a\\nb", "a#b", "\"a", "100%"],
        &["a\\b", "a\\", "\\x41", "a\\\"b"],
    ),
    (
        Format::Dnsmasq,
        "txt-record",
        &["x,\"a\"", "x,\"a\\\"b\"", "x,it's", "a#b", "a\\"],
        &["x,\"a", "a\\\"b", "a #b"],
    ),
    (
        Format::Postfix,
        "smtpd_banner",
        &[
            "$myhostname ESMTP",
            "${x}",
            "$(x)",
            "$$",
            "a$$b",
            "${x?{y}:{z}}",
            "${{$x}=={y}?{a}:{b}}",
            "$${x",
            "{",
            "\"a",
        ],
        &["${x", "a$", "$ x", "$(x", "${x?{y}", "${}", "$-x"],
    ),
    (Format::Postgresql, "k", &["'*'", "on"], &["*", ""]),
    (Format::Samba, "k", &["a # b", "%U", "it's"], &["C:\\", "a "]),
    (Format::Systemd, "k", &["a # b", "/bin/a --x=%i", "a\\\\"], &["a\\", "a "]),
    (Format::Openssl, "k", &["a", "\"a # b\"", "a\\\"b"], &["a # b", "a\\"]),
    (Format::Wireguard, "k", &["a b"], &["a#b"]),
    (Format::Environment, "k", &["\"a b\""], &["a#b", "\"a#b\""]),
];
const REDIS_READS: &[&str] = &[
    "a",
    "\"a b\"",
    "'a b'",
    "a\"b c\"",
    "\"a\\\"b\"",
    "'a\\'b'",
    "\"\"",
    "a#b",
    "a\\b",
    "'a\\b'",
    "\"it's\"",
];
const PHP_READS: &[&str] = &[
    "300M",
    "a b",
    "\"tcp://h:1?auth=abc\"",
    "'a=b'",
    "a\"b\"",
    "E_ALL & ~E_DEPRECATED & ~E_STRICT",
    "(E_ALL & ~E_NOTICE) | E_STRICT",
    "E_ALL ^ E_NOTICE",
    "1|2",
    "!1",
    "~ E_ALL",
    "${HOME}",
    "a${HOME}b",
    "$x",
    "a{b}",
    "[a]",
    "a\\b",
    "\"a\\\"b\"",
    "\"a;b\"",
    "a?b:c,d@e#f%g<h>*i`",
    "/usr/sbin/sendmail -t -i -f www@example.org",
];
const PHP_REFUSES: &[&str] = &[
    "tcp://127.0.0.1:6379?auth=abc",
    "a(b",
    "a)b",
    "a!b",
    "a|b",
    "a&b",
    "a~b",
    "a^b",
    "=a",
    "E_ALL&",
    "|",
    "(1",
    "a$",
    "${x",
    "it's",
    "\"a",
    "a;b",
    "\"a\" & 1",
];

#[test]
fn a_value_that_the_program_does_not_read_is_refused_with_the_way_on_and_no_other() {
    let mut wrong = Vec::new();
    for (format, key, read, not_read) in VALUES {
        let section = format.syntax().sections().is_some_and(Sections::only).then_some("s");
        let entry = entry(*format, section, key);
        for value in *read {
            let file =
                edited(&entry, "", DesiredEntry::Text(value.as_bytes())).map(Option::unwrap_or_default);
            let found = file.as_ref().ok().and_then(|file| entry.value(file.as_bytes(), "/f").unwrap());
            if found.as_deref() != Some(value.as_bytes()) {
                wrong.push(format!("{format:?} {value}: {file:?}"));
            }
        }
        for value in *not_read {
            let Err(error) = entry.edited(b"", DesiredEntry::Text(value.as_bytes()), "/f") else {
                wrong.push(format!("{format:?} {value}: not refused"));
                continue;
            };
            let failure = error.downcast_ref::<Failure>().unwrap();
            let is_named = failure.message.starts_with(&format!("invalid value of `{key}`: "));
            // It may be a secret.
            let is_hidden = !failure.message.contains(*value) || value.len() < 3;
            if !is_named || !is_hidden || failure.hints.len() != 1 {
                wrong.push(format!("{format:?} {value}: {} {:?}", failure.message, failure.hints));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let git = |key| entry(Format::Git, Some("user"), key);
    let text = DesiredEntry::Text(b"x");
    for key in ["full_name", "my name", "1a", "-a", "a.b", "é"] {
        assert!(refused(&git(key), "", text).contains(&format!("invalid key `{key}`")), "{key}");
    }
    for key in ["name", "signingKey", "a1-b"] {
        assert!(edited(&git(key), "", text).is_ok(), "{key}");
    }
    // What is there already can be taken away.
    assert_eq!(
        edited(&git("full_name"), "[user]\nfull_name = x\n", DesiredEntry::Absent),
        Ok(Some("[user]\n".to_owned()))
    );
}

#[test]
fn a_quote_that_is_escaped_or_inside_of_others_hides_no_comment() {
    for (format, section, before, after) in [
        (Format::Git, Some("s"), "[s]\n\tk = a\\\"b # why\n", "[s]\n\tk = new # why\n"),
        (Format::Sshd, None, "k 'a # b' # why\n", "k new # why\n"),
        (Format::Sshd, None, "k \"it's\" # why\n", "k new # why\n"),
        (Format::Sshd, None, "k a\\\"b # why\n", "k new # why\n"),
    ] {
        sets(format, section, ("k", "new"), &[(before, after)]);
    }
}
