//! Users and groups: what a machine has, and what brings another one to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::action::{Action, Place};
use super::ageing::Ageing;
use super::literal;
use super::secret::Secrets;
use super::trace::{Command, Trace, name_of};
use crate::machine::clone::root_files::RootFiles;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    /// It counts only where the script names it: another machine may give another.
    number: u32,
    comment: String,
    pub(super) home: String,
    shell: String,
    /// The name of its primary group.
    group: String,
    /// The other groups that it is in.
    groups: BTreeSet<String>,
    /// The hash of its password, if it can be used to log in.
    password: Option<String>,
    ageing: Ageing,
    /// The permission bits of its home, if that is there.
    home_mode: Option<u32>,
    /// Whether its home lacks what a new home begins with.
    has_bare_home: bool,
}

/// Without the hash of its password, which is another one each time.
impl std::fmt::Display for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let password = if self.password.is_some() { "a password" } else { "no password" };
        let kind = if is_system(self.number) { "system, " } else { "" };
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        write!(
            formatter,
            "{kind}home {}, shell {}, comment `{}`, group {}, groups {}, {password}",
            self.home,
            self.shell,
            self.comment,
            self.group,
            groups.join(" ")
        )?;
        if self.ageing == Ageing::default() { Ok(()) } else { write!(formatter, ", {}", self.ageing) }
    }
}

/// The users and groups of a machine. Source: passwd(5), group(5), shadow(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) users: BTreeMap<String, User>,
    /// With their numbers.
    groups: BTreeMap<String, u32>,
    user_names: BTreeMap<u32, String>,
    group_names: BTreeMap<u32, String>,
    /// The users whose services run without a login. Source: loginctl(1), `enable-linger`.
    lingering: BTreeSet<String>,
    /// How long passwords of new users last.
    ageing: Ageing,
}

impl Accounts {
    /// Those of a root directory.
    pub(super) fn of(files: &RootFiles) -> Self {
        let lingering = files.names("/var/lib/systemd/linger").into_iter().collect();
        let accounts =
            Self::read(&files.text("/etc/passwd"), &files.text("/etc/group"), &files.text("/etc/shadow"));
        let ageing = Ageing::of_new(&files.text("/etc/login.defs"));
        let mut accounts = Self { lingering, ageing, ..accounts };
        let model = files.names("/etc/skel");
        for user in accounts.users.values_mut() {
            user.home_mode = files.look(Path::new(&user.home)).ok().flatten().map(|seen| seen.mode);
            let inside = files.names(&user.home);
            user.has_bare_home = user.home_mode.is_some() && model.iter().any(|name| !inside.contains(name));
        }
        accounts
    }

    /// Those of the three databases.
    pub(super) fn read(passwd: &str, group: &str, shadow: &str) -> Self {
        let mut accounts = Self::default();
        let mut members: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for fields in fields(group) {
            let (Some(name), Some(number)) =
                (fields.first(), fields.get(2).and_then(|number| number.parse().ok()))
            else {
                continue;
            };
            // The first of a number is the one that others see.
            accounts.group_names.entry(number).or_insert_with(|| (*name).to_owned());
            accounts.groups.insert((*name).to_owned(), number);
            for member in
                fields.get(3).into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty())
            {
                members.entry(member).or_default().insert((*name).to_owned());
            }
        }
        let secret: BTreeMap<&str, Vec<&str>> =
            fields(shadow).filter_map(|fields| Some((*fields.first()?, fields))).collect();
        for fields in fields(passwd) {
            let [name, _, number, group, comment, home, shell] = fields[..] else { continue };
            let (Ok(number), Ok(group)) = (number.parse(), group.parse::<u32>()) else { continue };
            accounts.user_names.entry(number).or_insert_with(|| name.to_owned());
            let secret = secret.get(name).map(Vec::as_slice).unwrap_or_default();
            let password = secret.get(1).filter(|hash| !hash.starts_with(['!', '*']) && !hash.is_empty());
            let user = User {
                number,
                comment: comment.trim_end_matches(',').to_owned(),
                home: home.to_owned(),
                shell: shell.to_owned(),
                group: accounts.group_name(group),
                groups: members.get(name).cloned().unwrap_or_default(),
                password: password.map(|hash| (*hash).to_owned()),
                ageing: Ageing::of(secret),
                home_mode: None,
                has_bare_home: false,
            };
            accounts.users.insert(name.to_owned(), user);
        }
        accounts
    }

    /// The name of a user, or its number.
    pub(super) fn user_name(&self, number: u32) -> String {
        self.user_names.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }

    /// The name of a group, or its number.
    pub(super) fn group_name(&self, number: u32) -> String {
        self.group_names.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }

    /// Whether there is a group of this name.
    pub(super) fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// The name of a user's primary group.
    pub(super) fn primary_group(&self, user: &str) -> Option<&str> {
        self.users.get(user).map(|user| user.group.as_str())
    }

    /// Whether a home is there that was made with its user.
    pub(super) fn has_made_home(&self, name: &str, trace: &Trace) -> bool {
        let Some(user) = self.users.get(name).filter(|user| user.home_mode.is_some()) else { return false };
        let command = trace.naming(MAKERS, name);
        let is_usual = || !is_system(user.number) || !user.has_bare_home;
        command.map_or_else(is_usual, |command| {
            making(command).map_or_else(is_usual, |words| makes_home(&words))
        })
    }

    /// The new users and groups, and those with another number than before, whose numbers the script names: other files
    /// and other machines may depend on them.
    pub(super) fn numbered(&self, before: &Self, trace: &Trace) -> BTreeSet<String> {
        let is_named = |name: &String, number: u32, before: Option<u32>| {
            // A number in a command alone is what the machine gave, such as that of `/run/user/1000`.
            let text = number.to_string();
            let is_given =
                trace.has_word(&text) || trace.naming(&[MAKERS, GROUP_MAKERS].concat(), &text).is_some();
            before != Some(number) && is_given && trace.names_together(name, &text)
        };
        let old_user = |name: &String| before.users.get(name).map(|user| user.number);
        let users = self.users.iter().filter(|(name, user)| is_named(name, user.number, old_user(name)));
        let old_group = |name: &String| before.groups.get(name).copied();
        let groups = self.groups.iter().filter(|(name, number)| is_named(name, **number, old_group(name)));
        users.map(|(name, _)| user_line(name)).chain(groups.map(|(name, _)| group_line(name))).collect()
    }

    /// Each user and group, with all that is known of it, as one line each; with the numbers of these.
    pub(super) fn lines(&self, numbered: &BTreeSet<String>) -> BTreeMap<String, String> {
        let with_number = |line: String, number: u32, text: String| {
            let is_numbered = numbered.contains(&line);
            (line, if is_numbered { format!("number {number}, {text}") } else { text })
        };
        let users =
            self.users.iter().map(|(name, user)| with_number(user_line(name), user.number, user.to_string()));
        let kind = |number: u32| if is_system(number) { "of the system" } else { "ordinary" }.to_owned();
        let groups =
            self.groups.iter().map(|(name, number)| with_number(group_line(name), *number, kind(*number)));
        let lingering = self.lingering.iter().map(|name| (format!("lingering {name}"), String::new()));
        users.chain(groups).chain(lingering).collect()
    }

    /// What brings a machine with these accounts to those, and what cannot be expressed.
    pub(super) fn towards(
        &self,
        desired: &Self,
        trace: &Trace,
        secrets: &Secrets,
    ) -> (Vec<Action>, Vec<String>) {
        let mut actions = Vec::new();
        let mut unexpressed = Vec::new();
        let new_users: BTreeMap<_, _> =
            desired.users.iter().filter(|(name, _)| !self.users.contains_key(*name)).collect();
        let numbered = desired.numbered(self, trace);
        // A command that makes a user does not make a group that the script made before, or one with another number.
        let own_group = |name: &String, number: u32| {
            let is_its = |user: &&User| {
                user.group == *name && (user.number == number || !numbered.contains(&group_line(name)))
            };
            new_users.get(name).is_some_and(is_its) && trace.naming(GROUP_MAKERS, name).is_none()
        };
        for (name, number) in desired.groups.iter().filter(|(name, _)| !self.groups.contains_key(*name)) {
            if own_group(name, *number) {
                continue;
            }
            let made = trace.naming(GROUP_MAKERS, name);
            let mut options = Vec::new();
            if numbered.contains(&group_line(name)) {
                options.push(("gid", number.to_string()));
            } else if is_system(*number) {
                options.push(("system", "true".to_owned()));
            }
            let code = format!("group::ensure({}{});", literal::string(name), literal::options(&options));
            // Users of before it belong to it from the beginning.
            let is_in = |user: &User| user.group == *name || user.groups.contains(name);
            let first = desired.users.iter().filter(|(_, user)| is_in(user));
            let first =
                first.filter_map(|(user, _)| trace.naming(MAKERS, user)).map(|command| command.when).min();
            let mut action = Action::new(Place::Accounts, code).by(made);
            action.when = action.when.map(|when| first.map_or(when, |first| when.min(first - 1)));
            actions.push(action);
        }
        for (name, user) in &desired.users {
            let Some(before) = self.users.get(name) else {
                if user.password.is_some() && secrets.of_login(name).is_none() {
                    unexpressed.push(format!("user {name}: it has a password, which the plan does not set"));
                }
                let is_limited = user.ageing != Ageing::default() && user.ageing != desired.ageing;
                let limits = is_limited.then(|| desired.ageing.towards(&user.ageing, name, true));
                if limits == Some(None) {
                    unexpressed.push(format!("user {name}: {}, which the plan does not set", user.ageing));
                }
                let has_home = desired.has_made_home(name, trace);
                let has_bare_home = has_home && user.has_bare_home;
                let is_numbered = numbered.contains(&user_line(name));
                if has_bare_home || desired.user_name(user.number) != *name {
                    if has_bare_home && trace.naming(MAKERS, name).is_none() {
                        let home = &user.home;
                        unexpressed.push(format!(
                            "user {name}: its home `{home}` was made without the files of `/etc/skel`"
                        ));
                    }
                    actions.push(made_by_command(name, user, (has_home, is_numbered), trace, secrets));
                } else {
                    actions.push(new_user(name, user, (has_home, is_numbered), (trace, secrets)));
                }
                actions.extend(limits.flatten().map(|code| ageing(code, name, trace)));
                continue;
            };
            let (action, others) =
                before.towards(user, name, numbered.contains(&user_line(name)), (trace, secrets));
            actions.extend(action);
            unexpressed.extend(others);
        }
        for (name, number) in &desired.groups {
            if let Some(before) = self.groups.get(name).filter(|_| numbered.contains(&group_line(name))) {
                unexpressed.push(format!("group {name}: its number changed from {before} to {number}"));
            }
        }
        for name in desired.lingering.difference(&self.lingering) {
            let code = format!("user::linger({});", literal::string(name));
            actions.push(Action::new(Place::Accounts, code).by(trace.naming(&["loginctl"], name)));
        }
        let gone = |kind: &str, name: &String| format!("{kind} {name}: it was removed");
        unexpressed.extend(
            self.users
                .keys()
                .filter(|name| !desired.users.contains_key(*name))
                .map(|name| gone("user", name)),
        );
        unexpressed.extend(
            self.groups
                .keys()
                .filter(|name| !desired.groups.contains_key(*name))
                .map(|name| gone("group", name)),
        );
        (actions, unexpressed)
    }
}

impl User {
    /// What makes a user who is there the desired one, and what cannot be expressed.
    fn towards(
        &self,
        desired: &Self,
        name: &str,
        is_numbered: bool,
        (trace, secrets): (&Trace, &Secrets),
    ) -> (Vec<Action>, Vec<String>) {
        let (mut options, mut actions, mut unexpressed) = (Vec::new(), Vec::new(), Vec::new());
        let groups: Vec<&String> = desired.groups.difference(&self.groups).collect();
        if !groups.is_empty() {
            options.push(("groups", literal::array(groups)));
        }
        if desired.shell != self.shell {
            options.push(("shell", literal::string(&desired.shell)));
        }
        if desired.comment != self.comment {
            options.push(("comment", literal::string(&desired.comment)));
        }
        let is_known = |hash: &Option<String>| hash.is_some() && secrets.of_login(name).is_some();
        let has_new_password = desired.password != self.password && is_known(&desired.password);
        if has_new_password {
            options.extend(secrets.of_login(name).map(|secret| ("password", secret.to_owned())));
        }
        if !options.is_empty() {
            let code = format!("user::ensure({}{});", literal::string(name), literal::options(&options));
            let programs = ["usermod", "adduser", "gpasswd", "chsh", "chfn", "echo", "printf"];
            let mut action = Action::new(Place::Accounts, code).by(trace.naming(&programs, name));
            action.secrets.extend(secrets.of_login(name).filter(|_| has_new_password).map(str::to_owned));
            actions.push(action);
        }
        if is_numbered {
            let (old, new) = (self.number, desired.number);
            unexpressed.push(format!("user {name}: its number changed from {old} to {new}"));
        }
        if desired.ageing != self.ageing {
            match self.ageing.towards(&desired.ageing, name, false) {
                Some(code) => actions.push(ageing(code, name, trace)),
                None => unexpressed
                    .push(format!("user {name}: how long its password and the account last changed")),
            }
        }
        let rest = User {
            number: desired.number,
            comment: desired.comment.clone(),
            ageing: desired.ageing.clone(),
            password: if has_new_password { desired.password.clone() } else { self.password.clone() },
            groups: self.groups.union(&desired.groups).cloned().collect(),
            shell: desired.shell.clone(),
            home_mode: desired.home_mode,
            has_bare_home: desired.has_bare_home,
            ..self.clone()
        };
        if rest != *desired {
            unexpressed.push(format!(
                "user {name}: its home, password or primary group changed, or it left a group"
            ));
        }
        (actions, unexpressed)
    }
}

/// The call that limits how long an account lasts.
fn ageing(code: String, name: &str, trace: &Trace) -> Action {
    let command =
        trace.naming(&["chage"], name).or_else(|| trace.naming(&["passwd", "usermod", "useradd"], name));
    Action::new(Place::Accounts, code).by(command)
}

/// The name of the line of a user.
fn user_line(name: &str) -> String {
    format!("user {name}")
}

/// The name of the line of a group.
fn group_line(name: &str) -> String {
    format!("group {name}")
}

/// The programs that make a user.
const MAKERS: &[&str] = &["useradd", "adduser"];

/// The programs that make a group.
const GROUP_MAKERS: &[&str] = &["groupadd", "addgroup"];

/// The command that made a user or group of this name.
pub(super) fn maker<'trace>(name: &str, is_user: bool, trace: &'trace Trace) -> Option<&'trace Command> {
    trace.naming(if is_user { MAKERS } else { GROUP_MAKERS }, name)
}

/// The arguments of a command that makes a user, from the program on.
fn making(command: &Command) -> Option<Vec<String>> {
    let words = command.words();
    let at = words.iter().position(|word| MAKERS.contains(&name_of(word)))?;
    words[..at].iter().all(|word| word == "sudo").then(|| words[at..].to_vec())
}

/// Whether a command that makes a user makes its home, too. Source: adduser(8); useradd(8), with Debian's login.defs(5).
fn makes_home(words: &[String]) -> bool {
    if words.first().is_some_and(|program| program.ends_with("adduser")) {
        return !words.iter().any(|word| word == "--no-create-home");
    }
    // Letters can be together; what comes after one of these is its argument.
    let has_letter = |word: &String| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        letters.is_some_and(|letters| {
            letters.chars().take_while(|each| !"bcdefgGkKpPRsuZ".contains(*each)).any(|each| each == 'm')
        })
    };
    words.iter().any(|word| word == "--create-home" || has_letter(word))
}

/// A new user that the command of the script makes again, captured, or one that does the same; the groups that it joined
/// later are added.
fn made_by_command(
    name: &str,
    user: &User,
    (has_home, is_numbered): (bool, bool),
    trace: &Trace,
    secrets: &Secrets,
) -> Action {
    let command = trace.naming(MAKERS, name);
    let of_script = command.filter(|command| secrets.within(&command.text).is_empty()).and_then(making);
    let words = of_script.unwrap_or_else(|| {
        let number = user.number.to_string();
        let mut words = vec!["useradd", "--home-dir", &user.home, "--shell", &user.shell];
        if is_numbered {
            words.extend(["--non-unique", "--uid", &number]);
        }
        if is_system(user.number) {
            words.push("--system");
        }
        if has_home {
            words.push("--create-home");
        } else if !is_system(user.number) {
            words.push("--no-create-home");
        }
        if !user.comment.is_empty() {
            words.extend(["--comment", &user.comment]);
        }
        if user.group != name || trace.naming(GROUP_MAKERS, name).is_some() {
            words.extend(["--gid", &user.group]);
        }
        words.push(name);
        words.into_iter().map(str::to_owned).collect()
    });
    let quoted = literal::string(name);
    let mut code = format!(
        "cmd::run({}, #{{ unless: || user::exists({quoted}), capture: #{{}} }});",
        literal::array(words)
    );
    let mut options = Vec::new();
    if trace.naming(&["chsh", "usermod"], name).is_some() {
        options.push(("shell", literal::string(&user.shell)));
    }
    if let Some(mode) = user.home_mode.filter(|_| has_home) {
        options.push(("home_mode", literal::string(&format!("{mode:04o}"))));
    }
    if !user.groups.is_empty() {
        options.push(("groups", literal::array(&user.groups)));
    }
    let password = password(name, user, secrets);
    options.extend(password.iter().map(|secret| ("password", secret.clone())));
    if !options.is_empty() {
        let _ = write!(code, "\nuser::ensure({quoted}{});", literal::options(&options));
    }
    let action = Action::new(Place::Accounts, code).by(command);
    Action { secrets: password.into_iter().collect(), ..action }
}

/// The secret that is the password of a user, if that is known.
fn password(name: &str, user: &User, secrets: &Secrets) -> Option<String> {
    secrets.of_login(name).filter(|_| user.password.is_some()).map(str::to_owned)
}

fn new_user(
    name: &str,
    user: &User,
    (has_home, is_numbered): (bool, bool),
    (trace, secrets): (&Trace, &Secrets),
) -> Action {
    let mut options = Vec::new();
    if is_numbered {
        options.push(("uid", user.number.to_string()));
    }
    let is_system = is_system(user.number);
    if is_system {
        options.push(("system", "true".to_owned()));
    }
    // Without these options a user of the system has no home, and another one has it there.
    let is_usual = user.home == format!("/home/{name}");
    if !is_usual || has_home && is_system {
        options.push(("home", literal::string(&user.home)));
    }
    if !(has_home || is_usual && is_system) {
        options.push(("make_home", "false".to_owned()));
    }
    if !user.comment.is_empty() {
        options.push(("comment", literal::string(&user.comment)));
    }
    options.push(("shell", literal::string(&user.shell)));
    if let Some(mode) = user.home_mode.filter(|_| has_home) {
        options.push(("home_mode", literal::string(&format!("{mode:04o}"))));
    }
    if user.group != name {
        options.push(("group", literal::string(&user.group)));
    }
    if !user.groups.is_empty() {
        options.push(("groups", literal::array(&user.groups)));
    }
    let password = password(name, user, secrets);
    options.extend(password.iter().map(|secret| ("password", secret.clone())));
    let code = format!("user::ensure({}{});", literal::string(name), literal::options(&options));
    let action = Action::new(Place::Accounts, code).by(trace.naming(MAKERS, name));
    Action { secrets: password.into_iter().collect(), ..action }
}

/// Source: login.defs(5), `UID_MIN`, as Debian has it.
fn is_system(number: u32) -> bool {
    number < 1000
}

fn fields(database: &str) -> impl Iterator<Item = Vec<&str>> {
    database.lines().map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n";
    const GROUP: &str = "root:x:0:\nvideo:x:44:\n";
    const SHADOW: &str = "root:*:1:::::\n";

    fn code(actions: &[Action]) -> Vec<&str> {
        actions.iter().map(|action| action.code.as_str()).collect()
    }

    #[test]
    fn a_new_user_with_its_groups_is_one_call_and_its_own_group_none() {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let mut after = Accounts::read(
            &format!(
                "{PASSWD}kim:x:1000:1000::/home/kim:/bin/bash\ndaemon1:x:999:999::/opt/d:/bin/false\nworker:x:998:44::/home/worker:/bin/false\n"
            ),
            "root:x:0:\nvideo:x:44:kim\nkim:x:1000:\ndaemon1:x:999:\nsshusers:x:1001:kim\n",
            &format!("{SHADOW}kim:!:1:\n"),
        );
        after.users.get_mut("kim").unwrap().home_mode = Some(0o755);
        let (actions, unexpressed) = base.towards(&after, &Trace::default(), &Secrets::default());
        assert_eq!(
            code(&actions),
            [
                "group::ensure(\"sshusers\");",
                "user::ensure(\"daemon1\", #{ system: true, home: \"/opt/d\", make_home: false, shell: \"/bin/false\" });",
                "user::ensure(\"kim\", #{ shell: \"/bin/bash\", home_mode: \"0755\", groups: [\"sshusers\", \"video\"] });",
                "user::ensure(\"worker\", #{ system: true, shell: \"/bin/false\", group: \"video\" });",
            ]
        );
        assert_eq!(unexpressed, [""; 0]);
    }

    #[test]
    fn a_user_that_no_call_can_make_is_made_by_the_command_of_the_script() {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let mut after = Accounts::read(
            &format!("{PASSWD}kim:x:998:44:Kim:/srv/kim:/bin/sh\n"),
            "root:x:0:\nvideo:x:44:\naudio:x:29:kim\n",
            SHADOW,
        );
        // Without the files of `/etc/skel`.
        let user = after.users.get_mut("kim").unwrap();
        (user.home_mode, user.has_bare_home) = (Some(0o755), true);
        let made = "adduser --system --ingroup video --home /srv/kim --gecos Kim kim";
        let trace = Trace::read(&format!("\u{1}1.0 0 3 /\u{2}sudo {made}\n"), "");
        let base = Accounts { groups: after.groups.clone(), ..base };
        let (actions, unexpressed) = base.towards(&after, &trace, &Secrets::default());
        assert_eq!(
            code(&actions),
            [format!(
                "cmd::run({}, #{{ unless: || user::exists(\"kim\"), capture: #{{}} }});\n\
                 user::ensure(\"kim\", #{{ home_mode: \"0755\", groups: [\"audio\"] }});",
                literal::array(made.split(' '))
            )]
        );
        assert_eq!(unexpressed, [""; 0]);
    }

    #[test]
    fn a_comment_and_a_home_that_is_not_made_are_said_to_the_call() {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let after = Accounts::read(
            &format!("{}kim:x:1000:44:Kim K,,,:/home/kim:/bin/sh\n", PASSWD.replace(":root:", ":Admin:")),
            GROUP,
            SHADOW,
        );
        let (actions, unexpressed) = base.towards(&after, &Trace::default(), &Secrets::default());
        assert_eq!(
            code(&actions),
            [
                "user::ensure(\"kim\", #{ make_home: false, comment: \"Kim K\", shell: \"/bin/sh\", group: \"video\" });",
                "user::ensure(\"root\", #{ comment: \"Admin\" });",
            ]
        );
        assert_eq!(unexpressed, [""; 0]);
    }

    #[test]
    fn numbers_that_the_script_names_are_kept() {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let passwd = |number: u32, group: u32| {
            format!(
                "{PASSWD}vmail:x:{number}:{number}::/home/vmail:/bin/sh\nmixd:x:777:778::/:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
                 ben:x:1001:{group}::/home/ben:/bin/sh\n"
            )
        };
        let group =
            |number: u32| format!("{GROUP}vmail:x:{number}:\nmixd:x:778:\nann:x:1000:\nben:x:1001:\n");
        let after = Accounts::read(&passwd(5000, 1001), &group(5000), SHADOW);
        let trace = Trace::read(
            "\u{1}1.0 0 1 /\u{2}groupadd -g 5000 vmail\n\u{1}2.0 0 1 /\u{2}useradd -g vmail -u 5000 vmail\n\u{1}3.0 0 1 /\u{2}useradd ann1000\n",
            "u mixd 777:778\n",
        );
        let (actions, unexpressed) = base.towards(&after, &trace, &Secrets::default());
        let calls: Vec<&str> =
            code(&actions).into_iter().map(|code| code.split(", make").next().unwrap()).collect();
        assert_eq!(
            calls,
            [
                "group::ensure(\"mixd\", #{ gid: 778 });",
                "group::ensure(\"vmail\", #{ gid: 5000 });",
                "user::ensure(\"ann\", #{ make_home: false, shell: \"/bin/sh\" });",
                "user::ensure(\"ben\", #{ make_home: false, shell: \"/bin/sh\" });",
                "user::ensure(\"mixd\", #{ uid: 777, system: true, home: \"/\"",
                "user::ensure(\"vmail\", #{ uid: 5000",
            ]
        );
        assert_eq!(unexpressed, [""; 0]);
        // A plan without them does not reproduce the machine.
        let numbered = after.numbered(&base, &trace);
        let plan = Accounts::read(&passwd(1002, 1001), &group(1002), SHADOW);
        let (desired, got) = (after.lines(&numbered), plan.lines(&numbered));
        let differing: Vec<&String> =
            desired.keys().filter(|name| desired.get(*name) != got.get(*name)).collect();
        assert_eq!(differing, ["group vmail", "user vmail"]);
        // One that changed is named.
        let (_, unexpressed) = plan.towards(&after, &trace, &Secrets::default());
        assert_eq!(
            unexpressed,
            [
                "user vmail: its number changed from 1002 to 5000",
                "group vmail: its number changed from 1002 to 5000"
            ]
        );
    }

    #[test]
    fn how_long_a_password_lasts_is_a_call_and_compared() {
        const UNDO: &str = "[[\"chage\", \"--maxdays\", \"99999\", \"ann\"]]";
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let after = |line: &str| {
            let passwd = format!("{PASSWD}ann:x:1000:1000::/home/ann:/bin/sh\n");
            Accounts::read(&passwd, &format!("{GROUP}ann:x:1000:\n"), &format!("{SHADOW}{line}\n"))
        };
        let (limited, plain) = (after("ann:!:20000:0:90:7:::"), after("ann:!:20100:0:99999:7:::"));
        for base in [&base, &plain] {
            let (actions, unexpressed) = base.towards(&limited, &Trace::default(), &Secrets::default());
            let call = &actions.last().unwrap().code;
            assert!(call.starts_with("cmd::run([\"chage\", \"--maxdays\", \"90\", \"ann\"], "), "{call}");
            assert!(call.ends_with(&format!("undo: {UNDO} }});")), "{call}");
            assert_eq!(unexpressed, [""; 0]);
        }
        assert_ne!(limited.lines(&BTreeSet::new()), plain.lines(&BTreeSet::new()));
        let (_, unexpressed) = limited.towards(&plain, &Trace::default(), &Secrets::default());
        assert_eq!(unexpressed, ["user ann: how long its password and the account last changed"]);
    }

    #[test]
    fn the_first_user_of_a_number_owns_its_files_and_another_one_is_made_by_its_command() {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let after = Accounts::read(&format!("{PASSWD}toor:x:0:0::/root:/bin/bash\n"), GROUP, SHADOW);
        assert_eq!(after.user_name(0), "root");
        let trace =
            Trace::read("\u{1}1.0 0 1 /\u{2}useradd -o -u 0 -g 0 -M -d /root -s /bin/bash toor\n", "");
        let (actions, _) = base.towards(&after, &trace, &Secrets::default());
        assert!(code(&actions)[0].starts_with("cmd::run([\"useradd\", \"-o\", "), "{actions:?}");
    }

    #[test]
    fn a_group_that_the_script_made_comes_before_its_user_and_a_home_that_it_did_not_make_is_none_of_the_users()
     {
        let base = Accounts::read(PASSWD, GROUP, SHADOW);
        let mut after = Accounts::read(
            &format!("{PASSWD}metrics:x:998:998::/opt/metrics:/usr/sbin/nologin\n"),
            "root:x:0:\nvideo:x:44:\nmetrics:x:998:\n",
            SHADOW,
        );
        // The script made it later, as a directory.
        let user = after.users.get_mut("metrics").unwrap();
        (user.home_mode, user.has_bare_home) = (Some(0o755), true);
        let trace = Trace::read(
            "\u{1}1.0 0 1 /\u{2}groupadd --system metrics\n\u{1}2.0 0 2 /\u{2}useradd --system -g metrics -d /opt/metrics metrics\n",
            "",
        );
        let (actions, unexpressed) = base.towards(&after, &trace, &Secrets::default());
        assert_eq!(
            code(&actions),
            [
                "group::ensure(\"metrics\", #{ system: true });",
                "user::ensure(\"metrics\", #{ system: true, home: \"/opt/metrics\", make_home: false, shell: \"/usr/sbin/nologin\" });",
            ]
        );
        assert!(actions[0].when < actions[1].when);
        assert_eq!(unexpressed, [""; 0]);
    }

    #[test]
    fn a_home_is_made_if_the_command_says_so() {
        let makes = |text: &str| makes_home(&shell_words::split(text).unwrap());
        for text in ["useradd -m kim", "useradd -rmd /opt/x kim", "useradd --create-home kim", "adduser kim"]
        {
            assert!(makes(text), "{text}");
        }
        for text in
            ["useradd kim", "useradd -gadm kim", "useradd -r -d /m kim", "adduser --no-create-home kim"]
        {
            assert!(!makes(text), "{text}");
        }
    }

    #[test]
    fn what_a_user_gained_is_added_and_what_it_lost_is_named() {
        let base = Accounts::read(PASSWD, "root:x:0:\nvideo:x:44:root\naudio:x:29:\n", SHADOW);
        let after = Accounts::read(
            &PASSWD.replace("/bin/bash", "/bin/sh"),
            "root:x:0:\nvideo:x:44:\naudio:x:29:root\n",
            SHADOW,
        );
        let (actions, unexpressed) = base.towards(&after, &Trace::default(), &Secrets::default());
        assert_eq!(code(&actions), ["user::ensure(\"root\", #{ groups: [\"audio\"], shell: \"/bin/sh\" });"]);
        assert_eq!(unexpressed.len(), 1);
    }

    #[test]
    fn a_locked_password_is_none_and_numbers_do_not_count() {
        let one = Accounts::read("kim:x:1000:1000::/home/kim:/bin/sh\n", "kim:x:1000:\n", "kim:!$6$x:1:\n");
        let other = Accounts::read("kim:x:1007:1009::/home/kim:/bin/sh\n", "kim:x:1009:\n", "kim:*:2:\n");
        assert_eq!(one.lines(&BTreeSet::new()), other.lines(&BTreeSet::new()));
        assert_eq!((one.user_name(1000), one.group_name(7)), ("kim".to_owned(), "7".to_owned()));
    }
}
