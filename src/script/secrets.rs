//! The secrets of a run: where each comes from, asked for once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::Result;
use zeroize::Zeroizing;

use super::secret::Secret;
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
    /// The question to a person; without it no one is asked.
    pub prompt: Option<String>,
    /// The length of the one that is generated if none is given, in characters.
    pub generate: Option<usize>,
    /// Whether it is stored for later runs.
    pub store: bool,
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
    fn a_generated_secret_is_long_plain_and_never_the_same() {
        let secret = generated(LENGTH).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(*secret, *generated(LENGTH).unwrap());
        assert_eq!(generated(1000).unwrap().len(), 1000);
    }
}
