//! `host::` describes the machine and the call of kkrun.

use anyhow::bail;
use rhai::plugin::*;

use crate::failure::{Failure, FailureKind};
use crate::journal::Entry;
use crate::machine::secret_store::SecretStore;
use crate::machine::{clock, host_facts};
use crate::script::{Raised, Trace, act, look};

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The arguments after the script on the command line.
    ///
    /// ```rhai
    /// assert(host::args().len() == 0);
    /// ```
    #[rhai_fn(name = "args", return_raw, volatile)]
    pub(super) fn words(context: NativeCallContext) -> Raised<rhai::Array> {
        look(&context, |host| Ok(host.arguments().iter().map(|word| word.clone().into()).collect()))
    }

    /// The machine's name.
    ///
    /// ```rhai
    /// assert(host::hostname() != "");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn hostname(context: NativeCallContext) -> Raised<String> {
        look(&context, |_| Ok(host_facts::hostname()))
    }

    /// The fields of /etc/os-release, with keys in lower case: `id`, `version_id`, `pretty_name`, …
    ///
    /// ```rhai
    /// assert(host::os().id != "");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn os(context: NativeCallContext) -> Raised<rhai::Map> {
        look(&context, |_| {
            let facts = host_facts::os_release()?;
            Ok(facts.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
        })
    }

    /// The processor's architecture as the kernel names it, such as `x86_64`.
    ///
    /// ```rhai
    /// assert(host::arch() != "");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn arch(context: NativeCallContext) -> Raised<String> {
        look(&context, |_| Ok(host_facts::architecture()))
    }

    /// A variable of kkrun's own environment, or `()` if it is not set. Commands do not inherit it.
    ///
    /// ```rhai
    /// assert(host::env("KKRUN_NO_SUCH_VARIABLE") == ());
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn env(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            if name.starts_with("KKRUN_SECRET_") {
                bail!(
                    Failure::new(format!("cannot read the variable `{name}`: it contains a secret"))
                        .kind(FailureKind::Secret)
                        .hint("read it with secret::ask")
                );
            }
            let value = std::env::var(name).ok();
            // Where there is no key yet, nothing is compared either.
            let hash = match &value {
                Some(value) => SecretStore::hash(name, value).unwrap_or_default(),
                None => Trace::MISSING.to_owned(),
            };
            host.trace().environment.insert(name.to_owned(), hash);
            Ok(value.map_or(Dynamic::UNIT, Dynamic::from))
        })
    }

    /// Notes that the machine must be restarted before the changes take full effect, and why. It is reported at the end of
    /// the run, and forgotten when the machine was restarted or the changes of the step were undone.
    ///
    /// ```rhai
    /// host::reboot_required("the display manager logs in at boot");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn reboot_required(context: NativeCallContext, why: &str) -> Raised<()> {
        act(&context, |host| {
            host.refuse_secret(why)?;
            let (boot, step) = (clock::boot_id()?, host.seen().step().map(str::to_owned));
            let is_known = {
                let session = host.seen();
                let mut known = session.history().reboots(&boot);
                known.any(|known| known.plan == session.plan() && known.step == step && known.why == why)
            };
            if !host.dry_run() && !is_known {
                host.session().record(Entry::RebootPending { step, why: why.to_owned() })?;
            }
            host.note_once(&format!("restart needed: {why}"));
            Ok(())
        })
    }
}
