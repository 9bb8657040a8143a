//! `text::` matches, replaces, encodes and formats strings.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use regex::Regex;
use rhai::plugin::*;
use serde::Deserialize;

use crate::failure::{Failure, FailureKind};
use crate::machine::clock;
use crate::script::{LARGEST_TEXT, OptionSet, Raised, json_of, look, options_of, value_of};
use crate::text::Quoting;
use crate::time;

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

/// How many compiled patterns are kept: a loop uses the same few again and again.
const KEPT_PATTERNS: usize = 64;

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "quote" => Some(OptionSet::of::<QuoteOptions>()),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuoteOptions {
    format: Quoting,
}

/// A text in the quotes of the format that the options name; `shown` is its name in messages.
pub(super) fn quoted_for(text: &str, options: rhai::Map, shown: &str) -> Result<String> {
    let QuoteOptions { format } = options_of(options)?;
    format.quoted(text).map_err(|why| {
        let named = match format {
            Quoting::Dotenv => "dotenv",
            Quoting::Systemd => "systemd",
            Quoting::Shell => "shell",
        };
        Failure::new(format!("cannot write `{}` for {named}: {why}", crate::text::printable(shown)))
            .kind(FailureKind::Usage)
            .hint("choose a value without it, or the format of the only program that reads it")
            .into()
    })
}

fn pattern(text: &str) -> Result<Regex> {
    PATTERNS.with_borrow_mut(|kept| {
        if let Some(known) = kept.get(text) {
            return Ok(known.clone());
        }
        let compiled = Regex::new(text).map_err(|error| {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Failure::new(format!("invalid regular expression `{text}`: {last}")).kind(FailureKind::Usage)
        })?;
        if kept.len() >= KEPT_PATTERNS {
            kept.clear();
        }
        kept.insert(text.to_owned(), compiled.clone());
        Ok(compiled)
    })
}

fn replaced(pattern: &Regex, subject: &str, replacement: &str) -> Result<String> {
    let groups = replacement.matches('$').count();
    let mut text = String::new();
    let mut from = 0;
    for captures in pattern.captures_iter(subject) {
        let Some(whole) = captures.get(0) else { continue };
        text.push_str(&subject[from..whole.start()]);
        if text.len() + replacement.len() + groups.saturating_mul(whole.len()) > LARGEST_TEXT {
            bail!(Failure::new("the string with its replacements is too large").kind(FailureKind::Usage));
        }
        captures.expand(replacement, &mut text);
        from = whole.end();
    }
    text.push_str(&subject[from..]);
    Ok(text)
}

fn said_age(timestamp: &str) -> Result<String> {
    let then: Timestamp = timestamp.parse().map_err(|error| {
        Failure::new(format!("invalid time `{timestamp}`: {error}")).kind(FailureKind::Usage)
    })?;
    Ok(time::when(then, clock::now(), &clock::zone()))
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Whether the regular expression `expression` matches anywhere in `subject`. `^` and `$` match the ends of the string;
    /// after `(?m)` those of each line. The syntax is that of the Rust crate regex.
    ///
    /// ```rhai
    /// assert(text::matches("kiosk-42", "^[a-z]+-[0-9]+$"));
    /// assert(!text::matches("kiosk", "[0-9]"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn matches(context: NativeCallContext, subject: &str, expression: &str) -> Raised<bool> {
        look(&context, |_| Ok(pattern(expression)?.is_match(subject)))
    }

    /// `subject` with every match of the regular expression `expression` replaced. In `replacement`, `$1` or `${1}` is the
    /// first group, `$$` a dollar sign.
    ///
    /// ```rhai
    /// assert(text::replace("a=1, b=2", "([a-z])=([0-9])", "$2${1}") == "1a, 2b");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn replace(
        context: NativeCallContext,
        subject: &str,
        expression: &str,
        replacement: &str,
    ) -> Raised<String> {
        look(&context, |_| replaced(&pattern(expression)?, subject, replacement))
    }

    /// The value of a JSON string; `null` becomes `()`.
    ///
    /// ```rhai
    /// assert(text::json_parse(`{ "ports": [80, 443] }`).ports[1] == 443);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn json_parse(context: NativeCallContext, json: &str) -> Raised<Dynamic> {
        look(&context, |_| {
            let value = serde_json::from_str(json)
                .map_err(|error| Failure::new(format!("invalid JSON: {error}")).kind(FailureKind::Usage))?;
            Ok(value_of(&value))
        })
    }

    /// A value as JSON, with the keys of maps sorted. Closures and secrets are refused.
    ///
    /// ```rhai
    /// assert(text::json_text(#{ b: [1, 2.5], a: () }) == `{"a":null,"b":[1,2.5]}`);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn json_text(context: NativeCallContext, value: Dynamic) -> Raised<String> {
        look(&context, |_| serde_json::to_string(&json_of(&value)?).context("cannot write JSON"))
    }

    /// A string in quotes, as systemd and shells read them alike. The dotenv of npm, Python and Ruby reads it, too, unless the
    /// string has a backslash or `${`, or a `'` together with `"`, `$` or a back-tick.
    ///
    /// ```rhai
    /// assert(text::quote("two words") == "'two words'");
    /// assert(text::quote("it's $5") == "\"it's \\$5\"");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn quote(context: NativeCallContext, subject: &str) -> Raised<String> {
        look(&context, |_| Ok(crate::text::quoted(subject)))
    }

    /// The same, but `written`, if that is this string already in other quotes or none.
    ///
    /// ```rhai
    /// assert(text::quote("two words", "\"two words\"") == "\"two words\"");
    /// assert(text::quote("two words", "'three words'") == "'two words'");
    /// ```
    #[rhai_fn(name = "quote", return_raw, volatile)]
    pub(super) fn quote_as(context: NativeCallContext, subject: &str, written: &str) -> Raised<String> {
        look(&context, |_| Ok(crate::text::quoted_as(subject, written)))
    }

    /// The string in the quotes of one format. Options: `format` (who reads it: `"dotenv"`, the dotenv of npm, Python and Ruby,
    /// with systemd and shells; `"systemd"`, its `EnvironmentFile=`; `"shell"`). What its readers do not all read back as it is
    /// is refused.
    ///
    /// ```rhai
    /// assert(text::quote("it's", #{ format: "dotenv" }) == "\"it's\"");
    /// assert(text::quote("it's $5", #{ format: "systemd" }) == "\"it's \\$5\"");
    /// ```
    ///
    /// ```rhai
    /// let refused = "";
    /// try { text::quote("it's $5", #{ format: "dotenv" }); } catch (error) { refused = `${error}`; }
    /// assert(text::matches(refused, "cannot write"));
    /// ```
    #[rhai_fn(name = "quote", return_raw, volatile)]
    pub(super) fn quote_for(context: NativeCallContext, subject: &str, options: rhai::Map) -> Raised<String> {
        look(&context, |_| quoted_for(subject, options, subject))
    }

    /// The string inside quotes, as systemd and shells read it alike; `()` if they do not.
    ///
    /// ```rhai
    /// assert(text::unquote("'two words'") == "two words");
    /// assert(text::unquote("\"$HOME\"") == ());
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn unquote(context: NativeCallContext, written: &str) -> Raised<Dynamic> {
        look(&context, |_| {
            Ok(crate::text::unquoted(written).map_or(Dynamic::UNIT, |text| text.to_string().into()))
        })
    }

    /// A string as part of a URL: everything except letters, digits and `-._~` is percent-encoded.
    ///
    /// ```rhai
    /// assert(text::url_encode("50% & más") == "50%25%20%26%20m%C3%A1s");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn url_encode(context: NativeCallContext, subject: &str) -> Raised<String> {
        look(&context, |_| Ok(crate::text::percent_encoded(subject)))
    }

    /// A time as people write it: `today 21:14`, `yesterday 21:14`, `2026-05-01 21:14`, in the time zone of this machine.
    /// `timestamp` is one of `step::list`, or in the same format (RFC 3339).
    ///
    /// ```rhai
    /// assert(text::matches(text::age("2026-05-01T21:14:00Z"), "^[a-z0-9-]+ [0-9:]{5}$"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn age(context: NativeCallContext, timestamp: &str) -> Raised<String> {
        look(&context, |_| said_age(timestamp))
    }

    /// The same for a time that has not come: `never`.
    ///
    /// ```rhai
    /// assert(text::age(()) == "never");
    /// ```
    #[rhai_fn(name = "age", return_raw, volatile)]
    pub(super) fn age_of_nothing(context: NativeCallContext, _timestamp: ()) -> Raised<String> {
        look(&context, |_| Ok("never".to_owned()))
    }

    /// A number of seconds as people write it: `0.3 s`, `38 s`, `3 min 02 s`, `1 h 04 min`.
    ///
    /// ```rhai
    /// assert(text::duration(182.4) == "3 min 02 s");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn duration(context: NativeCallContext, seconds: f64) -> Raised<String> {
        look(&context, |_| Ok(time::duration(seconds)))
    }

    /// The same for whole seconds.
    ///
    /// ```rhai
    /// assert(text::duration(38) == "38 s");
    /// ```
    #[rhai_fn(name = "duration", return_raw, volatile)]
    pub(super) fn duration_in_whole(context: NativeCallContext, seconds: i64) -> Raised<String> {
        #[expect(clippy::cast_precision_loss, reason = "nothing takes 2^52 seconds")]
        look(&context, |_| Ok(time::duration(seconds as f64)))
    }
}
