//! `secret::` gets passwords and keys: opaque to scripts, stored on the machine, never shown.

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::shorter::namespace;
use crate::failure::{Failure, FailureKind};
use crate::script::{
    Existing, GENERATED_LENGTH, Host, OptionSet, Raised, Secret, SecretRequest, look, options_of,
};

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("ask", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "ask" => Some(OptionSet::of::<AskOptions>()),
        "quote" => super::text::options(function),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AskOptions {
    generate: bool,
    store: bool,
    existing: Option<Existing>,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self { generate: false, store: true, existing: None }
    }
}

fn asked(context: &NativeCallContext, name: &str, prompt: &str, options: rhai::Map) -> Raised<Secret> {
    look(context, |host| {
        let options: AskOptions = options_of(options)?;
        host.secret(&SecretRequest {
            name: name.to_owned(),
            prompt: Some(prompt.to_owned()),
            generate: options.generate.then_some(GENERATED_LENGTH),
            store: options.store,
            existing: options.existing,
        })
    })
}

fn generated(context: &NativeCallContext, name: &str, length: Option<i64>) -> Raised<Secret> {
    look(context, |host| {
        let length = match length {
            None => GENERATED_LENGTH,
            Some(given) => match usize::try_from(given) {
                Ok(length @ 12..=1024) => length,
                _ => bail!(
                    Failure::new(format!(
                        "invalid length of a secret {given}: expected 12 to 1024 characters"
                    ))
                    .kind(FailureKind::Option)
                    .hint("from 12 to 1024")
                ),
            },
        };
        host.secret(&SecretRequest {
            name: name.to_owned(),
            prompt: None,
            generate: Some(length),
            store: true,
            existing: None,
        })
    })
}

/// The name of something that is made of these secrets.
fn name_of(parts: &[Dynamic]) -> String {
    let mut names: Vec<String> = Vec::new();
    for part in parts {
        if let Some(secret) = part.read_lock::<Secret>()
            && !names.iter().any(|known| known == secret.name())
        {
            names.push(secret.name().to_owned());
        }
    }
    if names.is_empty() { "text".to_owned() } else { names.join("+") }
}

fn joined(host: &Host, parts: &[Dynamic]) -> Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    for part in parts {
        text.push_str(&host.text_or_secret(part, "a part of a secret")?);
    }
    Ok(Secret::new(&name_of(parts), text))
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The secret `name`: from the `--secrets` file, the variable `KKRUN_SECRET_NAME`, the systemd credential `name`, an
    /// earlier run, or a person who answers `prompt`. It is stored for later runs, readable by root only.
    ///
    /// A secret is shown as `«secret:NAME»`, by this and all later runs, even if it is not stored; values under 8 characters
    /// are not recognised in other texts. It cannot be compared, added to or taken apart. It can be used in the `env` and
    /// `stdin` of a command, as the content of a file, as a value of `config::set`, and in `pg::`.
    /// Options: `generate: true` (make a strong one if the answer is empty or no one can be asked), `store: false` (do not
    /// store it), `existing: #{ file, key }` (the value of `key` in a file of `KEY=value` lines is taken over if the secret is
    /// neither given nor stored; with `url_user`, the password in a URL of this user).
    ///
    /// ```rhai
    /// let password = secret::ask("db_password", "Password for the database");
    /// assert(`${password}` == "«secret:db_password»");
    /// ```
    ///
    /// ```rhai
    /// let key = secret::ask("signing_key", "Key that signs", #{ generate: true });
    /// assert(`${key}` == "«secret:signing_key»");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/.env", "URL=postgresql://kim:sesame@localhost/cats\n");
    /// let password = secret::ask("password", "Password", #{ existing: #{ file: "/srv/.env", key: "URL", url_user: "kim" } });
    /// file::write("/srv/password", password);
    /// assert(file::read("/srv/password") == "sesame");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ask(
        context: NativeCallContext,
        name: &str,
        prompt: &str,
        options: rhai::Map,
    ) -> Raised<Secret> {
        asked(&context, name, prompt, options)
    }

    /// The secret `name`: 32 letters and digits, generated the first time and stored. No one is asked, but a value that is
    /// given as for `secret::ask` is used.
    ///
    /// ```rhai
    /// file::write("/srv/key", secret::generate("api_key"), #{ mode: "0600" });
    /// assert(file::stat("/srv/key").size == 32);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn generate(context: NativeCallContext, name: &str) -> Raised<Secret> {
        generated(&context, name, None)
    }

    /// The same with the given number of characters, from 12 to 1024.
    ///
    /// ```rhai
    /// file::write("/srv/key", secret::generate("long_key", 64), #{ mode: "0600" });
    /// assert(file::stat("/srv/key").size == 64);
    /// ```
    #[rhai_fn(name = "generate", return_raw, volatile)]
    pub(super) fn generate_long(context: NativeCallContext, name: &str, length: i64) -> Raised<Secret> {
        generated(&context, name, Some(length))
    }

    /// The strings and secrets of an array joined into one secret.
    ///
    /// ```rhai
    /// let line = secret::join(["password=", secret::generate("pin"), "\n"]);
    /// file::write("/srv/pin", line, #{ mode: "0600" });
    /// assert(`${line}` == "«secret:pin»");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn join(context: NativeCallContext, parts: rhai::Array) -> Raised<Secret> {
        look(&context, |host| joined(host, &parts))
    }

    /// A secret in quotes, as systemd and shells read them alike, and dotenv as far as `text::quote` says.
    ///
    /// ```rhai
    /// let quoted = secret::quote(secret::generate("pin"));
    /// file::write("/srv/env", secret::join(["PIN=", quoted, "\n"]), #{ mode: "0600" });
    /// assert(file::stat("/srv/env").size == 39);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn quote(context: NativeCallContext, secret: Secret) -> Raised<Secret> {
        look(&context, |_| {
            let quoted = crate::text::quoted(secret.reveal());
            Ok(Secret::new(secret.name(), Zeroizing::new(quoted)))
        })
    }

    /// The same, but `written`, if that is this secret already in other quotes or none.
    ///
    /// ```rhai
    /// let quoted = secret::quote(secret::generate("pin"), "'other'");
    /// file::write("/srv/env", secret::join(["PIN=", quoted, "\n"]), #{ mode: "0600" });
    /// assert(file::stat("/srv/env").size == 39);
    /// ```
    #[rhai_fn(name = "quote", return_raw, volatile)]
    pub(super) fn quote_as(context: NativeCallContext, secret: Secret, written: &str) -> Raised<Secret> {
        look(&context, |_| {
            let text = crate::text::quoted_as(secret.reveal(), written);
            Ok(Secret::new(secret.name(), Zeroizing::new(text)))
        })
    }

    /// The secret in the quotes of one format, as `text::quote` has them. Options: `format` (`"dotenv"`, `"systemd"` or
    /// `"shell"`).
    ///
    /// ```rhai
    /// let quoted = secret::quote(secret::generate("pin"), #{ format: "dotenv" });
    /// file::write("/srv/env", secret::join(["PIN=", quoted, "\n"]), #{ mode: "0600" });
    /// assert(file::stat("/srv/env").size == 39);
    /// ```
    #[rhai_fn(name = "quote", return_raw, volatile)]
    pub(super) fn quote_for(
        context: NativeCallContext,
        secret: Secret,
        options: rhai::Map,
    ) -> Raised<Secret> {
        look(&context, |_| {
            let shown = format!("«secret:{}»", secret.name());
            let text = super::super::text::quoted_for(secret.reveal(), options, &shown)?;
            Ok(Secret::new(secret.name(), Zeroizing::new(text)))
        })
    }

    /// A secret percent-encoded as a part of a URL.
    ///
    /// ```rhai
    /// let url = secret::join(["http://kim:", secret::url_encode(secret::generate("pin")), "@localhost/"]);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn url_encode(context: NativeCallContext, secret: Secret) -> Raised<Secret> {
        look(&context, |_| {
            let encoded = crate::text::percent_encoded(secret.reveal());
            Ok(Secret::new(secret.name(), Zeroizing::new(encoded)))
        })
    }
}
