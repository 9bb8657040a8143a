//! The journal is the only truth: when it is damaged, cut, lost or from a newer kkrun, kkrun never concludes "nothing to
//! undo", and changes or repairs nothing silently.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::Place;

const PLAN: &str = r#"
step::run("01", "First", || {
    file::write("@/m/old", "new\n");
    file::write("@/m/made", "made\n");
});
step::run("02", "Second", || config::set("@/m/conf", "key", "1"));
"#;

fn done() -> (Place, String) {
    let place = Place::new(PLAN).with("m/old", "old\n").with("m/conf", "other = 2\n");
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    (place, before)
}

fn journal(place: &Place) -> Vec<u8> {
    fs::read(place.path("state/journal")).unwrap()
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// A line with the checksum of its JSON.
fn sealed(json: &str) -> Vec<u8> {
    format!("{:08x} {json}\n", kkrun::checksum::crc_32c(json.as_bytes())).into_bytes()
}

/// Gives the state directory this journal, as a kkrun leaves it whose last record that is.
fn put_journal(place: &Place, bytes: impl AsRef<[u8]>) {
    fs::write(place.path("state/journal"), bytes).unwrap();
    if place.exists("state/journal.end") {
        place.remove("state/journal.end");
    }
}

/// Checks that every command refuses the journal and changes nothing.
#[track_caller]
fn is_refused(place: &Place, why: &str) {
    let prints = (place.prints_of("m"), place.prints_of("state"));
    for words in
        ["plan.rhai", "plan.rhai --dry-run", "rollback", "rollback --dry-run", "rollback 01", "history"]
    {
        let ran = place.run(words).ends(5);
        assert!(ran.stderr.contains(why), "{words}: `{why}` is not said:\n{}", ran.page());
        ran.says("kkrun doctor").never_says("nothing to undo");
    }
    let explained = place.run("doctor").ends(5).stdout;
    assert!(
        explained.contains(why) && explained.contains("changes nothing until this is resolved"),
        "{explained}"
    );
    assert_eq!((place.prints_of("m"), place.prints_of("state")), prints, "nothing is changed");
}

#[test]
fn lost_or_exchanged_key_is_damage() {
    let (place, before) = done();
    let key = place.path("state/key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    let whole = fs::read(&key).unwrap();
    place.remove("state/key");
    is_refused(&place, "is missing: without it nothing recorded can be compared");
    fs::write(&key, [7; 32]).unwrap();
    is_refused(&place, "is not the one with which the journal");
    fs::write(&key, "short").unwrap();
    is_refused(&place, "is damaged: it has another length");
    fs::write(&key, whole).unwrap();
    place.run("rollback").ends(0);
    assert_eq!(place.listing("m"), before);
}

#[test]
fn key_of_a_run_that_died_before_its_first_record_is_used() {
    let place = Place::new(PLAN).with("m/old", "old\n").with("m/conf", "other = 2\n");
    place.run("plan.rhai --dry-run").ends(6);
    assert!(!place.path("state/key").exists(), "a dry run writes nothing");
    place.run("plan.rhai").ends(0);
    let key = fs::read(place.path("state/key")).unwrap();
    put_journal(&place, "");
    fs::remove_dir_all(place.path("state/backups")).unwrap();
    place.write("m/old", "old\n");
    place.run("plan.rhai").ends(0);
    assert_eq!(fs::read(place.path("state/key")).unwrap(), key);
    place.run("rollback").ends(0);
}

#[test]
fn lost_or_empty_journal_beside_backups_is_damage() {
    let (place, before) = done();
    let whole = journal(&place);
    place.remove("state/journal");
    is_refused(&place, "is missing, but backups");
    for length in [0, 5] {
        put_journal(&place, &whole[..length]);
        is_refused(&place, "is empty, but backups");
    }
    put_journal(&place, &whole);
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn missing_repeated_swapped_or_flipped_records_are_damage() {
    let (place, _) = done();
    let whole = journal(&place);
    let records = lines(&whole);
    let without = |at: usize| [&records[..at], &records[at + 1..]].concat().concat();
    let doubled = [&records[..4], &records[3..]].concat().concat();
    let mut exchanged = records.clone();
    exchanged.swap(3, 4);
    let mut abuses = vec![without(0), without(3), doubled, exchanged.concat()];
    for at in [0, 3, whole.len() / 2] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        abuses.push(flipped);
    }
    // A power cut leaves zeros; with whole records behind them it was none.
    abuses.push([&records[..3].concat()[..], &[0; 512], &records[3..].concat()].concat());
    for abused in abuses {
        put_journal(&place, abused);
        is_refused(&place, "is damaged");
    }
}

#[test]
fn newer_format_and_unknown_kind_are_left_to_the_newer_kkrun() {
    let (place, before) = done();
    let whole = journal(&place);
    let records = lines(&whole);
    let json = |record: &[u8]| String::from_utf8(record[9..record.len() - 1].to_vec()).unwrap();
    let newer = json(&records[0]).replace("\"major\":2", "\"major\":3");
    put_journal(&place, [sealed(&newer), records[1..].concat()].concat());
    is_refused(&place, "format 3.");
    let older = r#"{"seq":1,"prev":"00000000","run":"r","boot":"b","time":"2026-01-01T00:00:00Z","plan":"p","kind":"format","version":{"major":1,"minor":0},"kkrun":"0.1.0","machine":"m"}"#;
    put_journal(&place, sealed(older));
    is_refused(&place, "kkrun 0.1.0 wrote it in format 1.0");

    let last = records.last().unwrap();
    let at = records.len() as u64;
    let next = |rest: &str| {
        let prev = String::from_utf8(last[..8].to_vec()).unwrap();
        sealed(&format!(
            r#"{{"header":{{"seq":{},"prev":"{prev}","run":"r","boot":"b","time":"2026-01-01T00:00:00Z","plan":"p"{rest}}}"#,
            at + 1
        ))
    };
    put_journal(&place, [&whole[..], &next(r#"},"entry":"telemetry""#)].concat());
    is_refused(&place, "telemetry");
    let skippable = next(r#","skippable":true},"entry":"telemetry""#);
    put_journal(&place, [&whole[..], &skippable].concat());
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.listing("m"), before);
}

/// The journal with these entries appended, each as a whole record.
fn continued(whole: &[u8], entries: &[&str]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for entry in entries {
        let records = lines(&bytes);
        let prev = String::from_utf8(records.last().unwrap()[..8].to_vec()).unwrap();
        let seq = records.len() + 1;
        bytes.extend(sealed(&format!(
            r#"{{"header":{{"seq":{seq},"prev":"{prev}","run":"r","boot":"b","time":"2026-01-01T00:00:00Z","plan":"plan"}},"entry":{entry}}}"#
        )));
    }
    bytes
}

#[test]
fn record_that_contradicts_an_earlier_one_is_damage() {
    let (place, before) = done();
    let whole = journal(&place);
    let next = lines(&whole).len() + 1;
    let ids: Vec<String> =
        place.run("history --json").ends(0).json()[1..].iter().map(|row| row["change"].to_string()).collect();
    let id = &ids[0];
    let entry = |kind: &str, id: &str| match kind {
        "done" => format!(r#"{{"done":{{"change":{id},"recorded":[]}}}}"#),
        "void" => format!(r#"{{"void":{{"change":{id},"why":"as before"}}}}"#),
        "undo_intent" => format!(r#"{{"undo_intent":{{"change":{id}}}}}"#),
        "undone" => format!(r#"{{"undone":{{"change":{id},"how":"restored","recorded":[]}}}}"#),
        other => panic!("{other}"),
    };
    let undone = [entry("undo_intent", id), entry("undone", id)];
    let after_undone = |kind: &str| [&undone[..], &[entry(kind, id)]].concat();
    let state = r#"{"recorded":{"target":{"file":"/nowhere"},"state":null}}"#.to_owned();
    for (entries, at, why) in [
        (
            vec![entry("done", "999")],
            0,
            "says `done` of change 999, of which no intent is recorded".to_owned(),
        ),
        (vec![entry("done", id)], 0, format!("says `done` of change {id}, which is done")),
        (vec![entry("void", id)], 0, format!("says `void` of change {id}, which is done")),
        (vec![entry("undone", id)], 0, format!("says `undone` of change {id}, which is done")),
        (after_undone("done"), 2, format!("says `done` of change {id}, which is undone")),
        (after_undone("undo_intent"), 2, format!("says `undo_intent` of change {id}, which is undone")),
        (vec![state], 0, "records a state of file:/nowhere, which was never changed".to_owned()),
    ] {
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        put_journal(&place, continued(&whole, &entries));
        is_refused(&place, &format!("is damaged: record {} {why}", next + at));
    }
    let undone: Vec<&str> = undone.iter().map(String::as_str).collect();
    put_journal(&place, continued(&whole, &undone));
    place.run("doctor").ends(0);
    put_journal(&place, &whole);
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn torn_end_is_saved_by_the_next_run_and_kept_by_commands_that_only_read() {
    let (place, before) = done();
    let whole = journal(&place);
    let length_of_last = lines(&whole).last().unwrap().len();
    for cut in (1..length_of_last).step_by(23) {
        let torn = &whole[..whole.len() - cut];
        put_journal(&place, torn);
        place.run("history").ends(0);
        place.run("plan.rhai --dry-run").ends(0);
        assert!(place.run("doctor").ends(0).stdout.contains("incomplete write of a killed run"));
        assert_eq!(journal(&place), torn, "a reader cuts nothing");
    }
    for tail in [&[0_u8; 4096][..], b"garbage\nand more", b"\n"] {
        put_journal(&place, [&whole[..], tail].concat());
        place.run("history").ends(0);
        place.run("rollback --dry-run").ends(6).says("3 would be undone");
        place.run("rollback").ends(0).says("3 undone");
        let aside = place.path(&format!("state/journal.torn-at-{}", whole.len()));
        assert_eq!(fs::read(aside).unwrap(), tail);
        assert!(journal(&place).starts_with(&whole));
        assert_eq!(place.listing("m"), before);
        place.run("plan.rhai").ends(0);
        place.run("rollback").ends(0);
        put_journal(&place, &whole);
        // The machine as the journal has it.
        place.write("m/old", "new\n");
        place.write("m/made", "made\n");
        place.write("m/conf", "other = 2\nkey = 1\n");
    }
}

#[test]
fn rollback_after_a_cut_behind_any_record_finds_the_changes() {
    let (place, _) = done();
    let whole = journal(&place);
    let records = lines(&whole);
    let first_intent = records
        .iter()
        .position(|line| String::from_utf8_lossy(line).contains("\"entry\":{\"intent\""))
        .unwrap();
    for kept in 1..records.len() {
        let (place, _) = done();
        put_journal(&place, lines(&journal(&place))[..kept].concat());
        let ran = place.run("rollback").ends(0);
        // What is not in the journal is not undone; all that is in it is.
        let intents = records[..kept]
            .iter()
            .filter(|line| String::from_utf8_lossy(line).contains("\"intent\""))
            .count();
        if kept > first_intent {
            ran.says(&format!("{intents} undone"));
        }
    }
}

#[test]
fn file_without_its_backup_is_not_undone_and_all_else_is() {
    for altered in [false, true] {
        let (place, before) = done();
        let backup = place.backup_of("old\n");
        let content = fs::read(&backup).unwrap();
        if altered {
            fs::set_permissions(&backup, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::write(&backup, "oops\n").unwrap();
        } else {
            fs::remove_file(&backup).unwrap();
        }
        let said = place.run("rollback").ends(4).says("failed: write @/m/old").says("2 undone");
        said.says("1 failed").says("the backup");
        assert_eq!(place.read("m/old"), "new\n");
        assert!(!place.exists("m/made"));
        assert!(place.run("history").ends(0).stdout.contains(" failed "));
        fs::write(&backup, content).unwrap();
        place.run("rollback").ends(0).says("1 undone");
        assert_eq!(place.listing("m"), before);
    }
}

#[test]
fn the_history_as_json_names_its_schema_first() {
    let (place, _) = done();
    let rows = place.run("history --json").ends(0).json();
    assert_eq!((rows[0]["event"].as_str(), rows.len()), (Some("schema"), 4));
    assert!(rows[0]["version"].is_number() || rows[0]["version"].is_string());
    assert_eq!(rows[1]["state"], "done");
}

#[test]
fn state_directory_is_shown_by_its_canonical_path() {
    let (place, _) = done();
    let odd = place.path("plan/../state");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kkrun"));
    let output = command.arg("--state-dir").arg(odd).arg("doctor").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("`{}`", place.path("state/journal").display())), "{said}");
}

/// A run that waits in the middle, so that the state directory can be changed under it.
fn in_the_middle() -> Place {
    Place::new(
        r#"
step::run("01", "First", || {
    file::write("@/m/one", "one\n");
    cmd::run(["bash", "-c", "touch @/m/waits; until test -e @/m/go -o ! -e @/m; do sleep 0.01; done"], #{ always: "a test" });
    file::write("@/m/two", "two\n");
});
"#,
    )
}

#[test]
fn a_run_stops_when_its_journal_is_removed_or_replaced() {
    type Change = fn(&Place);
    let changes: [(&str, Change); 3] = [
        ("was removed", |place| fs::remove_dir_all(place.path("state")).unwrap()),
        ("was replaced", |place| {
            fs::copy(place.path("state/journal"), place.path("state/copy")).unwrap();
            fs::rename(place.path("state/copy"), place.path("state/journal")).unwrap();
        }),
        ("was written by another process", |place| {
            let whole = journal(place);
            fs::write(place.path("state/journal"), &whole[..whole.len() / 2]).unwrap();
        }),
    ];
    for (what, change) in changes {
        let place = in_the_middle();
        let started = place.start("plan.rhai");
        crate::support::until("the command is at work", || place.exists("m/waits"));
        change(&place);
        place.write("m/go", "");
        started
            .end()
            .ends(5)
            .says(what)
            .says("nothing more is changed")
            .never_says("recorded and reversible");
        assert!(!place.exists("m/two"), "{what}");
    }
}

#[test]
fn of_two_runs_without_a_lock_only_one_writes_the_journal() {
    let place = in_the_middle();
    let started = place.start("plan.rhai");
    crate::support::until("the command is at work", || place.exists("m/waits"));
    place.remove("state/lock");
    place.write("plan/other.rhai", "file::write(\"@/m/other\", \"other\\n\");");
    place.run("other.rhai").ends(0);
    place.write("m/go", "");
    started.end().ends(5).says("was written by another process");
    assert!(!place.exists("m/two"));
    place.run("plan.rhai").ends(0);
    place.run("rollback --plan plan").ends(0);
    place.run("rollback --plan other").ends(0);
    assert!(!place.exists("m/one") && !place.exists("m/other"));
}

/// The journal as another machine wrote it.
fn of_another_machine(bytes: &[u8]) -> Vec<u8> {
    let (mut all, mut prev) = (Vec::new(), "00000000".to_owned());
    for line in lines(bytes) {
        let mut record: serde_json::Value = serde_json::from_slice(&line[9..]).unwrap();
        record["header"]["prev"] = prev.into();
        if let Some(format) = record["entry"].get_mut("format") {
            format["machine"] = "0123456789abcdef0123456789abcdef".into();
        }
        let line = sealed(&record.to_string());
        prev = String::from_utf8(line[..8].to_vec()).unwrap();
        all.extend(line);
    }
    all
}

#[test]
fn journal_of_another_machine_is_refused_until_it_is_accepted() {
    let (place, before) = done();
    put_journal(&place, of_another_machine(&journal(&place)));
    is_refused(&place, "was written on another machine");
    let said = place.run("doctor").ends(5).stdout;
    assert!(said.contains("kkrun doctor --accept-journal"), "{said}");
    place.run("doctor --accept-journal --dry-run").ends(2);
    is_refused(&place, "was written on another machine");
    place.run("doctor --accept-journal").ends(0);
    assert!(place.run("doctor").ends(0).stdout.contains("is intact"));
    place.run("plan.rhai").ends(0).says("not re-examined");
    place.run("rollback").ends(0).says("3 undone");
    assert_eq!(place.listing("m"), before);
}

#[test]
fn journal_older_than_the_state_is_refused_until_it_is_accepted() {
    type Later = fn(&Place);
    let later: [Later; 3] = [
        |place| drop(place.run("rollback").ends(0)),
        |place| drop(place.run("plan.rhai --redo 01").ends(0)),
        |place| {
            place.write("plan/other.rhai", "file::write(\"@/m/other\", \"other\\n\");");
            place.run("other.rhai").ends(0);
        },
    ];
    for later in later {
        let (place, _) = done();
        let older = journal(&place);
        later(&place);
        fs::write(place.path("state/journal"), older).unwrap();
        is_refused(&place, "is older than the state directory");
        place.run("doctor --accept-journal").ends(0);
        // What the journal does not have may be missing on the machine.
        let ran = place.run("plan.rhai --dry-run");
        assert!([0, 6].contains(&ran.status), "{}", ran.page());
    }
}

#[test]
fn an_older_journal_that_is_accepted_goes_on_and_cannot_be_exchanged_again() {
    let (place, _) = done();
    let older = journal(&place);
    place.run("plan.rhai --redo 01").ends(0);
    let newer = journal(&place);
    fs::write(place.path("state/journal"), &older).unwrap();
    place.run("doctor --accept-journal").ends(0);
    place.run("plan.rhai").ends(0);
    place.run("rollback --dry-run").ends(6).says("3 would be undone");
    // The one that it replaced is now the one that is not this machine's.
    fs::write(place.path("state/journal"), newer).unwrap();
    is_refused(&place, "is not the one that kkrun wrote last");
    let (place, _) = done();
    place.remove("state/backups");
    place.remove("state/journal");
    is_refused(&place, "is missing");
}

#[test]
fn missing_backups_are_named_before_a_rollback_begins() {
    let (place, _) = done();
    fs::remove_file(place.backup_of("old\n")).unwrap();
    place.run("rollback --dry-run").ends(6).says("failed: write @/m/old").says("2 would be undone");
    let said = place.run("rollback").ends(4).stderr;
    let named = said.find("cannot restore file:@/m/old: the backup").expect(&said);
    assert!(named < said.find("undone: set key").expect(&said), "{said}");
    // What is as before needs none.
    let (place, _) = done();
    fs::remove_file(place.backup_of("old\n")).unwrap();
    place.write("m/old", "old\n");
    place.run("rollback").ends(0).never_says("cannot restore");
}

#[test]
fn state_directory_that_was_put_back_as_a_whole_is_noticed() {
    let (place, _) = done();
    place.run("plan.rhai").ends(0).never_says("put into its place");
    let newest = fs::metadata(place.path("state/journal")).unwrap();
    // As long ago as a backup is: the time of the inode, which nothing can set, is now.
    let journal = fs::read_to_string(place.path("state/journal")).unwrap();
    let year = journal.split("\"time\":\"").nth(1).unwrap()[..4].to_owned();
    let older = (year.parse::<u32>().unwrap() - 1).to_string();
    place.write_journal(&journal.replace(&format!("\"time\":\"{year}"), &format!("\"time\":\"{older}")));
    assert!(fs::metadata(place.path("state/journal")).unwrap().len() == newest.len());
    let noticed = "if the state directory was restored from a backup";
    place.run("plan.rhai").ends(0).says(noticed);
    let doctor = place.run("doctor").ends(0);
    assert!(
        doctor.stdout.contains(noticed) && doctor.stdout.contains("`--verify` finds"),
        "{}",
        doctor.page()
    );
    place.run("rollback --dry-run").ends(6).says(noticed);
    place.run("rollback").ends(0).says(noticed);
    // What was written since is known.
    place.run("plan.rhai").ends(0).never_says(noticed);
}

#[test]
fn what_has_lost_its_backup_is_left_as_it_is_when_the_operator_keeps_it() {
    let (place, _) = done();
    fs::remove_file(place.backup_of("old\n")).unwrap();
    let first = place.run("rollback").ends(4).says("restore it from a backup of this machine");
    first.says("to leave it as it is, run `kkrun rollback file:@/m/old --on-conflict keep`");
    let keep = format!("rollback file:{}/m/old --on-conflict keep", place.root());
    place.run(&keep).ends(0).says("left as it is").says("1 kept");
    // For good.
    place.run("rollback").ends(0).never_says("failed:");
    let found = place.read("m/old");
    place.run("rollback --on-conflict overwrite").ends(4);
    assert_eq!(place.read("m/old"), found);
}
