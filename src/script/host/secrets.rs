//! What a script's host does with secrets: gets them, keeps them, and refuses a text that would give one away.

use anyhow::{Result, bail};
use rhai::Dynamic;
use zeroize::Zeroizing;

use super::{Host, Unpredictable};
use crate::event::{Answer, Question};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::secret_store;
use crate::script::secret::{MARK, Secret};
use crate::script::secrets::{SecretRequest, generated};

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
        if let Some(known) = self.secrets().known(name) {
            return Ok(known);
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
        for secret in &self.secrets().all_known() {
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
