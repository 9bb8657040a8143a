//! Undo actions that fail, rollbacks that were interrupted, and handlers of undone changes.

use crate::support::Place;

#[test]
fn undo_that_fails_once_is_tried_again_after_the_rest() {
    let place = Place::new(
        r#"
step::run("01", "First", || { file::write("@/m/lock", ""); });
step::run("02", "Second", || {
    cmd::run(["touch", "@/m/b"], #{
        unless: ["test", "-e", "@/m/b"],
        undo: [["bash", "-c", "test ! -e @/m/lock && rm @/m/b"]],
    });
    cmd::run(["touch", "@/m/c"], #{
        unless: ["test", "-e", "@/m/c"],
        undo: [["bash", "-c", "test ! -e @/m/b && rm @/m/c"]],
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(4).says("2 undone · 0 kept · 0 conflicts · 1 failed");
    assert!(!place.exists("m/b") && place.exists("m/c"));
    place.run("rollback").ends(0).says("1 undone · 0 kept · 0 conflicts · 0 failed");
    assert_eq!(place.listing("m").lines().count(), 1);
}

#[test]
fn product_used_by_a_process_that_ends_late_is_removed_in_the_end() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/lock", "");
    file::make_dir("@/m/made");
    cmd::run(["touch", "@/m/made/b"], #{
        unless: ["test", "-e", "@/m/made/b"],
        undo: [["bash", "-c", "test ! -e @/m/lock && rm @/m/made/b"]],
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0).says("3 undone · 0 kept · 0 conflicts · 0 failed");
    assert_eq!(place.listing("m").lines().count(), 1);
}

#[test]
fn undo_that_fails_is_reported_and_a_later_rollback_finishes() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/a", "a\n");
    cmd::run(["touch", "@/m/b"], #{ unless: ["test", "-e", "@/m/b"], undo: [["bash", "-c", "echo why >&2; test -e @/go && rm @/m/b"]] });
    file::write("@/m/c", "c\n");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    for _ in 0..2 {
        place.run("rollback").ends(4).says("failed: run touch @/m/b").says("1 failed");
        assert!(!place.exists("m/a") && place.exists("m/b") && !place.exists("m/c"));
    }
    // It failed and was not interrupted: a run may go on.
    place.run("plan.rhai").ends(0);
    place.write("go", "");
    place.run("rollback").ends(0);
    assert_eq!(place.listing("m").lines().count(), 1);
}

const TWO: &str = r#"
step::run("01", "First", || { file::write("@/m/a", "a\n"); });
step::run("02", "Second", || { file::write("@/m/b", "b\n"); });
"#;

#[test]
fn rollback_of_a_step_killed_after_its_last_undo_puts_the_step_on_hold() {
    let place = Place::new(TWO).with(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status}`); }"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback 02").ends(0);
    place.cut_journal_behind("undone");
    let said = place.run("plan.rhai").ends(1).says("a rollback was interrupted");
    said.says("finish it with `kkrun rollback 02 --plan plan`");
    assert!(place.run("doctor").ends(0).stdout.contains("finish it with `kkrun rollback 02 --plan plan`"));
    place.run("rollback 01").ends(1).says("finish it with `kkrun rollback 02 --plan plan`");
    assert!(place.exists("m/a"));
    place.run("rollback 02 --plan plan").ends(0);
    place.run("look.rhai").ends(0).prints("01 complete\n02 on_hold\n");
    place.run("plan.rhai").ends(0);
    assert!(!place.exists("m/b"));
    place.run("rollback 02").ends(0).says("0 undone");
    place.run("rollback").ends(0).says("1 undone");
    place.run("plan.rhai").ends(0);
    assert!(place.exists("m/b"), "after a whole rollback nothing is held");
}

#[test]
fn killed_rollback_of_a_plan_is_finished_before_one_of_a_step() {
    let place = Place::new(TWO);
    place.run("plan.rhai").ends(0);
    place.run("rollback --purge homes").ends(0);
    place.cut_journal_behind("undo_intent");
    place.run("rollback 01").ends(1).says("finish it with `kkrun rollback --purge homes --plan plan`");
    place.run("rollback").ends(0);
    place.run("plan.rhai").ends(0);
}

const OWING: &str = r#"
step::run("01", "First", || {
    step::on_change(#{ run: [["bash", "-c", "cat @/m/conf 2>/dev/null >> @/log; echo settled >> @/log; ! test -e @/broken"]] }, || {
        file::write("@/m/conf", "first\n");
        file::write("@/m/other", "second\n");
    });
});
step::run("02", "Second", || { file::write("@/m/b", "b\n"); });
"#;

#[test]
fn handler_of_undone_changes_runs_once_after_the_oldest() {
    let place = Place::new(OWING);
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "first\nsettled\n");
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.read("log"), "first\nsettled\nsettled\n");

    // Killed between the last undo and its handler.
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    place.cut_journal_behind("undone");
    place.remove("log");
    place.run("rollback").ends(0);
    assert_eq!(place.read("log"), "settled\n");
    place.run("rollback").ends(0);
    assert_eq!(place.read("log"), "settled\n");
}

#[test]
fn handler_that_failed_after_an_undo_runs_first_in_the_next_run() {
    let place = Place::new(OWING);
    place.run("plan.rhai").ends(0);
    place.write("broken", "");
    place.run("rollback 01").ends(4).says("2 undone").says("1 failed");
    place.remove("broken");
    place.remove("log");
    place.edit(
        "plan/plan.rhai",
        "file::write(\"@/m/b\"",
        "step::verify(\"settled\", || file::exists(\"@/log\")); file::write(\"@/m/b\"",
    );
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "settled\n", "once, and before anything is verified");
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("log"), "settled\n");
}

#[test]
fn failing_handler_test_undoes_the_changes_also_after_a_kill() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    step::on_change(#{ test: ["test", "!", "-e", "@/bad"], run: [["bash", "-c", "echo run >> @/log"]] }, || {
        file::write("@/m/conf", "new\n");
    });
});
"#,
    )
    .with("m/conf", "old\n")
    .with("bad", "");
    place.run("plan.rhai").ends(1);
    assert_eq!(place.read("m/conf"), "old\n");
    place.cut_journal_behind("undo_intent");
    place.remove("bad");
    // kkrun itself restored it, so there is no conflict.
    place.run("plan.rhai").ends(0);
    assert_eq!(place.read("m/conf"), "new\n");
    place.run("rollback").ends(0);
    assert_eq!(place.read("m/conf"), "old\n");
}

#[test]
fn an_undo_command_gets_the_secrets_of_its_command_and_the_journal_none() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    let token = secret::ask("token", "Token", #{ generate: true });
    cmd::run(["bash", "-c", "test -n \"$TOKEN\" && touch @/m/b"], #{
        creates: "@/m/b",
        env: #{ TOKEN: token },
        undo: [["bash", "-c", "test -n \"$TOKEN\" && touch @/undone"]],
    });
});
"#,
    );
    place.run("plan.rhai --non-interactive").ends(0);
    let token = place.read("state/secrets/token");
    assert!(!place.read("state/journal").contains(token.trim()));
    place.remove("plan/plan.rhai");
    place.run("rollback").ends(0).says("1 undone");
    assert!(place.exists("undone") && !place.exists("m/b"));
}

#[test]
fn step_of_which_nothing_was_undone_is_not_on_hold() {
    let place = Place::new(TWO).with(
        "plan/look.rhai",
        r#"for row in step::list("plan.rhai") { print(`${row.id} ${row.status}`); }"#,
    );
    place.run("plan.rhai").ends(0);
    place.write("m/b", "theirs\n");
    place.run("rollback 02").ends(4).says("0 undone");
    place.run("look.rhai").ends(0).prints("01 complete\n02 drifted\n");
    place.run("rollback 02 --on-conflict overwrite").ends(0);
    place.run("plan.rhai").ends(0).says("on hold: rolled back; `--redo 02` runs it again");
}

#[test]
fn undo_after_which_the_command_still_counts_as_done_has_failed() {
    let place = Place::new(
        r#"step::run("01", "First", || cmd::run(["touch", "@/m/x"], #{ unless: ["test", "-e", "@/m/x"], undo: [["bash", "@/m/undo"]] }));"#,
    )
    .with("m/undo", "true\n");
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(4).says("still holds").says("1 failed");
    assert!(place.exists("m/x"));
    place.write("m/undo", "rm @/m/x\n".replace('@', &place.root()).as_str());
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/x"));
    place
        .run("rollback --plan nix")
        .ends(2)
        .says("unknown plan `nix`: nothing is recorded of it")
        .says("plan");
}

#[test]
fn undo_that_failed_between_its_commands_is_not_taken_for_done() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "echo 1 > @/m/a; echo 2 > @/m/b"], #{
        unless: ["test", "-e", "@/m/b"],
        undo: [["rm", "-f", "@/m/b"], ["test", "-e", "@/m/ok"], ["rm", "-f", "@/m/a"]],
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(4).says("1 failed");
    assert!(place.exists("m/a"));
    place.write("m/ok", "");
    place.run("rollback").ends(0).says("1 undone");
    assert!(!place.exists("m/a"));
}

/// Kills kkrun, its parent, unless `m/go` exists.
const KILL: &str = "test -e @/m/go || { kill -KILL $PPID; exit 1; }";

#[test]
fn killed_rollback_goes_on_with_the_first_undo_command_that_has_not_ended() {
    let place = Place::new(
        &r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/a", "@/m/b", "@/m/c"], #{
        unless: ["test", "-e", "@/m/c"],
        undo: [["rm", "@/m/c"], ["bash", "-c", "KILL; rm @/m/b"], ["rm", "@/m/a"]],
    });
});
"#
        .replace("KILL", KILL),
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(-9);
    assert!(!place.exists("m/c") && place.exists("m/b"));
    place.write("m/go", "");
    place.run("rollback --dry-run").ends(6).says("1 would be undone");
    place.run("rollback").ends(0).says("1 undone");
    assert_eq!(place.listing("m").lines().count(), 2, "{}", place.listing("m"));
}

#[test]
fn all_undo_commands_of_a_killed_command_run_whatever_its_probe_reads() {
    for undo in [r#"["rm", "-f", "@/m/b"], ["rm", "-f", "@/m/a"]"#, r#"["rm", "-f", "@/m/b", "@/m/a"]"#] {
        let plan = r#"
step::run("01", "First", || {
    cmd::run(["bash", "-c", "touch @/m/a; KILL; touch @/m/b"], #{ unless: ["test", "-e", "@/m/b"], undo: [UNDO] });
});
"#;
        let place = Place::new(&plan.replace("KILL", KILL).replace("UNDO", undo));
        place.run("plan.rhai").ends(-9);
        place.run("rollback").ends(0).says("1 undone");
        assert!(!place.exists("m/a"), "{undo}");
    }
}

#[test]
fn undo_command_that_was_killed_at_its_end_need_not_succeed_twice() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["touch", "@/m/a"], #{ unless: ["test", "-e", "@/m/a"], undo: [["rm", "@/m/a"]] });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    place.cut_journal_behind("undo_intent");
    place.run("rollback").ends(0).says("1 undone");
    place.run("plan.rhai").ends(0);
    place.cut_journal_behind("intent");
    place.remove("m/a");
    place.run("rollback").ends(0).says("1 undone");
}

#[test]
fn what_an_undo_command_writes_into_the_product_is_no_question() {
    let place = Place::new(
        r#"
step::run("01", "First", || {
    cmd::run(["mkdir", "@/m/data"], #{
        creates: "@/m/data",
        undo: [["touch", "@/m/data/one"], ["touch", "@/m/data/two"], ["touch", "@/m/data/three"]],
    });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0).says("1 undone · 0 kept");
    assert!(!place.exists("m/data"));
}

#[test]
fn dry_run_after_a_killed_rollback_says_that_a_run_is_refused() {
    let place = Place::new(TWO);
    place.run("plan.rhai").ends(0);
    place.run("rollback").ends(0);
    place.cut_journal_behind("undo_intent");
    let refused = "cannot start a run: a rollback was interrupted and is not finished";
    place
        .run("plan.rhai --dry-run")
        .ends(1)
        .says(refused)
        .says("finish it with `kkrun rollback --plan plan`");
    place.run("plan.rhai").ends(1).says(refused);
}

/// A plan that writes to a file system of its own, and what mounts it.
fn with_a_disk() -> Place {
    Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/disk/page", "new\n");
    config::set("@/m/disk/conf", "port", "80");
    cmd::run(["touch", "@/m/disk/product"], #{ creates: "@/m/disk/product" });
});
"#,
    )
    .with("m/kept/conf", "port = 1\n")
    .with("m/disk/.unmounted", "")
}

const DISK: &str = "mount --bind @/m/kept @/m/disk";

#[test]
#[ignore = "needs root: it mounts"]
fn nothing_is_undone_while_the_file_system_of_a_target_is_not_mounted() {
    let place = with_a_disk();
    place.run_apart(&format!("{DISK}; kkrun plan.rhai")).ends(0);
    let below = place.prints_of("m/disk");
    for words in ["rollback --dry-run", "rollback"] {
        let ran = place.run(words).says("cannot access `@/m/disk/page`").says("none is mounted there");
        ran.ends(4).says("run `mount @/m/disk`").says("3 failed");
    }
    assert_eq!(place.prints_of("m/disk"), below);
    place.run_apart(&format!("{DISK}; kkrun rollback")).ends(0).says("3 undone");
    assert_eq!(place.read("m/kept/conf"), "port = 1\n");
    assert!(!place.exists("m/kept/page") && !place.exists("m/kept/product"));
}

#[test]
#[ignore = "needs root: it mounts"]
fn nothing_is_undone_while_something_is_mounted_over_a_target() {
    let place = with_a_disk().with("m/empty/.keep", "");
    place.run("plan.rhai").ends(0);
    for kind in ["mount -t tmpfs none @/m/disk", "mount --bind @/m/empty @/m/disk"] {
        for words in ["rollback --dry-run", "rollback"] {
            let ran = place.run_apart(&format!("{kind}; kkrun {words}"));
            ran.ends(4).says("`@/m/disk` is mounted over it").says("run `umount @/m/disk`").says("3 failed");
        }
    }
    place.run("rollback").ends(0).says("3 undone");
    assert!(!place.exists("m/disk/page") && !place.exists("m/disk/product"));
}

#[test]
#[ignore = "needs root: it mounts"]
fn what_a_file_system_in_memory_held_is_gone_with_it() {
    let place = with_a_disk();
    place.run_apart("mount -t tmpfs none @/m/disk; kkrun plan.rhai").ends(0);
    place.run("rollback").ends(0).says("3 undone");
}

#[test]
#[ignore = "needs root: it mounts"]
fn rollback_with_overwrite_goes_on_without_a_file_system_that_is_gone() {
    let place = with_a_disk();
    place.run_apart(&format!("{DISK}; kkrun plan.rhai")).ends(0);
    place.run("rollback --on-conflict overwrite").ends(0).says("3 undone");
}

#[test]
#[ignore = "needs root: it mounts"]
fn what_a_killed_run_did_stays_in_doubt_until_its_file_system_is_mounted() {
    let place = with_a_disk();
    place.run_apart(&format!("{DISK}; kkrun plan.rhai")).ends(0);
    place.cut_journal_behind("intent");
    let below = place.prints_of("m/disk");
    place.run("plan.rhai").ends(78).says("stays in doubt").says("none is mounted there");
    assert_eq!(place.prints_of("m/disk"), below);
    place.run_apart(&format!("{DISK}; kkrun plan.rhai")).ends(0);
    place.run_apart(&format!("{DISK}; kkrun rollback")).ends(0).says("3 undone");
}

#[test]
fn copied_tree_that_was_repaired_twice_is_rolled_back_whole() {
    let place = Place::new(r#"step::run("01", "Copy", || file::copy("files/tree", "@/m/tree"));"#)
        .with("plan/files/tree/a", "one\n")
        .with("plan/files/tree/b", "two\n");
    place.run("plan.rhai").ends(0);
    for name in ["a", "b"] {
        place.write(&format!("m/tree/{name}"), "edited\n");
        place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    }
    place.run("rollback --dry-run").ends(6).says("3 would be undone");
    place.run("rollback").ends(0).says("3 undone");
    assert!(!place.exists("m/tree"));
}

#[test]
fn edit_of_an_entry_that_a_repair_left_alone_is_a_conflict_of_the_copy_alone() {
    let place = Place::new(r#"step::run("01", "Copy", || file::copy("files/tree", "@/m/tree"));"#)
        .with("plan/files/tree/a", "one\n")
        .with("plan/files/tree/b", "two\n");
    place.run("plan.rhai").ends(0);
    place.write("m/tree/a", "edited\n");
    place.run("plan.rhai --repair --on-conflict overwrite").ends(0);
    place.write("m/tree/b", "mine\n");
    place.run("rollback").ends(4).says("1 undone").says("b: content");
    assert_eq!(place.read("m/tree/b"), "mine\n");
}
