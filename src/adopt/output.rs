//! The directory of a plan: its steps, its settings and the files that it installs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::action::{Action, Place};
use super::literal;
use super::restart::{Restart, unit_at};
use super::secret::Secrets;
use super::setting::{self, Setting};
use super::trace::Section;
use crate::exit_code::ExitCode;
use crate::failure::Failure;

/// A plan's directory, and what was put into it.
pub(super) struct Output {
    directory: PathBuf,
    steps: Vec<PathBuf>,
    /// The texts of the files that it installs, by their names for scripts.
    kept: BTreeMap<String, String>,
    /// Those that hold settings now.
    templates: BTreeSet<String>,
    /// The ids of the steps.
    pub(super) ids: Vec<String>,
}

/// What a plan is written from.
pub(super) struct Written<'plan> {
    /// The file name of the script.
    pub(super) script: &'plan str,
    pub(super) name: &'plan str,
    pub(super) actions: Vec<Action>,
    pub(super) sections: &'plan [Section],
    /// Which units the script let read their files again, and when.
    pub(super) restarts: &'plan [Restart],
    pub(super) secrets: &'plan Secrets,
    /// What may be its settings.
    pub(super) settings: &'plan [Setting],
}

struct Step {
    title: String,
    /// The section of the script that it is, if it is one.
    section: Option<usize>,
    actions: Vec<Action>,
}

impl Output {
    /// A new directory, or an empty one.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        // What a script wrote may be for no one else to read.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot create `{}`", directory.display()))?;
        let directory = std::fs::canonicalize(directory)
            .with_context(|| format!("cannot find `{}`", directory.display()))?;
        let mut inside = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read the directory `{}`", directory.display()))?;
        if inside.next().is_some() {
            let message =
                format!("cannot write the plan to `{}`: the directory is not empty", directory.display());
            bail!(Failure::new(message).exit(ExitCode::USAGE).hint("name another one with `--output DIR`"));
        }
        Ok(Self {
            directory,
            steps: Vec::new(),
            kept: BTreeMap::new(),
            templates: BTreeSet::new(),
            ids: Vec::new(),
        })
    }

    /// The plan's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps the content of a file of the machine; its name for scripts.
    pub(super) fn keep(&mut self, path: &Path, bytes: &[u8]) -> Result<String> {
        let name = Path::new("files").join(path.strip_prefix("/").unwrap_or(path));
        self.write(&name, bytes)?;
        let name = name.to_string_lossy().into_owned();
        self.templates.remove(&name);
        match std::str::from_utf8(bytes) {
            Ok(text) => self.kept.insert(name.clone(), text.to_owned()),
            Err(_) => self.kept.remove(&name),
        };
        Ok(name)
    }

    /// The texts of the files that it installs, by their names for scripts.
    pub(super) fn kept(&self) -> &BTreeMap<String, String> {
        &self.kept
    }

    /// Writes a file below the directory.
    pub(super) fn write(&self, name: &Path, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let unwritten = || format!("cannot write `{}`", path.display());
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).with_context(unwritten)?;
        }
        std::fs::write(&path, bytes).with_context(unwritten)
    }

    /// Writes master.rhai, settings.rhai and the steps, in the place of those from before.
    pub(super) fn write_plan(&mut self, written: Written<'_>) -> Result<()> {
        for step in self.steps.drain(..) {
            std::fs::remove_file(&step).with_context(|| format!("cannot remove `{}`", step.display()))?;
        }
        self.ids.clear();
        let (script, name) = (written.script, written.name);
        let mut master =
            format!("//! What `{script}` did, as a plan.\n\nconst REQUIRES = #{{ root: true }};\n\n");
        let mut actions = written.actions;
        let (settings, templates) = setting::put(&mut actions, written.settings, &self.kept);
        for (name, text) in &templates {
            self.write(Path::new(name), text.as_bytes())?;
        }
        let templates: BTreeSet<String> = templates.into_iter().map(|(name, _)| name).collect();
        for name in self.templates.difference(&templates) {
            self.write(Path::new(name), self.kept.get(name).map(String::as_bytes).unwrap_or_default())?;
        }
        self.templates = templates;
        let steps = steps(actions, written.sections);
        for (number, step) in steps.iter().enumerate() {
            let id = format!("{:02}", number + 1);
            let file = format!("{id}_{}.rhai", slug(&step.title));
            let _ = writeln!(
                master,
                "step::run({}, {}, {});",
                literal::string(&id),
                literal::string(&step.title),
                literal::string(&file)
            );
            let triggers = triggers(&steps, number, written.sections, written.restarts);
            self.write(Path::new(&file), text(step, script, &triggers, written.secrets).as_bytes())?;
            self.steps.push(self.directory.join(file));
            self.ids.push(id);
        }
        self.write(Path::new("master.rhai"), master.as_bytes())?;
        self.write(Path::new("settings.rhai"), setting::text(name, &settings).as_bytes())
    }
}

/// The steps: packages first, then one a section, or one a place if the script has no sections.
fn steps(mut actions: Vec<Action>, sections: &[Section]) -> Vec<Step> {
    parents_first(&mut actions);
    // What is not known to be any command's comes last in its place.
    actions.sort_by(|one, other| {
        let key = |action: &Action| (action.when.is_none(), action.when, action.place);
        key(one).cmp(&key(other)).then_with(|| one.path.cmp(&other.path))
    });
    let mut steps: Vec<(usize, Step)> = Vec::new();
    for action in actions {
        let section = action.line.and_then(|line| section_of(sections, line));
        let (order, title) = match (action.place, section) {
            (Place::Packages, _) => (0, Place::Packages.title().to_owned()),
            (_, Some(section)) => (1 + section, capitalised(&sections[section].title)),
            (place, None) if sections.is_empty() || action.line.is_none() => {
                (1 + sections.len() + place as usize, place.title().to_owned())
            }
            // Above the first section.
            (_, None) => (1, capitalised(&sections[0].title)),
        };
        match steps.iter_mut().find(|(known, _)| *known == order) {
            Some((_, step)) => step.actions.push(action),
            None => steps.push((order, Step { title, section, actions: vec![action] })),
        }
    }
    steps.sort_by_key(|(order, _)| *order);
    let mut named: Vec<Step> = Vec::new();
    for (_, mut step) in steps {
        match named.last_mut() {
            // The script says of its packages what the plan does.
            Some(last) if last.title == step.title => {
                last.actions.append(&mut step.actions);
                last.section = last.section.or(step.section);
            }
            _ => named.push(step),
        }
    }
    for at in 1..named.len() {
        while named[..at].iter().any(|known| known.title == named[at].title) {
            named[at].title.push_str(", continued");
        }
    }
    named
}

/// What is in a directory is made after it, though the script wrote to the directory last, moved it there, or made both
/// in one instant. The order is that of the lines' sections, and in a section that of the times.
pub(super) fn parents_first(actions: &mut [Action]) {
    let mut first: BTreeMap<PathBuf, (Option<i128>, Option<usize>)> = BTreeMap::new();
    for action in actions.iter() {
        let Some(path) = &action.path else { continue };
        for above in path.ancestors().skip(1) {
            let (when, line) = first.entry(above.to_owned()).or_default();
            *when = earlier(*when, action.when);
            *line = earlier(*line, action.line);
        }
    }
    for action in actions {
        if let Some((when, line)) = action.path.as_ref().and_then(|path| first.get(path)) {
            action.when = earlier(action.when, *when);
            action.line = earlier(action.line, *line);
        }
    }
}

fn earlier<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// The section that a line is in.
fn section_of(sections: &[Section], line: usize) -> Option<usize> {
    sections.iter().rposition(|section| section.line <= line)
}

/// What the files of a step trigger.
#[derive(Default)]
struct Triggers<'plan> {
    /// The restarts of its section.
    own: Vec<&'plan Restart>,
    /// Those of later sections whose units read files of this step, and of none after it.
    later: Vec<&'plan Restart>,
}

/// The restarts that belong to a step. A unit that is known to read files of the plan is restarted for no others.
fn triggers<'plan>(
    steps: &[Step],
    number: usize,
    sections: &[Section],
    restarts: &'plan [Restart],
) -> Triggers<'plan> {
    let mut triggers = Triggers::default();
    for restart in restarts {
        let reads = |step: &Step| {
            step.actions.iter().any(|action| {
                action.is_file
                    && action.when.is_some_and(|when| when < restart.when)
                    && action.target().is_some_and(|path| restart.reads.contains(path))
            })
        };
        let is_own = section_of(sections, restart.line) == steps[number].section;
        let last = steps.iter().rposition(reads);
        if is_own && (last.is_none() || reads(&steps[number])) {
            triggers.own.push(restart);
        } else if !is_own && last == Some(number) {
            triggers.later.push(restart);
        }
    }
    triggers
}

impl Triggers<'_> {
    /// The restarts of the section that an action may be meant by: a file of another unit is not.
    fn own(&self, action: &Action) -> Vec<&Restart> {
        let unit = action.target().and_then(unit_at);
        let is_meant = |restart: &&&Restart| {
            unit.is_none_or(|unit| restart.units.iter().any(|other| other == unit))
                || action.target().is_some_and(|path| restart.reads.contains(path))
        };
        self.own.iter().filter(is_meant).copied().collect()
    }

    /// The units of later sections that read what an action makes.
    fn later(&self, action: &Action) -> Vec<&String> {
        let reads = |restart: &&&Restart| {
            action.is_file
                && action.when.is_some_and(|when| when < restart.when)
                && action.target().is_some_and(|path| restart.reads.contains(path))
        };
        self.later.iter().filter(reads).flat_map(|restart| &restart.units).collect()
    }
}

/// The script of a step.
fn text(step: &Step, script: &str, triggers: &Triggers<'_>, secrets: &Secrets) -> String {
    let mut text = format!("//! {}.\n\nconst REQUIRES = #{{ root: true }};\n\n", step.title);
    if step.actions.iter().any(|action| action.code.contains("git::checkout(")) {
        text.push_str("import \"std/git\" as git;\n\n");
    }
    let names: BTreeSet<&String> = step.actions.iter().flat_map(|action| &action.secrets).collect();
    for name in &names {
        let _ = writeln!(text, "{}", secrets.declaration(name));
    }
    if !names.is_empty() {
        text.push('\n');
    }
    let mut line = None;
    let mut at = 0;
    while at < step.actions.len() {
        let (count, units) = restarted(&step.actions[at..], triggers);
        let group = &step.actions[at..at + count.max(1)];
        if !units.is_empty() {
            let _ = writeln!(text, "step::on_change(#{{ restart: {} }}, || {{", literal::array(&units));
        }
        let indentation = if units.is_empty() { "" } else { "    " };
        for action in group {
            if action.line.is_some() && action.line != line {
                let _ = writeln!(text, "{indentation}// {script}:{}", action.line.unwrap_or_default());
                line = action.line;
            }
            for code in action.code.lines() {
                let _ = writeln!(text, "{indentation}{code}");
            }
        }
        if !units.is_empty() {
            text.push_str("});\n");
        }
        at += count.max(1);
    }
    text
}

/// How many of these actions, from the first on, come before a restart of units, if they write files; and the units.
fn restarted(actions: &[Action], triggers: &Triggers<'_>) -> (usize, Vec<String>) {
    let Some(action) = actions.first() else { return (1, Vec::new()) };
    let (own, later) = (triggers.own(action), triggers.later(action));
    let is_alike = |other: &&Action| triggers.own(other) == own && triggers.later(other) == later;
    let alike = &actions[..actions.iter().take_while(is_alike).count()];
    let (count, mut units) = restarted_by(alike, &own);
    if later.is_empty() {
        return (count, units);
    }
    let count = if units.is_empty() { alike.iter().take_while(|other| other.is_file).count() } else { count };
    for unit in later {
        if !units.contains(unit) {
            units.push(unit.clone());
        }
    }
    (count, units)
}

/// The same, by the restarts of one section.
fn restarted_by(actions: &[Action], restarts: &[&Restart]) -> (usize, Vec<String>) {
    let Some(first) = actions.first().filter(|action| action.is_file).and_then(|action| action.when) else {
        return (1, Vec::new());
    };
    let Some(restart) = restarts.iter().find(|restart| restart.when > first) else { return (1, Vec::new()) };
    let of_them = restarts.iter().rev().find(|other| other.units == restart.units);
    let last = of_them.map_or(restart.when, |restart| restart.when);
    let is_before = |action: &&Action| action.is_file && action.when.is_some_and(|moment| moment < last);
    // Other units that follow before the next file read the same ones.
    let later = actions.iter().filter(|action| action.is_file).filter_map(|action| action.when);
    let next = later.filter(|when| *when > last).min();
    let together = restarts.iter().filter(|restart| {
        restart.when > first && (restart.when <= last || next.is_none_or(|next| restart.when < next))
    });
    let mut units: Vec<String> = Vec::new();
    for unit in together.flat_map(|restart| &restart.units) {
        if !units.contains(unit) {
            units.push(unit.clone());
        }
    }
    (actions.iter().take_while(is_before).count(), units)
}

fn capitalised(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn slug(title: &str) -> String {
    let plain: String = title
        .to_lowercase()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect();
    let words: Vec<&str> = plain.split('_').filter(|word| !word.is_empty()).take(5).collect();
    if words.is_empty() { "step".to_owned() } else { words.join("_") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(place: Place, when: i128, line: Option<usize>, code: &str) -> Action {
        let is_file = place == Place::Files;
        Action { when: Some(when), line, is_file, ..Action::new(place, code.to_owned()) }
    }

    #[test]
    fn packages_come_first_and_the_rest_by_section() {
        let sections = [
            Section { line: 3, title: "users".to_owned() },
            Section { line: 9, title: "web & TLS".to_owned() },
        ];
        let steps = steps(
            vec![
                action(Place::Files, 9, Some(10), "b();"),
                action(Place::Accounts, 4, Some(4), "a();"),
                action(Place::Packages, 8, Some(9), "p();"),
                Action::new(Place::Files, "z();".to_owned()),
            ],
            &sections,
        );
        let titles: Vec<&str> = steps.iter().map(|step| step.title.as_str()).collect();
        assert_eq!(titles, ["Packages", "Users", "Web & TLS", "Files"]);
        assert_eq!(slug(titles[2]), "web_tls");
    }

    #[test]
    fn no_two_steps_have_one_title() {
        let part = |line, title: &str| Section { line, title: title.to_owned() };
        let sections = [part(1, "packages"), part(3, "files"), part(5, "packages")];
        let actions = vec![
            action(Place::Packages, 1, Some(1), "p();"),
            action(Place::Files, 2, Some(2), "a();"),
            action(Place::Files, 3, Some(4), "b();"),
            action(Place::Files, 4, Some(6), "c();"),
        ];
        let steps = steps(actions, &sections);
        let titles: Vec<&str> = steps.iter().map(|step| step.title.as_str()).collect();
        assert_eq!(titles, ["Packages", "Files", "Packages, continued"]);
        assert_eq!(steps[0].actions.len(), 2);
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it() {
        let at = |path: &str, when, code: &str| Action {
            path: Some(path.into()),
            ..action(Place::Files, when, Some(1), code)
        };
        let made =
            steps(vec![at("/srv/a/b", 5, "b();"), at("/srv/a", 9, "a();"), at("/srv", 5, "s();")], &[]);
        let codes: Vec<&str> = made[0].actions.iter().map(|action| action.code.as_str()).collect();
        assert_eq!(codes, ["s();", "a();", "b();"]);
        let sections =
            [(1, "one"), (8, "two")].map(|(line, title)| Section { line, title: title.to_owned() });
        let named_later = Action { line: Some(9), ..at("/srv", 5, "s();") };
        let made = steps(vec![at("/srv/a", 5, "a();"), named_later], &sections);
        let codes: Vec<&str> =
            made.iter().flat_map(|step| &step.actions).map(|action| action.code.as_str()).collect();
        assert_eq!((made.len(), codes), (1, vec!["s();", "a();"]));
    }

    fn restart(when: i128, line: usize, unit: &str, reads: &[&str]) -> Restart {
        let reads = reads.iter().map(PathBuf::from).collect();
        Restart { when, line, units: vec![unit.to_owned()], reads }
    }

    #[test]
    fn a_restart_of_a_later_section_belongs_to_the_files_that_its_unit_reads() {
        let sections =
            [(1, "web"), (8, "backup")].map(|(line, title)| Section { line, title: title.to_owned() });
        let at = |path: &str, when, line, code: &str| Action {
            path: Some(path.into()),
            ..action(Place::Files, when, Some(line), code)
        };
        let of_unit = "/etc/systemd/system/nginx.service.d/x.conf";
        let steps = steps(
            vec![
                at("/etc/hosts", 1, 2, "hosts();"),
                at("/etc/nginx/a", 2, 3, "site();"),
                at("/var/x.dump", 3, 9, "dump();"),
                at(of_unit, 4, 9, "limits();"),
            ],
            &sections,
        );
        let restarts =
            [restart(10, 9, "nginx.service", &["/etc/nginx/a"]), restart(11, 9, "app.service", &[])];
        let texts: Vec<String> = (0..steps.len())
            .map(|number| {
                let triggers = triggers(&steps, number, &sections, &restarts);
                text(&steps[number], "x.sh", &triggers, &Secrets::default())
            })
            .collect();
        assert!(
            texts[0].ends_with(
                "// x.sh:2\nhosts();\nstep::on_change(#{ restart: [\"nginx.service\"] }, || {\n    // x.sh:3\n    site();\n});\n"
            ),
            "{}",
            texts[0]
        );
        assert!(
            texts[1].ends_with(
                "step::on_change(#{ restart: [\"app.service\"] }, || {\n    // x.sh:9\n    dump();\n});\nlimits();\n"
            ),
            "{}",
            texts[1]
        );
    }

    #[test]
    fn files_before_a_restart_trigger_it() {
        let step = Step {
            title: "Web".to_owned(),
            section: None,
            actions: vec![
                action(Place::Files, 1, Some(4), "a();"),
                action(Place::Files, 2, Some(4), "b();"),
                action(Place::Units, 3, Some(6), "u();"),
                action(Place::Files, 9, Some(7), "c();"),
            ],
        };
        let at = |when, unit: &str| restart(when, 5, unit, &[]);
        let (restart, other, later) = (at(5, "nginx.service"), at(6, "php.service"), at(10, "late.service"));
        assert_eq!(
            text(
                &step,
                "x.sh",
                &Triggers { own: vec![&restart, &other, &later], later: Vec::new() },
                &Secrets::default()
            ),
            "//! Web.\n\nconst REQUIRES = #{ root: true };\n\n\
             step::on_change(#{ restart: [\"nginx.service\", \"php.service\"] }, || {\n    // x.sh:4\n    a();\n    b();\n});\n\
             // x.sh:6\nu();\nstep::on_change(#{ restart: [\"late.service\"] }, || {\n    // x.sh:7\n    c();\n});\n"
        );
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mine"), "").unwrap();
        assert!(Output::create(directory.path()).is_err());
    }
}
