//! The digest of some bytes: in the journal and the names of backups it is keyed, to scripts it is the SHA-256.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::machine::state_key;

/// A digest, in text 64 lower-case hexadecimal digits: the hash of the SHA-256 under the key of the state directory, so
/// that no content can be guessed from it. Two are compared by that, whether observed or recorded.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    keyed: [u8; 32],
    /// The SHA-256 itself, unless this one was recorded.
    plain: Option<[u8; 32]>,
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_plain(Sha256::digest(bytes).into())
    }

    fn of_plain(plain: [u8; 32]) -> Self {
        let keyed = state_key::own().map_or(plain, |key| key.hash(&[&plain]));
        Self { keyed, plain: Some(plain) }
    }

    /// The digest of these named digests, one after the other.
    pub fn of_all<'a>(named: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut hash = Sha256::new();
        for (name, digest) in named {
            hash.update(name);
            hash.update([0]);
            hash.update(digest.keyed);
        }
        Self::of_plain(hash.finalize().into())
    }

    /// The SHA-256 of the bytes, as `sha256sum` prints it; `None` if only the keyed hash is known.
    pub fn sha256(&self) -> Option<String> {
        self.plain.map(hex::encode)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.keyed == other.keyed
    }
}

impl Eq for Digest {}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.keyed.cmp(&other.keyed)
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.keyed.hash(state);
    }
}

/// A digest in the making, fed piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Digester {
    hash: Sha256,
    length: u64,
}

impl Digester {
    /// Takes in the next piece.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The digest of all pieces, and how many bytes they were.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::of_plain(self.hash.finalize().into()), self.length)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.keyed))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(
            text.len() == 64,
            "invalid digest `{text}`: expected 64 hexadecimal digits, found {}",
            text.len()
        );
        let bytes = hex::decode(text).with_context(|| format!("invalid digest `{text}`"))?;
        let keyed = bytes.try_into().map_err(|_| anyhow::anyhow!("invalid digest `{text}`"))?;
        Ok(Self { keyed, plain: None })
    }
}

impl TryFrom<String> for Digest {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn is_written_and_read_as_hexadecimal_digits() {
        assert_eq!(Digest::of(b"abc").to_string(), OF_ABC);
        assert_eq!(Digest::of(b"abc").sha256().as_deref(), Some(OF_ABC));
        assert_eq!(OF_ABC.parse::<Digest>().unwrap().sha256(), None);
        assert_eq!(OF_ABC.parse::<Digest>().unwrap(), Digest::of(b"abc"));
        assert!("ba78".parse::<Digest>().is_err());
        assert!("zz".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn of_pieces_equals_of_the_whole() {
        let mut digester = Digester::default();
        digester.update(b"a");
        digester.update(b"bc");
        assert_eq!(digester.finish(), (Digest::of(b"abc"), 3));
    }
}
