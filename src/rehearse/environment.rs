//! What a run inside the clone is given of this process's environment.

use std::ffi::{OsStr, OsString};

use crate::machine::tool::SEARCH_PATH;

/// Variables that name a file of certificates.
pub(super) const CERTIFICATE_FILES: [&str; 13] = [
    "AWS_CA_BUNDLE",
    "BUNDLE_SSL_CA_CERT",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "DENO_CERT",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "npm_config_cafile",
];

/// Variables that name a proxy; both spellings are in use.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
];

/// Variables that pass as they are: the terminal, what is not proxied, and what diagnoses kkrun itself.
const AS_THEY_ARE: [&str; 11] = [
    "COLORTERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "NO_PROXY",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_DIR",
    "TERM",
    "TZ",
    "no_proxy",
];

/// The environment of a run, but for the files of certificates, whose place depends on the clone.
pub(super) fn passed(given: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let fixed = [
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", "root"),
        ("PATH", SEARCH_PATH),
        ("SHELL", "/bin/bash"),
        ("USER", "root"),
    ];
    let mut environment: Vec<(OsString, OsString)> =
        fixed.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    environment.extend(given.iter().filter(|(name, _)| passes(name)).cloned());
    environment
}

fn passes(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        PROXIES.contains(&name) || AS_THEY_ARE.contains(&name) || name.starts_with("KKRUN_SECRET_")
    })
}

/// The proxies among these that only this machine itself reaches.
pub(super) fn proxies_out_of_reach(environment: &[(OsString, OsString)]) -> Vec<String> {
    let local = |value: &str| {
        let host = value.split_once("://").map_or(value, |(_, rest)| rest);
        let host = host.rsplit_once('@').map_or(host, |(_, rest)| rest);
        ["localhost", "127.", "[::1]"].iter().any(|local| host.starts_with(local))
    };
    environment
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
        .filter(|(name, value)| PROXIES.contains(name) && local(value))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn proxies_secrets_and_the_terminal_pass_and_nothing_else() {
        let environment = passed(&given(&[
            ("HTTPS_PROXY", "proxy:3128"),
            ("KKRUN_RUN", "of the run outside"),
            ("KKRUN_SECRET_DB", "word"),
            ("TERM", "xterm"),
            ("LD_PRELOAD", "evil.so"),
            ("HOME", "/home/me"),
        ]));
        let names: Vec<&str> = environment.iter().filter_map(|(name, _)| name.to_str()).collect();
        assert_eq!(names[6..], ["HTTPS_PROXY", "KKRUN_SECRET_DB", "TERM"]);
        assert_eq!(environment[0].1, "/root");
    }

    #[test]
    fn a_proxy_on_this_machine_is_out_of_reach() {
        let environment = given(&[
            ("http_proxy", "http://127.0.0.1:3128"),
            ("https_proxy", "http://me:word@localhost:1"),
            ("ftp_proxy", "proxy:1"),
            ("no_proxy", "localhost"),
        ]);
        assert_eq!(proxies_out_of_reach(&environment), ["http_proxy", "https_proxy"]);
    }
}
