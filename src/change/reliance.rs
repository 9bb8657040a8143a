//! What the target of a later change relies on, what only the machine shows: the accounts that a unit runs as, the
//! logins in a URL, the files of a package.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::machine::files;
use crate::machine::postgres::Server;
use crate::target::Target;

/// Where unit files are, the administrator's first. Source: systemd.unit(5).
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// The keys by which a unit names accounts. Source: systemd.exec(5).
const ACCOUNT_KEYS: [&[u8]; 3] = [b"User", b"Group", b"SupplementaryGroups"];

/// The largest text that is searched.
const MOST_READ: u64 = 1 << 20;

/// Where dpkg keeps the names of each package's files.
pub(super) const PACKAGE_LISTS: &str = "/var/lib/dpkg/info";

/// Those of the targets that are a unit which runs as the user or group of this name, or a file of such a unit.
pub(super) fn relying_on_account<'t>(name: &str, later: &[&'t Target]) -> Result<Vec<&'t Target>> {
    let mut relying = Vec::new();
    for target in later {
        if accounts_of_unit(target)?.contains(name) {
            relying.push(*target);
        }
    }
    Ok(relying)
}

/// The names of the users and groups that the unit of a target runs as: the target is the unit, or one of its files.
fn accounts_of_unit(target: &Target) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    if let Target::Unit { user: None, name, .. } = target {
        for directory in UNIT_DIRECTORIES.map(Path::new) {
            for entry in entries(directory)? {
                if Target::file(&entry).configures_unit(None, name) {
                    for path in if entry.is_dir() { entries(&entry)? } else { vec![entry] } {
                        named.extend(accounts_in(&path)?);
                    }
                }
            }
        }
    } else if let Some(path) = target.path()
        && path.components().any(|part| part.as_os_str() == "systemd")
    {
        named.extend(accounts_in(path)?);
    }
    Ok(named)
}

fn accounts_in(path: &Path) -> Result<BTreeSet<String>> {
    let bytes = text_at(path)?;
    let mut named = BTreeSet::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b'=') else { continue };
        if ACCOUNT_KEYS.contains(&line[..at].trim_ascii()) {
            let value = String::from_utf8_lossy(&line[at + 1..]);
            let words = value.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            named.extend(words.map(str::to_owned));
        }
    }
    Ok(named)
}

/// Who logs in where by a URL of PostgreSQL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginInUrl {
    /// Empty for a socket of this machine.
    host: String,
    port: u16,
    pub(super) role: String,
    pub(super) database: String,
}

impl LoginInUrl {
    /// Whether it leads to this server.
    pub(super) fn is_at(&self, server: &Server) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let is_own = matches!(host, "" | "localhost" | "127.0.0.1" | "::1");
        self.port == server.port && if server.is_local_socket() { is_own } else { host == server.host }
    }
}

/// The logins in the file that a target is, or is a part of.
pub(super) fn logins_of(target: &Target) -> Result<Vec<LoginInUrl>> {
    let is_text = matches!(target, Target::File(_) | Target::Line { .. } | Target::Block { .. });
    let Some(path) = target.path().filter(|_| is_text) else { return Ok(Vec::new()) };
    let bytes = text_at(path)?;
    let starts = ["postgres://", "postgresql://"].into_iter().flat_map(|scheme| {
        memchr::memmem::find_iter(&bytes, scheme).map(move |at| at + scheme.len()).collect::<Vec<_>>()
    });
    Ok(starts.filter_map(|at| login_in(&bytes[at..])).collect())
}

/// Source: PostgreSQL's manual, "Connection URIs".
fn login_in(rest: &[u8]) -> Option<LoginInUrl> {
    let ends =
        |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'`' | b'<' | b'>' | b'\\');
    let url = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
    let url = url.split(|byte| *byte == b'?').next()?;
    let (authority, path) = url.split_at(url.iter().position(|byte| *byte == b'/').unwrap_or(url.len()));
    let at = authority.iter().rposition(|byte| *byte == b'@')?;
    let (login, host) = (&authority[..at], &authority[at + 1..]);
    let role = login.split(|byte| *byte == b':').next()?;
    let colon = host.iter().rposition(|byte| *byte == b':').filter(|at| !host[*at..].contains(&b']'));
    let (host, port) = host.split_at(colon.unwrap_or(host.len()));
    let port = port.strip_prefix(b":").and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
    let plain = |bytes: &[u8]| percent_encoding::percent_decode(bytes).decode_utf8_lossy().into_owned();
    let (role, database) = (plain(role), plain(path.strip_prefix(b"/").unwrap_or(path)));
    let port = port.unwrap_or_else(|| Server::default().port);
    Some(LoginInUrl { host: plain(host), port, role, database })
}

/// Those of the targets that are in the files of the packages with these names, in a directory that only these packages
/// have, or are a unit of theirs. `directory` holds the lists.
pub(super) fn relying_on_packages<'n, 't>(
    names: impl Iterator<Item = &'n str>,
    later: &[&'t Target],
    directory: &Path,
) -> Result<Vec<&'t Target>> {
    let bare = |name: &str| name.split(':').next().unwrap_or(name).to_owned();
    let names: BTreeSet<String> = names.map(bare).collect();
    let (mut own, mut others) = (BTreeSet::new(), Vec::new());
    for path in entries(directory)? {
        if path.extension().is_some_and(|extension| extension == "list") {
            let name = bare(path.file_stem().and_then(OsStr::to_str).unwrap_or_default());
            if names.contains(&name) { own.extend(listed(&path)?) } else { others.push(path) }
        }
    }
    let paths = later.iter().filter_map(|target| target.path());
    let mut carrying: BTreeSet<PathBuf> =
        paths.flat_map(Path::ancestors).filter(|path| own.contains(*path)).map(Path::to_owned).collect();
    for list in others {
        if !carrying.is_empty() {
            for path in listed(&list)? {
                carrying.remove(&path);
            }
        }
    }
    let relies = |target: &&&Target| match (target, target.path()) {
        (Target::Packages(asked), _) => asked.iter().any(|name| names.contains(&bare(name))),
        (_, Some(path)) => path.ancestors().any(|above| carrying.contains(above)),
        (_, None) => own.iter().any(|path| target.runs_by(path)),
    };
    Ok(later.iter().filter(relies).copied().collect())
}

/// The paths in a list of dpkg, under the names that they have since `/lib` is a link to `/usr/lib`.
fn listed(list: &Path) -> Result<Vec<PathBuf>> {
    let bytes = read_there(list)?;
    let path = |line: &[u8]| {
        let path = Path::new(OsStr::from_bytes(line));
        match path.strip_prefix("/lib") {
            Ok(below) => Path::new("/usr/lib").join(below),
            Err(_) => path.to_owned(),
        }
    };
    Ok(bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"/")).map(path).collect())
}

/// What is in a directory; nothing where there is none.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let named = || format!("cannot read `{}`", directory.display());
    match std::fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(named),
        Ok(entries) => entries.map(|entry| Ok(entry.with_context(named)?.path())).collect(),
    }
}

/// The bytes of a file of a size that is searched; empty when there is none.
pub(super) fn text_at(path: &Path) -> Result<Vec<u8>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MOST_READ => files::read_following(path),
        Ok(_) => Ok(Vec::new()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

fn read_there(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_target_relies_on_the_package_whose_file_directory_or_unit_it_is() {
        let info = tempfile::tempdir().unwrap();
        let list = |name: &str, paths: &[&str]| {
            std::fs::write(info.path().join(name), paths.join("\n") + "\n").unwrap();
        };
        list(
            "lighttpd:amd64.list",
            &[
                "/.",
                "/etc",
                "/etc/lighttpd",
                "/etc/lighttpd/lighttpd.conf",
                "/etc/lighttpd/conf-available",
                "/lib/systemd/system/lighttpd.service",
                "/lib/systemd/system/light@.service",
                "/var/www",
            ],
        );
        list("base-files.list", &["/.", "/etc", "/var/www"]);
        list("lighttpd-doc.list", &["/.", "/usr/share/doc/lighttpd"]);
        let later = of(&[
            "line:/etc/lighttpd/lighttpd.conf#server.port",
            "file:/etc/lighttpd/conf-available/90-own.conf",
            "unit:lighttpd.service/activity",
            "unit:light@one.service/enablement",
            "file:/usr/lib/systemd/system/lighttpd.service",
            "file:/etc/motd",
            "file:/var/www/index.html",
            "unit:nginx.service/activity",
            "user:kim",
            "packages:jq",
        ]);
        let asked: Target = "packages:lighttpd".parse().unwrap();
        let later: Vec<&Target> = std::iter::once(&asked).chain(&later).collect();
        let relying = relying_on_packages(["lighttpd"].into_iter(), &later, info.path()).unwrap();
        assert_eq!(relying, later[..6]);
        assert!(relying_on_packages(["nginx"].into_iter(), &later, info.path()).unwrap().is_empty());
        assert_eq!(relying_on_packages(["jq"].into_iter(), &later, info.path()).unwrap(), later[10..]);
        assert!(relying_on_packages(["x"].into_iter(), &later, Path::new("/nowhere")).unwrap().is_empty());
    }

    #[test]
    fn a_url_tells_who_logs_in_where() {
        let login = |host: &str, role: &str, database: &str| LoginInUrl {
            host: host.to_owned(),
            port: if host == "db.example" { 5433 } else { 5432 },
            role: role.to_owned(),
            database: database.to_owned(),
        };
        for (text, expected) in [
            ("DATABASE_URL=postgres://kim:s3@localhost:5432/site\n", login("localhost", "kim", "site")),
            ("\"postgresql://k%2Fm@/site?host=/run/x\"", login("", "k/m", "site")),
            ("postgres://kim:a@[::1]:5432/site", login("[::1]", "kim", "site")),
            ("x postgres://kim@db.example:5433", login("db.example", "kim", "")),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("env");
            std::fs::write(&path, text).unwrap();
            assert_eq!(logins_of(&Target::file(&path)).unwrap(), [expected], "{text}");
        }
        assert_eq!(logins_of(&of(&["file:/nowhere/env"])[0]).unwrap(), []);
        let (own, other) =
            (Server::default(), Server { host: "db.example".into(), port: 5433, ..Server::default() });
        for (login, is_own, is_other) in [
            (login("[::1]", "", ""), true, false),
            (login("", "", ""), true, false),
            (login("db.example", "", ""), false, true),
            (LoginInUrl { port: 5433, ..login("localhost", "", "") }, false, false),
        ] {
            assert_eq!((login.is_at(&own), login.is_at(&other)), (is_own, is_other), "{login:?}");
        }
    }
}
