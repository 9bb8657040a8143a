//! A secret as scripts hold it: a name that can be passed on, and a value that cannot be read.

#![cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "what Rhai's export macro expands to is found in its prelude alone"
    )
)]

use std::fmt;
use std::rc::Rc;

use rhai::plugin::*;
use rhai::{Engine, EvalAltResult, ImmutableString};
use zeroize::Zeroizing;

type Refused = Result<Dynamic, Box<EvalAltResult>>;

/// How the name of a secret begins where it is shown instead of the value.
pub(super) const MARK: &str = "«secret:";

/// A secret: shown as `«secret:NAME»`, whatever is done to show it.
#[derive(Clone)]
pub struct Secret {
    name: Rc<str>,
    text: Rc<Zeroizing<String>>,
}

impl Secret {
    /// A secret of this name.
    pub fn new(name: &str, text: Zeroizing<String>) -> Self {
        Self { name: Rc::from(name), text: Rc::new(text) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value, only for the places that secrets are meant for.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// A copy of its value, wiped from memory when dropped.
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.reveal().to_owned())
    }

    /// Registers the type, and refuses every operator that would reveal something of the value or
    /// pass the name off as it.
    pub(super) fn register(engine: &mut Engine) {
        engine.register_type_with_name::<Self>("secret");
        engine.register_global_module(Module::from_manifest(exported_manifest!(operators)).into());
    }
}

/// What a script can do with a secret by itself.
#[export_module(manifest)]
mod operators {
    use super::{Refused, Secret};

    #[rhai_fn(name = "to_string", name = "to_debug")]
    pub(super) fn shown(secret: Secret) -> String {
        secret.to_string()
    }

    #[rhai_fn(name = "==", name = "!=", name = "<", name = "<=", name = ">", name = ">=", return_raw)]
    pub(super) fn compared(_left: Secret, _right: Secret) -> Refused {
        Refused::Err("a secret cannot be compared".into())
    }

    #[rhai_fn(name = "==", name = "!=", name = "<", name = "<=", name = ">", name = ">=", return_raw)]
    pub(super) fn compared_with_anything(left: Secret, _right: Dynamic) -> Refused {
        compared(left.clone(), left)
    }

    #[rhai_fn(name = "==", name = "!=", name = "<", name = "<=", name = ">", name = ">=", return_raw)]
    pub(super) fn anything_compared(_left: Dynamic, right: Secret) -> Refused {
        compared(right.clone(), right)
    }

    // The standard library has these for a text and anything at all.
    #[rhai_fn(name = "==", name = "!=", name = "<", name = "<=", name = ">", name = ">=", return_raw)]
    pub(super) fn compared_with_text(left: Secret, _right: ImmutableString) -> Refused {
        compared(left.clone(), left)
    }

    #[rhai_fn(name = "==", name = "!=", name = "<", name = "<=", name = ">", name = ">=", return_raw)]
    pub(super) fn text_compared(_left: ImmutableString, right: Secret) -> Refused {
        compared(right.clone(), right)
    }

    #[rhai_fn(name = "+", name = "-", name = "*", return_raw)]
    pub(super) fn added(_left: Secret, _right: Secret) -> Refused {
        Refused::Err("a secret cannot be added to: use secret::join([…])".into())
    }

    #[rhai_fn(name = "+", name = "-", name = "*", return_raw)]
    pub(super) fn added_to_anything(left: Secret, _right: Dynamic) -> Refused {
        added(left.clone(), left)
    }

    #[rhai_fn(name = "+", name = "-", name = "*", return_raw)]
    pub(super) fn anything_added(_left: Dynamic, right: Secret) -> Refused {
        added(right.clone(), right)
    }

    #[rhai_fn(name = "+", name = "-", name = "*", return_raw)]
    pub(super) fn added_to_text(left: Secret, _right: ImmutableString) -> Refused {
        added(left.clone(), left)
    }

    #[rhai_fn(name = "+", name = "-", name = "*", return_raw)]
    pub(super) fn text_added(_left: ImmutableString, right: Secret) -> Refused {
        added(right.clone(), right)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{MARK}{}»", self.name)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use rhai::Scope;

    use super::*;

    fn evaluated(script: &str) -> Result<String, String> {
        let mut engine = Engine::new();
        Secret::register(&mut engine);
        let mut scope = Scope::new();
        scope.push("s", Secret::new("pin", Zeroizing::new("hunter2hunter2".to_owned())));
        let value = engine.eval_with_scope::<Dynamic>(&mut scope, script);
        value.map(|value| value.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_shown_by_its_name() {
        for script in ["`${s}`", "s.to_string()", "let t = \"\"; t += s; t", "to_string(s)"] {
            assert_eq!(evaluated(script).unwrap(), "«secret:pin»", "{script}");
        }
        assert_eq!(evaluated("`x${s}y`").unwrap(), "x«secret:pin»y");
        assert_eq!(evaluated("`${#{ a: s }} ${[s]}`").unwrap(), "#{\"a\": «secret:pin»} [«secret:pin»]");
        assert_eq!(evaluated("type_of(s)").unwrap(), "secret");
    }

    #[test]
    fn a_secret_is_neither_compared_nor_added_nor_taken_apart() {
        for script in [
            "s == s",
            "s != s",
            "s == \"hunter2hunter2\"",
            "\"hunter2hunter2\" == s",
            "\"hunter2hunter2\" != s",
            "s == 1",
            "1 == s",
            "s < \"z\"",
            "s == ()",
            "s == [s]",
            "[\"hunter2hunter2\"].contains(s)",
            "s + \"x\"",
            "\"x\" + s",
            "s + s",
            "1 + s",
            "s[0]",
            "s.len()",
            "s in [\"hunter2hunter2\"]",
        ] {
            let error = evaluated(script).expect_err(script);
            assert!(!error.contains("hunter2"), "{script}: {error}");
        }
    }

    #[test]
    fn a_secret_is_no_plain_value() {
        let secret = Secret::new("pin", Zeroizing::new("hunter2hunter2".to_owned()));
        assert!(crate::script::json_of(&Dynamic::from(secret)).is_err());
    }
}
