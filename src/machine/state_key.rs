//! The key of a state directory. What is recorded of a content is a hash under it: from a plain one, a reader of
//! the journal alone could guess a short secret.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};

/// The key's file within the state directory, of mode 0600.
pub const FILE: &str = "key";
/// Its name while it is written.
const INCOMING: &str = ".key";
/// The length of the key, in bytes: that of the hash.
const LENGTH: usize = 32;
/// What is hashed to recognise the key, and how many digits of that are recorded.
const RECOGNISED_BY: (&[u8], usize) = (b"kkrun", 16);

/// A process works with one state directory, and so with one key.
static OWN: OnceLock<StateKey> = OnceLock::new();

/// A key, ready to hash.
#[derive(Clone)]
pub struct StateKey {
    bytes: Zeroizing<[u8; LENGTH]>,
    ready: Hmac<Sha256>,
}

impl StateKey {
    fn of(bytes: &[u8]) -> Result<Self> {
        let bytes = Zeroizing::new(<[u8; LENGTH]>::try_from(bytes).context("it has another length")?);
        let ready = Hmac::new_from_slice(&*bytes).context("it has another length")?;
        Ok(Self { bytes, ready })
    }

    /// The key of a state directory, if it has one.
    ///
    /// # Errors
    /// With [`ExitCode::JOURNAL`] when the file there is none.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        Self::of(&bytes).map(Some).map_err(|why| {
            Failure::new(format!("the key of the journal `{}` is damaged: {why}", path.display()))
                .exit(ExitCode::JOURNAL)
                .kind(FailureKind::Journal)
                .hint("restore it from a backup of this machine; `kkrun doctor` says what else can be done")
                .into()
        })
    }

    /// The hash of these parts, one after the other.
    pub fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = self.ready.clone();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().into_bytes().into()
    }

    /// What the journal says to recognise its key.
    pub fn name(&self) -> String {
        let (text, digits) = RECOGNISED_BY;
        let mut name = hex::encode(self.hash(&[text]));
        name.truncate(digits);
        name
    }
}

/// Takes the key of this state directory for all that is hashed from now on. A directory without one gets a new one, as
/// soon as [`keep`] is called: what only reads writes nothing.
///
/// # Errors
/// As [`StateKey::read`].
pub fn take(directory: &Path) -> Result<()> {
    let key = match StateKey::read(directory)? {
        Some(key) => key,
        None => StateKey::of(&Zeroizing::new(random::bytes(LENGTH)?))?,
    };
    if OWN.get_or_init(|| key.clone()).bytes != key.bytes && StateKey::read(directory)?.is_some() {
        bail!("internal error: two state directories in one process");
    }
    Ok(())
}

/// The key that was taken. Unit tests have none: what they hash is compared within one process.
pub fn own() -> Option<&'static StateKey> {
    OWN.get()
}

/// Makes the key that was taken durable, before anything hashed under it. The caller holds the lock. Returns whether the
/// directory was synced with it.
///
/// # Errors
/// When the directory has got another one meanwhile.
pub fn keep(directory: &Path) -> Result<bool> {
    let Some(own) = own() else { return Ok(false) };
    if let Some(there) = StateKey::read(directory)? {
        return if there.bytes == own.bytes { Ok(false) } else { Err(begun_by_another(directory)) };
    }
    let (path, incoming) = (directory.join(FILE), directory.join(INCOMING));
    let written = || {
        let options =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).to_owned();
        let mut file = options.open(&incoming)?;
        file.write_all(&*own.bytes)?;
        file.sync_all()?;
        std::fs::rename(&incoming, &path)?;
        File::open(directory)?.sync_all()
    };
    written().map(|()| true).map_err(|error| {
        // The next attempt begins with a new one; killed, it is written over.
        drop(std::fs::remove_file(&incoming));
        anyhow::Error::new(error).context(
            Failure::new(format!("cannot write the key of the journal `{}`", incoming.display()))
                .kind(FailureKind::Journal)
                .hint("nothing was changed: free some space or repair the disk, then run kkrun again"),
        )
    })
}

/// The failure when another run began a journal, and made its key, since this one took its own.
pub fn begun_by_another(directory: &Path) -> anyhow::Error {
    let message = format!("another run has begun the journal in `{}` meanwhile", directory.display());
    Failure::new(message).exit(ExitCode::LOCKED).hint("nothing was changed; run it again").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit_code;

    #[test]
    fn a_hash_is_the_same_under_the_same_key_alone() {
        let [one, two] = [[1; LENGTH], [2; LENGTH]].map(|bytes| StateKey::of(&bytes).unwrap());
        assert_eq!(one.hash(&[b"a", b"b"]), one.hash(&[b"ab"]));
        assert_ne!(one.hash(&[b"ab"]), two.hash(&[b"ab"]));
        assert_ne!(one.name(), two.name());
        assert_eq!(one.name().len(), 16);
    }

    #[test]
    fn a_file_of_another_length_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        assert!(StateKey::read(directory.path()).unwrap().is_none());
        std::fs::write(directory.path().join(FILE), "short").unwrap();
        let Err(error) = StateKey::read(directory.path()) else { panic!("taken for a key") };
        assert_eq!(exit_code(&error), ExitCode::JOURNAL);
    }
}
