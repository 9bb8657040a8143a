//! The secrets of a run: where each comes from, asked for once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret::Secret;
use crate::failure::{Failure, FailureKind};
use crate::machine::files;
use crate::machine::random;
use crate::machine::secret_store::{self, SecretStore};
use crate::text::unquoted;

/// How long a secret is that kkrun makes, in characters.
pub const LENGTH: usize = 32;

/// What a secret that kkrun makes is made of: nothing that a URL, a shell or a settings file would have to
/// escape.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A secret as a script asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRequest {
    /// Its name.
    pub name: String,
    /// The question to a person; without it no one is asked.
    pub prompt: Option<String>,
    /// The length of the one that is generated if none is given, in characters.
    pub generate: Option<usize>,
    /// Whether it is stored for later runs.
    pub store: bool,
    /// Where a machine that had a life before may have it already.
    pub existing: Option<Existing>,
}

/// A key of a settings file whose value is taken over as a secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Existing {
    /// The file of `KEY=value` lines.
    file: String,
    /// The key.
    key: String,
    /// The value is a URL, and the secret is its password, if this is its user.
    #[serde(default)]
    url_user: Option<String>,
}

impl Existing {
    /// The secret that is there, if there is one.
    ///
    /// # Errors
    /// When the value cannot be read: it is not replaced then.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<String>>> {
        let unreadable = |why: &str| {
            Failure::new(format!("cannot take over `{}` of `{}` as a secret: {why}", self.key, self.file))
                .kind(FailureKind::Secret)
                .hint("correct the line, remove it, or give the secret with `--secrets FILE`")
        };
        let path = Path::new(&self.file);
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if !metadata.is_file() => bail!(unreadable("it is not a file")),
            _ => {}
        }
        let bytes = Zeroizing::new(files::read_following(path)?);
        let Ok(text) = std::str::from_utf8(&bytes) else { bail!(unreadable("it is not UTF-8")) };
        let mut values = text.lines().filter_map(|line| {
            let line = line.trim();
            let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            (key.trim() == self.key).then_some(value.trim())
        });
        // Every reader lets the last one count.
        let Some(written) = values.next_back() else { return Ok(None) };
        let Some(value) = unquoted(written) else {
            bail!(unreadable("its quoting has more than one meaning"))
        };
        let value = match &self.url_user {
            None => value,
            Some(user) => match password_in(&value, user) {
                Some(password) => password,
                None => return Ok(None),
            },
        };
        Ok((!value.is_empty()).then_some(value))
    }
}

impl std::fmt::Display for Existing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "`{}` of `{}`", self.key, self.file)
    }
}

/// The password in a URL of this user.
fn password_in(url: &str, user: &str) -> Option<Zeroizing<String>> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split(['/', '?', '#']).next()?.rsplit_once('@')?;
    let (name, password) = login.split_once(':')?;
    let decoded = |part| percent_encoding::percent_decode_str(part).decode_utf8().ok();
    (decoded(name)? == user).then(|| decoded(password).map(|text| Zeroizing::new(text.into_owned())))?
}

/// The secrets of a run, shared by every host that evaluates its scripts.
pub struct Secrets {
    pub(super) store: SecretStore,
    given: BTreeMap<String, Zeroizing<String>>,
    known: RefCell<BTreeMap<String, Secret>>,
    /// What stands for secrets in a dry run that a run would generate.
    in_place: RefCell<BTreeMap<String, Secret>>,
}

impl Secrets {
    /// Those below a state directory, and those that the operator gives for this run.
    pub fn new(store: SecretStore, given: BTreeMap<String, Zeroizing<String>>) -> Self {
        Self { store, given, known: RefCell::default(), in_place: RefCell::default() }
    }

    /// The secret, if the run knows it by now.
    pub(super) fn known(&self, name: &str) -> Option<Secret> {
        self.known.borrow().get(name).cloned()
    }

    /// All that the run knows by now.
    pub(super) fn all_known(&self) -> Vec<Secret> {
        self.known.borrow().values().cloned().collect()
    }

    /// The secret, if it is known without asking or generating one, and whether it is stored already.
    pub(super) fn available(&self, name: &str) -> Result<Option<(Zeroizing<String>, bool)>> {
        if let Some(known) = self.known(name) {
            return Ok(Some((known.text(), true)));
        }
        let stored = self.store.read(name)?;
        let given = match self.given.get(name) {
            Some(text) => Some(text.clone()),
            None => match secret_store::from_environment(name)? {
                Some(text) => Some(text),
                None => secret_store::from_credentials(name)?,
            },
        };
        Ok(match given {
            Some(text) => {
                let is_stored = stored.is_some_and(|stored| stored == text);
                Some((text, is_stored))
            }
            None => stored.map(|text| (text, true)),
        })
    }

    /// What stands in a dry run for a secret that a run would generate: no run ever gets it.
    pub(super) fn in_place_of(&self, name: &str, length: usize) -> Result<Secret> {
        if let Some(known) = self.in_place.borrow().get(name) {
            return Ok(known.clone());
        }
        let secret = Secret::new(name, generated(length)?);
        self.in_place.borrow_mut().insert(name.to_owned(), secret.clone());
        Ok(secret)
    }

    pub(super) fn keep(&self, name: &str, text: Zeroizing<String>) -> Secret {
        let secret = Secret::new(name, text);
        self.known.borrow_mut().insert(name.to_owned(), secret.clone());
        secret
    }
}

/// A random secret of that many characters.
pub(super) fn generated(length: usize) -> Result<Zeroizing<String>> {
    // Bytes beyond the last whole multiple would make some characters more likely than others.
    let fair = 256 - 256 % ALPHABET.len();
    let mut text = Zeroizing::new(String::with_capacity(length));
    while text.len() < length {
        let bytes = Zeroizing::new(random::bytes(length)?);
        let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        for byte in fair.take(length - text.len()) {
            text.push(char::from(ALPHABET[byte % ALPHABET.len()]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_value_is_taken_over_as_every_reader_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        let read = |text: &str, url_user: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            let file = path.display().to_string();
            let existing = Existing { file, key: "KEY".to_owned(), url_user: url_user.map(str::to_owned) };
            existing.read().map(|found| found.map(|text| text.to_string())).map_err(|error| error.to_string())
        };
        let found = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read("KEY=plain\n", None), found("plain"));
        assert_eq!(read("MY_KEY=x\n#KEY=x\nKEY='one'\nexport KEY=\"it's \\$5\"\n", None), found("it's $5"));
        assert_eq!(read("OTHER=x\n", None), Ok(None));
        assert_eq!(read("KEY=\n", None), Ok(None));
        assert_eq!(read("KEY='postgresql://kim:p%40ss@h/d'\n", Some("kim")), found("p@ss"));
        assert_eq!(read("KEY=postgresql://other:pass@h/d\n", Some("kim")), Ok(None));
        assert!(read("KEY='a'b\n", None).unwrap_err().starts_with("cannot take over `KEY`"));
    }

    #[test]
    fn a_generated_secret_is_long_plain_and_never_the_same() {
        let secret = generated(LENGTH).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(*secret, *generated(LENGTH).unwrap());
        assert_eq!(generated(1000).unwrap().len(), 1000);
    }
}
