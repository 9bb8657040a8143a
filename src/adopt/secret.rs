//! Secrets: what a script must not have in clear, and a plan asks for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::literal;
use super::origin::Origin;
use super::suspect::{self, is_secret_name};
use super::trace::Trace;

/// A shorter value is no secret, in characters: it would be found in any text.
const SHORTEST: usize = 6;

/// A value, and what the plan calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) value: String,
    /// The question for it.
    prompt: String,
    /// The script makes it up, so that any other value does.
    is_generated: bool,
    /// It is in what the script was given.
    is_given: bool,
}

/// The secrets of a script, the longest value first: a shorter one may be a part of it. The second are the passwords of logins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Secrets(Vec<Secret>, BTreeMap<String, String>);

impl Secrets {
    /// Those that the script was given or assigned, and those of SQL statements and URLs in its commands.
    pub(super) fn of(origin: &Origin<'_>, environment: &[(OsString, OsString)]) -> Self {
        let mut secrets = Self::default();
        for (name, value) in environment {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            if is_secret_name(&name) {
                secrets.add(origin, (&name, None), &value);
            }
        }
        for command in &origin.trace.commands {
            for word in command.words() {
                if let Some((name, value)) = word.split_once('=')
                    && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
                    && is_secret_name(name)
                {
                    secrets.add(origin, (name, None), value);
                }
            }
            for (name, value) in suspect::of_users(&command.text) {
                secrets.add(origin, (&name, None), &value);
            }
        }
        for (user, value) in suspect::of_logins(origin.trace) {
            secrets.add(origin, (&format!("{user}_password"), None), &value);
            secrets.1.insert(user, value);
        }
        secrets
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|secret| secret.name == name)
    }

    /// The secret that is the password of a login.
    pub(super) fn of_login(&self, user: &str) -> Option<&str> {
        let value = self.1.get(user)?;
        self.fitting(|known| known == value)
    }

    /// Notes those of a file, or the whole of a private key. What others wrote has only those that the script put into it.
    pub(super) fn learn(&mut self, origin: &Origin<'_>, path: &Path, text: &str, is_of_others: bool) {
        if suspect::is_of_library(path) {
            return;
        }
        let is_of_others = is_of_others || suspect::is_program(path);
        let is_own = |value: &str| !is_of_others || origin.has(value) || origin.trace.contains(value);
        if !is_of_others && text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            self.add(origin, (&name, Some(path)), text.trim_end());
            return;
        }
        for (name, value) in suspect::of_file(path, text).into_iter().filter(|(_, value)| is_own(value)) {
            self.add(origin, (&name, Some(path)), &value);
        }
    }

    fn add(&mut self, origin: &Origin<'_>, (name, path): (&str, Option<&Path>), value: &str) {
        // The path of a file is none, nor that of a table, such as postfix's `hash:/etc/postfix/sasl_passwd`.
        let is_path = |value: &str| {
            let (kind, path) = value.split_once(':').unwrap_or(("", value));
            path.starts_with('/')
                && !path.starts_with("//")
                && kind.bytes().all(|letter| letter.is_ascii_lowercase())
        };
        let is_plain = |value: &str| {
            !is_path(value) && !value.starts_with(['$', '<', '{', '%']) && !value.starts_with("ssh-")
        };
        let is_key = value.starts_with("-----BEGIN");
        if value.len() < SHORTEST || !is_plain(value) || !is_key && value.contains(char::is_whitespace) {
            return;
        }
        if self.0.iter().any(|known| known.value == value) {
            return;
        }
        let first = variable(name);
        let mut names = std::iter::once(first.clone()).chain((2..).map(|number| format!("{first}{number}")));
        let is_free = |name: &String| !self.0.iter().any(|known| known.name == *name);
        let Some(name) = names.find(is_free) else { return };
        let place = path.map(|path| format!(" in {}", path.display())).unwrap_or_default();
        let prompt = format!("Value of {}{place}", if place.is_empty() { &name } else { &first });
        let (is_generated, is_given) =
            (origin.is_made_up(value) && is_whole(origin.trace, value), origin.has(value));
        self.0.push(Secret { name, value: value.to_owned(), prompt, is_generated, is_given });
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.value.len()));
    }

    /// The names of those whose values are in this text.
    pub(super) fn within(&self, text: &str) -> Vec<String> {
        let mut left = text.to_owned();
        let mut names = Vec::new();
        for secret in &self.0 {
            if left.contains(&secret.value) {
                left = left.replace(&secret.value, "\0");
                names.push(secret.name.clone());
            }
        }
        names
    }

    /// The text as a template, each secret as its name in braces.
    pub(super) fn template(&self, text: &str) -> String {
        let mut template = text.replace("{{", "{{{{");
        for secret in &self.0 {
            template = template.replace(&secret.value, &format!("{{{{{}}}}}", secret.name));
        }
        template
    }

    /// The text with what stands for each secret instead of it.
    pub(super) fn hidden(&self, text: &str) -> String {
        let mut hidden = text.to_owned();
        for secret in &self.0 {
            hidden = hidden.replace(&secret.value, &format!("«secret:{}»", secret.name));
        }
        hidden
    }

    /// A call in which a value is a secret by itself, with its name instead; `None` if a secret is a part of one.
    pub(super) fn named(&self, code: &str) -> Option<String> {
        let mut named = code.to_owned();
        for secret in &self.0 {
            named = named.replace(&literal::string(&secret.value), &secret.name);
        }
        self.within(&named).is_empty().then_some(named)
    }

    /// The declaration of a secret.
    pub(super) fn declaration(&self, name: &str) -> String {
        let secret = self.0.iter().find(|secret| secret.name == name);
        let options = if secret.is_some_and(|secret| secret.is_generated) {
            vec![("generate", "true".to_owned())]
        } else {
            Vec::new()
        };
        let prompt = secret.map_or("", |secret| &secret.prompt);
        format!(
            "let {name} = secret::ask({}, {}{});",
            literal::string(name),
            literal::string(prompt),
            literal::options(&options)
        )
    }

    /// What the plan asks for although no one may know it.
    pub(super) fn lost(&self) -> Vec<String> {
        let lost = self.0.iter().filter(|secret| !secret.is_given && !secret.is_generated);
        let said = |secret: &Secret| {
            format!(
                "{}: the plan asks for it, and the script does not contain it; if it was made in the clone, it is gone, and \
                 what depends on it, such as a public key or a certificate, has to be made again",
                secret.prompt
            )
        };
        lost.map(said).collect()
    }

    /// The secret that fits what a server keeps of it.
    pub(super) fn fitting(&self, fits: impl Fn(&str) -> bool) -> Option<&str> {
        self.0.iter().find(|secret| fits(&secret.value)).map(|secret| secret.name.as_str())
    }

    /// What gives their values to a run of the plan.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let variable = |secret: &Secret| {
            (format!("KKRUN_SECRET_{}", secret.name.to_ascii_uppercase()).into(), secret.value.clone().into())
        };
        self.0.iter().map(variable).collect()
    }
}

/// Whether a value that was made up is all that its maker printed, and no identifier of a form of its own: only then any other
/// letters and digits do.
fn is_whole(trace: &Trace, value: &str) -> bool {
    static IDENTIFIER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-").ok());
    // What stands before the output of a command, unless that begins a word.
    static AFTER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"(?:^|[=\s]|:[-=]|=["'])["']?(?:\$\(|`)"#).ok());
    let is_match =
        |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    let Some(first) = trace.commands.iter().find(|command| command.text.contains(value)) else {
        return false;
    };
    !is_match(&IDENTIFIER, value) && is_match(&AFTER, trace.line_of(first))
}

/// The name of a variable that is close to this one.
fn variable(name: &str) -> String {
    let letters = name.to_lowercase();
    let letters = letters.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' });
    let letters = letters.collect::<String>();
    let name = letters.trim_matches('_');
    let is_one =
        name.starts_with(|first: char| first.is_ascii_lowercase()) && !literal::RESERVED.contains(&name);
    if is_one { name.to_owned() } else { format!("secret_{name}").trim_end_matches('_').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(commands: &[&str], source: &str) -> Secrets {
        let entries: Vec<String> = commands
            .iter()
            .map(|text| {
                let depth = if text.starts_with('$') { 2 } else { 1 };
                format!("{}1.0 0 1 /\u{2}{}\n", "\u{1}".repeat(depth), text.trim_start_matches('$'))
            })
            .collect();
        let environment = [("DB_PASSWORD".into(), "s3same-open".into())];
        let trace = Trace::read(&entries.concat(), source);
        Secrets::of(&Origin::of(&trace, source, &environment, &[]), &environment)
    }

    fn learnt(files: &[(&str, &str)], source: &str) -> Secrets {
        let (trace, mut found) = (Trace::read("", source), Secrets::default());
        for (path, text) in files {
            found.learn(&Origin::of(&trace, source, &[], &[]), Path::new(path), text, false);
        }
        found
    }

    fn names(secrets: &Secrets) -> Vec<&str> {
        secrets.0.iter().map(|secret| secret.name.as_str()).collect()
    }

    #[test]
    fn secrets_are_found_in_assignments_statements_and_urls() {
        let found = secrets(
            &[
                "WEBHOOK_SECRET=0123abcd0123",
                "APP_KEY='ssh-ed25519 AAAA'",
                "psql -c \"CREATE ROLE kim PASSWORD 'other-word'\"",
            ],
            "",
        );
        assert_eq!(names(&found), ["webhook_secret", "db_password", "kim_password"]);
        assert_eq!(found.within("postgres://kim:s3same-open@localhost"), ["db_password"]);
    }

    #[test]
    fn a_text_with_secrets_becomes_a_template_and_a_call_names_them() {
        let found = secrets(&[], "");
        assert_eq!(found.template("PW=s3same-open {{x}}\n"), "PW={{db_password}} {{{{x}}\n");
        assert_eq!(found.named("set(\"k\", \"s3same-open\");").as_deref(), Some("set(\"k\", db_password);"));
        assert_eq!(found.named("set(\"k\", \"a s3same-open\");"), None);
        assert_eq!(found.hidden("psql s3same-open"), "psql «secret:db_password»");
    }

    #[test]
    fn what_the_script_made_up_can_be_generated_and_what_it_was_given_is_asked_for() {
        let found = secrets(
            &["$openssl rand -hex 6", "TOKEN=abcdef123456", "API_TOKEN=literalvalue", "READ_TOKEN=0123abcd"],
            "TOKEN=$(openssl rand -hex 6)\nAPI_TOKEN=literalvalue\n",
        );
        assert!(found.declaration("token").ends_with("#{ generate: true });"));
        assert_eq!(
            found.declaration("db_password"),
            "let db_password = secret::ask(\"db_password\", \"Value of db_password\");"
        );
        assert!(!found.declaration("api_token").contains("generate"));
        assert!(!found.declaration("read_token").contains("generate"));
    }

    #[test]
    fn the_maker_of_a_value_decides_whether_any_other_does() {
        for (line, value, is_generated) in [
            ("KEY=$(openssl rand -base64 32)", "q+Zx/0Pn4Vd1SgkB5cF0aQ==", true),
            ("KEY=${KEY:-$(openssl rand -base64 18)}", "aB3+dE6/", true),
            ("KEY=\"base64:$(openssl rand -base64 32)\"", "base64:q+Zx/0Pn", false),
            ("KEY=$(uuidgen)", "0b1c2d3e-0000-4000-8000-0123456789ab", false),
        ] {
            let name = format!("SECRET_{}", line.split('=').next().unwrap());
            let maker = if line.contains("uuidgen") { "$uuidgen" } else { "$openssl rand -base64 32" };
            let found = secrets(&[maker, &format!("{name}={value}")], &format!("SECRET_{line}\n"));
            assert_eq!(found.declaration("secret_key").contains("generate: true"), is_generated, "{line}");
        }
    }

    #[test]
    fn nothing_is_learnt_from_libraries_and_only_what_the_script_wrote_from_programs() {
        let found = learnt(
            &[
                ("/opt/a/venv/lib/site-packages/pip/token.py", "token_string = String.Char\n"),
                ("/srv/node_modules/debug/.coveralls.yml", "repo_token: SIAeZjKYlHK74rbcFvNHMUzjRiMpflxve\n"),
                ("/srv/settings.py", "SECRET_KEY = 'g1ven-0815'\nnormalized_key = name.lower\n"),
            ],
            "echo \"SECRET_KEY = 'g1ven-0815'\" > settings.py\n",
        );
        assert_eq!(names(&found), ["secret_key"]);
        let (source, mut cloned) = ("echo token = 0815-0815 >> a.yml\n", Secrets::default());
        let trace = Trace::read("", source);
        let text = "token = 0815-0815\nother_token = 4711-4711\n";
        cloned.learn(&Origin::of(&trace, source, &[], &[]), Path::new("/srv/a.yml"), text, true);
        assert_eq!(names(&cloned), ["token"]);
    }

    #[test]
    fn the_path_of_what_holds_secrets_is_none() {
        let found = learnt(
            &[(
                "/etc/postfix/main.cf",
                "smtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd\nx_password = /etc/pw\n",
            )],
            "",
        );
        assert_eq!(found, Secrets::default());
        assert_eq!(
            names(&learnt(&[("/etc/x", "secret_url = ftp://kim:secret@host/\n")], "")),
            ["secret_url"]
        );
    }

    #[test]
    fn the_password_of_a_login_is_what_chpasswd_was_given() {
        let found = secrets(
            &["MAIL_PW=m4ilm4il", "echo kim:Blaubeer-99", "chpasswd", "printf '%s:%s\\n' ann m4ilm4il"],
            "echo kim:Blaubeer-99 | chpasswd\n",
        );
        assert_eq!(found.of_login("kim"), Some("kim_password"));
        assert_eq!(found.of_login("ann"), Some("mail_pw"));
        assert_eq!(found.of_login("ben"), None);
    }

    #[test]
    fn a_private_key_is_one_secret() {
        let key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n";
        let wg = "PrivateKey = 0123456789abcdef\nAddress = 10.0.0.1\n";
        let found = learnt(&[("/etc/notes.key", key), ("/etc/wireguard/wg0.conf", wg)], "");
        assert_eq!(names(&found), ["notes_key", "privatekey"]);
    }

    #[test]
    fn what_was_made_in_the_clone_and_what_is_given_differ() {
        let wg = "PrivateKey = 0123456789abcdef=\nPresharedKey = given-in-script\n";
        let found = learnt(&[("/etc/wireguard/wg0.conf", wg)], "PresharedKey = given-in-script\n");
        let lost: Vec<String> =
            found.lost().iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(lost, ["Value of privatekey in /etc/wireguard/wg0.conf"]);
    }

    #[test]
    fn what_a_file_holds_is_asked_for_and_not_generated() {
        let text = "relay_password = RelayPass77\n";
        for source in [&format!("cat > /etc/relay.conf <<X\n{text}X\n"), "cp /root/relay.conf /etc\n"] {
            assert_eq!(
                learnt(&[("/etc/relay.conf", text)], source).declaration("relay_password"),
                "let relay_password = secret::ask(\"relay_password\", \"Value of relay_password in /etc/relay.conf\");"
            );
        }
    }

    #[test]
    fn each_secret_has_a_name_of_its_own_that_a_script_can_have() {
        let key = |text: &str| format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let [one, two, three, four] = ["AAAA", "BBB", "CC", "D"].map(key);
        let found = learnt(
            &[
                ("/etc/k1/host_key2048", &one),
                ("/etc/k2/host_key2048", &two),
                ("/etc/ssl/private", &three),
                ("/etc/ssl/10-key.pem", &four),
            ],
            "",
        );
        assert_eq!(names(&found), ["host_key2048", "host_key20482", "secret_private", "secret_10_key_pem"]);
        assert_eq!(found.within(&two), ["host_key20482"]);
    }
}
