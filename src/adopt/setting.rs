//! Names, ports and paths of the script's own variables that recur in a plan: they become settings.

use std::fmt::Write as _;

use super::action::Action;
use super::literal;
use super::secret::Secrets;
use super::trace::Trace;

/// A shorter value would be found in any text, in bytes.
const SHORTEST: usize = 3;

/// Values that say nothing about a machine.
const COMMON: [&str; 9] =
    ["c.utf-8", "disable", "enable", "false", "none", "noninteractive", "off", "true", "yes"];

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
            && !value.parse::<u64>().is_ok_and(|number| number < 1000)
            && !literal::RESERVED.contains(&setting.name.as_str())
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

/// Puts the settings into the calls, and gives those that occur in several. One whose value is also in a file of the plan is
/// none: to change the setting would not change the file.
pub(super) fn put(actions: &mut [Action], candidates: &[Setting], kept: &[String]) -> Vec<Setting> {
    let mut used: Vec<Setting> = Vec::new();
    for setting in candidates {
        let is_kept = kept.iter().any(|text| occurs(text, &setting.value).is_some());
        let is_named = used.iter().any(|known| known.value == setting.value);
        let changed: Vec<(usize, (String, usize))> = actions
            .iter()
            .enumerate()
            .filter_map(|(at, action)| Some((at, with(&action.code, setting)?)))
            .collect();
        let count: usize = changed.iter().map(|(_, (_, count))| count).sum();
        if is_kept || is_named || count < 2 {
            continue;
        }
        for (at, (code, _)) in changed {
            actions[at].code = code;
        }
        used.push(setting.clone());
    }
    used
}

/// Where a value is in a text as a whole word.
fn occurs(text: &str, value: &str) -> Option<usize> {
    let is_inner = |letter: char| letter.is_alphanumeric() || letter == '_';
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
        let used = put(&mut actions, &candidates, &["port 8080".to_owned()]);
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
        put(&mut actions, &settings, &[]);
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(
            codes,
            ["a(`${settings::root}/${settings::app}`);", "b(settings::root, `x-${settings::app}`);"]
        );
    }
}
