//! `http::` sends requests to web servers.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::machine::http::{self, Question};
use crate::script::{Host, OptionSet, Raised, Seconds, Unpredictable, act, look, options_of};

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("get", 1), ("post", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "get" | "post" => Some(OptionSet::of::<Options>()),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    headers: BTreeMap<String, String>,
    timeout: Seconds,
    follow: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { headers: BTreeMap::new(), timeout: Seconds(http::TIMEOUT.as_secs_f64()), follow: true }
    }
}

fn ask(host: &Host, url: &str, body: Option<&str>, options: Options) -> Result<rhai::Map> {
    let question = Question {
        url: url.to_owned(),
        body: body.map(|body| body.as_bytes().to_vec()),
        headers: options.headers,
        timeout: options.timeout.duration(),
        follow: options.follow,
    };
    let answer = question.ask(host.seen().world.processes.signals())?;
    let headers: rhai::Map =
        answer.headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(rhai::Map::from([
        ("status".into(), i64::from(answer.status).into()),
        ("headers".into(), headers.into()),
        ("body".into(), String::from_utf8_lossy(&answer.body).into_owned().into()),
    ]))
}

fn get(context: &NativeCallContext, url: &str, options: rhai::Map) -> Raised<rhai::Map> {
    look(context, |host| {
        let options = options_of(options)?;
        if host.would_have_changed() {
            bail!(Unpredictable(format!("what `{url}` would answer by then")));
        }
        ask(host, url, None, options)
    })
}

fn post(context: &NativeCallContext, url: &str, body: &str, options: rhai::Map) -> Raised<rhai::Map> {
    let posted = |host: &Host| {
        let options = options_of(options)?;
        if host.dry_run() && (host.would_have_changed() || !host.is_verifying()) {
            bail!(Unpredictable(format!("what `{url}` would answer to a POST")));
        }
        ask(host, url, Some(body), options)
    };
    match Host::of(context) {
        Ok(host) if host.is_verifying() => look(context, posted),
        _ => act(context, posted),
    }
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Sends a GET request and returns `#{ status, headers, body }`, whatever the status. The names of the headers are in
    /// lower case. Without a connection it fails with the kind `unreachable`, without an answer in time with `timeout`.
    /// Options: `headers` (a map), `timeout` (seconds, default 30), `follow` (redirects, default true).
    ///
    /// ```rhai
    /// try { http::get("http://127.0.0.1:1/"); } catch (failure) { assert(failure.kind == "unreachable"); }
    /// ```
    ///
    /// ```rhai,booted
    /// unit::start("nginx");
    /// let answer = http::get("http://127.0.0.1/", #{ headers: #{ "Accept": "text/html" }, follow: false });
    /// assert(answer.status < 500);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn get(context: NativeCallContext, url: &str, options: rhai::Map) -> Raised<rhai::Map> {
        super::get(&context, url, options)
    }

    /// Sends `body` in a POST request and returns `#{ status, headers, body }`. A POST may change something, so it is not
    /// sent in a dry run, except within `step::verify`.
    /// Options: those of `http::get`.
    ///
    /// ```rhai,booted
    /// unit::start("nginx");
    /// assert(http::post("http://127.0.0.1/", "{}").status == 405);
    /// ```
    ///
    /// ```rhai,booted
    /// unit::start("nginx");
    /// let headers = #{ "Content-Type": "application/json" };
    /// assert(http::post("http://127.0.0.1/", "{}", #{ headers: headers, timeout: 5 }).status >= 400);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn post(
        context: NativeCallContext,
        url: &str,
        body: &str,
        options: rhai::Map,
    ) -> Raised<rhai::Map> {
        super::post(&context, url, body, options)
    }
}
