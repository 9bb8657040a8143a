//! A path as the journal holds it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a name that is not UTF-8 begins with in the journal. No path can contain a NUL, so that no path
/// is mistaken for an encoded one.
const ENCODED: &str = "\0hex:";

/// A path, a relative path or what a symbolic link holds.
///
/// In JSON it is a string, also as the key of a map: the path itself when it is UTF-8, otherwise
/// `"\u0000hex:"` and its bytes in hexadecimal digits.
///
/// Ordered component by component, `.` first, so that a directory comes before what is in it and all of that before
/// anything else: walks through a sorted tree rely on it. Bytes alone would put `a-b` between `a` and `a/b`, and
/// `+page` before `.`.
#[derive(Clone, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathText(PathBuf);

impl PathText {
    /// This path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for PathText {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

impl From<PathBuf> for PathText {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl From<&str> for PathText {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl PartialOrd for PathText {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathText {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Paths compare equal that differ in repeated slashes: what a link holds is compared exactly.
        self.0.cmp(&other.0).then_with(|| self.0.as_os_str().cmp(other.0.as_os_str()))
    }
}

impl PartialEq for PathText {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_os_str() == other.0.as_os_str()
    }
}

impl std::hash::Hash for PathText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_os_str().hash(state);
    }
}

impl TryFrom<String> for PathText {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        Ok(match text.strip_prefix(ENCODED) {
            Some(digits) => Self(PathBuf::from(OsStr::from_bytes(&hex::decode(digits)?))),
            None => Self(PathBuf::from(text)),
        })
    }
}

impl From<PathText> for String {
    fn from(path: PathText) -> Self {
        match path.0.into_os_string().into_string() {
            Ok(text) => text,
            Err(bytes) => format!("{ENCODED}{}", hex::encode(bytes.as_bytes())),
        }
    }
}

/// For people: control characters and what is not UTF-8 are escaped.
impl fmt::Display for PathText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(formatter, "{}", character.escape_default())?;
                } else {
                    write!(formatter, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PathText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn utf8_stays_as_it_is_and_other_bytes_come_back() {
        let plain = PathText::new("/srv/größe\n");
        let odd = PathText::new(OsStr::from_bytes(b"/srv/a\xffb"));
        assert_eq!(serde_json::to_string(&plain).unwrap(), "\"/srv/größe\\n\"");
        assert_eq!(serde_json::to_string(&odd).unwrap(), "\"\\u0000hex:2f7372762f61ff62\"");
        let map = BTreeMap::from([(plain, 1), (odd, 2)]);
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<BTreeMap<PathText, i32>>(&text).unwrap(), map);
    }

    #[test]
    fn a_directory_sorts_right_before_what_is_in_it() {
        let sorted =
            [".", "#x#", "$x", "(auth)", "(auth)/+page.svelte", "+page.svelte", "-rf", "a", "a/b", "a-b"];
        let mut paths: Vec<PathText> = sorted.iter().rev().map(|path| PathText::from(*path)).collect();
        paths.sort();
        assert_eq!(paths.iter().map(ToString::to_string).collect::<Vec<_>>(), sorted);
        assert_ne!(PathText::from("a//b"), PathText::from("a/b"));
    }

    #[test]
    fn people_see_no_control_characters() {
        let path = PathText::new(OsStr::from_bytes(b"a\x1b[31m\xffb"));
        assert_eq!(path.to_string(), "a\\u{1b}[31m\\xffb");
    }
}
