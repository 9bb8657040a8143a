//! `kkrun forget`: what is kept in clear of a plan goes, nothing else does, and what that costs is said before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use crate::support::{Place, until};

const PASSWORD: &str = "hunter2-hunter2";

/// Two plans that both replace files and ask for secrets, one of them the same; one file was there before.
fn two_plans() -> Place {
    let place = Place::empty()
        .with("m/conf", "theirs = 1\n")
        .with("m/other", "other before\n")
        .with("given", &format!("db={PASSWORD}\nboth=a-shared-secret\nsolo=1234\n"))
        .with(
            "plan/one.rhai",
            r#"step::run("01", "One", || {
                file::write("@/m/made", secret::join(["pw=", secret::ask("db", "D"), "\n"]), #{ mode: "0644" });
                config::set("@/m/conf", "pw", secret::ask("db", "D"));
                config::set("@/m/conf", "pin", secret::ask("solo", "S"));
                file::write("@/m/key", secret::generate("key"));
                file::write("@/m/key2", secret::ask("both", "B"));
                print("one ran");
            });"#,
        )
        .with(
            "plan/two.rhai",
            r#"step::run("01", "Two", || {
                file::write("@/m/other", secret::ask("both", "B"));
                print("two ran");
            });"#,
        );
    fs::set_permissions(place.path("given"), fs::Permissions::from_mode(0o600)).unwrap();
    for plan in ["one.rhai", "two.rhai"] {
        place.run_words(&[plan, "--secrets", place.path("given").to_str().unwrap()]).ends(0);
    }
    place
}

/// Everything that is kept beside the journal, without what hashes alone are in.
fn kept(place: &Place) -> String {
    let there = |name: &&str| place.exists(&format!("state/{name}"));
    let listed = ["secrets", "backups", "logs"].into_iter().filter(there);
    listed.map(|name| name.to_owned() + ":\n" + place.listing(&format!("state/{name}")).as_str()).collect()
}

#[test]
fn forget_says_what_cannot_be_undone_and_removes_what_is_kept_of_a_plan() {
    let place = two_plans();
    let before = kept(&place);
    place
        .run("forget one")
        .ends(78)
        .says("#")
        .says("2 changes cannot be undone afterwards")
        .says("set pw in @/m/conf")
        .says("the next run asks for or generates new values of: db, key, solo")
        .says("stored secrets of other plans as well: both");
    place.run("forget one --dry-run").ends(6).says("2 changes cannot be undone afterwards");
    assert_eq!(kept(&place), before, "nothing was removed yet");
    place.run("forget one --yes").ends(0).says("3 stored secrets (db, key, solo)");
    for name in ["db", "key", "solo"] {
        assert!(!place.exists(&format!("state/secrets/{name}")), "{name}");
    }
    assert!(place.exists("state/secrets/both"));
    assert_eq!(place.backups(), ["other before\n"], "that is of the other plan");
    let logs: Vec<_> = fs::read_dir(place.path("state/logs")).unwrap().flatten().collect();
    assert!(logs.iter().all(|log| log.file_name().to_str().unwrap().starts_with("two.")), "{logs:?}");
    place.run("forget one --yes").ends(0).says("nothing is kept that could be forgotten");
}

#[test]
fn after_forget_status_history_and_rollback_say_what_is_forgotten() {
    let place = two_plans();
    place.run("forget one --yes").ends(0);
    let history = place.run("history").ends(0).stdout;
    assert_eq!(history.matches("`kkrun forget` removed what undoing it needs").count(), 2, "{history}");
    let place = place.with_built_in("status.rhai").with("plan/settings.rhai", "#{ plan: \"one\" }");
    place.write("plan/master.rhai", &place.read("plan/one.rhai"));
    let status = place.run("status.rhai").ends(0);
    assert!(status.stdout.contains("2 of them forgotten: they cannot be undone"), "{}", status.page());
    place.remove("plan/settings.rhai");
    place
        .run("rollback --plan one")
        .ends(0)
        .says("forgotten on ")
        .says("`kkrun forget` removed what undoing it needs");
    assert!(!place.exists("m/made") && !place.exists("m/key"), "what needs no backup is undone");
    assert!(place.holds("m/conf", PASSWORD), "what does stays as it is");
    place.run("rollback --plan two").ends(0);
    assert_eq!(place.read("m/other"), "other before\n");
    // The value is masked although it is stored nowhere.
    place.write("plan/show.rhai", "print(file::read(\"@/m/conf\"));");
    let shown = place.run("show.rhai").ends(0);
    assert!(shown.stdout.contains("«secret:db»") && !shown.stdout.contains(PASSWORD), "{}", shown.page());
}

#[test]
fn after_a_full_rollback_forget_leaves_nothing_in_clear() {
    let place = two_plans();
    place.run("rollback --plan two").ends(0);
    place.run("rollback --plan one").ends(0);
    assert!(kept(&place).contains(PASSWORD));
    place
        .run("forget --all --yes")
        .ends(0)
        .says("every change that can be undone now can be undone afterwards");
    assert_eq!((place.backups().len(), kept(&place).contains("state")), (0, false));
    assert!(!place.holds("state/journal", PASSWORD) && !place.holds("state/remembered", PASSWORD));
    assert_eq!(fs::read_dir(place.path("state/secrets")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("state/logs")).unwrap().count(), 0);
    // It begins from the start, with new values.
    place.run_words(&["one.rhai", "--secrets", place.path("given").to_str().unwrap()]).ends(0);
    place.run("rollback --plan one").ends(0);
    assert_eq!(place.read("m/conf"), "theirs = 1\n");
}

#[test]
fn forget_that_was_killed_is_completed_by_the_same_command() {
    let place = two_plans();
    let all = ["secrets/db", "secrets/key", "secrets/solo"].map(str::to_owned).into_iter();
    let backups: Vec<String> = fs::read_dir(place.path("state/backups"))
        .unwrap()
        .map(|entry| format!("backups/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    let all: Vec<String> = all.chain(backups).collect();
    let saved: Vec<(String, Vec<u8>)> = all
        .iter()
        .map(|name| (name.clone(), fs::read(place.path(&format!("state/{name}"))).unwrap()))
        .collect();
    place.run("forget one --yes").ends(0);
    let done = kept(&place);
    for left in 0..saved.len() {
        // As after a kill when all but these were removed.
        for (name, content) in &saved[left..] {
            fs::write(place.path(&format!("state/{name}")), content).unwrap();
        }
        place.run("forget one --yes").ends(0);
        assert_eq!(kept(&place), done, "{left}");
    }
    let forgotten = place.records().iter().filter(|kind| *kind == "forgotten").count();
    assert_eq!(forgotten, 1, "what is forgotten is recorded before anything is removed, and once");
}

#[test]
fn forget_is_refused_during_a_run_and_an_interrupted_rollback() {
    let place = Place::new(
        "step::run(\"01\", \"W\", || { file::write(\"@/m/a\", \"x\"); cmd::run([\"sh\", \"-c\", \"touch @/begun; sleep 30\"], #{ always: \"to wait\" }); });",
    )
    .with("m/a", "before\n");
    let running = place.start("plan.rhai");
    until("it waits", || place.exists("begun"));
    place.run("forget plan --yes").ends(3);
    running.kill();
    place.run("forget other --yes").ends(2).says("unknown plan `other`");
    place.run("forget --yes").ends(2).says("--all");
    place.run("rollback").ends(0);
    place.cut_journal_behind("undo_intent");
    place.run("forget plan --yes").ends(1).says("finish it with `kkrun rollback --plan plan`");
    assert!(place.backups().contains(&"before\n".to_owned()));
}

#[test]
fn lists_of_trees_stay_and_the_contents_of_trees_go() {
    let place = Place::new("step::run(\"01\", \"T\", || { file::copy(\"files/tree\", \"@/m/tree\"); });")
        .with("plan/files/tree/a", "new a\n")
        .with("m/tree/a", "the old a\n")
        .with("m/tree/b", "the old b\n");
    place.run("plan.rhai").ends(0);
    assert!(place.backups().contains(&"the old a\n".to_owned()));
    place.run("forget plan --yes").ends(0).says("1 change cannot be undone afterwards");
    assert!(!place.backups().iter().any(|content| content.contains("the old")), "{:?}", place.backups());
    place.run("plan.rhai --redo 01").ends(0);
    place.run("rollback").ends(0).says("forgotten on ");
    assert_eq!(place.read("m/tree/a"), "new a\n");
}

#[test]
fn rollback_does_not_miss_a_backup_that_was_forgotten() {
    let place = Place::new(r#"step::run("01", "One", || file::write("@/m/page", "new\n"));"#);
    place.write("m/page", "first\n");
    place.run("plan.rhai").ends(0);
    place.run("forget plan --yes").ends(0).says("1 change cannot be undone afterwards");
    let said = place.run("rollback").ends(0).says("forgotten on ").page();
    assert!(!said.contains("is missing"), "{said}");
}

#[test]
fn forget_takes_no_list_of_a_product_for_a_copy_of_a_conflict() {
    let place = Place::new(
        r#"step::run("01", "All", || { cmd::run(["mkdir", "@/m/d"], #{ creates: "@/m/d" }); file::write("@/m/f", "1\n"); });"#,
    );
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", r#""mkdir""#, r#""mkdir", "-p""#);
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    let shown = place.run("forget plan").ends(78);
    shown.never_says("of what conflicts overwrote").never_says("last output");
}

/// Dates everything in a directory two days back.
fn age(place: &Place, name: &str) {
    let before = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    for entry in fs::read_dir(place.path(name)).unwrap().flatten() {
        fs::File::options().write(true).open(entry.path()).unwrap().set_modified(before).unwrap();
    }
}

#[test]
fn by_age_logs_go_and_backups_that_no_rollback_needs() {
    let place = two_plans();
    place.run("rollback --plan one").ends(0);
    place.run("forget --older-than 1 --yes").ends(0).says("nothing is kept that could be forgotten");
    let secrets = place.listing("state/secrets");
    for name in ["state/backups", "state/logs"] {
        age(&place, name);
    }
    place.run("forget --older-than 3 --yes").ends(0).says("nothing is kept that could be forgotten");
    place.run("forget --older-than 1").ends(78).says("every change that can be undone now can be undone");
    assert!(kept(&place).contains(PASSWORD), "nothing was removed without an answer");
    place.run("forget --older-than 1 --yes").ends(0).says(", 0 stored secrets, 2 logs");
    assert_eq!(place.backups(), ["other before\n"], "what plan two replaced");
    assert_eq!(place.listing("state/secrets"), secrets);
    place.run("rollback --plan two").ends(0);
    assert_eq!(place.read("m/other"), "other before\n");
    place.run("forget one --older-than 1").ends(2);
}

#[test]
fn log_of_what_was_rolled_back_and_forgotten_says_that_it_was_removed() {
    let place = two_plans();
    for plan in ["one", "two"] {
        place.run(&format!("rollback --plan {plan}")).ends(0);
    }
    place.run("forget --all --yes").ends(0);
    for words in ["log", "log --plan one"] {
        place.run(words).ends(1).says("`kkrun forget` removed those of the steps that ran");
    }
    place.run("log --plan three").ends(2).says("unknown plan `three`").says("plans with a record: one, two");
    let new = Place::new("step::run(\"01\", \"First\", || 1);");
    new.run("log").ends(1).says("no step has run yet");
}
