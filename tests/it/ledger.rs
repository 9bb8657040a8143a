//! The recorded state of each target: several steps that edit one file, conflicts, and targets that no step asks for any
//! more.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::Place;

const THREE_EDITS: &str = r#"
step::run("01", "First", || config::set("@/m/conf", "one", "1"));
step::run("02", "Second", || config::set("@/m/conf", "two", "2"));
step::run("03", "Third", || config::block("@/m/conf", "it", "three\n"));
"#;

/// Three steps, in every order.
const ORDERS: [[&str; 3]; 6] = [
    ["01", "02", "03"],
    ["01", "03", "02"],
    ["02", "01", "03"],
    ["02", "03", "01"],
    ["03", "01", "02"],
    ["03", "02", "01"],
];

#[test]
fn a_section_that_several_steps_share_goes_with_the_last_of_them() {
    let plan = r#"
step::run("01", "First", || config::set("@/m/ini", "one", "1", #{ section: "web" }));
step::run("02", "Second", || config::set("@/m/ini", "two", "2", #{ section: "web" }));
step::run("03", "Third", || config::block("@/m/ini", "it", "three\n", #{ section: "web" }));
"#;
    for order in ORDERS {
        for before in ["[other]\nx=1\n", "[other]\nx=1", "[other]\nx=1\n\n", ""] {
            let place = Place::new(plan).with("m/ini", before);
            place.run("plan.rhai").ends(0);
            for step in order {
                place.run(&format!("rollback {step}")).ends(0).says("1 undone");
            }
            assert_eq!(place.read("m/ini"), before, "{order:?}");
        }
    }
}

#[test]
fn steps_that_edit_one_file_are_undone_in_every_order() {
    for (number, order) in ORDERS.into_iter().enumerate() {
        let place = Place::new(THREE_EDITS);
        if number % 2 == 0 {
            place.write("m/conf", "zero = 0\ntwo = 20\n");
        }
        let before = place.listing("m");
        place.run("plan.rhai").ends(0);
        for (done, step) in order.into_iter().enumerate() {
            place.run(&format!("rollback {step}")).ends(0).says("1 undone");
            let left = order.len() - done - 1;
            let text = if place.exists("m/conf") { place.read("m/conf") } else { String::new() };
            let lines = ["one = 1", "one=1", "two = 2\n", "two=2", "three"];
            let remaining = lines.iter().filter(|line| text.contains(*line)).count();
            assert_eq!(remaining, left, "{order:?} after {step}: {text}");
        }
        assert_eq!(place.listing("m"), before, "{order:?}");
        // Everything is recorded state: making it again is no conflict.
        place.run("plan.rhai --only 01,02,03").ends(0);
        place.run("rollback").ends(0).says("0 conflicts");
        assert_eq!(place.listing("m"), before, "{order:?}");
    }
}

#[test]
fn edit_depends_on_the_file_that_it_is_in() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/conf", "a=1\n"));
step::run("02", "Second", || config::set("@/m/conf", "b", "2"));
step::run("03", "Third", || file::access("@/m/conf", #{ mode: "0600" }));
"#,
    );
    place.run("plan.rhai").ends(0);
    let listed = place.listing("m");
    place.run("rollback 01").ends(1).says("cannot undo step 01 alone").says("of step 02");
    place.run("rollback 01 02").ends(1).says("step 03 changed `@/m/conf` after it");
    place.run("rollback 03 --dry-run").ends(6).says("1 would be undone");
    assert_eq!(place.listing("m"), listed);
    place.run("rollback 02").ends(0);
    assert_eq!(place.read("m/conf"), "a=1\n");
    place.run("rollback").ends(0).says("2 undone · 0 kept · 0 conflicts");
    assert!(!place.exists("m/conf"));
}

#[test]
fn overwritten_conflict_is_in_the_backups_after_rollback() {
    let place = Place::new(r#"step::run("01", "First", || file::write("@/m/page", "ours\n"));"#)
        .with("m/page", "first\n");
    place.run("plan.rhai").ends(0);
    place.write("m/page", "theirs\n");
    place.run("plan.rhai --redo 01").ends(78).says("--on-conflict overwrite");
    assert_eq!(place.read("m/page"), "theirs\n");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/page"), "ours\n");
    place.run("rollback").ends(0).says("2 undone");
    assert_eq!(place.read("m/page"), "first\n");
    assert!(place.backups().contains(&"theirs\n".to_owned()));
}

#[test]
fn what_a_rollback_restored_of_the_operators_is_not_taken_by_the_next() {
    for (act, at, before, mine) in [
        (r#"file::write("@/m/page", "ours\n")"#, "m/page", "first\n", "mine\n"),
        (r#"config::set("@/m/page", "a", "2")"#, "m/page", "a=1\nb=1\n", "a=3\nb=1\n"),
    ] {
        for keeps_first in [false, true] {
            let place =
                Place::new(&format!(r#"step::run("01", "First", || {{ {act}; }});"#)).with(at, before);
            place.run("plan.rhai").ends(0);
            let ours = place.read(at);
            place.write(at, mine);
            if keeps_first {
                place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
            }
            place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
            assert_eq!(place.read(at), ours, "{act}");
            place.run("rollback --last").ends(0);
            assert_eq!(place.read(at), mine, "{act}");
            place.run("rollback 01").ends(4);
            place.run("plan.rhai --redo 01").ends(78);
            assert_eq!(place.read(at), mine, "{act}");
            place.run("rollback --on-conflict overwrite").ends(0);
            assert_eq!(place.read(at), before, "{act}");
            assert!(place.backups().contains(&mine.to_owned()), "{act}");
        }
    }
}

#[test]
fn what_the_operator_removed_is_asked_about_kept_or_made_again() {
    for (act, removed) in [
        (r#"file::write("@/m/it", "new\n")"#, "`@/m/it` was removed"),
        (r#"file::link("elsewhere", "@/m/it")"#, "`@/m/it` was removed"),
        (r#"file::make_dir("@/m/it")"#, "`@/m/it` was removed"),
        (r#"file::copy("files/tree", "@/m/it")"#, "`@/m/it` was removed"),
        (
            r#"config::set("@/m/app.conf", "key", "1", #{ separator: "=" })"#,
            "key is gone from `@/m/app.conf`",
        ),
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"Act\", || {{ {act}; }});"))
            .with("plan/files/tree/leaf", "leaf\n")
            .with("m/app.conf", "# app\n");
        place.run("plan.rhai").ends(0);
        let made = place.listing("m");
        if act.starts_with("config") {
            place.write("m/app.conf", "# app\n");
        } else {
            place.remove("m/it");
        }
        let left = place.listing("m");
        place.run("plan.rhai --redo 01").ends(78).says(removed);
        place.run("plan.rhai --redo 01 --dry-run").ends(6).says("would ask").says(removed);
        assert_eq!(place.listing("m"), left, "{act}");
        place.run("plan.rhai --redo 01 --on-conflict keep").ends(0).says("kept as modified outside kkrun");
        place.run("plan.rhai --redo 01").ends(0);
        assert_eq!(place.listing("m"), left, "{act}");
        place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
        assert_eq!(place.listing("m"), made, "{act}");
        place.run("rollback").ends(0);
        assert_eq!(place.listing("m").lines().filter(|line| line.contains("it")).count(), 0, "{act}");
    }
}

/// A plan that writes `port` to the page, which is edited by the operator then.
fn edited_page() -> Place {
    let place = Place::new(
        r#"step::run("01", "First", || file::write("@/m/page", "port " + settings::port + "\n"));"#,
    )
    .with("plan/settings.rhai", "#{ plan: \"plan\", port: 80 }")
    .with("m/page", "first\n");
    place.run("plan.rhai").ends(0);
    place.write("m/page", "port 80\ntls\n");
    place
}

#[test]
fn kept_conflict_is_asked_about_again_when_the_desired_state_changes() {
    let place = edited_page();
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0).says("kept as modified outside kkrun");
    place.run("plan.rhai --redo 01").ends(0);
    place.run("plan.rhai --set port=81").ends(78).says("+tls").says("--on-conflict overwrite");
    assert_eq!(place.read("m/page"), "port 80\ntls\n");
    place.run("plan.rhai --on-conflict keep").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/page"), "port 80\ntls\n");
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert_eq!(place.read("m/page"), "port 81\n");
    place.run("rollback").ends(0).says("2 undone · 0 kept");
    assert_eq!(place.read("m/page"), "first\n");
}

#[test]
fn rollback_leaves_what_was_kept_and_says_so() {
    let place = edited_page();
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    for _ in 0..2 {
        place.run("rollback --dry-run").ends(0).says("0 would be undone · 1 kept · 0 conflicts");
        place.run("rollback").ends(0).says("kept: write @/m/page").says("0 undone · 1 kept · 0 conflicts");
        assert_eq!(place.read("m/page"), "port 80\ntls\n");
    }
    // What is the operator's is not asked for again.
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/page"), "port 80\ntls\n");
    place.run("rollback --on-conflict overwrite").ends(0).says("1 undone");
    assert_eq!(place.read("m/page"), "first\n");
    assert!(place.backups().contains(&"port 80\ntls\n".to_owned()));
}

#[test]
fn rollback_with_keep_settles_the_conflict() {
    let place = edited_page();
    place.run("rollback").ends(4).says("1 conflict").says("--on-conflict keep");
    place.run("rollback --dry-run --on-conflict keep").ends(0).says("1 kept · 0 conflicts");
    place.run("rollback").ends(4);
    place
        .run("rollback --on-conflict keep")
        .ends(0)
        .says("kept: write @/m/page")
        .says("1 kept · 0 conflicts");
    place.run("rollback").ends(0).says("1 kept · 0 conflicts");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/page"), "port 80\ntls\n");
}

#[test]
fn owner_or_mode_of_an_entry_that_the_operator_changed_is_a_conflict_and_what_kkrun_changed_is_none() {
    let place = Place::new(
        r#"step::run("01", "First", || { file::access("@/m/d", #{ mode: "0750", recursive: true }); });"#,
    )
    .with("m/d/x", "x\n")
    .with("m/d/y", "y\n");
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    place.run("plan.rhai").ends(0);
    fs::set_permissions(place.path("m/d/x"), fs::Permissions::from_mode(0o711)).unwrap();
    place.run("plan.rhai --redo 01").ends(78).says("711");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    assert_eq!(mode("m/d/x"), 0o711);
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert_eq!(mode("m/d/x"), 0o750);
    // Another step of kkrun's own is no one else.
    place.write(
        "plan/plan.rhai",
        r#"step::run("01", "First", || { file::access("@/m/d", #{ mode: "0750", recursive: true }); });
step::run("02", "Second", || { file::write("@/m/d/y", "new\n", #{ mode: "0640" }); });"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(mode("m/d/y"), 0o750);
    place.run("rollback").ends(0);
}

#[test]
fn directory_with_something_in_it_that_stays_is_not_removed_whatever_is_purged() {
    let place = Place::new(
        r#"step::run("01", "First", || { file::make_dir("@/m/d"); file::write("@/m/d/f", "ours\n"); });"#,
    );
    place.run("plan.rhai").ends(0);
    place.write("m/d/f", "theirs\n");
    place.run("rollback --purge all --dry-run").ends(4).says("`@/m/d/f` in it stays");
    place.run("rollback --purge all").ends(4).says("`@/m/d/f` in it stays");
    assert_eq!(place.read("m/d/f"), "theirs\n");
    place.run("rollback --on-conflict keep").ends(0);
    place.run("rollback --purge all").ends(0);
    assert_eq!(place.read("m/d/f"), "theirs\n");
    place.run("rollback --purge all --on-conflict overwrite").ends(0);
    assert!(!place.exists("m/d"));
    assert!(place.backups().contains(&"theirs\n".to_owned()));
}

#[test]
fn line_set_in_a_kept_file_is_merged_into_it() {
    let place = edited_page();
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    place.write(
        "plan/plan.rhai",
        r#"step::run("01", "First", || file::write("@/m/page", "port " + settings::port + "\n"));
step::run("02", "Second", || config::set("@/m/page", "key", "1", #{ separator: " " }));"#,
    );
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/page"), "port 80\ntls\nkey 1\n");
    place.run("rollback").ends(0).says("1 undone · 1 kept · 0 conflicts");
    assert_eq!(place.read("m/page"), "port 80\ntls\n");
}

const LOOK: &str =
    r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status} ${row.reason}`); }"#;

#[test]
fn a_target_that_a_step_does_not_ask_for_any_more_is_named_with_the_way_to_undo_it() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::make_dir("@/m/in/it");
    file::write("@/m/in/it/a", "a\n");
    file::write("@/m/b", "b\n");
    config::set("@/m/conf", "key", "1");
});
"#,
    )
    .with("plan/look.rhai", LOOK);
    place.run("plan.rhai").ends(0);
    place.run("look.rhai").ends(0).prints("01 complete \n");
    place.edit("plan/plan.rhai", "    file::write(\"@/m/b\", \"b\\n\");\n", "");
    place.edit("plan/plan.rhai", "    config::set(\"@/m/conf\", \"key\", \"1\");\n", "");
    place.run("look.rhai").ends(0).prints("01 stale its script changed\n");
    place.run("plan.rhai").ends(0);
    place.run("look.rhai").ends(0).prints(
        "01 complete no longer asks for file:@/m/b, line:@/m/conf#key; \
         `kkrun rollback file:@/m/b 'line:@/m/conf#key'` undoes it\n",
    );
    place
        .run_words(&["rollback", "file:@/m/b".replace('@', &place.root()).as_str()])
        .ends(0)
        .says("1 undone");
    assert!(!place.exists("m/b") && place.exists("m/in/it/a"));
    place.run("plan.rhai").ends(0);
    assert!(!place.exists("m/b"));
    place.run("look.rhai").ends(0).prints(
        "01 complete no longer asks for line:@/m/conf#key; `kkrun rollback 'line:@/m/conf#key'` undoes it\n",
    );
    place.run("rollback").ends(0);
    assert_eq!(place.listing("m").lines().count(), 1, "{}", place.listing("m"));
}

#[test]
fn a_removed_step_stays_visible_and_a_renumbered_one_is_known_by_what_it_made() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "a\n"));
step::run("02", "Second", || file::write("@/m/b", "b\n"));
step::run("03", "Third", || file::write("@/m/c", "c\n"));
"#,
    )
    .with("plan/look.rhai", LOOK);
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "step::run(\"02\", \"Second\", || file::write(\"@/m/b\", \"b\\n\"));\n", "");
    place.edit("plan/plan.rhai", "\"03\", \"Third\"", "\"02b\", \"Third\"");
    place.run("plan.rhai").ends(0);
    place.run("look.rhai").ends(0).prints(
        "01 complete \n02b complete \n02 complete no longer in the plan; `kkrun rollback 02` undoes it\n\
         03 complete no longer in the plan; what it made is asked for by step 02b\n",
    );
    place.run("rollback 02").ends(0).says("1 undone");
    assert!(!place.exists("m/b") && place.exists("m/c"));
    place.run("rollback").ends(0).says("2 undone");
    assert!(!place.exists("m/a") && !place.exists("m/c"));
}

#[test]
fn drift_is_reported_to_the_plan_that_asks() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::write("@/m/a", "a\n"));
print(`drift: ${step::drift("01")}`);
"#,
    );
    place.run("plan.rhai").ends(0).prints("drift: \n");
    place.write("m/a", "theirs\n");
    let said = place.run("plan.rhai").ends(0);
    assert_eq!(said.stdout, "drift: `@/m/a` was modified: content differs (2 → 7 bytes)\n");
}

/// An edit by the operator.
type Deed = fn(&Place);

#[test]
fn rollback_keeps_what_the_operator_modified_until_overwrite() {
    let plan = r#"
step::run("01", "First", || {
    file::write("@/m/page", "ours\n");
    file::make_dir("@/m/dir");
    file::write("@/m/dir/inner", "ours\n");
});
"#;
    let deeds: [(&str, Deed, i32, &str); 6] = [
        ("edited", |place| place.write("m/page", "theirs\n"), 4, "content differs"),
        (
            "replaced by a link",
            |place| {
                place.remove("m/page");
                std::os::unix::fs::symlink("theirs", place.path("m/page")).expect("a link");
            },
            4,
            "a file → a symbolic link",
        ),
        ("deleted", |place| place.remove("m/page"), 4, "a file → absent"),
        (
            "replaced by a directory",
            |place| {
                place.remove("m/page");
                place.write("m/page/theirs", "theirs\n");
            },
            4,
            "a file → a directory",
        ),
        (
            "its directory renamed",
            |place| std::fs::rename(place.path("m/dir"), place.path("m/renamed")).expect("a move"),
            0,
            "3 undone",
        ),
        ("its directory filled", |place| place.write("m/dir/theirs", "theirs\n"), 0, "1 kept"),
    ];
    for (what, deed, status, said) in deeds {
        let place = Place::new(plan).with("m/page", "first\n");
        let before = place.listing("m");
        place.run("plan.rhai").ends(0);
        deed(&place);
        let theirs = place.listing("m");
        place.run("rollback").ends(status).says(said);
        let left = place.listing("m");
        for line in theirs.lines().filter(|line| line.contains("theirs") || line.contains("renamed")) {
            assert!(left.contains(line), "{what}: {line} is lost");
        }
        if status == 4 {
            place.run("rollback").ends(4).says("kkrun rollback file:@/m/page --on-conflict overwrite");
        }
        if status == 4 {
            place.run("rollback --on-conflict overwrite").ends(0);
            assert_eq!(place.listing("m"), before, "{what}");
        }
    }
}

#[test]
fn content_that_the_operator_wrote_is_kept_when_kkrun_changes_the_mode() {
    let place = Place::new(r#"step::run("01", "Make", || { file::write("@/m/a", "mine\n"); });"#);
    place.run("plan.rhai").ends(0);
    place.write("m/a", "mine\ntheirs\n");
    // The operator's content is not overwritten, so there is no question.
    place.write(
        "plan/plan.rhai",
        r#"step::run("01", "Make", || { file::access("@/m/a", #{ mode: "0600" }); });"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(4).says("1 undone · 0 kept · 1 conflict");
    assert_eq!(place.read("m/a"), "mine\ntheirs\n");
    // Again, with the mode already restored.
    place.run("rollback").ends(4).says("0 undone · 0 kept · 1 conflict");
    assert_eq!(place.read("m/a"), "mine\ntheirs\n");
    place.run("rollback --on-conflict overwrite").ends(0);
    assert!(!place.exists("m/a"));
    assert!(place.backups().contains(&"mine\ntheirs\n".to_owned()));
}

#[test]
fn copy_into_a_mirrored_tree_is_no_conflict() {
    let place = Place::new(
        r#"
step::run("01", "First", || file::mirror("files/one", "@/m/tree"));
step::run("02", "Second", || file::copy("files/two", "@/m/tree"));
"#,
    )
    .with("plan/files/one/page", "1\n")
    .with("plan/files/two/other", "2\n");
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    place.write("plan/files/one/page", "3\n");
    place.run("plan.rhai --only 01").ends(0);
    assert!(place.read("m/tree/page") == "3\n" && !place.exists("m/tree/other"));
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn kept_conflict_is_not_asked_about_again_whatever_is_there() {
    let place = Place::new(
        r#"step::run("01", "Act", || { file::make_dir("@/m/kept", #{ mode: "0750" }); file::write("@/m/page", "new\n"); });"#,
    )
    .with("m/page", "first\n");
    place.run("plan.rhai").ends(0);
    fs::set_permissions(place.path("m/kept"), fs::Permissions::from_mode(0o711)).unwrap();
    place.write("m/page", "theirs\n");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    place.remove("m/page");
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
    place.run("plan.rhai --verify").ends(0).says("still holds");
    assert!(!place.exists("m/page") && place.listing("m").contains("drwx--x--x"), "{}", place.listing("m"));
}
