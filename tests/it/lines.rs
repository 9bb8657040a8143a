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
