//! Names, ports and paths of the script's own variables that recur in a plan: they become settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::action::Action;
use super::secret::Secrets;
use super::trace::Trace;
use super::{literal, suspect};
use crate::machine::clone::network::{DEVICE, INSIDE, OUTSIDE};

/// A shorter value would be found in any text, in bytes.
const SHORTEST: usize = 3;

/// Values that say nothing about a machine.
const COMMON: [&str; 20] = [
    "/dev/null",
    "0.0.0.0",
    "127.0.0.1",
    "bash",
    "c.utf-8",
    "disable",
    "enable",
    "false",
    "http",
    "https",
    "localhost",
    "main",
    "none",
    "noninteractive",
    "off",
    "root",
    "true",
    "utf-8",
    "www-data",
    "yes",
];

/// A variable of the script with the only value that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
}

/// The variables that may be settings, the longest value first: a shorter one may be a part of it.
pub(super) fn candidates(trace: &Trace, secrets: &Secrets) -> Vec<Setting> {
    let mut found: Vec<(Setting, bool)> = Vec::new();
    for command in &trace.commands {
        let words = command.words();
        let [word] = &words[..] else { continue };
        let Some((name, value)) = word.split_once('=') else { continue };
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
        };
        if !is_name(name) {
            continue;
        }
        let name = name.to_lowercase();
        match found.iter_mut().find(|(known, _)| known.name == name) {
            Some((known, is_one)) => *is_one &= known.value == value,
            None => found.push((Setting { name, value: value.to_owned() }, true)),
        }
    }
    let is_usable = |setting: &Setting| {
        let value = &setting.value;
        value.len() >= SHORTEST
            && !COMMON.contains(&value.to_lowercase().as_str())
            // Other numbers are the same by chance.
            && (value.parse::<u64>().is_err() || value.len() > 3 && setting.name.contains("port"))
            && !literal::RESERVED.contains(&setting.name.as_str())
            && !secrets.has(&setting.name)
            && !value.contains(|letter: char| letter.is_whitespace() || "\"'`\\${}".contains(letter))
            && secrets.within(value).is_empty()
    };
    let mut settings: Vec<Setting> = found
        .into_iter()
        .filter(|(setting, is_one)| *is_one && is_usable(setting))
        .map(|(setting, _)| setting)
        .collect();
    settings.sort_by_key(|setting| std::cmp::Reverse(setting.value.len()));
    settings
}

/// A file of the plan, as a template.
struct Template {
    name: String,
    text: String,
    /// How many settings are in it.
    settings: usize,
}

/// Puts the settings into the calls, and gives those that occur in several places; and into the files that a call installs one
/// by one, which become templates: those that changed, with their names. `kept` has the files of the plan.
pub(super) fn put(
    actions: &mut [Action],
    candidates: &[Setting],
    kept: &BTreeMap<String, String>,
) -> (Vec<Setting>, Vec<(String, String)>) {
    let has_call = |call: &str| actions.iter().any(|action| action.code.contains(call));
    let mut templates: Vec<Template> = Vec::new();
    for (name, text) in kept {
        let quoted = literal::string(name);
        let is_template = has_call(&format!("file::render({quoted}"));
        if is_template || ["copy", "read"].iter().any(|call| has_call(&format!("file::{call}({quoted}"))) {
            let text = if is_template { text.clone() } else { text.replace("{{", "{{{{") };
            templates.push(Template { name: name.clone(), text, settings: 0 });
        }
    }
    let mut used: Vec<Setting> = Vec::new();
    for setting in candidates {
        if used.iter().any(|known| known.value == setting.value) {
            continue;
        }
        let changed: Vec<(usize, (String, usize))> = actions
            .iter()
            .enumerate()
            .filter_map(|(at, action)| Some((at, with(&action.code, setting)?)))
            .collect();
        let files: Vec<(usize, String)> = templates
            .iter()
            .enumerate()
            .filter(|(_, template)| !is_of_program(&template.name, &setting.value))
            .filter_map(|(at, template)| Some((at, with_placeholders(&template.text, setting)?)))
            .collect();
        if changed.iter().map(|(_, (_, count))| count).sum::<usize>() + files.len() < 2 {
            continue;
        }
        for (at, (code, _)) in changed {
            actions[at].code = code;
        }
        for (at, text) in files {
            templates[at].text = text;
            templates[at].settings += 1;
        }
        used.push(setting.clone());
    }
    templates.retain(|template| template.settings > 0);
    for template in &templates {
        for action in actions.iter_mut() {
            action.code = rendering(&action.code, &template.name);
        }
    }
    (used, templates.into_iter().map(|template| (template.name, template.text)).collect())
}

/// Whether a word in a file is as likely one of its language.
fn is_of_program(name: &str, value: &str) -> bool {
    let path = Path::new(name);
    let is_shell = path.extension().is_some_and(|kind| kind == "sh" || kind == "bash");
    let is_word = value.chars().all(|letter| letter.is_alphabetic() || "_-".contains(letter));
    suspect::is_program(path) && !is_shell && is_word
}

/// A template with the setting in it; `None` if its value is nowhere. The names in braces stay.
fn with_placeholders(template: &str, setting: &Setting) -> Option<String> {
    let placeholder = format!("{{{{{}}}}}", setting.name);
    let (mut text, mut count) = (String::new(), 0);
    let mut put = |mut plain: &str, text: &mut String| {
        while let Some(at) = occurs(plain, &setting.value) {
            text.push_str(&plain[..at]);
            text.push_str(&placeholder);
            plain = &plain[at + setting.value.len()..];
            count += 1;
        }
        text.push_str(plain);
    };
    let mut rest = template;
    // As `file::render` reads it.
    while let Some(at) = rest.find("{{") {
        put(&rest[..at], &mut text);
        let behind = &rest[at + 2..];
        let length = if behind.starts_with("{{") {
            4
        } else if behind.starts_with('{') {
            1
        } else {
            behind.find("}}").map_or(2, |end| end + 4)
        };
        text.push_str(&rest[at..at + length]);
        rest = &rest[at + length..];
    }
    put(rest, &mut text);
    (count > 0).then_some(text)
}

/// A call with the file of the plan rendered instead of copied or read.
fn rendering(code: &str, name: &str) -> String {
    let quoted = literal::string(name);
    let render = format!("file::render({quoted}, #{{}})");
    let code = code.replace(&format!("file::read({quoted})"), &render);
    let copy = format!("file::copy({quoted}, ");
    let Some(at) = code.find(&copy) else { return code };
    let (before, behind) = (&code[..at], &code[at + copy.len()..]);
    // The path ends before the options, or with the call.
    let line = behind.lines().next().unwrap_or_default();
    let end = line.find(", #{").or_else(|| line.rfind(");")).unwrap_or(line.len());
    format!("{before}file::write({}, {render}{}", &behind[..end], &behind[end..])
}

/// What the plan has in it though only a clone is so: its network device and its addresses, which the script asked for.
pub(super) fn of_clone(actions: &[Action], kept: &BTreeMap<String, String>, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (value, what) in [(DEVICE, "network device"), (INSIDE, "address"), (OUTSIDE, "gateway")] {
        if source.contains(value) {
            continue;
        }
        let files = kept.iter().map(|(name, text)| (format!("`{name}`"), text));
        let calls = actions.iter().map(|action| {
            let place = action.line.map(|line| format!(" of line {line}")).unwrap_or_default();
            (format!("a call{place}"), &action.code)
        });
        let places: BTreeSet<String> = files
            .chain(calls)
            .filter(|(_, text)| occurs(text, value).is_some())
            .map(|(place, _)| place)
            .collect();
        found.extend(places.into_iter().map(|place| {
            format!("{place}: `{value}` in it is the {what} of the clone: put that of the machine there or into settings.rhai")
        }));
    }
    found
}

/// Where a value is in a text as a whole: a name within another one, such as that of a unit or a file, may have it by chance.
fn occurs(text: &str, value: &str) -> Option<usize> {
    let is_inner = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    text.match_indices(value)
        .map(|(at, _)| at)
        .find(|at| !text[..*at].ends_with(is_inner) && !text[at + value.len()..].starts_with(is_inner))
}

/// A call with the setting in its strings, and in how many; `None` if it is in none of them.
fn with(code: &str, setting: &Setting) -> Option<(String, usize)> {
    let (mut text, mut count) = (String::new(), 0);
    let mut rest = code;
    while let Some(begin) = rest.find(['"', '`']) {
        let quote = &rest[begin..=begin];
        let inner = &rest[begin + 1..];
        let mut is_escaped = false;
        let end = inner.find(|letter: char| {
            let is_end = quote.starts_with(letter) && !is_escaped;
            is_escaped = letter == '\\' && !is_escaped && quote == "\"";
            is_end
        })?;
        let content = &inner[..end];
        text.push_str(&rest[..begin]);
        // The name of a file of the plan and a regular expression stay as they are.
        let stays = content.starts_with("files/") || content.starts_with('^');
        match occurs(content, &setting.value).filter(|_| !stays) {
            Some(_) => {
                count += 1;
                text.push_str(&replaced(content, quote == "`", setting));
            }
            None => text.push_str(&rest[begin..begin + end + 2]),
        }
        rest = &inner[end + 1..];
    }
    text.push_str(rest);
    (count > 0).then_some((text, count))
}

/// The content of a string with the setting in it, as an expression.
fn replaced(content: &str, has_expressions: bool, setting: &Setting) -> String {
    let name = format!("settings::{}", setting.name);
    if content == setting.value {
        return name;
    }
    let mut pieces = Vec::new();
    let mut left = content;
    while let Some(at) = occurs(left, &setting.value) {
        pieces.push(&left[..at]);
        left = &left[at + setting.value.len()..];
    }
    pieces.push(left);
    // Between backticks, nothing stands for another letter.
    if has_expressions || !content.contains(['\\', '`']) && !content.contains("${") {
        return format!("`{}`", pieces.join(&format!("${{{name}}}")));
    }
    let quoted = |piece: &&str| if piece.is_empty() { None } else { Some(format!("\"{piece}\"")) };
    let quoted: Vec<Option<String>> = pieces.iter().map(quoted).collect();
    let mut parts = Vec::new();
    for (at, piece) in quoted.into_iter().enumerate() {
        if at > 0 {
            parts.push(name.clone());
        }
        parts.extend(piece);
    }
    parts.join(" + ")
}

/// The text of settings.rhai.
pub(super) fn text(plan: &str, settings: &[Setting]) -> String {
    let mut text = format!("//! The settings of the plan.\n\n#{{\n    plan: {},\n", literal::string(plan));
    for setting in settings {
        let _ = writeln!(text, "    {}: {},", setting.name, literal::string(&setting.value));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::action::Place;
    use super::*;

    fn actions(codes: &[&str]) -> Vec<Action> {
        codes.iter().map(|code| Action::new(Place::Files, (*code).to_owned())).collect()
    }

    #[test]
    fn a_variable_that_recurs_is_a_setting() {
        let trace = Trace::read(
            "\u{1}1.0 0 1 /\u{2}DEV=anna\n\u{1}1.1 0 1 /\u{2}PORT=8080\n\u{1}1.2 0 1 /\u{2}I=one\n\u{1}1.3 0 1 /\u{2}I=two\n\u{1}1.4 0 1 /\u{2}X=once\n",
            "",
        );
        let candidates = candidates(&trace, &Secrets::default());
        let mut actions = actions(&[
            "user::ensure(\"anna\", #{ home: \"/home/anna\" });",
            "file::write(\"/home/anna/x\", \"a\\nanna\");",
            "file::copy(\"files/home/anna/y\", \"/home/annabel\");",
            "file::write(\"/once\", \"8080\");",
            "file::write(\"/who\", \"it is anna\\n\");",
        ]);
        let (used, templates) = put(&mut actions, &candidates, &BTreeMap::new());
        assert_eq!(templates, []);
        assert_eq!(used, [Setting { name: "dev".into(), value: "anna".into() }]);
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "user::ensure(settings::dev, #{ home: `/home/${settings::dev}` });",
                "file::write(`/home/${settings::dev}/x`, \"a\\nanna\");",
                "file::copy(\"files/home/anna/y\", \"/home/annabel\");",
                "file::write(\"/once\", \"8080\");",
                "file::write(\"/who\", \"it is \" + settings::dev + \"\\n\");",
            ]
        );
        assert_eq!(
            text("x", &used),
            "//! The settings of the plan.\n\n#{\n    plan: \"x\",\n    dev: \"anna\",\n}\n"
        );
    }

    #[test]
    fn a_value_in_several_settings_is_put_in_once() {
        let settings = [
            Setting { name: "root".into(), value: "/srv/app".into() },
            Setting { name: "app".into(), value: "app".into() },
        ];
        let mut actions = actions(&["a(\"/srv/app/app\");", "b(\"/srv/app\", \"x-app\");"]);
        put(&mut actions, &settings, &BTreeMap::new());
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(codes, ["a(`${settings::root}/app`);", "b(settings::root, \"x-app\");"]);
    }

    #[test]
    fn a_file_with_a_setting_is_rendered() {
        let settings = [
            Setting { name: "app_dir".into(), value: "/srv/hallway".into() },
            Setting { name: "port".into(), value: "8080".into() },
            Setting { name: "user".into(), value: "hallway".into() },
        ];
        let kept = [
            ("files/etc/a.conf", "{8080} {{ x }} /srv/hallway hallways {{{hallway}\n"),
            ("files/etc/secret", "{{token}} {{{{8080 {{user}}\n"),
            ("files/etc/plain", "{{ x }}\n"),
            ("files/srv/tree/a.txt", "hallway 8080\n"),
            ("files/srv/hallway.js", "const hallway = '/srv/hallway';\n"),
            ("files/db.sql", "ALTER TABLE x OWNER TO hallway;\n"),
        ];
        let kept = kept.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let mut actions = actions(&[
            "step::on_change(#{ run: [[\"x\"]] }, || {\n    file::copy(\"files/etc/a.conf\", \"/etc/a.conf\", #{ mode: \"0600\" });\n});",
            "file::write(\"/etc/secret\", file::render(\"files/etc/secret\", #{ token: token }));",
            "file::copy(\"files/etc/plain\", \"/etc/plain\");",
            "file::copy(\"files/srv/tree\", \"/srv/tree\");",
            "file::copy(\"files/srv/hallway.js\", \"/srv/hallway.js\");",
            "cmd::run([\"psql\"], #{ stdin: file::read(\"files/db.sql\") });",
        ]);
        let (used, templates) = put(&mut actions, &settings, &kept);
        let names: Vec<&str> = used.iter().map(|setting| setting.name.as_str()).collect();
        assert_eq!(names, ["app_dir", "port", "user"]);
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "step::on_change(#{ run: [[\"x\"]] }, || {\n    file::write(\"/etc/a.conf\", file::render(\"files/etc/a.conf\", #{}), #{ mode: \"0600\" });\n});",
                "file::write(\"/etc/secret\", file::render(\"files/etc/secret\", #{ token: token }));",
                "file::copy(\"files/etc/plain\", \"/etc/plain\");",
                "file::copy(\"files/srv/tree\", \"/srv/tree\");",
                "file::write(\"/srv/hallway.js\", file::render(\"files/srv/hallway.js\", #{}));",
                "cmd::run([\"psql\"], #{ stdin: file::render(\"files/db.sql\", #{}) });",
            ]
        );
        let templates: BTreeMap<String, String> = templates.into_iter().collect();
        assert_eq!(
            templates["files/etc/a.conf"],
            "{{{port}}} {{{{ x }} {{app_dir}} hallways {{{{{{{user}}}\n"
        );
        assert_eq!(templates["files/etc/secret"], "{{token}} {{{{{{port}} {{user}}\n");
        assert_eq!(templates["files/srv/hallway.js"], "const hallway = '{{app_dir}}';\n");
        assert_eq!(templates["files/db.sql"], "ALTER TABLE x OWNER TO {{user}};\n");
        assert_eq!(templates.len(), 4);
    }

    #[test]
    fn what_only_a_clone_has_is_named_with_its_place() {
        let kept = BTreeMap::from([("files/etc/x".to_owned(), "oifname \"host0\"\nmyhost0\n".to_owned())]);
        let mut actions = actions(&["a(\"10.0.2.101\");", "b(\"host01\");"]);
        actions[0].line = Some(7);
        let found = of_clone(&actions, &kept, "");
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("`files/etc/x`: `host0` in it is the network device of the clone"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("a call of line 7: `10.0.2.101` in it is the address of the clone"),
            "{found:?}"
        );
        assert_eq!(of_clone(&actions, &kept, "host0 10.0.2.101"), [""; 0]);
    }
}
