//! The page that `kkrun report` writes: what is in it, what must not be, and that a browser reads it as it is meant.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Place, Ran};

/// A tag of a page with its attributes.
#[derive(Debug)]
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

/// The tags of a page. Fails where it is not well-formed: a tag that is not closed or closed in the wrong place, an
/// attribute without quotes, a `<` or `&` that begins nothing.
#[track_caller]
fn tags(page: &str) -> Vec<Tag> {
    const VOID: [&str; 4] = ["meta", "link", "br", "hr"];
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut open, mut tags): (Vec<String>, Vec<Tag>) = (Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        entities(&rest[..at]);
        let (inside, behind) = rest[at + 1..].split_once('>').unwrap();
        rest = behind;
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed: {name}");
            continue;
        }
        let (name, mut text) = inside.split_once(' ').unwrap_or((inside, ""));
        assert!(
            name.bytes().all(|letter| letter.is_ascii_alphanumeric()) && !name.is_empty(),
            "a tag: <{inside}>"
        );
        let mut attributes = Vec::new();
        while !text.is_empty() {
            let end = text.find(['=', ' ']).unwrap_or(text.len());
            let (key, behind) = text.split_at(end);
            let (value, behind) = match behind.strip_prefix("=\"") {
                Some(quoted) => quoted.split_once('"').unwrap_or_else(|| panic!("an attribute: <{inside}>")),
                None => ("", behind),
            };
            entities(value);
            attributes.push((key.to_owned(), value.to_owned()));
            text = behind.trim_start();
        }
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
        if name == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
        tags.push(Tag { name: name.to_owned(), attributes });
    }
    assert_eq!((open, rest.trim()), (Vec::new(), ""));
    tags
}

#[track_caller]
fn entities(text: &str) {
    for behind in text.split('&').skip(1) {
        let is_entity = ["amp;", "lt;", "gt;", "quot;"].iter().any(|name| behind.starts_with(name));
        assert!(is_entity, "&{behind}");
    }
}

/// What a reader sees of a page, without its tags.
fn text(page: &str) -> String {
    let body = page.split_once("<body>").unwrap().1;
    let parts = body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    // Every test gives it.
    let text = parts.collect::<String>().replace("kkrun --state-dir @/state ", "kkrun ");
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")]
        .into_iter()
        .fold(text, |text, (entity, letter)| text.replace(entity, letter))
}

impl Ran {
    /// The page on standard output, which is well-formed and refers to nothing outside of it.
    #[track_caller]
    fn report(self) -> String {
        let page = self.ends(0).stdout;
        let mut anchors = Vec::new();
        let mut references = Vec::new();
        for Tag { name, attributes } in tags(&page) {
            assert!(
                !["script", "img", "iframe", "object", "embed", "base", "form"].contains(&&*name),
                "{name}"
            );
            for (key, value) in attributes {
                assert!(!key.starts_with("on") && key != "src" && key != "action", "{key}={value}");
                match &*key {
                    "id" => anchors.push(value),
                    "href" => references.push(value),
                    _ => {}
                }
            }
        }
        for reference in references {
            let is_inside =
                reference.strip_prefix('#').is_some_and(|anchor| anchors.iter().any(|known| known == anchor));
            assert!(is_inside || reference == "data:,", "{reference}");
        }
        assert!(!page.contains("url(") && !page.contains("@import"), "the styles refer to something");
        page
    }
}

#[track_caller]
fn shows(page: &str, parts: &[&str]) {
    let text = text(page);
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in the page:\n{text}");
    }
}

/// A plan of which the second step fails behind a change.
fn failing() -> Place {
    let place = Place::new(
        r#"
step::run("01", "Greeting", || file::write("@/m/greeting", "hello\nworld\n"));
step::run("02", "Animals", || {
    file::make_dir("@/m/zoo");
    cmd::run(["bash", "-c", "echo searching the lion; exit 3"], #{ always: "a test" });
});
step::run("03", "Visitors", || file::write("@/m/gate", "open\n"));
"#,
    )
    .with("m/greeting", "hello\n");
    place.run("plan.rhai").ends(1);
    place
}

#[test]
fn report_shows_steps_changes_with_differences_and_the_failure_with_its_output() {
    let place = failing();
    let page = place.run("report --output -").report();
    shows(
        &page,
        &[
            "plan failed",
            "1 step complete",
            "Needs attention",
            "Step 02 Animals failed",
            "searching the lion",
            "ended with exit code 3",
            "kkrun log 02 --plan plan",
            "write @/m/greeting",
            "+world",
            "make @/m/zoo",
            "the state of the plan plan was failed, by the journal",
            "fix the cause, then",
            "Nothing is pending.",
        ],
    );
    assert!(!text(&page).contains("Visitors"), "a step that did not run is shown");
    assert!(page.contains("<ins>+world\n</ins>"), "{page}");
}

#[test]
fn page_is_a_file_of_its_owner_unless_standard_output_is_asked_for() {
    let place = failing();
    let ran = place.run("report").ends(0).says("the report of the run ").prints("");
    let name = ran.stderr.rsplit('`').nth(1).unwrap().to_owned();
    let path = place.path("plan").join(&name);
    assert!(name.starts_with("kkrun-report-2"), "{name}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    place.write("other.html", "an older page\n");
    let other = place.path("other.html").display().to_string();
    place.run_words(&["report", "--output", &other]).ends(0);
    assert!(place.read("other.html").starts_with("<!DOCTYPE html>"));
    // What is no file is written to, as `/dev/stdout` is.
    std::os::unix::fs::symlink(&other, place.path("link")).unwrap();
    place.write("other.html", "an older page\n");
    place.run_words(&["report", "--output", &place.path("link").display().to_string()]).ends(0);
    assert!(place.path("link").is_symlink() && place.read("other.html").ends_with("</html>"));
}

#[test]
fn what_looks_like_html_is_text() {
    const NAME: &str = "<img src=x onerror=alert(1)>&amp;.txt";
    let plan = r#"
step::run("<b>", "<script>alert(1)</script>", || {
    file::write("@/m/NAME", "</pre><script>alert(2)</script>\n");
    cmd::run(["bash", "-c", "echo '</pre><script>alert(3)</script>'; echo '&lt;' >&2; exit 1"], #{ always: "a test" });
});
"#;
    let place = Place::new(&plan.replace("NAME", NAME));
    place.run("plan.rhai").ends(1);
    let page = place.run("report --output -").report();
    shows(
        &page,
        &[
            NAME,
            "<script>alert(1)</script>",
            "+</pre><script>alert(2)</script>",
            "</pre><script>alert(3)</script>",
            "&lt;",
        ],
    );
}

#[test]
fn no_secret_is_in_the_page() {
    const SECRET: &str = "Canary<of>the&report";
    let place = Place::new(
        r#"
step::run("01", "Secret", || {
    let key = secret::ask("key", "Key");
    file::write("@/m/key", key);
    file::write("@/m/beside", "shown\n");
    cmd::run(["bash", "-c", "echo begin $KEY; printf '%s' $KEY | base64; exit 1"], #{ env: #{ KEY: key }, always: "a test" });
});
"#,
    );
    let mut command = place.command(&["plan.rhai"]);
    place.ran(&command.env("KKRUN_SECRET_KEY", SECRET).output().unwrap()).ends(1);
    let page = place.run("report --output -").report();
    shows(&page, &["begin «secret:key»", "its content is not shown: it holds a secret", "+shown"]);
    let encoded = "Q2FuYXJ5PG9mPnRoZSZyZXBvcnQ";
    for hidden in [SECRET, "Canary", encoded, "Canary&lt;of"] {
        assert!(!page.contains(hidden), "`{hidden}` is in the page");
    }
}

#[test]
fn report_of_a_rollback_shows_what_was_undone_and_what_is_in_conflict() {
    let place = Place::new(
        r#"
step::run("01", "Files", || {
    file::write("@/m/a", "one\n");
    file::write("@/m/b", "two\n");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    place.write("m/a", "edited\n");
    place.run("rollback").ends(4);
    let page = place.run("report --output -").report();
    shows(
        &page,
        &[
            "plan rolled back in part",
            "1 undone",
            "1 in conflict",
            "conflict: make @/m/a",
            "+edited",
            "kkrun rollback file:@/m/a --plan plan --on-conflict overwrite",
            "make @/m/bundone",
        ],
    );
    place.remove("m/a");
    place.run("rollback --on-conflict overwrite").ends(0);
    shows(&place.run("report --output -").report(), &["plan rolled back"]);
}

#[test]
fn an_older_run_and_the_last_of_a_plan_can_be_chosen() {
    let place = failing();
    place.write("plan/other.rhai", "step::run(\"01\", \"Other\", || file::write(\"@/m/other\", \"1\\n\"));");
    place.run("other.rhai").ends(0);
    // Not one that only changes what is recorded.
    place.run("reset other --yes").ends(0);
    shows(&place.run("report --output -").report(), &["other complete"]);
    let of_plan = place.run("report --plan plan --output -").report();
    shows(&of_plan, &["plan failed"]);
    place.edit("plan/plan.rhai", "exit 3", "exit 0");
    place.run("plan.rhai").ends(0);
    let changes = place.run("history --json").ends(0).json();
    let first = changes[1]["run"].as_str().unwrap().to_owned();
    let page = place.run(&format!("report {first} --output -")).report();
    shows(
        &page,
        &["plan failed", "The plan has run since", "the state of the plan plan was complete, by the journal"],
    );
    place.run("report nonsense").ends(2).says("unknown run `nonsense`").says("the last runs: ");
    place.run("report --plan nonsense").ends(2).says("no run of a plan `nonsense` is recorded");
}

#[test]
fn before_anything_is_recorded_there_is_no_report() {
    let place = Place::empty();
    place.run("report").ends(2).says("no run is recorded yet");
}

#[test]
fn long_output_and_long_differences_are_cut_with_the_command_that_has_all() {
    let place = Place::new(
        r#"
step::run("01", "Long", || {
    let text = "";
    for number in 0..1000 { text += "line " + number + "\n"; }
    file::write("@/m/long", text);
    cmd::run(["seq", "-f", "printed %g", "1000"], #{ always: "a test" });
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let page = place.run("report --output -").report();
    shows(
        &page,
        &["lines are left out: kkrun log 01 --plan plan has all of them", "printed 1000", "+line 1\n"],
    );
    shows(&page, &["more lines are left out: kkrun show "]);
    let text = text(&page);
    assert!(!text.contains("printed 100\n") && !text.contains("+line 999"), "{text}");
}

#[test]
fn killed_run_has_no_end_and_what_it_was_at_is_open() {
    let place = failing();
    place.cut_journal_behind("intent");
    let page = place.run("report --output -").report();
    shows(&page, &["plan killed: it has no end", "Step 02 Animals unfinished", "in doubt"]);
}

#[test]
fn handlers_and_restarts_are_in_the_report() {
    let place = Place::new(
        r#"
step::run("01", "Handlers", || {
    step::on_change(#{ run: [["touch", "@/m/ran"]] }, || file::write("@/m/a", "1\n"));
    host::reboot_required("a new kernel");
});
"#,
    );
    place.run("plan.rhai").ends(0);
    let page = place.run("report --output -").report();
    shows(&page, &["touch @/m/ranran", "a restart of the machine: a new kernel"]);
}
