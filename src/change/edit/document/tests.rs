use proptest::prelude::*;
use serde_json::json;

use super::*;

const DAEMON: &str = "{\n    // where logs go\n    \"log-driver\": \"json-file\", // as ever\n    \"log-opts\": {\n        \"max-size\": \"10m\"\n    },\n    \"live-restore\": true\n}\n";
const CARGO: &str = "# Built here.\n[build]\njobs = 2 # two\ntarget-dir = \"/tmp/target\"\n\n# Ours.\n[registries.ours]\nindex = \"https://ours\"\n# end\n";

fn entry<'e>(format: Format, section: Option<&str>, key: &'e str) -> Place<'e> {
    Place::of(format, section, key, "/f", key.to_owned()).unwrap().unwrap()
}

fn edit(entry: &Place<'_>, before: &str, value: Option<&Value>) -> Option<String> {
    let edited = entry.edited(before.as_bytes(), value).unwrap()?;
    assert!(entry.edited(&edited.bytes, value).unwrap().is_none(), "once made, it is as desired");
    Some(String::from_utf8(edited.bytes).unwrap())
}

fn set(format: Format, section: Option<&str>, key: &str, value: &Value, before: &str) -> String {
    edit(&entry(format, section, key), before, Some(value)).expect("a change")
}

#[test]
fn a_value_of_json_is_set_where_it_is_and_all_else_stays() {
    let json = Format::Json;
    assert_eq!(
        set(json, None, "log-driver", &json!("local"), DAEMON),
        DAEMON.replace("\"json-file\"", "\"local\"")
    );
    assert_eq!(
        set(json, Some("log-opts"), "max-size", &json!("1g"), DAEMON),
        DAEMON.replace("\"10m\"", "\"1g\"")
    );
    assert_eq!(
        set(json, Some("log-opts"), "max-file", &json!("3"), DAEMON),
        DAEMON.replace("\"10m\"", "\"10m\",\n        \"max-file\": \"3\"")
    );
    assert_eq!(
        set(json, None, "dns", &json!(["1.1.1.1"]), DAEMON),
        DAEMON.replace("true\n", "true,\n    \"dns\": [\"1.1.1.1\"]\n")
    );
    assert_eq!(set(json, None, "b", &json!(2), "{\"a\":1}"), "{\"a\":1,\"b\":2}");
    // What is in one line stays there.
    for (section, value, before, after) in [
        (None, json!([1, {"c": 2}]), "{\"a\":1,}", "{\"a\":1,\"b\":[1,{\"c\":2}],}"),
        (None, json!([1, 2]), "{\"a\": 1, }\n", "{\"a\": 1, \"b\": [1, 2], }\n"),
        (None, json!([1]), "{\"b\":2,\"a\":{\"c\":1}}", "{\"b\":[1],\"a\":{\"c\":1}}"),
        (Some("a"), json!(2), "{\"a\":{\"c\":{\"d\":1}}}", "{\"a\":{\"c\":{\"d\":1},\"b\":2}}"),
        (Some("a.c"), json!(2), "{\"a\":{\"x\":1}}", "{\"a\":{\"x\":1,\"c\":{\"b\":2}}}"),
        (Some("a.c"), json!(2), "{\"a\": {}}", "{\"a\": {\"c\": {\"b\": 2}}}"),
        (Some("x"), json!(2), "{\"a\": 1}", "{\"a\": 1, \"x\": {\"b\": 2}}"),
    ] {
        assert_eq!(set(json, section, "b", &value, before), after, "{before}");
    }
    assert_eq!(set(json, None, "b", &json!(2), "{\"a\": 1}\n"), "{\"a\": 1, \"b\": 2}\n");
    assert_eq!(set(json, None, "a", &json!(null), ""), "{\n  \"a\": null\n}\n");
    assert_eq!(
        set(json, Some("x.\"y.z\""), "a", &json!(1.5), "{}\n"),
        "{\n  \"x\": {\n    \"y.z\": {\n      \"a\": 1.5\n    }\n  }\n}\n"
    );
    assert_eq!(edit(&entry(json, None, "a"), "{\"a\": \"\\u0062\"}", Some(&json!("b"))), None);
}

#[test]
fn a_value_of_toml_is_set_where_it_is_and_all_else_stays() {
    let toml = Format::Toml;
    assert_eq!(set(toml, Some("build"), "jobs", &json!(4), CARGO), CARGO.replace("jobs = 2", "jobs = 4"));
    assert_eq!(
        set(toml, Some("build"), "rustc-wrapper", &json!("sccache"), CARGO),
        CARGO.replace("/tmp/target\"\n", "/tmp/target\"\nrustc-wrapper = \"sccache\"\n")
    );
    assert_eq!(
        set(toml, Some("net"), "offline", &json!(true), CARGO),
        format!("{CARGO}\n[net]\noffline = true\n")
    );
    let containerd =
        "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"a\"\n";
    assert_eq!(
        set(toml, Some("plugins.\"io.containerd.grpc.v1.cri\""), "sandbox_image", &json!("b"), containerd),
        containerd.replace("\"a\"", "\"b\"")
    );
    assert_eq!(set(toml, None, "a", &json!({"b": [1, 2.5]}), ""), "a = { b = [1, 2.5] }\n");
    assert_eq!(set(toml, Some("a"), "c", &json!(2), "a = { b = 1 }\n"), "a = { b = 1, c = 2 }\n");
    assert_eq!(set(toml, None, "a", &json!(2), "a=1"), "a=2");
}

#[test]
fn line_endings_and_a_byte_order_mark_stay() {
    for (format, before, after) in [
        (Format::Json, "\u{feff}{\r\n  \"a\": 1\r\n}\r\n", "\u{feff}{\r\n  \"a\": 1,\r\n  \"b\": 2\r\n}\r\n"),
        (Format::Toml, "\u{feff}a = 1\r\n", "\u{feff}a = 1\r\nb = 2\r\n"),
    ] {
        assert_eq!(set(format, None, "b", &json!(2), before), after);
    }
    let mixed = entry(Format::Toml, None, "a").edited(b"a = 1\r\nb = 2\n", Some(&json!(3)));
    assert!(mixed.is_err());
}

#[test]
fn what_cannot_be_edited_is_refused_with_the_reason() {
    let message = |format, section, key: &str, before: &str, value: &str| {
        let value = serde_json::from_str(value).unwrap();
        let place = Place::of(format, section, key, "/f", key.to_owned());
        let edited = place.and_then(|place| place.unwrap().edited(before.as_bytes(), Some(&value)));
        let failure = edited.err().unwrap().downcast::<Failure>().unwrap();
        format!("{} | {}", failure.message, failure.hints.join(" | "))
    };
    let (json, toml) = (Format::Json, Format::Toml);
    assert!(message(json, None, "a", "{\"a\": 1, \"a\": 2}", "3").contains("`a` is set twice in one object"));
    assert!(message(json, None, "a", "{\"a\": }", "3").contains("cannot edit a in `/f`"));
    assert!(message(json, None, "a", "[1]", "3").contains("the document has no keys, it is an array"));
    assert!(
        message(json, Some("a.b"), "c", "{\"a\": {\"b\": \"x\"}}", "3")
            .contains("`a.b` has no keys, it is a string")
    );
    assert!(message(json, Some("a..b"), "c", "{}", "3").contains("invalid section `a..b`"));
    assert!(message(json, Some("\"a\""), "c", "{}", "3").contains("write it as `a`"));
    assert!(message(toml, None, "a", "", "null").contains("TOML has no null"));
    assert!(message(toml, None, "a", "[a]\nb = 1\n", "3").contains("it is a table of its own"));
    assert!(message(toml, Some("a"), "b", "[[a]]\nb = 1\n", "3").contains("`a` has no keys, it is an array"));
    assert!(message(toml, None, "a", "a = 1\na = 2\n", "3").contains("duplicate key"));
}

#[test]
fn a_date_and_a_number_that_json_does_not_have_are_read_as_they_are_written() {
    let text = "d = 1979-05-27T07:32:00Z\ni = inf\n";
    let read = |key| entry(Format::Toml, None, key).value_in(text.as_bytes()).unwrap().map(plain);
    assert_eq!((read("d"), read("i")), (Some(json!("1979-05-27T07:32:00Z")), Some(json!("inf"))));
}

/// Undoes an edit of `before`, in a document that was changed elsewhere since.
fn back(entry: &Place<'_>, now: &str, before: &str, tables: usize) -> String {
    let made = MadeFor { tables, file: false };
    String::from_utf8(entry.undone(now.as_bytes(), before.as_bytes(), made).unwrap()).unwrap()
}

#[test]
fn undoing_one_value_leaves_what_others_changed() {
    let size = entry(Format::Json, Some("log-opts"), "max-size");
    let now = set(Format::Json, Some("log-opts"), "max-size", &json!("1g"), DAEMON);
    let now = now.replace("live-restore\": true", "live-restore\": false");
    assert_eq!(back(&size, &now, DAEMON, 0), DAEMON.replace("live-restore\": true", "live-restore\": false"));
    // Of two that were added, the first goes.
    let one = set(Format::Json, None, "one", &json!(1), DAEMON);
    let two = set(Format::Json, None, "two", &json!(2), &one);
    assert_eq!(
        back(&entry(Format::Json, None, "one"), &two, DAEMON, 0),
        set(Format::Json, None, "two", &json!(2), DAEMON)
    );
    // A table that was made for it goes with the last that is in it.
    let offline = entry(Format::Toml, Some("net"), "offline");
    let retry = entry(Format::Toml, Some("net"), "retry");
    let one = set(Format::Toml, Some("net"), "offline", &json!(true), CARGO);
    let two = set(Format::Toml, Some("net"), "retry", &json!(3), &one);
    let left = back(&offline, &two, CARGO, 1);
    assert_eq!(left, format!("{CARGO}\n[net]\nretry = 3\n"));
    assert_eq!(back(&retry, &left, &one, 1), CARGO);
    // Of two that were made, the outer one stays if an operator wrote a comment into it.
    let inner = entry(Format::Json, Some("a.b"), "c");
    let now = set(Format::Json, Some("a.b"), "c", &json!(1), "{}\n").replace("\"a\": {", "\"a\": { // mine");
    assert_eq!(back(&inner, &now, "{}\n", 2), "{\n  \"a\": { // mine\n  }\n}\n");
    // One that an operator wrote a comment into stays.
    let noted = left.replace("[net]", "# mine\n[net]");
    assert_eq!(back(&retry, &noted, &one, 1), format!("{CARGO}\n# mine\n[net]\n"));
}

#[test]
fn a_removed_value_comes_back_as_it_was_written() {
    for (format, section, key, text) in [
        (Format::Json, None, "log-driver", DAEMON),
        (Format::Json, None, "log-opts", DAEMON),
        (Format::Json, None, "live-restore", DAEMON),
        (Format::Toml, Some("build"), "jobs", CARGO),
        (Format::Toml, Some("registries.ours"), "index", CARGO),
    ] {
        let entry = entry(format, section, key);
        let gone = edit(&entry, text, None).unwrap();
        let elsewhere = format!("{gone}\n");
        assert_eq!(back(&entry, &elsewhere, text, 0), format!("{text}\n"), "{key}");
    }
}

proptest! {
    /// Whatever is set and removed in whatever order, undone newest first it is as before to the byte, and no comment is
    /// ever lost.
    #[test]
    fn edits_are_undone_one_by_one_to_the_byte(
        is_json: bool,
        edits in proptest::collection::vec(
            (
                proptest::sample::select(vec![None, Some("build"), Some("log-opts"), Some("new.\"a.b\"")]),
                proptest::sample::select(vec!["jobs", "max-size", "x y", "é"]),
                proptest::sample::select(vec![json!(1), json!("a\"b\\\n"), json!([1, "x"]), json!({"k": true})]),
            ),
            1..6,
        )
    ) {
        let (format, original) = if is_json { (Format::Json, DAEMON) } else { (Format::Toml, CARGO) };
        let mut texts = vec![original.to_owned()];
        let mut made = Vec::new();
        for (section, key, value) in edits {
            let entry = entry(format, section, key);
            let before = texts.last().unwrap();
            if let Some(edited) = entry.edited(before.as_bytes(), Some(&value)).unwrap() {
                let after = String::from_utf8(edited.bytes).unwrap();
                for comment in ["where logs go", "as ever", "Built here", "two", "Ours", "# end"] {
                    prop_assert_eq!(after.contains(comment), original.contains(comment));
                }
                made.push((entry, edited.tables));
                texts.push(after);
            }
        }
        let mut now = texts.pop().unwrap();
        for ((entry, tables), before) in made.iter().zip(&texts).rev() {
            now = back(entry, &now, before, *tables);
            prop_assert_eq!(&now, before);
        }
    }
}
