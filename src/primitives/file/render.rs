//! `file::render`: the templates of a plan.

use anyhow::{Context, Result, bail};
use rhai::plugin::*;
use zeroize::Zeroizing;

use super::read_bytes;
use crate::failure::{Failure, FailureKind};
use crate::script::{Host, Raised, Secret, look, value_of};

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

/// The text of a template with its placeholders replaced; `value` gives the value of a name.
///
/// # Errors
/// With the template and the line, when a name has no value or the braces contain something other than a name.
fn filled(
    template: &str,
    text: &str,
    value: &mut dyn FnMut(&str) -> Result<Zeroizing<String>>,
) -> Result<Zeroizing<String>> {
    let mut filled = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        filled.push_str(&rest[..at]);
        let line = 1 + text[..text.len() - rest.len() + at].matches('\n').count();
        let behind = &rest[at + 2..];
        if let Some(literal) = behind.strip_prefix("{{") {
            filled.push_str("{{");
            rest = literal;
            continue;
        }
        // A brace before a placeholder.
        if behind.starts_with('{') {
            filled.push('{');
            rest = &rest[at + 1..];
            continue;
        }
        let inner = behind.find("}}").map(|end| &behind[..end]);
        let name = inner.map(str::trim).filter(|name| is_name(name));
        let (Some(inner), Some(name)) = (inner, name) else {
            bail!(
                Failure::new(format!("`{template}` line {line}: expected a name and `}}}}` after `{{{{`"))
                    .kind(FailureKind::Template)
                    .hint("write a placeholder as {{name}}, and two literal braces as {{{{")
            )
        };
        let value = value(name).with_context(|| format!("`{template}` line {line}"))?;
        filled.push_str(&value);
        rest = &behind[inner.len() + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn rendered(host: &Host, path: &str, values: &rhai::Map) -> Result<Dynamic> {
    let bytes = read_bytes(host, path)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::new(format!("cannot read `{path}` as text: it is not UTF-8")).kind(FailureKind::Encoding)
    })?;
    let mut secrets: Vec<String> = Vec::new();
    let filled = filled(path, &text, &mut |name| {
        let given = if let Some(given) = values.get(name) {
            given.clone()
        } else if let Some(setting) = host.settings().get(name) {
            host.trace().settings.insert(name.to_owned());
            value_of(setting)
        } else {
            bail!(
                Failure::new(format!("`{name}` not found among the values and the settings"))
                    .kind(FailureKind::Template)
            )
        };
        if let Some(secret) = given.read_lock::<Secret>()
            && !secrets.iter().any(|known| known == secret.name())
        {
            secrets.push(secret.name().to_owned());
        }
        host.text_or_secret(&given, &format!("the value of `{name}`"))
    })?;
    if secrets.is_empty() {
        return Ok(Dynamic::from(filled.as_str().to_owned()));
    }
    Ok(Dynamic::from(Secret::new(&secrets.join("+"), filled)))
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The text of a template, a file of the plan (`files/…`) or of the machine, in which every `{{name}}` is replaced by
    /// `values.name`, or else by the setting of that name. Write two literal braces as `{{{{`;
    /// a single one may precede a placeholder. A name without a value is an
    /// error. If a value is a secret, the whole text is a secret.
    ///
    /// ```rhai
    /// file::write("/srv/greeting.template", "Hello {{name}}, {{ name }}!\n");
    /// assert(file::render("/srv/greeting.template", #{ name: "Kim" }) == "Hello Kim, Kim!\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn render(context: NativeCallContext, path: &str, values: rhai::Map) -> Raised<Dynamic> {
        look(&context, |host| rendered(host, path, &values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String> {
        let filled = filled("files/page", text, &mut |name| match name {
            "port" => Ok(Zeroizing::new("80".to_owned())),
            "braces" => Ok(Zeroizing::new("{{port}}".to_owned())),
            other => bail!("there is no {other}"),
        });
        filled.map(|text| text.as_str().to_owned())
    }

    #[test]
    fn names_are_replaced_once_and_all_else_stays() {
        assert_eq!(of("a {{port}}{{ port }} $x {y} }} \n").unwrap(), "a 8080 $x {y} }} \n");
        assert_eq!(of("{{braces}} {{{{port}}").unwrap(), "{{port}} {{port}}");
        assert_eq!(of("{{{braces}}} {{{{{{{braces}}").unwrap(), "{{{port}}} {{{{{port}}");
        assert_eq!(of("").unwrap(), "");
    }

    #[test]
    fn what_is_missing_is_named_with_its_line() {
        let message = |text| format!("{:#}", of(text).unwrap_err());
        assert_eq!(message("one\n{{port}}\n {{host}}"), "`files/page` line 3: there is no host");
        for wrong in ["x\n{{", "x\n{{my-name}}", "x\n{{ }}", "x\n{{port}"] {
            assert!(message(wrong).starts_with("`files/page` line 2: "), "{}", message(wrong));
        }
    }
}
