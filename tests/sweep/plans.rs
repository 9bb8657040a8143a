//! The plans that are swept: together they make every kind of change that needs no booted machine. Each step has a
//! directory of its own below the tree (`@`); `shared` is what several steps change.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::ground::succeed;

pub(crate) struct Scenario {
    pub name: &'static str,
    /// What stands in the plan's directory.
    pub files: &'static [(&'static str, &'static str)],
    /// Makes the tree as it is before.
    pub make: fn(&Path),
    /// Whether it is about a PostgreSQL server, too: what stands in it before is `databases::make`'s.
    pub has_server: bool,
    /// Whether it makes programs talk with each other: a pipe between them must not seem to be broken.
    pub talks: bool,
}

/// A directory of a tree that stands where the machine has another: emptied, never removed.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub name: &'static str,
    pub place: &'static str,
}

/// All that a tree may have.
pub(crate) const BOUND: [Bound; 8] = [
    Bound { name: "etc", place: "/etc" },
    Bound { name: "home", place: "/home" },
    Bound { name: "mail", place: "/var/mail" },
    Bound { name: "dpkg", place: "/var/lib/dpkg" },
    Bound { name: "apt", place: "/var/lib/apt" },
    Bound { name: "cache", place: "/var/cache/apt" },
    Bound { name: "log", place: "/var/log" },
    Bound { name: "debconf", place: DEBCONF },
];

/// The secret `token`.
pub(crate) const TOKEN: &str = "correct horse battery";

/// Where debconf keeps its answers.
const DEBCONF: &str = "/var/cache/debconf";

const UID_OF_NOBODY: u32 = 65534;

/// Data in a directory and in a product that steps made, which an undo inside a run keeps.
pub(crate) const LETTERS: [&str; 2] = ["01/data/letter", "02/made/letter"];

/// What `file::download` gets.
pub(crate) const DOWNLOADED: &str = "downloaded\n";

const ALL: &[Scenario] = &[
    FILES,
    DIRECTORIES,
    TREES,
    LINES,
    COMMANDS,
    PRODUCTS,
    HANDLERS,
    OWNED,
    DOWNLOADS,
    ACCOUNTS,
    DATABASES,
    PACKAGES,
    CAPTURED,
    DATA,
    TOUCHED,
    LONG,
    PACKAGE_VERSIONS,
    PRESEED,
];

/// All of them, or the one that the variable `KKRUN_SWEEP_ONLY` names.
pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    let only = std::env::var("KKRUN_SWEEP_ONLY").ok();
    ALL.iter().filter(move |scenario| only.as_ref().is_none_or(|only| scenario.name == only))
}

pub(crate) const FILES: Scenario = Scenario {
    name: "files",
    files: &[
        ("files/copied", "copied\n"),
        (
            "plan.rhai",
            r#"
step::run("01", "Write", || {
    file::write("@/01/new", "new\n");
    file::write("@/01/old", "written\n");
    file::write("@/01/access", "same\n", #{ mode: "0600", owner: "nobody" });
    file::write("@/shared/file", "a = 1\nb = 2\n");
    file::copy("files/copied", "@/01/copied", #{ mode: "0755" });
});
step::run("02", "Link and remove", || {
    file::link("@/01/new", "@/02/link");
    file::link("@/01/new", "@/02/relinked");
    file::remove("@/02/gone");
    file::remove("@/02/gone-link");
    file::write("@/shared/file", "a = 1\nb = 3\n");
});
"#,
        ),
    ],
    make: |tree| {
        write(tree, "01/old", "old\n");
        adorned(&tree.join("01/old"));
        write(tree, "01/access", "same\n");
        write(tree, "02/gone", "gone\n");
        adorned(&tree.join("02/gone"));
        symlink("nowhere", tree.join("02/gone-link")).unwrap();
        symlink("elsewhere", tree.join("02/relinked")).unwrap();
        write(tree, "shared/file", "a = 0\n");
    },
    has_server: false,
    talks: false,
};

const DIRECTORIES: Scenario = Scenario {
    name: "directories",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    file::make_dir("@/01/made", #{ mode: "0750", owner: "nobody" });
    file::make_dir("@/01/made/inner");
    file::write("@/01/made/inner/file", "inside\n");
    file::make_dir("@/01/old", #{ mode: "1711", group: "nogroup" });
});
step::run("02", "Give access", || {
    file::access("@/02/tree", #{ owner: "nobody", group: "nogroup", mode: "u=rwX,go=rX", recursive: true });
    file::access("@/02/one", #{ mode: "g-r" });
    file::remove("@/02/empty");
});
"#,
    )],
    make: |tree| {
        fs::create_dir_all(tree.join("01/old")).unwrap();
        write(tree, "02/tree/a", "a\n");
        write(tree, "02/tree/inner/b", "b\n");
        adorned(&tree.join("02/tree/inner/b"));
        write(tree, "02/one", "one\n");
        fs::create_dir(tree.join("02/empty")).unwrap();
    },
    has_server: false,
    talks: false,
};

const TREES: Scenario = Scenario {
    name: "trees",
    files: &[
        ("files/site/index", "index\n"),
        ("files/site/inner/page", "page\n"),
        (
            "plan.rhai",
            r#"
step::run("01", "Copy", || {
    file::copy("files/site", "@/01/new");
    file::copy("files/site", "@/01/there", #{ owner: "nobody" });
});
step::run("02", "Mirror", || {
    file::mirror("files/site", "@/02/new");
    file::mirror("files/site", "@/02/there");
});
step::run("03", "Remove", || {
    file::remove("@/03/gone");
});
"#,
        ),
    ],
    make: |tree| {
        fs::create_dir(tree.join("01")).unwrap();
        write(tree, "01/there/index", "other\n");
        adorned(&tree.join("01/there/index"));
        write(tree, "01/there/theirs", "theirs\n");
        write(tree, "02/there/old", "old\n");
        write(tree, "02/there/inner/page", "page\n");
        symlink("old", tree.join("02/there/link")).unwrap();
        write(tree, "03/gone/a", "a\n");
        write(tree, "03/gone/inner/b", "b\n");
        adorned(&tree.join("03/gone/inner/b"));
    },
    has_server: false,
    talks: false,
};

const LINES: Scenario = Scenario {
    name: "lines",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Set", || {
    config::set("@/01/ini", "key", "new", #{ section: "web" });
    config::set("@/01/ini", #{ other: 1, third: "x" }, #{ section: "made" });
    config::comment("@/01/ini", "port");
    config::remove("@/01/ini", "host", #{ section: "web" });
    config::set("@/01/new", "key", "value", #{ mode: "0600", owner: "nobody" });
    config::block("@/01/text", "site", "one\ntwo");
    config::line("@/01/text", "a whole line");
    config::set("@/01/mounted", "key", "a new value", #{ in_place: true });
});
step::run("02", "Secrets", || {
    let token = secret::ask("token", "The token");
    config::set("@/02/env", "TOKEN", token);
    file::write("@/02/secret", token, #{ mode: "0600" });
    config::set("@/shared/file", "b", "2");
    config::set("@/shared/file", "b", "3");
});
step::run("03", "Documents", || {
    config::set("@/03/a.json", #{ size: "1g", files: 3 }, #{ section: "log" });
    config::remove("@/03/a.json", "gone");
    config::set("@/03/a.toml", "jobs", 4, #{ section: "build" });
    config::remove("@/03/a.toml", "old");
    config::set("@/03/new.json", "list", [1, "two"], #{ section: "made" });
});
"#,
    )],
    make: |tree| {
        write(
            tree,
            "03/a.json",
            "{\n    // how it logs\n    \"log\": {\n        \"size\": \"10m\"\n    },\n    \"gone\": [1, 2]\n}\n",
        );
        adorned(&tree.join("03/a.json"));
        write(tree, "03/a.toml", "old = 1979-05-27 # a date\n\n[build]\njobs = 2 # two\n");
        write(tree, "01/ini", "port = 1\r\n[web]\nkey = old\nhost = here\n# end");
        adorned(&tree.join("01/ini"));
        write(tree, "01/text", "text without an end");
        write(tree, "01/mounted", "key=old\nother=1\n");
        write(tree, "02/env", "NAME=x\nTOKEN=old\n");
        write(tree, "shared/file", "a = 1\nb = 1\n");
    },
    has_server: false,
    talks: false,
};

macro_rules! ten_times {
    ($text:expr) => {
        concat!($text, $text, $text, $text, $text, $text, $text, $text, $text, $text)
    };
}

macro_rules! step {
    ($id:literal) => {
        concat!(
            "step::run(\"",
            $id,
            "\", \"",
            ten_times!(ten_times!(ten_times!(ten_times!("long ")))),
            "\", \"write.rhai\");\n"
        )
    };
}

/// A journal that is long enough to have a checkpoint: the titles are in it.
const LONG: Scenario = Scenario {
    name: "long",
    files: &[
        ("plan.rhai", concat!(step!("01"), step!("02"), step!("03"), step!("04"), step!("05"), step!("06"))),
        ("write.rhai", "file::write(\"@/01/old\", \"written\\n\");\n"),
    ],
    make: |tree| write(tree, "01/old", "old\n"),
    has_server: false,
    talks: false,
};

pub(crate) const COMMANDS: Scenario = Scenario {
    name: "commands",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    cmd::run(["bash", "-c", "echo part > @/01/product && echo whole >> @/01/product"], #{ creates: "@/01/product" });
    cmd::run(["bash", "-c", "mkdir @/01/build && echo a > @/01/build/a && echo b > @/01/build/b"], #{ creates: "@/01/build" });
    cmd::run(["cp", "@/01/source", "@/01/target"], #{ made_from: "1", creates: "@/01/target" });
});
step::run("02", "Do", || {
    cmd::run(["touch", "@/02/flag"], #{ unless: ["test", "-e", "@/02/flag"], undo: [["rm", "-f", "@/02/flag"]] });
    cmd::run(["cp", "-p", "@/02/two", "@/02/current"], #{
        unless: || file::read("@/02/current") == file::read("@/02/two"),
        state: ["cat", "@/02/current"],
        undo: [["cp", "-p", "@/02/one", "@/02/current"]],
    });
    cmd::run(["true"], #{ always: "nothing comes of it" });
    cmd::run(["bash", "-c", "echo a > @/02/a && echo b > @/02/b"], #{
        unless: ["test", "-e", "@/02/b"],
        undo: [["rm", "-f", "@/02/b"], ["rm", "-f", "@/02/a"]],
    });
});
"#,
    )],
    make: |tree| {
        write(tree, "01/source", "source\n");
        write(tree, "02/one", "one\n");
        write(tree, "02/two", "two\n");
        succeed(Command::new("cp").arg("-p").args([tree.join("02/one"), tree.join("02/current")]));
    },
    has_server: false,
    talks: false,
};

/// What a loss of power takes of this product, and of what is beside it, has a size and a time as if it were there. The
/// command itself makes no more than the names last.
pub(crate) const HALF_DONE: Scenario = Scenario {
    name: "half done",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    cmd::run(["bash", "-c", "truncate -s 6 @/01/out && echo whole | tee @/01/beside | dd of=@/01/out conv=notrunc status=none && sync @/01"],
        #{ creates: "@/01/out", undo: [["rm", "-f", "@/01/beside"]] });
    file::write("@/01/after", "after\n");
});
"#,
    )],
    make: |tree| fs::create_dir(tree.join("01")).unwrap(),
    has_server: false,
    talks: false,
};

pub(crate) const PRODUCTS: Scenario = Scenario {
    name: "products",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    cmd::run(["bash", "-c", "mkdir @/01/made && echo a > @/01/made/a && mkdir @/01/made/sub && echo b > @/01/made/sub/b"],
        #{ creates: "@/01/made" });
    cmd::run(["bash", "-c", "echo out > @/01/there/out"], #{
        creates: "@/01/there",
        made_from: "1",
        undo: [["rm", "-f", "@/01/there/out"]],
    });
});
step::run("02", "Make again", || {
    for text in ["one", "two"] {
        cmd::run(["bash", "-c", `mkdir -p @/02/built && echo ${text} > @/02/built/out`], #{
            creates: "@/02/built",
            made_from: text,
        });
    }
    cmd::run(["bash", "-c", "echo more > @/02/built/more"], #{
        unless: ["test", "-e", "@/02/built/more"],
        changes: "@/02/built",
        undo: [["rm", "-f", "@/02/built/more"]],
    });
});
"#,
    )],
    make: |tree| {
        write(tree, "01/there/before", "before\n");
        fs::create_dir(tree.join("02")).unwrap();
    },
    has_server: false,
    talks: false,
};

pub(crate) const CAPTURED: Scenario = Scenario {
    name: "captured",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    cmd::run(["bash", "-ec", "cd @/01; echo new > made; echo new > old; rm -f gone; mkdir -p dir/deep; echo a > dir/deep/a; ln -f dir/deep/a b; ln -sfn made link; chmod 0600 access"],
        #{ label: "make", capture: #{} });
});
step::run("02", "Replace", || {
    file::write("@/02/shared", "first\n");
    cmd::run(["bash", "-ec", "cd @/02; if test -d tree; then mv tree renamed; echo file > tree; fi; echo second > shared; if test -f kind; then rm kind; mkdir kind; echo x > kind/x; fi; echo parted > one"],
        #{ label: "replace", capture: #{} });
});
// So many that they are synced together.
step::run("03", "Many", || {
    cmd::run(["bash", "-ec", "cd @/03; for i in {00..19}; do echo new > many/$i; rm -f many/g$i; echo made > many/m$i; echo other > other/$i; done; chmod 0600 many/3*; ln -f many/m00 other/second; ln -sfn m01 many/link"],
        #{ label: "many", capture: #{} });
});
"#,
    )],
    make: |tree| {
        write(tree, "01/old", "old\n");
        adorned(&tree.join("01/old"));
        write(tree, "01/gone", "gone\n");
        write(tree, "01/access", "same\n");
        symlink("elsewhere", tree.join("01/link")).unwrap();
        write(tree, "02/shared", "before\n");
        write(tree, "02/tree/one", "1\n");
        write(tree, "02/tree/deep/two", "2\n");
        write(tree, "02/kind", "file\n");
        write(tree, "02/one", "together\n");
        fs::hard_link(tree.join("02/one"), tree.join("02/two")).unwrap();
        for number in 0..40 {
            write(tree, &format!("03/many/{number:02}"), "old\n");
            write(tree, &format!("03/many/g{number:02}"), "gone\n");
        }
        adorned(&tree.join("03/many/00"));
        fs::create_dir(tree.join("03/other")).unwrap();
    },
    has_server: false,
    talks: false,
};

const HANDLERS: Scenario = Scenario {
    name: "handlers",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "One", || {
    step::on_change(#{ test: ["test", "-s", "@/01/conf"], run: [["cp", "-p", "@/01/conf", "@/01/running"]] }, || {
        file::write("@/01/conf", "new\n");
        file::link("@/01/conf", "@/01/enabled");
        file::remove("@/01/default");
    });
    step::verify("what runs is what is configured", || file::read("@/01/running") == file::read("@/01/conf"));
});
step::run("02", "Two", || {
    step::on_change(#{ run: [["cp", "-p", "@/02/a", "@/02/a-running"], ["cp", "-p", "@/02/b", "@/02/b-running"]] }, || {
        config::set("@/02/a", "x", "2");
        file::write("@/02/b", "y = 2\n");
    });
    step::verify("both run", || file::read("@/02/a-running") == "x = 2\n" && file::read("@/02/b-running") == "y = 2\n");
});
"#,
    )],
    make: |tree| {
        for (name, text) in
            [("01/conf", "old\n"), ("02/a", "x = 1\n"), ("02/b", "y = 1\n"), ("01/default", "default\n")]
        {
            write(tree, name, text);
        }
        for (from, to) in [("01/conf", "01/running"), ("02/a", "02/a-running"), ("02/b", "02/b-running")] {
            succeed(Command::new("cp").arg("-p").args([tree.join(from), tree.join(to)]));
        }
    },
    has_server: false,
    talks: false,
};

/// Each test passes in the run that has changed all of its block: killed before the handler has run, the next one undoes,
/// and what the handler has put into the directory or the product is data by then.
const DATA: Scenario = Scenario {
    name: "handlers with data classes",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Directory", || {
    step::on_change(#{
        test: ["bash", "-c", "test ! -e @/01/run || test $KKRUN_RUN = $(cat @/01/run)"],
        run: [["bash", "-c", "test ! -d @/01/data || cp @/01/conf @/01/data/letter"]],
    }, || {
        file::make_dir("@/01/data");
        cmd::run(["bash", "-c", "echo $KKRUN_RUN > @/01/run"], #{ creates: "@/01/run" });
        file::write("@/01/conf", "new\n");
    });
    step::verify("it is served", || file::read("@/01/data/letter") == "new\n");
    file::remove("@/01/run");
});
step::run("02", "Product", || {
    step::on_change(#{
        test: ["bash", "-c", "test ! -e @/02/run || test $KKRUN_RUN = $(cat @/02/run)"],
        run: [["bash", "-c", "test ! -d @/02/made || cp @/02/conf @/02/made/letter"]],
    }, || {
        cmd::run(["mkdir", "@/02/made"], #{ creates: "@/02/made" });
        cmd::run(["bash", "-c", "echo $KKRUN_RUN > @/02/run"], #{ creates: "@/02/run" });
        file::write("@/02/conf", "new\n");
    });
    step::verify("it is served", || file::read("@/02/made/letter") == "new\n");
    file::remove("@/02/run");
});
"#,
    )],
    make: |tree| {
        for name in ["01/conf", "02/conf"] {
            write(tree, name, "old\n");
        }
    },
    has_server: false,
    talks: false,
};

const OWNED: Scenario = Scenario {
    name: "in a user's place",
    files: &[
        ("files/site/page", "page\n"),
        (
            "plan.rhai",
            r#"
step::run("01", "Write", || {
    file::write("@/01/new", "new\n");
    file::write("@/01/old", "written\n");
    file::make_dir("@/01/made");
    file::link("new", "@/01/link");
    config::set("@/01/ini", "key", "new");
    file::mirror("files/site", "@/01/site");
    file::remove("@/01/gone");
});
"#,
        ),
    ],
    make: |tree| {
        for (name, text) in
            [("old", "old\n"), ("ini", "key = old\n"), ("gone", "gone\n"), ("site/old", "old\n")]
        {
            write(tree, &format!("01/{name}"), text);
        }
        for name in ["", "old", "ini", "gone", "site", "site/old"] {
            chown(tree.join("01").join(name), Some(UID_OF_NOBODY), Some(UID_OF_NOBODY)).unwrap();
        }
    },
    has_server: false,
    talks: false,
};

const DOWNLOADS: Scenario = Scenario {
    name: "downloads",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Fetch", || {
    let sha256 = "30031a9831674dd684c3817399acebc88a116ce5a7a3fbc0cf34d92521a534e6";
    file::download("http://127.0.0.1:@PORT/file", "@/01/new", #{ sha256: sha256 });
    file::download("http://127.0.0.1:@PORT/file", "@/01/old", #{ sha256: sha256 });
});
"#,
    )],
    make: |tree| {
        write(tree, "01/old", "old\n");
        adorned(&tree.join("01/old"));
    },
    has_server: false,
    talks: false,
};

const ACCOUNTS: Scenario = Scenario {
    name: "accounts",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    group::ensure("kkrun-sweep");
    user::ensure("kkrun-kim", #{ home_mode: "0750", shell: "/bin/bash", groups: ["video", "kkrun-sweep"] });
});
step::run("02", "Change", || {
    user::ensure("kkrun-robin", #{ shell: "/bin/bash", groups: ["audio"], not_in_groups: ["kkrun-crew"], password_hash: "$6$sa$hash" });
});
"#,
    )],
    make: |tree| {
        for name in ["etc", "home", "mail"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        let kept = [
            "passwd",
            "group",
            "shadow",
            "gshadow",
            "subuid",
            "subgid",
            "passwd-",
            "group-",
            "shadow-",
            "gshadow-",
            "nsswitch.conf",
            "login.defs",
            "default",
            "skel",
            "ld.so.cache",
            "machine-id",
        ];
        for name in kept.into_iter().filter(|name| Path::new("/etc").join(name).exists()) {
            succeed(Command::new("cp").arg("-a").arg(Path::new("/etc").join(name)).arg(tree.join("etc")));
        }
        let append = |name: &str, line: &str| {
            let path = tree.join("etc").join(name);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text + line).unwrap();
        };
        append("passwd", "kkrun-robin:x:4711:4711::/home/kkrun-robin:/bin/sh\n");
        append("shadow", "kkrun-robin:$y$before:20000:0:99999:7:::\n");
        append("group", "kkrun-crew:x:4713:daemon,kkrun-robin,bin\n");
        append("gshadow", "kkrun-crew:!:kkrun-robin:daemon,kkrun-robin,bin\n");
        append("group", "kkrun-robin:x:4711:\n");
        append("gshadow", "kkrun-robin:!::\n");
        // Entries that named the user before it existed.
        append("group", "kkrun-before:x:4712:kkrun-kim\n");
        append("gshadow", "kkrun-before:$y$hash:kkrun-kim:kkrun-kim\n");
        append("shadow", "kkrun-kim:$y$gone:1::::::\n");
        append("subuid", "kkrun-kim:900000:10\n");
        // The lock file of all tools stays after its first use.
        write(tree, "etc/.pwd.lock", "");
        fs::set_permissions(tree.join("etc/.pwd.lock"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(tree.join("home/kkrun-robin")).unwrap();
        chown(tree.join("home/kkrun-robin"), Some(4711), Some(4711)).unwrap();
    },
    has_server: false,
    talks: false,
};

const DATABASES: Scenario = Scenario {
    name: "databases",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Set up", || {
    let at = #{ @SERVER };
    let token = secret::ask("token", "The token");
    pg::ensure_role("kim", at + #{ password: token, createdb: true });
    pg::ensure_role("robin", at + #{ password: token, connection_limit: 7 });
    pg::ensure_database("shop", at + #{ owner: "kim" });
    pg::ensure_database("attic", at + #{ owner: "kim" });
    pg::execute("CREATE TABLE cats AS SELECT 1 AS id", [], at + #{
        dbname: "shop",
        unless: "SELECT to_regclass('cats') IS NOT NULL",
    });
    pg::execute("INSERT INTO things VALUES ('new')", [], at + #{
        dbname: "attic",
        unless: "SELECT EXISTS (SELECT FROM things WHERE name = 'new')",
        undo: "DELETE FROM things WHERE name = 'new'",
    });
});
"#,
    )],
    make: |_| (),
    has_server: true,
    talks: true,
};

pub(crate) const PACKAGES: Scenario = Scenario {
    name: "packages",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Install", || {
    pkg::install(["kkrun-one", "kkrun-marked"]);
});
step::run("02", "More", || {
    pkg::install(["kkrun-two"]);
});
"#,
    )],
    make: super::packages::make,
    has_server: false,
    talks: true,
};

const PACKAGE_VERSIONS: Scenario = Scenario {
    name: "package versions",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Bring to a version", || {
    pkg::install(["kkrun-versioned=2.0", "kkrun-one"]);
    pkg::hold(["kkrun-versioned"]);
});
step::run("02", "Remove", || {
    pkg::remove(["kkrun-removed"]);
});
"#,
    )],
    make: super::packages::make_versions,
    has_server: false,
    talks: true,
};

const TOUCHED: Scenario = Scenario {
    name: "touched",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Make", || {
    cmd::run(["bash", "-ec", "cd @/01; echo more >> old; echo new > made; rm -f gone; mkdir -p dir/deep; echo a > dir/deep/a; ln -sfn made link; chmod 0600 access"],
        #{ label: "make", always: "a sweep", touches: ["@/01/old", "@/01/made", "@/01/gone", "@/01/dir", "@/01/link", "@/01/access"] });
});
step::run("02", "Replace", || {
    file::write("@/02/shared", "first\n");
    cmd::run(["bash", "-ec", "cd @/02; echo second >> shared; rm -rf tree; echo file > tree"],
        #{ label: "replace", always: "a sweep", touches: ["@/02/shared", "@/02/tree"] });
});
"#,
    )],
    make: |tree| {
        write(tree, "01/old", "old\n");
        adorned(&tree.join("01/old"));
        write(tree, "01/gone", "gone\n");
        write(tree, "01/access", "same\n");
        symlink("elsewhere", tree.join("01/link")).unwrap();
        write(tree, "02/shared", "before\n");
        write(tree, "02/tree/one", "1\n");
        write(tree, "02/tree/deep/two", "2\n");
    },
    has_server: false,
    talks: false,
};

const PRESEED: Scenario = Scenario {
    name: "debconf answers",
    files: &[(
        "plan.rhai",
        r#"
step::run("01", "Answer", || {
    pkg::preseed("kkrun-new", "kkrun-new/name", "string", "new");
    pkg::preseed("kkrun-known", "kkrun-known/name", "string", "new");
});
step::run("02", "Answer with a secret", || {
    pkg::preseed("kkrun-new", "kkrun-new/password", "password", secret::ask("token", "The token"));
});
"#,
    )],
    make: |tree| {
        let directory = tree.join("debconf");
        fs::create_dir(&directory).unwrap();
        let known = "echo kkrun-known kkrun-known/name string old | debconf-set-selections";
        succeed(
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-ec"])
                .arg(format!("mount --bind \"$1\" {DEBCONF}; {known}"))
                .arg("sh")
                .arg(&directory),
        );
    },
    has_server: false,
    talks: true,
};

pub(crate) fn write(tree: &Path, name: &str, text: &str) {
    let path = tree.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Everything about a file that a rollback has to bring back: owner, attribute, access control list, mode, time.
fn adorned(path: &Path) {
    chown(path, Some(UID_OF_NOBODY), Some(42)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    succeed(Command::new("setfacl").args(["-m", "u:1234:r"]).arg(path));
    rustix::fs::setxattr(path, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}
