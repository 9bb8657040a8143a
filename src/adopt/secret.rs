//! Secrets: what a script must not have in clear, and a plan asks for.

use std::collections::BTreeMap;
use std::ffi::OsString;

use regex::Regex;

use super::literal;
use super::trace::Trace;

/// A shorter value is no secret, in characters: it would be found in any text.
const SHORTEST: usize = 6;

/// A value, and what the plan calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) value: String,
    /// The script makes it up, so that any value of letters and digits does.
    is_generated: bool,
}

/// The secrets of a script, the longest value first: a shorter one may be a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Secrets(Vec<Secret>);

impl Secrets {
    /// Those that the script was given or assigned, and those of SQL statements and URLs in its commands. `source` is its
    /// text.
    pub(super) fn of(
        trace: &Trace,
        source: &str,
        environment: &[(OsString, OsString)],
        arguments: &[String],
    ) -> Self {
        let mut secrets = Self::default();
        let given: Vec<String> = environment
            .iter()
            .map(|(_, value)| value.to_string_lossy().into_owned())
            .chain(arguments.iter().cloned())
            .collect();
        let is_known = |value: &str| source.contains(value) || given.iter().any(|text| text.contains(value));
        for (name, value) in environment {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            if is_secret_name(&name) {
                secrets.add(&name, &value, false);
            }
        }
        for command in &trace.commands {
            for word in command.words() {
                if let Some((name, value)) = word.split_once('=')
                    && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
                    && is_secret_name(name)
                {
                    secrets.add(name, value, !is_known(value));
                }
            }
            for (name, value) in in_text(&command.text) {
                secrets.add(&name, &value, !is_known(&value));
            }
        }
        secrets
    }

    /// Notes those of a file of `key = value` lines, or the whole of a private key; `name` is the file's.
    pub(super) fn learn(&mut self, name: &str, text: &str) {
        if text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") {
            self.add(name, text.trim_end(), true);
            return;
        }
        for line in text.lines() {
            let Some((key, value)) = line.split_once(['=', ' ', ':']) else { continue };
            let key = key.trim();
            let value = value.trim_start_matches(['=', ':', ' ']).trim().trim_matches(['"', '\'']);
            if key.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"_-".contains(&letter))
                && is_secret_name(key)
            {
                self.add(key, value, true);
            }
        }
    }

    fn add(&mut self, name: &str, value: &str, is_generated: bool) {
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
        let name: String = name
            .to_lowercase()
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
            .collect();
        let name = name.trim_matches('_').to_owned();
        let taken = self
            .0
            .iter()
            .filter(|known| known.name.trim_end_matches(|letter: char| letter.is_ascii_digit()) == name)
            .count();
        let name = if taken == 0 { name } else { format!("{name}{}", taken + 1) };
        self.0.push(Secret { name, value: value.to_owned(), is_generated });
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
        let generated = self.0.iter().any(|secret| {
            secret.name == name
                && secret.is_generated
                && secret.value.bytes().all(|letter| letter.is_ascii_alphanumeric())
        });
        let options = if generated { vec![("generate", "true".to_owned())] } else { Vec::new() };
        let prompt = format!("Value of {name}");
        format!(
            "let {name} = secret::ask({}, {}{});",
            literal::string(name),
            literal::string(&prompt),
            literal::options(&options)
        )
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

/// Whether what has this name is usually kept secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    let ends = ["_pw", "_pass", "_psk", "_key", "presharedkey", "privatekey"];
    let within = ["password", "passwd", "passphrase", "secret", "token", "apikey", "api_key", "requirepass"];
    let whole = ["pw", "pass", "psk"];
    let is_public = name.contains("public") || name.contains("pub_") || name.contains("authorized");
    !is_public
        && (within.iter().any(|part| name.contains(part))
            || ends.iter().any(|end| name.ends_with(end))
            || whole.contains(&name.as_str()))
}

/// The secrets in SQL statements and URLs, with a name for each.
fn in_text(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let patterns = [
        (r#"(?i)\b(?:role|user)\s+"?(\w+)"?[^;]*?\bpassword\s+'([^']+)'"#, "password"),
        (r"://([^:/@\s']+):([^@/\s']+)@", "password"),
    ];
    for (pattern, kind) in patterns {
        let Ok(pattern) = Regex::new(pattern) else { continue };
        for captures in pattern.captures_iter(text) {
            found.insert(format!("{}_{kind}", &captures[1]), captures[2].to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(commands: &[&str], source: &str) -> Secrets {
        let entries: Vec<String> =
            commands.iter().map(|text| format!("\u{1}1.0 0 1 /\u{2}{text}\n")).collect();
        let environment = [("DB_PASSWORD".into(), "s3same-open".into())];
        Secrets::of(&Trace::read(&entries.concat(), source), source, &environment, &[])
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
        let names: Vec<&str> = found.0.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(names, ["webhook_secret", "db_password", "kim_password"]);
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
        let found = secrets(&["TOKEN=abcdef123456", "API_TOKEN=literal-value"], "API_TOKEN=literal-value\n");
        assert!(found.declaration("token").ends_with("#{ generate: true });"));
        assert_eq!(
            found.declaration("db_password"),
            "let db_password = secret::ask(\"db_password\", \"Value of db_password\");"
        );
        assert!(!found.declaration("api_token").contains("generate"));
    }

    #[test]
    fn the_path_of_what_holds_secrets_is_none() {
        let mut found = Secrets::default();
        found.learn(
            "main.cf",
            "smtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd\nx_password = /etc/pw\n",
        );
        assert_eq!(found, Secrets::default());
        found.learn("x", "secret_url = ftp://kim:secret@host/\n");
        assert_eq!(found.0.len(), 1);
    }

    #[test]
    fn a_private_key_is_one_secret() {
        let mut found = Secrets::default();
        found.learn("notes.key", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n");
        found.learn("wg0.conf", "PrivateKey = 0123456789abcdef\nAddress = 10.0.0.1\n");
        let names: Vec<&str> = found.0.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(names, ["notes_key", "privatekey"]);
    }
}
