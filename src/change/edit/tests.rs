use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::change::testing::{from_record, undo, world};

/// A file `f` in a directory, with a world beside it.
struct Scene {
    directory: tempfile::TempDir,
    world: World,
    in_place: bool,
}

impl Scene {
    fn with(text: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let scene = Self { world: world(&state), directory, in_place: false };
        if let Some(text) = text {
            scene.write(text);
        }
        scene
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().canonicalize().unwrap().join("f")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn towards(
        &self,
        entry: &FileEntry,
        desired: DesiredEntry<'_>,
        record: FileRecord,
    ) -> Option<EditChange> {
        let owner = std::fs::metadata(self.directory.path()).unwrap();
        let attributes = Attributes::new(0o640, owner.uid(), owner.gid());
        let terms =
            EditTerms { entry: entry.clone(), secret: false, in_place: self.in_place, attributes, record };
        EditChange::towards(Found::text_at(&self.path()).unwrap(), desired, terms).unwrap()
    }

    fn made(&self, entry: &FileEntry, desired: DesiredEntry<'_>) -> Change {
        let change = self.towards(entry, desired, FileRecord::Unknown).unwrap();
        change.prepare(&self.world).unwrap();
        assert_eq!(change.position(&self.world).unwrap(), Position::Before);
        change.act(&self.world, Payload::Nothing).unwrap();
        let change = Change::Edit(change);
        assert_eq!(from_record(&change).kind().position(&self.world).unwrap(), Position::After);
        change
    }

    fn undo(&mut self, change: &Change) -> Undone {
        let undone = undo(&mut self.world, change, None, false);
        assert_eq!(how(&undo(&mut self.world, change, None, false)), how_twice(&undone));
        undone
    }
}

fn how(undone: &Undone) -> Option<Undoing> {
    match undone {
        Undone::Back(how, _) => Some(*how),
        _ => None,
    }
}

/// Twice is the same as once: what is back already stays so.
fn how_twice(undone: &Undone) -> Option<Undoing> {
    how(undone).map(|_| Undoing::Already)
}

fn line(section: Option<&str>, key: &str) -> FileEntry {
    let kind = EntryKind::Line { key: key.to_owned(), separator: None };
    FileEntry { section: section.map(str::to_owned), comment: "#".to_owned(), format: Format::Ini, kind }
}

const NEW: DesiredEntry<'static> = DesiredEntry::Text(b"new");

#[test]
fn undo_restores_an_unmodified_file_whole_with_its_time() {
    let mut scene = Scene::with(Some("a=1\nk = old"));
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().append(true).open(scene.path()).unwrap().set_modified(time).unwrap();
    let change = scene.made(&line(None, "k"), NEW);
    assert_eq!(scene.text(), "a=1\nk = new");
    let recorded = change.kind().recorded(&scene.world).unwrap();
    let targets: Vec<_> = recorded.keys().cloned().collect();
    assert_eq!(targets, [Target::file(&scene.path()), change.kind().target()]);
    assert_eq!(how(&scene.undo(&change)), Some(Undoing::Restored));
    assert_eq!(scene.text(), "a=1\nk = old");
    assert_eq!(std::fs::metadata(scene.path()).unwrap().modified().unwrap(), time);
}

#[test]
fn a_file_that_was_made_is_removed_again() {
    let mut scene = Scene::with(None);
    let change = scene.made(&line(Some("s"), "k"), NEW);
    assert_eq!(scene.text(), "[s]\nk=new\n");
    assert_eq!(std::fs::metadata(scene.path()).unwrap().mode() & 0o777, 0o640);
    assert_eq!(how(&scene.undo(&change)), Some(Undoing::Restored));
    assert!(!scene.path().exists());
}

#[test]
fn undo_in_a_file_modified_elsewhere_reverts_the_entry_alone() {
    let block = FileEntry {
        section: None,
        comment: "#".to_owned(),
        format: Format::Ini,
        kind: EntryKind::Block { name: "x".to_owned() },
    };
    for (entry, desired, before, edits, after) in [
        (line(None, "k"), NEW, "a=1\nk = old\n", ("a=1", "a=2"), "a=2\nk = old\n"),
        (line(None, "k"), NEW, "a=1\n", ("a=1", "z=0\na=1"), "z=0\na=1\n"),
        (line(None, "k"), NEW, "a=1\nb=2", ("a=1", "a=2"), "a=2\nb=2"),
        (line(Some("s"), "k"), NEW, "a=1\n", ("a=1", "a=2"), "a=2\n"),
        (line(Some("s"), "k"), NEW, "a=1\n", ("k=new", "k=new\nb=1"), "a=1\n\n[s]\nb=1\n"),
        (line(None, "k"), DesiredEntry::Comment, "a=1\nk=old\n", ("a=1", "a=2"), "a=2\nk=old\n"),
        (line(None, "k"), DesiredEntry::Comment, "a=1\nk=old\nb=1\n", ("#k=old\n", ""), "a=1\nk=old\nb=1\n"),
        (line(None, "k"), DesiredEntry::Absent, "a=1\nk=old\nb=1\n", ("a=1", "a=2"), "a=2\nk=old\nb=1\n"),
        (line(None, "k"), DesiredEntry::Absent, "a=1\nk=old\nb=1\n", ("a=1\nb=1\n", "c=1\n"), "c=1\nk=old\n"),
        (
            line(Some("s"), "k"),
            DesiredEntry::Absent,
            "a=1\n[s]\nk=old\n",
            ("[s]\n", ""),
            "a=1\n\n[s]\nk=old\n",
        ),
        (block.clone(), NEW, "a=1\n", ("a=1", "a=2"), "a=2\n"),
        (
            block,
            NEW,
            "# BEGIN kkrun x\none\ntwo\n# END kkrun x\na=1\n",
            ("a=1", "a=2"),
            "# BEGIN kkrun x\none\ntwo\n# END kkrun x\na=2\n",
        ),
    ] {
        let mut scene = Scene::with(Some(before));
        let change = scene.made(&entry, desired);
        let text = scene.text();
        assert!(text.contains(edits.0), "{text}");
        scene.write(&text.replacen(edits.0, edits.1, 1));
        assert_eq!(how(&scene.undo(&change)), Some(Undoing::InPart), "{before:?}");
        assert_eq!(scene.text(), after, "{before:?} {edits:?}");
    }
}

#[test]
fn undo_keeps_an_entry_modified_outside_kkrun_unless_forced() {
    let mut scene = Scene::with(Some("a=1\nk=old\n"));
    let change = scene.made(&line(None, "k"), NEW);
    scene.write("a=1\nk=theirs\n");
    let Undone::Conflict(why) = scene.undo(&change) else { panic!("no conflict") };
    assert_eq!(why, "2: k=theirs");
    assert_eq!(scene.text(), "a=1\nk=theirs\n");
    assert_eq!(how(&undo(&mut scene.world, &change, None, true)), Some(Undoing::InPart));
    assert_eq!(scene.text(), "a=1\nk=old\n");

    std::fs::remove_file(scene.path()).unwrap();
    assert!(matches!(scene.undo(&change), Undone::Conflict(_)));
    assert_eq!(how(&undo(&mut scene.world, &change, None, true)), Some(Undoing::Restored));
    assert_eq!(scene.text(), "a=1\nk=old\n");
}

#[test]
fn an_entry_that_cannot_be_found_for_certain_is_a_conflict_and_overwritten_it_is_as_before() {
    let with = |format, entry: FileEntry| FileEntry { format, ..entry };
    let json = |section, key| with(Format::Json, line(section, key));
    let toml = |section, key| with(Format::Toml, line(section, key));
    let kind = EntryKind::Block { name: "x".to_owned() };
    let block = FileEntry { kind, ..line(None, "k") };
    let kind = EntryKind::WholeLine { line: "new".to_owned(), matching: Some("^n".to_owned()) };
    let whole = FileEntry { kind, ..line(None, "k") };
    let (number, mount) = (DesiredEntry::Text(b"2"), DesiredEntry::Text(b"a /m ext4 new"));
    let at_end = DesiredEntry::Line(Beside::Nothing);
    for (entry, desired, before, theirs) in [
        (json(None, "k"), number, "{\"k\": 1}\n", "{\"k\": 2\n"),
        (json(None, "k"), number, "{\"k\": 1}\n", "{\"k\": 2, \"k\": 3}\n"),
        (json(None, "k"), number, "{\"k\": 1}\n", "[1]\n"),
        (json(None, "k"), number, "{\"k\": 1}\n", "{\r\n\"k\": 2\n}\n"),
        (json(Some("s"), "k"), DesiredEntry::Absent, "{\"s\": {\"k\": 1, \"j\": 1}}\n", "{\"s\": [1]}\n"),
        (toml(None, "k"), number, "k = 1\n", "k = [\n"),
        (toml(Some("s"), "k"), DesiredEntry::Absent, "[s]\nk = 1\nj = 1\n", "[[s]]\nj = 1\n"),
        (line(None, "k"), NEW, "k=1\n", "k=new\nk=2\n"),
        (line(Some("s"), "k"), NEW, "[s]\nk=1\n", "[s]\nk=new\n[s]\nk=2\n"),
        (line(Some("s"), "k"), DesiredEntry::Absent, "[s]\nk=1\n", "[s]\n[s]\n"),
        (with(Format::Fstab, line(None, "/m")), mount, "a /m ext4 x\n", "a /m ext4 new\nb /m xfs x\n"),
        (block, NEW, "a=1\n", "a=1\n# BEGIN kkrun x\nnew\n"),
        (whole, at_end, "a=1\n", "new\nnewer\n"),
    ] {
        // Of a key that is there twice only its lines are overwritten.
        let is_repeated = theirs == "k=new\nk=2\n" || entry.format == Format::Fstab;
        let mut scene = Scene::with(Some(before));
        let change = scene.made(&entry, desired);
        scene.write(theirs);
        let at = from_record(&change).kind().position(&scene.world);
        assert!(matches!(at, Ok(Position::Neither(_))), "{theirs:?}: {at:?}");
        for dry_run in [true, false] {
            let terms = UndoTerms { dry_run, ..UndoTerms::default() };
            match from_record(&change).kind().undo(&mut scene.world, terms) {
                Ok(Undone::Conflict(why)) => {
                    let what = if is_repeated { "leaves no line of" } else { "restores all of" };
                    assert!(why.contains(what), "{theirs:?}: {why}");
                }
                other => panic!("{theirs:?}: {:?}", other.map(|undone| how(&undone))),
            }
        }
        assert_eq!(scene.text(), theirs);
        let expected = if is_repeated { Undoing::InPart } else { Undoing::Restored };
        assert_eq!(how(&undo(&mut scene.world, &change, None, true)), Some(expected), "{theirs:?}");
        assert_eq!(scene.text(), before);
        let kept = scene.world.backups().unwrap().read(Digest::of(theirs.as_bytes())).unwrap();
        assert_eq!(kept, theirs.as_bytes());
    }
}

#[test]
fn a_line_is_a_conflict_when_it_was_edited_and_not_when_another_was() {
    let scene = Scene::with(Some("a=1\nk=old\n"));
    let entry = line(None, "k");
    let first = scene.made(&entry, NEW);
    let recorded = first.kind().recorded(&scene.world).unwrap();
    let (of_file, of_line) = (&recorded[&Target::file(&scene.path())], &recorded[&first.kind().target()]);

    scene.write("a=2\nk=new\n");
    let other = DesiredEntry::Text(b"newer");
    let record = FileRecord::of(Some(of_file), &FileState::observe(&scene.path()).unwrap());
    assert_eq!(record, FileRecord::Conflict);
    let second = scene.towards(&entry, other, record).unwrap();
    assert_eq!(second.conflict(of_line, &scene.world), None);
    second.act(&scene.world, Payload::Nothing).unwrap();
    // The rest of the file is still a conflict.
    assert_eq!(second.recorded(&scene.world).unwrap().len(), 1);

    scene.write("a=2\nk=theirs\n");
    let third = scene.towards(&entry, other, record).unwrap();
    assert_eq!(third.conflict(of_line, &scene.world), Some(Modification::shown("2: k=theirs")));
    // Unless kkrun itself wrote the whole file since.
    let third = scene.towards(&entry, other, FileRecord::AsRecorded).unwrap();
    assert_eq!(third.conflict(of_line, &scene.world), None);
    scene.write("a=2\n");
    let fourth = scene.towards(&entry, other, record).unwrap();
    let gone = fourth.conflict(of_line, &scene.world).unwrap().difference("it");
    assert!(gone.starts_with("k is gone from "));
}

#[test]
fn an_edit_in_doubt_is_probed_by_its_entry() {
    let scene = Scene::with(Some("k=old\n"));
    let change = scene.made(&line(None, "k"), NEW);
    for (text, position) in [("k=new\na=1\n", Position::After), ("a=1\nk=old\n", Position::Before)] {
        scene.write(text);
        assert_eq!(from_record(&change).kind().position(&scene.world).unwrap(), position);
    }
    scene.write("k=third\n");
    assert!(matches!(from_record(&change).kind().position(&scene.world).unwrap(), Position::Neither(_)));
    assert!(change.kind().recorded(&scene.world).is_err());
}

#[test]
fn no_text_of_the_file_is_recorded() {
    let scene = Scene::with(Some("a=hush\nk=hush-too\n"));
    let change = scene.made(&line(None, "k"), DesiredEntry::Text(b"new-secret"));
    let intent = serde_json::to_string(&change.intent().unwrap()).unwrap();
    assert!(
        intent.contains("\"k\"") && !intent.contains("hush") && !intent.contains("new-secret"),
        "{intent}"
    );
    assert_eq!(change.kind().summary(), format!("set k in {}", scene.path().display()));
}

#[test]
fn what_was_made_for_undone_entries_goes_with_the_last_one_and_only_if_it_was_there_without_a_gap() {
    let scene = Scene::with(None);
    let in_section = |key| line(Some("s"), key);
    let first = scene.made(&in_section("a"), NEW);
    let second = scene.made(&in_section("b"), NEW);
    let third = scene.made(&in_section("c"), NEW);
    let elsewhere = scene.made(&line(Some("t"), "d"), NEW);
    let undone = |made, undone, change: &Change| UndoneEntry { made, undone, change: change.clone() };

    // The first was undone while only the second was there, and that one while the third was.
    let chain = vec![undone(1, 3, &first), undone(2, 5, &second)];
    let made = third.kind().stayed_for(4, chain);
    assert!(made.file && made.header, "{made:?}");
    // Another section has the file in common.
    let made = elsewhere.kind().stayed_for(2, vec![undone(1, 3, &first)]);
    assert!(made.file && !made.header, "{made:?}");
    // Nothing was there in between: what is there now was made by the operator.
    assert_eq!(third.kind().stayed_for(4, vec![undone(1, 3, &first)]), Made::default());
}

#[test]
fn a_file_that_is_written_in_place_stays_the_same_file_through_undo() {
    for theirs in ["", "z=0\n"] {
        let mut scene = Scene::with(Some("a=1\nk=older\n"));
        scene.in_place = true;
        let inode = std::fs::metadata(scene.path()).unwrap().ino();
        let change = scene.made(&line(None, "k"), NEW);
        assert!(change.kind().summary().ends_with(", in place"));
        assert!(serde_json::to_string(&change.intent().unwrap()).unwrap().contains("\"in_place\":true"));
        let text = scene.text();
        assert_eq!(text, "a=1\nk=new\n");
        scene.write(&format!("{theirs}{text}"));
        assert!(how(&scene.undo(&change)).is_some());
        assert_eq!(scene.text(), format!("{theirs}a=1\nk=older\n"));
        assert_eq!(std::fs::metadata(scene.path()).unwrap().ino(), inode);
    }
}

#[test]
fn an_edit_in_place_that_was_killed_while_it_wrote_is_completed() {
    let mut scene = Scene::with(Some("a=1\nk=older\n"));
    scene.in_place = true;
    let change = scene.made(&line(None, "k"), NEW);
    let ready = scene.path().with_file_name(format!(".kkrun-{}.ready", tag(&scene.path())));
    scene.write("a=1\nk=newer\n");
    std::fs::write(&ready, "a=1\nk=new\n").unwrap();
    assert_eq!(from_record(&change).kind().position(&scene.world).unwrap(), Position::After);
    assert_eq!((scene.text(), ready.exists()), ("a=1\nk=new\n".to_owned(), false));
    // And an undo.
    scene.write("a=1\nk=old");
    std::fs::write(&ready, "a=1\nk=older\n").unwrap();
    assert_eq!(how(&scene.undo(&change)), Some(Undoing::Already));
    assert_eq!((scene.text(), ready.exists()), ("a=1\nk=older\n".to_owned(), false));
}
