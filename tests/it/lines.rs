//! Lines and blocks of text files, edited and rolled back through the binary.

use crate::support::Place;

const INI: &str = "# seats\r\n[LightDM]\r\nuser=a\r\n\r\n[Seat:*]\r\n#autologin-user=\r\nuser=b";
const PLAN: &str = r#"
config::set("@/m/f.conf", #{ "autologin-user": "kim", user: 7 }, #{ section: "Seat:*" });
config::comment("@/m/f.conf", "user", #{ section: "LightDM" });
config::set("@/m/new.env", "PORT", 80, #{ mode: "0600" });
config::block("@/m/f.conf", "site", "one\ntwo", #{ section: "Site" });
"#;
const AFTER: &str = "# seats\r\n[LightDM]\r\n#user=a\r\n\r\n[Seat:*]\r\n#autologin-user=\r\nautologin-user=kim\r\n\
                     user=7\r\n\r\n[Site]\r\n# BEGIN kkrun site\r\none\r\ntwo\r\n# END kkrun site";

fn edited() -> Place {
    let place = Place::new(PLAN).with("m/f.conf", INI);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/f.conf"), AFTER);
    assert_eq!(place.read("m/new.env"), "PORT=80\n");
    place
}

#[test]
fn a_dry_run_writes_nothing_and_a_second_run_changes_nothing() {
    let place = Place::new(PLAN).with("m/f.conf", INI);
    let before = place.prints_of("m");
    place.run("plan.rhai --dry-run").ends(6).says("set autologin-user in [Seat:*] of @/m/f.conf");
    assert_eq!(place.prints_of("m"), before);
    place.run("plan.rhai").ends(0);
    let (after, records) = (place.prints_of("m"), place.records().len());
    place.run("plan.rhai").ends(0);
    assert_eq!((place.prints_of("m"), place.records().len()), (after, records));
    place.run("plan.rhai --dry-run").ends(0);
}

#[test]
fn rollback_restores_every_byte_and_the_time() {
    let place = Place::new(PLAN).with("m/f.conf", INI);
    let time = |place: &Place| place.path("m/f.conf").metadata().unwrap().modified().unwrap();
    let before = time(&place);
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/f.conf"), INI);
    assert_eq!(time(&place), before);
    assert!(!place.exists("m/new.env"));
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/f.conf"), AFTER);
}

#[test]
fn operators_edit_elsewhere_is_kept_and_an_edited_line_is_a_conflict() {
    let place = edited();
    place.edit("m/f.conf", "# seats", "# all seats");
    place.edit("m/new.env", "PORT=80", "PORT=81");
    place.run("rollback").ends(4).says("1: PORT=81");
    assert_eq!(place.read("m/f.conf"), INI.replace("# seats", "# all seats"));
    assert_eq!(place.read("m/new.env"), "PORT=81\n");
}

#[test]
fn a_line_that_others_changed_is_asked_about_and_one_beside_it_is_not() {
    let place = edited();
    place.edit("m/f.conf", "autologin-user=kim", "autologin-user=lee");
    place.run("plan.rhai").ends(78).says("autologin-user=lee").says("--on-conflict keep");
    place.run("plan.rhai --on-conflict keep").ends(0);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/f.conf"), AFTER.replace("kim", "lee"));
    place.edit("m/f.conf", "autologin-user=lee", "autologin-user=pat");
    place.edit("plan/plan.rhai", "kim", "mia");
    place.run("plan.rhai").ends(78).says("autologin-user=pat");
    place.run("plan.rhai --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/f.conf"), AFTER.replace("kim", "mia"));
    place.edit("m/f.conf", "# seats", "# all seats");
    place.edit("plan/plan.rhai", "mia", "noa");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/f.conf"), AFTER.replace("kim", "noa").replace("# seats", "# all seats"));
}

#[test]
fn edit_in_doubt_is_recovered_and_undone() {
    for text in ["a=1\nk=new\n", "a=1\nk=old\n"] {
        let place = Place::new(r#"config::set("@/m/f", "k", "new");"#).with("m/f", "a=1\nk=old\n");
        place.run("plan.rhai").ends(0);
        place.cut_journal_behind("intent");
        place.write("m/f", text);
        place.run("plan.rhai").ends(0);
        assert_eq!(place.read("m/f"), "a=1\nk=new\n");
        place.run("rollback").ends(0);
        assert_eq!(place.read("m/f"), "a=1\nk=old\n");
    }
}

#[test]
fn file_written_after_its_lines_is_no_conflict() {
    let place = Place::new(
        r#"
file::write("@/m/f", "k=1\n");
config::set("@/m/f", "k", 2);
file::write("@/m/f", "k=3\n");
config::set("@/m/f", "k", 4);
"#,
    );
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/f"), "k=4\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/f"));
}

#[test]
fn file_that_cannot_be_edited_is_refused_with_the_reason() {
    let place = Place::empty()
        .with("m/twice", "k=1\na=1\nk=2\n")
        .with("plan/twice.rhai", r#"config::set("@/m/twice", "k", 3);"#)
        .with("plan/line.rhai", r#"config::set("@/m/f", "k", "one\ntwo");"#)
        .with("plan/type.rhai", r#"let list = [1]; config::set("@/m/f", "k", list);"#)
        .with("plan/link.rhai", r#"config::set("@/m/link", "k", 1);"#);
    std::os::unix::fs::symlink(place.path("m/twice"), place.path("m/link")).unwrap();
    place.run("twice.rhai").ends(1).says("`k` is set twice in `@/m/twice`: in lines 1 and 3");
    place.run("line.rhai").ends(1).says("the value of `k` contains a line ending").says("config::block");
    place.run("type.rhai").ends(1).says("the value of `k` must be a string or a secret, not a array");
    place.run("link.rhai").ends(1).says("name the target of the link: `@/m/twice`");
    assert_eq!(place.read("m/twice"), "k=1\na=1\nk=2\n");
    assert!(!place.exists("m/f"));
}

#[test]
fn secret_is_in_its_line_and_nowhere_else() {
    let secret = "canary-4711-hush";
    let place = Place::new(
        r#"config::set("@/m/.env", "URL", secret::join(["x://", secret::ask("pass", "Pass"), "%h"]), #{ mode: "0600" });"#,
    );
    let mut command = place.command(&["plan.rhai"]);
    let output = command.env("KKRUN_SECRET_PASS", secret).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(place.path("m/.env")).unwrap();
    assert_eq!(text, format!("URL=x://{secret}%h\n"));
    std::fs::write(place.path("m/.env"), text.replace("4711", "4712")).unwrap();
    let ran = place.run("rollback").ends(4).says("not shown: it may hold a secret");
    let journal = std::fs::read_to_string(place.path("state/journal")).unwrap();
    for text in [&ran.page(), &journal, &String::from_utf8_lossy(&output.stderr).into_owned()] {
        assert!(!text.contains("canary"), "{text}");
    }
}

const HOSTS: &str = "127.0.0.1 localhost\n127.0.1.1 old\n# end\n";

fn whole_lines() -> Place {
    let place = Place::new(
        r#"step::run("01", "First", || {
    config::line("@/m/hosts", "127.0.1.1 kiosk", #{ matching: "^127\\.0\\.1\\.1\\s" });
    config::line("@/m/hosts", "10.0.0.1 server", #{ before: "^# end" });
    config::line("@/m/hosts", "::1 localhost", #{ after: "localhost$" });
    config::line("@/m/hosts", "127.0.0.1 localhost");
    config::line("@/m/new", "first", #{ mode: "0600" });
    config::remove_line("@/m/modules", "floppy");
});"#,
    )
    .with("m/hosts", HOSTS)
    .with("m/modules", "loop\nfloppy\nfuse");
    place.run("plan.rhai").ends(0);
    place
}

#[test]
fn whole_line_is_added_replaced_or_removed_once_and_undone() {
    let place = whole_lines();
    let after = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 kiosk\n10.0.0.1 server\n# end\n";
    assert_eq!(place.read("m/hosts"), after);
    assert_eq!(
        (place.read("m/new"), place.read("m/modules")),
        ("first\n".to_owned(), "loop\nfuse".to_owned())
    );
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
    place.run("rollback").ends(0);
    assert_eq!(
        (place.read("m/hosts"), place.read("m/modules")),
        (HOSTS.to_owned(), "loop\nfloppy\nfuse".to_owned())
    );
    assert!(!place.exists("m/new"));
}

#[test]
fn whole_line_is_undone_alone_where_the_file_was_modified_elsewhere() {
    let place = whole_lines();
    place.edit("m/hosts", "# end", "10.0.0.2 other\n# end");
    place.edit("m/modules", "loop", "nbd");
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/hosts"), HOSTS.replace("# end", "10.0.0.2 other\n# end"));
    assert_eq!(place.read("m/modules"), "nbd\nfloppy\nfuse");
    // A line that is another now is none of kkrun's, but where the expression still finds it.
    let place = whole_lines();
    place.edit("m/hosts", "10.0.0.1 server", "10.0.0.1 their-server");
    place.edit("m/hosts", "127.0.1.1 kiosk", "127.0.1.1 theirs");
    place.run("rollback").ends(4).says("2: 127.0.1.1 theirs");
    assert_eq!(
        place.read("m/hosts"),
        "127.0.0.1 localhost\n127.0.1.1 theirs\n10.0.0.1 their-server\n# end\n"
    );
}

#[test]
fn whole_line_that_others_changed_is_asked_about() {
    let place = whole_lines();
    place.edit("m/hosts", "127.0.1.1 kiosk", "127.0.1.1 theirs");
    place.run("plan.rhai --redo 01").ends(78).says("3: 127.0.1.1 theirs");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert!(place.read("m/hosts").contains("127.0.1.1 kiosk\n"));
    let target = format!(r"whole_line:{}#^127\.0\.1\.1\s", place.path("m/hosts").display());
    place.run_words(&["rollback", &target]).ends(0);
    assert!(place.read("m/hosts").contains("127.0.1.1 old\n10.0.0.1 server\n"));
}

#[test]
fn whole_line_that_is_not_certain_is_refused() {
    let place = Place::empty()
        .with("m/f", "a=1\na=2\nb\nb\n")
        .with("plan/many.rhai", r#"config::line("@/m/f", "a=3", #{ matching: "^a=" });"#)
        .with("plan/twice.rhai", r#"config::remove_line("@/m/f", "b");"#)
        .with("plan/other.rhai", r#"config::line("@/m/f", "a=3", #{ matching: "^b" });"#)
        .with("plan/none.rhai", r#"config::line("@/m/f", "a=3", #{ after: "^c" });"#)
        .with("plan/pattern.rhai", r#"config::line("@/m/f", "a=3", #{ before: "(" });"#)
        .with("plan/both.rhai", r#"config::line("@/m/f", "a=3", #{ after: "a", before: "b" });"#)
        .with("plan/two.rhai", r#"config::line("@/m/f", "a\nb");"#);
    let before = place.prints_of("m");
    place.run("many.rhai").ends(1).says("several lines of `@/m/f` match `^a=`: lines 1 and 2");
    place.run("twice.rhai").ends(1).says("it is there more than once");
    place.run("other.rhai").ends(1).says("`^b` does not match `a=3`");
    place.run("none.rhai").ends(1).says("no line matches `after`: `^c`");
    place.run("pattern.rhai").ends(1).says("invalid regular expression `(`");
    place.run("both.rhai").ends(1).says("`after` and `before` exclude each other");
    place.run("two.rhai").ends(1).says("config::block");
    assert_eq!(place.prints_of("m"), before);
}

const MOUNTED: &str = "mount --bind @/m/mounted @/m/hosts";

#[test]
#[ignore = "needs root"]
fn file_that_something_is_mounted_at_is_written_in_place_and_only_if_the_script_says_so() {
    let place = Place::empty()
        .with("m/hosts", "below\n")
        .with("m/mounted", HOSTS)
        .with("plan/replace.rhai", r#"config::line("@/m/hosts", "10.0.0.1 server");"#)
        .with("plan/plan.rhai", r#"config::line("@/m/hosts", "10.0.0.1 server", #{ in_place: true });"#);
    for words in ["replace.rhai", "replace.rhai --dry-run"] {
        let ran = place.run_apart(&format!("{MOUNTED}; kkrun {words}"));
        ran.ends(1).says("cannot replace `@/m/hosts`: something is mounted at it").says("`in_place: true`");
    }
    let ran = place.run_apart(&format!("{MOUNTED}; kkrun plan.rhai"));
    ran.ends(0).says("wrote into `@/m/hosts` in place");
    assert_eq!(place.read("m/mounted"), format!("{HOSTS}10.0.0.1 server\n"));
    place.run_apart(&format!("{MOUNTED}; kkrun rollback --plan plan")).ends(0);
    assert_eq!((place.read("m/mounted"), place.read("m/hosts")), (HOSTS.to_owned(), "below\n".to_owned()));
}

const SEVERAL: &str = r#"
step::run("01", "Several", || {
    config::set("@/m/app.conf", #{ host: "new", port: 81, zone: "z", user: "kim" });
});
"#;

#[test]
fn several_keys_are_set_by_one_write_with_one_backup_and_undone_one_by_one() {
    let before = "# app\nport = 80\nhost = old\nother = 1\n";
    let place = Place::new(SEVERAL).with("m/app.conf", before);
    place.run("plan.rhai -v").ends(0).says("set port in @/m/app.conf").says("set zone in @/m/app.conf");
    let after = place.read("m/app.conf");
    assert!(after.contains("port = 81\nhost = new\nother = 1\n"), "{after}");
    assert_eq!(place.backups(), [before]);
    let count = |kind: &str| place.records().iter().filter(|known| *known == kind).count();
    assert_eq!((count("intent"), count("done")), (4, 4));
    place.run("plan.rhai --verify").ends(0);

    // One of them alone, in a file that was modified elsewhere.
    place.edit("m/app.conf", "other = 1", "other = 2");
    let undone = place.run(&format!("rollback line:{}/m/app.conf#port", place.root())).ends(0);
    // It is as before: what others modified in its file is none of it.
    undone.says("undone: set port in @/m/app.conf").never_says("in part");
    let text = place.read("m/app.conf");
    assert!(text.contains("port = 80\nhost = new\nother = 2\n") && text.contains("zone = z\n"), "{text}");

    place.run("rollback").ends(0);
    assert_eq!(place.read("m/app.conf"), before.replace("other = 1", "other = 2"));
}

#[test]
fn several_keys_are_rolled_back_to_the_byte_and_a_new_file_is_removed() {
    let before = "port = 80\nhost = old";
    let place = Place::new(SEVERAL).with("m/app.conf", before);
    let modified = |place: &Place| std::fs::metadata(place.path("m/app.conf")).unwrap().modified().unwrap();
    let time = modified(&place);
    place.run("plan.rhai").ends(0);
    place.run("rollback --dry-run").ends(6);
    place.run("rollback").ends(0).says("4 undone");
    assert_eq!((place.read("m/app.conf"), modified(&place)), (before.to_owned(), time));

    let place = Place::new(SEVERAL);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/app.conf"), "host=new\nport=81\nuser=kim\nzone=z\n");
    place.run("rollback").ends(0);
    assert!(!place.exists("m/app.conf"));
}

#[test]
fn of_several_keys_a_modified_one_is_a_conflict_and_the_others_are_set() {
    let place = Place::new(SEVERAL).with("m/app.conf", "port = 80\nhost = old\n");
    place.run("plan.rhai").ends(0);
    place.edit("m/app.conf", "port = 81", "port = 9");
    place.edit("plan/plan.rhai", "port: 81", "port: 82");
    place.edit("plan/plan.rhai", "zone: \"z\"", "zone: \"y\"");
    place.run("plan.rhai").ends(78);
    place.run("plan.rhai --on-conflict keep").ends(0);
    let text = place.read("m/app.conf");
    assert!(text.contains("port = 9\n") && text.contains("zone = y\n"), "{text}");
}

#[test]
fn a_whole_file_replaces_a_symlink_and_an_edit_refuses_it() {
    let plan = r#"step::run("01", "Write", || { file::write("@/m/link", "new\n"); file::copy("files/f", "@/m/other"); });"#;
    let place = Place::new(plan).with("m/target", "a = 1\n").with("plan/files/f", "copied\n");
    for link in ["m/link", "m/other", "m/edited"] {
        std::os::unix::fs::symlink("target", place.path(link)).unwrap();
    }
    place.run("plan.rhai").ends(0);
    assert_eq!((place.read("m/link"), place.read("m/other")), ("new\n".to_owned(), "copied\n".to_owned()));
    assert_eq!(place.read("m/target"), "a = 1\n");
    place.run("rollback").ends(0);
    for link in ["m/link", "m/other"] {
        assert_eq!(std::fs::read_link(place.path(link)).unwrap(), std::path::Path::new("target"));
    }
    for edit in [
        r#"config::set("@/m/edited", "a", 2)"#,
        r#"config::line("@/m/edited", "b")"#,
        r#"config::block("@/m/edited", "b", "c")"#,
    ] {
        place.write("plan/edit.rhai", &format!("{edit};\n"));
        place
            .run("edit.rhai")
            .ends(1)
            .says("is a symbolic link, not a file")
            .says("name the target of the link: `target`");
    }
    assert_eq!(place.read("m/target"), "a = 1\n");
}
