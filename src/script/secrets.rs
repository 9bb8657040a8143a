//! The secrets of a run: where each comes from, asked for once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rhai::Dynamic;
use zeroize::Zeroizing;

use super::host::{Host, Unpredictable};
use super::secret::{MARK, Secret};
use crate::event::{Answer, Question};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::random;
use crate::machine::secret_store::{self, SecretStore};

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
    /// What a person is asked; nobody is without.
    pub prompt: Option<String>,
    /// The length of the one that is made when nobody gives one, in characters.
    pub generate: Option<usize>,
    /// Keep it for later runs.
    pub store: bool,
}

/// The secrets of a run, shared by every host that evaluates its scripts.
pub struct Secrets {
    store: SecretStore,
    given: BTreeMap<String, Zeroizing<String>>,
    known: RefCell<BTreeMap<String, Secret>>,
}

impl Secrets {
    /// Those below a state directory, and those that the operator gives for this run.
    pub fn new(store: SecretStore, given: BTreeMap<String, Zeroizing<String>>) -> Self {
        Self { store, given, known: RefCell::default() }
    }

    /// The secret, if it can be had without asking or making one, and whether it is stored already.
    fn available(&self, name: &str) -> Result<Option<(Zeroizing<String>, bool)>> {
        if let Some(known) = self.known.borrow().get(name) {
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

    fn keep(&self, name: &str, text: Zeroizing<String>) -> Secret {
        let secret = Secret::new(name, text);
        self.known.borrow_mut().insert(name.to_owned(), secret.clone());
        secret
    }
}

impl Host {
    /// The secret that a script asks for, as part of the fingerprint of its step.
    ///
    /// # Errors
    /// With [`ExitCode::UNANSWERED`] when it is neither given nor stored and nobody can be asked; while only looking,
    /// as unpredictable.
    pub fn secret(&self, request: &SecretRequest) -> Result<Secret> {
        let secret = self.resolve_secret(request)?;
        let store = &self.secrets().store;
        let mut hash = store.known_hash(secret.name(), secret.reveal())?;
        if hash.is_none() && !self.dry_run() {
            self.session().begin_acting()?;
            hash = Some(store.hash(secret.name(), secret.reveal())?);
        }
        if let Some(hash) = hash {
            self.trace().secrets.insert(secret.name().to_owned(), hash);
        }
        Ok(secret)
    }

    /// The same, before any step runs.
    pub fn resolve_secret(&self, request: &SecretRequest) -> Result<Secret> {
        let name = &request.name;
        if !secret_store::is_name(name) {
            bail!(
                Failure::new(format!("`{name}` is no name of a secret"))
                    .kind("usage")
                    .hint("it is lower-case letters, digits and `_`, a letter first")
            );
        }
        if let Some(known) = self.secrets().known.borrow().get(name) {
            return Ok(known.clone());
        }
        let (text, is_stored) = match self.secrets().available(name)? {
            Some(available) => available,
            None => (self.new_secret(request)?, false),
        };
        self.reporter().learn_secret(name, &text);
        if request.store && !is_stored && !self.dry_run() {
            self.session().begin_acting()?;
            self.secrets().store.write(name, &text)?;
        }
        Ok(self.secrets().keep(name, text))
    }

    fn new_secret(&self, request: &SecretRequest) -> Result<Zeroizing<String>> {
        if self.dry_run() {
            return Err(
                Unpredictable(format!("the secret `{}`, which nobody has given yet", request.name)).into()
            );
        }
        if let Some(prompt) = &request.prompt {
            let text = match request.generate {
                Some(_) => format!("{prompt} (nothing: a strong one is made)"),
                None => prompt.clone(),
            };
            let question = Question::Secret { text, may_be_empty: request.generate.is_some() };
            match self.reporter().ask(&question)? {
                Some(Answer::Text(text)) if !text.is_empty() => return Ok(text),
                _ => {}
            }
        }
        match request.generate {
            Some(length) => generated(length),
            None => bail!(unanswered(&request.name)),
        }
    }

    /// Whether this is what is stored under this name, for later runs to find.
    pub fn is_stored_secret(&self, name: &str, text: &str) -> Result<bool> {
        Ok(self.secrets().store.read(name)?.is_some_and(|stored| *stored == text))
    }

    /// A keyed hash of the secret as it is now; `None` when it is not to be had without asking.
    pub(super) fn present_secret(&self, name: &str) -> Result<Option<String>> {
        match self.secrets().available(name)? {
            Some((text, _)) => self.secrets().store.known_hash(name, &text),
            None => Ok(None),
        }
    }

    /// Looks for every secret that is known by now in what is reported.
    pub fn learn_known_secrets(&self) {
        for secret in self.secrets().known.borrow().values() {
            self.reporter().learn_known_secret(secret.name(), secret.reveal());
        }
    }

    /// The text of a secret, if the value is one.
    pub fn secret_text(value: &Dynamic) -> Option<Zeroizing<String>> {
        value.read_lock::<Secret>().map(|secret| secret.text())
    }

    /// The text of what goes where secrets may go: a secret's own, or that of a text, number or bool, which must
    /// not hold a secret. `what` is what it is for, as the begin of a sentence.
    pub fn text_or_secret(&self, value: &Dynamic, what: &str) -> Result<Zeroizing<String>> {
        if let Some(text) = Self::secret_text(value) {
            return Ok(text);
        }
        let is_plain =
            value.is_string() || value.is_char() || value.is_int() || value.is_float() || value.is_bool();
        if !is_plain {
            bail!(
                Failure::new(format!("{what} is a text or a secret, not a {}", value.type_name()))
                    .kind("type")
            );
        }
        let text = value.to_string();
        self.refuse_secret(&text)?;
        Ok(Zeroizing::new(text))
    }

    /// Refuses a text into which a secret was mixed: it would be written as its name, or remembered in clear.
    pub fn refuse_secret(&self, text: &str) -> Result<()> {
        if text.contains(MARK) || self.reporter().holds_secret(text) {
            bail!(
                Failure::new(
                    "the text holds a secret in a form that would be written as its name or in clear"
                )
                .kind("secret")
                .hint(
                    "secret::join([…]) makes a secret of texts and secrets: it stays one until it is written"
                )
            );
        }
        Ok(())
    }
}

impl Secret {
    fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.reveal().to_owned())
    }
}

/// A secret of so many characters that nobody can guess.
pub fn generated(length: usize) -> Result<Zeroizing<String>> {
    // Bytes beyond the last whole multiple would make some characters likelier than others.
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

fn unanswered(name: &str) -> Failure {
    Failure::new(format!("the secret `{name}` is needed, and nobody can be asked for it"))
        .exit(ExitCode::UNANSWERED)
        .kind("unanswered")
        .hint(format!(
            "`--secrets FILE` reads it from a line `{name}=…` of a file that is yours alone (mode 0600)"
        ))
        .hint(format!("or the variable `{}` holds it", secret_store::variable(name)))
        .hint(format!("or the systemd credential `{name}` does; or run this on a terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_is_long_plain_and_never_the_same() {
        let secret = generated(LENGTH).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(*secret, *generated(LENGTH).unwrap());
        assert_eq!(generated(1000).unwrap().len(), 1000);
    }
}
