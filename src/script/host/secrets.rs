//! The host's handling of secrets: it gets them, keeps them, and refuses strings that would reveal one.

use anyhow::{Result, bail};
use rhai::Dynamic;
use zeroize::Zeroizing;

use super::{Host, Unpredictable};
use crate::event::{Answer, Question};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::machine::secret_store::{self, SecretStore};
use crate::script::secret::{MARK, Secret};
use crate::script::secrets::{SecretRequest, generated};

impl Host {
    /// The secret that a script asks for, as part of the fingerprint of its step.
    ///
    /// # Errors
    /// With [`ExitCode::UNANSWERED`] when it is neither given nor stored and no one can be asked; in a dry run,
    /// as unpredictable.
    pub fn secret(&self, request: &SecretRequest) -> Result<Secret> {
        let secret = self.resolve_secret(request)?;
        let hash = SecretStore::hash(secret.name(), secret.reveal())?;
        self.trace().secrets.insert(secret.name().to_owned(), hash);
        Ok(secret)
    }

    /// The same, before any step runs.
    pub fn resolve_secret(&self, request: &SecretRequest) -> Result<Secret> {
        let name = &request.name;
        if !secret_store::is_name(name) {
            bail!(
                Failure::new(format!("invalid name of a secret `{name}`"))
                    .kind(FailureKind::Usage)
                    .hint("use lower-case letters, digits and `_`, beginning with a letter")
            );
        }
        if let Some(known) = self.secrets().known(name) {
            return Ok(known);
        }
        let available = match self.secrets().available(name)? {
            None => self.taken_over(request)?.map(|text| (text, false)),
            available => available,
        };
        let (text, is_stored) = match (available, request.generate) {
            (Some(available), _) => available,
            // Whatever it will be, it is none that is in use by now.
            (None, Some(length)) if self.dry_run() => {
                let secret = self.secrets().in_place_of(name, length)?;
                self.reporter().learn_known_secret(name, &secret.text());
                return Ok(secret);
            }
            (None, _) => (self.new_secret(request)?, false),
        };
        self.reporter().learn_secret(name, &text);
        if !self.dry_run() {
            let plan = self.seen().plan().to_owned();
            self.secrets().store.remember(&plan, name, &text, || self.session().begin_acting())?;
        }
        if request.store && !is_stored && !self.dry_run() {
            self.session().begin_acting()?;
            self.secrets().store.write(name, &text)?;
        }
        Ok(self.secrets().keep(name, text))
    }

    /// What the machine has already, if the script names where.
    fn taken_over(&self, request: &SecretRequest) -> Result<Option<Zeroizing<String>>> {
        let Some(existing) = &request.existing else { return Ok(None) };
        let text = existing.read()?;
        if text.is_some() {
            self.reporter().note(format!("the secret `{}` is taken over from {existing}", request.name));
        }
        Ok(text)
    }

    fn new_secret(&self, request: &SecretRequest) -> Result<Zeroizing<String>> {
        if self.dry_run() {
            return Err(
                Unpredictable(format!("the secret `{}`, which is not given yet", request.name)).into()
            );
        }
        if let Some(prompt) = &request.prompt {
            let text = match request.generate {
                Some(_) => format!("{prompt} (empty: a strong one is generated)"),
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

    /// A keyed hash of a secret.
    pub fn hash_of_secret(&self, secret: &Secret) -> Result<Option<String>> {
        SecretStore::hash(secret.name(), secret.reveal()).map(Some)
    }

    /// A keyed hash of the secret as it is now; `None` if it cannot be had without asking.
    pub(super) fn present_secret(&self, name: &str) -> Result<Option<String>> {
        match self.secrets().available(name)? {
            Some((text, _)) => SecretStore::hash(name, &text).map(Some),
            None => Ok(None),
        }
    }

    /// Redacts every secret that is known by now in what is reported.
    pub fn learn_known_secrets(&self) {
        for secret in &self.secrets().all_known() {
            self.reporter().learn_known_secret(secret.name(), secret.reveal());
        }
    }

    /// The text of a secret, if the value is one.
    pub fn secret_text(value: &Dynamic) -> Option<Zeroizing<String>> {
        value.read_lock::<Secret>().map(|secret| secret.text())
    }

    /// The text of a value that may be a secret: a secret's own, or that of a string, number or bool, which must
    /// not contain a secret. `what` begins the message: what the value is for.
    pub fn text_or_secret(&self, value: &Dynamic, what: &str) -> Result<Zeroizing<String>> {
        if let Some(text) = Self::secret_text(value) {
            return Ok(text);
        }
        let is_plain =
            value.is_string() || value.is_char() || value.is_int() || value.is_float() || value.is_bool();
        if !is_plain {
            bail!(
                Failure::new(format!("{what} must be a string or a secret, not a {}", value.type_name()))
                    .kind(FailureKind::Type)
            );
        }
        let text = value.to_string();
        self.refuse_secret(&text)?;
        Ok(Zeroizing::new(text))
    }

    /// Refuses a string into which a secret was mixed: it would be written as its name, or recorded in clear.
    pub fn refuse_secret(&self, text: &str) -> Result<()> {
        refuse(text.contains(MARK) || self.reporter().holds_secret(text))
    }

    /// The same for the content of a file, which is not recorded: what was a secret once, such as a line of a key, may be
    /// written there.
    pub fn refuse_known_secret(&self, text: &str) -> Result<()> {
        refuse(text.contains(MARK) || self.reporter().holds_known_secret(text))
    }
}

fn refuse(is_secret: bool) -> Result<()> {
    if is_secret {
        bail!(
            Failure::new("the string contains a secret, which would be written as its name or in clear")
                .kind(FailureKind::Secret)
                .hint("use secret::join([…]) to make one secret of strings and secrets")
        );
    }
    Ok(())
}

fn unanswered(name: &str) -> Failure {
    Failure::new(format!("the secret `{name}` is not given, and no one can be asked for it"))
        .exit(ExitCode::UNANSWERED)
        .kind(FailureKind::Unanswered)
        .hint(format!("put a line `{name}=…` into a file of mode 0600 and pass `--secrets FILE`"))
        .hint(format!("or set the variable `{}`", secret_store::variable(name)))
        .hint(format!("or pass the systemd credential `{name}`, or run this on a terminal"))
}
