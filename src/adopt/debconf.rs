//! The answers to the questions of packages that a machine remembers. Source: debconf-devel(7), `/var/cache/debconf`.

use std::collections::BTreeMap;

use super::action::{Action, Place};
use super::literal;
use super::package::paragraphs;
use super::trace::Trace;
use crate::machine::clone::root_files::RootFiles;

/// An answer, the package whose question it is, and the type of that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    package: String,
    kind: String,
    value: String,
}

/// The answers by the names of their questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers(BTreeMap<String, Answer>);

impl Answers {
    /// Those of a root directory. Passwords are in a file of their own, and cleared when they were used.
    pub(super) fn of(files: &RootFiles) -> Self {
        Self::read(
            &files.text("/var/cache/debconf/config.dat"),
            &files.text("/var/cache/debconf/templates.dat"),
        )
    }

    fn read(config: &str, templates: &str) -> Self {
        let kinds: BTreeMap<&str, &str> = paragraphs(templates)
            .filter_map(|fields| Some((*fields.get("Name")?, *fields.get("Type")?)))
            .collect();
        let answer = |fields: BTreeMap<&str, &str>| {
            let name = *fields.get("Name")?;
            let template = fields.get("Template").copied().unwrap_or(name);
            let answer = Answer {
                package: fields.get("Owners")?.split(',').next()?.trim().to_owned(),
                kind: (*kinds.get(template)?).to_owned(),
                value: (*fields.get("Value")?).to_owned(),
            };
            let is_asked = !["error", "note", "password", "text", "title"].contains(&answer.kind.as_str());
            is_asked.then(|| (name.to_owned(), answer))
        };
        Self(paragraphs(config).filter_map(answer).collect())
    }

    /// Each answer as a line.
    pub(super) fn lines(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, answer)| (format!("answer {name}"), answer.value.clone()))
    }

    /// What gives the answers that this machine does not give by itself.
    pub(super) fn towards(&self, desired: &Self, trace: &Trace) -> Vec<Action> {
        let differs = desired
            .0
            .iter()
            .filter(|(name, answer)| self.0.get(*name).map(|here| &here.value) != Some(&answer.value));
        differs
            .map(|(name, answer)| {
                let words = [&answer.package, name, &answer.kind, &answer.value];
                let code = format!("pkg::preseed({});", words.map(|word| literal::string(word)).join(", "));
                let command = trace.commands.iter().find(|command| command.text.contains(name.as_str()));
                Action::new(Place::Packages, code).by(command)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_the_packages_do_not_give_is_given_before() {
        const TEMPLATES: &str = "Name: x/on\nType: boolean\n\nName: x/pw\nType: password\n";
        let config = |value: &str| {
            format!(
                "Name: x/on\nTemplate: x/on\nValue: {value}\nOwners: x, y\nFlags: seen\n\nName: x/pw\nTemplate: x/pw\nValue: a\nOwners: x\n"
            )
        };
        let (from, to) =
            (Answers::read(&config("false"), TEMPLATES), Answers::read(&config("true"), TEMPLATES));
        let actions = from.towards(&to, &Trace::default());
        let codes: Vec<&str> = actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(codes, ["pkg::preseed(\"x\", \"x/on\", \"boolean\", \"true\");"]);
        assert!(to.towards(&to, &Trace::default()).is_empty());
    }
}
