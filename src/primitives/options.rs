//! `options::` is for functions that take a map of options.

use anyhow::bail;
use rhai::plugin::*;

use crate::failure::{Failure, FailureKind};
use crate::script::{Raised, look};

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The defaults, replaced by the given options. An option without a default is an error.
    ///
    /// ```rhai
    /// let o = options::over(#{ port: 80 }, #{ port: 8080, host: "localhost" });
    /// assert(o.port == 80 && o.host == "localhost");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn over(
        context: NativeCallContext,
        given: rhai::Map,
        defaults: rhai::Map,
    ) -> Raised<rhai::Map> {
        look(&context, |_| {
            let mut merged = defaults;
            for (name, value) in given {
                if !merged.contains_key(&name) {
                    let near = crate::text::nearest(&name, merged.keys().map(rhai::Identifier::as_str));
                    let mut failure =
                        Failure::new(format!("unknown option `{name}`")).kind(FailureKind::Option);
                    if let Some(near) = near {
                        failure = failure.hint(format!("did you mean `{near}`?"));
                    }
                    bail!(failure);
                }
                merged.insert(name, value);
            }
            Ok(merged)
        })
    }
}
