//! What a command makes (`creates`): kkrun removes only what its own command made; what was put into it since is the
//! operator's.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Place, until};

/// Fails; its product is the operator's.
const FAILS: &str =
    r#"step::run("01", "First", || cmd::run(["false"], #{ creates: "@/m/data", made_from: "v1" }));"#;

#[test]
fn failed_command_never_removes_product_that_was_there_before() {
    let place = Place::new(FAILS).with("m/data/theirs", "theirs\n");
    let before = place.listing("m");
    for _ in 0..3 {
        place.run("plan.rhai").ends(1);
        assert_eq!(place.listing("m"), before);
    }
    place.run("rollback").ends(0).never_says("kept:").says("1 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn killed_command_never_removes_product_that_was_there_before() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "echo x >> @/m/log; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo out > @/m/data/out"],
        #{ creates: "@/m/data", made_from: "v1" });
});
"#,
    )
    .with("m/data/theirs", "theirs\n");
    let started = place.start("plan.rhai");
    until("the command is at work", || place.holds("m/log", "\n"));
    started.kill();
    assert!(place.exists("m/data/theirs"));
    place.write("m/go", "");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/data/theirs"), "theirs\n");
    let back = place.run("rollback").ends(0);
    back.says("1 kept").says("`@/m/data` was there before").says("0 undone");
    assert!(place.exists("m/data/theirs") && place.exists("m/data/out"));
}

#[test]
fn unless_and_creates_keep_product_that_was_there_before() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "echo half > @/m/data/half; exit 3"],
        #{ creates: "@/m/data", unless: ["test", "-e", "@/m/data/whole"] });
});
"#,
    )
    .with("m/data/theirs", "theirs\n");
    for _ in 0..2 {
        place.run("plan.rhai").ends(1);
        assert_eq!(place.read("m/data/theirs"), "theirs\n");
    }
    place.run("rollback --dry-run").says("`@/m/data` was there before").says("1 kept");
    place.run("rollback --purge all").ends(0).says("`@/m/data` was there before").says("0 undone · 1 kept");
    assert_eq!(place.read("m/data/theirs"), "theirs\n");
}

/// Makes a part of its product and waits for ever.
const STUCK: &str = r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "mkdir @/m/data && echo part > @/m/data/part; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done; echo whole > @/m/data/whole"],
        #{ creates: "@/m/data" });
});
"#;

/// The only product that was set aside.
fn set_aside(place: &Place) -> String {
    let at = place.path("state/aside");
    let mut found: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let relative = found.remove(0);
    format!("state/aside/{}", relative.file_name().unwrap().display())
}

fn killed_in_the_middle(plan: &str) -> Place {
    let place = Place::new(plan);
    let started = place.start("plan.rhai");
    until("the command is at work", || place.exists("m/data/part"));
    started.kill();
    place
}

#[test]
fn rerun_after_kill_sets_aside_what_may_be_the_operators_and_completes() {
    let place = killed_in_the_middle(STUCK);
    // The next run ends the orphan; before that, the operator makes the path again.
    place.write("m/data/mine", "mine\n");
    place.write("m/go", "");
    place.edit("plan/plan.rhai", "mkdir @/m/data", "true; mkdir @/m/data");
    let ran = place.run("plan.rhai").ends(0);
    ran.says("`@/m/data`").says("@/state/aside/1/data");
    assert_eq!(place.read("m/data/whole"), "whole\n");
    assert!(!place.exists("m/data/mine"));
    assert_eq!(place.read(&format!("{}/data/mine", set_aside(&place))), "mine\n");
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/data"));
    assert_eq!(place.read("state/aside/1/data/mine"), "mine\n");
}

#[test]
fn rollback_after_kill_sets_aside_what_may_be_the_operators() {
    let place = killed_in_the_middle(STUCK);
    place.remove("m/data");
    place.write("m/data/mine", "mine\n");
    place.run("rollback --dry-run").ends(6).says("move `@/m/data` (1 file, 5 bytes) to `@/state/aside`");
    assert!(place.exists("m/data/mine"));
    place.run("rollback").ends(0).says("1 undone").says("@/state/aside/1/data");
    assert!(!place.exists("m/data"));
    assert_eq!(place.read("state/aside/1/data/mine"), "mine\n");
}

#[test]
fn doctor_lists_what_was_moved_aside() {
    let place = killed_in_the_middle(STUCK);
    place.remove("m/data");
    place.write("m/data/mine", "mine\n");
    assert!(!place.run("doctor").ends(0).stdout.contains("aside"));
    place.run("rollback").ends(0);
    let said = place.run("doctor").ends(0).stdout;
    assert!(said.contains("set aside today "), "{said}");
    assert!(said.contains(": `@/state/aside/1/data` (1 file, 5 bytes)"), "{said}");
    assert!(said.contains("`rm -r -- @/state/aside/1` does"), "{said}");
}

const MAKES: &str = r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "mkdir -p @/m/data/sub; echo one > @/m/data/one; echo two > @/m/data/sub/two; test -e @/m/well"],
        #{ creates: "@/m/data", unless: ["test", "-e", "@/m/well"] });
});
"#;

#[test]
fn rerun_after_failure_removes_its_own_part_and_sets_aside_what_gained_entries() {
    let place = Place::new(MAKES);
    place.run("plan.rhai").ends(1);
    place.run("plan.rhai").ends(1);
    assert!(!place.exists("state/aside"), "its own part is no question");
    place.write("m/data/NOTES", "notes\n");
    place.run("plan.rhai").ends(1).says("@/state/aside/1/data");
    assert_eq!(place.read("state/aside/1/data/NOTES"), "notes\n");
    assert!(!place.exists("m/data/NOTES"));
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/data") && !place.exists("state/aside/2"));
}

#[test]
fn rollback_keeps_product_that_gained_entries_until_agreed() {
    let place = Place::new(MAKES).with("m/well", "");
    place.remove("m/well");
    place.edit("plan/plan.rhai", "test -e @/m/well\"]", "touch @/m/well\"]");
    place.run("plan.rhai").ends(0);
    place.write("m/data/mine", "mine\n");
    fs::write(place.path("m/data/sub/two"), "changed\n").unwrap();
    let kept = "2 entries that kkrun did not make: mine, sub/two";
    place.run("rollback --dry-run").says(kept).says("0 would be undone · 1 kept");
    place.run("rollback").ends(0).says(kept).says("--purge data").says("0 undone · 1 kept");
    place.run("rollback --on-conflict overwrite").ends(0).says("0 undone · 1 kept");
    assert_eq!(place.read("m/data/mine"), "mine\n");
    place.run("rollback --purge data").ends(0).says("1 undone");
    assert!(!place.exists("m/data"));
    assert!(place.backups().contains(&"mine\n".to_owned()), "a small file is kept in the backups");
}

#[test]
fn rollback_removes_unchanged_product_and_dry_run_says_what_goes() {
    let place = Place::new(MAKES);
    place.edit("plan/plan.rhai", "test -e @/m/well\"]", "touch @/m/well\"]");
    place.run("plan.rhai").ends(0);
    place.run("rollback --dry-run").ends(6).says("remove `@/m/data` (2 files, 8 bytes)");
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/data") && !place.exists("state/aside"));
}

#[test]
fn failing_test_of_a_handler_keeps_product_that_gained_entries() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["bash", "-c", "echo mine > @/m/data/mine; false"] }, || {
        cmd::run(["mkdir", "@/m/data"], #{ creates: "@/m/data" });
    });
});
"#,
    );
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("m/data/mine"), "mine\n");
}

#[test]
#[ignore = "needs root: a command runs as another user"]
fn what_another_user_adds_while_a_command_runs_is_kept_until_agreed() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    let wait = "until test -e @/m/go; do sleep 0.01; done";
    cmd::run(["bash", "-c", `mkdir @/m/data; touch @/m/data/a; ${wait}`], #{ creates: "@/m/data", user: "nobody" });
    cmd::run(["bash", "-c", `touch @/m/data/b; until test -e @/m/on; do sleep 0.01; done`],
        #{ unless: ["test", "-e", "@/m/data/b"], undo: [["rm", "-f", "@/m/data/b"]], changes: "@/m/data", user: "nobody" });
});
"#,
    );
    for open in [".", "m"] {
        fs::set_permissions(place.path(open), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(place.path("m"), Some(65534), None).unwrap();
    let run = place.start("plan.rhai");
    crate::support::until("the product is there", || place.exists("m/data/a"));
    place.write("m/data/mine", "mine\n");
    place.write("m/go", "");
    crate::support::until("it is changed", || place.exists("m/data/b"));
    place.write("m/data/too", "mine, too\n");
    place.write("m/on", "");
    run.end().ends(0);
    place.run("rollback").ends(0).says("2 entries that kkrun did not make: mine, too").says("1 kept");
    assert!(place.exists("m/data/mine") && !place.exists("m/data/b"));
    place.run("rollback --purge data").ends(0).says("1 undone");
}

/// Makes its product again whenever its source changes.
const REBUILT: &str = r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "mkdir -p @/m/data; echo V1 > @/m/data/out; ! test -e @/m/fail"],
        #{ creates: "@/m/data", made_from: "V1" });
});
"#;

#[test]
fn rebuilt_product_is_removed_whole_and_what_was_put_in_between_is_asked_for() {
    let place = Place::new(REBUILT);
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "V1", "V2");
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "V2", "V3");
    place.write("m/fail", "");
    place.run("plan.rhai").ends(1);
    place.remove("m/fail");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/data/out"), "V3\n");
    place.run("rollback").ends(0).says("3 undone");
    assert!(!place.exists("m/data") && !place.exists("state/aside"));

    place.run("plan.rhai").ends(0);
    place.write("m/data/mine", "mine\n");
    place.edit("plan/plan.rhai", "V3", "V4");
    place.run("plan.rhai").ends(0);
    let ran = place.run("rollback").ends(0);
    ran.says("1 entry that kkrun did not make: mine");
    assert_eq!(place.read("m/data/mine"), "mine\n");
}

#[test]
fn dry_run_of_a_rollback_after_a_killed_rebuild_says_what_the_rollback_does() {
    for is_theirs in [false, true] {
        let place = Place::new(REBUILT);
        place.run("plan.rhai").ends(0);
        place.edit("plan/plan.rhai", "V1", "V2");
        place.edit("plan/plan.rhai", "! test -e @/m/fail", "kill -KILL $PPID; exit 1");
        place.run("plan.rhai").ends(-9);
        if is_theirs {
            place.write("m/data/mine", "mine\n");
        }
        let size = if is_theirs { "2 files, 8 bytes" } else { "1 file, 3 bytes" };
        let ran = place.run("rollback --dry-run").ends(6);
        ran.says("2 would be undone · 0 kept").says(&format!("move `@/m/data` ({size}) to `@/state/aside`"));
        place.run("rollback").ends(0).says("2 undone · 0 kept").says("@/state/aside/1/data");
        assert_eq!(place.exists("state/aside/1/data/mine"), is_theirs);
    }
}

#[test]
fn failing_test_of_a_handler_around_a_rebuilt_product_says_that_the_product_stays() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["grep", "-q", "V1", "@/m/data"] }, || {
        cmd::run(["bash", "-c", "echo V1 > @/m/data"], #{ creates: "@/m/data" });
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "echo V1", "echo V2");
    let ran = place.run("plan.rhai").ends(1);
    ran.says("`@/m/data` stays as the command left it").never_says("undone because of that");
    assert_eq!(place.read("m/data"), "V2\n");
    // It is not taken for done.
    place.edit("plan/plan.rhai", "echo V2", "echo V1");
    place.run("plan.rhai").ends(0).says("1 change");
    assert_eq!(place.read("m/data"), "V1\n");
    place.run("rollback").ends(0).says("0 kept");
    assert!(!place.exists("m/data"));
}

#[test]
fn product_below_a_directory_of_kkruns_own_goes_with_it() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::make_dir("@/m/data");
    cmd::run(["touch", "@/m/data/out"], #{ creates: "@/m/data", made_from: "v1" });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback --purge homes").ends(0).says("2 undone");
    assert!(!place.exists("m/data"));
}

#[test]
fn changed_command_makes_its_product_again() {
    let call = r#"cmd::run(["bash", "-c", "mkdir -p @/m/data; echo $0 $A $(pwd) $(cat) > @/m/data/out", "one"],
        #{ creates: "@/m/data", env: #{ A: "a" }, cwd: "/usr", stdin: "in", timeout: 60 });"#;
    for (from, to) in [
        (r#""one""#, r#""two""#),
        (r#"A: "a""#, r#"A: "b""#),
        (r#""/usr""#, r#""/etc""#),
        (r#""in""#, r#""out""#),
    ] {
        let place = Place::new(&format!("step::run(\"01\", \"First\", || {{ {call} }});"));
        place.run("plan.rhai").ends(0);
        assert_eq!(place.read("m/data/out"), "one a /usr in\n");
        place.edit("plan/plan.rhai", "timeout: 60", "timeout: 70");
        place.run("plan.rhai --redo 01").ends(0).says("0 changes");
        place.edit("plan/plan.rhai", from, to);
        place.run("plan.rhai --dry-run").ends(6).says("would");
        place.run("plan.rhai").ends(0).says("1 change");
        assert_ne!(place.read("m/data/out"), "one a /usr in\n", "{to}");
        place.run("plan.rhai --redo 01").ends(0).says("0 changes");
        place.run("rollback").ends(0).says("2 undone · 0 kept");
        assert!(!place.exists("m/data"));
    }
}

#[test]
fn command_that_failed_makes_its_product_of_the_source_of_now() {
    for unless in ["|| file::exists(\"@/m/made/x\")", "[\"test\", \"-e\", \"@/m/made/x\"]"] {
        let plan = r#"
step::run("01", "Make", || cmd::run(["sh", "-c", "test -e @/m/ok || exit 1; mkdir -p @/m/made; cp @/m/source @/m/made/x"], #{
    creates: "@/m/made", made_from: file::read("@/m/source"), unless: UNLESS, label: "build",
}));
"#;
        let place = Place::new(&plan.replace("UNLESS", unless)).with("m/ok", "").with("m/source", "1");
        place.run("plan.rhai").ends(0);
        place.remove("m/ok");
        place.write("m/source", "2");
        place.run("plan.rhai --redo 01").ends(1);
        place.write("m/ok", "");
        place.run("plan.rhai").ends(0);
        assert_eq!(place.read("m/made/x"), "2", "{unless}");
        place.write("m/source", "3");
        place.run("plan.rhai --redo 01").ends(0).says("1 change");
        assert_eq!(place.read("m/made/x"), "3", "{unless}");
    }
}

#[test]
fn command_whose_secret_was_rotated_makes_its_product_again() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    let token = secret::ask("token", "Token");
    cmd::run(["bash", "-c", "echo ${#TOKEN} > @/m/data"], #{ creates: "@/m/data", env: #{ TOKEN: token } });
});
"#,
    );
    for (token, length) in
        [("first-secret", "12\n"), ("the-second-secret", "17\n"), ("the-second-secret", "17\n")]
    {
        place.write("given", &format!("token={token}\n"));
        fs::set_permissions(place.path("given"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        place.run("plan.rhai --secrets ../given").ends(0);
        assert_eq!(place.read("m/data"), length);
    }
    assert_eq!(place.records().iter().filter(|kind| *kind == "intent").count(), 2);
}

#[test]
fn changed_command_leaves_alone_what_was_there_before_kkrun() {
    let place =
        Place::new(r#"step::run("01", "First", || cmd::run(["touch", "@/m/a"], #{ creates: "@/m/a" }));"#)
            .with("m/a", "mine\n");
    place.run("plan.rhai").ends(0).says("0 changes");
    place.edit("plan/plan.rhai", "\"touch\"", "\"rm\"");
    place.run("plan.rhai").ends(0).says("0 changes");
    assert_eq!(place.read("m/a"), "mine\n");
}

const CHECKOUT: &str = r#"
import "std/git" as git;
step::run("01", "Clone", || git::checkout("file://@/origin", "main", "@/m/app", USER));
"#;

pub(crate) fn git(at: &Path, words: &[&str]) {
    let identity =
        ["-c", "user.name=kim", "-c", "user.email=kim@example.org", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").args(identity).args(words).current_dir(at).output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn checkout() -> Place {
    let user = rustix::process::geteuid().as_raw().to_string();
    let name = Command::new("id").args(["-un", &user]).output().unwrap().stdout;
    let name = String::from_utf8(name).unwrap();
    let place = Place::new(&CHECKOUT.replace("USER", &format!("{:?}", name.trim()))).with("origin/a", "a\n");
    let origin = place.path("origin");
    git(&origin, &["init", "--quiet"]);
    git(&origin, &["add", "a"]);
    git(&origin, &["commit", "--quiet", "-m", "one"]);
    place
}

#[test]
fn commit_in_a_checkout_is_kept_until_agreed() {
    let place = checkout();
    place.run("plan.rhai").ends(0);
    place.write("m/app/b", "b\n");
    git(&place.path("m/app"), &["add", "b"]);
    git(&place.path("m/app"), &["commit", "--quiet", "-m", "mine"]);
    place.run("rollback").ends(0).says("0 undone · 1 kept").says("that kkrun did not make");
    assert_eq!(place.read("m/app/b"), "b\n");
    place.run("rollback --purge data").ends(0).says("1 undone");
    assert!(!place.exists("m/app"));
}

#[test]
fn checkout_that_kkrun_pulled_is_removed_without_a_question() {
    let place = checkout();
    place.run("plan.rhai").ends(0);
    place.write("origin/a", "changed\n");
    git(&place.path("origin"), &["commit", "--quiet", "-a", "-m", "two"]);
    place.run("plan.rhai --redo 01").ends(0);
    assert_eq!(place.read("m/app/a"), "changed\n");
    place.run("rollback").ends(0).says("2 undone · 0 kept");
    assert!(!place.exists("m/app") && !place.exists("state/aside"));
}

#[test]
fn looking_at_a_checkout_with_git_is_no_question() {
    let place = checkout();
    place.run("plan.rhai").ends(0);
    let index = place.path("m/app/.git/index");
    let before = fs::read(&index).unwrap();
    // The times of the files are no longer those in the index, so git writes it again.
    std::thread::sleep(std::time::Duration::from_millis(20));
    git(&place.path("m/app"), &["update-index", "--force-write-index"]);
    fs::File::open(&index).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(fs::read(&index).unwrap().len(), before.len());
    place.run("rollback").ends(0).says("1 undone · 0 kept");
}

#[test]
fn what_the_operator_stages_in_a_checkout_is_kept() {
    let place = checkout();
    place.run("plan.rhai").ends(0);
    place.write("m/app/b", "b\n");
    git(&place.path("m/app"), &["add", "b"]);
    place.remove("m/app/b");
    place.run("rollback").ends(0).says("0 undone · 1 kept");
}

#[test]
fn product_of_which_a_file_got_another_mode_or_owner_is_kept_until_agreed() {
    let place = Place::new(
        r#"step::run("01", "First", || cmd::run(["bash", "-c", "mkdir @/m/data; touch @/m/data/a"], #{ creates: "@/m/data" }));"#,
    );
    place.run("plan.rhai").ends(0);
    fs::set_permissions(place.path("m/data/a"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    place.run("rollback").ends(0).says("1 entry that kkrun did not make: a").says("1 kept");
    place.run("rollback --purge data").ends(0).says("1 undone");
}

#[test]
fn pulled_checkout_with_a_commit_of_the_operators_is_kept() {
    let place = checkout();
    place.run("plan.rhai").ends(0);
    place.write("m/app/mine", "mine\n");
    place.write("origin/a", "changed\n");
    git(&place.path("origin"), &["commit", "--quiet", "-a", "-m", "two"]);
    place.run("plan.rhai --redo 01").ends(0);
    place.run("rollback").ends(0).says("1 entry that kkrun did not make: mine").says("1 kept");
    assert_eq!(place.read("m/app/mine"), "mine\n");
}

#[test]
fn checkout_leaves_alone_what_is_called_new_beside_it() {
    let place = checkout();
    place.write("m/app.new/mine", "mine\n");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/app.new/mine"), "mine\n");
    assert_eq!(fs::read_dir(place.path("m")).unwrap().count(), 2);
}

#[test]
fn checkout_of_another_url_or_branch_is_brought_there_and_back() {
    let place = checkout();
    let origin = place.path("origin");
    git(&origin, &["branch", "other"]);
    git(&origin, &["checkout", "--quiet", "other"]);
    place.write("origin/b", "b\n");
    git(&origin, &["add", "b"]);
    git(&origin, &["commit", "--quiet", "-m", "other"]);
    git(&origin, &["checkout", "--quiet", "main"]);
    place.run("plan.rhai").ends(0).says("1 change");

    place.edit("plan/plan.rhai", "\"main\"", "\"other\"");
    place.run("plan.rhai").ends(0).says("1 change");
    assert_eq!(place.read("m/app/b"), "b\n");
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");

    fs::rename(&origin, place.path("moved")).unwrap();
    place.edit("plan/plan.rhai", "@/origin", "@/moved");
    place.run("plan.rhai").ends(0).says("1 change");
    let config = place.read("m/app/.git/config");
    assert!(config.contains("@/moved") && !config.contains("@/origin"), "{config}");
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
    place.run("rollback").ends(0).says("3 undone · 0 kept");
    assert!(!place.exists("m/app"));

    git(&place.path("moved"), &["tag", "v1", "main"]);
    place.edit("plan/plan.rhai", "\"other\"", "\"v1\"");
    place.run("plan.rhai").ends(0).says("1 change");
    place.run("plan.rhai --redo 01").ends(0).says("0 changes");
}

#[test]
#[ignore = "needs root: it mounts"]
fn nothing_is_changed_when_something_is_mounted_in_what_would_be_removed() {
    let place = Place::new(
        r#"
step::run("01", "Product", || {
    cmd::run(["bash", "-c", "mkdir -p @/m/data/a @/m/data/mnt; echo one > @/m/data/a/one"], #{ creates: "@/m/data" });
});
step::run("02", "Directory", || {
    file::make_dir("@/m/dir");
    file::make_dir("@/m/dir/mnt");
});
step::run("03", "Tree", || { file::copy("@/m/data", "@/m/copy"); });
step::run("04", "Mirror", || { file::mirror("@/m/data", "@/m/mirror"); });
"#,
    );
    place.run("plan.rhai").ends(0);
    let before = place.listing("m");
    for (step, at) in [("04", "m/mirror"), ("03", "m/copy"), ("02", "m/dir"), ("01", "m/data")] {
        for words in ["rollback --dry-run --purge all", "rollback --purge all"] {
            let ran = place.run_apart(&format!(
                "mkdir -p @/{at}/mnt; mount -t tmpfs none @/{at}/mnt; echo live > @/{at}/mnt/live; kkrun {words} {step}"
            ));
            ran.says(&format!("`@/{at}/mnt` is mounted")).says(&format!("umount @/{at}/mnt"));
            assert_eq!(place.listing("m"), before, "{words} {step}");
        }
    }
    place.run("rollback --purge all").ends(0);
    assert_eq!(place.listing("m").lines().count(), 1);
}

#[test]
fn what_kkrun_itself_changed_in_a_product_is_no_question() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "mkdir @/m/data; echo key=1 > @/m/data/conf; echo a > @/m/data/a"], #{ creates: "@/m/data" });
    config::set("@/m/data/conf", "key", "2");
    file::write("@/m/data/a", "b\n");
    file::write("@/m/data/new", "new\n");
    file::make_dir("@/m/data/dir");
    cmd::run(["touch", "@/m/data/dir/inner"], #{ creates: "@/m/data/dir/inner" });
    file::access("@/m/data", #{ mode: "u=rwX,go=", recursive: true });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let previewed = place.run("rollback --dry-run").ends(6);
    previewed.says("7 would be undone · 0 kept");
    place.run("rollback").ends(0).says("7 undone · 0 kept");
    assert_eq!(place.listing("m").lines().count(), 1);
}

/// A plan that was killed right behind the intent of its only change, as if nothing had been done yet.
fn intended(plan: &str) -> Place {
    let place = Place::new(&format!("step::run(\"01\", \"First\", || {{ {plan} }});"))
        .with("plan/files/site/a", "a\n")
        .with("plan/files/site/sub/b", "b\n");
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("intent");
    place.remove("m");
    fs::create_dir(place.path("m")).unwrap();
    place
}

#[test]
fn what_the_operator_made_after_a_kill_where_files_go_is_neither_overwritten_nor_removed() {
    for plan in [
        r#"file::copy("files/site", "@/m/it");"#,
        r#"file::mirror("files/site", "@/m/it");"#,
        r#"file::copy("files/site/a", "@/m/it/a");"#,
        r#"file::write("@/m/it/a", "a\n");"#,
    ] {
        let is_single = plan.contains("it/a");
        let place = if is_single {
            let plan = plan.replace("it/a", "a");
            intended(&plan)
        } else {
            intended(plan)
        };
        let at = if is_single { "m/a" } else { "m/it/a" };
        place.write(at, "mine\n");
        let ran = place.run("plan.rhai --non-interactive");
        assert_eq!(place.read(at), "mine\n", "{plan}: {}", ran.page());
        let ran = place.run("rollback --non-interactive");
        assert_eq!(place.read(at), "mine\n", "{plan}: {}", ran.page());
    }
}

#[test]
fn entries_that_the_operator_added_after_a_kill_are_kept() {
    for plan in [
        r#"file::copy("files/site", "@/m/it");"#,
        r#"file::mirror("files/site", "@/m/it");"#,
        r#"file::make_dir("@/m/it");"#,
    ] {
        let place = intended(plan);
        place.write("m/it/mine", "mine\n");
        for words in ["plan.rhai", "rollback", "rollback"] {
            let ran = place.run(&format!("{words} --non-interactive"));
            assert!(place.holds("m/it/mine", "mine\n"), "{plan}, {words}: {}", ran.page());
        }
    }
}

/// A user's home with a file system mounted in it, with an `/etc` and `/home` of its own: rolled back while it is mounted,
/// and after.
const HOME_WITH_MOUNT: &str = r#"
mkdir @/etc && cp -a /etc/. @/etc && mount --bind @/etc /etc
mount -t tmpfs none /home && mkdir -p /var/mail
kkrun plan.rhai
id -u kkrun-kim >/dev/null
mkdir /home/kkrun-kim/mnt && mount -t tmpfs none "$MOUNT" && echo live > "$MOUNT/live"
for words in "rollback --dry-run --purge all" "rollback --purge all"; do
    kkrun $words && exit 10
    id -u kkrun-kim >/dev/null || exit 11
    test -e "$MOUNT/live" || exit 12
done
umount "$MOUNT"
kkrun rollback --purge all
id -u kkrun-kim >/dev/null 2>&1 && exit 13
test -e /home/kkrun-kim && exit 14
exit 0
"#;

#[test]
#[ignore = "needs root: it mounts"]
fn user_stays_whole_while_something_is_mounted_in_the_home() {
    for mount in ["/home/kkrun-kim/mnt", "/home/kkrun-kim"] {
        let place = Place::new(
            r#"step::run("01", "First", || user::ensure("kkrun-kim", #{ uid: 47113, home: "/home/kkrun-kim" }));"#,
        );
        let ran = place.run_apart(&format!("MOUNT={mount}\n{HOME_WITH_MOUNT}")).ends(0);
        ran.says(&format!("`{mount}` is mounted (tmpfs)")).says(&format!("`umount {mount}`"));
    }
}

/// A plan whose step runs a command that makes `@/m/p`, and one that keeps a value.
const COMMANDS: &str = r#"
step::run("01", "Product", || cmd::run(["sh", "-c", "mkdir -p @/m/p; echo v1 > @/m/p/made; echo v1 > @/m/p/other"], #{ creates: "@/m/p" }));
step::run("02", "Value", || cmd::run(["sh", "-c", "echo one > @/m/v"], #{ unless: ["grep", "-q", "one", "@/m/v"], state: ["cat", "@/m/v"], undo: [["rm", "-f", "@/m/v"]] }));
"#;

#[test]
fn command_obeys_the_policy_about_what_was_modified_outside_kkrun() {
    let place = Place::new(COMMANDS).with("m/v", "zero\n");
    place.run("plan.rhai").ends(0);
    place.write("m/p/made", "edited by hand\n");
    place.write("m/v", "edited\n");
    place.edit("plan/plan.rhai", "echo v1 > @/m/p/other", "echo v2 > @/m/p/other");
    let modified = "`@/m/p` was modified outside kkrun:\n      modified or removed: made\n";
    place.run("plan.rhai --dry-run").ends(6).says(modified);
    place.run("plan.rhai --non-interactive").ends(78).says(modified);
    assert_eq!(place.read("m/p/made"), "edited by hand\n");
    place.run("plan.rhai --on-conflict keep").ends(0);
    assert_eq!((place.read("m/p/made"), place.read("m/p/other")), ("edited by hand\n".into(), "v1\n".into()));
    place.run("plan.rhai --verify").ends(1).says("no longer hold").never_says("01 no longer");

    let said = place.run("plan.rhai --redo 02 --non-interactive").ends(78);
    said.says("the output of `cat @/m/v` is not what kkrun recorded");
    assert_eq!(place.read("m/v"), "edited\n");
    place.run("plan.rhai --redo 01,02 --on-conflict overwrite").ends(0);
    assert_eq!((place.read("m/p/made"), place.read("m/p/other")), ("v1\n".into(), "v2\n".into()));
    assert_eq!(place.read("m/v"), "one\n");
    place.backup_of("edited by hand\n");
}

#[test]
fn whatever_is_overwritten_in_a_product_is_in_the_backups() {
    let place = Place::new(
        r#"step::run("01", "Make", || cmd::run(["sh", "-c", "rm -rf @/m/p; mkdir @/m/p; for f in a b; do echo v1 > @/m/p/$f; done"], #{ creates: "@/m/p" }));"#,
    );
    place.run("plan.rhai").ends(0);
    let large = "large\n".repeat(3 << 20);
    std::fs::write(place.path("m/p/a"), &large).unwrap();
    place.remove("m/p/b");
    place.write("m/p/b/inner", "inner\n");
    place.edit("plan/plan.rhai", "v1", "v2");
    place.run("plan.rhai --on-conflict overwrite").ends(0).says("modified or removed: a, b");
    assert_eq!(place.read("m/p/b"), "v2\n");
    place.backup_of(&large);
    place.backup_of("inner\n");
}

#[test]
fn product_that_was_removed_is_made_again_only_if_the_operator_says_so() {
    let place = Place::new(COMMANDS).with("m/v", "one\n");
    place.run("plan.rhai").ends(0);
    place.remove("m/p");
    place.run("plan.rhai --redo 01 --non-interactive").ends(78).says("`@/m/p` was removed");
    place.run("plan.rhai --redo 01 --on-conflict keep").ends(0);
    assert!(!place.exists("m/p"));
    place.run("plan.rhai --redo 01 --on-conflict overwrite").ends(0);
    assert!(place.exists("m/p/made"));
    place.run("rollback").ends(0);
    assert!(!place.exists("m/p"));
}

#[test]
fn what_kkrun_itself_changed_in_a_product_is_no_conflict() {
    let place = Place::new(
        r#"
step::run("01", "Product", || cmd::run(["sh", "-c", "mkdir -p @/m/p; echo key=0 > @/m/p/conf; echo v1 > @/m/p/other"], #{ creates: "@/m/p" }));
step::run("02", "Line", || { config::set("@/m/p/conf", "key", 1); file::remove("@/m/p/other"); });
"#,
    );
    place.run("plan.rhai").ends(0);
    place.edit("plan/plan.rhai", "echo v1", "echo v2");
    place.run("plan.rhai --only 01 --non-interactive").ends(0).never_says("modified outside");
    assert_eq!(place.read("m/p/other"), "v2\n");
}

/// A plan with one command that makes a directory in place of what is there.
fn replacing(more: &str) -> String {
    format!(
        r#"step::run("01", "First", || {{
    cmd::run(["bash", "-c", "rm -rf @/m/d; mkdir @/m/d; echo {{ > @/m/d/f"], #{{ creates: "@/m/d", made_from: file::read("@/m/source") }});
    {more}
}});"#
    )
    .replace("echo {", "echo made")
}

#[test]
fn edit_of_a_product_that_keeps_size_and_time_is_asked_for() {
    let place = Place::new(&replacing("")).with("m/source", "1");
    place.run("plan.rhai").ends(0);
    let file = place.path("m/d/f");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "mine\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    place.run("rollback").ends(0).says("1 kept").says("1 entry that kkrun did not make: f");
    place.write("m/source", "2");
    place.run("plan.rhai --repair").ends(78).says("modified or removed: f");
    assert_eq!(place.read("m/d/f"), "mine\n");
    // A link and a mode that come and go are no edit.
    fs::write(&file, "made\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    fs::hard_link(&file, place.path("m/link")).unwrap();
    place.remove("m/link");
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/d"));
}

#[test]
fn what_was_put_into_a_product_is_kept_when_its_command_is_run_again_and_removes_it() {
    let place = Place::new(&replacing("")).with("m/source", "1");
    place.run("plan.rhai").ends(0);
    place.write("m/d/notes/theirs", "theirs\n");
    place.write("m/source", "2");
    let again = place.run("plan.rhai --repair").ends(0);
    again.says("removed 1 entry that kkrun did not make: notes in `@/m/d`; the contents are kept in `@/state/backups`");
    assert!(!place.exists("m/d/notes"));
    assert!(place.backups().contains(&"theirs\n".to_owned()));
    // A changed command is run again, too; what it leaves alone is not mentioned.
    place.write("m/d/theirs", "theirs, too\n");
    place.edit("plan/plan.rhai", "rm -rf @/m/d; mkdir @/m/d; ", "");
    place.run("plan.rhai").ends(0).never_says("did not make");
    assert_eq!(place.read("m/d/theirs"), "theirs, too\n");
    place.run("rollback").ends(0).says("with 1 entry that kkrun did not make: theirs");
}

#[test]
fn command_that_may_remove_more_than_is_kept_is_asked_about() {
    let place = Place::new(&replacing("")).with("m/source", "1");
    place.run("plan.rhai").ends(0);
    let large = |name: &str| {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::File::create(place.path(name)).unwrap().set_len(17 << 20).unwrap();
    };
    // A cache can be made again by definition.
    large("m/d/.cache/large");
    place.write("m/source", "2");
    place.run("plan.rhai --repair").ends(0).never_says("did not make");
    large("m/d/theirs");
    place.write("m/source", "3");
    let asked = place.run("plan.rhai --repair").ends(78);
    asked.says("the command may remove 1 entry that kkrun did not make: theirs (1 file, 18 MB)");
    assert!(place.exists("m/d/theirs"));
    place.run("plan.rhai --repair --on-conflict keep").ends(0);
    assert!(place.exists("m/d/theirs"));
    place.write("m/source", "4");
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    assert!(!place.exists("m/d/theirs"));
}

#[test]
fn product_whose_list_is_missing_is_set_aside_and_not_removed() {
    let plan = r#"step::run("01", "All", || { cmd::run(["mkdir", "@/m/d"], #{ creates: "@/m/d" }); file::write("@/m/f", "1\n"); });"#;
    let place = Place::new(plan);
    place.run("plan.rhai").ends(0);
    fs::remove_file(place.backup_of(r#"{".":"directory"}"#)).unwrap();
    place.write("m/d/theirs", "theirs\n");
    let dry = place.run("rollback --dry-run").ends(6);
    dry.says("move `@/m/d` (1 file, 7 bytes) to `@/state/aside`: it may hold what kkrun did not make");
    place.run("rollback").ends(0).says("`@/m/d` was moved to `@/state/aside/1/d`").says("2 undone");
    assert_eq!(place.read("state/aside/1/d/theirs"), "theirs\n");
    assert!(!place.exists("m/d"));
}

#[test]
fn state_command_that_fails_is_a_conflict_and_no_error() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "echo 1 > @/m/v"],
        #{ unless: ["grep", "-q", "1", "@/m/v"], state: ["cat", "@/m/v"], undo: [["rm", "-f", "@/m/v"]] });
});
"#,
    );
    // There is nothing to print yet.
    place.run("plan.rhai").ends(0);
    place.remove("m/v");
    let conflict = "`cat @/m/v` ended with exit code 1, and kkrun recorded its output";
    place.run("plan.rhai --repair").ends(78).says(conflict);
    place.run("rollback").ends(4).says(conflict).says("1 conflict").says("--on-conflict keep");
    place.run("rollback --on-conflict overwrite").ends(0).says("1 undone");
    // It must print something once the command has ended.
    place.edit("plan/plan.rhai", "\"cat\", \"@/m/v\"", "\"cat\", \"@/m/w\"");
    place
        .run("plan.rhai")
        .ends(1)
        .says("after `bash -c 'echo 1 > @/m/v'`: `cat @/m/w` ended with exit code 1");
}
