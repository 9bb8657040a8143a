//! `file::download`: a file from a web server, known by its hash.

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::{Mode, Ownership, absolute, make};
use crate::change::{DesiredFile, Found};
use crate::failure::{Failure, FailureKind, sentence};
use crate::machine::download::download;
use crate::machine::files::{Digest, FileState, PathText};
use crate::script::{Host, Raised, act, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    sha256: String,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    mode: Option<Mode>,
}

fn fetch(host: &Host, url: &str, path: &str, options: Options) -> Result<bool> {
    host.refuse_secret(url)?;
    let wanted = options.sha256.to_ascii_lowercase();
    if wanted.parse::<Digest>().is_err() {
        bail!(
            Failure::new(format!("invalid SHA-256 `{}`", options.sha256))
                .kind(FailureKind::Option)
                .hint("write 64 hexadecimal digits, as `sha256sum` prints them")
        );
    }
    let ownership = Ownership { owner: options.owner, group: options.group, mode: options.mode };
    let path = absolute(path)?;
    let attributes = |found: &Found| match &found.state {
        FileState::File { .. } => ownership.attributes(host, &path, &found.state, 0o644),
        FileState::Absent | FileState::Link { .. } => {
            ownership.attributes(host, &path, &FileState::Absent, 0o644)
        }
        other => {
            let shown = PathText::new(&*path);
            bail!(
                Failure::new(format!("`{shown}` is {}, not a file", other.kind_name()))
                    .kind(FailureKind::Directory)
            )
        }
    };
    let found = Found::at(&path)?;
    host.seen().asks_for(|| Target::file(&found.path));
    if found.state.sha256().and_then(|digest| digest.sha256()).as_ref() == Some(&wanted) {
        return make(host, &path, |found| Ok(DesiredFile::Metadata { attributes: attributes(found)? }));
    }
    attributes(&found)?;
    if host.dry_run() {
        let summary = format!("download {url} to {}", path.display());
        host.session().note_change(Target::file(&found.path), summary);
        return Ok(true);
    }
    let got = {
        let mut session = host.session();
        session.begin_acting()?;
        let (directory, processes) = (session.world.state_directory(), &session.world.processes);
        download(url, directory, processes.signals(), |why, duration| {
            session.world.reporter.note(format!(
                "{why}, retrying in {} s",
                duration.as_secs(),
                why = sentence(why)
            ));
            processes.pause(duration);
        })?
    };
    let sha256 = got.sha256.sha256().unwrap_or_default();
    if sha256 != wanted {
        bail!(
            Failure::new(format!("cannot download `{url}`: expected the SHA-256 {wanted}, found {sha256}"))
                .kind(FailureKind::Damaged)
                .hint("if the change is intended, check the file and put its new hash into the script")
        );
    }
    make(host, &path, |found| {
        let (sha256, size) = (got.sha256, got.size);
        Ok(DesiredFile::Copy { of: &got.file, sha256, size, attributes: attributes(found)? })
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Downloads `url` to `path`, if its content has the given hash. A file that already has this hash is not fetched again.
    /// Proxies and certificates come from the environment (`https_proxy`, `no_proxy`, `SSL_CERT_FILE`). If the server or
    /// the connection fails, it is tried four more times. Undo restores the file as it was.
    /// Options: `sha256` (required), `owner`, `group`, `mode`.
    ///
    /// ```rhai
    /// file::write("/srv/key", "hello\n");
    /// let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    /// assert(!file::download("https://example.org/key", "/srv/key", #{ sha256: sha256 }));
    /// ```
    #[rhai_fn(name = "download", return_raw, volatile)]
    pub(super) fn download_file(
        context: NativeCallContext,
        url: &str,
        path: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| fetch(host, url, path, options_of(options)?))
    }
}
