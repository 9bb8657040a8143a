//! The environment that commands run in: built from nothing, so that a run does not depend on who started it.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use zeroize::Zeroizing;

use super::Command;
use crate::failure::FailedCommand;
use crate::machine::account::Account;

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is taken over from the environment of kkrun when it is set there: how to reach the network, and which
/// certificates to trust.
pub const TAKEN_OVER: [&str; 13] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "TERM",
];

/// The variable that names the run a process belongs to.
pub const RUN: &str = "KKRUN_RUN";

/// The value of a variable.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// One that anyone may see.
    Plain(OsString),
    /// One that is wiped from memory when it is dropped.
    Secret(Zeroizing<Vec<u8>>),
}

impl Value {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Plain(value) => value.as_bytes(),
            Self::Secret(value) => value,
        }
    }

    /// The value for a crate that accepts nothing else; it is not wiped there.
    pub(super) fn into_os_string(self) -> OsString {
        match self {
            Self::Plain(value) => value,
            Self::Secret(value) => OsString::from_vec(value.to_vec()),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => value.fmt(formatter),
            Self::Secret(_) => formatter.write_str("«secret»"),
        }
    }
}

impl<T: Into<OsString>> From<T> for Value {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

/// `KKRUN_RUN=<id>`, as an environment holds it.
pub(super) fn run_variable(run: &str) -> OsString {
    format!("{RUN}={run}").into()
}

/// The environment of a command of that run as that account, with the command's own variables on top.
pub(super) fn of(run: &str, account: &Account, own: &[(OsString, Value)]) -> HashMap<OsString, Value> {
    let mut variables: HashMap<OsString, Value> = HashMap::with_capacity(24);
    let mut set = |name: &str, value: &OsStr| variables.insert(name.into(), value.into());
    set("TERM", OsStr::new("dumb"));
    for name in TAKEN_OVER {
        if let Some(value) = env::var_os(name) {
            set(name, &value);
        }
    }
    set("PATH", OsStr::new(PATH));
    set("HOME", account.home.as_os_str());
    set("USER", OsStr::new(&account.name));
    set("LOGNAME", OsStr::new(&account.name));
    set("SHELL", account.shell.as_os_str());
    set("LANG", OsStr::new("C.UTF-8"));
    if !account.is_root() {
        set("XDG_RUNTIME_DIR", OsStr::new(&format!("/run/user/{}", account.uid)));
    }
    variables.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
    variables.insert(RUN.into(), run.into());
    variables
}

/// Where a command of that account ran that failed. Without the run's variable: who looks around is not a process of the
/// run.
pub(super) fn of_failed(account: &Account, becomes: bool, command: &Command) -> FailedCommand {
    let mut variables = of("", account, &command.env);
    variables.remove(OsStr::new(RUN));
    let (mut plain, mut withheld) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        match value {
            Value::Plain(value) => plain.push((name, value)),
            Value::Secret(_) => withheld.push(name),
        }
    }
    plain.sort();
    withheld.sort();
    FailedCommand {
        directory: command.cwd.clone(),
        user: becomes.then(|| account.name.clone()),
        variables: plain,
        withheld,
    }
}
